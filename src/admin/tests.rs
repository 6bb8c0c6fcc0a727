//! The endpoint over real sockets.

mod l1;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicU32;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::stats::{ConnectFailure, Trouble};

pub(super) fn state() -> State {
    State {
        workers: vec![
            Arc::new(WorkerStats::default()),
            Arc::new(WorkerStats::default()),
        ],
        upstream: Arc::new(UpstreamStats::default()),
        shown: ArcSwap::from_pointee(Shown {
            max_connections: 20,
            max_clients: 10_000,
            memory_limit: 0,
            provider: "upstash",
            address: "redis.upstash.io:6379".to_owned(),
            tls_verify_disabled: false,
        }),
        control: Arc::default(),
        started: Instant::now(),
        listening: AtomicBool::new(true),
        draining: AtomicBool::new(false),
        probe: None,
        l1: None,
        events: Events::default(),
    }
}

fn set(state: &State, verdict: UpstreamState) {
    *state.upstream.state.lock().unwrap() = verdict;
}

fn down() -> UpstreamState {
    let message = "redis.upstash.io does not resolve".to_owned();
    UpstreamState::Down(Trouble::new(ConnectFailure::Dns, message))
}

async fn start(state: State) -> (SocketAddr, Arc<State>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let state = Arc::new(state);
    tokio::spawn(serve(
        listener,
        Arc::clone(&state),
        std::future::pending::<()>(),
    ));
    (address, state)
}

/// Sends bytes and returns all that comes until the server closes.
async fn exchange(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// The status code and the body.
async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let answer = exchange(address, request.as_bytes()).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(
        head.contains(&format!("Content-Length: {}\r\n", body.len())),
        "{head}"
    );
    (head[9..12].parse().unwrap(), body.to_owned())
}

async fn get_json(address: SocketAddr, path: &str) -> (u16, Value) {
    let (code, body) = get(address, path).await;
    (code, serde_json::from_str(&body).unwrap())
}

#[tokio::test]
async fn health_has_the_shape_that_the_applications_expect() {
    let (address, state) = start(state()).await;
    set(&state, UpstreamState::Up);
    state.upstream.latency_us.store(44_700, Relaxed);
    state.upstream.connections.store(5, Relaxed);
    state.workers[0].counters.clients.add(2);
    state.workers[1].counters.clients.add(1);
    let (code, health) = get_json(address, "/health").await;
    assert_eq!(code, 200);
    assert_eq!(health["status"], "healthy");
    let redis = json!({
        "available": true,
        "provider": "upstash",
        "address": "redis.upstash.io:6379",
        "latency_ms": 45,
        "connection_pool": { "active": 5, "max": 20 },
    });
    assert_eq!(health["redis"], redis);
    assert_eq!(health["clients"], 3);
    assert_eq!(health["version"], env!("CARGO_PKG_VERSION"));
    assert!(health["uptime_seconds"].is_u64());
    assert!(health.get("cause").is_none() && health.get("message").is_none());
}

#[tokio::test]
async fn a_dead_upstream_is_unhealthy_and_says_why() {
    let (address, state) = start(state()).await;
    state.upstream.latency_us.store(900, Relaxed);
    set(&state, down());
    let (code, health) = get_json(address, "/health").await;
    assert_eq!(code, 503);
    assert_eq!(health["status"], "unhealthy");
    assert_eq!(health["redis"]["available"], false);
    assert_eq!(health["redis"]["latency_ms"], Value::Null);
    assert_eq!(health["cause"], "dns");
    assert_eq!(health["message"], "redis.upstash.io does not resolve");
    let (code, ready) = get_json(address, "/ready").await;
    assert_eq!(code, 503);
    assert_eq!(
        ready["reason"],
        "upstream down (dns): redis.upstash.io does not resolve"
    );
    assert_eq!(get(address, "/live").await.0, 200);
}

#[tokio::test]
async fn readiness_follows_listening_and_draining() {
    let (address, state) = start(state()).await;
    assert_eq!(
        get_json(address, "/ready").await,
        (200, json!({ "ready": true }))
    );
    state.listening.store(false, Relaxed);
    let (code, ready) = get_json(address, "/ready").await;
    assert_eq!((code, &ready["reason"]), (503, &json!("not listening yet")));
    state.listening.store(true, Relaxed);
    state.draining.store(true, Relaxed);
    let (code, ready) = get_json(address, "/ready").await;
    assert_eq!((code, &ready["reason"]), (503, &json!("draining")));
    set(&state, UpstreamState::Up);
    let (code, health) = get_json(address, "/health").await;
    assert_eq!((code, &health["status"]), (200, &json!("degraded")));
    assert_eq!(health["redis"]["available"], true);
}

