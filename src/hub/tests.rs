//! A hub against a scripted server and scripted workers.

use std::sync::Arc;

use super::*;
use crate::upstream::reply_to::Failure;

struct Bench {
    hub: Hub,
    census: Arc<Census>,
}

fn name(kind: Kind, text: &str) -> Name {
    Name {
        kind,
        bytes: text.as_bytes().into(),
    }
}

fn channels(texts: &[&str]) -> Vec<Name> {
    texts.iter().map(|t| name(Kind::Channel, t)).collect()
}

fn confirmation(word: &str, name: &str) -> String {
    format!(
        "*3\r\n${}\r\n{word}\r\n${}\r\n{name}\r\n:1\r\n",
        word.len(),
        name.len()
    )
}

fn message(channel: &str, text: &str) -> String {
    format!(
        "*3\r\n$7\r\nmessage\r\n${}\r\n{channel}\r\n${}\r\n{text}\r\n",
        channel.len(),
        text.len()
    )
}

impl Bench {
    fn new() -> Self {
        let census = Arc::new(Census::default());
        Self {
            hub: Hub::new(census.clone()),
            census,
        }
    }

    fn open() -> Self {
        let mut bench = Self::new();
        bench.hub.handle_open();
        bench
    }

    fn join(&mut self, worker: usize, ticket: u64, names: &[&str]) {
        let names = channels(names);
        let request = Request::Join { ticket, names };
        self.hub.handle_request(worker, request, 0);
    }

    fn leave(&mut self, worker: usize, ticket: Option<u64>, names: &[&str]) {
        let names = channels(names);
        let request = Request::Leave { ticket, names };
        self.hub.handle_request(worker, request, 0);
    }

    /// The commands that were sent, a line each.
    fn sent(&mut self) -> String {
        let bytes = self.hub.take_output();
        let mut lines = Vec::new();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let args: Vec<&[u8]> = crate::resp::request::args(rest).collect();
            let words: Vec<_> = args.iter().map(|a| String::from_utf8_lossy(a)).collect();
            lines.push(words.join(" "));
            let mut whole = Vec::new();
            crate::resp::encode::command(&mut whole, &args);
            rest = &rest[whole.len()..];
        }
        lines.join(", ")
    }

    /// The server says something; what the workers are told, messages as their text.
    fn hear(&mut self, frame: &str) -> Vec<(usize, String)> {
        self.hub
            .handle_frame(frame.as_bytes(), 0..frame.len())
            .expect("in step");
        self.news(frame)
    }

    fn news(&mut self, frame: &str) -> Vec<(usize, String)> {
        let tell = |letter| match letter {
            Letter::Message {
                name, frame: whole, ..
            } => {
                assert_eq!(whole, 0..frame.len());
                format!("message on {}", &frame[name])
            }
            Letter::Granted(ticket) => format!("granted {ticket}"),
            Letter::Refused(ticket, failure) => format!("refused {ticket} {failure:?}"),
            Letter::Revoked(name) => {
                format!("revoked {}", String::from_utf8_lossy(&name.bytes))
            }
        };
        let news = self.hub.take_news();
        news.into_iter().map(|(to, l)| (to, tell(l))).collect()
    }
}

fn told(worker: usize, what: &str) -> (usize, String) {
    (worker, what.to_owned())
}

#[test]
fn a_client_is_granted_when_all_its_names_are_confirmed() {
    let mut bench = Bench::open();
    bench.join(0, 7, &["a", "b"]);
    assert_eq!(bench.sent(), "SUBSCRIBE a, SUBSCRIBE b");
    assert!(bench.hear(&confirmation("subscribe", "a")).is_empty());
    let done = bench.hear(&confirmation("subscribe", "b"));
    assert_eq!(done, [told(0, "granted 7")]);
    assert_eq!(bench.hub.subscribed(), [2, 0, 0]);
    let heard = bench.hear(&message("a", "x"));
    assert_eq!(heard, [told(0, "message on a")]);
}

#[test]
fn who_joins_a_known_name_asks_the_server_too_and_hears_nothing_before_its_answer() {
    let mut bench = Bench::open();
    bench.join(0, 1, &["a"]);
    bench.hear(&confirmation("subscribe", "a"));
    bench.sent();
    bench.join(1, 2, &["a"]);
    assert_eq!(bench.sent(), "SUBSCRIBE a");
    let early = bench.hear(&message("a", "x"));
    assert_eq!(early, [told(0, "message on a")]);
    let granted = bench.hear(&confirmation("subscribe", "a"));
    assert_eq!(granted, [told(1, "granted 2")]);
    let both = bench.hear(&message("a", "y"));
    assert_eq!(both, [told(0, "message on a"), told(1, "message on a")]);
    assert_eq!(bench.census.adjust(Kind::Channel, b"a", 1), 0);
}

