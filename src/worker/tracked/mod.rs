//! Tracked connections: the drivers of those that this worker owns, and the way to those of others.
//!
//! Each belongs to one worker; all others reach it by mail. What is ordered within one turn of a worker
//! leaves in one letter, and what one letter brings leaves in one write.

mod conn;
mod serve;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::rc::Rc;
use std::sync::{Arc, PoisonError};

use self::conn::TrackedConn;
use super::{Mail, Worker};
use crate::l1::entry::Scope;
use crate::l1::fetch::{Answer, Fetcher, Order};
use crate::l1::tracked::Told;
use crate::l1::tracker::Tracker;
use crate::upstream::IdentityId;

/// The tracked connections of one worker.
#[derive(Debug, Default)]
pub struct TrackedConns {
    conns: RefCell<HashMap<Scope, Rc<TrackedConn>>>,
    /// Orders for other workers, which leave when this one's turn ends.
    orders: RefCell<BTreeMap<usize, Vec<Order>>>,
}

impl TrackedConns {
    /// Forgets the connections of identities that nobody uses; false if there are no others of clients'
    /// own.
    pub(super) fn forget(&self, is_alive: impl Fn(IdentityId) -> bool) -> bool {
        let mut conns = self.conns.borrow_mut();
        conns.retain(|scope, conn| is_alive(scope.identity) || conn.is_running());
        conns.keys().any(|scope| scope.identity != IdentityId::OWN)
    }
}

/// The way to all tracked connections, for one worker.
pub struct Gate<'a>(pub &'a Rc<Worker>);

impl Fetcher for Gate<'_> {
    fn fetch(&mut self, order: Order) {
        let worker = self.0;
        let owner = worker.tracker_owner(order.tracker.scope);
        if owner == worker.index {
            return worker.handle_orders(owner, vec![order]);
        }
        let mut orders = worker.tracked.orders.borrow_mut();
        if orders.is_empty() {
            let worker = worker.clone();
            tokio::task::spawn_local(async move { worker.send_orders() });
        }
        orders.entry(owner).or_default().push(order);
    }

    fn open(&mut self, tracker: &Arc<Tracker>) {
        if !tracker.attend() {
            return;
        }
        match self.0.tracker_owner(tracker.scope) {
            owner if owner == self.0.index => self.0.track(tracker.scope),
            owner => self.0.send(owner, Mail::Track(tracker.scope)),
        }
    }

    fn is_down(&self) -> bool {
        let stats = &self.0.link.dialer.stats;
        let state = stats.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.denies_reads()
    }
}

impl Worker {
    /// Opens a tracked connection of this worker, unless its task runs.
    pub(super) fn track(self: &Rc<Self>, scope: Scope) {
        let Some(l1) = &self.link.l1 else {
            return;
        };
        let conn = self
            .tracked
            .conns
            .borrow_mut()
            .entry(scope)
            .or_insert_with(|| TrackedConn::new(self, l1.clone(), scope))
            .clone();
        self.note_identity(scope.identity);
        conn.start(self);
    }

    /// Takes orders for connections of this worker.
    pub(super) fn handle_orders(self: &Rc<Self>, from: usize, orders: Vec<Order>) {
        let mut refused = Vec::new();
        for order in orders {
            let conns = self.tracked.conns.borrow();
            let conn = conns.get(&order.tracker.scope);
            let ticket = order.ticket;
            if !conn.is_some_and(|conn| conn.enqueue(from, order)) {
                refused.push((from, ticket, None));
            }
        }
        self.tell(refused);
    }

    /// The answers to orders of this worker have come.
    pub(super) fn handle_fetched(&self, answers: Vec<(u64, Answer)>) {
        if let Some(reader) = &self.reader {
            for (ticket, answer) in answers {
                reader.handle_answer(ticket, answer);
            }
        }
    }

    /// Tells the workers what became of their orders.
    fn tell(&self, told: Vec<Told>) {
        let mut own = Vec::new();
        let mut others: BTreeMap<usize, Vec<(u64, Answer)>> = BTreeMap::new();
        for (to, ticket, answer) in told {
            if to == self.index {
                own.push((ticket, answer));
            } else {
                others.entry(to).or_default().push((ticket, answer));
            }
        }
        for (to, answers) in others {
            self.send(to, Mail::Fetched(answers));
        }
        self.handle_fetched(own);
    }

    fn send_orders(&self) {
        let orders = std::mem::take(&mut *self.tracked.orders.borrow_mut());
        for (owner, orders) in orders {
            let from = self.index;
            self.send(owner, Mail::Fetch { from, orders });
        }
    }

    /// Spreads the tracked connections over the workers, the same way on each of them.
    fn tracker_owner(&self, scope: Scope) -> usize {
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(scope);
        (hash as usize) % self.peers()
    }
}
