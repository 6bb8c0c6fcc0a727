//! A connection while it is up: writes what was entered, matches what comes back, watches the clock.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::futures::OwnedNotified;
use tokio::time::{Instant, Sleep, sleep};

use super::conn::{Conn, Core, Role};
use super::facts::Identity;
use super::harvest::{Harvest, learn};
use super::link::Link;
use super::pipe::{Fed, Handling, Run, STREAM_ABOVE, Tick};
use super::reply_to::{Failure, Owner, ReplyTo};
use super::stream::Stream;
use crate::faults;
use crate::sabotage::{self, Bug};

/// Room for new bytes behind a reply that is not whole.
const READ_ROOM: usize = 64 * 1024;

/// What is read in one turn, before the clients whose replies it brought have theirs.
const TURN: usize = 256 * 1024;

/// While more than this waits for the client whose long reply is arriving, reading pauses...
const PAUSE_ABOVE: usize = 1024 * 1024;
/// ...unless the client takes less than this many bytes per millisecond: others share the connection.
const PAUSE_RATE: u64 = 20 * 1024;
/// ...after this long.
const PAUSE_GRACE: Duration = Duration::from_millis(40);

/// A shared connection must have been unused for this long before it is closed in favour of another.
pub(super) const IDLE_ENOUGH: Duration = Duration::from_millis(100);

/// The reply to COMMAND may be this long.
const MAX_FACTS: usize = 8 * 1024 * 1024;

/// Why a connection is no longer served.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// Unused, not wanted any more, or wanted by somebody else.
    Closed,
    /// Gone without being asked.
    Lost(String),
}

/// A pause in reading, for the sake of one client's long reply.
struct Pause {
    since: Instant,
    taken: u64,
}

/// Who has been given replies that are not on their way yet.
struct Batch<W: ReplyTo>(Vec<W>);

impl<W: ReplyTo> Batch<W> {
    fn flush(&mut self, input: &[u8]) {
        self.0.iter().for_each(|owner| owner.flush(input));
        self.0.clear();
    }
}

impl<W: ReplyTo> Drop for Batch<W> {
    /// A panic in between leaves replies that nobody sends: their clients must not wait for them.
    fn drop(&mut self) {
        if std::thread::panicking() {
            for owner in &self.0 {
                owner.fail(&Failure::Torn, 1, Handling::Pass);
            }
        }
    }
}

/// Serves one connection until it ends.
pub(super) struct Serving<W: ReplyTo> {
    pub(super) conn: Rc<Conn<W>>,
    pub(super) stream: Stream,
    pub(super) input: Vec<u8>,
    /// `input[..filled]` was received; all of it was scanned.
    pub(super) filled: usize,
    unflushed: bool,
    batch: Batch<W>,
    pause: Option<Pause>,
    /// A client that was found too slow to pause for, until it has caught up.
    no_pause: Option<u64>,
    pub(super) timer: Pin<Box<Sleep>>,
    wanted: Pin<Box<OwnedNotified>>,
    /// How many calls for an idle connection `wanted` has heard.
    heard_calls: Option<u64>,
    /// Nobody held the connection when the clock was looked at.
    pub(super) was_idle: bool,
    pub(super) now: Tick,
    /// For how long nothing has come while this process ran.
    pub(super) silent: Duration,
    /// When the clock was last looked at.
    pub(super) checked: Tick,
    /// Since when nothing new is sent: it is to be opened anew.
    pub(super) draining: Option<Tick>,
}

impl<W: ReplyTo> Serving<W> {
    pub(super) fn new(conn: Rc<Conn<W>>, stream: Stream) -> Self {
        let wanted = conn.link.dialer.budget.idle_wanted();
        Self {
            now: conn.link.now(),
            stream,
            input: vec![0; STREAM_ABOVE + READ_ROOM],
            filled: 0,
            unflushed: false,
            batch: Batch(Vec::new()),
            pause: None,
            no_pause: None,
            timer: Box::pin(sleep(Duration::ZERO)),
            wanted: Box::pin(wanted),
            heard_calls: None,
            was_idle: false,
            silent: Duration::ZERO,
            checked: 0,
            draining: None,
            conn,
        }
    }

