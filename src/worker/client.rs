//! The driver of one client: moves bytes between its socket, its session and its connections.
//!
//! Replies are written by the task that has them; the client's own task runs when the client says
//! something, when its socket takes bytes again, or when a held command may go on. An idle client owns
//! no buffers: it is read into the worker's scratch buffer, and what is left over is freed once used.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use super::Worker;
use super::lanes::Lane;
use super::route::{self, Attached, Route};
use super::target::Target;
use crate::control::Paused;
use crate::downstream::stream::Stream;
use crate::faults;
use crate::session::{Env, Session, Status};
use crate::upstream::conn::BACKLOG_HIGH;
use crate::upstream::pipe::Tick;

/// A client is not read while more bytes of local replies than this wait for upstream ones.
const MAX_HELD: usize = 1024 * 1024;

/// A client whose command waits is read all the same, so that its end is noticed; up to this much.
const MAX_AHEAD: usize = 64 * 1024;

/// Local replies of this size are not held back for the reply that follows.
const MAX_HELD_BACK: usize = 16 * 1024;

/// A large request that waits for its connection keeps at most this much there.
const STREAM_BACKLOG: usize = 512 * 1024;

/// One client.
pub struct Client {
    pub(super) worker: Rc<Worker>,
    pub(super) slot: Cell<u32>,
    pub(super) stream: Stream,
    pub(super) inner: RefCell<Inner>,
    waker: Cell<Option<Waker>>,
    /// Replies that lie in the input of the connection that is being read.
    pub(super) direct: Cell<(u32, u32)>,
    pub(super) batched: Cell<bool>,
    /// It has closed itself with CLIENT KILL.
    pub(super) killed: Cell<bool>,
    /// Bytes that it has sent.
    pub(super) received: Cell<u64>,
    /// All that it has sent was looked at: it is its turn.
    pub(super) awaited: Cell<bool>,
    /// Bytes that it makes the process hold, as its worker's account knows it.
    pub(super) counted: Cell<usize>,
    pub(super) since: Tick,
    pub(super) last_active: Cell<Tick>,
    pub(super) id: u64,
}

/// What changes while a client lives.
#[derive(Debug)]
pub(super) struct Inner {
    pub session: Session,
    /// What was read and is not done with.
    pub input: Vec<u8>,
    /// Replies that the socket did not take; `output[..written]` has left.
    pub output: Vec<u8>,
    pub written: usize,
    pub taken: u64,
    pub attached: Attached,
    /// The reply to INFO as far as it has come.
    #[expect(
        clippy::box_collection,
        reason = "8 bytes instead of 24 in every idle client"
    )]
    pub gathered: Option<Box<Vec<u8>>>,
    pub stage: Stage,
    /// A command waits for something.
    pub held: bool,
    /// Not read because too many local replies wait for upstream ones.
    pub crowded: bool,
    /// Part of a reply was passed on, and the rest has not come.
    pub torn: bool,
}

