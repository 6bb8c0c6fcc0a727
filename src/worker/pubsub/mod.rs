//! Subscriptions of this worker's clients: who listens to what, and what is asked of the hubs.
//!
//! A hub belongs to one worker; all others reach it by mail. What a hub says takes effect in the order
//! in which it comes: a client whose SUBSCRIBE is granted is driven on at once, so its confirmation is
//! written before the messages that follow.

mod conn;
mod messages;
mod numsub;
mod readers;
mod serve;

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use self::conn::HubConn;
pub(super) use self::conn::guarded;
use self::messages::Frames;
pub(super) use self::numsub::adjust;
pub use self::readers::Parcel;
use self::readers::Readers;
use super::client::Client;
use super::{Mail, Worker};
use crate::hub::{Letter, Name, Request, Topic};
use crate::sabotage::{self, Bug};
use crate::upstream::IdentityId;
use crate::upstream::reply_to::Failure;

/// Names by [`Kind`](crate::hub::Kind).
type ByKind = [HashMap<Box<[u8]>, Listeners>; 3];

/// The subscriptions of one worker's clients.
#[derive(Debug, Default)]
pub struct PubSub {
    names: RefCell<HashMap<IdentityId, ByKind>>,
    /// What was asked of the hubs, by client: each asks one thing at a time.
    asks: RefCell<HashMap<u64, Ask>>,
    /// Subscriptions by client.
    counts: RefCell<HashMap<u64, usize>>,
    /// The hubs that this worker owns.
    hubs: RefCell<HashMap<IdentityId, Rc<HubConn>>>,
    readers: Readers,
}

impl PubSub {
    /// Has the hubs of this worker look around.
    pub(super) fn wake_hubs(&self) {
        for hub in self.hubs.borrow().values() {
            hub.wake.notify_one();
        }
    }
}

/// One name.
#[derive(Debug, Default)]
struct Listeners {
    /// Clients that want it: those that asked for it, without those that asked to leave.
    uses: usize,
    /// Clients that get its messages.
    clients: Vec<Rc<Client>>,
}

/// What a client waits for.
#[derive(Debug)]
struct Ask {
    client: Rc<Client>,
    joins: bool,
    topics: Vec<Topic>,
    /// Hubs that have not answered.
    missing: usize,
    failure: Option<Failure>,
}

impl PubSub {
    /// Calls `act` on the entry of a name, and forgets the entry if nobody needs it; so too the identity.
    fn with<T>(&self, topic: &Topic, act: impl FnOnce(&mut Listeners) -> T) -> T {
        let mut identities = self.names.borrow_mut();
        let kinds = identities.entry(topic.identity).or_default();
        let names = &mut kinds[topic.name.kind as usize];
        let bytes = &topic.name.bytes;
        let mut entry = names.remove(bytes).unwrap_or_default();
        let result = act(&mut entry);
        if entry.uses > 0 || !entry.clients.is_empty() {
            names.insert(bytes.clone(), entry);
        } else if kinds.iter().all(HashMap::is_empty) {
            identities.remove(&topic.identity);
        }
        result
    }

    /// Forgets the hubs of identities that nobody uses; false if there are no others of clients' own.
    /// Those of the living stay: they know when the server may be asked again.
    pub(super) fn forget_hubs(&self, is_alive: impl Fn(IdentityId) -> bool) -> bool {
        let mut hubs = self.hubs.borrow_mut();
        hubs.retain(|identity, hub| is_alive(*identity) || hub.is_busy());
        hubs.keys().any(|identity| *identity != IdentityId::OWN)
    }

    fn listeners(&self, identity: IdentityId, name: &Name) -> Vec<Rc<Client>> {
        let names = self.names.borrow();
        let names = names.get(&identity).map(|n| &n[name.kind as usize]);
        let entry = names.and_then(|names| names.get(&name.bytes));
        entry.map(|entry| entry.clients.clone()).unwrap_or_default()
    }
}

impl Worker {
    /// Subscribes a client; the names are none that it has.
    pub(super) fn poll_subscribe(
        self: &Rc<Self>,
        client: &Rc<Client>,
        topics: &[Topic],
    ) -> Poll<Result<(), Failure>> {
        match self.poll_ask(client) {
            Some(Poll::Pending) => Poll::Pending,
            Some(Poll::Ready(ask)) => Poll::Ready(match ask.failure {
                None => {
                    self.register(client, &ask.topics);
                    Ok(())
                }
                Some(failure) => {
                    self.release(&ask.topics);
                    self.count_failure(&failure);
                    Err(failure)
                }
            }),
            None => {
                for topic in topics {
                    self.pubsub.with(topic, |entry| entry.uses += 1);
                }
                let ticket = client.id();
                let join = |names| Request::Join { ticket, names };
                self.ask(client, true, topics, by_identity(topics, |_| true), join);
                Poll::Pending
            }
        }
    }

