//! The variables that applications already have: `REDIS_URL`, `REDIS_HOST` and their kin.
//!
//! `UPSTASH_REDIS_URL` goes before `REDIS_URL`, that before `REDIS_ENDPOINT`, that before
//! `REDIS_HOST`. A URL stands for itself: `REDIS_PORT`, `REDIS_USERNAME`, `REDIS_PASSWORD` and
//! `REDIS_DB` complete a host name only, so that one server's password never goes to another. For
//! the same reason none of them counts when a `NEARKEY_` variable or a flag names the upstream.

use super::Assignment;
use super::env::Reader;
use super::kind::Raw;
use super::problem::{Origin, Problem};
use super::table::Setting;
use super::{url, value};

const URLS: [&str; 2] = ["UPSTASH_REDIS_URL", "REDIS_URL"];
const HOSTS: [&str; 2] = ["REDIS_ENDPOINT", "REDIS_HOST"];
const DEFAULT_PORT: &str = "6379";

/// What the variables gave.
#[derive(Default)]
pub(super) struct RedisEnv {
    pub(super) assignments: Vec<Assignment>,
    /// `REDIS_AUTH_REQUIRED` is true.
    pub(super) auth_required: bool,
    /// `REDIS_PASSWORD` is set, but belongs to no address in use.
    pub(super) spare_password: bool,
    /// Only Upstash's REST address is there.
    pub(super) rest_only: bool,
}

/// Reads the variables; `upstream_named` says that a later source names the upstream.
pub(super) fn read(env: &mut Reader<'_>, upstream_named: bool) -> RedisEnv {
    let mut found = RedisEnv::default();
    if upstream_named {
        found.spare_password = env.get("REDIS_PASSWORD").is_some();
    } else {
        found.address(env);
    }
    found.tuning(env);
    found
}

impl RedisEnv {
    fn address(&mut self, env: &mut Reader<'_>) {
        let named = |env: &mut Reader<'_>, names: [&'static str; 2]| {
            names
                .into_iter()
                .find_map(|name| Some((name, env.get(name)?)))
        };
        if let Some((name, url)) = named(env, URLS) {
            self.push("upstream.url", url, name);
            self.spare_password = env.get("REDIS_PASSWORD").is_some();
            self.tls(env);
        } else if let Some((name, host)) = named(env, HOSTS) {
            self.host(env, name, host.trim());
            self.tls(env);
        } else {
            self.rest_only = env.get("UPSTASH_REDIS_REST_URL").is_some();
            self.spare_password = env.get("REDIS_PASSWORD").is_some();
        }
    }

    fn host(&mut self, env: &mut Reader<'_>, name: &'static str, host: &str) {
        let port = env.get("REDIS_PORT");
        match authority(host, port.as_deref().map(str::trim)) {
            Ok(authority) => self.push("upstream.url", format!("redis://{authority}"), name),
            Err(what) => env
                .problems
                .push(Problem::at(Origin::redis_env(name), what)),
        }
        for (name, key) in [
            ("REDIS_USERNAME", "upstream.username"),
            ("REDIS_PASSWORD", "upstream.password"),
            ("REDIS_DB", "upstream.database"),
        ] {
            self.copy(env, name, key);
        }
    }

    /// `REDIS_SSL=false` leaves the decision to the scheme and the host: it never turns off a TLS
    /// that a URL or an Upstash host asks for.
    fn tls(&mut self, env: &mut Reader<'_>) {
        if boolean(env, "REDIS_SSL") == Some(true) {
            self.push("upstream.tls", "on".to_owned(), "REDIS_SSL");
        }
    }

    /// The settings that do not depend on which variable names the server.
    fn tuning(&mut self, env: &mut Reader<'_>) {
        self.verify(env);
        self.copy(env, "REDIS_MAX_CONNECTIONS", "upstream.max_connections");
        self.copy(env, "REDIS_RETRY_ON_TIMEOUT", "upstream.retry_reads");
        if let Some(seconds) = env.get("REDIS_TIMEOUT") {
            match milliseconds(&seconds) {
                Some(text) => self.push("upstream.command_timeout", text, "REDIS_TIMEOUT"),
                None => wrong(
                    env,
                    "REDIS_TIMEOUT",
                    "is not a number of seconds, such as 5 or 0.5",
                ),
            }
        }
        self.auth_required = boolean(env, "REDIS_AUTH_REQUIRED") == Some(true);
    }

    fn verify(&mut self, env: &mut Reader<'_>) {
        let reqs = env.get("REDIS_SSL_CERT_REQS");
        let check = env.get("REDIS_SSL_CHECK_HOSTNAME");
        for (name, reqs, check) in [
            ("REDIS_SSL_CERT_REQS", reqs.as_deref(), None),
            ("REDIS_SSL_CHECK_HOSTNAME", None, check.as_deref()),
        ] {
            if let Err(what) = url::verify(reqs, check) {
                return wrong(env, name, &what);
            }
        }
        let reqs_decide = reqs
            .as_deref()
            .is_some_and(|r| r.eq_ignore_ascii_case("none"));
        let name = match check {
            Some(_) if !reqs_decide => "REDIS_SSL_CHECK_HOSTNAME",
            _ => "REDIS_SSL_CERT_REQS",
        };
        if let Ok(Some(verify)) = url::verify(reqs.as_deref(), check.as_deref()) {
            self.push("upstream.verify", verify.to_owned(), name);
        }
    }

    fn copy(&mut self, env: &mut Reader<'_>, name: &'static str, key: &str) {
        if let Some(text) = env.get(name) {
            self.push(key, text, name);
        }
    }

    fn push(&mut self, key: &str, text: String, name: &'static str) {
        // Every key in this file is in the table; a test walks through all of them.
        if let Some(setting) = Setting::find(key) {
            self.assignments.push(Assignment {
                setting,
                raw: Raw::Plain(text),
                origin: Origin::redis_env(name),
            });
        }
    }
}

