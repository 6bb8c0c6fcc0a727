//! Screens, as those who look at them see them.

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::style::{Color, Modifier};

use super::super::app::{App, Order, View};
use super::super::source::Answer;
use super::{Theme, draw, share};

const NOW: u64 = 1_000_000_000;

/// A process that has run for `samples` steps.
fn app(upstream: &str, samples: u64) -> App {
    let sample = |n: u64| {
        format!(
            r#"{{"number": {n}, "seconds": 2.0, "clients": 500, "connections": 2, "commands": {},
            "l1_hits": {}, "l1_misses": 100, "errors": 0, "mean_us": 100.0, "p50_us": 83.0, "p99_us": 1250.0}}"#,
            2000 + n,
            300 + n
        )
    };
    let samples: Vec<_> = (1..=samples).map(sample).collect();
    let overview = format!(
        r#"{{"version": "0.1.0", "uptime_seconds": 600, "upstream": {{{upstream} "address": "redis.example:6379",
        "provider": "upstash", "connections": 2, "connections_peak": 3, "connections_max": 10, "latency_us": 90}},
        "clients": {{"now": 500, "max": 10000}}, "commands": {{"total": 123456}},
        "l1": {{"health": {{"mode": "tracking", "entries": 12, "bytes": 2048, "max_bytes": 67108864}},
        "saved": {{"commands": 4321, "bytes": 5000, "seconds": 90.5, "money": 0.25}}}},
        "samples": [{}], "events": [
        {{"number": 1, "at_ms": {}, "level": "info", "text": "the older event"}},
        {{"number": 2, "at_ms": {}, "level": "warn", "text": "the newer event"}}]}}"#,
        samples.join(","),
        NOW - 90_000,
        NOW - 5_000
    );
    let hot = r#"{"keys": [{"key": "hot:\u001b[31m1", "reads": 900, "hits": 890, "bytes": 90000, "advice": "cached"},
        {"key": "product:2", "reads": 70, "writes": 60,
         "advice": "changes about as often as it is read: caching cannot help"}]}"#;
    let mut app = App::new("127.0.0.1:9180".to_owned());
    let answer = Answer {
        overview: serde_json::from_str(&overview).unwrap(),
        hot: serde_json::from_str(hot).unwrap(),
        anew: false,
    };
    app.take(Ok(answer), NOW);
    app
}

fn healthy() -> App {
    app(r#""state": "up","#, 300)
}

fn down() -> App {
    let trouble = r#""state": "down", "cause": "tcp", "message": "connection refused",
        "advice": "check that the server runs, and its port in upstream.url","#;
    app(trouble, 300)
}

fn buffer(app: &App, color: bool, width: u16, height: u16) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    let theme = Theme { color };
    terminal.draw(|frame| draw(app, theme, NOW, frame)).unwrap();
    terminal.backend().buffer().clone()
}

fn lines(buffer: &Buffer) -> Vec<String> {
    let cells: Vec<_> = buffer.content().iter().map(|cell| cell.symbol()).collect();
    let rows = cells.chunks(usize::from(buffer.area.width));
    rows.map(|row| row.concat().trim_end().to_owned()).collect()
}

fn screen(app: &App, width: u16, height: u16) -> String {
    lines(&buffer(app, true, width, height)).join("\n")
}

fn holds(screen: &str, words: &[&str]) {
    for word in words {
        assert!(screen.contains(word), "no {word:?} in\n{screen}");
    }
}

#[test]
fn a_healthy_process_fits_the_smallest_common_terminal() {
    let screen = screen(&healthy(), 80, 24);
    let server = "redis.example:6379 (upstash)";
    holds(
        &screen,
        &["Nearkey  healthy ", server, "version 0.1.0, up 10 min"],
    );
    // 500 and 2, in digits of three rows.
    holds(
        &screen,
        &[
            "█▀▀ █▀█ █▀█",
            "▀▀█ █ █ █ █",
            "▀▀▀ ▀▀▀ ▀▀▀",
            "250 : 1",
            "▀▀█",
        ],
    );
    holds(
        &screen,
        &[
            "of at most 10,000",
            "peak 3, ceiling 10",
            "123 k commands",
            "none since start",
        ],
    );
    holds(
        &screen,
        &[
            "commands/s  all 1,149  L1 299",
            "round trip  p99 1.2 ms  p50 83 µs",
        ],
    );
    holds(
        &screen,
        &[
            "answered by L1  86 %  mean read 14 µs",
            "connections  app 500  server 2",
            "100 %",
            "2,000",
        ],
    );
    holds(&screen, &["hot:?[31m1", "cached", "changes about as often"]);
    holds(
        &screen,
        &["Saved by L1  4,321 commands, 4.88 KiB, 90 s of waiting, money 0.25"],
    );
    holds(&screen, &["5 s  warn   the newer event", "q quit  ? help"]);
    let at = |word| screen.find(word).unwrap();
    assert!(
        at("the newer event") < at("the older event"),
        "newest first"
    );
    assert!(!screen.contains('\u{1b}'));
}

