//! The verdict on the upstream: what connections and attempts to open them leave behind, for the log,
//! `/health` and the metrics, and for commands that need not wait in vain.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::backoff::Backoff;
use super::dial::Dialer;
use super::handshake::Refusal;
use super::pipe::Tick;
use super::trouble::{Machine, News};
use crate::resp::reply::{self, ReplyScan, ReplyScanner};
use crate::resp::{Protocol, encode};
use crate::stats::{ConnectFailure, UpstreamState, UpstreamStats};

/// Of what a server says no more than this is shown.
const MAX_MESSAGE: usize = 300;

/// What all connections of the process have seen of the upstream.
#[derive(Debug)]
pub struct Verdict {
    machine: Mutex<Machine>,
    stats: Arc<UpstreamStats>,
    /// Replies have said that something is wrong: the server is to be asked when it is over.
    asks: AtomicBool,
    /// It is down because nothing came: whatever comes shows that it is not.
    stalled: AtomicBool,
    /// Connections of an older one are to be opened anew.
    generation: AtomicU64,
}

impl Verdict {
    /// Nothing is known yet.
    pub(super) fn new(stats: Arc<UpstreamStats>, backoff: Backoff) -> Self {
        Self {
            machine: Mutex::new(Machine::new(backoff)),
            stats,
            asks: AtomicBool::new(false),
            stalled: AtomicBool::new(false),
            generation: AtomicU64::new(0),
        }
    }

    /// Which connections are good: those that were begun under this number.
    #[inline]
    pub fn generation(&self) -> u64 {
        self.generation.load(Relaxed)
    }

    fn with<T>(&self, act: impl FnOnce(&mut Machine) -> T) -> T {
        let mut machine = self.machine.lock().unwrap_or_else(PoisonError::into_inner);
        let result = act(&mut machine);
        let down = machine.take_down().as_micros() as u64;
        if down > 0 {
            self.stats.down_us.fetch_add(down, Relaxed);
        }
        let new = machine.state();
        let is_stall = |s: &UpstreamState| matches!(s, UpstreamState::Down(trouble) if trouble.cause == ConnectFailure::Stall);
        self.stalled.store(is_stall(new), Relaxed);
        self.asks
            .store(matches!(new, UpstreamState::Degraded(_)), Relaxed);
        let mut shown = self
            .stats
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if *shown != *new {
            shown.clone_from(new);
        }
        result
    }
}

