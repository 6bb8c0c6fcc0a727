//! The connection of a hub: opened when somebody subscribes, restored as long as anybody is
//! subscribed.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::{sleep, sleep_until, timeout};

use super::readers::Parcel;
use super::serve::{Ended, Serving};
use crate::hub::{Hub, Letter, Request};
use crate::resp::Protocol;
use crate::stats::ConnectFailure;
use crate::upstream::backoff::Backoff;
use crate::upstream::budget::Permit;
use crate::upstream::handshake::Refusal;
use crate::upstream::open::describe;
use crate::upstream::opening::Wish;
use crate::upstream::pipe::Tick;
use crate::upstream::reply_to::Failure;
use crate::upstream::stream::Stream;
use crate::upstream::{IdentityId, LaneKey};
use crate::worker::{Mail, Worker};

/// How often waiting clients are looked at while there is no connection.
const QUEUE_CHECK: Duration = Duration::from_millis(20);

/// How often it is looked whether anybody still wants a connection.
const WANTED_CHECK: Duration = Duration::from_secs(1);

/// A hub of this worker and its connection.
#[derive(Debug)]
pub struct HubConn {
    identity: IdentityId,
    pub(super) hub: RefCell<Hub>,
    /// The task has something to look at.
    pub(super) wake: Notify,
    running: Cell<bool>,
    backoff: RefCell<Backoff>,
    retry_at: Cell<Option<Instant>>,
    /// Since when attempts fail, and how.
    down: RefCell<Option<(Tick, Failure)>>,
    /// Since when messages are missed, and for how many names.
    gap: Cell<Option<(Tick, usize)>>,
    /// Which of the dialer's the connection is.
    pub(super) generation: Cell<u64>,
    /// Confirmed subscriptions that the gauge shows.
    shown: Cell<usize>,
    /// Bytes that are on their way to other workers.
    pub(super) posted: Arc<AtomicUsize>,
}

impl HubConn {
    /// A hub without a connection.
    pub fn new(worker: &Worker, identity: IdentityId) -> Rc<Self> {
        let dialer = &worker.link.dialer;
        let (min, max) = (dialer.config().backoff_min, dialer.config().backoff_max);
        Rc::new(Self {
            identity,
            hub: RefCell::new(Hub::new(worker.census.clone())),
            wake: Notify::new(),
            running: Cell::new(false),
            backoff: RefCell::new(Backoff::new(min, max, dialer.next_nonce())),
            retry_at: Cell::new(None),
            down: RefCell::new(None),
            gap: Cell::new(None),
            generation: Cell::new(0),
            shown: Cell::new(0),
            posted: Arc::default(),
        })
    }

    /// Its task runs, or there is something for it to do.
    pub fn is_busy(&self) -> bool {
        self.running.get() || self.hub.borrow().is_wanted()
    }

    /// Takes a request of a worker.
    pub fn handle_request(self: &Rc<Self>, worker: &Rc<Worker>, from: usize, request: Request) {
        let asks = !matches!(request, Request::Leave { ticket: None, .. });
        let now = worker.link.now();
        self.hub.borrow_mut().handle_request(from, request, now);
        if self.running.get() {
            self.wake.notify_one();
        } else if asks {
            self.running.set(true);
            tokio::task::spawn_local(self.clone().run(worker.clone()));
        }
    }

    /// The task: opens and serves as long as anybody wants it.
    async fn run(self: Rc<Self>, worker: Rc<Worker>) {
        let _last = LastWords(&self);
        loop {
            self.dispatch(&worker, &[]);
            if !self.hub.borrow().is_wanted() {
                return;
            }
            let served = guarded(self.open_and_serve(&worker)).await;
            if served.is_err() {
                worker.stats.counters.panics.add(1);
                tracing::error!("pub/sub connection ended by a panic");
                self.handle_lost(&worker);
            }
        }
    }

