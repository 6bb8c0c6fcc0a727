//! The hottest entries of one worker, in front of the store.
//!
//! One comparison of hashes away, without a lock. Whether an entry is good is for its stamp to say, here as
//! in the store, so a front needs no invalidation of its own.

use std::sync::Arc;

use super::entry::{Entry, Read};

/// Entries of a front, a power of two.
const PLACES: usize = 1 << 10;

/// The hottest entries of one worker.
#[derive(Debug)]
pub struct Front {
    entries: Box<[Option<Arc<Entry>>]>,
}

impl Default for Front {
    fn default() -> Self {
        Self {
            entries: (0..PLACES).map(|_| None).collect(),
        }
    }
}

impl Front {
    fn place(hash: u64) -> usize {
        (hash >> 20) as usize & (PLACES - 1)
    }

    /// The entry that answers a read, good or not.
    #[inline]
    pub fn get(&self, read: &Read<'_>) -> Option<&Arc<Entry>> {
        self.entries[Self::place(read.hash)]
            .as_ref()
            .filter(|entry| entry.answers(read))
    }

    /// Takes an entry in, instead of the one in its place.
    pub fn put(&mut self, entry: Arc<Entry>) {
        let place = Self::place(entry.hash);
        self.entries[place] = Some(entry);
    }

    /// Takes out what is there instead of an entry for this read.
    pub fn clear(&mut self, hash: u64) {
        self.entries[Self::place(hash)] = None;
    }
}
