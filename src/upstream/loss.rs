//! What becomes of commands whose connection was lost: at most once for writes, once more for reads.

use std::collections::{HashSet, VecDeque};

use super::OnLostReply;
use super::pipe::Run;
use super::reply_to::{Owner, ReplyTo};
use crate::commands::{CommandTable, Flags};
use crate::resp::request::{self, Limits, RequestScanner, Scan};
use crate::sabotage::{self, Bug};

/// Runs that go to the next connection, with their bytes.
pub type Kept<W> = Vec<(Run<Owner<W>>, Vec<u8>)>;

/// Runs that get no reply; true if a part of the reply was passed on already.
pub type Failed<W> = Vec<(Run<Owner<W>>, bool)>;

/// Sorts the runs of a lost connection.
///
/// `bytes` are those of all runs, of which the first `written` may have reached the server.
/// `streaming` says that the first reply was partly passed on. Commands that were never sent are kept.
/// Of those that were, an owner's are kept if all of them only read by the table `reads` and were not
/// sent twice already; otherwise they fail. What such an owner sent later is kept behind them, or
/// fails too if its connection is going to be closed: a lost Redis would not have run it either.
pub fn sort<W: ReplyTo>(
    runs: VecDeque<Run<Owner<W>>>,
    bytes: &[u8],
    written: usize,
    streaming: bool,
    reads: Option<&CommandTable>,
    on_lost_reply: OnLostReply,
) -> (Kept<W>, Failed<W>) {
    let mut parts = Vec::new();
    let mut hopeless = HashSet::new();
    let mut offset = 0;
    for (index, run) in runs.into_iter().enumerate() {
        let own = &bytes[offset..offset + run.bytes];
        let sent = written.saturating_sub(offset).min(run.bytes);
        offset += run.bytes;
        let Some(Owner::Client(owner)) = &run.owner else {
            continue;
        };
        let torn = streaming && index == 0;
        let split = Split::of(&run, own, sent, reads);
        if split.sent > 0 && (torn || run.retried || !split.reads_only) {
            hopeless.insert(owner.identity());
        }
        parts.push((run, own, split, torn));
    }
    let (mut kept, mut failed) = (Vec::new(), Vec::new());
    for (run, own, split, torn) in parts {
        let Some(Owner::Client(owner)) = &run.owner else {
            continue;
        };
        let (owner, terms, since) = (owner.clone(), run.terms.clone(), run.since);
        let is_unit = run.is_unit;
        let part = |owed, bytes, retried| Run {
            owner: Some(Owner::Client(owner.clone())),
            terms: terms.clone(),
            is_unit,
            owed,
            bytes,
            since,
            retried,
        };
        let lost = hopeless.contains(&owner.identity());
        if split.sent > 0 && lost {
            failed.push((part(split.sent, 0, true), torn));
        } else if split.sent > 0 {
            let bytes = &own[split.first..split.unsent_from];
            kept.push((part(split.sent, bytes.len(), true), bytes.to_vec()));
        }
        if split.unsent > 0 && lost && on_lost_reply == OnLostReply::Close {
            failed.push((part(split.unsent, 0, true), false));
        } else if split.unsent > 0 {
            let bytes = &own[split.unsent_from..];
            kept.push((part(split.unsent, bytes.len(), run.retried), bytes.to_vec()));
        }
    }
    (kept, failed)
}

/// Where a run's commands stand.
struct Split {
    /// Where the first unanswered command begins.
    first: usize,
    /// Unanswered commands of which at least one byte was written.
    sent: u32,
    /// Where the commands begin of which nothing was written.
    unsent_from: usize,
    /// How many those are.
    unsent: u32,
    /// Every command that was sent only reads.
    reads_only: bool,
}

