//! Logs: set up once at start, in text or JSON.
//!
//! Everything goes to stderr, one event per line: standard output belongs to the subcommands. What
//! clients send never breaks out of its line, in either format.

use std::fmt;
use std::io::{self, IsTerminal, Write};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;

use crate::events::Events;

/// Settings of the log (`[log]`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Text for people or JSON for collectors.
    pub format: Format,
    /// A `tracing` filter such as `info` or `nearkey=debug`.
    pub level: String,
}

/// How a log line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One readable line per event.
    Text,
    /// One JSON object per event.
    Json,
}

/// Why the log could not be set up.
#[derive(Debug)]
pub enum Error {
    /// A word of the filter is neither a level nor `target=level`.
    NotALevel(String),
    /// The filter does not parse.
    Filter(ParseError),
    /// The log was set up before.
    AlreadySet,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotALevel(word) => write!(
                f,
                "`{word}` is not a log level: use off, error, warn, info, debug or trace, \
                 or target=level as in nearkey=debug"
            ),
            Self::Filter(err) => write!(f, "the log filter is not valid: {err}"),
            Self::AlreadySet => f.write_str("the log was set up before"),
        }
    }
}

impl std::error::Error for Error {}

/// Starts logging for the whole process, panics included; `events` keeps the latest.
pub fn init(config: &Config, events: Events) -> Result<Filter, Error> {
    let ansi = io::stderr().is_terminal();
    let (subscriber, filter) = subscriber(config, ansi, || OneLine(io::stderr()))?;
    let subscriber = subscriber.with(events);
    tracing::subscriber::set_global_default(subscriber).map_err(|_| Error::AlreadySet)?;
    std::panic::set_hook(Box::new(|panic| {
        let payload = panic.payload();
        let text = payload.downcast_ref::<&str>().copied();
        let message = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        let location = panic.location().map(ToString::to_string);
        tracing::error!(message = message.unwrap_or("panic"), location, panic = true);
    }));
    Ok(filter)
}

/// Checks a filter without setting anything up.
pub fn check_level(level: &str) -> Result<(), Error> {
    filter(level).map(drop)
}

fn subscriber<W>(
    config: &Config,
    ansi: bool,
    writer: W,
) -> Result<(Box<dyn tracing::Subscriber + Send + Sync>, Filter), Error>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter(&config.level)?)
        .with_writer(writer)
        .with_ansi(ansi);
    Ok(match config.format {
        Format::Text => {
            let builder = builder.with_filter_reloading();
            let handle = builder.reload_handle();
            let set = move |filter| handle.reload(filter).is_ok();
            (Box::new(builder.finish()), Filter(Box::new(set)))
        }
        Format::Json => {
            let builder = builder
                .json()
                .flatten_event(true)
                .with_current_span(false)
                .with_span_list(false)
                .with_filter_reloading();
            let handle = builder.reload_handle();
            let set = move |filter| handle.reload(filter).is_ok();
            (Box::new(builder.finish()), Filter(Box::new(set)))
        }
    })
}

/// The filter in force.
pub struct Filter(Box<dyn Fn(EnvFilter) -> bool + Send + Sync>);

impl Filter {
    /// Logs by another filter from here on.
    ///
    /// # Errors
    /// It is none.
    pub fn set(&self, level: &str) -> Result<(), Error> {
        let filter = filter(level)?;
        // It can only fail while the process ends.
        (self.0)(filter);
        Ok(())
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Filter")
    }
}

fn filter(level: &str) -> Result<EnvFilter, Error> {
    // The filter language takes a bare word that is no level for a target, so that the typing
    // error `inof` would turn the whole log off.
    for word in level
        .split(',')
        .map(str::trim)
        .filter(|word| !word.is_empty())
    {
        if !word.contains(['=', '[']) && word.parse::<LevelFilter>().is_err() {
            return Err(Error::NotALevel(word.to_owned()));
        }
    }
    EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .parse(level)
        .map_err(Error::Filter)
}

/// Writes an event, which ends with its only line feed, with every other line break escaped.
struct OneLine<W>(W);

impl<W: Write> Write for OneLine<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let (text, end) = match event.split_last() {
            Some((b'\n', text)) => (text, &b"\n"[..]),
            _ => (event, &b""[..]),
        };
        if memchr::memchr2(b'\n', b'\r', text).is_none() {
            self.0.write_all(event)?;
            return Ok(event.len());
        }
        let mut escaped = Vec::with_capacity(event.len() + 16);
        for &byte in text {
            match byte {
                b'\n' => escaped.extend_from_slice(b"\\n"),
                b'\r' => escaped.extend_from_slice(b"\\r"),
                other => escaped.push(other),
            }
        }
        escaped.extend_from_slice(end);
        self.0.write_all(&escaped)?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: Format, level: &str, log: impl FnOnce()) -> String {
        let captured = Captured::default();
        let config = Config {
            format,
            level: level.to_owned(),
        };
        let writer = captured.clone();
        let (subscriber, _) = subscriber(&config, false, move || OneLine(writer.clone())).unwrap();
        tracing::subscriber::with_default(subscriber, log);
        let bytes = captured.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn json_is_flat() {
        let text = logged(Format::Json, "info", || {
            tracing::info!(cause = "tls", attempt = 3, "upstream down");
        });
        let event: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(event["level"], "INFO");
        assert_eq!(event["message"], "upstream down");
        assert_eq!(event["cause"], "tls");
        assert_eq!(event["attempt"], 3);
        assert_eq!(event["target"], "nearkey::telemetry::tests");
        assert!(event["timestamp"].as_str().unwrap().ends_with('Z'));
    }

    #[test]
    fn text_has_no_escape_codes_when_nobody_looks() {
        let text = logged(Format::Text, "info", || {
            tracing::warn!(cause = "tls", "down")
        });
        assert!(text.contains("WARN") && text.contains("down") && text.contains("cause"));
        assert!(!text.contains('\u{1b}'), "{text:?}");
    }

    #[test]
    fn an_event_stays_on_its_line() {
        let evil = "x\r\n{\"level\":\"fatal\"}";
        for format in [Format::Text, Format::Json] {
            let text = logged(
                format,
                "info",
                || tracing::info!(name = %evil, "client: {evil}"),
            );
            assert_eq!(text.matches('\n').count(), 1, "{text:?}");
            assert!(!text.contains('\r'), "{text:?}");
        }
    }

    #[test]
    fn the_level_filters_by_target() {
        let text = logged(Format::Text, "warn,nearkey::telemetry=debug", || {
            tracing::debug!("ours");
            tracing::info!(target: "other", "theirs");
        });
        assert!(text.contains("ours") && !text.contains("theirs"), "{text}");
    }

    #[test]
    fn a_misspelt_level_is_an_error() {
        for level in ["inof", "nearkey=verbose", "info,nearkey"] {
            assert!(check_level(level).is_err(), "{level}");
        }
        for level in [
            "info",
            "OFF",
            "",
            "nearkey=debug",
            "warn,nearkey::upstream=trace",
        ] {
            assert!(check_level(level).is_ok(), "{level}");
        }
        let message = check_level("inof").unwrap_err().to_string();
        assert!(message.contains("`inof` is not a log level"), "{message}");
    }
}
