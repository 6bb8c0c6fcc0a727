//! What changes while a worker runs: its settings, the way to the server, and whether commands are held.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::lanes::Lane;
use super::{Limits, Mail, Worker, queries};
use crate::commands::CommandTable;
use crate::control::Paused;
use crate::resp::encode;
use crate::session::Settings;
use crate::upstream::gap::BEAT;

/// How often it is looked whether something is done.
const LOOK: Duration = Duration::from_millis(10);

/// A connection that is to be left is waited for so long before the next is left, too.
const PATIENCE: Duration = Duration::from_millis(500);

impl Worker {
    /// Goes by other settings from here on. `table` comes with a server that is asked anew what it has, or
    /// with other denied commands.
    pub fn reconfigure(
        self: &Rc<Self>,
        settings: Arc<Settings>,
        limits: &Limits,
        table: Option<Arc<CommandTable>>,
    ) {
        self.settings.replace(settings);
        self.limits.client_output.set(limits.client_output.get());
        self.limits.on_lost_reply.set(limits.on_lost_reply.get());
        if let Some(table) = table {
            self.table.replace(table);
            // What is learned from here on counts.
            self.table_version.set(self.link.dialer.facts.version());
        }
        if let Some(reader) = &self.reader {
            reader.reconfigure();
        }
    }

    /// Closes clients that are silent for longer than this from here on; zero closes none.
    pub fn watch_silence(self: &Rc<Self>, limit: Duration) {
        let before = self.silence.replace(limit);
        if before.is_zero() && !limit.is_zero() {
            tokio::task::spawn_local(self.clone().close_silent());
        }
    }

    /// Closes clients whose requests do not come within this from here on; zero closes none.
    pub fn watch_requests(self: &Rc<Self>, limit: Duration) {
        if self.patience.replace(Some(limit)).is_none() {
            tokio::task::spawn_local(self.clone().close_late());
        }
    }

    /// The heart of the worker: it notices when the process stood still.
    pub async fn beat(self: Rc<Self>) {
        loop {
            self.link.now();
            self.link.gaps.look_at_wall();
            let gaps = u64::from(self.link.gaps.count());
            let counter = &self.stats.counters.gaps;
            counter.add(gaps.wrapping_sub(counter.get()));
            self.stats.beat.fetch_add(1, Ordering::Relaxed);
            sleep(BEAT).await;
        }
    }

    /// Leaves the connections that lead elsewhere, one after the other; those that clients hold are given
    /// `grace` to be given back.
    pub async fn move_on(self: Rc<Self>, grace: Duration) {
        self.leases.retain(|_| false);
        self.pubsub.wake_hubs();
        let limit = self.link.dialer.config().command_timeout.min(PATIENCE);
        let lanes: Vec<Lane> = self.lanes.borrow().values().cloned().collect();
        for lane in lanes {
            let Lane::Local(lane) = lane else { continue };
            if !lane.conn.is_outdated() {
                continue;
            }
            lane.conn.begin_move();
            let deadline = Instant::now() + limit;
            while lane.conn.is_outdated() && Instant::now() < deadline {
                sleep(LOOK).await;
            }
        }
        tokio::task::spawn_local(self.end_outdated(grace));
    }

    /// Ends the sessions that go on where nobody is to be any more. Their clients see what a lost Redis
    /// would show them.
    async fn end_outdated(self: Rc<Self>, grace: Duration) {
        let deadline = Instant::now() + grace;
        loop {
            let held = self.all_clients().into_iter().filter_map(|client| {
                let lease = client.inner.borrow().attached.lease.clone()?;
                lease.is_outdated().then_some(lease)
            });
            let held: Vec<_> = held.collect();
            if held.is_empty() {
                return;
            }
            if Instant::now() >= deadline {
                held.iter().for_each(|lease| lease.close());
                return;
            }
            sleep(LOOK * 10).await;
        }
    }

    /// Holds commands, and waits until what is in flight has been answered, within limits; the reply says
    /// how many have not. Commands that block are not waited for.
    pub(super) async fn pause(self: &Rc<Self>, scope: Paused, limit: Duration) -> Vec<u8> {
        let pause = &self.control.pause;
        let number = pause.begin(scope, limit);
        tracing::warn!(limit = ?limit, writes_only = scope == Paused::Writes, "commands are held (NEARKEY PAUSE)");
        let worker = self.clone();
        tokio::task::spawn_local(async move {
            sleep(limit).await;
            worker.resume(Some(number));
        });
        let patience = limit.min(self.link.dialer.config().command_timeout);
        let deadline = Instant::now() + patience;
        // What was fed before the pause was seen is on its way once all workers have had two turns.
        queries::blocked(self).await;
        let mut left = self.in_flight(queries::blocked(self).await);
        while left > 0 && Instant::now() < deadline {
            sleep(LOOK).await;
            left = self.in_flight(queries::blocked(self).await);
        }
        let mut reply = Vec::new();
        encode::integer(&mut reply, i64::try_from(left).unwrap_or(i64::MAX));
        reply
    }

    fn in_flight(&self, blocked: u64) -> u64 {
        let each = self.all_stats.iter();
        let all: u64 = each.map(|stats| stats.counters.in_flight.get()).sum();
        all.saturating_sub(blocked)
    }

    /// Ends a pause; false if there is none.
    pub fn resume(&self, number: Option<u64>) -> bool {
        let ended = self.control.pause.end(number);
        if ended {
            tracing::info!("commands are no longer held");
            for peer in 0..self.peers() {
                let wake = |worker: &Rc<Self>| worker.wake_held();
                self.send(peer, Mail::Visit(Box::new(wake)));
            }
        }
        ended
    }

    fn wake_held(&self) {
        for client in self.all_clients() {
            if client.inner.borrow().held {
                client.wake();
            }
        }
    }
}
