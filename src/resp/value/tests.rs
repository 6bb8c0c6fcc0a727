//! What replies mean.

use super::super::{Protocol, ReplyScan, ReplyScanner, encode};
use super::*;

fn read(frame: &[u8]) -> Result<Value, ReplyError> {
    let mut scanner = ReplyScanner::new();
    let scan = scanner.scan(frame).expect("RESP");
    assert!(matches!(scan, ReplyScan::Complete { consumed, .. } if consumed == frame.len()));
    decode(frame, scanner.depth())
}

fn value_of(frame: &[u8]) -> Value {
    read(frame).unwrap_or_else(|error| panic!("{}: {error}", frame.escape_ascii()))
}

fn bulk(text: &str) -> Value {
    Value::Bulk(text.into())
}

#[test]
fn scalars() {
    let table: &[(&[u8], Value)] = &[
        (b"+OK\r\n", Value::Simple(b"OK".to_vec())),
        (b"-ERR \xff\r\n", Value::Error(b"ERR \xff".to_vec())),
        (b"!6\r\nERR \r\n\r\n", Value::Error(b"ERR \r\n".to_vec())),
        (b":-12\r\n", Value::Int(-12)),
        (b"$2\r\n\0\xff\r\n", Value::Bulk(vec![0, 255])),
        (b"$-1\r\n", Value::Null),
        (b"*-1\r\n", Value::Null),
        (b"_\r\n", Value::Null),
        (b"#t\r\n", Value::Bool(true)),
        (b",-1.5e3\r\n", Value::Double(-1500.0)),
        (b",-inf\r\n", Value::Double(f64::NEG_INFINITY)),
        (
            b"(-123456789012345678901\r\n",
            Value::BigNumber(b"-123456789012345678901".to_vec()),
        ),
        (
            b"=6\r\ntxt:hi\r\n",
            Value::Verbatim {
                format: *b"txt",
                text: b"hi".to_vec(),
            },
        ),
        (
            b"=6\r\nxyz:hi\r\n",
            Value::Verbatim {
                format: *b"xyz",
                text: b"hi".to_vec(),
            },
        ),
    ];
    for (frame, value) in table {
        assert_eq!(&value_of(frame), value, "{}", frame.escape_ascii());
    }
    assert!(matches!(value_of(b",nan\r\n"), Value::Double(value) if value.is_nan()));
}

