//! What the proxy does with each family of commands, and with what is denied.

use super::learned::server_command;
use super::*;

#[test]
fn every_family_has_its_class() {
    use Class::*;
    let table = CommandTable::builtin();
    #[rustfmt::skip]
    let families: &[(Class, &[&str])] = &[
        (Local, &[
            "PING", "ECHO x", "QUIT", "RESET", "HELLO 3", "AUTH p", "SELECT 1", "NEARKEY HELP", "CLIENT",
            "CLIENT ID", "CLIENT SETNAME a", "CLIENT GETNAME", "client setinfo LIB-NAME x", "CLIENT INFO",
            "CLIENT LIST", "CLIENT KILL 1.2.3.4:5", "CLIENT REPLY OFF", "CLIENT NO-EVICT on", "CLIENT HELP",
            "CLIENT NO-TOUCH on", "CLIENT UNBLOCK 1", "CLIENT GETREDIR", "CLIENT TRACKINGINFO", "CLIENT CAPA x",
        ]),
        (Shared, &[
            "GET k", "SET k v", "HSET h f v", "XADD s * f v", "EVAL x 0", "EVALSHA x 0", "FCALL f 0", "SCRIPT",
            "SCRIPT LOAD x", "SCRIPT EXISTS x", "SCRIPT FLUSH", "FUNCTION LIST", "FUNCTION LOAD x", "INFO",
            "COMMAND", "COMMAND DOCS", "CONFIG GET x", "CONFIG SET a b", "SLOWLOG GET", "ACL WHOAMI",
            "ACL SETUSER x", "PUBLISH c m", "SPUBLISH c m", "PUBSUB CHANNELS", "MEMORY USAGE k",
            "LATENCY LATEST", "DBSIZE", "KEYS *", "SCAN 0", "FLUSHALL", "FLUSHDB", "SWAPDB 0 1", "OBJECT ENCODING k",
            "CLIENT PAUSE 10", "CLUSTER SLOTS", "CLUSTER INFO", "MODULE LIST", "ROLE", "TIME", "MIGRATE h 1 k 0 9",
            "XREAD STREAMS s 0", "XREAD COUNT 2 STREAMS BLOCK 0", "XREADGROUP GROUP BLOCK BLOCK STREAMS s >",
            "XREADGROUP GROUP g c COUNT 1 NOACK STREAMS s >", "XREADGROUP GROUP STREAMS c COUNT 1 STREAMS BLOCK >",
            "XINFO STREAM s", "XGROUP CREATE s g $", "HEXPIRE h 1 FIELDS 1 f", "VADD v VALUES 1 1 e", "LMPOP 1 a LEFT",
        ]),
        (Transaction, &["MULTI", "EXEC", "DISCARD"]),
        (Watch, &["WATCH a", "UNWATCH"]),
        (Blocking, &[
            "BLPOP a 0", "BRPOP a 0", "BLMOVE a b LEFT LEFT 0", "BLMPOP 0 1 a LEFT", "BZPOPMIN a 0", "BZPOPMAX a 0",
            "BZMPOP 0 1 a MIN", "BRPOPLPUSH a b 0", "WAIT 1 0", "WAITAOF 1 1 0", "XREAD BLOCK 0 STREAMS s $",
            "xread count 2 block 5 streams s $", "XREADGROUP GROUP STREAMS c BLOCK 1 STREAMS s >",
            "XREADGROUP GROUP g c CLAIM 5 BLOCK 1 STREAMS s >", "XREAD NEWOPTION STREAMS BLOCK 0 STREAMS s $",
            "DEBUG SLEEP 1", "DEBUG", "SCRIPT KILL", "FUNCTION KILL", "FUNCTION STATS", "CLIENT UNPAUSE", "SHUTDOWN",
        ]),
        (Subscribe, &[
            "SUBSCRIBE a", "UNSUBSCRIBE", "PSUBSCRIBE a", "PUNSUBSCRIBE", "SSUBSCRIBE a", "SUNSUBSCRIBE",
        ]),
        (Pinned, &[
            "MONITOR", "SCRIPT DEBUG YES", "CLIENT TRACKING ON", "CLIENT CACHING YES", "CLIENT IMPORT-SOURCE ON",
            "ASKING", "READONLY", "READWRITE", "SYNC", "PSYNC ? -1", "REPLCONF a b", "HIMPORT PREPARE u f",
            "HIMPORT SET k u v", "CLIENT SOMETHING-NEW", "CONFIG SOMETHING-NEW", "SCRIPT SOMETHING-NEW",
        ]),
    ];
    for (expected, calls) in families {
        for call in *calls {
            assert_eq!(class(&table, call), *expected, "{call}");
        }
    }
}

