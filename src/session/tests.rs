//! A session against a scripted outside.

mod bench;
mod linear;
mod passthrough;
mod reads;
mod stateful;
mod subscribe;

use self::bench::{Bench, cmd, script};
use super::*;

#[test]
fn a_pipeline_leaves_in_one_piece_and_byte_for_byte() {
    let mut bench = Bench::new(None);
    let pipeline = script(&["GET a", "SET b 1", "get c"]);
    assert_eq!(bench.say(&pipeline), Status::NeedInput);
    assert_eq!(bench.counts(), [3]);
    assert_eq!(bench.script.forwarded[0].1, pipeline);
}

#[test]
fn any_cut_of_the_input_forwards_the_same_commands() {
    let whole = script(&["GET a", "PING", "SET key value", "ECHO x", "GET b"]);
    for cut in 0..=whole.len() {
        let mut bench = Bench::new(None);
        bench.say(&whole[..cut]);
        bench.say(&whole[cut..]);
        let sent: Vec<u8> = bench
            .script
            .forwarded
            .iter()
            .flat_map(|f| f.1.clone())
            .collect();
        assert_eq!(
            sent,
            script(&["GET a", "SET key value", "GET b"]),
            "cut at {cut}"
        );
        bench.reply("1", 1);
        bench.reply("2", 1);
        bench.reply("3", 1);
        assert_eq!(bench.out(), "1+PONG\r\n2$1\r\nx\r\n3", "cut at {cut}");
    }
}

#[test]
fn inline_commands_travel_as_arrays() {
    let mut bench = Bench::new(None);
    bench.say("set a \"two words\"\r\nPING\r\n\r\n");
    assert_eq!(
        bench.script.forwarded[0].1,
        b"*3\r\n$3\r\nset\r\n$1\r\na\r\n$9\r\ntwo words\r\n"
    );
    bench.reply("+OK\r\n", 1);
    assert_eq!(bench.out(), "+OK\r\n+PONG\r\n");
}

#[test]
fn a_malformed_request_is_answered_after_what_came_before_and_ends_the_session() {
    let mut bench = Bench::new(None);
    let mut bytes = cmd("GET a");
    bytes.extend_from_slice(b"*1\r\n$x\r\n");
    assert_eq!(bench.say(&bytes), Status::Close);
    assert_eq!(bench.counts(), [1]);
    bench.reply("$-1\r\n", 1);
    assert_eq!(
        bench.out(),
        "$-1\r\n-ERR Protocol error: invalid bulk length\r\n"
    );
}

#[test]
fn http_is_dropped_without_a_word() {
    let mut bench = Bench::new(None);
    assert_eq!(bench.say("GET / HTTP/1.1\r\n"), Status::Drop);
    assert!(bench.out().is_empty() && bench.script.forwarded.is_empty());
}

#[test]
fn a_denied_command_is_answered_and_sent_nowhere() {
    let mut bench = Bench::new(None);
    bench.say(cmd("SHUTDOWN NOSAVE"));
    assert_eq!(
        bench.out(),
        "-ERR Nearkey: 'SHUTDOWN' is refused by the setting commands.deny\r\n"
    );
    assert!(bench.script.forwarded.is_empty() && bench.script.leased.is_empty());
}

#[test]
fn what_is_denied_with_all_its_subcommands_is_denied_with_those_that_nobody_knows() {
    let mut bench = Bench::new(None);
    bench.say(cmd("LATENCY FROM-TOMORROW"));
    assert!(bench.out().starts_with("-ERR Nearkey: 'LATENCY"));
    assert!(bench.script.forwarded.is_empty() && bench.script.leased.is_empty());
}

