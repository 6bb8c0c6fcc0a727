//! Inline commands: a line of words as a person types it into a terminal.

use super::ProtocolError;
use std::borrow::Cow;

/// Splits a line into arguments exactly as Redis does (`sdssplitargs`).
///
/// The line may still have its CRLF. Within double quotes `\xHH`, `\n`, `\r`, `\t`, `\b`, `\a` and a
/// backslash before any other byte are escapes; within single quotes only `\'` is. A closing quote
/// must be followed by a blank or the end. A NUL byte ends the line.
///
/// # Errors
/// Quotes that are not closed, or closed in the middle of a word.
pub fn split(line: &[u8]) -> Result<Vec<Vec<u8>>, ProtocolError> {
    let end = memchr::memchr(0, line).unwrap_or(line.len());
    let mut rest = Words {
        line: &line[..end],
        at: 0,
    };
    let mut words = Vec::new();
    while rest.skip_blanks() {
        let word = rest.word();
        words.push(word.ok_or(ProtocolError(Cow::Borrowed("unbalanced quotes in request")))?);
    }
    Ok(words)
}

/// C's `isspace` in the C locale.
pub(super) fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

struct Words<'a> {
    line: &'a [u8],
    at: usize,
}

impl Words<'_> {
    fn peek(&self, ahead: usize) -> Option<u8> {
        self.line.get(self.at + ahead).copied()
    }

    /// Moves to the next word; false if there is none.
    fn skip_blanks(&mut self) -> bool {
        while self.peek(0).is_some_and(is_blank) {
            self.at += 1;
        }
        self.at < self.line.len()
    }

    /// Reads a word, `None` if its quotes are unbalanced.
    fn word(&mut self) -> Option<Vec<u8>> {
        let mut word = Vec::new();
        loop {
            match self.peek(0) {
                // Narrower than `is_blank`: a vertical tab inside a word is part of it, as in Redis.
                None | Some(b' ' | b'\n' | b'\r' | b'\t') => return Some(word),
                Some(b'"') => return self.double_quoted(word),
                Some(b'\'') => return self.single_quoted(word),
                Some(byte) => word.push(byte),
            }
            self.at += 1;
        }
    }

    fn double_quoted(&mut self, mut word: Vec<u8>) -> Option<Vec<u8>> {
        loop {
            self.at += 1;
            match self.peek(0)? {
                b'"' => return self.close(word),
                b'\\' => word.push(self.escape()),
                byte => word.push(byte),
            }
        }
    }

    fn single_quoted(&mut self, mut word: Vec<u8>) -> Option<Vec<u8>> {
        loop {
            self.at += 1;
            match self.peek(0)? {
                b'\'' => return self.close(word),
                b'\\' if self.peek(1) == Some(b'\'') => {
                    self.at += 1;
                    word.push(b'\'');
                }
                byte => word.push(byte),
            }
        }
    }

    /// Ends a quoted word at its closing quote.
    fn close(&mut self, word: Vec<u8>) -> Option<Vec<u8>> {
        self.at += 1;
        self.peek(0).is_none_or(is_blank).then_some(word)
    }

    /// Reads the escape at a backslash within double quotes, and stays on its last byte.
    fn escape(&mut self) -> u8 {
        if let (Some(b'x'), Some(high), Some(low)) = (self.peek(1), self.hex(2), self.hex(3)) {
            self.at += 3;
            return high << 4 | low;
        }
        let Some(byte) = self.peek(1) else {
            return b'\\';
        };
        self.at += 1;
        match byte {
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'b' => 0x08,
            b'a' => 0x07,
            other => other,
        }
    }

    fn hex(&self, ahead: usize) -> Option<u8> {
        let digit = char::from(self.peek(ahead)?).to_digit(16)?;
        u8::try_from(digit).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_as_redis_does() {
        let table: &[(&[u8], &[&[u8]])] = &[
            (b"", &[]),
            (b"  \t\x0b\x0c\r\n", &[]),
            (b"PING", &[b"PING"]),
            (b"PING\r\n", &[b"PING"]),
            (b"  get   key \n", &[b"get", b"key"]),
            (b"set k \"a b\"", &[b"set", b"k", b"a b"]),
            (b"\"\" ''", &[b"", b""]),
            (
                b"\"\\x00\\xfF\\n\\r\\t\\b\\a\\q\\\"\\\\\"",
                &[b"\x00\xff\n\r\t\x08\x07q\"\\"],
            ),
            (b"\"\\xg1\\x1\"", &[b"xg1x1"]),
            (b"'a\\'b\\n\"c'", &[b"a'b\\n\"c"]),
            (b"foo\"bar\"", &[b"foobar"]),
            (b"foo'bar baz' x", &[b"foobar baz", b"x"]),
            (b"a\\nb", &[b"a\\nb"]),
            (b"\"a\"\x0bb", &[b"a", b"b"]),
            (b"a\x0bb\x0c", &[b"a\x0bb\x0c"]),
            (b"a\0b \"", &[b"a"]),
            (b"\0a", &[]),
            (b"\xff\xfe", &[b"\xff\xfe"]),
        ];
        for (line, words) in table {
            assert_eq!(
                split(line).expect("balanced"),
                *words,
                "{:?}",
                line.escape_ascii().to_string()
            );
        }
    }

    #[test]
    fn unbalanced_quotes_are_errors() {
        for line in [
            &b"\""[..],
            b"'",
            b"\"a",
            b"'a",
            b"\"a\"b",
            b"'a'b",
            b"\"a\\\"",
            b"'a\\'",
            b"\"a\\",
            b"\"a\"\"b\"",
            b"a\"b\0\"",
            b"foo\"bar\"baz",
            b"\"foo\r\n",
        ] {
            let error = split(line).expect_err("unbalanced");
            assert_eq!(error.0, "unbalanced quotes in request", "{line:?}");
        }
    }
}
