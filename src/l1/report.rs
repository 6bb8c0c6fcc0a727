//! What L1 is doing, in numbers and words: for metrics, `/health`, and those who ask over the Redis port.
//!
//! Names of keys leave this file cut, escaped and, if `cache.hash_key_names` says so, as hashes; values
//! never do.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::clock::Now;
use super::config::{Config, Mode, Verb};
use super::entry::{Entry, Scope};
use super::hot::{self, By, HotKey};
pub use super::names::{hashed, name_of, shown};
use super::reader::may_serve_stale;
use super::rules::Terms;
use super::savings::{Savings, Usage};
use super::store::Counts;
use super::tracker::{Standing, Tracker};
use super::{L1, config};
use crate::stats::{BUCKETS, Counter, Counters, WorkerStats};

/// Most hot keys that are listed.
pub const MAX_HOT: usize = 512;

/// Hot keys that are listed where nobody says how many.
pub const DEFAULT_HOT: usize = 20;

const NO_L1: &str =
    "cache.mode is \"off\", or neither a rule nor cache.default lets any key be kept";

const OPENING: &str = "its connection is being opened";

const NO_PUSHES: &str = "the server sends no invalidations";

/// What L1 is doing, seen by whoever asks.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    l1: Option<&'a L1>,
    workers: &'a [Arc<WorkerStats>],
}

/// What keeps L1 coherent at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InForce {
    /// Nothing is kept.
    Off,
    /// Nothing is served, only counted.
    Observe,
    /// Nobody knows yet: no connection has been needed, or it is being opened.
    Waiting,
    /// The age that rules name.
    Ttl,
    /// The server's pushes.
    Tracking,
}

/// One number or word of a report.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// How many.
    Count(u64),
    /// How many, perhaps less than none.
    Signed(i64),
    /// A quantity.
    Real(f64),
    /// Words.
    Text(String),
    /// There is nothing to say.
    Unknown,
}

impl InForce {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Off,
        Self::Observe,
        Self::Waiting,
        Self::Ttl,
        Self::Tracking,
    ];

    /// The word used in metrics, `/health` and STATS.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Observe => "observe",
            Self::Waiting => "waiting",
            Self::Ttl => "ttl",
            Self::Tracking => "tracking",
        }
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Signed(count) => write!(f, "{count}"),
            Self::Real(real) => write!(f, "{real}"),
            Self::Text(text) => f.write_str(text),
            Self::Unknown => Ok(()),
        }
    }
}

impl<'a> Report<'a> {
    /// A report about this L1, or that there is none, with the counters of all workers.
    pub fn new(l1: Option<&'a L1>, workers: &'a [Arc<WorkerStats>]) -> Self {
        Self { l1, workers }
    }

    /// One counter, summed over the workers.
    pub fn sum(&self, counter: impl Fn(&Counters) -> &Counter) -> u64 {
        let values = self.workers.iter().map(|w| counter(&w.counters).get());
        values.fold(0, u64::wrapping_add)
    }

