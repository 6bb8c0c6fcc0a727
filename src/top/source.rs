//! Asks the running process, each time for what is new.

use std::time::Instant;

use serde::de::DeserializeOwned;

use super::app::Order;
use super::facts::{HotKeys, Overview};

/// Hot keys asked for: more than a screen shows without scrolling.
const KEYS: usize = 100;

/// Seconds by which the start of the same process may seem to move: its uptime is told in whole seconds,
/// and an answer may be late.
const SAME: f64 = 10.0;

/// What the process told.
pub(super) struct Answer {
    /// Its samples and events are those that were not told before.
    pub(super) overview: Overview,
    pub(super) hot: HotKeys,
    /// Another process answers than before: its numbers begin anew.
    pub(super) anew: bool,
}

/// Remembers what it was told. `get` makes the body of an answer from a path.
pub(super) struct Source<G> {
    get: G,
    clock: Instant,
    sample: u64,
    event: u64,
    /// Uptime last told, and when the process began by it.
    last: Option<(u64, f64)>,
}

impl<G: FnMut(&str) -> Result<String, String>> Source<G> {
    pub(super) fn new(get: G) -> Self {
        Self {
            get,
            clock: Instant::now(),
            sample: 0,
            event: 0,
            last: None,
        }
    }

    pub(super) fn ask(&mut self, order: Order) -> Result<Answer, String> {
        let mut overview = self.overview()?;
        let uptime = overview.uptime_seconds;
        let begun = self.clock.elapsed().as_secs_f64() - uptime as f64;
        let is_other = |last: (u64, f64)| uptime < last.0 || (begun - last.1).abs() > SAME;
        let anew = self.last.is_some_and(is_other);
        if anew {
            // It left out what it took for known.
            (self.sample, self.event) = (0, 0);
            overview = self.overview()?;
        }
        let by = order.as_str();
        let hot: HotKeys = self.json(&format!("/hotkeys?by={by}&n={KEYS}"))?;
        // Only now: what an answer brought that was not shown is asked for again.
        self.last = Some((uptime, begun));
        self.sample = overview.samples.last().map_or(self.sample, |s| s.number);
        self.event = overview.events.last().map_or(self.event, |e| e.number);
        Ok(Answer {
            overview,
            hot,
            anew,
        })
    }

    fn overview(&mut self) -> Result<Overview, String> {
        let (sample, event) = (self.sample, self.event);
        self.json(&format!("/overview?sample={sample}&event={event}"))
    }

    fn json<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, String> {
        let body = (self.get)(path)?;
        serde_json::from_str(&body)
            .map_err(|e| format!("the answer to {path} is not understood: {e}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    /// Asks once for each body; the paths asked for, and what came of it.
    fn asked(overviews: &[&str]) -> (Vec<String>, Vec<Result<bool, String>>) {
        let paths = RefCell::new(Vec::new());
        let mut bodies = overviews.iter();
        let mut source = Source::new(|path: &str| {
            paths.borrow_mut().push(path.to_owned());
            match path.starts_with("/hotkeys") {
                true => Ok(r#"{"keys": []}"#.to_owned()),
                false => bodies
                    .next()
                    .map(|b| (*b).to_owned())
                    .ok_or_else(|| "gone".to_owned()),
            }
        });
        let mut told = Vec::new();
        while told
            .last()
            .is_none_or(|last: &Result<bool, String>| last.is_ok())
        {
            told.push(source.ask(Order::Writes).map(|answer| answer.anew));
        }
        let mut paths = paths.take();
        paths.retain(|path| path.starts_with("/overview") || !path.contains("by=writes&n="));
        (paths, told)
    }

    #[test]
    fn only_what_is_new_is_asked_for() {
        let one = r#"{"samples": [{"number": 7}, {"number": 8}], "events": [{"number": 3}]}"#;
        let (paths, told) = asked(&[one, "{}"]);
        let expected = [
            "/overview?sample=0&event=0",
            "/overview?sample=8&event=3",
            "/overview?sample=8&event=3",
        ];
        assert_eq!(paths, expected);
        assert_eq!(told, [Ok(false), Ok(false), Err("gone".to_owned())]);
    }

    #[test]
    fn another_process_is_asked_for_everything() {
        let old = r#"{"uptime_seconds": 900, "samples": [{"number": 450}]}"#;
        let new = r#"{"uptime_seconds": 2, "samples": [{"number": 1}]}"#;
        let (paths, told) = asked(&[old, r#"{"uptime_seconds": 2}"#, new]);
        assert_eq!(
            paths[1..],
            [
                "/overview?sample=450&event=0",
                "/overview?sample=0&event=0",
                "/overview?sample=1&event=0"
            ]
        );
        assert_eq!(told[..2], [Ok(false), Ok(true)]);
    }

    #[test]
    fn what_is_no_answer_of_nearkey_is_told() {
        let (_, told) = asked(&["<html>"]);
        assert!(told[0].as_ref().unwrap_err().contains("is not understood"));
    }
}