    async fn open_and_serve(&self, worker: &Rc<Worker>) {
        let Some((stream, permit)) = self.open(worker).await else {
            return;
        };
        let dialer = &worker.link.dialer;
        *self.down.borrow_mut() = None;
        self.retry_at.set(None);
        let established = dialer.established();
        self.hub.borrow_mut().handle_open();
        let mut serving = Serving::new(self, worker, stream);
        let ended = serving.serve().await;
        drop(established);
        if let Ended::Lost(reason) = &ended {
            dialer.stats.lost.fetch_add(1, Relaxed);
            let subscriptions = self.shown.get();
            tracing::warn!(reason, subscriptions, "pub/sub connection lost");
            // One that is lost as soon as it is open is no reason to hurry either.
            let pause = self.backoff.borrow_mut().next_pause();
            self.retry_at.set(Some(Instant::now() + pause));
        }
        self.handle_lost(worker);
        serving.leave().await;
        drop(permit);
    }

    /// Nothing more comes on the connection.
    fn handle_lost(&self, worker: &Rc<Worker>) {
        let missed = self.hub.borrow_mut().handle_lost();
        if missed > 0 && self.gap.get().is_none() {
            self.gap.set(Some((worker.link.now(), missed)));
            worker.stats.counters.hub_gaps.add(1);
        }
        self.show(worker);
        self.dispatch(worker, &[]);
    }

    /// All that was lost is restored, or there was nothing to restore.
    pub(super) fn handle_restored(&self, worker: &Worker) {
        self.backoff.borrow_mut().reset();
        if let Some((since, names)) = self.gap.take() {
            let away = Duration::from_micros(worker.link.now().saturating_sub(since));
            tracing::warn!(
                names,
                away_ms = away.as_millis(),
                "subscriptions restored; messages may have been missed"
            );
        }
    }

    /// Brings the gauge of subscriptions up to date.
    pub(super) fn show(&self, worker: &Worker) {
        let now = self.hub.borrow().subscribed().iter().sum();
        let shown = self.shown.replace(now);
        if now == shown {
            return;
        }
        let gauge = &worker.stats.counters.hub_subscriptions;
        gauge.add(now as u64);
        gauge.sub(shown as u64);
    }

    /// Sends the hub's news to the workers. `bytes` are those that the messages lie in.
    pub(super) fn dispatch(&self, worker: &Rc<Worker>, bytes: &[u8]) {
        let news = self.hub.borrow_mut().take_news();
        let mut own = Vec::with_capacity(news.len());
        let mut others: BTreeMap<usize, Vec<Letter>> = BTreeMap::new();
        for (to, letter) in news {
            if to == worker.index {
                own.push(letter);
            } else {
                others.entry(to).or_default().push(letter);
            }
        }
        if !others.is_empty() {
            let parcel = Parcel::new(bytes, &self.posted);
            for (to, letters) in others {
                let mail = Mail::HubLetters {
                    identity: self.identity,
                    parcel: parcel.clone(),
                    letters,
                };
                worker.send(to, mail);
            }
        }
        if !own.is_empty() {
            worker.handle_letters(self.identity, bytes, &own);
        }
    }

    /// A connected stream, however many attempts it takes while somebody wants it.
    async fn open(&self, worker: &Rc<Worker>) -> Option<(Stream, Permit)> {
        let dialer = &worker.link.dialer;
        let key = LaneKey {
            db: worker.settings.borrow().database,
            protocol: Protocol::Resp2,
            identity: self.identity,
        };
        loop {
            if let Some(at) = self.retry_at.get() {
                let cause = self.down.borrow().as_ref().map(|(_, cause)| cause.clone());
                self.waiting(worker, cause, sleep_until(at.into())).await?;
            }
            let busy = Failure::Busy(dialer.budget.max());
            let permit = timeout(dialer.config().lease_timeout, dialer.budget.acquire());
            let permit = self.waiting(worker, Some(busy.clone()), permit).await?;
            let Ok(Some(permit)) = permit else {
                self.hub.borrow_mut().expire(Tick::MAX, &busy);
                self.handle_failure(worker, busy);
                continue;
            };
            let cause = self.down.borrow().as_ref().map(|(_, cause)| cause.clone());
            self.generation.set(dialer.generation());
            match self
                .waiting(worker, cause, dialer.dial(key, Wish::Leased))
                .await?
            {
                Ok((stream, _)) => return Some((stream, permit)),
                Err(refusal) => self.handle_refusal(worker, &refusal),
            }
        }
    }

