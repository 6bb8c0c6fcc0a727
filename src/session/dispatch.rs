//! What becomes of a command that is not on the hot path.

use std::task::Poll;

use super::{Env, Kind, ReplyMode, Router, Session, Verdict, errors, handling_of, local};
use crate::commands::{self, Class, CommandTable, Flags, Spec};
use crate::resp::{encode, inline, request};
use crate::upstream::pipe::Handling;

impl Session {
    /// Any command that is not on the hot path.
    pub(super) fn handle_command<R: Router>(
        &mut self,
        command: &[u8],
        kind: Kind,
        out: &mut Vec<u8>,
        env: &Env<'_>,
        router: &mut R,
    ) -> Verdict {
        match kind {
            Kind::Empty => Verdict::Done,
            Kind::Multibulk => {
                let args: Vec<&[u8]> = request::args(command).collect();
                self.handle_args(command, &args, out, env, router)
            }
            Kind::Inline => match inline::split(trim_line(command)) {
                Ok(words) if words.is_empty() => Verdict::Done,
                Ok(words) => {
                    let args: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
                    let mut multibulk = Vec::with_capacity(command.len() + 16 * args.len());
                    encode::command(&mut multibulk, &args);
                    self.handle_args(&multibulk, &args, out, env, router)
                }
                Err(e) => {
                    let mut reply = Vec::new();
                    encode::error(&mut reply, errors::protocol(&e.0));
                    self.pending.put(&reply, out);
                    env.counters.clients_closed_protocol.add(1);
                    Verdict::Close
                }
            },
        }
    }

    fn handle_args<R: Router>(
        &mut self,
        command: &[u8],
        args: &[&[u8]],
        out: &mut Vec<u8>,
        env: &Env<'_>,
        router: &mut R,
    ) -> Verdict {
        let Some(spec) = env.table.lookup(args[0]) else {
            return self.handle_unknown(None, args, out, env, router);
        };
        if !self.authenticated && !local::allowed_before_auth(spec) {
            // Redis looks at the number of arguments first.
            let arity = (!spec.accepts(args.len())).then(|| errors::wrong_arity(&spec.name));
            let text = arity.unwrap_or_else(|| errors::NOAUTH.to_owned());
            return self.answer_refused(text, out, env);
        }
        if spec.is_container()
            && let Some(sub) = args.get(1)
            && env.table.subcommand(spec, sub).is_none()
        {
            return self.handle_unknown(Some(spec), args, out, env, router);
        }
        if let Some(text) = self.gate(env.table, spec, args) {
            return self.answer_refused(text, out, env);
        }
        let class = commands::classify(env.table, spec, args.iter().copied());
        if class == Class::Local {
            return self.handle_local(spec, args, out, env, router);
        }
        if class == Class::Blocking && !waits(spec, args, env) {
            return self.lease_once(spec, command, out, env, router);
        }
        if class == Class::Subscribe {
            return self.subscribe(spec, args, out, env, router);
        }
        if class != Class::Shared {
            return self.answer_refused(errors::refused(class, spec, args), out, env);
        }
        if &*spec.name == "INFO" && args.len() == 2 && args[1].eq_ignore_ascii_case(b"nearkey") {
            return self.handle_local(spec, args, out, env, router);
        }
        if self.must_drain && self.pending.owed() > 0 {
            return Verdict::Hold;
        }
        self.must_drain = false;
        self.last_command = spec.id();
        let handling = match self.take_reply_mode() {
            ReplyMode::On => handling_of(spec, args),
            _ => Handling::Discard,
        };
        self.forward(command, 1, handling.into(), router);
        Verdict::Done
    }

    /// A command that must not stand behind others, or others behind it, though it does not wait: it
    /// travels alone.
    fn lease_once<R: Router>(
        &mut self,
        spec: &Spec,
        command: &[u8],
        out: &mut Vec<u8>,
        env: &Env<'_>,
        router: &mut R,
    ) -> Verdict {
        if self.pending.owed() > 0 {
            return Verdict::Hold;
        }
        match router.poll_lease(self.key) {
            Poll::Pending => return Verdict::Hold,
            Poll::Ready(Err(text)) => return self.answer_refused(text, out, env),
            Poll::Ready(Ok(())) => {}
        }
        self.last_command = spec.id();
        self.must_drain = true;
        self.pending.expect(1);
        let visible = self.take_reply_mode() == ReplyMode::On;
        let handling = if visible {
            Handling::Pass
        } else {
            Handling::Discard
        };
        router.forward_leased(command, 1, handling.into());
        Verdict::Done
    }

