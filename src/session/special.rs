//! What few sessions have at a time: a transaction that is being queued, a state on the server that
//! holds a leased connection, a command that blocks.

use super::Session;
use super::transaction::Transaction;
use crate::resp::request::RequestScanner;

/// State that few sessions have; an ordinary one does without all of it.
#[derive(Debug, Default)]
pub(super) struct Special {
    /// MULTI was said.
    pub transaction: Option<Transaction>,
    /// Why the leased connection stays beyond what is in flight.
    pub pins: Pins,
    /// A command that may wait is in flight.
    pub blocked: bool,
    /// The reply in flight tells whether the state that was asked for has begun.
    pub judging: Option<Pin>,
}

/// A state on the server that belongs to this session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pin {
    /// WATCH, until EXEC, DISCARD or UNWATCH.
    Watch,
    /// CLIENT TRACKING ON.
    Tracking,
    /// MONITOR.
    Monitor,
    /// A command known to change its connection, such as READONLY.
    Known,
    /// A command that neither the proxy nor the server's COMMAND knows: it may have left anything.
    Unknown,
}

/// The states a session is in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Pins(u8);

impl Pins {
    pub fn contains(self, pin: Pin) -> bool {
        self.0 & pin.bit() != 0
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    fn insert(&mut self, pin: Pin) {
        self.0 |= pin.bit();
    }

    fn remove(&mut self, pin: Pin) {
        self.0 &= !pin.bit();
    }
}

impl Pin {
    fn bit(self) -> u8 {
        1 << self as u8
    }

    /// Whether this reply to the command that asked for the state says that there is none.
    fn is_denied_by(self, reply: &[u8]) -> bool {
        match self {
            Self::Unknown => reply.starts_with(b"-ERR unknown ") || reply.starts_with(b"-NOPERM"),
            _ => reply.starts_with(b"-"),
        }
    }
}

impl Special {
    /// Bytes of commands that wait for EXEC.
    pub fn queued_bytes(&self) -> usize {
        self.transaction.as_ref().map_or(0, Transaction::len)
    }
}

impl Session {
    pub(super) fn special_mut(&mut self) -> &mut Special {
        self.special.get_or_insert_default()
    }

    pub(super) fn has_pin(&self, pin: Pin) -> bool {
        self.special
            .as_ref()
            .is_some_and(|special| special.pins.contains(pin))
    }

    /// Commands go to the leased connection.
    pub(super) fn is_pinned(&self) -> bool {
        self.special
            .as_ref()
            .is_some_and(|special| !special.pins.is_empty())
    }

    /// SELECT is for the leased connection too; under MONITOR that one hears nothing more.
    pub(super) fn moves_lease(&self) -> bool {
        self.is_pinned() && !self.has_pin(Pin::Monitor)
    }

    /// The leased connection knows more of tracking than the session does.
    pub(super) fn is_tracked(&self) -> bool {
        self.has_pin(Pin::Tracking) && !self.has_pin(Pin::Monitor)
    }

    pub(super) fn in_transaction(&self) -> bool {
        self.special
            .as_ref()
            .is_some_and(|special| special.transaction.is_some())
    }

    /// A command of this session may be waiting on the server.
    pub fn is_blocked(&self) -> bool {
        self.special.as_ref().is_some_and(|special| special.blocked)
    }

    /// A command is in flight behind which nothing is looked at, as Redis looks at nothing that a blocked
    /// client says.
    pub(super) fn is_waiting(&self) -> bool {
        self.is_blocked() && self.pending.owed() > 0
    }

    /// Forgets a command that was held because replies are owed; false if there is none.
    pub fn forget_held(&mut self) -> bool {
        let forgets = self.pending.owed() > 0 && self.held.take().is_some();
        if forgets {
            self.scanned = 0;
            self.scanner = RequestScanner::default();
        }
        forgets
    }

    /// The leased connection is needed beyond what is in flight.
    pub fn needs_lease(&self) -> bool {
        self.is_streaming() || self.is_pinned()
    }

    pub(super) fn pin(&mut self, pin: Pin) {
        self.special_mut().pins.insert(pin);
    }

    /// A state is left. Where it was the last one, shared connections are used again once what is in
    /// flight on the leased one has come.
    pub(super) fn unpin(&mut self, pin: Pin) {
        let Some(special) = &mut self.special else {
            return;
        };
        special.pins.remove(pin);
        if special.pins.is_empty() {
            self.must_drain = self.pending.owed() > 0;
        }
        self.settle();
    }

    /// The next reply tells whether the state it was asked for has begun; nothing else is sent before.
    pub fn is_judging(&self) -> bool {
        self.special
            .as_ref()
            .is_some_and(|special| special.judging.is_some())
    }

    /// Takes the reply that [`Session::is_judging`] waits for. True if the leased connection is as it
    /// was before: the server does not know the command either, and nothing else was done on it.
    pub fn judge(&mut self, reply: &[u8]) -> bool {
        let judging = self.special.as_mut().and_then(|s| s.judging.take());
        let Some(pin) = judging.filter(|pin| pin.is_denied_by(reply)) else {
            return false;
        };
        self.unpin(pin);
        pin == Pin::Unknown && !self.is_pinned()
    }

    /// Nothing is owed any more: what lasted as long as a reply is over.
    pub(super) fn settle(&mut self) {
        let idle = self.pending.owed() == 0;
        if let Some(special) = &mut self.special {
            if idle {
                special.blocked = false;
                special.judging = None;
            }
            if special.transaction.is_none() && special.pins.is_empty() && !special.blocked {
                self.special = None;
            }
        }
    }
}