/// How a client is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Commands are read.
    Reading,
    /// Nothing more is read; what is owed is still answered.
    Closing,
    /// The socket is of no more use.
    Broken,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// A client that has said nothing.
    pub fn new(worker: Rc<Worker>, stream: Stream, id: u64) -> Rc<Self> {
        let session = Session::new(&worker.settings.borrow());
        let now = worker.link.now();
        Rc::new(Self {
            worker,
            slot: Cell::new(u32::MAX),
            stream,
            inner: RefCell::new(Inner {
                session,
                input: Vec::new(),
                output: Vec::new(),
                written: 0,
                taken: 0,
                attached: Attached::default(),
                gathered: None,
                stage: Stage::Reading,
                held: false,
                crowded: false,
                torn: false,
            }),
            waker: Cell::new(None),
            direct: Cell::new((0, 0)),
            batched: Cell::new(false),
            killed: Cell::new(false),
            received: Cell::new(0),
            awaited: Cell::new(false),
            counted: Cell::new(0),
            since: now,
            last_active: Cell::new(now),
            id,
        })
    }

    /// The client id, unique in this process.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Has the client's own task look around.
    pub fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake_by_ref();
            self.waker.set(Some(waker));
        }
    }

    /// Closes the client's connection; `gently` lets what is owed leave first.
    pub fn kill(&self, gently: bool) {
        let mut inner = self.inner.borrow_mut();
        if inner.stage != Stage::Broken {
            // Nobody waits for the end of a wait.
            inner.stage = if gently && !inner.session.is_blocked() {
                Stage::Closing
            } else {
                Stage::Broken
            };
        }
        drop(inner);
        self.wake();
    }

    /// Does something in the client's name outside of its own task: a panic ends its session alone.
    pub(super) fn guard(&self, what: impl FnOnce()) {
        if catch_unwind(AssertUnwindSafe(what)).is_err() {
            self.note_panic();
            self.kill(false);
        }
    }

    fn note_panic(&self) {
        self.worker.stats.counters.panics.add(1);
        tracing::error!(
            client = self.id,
            "session ended by a panic; others are not affected"
        );
    }

    /// Nothing is in flight and nothing half read.
    pub fn is_quiet(&self) -> bool {
        let inner = self.inner.borrow();
        inner.session.pending().is_empty() && inner.output.is_empty() && !inner.held
    }

    /// Its socket is of no more use.
    pub fn is_gone(&self) -> bool {
        self.inner.borrow().stage == Stage::Broken
    }

    /// What the server calls the connection on which the client blocks, for somebody who is about to
    /// unblock it: the connection will not serve another client, which could be unblocked instead.
    pub fn blocked_as(&self) -> Option<u64> {
        let inner = self.inner.borrow();
        let lease = inner.attached.lease.as_ref();
        let lease = lease.filter(|_| inner.session.is_blocked())?;
        let server_id = lease.server_id()?;
        lease.taint();
        Some(server_id)
    }

    /// It has subscriptions: it may be silent for as long as it likes.
    pub fn is_subscriber(&self) -> bool {
        self.inner.borrow().session.is_subscriber()
    }

    /// Bytes of replies that the socket has not taken.
    pub fn backlog(&self) -> usize {
        let inner = self.inner.borrow();
        inner.output.len() - inner.written
    }

    /// Bytes of replies that the socket has taken.
    pub fn taken(&self) -> u64 {
        self.inner.borrow().taken
    }

    /// What was read, plus `fresh`, goes through the session.
    pub(super) fn process(self: &Rc<Self>, inner: &mut Inner, fresh: &[u8]) {
        let counters = &self.worker.stats.counters;
        counters.client_bytes_in.add(fresh.len() as u64);
        self.received.set(self.received.get() + fresh.len() as u64);
        let table = self.worker.table();
        let settings = self.worker.settings.borrow();
        let env = Env {
            id: self.id,
            settings: &settings,
            table: &table,
            counters,
            l1: self.worker.reader.as_ref().map(|reader| &*reader.l1),
            hot: self.worker.reader.as_ref().map(|reader| &reader.hot),
            paused: self.worker.control.pause.scope(),
        };
        let mut input = std::mem::take(&mut inner.input);
        let joined = !input.is_empty();
        if joined {
            input.extend_from_slice(fresh);
        }
        let bytes = if joined { input.as_slice() } else { fresh };
        faults::panic_at("session", bytes);
        let may_move = inner.session.pending().owed() == 0;
        let mut route = Route {
            client: self,
            attached: &mut inner.attached,
            may_move,
            now: None,
        };
        let was_paused = inner.session.is_paused();
        let fed = inner
            .session
            .feed(bytes, &mut inner.output, &env, &mut route);
        if joined {
            input.drain(..fed.consumed);
            inner.input = input;
        } else {
            inner.input = fresh[fed.consumed..].to_vec();
        }
        if inner.input.is_empty() {
            inner.input = Vec::new(); // give the memory back
        }
        inner.held = fed.status == Status::Hold;
        if let Some(hot) = env.hot {
            hot.settle(self.id);
        }
        match fed.status {
            Status::NeedInput | Status::Hold => {}
            Status::Close => inner.stage = inner.stage.max_closing(),
            Status::Drop => {
                self.worker.hint_at_foreign(inner.session.foreign());
                inner.stage = Stage::Broken;
            }
        }
        if !was_paused && inner.session.is_paused() {
            self.pause();
        }
    }

    /// The `QUEUED`s of a transaction leave with the reply to its EXEC.
    fn may_hold_back(&self) -> bool {
        let inner = self.inner.borrow();
        inner.session.answers_soon() && inner.output.len() < MAX_HELD_BACK
    }

    /// Writes what waits; `Pending` while the socket is full.
    fn poll_output(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut inner = self.inner.borrow_mut();
        let inner = &mut *inner;
        while inner.written < inner.output.len() {
            let written = ready!(self.stream.poll_write(cx, &inner.output[inner.written..]));
            inner.written += self.note_write(inner, written);
            if let Some(Lane::Remote(lane)) = &inner.attached.lane {
                lane.note_progress(inner.output.len() - inner.written, inner.taken);
            }
            if inner.stage == Stage::Broken {
                return Poll::Ready(());
            }
            inner.trim_output();
            self.note_memory(inner);
        }
        self.stream.poll_flush(cx).map(|done| {
            self.note_write(inner, done.map(|()| 0));
        })
    }

    /// Whether the connection that takes the client's bytes has room for more.
    fn has_room(self: &Rc<Self>, inner: &Inner) -> bool {
        if inner.crowded {
            return false; // woken with the next reply
        }
        let target = || Target::Client(self.clone());
        if let (true, Some(lease)) = (inner.session.needs_lease(), &inner.attached.lease) {
            let limit = if inner.session.is_streaming() {
                STREAM_BACKLOG
            } else {
                BACKLOG_HIGH
            };
            let room = lease.backlog() <= limit;
            if !room {
                lease.wait_for_room(target());
            }
            return room;
        }
        match &inner.attached.lane {
            Some(lane) if lane.backlog() > BACKLOG_HIGH => {
                lane.wait_for_room(target());
                false
            }
            _ => true,
        }
    }

    /// Runs the client until it must wait; `Ready` when it is gone.
    fn poll(self: &Rc<Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.remember(cx.waker());
        self.awaited.set(false);
        loop {
            if !self.may_hold_back() {
                // Pending or not, what the client says is read: it may write its whole pipeline first.
                let _ = self.poll_output(cx);
            }
            let mut inner = self.inner.borrow_mut();
            let inner = &mut *inner;
            if inner.stage == Stage::Broken {
                return Poll::Ready(());
            }
            route::return_lease(&self.worker, inner);
            if inner.torn && inner.session.pending().owed() == 0 {
                inner.crowded = true; // a long push is arriving: nothing may be put into it
                return Poll::Pending;
            }
            if inner.held {
                self.last_active.set(self.worker.link.now());
                self.process(inner, &[]);
                self.check_output(inner);
                if !inner.held || inner.stage == Stage::Broken {
                    continue;
                }
            }
            if inner.stage == Stage::Closing {
                let done =
                    inner.session.pending().is_empty() && inner.output.is_empty() && !inner.held;
                return if done {
                    self.stream.poll_shutdown(cx).map(|_| ())
                } else {
                    Poll::Pending
                };
            }
            inner.crowded = inner.session.pending().held_bytes() > MAX_HELD;
            let paused = inner.held && self.worker.control.pause.scope() != Paused::No;
            let waits = (inner.waits() || paused) && inner.input.len() < MAX_AHEAD;
            if inner.session.is_paused() {
                return Poll::Pending; // woken when it has waited long enough
            }
            if !waits && (inner.held || !self.has_room(inner)) {
                return Poll::Pending;
            }
            if !inner.output.is_empty() && self.worker.account.is_pressed() {
                inner.crowded = true; // woken with the next reply, or when its replies have left
                return Poll::Pending;
            }
            let mut scratch = self.worker.scratch.borrow_mut();
            match self.stream.poll_read(cx, &mut scratch) {
                Poll::Pending => {
                    self.awaited.set(true);
                    return Poll::Pending;
                }
                // A wait ends with its client: what it would yield is for others.
                Poll::Ready(Ok(0)) if inner.waits() || paused => inner.stop_waiting(),
                Poll::Ready(Ok(0)) => inner.stage = Stage::Closing,
                Poll::Ready(Ok(n)) if inner.held => {
                    self.worker.stats.counters.client_bytes_in.add(n as u64);
                    inner.input.extend_from_slice(&scratch[..n]);
                    self.note_memory(inner);
                }
                Poll::Ready(Ok(n)) => {
                    self.last_active.set(self.worker.link.now());
                    self.process(inner, &scratch[..n]);
                    self.check_output(inner);
                }
                Poll::Ready(Err(_)) => return Poll::Ready(()),
            }
        }
    }

    fn remember(&self, waker: &Waker) {
        let known = self.waker.take().filter(|known| known.will_wake(waker));
        self.waker.set(Some(known.unwrap_or_else(|| waker.clone())));
    }

    /// The waker of the client's own task.
    pub(super) fn waker(&self) -> Waker {
        let waker = self.waker.take();
        self.waker.set(waker.clone());
        waker.unwrap_or_else(|| Waker::noop().clone())
    }

    /// The client is gone: what is still owed to it becomes a tombstone by itself.
    fn leave(&self) {
        let mut inner = self.inner.borrow_mut();
        inner.stage = Stage::Broken;
        inner.input = Vec::new();
        inner.output = Vec::new();
        inner.written = 0;
        inner.gathered = None;
        let counted = self.counted.replace(0);
        self.worker.note_held(counted, 0);
        inner.attached.leave(&self.worker);
        let topics = inner.session.take_subscriptions();
        drop(inner);
        self.worker.forget_subscriber(self.id, topics);
        self.worker.remove(self);
    }
}

