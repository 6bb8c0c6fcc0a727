//! How much the scanners have been given to look at, counted in tests.

use std::cell::Cell;

thread_local! {
    static STEPS: Cell<u64> = const { Cell::new(0) };
}

/// Bytes that a scanner is given; the call itself counts as one.
pub(super) fn count(bytes: usize) {
    STEPS.set(STEPS.get() + bytes as u64 + 1);
}

/// The steps that `act` takes on this thread.
pub fn of(act: impl FnOnce()) -> u64 {
    let before = STEPS.get();
    act();
    STEPS.get() - before
}
