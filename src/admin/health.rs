//! `/live`, `/ready` and `/health`: what orchestrators and people ask.
//!
//! | upstream | draining | `/health` | `/ready` |
//! |---|---|---|---|
//! | up | no | `healthy`, 200 | 200 |
//! | up, and gives no further connection | no | `healthy` with the cause, 200 | 200 |
//! | up, and takes no writes, or redirects | no | `degraded`, 200 | 200 |
//! | up, and is loading or without its master | no | `degraded`, 200 | 503 |
//! | not tried yet, and no verdict within a second | no | `degraded`, 200 | 200 |
//! | any but down | yes | `degraded`, 200 | 503 |
//! | down | any | `unhealthy`, 503 | 503 |
//!
//! An upstream without a verdict counts as usable: a process is not to be restarted, nor kept out
//! of service, on a suspicion. The verdict is that of the latest use; connections of an idle
//! process close, and nothing is opened only to be asked about.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::http::{Response, Status};
use super::{Prober, State, control, l1};
use crate::stats::UpstreamState;
use crate::upstream::tls::date;

/// Longest wait of `/health` for the first verdict.
const FIRST_VERDICT: Duration = Duration::from_secs(1);

/// How often the verdict is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(5);

/// The body of `/health`.
#[derive(Serialize)]
struct Health<'a> {
    status: &'static str,
    redis: Redis<'a>,
    clients: u64,
    max_clients: usize,
    version: &'static str,
    uptime_seconds: u64,
    draining: bool,
    tls_verify_disabled: bool,
    l1: l1::Health,
    #[serde(flatten)]
    control: control::Health,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
    /// Since when that is so.
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    for_seconds: Option<u64>,
}

#[derive(Serialize)]
struct Redis<'a> {
    available: bool,
    provider: &'static str,
    address: &'a str,
    /// Whole milliseconds, as consumers expect an integer; `null` without a measured round trip.
    latency_ms: Option<u64>,
    connection_pool: Pool,
}

#[derive(Serialize)]
struct Pool {
    active: u64,
    max: usize,
}

/// `/live`: the process runs, and all of it.
pub(super) fn live(state: &State) -> Response {
    if control::is_dead(state) {
        let reason = "a worker stands still";
        return Response::json(
            Status::Unavailable,
            &json!({ "live": false, "reason": reason }),
        );
    }
    Response::json(Status::Ok, &json!({ "live": true }))
}

/// `/ready`: the process should get new clients.
pub(super) fn ready(state: &State, prober: &Prober) -> Response {
    let reason = if !state.is_listening() {
        Some("not listening yet".to_owned())
    } else if state.is_draining() {
        Some("draining".to_owned())
    } else {
        let upstream = state.upstream_state();
        if upstream.trouble().is_some() {
            // Nobody sends clients to a process that is not ready, so no client would find out that
            // the upstream is back.
            prober.ask(state);
        }
        upstream
            .trouble()
            .filter(|_| upstream.denies_reads())
            .map(|trouble| {
                let down = match upstream {
                    UpstreamState::Down(_) => "down",
                    _ => "not ready",
                };
                format!(
                    "upstream {down} ({}): {}",
                    trouble.cause.as_str(),
                    trouble.message
                )
            })
    };
    match reason {
        None => Response::json(Status::Ok, &json!({ "ready": true })),
        Some(reason) => Response::json(
            Status::Unavailable,
            &json!({ "ready": false, "reason": reason }),
        ),
    }
}

/// `/health`: how things are.
pub(super) async fn health(state: &State, prober: &Prober) -> Response {
    let verdict = verdict(state, prober).await;
    let trouble = verdict.trouble();
    let words = trouble.map(|trouble| trouble.message.as_str());
    let (status, code, message) = match &verdict {
        UpstreamState::Down(_) => ("unhealthy", Status::Unavailable, words),
        _ if state.is_draining() => ("degraded", Status::Ok, Some("draining")),
        UpstreamState::Up | UpstreamState::Strained(_) => ("healthy", Status::Ok, words),
        UpstreamState::Degraded(_) => ("degraded", Status::Ok, words),
        UpstreamState::Unknown => {
            let message = "the upstream has not answered yet";
            ("degraded", Status::Ok, Some(message))
        }
    };
    let available = verdict != UpstreamState::Unknown && !verdict.denies_reads();
    let shown = state.shown.load();
    let latency_us = state.upstream.latency_us.load(Relaxed);
    let health = Health {
        status,
        redis: Redis {
            available,
            provider: shown.provider,
            address: &shown.address,
            latency_ms: (available && latency_us > 0).then(|| (latency_us + 500) / 1000),
            connection_pool: Pool {
                active: state.upstream.connections.load(Relaxed),
                max: shown.max_connections,
            },
        },
        clients: state.sum(|c| &c.clients),
        max_clients: shown.max_clients,
        version: env!("CARGO_PKG_VERSION"),
        uptime_seconds: state.started.elapsed().as_secs(),
        draining: state.is_draining(),
        tls_verify_disabled: shown.tls_verify_disabled,
        l1: l1::health(state),
        control: control::health(state),
        cause: trouble.map(|trouble| trouble.cause.as_str()),
        message,
        since: trouble.map(|trouble| rfc3339(trouble.since)),
        for_seconds: trouble.map(|trouble| trouble.began.elapsed().as_secs()),
    };
    Response::json(code, &health)
}

/// The latest verdict, or the first one if it comes in time.
async fn verdict(state: &State, prober: &Prober) -> UpstreamState {
    let mut verdict = state.upstream_state();
    if verdict == UpstreamState::Up || !prober.ask(state) {
        return verdict;
    }
    let deadline = Instant::now() + FIRST_VERDICT;
    while verdict == UpstreamState::Unknown && Instant::now() < deadline {
        sleep(LOOK).await;
        verdict = state.upstream_state();
    }
    verdict
}

/// `2026-01-31T23:59:59Z`.
fn rfc3339(time: SystemTime) -> String {
    let seconds = time
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    date(seconds).replacen(' ', "T", 1).replace(" UTC", "Z")
}
