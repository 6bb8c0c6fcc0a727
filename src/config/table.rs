//! The table of settings: the one place where a setting is defined.
//!
//! The file, the environment, the suggestions for misspelt names, `nearkey config` and the checks of
//! proxy.toml and the documentation all read it.

use super::kind::{Kind, Raw};
use super::rules;

const HOUR: u64 = 3_600_000;
const DAY: u64 = 24 * HOUR;
const KB: usize = 1 << 10;
const MB: usize = 1 << 20;
const MAX_BYTES: usize = 1 << 31;
/// Where `usize` can say so much.
const MAX_MEMORY: usize = (1_usize << 30).saturating_mul(64);

/// One setting.
pub(super) struct Setting {
    /// Section and name, such as `upstream.max_connections`.
    pub(super) key: &'static str,
    pub(super) kind: Kind,
    default: Default,
    /// One line for people.
    pub(super) doc: &'static str,
}

/// A built-in value, in its text form.
enum Default {
    Text(&'static str),
    List(&'static [&'static str]),
}

impl Setting {
    const fn new(key: &'static str, kind: Kind, default: &'static str, doc: &'static str) -> Self {
        Self {
            key,
            kind,
            default: Default::Text(default),
            doc,
        }
    }

    /// The setting of a dotted key.
    pub(super) fn find(key: &str) -> Option<&'static Self> {
        SETTINGS.iter().find(|setting| setting.key == key)
    }

    /// The part of the key before the dot.
    pub(super) fn section(&self) -> &'static str {
        self.key.split_once('.').map_or("", |(section, _)| section)
    }

    /// The part of the key after the dot.
    pub(super) fn name(&self) -> &'static str {
        self.key.split_once('.').map_or(self.key, |(_, name)| name)
    }

    /// The environment form: `NEARKEY_UPSTREAM__MAX_CONNECTIONS`.
    pub(super) fn env_name(&self) -> String {
        format!(
            "NEARKEY_{}",
            self.key.replace('.', "__").to_ascii_uppercase()
        )
    }

    /// The built-in value.
    pub(super) fn default_value(&self) -> Raw {
        match self.default {
            Default::Text(text) => Raw::Plain(text.to_owned()),
            Default::List(items) => Raw::List(items.iter().map(ToString::to_string).collect()),
        }
    }
}

