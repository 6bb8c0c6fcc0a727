//! Finding a command by its name, in any case, without copying it.
//!
//! An open-addressing table with linear probing. A name of up to sixteen bytes is held as two words
//! in upper case, so one probe compares three integers; longer names compare their bytes as well.

/// From names to positions.
#[derive(Clone, Debug)]
pub(super) struct Index {
    /// A power of two, at most half of them in use, so an empty slot ends every probe soon.
    slots: Box<[Slot]>,
    /// The names longer than [`FOLDED`], by position; empty strings for the others.
    long: Box<[Box<str>]>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    folded: Folded,
    /// The position plus one; 0 is an empty slot.
    position: u32,
}

/// The first sixteen bytes of a name in upper case, and its length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Folded {
    low: u64,
    high: u64,
    len: u32,
}

/// How many bytes of a name [`Folded`] holds.
const FOLDED: usize = 16;

/// Longer than any command name; keeps a hostile "name" of megabytes from being looked at.
const MAX_NAME: usize = 128;

impl Index {
    pub(super) fn new<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> Self {
        let size = (names.len() * 2).next_power_of_two().max(16);
        let mut slots = vec![Slot::default(); size].into_boxed_slice();
        let mut long = Vec::with_capacity(names.len());
        for (name, position) in names.zip(1..) {
            let folded = Folded::new(name.as_bytes());
            let mut at = folded.hash(size);
            while slots[at].position != 0 {
                at = (at + 1) & (size - 1);
            }
            slots[at] = Slot { folded, position };
            long.push(if name.len() > FOLDED {
                Box::from(name)
            } else {
                Box::default()
            });
        }
        Self {
            slots,
            long: long.into_boxed_slice(),
        }
    }

    pub(super) fn find(&self, name: &[u8]) -> Option<usize> {
        if name.len() > MAX_NAME {
            return None;
        }
        let folded = Folded::new(name);
        let mask = self.slots.len() - 1;
        let mut at = folded.hash(self.slots.len());
        loop {
            let slot = self.slots[at];
            if slot.position == 0 {
                return None;
            }
            let position = slot.position as usize - 1;
            if slot.folded == folded
                && (name.len() <= FOLDED
                    || self.long[position].as_bytes().eq_ignore_ascii_case(name))
            {
                return Some(position);
            }
            at = (at + 1) & mask;
        }
    }
}

impl Folded {
    fn new(name: &[u8]) -> Self {
        let (low, high) = match name.len() {
            0..=8 => (short_word(name), 0),
            9..=15 => (word(&name[..8]), short_word(&name[8..])),
            _ => (word(&name[..8]), word(&name[8..FOLDED])),
        };
        Self {
            low: upper(low),
            high: upper(high),
            len: name.len() as u32,
        }
    }

    /// A slot number below `size`, which is a power of two.
    fn hash(self, size: usize) -> usize {
        // Odd constants from the golden ratio; the good bits of a product are its upper ones.
        let mixed = (self.low ^ self.high.rotate_left(29) ^ u64::from(self.len))
            .wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> (64 - size.trailing_zeros())) as usize
    }
}

/// Eight bytes, little endian.
fn word(bytes: &[u8]) -> u64 {
    bytes
        .first_chunk::<8>()
        .map_or(0, |chunk| u64::from_le_bytes(*chunk))
}

/// Up to eight bytes, little endian, zeros above. Two overlapping reads instead of a loop.
fn short_word(bytes: &[u8]) -> u64 {
    let len = bytes.len();
    if let Some(whole) = bytes.first_chunk::<8>() {
        u64::from_le_bytes(*whole)
    } else if let (Some(head), Some(tail)) = (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
        u64::from(u32::from_le_bytes(*head))
            | u64::from(u32::from_le_bytes(*tail)) << (8 * (len - 4))
    } else if len > 0 {
        u64::from(bytes[0])
            | u64::from(bytes[len / 2]) << (8 * (len / 2))
            | u64::from(bytes[len - 1]) << (8 * (len - 1))
    } else {
        0
    }
}

/// Eight bytes at once: ASCII letters to upper case, every other byte as it is.
fn upper(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x80 * ONES;
    let low_bits = word & !HIGH;
    // The additions carry into a byte's top bit, never into its neighbour.
    let from_a = low_bits + (0x80 - b'a' as u64) * ONES;
    let above_z = low_bits + (0x7f - b'z' as u64) * ONES;
    let letters = (from_a ^ above_z) & !word & HIGH;
    word ^ (letters >> 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upper_changes_ascii_letters_and_nothing_else() {
        for byte in 0..=u8::MAX {
            for position in 0..8 {
                let mut bytes = [0u8; 8];
                bytes[position] = byte;
                let mut expected = bytes;
                expected.make_ascii_uppercase();
                assert_eq!(
                    upper(u64::from_le_bytes(bytes)),
                    u64::from_le_bytes(expected)
                );
            }
        }
    }

    #[test]
    fn words_of_every_length_hold_every_byte() {
        let bytes = b"ABCDEFGHIJKLMNOPQRSTUVWX";
        for len in 0..=FOLDED {
            let folded = Folded::new(&bytes[..len]);
            let mut expected = [0u8; FOLDED];
            expected[..len].copy_from_slice(&bytes[..len]);
            assert_eq!(folded.low, word(&expected[..8]), "{len}");
            assert_eq!(folded.high, word(&expected[8..]), "{len}");
        }
    }

    #[test]
    fn long_names_differ_beyond_their_first_sixteen_bytes() {
        let names = [
            "ABCDEFGHIJKLMNOPQR",
            "ABCDEFGHIJKLMNOPQS",
            "ABCDEFGHIJKLMNOP",
        ];
        let index = Index::new(names.into_iter());
        assert_eq!(index.find(b"abcdefghijklmnopqs"), Some(1));
        assert_eq!(index.find(b"abcdefghijklmnopqr"), Some(0));
        assert_eq!(index.find(b"abcdefghijklmnop"), Some(2));
        assert_eq!(index.find(b"abcdefghijklmnopqt"), None);
    }

    #[test]
    fn an_empty_or_endless_name_finds_nothing() {
        let index = Index::new(["GET"].into_iter());
        assert_eq!(index.find(b""), None);
        assert_eq!(index.find(&vec![b'A'; 1 << 20]), None);
        assert_eq!(index.find(b"GET\0"), None);
    }
}
