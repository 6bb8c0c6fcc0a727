//! Reads that L1 may answer.

use std::ops::Range;
use std::task::Poll;

use super::{Env, Reads, Router, Row, Session, touch};
use crate::commands::{CommandId, Effect, Spec};
use crate::l1::entry::{Read, Scope};
use crate::l1::hot::{Event, Reason};
use crate::l1::shape::Shape;
use crate::l1::touched::Touched;
use crate::l1::{L1, Rule};
use crate::resp::request::{self, Kind, Limits, RequestScanner, Scan};
use crate::upstream::pipe::{Handling, ShownReads, Terms};

/// What became of a command on the hot path.
pub(super) enum Consulted {
    /// It goes to the upstream like any other.
    Travels,
    /// Its reply has been put out, or it has been sent.
    Done,
    /// Its answer is on its way; ask again.
    Waits,
}

/// A command and what follows it.
pub(super) struct At<'a> {
    pub input: &'a [u8],
    pub command: Range<usize>,
}

/// Reads that follow one that is waited for are ordered in advance, up to this many commands.
const MAX_PREFETCH: usize = 64;

impl At<'_> {
    fn command(&self) -> &[u8] {
        &self.input[self.command.clone()]
    }

    fn rest(&self) -> &[u8] {
        &self.input[self.command.end..]
    }
}

impl Session {
    /// Asks L1 for a command of the hot path, and notes what it touches if it travels.
    #[expect(clippy::too_many_arguments, reason = "the hot path's own state")]
    pub(super) fn consult<R: Router>(
        &mut self,
        l1: &L1,
        spec: &Spec,
        at: At<'_>,
        row: &mut Row,
        out: &mut Vec<u8>,
        env: &Env<'_>,
        router: &mut R,
    ) -> Consulted {
        let command = at.command();
        let writes = match spec.effect() {
            Effect::None => return Consulted::Travels,
            Effect::Reads => false,
            Effect::Writes => true,
            _ => {
                let args: Vec<&[u8]> = request::args(command).collect();
                touch::touch(l1, spec, &args, &mut row.touched);
                return Consulted::Travels;
            }
        };
        // The common form is not taken apart: one key, which is the first argument.
        let key = self.scanner.arg(1).filter(|_| spec.keys == touch::ONE_KEY);
        let key = key.map(|range| &command[range]);
        if let (false, Some(key)) = (writes, key)
            && (row.count > 0 || !self.pending.is_empty())
            && self.pass_unwatched(l1, spec, command, key, row, env)
        {
            return Consulted::Travels;
        }
        if !writes {
            let first = (
                self.scanner.arg(0),
                self.scanner.arg(1),
                self.scanner.argc(),
            );
            if let Some(reads) = self.reads(l1, spec, command, first) {
                // What was said before is answered by the server as it is now; so must be what follows.
                let in_flight = row.count > 0 || !self.pending.is_empty();
                if (in_flight && l1.keeps(Rule::StrictPipeline)) || self.is_subscriber() {
                    env.counters.l1_bypass_pipeline.add(1);
                    note_behind(env, &reads);
                } else {
                    match self.ask(l1, &reads, at.rest(), env, out, router) {
                        Poll::Ready(true) => return Consulted::Done,
                        Poll::Ready(false) => {}
                        Poll::Pending => return Consulted::Waits,
                    }
                }
                return self.send_past(l1, reads, &at, row, router);
            }
        }
        self.note_touched(l1, spec, command, key, row, env);
        Consulted::Travels
    }

    /// Notes what a command touches that travels and is none of the reads that L1 holds.
    fn note_touched(
        &self,
        l1: &L1,
        spec: &Spec,
        command: &[u8],
        key: Option<&[u8]>,
        row: &mut Row,
        env: &Env<'_>,
    ) {
        let Some(key) = key else {
            let args: Vec<&[u8]> = request::args(command).collect();
            return touch::touch(l1, spec, &args, &mut row.touched);
        };
        let writes = spec.effect() == Effect::Writes;
        let hash = l1.stamps.hash(key);
        if writes || !l1.observes() {
            row.touched.add(l1.stamps.place(hash), writes);
        }
        if let Some(hot) = env.hot {
            let event = match writes {
                true => Event::Write,
                false => Event::Bypass(Reason::Command),
            };
            hot.note(key, hash, event, command.len());
        }
    }

