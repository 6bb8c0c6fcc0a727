//! Hot keys, events, what was saved, and the server.

use ratatui::text::{Line, Span};

use super::super::app::{App, Order};
use super::super::facts::{HotKey, Overview, counted};
use super::super::numbers::{bytes, count, latency, span};
use super::super::text::{is_observed, money, saved};
use super::{Pad, columns, fit, wrap};

/// Columns of a number.
const NUMBER: usize = 8;

/// The widest name that is worth its columns.
const LONGEST_NAME: usize = 60;

/// Columns of the longest advice.
const ADVICE: usize = 56;

/// Hot keys with what L1 makes of them.
pub(super) fn hot_keys(pad: &mut Pad<'_>, app: &App, scroll: usize) {
    let (theme, area) = (pad.theme, pad.area);
    let more = format!("last minute, most {} first (r m b w)", app.order.as_str());
    pad.title("Hot keys", &more);
    if app.hot.keys.is_empty() {
        pad.put(
            1,
            &Line::styled("no key was read or written", theme.quiet()),
        );
        return;
    }
    let numbers = numbers(app.order, area.width);
    let width = usize::from(area.width);
    let rest = width.saturating_sub(numbers.len() * NUMBER + 2);
    // The advice is the point of it; a name is known by its beginning.
    let longest = app
        .hot
        .keys
        .iter()
        .map(|key| Span::raw(&*key.key).width())
        .max();
    let name = rest.saturating_sub(ADVICE).max(rest * 2 / 5);
    let name = name.min(LONGEST_NAME).min(longest.unwrap_or(0).max(10));
    let advice = rest - name.min(rest);
    let head: String = numbers
        .iter()
        .map(|(head, _)| format!("{head:>NUMBER$}"))
        .collect();
    let head = format!(
        "{:name$}{head}  {}",
        "key",
        fit("what L1 does, and what to do", advice)
    );
    pad.put(1, &Line::styled(head, theme.quiet()));
    for (row, key) in (2..area.height).zip(app.hot.keys.iter().skip(scroll)) {
        let cells: String = numbers
            .iter()
            .map(|(_, of)| format!("{:>NUMBER$}", of(key)))
            .collect();
        let is_served = key.hits > 0 && key.hits * 2 >= key.reads;
        let style = if is_served {
            theme.l1()
        } else {
            ratatui::style::Style::new()
        };
        pad.put(row, &Line::raw(fit(&key.key, name)));
        pad.put_at(columns(name), row, &Line::raw(cells));
        let after = columns(name + numbers.len() * NUMBER + 2);
        pad.put_at(after, row, &Line::styled(fit(&key.advice, advice), style));
    }
}

type Number = (&'static str, fn(&HotKey) -> String);

/// All numbers, or those that matter most and the one that the order is by.
fn numbers(order: Order, width: u16) -> Vec<Number> {
    let all: [(Number, Option<Order>, u16); 5] = [
        (("reads", |k| count(k.reads as f64)), Some(Order::Reads), 0),
        (("hits", |k| count(k.hits as f64)), None, 0),
        (
            ("misses", |k| count(k.misses as f64)),
            Some(Order::Misses),
            100,
        ),
        (
            ("writes", |k| count(k.writes as f64)),
            Some(Order::Writes),
            70,
        ),
        (("bytes", |k| short(k.bytes)), Some(Order::Bytes), 100),
    ];
    let is_shown =
        |(_, by, least): &(Number, Option<Order>, u16)| width >= *least || *by == Some(order);
    all.into_iter()
        .filter(is_shown)
        .map(|(number, ..)| number)
        .collect()
}

/// `1.2KiB`, for a narrow column.
fn short(n: u64) -> String {
    bytes(n as f64).replace(' ', "")
}

/// The latest events, newest first.
pub(super) fn events(pad: &mut Pad<'_>, app: &App, now_ms: u64, scroll: usize) {
    let (theme, area) = (pad.theme, pad.area);
    if area.height == 0 {
        return;
    }
    pad.title("Events", "newest first");
    if app.events.is_empty() {
        pad.put(1, &Line::styled("nothing yet", theme.quiet()));
    }
    let mut row = 1;
    for event in app.events.iter().rev().skip(scroll) {
        if row >= area.height {
            return;
        }
        let age = span(now_ms.saturating_sub(event.at_ms) as f64 / 1e3);
        let style = match event.level.as_str() {
            "error" => theme.tone(2),
            "warn" => theme.tone(1),
            _ => theme.quiet(),
        };
        let head = Line::from(vec![
            Span::styled(format!("{age:>8}  "), theme.quiet()),
            Span::styled(format!("{:<5}  ", event.level), style),
        ]);
        let indent = columns(head.width());
        pad.put(row, &head);
        let room = usize::from(area.width.saturating_sub(indent));
        // Long texts are read where events have the screen for themselves.
        let lines = match app.view == super::View::Events {
            true => wrap(&event.text, room),
            false => vec![fit(&event.text, room)],
        };
        for line in lines {
            pad.put_at(indent, row, &Line::raw(line));
            row += 1;
        }
    }
}

/// What was saved in one line, the server in another.
pub(super) fn saved_below(pad: &mut Pad<'_>, overview: &Overview) {
    let theme = pad.theme;
    let saved = saved(overview);
    let price = saved.money.map(|_| money(saved));
    let mut line = Line::styled(saved_title(overview), theme.loud());
    let parts = [
        Some(format!("{} commands", count(saved.commands as f64))),
        Some(bytes(saved.bytes as f64)),
        Some(format!("{} of waiting", span(saved.seconds))),
        price,
    ];
    let text = parts.into_iter().flatten().collect::<Vec<_>>().join(", ");
    line.push_span(Span::raw(format!("  {text}")));
    pad.put(0, &line);
    let mut line = Line::styled("Server       ", theme.loud());
    let room = usize::from(pad.area.width).saturating_sub(line.width());
    line.push_span(Span::raw(fit(&super::super::text::server(overview), room)));
    pad.put(1, &line);
}

fn saved_title(overview: &Overview) -> &'static str {
    match is_observed(overview) {
        true => "Would save ",
        false => "Saved by L1",
    }
}

