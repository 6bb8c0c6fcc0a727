//! One connection to the server, from its first command to its end.
//!
//! Commands may be entered at any time: while the connection is being opened they wait, while it is up
//! they leave with the next write, and when it is lost those that were never sent wait for its
//! successor. One task owns the socket and everything written to it; it is never cancelled in the
//! middle of a write.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Instant;

use super::LaneKey;
use super::backoff::Backoff;
use super::hold::Hold;
use super::link::Link;
use super::logins::SAME_ANSWER;
use super::outbox::Outbox;
use super::pipe::{Handling, Pipe, Run, Terms, Tick};
use super::proof::Proof;
use super::reply_to::{Failure, Owner, ReplyTo};
use super::serve::Serving;
use super::status::{State, Status};
use crate::l1::touched::Touched;
use crate::sabotage::{self, Bug};

/// Clients are not read while more than this waits to be written to their connection.
pub const BACKLOG_HIGH: usize = 4 * 1024 * 1024;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Carries commands of many sessions.
    Shared,
    /// Belongs to one session at a time.
    Leased,
}

/// What changes while a connection lives.
#[derive(Debug)]
pub(super) struct Core<W> {
    pub outbox: Outbox,
    /// What was written stays in the outbox until it is answered; on a leased connection nothing is ever
    /// sent twice.
    pub keeps_written: bool,
    /// Since when the socket takes nothing of what waits.
    pub stuck_since: Option<Tick>,
    pub pipe: Pipe<Owner<W>>,
    /// Clients that are not read until the outbox has room.
    pub waiting: Vec<W>,
    /// When a client last entered a command.
    pub last_used: Tick,
    /// When the server was last heard.
    pub last_heard: Tick,
    pub backoff: Backoff,
    /// Until when there was no permit.
    pub permitted_at: Tick,
    /// The next attempt is not made before.
    pub retry_at: Option<Instant>,
    /// When the attempt under way began.
    pub dialing: Option<Instant>,
    /// Since when attempts fail, and how.
    pub down: Option<(Tick, String)>,
    /// What HELLO said, and the reply to COMMAND as far as it has come.
    pub identity: super::facts::Identity,
    pub facts_reply: Vec<u8>,
    /// What the server calls this connection.
    pub server_id: Option<u64>,
    /// What comes is held back.
    pub hold: Hold,
    /// When it was last proved that replies go to whom they belong.
    pub proof: Proof,
}

/// One connection. `W` says whom replies are for.
#[derive(Debug)]
pub struct Conn<W> {
    pub(super) key: LaneKey,
    pub(super) role: Role,
    pub(super) link: Rc<Link>,
    pub(super) core: RefCell<Core<W>>,
    pub(super) status: Arc<Status>,
    /// Whom a leased connection belongs to now.
    pub(super) holder: RefCell<Option<W>>,
    /// It is kept for later; a lease that has just been opened is not, its waiter comes for it.
    pub(super) idle: Cell<bool>,
    /// It has a state on the server that nobody else may get.
    pub(super) tainted: Cell<bool>,
    task: RefCell<Option<Waker>>,
    signalled: Cell<bool>,
    close: Cell<bool>,
    /// Its client went while commands were in flight: nobody is told how they end.
    pub(super) abandoned: Cell<bool>,
    /// It has the right to be opened.
    pub(super) permitted: Cell<bool>,
    /// More commands than this are not in flight on a shared connection.
    pub(super) max_in_flight: usize,
    /// Where and to whom it was opened, as the dialer counts.
    pub(super) generation: Cell<u64>,
    /// How often all connections were to be opened anew before it was.
    pub(super) reopened: Cell<u64>,
    /// It is to be left for another.
    pub(super) moving: Cell<bool>,
    /// How many pauses of the process there were when it was known to be alive.
    pub(super) gaps_seen: Cell<u32>,
}

