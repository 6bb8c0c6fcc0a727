//! L1: replies to reads of hot keys, kept in this process and coherent with the server.
//!
//! # How an entry stays true
//!
//! * A *fill* is ordered on the [tracked connection](tracked) together with the key's remaining life, so
//!   that the server will push when the key changes; pushes and replies come in the order in which things
//!   happened there. Before it is ordered the key's [stamp](stamps) is armed; what may change the key, and
//!   what shows a newer value of it, touches the stamp, and the fill or entry is good no more.
//! * Our own commands touch the stamps of what they write when they are sent, and of all they write or read
//!   past L1 when their reply has come, before it is handed on.
//! * A *hit* needs a round trip on the tracked connection within `cache.lease`: what the server wrote before
//!   that has been pushed by then.
//!
//! From this follows that a client reads what clients of this proxy have written, never older than it
//! has read, never past the key's expiry, and never older than the lease. What is not promised: the writes
//! of others within the delay of their push.
//!
//! [`reader`] is what a worker's sessions ask; [`tracked`] is what is said and heard on the connection.
//! Nothing in here does I/O.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};

pub mod ask;
pub mod clock;
pub mod config;
pub mod entry;
pub mod fetch;
pub mod front;
pub mod hot;
mod keeper;
#[cfg(test)]
mod memory_tests;
#[cfg(test)]
mod model;
mod names;
pub mod reader;
mod reason;
pub mod render;
pub mod report;
pub mod rules;
pub mod savings;
pub mod shape;
pub mod sketch;
pub mod stamps;
pub mod store;
pub mod touched;
pub mod tracked;
pub mod tracker;
mod watched;

use self::clock::Clock;
use self::config::{Config, Mode};
use self::entry::{Entry, Scope};
use self::hot::HotView;
use self::rules::Rules;
use self::shape::Shapes;
use self::sketch::Sketch;
use self::stamps::{Place, Stamps};
use self::store::Store;
use self::touched::Touched;
use self::tracker::{Standing, Tracker};
use crate::commands::{CommandId, CommandTable, Spec};
use crate::resp::Protocol;

/// What coherence rests on, each by itself. The model and the checker leave one out at a time and must
/// then find something wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// What moved since a fill was ordered makes its answer no entry.
    Stamps,
    /// A push touches its keys.
    Pushes,
    /// A null push touches everything.
    NullPushes,
    /// A write touches its keys when it is sent.
    SentWrites,
    /// And when its reply has come, before that is handed on.
    AnsweredWrites,
    /// Writes of unknown keys touch everything.
    UnknownWrites,
    /// A session with anything in flight gets no hit.
    StrictPipeline,
    /// Who joins a fetch needs its stamp to stand.
    VersionedJoin,
    /// A value shown past L1 touches its key.
    Shown,
    /// A hit needs a recent round trip.
    Lease,
    /// A lost connection ends what was filled over it.
    LostLink,
    /// No entry outlives its key.
    Expiry,
    /// Database and identity are part of an entry's name.
    Scope,
}

#[cfg(feature = "sabotage")]
impl Rule {
    const ALL: [Self; 13] = [
        Self::Stamps,
        Self::Pushes,
        Self::NullPushes,
        Self::SentWrites,
        Self::AnsweredWrites,
        Self::UnknownWrites,
        Self::StrictPipeline,
        Self::VersionedJoin,
        Self::Shown,
        Self::Lease,
        Self::LostLink,
        Self::Expiry,
        Self::Scope,
    ];
}

/// L1 as all threads of the process share it.
#[derive(Debug)]
pub struct L1 {
    /// Settings; a reload replaces them.
    config: ArcSwap<Config>,
    /// What holds for which keys.
    rules: ArcSwap<Rules>,
    /// `cache.lease` in microseconds, for hits.
    lease: AtomicU64,
    /// Which reads it holds.
    pub shapes: Shapes,
    /// Whether keys may have changed.
    pub stamps: Arc<Stamps>,
    /// Entries.
    pub store: Store,
    /// Which reads were seen before.
    pub sketch: Sketch,
    /// The time.
    pub clock: Clock,
    trackers: Mutex<HashMap<Scope, Arc<Tracker>>>,
    /// The hot keys of each worker.
    views: Mutex<Vec<HotView>>,
    /// MGET, and GET, of which it is made.
    mget: CommandId,
    get: CommandId,
    #[cfg(any(test, feature = "sabotage"))]
    left_out: Option<Rule>,
}

