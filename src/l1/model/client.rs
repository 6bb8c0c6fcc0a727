//! The clients: what they ask, and whether the replies are right.

use std::collections::{BTreeMap, VecDeque};

use super::link::Executed;
use super::truth::{Expected, Fault, Key, NO_STRING, Position, Seen, Truth, Version, Wrong};
use crate::l1::ask::Awaited;
use crate::resp::{ReplyScan, ReplyScanner, Value, decode};
use crate::session::Session;

/// What a client has asked.
#[derive(Clone, Debug)]
pub enum Ask {
    Get(Key),
    Mget(Vec<Key>),
    Exists(Key),
    /// A write of these keys, numbered.
    Write(usize, Vec<Key>),
    /// Always the same reply.
    Fixed(&'static str),
    /// `EXEC`, numbered, and what it executes.
    Exec(usize, Vec<Self>),
}

/// A command without a reply yet.
#[derive(Clone, Debug)]
pub struct Record {
    pub ask: Ask,
    pub begun: u64,
    /// What was known to everybody when it was said.
    pub floors: BTreeMap<Key, Position>,
}

/// One client, with its session in the proxy.
#[derive(Debug)]
pub struct Client {
    pub session: Session,
    pub worker: usize,
    /// Which of the shared connections of a kind it uses.
    pub lane: usize,
    pub db: u32,
    pub pipelines: bool,
    pub input: Vec<u8>,
    pub out: Vec<u8>,
    pub awaited: Awaited,
    pub records: VecDeque<Record>,
    /// Numbers of writes that were said and not sent yet.
    pub unsent: VecDeque<usize>,
    /// What it has seen itself, in the order of its commands.
    own: BTreeMap<Key, Position>,
    scanner: ReplyScanner,
    scanned: usize,
}

/// What replies are judged by.
#[derive(Debug)]
pub struct Judge {
    /// What was read, or acknowledged, by all clients together.
    pub floors: BTreeMap<Key, Position>,
    pub lease: u64,
    pub max_age: u64,
    /// Databases were exchanged: several keys need not be of one moment.
    pub mixed: bool,
    pub reads: u64,
}

impl Client {
    pub fn new(session: Session, worker: usize, lane: usize) -> Self {
        Self {
            session,
            worker,
            lane,
            db: 0,
            pipelines: false,
            input: Vec::new(),
            out: Vec::new(),
            awaited: Awaited::new(),
            records: VecDeque::new(),
            unsent: VecDeque::new(),
            own: BTreeMap::new(),
            scanner: ReplyScanner::new(),
            scanned: 0,
        }
    }

    /// Judges the replies that have come out.
    pub fn check(
        &mut self,
        truth: &mut Truth,
        judge: &mut Judge,
        executed: &Executed,
    ) -> Result<(), Fault> {
        while self.scanned < self.out.len() {
            let scan = self.scanner.scan(&self.out[self.scanned..]);
            let Ok(ReplyScan::Complete { consumed, .. }) = scan else {
                self.scanned = self.out.len();
                return scan.map(|_| ()).map_err(|e| (Wrong::Order, e.0));
            };
            let frame: Vec<u8> = self.out.drain(..self.scanned + consumed).collect();
            self.scanned = 0;
            let value = decode(&frame, self.scanner.depth()).map_err(|e| (Wrong::Order, e.0))?;
            let record = self.records.pop_front();
            let record = record.ok_or((Wrong::Order, format!("a surplus reply: {value:?}")))?;
            self.judge(&record, &record.ask, &value, truth, judge, executed)?;
        }
        Ok(())
    }

