//! The table against a real server, and every command family against its class.

mod classes;
mod effects;
mod learned;
mod server;

use std::collections::HashSet;

use super::*;

fn split(call: &str) -> Vec<&[u8]> {
    call.split(' ')
        .map(|arg| {
            if arg == "\"\"" {
                &b""[..]
            } else {
                arg.as_bytes()
            }
        })
        .collect()
}

fn spec<'a>(table: &'a CommandTable, name: &str) -> &'a Spec {
    let (command, sub) = name
        .split_once('|')
        .map_or((name, None), |(c, s)| (c, Some(s)));
    let command = table
        .lookup(command.as_bytes())
        .unwrap_or_else(|| panic!("no {name}"));
    sub.map_or(command, |sub| {
        table
            .subcommand(command, sub.as_bytes())
            .unwrap_or_else(|| panic!("no {name}"))
    })
}

fn class(table: &CommandTable, call: &str) -> Class {
    let args = split(call);
    let spec = table.lookup(args[0]).unwrap_or_else(|| panic!("no {call}"));
    let class = classify(table, spec, args.into_iter());
    assert!(spec.needs_args() || class == spec.class, "{call}");
    class
}

fn keys(table: &CommandTable, call: &str) -> Option<Vec<usize>> {
    let args = split(call);
    keys_of(table.lookup(args[0]).unwrap(), &args)
}

#[test]
fn no_command_is_there_twice_and_every_subcommand_is_under_its_parent() {
    let table = CommandTable::builtin();
    let mut names = HashSet::new();
    for spec in &table {
        assert!(!spec.name.contains('|'), "{}", spec.name);
        assert_eq!(&*spec.name, spec.name.to_ascii_uppercase());
        for named in std::iter::once(spec).chain(spec.subcommands()) {
            assert!(names.insert(named.name.clone()), "{} twice", named.name);
            assert_ne!(named.arity, 0);
        }
    }
    assert_eq!(names.len(), table::ROWS.len());
    assert_eq!(table.len(), table.iter().len());
}

#[test]
fn flags_and_key_positions_do_not_contradict_each_other() {
    for spec in CommandTable::builtin()
        .iter()
        .flat_map(|s| std::iter::once(s).chain(s.subcommands()))
    {
        let flags = spec.flags;
        assert!(
            !flags.contains(Flags::READONLY | Flags::WRITE),
            "{}",
            spec.name
        );
        let fixed = matches!(
            spec.keys,
            Keys::None | Keys::Range { .. } | Keys::Channels { .. }
        );
        assert_eq!(flags.contains(Flags::MOVABLE_KEYS), !fixed, "{}", spec.name);
        // What may wait never travels on a shared connection.
        if flags.contains(Flags::BLOCKING) {
            assert_eq!(spec.class, Class::Blocking, "{}", spec.name);
        }
        assert!(!flags.contains(Flags::LEARNED));
        assert_ne!(spec.keys, Keys::Unknown);
    }
}

#[test]
fn names_are_found_in_any_case() {
    let table = CommandTable::builtin();
    for spec in &table {
        let lower = spec.name.to_ascii_lowercase();
        let mixed: String = lower
            .char_indices()
            .map(|(i, c)| {
                if i % 2 == 0 {
                    c.to_ascii_uppercase()
                } else {
                    c
                }
            })
            .collect();
        for name in [&*spec.name, &*lower, &*mixed] {
            assert_eq!(
                table.lookup(name.as_bytes()).map(|s| &*s.name),
                Some(&*spec.name)
            );
        }
        for sub in spec.subcommands() {
            let own = sub.own_name().to_ascii_lowercase();
            assert_eq!(
                table.subcommand(spec, own.as_bytes()).map(|s| &*s.name),
                Some(&*sub.name)
            );
        }
    }
    for unknown in [
        "",
        "G",
        "GETT",
        "GE",
        "FT.SEARCH",
        "SENTINEL",
        "CLIENT|LIST",
        "\u{c7}ET",
    ] {
        assert!(table.lookup(unknown.as_bytes()).is_none(), "{unknown}");
    }
}

