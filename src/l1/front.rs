//! The hottest entries of one worker, in front of the store.
//!
//! One comparison of hashes away, without a lock. Whether an entry is good is for its stamp to say, here as
//! in the store, so a front needs no invalidation of its own. An entry here may have left the store, so all
//! fronts together keep within a share of `cache.max_bytes`, and none takes a large entry.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};
use std::sync::atomic::{AtomicU64, AtomicUsize};

use super::clock::Now;
use super::entry::{Entry, Read};
use super::store::weight;

/// Pairs of places, a power of two.
const PAIRS: usize = 1 << 11;

/// Larger entries stay in the store alone.
const MAX_ENTRY: usize = 16 << 10;

/// One hit of so many of an entry is told to the store, a power of two.
const SAMPLED: u8 = 8;

/// Samples that are kept until the store's thread comes for them, a power of two.
const SAMPLES: usize = 1 << 10;

/// Highest heat of a place.
const HOTTEST: u8 = 15;

/// The hottest entries of one worker.
#[derive(Debug)]
pub struct Front {
    /// None before the first entry.
    pairs: Vec<[Place; 2]>,
    bytes: usize,
    /// The pair that is looked at next when something must go.
    hand: usize,
    /// The last flush that was heard of.
    flushes: u64,
    link: Arc<Link>,
}

#[derive(Debug, Default)]
struct Place {
    hash: u64,
    entry: Option<Arc<Entry>>,
    /// Hits, less those that others wanted its place.
    heat: Cell<u8>,
    hits: Cell<u8>,
}

/// What fronts and their store tell each other.
#[derive(Debug)]
pub(super) struct Link {
    /// Bytes that all fronts may hold together.
    bytes: usize,
    fronts: AtomicUsize,
    flushes: AtomicU64,
    /// When the last flush began, by the monotonic clock; zero before the first.
    flushed_at: AtomicU64,
    /// Hashes of entries that were hit; the oldest are overwritten.
    samples: Box<[AtomicU64]>,
    sampled: AtomicUsize,
}

impl Link {
    pub(super) fn new(bytes: usize) -> Self {
        Self {
            bytes,
            fronts: AtomicUsize::new(0),
            flushes: AtomicU64::new(0),
            flushed_at: AtomicU64::new(0),
            samples: (0..SAMPLES).map(|_| AtomicU64::new(0)).collect(),
            sampled: AtomicUsize::new(0),
        }
    }

    /// What was ordered up to now is not to be kept.
    pub(super) fn begin_flush(&self, now: Now) {
        self.flushed_at.fetch_max(now.mono.max(1), SeqCst);
    }

    /// As if nothing had ever been flushed.
    #[cfg(test)]
    pub(super) fn forget_flush(&self) {
        self.flushed_at.store(0, SeqCst);
    }

    /// A flush has begun since this was ordered.
    pub(super) fn was_flushed_since(&self, then: Now) -> bool {
        self.flushed_at.load(SeqCst) >= then.mono.max(1)
    }

    /// Has all fronts forget what they hold.
    pub(super) fn flush(&self) {
        self.flushes.fetch_add(1, Relaxed);
    }

    fn note(&self, hash: u64) {
        let at = self.sampled.fetch_add(1, Relaxed);
        self.samples[at & (SAMPLES - 1)].store(hash, Relaxed);
    }

    /// Hands over the samples since `from`; where to go on.
    pub(super) fn drain(&self, from: usize, mut take: impl FnMut(u64)) -> usize {
        let to = self.sampled.load(Acquire);
        let waiting = to.wrapping_sub(from).min(SAMPLES);
        for back in (1..=waiting).rev() {
            take(self.samples[to.wrapping_sub(back) & (SAMPLES - 1)].load(Relaxed));
        }
        to
    }

    /// Bytes that one front may hold.
    fn share(&self) -> usize {
        self.bytes / self.fronts.load(Relaxed).max(1)
    }
}

impl Place {
    fn note_hit(&self, link: &Link) {
        let heat = self.heat.get();
        if heat < HOTTEST {
            self.heat.set(heat + 1);
        }
        // By place, not by front: reads that come in a fixed order would else hide each other.
        let hits = self.hits.get().wrapping_add(1);
        self.hits.set(hits);
        if hits.is_multiple_of(SAMPLED) {
            link.note(self.hash);
        }
    }