impl<W: ReplyTo> Conn<W> {
    /// A connection that is not open.
    pub fn new(key: LaneKey, role: Role, link: Rc<Link>, status: Arc<Status>) -> Rc<Self> {
        let config = &link.dialer.config();
        let seed = link.dialer.next_nonce();
        let core = Core {
            outbox: Outbox::default(),
            keeps_written: role == Role::Shared,
            stuck_since: None,
            pipe: Pipe::default(),
            waiting: Vec::new(),
            last_used: link.now(),
            last_heard: link.now(),
            backoff: Backoff::new(config.backoff_min, config.backoff_max, seed),
            permitted_at: 0,
            retry_at: None,
            dialing: None,
            down: None,
            identity: super::facts::Identity::default(),
            facts_reply: Vec::new(),
            server_id: None,
            hold: Hold::default(),
            proof: Proof::default(),
        };
        Rc::new(Self {
            key,
            role,
            link,
            core: RefCell::new(core),
            status,
            holder: RefCell::new(None),
            idle: Cell::new(role == Role::Shared),
            tainted: Cell::new(false),
            task: RefCell::new(None),
            signalled: Cell::new(false),
            close: Cell::new(false),
            abandoned: Cell::new(false),
            permitted: Cell::new(false),
            max_in_flight: match role {
                Role::Shared => config.max_in_flight,
                Role::Leased => usize::MAX,
            },
            generation: Cell::new(0),
            reopened: Cell::new(0),
            moving: Cell::new(false),
            gaps_seen: Cell::new(0),
        })
    }

    /// Database and protocol.
    pub fn key(&self) -> LaneKey {
        self.key
    }

    /// What it is for.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Where it stands.
    pub fn state(&self) -> State {
        self.status.state()
    }

    /// Bytes that wait to be written.
    pub fn backlog(&self) -> usize {
        self.core.borrow().outbox.unwritten().len()
    }

    /// Bytes that are held: not written, or not answered yet.
    pub fn buffered(&self) -> usize {
        self.core.borrow().outbox.unanswered().len()
    }

    /// [`Conn::taint`] was called.
    pub fn is_tainted(&self) -> bool {
        self.tainted.get()
    }

    /// Nothing is owed, or it is gone.
    pub fn is_quiet(&self) -> bool {
        self.core.borrow().pipe.is_empty()
    }

    /// Nothing waits and nothing is owed, and the server keeps nothing of its last session.
    pub fn is_clean(&self) -> bool {
        let core = self.core.borrow();
        !self.tainted.get()
            && !self.is_outdated()
            && core.pipe.is_empty()
            && core.outbox.unanswered().is_empty()
    }

    /// The connection is closed after this session: what it leaves on the server is not for others.
    pub fn taint(&self) {
        self.tainted.set(true);
    }

    /// What the server calls this connection, as its `CLIENT ID` would tell; `None` if it is not up or
    /// the server does not say.
    pub fn server_id(&self) -> Option<u64> {
        self.core.borrow().server_id
    }

    /// MONITOR is on its way: what comes behind its reply are lines.
    pub fn set_monitor(&self) {
        self.core.borrow_mut().pipe.set_monitor();
    }

    /// `owner` wants to be told when the backlog has room again.
    pub fn wait_for_room(&self, owner: W) {
        self.core.borrow_mut().waiting.push(owner);
    }

    /// Enters `count` whole commands.
    pub fn enqueue(self: &Rc<Self>, bytes: &[u8], count: u32, terms: Terms, owner: W, now: Tick) {
        if sabotage::is(Bug::SplitTransaction)
            && self.enqueue_split(bytes, count, &terms, &owner, now)
        {
            return;
        }
        self.enter(bytes, count, terms, owner, now);
    }

    pub(super) fn enter(
        self: &Rc<Self>,
        bytes: &[u8],
        count: u32,
        terms: Terms,
        owner: W,
        now: Tick,
    ) {
        let (hidden, is_unit) = (terms.hidden, terms.hidden > 0);
        self.look_back(now);
        {
            let mut core = self.core.borrow_mut();
            core.outbox.push(bytes);
            core.last_used = now;
            core.proof.note_run();
            core.pipe.push(Run {
                owner: Some(Owner::Client(owner)),
                terms,
                is_unit,
                owed: count,
                // What is written on a leased connection is forgotten: it is never sent twice.
                bytes: if self.role == Role::Shared {
                    bytes.len()
                } else {
                    0
                },
                since: now,
                retried: false,
            });
            core.spoil_order(self.role);
        }
        let visible = u64::from(count - hidden);
        self.link.stats.counters.in_flight.add(visible);
        self.wake_or_start();
    }

