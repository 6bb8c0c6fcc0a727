//! Tests of the store, its fronts and the sketch.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::L1;
use super::clock::{Clock, Now};
use super::config::{Config, Verb};
use super::entry::{Entry, Facts, Read, Scope};
use super::front::Front;
use super::rules::{Rules, Terms};
use super::shape::Shape;
use super::sketch::Sketch;
use super::stamps::Stamps;
use super::store::{OVERHEAD, Store};
use super::tracker::Tracker;
use crate::commands::{CommandId, CommandTable};
use crate::resp::Protocol;
use crate::upstream::IdentityId;

const SCOPE: Scope = Scope {
    db: 0,
    identity: IdentityId::OWN,
};

struct Memory {
    stamps: Arc<Stamps>,
    clock: Clock,
    store: Store,
    tracker: Arc<Tracker>,
    terms: Arc<Terms>,
    get: CommandId,
}

impl Memory {
    fn new(max_bytes: usize) -> Self {
        let (stamps, clock) = (Arc::new(Stamps::default()), Clock::default());
        let table = CommandTable::builtin();
        Self {
            store: Store::new(max_bytes, stamps.clone(), clock),
            stamps,
            clock,
            tracker: Arc::new(Tracker::new(SCOPE)),
            terms: Rules::new(&Config::default()).of(b"").clone(),
            get: table.lookup(b"GET").expect("GET").id(),
        }
    }

    fn with<T>(&self, key: &str, f: impl FnOnce(&Read<'_>) -> T) -> T {
        let args = format!("${}\r\n{key}\r\n", key.len());
        let start = args.len() - 2 - key.len();
        let key = &args.as_bytes()[start..args.len() - 2];
        let hash = self.stamps.hash(key);
        f(&Read {
            scope: SCOPE,
            protocol: Protocol::Resp3,
            command: self.get,
            shape: Shape::Plain,
            call: ("GET", 2),
            args: args.as_bytes(),
            key,
            key_hash: hash,
            place: self.stamps.place(hash),
            hash,
        })
    }

    fn entry(&self, key: &str, size: usize) -> Arc<Entry> {
        self.entry_of_age(key, size, 60_000_000)
    }

    fn entry_of_age(&self, key: &str, size: usize, age: u64) -> Arc<Entry> {
        self.with(key, |read| {
            let facts = Facts {
                protocol: Protocol::Resp3,
                stamp: self.stamps.arm(read.place),
                absent: false,
                tracker: self.tracker.clone(),
                link: self.tracker.link(),
                timed: false,
                born: self.clock.now(),
                age,
                terms: self.terms.clone(),
                life: None,
                unfit: false,
                waste: 0,
            };
            Arc::new(Entry::new(&read.name(), &vec![b'v'; size], facts))
        })
    }

    fn insert(&self, key: &str, size: usize) {
        self.store.insert(self.entry(key, size));
    }

    fn holds(&self, key: &str) -> bool {
        self.with(key, |read| self.store.get(read)).is_some()
    }

    fn fronts(&self, front: &Front, key: &str) -> bool {
        self.with(key, |read| front.get(read).is_some())
    }
}

/// Waits for what another thread does in its own time.
fn eventually(what: impl Fn() -> bool) -> bool {
    let end = Instant::now() + Duration::from_secs(20);
    while !what() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(10));
    }
    what()
}

#[test]
fn an_entry_that_was_handed_in_is_found_by_its_read_alone() {
    let memory = Memory::new(1 << 20);
    memory.insert("a", 10);
    memory.store.settle();
    assert!(memory.holds("a") && !memory.holds("b"));
    let resp2 = |read: &Read<'_>| {
        let protocol = Protocol::Resp2;
        memory.store.get(&Read { protocol, ..*read })
    };
    assert!(memory.with("a", resp2).is_some(), "RESP3 answers RESP2");
    let other = |read: &Read<'_>| {
        let scope = Scope { db: 1, ..SCOPE };
        memory.store.get(&Read { scope, ..*read })
    };
    assert!(memory.with("a", other).is_none());
}

#[test]
fn the_store_keeps_within_its_bound() {
    let memory = Memory::new(1 << 20);
    for n in 0..5_000 {
        memory.insert(&format!("key{n}"), 500);
        if n % 100 == 0 {
            memory.store.settle();
        }
    }
    memory.store.settle();
    let counts = memory.store.counts();
    assert!(counts.bytes <= 1 << 20, "{counts:?}");
    assert!(counts.entries > 700, "{counts:?}");
    assert!(counts.bytes > counts.entries * (500 + OVERHEAD as u64));
    let gone = counts.dropped + counts.evictions;
    assert_eq!(counts.inserts, gone + counts.entries, "{counts:?}");
}

#[test]
fn what_finds_the_queue_full_is_dropped_and_counted() {
    let memory = Memory::new(1 << 20);
    // The queue has a thirty-second of it.
    for n in 0..20_000 {
        memory.insert(&format!("key{n}"), 10_000);
    }
    memory.store.settle();
    let counts = memory.store.counts();
    assert!(counts.dropped > 0, "{counts:?}");
    assert!(counts.dropped < counts.inserts, "{counts:?}");
    memory.insert("later", 10_000);
    memory.store.settle();
    assert_eq!(
        memory.store.counts().dropped,
        counts.dropped,
        "there is room again"
    );
}

