//! What is said and heard on a tracked connection, without I/O.
//!
//! Each order becomes `CLIENT CACHING YES`, the read and `PTTL`, one behind the other: the server will
//! push when the key changes, and it says how long the key will live. Replies and pushes are taken
//! strictly in their order, which is the order in which things happened at the server: an answer is kept
//! or not before anything behind it is looked at, and before anybody gets it.

mod cutter;
mod judge;
mod push;
mod setup;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use self::cutter::Cutter;
use self::judge::{Held, judge};
use self::push::{Invalidated, invalidated};
pub use self::setup::{Plan, Setup, Verdict};
use super::clock::{Now, micros};
use super::config::Mode;
use super::fetch::{Answer, Order};
use super::tracker::{Standing, Tracker};
use super::{L1, Rule};
use crate::resp::reply::ReplyKind;
use crate::resp::{Protocol, encode};
use crate::stats::WorkerStats;

/// Longest reply to what is said beside the reads: a word, a number or an error.
const MAX_SMALL: usize = 64 * 1024;

/// Errors that are not about the read: the connection leads to a server that is not the one to ask.
const FATAL: [&[u8]; 4] = [b"-READONLY", b"-NOAUTH", b"-LOADING", b"-MASTERDOWN"];

const CACHING: &[u8] = b"*3\r\n$6\r\nCLIENT\r\n$7\r\nCACHING\r\n$3\r\nYES\r\n";
const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";

/// Why a connection must be closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Broken {
    /// It is out of step.
    Protocol(String),
    /// The server will not be asked here; its own words.
    Refused(String),
}

/// What became of an order: which worker's, by what ticket.
pub type Told = (usize, u64, Answer);

/// One tracked connection that is up.
#[derive(Debug)]
pub struct Tracked {
    l1: Arc<L1>,
    stats: Arc<WorkerStats>,
    tracker: Arc<Tracker>,
    /// The server pushes.
    pushes: bool,
    protocol: Protocol,
    cutter: Cutter,
    sent: VecDeque<Sent>,
    out: Vec<u8>,
    told: Vec<Told>,
}

/// A request whose reply has not come.
#[derive(Debug)]
enum Sent {
    Ping(Now),
    Order(Box<Pending>),
}

/// An order on its way.
#[derive(Debug)]
struct Pending {
    from: usize,
    order: Order,
    /// It is good for its age: no pushes were asked for.
    timed: bool,
    /// What comes next.
    part: Part,
    /// The server has not agreed to push.
    untracked: bool,
    /// The key has changed between the read and PTTL, which may speak of another value.
    changed: bool,
    held: Held,
    /// Whoever waited has been told that there is no answer.
    is_given_up: bool,
}

/// The replies to an order, in turn.
#[derive(Clone, Copy, Debug)]
enum Part {
    Caching,
    Value,
    Life,
}

impl Sent {
    fn since(&self) -> Now {
        match self {
            Self::Ping(since) => *since,
            Self::Order(pending) => pending.order.since,
        }
    }
}

impl Tracked {
    /// A connection that was set up, at `standing`.
    pub fn new(
        l1: Arc<L1>,
        stats: Arc<WorkerStats>,
        tracker: Arc<Tracker>,
        standing: Standing,
        protocol: Protocol,
    ) -> Self {
        Self {
            l1,
            stats,
            tracker,
            pushes: standing == Standing::Tracking,
            protocol,
            cutter: Cutter::default(),
            sent: VecDeque::new(),
            out: Vec::new(),
            told: Vec::new(),
        }
    }

    /// Takes an order of a worker.
    pub fn enqueue(&mut self, from: usize, order: Order) {
        let timed = !self.pushes || order.terms.mode == Mode::Ttl;
        let before = self.out.len();
        if !timed {
            self.out.extend_from_slice(CACHING);
        }
        self.out.extend_from_slice(&order.command);
        encode::command(&mut self.out, &[b"PTTL", order.name.key()]);
        let overhead = if timed { 1 } else { 2 };
        let bytes = self.out.len() - before - order.command.len();
        self.note_overhead(overhead, bytes);
        self.sent.push_back(Sent::Order(Box::new(Pending {
            from,
            order,
            timed,
            part: if timed { Part::Value } else { Part::Caching },
            untracked: false,
            changed: false,
            held: Held::Large,
            is_given_up: false,
        })));
        self.note_owed();
    }