#[test]
fn arity_is_checked_by_the_servers_rule() {
    let table = CommandTable::builtin();
    let accepts = |name, argc| spec(&table, name).accepts(argc);
    assert!(accepts("GET", 2) && !accepts("GET", 1) && !accepts("GET", 3));
    assert!(accepts("SET", 3) && accepts("SET", 9) && !accepts("SET", 2));
    assert!(accepts("CLIENT|ID", 2) && !accepts("CLIENT|ID", 3));
    assert!(accepts("COMMAND", 1));
}

#[test]
fn only_what_can_change_no_key_is_a_read() {
    let table = CommandTable::builtin();
    for read in [
        "GET",
        "MGET",
        "SORT_RO",
        "XREAD",
        "EVAL_RO",
        "SCAN",
        "MEMORY|USAGE",
        "HTTL",
        "LCS",
    ] {
        assert!(
            spec(&table, read).is_read() && spec(&table, read).is_repeatable(),
            "{read}"
        );
    }
    for other in [
        "SET",
        "EVAL",
        "FCALL",
        "EXEC",
        "PUBLISH",
        "PFCOUNT",
        "GETEX",
        "SORT",
        "XREADGROUP",
        "CLIENT",
        "DEBUG",
    ] {
        assert!(!spec(&table, other).is_read(), "{other}");
    }
}

#[test]
fn keys_of_newer_commands_are_found() {
    let table = CommandTable::builtin();
    for (call, expected) in [
        ("MSETEX 2 a 1 b 2 EX 10", vec![2, 4]),
        ("HSETEX h EX 1 FIELDS 1 f v", vec![1]),
        ("XREADGROUP GROUP g c CLAIM 5 STREAMS a b > >", vec![7, 8]),
        ("HIMPORT SET k u v", vec![2]),
        ("BLMOVEM a b LEFT LEFT 0", vec![1, 2]),
        ("SUNIONCARD 2 a b LIMIT 3", vec![2, 3]),
        ("VSIM v ELE e", vec![1]),
        ("SSUBSCRIBE a b", vec![]),
    ] {
        assert_eq!(keys(&table, call), Some(expected), "{call}");
    }
}

#[test]
fn keys_of_malformed_calls_are_not_known() {
    let table = CommandTable::builtin();
    for call in [
        "GET",
        "MSETEX 2 a 1 b",
        "EVAL x -1 a",
        "EVAL x y a",
        "EVAL x 2 a",
        "ZUNIONSTORE d 5 a b",
        "EVAL x 18446744073709551615 a",
        "MSETEX 9223372036854775808 a b",
        "XREAD STREAMS a b 0",
        "XREAD COUNT 1 a b",
        "XREAD COUNT 1 NEW STREAMS a 0",
        "XREAD a b STREAMS",
        "OBJECT NEW k",
        "BLPOP a",
        "CONFIG",
    ] {
        assert_eq!(keys(&table, call), None, "{call}");
    }
}

/// `cargo test --release -- --ignored --nocapture lookup_cost`
#[test]
#[ignore = "a measurement"]
fn lookup_cost() {
    let table = CommandTable::builtin();
    let names: Vec<&[u8]> = [
        "get",
        "SET",
        "hgetall",
        "INCR",
        "zrangebyscore",
        "EXPIRE",
        "lpush",
        "MGET",
    ]
    .map(str::as_bytes)
    .to_vec();
    const ROUNDS: u32 = 5_000_000;
    let started = std::time::Instant::now();
    for _ in 0..ROUNDS {
        for name in &names {
            std::hint::black_box(table.lookup(std::hint::black_box(name)));
        }
    }
    let ns = started.elapsed().as_nanos() as f64 / f64::from(ROUNDS) / names.len() as f64;
    println!("lookup: {ns:.1} ns");
}
