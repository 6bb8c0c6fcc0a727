//! What the documents name is there: metrics, settings, log lines, errors, alerts, failures' tests.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use nearkey::stats::ConnectFailure;

const SECTIONS: [&str; 8] = [
    "listen", "upstream", "cache", "cost", "commands", "admin", "log", "process",
];

/// Shown as an example of a mistake.
const MISTAKES: [&str; 2] = ["upstream.max_conections", "listen.max_client"];

/// What docs/operations.md quotes that the program does not say itself.
const FOREIGN: [&str; 5] = [
    ": Connection refused",
    "CLIENT LIST",
    "SLOWLOG GET",
    "ulimit -n",
    "redis-cli ",
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// All files below `folder` whose name ends so, by their path.
fn files(folder: &str, end: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    collect(&root().join(folder), end, &mut found);
    assert!(!found.is_empty(), "nothing in {folder}");
    found
}

fn collect(folder: &Path, end: &str, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(&path, end, found);
        } else if path.display().to_string().ends_with(end) {
            let text = fs::read_to_string(&path).expect("readable");
            found.push((path.display().to_string(), text));
        }
    }
}

fn documents() -> Vec<(String, String)> {
    let mut documents = files("docs", ".md");
    documents.push(("README.md".to_owned(), read("README.md")));
    documents
}

/// The program's texts, with strings over several lines joined.
fn sources() -> String {
    let mut joined = String::new();
    for (_, text) in files("src", ".rs") {
        let mut lines = text.split("\\\n");
        joined.push_str(lines.next().unwrap_or_default());
        lines.for_each(|line| joined.push_str(line.trim_start()));
    }
    joined
}

/// Runs of these characters, without dots at their ends.
fn words(text: &str, is_part: impl Fn(char) -> bool) -> impl Iterator<Item = &str> {
    text.split(move |c| !is_part(c))
        .map(|word| word.trim_matches('.'))
        .filter(|word| !word.is_empty())
}

fn is_name(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'
}

/// What stands in double quotes, as far as it is one word.
fn quoted(text: &str) -> BTreeSet<&str> {
    let parts = text.split('"');
    parts
        .filter(|part| !part.is_empty() && part.chars().all(|c| is_name(c) || c == '.'))
        .collect()
}

/// What stands between backticks on one line.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .flat_map(|line| line.split('`').skip(1).step_by(2))
}

fn metrics_in(text: &str) -> BTreeSet<&str> {
    let ends = ["_bucket", "_sum", "_count"];
    words(text, |c| is_name(c) || c == '/')
        .filter(|word| word.starts_with("nearkey_") && !word.ends_with('_'))
        .map(|word| {
            let end = ends.iter().find_map(|end| word.strip_suffix(end));
            end.unwrap_or(word)
        })
        .collect()
}

#[test]
fn every_metric_that_is_named_is_there() {
    let sources = sources();
    let known = metrics_in(&sources);
    // INFO puts `nearkey_` before its names itself.
    let info = read("src/worker/info.rs");
    let info: BTreeSet<String> = quoted(&info)
        .iter()
        .map(|n| format!("nearkey_{n}"))
        .collect();
    let mut named = 0;
    for (path, text) in documents() {
        for name in metrics_in(&text) {
            named += 1;
            assert!(
                known.contains(name) || info.contains(name),
                "{path} names {name}, which is no metric"
            );
        }
    }
    assert!(named > 50, "only {named} names were found");
}

#[test]
fn every_label_that_is_named_is_there() {
    let sources = sources();
    let known = quoted(&sources);
    let mut named = 0;
    for (path, text) in documents() {
        for series in code(&text).filter(|code| code.starts_with("nearkey_")) {
            let Some((_, labels)) = series.split_once('{') else {
                continue;
            };
            for label in labels.trim_end_matches('}').split(',') {
                let (label, value) = label.split_once('=').expect("a label and its value");
                let value = value.trim_matches(['"', '~']);
                named += 1;
                for word in value.split('|').chain([label]) {
                    let word = word.trim_end_matches('\\');
                    let is_there = word == "…" || known.contains(word);
                    assert!(is_there, "{path}: {series}: {word} is in no metric");
                }
            }
        }
    }
    assert!(named > 10, "only {named} labels were found");
}

