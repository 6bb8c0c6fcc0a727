//! Reads of one client that L1 answers, or orders.

use std::task::Poll;

use super::route::Route;
use super::tracked::Gate;
use crate::l1::ask::Asking;
use crate::session::{MayWait, Reads};

/// Answers reads from L1: true if the reply is in `out`, false if they must travel.
pub(super) fn poll(
    route: &mut Route<'_>,
    reads: &Reads<'_>,
    may: MayWait<'_>,
    out: &mut Vec<u8>,
) -> Poll<bool> {
    let client = route.client;
    let Some(reader) = &client.worker.reader else {
        return Poll::Ready(false);
    };
    let mut asking = Asking {
        awaited: route.take_fetches().unwrap_or_default(),
        // Asked once for all commands of one turn.
        now: *route.now.get_or_insert_with(|| reader.l1.clock.now()),
        waker: &client.waker(),
        may,
    };
    let mut gate = Gate(&client.worker);
    let answer = match reads {
        Reads::One(read) => reader.poll_one(read, &mut asking, &mut gate, out),
        Reads::Many(reads) => reader.poll_many(reads, &mut asking, &mut gate, out),
    };
    if answer.is_pending() {
        route.await_fetches(asking.awaited);
    }
    answer
}

/// Orders what will be asked for next.
pub(super) fn prefetch(route: &mut Route<'_>, reads: &Reads<'_>) {
    let worker = &route.client.worker;
    let Some(reader) = &worker.reader else { return };
    let now = *route.now.get_or_insert_with(|| reader.l1.clock.now());
    let mut gate = Gate(worker);
    match reads {
        Reads::One(read) => drop(reader.read(read, now, &mut || true, &mut gate)),
        Reads::Many(reads) => drop(reader.read_many(reads, now, &mut || true, &mut gate)),
    }
}
