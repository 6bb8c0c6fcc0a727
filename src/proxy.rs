//! The composition root: builds the parts, runs the threads, drains them at the end.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::runtime::{LocalOptions, LocalRuntime};
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::commands::CommandTable;
use crate::config::Config;
use crate::control::Control;
use crate::downstream::listener::{self, Accepted, Bound, Listener};
use crate::downstream::stream::Stream;
use crate::hub::Census;
use crate::l1::L1;
use crate::resp::encode;
use crate::session::errors;
use crate::stats::{UpstreamStats, WorkerStats};
use crate::upstream::dial::Dialer;
use crate::upstream::link::Link;
use crate::upstream::tls::Acceptor;
use crate::worker::{Directory, Mail, Parts, Worker};

mod prepared;
mod reconfigure;

pub use prepared::Prepared;

/// Longest TLS handshake of a client.
const CLIENT_TLS_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a drain looks whether it is done.
const DRAIN_CHECK: Duration = Duration::from_millis(10);

/// What went wrong at start.
#[derive(Debug)]
pub struct Error(String);

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

/// A running proxy.
#[derive(Debug)]
pub struct Proxy {
    gate: Arc<Gate>,
    address: Option<SocketAddr>,
    workers: Vec<Arc<WorkerStats>>,
    dialer: Arc<Dialer>,
    threads: Vec<JoinHandle<()>>,
    started: Instant,
    l1: Option<Arc<L1>>,
    control: Arc<Control>,
}

/// What the acceptor, the workers and the drain share.
#[derive(Debug)]
struct Gate {
    mailboxes: Vec<UnboundedSender<Mail>>,
    /// Clients dealt to each worker and not gone yet.
    loads: Arc<[AtomicUsize]>,
    next_id: AtomicU64,
    stop: Notify,
    stopped: AtomicBool,
    tls: ArcSwapOption<Acceptor>,
    config: ArcSwap<Config>,
}

impl Proxy {
    /// Binds the listeners and starts the workers.
    ///
    /// # Errors
    /// An address cannot be bound, or a certificate not be read.
    pub fn start(config: Config, prepared: Prepared) -> Result<Self, Error> {
        let config = Arc::new(config);
        let (bound, address) = bind(&config)?;
        let l1 = build_l1(&config, &prepared.table)?;
        let upstream = Arc::new(UpstreamStats::default());
        let dialer = Arc::new(Dialer::new(
            config.upstream.clone(),
            prepared.connector,
            prepared.table,
            upstream,
            seed(),
        ));
        let count = config.process.workers;
        let workers: Vec<_> = (0..count)
            .map(|_| Arc::new(WorkerStats::default()))
            .collect();
        let (mailboxes, receivers): (Vec<_>, Vec<_>) =
            (0..count).map(|_| unbounded_channel()).unzip();
        let gate = Arc::new(Gate {
            mailboxes,
            loads: (0..count).map(|_| AtomicUsize::new(0)).collect(),
            next_id: AtomicU64::new(1),
            stop: Notify::new(),
            stopped: AtomicBool::new(false),
            tls: ArcSwapOption::from_pointee(prepared.acceptor),
            config: ArcSwap::new(config),
        });
        let mut proxy = Self {
            gate,
            address,
            workers,
            dialer,
            threads: Vec::new(),
            started: Instant::now(),
            l1,
            control: Arc::default(),
        };
        proxy.start_threads(receivers, bound)?;
        Ok(proxy)
    }

    fn start_threads(
        &mut self,
        receivers: Vec<UnboundedReceiver<Mail>>,
        mut bound: Vec<Bound>,
    ) -> Result<(), Error> {
        let config = self.gate.config.load_full();
        let settings = Arc::new(prepared::settings(&config));
        let directory = Arc::new(Directory::default());
        let census = Arc::new(Census::default());
        for (index, mailbox) in receivers.into_iter().enumerate() {
            let parts = Parts {
                index,
                settings: settings.clone(),
                limits: prepared::limits(&config),
                link: Link {
                    dialer: self.dialer.clone(),
                    stats: self.workers[index].clone(),
                    started: self.started,
                    gaps: Default::default(),
                    l1: self.l1.clone(),
                },
                directory: directory.clone(),
                census: census.clone(),
                mailboxes: self.gate.mailboxes.clone(),
                all_stats: self.workers.clone(),
                loads: self.gate.loads.clone(),
                control: self.control.clone(),
            };
            // The first worker also accepts: it is seldom worth a thread of its own.
            let bound = std::mem::take(&mut bound);
            let gate = self.gate.clone();
            let thread = std::thread::Builder::new()
                .name(format!("nearkey-{index}"))
                .spawn(move || run_worker(parts, mailbox, bound, &gate))
                .map_err(|e| Error(format!("cannot start a worker thread: {e}")))?;
            self.threads.push(thread);
        }
        Ok(())
    }