    /// The configured mode.
    pub fn configured(&self) -> &'static str {
        self.l1.map_or("off", |l1| mode_word(l1.config().mode))
    }

    /// What is in force, and why it is no more than that; no words where all connections track.
    pub fn in_force(&self) -> (InForce, String) {
        let Some(l1) = self.l1 else {
            return (InForce::Off, NO_L1.to_owned());
        };
        let trackers = l1.trackers();
        let any = |standing| trackers.iter().find(|t| t.standing() == standing);
        if any(Standing::Tracking).is_some() {
            (InForce::Tracking, untracked(&trackers))
        } else if let Some(tracker) = any(Standing::Timed) {
            timed(&l1.config(), &tracker.reason())
        } else if let Some(reason) = trackers.iter().map(|t| t.reason()).find(|r| !r.is_empty()) {
            // Between two attempts it is closed; what the latest came to still holds.
            let stale = l1
                .config()
                .rules
                .iter()
                .any(|rule| rule.stale_if_down.is_some());
            match has_ttl(&l1.config()) {
                _ if stale => {
                    let why = format!("{reason}; while the server is away, stale_if_down holds");
                    (InForce::Waiting, why)
                }
                true => (InForce::Waiting, reason),
                false => (InForce::Off, reason),
            }
        } else if any(Standing::Opening).is_some() {
            (InForce::Waiting, OPENING.to_owned())
        } else if l1.observes() {
            let why = "cache.mode is \"observe\": nothing is served from memory";
            (InForce::Observe, why.to_owned())
        } else {
            let why = "no key has been read often enough lately to open a connection for it";
            (InForce::Waiting, why.to_owned())
        }
    }

    /// Entries held, about.
    pub fn entries(&self) -> u64 {
        self.l1.map_or(0, |l1| l1.store.len())
    }

    /// Bytes of memory in use by them, about.
    pub fn bytes(&self) -> u64 {
        self.l1.map_or(0, |l1| l1.store.bytes())
    }

    /// What became of entries.
    pub fn kept(&self) -> Counts {
        self.l1.map(|l1| l1.store.counts()).unwrap_or_default()
    }

    /// Bound on those bytes.
    pub fn max_bytes(&self) -> u64 {
        self.l1.map_or(0, |l1| l1.config().max_bytes as u64)
    }

    /// Connections for L1 that stand like this.
    pub fn connections(&self, standing: Standing) -> u64 {
        let trackers = self.l1.map(L1::trackers).unwrap_or_default();
        trackers.iter().filter(|t| t.standing() == standing).count() as u64
    }

    /// Of the reads that L1 might have answered, how many it did; `None` without such reads.
    pub fn hit_ratio(&self) -> Option<f64> {
        let (hits, misses) = (self.sum(|c| &c.l1_hits), self.sum(|c| &c.l1_misses));
        (hits + misses > 0).then(|| hits as f64 / (hits + misses) as f64)
    }

    /// What was saved so far.
    pub fn savings(&self) -> Savings {
        self.usage().savings(self.cost())
    }

    /// What would have been, of reads that L1 only observed.
    pub fn unused(&self) -> Savings {
        let usage = Usage {
            hits: self.sum(|c| &c.l1_observed_hits),
            // Two commands beside each read that is fetched.
            overhead_commands: 2 * self.sum(|c| &c.l1_observed_fills),
            round_trip: self.round_trip(),
            ..Usage::default()
        };
        usage.savings(self.cost())
    }

    /// Whether prices are stated.
    pub fn has_prices(&self) -> bool {
        self.cost() != config::Cost::default()
    }

    fn cost(&self) -> config::Cost {
        self.l1.map(|l1| l1.config().cost).unwrap_or_default()
    }

    fn usage(&self) -> Usage {
        Usage {
            hits: self.sum(|c| &c.l1_hits),
            hit_bytes: self.sum(|c| &c.l1_hit_bytes),
            joins: self.sum(|c| &c.l1_joins),
            overhead_commands: self.sum(|c| &c.l1_overhead_commands),
            overhead_bytes: self.sum(|c| &c.l1_overhead_bytes),
            round_trip: self.round_trip(),
        }
    }

    /// What a command waits for the server, on average.
    fn round_trip(&self) -> Duration {
        let trips = self.workers.iter().map(|worker| &worker.round_trip);
        let (mut count, mut sum_us) = (0_u64, 0_u64);
        for trip in trips {
            count += (0..BUCKETS).map(|i| trip.bucket(i)).sum::<u64>();
            sum_us = sum_us.saturating_add(trip.sum_us());
        }
        Duration::from_micros(sum_us.checked_div(count).unwrap_or(0))
    }

    /// Everything but keys, by name: the counters under the names that metrics have, too.
    pub fn rows(&self) -> Vec<(&'static str, Cell)> {
        let (mode, why) = self.in_force();
        let mut rows = vec![
            ("mode", Cell::Text(mode.as_str().to_owned())),
            ("configured", Cell::Text(self.configured().to_owned())),
            ("why", Cell::Text(why)),
            ("entries", Cell::Count(self.entries())),
            ("bytes", Cell::Count(self.bytes())),
            ("max_bytes", Cell::Count(self.max_bytes())),
            (
                "hit_ratio",
                self.hit_ratio().map_or(Cell::Unknown, Cell::Real),
            ),
        ];
        let kept = self.kept();
        rows.extend([
            ("evictions", Cell::Count(kept.evictions)),
            ("swept", Cell::Count(kept.swept)),
            ("dropped", Cell::Count(kept.dropped)),
        ]);
        let counts = COUNTS.iter();
        rows.extend(counts.map(|(name, pick)| (*name, Cell::Count(self.sum(pick)))));
        let (saved, unused) = (self.savings(), self.unused());
        let money = |money: Option<i64>| money.map_or(Cell::Unknown, |m| Cell::Real(units(m)));
        rows.extend([
            ("saved_commands", Cell::Signed(saved.commands)),
            ("saved_bytes", Cell::Signed(saved.bytes)),
            ("saved_seconds", Cell::Real(saved.waiting.as_secs_f64())),
            ("saved_money", money(saved.money)),
            ("would_save_commands", Cell::Signed(unused.commands)),
            (
                "would_save_seconds",
                Cell::Real(unused.waiting.as_secs_f64()),
            ),
            ("would_save_money", money(unused.money)),
        ]);
        let standings = STANDINGS.iter();
        rows.extend(standings.map(|(name, s)| (*name, Cell::Count(self.connections(*s)))));
        rows
    }

    /// The hottest keys.
    pub fn hot_keys(&self, by: By, top: usize) -> Vec<HotKey> {
        let views = self.l1.map(L1::views).unwrap_or_default();
        hot::merge(views.iter().map(hot::HotView::snapshot), by, top)
    }
}

