//! Properties of the scanners: the cuts between reads change nothing, rubbish does no harm, and a
//! second opinion (redis-protocol) agrees.

use super::*;
use proptest::collection::vec;
use proptest::prelude::*;
use redis_protocol::{resp2, resp3};

/// What one scan of a stream came to: the ends found, and the error if one stopped it.
type Outcome<T, E> = (Vec<T>, Option<E>);

/// A command's end in the stream, its kind, count of arguments and first arguments' places.
type Command = (usize, Kind, u32, [Option<std::ops::Range<usize>>; 2]);

/// Splits `bytes` at `cuts`, which may repeat or lie beyond the end.
fn pieces<'a>(bytes: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
    cuts.extend([0, bytes.len()]);
    cuts.sort_unstable();
    cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]).collect()
}

fn scan_requests(pieces: &[&[u8]]) -> Outcome<Command, RequestError> {
    let limits = Limits {
        max_bulk: 100_000,
        ..Limits::default()
    };
    let (mut scanner, mut found, mut at) = (RequestScanner::new(), Vec::new(), 0);
    for piece in pieces {
        let mut rest = *piece;
        loop {
            let least = scanner.at_least();
            match scanner.scan(rest, &limits) {
                Err(error) => return (found, Some(error)),
                Ok(Scan::Incomplete) => {
                    at += rest.len();
                    assert!(scanner.at_least() >= least.max(scanner.consumed()));
                    break;
                }
                Ok(Scan::Complete { consumed, kind }) => {
                    (at, rest) = (at + consumed, &rest[consumed..]);
                    assert!(scanner.completed() >= least && scanner.consumed() == 0);
                    found.push((at, kind, scanner.argc(), [scanner.arg(0), scanner.arg(1)]));
                }
            }
        }
    }
    (found, None)
}

fn scan_replies(pieces: &[&[u8]]) -> Outcome<(usize, ReplyKind, u32), ReplyError> {
    let (mut scanner, mut found, mut at) = (ReplyScanner::new(), Vec::new(), 0);
    for piece in pieces {
        let mut rest = *piece;
        loop {
            let least = scanner.at_least();
            match scanner.scan(rest) {
                Err(error) => return (found, Some(error)),
                Ok(ReplyScan::Incomplete) => {
                    at += rest.len();
                    assert!(scanner.at_least() >= scanner.consumed());
                    break;
                }
                Ok(ReplyScan::Complete { consumed, kind }) => {
                    (at, rest) = (at + consumed, &rest[consumed..]);
                    assert!(scanner.completed() >= least && scanner.consumed() == 0);
                    found.push((at, kind, scanner.depth()));
                }
            }
        }
    }
    (found, None)
}

fn bytewise(bytes: &[u8]) -> Vec<&[u8]> {
    bytes.chunks(1).collect()
}

/// Bytes that any place of the protocol may take for a mark, a number or a line end.
fn tricky(longest: usize) -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        8 => prop::sample::select(&b"\r\n$*0123-:+,_#(!=%~>|tf \0\"'"[..]),
        1 => any::<u8>(),
    ];
    vec(byte, 0..longest)
}

/// Near-misses: pieces of protocol in any order.
fn rubble() -> impl Strategy<Value = Vec<u8>> {
    let tokens: &[&[u8]] = &[
        b"*",
        b"$",
        b"\r\n",
        b"\r",
        b"\n",
        b"1",
        b"3",
        b"0",
        b"-1",
        b"*1\r\n",
        b"*2\r\n",
        b"$3\r\nabc\r\n",
        b"$0\r\n\r\n",
        b"$1\r\nx\r\n",
        b"+OK\r\n",
        b"-ERR\r\n",
        b":1\r\n",
        b"%1\r\n",
        b"~1\r\n",
        b"|1\r\n",
        b">1\r\n",
        b"_\r\n",
        b"#t\r\n",
        b",1.5\r\n",
        b"(12\r\n",
        b"=4\r\ntxt:\r\n",
        b"!1\r\nE\r\n",
        b"PING\r\n",
        b"GET / HTTP/1.1\r\n",
    ];
    vec(prop::sample::select(tokens), 0..24).prop_map(|tokens| tokens.concat())
}

fn hostile() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![tricky(64), rubble(), vec(any::<u8>(), 0..64)]
}

#[derive(Clone, Debug)]
enum Sent {
    Args(Vec<Vec<u8>>),
    Line(Vec<u8>, Kind),
}

impl Sent {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Args(args) => {
                encode::command(out, &args.iter().map(Vec::as_slice).collect::<Vec<_>>())
            }
            Self::Line(line, _) => out.extend_from_slice(line),
        }
    }

    fn expected(&self, from: usize, to: usize) -> Command {
        let Self::Args(args) = self else {
            let Self::Line(_, kind) = self else {
                unreachable!()
            };
            return (to, *kind, 0, [None, None]);
        };
        let header = |len: usize| len.to_string().len() + 3;
        let mut places = [None, None];
        let mut at = header(args.len());
        for (arg, place) in args.iter().zip(&mut places) {
            at += header(arg.len());
            *place = Some(at..at + arg.len());
            at += arg.len() + 2;
        }
        assert!(from + at <= to);
        (
            to,
            Kind::Multibulk,
            u32::try_from(args.len()).expect("few"),
            places,
        )
    }
}

