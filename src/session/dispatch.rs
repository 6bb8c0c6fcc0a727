//! What becomes of a command that is not on the hot path.

use std::task::Poll;

use super::special::Pin;
use super::{Env, Kind, ReplyMode, Router, Session, Verdict, errors, handling_of, local, touch};
use crate::commands::{self, Class, CommandTable, Spec};
use crate::control::Paused;
use crate::l1::touched::Touched;
use crate::resp::{encode, inline, request};
use crate::sabotage::{self, Bug};
use crate::upstream::pipe::{Handling, Terms};

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
        if self.is_judging() {
            return Verdict::Hold;
        }
        let Some(spec) = env.table.lookup(args[0]) else {
            return self.handle_unknown(None, command, args, out, env, router);
        };
        if !self.authenticated && !local::allowed_before_auth(spec) {
            // Redis looks at the number of arguments first.
            let arity = (!spec.accepts(args.len())).then(|| errors::wrong_arity(&spec.name));
            let text = arity.unwrap_or_else(|| errors::NOAUTH.to_owned());
            return self.answer_refused(text, out, env);
        }
        if spec.is_container()
            && !matches!(spec.class, Class::Blocking | Class::Refused)
            && let Some(sub) = args.get(1)
            && env.table.subcommand(spec, sub).is_none()
            && !spec.is_of_proxy()
        {
            return self.handle_unknown(Some(spec), command, args, out, env, router);
        }
        if let Some(text) = self.gate(env.table, spec, args) {
            return self.answer_refused(text, out, env);
        }
        let class = commands::classify(env.table, spec, args.iter().copied());
        let exact = exact(spec, args, env);
        if self.has_pin(Pin::Monitor) && class != Class::Local {
            return self.refuse_under_monitor(exact, class, args, out, env);
        }
        if self.in_transaction() && !leaves_queue(spec) {
            return self.queue(Some((exact, class)), command, args, out, env);
        }
        if self.must_pause(exact, class, env) {
            return Verdict::Hold;
        }
        match class {
            Class::Local
                if self.moves_lease() && &*spec.name == "SELECT" && exact.accepts(args.len()) =>
            {
                self.select_pinned(spec, command, args, out, env, router)
            }
            Class::Local if self.is_for_server(exact) => {
                self.send(exact, command, Touched::default(), router)
            }
            Class::Local => self.handle_local(spec, args, out, env, router),
            Class::Transaction => self.transaction(spec, args, out, env, router),
            Class::Watch => self.watch(spec, command, args, out, env, router),
            Class::Blocking => {
                let touched = touch::touched(env, exact, args);
                self.lease_once(exact, command, touched, out, env, router)
            }
            Class::Pinned => self.enter_state(exact, command, args, out, env, router),
            Class::Shared if asks_proxy(spec, args) => {
                self.handle_local(spec, args, out, env, router)
            }
            Class::Shared => {
                let touched = touch::touched(env, exact, args);
                self.send(exact, command, touched, router)
            }
            Class::Refused => self.answer_refused(errors::denied(spec, args), out, env),
            Class::Subscribe => self.subscribe(spec, args, out, env, router),
        }
    }

    /// What the session answers itself, but for the state of its own connection to the server.
    fn is_for_server(&self, spec: &Spec) -> bool {
        let forwarded = sabotage::is(Bug::ReplyForwarded) && &*spec.name == "CLIENT|REPLY";
        forwarded || (self.is_tracked() && tells_tracking(spec))
    }

    /// Sends a command that needs no connection of its own where the session's commands go.
    pub(super) fn send<R: Router>(
        &mut self,
        spec: &Spec,
        command: &[u8],
        touched: Touched,
        router: &mut R,
    ) -> Verdict {
        let pinned = self.is_pinned();
        if !pinned && self.must_drain && self.pending.owed() > 0 {
            return Verdict::Hold;
        }
        self.must_drain = false;
        self.last_command = spec.id();
        let handling = match self.take_reply_mode() {
            ReplyMode::On => handling_of(spec),
            _ => Handling::Discard,
        };
        let terms = Terms {
            touched,
            ..handling.into()
        };
        if pinned {
            self.send_leased(command, 1, terms, router);
        } else {
            self.forward(command, 1, terms, router);
        }
        Verdict::Done
    }

    /// A name that the table does not know: ask the server once, then answer in Redis's words.
    fn handle_unknown<R: Router>(
        &mut self,
        container: Option<&Spec>,
        command: &[u8],
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
        if env.paused == Paused::All {
            return Verdict::Hold;
        }
        match router.poll_facts(self.key) {
            Poll::Pending => Verdict::Hold,
            // The table that came with the facts is used from the next call on.
            Poll::Ready(Some(facts)) if knows(&facts.table, args) => Verdict::Hold,
            // What is about the client's own connection, and the server has not, needs no server: clients
            // greet with such things, and must be able to while it is away.
            Poll::Ready(_) if container.is_some_and(|spec| &*spec.name == "CLIENT") => {
                self.abort_transaction();
                let text = errors::unknown_subcommand("CLIENT", args[1]);
                self.answer_refused(text.into_bytes(), out, env)
            }
            Poll::Ready(facts) if self.in_transaction() => {
                if !facts.is_some_and(|facts| facts.lists_commands) {
                    return self.queue(None, command, args, out, env);
                }
                self.abort_transaction();
                let text = match container {
                    Some(spec) => errors::unknown_subcommand(&spec.name, args[1]).into_bytes(),
                    None => errors::unknown(args),
                };
                self.answer_refused(text, out, env)
            }
            Poll::Ready(_) if self.is_gated() => {
                let text = match container {
                    Some(spec) => errors::unknown_subcommand(&spec.name, args[1]).into_bytes(),
                    None => errors::unknown(args),
                };
                self.answer_refused(text, out, env)
            }
            Poll::Ready(_) if self.has_pin(Pin::Monitor) || !is_name(args[0]) => {
                self.answer_refused(errors::unknown(args), out, env)
            }
            Poll::Ready(_) => self.send_unknown(command, out, env, router),
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
        self.answer_local(&reply, out, env);
        verdict
    }

    /// Puts a reply of the session's own in its place.
    pub(super) fn answer_local(
        &mut self,
        reply: &[u8],
        out: &mut Vec<u8>,
        env: &Env<'_>,
    ) -> Verdict {
        env.counters.commands_local.add(1);
        if self.take_reply_mode() == ReplyMode::On {
            self.pending.put(reply, out);
        }
        Verdict::Done
    }

    pub(super) fn answer_simple(
        &mut self,
        text: &str,
        out: &mut Vec<u8>,
        env: &Env<'_>,
    ) -> Verdict {
        let mut reply = Vec::new();
        encode::simple(&mut reply, text);
        self.answer_local(&reply, out, env)
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

/// The spec of the subcommand where there is one.
fn exact<'t>(spec: &'t Spec, args: &[&[u8]], env: &Env<'t>) -> &'t Spec {
    let sub = args
        .get(1)
        .filter(|_| spec.is_container())
        .and_then(|sub| env.table.subcommand(spec, sub));
    sub.unwrap_or(spec)
}

/// What Redis does at once inside MULTI; everything else is queued.
fn leaves_queue(spec: &Spec) -> bool {
    matches!(
        &*spec.name,
        "MULTI" | "EXEC" | "DISCARD" | "WATCH" | "QUIT" | "RESET"
    )
}

/// Asks for the tracking state of the connection, which a leased one has.
fn tells_tracking(spec: &Spec) -> bool {
    matches!(&*spec.name, "CLIENT|TRACKINGINFO" | "CLIENT|GETREDIR")
}

/// `INFO nearkey`.
fn asks_proxy(spec: &Spec, args: &[&[u8]]) -> bool {
    &*spec.name == "INFO" && args.len() == 2 && args[1].eq_ignore_ascii_case(b"nearkey")
}

/// What a command can be called. Garbage is answered like the unknown command that it is, and causes no
/// work elsewhere.
fn is_name(word: &[u8]) -> bool {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-|".contains(byte);
    word.first().is_some_and(u8::is_ascii_alphanumeric) && word.iter().all(is_plain)
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
