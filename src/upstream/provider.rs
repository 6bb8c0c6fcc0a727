//! Names the provider behind a host, for logs and `/health`.
//!
//! A name is a label only: what a server can do is found out by asking it, since private endpoints
//! and custom domains hide the provider.

use std::net::IpAddr;

/// Suffixes of the host names that providers hand out.
const SUFFIXES: [(&str, &str); 15] = [
    (".upstash.io", "upstash"),
    (".redislabs.com", "redis-cloud"),
    (".rlrcp.com", "redis-cloud"),
    (".redis-cloud.com", "redis-cloud"),
    (".redis.cache.windows.net", "azure"),
    (".redis.azure.net", "azure"),
    (".redisenterprise.cache.azure.net", "azure"),
    (".cache.amazonaws.com", "elasticache"),
    (".cache.amazonaws.com.cn", "elasticache"),
    (".render.com", "render"),
    (".railway.app", "railway"),
    (".rlwy.net", "railway"),
    (".railway.internal", "railway"),
    (".aivencloud.com", "aiven"),
    (".db.ondigitalocean.com", "digitalocean"),
];

/// The provider that a host name points to.
///
/// `local` for loopback names and unix socket paths, `unknown` for anything not recognised: a
/// private address, such as Memorystore's, tells nothing.
pub fn provider(host: &str) -> &'static str {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    if is_local(&host) {
        return "local";
    }
    if let Some(name) = aws(&host) {
        return name;
    }
    if is_render_internal(&host) {
        return "render";
    }
    if host.contains(".redns.") {
        return "redis-cloud";
    }
    let known = SUFFIXES.iter().find(|(suffix, _)| host.ends_with(suffix));
    known.map_or("unknown", |(_, name)| name)
}

fn is_local(host: &str) -> bool {
    let loopback = host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    loopback || host == "localhost" || host.ends_with(".localhost") || host.starts_with('/')
}

/// Serverless caches and MemoryDB carry their kind in the middle of the name.
fn aws(host: &str) -> Option<&'static str> {
    let host = host.strip_suffix(".cn").unwrap_or(host);
    let rest = host.strip_suffix(".amazonaws.com")?;
    if rest.contains(".serverless.") && rest.ends_with(".cache") {
        return Some("elasticache-serverless");
    }
    rest.contains(".memorydb.").then_some("memorydb")
}

/// Inside Render a key-value store is a bare name: `red-` and an id.
fn is_render_internal(host: &str) -> bool {
    host.strip_prefix("red-")
        .is_some_and(|id| id.len() >= 8 && id.bytes().all(|b| b.is_ascii_alphanumeric()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn providers_are_known_by_their_hosts() {
        for (host, name) in [
            ("your-redis.upstash.io", "upstash"),
            ("EU1-Fit-Cat-1.UPSTASH.IO.", "upstash"),
            ("redis-12345.redislabs.com", "redis-cloud"),
            (
                "redis-1.c2.eu-west-1-3.ec2.cloud.redislabs.com",
                "redis-cloud",
            ),
            (
                "redis-1.c2.us-east-1-3.ec2.redns.redis-cloud.com",
                "redis-cloud",
            ),
            ("redis-1.internal.c2.cloud.rlrcp.com", "redis-cloud"),
            (
                "condvest-price-cache.xxxxxx.cache.amazonaws.com",
                "elasticache",
            ),
            ("master.x.ab12cd.euw1.cache.amazonaws.com", "elasticache"),
            ("x.ab12cd.cache.amazonaws.com.cn", "elasticache"),
            (
                "x-ab12cd.serverless.euw1.cache.amazonaws.com",
                "elasticache-serverless",
            ),
            (
                "clustercfg.x.ab12cd.memorydb.eu-west-1.amazonaws.com",
                "memorydb",
            ),
            ("x.redis.cache.windows.net", "azure"),
            ("x.westeurope.redis.azure.net", "azure"),
            ("x.eastus.redisenterprise.cache.azure.net", "azure"),
            ("red-cq1abcdefgh12345", "render"),
            ("oregon-redis.render.com", "render"),
        ] {
            assert_eq!(provider(host), name, "{host}");
        }
    }

    #[test]
    fn loopback_and_sockets_are_local() {
        for host in ["localhost", "127.0.0.1", "::1", "/run/redis.sock"] {
            assert_eq!(provider(host), "local", "{host}");
        }
    }

    #[test]
    fn a_private_address_tells_nothing() {
        for host in [
            "10.0.0.5",
            "redis",
            "red-team",
            "upstash.io.example.com",
            "",
        ] {
            assert_eq!(provider(host), "unknown", "{host}");
        }
    }
}