impl Inner {
    /// The client's own task has something to do.
    pub(super) fn wants_task(&self) -> bool {
        !self.output.is_empty()
            || self.held
            || self.crowded
            || self.stage != Stage::Reading
            || self.attached.lease.is_some()
    }

    /// Its command blocks, or waits for a connection of its own.
    fn waits(&self) -> bool {
        self.session.is_blocked() || self.attached.awaits_lease()
    }

    /// The client has ended while it waits. Replies to what it said before still leave if the wait has
    /// not begun.
    fn stop_waiting(&mut self) {
        if self.session.forget_held() {
            self.input = Vec::new();
            self.held = false;
            self.stage = self.stage.max_closing();
        } else {
            self.stage = Stage::Broken;
        }
    }
}

impl Stage {
    fn max_closing(self) -> Self {
        if self == Self::Broken {
            Self::Broken
        } else {
            Self::Closing
        }
    }
}

/// The task of one client.
pub struct ClientTask(pub Rc<Client>);

impl Future for ClientTask {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let client = &self.get_mut().0;
        catch_unwind(AssertUnwindSafe(|| client.poll(cx))).unwrap_or_else(|_| {
            client.note_panic();
            Poll::Ready(())
        })
    }
}

impl Drop for ClientTask {
    fn drop(&mut self) {
        self.0.leave();
    }
}
