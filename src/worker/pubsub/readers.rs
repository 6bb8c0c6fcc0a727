//! Readers that are behind with their messages.
//!
//! A hub's connection brings bytes faster than many subscribers can take copies of them. While copies take
//! a good part of `process.memory_limit`, the connection is read no further until those who read have
//! caught up. Who does not read is not waited for: it is cut for what it holds, as any client is.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::worker::Worker;
use crate::worker::client::Client;

/// Who holds this much is behind.
const BEHIND: usize = 64 * 1024;

/// Nobody is called slow before this.
const GRACE: Duration = Duration::from_millis(40);

/// A reader that takes less than this in a millisecond is slow, and not waited for...
const RATE: u64 = 1024;

/// ...nor is one that is still behind after this long: the server cuts the connection if too much waits.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often it is looked who has caught up.
pub(super) const CHECK: Duration = Duration::from_millis(2);

/// Subscribers of a worker that are behind.
#[derive(Debug, Default)]
pub(super) struct Readers {
    behind: RefCell<BTreeMap<u64, Behind>>,
    /// What other workers' hubs have sent, until the readers have caught up.
    kept: RefCell<Vec<Arc<Parcel>>>,
}

#[derive(Debug)]
struct Behind {
    client: Rc<Client>,
    /// Since when it is waited for, and what it had taken then.
    waited: Option<(Instant, u64)>,
    slow: bool,
}

impl Behind {
    /// Whether to wait for it.
    fn is_waited_for(&mut self, now: Instant) -> bool {
        if self.slow {
            return false; // until it has caught up
        }
        let taken = self.client.taken();
        let (since, before) = *self.waited.get_or_insert((now, taken));
        let waited = now - since;
        let fair = taken - before >= waited.as_millis() as u64 * RATE;
        self.slow = waited > PATIENCE || (waited > GRACE && !fair);
        !self.slow
    }
}

/// Messages for other workers, counted as long as they are on their way.
#[derive(Debug)]
pub struct Parcel {
    pub(super) bytes: Vec<u8>,
    posted: Arc<AtomicUsize>,
}

impl Parcel {
    pub(super) fn new(bytes: &[u8], posted: &Arc<AtomicUsize>) -> Arc<Self> {
        posted.fetch_add(bytes.len(), Relaxed);
        Arc::new(Self {
            bytes: bytes.to_vec(),
            posted: posted.clone(),
        })
    }
}

impl Drop for Parcel {
    fn drop(&mut self) {
        self.posted.fetch_sub(self.bytes.len(), Relaxed);
    }
}

impl Worker {
    /// Takes note of a subscriber that was just written to.
    pub(super) fn note_reader(&self, client: &Rc<Client>) {
        if client.counted.get() < BEHIND {
            return;
        }
        let mut behind = self.pubsub.readers.behind.borrow_mut();
        behind.entry(client.id()).or_insert_with(|| Behind {
            client: client.clone(),
            waited: None,
            slow: false,
        });
    }

    /// Messages take much of the memory there is, and somebody reads them as fast as may be.
    pub(super) fn waits_for_readers(&self) -> bool {
        let mut behind = self.pubsub.readers.behind.borrow_mut();
        behind.retain(|_, reader| reader.client.counted.get() >= BEHIND);
        if behind.is_empty() {
            return false;
        }
        if !self.is_crowded() {
            behind.values_mut().for_each(|reader| reader.waited = None);
            return false;
        }
        let now = Instant::now();
        // All are looked at: the time of each runs.
        let waited_for = |any, reader: &mut Behind| reader.is_waited_for(now) || any;
        behind.values_mut().fold(false, waited_for)
    }

    /// Keeps what another worker's hub has sent until the readers have caught up: it waits for that.
    pub(super) fn keep_parcel(self: &Rc<Self>, parcel: Arc<Parcel>) {
        if !self.waits_for_readers() {
            return;
        }
        let mut kept = self.pubsub.readers.kept.borrow_mut();
        kept.push(parcel);
        if kept.len() > 1 {
            return;
        }
        let worker = self.clone();
        tokio::task::spawn_local(async move {
            while worker.waits_for_readers() {
                tokio::time::sleep(CHECK).await;
            }
            worker.pubsub.readers.kept.borrow_mut().clear();
        });
    }
}
