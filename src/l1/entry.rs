//! What L1 holds: one reply to one read.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::clock::Now;
use super::rules::Terms;
use super::shape::Shape;
use super::stamps::{Place, Stamp};
use super::tracker::Tracker;
use crate::commands::CommandId;
use crate::resp::Protocol;
use crate::upstream::IdentityId;

/// Hits from which on a fill has paid for itself.
const PAYS: u32 = 3;

/// Fills in a row that were of no use are counted up to this: the next comes at the 64th read.
const MAX_WASTE: u8 = 6;

/// Whose values, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Scope {
    /// Database.
    pub db: u32,
    /// Who read it.
    pub identity: IdentityId,
}

impl Default for Scope {
    fn default() -> Self {
        Self {
            db: 0,
            identity: IdentityId::OWN,
        }
    }
}

/// A read that a client asks for.
#[derive(Clone, Copy, Debug)]
pub struct Read<'a> {
    /// Who asks, and where.
    pub scope: Scope,
    /// The client's protocol.
    pub protocol: Protocol,
    /// Which command.
    pub command: CommandId,
    /// How its reply looks in both protocols.
    pub shape: Shape,
    /// The command's name, and how many arguments it has, the name included.
    pub call: (&'a str, u32),
    /// What follows the command's name as it came: its other arguments as bulk strings.
    pub args: &'a [u8],
    /// The one key it reads.
    pub key: &'a [u8],
    /// The hash of the key.
    pub key_hash: u64,
    /// Where the key's stamp is.
    pub place: Place,
    /// The hash of scope, command and arguments.
    pub hash: u64,
}

/// The reply to a read, as long as it is good.
#[derive(Debug)]
pub struct Entry {
    /// The hash of scope, command and arguments.
    pub hash: u64,
    /// Whose, and where.
    pub scope: Scope,
    /// Which command.
    pub command: CommandId,
    /// How the reply looks in both protocols.
    pub shape: Shape,
    /// What protocol `reply` is in.
    pub protocol: Protocol,
    /// The arguments, then the reply.
    data: Box<[u8]>,
    args: u32,
    /// Where the key lies in `data`.
    key: (u32, u32),
    /// What must stand.
    pub stamp: Stamp,
    /// It says that the key is missing.
    pub absent: bool,
    /// The connection that would have heard of a change.
    pub tracker: Arc<Tracker>,
    /// How often that had been lost when the fill was enqueued.
    pub link: u64,
    /// No pushes: it is good for its age.
    pub timed: bool,
    /// When the read was dispatched.
    pub born: Now,
    /// For how many microseconds it is good from then on.
    pub age: u64,
    /// For how many the key lives, whatever else is allowed.
    pub life: u64,
    /// What its rule says.
    pub terms: Arc<Terms>,
    /// It holds no reply, only that none is worth holding: it was too long, or an error.
    pub unfit: bool,
    /// How many fills of this read before it ended without having been of use.
    pub waste: u8,
    /// Commands that it has saved so far: of those it answered together with others, its share.
    pub reads: AtomicU32,
    /// Reads that found it ended.
    pub misses: AtomicU32,
}

/// What is put into an [`Entry`] beside the bytes.
#[derive(Clone, Debug)]
pub struct Facts {
    /// See [`Entry::protocol`].
    pub protocol: Protocol,
    /// See [`Entry::stamp`].
    pub stamp: Stamp,
    /// See [`Entry::absent`].
    pub absent: bool,
    /// See [`Entry::tracker`].
    pub tracker: Arc<Tracker>,
    /// See [`Entry::link`].
    pub link: u64,
    /// See [`Entry::timed`].
    pub timed: bool,
    /// See [`Entry::born`].
    pub born: Now,
    /// See [`Entry::age`].
    pub age: u64,
    /// For how many microseconds the key lives from [`Entry::born`] on, if not for ever.
    pub life: Option<u64>,
    /// See [`Entry::terms`].
    pub terms: Arc<Terms>,
    /// See [`Entry::unfit`].
    pub unfit: bool,
    /// See [`Entry::waste`].
    pub waste: u8,
}

/// The name of an entry, owned: a read that outlives the client's bytes.
#[derive(Clone, Debug)]
pub struct Name {
    /// See [`Read::hash`].
    pub hash: u64,
    /// See [`Read::scope`].
    pub scope: Scope,
    /// See [`Read::command`].
    pub command: CommandId,
    /// See [`Read::shape`].
    pub shape: Shape,
    /// See [`Read::args`].
    pub args: Box<[u8]>,
    /// Where in `args` the key lies.
    pub key: (u32, u32),
}

