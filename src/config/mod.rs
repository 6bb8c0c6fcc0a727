//! Configuration: `proxy.toml`, then environment, then flags; later wins.
//!
//! Two stages. First every source is read as written into a list of assignments to the settings of
//! one table; then they are applied in order and resolved into the layers' own configs. Whatever is
//! wrong is collected on the way, so that one run reports all of it. Secrets are never printed:
//! not by `nearkey config`, not in an error.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cli::{Cli, Flags};
use crate::{admin, downstream, l1, telemetry, upstream};

mod cache;
mod checks;
mod draft;
mod effective;
mod effects;
mod env;
mod examples;
mod file;
mod flags;
mod kind;
mod nearest;
mod problem;
mod redis_env;
mod reference;
mod resolve;
mod rules;
mod schema;
mod table;
mod url;
pub(crate) mod value;

#[cfg(test)]
mod tests;

pub use effective::Effective;
pub use effects::{Effect, changed, effect_of, effects_reference, keep_fixed};
pub use env::{ProcessEnv, Strings};
pub use examples::{EXAMPLES, example};
pub use problem::{ConfigErrors, Problem};
pub use reference::{reference, rules_reference};
pub use schema::schema;

use draft::Draft;
use kind::Raw;
use problem::Origin;
use redis_env::RedisEnv;
use resolve::Resolver;
use table::{SETTINGS, Setting};

/// Everything that can be set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `[listen]`
    pub listen: downstream::Config,
    /// `[upstream]`
    pub upstream: upstream::Config,
    /// `[cache]`, `[[cache.rules]]`, `[cost]`
    pub cache: l1::config::Config,
    /// `[commands]`
    pub commands: Commands,
    /// `[admin]`
    pub admin: admin::Config,
    /// `[log]`
    pub log: telemetry::Config,
    /// `[process]`
    pub process: Process,
}

/// Which commands are refused (`[commands]`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commands {
    /// Upper-case names, `CONTAINER SUBCOMMAND` or `CONTAINER` for all of it.
    pub deny: Vec<String>,
}

/// The process itself (`[process]`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Worker threads; already resolved, never zero.
    pub workers: usize,
    /// Bytes of memory that this process may use; already resolved, 0 is no limit.
    pub memory_limit: usize,
    /// After SIGTERM: how long clients are still accepted while `/ready` says no.
    pub drain_delay: Duration,
    /// After that: how long commands in flight may take.
    pub drain_timeout: Duration,
}

/// A configuration that is whole and valid.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What the program runs with.
    pub config: Config,
    /// The same for people, with origins; `Display` is the output of `nearkey config`.
    pub effective: Effective,
    /// What is allowed but should be known; one line each, for the log.
    pub warnings: Vec<String>,
    /// The file that was read, if one was there.
    pub file: Option<PathBuf>,
}

/// Loads the configuration of this process: its file, its environment, its flags.
///
/// # Errors
///
/// Everything that is wrong, at once; the program ends with exit code 2.
pub fn load_from_process(cli: &Cli) -> Result<Loaded, ConfigErrors> {
    load(&cli.flags, &ProcessEnv, &file::SEARCH.map(Path::new))
}

/// Loads a configuration from the given sources; `search` are the files to look for when neither a
/// flag nor `NEARKEY_CONFIG` names one.
///
/// # Errors
///
/// Everything that is wrong, at once.
pub fn load(flags: &Flags, env: &dyn Strings, search: &[&Path]) -> Result<Loaded, ConfigErrors> {
    let sources = Sources::read(flags, env, search);
    let complete = sources.complete;
    let file = sources.file.clone();
    let mut resolver = sources.apply();
    // Half a file would only add problems that are not there.
    if complete {
        resolver.resolve();
    }
    if !resolver.problems.is_empty() {
        return Err(ConfigErrors::new(resolver.problems));
    }
    let effective = Effective::of(&mut resolver);
    let mut config = resolver.draft.config;
    config.process.workers = resolver.draft.workers;
    Ok(Loaded {
        config,
        effective,
        warnings: resolver.warnings,
        file,
    })
}

/// Where `nearkey healthcheck` finds the admin endpoint: `admin.address`, a wildcard replaced by
/// loopback; `None` where it is off.
///
/// # Errors
///
/// Only what is wrong with that setting: the check must not fail for the proxy's other problems.
pub fn healthcheck_address(cli: &Cli) -> Result<Option<SocketAddr>, ConfigErrors> {
    let search = file::SEARCH.map(Path::new);
    admin_address(&cli.flags, &ProcessEnv, &search)
}