    /// A read behind others gets no hit; if its key was never kept either, there is nothing more to find out.
    fn pass_unwatched(
        &self,
        l1: &L1,
        spec: &Spec,
        command: &[u8],
        key: &[u8],
        row: &mut Row,
        env: &Env<'_>,
    ) -> bool {
        let hash = l1.stamps.hash(key);
        let place = l1.stamps.place(hash);
        if !l1.keeps(Rule::StrictPipeline) || l1.stamps.is_watched(place) {
            return false;
        }
        let reason = match l1.shapes.of(spec, self.scanner.argc()) {
            Some(_) => Reason::InFlight,
            None => Reason::Command,
        };
        env.counters
            .l1_bypass_pipeline
            .add(u64::from(reason == Reason::InFlight));
        if let Some(hot) = env.hot {
            hot.note(key, hash, Event::Bypass(reason), command.len());
        }
        if !l1.observes() {
            row.touched.add(place, false);
        }
        true
    }

    /// Sends a read past L1. One whose key L1 may know is a row of its own, so that its reply can be
    /// compared with what was given before.
    fn send_past<R: Router>(
        &mut self,
        l1: &L1,
        reads: Reads<'_>,
        at: &At<'_>,
        row: &mut Row,
        router: &mut R,
    ) -> Consulted {
        if l1.observes() {
            return Consulted::Travels;
        }
        match reads {
            Reads::One(read) if l1.stamps.is_watched(read.place) => {
                self.send_alone(&[read], ShownReads::One(read.hash), at, row, router);
                Consulted::Done
            }
            Reads::Many(reads) if reads.iter().any(|read| l1.stamps.is_watched(read.place)) => {
                let hashes = reads.iter().map(|read| read.hash).collect();
                self.send_alone(&reads, ShownReads::Each(hashes), at, row, router);
                Consulted::Done
            }
            Reads::One(read) => {
                row.touched.add(read.place, false);
                Consulted::Travels
            }
            Reads::Many(reads) => {
                for read in reads {
                    row.touched.add(read.place, false);
                }
                Consulted::Travels
            }
        }
    }

    fn send_alone<R: Router>(
        &mut self,
        reads: &[Read<'_>],
        hashes: ShownReads,
        at: &At<'_>,
        row: &mut Row,
        router: &mut R,
    ) {
        self.send_row(at.input, at.command.start, row, router);
        let mut touched = Touched::default();
        for read in reads {
            touched.add(read.place, false);
        }
        let terms = Terms {
            touched,
            reads: hashes,
            ..Handling::Pass.into()
        };
        self.forward(at.command(), 1, terms, router);
    }

    /// Asks L1. It is not waited for on behalf of a command behind which others stand that must travel.
    fn ask<R: Router>(
        &mut self,
        l1: &L1,
        reads: &Reads<'_>,
        rest: &[u8],
        env: &Env<'_>,
        out: &mut Vec<u8>,
        router: &mut R,
    ) -> Poll<bool> {
        let mut may_wait = || {
            let next = Behind::new(rest).next();
            next.is_none_or(|next| self.reads_behind(l1, next, env).is_some())
        };
        let answer = router.poll_read(reads, &mut may_wait, out);
        if answer.is_pending() {
            let mut behind = Behind::new(rest);
            for _ in 0..MAX_PREFETCH {
                let next = behind.next();
                match next.and_then(|next| self.reads_behind(l1, next, env)) {
                    Some(reads) => router.prefetch(&reads),
                    None => break,
                }
            }
        }
        answer
    }

    /// The reads that a command further behind consists of.
    fn reads_behind<'a>(
        &self,
        l1: &L1,
        (command, first): (&'a [u8], First),
        env: &Env<'a>,
    ) -> Option<Reads<'a>> {
        let spec = env.table.lookup(command.get(first.0.clone()?)?)?;
        (spec.effect() == Effect::Reads)
            .then(|| self.reads(l1, spec, command, first))
            .flatten()
    }

