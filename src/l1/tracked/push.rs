//! What a push says, read without decoding it.

/// What may have changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Invalidated {
    /// The push is about something else.
    Nothing,
    /// So many keys.
    Keys(u64),
    /// Any key.
    Everything,
}

/// Reads a whole push and calls `touch` with each key that it names. One that invalidates in a form which
/// is not understood invalidates everything.
pub(super) fn invalidated(frame: &[u8], mut touch: impl FnMut(&[u8])) -> Invalidated {
    let mut rest = frame;
    if line(&mut rest).is_none() || bulk(&mut rest) != Some(b"invalidate") {
        return Invalidated::Nothing;
    }
    let keys = line(&mut rest)
        .and_then(|head| head.strip_prefix(b"*"))
        .and_then(number);
    let Some(keys) = keys else {
        return Invalidated::Everything; // a null, in any form
    };
    for _ in 0..keys {
        match bulk(&mut rest) {
            Some(key) => touch(key),
            None => return Invalidated::Everything,
        }
    }
    Invalidated::Keys(keys)
}

fn number(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Takes a line off, without its end.
fn line<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = memchr::memchr(b'\r', rest)?;
    let line = &rest[..end];
    *rest = rest.get(end + 2..)?;
    Some(line)
}

/// Takes a bulk string off.
fn bulk<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = number(line(rest)?.strip_prefix(b"$")?)?;
    let (body, behind) = rest.split_at_checked(usize::try_from(length).ok()?)?;
    *rest = behind.get(2..)?;
    Some(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(frame: &[u8]) -> (Invalidated, Vec<Vec<u8>>) {
        let mut keys = Vec::new();
        let what = invalidated(frame, |key| keys.push(key.to_vec()));
        (what, keys)
    }

    #[test]
    fn every_key_of_a_push_is_named_whatever_its_bytes() {
        let (what, keys) =
            read(b">2\r\n$10\r\ninvalidate\r\n*3\r\n$1\r\na\r\n$0\r\n\r\n$4\r\n\r\n\xff$\r\n");
        assert_eq!(what, Invalidated::Keys(3));
        assert_eq!(keys, [b"a".to_vec(), b"".to_vec(), b"\r\n\xff$".to_vec()]);
        assert_eq!(
            read(b">2\r\n$10\r\ninvalidate\r\n*0\r\n").0,
            Invalidated::Keys(0)
        );
    }

    #[test]
    fn a_null_and_what_is_not_understood_is_everything() {
        for list in ["_\r\n", "*-1\r\n", "$-1\r\n", "*1\r\n:1\r\n", "+all\r\n"] {
            let frame = format!(">2\r\n$10\r\ninvalidate\r\n{list}");
            assert_eq!(read(frame.as_bytes()).0, Invalidated::Everything, "{list}");
        }
    }

    #[test]
    fn other_pushes_are_nothing() {
        for frame in [
            &b">2\r\n$21\r\ntracking-redir-broken\r\n:7\r\n"[..],
            b">3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nb\r\n",
            b">1\r\n:1\r\n",
        ] {
            assert_eq!(read(frame), (Invalidated::Nothing, Vec::new()));
        }
    }
}
