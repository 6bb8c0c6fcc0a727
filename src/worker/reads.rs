//! Reads of one client that L1 answers, or orders.

use std::task::Poll;

use super::route::Route;
use super::tracked::Gate;
use crate::session::Reads;

/// Answers reads from L1: true if the reply is in `out`, false if they must travel.
pub(super) fn poll(route: &mut Route<'_>, reads: &Reads<'_>, out: &mut Vec<u8>) -> Poll<bool> {
    let client = route.client;
    let Some(reader) = &client.worker.reader else {
        return Poll::Ready(false);
    };
    let mut awaited = route.take_fetches().unwrap_or_default();
    // The time is asked once for all commands of one turn.
    let now = || *route.now.get_or_insert_with(|| reader.l1.clock.now());
    let (waker, mut gate) = (client.waker(), Gate(&client.worker));
    let answer = match reads {
        Reads::One(read) => reader.poll_one(read, &mut awaited, now, &waker, &mut gate, out),
        Reads::Many(reads) => reader.poll_many(reads, &mut awaited, now, &waker, &mut gate, out),
    };
    if answer.is_pending() {
        route.await_fetches(awaited);
    }
    answer
}