    fn judge(
        &mut self,
        record: &Record,
        ask: &Ask,
        value: &Value,
        truth: &mut Truth,
        judge: &mut Judge,
        executed: &Executed,
    ) -> Result<(), Fault> {
        let order = || (Wrong::Order, format!("{value:?} is the reply to {ask:?}"));
        match (ask, value) {
            (Ask::Get(key), Value::Error(text)) if text.starts_with(b"WRONGTYPE") => {
                let seen = Seen::Value(Some(NO_STRING.to_owned()));
                self.saw(record, key, &seen, truth, judge).map(|_| ())
            }
            (Ask::Exists(key), Value::Int(n)) => {
                let seen = Seen::There(*n == 1);
                self.saw(record, key, &seen, truth, judge).map(|_| ())
            }
            (Ask::Write(number, keys), Value::Int(_) | Value::Simple(_)) => self
                .wrote(executed.get(number), keys, truth, judge)
                .ok_or_else(order),
            (Ask::Write(..), Value::Error(text)) if text.starts_with(b"ERR no such key") => Ok(()),
            (Ask::Fixed(text), Value::Simple(got)) if text.as_bytes() == got => Ok(()),
            (Ask::Mget(keys), Value::Array(values)) if keys.len() == values.len() => {
                let mut all = Vec::new();
                for (key, value) in keys.iter().zip(values) {
                    let seen = Seen::Element(text(value).ok_or_else(order)?);
                    all.push(self.saw(record, key, &seen, truth, judge)?);
                }
                match judge.mixed || together(&all) {
                    true => Ok(()),
                    false => Err((Wrong::Mixed, format!("{keys:?}: {all:?}"))),
                }
            }
            (Ask::Exec(number, parts), Value::Array(values)) if parts.len() == values.len() => {
                for (part, value) in parts.iter().zip(values) {
                    let part = match part {
                        Ask::Write(_, keys) => Ask::Write(*number, keys.clone()),
                        other => other.clone(),
                    };
                    self.judge(record, &part, value, truth, judge, executed)?;
                }
                Ok(())
            }
            // The proxy says that it does not know what became of it.
            (_, Value::Error(text)) if is_loss(text) => Ok(()),
            (Ask::Get(key), value) => {
                let seen = Seen::Value(text(value).ok_or_else(order)?);
                self.saw(record, key, &seen, truth, judge).map(|_| ())
            }
            _ => Err(order()),
        }
    }

    fn saw(
        &mut self,
        record: &Record,
        key: &Key,
        seen: &Seen,
        truth: &mut Truth,
        judge: &mut Judge,
    ) -> Result<Vec<Version>, Fault> {
        judge.reads += 1;
        let known = record.floors.get(key).copied().unwrap_or(0);
        let own = self.own.get(key).copied().unwrap_or(0);
        let expected = Expected {
            key: key.clone(),
            begun: record.begun,
            floor: known.max(own),
        };
        let versions = truth.judge(&expected, seen, judge.lease, judge.max_age)?;
        let least = versions.iter().map(|version| version.from).min();
        self.raise(key, least.unwrap_or(0), judge);
        Ok(versions)
    }

    fn wrote(
        &mut self,
        at: Option<&Position>,
        keys: &[Key],
        truth: &mut Truth,
        judge: &mut Judge,
    ) -> Option<()> {
        let at = *at?;
        for key in keys {
            let from = truth.current_at(key, at);
            self.raise(key, from, judge);
        }
        Some(())
    }

    fn raise(&mut self, key: &Key, to: Position, judge: &mut Judge) {
        for floors in [&mut self.own, &mut judge.floors] {
            let floor = floors.entry(key.clone()).or_default();
            *floor = to.max(*floor);
        }
    }
}

/// The text of a string or a null.
fn text(value: &Value) -> Option<Option<String>> {
    match value {
        Value::Null => Some(None),
        Value::Bulk(bytes) => Some(Some(String::from_utf8_lossy(bytes).into_owned())),
        _ => None,
    }
}

fn is_loss(text: &[u8]) -> bool {
    text.starts_with(b"LOST")
}

/// There was a moment at which all of these were true.
fn together(all: &[Vec<Version>]) -> bool {
    let moments = all.iter().flatten().map(|version| version.from);
    let mut moments = moments.filter(|moment| {
        let lived = |version: &Version| version.from <= *moment && !version.is_over_by(*moment);
        all.iter().all(|versions| versions.iter().any(lived))
    });
    moments.next().is_some()
}
