//! The hub: subscriptions of many clients carried by one upstream connection, without I/O.
//!
//! All workers tell the hub which names they want; the hub subscribes to each once and hands what comes
//! to the workers that listen. Its promise is that a client cannot tell it from a subscription of its
//! own: no message that was published before its SUBSCRIBE, every one that was published before its
//! UNSUBSCRIBE. So both travel to the server, every time, and take effect when the answer is met in the
//! stream of messages:
//!
//! * a subscriber listens from the confirmation of a SUBSCRIBE that was sent for it, even where the
//!   name was subscribed to already;
//! * it listens until the confirmation of the UNSUBSCRIBE, or, where others still want the name, until
//!   the reply to a PING.
//!
//! What is *wanted* follows the requests at once and decides which commands are sent; who *listens*
//! follows the answers.

mod census;
mod frame;
mod sent;
mod state;
#[cfg(test)]
mod tests;

pub use census::Census;
pub use frame::{Frame, parse};
pub use state::{Desync, Hub, Letter, Request};

use crate::upstream::IdentityId;

/// What a name means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// SUBSCRIBE.
    Channel,
    /// PSUBSCRIBE.
    Pattern,
    /// SSUBSCRIBE.
    Shard,
}

impl Kind {
    /// All kinds, in the order of their discriminants.
    pub const ALL: [Self; 3] = [Self::Channel, Self::Pattern, Self::Shard];

    /// The command that subscribes, in the words of confirmations.
    pub fn subscribe(self) -> &'static str {
        match self {
            Self::Channel => "subscribe",
            Self::Pattern => "psubscribe",
            Self::Shard => "ssubscribe",
        }
    }

    /// The command that ends a subscription, in the words of confirmations.
    pub fn unsubscribe(self) -> &'static str {
        match self {
            Self::Channel => "unsubscribe",
            Self::Pattern => "punsubscribe",
            Self::Shard => "sunsubscribe",
        }
    }

    /// The word in metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Channel => "channel",
            Self::Pattern => "pattern",
            Self::Shard => "shard",
        }
    }
}

/// A name within one hub.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Name {
    /// What it means.
    pub kind: Kind,
    /// As the client wrote it.
    pub bytes: Box<[u8]>,
}

/// A name and whose hub carries it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Topic {
    /// In whose name it was subscribed to.
    pub identity: IdentityId,
    /// The name.
    pub name: Name,
}
