//! The table of settings for readers: what docs/configuration.md holds.

use super::draft::Draft;
use super::kind::Kind;
use super::rules;
use super::table::{SETTINGS, Setting};

/// Every setting as a Markdown table: key, default, meaning.
pub fn reference() -> String {
    let mut draft = Draft::empty();
    let mut table = String::from("| setting | default | meaning |\n|---|---|---|\n");
    for setting in SETTINGS {
        let default = default(setting, &mut draft);
        table += &format!("| `{}` | {default} | {} |\n", setting.key, setting.doc);
    }
    table
}

/// What a rule of L1 can say, as a Markdown table: name, meaning.
pub fn rules_reference() -> String {
    let mut table = String::from("| in a rule | meaning |\n|---|---|\n");
    for (name, doc) in rules::NAMES {
        table += &format!("| `{name}` | {doc} |\n");
    }
    table
}

/// The built-in value as TOML. A list is too long for a cell.
fn default(setting: &Setting, draft: &mut Draft) -> String {
    if matches!(setting.kind, Kind::Commands(_)) {
        return "see proxy.toml".to_owned();
    }
    match setting.kind.set(draft, &setting.default_value()) {
        Ok(()) => format!("`{}`", setting.kind.show(draft)),
        Err(_) => "none".to_owned(),
    }
}
