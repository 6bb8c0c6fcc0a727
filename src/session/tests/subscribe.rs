//! Subscriptions as one client sees them.

use super::*;
use crate::hub::Kind;
use crate::hub::Topic;
use crate::upstream::IdentityId;

const GATE: &str = "only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this \
    context\r\n";

fn ready() -> Bench {
    let mut bench = Bench::new(None);
    bench.script.subscribed = Some(Ok(()));
    bench
}

fn confirmation(mark: char, word: &str, name: &str, count: usize) -> String {
    format!(
        "{mark}3\r\n${}\r\n{word}\r\n${}\r\n{name}\r\n:{count}\r\n",
        word.len(),
        name.len()
    )
}

fn names(topics: &[Topic]) -> Vec<(Kind, String)> {
    let text = |topic: &Topic| String::from_utf8_lossy(&topic.name.bytes).into_owned();
    topics.iter().map(|t| (t.name.kind, text(t))).collect()
}

#[test]
fn confirmations_count_channels_and_patterns_together_and_shards_apart() {
    let mut bench = ready();
    assert_eq!(
        bench.say(script(&[
            "SUBSCRIBE a a b",
            "PSUBSCRIBE a*",
            "SSUBSCRIBE a"
        ])),
        Status::NeedInput
    );
    let expected = [
        confirmation('*', "subscribe", "a", 1),
        confirmation('*', "subscribe", "a", 1),
        confirmation('*', "subscribe", "b", 2),
        confirmation('*', "psubscribe", "a*", 3),
        confirmation('*', "ssubscribe", "a", 1),
    ];
    assert_eq!(bench.out(), expected.concat());
    assert_eq!(bench.session.subscriptions(), [2, 1, 1]);
    assert_eq!(bench.session.flags(), "P");
}

#[test]
fn only_names_that_it_has_not_got_are_asked_for_and_each_once() {
    let mut bench = ready();
    bench.say(cmd("SUBSCRIBE a b a"));
    let both = [
        (Kind::Channel, "a".to_owned()),
        (Kind::Channel, "b".to_owned()),
    ];
    assert_eq!(names(&bench.script.subscribes), both);
    assert_eq!(bench.script.subscribes[0].identity, IdentityId::OWN);
    bench.script.subscribes.clear();
    bench.script.subscribed = None; // nothing is answered
    assert_eq!(bench.say(cmd("SUBSCRIBE b")), Status::NeedInput);
    assert!(bench.script.subscribes.is_empty());
    assert_eq!(bench.say(cmd("SUBSCRIBE b c")), Status::Hold);
    let fresh = [(Kind::Channel, "c".to_owned())];
    assert_eq!(names(&bench.script.subscribes), fresh);
}

#[test]
fn it_is_confirmed_behind_what_is_owed_and_when_the_server_has_confirmed() {
    let mut bench = Bench::new(None);
    assert_eq!(bench.say(script(&["GET k", "SUBSCRIBE a"])), Status::Hold);
    assert!(bench.script.subscribes.is_empty());
    bench.reply("$1\r\nv\r\n", 1);
    assert_eq!(bench.say(""), Status::Hold);
    assert_eq!(bench.script.subscribes.len(), 1);
    assert_eq!(bench.out(), "$1\r\nv\r\n");
    bench.script.subscribed = Some(Ok(()));
    assert_eq!(bench.say(""), Status::NeedInput);
    assert_eq!(bench.out(), confirmation('*', "subscribe", "a", 1));
}

#[test]
fn a_refusal_is_the_reply_and_leaves_nothing() {
    let mut bench = Bench::new(None);
    bench.script.subscribed = Some(Err("NOPERM no".to_owned()));
    bench.say(script(&["SUBSCRIBE a b", "GET k"]));
    assert_eq!(bench.out(), "-NOPERM no\r\n");
    assert_eq!(bench.session.subscriptions(), [0; 3]);
    assert_eq!(bench.script.forwarded.len(), 1, "not gated");
}

#[test]
fn unsubscribing_confirms_each_name_or_says_that_there_is_none() {
    let mut bench = ready();
    bench.say(cmd("UNSUBSCRIBE"));
    assert_eq!(bench.out(), "*3\r\n$11\r\nunsubscribe\r\n$-1\r\n:0\r\n");
    bench.say(script(&["PSUBSCRIBE x y z", "UNSUBSCRIBE nosuch"]));
    bench.out();
    bench.script.slow_unsubscribe = true;
    assert_eq!(bench.say(cmd("PUNSUBSCRIBE z z nosuch")), Status::Hold);
    assert!(bench.out().is_empty());
    let leaving = [(Kind::Pattern, "z".to_owned())];
    assert_eq!(names(&bench.script.unsubscribes), leaving);
    bench.script.slow_unsubscribe = false;
    assert_eq!(bench.say(""), Status::NeedInput);
    let expected = ["z", "z", "nosuch"].map(|n| confirmation('*', "punsubscribe", n, 2));
    assert_eq!(bench.out(), expected.concat());
    bench.say(script(&["PUNSUBSCRIBE", "GET k"]));
    let expected = [
        confirmation('*', "punsubscribe", "x", 1),
        confirmation('*', "punsubscribe", "y", 0),
    ];
    assert_eq!(bench.out(), expected.concat());
    assert_eq!(bench.script.forwarded.len(), 1, "no longer gated");
}