#[tokio::test]
async fn the_first_health_check_asks_for_a_first_attempt() {
    let mut state = state();
    let upstream = Arc::clone(&state.upstream);
    state.probe = Some(Box::new(move || {
        let upstream = Arc::clone(&upstream);
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(30)).await;
            *upstream.state.lock().unwrap() = UpstreamState::Up;
        });
    }));
    let (address, _) = start(state).await;
    let (code, health) = get_json(address, "/health").await;
    assert_eq!((code, &health["status"]), (200, &json!("healthy")));
}

#[tokio::test]
async fn without_a_verdict_health_is_degraded_after_a_second() {
    let asked = Arc::new(AtomicU32::new(0));
    let mut state = state();
    let count = Arc::clone(&asked);
    state.probe = Some(Box::new(move || {
        count.fetch_add(1, Relaxed);
    }));
    let (address, state) = start(state).await;
    let before = Instant::now();
    let (first, second) = tokio::join!(get_json(address, "/health"), get_json(address, "/health"));
    let waited = before.elapsed();
    assert!((900..3000).contains(&waited.as_millis()), "{waited:?}");
    for (code, health) in [first, second] {
        assert_eq!((code, &health["status"]), (200, &json!("degraded")));
        assert_eq!(health["redis"]["available"], false);
        assert_eq!(health["message"], "the upstream has not answered yet");
    }
    assert_eq!(asked.load(Relaxed), 1, "one probe for both");

    // Nobody uses a process that is not ready: asking must find out that the upstream is back.
    tokio::time::sleep(Prober::PAUSE).await;
    set(&state, down());
    for _ in 0..3 {
        assert_eq!(get(address, "/ready").await.0, 503);
        assert_eq!(get(address, "/health").await.0, 503);
    }
    assert_eq!(asked.load(Relaxed), 2, "one probe a second");
}

/// The samples of a scrape, by series.
fn samples(text: &str) -> BTreeMap<&str, f64> {
    let lines = text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut samples = BTreeMap::new();
    for line in lines {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let value = value.parse().unwrap_or_else(|_| panic!("{line}"));
        assert_eq!(samples.insert(series, value), None, "{series} twice");
    }
    samples
}

#[tokio::test]
async fn metrics_are_summed_over_workers_and_labelled() {
    let (address, state) = start(state()).await;
    let [one, two] = [&state.workers[0].counters, &state.workers[1].counters];
    one.commands_shared.add(5);
    two.commands_shared.add(2);
    two.commands_local.add(1);
    two.client_bytes_in.add(100);
    one.clients.add(3);
    state.upstream.connect_failures[ConnectFailure::Tls as usize].store(4, Relaxed);
    let (code, text) = get(address, "/metrics").await;
    assert_eq!(code, 200);
    let first = samples(&text);
    assert_eq!(first["nearkey_commands_total{class=\"shared\"}"], 7.0);
    assert_eq!(first["redis_commands_total"], 8.0);
    assert_eq!(
        first["nearkey_bytes_total{side=\"client\",direction=\"in\"}"],
        100.0
    );
    assert_eq!(
        first["nearkey_upstream_connect_failures_total{cause=\"tls\"}"],
        4.0
    );
    assert_eq!(first["nearkey_clients"], 3.0);
    assert_eq!(first["redis_connected_clients"], 3.0);
    assert_eq!(first["nearkey_upstream_connections_max"], 20.0);
    assert!(first["redis_up"].is_nan(), "never tried");
    let build = format!(
        "nearkey_build_info{{version=\"{}\"}}",
        env!("CARGO_PKG_VERSION")
    );
    assert_eq!(first[build.as_str()], 1.0);

    set(&state, down());
    one.commands_shared.add(1);
    one.clients.sub(1);
    let (_, text) = get(address, "/metrics").await;
    let second = samples(&text);
    assert_eq!(second["nearkey_commands_total{class=\"shared\"}"], 8.0);
    assert_eq!(second["nearkey_clients"], 2.0);
    assert_eq!(second["nearkey_upstream_up"], 0.0);
    set(&state, UpstreamState::Up);
    assert_eq!(samples(&get(address, "/metrics").await.1)["redis_up"], 1.0);
}

