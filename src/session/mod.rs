//! One client connection, without I/O.
//!
//! [`Session::feed`] takes what the client sent and says through a [`Router`] what must happen: whole
//! commands go to the upstream as they came, local ones are answered here, and what cannot go on yet
//! is held. Two rules carry the ordering promise:
//!
//! * replies leave in command order ([`Pending`]);
//! * the connection that a session uses changes only when nothing is in flight.

mod client;
mod connection;
mod dispatch;
pub mod errors;
mod large;
mod local;
mod nearkey;
mod patience;
mod pause;
mod pending;
mod pin;
mod read;
mod router;
mod special;
mod subscribe;
#[cfg(test)]
mod tests;
mod touch;
mod transaction;

pub use client::{ClientType, KillFilter, ListFilter, Query};
pub use pending::Pending;
pub use router::{Env, MayWait, Reads, Router, Settings};

use self::read::{At, Consulted};
use self::special::{Pin, Special};
use crate::commands::{Class, CommandId, Spec};
use crate::control::Paused;
use crate::l1::touched::Touched;
use crate::resp::request::{Kind, Limits, RequestError, RequestScanner, Scan};
use crate::resp::{Protocol, encode};
use crate::upstream::pipe::{Handling, Terms};
use crate::upstream::{IdentityId, LaneKey};

/// How far [`Session::feed`] came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fed {
    /// Bytes of the input that are done with; the caller keeps the rest and gives it again, in front
    /// of what comes next.
    pub consumed: usize,
    /// Why it stopped.
    pub status: Status,
}

/// Why [`Session::feed`] stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// All complete commands are on their way.
    NeedInput,
    /// The next command must wait; call again after a change.
    Hold,
    /// Nothing more is read: close once what is pending has left.
    Close,
    /// Close at once, without a word.
    Drop,
}

/// What happens to the replies of a session's commands (`CLIENT REPLY`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReplyMode {
    On,
    Off,
    /// The command at hand is `CLIENT REPLY SKIP` itself.
    SkipThis,
    /// The reply to the next command is dropped.
    SkipNext,
}

/// What the bytes at hand belong to.
#[derive(Debug)]
enum Mode {
    Commands,
    /// A large request goes to the leased connection as it arrives.
    Streaming,
    /// A large request cannot be carried: its bytes are dropped, then this is the reply.
    Discarding(Box<Discard>),
}

/// The error that a dropped request gets; boxed whole to keep sessions small.
#[derive(Debug)]
struct Discard(Vec<u8>);

/// Rarely set facts about a client, outside of the session to keep idle ones small.
#[derive(Debug, Default)]
pub struct Labels {
    /// `CLIENT SETNAME`.
    pub name: Vec<u8>,
    /// `CLIENT SETINFO LIB-NAME`.
    pub lib_name: Vec<u8>,
    /// `CLIENT SETINFO LIB-VER`.
    pub lib_version: Vec<u8>,
}

/// The state of one client connection.
#[derive(Debug)]
pub struct Session {
    scanner: RequestScanner,
    /// Bytes at the front of the input that the scanner has seen already.
    scanned: u32,
    /// The first command of the input was held: it is whole, and `scanned` bytes long.
    held: Option<Kind>,
    mode: Mode,
    key: LaneKey,
    /// What is owed comes on another connection than the next command would use: nothing is
    /// forwarded before it has come.
    must_drain: bool,
    authenticated: bool,
    /// Wrong passwords that were presented, and whether the client has to wait for that now.
    failed_logins: u8,
    paused: bool,
    reply_mode: ReplyMode,
    no_evict: bool,
    /// A transaction is in flight, whose reply will not be long.
    answers_soon: bool,
    no_touch: bool,
    labels: Option<Box<Labels>>,
    /// Boxed: most clients subscribe to nothing.
    subscriber: Option<Box<subscribe::Subscriber>>,
    special: Option<Box<Special>>,
    pending: Pending,
    last_command: CommandId,
}

/// What became of one command.
enum Verdict {
    /// It was forwarded or answered, or needs no answer.
    Done,
    /// It must wait.
    Hold,
    /// It was the last one.
    Close,
    /// It came from no Redis client.
    Drop,
}

/// Commands in a row that go to the upstream together.
#[derive(Default)]
struct Row {
    start: usize,
    count: u32,
    touched: Touched,
}

impl Session {
    /// A session that has said nothing yet.
    pub fn new(settings: &Settings) -> Self {
        Self {
            scanner: RequestScanner::default(),
            scanned: 0,
            held: None,
            mode: Mode::Commands,
            key: LaneKey {
                db: settings.database,
                protocol: Protocol::Resp2,
                identity: IdentityId::OWN,
            },
            must_drain: false,
            authenticated: settings.lets_everybody_in(),
            failed_logins: 0,
            paused: false,
            reply_mode: ReplyMode::On,
            no_evict: false,
            answers_soon: false,
            no_touch: false,
            labels: None,
            subscriber: None,
            special: None,
            pending: Pending::default(),
            last_command: CommandId::default(),
        }
    }

