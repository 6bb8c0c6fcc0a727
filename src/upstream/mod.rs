//! The Redis side: connections, what travels on them, and what answers it.

use std::path::PathBuf;
use std::time::Duration;

use crate::downstream::TlsIdentity;
use crate::resp::Protocol;
use crate::secret::Secret;

pub mod backoff;
pub mod budget;
mod clock;
pub mod conn;
pub mod dial;
mod ended;
pub mod facts;
mod farewell;
pub mod gap;
pub mod handshake;
mod harvest;
mod hold;
pub mod inquiry;
mod lease;
pub mod link;
pub mod logins;
pub mod loss;
pub mod open;
pub mod opening;
pub mod outbox;
mod outdated;
mod patience;
pub mod pipe;
mod planted;
mod proof;
pub mod provider;
mod queue;
pub mod reply_to;
pub mod resolve;
mod rotation;
mod serve;
mod shown;
pub mod status;
pub mod stream;
pub mod tls;
mod trouble;
pub mod verdict;

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
    /// Where the password was read, to be read again when the server refuses it.
    pub password_file: Option<PathBuf>,
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
    /// Commands that may wait while the upstream cannot be reached, for each connection.
    pub queue_commands: usize,
    /// Commands that may be in flight on one shared connection.
    pub max_in_flight: usize,
    /// Longest wait for a leased connection.
    pub lease_timeout: Duration,
    /// An unused connection is closed after this long; zero keeps it.
    pub idle_timeout: Duration,
    /// A quiet connection is pinged this often; zero never pings.
    pub keepalive: Duration,
    /// A connection that owes replies and sends nothing for this long is closed.
    pub stall_timeout: Duration,
    /// Connections opened per second at most, beyond a burst of half as many.
    pub opens_per_second: usize,
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

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Settings for a server on this machine, quick ones.
    pub(crate) fn config() -> Config {
        Config {
            address: Address::Tcp {
                host: "127.0.0.1".to_owned(),
                port: 0,
            },
            tls: None,
            auth: Auth::Own,
            username: None,
            password: None,
            password_file: None,
            queue_commands: 10_000,
            max_in_flight: 10_000,
            database: 0,
            max_connections: 4,
            connections: 1,
            connect_timeout: Duration::from_secs(5),
            command_timeout: Duration::from_secs(5),
            queue_timeout: Duration::from_secs(1),
            lease_timeout: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(60),
            keepalive: Duration::from_secs(30),
            stall_timeout: Duration::from_secs(30),
            opens_per_second: 1000,
            backoff_min: Duration::from_millis(1),
            backoff_max: Duration::from_millis(20),
            large_request: 1 << 20,
            on_lost_reply: OnLostReply::Close,
            retry_reads: true,
        }
    }
}
