//! The end of a connection, and of commands that get no reply.

use super::conn::{BACKLOG_HIGH, Conn, Role};
use super::loss;
use super::pipe::Run;
use super::proof::Proof;
use super::reply_to::{Failure, Owner, ReplyTo};
use super::serve::Ended;
use crate::sabotage::{self, Bug};

impl<W: ReplyTo> Conn<W> {
    /// Fails everything that waits or is in flight.
    pub(super) fn fail_all(&self, failure: &Failure) {
        let runs = {
            let mut core = self.core.borrow_mut();
            core.outbox.reset(Vec::new());
            core.pipe.take()
        };
        for run in runs {
            self.fail_run(run, failure);
        }
        self.make_room();
    }

    /// Has clients read on that waited for the outbox to empty.
    pub(super) fn make_room(&self) {
        let mut core = self.core.borrow_mut();
        if !core.waiting.is_empty() && core.outbox.unwritten().len() <= BACKLOG_HIGH / 2 {
            let waiting = std::mem::take(&mut core.waiting);
            drop(core);
            waiting.iter().for_each(ReplyTo::resume);
        }
    }

    /// Tells the owner of a run that its replies will not come.
    pub(super) fn fail_run(&self, run: Run<Owner<W>>, failure: &Failure) {
        // It may have been executed all the same. A read has shown nothing.
        if run.terms.touched.writes() {
            self.link.note_answered(&run.terms.touched);
        }
        let counters = &self.link.stats.counters;
        let visible = run.visible();
        let count = u64::from(visible);
        match run.owner {
            None => {}
            Some(Owner::Proof(_)) => self.core.borrow_mut().proof.note_answered(),
            Some(Owner::Ping | Owner::Probe | Owner::Inquiry(_)) => {}
            Some(Owner::Question(question)) => question.fail(failure),
            Some(Owner::Facts) => self.link.dialer.facts.fail(),
            Some(Owner::Client(_)) if self.abandoned.get() => counters.in_flight.sub(count),
            // It waits for nothing that could be missing.
            Some(Owner::Client(owner)) if visible == 0 => owner.resume(),
            Some(Owner::Client(owner)) => {
                counters.in_flight.sub(count);
                match failure {
                    Failure::Unreachable(_) | Failure::Refused(_) => {
                        counters.errors_unreachable.add(count)
                    }
                    Failure::Crowded { .. } => counters.errors_crowded.add(count),
                    Failure::Busy(_) | Failure::Full(_) => counters.errors_busy.add(count),
                    Failure::Timeout(_) => counters.errors_timeout.add(count),
                    Failure::Lost | Failure::Torn => counters.errors_lost.add(count),
                }
                owner.fail(failure, visible, run.terms.handling);
            }
        }
    }

    /// Sorts out what a connection that ended leaves behind.
    pub(super) fn handle_end(&self, ended: &Ended) {
        let waiting = std::mem::take(&mut self.core.borrow_mut().waiting);
        waiting.iter().for_each(ReplyTo::resume);
        if let Ended::Lost(reason) = ended {
            self.link
                .dialer
                .stats
                .lost
                .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let in_flight = self.core.borrow().pipe.len();
            tracing::warn!(
                reason,
                in_flight,
                db = self.key.db,
                "upstream connection lost"
            );
        }
        let config = &self.link.dialer.config();
        if matches!(ended, Ended::Lost(_)) {
            self.link.dialer.gate.note_loss(config);
        }
        let streaming = self.core.borrow().pipe.is_streaming();
        let (kept, failed) = {
            let mut core = self.core.borrow_mut();
            let written = core.outbox.unanswered_written();
            let bytes = core.outbox.unanswered().to_vec();
            let runs = core.pipe.take();
            // Whether they were executed is not known, nor whether anybody still waits for them.
            for run in runs.iter().filter(|run| run.terms.touched.writes()) {
                self.link.note_answered(&run.terms.touched);
            }
            if runs
                .iter()
                .any(|run| matches!(run.owner, Some(Owner::Facts)))
            {
                self.link.dialer.facts.fail();
            }
            core.outbox.reset(Vec::new());
            core.proof = Proof::default(); // the next connection is asked anew
            let retry = config.retry_reads && self.role == Role::Shared;
            let table = retry.then(|| self.link.dialer.table());
            loss::sort(
                runs,
                &bytes,
                written,
                streaming,
                table.as_deref(),
                config.on_lost_reply,
            )
        };
        for (run, torn) in failed {
            if sabotage::is(Bug::OldReplies) && !torn && self.role == Role::Shared {
                self.core.borrow_mut().pipe.push(run);
                continue;
            }
            self.fail_run(run, if torn { &Failure::Torn } else { &Failure::Lost });
        }
        let mut core = self.core.borrow_mut();
        let core = &mut *core;
        for (run, bytes) in kept {
            self.link
                .stats
                .counters
                .retries
                .add(if run.retried { u64::from(run.owed) } else { 0 });
            core.outbox.push(&bytes);
            core.pipe.push(run);
        }
        self.end_hold(core);
    }
}
