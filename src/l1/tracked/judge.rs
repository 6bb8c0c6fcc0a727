//! Whether an answer is kept, and for how long.

use std::sync::Arc;
use std::time::Duration;

use super::Pending;
use crate::l1::clock::micros;
use crate::l1::entry::{Entry, Facts};
use crate::l1::fetch::{Answer, Order};
use crate::l1::render::render;
use crate::l1::shape::Shape;
use crate::l1::{L1, Rule};
use crate::resp::Protocol;
use crate::stats::{Counter, Counters};
use crate::upstream::IdentityId;

/// What has come of the reply to a read.
#[derive(Debug)]
pub(super) enum Held {
    /// It is too long to be kept.
    Large,
    /// An error.
    Error(Vec<u8>),
    /// A value.
    Reply(Vec<u8>),
}

/// For how long what is read from a hash is good at most.
const HASH_AGE: Duration = Duration::from_secs(1);

/// For how long it is remembered that a reply is not worth fetching.
const UNFIT_AGE: Duration = Duration::from_secs(5);

/// What PTTL says of a key that is not there.
const MISSING: i64 = -2;

/// Makes the answer to an order, and keeps it if it is fit to be kept. What is not may still be given to
/// those who wait for it: they asked before it came.
pub(super) fn judge(
    l1: &L1,
    counters: &Counters,
    pending: Pending,
    protocol: Protocol,
    life: Option<i64>,
) -> Answer {
    let Pending {
        order,
        timed,
        untracked,
        changed,
        held,
        ..
    } = pending;
    let (reply, is_error, is_large) = match held {
        Held::Large => (Vec::new(), false, true),
        Held::Error(reply) => (reply, true, false),
        Held::Reply(reply) => (reply, false, false),
    };
    let unfit = is_error || is_large;
    // It belongs to an attribute, which nobody has asked for.
    if reply.first() == Some(&b'|') {
        counters.l1_fills_unfit.add(1);
        return None;
    }
    let absent = life == Some(MISSING);
    let age = match life {
        Some(_) if untracked => 0,
        Some(_) if unfit => micros(UNFIT_AGE.min(order.terms.max_age)),
        Some(life) => age(l1, &order, timed, life, &reply),
        None => 0,
    };
    let why_not = why_not(l1, counters, &order, timed, absent, age);
    let facts = Facts {
        protocol,
        stamp: order.stamp,
        absent,
        tracker: order.tracker,
        link: order.link,
        timed,
        born: order.since,
        age: if why_not.is_some() { 0 } else { age },
        life: match life {
            Some(_) if (changed || untracked) && l1.keeps(Rule::Expiry) => Some(0),
            life => life.and_then(|life| rest_of_life(l1, life, &reply)),
        },
        terms: order.terms,
        unfit,
        waste: order.waste,
    };
    let entry = Arc::new(Entry::new(&order.name, &reply, facts));
    match why_not {
        Some(counter) => {
            counter.add(1);
            l1.note_shown(entry.stamp.place, entry.hash, protocol, &reply);
        }
        None => {
            note_kept(l1, &entry);
            let counter = match (is_large, is_error) {
                (true, _) => &counters.l1_fills_large,
                (_, true) => &counters.l1_fills_unfit,
                _ => &counters.l1_fills,
            };
            counter.add(1);
            keep(l1, &entry);
        }
    }
    Some(entry)
}

fn keep(l1: &L1, entry: &Arc<Entry>) {
    l1.store.insert(entry.clone());
    if l1.store.was_flushed_since(entry.born) {
        l1.stamps.touch(entry.stamp.place);
    }
}

/// What is kept is given from now on, in both protocols.
fn note_kept(l1: &L1, entry: &Entry) {
    let mut rendered = Vec::new();
    render(entry, Protocol::Resp2, &mut rendered);
    let forms = [
        (Protocol::Resp2, rendered.as_slice()),
        (Protocol::Resp3, entry.reply()),
    ];
    l1.stamps.note_kept(entry.stamp.place, entry.hash, forms);
}

/// What counts the reason why an answer is not kept, if there is one.
fn why_not<'a>(
    l1: &L1,
    counters: &'a Counters,
    order: &Order,
    timed: bool,
    absent: bool,
    age: u64,
) -> Option<&'a Counter> {
    let stands = l1.stamps.stands(&order.stamp, absent) || !l1.keeps(Rule::Stamps);
    let linked = timed || order.tracker.link() == order.link || !l1.keeps(Rule::LostLink);
    if age == 0 {
        Some(&counters.l1_fills_unfit)
    } else if !stands || !linked {
        Some(&counters.l1_fills_moved)
    } else {
        None
    }
}

/// For how many microseconds a value is good, from when it was ordered on; zero if it is not.
fn age(l1: &L1, order: &Order, timed: bool, life: i64, reply: &[u8]) -> u64 {
    let terms = &order.terms;
    let most = if timed {
        terms.ttl.unwrap_or_default().min(terms.max_age)
    } else {
        terms.max_age
    };
    let mut most = most.min(bound(order.name.shape));
    if order.name.scope.identity != IdentityId::OWN {
        // What a user may read can change, and no push tells.
        most = most.min(l1.lease());
    }
    let age = match u64::try_from(life) {
        Ok(life) => most.min(Duration::from_millis(life)),
        // It was there when it was read and has expired since.
        Err(_) if life == MISSING && !is_empty(reply) => Duration::ZERO,
        Err(_) if life == MISSING => most.min(l1.config().absent_age),
        Err(_) => most,
    };
    micros(if l1.keeps(Rule::Expiry) { age } else { most })
}

/// For how many microseconds the key lives; `None` if for ever, or as long as it is missing.
fn rest_of_life(l1: &L1, life: i64, reply: &[u8]) -> Option<u64> {
    match u64::try_from(life) {
        _ if !l1.keeps(Rule::Expiry) => None,
        Ok(life) => Some(micros(Duration::from_millis(life))),
        Err(_) if life == MISSING && !is_empty(reply) => Some(0),
        Err(_) => None,
    }
}

/// How old the answers to reads of this shape may get: the fields of a hash can have an expiry of their
/// own, which PTTL does not tell.
fn bound(shape: Shape) -> Duration {
    match shape.is_hash() {
        true => HASH_AGE,
        false => Duration::MAX,
    }
}

/// Such a reply is what a missing key gives, whatever the read. An empty string is not: GET gives it only
/// for a key that is there.
fn is_empty(reply: &[u8]) -> bool {
    let text = reply.split(|byte| *byte == b'\n');
    text.filter(|line| !line.is_empty()).all(|line| match line {
        b"_\r" | b"$-1\r" | b":0\r" | b"+none\r" | b"#f\r" => true,
        // What is in an aggregate is looked at in its turn.
        [b'*' | b'~' | b'%', ..] => true,
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_missing_key_gives_is_told_from_values() {
        for reply in [
            "_\r\n", "$-1\r\n", "*-1\r\n", ":0\r\n", "*0\r\n", "~0\r\n", "%0\r\n",
        ] {
            assert!(is_empty(reply.as_bytes()), "{reply}");
        }
        assert!(is_empty(b"+none\r\n") && is_empty(b"*2\r\n_\r\n_\r\n"));
        for reply in [
            "$0\r\n\r\n",
            "$1\r\n_\r\n",
            ":1\r\n",
            "*2\r\n_\r\n$1\r\na\r\n",
        ] {
            assert!(!is_empty(reply.as_bytes()), "{reply}");
        }
    }
}
