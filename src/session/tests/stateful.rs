//! Transactions, and what holds a leased connection.

use super::*;

fn plain() -> Terms {
    Handling::Pass.into()
}

impl Bench {
    fn with_lease() -> Self {
        let mut bench = Self::new(None);
        bench.script.lease = Some(Ok(()));
        bench
    }

    /// The upstream answers one command on the leased connection.
    fn leased_reply(&mut self, reply: &str) {
        if self.session.is_judging() && self.session.judge(reply.as_bytes()) {
            self.script.tainted = false;
        }
        self.reply(reply, 1);
    }

    fn leased(&self) -> Vec<Vec<u8>> {
        self.script.leased.iter().map(|(b, ..)| b.clone()).collect()
    }
}

#[test]
fn a_transaction_leaves_as_one_block_with_its_first_replies_hidden() {
    let pipeline = script(&["MULTI", "SET a 1", "GET a", "EXEC"]);
    for cut in 0..=pipeline.len() {
        let mut bench = Bench::new(None);
        bench.say(&pipeline[..cut]);
        bench.say(&pipeline[cut..]);
        assert_eq!(bench.out(), "+OK\r\n+QUEUED\r\n+QUEUED\r\n");
        let (_, block, count, terms) = &bench.script.forwarded[0];
        assert_eq!((block, *count), (&pipeline, 4), "cut at {cut}");
        assert_eq!(
            *terms,
            Terms {
                hidden: 3,
                ..plain()
            }
        );
        assert_eq!(bench.session.pending().owed(), 1);
        bench.reply("*2\r\n+OK\r\n$1\r\n1\r\n", 1);
        bench.out();
        bench.say(cmd("GET b"));
        assert_eq!(bench.counts(), [4, 1]);
    }
}

#[test]
fn what_redis_refuses_at_queueing_is_refused_here_and_aborts() {
    for (words, error) in [
        (
            "GET",
            "-ERR wrong number of arguments for 'get' command\r\n",
        ),
        (
            "NOSUCH x",
            "-ERR unknown command 'NOSUCH', with args beginning with: 'x' \r\n",
        ),
        ("SAVE", "-ERR Command not allowed inside a transaction\r\n"),
        (
            "CLIENT NOSUCH",
            "-ERR unknown subcommand 'NOSUCH'. Try CLIENT HELP.\r\n",
        ),
        (
            "SHUTDOWN",
            "-ERR Nearkey: 'SHUTDOWN' is refused by the setting commands.deny\r\n",
        ),
    ] {
        let mut bench = Bench::new(None);
        bench.say(script(&["MULTI", words, "SET a 1", "EXEC", "EXEC"]));
        assert_eq!(
            bench.out(),
            format!(
                "+OK\r\n{error}+QUEUED\r\n-EXECABORT Transaction discarded because of previous \
                 errors.\r\n-ERR EXEC without MULTI\r\n"
            )
        );
        assert!(bench.script.forwarded.is_empty(), "{words}");
    }
}

#[test]
fn what_would_change_a_shared_connection_is_not_queued() {
    for words in [
        "SELECT 1",
        "AUTH x",
        "HELLO 3",
        "CLIENT ID",
        "SUBSCRIBE c",
        "MONITOR",
        "CLIENT TRACKING ON",
    ] {
        let mut bench = Bench::new(None);
        bench.say(script(&["MULTI", words, "EXEC"]));
        let out = bench.out();
        assert!(
            out.contains("is not carried inside MULTI"),
            "{words}: {out}"
        );
        assert!(out.ends_with("-EXECABORT Transaction discarded because of previous errors.\r\n"));
        assert!(bench.script.forwarded.is_empty(), "{words}");
    }
}

