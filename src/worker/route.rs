//! What a session asks of the outside, answered for one client.

use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, ready};

use tokio::sync::oneshot;

use super::Worker;
use super::auth::{self, Presented};
use super::client::{Client, Inner};
use super::lanes::{self, Lane, LaneId};
use super::leases::{Lease, Wait};
use super::queries;
use super::target::Target;
use crate::hub::Topic;
use crate::l1::clock::Now;
use crate::l1::fetch::Fetch;
use crate::l1::touched::Touched;
use crate::resp::encode;
use crate::session::{Query, Reads, Router, errors};
use crate::upstream::facts::Facts;
use crate::upstream::logins::{Login, Verdict};
use crate::upstream::pipe::{Handling, Terms};
use crate::upstream::reply_to::Failure;
use crate::upstream::status::State;
use crate::upstream::{IdentityId, LaneKey};

/// The connections a client is attached to.
#[derive(Debug, Default)]
pub struct Attached {
    /// The shared connection of its commands.
    pub lane: Option<Lane>,
    /// The directory's epoch when the lane was chosen.
    lane_epoch: u64,
    /// The connection that is the client's alone.
    pub lease: Option<Lease>,
    /// What few clients have, outside of the others.
    pub(super) extra: Option<Box<Extra>>,
}

/// What is kept for a client only while it needs it.
#[derive(Debug, Default)]
pub(super) struct Extra {
    errand: Option<Errand>,
    /// What it says it is, while the server has not said yes.
    pub presented: Option<Presented>,
    /// What it is, where it is not the proxy.
    pub login: Option<Arc<Login>>,
}

impl Attached {
    /// The client goes.
    pub fn leave(&mut self, worker: &Worker) {
        if let Some(lane) = self.lane.take() {
            lane.detach();
        }
        if let Some(lease) = self.lease.take() {
            lease.abandon();
        }
        self.end_errand(worker);
        self.extra = None;
    }

    /// The held command waits for a leased connection.
    pub fn awaits_lease(&self) -> bool {
        matches!(self.errand(), Some(Errand::Lease(_)))
    }

    /// What the held command waited for is not wanted any more.
    fn end_errand(&mut self, worker: &Worker) {
        if let Some(Errand::Lease(wait)) = self.take_errand() {
            worker.leases.withdraw(worker, &wait);
        }
    }

    fn errand(&self) -> Option<&Errand> {
        self.extra.as_ref()?.errand.as_ref()
    }

    fn take_errand(&mut self) -> Option<Errand> {
        let errand = self.extra.as_mut()?.errand.take();
        self.trim();
        errand
    }

    /// The client's user on the server, where it has one of its own.
    pub fn user(&self) -> Option<&[u8]> {
        Some(self.extra.as_ref()?.login.as_ref()?.user())
    }

    pub(super) fn extra_mut(&mut self) -> &mut Extra {
        self.extra.get_or_insert_default()
    }

    /// Gives back what is not needed any more.
    pub(super) fn trim(&mut self) {
        self.extra.take_if(|extra| {
            extra.errand.is_none() && extra.presented.is_none() && extra.login.is_none()
        });
    }
}

/// What the held command of a client waits for.
#[derive(Debug)]
enum Errand {
    /// Answers on their way into L1.
    Fetches(Vec<Rc<Fetch>>),
    /// A question that is being answered by all workers.
    Question(Asked),
    /// A leased connection.
    Lease(Wait),
}

/// A question about other clients.
#[derive(Debug)]
struct Asked {
    query: Query,
    /// What the server says to the client's asking this.
    permission: Option<oneshot::Receiver<Verdict>>,
    answer: Option<Rc<queries::Gathering>>,
}

impl Asked {
    fn poll(&mut self, client: &Rc<Client>) -> Poll<Vec<u8>> {
        if let Some(permission) = &mut self.permission {
            let verdict = ready!(auth::poll_permission(client, permission));
            self.permission = None;
            if let Err(text) = verdict {
                let mut reply = Vec::new();
                encode::error(&mut reply, &text);
                return Poll::Ready(reply);
            }
        }
        let ask = || queries::ask(client, &self.query);
        let reply = self.answer.get_or_insert_with(ask).take();
        reply.map_or(Poll::Pending, Poll::Ready)
    }
}

/// The way out for one client while its session is fed.
pub struct Route<'a> {
    pub(super) client: &'a Rc<Client>,
    pub(super) attached: &'a mut Attached,
    /// Nothing was in flight when the feed began.
    pub(super) may_move: bool,
    /// The time, once L1 has asked for it.
    pub(super) now: Option<Now>,
}

