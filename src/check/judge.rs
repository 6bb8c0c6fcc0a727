//! What stands in the way, and its cure.

use std::net::IpAddr;

use serde::Serialize;

use super::{Failure, Findings, L1};
use crate::config::Config;

/// A certificate with fewer days left is worth a word.
const FEW_DAYS: i64 = 21;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Clients would not be served.
    Error,
    /// They would, but something is going to go wrong.
    Warning,
    /// Worth knowing.
    Note,
}

/// Something that stands in the way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// What is so.
    pub what: String,
    /// What to do.
    pub cure: String,
}

/// Collects problems.
#[derive(Default)]
struct Problems(Vec<Problem>);

impl Problems {
    fn add(&mut self, severity: Severity, what: impl Into<String>, cure: impl Into<String>) {
        self.0.push(Problem {
            severity,
            what: what.into(),
            cure: cure.into(),
        });
    }
}

/// What stands in the way, worst first.
pub(super) fn problems(found: &Findings, config: &Config) -> Vec<Problem> {
    let mut problems = Problems::default();
    if let Some(failure) = &found.failure {
        problems.add(Severity::Error, failure.message.clone(), cure_of(failure));
        return problems.0;
    }
    of_the_connection(found, config, &mut problems);
    of_the_server(found, &mut problems);
    of_the_room(found, &mut problems);
    of_l1(found, config, &mut problems);
    let mut problems = problems.0;
    problems.sort_by_key(|problem| problem.severity);
    problems
}

fn cure_of(failure: &Failure) -> &'static str {
    if failure.message.contains("NOPERM") {
        return "the password is right, but the user lacks the right that is named: Nearkey itself needs ping, and select for another database than 0 (ACL SETUSER name +ping +select)";
    }
    if failure.message.contains("DB index is out of range") {
        return "the server has no database of that number: see upstream.database, or the number behind the host in upstream.url; many providers have database 0 alone";
    }
    match failure.cause {
        "dns" => {
            "look for a typing error in the host; a private name resolves only inside its network"
        }
        "tcp" => {
            "is the server running, is the port right, and may this host reach it (firewall, VPC connector, allow list)?"
        }
        "timeout" => {
            "packets are dropped on the way (firewall, security group, allow list), or the port speaks TLS and upstream.tls is off, or the reverse"
        }
        "tls" => {
            "see upstream.verify, upstream.ca and upstream.server_name in proxy.toml; a server without TLS needs redis:// in place of rediss://"
        }
        "certificate" => {
            "name its CA's certificate in upstream.ca, or the host that it is made out to in upstream.server_name; one that is out of date must be renewed"
        }
        "closed" => {
            "a firewall or allow list that does not know this host, the server's limit of connections, or TLS that only one side speaks (rediss://)"
        }
        "auth" => "look at user and password; a token alone is written rediss://:TOKEN@host",
        "maxclients" => {
            "the server has no connection left: `nearkey plan` computes what a fleet needs"
        }
        "not_ready" | "loading" | "masterdown" => {
            "wait until the server has loaded its data or found its master"
        }
        _ => "is that a Redis port?",
    }
}

fn of_the_connection(found: &Findings, config: &Config, problems: &mut Problems) {
    match &found.tls {
        Some(tls) => {
            if tls.verify == "none" {
                problems.add(
                    Severity::Warning,
                    "the server's certificate is not checked: anyone in between can pose as it",
                    "set upstream.verify to \"full\", and upstream.ca where the server has a CA of its own",
                );
            }
            if let Some(days) = tls.days_left.filter(|days| *days < FEW_DAYS) {
                problems.add(
                    Severity::Warning,
                    format!("the server's certificate is valid for {days} more days"),
                    "renew it, or see that its provider does",
                );
            }
        }
        None if !is_near(found) => problems.add(
            Severity::Warning,
            "passwords and data travel in plain text to a public address",
            "use rediss:// if the server speaks TLS",
        ),
        None => {}
    }
    let limit = config.upstream.command_timeout.as_secs_f64() * 1000.0;
    if let Some(trip) = found.round_trip
        && trip.p99_ms * 10.0 > limit
    {
        problems.add(
            Severity::Warning,
            format!(
                "a round trip of {} ms leaves little of upstream.command_timeout",
                trip.p99_ms
            ),
            "raise upstream.command_timeout, or move the app nearer to the server",
        );
    }
}

/// On this machine, or at an address that the Internet does not route.
fn is_near(found: &Findings) -> bool {
    let is_private = |ip: &str| match ip.parse() {
        Ok(IpAddr::V4(ip)) => ip.is_private() || ip.is_loopback() || ip.is_link_local(),
        Ok(IpAddr::V6(ip)) => ip.is_loopback() || ip.is_unique_local(),
        Err(_) => false,
    };
    found.provider == "local"
        || (!found.resolved.is_empty() && found.resolved.iter().all(|ip| is_private(ip)))
}

fn of_the_server(found: &Findings, problems: &mut Problems) {
    if found.mode.as_deref() == Some("cluster") {
        problems.add(
            Severity::Error,
            "the server is a node of a Redis Cluster",
            "Nearkey does not follow MOVED: use a server or a plan without cluster mode",
        );
    }
    if found.is_loading {
        problems.add(
            Severity::Error,
            "the server is loading its data",
            "wait; clients get its LOADING errors until then",
        );
    }
    if found.master_is_down {
        problems.add(
            Severity::Warning,
            "the server is a replica that has lost its master",
            "its data may be old; look at the master",
        );
    } else if matches!(found.role.as_deref(), Some("slave" | "replica")) {
        problems.add(
            Severity::Warning,
            "the server is a replica: writes are answered with READONLY",
            "name the primary's address, or the provider's primary endpoint",
        );
    }
    let is_limited = found.memory_max.is_some_and(|max| max > 0);
    let evicts = |policy: &&String| *policy != "noeviction";
    match (found.memory_used, found.memory_max) {
        (Some(used), Some(max)) if max > 0 && used as f64 > 0.8 * max as f64 => problems.add(
            Severity::Warning,
            format!("the server uses {} % of its memory", used * 100 / max),
            "beyond maxmemory it evicts keys or refuses writes, by its eviction policy",
        ),
        _ => {}
    }
    if is_limited && let Some(policy) = found.eviction_policy.as_ref().filter(evicts) {
        problems.add(
            Severity::Note,
            format!("at its limit the server evicts keys ({policy})"),
            "right for caches; queues (BullMQ, Celery) need noeviction",
        );
    }
}

fn of_the_room(found: &Findings, problems: &mut Problems) {
    let (Some(room), Some(max)) = (found.room_for, found.max_clients) else {
        return;
    };
    let own = found.max_connections;
    if room == 0 {
        problems.add(
            Severity::Warning,
            format!(
                "the server takes {max} clients and has {}: there is no room for the {own} connections of upstream.max_connections",
                found.clients.unwrap_or_default()
            ),
            "lower upstream.max_connections; `nearkey plan` computes it for a fleet",
        );
    }
}

fn of_l1(found: &Findings, config: &Config, problems: &mut Problems) {
    let wants = crate::l1::tracked::Plan::new(&config.cache);
    let L1 { mode, why } = &found.l1;
    if (wants.tracks || wants.times) && *mode == "off" {
        problems.add(
            Severity::Warning,
            format!("L1 would keep nothing: {why}"),
            "name a ttl in the rules of keys that may be served that old (cache.rules)",
        );
    }
}