fn sent() -> impl Strategy<Value = Sent> {
    let arg = prop_oneof![4 => tricky(24), 1 => vec(any::<u8>(), 0..2_000)];
    let blank = ["*0\r\n", "*-1\r\n", "*-37\r\n", "\r\n", "\n", "   \r\n"].map(str::as_bytes);
    prop_oneof![
        6 => vec(arg, 1..14).prop_map(Sent::Args),
        2 => "[a-z$:+]{1,12}( [!-~]{0,12}){0,3} ?\r?\n".prop_map(|line| Sent::Line(line.into(), Kind::Inline)),
        1 => prop::sample::select(blank.to_vec()).prop_map(|line| Sent::Line(line.to_vec(), Kind::Empty)),
    ]
}

/// A reply of RESP3, or of RESP2 alone, that redis-protocol understands too.
fn said(protocol: Protocol) -> BoxedStrategy<Value> {
    let line = || {
        vec(
            any::<u8>().prop_filter("a line has no line end", |b| !b"\r\n".contains(b)),
            0..16,
        )
    };
    let utf8 = "[ -~é]{0,16}".prop_map(String::into_bytes);
    let resp2 = prop_oneof![
        line().prop_map(Value::Simple),
        utf8.prop_map(Value::Error),
        any::<i64>().prop_map(Value::Int),
        tricky(40).prop_map(Value::Bulk),
        Just(Value::Null),
    ];
    if protocol == Protocol::Resp2 {
        let nest = |inner| vec(inner, 0..5).prop_map(Value::Array);
        return resp2.prop_recursive(5, 40, 5, nest).boxed();
    }
    let scalar = prop_oneof![
        5 => resp2,
        1 => any::<bool>().prop_map(Value::Bool),
        1 => any::<f64>().prop_filter("equal to itself", |value| !value.is_nan()).prop_map(Value::Double),
        1 => "-?[0-9]{1,40}".prop_map(|digits| Value::BigNumber(digits.into())),
        1 => tricky(20).prop_map(|text| Value::Verbatim { format: *b"txt", text }),
    ];
    scalar
        .prop_recursive(5, 40, 5, |inner| {
            let key = tricky(8).prop_map(Value::Bulk);
            prop_oneof![
                3 => vec(inner.clone(), 0..5).prop_map(Value::Array),
                1 => vec((key, inner), 0..4).prop_map(Value::Map),
                1 => vec(tricky(8).prop_map(Value::Bulk), 0..5).prop_map(Value::Set),
            ]
        })
        .boxed()
}

fn write(out: &mut Vec<u8>, value: &Value, protocol: Protocol) {
    let all =
        |out: &mut Vec<u8>, values: &[Value]| values.iter().for_each(|v| write(out, v, protocol));
    let line = |out: &mut Vec<u8>, mark: u8, text: &[u8]| {
        out.push(mark);
        out.extend_from_slice(text);
        out.extend_from_slice(b"\r\n");
    };
    match value {
        Value::Simple(text) => line(out, b'+', text),
        Value::Error(text) => line(out, b'-', text),
        Value::BigNumber(text) => line(out, b'(', text),
        Value::Int(value) => encode::integer(out, *value),
        Value::Bulk(bytes) => encode::bulk(out, bytes),
        Value::Null => encode::null(out, protocol),
        Value::Bool(value) => encode::boolean(out, protocol, *value),
        Value::Double(value) => encode::double(out, protocol, *value),
        Value::Verbatim { text, .. } => encode::verbatim(out, protocol, "txt", text),
        Value::Array(values) => {
            encode::array_header(out, values.len());
            all(out, values);
        }
        Value::Set(values) => {
            encode::set_header(out, values.len(), protocol);
            all(out, values);
        }
        Value::Push(values) => {
            encode::push_header(out, values.len(), protocol);
            all(out, values);
        }
        Value::Map(pairs) => {
            encode::map_header(out, pairs.len(), protocol);
            for (key, value) in pairs {
                write(out, key, protocol);
                write(out, value, protocol);
            }
        }
    }
}

/// Where redis-protocol finds the end of the first frame.
fn second_opinion(bytes: &[u8], protocol: Protocol) -> Option<usize> {
    match protocol {
        Protocol::Resp2 => resp2::decode::decode_range(bytes)
            .ok()
            .flatten()
            .map(|(_, end)| end),
        Protocol::Resp3 => resp3::decode::complete::decode_range(bytes)
            .ok()
            .flatten()
            .map(|(_, end)| end),
    }
}

fn kind_of(value: &Value) -> ReplyKind {
    match value {
        Value::Error(_) => ReplyKind::Error,
        Value::Push(_) => ReplyKind::Push,
        _ => ReplyKind::Reply,
    }
}

