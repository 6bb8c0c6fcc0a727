//! Commands of the hub whose answers have not come.

use super::Name;
use crate::resp::encode;

/// A command on its way; answers come in the order of the commands.
#[derive(Debug)]
pub(super) enum Sent {
    /// For a [`Join`](super::state::Join) of this number, or to restore what was lost.
    Subscribe(Name, Option<u64>),
    /// Nobody wants the name any more.
    Unsubscribe(Name, Option<Leave>),
    /// Keepalive, or the end of a subscription that others go on with.
    Ping(Option<Leave>),
}

/// What takes effect when the answer is met.
#[derive(Debug)]
pub(super) struct Leave {
    pub worker: usize,
    /// Who is told.
    pub ticket: Option<u64>,
    /// The worker listens to these no longer.
    pub names: Vec<Name>,
}

impl Sent {
    /// Appends the command.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Subscribe(name, _) => {
                let word = name.kind.subscribe().to_ascii_uppercase();
                encode::command(out, &[word.as_bytes(), &name.bytes]);
            }
            Self::Unsubscribe(name, _) => {
                let word = name.kind.unsubscribe().to_ascii_uppercase();
                encode::command(out, &[word.as_bytes(), &name.bytes]);
            }
            Self::Ping(_) => encode::command(out, &[b"PING"]),
        }
    }
}
