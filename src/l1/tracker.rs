//! A tracked connection, as all threads see it.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::Waker;
use std::time::Duration;

use super::clock::{Now, micros};
use super::entry::Scope;

/// Where a tracked connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Standing {
    /// Not open, and nobody has asked for it lately.
    Closed,
    /// Being opened, or waiting for the next attempt.
    Opening,
    /// Up, without pushes: what it fetches is good for its age.
    Timed,
    /// Up, and pushes arrive.
    Tracking,
}

/// A tracked connection, as all threads see it.
#[derive(Debug)]
pub struct Tracker {
    /// Whose reads it carries.
    pub scope: Scope,
    standing: AtomicU8,
    /// How often it was lost: entries of before are no longer told of changes.
    link: AtomicU64,
    /// When the newest of its requests was sent that has been answered.
    heard_mono: AtomicU64,
    heard_wall: AtomicU64,
    /// When the oldest of its requests was sent that has not been answered; zero without one.
    owed_since: AtomicU64,
    wants_ping: AtomicBool,
    wanted: AtomicBool,
    /// A task looks after it, or will.
    attended: AtomicBool,
    wants_renewal: AtomicBool,
    /// When anything was last wanted of it.
    used: AtomicU64,
    more: Mutex<More>,
}

#[derive(Debug, Default)]
struct More {
    waker: Option<Waker>,
    /// Why there are no pushes.
    reason: String,
}

impl Tracker {
    /// A connection that is not open.
    pub fn new(scope: Scope) -> Self {
        Self {
            scope,
            standing: AtomicU8::new(Standing::Closed as u8),
            link: AtomicU64::new(0),
            heard_mono: AtomicU64::new(0),
            heard_wall: AtomicU64::new(0),
            owed_since: AtomicU64::new(0),
            wants_ping: AtomicBool::new(false),
            wanted: AtomicBool::new(false),
            attended: AtomicBool::new(false),
            wants_renewal: AtomicBool::new(false),
            used: AtomicU64::new(0),
            more: Mutex::default(),
        }
    }

    /// Where it stands.
    #[inline]
    pub fn standing(&self) -> Standing {
        match self.standing.load(Ordering::Acquire) {
            0 => Standing::Closed,
            1 => Standing::Opening,
            2 => Standing::Timed,
            _ => Standing::Tracking,
        }
    }

    /// Notes where it stands; why it does not track, if there is more to say than that it is closed.
    pub fn set_standing(&self, standing: Standing, reason: Option<&str>) {
        if let Some(reason) = reason {
            reason.clone_into(&mut self.more().reason);
        }
        self.standing.store(standing as u8, Ordering::Release);
    }

    /// Why there are no pushes, in words; empty if nothing is known to be wrong.
    pub fn reason(&self) -> String {
        self.more().reason.clone()
    }

    /// It was lost: what was filled over it is no longer told of changes.
    pub fn lose(&self) {
        self.link.fetch_add(1, Ordering::SeqCst);
        self.owed_since.store(0, Ordering::Release);
    }

    /// How often it was lost.
    #[inline]
    pub fn link(&self) -> u64 {
        self.link.load(Ordering::SeqCst)
    }

    /// The answer to a request has come that was sent at `sent`, and all pushes before it are done.
    pub fn renew(&self, sent: Now) {
        self.heard_wall.store(sent.wall, Ordering::Release);
        self.heard_mono.store(sent.mono, Ordering::Release);
    }

    /// A round trip that began within `lease` is complete. Whoever goes on to look at stamps must have
    /// asked this first: what pushes said before is then to be seen.
    #[inline]
    pub fn is_fresh(&self, now: Now, lease: Duration) -> bool {
        now.since(self.heard()) <= micros(lease)
    }

    /// When the newest request was sent that has been answered.
    #[inline]
    pub fn heard(&self) -> Now {
        Now {
            mono: self.heard_mono.load(Ordering::Acquire),
            wall: self.heard_wall.load(Ordering::Acquire),
        }
    }

    /// Since when, by the monotonic clock, the oldest request without an answer waits.
    pub fn set_owed_since(&self, since: Option<Now>) {
        let since = since.map_or(0, |since| since.mono.max(1));
        self.owed_since.store(since, Ordering::Release);
    }

    /// A request has waited for its answer for longer than `limit`.
    pub fn is_stuck(&self, now: Now, limit: Duration) -> bool {
        let since = self.owed_since.load(Ordering::Acquire);
        since != 0 && now.mono.saturating_sub(since) > micros(limit)
    }

    /// A hit relied on it: a ping keeps the lease from lapsing under further ones.
    #[inline]
    pub fn note_hit(&self, now: Now, lease: Duration) {
        if now.since(self.heard()) > micros(lease) / 3
            && !self.wants_ping.load(Ordering::Relaxed)
            && !self.wants_ping.swap(true, Ordering::AcqRel)
        {
            self.wake();
        }
    }

    /// Whether a ping is wanted, once.
    pub fn take_ping(&self) -> bool {
        self.wants_ping.swap(false, Ordering::AcqRel)
    }

    /// Somebody has a use for it.
    pub fn want(&self, now: Now) {
        self.used.store(now.mono, Ordering::Relaxed);
        if !self.wanted.swap(true, Ordering::AcqRel) {
            self.wake();
        }
    }

    /// Whether somebody has had a use for it, since this was last asked.
    pub fn take_wanted(&self) -> bool {
        self.wanted.swap(false, Ordering::AcqRel)
    }

    /// When somebody last had a use for it, by the monotonic clock.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// True for the one who must see to it that a task looks after it.
    pub fn attend(&self) -> bool {
        !self.attended.swap(true, Ordering::AcqRel)
    }

    /// No task looks after it any more.
    pub fn leave(&self) {
        self.attended.store(false, Ordering::Release);
    }

    /// The server at its other end may not be the one it was: what was filled over it is no longer good,
    /// and it is to be opened anew.
    pub fn distrust(&self) {
        self.lose();
        self.wants_renewal.store(true, Ordering::Release);
        self.wake();
    }

    /// Whether it is to be opened anew, once.
    pub fn take_distrust(&self) -> bool {
        self.wants_renewal.swap(false, Ordering::AcqRel)
    }

    /// The task to wake when something is wanted.
    pub fn register(&self, waker: &Waker) {
        let mut more = self.more();
        if !more
            .waker
            .as_ref()
            .is_some_and(|known| known.will_wake(waker))
        {
            more.waker = Some(waker.clone());
        }
    }

    /// Has the connection's task look around.
    pub fn wake(&self) {
        let waker = self.more().waker.clone();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn more(&self) -> std::sync::MutexGuard<'_, More> {
        self.more.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
