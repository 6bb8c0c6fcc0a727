//! Tests of tracked connections without I/O.

use super::*;
use crate::commands::CommandTable;
use crate::l1::config::{Config, Verb};
use crate::l1::entry::{Entry, Name, Scope};
use crate::l1::rules::Terms;
use crate::l1::shape::Shape;
use crate::upstream::IdentityId;
use crate::upstream::facts::Identity;

const SCOPE: Scope = Scope {
    db: 0,
    identity: IdentityId::OWN,
};

struct Bench {
    l1: Arc<L1>,
    stats: Arc<WorkerStats>,
    tracker: Arc<Tracker>,
    tracked: Tracked,
    terms: Terms,
    next: u64,
}

impl Bench {
    fn at(standing: Standing, left_out: Option<Rule>) -> Self {
        let config = Config {
            default: Verb::Cache,
            max_value: 1000,
            ..Config::default()
        };
        let mut l1 = L1::build(config, &CommandTable::builtin());
        l1.left_out = left_out;
        let l1 = Arc::new(l1);
        let stats = Arc::new(WorkerStats::default());
        let tracker = l1.tracker(SCOPE);
        let terms = (**l1.rules().of(b"")).clone();
        Self {
            tracked: Tracked::new(
                l1.clone(),
                stats.clone(),
                tracker.clone(),
                standing,
                Protocol::Resp3,
            ),
            l1,
            stats,
            tracker,
            terms,
            next: 0,
        }
    }

    fn new() -> Self {
        Self::at(Standing::Tracking, None)
    }

    fn order(&mut self, command: &str, key: &str) -> u64 {
        let l1 = &self.l1;
        let table = CommandTable::builtin();
        let spec = table.lookup(command.as_bytes()).expect("a command");
        let args = format!("${}\r\n{key}\r\n", key.len());
        let at = args.len() - key.len() - 2;
        let ticket = self.next;
        self.next += 1;
        let order = Order {
            name: Name {
                hash: ticket,
                scope: SCOPE,
                command: spec.id(),
                shape: Shape::Plain,
                args: args.as_bytes().into(),
                key: (at as u32, (at + key.len()) as u32),
            },
            command: format!("*2\r\n${}\r\n{command}\r\n{args}", command.len())
                .into_bytes()
                .into(),
            stamp: l1
                .stamps
                .arm(l1.stamps.place(l1.stamps.hash(key.as_bytes()))),
            tracker: self.tracker.clone(),
            link: self.tracker.link(),
            terms: Arc::new(self.terms.clone()),
            since: now(100 + ticket),
            waste: 0,
            ticket,
        };
        self.tracked.enqueue(1, order);
        ticket
    }

    fn feed(&mut self, input: &str) {
        self.tracked
            .handle_input(input.as_bytes())
            .expect("in step");
    }

    /// The answer to the one order that was told of.
    fn told(&mut self) -> Arc<Entry> {
        let mut told = self.tracked.take_told();
        assert_eq!(told.len(), 1, "one answer");
        let (from, _, answer) = told.remove(0);
        assert_eq!(from, 1);
        answer.expect("an answer")
    }

    /// What becomes of one order with these replies, after `OK` to CACHING.
    fn one(&mut self, command: &str, replies: &str) -> Arc<Entry> {
        self.order(command, "k");
        self.feed(&format!("+OK\r\n{replies}"));
        self.told()
    }

    fn fills(&self) -> [u64; 4] {
        let c = &self.stats.counters;
        [
            &c.l1_fills,
            &c.l1_fills_moved,
            &c.l1_fills_large,
            &c.l1_fills_unfit,
        ]
        .map(|counter| counter.get())
    }
}

fn now(mono: u64) -> Now {
    Now {
        mono,
        wall: mono + 1_000_000,
    }
}

fn seconds(n: u64) -> u64 {
    n * 1_000_000
}

fn push(keys: &[&str]) -> String {
    let mut frame = format!(">2\r\n$10\r\ninvalidate\r\n*{}\r\n", keys.len());
    for key in keys {
        frame += &format!("${}\r\n{key}\r\n", key.len());
    }
    frame
}

const NULL_PUSH: &str = ">2\r\n$10\r\ninvalidate\r\n_\r\n";
const K: &str = "$1\r\nv\r\n";

