//! What the proxy does with a command.

use super::flags::Flags;
use super::{CommandTable, Decides, Spec};

/// What the proxy does with a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Answered by the session.
    Local,
    /// Stateless: travels on a shared connection.
    Shared,
    /// MULTI, EXEC, DISCARD.
    Transaction,
    /// WATCH, UNWATCH.
    Watch,
    /// A leased connection for this one command. It may wait; or it must not wait behind what it is
    /// to end or to watch (SCRIPT KILL behind the script, CLIENT UNPAUSE behind a paused command); or
    /// it can write anything at all to its connection (DEBUG).
    Blocking,
    /// (P|S)(UN)SUBSCRIBE.
    Subscribe,
    /// A leased connection until the client leaves the state that the command puts it in.
    Pinned,
    /// Answered with an error that names the setting which denies it.
    Refused,
}

/// Commands denied unless the configuration says otherwise: each of them would end the server, make
/// it another server's replica, turn the connection into a replication link, or re-shape the
/// cluster, for every client behind this proxy and every other one.
pub const DEFAULT_DENY: &[&str] = &[
    "SHUTDOWN",
    "REPLICAOF",
    "SLAVEOF",
    "FAILOVER",
    "SYNC",
    "PSYNC",
    "REPLCONF",
    "TRIMSLOTS",
    "CLUSTER ADDSLOTS",
    "CLUSTER ADDSLOTSRANGE",
    "CLUSTER BUMPEPOCH",
    "CLUSTER CANCELSLOTMIGRATIONS",
    "CLUSTER DELSLOTS",
    "CLUSTER DELSLOTSRANGE",
    "CLUSTER FAILOVER",
    "CLUSTER FLUSHSLOT",
    "CLUSTER FLUSHSLOTS",
    "CLUSTER FORGET",
    "CLUSTER MEET",
    "CLUSTER MIGRATESLOTS",
    "CLUSTER MIGRATION",
    "CLUSTER REPLICATE",
    "CLUSTER RESET",
    "CLUSTER SAVECONFIG",
    "CLUSTER SET-CONFIG-EPOCH",
    "CLUSTER SETSLOT",
    "CLUSTER SYNCSLOTS",
    // SHUTDOWN by other names. The rest of DEBUG is harmless to others, and test suites use it.
    "DEBUG ASSERT",
    "DEBUG CRASH-AND-RECOVER",
    "DEBUG OOM",
    "DEBUG PANIC",
    "DEBUG RESTART",
    "DEBUG SEGFAULT",
];

/// The class of one call. `args` are all its arguments, the name first. Only where
/// [`Spec::needs_args`] says so does this differ from `spec.class`.
pub fn classify<'a>(
    table: &CommandTable,
    spec: &Spec,
    args: impl Iterator<Item = &'a [u8]>,
) -> Class {
    let mut args = args.skip(1);
    match spec.decides {
        Decides::Name => spec.class,
        Decides::Subcommand => match args.next() {
            None => spec.class,
            Some(name) => table
                .subcommand(spec, name)
                .map_or_else(|| unknown_subcommand(spec), |found| found.class),
        },
        Decides::Block if waits(args) => Class::Blocking,
        Decides::Block => Class::Shared,
    }
}

/// An unknown subcommand is an unknown command: it may leave state behind in its connection.
fn unknown_subcommand(spec: &Spec) -> Class {
    match spec.class {
        // Its whole family travels on a connection of its own already.
        Class::Blocking => Class::Blocking,
        // The server knows none of it.
        _ if spec.is_of_proxy() => spec.class,
        _ => Class::Pinned,
    }
}

/// Whether the options of an XREAD or XREADGROUP have BLOCK among them. A group, a consumer or a
/// stream may be called BLOCK as well, so the options are read as the server reads them.
fn waits<'a>(mut args: impl Iterator<Item = &'a [u8]>) -> bool {
    let mut understood = true;
    while let Some(arg) = args.next() {
        if arg.eq_ignore_ascii_case(b"BLOCK") {
            return true;
        }
        // After an option that is not known here STREAMS may be its value and no longer ends the
        // options. A lease too many costs little, a wait on a shared connection stalls everybody.
        if understood && arg.eq_ignore_ascii_case(b"STREAMS") {
            return false;
        }
        match read_option_values(arg) {
            Some(0) => {}
            Some(values) => {
                args.nth(values - 1);
            }
            None => understood = false,
        }
    }
    false
}

/// How many values follow an option of XREAD or XREADGROUP other than STREAMS; `None` for what is
/// no option of theirs.
pub(super) fn read_option_values(option: &[u8]) -> Option<usize> {
    const OPTIONS: [(&[u8], usize); 5] = [
        (b"COUNT", 1),
        (b"BLOCK", 1),
        (b"GROUP", 2),
        (b"NOACK", 0),
        (b"CLAIM", 1),
    ];
    OPTIONS
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(option))
        .map(|(_, values)| *values)
}

/// The class of a command that is known from the server's COMMAND reply alone. When the flags leave
/// a doubt, it gets a connection of its own.
pub(super) fn class_of_learned(flags: Flags) -> Class {
    let connection_state =
        Flags::NO_MULTI | Flags::NO_AUTH | Flags::ALLOW_BUSY | Flags::PROTECTED | Flags::ASKING;
    let touches_keys = flags.intersects(Flags::READONLY | Flags::WRITE);
    // PUBLISH may be called by scripts, SUBSCRIBE may not.
    let subscribes = flags.contains(Flags::PUBSUB | Flags::NOSCRIPT);
    if flags.intersects(connection_state) || subscribes {
        Class::Pinned
    } else if flags.contains(Flags::BLOCKING) {
        Class::Blocking
    } else if flags.contains(Flags::PUBSUB) {
        Class::Shared
    } else if !touches_keys {
        Class::Pinned
    } else if flags.contains(Flags::NOSCRIPT) {
        // Modules keep out of scripts what replies later, from another thread.
        Class::Blocking
    } else {
        Class::Shared
    }
}
