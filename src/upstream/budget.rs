//! The hard ceiling on connections to the upstream.
//!
//! Every connection of the process, on whatever thread and for whatever use, holds a [`Permit`] from
//! before it is opened until it is closed. When none is free, whoever holds an idle connection is asked
//! to give it up, and the one who asks waits its turn.
//!
//! Leased connections never take the last permit: however many clients block, a shared connection can
//! be opened for all the others.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::futures::OwnedNotified;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::stats::UpstreamStats;

/// The ceiling and who is below it.
#[derive(Debug)]
pub struct Budget {
    max: usize,
    free: Arc<Semaphore>,
    /// What of it leased connections may have.
    leasable: Arc<Semaphore>,
    wishes: Mutex<Wishes>,
    idle_wanted: Arc<Notify>,
    /// How many `wishes.waiting` has, cheap to look at.
    waiting: AtomicUsize,
    /// Grows with every call for an idle connection.
    calls: AtomicU64,
    stats: Arc<UpstreamStats>,
}

/// Who waits for a permit, and how many connections are being closed for them.
#[derive(Debug, Default)]
struct Wishes {
    /// Since when each waits, and what helps; keys grow, so the first has waited longest.
    waiting: BTreeMap<u64, (Instant, Want)>,
    next: u64,
    promised: usize,
}

/// Which connection must be closed for somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Want {
    Any,
    Leased,
}

/// The right to one connection.
#[derive(Debug)]
pub struct Permit {
    budget: Arc<Budget>,
    _permit: OwnedSemaphorePermit,
    _leasable: Option<OwnedSemaphorePermit>,
}

impl Budget {
    /// A budget of `max` connections.
    pub fn new(max: usize, stats: Arc<UpstreamStats>) -> Arc<Self> {
        Arc::new(Self {
            max,
            free: Arc::new(Semaphore::new(max)),
            leasable: Arc::new(Semaphore::new(max.saturating_sub(1).max(1))),
            wishes: Mutex::default(),
            idle_wanted: Arc::new(Notify::new()),
            waiting: AtomicUsize::new(0),
            calls: AtomicU64::new(0),
            stats,
        })
    }

    /// The ceiling.
    pub fn max(&self) -> usize {
        self.max
    }

    /// A permit if one is free now.
    pub fn try_acquire(self: &Arc<Self>) -> Option<Permit> {
        self.free
            .clone()
            .try_acquire_owned()
            .ok()
            .map(|permit| self.count(permit))
    }

    /// A permit, however long it takes: who asked first gets the first that comes free. Dropping the
    /// future ends the wait. `None` once no permit will ever come.
    pub async fn acquire(self: &Arc<Self>) -> Option<Permit> {
        if let Some(permit) = self.try_acquire() {
            return Some(permit);
        }
        let waiting = Waiting::new(self, Want::Any);
        self.call();
        let permit = self.free.clone().acquire_owned().await;
        drop(waiting);
        permit.ok().map(|permit| self.count(permit))
    }

    /// [`Budget::acquire`] for a leased connection.
    pub async fn acquire_leased(self: &Arc<Self>) -> Option<Permit> {
        let leasable = match self.leasable.clone().try_acquire_owned() {
            Ok(leasable) => leasable,
            Err(_) => {
                let _waiting = Waiting::new(self, Want::Leased);
                self.call();
                self.leasable.clone().acquire_owned().await.ok()?
            }
        };
        let mut permit = self.acquire().await?;
        permit._leasable = Some(leasable);
        Some(permit)
    }

    /// For how long somebody has been waiting for a permit by now, at most.
    pub fn longest_wait(&self) -> Option<Duration> {
        if !self.is_wanted() {
            return None;
        }
        let wishes = self.wishes();
        wishes
            .waiting
            .values()
            .next()
            .map(|(since, _)| since.elapsed())
    }

    /// Somebody waits for a permit and no connection is being closed for it yet. True obliges the
    /// caller to close an idle connection, which is a `leased` one or not.
    pub fn take_wish(&self, leased: bool) -> bool {
        let mut wishes = self.wishes();
        let helped = wishes
            .waiting
            .values()
            .filter(|(_, want)| leased || *want == Want::Any);
        let open = wishes.promised < helped.count();
        wishes.promised += usize::from(open);
        open
    }

