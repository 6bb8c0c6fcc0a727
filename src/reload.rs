//! Reading the configuration anew: all of it is judged before any of it takes effect.

use crate::admin;
use crate::cli::Cli;
use crate::config::{self, Effect, Loaded};
use crate::control::Reloaded;
use crate::limits;
use crate::proxy::{Prepared, Proxy};
use crate::telemetry::Filter;

/// Reads the configuration anew.
#[derive(Debug)]
pub struct Reloader {
    cli: Cli,
    filter: Filter,
    /// What the process was started with.
    first: Loaded,
    /// What is in force, but for what needs a restart.
    latest: Loaded,
    tls_files: u64,
}

impl Reloader {
    /// Knows what is in force, and where that came from.
    pub fn new(cli: Cli, filter: Filter, loaded: Loaded, prepared: &Prepared) -> Self {
        Self {
            cli,
            filter,
            first: loaded.clone(),
            latest: loaded,
            tls_files: prepared.tls_files,
        }
    }

    /// Reads the file, the secrets and the certificates anew and puts them in force, or says why not and
    /// leaves everything as it was.
    pub async fn reload(&mut self, proxy: &Proxy, state: &admin::State) -> Reloaded {
        let reloaded = self.try_reload(proxy, state).await;
        match &reloaded {
            Ok(text) => tracing::info!("configuration reloaded: {text}"),
            Err(problem) => {
                tracing::error!(
                    "configuration not reloaded, the old one stays in force: {problem}"
                );
            }
        }
        proxy.control().reloads.note(&reloaded);
        reloaded.map_err(|problem| format!("configuration not reloaded: {problem}"))
    }

    async fn try_reload(&mut self, proxy: &Proxy, state: &admin::State) -> Reloaded {
        let mut new = config::load_from_process(&self.cli)
            .map_err(|errors| errors.to_string().replace('\n', "; "))?;
        if let Some(file) = &self.latest.file
            && new.file.as_ref() != Some(file)
        {
            let shown = file.display();
            return Err(format!(
                "{shown} is not there any more; put it back, or start Nearkey again without it"
            ));
        }
        let running = &self.latest.config;
        let changed = config::changed(&self.latest, &new);
        let mut waiting: Vec<&str> = config::changed(&self.first, &new);
        waiting.retain(|key| config::effect_of(key) == Some(Effect::Restart));
        config::keep_fixed(&mut new.config, running);
        if proxy.l1().is_none() && !new.config.cache.is_inert() {
            waiting.push("cache (L1 had nothing to do when Nearkey was started)");
        }
        let prepared = Prepared::new(&new.config).map_err(|e| e.to_string())?;
        self.filter
            .set(&new.config.log.level)
            .map_err(|e| format!("log.level: {e}"))?;
        for warning in &new.warnings {
            tracing::warn!("{warning}");
        }
        let (was, is) = (&running.upstream, &new.config.upstream);
        let moved = was.address != is.address
            || was.tls != is.tls
            || was.username != is.username
            || self.tls_files != prepared.tls_files
            || running.commands != new.config.commands;
        if running.listen.max_clients < new.config.listen.max_clients {
            let (clients, connections) = (new.config.listen.max_clients, is.max_connections);
            if let Some(warning) = limits::raise_open_files(clients, connections).warning {
                tracing::warn!("{warning}");
            }
        }
        let tls_files = prepared.tls_files;
        let tls_differs = tls_files != self.tls_files;
        proxy.reconfigure(new.config.clone(), prepared, moved).await;
        state.show(admin::Shown::of(&new.config));
        if moved {
            tokio::spawn(proxy.move_on());
        }
        self.tls_files = tls_files;
        self.latest = new;
        Ok(tell(&changed, &waiting, tls_differs, moved))
    }
}

/// What a reload has changed, in one line.
fn tell(changed: &[&str], waiting: &[&str], tls_differs: bool, moved: bool) -> String {
    let mut changed: Vec<&str> = changed.to_vec();
    changed.retain(|key| config::effect_of(key) != Some(Effect::Restart));
    let mut text = match changed.as_slice() {
        [] if tls_differs => "the server's certificates changed".to_owned(),
        [] => "no setting changed".to_owned(),
        keys => format!("changed: {}", keys.join(", ")),
    };
    if moved {
        text += "; connections to the server are opened anew, one by one";
    }
    if !waiting.is_empty() {
        text += &format!("; needs a restart: {}", waiting.join(", "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::tell;

    #[test]
    fn what_needs_a_restart_is_said_apart() {
        assert_eq!(tell(&[], &[], false, false), "no setting changed");
        assert_eq!(
            tell(
                &["listen.address", "log.level"],
                &["listen.address"],
                false,
                false
            ),
            "changed: log.level; needs a restart: listen.address"
        );
        assert_eq!(
            tell(&["upstream.url"], &[], false, true),
            "changed: upstream.url; connections to the server are opened anew, one by one"
        );
    }
}
