//! Handing commands to a connection that another worker owns.
//!
//! On the way there and back everything travels in batches: what the clients of one worker say in one
//! turn is one message, and so is what one read of the connection brings back for them. Both ends keep
//! the same queue of runs, so a message needs to name only the run.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::client::Client;
use super::lanes::LaneId;
use super::target::Target;
use super::{Mail, Worker};
use crate::upstream::pipe::{Handling, Piece, Terms};
use crate::upstream::reply_to::Failure;
use crate::upstream::status::Status;

/// What the slowest reader of a handed-over lane still has to take, for the owner to see.
#[derive(Debug, Default)]
struct Gauge {
    /// Reply bytes on their way between the workers.
    in_transit: AtomicUsize,
    /// Reply bytes that the client of the oldest run has not taken.
    waiting: AtomicUsize,
    /// Reply bytes that it has taken.
    taken: AtomicU64,
}

/// One run on its way to the owner of the connection.
#[derive(Debug)]
pub struct Handed {
    client: u64,
    seq: u64,
    bytes: usize,
    count: u32,
    terms: Terms,
}

/// What became of a run, or of a part of it.
#[derive(Debug)]
pub enum Event {
    /// Reply bytes, the next `length` of the message.
    Piece {
        /// Which run.
        seq: u64,
        /// How many bytes.
        length: usize,
        /// Replies that end within them.
        completed: u32,
        /// They end in the middle of a reply.
        torn: bool,
    },
    /// So many commands will get no reply.
    Failed {
        /// Which run.
        seq: u64,
        /// How many commands.
        count: u32,
        /// Why.
        failure: Failure,
    },
}

/// A lane whose connection another worker owns.
#[derive(Debug)]
pub struct RemoteLane {
    id: LaneId,
    owner: usize,
    pub(super) status: Arc<Status>,
    gauge: Arc<Gauge>,
    state: RefCell<Outgoing>,
    scheduled: Cell<bool>,
    pub(super) sessions: Cell<usize>,
}

#[derive(Debug, Default)]
struct Outgoing {
    next_seq: u64,
    bytes: Vec<u8>,
    runs: Vec<Handed>,
    pending: VecDeque<PendingRun>,
    unanswered: usize,
    waiting: Vec<Rc<Client>>,
}

#[derive(Debug)]
struct PendingRun {
    seq: u64,
    client: Rc<Client>,
    owed: u32,
    bytes: usize,
    handling: Handling,
}

impl RemoteLane {
    /// A lane that `owner` serves.
    pub fn new(id: LaneId, owner: usize, status: Arc<Status>) -> Rc<Self> {
        Rc::new(Self {
            id,
            owner,
            status,
            gauge: Arc::default(),
            state: RefCell::default(),
            scheduled: Cell::new(false),
            sessions: Cell::new(0),
        })
    }

    /// Its name.
    pub fn id(&self) -> LaneId {
        self.id
    }

    /// The worker that serves it.
    pub fn owner(&self) -> usize {
        self.owner
    }

    /// Nobody waits for a reply.
    pub fn is_quiet(&self) -> bool {
        let state = self.state.borrow();
        state.pending.is_empty() && state.runs.is_empty()
    }

    /// Request bytes that are not answered.
    pub fn backlog(&self) -> usize {
        self.state.borrow().unanswered
    }

    /// `client` is woken when the backlog has room.
    pub fn wait_for_room(&self, client: Rc<Client>) {
        self.state.borrow_mut().waiting.push(client);
    }

    /// Has the owner open the connection.
    pub fn open(&self, worker: &Worker) {
        worker.send(self.owner, Mail::Open(self.id));
    }

    /// Enters `count` whole commands; they leave when all clients that are ready have had their turn.
    pub fn enqueue(self: &Rc<Self>, bytes: &[u8], count: u32, terms: Terms, client: &Rc<Client>) {
        let mut state = self.state.borrow_mut();
        let seq = state.next_seq;
        state.next_seq += 1;
        state.bytes.extend_from_slice(bytes);
        state.unanswered += bytes.len();
        state.pending.push_back(PendingRun {
            seq,
            client: client.clone(),
            owed: count - terms.hidden,
            bytes: bytes.len(),
            handling: terms.handling,
        });
        state.runs.push(Handed {
            client: client.id(),
            seq,
            bytes: bytes.len(),
            count,
            terms,
        });
        drop(state);
        if !self.scheduled.replace(true) {
            let (lane, worker) = (self.clone(), client.worker.clone());
            tokio::task::spawn_local(async move { lane.send(&worker) });
        }
    }

    fn send(&self, worker: &Worker) {
        self.scheduled.set(false);
        let mut state = self.state.borrow_mut();
        let mail = Mail::Commands {
            lane: self.id,
            from: worker.index,
            bytes: std::mem::take(&mut state.bytes),
            runs: std::mem::take(&mut state.runs),
            gauge: GaugeHandle(self.gauge.clone()),
        };
        drop(state);
        worker.send(self.owner, mail);
    }

