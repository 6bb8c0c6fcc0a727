//! How a command is answered from L1: asked again and again, until its reply is there or it must travel.

use std::rc::Rc;
use std::task::{Poll, Waker};

use super::clock::Now;
use super::entry::{Entry, Read};
use super::fetch::{Fetch, Fetcher};
use super::reader::{Combined, Outcome, Reader};
use super::render::render;
use crate::resp::encode;

/// What a held command has ordered and waits for; empty if it has not asked before.
pub type Awaited = Vec<Rc<Fetch>>;

/// The circumstances in which a command asks.
pub struct Asking<'a> {
    /// What it has ordered before.
    pub awaited: Awaited,
    /// The time.
    pub now: Now,
    /// Whom to call when it is worth asking again.
    pub waker: &'a Waker,
    /// Whether it may wait at all.
    pub may: &'a mut dyn FnMut() -> bool,
}

impl Reader {
    /// Answers a command that is one read: true if the reply is in `out`, false if it must travel. On
    /// `Pending` it is worth asking again, with the same `awaited`, when the waker is called.
    pub fn poll_one(
        &self,
        read: &Read<'_>,
        asking: &mut Asking<'_>,
        fetcher: &mut impl Fetcher,
        out: &mut Vec<u8>,
    ) -> Poll<bool> {
        let before = std::mem::take(&mut asking.awaited).into_iter().next();
        if let Some(fetch) = before.filter(|fetch| fetch.is_of(read)) {
            let Some(answer) = fetch.poll(asking.waker) else {
                asking.awaited.push(fetch);
                return Poll::Pending;
            };
            // Who joined the fetch may have asked when the key had expired.
            let answer = answer.filter(|entry| {
                !entry.reply().is_empty() && !entry.is_dead(asking.now) && entry.answers(read)
            });
            if let Some(entry) = &answer {
                render(entry, read.protocol, out);
                self.stats.counters.l1_fetched.add(1);
            }
            return Poll::Ready(answer.is_some());
        }
        match self.read(read, asking.now, asking.may, fetcher) {
            Outcome::Hit(entry) => {
                self.give(&entry, read, out, true);
                self.stats.counters.l1_hits.add(1);
                Poll::Ready(true)
            }
            Outcome::Pass => Poll::Ready(false),
            Outcome::Wait(fetch) => {
                if fetch.poll(asking.waker).is_some() {
                    return Poll::Ready(false); // there is no connection for it
                }
                asking.awaited.push(fetch);
                Poll::Pending
            }
        }
    }

    /// Answers a command that is made of several reads, like [`Reader::poll_one`].
    pub fn poll_many(
        &self,
        reads: &[Read<'_>],
        asking: &mut Asking<'_>,
        fetcher: &mut impl Fetcher,
        out: &mut Vec<u8>,
    ) -> Poll<bool> {
        let waker = asking.waker;
        let is_pending = |fetches: &Awaited| {
            let pending = |fetch: &Rc<Fetch>| fetch.poll(waker).is_none();
            fetches.iter().any(pending)
        };
        if is_pending(&asking.awaited) {
            return Poll::Pending;
        }
        let before = std::mem::take(&mut asking.awaited);
        let mut may = || before.is_empty() && (asking.may)();
        match self.read_many(reads, asking.now, &mut may, fetcher) {
            Combined::Hits(entries) => {
                encode::array_header(out, entries.len());
                // All together save one command: it is put down to each in turn.
                let turn = self.stats.counters.l1_hits.get() as usize % reads.len().max(1);
                for (at, (entry, read)) in entries.iter().zip(reads).enumerate() {
                    self.give(entry, read, out, at == turn);
                }
                match before.is_empty() {
                    true => self.stats.counters.l1_hits.add(1),
                    false => self.stats.counters.l1_fetched.add(1),
                }
                Poll::Ready(true)
            }
            Combined::Pass => Poll::Ready(false),
            Combined::Wait(fetches) => {
                if !is_pending(&fetches) {
                    return Poll::Ready(false);
                }
                asking.awaited = fetches;
                Poll::Pending
            }
        }
    }

    fn give(&self, entry: &Entry, read: &Read<'_>, out: &mut Vec<u8>, pays: bool) {
        let before = out.len();
        render(entry, read.protocol, out);
        let bytes = read.args.len() + out.len() - before;
        self.count_given(entry, read, bytes, pays);
    }
}