    /// Writes until the socket is full or nothing is left.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let mut core = self.conn.core.borrow_mut();
        self.bound_in_flight(&mut core);
        let stream = &mut self.stream;
        let n = core
            .outbox
            .write_out(stream.fails_late(), |bytes| stream.poll_write(cx, bytes))?;
        if sabotage::is(Bug::CutWrite) && n > 0 {
            let left = core.outbox.unwritten().len();
            core.outbox.handle_written(left);
        }
        let waits = n == 0 && core.outbox.is_sendable();
        core.stuck_since = waits.then(|| core.stuck_since.unwrap_or_else(|| self.conn.link.now()));
        if n > 0 {
            if self.conn.role() == Role::Leased {
                core.outbox.handle_answered(n);
            }
            self.unflushed = true;
            let counters = &self.conn.link.stats.counters;
            counters.upstream_bytes_out.add(n as u64);
        }
        if self.unflushed
            && let Poll::Ready(done) = self.stream.poll_flush(cx)
        {
            done?;
            self.unflushed = false;
        }
        drop(core);
        self.conn.make_room();
        Ok(())
    }

    /// Reads once; how much came.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Result<usize, Ended> {
        if self.is_paused(cx) {
            return Ok(0);
        }
        let start = self.filled;
        loop {
            match self.stream.poll_read(cx, &mut self.input[self.filled..]) {
                // What came before the end is handed on first; the end is met again.
                Poll::Ready(Ok(0) | Err(_)) if self.filled > start => break,
                Poll::Ready(Ok(0)) => return Err(Ended::Lost("closed by the server".to_owned())),
                Poll::Ready(Ok(n)) => self.filled += n,
                Poll::Ready(Err(e)) => return Err(Ended::Lost(e.to_string())),
                Poll::Pending => break,
            }
            if !self.stream.reads_in_records() || self.filled == self.input.len() {
                break;
            }
        }
        if self.filled == start {
            return Ok(0);
        }
        let read = self.filled - start;
        self.now = self.conn.link.now();
        self.handle_input(start)?;
        Ok(read)
    }

    /// Hands on what came behind `scanned`.
    fn handle_input(&mut self, scanned: usize) -> Result<(), Ended> {
        let conn = self.conn.clone();
        let link = &conn.link;
        let fresh = (self.filled - scanned) as u64;
        link.stats.counters.upstream_bytes_in.add(fresh);
        let core = &mut *conn.core.borrow_mut();
        core.last_heard = self.now;
        link.dialer.note_heard(self.now);
        core.spoil_queue();
        let input = &self.input[..self.filled];
        faults::panic_at("connection", input);
        let mut harvest = Harvest {
            input,
            now: self.now,
            stats: &link.stats,
            conn: &conn,
            holder: conn.holder(),
            batch: &mut self.batch.0,
            facts: &mut core.facts_reply,
            told: false,
            probed: false,
            proved: false,
            strayed: false,
            left_on: false,
            latency: None,
        };
        let done = core
            .pipe
            .handle_input(input, scanned, &mut core.outbox, |run, piece| {
                harvest.take(run, piece);
            });
        let (told, latency, left_on) = (harvest.told, harvest.latency, harvest.left_on);
        let (probed, proved, strayed) = (harvest.probed, harvest.proved, harvest.strayed);
        if probed {
            core.handle_probed();
        }
        if proved {
            core.proof.note_answered();
        }
        self.batch.flush(input);
        if conn.role() == Role::Leased
            && core.pipe.is_empty()
            && let Some(holder) = conn.holder()
        {
            holder.resume(); // it may have got its error long ago, and has nothing else to wake it
        }
        let (consumed, fed) =
            done.map_err(|desync| out_of_step(link, &format!("the server sent {desync}")))?;
        let wrong = strayed.then_some(STRAYED);
        if let Some(what) = wrong.or(left_on.then_some(LEFT_ON)) {
            return Err(out_of_step(link, what));
        }
        self.note_fed(core, &fed);
        if let Some(latency) = latency {
            let stats = &link.dialer.stats;
            stats.latency_us.store(latency.as_micros() as u64, Relaxed);
        }
        if told {
            learn(core, link);
        } else if core.facts_reply.len() > MAX_FACTS {
            return Err(Ended::Lost("the reply to COMMAND has no end".to_owned()));
        }
        self.input.copy_within(consumed..self.filled, 0);
        self.filled -= consumed;
        Ok(())
    }

    /// Draws the conclusions from what one read has brought.
    fn note_fed(&mut self, core: &mut Core<W>, fed: &Fed) {
        if let Some((cause, at)) = fed.complaint {
            self.note_complaint(cause, at);
        }
        let link = &self.conn.link;
        if fed.patience_ended {
            core.pipe
                .iter_mut()
                .for_each(|run| run.since = run.since.max(self.now));
        }
        let counters = &link.stats.counters;
        counters.late_replies.add(u64::from(fed.late));
        counters.error_replies.add(u64::from(fed.errors));
    }

    /// Reading waits for the client of the long reply that is arriving, if that is fair to the others.
    fn is_paused(&mut self, cx: &mut Context<'_>) -> bool {
        let core = self.conn.core.borrow();
        let owner = match core.pipe.front().and_then(|run| run.owner.as_ref()) {
            Some(Owner::Client(owner)) if core.pipe.is_streaming() => owner,
            _ => {
                self.pause = None;
                return false;
            }
        };
        let known_slow = self.no_pause == Some(owner.identity());
        if owner.backlog() < PAUSE_ABOVE {
            self.pause = None;
            self.no_pause = self.no_pause.filter(|_| !known_slow);
            return false;
        }
        if known_slow {
            return false;
        }
        let now = Instant::now();
        let pause = self.pause.get_or_insert_with(|| Pause {
            since: now,
            taken: owner.taken(),
        });
        let (elapsed, taken) = (now - pause.since, owner.taken().saturating_sub(pause.taken));
        let fair = taken >= elapsed.as_millis() as u64 * PAUSE_RATE;
        if self.conn.role() == Role::Shared && elapsed > PAUSE_GRACE && !fair {
            self.no_pause = Some(owner.identity());
            self.pause = None;
            return false;
        }
        self.timer.as_mut().reset(now + PAUSE_GRACE);
        let _ = self.timer.as_mut().poll(cx);
        true
    }

    /// Closes for the sake of somebody who waits for a permit, if nothing is lost by it.
    fn poll_wanted(&mut self, cx: &mut Context<'_>) -> Result<(), Ended> {
        let budget = &self.conn.link.dialer.budget;
        let calls = budget.calls();
        if self.heard_calls == Some(calls) && !budget.is_wanted() {
            return Ok(());
        }
        self.heard_calls = Some(calls);
        if self.wanted.as_mut().poll(cx).is_ready() {
            self.wanted.set(budget.idle_wanted());
            let _ = self.wanted.as_mut().poll(cx);
            self.timer.as_mut().reset(Instant::now() + IDLE_ENOUGH);
            let _ = self.timer.as_mut().poll(cx);
        }
        let core = self.conn.core.borrow();
        let unused = Duration::from_micros(self.conn.link.now().saturating_sub(core.last_used));
        let idle = core.pipe.is_empty() && self.conn.is_idle();
        let enough = unused >= IDLE_ENOUGH || self.conn.role() == Role::Leased;
        if idle && enough && budget.take_wish(self.conn.role() == Role::Leased) {
            return Err(Ended::Closed);
        }
        Ok(())
    }

    fn poll_all(&mut self, cx: &mut Context<'_>) -> Result<(), Ended> {
        if self.conn.is_closing() {
            return Err(Ended::Closed); // what nobody waits for is neither sent nor passed on
        }
        self.poll_reopen()?;
        self.conn.poll_move()?;
        let mut read = 0;
        loop {
            self.poll_write(cx)
                .map_err(|e| Ended::Lost(e.to_string()))?;
            match self.poll_read(cx)? {
                0 => break,
                n => read += n,
            }
            if read >= TURN {
                cx.waker().wake_by_ref();
                break;
            }
        }
        self.poll_reopen()?;
        self.conn.poll_move()?;
        self.poll_timer(cx)?;
        self.poll_wanted(cx)?;
        // The clock may have asked for a ping.
        self.poll_write(cx)
            .map_err(|e| Ended::Lost(e.to_string()))?;
        if self.conn.is_closing() {
            Err(Ended::Closed)
        } else {
            Ok(())
        }
    }
}