#[test]
fn errors_that_redis_gives_without_aborting_do_not_abort() {
    let mut bench = Bench::new(None);
    bench.say(script(&["MULTI", "MULTI", "WATCH a", "SET a 1", "EXEC"]));
    assert_eq!(
        bench.out(),
        "+OK\r\n-ERR MULTI calls can not be nested\r\n-ERR WATCH inside MULTI is not allowed\r\n\
         +QUEUED\r\n"
    );
    assert_eq!(bench.counts(), [3]);
    bench.reply("*1\r\n+OK\r\n", 1);
    bench.out();
    bench.say(script(&["DISCARD", "MULTI", "SET a 1", "DISCARD", "EXEC"]));
    assert_eq!(
        bench.out(),
        "-ERR DISCARD without MULTI\r\n+OK\r\n+QUEUED\r\n+OK\r\n-ERR EXEC without MULTI\r\n"
    );
    assert_eq!(bench.counts(), [3]);
}

#[test]
fn watch_holds_a_leased_connection_until_exec() {
    let mut bench = Bench::with_lease();
    assert_eq!(bench.say(script(&["GET x", "WATCH a"])), Status::Hold);
    bench.reply("0", 1);
    assert_eq!(bench.say(""), Status::NeedInput);
    assert!(bench.session.needs_lease());
    bench.say(script(&["GET a", "MULTI", "SET a 1", "EXEC"]));
    assert_eq!(
        bench.leased(),
        [
            cmd("WATCH a"),
            cmd("GET a"),
            script(&["MULTI", "SET a 1", "EXEC"])
        ]
    );
    assert!(!bench.session.needs_lease());
    assert_eq!(bench.say(cmd("GET b")), Status::Hold, "replies are owed");
    bench.leased_reply("+OK\r\n");
    bench.leased_reply("1");
    bench.leased_reply("*-1\r\n");
    assert_eq!(bench.say(""), Status::NeedInput);
    assert_eq!(bench.counts(), [1, 1]);
    assert!(!bench.script.tainted);
}

#[test]
fn discard_and_an_aborted_exec_end_the_watch_on_the_server_too() {
    for (words, reply) in [
        (vec!["MULTI", "DISCARD"], "+OK\r\n+OK\r\n"),
        (
            vec!["MULTI", "GET", "EXEC"],
            "+OK\r\n-ERR wrong number of arguments for 'get' command\r\n\
             -EXECABORT Transaction discarded because of previous errors.\r\n",
        ),
    ] {
        let mut bench = Bench::with_lease();
        bench.say(cmd("WATCH a"));
        bench.leased_reply("+OK\r\n");
        bench.out();
        bench.say(script(&words));
        assert_eq!(bench.out(), reply);
        assert_eq!(bench.leased(), [cmd("WATCH a"), cmd("UNWATCH")]);
        assert_eq!(
            bench.script.leased[1].2,
            Terms {
                hidden: 1,
                ..plain()
            }
        );
        assert!(!bench.session.needs_lease());
    }
}

#[test]
fn a_blocking_command_travels_alone_and_may_take_its_time() {
    let mut bench = Bench::with_lease();
    bench.say(script(&["BLPOP q 0", "GET a"]));
    assert!(bench.session.is_blocked() && !bench.session.needs_lease());
    assert_eq!(
        bench.script.leased[0].2,
        Terms {
            patient: true,
            ..plain()
        }
    );
    assert!(bench.script.forwarded.is_empty());
    bench.leased_reply("*-1\r\n");
    assert!(!bench.session.is_blocked());
    assert_eq!(bench.say(""), Status::NeedInput);
    assert_eq!(bench.counts(), [1]);
}

#[test]
fn wait_is_told_of_everything_written_before() {
    let mut bench = Bench::with_lease();
    bench.say(cmd("WAIT 1 100"));
    let (bytes, count, terms) = &bench.script.leased[0];
    assert!(bytes.starts_with(b"*3\r\n$7\r\nPUBLISH") && bytes.ends_with(&cmd("WAIT 1 100")));
    assert_eq!((*count, terms.hidden, terms.patient), (2, 1, true));
}

