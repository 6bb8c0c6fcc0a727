//! Noticing a worker that stands still: its clients wait, and nothing else would say so.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::stats::WorkerStats;

/// How often it is looked.
const LOOK: Duration = Duration::from_secs(1);

/// A worker that has not been heard for this long is said to stand still.
pub const STALLED: Duration = Duration::from_secs(5);

/// One that has not been heard for this long will not come back: the process is not alive.
pub const DEAD: Duration = Duration::from_secs(30);

/// Watches the hearts of all workers, until the process ends.
pub async fn watch(workers: Vec<Arc<WorkerStats>>) {
    let mut seen: Vec<(u64, Duration)> = workers
        .iter()
        .map(|worker| (worker.beat.load(Relaxed), Duration::ZERO))
        .collect();
    loop {
        let before = Instant::now();
        sleep(LOOK).await;
        // When the whole process stood still, nobody is to blame.
        let passed = before.elapsed().min(2 * LOOK);
        for (index, worker) in workers.iter().enumerate() {
            let beat = worker.beat.load(Relaxed);
            let (known, silent) = &mut seen[index];
            let was = *silent;
            *silent = if beat == *known {
                was + passed
            } else {
                Duration::ZERO
            };
            *known = beat;
            worker.silent_ms.store(silent.as_millis() as u64, Relaxed);
            tell(index, was, *silent);
        }
    }
}

fn tell(worker: usize, was: Duration, now: Duration) {
    if was < STALLED && now >= STALLED {
        let silent = now.as_secs();
        tracing::error!(worker, silent, "a worker stands still: its clients wait");
    } else if was >= STALLED && now < STALLED {
        tracing::warn!(worker, "the worker goes on");
    }
}
