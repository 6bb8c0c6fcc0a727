//! Whom the replies of a connection are for: a client of this thread, or one of another.

use std::rc::Rc;

use super::client::Client;
use super::remote::RemoteRun;
use crate::upstream::pipe::{Handling, Piece};
use crate::upstream::reply_to::{Failure, ReplyTo};

/// The owner of a run of commands.
#[derive(Clone, Debug)]
pub enum Target {
    /// A client of this worker.
    Client(Rc<Client>),
    /// A client of another worker, which handed its commands over.
    Remote(RemoteRun),
}

impl ReplyTo for Target {
    fn deliver(&self, input: &[u8], piece: Piece, batch: &mut Vec<Self>) {
        let first = match self {
            Self::Client(client) => client.deliver(input, piece),
            Self::Remote(run) => run.deliver(input, piece),
        };
        if first {
            batch.push(self.clone());
        }
    }

    fn push(&self, input: &[u8], piece: Piece, batch: &mut Vec<Self>) {
        let Self::Client(client) = self else {
            return; // leased connections serve their own worker's clients
        };
        if client.deliver_push(input, piece) {
            batch.push(self.clone());
        }
    }

    fn abandoned(&self) {
        if let Self::Client(client) = self {
            client.lose_lease();
        }
    }

    fn flush(&self, input: &[u8]) {
        match self {
            Self::Client(client) => client.flush(input),
            Self::Remote(run) => run.flush(),
        }
    }

    fn fail(&self, failure: &Failure, count: u32, handling: Handling) {
        match self {
            Self::Client(client) => client.fail(failure, count, handling),
            Self::Remote(run) => run.fail(failure, count),
        }
    }

    fn is_gone(&self) -> bool {
        // Of its clients another worker knows, and drops what comes.
        matches!(self, Self::Client(client) if client.is_gone())
    }

    fn identity(&self) -> u64 {
        match self {
            Self::Client(client) => client.id(),
            Self::Remote(run) => run.client,
        }
    }

    fn backlog(&self) -> usize {
        match self {
            Self::Client(client) => client.backlog(),
            Self::Remote(run) => run.backlog(),
        }
    }

    fn taken(&self) -> u64 {
        match self {
            Self::Client(client) => client.taken(),
            Self::Remote(run) => run.taken(),
        }
    }

    fn resume(&self) {
        match self {
            Self::Client(client) => client.wake(),
            // The other worker bounds what it hands over by what is unanswered.
            Self::Remote(_) => {}
        }
    }
}
