//! The settings of L1: the forms of its rules, what is wrong with them, and what is doubtful.

use std::time::Duration;

use super::{Given, given};
use crate::l1::config::{Config, Cost, Mode, Rule, Scripts, Verb};

fn base() -> Given {
    given().env("REDIS_URL", "redis://redis:6380")
}

fn file(text: &str) -> Given {
    base().file(text)
}

fn rules(text: &str) -> Given {
    base().env("NEARKEY_CACHE__RULES", text)
}

fn rule(pattern: &str, verb: Verb) -> Rule {
    Rule {
        pattern: pattern.into(),
        verb,
        mode: None,
        ttl: None,
        max_age: None,
        max_value: None,
        stale_if_down: None,
    }
}

/// A rule that says all that one can, and one that says nothing.
const ALL: &str = r#"
[cache]
mode = "tracking"

[[cache.rules]]
match = "session:\\[*"
action = "bypass"

[[cache.rules]]
match = "product:*"
action = "cache"
mode = "ttl"
ttl = "1500ms"
max_age = "5m"
max_value = "1mb"
stale_if_down = "1h"

[[cache.rules]]
match = "user:?"
"#;

fn all() -> Vec<Rule> {
    let product = Rule {
        mode: Some(Mode::Ttl),
        ttl: Some(Duration::from_millis(1500)),
        max_age: Some(Duration::from_secs(300)),
        max_value: Some(1 << 20),
        stale_if_down: Some(Duration::from_secs(3600)),
        ..rule("product:*", Verb::Cache)
    };
    vec![
        rule("session:\\[*", Verb::Bypass),
        product,
        rule("user:?", Verb::Cache),
    ]
}

#[test]
fn the_defaults_of_the_table_are_those_of_l1() {
    let loaded = base().loaded();
    assert_eq!(loaded.config.cache, Config::default());
    assert!(loaded.warnings.is_empty());
}

#[test]
fn every_setting_reaches_its_place() {
    let text = r#"
[cache]
mode = "observe"
default = "cache"
lease = "100ms"
max_bytes = "2gb"
max_value = 1000
max_age = "24h"
absent_age = "0s"
scripts = "declared"
hash_key_names = true
rules = []

[cost]
per_100k_commands = 0.2
per_gb = "0.03"
"#;
    let expected = Config {
        mode: Mode::Observe,
        default: Verb::Cache,
        lease: Duration::from_millis(100),
        max_bytes: 2 << 30,
        max_value: 1000,
        max_age: Duration::from_secs(86_400),
        absent_age: Duration::ZERO,
        scripts: Scripts::Declared,
        hash_key_names: true,
        rules: Vec::new(),
        cost: Cost {
            per_100k_commands: 200_000,
            per_gb: 30_000,
        },
    };
    assert_eq!(file(text).config().cache, expected);
    for (word, mode) in [
        ("auto", Mode::Auto),
        ("tracking", Mode::Tracking),
        ("ttl", Mode::Ttl),
        ("observe", Mode::Observe),
        ("OFF", Mode::Off),
    ] {
        let config = base().env("NEARKEY_CACHE__MODE", word).config();
        assert_eq!(config.cache.mode, mode);
    }
    let whole = file("[cost]\nper_gb = 3\n").env("NEARKEY_COST__PER_100K_COMMANDS", "0.40");
    let cost = whole.config().cache.cost;
    assert_eq!((cost.per_gb, cost.per_100k_commands), (3_000_000, 400_000));
}

#[test]
fn rules_are_read_in_their_order() {
    let config = file(ALL).config().cache;
    assert_eq!((config.mode, config.rules), (Mode::Tracking, all()));
    let inline =
        file("[cache]\nrules = [{ match = \"a\" }, { match = \"b\", action = \"bypass\" }]");
    let expected = [rule("a", Verb::Cache), rule("b", Verb::Bypass)];
    assert_eq!(inline.config().cache.rules, expected);
}

#[test]
fn the_text_form_says_the_same() {
    let one_line = "session:\\[* bypass; product:* cache mode=ttl ttl=1500ms max_age=5m max_value=1mb stale_if_down=1h;user:?;";
    let lines = "\n session:\\[*\taction=bypass\n match=product:* MODE\n".replace(
        "MODE",
        "mode=TTL ttl=1500ms max_age=5m max_value=1mb stale_if_down=1h",
    ) + " ;\n user:? Cache\n";
    for text in [one_line, &lines] {
        assert_eq!(rules(text).config().cache.rules, all(), "{text}");
    }
    for (pattern, ok) in [
        ("*", true),
        ("a=b", true),
        ("{user}:*", true),
        ("a,b", true),
    ] {
        let config = rules(&format!("{pattern} ttl=1s")).load();
        let found = config.map(|loaded| loaded.config.cache.rules[0].pattern.clone());
        assert_eq!(found.is_ok_and(|found| found == pattern.as_bytes()), ok);
    }
}

