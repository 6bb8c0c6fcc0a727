//! A connection that belongs to one session at a time: who holds it, and how it is left.

use std::task::{Poll, Waker};

use super::conn::Conn;
use super::reply_to::ReplyTo;
use super::status::State;

impl<W: ReplyTo> Conn<W> {
    /// Gives a leased connection to a session, or takes it back.
    pub fn set_holder(&self, holder: Option<W>) {
        let held = holder.is_some();
        let counter = &self.link.stats.counters.leases_held;
        match (self.holder.replace(holder).is_some(), held) {
            (false, true) => counter.add(1),
            (true, false) => counter.sub(1),
            _ => {}
        }
        let was_idle = self.idle.replace(!held);
        if !held && !was_idle {
            // Its time as an idle connection begins.
            self.core.borrow_mut().last_used = self.link.now();
            self.wake();
        }
    }

    /// What [`Conn::taint`] was said for has not happened: others may have it.
    pub fn clear(&self) {
        self.tainted.set(false);
    }

    /// Nobody misses it if it is closed while nothing is in flight.
    pub(super) fn is_idle(&self) -> bool {
        self.idle.get()
    }

    /// Whom it belongs to.
    pub(super) fn holder(&self) -> Option<W> {
        self.holder.borrow().clone()
    }

    /// It waits for its turn below the ceiling: nothing was opened yet.
    pub fn is_queueing(&self) -> bool {
        self.state() != State::Open && !self.permitted.get()
    }

    /// `Ready` once a connection that was up is not any more.
    pub fn poll_ended(&self, waker: &Waker) -> Poll<()> {
        self.status.poll_ended(waker)
    }

    /// The client that holds the connection is gone. Whatever it waits for ends with the connection,
    /// at once.
    pub fn abandon(&self) {
        self.abandoned.set(true);
        self.set_holder(None);
        self.close();
    }

    /// [`Conn::abandon`] was called.
    pub(super) fn is_abandoned(&self) -> bool {
        self.abandoned.get()
    }

    /// Its holder loses it: it is gone.
    pub(super) fn release_holder(&self) {
        let holder = self.holder();
        self.set_holder(None);
        if let Some(holder) = holder {
            holder.abandoned();
        }
    }
}
