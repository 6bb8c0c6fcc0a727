//! Whether what is known of a key may have changed since.
//!
//! A *stamp* is a number in a fixed table, found by a hash of the key's name alone: in all databases at
//! once, as the server's pushes name keys. A fill [arms](Stamps::arm) the place of its key; whatever may
//! change the key, or shows a newer value of it, [touches](Stamps::touch) the place, and everything that
//! was armed before no longer [stands](Stamps::stands). Keys that share a place cost a miss, never a
//! wrong answer. A place that nothing was armed in lately is not even looked at: a
//! [bit](super::watched) says so.
//!
//! A read that travels past L1 may show a newer value than L1 has, which is then good no more. So that the
//! many reads of a hot key, of which some always travel, do not end its entry again and again, what was
//! given last for each read is remembered as a hash: an equal reply touches nothing, if nothing else has
//! told of a change of its key since.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use super::clock::Now;
use super::entry::Scope;
use super::watched::Watched;
use crate::commands::CommandId;
use crate::resp::Protocol;

/// Places of the table, a power of two.
const PLACES: usize = 1 << 16;

/// An odd number without a pattern.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// Set in a stamp while something may rely on it.
const ARMED: u32 = 1;

/// Set in a stamp while its place is being given up: nothing can be armed there.
const RETIRING: u32 = 2;

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
    /// Places that something relies on, or did not long ago.
    watched: Watched,
    /// What was given last to anybody in reply to a read, by the hash of the read, in each protocol: a hash
    /// of both, and how much was news of its key by then.
    shown: Box<[AtomicU64]>,
    /// How often something new was told of the keys of a place.
    news: Box<[AtomicU32]>,
    /// Grows when anything may have changed.
    epoch: AtomicU64,
    /// Grows when keys were shown that may have been thought missing.
    absence: AtomicU64,
    hasher: foldhash::quality::RandomState,
}

impl Default for Stamps {
    fn default() -> Self {
        Self::new(Duration::from_secs(30))
    }
}

impl Stamps {
    /// Stamps of which none is armed; `longest` is how long anything may rely on one.
    pub fn new(longest: Duration) -> Self {
        Self {
            table: (0..PLACES).map(|_| AtomicU32::new(0)).collect(),
            watched: Watched::new(PLACES, longest),
            news: (0..PLACES).map(|_| AtomicU32::new(0)).collect(),
            shown: (0..2 * PLACES).map(|_| AtomicU64::new(0)).collect(),
            epoch: AtomicU64::new(0),
            absence: AtomicU64::new(0),
            hasher: foldhash::quality::RandomState::default(),
        }
    }