#[tokio::test]
async fn label_sets_are_the_documented_ones() {
    let (address, _) = start(state()).await;
    let (_, text) = get(address, "/metrics").await;
    let samples = samples(&text);
    let labels = |family: &str| -> BTreeSet<String> {
        let prefix = format!("{family}{{");
        let of_family = samples
            .keys()
            .filter_map(|series| series.strip_prefix(&prefix));
        of_family
            .map(|labels| labels.trim_end_matches('}').replace('"', ""))
            .collect()
    };
    let set = |label: &str, values: &str| -> BTreeSet<String> {
        values
            .split(' ')
            .map(|value| format!("{label}={value}"))
            .collect()
    };
    assert_eq!(
        labels("nearkey_commands_total"),
        set("class", "local shared leased refused l1")
    );
    assert_eq!(
        labels("nearkey_errors_total"),
        set("kind", "unreachable timeout busy lost crowded")
    );
    assert_eq!(
        labels("nearkey_clients_refused_total"),
        set("reason", "limit protected")
    );
    let closed = "output_limit memory request_timeout lost_reply protocol";
    let closed = set("reason", closed);
    assert_eq!(labels("nearkey_clients_closed_total"), closed);
    let causes = set(
        "cause",
        "dns tcp timeout tls auth maxclients not_ready protocol closed certificate stall loading \
         masterdown readonly cluster",
    );
    assert_eq!(labels("nearkey_upstream_connect_failures_total"), causes);
    assert_eq!(labels("nearkey_upstream_cause"), causes);
    assert_eq!(labels("nearkey_bytes_total").len(), 4);
    assert_eq!(
        labels("nearkey_buffer_bytes"),
        set("side", "client upstream")
    );
    for name in [
        "nearkey_memory_limit_bytes nearkey_requests_refused_memory_total",
        "nearkey_clients_accepted_total nearkey_retries_total nearkey_late_replies_total",
        "nearkey_desync_total nearkey_in_flight nearkey_upstream_connections",
        "nearkey_upstream_connections_peak nearkey_upstream_connects_total",
        "nearkey_upstream_lost_total nearkey_overhead_commands_total nearkey_auth_failures_total",
        "nearkey_leases_held nearkey_leases_awaited nearkey_lost_pops_total",
        "nearkey_lease_wait_seconds_count nearkey_panics_total nearkey_tls_verify_disabled nearkey_draining",
        "nearkey_start_time_seconds process_start_time_seconds",
    ]
    .iter()
    .flat_map(|names| names.split(' '))
    {
        assert!(samples.contains_key(name), "{name} is missing");
    }
    #[cfg(target_os = "linux")]
    for name in ["process_resident_memory_bytes", "process_open_fds"] {
        assert!(samples[name] > 0.0, "{name}");
    }
}

#[tokio::test]
async fn every_family_is_described_and_typed_once() {
    let (address, _) = start(state()).await;
    let (_, text) = get(address, "/metrics").await;
    let names = |keyword: &str| -> Vec<&str> {
        let lines = text.lines().filter_map(|line| line.strip_prefix(keyword));
        let mut names: Vec<_> = lines.filter_map(|rest| rest.split(' ').next()).collect();
        names.sort_unstable();
        names
    };
    let typed = names("# TYPE ");
    assert_eq!(typed, names("# HELP "));
    let unique: BTreeSet<_> = typed.iter().collect();
    assert_eq!(unique.len(), typed.len());
    for series in samples(&text).keys() {
        let name = series.split('{').next().unwrap();
        let base = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|end| name.strip_suffix(end));
        assert!(
            unique.contains(&name) || unique.contains(&base.unwrap()),
            "{series}"
        );
    }
}