#[test]
fn the_rules_of_the_environment_replace_those_of_the_file() {
    let both = |text: &str| file(ALL).env("NEARKEY_CACHE__RULES", text).loaded();
    let replaced = both("a");
    assert_eq!(replaced.config.cache.rules, [rule("a", Verb::Cache)]);
    let origin = |loaded: &crate::config::Loaded| {
        let origin = loaded.effective.origin("cache.rules").unwrap();
        origin.rsplit('/').next().unwrap().to_owned()
    };
    assert_eq!(origin(&replaced), "env NEARKEY_CACHE__RULES");
    assert_eq!(both("none").config.cache.rules, []);
    // An empty variable counts as not set.
    assert_eq!(both("").config.cache.rules, all());
    assert_eq!(origin(&both("")), "proxy.toml:5");
    let wrong = file("[[cache.rules]]\nmatch = 5\n").env("NEARKEY_CACHE__RULES", "a");
    assert!(
        wrong
            .errors()
            .starts_with("proxy.toml:2: cache.rules: rule 1: match: must be")
    );
}

#[test]
fn the_rules_can_be_fed_back() {
    let cost = "\n[cost]\nper_gb = 0.0034\n";
    for given in [
        file(&format!("{ALL}{cost}")),
        rules("a\"b\\* ttl=1s; c bypass"),
    ] {
        let loaded = given.loaded();
        let shown = loaded.effective.to_string();
        let again = file(&shown).loaded();
        assert_eq!(again.config, loaded.config, "{shown}");
        assert!(!again.warnings.iter().any(|doubt| doubt.contains("cache")));
    }
}

#[test]
fn rules_are_shown_with_their_origins() {
    let shown = file(ALL).loaded().effective.to_string();
    let start = shown.find("\n[[cache.rules]]").unwrap();
    let end = shown.find("\n[cost]").unwrap();
    let mut lines = shown[start..end].lines().skip(1);
    for (expected, line) in [("[[cache.rules]]", 5), ("match = \"session:\\\\[*\"", 0)] {
        let found = lines.next().unwrap();
        assert!(found.starts_with(expected), "{found}");
        let origin = format!("proxy.toml:{line}");
        assert_eq!(found.ends_with(&origin), line > 0, "{found}");
    }
    assert_eq!(lines.next(), Some("action = \"bypass\""));
    let headers: Vec<&str> = shown
        .lines()
        .filter(|line| line.starts_with("[["))
        .collect();
    assert_eq!(headers.len(), 3);
    assert!(headers[2].ends_with("proxy.toml:18"), "{}", headers[2]);
    let none = base().loaded().effective.to_string();
    assert!(none.contains("\nrules = [] "), "{none}");
    assert!(none.contains("\nper_gb = 0.00 "), "{none}");
}

