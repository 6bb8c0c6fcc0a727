//! The request scanner: chunks change nothing, limits hold, what is found can be taken apart.

use std::ops::Range;

use nearkey::resp::request::{Kind, Limits, RequestError, RequestScanner, Scan, args};
use nearkey::resp::{MAX_INLINE, UNAUTHENTICATED_ARGS, UNAUTHENTICATED_BULK, inline};

use super::input::{Input, expand};

/// A command's end in the stream, and what the scanner says of it.
type Found = (usize, Kind, u32, [Option<Range<usize>>; 2]);

/// One run.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let switches = input.next();
    let limits = Limits {
        max_args: if switches & 1 == 0 { 1 << 20 } else { 12 },
        max_bulk: if switches & 2 == 0 { 100_000 } else { 40 },
        authenticated: switches & 4 == 0,
    };
    let body = expand(input.body);
    let whole = scan([&body[..]], &limits);
    input.body = &body;
    assert_eq!(
        scan(input.chunks(), &limits),
        whole,
        "chunks change nothing"
    );
    if body.len() < 300 {
        assert_eq!(
            scan(body.chunks(1), &limits),
            whole,
            "single bytes change nothing"
        );
    }
    let mut from = 0;
    for (end, kind, argc, first) in whole.0 {
        check(&body[from..end], kind, argc, first, &limits);
        from = end;
    }
}

fn scan<'a>(
    chunks: impl IntoIterator<Item = &'a [u8]>,
    limits: &Limits,
) -> (Vec<Found>, Option<RequestError>) {
    let (mut scanner, mut found, mut at) = (RequestScanner::new(), Vec::new(), 0);
    for chunk in chunks {
        let mut rest = chunk;
        loop {
            let least = scanner.at_least();
            match scanner.scan(rest, limits) {
                Err(error) => {
                    assert_eq!(scanner.scan(b"PING\r\n", limits), Err(error.clone()));
                    return (found, Some(error));
                }
                Ok(Scan::Incomplete) => {
                    at += rest.len();
                    assert!(scanner.at_least() >= least.max(scanner.consumed()));
                    break;
                }
                Ok(Scan::Complete { consumed, kind }) => {
                    assert!(consumed <= rest.len() && (consumed > 0 || rest.is_empty()));
                    (at, rest) = (at + consumed, &rest[consumed..]);
                    assert!(scanner.completed() >= least && scanner.is_idle());
                    found.push((at, kind, scanner.argc(), [scanner.arg(0), scanner.arg(1)]));
                }
            }
        }
    }
    (found, None)
}

fn check(command: &[u8], kind: Kind, argc: u32, first: [Option<Range<usize>>; 2], limits: &Limits) {
    match kind {
        Kind::Multibulk => {
            let words: Vec<&[u8]> = args(command).collect();
            let longest = words.iter().map(|word| word.len() as u64).max();
            assert_eq!(words.len(), argc as usize);
            assert!(argc <= limits.max_args && longest <= Some(limits.max_bulk));
            if !limits.authenticated {
                assert!(argc <= UNAUTHENTICATED_ARGS && longest <= Some(UNAUTHENTICATED_BULK));
            }
            for (range, word) in first.into_iter().zip(&words) {
                assert_eq!(&command[range.expect("it is whole")], *word);
            }
        }
        Kind::Inline => {
            assert!(command.len() <= MAX_INLINE + 2 && command.ends_with(b"\n"));
            let line = command.strip_suffix(b"\n").unwrap_or(command);
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            assert!(!line.contains(&b'\n'), "a line ends at the first line feed");
            if let Ok(words) = inline::split(line) {
                assert!(words.iter().map(Vec::len).sum::<usize>() <= line.len());
            }
        }
        Kind::Empty => assert!(command.iter().all(|byte| !byte.is_ascii_alphabetic())),
    }
}
