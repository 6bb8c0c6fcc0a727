//! Holding commands while the operator says so (`NEARKEY PAUSE`).
//!
//! What is held was never sent: it waits where its client's other unread commands wait, and no time runs for
//! it. Commands that the session answers itself go on, and so does what was sent before.

use super::{Env, Session};
use crate::commands::{Class, Spec};
use crate::control::Paused;

impl Session {
    /// Whether a command waits for the end of a pause.
    pub(super) fn must_pause(&self, spec: &Spec, class: Class, env: &Env<'_>) -> bool {
        let travels = match class {
            Class::Local | Class::Refused => false,
            // The block travels with its last word.
            Class::Transaction => &*spec.name == "EXEC",
            Class::Subscribe => env.paused == Paused::All,
            _ => true,
        };
        match env.paused {
            Paused::No => false,
            Paused::Writes => travels && !spec.is_read() && class != Class::Subscribe,
            Paused::All => travels,
        }
    }
}
