//! The rules of L1 (`[[cache.rules]]`): read from tables or from one line of text, and printed.
//!
//! The text is for environments, where TOML or JSON would have to be quoted twice:
//! `product:* max_age=10s; session:* bypass`.

use super::kind::{Entry, Raw, Table, Wrong, choice, duration, quote, show_size, size};
use super::nearest::did_you_mean;
use super::problem::Origin;
use super::table::Setting;
use super::value::{quoted, show_duration};
use crate::l1::config::{Mode, Rule, Verb};

/// What a rule can say, and what that means.
pub(super) const NAMES: [(&str, &str); 7] = [
    (
        "match",
        "Which keys: a glob as KEYS has it (`*`, `?`, `[a-z]`, `\\`). Required.",
    ),
    (
        "action",
        "`\"cache\"`, the default, or `\"bypass\"`: such keys are not kept.",
    ),
    (
        "mode",
        "`\"tracking\"`, `\"ttl\"` or `\"observe\"`, in place of `cache.mode`.",
    ),
    (
        "ttl",
        "For how long a reply is served where no push would end it. Without it, such a reply is not kept.",
    ),
    ("max_age", "In place of `cache.max_age`."),
    ("max_value", "In place of `cache.max_value`."),
    (
        "stale_if_down",
        "For how long after its age a reply is served while the server cannot be reached. Not set: not at all.",
    ),
];

pub(super) const ACTIONS: [&str; 2] = ["cache", "bypass"];

pub(super) const MODES: [&str; 3] = ["tracking", "ttl", "observe"];
pub(super) const DAY: u64 = 24 * 3_600_000;
pub(super) const MAX_VALUE: usize = 512 << 20;

/// A rule with its place.
pub(super) struct Written {
    pub(super) rule: Rule,
    /// From one, for people.
    pub(super) number: usize,
    /// Where that is not the setting's own.
    pub(super) origin: Option<Origin>,
}

impl Written {
    /// What a message calls it: `rule 2 ("session:*")`.
    pub(super) fn name(&self) -> String {
        name(self.number, &String::from_utf8_lossy(&self.rule.pattern))
    }
}

/// Reads all rules, and says all that is wrong with them.
pub(super) fn read(raw: &Raw) -> Result<Vec<Written>, Wrong> {
    let of_text;
    let tables = match raw {
        Raw::Tables(tables) => tables,
        Raw::List(items) if items.is_empty() => return Ok(Vec::new()),
        Raw::Plain(text) => {
            of_text = tables(text)?;
            &of_text
        }
        _ => {
            let expected = "a list of tables, each headed [[cache.rules]]";
            return Err(raw.mismatch(expected).into());
        }
    };
    let (mut rules, mut wrong) = (Vec::new(), Vec::new());
    for (index, table) in tables.iter().enumerate() {
        match rule(index + 1, table) {
            Ok(rule) => rules.push(rule),
            Err(Wrong(mut more)) => wrong.append(&mut more),
        }
    }
    if wrong.is_empty() {
        Ok(rules)
    } else {
        Err(Wrong(wrong))
    }
}

fn rule(number: usize, table: &Table) -> Result<Written, Wrong> {
    let mut rule = Rule {
        pattern: Vec::new(),
        verb: Verb::Cache,
        mode: None,
        ttl: None,
        max_age: None,
        max_value: None,
        stale_if_down: None,
    };
    let pattern = table.entries.iter().find(|entry| entry.name == "match");
    let text = pattern.and_then(|entry| entry.raw.text("").ok());
    let called = name(number, text.unwrap_or_default());
    let mut wrong = Vec::new();
    if pattern.is_none() {
        let what = format!("{called}: needs match, such as match = \"product:*\"");
        wrong.push((table.origin.clone(), what));
    }
    for entry in &table.entries {
        if let Err(what) = set(&mut rule, entry) {
            wrong.push((entry.origin.clone(), format!("{called}: {what}")));
        }
    }
    if !wrong.is_empty() {
        return Err(Wrong(wrong));
    }
    Ok(Written {
        rule,
        number,
        origin: table.origin.clone(),
    })
}

fn set(rule: &mut Rule, entry: &Entry) -> Result<(), String> {
    let raw = &entry.raw;
    let span = |min: u64| duration(raw, (min, DAY)).map(Some);
    let result = match entry.name.as_str() {
        "match" => pattern(raw).map(|pattern| rule.pattern = pattern),
        "action" => choice(raw, &ACTIONS).map(|word| rule.verb = verb(word)),
        "mode" => choice(raw, &MODES).map(|word| rule.mode = Some(mode(word))),
        "ttl" => span(1).map(|ttl| rule.ttl = ttl),
        "max_age" => span(1).map(|age| rule.max_age = age),
        "max_value" => size(raw, (1, MAX_VALUE)).map(|size| rule.max_value = Some(size)),
        "stale_if_down" => span(1).map(|limit| rule.stale_if_down = limit),
        unknown => return Err(unknown_name(unknown)),
    };
    result.map_err(|what| format!("{}: {what}", entry.name))
}

fn pattern(raw: &Raw) -> Result<Vec<u8>, String> {
    match raw.text("a pattern in quotes, such as \"product:*\"")? {
        "" => Err("is empty; \"*\" is every key".to_owned()),
        text => Ok(text.into()),
    }
}

