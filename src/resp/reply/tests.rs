//! What a server may send, rule by rule.

use super::*;

fn scan(input: &[u8]) -> Result<(usize, ReplyKind, u32), ReplyError> {
    let mut scanner = ReplyScanner::new();
    match scanner.scan(input)? {
        ReplyScan::Complete { consumed, kind } => {
            assert!(scanner.is_idle());
            assert_eq!(scanner.completed(), consumed as u64);
            Ok((consumed, kind, scanner.depth()))
        }
        ReplyScan::Incomplete => panic!("{:?} is incomplete", input.escape_ascii().to_string()),
    }
}

fn whole(input: &[u8], kind: ReplyKind, depth: u32) {
    let padded = [input, b"+more"].concat();
    let text = input.escape_ascii().to_string();
    assert_eq!(scan(&padded), Ok((input.len(), kind, depth)), "{text}");
}

fn fault(input: &[u8]) -> String {
    let text = input.escape_ascii();
    let mut scanner = ReplyScanner::new();
    let Err(error) = scanner.scan(input) else {
        panic!("{text} is no error")
    };
    assert_eq!(
        scanner.scan(b"+OK\r\n"),
        Err(error.clone()),
        "an error stays"
    );
    let mut scanner = ReplyScanner::new();
    let bytewise = input.chunks(1).find_map(|byte| scanner.scan(byte).err());
    assert_eq!(
        bytewise,
        Some(error.clone()),
        "the cuts of {text} change nothing"
    );
    error.0
}

#[test]
fn scalars_of_both_protocols() {
    for input in [
        "+OK\r\n",
        "+\r\n",
        ":0\r\n",
        ":-9223372036854775808\r\n",
        ":9223372036854775807\r\n",
        "$0\r\n\r\n",
        "$3\r\na\r\n\r\n",
        "$-1\r\n",
        "*-1\r\n",
        "_\r\n",
        "#t\r\n",
        "#f\r\n",
        ",1.5\r\n",
        ",-inf\r\n",
        ",nan\r\n",
        ",1e+21\r\n",
        "(123456789012345678901234567890\r\n",
        "(-1\r\n",
        "=4\r\ntxt:\r\n",
        "=8\r\nmkd:# hi\r\n",
    ] {
        whole(input.as_bytes(), ReplyKind::Reply, 0);
    }
    whole(b"-ERR no\r\n", ReplyKind::Error, 0);
    whole(b"!6\r\nERR no\r\n", ReplyKind::Error, 0);
}

#[test]
fn aggregates_of_both_protocols() {
    whole(b"*0\r\n", ReplyKind::Reply, 1);
    whole(b"%0\r\n", ReplyKind::Reply, 1);
    whole(b"*2\r\n-ERR inside\r\n$1\r\nx\r\n", ReplyKind::Reply, 1);
    whole(b"%1\r\n+k\r\n*2\r\n:1\r\n~1\r\n:2\r\n", ReplyKind::Reply, 3);
    whole(b"*3\r\n*0\r\n*1\r\n*0\r\n*-1\r\n", ReplyKind::Reply, 3);
    whole(
        b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n",
        ReplyKind::Push,
        2,
    );
}

#[test]
fn an_attribute_belongs_to_what_follows() {
    whole(b"|1\r\n+ttl\r\n:9\r\n-ERR x\r\n", ReplyKind::Error, 1);
    whole(b"|0\r\n|0\r\n+OK\r\n", ReplyKind::Reply, 1);
    whole(
        b"|1\r\n+a\r\n*1\r\n:1\r\n>1\r\n+push\r\n",
        ReplyKind::Push,
        2,
    );
    whole(
        b"*2\r\n|1\r\n+a\r\n:1\r\n:1\r\n|1\r\n+b\r\n:1\r\n*0\r\n",
        ReplyKind::Reply,
        2,
    );
    assert_eq!(
        ReplyScanner::new().scan(b"|1\r\n+a\r\n:1\r\n"),
        Ok(ReplyScan::Incomplete)
    );
    assert_eq!(
        ReplyScanner::new().scan(b"*1\r\n|1\r\n+a\r\n:1\r\n"),
        Ok(ReplyScan::Incomplete)
    );
}

