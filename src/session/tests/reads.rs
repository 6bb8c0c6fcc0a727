//! What a session asks of L1, and what its commands touch.

use super::*;
use crate::l1::L1;
use crate::l1::config::{Config, Scripts, Verb};
use crate::l1::touched::Touched;
use crate::upstream::pipe::ShownReads;

fn cached(scripts: Scripts) -> Bench {
    let mut bench = Bench::new(None);
    let config = Config {
        default: Verb::Cache,
        scripts,
        ..Config::default()
    };
    bench.l1 = L1::new(config, &bench.table);
    bench.script.memory = Some("+hit\r\n".to_owned());
    bench.script.lease = Some(Ok(()));
    bench.script.subscribed = Some(Ok(()));
    bench
}

fn ready() -> Bench {
    cached(Scripts::Any)
}

/// What all that was sent so far touches.
fn touched(bench: &mut Bench) -> Touched {
    let mut all = Touched::default();
    for (_, _, _, terms) in std::mem::take(&mut bench.script.forwarded) {
        all.join(&terms.touched);
    }
    for (_, _, terms) in std::mem::take(&mut bench.script.leased) {
        all.join(&terms.touched);
    }
    all
}

fn names(bench: &Bench, touched: &Touched, keys: &[&str]) -> bool {
    let stamps = &bench.l1.as_ref().expect("there is one").stamps;
    let place = |key: &&str| stamps.place(stamps.hash(key.as_bytes()));
    let expected: Vec<_> = keys.iter().map(place).collect();
    touched.places() == expected && !touched.is_everything()
}

#[test]
fn a_read_of_a_session_with_nothing_in_flight_is_answered_from_memory() {
    let mut bench = ready();
    bench.say(script(&["GET a", "get b", "MGET x y"]));
    assert_eq!(bench.script.reads, ["GET a", "GET b", "GET x", "GET y"]);
    assert_eq!(bench.out(), "+hit\r\n".repeat(3));
    assert!(bench.script.forwarded.is_empty());
}

#[test]
fn a_read_behind_anything_in_flight_travels() {
    let mut bench = ready();
    bench.say(script(&["SET a 1", "GET a", "GET b"]));
    assert!(bench.script.reads.is_empty());
    assert_eq!(bench.counts(), [3]);
    bench.say(cmd("GET c"));
    assert!(bench.script.reads.is_empty(), "still in flight");
    bench.reply("1", 3);
    bench.reply("1", 1);
    bench.say(cmd("GET c"));
    assert_eq!(bench.script.reads, ["GET c"]);
}

#[test]
fn a_pipeline_of_keys_that_nobody_keeps_is_one_row_that_touches_each() {
    let mut bench = ready();
    bench.script.memory = Some(String::new());
    bench.say(script(&["GET a", "GET b", "TTL c", "HGET d f"]));
    assert_eq!(bench.script.reads, ["GET a"], "the others are behind it");
    assert_eq!(bench.counts(), [4]);
    assert_eq!(bench.counters.l1_bypass_pipeline.get(), 2);
    let sent = touched(&mut bench);
    assert!(names(&bench, &sent, &["a", "b", "c", "d"]) && !sent.writes());
}

#[test]
fn what_memory_does_not_know_travels_with_what_follows() {
    let mut bench = ready();
    bench.script.memory = Some(String::new());
    bench.say(script(&["GET a", "GET b"]));
    assert_eq!(bench.script.reads, ["GET a"]);
    assert_eq!(bench.counts(), [2]);
    let touched = touched(&mut bench);
    assert!(names(&bench, &touched, &["a", "b"]) && !touched.writes());
}

#[test]
fn a_read_that_is_on_its_way_holds_what_follows() {
    let mut bench = ready();
    bench.script.memory = None;
    assert_eq!(bench.say(script(&["GET a", "GET b"])), Status::Hold);
    bench.say(cmd("SET a 1"));
    assert!(bench.script.forwarded.is_empty());
    bench.script.memory = Some("+new\r\n".to_owned());
    assert_eq!(bench.say(""), Status::NeedInput);
    assert_eq!(bench.out(), "+new\r\n".repeat(2));
    assert_eq!(bench.counts(), [1]);
}

#[test]
fn sessions_in_a_state_get_no_hits() {
    let states: &[&[&str]] = &[
        &["MULTI"],
        &["WATCH a"],
        &["CLIENT REPLY OFF"],
        &["CLIENT TRACKING ON"],
        &["HELLO 3", "SUBSCRIBE c"],
    ];
    for state in states {
        let mut bench = ready();
        bench.say(script(state));
        if bench.session.pending().owed() > 0 {
            bench.session.judge(b"+OK\r\n");
            bench.reply("+OK\r\n", 1);
        }
        bench.say(cmd("GET a"));
        assert!(bench.script.reads.is_empty(), "{state:?}");
    }
    let mut bench = ready();
    bench.say("GET a\r\n");
    assert!(bench.script.reads.is_empty(), "an inline command travels");
}

