//! Replies leave in command order.
//!
//! Upstream replies arrive in order by themselves. A local reply that is ready while upstream replies
//! are still owed is held until the ones before it have left.

use std::collections::VecDeque;

/// The order of one session's replies.
#[derive(Debug, Default)]
pub struct Pending {
    owed: u32,
    /// Of `owed`, those that a held reply waits for.
    placed: u32,
    held_bytes: usize,
    /// Boxed: most sessions never hold anything, and idle memory per client counts.
    #[allow(
        clippy::box_collection,
        reason = "8 bytes instead of 32 in every idle session"
    )]
    held: Option<Box<VecDeque<Held>>>,
}

#[derive(Debug)]
struct Held {
    /// Upstream replies that leave first, counted from the held reply before this one.
    after: u32,
    bytes: Vec<u8>,
}

impl Pending {
    /// Upstream replies that are owed.
    pub fn owed(&self) -> u32 {
        self.owed
    }

    /// Nothing is owed or held.
    pub fn is_empty(&self) -> bool {
        self.owed == 0 && self.held.is_none()
    }

    /// Bytes of local replies that are held.
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// `n` more replies will come from the upstream.
    pub fn expect(&mut self, n: u32) {
        self.owed += n;
    }

    /// Puts a local reply in its place: out at once, or behind what is owed.
    pub fn put(&mut self, reply: &[u8], out: &mut Vec<u8>) {
        if reply.is_empty() {
            return;
        }
        if self.owed == 0 {
            out.extend_from_slice(reply);
            return;
        }
        self.held_bytes += reply.len();
        let held = self.held.get_or_insert_default();
        match held.back_mut() {
            Some(last) if self.placed == self.owed => last.bytes.extend_from_slice(reply),
            _ => held.push_back(Held {
                after: self.owed - self.placed,
                bytes: reply.to_vec(),
            }),
        }
        self.placed = self.owed;
    }

    /// `n` upstream replies have been put out; what waited only for them follows.
    ///
    /// `n` never spans a held reply: a local command ends the row of commands before it.
    pub fn complete(&mut self, n: u32, out: &mut Vec<u8>) {
        debug_assert!(n <= self.owed);
        self.owed = self.owed.saturating_sub(n);
        let Some(held) = &mut self.held else { return };
        if let Some(front) = held.front_mut() {
            debug_assert!(n <= front.after);
            front.after = front.after.saturating_sub(n);
            self.placed = self.placed.saturating_sub(n);
        }
        while held.front().is_some_and(|h| h.after == 0) {
            if let Some(ready) = held.pop_front() {
                self.held_bytes -= ready.bytes.len();
                out.extend_from_slice(&ready.bytes);
            }
        }
        if held.is_empty() {
            self.held = None;
        }
    }

    /// True when completing `n` replies would put out a held reply too.
    pub fn releases(&self, n: u32) -> bool {
        self.held
            .as_ref()
            .and_then(|held| held.front())
            .is_some_and(|front| front.after <= n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_local_reply_waits_for_the_upstream_replies_before_it() {
        let (mut pending, mut out) = (Pending::default(), Vec::new());
        pending.put(b"+0", &mut out);
        pending.expect(2);
        pending.put(b"+A", &mut out);
        pending.put(b"+B", &mut out);
        pending.expect(1);
        pending.put(b"+C", &mut out);
        assert_eq!(out, b"+0");
        out.extend_from_slice(b"12");
        assert!(!pending.releases(1) && pending.releases(2));
        pending.complete(2, &mut out);
        out.extend_from_slice(b"3");
        pending.complete(1, &mut out);
        assert_eq!(out, b"+012+A+B3+C");
        assert!(pending.is_empty());
    }
}
