//! What `nearkey config` prints: every setting, its value, and where the value comes from.

use std::fmt;

use super::resolve::Resolver;
use super::table::SETTINGS;
use super::url::HIDDEN;

/// Widest `key = value` that the origins are aligned behind.
const MAX_WIDTH: usize = 60;

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
    origin: String,
}

impl Effective {
    pub(super) fn of(resolver: &mut Resolver) -> Self {
        let lines = SETTINGS.iter().map(|setting| {
            let value = match setting.key {
                // A user without a password is, more often than not, a token in the wrong place.
                "upstream.username" if is_user_alone(resolver) => format!("\"{HIDDEN}\""),
                _ => setting.kind.show(&mut resolver.draft),
            };
            let origin = resolver.origin(setting.key);
            let note = resolver.notes.get(setting.key);
            Line {
                key: setting.key,
                section: setting.section(),
                setting: format!("{} = {value}", setting.name()),
                origin: match note {
                    Some(note) => format!("{origin}; {note}"),
                    None => origin.to_string(),
                },
            }
        });
        Self {
            lines: lines.collect(),
        }
    }

    /// Where the value of a dotted key comes from, such as `env REDIS_URL`.
    pub fn origin(&self, key: &str) -> Option<&str> {
        let line = self.lines.iter().find(|line| line.key == key);
        line.map(|line| line.origin.as_str())
    }
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
            writeln!(f, "{:width$}  # {}", line.setting, line.origin)?;
        }
        Ok(())
    }
}

fn is_user_alone(resolver: &Resolver) -> bool {
    let upstream = &resolver.draft.config.upstream;
    upstream.username.is_some() && upstream.password.is_none()
}
