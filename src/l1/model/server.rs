//! A Redis in memory: strings that expire, and `CLIENT TRACKING ON OPTIN` to the letter.

use std::collections::{BTreeMap, BTreeSet};

use super::truth::{Cause, NO_STRING, Truth};
use crate::resp::{Protocol, encode};

/// Databases.
pub const DATABASES: u32 = 2;

/// What a key holds.
#[derive(Clone, Debug)]
struct Held {
    value: String,
    /// The last millisecond in which it is there.
    until: Option<u64>,
    /// Its time is over, and the server has not noticed.
    dead: bool,
}

/// One connection, as the server sees it.
#[derive(Debug)]
pub struct Conn {
    db: u32,
    protocol: Protocol,
    tracks: bool,
    /// `CLIENT CACHING YES` was said just before.
    caching: bool,
    queued: Option<Vec<Vec<String>>>,
    /// Who is served; `false` once it is gone.
    pub alive: bool,
    /// Replies and pushes in their order.
    pub out: Vec<u8>,
}

/// A Redis in memory.
#[derive(Debug)]
pub struct Server {
    /// Microseconds since 1970, by its clock.
    pub now: u64,
    pub truth: Truth,
    dbs: Vec<BTreeMap<String, Held>>,
    tracked: BTreeMap<String, BTreeSet<usize>>,
    pub conns: Vec<Conn>,
    /// Whose command is being executed, and the pushes that follow its reply.
    current: Option<usize>,
    after: Vec<u8>,
    /// Databases were exchanged, and nobody of the proxy was told.
    pub swapped: bool,
    /// What it has executed, where somebody wants to know.
    pub log: Option<Vec<String>>,
}

impl Server {
    pub fn new(now: u64) -> Self {
        Self {
            now,
            truth: Truth::default(),
            dbs: (0..DATABASES).map(|_| BTreeMap::new()).collect(),
            tracked: BTreeMap::new(),
            conns: Vec::new(),
            current: None,
            after: Vec::new(),
            swapped: false,
            log: None,
        }
    }

    /// Notes what it executes, where somebody wants to know.
    pub fn note(&mut self, conn: usize, words: &[String]) {
        let (now, position) = (self.now % 1_000_000_000, self.truth.position);
        if let Some(log) = &mut self.log {
            log.push(format!("{now:>9} {position} connection {conn}: {words:?}"));
        }
    }

    /// A connection that has said HELLO, SELECT and, if it `tracks`, CLIENT TRACKING.
    pub fn open(&mut self, db: u32, protocol: Protocol, tracks: bool) -> usize {
        self.conns.push(Conn {
            db,
            protocol,
            tracks,
            caching: false,
            queued: None,
            alive: true,
            out: Vec::new(),
        });
        self.conns.len() - 1
    }

    /// The connection is closed: nothing more reaches it.
    pub fn close(&mut self, conn: usize) {
        self.conns[conn].alive = false;
        self.conns[conn].out.clear();
    }

    /// Time passes; keys whose time is over are gone for every reader, pushed or not.
    pub fn pass(&mut self, micros: u64) {
        let until = self.now + micros;
        while let Some((at, db, key)) = self.next_death(until) {
            self.now = self.now.max(at);
            self.truth.step();
            if let Some(held) = self.dbs[db as usize].get_mut(&key) {
                held.dead = true;
            }
            self.truth.note(&(db, key), None, at, Cause::Expiry);
        }
        self.now = until;
    }

    fn next_death(&self, until: u64) -> Option<(u64, u32, String)> {
        let all = self.dbs.iter().zip(0..).flat_map(|(keys, db)| {
            let living = keys.iter().filter(|(_, held)| !held.dead);
            living.filter_map(move |(key, held)| Some(((held.until? + 1) * 1000, db, key.clone())))
        });
        all.filter(|(at, ..)| *at <= until).min()
    }

    /// Active expiry finds some of the dead, at last; true if there were any.
    pub fn reap(&mut self) -> bool {
        let dead = self.dbs.iter().zip(0u32..).find_map(|(keys, db)| {
            let (key, _) = keys.iter().find(|(_, held)| held.dead)?;
            Some((db, key.clone()))
        });
        let Some((db, key)) = dead else { return false };
        self.notice(db, &key);
        true
    }

