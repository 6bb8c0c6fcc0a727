//! The outside of the sessions, as the worker makes it of the same parts.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::task::{Poll, Waker};

use super::link::{Link, commands};
use super::server::Server;
use crate::hub::Topic;
use crate::l1::L1;
use crate::l1::ask::{Asking, Awaited};
use crate::l1::clock::Now;
use crate::l1::fetch::{Fetcher, Order};
use crate::l1::reader::Reader;
use crate::l1::touched::Touched;
use crate::l1::tracked::Tracked;
use crate::l1::tracker::{Standing, Tracker};
use crate::session::{MayWait, Query, Reads, Router};
use crate::upstream::facts::Facts;
use crate::upstream::outbox::Outbox;
use crate::upstream::pipe::{Handling, Piece, Pipe, Run, Terms};
use crate::upstream::reply_to::{Failure, Owner, ReplyTo};
use crate::upstream::{IdentityId, LaneKey};

/// A client, as a connection sees it.
#[derive(Clone, Copy, Debug)]
pub struct Who(pub usize);

impl ReplyTo for Who {
    fn deliver(&self, _: &[u8], _: Piece, _: &mut Vec<Self>) {}
    fn push(&self, _: &[u8], _: Piece, _: &mut Vec<Self>) {}
    fn abandoned(&self) {}
    fn flush(&self, _: &[u8]) {}
    fn fail(&self, _: &Failure, _: u32, _: Handling) {}
    fn identity(&self) -> u64 {
        self.0 as u64
    }
    fn backlog(&self) -> usize {
        0
    }
    fn taken(&self) -> u64 {
        0
    }
    fn resume(&self) {}
}

/// A shared connection.
#[derive(Debug)]
pub struct Lane {
    pub key: LaneKey,
    pub index: usize,
    pub link: Option<Link>,
    pub pipe: Pipe<Owner<Who>>,
    pub outbox: Outbox,
    /// What is not written has these numbers.
    pub numbers: VecDeque<Option<usize>>,
    pub input: Vec<u8>,
    pub scanned: usize,
}

impl Lane {
    /// Writes what is to be written, if there is a connection.
    pub fn write(&mut self) {
        let Some(link) = &mut self.link else { return };
        let bytes = self.outbox.unwritten().to_vec();
        link.send(&bytes);
        link.number(self.numbers.drain(..));
        self.outbox.handle_written(bytes.len());
    }
}

/// A tracked connection and what is to be known of it.
#[derive(Debug)]
pub struct Track {
    pub tracker: Arc<Tracker>,
    pub tracked: Option<Tracked>,
    pub link: Option<Link>,
    pub wanted: bool,
}

impl Track {
    /// Takes an order; gives its ticket back if there is no connection.
    pub fn accept(&mut self, from: usize, order: Order) -> Result<(), u64> {
        let Some(tracked) = &mut self.tracked else {
            return Err(order.ticket);
        };
        tracked.enqueue(from, order);
        self.write();
        Ok(())
    }

    /// Writes what is to be written.
    pub fn write(&mut self) {
        if let (Some(tracked), Some(link)) = (&mut self.tracked, &mut self.link) {
            link.send(&tracked.take_output());
        }
    }
}

/// The way out for one client while its session is fed.
pub struct Route<'a> {
    pub who: usize,
    pub worker: usize,
    pub lane: usize,
    pub now: Now,
    pub l1: &'a L1,
    pub reader: &'a Reader,
    pub server: &'a mut Server,
    pub lanes: &'a mut Vec<Lane>,
    pub tracks: &'a mut [Track],
    pub orders: &'a mut VecDeque<Order>,
    pub awaited: &'a mut Awaited,
    pub unsent: &'a mut VecDeque<usize>,
    pub counts: &'a mut BTreeMap<&'static str, u64>,
}

/// The way to the tracked connections: those of worker 0 are its own.
struct Gate<'a> {
    worker: usize,
    tracks: &'a mut [Track],
    orders: &'a mut VecDeque<Order>,
    reader: &'a Reader,
}

impl Fetcher for Gate<'_> {
    fn fetch(&mut self, order: Order) {
        if self.worker != 0 {
            self.orders.push_back(order);
            return;
        }
        let track = &mut self.tracks[order.tracker.scope.db as usize];
        if let Err(ticket) = track.accept(0, order) {
            self.reader.handle_answer(ticket, None);
        }
    }

    fn open(&mut self, tracker: &Arc<Tracker>) {
        tracker.set_standing(Standing::Opening, None);
        self.tracks[tracker.scope.db as usize].wanted = true;
    }

    fn is_down(&self) -> bool {
        false
    }
}

