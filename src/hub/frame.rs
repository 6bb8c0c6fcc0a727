//! What the server says on a connection with subscriptions, read without decoding it.

use std::ops::Range;

use super::Kind;

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Something was published; the name is the one that was subscribed to.
    Message(Kind, Range<usize>),
    /// A subscription has begun.
    Subscribed(Kind, Range<usize>),
    /// A subscription has ended.
    Unsubscribed(Kind, Range<usize>),
    /// The reply to PING.
    Pong,
    /// An error, without its mark and line end.
    Error(Range<usize>),
}

/// Reads a whole frame; `None` if it has no business on such a connection. Ranges are places in it.
pub fn parse(frame: &[u8]) -> Option<Frame> {
    match frame.first()? {
        b'-' => return Some(Frame::Error(1..frame.len().checked_sub(2)?)),
        b'+' => return (frame == b"+PONG\r\n").then_some(Frame::Pong),
        b'*' | b'>' => {}
        _ => return None,
    }
    let mut walk = Walk { frame, at: 1 };
    let elements = walk.number()?;
    let word = walk.bulk()?;
    let word = &frame[word];
    let (kind, name) = match (word, elements) {
        (b"message", 3) => (Frame::Message as Make, Kind::Channel),
        (b"pmessage", 4) => (Frame::Message as Make, Kind::Pattern),
        (b"smessage", 3) => (Frame::Message as Make, Kind::Shard),
        (b"subscribe", 3) => (Frame::Subscribed as Make, Kind::Channel),
        (b"psubscribe", 3) => (Frame::Subscribed as Make, Kind::Pattern),
        (b"ssubscribe", 3) => (Frame::Subscribed as Make, Kind::Shard),
        (b"unsubscribe", 3) => (Frame::Unsubscribed as Make, Kind::Channel),
        (b"punsubscribe", 3) => (Frame::Unsubscribed as Make, Kind::Pattern),
        (b"sunsubscribe", 3) => (Frame::Unsubscribed as Make, Kind::Shard),
        (b"pong", 2) => return Some(Frame::Pong),
        _ => return None,
    };
    Some(kind(name, walk.bulk()?))
}

type Make = fn(Kind, Range<usize>) -> Frame;

/// A place in a frame whose bounds have been checked by the scanner.
struct Walk<'a> {
    frame: &'a [u8],
    at: usize,
}

impl Walk<'_> {
    /// The number up to the end of the line.
    fn number(&mut self) -> Option<usize> {
        let mut number = 0usize;
        loop {
            let byte = *self.frame.get(self.at)?;
            self.at += 1;
            match byte {
                b'0'..=b'9' => {
                    number = number
                        .checked_mul(10)?
                        .checked_add(usize::from(byte - b'0'))?;
                }
                b'\r' => {
                    self.at += 1;
                    return Some(number);
                }
                _ => return None,
            }
        }
    }

    /// The body of a bulk string.
    fn bulk(&mut self) -> Option<Range<usize>> {
        if *self.frame.get(self.at)? != b'$' {
            return None;
        }
        self.at += 1;
        let length = self.number()?;
        let body = self.at..self.at.checked_add(length)?;
        self.at = body.end + 2;
        (self.at <= self.frame.len()).then_some(body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(frame: &str) -> Option<(Frame, &str)> {
        let parsed = parse(frame.as_bytes())?;
        let name = match &parsed {
            Frame::Message(_, range)
            | Frame::Subscribed(_, range)
            | Frame::Unsubscribed(_, range)
            | Frame::Error(range) => &frame[range.clone()],
            Frame::Pong => "",
        };
        Some((parsed, name))
    }

    #[test]
    fn a_message_is_for_the_name_that_was_subscribed_to() {
        let (frame, name) =
            named("*3\r\n$7\r\nmessage\r\n$5\r\nnews1\r\n$2\r\nhi\r\n").expect("a message");
        assert!(matches!(frame, Frame::Message(Kind::Channel, _)));
        assert_eq!(name, "news1");
        let (frame, name) =
            named("*4\r\n$8\r\npmessage\r\n$2\r\nn*\r\n$4\r\nnews\r\n$0\r\n\r\n").expect("one");
        assert!(matches!(frame, Frame::Message(Kind::Pattern, _)));
        assert_eq!(name, "n*");
        let (frame, name) =
            named("*3\r\n$8\r\nsmessage\r\n$0\r\n\r\n$2\r\nhi\r\n").expect("a message");
        assert!(matches!(frame, Frame::Message(Kind::Shard, _)));
        assert_eq!(name, "");
    }

    #[test]
    fn answers_are_told_apart() {
        let (frame, name) = named("*3\r\n$10\r\npsubscribe\r\n$1\r\na\r\n:12\r\n").expect("one");
        assert!(matches!(frame, Frame::Subscribed(Kind::Pattern, _)));
        assert_eq!(name, "a");
        let (frame, _) = named("*3\r\n$12\r\nsunsubscribe\r\n$1\r\na\r\n:0\r\n").expect("one");
        assert!(matches!(frame, Frame::Unsubscribed(Kind::Shard, _)));
        assert_eq!(parse(b"*2\r\n$4\r\npong\r\n$0\r\n\r\n"), Some(Frame::Pong));
        assert_eq!(parse(b"+PONG\r\n"), Some(Frame::Pong));
        let (_, text) = named("-NOPERM no\r\n").expect("an error");
        assert_eq!(text, "NOPERM no");
    }

    #[test]
    fn anything_else_has_no_business_here() {
        for frame in [
            "+OK\r\n",
            ":1\r\n",
            "*0\r\n",
            "*-1\r\n",
            "*2\r\n$7\r\nmessage\r\n$1\r\na\r\n",
            "*3\r\n$7\r\nmessage\r\n:1\r\n$1\r\na\r\n",
            "*3\r\n$4\r\nnews\r\n$1\r\na\r\n$1\r\nb\r\n",
        ] {
            assert_eq!(parse(frame.as_bytes()), None, "{frame}");
        }
    }
}
