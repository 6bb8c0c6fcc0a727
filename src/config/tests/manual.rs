//! The manual is right: proxy.toml and docs/configuration.md against the table.

use super::given;
use crate::config::rules::NAMES;
use crate::config::{SETTINGS, reference, rules_reference};

const MANUAL: &str = include_str!("../../../proxy.toml");
const DOCUMENT: &str = include_str!("../../../docs/configuration.md");

/// The manual with every setting switched on: `#key = ...` loses its `#`, prose keeps it.
fn uncommented() -> String {
    let line = |line: &str| match line.strip_prefix('#') {
        Some(rest) if !rest.is_empty() && !rest.starts_with(' ') => rest.to_owned(),
        _ => line.to_owned(),
    };
    MANUAL.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_manual_changes_nothing() {
    let flags = "--upstream redis://r:1";
    let with = given().file(MANUAL).flags(flags).loaded();
    let without = given().flags(flags).loaded();
    assert_eq!(with.config, without.config);
    assert_eq!(with.effective, without.effective);
}

#[test]
fn the_manual_has_every_setting_at_its_default() {
    let manual = uncommented();
    let flags = "--upstream redis://r:1";
    let with = given().file(&manual).flags(flags).loaded();
    assert_eq!(with.config, given().flags(flags).config());
    for setting in SETTINGS {
        let origin = with.effective.origin(setting.key).unwrap();
        let there = origin.contains("proxy.toml:") || setting.key == "upstream.url";
        assert!(there, "{} is not in proxy.toml", setting.key);
    }
    assert!(manual.contains("\nurl = \"rediss://"));
}

#[test]
fn the_manual_follows_the_order_of_the_table() {
    let manual = uncommented();
    let mut rest = manual.as_str();
    for setting in SETTINGS {
        let line = format!("\n{} = ", setting.name());
        let at = rest.find(&line);
        let at = at.unwrap_or_else(|| panic!("{} is out of order", setting.key));
        rest = &rest[at + line.len()..];
    }
}

#[test]
fn the_document_holds_the_table() {
    let table = reference();
    assert!(
        DOCUMENT.contains(&table),
        "docs/configuration.md should hold:\n{table}"
    );
}

#[test]
fn the_document_tells_what_a_rule_can_say() {
    let table = rules_reference();
    assert!(
        DOCUMENT.contains(&table),
        "docs/configuration.md should hold:\n{table}"
    );
}

/// The example in the prose of the manual is a valid one and shows all that a rule can say.
#[test]
fn the_manual_shows_every_part_of_a_rule() {
    let example: Vec<&str> = MANUAL
        .lines()
        .filter_map(|line| line.strip_prefix("#   "))
        .skip_while(|line| *line != "[[cache.rules]]")
        .take_while(|line| line.contains(['=', '[']) && !line.contains("NEARKEY"))
        .collect();
    let flags = "--upstream redis://r:1";
    let with = given().file(&example.join("\n")).flags(flags);
    assert_eq!(with.warnings(), "");
    assert_eq!(with.config().cache.rules.len(), 2);
    for (name, _) in NAMES {
        let is_there = |line: &&str| line.starts_with(&format!("{name} = "));
        assert!(example.iter().any(is_there), "{name}");
    }
}

/// Examples of the environment form, in the manual and the document.
#[test]
fn the_lines_for_the_environment_are_valid() {
    for text in [MANUAL, DOCUMENT] {
        let (_, line) = text.split_once("NEARKEY_CACHE__RULES=").unwrap();
        let rules = line.lines().next().unwrap().trim_matches('"');
        let given = given()
            .flags("--upstream redis://r:1")
            .env("NEARKEY_CACHE__RULES", rules);
        assert_eq!(given.warnings(), "");
        assert_eq!(given.config().cache.rules.len(), 2);
    }
}

#[test]
fn every_default_is_valid_and_every_key_well_formed() {
    let loaded = given().flags("--upstream redis://r:1").loaded();
    for setting in SETTINGS {
        assert!(loaded.effective.origin(setting.key).is_some());
        assert!(!setting.section().is_empty() && !setting.doc.is_empty());
        let twice = SETTINGS.iter().filter(|other| other.key == setting.key);
        assert_eq!(twice.count(), 1, "{}", setting.key);
    }
}