#[test]
fn select_waits_for_what_is_in_flight_before_it_uses_another_connection() {
    let mut bench = Bench::new(None);
    assert_eq!(
        bench.say(script(&["GET a", "SELECT 3", "GET b"])),
        Status::Hold
    );
    assert_eq!(bench.counts(), [1]);
    bench.reply("1", 1);
    assert_eq!(bench.say(""), Status::NeedInput);
    assert_eq!(bench.out(), "1+OK\r\n");
    assert_eq!(bench.script.forwarded[1].0.db, 3);
    bench.say(cmd("SELECT 99"));
    bench.reply("2", 1);
    assert_eq!(bench.out(), "2-ERR DB index is out of range\r\n");
    bench.say(cmd("SELECT x"));
    assert_eq!(
        bench.out(),
        "-ERR value is not an integer or out of range\r\n"
    );
}

#[test]
fn hello_changes_the_protocol_and_tells_about_the_server() {
    let mut bench = Bench::new(None);
    bench.say(cmd("HELLO 3 AUTH any thing SETNAME me"));
    assert!(bench.out().starts_with("%7\r\n$6\r\nserver\r\n"));
    bench.say(cmd("CLIENT GETNAME"));
    assert_eq!(bench.out(), "$2\r\nme\r\n");
    bench.say(cmd("GET a"));
    assert_eq!(bench.script.forwarded[0].0.protocol, Protocol::Resp3);
    bench.reply("_\r\n", 1);
    bench.out();
    for (words, error) in [
        ("HELLO 4", "-NOPROTO unsupported protocol version\r\n"),
        (
            "HELLO x",
            "-ERR Protocol version is not an integer or out of range\r\n",
        ),
        (
            "HELLO 2 WHAT",
            "-ERR Syntax error in HELLO option 'WHAT'\r\n",
        ),
    ] {
        bench.say(cmd(words));
        assert_eq!(bench.out(), error);
    }
}

#[test]
fn hello_3_is_refused_where_the_server_does_not_speak_it() {
    let mut bench = Bench::new(None);
    bench.script.no_resp3 = true;
    bench.say(cmd("HELLO 3"));
    assert_eq!(bench.out(), "-NOPROTO unsupported protocol version\r\n");
    assert_eq!(bench.session.lane_key().protocol, Protocol::Resp2);
}

#[test]
fn a_password_is_asked_for_before_anything_else() {
    let mut bench = Bench::new(Some("secret"));
    for (words, reply) in [
        ("GET a", "-NOAUTH Authentication required.\r\n"),
        ("PING", "-NOAUTH Authentication required.\r\n"),
        (
            "NOSUCH",
            "-ERR unknown command 'NOSUCH', with args beginning with: \r\n",
        ),
        (
            "ECHO",
            "-ERR wrong number of arguments for 'echo' command\r\n",
        ),
        (
            "AUTH wrong",
            "-WRONGPASS invalid username-password pair or user is disabled.\r\n",
        ),
        (
            "AUTH other secret",
            "-WRONGPASS invalid username-password pair or user is disabled.\r\n",
        ),
        ("AUTH secret", "+OK\r\n"),
        ("PING", "+PONG\r\n"),
        ("RESET", "+RESET\r\n"),
        ("PING", "-NOAUTH Authentication required.\r\n"),
    ] {
        bench.say(cmd(words));
        assert_eq!(bench.out(), reply, "{words}");
    }
    assert!(bench.script.forwarded.is_empty());
}

#[test]
fn client_reply_drops_replies_of_local_and_forwarded_commands() {
    let mut bench = Bench::new(None);
    bench.say(script(&["CLIENT REPLY SKIP", "PING", "PING"]));
    assert_eq!(bench.out(), "+PONG\r\n");
    bench.say(script(&["CLIENT REPLY SKIP", "GET a", "GET b"]));
    let handling: Vec<_> = bench
        .script
        .forwarded
        .iter()
        .map(|f| f.3.handling)
        .collect();
    assert_eq!(handling, [Handling::Discard, Handling::Pass]);
    bench.session.handle_replies(1, &mut bench.out);
    bench.reply("b", 1);
    bench.out();
    bench.say(script(&[
        "CLIENT REPLY OFF",
        "PING",
        "CLIENT NO-EVICT maybe",
        "CLIENT REPLY ON",
    ]));
    assert_eq!(bench.out(), "+OK\r\n");
}

