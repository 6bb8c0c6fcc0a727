//! Opening connections: resolve, connect, TLS, handshake.

use std::collections::HashSet;
use std::future::poll_fn;
use std::io;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::time::timeout;

use super::budget::Budget;
use super::facts::{FactsCell, Identity};
use super::handshake::{Credentials, Handshake, Refusal};
use super::logins::Logins;
use super::stream::{ReadAhead, Stream};
use super::tls::{Connector, explain};
use super::{Address, Auth, Config, IdentityId, LaneKey};
use crate::commands::CommandTable;
use crate::resp::reply::{self, ReplyScan, ReplyScanner, Value};
use crate::stats::{ConnectFailure, UpstreamState, UpstreamStats};

/// A handshake reply longer than this is not one.
const MAX_HANDSHAKE_REPLY: usize = 64 * 1024;

/// Opens connections, for all workers.
#[derive(Debug)]
pub struct Dialer {
    /// Settings; a reload replaces them.
    config: ArcSwap<Config>,
    /// Where connections go, and how; what one of them is opened with belongs together.
    reach: ArcSwap<Reach>,
    /// The ceiling that every connection counts against.
    pub budget: Arc<Budget>,
    /// What the admin endpoint shows.
    pub stats: Arc<UpstreamStats>,
    /// What the server says of itself.
    pub facts: FactsCell,
    /// The command table before the server has told what it has.
    table: ArcSwap<CommandTable>,
    /// Whom clients are, with `upstream.auth = "passthrough"`.
    pub logins: Arc<Logins>,
    /// Who may not use MULTI.
    without_transactions: Mutex<HashSet<IdentityId>>,
    /// Connections that are up.
    established: AtomicI64,
    nonces: AtomicU64,
}

/// Where connections go, and how.
#[derive(Debug)]
struct Reach {
    /// Grows when connections opened before are to be opened anew.
    generation: u64,
    config: Arc<Config>,
    tls: Option<Connector>,
}

impl Dialer {
    /// A dialer; opens nothing yet.
    pub fn new(
        config: Config,
        tls: Option<Connector>,
        table: Arc<CommandTable>,
        stats: Arc<UpstreamStats>,
        seed: u64,
    ) -> Self {
        let config = Arc::new(config);
        let reach = Reach {
            generation: 0,
            config: config.clone(),
            tls,
        };
        Self {
            table: ArcSwap::new(table),
            budget: Budget::new(config.max_connections, stats.clone()),
            config: ArcSwap::new(config),
            reach: ArcSwap::from_pointee(reach),
            stats,
            facts: FactsCell::default(),
            without_transactions: Mutex::default(),
            logins: Arc::default(),
            established: AtomicI64::new(0),
            nonces: AtomicU64::new(seed),
        }
    }

    /// The settings in force. What must not change half-way looks at them once.
    pub fn config(&self) -> Guard<Arc<Config>> {
        self.config.load()
    }

    /// The command table before the server has told what it has.
    pub fn table(&self) -> Arc<CommandTable> {
        self.table.load_full()
    }

    /// Which connections are opened now; those of an earlier number lead elsewhere.
    pub fn generation(&self) -> u64 {
        self.reach.load().generation
    }

    /// Other settings, for what is opened from here on. `moved` says that those who are connected are
    /// connected to the wrong server, or in the wrong way.
    pub fn reconfigure(
        &self,
        config: Config,
        tls: Option<Connector>,
        table: Arc<CommandTable>,
        moved: bool,
    ) {
        let config = Arc::new(config);
        self.reach.store(Arc::new(Reach {
            generation: self.generation() + u64::from(moved),
            config: config.clone(),
            tls,
        }));
        self.config.store(config);
        self.table.store(table);
        if moved {
            self.facts.forget();
            self.without_transactions
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clear();
        }
    }

    /// Counts connections that are up.
    pub fn established(&self, change: i64) {
        self.established.fetch_add(change, Ordering::Relaxed);
    }

