//! NEARKEY's answers about L1: what it does, what it holds, and dropping that.
//!
//! L1 belongs to all workers, so one can answer for all. What looks at every entry does so on another
//! thread, for the clients of this one need not wait for it.

use std::rc::Rc;

use super::Worker;
use super::client::Client;
use super::tracked::Gate;
use crate::commands::CommandTable;
use crate::l1::L1;
use crate::l1::clock::micros;
use crate::l1::entry::{Entry, Scope};
use crate::l1::fetch::Fetcher;
use crate::l1::hot::By;
use crate::l1::report::{self, Cell, Report};
use crate::resp::{Protocol, encode, request};

/// What L1 is doing, counted over all workers.
pub fn report(worker: &Worker) -> Report<'_> {
    Report::new(worker.link.l1.as_deref(), &worker.all_stats)
}

/// `NEARKEY STATS`.
pub fn stats(worker: &Worker, protocol: Protocol) -> Vec<u8> {
    let mut reply = Vec::new();
    map(&mut reply, protocol, &report(worker).rows());
    reply
}

/// `NEARKEY HOTKEYS`.
pub fn hot_keys(worker: &Worker, by: By, count: usize, protocol: Protocol) -> Vec<u8> {
    let keys = report(worker).hot_keys(by, count);
    let mut reply = Vec::new();
    encode::array_header(&mut reply, keys.len());
    for key in &keys {
        let row = [
            ("key", Cell::Text(report::name_of(key))),
            ("reads", Cell::Count(key.reads)),
            ("hits", Cell::Count(key.hits)),
            ("misses", Cell::Count(key.misses)),
            ("writes", Cell::Count(key.writes)),
            ("bytes", Cell::Count(key.bytes)),
            ("advice", Cell::Text(key.advice().to_owned())),
        ];
        map(&mut reply, protocol, &row);
    }
    reply
}

/// `NEARKEY FLUSH`.
pub async fn flush(worker: &Worker, pattern: Option<Vec<u8>>) -> Vec<u8> {
    let mut reply = Vec::new();
    let ended = match worker.link.l1.clone() {
        Some(l1) => aside(move || l1.store.flush(pattern.as_deref())).await,
        None => 0,
    };
    encode::integer(&mut reply, i64::try_from(ended).unwrap_or(i64::MAX));
    reply
}

/// `NEARKEY KEY`: of the asking client's own database and user only.
pub async fn key(client: &Rc<Client>, key: Vec<u8>) -> Vec<u8> {
    let lane = client.inner.borrow().session.lane_key();
    let scope = Scope {
        db: lane.db,
        identity: lane.identity,
    };
    let worker = &client.worker;
    let mut rows = vec![("key", Cell::Text(report::shown(&key)))];
    let is_down = Gate(worker).is_down();
    let Some(l1) = worker.link.l1.clone() else {
        rows.push(("cached", Cell::Count(0)));
        rows.push(("why", Cell::Text(report(worker).in_force().1)));
        return key_reply(&rows, &[], lane.protocol);
    };
    rows.push(("hash", Cell::Text(report::hashed(l1.stamps.hash(&key)))));
    rows.push(("rule", Cell::Text(rule(&l1, &key))));
    let (seen, name) = (l1.clone(), key.clone());
    let entries = aside(move || seen.store.of_key(&name)).await;
    let table = worker.table().clone();
    let own = entries
        .iter()
        .filter(|entry| entry.scope == scope && l1.stands(entry));
    let shown: Vec<_> = own
        .map(|entry| describe(&l1, entry, &table, is_down))
        .collect();
    let served = shown.iter().any(|(is_served, _)| *is_served);
    rows.push(("cached", Cell::Count(u64::from(served))));
    let why = match shown.is_empty() {
        true => l1.why_not(scope, &key, &worker.all_stats),
        false => String::new(), // each entry has its own
    };
    rows.push(("why", Cell::Text(why)));
    let shown: Vec<_> = shown.into_iter().map(|(_, row)| row).collect();
    key_reply(&rows, &shown, lane.protocol)
}

type Row = (&'static str, Cell);

fn key_reply(rows: &[Row], entries: &[Vec<Row>], protocol: Protocol) -> Vec<u8> {
    let mut reply = Vec::new();
    encode::map_header(&mut reply, rows.len() + 1, protocol);
    pairs(&mut reply, protocol, rows);
    encode::bulk(&mut reply, b"entries");
    encode::array_header(&mut reply, entries.len());
    for entry in entries {
        map(&mut reply, protocol, entry);
    }
    reply
}

/// Which rule decides, as the configuration counts them.
fn rule(l1: &L1, key: &[u8]) -> String {
    let (rules, config) = (l1.rules(), l1.config());
    let terms = rules.of(key);
    let Some(rule) = terms.rule else {
        return "none: cache.default".to_owned();
    };
    let pattern = config.rules.get(rule).map(|rule| &rule.pattern);
    let pattern = report::shown(pattern.map(Vec::as_slice).unwrap_or_default());
    format!("rule {} (\"{pattern}\")", rule + 1)
}

/// Whether an entry is served, and what there is to say of it but its reply.
fn describe(l1: &L1, entry: &Entry, table: &CommandTable, is_down: bool) -> (bool, Vec<Row>) {
    let now = l1.clock.now();
    let age = now.since(entry.born);
    let left = entry.age.saturating_sub(age);
    let verdict = l1.check(entry, now, is_down);
    let (Ok(why) | Err(why)) = verdict;
    let stale = entry.terms.stale_if_down.map_or(0, micros);
    let row = vec![
        ("command", Cell::Text(command(l1, entry, table))),
        ("served", Cell::Count(u64::from(verdict.is_ok()))),
        ("why", Cell::Text(why.to_owned())),
        ("bytes", Cell::Count(entry.size() as u64)),
        ("absent", Cell::Count(u64::from(entry.absent))),
        ("age_ms", Cell::Count(age / 1000)),
        ("left_ms", Cell::Count(left / 1000)),
        ("stale_if_down_ms", Cell::Count(stale / 1000)),
    ];
    (verdict.is_ok(), row)
}

/// The read that an entry answers; its arguments name fields, which may be as private as names of keys.
fn command(l1: &L1, entry: &Entry, table: &CommandTable) -> String {
    let name = table.get(entry.command).map_or("?", |spec| &spec.name);
    if l1.config().hash_key_names {
        return name.to_owned();
    }
    // As many as there are: what takes a command apart stops at the end.
    let call = [b"*999999\r\n", entry.args()].concat();
    let args: Vec<&[u8]> = request::args(&call).collect();
    format!("{name} {}", report::shown(&args.join(&b' ')))
}

/// Work that takes long where there are many entries.
pub(super) async fn aside<T: Default + Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    tokio::task::spawn_blocking(work).await.unwrap_or_default()
}

fn map(reply: &mut Vec<u8>, protocol: Protocol, rows: &[Row]) {
    encode::map_header(reply, rows.len(), protocol);
    pairs(reply, protocol, rows);
}

fn pairs(reply: &mut Vec<u8>, protocol: Protocol, rows: &[Row]) {
    for (name, value) in rows {
        encode::bulk(reply, name.as_bytes());
        match value {
            Cell::Count(count) => encode::integer(reply, i64::try_from(*count).unwrap_or(i64::MAX)),
            Cell::Signed(count) => encode::integer(reply, *count),
            Cell::Real(real) => encode::double(reply, protocol, *real),
            Cell::Text(text) => encode::bulk(reply, text.as_bytes()),
            Cell::Unknown => encode::null(reply, protocol),
        }
    }
}
