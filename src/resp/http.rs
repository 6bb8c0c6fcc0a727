//! Tells HTTP from inline commands: browsers can be made to send it to any port.

use super::inline::is_blank;

/// What must be known of an inline command to tell whether it is HTTP, kept while it arrives.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LineWatch {
    /// The first bytes of the first word.
    word: [u8; 8],
    /// Its length, 9 if it is longer than `word`.
    word_len: u8,
    word_ended: bool,
    has_nul: bool,
    /// The last bytes of the line, CRs left out.
    tail: u64,
}

const HTTP_METHODS: [&[u8]; 9] = [
    b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"CONNECT", b"OPTIONS", b"TRACE", b"PATCH",
];

impl LineWatch {
    /// Takes the next bytes of the line; gives where its LF is, if it is among them.
    ///
    /// Like Redis, it finds no LF behind a NUL byte: such a line never ends, it only gets too big.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Option<usize> {
        if self.has_nul {
            return None;
        }
        let end = memchr::memchr2(b'\n', 0, bytes);
        let line = &bytes[..end.unwrap_or(bytes.len())];
        for &byte in line {
            if self.word_ended {
                break;
            }
            self.feed_word(byte);
        }
        // One more than the tail holds, for the CR before the line's end.
        for &byte in &line[line.len().saturating_sub(9)..] {
            if byte != b'\r' {
                self.tail = self.tail << 8 | u64::from(byte);
            }
        }
        self.has_nul = end.is_some_and(|end| bytes[end] == 0);
        end.filter(|_| !self.has_nul)
    }

    fn feed_word(&mut self, byte: u8) {
        match self.word.get_mut(usize::from(self.word_len)) {
            _ if is_blank(byte) => self.word_ended = self.word_len > 0,
            Some(place) => {
                *place = byte;
                self.word_len += 1;
            }
            None => {
                self.word_len = 9;
                self.word_ended = true;
            }
        }
    }

    /// Whether the line has no word.
    pub(super) fn is_blank(&self) -> bool {
        self.word_len == 0
    }

    /// Whether the whole line is one that only HTTP has: a request line, or what begins with `POST` or
    /// `Host:`, which Redis itself takes for an attack.
    pub(super) fn is_http(&self) -> bool {
        let Some(word) = self.word.get(..usize::from(self.word_len)) else {
            return false;
        };
        let has_version = self.tail.to_be_bytes().starts_with(b"HTTP/1.");
        word.eq_ignore_ascii_case(b"post")
            || word.eq_ignore_ascii_case(b"host:")
            || (has_version && HTTP_METHODS.contains(&word))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(line: &[u8], piece: usize) -> LineWatch {
        let mut watch = LineWatch::default();
        for bytes in line.chunks(piece) {
            watch.feed(bytes);
        }
        watch
    }

    #[test]
    fn http_lines_are_known_in_any_pieces() {
        let table: &[(&str, bool)] = &[
            ("GET / HTTP/1.1\r", true),
            ("GET / HTTP/1.0", true),
            ("  PUT /a/b?c HTTP/1.1\r", true),
            ("OPTIONS * HTTP/1.1\r", true),
            ("POST", true),
            ("post / anything", true),
            ("Host: example.org\r", true),
            ("HOST:\r", true),
            ("Host:example.org", false),
            ("GET key\r", false),
            ("GET / HTTP/2\r", false),
            ("SET page HTTP/1.1\r", false),
            ("POSTS HTTP/1.1", false),
            ("CONNECTIONS x HTTP/1.1", false),
            ("HTTP/1.1", false),
            ("", false),
        ];
        for (line, http) in table {
            for piece in 1..=line.len().max(1) {
                assert_eq!(
                    watch(line.as_bytes(), piece).is_http(),
                    *http,
                    "{line:?} by {piece}"
                );
            }
        }
    }

    #[test]
    fn a_line_without_a_word_is_blank() {
        for (line, blank) in [
            (" \t\r", true),
            ("", true),
            ("\0 PING", true),
            ("x", false),
            (" x", false),
        ] {
            assert_eq!(watch(line.as_bytes(), 1).is_blank(), blank, "{line:?}");
        }
    }
    #[test]
    fn a_line_ends_at_its_lf_unless_a_nul_comes_first() {
        let mut watch = LineWatch::default();
        assert_eq!(watch.feed(b"PI"), None);
        assert_eq!(watch.feed(b"NG\r\nPING\n"), Some(3));
        let mut watch = LineWatch::default();
        assert_eq!(watch.feed(b"a\0b\nPING\n"), None);
        assert_eq!(watch.feed(b"\n"), None);
    }
}
