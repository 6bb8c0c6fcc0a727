//! The hub: whoever listens hears everything between its SUBSCRIBE and its UNSUBSCRIBE and nothing else,
//! every request is answered once, and a server that lies loses its connection.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use nearkey::hub::{Census, Hub, Kind, Letter, Name, Request};
use nearkey::resp::reply::{ReplyScan, ReplyScanner};
use nearkey::resp::request::{Limits, RequestScanner, Scan, args};
use nearkey::resp::{Protocol, encode};
use nearkey::upstream::reply_to::Failure;

use super::input::Input;

const WORKERS: usize = 3;
const NAMES: [&[u8]; 4] = [b"a", b"b", b"", b"\r\n$1"];

/// What a worker knows of one name.
#[derive(Clone, Copy, Default)]
struct Ear {
    /// Somebody there wants it.
    wants: bool,
    /// It has been told that it listens: what is published must come, as long as the connection is up.
    hears: bool,
    /// The latest message that came.
    heard: u64,
}

/// What a ticket stands for.
enum Asked {
    Join(usize, Vec<usize>),
    Leave,
    /// To join what its worker has left since: nobody minds.
    Nothing,
}

struct Bench {
    hub: Hub,
    census: Arc<Census>,
    ears: [[Ear; 12]; WORKERS],
    tickets: BTreeMap<u64, Asked>,
    next_ticket: u64,
    is_open: bool,
    /// The server's side: what it has subscribed, and what it has said that was not heard.
    subscribed: BTreeSet<usize>,
    said: VecDeque<Vec<u8>>,
    published: u64,
    now: u64,
    /// The server has lied: only what holds then is checked.
    lies: bool,
}

/// One run.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let census = Arc::new(Census::default());
    let mut bench = Bench {
        hub: Hub::new(census.clone()),
        census,
        ears: Default::default(),
        tickets: BTreeMap::new(),
        next_ticket: 0,
        is_open: false,
        subscribed: BTreeSet::new(),
        said: VecDeque::new(),
        published: 0,
        now: 0,
        lies: false,
    };
    let mut lies = frames(input.body).into_iter();
    while !input.is_done() {
        let (step, what) = (input.next(), input.next());
        bench.now += 1;
        match step % 16 {
            0..4 => bench.join(what),
            4..6 => bench.leave(what, step & 16 != 0),
            6..8 => bench.publish(usize::from(what) % 12),
            8..12 => bench.hear(usize::from(what & 3) + 1),
            12 => bench.open(),
            13 => bench.lose(),
            14 => bench.expire(u64::from(what & 3)),
            _ => match (what & 3, lies.next()) {
                (0, Some(frame)) => bench.lie(&frame),
                (1, _) if bench.is_open => bench.hub.ping(),
                _ => {}
            },
        }
        bench.serve();
    }
    bench.finish();
}

/// Frames of the body that are whole.
fn frames(body: &[u8]) -> Vec<Vec<u8>> {
    let (mut scanner, mut found, mut rest) = (ReplyScanner::new(), Vec::new(), body);
    while let (false, Ok(ReplyScan::Complete { consumed, .. })) =
        (rest.is_empty(), scanner.scan(rest))
    {
        found.push(rest[..consumed].to_vec());
        rest = &rest[consumed..];
    }
    found
}

fn name(number: usize) -> Name {
    Name {
        kind: Kind::ALL[number / 4],
        bytes: NAMES[number % 4].into(),
    }
}

fn number(name: &Name) -> usize {
    let at = NAMES.iter().position(|known| **known == *name.bytes);
    name.kind as usize * 4 + at.expect("a name that was asked for")
}

impl Bench {
    fn ticket(&mut self, asked: Asked) -> u64 {
        self.next_ticket += 1;
        self.tickets.insert(self.next_ticket, asked);
        self.next_ticket
    }

    fn join(&mut self, what: u8) {
        let (worker, first) = (usize::from(what) % WORKERS, usize::from(what / 3) % 12);
        let mut numbers = vec![first];
        if what & 64 != 0 {
            numbers.push((first + 1) % 12);
        }
        for number in &numbers {
            self.ears[worker][*number].wants = true;
        }
        let names = numbers.iter().map(|number| name(*number)).collect();
        let ticket = self.ticket(Asked::Join(worker, numbers));
        self.hub
            .handle_request(worker, Request::Join { ticket, names }, self.now);
    }

