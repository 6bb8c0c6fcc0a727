//! Commands that need a connection of their own: for one command, or for as long as a state lasts.

use std::task::Poll;

use super::patience::asked_wait;
use super::special::Pin;
use super::{Env, Router, Session, Verdict, errors, touch};
use crate::commands::{Class, Flags, Spec};
use crate::l1::touched::Touched;
use crate::resp::{Protocol, encode};
use crate::upstream::pipe::{Handling, Terms};

/// Nobody subscribes to this; a message on it moves the server's replication offset.
const WAIT_CHANNEL: &[u8] = b"__nearkey:wait__";

impl Session {
    /// The leased connection, which is asked for only while nothing is in flight elsewhere.
    pub(super) fn poll_own_lease<R: Router>(&mut self, router: &mut R) -> Poll<Result<(), String>> {
        if self.is_pinned() {
            return Poll::Ready(Ok(()));
        }
        if self.pending.owed() > 0 {
            return Poll::Pending; // woken by the replies
        }
        router.poll_lease(self.key)
    }

    /// Has the leased connection, or tells what becomes of the command without it.
    fn obtain_lease<R: Router>(
        &mut self,
        out: &mut Vec<u8>,
        env: &Env<'_>,
        router: &mut R,
    ) -> Result<(), Verdict> {
        match self.poll_own_lease(router) {
            Poll::Pending => Err(Verdict::Hold),
            Poll::Ready(Err(text)) => Err(self.answer_refused(text, out, env)),
            Poll::Ready(Ok(())) => Ok(()),
        }
    }

    /// Sends whole commands on the leased connection.
    pub(super) fn send_leased<R: Router>(
        &mut self,
        commands: &[u8],
        count: u32,
        terms: Terms,
        router: &mut R,
    ) {
        self.pending.expect(count - terms.hidden);
        router.forward_leased(commands, count, terms);
    }

    /// A command that travels alone: it waits, or it must not stand behind others, or others behind it.
    pub(super) fn lease_once<R: Router>(
        &mut self,
        spec: &Spec,
        command: &[u8],
        touched: Touched,
        out: &mut Vec<u8>,
        env: &Env<'_>,
        router: &mut R,
    ) -> Verdict {
        let patient = spec.flags.contains(Flags::BLOCKING);
        let lease = self.poll_own_lease(router);
        if patient {
            // From here on nobody waits for it but its client.
            self.special_mut().blocked = true;
        }
        match lease {
            Poll::Pending => return Verdict::Hold,
            Poll::Ready(Err(text)) => {
                self.settle();
                return self.answer_refused(text, out, env);
            }
            Poll::Ready(Ok(())) => {}
        }
        self.last_command = spec.id();
        let mut terms = Terms {
            patient,
            wait: asked_wait(spec, command),
            touched,
            ..self.handling().into()
        };
        if matches!(&*spec.name, "WAIT" | "WAITAOF") {
            // They wait for what their own connection wrote last, and this one wrote nothing: a
            // message before them makes that everything the server has written so far.
            let mut pair = Vec::new();
            encode::command(&mut pair, &[b"PUBLISH", WAIT_CHANNEL, b""]);
            pair.extend_from_slice(command);
            terms.hidden = 1;
            self.send_leased(&pair, 2, terms, router);
        } else {
            self.send_leased(command, 1, terms, router);
        }
        self.must_drain = !self.is_pinned();
        Verdict::Done
    }

    /// WATCH or UNWATCH.
    pub(super) fn watch<R: Router>(
        &mut self,
        spec: &Spec,
        command: &[u8],
        args: &[&[u8]],
        out: &mut Vec<u8>,
        env: &Env<'_>,
        router: &mut R,
    ) -> Verdict {
        if !spec.accepts(args.len()) {
            return self.answer_refused(errors::wrong_arity(&spec.name), out, env);
        }
        let begins = &*spec.name == "WATCH";
        if begins && self.in_transaction() {
            return self.answer_refused(errors::WATCH_IN_MULTI, out, env);
        }
        if !begins && !self.is_pinned() {
            self.last_command = spec.id();
            return self.answer_simple("OK", out, env);
        }
        if let Err(verdict) = self.obtain_lease(out, env, router) {
            return verdict;
        }
        self.last_command = spec.id();
        let terms = self.handling().into();
        if begins {
            self.must_drain = false;
            self.pin(Pin::Watch);
        }
        self.send_leased(command, 1, terms, router);
        if !begins {
            self.unpin(Pin::Watch);
        }
        Verdict::Done
    }

    /// A command that puts its connection in a state, or out of it.
    pub(super) fn enter_state<R: Router>(
        &mut self,
        spec: &Spec,
        command: &[u8],
        args: &[&[u8]],
        out: &mut Vec<u8>,
        env: &Env<'_>,
        router: &mut R,
    ) -> Verdict {
        if !spec.accepts(args.len()) {
            return self.answer_refused(errors::wrong_arity(&spec.name), out, env);
        }
        match &*spec.name {
            "CLIENT|TRACKING" => self.tracking(spec, command, args, out, env, router),
            "CLIENT|CACHING" if !self.has_pin(Pin::Tracking) => {
                self.answer_refused(errors::NO_CACHING, out, env)
            }
            "CLIENT|CACHING" => {
                let terms = self.handling().into();
                self.send_leased(command, 1, terms, router);
                Verdict::Done
            }
            "MONITOR" => self.hold_lease(Pin::Monitor, spec, command, out, env, router),
            _ => self.hold_lease(Pin::Known, spec, command, out, env, router),
        }
    }

