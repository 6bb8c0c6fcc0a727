//! Requests too large to be held whole.
//!
//! Once more than `upstream.large_request` bytes are declared or have come, a request leaves on a
//! leased connection while it still arrives. A command that has to be looked at first is held whole, up
//! to a limit. What cannot be carried is dropped as it comes and answered at its end, so that the client
//! and the proxy stay in step.

use std::sync::atomic::Ordering;
use std::task::Poll;

use super::special::Pin;
use super::subscribe::is_open_to_subscribers;
use super::transaction::MAX_TRANSACTION;
use super::{Discard, Env, Mode, ReplyMode, Router, Session, Status, errors, handling_of, touch};
use crate::commands::{Class, Spec};
use crate::l1::touched::Touched;
use crate::resp::encode;
use crate::resp::request::Scan;
use crate::upstream::pipe::Handling;

/// A request that cannot be streamed is held up to this size.
const MAX_HELD: usize = MAX_TRANSACTION;

/// While memory is short, a request that does not come in one piece may have this many bytes.
const MAX_PRESSED: u64 = 64 * 1024;

/// How a large request goes on.
enum Way<'t> {
    /// Passed on as it comes.
    Stream(&'t Spec),
    /// Held until it is whole.
    Whole,
    /// Dropped as it comes, and answered with this error.
    Refused(String),
}

impl Session {
    /// Decides about a command that is not whole. `None` means that its mode has begun.
    pub(super) fn begin_large<R: Router>(
        &mut self,
        partial: &[u8],
        env: &Env<'_>,
        router: &mut R,
    ) -> Option<Status> {
        // Before AUTH the scanner's own limits keep requests small, and none may leave.
        if !self.authenticated || self.scanner.is_idle() {
            return Some(Status::NeedInput);
        }
        let at_least = self.scanner.at_least();
        if at_least > MAX_PRESSED && env.settings.pressed.load(Ordering::Relaxed) {
            env.counters.refused_memory.add(1);
            self.abort_transaction();
            self.discard(errors::NO_MEMORY);
            return None;
        }
        if at_least <= env.settings.large_request as u64 {
            return Some(Status::NeedInput);
        }
        match self.large_way(partial, env) {
            Way::Whole if self.scanner.at_least() <= MAX_HELD as u64 => {
                return Some(Status::NeedInput);
            }
            Way::Whole => {
                let text = if self.in_transaction() {
                    errors::transaction_too_large()
                } else {
                    errors::TOO_LARGE.to_owned()
                };
                self.abort_transaction();
                self.discard(&text);
            }
            Way::Refused(text) => {
                self.abort_transaction();
                self.discard(&text);
            }
            // Whose reply comes while it is sent must be beyond doubt.
            Way::Stream(spec) if self.must_pause(spec, Class::Shared, env) => {
                return Some(Status::Hold);
            }
            Way::Stream(_) if self.pending.owed() > 0 => return Some(Status::Hold),
            Way::Stream(spec) => match self.poll_own_lease(router) {
                Poll::Pending => return Some(Status::Hold),
                Poll::Ready(Ok(())) => {
                    self.must_drain = false;
                    self.last_command = spec.id();
                    self.mode = Mode::Streaming;
                    router.begin_stream(self.touched_large(partial, spec, env));
                }
                Poll::Ready(Err(text)) => self.discard(&text),
            },
        }
        None
    }

    /// How a large request goes on, as far as its first words tell.
    fn large_way<'t>(&self, partial: &[u8], env: &Env<'t>) -> Way<'t> {
        let Some(name) = self.scanner.arg(0).and_then(|range| partial.get(range)) else {
            return Way::Refused(errors::TOO_LARGE.to_owned());
        };
        let Some(spec) = env.table.lookup(name) else {
            return Way::Whole;
        };
        let second = self.scanner.arg(1).and_then(|range| partial.get(range));
        let spec = match second {
            Some(second) if spec.is_container() => {
                env.table.subcommand(spec, second).unwrap_or(spec)
            }
            _ => spec,
        };
        match spec.class {
            _ if self.is_gated() && !is_open_to_subscribers(spec) => {
                Way::Refused(errors::subscribed(&spec.name))
            }
            Class::Refused => Way::Refused(errors::denied(spec, &[name])),
            Class::Shared
                if !spec.needs_args()
                    && self.carries_large()
                    && handling_of(spec) == Handling::Pass =>
            {
                Way::Stream(spec)
            }
            _ => Way::Whole,
        }
    }

    /// What a command touches of which only the beginning is here.
    fn touched_large(&self, partial: &[u8], spec: &Spec, env: &Env<'_>) -> Touched {
        let key = self.scanner.arg(1).and_then(|range| partial.get(range));
        touch::touched_by_first(env, spec, key)
    }

    /// No state of the session speaks against passing a large command on as it comes.
    fn carries_large(&self) -> bool {
        !self.in_transaction() && !self.has_pin(Pin::Monitor)
    }

    fn discard(&mut self, text: &str) {
        let mut reply = Vec::new();
        encode::error(&mut reply, text);
        self.mode = Mode::Discarding(Discard(reply).into());
    }

    /// Passes the bytes of a large request on, or drops them. `None` means that it has ended.
    pub(super) fn feed_large<R: Router>(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
        env: &Env<'_>,
        router: &mut R,
    ) -> (usize, Option<Status>) {
        let seen = self.take_scanned();
        let (length, whole) = match self.scanner.scan(&input[seen..], &env.settings.limits) {
            Ok(Scan::Incomplete) => (input.len(), false),
            Ok(Scan::Complete { consumed, .. }) => (seen + consumed, true),
            Err(e) => return (input.len(), Some(self.refuse_request(e, out, env))),
        };
        if !whole {
            if self.is_streaming() {
                router.stream(&input[..length], None);
            }
            return (length, Some(Status::NeedInput));
        }
        let visible = self.take_reply_mode() == ReplyMode::On;
        match std::mem::replace(&mut self.mode, Mode::Commands) {
            Mode::Discarding(reply) => {
                env.counters.commands_refused.add(1);
                if visible {
                    self.pending.put(&reply.0, out);
                }
            }
            Mode::Streaming | Mode::Commands => {
                self.pending.expect(1);
                self.must_drain = !self.is_pinned(); // the reply comes on the leased connection
                let handling = if visible {
                    Handling::Pass
                } else {
                    Handling::Discard
                };
                router.stream(&input[..length], Some(handling));
            }
        }
        (length, None)
    }

    /// The leased connection of a large request is gone: nothing of it was executed.
    pub fn abort_large(&mut self, text: &str) {
        if self.is_streaming() {
            self.discard(text);
        }
    }
}
