//! Commands that are known from the server's COMMAND reply alone.

use super::*;

pub(super) fn server_command(
    name: &str,
    flags: &str,
    first: i32,
    last: i32,
    step: i32,
) -> ServerCommand {
    ServerCommand {
        name: name.to_owned(),
        arity: -2,
        flags: flags.split(' ').map(str::to_owned).collect(),
        first_key: first,
        last_key: last,
        step,
        subcommands: Vec::new(),
    }
}

#[test]
fn learned_commands_are_shared_only_without_a_doubt() {
    use Class::*;
    #[rustfmt::skip]
    let cases = [
        ("readonly module", Shared), ("write denyoom module", Shared), ("readonly fast", Shared),
        ("admin write", Shared), ("pubsub fast", Shared), ("write blocking", Blocking),
        ("readonly noscript", Blocking), ("write noscript", Blocking), ("blocking noscript", Blocking),
        ("module", Pinned), ("admin noscript", Pinned), ("", Pinned), ("readonly no_multi", Pinned),
        ("pubsub noscript", Pinned), ("pubsub noscript blocking", Pinned), ("fast no_auth", Pinned),
        ("other_keys learned", Pinned), ("readonly allow_busy", Pinned), ("loading stale fast", Pinned),
    ];
    for (flags, expected) in cases {
        let row = server_command("m.x", flags, 1, 1, 1);
        let table = CommandTable::builtin().extended(std::iter::once(row));
        assert_eq!(class(&table, "M.X k"), expected, "{flags}");
        let spec = table.lookup(b"m.x").unwrap();
        assert!(spec.flags.contains(Flags::LEARNED) && !spec.flags.contains(Flags::OTHER_KEYS));
        assert!(!spec.is_repeatable());
    }
}

#[test]
fn learned_key_positions_are_not_believed_to_be_absent() {
    let rows = [
        server_command("json.get", "readonly", 1, 1, 1),
        server_command("json.mset", "write", 1, -1, 3),
        server_command("ft.search", "readonly", 0, 0, 0),
        server_command("ts.nrange", "readonly movablekeys", 1, 1, 1),
        server_command("m.far", "write", 70_000, 70_000, 1),
    ];
    let table = CommandTable::builtin().extended(rows.into_iter());
    assert_eq!(keys(&table, "JSON.GET k $"), Some(vec![1]));
    assert_eq!(keys(&table, "JSON.MSET a $ 1 b $ 2"), Some(vec![1, 4]));
    for call in ["FT.SEARCH i q", "TS.NRANGE 1 a", "M.FAR a"] {
        assert_eq!(keys(&table, call), None, "{call}");
    }
}

#[test]
fn extending_keeps_what_is_built_in_and_adds_subcommands() {
    let rows = [
        server_command("get", "write blocking", 5, 5, 1),
        ServerCommand {
            subcommands: vec![
                server_command("client|list", "", 0, 0, 0),
                server_command("client|new-state", "noscript loading stale", 0, 0, 0),
            ],
            ..server_command("client", "", 0, 0, 0)
        },
        ServerCommand {
            subcommands: vec![
                server_command("m.c|read", "readonly", 2, 2, 1),
                server_command("state", "noscript", 0, 0, 0),
            ],
            ..server_command("m.c", "", 0, 0, 0)
        },
        server_command("two words", "readonly", 0, 0, 0),
        server_command("", "readonly", 0, 0, 0),
    ];
    let builtin = CommandTable::builtin();
    let table = builtin.extended(rows.clone().into_iter());
    assert_eq!(class(&table, "GET k"), Class::Shared);
    assert!(spec(&table, "GET").accepts(2) && !spec(&table, "GET").accepts(3));
    assert_eq!(class(&table, "CLIENT LIST"), Class::Local);
    assert_eq!(class(&table, "CLIENT NEW-STATE"), Class::Pinned);
    assert_eq!(class(&table, "M.C READ k"), Class::Shared);
    assert_eq!(class(&table, "M.C STATE k"), Class::Pinned);
    assert_eq!(class(&table, "M.C OTHER"), Class::Pinned);
    assert_eq!(keys(&table, "M.C READ k"), Some(vec![2]));
    assert_eq!(table.len(), builtin.len() + 1);
    // A reconnect asks again.
    let again = table.extended(rows.into_iter());
    assert_eq!(again.len(), table.len());
    assert_eq!(
        spec(&again, "CLIENT").subcommands().len(),
        spec(&table, "CLIENT").subcommands().len()
    );
}
