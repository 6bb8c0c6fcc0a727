//! The settings files that `nearkey config --example` prints, and the schema.

use super::{Dir, given};
use crate::config::rules::NAMES;
use crate::config::{EXAMPLES, SETTINGS, example, schema};
use crate::upstream::{Address, provider};

/// The example as it is, and with every setting switched on that it offers.
fn both(name: &str) -> [String; 2] {
    let text = example(name).unwrap();
    let on = |line: &str| match line.strip_prefix('#') {
        Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') => {
            rest.to_owned()
        }
        _ => line.to_owned(),
    };
    let all: Vec<String> = text.lines().map(on).collect();
    [text.to_owned(), all.join("\n")]
}

/// Files that an example names, made here.
fn with_files(dir: &Dir, text: &str) -> String {
    let ca = rcgen::generate_simple_self_signed(["ca.test".to_owned()]).unwrap();
    let (pem, key) = (ca.cert.pem(), ca.signing_key.serialize_pem());
    let line = |line: &str| match line.split_once(" = \"/") {
        Some((name, _)) => {
            let text = match name {
                "client_key" => &key,
                "password_file" => "secret\n",
                _ => &pem,
            };
            format!("{name} = \"{}\"", dir.write(name, text))
        }
        None => line.to_owned(),
    };
    let lines: Vec<String> = text.lines().map(line).collect();
    lines.join("\n")
}

#[test]
fn every_example_is_valid() {
    for name in EXAMPLES {
        for text in both(name) {
            let dir = Dir::new();
            // Of two urls the later one is meant.
            let urls: Vec<_> = text.match_indices("\nurl = ").collect();
            let text = match urls[..] {
                [(first, _), _] => format!("{}\n#{}", &text[..first], &text[first + 1..]),
                _ => text,
            };
            let text = with_files(&dir, &text);
            let given = given().file(&text);
            let warnings = given.warnings();
            let known = [
                "host name is not checked",
                "listen.password is not set",
                "has no effect",
            ];
            let odd = warnings
                .lines()
                .find(|line| !known.iter().any(|known| line.contains(known)));
            assert_eq!(odd, None, "{name}");
        }
    }
}

#[test]
fn an_example_names_a_server_of_its_provider() {
    for name in EXAMPLES {
        let dir = Dir::new();
        let text = with_files(&dir, example(name).unwrap());
        let Address::Tcp { host, .. } = given().file(&text).config().upstream.address else {
            panic!("{name} names a socket");
        };
        let expected = match name {
            "memorystore" => "unknown",
            name => name,
        };
        assert_eq!(provider::provider(&host), expected);
    }
}

#[test]
fn the_schema_has_every_setting() {
    let schema: serde_json::Value = serde_json::from_str(&schema()).unwrap();
    for setting in SETTINGS {
        let found = &schema["properties"][setting.section()]["properties"][setting.name()];
        let doc = found["description"].as_str().unwrap();
        assert!(doc.starts_with(setting.doc) && doc.ends_with(&setting.env_name()));
        assert!(!found["default"].is_null(), "{}", setting.key);
    }
    let rule = &schema["properties"]["cache"]["properties"]["rules"]["items"];
    for (name, _) in NAMES {
        assert!(rule["properties"][name].is_object(), "{name}");
    }
    let limits = &schema["properties"]["listen"]["properties"]["max_clients"];
    assert_eq!(
        (&limits["minimum"], &limits["default"]),
        (&1.into(), &10_000.into())
    );
}
