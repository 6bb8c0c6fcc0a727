//! The outside of a session: takes what it forwards, holds it to its promises, makes the replies.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Poll;

use nearkey::hub::Topic;
use nearkey::l1::touched::Touched;
use nearkey::resp::request::{Kind, Limits, RequestScanner, Scan, args};
use nearkey::session::{MayWait, Query, Reads, Router, errors};
use nearkey::upstream::facts::{Facts, Identity};
use nearkey::upstream::pipe::{Handling, Terms};
use nearkey::upstream::{IdentityId, LaneKey};

use super::judge;
use super::{Terms as Rules, world};

/// A row on its way.
pub struct Flight {
    /// On a shared connection for this key; without one, on the leased connection.
    pub lane: Option<LaneKey>,
    /// What the client will read, one reply for each visible command.
    pub replies: VecDeque<Vec<u8>>,
    pub handling: Handling,
}

/// Plays upstream and proxy.
pub struct Outside {
    rules: Rules,
    pub flights: VecDeque<Flight>,
    pub has_lease: bool,
    /// So many questions are not answered at once.
    pub hesitates: u8,
    /// The visible commands that were forwarded, one behind the other.
    pub sent: Vec<u8>,
    /// Anything was asked of the server.
    pub was_bothered: bool,
    stream: Option<Vec<u8>>,
    streamed: u32,
    replies: u32,
    killed: bool,
}

impl Outside {
    pub fn new(rules: Rules, hesitates: u8) -> Self {
        Self {
            rules,
            flights: VecDeque::new(),
            has_lease: false,
            hesitates,
            sent: Vec::new(),
            was_bothered: false,
            stream: None,
            streamed: 0,
            replies: 0,
            killed: false,
        }
    }

    /// Replies that are owed.
    pub fn owed(&self) -> usize {
        self.flights.iter().map(|flight| flight.replies.len()).sum()
    }

    fn hesitate(&mut self) -> bool {
        let hesitates = self.hesitates & 3 != 0;
        self.hesitates = if hesitates {
            self.hesitates - 1
        } else {
            self.hesitates >> 2
        };
        hesitates
    }

    fn ask<T>(&mut self, answer: T) -> Poll<T> {
        self.was_bothered = true;
        match self.hesitate() {
            true => Poll::Pending,
            false => Poll::Ready(answer),
        }
    }

    fn send(&mut self, lane: Option<LaneKey>, commands: &[u8], count: u32, terms: &Terms) {
        self.was_bothered = true;
        assert!(
            self.stream.is_none(),
            "nothing gets into a request that is being sent"
        );
        let elsewhere = self.flights.iter().any(|flight| flight.lane != lane);
        assert!(
            !elsewhere,
            "nothing is sent while something is in flight elsewhere"
        );
        let sent = split(commands);
        assert_eq!(sent.len(), count as usize, "rows are counted");
        assert!(terms.hidden <= count && count > 0);
        match lane {
            Some(_) => judge::check_shared(&sent, terms.hidden),
            None => judge::check_leased(&sent),
        }
        let mut replies = VecDeque::new();
        for command in &sent[terms.hidden as usize..] {
            replies.push_back(match self.read_of(command) {
                Some(read) => read,
                None => {
                    self.sent.extend_from_slice(command);
                    self.reply(command)
                }
            });
        }
        self.flights.push_back(Flight {
            lane,
            replies,
            handling: terms.handling,
        });
    }

    /// The reply to a read that L1 may answer in the server's place: the same from both.
    fn read_of(&self, command: &[u8]) -> Option<Vec<u8>> {
        let words: Vec<&[u8]> = args(command).collect();
        let name = words[0].to_ascii_uppercase();
        let spec = self.rules.with_l1.then(|| world().known.lookup(&name))??;
        let at = command.windows(2).position(|pair| pair == b"\r\n")? + 2;
        let at = at + words[0].len() + 5 + words[0].len().to_string().len();
        spec.is_read()
            .then(|| read_reply(&name, words.len(), &command[at.min(command.len())..]))
    }

    /// What the server says to a command: something of its own for each.
    fn reply(&mut self, command: &[u8]) -> Vec<u8> {
        self.replies += 1;
        let hash = hash(command);
        match hash % 8 {
            0 => format!("-ERR unknown command {}\r\n", self.replies).into_bytes(),
            1 => format!("-NOPERM {}\r\n", self.replies).into_bytes(),
            2 => format!(":{}\r\n", self.replies).into_bytes(),
            3 => format!("*2\r\n$1\r\na\r\n:{}\r\n", self.replies).into_bytes(),
            _ => {
                let text = format!("reply {}", self.replies);
                format!("${}\r\n{text}\r\n", text.len()).into_bytes()
            }
        }
    }
}

fn read_reply(name: &[u8], argc: usize, rest: &[u8]) -> Vec<u8> {
    let text = format!("{:x}", hash(rest) ^ hash(name) ^ argc as u64);
    format!("${}\r\n{text}\r\n", text.len()).into_bytes()
}

fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Whole commands in a row.
fn split(bytes: &[u8]) -> Vec<&[u8]> {
    let (mut scanner, mut found, mut rest) = (RequestScanner::new(), Vec::new(), bytes);
    while !rest.is_empty() {
        let Ok(Scan::Complete { consumed, kind }) = scanner.scan(rest, &Limits::default()) else {
            panic!(
                "only whole commands are forwarded: {:?}",
                String::from_utf8_lossy(bytes)
            );
        };
        assert_eq!(kind, Kind::Multibulk, "only arrays are forwarded");
        let (command, behind) = rest.split_at(consumed);
        found.push(command);
        rest = behind;
    }
    found
}

