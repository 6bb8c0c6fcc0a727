//! What operators steer the running process with: holding commands, and reading the configuration anew.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

/// What became of a reload: what to say of it, or what is wrong.
pub type Reloaded = Result<String, String>;

/// Somebody wants the configuration read anew, and to be told.
pub type Wish = oneshot::Sender<Reloaded>;

/// What the whole process shares.
#[derive(Debug, Default)]
pub struct Control {
    /// Whether commands are held.
    pub pause: Pause,
    /// How reloads went.
    pub reloads: Reloads,
    wishes: Mutex<Option<UnboundedSender<Wish>>>,
}

/// Which commands are held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Paused {
    /// None.
    #[default]
    No,
    /// Those that are not known only to read.
    Writes,
    /// All that would travel to the server.
    All,
}

/// Whether commands are held, and until when.
#[derive(Debug, Default)]
pub struct Pause {
    scope: AtomicU8,
    more: Mutex<More>,
}

#[derive(Debug, Default)]
struct More {
    until: Option<Instant>,
    /// Grows with every pause: the end of one does not end its successor.
    number: u64,
}

/// How reloads went.
#[derive(Debug, Default)]
pub struct Reloads {
    /// The latest one changed nothing, for what it read was wrong.
    pub failed: AtomicBool,
    /// Those that took effect.
    pub done: AtomicU64,
    /// Those that did not.
    pub refused: AtomicU64,
    /// What was wrong with the latest one.
    problem: Mutex<String>,
}

impl Control {
    /// Wishes go there.
    pub fn set_reloader(&self, wishes: UnboundedSender<Wish>) {
        *lock(&self.wishes) = Some(wishes);
    }

    /// Has the configuration read anew.
    pub async fn reload(&self) -> Reloaded {
        let (send, receive) = oneshot::channel();
        let asked = lock(&self.wishes)
            .as_ref()
            .is_some_and(|wishes| wishes.send(send).is_ok());
        let gone = || Err("the process is ending".to_owned());
        if !asked {
            return gone();
        }
        receive.await.unwrap_or_else(|_| gone())
    }
}

impl Pause {
    /// What is held now.
    #[inline]
    pub fn scope(&self) -> Paused {
        match self.scope.load(Ordering::Acquire) {
            0 => Paused::No,
            1 => Paused::Writes,
            _ => Paused::All,
        }
    }

    /// Holds commands from here on; returns the number of this pause.
    pub fn begin(&self, scope: Paused, limit: Duration) -> u64 {
        let mut more = lock(&self.more);
        more.until = Some(Instant::now() + limit);
        more.number += 1;
        self.scope.store(scope as u8, Ordering::Release);
        more.number
    }

    /// Ends the pause of this number, or whichever there is; false if there is none.
    pub fn end(&self, number: Option<u64>) -> bool {
        let mut more = lock(&self.more);
        if more.until.is_none() || number.is_some_and(|number| number != more.number) {
            return false;
        }
        more.until = None;
        self.scope.store(Paused::No as u8, Ordering::Release);
        true
    }

    /// For how long it will last, if nobody ends it.
    pub fn left(&self) -> Option<Duration> {
        let until = lock(&self.more).until?;
        Some(until.saturating_duration_since(Instant::now()))
    }
}

impl Reloads {
    /// Notes how one went.
    pub fn note(&self, reloaded: &Reloaded) {
        self.failed.store(reloaded.is_err(), Ordering::Relaxed);
        let count = if reloaded.is_ok() {
            &self.done
        } else {
            &self.refused
        };
        count.fetch_add(1, Ordering::Relaxed);
        let problem = reloaded.as_ref().err().cloned();
        *lock(&self.problem) = problem.unwrap_or_default();
    }

    /// What was wrong with the latest one, if it was refused.
    pub fn problem(&self) -> Option<String> {
        let problem = lock(&self.problem).clone();
        (!problem.is_empty()).then_some(problem)
    }
}

/// A control that nobody steers.
pub fn idle() -> Arc<Control> {
    Arc::default()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_pause_does_not_end_its_successor() {
        let pause = Pause::default();
        let first = pause.begin(Paused::All, Duration::from_secs(60));
        let second = pause.begin(Paused::Writes, Duration::from_secs(60));
        assert!(!pause.end(Some(first)));
        assert_eq!(pause.scope(), Paused::Writes);
        assert!(pause.left().is_some());
        assert!(pause.end(Some(second)));
        assert_eq!((pause.scope(), pause.left()), (Paused::No, None));
        assert!(!pause.end(None));
    }

    #[test]
    fn a_reload_that_is_refused_shows_until_one_is_not() {
        let reloads = Reloads::default();
        reloads.note(&Err("line 3".to_owned()));
        assert!(reloads.failed.load(Ordering::Relaxed));
        assert_eq!(reloads.problem().as_deref(), Some("line 3"));
        reloads.note(&Ok(String::new()));
        assert!(!reloads.failed.load(Ordering::Relaxed));
        assert_eq!(reloads.problem(), None);
    }
}
