//! Replies in the protocol of the client that asks.
//!
//! Each value of RESP3 has a form of its own in RESP2, whatever it lies in, and what an aggregate holds
//! needs no end. So a reply is rendered value by value in one pass, without a stack: the
//! [shape](Shape) tells the little that depends on the command. What is alike in both protocols is
//! copied, as much at once as there is. Servers print a number the same way in both.

use super::entry::Entry;
use super::shape::Shape;
use crate::resp::Protocol::{self, Resp2};
use crate::resp::encode;

/// Puts the entry's reply into `out` as the server would have sent it to a client of this protocol.
#[inline]
pub fn render(entry: &Entry, protocol: Protocol, out: &mut Vec<u8>) {
    render_reply(entry.reply(), entry.shape, entry.protocol, protocol, out);
}

/// Puts a whole reply that is in protocol `from` into `out` as the server would have sent it in protocol
/// `to`. One in RESP2 is left as it is: it says less than RESP3 would need.
#[inline]
pub fn render_reply(reply: &[u8], shape: Shape, from: Protocol, to: Protocol, out: &mut Vec<u8>) {
    let alike = matches!(reply.first(), Some(b'$' | b':' | b'+' | b'-') | None);
    if alike || from == to || from == Resp2 {
        out.extend_from_slice(reply);
    } else {
        translate(reply, shape, out);
    }
}

/// Puts a reply in RESP3 into `out` in RESP2. Bytes that are no reply are copied from where they go wrong.
fn translate(reply: &[u8], shape: Shape, out: &mut Vec<u8>) {
    out.reserve(reply.len());
    let mut at = 0;
    // What lies before is in `out`.
    let mut done = 0;
    // Values of attributes, which RESP2 does not have.
    let mut left_out = 0_usize;
    let mut is_first = true;
    while let Some(value) = Value::read(&reply[at..]) {
        let start = at;
        at += value.size;
        let is_attribute = value.mark == b'|';
        if left_out > 0 || is_attribute {
            out.extend_from_slice(&reply[done..start]);
            done = at;
            left_out -= usize::from(!is_attribute);
            left_out = left_out.saturating_add(value.elements());
            continue;
        }
        let was_first = std::mem::take(&mut is_first);
        let may_be_pair = shape == Shape::Pairs && value.mark == b'*';
        if value.is_alike() && !may_be_pair {
            continue;
        }
        out.extend_from_slice(&reply[done..start]);
        done = at;
        if !may_be_pair {
            put(&value, shape, out);
        } else if was_first {
            // They are pairs if arrays they are; else members only. Within a pair there is no array.
            let each = if reply.get(at) == Some(&b'*') { 2 } else { 1 };
            encode::array_header(out, value.count.saturating_mul(each));
        }
    }
    out.extend_from_slice(&reply[done..]);
}

/// Puts a value that looks different in RESP2.
fn put(value: &Value<'_>, shape: Shape, out: &mut Vec<u8>) {
    match value.mark {
        b'_' if shape == Shape::NullArray => encode::null_array(out, Resp2),
        b'_' => encode::null(out, Resp2),
        b'#' => encode::boolean(out, Resp2, value.text == b"t"),
        b',' | b'(' => encode::bulk(out, value.text),
        // Three letters and a colon say what kind of text it is.
        b'=' => encode::bulk(out, value.text.get(4..).unwrap_or_default()),
        b'!' => encode::error(out, value.text),
        _ => encode::array_header(out, value.elements()),
    }
}

/// A value at the front of some bytes; of an aggregate only what comes before its elements.
struct Value<'a> {
    mark: u8,
    /// Of a string or a line what it says.
    text: &'a [u8],
    /// Of an aggregate the number in its line.
    count: usize,
    /// All its bytes.
    size: usize,
}

impl<'a> Value<'a> {
    #[inline]
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let (&mark, line) = bytes.split_first()?;
        let (text, count, used) = match mark {
            b'$' | b'=' | b'!' | b'*' | b'%' | b'~' | b'>' | b'|' if !line.starts_with(b"-") => {
                let (number, used) = number(line)?;
                if matches!(mark, b'$' | b'=' | b'!') {
                    let end = used.checked_add(number)?;
                    let text = line.get(used..end)?;
                    line.get(end..)?.starts_with(b"\r\n").then_some(())?;
                    (text, 0, end + 2)
                } else {
                    (&line[..0], number, used)
                }
            }
            _ => {
                let end = memchr::memchr(b'\r', line)?;
                (line.get(end + 1) == Some(&b'\n')).then_some(())?;
                (&line[..end], 0, end + 2)
            }
        };
        Some(Self {
            mark,
            text,
            count,
            size: 1 + used,
        })
    }

    /// RESP2 has the same.
    #[inline]
    fn is_alike(&self) -> bool {
        matches!(self.mark, b'$' | b':' | b'*' | b'+' | b'-')
    }

    /// How many values of its own follow.
    fn elements(&self) -> usize {
        match self.mark {
            b'%' | b'|' => self.count.saturating_mul(2),
            _ => self.count,
        }
    }
}

