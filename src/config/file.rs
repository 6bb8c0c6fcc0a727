//! Reads `proxy.toml` exactly as written: every key known, every value with its line.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::Assignment;
use super::kind::{Entry, Raw, Table};
use super::nearest::did_you_mean;
use super::problem::{Origin, Problem};
use super::table::{SETTINGS, Setting};

/// Where a file is looked for when none is named.
pub(super) const SEARCH: [&str; 2] = ["proxy.toml", "/etc/nearkey/proxy.toml"];

/// What a file gave.
#[derive(Default)]
pub(super) struct File {
    /// The file that was used.
    pub(super) path: Option<PathBuf>,
    pub(super) assignments: Vec<Assignment>,
    pub(super) problems: Vec<Problem>,
    /// It could not be read as a whole, so that settings may be missing.
    pub(super) broken: bool,
}

impl File {
    /// Reads the file that the configuration names; it must exist.
    pub(super) fn named(path: &Path, by: &Origin) -> Self {
        match std::fs::read(path) {
            Ok(bytes) => Self::parse(path, bytes),
            Err(error) => Self::failed(Problem::at(
                by,
                format!("cannot read {}: {error}", path.display()),
            )),
        }
    }

    /// Reads the first file of `search` that exists, if any does.
    pub(super) fn search(search: &[&Path]) -> Self {
        for path in search {
            match std::fs::read(path) {
                Ok(bytes) => return Self::parse(path, bytes),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => {
                    return Self::failed(Problem::at(
                        path.display(),
                        format!("cannot be read: {error}"),
                    ));
                }
            }
        }
        Self::default()
    }

    fn parse(path: &Path, bytes: Vec<u8>) -> Self {
        let Ok(text) = String::from_utf8(bytes) else {
            return Self::failed(Problem::at(path.display(), "is not UTF-8 text"));
        };
        let (table, errors) = DeTable::parse_recoverable(&text);
        if !errors.is_empty() {
            return Self::malformed(path, &text, &errors);
        }
        let mut reader = Reader {
            path,
            text: &text,
            assignments: Vec::new(),
            problems: Vec::new(),
        };
        for (key, value) in table.into_inner() {
            reader.section(&key, value);
        }
        Self {
            path: Some(path.to_owned()),
            assignments: in_order(reader.assignments),
            problems: in_order(reader.problems),
            broken: false,
        }
    }

    fn failed(problem: Problem) -> Self {
        Self {
            problems: vec![problem],
            broken: true,
            ..Self::default()
        }
    }

    /// What is not TOML. The parser's own rendering shows the line, which may hold a secret, so
    /// only its message is used; after the first error of a line the rest is mostly consequence.
    fn malformed(path: &Path, text: &str, errors: &[toml::de::Error]) -> Self {
        let mut problems: Vec<(usize, Problem)> = errors
            .iter()
            .map(|error| {
                let line = line_of(text, error.span().map_or(0, |span| span.start));
                let what = format!("not valid TOML: {}", error.message().replace('\n', ", "));
                (line, Problem::at(Origin::file(path, line), what))
            })
            .collect();
        problems.sort_by_key(|(line, _)| *line);
        problems.dedup_by_key(|(line, _)| *line);
        Self {
            path: Some(path.to_owned()),
            assignments: Vec::new(),
            problems: in_order(problems),
            broken: true,
        }
    }
}

/// Collects with line numbers, since the parser's tables are sorted by name and people read by line.
struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
    assignments: Vec<(usize, Assignment)>,
    problems: Vec<(usize, Problem)>,
}

/// A key with its place in the file.
type Key<'a> = Spanned<std::borrow::Cow<'a, str>>;

impl Reader<'_> {
    fn section(&mut self, key: &Key<'_>, value: Spanned<DeValue<'_>>) {
        let line = line_of(self.text, key.span().start);
        let name = key.get_ref();
        let known = SETTINGS.iter().any(|setting| setting.section() == *name);
        if !matches!(value.get_ref(), DeValue::Table(_)) {
            return self.setting(name, line, value);
        }
        match value.into_inner() {
            DeValue::Table(table) if known => {
                for (key, value) in table {
                    let line = line_of(self.text, key.span().start);
                    let key = format!("{name}.{}", key.get_ref());
                    self.setting(&key, line, value);
                }
            }
            _ => {
                let hint = did_you_mean(name, SETTINGS.iter().map(Setting::section));
                let what = format!("unknown section [{}]{hint}", name.escape_debug());
                self.problem(line, what);
            }
        }
    }

    fn setting(&mut self, key: &str, line: usize, value: Spanned<DeValue<'_>>) {
        let Some(setting) = Setting::find(key) else {
            let hint = did_you_mean(key, SETTINGS.iter().map(|setting| setting.key));
            let what = format!("unknown setting {}{hint}", key.escape_debug());
            return self.problem(line, what);
        };
        let assignment = Assignment {
            setting,
            raw: self.raw(value.into_inner()),
            origin: Origin::file(self.path, line),
        };
        self.assignments.push((line, assignment));
    }

    fn raw(&self, value: DeValue<'_>) -> Raw {
        match value {
            DeValue::String(text) => Raw::Text(text.into_owned()),
            DeValue::Boolean(value) => Raw::Boolean(value),
            DeValue::Integer(number) => {
                let number = i64::from_str_radix(number.as_str(), number.radix());
                number.map_or(Raw::Other("a number too large"), Raw::Integer)
            }
            DeValue::Float(number) => Raw::Float(number.as_str().to_owned()),
            DeValue::Array(items) => match strings(&items) {
                Some(texts) => Raw::List(texts),
                None => self.tables(items),
            },
            DeValue::Datetime(_) => Raw::Other("a date"),
            DeValue::Table(_) => Raw::Other("a table"),
        }
    }

    fn tables(&self, items: DeArray<'_>) -> Raw {
        let mut tables = Vec::new();
        for item in items {
            let origin = self.origin(item.span().start);
            let DeValue::Table(table) = item.into_inner() else {
                return Raw::Other("a mixed list");
            };
            tables.push(self.table(origin, table));
        }
        Raw::Tables(tables)
    }

    fn table(&self, origin: Origin, table: DeTable<'_>) -> Table {
        let mut entries: Vec<(usize, Entry)> = table
            .into_iter()
            .map(|(key, value)| {
                let at = key.span().start;
                let entry = Entry {
                    name: key.get_ref().to_string(),
                    raw: self.raw(value.into_inner()),
                    origin: Some(self.origin(at)),
                };
                (at, entry)
            })
            .collect();
        entries.sort_by_key(|(at, _)| *at);
        Table {
            origin: Some(origin),
            entries: entries.into_iter().map(|(_, entry)| entry).collect(),
        }
    }

    fn origin(&self, at: usize) -> Origin {
        Origin::file(self.path, line_of(self.text, at))
    }

    fn problem(&mut self, line: usize, what: String) {
        let problem = Problem::at(Origin::file(self.path, line), what);
        self.problems.push((line, problem));
    }
}

fn in_order<T>(mut items: Vec<(usize, T)>) -> Vec<T> {
    items.sort_by_key(|(line, _)| *line);
    items.into_iter().map(|(_, item)| item).collect()
}

fn strings(items: &DeArray<'_>) -> Option<Vec<String>> {
    items
        .iter()
        .map(|item| item.get_ref().as_str().map(str::to_owned))
        .collect()
}

fn line_of(text: &str, at: usize) -> usize {
    let before = text.as_bytes().get(..at).unwrap_or(text.as_bytes());
    1 + before.iter().filter(|byte| **byte == b'\n').count()
}