#[test]
fn aggregates_keep_their_order_and_their_nulls() {
    let map = value_of(b"%2\r\n$1\r\nb\r\n*-1\r\n*1\r\n:1\r\n~2\r\n:2\r\n$-1\r\n");
    let set = Value::Set(vec![Value::Int(2), Value::Null]);
    let pairs = vec![
        (bulk("b"), Value::Null),
        (Value::Array(vec![Value::Int(1)]), set),
    ];
    assert_eq!(map, Value::Map(pairs));
    let push = value_of(b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n");
    assert_eq!(
        push,
        Value::Push(vec![bulk("invalidate"), Value::Array(vec![bulk("k")])])
    );
    assert_eq!(value_of(b"*0\r\n"), Value::Array(vec![]));
}

#[test]
fn attributes_are_dropped() {
    let frame = [
        &b"|0\r\n".repeat(100)[..],
        b"*1\r\n|1\r\n+a\r\n*1\r\n:9\r\n:1\r\n",
    ]
    .concat();
    assert_eq!(value_of(&frame), Value::Array(vec![Value::Int(1)]));
}

#[test]
fn both_protocols_map_the_same_way() {
    for protocol in [Protocol::Resp2, Protocol::Resp3] {
        let mut frame = Vec::new();
        encode::map_header(&mut frame, 3, protocol);
        for (key, value) in [
            ("server", "redis"),
            ("mode", "standalone"),
            ("mode", "second"),
        ] {
            encode::bulk(&mut frame, key.as_bytes());
            encode::bulk(&mut frame, value.as_bytes());
        }
        let hello = value_of(&frame);
        assert_eq!(
            hello.get("mode").and_then(Value::as_str),
            Some("standalone")
        );
        assert_eq!(
            hello.get(b"server").and_then(Value::as_bytes),
            Some(&b"redis"[..])
        );
        assert_eq!(hello.get("redis"), None);
        assert_eq!(hello.pairs().count(), 3);
    }
    assert_eq!(Value::Null.get("x"), None);
    assert_eq!(Value::Array(vec![bulk("odd")]).get("odd"), None);
}

#[test]
fn accessors_give_only_what_is_there() {
    assert_eq!(Value::Int(3).as_int(), Some(3));
    assert_eq!(Value::Bool(true).as_int(), Some(1));
    assert_eq!(bulk("3").as_int(), None);
    assert_eq!(Value::Int(3).as_bytes(), None);
    assert_eq!(Value::Bulk(vec![255]).as_str(), None);
    assert_eq!(Value::Error(b"ERR".to_vec()).as_error(), Some(&b"ERR"[..]));
    assert_eq!(bulk("ERR").as_error(), None);
    assert_eq!(
        Value::Set(vec![Value::Null]).as_array(),
        Some(&[Value::Null][..])
    );
    assert_eq!(Value::Map(vec![]).as_array(), None);
    assert!(Value::Null.is_null());
}

#[test]
fn a_frame_too_deep_is_refused() {
    let nested = |levels: usize| [&b"*1\r\n".repeat(levels)[..], b":1\r\n"].concat();
    let limit = MAX_DECODE_DEPTH as usize;
    assert!(read(&nested(limit)).is_ok());
    assert!(read(&nested(limit + 1)).is_err());
    // The depth given is believed only as far as it does no harm.
    assert!(decode(&nested(limit + 1), 0).is_err());
    assert!(decode(&nested(100_000), 0).is_err());
}

#[test]
fn what_is_not_one_whole_frame_is_refused() {
    for frame in [
        &b""[..],
        b"+OK",
        b"$5\r\nab\r\n",
        b"*2\r\n:1\r\n",
        b"+OK\r\n+OK\r\n",
        b"=2\r\nab\r\n",
        b"=9\r\ntxt:\r\n",
        b"?\r\n",
        b"$?\r\n",
        b"%1\r\n:1\r\n",
        b"HELLO 3\r\n",
        b"|1\r\n",
        b"*9999999999999\r\n",
        b"|0\r\n",
        b"$99999999999999999999\r\n",
        b"*99999999999999999999\r\n",
    ] {
        assert!(decode(frame, 0).is_err(), "{}", frame.escape_ascii());
    }
}

#[test]
fn the_command_table_decodes() {
    let mut frame = Vec::new();
    encode::array_header(&mut frame, 240);
    for _ in 0..240 {
        frame.extend_from_slice(
            b"*10\r\n$3\r\nget\r\n:2\r\n~2\r\n+readonly\r\n+fast\r\n:1\r\n:1\r\n:1\r\n~1\r\n+@read\r\n*0\r\n\
              *1\r\n%3\r\n$5\r\nflags\r\n~1\r\n+RO\r\n$12\r\nbegin_search\r\n%2\r\n$4\r\ntype\r\n$5\r\nindex\r\n\
              $4\r\nspec\r\n%1\r\n$5\r\nindex\r\n:1\r\n$9\r\nfind_keys\r\n%0\r\n*0\r\n",
        );
    }
    let table = value_of(&frame);
    let commands = table.as_array().expect("array");
    assert_eq!(commands.len(), 240);
    let spec = &commands[239].as_array().expect("array")[8]
        .as_array()
        .expect("specs")[0];
    let index = spec
        .get("begin_search")
        .and_then(|search| search.get("spec")?.get("index"));
    assert_eq!(index.and_then(Value::as_int), Some(1));
}