/// A number at the front of a line, and how many bytes there are to the line's end.
#[inline]
fn number(line: &[u8]) -> Option<(usize, usize)> {
    let mut number = 0_usize;
    for (at, &byte) in line.iter().enumerate() {
        match byte {
            b'0'..=b'9' => {
                let digit = usize::from(byte - b'0');
                number = number.checked_mul(10)?.checked_add(digit)?;
            }
            b'\r' if at > 0 && line.get(at + 1) == Some(&b'\n') => return Some((number, at + 2)),
            _ => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::Protocol::Resp3;
    use crate::resp::{ReplyScan, ReplyScanner};
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn rendered(shape: Shape, reply: &[u8]) -> Vec<u8> {
        let mut out = b"before|".to_vec();
        render_reply(reply, shape, Resp3, Resp2, &mut out);
        out.strip_prefix(b"before|").expect("appends").to_vec()
    }

    fn text(shape: Shape, reply: &str) -> String {
        String::from_utf8(rendered(shape, reply.as_bytes())).expect("text")
    }

    #[test]
    fn one_protocol_needs_no_rendering_and_resp2_stays_as_it_is() {
        let reply = b"%1\r\n+a\r\n_\r\n";
        for (from, to) in [(Resp3, Resp3), (Resp2, Resp2), (Resp2, Resp3)] {
            let mut out = Vec::new();
            render_reply(reply, Shape::Plain, from, to, &mut out);
            assert_eq!(out, reply);
        }
    }

    #[test]
    fn scalars() {
        for same in [
            "$3\r\na\r\n\r\n",
            "$0\r\n\r\n",
            "$-1\r\n",
            ":-5\r\n",
            "+OK\r\n",
            "-ERR x\r\n",
        ] {
            assert_eq!(text(Shape::Plain, same), same);
            let inside = format!("*2\r\n{same}{same}");
            assert_eq!(text(Shape::Plain, &inside), inside);
        }
        assert_eq!(text(Shape::Plain, "_\r\n"), "$-1\r\n");
        assert_eq!(text(Shape::NullArray, "_\r\n"), "*-1\r\n");
        assert_eq!(text(Shape::Plain, "#t\r\n"), ":1\r\n");
        assert_eq!(text(Shape::Plain, "#f\r\n"), ":0\r\n");
        assert_eq!(text(Shape::Plain, "=6\r\ntxt:hi\r\n"), "$2\r\nhi\r\n");
        assert_eq!(text(Shape::Plain, "!6\r\nERR\r\nx\r\n"), "-ERR  x\r\n");
        assert_eq!(
            text(Shape::Plain, "(-12345678901\r\n"),
            "$12\r\n-12345678901\r\n"
        );
        for double in [
            "inf",
            "-inf",
            "nan",
            "-0",
            "1e+308",
            "0.10000000000000001",
            "4.9406564584124654e-324",
        ] {
            assert_eq!(
                text(Shape::Plain, &format!(",{double}\r\n")),
                format!("${}\r\n{double}\r\n", double.len())
            );
        }
    }

    #[test]
    fn aggregates() {
        let map = "%2\r\n$1\r\na\r\n:1\r\n$1\r\nb\r\n_\r\n";
        assert_eq!(
            text(Shape::Hash, map),
            "*4\r\n$1\r\na\r\n:1\r\n$1\r\nb\r\n$-1\r\n"
        );
        assert_eq!(text(Shape::Plain, "~1\r\n$1\r\na\r\n"), "*1\r\n$1\r\na\r\n");
        assert_eq!(text(Shape::Hash, "%0\r\n"), "*0\r\n");
        let places = "*2\r\n*2\r\n,1.5\r\n,2\r\n_\r\n";
        assert_eq!(
            text(Shape::NullArray, places),
            "*2\r\n*2\r\n$3\r\n1.5\r\n$1\r\n2\r\n*-1\r\n"
        );
        let rank = "*2\r\n:0\r\n,2\r\n";
        assert_eq!(text(Shape::NullArray, rank), "*2\r\n:0\r\n$1\r\n2\r\n");
    }

    #[test]
    fn pairs_lie_flat() {
        let scores = "*2\r\n*2\r\n$1\r\na\r\n,1\r\n*2\r\n$1\r\nb\r\n,inf\r\n";
        assert_eq!(
            text(Shape::Pairs, scores),
            "*4\r\n$1\r\na\r\n$1\r\n1\r\n$1\r\nb\r\n$3\r\ninf\r\n"
        );
        let members = "*2\r\n$4\r\n*2\r\n\r\n$1\r\nb\r\n";
        assert_eq!(text(Shape::Pairs, members), members);
        assert_eq!(text(Shape::Pairs, "*0\r\n"), "*0\r\n");
    }

    #[test]
    fn attributes_are_left_out_with_all_they_hold() {
        let reply =
            "|1\r\n+ttl\r\n%1\r\n+a\r\n*2\r\n:1\r\n:2\r\n*2\r\n:1\r\n|1\r\n:7\r\n|0\r\n:8\r\n_\r\n";
        assert_eq!(text(Shape::Plain, reply), "*2\r\n:1\r\n$-1\r\n");
    }

    #[test]
    fn deep_nesting_takes_no_stack() {
        let deep = ["*1\r\n".repeat(1_000_000), "_\r\n".to_owned()].concat();
        let expected = ["*1\r\n".repeat(1_000_000), "$-1\r\n".to_owned()].concat();
        assert!(text(Shape::Plain, &deep) == expected);
    }

    /// A value in both protocols.
    type Both = (Vec<u8>, Vec<u8>);

    fn both(write: impl Fn(&mut Vec<u8>, Protocol)) -> Both {
        let (mut three, mut two) = (Vec::new(), Vec::new());
        write(&mut three, Resp3);
        write(&mut two, Resp2);
        (three, two)
    }

    fn values() -> impl Strategy<Value = Both> {
        let leaf = prop_oneof![
            vec(any::<u8>(), 0..40).prop_map(|bytes| both(|out, _| encode::bulk(out, &bytes))),
            any::<i64>().prop_map(|n| both(|out, _| encode::integer(out, n))),
            any::<f64>().prop_map(|n| both(|out, to| encode::double(out, to, n))),
            any::<bool>().prop_map(|b| both(|out, to| encode::boolean(out, to, b))),
            Just(both(encode::null)),
            ".*".prop_map(|line| both(|out, _| encode::simple(out, &line))),
            ".*".prop_map(|line| both(|out, _| encode::error(out, &line))),
            vec(any::<u8>(), 0..40)
                .prop_map(|bytes| both(|out, to| encode::verbatim(out, to, "txt", &bytes))),
        ];
        leaf.prop_recursive(6, 60, 14, |value| {
            (0..3, vec((value.clone(), value), 0..7)).prop_map(|(kind, pairs)| {
                let (mut three, mut two) = both(|out, to| match kind {
                    0 => encode::array_header(out, pairs.len() * 2),
                    1 => encode::set_header(out, pairs.len() * 2, to),
                    _ => encode::map_header(out, pairs.len(), to),
                });
                for (a, b) in pairs {
                    three.extend([a.0, b.0].concat());
                    two.extend([a.1, b.1].concat());
                }
                (three, two)
            })
        })
    }

    fn shapes() -> impl Strategy<Value = Shape> {
        prop_oneof![
            Just(Shape::Plain),
            Just(Shape::Hash),
            Just(Shape::NullArray),
            Just(Shape::Pairs)
        ]
    }

    proptest! {
        #[test]
        fn every_value_becomes_what_we_would_have_said_ourselves((three, two) in values()) {
            prop_assert_eq!(rendered(Shape::Plain, &three), two);
        }

        #[test]
        fn pairs_of_anything_lie_flat(pairs in vec((vec(any::<u8>(), 0..9), any::<f64>()), 0..30)) {
            let (mut three, mut two) = (Vec::new(), Vec::new());
            encode::array_header(&mut three, pairs.len());
            encode::array_header(&mut two, pairs.len() * 2);
            for (member, score) in &pairs {
                encode::array_header(&mut three, 2);
                for (out, to) in [(&mut three, Resp3), (&mut two, Resp2)] {
                    encode::bulk(out, member);
                    encode::double(out, to, *score);
                }
            }
            prop_assert_eq!(rendered(Shape::Pairs, &three), two);
        }

        #[test]
        fn no_bytes_do_harm(bytes in vec(any::<u8>(), 0..300), shape in shapes()) {
            rendered(shape, &bytes);
        }

        #[test]
        fn no_bytes_that_look_like_a_reply_do_harm(
            words in vec(
                prop::sample::select(vec![
                    "*", "%", "~", ">", "|", "$", "=", "!", ",", "_", "#", ":", "+", "-", "(", "0", "1", "2", "9",
                    "18446744073709551615", "\r\n", "\r", "\n", "*2\r\n", "$1\r\na\r\n", "|1\r\n", "=2\r\nab\r\n",
                ]),
                0..40,
            ),
            shape in shapes(),
        ) {
            let out = rendered(shape, words.concat().as_bytes());
            prop_assert!(out.len() < 2000);
        }

        #[test]
        fn what_comes_out_is_one_whole_reply((three, _) in values(), shape in shapes()) {
            // Other arrays than those of pairs are not to be flattened.
            prop_assume!(shape != Shape::Pairs);
            let out = rendered(shape, &three);
            let scan = ReplyScanner::new().scan(&out);
            prop_assert!(
                matches!(scan, Ok(ReplyScan::Complete { consumed, .. }) if consumed == out.len()),
                "{scan:?}"
            );
        }
    }
}
