//! Leased connections: each serves one session at a time, then goes to whoever waits for one.
//!
//! Order is kept by the [`Line`] of a key. Beyond it, the budget lets those who wait for a permit pass
//! in the order of their coming. The two meet when a lease is given back: it stays with its line unless
//! somebody elsewhere has waited longer, and for long enough to be worth another handshake.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Sleep, sleep};

use super::Worker;
use super::client::Client;
use super::line::{Line, Offered};
use super::target::Target;
use crate::upstream::LaneKey;
use crate::upstream::conn::{Conn, Role};
use crate::upstream::pipe::Tick;
use crate::upstream::reply_to::Failure;
use crate::upstream::status::{State, Status};

/// Who waits elsewhere goes before an own client only after this part of `lease_timeout`.
const FOREIGN_PATIENCE: u32 = 4;

/// A free permit must have the time to be found.
const MIN_WAIT: Duration = Duration::from_millis(20);

/// A leased connection of this worker.
pub type Lease = Rc<Conn<Target>>;

/// The leased connections of one worker and those who wait for them.
#[derive(Debug, Default)]
pub struct Leases {
    lines: RefCell<HashMap<LaneKey, Line<Waiter, Conn<Target>>>>,
    next: Cell<u64>,
}

/// How a wait has ended; empty while it lasts.
type Outcome = Rc<RefCell<Option<Result<Lease, Failure>>>>;

#[derive(Debug)]
struct Waiter {
    client: Rc<Client>,
    since: Tick,
    outcome: Outcome,
}

/// One client's wait. It must be ended with [`Leases::withdraw`] if it is not waited out.
#[derive(Debug)]
pub struct Wait {
    key: LaneKey,
    number: u64,
    since: Tick,
    outcome: Outcome,
    limit: Pin<Box<Sleep>>,
    /// `lease_timeout` is over, but a connection is being opened.
    overdue: bool,
}

impl Wait {
    /// What it is a wait for.
    pub fn key(&self) -> LaneKey {
        self.key
    }
}

impl Leases {
    /// An idle connection, or a place in the line.
    pub fn ask(&self, client: &Rc<Client>, key: LaneKey) -> Result<Lease, Wait> {
        let worker = &client.worker;
        let stats = &worker.stats;
        let idle = || self.lines.borrow_mut().get_mut(&key)?.take_idle();
        while let Some(conn) = idle() {
            if conn.is_doubtful() || conn.is_outdated() {
                conn.close(); // to a server that may be dead, or not the one to ask
                continue;
            }
            if conn.state() == State::Open && !conn.is_closing() {
                stats.lease_wait.record(Duration::ZERO, 1);
                conn.set_holder(Some(Target::Client(client.clone())));
                return Ok(conn);
            }
        }
        let number = self.next.get();
        self.next.set(number + 1);
        let wait = Wait {
            key,
            number,
            since: worker.link.now(),
            outcome: Rc::default(),
            limit: Box::pin(sleep(
                worker.link.dialer.config().lease_timeout.max(MIN_WAIT),
            )),
            overdue: false,
        };
        stats.counters.leases_awaited.add(1);
        self.join(client, &wait);
        Err(wait)
    }

    fn join(&self, client: &Rc<Client>, wait: &Wait) {
        let worker = &client.worker;
        let waiter = Waiter {
            client: client.clone(),
            since: wait.since,
            outcome: wait.outcome.clone(),
        };
        let mut lines = self.lines.borrow_mut();
        let line = lines.entry(wait.key).or_default();
        if line.join(wait.number, waiter) {
            let status = Arc::new(Status::default());
            let conn = Conn::new(wait.key, Role::Leased, worker.link.clone(), status);
            worker.account.watch(&conn);
            line.begin(conn.clone());
            tokio::task::spawn_local(attend(worker.clone(), conn));
        }
    }

    /// The connection, or why there is none; the client is woken when there is something to tell.
    pub fn poll(&self, client: &Rc<Client>, wait: &mut Wait) -> Poll<Result<Lease, Failure>> {
        let outcome = wait.outcome.take();
        let result = match outcome {
            Some(Ok(conn)) if conn.state() != State::Open => {
                // It went before it was picked up: back to the old place.
                conn.set_holder(None);
                self.join(client, wait);
                self.poll_limit(client, wait)
            }
            Some(result) => Some(result),
            None => self.poll_limit(client, wait),
        };
        match result {
            None => Poll::Pending,
            Some(result) => {
                note_end(&client.worker, wait);
                Poll::Ready(result)
            }
        }
    }

