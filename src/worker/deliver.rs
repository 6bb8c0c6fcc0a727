//! Replies on their way to a client: written by the task that has them.

use std::io;
use std::ops::Range;

use super::client::{Client, Inner, Stage};
use super::{info, pubsub};
use crate::faults;
use crate::hub::Kind;
use crate::sabotage::{self, Bug};
use crate::session::errors;
use crate::upstream::OnLostReply;
use crate::upstream::pipe::{Handling, Piece};
use crate::upstream::reply_to::Failure;

impl Client {
    /// Takes a part of the replies; true if [`Client::flush`] must be called for it.
    pub fn deliver(&self, input: &[u8], piece: Piece) -> bool {
        let mut inner = self.inner.borrow_mut();
        let inner = &mut *inner;
        if inner.stage == Stage::Broken {
            return false;
        }
        if let Some(reader) = &self.worker.reader {
            let bytes = piece.range.len();
            reader.hot.note_reply(self.id, bytes, piece.completed);
        }
        if piece.handling != Handling::Pass || inner.session.is_streaming() {
            self.copy_direct(inner, input); // it comes first, whatever is put out now
        }
        if inner.session.is_streaming() {
            // The server has answered a request that was still being sent: they are out of step.
            inner.stage = Stage::Closing;
            inner.output.extend_from_slice(&input[piece.range]);
            return !self.batched.replace(true);
        }
        if inner.session.is_judging()
            && inner.session.judge(&input[piece.range.clone()])
            && let Some(lease) = &inner.attached.lease
        {
            lease.clear();
        }
        match piece.handling {
            Handling::Discard => inner
                .session
                .handle_replies(piece.completed, &mut inner.output),
            Handling::Info | Handling::NumSub | Handling::ShardNumSub => {
                self.gather(inner, &input[piece.range], piece.completed, piece.handling);
            }
            Handling::Pass => {
                self.pass(inner, input, piece.range, piece.completed);
                self.note_torn(inner, input, piece.torn);
            }
        }
        !self.batched.replace(true)
    }

    /// Takes a push, or a part of one, from the leased connection; true if [`Client::flush`] must be
    /// called for it.
    pub fn deliver_push(&self, input: &[u8], piece: Piece) -> bool {
        let mut inner = self.inner.borrow_mut();
        let inner = &mut *inner;
        let session = &inner.session;
        let over = !session.needs_lease() && session.pending().owed() == 0;
        if inner.stage == Stage::Broken || over {
            return false;
        }
        self.copy_direct(inner, input);
        inner.output.extend_from_slice(&input[piece.range]);
        self.note_torn(inner, input, piece.torn);
        !self.batched.replace(true)
    }

    /// Messages that came in the middle of a reply follow its end.
    fn note_torn(&self, inner: &mut Inner, input: &[u8], torn: bool) {
        inner.torn = torn;
        if !torn && inner.session.held_messages() > 0 {
            self.copy_direct(inner, input);
            let held = inner.session.take_held_messages();
            inner.output.extend_from_slice(&held);
        }
    }

    /// The leased connection is gone: so is a session that it stood for.
    pub fn lose_lease(&self) {
        let mut inner = self.inner.borrow_mut();
        if inner.session.needs_lease() && inner.stage != Stage::Broken {
            self.worker.stats.counters.clients_closed_lost_reply.add(1);
            inner.stage = Stage::Broken;
        }
        drop(inner);
        self.wake();
    }

    /// The first row of replies stays where it is if it can be written from there.
    fn pass(&self, inner: &mut Inner, input: &[u8], range: Range<usize>, completed: u32) {
        if !self.batched.get()
            && inner.output.is_empty()
            && !inner.session.pending().releases(completed)
        {
            self.direct.set((range.start as u32, range.end as u32));
        } else {
            self.copy_direct(inner, input);
            inner.output.extend_from_slice(&input[range]);
        }
        inner.session.handle_replies(completed, &mut inner.output);
    }

    fn gather(&self, inner: &mut Inner, part: &[u8], completed: u32, handling: Handling) {
        let gathered = inner.gathered.get_or_insert_default();
        gathered.extend_from_slice(part);
        if completed > 0 {
            let reply = std::mem::take(gathered);
            inner.gathered = None;
            let census = &self.worker.census;
            let reply = match handling {
                Handling::NumSub => pubsub::adjust(&reply, Kind::Channel, census),
                Handling::ShardNumSub => pubsub::adjust(&reply, Kind::Shard, census),
                _ => info::extend(&reply, &self.worker),
            };
            inner.output.extend_from_slice(&reply);
            inner.session.handle_replies(completed, &mut inner.output);
        }
    }

