//! The kinds of settings: how each is read, where it goes, and how it is printed.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::draft::Draft;
use super::problem::Origin;
use super::rules::{self, Written};
use super::url::{self, HIDDEN, Url};
use super::value;
use crate::secret::Secret;

/// The place of a value in the draft.
type Place<T> = fn(&mut Draft) -> &mut T;

/// What a setting holds, with its limits and its place.
pub(super) enum Kind {
    /// Limits in milliseconds.
    Duration((u64, u64), Place<Duration>),
    /// Limits in bytes.
    Size((usize, usize), Place<usize>),
    /// `auto` (none), or limits in bytes; 0 is allowed as well.
    Memory((usize, usize), Place<Option<usize>>),
    /// Limits.
    Integer((usize, usize), Place<usize>),
    Boolean(Place<bool>),
    /// One of these words.
    Choice(&'static [&'static str], Place<&'static str>),
    /// Free text; empty is none.
    Text(Place<Option<String>>),
    /// A host name; empty is none.
    Host(Place<Option<String>>),
    /// A log filter such as `info` or `info,nearkey=debug`.
    Filter(Place<String>),
    Path(Place<Option<PathBuf>>),
    Secret(Place<Option<Secret>>),
    Url(Place<Option<Secret>>),
    /// A TCP address, or `off`.
    Address(Place<Option<SocketAddr>>),
    /// Permission bits in octal.
    Mode(Place<u32>),
    /// Command names.
    Commands(Place<Vec<String>>),
    /// An amount of money, in millionths.
    Amount(Place<u64>),
    /// The rules of L1.
    Rules(Place<Vec<Written>>),
}

/// A value as its source wrote it.
///
/// No `Debug`: it may be a secret.
pub(super) enum Raw {
    /// From an environment variable, a flag or the table: any kind in its text form.
    Plain(String),
    /// A TOML string.
    Text(String),
    Integer(i64),
    Boolean(bool),
    /// A fraction, as it was written.
    Float(String),
    List(Vec<String>),
    Tables(Vec<Table>),
    /// Any other TOML value, by the name of its type.
    Other(&'static str),
}

/// One of a list of tables.
pub(super) struct Table {
    /// Its own place, where it has one.
    pub(super) origin: Option<Origin>,
    /// As written, one after the other.
    pub(super) entries: Vec<Entry>,
}

/// A name and a value in a table.
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) raw: Raw,
    /// Its own place, where it has one.
    pub(super) origin: Option<Origin>,
}

/// What is wrong with a value: ends of sentences, with their places where those are not the value's.
pub(super) struct Wrong(pub(super) Vec<(Option<Origin>, String)>);

impl From<String> for Wrong {
    fn from(what: String) -> Self {
        Self(vec![(None, what)])
    }
}

impl Kind {
    /// Reads `raw` into its place.
    pub(super) fn set(&self, draft: &mut Draft, raw: &Raw) -> Result<(), Wrong> {
        match self {
            Self::Duration(limits, place) => *place(draft) = duration(raw, *limits)?,
            Self::Size(limits, place) => *place(draft) = size(raw, *limits)?,
            Self::Memory(limits, place) => *place(draft) = memory(raw, *limits)?,
            Self::Integer(limits, place) => *place(draft) = integer(raw, *limits)?,
            Self::Boolean(place) => *place(draft) = boolean(raw)?,
            Self::Choice(words, place) => *place(draft) = choice(raw, words)?,
            Self::Text(place) => {
                *place(draft) = some(not_hidden(raw.text("a string")?)?.to_owned())
            }
            Self::Host(place) => *place(draft) = host(raw)?,
            Self::Filter(place) => *place(draft) = filter(raw)?,
            Self::Path(place) => *place(draft) = some(raw.text("a path in quotes")?.into()),
            Self::Secret(place) => *place(draft) = secret(raw)?,
            Self::Url(place) => {
                *place(draft) = some(raw.text("a URL in quotes")?.to_owned()).map(Secret::new)
            }
            Self::Address(place) => {
                let text = raw.text("an address in quotes, such as \"127.0.0.1:6379\"");
                *place(draft) = value::listen_address(text?)?;
            }
            Self::Mode(place) => {
                *place(draft) = value::mode(raw.text("an octal mode in quotes, such as \"0700\"")?)?
            }
            Self::Commands(place) => *place(draft) = commands(raw)?,
            Self::Amount(place) => *place(draft) = amount(raw)?,
            Self::Rules(place) => *place(draft) = rules::read(raw)?,
        }
        Ok(())
    }

