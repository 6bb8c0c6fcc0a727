//! What is shown and how: the numbers kept, and what keys make of it.

use std::collections::VecDeque;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::facts::{Event, HotKeys, Overview, Sample};
use super::numbers::percent;
use super::source::Answer;

/// Samples and events kept: what the process keeps itself.
const SAMPLES: usize = 300;
const EVENTS: usize = 100;

/// Steps that count as now.
const NOW: usize = 5;

/// What fills the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum View {
    Overview,
    HotKeys,
    Events,
}

/// What the hot keys are ordered by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Order {
    #[default]
    Reads,
    Misses,
    Bytes,
    Writes,
}

impl Order {
    /// As `/hotkeys` calls it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Reads => "reads",
            Self::Misses => "misses",
            Self::Bytes => "bytes",
            Self::Writes => "writes",
        }
    }
}

/// What a key asks of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    Quit,
    /// Ask at once, in the new order.
    Ask,
}

/// Why nothing is told, and since when (milliseconds since 1970).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Silence {
    pub(super) why: String,
    pub(super) since_ms: u64,
}

/// Everything that is shown.
pub(super) struct App {
    /// `None` before the first answer.
    pub(super) overview: Option<Overview>,
    pub(super) samples: VecDeque<Sample>,
    pub(super) events: VecDeque<Event>,
    pub(super) hot: HotKeys,
    pub(super) silence: Option<Silence>,
    pub(super) view: View,
    pub(super) order: Order,
    pub(super) help: bool,
    /// Rows of a list that are above the screen.
    pub(super) scroll: usize,
    /// Who is asked.
    pub(super) admin: String,
}

/// The latest seconds.
#[derive(Debug, Default)]
pub(super) struct Now {
    pub(super) rate: Option<f64>,
    pub(super) l1_rate: Option<f64>,
    pub(super) hit_percent: Option<f64>,
    pub(super) p50_us: Option<f64>,
    pub(super) p99_us: Option<f64>,
    /// Of a read that L1 looked for, on average.
    pub(super) read_us: Option<f64>,
    /// Over all that is kept.
    pub(super) errors: u64,
}

impl App {
    pub(super) fn new(admin: String) -> Self {
        Self {
            overview: None,
            samples: VecDeque::new(),
            events: VecDeque::new(),
            hot: HotKeys::default(),
            silence: None,
            view: View::Overview,
            order: Order::default(),
            help: false,
            scroll: 0,
            admin,
        }
    }

    /// Takes what the process told, or that it told nothing.
    pub(super) fn take(&mut self, told: Result<Answer, String>, now_ms: u64) {
        let mut answer = match told {
            Ok(answer) => answer,
            Err(why) => {
                let since_ms = self.silence.as_ref().map_or(now_ms, |s| s.since_ms);
                self.silence = Some(Silence { why, since_ms });
                return;
            }
        };
        self.silence = None;
        if answer.anew {
            self.samples.clear();
            self.events.clear();
        }
        self.samples.extend(answer.overview.samples.drain(..));
        self.events.extend(answer.overview.events.drain(..));
        let surplus = self.samples.len().saturating_sub(SAMPLES);
        self.samples.drain(..surplus);
        let surplus = self.events.len().saturating_sub(EVENTS);
        self.events.drain(..surplus);
        self.hot = answer.hot;
        self.overview = Some(answer.overview);
    }

