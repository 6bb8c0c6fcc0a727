//! Which keys are used most, and why the hot ones among them are not kept.
//!
//! Each worker counts for itself, in bounded memory, over the last minute. It counts everything while
//! there is little to do and a random sample else, so that an event costs a few nanoseconds on average;
//! the lock that lets others look is taken for what is sampled only, and nobody else holds it but
//! a page that is being shown.
//!
//! A full group of places takes in a new key with a chance that falls with the score of its least key
//! (RAP, randomized admission), so that a flood of keys seen once does not wash out the hot ones.

use std::cell::Cell;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Groups of places for keys, a power of two.
const GROUPS: usize = 64;

/// Places of a group.
const WAYS: usize = 8;

/// Steps of the window.
const STEPS: usize = 6;

/// How long each of them is.
const STEP: Duration = Duration::from_secs(10);

/// Events of a step that are counted one by one.
const EXACT: u32 = 2_000;

/// Of further ones, one in so many on average; a power of two.
const GAP: u32 = 32;

/// Longer keys are shown cut.
const MAX_KEY: usize = 256;

/// What happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A read was answered from L1.
    Hit,
    /// A read was not, though it could have been.
    Miss,
    /// A read could not have been.
    Bypass(Reason),
    /// A command that may change it was sent.
    Write,
}

/// Why reads of a key are not answered from L1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// No rule of `cache.rules` matches it.
    NoRule,
    /// A rule says so.
    Rule,
    /// Its replies are longer than `max_value`.
    TooLarge,
    /// The command is none of those that L1 holds.
    Command,
    /// The client had other commands in flight.
    InFlight,
    /// The server does not push, or its connection is down.
    NotTracked,
    /// It is written about as often as it is read.
    Written,
    /// It is not read often enough to be worth a fill.
    TooSeldom,
}

impl Reason {
    /// In words, with what to do about it.
    pub fn advice(self) -> &'static str {
        match self {
            Self::NoRule => "no rule matches: add one to cache.rules",
            Self::Rule => "a rule excludes it",
            Self::TooLarge => "larger than max_value: raise it, or make the value smaller",
            Self::Command => "read by commands that are not cached",
            Self::InFlight => "read behind other commands of the same client",
            Self::NotTracked => "the server's pushes are not available: see /health",
            Self::Written => "written as often as read: caching cannot help",
            Self::TooSeldom => "read too seldom for a fill to pay",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.advice())
    }
}

/// A key and what happened to it within the window, about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HotKey {
    /// Its name, cut if it is long; empty if only hashes are to be shown.
    pub key: Vec<u8>,
    /// The hash of its name.
    pub key_hash: u64,
    /// All reads: hits, misses and those that could not be answered.
    pub reads: u64,
    /// Reads answered from L1.
    pub hits: u64,
    /// Reads that were not, though they could have been.
    pub misses: u64,
    /// Writes.
    pub writes: u64,
    /// Bytes of requests and replies.
    pub bytes: u64,
    /// Why reads are not answered from L1, if they are not.
    pub why_not: Option<Reason>,
}

impl HotKey {
    /// What to do about it, in words.
    pub fn advice(&self) -> &'static str {
        self.why_not.map_or("cached", Reason::advice)
    }

    fn add(&mut self, other: &Self) {
        // Of two reasons, that of the worker with more reads.
        if other.reads > self.reads {
            self.why_not = other.why_not;
        }
        self.reads += other.reads;
        self.hits += other.hits;
        self.misses += other.misses;
        self.writes += other.writes;
        self.bytes += other.bytes;
    }

    /// Settles on a reason, by what was counted.
    fn judge(&mut self) {
        if self.writes > 0 && self.writes * 10 >= self.reads * 8 {
            self.why_not = Some(Reason::Written);
        } else if self.hits * 2 > self.reads {
            self.why_not = None;
        } else if self.why_not.is_none() && self.hits * 10 < self.reads {
            self.why_not = Some(Reason::TooSeldom);
        }
    }
}

/// What a list of keys is sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// Most reads first.
    Reads,
    /// Most reads first that were not answered from L1.
    Unanswered,
    /// Most bytes first.
    Bytes,
    /// Most writes first.
    Writes,
}