    /// Which shared connections its commands travel on.
    pub fn lane_key(&self) -> LaneKey {
        self.key
    }

    /// What is owed to the client.
    pub fn pending(&self) -> &Pending {
        &self.pending
    }

    /// Bytes that are kept here until their time comes.
    pub fn held_bytes(&self) -> usize {
        let queued = self.special.as_ref().map_or(0, |s| s.queued_bytes());
        self.pending.held_bytes() + self.held_messages() + queued
    }

    /// A large request is on its way to the leased connection.
    pub fn is_streaming(&self) -> bool {
        matches!(self.mode, Mode::Streaming)
    }

    /// Nothing more is heard before [`Session::resume`].
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// The client has waited long enough.
    pub fn resume(&mut self) {
        self.paused = false;
    }

    /// Bytes of the request that is not whole, if one is.
    pub fn half_read(&self) -> Option<u64> {
        let is_half = self.held.is_none() && !self.scanner.is_idle();
        is_half.then(|| self.scanner.consumed())
    }

    /// The client is not from here: it speaks HTTP or TLS.
    pub fn foreign(&mut self) -> Option<RequestError> {
        let error = self.scanner.scan(&[], &Limits::default()).err()?;
        matches!(error, RequestError::Http | RequestError::Tls).then_some(error)
    }

    /// Ends a request that is not whole with an error.
    pub fn give_up(&mut self, text: &str, out: &mut Vec<u8>) {
        let mut reply = Vec::new();
        encode::error(&mut reply, text);
        self.pending.put(&reply, out);
    }

    /// Names the client gave itself.
    pub fn labels(&self) -> Option<&Labels> {
        self.labels.as_deref()
    }

    /// The last command it knew.
    pub fn last_command(&self) -> CommandId {
        self.last_command
    }

    /// The letters of CLIENT LIST's `flags` field.
    pub fn flags(&self) -> String {
        let letters = [
            (self.has_pin(Pin::Monitor), 'O'),
            (self.is_subscriber(), 'P'),
            (self.in_transaction(), 'x'),
            (self.is_blocked(), 'b'),
            (self.has_pin(Pin::Tracking), 't'),
            (self.no_evict, 'e'),
            (self.no_touch, 'T'),
        ];
        let set = letters.into_iter().filter(|(is_set, _)| *is_set);
        let flags: String = set.map(|(_, letter)| letter).collect();
        if flags.is_empty() {
            return "N".to_owned();
        }
        flags
    }

    /// What was answered here may wait for the reply that comes next, so that both leave in one write.
    pub fn answers_soon(&self) -> bool {
        self.answers_soon
    }

    /// Upstream replies have been put out: what waited only for them follows into `out`.
    pub fn handle_replies(&mut self, n: u32, out: &mut Vec<u8>) {
        self.pending.complete(n, out);
        if self.special.is_some() {
            self.settle();
        }
        self.answers_soon &= self.pending.owed() > 0;
    }

    /// `n` commands in flight are answered with an error instead; `visible` is false where the
    /// client wants no replies.
    pub fn handle_failure(&mut self, n: u32, text: &str, visible: bool, out: &mut Vec<u8>) {
        if visible {
            for _ in 0..n {
                encode::error(out, text);
            }
        }
        self.pending.complete(n, out);
        self.settle();
        self.answers_soon &= self.pending.owed() > 0;
    }

    /// Takes what the client sent. `input` begins with what the last call left over.
    pub fn feed<R: Router>(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
        env: &Env<'_>,
        router: &mut R,
    ) -> Fed {
        let mut consumed = 0;
        loop {
            let rest = &input[consumed..];
            let (done, status) = match self.mode {
                Mode::Commands => self.feed_commands(rest, out, env, router),
                Mode::Streaming | Mode::Discarding(_) => self.feed_large(rest, out, env, router),
            };
            consumed += done;
            if let Some(status) = status {
                return Fed { consumed, status };
            }
        }
    }