    pub(super) fn press(&mut self, key: KeyEvent) -> Option<Act> {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c') if control => return Some(Act::Quit),
            KeyCode::Esc if self.help => self.help = false,
            KeyCode::Char('q') | KeyCode::Esc => return Some(Act::Quit),
            KeyCode::Char('?' | 'h') => self.help = !self.help,
            KeyCode::Tab => self.show(match self.view {
                View::Overview => View::HotKeys,
                View::HotKeys => View::Events,
                View::Events => View::Overview,
            }),
            KeyCode::BackTab => self.show(match self.view {
                View::Overview => View::Events,
                View::HotKeys => View::Overview,
                View::Events => View::HotKeys,
            }),
            KeyCode::Char('1') => self.show(View::Overview),
            KeyCode::Char('2') => self.show(View::HotKeys),
            KeyCode::Char('3') => self.show(View::Events),
            KeyCode::Char('r') => return self.sort(Order::Reads),
            KeyCode::Char('m') => return self.sort(Order::Misses),
            KeyCode::Char('b') => return self.sort(Order::Bytes),
            KeyCode::Char('w') => return self.sort(Order::Writes),
            KeyCode::Down | KeyCode::Char('j') => self.scroll_by(1),
            KeyCode::Up | KeyCode::Char('k') => self.scroll_by(-1),
            KeyCode::PageDown | KeyCode::Char(' ') => self.scroll_by(10),
            KeyCode::PageUp => self.scroll_by(-10),
            KeyCode::Home => self.scroll = 0,
            _ => {}
        }
        None
    }

    fn show(&mut self, view: View) {
        self.view = view;
        self.scroll = 0;
    }

    fn sort(&mut self, order: Order) -> Option<Act> {
        self.order = order;
        self.scroll = 0;
        Some(Act::Ask)
    }

    fn scroll_by(&mut self, rows: isize) {
        let most = match self.view {
            View::Overview => 0,
            View::HotKeys => self.hot.keys.len().saturating_sub(1),
            View::Events => self.events.len().saturating_sub(1),
        };
        self.scroll = self.scroll.saturating_add_signed(rows).min(most);
    }

    pub(super) fn now(&self) -> Now {
        let lately = || self.samples.iter().rev().take(NOW);
        let seconds: f64 = lately().map(|s| s.seconds).sum();
        let sum = |of: fn(&Sample) -> u64| lately().map(of).sum::<u64>() as f64;
        let (hits, misses) = (sum(|s| s.l1_hits), sum(|s| s.l1_misses));
        let told = lately().find(|s| s.p50_us.is_some());
        Now {
            rate: (seconds > 0.0).then(|| sum(|s| s.commands) / seconds),
            l1_rate: (seconds > 0.0).then(|| hits / seconds),
            hit_percent: percent(hits, hits + misses),
            p50_us: told.and_then(|s| s.p50_us),
            p99_us: told.and_then(|s| s.p99_us),
            read_us: lately().find_map(Sample::read_us),
            errors: self.samples.iter().map(|s| s.errors).sum(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(json: &str, anew: bool) -> Result<Answer, String> {
        Ok(Answer {
            overview: serde_json::from_str(json).unwrap(),
            hot: HotKeys::default(),
            anew,
        })
    }

    fn pressed(app: &mut App, code: KeyCode) -> Option<Act> {
        app.press(KeyEvent::new(code, KeyModifiers::NONE))
    }

    #[test]
    fn numbers_add_up_until_another_process_answers() {
        let mut app = App::new(String::new());
        let one = r#"{"samples": [{"number": 1, "seconds": 2.0, "commands": 10, "l1_hits": 4, "l1_misses": 1,
            "errors": 1, "mean_us": 10.0, "p50_us": 5.0}], "events": [{"number": 1}]}"#;
        app.take(answer(one, false), 0);
        app.take(
            answer(
                r#"{"samples": [{"number": 2, "seconds": 2.0, "commands": 30}]}"#,
                false,
            ),
            0,
        );
        let now = app.now();
        assert_eq!(
            (now.rate, now.l1_rate, now.hit_percent),
            (Some(10.0), Some(1.0), Some(80.0))
        );
        assert_eq!(
            (now.p50_us, now.errors, app.events.len()),
            (Some(5.0), 1, 1)
        );
        assert_eq!(now.read_us, Some(2.0), "one of five travels");
        app.take(answer(r#"{"samples": [{"number": 1}]}"#, true), 0);
        assert_eq!((app.samples.len(), app.events.len()), (1, 0));
    }

    #[test]
    fn a_silent_process_is_told_since_when_and_its_numbers_stay() {
        let mut app = App::new(String::new());
        app.take(answer("{}", false), 1);
        app.take(Err("refused".to_owned()), 5);
        app.take(Err("timed out".to_owned()), 9);
        let silence = Silence {
            why: "timed out".to_owned(),
            since_ms: 5,
        };
        assert_eq!(app.silence, Some(silence));
        assert!(app.overview.is_some());
        app.take(answer("{}", false), 10);
        assert_eq!(app.silence, None);
    }

    #[test]
    fn keys_do_what_the_help_says() {
        let mut app = App::new(String::new());
        assert_eq!(pressed(&mut app, KeyCode::Char('b')), Some(Act::Ask));
        assert_eq!(app.order, Order::Bytes);
        for view in [View::HotKeys, View::Events, View::Overview] {
            assert_eq!(pressed(&mut app, KeyCode::Tab), None);
            assert_eq!(app.view, view);
        }
        pressed(&mut app, KeyCode::Char('3'));
        pressed(&mut app, KeyCode::Down);
        assert_eq!(
            (app.view, app.scroll),
            (View::Events, 0),
            "nothing to scroll"
        );
        pressed(&mut app, KeyCode::Char('?'));
        assert_eq!(pressed(&mut app, KeyCode::Esc), None, "closes the help");
        assert_eq!(pressed(&mut app, KeyCode::Esc), Some(Act::Quit));
        assert_eq!(pressed(&mut app, KeyCode::Char('q')), Some(Act::Quit));
        assert_eq!(pressed(&mut app, KeyCode::Char('c')), None);
        let control = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(app.press(control), Some(Act::Quit));
    }
}