    fn wishes(&self) -> MutexGuard<'_, Wishes> {
        self.wishes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Completes when somebody begins to wait for a permit.
    pub fn idle_wanted(&self) -> OwnedNotified {
        self.idle_wanted.clone().notified_owned()
    }

    /// Calls for an idle connection so far: whoever has seen fewer has a completed
    /// [`Budget::idle_wanted`] to renew.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Acquire)
    }

    fn call(&self) {
        self.calls.fetch_add(1, Ordering::Release);
        self.idle_wanted.notify_waiters();
    }

    /// Permits that are free now.
    pub fn free(&self) -> usize {
        self.free.available_permits()
    }

    /// Somebody waits for a permit.
    pub fn is_wanted(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    fn count(self: &Arc<Self>, permit: OwnedSemaphorePermit) -> Permit {
        let now = self.stats.connections.fetch_add(1, Ordering::Relaxed) + 1;
        self.stats
            .connections_peak
            .fetch_max(now, Ordering::Relaxed);
        Permit {
            budget: self.clone(),
            _permit: permit,
            _leasable: None,
        }
    }
}

/// Counts a waiter for as long as it waits.
struct Waiting<'a> {
    budget: &'a Budget,
    number: u64,
}

impl<'a> Waiting<'a> {
    fn new(budget: &'a Budget, want: Want) -> Self {
        let mut wishes = budget.wishes();
        let number = wishes.next;
        wishes.next += 1;
        wishes.waiting.insert(number, (Instant::now(), want));
        budget.waiting.fetch_add(1, Ordering::Relaxed);
        drop(wishes);
        Self { budget, number }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut wishes = self.budget.wishes();
        wishes.waiting.remove(&self.number);
        self.budget.waiting.fetch_sub(1, Ordering::Relaxed);
        wishes.promised = wishes.promised.saturating_sub(1);
        if wishes.promised < wishes.waiting.len() {
            drop(wishes);
            self.budget.call();
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.budget
            .stats
            .connections
            .fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn leased_connections_leave_one_permit_to_the_others() {
        let budget = Budget::new(2, Arc::default());
        let leased = budget.acquire_leased().await.expect("one is free");
        let brief = tokio::time::timeout(Duration::from_millis(1), budget.acquire_leased());
        assert!(brief.await.is_err());
        let mut second = std::pin::pin!(budget.acquire_leased());
        assert!(futures_pending(second.as_mut()).await);
        assert!(
            !budget.take_wish(false),
            "a shared connection would not help"
        );
        assert!(budget.take_wish(true));
        assert!(budget.try_acquire().is_some());
        drop(leased);
        assert!(second.await.is_some());
    }

    async fn futures_pending<F: Future + Unpin>(mut future: F) -> bool {
        std::future::poll_fn(|cx| {
            std::task::Poll::Ready(std::pin::Pin::new(&mut future).poll(cx).is_pending())
        })
        .await
    }

    #[tokio::test]
    async fn a_waiter_gets_the_permit_of_an_idle_connection() {
        let stats = Arc::new(UpstreamStats::default());
        let budget = Budget::new(1, stats.clone());
        let permit = budget.try_acquire().expect("one is free");
        assert!(budget.try_acquire().is_none());
        let brief = tokio::time::timeout(Duration::from_millis(1), budget.acquire());
        assert!(brief.await.is_err());
        assert!(!budget.take_wish(false) && budget.longest_wait().is_none());
        let (got, ()) = tokio::join!(budget.acquire(), async {
            while !budget.take_wish(false) {
                tokio::task::yield_now().await;
            }
            assert!(!budget.take_wish(false), "one wish closes one connection");
            assert!(budget.longest_wait().is_some());
            drop(permit);
        });
        assert!(got.is_some());
        assert_eq!(stats.connections_peak.load(Ordering::Relaxed), 1);
    }
}