#[test]
fn a_question_about_other_clients_waits_for_own_replies_and_for_the_answer() {
    let mut bench = Bench::new(None);
    assert_eq!(
        bench.say(script(&["GET a", "CLIENT LIST", "PING"])),
        Status::Hold
    );
    bench.reply("1", 1);
    assert_eq!(bench.say(""), Status::Hold);
    bench.script.answer = Some(b"$0\r\n\r\n".to_vec());
    assert_eq!(bench.say(""), Status::NeedInput);
    assert_eq!(bench.out(), "1$0\r\n\r\n+PONG\r\n");
}

#[test]
fn a_large_request_streams_to_a_leased_connection_and_what_follows_waits() {
    let mut bench = Bench::new(None);
    let value = "v".repeat(5000);
    let large = cmd(&format!("SET big {value}"));
    let mut bytes = cmd("GET a");
    bytes.extend_from_slice(&large[..100]);
    assert_eq!(bench.say(&bytes), Status::Hold, "GET a is in flight");
    bench.reply("1", 1);
    assert_eq!(bench.say(""), Status::Hold, "no lease yet");
    bench.script.lease = Some(Ok(()));
    assert_eq!(bench.say(""), Status::NeedInput);
    for part in large[100..].chunks(700) {
        bench.say(part);
    }
    assert_eq!(bench.script.streamed, large);
    assert_eq!(bench.script.stream_end, Some(Handling::Pass));
    assert_eq!(bench.session.pending().owed(), 1);
    assert_eq!(
        bench.say(script(&["PING", "GET b"])),
        Status::Hold,
        "GET b must not overtake the large request on another connection"
    );
    bench.reply("+OK\r\n", 1);
    assert_eq!(bench.out(), "1+OK\r\n+PONG\r\n");
    assert_eq!(bench.counts(), [1]);
    assert_eq!(bench.say(""), Status::NeedInput);
    assert_eq!(bench.counts(), [1, 1]);
}

#[test]
fn what_ends_a_wait_of_others_travels_alone() {
    let mut bench = Bench::new(None);
    assert_eq!(
        bench.say(script(&["GET a", "CLIENT UNPAUSE", "GET b"])),
        Status::Hold
    );
    bench.reply("1", 1);
    bench.script.lease = Some(Ok(()));
    assert_eq!(
        bench.say(""),
        Status::Hold,
        "GET b waits for the lease's reply"
    );
    assert_eq!(bench.script.leased[0].0, cmd("CLIENT UNPAUSE"));
    bench.reply("+OK\r\n", 1);
    assert_eq!(bench.say(""), Status::NeedInput);
    assert_eq!(bench.counts(), [1, 1]);
}

#[test]
fn a_large_request_that_cannot_be_carried_is_swallowed_and_answered() {
    let mut bench = Bench::new(None);
    let value = "v".repeat(5000);
    for (words, lease) in [
        (
            format!("SET big {value}"),
            Err("ERR Nearkey: no".to_owned()),
        ),
        (format!("SHUTDOWN {value}"), Ok(())),
    ] {
        bench.script.lease = Some(lease);
        for part in cmd(&words).chunks(900) {
            bench.say(part);
        }
        bench.say(cmd("PING"));
        let out = bench.out();
        assert!(
            out.starts_with("-ERR ") && out.ends_with("\r\n+PONG\r\n"),
            "{out}"
        );
    }
    assert!(bench.script.streamed.is_empty() && bench.script.forwarded.is_empty());
}

#[test]
fn quit_ends_the_session_after_its_reply() {
    let mut bench = Bench::new(None);
    assert_eq!(
        bench.say(script(&["GET a", "QUIT", "GET b"])),
        Status::Close
    );
    bench.reply("1", 1);
    assert_eq!(bench.out(), "1+OK\r\n");
    assert_eq!(bench.counts(), [1]);
}

