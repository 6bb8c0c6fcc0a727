//! The environment: the process's own or a test's, and the `NEARKEY_` variables in it.

use std::collections::BTreeMap;
use std::ffi::OsString;

use super::Assignment;
use super::kind::Raw;
use super::nearest::did_you_mean;
use super::problem::{Origin, Problem};
use super::table::{SETTINGS, Setting};

/// Names the file, so it is not a setting itself.
pub(super) const CONFIG: &str = "NEARKEY_CONFIG";

const PREFIX: &str = "NEARKEY_";

/// A set of environment variables.
pub trait Strings {
    /// The value of a variable.
    fn get(&self, name: &str) -> Option<OsString>;

    /// The names of all variables.
    fn names(&self) -> Vec<String>;
}

/// The environment of this process.
pub struct ProcessEnv;

/// What plants mistakes in builds for tests.
const PLANTED: [&str; 2] = ["NEARKEY_SABOTAGE", "NEARKEY_PANIC"];

impl Strings for ProcessEnv {
    fn get(&self, name: &str) -> Option<OsString> {
        std::env::var_os(name)
    }

    fn names(&self) -> Vec<String> {
        let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
        names.collect()
    }
}

impl Strings for BTreeMap<String, String> {
    fn get(&self, name: &str) -> Option<OsString> {
        self.get(name).map(OsString::from)
    }

    fn names(&self) -> Vec<String> {
        self.keys().cloned().collect()
    }
}

/// Reads variables as text and keeps what is wrong with them.
pub(super) struct Reader<'a> {
    env: &'a dyn Strings,
    pub(super) problems: Vec<Problem>,
}

impl<'a> Reader<'a> {
    /// A reader of `env`.
    pub(super) fn new(env: &'a dyn Strings) -> Self {
        Self {
            env,
            problems: Vec::new(),
        }
    }

    /// The value of a variable. An empty one counts as not set, since templates such as
    /// `REDIS_PASSWORD=${PASSWORD:-}` leave them behind.
    pub(super) fn get(&mut self, name: &str) -> Option<String> {
        let value = self.env.get(name).filter(|value| !value.is_empty())?;
        match value.into_string() {
            Ok(text) => Some(text),
            Err(_) => {
                let origin = Origin::env(name);
                self.problems
                    .push(Problem::at(&origin, "is not UTF-8 text"));
                None
            }
        }
    }

    /// The settings given as `NEARKEY_SECTION__KEY`; other names with the prefix are misspelt.
    pub(super) fn nearkey(&mut self) -> Vec<Assignment> {
        let mut names = self.env.names();
        names.retain(|name| name.starts_with(PREFIX) && name != CONFIG);
        names.sort();
        let mut assignments = Vec::new();
        for name in names {
            match SETTINGS.iter().find(|setting| setting.env_name() == name) {
                Some(setting) => assignments.extend(self.assignment(setting, &name)),
                None if self.is_service_link(&name) => {}
                // Only builds that plant faults know it.
                None if cfg!(feature = "sabotage") && PLANTED.contains(&name.as_str()) => {}
                None => self.unknown(&name),
            }
        }
        assignments
    }

    fn assignment(&mut self, setting: &'static Setting, name: &str) -> Option<Assignment> {
        let raw = Raw::Plain(self.get(name)?);
        Some(Assignment {
            setting,
            raw,
            origin: Origin::env(name),
        })
    }

    fn unknown(&mut self, name: &str) {
        let known: Vec<String> = SETTINGS.iter().map(Setting::env_name).collect();
        let hint = did_you_mean(name, known.iter().map(String::as_str));
        let what = format!("unknown variable{hint}");
        self.problems.push(Problem::at(Origin::env(name), what));
    }

    /// Kubernetes gives every pod variables for each Service of its namespace. A Service called
    /// `nearkey` makes names with our prefix (`NEARKEY_SERVICE_HOST`, `NEARKEY_PORT=tcp://..`,
    /// `NEARKEY_PORT_6379_TCP_ADDR`), which say nothing to us.
    fn is_service_link(&mut self, name: &str) -> bool {
        let digit = |rest: &str| rest.starts_with(|c: char| c.is_ascii_digit());
        let url = |value: String| value.starts_with("tcp://") || value.starts_with("udp://");
        !name.contains("__")
            && (name.ends_with("_SERVICE_HOST")
                || name.contains("_SERVICE_PORT")
                || name.split("_PORT_").skip(1).any(digit)
                || (name.ends_with("_PORT") && self.get(name).is_some_and(url)))
    }
}
