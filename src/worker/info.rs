//! The `# Nearkey` section of INFO.

use std::fmt::Write as _;
use std::sync::atomic::Ordering::Relaxed;

use super::{Worker, inspect};
use crate::control::Paused;
use crate::resp::{Protocol, Value, encode, reply};

/// The section, with counters of all workers.
pub fn section(worker: &Worker) -> String {
    let sum = |pick: fn(&crate::stats::Counters) -> u64| -> u64 {
        worker
            .all_stats
            .iter()
            .map(|stats| pick(&stats.counters))
            .sum()
    };
    let upstream = &worker.link.dialer.stats;
    let mut text = String::from("# Nearkey\r\n");
    let mut line = |name: &str, value: &dyn std::fmt::Display| {
        let _ = write!(text, "nearkey_{name}:{value}\r\n");
    };
    line("version", &env!("CARGO_PKG_VERSION"));
    line(
        "uptime_in_seconds",
        &worker.link.started.elapsed().as_secs(),
    );
    line("workers", &worker.all_stats.len());
    line("upstream", &worker.link.dialer.config().address);
    line("connected_clients", &sum(|c| c.clients.get()));
    line(
        "total_connections_received",
        &sum(|c| c.clients_accepted.get()),
    );
    line("upstream_connections", &upstream.connections.load(Relaxed));
    line(
        "upstream_connections_peak",
        &upstream.connections_peak.load(Relaxed),
    );
    line("upstream_connections_max", &worker.link.dialer.budget.max());
    line("commands_local", &sum(|c| c.commands_local.get()));
    line("commands_shared", &sum(|c| c.commands_shared.get()));
    line("commands_leased", &sum(|c| c.commands_leased.get()));
    line("commands_refused", &sum(|c| c.commands_refused.get()));
    line("in_flight", &sum(|c| c.in_flight.get()));
    line("errors_unreachable", &sum(|c| c.errors_unreachable.get()));
    line("errors_timeout", &sum(|c| c.errors_timeout.get()));
    line("errors_busy", &sum(|c| c.errors_busy.get()));
    line("errors_lost", &sum(|c| c.errors_lost.get()));
    let paused = match worker.control.pause.scope() {
        Paused::No => "no",
        Paused::Writes => "writes",
        Paused::All => "all",
    };
    line("paused", &paused);
    line("pubsub_clients", &sum(|c| c.subscribers.get()));
    line(
        "pubsub_upstream_subscriptions",
        &sum(|c| c.hub_subscriptions.get()),
    );
    line("pubsub_gaps", &sum(|c| c.hub_gaps.get()));
    line("desyncs", &sum(|c| c.desyncs.get()));
    for (name, value) in inspect::report(worker).rows() {
        line(&format!("l1_{name}"), &value);
    }
    text
}

/// The section as a reply of its own.
pub fn reply_of(worker: &Worker, protocol: Protocol) -> Vec<u8> {
    let mut reply = Vec::new();
    encode::verbatim(&mut reply, protocol, "txt", section(worker).as_bytes());
    reply
}

/// The server's INFO reply with the section appended; anything else passes unchanged.
pub fn extend(frame: &[u8], worker: &Worker) -> Vec<u8> {
    let Ok(value) = reply::decode(frame, 0) else {
        return frame.to_vec();
    };
    // The form of the reply tells the protocol it was asked in; the client may be past that.
    let (protocol, text) = match &value {
        Value::Bulk(text) => (Protocol::Resp2, text),
        Value::Verbatim { text, .. } => (Protocol::Resp3, text),
        _ => return frame.to_vec(),
    };
    let mut joined = text.to_vec();
    if !joined.is_empty() && !joined.ends_with(b"\r\n\r\n") {
        joined.extend_from_slice(b"\r\n");
    }
    joined.extend_from_slice(section(worker).as_bytes());
    let mut reply = Vec::with_capacity(joined.len() + 32);
    encode::verbatim(&mut reply, protocol, "txt", &joined);
    reply
}
