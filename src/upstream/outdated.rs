//! What a connection does about a server that is not well: asks how it is, and gives way to a new
//! connection when another server may be the master. And what it does not hold against a server: time in
//! which this process itself did not run.

use std::time::Duration;

use tokio::time::Instant;

use super::conn::{Conn, Role};
use super::pipe::Tick;
use super::reply_to::{Owner, ReplyTo};
use super::serve::{Ended, Serving, push_own};
use crate::stats::ConnectFailure;

/// How soon a server with a complaint is asked whether that is over.
pub(super) const ASK: Duration = Duration::from_secs(1);

/// A timer that fires later than this tells that the process was not running.
const LATE: Duration = Duration::from_millis(500);

impl<W: ReplyTo> Conn<W> {
    /// It is about to be opened, where connections are opened now.
    pub(super) fn begin(&self) {
        let dialer = &self.link.dialer;
        self.generation.set(dialer.generation());
        self.reopened.set(dialer.verdict.generation());
    }
}

impl<W: ReplyTo> Serving<W> {
    /// An error reply that lies at `at` in the input says what is wrong with the server.
    pub(super) fn note_complaint(&mut self, cause: ConnectFailure, at: usize) {
        let link = &self.conn.link;
        if cause == ConnectFailure::ReadOnly {
            link.note_readonly();
        }
        link.dialer
            .note_complaint(cause, &self.input[at..self.filled]);
        let soon = Instant::now() + ASK;
        if self.timer.deadline() > soon {
            self.timer.as_mut().reset(soon);
        }
    }

    /// Asks the server how it is, if it has not been well.
    fn ask_how_it_is(&self) {
        if self.conn.role() != Role::Shared {
            return;
        }
        let link = &self.conn.link;
        if let Some(question) = link.dialer.take_question(self.conn.key().protocol) {
            let mut core = self.conn.core.borrow_mut();
            push_own(&mut core, link, &question, Owner::Ping);
        }
    }

    /// A shared connection that is outdated ends as soon as what was sent on it is answered; what was not
    /// sent waits for the next one. If that takes too long it goes on as it is.
    pub(super) fn poll_reopen(&mut self) -> Result<(), Ended> {
        let conn = self.conn.clone();
        let asked = conn.link.dialer.verdict.generation();
        if conn.reopened.get() == asked || conn.role() != Role::Shared {
            return Ok(());
        }
        let mut core = conn.core.borrow_mut();
        let core = &mut *core;
        if core.hold.is_probing() {
            return Ok(()); // whether it is alive comes first
        }
        let now = conn.link.now();
        let since = match self.draining {
            Some(since) => since,
            None => {
                let written = core.outbox.unanswered_written();
                let rest = core.pipe.whole(written) - written;
                core.outbox.hold_behind(rest);
                core.hold.reopening = true;
                *self.draining.insert(now)
            }
        };
        if core.outbox.unanswered_written() == 0 {
            return Err(Ended::Closed);
        }
        let limit = conn.link.dialer.config().queue_timeout;
        let left = limit.saturating_sub(Duration::from_micros(now.saturating_sub(since)));
        if left.is_zero() {
            core.hold.reopening = false;
            core.release();
            self.draining = None;
            // Where it leads is another question, which this does not answer.
            conn.reopened.set(asked);
            return Ok(());
        }
        let at = Instant::now() + left;
        if self.timer.deadline() > at {
            self.timer.as_mut().reset(at);
        }
        Ok(())
    }

    /// A process that was frozen or starved does not blame the server: what it could not read in that time
    /// counts as if it had not passed.
    pub(super) fn excuse_lateness(&mut self) {
        let late = Instant::now().saturating_duration_since(self.timer.deadline());
        if late < LATE || self.checked == 0 {
            return;
        }
        let (late, now) = (late.as_micros() as Tick, self.conn.link.now());
        let mut core = self.conn.core.borrow_mut();
        core.last_heard = (core.last_heard + late).min(now);
        core.stuck_since = core.stuck_since.map(|since| (since + late).min(now));
        for run in core.pipe.iter_mut().filter(|run| run.since <= now) {
            run.since = (run.since + late).min(now);
        }
    }

    /// What is due whenever the clock is looked at.
    pub(super) fn look_after(&mut self, slack: Duration) {
        self.note_silence(slack);
        self.ask_how_it_is();
    }

    /// Counts for how long nothing has come, as far as this process ran meanwhile and looked.
    fn note_silence(&mut self, slack: Duration) {
        let before = std::mem::replace(&mut self.checked, self.now);
        let core = self.conn.core.borrow();
        if core.pipe.is_empty() || core.last_heard > before {
            self.silent = Duration::ZERO;
        } else {
            let passed = Duration::from_micros(self.now.saturating_sub(before));
            self.silent += passed.min(slack * 2);
        }
    }
}
