//! A tracked connection: opened when L1 has a use for it, set up, and given up first of all.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::{sleep_until, timeout};

use super::serve::{Ended, Serving};
use crate::l1::L1;
use crate::l1::entry::Scope;
use crate::l1::fetch::Order;
use crate::l1::tracked::{Broken, Plan, Setup, Tracked, Verdict};
use crate::l1::tracker::{Standing, Tracker};
use crate::resp::Protocol;
use crate::stats::ConnectFailure;
use crate::upstream::LaneKey;
use crate::upstream::backoff::Backoff;
use crate::upstream::facts::Identity;
use crate::upstream::handshake::Refusal;
use crate::upstream::open::describe;
use crate::upstream::opening::Wish;
use crate::upstream::stream::Stream;
use crate::worker::Worker;
use crate::worker::pubsub::guarded;

/// The pause before L1 asks once more for what the server or the ceiling does not give, at least and at
/// most.
const MIN_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(300);

/// A connection that has lived this long was a good one.
const GOOD_LIFE: Duration = Duration::from_secs(5);

/// A tracked connection of this worker.
#[derive(Debug)]
pub struct TrackedConn {
    pub(super) l1: Arc<L1>,
    pub(super) tracker: Arc<Tracker>,
    /// While it is up.
    pub(super) tracked: RefCell<Option<Tracked>>,
    /// The task has something to write.
    pub(super) wake: Notify,
    /// When L1 last had a use for it, by L1's monotonic clock.
    pub(super) used: Cell<u64>,
    running: Cell<bool>,
    /// Pauses while the server cannot be reached.
    backoff: RefCell<Backoff>,
    /// Pauses while it is there and pushes are not to be had.
    patience: RefCell<Backoff>,
    retry_at: Cell<Option<Instant>>,
    /// The server does not speak RESP3.
    is_resp2: Cell<bool>,
    /// What the log said last of why there are no pushes.
    logged: RefCell<String>,
}

/// A connection that is ready.
pub(super) struct Ready {
    pub stream: Stream,
    pub protocol: Protocol,
    pub standing: Standing,
    /// Pushes were not to be had just now: it is to be set up anew then.
    pub until: Option<Instant>,
}

impl TrackedConn {
    /// A connection that is not open.
    pub fn new(worker: &Worker, l1: Arc<L1>, scope: Scope) -> Rc<Self> {
        let dialer = &worker.link.dialer;
        let (min, max) = (dialer.config().backoff_min, dialer.config().backoff_max);
        let patience = Backoff::new(MIN_PAUSE, MAX_PAUSE - MIN_PAUSE, dialer.next_nonce());
        Rc::new(Self {
            tracker: l1.tracker(scope),
            l1,
            tracked: RefCell::default(),
            wake: Notify::new(),
            used: Cell::new(0),
            running: Cell::new(false),
            backoff: RefCell::new(Backoff::new(min, max, dialer.next_nonce())),
            patience: RefCell::new(patience),
            retry_at: Cell::new(None),
            is_resp2: Cell::new(false),
            logged: RefCell::default(),
        })
    }

    /// Its task runs.
    pub fn is_running(&self) -> bool {
        self.running.get()
    }

    /// Takes an order; false if the connection is not up.
    pub fn enqueue(&self, from: usize, order: Order) -> bool {
        let mut tracked = self.tracked.borrow_mut();
        let Some(tracked) = tracked.as_mut() else {
            return false;
        };
        self.used.set(self.used.get().max(order.since.mono));
        tracked.enqueue(from, order);
        self.wake.notify_one();
        true
    }

    /// Starts its task.
    pub fn start(self: &Rc<Self>, worker: &Rc<Worker>) {
        if !self.running.replace(true) {
            tokio::task::spawn_local(self.clone().run(worker.clone()));
        }
    }

    /// The task: opens and serves as long as L1 has a use for it.
    async fn run(self: Rc<Self>, worker: Rc<Worker>) {
        let _last = LastWords(&self);
        loop {
            if let Some(at) = self.retry_at.get().filter(|at| *at > Instant::now()) {
                // Whoever wants it must still want it then.
                self.tracker.take_wanted();
                sleep_until(at.into()).await;
            }
            if !self.tracker.take_wanted() {
                return;
            }
            if guarded(self.open_and_serve(&worker)).await.is_err() {
                worker.stats.counters.panics.add(1);
                tracing::error!("tracked connection ended by a panic");
                self.pause_long();
                self.handle_end(&worker);
            }
        }
    }