    /// The TCP address clients connect to, with the port that was picked.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Counters of the workers.
    pub fn workers(&self) -> &[Arc<WorkerStats>] {
        &self.workers
    }

    /// What is known of the upstream.
    pub fn upstream(&self) -> &Arc<UpstreamStats> {
        &self.dialer.stats
    }

    /// L1, if the configuration has a use for one.
    pub fn l1(&self) -> Option<&Arc<L1>> {
        self.l1.as_ref()
    }

    /// When it started.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Opens a connection to see whether the upstream is there.
    pub fn probe(&self) -> impl Fn() + Send + Sync + use<> {
        let gate = self.gate.clone();
        move || {
            // A worker that is gone means that the process is ending.
            let _ = gate.mailboxes[0].send(Mail::Visit(Box::new(Worker::open_default)));
        }
    }

    /// For how long clients are still accepted when the process is asked to stop.
    pub fn drain_delay(&self) -> Duration {
        self.gate.config.load().process.drain_delay
    }

    /// Stops accepting, lets commands in flight finish for up to `drain_timeout`, then ends the workers.
    pub async fn drain(self) {
        // What is held could not be answered otherwise.
        let resume = |worker: &Rc<Worker>| {
            worker.resume(None);
        };
        let _ = self.gate.mailboxes[0].send(Mail::Visit(Box::new(resume)));
        self.gate.stopped.store(true, Ordering::Release);
        self.gate.stop.notify_waiters();
        for mailbox in &self.gate.mailboxes {
            let _ = mailbox.send(Mail::Visit(Box::new(|worker| worker.close_all_gently())));
        }
        let clients = || {
            self.gate
                .loads
                .iter()
                .map(|load| load.load(Ordering::Relaxed))
                .sum::<usize>()
        };
        let config = self.gate.config.load_full();
        let deadline = Instant::now() + config.process.drain_timeout;
        while clients() > 0 && Instant::now() < deadline {
            tokio::time::sleep(DRAIN_CHECK).await;
        }
        if clients() > 0 {
            tracing::warn!(
                clients = clients(),
                "drain_timeout reached, closing the rest"
            );
        }
        if let Some(path) = &config.listen.unix {
            // Nobody can listen on it any more; the next start would remove it too.
            let _ = std::fs::remove_file(path);
        }
    }
}

fn bind(config: &Config) -> Result<(Vec<Bound>, Option<SocketAddr>), Error> {
    let listen = &config.listen;
    let (mut bound, mut address) = (Vec::new(), None);
    if let Some(wanted) = listen.address {
        let socket = listener::bind_tcp(wanted, listen.backlog)
            .map_err(|e| Error(format!("cannot listen on {wanted} (listen.address): {e}")))?;
        address = socket.address().ok().flatten();
        tracing::info!(address = %address.unwrap_or(wanted), tls = listen.tls.is_some(), "listening");
        bound.push(socket);
    }
    if let Some(path) = &listen.unix {
        let shown = path.display();
        let socket = listener::bind_unix(path, listen.unix_mode, listen.backlog)
            .map_err(|e| Error(format!("cannot listen on {shown} (listen.unix): {e}")))?;
        tracing::info!(path = %shown, "listening");
        bound.push(socket);
    }
    Ok((bound, address))
}

/// A number that differs between processes that start together.
fn seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id())
}

/// The life of one worker thread.
fn run_worker(parts: Parts, mailbox: UnboundedReceiver<Mail>, bound: Vec<Bound>, gate: &Arc<Gate>) {
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
    {
        Ok(runtime) => runtime,
        Err(e) => {
            tracing::error!("cannot start a worker: {e}");
            return;
        }
    };
    serve(&runtime, parts, mailbox, bound, gate);
}

fn serve(
    runtime: &LocalRuntime,
    parts: Parts,
    mailbox: UnboundedReceiver<Mail>,
    bound: Vec<Bound>,
    gate: &Arc<Gate>,
) {
    let worker = Worker::new(parts);
    runtime.block_on(async {
        for socket in bound {
            match socket.listen() {
                Ok(listener) => {
                    tokio::task::spawn_local(accept_all(worker.clone(), listener, gate.clone()));
                }
                Err(e) => tracing::error!("cannot listen: {e}"),
            }
        }
        worker.watch_silence(gate.config.load().listen.idle_timeout);
        tokio::task::spawn_local(worker.clone().beat());
        if worker.has_l1() {
            tokio::task::spawn_local(worker.clone().tidy_l1());
        }
        worker.read_mail(mailbox).await;
    });
}

