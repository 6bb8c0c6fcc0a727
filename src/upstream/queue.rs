//! How much may wait for the server, and how much may be on its way there.

use super::conn::{Conn, Core};
use super::reply_to::{Failure, ReplyTo};
use super::serve::Serving;

impl<W: ReplyTo> Conn<W> {
    /// While attempts to connect fail, no more than `queue_commands` wait: those that have waited longest
    /// get their error, so that the replies of each client stay in order.
    pub(super) fn shed(&self) {
        let most = self.link.dialer.config().queue_commands;
        let cause = match &self.core.borrow().down {
            Some((_, cause)) => cause.clone(),
            None => return, // it may be up in a moment
        };
        let crowded = Failure::Crowded { cause, most };
        while self.core.borrow().pipe.len() > most
            && let Some(run) = self.pop_older(|_| true)
        {
            self.fail_run(run, &crowded);
        }
    }
}

impl<W: ReplyTo> Serving<W> {
    /// Holds back what would be more than `max_in_flight`; runs stay whole.
    #[inline]
    pub(super) fn bound_in_flight(&self, core: &mut Core<W>) {
        if core.pipe.len() > self.conn.max_in_flight || core.outbox.is_bounded() {
            self.hold_back(core);
        }
    }

    fn hold_back(&self, core: &mut Core<W>) {
        if core.pipe.len() <= self.conn.max_in_flight {
            return core.outbox.bound(None);
        }
        let written = core.outbox.unanswered_written();
        let reach = core.pipe.reach(self.conn.max_in_flight);
        let reach = reach.max(core.pipe.whole(written));
        core.outbox.bound(Some(reach - written));
    }
}