    /// The tracking table is full: a key is forgotten, which its trackers are told.
    pub fn evict(&mut self) -> bool {
        let key = self.tracked.keys().next().cloned();
        if let Some(key) = &key {
            self.push(key);
        }
        key.is_some()
    }

    /// Somebody who is no client of the proxy says this.
    pub fn foreign(&mut self, db: u32, words: &[&str]) {
        let mut out = Vec::new();
        let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        self.truth.step();
        let swap = words[0] == "SWAPDB";
        self.run(db, Protocol::Resp2, false, &words, &mut out, swap);
    }

    /// Executes one command of a connection. `false` if it was only queued.
    pub fn execute(&mut self, conn: usize, words: Vec<String>) -> bool {
        let (db, protocol) = (self.conns[conn].db, self.conns[conn].protocol);
        let mut out = Vec::new();
        let mut done = true;
        self.current = Some(conn);
        let optin = std::mem::take(&mut self.conns[conn].caching) && self.conns[conn].tracks;
        match (&*words[0], &mut self.conns[conn].queued) {
            ("EXEC", queued) => {
                let queued = queued.take().unwrap_or_default();
                self.truth.step();
                encode::array_header(&mut out, queued.len());
                for words in queued {
                    self.run(db, protocol, optin, &words, &mut out, false);
                }
            }
            (_, Some(queued)) => {
                queued.push(words);
                encode::simple(&mut out, "QUEUED");
                done = false;
            }
            ("MULTI", queued) => {
                *queued = Some(Vec::new());
                encode::simple(&mut out, "OK");
                done = false;
            }
            ("CLIENT", _) => {
                self.conns[conn].caching = true;
                encode::simple(&mut out, "OK");
            }
            _ => {
                self.truth.step();
                self.run(db, protocol, optin, &words, &mut out, false);
            }
        }
        self.current = None;
        let after = std::mem::take(&mut self.after);
        self.conns[conn].send(&out);
        self.conns[conn].send(&after);
        done
    }

    fn run(
        &mut self,
        db: u32,
        protocol: Protocol,
        optin: bool,
        words: &[String],
        out: &mut Vec<u8>,
        foreign: bool,
    ) {
        let text: Vec<&str> = words.iter().map(|word| &**word).collect();
        match text[..] {
            ["PING"] => encode::simple(out, "PONG"),
            ["GET", key] => self.get(db, protocol, key, false, out),
            ["MGET", ref keys @ ..] => {
                encode::array_header(out, keys.len());
                for key in keys {
                    self.get(db, protocol, key, true, out);
                }
            }
            ["EXISTS", key] => encode::integer(out, self.look(db, key).is_some().into()),
            ["PTTL", key] => encode::integer(out, self.life(db, key)),
            ["SET", key, value, ref rest @ ..] => {
                let life = rest.get(1).and_then(|life| life.parse::<u64>().ok());
                self.set(db, key, value, life.map(|life| self.now / 1000 + life));
                encode::simple(out, "OK");
            }
            ["LPUSH", key] => {
                self.set(db, key, NO_STRING, None);
                encode::integer(out, 1);
            }
            ["PERSIST", key] => self.persist(db, key, out),
            // A script that writes what it does not declare.
            ["EVAL", _, _, key, value] => {
                self.set(db, key, value, None);
                encode::integer(out, 1);
            }
            ["DEL", key] => {
                let there = self.look(db, key).is_some();
                self.remove(db, key);
                encode::integer(out, there.into());
            }
            ["RENAME", from, to] => self.rename(db, from, to, out),
            ["FLUSHDB"] => {
                self.flush(db);
                encode::simple(out, "OK");
            }
            ["SWAPDB", ..] => {
                let unheard = self.current.is_some_and(|conn| !self.conns[conn].alive);
                self.swapped |= foreign || unheard;
                self.swap(foreign || unheard);
                encode::simple(out, "OK");
            }
            _ => encode::error(out, format!("ERR unknown command {text:?}")),
        }
        if optin && matches!(text[0], "GET" | "MGET" | "EXISTS" | "PTTL") {
            let Some(conn) = self.current else { return };
            for key in &text[1..] {
                let trackers = self.tracked.entry((*key).to_owned()).or_default();
                trackers.insert(conn);
            }
        }
    }

