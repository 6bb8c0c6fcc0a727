//! What the replies of a run tell of keys that L1 may know.

use super::pipe::{Piece, Terms};
use crate::l1::L1;
use crate::resp::Protocol;
use crate::resp::reply::{ReplyScan, ReplyScanner};

impl Terms {
    /// Replies have come and are not handed on yet: what they may have changed or shown is touched.
    pub fn note_answered(&self, l1: &L1, protocol: Protocol, piece: &Piece, reply: &[u8]) {
        let whole = piece.last && piece.completed == 1 && !piece.torn;
        let places = self.touched.places();
        match (&self.reads, places) {
            (ShownReads::One(read), [place]) if whole => {
                l1.note_shown(*place, *read, protocol, reply);
            }
            (ShownReads::Each(reads), _) if whole && reads.len() == places.len() => {
                let elements = elements(reply).filter(|elements| elements.len() == reads.len());
                match elements {
                    Some(elements) => {
                        for ((read, place), element) in reads.iter().zip(places).zip(elements) {
                            l1.note_shown(*place, *read, protocol, element);
                        }
                    }
                    None => l1.note_answered(&self.touched),
                }
            }
            _ => l1.note_answered(&self.touched),
        }
    }
}

/// Reads that a row consists of, by their hashes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ShownReads {
    /// It is not known.
    #[default]
    None,
    /// Its reply is that of one read.
    One(u64),
    /// Its reply is an array of what these yield.
    Each(Box<[u64]>),
}

/// The elements of a whole array.
fn elements(reply: &[u8]) -> Option<Vec<&[u8]>> {
    let mut scanner = ReplyScanner::default();
    let mut at = reply.iter().position(|byte| *byte == b'\n')? + 1;
    if reply.first() != Some(&b'*') {
        return None;
    }
    let mut found = Vec::new();
    while at < reply.len() {
        let ReplyScan::Complete { consumed, .. } = scanner.scan(&reply[at..]).ok()? else {
            return None;
        };
        found.push(&reply[at..at + consumed]);
        at += consumed;
    }
    Some(found)
}
