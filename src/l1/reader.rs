//! What the sessions of one worker ask of L1.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::clock::{Now, micros};
use super::config::Mode;
use super::entry::{Entry, Facts, Read, Scope};
use super::fetch::{Answer, Fetch, Fetcher, Order};
use super::front::Front;
use super::rules::Terms;
use super::tracker::{Standing, Tracker};
use super::{L1, Rule};
use crate::stats::WorkerStats;

/// L1 as one worker sees it.
#[derive(Debug)]
pub struct Reader {
    /// What all workers share.
    pub l1: Arc<L1>,
    stats: Arc<WorkerStats>,
    front: RefCell<Front>,
    trackers: RefCell<HashMap<Scope, Arc<Tracker>>>,
    fetches: RefCell<HashMap<u64, Rc<Fetch>>>,
    /// The latest fetch of each read that is in flight, by the read's hash.
    latest: RefCell<HashMap<u64, u64>>,
    next_ticket: Cell<u64>,
}

/// What becomes of a read.
#[derive(Debug)]
pub enum Outcome {
    /// This answers it.
    Hit(Arc<Entry>),
    /// The answer is on its way.
    Wait(Rc<Fetch>),
    /// It travels like any other command.
    Pass,
}

/// Whether an entry may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Good,
    /// It would be good, but nothing was heard of its connection lately.
    Lapsed,
    /// Too old, or its connection was lost; nothing speaks against it but that.
    Overdue,
    /// The key may have changed.
    Bad,
}

impl Reader {
    /// A reader that has read nothing.
    pub fn new(l1: Arc<L1>, stats: Arc<WorkerStats>) -> Self {
        Self {
            front: RefCell::new(l1.store.front()),
            l1,
            stats,
            trackers: RefCell::default(),
            fetches: RefCell::default(),
            latest: RefCell::default(),
            next_ticket: Cell::new(0),
        }
    }

    /// What becomes of a read whose session has nothing in flight. Counts nothing but what it starts.
    pub fn read(&self, read: &Read<'_>, now: Now, fetcher: &mut impl Fetcher) -> Outcome {
        // Where nothing is armed there can be no entry that is good.
        if self.l1.stamps.is_armed(read.place)
            && let Some(entry) = self.find(read)
        {
            match self.judge(&entry, now) {
                Verdict::Good if entry.terms.mode == Mode::Observe => {
                    self.stats.counters.l1_observed_hits.add(1);
                    return Outcome::Pass;
                }
                Verdict::Good => {
                    if !entry.timed {
                        entry.tracker.note_hit(now, self.l1.config.lease);
                    }
                    return Outcome::Hit(entry);
                }
                Verdict::Lapsed | Verdict::Overdue
                    if self.may_serve_stale(&entry, now, fetcher) =>
                {
                    self.stats.counters.l1_stale_hits.add(1);
                    return Outcome::Hit(entry);
                }
                Verdict::Lapsed | Verdict::Overdue => {
                    return self.fetch(read, now, &entry.terms, fetcher);
                }
                Verdict::Bad => {
                    self.front.borrow_mut().clear(entry.hash);
                }
            }
        }
        let terms = self.l1.rules.of(read.key);
        if !terms.cache || terms.mode == Mode::Off {
            self.stats.counters.l1_bypass_rule.add(1);
            return Outcome::Pass;
        }
        if let Some(fetch) = self.joinable(read) {
            self.stats.counters.l1_joins.add(1);
            return Outcome::Wait(fetch);
        }
        if self.l1.sketch.see(read.hash, now) < self.l1.store.threshold() {
            return Outcome::Pass;
        }
        if terms.mode == Mode::Observe {
            self.observe(read, now, terms);
            return Outcome::Pass;
        }
        self.fetch(read, now, terms, fetcher)
    }

    /// A hit was given: `bytes` of request and reply did not travel.
    pub fn count_hit(&self, entry: &Entry, bytes: usize) {
        entry.reads.fetch_add(1, Ordering::Relaxed);
        self.stats.counters.l1_hits.add(1);
        self.stats.counters.l1_hit_bytes.add(bytes as u64);
    }

    fn find(&self, read: &Read<'_>) -> Option<Arc<Entry>> {
        if let Some(entry) = self.front.borrow().get(read) {
            return Some(entry.clone());
        }
        let entry = self.l1.store.get(read)?;
        self.front.borrow_mut().put(entry.clone());
        Some(entry)
    }

