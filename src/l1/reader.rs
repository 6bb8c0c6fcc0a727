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
use super::hot::{Event, Hot, Reason};
use super::rules::{Rules, Terms};
use super::tracker::{Standing, Tracker};
use super::{L1, Rule};
use crate::stats::WorkerStats;
use crate::upstream::IdentityId;

/// L1 as one worker sees it.
#[derive(Debug)]
pub struct Reader {
    /// What all workers share.
    pub l1: Arc<L1>,
    pub(super) stats: Arc<WorkerStats>,
    front: RefCell<Front>,
    /// What holds for which keys, as this worker has it.
    rules: RefCell<Arc<Rules>>,
    trackers: RefCell<HashMap<Scope, Arc<Tracker>>>,
    fetches: RefCell<HashMap<u64, Rc<Fetch>>>,
    /// The latest fetch of each read that is in flight, by the read's hash.
    latest: RefCell<HashMap<u64, u64>>,
    next_ticket: Cell<u64>,
    /// Which keys are used most by this worker's clients.
    pub hot: Hot,
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

/// What becomes of a command that is made of several reads.
#[derive(Debug)]
pub enum Combined {
    /// These answer it, in order.
    Hits(Vec<Arc<Entry>>),
    /// What is missing is on its way; ask again when all of it has come.
    Wait(Vec<Rc<Fetch>>),
    /// It travels like any other command.
    Pass,
}

/// What is known of a read.
#[derive(Debug)]
pub enum Seen {
    /// This answers it.
    Entry(Arc<Entry>),
    /// The answer is on its way.
    Fetch(Rc<Fetch>),
    /// It is worth a fetch, on these terms, after so many that were of no use.
    Wanted(Arc<Terms>, u8),
    /// Nothing, and it is not worth a fetch.
    Nothing,
}

/// Most keys that one command orders: each costs three commands, and all of them save one.
const MAX_FETCHES: usize = 16;

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
        let hot = Hot::new(l1.config().hash_key_names);
        l1.watch(hot.view());
        Self {
            hot,
            front: RefCell::new(l1.store.front()),
            rules: RefCell::new(l1.rules()),
            l1,
            stats,
            trackers: RefCell::default(),
            fetches: RefCell::default(),
            latest: RefCell::default(),
            next_ticket: Cell::new(0),
        }
    }

    /// Goes by the rules in force from here on.
    pub fn reconfigure(&self) {
        self.rules.replace(self.l1.rules());
    }

    /// What is known of a read whose session has nothing in flight. Orders nothing.
    pub fn look(&self, read: &Read<'_>, now: Now, is_down: impl Fn() -> bool) -> Seen {
        let counters = &self.stats.counters;
        // Where nothing is armed there can be no entry that is good.
        if self.l1.stamps.is_armed(read.place)
            && let Some(entry) = self.find(read)
            && let Some(seen) = self.use_entry(read, entry, now, is_down)
        {
            return seen;
        }
        let rules = self.rules.borrow();
        let terms = rules.of(read.key);
        if !terms.cache || terms.mode == Mode::Off {
            counters.l1_bypass_rule.add(1);
            let reason = terms.rule.map_or(Reason::NoRule, |_| Reason::Rule);
            self.note(read, Event::Bypass(reason));
            return Seen::Nothing;
        }
        counters.l1_misses.add(1);
        if let Some(fetch) = self.joinable(read, now) {
            return Seen::Fetch(fetch);
        }
        if self.l1.sketch.see(read.hash, now) < self.l1.store.threshold() {
            self.note(read, Event::Miss);
            return Seen::Nothing;
        }
        if terms.mode == Mode::Observe {
            self.observe(read, now, terms);
            self.note(read, Event::Miss);
            return Seen::Nothing;
        }
        // What became of the last fill tells whether another is worth it.
        let found = self.find(read);
        let worth = |entry: &Arc<Entry>| entry.worth_another(now);
        match found.as_ref().map_or(Some(0), worth) {
            Some(waste) => Seen::Wanted(terms.clone(), waste),
            None => {
                self.stats.counters.l1_bypass_waste.add(1);
                let why = match found.as_deref().map(unfit) {
                    Some(Event::Bypass(reason)) => reason,
                    _ if found.as_ref().is_some_and(|found| !self.l1.stands(found)) => {
                        Reason::Written
                    }
                    _ => Reason::TooSeldom,
                };
                self.note(read, Event::Bypass(why));
                Seen::Nothing
            }
        }
    }

    /// What an entry makes of a read; `None` if it is of no use.
    fn use_entry(
        &self,
        read: &Read<'_>,
        entry: Arc<Entry>,
        now: Now,
        is_down: impl Fn() -> bool,
    ) -> Option<Seen> {
        let counters = &self.stats.counters;
        match self.judge(&entry, now) {
            Verdict::Good | Verdict::Lapsed if entry.unfit => {
                self.note(read, unfit(&entry));
                return Some(Seen::Nothing);
            }
            Verdict::Overdue if entry.unfit => {}
            // There is no reply in such an entry, and nothing is ordered for one.
            Verdict::Good | Verdict::Lapsed if entry.terms.mode == Mode::Observe => {
                counters.l1_observed_hits.add(1);
                entry.reads.fetch_add(1, Ordering::Relaxed);
                self.note(read, Event::Hit);
                return Some(Seen::Nothing);
            }
            Verdict::Overdue if entry.terms.mode == Mode::Observe => {}
            Verdict::Good => {
                if !entry.timed {
                    entry.tracker.note_hit(now, self.l1.lease());
                }
                return Some(Seen::Entry(entry));
            }
            Verdict::Lapsed | Verdict::Overdue
                if may_serve_stale(&entry, now, || {
                    entry.tracker.is_stuck(now, self.l1.lease()) || is_down()
                }) =>
            {
                counters.l1_stale_hits.add(1);
                return Some(Seen::Entry(entry));
            }
            Verdict::Lapsed | Verdict::Overdue => {
                counters.l1_misses.add(1);
                return Some(match self.joinable(read, now) {
                    Some(fetch) => Seen::Fetch(fetch),
                    None => Seen::Wanted(entry.terms.clone(), entry.waste),
                });
            }
            Verdict::Bad => {}
        }
        None
    }

    /// What becomes of a read whose session has nothing in flight. Waits only if it `may`.
    pub fn read(
        &self,
        read: &Read<'_>,
        now: Now,
        may_wait: &mut dyn FnMut() -> bool,
        fetcher: &mut impl Fetcher,
    ) -> Outcome {
        match self.look(read, now, || fetcher.is_down()) {
            Seen::Entry(entry) => Outcome::Hit(entry),
            Seen::Nothing => Outcome::Pass,
            _ if !may_wait() => Outcome::Pass,
            Seen::Fetch(fetch) => {
                self.stats.counters.l1_joins.add(1);
                self.note(read, Event::Miss);
                Outcome::Wait(fetch)
            }
            Seen::Wanted(terms, waste) => match self.fetch(read, now, (&terms, waste), fetcher) {
                Some(fetch) => Outcome::Wait(fetch),
                None => Outcome::Pass,
            },
        }
    }

    /// What becomes of a command that is made of several reads: they are answered all at one moment, or
    /// those that are missing are ordered first, or all of them travel. Waits only if it `may`.
    pub fn read_many(
        &self,
        reads: &[Read<'_>],
        now: Now,
        may_wait: &mut dyn FnMut() -> bool,
        fetcher: &mut impl Fetcher,
    ) -> Combined {
        let (misses, observed) = {
            let counters = &self.stats.counters;
            (counters.l1_misses.get(), counters.l1_observed_hits.get())
        };
        let seen: Vec<Seen> = reads
            .iter()
            .map(|read| self.look(read, now, || fetcher.is_down()))
            .collect();
        self.count_as_one(reads.len(), misses, observed);
        let missing = seen.iter().filter(|seen| !matches!(seen, Seen::Entry(_)));
        let missing = missing.count();
        if missing == 0 {
            let entry = |seen| match seen {
                Seen::Entry(entry) => Some(entry),
                _ => None,
            };
            return Combined::Hits(seen.into_iter().filter_map(entry).collect());
        }
        let hopeless = seen.iter().any(|seen| matches!(seen, Seen::Nothing));
        if hopeless || missing > MAX_FETCHES || !may_wait() {
            return Combined::Pass;
        }
        let mut fetches = Vec::with_capacity(missing);
        for (read, seen) in reads.iter().zip(seen) {
            let fetch = match seen {
                Seen::Fetch(fetch) => Some(fetch),
                Seen::Wanted(terms, waste) => self.fetch(read, now, (&terms, waste), fetcher),
                Seen::Entry(_) | Seen::Nothing => continue,
            };
            match fetch {
                Some(fetch) => fetches.push(fetch),
                None => return Combined::Pass,
            }
        }
        Combined::Wait(fetches)
    }

    /// A command of so many reads is one hit or one miss, whatever was counted for them since.
    fn count_as_one(&self, reads: usize, misses: u64, observed: u64) {
        let counters = &self.stats.counters;
        let missed = counters.l1_misses.get() - misses;
        counters.l1_misses.sub(missed.saturating_sub(1));
        let found = counters.l1_observed_hits.get() - observed;
        let is_hit = found == reads as u64 && reads > 0;
        counters.l1_observed_hits.sub(found - u64::from(is_hit));
    }

    /// An entry was given: `bytes` of request and reply did not travel.
    pub(super) fn count_given(&self, entry: &Entry, read: &Read<'_>, bytes: usize, pays: bool) {
        self.hot.note(read.key, read.key_hash, Event::Hit, bytes);
        if pays {
            entry.reads.fetch_add(1, Ordering::Relaxed);
        }
        self.stats.counters.l1_hit_bytes.add(bytes as u64);
    }

    /// Forgets the connections of those who are gone.
    pub fn forget_trackers(&self, is_alive: impl Fn(IdentityId) -> bool) {
        let alive = |scope: &Scope| is_alive(scope.identity);
        self.trackers.borrow_mut().retain(|scope, _| alive(scope));
        self.l1.forget_trackers(alive);
    }

    /// Lets go what is no longer good and would stay in front of the store for want of readers.
    pub fn tidy(&self) {
        let mut front = self.front.borrow_mut();
        if front.bytes() > 0 {
            front.sweep(|entry| self.l1.stands(entry));
        }
    }

    /// What became of a read whose reply is not known.
    fn note(&self, read: &Read<'_>, what: Event) {
        let bytes = read.args.len();
        self.hot.note(read.key, read.key_hash, what, bytes);
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
            entry.timed || entry.tracker.is_fresh(now, l1.lease()) || !l1.keeps(Rule::Lease);
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

    /// A fetch of the same read in flight whose answer will be new enough.
    fn joinable(&self, read: &Read<'_>, now: Now) -> Option<Rc<Fetch>> {
        let ticket = *self.latest.borrow().get(&read.hash)?;
        let fetch = self.fetches.borrow().get(&ticket)?.clone();
        let link = self.tracker(read.scope).link();
        let stands = self.l1.stamps.stands(&fetch.stamp, true) && fetch.link == link;
        // It may have been read long ago, and its pushes be as late as its reply.
        let recent = now.since(fetch.since) <= micros(self.l1.lease());
        (fetch.name.is_of(read)
            && (stands || !self.l1.keeps(Rule::VersionedJoin))
            && (recent || !self.l1.keeps(Rule::Lease)))
        .then_some(fetch)
    }

    /// Orders the read on its tracked connection, if that is up.
    fn fetch(
        &self,
        read: &Read<'_>,
        now: Now,
        (terms, waste): (&Arc<Terms>, u8),
        fetcher: &mut impl Fetcher,
    ) -> Option<Rc<Fetch>> {
        if terms.mode == Mode::Observe {
            return None;
        }
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
        if !can || tracker.is_stuck(now, self.l1.lease()) {
            self.stats.counters.l1_bypass_down.add(1);
            self.note(read, Event::Bypass(Reason::NotTracked));
            return None;
        }
        let link = tracker.link();
        let stamp = self.l1.stamps.arm(read.place);
        let ticket = self.next_ticket.get();
        self.next_ticket.set(ticket + 1);
        let fetch = Fetch::new(read.name(), stamp, link, now);
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
            waste,
            ticket,
        });
        Some(fetch)
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
        self.note_answer(&fetch, &answer);
        if let Some(entry) = &answer
            && entry.age > 0
        {
            self.front.borrow_mut().put(entry.clone());
        }
        fetch.answer(answer);
    }

    fn note_answer(&self, fetch: &Fetch, answer: &Answer) {
        let key = fetch.name.key();
        let what = match answer {
            Some(entry) if !entry.unfit && entry.age == 0 => Event::Lost,
            Some(entry) => unfit(entry),
            None => Event::Miss,
        };
        let reply = answer.as_ref().map_or(0, |entry| entry.reply().len());
        let bytes = fetch.name.args.len() + reply;
        self.hot.note(key, self.l1.stamps.hash(key), what, bytes);
        self.hot.forget_counted();
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
            life: None,
            terms: terms.clone(),
            unfit: false,
            waste: 0,
        };
        self.stats.counters.l1_observed_fills.add(1);
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

/// What a read was that found this, or brought it: there is no reply in it if that was too long.
fn unfit(entry: &Entry) -> Event {
    match entry.unfit && entry.reply().is_empty() {
        true => Event::Bypass(Reason::TooLarge),
        false => Event::Miss,
    }
}

/// The entry's rule lets it be used beyond its time, and the server cannot be reached.
pub(super) fn may_serve_stale(entry: &Entry, now: Now, is_down: impl Fn() -> bool) -> bool {
    let Some(limit) = entry.terms.stale_if_down else {
        return false;
    };
    // Parts of a hash may have an end of their own, which nobody has told.
    if entry.reply().is_empty() || entry.shape.is_hash() {
        return false;
    }
    let end = entry.age.saturating_add(micros(limit)).min(entry.life);
    now.since(entry.born) < end && is_down()
}
