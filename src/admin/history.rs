//! The last minutes of the process in samples, so that a page opened late shows what was before.

use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::State;
use crate::stats::{BUCKETS, Histogram};

/// Time between two samples.
pub(super) const STEP: Duration = Duration::from_secs(2);

/// Samples kept: ten minutes.
const ROOM: usize = 300;

/// What happened within one step, and what stood at its end.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Sample {
    /// Counts samples from 1 on.
    number: u64,
    /// Milliseconds since 1970.
    at_ms: u64,
    /// Length of the step in seconds; a process that stood still has long ones.
    seconds: f64,
    clients: u64,
    connections: u64,
    /// Commands of clients, however answered.
    commands: u64,
    l1_hits: u64,
    /// Reads that L1 looked for in vain.
    l1_misses: u64,
    /// Commands that failed in the proxy or on the way.
    errors: u64,
    /// Round trips to the server.
    trips: u64,
    /// Of those, in microseconds; `null` without any.
    mean_us: Option<f64>,
    p50_us: Option<f64>,
    p99_us: Option<f64>,
}

/// Totals since start, of which samples are the differences.
#[derive(Clone, Copy, Default)]
struct Totals {
    commands: u64,
    l1_hits: u64,
    l1_misses: u64,
    errors: u64,
    trips: [u64; BUCKETS],
    sum_us: u64,
}

/// The samples of the last minutes.
#[derive(Default)]
pub(super) struct History(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    samples: VecDeque<Sample>,
    count: u64,
    totals: Totals,
    at: Option<std::time::Instant>,
}

impl Totals {
    fn of(state: &State) -> Self {
        let mut totals = Self {
            commands: commands(state),
            l1_hits: state.sum(|c| &c.l1_hits),
            l1_misses: state.sum(|c| &c.l1_misses),
            errors: errors(state),
            ..Self::default()
        };
        for worker in &state.workers {
            for (i, total) in totals.trips.iter_mut().enumerate() {
                *total += worker.round_trip.bucket(i);
            }
            totals.sum_us = totals.sum_us.wrapping_add(worker.round_trip.sum_us());
        }
        totals
    }
}

/// Commands of clients since start, however they were answered.
pub(super) fn commands(state: &State) -> u64 {
    state.sum(|c| &c.commands_local)
        + state.sum(|c| &c.commands_shared)
        + state.sum(|c| &c.commands_leased)
        + state.sum(|c| &c.commands_refused)
        + super::metrics::from_l1(state)
}

/// Commands since start that failed in the proxy or on the way.
pub(super) fn errors(state: &State) -> u64 {
    state.sum(|c| &c.errors_unreachable)
        + state.sum(|c| &c.errors_timeout)
        + state.sum(|c| &c.errors_busy)
        + state.sum(|c| &c.errors_lost)
}

impl History {
    /// Takes a sample every [`STEP`], for ever.
    pub(super) async fn keep(&self, state: &State) {
        let mut ticks = tokio::time::interval(STEP);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.take(state);
        }
    }

    /// Adds what happened since the last call; the first call only starts.
    fn take(&self, state: &State) {
        let (now, totals) = (std::time::Instant::now(), Totals::of(state));
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut kept.totals, totals);
        let Some(since) = kept.at.replace(now) else {
            return;
        };
        kept.count += 1;
        let sample = sample(kept.count, now - since, &before, &totals, state);
        if kept.samples.len() == ROOM {
            kept.samples.pop_front();
        }
        kept.samples.push_back(sample);
    }

    /// Samples with a number above `number`, oldest first.
    pub(super) fn since(&self, number: u64) -> Vec<Sample> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let newer = kept.samples.iter().filter(|sample| sample.number > number);
        newer.cloned().collect()
    }
}