#[test]
fn blocking_commands_are_queued_like_others() {
    let mut bench = Bench::new(None);
    bench.say(script(&["MULTI", "BLPOP q 0", "EXEC"]));
    assert_eq!(bench.counts(), [3]);
}

#[test]
fn a_state_that_the_server_denies_does_not_hold_the_connection() {
    for (words, denied) in [
        ("CLIENT TRACKING ON", "-ERR no\r\n"),
        ("MONITOR", "-NOPERM no\r\n"),
        ("READONLY", "-ERR no cluster\r\n"),
        ("NOSUCH x", "-ERR unknown command 'NOSUCH'\r\n"),
    ] {
        let mut bench = Bench::with_lease();
        assert_eq!(
            bench.say(script(&[words, "GET a"])),
            Status::Hold,
            "{words}"
        );
        assert!(bench.session.needs_lease() && bench.script.tainted);
        bench.leased_reply(denied);
        assert!(!bench.session.needs_lease(), "{words}");
        // What the server does not know has done nothing: its connection is good for others.
        assert_eq!(bench.script.tainted, words != "NOSUCH x", "{words}");
        assert_eq!(bench.say(""), Status::NeedInput);
        assert_eq!(bench.counts(), [1]);
    }
    // Beside another state that was not all.
    let mut bench = Bench::with_lease();
    for (words, reply) in [
        ("CLIENT TRACKING ON", "+OK\r\n"),
        ("NOSUCH x", "-ERR unknown command 'NOSUCH'\r\n"),
    ] {
        bench.say(cmd(words));
        bench.leased_reply(reply);
    }
    assert!(bench.session.needs_lease() && bench.script.tainted);
}

#[test]
fn a_state_holds_the_connection_until_it_is_left() {
    for (enter, reply, leave) in [
        ("CLIENT TRACKING ON", "+OK\r\n", "CLIENT TRACKING OFF"),
        ("NOSUCH x", "-WRONGTYPE no\r\n", "RESET"),
        ("READONLY", "+OK\r\n", "RESET"),
    ] {
        let mut bench = Bench::with_lease();
        bench.say(cmd(enter));
        bench.leased_reply(reply);
        bench.say(cmd("GET a"));
        assert_eq!(bench.leased(), [cmd(enter), cmd("GET a")]);
        bench.leased_reply("1");
        bench.say(cmd(leave));
        if bench.session.pending().owed() > 0 {
            bench.leased_reply("+OK\r\n");
        }
        assert!(
            !bench.session.needs_lease() && bench.script.tainted,
            "{enter}"
        );
        bench.say(cmd("GET b"));
        assert_eq!(bench.counts(), [1], "{enter}");
    }
}

#[test]
fn monitor_answers_what_is_local_and_sends_nothing_more() {
    let mut bench = Bench::with_lease();
    bench.say(cmd("MONITOR"));
    assert!(bench.script.lines);
    bench.leased_reply("+OK\r\n");
    bench.out();
    bench.say(script(&["PING", "GET a", "MULTI", "RESET", "GET a"]));
    let out = bench.out();
    assert!(
        out.starts_with("+PONG\r\n-ERR Replica can't interact with the keyspace\r\n-ERR Nearkey"),
        "{out}"
    );
    assert!(out.ends_with("+RESET\r\n"));
    assert_eq!(bench.counts(), [1]);
    assert_eq!(bench.leased().len(), 1);
}

#[test]
fn reset_and_select_leave_no_trace_on_a_watched_connection() {
    let mut bench = Bench::with_lease();
    bench.say(cmd("WATCH a"));
    bench.leased_reply("+OK\r\n");
    bench.say(cmd("SELECT 2"));
    assert_eq!(bench.leased()[1], cmd("SELECT 2"));
    assert!(bench.script.tainted);
    bench.leased_reply("+OK\r\n");
    bench.say(script(&["MULTI", "RESET", "EXEC"]));
    bench.out();
    bench.say(cmd("GET a"));
    assert_eq!(bench.script.forwarded[0].0.db, 0);
}

