//! Keeps the process below `process.memory_limit`.
//!
//! Each worker keeps an account of what its clients make it hold; each client brings it up to date
//! when its buffers have changed. Once it has grown by a step, the worker adds up what all workers
//! hold. Above the soft mark the process is *pressed*: a client that has replies waiting is not read,
//! large requests are refused, and L1 is kept empty. Above the limit the clients that hold most are cut.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::client::{Client, Inner, Stage};
use super::target::Target;
use super::{Mail, Worker, inspect};
use crate::stats::WorkerStats;
use crate::upstream::conn::Conn;

/// What the process needs before it holds anything for anybody: code, stacks, tables, read buffers.
const BASE: u64 = 14 << 20;

/// That memory is short is logged this often at most.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// What a client costs that holds nothing.
const PER_CLIENT: u64 = 2 << 10;

/// All is added up again once a worker holds so much more than before.
const STEP: usize = 256 << 10;

/// Cutting a client that holds less than this would help nobody.
const LEAST_CUT: usize = 16 << 10;

/// So small a part of the limit may clients hold before messages wait for those who read them.
const CROWDED: u64 = 8;

/// Replies that have left are freed from this size on, even if others wait behind them.
const TRIM_AT: usize = 64 * 1024;

/// What the process may hold, shared by its workers.
#[derive(Clone, Debug, Default)]
pub struct Budget {
    limit: u64,
    pressed: Arc<AtomicBool>,
    told: Arc<Mutex<Told>>,
}

/// What the log was told of pressure.
#[derive(Debug, Default)]
struct Told {
    at: Option<Instant>,
    /// That it is over must be told as well.
    open: bool,
}

impl Budget {
    /// At most `limit` bytes; 0 is no limit.
    pub fn new(limit: usize) -> Self {
        Self {
            limit: limit as u64,
            ..Self::default()
        }
    }

    /// Set while the process is above its soft mark.
    pub fn pressed(&self) -> Arc<AtomicBool> {
        self.pressed.clone()
    }

    fn is_pressed(&self) -> bool {
        self.pressed.load(Ordering::Relaxed)
    }

    /// Takes note of what is held; true if that is news.
    fn press(&self, total: u64) -> bool {
        let was = self.is_pressed();
        // Once it is pressed, some room must be there before it is not.
        let mark = self.limit / 100 * if was { 65 } else { 75 };
        let is = total > mark;
        self.pressed.store(is, Ordering::Relaxed);
        is != was
    }

    /// Whether the log is to be told of the news; that pressure begins, at most once in [`TELL_EVERY`].
    fn may_tell(&self, now: Instant) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.is_pressed() {
            return std::mem::take(&mut told.open);
        }
        let early = told.at.is_some_and(|at| now < at + TELL_EVERY);
        if !early {
            *told = Told {
                at: Some(now),
                open: true,
            };
        }
        !early
    }

    /// How much less than `total` must be held, if it is too much.
    fn excess(&self, total: u64) -> u64 {
        match total > self.limit {
            true => total - self.limit / 100 * 95,
            false => 0,
        }
    }
}

/// The account of one worker.
#[derive(Debug, Default)]
pub(super) struct Account {
    budget: Budget,
    grown: Cell<usize>,
    /// A look at the whole is on its way.
    due: Cell<bool>,
    /// L1 is being emptied.
    emptying: Cell<bool>,
    conns: RefCell<Vec<Weak<Conn<Target>>>>,
    /// Room for long messages that are arriving on the connections of hubs.
    hubs: Cell<usize>,
}

impl Account {
    pub fn new(budget: Budget) -> Self {
        Self {
            budget,
            ..Self::default()
        }
    }

    /// The process is above its soft mark.
    pub fn is_pressed(&self) -> bool {
        self.budget.is_pressed()
    }

    /// What waits on this connection counts, too.
    pub fn watch(&self, conn: &Rc<Conn<Target>>) {
        let mut conns = self.conns.borrow_mut();
        conns.retain(|conn| conn.strong_count() > 0);
        conns.push(Rc::downgrade(conn));
    }

