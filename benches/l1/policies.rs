//! What to compare with: other ways to choose what stays, counted in entries.

use std::collections::{BTreeSet, HashMap};

/// Hits among the reads after the first `warm`.
pub fn lru(trace: &[u32], capacity: usize, warm: usize) -> u64 {
    let mut last: HashMap<u32, u64, foldhash::fast::FixedState> = HashMap::default();
    let mut order: BTreeSet<(u64, u32)> = BTreeSet::new();
    let mut hits = 0;
    for (now, id) in trace.iter().enumerate() {
        if let Some(before) = last.insert(*id, now as u64) {
            order.remove(&(before, *id));
            hits += u64::from(now >= warm);
        }
        order.insert((now as u64, *id));
        if order.len() > capacity
            && let Some((_, oldest)) = order.pop_first()
        {
            last.remove(&oldest);
        }
    }
    hits
}

/// The keys that are read most, known beforehand and never changed.
pub fn static_best(trace: &[u32], capacity: usize, warm: usize) -> u64 {
    let mut reads: HashMap<u32, u64, foldhash::fast::FixedState> = HashMap::default();
    for id in &trace[warm..] {
        *reads.entry(*id).or_default() += 1;
    }
    let mut reads: Vec<u64> = reads.into_values().collect();
    reads.sort_unstable_by(|a, b| b.cmp(a));
    reads.iter().take(capacity).sum()
}

/// Throws out what will be read last (Belady): nothing can be better, and nothing can know.
pub fn belady(trace: &[u32], capacity: usize, warm: usize) -> u64 {
    let mut next = vec![u32::MAX; trace.len()];
    let mut seen: HashMap<u32, u32, foldhash::fast::FixedState> = HashMap::default();
    for (at, id) in trace.iter().enumerate().rev() {
        next[at] = seen.insert(*id, at as u32).unwrap_or(u32::MAX);
    }
    let mut held: HashMap<u32, u32, foldhash::fast::FixedState> = HashMap::default();
    let mut order: BTreeSet<(u32, u32)> = BTreeSet::new();
    let mut hits = 0;
    for (at, id) in trace.iter().enumerate() {
        if let Some(due) = held.remove(id) {
            order.remove(&(due, *id));
            hits += u64::from(at >= warm);
        }
        held.insert(*id, next[at]);
        order.insert((next[at], *id));
        if order.len() > capacity
            && let Some((_, last)) = order.pop_last()
        {
            held.remove(&last);
        }
    }
    hits
}

/// moka alone, which every miss is put into.
pub fn moka(trace: &[u32], capacity: usize, warm: usize) -> u64 {
    let cache = moka::sync::Cache::builder()
        .max_capacity(capacity as u64)
        .build_with_hasher(foldhash::fast::RandomState::default());
    let mut hits = 0;
    for (at, id) in trace.iter().enumerate() {
        if cache.get(id).is_some() {
            hits += u64::from(at >= warm);
        } else {
            cache.insert(*id, ());
        }
    }
    hits
}
