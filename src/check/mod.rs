//! `nearkey check`: connects as configured, asks the server what it can, and says what stands in the way.

use std::time::Duration;

use serde::Serialize;

use crate::config::Config;

mod judge;
mod probe;
mod show;

pub use judge::{Problem, Severity};

/// What was found out. What could not be is `None`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Findings {
    /// Host and port, or the path of a socket.
    pub address: String,
    /// Who runs the server, by its name: `upstash`, `local`...
    pub provider: &'static str,
    /// What the name resolves to.
    pub resolved: Vec<String>,
    /// From the first packet to a connection that is ready for commands.
    pub connect_ms: Option<f64>,
    /// Why there is no connection.
    pub failure: Option<Failure>,
    /// What of TLS was agreed upon; `None` is plain TCP.
    pub tls: Option<Tls>,
    /// In whose name: a user, `nobody`, or `each client's own`.
    pub login: String,
    /// `redis`, `valkey`...
    pub server: Option<String>,
    /// Its version.
    pub version: Option<String>,
    /// `standalone` or `cluster`.
    pub mode: Option<String>,
    /// `master` or `slave`.
    pub role: Option<String>,
    /// It reads its data from disk still.
    pub is_loading: bool,
    /// It is a replica that has lost its master.
    pub master_is_down: bool,
    /// Round trips of PING.
    pub round_trip: Option<RoundTrip>,
    /// Clients of the server now, this check's own among them.
    pub clients: Option<u64>,
    /// Most clients that it takes.
    pub max_clients: Option<u64>,
    /// Memory of its data, in bytes.
    pub memory_used: Option<u64>,
    /// Its limit; zero is none.
    pub memory_max: Option<u64>,
    /// What happens beyond it.
    pub eviction_policy: Option<String>,
    /// Commands that it lists.
    pub commands: Option<u64>,
    /// It speaks RESP3.
    pub resp3: Option<bool>,
    /// Whether its pushes can be relied on.
    pub tracking: Option<Tracking>,
    /// What L1 would do.
    pub l1: L1,
    /// Most connections of this process (`upstream.max_connections`).
    pub max_connections: usize,
    /// How many such processes the server has room for, beside its clients of now.
    pub room_for: Option<u64>,
}

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// The class of the failure: `dns`, `tcp`, `auth`...
    pub cause: &'static str,
    /// A sentence.
    pub message: String,
}

/// Whether the server's pushes can be relied on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tracking {
    /// They can.
    pub works: bool,
    /// If not, why.
    pub why: Option<String>,
}

impl Tracking {
    fn of(told: Result<(), String>) -> Self {
        Self {
            works: told.is_ok(),
            why: told.err(),
        }
    }
}

/// What L1 would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct L1 {
    /// `off`, `observe`, `tracking` or `ttl`.
    pub mode: &'static str,
    /// Why; empty where there is nothing to say.
    pub why: String,
}

/// What of TLS was agreed upon.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tls {
    /// `TLS 1.3`.
    pub version: String,
    /// The cipher suite.
    pub cipher: String,
    /// How far the certificate was checked (`upstream.verify`).
    pub verify: &'static str,
    /// Whom it was made out to.
    pub subject: Option<String>,
    /// Last day on which it is valid, as a date.
    pub valid_until: Option<String>,
    /// Days until then.
    pub days_left: Option<i64>,
}

/// Round trips of PING.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct RoundTrip {
    /// How many were made.
    pub pings: usize,
    /// Half of them were faster, in milliseconds.
    pub p50_ms: f64,
    /// All but one in a hundred were faster, in milliseconds.
    pub p99_ms: f64,
}

/// What there is to say.
#[derive(Debug)]
pub struct Report {
    /// What was found out.
    pub findings: Findings,
    /// What stands in the way, worst first.
    pub problems: Vec<Problem>,
}

impl Report {
    /// Nothing stands in the way of serving clients.
    pub fn works(&self) -> bool {
        self.problems
            .iter()
            .all(|problem| problem.severity != Severity::Error)
    }

    /// For a person.
    pub fn to_text(&self) -> String {
        show::text(self)
    }

    /// For a program.
    pub fn to_json(&self) -> String {
        show::json(self)
    }
}

/// Connects as `config` says and asks the server what it can.
///
/// # Errors
/// The configuration names a file that cannot be used.
pub async fn run(config: &Config) -> Result<Report, String> {
    let findings = probe::findings(config).await?;
    let problems = judge::problems(&findings, config);
    Ok(Report { findings, problems })
}

fn ms(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e5).round() / 100.0
}