    fn leave(&mut self, what: u8, silently: bool) {
        let worker = usize::from(what) % WORKERS;
        let wanted = (0..12).filter(|number| self.ears[worker][*number].wants);
        let numbers: Vec<usize> = wanted.skip(usize::from((what / 3) & 1)).take(3).collect();
        if numbers.is_empty() {
            return;
        }
        for number in &numbers {
            self.ears[worker][*number] = Ear::default();
        }
        for asked in self.tickets.values_mut() {
            if matches!(asked, Asked::Join(who, names) if *who == worker && names.iter().any(|name| numbers.contains(name)))
            {
                *asked = Asked::Nothing;
            }
        }
        let names = numbers.iter().map(|number| name(*number)).collect();
        let ticket = (!silently).then(|| self.ticket(Asked::Leave));
        self.hub
            .handle_request(worker, Request::Leave { ticket, names }, self.now);
    }

    /// Somebody publishes; the server tells whoever has subscribed by now.
    fn publish(&mut self, number: usize) {
        self.published += 1;
        if !self.subscribed.contains(&number) {
            return;
        }
        let words: [&[u8]; 3] = [b"message", b"pmessage", b"smessage"];
        let Name { kind, bytes } = name(number);
        let mut frame = Vec::new();
        let count = if kind == Kind::Pattern { 4 } else { 3 };
        encode::push_header(&mut frame, count, Protocol::Resp2);
        encode::bulk(&mut frame, words[kind as usize]);
        encode::bulk(&mut frame, &bytes);
        if kind == Kind::Pattern {
            encode::bulk(&mut frame, b"channel");
        }
        encode::bulk(&mut frame, self.published.to_string().as_bytes());
        self.said.push_back(frame);
    }

    fn open(&mut self) {
        if !self.is_open {
            self.is_open = true;
            self.hub.handle_open();
        }
    }

    /// The connection is gone: nobody hears what is published until it is restored.
    fn lose(&mut self) {
        if !std::mem::take(&mut self.is_open) {
            return;
        }
        self.subscribed.clear();
        self.said.clear();
        self.hub.handle_lost();
        assert!(!self.hub.is_owed());
    }

    fn expire(&mut self, age: u64) {
        let failure = Failure::Unreachable("it is down".to_owned());
        self.hub.expire(self.now.saturating_sub(age), &failure);
    }

    /// The server takes the hub's commands and answers them in order.
    fn serve(&mut self) {
        let out = self.hub.take_output();
        let mut rest = &out[..];
        while !rest.is_empty() {
            let scan = RequestScanner::new().scan(rest, &Limits::default());
            let Ok(Scan::Complete { consumed, .. }) = scan else {
                panic!("the hub says whole commands");
            };
            let words: Vec<&[u8]> = args(&rest[..consumed]).collect();
            self.execute(&words);
            rest = &rest[consumed..];
        }
        if !self.is_open {
            assert!(out.is_empty(), "nothing is said without a connection");
        }
        self.deliver(&[]);
    }

    fn execute(&mut self, words: &[&[u8]]) {
        let word = words[0].to_ascii_lowercase();
        if word == b"ping" {
            self.said
                .push_back(b"*2\r\n$4\r\npong\r\n$0\r\n\r\n".to_vec());
            return;
        }
        let is = |said: &str| said.as_bytes() == word;
        let joins = Kind::ALL.into_iter().find(|kind| is(kind.subscribe()));
        let leaves = Kind::ALL.into_iter().find(|kind| is(kind.unsubscribe()));
        let kind = joins.or(leaves).expect("a command of a hub");
        let number = number(&Name {
            kind,
            bytes: words[1].into(),
        });
        match joins {
            Some(_) => self.subscribed.insert(number),
            None => self.subscribed.remove(&number),
        };
        let mut frame = Vec::new();
        encode::push_header(&mut frame, 3, Protocol::Resp2);
        encode::bulk(&mut frame, &word);
        encode::bulk(&mut frame, words[1]);
        encode::integer(&mut frame, 1);
        self.said.push_back(frame);
    }

