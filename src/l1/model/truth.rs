//! What was true at the server, and when: the measure of every reply.

use std::collections::BTreeMap;

/// Database and name of a key.
pub type Key = (u32, String);

/// A place in the order in which things happened at the server.
pub type Position = u64;

/// What a key held for a time.
#[derive(Clone, Debug)]
pub struct Version {
    /// The value; `None` if there was none.
    pub value: Option<String>,
    /// When it began.
    pub from: Position,
    /// When and how it ended.
    pub end: Option<End>,
}

/// The end of a version.
#[derive(Clone, Copy, Debug)]
pub struct End {
    pub position: Position,
    /// Microseconds of the server's clock.
    pub at: u64,
    pub cause: Cause,
}

/// Why a version ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    Write,
    /// Its time was over, whether the server had noticed or not.
    Expiry,
    /// Somebody else exchanged the databases, of which the server tells nobody.
    ForeignSwap,
}

/// What a reply says of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// GET.
    Value(Option<String>),
    /// An element of MGET, which gives nothing for what is no string.
    Element(Option<String>),
    /// EXISTS.
    There(bool),
}

/// What a read may rely on.
#[derive(Clone, Debug)]
pub struct Expected {
    pub key: Key,
    /// When it was asked.
    pub begun: u64,
    /// What had been read or written and answered to anybody by then.
    pub floor: Position,
}

/// What is wrong with a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wrong {
    /// The key never held this, or not yet: another database's, another key's, a reply out of order.
    Never,
    /// Older than what had been acknowledged or read before.
    Older,
    /// Changed by others for longer than the lease allows.
    Stale,
    /// The key had expired before it was asked for.
    Expired,
    /// The elements of one MGET or EXEC were never true together.
    Mixed,
    /// Not the reply to the command at hand.
    Order,
    /// When all had come to rest, an entry was not what the server held.
    Rest,
    /// Something was never answered.
    Stuck,
}

/// A fault that was found, in words.
pub type Fault = (Wrong, String);

/// What is held of a server that does not have this.
pub const NO_STRING: &str = "-WRONGTYPE";

/// What a version must be for a read to be right.
type Pass<'a> = dyn Fn(&Version) -> bool + 'a;

/// All that ever was.
#[derive(Debug, Default)]
pub struct Truth {
    histories: BTreeMap<Key, Vec<Version>>,
    pub position: Position,
}

impl Truth {
    /// Something happens at the server.
    pub fn step(&mut self) {
        self.position += 1;
    }

    /// The key holds something else from here on.
    pub fn note(&mut self, key: &Key, value: Option<String>, at: u64, cause: Cause) {
        let position = self.position;
        let history = self.history_mut(key);
        if let Some(last) = history.last_mut() {
            last.end = Some(End {
                position,
                at,
                cause,
            });
        }
        history.push(Version {
            value,
            from: position,
            end: None,
        });
    }

    fn history_mut(&mut self, key: &Key) -> &mut Vec<Version> {
        let first = Version {
            value: None,
            from: 0,
            end: None,
        };
        let history = self.histories.entry(key.clone());
        history.or_insert_with(|| vec![first])
    }

    /// What the key has held.
    pub fn history(&mut self, key: &Key) -> &[Version] {
        self.history_mut(key)
    }

    /// What it holds.
    pub fn current(&mut self, key: &Key) -> Option<String> {
        self.history(key).last().and_then(|last| last.value.clone())
    }

    /// The beginning of what the key held at this place.
    pub fn current_at(&mut self, key: &Key, position: Position) -> Position {
        let history = self.history(key);
        let known = history.iter().rev().find(|v| v.from <= position);
        known.map_or(0, |version| version.from)
    }

    /// All versions that the reply may have meant.
    pub fn meant(&mut self, key: &Key, seen: &Seen) -> Vec<Version> {
        let history = self.history(key);
        history.iter().filter(|v| v.is(seen)).cloned().collect()
    }

    /// Judges a read: the versions that it may have been, if it is right. `lease` and `max_age` in
    /// microseconds.
    pub fn judge(
        &mut self,
        expected: &Expected,
        seen: &Seen,
        lease: u64,
        max_age: u64,
    ) -> Result<Vec<Version>, Fault> {
        let key = expected.key.clone();
        let fault = |wrong: Wrong, candidates: &[Version]| {
            let text = format!("{key:?} read as {seen:?}, expected {expected:?}: {candidates:?}");
            (wrong, text)
        };
        let mut candidates = self.meant(&key, seen);
        let passes: [(Wrong, &Pass<'_>); 3] = [
            (Wrong::Older, &|v| v.may_follow(expected.floor)),
            (Wrong::Stale, &|v| {
                v.lived_at(expected.begun, lease, max_age)
            }),
            (Wrong::Expired, &|v| !v.had_expired(expected.begun)),
        ];
        if candidates.is_empty() {
            return Err(fault(Wrong::Never, self.history(&key)));
        }
        for (wrong, pass) in passes {
            let before = candidates.clone();
            candidates.retain(pass);
            if candidates.is_empty() {
                return Err(fault(wrong, &before));
            }
        }
        Ok(candidates)
    }
}

impl Version {
    fn is(&self, seen: &Seen) -> bool {
        match seen {
            Seen::Value(value) => self.value == *value,
            Seen::Element(value) => {
                let is_string = self.value.as_deref() != Some(NO_STRING);
                self.value.as_ref().filter(|_| is_string) == value.as_ref()
            }
            Seen::There(there) => self.value.is_some() == *there,
        }
    }

    /// Not older than `floor`. What an exchange of databases by others ended may come back.
    fn may_follow(&self, floor: Position) -> bool {
        let swapped = |end: End| end.cause == Cause::ForeignSwap;
        self.from >= floor || self.end.is_some_and(swapped)
    }

    fn lived_at(&self, begun: u64, lease: u64, max_age: u64) -> bool {
        self.end.is_none_or(|end| {
            let slack = match end.cause {
                Cause::ForeignSwap => max_age,
                Cause::Write | Cause::Expiry => lease,
            };
            end.at + slack >= begun
        })
    }

    fn had_expired(&self, begun: u64) -> bool {
        self.end
            .is_some_and(|end| end.cause == Cause::Expiry && end.at < begun)
    }

    /// It was replaced by another at or before this place.
    pub fn is_over_by(&self, position: Position) -> bool {
        self.end.is_some_and(|end| end.position <= position)
    }
}