#[test]
fn all_that_is_wrong_with_rules_is_told_at_once() {
    let text = r#"[[cache.rules]]
match = "a:*"
max_agee = "5s"
ttl = 5

[[cache.rules]]
action = "keep"

[[cache.rules]]
match = ""
max_bytes = "1mb"
mode = "auto"
"#;
    let expected = [
        "proxy.toml:3: cache.rules: rule 1 (\"a:*\"): unknown setting \"max_agee\"; did you mean max_age?",
        "proxy.toml:4: cache.rules: rule 1 (\"a:*\"): ttl: 5 needs a unit, such as \"5s\" or \"5ms\"",
        "proxy.toml:6: cache.rules: rule 2: needs match, such as match = \"product:*\"",
        "proxy.toml:7: cache.rules: rule 2: action: \"keep\" is not one of \"cache\", \"bypass\"",
        "proxy.toml:10: cache.rules: rule 3: match: is empty; \"*\" is every key",
        "proxy.toml:11: cache.rules: rule 3: \"max_bytes\" is a setting of [cache], not of a rule; in a file it stands above the first [[cache.rules]]",
        "proxy.toml:12: cache.rules: rule 3: mode: \"auto\" is not one of \"tracking\", \"ttl\", \"observe\"",
    ];
    let errors = file(text).errors();
    assert_eq!(errors.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn the_text_form_has_clear_errors() {
    for (text, expected) in [
        (
            "a ttl=5; b bypas",
            "rule 2: \"bypas\" is neither cache, bypass nor a setting such as max_age=10s",
        ),
        (
            "a;; b ttl=5",
            "rule 2 (\"b\"): ttl: \"5\" needs a unit, such as \"5s\" or \"5ms\"",
        ),
        (
            "a max_vlaue=1mb",
            "rule 1 (\"a\"): unknown setting \"max_vlaue\"; did you mean max_value?",
        ),
        ("a bypass action=cache", "rule 1: \"action\" is there twice"),
        ("a match=b", "rule 1: \"match\" is there twice"),
        (
            "product:*,max_age=10s",
            "rule 1: \"product:*,max_age=10s\" is not a pattern: a rule begins with one, then a blank, as in product:* max_age=10s",
        ),
        (
            "ttl=1s product:*",
            "rule 1: \"ttl=1s\" is not a pattern: a rule begins with one, then a blank, as in product:* max_age=10s",
        ),
        (
            "[{\"match\": \"a\"}]",
            "is not written as JSON, but as in product:* max_age=10s; session:* bypass",
        ),
        ("match=", "rule 1: match: is empty; \"*\" is every key"),
    ] {
        let expected = format!("env NEARKEY_CACHE__RULES: cache.rules: {expected}");
        assert_eq!(rules(text).errors(), expected, "{text}");
    }
}

#[test]
fn other_shapes_are_no_rules() {
    for (text, found) in [
        ("[cache.rules]\nmatch = \"a\"", "a table"),
        ("[cache]\nrules = \"a\"", "a string"),
        ("[cache]\nrules = [\"a\"]", "a list"),
        ("[cache]\nrules = [\"a\", {}]", "a mixed list"),
    ] {
        let errors = file(text).errors();
        let expected =
            format!("must be a list of tables, each headed [[cache.rules]], not {found}");
        assert!(errors.ends_with(&expected), "{errors}");
    }
    let misspelt = file("[[cache.rule]]\nmatch = \"a\"").errors();
    assert!(misspelt.ends_with("unknown setting cache.rule; did you mean cache.rules?"));
}

#[test]
fn values_of_settings_are_checked() {
    for (text, expected) in [
        (
            "[cache]\nlease = \"99ms\"",
            "cache.lease: 99ms is not from 100ms to 1m",
        ),
        (
            "[cache]\nlease = \"61s\"",
            "cache.lease: 61s is not from 100ms to 1m",
        ),
        (
            "[cache]\nmode = \"on\"",
            "cache.mode: \"on\" is not one of \"auto\", \"tracking\", \"ttl\", \"observe\", \"off\"",
        ),
        (
            "[cache]\nscripts = true",
            "cache.scripts: must be one of \"any\", \"declared\", not a boolean",
        ),
        (
            "[cost]\nper_gb = -0.5",
            "cost.per_gb: \"-0.5\" is not an amount such as 0.20, with up to six decimals and below 1000000",
        ),
        (
            "[cost]\nper_gb = false",
            "cost.per_gb: must be an amount such as 0.20, not a boolean",
        ),
    ] {
        assert_eq!(file(text).errors(), format!("proxy.toml:2: {expected}"));
    }
    let hint = base().env("NEARKEY_CACHE__RULE", "a").errors();
    assert!(
        hint.ends_with("did you mean NEARKEY_CACHE__RULES?"),
        "{hint}"
    );
}

#[test]
fn l1_leaves_most_of_the_memory_to_clients() {
    for (limit, set, bytes, told) in [
        ("0", "64gb", 64 << 30, false),
        ("1gb", "64mb", 64 << 20, false),
        ("120mb", "64mb", 40 << 20, true),
        ("64mb", "64mb", 18 << 20, true),
        ("32mb", "64mb", 4 << 20, true),
        ("32mb", "1mb", 1 << 20, false),
    ] {
        let loaded = base()
            .env("NEARKEY_PROCESS__MEMORY_LIMIT", limit)
            .env("NEARKEY_CACHE__MAX_BYTES", set)
            .env("NEARKEY_CACHE__DEFAULT", "cache")
            .loaded();
        assert_eq!(loaded.config.cache.max_bytes, bytes, "{limit} {set}");
        let tells = |warning: &&String| warning.starts_with("cache.max_bytes: L1 gets");
        let warned = loaded.warnings.iter().find(tells).is_some();
        assert_eq!(warned, told, "{limit} {set}: {:?}", loaded.warnings);
    }
}

#[test]
fn a_value_must_fit_into_the_whole() {
    let low = base().env("NEARKEY_CACHE__MAX_BYTES", "100kb").loaded();
    assert_eq!(low.config.cache.max_value, 100 << 10);
    let origin = low.effective.origin("cache.max_value").unwrap();
    assert_eq!(origin, "default; limited by cache.max_bytes");
    let set = file("[cache]\nmax_bytes = \"1mb\"\nmax_value = \"2mb\"").errors();
    assert!(set.ends_with("proxy.toml:2)"), "{set}");
    assert!(set.starts_with(
        "proxy.toml:3: cache.max_value: 2mb is above cache.max_bytes, which is 1mb ("
    ));
    assert_eq!(
        rules("a; b max_value=65mb").errors(),
        "env NEARKEY_CACHE__RULES: cache.rules: rule 2 (\"b\"): max_value: 65mb is above cache.max_bytes, which is 64mb (default)"
    );
}

#[test]
fn a_rule_by_age_needs_one() {
    let text = "[cache]\nmode = \"off\"\n[[cache.rules]]\nmatch = \"a\"\nmode = \"ttl\"\n";
    assert_eq!(
        file(text).errors(),
        "proxy.toml:3: cache.rules: rule 1 (\"a\"): mode: \"ttl\" needs a ttl, such as ttl = \"5s\""
    );
    assert_eq!(file(&format!("{text}ttl = \"5s\"")).warnings(), "");
}

#[test]
fn a_rule_behind_a_wider_one_is_warned_about() {
    let hidden = |text: &str| {
        let warnings = rules(text).warnings();
        warnings.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(
        hidden("a:*; b bypass; a:*"),
        [
            "cache.rules: rule 3 (\"a:*\") (env NEARKEY_CACHE__RULES): is never used, since rule 1 (\"a:*\") comes first and matches all its keys: put the narrower rule first"
        ]
    );
    for text in [
        "*; a",
        "**; [a-c]?",
        "a:*; a:b:*",
        "*:x:*; a:x:?",
        "a*; ab",
        "[ab]; [ab]",
    ] {
        assert_eq!(hidden(text).len(), 1, "{text}");
    }
    for text in [
        "a:b:*; a:*",
        "a; *",
        "*a*; [abc]",
        "a?; a*",
        "a?; ab",
        "a\\*; a*",
        "[ab]; a",
    ] {
        assert_eq!(hidden(text).len(), 0, "{text}");
    }
}

#[test]
fn what_has_no_effect_is_warned_about() {
    for (mode, text, expected) in [
        (
            "auto",
            "a bypass max_age=1s",
            "max_age has no effect, since its action is \"bypass\"",
        ),
        (
            "auto",
            "a ttl=1m",
            "ttl is 1m, but max_age ends all after 30s: set max_age in the rule too",
        ),
        ("auto", "a ttl=1m max_age=1m", ""),
        (
            "tracking",
            "a ttl=1s",
            "ttl has no effect in mode \"tracking\"",
        ),
        (
            "ttl",
            "a ttl=1s; b",
            "keeps nothing: cache.mode is \"ttl\", and it names no ttl",
        ),
        ("ttl", "a ttl=1s; b mode=tracking", ""),
        (
            "ttl",
            "a; b bypass",
            "cache.mode is \"ttl\" (env NEARKEY_CACHE__MODE), but no rule names a ttl: nothing will be kept",
        ),
        (
            "tracking",
            "none",
            "cache.mode is \"tracking\" (env NEARKEY_CACHE__MODE), but no rule names keys, and cache.default is \"bypass\": nothing will be kept",
        ),
        ("observe", "a bypass", ""),
        ("observe", "a", ""),
        ("off", "a; a ttl=1m", ""),
    ] {
        let warnings = rules(text).env("NEARKEY_CACHE__MODE", mode).warnings();
        assert!(warnings.ends_with(expected), "{warnings}");
        assert_eq!(warnings.lines().count(), usize::from(!expected.is_empty()));
    }
    let all = rules("a ttl=1s")
        .env("NEARKEY_CACHE__MODE", "ttl")
        .env("NEARKEY_CACHE__DEFAULT", "cache");
    assert!(
        all.warnings()
            .ends_with("what no rule matches has no ttl and is not kept")
    );
}
