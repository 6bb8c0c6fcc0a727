//! Time as L1 knows it.
//!
//! A machine can be frozen and thawed. Its monotonic clock may stand still meanwhile, its wall clock may
//! jump; what has passed is the larger of what both say.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A moment, in microseconds of both clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Since the process started.
    pub mono: u64,
    /// Since 1970.
    pub wall: u64,
}

impl Now {
    /// Microseconds from `earlier` to this moment, by the clock that says more.
    #[inline]
    pub fn since(self, earlier: Self) -> u64 {
        let mono = self.mono.saturating_sub(earlier.mono);
        let wall = self.wall.saturating_sub(earlier.wall);
        mono.max(wall)
    }

    /// This moment, `by` later on both clocks.
    #[must_use]
    pub fn plus(self, by: Duration) -> Self {
        let by = micros(by);
        Self {
            mono: self.mono.saturating_add(by),
            wall: self.wall.saturating_add(by),
        }
    }
}

/// Tells the time; one for the process.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
}

impl Default for Clock {
    fn default() -> Self {
        Self {
            origin: Instant::now(),
        }
    }
}

impl Clock {
    /// The time.
    pub fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH);
        Now {
            mono: micros(self.origin.elapsed()),
            wall: wall.map_or(0, micros),
        }
    }
}

/// A duration in whole microseconds.
pub fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_passed_is_what_the_clock_says_that_says_more() {
        let then = Now { mono: 5, wall: 100 };
        assert_eq!(Now { mono: 9, wall: 90 }.since(then), 4);
        assert_eq!(Now { mono: 6, wall: 900 }.since(then), 800);
    }
}