    /// A number that no other connection of this process has.
    pub fn next_nonce(&self) -> u64 {
        self.nonces
            .fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed)
    }

    /// Opens one connection that is ready for traffic.
    ///
    /// # Errors
    /// What failed, as a class and as a sentence; also when it took longer than `connect_timeout`.
    pub async fn dial(&self, key: LaneKey) -> Result<(Stream, Identity), Refusal> {
        let reach = self.reach.load_full();
        let limit = reach.config.connect_timeout;
        let credentials = self.credentials(&reach.config, key)?;
        let mut result = match timeout(limit, self.dial_unlimited(&reach, key, credentials)).await {
            Ok(result) => result,
            Err(_) => Err(Refusal {
                cause: ConnectFailure::Timeout,
                message: silence(&reach, limit),
                only_this_key: false,
            }),
        };
        if let Err(refusal) = &mut result
            && refusal.cause == ConnectFailure::Auth
            && self.is_nobody(key)
        {
            refusal.only_this_key = true;
        }
        self.note(&result);
        result
    }

    /// Clients come with users of their own.
    pub fn is_passthrough(&self) -> bool {
        self.config().auth == Auth::Passthrough
    }

    /// COMMAND is asked with the proxy's own credentials where it has some.
    pub fn may_ask_facts(&self, key: LaneKey) -> bool {
        key.identity == IdentityId::OWN || !self.has_own_name()
    }

    /// There are credentials of the proxy's own, or none are needed.
    pub fn has_own_name(&self) -> bool {
        !self.is_passthrough() || self.config().password.is_some()
    }

    /// A connection for the proxy itself, which has no name to give: that the server does not want it
    /// shows that the server is there.
    fn is_nobody(&self, key: LaneKey) -> bool {
        key.identity == IdentityId::OWN && !self.has_own_name()
    }

    fn credentials(&self, config: &Config, key: LaneKey) -> Result<Credentials, Refusal> {
        if key.identity == IdentityId::OWN {
            return Ok(Credentials {
                username: config.username.clone().map(String::into_bytes),
                password: config.password.clone(),
            });
        }
        let login = self.logins.get(key.identity);
        login.map(|login| login.credentials()).ok_or(Refusal {
            cause: ConnectFailure::Auth,
            message: "ERR Nearkey: nobody uses this identity any more".to_owned(),
            only_this_key: true,
        })
    }

    async fn dial_unlimited(
        &self,
        reach: &Reach,
        key: LaneKey,
        credentials: Credentials,
    ) -> Result<(Stream, Identity), Refusal> {
        let mut stream = connect(reach).await?;
        let mut handshake = Handshake::new(key, credentials, self.next_nonce());
        while let Some(request) = handshake.poll_request() {
            let reply = ask(&mut stream, &request).await?;
            handshake.handle_reply(&reply)?;
        }
        self.note_transactions(key.identity, handshake.denies_transactions());
        Ok((stream, handshake.identity().clone()))
    }

    fn note_transactions(&self, identity: IdentityId, denied: bool) {
        let mut without = self
            .without_transactions
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if denied {
            without.insert(identity);
        } else {
            without.remove(&identity);
        }
    }

    /// The proxy's own user is not the default one.
    pub fn has_named_user(&self) -> bool {
        let config = self.config();
        let user = config.username.as_deref();
        user.is_some_and(|user| user != "default")
    }

    /// Whether the server lets this identity use MULTI; known once a connection in its name was open.
    pub fn allows_transactions(&self, identity: IdentityId) -> bool {
        let without = self
            .without_transactions
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        !without.contains(&identity)
    }

    fn note(&self, result: &Result<(Stream, Identity), Refusal>) {
        let state = match result {
            Ok(_) => {
                self.stats.connects.fetch_add(1, Ordering::Relaxed);
                UpstreamState::Up
            }
            Err(refusal) if refusal.only_this_key => {
                self.count_failure(refusal);
                UpstreamState::Up
            }
            Err(refusal) => {
                self.count_failure(refusal);
                if self.established.load(Ordering::Relaxed) > 0 {
                    return; // The server is there; this connection is not to be had.
                }
                self.facts.fail();
                UpstreamState::Down {
                    cause: refusal.cause,
                    message: refusal.message.clone(),
                }
            }
        };
        self.set_state(state);
    }

    fn count_failure(&self, refusal: &Refusal) {
        self.stats.connect_failures[refusal.cause as usize].fetch_add(1, Ordering::Relaxed);
        tracing::debug!(
            cause = refusal.cause.as_str(),
            "connection refused: {}",
            refusal.message
        );
    }

    /// Publishes a verdict; logs when it changes, once and not per command.
    pub fn set_state(&self, new: UpstreamState) {
        let mut state = self
            .stats
            .state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if *state == new {
            return;
        }
        match (&*state, &new) {
            (_, UpstreamState::Down { cause, message }) => {
                tracing::warn!(cause = cause.as_str(), address = %self.config().address, "upstream unreachable: {message}");
            }
            (_, UpstreamState::Up) => {
                tracing::info!(address = %self.config().address, "upstream reachable");
            }
            (_, UpstreamState::Unknown) => {}
        }
        *state = new;
    }
}