    /// Ends subscriptions of a client.
    pub(super) fn poll_unsubscribe(
        self: &Rc<Self>,
        client: &Rc<Client>,
        topics: &[Topic],
    ) -> Poll<()> {
        match self.poll_ask(client) {
            Some(answer) => answer.map(|ask| self.deregister(client.id(), &ask.topics)),
            None => {
                let ticket = Some(client.id());
                let leave = |names| Request::Leave { ticket, names };
                let unused = by_identity(topics, |topic| self.unuse(topic));
                self.ask(client, false, topics, unused, leave);
                Poll::Pending
            }
        }
    }

    /// Ends all subscriptions of a client that is gone.
    pub(super) fn forget_subscriber(self: &Rc<Self>, client: u64, mut topics: Vec<Topic>) {
        let ask = self.pubsub.asks.borrow_mut().remove(&client);
        self.deregister(client, &topics);
        match ask {
            Some(ask) if ask.joins => topics.extend(ask.topics),
            Some(ask) => topics.retain(|topic| !ask.topics.contains(topic)),
            None => {}
        }
        self.release(&topics);
    }

    fn count_failure(&self, failure: &Failure) {
        let counters = &self.stats.counters;
        match failure {
            Failure::Unreachable(_) => counters.errors_unreachable.add(1),
            Failure::Crowded { .. } => counters.errors_crowded.add(1),
            Failure::Busy(_) | Failure::Full(_) => counters.errors_busy.add(1),
            Failure::Timeout(_) => counters.errors_timeout.add(1),
            Failure::Refused(_) | Failure::Lost | Failure::Torn => {}
        }
    }

    /// The answer to what the client has asked; `None` if it has asked nothing.
    fn poll_ask(&self, client: &Client) -> Option<Poll<Ask>> {
        let mut asks = self.pubsub.asks.borrow_mut();
        if asks.get(&client.id())?.missing > 0 {
            return Some(Poll::Pending);
        }
        asks.remove(&client.id()).map(Poll::Ready)
    }

    fn ask(
        self: &Rc<Self>,
        client: &Rc<Client>,
        joins: bool,
        topics: &[Topic],
        requests: HashMap<IdentityId, Vec<Name>>,
        request: impl Fn(Vec<Name>) -> Request,
    ) {
        let ask = Ask {
            client: client.clone(),
            joins,
            topics: topics.to_vec(),
            missing: requests.len(),
            failure: None,
        };
        self.pubsub.asks.borrow_mut().insert(client.id(), ask);
        for (identity, names) in requests {
            self.send_request(identity, request(names));
        }
    }

    /// One client less wants the name; true if none is left.
    fn unuse(&self, topic: &Topic) -> bool {
        self.pubsub.with(topic, |entry| {
            entry.uses = entry.uses.saturating_sub(1);
            entry.uses == 0
        })
    }

    /// A client no longer wants names, and nobody waits for the end of that.
    fn release(self: &Rc<Self>, topics: &[Topic]) {
        for (identity, names) in by_identity(topics, |topic| self.unuse(topic)) {
            if !names.is_empty() {
                let ticket = None;
                self.send_request(identity, Request::Leave { ticket, names });
            }
        }
    }

    /// From now on the client gets the messages of these names.
    fn register(&self, client: &Rc<Client>, topics: &[Topic]) {
        for topic in topics {
            self.pubsub
                .with(topic, |entry| entry.clients.push(client.clone()));
            self.census.count_client(&topic.name, 1);
            self.stats.counters.subscriptions(topic.name.kind).add(1);
        }
        let mut counts = self.pubsub.counts.borrow_mut();
        let count = counts.entry(client.id()).or_insert(0);
        if *count == 0 {
            self.stats.counters.subscribers.add(1);
        }
        *count += topics.len();
    }

    /// From now on it does not.
    fn deregister(&self, client: u64, topics: &[Topic]) {
        for topic in topics {
            self.pubsub.with(topic, |entry| {
                if let Some(at) = entry.clients.iter().position(|known| known.id() == client) {
                    entry.clients.swap_remove(at);
                }
            });
            self.census.count_client(&topic.name, -1);
            self.stats.counters.subscriptions(topic.name.kind).sub(1);
        }
        let mut counts = self.pubsub.counts.borrow_mut();
        if let Some(count) = counts.get_mut(&client) {
            *count -= topics.len();
            if *count == 0 {
                counts.remove(&client);
                self.stats.counters.subscribers.sub(1);
            }
        }
    }

    fn send_request(self: &Rc<Self>, identity: IdentityId, request: Request) {
        let owner = identity.0 as usize % self.peers();
        if owner == self.index {
            return self.handle_hub_request(identity, self.index, request);
        }
        let from = self.index;
        let mail = Mail::HubRequest {
            identity,
            from,
            request,
        };
        self.send(owner, mail);
    }

