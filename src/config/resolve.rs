//! From the settings as written to a [`Config`] that is whole: what depends on several settings.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use super::draft::Draft;
use super::problem::{Layer, Origin, Problem};
use super::redis_env::RedisEnv;
use super::table::Setting;
use super::url::Url;
use crate::downstream::TlsIdentity;
use crate::limits;
use crate::secret::Secret;
use crate::telemetry::Format;
use crate::upstream::provider::provider;
use crate::upstream::{Address, Auth, OnLostReply, TlsConfig, Verify};

/// Puts the draft together, and collects what is wrong or worth a warning.
pub(super) struct Resolver {
    pub(super) draft: Draft,
    pub(super) origins: BTreeMap<&'static str, Origin>,
    /// What `nearkey config` adds behind a value.
    pub(super) notes: BTreeMap<&'static str, String>,
    pub(super) redis_env: RedisEnv,
    pub(super) problems: Vec<Problem>,
    pub(super) warnings: Vec<String>,
}

impl Resolver {
    /// Fills in everything that depends on more than one setting.
    pub(super) fn resolve(&mut self) {
        self.choices();
        super::cache::resolve(self);
        self.listen();
        let url = self.url();
        if let Some(url) = &url {
            self.merge(url);
        }
        self.credentials();
        self.database();
        if let Some(url) = url {
            self.draft.config.upstream.tls = self.tls(&url);
            self.draft.config.upstream.address = url.address;
            super::checks::addresses(self);
        }
        super::checks::listeners(self);
        super::checks::passthrough(self);
        self.connections();
        self.workers();
        self.memory_limit();
        super::checks::denied(self);
        super::cache::leave_room(self);
        super::checks::warnings(self);
    }

    /// Where a setting's value was written.
    pub(super) fn origin(&self, key: &str) -> Origin {
        debug_assert!(Setting::find(key).is_some(), "{key} is not in the table");
        let origin = self.origins.get(key).cloned();
        origin.unwrap_or_else(Origin::default_value)
    }

    /// Whether a setting was written anywhere.
    pub(super) fn is_set(&self, key: &str) -> bool {
        self.origin(key).layer != Layer::Default
    }

    /// Reports a problem at the place where the setting was written.
    pub(super) fn problem(&mut self, key: &'static str, what: impl Into<String>) {
        self.problems
            .push(Problem::of(&self.origin(key), key, what));
    }

    pub(super) fn note(&mut self, key: &'static str, note: impl Into<String>) {
        self.notes.insert(key, note.into());
    }

    fn choices(&mut self) {
        self.draft.config.log.format = match self.draft.log_format {
            "json" => Format::Json,
            _ => Format::Text,
        };
        self.draft.config.upstream.on_lost_reply = match self.draft.upstream.on_lost_reply {
            "error" => OnLostReply::Error,
            _ => OnLostReply::Close,
        };
        self.draft.config.upstream.auth = match self.draft.upstream.auth {
            "passthrough" => Auth::Passthrough,
            _ => Auth::Own,
        };
    }

    fn listen(&mut self) {
        let listen = &self.draft.listen;
        let (cert, key) = (listen.tls_cert.clone(), listen.tls_key.clone());
        let file = listen.password_file.clone();
        self.draft.config.listen.backlog = u32::try_from(listen.backlog).unwrap_or(u32::MAX);
        self.draft.config.listen.tls =
            self.identity(("listen.tls_cert", cert), ("listen.tls_key", key));
        if let Some(secret) = self.password_file("listen.password", "listen.password_file", file) {
            self.draft.config.listen.password = Some(secret);
        }
        if let Some(ca) = self.draft.config.listen.tls_client_ca.clone() {
            self.readable("listen.tls_client_ca", &ca);
            if self.draft.listen.tls_cert.is_none() {
                self.problem(
                    "listen.tls_client_ca",
                    "needs listen.tls_cert and listen.tls_key: clients speak no TLS without them",
                );
            }
        }
    }

    fn url(&mut self) -> Option<Url> {
        let Some(url) = self.draft.upstream.url.clone() else {
            // A value that could not be read has been reported already.
            if !self
                .problems
                .iter()
                .any(|problem| problem.key() == Some("upstream.url"))
            {
                let what = missing_upstream(self.redis_env.rest_only);
                self.problem("upstream.url", what);
            }
            return None;
        };
        match Url::parse(url.expose()) {
            Ok(url) => Some(url),
            Err(what) => {
                self.problem("upstream.url", what);
                None
            }
        }
    }

