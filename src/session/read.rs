//! Reads that L1 may answer.

use std::task::Poll;

use super::{Env, Reads, Router, Row, Session, touch};
use crate::commands::{CommandId, Effect, Spec};
use crate::l1::entry::{Read, Scope};
use crate::l1::shape::Shape;
use crate::l1::{L1, Rule};
use crate::resp::request;

/// What became of a command on the hot path.
pub(super) enum Consulted {
    /// It goes to the upstream like any other.
    Travels,
    /// Its reply has been put out.
    Answered,
    /// Its answer is on its way; ask again.
    Waits,
}

impl Session {
    /// Asks L1 for a command of the hot path, and notes what it touches if it travels.
    #[expect(clippy::too_many_arguments, reason = "the hot path's own state")]
    pub(super) fn consult<R: Router>(
        &mut self,
        l1: &L1,
        spec: &Spec,
        command: &[u8],
        row: &mut Row,
        out: &mut Vec<u8>,
        env: &Env<'_>,
        router: &mut R,
    ) -> Consulted {
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
        let key = match spec.keys == touch::ONE_KEY {
            true => self.scanner.arg(1).map(|range| &command[range]),
            false => None,
        };
        if !writes && let Some(consulted) = self.look(l1, spec, command, key, row, out, env, router)
        {
            return consulted;
        }
        match key {
            Some(key) => {
                let place = l1.stamps.place(l1.stamps.hash(key));
                if writes || !l1.observes() {
                    row.touched.add(place, writes);
                }
            }
            None => {
                let args: Vec<&[u8]> = request::args(command).collect();
                touch::touch(l1, spec, &args, &mut row.touched);
            }
        }
        Consulted::Travels
    }

    /// Asks L1 for a read; `None` if it holds no such reads, or does not know.
    #[expect(clippy::too_many_arguments, reason = "the hot path's own state")]
    fn look<R: Router>(
        &mut self,
        l1: &L1,
        spec: &Spec,
        command: &[u8],
        key: Option<&[u8]>,
        row: &Row,
        out: &mut Vec<u8>,
        env: &Env<'_>,
        router: &mut R,
    ) -> Option<Consulted> {
        let reads = self.reads(l1, spec, command, key)?;
        // What was said before is answered by the server as it is now; so must be what follows.
        let in_flight = row.count > 0 || !self.pending.is_empty();
        if (in_flight && l1.keeps(Rule::StrictPipeline)) || self.is_subscriber() {
            env.counters.l1_bypass_pipeline.add(1);
            return None;
        }
        match router.poll_read(&reads, out) {
            Poll::Ready(true) => Some(Consulted::Answered),
            Poll::Ready(false) => None,
            Poll::Pending => Some(Consulted::Waits),
        }
    }

    /// The reads that a command consists of, if L1 holds such.
    fn reads<'a>(
        &self,
        l1: &L1,
        spec: &'a Spec,
        command: &'a [u8],
        key: Option<&'a [u8]>,
    ) -> Option<Reads<'a>> {
        let argc = self.scanner.argc();
        let rest = self.scanner.arg(0)?.end + 2;
        let args = command.get(rest..)?;
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
        let shape = l1.shapes.of(spec, argc, args)?;
        let key = match key {
            Some(key) => key,
            None => request::args(command).nth(1)?,
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