type Pick = fn(&Counters) -> &Counter;

/// The counters of a report, by name.
const COUNTS: &[(&str, Pick)] = &[
    ("hits", |c| &c.l1_hits),
    ("hit_bytes", |c| &c.l1_hit_bytes),
    ("misses", |c| &c.l1_misses),
    ("joins", |c| &c.l1_joins),
    ("fetches", |c| &c.l1_fetches),
    ("fetched", |c| &c.l1_fetched),
    ("fills", |c| &c.l1_fills),
    ("fills_rejected_moved", |c| &c.l1_fills_moved),
    ("fills_rejected_large", |c| &c.l1_fills_large),
    ("fills_rejected_unfit", |c| &c.l1_fills_unfit),
    ("bypass_rule", |c| &c.l1_bypass_rule),
    ("bypass_pipeline", |c| &c.l1_bypass_pipeline),
    ("bypass_waste", |c| &c.l1_bypass_waste),
    ("bypass_down", |c| &c.l1_bypass_down),
    ("stale_hits", |c| &c.l1_stale_hits),
    ("observed_hits", |c| &c.l1_observed_hits),
    ("pushes", |c| &c.l1_pushes),
    ("pushed_keys", |c| &c.l1_pushed_keys),
    ("flushes", |c| &c.l1_flushes),
    ("overhead_commands", |c| &c.l1_overhead_commands),
    ("overhead_bytes", |c| &c.l1_overhead_bytes),
];

const STANDINGS: [(&str, Standing); 4] = [
    ("connections_tracking", Standing::Tracking),
    ("connections_timed", Standing::Timed),
    ("connections_opening", Standing::Opening),
    ("connections_closed", Standing::Closed),
];

fn mode_word(mode: Mode) -> &'static str {
    match mode {
        Mode::Off => "off",
        Mode::Observe => "observe",
        Mode::Ttl => "ttl",
        Mode::Tracking => "tracking",
        Mode::Auto => "auto",
    }
}

/// Beside connections that track: how many do not, and why, as a user without the right may not.
fn untracked(trackers: &[Arc<Tracker>]) -> String {
    let fails = |tracker: &&Arc<Tracker>| {
        tracker.standing() != Standing::Tracking && !tracker.reason().is_empty()
    };
    let failing: Vec<_> = trackers.iter().filter(fails).collect();
    match failing.first() {
        None => String::new(),
        Some(first) => {
            let (some, all) = (failing.len(), trackers.len());
            format!(
                "not for {some} of {all} users and databases: {}",
                first.reason()
            )
        }
    }
}

/// Without pushes: what is left, and why.
fn timed(config: &Config, reason: &str) -> (InForce, String) {
    let why = match config.mode {
        Mode::Ttl => "cache.mode is \"ttl\"",
        _ if reason.is_empty() => NO_PUSHES,
        _ => reason,
    };
    if has_ttl(config) {
        (InForce::Ttl, why.to_owned())
    } else {
        let why = format!("{why}, and no rule names a ttl to use without them");
        (InForce::Off, why)
    }
}

/// A rule names how long its keys are good without pushes.
fn has_ttl(config: &Config) -> bool {
    config.rules.iter().any(|rule| {
        let mode = rule.mode.unwrap_or(config.mode);
        rule.verb == Verb::Cache && rule.ttl.is_some() && mode != Mode::Tracking
    })
}

/// Millionths as units.
pub fn units(millionths: i64) -> f64 {
    millionths as f64 / 1e6
}

