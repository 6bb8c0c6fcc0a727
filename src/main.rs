//! The `nearkey` program: reads the configuration, runs the proxy, drains it when told to stop.

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use nearkey::cli::{self, Cli, Command};
use nearkey::config::{self, Config, Loaded};
use nearkey::control::{Control, Wish};
use nearkey::events::Events;
use nearkey::plan::{self, Plan, Provider};
use nearkey::proxy::{Prepared, Proxy};
use nearkey::reload::Reloader;
use nearkey::telemetry::{self, Filter};
use nearkey::{admin, healthcheck, limits, watchdog};
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// musl's own maps and unmaps memory for each large buffer, at twice the time in the kernel.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

/// A wrong configuration or command line.
const MISCONFIGURED: u8 = 2;

fn main() -> ExitCode {
    let cli = cli::parse();
    match cli.command.clone() {
        None => start(cli),
        Some(Command::Config { schema: true, .. }) => print(config::schema().as_bytes()),
        Some(Command::Config {
            example: Some(name),
            ..
        }) => print(config::example(&name).unwrap_or_default().as_bytes()),
        Some(Command::Config { .. }) => load(&cli).map_or_else(|code| code, |loaded| show(&loaded)),
        Some(Command::Healthcheck { timeout, live }) => check_health(&cli, timeout, live),
        Some(Command::Completions { shell }) => print(&cli::completions(shell)),
        Some(Command::Man) => print(&cli::manual().unwrap_or_default()),
        Some(Command::Check { json }) => load(&cli).map_or_else(|code| code, |l| check(l, json)),
        Some(Command::Plan(asked)) => plan_fleet(&cli, &asked),
        Some(Command::Top { once }) => nearkey::top::run(&cli, once),
    }
}

fn plan_fleet(cli: &Cli, asked: &cli::Plan) -> ExitCode {
    if asked.list {
        print!("{}", plan::list());
        return ExitCode::SUCCESS;
    }
    let question = match plan_question(cli, asked) {
        Ok(question) => question,
        Err(problem) => {
            eprintln!("{problem}");
            return ExitCode::from(MISCONFIGURED);
        }
    };
    let plan = Plan::new(question);
    if asked.json {
        println!("{:#}", plan.json());
    } else {
        print!("{plan}");
    }
    ExitCode::from(u8::from(!plan.fits()))
}

fn plan_question(cli: &Cli, asked: &cli::Plan) -> Result<plan::Question, String> {
    let provider = match asked.provider.as_deref() {
        None => None,
        Some(name) => Some(Provider::find(name).ok_or_else(|| {
            let alike = Provider::alike(name).join(", ");
            let hint = if alike.is_empty() { String::new() } else { format!(" ({alike})") };
            format!("--provider {name} is not known{hint}: `nearkey plan --list` shows all, --max-clients N gives any limit")
        })?),
    };
    let limit = match (asked.max_clients, provider) {
        (Some(limit), _) => limit,
        (None, Some(provider)) => provider.max_clients.ok_or_else(|| {
            let (plan, note) = (provider.plan, provider.note);
            format!("{plan} documents no figure ({note}): give yours with --max-clients N")
        })?,
        (None, None) => {
            return Err(
                "whose limit? --provider NAME (`nearkey plan --list`) or --max-clients N"
                    .to_owned(),
            );
        }
    };
    let (most, shared) = config::upstream_connections(cli).map_err(|errors| errors.to_string())?;
    let per_instance = asked.connections_per_instance.unwrap_or(most);
    Ok(plan::Question {
        limit,
        provider,
        instances: asked.instances,
        per_instance,
        shared: shared.min(per_instance),
        others: asked.other_clients,
    })
}

fn load(cli: &Cli) -> Result<Loaded, ExitCode> {
    config::load_from_process(cli).map_err(|errors| {
        eprintln!("{errors}");
        ExitCode::from(MISCONFIGURED)
    })
}

/// A reader that has read enough is no failure.
fn print(text: &[u8]) -> ExitCode {
    let _ = io::stdout().write_all(text);
    ExitCode::SUCCESS
}

fn show(loaded: &Loaded) -> ExitCode {
    print!("{}", loaded.effective);
    for warning in &loaded.warnings {
        eprintln!("warning: {warning}");
    }
    ExitCode::SUCCESS
}

