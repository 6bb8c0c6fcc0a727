//! The house rules that a compiler does not check: who may use whom, and how long things may be.

use std::fs;
use std::path::{Path, PathBuf};

/// Longest file, in lines without its tests; the generated command table is exempt.
const MAX_FILE: usize = 500;
/// Longest function, in lines.
const MAX_FUNCTION: usize = 70;

struct Source {
    path: PathBuf,
    /// Without the `mod tests` at its end.
    text: String,
}

fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    collect(
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")),
        &mut found,
    );
    assert!(found.len() > 20, "the sources were not found");
    found
}

fn collect(folder: &Path, found: &mut Vec<Source>) {
    for entry in fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") && !is_test(&path) {
            let text = fs::read_to_string(&path).expect("readable source");
            let text = text
                .split("#[cfg(test)]\nmod tests {")
                .next()
                .unwrap_or_default()
                .to_owned();
            found.push(Source { path, text });
        }
    }
}

fn is_test(path: &Path) -> bool {
    let shown = path.display().to_string();
    shown.ends_with("tests.rs") || shown.contains("/tests/") || shown.ends_with("proptests.rs")
}

/// `session/mod.rs` for the file of that name below `src`.
fn short(source: &Source) -> String {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/src/");
    source.path.display().to_string().replace(root, "")
}

fn offenders(rule: impl Fn(&Source) -> Option<String>) -> Vec<String> {
    sources()
        .iter()
        .filter_map(|s| rule(s).map(|why| format!("{}: {why}", short(s))))
        .collect()
}

#[test]
fn every_file_says_what_it_is_for() {
    let bad = offenders(|s| (!s.text.starts_with("//! ")).then(|| "no module doc".to_owned()));
    assert!(bad.is_empty(), "{bad:#?}");
}

#[test]
fn no_file_outgrows_its_purpose() {
    let bad = offenders(|s| {
        let lines = s.text.lines().count();
        (lines > MAX_FILE && !short(s).ends_with("table.rs")).then(|| format!("{lines} lines"))
    });
    assert!(bad.is_empty(), "{bad:#?}");
}

#[test]
fn no_function_outgrows_a_screen() {
    let bad = offenders(|s| {
        if short(s).ends_with("table.rs") {
            return None;
        }
        let long = long_functions(&s.text);
        (!long.is_empty()).then(|| long.join(", "))
    });
    assert!(bad.is_empty(), "{bad:#?}");
}

/// Functions by indentation: from the `fn` line to the closing brace in its column.
fn long_functions(text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().collect();
    let mut long = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let is_fn = [
            "fn ",
            "pub fn ",
            "pub(super) fn ",
            "pub(crate) fn ",
            "async fn ",
            "pub async fn ",
        ]
        .iter()
        .any(|prefix| code.starts_with(prefix));
        if !is_fn || code.ends_with(';') {
            continue;
        }
        let end = format!("{}}}", " ".repeat(line.len() - code.len()));
        let length = lines[start..].iter().position(|l| *l == end).unwrap_or(0);
        if length > MAX_FUNCTION {
            long.push(format!("{} lines: {code}", length + 1));
        }
    }
    long
}

/// A folder or file, and what it may not mention.
const FORBIDDEN: &[(&str, &[&str])] = &[
    (
        "resp/",
        &[
            "tokio",
            "crate::session",
            "crate::upstream",
            "crate::worker",
            "crate::commands",
        ],
    ),
    (
        "commands/",
        &[
            "tokio",
            "crate::session",
            "crate::upstream",
            "crate::worker",
        ],
    ),
    (
        "session/",
        &[
            "tokio",
            "std::net",
            "std::env",
            "Instant::now",
            "crate::worker",
            "crate::downstream",
        ],
    ),
    (
        "hub/",
        &[
            "tokio",
            "std::net",
            "Instant::now",
            "crate::session",
            "crate::worker",
            "crate::downstream",
        ],
    ),
    (
        "upstream/pipe.rs",
        &["tokio", "Instant::now", "crate::session", "crate::worker"],
    ),
    (
        "upstream/outbox.rs",
        &["tokio", "Instant::now", "crate::session", "crate::worker"],
    ),
    (
        "upstream/handshake.rs",
        &["tokio", "Instant::now", "crate::session", "crate::worker"],
    ),
    ("upstream/backoff.rs", &["tokio", "Instant::now"]),
    (
        "upstream/loss.rs",
        &["tokio", "Instant::now", "crate::worker"],
    ),
    (
        "upstream/",
        &[
            "crate::session",
            "crate::hub",
            "crate::worker",
            "crate::config",
        ],
    ),
    (
        "downstream/",
        &["crate::session", "crate::worker", "crate::config"],
    ),
];

/// A crate, and the only places that may use it.
const HOMES: &[(&str, &[&str])] = &[
    ("redis_protocol", &["resp/"]),
    ("rustls", &["upstream/tls"]),
    ("clap", &["cli.rs"]),
    ("clap_complete", &["cli.rs"]),
    ("clap_mangen", &["cli.rs"]),
    ("metrics_exporter_prometheus", &["admin/"]),
    ("ratatui", &["top/"]),
];

#[test]
fn layers_are_used_downwards_only() {
    let bad = offenders(|s| {
        let name = short(s);
        let used: Vec<&str> = FORBIDDEN
            .iter()
            .filter(|(place, _)| name.starts_with(place))
            .flat_map(|(_, words)| words.iter().copied())
            .filter(|word| code(&s.text).contains(word))
            .collect();
        (!used.is_empty()).then(|| format!("uses {used:?}"))
    });
    assert!(bad.is_empty(), "{bad:#?}");
}

#[test]
fn each_crate_has_one_home() {
    let bad = offenders(|s| {
        let name = short(s);
        let used: Vec<&str> = HOMES
            .iter()
            .filter(|(word, homes)| {
                code(&s.text).contains(&format!("{word}::"))
                    && !homes.iter().any(|home| name.starts_with(home))
            })
            .map(|(word, _)| *word)
            .collect();
        (!used.is_empty()).then(|| format!("uses {used:?}"))
    });
    assert!(bad.is_empty(), "{bad:#?}");
}

/// The text without comments.
fn code(text: &str) -> String {
    let keep = |line: &&str| !line.trim_start().starts_with("//");
    text.lines().filter(keep).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_rules_can_convict() {
    let long = format!("fn f() {{\n{}}}\n", "    x();\n".repeat(MAX_FUNCTION + 1));
    assert_eq!(long_functions(&long).len(), 1);
    assert!(long_functions("fn f() {\n    x();\n}\n").is_empty());
    assert!(code("use crate::worker;\n// tokio\n").contains("crate::worker"));
    assert!(!code("// tokio\n").contains("tokio"));
}
