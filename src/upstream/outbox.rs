//! Bytes on their way to the server, kept until they are answered.
//!
//! One growing buffer: what is answered lies before `answered`, what was written to the socket before
//! `written`, what waits behind it. Answered bytes stay until they are worth moving, so a busy
//! connection appends and writes without allocating.

use std::io;
use std::task::Poll;

/// Below this many answered bytes the buffer is not compacted.
const COMPACT_AT: usize = 64 * 1024;
/// An empty buffer larger than this is given back.
const KEEP_CAPACITY: usize = 256 * 1024;

/// The outgoing side of one upstream connection.
#[derive(Debug, Default)]
pub struct Outbox {
    buffer: Vec<u8>,
    answered: usize,
    written: usize,
    /// What lies behind this is not written for now.
    hold: Option<usize>,
    /// Nor is what lies behind this: it would be too much at once.
    bound: Option<usize>,
}

impl Outbox {
    /// Appends bytes behind all others.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// What must be written next.
    pub fn unwritten(&self) -> &[u8] {
        &self.buffer[self.written..]
    }

    /// What may be written now.
    fn sendable(&self) -> &[u8] {
        let len = self.buffer.len();
        let end = self.hold.unwrap_or(len).min(self.bound.unwrap_or(len));
        self.buffer.get(self.written..end).unwrap_or_default()
    }

    /// Something may be written.
    pub fn is_sendable(&self) -> bool {
        !self.sendable().is_empty()
    }

    /// What is appended from here on is not written, until [`Outbox::release`]. What is held already stays
    /// held.
    pub fn hold(&mut self) {
        self.hold.get_or_insert(self.buffer.len());
    }

    /// The same for what lies behind the first `n` unwritten bytes.
    pub fn hold_behind(&mut self, n: usize) {
        let end = self.written + n;
        self.hold = Some(self.hold.map_or(end, |hold| hold.min(end)));
    }

    /// Holds nothing any more, but for what is bounded.
    pub fn release(&mut self) {
        self.hold = None;
    }

    /// No more than the first `n` unwritten bytes are written before this is called again; `None` is no
    /// bound.
    pub fn bound(&mut self, n: Option<usize>) {
        self.bound = n.map(|n| self.written + n);
    }

    /// There is a bound.
    pub fn is_bounded(&self) -> bool {
        self.bound.is_some()
    }

    /// All that may be written was, and is answered.
    pub fn is_drained(&self) -> bool {
        self.unanswered_written() == 0 && !self.is_sendable()
    }

    /// Notes that the first `n` unwritten bytes reached the socket.
    pub fn handle_written(&mut self, n: usize) {
        self.written += n;
        debug_assert!(self.written <= self.buffer.len());
    }

    /// Offers what is unwritten to `write` until it takes no more; returns how many bytes have left.
    ///
    /// `fails_late` says that a failing `write` may have sent some of what it was offered. All of that
    /// then counts as written: what may have reached the server is not sent again.
    ///
    /// # Errors
    /// Those of `write`; taking nothing is one.
    pub fn write_out(
        &mut self,
        fails_late: bool,
        mut write: impl FnMut(&[u8]) -> Poll<io::Result<usize>>,
    ) -> io::Result<usize> {
        let before = self.written;
        while self.is_sendable() {
            let e = match write(self.sendable()) {
                Poll::Pending => break,
                Poll::Ready(Ok(0)) => io::ErrorKind::WriteZero.into(),
                Poll::Ready(Ok(n)) => {
                    self.handle_written(n);
                    continue;
                }
                Poll::Ready(Err(e)) => e,
            };
            if fails_late {
                self.handle_written(self.sendable().len());
            }
            return Err(e);
        }
        Ok(self.written - before)
    }

    /// Bytes written and not answered.
    pub fn unanswered_written(&self) -> usize {
        self.written - self.answered
    }

    /// All bytes that are not answered, written or not.
    pub fn unanswered(&self) -> &[u8] {
        &self.buffer[self.answered..]
    }