/// L1, if the configuration has a use for one.
fn build_l1(config: &Config, table: &CommandTable) -> Result<Option<Arc<L1>>, Error> {
    #[cfg(feature = "sabotage")]
    if let Ok(rule) = std::env::var("NEARKEY_SABOTAGE") {
        tracing::warn!(
            rule,
            "L1 does not keep one of its rules: this is a build for tests"
        );
        let l1 = L1::sabotaged(config.cache.clone(), table, &rule).map_err(Error)?;
        return Ok(Some(l1));
    }
    Ok(L1::new(config.cache.clone(), table))
}

/// Accepts until the drain, and deals each client to the worker with the fewest.
async fn accept_all(worker: Rc<Worker>, listener: Listener, gate: Arc<Gate>) {
    while !gate.stopped.load(Ordering::Acquire) {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = gate.stop.notified() => continue,
        };
        if let Some(refusal) = refusal(&worker, &gate, &accepted) {
            turn_away(accepted, refusal);
            continue;
        }
        let to = (0..gate.loads.len())
            .min_by_key(|i| gate.loads[*i].load(Ordering::Relaxed))
            .unwrap_or_default();
        gate.loads[to].fetch_add(1, Ordering::Relaxed);
        if to == worker.index {
            admit(&worker, accepted, &gate);
        } else {
            let shared = gate.clone();
            let visit = Mail::Visit(Box::new(move |worker| admit(worker, accepted, &shared)));
            // A worker that is gone means that the process is ending.
            let _ = gate.mailboxes[to].send(visit);
        }
    }
}

fn refusal(worker: &Worker, gate: &Gate, accepted: &Accepted) -> Option<&'static str> {
    let (counters, config) = (worker.counters(), gate.config.load());
    let clients: usize = gate
        .loads
        .iter()
        .map(|load| load.load(Ordering::Relaxed))
        .sum();
    match accepted {
        Accepted::Tcp(_, peer) if listener::is_protected_from(&config.listen, *peer) => {
            counters.clients_refused_protected.add(1);
            Some(errors::PROTECTED)
        }
        _ if clients >= config.listen.max_clients => {
            counters.clients_refused_limit.add(1);
            Some(errors::MAX_CLIENTS)
        }
        _ => None,
    }
}

/// Tells a client why it is not served. Best effort: it may be gone or not reading.
fn turn_away(accepted: Accepted, refusal: &str) {
    use std::io::Write;
    let mut line = Vec::new();
    encode::error(&mut line, refusal);
    let _ = match accepted {
        Accepted::Tcp(mut stream, _) => stream.write_all(&line),
        Accepted::Unix(mut stream) => stream.write_all(&line),
    };
}

/// Takes a client in on the thread of its worker.
fn admit(worker: &Rc<Worker>, accepted: Accepted, gate: &Arc<Gate>) {
    let id = gate.next_id.fetch_add(1, Ordering::Relaxed);
    let dealt = Dealt {
        gate: gate.clone(),
        to: worker.index,
    };
    let tls = gate.tls.load_full();
    match into_stream(accepted, tls.is_some()) {
        Ok(Arriving::Ready(stream)) => worker.admit(stream, id, dealt),
        Ok(Arriving::Tls(tcp)) => {
            let worker = worker.clone();
            tokio::task::spawn_local(async move {
                let Some(tls) = tls else { return };
                match tokio::time::timeout(CLIENT_TLS_TIMEOUT, tls.accept(tcp)).await {
                    Ok(Ok(stream)) => worker.admit(Stream::Tls(Box::new(stream.into())), id, dealt),
                    Ok(Err(e)) => tracing::debug!("client TLS handshake failed: {e}"),
                    Err(_) => tracing::debug!("client TLS handshake timed out"),
                }
            });
        }
        Err(e) => tracing::warn!("cannot serve a client: {e}"),
    }
}

enum Arriving {
    Ready(Stream),
    Tls(tokio::net::TcpStream),
}

fn into_stream(accepted: Accepted, tls: bool) -> io::Result<Arriving> {
    Ok(match accepted {
        Accepted::Tcp(stream, _) => {
            let stream = tokio::net::TcpStream::from_std(stream)?;
            if tls {
                Arriving::Tls(stream)
            } else {
                Arriving::Ready(Stream::Tcp(stream.into()))
            }
        }
        Accepted::Unix(stream) => Arriving::Ready(Stream::Unix(
            tokio::net::UnixStream::from_std(stream)?.into(),
        )),
    })
}

/// A client that counts against its worker until the worker has taken it in.
#[derive(Debug)]
pub struct Dealt {
    gate: Arc<Gate>,
    to: usize,
}

impl Dealt {
    /// The worker counts the client from here on.
    pub fn pass_on(self) {
        self.gate.loads[self.to].fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Dealt {
    fn drop(&mut self) {
        self.gate.loads[self.to].fetch_sub(1, Ordering::Relaxed);
    }
}