/// Every setting, in the order in which people read them.
pub(super) static SETTINGS: &[Setting] = &[
    Setting::new(
        "listen.address",
        Kind::Address(|d| &mut d.config.listen.address),
        "127.0.0.1:6379",
        "TCP address for clients: host:port, :port or port (loopback), or off when listen.unix is set.",
    ),
    Setting::new(
        "listen.unix",
        Kind::Path(|d| &mut d.config.listen.unix),
        "",
        "Unix socket for clients, beside or instead of the TCP address.",
    ),
    Setting::new(
        "listen.unix_mode",
        Kind::Mode(|d| &mut d.config.listen.unix_mode),
        "0700",
        "Permission bits of the unix socket, in octal.",
    ),
    Setting::new(
        "listen.password",
        Kind::Secret(|d| &mut d.config.listen.password),
        "",
        "Password that clients must present with AUTH or HELLO; empty lets every client in.",
    ),
    Setting::new(
        "listen.password_file",
        Kind::Path(|d| &mut d.listen.password_file),
        "",
        "File that holds listen.password; a newline at its end is dropped.",
    ),
    Setting::new(
        "listen.protected_mode",
        Kind::Boolean(|d| &mut d.config.listen.protected_mode),
        "true",
        "Refuse clients from beyond loopback while no password is set.",
    ),
    Setting::new(
        "listen.max_clients",
        Kind::Integer((1, 1_000_000), |d| &mut d.config.listen.max_clients),
        "10000",
        "Most clients at once; one more gets Redis's own error.",
    ),
    Setting::new(
        "listen.backlog",
        Kind::Integer((1, 65_535), |d| &mut d.listen.backlog),
        "4096",
        "Connections that the kernel may hold before they are accepted.",
    ),
    Setting::new(
        "listen.tls_cert",
        Kind::Path(|d| &mut d.listen.tls_cert),
        "",
        "Certificate chain in PEM: clients on the TCP address must then speak TLS.",
    ),
    Setting::new(
        "listen.tls_key",
        Kind::Path(|d| &mut d.listen.tls_key),
        "",
        "Private key of listen.tls_cert in PEM.",
    ),
    Setting::new(
        "listen.tls_client_ca",
        Kind::Path(|d| &mut d.config.listen.tls_client_ca),
        "",
        "CA in PEM that clients' certificates must chain to; needs listen.tls_cert.",
    ),
    Setting::new(
        "listen.client_output_limit",
        Kind::Size((64 * KB, MAX_BYTES), |d| {
            &mut d.config.listen.client_output_limit
        }),
        "128mb",
        "Bytes of replies that may wait for one slow client before it is cut.",
    ),
    Setting::new(
        "listen.idle_timeout",
        Kind::Duration((0, DAY), |d| &mut d.config.listen.idle_timeout),
        "0s",
        "A client that is silent for this long is closed; 0s never closes.",
    ),
    Setting::new(
        "listen.request_timeout",
        Kind::Duration((0, DAY), |d| &mut d.config.listen.request_timeout),
        "30s",
        "A client whose half-sent request makes no progress for this long is closed; 0s never closes.",
    ),
    Setting::new(
        "upstream.url",
        Kind::Url(|d| &mut d.upstream.url),
        "",
        "The Redis server: redis://, rediss:// (TLS), upstash:// or unix://. Required.",
    ),
    Setting::new(
        "upstream.tls",
        Kind::Choice(&["auto", "on", "off"], |d| &mut d.upstream.tls),
        "auto",
        "TLS to the server; auto goes by the URL's scheme, and is on for *.upstash.io.",
    ),
    Setting::new(
        "upstream.auth",
        Kind::Choice(&["own", "passthrough"], |d| &mut d.upstream.auth),
        "own",
        "Whose user and password clients' commands travel with: Nearkey's own, or each client's.",
    ),
    Setting::new(
        "upstream.username",
        Kind::Text(|d| &mut d.config.upstream.username),
        "",
        "ACL user; wins over the URL's.",
    ),
    Setting::new(
        "upstream.password",
        Kind::Secret(|d| &mut d.config.upstream.password),
        "",
        "Password or token; wins over the URL's.",
    ),
    Setting::new(
        "upstream.password_file",
        Kind::Path(|d| &mut d.upstream.password_file),
        "",
        "File that holds upstream.password; a newline at its end is dropped.",
    ),
    Setting::new(
        "upstream.database",
        Kind::Integer((0, u32::MAX as usize), |d| &mut d.upstream.database),
        "0",
        "Database that a client is in before it says SELECT; wins over the URL's.",
    ),
    Setting::new(
        "upstream.verify",
        Kind::Choice(&["full", "ca", "none"], |d| &mut d.upstream.verify),
        "full",
        "Check of the server's certificate: chain and host name, chain only, or nothing.",
    ),
    Setting::new(
        "upstream.ca",
        Kind::Path(|d| &mut d.upstream.ca),
        "",
        "CA in PEM for the server's certificate; empty trusts the system's and the web's.",
    ),
    Setting::new(
        "upstream.client_cert",
        Kind::Path(|d| &mut d.upstream.client_cert),
        "",
        "Certificate chain in PEM that Nearkey presents to the server.",
    ),
    Setting::new(
        "upstream.client_key",
        Kind::Path(|d| &mut d.upstream.client_key),
        "",
        "Private key of upstream.client_cert in PEM.",
    ),
    Setting::new(
        "upstream.server_name",
        Kind::Host(|d| &mut d.upstream.server_name),
        "",
        "Name for SNI and for the certificate's check; empty takes the URL's host.",
    ),
    Setting::new(
        "upstream.max_connections",
        Kind::Integer((1, 100_000), |d| &mut d.config.upstream.max_connections),
        "10",
        "Hard ceiling on all connections of this process to the server.",
    ),
    Setting::new(
        "upstream.connections",
        Kind::Integer((1, 10_000), |d| &mut d.config.upstream.connections),
        "2",
        "Shared connections per database, protocol and user; at most max_connections.",
    ),
    Setting::new(
        "upstream.connect_timeout",
        Kind::Duration((1, HOUR), |d| &mut d.config.upstream.connect_timeout),
        "3s",
        "Limit on TCP connect, TLS and the handshake together.",
    ),
    Setting::new(
        "upstream.command_timeout",
        Kind::Duration((1, DAY), |d| &mut d.config.upstream.command_timeout),
        "5s",
        "Longest wait for the reply to one command.",
    ),
    Setting::new(
        "upstream.queue_timeout",
        Kind::Duration((0, HOUR), |d| &mut d.config.upstream.queue_timeout),
        "1s",
        "Longest wait of a command for a connection that is not up.",
    ),
    Setting::new(
        "upstream.queue_commands",
        Kind::Integer((1, 100_000_000), |d| &mut d.config.upstream.queue_commands),
        "10000",
        "Commands that may wait on each connection while the server cannot be reached.",
    ),
    Setting::new(
        "upstream.max_in_flight",
        Kind::Integer((1, 100_000_000), |d| &mut d.config.upstream.max_in_flight),
        "20000",
        "Commands that may be in flight on one shared connection; the others wait here.",
    ),
    Setting::new(
        "upstream.lease_timeout",
        Kind::Duration((0, HOUR), |d| &mut d.config.upstream.lease_timeout),
        "1s",
        "Longest wait for a connection of one's own (blocking commands, WATCH).",
    ),
    Setting::new(
        "upstream.idle_timeout",
        Kind::Duration((0, DAY), |d| &mut d.config.upstream.idle_timeout),
        "5m",
        "A connection without work is closed after this long; 0s keeps it.",
    ),
    Setting::new(
        "upstream.keepalive",
        Kind::Duration((0, DAY), |d| &mut d.config.upstream.keepalive),
        "30s",
        "A quiet connection is pinged this often; 0s never pings.",
    ),
    Setting::new(
        "upstream.stall_timeout",
        Kind::Duration((1, DAY), |d| &mut d.config.upstream.stall_timeout),
        "15s",
        "A connection that owes replies and sends nothing for this long is closed.",
    ),
    Setting::new(
        "upstream.opens_per_second",
        Kind::Integer((1, 100_000), |d| &mut d.config.upstream.opens_per_second),
        "50",
        "Connections opened per second at most, beyond a burst of half as many.",
    ),
    Setting::new(
        "upstream.backoff_min",
        Kind::Duration((1, HOUR), |d| &mut d.config.upstream.backoff_min),
        "50ms",
        "First pause before connecting again.",
    ),
    Setting::new(
        "upstream.backoff_max",
        Kind::Duration((1, HOUR), |d| &mut d.config.upstream.backoff_max),
        "2s",
        "Longest pause before connecting again.",
    ),
    Setting::new(
        "upstream.large_request",
        Kind::Size((KB, MAX_BYTES), |d| &mut d.config.upstream.large_request),
        "1mb",
        "A request above this size travels on a connection of its own.",
    ),
    Setting::new(
        "upstream.on_lost_reply",
        Kind::Choice(&["close", "error"], |d| &mut d.upstream.on_lost_reply),
        "close",
        "When the reply to a write is lost: close the client, as Redis would, or send an error.",
    ),
    Setting::new(
        "upstream.retry_reads",
        Kind::Boolean(|d| &mut d.config.upstream.retry_reads),
        "true",
        "Send a read-only command once more when its connection was lost.",
    ),
    Setting::new(
        "cache.mode",
        Kind::Choice(&["auto", "tracking", "ttl", "observe", "off"], |d| {
            &mut d.cache.mode
        }),
        "auto",
        "How replies kept in memory (L1) stay true: by the server's pushes, by age, or whichever it can.",
    ),
    Setting::new(
        "cache.default",
        Kind::Choice(&rules::ACTIONS, |d| &mut d.cache.default),
        "bypass",
        "What happens to keys that no rule matches: cache or bypass.",
    ),
    Setting::new(
        "cache.lease",
        Kind::Duration((100, 60_000), |d| &mut d.config.cache.lease),
        "1s",
        "With pushes: nothing is served unless the server was heard of within this time.",
    ),
    Setting::new(
        "cache.max_bytes",
        Kind::Size((64 * KB, MAX_MEMORY), |d| &mut d.config.cache.max_bytes),
        "64mb",
        "Memory for all that is kept; at most a third of process.memory_limit.",
    ),
    Setting::new(
        "cache.max_value",
        Kind::Size((1, 512 * MB), |d| &mut d.config.cache.max_value),
        "256kb",
        "Larger replies are not kept; at most max_bytes.",
    ),
    Setting::new(
        "cache.max_age",
        Kind::Duration((1, DAY), |d| &mut d.config.cache.max_age),
        "30s",
        "Nothing is served for longer than this after it was read, in any mode.",
    ),
    Setting::new(
        "cache.absent_age",
        Kind::Duration((0, DAY), |d| &mut d.config.cache.absent_age),
        "1s",
        "The same for keys that do not exist; 0s does not keep them.",
    ),
    Setting::new(
        "cache.scripts",
        Kind::Choice(&["any", "declared"], |d| &mut d.cache.scripts),
        "any",
        "Keys that scripts write: any, so that such a script empties L1, or only those it declares.",
    ),
    Setting::new(
        "cache.hash_key_names",
        Kind::Boolean(|d| &mut d.config.cache.hash_key_names),
        "false",
        "Show hashes in place of the names of keys.",
    ),
    Setting {
        key: "cache.rules",
        kind: Kind::Rules(|d| &mut d.cache.rules),
        default: Default::List(&[]),
        doc: "What holds for which keys, as [[cache.rules]]; the first rule that matches a key decides.",
    },
    Setting::new(
        "cost.per_100k_commands",
        Kind::Amount(|d| &mut d.config.cache.cost.per_100k_commands),
        "0.00",
        "What the provider charges for 100,000 commands; 0.00 is not stated.",
    ),
    Setting::new(
        "cost.per_gb",
        Kind::Amount(|d| &mut d.config.cache.cost.per_gb),
        "0.00",
        "What the provider charges for a gigabyte (10^9 bytes) of traffic; 0.00 is not stated.",
    ),
    Setting {
        key: "commands.deny",
        kind: Kind::Commands(|d| &mut d.config.commands.deny),
        default: Default::List(crate::commands::DEFAULT_DENY),
        doc: "Commands that are refused: names, or a name and a subcommand.",
    },
    Setting::new(
        "admin.address",
        Kind::Address(|d| &mut d.config.admin.address),
        "127.0.0.1:9180",
        "Address of /metrics, /health, /ready and /live, or off.",
    ),
    Setting::new(
        "admin.server_info",
        Kind::Duration((0, DAY), |d| &mut d.config.admin.server_info),
        "1m",
        "How often the server is asked for INFO while /metrics is read; 0s never asks.",
    ),
    Setting::new(
        "log.format",
        Kind::Choice(&["text", "json"], |d| &mut d.log_format),
        "text",
        "Log lines as text for people or JSON for collectors.",
    ),
    Setting::new(
        "log.level",
        Kind::Filter(|d| &mut d.config.log.level),
        "info",
        "off, error, warn, info, debug, trace, or a filter such as info,nearkey=debug.",
    ),
    Setting::new(
        "process.workers",
        Kind::Integer((0, 1024), |d| &mut d.config.process.workers),
        "0",
        "Worker threads; 0 takes the CPUs that this container may use.",
    ),
    Setting::new(
        "process.memory_limit",
        Kind::Memory((32 * MB, MAX_MEMORY), |d| &mut d.memory),
        "auto",
        "Memory that this process may use; auto takes 60% of the container's limit, 0 sets none.",
    ),
    Setting::new(
        "process.drain_delay",
        Kind::Duration((0, HOUR), |d| &mut d.config.process.drain_delay),
        "0s",
        "After SIGTERM: how long clients are still accepted while /ready says no.",
    ),
    Setting::new(
        "process.drain_timeout",
        Kind::Duration((0, HOUR), |d| &mut d.config.process.drain_timeout),
        "8s",
        "After that: how long commands in flight may take.",
    ),
];
