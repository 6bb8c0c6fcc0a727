//! The connection of a hub while it is up.

use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::task::yield_now;
use tokio::time::sleep;

use super::conn::HubConn;
use super::readers::CHECK;
use crate::resp::reply::{ReplyScan, ReplyScanner};
use crate::upstream::pipe::Tick;
use crate::upstream::reply_to::Failure;
use crate::upstream::stream::Stream;
use crate::worker::Worker;

/// What is read at once, unless a message is longer.
const READ: usize = 64 * 1024;

/// What is read in one turn, before those who got messages have theirs.
const TURN: usize = 256 * 1024;

/// While more than this is on its way to other workers, nothing is read.
const MAX_POSTED: usize = 1024 * 1024;

/// How long a closed connection is waited for.
const FAREWELL: Duration = Duration::from_millis(250);

/// The clock is looked at this often while answers are owed, at most and at least.
const MIN_CHECK: Duration = Duration::from_millis(10);
const MAX_CHECK: Duration = Duration::from_secs(1);

/// Why a connection is no longer served.
#[derive(Debug)]
pub(super) enum Ended {
    /// Unused, or wanted by somebody else.
    Closed,
    /// Gone without being asked.
    Lost(String),
}

/// Serves one connection until it ends.
pub(super) struct Serving<'a> {
    conn: &'a HubConn,
    worker: &'a Rc<Worker>,
    stream: Stream,
    scanner: ReplyScanner,
    input: Vec<u8>,
    /// `input[..filled]` was received; all of it was scanned.
    filled: usize,
    output: Vec<u8>,
    written: usize,
    unflushed: bool,
    last_heard: Tick,
    /// Since when answers are owed.
    owed_since: Option<Tick>,
    /// Since when nobody wants anything.
    unwanted_since: Option<Tick>,
    /// The server has said something, so this is more than an open port.
    heard: bool,
    /// How many pauses of the process there were when it was known to be alive.
    gaps_seen: u32,
    restored: bool,
    /// Room for a long message, as the worker's account knows it.
    counted: usize,
    /// Readers have to catch up before more is read.
    paused: bool,
}

impl<'a> Serving<'a> {
    pub(super) fn new(conn: &'a HubConn, worker: &'a Rc<Worker>, stream: Stream) -> Self {
        Self {
            conn,
            worker,
            stream,
            scanner: ReplyScanner::default(),
            input: vec![0; READ],
            filled: 0,
            output: Vec::new(),
            written: 0,
            unflushed: false,
            last_heard: worker.link.now(),
            owed_since: None,
            unwanted_since: None,
            heard: false,
            gaps_seen: worker.link.gaps.count(),
            restored: false,
            counted: 0,
            paused: false,
        }
    }

    /// Serves until the end.
    pub(super) async fn serve(&mut self) -> Ended {
        let budget = &self.worker.link.dialer.budget;
        loop {
            // Before it is looked whether anybody waits: no call is missed.
            let wanted = budget.idle_wanted();
            let mut next = match self.check() {
                Ok(next) => next,
                Err(ended) => return ended,
            };
            if self.note_pause() {
                next = next.min(CHECK);
            }
            let conn = self.conn;
            tokio::select! {
                biased;
                turn = poll_fn(|cx| self.poll_io(cx)) => match turn {
                    Some(ended) => return ended,
                    None => yield_now().await,
                },
                () = conn.wake.notified() => {}
                () = wanted => {}
                () = sleep(next) => {}
            }
        }
    }

    /// Closes the connection and waits until the server has closed it too, within limits: only then
    /// does it no longer count there.
    pub(super) async fn leave(mut self) {
        let farewell = async {
            poll_fn(|cx| self.stream.poll_shutdown(cx)).await?;
            while poll_fn(|cx| self.stream.poll_read(cx, &mut self.input)).await? > 0 {}
            Ok::<(), io::Error>(())
        };
        // A server that does not answer, or is gone, has nothing more to tell.
        let _ = tokio::time::timeout(FAREWELL, farewell).await;
    }

    /// Whether reading waits: for readers who are behind, or for other workers.
    fn note_pause(&mut self) -> bool {
        self.paused =
            self.conn.posted.load(Relaxed) > MAX_POSTED || self.worker.waits_for_readers();
        if self.paused {
            self.last_heard = self.worker.link.now(); // it is not the server that is silent
        }
        self.paused
    }

    /// Moves bytes until the socket has none and takes none. Ready when the connection is lost, or with
    /// `None` when it is the turn of others.
    fn poll_io(&mut self, cx: &mut Context<'_>) -> Poll<Option<Ended>> {
        let mut read = 0;
        loop {
            if let Err(e) = self.poll_write(cx) {
                return Poll::Ready(Some(Ended::Lost(e.to_string())));
            }
            if self.paused {
                return Poll::Pending;
            }
            match self.poll_read(cx) {
                Ok(0) => return Poll::Pending,
                Ok(n) => read += n,
                Err(reason) => return Poll::Ready(Some(Ended::Lost(reason))),
            }
            if read >= TURN {
                return Poll::Ready(None);
            }
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        loop {
            if self.written == self.output.len() {
                self.output = self.conn.hub.borrow_mut().take_output();
                self.written = 0;
                if self.output.is_empty() {
                    break;
                }
            }
            let Poll::Ready(n) = self.stream.poll_write(cx, &self.output[self.written..]) else {
                break;
            };
            let n = n?;
            if n == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.written += n;
            self.unflushed = true;
            let counters = &self.worker.stats.counters;
            counters.upstream_bytes_out.add(n as u64);
        }
        if self.unflushed
            && let Poll::Ready(done) = self.stream.poll_flush(cx)
        {
            done?;
            self.unflushed = false;
        }
        Ok(())
    }

    /// Reads what the socket has, up to a limit; how much came.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Result<usize, String> {
        let start = self.filled;
        loop {
            if self.filled == self.input.len() {
                let room = usize::try_from(self.scanner.at_least()).unwrap_or(0);
                self.input
                    .resize(self.filled + room.clamp(READ, 16 * READ), 0);
            }
            let end = self.input.len().min(start + TURN);
            match self.stream.poll_read(cx, &mut self.input[self.filled..end]) {
                // What came before the end is handed on first; the end is met again.
                Poll::Ready(Ok(0) | Err(_)) if self.filled > start => break,
                Poll::Ready(Ok(0)) => return Err("closed by the server".to_owned()),
                Poll::Ready(Ok(n)) => self.filled += n,
                Poll::Ready(Err(e)) => return Err(e.to_string()),
                Poll::Pending => break,
            }
            if !self.stream.reads_in_records() || self.filled == end {
                break;
            }
        }
        if self.filled == start {
            return Ok(0);
        }
        let read = self.filled - start;
        let counters = &self.worker.stats.counters;
        counters.upstream_bytes_in.add(read as u64);
        self.last_heard = self.worker.link.now();
        self.heard = true;
        self.handle_input(start)?;
        self.note_input();
        self.worker.weigh_if_due();
        Ok(read)
    }