#[test]
fn an_order_leaves_in_one_piece() {
    let mut bench = Bench::new();
    bench.order("GET", "k");
    let sent = String::from_utf8(bench.tracked.take_output()).expect("text");
    assert_eq!(
        sent,
        "*3\r\n$6\r\nCLIENT\r\n$7\r\nCACHING\r\n$3\r\nYES\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\n\
         *2\r\n$4\r\nPTTL\r\n$1\r\nk\r\n"
    );
    assert_eq!(bench.stats.counters.l1_overhead_commands.get(), 2);
    let read = "*2\r\n$3\r\nGET\r\n$1\r\nk\r\n".len();
    let (value, rest) = ("$1\r\nv\r\n", [&*push(&["x"]), ":-1\r\n"].concat());
    for part in ["+OK\r\n", &value[..3], &value[3..], &rest] {
        bench.feed(part);
    }
    let bytes = sent.len() - read + "+OK\r\n".len() + rest.len();
    assert_eq!(bench.stats.counters.l1_overhead_bytes.get(), bytes as u64);
    let mut timed = Bench::at(Standing::Timed, None);
    timed.order("GET", "k");
    assert!(timed.tracked.take_output().starts_with(b"*2\r\n$3\r\nGET"));
    let mut by_rule = Bench::new();
    by_rule.terms.mode = Mode::Ttl;
    by_rule.order("GET", "k");
    assert!(
        by_rule
            .tracked
            .take_output()
            .starts_with(b"*2\r\n$3\r\nGET")
    );
}

#[test]
fn what_is_on_its_way_when_l1_is_flushed_is_not_kept() {
    let mut bench = Bench::new();
    bench.order("GET", "k");
    while bench.l1.clock.now().mono < 1_000 {} // it was ordered before that
    bench.l1.store.flush(Some(b"others:*"));
    bench.feed(&format!("+OK\r\n{K}:-1\r\n"));
    let entry = bench.told();
    assert!(!bench.l1.stands(&entry) && entry.reply() == K.as_bytes());
}

#[test]
fn a_value_is_kept_for_as_long_as_the_key_lives_and_no_longer_than_max_age() {
    let mut bench = Bench::new();
    let entry = bench.one("GET", &format!("{K}:-1\r\n"));
    assert_eq!((entry.reply(), entry.age), (K.as_bytes(), seconds(30)));
    assert!(!entry.timed && !entry.absent && entry.born == now(100));
    assert_eq!(bench.tracker.heard(), now(100));
    assert!(!bench.tracked.is_owed() && !bench.tracker.is_stuck(now(seconds(99)), Duration::ZERO));
    assert_eq!(bench.one("GET", &format!("{K}:5000\r\n")).age, seconds(5));
    assert_eq!(bench.one("GET", &format!("{K}:99000\r\n")).age, seconds(30));
    assert_eq!(bench.fills(), [3, 0, 0, 0]);
    assert_eq!(bench.one("GET", &format!("{K}:0\r\n")).age, 0);
    let mut careless = Bench::at(Standing::Tracking, Some(Rule::Expiry));
    let entry = careless.one("GET", &format!("{K}:5000\r\n"));
    assert_eq!(entry.age, seconds(30));
}

#[test]
fn a_missing_key_is_kept_briefly_unless_it_was_there_when_it_was_read() {
    for (command, reply) in [("GET", "_\r\n"), ("EXISTS", ":0\r\n")] {
        let mut bench = Bench::new();
        let entry = bench.one(command, &format!("{reply}:-2\r\n"));
        assert!(entry.absent && entry.age == seconds(1), "{command}");
        assert_eq!(bench.fills(), [1, 0, 0, 0]);
        bench.l1.stamps.touch_absent();
        assert!(!bench.l1.stamps.stands(&entry.stamp, entry.absent));
    }
    for reply in [K, "$0\r\n\r\n", ":1\r\n"] {
        let mut bench = Bench::new();
        let entry = bench.one("GET", &format!("{reply}:-2\r\n"));
        assert_eq!(entry.age, 0, "{reply}");
        assert_eq!(bench.fills(), [0, 0, 0, 1]);
    }
    // A field that is missing in a hash that is there.
    let mut bench = Bench::new();
    let entry = bench.one("GET", "_\r\n:-1\r\n");
    assert!(!entry.absent && entry.age == seconds(30));
}

