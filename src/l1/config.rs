//! Settings of L1 (`[cache]`, `[[cache.rules]]` and `[cost]`).

use std::time::Duration;

/// Settings of L1 (`[cache]`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// How L1 keeps coherent, if at all.
    pub mode: Mode,
    /// What happens to keys that no rule matches.
    pub default: Verb,
    /// A hit needs a round trip on the tracked connection that began within this time.
    pub lease: Duration,
    /// Bound on the memory of all entries.
    pub max_bytes: usize,
    /// Replies above this many bytes are not kept.
    pub max_value: usize,
    /// No entry is used for longer.
    pub max_age: Duration,
    /// Nor one that says a key is missing.
    pub absent_age: Duration,
    /// Which keys a script may reach.
    pub scripts: Scripts,
    /// Names of keys are shown as hashes.
    pub hash_key_names: bool,
    /// The first that matches a key decides.
    pub rules: Vec<Rule>,
    /// Prices, where the operator has stated them (`[cost]`).
    pub cost: Cost,
}

/// How L1 keeps coherent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// There is no L1.
    Off,
    /// L1 only counts what it would save.
    Observe,
    /// By age alone, for rules that name a `ttl`.
    Ttl,
    /// By the server's invalidation pushes, or not at all.
    Tracking,
    /// By pushes where the server has them, else by age for rules that name a `ttl`.
    Auto,
}

/// What happens to the keys of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// They may be kept.
    Cache,
    /// They are not.
    Bypass,
}

/// Which keys a script may reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scripts {
    /// Those it declares, as Redis asks of scripts.
    Declared,
    /// Any: a script that may write empties L1.
    Any,
}

/// What holds for keys of a pattern (`[[cache.rules]]`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// A glob in Redis's words: `*`, `?`, `[a-z]`, `\`.
    pub pattern: Vec<u8>,
    /// What happens to them.
    pub verb: Verb,
    /// Another mode than that of all: `observe`, `ttl` or `tracking`.
    pub mode: Option<Mode>,
    /// How old an entry may get where no push ends it.
    pub ttl: Option<Duration>,
    /// Instead of [`Config::max_age`].
    pub max_age: Option<Duration>,
    /// Instead of [`Config::max_value`].
    pub max_value: Option<usize>,
    /// Serve what is known for this long after it ceased to be good while the server is unreachable.
    pub stale_if_down: Option<Duration>,
}

/// What the provider charges, in millionths of the operator's currency; zero if not stated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// For 100,000 commands.
    pub per_100k_commands: u64,
    /// For 10^9 bytes of traffic.
    pub per_gb: u64,
}

impl Config {
    /// No key can ever be kept or observed: L1 costs nothing.
    pub fn is_inert(&self) -> bool {
        let caches = |rule: &Rule| rule.verb == Verb::Cache;
        self.mode == Mode::Off
            || (self.default == Verb::Bypass
                && !self.rules.iter().any(caches)
                && self.mode != Mode::Observe)
    }

    /// How long anything that is kept may be of use.
    pub fn longest_life(&self) -> Duration {
        let of = |rule: &Rule| {
            let age = rule.max_age.unwrap_or(self.max_age);
            age.max(rule.ttl.unwrap_or_default()) + rule.stale_if_down.unwrap_or_default()
        };
        self.rules.iter().map(of).fold(self.max_age, Duration::max)
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mode: Mode::Auto,
            default: Verb::Bypass,
            lease: Duration::from_secs(1),
            max_bytes: 64 << 20,
            max_value: 256 << 10,
            max_age: Duration::from_secs(30),
            absent_age: Duration::from_secs(1),
            scripts: Scripts::Any,
            hash_key_names: false,
            rules: Vec::new(),
            cost: Cost::default(),
        }
    }
}
