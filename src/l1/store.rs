//! Where entries lie, for all threads.
//!
//! moka decides by frequency what stays within the bound. Inserting into it is slow and can stall, so a
//! thread of its own does it, from a bounded queue: an entry that comes late does no harm, its stamp
//! decides, and one that finds the queue full is not kept. The same thread takes out what is good no more,
//! and tells moka of a sample of the hits that [fronts](super::front) give: it would otherwise think the
//! hottest entries unused. It starts with the first entry, sleeps without a timer while there are none,
//! and ends with the store.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize};
use std::sync::{Arc, OnceLock};

use moka::notification::RemovalCause;

use super::clock::{Clock, Now, micros};
use super::entry::{Entry, Read};
use super::front::{Front, Link};
use super::keeper::{Queue, Work};
use super::rules;
use super::stamps::Stamps;

/// What an entry takes beside its [`Entry::size`]: moka's nodes for it, its share of moka's table and
/// frequencies, and what the allocator adds. Measured: `cargo bench --bench l1 -- memory`.
pub const OVERHEAD: usize = 420;

/// An entry that gave fewer hits than this did not pay for its fill, which took three commands instead
/// of one.
const PAYS: u32 = 2;

/// Highest [`Store::threshold`].
const MAX_THRESHOLD: u8 = 8;

/// So many entries must have gone before the threshold is thought over.
const JUDGED: u32 = 256;

pub(super) type Cache = moka::sync::Cache<u64, Arc<Entry>, foldhash::fast::RandomState>;

/// All entries of the process.
#[derive(Debug)]
pub struct Store {
    shared: Arc<Shared>,
    queue: OnceLock<Option<Queue>>,
    #[cfg(test)]
    at_once: AtomicBool,
}

/// What the store has in common with its thread.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) cache: Cache,
    pub(super) link: Arc<Link>,
    pub(super) stamps: Arc<Stamps>,
    pub(super) clock: Clock,
    /// Bytes of entries in the queue, and their bound.
    pub(super) queued: AtomicUsize,
    queue_bytes: usize,
    inserts: AtomicU64,
    dropped: AtomicU64,
    pub(super) swept: AtomicU64,
    tally: Arc<Tally>,
    /// Set while there is no memory for entries.
    pressed: OnceLock<Arc<AtomicBool>>,
}

/// What became of entries.
#[derive(Debug, Default)]
pub(super) struct Tally {
    evictions: AtomicU64,
    threshold: AtomicU8,
    gone: AtomicU64,
    wasted: AtomicU64,
    /// How many had gone when last nothing had to.
    relaxed_at: AtomicU64,
}

/// What happened to entries since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Entries handed in.
    pub inserts: u64,
    /// Of these, not kept because the queue was full, or memory short.
    pub dropped: u64,
    /// Thrown out, or not let in, for lack of room.
    pub evictions: u64,
    /// Taken out because they were good no more.
    pub swept: u64,
    /// Entries now, about.
    pub entries: u64,
    /// Bytes of memory in use by them, about.
    pub bytes: u64,
}

/// How `max_bytes` is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shares {
    cache: u64,
    /// Entries in the queue, out of moka's sight as yet.
    queue: usize,
    /// Entries in fronts, which may be out of moka's sight again.
    fronts: usize,
}

impl Shares {
    fn of(max_bytes: usize) -> Self {
        let queue = max_bytes / 32;
        let fronts = max_bytes / 16;
        Self {
            cache: (max_bytes - queue - fronts) as u64,
            queue,
            fronts,
        }
    }
}

/// What an entry weighs.
pub(super) fn weight(entry: &Entry) -> usize {
    entry.size() + OVERHEAD
}

