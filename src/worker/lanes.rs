//! Which shared connection a session uses.
//!
//! A *lane* is one shared connection for one database and protocol. Lane 0 of a key opens with the
//! first command; further ones, up to `upstream.connections`, open in the background once more than
//! one session is there, so a server that allows fewer connections harms nobody. Each lane belongs to
//! one worker. A session stays on its lane; it moves only while nothing of its own is in flight.

use std::cell::Cell;
use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::Worker;
use super::client::Client;
use super::remote::RemoteLane;
use super::target::Target;
use crate::upstream::conn::{Conn, Role};
use crate::upstream::pipe::Terms;
use crate::upstream::status::{State, Status};
use crate::upstream::{IdentityId, LaneKey};

/// The name of a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LaneId {
    /// Database, protocol and identity.
    pub key: LaneKey,
    /// Which of the key's lanes.
    pub index: usize,
}

/// A shared connection as the sessions of one worker see it.
#[derive(Clone, Debug)]
pub enum Lane {
    /// This worker owns it.
    Local(Rc<LocalLane>),
    /// Another worker owns it.
    Remote(Rc<RemoteLane>),
}

/// A lane of this worker.
#[derive(Debug)]
pub struct LocalLane {
    id: LaneId,
    /// The connection.
    pub conn: Rc<Conn<Target>>,
    status: Arc<Status>,
    sessions: Cell<usize>,
}

/// All lanes of the process, by name.
#[derive(Debug, Default)]
pub struct Directory {
    lanes: Mutex<HashMap<LaneId, Arc<Status>>>,
    epoch: Arc<AtomicU64>,
}

impl Directory {
    /// The status of a lane.
    fn status(&self, id: LaneId) -> Arc<Status> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        lanes
            .entry(id)
            .or_insert_with(|| Arc::new(Status::new(self.epoch.clone())))
            .clone()
    }

    /// Nobody will look for this lane again.
    pub fn forget(&self, id: LaneId) {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.remove(&id);
    }

    /// Changes whenever a lane opens or closes.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }
}

impl Lane {
    /// Database and protocol.
    pub fn key(&self) -> LaneKey {
        self.id().key
    }

    /// Its name.
    pub fn id(&self) -> LaneId {
        match self {
            Self::Local(lane) => lane.id,
            Self::Remote(lane) => lane.id(),
        }
    }

    /// Where its connection stands.
    pub fn status(&self) -> &Arc<Status> {
        match self {
            Self::Local(lane) => &lane.status,
            Self::Remote(lane) => &lane.status,
        }
    }

    /// Enters whole commands of a client.
    pub fn enqueue(&self, bytes: &[u8], count: u32, terms: Terms, client: &Rc<Client>) {
        match self {
            Self::Local(lane) => {
                let now = client.last_active.get();
                lane.conn
                    .enqueue(bytes, count, terms, Target::Client(client.clone()), now);
            }
            Self::Remote(lane) => lane.enqueue(bytes, count, terms, client),
        }
    }

    /// Starts to open the connection.
    pub fn open(&self, worker: &Worker) {
        match self {
            Self::Local(lane) => lane.conn.open(),
            Self::Remote(lane) => lane.open(worker),
        }
    }

    /// Request bytes that wait for the connection.
    pub fn backlog(&self) -> usize {
        match self {
            Self::Local(lane) => lane.conn.backlog(),
            Self::Remote(lane) => lane.backlog(),
        }
    }

    /// The client is woken when the connection takes more.
    pub fn wait_for_room(&self, target: Target) {
        match (self, target) {
            (Self::Local(lane), target) => lane.conn.wait_for_room(target),
            (Self::Remote(lane), Target::Client(client)) => lane.wait_for_room(client),
            (Self::Remote(_), Target::Remote(_)) => {}
        }
    }

    /// No connection and nobody who waits for a reply.
    pub fn is_quiet(&self) -> bool {
        match self {
            Self::Local(lane) => lane.conn.state() == State::Idle && lane.conn.is_clean(),
            Self::Remote(lane) => lane.is_quiet(),
        }
    }