    /// What the server has said arrives.
    fn hear(&mut self, most: usize) {
        for _ in 0..most {
            let Some(frame) = self.said.pop_front() else {
                return;
            };
            let heard = self.hub.handle_frame(&frame, 0..frame.len());
            assert!(heard.is_ok() || self.lies, "an honest server is understood");
            if heard.is_err() {
                return self.lose();
            }
            self.deliver(&frame);
            self.serve();
        }
    }

    /// The server says what nobody asked for.
    fn lie(&mut self, frame: &[u8]) {
        if !self.is_open {
            return;
        }
        self.lies = true;
        if self.hub.handle_frame(frame, 0..frame.len()).is_err() {
            self.lose();
        }
        self.deliver(frame);
    }

    fn deliver(&mut self, frame: &[u8]) {
        for (worker, letter) in self.hub.take_news() {
            match letter {
                Letter::Message {
                    kind,
                    name,
                    frame: whole,
                } => {
                    assert_eq!(whole, 0..frame.len());
                    if !self.lies {
                        let bytes = frame[name].into();
                        self.note_message(worker, number(&Name { kind, bytes }), frame);
                    }
                }
                Letter::Granted(ticket) => {
                    let asked = self.tickets.remove(&ticket);
                    if let Asked::Join(worker, numbers) =
                        asked.expect("each request is answered once")
                    {
                        self.grant(worker, &numbers);
                    }
                }
                Letter::Refused(ticket, _) => {
                    let asked = self.tickets.remove(&ticket);
                    let asked = asked.expect("each request is answered once");
                    assert!(!matches!(asked, Asked::Leave), "leaving is never refused");
                }
                Letter::Revoked(_) => assert!(self.lies, "an honest server revokes nothing"),
            }
        }
    }

    /// From here on everything must come.
    fn grant(&mut self, worker: usize, numbers: &[usize]) {
        for number in numbers {
            let ear = &mut self.ears[worker][*number];
            // Its client may have left again meanwhile.
            ear.hears |= ear.wants;
        }
    }

    fn note_message(&mut self, worker: usize, number: usize, frame: &[u8]) {
        let text = frame.trim_ascii_end();
        let at = text
            .iter()
            .rposition(|byte| *byte == b'\n')
            .expect("a bulk")
            + 1;
        let serial: u64 = std::str::from_utf8(&text[at..])
            .expect("text")
            .parse()
            .expect("a number");
        let ear = &mut self.ears[worker][number];
        assert!(serial > ear.heard, "each message comes once, in order");
        ear.heard = serial;
    }

    /// Everything is served to its end: nobody waits any more, and whoever listens hears.
    fn finish(&mut self) {
        self.open();
        self.serve();
        self.hear(usize::MAX);
        if !self.is_open {
            self.open();
            self.serve();
            self.hear(usize::MAX);
        }
        if self.lies {
            return;
        }
        let waits = |asked: &Asked| !matches!(asked, Asked::Nothing);
        assert!(
            !self.tickets.values().any(waits),
            "every request is answered"
        );
        assert!(!self.hub.is_owed() && !self.hub.has_joins() && self.hub.restoring() == 0);
        let last = self.published;
        (0..12).for_each(|number| self.publish(number));
        self.hear(usize::MAX);
        for (number, ear) in self.ears.iter().flat_map(|ears| ears.iter().enumerate()) {
            assert!(
                !ear.hears || ear.heard == last + 1 + number as u64,
                "whoever listens hears"
            );
            assert!(ear.wants || ear.heard <= last, "nobody else does");
        }
        for worker in 0..WORKERS {
            let names = (0..12)
                .filter(|number| self.ears[worker][*number].wants)
                .map(name)
                .collect();
            self.hub.handle_request(
                worker,
                Request::Leave {
                    ticket: None,
                    names,
                },
                self.now,
            );
        }
        self.serve();
        self.hear(usize::MAX);
        assert!(!self.hub.is_wanted() && self.hub.subscribed() == [0; 3]);
        for number in 0..12 {
            let Name { kind, bytes } = name(number);
            assert_eq!(
                self.census.adjust(kind, &bytes, 7),
                7,
                "nothing is counted that is gone"
            );
        }
    }
}
