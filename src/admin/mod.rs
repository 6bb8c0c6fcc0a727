//! The admin HTTP endpoint: `/metrics`, `/health`, `/ready`, `/live`, `/hotkeys`, `/overview` and a page.
//!
//! It only reads: the counters that the workers keep and the verdict on the upstream that the data
//! path leaves behind. An answer never waits for the upstream, with one exception: `/health` of a
//! process that has not tried its upstream yet asks for a first attempt and gives it a second.
//! Meant for a thread of its own, so that a busy worker does not look like a dead process.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use crate::control::Control;
use crate::events::Events;
use crate::l1::L1;
use crate::stats::{Counter, Counters, UpstreamState, UpstreamStats, WorkerStats};

mod control;
mod health;
mod histogram;
mod history;
pub mod http;
mod l1;
mod metrics;
mod overview;
mod page;
mod process;
mod server;

#[cfg(test)]
mod tests;

pub use control::Shown;
pub use server::serve;

/// Settings of the admin endpoint (`[admin]`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where the endpoint listens; `None` turns it off.
    pub address: Option<SocketAddr>,
}

/// What the endpoint tells about.
pub struct State {
    /// Counters, one set per worker.
    pub workers: Vec<Arc<WorkerStats>>,
    /// What is known of the upstream.
    pub upstream: Arc<UpstreamStats>,
    /// What the configuration in force says of the process.
    pub shown: ArcSwap<Shown>,
    /// What operators steer.
    pub control: Arc<Control>,
    /// When the process started.
    pub started: Instant,
    /// Whether clients can connect.
    pub listening: AtomicBool,
    /// Whether the process is on its way out.
    pub draining: AtomicBool,
    /// Asks the data path to open a connection if it has none, and returns at once. Called at most
    /// once a second, and only while nothing was tried yet or the latest attempt failed.
    pub probe: Option<Box<dyn Fn() + Send + Sync>>,
    /// L1, if the configuration has a use for one.
    pub l1: Option<Arc<L1>>,
    /// The latest events of the log.
    pub events: Events,
}

impl State {
    /// Another configuration is in force.
    pub fn show(&self, shown: Shown) {
        self.shown.store(Arc::new(shown));
    }

    /// The latest verdict on the upstream.
    fn upstream_state(&self) -> UpstreamState {
        self.upstream
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// One counter, summed over the workers.
    fn sum(&self, counter: impl Fn(&Counters) -> &Counter) -> u64 {
        let values = self
            .workers
            .iter()
            .map(|worker| counter(&worker.counters).get());
        values.fold(0, u64::wrapping_add)
    }

    fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    fn is_listening(&self) -> bool {
        self.listening.load(Relaxed)
    }
}

/// [`State::probe`] with its limit of one call a second.
#[derive(Default)]
struct Prober(Mutex<Option<Instant>>);

impl Prober {
    const PAUSE: Duration = Duration::from_secs(1);

    /// Calls the probe unless it was called within the last second. `false`: there is none.
    fn ask(&self, state: &State) -> bool {
        let Some(probe) = &state.probe else {
            return false;
        };
        let now = Instant::now();
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.is_none_or(|at| now.duration_since(at) >= Self::PAUSE) {
            *asked = Some(now);
            drop(asked);
            probe();
        }
        true
    }
}
