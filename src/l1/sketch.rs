//! How often keys were seen lately, about, in fixed memory.
//!
//! Counts of four bits, four for each key, all in one line of the processor's cache. A hand goes round
//! and halves them, a line at a time: as sights come, so that they do not pile up, and as time passes,
//! so that what is read too seldom for its entry to live so long is not thought to return soon.

use std::sync::OnceLock;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::time::Duration;

use super::clock::{Now, micros};

/// Lines of 64 bytes, a power of two.
const LINES: usize = 1 << 13;

/// Words of a line.
const WORDS: usize = 8;

/// Sights between two steps of the hand: it is round after 131,072.
const SIGHTS: u32 = 16;

/// Most steps of the hand at once.
const STRIDE: u64 = 64;

/// Clears the bit that each count of a word would inherit from its neighbour.
const HALVED: u64 = 0x7777_7777_7777_7777;

/// Counts sights of keys by their hashes.
#[derive(Debug)]
pub struct Sketch {
    /// 512 KiB, once anything was seen.
    words: OnceLock<Box<[AtomicU64]>>,
    sights: AtomicU32,
    hand: AtomicU32,
    /// The hand has gone as far as it should have by then.
    aged: AtomicU64,
    /// Time between two steps of the hand, in microseconds.
    step: AtomicU64,
}

impl Default for Sketch {
    fn default() -> Self {
        Self::new(Duration::from_secs(30))
    }
}

impl Sketch {
    /// A sketch that forgets in about twice the longest life of an entry.
    pub fn new(max_age: Duration) -> Self {
        Self {
            words: OnceLock::new(),
            sights: AtomicU32::new(0),
            hand: AtomicU32::new(0),
            aged: AtomicU64::new(0),
            step: AtomicU64::new(step_of(max_age)),
        }
    }

    /// Another longest life of an entry.
    pub fn set_max_age(&self, max_age: Duration) {
        self.step.store(step_of(max_age), Relaxed);
    }

    /// Counts a sight of the key; how often it had been seen before, about, and seldom less.
    ///
    /// Threads may overwrite each other's counts: one is lost then, or a line ages later.
    pub fn see(&self, hash: u64, now: Now) -> u8 {
        let words = self
            .words
            .get_or_init(|| (0..LINES * WORDS).map(|_| AtomicU64::new(0)).collect());
        self.age(words, now.mono);
        let hash = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let line = (hash >> 51) as usize * WORDS;
        let places: [(usize, u32); 4] = std::array::from_fn(|row| {
            let place = (hash >> (26 + row * 6)) as usize & 31;
            (line + row * 2 + place / 16, (place % 16) as u32 * 4)
        });
        let counts = places.map(|(word, bit)| words[word].load(Relaxed) >> bit & 15);
        let least = counts.into_iter().fold(15, u64::min);
        for ((word, bit), count) in places.into_iter().zip(counts) {
            // Higher ones are of other keys as well.
            if count == least && count < 15 {
                let counts = words[word].load(Relaxed);
                words[word].store(counts.wrapping_add(1 << bit), Relaxed);
            }
        }
        least as u8
    }

    fn age(&self, words: &[AtomicU64], now: u64) {
        let sights = self.sights.load(Relaxed).wrapping_add(1);
        self.sights.store(sights, Relaxed);
        let aged = self.aged.load(Relaxed);
        let step_time = self.step.load(Relaxed);
        let late = (now.saturating_sub(aged) / step_time).min(STRIDE);
        let steps = late.max(u64::from(sights.is_multiple_of(SIGHTS)));
        if steps == 0 {
            return;
        }
        let hand = self.hand.load(Relaxed);
        for step in 0..steps as usize {
            let line = (hand as usize + step) % LINES * WORDS;
            for word in &words[line..line + WORDS] {
                word.store(word.load(Relaxed) >> 1 & HALVED, Relaxed);
            }
        }
        self.hand.store(hand.wrapping_add(steps as u32), Relaxed);
        // More than two rounds late is as good as two.
        let oldest = now.saturating_sub(step_time * 2 * LINES as u64);
        self.aged
            .store((aged + steps * step_time).clamp(oldest, now), Relaxed);
    }
}

fn step_of(max_age: Duration) -> u64 {
    (micros(max_age).saturating_mul(2) / LINES as u64).max(1)
}
