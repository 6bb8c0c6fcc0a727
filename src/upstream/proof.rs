//! Proof that replies go to whom they belong: now and then a PING with a number of its own is entered among
//! the commands of a shared connection. If something else comes in its place, a reply before it was missing
//! or too many, and the connection is closed before more go astray.

use std::time::Duration;

use super::pipe::Tick;

/// A connection that is used at all is asked for proof this often...
const PERIOD: Duration = Duration::from_secs(10);

/// ...or, beyond so many runs of commands, this often.
const MANY: u32 = 1000;
const OFTEN: Duration = Duration::from_secs(1);

/// A server that has not answered in time is asked, but not more often than this.
const AGAIN: Duration = Duration::from_secs(1);

/// When proof was last asked for, and what has happened since.
#[derive(Debug, Default)]
pub(super) struct Proof {
    asked: Tick,
    /// Runs entered since.
    runs: u32,
    /// A command was not answered in time.
    doubted: bool,
    /// The latest one is not there yet.
    owed: bool,
}

impl Proof {
    /// Commands were entered.
    #[inline]
    pub(super) fn note_run(&mut self) {
        self.runs = self.runs.saturating_add(1);
    }

    /// A command was not answered in time: its reply may never come, or shift all others.
    pub(super) fn note_doubt(&mut self) {
        self.doubted = true;
    }

    /// It is to be asked for now.
    pub(super) fn is_due(&self, now: Tick) -> bool {
        let passed = Duration::from_micros(now.saturating_sub(self.asked));
        let busy = self.runs > 0 && passed >= PERIOD;
        let very_busy = self.runs >= MANY && passed >= OFTEN;
        let doubted = self.doubted && passed >= AGAIN;
        !self.owed && (busy || very_busy || doubted)
    }

    /// It is asked for.
    pub(super) fn note_asked(&mut self, now: Tick) {
        *self = Self {
            asked: now,
            owed: true,
            ..Self::default()
        };
    }

    /// It has come, or will not.
    pub(super) fn note_answered(&mut self) {
        self.owed = false;
    }
}

/// What is said to ask for it.
pub(super) fn question(nonce: u64) -> Vec<u8> {
    format!("*2\r\n$4\r\nPING\r\n$16\r\n{nonce:016x}\r\n").into_bytes()
}

/// Whether this is the answer to that question. An error, such as LOADING, proves nothing either way.
pub(super) fn is_answer(nonce: u64, reply: &[u8]) -> bool {
    reply.starts_with(b"-") || reply == format!("$16\r\n{nonce:016x}\r\n").as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Tick = 1_000_000;

    #[test]
    fn it_is_asked_for_as_often_as_there_is_reason() {
        let mut proof = Proof::default();
        assert!(!proof.is_due(100 * SECOND), "nobody says anything");
        proof.note_run();
        assert!(!proof.is_due(9 * SECOND) && proof.is_due(10 * SECOND));
        proof.note_asked(10 * SECOND);
        proof.note_run();
        assert!(!proof.is_due(30 * SECOND), "the last is owed");
        proof.note_answered();
        assert!(!proof.is_due(11 * SECOND) && proof.is_due(20 * SECOND));
        (0..MANY).for_each(|_| proof.note_run());
        assert!(!proof.is_due(10 * SECOND) && proof.is_due(11 * SECOND));
        proof.note_asked(11 * SECOND);
        proof.note_answered();
        proof.note_doubt();
        assert!(!proof.is_due(11 * SECOND) && proof.is_due(12 * SECOND));
    }

    #[test]
    fn only_its_own_number_proves_anything() {
        let asked = question(0xab);
        assert!(asked.ends_with(b"00000000000000ab\r\n"));
        assert!(is_answer(0xab, b"$16\r\n00000000000000ab\r\n"));
        assert!(is_answer(0xab, b"-LOADING Redis is loading\r\n"));
        for wrong in [
            &b"+OK\r\n"[..],
            b"$16\r\n00000000000000ac\r\n",
            b"$16\r\n0",
            b"",
        ] {
            assert!(!is_answer(0xab, wrong));
        }
    }
}