impl Split {
    fn of<W>(run: &Run<W>, bytes: &[u8], written: usize, reads: Option<&CommandTable>) -> Self {
        let whole = Self {
            first: 0,
            sent: run.owed,
            unsent_from: bytes.len(),
            unsent: 0,
            reads_only: false,
        };
        let Some(ends) = command_ends(bytes) else {
            return whole;
        };
        let Some(answered) = ends.len().checked_sub(run.owed as usize) else {
            return whole;
        };
        if run.is_unit && answered == 0 && written < bytes.len() {
            // Without its EXEC nothing of a transaction has run.
            return Self {
                sent: 0,
                unsent_from: 0,
                unsent: run.owed,
                ..whole
            };
        }
        if run.is_unit || run.terms.patient {
            return whole;
        }
        if bytes.is_empty() {
            return whole;
        }
        let starts = std::iter::once(0).chain(ends.iter().copied());
        let mut split = Self {
            first: bytes.len(),
            sent: 0,
            unsent_from: bytes.len(),
            unsent: 0,
            reads_only: true,
        };
        for (start, end) in starts.zip(&ends).skip(answered) {
            split.first = split.first.min(start);
            if start < written {
                split.sent += 1;
                split.reads_only &=
                    reads.is_some_and(|table| only_reads(table, &bytes[start..*end]));
            } else {
                split.unsent += 1;
                split.unsent_from = split.unsent_from.min(start);
            }
        }
        split
    }
}

/// Where each command of a run ends; the bytes were scanned before, so they are well-formed.
fn command_ends(bytes: &[u8]) -> Option<Vec<usize>> {
    let (mut scanner, mut ends, mut position) = (RequestScanner::default(), Vec::new(), 0);
    while position < bytes.len() {
        match scanner.scan(&bytes[position..], &Limits::default()).ok()? {
            Scan::Complete { consumed, .. } => position += consumed,
            Scan::Incomplete => return None,
        }
        ends.push(position);
    }
    Some(ends)
}

