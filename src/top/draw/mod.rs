//! What is known, as cells of the screen. Nothing is read and nothing is asked here.

use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};

use super::app::{App, View};
use super::facts::Overview;
use super::numbers::span;

mod chart;
mod flow;
mod help;
mod lists;

#[cfg(test)]
mod tests;

/// Rows from which parts have a row of air between them.
const AIRY: u16 = 32;

/// Columns from which there are two columns of lists.
const WIDE: u16 = 116;

/// The terminal's own 16 colours, so that its light or dark palette holds; or none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Theme {
    pub(super) color: bool,
}

impl Theme {
    /// <https://no-color.org>: set and not empty.
    pub(super) fn of_environment() -> Self {
        let color = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { color }
    }

    fn colored(self, color: Color) -> Style {
        match self.color {
            true => Style::new().fg(color),
            false => Style::new(),
        }
    }

    fn quiet(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    fn loud(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    /// Good (0), to be looked at (1), bad (2).
    fn tone(self, tone: u8) -> Style {
        let color = [Color::Green, Color::Yellow, Color::Red][usize::from(tone.min(2))];
        self.colored(color).add_modifier(Modifier::BOLD)
    }

    /// A word on a ground of its own.
    fn pill(self, tone: u8) -> Style {
        self.tone(tone).add_modifier(Modifier::REVERSED)
    }

    /// What comes from the application.
    fn app(self) -> Style {
        self.colored(Color::Magenta)
    }

    /// What goes to the server.
    fn server(self) -> Style {
        self.colored(Color::Cyan)
    }

    /// What L1 answers.
    fn l1(self) -> Style {
        self.colored(Color::Green)
    }

    /// The slowest.
    fn tail(self) -> Style {
        self.colored(Color::Yellow)
    }
}

/// A place to write, row by row, cut at its edges.
struct Pad<'a> {
    buffer: &'a mut Buffer,
    area: Rect,
    theme: Theme,
}

impl Pad<'_> {
    fn put(&mut self, row: u16, line: &Line<'_>) {
        self.put_at(0, row, line);
    }

    fn put_at(&mut self, column: u16, row: u16, line: &Line<'_>) {
        if row < self.area.height && column < self.area.width {
            let (x, y) = (self.area.x + column, self.area.y + row);
            self.buffer.set_line(x, y, line, self.area.width - column);
        }
    }

    /// At the right edge; `false` where it would not leave `taken` columns free.
    fn put_right(&mut self, row: u16, taken: u16, line: &Line<'_>) -> bool {
        let width = columns(line.width());
        let fits = taken + width <= self.area.width;
        if fits {
            self.put_at(self.area.width - width, row, line);
        }
        fits
    }

    /// The heading of a part, with a rule to the edge.
    fn title(&mut self, title: &str, more: &str) {
        let quiet = self.theme.quiet();
        let mut line = Line::from(Span::styled(title.to_owned(), self.theme.loud()));
        if !more.is_empty() {
            line.push_span(Span::styled(format!(" {more}"), quiet));
        }
        let rest = usize::from(self.area.width).saturating_sub(line.width() + 1);
        line.push_span(Span::styled(format!(" {}", "─".repeat(rest)), quiet));
        self.put(0, &line);
    }

    fn part(&mut self, area: Rect) -> Pad<'_> {
        Pad {
            area: area.intersection(self.area),
            buffer: self.buffer,
            theme: self.theme,
        }
    }
}

fn columns(n: usize) -> u16 {
    u16::try_from(n).unwrap_or(u16::MAX)
}

/// `text` within so many columns, its end given up for an ellipsis.
fn fit(text: &str, width: usize) -> String {
    let of = |text: &str| Span::raw(text).width();
    if of(text) <= width {
        return text.to_owned();
    }
    let ends = text.char_indices().map(|(at, _)| &text[..at]);
    let fitting = ends.take_while(|start| of(start) < width).last();
    match width {
        0 => String::new(),
        _ => format!("{}…", fitting.unwrap_or_default()),
    }
}