impl Store {
    /// A store that keeps within `max_bytes` of memory, fronts included.
    pub fn new(max_bytes: usize, stamps: Arc<Stamps>, clock: Clock) -> Self {
        let shares = Shares::of(max_bytes);
        let tally = Arc::new(Tally::new());
        let told = tally.clone();
        let cache = moka::sync::Cache::builder()
            .max_capacity(shares.cache)
            .weigher(|_, entry: &Arc<Entry>| u32::try_from(weight(entry)).unwrap_or(u32::MAX))
            .eviction_listener(move |_, entry, cause| {
                if cause == RemovalCause::Size {
                    told.evictions.fetch_add(1, Relaxed);
                    told.note_end(&entry);
                }
            })
            .build_with_hasher(foldhash::fast::RandomState::default());
        let shared = Shared {
            cache,
            link: Arc::new(Link::new(shares.fronts)),
            stamps,
            clock,
            queued: AtomicUsize::new(0),
            queue_bytes: shares.queue,
            inserts: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            swept: AtomicU64::new(0),
            tally,
            pressed: OnceLock::new(),
        };
        Self {
            shared: Arc::new(shared),
            queue: OnceLock::new(),
            #[cfg(test)]
            at_once: AtomicBool::new(false),
        }
    }

    /// From now on nothing is taken in while this is set: the process is short of memory.
    pub fn heed(&self, pressed: Arc<AtomicBool>) {
        let _ = self.shared.pressed.set(pressed);
    }

    /// A front for one worker.
    pub fn front(&self) -> Front {
        Front::new(self.shared.link.clone())
    }

    /// The entry that answers a read, good or not.
    pub fn get(&self, read: &Read<'_>) -> Option<Arc<Entry>> {
        self.shared
            .cache
            .get(&read.hash)
            .filter(|entry| entry.answers(read))
    }

    /// From now on entries are there as soon as they are inserted, for tests that need to be repeatable.
    #[cfg(test)]
    pub(crate) fn insert_at_once(&self) {
        self.at_once.store(true, Relaxed);
    }

    /// Takes out everything, and is done with it on return.
    #[cfg(test)]
    pub(crate) fn empty(&self) {
        self.flush(None);
        for entry in self.iter() {
            self.shared.cache.invalidate(&entry.hash);
        }
        self.shared.link.forget_flush();
    }

    /// Takes an entry in, sooner or later or not at all.
    pub fn insert(&self, entry: Arc<Entry>) {
        let shared = &self.shared;
        #[cfg(test)]
        if self.at_once.load(Relaxed) {
            return shared.cache.insert(entry.hash, entry);
        }
        shared.inserts.fetch_add(1, Relaxed);
        let weight = weight(&entry);
        let queued = shared.queued.fetch_add(weight, Relaxed);
        // One is always let in, else a large one never would be.
        let fits = (queued == 0 || queued + weight <= shared.queue_bytes) && !shared.is_pressed();
        let taken = fits
            && self
                .queue()
                .is_some_and(|queue| queue.try_send(Work::Insert(entry)));
        if !taken {
            shared.queued.fetch_sub(weight, Relaxed);
            shared.dropped.fetch_add(1, Relaxed);
        }
    }

    /// All entries may have been flushed since this was ordered. To be asked when it was inserted: either the
    /// flush has found it, or this tells of the flush.
    pub fn was_flushed_since(&self, then: Now) -> bool {
        self.shared.link.was_flushed_since(then)
    }

    fn queue(&self) -> Option<&Queue> {
        let start = || Queue::start(self.shared.clone());
        self.queue.get_or_init(start).as_ref()
    }

    /// How often a key must have been seen before for its reply to be worth a fill: once, unless the
    /// store is full of entries that go before they have paid for themselves.
    #[inline]
    pub fn threshold(&self) -> u8 {
        match self.shared.is_pressed() {
            true => u8::MAX, // it would not be kept
            false => self.shared.tally.threshold.load(Relaxed),
        }
    }

    /// Ends all entries, or those of keys that match a pattern: whoever asks from now on gets none of
    /// them, from fronts neither. What is on its way is not kept, whatever its key. How many there were.
    /// Takes about a microsecond for each entry.
    pub fn flush(&self, pattern: Option<&[u8]>) -> u64 {
        let stamps = &self.shared.stamps;
        self.shared.link.begin_flush(self.shared.clock.now());
        self.settle(); // what waits for the store's thread is looked at, too
        let matches =
            |entry: &Entry| pattern.is_none_or(|pattern| rules::matches(pattern, entry.key()));
        let mut ended = 0;
        for entry in self.iter().filter(|entry| matches(entry)) {
            ended += u64::from(stamps.stands(&entry.stamp, entry.absent));
            stamps.touch(entry.stamp.place);
        }
        if pattern.is_none() {
            stamps.touch_all();
        }
        self.shared.link.flush();
        if let Some(Some(queue)) = self.queue.get() {
            // If the queue is full, the sweep comes to them in its own time.
            queue.try_send(Work::Sweep);
        }
        ended
    }

