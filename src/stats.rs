//! Counters of the running process: written by one thread each, read by any.
//!
//! The hot path adds to plain cells of its own worker; the admin endpoint sums the workers when it
//! is asked. Nothing here allocates, locks or touches the `metrics` registry per command.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::hub::Kind;

mod upstream;

pub use upstream::{ConnectFailure, Trouble, UpstreamState, UpstreamStats};

/// A counter (or gauge) with one writing thread.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the owning thread may call this: it is a plain load and store.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Subtracts `n`, for gauges. Only the owning thread may call this.
    pub fn sub(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(n), Relaxed);
    }

    /// The value as last written.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Number of buckets of a [`Histogram`].
pub const BUCKETS: usize = 28;

/// A histogram of durations in powers of two of a microsecond: bucket `i` counts `d < 2^i us`
/// that no lower bucket counts; the last bucket (from about 67 s) has no upper bound.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [Counter; BUCKETS],
    sum_us: Counter,
}

impl Histogram {
    /// Counts `n` samples of duration `d`. Only the owning thread may call this.
    pub fn record(&self, d: Duration, n: u64) {
        let us = u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
        let index = (64 - us.leading_zeros() as usize).min(BUCKETS - 1);
        self.buckets[index].add(n);
        self.sum_us.add(us.wrapping_mul(n));
    }

    /// The upper bound of bucket `i`, or `None` for the last.
    pub fn upper_bound(i: usize) -> Option<Duration> {
        (i + 1 < BUCKETS).then(|| Duration::from_micros(1 << i))
    }

    /// Samples in bucket `i` alone.
    pub fn bucket(&self, i: usize) -> u64 {
        self.buckets[i].get()
    }

    /// Sum of all samples in microseconds.
    pub fn sum_us(&self) -> u64 {
        self.sum_us.get()
    }
}

