//! How long a connection is waited for on which a command blocks.

use std::time::Duration;

use super::pipe::{Run, Tick};
use super::serve::Ended;

/// How often such a connection is looked at.
const CHECK: Duration = Duration::from_secs(5);

/// When to look again at `run`, which blocks. It has its own time, if it has said so, and then that of any
/// other command. Beyond it the connection is of no use: an element that still came on it would be taken
/// from its list for nobody.
pub(super) fn check<W>(run: &Run<W>, now: Tick, limit: Duration) -> Result<Duration, Ended> {
    if run.terms.wait == 0 {
        return Ok(CHECK);
    }
    let wait = Duration::from_millis(run.terms.wait.into());
    let waited = Duration::from_micros(now.saturating_sub(run.since));
    match (wait + limit).checked_sub(waited) {
        None | Some(Duration::ZERO) => Err(Ended::Lost(format!(
            "no reply {limit:?} after a command had waited for {wait:?}"
        ))),
        Some(left) => Ok(left.min(CHECK)),
    }
}