    /// All entries, good or not.
    pub fn iter(&self) -> impl Iterator<Item = Arc<Entry>> {
        self.shared.cache.iter().map(|(_, entry)| entry)
    }

    /// All entries of a key, good or not. Looks at every entry there is.
    pub fn of_key(&self, key: &[u8]) -> Vec<Arc<Entry>> {
        self.iter().filter(|entry| entry.key() == key).collect()
    }

    /// Waits until everything handed in so far is in or out, so that tests and benchmarks can tell.
    pub fn settle(&self) {
        if let Some(Some(queue)) = self.queue.get() {
            queue.settle();
        }
    }

    /// What happened to entries since the start.
    pub fn counts(&self) -> Counts {
        let shared = &self.shared;
        Counts {
            inserts: shared.inserts.load(Relaxed),
            dropped: shared.dropped.load(Relaxed),
            evictions: shared.tally.evictions.load(Relaxed),
            swept: shared.swept.load(Relaxed),
            entries: self.len(),
            bytes: self.bytes(),
        }
    }

    /// Entries now, about.
    pub fn len(&self) -> u64 {
        self.shared.cache.entry_count()
    }

    /// Holds nothing, about.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of memory in use by them, about.
    pub fn bytes(&self) -> u64 {
        self.shared.cache.weighted_size()
    }
}

impl Shared {
    /// There is no memory for entries.
    pub(super) fn is_pressed(&self) -> bool {
        self.pressed.get().is_some_and(|flag| flag.load(Relaxed))
    }

    /// Nothing speaks against the entry for good: it may still be served, if only in need.
    pub(super) fn keeps(&self, entry: &Entry, now: Now) -> bool {
        let grace = entry.terms.stale_if_down.map_or(0, micros);
        let linked = entry.timed || entry.tracker.link() == entry.link;
        self.stamps.stands(&entry.stamp, entry.absent)
            && now.since(entry.born) < entry.age.saturating_add(grace)
            && (linked || grace > 0)
    }

    /// Counts an entry that is taken out because it is good no more.
    pub(super) fn note_swept(&self, entry: &Entry) {
        self.swept.fetch_add(1, Relaxed);
        // What a write ended says nothing of how often its key is read.
        if self.stamps.stands(&entry.stamp, entry.absent) {
            self.tally.note_end(entry);
        }
    }

    /// Lowers the threshold again when nothing has to go.
    pub(super) fn relax(&self) {
        self.tally.relax();
    }
}

impl Tally {
    fn new() -> Self {
        Self {
            threshold: AtomicU8::new(1),
            ..Self::default()
        }
    }

    /// An entry has gone for lack of room or of readers.
    fn note_end(&self, entry: &Entry) {
        let wasted = entry.reads.load(Relaxed) < PAYS;
        let wasted = self.wasted.fetch_add(u64::from(wasted), Relaxed) + u64::from(wasted);
        let gone = self.gone.fetch_add(1, Relaxed) + 1;
        if gone < u64::from(JUDGED) {
            return;
        }
        self.gone.store(0, Relaxed);
        self.wasted.store(0, Relaxed);
        let threshold = self.threshold.load(Relaxed);
        if wasted * 2 > gone {
            let higher = (threshold + 1).min(MAX_THRESHOLD);
            self.threshold.store(higher, Relaxed);
        } else if wasted * 5 < gone {
            self.threshold.store((threshold - 1).max(1), Relaxed);
        }
    }

    fn relax(&self) {
        let threshold = self.threshold.load(Relaxed);
        let gone = self.gone.load(Relaxed);
        if self.relaxed_at.swap(gone, Relaxed) == gone && threshold > 1 {
            self.threshold.store(threshold - 1, Relaxed);
        }
    }
}
