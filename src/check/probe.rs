//! Finding out: everything that is asked of the server.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::lookup_host;
use tokio::time::timeout;

use super::{Failure, Findings, L1, RoundTrip, Tls, Tracking, ms};
use crate::commands::CommandTable;
use crate::config::Config;
use crate::l1;
use crate::l1::config::{Mode, Verb};
use crate::l1::tracked::{Broken, Plan, Setup, Verdict};
use crate::resp::Protocol;
use crate::resp::encode;
use crate::resp::reply::Value;
use crate::stats::ServerInfo;
use crate::upstream::dial::{self, Dialer};
use crate::upstream::facts::Identity;
use crate::upstream::opening::Wish;
use crate::upstream::stream::Stream;
use crate::upstream::tls::Connector;
use crate::upstream::{Address, Auth, IdentityId, LaneKey, Verify, provider};

const PINGS: usize = 21;

pub(super) async fn findings(config: &Config) -> Result<Findings, String> {
    let upstream = &config.upstream;
    let connector = match &upstream.tls {
        Some(tls) => Some(Connector::new(tls).map_err(|e| format!("upstream TLS: {e}"))?),
        None => None,
    };
    if let Some(connector) = &connector {
        // Reading the system's certificates is no part of what a connection takes.
        connector.prepare().await;
    }
    let seed = std::process::id().into();
    let table = Arc::new(CommandTable::builtin());
    let dialer = Dialer::new(upstream.clone(), connector, table, Arc::default(), seed);
    let mut found = Findings {
        address: upstream.address.to_string(),
        provider: match &upstream.address {
            Address::Tcp { host, .. } => provider::provider(host),
            Address::Unix(_) => "local",
        },
        login: login(config),
        max_connections: upstream.max_connections,
        l1: L1 {
            mode: "off",
            why: String::new(),
        },
        ..Findings::default()
    };
    if let Address::Tcp { host, port } = &upstream.address
        && let Ok(Ok(addresses)) = timeout(
            upstream.connect_timeout,
            lookup_host((host.as_str(), *port)),
        )
        .await
    {
        found.resolved = addresses.map(|address| address.ip().to_string()).collect();
    }
    let started = Instant::now();
    match dialer
        .dial(key(config, Protocol::Resp2), Wish::Leased)
        .await
    {
        Ok((stream, identity)) => {
            found.connect_ms = Some(ms(started.elapsed()));
            found.tls = tls(&stream, config);
            let limit = upstream.command_timeout;
            // A server that falls silent half-way leaves the rest unknown.
            let _ = timeout(limit, ask_all(stream, &identity, &mut found)).await;
        }
        Err(refusal) => {
            found.failure = Some(Failure {
                cause: refusal.cause.as_str(),
                message: refusal.message,
            });
        }
    }
    if found.failure.is_none() {
        ask_for_pushes(&dialer, config, &mut found).await;
    }
    found.room_for = room(&found);
    Ok(found)
}

fn key(config: &Config, protocol: Protocol) -> LaneKey {
    LaneKey {
        db: config.upstream.database,
        protocol,
        identity: IdentityId::OWN,
    }
}

fn login(config: &Config) -> String {
    let upstream = &config.upstream;
    match (&upstream.username, &upstream.password) {
        (None, None) if upstream.auth == Auth::Passthrough => "each client's own".to_owned(),
        (None, None) => "nobody".to_owned(),
        (user, _) => user.clone().unwrap_or_else(|| "default".to_owned()),
    }
}

fn tls(stream: &Stream, config: &Config) -> Option<Tls> {
    let facts = stream.tls_facts()?;
    let verify = config.upstream.tls.as_ref().map(|tls| match tls.verify {
        Verify::Full => "full",
        Verify::Ca => "ca",
        Verify::None => "none",
    });
    let mut tls = Tls {
        version: facts.version,
        cipher: facts.cipher,
        verify: verify.unwrap_or_default(),
        ..Tls::default()
    };
    if let Some(certificate) = &facts.certificate {
        tls.subject = Some(certificate.subject.clone());
        tls.valid_until = Some(certificate.valid_until.clone());
        tls.days_left = Some(certificate.days_left);
    }
    Some(tls)
}

/// Asks on a connection that is ready; an answer that does not come leaves the rest unknown.
async fn ask_all(mut stream: Stream, identity: &Identity, found: &mut Findings) -> Option<()> {
    found.server = Some(identity.server.clone());
    found.version = Some(identity.version.clone());
    found.mode = Some(identity.mode.clone());
    found.role = Some(identity.role.clone());
    let mut trips = Vec::with_capacity(PINGS);
    for _ in 0..PINGS {
        let started = Instant::now();
        ask(&mut stream, &[b"PING"]).await?;
        trips.push(started.elapsed());
    }
    // The first waits for what follows a new connection (slow start, session tickets).
    found.round_trip = Some(round_trip(&mut trips[1..]));
    let reply = ask(&mut stream, &[b"INFO"]).await?;
    if let Some(text) = reply.as_bytes().filter(|_| reply.as_error().is_none()) {
        note(&ServerInfo::parse(text), text, found);
    }
    let reply = ask(&mut stream, &[b"COMMAND", b"COUNT"]).await?;
    found.commands = reply.as_int().and_then(|n| u64::try_from(n).ok());
    Some(())
}