impl L1 {
    /// An empty L1; `None` if these settings never make use of one.
    pub fn new(config: Config, table: &CommandTable) -> Option<Arc<Self>> {
        (!config.is_inert()).then(|| Arc::new(Self::build(config, table)))
    }

    /// [`L1::new`] without the rule of this name, for tests that must notice: `stamps`, `null_pushes`.
    ///
    /// # Errors
    /// There is no such rule.
    #[cfg(feature = "sabotage")]
    pub fn sabotaged(
        config: Config,
        table: &CommandTable,
        name: &str,
    ) -> Result<Arc<Self>, String> {
        let named = |rule: &&Rule| format!("{rule:?}").eq_ignore_ascii_case(&name.replace('_', ""));
        let rule = Rule::ALL.iter().find(named);
        let mut l1 = Self::build(config, table);
        l1.left_out = Some(*rule.ok_or_else(|| format!("no rule of L1 is called '{name}'"))?);
        Ok(Arc::new(l1))
    }

    /// An L1 that does not keep one of the rules, or keeps all, for tests that must notice.
    #[cfg(test)]
    pub(crate) fn without(config: Config, table: &CommandTable, rule: Option<Rule>) -> Arc<Self> {
        let mut l1 = Self::build(config, table);
        l1.left_out = rule;
        l1.store.insert_at_once();
        Arc::new(l1)
    }

    /// Back to the beginning, as far as these keys are concerned. Only how often reads were seen is kept.
    #[cfg(test)]
    pub(crate) fn forget(&mut self, keys: &[&str]) {
        self.store.empty();
        for key in keys {
            self.stamps.forget(key.as_bytes());
        }
        self.trackers = Mutex::default();
        self.views = Mutex::default();
    }

    fn build(config: Config, table: &CommandTable) -> Self {
        let max_bytes = config.max_bytes;
        let config = fitted(config, max_bytes);
        let id = |name: &[u8]| table.lookup(name).map(Spec::id).unwrap_or_default();
        let stamps = Arc::new(Stamps::new(config.longest_life()));
        let clock = Clock::default();
        Self {
            mget: id(b"MGET"),
            get: id(b"GET"),
            rules: ArcSwap::from_pointee(Rules::new(&config)),
            shapes: Shapes::new(table),
            store: Store::new(config.max_bytes, stamps.clone(), clock),
            stamps,
            sketch: Sketch::new(config.max_age),
            clock,
            trackers: Mutex::default(),
            views: Mutex::default(),
            lease: AtomicU64::new(clock::micros(config.lease)),
            config: ArcSwap::from_pointee(config),
            #[cfg(any(test, feature = "sabotage"))]
            left_out: None,
        }
    }

    /// The settings in force.
    pub fn config(&self) -> Guard<Arc<Config>> {
        self.config.load()
    }

    /// What holds for which keys.
    pub fn rules(&self) -> Arc<Rules> {
        self.rules.load_full()
    }

    /// `cache.lease`.
    #[inline]
    pub fn lease(&self) -> Duration {
        Duration::from_micros(self.lease.load(Ordering::Relaxed))
    }

    /// Other settings, for what is filled from here on; what was filled before is no longer good. How much
    /// memory there is stays as it was. [`L1::lose_all`] must follow once no reader goes by the old rules.
    pub fn reconfigure(&self, config: Config) {
        let old = self.config.load();
        let config = Config {
            max_bytes: old.max_bytes,
            hash_key_names: old.hash_key_names,
            ..fitted(config, old.max_bytes)
        };
        let rules = if config.is_inert() {
            Rules::default()
        } else {
            Rules::new(&config)
        };
        self.rules.store(Arc::new(rules));
        self.stamps.set_longest(config.longest_life());
        self.sketch.set_max_age(config.max_age);
        self.lease
            .store(clock::micros(config.lease), Ordering::Relaxed);
        self.config.store(Arc::new(config));
        self.lose_all();
    }