fn stream() -> impl Strategy<Value = (Protocol, Vec<Value>)> {
    let push = vec(said(Protocol::Resp3), 1..4).prop_map(Value::Push);
    let resp3 = prop_oneof![4 => said(Protocol::Resp3), 1 => push];
    prop_oneof![
        vec(said(Protocol::Resp2), 1..6).prop_map(|values| (Protocol::Resp2, values)),
        vec(resp3, 1..6).prop_map(|values| (Protocol::Resp3, values)),
    ]
}

proptest! {
    #[test]
    fn commands_are_found_whatever_the_cuts(sent in vec(sent(), 1..8), cuts in vec(any::<usize>(), 0..12)) {
        let (mut bytes, mut expected) = (Vec::new(), Vec::new());
        for command in &sent {
            let from = bytes.len();
            command.write(&mut bytes);
            expected.push(command.expected(from, bytes.len()));
            if let Sent::Args(sent) = command {
                let found: Vec<_> = args(&bytes[from..]).collect();
                prop_assert_eq!(args(&bytes[from..]).len(), sent.len());
                prop_assert_eq!(&found, sent);
            }
        }
        let expected = (expected, None);
        prop_assert_eq!(&scan_requests(&[&bytes]), &expected);
        prop_assert_eq!(&scan_requests(&pieces(&bytes, &cuts)), &expected);
        prop_assert_eq!(&scan_requests(&bytewise(&bytes)), &expected);
    }

    #[test]
    fn every_cut_of_a_command_is_harmless(sent in sent()) {
        let mut bytes = Vec::new();
        sent.write(&mut bytes);
        bytes.truncate(400);
        let whole = scan_requests(&[&bytes]);
        for cut in 0..=bytes.len() {
            prop_assert_eq!(&scan_requests(&[&bytes[..cut], &bytes[cut..]]), &whole);
        }
    }

    #[test]
    fn hostile_requests_fail_alike_whatever_the_cuts(bytes in hostile(), cuts in vec(any::<usize>(), 0..8)) {
        let whole = scan_requests(&[&bytes]);
        prop_assert_eq!(&scan_requests(&pieces(&bytes, &cuts)), &whole);
        prop_assert_eq!(&scan_requests(&bytewise(&bytes)), &whole);
        prop_assert!(args(&bytes).len() >= args(&bytes).count());
    }

    #[test]
    fn replies_are_found_whatever_the_cuts((protocol, said) in stream(), cuts in vec(any::<usize>(), 0..12)) {
        let (mut bytes, mut expected) = (Vec::new(), Vec::new());
        for value in &said {
            let from = bytes.len();
            write(&mut bytes, value, protocol);
            prop_assert_eq!(second_opinion(&bytes[from..], protocol), Some(bytes.len() - from));
            expected.push((bytes.len(), kind_of(value)));
        }
        let whole = scan_replies(&[&bytes]);
        prop_assert_eq!(&whole.1, &None);
        prop_assert_eq!(whole.0.iter().map(|&(end, kind, _)| (end, kind)).collect::<Vec<_>>(), expected);
        prop_assert_eq!(&scan_replies(&pieces(&bytes, &cuts)), &whole);
        prop_assert_eq!(&scan_replies(&bytewise(&bytes)), &whole);
    }

    #[test]
    fn a_decoded_reply_is_what_was_said((protocol, said) in stream()) {
        for value in said {
            let mut bytes = Vec::new();
            write(&mut bytes, &value, protocol);
            let (found, _) = scan_replies(&[&bytes]);
            prop_assert_eq!(decode(&bytes, found[0].2), Ok(value));
        }
    }

    #[test]
    fn hostile_replies_fail_alike_whatever_the_cuts(bytes in hostile(), cuts in vec(any::<usize>(), 0..8)) {
        let whole = scan_replies(&[&bytes]);
        prop_assert_eq!(&scan_replies(&pieces(&bytes, &cuts)), &whole);
        prop_assert_eq!(&scan_replies(&bytewise(&bytes)), &whole);
        // What the scanner lets through, the decoder may refuse but must survive.
        let mut from = 0;
        for (end, _, depth) in whole.0 {
            let _ = decode(&bytes[from..end], depth);
            from = end;
        }
        let _ = decode(&bytes, 0);
    }

    #[test]
    fn inline_splitting_survives_anything(line in hostile()) {
        if let Ok(words) = inline::split(&line) {
            prop_assert!(words.iter().map(Vec::len).sum::<usize>() <= line.len());
        }
    }

    #[test]
    fn a_quoted_word_comes_back_whole(word in vec(any::<u8>(), 0..40)) {
        let hex: String = word.iter().map(|byte| format!("\\x{byte:02x}")).collect();
        prop_assert_eq!(inline::split(format!("echo \"{hex}\"\r\n").as_bytes()), Ok(vec![b"echo".to_vec(), word]));
    }
}