/// The table says that this command only reads and gives an equal reply when asked again.
fn only_reads(table: &CommandTable, command: &[u8]) -> bool {
    if sabotage::is(Bug::WriteTwice) {
        return true;
    }
    let spec = request::args(command)
        .next()
        .and_then(|name| table.lookup(name));
    spec.is_some_and(|spec| {
        spec.flags.contains(Flags::READONLY) && !spec.flags.contains(Flags::BLOCKING)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::pipe::{Handling, Piece};
    use crate::upstream::reply_to::Failure;

    /// An owner that is only a number.
    #[derive(Clone, Debug, PartialEq, Eq)]
    struct Number(u64);

    impl ReplyTo for Number {
        fn deliver(&self, _: &[u8], _: Piece, _: &mut Vec<Self>) {}
        fn push(&self, _: &[u8], _: Piece, _: &mut Vec<Self>) {}
        fn abandoned(&self) {}
        fn flush(&self, _: &[u8]) {}
        fn fail(&self, _: &Failure, _: u32, _: Handling) {}
        fn identity(&self) -> u64 {
            self.0
        }
        fn backlog(&self) -> usize {
            0
        }
        fn taken(&self) -> u64 {
            0
        }
        fn resume(&self) {}
    }

    const GET: &[u8] = b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n";
    const SET: &[u8] = b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\n1\r\n";

    /// Owner, commands, sent before, bytes.
    type KeptRow = (u64, u32, bool, Vec<u8>);
    /// Owner, commands, torn.
    type FailedRow = (u64, u32, bool);

    struct Case {
        runs: VecDeque<Run<Owner<Number>>>,
        bytes: Vec<u8>,
        on_lost_reply: OnLostReply,
    }

    impl Case {
        fn new(rows: &[(u64, &[&[u8]])]) -> Self {
            let mut case = Self {
                runs: VecDeque::new(),
                bytes: Vec::new(),
                on_lost_reply: OnLostReply::Error,
            };
            for (owner, commands) in rows {
                let bytes = commands.concat();
                case.runs.push_back(Run {
                    owner: Some(Owner::Client(Number(*owner))),
                    terms: Handling::Pass.into(),
                    is_unit: false,
                    owed: commands.len() as u32,
                    bytes: bytes.len(),
                    since: 0,
                    retried: false,
                });
                case.bytes.extend_from_slice(&bytes);
            }
            case
        }

        /// Sorts, and shows what is kept (owner, commands, sent before, bytes) and what failed.
        fn sort(self, written: usize, torn: bool, retry: bool) -> (Vec<KeptRow>, Vec<FailedRow>) {
            let table = CommandTable::builtin();
            let (kept, failed) = sort(
                self.runs,
                &self.bytes,
                written,
                torn,
                retry.then_some(&table),
                self.on_lost_reply,
            );
            let owner = |run: &Run<Owner<Number>>| match &run.owner {
                Some(Owner::Client(Number(n))) => *n,
                _ => panic!("only clients are kept or failed"),
            };
            (
                kept.iter()
                    .map(|(run, bytes)| (owner(run), run.owed, run.retried, bytes.clone()))
                    .collect(),
                failed
                    .iter()
                    .map(|(run, torn)| (owner(run), run.owed, *torn))
                    .collect(),
            )
        }
    }

    #[test]
    fn what_was_never_sent_is_kept_even_if_it_writes() {
        let case = Case::new(&[(1, &[SET, GET]), (2, &[SET])]);
        let (kept, failed) = case.sort(0, false, true);
        assert_eq!(
            kept,
            [
                (1, 2, false, [SET, GET].concat()),
                (2, 1, false, SET.to_vec())
            ]
        );
        assert!(failed.is_empty());
    }

    #[test]
    fn a_write_of_which_one_byte_left_is_never_sent_again() {
        for written in 1..=SET.len() {
            let (kept, failed) = Case::new(&[(1, &[SET])]).sort(written, false, true);
            assert!(kept.is_empty());
            assert_eq!(failed, [(1, 1, false)]);
        }
    }

    #[test]
    fn reads_are_sent_once_more_and_not_twice() {
        let (kept, failed) = Case::new(&[(1, &[GET, GET])]).sort(2 * GET.len(), false, true);
        assert_eq!(kept, [(1, 2, true, [GET, GET].concat())]);
        assert!(failed.is_empty());
        let mut case = Case::new(&[(1, &[GET])]);
        case.runs[0].retried = true;
        let (kept, failed) = case.sort(GET.len(), false, true);
        assert!(kept.is_empty());
        assert_eq!(failed, [(1, 1, false)]);
        let (kept, _) = Case::new(&[(1, &[GET])]).sort(GET.len(), false, false);
        assert!(kept.is_empty(), "retry_reads = false");
    }

    #[test]
    fn a_lost_write_takes_its_owners_reads_with_it_and_nobody_elses() {
        let case = Case::new(&[(1, &[GET]), (2, &[GET]), (1, &[SET]), (1, &[GET])]);
        let sent = 2 * GET.len() + SET.len();
        let (kept, failed) = case.sort(sent, false, true);
        assert_eq!(failed, [(1, 1, false), (1, 1, false)]);
        assert_eq!(
            kept,
            [(2, 1, true, GET.to_vec()), (1, 1, false, GET.to_vec())]
        );
    }

    #[test]
    fn what_a_closed_client_said_later_is_not_sent() {
        let mut case = Case::new(&[(1, &[SET, SET]), (2, &[SET]), (1, &[SET])]);
        case.on_lost_reply = OnLostReply::Close;
        let (kept, failed) = case.sort(SET.len(), false, true);
        assert_eq!(kept, [(2, 1, false, SET.to_vec())]);
        assert_eq!(failed, [(1, 1, false), (1, 1, false), (1, 1, false)]);
    }

    #[test]
    fn answered_commands_of_a_run_are_not_sent_again() {
        let mut case = Case::new(&[(1, &[GET, SET, GET, GET])]);
        case.runs[0].owed = 2;
        let (kept, failed) = case.sort(2 * GET.len() + SET.len(), false, true);
        assert!(failed.is_empty());
        assert_eq!(
            kept,
            [(1, 1, true, GET.to_vec()), (1, 1, false, GET.to_vec())]
        );
    }

    #[test]
    fn a_reply_that_was_partly_passed_on_is_torn() {
        let (kept, failed) = Case::new(&[(1, &[GET]), (2, &[GET])]).sort(2 * GET.len(), true, true);
        assert_eq!(failed, [(1, 1, true)]);
        assert_eq!(kept, [(2, 1, true, GET.to_vec())]);
    }
}
