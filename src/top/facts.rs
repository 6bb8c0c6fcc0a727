//! What the admin endpoint tells, as `/overview` and `/hotkeys` write it.
//!
//! Whatever is missing counts as zero, so that another version of the process is shown, too. Texts come
//! from outside and are harmless on a terminal once they are here.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

/// The body of `/overview`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Overview {
    #[serde(deserialize_with = "clean")]
    pub(super) version: String,
    pub(super) uptime_seconds: u64,
    pub(super) draining: bool,
    pub(super) upstream: Upstream,
    pub(super) clients: Clients,
    pub(super) commands: Commands,
    pub(super) l1: L1,
    pub(super) samples: Vec<Sample>,
    pub(super) events: Vec<Event>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Upstream {
    pub(super) state: State,
    #[serde(deserialize_with = "clean_if_any")]
    pub(super) cause: Option<String>,
    #[serde(deserialize_with = "clean_if_any")]
    pub(super) message: Option<String>,
    #[serde(deserialize_with = "clean_if_any")]
    pub(super) advice: Option<String>,
    #[serde(deserialize_with = "clean")]
    pub(super) address: String,
    #[serde(deserialize_with = "clean")]
    pub(super) provider: String,
    pub(super) tls_verify_disabled: bool,
    pub(super) connections: u64,
    pub(super) connections_peak: u64,
    pub(super) connections_max: u64,
    pub(super) connects: u64,
    pub(super) lost: u64,
    pub(super) failures: BTreeMap<String, u64>,
    pub(super) latency_us: u64,
    pub(super) in_flight: u64,
    pub(super) leases_held: u64,
    pub(super) leases_awaited: u64,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    Up,
    Strained,
    Degraded,
    Down,
    #[default]
    #[serde(other)]
    Unknown,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Clients {
    pub(super) now: u64,
    pub(super) max: u64,
    pub(super) refused: u64,
    pub(super) subscribers: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Commands {
    pub(super) total: u64,
    pub(super) errors: BTreeMap<String, u64>,
    pub(super) error_replies: u64,
    pub(super) retries: u64,
    pub(super) desyncs: u64,
    pub(super) panics: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct L1 {
    pub(super) health: L1Health,
    pub(super) stale_hits: u64,
    pub(super) saved: Saved,
    pub(super) would_save: Saved,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct L1Health {
    #[serde(deserialize_with = "clean")]
    pub(super) mode: String,
    #[serde(deserialize_with = "clean")]
    pub(super) why: String,
    pub(super) entries: u64,
    pub(super) bytes: u64,
    pub(super) max_bytes: u64,
}

/// L1's own commands are taken off: it may be below zero.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Saved {
    pub(super) commands: i64,
    pub(super) bytes: i64,
    pub(super) seconds: f64,
    /// `None` where no price is stated.
    pub(super) money: Option<f64>,
}

/// What happened within one step, and what stood at its end.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Sample {
    pub(super) number: u64,
    pub(super) seconds: f64,
    pub(super) clients: u64,
    pub(super) connections: u64,
    pub(super) commands: u64,
    pub(super) l1_hits: u64,
    pub(super) l1_misses: u64,
    pub(super) errors: u64,
    pub(super) mean_us: Option<f64>,
    pub(super) p50_us: Option<f64>,
    pub(super) p99_us: Option<f64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Event {
    pub(super) number: u64,
    pub(super) at_ms: u64,
    #[serde(deserialize_with = "clean")]
    pub(super) level: String,
    #[serde(deserialize_with = "clean")]
    pub(super) text: String,
}

/// The body of `/hotkeys`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct HotKeys {
    pub(super) keys: Vec<HotKey>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct HotKey {
    #[serde(deserialize_with = "clean")]
    pub(super) key: String,
    pub(super) reads: u64,
    pub(super) hits: u64,
    pub(super) misses: u64,
    pub(super) writes: u64,
    pub(super) bytes: u64,
    #[serde(deserialize_with = "clean")]
    pub(super) advice: String,
}

impl Sample {
    /// What a read that L1 looked for took on average: those that it answers cost next to nothing.
    pub(super) fn read_us(&self) -> Option<f64> {
        let looked = self.l1_hits + self.l1_misses;
        match self.mean_us {
            _ if looked == 0 => None,
            Some(mean) => Some(mean * self.l1_misses as f64 / looked as f64),
            None => (self.l1_misses == 0).then_some(0.0),
        }
    }
}

impl Overview {
    /// How things are in a word or a few, and whether they are good (0), to be looked at (1) or bad (2).
    pub(super) fn verdict(&self) -> (&'static str, u8) {
        match self.upstream.state {
            State::Down => ("server unreachable", 2),
            _ if self.draining => ("draining", 1),
            State::Up => ("healthy", 0),
            State::Strained => ("healthy, no further connection", 1),
            State::Degraded => ("degraded", 1),
            State::Unknown => ("server not needed yet", 1),
        }
    }

    /// What nobody may overlook, the worst first.
    pub(super) fn alarms(&self) -> Vec<String> {
        let Upstream {
            cause,
            message,
            advice,
            ..
        } = &self.upstream;
        let mut alarms = Vec::new();
        if let Some(cause) = cause {
            let what = match self.upstream.state {
                State::Down => "Server unreachable",
                _ => "Something is wrong with the server",
            };
            let message = message.as_deref().unwrap_or_default();
            let mut text = format!("{what} ({cause}): {message}.");
            if let Some(advice) = advice {
                text += &format!(" To do: {advice}.");
            }
            alarms.push(text);
        }
        if self.upstream.tls_verify_disabled {
            let text = "The server's certificate is not checked (upstream.verify): anyone in between can pose as it.";
            alarms.push(text.to_owned());
        }
        let Commands {
            desyncs, panics, ..
        } = self.commands;
        if desyncs > 0 {
            alarms.push(format!(
                "{desyncs} connections were closed for a surplus, missing or malformed reply: please report it."
            ));
        }
        if panics > 0 {
            alarms.push(format!(
                "{panics} sessions were ended by a panic: please report it with the log."
            ));
        }
        alarms
    }
}

/// What counts something of each kind, as `tcp 3, tls 1`; empty where nothing was counted.
pub(super) fn counted(kinds: &BTreeMap<String, u64>) -> String {
    let some = kinds.iter().filter(|(_, n)| **n > 0);
    let texts =
        some.map(|(kind, n)| format!("{} {}", harmless(kind), super::numbers::count(*n as f64)));
    texts.collect::<Vec<_>>().join(", ")
}

fn clean<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    Ok(clean_if_any(from)?.unwrap_or_default())
}

fn clean_if_any<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<String>::deserialize(from)?.map(|text| harmless(&text)))
}

