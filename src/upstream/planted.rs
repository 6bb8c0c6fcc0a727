//! What a connection does wrong when it is told to: see [`crate::sabotage`].

use std::rc::Rc;

use super::conn::{Conn, Core, Role};
use super::pipe::{Run, Terms, Tick};
use super::reply_to::{Owner, ReplyTo};
use crate::sabotage::{self, Bug};

const EXEC: &[u8] = b"*1\r\n$4\r\nEXEC\r\n";

impl<W: ReplyTo> Conn<W> {
    /// Enters a transaction in two parts with a pause between them; false if it is none.
    pub(super) fn enqueue_split(
        self: &Rc<Self>,
        bytes: &[u8],
        count: u32,
        terms: &Terms,
        owner: &W,
        now: Tick,
    ) -> bool {
        let is_whole = terms.hidden + 1 == count && terms.hidden > 0;
        let Some(head) = bytes.strip_suffix(EXEC).filter(|_| is_whole) else {
            return false;
        };
        // Both parts are no unit, or nothing would ever come between them.
        self.enter(head, count - 1, terms.clone(), owner.clone(), now);
        let (conn, owner) = (self.clone(), owner.clone());
        let rest = Terms {
            hidden: 0,
            ..terms.clone()
        };
        tokio::task::spawn_local(async move {
            tokio::task::yield_now().await;
            conn.enter(EXEC, 1, rest, owner, now);
        });
        true
    }
}

impl<W: ReplyTo> Core<W> {
    /// Does what a mistake in the queue's keeping does, before replies are matched.
    pub(super) fn spoil_queue(&mut self) {
        if sabotage::is(Bug::GonePop) {
            let is_gone = |run: &Run<Owner<W>>| matches!(&run.owner, Some(Owner::Client(owner)) if owner.is_gone());
            self.pipe.forget(is_gone);
        }
    }

    /// Does what a mistake in entering a command does.
    pub(super) fn spoil_order(&mut self, role: Role) {
        if sabotage::is(Bug::SplitEnqueue) && role == Role::Shared && sabotage::now_and_then(50) {
            self.pipe.swap_last();
        }
    }
}
