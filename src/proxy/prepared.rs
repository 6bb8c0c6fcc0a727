//! What is made of a configuration before anything of it takes effect: all that can be wrong with it.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::Arc;

use super::Error;
use crate::commands::CommandTable;
use crate::config::Config;
use crate::resp;
use crate::session::Settings;
use crate::upstream::Auth;
use crate::upstream::tls::{Acceptor, Connector};
use crate::worker::{Budget, Limits};

/// What is made of a configuration.
#[derive(Debug)]
pub struct Prepared {
    /// TLS to the server.
    pub connector: Option<Connector>,
    /// TLS to clients.
    pub acceptor: Option<Acceptor>,
    /// The commands, with those that are denied.
    pub table: Arc<CommandTable>,
    /// Stands for what the files say that TLS to the server is made of.
    pub tls_files: u64,
}

impl Prepared {
    /// Reads the certificates and checks what is named.
    ///
    /// # Errors
    /// A certificate cannot be read or used, or a command's name is none.
    pub fn new(config: &Config) -> Result<Self, Error> {
        let connector = config.upstream.tls.as_ref().map(Connector::new).transpose();
        let connector = connector.map_err(|e| Error(format!("upstream TLS: {e}")))?;
        let acceptor = match &config.listen.tls {
            Some(identity) => Some(
                Acceptor::new(identity, config.listen.tls_client_ca.as_deref())
                    .map_err(|e| Error(format!("listen TLS: {e}")))?,
            ),
            None => None,
        };
        let table = CommandTable::builtin()
            .with_denied(&config.commands.deny)
            .map_err(|what| Error(format!("commands.deny: {what}")))?;
        Ok(Self {
            connector,
            acceptor,
            table: table.into(),
            tls_files: tls_files(config),
        })
    }
}

/// Settings of sessions.
pub(super) fn settings(config: &Config, budget: &Budget) -> Settings {
    Settings {
        password: config.listen.password.clone(),
        passthrough: config.upstream.auth == Auth::Passthrough,
        database: config.upstream.database,
        large_request: config.upstream.large_request,
        limits: resp::Limits::default(),
        pressed: budget.pressed(),
    }
}

/// Limits of the drivers of clients.
pub(super) fn limits(config: &Config) -> Limits {
    let path = config.listen.unix.as_ref();
    Limits {
        client_output: config.listen.client_output_limit.into(),
        on_lost_reply: config.upstream.on_lost_reply.into(),
        unix_path: path
            .map(|path| path.display().to_string())
            .unwrap_or_default(),
    }
}

fn tls_files(config: &Config) -> u64 {
    let mut hasher = DefaultHasher::new();
    if let Some(tls) = &config.upstream.tls {
        let identity = tls.identity.as_ref();
        let files = [
            tls.ca.as_deref(),
            identity.map(|identity| identity.cert.as_path()),
            identity.map(|identity| identity.key.as_path()),
        ];
        for file in files.into_iter().flatten() {
            contents(file).hash(&mut hasher);
        }
    }
    hasher.finish()
}

/// What cannot be read has been reported when it was used.
fn contents(file: &Path) -> Vec<u8> {
    std::fs::read(file).unwrap_or_default()
}