    /// Its connection leads to where nobody is to go any more.
    fn is_left(&self) -> bool {
        match self {
            Self::Local(lane) => lane.conn.is_outdated(),
            Self::Remote(_) => false,
        }
    }

    fn sessions(&self) -> &Cell<usize> {
        match self {
            Self::Local(lane) => &lane.sessions,
            Self::Remote(lane) => &lane.sessions,
        }
    }

    fn attach(self) -> Self {
        self.sessions().set(self.sessions().get() + 1);
        self
    }

    /// A session leaves.
    pub fn detach(&self) {
        self.sessions().set(self.sessions().get().saturating_sub(1));
    }
}

/// The lane a session should be on; `current` is where it is, if anywhere.
pub fn choose(worker: &Rc<Worker>, key: LaneKey, current: Option<Lane>) -> Lane {
    if let Some(current) = &current {
        current.detach();
    }
    let config = &worker.link.dialer.config();
    let most = config.connections.min(config.max_connections);
    let lanes: Vec<Lane> = (0..most)
        .map(|index| find(worker, LaneId { key, index }))
        .collect();
    let is_open = |lane: &&Lane| lane.status().state() == State::Open && !lane.is_left();
    let Some(best) = lanes.iter().filter(is_open).min_by_key(|lane| rank(lane)) else {
        let other = lanes.iter().find(|lane| !lane.is_left());
        return other.unwrap_or(&lanes[0]).clone().attach();
    };
    // Of a client's own name, nothing is opened in advance for the clients of other names.
    let sharers = match key.identity {
        IdentityId::OWN => worker.clients_now(),
        _ => {
            1 + lanes
                .iter()
                .map(|lane| lane.sessions().get())
                .sum::<usize>()
        }
    };
    if sharers > 1
        && worker.link.dialer.budget.free() > reserved(worker)
        && let Some(closed) = lanes
            .iter()
            .find(|lane| lane.status().state() == State::Idle)
        && !worker.link.dialer.gate.is_pausing()
    {
        closed.open(worker);
    }
    match current {
        // Moving for the sake of one session more or less would only cost.
        Some(current) if is_open(&&current) && current.key() == key && near(&current, best) => {
            current
        }
        _ => best.clone(),
    }
    .attach()
}

/// Permits that are not for connections opened in advance: L1 will want one, and asks nobody to close.
fn reserved(worker: &Worker) -> usize {
    let l1 = worker.link.l1.as_ref();
    usize::from(l1.is_some_and(|l1| l1.wants_connection()))
}

fn near(a: &Lane, b: &Lane) -> bool {
    let ((a_remote, a_sessions), (b_remote, b_sessions)) = (rank(a), rank(b));
    a_remote == b_remote && a_sessions <= b_sessions + 1
}

/// Own lanes before those of others, then the one with fewest sessions.
fn rank(lane: &Lane) -> (bool, usize) {
    (matches!(lane, Lane::Remote(_)), lane.sessions().get())
}

/// The lane of this name as this worker sees it.
pub fn find(worker: &Rc<Worker>, id: LaneId) -> Lane {
    if let Some(lane) = worker.lanes.borrow().get(&id) {
        return lane.clone();
    }
    let status = worker.directory.status(id);
    let owner = owner_of(id, worker.peers());
    let lane = if owner == worker.index {
        let conn = Conn::new(id.key, Role::Shared, worker.link.clone(), status.clone());
        worker.account.watch(&conn);
        Lane::Local(Rc::new(LocalLane {
            id,
            conn,
            status,
            sessions: Cell::new(0),
        }))
    } else {
        Lane::Remote(RemoteLane::new(id, owner, status))
    };
    worker.lanes.borrow_mut().insert(id, lane.clone());
    worker.note_lane(id.key);
    lane
}

/// Spreads the lanes of all keys over the workers, the same way on each of them.
fn owner_of(id: LaneId, workers: usize) -> usize {
    let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(id.key);
    (hash as usize).wrapping_add(id.index) % workers
}