    /// Brings the worker's account up to what a message that is arriving takes.
    fn note_input(&mut self) {
        let counted = self.input.capacity() - READ.min(self.input.capacity());
        if counted != self.counted {
            self.worker.account.note_hub(self.counted, counted);
            self.counted = counted;
        }
    }

    /// Hands on what came behind `scanned`.
    fn handle_input(&mut self, scanned: usize) -> Result<(), String> {
        let desync = |what: &str| {
            self.worker.stats.counters.desyncs.add(1);
            Err(format!("the server sent {what}"))
        };
        let input = &self.input[..self.filled];
        let (mut frame, mut position) = (0, scanned);
        let mut broken = None;
        {
            let mut hub = self.conn.hub.borrow_mut();
            while position < input.len() {
                match self.scanner.scan(&input[position..]) {
                    Ok(ReplyScan::Incomplete) => break,
                    Ok(ReplyScan::Complete { consumed, .. }) => position += consumed,
                    Err(e) => {
                        broken = Some(format!("a malformed reply: {e}"));
                        break;
                    }
                }
                if hub.handle_frame(input, frame..position).is_err() {
                    broken = Some("what no subscription asked for".to_owned());
                    break;
                }
                frame = position;
            }
        }
        // Before the clients are told: whoever knows of a subscription finds it counted.
        self.conn.show(self.worker);
        self.conn.dispatch(self.worker, &input[..frame]);
        if let Some(what) = broken {
            return desync(&what);
        }
        self.input.copy_within(frame..self.filled, 0);
        self.filled -= frame;
        if self.filled == 0 && self.input.len() > READ {
            self.input = vec![0; READ]; // the room for a long message is given back
        }
        Ok(())
    }

    /// Looks at the clock and at who wants what; returns when to look again.
    fn check(&mut self) -> Result<Duration, Ended> {
        let dialer = &self.worker.link.dialer;
        if self.conn.generation.get() != dialer.generation() {
            return Err(Ended::Closed); // it is opened anew for those who are subscribed
        }
        let config = &dialer.config();
        let now = self.worker.link.now();
        let since = |tick: Tick| Duration::from_micros(now.saturating_sub(tick));
        {
            let mut hub = self.conn.hub.borrow_mut();
            let limit = config.command_timeout;
            if let Some(before) = now.checked_sub(limit.as_micros() as u64) {
                hub.expire(before, &Failure::Timeout(limit));
            }
            let wanted = hub.is_wanted() || hub.is_owed();
            self.unwanted_since = (!wanted).then(|| self.unwanted_since.unwrap_or(now));
            self.owed_since = hub.is_owed().then(|| self.owed_since.unwrap_or(now));
            if !self.restored && self.heard && hub.restoring() == 0 {
                drop(hub);
                self.restored = true;
                self.conn.handle_restored(self.worker);
            }
        }
        self.conn.show(self.worker);
        self.conn.dispatch(self.worker, &[]);
        let quiet = since(self.last_heard);
        let mut next = Duration::from_secs(3600);
        if let Some(unwanted) = self.unwanted_since {
            let idle = config.idle_timeout;
            let unused = since(unwanted);
            if (!idle.is_zero() && unused >= idle)
                || self.worker.link.dialer.budget.take_wish(false)
            {
                return Err(Ended::Closed);
            }
            if !idle.is_zero() {
                next = next.min(idle - unused);
            }
        }
        if let Some(owed) = self.owed_since {
            if quiet.min(since(owed)) >= config.stall_timeout {
                return Err(Ended::Lost(format!(
                    "no byte for {:?}",
                    config.stall_timeout
                )));
            }
            let check = config.command_timeout.min(config.stall_timeout) / 8;
            next = next.min(check.clamp(MIN_CHECK, MAX_CHECK));
        } else if self.gaps_seen != self.worker.link.gaps.count() {
            self.gaps_seen = self.worker.link.gaps.count();
            self.conn.hub.borrow_mut().ping();
            return Ok(Duration::ZERO);
        } else if !config.keepalive.is_zero() {
            if quiet >= config.keepalive {
                self.conn.hub.borrow_mut().ping();
                self.worker.stats.counters.overhead_commands.add(1);
                return Ok(Duration::ZERO);
            }
            next = next.min(config.keepalive - quiet);
        }
        Ok(next)
    }
}

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        self.worker.account.note_hub(self.counted, 0);
    }
}
