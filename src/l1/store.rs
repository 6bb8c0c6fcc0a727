//! Where entries lie, for all threads.
//!
//! moka decides by frequency what stays within the bound. Inserting is slow and can stall, so a thread of
//! its own does it, from a bounded queue: an entry that comes late does no harm, its stamp decides, and one
//! that finds the queue full is not kept.

use std::sync::Arc;

use super::entry::{Entry, Read};

/// All entries of the process.
#[derive(Debug)]
pub struct Store {
    cache: moka::sync::Cache<u64, Arc<Entry>, foldhash::fast::RandomState>,
}

impl Store {
    /// A store that keeps within `max_bytes` of memory.
    pub fn new(max_bytes: usize) -> Self {
        let cache = moka::sync::Cache::builder()
            .max_capacity(max_bytes as u64)
            .weigher(|_, entry: &Arc<Entry>| u32::try_from(entry.size()).unwrap_or(u32::MAX))
            .build_with_hasher(foldhash::fast::RandomState::default());
        Self { cache }
    }

    /// The entry that answers a read, good or not.
    pub fn get(&self, read: &Read<'_>) -> Option<Arc<Entry>> {
        self.cache
            .get(&read.hash)
            .filter(|entry| entry.answers(read))
    }

    /// Takes an entry in, sooner or later or not at all.
    pub fn insert(&self, entry: Arc<Entry>) {
        self.cache.insert(entry.hash, entry);
    }

    /// Takes an entry out.
    pub fn remove(&self, entry: &Entry) {
        self.cache.invalidate(&entry.hash);
    }

    /// All entries, good or not.
    pub fn iter(&self) -> impl Iterator<Item = Arc<Entry>> {
        self.cache.iter().map(|(_, entry)| entry)
    }

    /// Entries now, about.
    pub fn len(&self) -> u64 {
        self.cache.entry_count()
    }

    /// Holds nothing, about.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of memory in use by them, about.
    pub fn bytes(&self) -> u64 {
        self.cache.weighted_size()
    }
}
