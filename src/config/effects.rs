//! When a changed setting takes effect in a process that runs.

use super::table::SETTINGS;
use super::{Config, Loaded};

/// When a setting that a reload has changed takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// At once, for everybody.
    AtOnce,
    /// For connections, of clients or to the server, that are opened from then on.
    New,
    /// The same, and connections to the server that are up are drained and opened anew, one by one.
    Moves,
    /// When the process is started again.
    Restart,
}

impl Effect {
    /// In the words of the documentation.
    fn as_str(self) -> &'static str {
        match self {
            Self::AtOnce => "at once",
            Self::New => "new connections",
            Self::Moves => "connections to the server are drained and opened anew, one by one",
            Self::Restart => "needs a restart",
        }
    }
}

/// When a setting takes effect; `None` for what is no setting.
pub fn effect_of(key: &str) -> Option<Effect> {
    Some(match key {
        "listen.address" | "listen.unix" | "listen.unix_mode" | "listen.backlog" => Effect::Restart,
        "listen.password" | "listen.password_file" | "listen.protected_mode" => Effect::New,
        "listen.max_clients" => Effect::New,
        "listen.tls_cert" | "listen.tls_key" | "listen.tls_client_ca" => Effect::New,
        "listen.client_output_limit" | "listen.idle_timeout" => Effect::AtOnce,
        "listen.request_timeout" | "upstream.opens_per_second" => Effect::AtOnce,
        "upstream.queue_commands" => Effect::AtOnce,
        "upstream.max_in_flight" | "process.memory_limit" => Effect::Restart,
        "upstream.url" | "upstream.tls" | "upstream.username" => Effect::Moves,
        "upstream.verify" | "upstream.ca" | "upstream.server_name" => Effect::Moves,
        "upstream.client_cert" | "upstream.client_key" | "commands.deny" => Effect::Moves,
        "upstream.auth" | "upstream.max_connections" => Effect::Restart,
        "upstream.password" | "upstream.password_file" | "upstream.database" => Effect::New,
        "upstream.backoff_min" | "upstream.backoff_max" => Effect::New,
        "upstream.connections" | "upstream.connect_timeout" => Effect::AtOnce,
        "upstream.command_timeout" | "upstream.queue_timeout" => Effect::AtOnce,
        "upstream.lease_timeout" | "upstream.idle_timeout" => Effect::AtOnce,
        "upstream.keepalive" | "upstream.stall_timeout" => Effect::AtOnce,
        "upstream.large_request" | "upstream.on_lost_reply" => Effect::AtOnce,
        "upstream.retry_reads" => Effect::AtOnce,
        "cache.max_bytes" | "cache.hash_key_names" => Effect::Restart,
        "cache.mode" | "cache.default" | "cache.lease" | "cache.max_value" => Effect::AtOnce,
        "cache.max_age" | "cache.absent_age" | "cache.scripts" | "cache.rules" => Effect::AtOnce,
        "cost.per_100k_commands" | "cost.per_gb" | "log.level" => Effect::AtOnce,
        "process.drain_delay" | "process.drain_timeout" => Effect::AtOnce,
        "admin.address" | "log.format" | "process.workers" => Effect::Restart,
        _ => return None,
    })
}

/// When each setting takes effect, as a Markdown table.
pub fn effects_reference() -> String {
    let mut table = String::from("| setting | a change takes effect |\n|---|---|\n");
    for setting in SETTINGS {
        let effect = effect_of(setting.key).map_or("unknown", Effect::as_str);
        table += &format!("| `{}` | {effect} |\n", setting.key);
    }
    table
}

/// The settings whose values differ, secrets included.
pub fn changed(old: &Loaded, new: &Loaded) -> Vec<&'static str> {
    let (was, is) = (&old.config, &new.config);
    let secrets = [
        ("listen.password", was.listen.password != is.listen.password),
        (
            "upstream.password",
            was.upstream.password != is.upstream.password,
        ),
        (
            "upstream.username",
            was.upstream.username != is.upstream.username,
        ),
    ];
    let differs = |key: &str| {
        let secret = secrets.iter().find(|(name, _)| *name == key);
        secret.is_some_and(|(_, differs)| *differs) || old.effective.differs(&new.effective, key)
    };
    let keys = SETTINGS.iter().map(|setting| setting.key);
    keys.filter(|key| differs(key)).collect()
}

/// What cannot change while the process runs stays as it was.
pub fn keep_fixed(new: &mut Config, running: &Config) {
    new.listen.address = running.listen.address;
    new.listen.unix.clone_from(&running.listen.unix);
    new.listen.unix_mode = running.listen.unix_mode;
    new.listen.backlog = running.listen.backlog;
    new.upstream.auth = running.upstream.auth;
    new.upstream.max_connections = running.upstream.max_connections;
    new.cache.max_bytes = running.cache.max_bytes;
    new.cache.hash_key_names = running.cache.hash_key_names;
    new.admin = running.admin.clone();
    new.log.format = running.log.format;
    new.process.workers = running.process.workers;
    new.process.memory_limit = running.process.memory_limit;
    new.upstream.max_in_flight = running.upstream.max_in_flight;
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = include_str!("../../docs/configuration.md");

    #[test]
    fn of_every_setting_it_is_known_when_it_takes_effect() {
        for setting in SETTINGS {
            assert!(effect_of(setting.key).is_some(), "{}", setting.key);
        }
        assert_eq!(effect_of("listen.adress"), None);
    }

    #[test]
    fn the_document_tells_when_settings_take_effect() {
        let table = effects_reference();
        assert!(
            DOCUMENT.contains(&table),
            "docs/configuration.md should hold:\n{table}"
        );
    }
}
