//! What a connection does when time has passed: deadlines of commands, silence of the server, keepalive,
//! and the end of a connection that nobody needs.

use std::future::Future;
use std::task::Context;
use std::time::Duration;

use tokio::time::Instant;

use super::conn::Role;
use super::outdated::ASK;
use super::patience;
use super::pipe::Run;
use super::proof;
use super::reply_to::{Failure, Owner, ReplyTo};
use super::serve::{Ended, IDLE_ENOUGH, Serving, push_own};
use crate::sabotage::{self, Bug};

impl<W: ReplyTo> Serving<W> {
    /// Looks at the clock when the timer says so, and sets it again.
    pub(super) fn poll_timer(&mut self, cx: &mut Context<'_>) -> Result<(), Ended> {
        let config = &self.conn.link.dialer.config();
        let slack = config.command_timeout / 8;
        self.excuse_lateness();
        let idle = self.conn.is_idle();
        if !std::mem::replace(&mut self.was_idle, idle) && idle {
            self.timer.as_mut().reset(Instant::now());
        }
        let busy = !self.conn.core.borrow().pipe.is_empty();
        if busy && self.timer.deadline() > Instant::now() + slack + slack {
            self.timer.as_mut().reset(Instant::now() + slack);
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            self.now = self.conn.link.now();
            let next = self.check_clock(slack)?;
            self.timer
                .as_mut()
                .reset(Instant::now() + next.max(Duration::from_millis(1)));
        }
        Ok(())
    }

    /// What the clock demands; returns when it must be looked at again.
    fn check_clock(&mut self, slack: Duration) -> Result<Duration, Ended> {
        let config = &self.conn.link.dialer.config();
        self.expire(config.command_timeout);
        self.look_after(slack);
        if self.conn.role() == Role::Shared && self.conn.core.borrow().proof.is_due(self.now) {
            self.ping();
        }
        let core = self.conn.core.borrow();
        let quiet = Duration::from_micros(self.now.saturating_sub(core.last_heard));
        let unused = Duration::from_micros(self.now.saturating_sub(core.last_used));
        if let Some(since) = core.stuck_since
            && Duration::from_micros(self.now.saturating_sub(since)) >= config.stall_timeout
        {
            return Err(Ended::Lost(format!(
                "took no byte for {:?}",
                config.stall_timeout
            )));
        }
        let probe = core.probe_left(self.now, config.command_timeout);
        if probe.is_some_and(|left| left.is_zero()) {
            let what = "no answer after this process stood still";
            return Err(Ended::Lost(what.to_owned()));
        }
        if let Some(front) = core.pipe.front() {
            if front.terms.patient {
                return patience::check(front, self.now, config.command_timeout);
            }
            let owed = self.now.saturating_sub(front.since);
            if quiet.min(Duration::from_micros(owed)) >= config.stall_timeout
                && self.silent + slack >= config.stall_timeout
            {
                self.conn.link.dialer.note_stall(quiet, self.now);
                return Err(Ended::Lost(format!(
                    "no byte for {:?}",
                    config.stall_timeout
                )));
            }
            return Ok(probe.map_or(slack, |left| left.min(slack)));
        }
        let may_leave = !config.idle_timeout.is_zero() && self.conn.is_idle();
        if may_leave && unused >= config.idle_timeout {
            return Err(Ended::Closed);
        }
        let mut next = Duration::from_secs(3600);
        if may_leave {
            next = next.min(config.idle_timeout - unused);
        }
        if !config.keepalive.is_zero() && !core.pipe.is_monitor() {
            if quiet >= config.keepalive {
                drop(core);
                self.ping();
                return Ok(slack);
            }
            next = next.min(config.keepalive - quiet);
        }
        if self.conn.link.dialer.budget.is_wanted() {
            next = next.min(IDLE_ENOUGH);
        }
        if self.conn.link.dialer.has_question() {
            next = next.min(ASK);
        }
        Ok(next)
    }

    /// Gives their error to the owners of commands that have waited too long; tombstones stay.
    fn expire(&self, limit: Duration) {
        let limit_us = limit.as_micros() as u64;
        let mut expired = Vec::new();
        {
            let mut core = self.conn.core.borrow_mut();
            let mut torn = core.pipe.is_streaming();
            let heard = core.last_heard;
            for run in core.pipe.iter_mut() {
                // A reply that is arriving counts from its latest byte.
                let since = if torn {
                    run.since.max(heard)
                } else {
                    run.since
                };
                if run.terms.patient || self.now.saturating_sub(since) < limit_us {
                    break;
                }
                if let Some(owner) = run.owner.take() {
                    expired.push((
                        Run {
                            owner: Some(owner),
                            terms: run.terms.clone(),
                            ..*run
                        },
                        torn,
                    ));
                }
                torn = false;
            }
        }
        for (run, torn) in expired {
            if sabotage::is(Bug::TimeoutPop) && !torn {
                self.conn.core.borrow_mut().pipe.pop_unsent();
            }
            let failure = if torn {
                Failure::Torn
            } else {
                Failure::Timeout(limit)
            };
            self.conn.core.borrow_mut().proof.note_doubt();
            self.conn.fail_run(run, &failure);
        }
    }

    /// Asks for a sign of life; on a shared connection, for proof as well that replies are in step.
    fn ping(&mut self) {
        let mut core = self.conn.core.borrow_mut();
        let link = &self.conn.link;
        if self.conn.role() == Role::Leased {
            return push_own(&mut core, link, b"*1\r\n$4\r\nPING\r\n", Owner::Ping);
        }
        let nonce = link.dialer.next_nonce();
        core.proof.note_asked(self.now);
        push_own(
            &mut core,
            link,
            &proof::question(nonce),
            Owner::Proof(nonce),
        );
    }
}