    /// Whether a rule of coherence is kept. All are, but for tests that must notice.
    #[inline(always)]
    pub fn keeps(&self, rule: Rule) -> bool {
        #[cfg(any(test, feature = "sabotage"))]
        return self.left_out != Some(rule);
        #[cfg(not(any(test, feature = "sabotage")))]
        {
            let _ = rule;
            true
        }
    }

    /// The read that yields the elements of this command's reply, where it reads several keys.
    #[inline]
    pub fn element_of(&self, spec: &Spec) -> Option<CommandId> {
        (spec.id() == self.mget).then_some(self.get)
    }

    /// The tracked connection for these reads.
    pub fn tracker(&self, scope: Scope) -> Arc<Tracker> {
        let mut trackers = self.trackers.lock().unwrap_or_else(PoisonError::into_inner);
        let known = trackers.entry(scope);
        known
            .or_insert_with(|| Arc::new(Tracker::new(scope)))
            .clone()
    }

    /// It has no connection, and nothing is known that speaks against one.
    pub fn wants_connection(&self) -> bool {
        let trackers = self.trackers.lock().unwrap_or_else(PoisonError::into_inner);
        let settled = |tracker: &Arc<Tracker>| {
            let is_up = !matches!(tracker.standing(), Standing::Closed | Standing::Opening);
            is_up || !tracker.reason().is_empty()
        };
        !self.observes() && !trackers.values().any(settled)
    }

    /// Forgets the connections of those who are gone.
    pub fn forget_trackers(&self, is_alive: impl Fn(&Scope) -> bool) {
        let mut trackers = self.trackers.lock().unwrap_or_else(PoisonError::into_inner);
        trackers.retain(|scope, tracker| is_alive(scope) || tracker.standing() != Standing::Closed);
    }

    /// All tracked connections that were ever wanted.
    pub fn trackers(&self) -> Vec<Arc<Tracker>> {
        let trackers = self.trackers.lock().unwrap_or_else(PoisonError::into_inner);
        trackers.values().cloned().collect()
    }

    /// A worker's hot keys are to be seen here.
    pub fn watch(&self, view: HotView) {
        let mut views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        views.push(view);
    }

    /// The hot keys of each worker.
    pub fn views(&self) -> Vec<HotView> {
        let views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        views.clone()
    }

    /// The server is not what it was: nothing that is known of it counts any more.
    pub fn lose_all(&self) {
        if self.keeps(Rule::LostLink) {
            self.stamps.touch_all();
        }
        for tracker in self.trackers() {
            tracker.distrust();
        }
    }

    /// Nothing is served from here, only counted.
    pub fn observes(&self) -> bool {
        self.config().mode == Mode::Observe
    }

    /// Nothing has touched the entry's key since it was read.
    pub fn stands(&self, entry: &Entry) -> bool {
        self.stamps.stands(&entry.stamp, entry.absent)
    }

    /// The reply to a read that travelled is about to be given.
    pub fn note_shown(&self, place: Place, read: u64, protocol: Protocol, reply: &[u8]) {
        if self.keeps(Rule::Shown) {
            self.stamps.show(place, read, protocol, reply);
        }
    }

    /// Commands that touch these keys are about to be sent.
    pub fn note_sent(&self, touched: &Touched) {
        if touched.writes() && self.keeps(Rule::SentWrites) {
            self.touch(touched);
        }
    }

    /// The reply to commands that touched these keys has come, or will not, and is not handed on yet.
    pub fn note_answered(&self, touched: &Touched) {
        let rule = if touched.writes() {
            Rule::AnsweredWrites
        } else {
            Rule::Shown
        };
        if self.keeps(rule) {
            self.touch(touched);
        }
    }

    fn touch(&self, touched: &Touched) {
        for place in touched.places() {
            self.stamps.touch(*place);
        }
        if touched.is_everything() && self.keeps(Rule::UnknownWrites) {
            self.stamps.touch_all();
        }
        if touched.shows_presence() {
            self.stamps.touch_absent();
        }
    }
}

/// A reply that takes much of the whole would be evicted as soon as it is in.
fn fitted(mut config: Config, max_bytes: usize) -> Config {
    let most = max_bytes / 8;
    config.max_value = config.max_value.min(most);
    for rule in &mut config.rules {
        rule.max_value = rule.max_value.map(|value| value.min(most));
    }
    config
}
