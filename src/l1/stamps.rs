//! Whether what is known of a key may have changed since.
//!
//! A *stamp* is a number in a fixed table, found by a hash of the key's name alone: in all databases at
//! once, as the server's pushes name keys. A fill [arms](Stamps::arm) the place of its key; whatever may
//! change the key, or shows a newer value of it, [touches](Stamps::touch) the place, and everything that
//! was armed before no longer [stands](Stamps::stands). Keys that share a place cost a miss, never a
//! wrong answer. A place that nothing is armed in is only looked at: what nobody caches costs one load.
//!
//! A read that travels past L1 may show a newer value than L1 has, which is then good no more. So that the
//! many reads of a hot key, of which some always travel, do not end its entry again and again, what was
//! given last of a place is remembered as a hash: an equal reply to the same read touches nothing, if
//! nothing else has told of the place since.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::entry::Scope;
use crate::commands::CommandId;
use crate::resp::Protocol;

/// Places of the table, a power of two.
const PLACES: usize = 1 << 16;

/// An odd number without a pattern.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// Set in a stamp while something may rely on it.
const ARMED: u32 = 1;

/// Set in a stamp once something has relied on it.
const WATCHED: u32 = 2;

/// What one touch adds to a stamp.
const STEP: u32 = 4;

/// Where a key's stamp is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(pub u32);

/// What a fill took when it was enqueued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Where.
    pub place: Place,
    value: u32,
    epoch: u64,
    absence: u64,
}

/// The table of stamps and the epoch of everything.
#[derive(Debug)]
pub struct Stamps {
    table: Box<[AtomicU32]>,
    /// What was given last to anybody of a place, if it was the reply to a read: a hash of both, one in
    /// each protocol. Zero if it was something else.
    shown: Box<[AtomicU64]>,
    /// Grows when anything may have changed.
    epoch: AtomicU64,
    /// Grows when keys were shown that may have been thought missing.
    absence: AtomicU64,
    hasher: foldhash::quality::RandomState,
}

impl Default for Stamps {
    fn default() -> Self {
        Self {
            table: (0..PLACES).map(|_| AtomicU32::new(0)).collect(),
            shown: (0..2 * PLACES).map(|_| AtomicU64::new(0)).collect(),
            epoch: AtomicU64::new(0),
            absence: AtomicU64::new(0),
            hasher: foldhash::quality::RandomState::default(),
        }
    }
}

impl Stamps {
    /// The hash of a key's name; differs between processes.
    #[inline]
    pub fn hash(&self, key: &[u8]) -> u64 {
        self.hasher.hash_one(key)
    }

    /// The hash of a whole read: its key, what else it says, where and by whom.
    #[inline]
    pub fn mix(&self, key: u64, rest: u64, scope: &Scope, command: CommandId) -> u64 {
        let place = u64::from(scope.db) << 40 | u64::from(scope.identity.0) << 16;
        let mut hash =
            key ^ rest.rotate_left(23) ^ (place | command.index() as u64).wrapping_mul(GOLDEN);
        hash ^= hash >> 32;
        hash = hash.wrapping_mul(GOLDEN);
        hash ^ hash >> 29
    }

    /// Where a key of this hash has its stamp.
    #[inline]
    pub fn place(&self, hash: u64) -> Place {
        Place((hash as usize & (PLACES - 1)) as u32)
    }

    #[inline]
    fn stamp(&self, place: Place) -> &AtomicU32 {
        &self.table[place.0 as usize & (PLACES - 1)]
    }

    /// Something may rely on the stamp of this place: a key without one is in no fill and in no entry.
    #[inline]
    pub fn is_armed(&self, place: Place) -> bool {
        self.stamp(place).load(Ordering::Acquire) & ARMED != 0
    }

    /// Something has relied on the stamp of this place at some time: its keys are worth more care.
    #[inline]
    pub fn is_watched(&self, place: Place) -> bool {
        self.stamp(place).load(Ordering::Acquire) & WATCHED != 0
    }

