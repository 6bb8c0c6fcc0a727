//! The latest events of the log, kept for those who look at a running process.
//!
//! What is kept is what the log gets, at level `info` or above: it is filtered like the log, and
//! holds no secrets for the same reasons.

use std::collections::VecDeque;
use std::fmt::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use tracing::field::{Field, Visit};
use tracing::{Event as TracingEvent, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Events kept.
const ROOM: usize = 100;

/// Longest text of an event, in bytes.
const LONGEST: usize = 400;

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Counts events from 1 on.
    pub number: u64,
    /// Milliseconds since 1970.
    pub at_ms: u64,
    /// `error`, `warn` or `info`.
    pub level: &'static str,
    /// The message, then its fields as `name=value`.
    pub text: String,
}

/// The latest events; shared by the log and by those who show them.
#[derive(Clone, Debug, Default)]
pub struct Events(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    events: VecDeque<Event>,
    count: u64,
}

impl Events {
    /// Events with a number above `number`, oldest first.
    pub fn since(&self, number: u64) -> Vec<Event> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let newer = kept.events.iter().filter(|event| event.number > number);
        newer.cloned().collect()
    }

    fn add(&self, level: &'static str, text: String) {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
        let at_ms = since_1970.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.count += 1;
        let number = kept.count;
        if kept.events.len() == ROOM {
            kept.events.pop_front();
        }
        kept.events.push_back(Event {
            number,
            at_ms,
            level,
            text,
        });
    }
}

impl<S: Subscriber> Layer<S> for Events {
    fn on_event(&self, event: &TracingEvent<'_>, _: Context<'_, S>) {
        let level = match *event.metadata().level() {
            Level::ERROR => "error",
            Level::WARN => "warn",
            Level::INFO => "info",
            _ => return,
        };
        let mut text = Text::default();
        event.record(&mut text);
        self.add(level, text.joined());
    }
}

/// An event's message and fields.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Text {
    fn joined(self) -> String {
        let mut text = self.message + &self.fields;
        if text.len() > LONGEST {
            let end = (0..=LONGEST).rev().find(|&i| text.is_char_boundary(i));
            text.truncate(end.unwrap_or(0));
            text.push_str("...");
        }
        text
    }

    fn add(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value}"),
            name => write!(self.fields, " {name}={value}"),
        };
    }
}

impl Visit for Text {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format_args!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing_subscriber::layer::SubscriberExt;

    #[test]
    fn the_latest_events_are_kept_with_their_fields() {
        let events = Events::default();
        let subscriber = tracing_subscriber::registry().with(events.clone());
        tracing::subscriber::with_default(subscriber, || {
            tracing::debug!("not kept");
            for i in 0..ROOM {
                tracing::info!(i, "filler");
            }
            tracing::warn!(cause = "tcp", address = %"h:1", "upstream unreachable");
        });
        let kept = events.since(0);
        assert_eq!(kept.len(), ROOM);
        let last = kept.last().expect("events were kept");
        assert_eq!(last.text, "upstream unreachable cause=tcp address=h:1");
        assert_eq!((last.level, last.number), ("warn", ROOM as u64 + 1));
        assert_eq!(events.since(last.number - 1), kept[ROOM - 1..]);
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        let events = Events::default();
        let subscriber = tracing_subscriber::registry().with(events.clone());
        tracing::subscriber::with_default(subscriber, || {
            tracing::error!("x{}", "é".repeat(LONGEST));
        });
        let text = &events.since(0)[0].text;
        assert!(text.ends_with("é...") && text.len() <= LONGEST + 3);
    }
}
