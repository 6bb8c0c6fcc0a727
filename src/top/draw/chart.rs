//! The last minutes as bars, newest on the right.

use ratatui::layout::Rect;
use ratatui::style::{Color, Style};
use ratatui::text::{Line, Span};

use super::super::app::App;
use super::super::facts::Sample;
use super::super::numbers::{count, latency, percent, percents, rate, span};
use super::{Pad, Theme, columns};

/// Columns of the scale.
const SCALE: u16 = 8;

/// Heights of a bar within a cell.
const EIGHTHS: [&str; 9] = [" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"];

/// Steps that fall into one column, at most.
const MOST_STEPS: usize = 10;

/// One of the two rows of bars of a chart; the second is drawn over the first.
struct Bars {
    name: &'static str,
    now: Option<f64>,
    style: Style,
    of: fn(&Sample) -> Option<f64>,
    /// Of the steps in one column.
    together: fn(&[f64]) -> f64,
}

impl Bars {
    fn of(
        name: &'static str,
        style: Style,
        together: fn(&[f64]) -> f64,
        of: fn(&Sample) -> Option<f64>,
    ) -> Self {
        Self {
            name,
            now: None,
            style,
            of,
            together,
        }
    }

    fn now(self, now: Option<f64>) -> Self {
        Self { now, ..self }
    }
}

struct Chart {
    title: &'static str,
    /// What is told and not drawn.
    more: Option<String>,
    format: fn(f64) -> String,
    /// Fixed top of the scale, or one that fits.
    top: Option<f64>,
    bars: Vec<Bars>,
}

/// How many charts stand one above the other.
pub(super) fn rows(width: u16) -> u16 {
    if width >= 56 { 2 } else { 1 }
}

/// Commands, hit ratio, latency and connections; the first two where there is no room for more.
pub(super) fn charts(pad: &mut Pad<'_>, app: &App) {
    let area = pad.area;
    if area.height < 2 {
        return;
    }
    let charts = all(app, pad.theme);
    if rows(area.width) == 1 {
        chart(pad, app, &charts[0]);
        return;
    }
    let (width, height) = (area.width / 2 - 1, area.height / 2);
    for (i, drawn) in (0..).zip(&charts) {
        let x = area.x + (i % 2) * (area.width - width);
        let place = Rect::new(x, area.y + (i / 2) * height, width, height);
        chart(&mut pad.part(place), app, drawn);
    }
}

fn all(app: &App, theme: Theme) -> [Chart; 4] {
    let now = app.now();
    let (server, l1) = (theme.server(), theme.l1());
    let rates = vec![
        Bars::of("all", server, mean, |s| per_second(s.commands, s)).now(now.rate),
        Bars::of("L1", l1, mean, |s| per_second(s.l1_hits, s)).now(now.l1_rate),
    ];
    let trips = vec![
        Bars::of("p99", theme.tail(), most, |s| s.p99_us).now(now.p99_us),
        Bars::of("p50", server, mean, |s| s.p50_us).now(now.p50_us),
    ];
    let hits = vec![Bars::of("", l1, mean, hits).now(now.hit_percent)];
    let told = app.overview.as_ref();
    let connections = vec![
        Bars::of("app", theme.app(), most, |s| Some(s.clients as f64))
            .now(told.map(|o| o.clients.now as f64)),
        Bars::of("server", server, most, |s| Some(s.connections as f64))
            .now(told.map(|o| o.upstream.connections as f64)),
    ];
    let read = now.read_us.map(|us| format!("mean read {}", latency(us)));
    let chart = |title, format, bars| Chart {
        title,
        more: None,
        format,
        top: None,
        bars,
    };
    [
        chart("commands/s", rate, rates),
        chart("round trip", latency, trips),
        Chart {
            more: read,
            top: Some(100.0),
            ..chart("answered by L1", percents, hits)
        },
        chart("connections", count, connections),
    ]
}

