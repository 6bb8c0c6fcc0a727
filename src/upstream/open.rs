//! Getting a connection up: permit, attempts and the pauses between them, and the patience of the
//! commands that wait.

use std::future::poll_fn;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::time::{sleep, sleep_until};

use super::IdentityId;
use super::budget::Permit;
use super::conn::{Conn, Role};
use super::facts::Identity;
use super::handshake::Refusal;
use super::logins::SAME_ANSWER;
use super::opening::Wish;
use super::pipe::{Run, Tick};
use super::reply_to::{Failure, Owner, ReplyTo};
use super::serve::ask_facts;
use super::stream::Stream;
use crate::stats::ConnectFailure;

/// How often waiting commands are looked at while a connection is being opened.
const QUEUE_CHECK: Duration = Duration::from_millis(20);

/// While the upstream is known to be down, nobody waits for longer than this for the attempt under way.
const QUICK_ATTEMPT: Duration = Duration::from_millis(100);

/// For how long those who waited in vain for a permit can pick that answer up; who asks later waits
/// on their own account.
const BUSY_ANSWER: Duration = Duration::from_millis(40);

impl<W: ReplyTo> Conn<W> {
    /// A connected stream, however many attempts it takes while somebody waits for it.
    pub(super) async fn open_stream(&self) -> Option<(Stream, Permit)> {
        if self.role == Role::Leased {
            return self.open_lease().await;
        }
        let dialer = &self.link.dialer;
        loop {
            if self.is_refused() {
                return None;
            }
            let pause = self.core.borrow().retry_at;
            if let Some(at) = pause {
                self.expiring(sleep_until(at.into())).await;
            }
            let permit = self.acquire().await?;
            self.begin();
            self.core.borrow_mut().dialing = Some(Instant::now());
            let dialed = self.expiring(dialer.dial(self.key, self.wish())).await;
            self.core.borrow_mut().dialing = None;
            match dialed {
                Ok((stream, identity)) => {
                    self.handle_open(identity);
                    return Some((stream, permit));
                }
                Err(refusal) => self.handle_refusal(refusal),
            }
            if self.core.borrow().pipe.is_empty() {
                return None;
            }
        }
    }

    /// A connection in a client's name that nobody has entered a command for is the question whether the
    /// server knows it.
    fn wish(&self) -> Wish {
        let is_known = self.key.identity == IdentityId::OWN || !self.core.borrow().pipe.is_empty();
        if is_known { Wish::Shared } else { Wish::Login }
    }

    /// Attempts for as long as a command may wait for the server, given up as soon as nobody wants the
    /// connection any more. How long that may be is for those who wait to say.
    async fn open_lease(&self) -> Option<(Stream, Permit)> {
        let dialer = &self.link.dialer;
        let began = Instant::now();
        loop {
            let permit = self.unless_closed(dialer.budget.acquire_leased()).await??;
            self.permitted.set(true);
            self.begin();
            let dialed = self.unless_closed(dialer.dial(self.key, Wish::Leased));
            let refusal = match dialed.await? {
                Ok((stream, identity)) => {
                    self.handle_open(identity);
                    return Some((stream, permit));
                }
                Err(refusal) => refusal,
            };
            drop(permit);
            let Some(at) = self.next_attempt(&refusal, began) else {
                self.handle_refusal(refusal);
                return None;
            };
            // Not on its way: whoever waits for it takes any other that is given back meanwhile.
            self.permitted.set(false);
            self.unless_closed(sleep_until(at.into())).await?;
        }
    }

    /// When a lease that was wanted since `began` is tried again, if that is of use to anybody.
    fn next_attempt(&self, refusal: &Refusal, began: Instant) -> Option<Instant> {
        let dialer = &self.link.dialer;
        let at = dialer.gate.retry_at().unwrap_or_else(Instant::now);
        if refusal.only_this_key {
            return None;
        }
        if refusal.cause == ConnectFailure::MaxClients {
            return Some(at); // until `lease_timeout` ends the wait
        }
        let patience = dialer.config().queue_timeout;
        let since = dialer
            .gate
            .down_since()
            .map_or(began, |down| down.min(began));
        (at < since + patience).then_some(at)
    }

