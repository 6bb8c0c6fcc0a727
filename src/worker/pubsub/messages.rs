//! Messages on their way to clients.

use std::cell::OnceCell;
use std::ops::Range;
use std::rc::Rc;

use crate::hub::Letter;
use crate::resp::Protocol;
use crate::worker::client::{Client, Inner, Stage};

/// The messages of one read, as each protocol has them.
pub struct Frames<'a> {
    resp2: &'a [u8],
    /// Written when the first client asks for it.
    resp3: OnceCell<Vec<u8>>,
    letters: &'a [Letter],
}

impl<'a> Frames<'a> {
    /// Messages in `bytes`, as the hub's connection speaks: RESP2.
    pub fn new(bytes: &'a [u8], letters: &'a [Letter]) -> Self {
        Self {
            resp2: bytes,
            resp3: OnceCell::new(),
            letters,
        }
    }

    fn of(&self, protocol: Protocol) -> &[u8] {
        match protocol {
            Protocol::Resp2 => self.resp2,
            Protocol::Resp3 => self.resp3.get_or_init(|| self.render()),
        }
    }

    /// A push differs from an array in its first byte.
    fn render(&self) -> Vec<u8> {
        let mut bytes = self.resp2.to_vec();
        for letter in self.letters {
            if let Letter::Message { frame, .. } = letter {
                bytes[frame.start] = b'>';
            }
        }
        bytes
    }
}

impl Client {
    /// Takes a message; true if [`Client::flush_messages`] must be called for it.
    pub(super) fn push_message(&self, frames: &Frames<'_>, range: Range<usize>) -> bool {
        let mut inner = self.inner.borrow_mut();
        let inner = &mut *inner;
        if inner.stage != Stage::Reading {
            return false; // its last words have been said
        }
        let counters = &self.worker.stats.counters;
        counters.messages_delivered.add(1);
        counters.message_bytes.add(range.len() as u64);
        let input = frames.of(inner.session.lane_key().protocol);
        if inner.torn {
            inner.session.hold_message(&input[range]);
        } else if let Some(direct) = self.extended(inner, &range) {
            self.direct.set(direct);
        } else {
            self.copy_direct(inner, input);
            inner.output.extend_from_slice(&input[range]);
        }
        !self.batched.replace(true)
    }

    /// The row of messages that can be written from where they lie, if this one can be added to it.
    fn extended(&self, inner: &Inner, range: &Range<usize>) -> Option<(u32, u32)> {
        if !inner.output.is_empty() {
            return None;
        }
        let (start, end) = self.direct.get();
        let begins = start == end && !self.batched.get();
        let (from, to) = (
            u32::try_from(range.start).ok()?,
            u32::try_from(range.end).ok()?,
        );
        match begins {
            true => Some((from, to)),
            false => (end == from && start < end).then_some((start, to)),
        }
    }

    /// Writes what [`Client::push_message`] took.
    pub(super) fn flush_messages(&self, frames: &Frames<'_>) {
        let protocol = self.inner.borrow().session.lane_key().protocol;
        self.flush(frames.of(protocol));
    }

    /// What the client's held command waited for is there: it goes on now, before anything comes that
    /// was published after.
    pub(super) fn proceed(self: &Rc<Self>) {
        self.guard(|| {
            let mut inner = self.inner.borrow_mut();
            if inner.held && inner.stage != Stage::Broken {
                self.process(&mut inner, &[]);
                let inner = &mut *inner;
                let written = self.stream.write_now(&inner.output[inner.written..]);
                inner.written += self.note_write(inner, written);
                inner.trim_output();
                self.check_output(inner);
            }
        });
        self.wake();
    }
}
