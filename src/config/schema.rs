//! The table of settings as a JSON schema, by which editors check and complete proxy.toml.

use serde_json::{Map, Value, json};

use super::draft::Draft;
use super::kind::Kind;
use super::rules;
use super::table::{SETTINGS, Setting};

/// What the readers of durations and sizes take; the limits of a setting are in its own schema.
const DURATION: &str = r"^\s*(0|\d+(ms|s|m|h))$";
const SIZE: &str = r"^\s*\d+([kKmMgG][iI]?)?[bB]?$";
const AMOUNT: &str = r"^\s*\d+(\.\d{1,6})?\s*$";
const MODE: &str = r"^\s*(0o)?0?[0-7]{1,3}\s*$";
const COMMAND: &str = r"^\s*\S+(\s+\S+)?\s*$";

/// The schema of proxy.toml, as JSON.
pub fn schema() -> String {
    let mut draft = Draft::empty();
    let mut sections = Map::new();
    for setting in SETTINGS {
        let section = sections
            .entry(setting.section())
            .or_insert_with(|| object(Map::new(), &[]));
        section["properties"][setting.name()] = described(setting, &mut draft);
    }
    let mut root = object(sections, &[]);
    root["$schema"] = "http://json-schema.org/draft-07/schema#".into();
    root["title"] = concat!("proxy.toml of Nearkey ", env!("CARGO_PKG_VERSION")).into();
    format!("{root:#}\n")
}

/// Anything that is not named is an error, as it is to the reader of the file.
fn object(properties: Map<String, Value>, required: &[&str]) -> Value {
    json!({
        "type": "object",
        "additionalProperties": false,
        "required": required,
        "properties": properties,
    })
}

fn described(setting: &Setting, draft: &mut Draft) -> Value {
    let mut schema = of_kind(&setting.kind);
    let doc = format!(
        "{}\n\nIn the environment: {}",
        setting.doc,
        setting.env_name()
    );
    schema["description"] = doc.into();
    if let Some(default) = default(setting, draft) {
        schema["default"] = default;
    }
    schema
}

/// The built-in value, as `nearkey config` shows it.
fn default(setting: &Setting, draft: &mut Draft) -> Option<Value> {
    setting.kind.set(draft, &setting.default_value()).ok()?;
    let shown = format!("value = {}", setting.kind.show(draft));
    let table: toml::Table = toml::from_str(&shown).ok()?;
    serde_json::to_value(table.get("value")?).ok()
}

fn of_kind(kind: &Kind) -> Value {
    match kind {
        Kind::Duration((min, max), _) => duration(*min, *max),
        Kind::Size((min, max), _) => size(*min, *max),
        Kind::Memory((_, max), _) => {
            let mut memory = size(0, *max);
            if let Some(forms) = memory["anyOf"].as_array_mut() {
                forms.push(json!({"const": "auto"}));
            }
            memory
        }
        Kind::Integer((min, max), _) => json!({"type": "integer", "minimum": min, "maximum": max}),
        Kind::Boolean(_) => json!({"type": "boolean"}),
        Kind::Choice(words, _) => json!({"enum": words}),
        Kind::Mode(_) => json!({"type": "string", "pattern": MODE}),
        Kind::Commands(_) => {
            json!({"type": "array", "items": {"type": "string", "pattern": COMMAND}})
        }
        Kind::Amount(_) => {
            json!({"anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": AMOUNT}]})
        }
        Kind::Rules(_) => json!({"type": "array", "items": rule()}),
        Kind::Text(_)
        | Kind::Host(_)
        | Kind::Filter(_)
        | Kind::Path(_)
        | Kind::Secret(_)
        | Kind::Url(_)
        | Kind::Address(_) => json!({"type": "string"}),
    }
}

/// The limits are for people: a pattern cannot hold them.
fn duration(min: u64, max: u64) -> Value {
    let mut forms = vec![json!({"type": "string", "pattern": DURATION})];
    if min == 0 {
        forms.push(json!({"const": 0}));
    }
    json!({"anyOf": forms, "$comment": format!("from {min}ms to {max}ms")})
}

fn size(min: usize, max: usize) -> Value {
    json!({"anyOf": [
        {"type": "integer", "minimum": min, "maximum": max},
        {"type": "string", "pattern": SIZE},
    ]})
}

fn rule() -> Value {
    let mut properties = Map::new();
    for (name, doc) in rules::NAMES {
        let mut schema = match name {
            "match" => json!({"type": "string", "minLength": 1}),
            "action" => json!({"enum": rules::ACTIONS}),
            "mode" => json!({"enum": rules::MODES}),
            "max_value" => size(1, rules::MAX_VALUE),
            _ => duration(1, rules::DAY),
        };
        schema["description"] = doc.into();
        properties.insert(name.to_owned(), schema);
    }
    object(properties, &["match"])
}