fn sample(number: u64, step: Duration, old: &Totals, new: &Totals, state: &State) -> Sample {
    let mut trips = new.trips;
    for (bucket, before) in trips.iter_mut().zip(old.trips) {
        *bucket = bucket.wrapping_sub(before);
    }
    let count: u64 = trips.iter().sum();
    let sum_us = new.sum_us.wrapping_sub(old.sum_us) as f64;
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
    Sample {
        number,
        at_ms: since_1970.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)),
        seconds: step.as_secs_f64(),
        clients: state.sum(|c| &c.clients),
        connections: state.upstream.connections.load(Relaxed),
        commands: new.commands.wrapping_sub(old.commands),
        l1_hits: new.l1_hits.wrapping_sub(old.l1_hits),
        l1_misses: new.l1_misses.wrapping_sub(old.l1_misses),
        errors: new.errors.wrapping_sub(old.errors),
        trips: count,
        mean_us: (count > 0).then(|| sum_us / count as f64),
        p50_us: quantile(&trips, 0.5),
        p99_us: quantile(&trips, 0.99),
    }
}

/// A quantile of bucketed durations in microseconds, evenly spread within its bucket.
pub(super) fn quantile(buckets: &[u64; BUCKETS], q: f64) -> Option<f64> {
    let count: u64 = buckets.iter().sum();
    if count == 0 {
        return None;
    }
    let rank = q * count as f64;
    let mut below = 0.0;
    for (i, &samples) in buckets.iter().enumerate() {
        let samples = samples as f64;
        if samples > 0.0 && below + samples >= rank {
            let high = upper_us(i);
            let low = if i == 0 { 0.0 } else { upper_us(i - 1) };
            return Some(low + (high - low) * ((rank - below) / samples).clamp(0.0, 1.0));
        }
        below += samples;
    }
    None
}

/// The last bucket has no bound; what is in it is told as the bound of the one below.
fn upper_us(i: usize) -> f64 {
    let bound = Histogram::upper_bound(i).or_else(|| Histogram::upper_bound(BUCKETS - 2));
    bound.map_or(0.0, |bound| bound.as_secs_f64() * 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::tests::state;

    #[test]
    fn a_sample_is_what_happened_since_the_one_before() {
        let (state, history) = (state(), History::default());
        let counters = &state.workers[0].counters;
        counters.commands_shared.add(5);
        history.take(&state);
        assert!(history.since(0).is_empty(), "the first call only starts");
        counters.commands_shared.add(7);
        counters.l1_hits.add(2);
        state.workers[0]
            .round_trip
            .record(Duration::from_micros(700), 7);
        history.take(&state);
        history.take(&state);
        let samples = history.since(0);
        assert_eq!((samples[0].commands, samples[0].l1_hits), (9, 2));
        assert_eq!((samples[0].trips, samples[0].mean_us), (7, Some(700.0)));
        assert!(
            samples[0]
                .p99_us
                .is_some_and(|us| (512.0..=1024.0).contains(&us))
        );
        assert_eq!((samples[1].commands, samples[1].mean_us), (0, None));
        assert_eq!(history.since(1).len(), 1);
    }

    #[test]
    fn only_the_last_minutes_are_kept() {
        let (state, history) = (state(), History::default());
        for _ in 0..ROOM + 10 {
            history.take(&state);
        }
        let samples = history.since(0);
        assert_eq!(samples.len(), ROOM);
        assert_eq!(samples[ROOM - 1].number, ROOM as u64 + 9);
    }

    #[test]
    fn quantiles_lie_in_the_bucket_of_their_rank() {
        let mut buckets = [0; BUCKETS];
        assert_eq!(quantile(&buckets, 0.5), None);
        buckets[4] = 98;
        buckets[10] = 2;
        let p50 = quantile(&buckets, 0.5).expect("there are samples");
        let p99 = quantile(&buckets, 0.99).expect("there are samples");
        assert!((8.0..=16.0).contains(&p50), "{p50}");
        assert!((512.0..=1024.0).contains(&p99), "{p99}");
    }
}