    /// Waits for `future`, or until the connection is not wanted any more.
    async fn unless_closed<F: Future>(&self, future: F) -> Option<F::Output> {
        let closed = poll_fn(|cx| {
            self.register(cx.waker());
            match self.is_closing() {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        });
        tokio::select! {
            biased;
            () = closed => None,
            output = future => Some(output),
        }
    }

    /// The server has said no a moment ago: that is the answer still.
    fn is_refused(&self) -> bool {
        let own = self.status.refusal();
        let refusal = own.or_else(|| {
            let logins = &self.link.dialer.logins;
            let login = logins.get(self.key.identity)?;
            let (text, until) = logins.refusal(&login, self.key)?;
            let refused = Failure::Refused(text);
            self.status.fail(refused.clone(), until);
            Some(refused)
        });
        if let Some(refused) = &refusal {
            self.fail_all(refused);
        }
        refusal.is_some()
    }

    /// The right to one more connection. Nobody is made to give one up for a connection that is only
    /// opened in advance.
    async fn acquire(&self) -> Option<Permit> {
        let budget = &self.link.dialer.budget;
        let permit = budget.try_acquire();
        if permit.is_some() || !self.is_awaited() {
            return permit;
        }
        let limit = self.link.dialer.config().lease_timeout.as_micros() as u64;
        let (began, mut told) = (self.link.now(), self.link.now());
        let mut permit = std::pin::pin!(budget.acquire());
        loop {
            tokio::select! {
                permit = &mut permit => {
                    self.core.borrow_mut().permitted_at = self.link.now();
                    return permit;
                }
                () = sleep(QUEUE_CHECK) => {}
            }
            let now = self.link.now();
            let busy = Failure::Busy(budget.max());
            let is_old = |since: Tick| now.saturating_sub(since.max(began)) >= limit;
            while let Some(run) = self.pop_older(is_old) {
                self.fail_run(run, &busy);
            }
            self.make_room();
            if now - told >= limit {
                told = now;
                self.status.fail(busy, Instant::now() + BUSY_ANSWER);
            }
            if !self.is_awaited() {
                return None;
            }
        }
    }

    /// Somebody waits for it to open.
    fn is_awaited(&self) -> bool {
        !self.core.borrow().pipe.is_empty() || self.status.is_watched()
    }

    /// The oldest run if it is too old and nothing of it was sent.
    pub(super) fn pop_older(&self, is_old: impl Fn(Tick) -> bool) -> Option<Run<Owner<W>>> {
        let mut core = self.core.borrow_mut();
        core.pipe.front().filter(|run| is_old(run.since))?;
        let run = core.pipe.pop_unsent()?;
        core.outbox.handle_answered(run.bytes);
        Some(run)
    }

    fn handle_open(&self, identity: Identity) {
        self.gaps_seen.set(self.link.gaps.count());
        self.moving.set(self.is_outdated());
        let mut core = self.core.borrow_mut();
        core.backoff.reset();
        core.retry_at = None;
        core.down = None;
        let now = self.link.now();
        core.last_heard = now;
        core.last_used = now; // whoever waited for it has not used it yet
        core.server_id = identity.connection;
        for run in core.pipe.iter_mut().filter(|run| run.since <= now) {
            let waited = Duration::from_micros(now - run.since);
            self.link
                .stats
                .queue_wait
                .record(waited, u64::from(run.owed));
            run.since = now; // what was not sent could not be answered
        }
        if self.role == Role::Shared && self.link.dialer.may_ask_facts(self.key) {
            ask_facts(&mut core, &self.link, identity);
        }
    }

    fn handle_refusal(&self, refusal: Refusal) {
        let now = self.link.now();
        if refusal.only_this_key {
            let logins = &self.link.dialer.logins;
            if let Some(login) = logins.get(self.key.identity) {
                logins.refuse(&login, self.key, &refusal.message);
            }
            let refused = Failure::Refused(refusal.message);
            self.status
                .fail(refused.clone(), Instant::now() + SAME_ANSWER);
            self.fail_all(&refused);
            return;
        }
        let cause = describe(&refusal);
        let until = {
            let mut core = self.core.borrow_mut();
            let own = Instant::now() + core.backoff.next_pause();
            let mut until = self.link.dialer.gate.retry_at().unwrap_or(own);
            core.retry_at = Some(until);
            if self.role == Role::Leased {
                until = Instant::now() + SAME_ANSWER; // it is not tried again
            }
            let since = core.down.as_ref().map_or(now, |(since, _)| *since);
            core.down = Some((since, cause.clone()));
            until
        };
        self.status.fail(Failure::Unreachable(cause), until);
        self.expire_queue();
    }

    /// Waits for `future`; commands that wait too long meanwhile get their error.
    async fn expiring<F: Future>(&self, future: F) -> F::Output {
        let mut future = std::pin::pin!(future);
        loop {
            tokio::select! {
                output = &mut future => return output,
                () = sleep(QUEUE_CHECK) => self.expire_queue(),
            }
        }
    }

    /// Fails what has waited for a connection longer than `queue_timeout`. While attempts have been
    /// failing for that long and none is due, nothing waits at all.
    fn expire_queue(&self) {
        self.expire_runs();
        self.make_room();
    }

    fn expire_runs(&self) {
        let limit = self.link.dialer.config().queue_timeout.as_micros() as u64;
        let now = self.link.now();
        let is_known_down = self.link.dialer.is_hopeless();
        let (hopeless, cause, permitted_at) = {
            let core = self.core.borrow();
            let (down_since, cause) = match &core.down {
                Some((since, cause)) => (*since, cause.clone()),
                None => (now, "no connection yet".to_owned()),
            };
            let pausing = core.retry_at.is_some_and(|at| at > Instant::now());
            // An attempt at a server that is back is soon over.
            let lingers = core.dialing.is_some_and(|at| at.elapsed() >= QUICK_ATTEMPT);
            (
                pausing && now.saturating_sub(down_since) >= limit
                    || (pausing || lingers) && is_known_down,
                Failure::Unreachable(cause),
                core.permitted_at,
            )
        };
        self.shed();
        // The wait for a permit has a limit of its own.
        let is_old = |since: Tick| hopeless || now.saturating_sub(since.max(permitted_at)) >= limit;
        while let Some(run) = self.pop_older(is_old) {
            self.fail_run(run, &cause);
        }
    }
}

/// A refusal in the words that clients see.
pub fn describe(refusal: &Refusal) -> String {
    match refusal.cause {
        ConnectFailure::Tls | ConnectFailure::Certificate => format!("TLS: {}", refusal.message),
        ConnectFailure::Auth => format!("authentication failed: {}", refusal.message),
        ConnectFailure::MaxClients => {
            format!("connection limit of the server: {}", refusal.message)
        }
        _ => refusal.message.clone(),
    }
}