#[test]
fn the_last_worker_unsubscribes_and_hears_all_until_then() {
    let mut bench = Bench::open();
    bench.join(0, 1, &["a"]);
    bench.join(1, 2, &["a"]);
    bench.hear(&confirmation("subscribe", "a"));
    bench.hear(&confirmation("subscribe", "a"));
    bench.sent();
    bench.leave(0, Some(1), &["a"]);
    assert_eq!(bench.sent(), "PING");
    assert_eq!(bench.hear(&message("a", "x")).len(), 2);
    let left = bench.hear("*2\r\n$4\r\npong\r\n$0\r\n\r\n");
    assert_eq!(left, [told(0, "granted 1")]);
    assert_eq!(
        bench.hear(&message("a", "y")),
        [told(1, "message on a")],
        "worker 0 has left"
    );
    bench.leave(1, Some(2), &["a"]);
    assert_eq!(bench.sent(), "UNSUBSCRIBE a");
    assert_eq!(bench.hear(&message("a", "z")), [told(1, "message on a")]);
    let left = bench.hear(&confirmation("unsubscribe", "a"));
    assert_eq!(left, [told(1, "granted 2")]);
    assert!(!bench.hub.is_wanted() && !bench.hub.is_owed());
    assert_eq!(bench.census.adjust(Kind::Channel, b"a", 1), 1);
}

#[test]
fn leaving_and_joining_again_cross_on_the_way_without_harm() {
    let mut bench = Bench::open();
    bench.join(0, 1, &["a"]);
    bench.hear(&confirmation("subscribe", "a"));
    bench.sent();
    bench.leave(0, None, &["a"]);
    bench.join(0, 2, &["a"]);
    assert_eq!(bench.sent(), "UNSUBSCRIBE a, SUBSCRIBE a");
    bench.hear(&confirmation("unsubscribe", "a"));
    let granted = bench.hear(&confirmation("subscribe", "a"));
    assert_eq!(granted, [told(0, "granted 2")]);
    let heard = bench.hear(&message("a", "x"));
    assert_eq!(heard, [told(0, "message on a")]);
}

#[test]
fn a_refused_name_fails_its_client_alone() {
    let mut bench = Bench::open();
    bench.join(0, 1, &["a", "b"]);
    bench.join(0, 2, &["c"]);
    bench.hear(&confirmation("subscribe", "a"));
    let refused = bench.hear("-NOPERM no b\r\n");
    let failure = Failure::Refused("NOPERM no b".to_owned());
    assert_eq!(refused, [told(0, &format!("refused 1 {failure:?}"))]);
    let granted = bench.hear(&confirmation("subscribe", "c"));
    assert_eq!(granted, [told(0, "granted 2")]);
    bench.sent();
    bench.leave(0, None, &["a", "b"]);
    assert_eq!(bench.sent(), "UNSUBSCRIBE a, UNSUBSCRIBE b");
}

#[test]
fn what_was_lost_is_restored_before_anything_new_is_granted() {
    let mut bench = Bench::open();
    bench.join(0, 1, &["a"]);
    bench.hear(&confirmation("subscribe", "a"));
    bench.join(1, 2, &["b"]);
    bench.sent();
    assert_eq!(bench.hub.handle_lost(), 1);
    assert_eq!(bench.census.adjust(Kind::Channel, b"a", 0), 0);
    bench.join(1, 3, &["a"]);
    assert!(bench.hub.is_wanted() && bench.hub.has_joins());
    assert_eq!(bench.sent(), "");
    bench.hub.handle_open();
    assert_eq!(bench.sent(), "SUBSCRIBE a, SUBSCRIBE b, SUBSCRIBE a");
    assert_eq!(bench.hub.restoring(), 1);
    assert!(bench.hear(&confirmation("subscribe", "a")).is_empty());
    assert_eq!(bench.hub.restoring(), 0);
    let heard = bench.hear(&message("a", "x"));
    assert_eq!(heard, [told(0, "message on a")]);
    let granted = bench.hear(&confirmation("subscribe", "b"));
    assert_eq!(granted, [told(1, "granted 2")]);
    let granted = bench.hear(&confirmation("subscribe", "a"));
    assert_eq!(granted, [told(1, "granted 3")]);
}

#[test]
fn who_leaves_while_the_connection_is_lost_has_left() {
    let mut bench = Bench::open();
    bench.join(0, 1, &["a", "b"]);
    bench.hear(&confirmation("subscribe", "a"));
    bench.hear(&confirmation("subscribe", "b"));
    bench.leave(0, Some(1), &["a"]);
    assert_eq!(bench.hub.handle_lost(), 1);
    assert_eq!(bench.news(""), [told(0, "granted 1")]);
    bench.leave(0, Some(1), &["b"]);
    assert_eq!(bench.news(""), [told(0, "granted 1")]);
    assert!(!bench.hub.is_wanted());
    bench.hub.handle_open();
    assert_eq!(bench.sent(), "");
}