    fn clear(&mut self) -> usize {
        self.heat.set(0);
        self.entry.take().map_or(0, |entry| weight(&entry))
    }

    /// Nobody has hit it lately, and nobody else holds its entry: it would be gone without this place.
    fn is_left(&self) -> bool {
        let sole = |entry: &Arc<Entry>| Arc::strong_count(entry) == 1;
        self.heat.get() == 0 && self.entry.as_ref().is_some_and(sole)
    }
}

impl Front {
    pub(super) fn new(link: Arc<Link>) -> Self {
        link.fronts.fetch_add(1, Relaxed);
        Self {
            pairs: Vec::new(),
            bytes: 0,
            hand: 0,
            flushes: link.flushes.load(Relaxed),
            link,
        }
    }

    fn pair(hash: u64) -> usize {
        (hash >> 20) as usize & (PAIRS - 1)
    }

    /// The entry that answers a read, good or not.
    #[inline]
    pub fn get(&self, read: &Read<'_>) -> Option<&Arc<Entry>> {
        let pair = self.pairs.get(Self::pair(read.hash))?;
        let place = if pair[0].hash == read.hash {
            &pair[0]
        } else {
            &pair[1]
        };
        let entry = place.entry.as_ref()?;
        if !entry.answers(read) || self.flushes != self.link.flushes.load(Relaxed) {
            return None;
        }
        place.note_hit(&self.link);
        Some(entry)
    }

    /// Takes an entry in, unless it is large or others in its place have been hit more. Whether it did.
    pub fn put(&mut self, entry: Arc<Entry>) -> bool {
        self.hear_of_flushes();
        let size = weight(&entry);
        if size > MAX_ENTRY {
            self.take_out(entry.hash);
            return false;
        }
        if self.pairs.is_empty() {
            self.pairs.resize_with(PAIRS, Default::default);
        }
        let pair = &mut self.pairs[Self::pair(entry.hash)];
        let at = match (&pair[0], &pair[1]) {
            (first, _) if first.hash == entry.hash => 0,
            (_, second) if second.hash == entry.hash => 1,
            (first, _) if first.entry.is_none() => 0,
            (_, second) if second.entry.is_none() => 1,
            (first, second) => usize::from(second.heat < first.heat),
        };
        let place = &mut pair[at];
        if place.hash != entry.hash && place.entry.is_some() && place.heat.get() > 0 {
            place.heat.set(place.heat.get() - 1);
            return false;
        }
        if place.hash != entry.hash {
            self.bytes -= place.clear();
            place.hash = entry.hash;
        } else if let Some(before) = &place.entry {
            self.bytes -= weight(before);
        }
        place.entry = Some(entry);
        self.bytes += size;
        self.make_room();
        true
    }

    /// Takes out what would answer a read of this hash.
    fn take_out(&mut self, hash: u64) {
        if let Some(pair) = self.pairs.get_mut(Self::pair(hash)) {
            for place in pair.iter_mut().filter(|place| place.hash == hash) {
                self.bytes -= place.clear();
            }
        }
    }

    /// Takes out all that is not to be kept. For a worker's timer: entries that nobody reads would stay.
    pub fn sweep(&mut self, keep: impl Fn(&Entry) -> bool) {
        self.hear_of_flushes();
        for place in self.pairs.iter_mut().flatten() {
            if place.entry.as_ref().is_some_and(|entry| !keep(entry)) {
                self.bytes -= place.clear();
            }
        }
    }

    /// Bytes of memory in use by its entries.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn hear_of_flushes(&mut self) {
        let flushes = self.link.flushes.load(Relaxed);
        if self.flushes != flushes {
            self.flushes = flushes;
            self.pairs = Vec::new();
            self.bytes = 0;
        }
    }

    /// Lets the hand go on: over one pair always, further while there is too much.
    fn make_room(&mut self) {
        let share = self.link.share();
        loop {
            self.hand = (self.hand + 1) & (PAIRS - 1);
            let full = self.bytes > share;
            for place in &mut self.pairs[self.hand] {
                if place.is_left() || (full && place.heat.get() == 0) {
                    self.bytes -= place.clear();
                } else if full {
                    place.heat.set(place.heat.get() / 2);
                }
            }
            if self.bytes <= share {
                return;
            }
        }
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.link.fronts.fetch_sub(1, Relaxed);
    }
}