    /// Anything may rely on a stamp for so long from here on.
    pub fn set_longest(&self, longest: Duration) {
        self.watched.set_longest(longest);
    }

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
        &self.table[index(place)]
    }

    /// Something may rely on the stamp of this place: a key without one is in no fill and in no entry.
    #[inline]
    pub fn is_armed(&self, place: Place) -> bool {
        self.is_watched(place) && self.stamp(place).load(Ordering::Acquire) & ARMED != 0
    }

    /// Something relies on the stamp of this place, or did not long ago: its keys are worth more care.
    #[inline]
    pub fn is_watched(&self, place: Place) -> bool {
        self.watched.has(index(place))
    }

    /// Takes the stamp for a fill, before its request is enqueued.
    pub fn arm(&self, place: Place) -> Stamp {
        // The epochs first: one that grows in between is older than the stamp says, which only costs
        // the fill.
        let (epoch, absence) = self.epochs();
        let arm = |value| (value & RETIRING == 0).then_some(value | ARMED);
        let stamp = self.stamp(place);
        let value = match stamp.fetch_update(Ordering::SeqCst, Ordering::SeqCst, arm) {
            Ok(before) => before,
            Err(retiring) => retiring, // what is armed and retiring at once never stands
        };
        // Who touches the place without seeing this has done so before anything was ordered.
        if self.watched.set(index(place)) {
            // And has told of no news: what was given before this is not known to be the last.
            self.news(place).fetch_add(1, Ordering::SeqCst);
        }
        let value = value | ARMED;
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
        self.is_watched(place) && self.touch_watched(place)
    }

    fn touch_watched(&self, place: Place) -> bool {
        let was_armed = self.disarm(place);
        // What was given before this may be news again: this has told of a change in between.
        self.news(place).fetch_add(1, Ordering::SeqCst);
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

    /// A reply to a read of a key of this place is about to be given that did not come from L1. Whoever sees
    /// it must not see anything older: the place is touched, unless that is what was given for this read
    /// last and nothing was told of a change of the key since. Such a reply tells nobody anything new.
    pub fn show(&self, place: Place, read: u64, protocol: Protocol, reply: &[u8]) {
        if !self.is_watched(place) {
            return;
        }
        let cell = self.shown(read, protocol);
        let last = cell.load(Ordering::SeqCst);
        let print = self.print(read, reply);
        if last == pack(print, self.age_of_news(place)) {
            return;
        }
        self.disarm(place);
        let is_news = print_of(last) != print;
        if is_news {
            self.news(place).fetch_add(1, Ordering::SeqCst);
        }
        let now = pack(print, self.age_of_news(place));
        // If it is given up after this, that is news; if before, changes may have been told in silence.
        if !self.is_watched(place) {
            return;
        }
        let order = Ordering::SeqCst;
        if cell.compare_exchange(last, now, order, order).is_err() {
            cell.store(0, order); // whoever came in between was given something else
        }
    }

    /// A reply that is kept is about to be given, here in both protocols: it is as new as any that was
    /// given before.
    pub fn note_kept(&self, place: Place, read: u64, forms: [(Protocol, &[u8]); 2]) {
        let prints = forms.map(|(protocol, reply)| (protocol, self.print(read, reply)));
        let differs = |(protocol, print): &(Protocol, u32)| {
            print_of(self.shown(read, *protocol).load(Ordering::SeqCst)) != *print
        };
        if prints.iter().any(differs) {
            self.news(place).fetch_add(1, Ordering::SeqCst);
        }
        for (protocol, print) in prints {
            let now = pack(print, self.age_of_news(place));
            if self.is_watched(place) {
                self.shown(read, protocol).store(now, Ordering::SeqCst);
            }
        }
    }

    fn shown(&self, read: u64, protocol: Protocol) -> &AtomicU64 {
        let pair = (read as usize & (PLACES - 1)) * 2;
        &self.shown[pair + usize::from(protocol == Protocol::Resp3)]
    }

    fn news(&self, place: Place) -> &AtomicU32 {
        &self.news[index(place)]
    }

    /// How often something was told of the keys of this place that was new; the epochs tell of all keys.
    fn age_of_news(&self, place: Place) -> u32 {
        let (epoch, absence) = self.epochs();
        let epochs = (epoch as u32).wrapping_add(absence as u32);
        let news = self.news(place).load(Ordering::SeqCst);
        news.wrapping_add(epochs.wrapping_mul(0x9e37_79b1))
    }

    /// Never zero.
    fn print(&self, read: u64, reply: &[u8]) -> u32 {
        (self.hasher.hash_one((read, reply)) >> 32) as u32 | 1
    }

    /// Gives up places that nothing relies on any more. For one thread.
    pub fn retire_idle(&self, now: Now) {
        self.watched
            .age(now, |place| self.retire(Place(place as u32)));
    }

    /// From now on this place is not looked at. Nothing that was armed stands; nothing can be armed before
    /// its touches are seen again; and what was given is not known to be the last, for changes are
    /// told in silence from here on.
    pub(super) fn retire(&self, place: Place) {
        let order = Ordering::SeqCst;
        let disarm = |value: u32| Some((value & !(ARMED | RETIRING)).wrapping_add(STEP) | RETIRING);
        let _ = self.stamp(place).fetch_update(order, order, disarm);
        self.watched.clear(index(place));
        self.news(place).fetch_add(1, order);
        self.stamp(place).fetch_and(!RETIRING, order);
    }

    /// As if nothing had been known of this key.
    #[cfg(test)]
    pub(crate) fn forget(&self, key: &[u8]) {
        let place = self.place(self.hash(key));
        // Other keys' cells go too: nobody needs them.
        for cell in &self.shown {
            cell.store(0, Ordering::SeqCst);
        }
        self.stamp(place).store(0, Ordering::SeqCst);
        self.watched.clear(index(place));
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

fn index(place: Place) -> usize {
    place.0 as usize & (PLACES - 1)
}

fn pack(print: u32, news: u32) -> u64 {
    u64::from(print) << 32 | u64::from(news)
}

fn print_of(cell: u64) -> u32 {
    (cell >> 32) as u32
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
    fn a_reply_is_news_again_if_a_change_was_told_since() {
        let stamps = Stamps::default();
        let here = place(&stamps, b"k");
        let others: [&dyn Fn(); 6] = [
            &|| stamps.show(here, 8, Protocol::Resp2, b"+a"),
            &|| stamps.show(here, 7, Protocol::Resp3, b"+b"),
            &|| stamps.note_kept(here, 9, both(b"+a")),
            &|| {
                stamps.touch(here);
            },
            &|| stamps.touch_all(),
            &|| stamps.touch_absent(),
        ];
        tells(&stamps, here, b"+a");
        for (at, other) in others.into_iter().enumerate() {
            stamps.show(here, 7, Protocol::Resp2, b"+a");
            other();
            assert!(tells(&stamps, here, b"+a"), "{at}");
            assert!(!tells(&stamps, here, b"+a"), "{at}");
        }
    }

    #[test]
    fn several_reads_of_a_key_that_does_not_change_let_each_other_be() {
        let stamps = Stamps::default();
        let here = place(&stamps, b"k");
        for round in 0..4 {
            for read in [7, 8] {
                let stamp = stamps.arm(here);
                stamps.show(here, read, Protocol::Resp2, b"+a");
                assert!(stamps.stands(&stamp, false) || round < 2, "{round} {read}");
            }
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
    fn a_place_that_is_given_up_ends_what_was_armed_and_what_was_known() {
        let stamps = Stamps::default();
        let here = place(&stamps, b"k");
        let first = stamps.arm(here);
        stamps.show(here, 7, Protocol::Resp2, b"+a");
        stamps.retire(here);
        assert!(!stamps.stands(&first, false) && !stamps.is_watched(here));
        assert!(!stamps.touch(here), "in silence");
        assert!(tells(&stamps, here, b"+a"), "there may have been news");
        assert!(!tells(&stamps, here, b"+a"));
        let second = stamps.arm(here);
        assert!(stamps.touch(here) && !stamps.stands(&second, false));
    }

    #[test]
    fn nothing_is_armed_in_a_place_that_is_being_given_up() {
        let stamps = Stamps::default();
        let here = place(&stamps, b"k");
        stamps.stamp(here).fetch_or(RETIRING, Ordering::SeqCst);
        let stamp = stamps.arm(here);
        assert!(!stamps.stands(&stamp, false));
        stamps.stamp(here).fetch_and(!RETIRING, Ordering::SeqCst);
        assert!(!stamps.stands(&stamp, false), "nor afterwards");
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