/// Words in lines of at most so many columns.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        let longer = match line.as_str() {
            "" => fit(word, width),
            line => format!("{line} {word}"),
        };
        if Span::raw(&*longer).width() <= width {
            line = longer;
        } else {
            lines.push(std::mem::replace(&mut line, fit(word, width)));
        }
    }
    lines.push(line);
    lines
}

/// Draws everything.
pub(super) fn draw(app: &App, theme: Theme, now_ms: u64, frame: &mut Frame<'_>) {
    let area = frame.area();
    let mut pad = Pad {
        buffer: frame.buffer_mut(),
        area,
        theme,
    };
    header(&mut pad, app);
    let alarms = alarms(app, theme, now_ms, area);
    for (row, line) in (1..).zip(&alarms) {
        pad.put(row, line);
    }
    let top = 1 + columns(alarms.len());
    let bottom = u16::from(area.height > top + 4);
    let rest = area.height.saturating_sub(top + bottom);
    let body = Rect::new(area.x, area.y + top.min(area.height), area.width, rest);
    let mut inside = pad.part(body);
    match (&app.overview, app.view) {
        (None, _) => waiting(&mut inside, app),
        (Some(overview), View::Overview) => overview_page(&mut inside, app, overview, now_ms),
        (Some(_), View::HotKeys) => lists::hot_keys(&mut inside, app, app.scroll),
        (Some(_), View::Events) => lists::events(&mut inside, app, now_ms, app.scroll),
    }
    if app.silence.is_some() {
        let old = Style::new()
            .add_modifier(Modifier::DIM)
            .remove_modifier(Modifier::BOLD);
        pad.buffer.set_style(body, old);
    }
    if bottom > 0 {
        let row = area.height - 1;
        let line = help::line(app, theme, area.width);
        pad.put(row, &line);
    }
    if app.help {
        help::window(&mut pad);
    }
}

/// How the process is, which one, and where its server is.
fn header(pad: &mut Pad<'_>, app: &App) {
    let theme = pad.theme;
    let (word, tone) = match (&app.silence, &app.overview) {
        (Some(_), _) => ("no answer", 2),
        (None, None) => ("asking", 1),
        (None, Some(overview)) => overview.verdict(),
    };
    let mut line = Line::from(vec![
        Span::styled("Nearkey", theme.loud()),
        Span::raw(" "),
        Span::styled(format!(" {word} "), theme.pill(tone)),
        Span::raw(" "),
    ]);
    let about = app.overview.as_ref().map_or_else(String::new, |overview| {
        format!(
            "version {}, up {}",
            overview.version,
            span(overview.uptime_seconds as f64)
        )
    });
    let taken = line.width();
    if let Some(Overview { upstream, .. }) = &app.overview {
        let server = format!("{} ({})", upstream.address, upstream.provider);
        let room = usize::from(pad.area.width).saturating_sub(taken);
        // Where not both fit, where the server is says more than how old the process is.
        line.push_span(Span::raw(fit(&server, room)));
    }
    pad.put(0, &line);
    let about = Line::styled(about, theme.quiet());
    pad.put_right(0, columns(line.width() + 2), &about);
}

/// What nobody may overlook, in at most a third of the screen.
fn alarms(app: &App, theme: Theme, now_ms: u64, area: Rect) -> Vec<Line<'static>> {
    let mut texts = Vec::new();
    if let Some(silence) = &app.silence {
        let age = span(now_ms.saturating_sub(silence.since_ms) as f64 / 1e3);
        let old = match app.overview {
            Some(_) => "What is shown is old. ",
            None => "",
        };
        texts.push(format!(
            "Nearkey does not answer, for {age}. {old}({})",
            silence.why
        ));
    }
    let told = app.overview.as_ref().map(Overview::alarms);
    texts.extend(told.unwrap_or_default());
    let most = usize::from(area.height / 3);
    let lines = texts
        .iter()
        .flat_map(|text| wrap(text, usize::from(area.width)));
    let styled = lines.map(|line| Line::styled(line, theme.tone(2)));
    styled.take(most).collect()
}

