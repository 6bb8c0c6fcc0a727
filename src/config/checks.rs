//! Settings that are valid by themselves and wrong, or doubtful, together.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::resolve::Resolver;
use crate::commands::CommandTable;
use crate::upstream::provider::provider;
use crate::upstream::{Address, Auth, Verify};

/// Listeners that collide, and an upstream that is this proxy itself.
pub(super) fn addresses(resolver: &mut Resolver) {
    let config = &resolver.draft.config;
    let upstream = config.upstream.address.clone();
    let (listen, admin) = (config.listen.address, config.admin.address);
    let unix = config.listen.unix.clone();
    for (key, own) in [("listen.address", listen), ("admin.address", admin)] {
        if let (Some(own), Address::Tcp { host, port }) = (own, &upstream)
            && is_own(own, host, *port)
        {
            loops(resolver, key, &own.to_string());
        }
    }
    if let (Some(own), Address::Unix(path)) = (unix, &upstream)
        && own == *path
    {
        loops(resolver, "listen.unix", &own.display().to_string());
    }
}

/// No listener at all, or two on one port.
pub(super) fn listeners(resolver: &mut Resolver) {
    let config = &resolver.draft.config;
    let (listen, admin) = (config.listen.address, config.admin.address);
    if listen.is_none() && config.listen.unix.is_none() {
        resolver.problem(
            "listen.address",
            "is off, and listen.unix is not set: clients could not connect",
        );
    }
    if let (Some(listen), Some(admin)) = (listen, admin)
        && listen.port() == admin.port()
        && listen.port() != 0
        && (listen.ip() == admin.ip()
            || listen.ip().is_unspecified()
            || admin.ip().is_unspecified())
    {
        let what = format!(
            "{admin} collides with listen.address {listen} ({})",
            resolver.origin("listen.address")
        );
        resolver.problem("admin.address", what);
    }
}

/// Commands that cannot be denied, since they are none.
pub(super) fn denied(resolver: &mut Resolver) {
    let table = CommandTable::builtin();
    if let Err(what) = table.with_denied(&resolver.draft.config.commands.deny) {
        resolver.problem("commands.deny", what);
    }
}

/// Two judges of one password.
pub(super) fn passthrough(resolver: &mut Resolver) {
    let config = &resolver.draft.config;
    if config.upstream.auth != Auth::Passthrough || config.listen.password.is_none() {
        return;
    }
    let key = match resolver.is_set("listen.password_file") {
        true => "listen.password_file",
        false => "listen.password",
    };
    let what = format!(
        "is \"passthrough\", and {key} is set ({}): clients say AUTH with the server's own users then, so there is no password of Nearkey's to ask for",
        resolver.origin(key)
    );
    resolver.problem("upstream.auth", what);
}

/// A CA or a client certificate for a connection that is plain: surely TLS was meant.
pub(super) fn tls_files_need_tls(resolver: &mut Resolver) {
    let upstream = &resolver.draft.upstream;
    for (key, set) in [
        ("upstream.ca", upstream.ca.is_some()),
        ("upstream.client_cert", upstream.client_cert.is_some()),
        ("upstream.server_name", upstream.server_name.is_some()),
    ] {
        if set {
            let what = format!(
                "is for TLS, but upstream.url ({}) asks for a plain connection: write rediss://, or set upstream.tls to \"on\" (or \"off\")",
                resolver.origin("upstream.url")
            );
            resolver.problem(key, what);
        }
    }
}

/// What is allowed, but should be known.
pub(super) fn warnings(resolver: &mut Resolver) {
    let mut warnings = vec![
        weak_verify(resolver),
        useless_verify(resolver),
        clear_password(resolver),
        closed_listener(resolver),
        spare_password(resolver),
        user_without_password(resolver),
    ];
    resolver.warnings.extend(warnings.drain(..).flatten());
}

fn weak_verify(resolver: &Resolver) -> Option<String> {
    let tls = resolver.draft.config.upstream.tls.as_ref()?;
    let origin = resolver.origin("upstream.verify");
    match tls.verify {
        Verify::Full => None,
        Verify::Ca => Some(format!(
            "upstream.verify is \"ca\" ({origin}): the server's host name is not checked, so any certificate of a trusted CA passes"
        )),
        Verify::None => Some(format!(
            "upstream.verify is \"none\" ({origin}): the connection is encrypted, but anyone in between can pose as the server"
        )),
    }
}