#[test]
fn nothing_is_heard_behind_a_command_that_blocks() {
    let mut bench = Bench::with_lease();
    for after in ["QUIT", "RESET", "PING", "MULTI"] {
        bench.say(cmd("BLPOP q 0"));
        assert_eq!(bench.say(cmd(after)), Status::Hold, "{after}");
        assert!(bench.session.is_blocked() && bench.out().is_empty());
        bench.leased_reply("*-1\r\n");
        bench.say("");
        bench.out();
        bench.say(cmd("RESET"));
        bench.out();
        bench.input.clear();
    }
    bench.say(cmd("BLPOP q 0"));
    assert_eq!(
        bench.say("*1\r\n$-7\r\n"),
        Status::Hold,
        "not even nonsense"
    );
}

#[test]
fn a_large_request_waits_for_the_replies_on_a_connection_that_is_held() {
    let mut bench = Bench::with_lease();
    let mut bytes = script(&["WATCH k", "GET a"]);
    let large = cmd(&format!("SET big {}", "v".repeat(5000)));
    bytes.extend_from_slice(&large[..2000]);
    assert_eq!(bench.say(&bytes), Status::Hold);
    assert!(bench.script.streamed.is_empty());
    bench.leased_reply("+OK\r\n");
    bench.leased_reply("1");
    bench.say(&large[2000..3000]);
    bench.say(&large[3000..]);
    assert!(bench.script.streamed == large);
}

#[test]
fn a_state_is_asked_for_only_when_no_other_reply_could_be_taken_for_its_own() {
    let mut bench = Bench::with_lease();
    bench.say(cmd("WATCH k"));
    bench.leased_reply("+OK\r\n");
    let line = script(&["LPUSH text x", "CLIENT TRACKING ON"]);
    assert_eq!(bench.say(line), Status::Hold);
    assert_eq!(bench.leased().len(), 2);
    bench.leased_reply("-WRONGTYPE\r\n");
    bench.say("");
    bench.leased_reply("+OK\r\n");
    bench.say(script(&["UNWATCH", "GET a"]));
    assert_eq!(bench.leased().last(), Some(&cmd("GET a")));
}

#[test]
fn a_client_that_closes_itself_is_not_heard_any_more() {
    let mut bench = Bench::new(None);
    bench.script.answer = Some(b":1\r\n".to_vec());
    bench.script.killed = true;
    let line = script(&["CLIENT KILL ID 7 SKIPME no", "SET a 1"]);
    assert_eq!(bench.say(line), Status::Close);
    assert_eq!(bench.out(), ":1\r\n");
    assert!(bench.script.forwarded.is_empty());
}

#[test]
fn nothing_of_a_transaction_is_sent_for_a_user_who_may_not_use_multi() {
    let mut bench = Bench::new(None);
    bench.script.no_multi = true;
    bench.say(script(&["MULTI", "SET a 1", "EXEC"]));
    assert!(
        bench
            .out()
            .ends_with("-NOPERM this user has no permissions to run the 'multi' command\r\n")
    );
    assert!(bench.script.forwarded.is_empty());
}

#[test]
fn a_large_transaction_travels_on_a_leased_connection() {
    let mut bench = Bench::with_lease();
    let set = format!("SET a {}", "v".repeat(2000));
    bench.say(script(&["MULTI", &set, "EXEC"]));
    assert_eq!(bench.script.leased[0].1, 3);
    assert!(!bench.session.needs_lease());
    assert_eq!(bench.say(cmd("GET a")), Status::Hold);
}

#[test]
fn a_client_that_hears_no_replies_still_has_its_transaction() {
    let mut bench = Bench::new(None);
    bench.say(script(&["CLIENT REPLY OFF", "MULTI", "SET a 1", "EXEC"]));
    assert_eq!(bench.out(), "");
    let (_, _, count, terms) = &bench.script.forwarded[0];
    assert_eq!((*count, terms.hidden), (3, 2));
    assert_eq!(terms.handling, Handling::Discard);
}