#[test]
fn the_sweep_takes_out_what_nobody_reads_and_then_sleeps() {
    let memory = Memory::new(1 << 20);
    memory.insert("touched", 10);
    memory.store.insert(memory.entry_of_age("old", 10, 300_000));
    let lost = memory.entry("lost", 10);
    memory.store.insert(lost.clone());
    memory.store.settle();
    assert_eq!(memory.store.len(), 3);
    memory.with("touched", |read| memory.stamps.touch(read.place));
    memory.tracker.lose();
    assert!(eventually(|| memory.store.is_empty()));
    assert_eq!(memory.store.counts().swept, 3);
    assert!(
        eventually(|| Arc::strong_count(&lost) == 1),
        "its memory is free"
    );
    // Woken again by the next one.
    memory.insert("new", 10);
    assert!(eventually(|| memory.holds("new")));
}

#[test]
fn an_entry_that_may_serve_while_the_server_is_away_outlives_its_age() {
    let memory = Memory::new(1 << 20);
    let terms = Terms {
        stale_if_down: Some(Duration::from_secs(60)),
        ..Terms::clone(&memory.terms)
    };
    let memory = Memory {
        terms: Arc::new(terms),
        ..memory
    };
    memory.store.insert(memory.entry_of_age("stale", 10, 1));
    memory.insert("touched", 10);
    memory.store.settle();
    memory.tracker.lose();
    memory.with("touched", |read| memory.stamps.touch(read.place));
    assert!(eventually(|| memory.store.counts().swept == 1));
    assert!(memory.holds("stale") && !memory.holds("touched"));
}

#[test]
fn a_flush_of_a_pattern_ends_what_waits_for_the_stores_thread() {
    let memory = Memory::new(64 << 20);
    for n in 0..200 {
        memory.store.insert(memory.entry(&format!("user:{n}"), 10));
    }
    assert_eq!(memory.store.flush(Some(b"user:*")), 200);
    memory.store.settle();
    let stands = |entry: &Entry| memory.stamps.stands(&entry.stamp, false);
    assert!(!memory.store.iter().any(|entry| stands(&entry)));
}

#[test]
fn a_flush_ends_what_matches_in_store_and_fronts() {
    let memory = Memory::new(1 << 20);
    let mut front = memory.store.front();
    for key in ["user:1", "user:2", "page:1"] {
        let entry = memory.entry(key, 10);
        front.put(entry.clone());
        memory.store.insert(entry);
    }
    // Not in the store: no flush can find it there.
    front.put(memory.entry("user:3", 10));
    memory.store.settle();
    assert_eq!(memory.store.of_key(b"user:1").len(), 1);
    assert_eq!(memory.store.flush(Some(b"user:*")), 2);
    for key in ["user:1", "user:2", "user:3", "page:1"] {
        assert!(!memory.fronts(&front, key), "{key}");
    }
    memory.store.settle();
    assert!(!memory.holds("user:1") && memory.holds("page:1"));
    front.put(memory.entry("new", 10));
    assert!(memory.fronts(&front, "new"));
    let stamp = memory.entry("other", 10).stamp;
    assert_eq!(memory.store.flush(None), 1);
    assert!(
        !memory.stamps.stands(&stamp, false),
        "what is on its way, too"
    );
}

#[test]
fn the_thread_ends_with_the_store() {
    let memory = Memory::new(1 << 20);
    memory.insert("a", 10);
    memory.store.settle();
    let stamps = memory.stamps.clone();
    drop(memory);
    // The thread's share of the store holds another.
    assert!(eventually(|| Arc::strong_count(&stamps) == 1));
}

#[test]
fn entries_that_do_not_pay_raise_the_threshold_and_room_lowers_it() {
    let memory = Memory::new(1 << 18);
    assert_eq!(memory.store.threshold(), 1);
    for n in 0..3_000 {
        memory.insert(&format!("key{n}"), 200);
        if n % 16 == 0 {
            memory.store.settle();
        }
    }
    assert!(memory.store.threshold() > 1);
    assert!(eventually(|| memory.store.threshold() == 1));
}

#[test]
fn a_front_holds_on_to_what_is_hit() {
    let memory = Memory::new(64 << 20);
    let mut front = memory.store.front();
    front.put(memory.entry("hot", 10));
    for n in 0..100_000 {
        assert!(memory.fronts(&front, "hot"), "after {n} others");
        front.put(memory.entry(&format!("cold{n}"), 10));
    }
    let mut kept = 0;
    for n in 0..100_000 {
        kept += u32::from(memory.fronts(&front, &format!("cold{n}")));
    }
    assert!((500..=4_096).contains(&kept), "{kept}");
    front.put(memory.entry("hot", 100_000));
    assert!(!memory.fronts(&front, "hot"), "it has become too large");
}

