//! The workers' histograms in Prometheus's text format.
//!
//! They are already folded into buckets, which the exporter cannot take over: it wants samples.

use std::fmt::Write;

use crate::stats::{BUCKETS, Histogram};

/// Appends the sum of `histograms` as one Prometheus histogram in seconds.
///
/// The buckets are read once, so that the last bucket and the count agree while workers go on
/// counting. A bound belongs to the bucket above it here and to the bucket below it in Prometheus:
/// durations are whole microseconds, so this moves a sample by less than one.
pub(super) fn write<'a>(
    out: &mut String,
    name: &str,
    help: &str,
    histograms: impl Iterator<Item = &'a Histogram>,
) {
    let mut buckets = [0u64; BUCKETS];
    let mut sum_us = 0u64;
    for histogram in histograms {
        for (i, total) in buckets.iter_mut().enumerate() {
            *total += histogram.bucket(i);
        }
        sum_us = sum_us.wrapping_add(histogram.sum_us());
    }
    let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} histogram\n");
    let mut count = 0;
    for (i, samples) in buckets.into_iter().enumerate() {
        count += samples;
        // Writing to a string cannot fail.
        let _ = match Histogram::upper_bound(i) {
            Some(bound) => {
                writeln!(
                    out,
                    "{name}_bucket{{le=\"{}\"}} {count}",
                    bound.as_secs_f64()
                )
            }
            None => writeln!(out, "{name}_bucket{{le=\"+Inf\"}} {count}"),
        };
    }
    let seconds = sum_us as f64 / 1e6;
    let _ = write!(out, "{name}_sum {seconds}\n{name}_count {count}\n\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn buckets_are_cumulative_and_summed_over_workers() {
        let (one, two) = (Histogram::default(), Histogram::default());
        one.record(Duration::from_micros(1), 2);
        two.record(Duration::from_millis(1), 3);
        two.record(Duration::from_secs(1000), 1);
        let mut out = String::new();
        write(&mut out, "x_seconds", "Help.", [&one, &two].into_iter());
        let lines: Vec<&str> = out.lines().collect();
        assert_eq!(
            lines[..2],
            ["# HELP x_seconds Help.", "# TYPE x_seconds histogram"]
        );
        assert_eq!(lines[2], "x_seconds_bucket{le=\"0.000001\"} 0");
        assert_eq!(lines[3], "x_seconds_bucket{le=\"0.000002\"} 2");
        assert_eq!(lines[11], "x_seconds_bucket{le=\"0.000512\"} 2");
        assert_eq!(lines[12], "x_seconds_bucket{le=\"0.001024\"} 5");
        assert_eq!(lines[28], "x_seconds_bucket{le=\"67.108864\"} 5");
        assert_eq!(lines[29], "x_seconds_bucket{le=\"+Inf\"} 6");
        assert_eq!(lines[30], "x_seconds_sum 1000.003002");
        assert_eq!(lines[31], "x_seconds_count 6");
    }
}
