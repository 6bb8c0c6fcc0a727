//! The Redis side: connections, what travels on them, and what answers it.

use std::path::PathBuf;
use std::time::Duration;

use crate::downstream::TlsIdentity;
use crate::resp::Protocol;
use crate::secret::Secret;

pub mod backoff;
pub mod budget;
pub mod conn;
pub mod dial;
pub mod facts;
mod farewell;
pub mod gap;
pub mod handshake;
mod harvest;
mod hold;
mod lease;
pub mod link;
pub mod logins;
pub mod loss;
pub mod open;
pub mod outbox;
pub mod pipe;
pub mod provider;
pub mod reply_to;
mod serve;
mod shown;
pub mod status;
pub mod stream;
pub mod tls;

/// What shared connections are opened for: sessions with equal keys can share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LaneKey {
    /// Database.
    pub db: u32,
    /// Protocol of clients and connection alike.
    pub protocol: Protocol,
    /// Whose connection it is.
    pub identity: IdentityId,
}

/// Whose name an upstream connection is opened in; equal numbers mean equal user and password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IdentityId(pub u32);

impl IdentityId {
    /// The proxy's own credentials.
    pub const OWN: Self = Self(0);
}

/// Settings of the Redis side (`[upstream]`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where the server is.
    pub address: Address,
    /// `None` speaks plain TCP.
    pub tls: Option<TlsConfig>,
    /// Whose name connections are opened in.
    pub auth: Auth,
    /// ACL user; `None` authenticates as the default user.
    pub username: Option<String>,
    /// Password or token; `None` does not authenticate.
    pub password: Option<Secret>,
    /// Database that a client is in before it says SELECT.
    pub database: u32,
    /// Hard ceiling on all connections this process opens to the upstream.
    pub max_connections: usize,
    /// Shared connections per database, protocol and identity.
    pub connections: usize,
    /// Limit on TCP connect, TLS and the handshake together.
    pub connect_timeout: Duration,
    /// Longest wait for the reply to one command.
    pub command_timeout: Duration,
    /// Longest wait of a command for a connection that is not up.
    pub queue_timeout: Duration,
    /// Longest wait for a leased connection.
    pub lease_timeout: Duration,
    /// An unused connection is closed after this long; zero keeps it.
    pub idle_timeout: Duration,
    /// A quiet connection is pinged this often; zero never pings.
    pub keepalive: Duration,
    /// A connection that owes replies and sends nothing for this long is closed.
    pub stall_timeout: Duration,
    /// First pause before a connection is tried again.
    pub backoff_min: Duration,
    /// Longest pause before a connection is tried again.
    pub backoff_max: Duration,
    /// Requests above this many bytes travel on a connection of their own.
    pub large_request: usize,
    /// What a client sees when the reply to a write was lost.
    pub on_lost_reply: OnLostReply,
    /// Send read-only commands once more when their connection was lost.
    pub retry_reads: bool,
}

/// In whose name clients' commands travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Auth {
    /// The proxy's: clients need not say who they are.
    Own,
    /// Each client's own: it must say AUTH, and the server judges.
    Passthrough,
}

/// Where the upstream server is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// Host name or IP address, and port.
    Tcp {
        /// Name or address, without brackets.
        host: String,
        /// Port.
        port: u16,
    },
    /// A unix socket on this machine.
    Unix(PathBuf),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// TLS settings towards the upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConfig {
    /// How far the server's certificate is checked.
    pub verify: Verify,
    /// CA file in PEM; `None` trusts the system's and the bundled web roots.
    pub ca: Option<PathBuf>,
    /// Certificate this proxy presents.
    pub identity: Option<TlsIdentity>,
    /// Name sent as SNI and checked in the certificate; `None` uses the host.
    pub server_name: Option<String>,
}

/// How far a server certificate is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verify {
    /// Chain and host name.
    Full,
    /// Chain only.
    Ca,
    /// Nothing: encrypted, but anyone may answer.
    None,
}

/// What a client sees when the reply to a command that may have run was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnLostReply {
    /// Its connection is closed, as a lost Redis would.
    Close,
    /// It gets an error and stays connected.
    Error,
}
