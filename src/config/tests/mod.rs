//! Tests of the whole way from sources to a configuration.

mod cache;
mod errors;
mod examples;
mod manual;
mod precedence;
mod redis_env;
mod secrets;
mod url;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Config, ConfigErrors, Loaded, load};
use crate::cli;

/// The sources of one load; nothing of the real process gets in.
#[derive(Default)]
struct Given {
    args: Vec<String>,
    env: BTreeMap<String, String>,
    dir: Option<Dir>,
}

fn given() -> Given {
    Given::default()
}

impl Given {
    fn env(mut self, name: &str, value: &str) -> Self {
        self.env.insert(name.to_owned(), value.to_owned());
        self
    }

    fn envs(mut self, lines: &str) -> Self {
        for line in lines.lines().filter(|line| !line.trim().is_empty()) {
            let (name, value) = line.trim().split_once('=').unwrap();
            self = self.env(name, value);
        }
        self
    }

    fn flags(mut self, line: &str) -> Self {
        self.args.extend(line.split_whitespace().map(str::to_owned));
        self
    }

    /// The text of the proxy.toml that is found without being named.
    fn file(mut self, text: &str) -> Self {
        let dir = Dir::new();
        dir.write("proxy.toml", text);
        self.dir = Some(dir);
        self
    }

    fn load(&self) -> Result<Loaded, ConfigErrors> {
        let args = ["nearkey".to_owned()].into_iter().chain(self.args.clone());
        let cli = cli::parse_from(args.map(Into::into))
            .map_err(|e| e.to_string())
            .ok()
            .unwrap();
        let path = self.dir.as_ref().map(|dir| dir.path("proxy.toml"));
        let search: Vec<&Path> = path.iter().map(PathBuf::as_path).collect();
        load(&cli.flags, &self.env, &search)
    }

    fn loaded(&self) -> Loaded {
        match self.load() {
            Ok(loaded) => loaded,
            Err(errors) => panic!("{errors}"),
        }
    }

    fn config(&self) -> Config {
        self.loaded().config
    }

    /// The problems, one a line, the directory of the test taken out.
    fn errors(&self) -> String {
        let text = match self.load() {
            Ok(loaded) => panic!("loaded:\n{}", loaded.effective),
            Err(errors) => errors.to_string(),
        };
        match &self.dir {
            Some(dir) => text.replace(&format!("{}/", dir.0.display()), ""),
            None => text,
        }
    }

    fn warnings(&self) -> String {
        self.loaded().warnings.join("\n")
    }
}

/// A directory that goes with the test.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("nearkey-config-{}-{next}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn write(&self, name: &str, text: &str) -> String {
        std::fs::write(self.path(name), text).unwrap();
        self.path(name).display().to_string()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