fn waiting(pad: &mut Pad<'_>, app: &App) {
    let quiet = pad.theme.quiet();
    let admin = &app.admin;
    let texts = match app.silence {
        None => [format!("Asking {admin} ..."), String::new()],
        Some(_) => [
            format!(
                "Nobody answers at {admin} (admin.address); it is asked again every two seconds."
            ),
            "Another place: nearkey top --admin HOST:PORT".to_owned(),
        ],
    };
    let width = usize::from(pad.area.width);
    let lines = texts.iter().flat_map(|text| wrap(text, width));
    for (row, line) in (1..).zip(lines) {
        pad.put(row, &Line::styled(line, quiet));
    }
}

/// A part of a page: the rows that it cannot do without, and those it has a use for.
#[derive(Clone, Copy)]
struct Part {
    least: u16,
    most: u16,
    /// Rows that it grows by at a time.
    step: u16,
}

/// Rows for each part. Where not all have their least, the last ones get nothing; what is left goes round.
fn share(height: u16, parts: &[Part]) -> Vec<u16> {
    let mut left = height;
    let mut rows = vec![0; parts.len()];
    for (row, part) in rows.iter_mut().zip(parts) {
        if part.least > left {
            break;
        }
        *row = part.least;
        left -= part.least;
    }
    loop {
        let before = left;
        for (row, part) in rows.iter_mut().zip(parts) {
            if *row > 0 && *row + part.step <= part.most && part.step <= left {
                *row += part.step;
                left -= part.step;
            }
        }
        if before == left {
            return rows;
        }
    }
}

/// Everything at a glance: what matters most comes first and stays longest.
fn overview_page(pad: &mut Pad<'_>, app: &App, overview: &Overview, now_ms: u64) {
    let area = pad.area;
    let is_wide = area.width >= WIDE;
    let air = u16::from(area.height >= AIRY);
    let has_large = is_wide && area.height >= AIRY;
    let part = |least: u16, most: u16, step| Part {
        least: least + air,
        most: most.saturating_add(air),
        step,
    };
    let flow = if has_large { 6 } else { 4 };
    let charts = chart::rows(area.width);
    let keys = columns(app.hot.keys.len()).saturating_add(2).min(16);
    let none = Part {
        least: 0,
        most: 0,
        step: 1,
    };
    // On a wide screen the savings and the server stand beside the hot keys.
    let (saved, keys) = match is_wide {
        true => (none, part(4, keys.max(14), 5)),
        false => (part(1, 2, 1), part(4, keys.max(4), 1)),
    };
    let parts = [
        part(if area.height < flow { 1 } else { flow }, flow, flow),
        part(1, 1, 1),
        part(3 * charts, 9 * charts, charts),
        keys,
        part(3, 6, 1),
        saved,
    ];
    let mut rows = share(area.height, &parts);
    // Nothing else has a use for what is left.
    if rows[4] > 0 {
        rows[4] += area.height - rows.iter().sum::<u16>();
    }
    let mut y = area.y;
    let mut next = |rows: u16| {
        let height = rows.saturating_sub(if rows > air { air } else { 0 });
        let place = Rect::new(area.x, y, area.width, height);
        y += rows;
        place
    };
    flow::flow(&mut pad.part(next(rows[0])), overview);
    let facts = next(rows[1]);
    flow::facts(&mut pad.part(facts), app, overview, rows[2] == 0);
    chart::charts(&mut pad.part(next(rows[2])), app);
    let keys = next(rows[3]);
    let (left, right) = match is_wide {
        true => (keys.width - 46, 44),
        false => (keys.width, 0),
    };
    let list = Rect {
        width: left,
        ..keys
    };
    let side = Rect::new(keys.right() - right, keys.y, right, keys.height);
    if keys.height > 0 {
        lists::hot_keys(&mut pad.part(list), app, 0);
        lists::saved_beside(&mut pad.part(side), overview);
    }
    lists::saved_below(
        &mut pad.part(next(if is_wide { 0 } else { rows[5] })),
        overview,
    );
    lists::events(&mut pad.part(next(rows[4])), app, now_ms, 0);
}
