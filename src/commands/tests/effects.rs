//! What calls do to keys.

use super::super::*;

fn names(wanted: Effect) -> Vec<String> {
    let table = CommandTable::builtin();
    let all = table
        .iter()
        .flat_map(|spec| std::iter::once(spec).chain(spec.subcommands()));
    let found = all.filter(|spec| spec.effect() == wanted);
    found.map(|spec| spec.name.to_string()).collect()
}

#[test]
fn nothing_that_writes_is_taken_to_leave_all_keys_as_they_are() {
    let table = CommandTable::builtin();
    for spec in &table {
        for spec in std::iter::once(spec).chain(spec.subcommands()) {
            let writes = spec.flags.intersects(Flags::WRITE | Flags::OTHER_KEYS);
            // FUNCTION changes no key; EXEC does what was queued, which is judged by itself.
            let known = spec.name.starts_with("FUNCTION|") || &*spec.name == "EXEC";
            if writes && !known {
                assert_ne!(spec.effect(), Effect::None, "{}", spec.name);
            }
            if spec.flags.contains(Flags::WRITE) && !known {
                let writes = [Effect::Writes, Effect::WritesAny].contains(&spec.effect());
                assert!(writes, "{} is {:?}", spec.name, spec.effect());
            }
        }
    }
}

#[test]
fn few_commands_reach_keys_that_they_do_not_name() {
    let writes = names(Effect::WritesAny);
    for name in [
        "FLUSHALL",
        "FLUSHDB",
        "SWAPDB",
        "SORT",
        "DEBUG",
        "REPLICAOF",
    ] {
        assert!(writes.iter().any(|known| known == name), "{name}");
    }
    assert!(writes.len() < 30, "{writes:?}");
    assert_eq!(names(Effect::ReadsAny), ["KEYS", "SORT_RO"]);
    assert_eq!(names(Effect::Finds), ["DBSIZE", "RANDOMKEY", "SCAN"]);
    let scripts = names(Effect::Script { reads_only: false });
    assert_eq!(scripts, ["EVAL", "EVALSHA", "FCALL"]);
}

#[test]
fn ordinary_commands_touch_what_they_name() {
    let table = CommandTable::builtin();
    for (name, expected) in [
        ("GET", Effect::Reads),
        ("EXISTS", Effect::Reads),
        ("SET", Effect::Writes),
        ("MOVE", Effect::Writes),
        ("PFCOUNT", Effect::Writes),
        ("BLPOP", Effect::Writes),
        ("XREADGROUP", Effect::Writes),
        ("PUBLISH", Effect::None),
        ("PING", Effect::None),
        ("TIME", Effect::None),
    ] {
        let spec = table.lookup(name.as_bytes()).expect(name);
        assert_eq!(spec.effect(), expected, "{name}");
    }
}
