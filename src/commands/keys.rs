//! Where the keys of a call are.

use super::class::read_option_values;
use super::{Flags, Spec};

/// Where a command's keys are among its arguments. Position 0 is the command's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Keys {
    /// It has none.
    None,
    /// Every `step`th argument from `first` to `last`; a negative `last` counts from the end, -1
    /// being the last argument.
    Range {
        /// The first key.
        first: i16,
        /// The last key.
        last: i16,
        /// The distance between two keys.
        step: i16,
    },
    /// As `Range`, but they are names of sharded channels: they choose a cluster node, and no key is
    /// touched.
    Channels {
        /// The first channel.
        first: i16,
        /// The last channel.
        last: i16,
        /// The distance between two channels.
        step: i16,
    },
    /// The argument at `count` says how many keys follow it.
    Numkeys {
        /// Where the result goes, for the commands that store one.
        dest: Option<u8>,
        /// The argument that holds the number.
        count: u8,
        /// The distance between two keys: 2 where a value follows each of them.
        step: u8,
    },
    /// XREAD and XREADGROUP: the first half of what follows STREAMS.
    Streams,
    /// SORT and SORT_RO: the first argument, and the one that follows STORE.
    Sort,
    /// GEORADIUS and GEORADIUSBYMEMBER: the first argument, and the one that follows STORE or
    /// STOREDIST.
    Geo {
        /// Where the options begin.
        options: u8,
    },
    /// MIGRATE: the third argument or, when that is empty, all that follow KEYS.
    Migrate,
    /// Not known here: any key may be touched.
    Unknown,
}

/// The positions of the keys in `args` (the whole call, the name first), ascending, each once.
///
/// `None` when they are not known: a command whose keys this table does not understand, an unknown
/// subcommand, or arguments that the server is going to reject. Such a call must be taken to touch
/// any key. Some commands reach keys that they do not name as well: [`Flags::OTHER_KEYS`].
pub fn keys_of(spec: &Spec, args: &[&[u8]]) -> Option<Vec<usize>> {
    let spec = match args.get(1) {
        Some(name) if !spec.subcommands().is_empty() => spec.find_subcommand(name)?,
        _ => spec,
    };
    if !spec.accepts(args.len()) {
        return None;
    }
    let mut found = match spec.keys {
        Keys::None | Keys::Channels { .. } => Vec::new(),
        Keys::Range { first, last, step } => range(args.len(), first, last, step)?,
        Keys::Numkeys { dest, count, step } => numkeys(args, dest, count.into(), step.into())?,
        Keys::Streams => streams(args)?,
        Keys::Sort => sort(args, spec.flags.contains(Flags::WRITE)),
        Keys::Geo { options } => geo(args, options.into()),
        Keys::Migrate => migrate(args),
        Keys::Unknown => return None,
    };
    found.sort_unstable();
    found.dedup();
    Some(found)
}

fn range(argc: usize, first: i16, last: i16, step: i16) -> Option<Vec<usize>> {
    let first = usize::try_from(first).ok()?;
    let last = match usize::try_from(last) {
        Ok(last) => last,
        Err(_) => argc.checked_sub(last.unsigned_abs().into())?,
    };
    let step = usize::try_from(step).ok().filter(|step| *step > 0)?;
    (last < argc).then(|| (first..=last).step_by(step).collect())
}

fn numkeys(args: &[&[u8]], dest: Option<u8>, count: usize, step: usize) -> Option<Vec<usize>> {
    let number: usize = std::str::from_utf8(args.get(count)?).ok()?.parse().ok()?;
    let after = args.len() - count - 1;
    if number.checked_mul(step)? > after {
        return None;
    }
    let keys = (count + 1..).step_by(step).take(number);
    Some(dest.map(usize::from).into_iter().chain(keys).collect())
}

fn streams(args: &[&[u8]]) -> Option<Vec<usize>> {
    let mut at = 1;
    while !args.get(at)?.eq_ignore_ascii_case(b"STREAMS") {
        at += 1 + read_option_values(args[at])?;
    }
    let after = args.len() - at - 1;
    // Every stream comes with an ID.
    (after > 0 && after.is_multiple_of(2)).then(|| (at + 1..=at + after / 2).collect())
}

fn sort(args: &[&[u8]], may_store: bool) -> Vec<usize> {
    let mut store = None;
    let mut at = 2;
    while at < args.len() {
        at += match args[at] {
            arg if arg.eq_ignore_ascii_case(b"LIMIT") => 3,
            arg if arg.eq_ignore_ascii_case(b"GET") || arg.eq_ignore_ascii_case(b"BY") => 2,
            arg if may_store && arg.eq_ignore_ascii_case(b"STORE") => {
                store = Some(at + 1);
                2
            }
            _ => 1,
        };
    }
    // When an option is repeated, the server takes the last one.
    [1].into_iter()
        .chain(store.filter(|at| *at < args.len()))
        .collect()
}

fn geo(args: &[&[u8]], options: usize) -> Vec<usize> {
    let mut store = None;
    let mut at = options;
    while at + 1 < args.len() {
        let stores =
            args[at].eq_ignore_ascii_case(b"STORE") || args[at].eq_ignore_ascii_case(b"STOREDIST");
        if stores {
            store = Some(at + 1);
            at += 1;
        }
        at += 1;
    }
    [1].into_iter().chain(store).collect()
}

fn migrate(args: &[&[u8]]) -> Vec<usize> {
    const KEY: usize = 3;
    const OPTIONS: usize = 6;
    if !args[KEY].is_empty() {
        return vec![KEY];
    }
    let mut at = OPTIONS;
    while at < args.len() {
        // A password may well be spelt KEYS.
        at += match args[at] {
            arg if arg.eq_ignore_ascii_case(b"KEYS") => return (at + 1..args.len()).collect(),
            arg if arg.eq_ignore_ascii_case(b"AUTH") => 2,
            arg if arg.eq_ignore_ascii_case(b"AUTH2") => 3,
            _ => 1,
        };
    }
    vec![KEY]
}
