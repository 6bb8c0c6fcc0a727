//! The reply scanner, and what reads whole replies: chunks change nothing, limits hold, a server that lies
//! does no harm.

use nearkey::commands::{CommandTable, keys_of};
use nearkey::hub;
use nearkey::l1::render::render_reply;
use nearkey::l1::shape::Shape;
use nearkey::resp::reply::{ReplyError, ReplyKind, ReplyScan, ReplyScanner, decode};
use nearkey::resp::{MAX_DECODE_DEPTH, MAX_DEPTH, MAX_REPLY_BULK, MAX_REPLY_LINE, Protocol};
use nearkey::secret::Secret;
use nearkey::upstream::facts::{Identity, command_rows};
use nearkey::upstream::handshake::{Credentials, Handshake};
use nearkey::upstream::{IdentityId, LaneKey};

use super::input::{Input, expand};

/// A frame's end in the stream, what it is, and how deep.
type Found = (usize, ReplyKind, u32);

/// One run.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let body = expand(input.body);
    let whole = scan([&body[..]]);
    input.body = &body;
    assert_eq!(scan(input.chunks()), whole, "chunks change nothing");
    if body.len() < 300 {
        assert_eq!(scan(body.chunks(1)), whole, "single bytes change nothing");
    }
    let (mut from, mut frames) = (0, Vec::new());
    for (end, kind, depth) in whole.0 {
        let frame = &body[from..end];
        assert_eq!(
            measure(frame),
            Some((frame.len(), depth)),
            "a second opinion"
        );
        assert!(depth <= MAX_DEPTH);
        check(frame, kind, depth);
        frames.push((frame, depth));
        from = end;
    }
    let _ = decode(&body[from..], 0);
    shake_hands(&frames, input.next());
}

fn scan<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Found>, Option<ReplyError>) {
    let (mut scanner, mut found, mut at) = (ReplyScanner::new(), Vec::new(), 0);
    for chunk in chunks {
        let mut rest = chunk;
        loop {
            let least = scanner.at_least();
            match scanner.scan(rest) {
                Err(error) => {
                    assert_eq!(scanner.scan(b"+OK\r\n"), Err(error.clone()));
                    return (found, Some(error));
                }
                Ok(ReplyScan::Incomplete) => {
                    at += rest.len();
                    assert!(scanner.at_least() >= scanner.consumed());
                    assert!(scanner.depth() <= MAX_DEPTH);
                    break;
                }
                Ok(ReplyScan::Complete { consumed, kind }) => {
                    (at, rest) = (at + consumed, &rest[consumed..]);
                    assert!(scanner.completed() >= least && scanner.is_idle());
                    found.push((at, kind, scanner.depth()));
                }
            }
        }
    }
    (found, None)
}

/// The size and the depth of the frame at the front, found in another way than the scanner's.
fn measure(frame: &[u8]) -> Option<(usize, u32)> {
    let (mut at, mut depth) = (0, 0);
    // Values missing at each level; the frame itself is one.
    let mut missing = vec![1_u64];
    while let Some(left) = missing.last_mut() {
        if *left == 0 {
            missing.pop();
            continue;
        }
        *left -= 1;
        let mark = *frame.get(at)?;
        let end = at + frame[at..].windows(2).position(|pair| pair == b"\r\n")?;
        let line = &frame[at + 1..end];
        at = end + 2;
        let number = || std::str::from_utf8(line).ok()?.parse::<i64>().ok();
        match mark {
            b'$' | b'!' | b'=' => {
                let length = number()?;
                if length >= 0 {
                    assert!(length.unsigned_abs() <= MAX_REPLY_BULK);
                    at += usize::try_from(length).ok()? + 2;
                }
            }
            b'*' | b'~' | b'>' | b'%' | b'|' => {
                let each = if matches!(mark, b'%' | b'|') { 2 } else { 1 };
                let count = u64::try_from(number()?.max(0)).ok()? * each;
                if mark == b'|' {
                    *left += 1; // what it describes is still to come
                }
                if number()? >= 0 {
                    depth = depth.max(u32::try_from(missing.len()).ok()?);
                    missing.push(count);
                }
            }
            _ => assert!(line.len() <= MAX_REPLY_LINE as usize),
        }
    }
    Some((at, depth))
}

fn check(frame: &[u8], kind: ReplyKind, depth: u32) {
    let value = decode(frame, depth);
    assert!(
        value.is_err() || depth <= MAX_DECODE_DEPTH,
        "nothing deep is decoded"
    );
    if let Some(
        hub::Frame::Message(_, name)
        | hub::Frame::Subscribed(_, name)
        | hub::Frame::Unsubscribed(_, name)
        | hub::Frame::Error(name),
    ) = hub::parse(frame)
    {
        assert!(frame.get(name).is_some());
    }
    if kind == ReplyKind::Push {
        return;
    }
    for shape in [Shape::Plain, Shape::Hash, Shape::NullArray, Shape::Pairs] {
        let mut rendered = Vec::new();
        render_reply(
            frame,
            shape,
            Protocol::Resp3,
            Protocol::Resp2,
            &mut rendered,
        );
        // What comes of a reply that no such command gives is rubbish, but not more than came.
        assert!(rendered.len() <= 8 * frame.len() + 64);
        if shape != Shape::Pairs {
            let (found, error) = scan([&rendered[..]]);
            assert_eq!((found.len(), error), (1, None), "one reply stays one reply");
            assert_eq!(found[0].0, rendered.len());
        }
    }
    if let Ok(value) = value {
        let _ = Identity::from_hello(&value);
        learn(command_rows(&value));
    }
}

/// A table of what a lying server says of its commands can be used.
fn learn(rows: Vec<nearkey::commands::ServerCommand>) {
    if rows.is_empty() {
        return;
    }
    let names: Vec<String> = rows.iter().map(|row| row.name.clone()).collect();
    let table = CommandTable::builtin().extended(rows.into_iter());
    let args: [&[u8]; 5] = [b"", b"a", b"b", b"3", b"c"];
    for name in names {
        let Some(spec) = table.lookup(name.as_bytes()) else {
            continue;
        };
        for count in 1..=args.len() {
            let _ = spec.accepts(count);
            let _ = table.subcommand(spec, args[1]);
            if let Some(keys) = keys_of(spec, &args[..count]) {
                keys.into_iter().for_each(|at| assert!(at < count));
            }
        }
    }
}

/// A handshake that is answered with these frames, one by one, ends one way or the other.
fn shake_hands(frames: &[(&[u8], u32)], switches: u8) {
    let key = LaneKey {
        db: u32::from(switches & 1),
        protocol: if switches & 2 == 0 {
            Protocol::Resp2
        } else {
            Protocol::Resp3
        },
        identity: IdentityId::OWN,
    };
    let credentials = Credentials {
        username: (switches & 4 != 0).then(|| b"user".to_vec()),
        password: (switches & 8 != 0).then(|| Secret::new("c4n4ry")),
    };
    let mut handshake = Handshake::new(key, credentials, u64::from(switches));
    for (frame, depth) in frames {
        if handshake.poll_request().is_none() {
            return;
        }
        let Ok(value) = decode(frame, *depth) else {
            return;
        };
        if let Err(refusal) = handshake.handle_reply(&value) {
            assert!(!refusal.message.contains("c4n4ry"), "{refusal:?}");
            return;
        }
    }
}