    async fn open_and_serve(&self, worker: &Rc<Worker>) {
        let dialer = &worker.link.dialer;
        let Some(permit) = dialer.budget.try_acquire() else {
            // The least important use of all: nobody closes anything for it.
            self.retry_at.set(Some(Instant::now() + MIN_PAUSE));
            let reason = "no connection is free below upstream.max_connections";
            return self.tracker.set_standing(Standing::Closed, Some(reason));
        };
        self.tracker.set_standing(Standing::Opening, None);
        self.tracker.take_distrust();
        let Some(ready) = self
            .unless_wanted(worker, self.open(worker))
            .await
            .flatten()
        else {
            return self.tracker.set_standing(Standing::Closed, None);
        };
        let established = dialer.established();
        self.retry_at.set(None);
        let begun = Instant::now();
        let mut serving = Serving::new(self, worker, ready);
        let ended = serving.serve().await;
        drop(established);
        if begun.elapsed() >= GOOD_LIFE {
            self.backoff.borrow_mut().reset();
        }
        match &ended {
            Ended::Idle => {
                self.tracker.take_wanted();
            }
            Ended::Wanted => self.retry_at.set(Some(Instant::now() + MIN_PAUSE)),
            // It may be so again at once: a client that writes to a replica would have it so.
            Ended::Stale => self.pause_shortly(),
            Ended::Lost(reason) => {
                dialer.stats.lost.fetch_add(1, Relaxed);
                tracing::warn!(reason, address = %dialer.config().address, "L1's connection lost");
                self.pause_shortly();
            }
        }
        self.handle_end(worker);
        serving.leave().await;
        drop(permit);
    }

    /// Nothing more comes on the connection.
    fn handle_end(&self, worker: &Worker) {
        self.tracker.set_standing(Standing::Closed, None);
        match self.tracked.take() {
            Some(mut tracked) => {
                tracked.lose();
                worker.tell(tracked.take_told());
            }
            None => self.tracker.lose(),
        }
    }

    /// Waits for `future`, unless somebody waits for a connection.
    async fn unless_wanted<F: Future>(&self, worker: &Worker, future: F) -> Option<F::Output> {
        let budget = &worker.link.dialer.budget;
        let mut future = pin!(future);
        loop {
            // Before it is looked whether anybody waits: no call is missed.
            let wanted = budget.idle_wanted();
            if budget.take_wish(false) {
                self.retry_at.set(Some(Instant::now() + MIN_PAUSE));
                return None;
            }
            tokio::select! {
                output = &mut future => return Some(output),
                () = wanted => {}
            }
        }
    }

    /// One attempt to open the connection and to set it up.
    async fn open(&self, worker: &Worker) -> Option<Ready> {
        let plan = Plan::new(&self.l1.config());
        let dialed = self.dial(worker, plan).await;
        let (mut stream, identity, protocol) = match dialed {
            Ok(dialed) => dialed,
            Err(refusal) => {
                self.handle_refusal(worker, &refusal);
                return None;
            }
        };
        let verdict = if !plan.tracks {
            Ok(None)
        } else if protocol == Protocol::Resp2 {
            Ok(Some(Verdict::resp2()))
        } else {
            let limit = worker.link.dialer.config().connect_timeout;
            let asked = timeout(limit, self.set_up(worker, &mut stream, &identity));
            let late = |_| Err(format!("the server did not answer within {limit:?}"));
            asked.await.unwrap_or_else(late).map(Some)
        };
        let (standing, until) = self.weigh(worker, verdict, plan)?;
        Some(Ready {
            stream,
            protocol,
            standing,
            until,
        })
    }

    /// What a connection is good for; `None` if for nothing.
    fn weigh(
        &self,
        worker: &Worker,
        verdict: Result<Option<Verdict>, String>,
        plan: Plan,
    ) -> Option<(Standing, Option<Instant>)> {
        let address = &worker.link.dialer.config().address;
        let db = self.tracker.scope.db;
        match verdict {
            Ok(Some(Verdict::Tracking)) => {
                self.patience.borrow_mut().reset();
                self.tracker.set_standing(Standing::Opening, Some(""));
                self.logged.borrow_mut().clear();
                tracing::info!(%address, db, mode = "tracking", "L1 hears of changes");
                Some((Standing::Tracking, None))
            }
            Ok(None) => {
                tracing::info!(%address, db, mode = "ttl", "L1 keeps keys for their ttl");
                Some((Standing::Timed, None))
            }
            Ok(Some(Verdict::Without { reason, passing })) => {
                let at = self.pause_long();
                let mode = if plan.times { "ttl" } else { "off" };
                self.note_reason(worker, &reason, mode);
                let until = passing.then_some(at);
                plan.times.then_some((Standing::Timed, until))
            }
            Err(reason) => {
                self.pause_shortly();
                self.note_reason(worker, &reason, "off");
                None
            }
        }
    }

    /// Shows why there are no pushes, and logs it when it changes.
    fn note_reason(&self, worker: &Worker, reason: &str, mode: &str) {
        self.tracker.set_standing(Standing::Opening, Some(reason));
        if *self.logged.borrow() != reason {
            self.logged.replace(reason.to_owned());
            let address = &worker.link.dialer.config().address;
            let db = self.tracker.scope.db;
            tracing::warn!(%address, db, mode, reason, "L1 cannot hear of changes");
        }
    }

