//! How often keys were seen lately, about, in fixed memory.

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

/// Cells of the sketch, a power of two.
const CELLS: usize = 1 << 18;

/// After so many sights all counts are halved.
const WINDOW: u32 = 1 << 17;

/// Counts sights of keys by their hashes.
#[derive(Debug)]
pub struct Sketch {
    cells: Box<[AtomicU8]>,
    sights: AtomicU32,
}

impl Default for Sketch {
    fn default() -> Self {
        Self {
            cells: (0..CELLS).map(|_| AtomicU8::new(0)).collect(),
            sights: AtomicU32::new(0),
        }
    }
}

impl Sketch {
    /// Counts a sight of the key; how often it had been seen before, about, and never less.
    pub fn see(&self, hash: u64) -> u8 {
        let mut least = u8::MAX;
        for row in 0..3 {
            let cell = &self.cells[(hash >> (row * 18)) as usize & (CELLS - 1)];
            let seen = cell.load(Ordering::Relaxed);
            least = least.min(seen);
            cell.store(seen.saturating_add(1), Ordering::Relaxed);
        }
        if self.sights.fetch_add(1, Ordering::Relaxed) + 1 >= WINDOW {
            self.sights.store(0, Ordering::Relaxed);
            for cell in &self.cells {
                cell.store(cell.load(Ordering::Relaxed) / 2, Ordering::Relaxed);
            }
        }
        least
    }
}
