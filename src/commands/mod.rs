//! Facts about commands, as data: flags, key positions, and what the proxy does with each.
//!
//! [`CommandTable::builtin`] holds the commands of Redis and Valkey. What is denied by configuration
//! and what the server's COMMAND reply adds make a new table of it; a table never changes. A command
//! in no table is not shared and is not a read: it could be anything.

mod class;
mod differences;
mod effect;
mod flags;
mod index;
mod keys;
mod learned;
mod table;

use index::Index;

pub use class::{Class, DEFAULT_DENY, classify};
pub use differences::{DIFFERENCES, Difference};
pub use effect::Effect;
pub use flags::Flags;
pub use keys::{Keys, keys_of};
pub use learned::ServerCommand;

/// The facts about one command or subcommand.
#[derive(Clone, Debug)]
pub struct Spec {
    /// In upper case; `CLIENT|LIST` for a subcommand.
    pub name: Box<str>,
    /// How many arguments, the name included; -n means at least n.
    pub arity: i16,
    /// What the server declares of it.
    pub flags: Flags,
    /// Where its keys are.
    pub keys: Keys,
    /// What the proxy does with it; [`classify`] where [`Spec::needs_args`] says so.
    pub class: Class,
    id: CommandId,
    effect: Effect,
    decides: Decides,
    subcommands: Vec<Self>,
}

/// A command's place in the tables of this process: the same in a table and in those extended from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CommandId {
    /// One more than the command's position; zero for none.
    command: u16,
    /// One more than the subcommand's position; zero for the command itself.
    subcommand: u16,
}

impl CommandId {
    /// The command's place in its table, from one; its subcommands share it.
    pub fn index(self) -> usize {
        self.command.into()
    }
}

/// What a call's class depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decides {
    /// The name alone.
    Name,
    /// The subcommand.
    Subcommand,
    /// Whether BLOCK is among the options.
    Block,
}

impl Spec {
    /// Its place in the table.
    pub fn id(&self) -> CommandId {
        self.id
    }

    /// Whether a call of `argc` arguments, the name included, passes the server's arity check.
    pub fn accepts(&self, argc: usize) -> bool {
        let bound = usize::from(self.arity.unsigned_abs());
        if self.arity >= 0 {
            argc == bound
        } else {
            argc >= bound
        }
    }

    /// Whether the second argument is a subcommand.
    pub fn is_container(&self) -> bool {
        self.decides == Decides::Subcommand || !self.subcommands.is_empty()
    }

    /// Whether it is of this proxy, so that no server has more of it.
    pub fn is_of_proxy(&self) -> bool {
        &*self.name == "NEARKEY"
    }

    /// Whether a call's class depends on its arguments, so that [`classify`] has to look at them.
    pub fn needs_args(&self) -> bool {
        self.decides != Decides::Name
    }

    /// Whether it can change no key. What has neither flag (EVAL, EXEC, PUBLISH) may change one, and
    /// so may a reader that is replicated (PFCOUNT stores its estimate). A container is judged by
    /// its subcommands, not by this.
    pub fn is_read(&self) -> bool {
        self.flags.contains(Flags::READONLY)
            && !self.flags.intersects(Flags::WRITE | Flags::MAY_REPLICATE)
    }

    /// Whether a call whose reply was lost may be sent again: a built-in read. A module's `readonly`
    /// speaks of keys; a cursor of its own may move all the same.
    pub fn is_repeatable(&self) -> bool {
        self.is_read() && !self.flags.contains(Flags::LEARNED)
    }

    /// The subcommands known of this command.
    pub fn subcommands(&self) -> &[Self] {
        &self.subcommands
    }

    fn find_subcommand(&self, name: &[u8]) -> Option<&Self> {
        self.subcommands
            .iter()
            .find(|sub| sub.own_name().as_bytes().eq_ignore_ascii_case(name))
    }

    /// `LIST` of `CLIENT|LIST`, else the whole name.
    fn own_name(&self) -> &str {
        self.name.split_once('|').map_or(&self.name, |(_, own)| own)
    }

    fn refuse(&mut self) {
        self.class = Class::Refused;
        self.decides = Decides::Name;
        self.subcommands.iter_mut().for_each(Self::refuse);
    }
}

/// All commands known, by name. Immutable; made to be shared.
#[derive(Clone, Debug)]
pub struct CommandTable {
    specs: Vec<Spec>,
    index: Index,
    /// What is denied, in upper case: a command learned later can be one of these.
    denied: Vec<(Box<str>, Option<Box<str>>)>,
}

impl CommandTable {
    /// The commands of Redis and Valkey.
    pub fn builtin() -> Self {
        let mut specs: Vec<Spec> = Vec::with_capacity(table::ROWS.len());
        for row in table::ROWS {
            let spec = Spec {
                name: row.name.into(),
                arity: row.arity,
                flags: Flags::from_bits(row.flags),
                keys: row.keys,
                class: row.class,
                id: CommandId::default(),
                effect: Effect::None,
                decides: if row.keys == Keys::Streams {
                    Decides::Block
                } else {
                    Decides::Name
                },
                subcommands: Vec::new(),
            };
            match (row.name.split_once('|'), specs.last_mut()) {
                (Some((parent, _)), Some(last)) if *last.name == *parent => {
                    last.decides = Decides::Subcommand;
                    last.subcommands.push(spec);
                }
                _ => specs.push(spec),
            }
        }
        // The servers do not list the subcommands of DEBUG.
        if let Some(debug) = specs.iter_mut().find(|spec| &*spec.name == "DEBUG") {
            debug.decides = Decides::Subcommand;
        }
        Self::new(specs, Vec::new())
    }

