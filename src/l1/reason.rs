//! What happens to keys, and why reads of them are not answered from L1.

use std::fmt;

/// What happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A read was answered from L1.
    Hit,
    /// A read was not, though it could have been.
    Miss,
    /// A read could not have been.
    Bypass(Reason),
    /// A read was fetched, and the key changed before the answer could be kept.
    Lost,
    /// A command that may change it was sent.
    Write,
}

/// Why reads of a key are not answered from L1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// No rule of `cache.rules` matches it.
    NoRule,
    /// A rule says so.
    Rule,
    /// Its replies are longer than `max_value`.
    TooLarge,
    /// The command is none of those that L1 holds.
    Command,
    /// The client had other commands in flight.
    InFlight,
    /// The server does not push, or its connection is down.
    NotTracked,
    /// It changes about as often as a fill of it would have to be read to pay.
    Written,
    /// It is not read often enough to be worth a fill.
    TooSeldom,
}

impl Reason {
    /// In words, with what to do about it.
    pub fn advice(self) -> &'static str {
        match self {
            Self::NoRule => "no rule matches: add one to cache.rules",
            Self::Rule => "a rule excludes it",
            Self::TooLarge => "larger than max_value: raise it, or make the value smaller",
            Self::Command => "read by commands that are not cached",
            Self::InFlight => "read behind other commands of the same client",
            Self::NotTracked => "the server's pushes are not available: see /health",
            Self::Written => "changes about as often as it is read: caching cannot help",
            Self::TooSeldom => "read too seldom for a fill to pay",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.advice())
    }
}
