//! Clients that let the proxy wait: requests that do not come, wrong passwords, foreign protocols.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use super::Worker;
use super::client::{Client, Inner, Stage};
use crate::resp::request::RequestError;
use crate::session::errors;
use crate::upstream::pipe::Tick;

/// A request that is not whole must gain so much within `listen.request_timeout`.
const PROGRESS: u64 = 16 * 1024;

/// How often half-sent requests are looked for, at most and at least.
const MIN_SWEEP: Duration = Duration::from_millis(50);
const MAX_SWEEP: Duration = Duration::from_secs(10);

/// How long a client waits after each wrong password beyond the first few.
const PAUSE: Duration = Duration::from_millis(100);

/// Foreign protocols are told of this often at most.
const HINT: Duration = Duration::from_secs(60);

/// A request that was not whole when it was last looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Half {
    /// Where it begins in what the client has sent.
    start: u64,
    /// How much of it had come, and when that was.
    came: u64,
    since: Tick,
}

impl Half {
    /// What is to be remembered of a request of which `came` bytes are there `now`.
    fn follow(self, before: Option<Self>) -> Self {
        match before {
            Some(before) if before.start == self.start && self.came < before.came + PROGRESS => {
                before
            }
            _ => self,
        }
    }
}

impl Client {
    /// The request whose rest the client owes, as it is `now`.
    fn half(&self, now: Tick) -> Option<Half> {
        let inner = self.inner.borrow();
        if !self.awaited.get() || inner.held || inner.stage != Stage::Reading {
            return None;
        }
        let came = inner.session.half_read()?;
        Some(Half {
            start: self.received.get().saturating_sub(came),
            came,
            since: now,
        })
    }

    /// Closes the client, for a request that does not come.
    fn close_late(&self, limit: Duration) {
        let mut inner = self.inner.borrow_mut();
        let Inner {
            session,
            output,
            input,
            stage,
            ..
        } = &mut *inner;
        if session.is_streaming() {
            *stage = Stage::Broken; // the server has the beginning
        } else {
            session.give_up(&errors::too_slow(limit), output);
            *input = Vec::new();
            *stage = Stage::Closing;
        }
        self.note_memory(&inner);
        drop(inner);
        self.wake();
    }

    /// Hears nothing of the client for a while.
    pub(super) fn pause(self: &Rc<Self>) {
        let client = self.clone();
        tokio::task::spawn_local(async move {
            tokio::time::sleep(PAUSE).await;
            client.inner.borrow_mut().session.resume();
            client.wake();
        });
    }
}

impl Worker {
    /// Closes clients whose requests do not come in time, until the process ends.
    pub(super) async fn close_late(self: Rc<Self>) {
        let (mut halves, mut last) = (HashMap::new(), self.link.now());
        loop {
            let limit = self.patience.get().unwrap_or_default();
            let period = match limit.is_zero() {
                true => MAX_SWEEP,
                false => (limit / 4).clamp(MIN_SWEEP, MAX_SWEEP),
            };
            tokio::time::sleep(period).await;
            self.weigh();
            if limit.is_zero() {
                continue;
            }
            let now = self.link.now();
            // Who could not be heard while the process itself stood still is not late.
            let allowed = limit.as_micros() as Tick;
            if now.saturating_sub(last) > 2 * allowed {
                halves.clear();
            }
            last = now;
            halves = self.sweep_late(&halves, now, limit);
        }
    }

    fn sweep_late(
        &self,
        before: &HashMap<u64, Half>,
        now: Tick,
        limit: Duration,
    ) -> HashMap<u64, Half> {
        let mut halves = HashMap::new();
        let mut late = Vec::new();
        for client in self.all_clients() {
            let Some(half) = client.half(now) else {
                continue;
            };
            let half = half.follow(before.get(&client.id()).copied());
            if u128::from(now - half.since) >= limit.as_micros() {
                late.push(client);
            } else {
                halves.insert(client.id(), half);
            }
        }
        if let Some(first) = late.first() {
            self.stats
                .counters
                .clients_cut_request
                .add(late.len() as u64);
            tracing::warn!(
                client = first.id(),
                clients = late.len(),
                "clients closed: requests were begun and did not come (listen.request_timeout)"
            );
        }
        late.iter().for_each(|client| client.close_late(limit));
        halves
    }

    /// Says in the log what was taken for a client of Redis, now and then.
    pub(super) fn hint_at_foreign(&self, what: Option<RequestError>) {
        let Some(what) = what else { return };
        let now = self.link.now();
        let recent = |then: Tick| u128::from(now.saturating_sub(then)) < HINT.as_micros();
        if self.hinted.get().is_some_and(recent) {
            return;
        }
        self.hinted.set(Some(now));
        match what {
            RequestError::Tls => tracing::warn!(
                "client closed: it speaks TLS, and this port does not (listen.tls_cert)"
            ),
            _ => tracing::warn!(
                "client closed: it speaks HTTP, and this port speaks Redis's protocol"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn half(start: u64, came: u64, since: Tick) -> Half {
        Half { start, came, since }
    }

    #[test]
    fn a_request_that_hardly_moves_keeps_its_age() {
        let old = half(10, 5, 100);
        assert_eq!(half(10, 5, 200).follow(Some(old)), old);
        assert_eq!(half(10, 4 + PROGRESS, 200).follow(Some(old)), old);
    }

    #[test]
    fn progress_and_another_request_begin_anew() {
        let old = half(10, 5, 100);
        let moved = half(10, 5 + PROGRESS, 200);
        assert_eq!(moved.follow(Some(old)), moved);
        let next = half(90, 5, 200);
        assert_eq!(next.follow(Some(old)), next);
        assert_eq!(next.follow(None), next);
    }
}