    fn handle_refusal(&self, worker: &Rc<Worker>, refusal: &Refusal) {
        if !refusal.only_this_key {
            return self.handle_failure(worker, Failure::Unreachable(describe(refusal)));
        }
        let refused = Failure::Refused(refusal.message.clone());
        if self.is_for_good(refusal) {
            self.revoke(&refused);
        } else {
            self.hub.borrow_mut().expire(Tick::MAX, &refused);
        }
        self.handle_failure(worker, refused);
    }

    /// The server knows the client's user or password no longer. That the proxy's own name is refused
    /// is for its operator to mend; so is protected mode, which refuses everybody.
    fn is_for_good(&self, refusal: &Refusal) -> bool {
        self.identity != IdentityId::OWN
            && refusal.cause == ConnectFailure::Auth
            && !refusal.message.starts_with("DENIED")
    }

    /// Closes the subscribers, as Redis closes those of a user who is deleted.
    fn revoke(&self, refused: &Failure) {
        let names = self.hub.borrow_mut().revoke(refused);
        self.gap.set(None); // nobody is left who has missed anything
        if names > 0
            && let Failure::Refused(reason) = refused
        {
            tracing::warn!(
                reason,
                names,
                "the server no longer accepts the user of a pub/sub connection; its subscribers are closed"
            );
        }
    }

    fn handle_failure(&self, worker: &Rc<Worker>, failure: Failure) {
        let own = Instant::now() + self.backoff.borrow_mut().next_pause();
        let at = worker.link.dialer.gate.retry_at().unwrap_or(own);
        self.retry_at.set(Some(at));
        let now = worker.link.now();
        let since = self.down.borrow().as_ref().map_or(now, |(since, _)| *since);
        *self.down.borrow_mut() = Some((since, failure));
    }

    /// Waits for `future`; clients that wait too long meanwhile get their error. `None` when nobody
    /// wants a connection any more.
    async fn waiting<F: Future>(
        &self,
        worker: &Rc<Worker>,
        cause: Option<Failure>,
        future: F,
    ) -> Option<F::Output> {
        let no_connection = || Failure::Unreachable("no connection yet".to_owned());
        let cause = cause.unwrap_or_else(no_connection);
        let mut future = pin!(future);
        loop {
            self.expire(worker, &cause);
            self.dispatch(worker, &[]);
            if !self.hub.borrow().is_wanted() {
                return None;
            }
            let check = match self.hub.borrow().has_joins() {
                true => QUEUE_CHECK,
                false => WANTED_CHECK,
            };
            tokio::select! {
                output = &mut future => return Some(output),
                () = self.wake.notified() => {}
                () = sleep(check) => {}
            }
        }
    }

    /// Fails what has waited longer than `queue_timeout`. While attempts have been failing for that
    /// long and none is due, nothing waits at all.
    fn expire(&self, worker: &Worker, cause: &Failure) {
        let limit = worker.link.dialer.config().queue_timeout.as_micros() as u64;
        let now = worker.link.now();
        let pausing = self.retry_at.get().is_some_and(|at| at > Instant::now());
        let down_since = self.down.borrow().as_ref().map_or(now, |(since, _)| *since);
        let hopeless = pausing && now.saturating_sub(down_since) >= limit;
        if let Some(before) = now
            .checked_sub(limit)
            .map(|b| if hopeless { now } else { b })
        {
            self.hub.borrow_mut().expire(before, cause);
        }
    }
}

/// Runs `future`; a panic ends it alone.
pub(in crate::worker) async fn guarded<F: Future>(future: F) -> Result<F::Output, ()> {
    let mut future = pin!(future);
    poll_fn(
        |cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
            Ok(poll) => poll.map(Ok),
            Err(_) => Poll::Ready(Err(())),
        },
    )
    .await
}

/// Leaves a hub ready for its next task, however this one ends.
struct LastWords<'a>(&'a HubConn);

impl Drop for LastWords<'_> {
    fn drop(&mut self) {
        self.0.running.set(false);
    }
}
