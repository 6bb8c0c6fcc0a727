//! File, environment and flags: whatever stands there, it is read or refused without a panic, and no
//! password comes out.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nearkey::cli::Flags;
use nearkey::config::load;
use nearkey::secret::Secret;

/// The password; no name of a setting is near it.
const CANARY: &str = "c4n4ry";

/// Variables that the fuzzer may set; the parts of the input go to them in turn.
const VARIABLES: [&str; 24] = [
    "REDIS_HOST",
    "REDIS_PORT",
    "REDIS_DB",
    "REDIS_USERNAME",
    "REDIS_SSL",
    "REDIS_SSL_CERT_REQS",
    "REDIS_SSL_CHECK_HOSTNAME",
    "REDIS_MAX_CONNECTIONS",
    "REDIS_TIMEOUT",
    "REDIS_RETRY_ON_TIMEOUT",
    "REDIS_ENDPOINT",
    "NEARKEY_CACHE__RULES",
    "NEARKEY_CACHE__MODE",
    "NEARKEY_CACHE__MAX_BYTES",
    "NEARKEY_LISTEN__ADDRESS",
    "NEARKEY_LISTEN__UNIX",
    "NEARKEY_UPSTREAM__USERNAME",
    "NEARKEY_UPSTREAM__COMMAND_TIMEOUT",
    "NEARKEY_COMMANDS__DENY",
    "NEARKEY_ADMIN__ADDRESS",
    "NEARKEY_LOG__LEVEL",
    "NEARKEY_COST__PER_GB",
    "NEARKEY_PROCESS__WORKERS",
    "NEARKEY_LISTEN__UNIX_MODE",
];

/// One run: parts divided by zeros. The first byte says which forms they take.
pub fn run(data: &[u8]) {
    let (switches, rest) = data.split_first().unwrap_or((&0, &[]));
    let (place, rest) = rest.split_first().unwrap_or((&0, &[]));
    let mut parts = rest.split(|byte| *byte == 0).map(|part| {
        // The password is where this says, nowhere else.
        String::from_utf8_lossy(part).replace(CANARY, "canary")
    });
    let mut env = BTreeMap::new();
    let mut flags = Flags::default();
    let mut next = || parts.next().unwrap_or_default();
    let (text, url) = (next(), planted_url(&next(), &next(), &next()));
    match switches & 7 {
        0 => drop(env.insert("REDIS_URL".to_owned(), url)),
        1 => drop(env.insert("UPSTASH_REDIS_URL".to_owned(), url)),
        2 => drop(env.insert("NEARKEY_UPSTREAM__URL".to_owned(), url)),
        3 => flags.upstream = Some(Secret::new(url)),
        4 => drop(env.insert("REDIS_URL".to_owned(), next())),
        _ => drop(env.insert("REDIS_HOST".to_owned(), "r".to_owned())),
    }
    let file = match switches >> 3 & 3 {
        0 => text,
        1 => format!("{text}\n[upstream]\npassword = \"{CANARY}\"\n"),
        2 => format!("[listen]\npassword = \"{CANARY}\"\n{text}"),
        _ => format!("{text}\n[upstream]\npassword = [{CANARY}\n"),
    };
    match switches >> 5 {
        0 => drop(env.insert("REDIS_PASSWORD".to_owned(), CANARY.to_owned())),
        1 => drop(env.insert("NEARKEY_UPSTREAM__PASSWORD".to_owned(), CANARY.to_owned())),
        2 => drop(env.insert("NEARKEY_LISTEN__PASSWORD".to_owned(), CANARY.to_owned())),
        _ => {}
    }
    for (at, part) in parts.take(4).enumerate() {
        let name = VARIABLES[(usize::from(*place) + at * 7) % VARIABLES.len()];
        env.insert(name.to_owned(), part);
    }
    let path = write_file(file.as_bytes());
    let shown = match load(&flags, &env, &[&path]) {
        Ok(loaded) => {
            let shown = loaded.effective.to_string();
            format!("{loaded:?}\n{shown}\n{:?}", loaded.warnings)
        }
        Err(errors) => format!("{errors}\n{errors:?}"),
    };
    assert!(!shown.contains(CANARY), "{shown}");
}

/// A URL with the password where passwords are.
fn planted_url(scheme: &str, user: &str, behind: &str) -> String {
    let scheme = if scheme.is_empty() { "redis" } else { scheme };
    format!("{scheme}://{user}:{CANARY}@{behind}")
}

/// A file in memory that holds just this, at the same place each time.
fn write_file(text: &[u8]) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() {
            memory.to_owned()
        } else {
            std::env::temp_dir()
        };
        let folder = parent.join(format!("nearkey-fuzz-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        folder
    });
    let path = folder.join("proxy.toml");
    let mut file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .expect("a file");
    file.seek(SeekFrom::Start(0)).expect("it can be sought");
    file.write_all(text).expect("it can be written");
    file.set_len(text.len() as u64).expect("it can be cut");
    path
}
