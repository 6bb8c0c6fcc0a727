//! Sessions whose clients come with users of the server.

use super::*;

const ALICE: IdentityId = IdentityId(1);
const BOB: IdentityId = IdentityId(2);
const WRONGPASS: &str = "WRONGPASS invalid username-password pair or user is disabled.";

fn bench() -> Bench {
    let mut bench = Bench::new(None);
    bench.settings.passthrough = true;
    bench.session = Session::new(&bench.settings);
    bench
}

fn alice() -> Bench {
    let mut bench = bench();
    bench.script.identity = Some(Ok(ALICE));
    bench.say(cmd("AUTH alice pw"));
    assert_eq!(bench.out(), "+OK\r\n");
    bench.script.presented.clear();
    bench.script.settled.clear();
    bench
}

fn identities(bench: &Bench) -> Vec<IdentityId> {
    let forwarded = bench.script.forwarded.iter();
    forwarded.map(|(key, ..)| key.identity).collect()
}

#[test]
fn nothing_of_a_stranger_goes_anywhere_but_what_it_presents() {
    let mut bench = bench();
    bench.script.facts = None;
    bench.script.lease = Some(Ok(()));
    for (words, reply) in [
        ("GET a", "-NOAUTH Authentication required.\r\n"),
        ("PING", "-NOAUTH Authentication required.\r\n"),
        ("SELECT 1", "-NOAUTH Authentication required.\r\n"),
        ("CLIENT LIST", "-NOAUTH Authentication required.\r\n"),
        ("CLIENT UNPAUSE", "-NOAUTH Authentication required.\r\n"),
        (
            "NOSUCH",
            "-ERR unknown command 'NOSUCH', with args beginning with: \r\n",
        ),
        ("RESET", "+RESET\r\n"),
        ("AUTH a b c", "-ERR syntax error\r\n"),
    ] {
        assert_eq!(bench.say(cmd(words)), Status::NeedInput, "{words}");
        assert_eq!(bench.out(), reply, "{words}");
    }
    bench.say(cmd("HELLO 3"));
    assert!(bench.out().starts_with("-NOAUTH HELLO must be called"));
    bench.say(cmd(&format!("SET evil {}", "v".repeat(5000))));
    assert_eq!(bench.out(), "-NOAUTH Authentication required.\r\n");
    let script = &bench.script;
    assert!(script.forwarded.is_empty() && script.leased.is_empty() && script.streamed.is_empty());
    assert!(script.presented.is_empty());
}

#[test]
fn commands_travel_in_the_name_that_the_server_has_accepted() {
    let mut bench = bench();
    assert_eq!(
        bench.say(script(&["AUTH alice pw", "GET a"])),
        Status::Hold,
        "the server has not said anything yet"
    );
    assert!(bench.script.forwarded.is_empty() && bench.out().is_empty());
    assert_eq!(bench.script.presented[0].1, "alice:pw");
    bench.script.identity = Some(Ok(ALICE));
    assert_eq!(bench.say(""), Status::NeedInput);
    assert_eq!(bench.out(), "+OK\r\n");
    assert_eq!(identities(&bench), [ALICE]);
    assert_eq!(bench.script.settled, [ALICE]);
}

#[test]
fn a_password_alone_is_for_the_default_user() {
    let mut bench = bench();
    bench.script.identity = Some(Ok(ALICE));
    bench.say(cmd("AUTH pw"));
    assert_eq!(bench.script.presented[0].1, "default:pw");
}

#[test]
fn a_refusal_is_the_servers_and_changes_nothing() {
    let mut bench = alice();
    bench.script.identity = Some(Err(WRONGPASS.to_owned()));
    bench.say(script(&[
        "AUTH bob wrong",
        "HELLO 3 AUTH bob wrong",
        "GET a",
    ]));
    assert_eq!(bench.out(), format!("-{WRONGPASS}\r\n-{WRONGPASS}\r\n"));
    assert_eq!(identities(&bench), [ALICE]);
    assert_eq!(bench.session.lane_key().protocol, Protocol::Resp2);
    assert!(bench.script.settled.is_empty());
    assert_eq!(bench.counters.auth_failures.get(), 2);
    let mut stranger = self::bench();
    stranger.script.identity = Some(Err(WRONGPASS.to_owned()));
    stranger.say(script(&["AUTH bob wrong", "GET a"]));
    assert_eq!(
        stranger.out(),
        format!("-{WRONGPASS}\r\n-NOAUTH Authentication required.\r\n")
    );
}

#[test]
fn an_upstream_that_is_away_is_no_wrong_password() {
    let mut bench = bench();
    bench.script.identity = Some(Err(errors::unreachable("gone")));
    bench.say(cmd("AUTH alice pw"));
    assert_eq!(
        bench.out(),
        "-LOADING Nearkey: upstream unreachable (gone)\r\n"
    );
    assert_eq!(bench.counters.auth_failures.get(), 0);
}

