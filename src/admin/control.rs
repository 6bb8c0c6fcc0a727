//! How the process itself is doing, and what operators have made of it.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use serde::Serialize;

use super::State;
use super::metrics::Metrics;
use crate::config::Config;
use crate::control::Paused;
use crate::upstream::{Address, Verify, provider};
use crate::watchdog::{DEAD, STALLED};

/// What the configuration in force says of the process.
#[derive(Clone, Debug)]
pub struct Shown {
    /// Ceiling on connections to the upstream.
    pub max_connections: usize,
    /// Ceiling on clients.
    pub max_clients: usize,
    /// Bytes of memory that the process may use; 0 is no limit.
    pub memory_limit: usize,
    /// Who runs the upstream, as a word such as `upstash`.
    pub provider: &'static str,
    /// Where the upstream is; free of secrets.
    pub address: String,
    /// Whether anyone may answer in the upstream's place.
    pub tls_verify_disabled: bool,
}

impl Shown {
    /// What is to be seen of a configuration.
    pub fn of(config: &Config) -> Self {
        let upstream = &config.upstream;
        let provider = match &upstream.address {
            Address::Tcp { host, .. } => provider::provider(host),
            Address::Unix(_) => "local",
        };
        let tls = upstream.tls.as_ref();
        Self {
            max_connections: upstream.max_connections,
            max_clients: config.listen.max_clients,
            memory_limit: config.process.memory_limit,
            provider,
            address: upstream.address.to_string(),
            tls_verify_disabled: tls.is_some_and(|tls| tls.verify == Verify::None),
        }
    }
}

/// What `/health` says of it, where there is something to say.
#[derive(Serialize)]
pub(super) struct Health {
    #[serde(skip_serializing_if = "Option::is_none")]
    paused: Option<Pause>,
    #[serde(skip_serializing_if = "Option::is_none")]
    config_problem: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    stalled_workers: Vec<usize>,
}

#[derive(Serialize)]
struct Pause {
    commands: &'static str,
    seconds_left: u64,
}

/// The `/health` part.
pub(super) fn health(state: &State) -> Health {
    let pause = &state.control.pause;
    let paused = pause.left().map(|left| Pause {
        commands: match pause.scope() {
            Paused::Writes => "writes",
            _ => "all",
        },
        seconds_left: left.as_secs(),
    });
    Health {
        paused,
        config_problem: state.control.reloads.problem(),
        stalled_workers: silent(state, STALLED),
    }
}

/// A worker has been silent for so long that it will not come back.
pub(super) fn is_dead(state: &State) -> bool {
    !silent(state, DEAD).is_empty()
}

/// The workers that have been silent for at least this long.
fn silent(state: &State, limit: Duration) -> Vec<usize> {
    let workers = state.workers.iter().enumerate();
    let silent = workers
        .filter(|(_, worker)| Duration::from_millis(worker.silent_ms.load(Relaxed)) >= limit);
    silent.map(|(index, _)| index).collect()
}

impl Metrics {
    pub(super) fn add_control(&mut self) {
        let name = "nearkey_config_reload_failed";
        let help =
            "Whether the latest reload was refused; the configuration before it is in force.";
        self.gauge(name, help, |s| {
            f64::from(u8::from(s.control.reloads.failed.load(Relaxed)))
        });
        let help = "Reloads of the configuration.";
        let mut reloads = self.family("nearkey_config_reloads_total", help);
        reloads.add("result", "done", |s| s.control.reloads.done.load(Relaxed));
        reloads.add("result", "refused", |s| {
            s.control.reloads.refused.load(Relaxed)
        });
        let name = "nearkey_paused";
        let help = "Whether commands are held: 1 those that may write, 2 all.";
        self.gauge(name, help, |s| f64::from(s.control.pause.scope() as u8));
        let name = "nearkey_workers_stalled";
        let help = "Worker threads that stand still.";
        self.gauge(name, help, |s| silent(s, STALLED).len() as f64);
        let name = "nearkey_process_gaps_total";
        let help = "Times that a worker found that the process had stood still.";
        self.counter(name, help, |s| s.sum(|c| &c.gaps));
    }
}
