//! Writes what Nearkey itself says: replies to clients, commands to Redis.

use super::Protocol;
use std::io::Write;

/// Appends a simple string; a CR or LF in `text` becomes a blank.
pub fn simple(out: &mut Vec<u8>, text: &str) {
    line(out, b'+', text.as_bytes());
}

/// Appends an error; `text` begins with its code (`ERR ..`), and a CR or LF in it becomes a blank.
pub fn error(out: &mut Vec<u8>, text: impl AsRef<[u8]>) {
    line(out, b'-', text.as_ref());
}

/// Appends an integer.
pub fn integer(out: &mut Vec<u8>, value: i64) {
    number(out, b':', value);
}

/// Appends a bulk string.
pub fn bulk(out: &mut Vec<u8>, bytes: &[u8]) {
    header(out, b'$', bytes.len());
    out.reserve(bytes.len() + 2);
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// Appends a null; RESP2 knows it as a bulk string without a length.
pub fn null(out: &mut Vec<u8>, protocol: Protocol) {
    out.extend_from_slice(match protocol {
        Protocol::Resp2 => b"$-1\r\n",
        Protocol::Resp3 => b"_\r\n",
    });
}

/// Appends a null where an array was asked for.
pub fn null_array(out: &mut Vec<u8>, protocol: Protocol) {
    out.extend_from_slice(match protocol {
        Protocol::Resp2 => b"*-1\r\n",
        Protocol::Resp3 => b"_\r\n",
    });
}

/// Appends a boolean; RESP2 gets 1 or 0.
pub fn boolean(out: &mut Vec<u8>, protocol: Protocol, value: bool) {
    match protocol {
        Protocol::Resp2 => integer(out, i64::from(value)),
        Protocol::Resp3 => line(out, b'#', if value { b"t" } else { b"f" }),
    }
}

/// Appends a double; RESP2 gets its text as a bulk string.
pub fn double(out: &mut Vec<u8>, protocol: Protocol, value: f64) {
    // RESP3 spells not-a-number in lower case, and infinity as Rust does.
    let text = if value.is_nan() {
        "nan".to_owned()
    } else {
        value.to_string()
    };
    match protocol {
        Protocol::Resp2 => bulk(out, text.as_bytes()),
        Protocol::Resp3 => line(out, b',', text.as_bytes()),
    }
}

/// Appends a string for people to read; RESP2 gets a bulk string.
pub fn verbatim(out: &mut Vec<u8>, protocol: Protocol, format: &str, bytes: &[u8]) {
    debug_assert_eq!(format.len(), 3, "RESP3 wants three bytes");
    match protocol {
        Protocol::Resp2 => bulk(out, bytes),
        Protocol::Resp3 => {
            header(out, b'=', format.len() + 1 + bytes.len());
            out.extend_from_slice(format.as_bytes());
            out.push(b':');
            out.extend_from_slice(bytes);
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// Begins an array of `len` elements, which the caller appends next.
pub fn array_header(out: &mut Vec<u8>, len: usize) {
    header(out, b'*', len);
}

/// Begins a map of `len` pairs; RESP2 gets an array of keys and values in turn.
pub fn map_header(out: &mut Vec<u8>, len: usize, protocol: Protocol) {
    match protocol {
        Protocol::Resp2 => header(out, b'*', len * 2),
        Protocol::Resp3 => header(out, b'%', len),
    }
}

/// Begins a set of `len` elements; RESP2 gets an array.
pub fn set_header(out: &mut Vec<u8>, len: usize, protocol: Protocol) {
    header(out, aggregate(protocol, b'~'), len);
}

/// Begins a push of `len` elements; RESP2 gets an array.
pub fn push_header(out: &mut Vec<u8>, len: usize, protocol: Protocol) {
    header(out, aggregate(protocol, b'>'), len);
}

/// Appends a whole command as an array of bulk strings.
pub fn command(out: &mut Vec<u8>, args: &[&[u8]]) {
    array_header(out, args.len());
    for arg in args {
        bulk(out, arg);
    }
}

fn aggregate(protocol: Protocol, resp3: u8) -> u8 {
    match protocol {
        Protocol::Resp2 => b'*',
        Protocol::Resp3 => resp3,
    }
}

fn line(out: &mut Vec<u8>, mark: u8, text: &[u8]) {
    out.push(mark);
    let from = out.len();
    out.extend_from_slice(text);
    for byte in &mut out[from..] {
        if matches!(byte, b'\r' | b'\n') {
            *byte = b' ';
        }
    }
    out.extend_from_slice(b"\r\n");
}

fn header(out: &mut Vec<u8>, mark: u8, len: usize) {
    // Most lengths have one or two digits, and formatting costs ten times this.
    match u8::try_from(len) {
        Ok(len @ 0..=9) => out.extend_from_slice(&[mark, b'0' + len, b'\r', b'\n']),
        Ok(len @ 10..=99) => {
            out.extend_from_slice(&[mark, b'0' + len / 10, b'0' + len % 10, b'\r', b'\n']);
        }
        _ => number(out, mark, len),
    }
}

fn number(out: &mut Vec<u8>, mark: u8, value: impl std::fmt::Display) {
    write!(out, "{}{value}\r\n", char::from(mark)).expect("writing to a Vec cannot fail");
}

#[cfg(test)]
mod tests {
    use super::Protocol::{Resp2, Resp3};
    use super::*;

    fn wrote(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = b"before|".to_vec();
        write(&mut out);
        let text = String::from_utf8(out).expect("text");
        text.strip_prefix("before|").expect("appends").to_owned()
    }

    #[test]
    fn scalars() {
        assert_eq!(wrote(|out| simple(out, "OK")), "+OK\r\n");
        assert_eq!(wrote(|out| error(out, "ERR a\r\nb")), "-ERR a  b\r\n");
        assert_eq!(
            wrote(|out| integer(out, i64::MIN)),
            ":-9223372036854775808\r\n"
        );
        assert_eq!(wrote(|out| integer(out, 7)), ":7\r\n");
        assert_eq!(wrote(|out| bulk(out, b"")), "$0\r\n\r\n");
        assert_eq!(
            wrote(|out| bulk(out, b"0123456789")),
            "$10\r\n0123456789\r\n"
        );
    }

    #[test]
    fn what_resp2_lacks_becomes_what_it_has() {
        assert_eq!(wrote(|out| null(out, Resp2)), "$-1\r\n");
        assert_eq!(wrote(|out| null(out, Resp3)), "_\r\n");
        assert_eq!(wrote(|out| null_array(out, Resp2)), "*-1\r\n");
        assert_eq!(wrote(|out| null_array(out, Resp3)), "_\r\n");
        assert_eq!(wrote(|out| boolean(out, Resp2, true)), ":1\r\n");
        assert_eq!(wrote(|out| boolean(out, Resp3, false)), "#f\r\n");
        assert_eq!(wrote(|out| double(out, Resp2, 1.5)), "$3\r\n1.5\r\n");
        assert_eq!(wrote(|out| double(out, Resp3, -0.25)), ",-0.25\r\n");
        assert_eq!(
            wrote(|out| double(out, Resp3, f64::NEG_INFINITY)),
            ",-inf\r\n"
        );
        assert_eq!(wrote(|out| double(out, Resp3, f64::NAN)), ",nan\r\n");
        assert_eq!(
            wrote(|out| verbatim(out, Resp2, "txt", b"hi")),
            "$2\r\nhi\r\n"
        );
        assert_eq!(
            wrote(|out| verbatim(out, Resp3, "txt", b"hi")),
            "=6\r\ntxt:hi\r\n"
        );
    }

    #[test]
    fn aggregates() {
        assert_eq!(wrote(|out| array_header(out, 0)), "*0\r\n");
        for len in [9, 10, 12, 99, 100, 255, 256, 1000] {
            assert_eq!(wrote(|out| array_header(out, len)), format!("*{len}\r\n"));
        }
        assert_eq!(wrote(|out| map_header(out, 3, Resp2)), "*6\r\n");
        assert_eq!(wrote(|out| map_header(out, 3, Resp3)), "%3\r\n");
        assert_eq!(wrote(|out| set_header(out, 3, Resp2)), "*3\r\n");
        assert_eq!(wrote(|out| set_header(out, 3, Resp3)), "~3\r\n");
        assert_eq!(wrote(|out| push_header(out, 3, Resp2)), "*3\r\n");
        assert_eq!(wrote(|out| push_header(out, 3, Resp3)), ">3\r\n");
    }

    #[test]
    fn a_command_is_an_array_of_bulk_strings() {
        assert_eq!(
            wrote(|out| command(out, &[b"GET", b"k"])),
            "*2\r\n$3\r\nGET\r\n$1\r\nk\r\n"
        );
    }
}
