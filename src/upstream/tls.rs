//! TLS, both sides. The only user of rustls and tokio-rustls.
//!
//! A [`Connector`] is built once and cloned into every worker: all clones share one session store,
//! so that a connection opened after another resumes its session. Files are read when it is built;
//! the system's root certificates take milliseconds to read and are left to the first handshake,
//! off the worker's thread.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, ring};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::downstream::TlsIdentity;
use crate::upstream::{TlsConfig, Verify};

mod error;
mod facts;
mod pem;
mod verify;

#[cfg(test)]
mod tests;

pub use error::{TlsError, date, explain};
pub use facts::{Certificate, Facts};
use verify::{Anything, Chain};

/// A TLS connection that this process opened.
pub type TlsStream<S> = tokio_rustls::client::TlsStream<S>;

/// A TLS connection that this process accepted.
pub type AcceptedStream<S> = tokio_rustls::server::TlsStream<S>;

/// Servers whose sessions are remembered. A process has one upstream, or the nodes of one cluster.
const REMEMBERED_SERVERS: usize = 64;

/// Opens TLS connections to the upstream. Cheap to clone; clones share their sessions.
#[derive(Clone)]
pub struct Connector {
    config: Arc<ClientConfig>,
    /// `None` where nothing is verified.
    chain: Option<Arc<Chain>>,
    server_name: Option<Arc<str>>,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector")
            .field("server_name", &self.server_name)
            .field("verifies", &self.chain.is_some())
            .finish_non_exhaustive()
    }
}

impl Connector {
    /// Reads the files that `config` names and checks them. Blocks for as long as that takes.
    pub fn new(config: &TlsConfig) -> Result<Self, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let check_name = config.verify == Verify::Full;
        let chain = match (config.verify, &config.ca) {
            (Verify::None, _) => None,
            (_, Some(ca)) => Some(Chain::of_file(&provider, ca, check_name)?),
            (_, None) => Some(Chain::of_system(&provider, check_name)),
        }
        .map(Arc::new);
        let verifier: Arc<dyn ServerCertVerifier> = match &chain {
            Some(chain) => Arc::clone(chain) as _,
            None => Arc::new(Anything::new(&provider)),
        };
        if let Some(name) = &config.server_name {
            server_name(name)?;
        }
        Ok(Self {
            config: Arc::new(client_config(provider, verifier, config.identity.as_ref())?),
            chain,
            server_name: config.server_name.as_deref().map(Arc::from),
        })
    }

    /// Reads the system's root certificates if they are needed and were not read yet, on a
    /// blocking thread. [`connect`](Self::connect) does so itself; a caller that awaits this next
    /// to the TCP connect hides the time it takes.
    pub async fn prepare(&self) {
        if let Some(chain) = self.chain.clone().filter(|chain| !chain.is_loaded()) {
            // An error means that the runtime is going down; the handshake then loads by itself.
            let _ = tokio::task::spawn_blocking(move || {
                chain.load();
            })
            .await;
        }
    }

    /// Performs the handshake with `host` (a name or an IP address without brackets), or with the
    /// configured server name.
    ///
    /// There is no time limit here. A plaintext Redis reads the hello as the beginning of a line
    /// and says nothing, so a caller whose limit ran out should report [`TlsError::Silent`].
    pub async fn connect<S>(&self, host: &str, stream: S) -> Result<TlsStream<S>, TlsError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let name = server_name(self.server_name.as_deref().unwrap_or(host))?;
        self.prepare().await;
        tokio_rustls::TlsConnector::from(Arc::clone(&self.config))
            .connect(name, stream)
            .await
            .map_err(|err| TlsError::from_server(&err))
    }
}

/// The session of an earlier connection went on: a handshake without certificates.
pub fn is_resumed<S>(stream: &TlsStream<S>) -> bool {
    stream.get_ref().1.handshake_kind() == Some(rustls::HandshakeKind::Resumed)
}

/// Accepts TLS connections of clients. Cheap to clone.
#[derive(Clone)]
pub struct Acceptor(tokio_rustls::TlsAcceptor);

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptor").finish_non_exhaustive()
    }
}

impl Acceptor {
    /// Reads the certificate and key, and the CA that client certificates must chain to; without
    /// one, clients need no certificate. Blocks for as long as that takes.
    pub fn new(identity: &TlsIdentity, client_ca: Option<&Path>) -> Result<Self, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(TlsError::setup)?;
        let builder = match client_ca {
            None => builder.with_no_client_auth(),
            Some(ca) => {
                let roots = Arc::new(roots_of(&pem::certificates(ca)?, ca)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider)
                    .build()
                    .map_err(TlsError::setup)?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let chain = pem::certificates(&identity.cert)?;
        let mut config = builder
            .with_single_cert(chain, pem::private_key(&identity.key)?)
            .map_err(|err| TlsError::identity(identity, &err))?;
        config.ticketer = ring::Ticketer::new().map_err(TlsError::setup)?;
        Ok(Self(Arc::new(config).into()))
    }

    /// Performs the handshake with a client. There is no time limit here.
    pub async fn accept(&self, stream: TcpStream) -> Result<AcceptedStream<TcpStream>, TlsError> {
        let accepted = self.0.accept(stream).await;
        accepted.map_err(|err| TlsError::from_client(&err))
    }
}

/// The settings of all connections of one [`Connector`].
fn client_config(
    provider: Arc<CryptoProvider>,
    verifier: Arc<dyn ServerCertVerifier>,
    identity: Option<&TlsIdentity>,
) -> Result<ClientConfig, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::setup)?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let chain = pem::certificates(&identity.cert)?;
            builder
                .with_client_auth_cert(chain, pem::private_key(&identity.key)?)
                .map_err(|err| TlsError::identity(identity, &err))?
        }
    };
    config.resumption = Resumption::in_memory_sessions(REMEMBERED_SERVERS);
    Ok(config)
}

/// What to ask for and to look for in the certificate.
fn server_name(host: &str) -> Result<ServerName<'static>, TlsError> {
    // An IPv6 zone says which interface to use; no certificate contains it.
    let bare = match host.split_once('%') {
        Some((address, _)) if address.contains(':') => address,
        _ => host,
    };
    ServerName::try_from(bare.to_owned()).map_err(|_| TlsError::ServerName(host.to_owned()))
}

/// Trust in exactly the certificates of the file `path`.
fn roots_of(
    certificates: &[rustls_pki_types::CertificateDer<'static>],
    path: &Path,
) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate.clone()).map_err(|err| {
            TlsError::file(
                path,
                format!("contains a certificate that cannot be used: {err}"),
            )
        })?;
    }
    Ok(roots)
}