    fn tracking<R: Router>(
        &mut self,
        spec: &Spec,
        command: &[u8],
        args: &[&[u8]],
        out: &mut Vec<u8>,
        env: &Env<'_>,
        router: &mut R,
    ) -> Verdict {
        let tracked = self.has_pin(Pin::Tracking);
        if args[2].eq_ignore_ascii_case(b"on") {
            if args[3..]
                .iter()
                .any(|arg| arg.eq_ignore_ascii_case(b"redirect"))
            {
                return self.answer_refused(errors::NO_REDIRECT, out, env);
            }
            if !tracked {
                return self.hold_lease(Pin::Tracking, spec, command, out, env, router);
            }
        } else if !tracked {
            let off = args[2].eq_ignore_ascii_case(b"off") && args.len() == 3;
            return if off {
                self.answer_simple("OK", out, env)
            } else {
                self.answer_refused(errors::SYNTAX, out, env)
            };
        }
        let ends = args[2].eq_ignore_ascii_case(b"off") && args.len() == 3;
        let terms = self.handling().into();
        self.send_leased(command, 1, terms, router);
        if ends {
            self.unpin(Pin::Tracking);
        }
        Verdict::Done
    }

    /// Sends a command whose state stays on the leased connection, which is nobody else's from then
    /// on. What follows waits for its reply: that tells whether the state has begun.
    pub(super) fn hold_lease<R: Router>(
        &mut self,
        pin: Pin,
        spec: &Spec,
        command: &[u8],
        out: &mut Vec<u8>,
        env: &Env<'_>,
        router: &mut R,
    ) -> Verdict {
        if self.pending.owed() > 0 {
            return Verdict::Hold; // the next reply must be the one that tells
        }
        if let Err(verdict) = self.obtain_lease(out, env, router) {
            return verdict;
        }
        self.last_command = spec.id();
        self.send_state(pin, command, touch::of_state(env, spec), router);
        Verdict::Done
    }

    fn send_state<R: Router>(
        &mut self,
        pin: Pin,
        command: &[u8],
        touched: Touched,
        router: &mut R,
    ) {
        self.must_drain = false;
        let known = self.has_pin(pin);
        self.pin(pin);
        router.taint_lease();
        if pin == Pin::Monitor {
            router.expect_lines();
        }
        let terms = Terms {
            // It may block for all that is known.
            patient: pin == Pin::Unknown,
            touched,
            ..self.handling().into()
        };
        self.send_leased(command, 1, terms, router);
        let special = self.special_mut();
        special.blocked |= pin == Pin::Unknown;
        special.judging = (!known).then_some(pin);
    }

    /// A command that nobody knows: it could block or change its connection, so it gets one of its own.
    pub(super) fn send_unknown<R: Router>(
        &mut self,
        command: &[u8],
        out: &mut Vec<u8>,
        env: &Env<'_>,
        router: &mut R,
    ) -> Verdict {
        if self.pending.owed() > 0 {
            return Verdict::Hold;
        }
        if let Err(verdict) = self.obtain_lease(out, env, router) {
            return verdict;
        }
        self.send_state(Pin::Unknown, command, touch::unknown(env), router);
        Verdict::Done
    }

    /// SELECT while a leased connection is held: that one moves too.
    pub(super) fn select_pinned<R: Router>(
        &mut self,
        spec: &Spec,
        command: &[u8],
        args: &[&[u8]],
        out: &mut Vec<u8>,
        env: &Env<'_>,
        router: &mut R,
    ) -> Verdict {
        let mut reply = Vec::new();
        match self.select(args, &mut reply, router) {
            Verdict::Hold => return Verdict::Hold,
            _ if reply.starts_with(b"-") => return self.answer_local(&reply, out, env),
            _ => {}
        }
        self.last_command = spec.id();
        self.must_drain = false;
        router.taint_lease();
        let terms = self.handling().into();
        self.send_leased(command, 1, terms, router);
        Verdict::Done
    }

    /// HELLO with another protocol while a leased connection is held: that one changes too.
    pub(super) fn switch_lease<R: Router>(&mut self, protocol: Protocol, router: &mut R) {
        let version: &[u8] = match protocol {
            Protocol::Resp2 => b"2",
            Protocol::Resp3 => b"3",
        };
        let mut command = Vec::new();
        encode::command(&mut command, &[b"HELLO", version]);
        let terms = Terms {
            hidden: 1,
            ..Handling::Pass.into()
        };
        router.taint_lease();
        self.send_leased(&command, 1, terms, router);
        self.key.protocol = protocol;
    }

    /// What a client that runs MONITOR may not say.
    pub(super) fn refuse_under_monitor(
        &mut self,
        spec: &Spec,
        class: Class,
        args: &[&[u8]],
        out: &mut Vec<u8>,
        env: &Env<'_>,
    ) -> Verdict {
        let keyspace = spec.flags.intersects(Flags::READONLY | Flags::WRITE);
        if keyspace && class != Class::Refused {
            return self.answer_refused(errors::REPLICA_KEYSPACE, out, env);
        }
        self.answer_refused(errors::under_monitor(spec, args), out, env)
    }

    /// RESET: the leased connection goes, and everything that it stood for.
    pub(super) fn leave_states<R: Router>(&mut self, router: &mut R) {
        if self.is_pinned() && self.pending.owed() == 0 {
            router.drop_lease();
        } else if self.is_pinned() {
            router.taint_lease();
            self.must_drain = true;
        }
        self.special = None;
    }
}