    fn get(&mut self, db: u32, protocol: Protocol, key: &str, lenient: bool, out: &mut Vec<u8>) {
        match self.look(db, key).map(|held| held.value.clone()) {
            Some(value) if value == NO_STRING && !lenient => {
                encode::error(
                    out,
                    "WRONGTYPE Operation against a key holding the wrong kind",
                );
            }
            Some(value) if value != NO_STRING => encode::bulk(out, value.as_bytes()),
            _ => encode::null(out, protocol),
        }
    }

    /// What a key holds. One whose time is over is found to be gone now.
    fn look(&mut self, db: u32, key: &str) -> Option<&Held> {
        self.notice(db, key);
        self.dbs[db as usize].get(key)
    }

    fn notice(&mut self, db: u32, key: &str) {
        let keys = &mut self.dbs[db as usize];
        if keys.get(key).is_some_and(|held| held.dead) {
            keys.remove(key);
            self.push(key);
        }
    }

    fn life(&mut self, db: u32, key: &str) -> i64 {
        let now = self.now / 1000;
        match self.look(db, key) {
            None => -2,
            Some(held) => held.until.map_or(-1, |until| until as i64 - now as i64),
        }
    }

    fn set(&mut self, db: u32, key: &str, value: &str, until: Option<u64>) {
        self.notice(db, key);
        let held = Held {
            value: value.to_owned(),
            until,
            dead: false,
        };
        self.dbs[db as usize].insert(key.to_owned(), held);
        self.changed(db, key, Some(value.to_owned()), Cause::Write);
        self.push(key);
    }

    fn persist(&mut self, db: u32, key: &str, out: &mut Vec<u8>) {
        self.notice(db, key);
        let held = self.dbs[db as usize].get_mut(key);
        let changed = held.is_some_and(|held| held.until.take().is_some());
        if changed {
            self.push(key);
        }
        encode::integer(out, changed.into());
    }

    fn remove(&mut self, db: u32, key: &str) {
        if self.dbs[db as usize].remove(key).is_some() {
            self.changed(db, key, None, Cause::Write);
            self.push(key);
        }
    }

    fn rename(&mut self, db: u32, from: &str, to: &str, out: &mut Vec<u8>) {
        self.notice(db, to);
        let Some(held) = self.look(db, from).cloned() else {
            return encode::error(out, "ERR no such key");
        };
        if from != to {
            self.remove(db, from);
            self.set(db, to, &held.value, held.until);
        }
        encode::simple(out, "OK");
    }

    fn flush(&mut self, db: u32) {
        for (key, held) in std::mem::take(&mut self.dbs[db as usize]) {
            if !held.dead {
                self.changed(db, &key, None, Cause::Write);
            }
        }
        self.tracked.clear();
        for conn in 0..self.conns.len() {
            if self.conns[conn].tracks {
                self.tell(conn, b">2\r\n$10\r\ninvalidate\r\n_\r\n");
            }
        }
    }

    /// Nobody is told.
    fn swap(&mut self, foreign: bool) {
        let cause = match foreign {
            true => Cause::ForeignSwap,
            false => Cause::Write,
        };
        self.dbs.swap(0, 1);
        let all = self.dbs.iter().flat_map(BTreeMap::keys);
        let names: BTreeSet<String> = all.cloned().collect();
        for name in names {
            for db in 0..DATABASES {
                let held = self.dbs[db as usize].get(&name).filter(|held| !held.dead);
                let value = held.map(|held| held.value.clone());
                if value != self.truth.current(&(db, name.clone())) {
                    self.changed(db, &name, value, cause);
                }
            }
        }
    }

    fn changed(&mut self, db: u32, key: &str, value: Option<String>, cause: Cause) {
        let at = self.now;
        self.truth.note(&(db, key.to_owned()), value, at, cause);
    }

    /// The key has changed, in whatever database: who has read it is told, once.
    fn push(&mut self, key: &str) {
        let mut frame = b">2\r\n$10\r\ninvalidate\r\n*1\r\n".to_vec();
        encode::bulk(&mut frame, key.as_bytes());
        for conn in self.tracked.remove(key).unwrap_or_default() {
            self.tell(conn, &frame);
        }
    }

    /// Whose command causes a push gets it behind the reply.
    fn tell(&mut self, conn: usize, frame: &[u8]) {
        if self.current == Some(conn) {
            self.after.extend_from_slice(frame);
        } else {
            self.conns[conn].send(frame);
        }
    }
}

impl Conn {
    fn send(&mut self, bytes: &[u8]) {
        if self.alive {
            self.out.extend_from_slice(bytes);
        }
    }
}
