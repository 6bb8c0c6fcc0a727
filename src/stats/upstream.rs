//! What is known of the upstream: counts, and what is wrong with it now.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

/// What is wrong with the upstream, or why a connection to it could not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConnectFailure {
    /// The name did not resolve.
    Dns,
    /// Refused, unreachable, reset.
    Tcp,
    /// No answer within `connect_timeout`.
    Timeout,
    /// The TLS protocol, or none where some was expected.
    Tls,
    /// Wrong password or no permission.
    Auth,
    /// The server's own connection limit.
    MaxClients,
    /// BUSY, CLUSTERDOWN and the like.
    NotReady,
    /// Anything else in the handshake: what answers may be no Redis.
    Protocol,
    /// Connections are accepted and closed at once.
    Closed,
    /// The server's certificate was refused.
    Certificate,
    /// An established connection owed replies and nothing came.
    Stall,
    /// The server is loading its data.
    Loading,
    /// A replica that has lost its master.
    MasterDown,
    /// A replica, or a master that was demoted: it takes no writes.
    ReadOnly,
    /// The server sends clients to other nodes of its cluster.
    Cluster,
}

impl ConnectFailure {
    /// All causes, in the order of their discriminants.
    pub const ALL: [Self; 15] = [
        Self::Dns,
        Self::Tcp,
        Self::Timeout,
        Self::Tls,
        Self::Auth,
        Self::MaxClients,
        Self::NotReady,
        Self::Protocol,
        Self::Closed,
        Self::Certificate,
        Self::Stall,
        Self::Loading,
        Self::MasterDown,
        Self::ReadOnly,
        Self::Cluster,
    ];

    /// The word used in metrics, logs and `/health`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::Tcp => "tcp",
            Self::Timeout => "timeout",
            Self::Tls => "tls",
            Self::Auth => "auth",
            Self::MaxClients => "maxclients",
            Self::NotReady => "not_ready",
            Self::Protocol => "protocol",
            Self::Closed => "closed",
            Self::Certificate => "certificate",
            Self::Stall => "stall",
            Self::Loading => "loading",
            Self::MasterDown => "masterdown",
            Self::ReadOnly => "readonly",
            Self::Cluster => "cluster",
        }
    }

    /// What an operator can do about it.
    pub fn advice(self) -> &'static str {
        match self {
            Self::Dns => "check the host in upstream.url and the resolver of this machine",
            Self::Tcp => "check that the server runs, and its port in upstream.url",
            Self::Timeout => {
                "check the network and its firewalls; a slow path needs a longer \
                 upstream.connect_timeout"
            }
            Self::Tls => "rediss:// is for a TLS port, redis:// for one without",
            Self::Auth => {
                "check upstream.username and upstream.password; what upstream.password_file names is \
                 read again by itself"
            }
            Self::MaxClients => {
                "lower upstream.max_connections or the number of instances, or raise the server's limit: \
                 `nearkey plan` computes what fits it"
            }
            Self::NotReady => "the server will say when it is ready",
            Self::Protocol => "check that upstream.url names a Redis, and its TLS setting",
            Self::Closed => {
                "check what stands between here and the server: a firewall, its limit of \
                 connections, or TLS that only one side speaks"
            }
            Self::Certificate => {
                "see upstream.ca and upstream.server_name, or renew the server's certificate"
            }
            Self::Stall => "the server or the path to it hangs; a new connection is tried",
            Self::Loading => "wait until the server has loaded its data",
            Self::MasterDown => "the server is a replica without its master: look there",
            Self::ReadOnly => {
                "point upstream.url at the primary; after a failover its name is resolved anew by itself"
            }
            Self::Cluster => {
                "Nearkey does not follow a cluster's redirections yet: point upstream.url at a server \
                 without cluster mode, or at a proxy of the cluster"
            }
        }
    }
}

/// What is known of the upstream, shared by all threads.
#[derive(Debug, Default)]
pub struct UpstreamStats {
    /// Connections open or being opened now.
    pub connections: AtomicU64,
    /// Most of them at any moment.
    pub connections_peak: AtomicU64,
    /// Connections opened since start.
    pub connects: AtomicU64,
    /// Failed attempts, by [`ConnectFailure`].
    pub connect_failures: [AtomicU64; ConnectFailure::ALL.len()],
    /// Wishes for a connection that wait for their turn to dial now.
    pub opens_waiting: AtomicU64,
    /// TLS handshakes that resumed a session.
    pub tls_resumed: AtomicU64,
    /// Established connections that were lost.
    pub lost: AtomicU64,
    /// Latest round trip in microseconds; zero before the first.
    pub latency_us: AtomicU64,
    /// When the server was last heard, by the workers' clock.
    pub heard: AtomicU64,
    /// Times that all connections were opened anew since the server took no writes.
    pub reopened: AtomicU64,
    /// Time without an upstream before this one, in microseconds.
    pub down_us: AtomicU64,
    /// The latest verdict.
    pub state: Mutex<UpstreamState>,
}

impl UpstreamStats {
    /// Time without an upstream so far.
    pub fn down(&self, state: &UpstreamState) -> Duration {
        let before = Duration::from_micros(self.down_us.load(Relaxed));
        match state {
            UpstreamState::Down(trouble) => before + trouble.began.elapsed(),
            _ => before,
        }
    }
}

/// The latest verdict on the upstream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum UpstreamState {
    /// Nothing was tried yet.
    #[default]
    Unknown,
    /// The latest attempt succeeded or a connection is up.
    Up,
    /// Connections are up, and no further one is to be had.
    Strained(Trouble),
    /// Connections are up, and the server does not do all that is asked of it.
    Degraded(Trouble),
    /// The latest attempt failed and no connection is up, or nothing comes on those that are.
    Down(Trouble),
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// The cause as a word.
    pub cause: ConnectFailure,
    /// The cause as a sentence, free of secrets.
    pub message: String,
    /// Since when it is as bad as it is, by the calendar.
    pub since: SystemTime,
    /// The same by the monotonic clock.
    pub began: Instant,
}

impl Trouble {
    /// A trouble that begins now.
    pub fn new(cause: ConnectFailure, message: impl Into<String>) -> Self {
        Self {
            cause,
            message: message.into(),
            since: SystemTime::now(),
            began: Instant::now(),
        }
    }
}

impl UpstreamState {
    /// What is wrong, if anything is.
    pub fn trouble(&self) -> Option<&Trouble> {
        match self {
            Self::Unknown | Self::Up => None,
            Self::Strained(trouble) | Self::Degraded(trouble) | Self::Down(trouble) => {
                Some(trouble)
            }
        }
    }

    /// Reads are not answered: there is no server, or it has no data to answer with.
    pub fn denies_reads(&self) -> bool {
        match self {
            Self::Unknown | Self::Up | Self::Strained(_) => false,
            Self::Degraded(trouble) => matches!(
                trouble.cause,
                ConnectFailure::Loading | ConnectFailure::MasterDown
            ),
            Self::Down(_) => true,
        }
    }
}