#[test]
fn a_wide_terminal_shows_more() {
    let screen = screen(&healthy(), 140, 45);
    // Digits of five rows, all columns of the keys, the server beside them.
    holds(
        &screen,
        &[
            "██████  ██████  ██████",
            "leased / waiting",
            "failed attempts",
        ],
    );
    let wider = self::screen(&healthy(), 180, 45);
    holds(&wider, &["misses", "87.9KiB"]);
    holds(
        &screen,
        &["changes about as often as it is read: caching cannot help"],
    );
    holds(
        &screen,
        &[
            "memory",
            "2.00 KiB of 64.0 MiB",
            "money",
            "0.25",
            "the older event",
        ],
    );
}

#[test]
fn an_outage_cannot_be_overlooked() {
    for (width, height) in [(80, 24), (140, 45)] {
        let buffer = buffer(&down(), true, width, height);
        let lines = lines(&buffer);
        holds(&lines[0], &[" server unreachable"]);
        holds(
            &lines[1],
            &["Server unreachable (tcp): connection refused. To do: check that"],
        );
        let alarm = buffer.cell((0, 1)).unwrap();
        assert_eq!(alarm.fg, Color::Red);
        assert!(alarm.modifier.contains(Modifier::BOLD));
    }
}

#[test]
fn what_cannot_be_asked_stays_and_is_dimmed() {
    let mut app = healthy();
    app.take(Err("no answer: refused".to_owned()), NOW - 8_000);
    let buffer = buffer(&app, true, 80, 24);
    let screen = lines(&buffer).join("\n");
    holds(
        &screen,
        &[
            "no answer",
            "does not answer, for 8 s. What is shown is old",
            "(no answer: refused)",
            "hot:",
        ],
    );
    let row = lines(&buffer)
        .iter()
        .position(|line| line.starts_with("hot:"))
        .unwrap();
    let cell = buffer.cell((0, u16::try_from(row).unwrap())).unwrap();
    assert!(cell.modifier.contains(Modifier::DIM));
}

#[test]
fn nothing_known_yet_is_no_empty_screen() {
    let mut app = App::new("127.0.0.1:9180".to_owned());
    for (width, height) in [(80, 24), (140, 45)] {
        holds(
            &screen(&app, width, height),
            &["asking", "Asking 127.0.0.1:9180"],
        );
    }
    app.take(Err("refused".to_owned()), NOW);
    holds(
        &screen(&app, 80, 24),
        &[
            "no answer",
            "Nobody answers at 127.0.0.1:9180",
            "--admin HOST:PORT",
        ],
    );
}

#[test]
fn a_process_without_traffic_shows_dashes() {
    let app = app(r#""state": "unknown","#, 0);
    for (width, height) in [(80, 24), (140, 45)] {
        holds(
            &screen(&app, width, height),
            &[
                "server not needed yet",
                "all –",
                "p50 –",
                "answered by L1  –",
            ],
        );
    }
}

#[test]
fn lists_fill_the_screen_when_asked_to() {
    let mut app = healthy();
    (app.view, app.order) = (View::HotKeys, Order::Bytes);
    holds(
        &screen(&app, 80, 24),
        &["most bytes first", "87.9KiB", "product:2"],
    );
    app.scroll = 1;
    assert!(!screen(&app, 80, 24).contains("hot:?"));
    (app.view, app.scroll) = (View::Events, 0);
    let shown = screen(&app, 80, 24);
    holds(&shown, &["90 s  info   the older event"]);
    assert!(!shown.contains("Hot keys "));
}

#[test]
fn help_explains_keys_and_numbers() {
    let mut app = healthy();
    app.help = true;
    holds(
        &screen(&app, 80, 24),
        &["Help", "hot keys by reads", "quit", "The same in a browser"],
    );
}

#[test]
fn without_colours_nothing_is_coloured_and_series_differ() {
    for app in [healthy(), down()] {
        let buffer = buffer(&app, false, 80, 24);
        let colored =
            |cell: &&ratatui::buffer::Cell| (cell.fg, cell.bg) != (Color::Reset, Color::Reset);
        assert_eq!(buffer.content().iter().find(colored), None);
        holds(&lines(&buffer).join("\n"), &["░"]);
    }
}

#[test]
fn every_size_can_be_drawn() {
    let mut silent = down();
    silent.take(Err("refused".to_owned()), NOW);
    silent.help = true;
    for mut app in [healthy(), down(), silent, App::new(String::new())] {
        for view in [View::Overview, View::HotKeys, View::Events] {
            app.view = view;
            for (width, height) in [
                (1, 1),
                (3, 50),
                (20, 5),
                (39, 11),
                (56, 16),
                (79, 23),
                (116, 12),
                (300, 90),
            ] {
                buffer(&app, true, width, height);
            }
        }
    }
    holds(
        &screen(&healthy(), 60, 8),
        &["Nearkey", "of at most", "commands/s", "errors"],
    );
    holds(
        &screen(&healthy(), 40, 4),
        &["500 app connections", "2 to the server"],
    );
}

#[test]
fn rows_go_to_what_matters_most() {
    let part = |least, most, step| super::Part { least, most, step };
    let parts = [part(4, 4, 4), part(6, 18, 2), part(3, 9, 1)];
    assert_eq!(share(3, &parts), [0, 0, 0]);
    assert_eq!(share(12, &parts), [4, 8, 0]);
    assert_eq!(share(13, &parts), [4, 6, 3]);
    assert_eq!(share(17, &parts), [4, 8, 5]);
    assert_eq!(share(99, &parts), [4, 18, 9]);
}