#[test]
fn no_large_request_leaves_before_authentication() {
    let mut bench = Bench::new(Some("secret"));
    bench.script.lease = Some(Ok(()));
    let large = cmd(&format!("SET evil {}", "v".repeat(5000)));
    assert_eq!(bench.say(&large[..2000]), Status::NeedInput);
    bench.say(&large[2000..]);
    assert_eq!(bench.out(), "-NOAUTH Authentication required.\r\n");
    assert!(bench.script.streamed.is_empty() && bench.script.forwarded.is_empty());
}

#[test]
fn a_wrong_password_in_hello_asks_nothing_of_the_server() {
    let mut bench = Bench::new(Some("secret"));
    bench.script.facts = None;
    assert_eq!(
        bench.say(cmd("HELLO 3 AUTH default wrong")),
        Status::NeedInput
    );
    assert!(bench.out().starts_with("-WRONGPASS"));
}

#[test]
fn held_local_replies_are_counted_until_they_leave() {
    let mut bench = Bench::new(None);
    bench.say(script(&["GET a", "ECHO 12345"]));
    assert_eq!(
        bench.session.pending().held_bytes(),
        "$5\r\n12345\r\n".len()
    );
    bench.reply("1", 1);
    assert_eq!(bench.session.pending().held_bytes(), 0);
}

#[test]
fn unblock_is_forwarded_under_the_id_that_the_server_knows() {
    let mut bench = Bench::new(None);
    bench.say(cmd("GET a"));
    assert_eq!(bench.say(cmd("CLIENT UNBLOCK 12 ERROR")), Status::Hold);
    bench.reply("1", 1);
    bench.script.answer = Some(b"345".to_vec());
    assert_eq!(bench.say(""), Status::NeedInput);
    let (_, sent, count, terms) = bench.script.forwarded.last().expect("it is sent").clone();
    assert_eq!((sent, count), (cmd("CLIENT UNBLOCK 345 ERROR"), 1));
    assert_eq!(terms, Handling::Pass.into());
    bench.say(cmd("ECHO x"));
    bench.reply(":1\r\n", 1);
    assert_eq!(bench.out(), "1:1\r\n$1\r\nx\r\n");
}

#[test]
fn unblock_of_nobody_and_nonsense_is_answered_here() {
    let mut bench = Bench::new(None);
    bench.script.answer = Some(Vec::new());
    bench.say(cmd("CLIENT UNBLOCK -5"));
    assert_eq!(bench.out(), ":0\r\n");
    for (args, text) in [
        ("x", errors::NOT_AN_INTEGER),
        (
            "x why",
            "ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR",
        ),
        (
            "1 error x",
            "ERR unknown subcommand or wrong number of arguments for 'UNBLOCK'. Try CLIENT HELP.",
        ),
    ] {
        bench.say(cmd(&format!("CLIENT UNBLOCK {args}")));
        assert_eq!(bench.out(), format!("-{text}\r\n"));
    }
    assert!(bench.script.forwarded.is_empty());
}

#[test]
fn unblock_says_nothing_while_replies_are_off() {
    let mut bench = Bench::new(None);
    bench.script.answer = Some(b"345".to_vec());
    bench.say(script(&["CLIENT REPLY OFF", "CLIENT UNBLOCK 1"]));
    let (.., terms) = bench.script.forwarded.last().expect("it is sent");
    assert_eq!(*terms, Handling::Discard.into());
}

#[test]
fn nearkey_asks_the_outside_once_what_came_before_is_answered() {
    let mut bench = Bench::new(None);
    assert_eq!(
        bench.say(script(&["GET a", "NEARKEY FLUSH a*"])),
        Status::Hold
    );
    bench.script.answer = Some(b":3\r\n".to_vec());
    assert_eq!(bench.say(""), Status::Hold);
    bench.reply("$-1\r\n", 1);
    bench.say("");
    assert_eq!(bench.out(), "$-1\r\n:3\r\n");
    bench.say(cmd("nearkey key"));
    let error = "-ERR wrong number of arguments for 'nearkey|key' command\r\n";
    assert_eq!(bench.out(), error);
    bench.say(cmd("NEARKEY HELP"));
    assert!(bench.out().contains("HOTKEYS"));
    assert_eq!(bench.counts(), [1], "nothing of it travels");
}
