//! The wire: where commands and replies begin and end.
//!
//! Bytes from either side are first cut into whole commands ([`request`]) and whole replies
//! ([`reply`]) by scanners that never look at a byte twice, allocate nothing for what a peer merely
//! declares and do not recurse. The few replies whose meaning matters are then read into a
//! [`Value`]; everything else passes on as the bytes that came. [`encode`] writes what Nearkey says
//! itself.

use std::borrow::Cow;
use std::fmt;

mod args;
pub mod encode;
mod http;
pub mod inline;
pub mod reply;
pub mod request;
mod scan;
#[cfg(test)]
pub(crate) mod steps;
mod value;

#[cfg(test)]
mod proptests;

pub use reply::{ReplyError, ReplyKind, ReplyScan, ReplyScanner};
pub use request::{Args, Kind, Limits, RequestError, RequestScanner, Scan, args};
pub use value::{Value, decode};

/// Longest inline command, and longest line with a count or a length in a request (Redis's
/// `PROTO_INLINE_MAX_SIZE`).
pub const MAX_INLINE: usize = 64 * 1024;

/// Default limit of arguments per command. Redis itself stops at `INT_MAX`; this leaves room for an
/// `MSET` of eight million keys while it bounds what one command can make a session wait for.
pub const MAX_ARGS: u32 = 16 * 1024 * 1024;

/// Default limit of one argument, Redis's default `proto-max-bulk-len`.
pub const MAX_BULK: u64 = 512 * 1024 * 1024;

/// Most arguments a command may have before the client has authenticated.
pub const UNAUTHENTICATED_ARGS: u32 = 10;

/// Longest argument before the client has authenticated.
pub const UNAUTHENTICATED_BULK: u64 = 16 * 1024;

/// Longest bulk string in a reply. Redis stores up to 512 MB per value by default, more where
/// `proto-max-bulk-len` was raised; a length above this one is a stream out of step.
pub const MAX_REPLY_BULK: u64 = 4 * 1024 * 1024 * 1024;

/// Longest simple string, error, double or big number in a reply.
pub const MAX_REPLY_LINE: u32 = 1024 * 1024;

/// Most elements in one aggregate of a reply; a map's keys and values count one each.
pub const MAX_REPLY_ELEMENTS: u32 = 1 << 31;

/// Deepest nesting of a reply. An honest Redis answers a script's table with up to 7,995 levels.
pub const MAX_DEPTH: u32 = 16_384;

/// Deepest nesting of a reply that [`decode`] reads. `COMMAND` needs 8 levels, `COMMAND DOCS` 12.
pub const MAX_DECODE_DEPTH: u32 = 32;

/// Which version of the protocol a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// RESP2, what every connection starts with.
    Resp2,
    /// RESP3, chosen by `HELLO 3`.
    Resp3,
}

/// A client broke the protocol; the text is what follows `-ERR Protocol error: `.
///
/// It holds no CR, LF or unprintable byte, whatever the client sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProtocolError(pub Cow<'static, str>);

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Protocol error: {}", self.0)
    }
}

impl std::error::Error for ProtocolError {}