    /// Forgets the first `n` unanswered bytes.
    ///
    /// Bytes that were never written are forgotten too: they will not be sent.
    pub fn handle_answered(&mut self, n: usize) {
        self.answered += n;
        debug_assert!(self.answered <= self.buffer.len());
        self.written = self.written.max(self.answered);
        for end in [&mut self.hold, &mut self.bound].into_iter().flatten() {
            *end = (*end).max(self.answered);
        }
        if self.answered == self.buffer.len() {
            self.clear();
        } else if self.answered >= COMPACT_AT && self.answered * 2 >= self.buffer.len() {
            self.buffer.drain(..self.answered);
            self.written -= self.answered;
            for end in [&mut self.hold, &mut self.bound].into_iter().flatten() {
                *end -= self.answered;
            }
            self.answered = 0;
        }
    }

    /// Replaces everything by bytes that are all still to be written.
    pub fn reset(&mut self, unwritten: Vec<u8>) {
        self.bound = None;
        self.buffer = unwritten;
        self.hold = None;
        self.answered = 0;
        self.written = 0;
    }

    fn clear(&mut self) {
        self.buffer.clear();
        if self.buffer.capacity() > KEEP_CAPACITY {
            self.buffer = Vec::new();
        }
        self.hold = self.hold.map(|_| 0);
        self.bound = None;
        self.answered = 0;
        self.written = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_leave_in_order_and_are_kept_until_answered() {
        let mut outbox = Outbox::default();
        outbox.push(b"abc");
        outbox.handle_written(2);
        outbox.push(b"def");
        assert_eq!(outbox.unwritten(), b"cdef");
        assert_eq!(outbox.unanswered(), b"abcdef");
        outbox.handle_answered(1);
        assert_eq!(outbox.unanswered_written(), 1);
        outbox.handle_written(4);
        outbox.handle_answered(5);
        assert!(outbox.unanswered().is_empty() && outbox.unwritten().is_empty());
    }

    #[test]
    fn what_a_failed_write_may_have_sent_counts_as_written() {
        for (fails_late, written) in [(false, 2), (true, 6)] {
            let mut outbox = Outbox::default();
            outbox.push(b"abcdef");
            let mut results = [Ok(2), Err(io::ErrorKind::BrokenPipe.into())].into_iter();
            let done = outbox.write_out(fails_late, |_| match results.next() {
                Some(result) => Poll::Ready(result),
                None => Poll::Pending,
            });
            assert!(done.is_err());
            assert_eq!(outbox.unanswered_written(), written);
        }
    }

    #[test]
    fn forgetting_unwritten_bytes_unsends_them() {
        let mut outbox = Outbox::default();
        outbox.push(b"abcdef");
        outbox.handle_answered(3);
        assert_eq!(outbox.unwritten(), b"def");
    }

    #[test]
    fn what_is_held_waits_for_its_release() {
        let mut outbox = Outbox::default();
        let leaves = |outbox: &mut Outbox| {
            let mut sent = Vec::new();
            let done = outbox.write_out(false, |bytes| {
                sent.extend_from_slice(bytes);
                Poll::Ready(Ok(bytes.len()))
            });
            assert_eq!(done.ok(), Some(sent.len()));
            sent
        };
        outbox.push(b"abc");
        outbox.hold();
        outbox.push(b"def");
        outbox.hold();
        assert_eq!(leaves(&mut outbox), b"abc");
        assert!(!outbox.is_sendable() && !outbox.is_drained());
        outbox.handle_answered(3);
        assert!(outbox.is_drained());
        assert_eq!(outbox.unanswered(), b"def");
        outbox.release();
        assert_eq!(leaves(&mut outbox), b"def");
        outbox.hold();
        outbox.handle_answered(3);
        outbox.push(b"ghi");
        assert!(leaves(&mut outbox).is_empty() && outbox.is_drained());
        outbox.handle_answered(1); // given up before it was sent
        assert!(leaves(&mut outbox).is_empty());
        outbox.release();
        assert_eq!(leaves(&mut outbox), b"hi");
    }

    #[test]
    fn compaction_keeps_what_is_unanswered() {
        let mut outbox = Outbox::default();
        let block: Vec<u8> = (0..COMPACT_AT + 10).map(|i| i as u8).collect();
        outbox.push(&block);
        outbox.handle_written(COMPACT_AT + 5);
        outbox.handle_answered(COMPACT_AT);
        assert_eq!(outbox.unanswered(), &block[COMPACT_AT..]);
        assert_eq!(outbox.unwritten(), &block[COMPACT_AT + 5..]);
    }
}
