//! `/metrics`: every series, where its value comes from, and the text.
//!
//! The series live in a recorder of this endpoint alone; nothing is installed for the process.
//! Their values are copied from the workers' counters when they are asked for. No label ever takes
//! its value from a client or a key: the number of series is fixed.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{SystemTime, UNIX_EPOCH};

use metrics::{Counter, Gauge, Label, Unit};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

use super::l1::HotCounts;
use super::{State, histogram, process};
use crate::hub::Kind;
use crate::stats::{ConnectFailure, UpstreamState};

/// All series with their sources.
pub(super) struct Metrics {
    handle: PrometheusHandle,
    counters: Vec<(Counter, Source<u64>)>,
    gauges: Vec<(Gauge, Source<f64>)>,
    hot_keys: Option<HotCounts>,
}

type Source<T> = Box<dyn Fn(&State) -> T + Send + Sync>;

impl Metrics {
    /// Registers and describes all series.
    pub(super) fn new(state: &State) -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        let mut metrics = Self {
            handle: recorder.handle(),
            counters: Vec::new(),
            gauges: Vec::new(),
            hot_keys: None,
        };
        metrics::with_local_recorder(&recorder, || {
            metrics.add_clients();
            metrics.add_memory();
            metrics.add_commands();
            metrics.add_pubsub();
            metrics.add_upstream();
            metrics.add_leases();
            metrics.add_l1(state);
            metrics.hot_keys = Some(HotCounts::new());
            metrics.add_process(state);
            metrics.add_control();
            metrics.add_familiar_names();
        });
        metrics
    }

    /// The current values in Prometheus's text format.
    pub(super) fn render(&self, state: &State) -> String {
        for (counter, source) in &self.counters {
            counter.absolute(source(state));
        }
        for (gauge, source) in &self.gauges {
            gauge.set(source(state));
        }
        if let Some(hot_keys) = &self.hot_keys {
            hot_keys.update(state);
        }
        let mut text = self.handle.render();
        histogram::write(
            &mut text,
            "nearkey_upstream_round_trip_seconds",
            "Time from sending a command upstream to its reply.",
            state.workers.iter().map(|worker| &worker.round_trip),
        );
        histogram::write(
            &mut text,
            "nearkey_queue_wait_seconds",
            "Time a command waited before it was sent upstream.",
            state.workers.iter().map(|worker| &worker.queue_wait),
        );
        histogram::write(
            &mut text,
            "nearkey_lease_wait_seconds",
            "Time a client waited for a leased connection, in vain or not.",
            state.workers.iter().map(|worker| &worker.lease_wait),
        );
        text
    }

    fn add_clients(&mut self) {
        let name = "nearkey_clients";
        self.gauge(name, "Clients connected now.", |s| {
            s.sum(|c| &c.clients) as f64
        });
        let name = "nearkey_clients_max";
        self.gauge(name, "Most clients served at once.", |s| {
            s.shown.load().max_clients as f64
        });
        let name = "nearkey_clients_accepted_total";
        self.counter(name, "Clients accepted.", |s| {
            s.sum(|c| &c.clients_accepted)
        });
        let name = "nearkey_auth_failures_total";
        self.counter(name, "Failed logins of clients.", |s| {
            s.sum(|c| &c.auth_failures)
        });

        let mut refused = self.family("nearkey_clients_refused_total", "Clients turned away.");
        refused.add("reason", "limit", |s| s.sum(|c| &c.clients_refused_limit));
        refused.add("reason", "protected", |s| {
            s.sum(|c| &c.clients_refused_protected)
        });

        let help = "Clients whose connection the proxy closed.";
        let mut closed = self.family("nearkey_clients_closed_total", help);
        closed.add("reason", "output_limit", |s| {
            s.sum(|c| &c.clients_cut_output)
        });
        closed.add("reason", "memory", |s| s.sum(|c| &c.clients_cut_memory));
        closed.add("reason", "request_timeout", |s| {
            s.sum(|c| &c.clients_cut_request)
        });
        closed.add("reason", "lost_reply", |s| {
            s.sum(|c| &c.clients_closed_lost_reply)
        });
        closed.add("reason", "protocol", |s| {
            s.sum(|c| &c.clients_closed_protocol)
        });
    }

    fn add_memory(&mut self) {
        let help = "Bytes of requests and replies that are held now.";
        metrics::describe_gauge!("nearkey_buffer_bytes", Unit::Bytes, help);
        let gauge = |side| metrics::gauge!("nearkey_buffer_bytes", "side" => side);
        self.add_gauge(gauge("client"), |s| s.sum(|c| &c.client_buffers) as f64);
        self.add_gauge(gauge("upstream"), |s| s.sum(|c| &c.upstream_buffers) as f64);
        let (name, help_limit) = (
            "nearkey_memory_limit_bytes",
            "process.memory_limit; 0 is none.",
        );
        self.gauge_in(Unit::Bytes, name, help_limit, |s| {
            s.shown.load().memory_limit as f64
        });
        let name = "nearkey_requests_refused_memory_total";
        let help = "Large requests refused because memory was short.";
        self.counter(name, help, |s| s.sum(|c| &c.refused_memory));
    }

    fn add_commands(&mut self) {
        let mut commands = self.family(
            "nearkey_commands_total",
            "Commands of clients, by what was done.",
        );
        commands.add("class", "local", |s| s.sum(|c| &c.commands_local));
        commands.add("class", "shared", |s| s.sum(|c| &c.commands_shared));
        commands.add("class", "leased", |s| s.sum(|c| &c.commands_leased));
        commands.add("class", "refused", |s| s.sum(|c| &c.commands_refused));
        commands.add("class", "l1", from_l1);

        let help = "Commands that failed in the proxy or on the way to the upstream.";
        let mut errors = self.family("nearkey_errors_total", help);
        errors.add("kind", "unreachable", |s| s.sum(|c| &c.errors_unreachable));
        errors.add("kind", "timeout", |s| s.sum(|c| &c.errors_timeout));
        errors.add("kind", "crowded", |s| s.sum(|c| &c.errors_crowded));
        errors.add("kind", "busy", |s| s.sum(|c| &c.errors_busy));
        errors.add("kind", "lost", |s| s.sum(|c| &c.errors_lost));

        let name = "nearkey_retries_total";
        let help = "Read-only commands sent once more after their connection was lost.";
        self.counter(name, help, |s| s.sum(|c| &c.retries));
        let name = "nearkey_error_replies_total";
        self.counter(
            name,
            "Error replies of the server, passed on as they came.",
            |s| s.sum(|c| &c.error_replies),
        );
        let name = "nearkey_late_replies_total";
        self.counter(name, "Replies swallowed for coming too late.", |s| {
            s.sum(|c| &c.late_replies)
        });
        let name = "nearkey_in_flight";
        let help = "Commands waiting for an upstream reply now.";
        self.gauge(name, help, |s| s.sum(|c| &c.in_flight) as f64);
        let name = "nearkey_panics_total";
        self.counter(name, "Sessions ended by a panic.", |s| s.sum(|c| &c.panics));
        self.add_bytes();
    }

    fn add_bytes(&mut self) {
        let name = "nearkey_bytes_total";
        metrics::describe_counter!(name, Unit::Bytes, "Bytes read (in) and written (out).");
        let mut add = |side, direction, source: Source<u64>| {
            let labels = vec![Label::new("side", side), Label::new("direction", direction)];
            self.counters
                .push((metrics::counter!(name, labels), source));
        };
        add("client", "in", Box::new(|s| s.sum(|c| &c.client_bytes_in)));
        add(
            "client",
            "out",
            Box::new(|s| s.sum(|c| &c.client_bytes_out)),
        );
        add(
            "upstream",
            "in",
            Box::new(|s| s.sum(|c| &c.upstream_bytes_in)),
        );
        add(
            "upstream",
            "out",
            Box::new(|s| s.sum(|c| &c.upstream_bytes_out)),
        );
    }

    fn add_pubsub(&mut self) {
        let name = "nearkey_pubsub_clients";
        self.gauge(name, "Clients with subscriptions now.", |s| {
            s.sum(|c| &c.subscribers) as f64
        });
        let name = "nearkey_pubsub_subscriptions";
        metrics::describe_gauge!(name, Unit::Count, "Subscriptions of clients now.");
        for kind in Kind::ALL {
            let gauge = metrics::gauge!(name, "kind" => kind.as_str());
            let source = move |s: &State| s.sum(|c| c.subscriptions(kind)) as f64;
            self.gauges.push((gauge, Box::new(source)));
        }
        let name = "nearkey_pubsub_upstream_subscriptions";
        self.gauge(name, "Subscriptions at the server now.", |s| {
            s.sum(|c| &c.hub_subscriptions) as f64
        });
        let name = "nearkey_pubsub_messages_total";
        let help = "Messages given to clients, each counted once per client.";
        self.counter(name, help, |s| s.sum(|c| &c.messages_delivered));
        let name = "nearkey_pubsub_message_bytes_total";
        let help = "Bytes of messages given to clients.";
        self.counter(name, help, |s| s.sum(|c| &c.message_bytes));
        let name = "nearkey_pubsub_gaps_total";
        let help = "Times that subscriptions were lost and messages may have been missed.";
        self.counter(name, help, |s| s.sum(|c| &c.hub_gaps));
    }

    fn add_upstream(&mut self) {
        let name = "nearkey_upstream_up";
        let help = "Whether the latest attempt at the upstream succeeded; NaN before the first.";
        self.gauge(name, help, up);
        let name = "nearkey_upstream_connections";
        let help = "Connections to the upstream open or being opened.";
        self.gauge(name, help, |s| s.upstream.connections.load(Relaxed) as f64);
        let name = "nearkey_upstream_connections_peak";
        let help = "Most connections to the upstream at any moment.";
        self.gauge(name, help, |s| {
            s.upstream.connections_peak.load(Relaxed) as f64
        });
        let name = "nearkey_upstream_connections_max";
        let help = "Ceiling on connections to the upstream (upstream.max_connections).";
        self.gauge(name, help, |s| s.shown.load().max_connections as f64);
        let name = "nearkey_upstream_connects_total";
        let help = "Connections to the upstream opened.";
        self.counter(name, help, |s| s.upstream.connects.load(Relaxed));
        let name = "nearkey_upstream_opens_waiting";
        let help = "Connections that wait for their turn to be opened (upstream.opens_per_second).";
        self.gauge(name, help, |s| {
            s.upstream.opens_waiting.load(Relaxed) as f64
        });
        let name = "nearkey_upstream_tls_resumed_total";
        let help = "TLS handshakes with the upstream that resumed a session.";
        self.counter(name, help, |s| s.upstream.tls_resumed.load(Relaxed));
        let name = "nearkey_upstream_lost_total";
        let help = "Established connections to the upstream that were lost.";
        self.counter(name, help, |s| s.upstream.lost.load(Relaxed));
        let name = "nearkey_desync_total";
        let help = "Upstream connections closed for a surplus, missing or malformed reply.";
        self.counter(name, help, |s| s.sum(|c| &c.desyncs));
        let name = "nearkey_overhead_commands_total";
        let help = "Commands that the proxy sent on its own account.";
        self.counter(name, help, |s| s.sum(|c| &c.overhead_commands));

        self.add_trouble();

        let help = "Connections to the upstream that could not be opened.";
        let mut failures = self.family("nearkey_upstream_connect_failures_total", help);
        for (i, cause) in ConnectFailure::ALL.into_iter().enumerate() {
            failures.add("cause", cause.as_str(), move |s| {
                s.upstream.connect_failures[i].load(Relaxed)
            });
        }
    }

    fn add_trouble(&mut self) {
        let name = "nearkey_upstream_down_seconds_total";
        let help = "Time during which the upstream could not be reached.";
        self.counter(name, help, |s| {
            s.upstream.down(&s.upstream_state()).as_secs()
        });
        let name = "nearkey_upstream_cause";
        metrics::describe_gauge!(
            name,
            "What is wrong with the upstream now: 1 for that cause."
        );
        for cause in ConnectFailure::ALL {
            let gauge = metrics::gauge!(name, "cause" => cause.as_str());
            self.add_gauge(gauge, move |s| {
                let state = s.upstream_state();
                let is_it = state.trouble().is_some_and(|t| t.cause == cause);
                f64::from(u8::from(is_it))
            });
        }
        let name = "nearkey_upstream_reopened_total";
        let help = "Times that connections were opened anew since the upstream took no writes.";
        self.counter(name, help, |s| s.upstream.reopened.load(Relaxed));
    }

    fn add_leases(&mut self) {
        let name = "nearkey_leases_held";
        let help = "Leased connections that belong to a client now.";
        self.gauge(name, help, |s| s.sum(|c| &c.leases_held) as f64);
        let name = "nearkey_leases_awaited";
        let help = "Clients waiting for a leased connection now.";
        self.gauge(name, help, |s| s.sum(|c| &c.leases_awaited) as f64);
        let name = "nearkey_lost_pops_total";
        let help = "Replies to blocking commands that came when their client was gone.";
        self.counter(name, help, |s| s.sum(|c| &c.lost_pops));
    }

    fn add_process(&mut self, state: &State) {
        let name = "nearkey_build_info";
        metrics::describe_gauge!(name, "Always 1; the version is a label.");
        metrics::gauge!(name, "version" => env!("CARGO_PKG_VERSION")).set(1);
        let name = "nearkey_tls_verify_disabled";
        let help = "Whether the upstream's certificate is not verified.";
        self.gauge(name, help, |s| {
            f64::from(u8::from(s.shown.load().tls_verify_disabled))
        });
        let name = "nearkey_draining";
        let help = "Whether the process is on its way out.";
        self.gauge(name, help, |s| f64::from(u8::from(s.is_draining())));

        let started = SystemTime::now().checked_sub(state.started.elapsed());
        let since_epoch = started.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        let started = since_epoch.unwrap_or_default().as_secs_f64();
        let help = "When the process started, in seconds since 1970.";
        for name in ["nearkey_start_time_seconds", "process_start_time_seconds"] {
            self.gauge_in(Unit::Seconds, name, help, move |_| started);
        }
        if process::resident_bytes().is_some() {
            let (name, help) = ("process_resident_memory_bytes", "Memory in use.");
            let source = |_: &State| process::resident_bytes().unwrap_or(0) as f64;
            self.gauge_in(Unit::Bytes, name, help, source);
        }
        if process::open_files().is_some() {
            let (name, help) = ("process_open_fds", "Open files and sockets.");
            self.gauge(name, help, |_| process::open_files().unwrap_or(0) as f64);
        }
    }

    /// Names that dashboards for Redis already use.
    fn add_familiar_names(&mut self) {
        let help = "Whether Redis answers, as this proxy sees it; NaN before the first attempt.";
        self.gauge("redis_up", help, up);
        let help = "Clients connected to this proxy.";
        self.gauge("redis_connected_clients", help, |s| {
            s.sum(|c| &c.clients) as f64
        });
        self.counter("redis_commands_total", "Commands of clients.", |s| {
            let local = s.sum(|c| &c.commands_local) + s.sum(|c| &c.commands_refused);
            let sent = s.sum(|c| &c.commands_shared) + s.sum(|c| &c.commands_leased);
            local + sent + from_l1(s)
        });
        let help = "Reads answered from this proxy's memory (nearkey_l1_hits_total).";
        self.counter("redis_keyspace_hits_total", help, |s| s.sum(|c| &c.l1_hits));
        let help = "Reads that could have been, and were not (nearkey_l1_misses_total).";
        self.counter("redis_keyspace_misses_total", help, |s| {
            s.sum(|c| &c.l1_misses)
        });
    }

    pub(super) fn counter(
        &mut self,
        name: &'static str,
        help: &'static str,
        source: impl Fn(&State) -> u64 + Send + Sync + 'static,
    ) {
        metrics::describe_counter!(name, Unit::Count, help);
        self.counters
            .push((metrics::counter!(name), Box::new(source)));
    }

    /// A counter with a label; its series are to be added.
    pub(super) fn family(&mut self, name: &'static str, help: &'static str) -> Family<'_> {
        metrics::describe_counter!(name, Unit::Count, help);
        Family {
            metrics: self,
            name,
        }
    }

    pub(super) fn gauge(
        &mut self,
        name: &'static str,
        help: &'static str,
        source: impl Fn(&State) -> f64 + Send + Sync + 'static,
    ) {
        self.gauge_in(Unit::Count, name, help, source);
    }

    pub(super) fn gauge_in(
        &mut self,
        unit: Unit,
        name: &'static str,
        help: &'static str,
        source: impl Fn(&State) -> f64 + Send + Sync + 'static,
    ) {
        metrics::describe_gauge!(name, unit, help);
        self.add_gauge(metrics::gauge!(name), source);
    }

    /// A gauge that is described elsewhere.
    pub(super) fn add_gauge(
        &mut self,
        gauge: Gauge,
        source: impl Fn(&State) -> f64 + Send + Sync + 'static,
    ) {
        self.gauges.push((gauge, Box::new(source)));
    }
}

/// Commands that L1 answered, with what it knew or with what it fetched.
pub(super) fn from_l1(state: &State) -> u64 {
    state.sum(|c| &c.l1_hits) + state.sum(|c| &c.l1_fetched)
}

/// The series of one counter that differ in one label.
pub(super) struct Family<'a> {
    metrics: &'a mut Metrics,
    name: &'static str,
}

impl Family<'_> {
    pub(super) fn add(
        &mut self,
        label: &'static str,
        value: &'static str,
        source: impl Fn(&State) -> u64 + Send + Sync + 'static,
    ) {
        let counter = metrics::counter!(self.name, label => value);
        self.metrics.counters.push((counter, Box::new(source)));
    }
}

/// An upstream that was never tried is neither up nor down: NaN compares with nothing, so an alert
/// on `redis_up == 0` stays quiet on a process that nobody uses yet.
fn up(state: &State) -> f64 {
    match state.upstream_state() {
        UpstreamState::Up | UpstreamState::Strained(_) | UpstreamState::Degraded(_) => 1.0,
        UpstreamState::Down(_) => 0.0,
        UpstreamState::Unknown => f64::NAN,
    }
}