/// Host and port as they stand in a URL. The host may carry its port, as AWS prints endpoints.
fn authority(host: &str, port: Option<&str>) -> Result<String, String> {
    if host.contains("://") || host.contains('@') {
        return Err("holds a URL; put it in REDIS_URL".to_owned());
    }
    let (host, own_port) = match host.split_once(':') {
        Some((name, port)) if !port.contains(':') => (name, Some(port)),
        _ => (host.trim_start_matches('[').trim_end_matches(']'), None),
    };
    if !url::is_host(host) {
        return Err("is neither a DNS name nor an IP address (is it a placeholder?)".to_owned());
    }
    let port = port.map(service_port);
    let port = match (own_port, port) {
        (Some(own), Some(port)) if own != port => {
            return Err("has a port that differs from REDIS_PORT".to_owned());
        }
        (own, port) => own.or(port).unwrap_or(DEFAULT_PORT),
    };
    if !port.parse::<u16>().is_ok_and(|port| port > 0) {
        return Err("is set, but its port (REDIS_PORT) is not a number from 1 to 65535".to_owned());
    }
    Ok(match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    })
}

/// A Kubernetes Service called `redis` sets `REDIS_PORT=tcp://10.0.0.11:6379`.
fn service_port(port: &str) -> &str {
    match port.strip_prefix("tcp://") {
        Some(address) => address.rsplit(':').next().unwrap_or(address),
        None => port,
    }
}

fn milliseconds(seconds: &str) -> Option<String> {
    let seconds: f64 = seconds.trim().parse().ok()?;
    let duration = std::time::Duration::try_from_secs_f64(seconds).ok()?;
    Some(format!("{}ms", duration.as_millis()))
}

fn boolean(env: &mut Reader<'_>, name: &'static str) -> Option<bool> {
    let text = env.get(name)?;
    let value = value::boolean(&text);
    if let Err(what) = &value {
        wrong(env, name, what);
    }
    value.ok()
}

fn wrong(env: &mut Reader<'_>, name: &'static str, what: &str) {
    env.problems
        .push(Problem::at(Origin::redis_env(name), what));
}
