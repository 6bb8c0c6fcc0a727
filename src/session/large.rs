//! Requests too large to be held whole.
//!
//! Once more than `upstream.large_request` bytes are declared or have come, a request leaves on a
//! leased connection while it still arrives. What cannot be carried that way is dropped as it comes
//! and answered at its end, so that the client and the proxy stay in step.

use std::task::Poll;

use super::{Env, Mode, ReplyMode, Router, Session, Status, errors};
use crate::commands::{Class, Spec};
use crate::resp::encode;
use crate::resp::request::Scan;
use crate::upstream::pipe::Handling;

impl Session {
    /// Decides about a command that is not whole. `None` means that its mode has begun.
    pub(super) fn begin_large<R: Router>(
        &mut self,
        partial: &[u8],
        env: &Env<'_>,
        router: &mut R,
    ) -> Option<Status> {
        // Before AUTH the scanner's own limits keep requests small, and none may leave.
        if !self.authenticated
            || self.scanner.is_idle()
            || self.scanner.at_least() <= env.settings.large_request as u64
        {
            return Some(Status::NeedInput);
        }
        match self.large_spec(partial, env) {
            Ok(spec) => {
                if self.pending.owed() > 0 {
                    return Some(Status::Hold);
                }
                match router.poll_lease(self.key) {
                    Poll::Pending => return Some(Status::Hold),
                    Poll::Ready(Ok(())) => {
                        self.must_drain = false;
                        self.last_command = spec.id();
                        self.mode = Mode::Streaming;
                        router.begin_stream();
                    }
                    Poll::Ready(Err(text)) => self.discard(&text),
                }
            }
            Err(Some(text)) => self.discard(&text),
            Err(None) => match router.poll_facts(self.key) {
                Poll::Pending => return Some(Status::Hold),
                Poll::Ready(_) => self.discard(errors::TOO_LARGE),
            },
        }
        None
    }

    /// The command, if it may travel on a leased connection as it is; an error text, or nothing if
    /// its name is not known yet.
    fn large_spec<'t>(&self, partial: &[u8], env: &Env<'t>) -> Result<&'t Spec, Option<String>> {
        let Some(name) = self.scanner.arg(0).and_then(|range| partial.get(range)) else {
            return Err(Some(errors::TOO_LARGE.to_owned()));
        };
        let spec = env.table.lookup(name).ok_or(None)?;
        let second = self.scanner.arg(1).and_then(|range| partial.get(range));
        let spec = match second {
            Some(second) if spec.is_container() => {
                env.table.subcommand(spec, second).unwrap_or(spec)
            }
            _ => spec,
        };
        if self.is_gated() {
            return Err(Some(errors::subscribed(&spec.name)));
        }
        if spec.class == Class::Shared && !spec.needs_args() {
            return Ok(spec);
        }
        Err(Some(match spec.class {
            Class::Shared | Class::Local | Class::Subscribe => errors::TOO_LARGE.to_owned(),
            class => errors::refused(class, spec, &[name]),
        }))
    }

    fn discard(&mut self, text: &str) {
        let mut reply = Vec::new();
        encode::error(&mut reply, text);
        self.mode = Mode::Discarding(reply.into());
    }

    /// Passes the bytes of a large request on, or drops them. `None` means that it has ended.
    pub(super) fn feed_large<R: Router>(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
        env: &Env<'_>,
        router: &mut R,
    ) -> (usize, Option<Status>) {
        let seen = std::mem::take(&mut self.scanned);
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
                    self.pending.put(&reply, out);
                }
            }
            Mode::Streaming | Mode::Commands => {
                self.pending.expect(1);
                self.must_drain = true; // the reply comes on the leased connection
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