    /// Announces one large command whose bytes follow with [`Conn::stream`]. Its time does not run
    /// before the last of them.
    pub fn begin_stream(self: &Rc<Self>, owner: W, touched: Touched) {
        self.look_back(self.link.now());
        let run = Run {
            owner: Some(Owner::Client(owner)),
            terms: Terms {
                touched,
                ..Handling::Pass.into()
            },
            is_unit: false,
            owed: 1,
            bytes: 0,
            since: Tick::MAX,
            retried: true,
        };
        self.core.borrow_mut().pipe.push(run);
        self.link.stats.counters.in_flight.add(1);
    }

    /// Passes on a part of a large command.
    pub fn stream(self: &Rc<Self>, part: &[u8], end: Option<Handling>, now: Tick) {
        {
            let mut core = self.core.borrow_mut();
            core.outbox.push(part);
            core.last_used = now;
            if let (Some(handling), Some(run)) = (end, core.pipe.iter_mut().last()) {
                run.terms.handling = handling;
                run.since = now;
            }
        }
        self.wake_or_start();
    }

    /// Opens the connection if it is not open. `Ready` once it is, or with the reason why it is not.
    pub fn poll_open(self: &Rc<Self>, waker: &Waker) -> Poll<Result<(), Failure>> {
        self.status.poll_open(waker, || self.start())
    }

    /// Starts to open the connection in the background, unless the server has just refused it.
    pub fn open(self: &Rc<Self>) {
        if self.state() == State::Idle && self.status.refusal().is_none() {
            self.start();
        }
    }

    /// Closes the connection without waiting for anything.
    pub fn close(&self) {
        self.close.set(true);
        self.wake();
    }

    /// The connection should be closed now.
    pub fn is_closing(&self) -> bool {
        self.close.get()
    }

    /// Wakes the task, once until it runs.
    pub fn wake(&self) {
        if !self.signalled.replace(true)
            && let Some(task) = &*self.task.borrow()
        {
            task.wake_by_ref();
        }
    }

    /// The task runs and has seen all that was entered.
    pub(super) fn register(&self, waker: &Waker) {
        self.signalled.set(false);
        let mut task = self.task.borrow_mut();
        if !task.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *task = Some(waker.clone());
        }
    }

    pub(super) fn wake_or_start(self: &Rc<Self>) {
        match self.state() {
            // What its session relied on is gone with the connection.
            State::Idle if self.role == Role::Leased => self.fail_all(&Failure::Lost),
            State::Idle => self.start(),
            State::Opening | State::Open => self.wake(),
        }
    }

    fn start(self: &Rc<Self>) {
        if self.close.get() {
            let soon = Instant::now() + SAME_ANSWER;
            self.status.fail(Failure::Lost, soon);
            return self.fail_all(&Failure::Lost);
        }
        self.status.set(State::Opening);
        tokio::task::spawn_local(self.clone().run());
    }

    /// The task: opens, serves, and opens again while commands wait.
    async fn run(self: Rc<Self>) {
        let _last = LastWords(&self);
        // Whose name it is stays known for as long as it is up.
        let _login = self.link.dialer.logins.get(self.key.identity);
        while !self.is_closing()
            && let Some((stream, permit)) = self.open_stream().await
        {
            self.status.set(State::Open);
            let established = self.link.dialer.established();
            let mut serving = Serving::new(self.clone(), stream);
            let ended = (&mut serving).await;
            drop(established);
            self.status.set(State::Opening); // nobody shall count on it while it is closed
            serving.leave().await;
            drop(permit);
            self.permitted.set(false);
            self.handle_end(&ended);
            let waiting = !self.core.borrow().pipe.is_empty();
            if !waiting || self.role == Role::Leased {
                break;
            }
            self.status.set(State::Opening);
        }
        if self.role == Role::Leased || self.close.get() {
            self.close.set(true); // a lease is opened once
            self.fail_all(&Failure::Lost);
        }
        self.release_holder();
    }
}

/// Leaves a connection ready for its next task, however this one ends.
struct LastWords<'a, W: ReplyTo>(&'a Conn<W>);

impl<W: ReplyTo> Drop for LastWords<'_, W> {
    fn drop(&mut self) {
        let conn = self.0;
        if std::thread::panicking() {
            tracing::error!(db = conn.key.db, "upstream connection ended by a panic");
            conn.link.stats.counters.panics.add(1);
            conn.close.set(conn.role == Role::Leased);
            conn.fail_all(&Failure::Lost);
            conn.release_holder();
        }
        conn.signalled.set(false);
        *conn.task.borrow_mut() = None;
        conn.core.borrow_mut().server_id = None;
        conn.status.set(State::Idle);
    }
}