/// The word of [`ACTIONS`] as L1 has it.
pub(super) fn verb(word: &str) -> Verb {
    match word {
        "cache" => Verb::Cache,
        _ => Verb::Bypass,
    }
}

/// The word for a mode as L1 has it.
pub(super) fn mode(word: &str) -> Mode {
    match word {
        "tracking" => Mode::Tracking,
        "ttl" => Mode::Ttl,
        "observe" => Mode::Observe,
        "off" => Mode::Off,
        _ => Mode::Auto,
    }
}

fn unknown_name(name: &str) -> String {
    let shown = quoted(name);
    if Setting::find(&format!("cache.{name}")).is_some() {
        return format!(
            "{shown} is a setting of [cache], not of a rule; in a file it stands above the first [[cache.rules]]"
        );
    }
    let hint = did_you_mean(name, NAMES.map(|(name, _)| name));
    format!("unknown setting {shown}{hint}")
}

fn name(number: usize, pattern: &str) -> String {
    match quoted(pattern) {
        shown if shown.starts_with('"') && !pattern.is_empty() => {
            format!("rule {number} ({shown})")
        }
        _ => format!("rule {number}"),
    }
}

/// The tables of the text form: rules end with `;` or their line, words with a blank. The first word
/// is the pattern; in it, `?` stands for a `;` or a blank.
fn tables(text: &str) -> Result<Vec<Table>, Wrong> {
    let text = text.trim();
    if text.eq_ignore_ascii_case("none") {
        return Ok(Vec::new());
    }
    if text.starts_with("[{") || text.starts_with("{\"") {
        let what = "is not written as JSON, but as in product:* max_age=10s; session:* bypass";
        return Err(what.to_owned().into());
    }
    let rules = text.split([';', '\n']).map(str::trim);
    let (mut tables, mut wrong) = (Vec::new(), Vec::new());
    for (index, rule) in rules.filter(|rule| !rule.is_empty()).enumerate() {
        match table(rule) {
            Ok(table) => tables.push(table),
            Err(what) => wrong.push((None, format!("rule {}: {what}", index + 1))),
        }
    }
    if wrong.is_empty() {
        Ok(tables)
    } else {
        Err(Wrong(wrong))
    }
}

fn table(rule: &str) -> Result<Table, String> {
    let (first, rest) = rule.split_once(char::is_whitespace).unwrap_or((rule, ""));
    let pattern = first.strip_prefix("match=").unwrap_or(first);
    let is_name = |word: &str| NAMES.iter().any(|(name, _)| *name == word);
    // "product:*,max_age=10s" would be the pattern of no key, and nobody would notice.
    let mut parts = pattern.split('=').map(|part| part.rsplit(',').next());
    if pattern.contains('=') && parts.any(|part| part.is_some_and(is_name)) {
        return Err(format!(
            "{} is not a pattern: a rule begins with one, then a blank, as in product:* max_age=10s",
            quoted(pattern)
        ));
    }
    let mut entries = vec![entry("match", pattern)];
    for word in rest.split_whitespace() {
        let (name, value) = match word.split_once('=') {
            Some(pair) => pair,
            None if ACTIONS.iter().any(|it| it.eq_ignore_ascii_case(word)) => ("action", word),
            None => {
                return Err(format!(
                    "{} is neither cache, bypass nor a setting such as max_age=10s",
                    quoted(word)
                ));
            }
        };
        if entries.iter().any(|entry| entry.name == name) {
            return Err(format!("{} is there twice", quoted(name)));
        }
        entries.push(entry(name, value));
    }
    Ok(Table {
        origin: None,
        entries,
    })
}

fn entry(name: &str, value: &str) -> Entry {
    Entry {
        name: name.to_owned(),
        raw: Raw::Plain(value.to_owned()),
        origin: None,
    }
}

/// A rule as names and TOML values.
pub(super) fn pairs(rule: &Rule) -> Vec<(&'static str, String)> {
    let span = |limit: std::time::Duration| quote(&show_duration(limit));
    let verb = match rule.verb {
        Verb::Cache => "cache",
        Verb::Bypass => "bypass",
    };
    let mode = rule.mode.map(|mode| match mode {
        Mode::Tracking => "tracking",
        Mode::Ttl => "ttl",
        Mode::Observe => "observe",
        Mode::Off => "off",
        Mode::Auto => "auto",
    });
    let pattern = String::from_utf8_lossy(&rule.pattern);
    let pairs = [
        ("match", Some(quote(&pattern))),
        ("action", Some(quote(verb))),
        ("mode", mode.map(quote)),
        ("ttl", rule.ttl.map(span)),
        ("max_age", rule.max_age.map(span)),
        ("max_value", rule.max_value.map(show_size)),
        ("stale_if_down", rule.stale_if_down.map(span)),
    ];
    let written = pairs.into_iter();
    written
        .filter_map(|(name, value)| Some((name, value?)))
        .collect()
}

/// All rules as one TOML value.
pub(super) fn show(rules: &[Written]) -> String {
    let pair = |(name, value): (&str, String)| format!("{name} = {value}");
    let table = |written: &Written| {
        let pairs: Vec<String> = pairs(&written.rule).into_iter().map(pair).collect();
        format!("{{{}}}", pairs.join(", "))
    };
    let tables: Vec<String> = rules.iter().map(table).collect();
    format!("[{}]", tables.join(", "))
}
