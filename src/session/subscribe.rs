//! SUBSCRIBE and its kin: what one client is subscribed to, and what it is told of it.

use std::collections::{HashMap, HashSet};
use std::task::Poll;

use super::{Env, Router, Session, Verdict, errors};
use crate::commands::{CommandTable, Spec};
use crate::hub::{Kind, Name, Topic};
use crate::resp::{Protocol, encode};
use crate::upstream::IdentityId;

/// What a client with subscriptions has beyond others.
#[derive(Debug, Default)]
pub(super) struct Subscriber {
    names: [HashMap<Box<[u8]>, Place>; 3],
    next: u64,
    /// Messages that came in the middle of a reply.
    held: Vec<u8>,
}

/// One subscription.
#[derive(Clone, Copy, Debug)]
struct Place {
    order: u64,
    identity: IdentityId,
}

impl Subscriber {
    fn len(&self, kind: Kind) -> usize {
        self.names[kind as usize].len()
    }

    /// The count in a confirmation: shard channels are counted on their own.
    fn count(&self, kind: Kind) -> usize {
        match kind {
            Kind::Channel | Kind::Pattern => self.len(Kind::Channel) + self.len(Kind::Pattern),
            Kind::Shard => self.len(Kind::Shard),
        }
    }

    fn add(&mut self, kind: Kind, name: &[u8], identity: IdentityId) {
        let names = &mut self.names[kind as usize];
        if !names.contains_key(name) {
            let order = self.next;
            self.next += 1;
            names.insert(name.into(), Place { order, identity });
        }
    }

    /// All subscriptions of a kind, in the order in which they began.
    fn topics(&self, kind: Kind) -> Vec<Topic> {
        let mut all: Vec<_> = self.names[kind as usize].iter().collect();
        all.sort_by_key(|(_, place)| place.order);
        all.into_iter()
            .map(|(name, place)| topic(place.identity, kind, name))
            .collect()
    }

    fn all_topics(&self) -> Vec<Topic> {
        Kind::ALL
            .into_iter()
            .flat_map(|kind| self.topics(kind))
            .collect()
    }
}

