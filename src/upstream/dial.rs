//! Opening connections: resolve, connect, TLS, handshake.

use std::collections::HashSet;
use std::future::poll_fn;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::backoff::Backoff;
use super::budget::Budget;
use super::facts::{FactsCell, Identity};
use super::handshake::{Credentials, Handshake, Refusal};
use super::logins::Logins;
use super::opening::{Gate, Wish};
use super::resolve::Resolver;
use super::stream::{ReadAhead, Stream};
use super::tls::{Connector, TlsError, explain, is_resumed};
use super::verdict::Verdict;
use super::{Address, Auth, Config, IdentityId, LaneKey};
use crate::commands::CommandTable;
use crate::resp::reply::{self, ReplyScan, ReplyScanner, Value};
use crate::secret::Secret;
use crate::stats::{ConnectFailure, UpstreamStats};

/// A handshake reply longer than this is not one.
const MAX_HANDSHAKE_REPLY: usize = 64 * 1024;

/// How a TLS server answers what is not TLS.
const TLS_ALERT: &[u8] = b"\x15\x03";

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
    /// What is known of how the server does.
    pub verdict: Verdict,
    /// What the server says of itself.
    pub facts: FactsCell,
    /// The command table before the server has told what it has.
    table: ArcSwap<CommandTable>,
    /// Whom clients are, with `upstream.auth = "passthrough"`.
    pub logins: Arc<Logins>,
    /// Who may open a connection, and when.
    pub gate: Gate,
    resolver: Resolver,
    /// Who may not use MULTI.
    without_transactions: Mutex<HashSet<IdentityId>>,
    /// Connections that are up.
    pub(super) established: AtomicI64,
    nonces: AtomicU64,
    /// The password's file is being read.
    pub(super) reading: Arc<AtomicBool>,
}

/// Where connections go, and how.
#[derive(Debug)]
struct Reach {
    /// Grows when connections opened before are to be opened anew.
    generation: u64,
    config: Arc<Config>,
    tls: Option<Connector>,
}

/// A connection that is up.
#[derive(Debug)]
pub struct Established<'a>(&'a Dialer);

