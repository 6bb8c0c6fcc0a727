//! One worker: a thread with its clients and its share of the upstream connections.
//!
//! Everything here belongs to one thread; workers speak to each other by [`Mail`] alone.

mod auth;
pub mod client;
mod deliver;
mod info;
mod inspect;
mod lanes;
mod late;
mod leases;
mod line;
mod memory;
mod pubsub;
mod queries;
mod reads;
mod remote;
mod route;
mod steer;
mod target;
mod tracked;

use std::cell::{Cell, Ref, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use slab::Slab;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

use self::client::{Client, ClientTask};
pub use self::lanes::Directory;
use self::lanes::{Lane, LaneId};
use self::leases::Leases;
use self::memory::Account;
pub use self::memory::Budget;
use self::pubsub::PubSub;
use self::remote::{Event, GaugeHandle, Handed, Outlet};
pub use self::tracked::Gate;
use self::tracked::TrackedConns;
use crate::commands::CommandTable;
use crate::control::Control;
use crate::downstream::stream::Stream;
use crate::hub::{self, Census};
use crate::l1::entry::Scope;
use crate::l1::fetch::{Answer, Order};
use crate::l1::reader::Reader;
use crate::proxy::Dealt;
use crate::resp::Protocol;
use crate::session::Settings;
use crate::stats::{Counters, WorkerStats};
use crate::upstream::link::Link;
use crate::upstream::pipe::Tick;
use crate::upstream::{IdentityId, LaneKey, OnLostReply};

/// Clients are read into a buffer of this size, one for all clients of a worker.
const SCRATCH: usize = 64 * 1024;

/// How often silent clients are looked for, at most and at least.
const MIN_SWEEP: Duration = Duration::from_millis(50);
const MAX_SWEEP: Duration = Duration::from_secs(10);

/// How often what is no longer good is let go.
const TIDY: Duration = Duration::from_secs(10);

/// Limits that the drivers of clients look at.
#[derive(Clone, Debug)]
pub struct Limits {
    /// `listen.client_output_limit`
    pub client_output: Cell<usize>,
    /// `upstream.on_lost_reply`
    pub on_lost_reply: Cell<OnLostReply>,
    /// The unix socket's path, for CLIENT LIST.
    pub unix_path: String,
}

/// Something to do on another worker's thread.
pub type Visit = Box<dyn FnOnce(&Rc<Worker>) + Send>;

/// What workers send each other.
pub enum Mail {
    /// Commands for a lane that the receiver owns.
    Commands {
        /// Which lane.
        lane: LaneId,
        /// Who sends them and gets the replies.
        from: usize,
        /// All commands, one behind the other.
        bytes: Vec<u8>,
        /// How they belong together.
        runs: Vec<Handed>,
        /// How slow the readers are.
        gauge: GaugeHandle,
    },
    /// Replies to commands that the receiver handed over.
    Replies {
        /// Which lane.
        lane: LaneId,
        /// All reply bytes, one behind the other.
        bytes: Vec<u8>,
        /// Whose they are, and failures.
        events: Vec<Event>,
    },
    /// Open a lane that the receiver owns.
    Open(LaneId),
    /// A request to a hub that the receiver owns.
    HubRequest {
        /// Whose hub.
        identity: IdentityId,
        /// Who asks.
        from: usize,
        /// What.
        request: hub::Request,
    },
    /// News of a hub for the receiver's clients.
    HubLetters {
        /// Whose hub.
        identity: IdentityId,
        /// What the messages lie in.
        parcel: Arc<pubsub::Parcel>,
        /// The news, in order.
        letters: Vec<hub::Letter>,
    },
    /// Open a tracked connection that the receiver owns.
    Track(Scope),
    /// Orders for tracked connections that the receiver owns.
    Fetch {
        /// Who sends them and gets the answers.
        from: usize,
        /// All orders, in turn.
        orders: Vec<Order>,
    },
    /// Answers to orders of the receiver, by ticket.
    Fetched(Vec<(u64, Answer)>),
    /// Call this on the receiver's thread.
    Visit(Visit),
}

impl fmt::Debug for Mail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Commands { .. } => "Commands",
            Self::Replies { .. } => "Replies",
            Self::Open(_) => "Open",
            Self::HubRequest { .. } => "HubRequest",
            Self::HubLetters { .. } => "HubLetters",
            Self::Track(_) => "Track",
            Self::Fetch { .. } => "Fetch",
            Self::Fetched(_) => "Fetched",
            Self::Visit(_) => "Visit",
        })
    }
}

