//! The configuration while it is put together.
//!
//! A setting that needs no more than parsing goes straight into its place in [`Config`]. The rest,
//! whose meaning depends on other settings, waits here as it was written.

use std::path::PathBuf;
use std::time::Duration;

use super::rules::Written;
use super::{Commands, Config, Process};
use crate::secret::Secret;
use crate::upstream::{Address, Auth, OnLostReply};
use crate::{admin, downstream, l1, telemetry, upstream};

/// The settings as far as they are known.
pub(super) struct Draft {
    pub(super) config: Config,
    pub(super) listen: Listen,
    pub(super) upstream: Upstream,
    pub(super) cache: Cache,
    pub(super) log_format: &'static str,
    /// Resolved; `config.process.workers` stays as written until the end, for printing.
    pub(super) workers: usize,
    /// `process.memory_limit` as written; `None` is `auto`.
    pub(super) memory: Option<usize>,
}

/// What `[listen]` holds beyond its place in [`Config`].
#[derive(Default)]
pub(super) struct Listen {
    pub(super) password_file: Option<PathBuf>,
    pub(super) backlog: usize,
    pub(super) tls_cert: Option<PathBuf>,
    pub(super) tls_key: Option<PathBuf>,
}

/// What `[upstream]` holds beyond its place in [`Config`].
#[derive(Default)]
pub(super) struct Upstream {
    pub(super) url: Option<Secret>,
    pub(super) tls: &'static str,
    pub(super) auth: &'static str,
    pub(super) password_file: Option<PathBuf>,
    pub(super) database: usize,
    pub(super) ca: Option<PathBuf>,
    pub(super) client_cert: Option<PathBuf>,
    pub(super) client_key: Option<PathBuf>,
    pub(super) verify: &'static str,
    pub(super) server_name: Option<String>,
    pub(super) on_lost_reply: &'static str,
}

/// What `[cache]` holds beyond its place in [`Config`].
#[derive(Default)]
pub(super) struct Cache {
    pub(super) mode: &'static str,
    pub(super) default: &'static str,
    pub(super) scripts: &'static str,
    pub(super) rules: Vec<Written>,
}

impl Draft {
    /// All fields empty; the defaults of the table fill them.
    pub(super) fn empty() -> Self {
        Self {
            config: empty_config(),
            listen: Listen::default(),
            upstream: Upstream::default(),
            cache: Cache::default(),
            log_format: "",
            workers: 0,
            memory: None,
        }
    }
}

fn empty_config() -> Config {
    Config {
        cache: l1::config::Config::default(),
        listen: downstream::Config {
            address: None,
            unix: None,
            unix_mode: 0,
            password: None,
            protected_mode: true,
            max_clients: 0,
            backlog: 0,
            tls: None,
            tls_client_ca: None,
            client_output_limit: 0,
            idle_timeout: Duration::ZERO,
            request_timeout: Duration::ZERO,
        },
        upstream: empty_upstream(),
        commands: Commands { deny: Vec::new() },
        admin: admin::Config {
            address: None,
            server_info: Duration::ZERO,
        },
        log: telemetry::Config {
            format: telemetry::Format::Text,
            level: String::new(),
        },
        process: Process {
            workers: 0,
            memory_limit: 0,
            drain_delay: Duration::ZERO,
            drain_timeout: Duration::ZERO,
        },
    }
}

fn empty_upstream() -> upstream::Config {
    upstream::Config {
        address: Address::Tcp {
            host: String::new(),
            port: 0,
        },
        tls: None,
        auth: Auth::Own,
        username: None,
        password: None,
        password_file: None,
        database: 0,
        max_connections: 0,
        connections: 0,
        connect_timeout: Duration::ZERO,
        command_timeout: Duration::ZERO,
        queue_timeout: Duration::ZERO,
        queue_commands: 0,
        max_in_flight: 0,
        lease_timeout: Duration::ZERO,
        idle_timeout: Duration::ZERO,
        keepalive: Duration::ZERO,
        stall_timeout: Duration::ZERO,
        opens_per_second: 0,
        backoff_min: Duration::ZERO,
        backoff_max: Duration::ZERO,
        large_request: 0,
        on_lost_reply: OnLostReply::Close,
        retry_reads: false,
    }
}
