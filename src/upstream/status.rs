//! Where a connection stands, visible to all threads.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Instant;

use super::reply_to::Failure;

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// No socket and no task.
    Idle,
    /// Being opened, or waiting for the next attempt.
    Opening,
    /// Up.
    Open,
}

/// The state of one connection and who waits for it to change.
#[derive(Debug, Default)]
pub struct Status {
    state: AtomicU8,
    /// Grows whenever any connection of the process changes, for those who choose among them.
    epoch: Arc<AtomicU64>,
    more: Mutex<More>,
}

#[derive(Debug, Default)]
struct More {
    /// Why it could not be opened, and until when nobody needs to ask again.
    failure: Option<(Failure, Instant)>,
    watchers: Vec<Waker>,
}

impl Status {
    /// A connection that is not open, counted in `epoch`.
    pub fn new(epoch: Arc<AtomicU64>) -> Self {
        Self {
            epoch,
            ..Self::default()
        }
    }

    /// Where it stands.
    pub fn state(&self) -> State {
        match self.state.load(Ordering::Acquire) {
            0 => State::Idle,
            1 => State::Opening,
            _ => State::Open,
        }
    }

    /// Notes a change and wakes who waits for it.
    pub fn set(&self, state: State) {
        let before = self.state.swap(state as u8, Ordering::AcqRel);
        self.epoch.fetch_add(1, Ordering::Release);
        let mut more = self.more();
        if state == State::Opening && before != State::Open as u8 {
            return; // nobody waits for that
        }
        if state == State::Open {
            more.failure = None;
        }
        let watchers = std::mem::take(&mut more.watchers);
        drop(more);
        watchers.into_iter().for_each(Waker::wake);
    }

    /// An attempt has failed; until `until` the answer stays the same.
    pub fn fail(&self, failure: Failure, until: Instant) {
        let mut more = self.more();
        more.failure = Some((failure, until));
        let watchers = std::mem::take(&mut more.watchers);
        drop(more);
        watchers.into_iter().for_each(Waker::wake);
    }

    /// `Ready` once the connection is up, or with the reason why it is not; otherwise calls `open` if
    /// nobody is opening it, and registers the waker.
    pub fn poll_open(&self, waker: &Waker, open: impl FnOnce()) -> Poll<Result<(), Failure>> {
        if self.state() == State::Open {
            return Poll::Ready(Ok(()));
        }
        let mut more = self.more();
        // Under the lock: who changes the state from here on will find the waker.
        let state = self.state();
        if state == State::Open {
            return Poll::Ready(Ok(()));
        }
        if let Some((failure, until)) = &more.failure
            && *until > Instant::now()
        {
            return Poll::Ready(Err(failure.clone()));
        }
        more.watchers.push(waker.clone());
        drop(more);
        if state == State::Idle {
            open();
        }
        Poll::Pending
    }

    /// `Ready` once the connection is not up any more.
    pub fn poll_ended(&self, waker: &Waker) -> Poll<()> {
        let mut more = self.more();
        if self.state() != State::Open {
            return Poll::Ready(());
        }
        more.watchers.push(waker.clone());
        Poll::Pending
    }

    /// Somebody waits for it to open.
    pub fn is_watched(&self) -> bool {
        !self.more().watchers.is_empty()
    }

    fn more(&self) -> MutexGuard<'_, More> {
        self.more.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;
    use std::time::Duration;

    use super::*;

    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn who_asks_for_a_connection_is_still_waiting_once_it_is_being_opened() {
        let (status, count) = (Status::default(), Arc::new(Count(AtomicUsize::new(0))));
        let waker = Waker::from(count.clone());
        let mut opened = 0;
        let open = || {
            opened += 1;
            status.set(State::Opening);
        };
        assert!(status.poll_open(&waker, open).is_pending());
        assert_eq!(opened, 1);
        assert!(status.is_watched());
        status.set(State::Open);
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert_eq!(status.poll_open(&waker, || {}), Poll::Ready(Ok(())));
    }

    #[test]
    fn a_failure_is_the_answer_until_it_is_old() {
        let status = Status::default();
        let waker = Waker::noop();
        status.fail(Failure::Busy(3), Instant::now() + Duration::from_secs(60));
        assert_eq!(
            status.poll_open(waker, || {}),
            Poll::Ready(Err(Failure::Busy(3)))
        );
        status.fail(Failure::Busy(3), Instant::now());
        assert!(status.poll_open(waker, || {}).is_pending());
    }
}
