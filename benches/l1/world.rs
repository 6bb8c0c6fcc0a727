//! A stand-in for a worker's reader: the same steps in the same order, with answers made up on the spot.

use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nearkey::commands::{CommandId, CommandTable};
use nearkey::l1::clock::{Clock, Now};
use nearkey::l1::config::Config;
use nearkey::l1::entry::{Entry, Facts, Read, Scope};
use nearkey::l1::front::Front;
use nearkey::l1::rules::{Rules, Terms};
use nearkey::l1::shape::Shape;
use nearkey::l1::sketch::Sketch;
use nearkey::l1::stamps::{Place, Stamps};
use nearkey::l1::store::Store;
use nearkey::l1::tracker::Tracker;
use nearkey::resp::Protocol;
use nearkey::upstream::IdentityId;

const SCOPE: Scope = Scope {
    db: 0,
    identity: IdentityId::OWN,
};

/// L1's memory and one worker.
pub struct World {
    pub stamps: Arc<Stamps>,
    pub store: Arc<Store>,
    pub front: Front,
    pub sketch: Sketch,
    pub now: Now,
    /// What is asked of the sketch instead of what the store says.
    pub threshold: Option<u8>,
    pub fills: u64,
    pub has_front: bool,
    get: CommandId,
    tracker: Arc<Tracker>,
    terms: Arc<Terms>,
    value: Vec<u8>,
    unsettled: u32,
}

/// A read, owned.
pub struct Prepared {
    args: Vec<u8>,
    key_hash: u64,
    place: Place,
    hash: u64,
    get: CommandId,
}

impl Prepared {
    pub fn read(&self) -> Read<'_> {
        Read {
            scope: SCOPE,
            protocol: Protocol::Resp3,
            command: self.get,
            shape: Shape::Plain,
            call: ("GET", 2),
            args: &self.args,
            key: &self.args[5..16],
            key_hash: self.key_hash,
            place: self.place,
            hash: self.hash,
        }
    }
}

impl World {
    pub fn new(max_bytes: usize, value: usize) -> Self {
        let stamps = Arc::new(Stamps::default());
        let clock = Clock::default();
        let table = CommandTable::builtin();
        let get = table.lookup(b"GET").expect("GET is a command").id();
        let store = Store::new(max_bytes, stamps.clone(), clock);
        let value = format!("${value}\r\n{}\r\n", "v".repeat(value)).into_bytes();
        Self {
            front: store.front(),
            store: Arc::new(store),
            stamps,
            sketch: Sketch::new(Duration::from_secs(30)),
            now: clock.now(),
            threshold: None,
            fills: 0,
            has_front: true,
            get,
            tracker: Arc::new(Tracker::new(SCOPE)),
            terms: Rules::new(&Config::default()).of(b"").clone(),
            value,
            unsettled: 0,
        }
    }

    /// The arguments and hashes of a read of key number `id`.
    pub fn prepare(&self, id: u32) -> Prepared {
        let args = format!("$11\r\nkey:{id:07}\r\n").into_bytes();
        let key_hash = self.stamps.hash(&args[5..16]);
        let hash = foldhash::quality::FixedState::default().hash_one(&args);
        Prepared {
            args,
            key_hash,
            place: self.stamps.place(key_hash),
            hash,
            get: self.get,
        }
    }

    /// Calls `f` with a read of key number `id`.
    pub fn with_read<T>(&mut self, id: u32, f: impl FnOnce(&mut Self, &Read<'_>) -> T) -> T {
        let prepared = self.prepare(id);
        f(self, &prepared.read())
    }

    /// What a read becomes: whether it was answered from L1.
    pub fn read(&mut self, id: u32) -> bool {
        self.with_read(id, |world, read| {
            if world.stamps.is_armed(read.place) && world.find(read) {
                return true;
            }
            let threshold = world.threshold.unwrap_or_else(|| world.store.threshold());
            if world.sketch.see(read.hash, world.now) >= threshold {
                world.fill(read);
            }
            false
        })
    }

    /// Whether it would be answered, without looking as if it were asked.
    pub fn holds(&self, id: u32) -> bool {
        let prepared = self.prepare(id);
        let read = prepared.read();
        self.front.get(&read).is_some() || self.store.get(&read).is_some()
    }

    /// Has the front's hits told to nobody.
    pub fn make_deaf(&mut self, max_bytes: usize) {
        let (stamps, clock) = (self.stamps.clone(), Clock::default());
        self.front = Store::new(max_bytes, stamps, clock).front();
    }

    fn find(&mut self, read: &Read<'_>) -> bool {
        if self.has_front
            && let Some(entry) = self.front.get(read)
        {
            entry.reads.fetch_add(1, Ordering::Relaxed);
            return true;
        }
        let Some(entry) = self.store.get(read) else {
            return false;
        };
        entry.reads.fetch_add(1, Ordering::Relaxed);
        if self.has_front {
            self.front.put(entry);
        }
        true
    }

    pub fn entry(&self, read: &Read<'_>) -> Arc<Entry> {
        let facts = Facts {
            protocol: Protocol::Resp3,
            stamp: self.stamps.arm(read.place),
            absent: false,
            tracker: self.tracker.clone(),
            link: 0,
            timed: false,
            born: self.now,
            age: 3_600_000_000,
            terms: self.terms.clone(),
            life: None,
            unfit: false,
            waste: 0,
        };
        Arc::new(Entry::new(&read.name(), &self.value, facts))
    }

    fn fill(&mut self, read: &Read<'_>) {
        let entry = self.entry(read);
        if self.has_front {
            self.front.put(entry.clone());
        }
        self.store.insert(entry);
        self.fills += 1;
        self.unsettled += 1;
        // Fills come no faster than a server answers; here they would.
        if self.unsettled == 32 {
            self.unsettled = 0;
            self.store.settle();
        }
    }

    /// Bytes that one entry takes, by the store's own count.
    pub fn weight(value: usize) -> usize {
        let mut world = Self::new(1 << 20, value);
        let entry = world.with_read(0, |world, read| world.entry(read));
        entry.size() + nearkey::l1::store::OVERHEAD
    }
}

/// Random numbers that are the same each time (splitmix64).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Key numbers by Zipf's law; which number is how hot is mixed up.
pub fn zipf(keys: u32, skew: f64, reads: usize) -> Vec<u32> {
    let mut sum = 0.0;
    let up_to: Vec<f64> = (1..=keys)
        .map(|rank| {
            sum += 1.0 / f64::from(rank).powf(skew);
            sum
        })
        .collect();
    let mut random = Random(7);
    let mut read = || {
        let at = random.unit() * sum;
        let rank = up_to.partition_point(|up_to| *up_to < at) as u64;
        (rank * 7_368_787 % u64::from(keys)) as u32
    };
    (0..reads).map(|_| read()).collect()
}