impl L1 {
    /// Whether an entry would be served now, and what is to be said of that, or why not.
    ///
    /// # Errors
    /// Why not, in words.
    pub fn check(
        &self,
        entry: &Entry,
        now: Now,
        is_down: bool,
    ) -> Result<&'static str, &'static str> {
        let fresh = entry.timed || entry.tracker.is_fresh(now, self.lease());
        let linked = entry.timed || entry.tracker.link() == entry.link;
        if !self.stands(entry) {
            Err("its key has changed, or may have")
        } else if entry.unfit && !entry.is_expired(now) {
            Err(match entry.reply().is_empty() {
                true => "its reply is longer than max_value",
                false => "its reply is an error",
            })
        } else if entry.terms.mode == Mode::Observe {
            Err("the mode is \"observe\": nothing is served from memory")
        } else if !fresh || !linked || entry.is_expired(now) {
            let is_down = || is_down || entry.tracker.is_stuck(now, self.lease());
            match may_serve_stale(entry, now, is_down) {
                true => Ok("beyond its time: the server cannot be reached (stale_if_down)"),
                false => Err(overdue(linked, entry.is_expired(now))),
            }
        } else {
            Ok("")
        }
    }

    /// Why a key without an entry has none.
    pub fn why_not(&self, scope: Scope, key: &[u8], workers: &[Arc<WorkerStats>]) -> String {
        let rules = self.rules();
        let terms = rules.of(key);
        if !terms.cache || terms.mode == Mode::Off {
            return match terms.rule {
                Some(_) => "its rule says \"bypass\"".to_owned(),
                None => "no rule matches it, and cache.default is \"bypass\"".to_owned(),
            };
        }
        let trackers = self.trackers();
        let own = trackers.iter().find(|tracker| tracker.scope == scope);
        if let Some(why) = own.and_then(|tracker| unkept(tracker, terms)) {
            return why;
        }
        let hash = self.stamps.hash(key);
        let report = Report::new(Some(self), workers);
        let hot = report.hot_keys(By::Reads, usize::MAX);
        let known = hot.iter().find(|hot| hot.key_hash == hash);
        match known.and_then(|known| known.why_not) {
            Some(reason) => reason.to_string(),
            None => "it was not read twice lately, or its reply could not be kept".to_owned(),
        }
    }
}

/// Why an entry is served no longer of which nothing worse is known.
fn overdue(linked: bool, is_expired: bool) -> &'static str {
    if !linked {
        "the connection that would have told of changes was lost"
    } else if is_expired {
        "it is too old"
    } else {
        "nothing was heard from the server within cache.lease; the next read finds out"
    }
}

