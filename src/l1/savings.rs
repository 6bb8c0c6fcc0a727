//! What L1 has saved, from what was counted.

use std::time::Duration;

use super::config::Cost;

/// What was counted over some time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Reads answered from L1.
    pub hits: u64,
    /// Bytes of their requests and replies.
    pub hit_bytes: u64,
    /// Reads that waited for a fill another had ordered: they did not travel either.
    pub joins: u64,
    /// Commands that only L1 asked for: what a fill takes beside its read, pings, tracking.
    pub overhead_commands: u64,
    /// Bytes of those, and of the server's pushes.
    pub overhead_bytes: u64,
    /// A recent round trip to the server.
    pub round_trip: Duration,
}

/// What was saved. Below zero where L1 took more than it saved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Savings {
    /// Commands the server did not get.
    pub commands: i64,
    /// Bytes that did not travel.
    pub bytes: i64,
    /// What clients did not wait for, all together.
    pub waiting: Duration,
    /// Money, in millionths; `None` if no price is stated.
    pub money: Option<i64>,
}

impl Usage {
    /// What it saved at these prices.
    pub fn savings(&self, cost: Cost) -> Savings {
        let commands = minus(self.hits.saturating_add(self.joins), self.overhead_commands);
        let bytes = minus(self.hit_bytes, self.overhead_bytes);
        Savings {
            commands,
            bytes,
            waiting: times(self.round_trip, self.hits),
            money: (cost != Cost::default()).then(|| money(commands, bytes, cost)),
        }
    }
}

fn minus(a: u64, b: u64) -> i64 {
    clamp(i128::from(a) - i128::from(b))
}

fn times(duration: Duration, n: u64) -> Duration {
    let nanos = duration.as_nanos().saturating_mul(u128::from(n));
    let seconds = u64::try_from(nanos / 1_000_000_000).unwrap_or(u64::MAX);
    Duration::new(seconds, (nanos % 1_000_000_000) as u32)
}

/// Rounded towards zero: nothing is promised that was not saved.
fn money(commands: i64, bytes: i64, cost: Cost) -> i64 {
    let price = |count: i64, per: u64| i128::from(count).saturating_mul(i128::from(per));
    // Both over 10^9, so that what is less than a millionth of each adds up.
    let commands = price(commands, cost.per_100k_commands).saturating_mul(10_000);
    clamp(commands.saturating_add(price(bytes, cost.per_gb)) / 1_000_000_000)
}

fn clamp(value: i128) -> i64 {
    value.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    const COST: Cost = Cost {
        per_100k_commands: 200_000,
        per_gb: 30_000,
    };

    #[test]
    fn hits_are_saved_less_what_l1_asks_for_itself() {
        let usage = Usage {
            hits: 1_000_000,
            hit_bytes: 2_000_000_000,
            joins: 1_000,
            overhead_commands: 101_000,
            overhead_bytes: 500_000_000,
            round_trip: Duration::from_micros(800),
        };
        let savings = usage.savings(COST);
        assert_eq!(savings.commands, 900_000);
        assert_eq!(savings.bytes, 1_500_000_000);
        assert_eq!(savings.waiting, Duration::from_secs(800));
        // 9 x 0.20 and 1.5 x 0.03.
        assert_eq!(savings.money, Some(1_845_000));
        assert_eq!(usage.savings(Cost::default()).money, None);
    }

    #[test]
    fn an_l1_that_costs_more_than_it_saves_says_so() {
        let usage = Usage {
            hits: 10,
            overhead_commands: 1_000_010,
            ..Usage::default()
        };
        let savings = usage.savings(COST);
        assert_eq!(
            (savings.commands, savings.money),
            (-1_000_000, Some(-2_000_000))
        );
    }

    #[test]
    fn no_number_is_too_large() {
        let usage = Usage {
            hits: u64::MAX,
            hit_bytes: u64::MAX,
            joins: u64::MAX,
            round_trip: Duration::MAX,
            ..Usage::default()
        };
        let cost = Cost {
            per_100k_commands: u64::MAX,
            per_gb: u64::MAX,
        };
        let savings = usage.savings(cost);
        assert_eq!(
            (savings.commands, savings.money),
            (i64::MAX, Some(i64::MAX))
        );
        assert!(savings.waiting > Duration::from_secs(1 << 40));
    }
}
