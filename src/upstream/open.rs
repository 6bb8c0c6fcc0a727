//! Getting a connection up: permit, attempts and the pauses between them, and the patience of the
//! commands that wait.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::budget::Permit;
use super::conn::{Conn, Role};
use super::facts::Identity;
use super::handshake::Refusal;
use super::logins::SAME_ANSWER;
use super::reply_to::{Failure, ReplyTo};
use super::serve::ask_facts;
use super::stream::Stream;
use crate::stats::ConnectFailure;

/// How often waiting commands are looked at while a connection is being opened.
const QUEUE_CHECK: Duration = Duration::from_millis(20);

impl<W: ReplyTo> Conn<W> {
    /// A connected stream, however many attempts it takes while somebody waits for it.
    pub(super) async fn open_stream(&self) -> Option<(Stream, Permit)> {
        let dialer = &self.link.dialer;
        loop {
            if self.is_refused() {
                return None;
            }
            let pause = self.core.borrow().retry_at;
            if let Some(at) = pause {
                self.expiring(tokio::time::sleep_until(at.into())).await;
            }
            let permit = self.acquire().await?;
            match self.expiring(dialer.dial(self.key)).await {
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
        let dialer = &self.link.dialer;
        let in_advance = self.core.borrow().pipe.is_empty() && !self.status.is_watched();
        if in_advance {
            return dialer.budget.try_acquire();
        }
        let limit = dialer.config.lease_timeout;
        let acquiring = dialer.budget.acquire(limit);
        let is_down = self.core.borrow().down.is_some();
        let permit = if is_down {
            self.expiring(acquiring).await
        } else {
            acquiring.await // nobody may say yet that the server is not to be reached
        };
        self.core.borrow_mut().permitted_at = self.link.now();
        if permit.is_none() {
            let busy = Failure::Busy(dialer.budget.max());
            self.status.fail(busy.clone(), Instant::now() + SAME_ANSWER);
            self.fail_all(&busy);
        }
        permit
    }

    fn handle_open(&self, identity: Identity) {
        let mut core = self.core.borrow_mut();
        core.backoff.reset();
        core.retry_at = None;
        core.down = None;
        let now = self.link.now();
        core.last_heard = now;
        core.last_used = now; // whoever waited for it has not used it yet
        for run in core.pipe.iter_mut().filter(|run| run.since <= now) {
            let waited = Duration::from_micros(now - run.since);
            self.link
                .stats
                .queue_wait
                .record(waited, u64::from(run.owed));
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
            let pause = core.backoff.next_pause();
            core.retry_at = Some(Instant::now() + pause);
            let since = core.down.as_ref().map_or(now, |(since, _)| *since);
            core.down = Some((since, cause.clone()));
            Instant::now() + pause
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
        let limit = self.link.dialer.config.queue_timeout.as_micros() as u64;
        let now = self.link.now();
        loop {
            let (run, cause) = {
                let mut core = self.core.borrow_mut();
                // To wait for the right to a connection is not to wait for the server.
                let (down_since, not_before, cause) = match &core.down {
                    Some((since, cause)) => (*since, 0, cause.clone()),
                    None => (now, core.permitted_at, "no connection yet".to_owned()),
                };
                let pausing = core.retry_at.is_some_and(|at| at > Instant::now());
                let hopeless = pausing && now.saturating_sub(down_since) >= limit;
                match core.pipe.front() {
                    Some(front)
                        if hopeless || now.saturating_sub(front.since.max(not_before)) >= limit => {
                    }
                    _ => return,
                }
                let Some(run) = core.pipe.pop_unsent() else {
                    return;
                };
                core.outbox.handle_answered(run.bytes);
                (run, cause)
            };
            self.fail_run(run, &Failure::Unreachable(cause));
        }
    }
}

/// A refusal in the words that clients see.
fn describe(refusal: &Refusal) -> String {
    match refusal.cause {
        ConnectFailure::Dns | ConnectFailure::Tcp | ConnectFailure::Timeout => {
            refusal.message.clone()
        }
        ConnectFailure::Tls => format!("TLS: {}", refusal.message),
        ConnectFailure::Auth => format!("authentication failed: {}", refusal.message),
        ConnectFailure::MaxClients => {
            format!("connection limit of the server: {}", refusal.message)
        }
        ConnectFailure::NotReady | ConnectFailure::Protocol => refusal.message.clone(),
    }
}
