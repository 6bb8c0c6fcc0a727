//! What keys do.

use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Widget};

use super::super::app::{App, View};
use super::{Pad, Theme, columns};

const WINDOW: [&str; 18] = [
    "1 2 3       overview, hot keys, events",
    "Tab         the next of them",
    "r m b w     hot keys by reads, misses,",
    "            bytes, writes",
    "arrows j k  scroll a list; also PgUp, PgDn",
    "q Esc ^C    quit",
    "",
    "commands/s  all commands of clients, and those",
    "            that L1 (memory) answered",
    "round trip  from the server, half of them (p50)",
    "            and all but one in 100 (p99) below",
    "answered    of the reads that L1 looked for, and",
    "  by L1     what one of them took on average",
    "saved       what the server did not get, less",
    "            L1's own commands; since start",
    "errors      commands that Nearkey failed",
    "",
    "The same in a browser: the admin address.",
];

/// The last row of the screen.
pub(super) fn line(app: &App, theme: Theme, width: u16) -> Line<'static> {
    let mut line = Line::default();
    let views = [
        (View::Overview, "1 overview"),
        (View::HotKeys, "2 hot keys"),
        (View::Events, "3 events"),
    ];
    for (view, name) in views {
        let style = match view == app.view {
            true => theme.pill(0),
            false => theme.quiet(),
        };
        line.push_span(Span::styled(format!(" {name} "), style));
    }
    let mut more = vec!["Tab next", "r/m/b/w order", "q quit", "? help"];
    while line.width() + more.iter().map(|m| m.len() + 2).sum::<usize>() > usize::from(width) {
        if more.is_empty() {
            break;
        }
        more.remove(0);
    }
    for text in more {
        line.push_span(Span::styled(format!("  {text}"), theme.quiet()));
    }
    line
}

/// A window over everything else.
pub(super) fn window(pad: &mut Pad<'_>) {
    let area = pad.area;
    let widest = WINDOW.iter().map(|row| row.len()).max().unwrap_or(0);
    let width = columns(widest + 4).min(area.width);
    let height = columns(WINDOW.len() + 2).min(area.height);
    let x = area.x + (area.width - width) / 2;
    let place = Rect::new(x, area.y + (area.height - height) / 2, width, height);
    Clear.render(place, pad.buffer);
    Block::bordered().title(" Help ").render(place, pad.buffer);
    let inside = place.inner(ratatui::layout::Margin::new(2, 1));
    let mut pad = pad.part(inside);
    for (row, text) in (0..).zip(WINDOW) {
        pad.put(row, &Line::raw(text));
    }
}
