//! The same numbers as lines of text: for logs and scripts.

use std::fmt::Write;

use super::app::App;
use super::facts::{Overview, Saved, counted};
use super::numbers::{bytes, count, latency, percents, rate, span};

/// Rows of the lists.
const KEYS: usize = 20;
const EVENTS: usize = 10;

/// Everything that is known, or nothing before the first answer.
pub(super) fn snapshot(app: &App, now_ms: u64) -> String {
    let Some(overview) = &app.overview else {
        return String::new();
    };
    let mut text = String::new();
    for (name, value) in rows(app, overview) {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:<13}{value}");
    }
    for alarm in overview.alarms() {
        let _ = writeln!(text, "alarm        {alarm}");
    }
    hot_keys(&mut text, app);
    text += "\nevents, newest first\n";
    for event in app.events.iter().rev().take(EVENTS) {
        let age = span(now_ms.saturating_sub(event.at_ms) as f64 / 1e3) + " ago";
        let _ = writeln!(text, "{age:>12}  {:<5}  {}", event.level, event.text);
    }
    if app.events.is_empty() {
        text += "  (none)\n";
    }
    text
}

fn rows(app: &App, overview: &Overview) -> Vec<(&'static str, String)> {
    let (upstream, clients, now) = (&overview.upstream, &overview.clients, app.now());
    let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    let uptime = span(overview.uptime_seconds as f64);
    let state = overview.verdict().0;
    vec![
        (
            "state",
            format!(
                "{state} (version {}, up {uptime}, admin {})",
                overview.version, app.admin
            ),
        ),
        (
            "server",
            format!(
                "{} ({}), {}",
                upstream.address,
                upstream.provider,
                server(overview)
            ),
        ),
        ("connections", connections(overview)),
        (
            "clients",
            [
                format!("of at most {}", count(clients.max as f64)),
                format!("{} subscribed", count(clients.subscribers as f64)),
                format!("{} refused", count(clients.refused as f64)),
            ]
            .join(", "),
        ),
        (
            "commands/s",
            format!(
                "{}, L1 {}; {} since start",
                or_dash(now.rate.map(rate)),
                or_dash(now.l1_rate.map(rate)),
                count(overview.commands.total as f64),
            ),
        ),
        (
            "hit ratio",
            format!(
                "{}; {}",
                or_dash(now.hit_percent.map(percents)),
                l1(overview)
            ),
        ),
        (
            "latency",
            format!(
                "p50 {}, p99 {}; mean read with L1 {}",
                or_dash(now.p50_us.map(latency)),
                or_dash(now.p99_us.map(latency)),
                or_dash(now.read_us.map(latency))
            ),
        ),
        ("errors", errors(app, overview)),
        (
            if is_observed(overview) {
                "would save"
            } else {
                "saved"
            },
            savings(saved(overview)),
        ),
    ]
}

/// `50 app -> 2 server (25 : 1); peak 3, ceiling 10`.
fn connections(overview: &Overview) -> String {
    let upstream = &overview.upstream;
    format!(
        "{} app -> {} server{}; peak {}, ceiling {}",
        count(overview.clients.now as f64),
        count(upstream.connections as f64),
        ratio(overview).map_or_else(String::new, |ratio| format!(" ({ratio})")),
        upstream.connections_peak,
        upstream.connections_max,
    )
}

/// `25 : 1`, where there is something to compare.
pub(super) fn ratio(overview: &Overview) -> Option<String> {
    let (app, server) = (
        overview.clients.now as f64,
        overview.upstream.connections as f64,
    );
    (app > 0.0 && server > 0.0).then(|| format!("{} : 1", rate(app / server)))
}

pub(super) fn server(overview: &Overview) -> String {
    let upstream = &overview.upstream;
    let mut text = match upstream.latency_us {
        0 => "no round trip yet".to_owned(),
        us => format!("round trip {}", latency(us as f64)),
    };
    let _ = write!(
        text,
        ", in flight {}, leased {}, waiting {}, connected {}, lost {}",
        count(upstream.in_flight as f64),
        upstream.leases_held,
        upstream.leases_awaited,
        count(upstream.connects as f64),
        count(upstream.lost as f64),
    );
    match counted(&upstream.failures) {
        failures if failures.is_empty() => {}
        failures => text += &format!(", failed attempts: {failures}"),
    }
    text
}

pub(super) fn l1(overview: &Overview) -> String {
    let health = &overview.l1.health;
    let mode = match (health.mode.as_str(), health.why.as_str()) {
        (mode, "") => format!("L1 {mode}"),
        (mode, why) => format!("L1 {mode}: {why}"),
    };
    if health.mode == "off" {
        return mode;
    }
    let (held, most) = (bytes(health.bytes as f64), bytes(health.max_bytes as f64));
    format!(
        "{mode}; {} entries, {held} of {most}",
        count(health.entries as f64)
    )
}

/// Those of the last minutes, and what kinds there were since the start.
pub(super) fn errors(app: &App, overview: &Overview) -> String {
    let lately = count(app.now().errors as f64);
    let commands = &overview.commands;
    let mut text = match counted(&commands.errors) {
        kinds if kinds.is_empty() => "none since start".to_owned(),
        kinds => format!("{lately} lately; since start: {kinds}"),
    };
    if commands.retries > 0 {
        text += &format!("; {} reads sent once more", count(commands.retries as f64));
    }
    text
}

pub(super) fn is_observed(overview: &Overview) -> bool {
    overview.l1.health.mode == "observe"
}

pub(super) fn saved(overview: &Overview) -> &Saved {
    match is_observed(overview) {
        true => &overview.l1.would_save,
        false => &overview.l1.saved,
    }
}

fn savings(saved: &Saved) -> String {
    [
        format!("{} commands", count(saved.commands as f64)),
        bytes(saved.bytes as f64),
        format!("{} of waiting", span(saved.seconds)),
        money(saved),
    ]
    .join(", ")
}

pub(super) fn money(saved: &Saved) -> String {
    match saved.money {
        Some(money) => format!("money {money:.2}"),
        None => "money unknown: [cost] states no price".to_owned(),
    }
}

fn hot_keys(text: &mut String, app: &App) {
    let by = app.order.as_str();
    let _ = writeln!(text, "\nhot keys of the last minute, most {by} first");
    let head = ["reads", "hits", "misses", "writes", "bytes"];
    let row = |cells: [String; 5]| cells.map(|cell| format!("{cell:>9}")).concat();
    if app.hot.keys.is_empty() {
        *text += "  (no key was read or written)\n";
        return;
    }
    let _ = writeln!(
        text,
        "{}  key (what L1 does, and what to do)",
        row(head.map(str::to_owned))
    );
    for key in app.hot.keys.iter().take(KEYS) {
        let counts = [key.reads, key.hits, key.misses, key.writes].map(|n| count(n as f64));
        let [reads, hits, misses, writes] = counts;
        let cells = row([reads, hits, misses, writes, bytes(key.bytes as f64)]);
        let _ = writeln!(text, "{cells}  {} ({})", key.key, key.advice);
    }
}