    /// Takes the stamp for a fill, before its request is enqueued.
    pub fn arm(&self, place: Place) -> Stamp {
        // The epochs first: one that grows in between is older than the stamp says, which only costs
        // the fill.
        let (epoch, absence) = self.epochs();
        let bits = ARMED | WATCHED;
        let value = self.stamp(place).fetch_or(bits, Ordering::SeqCst) | bits;
        Stamp {
            place,
            value,
            epoch,
            absence,
        }
    }

    fn epochs(&self) -> (u64, u64) {
        (
            self.epoch.load(Ordering::SeqCst),
            self.absence.load(Ordering::SeqCst),
        )
    }

    /// The key of this place may have changed, or a value of it was shown past L1: what was armed
    /// before is no longer good. True if anything was armed.
    #[inline]
    pub fn touch(&self, place: Place) -> bool {
        let was_armed = self.disarm(place);
        // What was given before this may be news again: this has told of a change in between.
        if self.is_watched(place) {
            for cell in self.shown(place, Protocol::Resp2) {
                if cell.load(Ordering::SeqCst) != 0 {
                    cell.store(0, Ordering::SeqCst);
                }
            }
        }
        was_armed
    }

    #[inline]
    fn disarm(&self, place: Place) -> bool {
        let stamp = self.stamp(place);
        let mut value = stamp.load(Ordering::SeqCst);
        while value & ARMED != 0 {
            // Not armed, and another than ever before.
            let next = value.wrapping_sub(ARMED).wrapping_add(STEP);
            match stamp.compare_exchange(value, next, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => return true,
                Err(now) => value = now,
            }
        }
        false
    }

    /// A reply to a read of a key of this place is about to be given that did not come from L1. If it is
    /// not what was given of this place last, whoever sees it must not see anything older: the place is
    /// touched. An equal one tells nobody anything new.
    pub fn show(&self, place: Place, read: u64, protocol: Protocol, reply: &[u8]) {
        let print = self.print(read, reply);
        let [same, other] = self.shown(place, protocol);
        let last = same.load(Ordering::SeqCst);
        if last == print {
            return;
        }
        self.disarm(place);
        // Whoever came in between was given something else, before this or after it.
        let order = Ordering::SeqCst;
        if same.compare_exchange(last, print, order, order).is_err() {
            same.store(0, order);
        }
        other.store(0, order);
    }

    /// A reply that is kept is about to be given, here in both protocols: it is as new as any that was
    /// given before.
    pub fn note_kept(&self, place: Place, read: u64, forms: [(Protocol, &[u8]); 2]) {
        for (protocol, reply) in forms {
            let [cell, _] = self.shown(place, protocol);
            cell.store(self.print(read, reply), Ordering::SeqCst);
        }
    }

    /// What was given last of a place in this protocol, and in the other.
    fn shown(&self, place: Place, protocol: Protocol) -> [&AtomicU64; 2] {
        let pair = (place.0 as usize & (PLACES - 1)) * 2;
        let cells = [&self.shown[pair], &self.shown[pair + 1]];
        match protocol {
            Protocol::Resp2 => cells,
            Protocol::Resp3 => [cells[1], cells[0]],
        }
    }

    /// The epochs are in it: what was given before they grew counts no more.
    fn print(&self, read: u64, reply: &[u8]) -> u64 {
        self.hasher.hash_one((read, self.epochs(), reply)) | 1
    }

    /// As if nothing had been known of this key.
    #[cfg(test)]
    pub(crate) fn forget(&self, key: &[u8]) {
        let place = self.place(self.hash(key));
        for cell in self.shown(place, Protocol::Resp2) {
            cell.store(0, Ordering::SeqCst);
        }
        self.stamp(place).store(0, Ordering::SeqCst);
    }