    /// Takes from the URL what no setting of its own source or a later one gives.
    fn merge(&mut self, url: &Url) {
        self.merge_credentials(url);
        if let Some(database) = self.part_of_url("upstream.database", url.database.as_ref()) {
            self.draft.upstream.database = usize::try_from(database).unwrap_or(usize::MAX);
        }
        if let Some(verify) = self.part_of_url("upstream.verify", url.verify.as_ref()) {
            self.draft.upstream.verify = verify;
        }
    }

    /// A URL's password comes with its user, also where that is none: an earlier source's user and
    /// password file are for another password.
    fn merge_credentials(&mut self, url: &Url) {
        if let Some(username) = self.part_of_url("upstream.username", url.username.as_ref()) {
            self.draft.config.upstream.username = Some(username);
        }
        let Some(password) = self.part_of_url("upstream.password", url.password.as_ref()) else {
            return;
        };
        self.draft.config.upstream.password = Some(password);
        let layer = self.origin("upstream.url").layer;
        let replaced = |of: &Self, key| of.is_set(key) && of.origin(key).layer < layer;
        if replaced(self, "upstream.username") {
            self.draft.config.upstream.username = None;
            self.note("upstream.username", "replaced by upstream.url");
        }
        if replaced(self, "upstream.password_file") {
            self.draft.upstream.password_file = None;
            self.note("upstream.password_file", "replaced by upstream.url");
        }
    }

    fn part_of_url<T: Clone>(&mut self, key: &'static str, part: Option<&T>) -> Option<T> {
        let url = self.origin("upstream.url");
        let part = part.filter(|_| self.origin(key).layer < url.layer)?;
        self.origins.insert(key, url);
        self.note(key, "part of upstream.url");
        Some(part.clone())
    }

    fn credentials(&mut self) {
        let file = self.draft.upstream.password_file.clone();
        // The URL's password does not clash with a file: the file is the setting, and wins.
        let from_url = self.notes.contains_key("upstream.password");
        let read = match file {
            Some(path) if from_url => self.secret("upstream.password_file", &path),
            file => self.password_file("upstream.password", "upstream.password_file", file),
        };
        if let Some(secret) = read {
            self.draft.config.upstream.password = Some(secret);
            self.draft.config.upstream.password_file = self.draft.upstream.password_file.clone();
        }
        if self.redis_env.auth_required && self.draft.config.upstream.password.is_none() {
            self.problems.push(Problem::at(
                Origin::redis_env("REDIS_AUTH_REQUIRED"),
                "is true, but there is no password for the upstream: put it in the URL, REDIS_PASSWORD (with REDIS_HOST), upstream.password or upstream.password_file",
            ));
        }
    }

    fn database(&mut self) {
        let database = self.draft.upstream.database;
        self.draft.config.upstream.database = u32::try_from(database).unwrap_or(u32::MAX);
    }

    fn tls(&mut self, url: &Url) -> Option<TlsConfig> {
        let upstream = &self.draft.upstream;
        let (cert, key) = (upstream.client_cert.clone(), upstream.client_key.clone());
        let (ca, server_name) = (upstream.ca.clone(), upstream.server_name.clone());
        let verify = match upstream.verify {
            "ca" => Verify::Ca,
            "none" => Verify::None,
            _ => Verify::Full,
        };
        if let Some(ca) = &ca {
            self.readable("upstream.ca", ca);
        }
        let identity = self.identity(("upstream.client_cert", cert), ("upstream.client_key", key));
        self.wants_tls(url).then_some(TlsConfig {
            verify,
            ca,
            identity,
            server_name,
        })
    }

    fn wants_tls(&mut self, url: &Url) -> bool {
        let upstash =
            matches!(&url.address, Address::Tcp { host, .. } if provider(host) == "upstash");
        let unix = matches!(url.address, Address::Unix(_));
        match self.draft.upstream.tls {
            "on" if unix => self.problem(
                "upstream.tls",
                "is on, but upstream.url is a unix socket, which carries no TLS",
            ),
            "off" if url.asks_for_tls() => {
                let what = format!(
                    "is off, but the scheme of upstream.url ({}) asks for TLS: write redis://",
                    self.origin("upstream.url")
                );
                self.problem("upstream.tls", what);
            }
            "on" => return true,
            "off" => return false,
            _ if url.asks_for_tls() => {
                self.note("upstream.tls", "on, by the URL's scheme");
                return true;
            }
            _ if upstash => {
                self.note("upstream.tls", "on, since Upstash speaks nothing else");
                return true;
            }
            _ => {
                self.note("upstream.tls", "off, by the URL's scheme");
                super::checks::tls_files_need_tls(self);
            }
        }
        false
    }

