//! What is wrong with the upstream, as a state machine: what is seen comes in, what is to be logged comes
//! out, once for each cause and once when all is well again.
//!
//! No I/O and no clock: instants come in as arguments.

use std::time::{Duration, Instant};

use super::backoff::Backoff;
use crate::resp::reply::Value;
use crate::stats::{ConnectFailure, Trouble, UpstreamState};

/// What only its own return would end is forgotten when it was not seen for this long.
const FORGET: Duration = Duration::from_secs(60);

/// A connection limit that comes and goes is told so often at most.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// A server that takes no writes is asked this often whether it does again.
const ASK: Duration = Duration::from_secs(1);

/// While writes have been refused for longer than [`FORGET`], connections are opened anew no more often:
/// nobody is coming to be the master here.
const SELDOM: Duration = Duration::from_secs(30);

/// What to log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// The first success.
    Reached,
    /// Something is wrong that was not told yet.
    Entered(UpstreamState),
    /// All is well again.
    Left {
        /// What was wrong last.
        cause: ConnectFailure,
        /// For how long something was.
        lasted: Duration,
    },
}

/// What is wrong, and since when.
#[derive(Debug)]
pub struct Machine {
    state: UpstreamState,
    /// Since when something is wrong without a break.
    began: Option<Instant>,
    /// What was told since then, one bit for each cause and gravity.
    told: u64,
    /// When it was told last that the server takes no more connections beside those that are up.
    told_full: Option<Instant>,
    /// When an attempt last failed.
    failed: Option<Instant>,
    /// When a reply last said what is wrong.
    complained: Option<Instant>,
    asked: Option<Instant>,
    /// Time without an upstream that is over and was not fetched.
    down: Duration,
    reopening: Reopening,
}

/// When connections to a server that takes no writes are opened anew.
#[derive(Debug)]
struct Reopening {
    backoff: Backoff,
    /// Since when it takes none.
    since: Option<Instant>,
    not_before: Option<Instant>,
}

impl Machine {
    /// Nothing was tried yet; `backoff` sets the pace of opening connections anew.
    pub fn new(backoff: Backoff) -> Self {
        Self {
            state: UpstreamState::Unknown,
            began: None,
            told: 0,
            told_full: None,
            failed: None,
            complained: None,
            asked: None,
            down: Duration::ZERO,
            reopening: Reopening {
                backoff,
                since: None,
                not_before: None,
            },
        }
    }

    /// What is known.
    pub fn state(&self) -> &UpstreamState {
        &self.state
    }

    /// Time without an upstream that has ended since this was last asked.
    pub fn take_down(&mut self) -> Duration {
        std::mem::take(&mut self.down)
    }

    /// A connection is open; `complaint` is what the server said instead of a greeting.
    pub fn handle_open(
        &mut self,
        complaint: Option<(ConnectFailure, String)>,
        now: Instant,
    ) -> Option<News> {
        if let Some((cause, message)) = complaint {
            return self.handle_complaint(cause, &message, now);
        }
        match &self.state {
            UpstreamState::Unknown => {
                self.state = UpstreamState::Up;
                Some(News::Reached)
            }
            UpstreamState::Up => None,
            // That it lets itself be greeted says nothing about these.
            UpstreamState::Degraded(trouble) if !is_heard_by_ping(trouble.cause) => None,
            _ => self.leave(now),
        }
    }

    /// A connection could not be opened, while others are up (`others`) or not.
    pub fn handle_failure(
        &mut self,
        cause: ConnectFailure,
        message: &str,
        others: bool,
        now: Instant,
    ) -> Option<News> {
        self.failed = Some(now);
        match (&self.state, others) {
            // The server has said more of itself than that.
            (UpstreamState::Degraded(_), true) => None,
            (_, true) => self.enter(UpstreamState::Strained, cause, message, now),
            (_, false) => self.enter(UpstreamState::Down, cause, message, now),
        }
    }

    /// A reply said what is wrong.
    pub fn handle_complaint(
        &mut self,
        cause: ConnectFailure,
        message: &str,
        now: Instant,
    ) -> Option<News> {
        self.complained = Some(now);
        self.enter(UpstreamState::Degraded, cause, message, now)
    }

    /// Nothing comes on connections that owe replies.
    pub fn handle_stall(&mut self, message: &str, now: Instant) -> Option<News> {
        match self.state {
            UpstreamState::Down(_) => None,
            _ => {
                self.failed = Some(now);
                self.enter(UpstreamState::Down, ConnectFailure::Stall, message, now)
            }
        }
    }

    /// Something came after all.
    pub fn handle_heard(&mut self, now: Instant) -> Option<News> {
        match &self.state {
            UpstreamState::Down(trouble) if trouble.cause == ConnectFailure::Stall => {
                self.leave(now)
            }
            _ => None,
        }
    }

    /// The answer to what [`Machine::poll_question`] gave to ask.
    pub fn handle_answer(&mut self, answer: &Value, now: Instant) -> Option<News> {
        let UpstreamState::Degraded(trouble) = &self.state else {
            return None;
        };
        let role = answer.get("role").and_then(Value::as_bytes);
        let is_over = match answer.as_error() {
            Some(_) => false,
            None if is_heard_by_ping(trouble.cause) => true,
            None => trouble.cause == ConnectFailure::ReadOnly && role == Some(b"master"),
        };
        if !is_over {
            return None;
        }
        self.reopening.reset();
        self.leave(now)
    }

