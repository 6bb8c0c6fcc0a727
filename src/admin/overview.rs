//! `/overview`: everything that the page and `nearkey top` show, in one answer.

use std::sync::atomic::Ordering::Relaxed;

use serde_json::{Value, json};

use super::history::{self, History};
use super::http::{Request, Response, Status};
use super::{State, l1};
use crate::events::Event;
use crate::l1::report::units;
use crate::l1::savings::Savings;
use crate::stats::{ConnectFailure, UpstreamState};

/// What the asker has already.
#[derive(Default)]
struct Since {
    sample: u64,
    event: u64,
}

impl Since {
    fn of(request: &Request) -> Result<Self, &'static str> {
        let mut since = Self::default();
        for pair in request.query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let number = value.parse().map_err(|_| "sample and event are numbers");
            match name {
                "sample" => since.sample = number?,
                "event" => since.event = number?,
                _ => return Err("the options are sample and event"),
            }
        }
        Ok(since)
    }
}

/// How things are and were: `?sample=n&event=n` leaves out what the asker has.
pub(super) fn overview(state: &State, history: &History, request: &Request) -> Response {
    let since = match Since::of(request) {
        Ok(since) => since,
        Err(what) => return Response::text(Status::BadRequest, format!("{what}\n")),
    };
    let shown = state.shown.load();
    let events: Vec<_> = state.events.since(since.event).iter().map(event).collect();
    let body = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_seconds": state.started.elapsed().as_secs(),
        "draining": state.is_draining(),
        "upstream": upstream(state),
        "clients": {
            "now": state.sum(|c| &c.clients),
            "max": shown.max_clients,
            "accepted": state.sum(|c| &c.clients_accepted),
            "refused": state.sum(|c| &c.clients_refused_limit)
                + state.sum(|c| &c.clients_refused_protected),
            "subscribers": state.sum(|c| &c.subscribers),
        },
        "commands": commands(state),
        "l1": l1_of(state),
        "step_seconds": history::STEP.as_secs_f64(),
        "samples": history.since(since.sample),
        "events": events,
    });
    Response::json(Status::Ok, &body)
}

fn event(event: &Event) -> Value {
    json!({
        "number": event.number,
        "at_ms": event.at_ms,
        "level": event.level,
        "text": event.text,
    })
}

fn upstream(state: &State) -> Value {
    let state_now = state.upstream_state();
    let word = match state_now {
        UpstreamState::Up => "up",
        UpstreamState::Unknown => "unknown",
        UpstreamState::Strained(_) => "strained",
        UpstreamState::Degraded(_) => "degraded",
        UpstreamState::Down(_) => "down",
    };
    let trouble = state_now.trouble();
    let shown = state.shown.load();
    let failures = ConnectFailure::ALL.into_iter().map(|cause| {
        let count = state.upstream.connect_failures[cause as usize].load(Relaxed);
        (cause.as_str().to_owned(), Value::from(count))
    });
    let failures: serde_json::Map<_, _> = failures.collect();
    json!({
        "state": word,
        "cause": trouble.map(|trouble| trouble.cause.as_str()),
        "message": trouble.map(|trouble| trouble.message.as_str()),
        "advice": trouble.map(|trouble| trouble.cause.advice()),
        "address": shown.address,
        "provider": shown.provider,
        "tls_verify_disabled": shown.tls_verify_disabled,
        "connections": state.upstream.connections.load(Relaxed),
        "connections_peak": state.upstream.connections_peak.load(Relaxed),
        "connections_max": shown.max_connections,
        "connects": state.upstream.connects.load(Relaxed),
        "lost": state.upstream.lost.load(Relaxed),
        "failures": failures,
        "latency_us": state.upstream.latency_us.load(Relaxed),
        "in_flight": state.sum(|c| &c.in_flight),
        "leases_held": state.sum(|c| &c.leases_held),
        "leases_awaited": state.sum(|c| &c.leases_awaited),
        "bytes_in": state.sum(|c| &c.upstream_bytes_in),
        "bytes_out": state.sum(|c| &c.upstream_bytes_out),
    })
}

fn commands(state: &State) -> Value {
    json!({
        "total": history::commands(state),
        "local": state.sum(|c| &c.commands_local),
        "shared": state.sum(|c| &c.commands_shared),
        "leased": state.sum(|c| &c.commands_leased),
        "refused": state.sum(|c| &c.commands_refused),
        "l1": super::metrics::from_l1(state),
        "errors": {
            "unreachable": state.sum(|c| &c.errors_unreachable),
            "timeout": state.sum(|c| &c.errors_timeout),
            "busy": state.sum(|c| &c.errors_busy),
            "lost": state.sum(|c| &c.errors_lost),
        },
        "error_replies": state.sum(|c| &c.error_replies),
        "retries": state.sum(|c| &c.retries),
        "desyncs": state.sum(|c| &c.desyncs),
        "panics": state.sum(|c| &c.panics),
    })
}

fn l1_of(state: &State) -> Value {
    let report = state.l1_report();
    json!({
        "health": l1::health(state),
        "hits": state.sum(|c| &c.l1_hits),
        "misses": state.sum(|c| &c.l1_misses),
        "fills": state.sum(|c| &c.l1_fills),
        "stale_hits": state.sum(|c| &c.l1_stale_hits),
        "saved": savings(report.savings()),
        "would_save": savings(report.unused()),
    })
}

fn savings(saved: Savings) -> Value {
    json!({
        "commands": saved.commands,
        "bytes": saved.bytes,
        "seconds": saved.waiting.as_secs_f64(),
        "money": saved.money.map(units),
    })
}