/// The same, in rows: what was saved, the server below it.
pub(super) fn saved_beside(pad: &mut Pad<'_>, overview: &Overview) {
    let l1 = &overview.l1;
    let saved = saved(overview);
    let n = |n: u64| count(n as f64);
    let price = saved
        .money
        .map_or_else(|| "no price in [cost]".to_owned(), |m| format!("{m:.2}"));
    let mut rows = vec![
        ("commands", count(saved.commands as f64)),
        ("bytes", bytes(saved.bytes as f64)),
        ("waiting", span(saved.seconds)),
        ("money", price),
        (
            "memory",
            format!(
                "{} of {}",
                bytes(l1.health.bytes as f64),
                bytes(l1.health.max_bytes as f64)
            ),
        ),
    ];
    if l1.stale_hits > 0 {
        rows.push(("answered stale", n(l1.stale_hits)));
    }
    pad.title(saved_title(overview).trim_end(), "since start");
    let after = list(pad, 1, &rows);
    let area = pad.area;
    let below = ratatui::layout::Rect {
        y: area.y + after,
        height: area.height.saturating_sub(after),
        ..area
    };
    if below.height > 1 {
        server_beside(&mut pad.part(below), overview);
    }
}

fn server_beside(pad: &mut Pad<'_>, overview: &Overview) {
    let upstream = &overview.upstream;
    let n = |n: u64| count(n as f64);
    let trip = match upstream.latency_us {
        0 => "–".to_owned(),
        us => latency(us as f64),
    };
    let failures = counted(&upstream.failures);
    let rows = [
        ("last round trip", trip),
        ("in flight", n(upstream.in_flight)),
        (
            "leased / waiting",
            format!("{} / {}", upstream.leases_held, upstream.leases_awaited),
        ),
        (
            "connected / lost",
            format!("{} / {}", n(upstream.connects), n(upstream.lost)),
        ),
        (
            "sent / received",
            format!(
                "{} / {}",
                bytes(upstream.bytes_out as f64),
                bytes(upstream.bytes_in as f64)
            ),
        ),
        ("error replies", n(overview.commands.error_replies)),
        (
            "failed attempts",
            if failures.is_empty() {
                "none".to_owned()
            } else {
                failures
            },
        ),
    ];
    pad.title("Server", "");
    list(pad, 1, &rows);
}

/// Names on the left, values on the right; the row after them.
fn list(pad: &mut Pad<'_>, from: u16, rows: &[(&str, String)]) -> u16 {
    let (quiet, width) = (pad.theme.quiet(), usize::from(pad.area.width));
    let mut row = from;
    for (name, value) in rows {
        pad.put(row, &Line::styled((*name).to_owned(), quiet));
        let value = fit(value, width.saturating_sub(name.len() + 2));
        pad.put_right(row, 0, &Line::raw(value));
        row += 1;
    }
    row
}
