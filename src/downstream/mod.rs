//! The client side: listeners and the tasks that own client sockets.

pub mod listener;
pub mod stream;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::secret::Secret;

/// Settings of the client side (`[listen]`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// TCP address to accept clients on; `None` when only the unix socket is used.
    pub address: Option<SocketAddr>,
    /// Unix socket to accept clients on.
    pub unix: Option<PathBuf>,
    /// Permission bits of the unix socket.
    pub unix_mode: u32,
    /// Password that clients must present; `None` lets every client in.
    pub password: Option<Secret>,
    /// Refuse clients from beyond loopback while no password is set.
    pub protected_mode: bool,
    /// Most clients served at once; one more gets Redis's own error.
    pub max_clients: usize,
    /// Length of the kernel's queue of connections not yet accepted.
    pub backlog: u32,
    /// Certificate chain and key in PEM: clients must then speak TLS on the TCP address.
    pub tls: Option<TlsIdentity>,
    /// CA file in PEM that client certificates must chain to; only with `tls`.
    pub tls_client_ca: Option<PathBuf>,
    /// Bytes of replies that may wait for one client before it is cut.
    pub client_output_limit: usize,
    /// A client that is silent for this long is closed; zero never closes.
    pub idle_timeout: Duration,
    /// A client whose half-sent request makes no progress for this long is closed; zero never closes.
    pub request_timeout: Duration,
}

/// A certificate chain and its private key, as PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsIdentity {
    /// Certificate chain, leaf first.
    pub cert: PathBuf,
    /// Private key (PKCS#8, PKCS#1 or SEC1).
    pub key: PathBuf,
}
