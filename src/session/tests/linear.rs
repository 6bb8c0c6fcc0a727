//! What arrives byte by byte costs no more than in proportion to its length: steps are counted, not time.

use proptest::collection::vec;
use proptest::prelude::*;

use super::bench::Bench;
use crate::resp::{encode, steps};
use crate::upstream::outbox::Outbox;
use crate::upstream::pipe::{Handling, Pipe, Run};

/// One step for each byte and one for each call, and some to begin with.
fn allowed(bytes: usize, calls: usize) -> u64 {
    2 * (bytes + calls) as u64 + 64
}

fn say_bytewise(bench: &mut Bench, bytes: &[u8]) -> u64 {
    steps::of(|| {
        for byte in bytes {
            bench.say([*byte]);
        }
    })
}

/// The server's bytes, one by one; what is not done with is kept and given again.
fn answer_bytewise(stream: &[u8], replies: u32) -> u64 {
    let (mut pipe, mut outbox) = (Pipe::default(), Outbox::default());
    pipe.push(Run {
        owner: Some(()),
        terms: Handling::Pass.into(),
        is_unit: false,
        owed: replies,
        bytes: 0,
        since: 0,
        retried: false,
    });
    let mut kept = Vec::new();
    steps::of(|| {
        for byte in stream {
            let scanned = kept.len();
            kept.push(*byte);
            let fed = pipe.handle_input(&kept, scanned, &mut outbox, |_, _| {});
            kept.drain(..fed.expect("in step").0);
        }
        assert!(pipe.is_empty());
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_request_of_many_arguments(count in 1_usize..800, sizes in vec(0_usize..40, 1..8), name in 0_usize..4) {
        let name: &[u8] = [&b"MSET"[..], b"EVAL", b"SUBSCRIBE", b"NOSUCH"][name];
        let args: Vec<Vec<u8>> = (0..count).map(|n| vec![b'v'; sizes[n % sizes.len()]]).collect();
        let words = [name].into_iter().chain(args.iter().map(Vec::as_slice));
        let mut bytes = Vec::new();
        encode::command(&mut bytes, &words.collect::<Vec<_>>());
        for large_request in [64, usize::MAX >> 1] {
            let mut bench = Bench::new(None);
            bench.settings.large_request = large_request;
            bench.script.lease = Some(Ok(()));
            let steps = say_bytewise(&mut bench, &bytes);
            prop_assert!(steps <= allowed(bytes.len(), bytes.len()), "{steps} for {}", bytes.len());
        }
    }

    #[test]
    fn an_inline_request(words in vec("[a-z]{1,30}", 1..400)) {
        let line = format!("{}\r\n", words.join(" "));
        let steps = say_bytewise(&mut Bench::new(None), line.as_bytes());
        prop_assert!(steps <= allowed(line.len(), line.len()), "{steps} for {}", line.len());
    }

    #[test]
    fn replies_of_many_elements(count in 1_usize..2_000, replies in 1_u32..5, depth in 0_usize..50) {
        let mut reply = b"*1\r\n".repeat(depth);
        encode::array_header(&mut reply, count);
        (0..count).for_each(|n| encode::bulk(&mut reply, n.to_string().as_bytes()));
        let stream = reply.repeat(replies as usize);
        let steps = answer_bytewise(&stream, replies);
        prop_assert!(steps <= allowed(stream.len(), stream.len()), "{steps} for {}", stream.len());
    }
}