fn per_second(n: u64, sample: &Sample) -> Option<f64> {
    (sample.seconds > 0.0).then(|| n as f64 / sample.seconds)
}

fn hits(sample: &Sample) -> Option<f64> {
    percent(
        sample.l1_hits as f64,
        (sample.l1_hits + sample.l1_misses) as f64,
    )
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn most(values: &[f64]) -> f64 {
    values.iter().copied().fold(0.0, f64::max)
}

fn chart(pad: &mut Pad<'_>, app: &App, chart: &Chart) {
    let (theme, area) = (pad.theme, pad.area);
    let room = usize::from(area.width.saturating_sub(SCALE));
    let steps = steps_per_column(app.samples.len(), room);
    let shown: Vec<_> = chart
        .bars
        .iter()
        .map(|bars| values(app, bars, steps, room))
        .collect();
    let mut line = Line::styled(chart.title, theme.loud());
    for bars in &chart.bars {
        let value = bars.now.map_or_else(|| "–".to_owned(), chart.format);
        line.push_span(Span::raw("  "));
        if !bars.name.is_empty() {
            line.push_span(Span::styled(format!("{} ", bars.name), theme.quiet()));
        }
        line.push_span(Span::styled(value, bars.style.patch(theme.loud())));
    }
    if let Some(more) = &chart.more {
        line.push_span(Span::styled(format!("  {more}"), theme.quiet()));
    }
    pad.put(0, &line);
    let seconds: f64 = app
        .samples
        .iter()
        .rev()
        .take(steps * room)
        .map(|s| s.seconds)
        .sum();
    if seconds > 0.0 {
        let last = Line::styled(format!("last {}", span(seconds)), theme.quiet());
        pad.put_right(0, columns(line.width() + 2), &last);
    }
    let highest = shown
        .iter()
        .flatten()
        .flatten()
        .copied()
        .fold(0.0, f64::max);
    let top = chart.top.unwrap_or_else(|| ceiling(highest));
    let height = area.height - 1;
    scale(pad, height, &(chart.format)(top), &(chart.format)(0.0));
    let eighths = |value: f64| (value / top * f64::from(height) * 8.0).round() as u16;
    for column in 0..room {
        let heights =
            |bars: &Vec<Option<f64>>| bars[column].map(|v| eighths(v).max(u16::from(v > 0.0)));
        let behind = shown.first().and_then(heights);
        let before = shown.get(1).and_then(heights);
        let x = SCALE + columns(column);
        for row in 0..height {
            let (text, style) = cell(theme, &chart.bars, behind, before, row);
            pad.put_at(x, height - row, &Line::styled(text, style));
        }
    }
}

fn scale(pad: &mut Pad<'_>, height: u16, top: &str, bottom: &str) {
    let quiet = pad.theme.quiet();
    let label = |text: &str| {
        Line::styled(
            format!("{text:>width$}", width = usize::from(SCALE) - 1),
            quiet,
        )
    };
    pad.put(1, &label(top));
    if height > 1 {
        pad.put(height, &label(bottom));
    }
}

/// What stands in a cell, `row` counted from the bottom. Of two bars that end in one cell, the one in front is seen.
fn cell(
    theme: Theme,
    bars: &[Bars],
    behind: Option<u16>,
    before: Option<u16>,
    row: u16,
) -> (&'static str, Style) {
    let level =
        |height: Option<u16>| usize::from(height.unwrap_or(0).saturating_sub(8 * row).min(8));
    let (back, front) = (level(behind), level(before));
    let style = |i: usize| bars.get(i).map_or_else(Style::new, |b| b.style);
    match (front, back) {
        (0, 0) if row == 0 && behind == Some(0) => ("▁", theme.quiet()),
        (0, 0) => (" ", Style::new()),
        // Without colours, what is behind is a shade.
        (0, _) if !theme.color && bars.len() > 1 => ("░", Style::new()),
        (0, back) => (EIGHTHS[back], style(0)),
        (front @ 1..8, 8) if theme.color => {
            let ground = style(0).fg.unwrap_or(Color::Reset);
            (EIGHTHS[front], style(1).bg(ground))
        }
        (front, _) => (EIGHTHS[front], style(1)),
    }
}

/// So many that all are shown, if that can be.
fn steps_per_column(samples: usize, columns: usize) -> usize {
    let few = [1, 2, 5]
        .into_iter()
        .find(|steps| samples <= steps * columns);
    few.unwrap_or(MOST_STEPS)
}

/// One value for each column, the newest last. Steps keep their neighbours while they move.
fn values(app: &App, bars: &Bars, steps: usize, columns: usize) -> Vec<Option<f64>> {
    let last = app.samples.back().map_or(0, |s| s.number as usize / steps);
    let mut together = vec![Vec::new(); columns];
    for sample in &app.samples {
        let age = last.saturating_sub(sample.number as usize / steps);
        if age < columns
            && let Some(value) = (bars.of)(sample)
        {
            together[columns - 1 - age].push(value);
        }
    }
    let joined = |values: &Vec<f64>| (!values.is_empty()).then(|| (bars.together)(values));
    together.iter().map(joined).collect()
}

/// A round number at or above the largest value.
fn ceiling(most: f64) -> f64 {
    if most <= 0.0 {
        return 1.0;
    }
    let power = 10_f64.powf(most.log10().floor());
    let steps = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0];
    let round = steps.into_iter().find(|step| step * power >= most);
    round.unwrap_or(10.0) * power
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_ends_at_a_round_number() {
        let tops = [0.0, 0.7, 1.0, 62.0, 101.0, 7_300.0].map(ceiling);
        for (top, expected) in tops.into_iter().zip([1.0, 0.8, 1.0, 80.0, 200.0, 8_000.0]) {
            assert!((top - expected).abs() < 1e-9 * expected, "{top} {expected}");
        }
    }

    #[test]
    fn columns_hold_more_steps_as_time_goes_by_and_keep_them() {
        assert_eq!(
            [10, 31, 60, 150, 300].map(|n| steps_per_column(n, 30)),
            [1, 2, 2, 5, 10]
        );
        let bars = Bars {
            name: "",
            now: None,
            style: Style::new(),
            of: |s| Some(s.clients as f64),
            together: most,
        };
        let mut app = App::new(String::new());
        let sample = |number| Sample {
            number,
            clients: number,
            ..Sample::default()
        };
        app.samples = (1..=7).map(sample).collect();
        assert_eq!(values(&app, &bars, 2, 3), [Some(3.0), Some(5.0), Some(7.0)]);
        app.samples.push_back(sample(8));
        assert_eq!(values(&app, &bars, 2, 3), [Some(5.0), Some(7.0), Some(8.0)]);
        assert_eq!(values(&app, &bars, 5, 3), [None, Some(4.0), Some(8.0)]);
    }

    #[test]
    fn the_bar_in_front_covers_the_one_behind() {
        let theme = Theme { color: true };
        let style = |color| Style::new().fg(color);
        let bars = [Color::Cyan, Color::Green].map(|color| Bars {
            name: "",
            now: None,
            style: style(color),
            of: |_| None,
            together: mean,
        });
        let at = |theme, behind, before, row| cell(theme, &bars, Some(behind), Some(before), row);
        assert_eq!(
            at(theme, 12, 4, 0),
            ("▄", style(Color::Green).bg(Color::Cyan))
        );
        assert_eq!(at(theme, 12, 4, 1), ("▄", style(Color::Cyan)));
        assert_eq!(at(theme, 12, 12, 1), ("▄", style(Color::Green)));
        assert_eq!(at(theme, 0, 0, 0).0, "▁");
        assert_eq!(at(Theme { color: false }, 12, 4, 1).0, "░");
    }
}
