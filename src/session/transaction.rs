//! MULTI, EXEC and DISCARD: commands are queued here and leave as one block.
//!
//! What Redis would refuse at queueing is refused here, by the command table; what only the server can
//! refuse then (no memory, no permission) makes EXEC answer `EXECABORT`. Until EXEC nothing of a
//! transaction is sent, so DISCARD and a client that goes away cost the server nothing.

use std::task::Poll;

use super::special::Pin;
use super::{Env, ReplyMode, Router, Session, Verdict, errors, touch};
use crate::commands::{Class, Flags, Spec};
use crate::l1::touched::Touched;
use crate::resp::encode;
use crate::upstream::pipe::{Handling, Terms};

/// A transaction may queue this many bytes; they are held here until EXEC.
pub(super) const MAX_TRANSACTION: usize = 64 * 1024 * 1024;

/// Commands queued since MULTI.
#[derive(Debug)]
pub(super) struct Transaction {
    /// MULTI and what was queued, as it will be sent.
    bytes: Vec<u8>,
    queued: u32,
    /// A command was refused: EXEC will be too.
    aborted: bool,
    /// Something in it must not travel on a shared connection.
    leased: bool,
    /// And may leave a state behind there.
    tainted: bool,
    /// What all of it touches.
    touched: Touched,
}

impl Transaction {
    /// Bytes of what was queued.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    fn new() -> Self {
        let mut bytes = Vec::new();
        encode::command(&mut bytes, &[b"MULTI"]);
        Self {
            bytes,
            queued: 0,
            aborted: false,
            leased: false,
            tainted: false,
            touched: Touched::default(),
        }
    }
}

impl Session {
    fn transaction_mut(&mut self) -> Option<&mut Transaction> {
        self.special.as_mut()?.transaction.as_mut()
    }

    /// A command inside MULTI was refused.
    pub(super) fn abort_transaction(&mut self) {
        if let Some(transaction) = self.transaction_mut() {
            transaction.aborted = true;
            transaction.bytes = Vec::new(); // it will never be sent
        }
    }

    /// How many commands are queued; `None` outside of MULTI.
    pub fn queued(&self) -> Option<u32> {
        let transaction = self.special.as_ref()?.transaction.as_ref()?;
        Some(transaction.queued)
    }

    /// MULTI, EXEC or DISCARD.
    pub(super) fn transaction<R: Router>(
        &mut self,
        spec: &Spec,
        args: &[&[u8]],
        out: &mut Vec<u8>,
        env: &Env<'_>,
        router: &mut R,
    ) -> Verdict {
        let accepted = spec.accepts(args.len());
        let open = self.in_transaction();
        match (&*spec.name, open) {
            ("EXEC", _) if !accepted => {
                let text = errors::exec_arity();
                self.drop_transaction(router);
                self.answer_refused(text, out, env)
            }
            _ if !accepted => {
                self.abort_transaction();
                self.answer_refused(errors::wrong_arity(&spec.name), out, env)
            }
            ("MULTI", true) => self.answer_refused(errors::NESTED_MULTI, out, env),
            ("MULTI", false) => {
                self.last_command = spec.id();
                self.special_mut().transaction = Some(Transaction::new());
                self.answer_simple("OK", out, env)
            }
            ("EXEC", true) => {
                self.last_command = spec.id();
                self.exec(args, out, env, router)
            }
            (_, true) => {
                self.last_command = spec.id();
                self.drop_transaction(router);
                self.answer_simple("OK", out, env)
            }
            (_, false) => self.answer_refused(errors::without_multi(&spec.name), out, env),
        }
    }

    /// Forgets the transaction and, as Redis does, what was watched for it.
    fn drop_transaction<R: Router>(&mut self, router: &mut R) {
        if let Some(special) = &mut self.special {
            special.transaction = None;
        }
        if self.has_pin(Pin::Watch) {
            let mut unwatch = Vec::new();
            encode::command(&mut unwatch, &[b"UNWATCH"]);
            let silent = Terms {
                hidden: 1,
                ..Handling::Pass.into()
            };
            self.send_leased(&unwatch, 1, silent, router);
            self.unpin(Pin::Watch);
        }
        self.settle();
    }