impl Drop for Established<'_> {
    fn drop(&mut self) {
        self.0.established.fetch_sub(1, Ordering::Relaxed);
    }
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
        let reopening = Backoff::new(config.backoff_min, config.backoff_max, seed);
        let config = Arc::new(config);
        let reach = Reach {
            generation: 0,
            config: config.clone(),
            tls,
        };
        Self {
            table: ArcSwap::new(table),
            verdict: Verdict::new(stats.clone(), reopening),
            budget: Budget::new(config.max_connections, stats.clone()),
            config: ArcSwap::new(config),
            reach: ArcSwap::from_pointee(reach),
            gate: Gate::new(stats.clone(), seed),
            resolver: Resolver::default(),
            stats,
            facts: FactsCell::default(),
            without_transactions: Mutex::default(),
            logins: Arc::default(),
            established: AtomicI64::new(0),
            nonces: AtomicU64::new(seed),
            reading: Arc::default(),
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

    /// Another password for connections that are opened from here on.
    pub(super) fn replace_password(&self, secret: &Secret) {
        let renewed = |config: &Arc<Config>| {
            let mut config = Config::clone(config);
            config.password = Some(secret.clone());
            Arc::new(config)
        };
        self.reach.rcu(|reach| {
            Arc::new(Reach {
                generation: reach.generation,
                config: renewed(&reach.config),
                tls: reach.tls.clone(),
            })
        });
        self.config.rcu(renewed);
    }

    /// Counts a connection that is up, until the guard is dropped.
    pub fn established(&self) -> Established<'_> {
        self.established.fetch_add(1, Ordering::Relaxed);
        Established(self)
    }

    /// A number that no other connection of this process has.
    pub fn next_nonce(&self) -> u64 {
        self.nonces
            .fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed)
    }

    /// Opens one connection that is ready for traffic, when its turn has come.
    ///
    /// # Errors
    /// What failed, as a class and as a sentence; also when it took longer than `connect_timeout`. While
    /// dials fail, that is also the answer to those who do not dial themselves.
    pub async fn dial(&self, key: LaneKey, wish: Wish) -> Result<(Stream, Identity), Refusal> {
        // Who is not known any more asks nobody, and learns nothing of the server.
        self.credentials(&self.config(), key)?;
        let config = || self.config.load_full();
        let is_alone = || self.established.load(Ordering::Relaxed) == 0;
        let pass = self.gate.enter(wish, config, is_alone).await?;
        let result = self.dial_now(key).await;
        let refusal = result.as_ref().err();
        let refusal = refusal.filter(|refusal| self.concerns_all(refusal));
        let connections = self.established.load(Ordering::Relaxed);
        pass.settle(refusal, &self.config(), connections);
        result
    }

    /// It says something of the server, and not of one key or one of many users.
    fn concerns_all(&self, refusal: &Refusal) -> bool {
        let personal = self.is_passthrough() && refusal.cause == ConnectFailure::Auth;
        !refusal.only_this_key && !personal
    }

    /// A refused password may be one that was rotated: its file is read again, and tried once more.
    async fn dial_now(&self, key: LaneKey) -> Result<(Stream, Identity), Refusal> {
        let first = self.attempt(key).await;
        match &first {
            Err(refusal) if self.is_password_renewed(key, refusal).await => self.attempt(key).await,
            _ => first,
        }
    }

    async fn attempt(&self, key: LaneKey) -> Result<(Stream, Identity), Refusal> {
        let reach = self.reach.load_full();
        let limit = reach.config.connect_timeout;
        let credentials = self.credentials(&reach.config, key)?;
        let heard = self.stats.heard.load(Ordering::Relaxed);
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
        match &result {
            Ok((.., complaint)) => self.note(Ok(complaint.as_deref()), heard),
            Err(refusal) => self.note(Err(refusal), heard),
        }
        result.map(|(stream, identity, _)| (stream, identity))
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
    ) -> Result<(Stream, Identity, Option<String>), Refusal> {
        let mut stream = self.connect(reach).await?;
        let mut handshake = Handshake::new(key, credentials, self.next_nonce());
        while let Some(request) = handshake.poll_request() {
            let reply = ask(&mut stream, &request).await?;
            handshake.handle_reply(&reply)?;
        }
        self.note_transactions(key.identity, handshake.denies_transactions());
        let complaint = handshake.complaint().map(str::to_owned);
        Ok((stream, handshake.identity().clone(), complaint))
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

    async fn connect(&self, reach: &Reach) -> Result<Stream, Refusal> {
        let config = &reach.config;
        match &config.address {
            Address::Unix(path) => UnixStream::connect(path)
                .await
                .map(Stream::Unix)
                .map_err(|e| failure(ConnectFailure::Tcp, format!("{}: {e}", path.display()))),
            Address::Tcp { host, port } => {
                let tcp = self
                    .resolver
                    .connect(host, *port, config.connect_timeout)
                    .await?;
                let Some(tls) = &reach.tls else {
                    return Ok(Stream::Tcp(tcp));
                };
                let stream = tls
                    .connect(host, ReadAhead::new(tcp))
                    .await
                    .map_err(|e| self.explain_tls(&e))?;
                if is_resumed(&stream) {
                    self.stats.tls_resumed.fetch_add(1, Ordering::Relaxed);
                }
                Ok(Stream::Tls(Box::new(stream)))
            }
        }
    }

    /// A server at its connection limit cannot say so over TLS: it hangs up.
    fn explain_tls(&self, error: &TlsError) -> Refusal {
        if error.is_hang_up() && self.established.load(Ordering::Relaxed) > 0 {
            let what = "the server hangs up on new connections while open ones work";
            return failure(ConnectFailure::MaxClients, what.to_owned());
        }
        failure(error.cause(), error.to_string())
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

/// One request and its reply; anything after the reply is a surplus.
///
/// # Errors
/// The connection was lost, or what came is no single reply of at most 64 KiB.
pub async fn ask(stream: &mut Stream, request: &[u8]) -> Result<Value, Refusal> {
    let lost = |e: io::Error| match explain(&e) {
        Some(refusal) => failure(refusal.cause(), refusal.to_string()),
        None => hung_up(&e),
    };
    send(stream, request).await.map_err(lost)?;
    let (mut scanner, mut frame, mut chunk) = (ReplyScanner::default(), Vec::new(), [0; 4096]);
    loop {
        let n = read(stream, &mut chunk).await.map_err(lost)?;
        let seen = frame.len();
        frame.extend_from_slice(&chunk[..n]);
        if frame.starts_with(TLS_ALERT) {
            let what = "the server speaks TLS on this port: use rediss://, or set upstream.tls";
            return Err(failure(ConnectFailure::Tls, what.to_owned()));
        }
        let malformed = |what: String| {
            let what = format!("what answers does not speak as Redis does: {what}");
            failure(ConnectFailure::Protocol, what)
        };
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

/// Sends all of it.
///
/// # Errors
/// The connection was lost.
pub async fn send(stream: &mut Stream, bytes: &[u8]) -> io::Result<()> {
    let mut sent = 0;
    while sent < bytes.len() {
        sent += poll_fn(|cx| stream.poll_write(cx, &bytes[sent..])).await?;
    }
    poll_fn(|cx| stream.poll_flush(cx)).await
}

/// Reads what comes next.
///
/// # Errors
/// The connection was lost, or ended.
pub async fn read(stream: &mut Stream, chunk: &mut [u8]) -> io::Result<usize> {
    match poll_fn(|cx| stream.poll_read(cx, chunk)).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        n => Ok(n),
    }
}

pub(super) fn hung_up(e: &io::Error) -> Refusal {
    failure(
        ConnectFailure::Closed,
        format!("the connection was accepted and then closed: {e}"),
    )
}

pub(super) fn failure(cause: ConnectFailure, message: String) -> Refusal {
    Refusal {
        cause,
        message,
        only_this_key: false,
    }
}