    /// Takes what the owner sends back.
    pub fn handle_replies(&self, bytes: &[u8], events: &[Event]) {
        let mut position = 0;
        let mut touched: Vec<Rc<Client>> = Vec::new();
        for event in events {
            match event {
                Event::Piece {
                    seq,
                    length,
                    completed,
                    torn,
                } => {
                    let range = position..position + length;
                    position += length;
                    let Some((client, handling, last)) = self.answer(*seq, *completed) else {
                        continue;
                    };
                    let piece = Piece {
                        range,
                        completed: *completed,
                        handling,
                        last,
                        torn: *torn,
                    };
                    client.guard(|| {
                        if client.deliver(bytes, piece) {
                            touched.push(client.clone());
                        }
                    });
                }
                Event::Failed {
                    seq,
                    count,
                    failure,
                } => {
                    // What was delivered before the failure must be written before it.
                    touched
                        .drain(..)
                        .for_each(|client| client.guard(|| client.flush(bytes)));
                    if let Some((client, handling, _)) = self.answer(*seq, *count) {
                        client.fail(failure, *count, handling);
                    }
                }
            }
        }
        for client in touched {
            client.guard(|| client.flush(bytes));
        }
        let front = self
            .state
            .borrow()
            .pending
            .front()
            .map(|run| run.client.clone());
        let (waiting, taken) = front.map_or((0, 0), |client| (client.backlog(), client.taken()));
        self.note_progress(waiting, taken);
        self.gauge
            .in_transit
            .fetch_sub(bytes.len(), Ordering::Relaxed);
        self.make_room();
    }

    /// How far the client of the oldest run has come with its replies.
    pub fn note_progress(&self, waiting: usize, taken: u64) {
        self.gauge.waiting.store(waiting, Ordering::Relaxed);
        self.gauge.taken.store(taken, Ordering::Relaxed);
    }

    /// Counts answers of a run; `None` if it is not known.
    fn answer(&self, seq: u64, completed: u32) -> Option<(Rc<Client>, Handling, bool)> {
        let mut state = self.state.borrow_mut();
        let index = state.pending.iter().position(|run| run.seq == seq)?;
        let run = &mut state.pending[index];
        run.owed = run.owed.saturating_sub(completed);
        let (client, handling, last) = (run.client.clone(), run.handling, run.owed == 0);
        if last && let Some(run) = state.pending.remove(index) {
            state.unanswered -= run.bytes;
        }
        Some((client, handling, last))
    }

    fn make_room(&self) {
        let mut state = self.state.borrow_mut();
        if state.unanswered <= crate::upstream::conn::BACKLOG_HIGH / 2 {
            let waiting = std::mem::take(&mut state.waiting);
            drop(state);
            waiting.iter().for_each(|client| client.wake());
        }
    }
}

/// The owner's view of the gauge; opaque to everyone else.
#[derive(Clone, Debug)]
pub struct GaugeHandle(Arc<Gauge>);

/// The owner's end of a handed-over lane: collects replies for one other worker.
#[derive(Debug)]
pub struct Outlet {
    worker: Rc<Worker>,
    lane: LaneId,
    to: usize,
    gauge: GaugeHandle,
    collected: RefCell<(Vec<u8>, Vec<Event>)>,
}

/// A run that another worker handed over.
#[derive(Clone, Debug)]
pub struct RemoteRun {
    outlet: Rc<Outlet>,
    pub(super) client: u64,
    seq: u64,
}

impl Outlet {
    /// Collects for worker `to`.
    pub fn new(worker: Rc<Worker>, lane: LaneId, to: usize, gauge: GaugeHandle) -> Rc<Self> {
        Rc::new(Self {
            worker,
            lane,
            to,
            gauge,
            collected: RefCell::default(),
        })
    }

    /// Splits a message into the runs it carries.
    pub fn runs(
        self: &Rc<Self>,
        runs: Vec<Handed>,
    ) -> impl Iterator<Item = (Range<usize>, u32, Terms, Target)> {
        let mut position = 0;
        runs.into_iter().map(move |run| {
            let range = position..position + run.bytes;
            position = range.end;
            let target = Target::Remote(RemoteRun {
                outlet: self.clone(),
                client: run.client,
                seq: run.seq,
            });
            (range, run.count, run.terms, target)
        })
    }

    fn send(&self) {
        let (bytes, events) = self.collected.take();
        if !events.is_empty() {
            self.gauge
                .0
                .in_transit
                .fetch_add(bytes.len(), Ordering::Relaxed);
            self.worker.send(
                self.to,
                Mail::Replies {
                    lane: self.lane,
                    bytes,
                    events,
                },
            );
        }
    }
}

impl RemoteRun {
    pub(super) fn deliver(&self, input: &[u8], piece: Piece) -> bool {
        let mut collected = self.outlet.collected.borrow_mut();
        let first = collected.1.is_empty();
        collected.0.extend_from_slice(&input[piece.range.clone()]);
        let (length, completed) = (piece.range.len(), piece.completed);
        collected.1.push(Event::Piece {
            seq: self.seq,
            length,
            completed,
            torn: piece.torn,
        });
        first
    }

    pub(super) fn flush(&self) {
        self.outlet.send();
    }

    pub(super) fn fail(&self, failure: &Failure, count: u32) {
        let event = Event::Failed {
            seq: self.seq,
            count,
            failure: failure.clone(),
        };
        self.outlet.collected.borrow_mut().1.push(event);
        self.outlet.send();
    }

    pub(super) fn backlog(&self) -> usize {
        {
            let gauge = &self.outlet.gauge.0;
            gauge.in_transit.load(Ordering::Relaxed) + gauge.waiting.load(Ordering::Relaxed)
        }
    }

    pub(super) fn taken(&self) -> u64 {
        self.outlet.gauge.0.taken.load(Ordering::Relaxed)
    }
}