impl Route<'_> {
    fn lane(&mut self, key: LaneKey) -> &mut Lane {
        let known = |lane: &Lane| lane.key == key && lane.index == self.lane;
        let at = self.lanes.iter().position(known);
        let at = at.unwrap_or_else(|| {
            let conn = self.server.open(key.db, key.protocol, false);
            self.lanes.push(Lane {
                key,
                index: self.lane,
                link: Some(Link::new(conn)),
                pipe: Pipe::default(),
                outbox: Outbox::default(),
                numbers: VecDeque::new(),
                input: Vec::new(),
                scanned: 0,
            });
            self.lanes.len() - 1
        });
        &mut self.lanes[at]
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// The numbers of these commands: those that write have one, and of a transaction its EXEC.
    fn numbers(&mut self, bytes: &[u8]) -> Vec<Option<usize>> {
        let mut in_multi = false;
        let mut numbers = Vec::new();
        for words in commands(bytes) {
            in_multi = (in_multi || words[0] == "MULTI") && words[0] != "EXEC";
            let reads = matches!(&*words[0], "GET" | "MGET" | "EXISTS" | "PING");
            let number = match in_multi || reads {
                true => None,
                false => self.unsent.pop_front(),
            };
            numbers.push(number);
        }
        numbers
    }
}

impl Router for Route<'_> {
    fn poll_read(&mut self, reads: &Reads<'_>, may: MayWait<'_>, out: &mut Vec<u8>) -> Poll<bool> {
        let first = self.awaited.is_empty();
        let mut gate = Gate {
            worker: self.worker,
            tracks: self.tracks,
            orders: self.orders,
            reader: self.reader,
        };
        let mut asking = Asking {
            awaited: std::mem::take(self.awaited),
            now: self.now,
            waker: Waker::noop(),
            may,
        };
        let answer = match reads {
            Reads::One(read) => self.reader.poll_one(read, &mut asking, &mut gate, out),
            Reads::Many(reads) => self.reader.poll_many(reads, &mut asking, &mut gate, out),
        };
        *self.awaited = asking.awaited;
        if first {
            self.count("reads asked of L1");
            if answer == Poll::Ready(true) {
                self.count("hits");
            }
        }
        answer
    }

    fn prefetch(&mut self, reads: &Reads<'_>) {
        self.count("reads ordered in advance");
        let mut gate = Gate {
            worker: self.worker,
            tracks: self.tracks,
            orders: self.orders,
            reader: self.reader,
        };
        let (reader, now, may) = (self.reader, self.now, &mut || true);
        match reads {
            Reads::One(read) => drop(reader.read(read, now, may, &mut gate)),
            Reads::Many(reads) => drop(reader.read_many(reads, now, may, &mut gate)),
        }
    }

    fn forward(&mut self, key: LaneKey, commands: &[u8], count: u32, terms: Terms) {
        if !terms.touched.is_nothing() {
            self.l1.note_sent(&terms.touched);
        }
        let (numbers, who) = (self.numbers(commands), self.who);
        let since = self.now.mono;
        let lane = self.lane(key);
        lane.outbox.push(commands);
        lane.numbers.extend(numbers);
        lane.pipe.push(Run {
            owner: Some(Owner::Client(Who(who))),
            is_unit: terms.hidden > 0,
            terms,
            owed: count,
            bytes: commands.len(),
            since,
            retried: false,
        });
        lane.write();
    }

    fn poll_facts(&mut self, _: LaneKey) -> Poll<Option<Arc<Facts>>> {
        Poll::Ready(None)
    }

    fn poll_select(&mut self, _: LaneKey) -> Poll<Result<(), String>> {
        Poll::Ready(Ok(()))
    }

    fn poll_resp3(&mut self, _: LaneKey) -> Poll<bool> {
        Poll::Ready(true)
    }

    fn settle_identity(&mut self, _: IdentityId) {}

    fn poll_query(&mut self, _: &Query) -> Poll<Vec<u8>> {
        Poll::Pending
    }

    fn poll_subscribe(&mut self, _: &[Topic]) -> Poll<Result<(), String>> {
        Poll::Pending
    }

    fn poll_unsubscribe(&mut self, _: &[Topic]) -> Poll<()> {
        Poll::Pending
    }

    fn poll_transactions(&mut self, _: LaneKey) -> Poll<Result<(), String>> {
        Poll::Ready(Ok(()))
    }

    fn is_killed(&self) -> bool {
        false
    }

    fn poll_lease(&mut self, _: LaneKey) -> Poll<Result<(), String>> {
        Poll::Pending
    }

    fn forward_leased(&mut self, _: &[u8], _: u32, _: Terms) {}

    fn taint_lease(&mut self) {}

    fn drop_lease(&mut self) {}

    fn expect_lines(&mut self) {}

    fn begin_stream(&mut self, _: Touched) {}

    fn stream(&mut self, _: &[u8], _: Option<Handling>) {}

    fn poll_identity(
        &mut self,
        _: LaneKey,
        _: &[u8],
        _: &[u8],
    ) -> Poll<Result<IdentityId, String>> {
        Poll::Pending
    }
}
