//! Globs: the matcher that goes back at most to the last star agrees with one that tries everything.

use nearkey::l1::rules::matches;

/// One run: the pattern, a zero, the text.
pub fn run(data: &[u8]) {
    let (pattern, text) = match data.iter().position(|byte| *byte == 0) {
        Some(at) => (&data[..at], &data[at + 1..]),
        None => (data, &data[data.len() / 2..]),
    };
    let found = matches(pattern, text);
    if pattern.len() <= 40 && text.len() <= 40 {
        assert_eq!(found, try_all(pattern, text), "{pattern:?} {text:?}");
    }
}

/// By a table of which end of the pattern matches which end of the text.
fn try_all(pattern: &[u8], text: &[u8]) -> bool {
    let mut known = vec![vec![None; text.len() + 1]; pattern.len() + 1];
    look_up(pattern, text, 0, 0, &mut known)
}

fn look_up(
    pattern: &[u8],
    text: &[u8],
    p: usize,
    t: usize,
    known: &mut [Vec<Option<bool>>],
) -> bool {
    if let Some(answer) = known[p][t] {
        return answer;
    }
    let answer = match pattern.get(p) {
        None => t == text.len(),
        Some(b'*') => {
            look_up(pattern, text, p + 1, t, known)
                || (t < text.len() && look_up(pattern, text, p, t + 1, known))
        }
        Some(_) => match text.get(t) {
            None => false,
            Some(byte) => {
                let (matched, length) = one(&pattern[p..], *byte);
                matched && look_up(pattern, text, p + length, t + 1, known)
            }
        },
    };
    known[p][t] = Some(answer);
    answer
}

/// Whether the first element matches the byte, and its length.
fn one(pattern: &[u8], byte: u8) -> (bool, usize) {
    match pattern[0] {
        b'?' => (true, 1),
        b'\\' if pattern.len() > 1 => (pattern[1] == byte, 2),
        b'[' => {
            let negated = pattern.get(1) == Some(&b'^');
            let (mut at, mut found) = (1 + usize::from(negated), false);
            while at < pattern.len() && pattern[at] != b']' {
                let rest = &pattern[at..];
                if rest[0] == b'\\' && rest.len() > 1 {
                    found |= rest[1] == byte;
                    at += 2;
                } else if rest.len() > 2 && rest[1] == b'-' {
                    let (low, high) = (rest[0].min(rest[2]), rest[0].max(rest[2]));
                    found |= low <= byte && byte <= high;
                    at += 3;
                } else {
                    found |= rest[0] == byte;
                    at += 1;
                }
            }
            (found != negated, (at + 1).min(pattern.len()))
        }
        literal => (literal == byte, 1),
    }
}
