//! The state of one hub: names, requests and the commands between them.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use super::frame::{Frame, parse};
use super::sent::{Leave, Sent};
use super::{Census, Kind, Name};
use crate::upstream::pipe::Tick;
use crate::upstream::reply_to::Failure;

/// What a worker asks of a hub.
#[derive(Debug)]
pub enum Request {
    /// A client subscribes. Answered with [`Letter::Granted`] or [`Letter::Refused`]; in both cases the
    /// names are wanted until the worker leaves them.
    Join {
        /// Names the request in the answer.
        ticket: u64,
        /// All of them or none.
        names: Vec<Name>,
    },
    /// A client unsubscribes.
    Leave {
        /// Answered with [`Letter::Granted`] once what was published before has come; nobody is told
        /// without one.
        ticket: Option<u64>,
        /// Names that nobody on the worker wants any more.
        names: Vec<Name>,
    },
}

/// What a hub tells a worker, in the order of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Letter {
    /// Something was published; the ranges are places in the bytes that come with the letters.
    Message {
        /// What the name means.
        kind: Kind,
        /// The name that was subscribed to.
        name: Range<usize>,
        /// The whole frame, as RESP2 has it.
        frame: Range<usize>,
    },
    /// A request has been carried out.
    Granted(u64),
    /// A request to join has not.
    Refused(u64, Failure),
    /// The server no longer lets this name be subscribed to, or not by this user.
    Revoked(Name),
}

/// The server sent what no command asked for.
#[derive(Debug, PartialEq, Eq)]
pub struct Desync;

#[derive(Debug)]
struct Join {
    worker: usize,
    ticket: u64,
    names: Vec<Name>,
    /// Confirmations to come.
    missing: usize,
    since: Tick,
}

#[derive(Debug, Default)]
struct Entry {
    /// Workers that want it.
    wanted: Vec<usize>,
    /// Workers that get its messages.
    listening: Vec<usize>,
    /// The server has confirmed it.
    subscribed: bool,
}

/// One hub.
#[derive(Debug)]
pub struct Hub {
    census: Arc<Census>,
    names: [HashMap<Box<[u8]>, Entry>; 3],
    subscribed: [usize; 3],
    joins: BTreeMap<u64, Join>,
    next_join: u64,
    is_open: bool,
    sent: VecDeque<Sent>,
    /// Of `sent`, those that restore what was lost.
    restoring: usize,
    out: Vec<u8>,
    news: Vec<(usize, Letter)>,
}

impl Hub {
    /// A hub without a connection that nobody wants anything of.
    pub fn new(census: Arc<Census>) -> Self {
        Self {
            census,
            names: Default::default(),
            subscribed: [0; 3],
            joins: BTreeMap::new(),
            next_join: 0,
            is_open: false,
            sent: VecDeque::new(),
            restoring: 0,
            out: Vec::new(),
            news: Vec::new(),
        }
    }

    /// A connection is of use.
    pub fn is_wanted(&self) -> bool {
        !self.joins.is_empty() || self.names.iter().any(|names| !names.is_empty())
    }

    /// Requests to join wait for an answer.
    pub fn has_joins(&self) -> bool {
        !self.joins.is_empty()
    }

    /// Answers are owed.
    pub fn is_owed(&self) -> bool {
        !self.sent.is_empty()
    }

    /// Subscriptions that were lost and are not restored yet.
    pub fn restoring(&self) -> usize {
        self.restoring
    }

    /// Subscriptions that the server has confirmed, by [`Kind`].
    pub fn subscribed(&self) -> [usize; 3] {
        self.subscribed
    }

    /// Commands to write; empty again afterwards.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    /// What the workers must be told, in order; empty again afterwards.
    pub fn take_news(&mut self) -> Vec<(usize, Letter)> {
        std::mem::take(&mut self.news)
    }