    /// A worker asks something of a hub of this worker's.
    pub(super) fn handle_hub_request(
        self: &Rc<Self>,
        identity: IdentityId,
        from: usize,
        request: Request,
    ) {
        let mut hubs = self.pubsub.hubs.borrow_mut();
        let hub = hubs
            .entry(identity)
            .or_insert_with(|| HubConn::new(self, identity))
            .clone();
        drop(hubs);
        self.note_identity(identity);
        hub.handle_request(self, from, request);
    }

    /// A hub has news for clients of this worker.
    pub(super) fn handle_letters(
        self: &Rc<Self>,
        identity: IdentityId,
        bytes: &[u8],
        letters: &[Letter],
    ) {
        let frames = Frames::new(bytes, letters);
        let mut touched: Vec<Rc<Client>> = Vec::new();
        let mut closed = 0;
        for letter in letters {
            match letter {
                Letter::Message { kind, name, frame } => {
                    let names = self.pubsub.names.borrow();
                    let names = names.get(&identity).map(|n| &n[*kind as usize]);
                    let other = sabotage::is(Bug::WrongSubscriber) && sabotage::now_and_then(20);
                    let Some(entry) = names.and_then(|names| match other {
                        true => names.values().next(),
                        false => names.get(&bytes[name.clone()]),
                    }) else {
                        continue;
                    };
                    for client in &entry.clients {
                        if client.push_message(&frames, frame.clone()) {
                            touched.push(client.clone());
                        }
                    }
                }
                Letter::Granted(ticket) => {
                    self.flush_all(&mut touched, &frames);
                    self.answer(*ticket, None);
                }
                Letter::Refused(ticket, failure) => {
                    self.flush_all(&mut touched, &frames);
                    self.answer(*ticket, Some(failure.clone()));
                }
                Letter::Revoked(name) => {
                    self.flush_all(&mut touched, &frames);
                    // As Redis does with clients that may no longer listen.
                    for client in self.pubsub.listeners(identity, name) {
                        if client.is_gone() {
                            continue; // by another of its names
                        }
                        tracing::debug!(
                            client = client.id(),
                            kind = name.kind.as_str(),
                            "client closed: the server no longer lets it subscribe to a name"
                        );
                        client.kill(false);
                        closed += 1;
                    }
                }
            }
        }
        self.flush_all(&mut touched, &frames);
        if closed > 0 {
            tracing::warn!(
                clients = closed,
                "clients closed: the server no longer lets them subscribe to a name"
            );
        }
    }

    /// A hub of another worker has news for clients of this one.
    pub(super) fn handle_parcel(
        self: &Rc<Self>,
        identity: IdentityId,
        parcel: Arc<Parcel>,
        letters: &[Letter],
    ) {
        self.handle_letters(identity, &parcel.bytes, letters);
        self.keep_parcel(parcel);
    }

    fn flush_all(self: &Rc<Self>, touched: &mut Vec<Rc<Client>>, frames: &Frames<'_>) {
        for client in touched.drain(..) {
            client.flush_messages(frames);
            self.note_reader(&client);
            self.weigh_if_due();
        }
    }

    /// A hub has answered what a client asked; the client goes on before anything else is delivered.
    fn answer(&self, ticket: u64, failure: Option<Failure>) {
        let mut asks = self.pubsub.asks.borrow_mut();
        let Some(ask) = asks.get_mut(&ticket) else {
            return; // the client is gone
        };
        ask.missing = ask.missing.saturating_sub(1);
        ask.failure = ask.failure.take().or(failure);
        if ask.missing == 0 {
            let client = ask.client.clone();
            drop(asks);
            client.proceed();
        }
    }
}

/// The names by hub; those that `pick` leaves out still make an entry.
fn by_identity(
    topics: &[Topic],
    mut pick: impl FnMut(&Topic) -> bool,
) -> HashMap<IdentityId, Vec<Name>> {
    let mut found: HashMap<IdentityId, Vec<Name>> = HashMap::new();
    for topic in topics {
        let names = found.entry(topic.identity).or_default();
        if pick(topic) {
            names.push(topic.name.clone());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::Kind;

    #[test]
    fn an_identity_without_names_is_forgotten() {
        let pubsub = PubSub::default();
        let topic = |identity, kind| Topic {
            identity: IdentityId(identity),
            name: Name {
                kind,
                bytes: (*b"a").into(),
            },
        };
        for identity in 0..3 {
            for kind in Kind::ALL {
                pubsub.with(&topic(identity, kind), |entry| entry.uses += 1);
            }
        }
        for kind in Kind::ALL {
            assert!(pubsub.names.borrow().contains_key(&IdentityId(1)));
            pubsub.with(&topic(1, kind), |entry| entry.uses -= 1);
        }
        pubsub.with(&topic(7, Kind::Shard), |_| ());
        let mut left: Vec<u32> = pubsub.names.borrow().keys().map(|id| id.0).collect();
        left.sort_unstable();
        assert_eq!(left, [0, 2]);
    }
}
