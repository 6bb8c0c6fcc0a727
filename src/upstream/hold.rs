//! Holding commands back on a connection that is up: until it has shown that it is alive after a pause of
//! this process, or because it is to be left for another. What was entered before goes its way; what
//! comes later waits and was never sent, so that nothing of it is lost with the connection.

use std::time::Duration;

use super::conn::{Conn, Core, Role};
use super::pipe::Tick;
use super::reply_to::{Owner, ReplyTo};
use super::serve::{Ended, push_own};
use super::status::State;

/// A connection that does not answer within this time after a pause is given up, unless it owes more.
const PROBE_LIMIT: Duration = Duration::from_secs(1);

/// Why nothing that comes is written.
#[derive(Debug, Default)]
pub(super) struct Hold {
    /// A ping must be answered first; since when it is on its way.
    probe: Option<Tick>,
    /// The connection is left once what was entered is answered.
    leaving: bool,
    /// It is left once what was sent is answered: another server may have to be asked.
    pub(super) reopening: bool,
}

impl<W: ReplyTo> Conn<W> {
    /// It was opened to where connections are opened no more, or before all were to be opened anew.
    pub fn is_outdated(&self) -> bool {
        let dialer = &self.link.dialer;
        self.state() != State::Idle
            && (self.generation.get() != dialer.generation()
                || self.reopened.get() != dialer.verdict.generation())
    }

    /// Leaves the connection as soon as that harms nobody. Whoever waits for it then waits for the next.
    pub fn begin_move(&self) {
        self.moving.set(true);
        self.wake();
    }

    /// Before commands are entered: after a pause of the process, the connection may be dead. Its answer to
    /// a ping shows that it is not.
    #[inline]
    pub(super) fn look_back(&self, now: Tick) {
        if self.core.borrow().pipe.is_empty() {
            self.link.gaps.look_at_wall();
        }
        if self.gaps_seen.get() != self.link.gaps.count() {
            self.doubt(now);
        }
    }

    /// The process has stood still since it was known to be alive. A leased connection in this state is
    /// not given to anybody: what its session says could not be sent again.
    pub fn is_doubtful(&self) -> bool {
        self.link.gaps.look_at_wall();
        self.gaps_seen.get() != self.link.gaps.count()
    }

    #[cold]
    fn doubt(&self, now: Tick) {
        self.gaps_seen.set(self.link.gaps.count());
        if self.state() != State::Open {
            return;
        }
        let mut core = self.core.borrow_mut();
        let core = &mut *core;
        // Whoever holds a leased connection sees its end; nothing may come between what it says.
        let taken = self.role() == Role::Leased && !core.pipe.is_empty();
        // What is to be left is held back already, and a ping would lie behind that.
        let left = core.hold.leaving || core.hold.reopening;
        if taken || core.pipe.is_monitor() || core.hold.probe.is_some() || left {
            return;
        }
        push_own(core, &self.link, b"*1\r\n$4\r\nPING\r\n", Owner::Probe);
        core.hold.probe = Some(now);
        core.outbox.hold();
    }

    /// What the loss of the connection means for what it held back: its time begins anew.
    pub(super) fn end_hold(&self, core: &mut Core<W>) {
        let hold = std::mem::take(&mut core.hold);
        if hold.probe.is_some() || hold.leaving || hold.reopening {
            let now = self.link.now();
            core.pipe
                .iter_mut()
                .for_each(|run| run.since = run.since.max(now));
        }
    }

    /// Whether the connection is to be left now.
    pub(super) fn poll_move(&self) -> Result<(), Ended> {
        if !self.moving.get() {
            return Ok(());
        }
        let mut core = self.core.borrow_mut();
        if self.role() == Role::Leased {
            // One that is held is closed when it is given back.
            let unused = core.pipe.is_empty() && self.is_idle();
            return if unused { Err(Ended::Closed) } else { Ok(()) };
        }
        if !core.hold.leaving {
            core.hold.leaving = true;
            core.outbox.hold();
        }
        if core.outbox.is_drained() {
            return Err(Ended::Closed);
        }
        Ok(())
    }
}

impl Hold {
    /// A ping must be answered first.
    pub(super) fn is_probing(&self) -> bool {
        self.probe.is_some()
    }
}

impl<W> Core<W> {
    /// The ping was answered: what waited for that may leave.
    pub(super) fn handle_probed(&mut self) {
        self.hold.probe = None;
        self.release();
    }

    /// Lets go what nothing holds any more.
    pub(super) fn release(&mut self) {
        let Hold {
            probe,
            leaving,
            reopening,
        } = self.hold;
        if probe.is_none() && !leaving && !reopening {
            self.outbox.release();
        }
    }

    /// How long the answer to the ping may still take, if nothing else is owed before it. Zero: the
    /// connection is dead.
    pub(super) fn probe_left(&self, now: Tick, command_timeout: Duration) -> Option<Duration> {
        let since = self.hold.probe?;
        let front = self.pipe.front()?;
        if !matches!(front.owner, Some(Owner::Probe)) {
            return None;
        }
        let since = Duration::from_micros(now.saturating_sub(since.max(front.since)));
        let limit = PROBE_LIMIT.min(command_timeout / 2);
        Some(limit.saturating_sub(since))
    }
}
