//! Pauses of the process itself: a container that is throttled to nothing between requests, a machine that is
//! suspended, a thread that stands still.
//!
//! A heart beats once a second in each worker. Where it has missed some beats, the time without them counts
//! for no deadline, since nobody could look at what came meanwhile; and no connection is taken for alive
//! before it has answered.

use std::cell::Cell;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::pipe::Tick;

/// How often the heart beats.
pub const BEAT: Duration = Duration::from_secs(1);

/// A longer silence of the heart was a pause, in microseconds.
const GAP: u64 = 3_000_000;

/// The pauses of one worker.
#[derive(Debug, Default)]
pub struct Gaps {
    /// The latest reading of the monotonic clock.
    beat: Cell<Tick>,
    /// The reading of both clocks when the wall clock was last looked at.
    wall: Cell<Option<(u64, Tick)>>,
    /// All pauses together.
    frozen: Cell<Tick>,
    count: Cell<u32>,
}

impl Gaps {
    /// The worker's time at this reading of the monotonic clock: without the pauses.
    #[inline]
    pub fn tick(&self, reading: Tick) -> Tick {
        let passed = reading.saturating_sub(self.beat.replace(reading));
        if passed > GAP {
            self.note(passed);
        }
        reading - self.frozen.get()
    }

    #[cold]
    fn note(&self, passed: u64) {
        self.frozen.set(self.frozen.get() + passed);
        self.count.set(self.count.get().wrapping_add(1));
        let seconds = Duration::from_micros(passed).as_secs();
        tracing::warn!(
            seconds,
            "this process stood still; connections are checked before they are used"
        );
    }

    /// How many pauses there were.
    #[inline]
    pub fn count(&self) -> u32 {
        self.count.get()
    }

    /// Looks for a pause in which the monotonic clock stood still, too. A wall clock that was set looks the
    /// same, and costs one ping for each connection.
    pub fn look_at_wall(&self) {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH);
        let wall = wall.map_or(0, |wall| {
            u64::try_from(wall.as_micros()).unwrap_or(u64::MAX)
        });
        let reading = self.beat.get();
        let before = self.wall.replace(Some((wall, reading)));
        if let Some((earlier, then)) = before
            && wall.saturating_sub(earlier) > reading.saturating_sub(then) + GAP
        {
            self.count.set(self.count.get().wrapping_add(1));
        }
    }

    #[cfg(test)]
    fn set_wall(&self, back: Duration) {
        if let Some((wall, reading)) = self.wall.get() {
            let earlier = wall - u64::try_from(back.as_micros()).unwrap_or(0);
            self.wall.set(Some((earlier, reading)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_counts_for_no_deadline() {
        let gaps = Gaps::default();
        assert_eq!(gaps.tick(1_000_000), 1_000_000);
        assert_eq!(gaps.tick(3_900_000), 3_900_000);
        assert_eq!(gaps.count(), 0);
        assert_eq!(gaps.tick(3_900_000 + 60_000_000), 3_900_000);
        assert_eq!(gaps.count(), 1);
        assert_eq!(gaps.tick(3_900_001 + 60_000_000), 3_900_001);
        assert_eq!(gaps.count(), 1);
    }

    #[test]
    fn a_pause_of_the_monotonic_clock_shows_on_the_wall() {
        let gaps = Gaps::default();
        gaps.look_at_wall();
        gaps.look_at_wall();
        assert_eq!(gaps.count(), 0);
        gaps.set_wall(Duration::from_secs(60));
        gaps.look_at_wall();
        assert_eq!(gaps.count(), 1);
        gaps.look_at_wall();
        assert_eq!(gaps.count(), 1);
    }
}