/// Why a connection gets nothing for these terms.
fn unkept(tracker: &Tracker, terms: &Terms) -> Option<String> {
    let reason = tracker.reason();
    let no_pushes = || match reason.is_empty() {
        true => NO_PUSHES.to_owned(),
        false => reason.clone(),
    };
    match tracker.standing() {
        Standing::Tracking => None,
        Standing::Timed if terms.mode == Mode::Tracking => Some(no_pushes()),
        Standing::Timed if terms.ttl.is_none() => {
            Some(format!("{}, and its rule names no ttl", no_pushes()))
        }
        Standing::Timed => None,
        Standing::Opening if reason.is_empty() => Some(OPENING.to_owned()),
        Standing::Opening | Standing::Closed => (!reason.is_empty()).then_some(reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::CommandTable;

    fn l1(config: Config) -> Arc<L1> {
        L1::new(config, &CommandTable::builtin()).expect("keys may be kept")
    }

    fn caching(mode: Mode) -> Config {
        Config {
            mode,
            default: Verb::Cache,
            ..Config::default()
        }
    }

    fn with_ttl(mode: Mode) -> Config {
        let rule = config::Rule {
            pattern: b"*".to_vec(),
            verb: Verb::Cache,
            mode: None,
            ttl: Some(Duration::from_secs(5)),
            max_age: None,
            max_value: None,
            stale_if_down: None,
        };
        Config {
            rules: vec![rule],
            ..caching(mode)
        }
    }

    fn in_force(l1: &L1) -> (InForce, String) {
        Report::new(Some(l1), &[]).in_force()
    }

    #[test]
    fn the_mode_in_force_follows_the_connections_and_says_why() {
        assert_eq!(Report::new(None, &[]).in_force().0, InForce::Off);
        let tracked = l1(caching(Mode::Auto));
        assert_eq!(in_force(&tracked).0, InForce::Waiting);
        let tracker = tracked.tracker(Scope::default());
        tracker.set_standing(Standing::Opening, None);
        assert_eq!(in_force(&tracked).0, InForce::Waiting);
        tracker.set_standing(Standing::Timed, Some("no CLIENT TRACKING"));
        let (mode, why) = in_force(&tracked);
        assert_eq!(mode, InForce::Off);
        assert_eq!(
            why,
            "no CLIENT TRACKING, and no rule names a ttl to use without them"
        );
        tracker.set_standing(Standing::Closed, None);
        let refused = (InForce::Off, "no CLIENT TRACKING".to_owned());
        assert_eq!(in_force(&tracked), refused, "between two attempts");
        tracker.set_standing(Standing::Tracking, Some(""));
        assert_eq!(in_force(&tracked), (InForce::Tracking, String::new()));

        let bob = Scope {
            db: 1,
            ..Scope::default()
        };
        tracked
            .tracker(bob)
            .set_standing(Standing::Closed, Some("NOPERM"));
        let (mode, why) = in_force(&tracked);
        assert_eq!(mode, InForce::Tracking, "for some");
        assert_eq!(why, "not for 1 of 2 users and databases: NOPERM");

        for (mode, expected) in [
            (Mode::Auto, InForce::Ttl),
            (Mode::Ttl, InForce::Ttl),
            (Mode::Tracking, InForce::Off),
        ] {
            let timed = l1(with_ttl(mode));
            timed
                .tracker(Scope::default())
                .set_standing(Standing::Timed, None);
            assert_eq!(in_force(&timed).0, expected, "{mode:?}");
        }
        assert_eq!(in_force(&l1(caching(Mode::Observe))).0, InForce::Observe);
    }

    #[test]
    fn savings_are_hits_at_the_mean_round_trip_less_overhead() {
        let mut config = caching(Mode::Auto);
        config.cost.per_100k_commands = 200_000;
        let (l1, stats) = (l1(config), Arc::new(WorkerStats::default()));
        stats.counters.l1_hits.add(200_000);
        stats.counters.l1_misses.add(50_000);
        stats.counters.l1_hit_bytes.add(9_000);
        stats.counters.l1_overhead_commands.add(100_000);
        stats.counters.l1_overhead_bytes.add(1_000);
        stats.round_trip.record(Duration::from_millis(1), 1);
        stats.round_trip.record(Duration::from_millis(3), 1);
        let workers = [stats];
        let report = Report::new(Some(&l1), &workers);
        let saved = report.savings();
        assert_eq!((saved.commands, saved.bytes), (100_000, 8_000));
        assert_eq!(saved.waiting, Duration::from_secs(400));
        assert_eq!(saved.money, Some(200_000));
        assert_eq!(report.hit_ratio(), Some(0.8));
        let rows = report.rows();
        assert!(rows.contains(&("saved_money", Cell::Real(0.2))), "{rows:?}");
        assert!(rows.contains(&("hits", Cell::Count(200_000))));
    }

    #[test]
    fn an_l1_that_only_observes_tells_what_it_would_save() {
        let (l1, stats) = (l1(caching(Mode::Observe)), Arc::new(WorkerStats::default()));
        stats.counters.l1_observed_hits.add(7);
        let workers = [stats];
        let report = Report::new(Some(&l1), &workers);
        assert_eq!(
            (report.unused().commands, report.savings().commands),
            (7, 0)
        );
        assert_eq!(report.hit_ratio(), None);
        assert!(report.rows().contains(&("saved_money", Cell::Unknown)));
    }

    #[test]
    fn a_key_without_an_entry_has_a_reason() {
        let scope = Scope::default();
        let mut config = with_ttl(Mode::Auto);
        config.default = Verb::Bypass;
        config.rules[0].pattern = b"p:*".to_vec();
        let l1 = l1(config);
        assert!(
            l1.why_not(scope, b"k", &[])
                .starts_with("no rule matches it")
        );
        assert!(
            l1.why_not(scope, b"p:1", &[])
                .starts_with("it was not read twice")
        );
        let tracker = l1.tracker(scope);
        tracker.set_standing(Standing::Opening, Some("the server refuses"));
        assert_eq!(l1.why_not(scope, b"p:1", &[]), "the server refuses");
        let other = Scope { db: 1, ..scope };
        assert!(
            l1.why_not(other, b"p:1", &[])
                .starts_with("it was not read twice")
        );
    }
}
