//! A session with a scripted outside, for the tests.

use std::sync::Arc;
use std::task::Poll;

use super::super::*;
use crate::commands::CommandTable;
use crate::hub::Topic;
use crate::l1::L1;
use crate::l1::entry::Read;
use crate::l1::hot::Hot;
use crate::secret::Secret;
use crate::stats::Counters;
use crate::upstream::facts::{Facts, Identity};

/// Plays upstream and proxy: notes what is forwarded, answers what it is told to answer.
#[derive(Default)]
pub struct Script {
    pub forwarded: Vec<(LaneKey, Vec<u8>, u32, Terms)>,
    pub leased: Vec<(Vec<u8>, u32, Terms)>,
    pub tainted: bool,
    pub killed: bool,
    pub no_multi: bool,
    pub lines: bool,
    pub streamed: Vec<u8>,
    pub stream_end: Option<Handling>,
    pub facts: Option<Option<Arc<Facts>>>,
    pub databases: u32,
    pub no_resp3: bool,
    pub lease: Option<Result<(), String>>,
    pub answer: Option<Vec<u8>>,
    /// The answer to SUBSCRIBE, and what was asked for.
    pub subscribed: Option<Result<(), String>>,
    pub subscribes: Vec<Topic>,
    /// UNSUBSCRIBE must wait.
    pub slow_unsubscribe: bool,
    pub unsubscribes: Vec<Topic>,
    /// What the server says of a user and password; nothing yet while there is none.
    pub identity: Option<Result<IdentityId, String>>,
    pub presented: Vec<(LaneKey, String)>,
    pub settled: Vec<IdentityId>,
    /// What L1 was asked for, and what it answers: empty if it does not know, `None` while it is asked.
    pub reads: Vec<String>,
    pub prefetched: Vec<String>,
    pub memory: Option<String>,
    pub stream_touches: Touched,
}

fn names(reads: &Reads<'_>) -> Vec<String> {
    let name = |read: &Read<'_>| {
        let key = String::from_utf8_lossy(read.key);
        format!("{} {key}", read.call.0)
    };
    match reads {
        Reads::One(read) => vec![name(read)],
        Reads::Many(reads) => reads.iter().map(name).collect(),
    }
}

impl Router for Script {
    fn forward(&mut self, key: LaneKey, commands: &[u8], count: u32, terms: Terms) {
        self.forwarded.push((key, commands.to_vec(), count, terms));
    }

    fn poll_read(
        &mut self,
        reads: &Reads<'_>,
        may_wait: &mut dyn FnMut() -> bool,
        out: &mut Vec<u8>,
    ) -> Poll<bool> {
        self.reads.extend(names(reads));
        match &self.memory {
            None if !may_wait() => Poll::Ready(false),
            None => Poll::Pending,
            Some(answer) => {
                out.extend_from_slice(answer.as_bytes());
                Poll::Ready(!answer.is_empty())
            }
        }
    }

    fn prefetch(&mut self, reads: &Reads<'_>) {
        self.prefetched.extend(names(reads));
    }

    fn poll_facts(&mut self, _: LaneKey) -> Poll<Option<Arc<Facts>>> {
        self.facts.clone().map_or(Poll::Pending, Poll::Ready)
    }

    fn poll_select(&mut self, key: LaneKey) -> Poll<Result<(), String>> {
        Poll::Ready(if key.db < self.databases {
            Ok(())
        } else {
            Err(errors::DB_RANGE.to_owned())
        })
    }

    fn poll_resp3(&mut self, _: LaneKey) -> Poll<bool> {
        Poll::Ready(!self.no_resp3)
    }

    fn poll_identity(
        &mut self,
        key: LaneKey,
        user: &[u8],
        password: &[u8],
    ) -> Poll<Result<IdentityId, String>> {
        let pair = [user, b":", password].concat();
        let pair = String::from_utf8(pair).expect("text");
        self.presented.push((key, pair));
        self.identity.clone().map_or(Poll::Pending, Poll::Ready)
    }

    fn settle_identity(&mut self, identity: IdentityId) {
        self.settled.push(identity);
    }

    fn poll_query(&mut self, _: &Query) -> Poll<Vec<u8>> {
        self.answer.take().map_or(Poll::Pending, Poll::Ready)
    }

