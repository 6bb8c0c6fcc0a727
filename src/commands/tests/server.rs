//! The table against what a real server says of its commands.

use std::collections::BTreeSet;

use super::*;

const COMMAND: &str = include_str!("../../../tests/fixtures/command-7.0.15.txt");
const GETKEYS: &str = include_str!("../../../tests/fixtures/getkeys-7.0.15.txt");

fn rows(fixture: &str) -> impl Iterator<Item = &str> {
    fixture.lines().filter(|line| !line.starts_with('#'))
}

/// Where Redis 7.2 takes calls that 7.0 refuses: WITHSCORE, commands of no arguments.
const LOOSER_SINCE: [(&str, i16); 4] = [
    ("ZRANK", -3),
    ("ZREVRANK", -3),
    ("COMMAND|GETKEYS", -3),
    ("COMMAND|GETKEYSANDFLAGS", -3),
];

#[test]
fn every_command_of_a_real_server_is_in_the_table_as_the_server_has_it() {
    let table = CommandTable::builtin();
    let mut seen = 0;
    for row in rows(COMMAND) {
        let fields: Vec<&str> = row.split(' ').collect();
        let [name, arity, flags, first, last, step] = fields[..] else {
            panic!("{row}")
        };
        let spec = spec(&table, name);
        assert_eq!(&*spec.name, name);
        if !LOOSER_SINCE.contains(&(name, spec.arity)) {
            assert_eq!(spec.arity.to_string(), arity, "{name}");
        }
        let server = |flag: &str| flags.split(',').any(|known| known == flag);
        for (name, flag) in [
            ("readonly", Flags::READONLY),
            ("write", Flags::WRITE),
            ("pubsub", Flags::PUBSUB),
            ("denyoom", Flags::DENYOOM),
        ] {
            assert_eq!(spec.flags.contains(flag), server(name), "{row}: {name}");
        }
        if server("movablekeys") {
            assert!(spec.flags.contains(Flags::MOVABLE_KEYS), "{row}");
        } else {
            let positions = match spec.keys {
                Keys::None => [0, 0, 0],
                Keys::Range { first, last, step } | Keys::Channels { first, last, step } => {
                    [first, last, step]
                }
                _ => panic!("{row}"),
            };
            assert_eq!(
                positions.map(|n| n.to_string()),
                [first, last, step],
                "{row}"
            );
        }
        seen += 1;
    }
    assert!(seen > 300, "{seen}");
}

#[test]
fn keys_are_those_that_a_real_server_finds() {
    let table = CommandTable::builtin();
    let mut seen = 0;
    for row in rows(GETKEYS) {
        let (call, expected) = row.split_once(" =>").unwrap();
        let args = split(call);
        let found = keys_of(table.lookup(args[0]).unwrap(), &args);
        let names = |positions: &[usize]| -> BTreeSet<&[u8]> {
            positions.iter().map(|at| args[*at]).collect()
        };
        if expected == " -" {
            assert!(found.is_none_or(|found| found.is_empty()), "{call}");
        } else {
            let found = found.unwrap_or_else(|| panic!("{call}"));
            let expected = expected.split_whitespace().map(str::as_bytes).collect();
            assert_eq!(names(&found), expected, "{call}");
        }
        seen += 1;
    }
    assert!(seen > 90, "{seen}");
}
