//! Where values come from, and what is wrong with them.

use std::fmt;

/// The sources of values; a later one wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Layer {
    Default,
    File,
    RedisEnv,
    Env,
    Flag,
}

/// Where one value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) layer: Layer,
    name: String,
}

impl Origin {
    /// The built-in value.
    pub(super) fn default_value() -> Self {
        Self {
            layer: Layer::Default,
            name: "default".to_owned(),
        }
    }

    /// A line of a file.
    pub(super) fn file(path: &std::path::Path, line: usize) -> Self {
        Self {
            layer: Layer::File,
            name: format!("{}:{line}", path.display()),
        }
    }

    /// A variable such as `REDIS_URL`, which the application may share.
    pub(super) fn redis_env(name: &str) -> Self {
        Self {
            layer: Layer::RedisEnv,
            name: format!("env {name}"),
        }
    }

    /// A `NEARKEY_` variable.
    pub(super) fn env(name: &str) -> Self {
        Self {
            layer: Layer::Env,
            name: format!("env {name}"),
        }
    }

    /// A command-line flag.
    pub(super) fn flag(name: &str) -> Self {
        Self {
            layer: Layer::Flag,
            name: format!("flag {name}"),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// One thing that is wrong: where, which setting, what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    place: Option<String>,
    key: Option<String>,
    what: String,
}

impl Problem {
    /// A problem of one setting's value.
    pub(super) fn of(origin: &Origin, key: &str, what: impl Into<String>) -> Self {
        let written = origin.layer != Layer::Default;
        Self {
            place: written.then(|| origin.to_string()),
            key: Some(key.to_owned()),
            what: what.into(),
        }
    }

    /// A problem of a place that belongs to no known setting.
    pub(super) fn at(place: impl fmt::Display, what: impl Into<String>) -> Self {
        Self {
            place: Some(place.to_string()),
            key: None,
            what: what.into(),
        }
    }

    /// The file and line, variable or flag; empty for a setting that is missing.
    pub fn place(&self) -> &str {
        self.place.as_deref().unwrap_or("")
    }

    /// The setting it is about, if it is one that exists.
    pub fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in [&self.place, &self.key].into_iter().flatten() {
            write!(f, "{part}: ")?;
        }
        f.write_str(&self.what)
    }
}

/// Everything that is wrong with a configuration; prints one line for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(Vec<Problem>);

impl ConfigErrors {
    /// Wraps the problems of one load.
    pub(super) fn new(problems: Vec<Problem>) -> Self {
        Self(problems)
    }

    /// The problems in the order of their sources.
    pub fn problems(&self) -> &[Problem] {
        &self.0
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            let end = if index == 0 { "" } else { "\n" };
            write!(f, "{end}{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}
