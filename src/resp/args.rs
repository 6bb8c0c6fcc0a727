//! The arguments of a command that a scanner found whole.

use super::scan::whole_length;

/// Iterates over the arguments of a whole multibulk command; made by [`args`].
#[derive(Clone, Debug)]
pub struct Args<'a> {
    rest: &'a [u8],
    left: usize,
}

/// The arguments of `command`, which a [`RequestScanner`](super::RequestScanner) found to be one
/// whole [`Kind::Multibulk`](super::Kind).
///
/// Bytes that no scanner has passed cannot make it panic: the iteration ends where they go wrong.
pub fn args(command: &[u8]) -> Args<'_> {
    let none = Args { rest: &[], left: 0 };
    let Some((b'*', rest)) = command.split_first() else {
        return none;
    };
    let Some((count, used)) = whole_length(rest) else {
        return none;
    };
    // An argument takes six bytes or more, so a count that the bytes cannot hold is cut down here.
    let rest = &rest[used..];
    let left = usize::try_from(count).map_or(0, |count| count.min(rest.len() / 6));
    Args { rest, left }
}

impl<'a> Args<'a> {
    fn split_bulk(&self) -> Option<(&'a [u8], &'a [u8])> {
        let header = self.rest.strip_prefix(b"$")?;
        let (len, used) = whole_length(header)?;
        let body = &header[used..];
        let end = usize::try_from(len).ok()?;
        let rest = body.get(end.checked_add(2)?..)?;
        Some((&body[..end], rest))
    }
}

impl<'a> Iterator for Args<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        if self.left == 0 {
            return None;
        }
        match self.split_bulk() {
            Some((arg, rest)) => {
                self.rest = rest;
                self.left -= 1;
                Some(arg)
            }
            None => {
                self.left = 0;
                None
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Args<'_> {}

impl std::iter::FusedIterator for Args<'_> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_each_argument_once() {
        let mut args = args(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$4\r\na\r\nb\r\n");
        assert_eq!(args.len(), 3);
        assert_eq!(args.next(), Some(&b"SET"[..]));
        assert_eq!(args.len(), 2);
        assert_eq!(args.next(), Some(&b"k"[..]));
        assert_eq!(args.next(), Some(&b"a\r\nb"[..]));
        assert_eq!(args.next(), None);
        assert_eq!(args.len(), 0);
    }

    #[test]
    fn bytes_that_are_no_command_end_the_iteration() {
        for bytes in [
            &b""[..],
            b"*",
            b"*0\r\n",
            b"*-1\r\n",
            b"PING\r\n",
            b"*2\r\n",
            b"*1\r\n$9\r\nab\r\n",
            b"*1\r\n$18446744073709551615\r\nab\r\n",
            b"*1\r\n+OK\r\nxxxx\r\n",
        ] {
            assert_eq!(args(bytes).count(), 0, "{bytes:?}");
        }
        assert_eq!(args(b"*999999999999\r\n$1\r\na\r\n").count(), 1);
    }
}