    /// Handles whole commands until one cannot go on; `None` means that the mode has changed.
    fn feed_commands<R: Router>(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
        env: &Env<'_>,
        router: &mut R,
    ) -> (usize, Option<Status>) {
        let mut row = Row::default();
        let mut start = 0;
        loop {
            if self.is_waiting() || self.paused {
                self.send_row(input, start, &mut row, router);
                let rest = if start == input.len() {
                    Status::NeedInput
                } else {
                    Status::Hold
                };
                return (start, Some(rest));
            }
            let (end, kind) = match self.next_command(&input[start..], env) {
                Ok(Some((length, kind))) => (start + length, kind),
                Ok(None) => {
                    self.send_row(input, start, &mut row, router);
                    return (start, self.begin_large(&input[start..], env, router));
                }
                Err(e) => {
                    self.send_row(input, start, &mut row, router);
                    return (input.len(), Some(self.refuse_request(e, out, env)));
                }
            };
            let command = &input[start..end];
            if let Some(spec) = self.direct(command, kind, env) {
                self.last_command = spec.id();
                if let Some(l1) = env.l1 {
                    let at = At {
                        input,
                        command: start..end,
                    };
                    match self.consult(l1, spec, at, &mut row, out, env, router) {
                        Consulted::Travels => {}
                        Consulted::Done => {
                            start = end;
                            row.start = start;
                            continue;
                        }
                        Consulted::Waits => return (start, Some(self.hold(kind, end - start))),
                    }
                }
                row.count += 1;
                start = end;
                continue;
            }
            self.send_row(input, start, &mut row, router);
            match self.handle_command(command, kind, out, env, router) {
                Verdict::Done => start = end,
                Verdict::Hold => return (start, Some(self.hold(kind, end - start))),
                Verdict::Close => return (end, Some(Status::Close)),
                Verdict::Drop => return (end, Some(Status::Drop)),
            }
            row.start = start;
        }
    }

    /// The first command of the input, of this length, is asked for again.
    fn hold(&mut self, kind: Kind, length: usize) -> Status {
        self.held = Some(kind);
        self.scanned = note_length(length);
        Status::Hold
    }

    fn take_scanned(&mut self) -> usize {
        std::mem::take(&mut self.scanned) as usize
    }

    /// The length and kind of the whole command at the front of `input`, if there is one.
    fn next_command(
        &mut self,
        input: &[u8],
        env: &Env<'_>,
    ) -> Result<Option<(usize, Kind)>, RequestError> {
        if let Some(kind) = self.held.take() {
            return Ok(Some((self.take_scanned(), kind)));
        }
        let limits = Limits {
            authenticated: self.authenticated,
            ..env.settings.limits
        };
        match self
            .scanner
            .scan(&input[self.scanned as usize..], &limits)?
        {
            Scan::Incomplete => {
                self.scanned = note_length(input.len());
                Ok(None)
            }
            Scan::Complete { consumed, kind } => {
                let length = self.take_scanned() + consumed;
                Ok(Some((length, kind)))
            }
        }
    }

    /// The hot path: a command that needs nothing but its place in the row.
    fn direct<'t>(&self, command: &[u8], kind: Kind, env: &Env<'t>) -> Option<&'t Spec> {
        if kind != Kind::Multibulk || !self.is_plain() || env.paused != Paused::No {
            return None;
        }
        let spec = env.table.lookup(&command[self.scanner.arg(0)?])?;
        (spec.class == Class::Shared && !spec.needs_args() && !may_be_rewritten(spec))
            .then_some(spec)
    }

    /// Nothing about this session asks for a closer look at its commands.
    fn is_plain(&self) -> bool {
        self.authenticated
            && self.reply_mode == ReplyMode::On
            && !self.must_drain
            && !self.is_gated()
            && self.special.is_none()
    }

    fn send_row<R: Router>(&mut self, input: &[u8], end: usize, row: &mut Row, router: &mut R) {
        if row.count > 0 {
            let terms = Terms {
                touched: std::mem::take(&mut row.touched),
                ..Handling::Pass.into()
            };
            self.forward(&input[row.start..end], row.count, terms, router);
        }
        *row = Row {
            start: end,
            ..Row::default()
        };
    }

    fn forward<R: Router>(&mut self, bytes: &[u8], n: u32, terms: Terms, router: &mut R) {
        self.pending.expect(n - terms.hidden);
        router.forward(self.key, bytes, n, terms);
    }

    fn refuse_request(&mut self, e: RequestError, out: &mut Vec<u8>, env: &Env<'_>) -> Status {
        env.counters.clients_closed_protocol.add(1);
        match e {
            RequestError::Protocol(e) => {
                if self.take_reply_mode() == ReplyMode::On {
                    self.give_up(&errors::protocol(&e.0), out);
                }
                Status::Close
            }
            RequestError::Http | RequestError::Tls => Status::Drop,
        }
    }
}

/// The proxy has something to add to the command's reply, or to some forms of it.
fn may_be_rewritten(spec: &Spec) -> bool {
    matches!(&*spec.name, "INFO" | "PUBSUB")
}

/// What happens to the command's reply on its way.
fn handling_of(spec: &Spec) -> Handling {
    match &*spec.name {
        "INFO" => Handling::Info,
        "PUBSUB|NUMSUB" => Handling::NumSub,
        "PUBSUB|SHARDNUMSUB" => Handling::ShardNumSub,
        _ => Handling::Pass,
    }
}

/// What is held of one request is far below 4 GiB.
fn note_length(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}