impl Name {
    /// The key.
    pub fn key(&self) -> &[u8] {
        &self.args[self.key.0 as usize..self.key.1 as usize]
    }

    /// It names the answer to this read.
    pub fn is_of(&self, read: &Read<'_>) -> bool {
        self.hash == read.hash
            && self.scope == read.scope
            && self.command == read.command
            && *self.args == *read.args
    }
}

impl Read<'_> {
    /// The whole command.
    pub fn command_bytes(&self) -> Vec<u8> {
        let (name, argc) = self.call;
        let mut bytes = format!("*{argc}\r\n${}\r\n{name}\r\n", name.len()).into_bytes();
        bytes.extend_from_slice(self.args);
        bytes
    }

    /// Its name, owned.
    pub fn name(&self) -> Name {
        // The key is one of the arguments: it lies in them, or an equal one does at the same place.
        let start = (self.key.as_ptr() as usize).saturating_sub(self.args.as_ptr() as usize);
        let start = start.min(self.args.len());
        let end = (start + self.key.len()).min(self.args.len());
        Name {
            hash: self.hash,
            scope: self.scope,
            command: self.command,
            shape: self.shape,
            args: self.args.into(),
            key: (start as u32, end as u32),
        }
    }
}

impl Entry {
    /// The answer `reply` to what `name` says.
    pub fn new(name: &Name, reply: &[u8], facts: Facts) -> Self {
        let data = [&name.args, reply].concat().into_boxed_slice();
        Self {
            hash: name.hash,
            scope: name.scope,
            command: name.command,
            shape: name.shape,
            protocol: facts.protocol,
            data,
            args: name.args.len() as u32,
            key: name.key,
            stamp: facts.stamp,
            absent: facts.absent,
            tracker: facts.tracker,
            link: facts.link,
            timed: facts.timed,
            born: facts.born,
            age: facts.age,
            life: facts.life.unwrap_or(u64::MAX),
            terms: facts.terms,
            unfit: facts.unfit,
            waste: facts.waste,
            reads: AtomicU32::new(0),
            misses: AtomicU32::new(0),
        }
    }

    /// The arguments of the read, as bulk strings.
    pub fn args(&self) -> &[u8] {
        &self.data[..self.args as usize]
    }

    /// The reply, in [`Entry::protocol`].
    pub fn reply(&self) -> &[u8] {
        &self.data[self.args as usize..]
    }

    /// The key that was read.
    pub fn key(&self) -> &[u8] {
        &self.data[self.key.0 as usize..self.key.1 as usize]
    }

    /// It answers this read, if it is good. A client can be answered from a reply in its own protocol,
    /// or in RESP3.
    #[inline]
    pub fn answers(&self, read: &Read<'_>) -> bool {
        self.hash == read.hash
            && self.scope == read.scope
            && self.command == read.command
            && *self.args() == *read.args
            && (self.protocol == Protocol::Resp3 || self.protocol == read.protocol)
    }

    /// Now that it has ended: how much waste to remember if the read is fetched again, or `None` if it is
    /// not worth that yet. A fill costs three commands, so one that saved less than that was of no use;
    /// each of those in a row doubles the reads that have to be missed before the next.
    /// What was unfit is not asked again before its time, whatever has touched its key: whoever read it
    /// past L1 has.
    pub fn worth_another(&self, now: Now) -> Option<u8> {
        if self.unfit && !self.is_expired(now) {
            return None;
        }
        if self.reads.load(Ordering::Relaxed) >= PAYS {
            return Some(self.waste.saturating_sub(1));
        }
        let missed = self.misses.fetch_add(1, Ordering::Relaxed) + 1;
        let waste = self.waste.saturating_add(1).min(MAX_WASTE);
        (missed >= 1 << self.waste).then_some(waste)
    }

    /// It is too old.
    #[inline]
    pub fn is_expired(&self, now: Now) -> bool {
        now.since(self.born) >= self.age
    }

    /// Its key may have expired since it was read.
    pub fn is_dead(&self, now: Now) -> bool {
        now.since(self.born) >= self.life
    }

    /// Bytes of memory it takes by itself.
    pub fn size(&self) -> usize {
        size_of::<Self>() + self.data.len()
    }
}