    fn new(mut specs: Vec<Spec>, denied: Vec<(Box<str>, Option<Box<str>>)>) -> Self {
        for (command, spec) in (1..).zip(&mut specs) {
            spec.set_effect(CommandId {
                command,
                subcommand: 0,
            });
            for (subcommand, spec) in (1..).zip(&mut spec.subcommands) {
                spec.set_effect(CommandId {
                    command,
                    subcommand,
                });
            }
        }
        let index = Index::new(specs.iter().map(|spec| &*spec.name));
        Self {
            specs,
            index,
            denied,
        }
    }

    /// This table with the class of `deny`ed commands replaced by [`Class::Refused`]. A name is that
    /// of a command (`FLUSHALL`, `CONFIG`) or of a subcommand (`CONFIG SET`), in any case. Unknown
    /// names are kept: they may be a module's.
    ///
    /// # Errors
    ///
    /// What is wrong with the first name that is not one or two words, or that has a second word although
    /// the command has no subcommands.
    pub fn with_denied(mut self, deny: &[impl AsRef<str>]) -> Result<Self, String> {
        for name in deny.iter().map(AsRef::as_ref) {
            let parsed = self.parse_denied(name)?;
            if !self.denied.contains(&parsed) {
                self.denied.push(parsed);
            }
        }
        Ok(Self::new(self.specs, self.denied).deny())
    }

    fn parse_denied(&self, name: &str) -> Result<(Box<str>, Option<Box<str>>), String> {
        let separators = |c: char| c.is_ascii_whitespace() || c == '|';
        let mut words = name.split(separators).filter(|word| !word.is_empty());
        let (command, sub, more) = (words.next(), words.next(), words.next());
        let is_plain = name.bytes().all(|b| b == b' ' || b.is_ascii_graphic());
        let Some(command) = command.filter(|_| is_plain && more.is_none()) else {
            return Err(format!(
                "'{}' is not a command name: one word, or two for a subcommand",
                name.escape_debug()
            ));
        };
        let known = self.lookup(command.as_bytes());
        let takes_sub = known.is_none_or(Spec::is_container) || self.is_denied(command);
        let upper = |word: &str| word.to_ascii_uppercase().into();
        match sub {
            Some(_) if !takes_sub => Err(format!(
                "'{name}': {} has no subcommands; its name alone denies all of it",
                command.to_ascii_uppercase()
            )),
            sub => Ok((upper(command), sub.map(upper))),
        }
    }

    fn is_denied(&self, command: &str) -> bool {
        self.denied
            .iter()
            .any(|(denied, _)| denied.eq_ignore_ascii_case(command))
    }

    /// Refuses what is denied, with an entry for what has none yet.
    fn deny(mut self) -> Self {
        for (command, sub) in &self.denied {
            let at = self.specs.iter().position(|spec| spec.name == *command);
            let spec = match at {
                Some(at) => &mut self.specs[at],
                None => {
                    self.specs.push(learned::placeholder(command));
                    let last = self.specs.len() - 1;
                    &mut self.specs[last]
                }
            };
            match sub {
                None => spec.refuse(),
                Some(_) if spec.class == Class::Refused => {}
                Some(sub) => spec.refuse_subcommand(sub),
            }
        }
        Self::new(self.specs, self.denied)
    }

    /// The command or subcommand in this place.
    pub fn get(&self, id: CommandId) -> Option<&Spec> {
        let spec = self.specs.get(usize::from(id.command).checked_sub(1)?)?;
        match usize::from(id.subcommand).checked_sub(1) {
            None => Some(spec),
            Some(subcommand) => spec.subcommands.get(subcommand),
        }
    }

    /// The command of this name, in any case.
    #[inline]
    pub fn lookup(&self, name: &[u8]) -> Option<&Spec> {
        self.index.find(name).map(|at| &self.specs[at])
    }

    /// The subcommand `name`, in any case, of `spec`; `None` when it has no such one.
    pub fn subcommand<'a>(&'a self, spec: &'a Spec, name: &[u8]) -> Option<&'a Spec> {
        spec.find_subcommand(name)
    }

    /// How many commands there are, subcommands not counted.
    pub fn len(&self) -> usize {
        self.specs.len()
    }

    /// Whether there are none. There always are some.
    pub fn is_empty(&self) -> bool {
        self.specs.is_empty()
    }

    /// The commands, each with its [subcommands](Spec::subcommands).
    pub fn iter(&self) -> std::slice::Iter<'_, Spec> {
        self.specs.iter()
    }
}

impl<'a> IntoIterator for &'a CommandTable {
    type Item = &'a Spec;
    type IntoIter = std::slice::Iter<'a, Spec>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests;
