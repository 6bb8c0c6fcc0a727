//! The in-flight queue of one upstream connection: which command each reply answers.
//!
//! Commands enter in the order in which their bytes enter the [`Outbox`]; replies are matched by
//! position alone. A *run* is a row of commands of one owner that entered together; its replies are
//! handed over together. An owner that went away or got its error already leaves a tombstone: its run
//! stays and swallows exactly the replies it is owed.
//!
//! No I/O and no clock: bytes and ticks come in as arguments.

use std::collections::VecDeque;
use std::ops::Range;

use super::outbox::Outbox;
pub use super::shown::ShownReads;
use super::trouble::complaint;
use crate::l1::touched::Touched;
use crate::resp::reply::{ReplyKind, ReplyScan, ReplyScanner};
use crate::stats::ConnectFailure;

/// Microseconds since the worker started.
pub type Tick = u64;

/// A reply longer than this is passed on in parts while it arrives; shorter ones only whole.
pub const STREAM_ABOVE: usize = 64 * 1024;

/// What happens to a run's replies on their way to its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handling {
    /// Passed on byte for byte.
    Pass,
    /// `INFO`: gathered, then extended by Nearkey's own section.
    Info,
    /// `PUBSUB NUMSUB`: gathered, then counted over this proxy's clients.
    NumSub,
    /// `PUBSUB SHARDNUMSUB`: likewise.
    ShardNumSub,
    /// Dropped: the client said `CLIENT REPLY OFF` or `SKIP`.
    Discard,
}

/// How a row of commands is carried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// What happens to the replies.
    pub handling: Handling,
    /// So many leading replies are not given to the owner: a transaction's `+OK` and `+QUEUED` it has
    /// had already. A row with hidden replies is one unit: never split, never sent twice.
    pub hidden: u32,
    /// The commands may take as long as they like: they block.
    pub patient: bool,
    /// How many milliseconds they have said they are going to block; 0 for as long as it takes.
    pub wait: u32,
    /// Keys that they may change or show.
    pub touched: Touched,
    /// The row is one command of reads that L1 could hold, by their hashes, one for each of `touched`: a
    /// reply that was given before shows nothing new.
    pub reads: ShownReads,
}

impl From<Handling> for Terms {
    fn from(handling: Handling) -> Self {
        Self {
            handling,
            hidden: 0,
            patient: false,
            wait: 0,
            touched: Touched::default(),
            reads: ShownReads::None,
        }
    }
}

/// A row of commands of one owner.
#[derive(Debug)]
pub struct Run<W> {
    /// Whom the replies are for; `None` is a tombstone.
    pub owner: Option<W>,
    /// How it is carried; `hidden` counts those still to come.
    pub terms: Terms,
    /// It had hidden replies when it entered: it stands or falls as a whole.
    pub is_unit: bool,
    /// Replies still owed, hidden ones included.
    pub owed: u32,
    /// Bytes of the whole run in the outbox.
    pub bytes: usize,
    /// When the run entered.
    pub since: Tick,
    /// Its commands were sent before on a connection that was lost.
    pub retried: bool,
}

/// A part of the input that belongs to one owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where in the input.
    pub range: Range<usize>,
    /// Replies that end within it.
    pub completed: u32,
    /// What the run asked for.
    pub handling: Handling,
    /// The run is answered with this piece.
    pub last: bool,
    /// It ends in the middle of a reply.
    pub torn: bool,
}

/// What a connection received that cannot be matched to a command.
#[derive(Debug, PartialEq, Eq)]
pub enum Desync {
    /// A reply that no command asked for.
    Surplus,
    /// Bytes that are no reply.
    Malformed(String),
}

impl std::fmt::Display for Desync {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Surplus => f.write_str("a reply that no command asked for"),
            Self::Malformed(what) => write!(f, "a malformed reply: {what}"),
        }
    }
}

/// Counts of one call of [`Pipe::handle_input`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fed {
    /// Replies of living owners.
    pub replies: u32,
    /// Replies swallowed by tombstones.
    pub late: u32,
    /// Replies that are errors.
    pub errors: u32,
    /// A command that took its time is done: the time of those behind it begins now.
    pub patience_ended: bool,
    /// An error reply said what is wrong with the server, and where in the input it does.
    pub complaint: Option<(ConnectFailure, usize)>,
}

/// The in-flight queue.
#[derive(Debug)]
pub struct Pipe<W> {
    runs: VecDeque<Run<W>>,
    scanner: ReplyScanner,
    /// Part of the front reply was passed on already.
    streaming: bool,
    /// Part of a push was passed on already.
    push_begun: bool,
    /// What comes while nothing is owed is a push too: the lines of MONITOR.
    monitor: bool,
    commands: usize,
}

impl<W> Default for Pipe<W> {
    fn default() -> Self {
        Self {
            runs: VecDeque::new(),
            scanner: ReplyScanner::default(),
            streaming: false,
            push_begun: false,
            monitor: false,
            commands: 0,
        }
    }
}