#[test]
fn what_may_no_longer_be_subscribed_to_is_revoked() {
    let mut bench = Bench::open();
    bench.join(0, 1, &["a"]);
    bench.hear(&confirmation("subscribe", "a"));
    bench.hub.handle_lost();
    bench.hub.handle_open();
    assert_eq!(bench.hear("-NOPERM no\r\n"), [told(0, "revoked a")]);
    assert_eq!(bench.hub.restoring(), 0);
    bench.leave(0, None, &["a"]);
    bench.hear(&confirmation("unsubscribe", "a"));
    assert!(!bench.hub.is_wanted());
}

#[test]
fn a_user_whom_the_server_no_longer_wants_loses_everything() {
    let mut bench = Bench::open();
    bench.join(0, 1, &["a"]);
    bench.join(1, 2, &["a"]);
    bench.hear(&confirmation("subscribe", "a"));
    bench.hear(&confirmation("subscribe", "a"));
    bench.hub.handle_lost();
    bench.join(0, 3, &["b"]);
    let failure = Failure::Refused("WRONGPASS no".to_owned());
    assert_eq!(bench.hub.revoke(&failure), 1);
    let refused = format!("refused 3 {failure:?}");
    let expected = [
        told(0, &refused),
        told(0, "revoked a"),
        told(1, "revoked a"),
    ];
    assert_eq!(bench.news(""), expected);
    assert_eq!(bench.hub.revoke(&failure), 0, "nobody is told twice");
    assert!(bench.news("").is_empty());
    assert!(bench.hub.is_wanted(), "the workers have not left yet");
    bench.leave(0, None, &["a", "b"]);
    bench.leave(1, None, &["a"]);
    assert!(!bench.hub.is_wanted());
}

#[test]
fn what_the_server_ends_by_itself_is_asked_for_again() {
    let mut bench = Bench::open();
    let request = Request::Join {
        ticket: 1,
        names: vec![name(Kind::Shard, "s")],
    };
    bench.hub.handle_request(0, request, 0);
    assert_eq!(bench.sent(), "SSUBSCRIBE s");
    bench.hear(&confirmation("ssubscribe", "s"));
    bench.hear(&confirmation("sunsubscribe", "s"));
    assert_eq!(bench.sent(), "SSUBSCRIBE s");
    assert_eq!(bench.hear("-MOVED 1 a:1\r\n"), [told(0, "revoked s")]);
}

#[test]
fn who_waits_too_long_is_refused_and_a_late_confirmation_does_no_harm() {
    let mut bench = Bench::open();
    bench.join(0, 1, &["a"]);
    bench.hub.expire(5, &Failure::Busy(3));
    assert_eq!(bench.news(""), [told(0, "refused 1 Busy(3)")]);
    assert!(bench.hear(&confirmation("subscribe", "a")).is_empty());
    bench.leave(0, None, &["a"]);
    bench.hear(&confirmation("unsubscribe", "a"));
    assert!(!bench.hub.is_wanted());
}

#[test]
fn an_answer_out_of_step_ends_the_connection() {
    for frame in [
        confirmation("subscribe", "b"),
        confirmation("psubscribe", "a"),
        "+PONG\r\n".to_owned(),
        "+OK\r\n".to_owned(),
    ] {
        let mut bench = Bench::open();
        bench.join(0, 1, &["a"]);
        let frame = frame.as_bytes();
        assert_eq!(bench.hub.handle_frame(frame, 0..frame.len()), Err(Desync));
    }
    let mut bench = Bench::open();
    let frame = b"-ERR x\r\n";
    assert_eq!(bench.hub.handle_frame(frame, 0..frame.len()), Err(Desync));
    // A message nobody wants any more is no fault.
    assert!(bench.hear(&message("gone", "x")).is_empty());
}

#[test]
fn who_has_left_before_the_connection_came_joins_nothing() {
    let mut bench = Bench::new();
    bench.join(0, 1, &["a", "b"]);
    bench.join(1, 2, &["b"]);
    bench.leave(0, None, &["a"]);
    bench.hub.handle_open();
    assert_eq!(bench.sent(), "SUBSCRIBE b");
    bench.hear(&confirmation("subscribe", "b"));
    bench.hub.handle_lost();
    bench.leave(1, None, &["b"]);
    bench.leave(0, None, &["b"]);
    bench.hub.handle_open();
    assert_eq!(bench.sent(), "");
    assert!(!bench.hub.is_wanted(), "no connection is kept for nobody");
}

#[test]
fn who_leaves_before_the_confirmation_and_a_loss_does_not_join_again() {
    let mut bench = Bench::open();
    bench.join(0, 1, &["a"]);
    bench.leave(0, None, &["a"]);
    assert_eq!(bench.sent(), "SUBSCRIBE a, UNSUBSCRIBE a");
    bench.hub.handle_lost();
    bench.hub.handle_open();
    assert_eq!(bench.sent(), "");
    assert!(!bench.hub.is_wanted());
}