    /// The built-in number of shared connections gives way to a low ceiling; a written one must fit.
    fn connections(&mut self) {
        let upstream = &mut self.draft.config.upstream;
        let (shared, ceiling) = (upstream.connections, upstream.max_connections);
        if shared > ceiling {
            if self.is_set("upstream.connections") {
                let what = format!(
                    "{shared} is above upstream.max_connections, which is {ceiling} ({})",
                    self.origin("upstream.max_connections")
                );
                self.problem("upstream.connections", what);
            } else {
                self.draft.config.upstream.connections = ceiling;
                self.note(
                    "upstream.connections",
                    "limited by upstream.max_connections",
                );
            }
        }
        let upstream = &self.draft.config.upstream;
        if upstream.backoff_min > upstream.backoff_max {
            let what = format!(
                "is above upstream.backoff_max ({})",
                self.origin("upstream.backoff_max")
            );
            self.problem("upstream.backoff_min", what);
        }
    }

    fn workers(&mut self) {
        if self.draft.config.process.workers == 0 {
            // Counts what the scheduler and the cgroup's quota leave to this process.
            let cpus = std::thread::available_parallelism().map_or(1, usize::from);
            self.draft.workers = cpus;
            self.note("process.workers", format!("{cpus} here"));
        } else {
            self.draft.workers = self.draft.config.process.workers;
        }
    }

    fn memory_limit(&mut self) {
        let process = &mut self.draft.config.process;
        process.memory_limit = self.draft.memory.unwrap_or_default();
        if self.draft.memory.is_none() {
            process.memory_limit = limits::share_of_container();
            let note = match process.memory_limit {
                0 => "no limit here".to_owned(),
                bytes => format!("{}mb here", bytes >> 20),
            };
            self.note("process.memory_limit", note);
        }
    }

    fn password_file(
        &mut self,
        password: &'static str,
        key: &'static str,
        path: Option<PathBuf>,
    ) -> Option<Secret> {
        let path = path?;
        if self.is_set(password) {
            let what = format!(
                "is set, and {password} too ({}): give one of them",
                self.origin(password)
            );
            self.problem(key, what);
            return None;
        }
        self.secret(key, &path)
    }

    fn secret(&mut self, key: &'static str, path: &Path) -> Option<Secret> {
        match Secret::read(path) {
            Ok(secret) => Some(secret),
            Err(what) => {
                self.problem(key, what);
                None
            }
        }
    }

    fn identity(
        &mut self,
        cert: (&'static str, Option<PathBuf>),
        key: (&'static str, Option<PathBuf>),
    ) -> Option<TlsIdentity> {
        match (cert, key) {
            ((_, None), (_, None)) => None,
            ((cert_key, Some(cert)), (key_key, Some(key))) => {
                self.readable(cert_key, &cert);
                self.readable(key_key, &key);
                Some(TlsIdentity { cert, key })
            }
            ((missing, None), (given, _)) | ((given, _), (missing, None)) => {
                self.problem(given, format!("needs {missing} too"));
                None
            }
        }
    }

    fn readable(&mut self, key: &'static str, path: &Path) {
        let opened = File::open(path).and_then(|file| file.metadata());
        match opened {
            Ok(metadata) if metadata.is_dir() => {
                self.problem(key, format!("{} is a directory", path.display()))
            }
            Ok(_) => {}
            Err(error) => self.problem(key, format!("cannot read {}: {error}", path.display())),
        }
    }
}

fn missing_upstream(rest_only: bool) -> String {
    let hint = match rest_only {
        true => {
            " (UPSTASH_REDIS_REST_URL is Upstash's HTTP address; copy the Redis one from its console)"
        }
        false => "",
    };
    format!(
        "no Redis server is named: give --upstream rediss://default:PASSWORD@HOST:6379, or set REDIS_URL, UPSTASH_REDIS_URL or REDIS_HOST, or upstream.url in proxy.toml{hint}"
    )
}