fn useless_verify(resolver: &Resolver) -> Option<String> {
    let upstream = &resolver.draft.config.upstream;
    let known = matches!(&upstream.address, Address::Tcp { host, .. } if !host.is_empty());
    let useless = known && upstream.tls.is_none() && resolver.is_set("upstream.verify");
    let origin = resolver.origin("upstream.verify");
    useless.then(|| format!("upstream.verify ({origin}) has no effect: the connection is plain; rediss:// or upstream.tls = \"on\" makes it TLS"))
}

fn clear_password(resolver: &Resolver) -> Option<String> {
    let upstream = &resolver.draft.config.upstream;
    let Address::Tcp { host, .. } = &upstream.address else {
        return None;
    };
    let public = matches!(
        provider(host),
        "upstash" | "redis-cloud" | "azure" | "aiven" | "digitalocean"
    );
    let clear = public && upstream.tls.is_none() && upstream.password.is_some();
    clear.then(|| {
        format!(
            "the password travels to {host} unencrypted; if the server speaks TLS, write rediss://"
        )
    })
}

fn closed_listener(resolver: &Resolver) -> Option<String> {
    let listen = &resolver.draft.config.listen;
    let address = listen
        .address
        .filter(|address| !address.ip().is_loopback())?;
    if listen.password.is_some() {
        return None;
    }
    let passthrough = resolver.draft.config.upstream.auth == Auth::Passthrough;
    Some(match listen.protected_mode {
        true if passthrough => format!(
            "listen.address {address} reaches beyond loopback: clients from there are refused until listen.protected_mode is off, also with upstream.auth = \"passthrough\""
        ),
        false if passthrough => return None,
        true => format!(
            "listen.address {address} reaches beyond loopback and listen.password is not set: clients from there are refused (listen.protected_mode)"
        ),
        false => format!(
            "listen.address {address} is open to everyone who can reach it: set listen.password"
        ),
    })
}

fn spare_password(resolver: &Resolver) -> Option<String> {
    let unused =
        resolver.redis_env.spare_password && resolver.draft.config.upstream.password.is_none();
    unused.then(|| {
        format!(
            "REDIS_PASSWORD is not used, since upstream.url comes from {}: put the password in the URL or set NEARKEY_UPSTREAM__PASSWORD",
            resolver.origin("upstream.url")
        )
    })
}

fn user_without_password(resolver: &Resolver) -> Option<String> {
    let upstream = &resolver.draft.config.upstream;
    let alone = upstream.username.is_some() && upstream.password.is_none();
    let origin = resolver.origin("upstream.username");
    alone.then(|| format!("upstream.username ({origin}) has no password with it; a token alone is written redis://:TOKEN@HOST"))
}

fn loops(resolver: &mut Resolver, key: &'static str, own: &str) {
    let what = format!(
        "names {own}, which is Nearkey's own {key} ({}): it would connect to itself; name the real server with --upstream or NEARKEY_UPSTREAM__URL, which win over the application's variables, or change {key}",
        resolver.origin(key)
    );
    resolver.problem("upstream.url", what);
}

/// Whether connecting to `host:port` would reach a listener on `own`.
fn is_own(own: SocketAddr, host: &str, port: u16) -> bool {
    if own.port() == 0 || own.port() != port {
        return false;
    }
    let localhost = [
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::LOCALHOST),
    ];
    let name = host.trim_end_matches('.');
    let targets = match host.parse::<IpAddr>() {
        // Connecting to the unspecified address reaches loopback.
        Ok(ip) if ip.is_unspecified() => localhost.to_vec(),
        Ok(ip) => vec![ip.to_canonical()],
        Err(_) if name.eq_ignore_ascii_case("localhost") => localhost.to_vec(),
        Err(_) => return false,
    };
    let everywhere = own.ip().is_unspecified();
    targets
        .iter()
        .any(|ip| *ip == own.ip() || (everywhere && ip.is_loopback()))
}