#[test]
fn default_denials_are_refused_and_leave_their_neighbours_alone() {
    let table = CommandTable::builtin().with_denied(DEFAULT_DENY).unwrap();
    for name in DEFAULT_DENY {
        assert_eq!(class(&table, name), Class::Refused, "{name}");
        assert_eq!(
            class(&table, &name.to_ascii_lowercase()),
            Class::Refused,
            "{name}"
        );
    }
    assert_eq!(class(&table, "CLUSTER SLOTS"), Class::Shared);
    assert_eq!(class(&table, "DEBUG SLEEP 0"), Class::Blocking);
    assert_eq!(class(&table, "CLUSTER"), Class::Shared);
    // A name of theirs that is not in the table would deny nothing.
    let known = CommandTable::builtin();
    for name in DEFAULT_DENY
        .iter()
        .filter(|name| !name.starts_with("DEBUG"))
    {
        spec(&known, &name.replace(' ', "|"));
    }
    assert_eq!(table.len(), known.len());
}

#[test]
fn commands_subcommands_and_unknown_names_can_be_denied() {
    let deny = [
        "flushall",
        "Config set",
        "ACL",
        "ft.drop",
        "json.debug memory",
        "client|kill",
    ];
    let table = CommandTable::builtin()
        .with_denied(&deny.map(str::to_owned))
        .unwrap();
    for call in [
        "FLUSHALL",
        "CONFIG SET a b",
        "ACL LIST",
        "ACL",
        "ACL NEW",
        "FT.DROP i",
        "CLIENT KILL x",
    ] {
        assert_eq!(class(&table, call), Class::Refused, "{call}");
    }
    assert_eq!(class(&table, "CONFIG GET a"), Class::Shared);
    assert_eq!(class(&table, "JSON.DEBUG MEMORY k"), Class::Refused);
    assert_eq!(class(&table, "JSON.DEBUG HELP"), Class::Pinned);

    let rows = [
        server_command("ft.drop", "write", 0, 0, 0),
        server_command("json.debug", "readonly", 2, 2, 1),
        ServerCommand {
            subcommands: vec![server_command("acl|new", "readonly", 0, 0, 0)],
            ..server_command("acl", "", 0, 0, 0)
        },
    ];
    let table = table.extended(rows.into_iter());
    assert_eq!(class(&table, "FT.DROP i"), Class::Refused);
    assert_eq!(class(&table, "JSON.DEBUG MEMORY k"), Class::Refused);
    assert_eq!(class(&table, "ACL NEW"), Class::Refused);
}

#[test]
fn a_malformed_denial_is_named() {
    for name in [
        "",
        "  ",
        "A B C",
        "GET k",
        "FLUSHALL ASYNC",
        "CONFIG\nSET",
        "G\u{e9}T",
        "|",
    ] {
        let denied = CommandTable::builtin().with_denied(&["PING", name]);
        let told = denied.expect_err(name);
        assert!(
            told.contains(&format!("'{}'", name.escape_debug())),
            "{told}"
        );
        let has_none = ["GET k", "FLUSHALL ASYNC"].contains(&name);
        assert_eq!(told.contains("has no subcommands"), has_none, "{told}");
    }
}

#[test]
fn what_is_asked_of_the_proxy_itself_can_be_denied_in_part() {
    let table = CommandTable::builtin().with_denied(&["NEARKEY PAUSE", "nearkey|reload"]);
    let table = table.unwrap();
    for (call, expected) in [
        ("NEARKEY PAUSE 10", Class::Refused),
        ("nearkey reload", Class::Refused),
        ("NEARKEY RESUME", Class::Local),
        ("NEARKEY", Class::Local),
        // No server knows more of it.
        ("NEARKEY NOPE", Class::Local),
    ] {
        assert_eq!(class(&table, call), expected, "{call}");
    }
}
