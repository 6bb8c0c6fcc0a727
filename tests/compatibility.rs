//! docs/compatibility.md says what the command table says. `NEARKEY_UPDATE_DOCS=1 cargo test --test compatibility`
//! writes it again.

use std::collections::BTreeSet;
use std::env;
use std::fmt::Write as _;
use std::fs;

use nearkey::commands::{
    Class, CommandTable, DEFAULT_DENY, DIFFERENCES, Difference, Spec, classify,
};

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/compatibility.md");
/// Longest line of a list.
const WIDTH: usize = 120;

const INTRODUCTION: &str = "\
<!-- Written by `NEARKEY_UPDATE_DOCS=1 cargo test --test compatibility` from src/commands. -->

# Compatibility

Every command of Redis and Valkey, what Nearkey does with it, and what differs from Redis. What is not listed as a
difference is as in Redis: replies, their order, and error texts.

";

const LISTS: &str = "\
A `*` marks what has a difference above. A subcommand is listed where its class is not that of its command. Commands that
are not built in, those of modules for example, get their class from what the server's COMMAND says of them: shared only if
that leaves no doubt.

";

/// In the order of the document, with what is done.
const CLASSES: &[(Class, &str, &str)] = &[
    (Class::Local, "local", "Answered by Nearkey itself."),
    (
        Class::Shared,
        "shared",
        "Travels on one of the few shared connections of its database and protocol.",
    ),
    (
        Class::Transaction,
        "transaction",
        "What is between MULTI and EXEC is queued by Nearkey and leaves as one block on a shared connection.",
    ),
    (
        Class::Watch,
        "watch",
        "A leased connection from WATCH until EXEC, DISCARD or UNWATCH.",
    ),
    (
        Class::Blocking,
        "blocking",
        "A leased connection for this one command: it may wait, or must not wait behind others.",
    ),
    (
        Class::Subscribe,
        "subscribe",
        "One upstream subscription for each channel or pattern, shared by all clients.",
    ),
    (
        Class::Pinned,
        "pinned",
        "A leased connection until the client leaves the state that the command puts it in.",
    ),
    (
        Class::Refused,
        "refused",
        "Refused unless `commands.deny` says otherwise: it would end the server, make it a replica or re-shape the\n\
         cluster, for everybody.",
    ),
];

fn table() -> CommandTable {
    CommandTable::builtin()
        .with_denied(DEFAULT_DENY)
        .expect("the default denials are well formed")
}

#[test]
fn the_document_says_what_the_table_says() {
    let expected = document(&table());
    if env::var_os("NEARKEY_UPDATE_DOCS").is_some_and(|value| value != "0") {
        fs::write(DOCUMENT, &expected).expect("docs can be written");
    }
    let found = fs::read_to_string(DOCUMENT).unwrap_or_default();
    let differs = expected
        .lines()
        .zip(found.lines().chain(std::iter::repeat("")))
        .find(|(expected, found)| expected != found);
    assert!(
        expected == found,
        "docs/compatibility.md is out of date (NEARKEY_UPDATE_DOCS=1 cargo test --test compatibility \
         writes it again); first: {differs:?}"
    );
}

#[test]
fn every_difference_is_of_known_commands_and_fits_a_table() {
    let table = table();
    for difference in DIFFERENCES {
        for name in difference.commands {
            assert!(find(&table, name).is_some(), "{name} is not in the table");
        }
        for text in [difference.what, difference.why] {
            let whole = text.ends_with('.') && !text.contains(['|', '\n']) && !text.contains("  ");
            assert!(whole, "{text}");
        }
        assert!(difference.commands.is_sorted(), "{:?}", difference.commands);
    }
}

#[test]
fn every_command_is_listed_in_its_class() {
    let table = table();
    let listed: Vec<(Class, String)> = CLASSES
        .iter()
        .flat_map(|(class, ..)| {
            members(&table, *class)
                .into_iter()
                .map(|name| (*class, name))
        })
        .collect();
    for spec in &table {
        let places = listed.iter().filter(|(_, name)| **name == *spec.name);
        assert_eq!(places.count(), 1, "{}", spec.name);
        for sub in spec.subcommands() {
            let name = sub.name.replace('|', " ");
            let place = listed.iter().find(|(_, listed)| *listed == name);
            let class = place.map_or(spec.class, |(class, _)| *class);
            assert_eq!(class, sub.class, "{name}");
        }
    }
    assert!(listed.contains(&(Class::Blocking, "XREAD BLOCK".to_owned())));
}

