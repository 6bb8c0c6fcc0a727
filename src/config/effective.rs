//! What `nearkey config` prints: every setting, its value, and where the value comes from.

use std::fmt;

use super::kind::Kind;
use super::resolve::Resolver;
use super::rules;
use super::table::{SETTINGS, Setting};
use super::url::HIDDEN;

/// Widest `key = value` that the origins are aligned behind.
const MAX_WIDTH: usize = 60;

/// What a rule begins with.
const TABLE: &str = "[[cache.rules]]";

/// The configuration in force, ready to print: TOML that can be fed back, but for its secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective {
    lines: Vec<Line>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Line {
    key: &'static str,
    section: &'static str,
    setting: String,
    /// Only the first line of a rule has one.
    origin: Option<String>,
}

impl Effective {
    pub(super) fn of(resolver: &mut Resolver) -> Self {
        let lines = SETTINGS.iter().flat_map(|setting| {
            if let (Kind::Rules(_), false) = (&setting.kind, resolver.draft.cache.rules.is_empty())
            {
                return rules(resolver, setting);
            }
            let value = match setting.key {
                // A user without a password is, more often than not, a token in the wrong place.
                "upstream.username" if is_user_alone(resolver) => format!("\"{HIDDEN}\""),
                _ => setting.kind.show(&mut resolver.draft),
            };
            let origin = resolver.origin(setting.key);
            let note = resolver.notes.get(setting.key);
            let origin = match note {
                Some(note) => format!("{origin}; {note}"),
                None => origin.to_string(),
            };
            let text = format!("{} = {value}", setting.name());
            vec![Line::new(setting, text, Some(origin))]
        });
        Self {
            lines: lines.collect(),
        }
    }

    /// Whether the value of a dotted key is another one there. Secrets look the same.
    pub fn differs(&self, other: &Self, key: &str) -> bool {
        let of = |effective: &Self| -> Vec<String> {
            let lines = effective.lines.iter().filter(|line| line.key == key);
            lines.map(|line| line.setting.clone()).collect()
        };
        of(self) != of(other)
    }

    /// Where the value of a dotted key comes from, such as `env REDIS_URL`.
    pub fn origin(&self, key: &str) -> Option<&str> {
        let line = self.lines.iter().find(|line| line.key == key);
        line.and_then(|line| line.origin.as_deref())
    }
}

impl Line {
    fn new(setting: &Setting, text: String, origin: Option<String>) -> Self {
        Self {
            key: setting.key,
            section: setting.section(),
            setting: text,
            origin,
        }
    }
}

/// A table for each rule.
fn rules(resolver: &Resolver, setting: &Setting) -> Vec<Line> {
    let mut lines = Vec::new();
    for written in &resolver.draft.cache.rules {
        let origin = resolver.rule_origin(written).to_string();
        lines.push(Line::new(setting, TABLE.to_owned(), Some(origin)));
        for (name, value) in rules::pairs(&written.rule) {
            lines.push(Line::new(setting, format!("{name} = {value}"), None));
        }
    }
    lines
}

impl fmt::Display for Effective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths = self.lines.iter().map(|line| line.setting.chars().count());
        let width = widths
            .filter(|width| *width <= MAX_WIDTH)
            .max()
            .unwrap_or(0);
        let mut section = "";
        for line in &self.lines {
            if line.section != section {
                let gap = if section.is_empty() { "" } else { "\n" };
                writeln!(f, "{gap}[{}]", line.section)?;
                section = line.section;
            }
            if line.setting == TABLE {
                writeln!(f)?;
            }
            match &line.origin {
                Some(origin) => writeln!(f, "{:width$}  # {origin}", line.setting)?,
                None => writeln!(f, "{}", line.setting)?,
            }
        }
        Ok(())
    }
}

fn is_user_alone(resolver: &Resolver) -> bool {
    let upstream = &resolver.draft.config.upstream;
    upstream.username.is_some() && upstream.password.is_none()
}