impl Router for Outside {
    fn forward(&mut self, key: LaneKey, commands: &[u8], count: u32, terms: Terms) {
        self.send(Some(key), commands, count, &terms);
    }

    fn poll_read(&mut self, reads: &Reads<'_>, may: MayWait<'_>, out: &mut Vec<u8>) -> Poll<bool> {
        assert!(
            self.owed() == 0,
            "L1 is asked only while nothing is in flight"
        );
        let Reads::One(read) = reads else {
            return Poll::Ready(false);
        };
        match hash(read.args) % 3 {
            0 => Poll::Ready(false),
            _ if self.hesitate() => match may() {
                true => Poll::Pending,
                false => Poll::Ready(false),
            },
            _ => {
                out.extend_from_slice(&read_reply(
                    read.call.0.as_bytes(),
                    read.call.1 as usize,
                    read.args,
                ));
                Poll::Ready(true)
            }
        }
    }

    fn prefetch(&mut self, _: &Reads<'_>) {}

    fn poll_facts(&mut self, _: LaneKey) -> Poll<Option<Arc<Facts>>> {
        let facts = Facts {
            identity: Identity::default(),
            denied: false,
            lists_commands: true,
            table: world().known.clone(),
        };
        let facts = (!self.rules.no_facts).then(|| Arc::new(facts));
        self.ask(facts)
    }

    fn poll_select(&mut self, key: LaneKey) -> Poll<Result<(), String>> {
        self.ask(if key.db < 16 {
            Ok(())
        } else {
            Err(errors::DB_RANGE.to_owned())
        })
    }

    fn poll_resp3(&mut self, _: LaneKey) -> Poll<bool> {
        self.ask(!self.rules.no_resp3)
    }

    fn settle_identity(&mut self, _: IdentityId) {}

    fn poll_query(&mut self, query: &Query) -> Poll<Vec<u8>> {
        let answer = match query {
            Query::Blocked(id) if id % 2 == 0 => Vec::new(),
            Query::Blocked(id) => id.to_string().into_bytes(),
            Query::Kill(filter) => {
                self.killed = filter.id == Some(7);
                b":1\r\n".to_vec()
            }
            _ => b"$5\r\nquery\r\n".to_vec(),
        };
        match self.hesitate() {
            true => Poll::Pending,
            false => Poll::Ready(answer),
        }
    }

    fn poll_subscribe(&mut self, topics: &[Topic]) -> Poll<Result<(), String>> {
        assert!(!topics.is_empty() && self.owed() == 0);
        let refused = topics
            .iter()
            .any(|topic| topic.name.bytes.starts_with(b"no"));
        self.ask(if refused {
            Err("NOPERM no".to_owned())
        } else {
            Ok(())
        })
    }

    fn poll_unsubscribe(&mut self, topics: &[Topic]) -> Poll<()> {
        assert!(!topics.is_empty());
        self.ask(())
    }

    fn poll_transactions(&mut self, _: LaneKey) -> Poll<Result<(), String>> {
        self.ask(match self.rules.no_multi {
            true => Err(errors::NO_TRANSACTIONS.to_owned()),
            false => Ok(()),
        })
    }

    fn is_killed(&self) -> bool {
        self.killed
    }

    fn poll_lease(&mut self, _: LaneKey) -> Poll<Result<(), String>> {
        assert!(
            self.owed() == 0,
            "a lease is asked for while nothing is in flight"
        );
        if self.rules.no_lease {
            return self.ask(Err(errors::busy(10)));
        }
        let answer = self.ask(Ok(()));
        self.has_lease |= answer.is_ready();
        answer
    }

    fn forward_leased(&mut self, commands: &[u8], count: u32, terms: Terms) {
        assert!(self.has_lease, "there is a leased connection");
        self.send(None, commands, count, &terms);
    }

    fn taint_lease(&mut self) {
        assert!(self.has_lease);
    }

    fn drop_lease(&mut self) {
        assert!(self.owed() == 0);
        self.has_lease = false;
    }

    fn expect_lines(&mut self) {}

    fn begin_stream(&mut self, _: Touched) {
        assert!(self.has_lease && self.owed() == 0 && self.stream.is_none());
        self.stream = Some(Vec::new());
    }

    fn stream(&mut self, part: &[u8], end: Option<Handling>) {
        let mut stream = self.stream.take().expect("a request is being sent");
        stream.extend_from_slice(part);
        let Some(handling) = end else {
            self.stream = Some(stream);
            return;
        };
        self.streamed += 1;
        self.send(None, &stream, 1, &handling.into());
    }

    fn poll_identity(
        &mut self,
        _: LaneKey,
        user: &[u8],
        password: &[u8],
    ) -> Poll<Result<IdentityId, String>> {
        let said = hash(user) ^ hash(password).rotate_left(7);
        self.ask(match said % 3 {
            0 => Err(errors::WRONGPASS.to_owned()),
            _ => Ok(IdentityId(u32::try_from(said % 5).unwrap_or(0))),
        })
    }
}

impl Outside {
    /// The connection that takes a large request is gone; true if there was one.
    pub fn lose_stream(&mut self) -> bool {
        self.stream.take().is_some()
    }
}