/// The hot keys of one worker. Only that worker's thread may note.
#[derive(Debug)]
pub struct Hot {
    /// Events until the next that is counted.
    gap: Cell<u32>,
    /// What the next one counts for.
    weight: Cell<u32>,
    random: Cell<u64>,
    view: HotView,
}

/// The same for other threads to look at.
#[derive(Clone, Debug)]
pub struct HotView {
    table: Arc<Mutex<Table>>,
}

#[derive(Debug)]
struct Table {
    /// None before the first event.
    groups: Vec<Group>,
    /// Only hashes of keys are held.
    hash_names: bool,
    started: Instant,
    /// Number of the current step.
    step: u64,
    /// Events counted in it.
    counted: u32,
}

#[derive(Debug, Default)]
struct Group {
    hashes: [u64; WAYS],
    /// What a key has to beat that wants the place; fades with the window.
    scores: [u32; WAYS],
    keys: [Option<Box<Key>>; WAYS],
}

#[derive(Debug)]
struct Key {
    name: Box<[u8]>,
    steps: [Step; STEPS],
    why_not: Option<Reason>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Step {
    hits: u32,
    misses: u32,
    bypasses: u32,
    writes: u32,
    bytes: u64,
}

impl Hot {
    /// Nothing is hot. With `hash_names` no key is held, only its hash.
    pub fn new(hash_names: bool) -> Self {
        let table = Table {
            groups: Vec::new(),
            hash_names,
            started: Instant::now(),
            step: 0,
            counted: 0,
        };
        Self {
            gap: Cell::new(1),
            weight: Cell::new(1),
            random: Cell::new(0x9e37_79b9_7f4a_7c15),
            view: HotView {
                table: Arc::new(Mutex::new(table)),
            },
        }
    }

    /// For other threads to look at.
    pub fn view(&self) -> HotView {
        self.view.clone()
    }

    /// Something happened to a key, and `bytes` of request and reply went with it.
    #[inline]
    pub fn note(&self, key: &[u8], key_hash: u64, what: Event, bytes: usize) {
        let gap = self.gap.get() - 1;
        self.gap.set(gap);
        if gap == 0 {
            self.count(key, key_hash, what, bytes, Instant::now());
        }
    }

    #[cold]
    fn count(&self, key: &[u8], key_hash: u64, what: Event, bytes: usize, now: Instant) {
        let weight = self.weight.get();
        let random = self.next_random();
        let mut table = self.view.table();
        table.advance(now);
        table.counted = table.counted.saturating_add(1);
        let exact = table.counted < EXACT;
        let now = (table.step % STEPS as u64) as usize;
        if let Some(key) = table.find(key, key_hash, weight, random >> 32) {
            key.steps[now].add(what, weight, bytes);
            if let Event::Bypass(reason) = what {
                key.why_not = Some(reason);
            } else if what == Event::Hit {
                key.why_not = None;
            }
        }
        drop(table);
        // Random gaps: reads that come in a fixed order would else hide each other.
        let gap = if exact {
            1
        } else {
            1 + random as u32 % (2 * GAP - 1)
        };
        self.gap.set(gap);
        self.weight.set(if exact { 1 } else { GAP });
    }

    /// xorshift64.
    fn next_random(&self) -> u64 {
        let mut random = self.random.get();
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        self.random.set(random);
        random
    }
}

impl HotView {
    fn table(&self) -> std::sync::MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All keys that are known, in no order.
    pub fn snapshot(&self) -> Vec<HotKey> {
        self.snapshot_at(Instant::now())
    }