    /// In RESP3, which is held for clients of both protocols; in RESP2 where that is all there is and
    /// pushes are not needed.
    async fn dial(
        &self,
        worker: &Worker,
        plan: Plan,
    ) -> Result<(Stream, Identity, Protocol), Refusal> {
        let dialer = &worker.link.dialer;
        let Scope { db, identity } = self.tracker.scope;
        let key = |protocol| LaneKey {
            db,
            protocol,
            identity,
        };
        if !self.is_resp2.get() || !plan.times {
            match dialer.dial(key(Protocol::Resp3), Wish::Tracked).await {
                Ok((stream, facts)) => return Ok((stream, facts, Protocol::Resp3)),
                Err(refusal) if !plan.times || !is_about_resp3(&refusal) => return Err(refusal),
                Err(_) => self.is_resp2.set(true),
            }
        }
        let (stream, facts) = dialer.dial(key(Protocol::Resp2), Wish::Tracked).await?;
        Ok((stream, facts, Protocol::Resp2))
    }

    /// Finds out whether pushes can be relied on.
    async fn set_up(
        &self,
        worker: &Worker,
        stream: &mut Stream,
        identity: &Identity,
    ) -> Result<Verdict, String> {
        let mut setup = match Setup::new(identity, worker.link.dialer.next_nonce()) {
            Ok(setup) => setup,
            Err(verdict) => return Ok(verdict),
        };
        let (counters, mut counted) = (&worker.stats.counters, 0);
        let (mut since, mut chunk) = (self.l1.clock.now(), [0; 4096]);
        loop {
            let request = setup.take_output();
            if !request.is_empty() {
                since = self.l1.clock.now();
                counters
                    .l1_overhead_commands
                    .add(setup.commands() - counted);
                counted = setup.commands();
                write_all(stream, &request)
                    .await
                    .map_err(|e| e.to_string())?;
                counters.upstream_bytes_out.add(request.len() as u64);
                counters.l1_overhead_bytes.add(request.len() as u64);
            }
            let n = poll_fn(|cx| stream.poll_read(cx, &mut chunk)).await;
            let n = n.map_err(|e| e.to_string())?;
            if n == 0 {
                return Err("closed by the server".to_owned());
            }
            counters.upstream_bytes_in.add(n as u64);
            counters.l1_overhead_bytes.add(n as u64);
            if let Some(verdict) = setup.handle_input(&chunk[..n]).map_err(explain)? {
                self.tracker.renew(since);
                return Ok(verdict);
            }
        }
    }

    fn handle_refusal(&self, worker: &Worker, refusal: &Refusal) {
        let reason = describe(refusal);
        if refusal.only_this_key {
            self.pause_long();
            self.note_reason(worker, &reason, "off");
        } else {
            // That the server cannot be reached is in the log already.
            self.pause_shortly();
            let at = worker.link.dialer.gate.retry_at();
            self.retry_at.set(at.or(self.retry_at.get()));
            self.tracker.set_standing(Standing::Opening, Some(&reason));
        }
    }

    /// The server is there and will not say otherwise soon.
    fn pause_long(&self) -> Instant {
        let at = Instant::now() + MIN_PAUSE + self.patience.borrow_mut().next_pause();
        self.retry_at.set(Some(at));
        at
    }

    /// The server may be there again soon.
    fn pause_shortly(&self) {
        let pause = self.backoff.borrow_mut().next_pause();
        self.retry_at.set(Some(Instant::now() + pause));
    }
}

/// The server knows no HELLO, or no RESP3.
fn is_about_resp3(refusal: &Refusal) -> bool {
    refusal.cause == ConnectFailure::Protocol && refusal.message.starts_with("NOPROTO")
}

/// In the words of logs.
pub(super) fn explain(broken: Broken) -> String {
    match broken {
        Broken::Protocol(what) => what,
        Broken::Refused(error) => format!("the server answers {error}"),
    }
}

async fn write_all(stream: &mut Stream, bytes: &[u8]) -> io::Result<()> {
    let mut sent = 0;
    while sent < bytes.len() {
        let n = poll_fn(|cx| stream.poll_write(cx, &bytes[sent..])).await?;
        if n == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        sent += n;
    }
    poll_fn(|cx| stream.poll_flush(cx)).await
}

/// Leaves a connection ready for its next task, however this one ends.
struct LastWords<'a>(&'a TrackedConn);

impl Drop for LastWords<'_> {
    fn drop(&mut self) {
        self.0.running.set(false);
        self.0.tracker.set_standing(Standing::Closed, None);
        self.0.tracker.leave();
    }
}