#[test]
fn of_three_that_share_two_places_the_cold_one_waits() {
    let memory = Memory::new(64 << 20);
    let mut front = memory.store.front();
    let pair = |key: &str| memory.with(key, |read| read.hash >> 20 & 0x7ff);
    let keys = (0..100_000).map(|n| format!("key{n}"));
    let three: Vec<String> = keys.filter(|key| pair(key) == 5).take(3).collect();
    front.put(memory.entry(&three[0], 10));
    front.put(memory.entry(&three[1], 10));
    for round in 0..100 {
        for hot in &three[..2] {
            assert!(memory.fronts(&front, hot), "in round {round}");
        }
        assert!(!front.put(memory.entry(&three[2], 10)));
    }
    // But not for ever, if they are hit no more.
    assert!((0..40).any(|_| front.put(memory.entry(&three[2], 10))));
}

#[test]
fn fronts_keep_within_their_share_of_memory() {
    let memory = Memory::new(1 << 20);
    let (mut one, mut other) = (memory.store.front(), memory.store.front());
    for n in 0..2_000 {
        let entry = memory.entry(&format!("key{n}"), 100 + n);
        one.put(entry.clone());
        other.put(entry);
        assert!(one.bytes() + other.bytes() <= (1 << 20) / 16);
        memory.fronts(&one, &format!("key{n}"));
    }
    assert!(one.bytes() > (1 << 20) / 64);
    assert!(!one.put(memory.entry("large", 20_000)));
    let keys: Vec<String> = (0..2_000).map(|n| format!("key{n}")).collect();
    let mut held = keys.iter().filter(|key| memory.fronts(&one, key));
    let (first, second) = (held.next().expect("one"), held.next().expect("another"));
    drop(held);
    one.sweep(|entry| entry.key() == first.as_bytes());
    assert!(memory.fronts(&one, first) && !memory.fronts(&one, second));
    assert!(one.bytes() < 4_000);
    one.sweep(|_| false);
    assert_eq!(one.bytes(), 0);
}

#[test]
fn the_store_hears_of_hits_that_a_front_gives() {
    let memory = Memory::new(1 << 20);
    let mut front = memory.store.front();
    let hot: Vec<String> = (0..50).map(|n| format!("hot{n}")).collect();
    for key in &hot {
        let entry = memory.entry(key, 200);
        front.put(entry.clone());
        memory.store.insert(entry);
        memory.store.settle();
    }
    for n in 0..10_000 {
        let hits = hot.iter().filter(|key| memory.fronts(&front, key)).count();
        assert!(hits > 45, "two of three in one pair are a rare chance");
        memory.insert(&format!("cold{n}"), 200);
        if n % 16 == 0 {
            memory.store.settle();
        }
    }
    let kept = hot.iter().filter(|key| memory.holds(key)).count();
    assert!(kept > 45, "{kept} of 50");
}

fn mixed(n: u64) -> u64 {
    use std::hash::BuildHasher;
    foldhash::quality::FixedState::default().hash_one(n)
}

#[test]
fn a_sketch_counts_sights_and_forgets_them_in_time() {
    let sketch = Sketch::new(Duration::from_secs(30));
    let at = |seconds: u64| Now {
        mono: seconds * 1_000_000,
        wall: 0,
    };
    for sight in 0..3 {
        assert_eq!(sketch.see(mixed(1), at(1)), sight);
    }
    // Others come by, as the hand goes on with sights only.
    for second in 2..200 {
        for other in 0..10 {
            sketch.see(mixed(second * 10 + other + 100), at(second));
        }
    }
    assert_eq!(sketch.see(mixed(1), at(200)), 0);
}

#[test]
fn a_sketch_takes_few_cold_keys_for_known_ones() {
    let sketch = Sketch::default();
    let now = Now::default();
    let mut known = 0;
    for n in 0..1_000_000 {
        known += u32::from(sketch.see(mixed(n), now) > 0);
        // One that returns every 10,000 sights stays known.
        if n % 10_000 == 0 {
            let seen = sketch.see(mixed(u64::MAX), now);
            assert!(n < 20_000 || seen > 0, "forgotten after {n}");
        }
    }
    assert!(known < 10_000, "{known} of a million");
}

#[test]
fn counts_of_a_sketch_stop_at_their_end() {
    let sketch = Sketch::default();
    for _ in 0..40 {
        sketch.see(7, Now::default());
    }
    assert!((12..=15).contains(&sketch.see(7, Now::default())));
}

#[test]
fn after_a_reload_stamps_stand_as_long_as_the_new_settings_say() {
    let lives = |seconds| Config {
        default: Verb::Cache,
        max_age: Duration::from_secs(seconds),
        ..Config::default()
    };
    let l1 = L1::without(lives(30), &CommandTable::builtin(), None);
    l1.reconfigure(lives(600));
    let stamp = l1.stamps.arm(l1.stamps.place(7));
    for seconds in [40, 80, 120] {
        let mono = seconds * 1_000_000;
        l1.stamps.retire_idle(Now { mono, wall: 0 });
    }
    assert!(l1.stamps.stands(&stamp, false));
}
