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
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub use super::reason::{Event, Reason};

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

/// A key that is read no more often than this between two changes is not worth keeping.
const READS_PER_CHANGE: u64 = 4;

/// Clients that are remembered whose next reply is that of a counted read; a power of two.
const AWAITED: usize = 16;

/// Longer keys are shown cut.
const MAX_KEY: usize = 256;

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
    /// Of the misses, those whose fill was lost to a change, perhaps by others.
    pub lost: u64,
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
        self.lost += other.lost;
        self.bytes += other.bytes;
    }

    /// Settles on a reason, by what was counted.
    fn judge(&mut self) {
        // Each change ends an entry, which pays from its third hit on and is not filled at first sight.
        let changes = self.writes.max(self.lost);
        if self.writes > 0 && self.writes * 10 >= self.reads * 8 {
            self.why_not = Some(Reason::Written);
        } else if self.hits * 2 > self.reads {
            self.why_not = None;
        } else if changes > 0 && changes * READS_PER_CHANGE >= self.reads {
            self.why_not = Some(Reason::Written);
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
    /// The read that was counted last, and what it counts for, if its reply is still to come.
    counted: Cell<Option<(u64, u32)>>,
    /// Clients whose next reply is that of such a read.
    awaited: [Cell<Awaited>; AWAITED],
    view: HotView,
}

#[derive(Clone, Copy, Debug, Default)]
struct Awaited {
    client: u64,
    key_hash: u64,
    /// Zero if nothing is awaited.
    weight: u32,
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
    lost: u32,
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
            counted: Cell::new(None),
            awaited: Default::default(),
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

    /// What a client said is done with: if a read of its was counted that travels, its reply is awaited.
    #[inline]
    pub fn settle(&self, client: u64) {
        let counted = self.counted.take();
        let place = &self.awaited[client as usize % AWAITED];
        if counted.is_some() || place.get().client == client {
            let (key_hash, weight) = counted.unwrap_or_default();
            place.set(Awaited {
                client,
                key_hash,
                weight,
            });
        }
    }

    /// A fetch brings its reply along: none is awaited.
    pub fn forget_counted(&self) {
        self.counted.set(None);
    }

    /// A client is given so many bytes, in which so many replies end. Of several each is taken to be as long
    /// as the others.
    #[inline]
    pub fn note_reply(&self, client: u64, bytes: usize, replies: u32) {
        let place = &self.awaited[client as usize % AWAITED];
        let awaited = place.get();
        if awaited.client == client && awaited.weight > 0 {
            if replies > 0 {
                place.take();
            }
            self.count_reply(awaited, bytes / replies.max(1) as usize);
        }
    }

    #[cold]
    fn count_reply(&self, awaited: Awaited, bytes: usize) {
        let mut table = self.view.table();
        table.advance(Instant::now());
        let now = (table.step % STEPS as u64) as usize;
        if let Some(key) = table.known(awaited.key_hash) {
            key.steps[now].bytes += bytes as u64 * u64::from(awaited.weight);
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
            } else if what == Event::Hit || key.why_not == Some(Reason::NotTracked) {
                key.why_not = None; // whatever it was, the connection is up by now
            }
        }
        drop(table);
        if matches!(what, Event::Miss | Event::Bypass(_)) {
            self.counted.set(Some((key_hash, weight)));
        }
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

    /// Where a key is counted, if it is already.
    fn known(&mut self, hash: u64) -> Option<&mut Key> {
        let groups = self.groups.len().max(1);
        let group = self.groups.get_mut((hash >> 32) as usize % groups)?;
        let way = (0..WAYS).find(|way| group.hashes[*way] == hash)?;
        group.keys[way].as_deref_mut()
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
            lost: sum(|step| step.lost),
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
            Event::Lost => {
                self.lost = self.lost.saturating_add(weight);
                &mut self.misses
            }
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
    fn the_reply_to_a_read_that_travels_is_counted_with_its_key() {
        let hot = Hot::new(false);
        note(&hot, "a", Event::Bypass(Reason::NoRule));
        hot.settle(7);
        note(&hot, "b", Event::Hit);
        hot.settle(23); // at the same place, with nothing to wait for
        hot.note_reply(23, 5_000, 1);
        hot.note_reply(7, 3_000, 0);
        hot.note_reply(7, 1_000, 1);
        hot.note_reply(7, 9_000, 1);
        let bytes = |key: &HotKey| (key.key.clone(), key.bytes);
        let keys: Vec<_> = top(&hot, By::Bytes, 9).iter().map(bytes).collect();
        assert_eq!(keys, [(b"a".to_vec(), 4_100), (b"b".to_vec(), 100)]);
        note(&hot, "a", Event::Miss);
        hot.settle(7);
        hot.settle(7); // said more, and no read of it was counted
        hot.note_reply(7, 9_000, 1);
        assert_eq!(top(&hot, By::Bytes, 1)[0].bytes, 4_200);
    }

    #[test]
    fn a_key_that_changes_too_often_is_told_apart_whoever_writes_it() {
        let hot = Hot::new(false);
        let times = |key, what, n: u32| (0..n).for_each(|_| note(&hot, key, what));
        times("own", Event::Write, 10);
        times("own", Event::Bypass(Reason::TooSeldom), 38);
        times("others", Event::Lost, 10);
        times("others", Event::Miss, 28);
        times("seldom", Event::Write, 1);
        times("seldom", Event::Miss, 38);
        times("hit", Event::Write, 10);
        times("hit", Event::Hit, 38);
        let why = |key: &HotKey| (key.key.clone(), key.why_not);
        let mut keys: Vec<_> = top(&hot, By::Reads, 9).iter().map(why).collect();
        keys.sort_by(|a, b| a.0.cmp(&b.0));
        let expected = [
            ("hit", None),
            ("others", Some(Reason::Written)),
            ("own", Some(Reason::Written)),
            ("seldom", Some(Reason::TooSeldom)),
        ];
        assert_eq!(keys, expected.map(|(key, why)| (key.into(), why)));
    }

    #[test]
    fn that_pushes_were_not_to_be_had_is_forgotten_when_they_are() {
        let hot = Hot::new(false);
        note(&hot, "a", Event::Bypass(Reason::NotTracked));
        assert_eq!(top(&hot, By::Reads, 1)[0].why_not, Some(Reason::NotTracked));
        note(&hot, "a", Event::Miss);
        assert_eq!(top(&hot, By::Reads, 1)[0].why_not, Some(Reason::TooSeldom));
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