    /// There is something to write or to tell.
    pub fn has_work(&self) -> bool {
        !self.out.is_empty() || !self.news.is_empty()
    }

    /// Takes a request of a worker.
    pub fn handle_request(&mut self, worker: usize, request: Request, now: Tick) {
        match request {
            Request::Join { ticket, names } => {
                for name in &names {
                    include(&mut self.entry(name).wanted, worker);
                }
                let number = self.next_join;
                self.next_join += 1;
                let join = Join {
                    worker,
                    ticket,
                    names,
                    missing: 0,
                    since: now,
                };
                self.joins.insert(number, join);
                if self.is_open {
                    self.send_join(number);
                }
            }
            Request::Leave { ticket, names } => self.leave(worker, ticket, names),
        }
    }

    fn leave(&mut self, worker: usize, ticket: Option<u64>, names: Vec<Name>) {
        let mut leave = Leave {
            worker,
            ticket,
            names: Vec::new(),
        };
        let mut ends = Vec::new();
        for name in names {
            let entry = self.entry(&name);
            entry.wanted.retain(|known| *known != worker);
            if entry.wanted.is_empty() && self.is_open {
                ends.push(name);
            } else {
                leave.names.push(name);
            }
        }
        if !self.is_open {
            return self.end(leave);
        }
        // The last answer is the sign; a PING is needed only where nothing else is sent.
        let last = ends.pop();
        for name in ends {
            self.send(Sent::Unsubscribe(name, None));
        }
        match last {
            Some(name) => self.send(Sent::Unsubscribe(name, Some(leave))),
            None if ticket.is_some() || !leave.names.is_empty() => {
                self.send(Sent::Ping(Some(leave)));
            }
            None => {}
        }
    }

    /// Asks whether the server is still there.
    pub fn ping(&mut self) {
        self.send(Sent::Ping(None));
    }

    /// A connection is up: what was lost is restored before anything new is granted.
    pub fn handle_open(&mut self) {
        self.is_open = true;
        let mut lost = Vec::new();
        for kind in Kind::ALL {
            let names = self.names[kind as usize].iter();
            let heard = names.filter(|(_, entry)| !entry.listening.is_empty());
            lost.extend(heard.map(|(name, _)| Name {
                kind,
                bytes: name.clone(),
            }));
        }
        self.restoring = lost.len();
        for name in lost {
            self.send(Sent::Subscribe(name, None));
        }
        let joins: Vec<u64> = self.joins.keys().copied().collect();
        for number in joins {
            self.send_join(number);
        }
    }

    /// The connection is gone. Nothing more comes on it, so whoever leaves has left; whoever joins
    /// waits on. Returns how many names miss messages from now on.
    pub fn handle_lost(&mut self) -> usize {
        self.is_open = false;
        self.restoring = 0;
        self.out.clear();
        for sent in std::mem::take(&mut self.sent) {
            match sent {
                Sent::Subscribe(..) => {}
                Sent::Unsubscribe(name, leave) => {
                    self.entry(&name).listening.clear();
                    self.forget_unused(&name);
                    leave.into_iter().for_each(|leave| self.end(leave));
                }
                Sent::Ping(leave) => leave.into_iter().for_each(|leave| self.end(leave)),
            }
        }
        for kind in Kind::ALL {
            for (name, entry) in &mut self.names[kind as usize] {
                if std::mem::take(&mut entry.subscribed) {
                    self.census.count_hub(kind, name, -1);
                }
            }
            self.names[kind as usize].retain(|_, entry| !entry.is_unused());
        }
        self.subscribed = [0; 3];
        let heard = |names: &HashMap<_, Entry>| {
            let heard = names.values().filter(|entry| !entry.listening.is_empty());
            heard.count()
        };
        self.names.iter().map(heard).sum()
    }