    /// The failure of a wait that has lasted too long.
    fn poll_limit(&self, client: &Rc<Client>, wait: &mut Wait) -> Option<Result<Lease, Failure>> {
        let waker = client.waker();
        let mut cx = Context::from_waker(&waker);
        let dialer = &client.worker.link.dialer;
        while wait.limit.as_mut().poll(&mut cx).is_ready() {
            // While the process stood still, nobody could have been served.
            let limit = dialer.config().lease_timeout.max(MIN_WAIT);
            let waited = client.worker.link.now().saturating_sub(wait.since);
            let left = limit.saturating_sub(Duration::from_micros(waited));
            if !wait.overdue && left > MIN_WAIT {
                wait.limit
                    .as_mut()
                    .reset(tokio::time::Instant::now() + left);
                continue;
            }
            if !wait.overdue && self.is_served(wait) {
                wait.overdue = true;
                let more = tokio::time::Instant::now() + dialer.config().connect_timeout;
                wait.limit.as_mut().reset(more);
                continue;
            }
            self.leave(wait);
            return Some(Err(if wait.overdue {
                Failure::Unreachable("no connection yet".to_owned())
            } else if let Some(what) = dialer.gate.limit() {
                Failure::Full(what)
            } else {
                Failure::Busy(dialer.budget.max())
            }));
        }
        None
    }

    fn is_served(&self, wait: &Wait) -> bool {
        let lines = self.lines.borrow();
        lines
            .get(&wait.key)
            .is_some_and(|line| line.is_served(wait.number, Conn::is_queueing))
    }

    /// The client does not want a connection any more.
    pub fn withdraw(&self, worker: &Worker, wait: &Wait) {
        self.leave(wait);
        note_end(worker, wait);
        if let Some(Ok(conn)) = wait.outcome.take() {
            self.give_back(worker, conn);
        }
    }

    fn leave(&self, wait: &Wait) {
        let mut lines = self.lines.borrow_mut();
        let line = lines.get_mut(&wait.key);
        let gone = line.and_then(|line| line.leave(wait.number, Conn::is_queueing));
        if let Some((_, Some(spare))) = &gone {
            spare.close();
        }
    }

    /// Closes the idle connections of all keys but those that `keep` names.
    pub fn retain(&self, keep: impl Fn(LaneKey) -> bool) {
        let lines = self.lines.borrow();
        let unwanted = lines.iter().filter(|(key, _)| !keep(**key));
        unwanted
            .flat_map(|(_, line)| line.idle())
            .for_each(|conn| conn.close());
    }

    /// Takes back a connection that owes nothing; one that is in doubt is closed.
    pub fn give_back(&self, worker: &Worker, conn: Lease) {
        conn.set_holder(None);
        if conn.state() != State::Open || !conn.is_clean() {
            return conn.close();
        }
        let mut lines = self.lines.borrow_mut();
        let line = lines.entry(conn.key()).or_default();
        if is_wanted_elsewhere(worker, line.first()) {
            line.forget(&conn);
            return conn.close();
        }
        match line.offer(&conn, Conn::is_queueing) {
            Offered::Idle => {}
            Offered::Taken(waiter, spare) => {
                if let Some(spare) = spare {
                    spare.close();
                }
                conn.set_holder(Some(Target::Client(waiter.client.clone())));
                waiter.tell(Ok(conn));
            }
        }
    }

    /// A connection could not be opened.
    fn fail(&self, conn: &Lease, failure: Failure) {
        let mut lines = self.lines.borrow_mut();
        let waiter = lines.get_mut(&conn.key()).and_then(|line| line.fail(conn));
        if let Some(waiter) = waiter {
            waiter.tell(Err(failure));
        }
    }

    /// A connection is gone.
    fn forget(&self, conn: &Lease) {
        let mut lines = self.lines.borrow_mut();
        if let Some(line) = lines.get_mut(&conn.key()) {
            line.forget(conn);
            if line.is_empty() {
                lines.remove(&conn.key());
            }
        }
    }
}

impl Waiter {
    fn tell(&self, outcome: Result<Lease, Failure>) {
        *self.outcome.borrow_mut() = Some(outcome);
        self.client.wake();
    }
}

fn note_end(worker: &Worker, wait: &Wait) {
    let waited = worker.link.now().saturating_sub(wait.since);
    let waited = Duration::from_micros(waited);
    worker.stats.lease_wait.record(waited, 1);
    worker.stats.counters.leases_awaited.sub(1);
}

/// Whether a free lease must be closed because somebody else of the process waits for a permit.
fn is_wanted_elsewhere(worker: &Worker, first: Option<&Waiter>) -> bool {
    let dialer = &worker.link.dialer;
    let Some(longest) = dialer.budget.longest_wait() else {
        return false;
    };
    let passes = first.is_none_or(|first| {
        let own = Duration::from_micros(worker.link.now().saturating_sub(first.since));
        longest > own && longest >= dialer.config().lease_timeout / FOREIGN_PATIENCE
    });
    passes && dialer.budget.take_wish(true)
}

/// Opens a connection for whoever waits longest, and sees it out.
async fn attend(worker: Rc<Worker>, conn: Lease) {
    let leases = &worker.leases;
    match poll_fn(|cx| conn.poll_open(cx.waker())).await {
        Ok(()) => {
            leases.give_back(&worker, conn.clone());
            poll_fn(|cx| conn.poll_ended(cx.waker())).await;
        }
        Err(Failure::Lost) => {
            leases.fail(&conn, Failure::Unreachable("connection lost".to_owned()));
        }
        Err(failure) => leases.fail(&conn, failure),
    }
    leases.forget(&conn);
}