    fn upstream_buffers(&self) -> u64 {
        let conns = self.conns.borrow();
        let held = conns.iter().filter_map(Weak::upgrade);
        held.map(|conn| conn.buffered() as u64).sum::<u64>() + self.hubs.get() as u64
    }

    /// Takes note of what a hub's connection needs for messages that are arriving.
    pub fn note_hub(&self, before: usize, now: usize) {
        self.hubs.set(self.hubs.get() - before + now);
    }
}

/// What a worker and its clients hold.
fn held_by(stats: &WorkerStats) -> u64 {
    let counters = &stats.counters;
    counters.client_buffers.get() + counters.upstream_buffers.get()
}

impl Client {
    /// Brings the worker's account up to what this client makes it hold.
    pub(super) fn note_memory(&self, inner: &Inner) {
        let held = inner.held();
        let before = self.counted.replace(held);
        if held != before {
            self.worker.note_held(before, held);
        }
    }

    /// Closes the client for what it holds; false if it holds nothing worth it.
    fn cut(&self) -> bool {
        let Ok(mut inner) = self.inner.try_borrow_mut() else {
            return false;
        };
        if inner.stage == Stage::Broken {
            return false;
        }
        inner.stage = Stage::Broken;
        inner.input = Vec::new();
        inner.output = Vec::new();
        inner.written = 0;
        self.note_memory(&inner);
        drop(inner);
        self.wake();
        true
    }
}

impl Worker {
    pub(super) fn note_held(self: &Rc<Self>, before: usize, held: usize) {
        let gauge = &self.stats.counters.client_buffers;
        gauge.add((held as u64).wrapping_sub(before as u64));
        let account = &self.account;
        if account.budget.limit == 0 {
            return;
        }
        let grown = account.grown.get() + held.saturating_sub(before);
        account.grown.set(grown);
        if (grown >= STEP || account.is_pressed()) && !account.due.replace(true) {
            account.grown.set(0);
            let worker = self.clone();
            // Not here: whoever holds the client whose account this is goes on with it.
            tokio::task::spawn_local(async move { worker.weigh_if_due() });
        }
    }

    /// Adds it all up now if that is due, for those who make many clients hold more at once.
    pub(super) fn weigh_if_due(self: &Rc<Self>) {
        if self.account.due.get() {
            self.weigh();
        }
    }

    /// What clients hold is a good part of the limit.
    pub(super) fn is_crowded(&self) -> bool {
        let limit = self.account.budget.limit;
        let held = self.all_stats.iter();
        let held = held.map(|stats| stats.counters.client_buffers.get());
        limit > 0 && held.sum::<u64>() > limit / CROWDED
    }

    /// Adds up what the process holds, and does what follows from it.
    pub(super) fn weigh(self: &Rc<Self>) {
        self.account.due.set(false);
        let waiting = self.account.upstream_buffers();
        let counters = &self.stats.counters;
        let published = &counters.upstream_buffers;
        published.add(waiting.wrapping_sub(published.get()));
        if self.account.budget.limit == 0 {
            return;
        }
        let clients = self.without_l1();
        let total = clients + self.l1_bytes();
        let budget = &self.account.budget;
        if budget.press(total) && budget.may_tell(Instant::now()) {
            self.tell_pressure(total);
        }
        self.empty_l1();
        // L1 goes before any client does.
        let excess = self.account.budget.excess(clients);
        if excess == 0 {
            return;
        }
        let fullest = self.all_stats.iter().enumerate();
        let fullest = fullest.max_by_key(|(_, stats)| held_by(stats));
        let fullest = fullest.map_or(self.index, |(index, _)| index);
        // Twice the right one is cut rather than a harmless one once.
        if fullest == self.index || held_by(&self.stats) * 2 >= held_by(&self.all_stats[fullest]) {
            self.cut_fullest(excess);
        } else {
            let visit = |worker: &Rc<Self>| worker.weigh();
            self.send(fullest, Mail::Visit(Box::new(visit)));
        }
    }