impl Session {
    /// SUBSCRIBE, UNSUBSCRIBE and their kin. Confirmations stand behind all replies that are owed.
    pub(super) fn subscribe<R: Router>(
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
        if self.pending.owed() > 0 {
            return Verdict::Hold;
        }
        let of_kind = |word: fn(Kind) -> &'static str| {
            let mut kinds = Kind::ALL.into_iter();
            kinds.find(|kind| spec.name.eq_ignore_ascii_case(word(*kind)))
        };
        let mut confirmations = Vec::new();
        let done = match (of_kind(Kind::subscribe), of_kind(Kind::unsubscribe)) {
            (Some(kind), _) => self.join(kind, &args[1..], &mut confirmations, router),
            (None, Some(kind)) => self.leave(kind, &args[1..], &mut confirmations, router),
            (None, None) => Poll::Ready(Err(errors::denied(spec, args))),
        };
        match done {
            Poll::Pending => Verdict::Hold,
            Poll::Ready(Err(text)) => self.answer_refused(text, out, env),
            Poll::Ready(Ok(())) => {
                self.last_command = spec.id();
                env.counters.commands_local.add(1);
                // CLIENT REPLY is about replies. Confirmations are pushes: they come anyway.
                self.take_reply_mode();
                self.pending.put(&confirmations, out);
                Verdict::Done
            }
        }
    }

    fn join<R: Router>(
        &mut self,
        kind: Kind,
        names: &[&[u8]],
        out: &mut Vec<u8>,
        router: &mut R,
    ) -> Poll<Result<(), String>> {
        let identity = self.key.identity;
        let mut seen = HashSet::new();
        let fresh: Vec<Topic> = names
            .iter()
            .filter(|name| self.place(kind, name).is_none() && seen.insert(**name))
            .map(|name| topic(identity, kind, name))
            .collect();
        if !fresh.is_empty() {
            match router.poll_subscribe(&fresh) {
                Poll::Ready(Ok(())) => {}
                other => return other,
            }
        }
        let subscriber = self.subscriber.get_or_insert_default();
        for name in names {
            subscriber.add(kind, name, identity);
            let count = subscriber.count(kind);
            confirm(out, self.key.protocol, kind.subscribe(), Some(name), count);
        }
        Poll::Ready(Ok(()))
    }

    /// `names` are all of the kind if there are none.
    fn leave<R: Router>(
        &mut self,
        kind: Kind,
        names: &[&[u8]],
        out: &mut Vec<u8>,
        router: &mut R,
    ) -> Poll<Result<(), String>> {
        let all = match &self.subscriber {
            Some(subscriber) if names.is_empty() => subscriber.topics(kind),
            _ => Vec::new(),
        };
        let names: Vec<&[u8]> = match names {
            [] => all.iter().map(|topic| &*topic.name.bytes).collect(),
            names => names.to_vec(),
        };
        let mut seen = HashSet::new();
        let leaving: Vec<Topic> = names
            .iter()
            .filter(|name| seen.insert(**name))
            .filter_map(|name| Some(topic(self.place(kind, name)?.identity, kind, name)))
            .collect();
        if !leaving.is_empty() && router.poll_unsubscribe(&leaving).is_pending() {
            return Poll::Pending;
        }
        let (protocol, word) = (self.key.protocol, kind.unsubscribe());
        for name in &names {
            if let Some(subscriber) = &mut self.subscriber {
                subscriber.names[kind as usize].remove(*name);
            }
            confirm(out, protocol, word, Some(name), self.count(kind));
        }
        if names.is_empty() {
            confirm(out, protocol, word, None, self.count(kind));
        }
        if self.subscriptions() == [0; 3] {
            self.subscriber = None;
        }
        Poll::Ready(Ok(()))
    }

    /// Leaves everything without a word: RESET.
    pub(super) fn leave_all<R: Router>(&mut self, router: &mut R) -> Poll<()> {
        let Some(subscriber) = &self.subscriber else {
            return Poll::Ready(());
        };
        if self.pending.owed() > 0
            || router
                .poll_unsubscribe(&subscriber.all_topics())
                .is_pending()
        {
            return Poll::Pending;
        }
        self.subscriber = None;
        Poll::Ready(())
    }

    fn place(&self, kind: Kind, name: &[u8]) -> Option<Place> {
        let subscriber = self.subscriber.as_ref()?;
        subscriber.names[kind as usize].get(name).copied()
    }

    fn count(&self, kind: Kind) -> usize {
        self.subscriber.as_ref().map_or(0, |s| s.count(kind))
    }

    /// Subscriptions by [`Kind`].
    pub fn subscriptions(&self) -> [usize; 3] {
        let len = |kind| self.subscriber.as_ref().map_or(0, |s| s.len(kind));
        Kind::ALL.map(len)
    }

    /// The client has subscriptions.
    pub fn is_subscriber(&self) -> bool {
        self.subscriber.is_some()
    }

    /// In RESP2 messages cannot be told from replies, so a subscriber may say little else.
    pub(super) fn is_gated(&self) -> bool {
        self.is_subscriber() && self.key.protocol == Protocol::Resp2
    }

    /// The error for a command that must not be said now, if it must not.
    pub(super) fn gate(&self, table: &CommandTable, spec: &Spec, args: &[&[u8]]) -> Option<String> {
        if !self.is_gated() {
            return None;
        }
        let sub = args.get(1).filter(|_| spec.is_container());
        let spec = sub
            .and_then(|sub| table.subcommand(spec, sub))
            .unwrap_or(spec);
        if !spec.accepts(args.len()) {
            return Some(match &*spec.name {
                "EXEC" => errors::exec_arity(),
                name => errors::wrong_arity(name),
            });
        }
        (!is_open_to_subscribers(spec)).then(|| errors::subscribed(&spec.name))
    }

    /// A message has come in the middle of a reply: it stays here until the reply is whole.
    pub fn hold_message(&mut self, message: &[u8]) {
        if let Some(subscriber) = &mut self.subscriber {
            subscriber.held.extend_from_slice(message);
        }
    }

    /// Messages that waited for the end of a reply.
    pub fn take_held_messages(&mut self) -> Vec<u8> {
        let held = self.subscriber.as_mut().map(|s| &mut s.held);
        held.map(std::mem::take).unwrap_or_default()
    }

    /// Bytes of messages that wait for the end of a reply.
    pub fn held_messages(&self) -> usize {
        self.subscriber.as_ref().map_or(0, |s| s.held.len())
    }

    /// What the client was subscribed to, as it goes.
    pub fn take_subscriptions(&mut self) -> Vec<Topic> {
        let subscriber = self.subscriber.take();
        subscriber.map(|s| s.all_topics()).unwrap_or_default()
    }
}

fn topic(identity: IdentityId, kind: Kind, name: &[u8]) -> Topic {
    Topic {
        identity,
        name: Name {
            kind,
            bytes: name.into(),
        },
    }
}

fn confirm(out: &mut Vec<u8>, protocol: Protocol, word: &str, name: Option<&[u8]>, count: usize) {
    encode::push_header(out, 3, protocol);
    encode::bulk(out, word.as_bytes());
    match name {
        Some(name) => encode::bulk(out, name),
        None => encode::null(out, protocol),
    }
    encode::integer(out, i64::try_from(count).unwrap_or(i64::MAX));
}

/// What a RESP2 client may say while it is subscribed.
pub(super) fn is_open_to_subscribers(spec: &Spec) -> bool {
    matches!(
        &*spec.name,
        "SUBSCRIBE"
            | "PSUBSCRIBE"
            | "SSUBSCRIBE"
            | "UNSUBSCRIBE"
            | "PUNSUBSCRIBE"
            | "SUNSUBSCRIBE"
            | "PING"
            | "QUIT"
            | "RESET"
    )
}