    pub(super) fn copy_direct(&self, inner: &mut Inner, input: &[u8]) {
        let (start, end) = self.direct.take();
        inner
            .output
            .extend_from_slice(&input[start as usize..end as usize]);
    }

    /// Writes what [`Client::deliver`] took, straight from where it lies if the socket takes it.
    pub fn flush(&self, input: &[u8]) {
        faults::panic_at("delivery", input);
        self.batched.set(false);
        let mut inner = self.inner.borrow_mut();
        let inner = &mut *inner;
        let (start, end) = self.direct.take();
        if inner.stage == Stage::Broken {
            return; // cut for what it held, after it took this
        }
        if inner.output.is_empty() {
            let reply = &input[start as usize..end as usize];
            let written = self.note_write(inner, self.stream.write_now(reply));
            inner.output.extend_from_slice(&reply[written..]);
        } else {
            inner
                .output
                .extend_from_slice(&input[start as usize..end as usize]);
            let written = self.stream.write_now(&inner.output[inner.written..]);
            inner.written += self.note_write(inner, written);
            inner.trim_output();
        }
        self.check_output(inner);
        if inner.wants_task() || self.stream.needs_flush() {
            self.wake();
        }
    }

    /// Counts what a write took; an error ends the client.
    pub(super) fn note_write(&self, inner: &mut Inner, written: io::Result<usize>) -> usize {
        match written {
            Ok(n) => {
                inner.taken += n as u64;
                self.worker.stats.counters.client_bytes_out.add(n as u64);
                n
            }
            Err(_) => {
                inner.stage = Stage::Broken;
                self.wake();
                0
            }
        }
    }

    /// Cuts a client that lets too much wait.
    pub(super) fn check_output(&self, inner: &mut Inner) {
        let waiting = inner.output.len() - inner.written + inner.session.held_messages();
        if waiting > self.worker.limits.client_output.get() && inner.stage != Stage::Broken {
            tracing::warn!(
                client = self.id,
                waiting,
                limit = self.worker.limits.client_output.get(),
                "client closed: it does not read its replies (listen.client_output_limit)"
            );
            self.worker.stats.counters.clients_cut_output.add(1);
            inner.stage = Stage::Broken;
            inner.output = Vec::new();
            inner.written = 0;
            self.wake();
        }
        self.note_memory(inner);
    }

    /// `count` commands will get no reply from the server.
    pub fn fail(&self, failure: &Failure, count: u32, handling: Handling) {
        let mut inner = self.inner.borrow_mut();
        let inner = &mut *inner;
        if inner.stage == Stage::Broken {
            return;
        }
        let close = self.worker.limits.on_lost_reply.get() == OnLostReply::Close;
        match failure {
            Failure::Torn if sabotage::is(Bug::TornOn) => {
                inner.session.handle_replies(count, &mut inner.output);
            }
            Failure::Torn => inner.stage = Stage::Broken,
            Failure::Lost if close || inner.gathered.is_some() => {
                self.worker.stats.counters.clients_closed_lost_reply.add(1);
                inner.stage = Stage::Broken;
            }
            _ if inner.session.is_streaming() => {
                inner.session.abort_large(&error_text(failure));
                // What the server has of the request must not be taken for the beginning of another.
                if let Some(lease) = inner.attached.lease.take() {
                    lease.abandon();
                }
                if inner.session.needs_lease() {
                    inner.stage = Stage::Broken; // its state went with the connection
                }
            }
            _ => {
                inner.gathered = None;
                let visible = handling != Handling::Discard;
                inner.session.handle_failure(
                    count,
                    &error_text(failure),
                    visible,
                    &mut inner.output,
                );
                self.check_output(inner);
            }
        }
        self.wake();
    }
}

/// What a client reads when its commands get no reply.
pub(super) fn error_text(failure: &Failure) -> String {
    match failure {
        Failure::Unreachable(cause) => errors::unreachable(cause),
        Failure::Crowded { cause, most } => errors::crowded(cause, *most),
        Failure::Busy(max) => errors::busy(*max),
        Failure::Full(what) => errors::full(what),
        Failure::Refused(text) => text.clone(),
        Failure::Timeout(limit) => errors::timeout(*limit),
        Failure::Lost | Failure::Torn => errors::LOST.to_owned(),
    }
}