    fn poll_subscribe(&mut self, topics: &[Topic]) -> Poll<Result<(), String>> {
        self.subscribes = topics.to_vec();
        self.subscribed.clone().map_or(Poll::Pending, Poll::Ready)
    }

    fn poll_unsubscribe(&mut self, topics: &[Topic]) -> Poll<()> {
        self.unsubscribes = topics.to_vec();
        match self.slow_unsubscribe {
            true => Poll::Pending,
            false => Poll::Ready(()),
        }
    }

    fn poll_lease(&mut self, _: LaneKey) -> Poll<Result<(), String>> {
        self.lease.clone().map_or(Poll::Pending, Poll::Ready)
    }

    fn forward_leased(&mut self, commands: &[u8], count: u32, terms: Terms) {
        self.leased.push((commands.to_vec(), count, terms));
    }

    fn poll_transactions(&mut self, _: LaneKey) -> Poll<Result<(), String>> {
        Poll::Ready(match self.no_multi {
            true => Err(errors::NO_TRANSACTIONS.to_owned()),
            false => Ok(()),
        })
    }

    fn is_killed(&self) -> bool {
        self.killed
    }

    fn taint_lease(&mut self) {
        self.tainted = true;
    }

    fn drop_lease(&mut self) {
        self.tainted = true;
    }

    fn expect_lines(&mut self) {
        self.lines = true;
    }

    fn begin_stream(&mut self, touched: Touched) {
        self.stream_touches = touched;
    }

    fn stream(&mut self, part: &[u8], end: Option<Handling>) {
        self.streamed.extend_from_slice(part);
        self.stream_end = end;
    }
}

/// A session with everything around it.
pub struct Bench {
    pub session: Session,
    pub script: Script,
    pub settings: Settings,
    pub table: CommandTable,
    pub counters: Counters,
    pub l1: Option<Arc<L1>>,
    pub hot: Option<Hot>,
    pub input: Vec<u8>,
    pub out: Vec<u8>,
}

impl Bench {
    pub fn new(password: Option<&str>) -> Self {
        let settings = Settings {
            password: password.map(Secret::new),
            passthrough: false,
            database: 0,
            large_request: 1024,
            limits: Limits::default(),
            pressed: Arc::default(),
        };
        let facts = Facts {
            identity: Identity::default(),
            denied: false,
            lists_commands: true,
            table: Arc::new(CommandTable::builtin()),
        };
        Self {
            session: Session::new(&settings),
            script: Script {
                facts: Some(Some(Arc::new(facts))),
                databases: 16,
                ..Script::default()
            },
            settings,
            table: CommandTable::builtin()
                .with_denied(&["SHUTDOWN".to_owned(), "LATENCY".to_owned()])
                .expect("a name"),
            counters: Counters::default(),
            l1: None,
            hot: None,
            input: Vec::new(),
            out: Vec::new(),
        }
    }

    pub fn say(&mut self, bytes: impl AsRef<[u8]>) -> Status {
        self.input.extend_from_slice(bytes.as_ref());
        let env = Env {
            paused: crate::control::Paused::No,
            id: 7,
            settings: &self.settings,
            table: &self.table,
            counters: &self.counters,
            l1: self.l1.as_deref(),
            hot: self.hot.as_ref(),
        };
        let fed = self
            .session
            .feed(&self.input, &mut self.out, &env, &mut self.script);
        self.input.drain(..fed.consumed);
        fed.status
    }

    pub fn out(&mut self) -> String {
        String::from_utf8(std::mem::take(&mut self.out)).expect("text")
    }

    /// The upstream answers `n` commands with `reply` altogether.
    pub fn reply(&mut self, reply: &str, n: u32) {
        self.out.extend_from_slice(reply.as_bytes());
        self.session.handle_replies(n, &mut self.out);
    }

    pub fn counts(&self) -> Vec<u32> {
        self.script
            .forwarded
            .iter()
            .map(|(_, _, count, _)| *count)
            .collect()
    }
}

pub fn cmd(words: &str) -> Vec<u8> {
    let args: Vec<&[u8]> = words.split(' ').map(str::as_bytes).collect();
    let mut out = Vec::new();
    encode::command(&mut out, &args);
    out
}

pub fn script(commands: &[&str]) -> Vec<u8> {
    commands.iter().flat_map(|words| cmd(words)).collect()
}