/// What a worker is made of.
#[derive(Debug)]
pub struct Parts {
    /// Its number, from zero.
    pub index: usize,
    /// Settings of sessions.
    pub settings: Arc<Settings>,
    /// Limits of clients.
    pub limits: Limits,
    /// What all workers together may hold in memory.
    pub budget: Budget,
    /// The way to the upstream.
    pub link: Link,
    /// All lanes of the process.
    pub directory: Arc<Directory>,
    /// Who is subscribed to what in the process.
    pub census: Arc<Census>,
    /// Where to send mail, by worker.
    pub mailboxes: Vec<UnboundedSender<Mail>>,
    /// Counters of all workers.
    pub all_stats: Vec<Arc<WorkerStats>>,
    /// Clients dealt to each worker and not gone yet.
    pub loads: Arc<[AtomicUsize]>,
    /// What operators steer.
    pub control: Arc<Control>,
}

/// One worker.
#[derive(Debug)]
pub struct Worker {
    pub(crate) index: usize,
    settings: RefCell<Arc<Settings>>,
    limits: Limits,
    account: Account,
    link: Rc<Link>,
    stats: Arc<WorkerStats>,
    directory: Arc<Directory>,
    census: Arc<Census>,
    mailboxes: Vec<UnboundedSender<Mail>>,
    all_stats: Vec<Arc<WorkerStats>>,
    loads: Arc<[AtomicUsize]>,
    control: Arc<Control>,
    /// Clients that are silent for longer are closed; zero closes none.
    silence: Cell<Duration>,
    /// How long a request may take to come whole; `None` before it is known.
    patience: Cell<Option<Duration>>,
    table: RefCell<Arc<CommandTable>>,
    table_version: Cell<u64>,
    clients: RefCell<Slab<Rc<Client>>>,
    lanes: RefCell<HashMap<LaneId, Lane>>,
    outlets: RefCell<HashMap<(LaneId, usize), Rc<Outlet>>>,
    leases: Leases,
    pubsub: PubSub,
    tracked: TrackedConns,
    /// L1 as the clients of this worker see it.
    reader: Option<Reader>,
    scratch: RefCell<Box<[u8]>>,
    /// When a foreign protocol was last told of.
    hinted: Cell<Option<Tick>>,
    /// Somebody looks for connections that nobody can use any more.
    sweeping: Cell<bool>,
}

impl Worker {
    /// A worker without clients.
    pub fn new(parts: Parts) -> Rc<Self> {
        Rc::new(Self {
            index: parts.index,
            settings: RefCell::new(parts.settings),
            limits: parts.limits,
            account: Account::new(parts.budget),
            stats: parts.link.stats.clone(),
            reader: parts
                .link
                .l1
                .clone()
                .map(|l1| Reader::new(l1, parts.link.stats.clone())),
            table: RefCell::new(parts.link.dialer.table()),
            link: Rc::new(parts.link),
            directory: parts.directory,
            census: parts.census,
            mailboxes: parts.mailboxes,
            all_stats: parts.all_stats,
            loads: parts.loads,
            control: parts.control,
            silence: Cell::default(),
            patience: Cell::default(),
            table_version: Cell::new(0),
            clients: RefCell::default(),
            lanes: RefCell::default(),
            outlets: RefCell::default(),
            leases: Leases::default(),
            pubsub: PubSub::default(),
            tracked: TrackedConns::default(),
            scratch: RefCell::new(vec![0; SCRATCH].into()),
            hinted: Cell::new(None),
            sweeping: Cell::new(false),
        })
    }

    /// Takes a client in and starts its task.
    pub fn admit(self: &Rc<Self>, stream: Stream, id: u64, dealt: Dealt) {
        let client = Client::new(self.clone(), stream, id);
        dealt.pass_on();
        self.stats.counters.clients.add(1);
        self.stats.counters.clients_accepted.add(1);
        let slot = self.clients.borrow_mut().insert(client.clone());
        client.slot.set(u32::try_from(slot).unwrap_or(u32::MAX));
        tokio::task::spawn_local(ClientTask(client));
    }

    /// Forgets a client that is gone.
    fn remove(&self, client: &Client) {
        let slot = client.slot.replace(u32::MAX) as usize;
        let gone = self.clients.borrow_mut().try_remove(slot);
        drop(gone);
        self.stats.counters.clients.sub(1);
        self.loads[self.index].fetch_sub(1, Ordering::Relaxed);
    }

    /// Clients of this worker.
    pub fn clients_now(&self) -> usize {
        self.clients.borrow().len()
    }

    /// All clients of this worker.
    pub fn all_clients(&self) -> Vec<Rc<Client>> {
        self.clients
            .borrow()
            .iter()
            .map(|(_, client)| client.clone())
            .collect()
    }

    /// No client has anything in flight.
    pub fn is_quiet(&self) -> bool {
        self.clients
            .borrow()
            .iter()
            .all(|(_, client)| client.is_quiet())
    }