#[tokio::test]
async fn histograms_are_cumulative_in_seconds() {
    let (address, state) = start(state()).await;
    state.workers[0]
        .round_trip
        .record(Duration::from_micros(700), 3);
    state.workers[1]
        .round_trip
        .record(Duration::from_millis(20), 1);
    let (_, text) = get(address, "/metrics").await;
    let name = "nearkey_upstream_round_trip_seconds";
    let buckets: Vec<(f64, f64)> = text
        .lines()
        .filter_map(|line| line.strip_prefix(&format!("{name}_bucket{{le=\"")))
        .map(|line| line.split_once("\"} ").unwrap())
        .map(|(bound, count)| (bound.parse().unwrap(), count.parse().unwrap()))
        .collect();
    assert_eq!(buckets.len(), crate::stats::BUCKETS);
    assert!(
        buckets
            .windows(2)
            .all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1)
    );
    assert_eq!(buckets.last(), Some(&(f64::INFINITY, 4.0)));
    let at = |seconds: f64| {
        buckets
            .iter()
            .find(|(bound, _)| *bound >= seconds)
            .unwrap()
            .1
    };
    assert_eq!((at(0.0005), at(0.0007), at(0.02)), (0.0, 3.0, 4.0));
    let samples = samples(&text);
    assert_eq!(samples[format!("{name}_count").as_str()], 4.0);
    assert!((samples[format!("{name}_sum").as_str()] - 0.0221).abs() < 1e-9);
    assert_eq!(samples["nearkey_queue_wait_seconds_count"], 0.0);
}

#[tokio::test]
async fn what_is_not_served_gets_its_status() {
    let (address, _) = start(state()).await;
    assert_eq!(
        get(address, "/nothing").await,
        (404, "404 Not Found\n".to_owned())
    );
    let (code, index) = get(address, "/?x").await;
    assert!(code == 200 && index.contains("/metrics"), "{index}");

    let post = b"POST /health HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello";
    let answer = exchange(address, post).await;
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
    assert!(answer.contains("\r\nAllow: GET, HEAD\r\n"), "{answer}");

    let answer = exchange(address, b"*1\r\n$4\r\nPING\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("Connection: close"));

    let endless = format!("GET / HTTP/1.1\r\nCookie: {}", "x".repeat(60_000));
    let answer = exchange(address, endless.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");

    let answer = exchange(address, b"HEAD /live HTTP/1.0\r\n\r\n").await;
    assert!(
        answer.contains("Content-Length: 14\r\n") && answer.ends_with("\r\n\r\n"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_connection_serves_many_requests() {
    let (address, _) = start(state()).await;
    let requests = b"GET /live HTTP/1.1\r\n\r\nGET /x HTTP/1.1\r\n\r\nGET /live HTTP/1.0\r\n\r\n";
    let answer = exchange(address, requests).await;
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 2);
    assert_eq!(answer.matches("HTTP/1.1 404 ").count(), 1);
    assert_eq!(answer.matches("Connection: keep-alive").count(), 2);
}

#[tokio::test]
async fn slow_clients_do_not_hold_up_others() {
    let (address, state) = start(state()).await;
    set(&state, UpstreamState::Up);
    let mut slow = Vec::new();
    for _ in 0..50 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /metrics HT").await.unwrap();
        slow.push(stream);
    }
    let before = Instant::now();
    assert_eq!(get(address, "/health").await.0, 200);
    assert!(
        before.elapsed() < Duration::from_millis(500),
        "{:?}",
        before.elapsed()
    );
    for stream in &mut slow {
        stream.write_all(b"TP/1.0\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 200 OK"));
    }
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_for_the_silent_ones_to_be_dropped() {
    let (address, _) = start(state()).await;
    let mut silent = Vec::new();
    for _ in 0..70 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let served = tokio::time::timeout(Duration::from_secs(15), get(address, "/live")).await;
    assert_eq!(served.unwrap().0, 200);
}

#[tokio::test]
async fn serving_ends_with_the_shutdown() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(serve(listener, Arc::new(state()), stopped));
    assert_eq!(get(address, "/live").await.0, 200);
    stop.send(()).unwrap();
    serving.await.unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn the_health_check_command_agrees_with_the_endpoint() {
    let (address, state) = start(state()).await;
    set(&state, UpstreamState::Up);
    let check = move || crate::healthcheck::run(address, Duration::from_secs(5));
    let result = tokio::task::spawn_blocking(check).await.unwrap();
    assert_eq!(result, Ok("healthy".to_owned()));
    set(&state, down());
    let result = tokio::task::spawn_blocking(check).await.unwrap();
    assert_eq!(
        result,
        Err("unhealthy: dns: redis.upstash.io does not resolve".to_owned())
    );
}