impl<W: ReplyTo> Future for Serving<W> {
    type Output = Ended;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Ended> {
        let this = self.get_mut();
        this.conn.register(cx.waker());
        match this.poll_all(cx) {
            Ok(()) => Poll::Pending,
            Err(ended) => Poll::Ready(ended),
        }
    }
}

impl<W: ReplyTo> Unpin for Serving<W> {}

const STRAYED: &str =
    "a reply was missing or too many: another came in the place of the answer to a PING";
const LEFT_ON: &str = "the server sent a push to a leased connection that nobody holds";

/// Replies do not belong to the commands that they seem to belong to: counted, and the end.
fn out_of_step(link: &Link, what: &str) -> Ended {
    link.stats.counters.desyncs.add(1);
    Ended::Lost(what.to_owned())
}

/// Enters a command of the proxy's own.
pub(super) fn push_own<W>(core: &mut Core<W>, link: &Link, command: &[u8], owner: Owner<W>) {
    core.outbox.push(command);
    if sabotage::is(Bug::SurplusReply) && matches!(owner, Owner::Ping | Owner::Proof(_)) {
        return;
    }
    let bytes = if core.keeps_written { command.len() } else { 0 };
    core.pipe.push(Run {
        owner: Some(owner),
        terms: Handling::Pass.into(),
        is_unit: false,
        owed: 1,
        bytes,
        since: link.now(),
        retried: true,
    });
    link.stats.counters.overhead_commands.add(1);
}

/// Asks the server for its commands if nobody has done so yet.
pub(super) fn ask_facts<W>(core: &mut Core<W>, link: &Link, identity: Identity) {
    if link.dialer.facts.begin() {
        core.identity = identity;
        core.facts_reply.clear();
        push_own(core, link, b"*1\r\n$7\r\nCOMMAND\r\n", Owner::Facts);
    }
}