#[test]
fn without_pushes_a_value_is_good_for_the_ttl_of_its_rule() {
    let mut bench = Bench::at(Standing::Timed, None);
    bench.order("GET", "k");
    bench.feed(&format!("{K}:-1\r\n"));
    assert_eq!(bench.told().age, 0, "no rule names a ttl");
    bench.terms.ttl = Some(Duration::from_secs(7));
    for (life, age) in [(-1, 7), (2000, 2), (90_000, 7)] {
        bench.order("GET", "k");
        bench.feed(&format!("{K}:{life}\r\n"));
        let entry = bench.told();
        assert!(entry.timed);
        assert_eq!(entry.age, seconds(age));
    }
    bench.order("GET", "k");
    bench.tracker.lose();
    bench.feed(&format!("{K}:-1\r\n"));
    assert_eq!(bench.told().age, seconds(7), "it needs no pushes");
}

#[test]
fn a_push_at_any_place_before_the_end_bars_the_fill() {
    let parts = ["+OK\r\n", K, ":-1\r\n"];
    for place in 0..3 {
        for push in [push(&["other", "k"]), NULL_PUSH.to_owned()] {
            let mut bench = Bench::new();
            bench.order("GET", "k");
            for (at, part) in parts.iter().enumerate() {
                if at == place {
                    bench.feed(&push);
                }
                bench.feed(part);
            }
            let entry = bench.told();
            assert_eq!((entry.reply(), entry.age), (K.as_bytes(), 0));
            assert_eq!(bench.fills(), [0, 1, 0, 0]);
        }
    }
    let mut bench = Bench::new();
    bench.order("GET", "k");
    bench.feed(&format!("+OK\r\n{}{K}:-1\r\n", push(&["other"])));
    assert_eq!(bench.fills(), [1, 0, 0, 0]);
}

#[test]
fn each_rule_can_be_left_out_and_is_missed() {
    for (rule, said) in [
        (Rule::Pushes, push(&["k"])),
        (Rule::Stamps, push(&["k"])),
        (Rule::NullPushes, NULL_PUSH.to_owned()),
    ] {
        let mut bench = Bench::at(Standing::Tracking, Some(rule));
        bench.order("GET", "k");
        bench.feed(&format!("+OK\r\n{K}{said}:-1\r\n"));
        assert_eq!(bench.fills(), [1, 0, 0, 0], "{rule:?}");
    }
    for (rule, fills) in [(None, [0, 1, 0, 0]), (Some(Rule::LostLink), [1, 0, 0, 0])] {
        let mut bench = Bench::at(Standing::Tracking, rule);
        bench.order("GET", "k");
        bench.tracker.lose();
        bench.feed(&format!("+OK\r\n{K}:-1\r\n"));
        assert_eq!(bench.fills(), fills);
    }
}

#[test]
fn a_push_touches_every_key_it_names_and_a_null_everything() {
    let mut bench = Bench::new();
    let stamp = |key: &str| {
        let stamps = &bench.l1.stamps;
        stamps.arm(stamps.place(stamps.hash(key.as_bytes())))
    };
    let (a, b, c) = (stamp("a"), stamp("b"), stamp("c"));
    bench.feed(&push(&["a", "b"]));
    let l1 = bench.l1.clone();
    let stand = || [a, b, c].map(|stamp| l1.stamps.stands(&stamp, false));
    assert_eq!(stand(), [false, false, true]);
    bench.feed(">2\r\n$21\r\ntracking-redir-broken\r\n:7\r\n");
    assert_eq!(stand(), [false, false, true]);
    bench.feed(NULL_PUSH);
    assert_eq!(stand(), [false; 3]);
    let c = &bench.stats.counters;
    assert_eq!(
        [&c.l1_pushes, &c.l1_pushed_keys, &c.l1_flushes].map(|c| c.get()),
        [2, 2, 1]
    );
}