    fn exec<R: Router>(
        &mut self,
        args: &[&[u8]],
        out: &mut Vec<u8>,
        env: &Env<'_>,
        router: &mut R,
    ) -> Verdict {
        let large = env.settings.large_request;
        let Some(transaction) = self.transaction_mut() else {
            return Verdict::Done;
        };
        if transaction.aborted {
            self.drop_transaction(router);
            return self.answer_refused(errors::EXECABORT, out, env);
        }
        let leased = transaction.leased || transaction.bytes.len() > large;
        match router.poll_transactions(self.key) {
            Poll::Pending => return Verdict::Hold,
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(text)) => {
                self.drop_transaction(router);
                return self.answer_refused(text, out, env);
            }
        }
        let pinned = self.is_pinned();
        if leased && !pinned {
            match self.poll_own_lease(router) {
                Poll::Pending => return Verdict::Hold,
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(text)) => {
                    self.drop_transaction(router);
                    return self.answer_refused(text, out, env);
                }
            }
        } else if !pinned && self.must_drain && self.pending.owed() > 0 {
            return Verdict::Hold;
        }
        let Some(transaction) = self.special_mut().transaction.take() else {
            return Verdict::Done;
        };
        let mut block = transaction.bytes;
        encode::command(&mut block, args);
        env.counters.transactions.add(1);
        let terms = Terms {
            hidden: transaction.queued + 1,
            touched: transaction.touched,
            ..self.handling().into()
        };
        let count = transaction.queued + 2;
        if leased || pinned {
            self.send_leased(&block, count, terms, router);
            if transaction.tainted {
                router.taint_lease();
            }
            self.must_drain = !pinned;
            self.unpin(Pin::Watch);
        } else {
            self.must_drain = false;
            self.answers_soon = true;
            self.forward(&block, count, terms, router);
        }
        self.settle();
        Verdict::Done
    }

    /// Queues a command of an open transaction, or says why it cannot be part of one. `spec` is that
    /// of the subcommand where there is one; without, nobody knows the command.
    pub(super) fn queue(
        &mut self,
        spec: Option<(&Spec, Class)>,
        command: &[u8],
        args: &[&[u8]],
        out: &mut Vec<u8>,
        env: &Env<'_>,
    ) -> Verdict {
        if let Some((spec, class)) = spec {
            if let Some(text) = refusal(spec, class, args) {
                self.abort_transaction();
                return self.answer_refused(text, out, env);
            }
            self.last_command = spec.id();
        }
        let touched = match spec {
            Some((spec, _)) => touch::touched(env, spec, args),
            None => touch::unknown(env),
        };
        // What is not a wait can still write anything to its connection (DEBUG).
        let alone = spec.is_none_or(|(spec, class)| {
            class == Class::Blocking && !spec.flags.contains(Flags::BLOCKING)
        });
        let Some(transaction) = self.transaction_mut() else {
            return Verdict::Done;
        };
        if transaction.bytes.len() + command.len() > MAX_TRANSACTION {
            self.abort_transaction();
            return self.answer_refused(errors::transaction_too_large(), out, env);
        }
        if !transaction.aborted {
            transaction.bytes.extend_from_slice(command);
        }
        transaction.queued += 1;
        transaction.touched.join(&touched);
        transaction.leased |= alone;
        transaction.tainted |= spec.is_none();
        self.answer_simple("QUEUED", out, env)
    }

    /// What happens to the replies of the command at hand.
    pub(super) fn handling(&mut self) -> Handling {
        match self.take_reply_mode() {
            ReplyMode::On => Handling::Pass,
            _ => Handling::Discard,
        }
    }
}

/// Why a command cannot be part of a transaction.
fn refusal(spec: &Spec, class: Class, args: &[&[u8]]) -> Option<String> {
    if class == Class::Refused {
        return Some(errors::denied(spec, args));
    }
    if !spec.accepts(args.len()) {
        return Some(errors::wrong_arity(&spec.name));
    }
    if spec.flags.contains(Flags::NO_MULTI) {
        return Some(errors::NO_MULTI.to_owned());
    }
    match class {
        Class::Shared | Class::Blocking | Class::Watch | Class::Transaction => None,
        Class::Local if matches!(&*spec.name, "PING" | "ECHO") => None,
        Class::Local | Class::Pinned | Class::Subscribe | Class::Refused => {
            Some(errors::not_in_multi(spec, args))
        }
    }
}