    /// Asks for a reply that renews the lease, unless one is on its way.
    pub fn ping(&mut self, now: Now) {
        if self.is_owed() {
            return;
        }
        self.out.extend_from_slice(PING);
        self.note_overhead(1, PING.len());
        self.sent.push_back(Sent::Ping(now));
        self.note_owed();
    }

    /// Commands to write; empty again afterwards.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    /// What became of orders; empty again afterwards.
    pub fn take_told(&mut self) -> Vec<Told> {
        std::mem::take(&mut self.told)
    }

    /// Replies are owed.
    pub fn is_owed(&self) -> bool {
        !self.sent.is_empty()
    }

    /// When the oldest request without a reply was made.
    pub fn owed_since(&self) -> Option<Now> {
        self.sent.front().map(Sent::since)
    }

    /// Takes what the server has sent, in any pieces.
    ///
    /// # Errors
    /// The connection must be closed, see [`Tracked::lose`].
    pub fn handle_input(&mut self, mut input: &[u8]) -> Result<(), Broken> {
        while !input.is_empty() {
            let (limit, length) = (self.reply_limit(), input.len());
            let cut = self.cutter.cut(&mut input, limit);
            let cut = cut.map_err(|e| Broken::Protocol(e.0))?;
            let is_push = matches!(cut, Some((ReplyKind::Push, _)));
            if is_push || !self.is_value_next() {
                self.note_overhead(0, length - input.len());
            }
            let Some((kind, frame)) = cut else {
                break;
            };
            match kind {
                ReplyKind::Push => self.handle_push(frame.as_deref()),
                kind => self.handle_reply(kind == ReplyKind::Error, frame)?,
            }
        }
        self.note_owed();
        Ok(())
    }

    /// Tells those who have waited for longer than `limit` to wait no more. What comes late is swallowed,
    /// or kept for others. Returns since when the others wait.
    pub fn expire(&mut self, now: Now, limit: Duration) -> Option<Now> {
        let mut oldest: Option<Now> = None;
        for sent in &mut self.sent {
            let Sent::Order(pending) = sent else {
                continue;
            };
            let since = pending.order.since;
            if pending.is_given_up {
                continue;
            }
            if now.mono.saturating_sub(since.mono) > micros(limit) {
                pending.is_given_up = true;
                self.told.push((pending.from, pending.order.ticket, None));
            } else if oldest.is_none_or(|oldest| since.mono < oldest.mono) {
                oldest = Some(since);
            }
        }
        oldest
    }

    /// The connection is gone, or about to go: nothing it was asked will be answered, and what was filled
    /// over it is no longer told of changes.
    pub fn lose(&mut self) {
        for sent in std::mem::take(&mut self.sent) {
            if let Sent::Order(pending) = sent
                && !pending.is_given_up
            {
                self.told.push((pending.from, pending.order.ticket, None));
            }
        }
        self.out.clear();
        self.tracker.lose();
    }

    fn note_owed(&self) {
        self.tracker.set_owed_since(self.owed_since());
    }

    /// The next reply is what a client asked for.
    fn is_value_next(&self) -> bool {
        matches!(self.sent.front(), Some(Sent::Order(pending)) if matches!(pending.part, Part::Value))
    }

    fn note_overhead(&self, commands: u64, bytes: usize) {
        let counters = &self.stats.counters;
        counters.l1_overhead_commands.add(commands);
        counters.l1_overhead_bytes.add(bytes as u64);
    }

    /// How much of the next reply is of use.
    fn reply_limit(&self) -> usize {
        match self.sent.front() {
            Some(Sent::Order(pending)) if matches!(pending.part, Part::Value) => {
                pending.order.terms.max_value
            }
            _ => MAX_SMALL,
        }
    }