    fn snapshot_at(&self, now: Instant) -> Vec<HotKey> {
        let mut table = self.table();
        table.advance(now);
        let keys = table.groups.iter().flat_map(|group| {
            let known = group.hashes.iter().zip(&group.keys);
            known.filter_map(|(hash, key)| Some(key.as_ref()?.show(*hash)))
        });
        keys.filter(|key| key.reads + key.writes > 0).collect()
    }
}

/// The hottest keys of all workers.
pub fn merge(workers: impl IntoIterator<Item = Vec<HotKey>>, by: By, top: usize) -> Vec<HotKey> {
    let mut all: HashMap<(u64, Vec<u8>), HotKey> = HashMap::new();
    for key in workers.into_iter().flatten() {
        let known = all.get_mut(&(key.key_hash, key.key.clone()));
        if let Some(known) = known {
            known.add(&key);
        } else {
            all.insert((key.key_hash, key.key.clone()), key);
        }
    }
    let mut all: Vec<HotKey> = all.into_values().collect();
    let rank = |key: &HotKey| match by {
        By::Reads => key.reads,
        By::Unanswered => key.reads - key.hits,
        By::Bytes => key.bytes,
        By::Writes => key.writes,
    };
    all.sort_by(|a, b| rank(b).cmp(&rank(a)).then_with(|| a.key.cmp(&b.key)));
    all.truncate(top);
    all.iter_mut().for_each(HotKey::judge);
    all
}

impl Table {
    /// Goes on to the step of this moment: what is older than the window is forgotten.
    fn advance(&mut self, now: Instant) {
        let step = now.saturating_duration_since(self.started).as_secs() / STEP.as_secs();
        let passed = step.saturating_sub(self.step);
        if passed == 0 {
            return;
        }
        if passed >= STEPS as u64 {
            self.groups = Vec::new();
        }
        for passed in 1..=passed.min(STEPS as u64) {
            let forgotten = ((self.step + passed) % STEPS as u64) as usize;
            for group in &mut self.groups {
                group.forget(forgotten);
            }
        }
        self.step = step;
        self.counted = 0;
    }

    /// Where a key is counted, if it is.
    fn find(&mut self, name: &[u8], hash: u64, weight: u32, luck: u64) -> Option<&mut Key> {
        if self.groups.is_empty() {
            self.groups.resize_with(GROUPS, Group::default);
        }
        let group = &mut self.groups[(hash >> 32) as usize % GROUPS];
        let known = (0..WAYS).find(|way| group.hashes[*way] == hash && group.keys[*way].is_some());
        let way = known.or_else(|| group.make_way(weight, luck))?;
        if known.is_none() {
            let shown = if self.hash_names {
                &[]
            } else {
                &name[..name.len().min(MAX_KEY)]
            };
            group.hashes[way] = hash;
            group.keys[way] = Some(Box::new(Key {
                name: shown.into(),
                steps: Default::default(),
                why_not: None,
            }));
        }
        group.scores[way] = group.scores[way].saturating_add(weight);
        group.keys[way].as_deref_mut()
    }
}

impl Group {
    /// A place for another key, if it has the luck; it takes on the score of the one before.
    fn make_way(&self, weight: u32, luck: u64) -> Option<usize> {
        let least = (0..WAYS).min_by_key(|way| self.scores[*way])?;
        let score = u64::from(self.scores[least]);
        let admitted = luck % (score + u64::from(weight)) < u64::from(weight);
        (self.keys[least].is_none() || admitted).then_some(least)
    }

    fn forget(&mut self, step: usize) {
        for (key, score) in self.keys.iter_mut().zip(&mut self.scores) {
            *score -= *score / STEPS as u32;
            if let Some(known) = key {
                known.steps[step] = Step::default();
                if known.steps.iter().all(Step::is_empty) {
                    (*key, *score) = (None, 0);
                }
            }
        }
    }
}

impl Key {
    fn show(&self, hash: u64) -> HotKey {
        let sum = |count: fn(&Step) -> u32| self.steps.iter().map(|s| u64::from(count(s))).sum();
        let hits: u64 = sum(|step| step.hits);
        let misses: u64 = sum(|step| step.misses);
        let bypasses: u64 = sum(|step| step.bypasses);
        HotKey {
            key: self.name.to_vec(),
            key_hash: hash,
            reads: hits + misses + bypasses,
            hits,
            misses,
            writes: sum(|step| step.writes),
            bytes: self.steps.iter().map(|step| step.bytes).sum(),
            why_not: self.why_not,
        }
    }
}

impl Step {
    fn add(&mut self, what: Event, weight: u32, bytes: usize) {
        let count = match what {
            Event::Hit => &mut self.hits,
            Event::Miss => &mut self.misses,
            Event::Bypass(_) => &mut self.bypasses,
            Event::Write => &mut self.writes,
        };
        *count = count.saturating_add(weight);
        self.bytes += bytes as u64 * u64::from(weight);
    }