    /// The value in its place, as TOML, secrets hidden.
    pub(super) fn show(&self, draft: &mut Draft) -> String {
        match self {
            Self::Duration(_, place) => quote(&value::show_duration(*place(draft))),
            Self::Size(_, place) => show_size(*place(draft)),
            Self::Memory(_, place) => place(draft).map_or_else(|| quote(AUTO), show_size),
            Self::Integer(_, place) => place(draft).to_string(),
            Self::Boolean(place) => place(draft).to_string(),
            Self::Choice(_, place) => quote(place(draft)),
            Self::Text(place) | Self::Host(place) => quote(place(draft).as_deref().unwrap_or("")),
            Self::Filter(place) => quote(place(draft)),
            Self::Path(place) => show_path(place(draft)),
            Self::Secret(place) => quote(place(draft).as_ref().map_or("", |_| HIDDEN)),
            Self::Url(place) => show_url(place(draft)),
            Self::Address(place) => show_address(*place(draft)),
            Self::Mode(place) => quote(&format!("{:04o}", place(draft))),
            Self::Commands(place) => show_list(place(draft)),
            Self::Amount(place) => value::show_amount(*place(draft)),
            Self::Rules(place) => rules::show(place(draft)),
        }
    }
}

impl Raw {
    /// The text of a string value.
    pub(super) fn text(&self, expected: &str) -> Result<&str, String> {
        match self {
            Self::Plain(text) | Self::Text(text) => Ok(text),
            _ => Err(self.mismatch(expected)),
        }
    }

    /// Says that a value has another type than the setting.
    pub(super) fn mismatch(&self, expected: &str) -> String {
        let found = match self {
            Self::Plain(_) | Self::Text(_) => "a string",
            Self::Integer(_) => "a number",
            Self::Boolean(_) => "a boolean",
            Self::Float(_) => "a fraction",
            Self::List(_) => "a list",
            Self::Tables(_) => "a list of tables",
            Self::Other(name) => name,
        };
        format!("must be {expected}, not {found}")
    }
}

pub(super) fn duration(raw: &Raw, (min, max): (u64, u64)) -> Result<Duration, String> {
    let duration = match raw {
        Raw::Integer(0) => Duration::ZERO,
        Raw::Integer(number) => {
            return Err(format!(
                "{number} needs a unit, such as \"{number}s\" or \"{number}ms\""
            ));
        }
        _ => value::duration(raw.text("a duration such as \"5s\", \"100ms\" or \"1m\"")?)?,
    };
    let (min, max) = (Duration::from_millis(min), Duration::from_millis(max));
    in_range(duration, min, max, value::show_duration)
}

pub(super) fn size(raw: &Raw, (min, max): (usize, usize)) -> Result<usize, String> {
    let size = match raw {
        Raw::Integer(number) => {
            usize::try_from(*number).map_err(|_| format!("{number} is below zero"))?
        }
        _ => value::size(raw.text("a size such as \"64kb\", \"1mb\" or 65536")?)?,
    };
    in_range(size, min, max, value::show_size)
}

/// A share of what the container has.
const AUTO: &str = "auto";

fn memory(raw: &Raw, limits: (usize, usize)) -> Result<Option<usize>, String> {
    match raw {
        Raw::Integer(0) => Ok(Some(0)),
        Raw::Integer(_) => size(raw, limits).map(Some),
        _ => match raw.text("\"auto\", or a size such as \"256mb\"")?.trim() {
            AUTO => Ok(None),
            "0" => Ok(Some(0)),
            text => size(raw, limits).map(Some).map_err(|what| match text {
                _ if what.contains("not from") => format!("{what}, nor \"auto\" or 0"),
                _ => format!(
                    "{} is not \"auto\" or a size such as \"256mb\"",
                    value::quoted(text)
                ),
            }),
        },
    }
}

fn integer(raw: &Raw, (min, max): (usize, usize)) -> Result<usize, String> {
    let limits = format!("a whole number from {min} to {max}");
    let wrong = |text: &str| format!("{} is not {limits}", value::quoted(text));
    let number = match raw {
        Raw::Integer(number) => {
            usize::try_from(*number).map_err(|_| format!("{number} is not {limits}"))?
        }
        Raw::Plain(text) => text.trim().parse().map_err(|_| wrong(text))?,
        _ => return Err(raw.mismatch(&limits)),
    };
    if number < min || number > max {
        return Err(format!("{number} is not {limits}"));
    }
    Ok(number)
}

fn boolean(raw: &Raw) -> Result<bool, String> {
    match raw {
        Raw::Boolean(value) => Ok(*value),
        Raw::Plain(text) => value::boolean(text),
        _ => Err(raw.mismatch("true or false")),
    }
}