#[test]
fn a_push_beyond_all_bounds_is_everything_and_takes_no_memory() {
    let mut bench = Bench::new();
    let stamps = &bench.l1.stamps;
    let stamp = stamps.arm(stamps.place(stamps.hash(b"not named")));
    let keys: Vec<String> = (0..100_000).map(|i| format!("key:{i}")).collect();
    let frame = push(&keys.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(frame.len() > cutter::MAX_PUSH);
    for chunk in frame.as_bytes().chunks(10_000) {
        bench.tracked.handle_input(chunk).expect("in step");
        assert!(bench.tracked.cutter.held() <= 2 * cutter::MAX_PUSH);
    }
    assert!(!bench.l1.stamps.stands(&stamp, false));
    bench.one("GET", &format!("{K}:-1\r\n"));
}

/// What a whole conversation leaves behind.
fn played(chunk: usize) -> (Vec<String>, [u64; 4], Now) {
    let mut bench = Bench::new();
    for key in ["a", "b", "c", "d", "e"] {
        bench.order("GET", key);
    }
    bench.tracked.ping(now(300));
    let large = "x".repeat(2000);
    let said = format!(
        "{}+OK\r\n$2\r\nva\r\n:-1\r\n+OK\r\n$2\r\nvb\r\n{}:70\r\n+OK\r\n$2000\r\n{large}\r\n:-1\r\n\
         +OK\r\n-WRONGTYPE no\r\n:-1\r\n+OK\r\n_\r\n:-2\r\n{}",
        push(&["x"]),
        push(&["b", "y"]),
        push(&["z"])
    );
    for piece in said.as_bytes().chunks(chunk) {
        bench.tracked.handle_input(piece).expect("in step");
    }
    let told = bench.tracked.take_told();
    let told = told.iter().map(|(from, ticket, answer)| {
        let answer = answer.as_ref().map(|entry| {
            let reply = String::from_utf8_lossy(entry.reply());
            format!("{reply} {} {}", entry.age, entry.absent)
        });
        format!("{from} {ticket} {answer:?}")
    });
    (told.collect(), bench.fills(), bench.tracker.heard())
}

#[test]
fn pipelined_orders_are_answered_in_turn_in_whatever_pieces_the_replies_come() {
    let (told, fills, heard) = played(usize::MAX);
    assert_eq!(
        told,
        [
            "1 0 Some(\"$2\\r\\nva\\r\\n 30000000 false\")",
            "1 1 Some(\"$2\\r\\nvb\\r\\n 0 false\")",
            "1 2 Some(\" 5000000 false\")",
            "1 3 Some(\"-WRONGTYPE no\\r\\n 5000000 false\")",
            "1 4 Some(\"_\\r\\n 1000000 true\")",
        ]
    );
    assert_eq!(fills, [2, 1, 1, 1]);
    assert_eq!(heard, now(104));
    for chunk in [1, 2, 3, 7, 64, 500] {
        assert_eq!(played(chunk), (told.clone(), fills, heard), "{chunk}");
    }
}

#[test]
fn an_error_is_the_clients_answer_but_some_are_about_the_connection() {
    let mut bench = Bench::new();
    let entry = bench.one("GET", "-NOPERM no\r\n-NOPERM no\r\n");
    assert_eq!((entry.reply(), entry.age), (&b"-NOPERM no\r\n"[..], 0));
    assert_eq!(bench.one("GET", &format!("{K}-NOPERM no\r\n")).age, 0);
    assert_eq!(bench.fills(), [0, 0, 0, 2]);
    for error in [
        "-READONLY r\r\n",
        "-NOAUTH n\r\n",
        "-LOADING l\r\n",
        "-MASTERDOWN m\r\n",
    ] {
        let mut bench = Bench::new();
        bench.order("GET", "k");
        let said = format!("+OK\r\n{error}");
        let broken = bench.tracked.handle_input(said.as_bytes());
        assert!(matches!(broken, Err(Broken::Refused(_))), "{error}");
    }
    let mut bench = Bench::new();
    bench.order("GET", "k");
    let broken = bench.tracked.handle_input(b"-ERR not tracking\r\n");
    assert_eq!(broken, Err(Broken::Refused("ERR not tracking".to_owned())));
    let mut bench = Bench::new();
    bench.order("GET", "k");
    bench.feed(&format!("-BUSY script\r\n{K}:-1\r\n"));
    assert_eq!(bench.told().age, 0, "nothing would be pushed");
}

#[test]
fn what_is_out_of_step_ends_the_connection() {
    for said in ["+OK\r\n", "+OK\r\n:1\r\n+OK\r\n", "hello", ":1\r\n"] {
        let mut bench = Bench::new();
        if said != "+OK\r\n" {
            bench.order("GET", "k");
        }
        let broken = bench.tracked.handle_input(said.as_bytes());
        assert!(matches!(broken, Err(Broken::Protocol(_))), "{said}");
    }
    let mut bench = Bench::new();
    bench.tracked.ping(now(1));
    assert!(bench.tracked.handle_input(b"+OK\r\n").is_err());
}

#[test]
fn a_ping_renews_the_lease_and_is_left_out_where_another_reply_will() {
    let mut bench = Bench::new();
    bench.tracked.ping(now(700));
    assert_eq!(bench.tracked.take_output(), PING);
    bench.tracked.ping(now(800));
    bench.order("GET", "k");
    bench.tracked.take_output();
    bench.tracked.ping(now(900));
    assert!(bench.tracked.take_output().is_empty());
    assert!(
        bench
            .tracker
            .is_stuck(now(701 + seconds(1)), Duration::from_secs(1))
    );
    bench.feed("+PONG\r\n");
    assert_eq!(bench.tracker.heard(), now(700));
    bench.feed("+OK\r\n");
    assert_eq!(bench.tracker.heard(), now(700), "ordered before");
}

#[test]
fn who_has_waited_too_long_is_told_once_and_the_answer_is_kept_for_others() {
    let mut bench = Bench::new();
    let ticket = bench.order("GET", "k");
    let oldest = bench
        .tracked
        .expire(now(100 + 50), Duration::from_micros(50));
    assert_eq!(oldest, Some(now(100)));
    assert!(bench.tracked.take_told().is_empty());
    for _ in 0..2 {
        bench
            .tracked
            .expire(now(100 + 51), Duration::from_micros(50));
    }
    let told = bench.tracked.take_told();
    assert!(matches!(&told[..], [(1, t, None)] if *t == ticket));
    bench.feed(&format!("+OK\r\n{K}:-1\r\n"));
    assert!(bench.tracked.take_told().is_empty());
    assert_eq!(bench.fills(), [1, 0, 0, 0]);
}

#[test]
fn a_lost_connection_answers_nothing_and_ends_what_came_over_it() {
    let mut bench = Bench::new();
    let link = bench.tracker.link();
    bench.order("GET", "a");
    bench.order("GET", "b");
    bench.feed("+OK\r\n");
    bench.tracked.lose();
    let told = bench.tracked.take_told();
    assert!(matches!(&told[..], [(1, 0, None), (1, 1, None)]));
    assert_eq!(bench.tracker.link(), link + 1);
    assert!(!bench.tracked.is_owed() && bench.tracked.take_output().is_empty());
    assert!(!bench.tracker.is_stuck(now(seconds(99)), Duration::ZERO));
}

fn identity(server: &str, version: &str) -> Identity {
    Identity {
        server: server.to_owned(),
        version: version.to_owned(),
        ..Identity::default()
    }
}

fn reason(verdict: Verdict) -> String {
    match verdict {
        Verdict::Tracking => panic!("it tracks"),
        Verdict::Without { reason, .. } => reason,
    }
}

/// The verdict on a server that answers INFO so, and what comes after TRACKING ON so.
fn asked(infos: &str, tracking: &str, canary: &str) -> Verdict {
    let mut setup = Setup::new(&identity("redis", "7.0.15"), 7).expect("worth asking");
    for (said, begins) in [
        (infos, "*2\r\n$4\r\nINFO"),
        (tracking, "*4\r\n$6\r\nCLIENT\r\n$8\r\nTRACKING"),
        (canary, "*3\r\n$6\r\nCLIENT\r\n$7\r\nCACHING"),
    ] {
        let sent = String::from_utf8(setup.take_output()).expect("text");
        assert!(sent.starts_with(begins), "{sent}");
        let mut verdict = None;
        for byte in said.as_bytes() {
            assert_eq!(verdict, None, "nothing more is owed");
            verdict = setup.handle_input(&[*byte]).expect("in step");
        }
        if let Some(verdict) = verdict {
            return verdict;
        }
    }
    panic!("no verdict");
}

const INFOS: &str = "$5\r\na:b\r\n\r\n$0\r\n\r\n";
const CANARY: &str = "nearkey:canary:0000000000000007";

#[test]
fn versions_and_products_that_push_out_of_order_are_not_asked() {
    for (server, version, word) in [
        ("redis", "6.0.16", "6.2.11"),
        ("redis", "6.2.10", "6.2.11"),
        ("redis", "7.0.9", "7.0.10"),
        ("redis", "6.3.4", "KeyDB"),
        ("keydb", "6.3.4", "KeyDB"),
        ("redis", "df-v1.40.1", "Dragonfly"),
        ("dragonfly", "1.40.1", "Dragonfly"),
    ] {
        let verdict = Setup::new(&identity(server, version), 7).expect_err("not asked");
        let reason = reason(verdict);
        assert!(reason.contains(word), "{server} {version}: {reason}");
    }
    for version in [
        "6.2.11",
        "6.2.14",
        "7.0.10",
        "7.2.4",
        "8.0",
        "255.255.255",
        "unknown",
    ] {
        assert!(
            Setup::new(&identity("redis", version), 7).is_ok(),
            "{version}"
        );
    }
}

#[test]
fn a_product_in_disguise_is_known_by_its_info() {
    let bulk = |text: &str| format!("${}\r\n{text}\r\n", text.len());
    let dragonfly = bulk("# Server\r\nredis_version:7.4.0\r\ndragonfly_version:df-v1\r\n");
    let said = reason(asked(&format!("{dragonfly}-ERR no\r\n"), "", ""));
    assert!(said.contains("Dragonfly"));
    let keydb = bulk("# KeyDB\r\nmvcc_depth:0\r\n");
    let said = reason(asked(&format!("-NOPERM no\r\n{keydb}"), "", ""));
    assert!(said.contains("KeyDB"));
}

#[test]
fn the_canary_must_be_pushed_behind_the_write_and_before_what_follows() {
    let push = push(&["other", CANARY]);
    let good = format!("+OK\r\n:0\r\n+OK\r\n{push}+PONG\r\n:999\r\n:1\r\n");
    assert_eq!(asked(INFOS, "+OK\r\n", &good), Verdict::Tracking);
    for bad in [
        "+OK\r\n:0\r\n+OK\r\n+PONG\r\n:999\r\n:1\r\n".to_owned(),
        format!("+OK\r\n:0\r\n{push}+OK\r\n+PONG\r\n:999\r\n:1\r\n"),
        format!("+OK\r\n:0\r\n+OK\r\n+PONG\r\n{push}:999\r\n:1\r\n"),
        good.replace("canary", "canari"),
        good.replace(&push, NULL_PUSH),
    ] {
        let said = reason(asked(INFOS, "+OK\r\n", &bad));
        assert!(said.contains("no push"), "{said}");
    }
    let said = reason(asked(INFOS, "-ERR unknown subcommand 'tracking'\r\n", ""));
    assert!(said.contains("CLIENT TRACKING: ERR unknown"), "{said}");
    let denied = good.replace(":999\r\n", "-NOPERM no 'pttl'\r\n");
    let said = reason(asked(INFOS, "+OK\r\n", &denied));
    assert!(
        said.contains("PTTL") && said.contains("nearkey:canary:*"),
        "{said}"
    );
    let replica = "+OK\r\n:0\r\n-READONLY r\r\n+PONG\r\n:-2\r\n-READONLY r\r\n";
    let verdict = asked(INFOS, "+OK\r\n", replica);
    assert!(matches!(verdict, Verdict::Without { passing: true, .. }));
}

#[test]
fn rules_say_whether_to_track_and_whether_to_go_by_age() {
    use crate::l1::config::Rule as Stated;
    let plan = |mode, rule_mode, ttl: Option<u64>| {
        let config = Config {
            mode,
            rules: vec![Stated {
                pattern: b"*".to_vec(),
                verb: Verb::Cache,
                mode: rule_mode,
                ttl: ttl.map(Duration::from_secs),
                max_age: None,
                max_value: None,
                stale_if_down: None,
            }],
            ..Config::default()
        };
        let Plan { tracks, times } = Plan::new(&config);
        (tracks, times)
    };
    assert_eq!(plan(Mode::Auto, None, None), (true, false));
    assert_eq!(plan(Mode::Auto, None, Some(5)), (true, true));
    assert_eq!(plan(Mode::Tracking, None, Some(5)), (true, false));
    assert_eq!(plan(Mode::Ttl, None, Some(5)), (false, true));
    assert_eq!(
        plan(Mode::Tracking, Some(Mode::Ttl), Some(5)),
        (false, true)
    );
    assert_eq!(plan(Mode::Observe, None, None), (false, false));
}