impl Route<'_> {
    /// Commands that touch these keys are about to be sent.
    fn note_sent(&self, touched: &Touched) {
        if !touched.is_nothing()
            && let Some(l1) = &self.client.worker.link.l1
        {
            l1.note_sent(touched);
        }
    }

    /// What the held command had ordered of L1, if it is still the same command.
    pub(super) fn take_fetches(&mut self) -> Option<Vec<Rc<Fetch>>> {
        match self.attached.take_errand() {
            Some(Errand::Fetches(fetches)) => Some(fetches),
            Some(other) => {
                self.attached.extra_mut().errand = Some(other);
                self.attached.end_errand(&self.client.worker);
                None
            }
            None => None,
        }
    }

    /// The held command waits for these.
    pub(super) fn await_fetches(&mut self, fetches: Vec<Rc<Fetch>>) {
        self.attached.extra_mut().errand = Some(Errand::Fetches(fetches));
    }

    fn lane(&mut self, key: LaneKey) -> &Lane {
        let worker = &self.client.worker;
        let epoch = worker.directory.epoch();
        let stale = match &self.attached.lane {
            None => true,
            Some(lane) => lane.key() != key || (self.may_move && self.attached.lane_epoch != epoch),
        };
        if stale {
            assert_named(worker, key);
            let current = self.attached.lane.take();
            self.attached.lane = Some(lanes::choose(worker, key, current));
            self.attached.lane_epoch = epoch;
        }
        self.may_move = false;
        self.attached
            .lane
            .get_or_insert_with(|| lanes::choose(worker, key, None))
    }
}