/// Without what moves the cursor, turns the direction of writing or takes no room.
fn harmless(text: &str) -> String {
    let is_invisible = |c: char| {
        c.is_control()
            || matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
            || matches!(c, '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
    };
    let shown = |c| if is_invisible(c) { '?' } else { c };
    text.chars().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_from_outside_cannot_write_on_the_terminal() {
        let text =
            r#"{"key": "a\u001b[2Jb\r\n\u009b31m\u202ex", "advice": null, "reads": 3, "new": []}"#;
        let key: HotKey = serde_json::from_str(text).unwrap();
        assert_eq!((key.key.as_str(), key.reads), ("a?[2Jb???31m?x", 3));
        assert_eq!(key.advice, "");
    }

    #[test]
    fn another_version_is_understood_as_far_as_it_goes() {
        let overview: Overview = serde_json::from_str(
            r#"{"upstream": {"state": "dreaming"}, "samples": [{"number": 1, "p50_us": null}]}"#,
        )
        .unwrap();
        assert_eq!(overview.verdict(), ("server not needed yet", 1));
        assert_eq!(overview.samples[0].number, 1);
        assert!(overview.alarms().is_empty());
    }

    #[test]
    fn an_alarm_names_the_cause_and_what_to_do() {
        let text = r#"{"upstream": {"state": "down", "cause": "tcp", "message": "refused", "advice": "look there",
            "tls_verify_disabled": true}, "commands": {"panics": 2}}"#;
        let overview: Overview = serde_json::from_str(text).unwrap();
        let alarms = overview.alarms();
        assert_eq!(
            alarms[0],
            "Server unreachable (tcp): refused. To do: look there."
        );
        assert!(alarms[1].contains("certificate") && alarms[2].starts_with("2 sessions"));
        assert_eq!(overview.verdict().1, 2);
    }
}