    fn without_l1(&self) -> u64 {
        let clients = |stats: &Arc<WorkerStats>| {
            let clients = stats.counters.clients.get();
            held_by(stats) + clients * PER_CLIENT
        };
        BASE + self.all_stats.iter().map(clients).sum::<u64>()
    }

    fn l1_bytes(&self) -> u64 {
        self.link.l1.as_ref().map_or(0, |l1| l1.store.bytes())
    }

    /// While memory is short, L1 holds nothing.
    fn empty_l1(self: &Rc<Self>) {
        if !self.account.is_pressed() || self.l1_bytes() == 0 || self.account.emptying.replace(true)
        {
            return;
        }
        let Some(l1) = self.link.l1.clone() else {
            return;
        };
        let worker = self.clone();
        tokio::task::spawn_local(async move {
            inspect::aside(move || {
                l1.store.flush(None);
                l1.store.settle(); // then all of it is gone
            })
            .await;
            worker.account.emptying.set(false);
        });
    }

    fn tell_pressure(&self, total: u64) {
        let (mib, limit) = (total >> 20, self.account.budget.limit >> 20);
        if !self.account.is_pressed() {
            tracing::info!(
                mib,
                limit,
                "memory is well below process.memory_limit again"
            );
            return;
        }
        tracing::warn!(
            mib,
            limit,
            "memory is near process.memory_limit: clients that take no replies are not read, large \
             requests are refused, L1 is kept empty"
        );
    }

    /// Cuts the clients that hold most, until `excess` bytes are free.
    fn cut_fullest(&self, excess: u64) {
        let mut clients = self.all_clients();
        clients.retain(|client| client.counted.get() >= LEAST_CUT);
        clients.sort_unstable_by_key(|client| std::cmp::Reverse(client.counted.get()));
        let (mut cut, mut freed) = (0_u64, 0_u64);
        for client in &clients {
            if freed >= excess {
                break;
            }
            let held = client.counted.get() as u64;
            if client.cut() {
                cut += 1;
                freed += held;
            }
        }
        if cut == 0 {
            return;
        }
        self.stats.counters.clients_cut_memory.add(cut);
        tracing::warn!(
            client = clients[0].id(),
            clients = cut,
            mib = freed >> 20,
            limit = self.account.budget.limit >> 20,
            "clients closed: they held most of what there is (process.memory_limit)"
        );
    }
}

impl Inner {
    /// Frees what has left.
    pub(super) fn trim_output(&mut self) {
        if self.written == self.output.len() {
            self.written = 0;
            self.output = Vec::new();
        } else if self.written >= TRIM_AT && self.written * 2 >= self.output.len() {
            // A client that never catches up must not keep what it has long got.
            self.output.drain(..self.written);
            self.output.shrink_to_fit();
            self.written = 0;
        }
    }

    /// Bytes that the client makes the process hold: what buffers could take counts as well.
    pub(super) fn held(&self) -> usize {
        let gathered = self.gathered.as_ref().map_or(0, |reply| reply.capacity());
        self.input.capacity() + self.output.capacity() + self.session.held_bytes() + gathered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_begins_at_three_quarters_and_ends_with_room() {
        let budget = Budget::new(1000);
        let steps = [(750, false), (751, true), (700, true), (651, true)];
        for (total, pressed) in steps {
            budget.press(total);
            assert_eq!(budget.is_pressed(), pressed, "{total}");
        }
        assert!(budget.press(650) && !budget.is_pressed() && !budget.press(650));
    }

    #[test]
    fn pressure_that_comes_and_goes_is_told_once_a_minute() {
        let budget = Budget::new(1000);
        let start = Instant::now();
        let tell = |total, seconds| {
            budget.press(total) && budget.may_tell(start + Duration::from_secs(seconds))
        };
        assert!(tell(800, 0) && tell(500, 1));
        assert!(!tell(800, 2) && !tell(500, 3) && !tell(800, 59) && !tell(500, 61));
        assert!(tell(800, 62) && tell(500, 63));
    }

    #[test]
    fn what_is_above_the_limit_goes_and_a_little_more() {
        let budget = Budget::new(1000);
        assert_eq!([budget.excess(1000), budget.excess(1001)], [0, 51]);
    }
}