/// Declares a struct of counters that are summed over workers by name.
macro_rules! counters {
    ($(#[$meta:meta])* $name:ident { $($(#[doc = $doc:literal])* $field:ident,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Default)]
        pub struct $name {
            $($(#[doc = $doc])* pub $field: Counter,)*
        }
    };
}

counters! {
    /// What one worker counted since start.
    Counters {
        /// Clients connected now.
        clients,
        /// Clients accepted.
        clients_accepted,
        /// Clients turned away: `max_clients`.
        clients_refused_limit,
        /// Clients turned away: protected mode.
        clients_refused_protected,
        /// Clients cut because they did not read their replies.
        clients_cut_output,
        /// Clients closed because the reply to a command of theirs was lost.
        clients_closed_lost_reply,
        /// Clients closed for a malformed request, HTTP included.
        clients_closed_protocol,
        /// Clients cut because the process came to its memory limit.
        clients_cut_memory,
        /// Clients closed because a request of theirs came too slowly.
        clients_cut_request,
        /// Bytes of requests and replies that clients make the process hold now.
        client_buffers,
        /// Bytes of requests held for the upstream now.
        upstream_buffers,
        /// Requests refused for want of memory.
        refused_memory,
        /// Failed AUTH and HELLO AUTH of clients.
        auth_failures,
        /// Commands answered by the session itself.
        commands_local,
        /// Commands sent on shared connections.
        commands_shared,
        /// Commands sent on leased connections.
        commands_leased,
        /// Transactions sent: MULTI to EXEC in one block.
        transactions,
        /// Commands refused: denied, not supported here, unknown.
        commands_refused,
        /// Commands answered with a Nearkey error: upstream unreachable.
        errors_unreachable,
        /// Commands answered with a Nearkey error: no reply in time.
        errors_timeout,
        /// Commands answered with a Nearkey error: no connection free.
        errors_busy,
        /// Commands answered with a Nearkey error: too many wait while the upstream is unreachable.
        errors_crowded,
        /// Commands whose reply was lost with its connection.
        errors_lost,
        /// Read-only commands sent once more after their connection was lost.
        retries,
        /// Error replies of the server, passed on as they came.
        error_replies,
        /// Replies that came too late and were swallowed.
        late_replies,
        /// Bytes read from clients.
        client_bytes_in,
        /// Bytes written to clients.
        client_bytes_out,
        /// Bytes read from the upstream.
        upstream_bytes_in,
        /// Bytes written to the upstream.
        upstream_bytes_out,
        /// Commands waiting for an upstream reply now.
        in_flight,
        /// Leased connections that belong to a client now.
        leases_held,
        /// Clients waiting for a leased connection now.
        leases_awaited,
        /// Replies to blocking commands that came when their client was gone: the server may have
        /// taken an element for nobody.
        lost_pops,
        /// Connections closed for a surplus, missing or malformed reply.
        desyncs,
        /// Commands the proxy itself sent: handshakes, pings, COMMAND.
        overhead_commands,
        /// Times that the process stood still.
        gaps,
        /// Sessions ended by a panic.
        panics,
        /// Clients with subscriptions now.
        subscribers,
        /// Subscriptions of clients to channels now.
        subscriptions_channel,
        /// Subscriptions of clients to patterns now.
        subscriptions_pattern,
        /// Subscriptions of clients to shard channels now.
        subscriptions_shard,
        /// Messages given to subscribers, each counted once per subscriber.
        messages_delivered,
        /// Bytes of those messages.
        message_bytes,
        /// Subscriptions at the server now.
        hub_subscriptions,
        /// Times that subscriptions were lost and messages may have been missed.
        hub_gaps,
        /// Commands answered from L1.
        l1_hits,
        /// Bytes of those commands and of their replies, which did not travel upstream.
        l1_hit_bytes,
        /// Commands that L1 could have answered had it known the key: they travelled.
        l1_misses,
        /// Reads that waited for a fetch which another had ordered.
        l1_joins,
        /// Fetches ordered on tracked connections.
        l1_fetches,
        /// Commands answered by a fetch.
        l1_fetched,
        /// Replies that were kept.
        l1_fills,
        /// Replies that were not kept: their key had changed, or may have.
        l1_fills_moved,
        /// Replies that were not kept: too large.
        l1_fills_large,
        /// Replies that were not kept: errors, and keys that expired meanwhile.
        l1_fills_unfit,
        /// Reads that L1 holds, of keys that no rule lets it keep.
        l1_bypass_rule,
        /// Reads that L1 holds, of clients with something in flight.
        l1_bypass_pipeline,
        /// Reads that L1 would have fetched, had fetching them been of use lately.
        l1_bypass_waste,
        /// Reads that L1 would have fetched: its connection is not up, or silent.
        l1_bypass_down,
        /// Commands answered from what L1 had, beyond its age, while the server could not be reached.
        l1_stale_hits,
        /// Reads that L1 would have fetched, had it not only observed.
        l1_observed_fills,
        /// Commands that L1 would have answered, had it not only observed.
        l1_observed_hits,
        /// Invalidation pushes, and the keys they named.
        l1_pushes,
        /// Keys that pushes named.
        l1_pushed_keys,
        /// Pushes that named everything.
        l1_flushes,
        /// Commands sent for L1's own sake: CLIENT CACHING, PTTL, PING, the canary.
        l1_overhead_commands,
        /// Bytes of those, of what the server says to them, and of its pushes.
        l1_overhead_bytes,
    }
}

impl Counters {
    /// Subscriptions of clients now, by kind.
    pub fn subscriptions(&self, kind: Kind) -> &Counter {
        match kind {
            Kind::Channel => &self.subscriptions_channel,
            Kind::Pattern => &self.subscriptions_pattern,
            Kind::Shard => &self.subscriptions_shard,
        }
    }
}

/// Counters and histograms of one worker.
#[derive(Debug, Default)]
pub struct WorkerStats {
    /// Counters.
    pub counters: Counters,
    /// Time from a command's send to its reply.
    pub round_trip: Histogram,
    /// Time a command waited before it was sent.
    pub queue_wait: Histogram,
    /// Time a client waited for a leased connection, in vain or not.
    pub lease_wait: Histogram,
    /// Changes with every beat of the worker's heart.
    pub beat: AtomicU64,
    /// For how long it has not changed, as the watchdog sees it, in milliseconds.
    pub silent_ms: AtomicU64,
}
