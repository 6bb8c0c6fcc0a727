//! Connections in and out, in digits that can be read from across a room.

use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};

use super::super::app::App;
use super::super::facts::Overview;
use super::super::numbers::{count, latency, percents, rate};
use super::super::text;
use super::{Pad, columns, fit};

/// Five rows of three dots for each character, the top left one in the highest bit.
const FONT: [(char, u16); 14] = [
    ('0', 0b111_101_101_101_111),
    ('1', 0b010_110_010_010_111),
    ('2', 0b111_001_111_100_111),
    ('3', 0b111_001_111_001_111),
    ('4', 0b101_101_111_001_001),
    ('5', 0b111_100_111_001_111),
    ('6', 0b111_100_111_101_111),
    ('7', 0b111_001_001_010_010),
    ('8', 0b111_101_111_101_111),
    ('9', 0b111_101_111_001_111),
    ('.', 0b000_000_000_000_010),
    (',', 0b000_000_000_010_100),
    ('k', 0b100_101_110_101_101),
    ('M', 0b101_111_111_101_101),
];

fn is_set(dots: u16, x: u16, y: u16) -> bool {
    y < 5 && dots >> (14 - (3 * y + x)) & 1 == 1
}

/// The rows of a number: three with two dots in a cell, or five with two cells for a dot.
fn large(text: &str, is_huge: bool) -> Vec<String> {
    let mut rows = vec![String::new(); if is_huge { 5 } else { 3 }];
    for c in text.chars() {
        let dots = FONT
            .iter()
            .find(|(known, _)| *known == c)
            .map_or(0, |f| f.1);
        for (y, row) in (0..).zip(&mut rows) {
            if !row.is_empty() {
                *row += if is_huge { "  " } else { " " };
            }
            for x in 0..3 {
                *row += match is_huge {
                    true if is_set(dots, x, y) => "██",
                    true => "  ",
                    false => match (is_set(dots, x, 2 * y), is_set(dots, x, 2 * y + 1)) {
                        (true, true) => "█",
                        (true, false) => "▀",
                        (false, true) => "▄",
                        (false, false) => " ",
                    },
                };
            }
        }
    }
    rows
}

/// App connections on the left, those to the server on the right, an arrow between.
pub(super) fn flow(pad: &mut Pad<'_>, overview: &Overview) {
    let (theme, area) = (pad.theme, pad.area);
    let (clients, upstream) = (&overview.clients, &overview.upstream);
    let (app, server) = (
        count(clients.now as f64),
        count(upstream.connections as f64),
    );
    let (app_style, server_style) = (theme.app(), theme.server());
    let bold = |style: Style| style.add_modifier(Modifier::BOLD);
    if area.height < 4 {
        let line = Line::from(vec![
            Span::styled(app, bold(app_style)),
            Span::raw(" app connections ━▶ "),
            Span::styled(server, bold(server_style)),
            Span::raw(" to the server"),
        ]);
        pad.put(0, &line);
        return;
    }
    let is_huge = area.height >= 6;
    let (app, server) = (large(&app, is_huge), large(&server, is_huge));
    let digits = columns(app.len());
    let left = columns(Span::raw(&*app[0]).width());
    let half = area.width / 2;
    let right = half.max(left + 12).min(
        area.width
            .saturating_sub(columns(server[0].chars().count())),
    );
    for (row, (app, server)) in (0..).zip(app.iter().zip(&server)) {
        pad.put_at(1, row, &Line::styled(app.clone(), app_style));
        pad.put_at(right, row, &Line::styled(server.clone(), server_style));
    }
    arrow(pad, digits / 2, left + 3, right.saturating_sub(2), overview);
    let mut more = vec![format!("of at most {}", count(clients.max as f64))];
    for (n, what) in [
        (clients.subscribers, "subscribed"),
        (clients.refused, "refused"),
    ] {
        if n > 0 {
            more.push(format!("{} {what}", count(n as f64)));
        }
    }
    let room = usize::from(right.saturating_sub(2));
    let label = |name: &'static str, more: String, room: usize| {
        let more = fit(&more, room.saturating_sub(name.len() + 1));
        Line::from(vec![
            Span::styled(name, theme.loud()),
            Span::styled(more, theme.quiet()),
        ])
    };
    pad.put_at(1, digits, &label("app connections ", more.join(", "), room));
    let more = format!(
        "peak {}, ceiling {}",
        upstream.connections_peak, upstream.connections_max
    );
    let room = usize::from(area.width - right);
    pad.put_at(right, digits, &label("to the server ", more, room));
}

fn arrow(pad: &mut Pad<'_>, row: u16, from: u16, to: u16, overview: &Overview) {
    let room = usize::from(to.saturating_sub(from));
    let ratio = text::ratio(overview).map_or_else(String::new, |ratio| format!(" {ratio} "));
    let ratio = if ratio.len() + 6 <= room {
        ratio
    } else {
        String::new()
    };
    let shaft = room.saturating_sub(ratio.len() + 1);
    let quiet = pad.theme.quiet();
    let line = Line::from(vec![
        Span::styled("━".repeat(shaft / 2), quiet),
        Span::styled(ratio, pad.theme.loud()),
        Span::styled("━".repeat(shaft - shaft / 2), quiet),
        Span::styled(if room > 0 { "▶" } else { "" }, quiet),
    ]);
    pad.put_at(from, row, &line);
}

/// What no chart shows; where there are none, what they would show.
pub(super) fn facts(pad: &mut Pad<'_>, app: &App, overview: &Overview, without_charts: bool) {
    let theme = pad.theme;
    let now = app.now();
    let or_dash = |value: Option<String>| value.unwrap_or_else(|| "–".to_owned());
    let has_failed = overview.commands.errors.values().any(|n| *n > 0);
    let style = match (has_failed, now.errors) {
        (_, 1..) => theme.tone(2),
        (true, 0) => theme.tone(1),
        (false, 0) => theme.quiet(),
    };
    let (loud, mut line) = (theme.loud(), Line::default());
    if without_charts {
        let facts = [
            (or_dash(now.rate.map(rate)), "commands/s", loud),
            (count(now.errors as f64), "errors", style),
            (or_dash(now.hit_percent.map(percents)), "from L1", loud),
            (or_dash(now.p50_us.map(latency)), "p50", loud),
            (or_dash(now.p99_us.map(latency)), "p99", loud),
        ];
        for (value, name, style) in facts {
            line.push_span(Span::styled(value, style));
            line.push_span(Span::raw(format!(" {name}  ")));
        }
    } else {
        line.push_span(Span::styled(count(overview.commands.total as f64), loud));
        line.push_span(Span::raw(" commands   errors "));
        line.push_span(Span::styled(text::errors(app, overview), style));
        let room = usize::from(pad.area.width).saturating_sub(line.width() + 4);
        let l1 = fit(&text::l1(overview), room);
        line.push_span(Span::styled(format!("   {l1}"), theme.quiet()));
    }
    pad.put_at(1, 0, &line);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_drawn_in_two_sizes() {
        assert_eq!(large("17", false), ["▄█  ▀▀█", " █   ▄▀", "▀▀▀  ▀ "]);
        let huge = large("1", true);
        assert_eq!(huge, ["  ██  ", "████  ", "  ██  ", "  ██  ", "██████"]);
    }
}