#[test]
fn a_resp2_subscriber_may_say_little() {
    let mut bench = ready();
    bench.say(cmd("SSUBSCRIBE a"));
    bench.out();
    for (words, shown) in [
        ("GET k", "get"),
        ("CLIENT ID", "client|id"),
        ("HELLO 3", "hello"),
        ("MULTI", "multi"),
        ("BLPOP a 0", "blpop"),
        ("SHUTDOWN", "shutdown"),
    ] {
        bench.say(cmd(words));
        assert_eq!(bench.out(), format!("-ERR Can't execute '{shown}': {GATE}"));
    }
    bench.say(cmd("EXEC"));
    let text = "-EXECABORT Transaction discarded because of: Can't execute 'exec': ";
    assert_eq!(bench.out(), format!("{text}{GATE}"));
    bench.say(script(&["GET", "NOSUCH x", "PING", "PING hi"]));
    let expected = "-ERR wrong number of arguments for 'get' command\r\n\
        -ERR unknown command 'NOSUCH', with args beginning with: 'x' \r\n\
        *2\r\n$4\r\npong\r\n$0\r\n\r\n*2\r\n$4\r\npong\r\n$2\r\nhi\r\n";
    assert_eq!(bench.out(), expected);
    assert!(bench.script.forwarded.is_empty());
    assert_eq!(bench.say(cmd("QUIT")), Status::Close);
    assert_eq!(bench.out(), "+OK\r\n");
}

#[test]
fn a_large_request_does_not_slip_through_the_gate() {
    let mut bench = ready();
    bench.script.lease = Some(Ok(()));
    bench.say(cmd("SUBSCRIBE a"));
    bench.out();
    let value = "v".repeat(5000);
    let request = format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5000\r\n{value}\r\n");
    bench.say(&request[..3000]);
    bench.say(&request[3000..]);
    assert_eq!(bench.out(), format!("-ERR Can't execute 'set': {GATE}"));
    assert!(bench.script.streamed.is_empty());
}

#[test]
fn a_resp3_subscriber_may_say_everything() {
    let mut bench = ready();
    bench.say(script(&["HELLO 3", "SUBSCRIBE a", "PING", "UNSUBSCRIBE"]));
    let out = bench.out();
    let tail = [
        confirmation('>', "subscribe", "a", 1),
        "+PONG\r\n".to_owned(),
        confirmation('>', "unsubscribe", "a", 0),
    ];
    assert!(out.ends_with(&tail.concat()), "{out}");
    bench.say(script(&["UNSUBSCRIBE", "SUBSCRIBE a", "GET k"]));
    let expected = ">3\r\n$11\r\nunsubscribe\r\n_\r\n:0\r\n";
    assert_eq!(
        bench.out(),
        expected.to_owned() + &confirmation('>', "subscribe", "a", 1)
    );
    assert_eq!(bench.script.forwarded.len(), 1);
    bench.reply("_\r\n", 1);
    bench.out();
    bench.say(script(&["HELLO 2", "GET k"]));
    assert!(bench.out().ends_with(GATE));
}

#[test]
fn reset_leaves_everything_without_a_word() {
    let mut bench = ready();
    bench.say(script(&["SUBSCRIBE a", "PSUBSCRIBE b"]));
    bench.out();
    bench.script.slow_unsubscribe = true;
    assert_eq!(bench.say(cmd("RESET")), Status::Hold);
    assert_eq!(bench.script.unsubscribes.len(), 2);
    bench.script.slow_unsubscribe = false;
    bench.say(cmd("GET k"));
    assert_eq!(bench.out(), "+RESET\r\n");
    assert_eq!(bench.script.forwarded.len(), 1);
    assert_eq!(bench.session.flags(), "N");
}

#[test]
fn reply_modes_are_about_replies_and_not_about_confirmations() {
    let mut bench = ready();
    bench.say(script(&["CLIENT REPLY OFF", "SUBSCRIBE a", "PING"]));
    assert_eq!(bench.out(), confirmation('*', "subscribe", "a", 1));
    let mut bench = ready();
    bench.say(script(&["CLIENT REPLY SKIP", "SUBSCRIBE a", "PING"]));
    let pong = "*2\r\n$4\r\npong\r\n$0\r\n\r\n";
    assert_eq!(bench.out(), confirmation('*', "subscribe", "a", 1) + pong);
}

#[test]
fn numsub_travels_and_comes_back_through_the_count() {
    let mut bench = ready();
    bench.say(script(&[
        "PUBSUB NUMSUB a",
        "PUBSUB shardnumsub a",
        "PUBSUB NUMPAT",
    ]));
    let handlings: Vec<_> = bench
        .script
        .forwarded
        .iter()
        .map(|f| f.3.handling)
        .collect();
    assert_eq!(
        handlings,
        [Handling::NumSub, Handling::ShardNumSub, Handling::Pass]
    );
}
