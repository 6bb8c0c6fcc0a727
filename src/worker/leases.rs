//! Leased connections: each serves one session at a time, then waits for the next.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use super::Worker;
use super::target::Target;
use crate::upstream::LaneKey;
use crate::upstream::conn::{Conn, Role};
use crate::upstream::status::{State, Status};

/// The leased connections of one worker that nobody uses now.
#[derive(Debug, Default)]
pub struct Leases {
    idle: RefCell<HashMap<LaneKey, Vec<Rc<Conn<Target>>>>>,
}

impl Leases {
    /// An idle connection, or one that is not open yet.
    pub fn take(&self, worker: &Rc<Worker>, key: LaneKey) -> Rc<Conn<Target>> {
        let mut idle = self.idle.borrow_mut();
        let known = idle.entry(key).or_default();
        while let Some(conn) = known.pop() {
            if conn.state() == State::Open {
                return conn;
            }
        }
        Conn::new(
            key,
            Role::Leased,
            worker.link.clone(),
            Arc::new(Status::default()),
        )
    }

    /// Keeps only what is for the keys that `keep` says.
    pub fn retain(&self, keep: impl Fn(LaneKey) -> bool) {
        let mut idle = std::mem::take(&mut *self.idle.borrow_mut());
        idle.retain(|key, _| keep(*key));
        *self.idle.borrow_mut() = idle;
    }

    /// Takes back a connection that owes nothing; one that is in doubt is closed.
    pub fn give_back(&self, conn: Rc<Conn<Target>>) {
        if conn.state() == State::Open && conn.is_clean() {
            self.idle
                .borrow_mut()
                .entry(conn.key())
                .or_default()
                .push(conn);
        } else {
            conn.close();
        }
    }
}
