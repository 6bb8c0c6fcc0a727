//! Reads of one client that L1 answers, or orders.

use std::task::Poll;

use super::route::Route;
use super::tracked::Gate;
use crate::l1::clock::Now;
use crate::l1::entry::{Entry, Known, Read};
use crate::l1::reader::{Combined, Outcome, Reader};
use crate::l1::render::render;
use crate::resp::encode;
use crate::session::Reads;

/// Answers reads from L1: true if the reply is in `out`, false if they must travel.
pub(super) fn poll(
    route: &mut Route<'_>,
    reads: &Reads<'_>,
    may_wait: &mut dyn FnMut() -> bool,
    out: &mut Vec<u8>,
) -> Poll<bool> {
    let client = route.client;
    let Some(reader) = &client.worker.reader else {
        return Poll::Ready(false);
    };
    match reads {
        Reads::One(read) => poll_one(route, reader, read, may_wait, out),
        Reads::Many(reads) => poll_many(route, reader, reads, may_wait, out),
    }
}

fn poll_one(
    route: &mut Route<'_>,
    reader: &Reader,
    read: &Read<'_>,
    may_wait: &mut dyn FnMut() -> bool,
    out: &mut Vec<u8>,
) -> Poll<bool> {
    let waited = route
        .take_fetches()
        .and_then(|fetches| fetches.into_iter().next());
    if let Some(fetch) = waited.filter(|fetch| fetch.is_of(read)) {
        let Some(answer) = fetch.poll(&route.client.waker()) else {
            route.await_fetches(vec![fetch]);
            return Poll::Pending;
        };
        let answer = answer.filter(|entry| !entry.reply().is_empty());
        if let Some(entry) = &answer {
            render(entry, read.protocol, out);
            route.client.worker.stats.counters.l1_fetched.add(1);
        }
        return Poll::Ready(answer.is_some());
    }
    let now = now(route, reader);
    match reader.read(read, now, may_wait, &mut Gate(&route.client.worker)) {
        Outcome::Hit(entry) => {
            give(reader, &entry, read, out);
            Poll::Ready(true)
        }
        Outcome::Pass => Poll::Ready(false),
        Outcome::Wait(fetch) => {
            if fetch.poll(&route.client.waker()).is_some() {
                return Poll::Ready(false); // there is no connection for it
            }
            route.await_fetches(vec![fetch]);
            Poll::Pending
        }
    }
}

fn poll_many(
    route: &mut Route<'_>,
    reader: &Reader,
    reads: &[Read<'_>],
    may_wait: &mut dyn FnMut() -> bool,
    out: &mut Vec<u8>,
) -> Poll<bool> {
    let waited = route.take_fetches();
    if let Some(fetches) = &waited {
        let waker = route.client.waker();
        let pending = fetches.iter().any(|fetch| fetch.poll(&waker).is_none());
        if pending {
            route.await_fetches(waited.unwrap_or_default());
            return Poll::Pending;
        }
    }
    let now = now(route, reader);
    let mut gate = Gate(&route.client.worker);
    match reader.read_many(
        reads,
        now,
        &mut || waited.is_none() && may_wait(),
        &mut gate,
    ) {
        Combined::Hits(entries) => {
            encode::array_header(out, entries.len());
            for (entry, read) in entries.iter().zip(reads) {
                give(reader, entry, read, out);
            }
            Poll::Ready(true)
        }
        Combined::Pass => Poll::Ready(false),
        Combined::Wait(fetches) => {
            let waker = route.client.waker();
            let pending = fetches.iter().any(|fetch| fetch.poll(&waker).is_none());
            if !pending {
                return Poll::Ready(false);
            }
            route.await_fetches(fetches);
            Poll::Pending
        }
    }
}

/// Orders what will be asked for next.
pub(super) fn prefetch(route: &mut Route<'_>, reads: &Reads<'_>) {
    let worker = &route.client.worker;
    let Some(reader) = &worker.reader else { return };
    let now = now(route, reader);
    let mut gate = Gate(worker);
    match reads {
        Reads::One(read) => drop(reader.read(read, now, &mut || true, &mut gate)),
        Reads::Many(reads) => drop(reader.read_many(reads, now, &mut || true, &mut gate)),
    }
}

/// What L1 would have answered.
pub(super) fn peek(route: &mut Route<'_>, read: &Read<'_>) -> Option<Known> {
    let reader = route.client.worker.reader.as_ref()?;
    let now = now(route, reader);
    reader.peek(read, now).map(Known)
}

fn give(reader: &Reader, entry: &Entry, read: &Read<'_>, out: &mut Vec<u8>) {
    let before = out.len();
    render(entry, read.protocol, out);
    reader.count_hit(entry, read, read.args.len() + out.len() - before);
}

/// The time, asked once for all commands of one turn.
fn now(route: &mut Route<'_>, reader: &Reader) -> Now {
    *route.now.get_or_insert_with(|| reader.l1.clock.now())
}