#[test]
fn commands_touch_the_keys_they_name() {
    let cases: &[(&str, &[&str], bool)] = &[
        ("SET a 1", &["a"], true),
        ("MSET a 1 b 2", &["a", "b"], true),
        ("RENAME a b", &["a", "b"], true),
        ("TTL a", &["a"], false),
        ("OBJECT ENCODING a", &["a"], false),
        ("SUNIONSTORE d a b", &["d", "a", "b"], true),
        ("BLPOP a b 0", &["a", "b"], true),
        ("XREADGROUP GROUP g c STREAMS s >", &["s"], true),
    ];
    for (command, keys, writes) in cases {
        let mut bench = ready();
        bench.script.memory = Some(String::new());
        bench.say(cmd(command));
        let touched = touched(&mut bench);
        assert!(names(&bench, &touched, keys), "{command}: {touched:?}");
        assert_eq!(touched.writes(), *writes, "{command}");
    }
}

#[test]
fn what_could_reach_any_key_touches_everything() {
    for command in [
        "FLUSHALL",
        "SWAPDB 0 1",
        "EVAL x 1 a",
        "SORT a",
        "DEBUG RELOAD",
    ] {
        let mut bench = ready();
        bench.say(cmd(command));
        let touched = touched(&mut bench);
        assert!(touched.is_everything() && touched.writes(), "{command}");
    }
    for command in ["KEYS *", "EVAL_RO x 0"] {
        let mut bench = ready();
        bench.say(cmd(command));
        let touched = touched(&mut bench);
        assert!(touched.is_everything() && !touched.writes(), "{command}");
    }
    let mut bench = ready();
    bench.say(cmd("SCAN 0"));
    assert!(touched(&mut bench).shows_presence());
    let mut bench = cached(Scripts::Declared);
    bench.say(cmd("EVAL x 1 a b"));
    let touched = touched(&mut bench);
    assert!(names(&bench, &touched, &["a"]) && touched.writes());
}

#[test]
fn a_transaction_touches_what_its_commands_do() {
    let mut bench = ready();
    bench.say(script(&["MULTI", "GET a", "SET b 1"]));
    assert!(bench.script.forwarded.is_empty());
    bench.say(cmd("EXEC"));
    let touched = touched(&mut bench);
    assert!(names(&bench, &touched, &["a", "b"]) && touched.writes());
}

#[test]
fn a_large_write_touches_its_key() {
    let mut bench = ready();
    let mut large = Vec::new();
    encode::command(&mut large, &[b"SET", b"a", &[b'x'; 4096]]);
    bench.say(&large[..2048]);
    let touched = bench.script.stream_touches.clone();
    assert!(names(&bench, &touched, &["a"]) && touched.writes());
}

#[test]
fn without_l1_nothing_is_asked_or_noted() {
    let mut bench = Bench::new(None);
    bench.say(script(&["GET a", "SET a 1", "FLUSHALL"]));
    assert!(bench.script.reads.is_empty());
    assert!(touched(&mut bench).is_nothing());
}

#[test]
fn what_stands_behind_a_read_decides_whether_it_may_be_waited_for() {
    let mut bench = ready();
    bench.script.memory = None;
    assert_eq!(bench.say(script(&["GET a", "SET b 1"])), Status::NeedInput);
    assert_eq!(bench.counts(), [2], "a write is not made to wait");
    let mut bench = ready();
    bench.script.memory = None;
    let pipeline = script(&["GET a", "GET b", "MGET c d", "PING", "GET e"]);
    assert_eq!(bench.say(pipeline), Status::Hold);
    assert_eq!(bench.script.prefetched, ["GET b", "GET c", "GET d"]);
    assert!(bench.script.forwarded.is_empty());
}

#[test]
fn a_read_past_l1_of_a_key_it_may_know_is_a_row_of_its_own() {
    let mut bench = ready();
    let l1 = bench.l1.clone().expect("there is one");
    l1.stamps.arm(l1.stamps.place(l1.stamps.hash(b"b")));
    bench.say(script(&["SET a 1", "GET b", "SET c 1", "GET d"]));
    assert_eq!(bench.counts(), [1, 1, 2]);
    let compared: Vec<bool> = bench
        .script
        .forwarded
        .iter()
        .map(|(_, _, _, terms)| terms.reads != ShownReads::None)
        .collect();
    assert_eq!(compared, [false, true, false]);
    let touched = touched(&mut bench);
    assert!(names(&bench, &touched, &["a", "b", "c", "d"]));
}