    /// Takes a whole frame of the server, `input[frame]`.
    ///
    /// # Errors
    /// The connection must be closed: answers cannot be told from each other any more.
    pub fn handle_frame(&mut self, input: &[u8], frame: Range<usize>) -> Result<(), Desync> {
        let bytes = &input[frame.clone()];
        match parse(bytes).ok_or(Desync)? {
            Frame::Message(kind, name) => {
                let Some(entry) = self.names[kind as usize].get(&bytes[name.clone()]) else {
                    return Ok(()); // published while the UNSUBSCRIBE was on its way
                };
                let name = frame.start + name.start..frame.start + name.end;
                for worker in &entry.listening {
                    let letter = Letter::Message {
                        kind,
                        name: name.clone(),
                        frame: frame.clone(),
                    };
                    self.news.push((*worker, letter));
                }
                Ok(())
            }
            Frame::Subscribed(kind, name) => self.confirm(kind, &bytes[name]),
            Frame::Unsubscribed(kind, name) => self.end_subscription(kind, &bytes[name]),
            Frame::Pong => match self.sent.pop_front() {
                Some(Sent::Ping(leave)) => {
                    leave.into_iter().for_each(|leave| self.end(leave));
                    Ok(())
                }
                _ => Err(Desync),
            },
            Frame::Error(text) => {
                self.handle_error(String::from_utf8_lossy(&bytes[text]).into_owned())
            }
        }
    }

    fn confirm(&mut self, kind: Kind, confirmed: &[u8]) -> Result<(), Desync> {
        let Some(Sent::Subscribe(name, number)) = self.sent.pop_front() else {
            return Err(Desync);
        };
        if name.kind != kind || *name.bytes != *confirmed {
            return Err(Desync);
        }
        let entry = self.entry(&name);
        if !std::mem::replace(&mut entry.subscribed, true) {
            self.subscribed[kind as usize] += 1;
            self.census.count_hub(kind, confirmed, 1);
        }
        let Some(number) = number else {
            self.restoring -= 1;
            return Ok(());
        };
        let Some(join) = self.joins.get_mut(&number) else {
            return Ok(()); // its client has got an error; its worker leaves
        };
        join.missing -= 1;
        let (worker, ticket, done) = (join.worker, join.ticket, join.missing == 0);
        include(&mut self.entry(&name).listening, worker);
        if done {
            self.joins.remove(&number);
            self.news.push((worker, Letter::Granted(ticket)));
        }
        Ok(())
    }

    fn end_subscription(&mut self, kind: Kind, ended: &[u8]) -> Result<(), Desync> {
        let asked = match self.sent.front() {
            Some(Sent::Unsubscribe(name, _)) => name.kind == kind && *name.bytes == *ended,
            _ => false,
        };
        if asked {
            let Some(Sent::Unsubscribe(name, leave)) = self.sent.pop_front() else {
                return Err(Desync);
            };
            self.finish_unsubscribe(&name, leave);
            return Ok(());
        }
        // The server ended it by itself: a shard channel whose slot has moved. Asked again, it says why.
        let name = Name {
            kind,
            bytes: ended.into(),
        };
        self.note_unsubscribed(&name);
        if !self.entry(&name).listening.is_empty() {
            self.restoring += 1;
            self.send(Sent::Subscribe(name, None));
        }
        Ok(())
    }

    fn finish_unsubscribe(&mut self, name: &Name, leave: Option<Leave>) {
        self.note_unsubscribed(name);
        // Whoever wants it again has a SUBSCRIBE behind this.
        self.entry(name).listening.clear();
        self.forget_unused(name);
        leave.into_iter().for_each(|leave| self.end(leave));
    }

