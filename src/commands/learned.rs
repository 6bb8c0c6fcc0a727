//! Commands that are not built in: what the server's COMMAND reply says of them, and what the
//! configuration denies without their being known.

use super::class::class_of_learned;
use super::{Class, CommandId, CommandTable, Decides, Effect, Flags, Keys, Spec};

/// One row of a COMMAND reply.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerCommand {
    /// The name; for a subcommand `parent|name` or the name alone.
    pub name: String,
    /// The arity, by Redis's rule.
    pub arity: i16,
    /// The flags as the server spells them; unknown ones decide nothing.
    pub flags: Vec<String>,
    /// The position of the first key; 0 for none, or for not known.
    pub first_key: i32,
    /// The position of the last key, from the end if negative.
    pub last_key: i32,
    /// The distance between two keys.
    pub step: i32,
    /// Its subcommands, where the server lists them (Redis 7 and later).
    pub subcommands: Vec<Self>,
}

impl CommandTable {
    /// This table with the commands and subcommands that are not built in as the server describes
    /// them. What is built in stays as it is, what is denied stays denied. Rows learned earlier are
    /// replaced.
    #[must_use]
    pub fn extended(&self, rows: impl Iterator<Item = ServerCommand>) -> Self {
        let mut specs = self.specs.clone();
        for row in rows.filter(|row| is_name(&row.name)) {
            let name = row.name.to_ascii_uppercase();
            match specs.iter_mut().find(|spec| *spec.name == *name) {
                None => specs.push(learn(name, row)),
                Some(spec) if spec.flags.contains(Flags::LEARNED) => *spec = learn(name, row),
                Some(spec) if spec.is_container() => spec.learn_subcommands(row.subcommands),
                Some(_) => {}
            }
        }
        Self::new(specs, self.denied.clone()).deny()
    }
}

impl Spec {
    fn learn_subcommands(&mut self, rows: Vec<ServerCommand>) {
        for row in rows {
            let own = row.name.rsplit('|').next().unwrap_or_default();
            if !is_name(own) {
                continue;
            }
            let name = format!("{}|{}", self.name, own.to_ascii_uppercase());
            match self.subcommands.iter_mut().find(|sub| *sub.name == *name) {
                None => self.subcommands.push(learn(name, row)),
                Some(sub) if sub.flags.contains(Flags::LEARNED) => *sub = learn(name, row),
                Some(_) => {}
            }
        }
    }

    pub(super) fn refuse_subcommand(&mut self, own: &str) {
        self.decides = Decides::Subcommand;
        match self
            .subcommands
            .iter_mut()
            .find(|sub| sub.own_name() == own)
        {
            Some(sub) => sub.refuse(),
            None => {
                let mut sub = placeholder(&format!("{}|{own}", self.name));
                sub.refuse();
                self.subcommands.push(sub);
            }
        }
    }
}

/// An entry for a command of which nothing but the name is known.
pub(super) fn placeholder(name: &str) -> Spec {
    Spec {
        name: name.into(),
        arity: -1,
        flags: Flags::LEARNED,
        keys: Keys::Unknown,
        class: Class::Pinned,
        id: CommandId::default(),
        effect: Effect::None,
        decides: Decides::Name,
        subcommands: Vec::new(),
    }
}

fn learn(name: String, row: ServerCommand) -> Spec {
    let declared = row.flags.iter().filter_map(|name| Flags::named(name));
    let flags = declared.fold(Flags::LEARNED, Flags::union);
    let is_container = !row.subcommands.is_empty();
    let mut spec = Spec {
        arity: if row.arity == 0 { -1 } else { row.arity },
        flags,
        keys: keys_of_learned(&row, flags),
        class: class_of_learned(flags),
        decides: if is_container {
            Decides::Subcommand
        } else {
            Decides::Name
        },
        ..placeholder(&name)
    };
    spec.learn_subcommands(row.subcommands);
    spec
}

/// A module that declares no keys may still touch some (FT.SEARCH does), so "none" is not believed.
fn keys_of_learned(row: &ServerCommand, flags: Flags) -> Keys {
    if flags.contains(Flags::MOVABLE_KEYS) || row.first_key <= 0 || row.step <= 0 {
        return Keys::Unknown;
    }
    match (
        i16::try_from(row.first_key),
        i16::try_from(row.last_key),
        i16::try_from(row.step),
    ) {
        (Ok(first), Ok(last), Ok(step)) => Keys::Range { first, last, step },
        _ => Keys::Unknown,
    }
}

/// Whether the server could mean a command by this, and the table hold it.
fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'|')
}