#[test]
fn every_setting_that_is_named_is_there() {
    let table = read("src/config/table.rs");
    let known = quoted(&table);
    let mut named = 0;
    for (path, text) in documents() {
        let variables = words(&text, |c| c.is_ascii_alphanumeric() || c == '_')
            .filter(|word| word.starts_with("NEARKEY_") && *word != "NEARKEY_SECTION__KEY")
            .filter_map(|word| word["NEARKEY_".len()..].split_once("__"))
            .filter(|(_, key)| !key.is_empty())
            .map(|(section, key)| format!("{section}.{key}").to_lowercase());
        let settings = words(&text, |c| c.is_ascii_alphanumeric() || "_.-/".contains(c))
            .filter(|word| {
                let parts: Vec<_> = word.split('.').collect();
                parts.len() == 2
                    && !word.ends_with('_')
                    && SECTIONS.contains(&parts[0])
                    && parts[1].chars().all(is_name)
            })
            .map(str::to_owned);
        for key in settings.chain(variables) {
            named += 1;
            let is_there = known.contains(key.as_str()) || MISTAKES.contains(&key.as_str());
            assert!(is_there, "{path} names {key}, which is no setting");
        }
    }
    assert!(named > 200, "only {named} settings were found");
}

/// What an operator greps for must be what the program says.
#[test]
fn every_text_that_operations_quotes_is_in_the_program() {
    let (sources, operations) = (sources(), read("docs/operations.md"));
    let is_other = |text: &str| {
        text.starts_with("nearkey ")
            || text.starts_with("NEARKEY ")
            || text.contains(" = ")
            || FOREIGN.iter().any(|foreign| text.contains(foreign))
    };
    let mut seen = 0;
    for text in code(&operations).filter(|text| text.contains(' ') && !is_other(text)) {
        let text = text.trim_start_matches('-');
        let text = text.replace("ERR Protocol error: ", "ERR Protocol error: …");
        for part in text.split('…') {
            let part = part.trim().trim_end_matches([':', ',']);
            assert!(sources.contains(part), "`{text}`: nothing says `{part}`");
            seen += part.len();
        }
    }
    assert!(seen > 1000, "only {seen} bytes were compared");
}

#[test]
fn operations_leaves_nothing_out() {
    let operations = read("docs/operations.md");
    for cause in ConnectFailure::ALL {
        let row = format!("| `{}` |", cause.as_str());
        assert!(operations.contains(&row), "no row for {row}");
    }
    let alerts = read("deploy/prometheus/alerts.yml");
    let alerts = alerts
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "));
    for alert in alerts {
        assert!(
            operations.contains(&format!("| `{alert}` |")),
            "no row for {alert}"
        );
    }
    let metrics = read("src/admin/metrics.rs");
    for family in [
        "refused.add(\"reason\", \"",
        "closed.add(\"reason\", \"",
        "errors.add(\"kind\", \"",
    ] {
        let values = metrics.split(family).skip(1);
        let values: Vec<_> = values.filter_map(|rest| rest.split('"').next()).collect();
        assert!(values.len() > 1, "{family}");
        for value in values {
            assert!(
                operations.contains(&format!("=\"{value}\"}}")),
                "{family}: nothing on {value}"
            );
        }
    }
}

/// docs/failures.md names tests as `file::test`.
#[test]
fn every_test_that_proves_something_is_there() {
    let failures = read("docs/failures.md");
    let mut tests = files("tests", ".py");
    tests.extend(files("tests", ".rs"));
    tests.extend(files("src", ".rs"));
    let mut named = 0;
    for (file, test) in code(&failures).filter_map(|code| code.split_once("::")) {
        named += 1;
        let is_there = tests.iter().any(|(path, text)| {
            path.ends_with(&format!("/{file}")) && text.contains(&format!("fn {test}("))
                || path.ends_with(&format!("/{file}")) && text.contains(&format!("def {test}("))
        });
        assert!(is_there, "docs/failures.md: no {test} in {file}");
    }
    assert!(named > 100, "only {named} tests were found");
    for n in 1..=73 {
        assert!(failures.contains(&format!("| F{n} |")), "no row for F{n}");
    }
}
