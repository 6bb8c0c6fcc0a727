//! What a session needs from the outside, and what it is given to look at.

use std::sync::Arc;
use std::task::Poll;

use super::Query;
use crate::commands::CommandTable;
use crate::resp::request::Limits;
use crate::secret::Secret;
use crate::stats::Counters;
use crate::upstream::LaneKey;
use crate::upstream::facts::Facts;
use crate::upstream::pipe::Handling;

/// What a session needs from the outside. A `Pending` answer means: call [`feed`](super::Session::feed) again
/// after something changed; the same question will be asked again.
pub trait Router {
    /// Sends whole commands on a shared connection for `key`. The key never differs from that of
    /// commands still in flight.
    fn forward(&mut self, key: LaneKey, commands: &[u8], count: u32, handling: Handling);

    /// What the server says of itself, asked on a connection for `key`; `None` if it cannot be asked
    /// now.
    fn poll_facts(&mut self, key: LaneKey) -> Poll<Option<Arc<Facts>>>;

    /// Whether the server has this database for this protocol, or the error it gives.
    fn poll_select(&mut self, key: LaneKey) -> Poll<Result<(), String>>;

    /// Whether the server speaks RESP3; yes if it cannot be asked now.
    fn poll_resp3(&mut self, db: u32) -> Poll<bool>;

    /// The reply to a question about the clients of this proxy, or about the proxy itself.
    fn poll_query(&mut self, query: &Query) -> Poll<Vec<u8>>;

    /// A leased connection for one large request, or the error to give.
    fn poll_lease(&mut self, key: LaneKey) -> Poll<Result<(), String>>;

    /// Passes a part of a large request on to the leased connection; `end` with the last part.
    fn stream(&mut self, part: &[u8], end: Option<Handling>);
}

/// Settings that sessions look at.
#[derive(Debug)]
pub struct Settings {
    /// Password that clients must present.
    pub password: Option<Secret>,
    /// Database of a new session.
    pub database: u32,
    /// Requests above this many bytes travel on a leased connection.
    pub large_request: usize,
    /// Limits of the request scanner.
    pub limits: Limits,
}

/// What a session looks at while it is fed.
pub struct Env<'a> {
    /// The client id: unique in this process, never reused.
    pub id: u64,
    /// Settings.
    pub settings: &'a Settings,
    /// The command table in force.
    pub table: &'a CommandTable,
    /// Counters of this worker.
    pub counters: &'a Counters,
}