/// Says whether this would work, and what the server is.
fn check(loaded: Loaded, json: bool) -> ExitCode {
    for warning in &loaded.warnings {
        eprintln!("warning: {warning}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let report = match runtime {
        Ok(runtime) => runtime.block_on(nearkey::check::run(&loaded.config)),
        Err(e) => Err(format!("cannot start: {e}")),
    };
    match report {
        Ok(report) => {
            let text = if json {
                report.to_json()
            } else {
                report.to_text()
            };
            print!("{text}");
            ExitCode::from(u8::from(!report.works()))
        }
        Err(message) => {
            eprintln!("nearkey: {message}");
            ExitCode::from(MISCONFIGURED)
        }
    }
}

fn check_health(cli: &Cli, timeout: Duration, live: bool) -> ExitCode {
    let answer = match config::healthcheck_address(cli) {
        Ok(Some(address)) if live => healthcheck::live(address, timeout),
        Ok(Some(address)) => healthcheck::run(address, timeout),
        Ok(None) => Err("the admin endpoint is off (admin.address): nobody to ask".to_owned()),
        Err(errors) => {
            eprintln!("{errors}");
            return ExitCode::from(MISCONFIGURED);
        }
    };
    match answer {
        Ok(message) => {
            println!("{message}");
            ExitCode::SUCCESS
        }
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

/// Reads the configuration and runs until it is told to stop. A SIGHUP that comes before it is in force
/// reloads it later: whoever sends one on every change of a file does not wait for the start.
fn start(cli: Cli) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let ready = runtime.and_then(|runtime| {
        let hangup = {
            let _inside = runtime.enter();
            signal(SignalKind::hangup())?
        };
        Ok((runtime, hangup))
    });
    match ready {
        Ok((runtime, hangup)) => {
            load(&cli).map_or_else(|code| code, |loaded| run(cli, loaded, &runtime, hangup))
        }
        Err(e) => {
            eprintln!("nearkey: cannot start: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli, loaded: Loaded, runtime: &Runtime, hangup: Signal) -> ExitCode {
    let events = Events::default();
    let filter = match telemetry::init(&loaded.config.log, events.clone()) {
        Ok(filter) => filter,
        Err(e) => {
            eprintln!("nearkey: {e}");
            return ExitCode::from(MISCONFIGURED);
        }
    };
    limits::forbid_core_dumps();
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let config = &loaded.config;
    let files =
        limits::raise_open_files(config.listen.max_clients, config.upstream.max_connections);
    if let Some(warning) = files.warning {
        tracing::warn!("{warning}");
    }
    match runtime.block_on(serve(cli, filter, loaded, events, hangup)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            tracing::error!("{message}");
            ExitCode::FAILURE
        }
    }
}

/// Runs until a signal has come and the drain is over.
async fn serve(
    cli: Cli,
    filter: Filter,
    loaded: Loaded,
    events: Events,
    hangup: Signal,
) -> Result<(), String> {
    let mut signals =
        Signals::new(hangup).map_err(|e| format!("cannot listen for signals: {e}"))?;
    let config = loaded.config.clone();
    let prepared = Prepared::new(&config).map_err(|e| e.to_string())?;
    let reloader = Reloader::new(cli, filter, loaded, &prepared);
    // Clients may wish for a reload as soon as they can connect.
    let (wishes, wished) = unbounded_channel::<Wish>();
    let control = Arc::new(Control::default());
    control.set_reloader(wishes);
    let proxy = Proxy::start(config.clone(), prepared, control).map_err(|e| e.to_string())?;
    let state = Arc::new(admin_state(&config, &proxy, events));
    tokio::spawn(watchdog::watch(proxy.workers().to_vec()));
    if let Some(address) = config.admin.address {
        let listener = tokio::net::TcpListener::bind(address)
            .await
            .map_err(|e| format!("cannot listen on {address} (admin.address): {e}"))?;
        let bound = listener.local_addr().unwrap_or(address);
        tracing::info!(address = %bound, "admin endpoint listening");
        tokio::spawn(admin::serve(
            listener,
            state.clone(),
            std::future::pending::<()>(),
        ));
    }
    let name = run_until_stopped(&mut signals, reloader, wished, &proxy, &state).await;
    tracing::info!(signal = name, "draining");
    state.draining.store(true, Ordering::Release);
    let drained = async {
        tokio::time::sleep(proxy.drain_delay()).await;
        state.listening.store(false, Ordering::Release);
        proxy.drain().await;
    };
    tokio::select! {
        () = drained => tracing::info!("drained"),
        name = signals.next() => tracing::warn!(signal = name, "second signal, stopping at once"),
    }
    Ok(())
}

fn admin_state(config: &Config, proxy: &Proxy, events: Events) -> admin::State {
    admin::State {
        workers: proxy.workers().to_vec(),
        upstream: proxy.upstream().clone(),
        shown: ArcSwap::from_pointee(admin::Shown::of(config)),
        control: proxy.control().clone(),
        started: std::time::Instant::now(),
        listening: AtomicBool::new(true),
        draining: AtomicBool::new(false),
        probe: Some(Box::new(proxy.probe())),
        inquire: Some(Box::new(proxy.inquire())),
        l1: proxy.l1().cloned(),
        events,
    }
}

/// Reads the configuration anew whenever somebody wishes, until the process is asked to stop; returns by
/// which signal.
async fn run_until_stopped(
    signals: &mut Signals,
    mut reloader: Reloader,
    mut wished: UnboundedReceiver<Wish>,
    proxy: &Proxy,
    state: &admin::State,
) -> &'static str {
    loop {
        tokio::select! {
            name = next_of(&mut signals.terminate, &mut signals.interrupt) => return name,
            _ = signals.hangup.recv() => {
                tracing::info!(signal = "SIGHUP", "reloading the configuration");
                // What came of it is in the log.
                let _ = reloader.reload(proxy, state).await;
            }
            Some(wish) = wished.recv() => {
                // Who asked may be gone.
                let _ = wish.send(reloader.reload(proxy, state).await);
            }
        }
    }
}

/// The signals that ask the process to stop, or to read its configuration anew.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new(hangup: Signal) -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup,
        })
    }

    /// The name of the next one.
    async fn next(&mut self) -> &'static str {
        next_of(&mut self.terminate, &mut self.interrupt).await
    }
}

async fn next_of(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}