#[test]
fn what_came_before_is_answered_before_the_server_is_asked() {
    let mut bench = alice();
    bench.script.identity = Some(Ok(BOB));
    let commands = script(&["ACL SETUSER bob >new", "AUTH bob new", "GET a"]);
    assert_eq!(bench.say(commands), Status::Hold);
    assert!(
        bench.script.presented.is_empty(),
        "the password may be the one that is just being set"
    );
    bench.reply("+OK\r\n", 1);
    assert_eq!(bench.say(""), Status::NeedInput);
    bench.reply("$-1\r\n", 1);
    assert_eq!(bench.out(), "+OK\r\n+OK\r\n$-1\r\n");
    assert_eq!(identities(&bench), [ALICE, BOB]);
}

#[test]
fn reset_leaves_nothing_of_the_name() {
    let mut bench = alice();
    assert_eq!(
        bench.say(script(&["GET a", "RESET", "GET b"])),
        Status::Hold
    );
    bench.reply("1", 1);
    assert_eq!(bench.say(""), Status::NeedInput);
    assert_eq!(
        bench.out(),
        "1+RESET\r\n-NOAUTH Authentication required.\r\n"
    );
    assert_eq!(bench.script.settled, [IdentityId::OWN]);
    assert_eq!(identities(&bench), [ALICE]);
}

#[test]
fn hello_with_auth_asks_for_a_connection_of_the_new_protocol() {
    let mut bench = bench();
    let facts = bench.script.facts.take();
    assert_eq!(
        bench.say(cmd("HELLO 3 AUTH alice pw SETNAME me")),
        Status::Hold
    );
    let (key, pair) = &bench.script.presented[0];
    assert_eq!((key.protocol, pair.as_str()), (Protocol::Resp3, "alice:pw"));
    bench.script.identity = Some(Ok(ALICE));
    assert_eq!(bench.say(""), Status::Hold, "no facts yet");
    assert!(bench.script.settled.is_empty() && bench.out().is_empty());
    bench.script.facts = facts;
    assert_eq!(bench.say(cmd("CLIENT GETNAME")), Status::NeedInput);
    let out = bench.out();
    assert!(
        out.starts_with("%7\r\n") && out.ends_with("$2\r\nme\r\n"),
        "{out}"
    );
    assert_eq!(bench.script.settled, [ALICE]);
    let key = bench.session.lane_key();
    assert_eq!((key.identity, key.protocol), (ALICE, Protocol::Resp3));
    bench.say(cmd("HELLO 2"));
    let key = bench.session.lane_key();
    assert_eq!((key.identity, key.protocol), (ALICE, Protocol::Resp2));
}

#[test]
fn hello_without_resp3_changes_nothing_and_forgets_what_was_presented() {
    let mut bench = alice();
    bench.script.identity = Some(Ok(BOB));
    bench.script.no_resp3 = true;
    bench.say(cmd("HELLO 3 AUTH bob pw"));
    assert_eq!(bench.out(), "-NOPROTO unsupported protocol version\r\n");
    assert_eq!(bench.script.settled, [ALICE]);
    assert_eq!(bench.session.lane_key().identity, ALICE);
}

#[test]
fn another_database_and_protocol_keep_the_name() {
    let mut bench = alice();
    bench.say(script(&["SELECT 3", "HELLO 3", "GET a"]));
    let (key, ..) = bench.script.forwarded[0];
    assert_eq!((key.db, key.identity), (3, ALICE));
}

#[test]
fn no_name_is_changed_while_a_connection_is_held() {
    let mut bench = alice();
    bench.script.lease = Some(Ok(()));
    bench.session.mode = Mode::Streaming; // stands for anything that holds a connection
    let mut ask = |identity| {
        bench.script.identity = Some(Ok(identity));
        let env = Env {
            paused: crate::control::Paused::No,
            id: 7,
            settings: &bench.settings,
            table: &bench.table,
            counters: &bench.counters,
            l1: None,
            hot: None,
        };
        let mut reply = Vec::new();
        let words = [&b"AUTH"[..], b"user", b"pw"];
        bench
            .session
            .auth(&words, &mut reply, &env, &mut bench.script);
        String::from_utf8(reply).expect("text")
    };
    assert_eq!(ask(BOB), format!("-{}\r\n", errors::AUTH_LEASED));
    assert_eq!(ask(ALICE), "+OK\r\n", "the same name again");
    assert_eq!(bench.script.settled, [ALICE, ALICE]);
    assert_eq!(bench.session.lane_key().identity, ALICE);
}

#[test]
fn without_passthrough_nothing_is_asked() {
    let mut bench = Bench::new(None);
    bench.say(script(&[
        "AUTH any thing",
        "HELLO 3 AUTH other thing",
        "GET a",
    ]));
    assert!(bench.script.presented.is_empty());
    assert_eq!(identities(&bench), [IdentityId::OWN]);
    assert!(
        bench
            .script
            .settled
            .iter()
            .all(|identity| *identity == IdentityId::OWN)
    );
}
