//! The in-flight queue: each reply goes to the owner of its command, whatever the server sends and
//! whenever; if that cannot be, the connection is closed and everybody who waits is known.

use std::collections::VecDeque;

use nearkey::resp::reply::{ReplyKind, ReplyScan, ReplyScanner};
use nearkey::upstream::outbox::Outbox;
use nearkey::upstream::pipe::{Handling, Pipe, Run, Terms};

use super::input::{Input, expand};

/// A row of commands, as the fuzzer knows it.
struct Row {
    owned: bool,
    /// Replies still owed, and of them those that are hidden.
    owed: u32,
    hidden: u32,
    bytes: usize,
    /// What its owner must have got, and has.
    due: Vec<u8>,
    got: Vec<u8>,
    completed: u32,
    due_replies: u32,
}

/// The pipe, and what it must do.
#[derive(Default)]
struct Bench {
    pipe: Pipe<usize>,
    outbox: Outbox,
    rows: Vec<Row>,
    /// Those that wait, the oldest first.
    waiting: VecDeque<usize>,
    written: usize,
    queued: usize,
    pushes: (Vec<u8>, Vec<u8>),
    monitor: bool,
    /// What a second scanner makes of the same bytes, and where its frame began.
    scanner: ReplyScanner,
    frame: Vec<u8>,
    kept: Vec<u8>,
    latest: usize,
}

/// One run.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let body = expand(input.body);
    let mut bench = Bench::default();
    let mut rest = &body[..];
    if input.next() & 1 == 0 {
        // Mostly somebody waits.
        for seed in [3, 40, 77, 114, 151, 188] {
            bench.enter(seed);
        }
        bench.write(usize::MAX);
    }
    while !rest.is_empty() {
        let step = input.next();
        if input.is_done() {
            for seed in [1, 42, 83, 124, 165, 206, 247] {
                bench.enter(seed);
            }
            bench.write(usize::MAX);
            if !bench.feed(rest) {
                return;
            }
            break;
        }
        match step {
            0..96 => bench.enter(step),
            96..128 => bench.write(usize::from(step & 31)),
            128..144 => bench.write(usize::MAX),
            144..160 => bench.bury(usize::from(step & 15)),
            160..162 => bench.watch(),
            _ => {
                let (chunk, behind) = rest.split_at(input.chunk(rest.len()));
                rest = behind;
                if !bench.feed(chunk) {
                    return;
                }
            }
        }
    }
    bench.check();
}

impl Bench {
    /// Commands of somebody enter.
    fn enter(&mut self, seed: u8) {
        let owed = u32::from(seed & 3) + 1;
        let hidden = match seed >> 2 & 3 {
            0 => owed - 1,
            1 if seed & 64 != 0 => owed,
            _ => 0,
        };
        let bytes = usize::from(seed >> 4 & 3) * 3 + 1;
        let number = self.rows.len();
        let owned = seed & 32 == 0;
        self.rows.push(Row {
            owned,
            owed,
            hidden,
            bytes,
            due: Vec::new(),
            got: Vec::new(),
            completed: 0,
            due_replies: 0,
        });
        self.waiting.push_back(number);
        self.outbox.push(&vec![b'x'; bytes]);
        self.queued += bytes;
        let mut terms = Terms::from(Handling::Pass);
        terms.hidden = hidden;
        self.pipe.push(Run {
            owner: owned.then_some(number),
            terms,
            is_unit: hidden > 0,
            owed,
            bytes,
            since: 0,
            retried: false,
        });
    }

    /// Some of the commands reach the socket.
    fn write(&mut self, most: usize) {
        let n = self.outbox.unwritten().len().min(most);
        self.outbox.handle_written(n);
        self.written += n;
    }

    /// Somebody goes away.
    fn bury(&mut self, at: usize) {
        let Some(number) = self.waiting.get(at).copied() else {
            return;
        };
        // Whoever goes has read a part of its reply, or none.
        let row = &mut self.rows[number];
        row.owned = false;
        row.due = row.got.clone();
        row.due_replies = row.completed;
        self.pipe.iter_mut().nth(at).expect("it waits").owner = None;
    }

    fn watch(&mut self) {
        self.monitor = true;
        self.pipe.set_monitor();
    }

