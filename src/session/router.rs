//! What a session needs from the outside, and what it is given to look at.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::Poll;

use super::Query;
use crate::commands::CommandTable;
use crate::control::Paused;
use crate::hub::Topic;
use crate::l1::L1;
use crate::l1::entry::Read;
use crate::l1::hot::Hot;
use crate::l1::touched::Touched;
use crate::resp::request::Limits;
use crate::secret::Secret;
use crate::stats::Counters;
use crate::upstream::facts::Facts;
use crate::upstream::pipe::{Handling, Terms};
use crate::upstream::{IdentityId, LaneKey};

/// Whether a command may wait for an answer on its way; asked only if it comes to that.
pub type MayWait<'a> = &'a mut dyn FnMut() -> bool;

/// What a session needs from the outside. A `Pending` answer means: call [`feed`](super::Session::feed) again
/// after something changed; the same question will be asked again.
pub trait Router {
    /// Sends whole commands on a shared connection for `key`. The key never differs from that of
    /// commands still in flight.
    fn forward(&mut self, key: LaneKey, commands: &[u8], count: u32, terms: Terms);

    /// Answers reads from memory, one behind the other if there are several: true if the reply is in
    /// `out`, false if the command must travel. Only asked while nothing of the session is in flight.
    /// Pending only if it `may` wait.
    fn poll_read(&mut self, reads: &Reads<'_>, may: MayWait<'_>, out: &mut Vec<u8>) -> Poll<bool>;

    /// Reads that will be asked for as soon as what is waited for has come.
    fn prefetch(&mut self, reads: &Reads<'_>);

    /// What the server says of itself, asked on a connection for `key`; `None` if it cannot be asked
    /// now.
    fn poll_facts(&mut self, key: LaneKey) -> Poll<Option<Arc<Facts>>>;

    /// Whether the server has this database for this protocol, or the error it gives.
    fn poll_select(&mut self, key: LaneKey) -> Poll<Result<(), String>>;

    /// Whether the server speaks RESP3, asked on a connection for `key`; yes if it cannot be asked now.
    fn poll_resp3(&mut self, key: LaneKey) -> Poll<bool>;

    /// The session's commands travel in this name from here on: that of the last
    /// [`Router::poll_identity`], the one it had, or none. What else it had is let go.
    fn settle_identity(&mut self, identity: IdentityId);

    /// The reply to a question about the clients of this proxy, or about the proxy itself.
    fn poll_query(&mut self, query: &Query) -> Poll<Vec<u8>>;

    /// Subscribes to names that the session has not got: ready when the server has confirmed all of
    /// them, or with the error to give. Messages come from then on.
    fn poll_subscribe(&mut self, topics: &[Topic]) -> Poll<Result<(), String>>;

    /// Ends subscriptions of the session: ready when all messages have come that were published
    /// before. None come from then on.
    fn poll_unsubscribe(&mut self, topics: &[Topic]) -> Poll<()>;

    /// Whether the server lets this identity use MULTI, or the error to give.
    fn poll_transactions(&mut self, key: LaneKey) -> Poll<Result<(), String>>;

    /// This very client was among those that a query closed: what it said behind that is not heard.
    fn is_killed(&self) -> bool;

    /// A leased connection, or the error to give. It stays with the session until
    /// [`Session::needs_lease`](super::Session::needs_lease) says no and nothing is owed: who is given
    /// one must use it in the same call of feed. Those who wait get theirs in the order in which they
    /// asked first; a client that hangs up while it waits is gone.
    fn poll_lease(&mut self, key: LaneKey) -> Poll<Result<(), String>>;

    /// Sends whole commands on the leased connection.
    fn forward_leased(&mut self, commands: &[u8], count: u32, terms: Terms);

    /// The leased connection is not for others after this session.
    fn taint_lease(&mut self);

    /// Gives the leased connection up at once: nothing more of it may reach this session.
    fn drop_lease(&mut self);

    /// What comes on the leased connection behind the reply to the command that follows are lines of
    /// MONITOR.
    fn expect_lines(&mut self);

    /// Announces one large request on the leased connection; its bytes follow.
    fn begin_stream(&mut self, touched: Touched);

    /// Passes a part of a large request on to the leased connection; `end` with the last part.
    fn stream(&mut self, part: &[u8], end: Option<Handling>);

    /// Whose connections a client may use that presents this user and password, for `key`'s database
    /// and protocol; or the error of the server, which is asked each time.
    fn poll_identity(
        &mut self,
        key: LaneKey,
        user: &[u8],
        password: &[u8],
    ) -> Poll<Result<IdentityId, String>>;
}

/// Settings that sessions look at.
#[derive(Debug)]
pub struct Settings {
    /// Password that clients must present.
    pub password: Option<Secret>,
    /// Clients come with users of the server.
    pub passthrough: bool,
    /// Database of a new session.
    pub database: u32,
    /// Requests above this many bytes travel on a leased connection.
    pub large_request: usize,
    /// Limits of the request scanner.
    pub limits: Limits,
    /// Memory is short: large requests are refused.
    pub pressed: Arc<AtomicBool>,
}

impl Settings {
    /// Clients need not say who they are.
    pub fn lets_everybody_in(&self) -> bool {
        self.password.is_none() && !self.passthrough
    }
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
    /// L1, where there is one.
    pub l1: Option<&'a L1>,
    /// Which keys are used most, where there is an L1.
    pub hot: Option<&'a Hot>,
    /// Which commands are held.
    pub paused: Paused,
}

/// One command that reads, of one key or of several.
#[derive(Debug)]
pub enum Reads<'a> {
    /// The reply to this read is the reply to the command.
    One(Read<'a>),
    /// `MGET`: the reply is an array of what these yield.
    Many(Vec<Read<'a>>),
}
