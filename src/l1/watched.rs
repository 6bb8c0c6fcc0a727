//! Which places of the table of stamps anything relies on, or did not long ago.
//!
//! A bit for each place: so few bytes that they stay in the processor's nearest cache, where the table
//! itself would have to be fetched from memory for every key that nobody keeps. A hand goes round and
//! names those for which nothing was armed during a whole round, so that a flood of keys that are filled
//! once does not leave every place watched for ever.

use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::time::Duration;

use super::clock::{Now, micros};

/// Bits of a word.
const BITS: usize = u64::BITS as usize;

/// Shortest round of the hand.
const SHORTEST: Duration = Duration::from_secs(10);

/// A bit for each place, and who has lost the right to it.
#[derive(Debug)]
pub(super) struct Watched {
    words: Box<[AtomicU64]>,
    /// Armed since the hand last came by.
    recent: Box<[AtomicU64]>,
    /// Microseconds from one word to the next.
    step: AtomicU64,
    hand: AtomicUsize,
    aged: AtomicU64,
}

impl Watched {
    /// None of so many places; `longest` is how long what was armed may be relied on.
    pub(super) fn new(places: usize, longest: Duration) -> Self {
        let words = || (0..places / BITS).map(|_| AtomicU64::new(0)).collect();
        Self {
            words: words(),
            recent: words(),
            step: AtomicU64::new(step_of(places / BITS, longest)),
            hand: AtomicUsize::new(0),
            aged: AtomicU64::new(0),
        }
    }

    /// What is armed may be relied on for so long from here on.
    pub(super) fn set_longest(&self, longest: Duration) {
        self.step.store(step_of(self.words.len(), longest), Relaxed);
    }

    #[inline]
    pub(super) fn has(&self, place: usize) -> bool {
        self.words[place / BITS].load(SeqCst) & bit(place) != 0
    }

    /// A place is armed; whether nobody had watched it.
    pub(super) fn set(&self, place: usize) -> bool {
        let (word, bit) = (place / BITS, bit(place));
        // Looked at first: most are set, and to write would take the line from other threads.
        if self.recent[word].load(Relaxed) & bit == 0 {
            self.recent[word].fetch_or(bit, Relaxed);
        }
        !self.has(place) && self.words[word].fetch_or(bit, SeqCst) & bit == 0
    }

    pub(super) fn clear(&self, place: usize) {
        self.words[place / BITS].fetch_and(!bit(place), SeqCst);
    }

    /// Lets the hand go on to where it should be by now: calls `retire` with each place of which nothing was
    /// heard for a round. For one thread.
    pub(super) fn age(&self, now: Now, mut retire: impl FnMut(usize)) {
        let aged = self.aged.load(Relaxed);
        let step_time = self.step.load(Relaxed);
        let steps = now.mono.saturating_sub(aged) / step_time;
        let hand = self.hand.load(Relaxed);
        for step in 0..self.words.len().min(steps as usize) {
            let word = (hand + step) % self.words.len();
            let recent = self.recent[word].swap(0, Relaxed);
            let idle = self.words[word].load(SeqCst) & !recent;
            let is_idle = |at: &usize| idle >> at & 1 == 1;
            (0..BITS)
                .filter(is_idle)
                .for_each(|at| retire(word * BITS + at));
        }
        self.hand.store(
            hand.wrapping_add(steps as usize) % self.words.len(),
            Relaxed,
        );
        self.aged.store(aged + steps * step_time, Relaxed);
    }
}

/// Microseconds from one of so many words to the next.
fn step_of(words: usize, longest: Duration) -> u64 {
    (micros(longest.max(SHORTEST)) / words as u64).max(1)
}

fn bit(place: usize) -> u64 {
    1 << (place % BITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_armed_for_a_round_is_named_once_and_what_is_armed_stays() {
        let watched = Watched::new(256, Duration::from_secs(40));
        let at = |seconds: u64| Now {
            mono: seconds * 1_000_000,
            wall: 0,
        };
        let named = |seconds| {
            let mut named = Vec::new();
            watched.age(at(seconds), |place| named.push(place));
            named.iter().for_each(|place| watched.clear(*place));
            named
        };
        assert!(watched.set(3) && watched.set(200) && !watched.set(200));
        assert!(named(40).is_empty(), "both were armed in this round");
        watched.set(200);
        assert_eq!(named(60), [3], "the hand is half round");
        assert!(watched.has(200) && !watched.has(3));
        assert!(named(80).is_empty());
        assert_eq!(named(120), [200]);
        assert!(watched.set(3), "anew");
    }

    #[test]
    fn a_longer_life_makes_the_round_longer_and_a_shorter_one_shorter() {
        let watched = Watched::new(256, Duration::from_secs(40));
        let named = |seconds: u64| {
            let now = Now {
                mono: seconds * 1_000_000,
                wall: 0,
            };
            let mut named = Vec::new();
            watched.age(now, |place| named.push(place));
            named
        };
        watched.set_longest(Duration::from_secs(400));
        watched.set(3);
        assert!(named(300).is_empty(), "two rounds of 40 s have passed");
        assert!(named(400).is_empty());
        assert_eq!(named(800), [3]);
        watched.clear(3);
        watched.set_longest(Duration::from_secs(40));
        watched.set(3);
        assert!(named(840).is_empty());
        assert_eq!(named(880), [3]);
    }
}