pub(super) fn choice(raw: &Raw, words: &[&'static str]) -> Result<&'static str, String> {
    let all = words
        .iter()
        .map(|word| format!("\"{word}\""))
        .collect::<Vec<_>>();
    let all = format!("one of {}", all.join(", "));
    let text = raw.text(&all)?.trim();
    let chosen = words.iter().find(|word| word.eq_ignore_ascii_case(text));
    chosen
        .copied()
        .ok_or_else(|| format!("{} is not {all}", value::quoted(text)))
}

fn amount(raw: &Raw) -> Result<u64, String> {
    match raw {
        Raw::Integer(number) => value::amount(&number.to_string()),
        Raw::Float(text) => value::amount(text),
        _ => value::amount(raw.text("an amount such as 0.20")?),
    }
}

fn host(raw: &Raw) -> Result<Option<String>, String> {
    let text = raw.text("a host name in quotes")?.trim();
    if text.is_empty() || url::is_host(text) {
        return Ok(some(text.to_owned()));
    }
    Err(format!("{} is not a host name", value::quoted(text)))
}

/// Checks each directive, since a filter would take a misspelt level for the name of a module.
fn filter(raw: &Raw) -> Result<String, String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let text = raw.text("a level in quotes, such as \"info\"")?.trim();
    for directive in text.split(',') {
        let level = directive.rsplit('=').next().unwrap_or(directive).trim();
        if !LEVELS.contains(&level.to_ascii_lowercase().as_str()) {
            return Err(format!(
                "{} is not a level: {}, or a filter such as \"info,nearkey=debug\"",
                value::quoted(level),
                LEVELS.join(", ")
            ));
        }
    }
    Ok(text.to_owned())
}

fn secret(raw: &Raw) -> Result<Option<Secret>, String> {
    let text = not_hidden(raw.text("a string")?)?;
    Ok(some(text.to_owned()).map(Secret::new))
}

fn not_hidden(text: &str) -> Result<&str, String> {
    if text == HIDDEN {
        return Err(url::hidden_came_back());
    }
    Ok(text)
}

/// Names in upper case; in plain text they are separated by commas, and `none` is the empty list.
fn commands(raw: &Raw) -> Result<Vec<String>, String> {
    let names: Vec<&str> = match raw {
        Raw::List(names) => names.iter().map(String::as_str).collect(),
        Raw::Plain(text) if text.trim().eq_ignore_ascii_case("none") => Vec::new(),
        Raw::Plain(text) => text.split(',').collect(),
        _ => {
            return Err(raw.mismatch("a list of strings, such as [\"SHUTDOWN\", \"CLUSTER MEET\"]"));
        }
    };
    names.into_iter().map(command).collect()
}

fn command(name: &str) -> Result<String, String> {
    let words: Vec<&str> = name.split_whitespace().collect();
    if words.is_empty() || words.len() > 2 {
        return Err(format!(
            "{} is neither a command nor a command and its subcommand, such as \"CLUSTER MEET\"",
            value::quoted(name)
        ));
    }
    Ok(words.join(" ").to_ascii_uppercase())
}

fn in_range<T: PartialOrd + Copy>(
    value: T,
    min: T,
    max: T,
    show: fn(T) -> String,
) -> Result<T, String> {
    if value < min || value > max {
        return Err(format!(
            "{} is not from {} to {}",
            show(value),
            show(min),
            show(max)
        ));
    }
    Ok(value)
}

/// An empty value means that the setting is not used.
fn some<T: PartialEq + Default>(value: T) -> Option<T> {
    (value != T::default()).then_some(value)
}

pub(super) fn show_size(size: usize) -> String {
    let text = value::show_size(size);
    match text.parse::<usize>() {
        Ok(_) => text,
        Err(_) => quote(&text),
    }
}

fn show_path(path: &Option<PathBuf>) -> String {
    quote(
        &path
            .as_ref()
            .map_or(String::new(), |path| path.display().to_string()),
    )
}

fn show_url(url: &Option<Secret>) -> String {
    let Some(url) = url else {
        return quote("");
    };
    match Url::parse(url.expose()) {
        Ok(url) => quote(&url.to_string()),
        Err(_) => quote(HIDDEN),
    }
}

fn show_address(address: Option<SocketAddr>) -> String {
    quote(&address.map_or("off".to_owned(), |address| address.to_string()))
}

fn show_list(list: &[String]) -> String {
    let items: Vec<String> = list.iter().map(|item| quote(item)).collect();
    format!("[{}]", items.join(", "))
}

/// A TOML basic string.
pub(super) fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