#[test]
fn what_is_no_reply_is_an_error() {
    let table: &[(&[u8], &str)] = &[
        (b"x", "type"),
        (b"\r\n", "type"),
        (b"\x16\x03", "type"),
        (b";4\r\n", "type"),
        (b"*1\r\n?", "type"),
        (b"HTTP/1.1 400\r\n", "type"),
        (b"$?\r\n", "no number"),
        (b"*?\r\n", "no number"),
        (b"%\r\n", "no number"),
        (b":\r\n", "no number"),
        (b":+1\r\n", "no number"),
        (b":1.5\r\n", "no number"),
        (b":9223372036854775808\r\n", "no number"),
        (b":111111111111111111111", "no number"),
        (b"$01\r\n", "no number"),
        (b"$-2\r\n", "bulk string of an impossible length"),
        (b"!-1\r\n", "bulk string of an impossible length"),
        (b"=3\r\ntxt\r\n", "bulk string of an impossible length"),
        (b"=-1\r\n", "bulk string of an impossible length"),
        (b"$4294967297\r\n", "bulk string of an impossible length"),
        (b"*-2\r\n", "aggregate of an impossible length"),
        (b"%-1\r\n", "aggregate of an impossible length"),
        (b"*2147483649\r\n", "aggregate of an impossible length"),
        (b"%1073741825\r\n", "aggregate of an impossible length"),
        (
            b"*9223372036854775807\r\n",
            "aggregate of an impossible length",
        ),
        (
            b"%9223372036854775807\r\n",
            "aggregate of an impossible length",
        ),
        (b"*1\r\n>1\r\n+x\r\n", "push inside"),
        (b"|1\r\n>1\r\n+x\r\n", "push inside"),
        (b"+a\nb\r\n", "not end in CR LF"),
        (b"+a\rb\r\n", "not end in CR LF"),
        (b":1\rx", "not end in CR LF"),
        (b"_\rx", "not end in CR LF"),
        (b"$1\r\nabc\r\n", "not end in CR LF"),
        (b"$1\r\na\rb", "not end in CR LF"),
        (b"_x\r\n", "is none"),
        (b"#\r\n", "is none"),
        (b"#x\r\n", "is none"),
        (b"#tt\r\n", "is none"),
        (b",\r\n", "is none"),
        (b",12,5\r\n", "is none"),
        (b"(\r\n", "is none"),
        (b"(1-\r\n", "is none"),
    ];
    for (input, words) in table {
        let error = fault(input);
        assert!(
            error.contains(words),
            "{:?}: {error}",
            input.escape_ascii().to_string()
        );
    }
}

#[test]
fn a_line_has_a_limit() {
    let mut line = vec![b'+'];
    line.resize(MAX_REPLY_LINE as usize + 1, b'a');
    let mut scanner = ReplyScanner::new();
    assert_eq!(scanner.scan(&line), Ok(ReplyScan::Incomplete));
    assert!(scanner.clone().scan(b"\r\n").is_ok());
    assert!(
        scanner
            .scan(b"a")
            .expect_err("too long")
            .0
            .contains("too long")
    );
}

fn nested(levels: usize) -> Vec<u8> {
    let mut reply = b"*1\r\n".repeat(levels);
    reply.extend_from_slice(b":1\r\n");
    reply
}

#[test]
fn nesting_is_followed_as_far_as_redis_goes_and_then_refused() {
    whole(&nested(7_995), ReplyKind::Reply, 7_995);
    whole(&nested(MAX_DEPTH as usize), ReplyKind::Reply, MAX_DEPTH);
    assert!(fault(&nested(MAX_DEPTH as usize + 1)).contains("too deeply"));
}

#[test]
fn deep_nesting_is_followed_byte_by_byte() {
    let reply = [&nested(7_995)[..], b":2\r\n"].concat();
    let mut scanner = ReplyScanner::new();
    let mut ends = Vec::new();
    for (at, byte) in reply.iter().enumerate() {
        if let ReplyScan::Complete { .. } = scanner.scan(&[*byte]).expect("fine") {
            ends.push((at + 1, scanner.depth()));
        }
    }
    assert_eq!(ends, [(reply.len() - 4, 7_995), (reply.len(), 0)]);
    assert!(
        scanner.outer.capacity() <= KEPT_LEVELS,
        "memory of deep frames is given back"
    );
}

#[test]
fn flat_replies_take_no_memory() {
    let mut scanner = ReplyScanner::new();
    for input in [
        &b"$2\r\nhi\r\n"[..],
        b"*2\r\n:1\r\n:2\r\n",
        b"%1\r\n:1\r\n:2\r\n",
        b"*2147483648\r\n:1\r\n",
    ] {
        scanner.scan(input).expect("fine");
    }
    assert_eq!(scanner.outer.capacity(), 0);
}

#[test]
fn a_large_reply_is_known_before_it_arrives() {
    let mut scanner = ReplyScanner::new();
    assert_eq!((scanner.consumed(), scanner.at_least()), (0, 0));
    scanner.scan(b"$1000000\r\nabc").expect("fine");
    assert_eq!(
        (scanner.consumed(), scanner.at_least()),
        (13, 10 + 1_000_002)
    );
    let mut scanner = ReplyScanner::new();
    scanner.scan(b"*10\r\n:1\r\n$5\r\n").expect("fine");
    assert_eq!(
        (scanner.consumed(), scanner.at_least()),
        (13, 13 + 7 + 8 * 3)
    );
    let mut scanner = ReplyScanner::new();
    scanner.scan(b"+").expect("fine");
    assert_eq!(scanner.at_least(), 2);
}

#[test]
fn a_push_is_known_while_it_arrives() {
    let mut scanner = ReplyScanner::new();
    assert!(!scanner.is_push());
    scanner.scan(b">1\r\n").expect("fine");
    assert!(scanner.is_push());
    scanner.scan(b"+x\r\n").expect("fine");
    assert!(!scanner.is_push());
    scanner.scan(b"$9\r\n").expect("fine");
    assert!(!scanner.is_push());
}

#[test]
fn the_scanner_is_small() {
    let size = size_of::<ReplyScanner>();
    println!("ReplyScanner: {size} bytes");
    assert!(size <= 96, "{size}");
}