    /// A name that the table does not know: ask the server once, then answer in Redis's words.
    fn handle_unknown<R: Router>(
        &mut self,
        container: Option<&Spec>,
        args: &[&[u8]],
        out: &mut Vec<u8>,
        env: &Env<'_>,
        router: &mut R,
    ) -> Verdict {
        if is_http(args[0]) {
            env.counters.clients_closed_protocol.add(1);
            return Verdict::Drop;
        }
        if !self.authenticated {
            // Nobody opens a connection to the server for a client that has proven nothing.
            return self.answer_refused(errors::unknown(args), out, env);
        }
        match router.poll_facts(self.key) {
            Poll::Pending => Verdict::Hold,
            // The table that came with the facts is used from the next call on.
            Poll::Ready(Some(facts)) if knows(&facts.table, args) => Verdict::Hold,
            Poll::Ready(Some(facts)) if facts.lists_commands => {
                let text = match container {
                    Some(spec) => errors::unknown_subcommand(&spec.name, args[1]).into_bytes(),
                    None => errors::unknown(args),
                };
                self.answer_refused(text, out, env)
            }
            Poll::Ready(_) => self.answer_refused(errors::unlisted(args), out, env),
        }
    }

    fn handle_local<R: Router>(
        &mut self,
        spec: &Spec,
        args: &[&[u8]],
        out: &mut Vec<u8>,
        env: &Env<'_>,
        router: &mut R,
    ) -> Verdict {
        if !spec.accepts(args.len()) {
            return self.answer_refused(errors::wrong_arity(&spec.name), out, env);
        }
        let mut reply = Vec::new();
        let verdict = self.execute(spec, args, &mut reply, env, router);
        if matches!(verdict, Verdict::Hold) {
            return verdict;
        }
        env.counters.commands_local.add(1);
        if self.take_reply_mode() == ReplyMode::On {
            self.pending.put(&reply, out);
        }
        verdict
    }

    /// The reply mode for the command at hand; `SKIP` ends with it.
    pub(super) fn take_reply_mode(&mut self) -> ReplyMode {
        let mode = self.reply_mode;
        self.reply_mode = match mode {
            ReplyMode::SkipThis => ReplyMode::SkipNext,
            ReplyMode::SkipNext | ReplyMode::On => ReplyMode::On,
            ReplyMode::Off => ReplyMode::Off,
        };
        mode
    }

    pub(super) fn answer_refused(
        &mut self,
        error: impl AsRef<[u8]>,
        out: &mut Vec<u8>,
        env: &Env<'_>,
    ) -> Verdict {
        env.counters.commands_refused.add(1);
        if self.take_reply_mode() == ReplyMode::On {
            let mut reply = Vec::new();
            encode::error(&mut reply, error);
            self.pending.put(&reply, out);
        }
        Verdict::Done
    }
}

/// Whether the table has the command, and the subcommand where the command has some.
fn knows(table: &CommandTable, args: &[&[u8]]) -> bool {
    table.lookup(args[0]).is_some_and(|spec| match args.get(1) {
        Some(sub) if spec.is_container() => table.subcommand(spec, sub).is_some(),
        _ => true,
    })
}

/// Whether a command of the class Blocking is one that really waits.
fn waits(spec: &Spec, args: &[&[u8]], env: &Env<'_>) -> bool {
    let sub = args.get(1).and_then(|sub| env.table.subcommand(spec, sub));
    sub.unwrap_or(spec).flags.contains(Flags::BLOCKING)
}

/// The first word of an HTTP request that is taken for a command, as Redis has it.
fn is_http(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"POST") || name.eq_ignore_ascii_case(b"Host:")
}

/// The line without its end.
fn trim_line(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}