    fn is_empty(&self) -> bool {
        self.hits | self.misses | self.bypasses | self.writes == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(key: &str) -> u64 {
        use std::hash::BuildHasher;
        foldhash::fast::FixedState::default().hash_one(key)
    }

    fn note(hot: &Hot, key: &str, what: Event) {
        hot.note(key.as_bytes(), hash(key), what, 100);
    }

    fn top(hot: &Hot, by: By, top: usize) -> Vec<HotKey> {
        merge([hot.view().snapshot()], by, top)
    }

    #[test]
    fn few_events_are_counted_one_by_one() {
        let hot = Hot::new(false);
        for _ in 0..5 {
            note(&hot, "a", Event::Hit);
        }
        note(&hot, "a", Event::Write);
        note(&hot, "b", Event::Miss);
        let keys = top(&hot, By::Reads, 10);
        assert_eq!(keys.len(), 2);
        assert_eq!(
            (&*keys[0].key, keys[0].hits, keys[0].writes),
            (&b"a"[..], 5, 1)
        );
        assert_eq!((keys[0].bytes, keys[0].advice()), (600, "cached"));
        assert_eq!(
            (&*keys[1].key, keys[1].reads, keys[1].misses),
            (&b"b"[..], 1, 1)
        );
    }

    #[test]
    fn a_flood_of_cold_keys_leaves_the_hot_ones_in_the_list() {
        let hot = Hot::new(false);
        for round in 0..400_000_u32 {
            note(&hot, &format!("cold{round}"), Event::Bypass(Reason::NoRule));
            if round % 4 == 0 {
                note(&hot, &format!("hot{}", round / 4 % 10), Event::Hit);
            }
        }
        let keys = top(&hot, By::Reads, 10);
        let hottest = keys.iter().filter(|key| key.key.starts_with(b"hot"));
        assert_eq!(hottest.count(), 10, "{keys:#?}");
        for key in &keys {
            // 10,000 each, by samples of one in 32: within four deviations.
            assert!(key.hits.abs_diff(10_000) < 2_300, "{key:?}");
        }
    }

    #[test]
    fn what_is_older_than_the_window_is_forgotten() {
        let hot = Hot::new(false);
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let count = |key: &str, now| hot.count(key.as_bytes(), hash(key), Event::Miss, 1, now);
        count("a", at(1));
        count("a", at(31));
        count("b", at(31));
        let reads = |now| {
            let keys = merge([hot.view().snapshot_at(now)], By::Reads, 9);
            keys.iter().map(|key| key.reads).collect::<Vec<_>>()
        };
        assert_eq!(reads(at(55)), [2, 1]);
        assert_eq!(reads(at(75)), [1, 1]);
        assert_eq!(reads(at(200)), [0; 0]);
    }

    #[test]
    fn workers_are_added_up_and_each_key_has_its_advice() {
        let (one, other) = (Hot::new(false), Hot::new(false));
        for hot in [&one, &other] {
            for _ in 0..10 {
                note(hot, "plain", Event::Bypass(Reason::NoRule));
                note(hot, "written", Event::Hit);
                note(hot, "written", Event::Write);
            }
            note(hot, "large", Event::Bypass(Reason::TooLarge));
        }
        let keys = merge(
            [one.view().snapshot(), other.view().snapshot()],
            By::Reads,
            9,
        );
        let shown = |key: &str| {
            let key = keys.iter().find(|known| known.key == key.as_bytes());
            key.map(|key| (key.reads, key.why_not))
        };
        assert_eq!(shown("plain"), Some((20, Some(Reason::NoRule))));
        assert_eq!(shown("written"), Some((20, Some(Reason::Written))));
        assert_eq!(shown("large"), Some((2, Some(Reason::TooLarge))));
        let unanswered = merge([one.view().snapshot()], By::Unanswered, 1);
        assert_eq!(unanswered[0].key, b"plain");
    }

    #[test]
    fn long_keys_are_cut_and_hidden_names_are_not_held() {
        let hot = Hot::new(false);
        note(&hot, &"x".repeat(1000), Event::Miss);
        assert_eq!(top(&hot, By::Reads, 1)[0].key.len(), MAX_KEY);
        let hidden = Hot::new(true);
        note(&hidden, "secret", Event::Miss);
        let keys = top(&hidden, By::Reads, 1);
        assert_eq!(
            (&*keys[0].key, keys[0].key_hash),
            (&b""[..], hash("secret"))
        );
        assert!(
            !format!("{hidden:?}").contains("115, 101"),
            "bytes of the name"
        );
    }
}