    fn judge(&self, entry: &Entry, now: Now) -> Verdict {
        let l1 = &self.l1;
        // Before the stamps: what pushes had said when it was renewed is then to be seen in them.
        let fresh =
            entry.timed || entry.tracker.is_fresh(now, l1.config.lease) || !l1.keeps(Rule::Lease);
        if !l1.stamps.stands(&entry.stamp, entry.absent) && l1.keeps(Rule::Stamps) {
            return Verdict::Bad;
        }
        let linked = entry.timed || entry.tracker.link() == entry.link || !l1.keeps(Rule::LostLink);
        if !linked || entry.is_expired(now) {
            Verdict::Overdue
        } else if fresh {
            Verdict::Good
        } else {
            Verdict::Lapsed
        }
    }

    fn may_serve_stale(&self, entry: &Entry, now: Now, fetcher: &impl Fetcher) -> bool {
        let Some(limit) = entry.terms.stale_if_down else {
            return false;
        };
        let end = entry.age.saturating_add(micros(limit));
        now.since(entry.born) < end && fetcher.is_down()
    }

    /// A fetch of the same read in flight whose answer will be new enough.
    fn joinable(&self, read: &Read<'_>) -> Option<Rc<Fetch>> {
        let ticket = *self.latest.borrow().get(&read.hash)?;
        let fetch = self.fetches.borrow().get(&ticket)?.clone();
        let link = self.tracker(read.scope).link();
        let stands = self.l1.stamps.stands(&fetch.stamp, true) && fetch.link == link;
        (fetch.name.is_of(read) && (stands || !self.l1.keeps(Rule::VersionedJoin))).then_some(fetch)
    }

    /// Orders the read on its tracked connection, if that is up.
    fn fetch(
        &self,
        read: &Read<'_>,
        now: Now,
        terms: &Arc<Terms>,
        fetcher: &mut impl Fetcher,
    ) -> Outcome {
        let tracker = self.tracker(read.scope);
        tracker.want(now);
        let can = match tracker.standing() {
            Standing::Tracking => terms.mode != Mode::Ttl || terms.ttl.is_some(),
            Standing::Timed => terms.mode != Mode::Tracking && terms.ttl.is_some(),
            Standing::Opening => false,
            Standing::Closed => {
                fetcher.open(&tracker);
                false
            }
        };
        if !can || tracker.is_stuck(now, self.l1.config.lease) {
            self.stats.counters.l1_bypass_down.add(1);
            return Outcome::Pass;
        }
        let link = tracker.link();
        let stamp = self.l1.stamps.arm(read.place);
        let ticket = self.next_ticket.get();
        self.next_ticket.set(ticket + 1);
        let fetch = Fetch::new(read.name(), stamp, link);
        self.fetches.borrow_mut().insert(ticket, fetch.clone());
        self.latest.borrow_mut().insert(read.hash, ticket);
        self.stats.counters.l1_fetches.add(1);
        fetcher.fetch(Order {
            name: read.name(),
            command: read.command_bytes().into(),
            stamp,
            tracker,
            link,
            terms: terms.clone(),
            since: now,
            ticket,
        });
        Outcome::Wait(fetch)
    }

    /// The answer to an order has come.
    pub fn handle_answer(&self, ticket: u64, answer: Answer) {
        let Some(fetch) = self.fetches.borrow_mut().remove(&ticket) else {
            return;
        };
        let mut latest = self.latest.borrow_mut();
        if latest.get(&fetch.name.hash) == Some(&ticket) {
            latest.remove(&fetch.name.hash);
        }
        drop(latest);
        if let Some(entry) = &answer
            && entry.age > 0
        {
            self.front.borrow_mut().put(entry.clone());
        }
        fetch.answer(answer);
    }

    /// Notes that this read would have been kept, had L1 been on.
    fn observe(&self, read: &Read<'_>, now: Now, terms: &Arc<Terms>) {
        let tracker = self.tracker(read.scope);
        let facts = Facts {
            protocol: read.protocol,
            stamp: self.l1.stamps.arm(read.place),
            absent: false,
            link: tracker.link(),
            tracker,
            timed: true,
            born: now,
            age: micros(terms.max_age),
            terms: terms.clone(),
        };
        let entry = Arc::new(Entry::new(&read.name(), &[], facts));
        self.front.borrow_mut().put(entry.clone());
        self.l1.store.insert(entry);
    }

    fn tracker(&self, scope: Scope) -> Arc<Tracker> {
        let mut trackers = self.trackers.borrow_mut();
        let tracker = trackers.entry(scope);
        tracker.or_insert_with(|| self.l1.tracker(scope)).clone()
    }
}