    /// The server sends something; false if the connection must be closed for it.
    fn feed(&mut self, chunk: &[u8]) -> bool {
        let in_step = self.expect(chunk);
        let scanned = self.kept.len();
        self.kept.extend_from_slice(chunk);
        let (rows, pushes, latest) = (&mut self.rows, &mut self.pushes.1, &mut self.latest);
        let kept = &self.kept;
        let done = self
            .pipe
            .handle_input(kept, scanned, &mut self.outbox, |run, piece| {
                assert!(piece.range.end <= kept.len());
                let bytes = &kept[piece.range];
                let Some(run) = run else {
                    return pushes.extend_from_slice(bytes);
                };
                if let Some(number) = run.owner {
                    assert!(number >= *latest, "owners are served in order");
                    *latest = number;
                    rows[number].got.extend_from_slice(bytes);
                    rows[number].completed += piece.completed;
                }
            });
        match (done, in_step) {
            (Ok((consumed, _)), true) => {
                self.kept.drain(..consumed);
                self.check();
                true
            }
            (Err(_), false) => {
                let lost: Vec<_> = self.pipe.take().into_iter().collect();
                assert!(self.pipe.is_empty());
                assert_eq!(self.pipe.len(), 0);
                assert!(
                    lost.len() + 1 >= self.waiting.len(),
                    "whoever waits is known"
                );
                // A long reply that goes wrong further on has been passed on in part: its client is closed.
                for row in self.rows.iter().filter(|row| row.owned) {
                    assert!(row.due.starts_with(&row.got) || row.got.starts_with(&row.due));
                }
                false
            }
            (done, in_step) => panic!("{done:?}, but in step: {in_step}"),
        }
    }

    /// What must come of these bytes; false if they are out of step.
    fn expect(&mut self, chunk: &[u8]) -> bool {
        let mut rest = chunk;
        while !rest.is_empty() {
            match self.scanner.scan(rest) {
                Err(_) => return false,
                Ok(ReplyScan::Incomplete) => {
                    self.frame.extend_from_slice(rest);
                    let is_push = self.scanner.is_push() || self.monitor;
                    return is_push || !self.waiting.is_empty();
                }
                Ok(ReplyScan::Complete { consumed, kind }) => {
                    self.frame.extend_from_slice(&rest[..consumed]);
                    rest = &rest[consumed..];
                    if !self.expect_frame(kind) {
                        return false;
                    }
                    self.frame.clear();
                }
            }
        }
        true
    }

    fn expect_frame(&mut self, kind: ReplyKind) -> bool {
        let Some(number) = self.waiting.front().copied() else {
            if kind == ReplyKind::Push || self.monitor {
                self.pushes.0.extend_from_slice(&self.frame);
                return true;
            }
            return false;
        };
        if kind == ReplyKind::Push {
            self.pushes.0.extend_from_slice(&self.frame);
            return true;
        }
        let row = &mut self.rows[number];
        row.owed -= 1;
        if row.hidden > 0 {
            row.hidden -= 1;
        } else if row.owned {
            row.due.extend_from_slice(&self.frame);
            row.due_replies += 1;
        }
        if row.owed == 0 {
            self.waiting.pop_front();
            if row.bytes > self.written {
                return false; // the answer to what was not said
            }
            self.written -= row.bytes;
        }
        true
    }

    /// Everybody has got what is theirs, and at most the beginning of one reply more.
    fn check(&self) {
        let owed: u32 = self.rows.iter().map(|row| row.owed).sum();
        assert_eq!(self.pipe.len(), owed as usize);
        assert_eq!(self.pipe.is_empty(), self.waiting.is_empty());
        assert!(
            self.pushes.1.starts_with(&self.pushes.0),
            "pushes are handed on"
        );
        for (number, row) in self.rows.iter().enumerate().filter(|(_, row)| row.owned) {
            let more = row
                .got
                .strip_prefix(&row.due[..])
                .expect("what is due has come");
            let is_front = self.waiting.front() == Some(&number);
            assert!(
                more.is_empty() || (is_front && self.frame.starts_with(more)),
                "of one reply only"
            );
            assert_eq!(row.completed, row.due_replies);
        }
    }
}