/// What is said of a server that says nothing.
fn silence(reach: &Reach, limit: Duration) -> String {
    let address = &reach.config.address;
    match reach.tls {
        // A Redis port without TLS takes the hello for half a command and waits for the rest.
        Some(_) => format!("{address} did not answer within {limit:?}; is it a TLS port?"),
        None => format!("{address} did not answer within {limit:?}"),
    }
}

async fn connect(reach: &Reach) -> Result<Stream, Refusal> {
    match &reach.config.address {
        Address::Unix(path) => UnixStream::connect(path)
            .await
            .map(Stream::Unix)
            .map_err(|e| failure(ConnectFailure::Tcp, format!("{}: {e}", path.display()))),
        Address::Tcp { host, port } => {
            let tcp = connect_tcp(host, *port, reach.config.connect_timeout).await?;
            let Some(tls) = &reach.tls else {
                return Ok(Stream::Tcp(tcp));
            };
            let stream = tls
                .connect(host, ReadAhead::new(tcp))
                .await
                .map_err(|e| failure(e.cause(), e.to_string()))?;
            Ok(Stream::Tls(Box::new(stream)))
        }
    }
}

/// Resolves the name anew each time, since failovers move it, and tries its addresses in turn.
async fn connect_tcp(host: &str, port: u16, limit: Duration) -> Result<TcpStream, Refusal> {
    let addresses: Vec<_> = lookup_host((host, port))
        .await
        .map_err(|e| failure(ConnectFailure::Dns, format!("cannot resolve {host}: {e}")))?
        .collect();
    let share = limit / u32::try_from(addresses.len().clamp(1, 4)).unwrap_or(1);
    let mut last = failure(ConnectFailure::Dns, format!("{host} has no address"));
    for address in addresses {
        match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                tune(&stream);
                return Ok(stream);
            }
            Ok(Err(e)) => last = failure(ConnectFailure::Tcp, format!("{address}: {e}")),
            Err(_) => {
                last = failure(
                    ConnectFailure::Timeout,
                    format!("{address} does not answer"),
                );
            }
        }
    }
    Err(last)
}

/// No delays, and a dead peer is noticed by the kernel too.
fn tune(stream: &TcpStream) {
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(30))
        .with_interval(Duration::from_secs(10));
    // A socket that refuses an option still works; it is only slower to notice a dead peer.
    let _ = stream.set_nodelay(true);
    let _ = SockRef::from(stream).set_tcp_keepalive(&keepalive);
}

/// One request and its reply; anything after the reply is a surplus.
async fn ask(stream: &mut Stream, request: &[u8]) -> Result<Value, Refusal> {
    let lost = |e: io::Error| match explain(&e) {
        Some(refusal) => failure(refusal.cause(), refusal.to_string()),
        None => failure(
            ConnectFailure::Tcp,
            format!("connection lost in the handshake: {e}"),
        ),
    };
    let mut sent = 0;
    while sent < request.len() {
        sent += poll_fn(|cx| stream.poll_write(cx, &request[sent..]))
            .await
            .map_err(lost)?;
    }
    poll_fn(|cx| stream.poll_flush(cx)).await.map_err(lost)?;
    let (mut scanner, mut frame, mut chunk) = (ReplyScanner::default(), Vec::new(), [0; 4096]);
    loop {
        let n = poll_fn(|cx| stream.poll_read(cx, &mut chunk))
            .await
            .map_err(lost)?;
        if n == 0 {
            return Err(lost(io::ErrorKind::UnexpectedEof.into()));
        }
        let seen = frame.len();
        frame.extend_from_slice(&chunk[..n]);
        let malformed = |what: String| failure(ConnectFailure::Protocol, what);
        match scanner.scan(&frame[seen..]).map_err(|e| malformed(e.0))? {
            ReplyScan::Incomplete if frame.len() > MAX_HANDSHAKE_REPLY => {
                return Err(malformed(
                    "the upstream's greeting is too long for Redis".to_owned(),
                ));
            }
            ReplyScan::Incomplete => {}
            ReplyScan::Complete { consumed, .. } if seen + consumed == frame.len() => {
                return reply::decode(&frame, scanner.depth()).map_err(|e| malformed(e.0));
            }
            ReplyScan::Complete { .. } => {
                return Err(malformed("more than one reply to one request".to_owned()));
            }
        }
    }
}

fn failure(cause: ConnectFailure, message: String) -> Refusal {
    Refusal {
        cause,
        message,
        only_this_key: false,
    }
}
