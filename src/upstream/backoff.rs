//! How long to wait before the next attempt to connect.

use std::time::Duration;

/// Exponential backoff with full jitter: each pause is random between zero and a bound that doubles
/// with every failure, so that many proxies that lost one server do not come back in step.
#[derive(Clone, Debug)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    failures: u32,
    random: u64,
}

impl Backoff {
    /// Pauses between zero and a bound that grows from `min` to `max`; `seed` decides the jitter.
    pub fn new(min: Duration, max: Duration, seed: u64) -> Self {
        Self {
            min,
            max,
            failures: 0,
            random: seed | 1,
        }
    }

    /// The pause after one more failure.
    pub fn next_pause(&mut self) -> Duration {
        let bound = self
            .min
            .saturating_mul(1 << self.failures.min(20))
            .min(self.max);
        self.failures = self.failures.saturating_add(1);
        // xorshift64: jitter needs to differ between processes, not to be unpredictable
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let share = (self.random >> 11) as f64 / (1u64 << 53) as f64;
        bound.mul_f64(share)
    }

    /// An attempt has succeeded.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_maximum_and_spread_over_the_whole_range() {
        let (min, max) = (Duration::from_millis(50), Duration::from_secs(5));
        let mut backoff = Backoff::new(min, max, 42);
        let pauses: Vec<_> = (0..1000).map(|_| backoff.next_pause()).collect();
        assert!(pauses[0] <= min && pauses.iter().all(|p| *p <= max));
        let late = &pauses[10..];
        assert!(late.iter().any(|p| *p < max / 10) && late.iter().any(|p| *p > max * 9 / 10));
        backoff.reset();
        assert!(backoff.next_pause() <= min);
    }
}