    /// The reads that a command consists of, if L1 holds such.
    fn reads<'a>(
        &self,
        l1: &L1,
        spec: &'a Spec,
        command: &'a [u8],
        (name, second, argc): First,
    ) -> Option<Reads<'a>> {
        let args = command.get(name?.end + 2..)?;
        if let Some(get) = l1.element_of(spec) {
            let keys = request::args(command).skip(1);
            let read = |key| {
                let args = bulk_around(command, key);
                self.read(l1, ("GET", 2), get, Shape::Plain, args, key)
            };
            return spec
                .accepts(argc as usize)
                .then(|| Reads::Many(keys.map(read).collect()));
        }
        let shape = l1.shapes.of(spec, argc)?;
        let key = match second {
            Some(range) if spec.keys == touch::ONE_KEY => command.get(range)?,
            _ => request::args(command).nth(1)?,
        };
        let call = (&*spec.name, argc);
        Some(Reads::One(self.read(l1, call, spec.id(), shape, args, key)))
    }

    fn read<'a>(
        &self,
        l1: &L1,
        call: (&'a str, u32),
        command: CommandId,
        shape: Shape,
        args: &'a [u8],
        key: &'a [u8],
    ) -> Read<'a> {
        let key_hash = l1.stamps.hash(key);
        let scope = match l1.keeps(Rule::Scope) {
            true => Scope {
                db: self.key.db,
                identity: self.key.identity,
            },
            false => Scope::default(),
        };
        let rest = match call.1 {
            ..=2 => 0,
            _ => l1.stamps.hash(args),
        };
        Read {
            scope,
            protocol: self.key.protocol,
            command,
            shape,
            call,
            args,
            key,
            key_hash,
            place: l1.stamps.place(key_hash),
            hash: l1.stamps.mix(key_hash, rest, &scope, command),
        }
    }
}

/// Reads that were not looked for, since their client has something in flight.
fn note_behind(env: &Env<'_>, reads: &Reads<'_>) {
    let Some(hot) = env.hot else { return };
    let reads = match reads {
        Reads::One(read) => std::slice::from_ref(read),
        Reads::Many(reads) => reads,
    };
    for read in reads {
        let what = Event::Bypass(Reason::InFlight);
        hot.note(read.key, read.key_hash, what, read.args.len());
    }
}

/// Where a command's name and first argument lie, and how many arguments it has.
type First = (Option<Range<usize>>, Option<Range<usize>>, u32);

/// The whole commands of an input, one after the other.
struct Behind<'a> {
    input: &'a [u8],
    scanner: RequestScanner,
}

impl<'a> Behind<'a> {
    fn new(input: &'a [u8]) -> Self {
        Self {
            input,
            scanner: RequestScanner::default(),
        }
    }

    fn next(&mut self) -> Option<(&'a [u8], First)> {
        if self.input.is_empty() {
            return None;
        }
        let Ok(Scan::Complete { consumed, kind }) =
            self.scanner.scan(self.input, &Limits::default())
        else {
            return None;
        };
        let (command, rest) = self.input.split_at(consumed);
        self.input = rest;
        let scanner = &self.scanner;
        let known = kind == Kind::Multibulk;
        let first = (
            scanner.arg(0).filter(|_| known),
            scanner.arg(1),
            scanner.argc(),
        );
        Some((command, first))
    }
}

/// The argument with its header and line end.
fn bulk_around<'a>(command: &'a [u8], argument: &[u8]) -> &'a [u8] {
    let at = (argument.as_ptr() as usize).saturating_sub(command.as_ptr() as usize);
    let end = (at + argument.len() + 2).min(command.len());
    let start = command[..at.min(command.len())]
        .iter()
        .rposition(|byte| *byte == b'$')
        .unwrap_or(0);
    &command[start..end]
}