fn document(table: &CommandTable) -> String {
    let mut text = INTRODUCTION.to_owned();
    text += "## What differs\n\n| command | what differs | why |\n|---|---|---|\n";
    for difference in DIFFERENCES {
        let _ = writeln!(
            text,
            "| {} | {} | {} |",
            shown(difference),
            difference.what,
            difference.why
        );
    }
    text += "\n## What is done with each command\n\n";
    text += LISTS;
    for (class, name, what) in CLASSES {
        let _ = write!(text, "**{name}**: {what}\n\n```\n");
        text += &wrapped(&marked(table, members(table, *class)));
        text += "```\n\n";
    }
    text.truncate(text.trim_end().len());
    text + "\n"
}

/// The first column: the subcommands of one command follow it, `CLIENT ID / INFO`.
fn shown(difference: &Difference) -> String {
    let mut text = String::new();
    let mut last = None;
    for name in difference.commands {
        let container = name.split_once(' ').map(|(command, _)| command);
        match name.split_once(' ') {
            Some((_, sub)) if container == last => text = text + " / " + sub,
            _ if text.is_empty() => text += name,
            _ => text = text + ", " + name,
        }
        last = container;
    }
    if text.is_empty() {
        "any".to_owned()
    } else {
        text
    }
}

/// The commands of a class, and the subcommands whose command is of another one.
fn members(table: &CommandTable, class: Class) -> Vec<String> {
    let mut names = BTreeSet::new();
    for spec in table {
        let (own, blocking) = classes(table, spec);
        if own == class {
            names.insert(spec.name.to_string());
        }
        if blocking.is_some_and(|blocking| blocking == class) {
            names.insert(format!("{} BLOCK", spec.name));
        }
        for sub in spec.subcommands() {
            if sub.class == class && sub.class != own {
                names.insert(sub.name.replace('|', " "));
            }
        }
    }
    names.into_iter().collect()
}

/// A command's class; where an option changes it, without that and with it.
fn classes(table: &CommandTable, spec: &Spec) -> (Class, Option<Class>) {
    if spec.is_container() || !spec.needs_args() {
        return (spec.class, None);
    }
    let with = |option: &'static [u8]| classify(table, spec, [b"", option].into_iter());
    (with(b"STREAMS"), Some(with(b"BLOCK")))
}

/// With a star where a difference is known of it, or of a subcommand that is not listed by itself.
fn marked(table: &CommandTable, names: Vec<String>) -> Vec<String> {
    let differs = |name: &str| {
        let named = |listed: &&str| {
            let folded = listed
                .split_once(' ')
                .is_some_and(|(command, _)| command == name && is_folded(table, listed));
            *listed == name || folded
        };
        DIFFERENCES.iter().any(|d| d.commands.iter().any(named))
    };
    let mark = |name: String| if differs(&name) { name + "*" } else { name };
    names.into_iter().map(mark).collect()
}

fn is_folded(table: &CommandTable, subcommand: &str) -> bool {
    let command = subcommand.split(' ').next().unwrap_or_default();
    let class = |name| find(table, name).map(|spec| spec.class);
    class(command) == class(subcommand)
}

/// The command, or the subcommand of `CLIENT LIST`.
fn find<'a>(table: &'a CommandTable, name: &str) -> Option<&'a Spec> {
    let (command, sub) = name.split_once(' ').unwrap_or((name, ""));
    let spec = table.lookup(command.as_bytes())?;
    match sub {
        "" => Some(spec),
        sub => table.subcommand(spec, sub.as_bytes()),
    }
}

/// Names between commas, in lines that are not too long.
fn wrapped(names: &[String]) -> String {
    let mut text = String::new();
    let mut line = String::new();
    for (at, name) in names.iter().enumerate() {
        let comma = if at + 1 < names.len() { "," } else { "" };
        if !line.is_empty() && line.len() + 1 + name.len() + comma.len() > WIDTH {
            text += &line;
            text.push('\n');
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line = line + name + comma;
    }
    text + &line + "\n"
}
