//! Replies and their owners, wherever the stream is cut.

use super::*;

fn run(owner: u32, owed: u32) -> Run<u32> {
    Run {
        owner: Some(owner),
        terms: Handling::Pass.into(),
        is_unit: false,
        owed,
        bytes: owed as usize,
        since: 0,
        retried: false,
    }
}

/// Who gets the pushes.
const PUSH: u32 = 99;

/// What each owner got: bytes and completed replies.
type Got = Vec<(u32, Vec<u8>, u32)>;

/// Feeds `stream` in the given chunks and returns what each owner got, in order.
fn feed(pipe: &mut Pipe<u32>, stream: &[u8], cuts: &[usize]) -> Result<Got, Desync> {
    let mut outbox = Outbox::default();
    outbox.push(&[b'x'; 64]);
    outbox.handle_written(64);
    let mut got: Got = Vec::new();
    let mut kept = Vec::new();
    let mut start = 0;
    for end in cuts.iter().copied().chain([stream.len()]) {
        let scanned = kept.len();
        kept.extend_from_slice(&stream[start..end]);
        start = end;
        let input = kept.clone();
        let (consumed, _) = pipe.handle_input(&input, scanned, &mut outbox, |run, piece| {
            let Some(owner) = run.map_or(Some(PUSH), |run| run.owner) else {
                return; // a tombstone
            };
            match got.last_mut() {
                Some((last, bytes, n)) if *last == owner => {
                    bytes.extend_from_slice(&input[piece.range]);
                    *n += piece.completed;
                }
                _ => got.push((owner, input[piece.range].to_vec(), piece.completed)),
            }
        })?;
        kept.drain(..consumed);
    }
    Ok(got)
}

const STREAM: &[u8] =
    b"+OK\r\n$3\r\none\r\n*2\r\n:1\r\n$-1\r\n>2\r\n+note\r\n+x\r\n-ERR no\r\n$2\r\nab\r\n";

#[test]
fn replies_reach_their_owners_wherever_the_stream_is_cut() {
    for first in 0..=STREAM.len() {
        for second in first..=STREAM.len() {
            let mut pipe = Pipe::default();
            for (owner, owed) in [(1, 2), (2, 1), (3, 1), (1, 1)] {
                pipe.push(run(owner, owed));
            }
            let got = feed(&mut pipe, STREAM, &[first, second]).expect("in step");
            assert_eq!(
                got,
                [
                    (1, b"+OK\r\n$3\r\none\r\n".to_vec(), 2),
                    (2, b"*2\r\n:1\r\n$-1\r\n".to_vec(), 1),
                    (PUSH, b">2\r\n+note\r\n+x\r\n".to_vec(), 0),
                    (3, b"-ERR no\r\n".to_vec(), 1),
                    (1, b"$2\r\nab\r\n".to_vec(), 1),
                ],
                "cut at {first} and {second}"
            );
            assert!(pipe.is_empty() && pipe.commands == 0);
        }
    }
}

#[test]
fn a_tombstone_swallows_exactly_the_replies_it_is_owed() {
    let mut pipe = Pipe::default();
    for (owner, owed) in [(1, 1), (2, 2), (3, 1)] {
        pipe.push(run(owner, owed));
    }
    pipe.iter_mut().nth(1).expect("three runs").owner = None;
    let got = feed(&mut pipe, b":1\r\n:2\r\n:3\r\n:4\r\n", &[5]).expect("in step");
    assert_eq!(
        got,
        [(1, b":1\r\n".to_vec(), 1), (3, b":4\r\n".to_vec(), 1)]
    );
}

#[test]
fn hidden_replies_are_swallowed_and_the_visible_ones_handed_on() {
    const STREAM: &[u8] = b"+OK\r\n+QUEUED\r\n*1\r\n:1\r\n+OK\r\n:7\r\n";
    for cut in 0..=STREAM.len() {
        let mut pipe = Pipe::default();
        let mut block = run(1, 3);
        block.terms.hidden = 2;
        pipe.push(block);
        let mut silent = run(2, 1);
        silent.terms.hidden = 1;
        pipe.push(silent);
        pipe.push(run(3, 1));
        let got = feed(&mut pipe, STREAM, &[cut]).expect("in step");
        assert_eq!(
            got,
            [
                (1, b"*1\r\n:1\r\n".to_vec(), 1),
                (2, Vec::new(), 0),
                (3, b":7\r\n".to_vec(), 1)
            ],
            "cut at {cut}"
        );
        assert!(pipe.is_empty() && pipe.commands == 0);
    }
}

#[test]
fn lines_of_monitor_are_pushes_once_nothing_is_owed() {
    let mut pipe = Pipe::default();
    pipe.push(run(1, 1));
    pipe.set_monitor();
    let got = feed(&mut pipe, b"+OK\r\n+1.2 [0 lua] \"get\"\r\n", &[8]).expect("in step");
    assert_eq!(
        got,
        [
            (1, b"+OK\r\n".to_vec(), 1),
            (PUSH, b"+1.2 [0 lua] \"get\"\r\n".to_vec(), 0)
        ]
    );
}

#[test]
fn a_surplus_reply_is_a_desync_whole_or_not() {
    let mut pipe = Pipe::default();
    pipe.push(run(1, 1));
    assert_eq!(feed(&mut pipe, b":1\r\n:2\r\n", &[]), Err(Desync::Surplus));
    let mut pipe = Pipe::default();
    assert_eq!(feed(&mut pipe, b"$10\r\nabc", &[]), Err(Desync::Surplus));
}

#[test]
fn a_malformed_reply_is_a_desync() {
    let mut pipe = Pipe::default();
    pipe.push(run(1, 1));
    assert!(matches!(
        feed(&mut pipe, b"?what\r\n", &[]),
        Err(Desync::Malformed(_))
    ));
}

#[test]
fn a_long_reply_streams_and_a_short_one_does_not() {
    let mut long = format!("${}\r\n", 3 * STREAM_ABOVE).into_bytes();
    long.resize(long.len() + 3 * STREAM_ABOVE, b'v');
    long.extend_from_slice(b"\r\n+OK\r\n");
    let mut pipe = Pipe::default();
    pipe.push(run(1, 1));
    pipe.push(run(2, 1));
    let mut outbox = Outbox::default();
    outbox.push(b"ab");
    outbox.handle_written(2);
    let half = &long[..2 * STREAM_ABOVE];
    let mut delivered = 0;
    let (consumed, _) = pipe
        .handle_input(half, 0, &mut outbox, |_, piece| {
            delivered += piece.range.len()
        })
        .expect("in step");
    assert_eq!((consumed, delivered), (half.len(), half.len()));
    assert!(pipe.is_streaming());
    let rest = &long[half.len()..];
    let mut ends = Vec::new();
    pipe.handle_input(rest, 0, &mut outbox, |run, piece| {
        ends.push((run.and_then(|run| run.owner), piece.completed))
    })
    .expect("in step");
    assert_eq!(ends, [(Some(1), 1), (Some(2), 1)]);
    assert!(!pipe.is_streaming() && pipe.is_empty());
}