    fn handle_push(&mut self, frame: Option<&[u8]>) {
        let (l1, counters) = (&self.l1, &self.stats.counters);
        let mut read = match self.sent.front_mut() {
            Some(Sent::Order(pending)) if matches!(pending.part, Part::Life) => Some(pending),
            _ => None,
        };
        let touch = |key: &[u8]| {
            if let Some(pending) = &mut read {
                pending.changed |= pending.order.name.key() == key;
            }
            if l1.keeps(Rule::Pushes) {
                l1.stamps.touch(l1.stamps.place(l1.stamps.hash(key)));
            }
        };
        // One that is too long to look into names too many keys to tell them apart.
        let what = frame.map_or(Invalidated::Everything, |frame| invalidated(frame, touch));
        match what {
            Invalidated::Nothing => return,
            Invalidated::Keys(keys) => counters.l1_pushed_keys.add(keys),
            Invalidated::Everything => {
                if let Some(pending) = &mut read {
                    pending.changed = true;
                }
                if l1.keeps(Rule::NullPushes) {
                    l1.stamps.touch_all();
                }
                counters.l1_flushes.add(1);
            }
        }
        counters.l1_pushes.add(1);
    }

    fn handle_reply(&mut self, is_error: bool, frame: Option<Cow<'_, [u8]>>) -> Result<(), Broken> {
        let Some(front) = self.sent.front_mut() else {
            return Err(desync("a reply that nothing asked for"));
        };
        if let Some(frame) = &frame
            && is_error
            && FATAL.iter().any(|word| frame.starts_with(word))
        {
            return Err(Broken::Refused(words(frame)));
        }
        renew(&self.tracker, front.since());
        match front {
            Sent::Ping(_) => {
                // A user who may not ping is answered all the same.
                if !is_error && frame.as_deref() != Some(b"+PONG\r\n") {
                    return Err(desync("no PONG to a PING"));
                }
                self.sent.pop_front();
            }
            Sent::Order(pending) => match pending.part {
                Part::Caching => pending.handle_caching(is_error, frame.as_deref())?,
                Part::Value => pending.hold(is_error, frame),
                Part::Life => {
                    let life = life(is_error, frame.as_deref())?;
                    self.finish(life);
                }
            },
        }
        Ok(())
    }

    /// All replies to the front order have come.
    fn finish(&mut self, life: Option<i64>) {
        let Some(Sent::Order(pending)) = self.sent.pop_front() else {
            return;
        };
        let (from, ticket) = (pending.from, pending.order.ticket);
        let is_given_up = pending.is_given_up;
        let answer = judge(
            &self.l1,
            &self.stats.counters,
            *pending,
            self.protocol,
            life,
        );
        if !is_given_up {
            self.told.push((from, ticket, answer));
        }
    }
}

impl Pending {
    fn handle_caching(&mut self, is_error: bool, frame: Option<&[u8]>) -> Result<(), Broken> {
        match frame {
            Some(b"+OK\r\n") => {}
            // A script has run for too long: that passes, and the connection still tracks.
            Some(error) if is_error && error.starts_with(b"-BUSY ") => self.untracked = true,
            Some(error) if is_error => return Err(Broken::Refused(words(error))),
            _ => return Err(desync("no OK to CLIENT CACHING")),
        }
        self.part = Part::Value;
        Ok(())
    }

    fn hold(&mut self, is_error: bool, frame: Option<Cow<'_, [u8]>>) {
        self.held = match frame {
            None => Held::Large,
            Some(frame) if is_error => Held::Error(frame.into_owned()),
            Some(frame) => Held::Reply(frame.into_owned()),
        };
        self.part = Part::Life;
    }
}

/// How long the key will live, as PTTL says it; `None` if the server does not say.
fn life(is_error: bool, frame: Option<&[u8]>) -> Result<Option<i64>, Broken> {
    if is_error {
        return Ok(None);
    }
    let number = frame
        .and_then(|frame| frame.strip_prefix(b":")?.strip_suffix(b"\r\n"))
        .and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
    number.map(Some).ok_or_else(|| desync("no number to PTTL"))
}

/// Replies come in order, but orders of several workers may be entered a little out of it.
fn renew(tracker: &Tracker, since: Now) {
    if since.mono >= tracker.heard().mono {
        tracker.renew(since);
    }
}

fn desync(what: &str) -> Broken {
    Broken::Protocol(format!("the server sent {what}"))
}

/// The text of an error reply.
fn words(error: &[u8]) -> String {
    let line = error.strip_prefix(b"-").unwrap_or(error);
    String::from_utf8_lossy(line).trim_end().to_owned()
}
