//! The end of a connection that nobody wants any more: it is closed at once, and what still comes is
//! looked at, since an element that the server took from a list for a client that is gone is lost.

use std::future::poll_fn;
use std::io;
use std::time::Duration;

use super::conn::Conn;
use super::pipe::Run;
use super::reply_to::{Owner, ReplyTo};
use super::serve::Serving;

/// How long a closed connection is waited for.
const FAREWELL: Duration = Duration::from_millis(250);

impl<W: ReplyTo> Serving<W> {
    /// Closes the connection and waits until the server has closed it too, within limits: only then
    /// does it no longer count there.
    pub(super) async fn leave(mut self) {
        let farewell = async {
            poll_fn(|cx| self.stream.poll_shutdown(cx)).await?;
            let mut in_step = self.conn.is_abandoned();
            loop {
                let kept = if in_step { self.filled } else { 0 };
                let n = poll_fn(|cx| self.stream.poll_read(cx, &mut self.input[kept..])).await?;
                if n == 0 {
                    return Ok::<(), io::Error>(());
                }
                in_step = in_step && self.look_through(n);
            }
        };
        // A server that does not answer, or is gone, has nothing more to tell.
        let _ = tokio::time::timeout(FAREWELL, farewell).await;
    }

    /// Looks for lost elements in `fresh` more bytes; false once the replies cannot be told apart.
    fn look_through(&mut self, fresh: usize) -> bool {
        let scanned = self.filled;
        self.filled += fresh;
        let (conn, input) = (&self.conn, &self.input[..self.filled]);
        let mut core = conn.core.borrow_mut();
        let core = &mut *core;
        let done = core
            .pipe
            .handle_input(input, scanned, &mut core.outbox, |run, piece| {
                if let Some(run) = run
                    && let Some(Owner::Client(owner)) = &run.owner
                {
                    let counters = &conn.link.stats.counters;
                    counters.in_flight.sub(u64::from(piece.completed));
                    note_lost_pop(conn, run, owner, &input[piece.range]);
                }
            });
        let Ok((consumed, _)) = done else {
            return false;
        };
        self.input.copy_within(consumed..self.filled, 0);
        self.filled -= consumed;
        true
    }
}

/// Counts the reply to a command that blocked if it may carry an element and nobody will see it. Such
/// a reply begins where its piece begins, unless it is a very long one.
pub(super) fn note_lost_pop<W: ReplyTo>(
    conn: &Conn<W>,
    run: &Run<Owner<W>>,
    owner: &W,
    reply: &[u8],
) {
    if !run.terms.patient || !may_carry_element(reply) {
        return;
    }
    if conn.is_abandoned() || owner.is_gone() {
        conn.link.stats.counters.lost_pops.add(1);
        tracing::warn!(
            client = owner.identity(),
            "a blocking command was answered when its client was gone: an element may be lost"
        );
    }
}

/// Neither an error nor a null, nor a number, as WAIT has it.
fn may_carry_element(reply: &[u8]) -> bool {
    let nulls: [&[u8]; 3] = [b"$-1", b"*-1", b"_"];
    !reply.is_empty()
        && !matches!(reply[0], b'-' | b'!' | b':')
        && !nulls.iter().any(|null| reply.starts_with(null))
}

#[cfg(test)]
mod tests {
    use super::may_carry_element;

    #[test]
    fn a_null_an_error_and_a_number_carry_no_element() {
        let empty: [&[u8]; 7] = [
            b"*-1\r\n",
            b"$-1\r\n",
            b"_\r\n",
            b"-ERR\r\n",
            b"!4\r\n",
            b":1\r\n",
            b"",
        ];
        assert!(!empty.into_iter().any(may_carry_element));
        let full: [&[u8]; 4] = [b"*2\r\n", b"$1\r\nx\r\n", b"%1\r\n", b"~0\r\n"];
        assert!(full.into_iter().all(may_carry_element));
    }
}
