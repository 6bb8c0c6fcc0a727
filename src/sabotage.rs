//! Planted bugs: what the chaos run must notice. A build for tests has one of them, named by
//! `NEARKEY_SABOTAGE`; in all others [`is`] is false before the program is compiled, and nothing of this
//! is left.
//!
//! The rules of L1 that can be left out are in [`crate::l1::Rule`].

/// A mistake that a proxy can make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A command that got its error leaves no tombstone for its late reply.
    TimeoutPop,
    /// A client that is gone takes its places in the queue with it.
    GonePop,
    /// Commands that were sent on a lost connection keep their places on the next one.
    OldReplies,
    /// A command's bytes and its place in the queue are not entered in the same order.
    SplitEnqueue,
    /// What a partial write left over is not written.
    CutWrite,
    /// `CLIENT REPLY` reaches the server, on a shared connection.
    ReplyForwarded,
    /// What was sent on a lost connection is sent again, whatever it was.
    WriteTwice,
    /// A client that got a part of a reply gets the next one as its end.
    TornOn,
    /// The proxy's own pings have no place in the queue: their replies are for somebody else.
    SurplusReply,
    /// A message is for the subscribers of another channel.
    WrongSubscriber,
    /// Others' commands may come between MULTI and EXEC.
    SplitTransaction,
}

/// Whether this build makes this mistake.
#[inline(always)]
#[must_use]
pub fn is(bug: Bug) -> bool {
    #[cfg(feature = "sabotage")]
    return planted::CHOSEN.get() == Some(&bug);
    #[cfg(not(feature = "sabotage"))]
    {
        let _ = bug;
        false
    }
}

/// True once in so many calls on this thread: for mistakes that a race would make only at times.
#[must_use]
pub fn now_and_then(calls: u32) -> bool {
    thread_local!(static COUNT: std::cell::Cell<u32> = const { std::cell::Cell::new(0) });
    let count = COUNT.get().wrapping_add(1);
    COUNT.set(count);
    count.is_multiple_of(calls)
}

#[cfg(feature = "sabotage")]
mod planted {
    use super::Bug;

    pub(super) static CHOSEN: std::sync::OnceLock<Bug> = std::sync::OnceLock::new();

    const ALL: [Bug; 11] = [
        Bug::TimeoutPop,
        Bug::GonePop,
        Bug::OldReplies,
        Bug::SplitEnqueue,
        Bug::CutWrite,
        Bug::ReplyForwarded,
        Bug::WriteTwice,
        Bug::TornOn,
        Bug::SurplusReply,
        Bug::WrongSubscriber,
        Bug::SplitTransaction,
    ];

    /// From now on this process makes the mistake of this name (`timeout_pop`); false if there is none.
    pub fn choose(name: &str) -> bool {
        let named = |bug: &Bug| format!("{bug:?}").eq_ignore_ascii_case(&name.replace('_', ""));
        let bug = ALL.into_iter().find(named);
        bug.is_some_and(|bug| CHOSEN.set(bug).is_ok())
    }
}

#[cfg(feature = "sabotage")]
pub use planted::choose;
