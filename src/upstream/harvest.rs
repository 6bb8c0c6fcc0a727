//! What one read of a connection brings, and whom it is for.

use std::time::Duration;

use super::conn::{Conn, Core, Role};
use super::facts::{Facts, command_rows};
use super::farewell;
use super::link::Link;
use super::pipe::{Piece, Run, Tick};
use super::proof;
use super::reply_to::{Owner, ReplyTo};
use crate::resp::reply::{self, ReplyScan, ReplyScanner};
use crate::stats::WorkerStats;

/// What one read brings, on its way to its owners.
pub(super) struct Harvest<'a, W> {
    pub input: &'a [u8],
    pub now: Tick,
    pub conn: &'a Conn<W>,
    pub stats: &'a WorkerStats,
    /// Whom pushes are for; nobody listens on a shared connection.
    pub holder: Option<W>,
    pub batch: &'a mut Vec<W>,
    pub facts: &'a mut Vec<u8>,
    /// The reply to COMMAND is whole.
    pub told: bool,
    /// The answer has come that others wait for.
    pub probed: bool,
    /// The answer to a question with a number has come...
    pub proved: bool,
    /// ...and was another's: a reply before it is missing or too many.
    pub strayed: bool,
    /// A push came on a leased connection that nobody holds.
    pub left_on: bool,
    pub latency: Option<Duration>,
}

impl<W: ReplyTo> Harvest<'_, W> {
    pub fn take(&mut self, run: Option<&Run<Owner<W>>>, piece: Piece) {
        let Some(run) = run else {
            match &self.holder {
                Some(holder) => holder.push(self.input, piece, self.batch),
                None => self.left_on |= self.conn.role() == Role::Leased,
            }
            return;
        };
        if !run.terms.touched.is_nothing()
            && let Some(l1) = &self.conn.link.l1
        {
            let reply = &self.input[piece.range.clone()];
            run.terms
                .note_answered(l1, self.conn.key.protocol, &piece, reply);
        }
        match &run.owner {
            Some(Owner::Client(owner)) => {
                if piece.completed > 0 {
                    let waited = Duration::from_micros(self.now.saturating_sub(run.since));
                    let replies = u64::from(piece.completed);
                    self.latency = Some(waited);
                    self.stats.round_trip.record(waited, replies);
                    self.stats.counters.in_flight.sub(replies);
                }
                farewell::note_lost_pop(self.conn, run, owner, &self.input[piece.range.clone()]);
                if piece.range.is_empty() {
                    owner.resume(); // what it was not to hear is done
                } else {
                    owner.deliver(self.input, piece, self.batch);
                }
            }
            Some(Owner::Facts) => {
                self.told |= piece.last;
                self.facts.extend_from_slice(&self.input[piece.range]);
            }
            Some(Owner::Question(question)) => question.answer(&self.input[piece.range]),
            Some(Owner::Inquiry(inquiry)) => {
                inquiry.take(&self.input[piece.range], piece.last, &self.conn.link);
            }
            Some(Owner::Probe) => self.probed = true,
            Some(Owner::Proof(nonce)) => {
                let reply = &self.input[piece.range];
                self.strayed |= !proof::is_answer(*nonce, reply);
                self.proved = true;
                self.conn.link.dialer.note_answer(reply);
            }
            Some(Owner::Ping) => {
                let dialer = &self.conn.link.dialer;
                dialer.note_answer(&self.input[piece.range]);
            }
            None => {}
        }
    }
}

/// Publishes what the server has said of itself.
pub(super) fn learn<W>(core: &mut Core<W>, link: &Link) {
    let frame = std::mem::take(&mut core.facts_reply);
    let mut scanner = ReplyScanner::default();
    let whole = matches!(scanner.scan(&frame), Ok(ReplyScan::Complete { .. }));
    let value = reply::decode(&frame, scanner.depth())
        .ok()
        .filter(|_| whole);
    let rows = value.as_ref().map(command_rows).unwrap_or_default();
    let builtin = link.dialer.table();
    let lists_commands = !rows.is_empty();
    let table = if lists_commands {
        builtin.extended(rows.into_iter()).into()
    } else {
        builtin
    };
    tracing::debug!(
        commands = table.len(),
        lists_commands,
        "learned what the server has"
    );
    let identity = core.identity.clone();
    link.dialer.facts.set(Facts {
        identity,
        denied: link.dialer.is_passthrough() && frame.starts_with(b"-NOPERM"),
        lists_commands,
        table,
    });
}
