//! What the two scanners share: lines with a length, and bulk bodies, whole or in pieces.

const CR: u8 = b'\r';
const LF: u8 = b'\n';

/// Reads a length that lies whole at the front of `bytes`, CRLF included; gives it and its size.
///
/// `None` means only "not the plain case" (cut off, negative, wrong): [`LengthLine`] then decides.
#[inline(always)]
pub(super) fn whole_length(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut value = u64::from(bytes.first()?.wrapping_sub(b'0'));
    if value > 9 {
        return None;
    }
    let mut at = 1;
    loop {
        let byte = *bytes.get(at)?;
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            let ends = byte == CR && *bytes.get(at + 1)? == LF;
            return ends.then_some((value, at + 2));
        }
        // Eighteen digits cannot overflow; longer ones and leading zeros are for `LengthLine`.
        if value == 0 || at == 18 {
            return None;
        }
        value = value * 10 + u64::from(digit);
        at += 1;
    }
}

/// A line with one number that arrives in pieces.
///
/// The number follows Redis's `string2ll`: no sign but a minus, no leading zero, no blank, and it
/// must fit an `i64`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LengthLine {
    magnitude: u64,
    seen: u32,
    negative: bool,
    bad: bool,
    cr: bool,
}

/// What became of the bytes given to [`LengthLine::feed`].
pub(super) enum Fed {
    /// All of them belong to the line, which has not ended.
    More,
    /// The line ended after `used` bytes; `number` is `None` if it held none.
    Done { used: usize, number: Option<i64> },
    /// The line is longer than allowed.
    TooLong,
    /// A CR was not followed by an LF.
    BadEnd,
}

impl LengthLine {
    /// Nothing of the line was seen yet.
    #[inline(always)]
    pub(super) fn is_fresh(self) -> bool {
        self.seen == 0 && !self.cr
    }

    /// Bytes of the line seen so far.
    pub(super) fn seen(self) -> u32 {
        self.seen + u32::from(self.cr)
    }

    /// Reads on; at most `limit` bytes may precede the CR.
    pub(super) fn feed(&mut self, bytes: &[u8], limit: u32) -> Fed {
        for (at, &byte) in bytes.iter().enumerate() {
            if self.cr {
                if byte != LF {
                    return Fed::BadEnd;
                }
                let number = self.number();
                return Fed::Done {
                    used: at + 1,
                    number,
                };
            }
            if byte == CR {
                self.cr = true;
            } else if self.seen == limit {
                return Fed::TooLong;
            } else {
                self.push(byte);
            }
        }
        Fed::More
    }

    fn push(&mut self, byte: u8) {
        let leading_zero = self.magnitude == 0 && self.seen > u32::from(self.negative);
        match byte {
            b'-' if self.seen == 0 => self.negative = true,
            b'0'..=b'9' if !leading_zero => {
                let digit = u64::from(byte - b'0');
                let next = self
                    .magnitude
                    .checked_mul(10)
                    .and_then(|m| m.checked_add(digit));
                self.bad |= next.is_none();
                self.magnitude = next.unwrap_or(0);
            }
            _ => self.bad = true,
        }
        self.seen += 1;
    }

    fn number(self) -> Option<i64> {
        if self.bad || self.seen == 0 || (self.negative && self.magnitude == 0) {
            None
        } else if self.negative {
            0i64.checked_sub_unsigned(self.magnitude)
        } else {
            i64::try_from(self.magnitude).ok()
        }
    }
}

/// Takes what `rest` has of a bulk body; `left` counts its missing bytes and its CRLF, so it is at
/// least 1. Gives the bytes taken, or `None` if the terminator is wrong.
#[inline(always)]
pub(super) fn take_body(left: u64, rest: &[u8]) -> Option<usize> {
    let at = |behind: u64| {
        let index = usize::try_from(left.checked_sub(behind)?).ok()?;
        rest.get(index).copied()
    };
    if at(2).is_some_and(|byte| byte != CR) || at(1).is_some_and(|byte| byte != LF) {
        return None;
    }
    Some(usize::try_from(left).map_or(rest.len(), |left| left.min(rest.len())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str) -> Option<i64> {
        let mut line = LengthLine::default();
        match line.feed(format!("{text}\r\n").as_bytes(), 64) {
            Fed::Done { used, number } => {
                assert_eq!(used, text.len() + 2);
                number
            }
            _ => panic!("{text:?} did not end"),
        }
    }

    #[test]
    fn numbers_follow_string2ll() {
        for text in [
            "0",
            "1",
            "10",
            "-1",
            "-10",
            "9223372036854775807",
            "-9223372036854775808",
        ] {
            assert_eq!(number(text), text.parse().ok(), "{text}");
        }
        for text in [
            "",
            "-",
            "+1",
            "01",
            "00",
            "-0",
            "-01",
            " 1",
            "1 ",
            "1x",
            "--1",
            "1-",
            "9223372036854775808",
            "-9223372036854775809",
            "18446744073709551616",
            "99999999999999999999999",
            "184467440737095516160",
            "1\n",
        ] {
            assert_eq!(number(text), None, "{text}");
        }
    }

    #[test]
    fn the_plain_case_agrees_with_the_general_one() {
        for text in [
            "0",
            "7",
            "42",
            "007",
            "1x",
            "-1",
            "",
            "123456789012345678",
            "1234567890123456789",
        ] {
            let line = format!("{text}\r\n");
            if let Some((value, used)) = whole_length(line.as_bytes()) {
                assert_eq!(
                    (i64::try_from(value).ok(), used),
                    (number(text), line.len()),
                    "{text}"
                );
            }
        }
        assert_eq!(whole_length(b"42\r\n!"), Some((42, 4)));
        assert_eq!(whole_length(b"42\r"), None);
        assert_eq!(whole_length(b"42\rx"), None);
        assert_eq!(whole_length(b"042\r\n"), None);
    }

    #[test]
    fn a_line_that_is_too_long_or_ends_badly_says_so() {
        assert!(matches!(
            LengthLine::default().feed(b"123456", 5),
            Fed::TooLong
        ));
        assert!(matches!(
            LengthLine::default().feed(b"12345\r", 5),
            Fed::More
        ));
        assert!(matches!(
            LengthLine::default().feed(b"1\rx", 5),
            Fed::BadEnd
        ));
    }

    #[test]
    fn a_body_is_taken_in_any_pieces_and_its_end_is_checked() {
        assert_eq!(take_body(5, b"abc\r\nrest"), Some(5));
        assert_eq!(take_body(5, b"abc"), Some(3));
        assert_eq!(take_body(5, b"abc\r"), Some(4));
        assert_eq!(take_body(2, b"\r\n"), Some(2));
        assert_eq!(take_body(1, b"\n"), Some(1));
        assert_eq!(take_body(5, b""), Some(0));
        assert_eq!(take_body(5, b"abcd"), None);
        assert_eq!(take_body(5, b"abc\rx"), None);
        assert_eq!(take_body(1, b"x"), None);
        assert_eq!(take_body(u64::MAX, b"abc"), Some(3));
    }
}
