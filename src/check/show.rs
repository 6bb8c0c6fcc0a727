//! A report for a person, and for a program.

use std::fmt::Write;

use serde_json::json;

use super::{Report, Severity};

pub(super) fn json(report: &Report) -> String {
    let value = json!({
        "works": report.works(),
        "findings": report.findings,
        "problems": report.problems,
    });
    format!("{value:#}\n")
}

pub(super) fn text(report: &Report) -> String {
    let mut text = String::new();
    for (name, value) in rows(report) {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:<14}{}", printable(&value));
    }
    for problem in &report.problems {
        let word = match problem.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Note => "note",
        };
        let what = printable(&problem.what);
        let _ = write!(text, "\n{word}: {what}\n  {}\n", problem.cure);
    }
    let count = |severity| {
        let of_it = report.problems.iter().filter(|p| p.severity == severity);
        of_it.count()
    };
    let _ = match (report.works(), count(Severity::Warning)) {
        (false, _) => writeln!(text, "\nIt does not work."),
        (true, 0) => writeln!(text, "\nIt works."),
        (true, 1) => writeln!(text, "\nIt works, with one warning."),
        (true, n) => writeln!(text, "\nIt works, with {n} warnings."),
    };
    text
}

/// What comes from the server must not steer a terminal.
fn printable(text: &str) -> String {
    let shown = |c: char| match c.is_control() {
        true => c.escape_default().to_string(),
        false => c.to_string(),
    };
    text.chars().map(shown).collect()
}

fn rows(report: &Report) -> Vec<(&'static str, String)> {
    let found = &report.findings;
    let mut rows = vec![("address", format!("{} ({})", found.address, found.provider))];
    if !found.resolved.is_empty() && found.resolved.len() < 9 {
        rows.push(("resolves to", found.resolved.join(", ")));
    }
    rows.push(("login", found.login.clone()));
    let Some(connect) = found.connect_ms else {
        return rows;
    };
    rows.push(("connects in", format!("{connect} ms")));
    match &found.tls {
        Some(tls) => {
            let (version, cipher, verify) = (&tls.version, &tls.cipher, tls.verify);
            rows.push(("TLS", format!("{version}, {cipher}, verify \"{verify}\"")));
            if let (Some(subject), Some(until), Some(days)) =
                (&tls.subject, &tls.valid_until, tls.days_left)
            {
                let row = format!("{subject}, valid until {until} ({days} days)");
                rows.push(("certificate", row));
            }
        }
        None => rows.push(("TLS", "none".to_owned())),
    }
    let known = [&found.server, &found.version, &found.mode, &found.role];
    let known: Vec<&str> = known.into_iter().flatten().map(String::as_str).collect();
    rows.push(("server", known.join(" ")));
    if let Some(trip) = found.round_trip {
        let row = format!(
            "p50 {} ms, p99 {} ms ({} PINGs)",
            trip.p50_ms, trip.p99_ms, trip.pings
        );
        rows.push(("round trip", row));
    }
    let number = |n: Option<u64>| n.map_or_else(|| "unknown".to_owned(), |n| n.to_string());
    let (now, max) = (number(found.clients), number(found.max_clients));
    rows.push(("clients", format!("{now} now, at most {max}")));
    rows.push(("memory", memory(report)));
    rows.push(("commands", number(found.commands)));
    let yes = |known: Option<bool>| match known {
        Some(true) => "yes",
        Some(false) => "no",
        None => "unknown",
    };
    rows.push(("RESP3", yes(found.resp3).to_owned()));
    let tracking = match &found.tracking {
        Some(told) if told.works => "yes: changes are pushed, in order".to_owned(),
        Some(told) => format!("no: {}", told.why.as_deref().unwrap_or("unknown")),
        None => "unknown".to_owned(),
    };
    rows.push(("tracking", tracking));
    let mode = found.l1.mode;
    let why = match found.l1.why.as_str() {
        "" => String::new(),
        why => format!(": {why}"),
    };
    rows.push(("L1", format!("{mode}{why}")));
    rows.push(("budget", budget(report)));
    rows
}

fn memory(report: &Report) -> String {
    let found = &report.findings;
    let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / 1024.0 / 1024.0);
    let used = found.memory_used.map_or_else(|| "unknown".to_owned(), mib);
    let max = match found.memory_max {
        Some(0) => "no limit".to_owned(),
        Some(max) => format!("at most {}", mib(max)),
        None => "limit unknown".to_owned(),
    };
    let policy = found.eviction_policy.as_deref().unwrap_or("unknown");
    format!("{used}, {max}, eviction {policy}")
}

fn budget(report: &Report) -> String {
    let found = &report.findings;
    let own = found.max_connections;
    match found.room_for {
        Some(n) => {
            format!("at most {own} connections of this process; room for {n} such processes now")
        }
        None => format!("at most {own} connections of this process; the server's limit is unknown"),
    }
}
