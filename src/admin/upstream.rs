//! The series about the upstream: connections, what is wrong with it, what it says of itself.

use std::sync::atomic::Ordering::Relaxed;

use super::metrics::{Metrics, up};
use crate::stats::{ConnectFailure, ServerInfo};

impl Metrics {
    pub(super) fn add_upstream(&mut self) {
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

    /// What the server says of itself, under the names that its own exporter has. What is not known is no
    /// number.
    pub(super) fn add_server(&mut self) {
        type Told = fn(&ServerInfo) -> Option<f64>;
        let rows: [(&'static str, &'static str, Told); 7] = [
            (
                "redis_memory_used_bytes",
                "Memory of the server's data, as of the latest INFO.",
                |info| info.memory_used.map(|n| n as f64),
            ),
            (
                "redis_memory_max_bytes",
                "The server's maxmemory; 0 is none.",
                |info| info.memory_max.map(|n| n as f64),
            ),
            (
                "redis_evicted_keys_total",
                "Keys that the server evicted since its start.",
                |info| info.evicted_keys.map(|n| n as f64),
            ),
            (
                "redis_cpu_user_seconds_total",
                "CPU time of the server in its own code.",
                |info| info.cpu_user,
            ),
            (
                "redis_cpu_sys_seconds_total",
                "CPU time of the server in the kernel.",
                |info| info.cpu_sys,
            ),
            (
                "redis_server_connected_clients",
                "Connections to the server, of everybody.",
                |info| info.clients.map(|n| n as f64),
            ),
            (
                "redis_config_maxclients",
                "Most connections that the server takes.",
                |info| info.max_clients.map(|n| n as f64),
            ),
        ];
        for (name, help, told) in rows {
            self.gauge(name, help, move |s| {
                let info = s.upstream.server();
                info.as_ref().and_then(told).unwrap_or(f64::NAN)
            });
        }
    }
}
