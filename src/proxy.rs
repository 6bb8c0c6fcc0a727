//! The composition root: builds the parts, runs the threads, drains them at the end.

mod accept;
mod prepared;
mod reconfigure;

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
use crate::downstream::listener::{self, Bound};
use crate::hub::Census;
use crate::l1::L1;
use crate::limits;
use crate::stats::{UpstreamStats, WorkerStats};
use crate::upstream::dial::Dialer;
use crate::upstream::link::Link;
use crate::upstream::tls::Acceptor;
use crate::worker::{Budget, Directory, Mail, Parts, Worker};

pub use self::accept::Dealt;
pub use self::prepared::Prepared;

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
    budget: Budget,
}

/// What the acceptor, the workers and the drain share.
#[derive(Debug)]
struct Gate {
    mailboxes: Vec<UnboundedSender<Mail>>,
    /// Clients dealt to each worker and not gone yet.
    loads: Arc<[AtomicUsize]>,
    next_id: AtomicU64,
    /// `listen.max_clients`, or what the limit on open files leaves room for.
    max_clients: AtomicUsize,
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
    pub fn start(config: Config, prepared: Prepared, control: Arc<Control>) -> Result<Self, Error> {
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
        let budget = Budget::new(config.process.memory_limit);
        if let Some(l1) = &l1 {
            l1.store.heed(budget.pressed());
        }
        let gate = Arc::new(Gate {
            mailboxes,
            loads: (0..count).map(|_| AtomicUsize::new(0)).collect(),
            next_id: AtomicU64::new(1),
            max_clients: AtomicUsize::new(clients_that_fit(&config)),
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
            control,
            budget,
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
        let settings = Arc::new(prepared::settings(&config, &self.budget));
        let directory = Arc::new(Directory::default());
        let census = Arc::new(Census::default());
        for (index, mailbox) in receivers.into_iter().enumerate() {
            let parts = Parts {
                index,
                settings: settings.clone(),
                limits: prepared::limits(&config),
                budget: self.budget.clone(),
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

    /// Asks the server for INFO, if a connection to it is up: nothing is opened for that.
    pub fn inquire(&self) -> impl Fn() + Send + Sync + use<> {
        let gate = self.gate.clone();
        move || {
            let asked = Arc::new(AtomicBool::new(false));
            for mailbox in &gate.mailboxes {
                let asked = asked.clone();
                let visit = move |worker: &Rc<Worker>| {
                    if !asked.load(Ordering::Relaxed) && worker.inquire() {
                        asked.store(true, Ordering::Relaxed);
                    }
                };
                let _ = mailbox.send(Mail::Visit(Box::new(visit)));
            }
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

/// `listen.max_clients`, or fewer.
fn clients_that_fit(config: &Config) -> usize {
    limits::clients_that_fit(config.listen.max_clients, config.upstream.max_connections)
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
                    tokio::task::spawn_local(accept::accept_all(
                        worker.clone(),
                        listener,
                        gate.clone(),
                    ));
                }
                Err(e) => tracing::error!("cannot listen: {e}"),
            }
        }
        let config = gate.config.load_full();
        worker.watch_silence(config.listen.idle_timeout);
        worker.watch_requests(config.listen.request_timeout);
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
        tracing::warn!(rule, "does one thing wrong: this is a build for tests");
        if crate::sabotage::choose(&rule) {
            return Ok(L1::new(config.cache.clone(), table));
        }
        let l1 = L1::sabotaged(config.cache.clone(), table, &rule).map_err(Error)?;
        return Ok(Some(l1));
    }
    Ok(L1::new(config.cache.clone(), table))
}