impl<W> Run<W> {
    /// Replies that the owner still waits for.
    pub fn visible(&self) -> u32 {
        self.owed - self.terms.hidden
    }
}

impl<W> Pipe<W> {
    /// Enters a run behind all others.
    pub fn push(&mut self, run: Run<W>) {
        debug_assert!(run.owed > 0);
        self.commands += run.owed as usize;
        self.runs.push_back(run);
    }

    /// No reply is owed.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Replies owed, tombstones included.
    pub fn len(&self) -> usize {
        self.commands
    }

    /// The oldest run.
    pub fn front(&self) -> Option<&Run<W>> {
        self.runs.front()
    }

    /// The oldest run has received a part of a reply that is not whole.
    pub fn is_streaming(&self) -> bool {
        self.streaming
    }

    /// From now on everything that comes while nothing is owed is a push.
    pub fn set_monitor(&mut self) {
        self.monitor = true;
    }

    /// [`Pipe::set_monitor`] was called.
    pub fn is_monitor(&self) -> bool {
        self.monitor
    }

    /// All runs, oldest first.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Run<W>> {
        self.runs.iter_mut()
    }

    /// Up to where those runs reach that begin within the first `bytes`.
    pub fn whole(&self, bytes: usize) -> usize {
        let mut end = 0;
        for run in &self.runs {
            if end >= bytes {
                break;
            }
            end += run.bytes;
        }
        end.max(bytes)
    }

    /// Up to where those runs reach that begin within the first `most` commands.
    pub fn reach(&self, most: usize) -> usize {
        let (mut end, mut commands) = (0, 0);
        for run in &self.runs {
            if commands >= most {
                break;
            }
            end += run.bytes;
            commands += run.owed as usize;
        }
        end
    }

    /// Takes everything out, for a connection that is gone. The scanner starts afresh.
    pub fn take(&mut self) -> VecDeque<Run<W>> {
        self.scanner = ReplyScanner::default();
        self.streaming = false;
        self.push_begun = false;
        self.monitor = false;
        self.commands = 0;
        std::mem::take(&mut self.runs)
    }

    /// Takes the oldest run out; only right while none of its bytes were written.
    pub fn pop_unsent(&mut self) -> Option<Run<W>> {
        let run = self.runs.pop_front()?;
        self.commands -= run.owed as usize;
        Some(run)
    }

    /// Takes runs out as if they had never entered, but not one that has begun: a planted bug.
    pub fn forget(&mut self, which: impl Fn(&Run<W>) -> bool) {
        let begun = usize::from(self.streaming);
        let mut index = 0;
        self.runs.retain(|run| {
            index += 1;
            index <= begun || !which(run)
        });
        self.commands = self.runs.iter().map(|run| run.owed as usize).sum();
    }

    /// Swaps the two runs that entered last: a planted bug.
    pub fn swap_last(&mut self) {
        let runs = self.runs.len();
        if runs >= 3 {
            self.runs.swap(runs - 1, runs - 2);
        }
    }

    /// Matches what the connection received.
    ///
    /// `input[..scanned]` was given before and kept because it ends in the middle of a reply;
    /// everything behind it is new. `deliver` is called once per run and row of replies, in order, for
    /// tombstones too; without a run for a push.
    /// Returns how much of `input` is done with; the caller keeps the rest.
    ///
    /// # Errors
    /// The connection must be closed: nothing that follows can be matched.
    pub fn handle_input(
        &mut self,
        input: &[u8],
        scanned: usize,
        outbox: &mut Outbox,
        mut deliver: impl FnMut(Option<&Run<W>>, Piece),
    ) -> Result<(usize, Fed), Desync> {
        let mut cut = Cut::default();
        let mut position = scanned;
        while position < input.len() {
            match self
                .scanner
                .scan(&input[position..])
                .map_err(|e| Desync::Malformed(e.0))?
            {
                ReplyScan::Incomplete => position = input.len(),
                ReplyScan::Complete { consumed, kind } => {
                    position += consumed;
                    if kind == ReplyKind::Error
                        && let Some(cause) = complaint(&input[cut.frame..position])
                    {
                        cut.fed.complaint = Some((cause, cut.frame));
                    }
                    self.handle_frame(kind, position, &mut cut, outbox, &mut deliver)?;
                }
            }
        }
        let end = if self.scanner.is_idle() {
            cut.frame
        } else {
            self.handle_rest(position, &mut cut, &mut deliver)?
        };
        let torn = self.streaming && end == position && !self.scanner.is_idle();
        self.give(cut.frame, torn, &mut cut, &mut deliver);
        Ok((end, cut.fed))
    }

    /// A frame that ends at `end`: a push, a hidden reply, or one for the owner of the front run.
    fn handle_frame(
        &mut self,
        kind: ReplyKind,
        end: usize,
        cut: &mut Cut,
        outbox: &mut Outbox,
        deliver: &mut impl FnMut(Option<&Run<W>>, Piece),
    ) -> Result<(), Desync> {
        if kind == ReplyKind::Push || self.is_line() {
            self.give(cut.frame, false, cut, deliver);
            deliver(None, push(cut.frame..end, false));
            self.push_begun = false;
            cut.start = end;
        } else if self.hide_reply()? {
            cut.fed.errors += u32::from(kind == ReplyKind::Error);
            cut.start = end;
            self.finish_hidden(end, outbox, &mut cut.fed, deliver)?;
        } else {
            let run = self.runs.front_mut().ok_or(Desync::Surplus)?;
            self.streaming = false;
            cut.completed += 1;
            cut.fed.errors += u32::from(kind == ReplyKind::Error);
            if run.owed == cut.completed {
                self.give(end, false, cut, deliver);
                self.finish_front(outbox, &mut cut.fed)?;
            }
        }
        cut.frame = end;
        Ok(())
    }

    /// The input ends at `end`, in the middle of a frame. Returns how much of it is done with.
    fn handle_rest(
        &mut self,
        end: usize,
        cut: &mut Cut,
        deliver: &mut impl FnMut(Option<&Run<W>>, Piece),
    ) -> Result<usize, Desync> {
        let long = end - cut.frame > STREAM_ABOVE;
        if self.scanner.is_push() || self.is_line() {
            if !long && !self.push_begun {
                return Ok(cut.frame);
            }
            self.give(cut.frame, false, cut, deliver);
            deliver(None, push(cut.frame..end, true));
            self.push_begun = true;
            (cut.start, cut.frame) = (end, end);
        } else if self.runs.is_empty() {
            return Err(Desync::Surplus);
        } else if long || self.streaming {
            if self.runs.front().is_some_and(|run| run.terms.hidden > 0) {
                cut.start = end; // a reply of this length to MULTI is dropped like any other
            }
            self.streaming = true;
            cut.frame = end;
        } else {
            return Ok(cut.frame);
        }
        Ok(end)
    }

    /// What comes now is a line of MONITOR.
    fn is_line(&self) -> bool {
        self.monitor && self.runs.is_empty()
    }

    /// Takes a reply off the hidden ones of the front run; false if it has none.
    fn hide_reply(&mut self) -> Result<bool, Desync> {
        let run = self.runs.front_mut().ok_or(Desync::Surplus)?;
        if run.terms.hidden == 0 {
            return Ok(false);
        }
        run.terms.hidden -= 1;
        run.owed -= 1;
        self.commands -= 1;
        self.streaming = false;
        Ok(true)
    }

    /// A run of hidden replies alone ends with the last of them: its owner is given nothing, to know.
    fn finish_hidden(
        &mut self,
        end: usize,
        outbox: &mut Outbox,
        fed: &mut Fed,
        deliver: &mut impl FnMut(Option<&Run<W>>, Piece),
    ) -> Result<(), Desync> {
        match self.runs.front() {
            Some(run) if run.owed == 0 => {
                if run.owner.is_some() {
                    deliver(Some(run), push(end..end, false));
                }
                self.finish_front(outbox, fed)
            }
            _ => Ok(()),
        }
    }

    /// Hands what lies before `end` to the owner of the front run.
    fn give(
        &mut self,
        end: usize,
        torn: bool,
        cut: &mut Cut,
        deliver: &mut impl FnMut(Option<&Run<W>>, Piece),
    ) {
        let done = std::mem::take(&mut cut.completed);
        let range = cut.start..end;
        if range.is_empty() {
            return;
        }
        cut.start = end;
        let Some(run) = self.runs.front_mut() else {
            return;
        };
        run.owed -= done;
        self.commands -= done as usize;
        if run.owner.is_none() {
            cut.fed.late += done;
        } else {
            cut.fed.replies += done;
        }
        let piece = Piece {
            range,
            completed: done,
            handling: run.terms.handling,
            last: run.owed == 0,
            torn,
        };
        deliver(Some(run), piece);
    }

    /// The front run is answered; that it was not written whole means that something else was.
    fn finish_front(&mut self, outbox: &mut Outbox, fed: &mut Fed) -> Result<(), Desync> {
        let Some(run) = self.runs.pop_front() else {
            return Ok(());
        };
        fed.patience_ended |= run.terms.patient;
        if run.bytes > outbox.unanswered_written() {
            return Err(Desync::Surplus);
        }
        outbox.handle_answered(run.bytes);
        Ok(())
    }
}

/// How far [`Pipe::handle_input`] has come.
#[derive(Default)]
struct Cut {
    /// Where the current piece begins.
    start: usize,
    /// Where the current reply began, or the part of it that was not passed on.
    frame: usize,
    /// Replies in the current piece.
    completed: u32,
    fed: Fed,
}

/// A part of a push.
fn push(range: Range<usize>, torn: bool) -> Piece {
    Piece {
        range,
        completed: 0,
        handling: Handling::Pass,
        last: !torn,
        torn,
    }
}

#[cfg(test)]
mod tests;
