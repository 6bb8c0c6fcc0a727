//! A tracked connection while it is up.

use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::conn::{Ready, TrackedConn, explain};
use crate::l1::clock::Now;
use crate::l1::tracked::{Broken, Tracked};
use crate::upstream::stream::Stream;
use crate::worker::Worker;

/// What is read at once.
const READ: usize = 64 * 1024;

/// How long a closed connection is waited for.
const FAREWELL: Duration = Duration::from_millis(250);

/// A request that has waited this long, and for some leases, will not be answered.
const MIN_PATIENCE: Duration = Duration::from_secs(3);
const PATIENCE: u32 = 3;

/// The clock is looked at no more often than this.
const MIN_CHECK: Duration = Duration::from_millis(10);

/// Why a connection is no longer served.
#[derive(Debug)]
pub(super) enum Ended {
    /// L1 has had no use for it.
    Idle,
    /// Somebody waits for a connection.
    Wanted,
    /// It is to be set up anew.
    Stale,
    /// Gone without being asked.
    Lost(String),
}

/// Serves one connection until it ends.
pub(super) struct Serving<'a> {
    conn: &'a TrackedConn,
    worker: &'a Rc<Worker>,
    stream: Stream,
    /// When it is to be set up anew.
    until: Option<Instant>,
    input: Vec<u8>,
    output: Vec<u8>,
    written: usize,
    unflushed: bool,
}

impl<'a> Serving<'a> {
    pub(super) fn new(conn: &'a TrackedConn, worker: &'a Rc<Worker>, ready: Ready) -> Self {
        let tracked = Tracked::new(
            conn.l1.clone(),
            worker.stats.clone(),
            conn.tracker.clone(),
            ready.standing,
            ready.protocol,
        );
        conn.tracked.replace(Some(tracked));
        conn.used.set(conn.l1.clock.now().mono);
        // From here on orders come.
        conn.tracker.set_standing(ready.standing, None);
        Self {
            conn,
            worker,
            stream: ready.stream,
            until: ready.until,
            input: vec![0; READ],
            output: Vec::new(),
            written: 0,
            unflushed: false,
        }
    }

    /// Serves until the end.
    pub(super) async fn serve(&mut self) -> Ended {
        let budget = &self.worker.link.dialer.budget;
        loop {
            // Before it is looked whether anybody waits: no call is missed.
            let wanted = budget.idle_wanted();
            if budget.is_wanted() && budget.take_wish(false) {
                return Ended::Wanted; // however busy it is: all it does can be done without it
            }
            let next = match self.check() {
                Ok(next) => next,
                Err(ended) => return ended,
            };
            let conn = self.conn;
            tokio::select! {
                biased;
                ended = poll_fn(|cx| self.poll_all(cx)) => return ended,
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

    /// Does what the hit path asks for, then moves bytes until the socket has none and takes none; ready
    /// when the connection is to be closed.
    fn poll_all(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        let tracker = &self.conn.tracker;
        tracker.register(cx.waker());
        if tracker.take_distrust() {
            return Poll::Ready(Ended::Stale);
        }
        if tracker.take_ping() {
            let now = self.now();
            self.conn.used.set(now.mono);
            self.with(|tracked| tracked.ping(now));
            self.conn.wake.notify_one(); // the clock must be looked at for its answer
        }
        loop {
            if let Err(e) = self.poll_write(cx) {
                return Poll::Ready(Ended::Lost(e.to_string()));
            }
            match self.poll_read(cx) {
                Ok(true) => {}
                Ok(false) => return Poll::Pending,
                Err(reason) => return Poll::Ready(Ended::Lost(reason)),
            }
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        loop {
            if self.written == self.output.len() {
                self.output = self.with(Tracked::take_output).unwrap_or_default();
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

    /// Reads once; true if something came.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Result<bool, String> {
        let n = match self.stream.poll_read(cx, &mut self.input) {
            Poll::Pending => return Ok(false),
            Poll::Ready(Ok(0)) => return Err("closed by the server".to_owned()),
            Poll::Ready(Ok(n)) => n,
            Poll::Ready(Err(e)) => return Err(e.to_string()),
        };
        let counters = &self.worker.stats.counters;
        counters.upstream_bytes_in.add(n as u64);
        self.worker.link.dialer.note_heard(self.worker.link.now());
        let handled = self.with(|tracked| tracked.handle_input(&self.input[..n]));
        self.tell();
        match handled {
            Some(Err(broken)) => {
                if matches!(broken, Broken::Protocol(_)) {
                    counters.desyncs.add(1);
                }
                Err(explain(broken))
            }
            _ => Ok(true),
        }
    }

    /// Looks at the clock; returns when to look again.
    fn check(&mut self) -> Result<Duration, Ended> {
        let config = &self.worker.link.dialer.config();
        let lease = self.conn.l1.lease();
        let now = self.now();
        let waiting = self.with(|tracked| tracked.expire(now, lease)).flatten();
        self.tell();
        let since = |mono: u64| Duration::from_micros(now.mono.saturating_sub(mono));
        let mut next = Duration::from_secs(3600);
        if let Some(until) = self.until {
            // However busy it is, or it would never come to that.
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Ended::Stale);
            }
            next = left;
        }
        let owed = self.with(|tracked| tracked.owed_since()).flatten();
        if let Some(owed) = owed {
            let patience = (lease * PATIENCE).max(MIN_PATIENCE);
            let left = patience.saturating_sub(since(owed.mono));
            if left.is_zero() {
                let link = &self.worker.link;
                link.dialer.note_stall(patience, link.now());
                return Err(Ended::Lost(format!("no reply for {patience:?}")));
            }
            next = next.min(left);
            if let Some(oldest) = waiting {
                next = next.min(lease.saturating_sub(since(oldest.mono)));
            }
            return Ok(next.max(MIN_CHECK));
        }
        if !config.idle_timeout.is_zero() {
            let unused = since(self.conn.used.get());
            if unused >= config.idle_timeout {
                return Err(Ended::Idle);
            }
            next = next.min(config.idle_timeout - unused);
        }
        Ok(next)
    }

    /// Hands on what became of orders.
    fn tell(&self) {
        let told = self.with(Tracked::take_told).unwrap_or_default();
        if !told.is_empty() {
            self.worker.tell(told);
        }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Tracked) -> T) -> Option<T> {
        self.conn.tracked.borrow_mut().as_mut().map(act)
    }

    fn now(&self) -> Now {
        self.conn.l1.clock.now()
    }
}