    fn handle_error(&mut self, text: String) -> Result<(), Desync> {
        match self.sent.pop_front() {
            None => Err(Desync),
            Some(Sent::Subscribe(_, Some(number))) => {
                if let Some(join) = self.joins.remove(&number) {
                    let letter = Letter::Refused(join.ticket, Failure::Refused(text));
                    self.news.push((join.worker, letter));
                }
                Ok(())
            }
            Some(Sent::Subscribe(name, None)) => {
                self.restoring -= 1;
                for worker in std::mem::take(&mut self.entry(&name).listening) {
                    self.news.push((worker, Letter::Revoked(name.clone())));
                }
                Ok(())
            }
            // Whatever the server has against it, what was published before has come.
            Some(Sent::Unsubscribe(name, leave)) => {
                self.finish_unsubscribe(&name, leave);
                Ok(())
            }
            Some(Sent::Ping(leave)) => {
                leave.into_iter().for_each(|leave| self.end(leave));
                Ok(())
            }
        }
    }

    /// Refuses requests to join that have waited since `before` or longer.
    pub fn expire(&mut self, before: Tick, failure: &Failure) {
        self.joins.retain(|_, join| {
            let keep = join.since > before;
            if !keep {
                let letter = Letter::Refused(join.ticket, failure.clone());
                self.news.push((join.worker, letter));
            }
            keep
        });
    }

    /// The server will not have the user of this hub any more: whoever listens is told, and all requests
    /// to join are refused. Returns how many names were listened to.
    pub fn revoke(&mut self, failure: &Failure) -> usize {
        self.expire(Tick::MAX, failure);
        let mut revoked = 0;
        for kind in Kind::ALL {
            for (name, entry) in &mut self.names[kind as usize] {
                let listening = std::mem::take(&mut entry.listening);
                revoked += usize::from(!listening.is_empty());
                let bytes = name.clone();
                let letter = Letter::Revoked(Name { kind, bytes });
                let news = listening.into_iter().map(|to| (to, letter.clone()));
                self.news.extend(news);
            }
            self.names[kind as usize].retain(|_, entry| !entry.is_unused());
        }
        revoked
    }

    fn send_join(&mut self, number: u64) {
        let Some(join) = self.joins.get_mut(&number) else {
            return;
        };
        let entry = |name: &Name| self.names[name.kind as usize].get(&name.bytes);
        let is_wanted = |name| entry(name).is_some_and(|entry| entry.wanted.contains(&join.worker));
        // Its worker has left while there was no connection, and would not leave again.
        if !join.names.iter().all(is_wanted) {
            self.joins.remove(&number);
            return;
        }
        join.missing = join.names.len();
        for name in join.names.clone() {
            self.send(Sent::Subscribe(name, Some(number)));
        }
    }

    fn send(&mut self, command: Sent) {
        command.encode(&mut self.out);
        self.sent.push_back(command);
    }

    /// A worker has left.
    fn end(&mut self, leave: Leave) {
        for name in &leave.names {
            let entry = self.entry(name);
            entry.listening.retain(|known| *known != leave.worker);
            self.forget_unused(name);
        }
        if let Some(ticket) = leave.ticket {
            self.news.push((leave.worker, Letter::Granted(ticket)));
        }
    }

    fn note_unsubscribed(&mut self, name: &Name) {
        let entry = self.entry(name);
        if std::mem::take(&mut entry.subscribed) {
            self.subscribed[name.kind as usize] -= 1;
            self.census.count_hub(name.kind, &name.bytes, -1);
        }
        self.forget_unused(name);
    }

    fn entry(&mut self, name: &Name) -> &mut Entry {
        self.names[name.kind as usize]
            .entry(name.bytes.clone())
            .or_default()
    }

    fn forget_unused(&mut self, name: &Name) {
        let names = &mut self.names[name.kind as usize];
        if names.get(&name.bytes).is_some_and(Entry::is_unused) {
            names.remove(&name.bytes);
        }
    }
}

impl Entry {
    fn is_unused(&self) -> bool {
        self.wanted.is_empty() && self.listening.is_empty() && !self.subscribed
    }
}

/// Adds a worker once.
fn include(workers: &mut Vec<usize>, worker: usize) {
    if !workers.contains(&worker) {
        workers.push(worker);
    }
}