    /// Counters of this worker.
    pub fn counters(&self) -> &Counters {
        &self.stats.counters
    }

    /// Lets all clients go once what they are owed has left.
    pub fn close_all_gently(&self) {
        for client in self.all_clients() {
            client.kill(true);
        }
    }

    /// Opens the connection that most clients would use.
    pub fn open_default(self: &Rc<Self>) {
        lanes::find(
            self,
            LaneId {
                key: self.default_key(),
                index: 0,
            },
        )
        .open(self);
    }

    /// Asks the server for INFO on a connection of this worker that is up; false if there is none.
    pub fn inquire(&self) -> bool {
        let lanes = self.lanes.borrow();
        let mut own = lanes.values().filter_map(|lane| match lane {
            Lane::Local(lane) if lane.conn.key().identity == IdentityId::OWN => Some(&lane.conn),
            _ => None,
        });
        own.any(|conn| conn.inquire())
    }

    /// The command table in force.
    fn table(&self) -> Ref<'_, Arc<CommandTable>> {
        let version = self.link.dialer.facts.version();
        if version != self.table_version.get()
            && let Some(facts) = self.link.dialer.facts.get()
        {
            *self.table.borrow_mut() = facts.table.clone();
            self.table_version.set(version);
        }
        self.table.borrow()
    }

    /// The table in force is not the one that comes with the facts known now.
    fn table_is_old(&self) -> bool {
        self.link.dialer.facts.version() != self.table_version.get()
    }

    /// Closes clients that have been silent for too long, until that is no longer wanted.
    async fn close_silent(self: Rc<Self>) {
        loop {
            let limit = self.silence.get();
            if limit.is_zero() {
                return;
            }
            tokio::time::sleep((limit / 4).clamp(MIN_SWEEP, MAX_SWEEP)).await;
            let now = self.link.now();
            for client in self.all_clients() {
                let silent = Duration::from_micros(now.saturating_sub(client.last_active.get()));
                if silent >= limit && client.is_quiet() && !client.is_subscriber() {
                    client.kill(true);
                }
            }
        }
    }

    /// Clients may be answered from L1.
    pub fn has_l1(&self) -> bool {
        self.reader.is_some()
    }

    /// Lets go what nobody reads any more of L1, until the process ends.
    pub async fn tidy_l1(self: Rc<Self>) {
        loop {
            tokio::time::sleep(TIDY).await;
            if let Some(reader) = &self.reader {
                reader.tidy();
            }
        }
    }

    /// Where a client is before it says SELECT or HELLO.
    fn default_key(&self) -> LaneKey {
        LaneKey {
            db: self.settings.borrow().database,
            protocol: Protocol::Resp2,
            identity: IdentityId::OWN,
        }
    }

    /// The number of workers.
    fn peers(&self) -> usize {
        self.mailboxes.len()
    }

    /// Sends mail to a worker; one that is gone needs none.
    fn send(&self, to: usize, mail: Mail) {
        let _ = self.mailboxes[to].send(mail);
    }

    /// Reads the worker's mail until all senders are gone.
    pub async fn read_mail(self: Rc<Self>, mut mailbox: UnboundedReceiver<Mail>) {
        let mut letters = Vec::new();
        while mailbox.recv_many(&mut letters, 64).await > 0 {
            for mail in letters.drain(..) {
                self.handle_mail(mail);
            }
        }
    }

    fn handle_mail(self: &Rc<Self>, mail: Mail) {
        match mail {
            Mail::Visit(visit) => visit(self),
            Mail::HubRequest {
                identity,
                from,
                request,
            } => self.handle_hub_request(identity, from, request),
            Mail::HubLetters {
                identity,
                parcel,
                letters,
            } => self.handle_parcel(identity, parcel, &letters),
            Mail::Track(scope) => self.track(scope),
            Mail::Fetch { from, orders } => self.handle_orders(from, orders),
            Mail::Fetched(answers) => self.handle_fetched(answers),
            Mail::Open(id) => lanes::find(self, id).open(self),
            Mail::Replies {
                lane,
                bytes,
                events,
            } => {
                if let Lane::Remote(lane) = lanes::find(self, lane) {
                    lane.handle_replies(&bytes, &events);
                }
            }
            Mail::Commands {
                lane: id,
                from,
                bytes,
                runs,
                gauge,
            } => {
                let Lane::Local(lane) = lanes::find(self, id) else {
                    return;
                };
                let outlet = self
                    .outlets
                    .borrow_mut()
                    .entry((id, from))
                    .or_insert_with(|| Outlet::new(self.clone(), id, from, gauge))
                    .clone();
                let now = self.link.now();
                for (range, count, terms, target) in outlet.runs(runs) {
                    lane.conn.enqueue(&bytes[range], count, terms, target, now);
                }
            }
        }
    }
}