/// What a server says, fit to be shown.
fn printable(text: &str) -> String {
    let shown = text.chars().take(MAX_MESSAGE);
    shown
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

impl Dialer {
    /// Draws the conclusions from one attempt to connect, which began when the server had last been heard
    /// at `heard`.
    pub(super) fn note(&self, result: Result<Option<&str>, &Refusal>, heard: Tick) {
        let now = Instant::now();
        let news = match result {
            Ok(complaint) => {
                self.stats.connects.fetch_add(1, Relaxed);
                let complaint = complaint.and_then(|text| {
                    let cause = super::trouble::complaint(format!("-{text}").as_bytes())?;
                    Some((cause, printable(text)))
                });
                self.verdict.with(|m| m.handle_open(complaint, now))
            }
            Err(refusal) if refusal.only_this_key => {
                self.count_failure(refusal);
                self.verdict.with(|m| m.handle_open(None, now))
            }
            Err(refusal) => {
                self.count_failure(refusal);
                // A hanging server keeps its connections: they show nothing unless something comes.
                let silent = refusal.cause == ConnectFailure::Timeout
                    && self.stats.heard.load(Relaxed) == heard;
                let others = self.established.load(Relaxed) > 0 && !silent;
                if !others {
                    self.facts.fail();
                }
                let message = printable(&refusal.message);
                self.verdict
                    .with(|m| m.handle_failure(refusal.cause, &message, others, now))
            }
        };
        self.tell(news);
    }

    fn count_failure(&self, refusal: &Refusal) {
        self.stats.connect_failures[refusal.cause as usize].fetch_add(1, Relaxed);
        tracing::debug!(
            cause = refusal.cause.as_str(),
            "connection refused: {}",
            refusal.message
        );
    }

    /// A reply said what is wrong with the server.
    pub(super) fn note_complaint(&self, cause: ConnectFailure, reply: &[u8]) {
        let line = reply
            .split(|byte| *byte == b'\r')
            .next()
            .unwrap_or_default();
        let line = String::from_utf8_lossy(line.get(1..).unwrap_or_default()).into_owned();
        let now = Instant::now();
        let (news, reopen) = self.verdict.with(|m| {
            let news = m.handle_complaint(cause, &printable(&line), now);
            let reopen = cause == ConnectFailure::ReadOnly && m.poll_reopen(now);
            (news, reopen)
        });
        self.tell(news);
        if reopen {
            // Another address may be the master now.
            self.stats.reopened.fetch_add(1, Relaxed);
            self.verdict.generation.fetch_add(1, Relaxed);
        }
    }

    /// A connection that owed replies was silent for so long. Others may have been heard meanwhile.
    pub fn note_stall(&self, silent: Duration, now: Tick) {
        let heard = Duration::from_micros(now.saturating_sub(self.stats.heard.load(Relaxed)));
        if heard >= silent {
            let message = format!("nothing came for {silent:?} on connections that owe replies");
            let news = self
                .verdict
                .with(|m| m.handle_stall(&message, Instant::now()));
            self.tell(news);
        }
    }

    /// The server was heard.
    #[inline]
    pub fn note_heard(&self, now: Tick) {
        self.stats.heard.store(now, Relaxed);
        if self.verdict.stalled.load(Relaxed) {
            let news = self.verdict.with(|m| m.handle_heard(Instant::now()));
            self.tell(news);
        }
    }

    /// What to ask the server for now, if something is known to be wrong with it: whether it is over.
    pub(super) fn take_question(&self, protocol: Protocol) -> Option<Vec<u8>> {
        if !self.verdict.asks.load(Relaxed) {
            return None;
        }
        let (news, role) = self.verdict.with(|m| m.poll_question(Instant::now()));
        self.tell(news);
        let mut question = Vec::new();
        match (role?, protocol) {
            (false, _) => encode::command(&mut question, &[b"PING"]),
            (true, Protocol::Resp2) => encode::command(&mut question, &[b"HELLO", b"2"]),
            (true, Protocol::Resp3) => encode::command(&mut question, &[b"HELLO", b"3"]),
        }
        Some(question)
    }

    /// Something is wrong and the server is to be asked when it is over.
    pub(super) fn has_question(&self) -> bool {
        self.verdict.asks.load(Relaxed)
    }

    /// The answer to such a question, or to a ping.
    pub(super) fn note_answer(&self, frame: &[u8]) {
        if !self.has_question() {
            return;
        }
        let mut scanner = ReplyScanner::default();
        let whole = matches!(scanner.scan(frame), Ok(ReplyScan::Complete { .. }));
        if let (true, Ok(answer)) = (whole, reply::decode(frame, scanner.depth())) {
            let news = self
                .verdict
                .with(|m| m.handle_answer(&answer, Instant::now()));
            self.tell(news);
        }
    }

    /// The upstream is known to have been unreachable for longer than commands may wait: they need not.
    pub fn is_hopeless(&self) -> bool {
        let config = self.config();
        let recent = config.connect_timeout + config.backoff_max + Duration::from_secs(1);
        self.verdict
            .with(|m| m.is_hopeless(config.queue_timeout, recent, Instant::now()))
    }

    fn tell(&self, news: Option<News>) {
        let Some(news) = news else {
            return;
        };
        let address = &self.config().address;
        match news {
            News::Reached => tracing::info!(%address, "upstream reachable"),
            News::Entered(state) => {
                let Some(trouble) = state.trouble() else {
                    return;
                };
                let (cause, advice) = (trouble.cause.as_str(), trouble.cause.advice());
                let what = match state {
                    UpstreamState::Strained(_) => "upstream gives no further connection",
                    UpstreamState::Degraded(_) => "upstream degraded",
                    _ => "upstream unreachable",
                };
                tracing::warn!(cause, %address, advice, "{what}: {}", trouble.message);
            }
            News::Left { cause, lasted } => {
                let (cause, lasted_ms) = (cause.as_str(), lasted.as_millis() as u64);
                tracing::info!(cause, %address, lasted_ms, "upstream well again");
            }
        }
    }
}
