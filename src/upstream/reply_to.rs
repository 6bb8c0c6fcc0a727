//! Whom replies are for, as seen by a connection.

use std::time::Duration;

use super::inquiry::Inquiry;
use super::logins::Question;
use super::pipe::{Handling, Piece};

/// Why commands will get no reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Not sent: no connection within `queue_timeout`.
    Unreachable(String),
    /// Not sent: no connection, and too many commands wait for one.
    Crowded {
        /// Why there is no connection.
        cause: String,
        /// `queue_commands`.
        most: usize,
    },
    /// Not sent: no permit within `lease_timeout`.
    Busy(usize),
    /// Not sent: the server has no room for one more connection, as it says.
    Full(String),
    /// Not sent: the server does not have this database or protocol.
    Refused(String),
    /// Sent, and no reply within `command_timeout`.
    Timeout(Duration),
    /// Sent, perhaps executed, and the connection is gone.
    Lost,
    /// The connection went away in the middle of a reply that was partly passed on.
    Torn,
}

/// Whom replies are for.
pub trait ReplyTo: Clone + 'static {
    /// Takes a part of the replies. May leave the bytes where they are until [`ReplyTo::flush`] if it
    /// adds itself to `batch`.
    fn deliver(&self, input: &[u8], piece: Piece, batch: &mut Vec<Self>);

    /// Takes a push, or a part of one, that came on the connection leased to this owner. Like
    /// [`ReplyTo::deliver`], in order with the replies.
    fn push(&self, input: &[u8], piece: Piece, batch: &mut Vec<Self>);

    /// The connection leased to this owner is gone, and with it what it stood for on the server.
    fn abandoned(&self);

    /// All replies of this read have been delivered.
    fn flush(&self, input: &[u8]);

    /// `count` commands will get no reply.
    fn fail(&self, failure: &Failure, count: u32, handling: Handling);

    /// Nothing reaches this owner any more.
    fn is_gone(&self) -> bool {
        false
    }

    /// Equal for equal owners.
    fn identity(&self) -> u64;

    /// Bytes of replies that wait for a slow client.
    fn backlog(&self) -> usize;

    /// Bytes of replies that the client has taken so far.
    fn taken(&self) -> u64;

    /// The connection can take more commands again.
    fn resume(&self);
}

/// Who a run belongs to.
#[derive(Clone, Debug)]
pub enum Owner<W> {
    /// A client.
    Client(W),
    /// The proxy: a keepalive ping.
    Ping,
    /// The proxy: a ping with this number, which must come back.
    Proof(u64),
    /// The proxy: a ping whose answer others wait for.
    Probe,
    /// The proxy: COMMAND.
    Facts,
    /// The proxy, for a client: may it do this?
    Question(Question),
    /// The proxy: INFO.
    Inquiry(Inquiry),
}
