//! Who is subscribed to what in the whole process, for PUBSUB NUMSUB.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Kind, Name};

/// Counts by name; touched only when a subscription begins or ends.
#[derive(Debug, Default)]
pub struct Census {
    counts: Mutex<[HashMap<Box<[u8]>, Count>; 3]>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Count {
    /// Clients of this proxy.
    clients: i64,
    /// Connections of this proxy that the server counts.
    hubs: i64,
}

impl Census {
    /// Clients have subscribed, or left.
    pub fn count_client(&self, name: &Name, change: i64) {
        self.change(name.kind, &name.bytes, |count| count.clients += change);
    }

    /// A hub's subscription has begun, or ended.
    pub(super) fn count_hub(&self, kind: Kind, name: &[u8], change: i64) {
        self.change(kind, name, |count| count.hubs += change);
    }

    /// What the server's count is with this proxy's clients in place of its hubs.
    pub fn adjust(&self, kind: Kind, name: &[u8], at_server: i64) -> i64 {
        let counts = self.lock();
        let own = counts[kind as usize].get(name).copied().unwrap_or_default();
        (at_server - own.hubs).max(0) + own.clients
    }

    fn change(&self, kind: Kind, name: &[u8], change: impl FnOnce(&mut Count)) {
        let mut counts = self.lock();
        let counts = &mut counts[kind as usize];
        let mut count = counts.get(name).copied().unwrap_or_default();
        change(&mut count);
        if count.clients == 0 && count.hubs == 0 {
            counts.remove(name);
        } else if let Some(known) = counts.get_mut(name) {
            *known = count;
        } else {
            counts.insert(name.into(), count);
        }
    }

    fn lock(&self) -> MutexGuard<'_, [HashMap<Box<[u8]>, Count>; 3]> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_count_instead_of_the_hub_that_carries_them() {
        let census = Census::default();
        let name = Name {
            kind: Kind::Channel,
            bytes: (*b"a").into(),
        };
        assert_eq!(census.adjust(Kind::Channel, b"a", 4), 4);
        census.count_hub(Kind::Channel, b"a", 1);
        census.count_client(&name, 3);
        assert_eq!(census.adjust(Kind::Channel, b"a", 4), 6);
        assert_eq!(census.adjust(Kind::Channel, b"a", 0), 3, "a hub just lost");
        assert_eq!(census.adjust(Kind::Shard, b"a", 4), 4);
        census.count_hub(Kind::Channel, b"a", -1);
        census.count_client(&name, -3);
        assert!(census.lock().iter().all(HashMap::is_empty));
    }
}