impl Router for Route<'_> {
    fn poll_read(
        &mut self,
        reads: &Reads<'_>,
        may_wait: &mut dyn FnMut() -> bool,
        out: &mut Vec<u8>,
    ) -> Poll<bool> {
        super::reads::poll(self, reads, may_wait, out)
    }

    fn prefetch(&mut self, reads: &Reads<'_>) {
        super::reads::prefetch(self, reads);
    }

    fn forward(&mut self, key: LaneKey, commands: &[u8], count: u32, terms: Terms) {
        self.note_sent(&terms.touched);
        let client = self.client;
        client
            .worker
            .stats
            .counters
            .commands_shared
            .add(u64::from(count - terms.hidden));
        self.lane(key).enqueue(commands, count, terms, client);
    }

    fn poll_facts(&mut self, key: LaneKey) -> Poll<Option<Arc<Facts>>> {
        let worker = &self.client.worker;
        let waker = self.client.waker();
        if let Poll::Ready(facts) = worker.link.dialer.facts.poll(&waker) {
            if worker.table_is_old() {
                waker.wake(); // the next feed sees the new table
            }
            return Poll::Ready(facts);
        }
        // The connection that opens next asks the server: the one that is needed anyway.
        let key = if worker.link.dialer.may_ask_facts(key) {
            key
        } else {
            worker.default_key()
        };
        let lane = lanes::find(worker, LaneId { key, index: 0 });
        match lane.status().poll_open(&waker, || lane.open(worker)) {
            Poll::Ready(Err(_)) => Poll::Ready(None),
            // It was asked when it opened, and did not answer.
            Poll::Ready(Ok(())) if !worker.link.dialer.facts.is_asking() => Poll::Ready(None),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
        }
    }

    fn poll_select(&mut self, key: LaneKey) -> Poll<Result<(), String>> {
        let worker = &self.client.worker;
        if key.db == worker.settings.borrow().database {
            return Poll::Ready(Ok(()));
        }
        let lane = lanes::find(worker, LaneId { key, index: 0 });
        lane.status()
            .poll_open(&self.client.waker(), || lane.open(worker))
            .map_err(|failure| super::deliver::error_text(&failure))
    }

    fn poll_resp3(&mut self, key: LaneKey) -> Poll<bool> {
        let worker = &self.client.worker;
        let lane = lanes::find(worker, LaneId { key, index: 0 });
        let opened = lane
            .status()
            .poll_open(&self.client.waker(), || lane.open(worker));
        opened.map(|result| !matches!(result, Err(Failure::Refused(_))))
    }

    fn poll_query(&mut self, query: &Query) -> Poll<Vec<u8>> {
        let mut asked = match self.attached.take_errand() {
            Some(Errand::Question(asked)) if asked.query == *query => asked,
            other => {
                self.attached.extra_mut().errand = other;
                self.attached.end_errand(&self.client.worker);
                Asked {
                    query: query.clone(),
                    permission: auth::ask_permission(self.client, self.attached, query),
                    answer: None,
                }
            }
        };
        let answer = asked.poll(self.client);
        if answer.is_pending() {
            self.attached.extra_mut().errand = Some(Errand::Question(asked));
        }
        answer
    }

    fn poll_transactions(&mut self, key: LaneKey) -> Poll<Result<(), String>> {
        let worker = &self.client.worker;
        let dialer = &worker.link.dialer;
        if key.identity == IdentityId::OWN && !dialer.has_named_user() {
            return Poll::Ready(Ok(())); // the default user: not asked, and hardly ever restricted
        }
        if self.attached.lease.is_none() {
            let lane = lanes::find(worker, LaneId { key, index: 0 });
            let status = lane.status();
            ready!(status.poll_open(&self.client.waker(), || lane.open(worker)))
                .map_err(|failure| super::deliver::error_text(&failure))?;
        }
        Poll::Ready(match dialer.allows_transactions(key.identity) {
            true => Ok(()),
            false => Err(errors::NO_TRANSACTIONS.to_owned()),
        })
    }

    fn is_killed(&self) -> bool {
        self.client.killed.get()
    }

    fn poll_identity(
        &mut self,
        key: LaneKey,
        user: &[u8],
        password: &[u8],
    ) -> Poll<Result<IdentityId, String>> {
        auth::poll_identity(self.client, self.attached, key, user, password)
    }

    fn settle_identity(&mut self, identity: IdentityId) {
        auth::settle_identity(self.attached, identity);
    }

    fn poll_subscribe(&mut self, topics: &[Topic]) -> Poll<Result<(), String>> {
        let answer = self.client.worker.poll_subscribe(self.client, topics);
        answer.map_err(|failure| lease_error(&self.client.worker, &failure))
    }

    fn poll_unsubscribe(&mut self, topics: &[Topic]) -> Poll<()> {
        self.client.worker.poll_unsubscribe(self.client, topics)
    }

    fn poll_lease(&mut self, key: LaneKey) -> Poll<Result<(), String>> {
        let worker = &self.client.worker;
        assert_named(worker, key);
        if let Some(lease) = self.attached.lease.take() {
            if lease.key() == key && lease.state() == State::Open && !lease.is_tainted() {
                self.attached.lease = Some(lease);
                return Poll::Ready(Ok(()));
            }
            worker.leases.give_back(worker, lease);
        }
        let known = |errand: &Errand| matches!(errand, Errand::Lease(wait) if wait.key() == key);
        if !self.attached.errand().is_some_and(known) {
            self.attached.end_errand(worker);
            match worker.leases.ask(self.client, key) {
                Ok(lease) => {
                    self.attached.lease = Some(lease);
                    return Poll::Ready(Ok(()));
                }
                Err(wait) => self.attached.extra_mut().errand = Some(Errand::Lease(wait)),
            }
        }
        let Some(Errand::Lease(wait)) = &mut self.attached.extra_mut().errand else {
            return Poll::Pending;
        };
        let result = ready!(worker.leases.poll(self.client, wait));
        self.attached.take_errand();
        Poll::Ready(match result {
            Ok(lease) => {
                self.attached.lease = Some(lease);
                Ok(())
            }
            Err(failure) => Err(lease_error(worker, &failure)),
        })
    }

    fn forward_leased(&mut self, commands: &[u8], count: u32, terms: Terms) {
        let worker = &self.client.worker;
        self.note_sent(&terms.touched);
        let visible = count - terms.hidden;
        worker.stats.counters.commands_leased.add(visible.into());
        if let Some(lease) = &self.attached.lease {
            let target = Target::Client(self.client.clone());
            lease.enqueue(commands, count, terms, target, worker.link.now());
        }
    }

    fn taint_lease(&mut self) {
        if let Some(lease) = &self.attached.lease {
            lease.taint();
        }
    }

    fn drop_lease(&mut self) {
        if let Some(lease) = self.attached.lease.take() {
            lease.set_holder(None);
            lease.close();
        }
    }

    fn expect_lines(&mut self) {
        if let Some(lease) = &self.attached.lease {
            lease.set_monitor();
        }
    }

    fn begin_stream(&mut self, touched: Touched) {
        self.note_sent(&touched);
        self.client.worker.stats.counters.commands_leased.add(1);
        if let Some(lease) = &self.attached.lease {
            lease.begin_stream(Target::Client(self.client.clone()), touched);
        }
    }

    fn stream(&mut self, part: &[u8], end: Option<Handling>) {
        if let Some(lease) = &self.attached.lease {
            lease.stream(part, end, self.client.worker.link.now());
        }
    }
}

/// What belongs to the proxy itself is never used for a client that has a name of its own, whatever
/// went wrong before.
fn assert_named(worker: &Worker, key: LaneKey) {
    let named = key.identity != IdentityId::OWN || !worker.link.dialer.is_passthrough();
    assert!(named, "a client's command in the proxy's name");
}

fn lease_error(worker: &Worker, failure: &Failure) -> String {
    let counters = &worker.stats.counters;
    match failure {
        Failure::Busy(_) | Failure::Full(_) => counters.errors_busy.add(1),
        _ => counters.errors_unreachable.add(1),
    }
    super::deliver::error_text(failure)
}

/// Gives a leased connection back once what it was for is done, and ends the wait for one that is not
/// wanted any more.
pub(super) fn return_lease(worker: &Worker, inner: &mut Inner) {
    if !inner.held {
        inner.attached.end_errand(worker);
    }
    if inner.session.needs_lease() {
        return;
    }
    // Even if the session has gone on elsewhere.
    if let Some(lease) = inner.attached.lease.take_if(|lease| lease.is_quiet()) {
        if lease.is_outdated() {
            lease.taint(); // nobody goes there any more
        }
        worker.leases.give_back(worker, lease);
    }
}
