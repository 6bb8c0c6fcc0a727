//! What all connections of a worker have in common.

use std::sync::Arc;
use std::time::Instant;

use super::dial::Dialer;
use super::gap::Gaps;
use super::pipe::Tick;
use crate::l1::L1;
use crate::l1::touched::Touched;
use crate::stats::WorkerStats;

/// What all connections of a worker have in common.
#[derive(Debug)]
pub struct Link {
    /// Opens connections.
    pub dialer: Arc<Dialer>,
    /// Counters of this worker.
    pub stats: Arc<WorkerStats>,
    /// When the worker started.
    pub started: Instant,
    /// When it stood still.
    pub gaps: Gaps,
    /// Cached replies, for which commands that were answered touch their keys.
    pub l1: Option<Arc<L1>>,
}

impl Link {
    /// The server is no master, or no longer: what pushes have said of it is worth nothing.
    pub(super) fn note_readonly(&self) {
        if let Some(l1) = &self.l1 {
            l1.lose_all();
        }
    }

    /// Commands that touched these keys are answered, or will not be; nobody has been told yet.
    #[inline]
    pub(super) fn note_answered(&self, touched: &Touched) {
        if !touched.is_nothing()
            && let Some(l1) = &self.l1
        {
            l1.note_answered(touched);
        }
    }

    /// The time of this worker, which does not go on while the process stands still.
    #[inline]
    pub fn now(&self) -> Tick {
        let passed = self.started.elapsed().as_micros();
        self.gaps.tick(u64::try_from(passed).unwrap_or(u64::MAX))
    }
}