fn admin_address(
    flags: &Flags,
    env: &dyn Strings,
    search: &[&Path],
) -> Result<Option<SocketAddr>, ConfigErrors> {
    let resolver = Sources::read(flags, env, search).apply();
    let mut problems = resolver.problems;
    problems.retain(|problem| problem.key() == Some("admin.address"));
    if !problems.is_empty() {
        return Err(ConfigErrors::new(problems));
    }
    let address = resolver.draft.config.admin.address;
    Ok(address.map(|address| match address.ip() {
        ip if !ip.is_unspecified() => address,
        ip if ip.is_ipv4() => ([127, 0, 0, 1], address.port()).into(),
        _ => (std::net::Ipv6Addr::LOCALHOST, address.port()).into(),
    }))
}

/// `upstream.max_connections` and `upstream.connections` in force.
///
/// # Errors
///
/// Only what is wrong with these: whether a fleet fits can be asked before there is a server.
pub fn upstream_connections(cli: &Cli) -> Result<(usize, usize), ConfigErrors> {
    let search = file::SEARCH.map(Path::new);
    let resolver = Sources::read(&cli.flags, &ProcessEnv, &search).apply();
    let mut problems = resolver.problems;
    let keys = ["upstream.max_connections", "upstream.connections"];
    problems.retain(|problem| problem.key().is_some_and(|key| keys.contains(&key)));
    if !problems.is_empty() {
        return Err(ConfigErrors::new(problems));
    }
    let upstream = resolver.draft.config.upstream;
    Ok((upstream.max_connections, upstream.connections))
}

/// One setting given a value by one source.
struct Assignment {
    setting: &'static Setting,
    raw: Raw,
    origin: Origin,
}

/// All sources as written.
struct Sources {
    /// In order of precedence, the strongest last.
    assignments: Vec<Assignment>,
    redis_env: RedisEnv,
    problems: Vec<Problem>,
    file: Option<PathBuf>,
    /// No source is known to be missing.
    complete: bool,
}

impl Sources {
    fn read(flags: &Flags, env: &dyn Strings, search: &[&Path]) -> Self {
        let mut env = env::Reader::new(env);
        let file = Self::file(flags, &mut env, search);
        let nearkey = env.nearkey();
        let flags = flags::assignments(flags);
        let strong = || nearkey.iter().chain(&flags);
        let upstream_named = strong().any(|assignment| assignment.setting.key == "upstream.url");
        let mut redis_env = redis_env::read(&mut env, upstream_named);

        let mut assignments = file.assignments;
        assignments.append(&mut redis_env.assignments);
        assignments.extend(nearkey);
        assignments.extend(flags);
        let mut problems = file.problems;
        problems.append(&mut env.problems);
        Self {
            assignments,
            redis_env,
            problems,
            file: file.path,
            complete: !file.broken,
        }
    }

    fn file(flags: &Flags, env: &mut env::Reader<'_>, search: &[&Path]) -> file::File {
        let named = env.get(env::CONFIG).map(PathBuf::from);
        match (&flags.config, named) {
            (Some(path), _) => file::File::named(path, &Origin::flag("--config")),
            (None, Some(path)) => file::File::named(&path, &Origin::env(env::CONFIG)),
            (None, None) => file::File::search(search),
        }
    }

    /// Applies defaults and assignments. A wrong value is a problem even where a later one wins.
    fn apply(self) -> Resolver {
        let mut draft = Draft::empty();
        let mut problems = self.problems;
        let mut origins = BTreeMap::new();
        let defaults = SETTINGS.iter().map(|setting| Assignment {
            setting,
            raw: setting.default_value(),
            origin: Origin::default_value(),
        });
        for Assignment {
            setting,
            raw,
            origin,
        } in defaults.chain(self.assignments)
        {
            if let Err(wrong) = setting.kind.set(&mut draft, &raw) {
                let problem = |(place, what): (Option<Origin>, String)| {
                    Problem::of(place.as_ref().unwrap_or(&origin), setting.key, what)
                };
                problems.extend(wrong.0.into_iter().map(problem));
            }
            origins.insert(setting.key, origin);
        }
        Resolver {
            draft,
            origins,
            notes: BTreeMap::new(),
            redis_env: self.redis_env,
            problems,
            warnings: Vec::new(),
        }
    }
}