    /// Any key may have changed.
    pub fn touch_all(&self) {
        self.epoch.fetch_add(1, Ordering::SeqCst);
    }

    /// Keys were shown to exist.
    pub fn touch_absent(&self) {
        self.absence.fetch_add(1, Ordering::SeqCst);
    }

    /// Nothing has touched the key since; `absent` if what relies on it is that the key is missing.
    #[inline]
    pub fn stands(&self, stamp: &Stamp, absent: bool) -> bool {
        self.stamp(stamp.place).load(Ordering::SeqCst) == stamp.value
            && self.epoch.load(Ordering::SeqCst) == stamp.epoch
            && (!absent || self.absence.load(Ordering::SeqCst) == stamp.absence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(stamps: &Stamps, key: &[u8]) -> Place {
        stamps.place(stamps.hash(key))
    }

    #[test]
    fn a_touch_ends_what_was_armed_before_and_nothing_else() {
        let stamps = Stamps::default();
        let here = place(&stamps, b"k");
        let first = stamps.arm(here);
        assert_eq!(stamps.arm(here), first, "two fills may share a stamp");
        assert!(stamps.stands(&first, true));
        assert!(stamps.touch(here));
        assert!(!stamps.stands(&first, false));
        let second = stamps.arm(here);
        assert!(stamps.stands(&second, false) && !stamps.stands(&first, false));
    }

    fn both(reply: &[u8]) -> [(Protocol, &[u8]); 2] {
        [(Protocol::Resp2, reply), (Protocol::Resp3, reply)]
    }

    /// Whether a reply to the read 7 touches what is armed.
    fn tells(stamps: &Stamps, place: Place, reply: &[u8]) -> bool {
        let stamp = stamps.arm(place);
        stamps.show(place, 7, Protocol::Resp2, reply);
        !stamps.stands(&stamp, false)
    }

    #[test]
    fn a_reply_that_was_given_last_touches_nothing() {
        let stamps = Stamps::default();
        let here = place(&stamps, b"k");
        assert!(tells(&stamps, here, b"+a") && !tells(&stamps, here, b"+a"));
        stamps.note_kept(here, 7, both(b"+b"));
        assert!(!tells(&stamps, here, b"+b"));
        assert!(
            tells(&stamps, here, b"+a"),
            "older or newer than b: who knows"
        );
        stamps.touch(here);
        assert!(stamps.is_watched(here) && !stamps.is_armed(here));
    }

    #[test]
    fn a_reply_is_news_again_if_anything_else_was_told_since() {
        let stamps = Stamps::default();
        let here = place(&stamps, b"k");
        let others: [&dyn Fn(); 6] = [
            &|| stamps.show(here, 8, Protocol::Resp2, b"+a"),
            &|| stamps.show(here, 7, Protocol::Resp3, b"+a"),
            &|| stamps.note_kept(here, 8, both(b"+a")),
            &|| assert!(!stamps.touch(here)),
            &|| stamps.touch_all(),
            &|| stamps.touch_absent(),
        ];
        for (at, other) in others.into_iter().enumerate() {
            stamps.show(here, 7, Protocol::Resp2, b"+a");
            other();
            assert!(tells(&stamps, here, b"+a"), "{at}");
        }
    }

    #[test]
    fn an_unarmed_place_is_only_looked_at() {
        let stamps = Stamps::default();
        let here = place(&stamps, b"k");
        assert!(!stamps.touch(here) && !stamps.is_armed(here));
        stamps.arm(here);
        assert!(stamps.touch(here));
        assert!(!stamps.touch(here), "once is enough");
    }

    #[test]
    fn epochs_end_everything_or_what_is_thought_missing() {
        let stamps = Stamps::default();
        let stamp = stamps.arm(place(&stamps, b"k"));
        stamps.touch_absent();
        assert!(stamps.stands(&stamp, false) && !stamps.stands(&stamp, true));
        stamps.touch_all();
        assert!(!stamps.stands(&stamp, false));
    }
}
