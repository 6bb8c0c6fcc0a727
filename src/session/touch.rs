//! Which keys a command may change or show, for L1.

use super::Env;
use crate::commands::{Effect, Keys, Spec, keys_of};
use crate::l1::L1;
use crate::l1::config::Scripts;
use crate::l1::touched::Touched;

/// What a call touches; nothing where there is no L1. `spec` is that of the subcommand where there is one.
pub(super) fn touched(env: &Env<'_>, spec: &Spec, args: &[&[u8]]) -> Touched {
    let mut touched = Touched::default();
    if let Some(l1) = env.l1 {
        touch(l1, spec, args, &mut touched);
    }
    touched
}

/// What a command touches that puts its connection in a state, and has no keys.
pub(super) fn of_state(env: &Env<'_>, spec: &Spec) -> Touched {
    match spec.effect() {
        Effect::WritesAny | Effect::Writes => unknown(env),
        _ => Touched::default(),
    }
}

/// What a command may touch that nobody knows.
pub(super) fn unknown(env: &Env<'_>) -> Touched {
    match env.l1 {
        Some(_) => Touched::everything(),
        None => Touched::default(),
    }
}

/// What a call touches of which only the first argument is known, if that is: anything, unless that is
/// its one key.
pub(super) fn touched_by_first(env: &Env<'_>, spec: &Spec, first: Option<&[u8]>) -> Touched {
    let mut touched = Touched::default();
    let Some(l1) = env.l1 else { return touched };
    let writes = match spec.effect() {
        Effect::None => return touched,
        Effect::Reads => false,
        _ => true,
    };
    match first {
        Some(key) if spec.keys == ONE_KEY && spec.effect() != Effect::WritesAny => {
            touched.add(l1.stamps.place(l1.stamps.hash(key)), writes);
        }
        _ => touched.add_everything(writes),
    }
    touched
}

/// The first argument is the one key.
pub(super) const ONE_KEY: Keys = Keys::Range {
    first: 1,
    last: 1,
    step: 1,
};

/// Adds what a call touches.
pub(super) fn touch(l1: &L1, spec: &Spec, args: &[&[u8]], touched: &mut Touched) {
    let (writes, named_only) = match spec.effect() {
        Effect::None => return,
        Effect::Finds => return touched.add_presence(),
        Effect::ReadsAny => return touched.add_everything(false),
        Effect::WritesAny => return touched.add_everything(true),
        Effect::Reads => (false, true),
        Effect::Writes => (true, true),
        Effect::Script { reads_only } => (!reads_only, l1.config().scripts == Scripts::Declared),
    };
    if !named_only {
        return touched.add_everything(writes);
    }
    // `PARENT|NAME`: the positions count from the parent's name all the same.
    match keys_of(spec, args) {
        Some(keys) => {
            for at in keys {
                touched.add(l1.stamps.place(l1.stamps.hash(args[at])), writes);
            }
        }
        // The server is going to refuse it, unless it knows better.
        None => touched.add_everything(writes),
    }
}