fn note(info: &ServerInfo, text: &[u8], found: &mut Findings) {
    found.clients = info.clients;
    found.max_clients = info.max_clients;
    found.memory_used = info.memory_used;
    found.memory_max = info.memory_max;
    found.eviction_policy.clone_from(&info.eviction_policy);
    found.is_loading = info.is_loading;
    found.master_is_down = info.master_is_down;
    if info.role.is_some() {
        found.role.clone_from(&info.role);
    }
    if info.is_cluster {
        found.mode = Some("cluster".to_owned());
    }
    // The handshake of RESP2 does not tell the version.
    let text = String::from_utf8_lossy(text);
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.map(|value| value.trim().to_owned())
    };
    if let Some(version) = value("valkey_version:") {
        (found.server, found.version) = (Some("valkey".to_owned()), Some(version));
    } else if let Some(version) = value("redis_version:") {
        found.version = Some(version);
    }
}

async fn ask(stream: &mut Stream, args: &[&[u8]]) -> Option<Value> {
    let mut request = Vec::new();
    encode::command(&mut request, args);
    dial::ask(stream, &request).await.ok()
}

fn round_trip(trips: &mut [Duration]) -> RoundTrip {
    trips.sort_unstable();
    let at = |share: f64| {
        let index = (trips.len() as f64 * share) as usize;
        ms(trips[index.min(trips.len() - 1)])
    };
    RoundTrip {
        pings: trips.len(),
        p50_ms: at(0.5),
        p99_ms: at(0.99),
    }
}

/// A second connection, in RESP3: the canary of L1, as it is asked for on every tracked connection.
async fn ask_for_pushes(dialer: &Dialer, config: &Config, found: &mut Findings) {
    let (stream, identity) = match dialer
        .dial(key(config, Protocol::Resp3), Wish::Leased)
        .await
    {
        Ok(opened) => opened,
        Err(refusal) => {
            found.resp3 = refusal.only_this_key.then_some(false);
            found.tracking = Some(Tracking::of(Err(refusal.message)));
            found.l1 = l1_mode(config, found);
            return;
        }
    };
    found.resp3 = Some(true);
    found.server = Some(identity.server.clone());
    let limit = config.upstream.command_timeout;
    let verdict = timeout(limit, canary(stream, &identity, dialer.next_nonce())).await;
    found.tracking = Some(Tracking::of(match verdict {
        Ok(Ok(Verdict::Tracking)) => Ok(()),
        Ok(Ok(Verdict::Without { reason, .. })) => Err(reason),
        Ok(Err(lost)) => Err(lost),
        Err(_) => Err(format!("the server did not answer within {limit:?}")),
    }));
    found.l1 = l1_mode(config, found);
}

async fn canary(mut stream: Stream, identity: &Identity, nonce: u64) -> Result<Verdict, String> {
    let mut setup = match Setup::new(identity, nonce) {
        Ok(setup) => setup,
        Err(verdict) => return Ok(verdict),
    };
    let mut chunk = [0; 4096];
    loop {
        let request = setup.take_output();
        dial::send(&mut stream, &request)
            .await
            .map_err(|e| format!("the connection was lost: {e}"))?;
        let n = dial::read(&mut stream, &mut chunk)
            .await
            .map_err(|e| format!("the connection was lost: {e}"))?;
        let told = setup.handle_input(&chunk[..n]);
        let told = told.map_err(|(Broken::Protocol(why) | Broken::Refused(why))| why);
        if let Some(verdict) = told? {
            return Ok(verdict);
        }
    }
}

/// What L1 would do with this server.
fn l1_mode(config: &Config, found: &Findings) -> L1 {
    let cache: &l1::config::Config = &config.cache;
    let keeps = cache.default == Verb::Cache || cache.rules.iter().any(|r| r.verb == Verb::Cache);
    let plan = Plan::new(cache);
    let pushes = found.tracking.as_ref().is_some_and(|told| told.works);
    let reason = found.tracking.as_ref().and_then(|told| told.why.clone());
    let (mode, why) = match cache.mode {
        Mode::Off => ("off", "cache.mode says so".to_owned()),
        Mode::Observe => ("observe", "cache.mode says so".to_owned()),
        _ if !keeps => (
            "off",
            "no rule and no cache.default says that keys may be kept".to_owned(),
        ),
        _ if pushes && plan.tracks => ("tracking", String::new()),
        _ if plan.times => ("ttl", reason.unwrap_or_default()),
        _ => match reason {
            Some(reason) => ("off", format!("{reason}, and no rule names a ttl")),
            None => ("off", String::new()),
        },
    };
    L1 { mode, why }
}

/// How many processes like this one the server has room for, beside who is there now.
fn room(found: &Findings) -> Option<u64> {
    // This check's own connection is one of those now.
    let others = found.clients?.saturating_sub(1);
    let free = found.max_clients?.saturating_sub(others);
    free.checked_div(found.max_connections as u64)
}