    /// Forgets what was not seen for long; then, at most once a second, says whether to ask the server
    /// and for what: `Some(true)` for its role, `Some(false)` for a sign of life.
    pub fn poll_question(&mut self, now: Instant) -> (Option<News>, Option<bool>) {
        let UpstreamState::Degraded(trouble) = &self.state else {
            return (None, None);
        };
        let cause = trouble.cause;
        if self.complained.is_none_or(|at| now - at >= FORGET) {
            return (self.leave(now), None);
        }
        if cause == ConnectFailure::Cluster || self.asked.is_some_and(|at| now - at < ASK) {
            return (None, None);
        }
        self.asked = Some(now);
        (None, Some(cause == ConnectFailure::ReadOnly))
    }

    /// A write was refused by a replica: true if all connections are to be opened anew.
    pub fn poll_reopen(&mut self, now: Instant) -> bool {
        self.reopening.poll(now)
    }

    /// The upstream has been unreachable for `limit`, as an attempt showed no longer than `recent` ago.
    pub fn is_hopeless(&self, limit: Duration, recent: Duration, now: Instant) -> bool {
        let UpstreamState::Down(trouble) = &self.state else {
            return false;
        };
        now.saturating_duration_since(trouble.began) >= limit
            && self.failed.is_some_and(|at| now - at <= recent)
    }

    fn enter(
        &mut self,
        gravity: fn(Trouble) -> UpstreamState,
        cause: ConnectFailure,
        message: &str,
        now: Instant,
    ) -> Option<News> {
        let mut trouble = Trouble::new(cause, message);
        trouble.began = now;
        let mut new = gravity(trouble.clone());
        if let Some(old) = self.state.trouble()
            && std::mem::discriminant(&self.state) == std::mem::discriminant(&new)
        {
            // Another cause is no new beginning.
            trouble.since = old.since;
            trouble.began = old.began;
            new = gravity(trouble);
        }
        self.note_down_until(&new, now);
        self.began.get_or_insert(now);
        let bit = 1 << (3 * cause as u32 + rank(&new));
        self.state = new;
        if self.told & bit != 0 || self.is_told_full(cause, now) {
            return None;
        }
        self.told |= bit;
        Some(News::Entered(self.state.clone()))
    }

    /// It is but the connection limit again, told a moment ago. Else that is noted.
    fn is_told_full(&mut self, cause: ConnectFailure, now: Instant) -> bool {
        let is_strained = matches!(self.state, UpstreamState::Strained(_));
        if !is_strained || cause != ConnectFailure::MaxClients {
            return false;
        }
        let is_told = self.told_full.is_some_and(|at| now - at < TELL_AGAIN);
        if !is_told {
            self.told_full = Some(now);
        }
        is_told
    }

    fn leave(&mut self, now: Instant) -> Option<News> {
        let cause = self.state.trouble()?.cause;
        self.note_down_until(&UpstreamState::Up, now);
        self.state = UpstreamState::Up;
        let began = self.began.take().unwrap_or(now);
        let lasted = now.saturating_duration_since(began);
        // What was not told needs no end.
        (std::mem::take(&mut self.told) != 0).then_some(News::Left { cause, lasted })
    }

    /// Counts the time that was spent without an upstream, if it ends with this state.
    fn note_down_until(&mut self, new: &UpstreamState, now: Instant) {
        if let UpstreamState::Down(trouble) = &self.state
            && !matches!(new, UpstreamState::Down(_))
        {
            self.down += now.saturating_duration_since(trouble.began);
        }
    }
}

impl Reopening {
    fn poll(&mut self, now: Instant) -> bool {
        if self.not_before.is_some_and(|at| now < at) {
            return false;
        }
        if self.not_before.is_some_and(|at| now - at > FORGET) {
            self.reset();
        }
        let since = *self.since.get_or_insert(now);
        let mut pause = self.backoff.next_pause();
        if now - since > FORGET {
            pause += SELDOM;
        }
        self.not_before = Some(now + pause);
        true
    }

    fn reset(&mut self) {
        self.backoff.reset();
        self.since = None;
        self.not_before = None;
    }
}

/// A server for which this is so answers PING with it.
fn is_heard_by_ping(cause: ConnectFailure) -> bool {
    matches!(cause, ConnectFailure::Loading | ConnectFailure::MasterDown)
}

fn rank(state: &UpstreamState) -> u32 {
    match state {
        UpstreamState::Unknown | UpstreamState::Up | UpstreamState::Strained(_) => 0,
        UpstreamState::Degraded(_) => 1,
        UpstreamState::Down(_) => 2,
    }
}

/// What an error reply of the server says of the server itself. A script may say LOADING or READONLY for
/// reasons of its own, so it is the words that count.
pub fn complaint(error: &[u8]) -> Option<ConnectFailure> {
    let line = &error[..error.len().min(80)];
    let has = |words: &[u8]| memchr::memmem::find(line, words).is_some();
    match line.get(1..4)? {
        b"REA" if line.starts_with(REPLICA) => Some(ConnectFailure::ReadOnly),
        b"LOA" if has(b"LOADING ") && has(b"loading the dataset in memory") => {
            Some(ConnectFailure::Loading)
        }
        b"MAS" if line.starts_with(b"-MASTERDOWN Link with MASTER is down") => {
            Some(ConnectFailure::MasterDown)
        }
        b"MOV" if is_redirection(line) => Some(ConnectFailure::Cluster),
        _ => None,
    }
}

/// What a replica answers to a write, to the letter.
const REPLICA: &[u8] = b"-READONLY You can't write against a read only replica.";

/// `-MOVED 866 host:port`.
fn is_redirection(line: &[u8]) -> bool {
    let mut words = line.split(|byte| *byte == b' ');
    let is_number = |word: &[u8]| !word.is_empty() && word.iter().all(u8::is_ascii_digit);
    words.next() == Some(b"-MOVED") && words.next().is_some_and(is_number)
}

#[cfg(test)]
mod tests;
