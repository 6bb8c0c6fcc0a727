//! Requests: where one command of a client ends and the next begins.
//!
//! A command is an array of bulk strings, or a line (see [`inline`](super::inline)). The rules and
//! the words of the errors are those of Redis 7.0.15, stricter in one point: Redis skips the byte
//! after a CR and the two bytes after a bulk without a look, the scanner wants CR LF.

use super::http::LineWatch;
use super::scan::{Fed, LengthLine, take_body, whole_length};
use super::{
    MAX_ARGS, MAX_BULK, MAX_INLINE, ProtocolError, UNAUTHENTICATED_ARGS, UNAUTHENTICATED_BULK,
};
use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

pub use super::args::{Args, args};

/// Finds the ends of commands in a client's bytes, which may arrive in any pieces.
///
/// It looks at each byte once, allocates nothing, and after an error it repeats that error.
#[derive(Clone, Debug, Default)]
pub struct RequestScanner {
    phase: Phase,
    consumed: u64,
    argc: u32,
    /// Arguments that are not complete.
    missing: u32,
    first_args: [Arg; 2],
}

/// What a scanner found in its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scan {
    /// All input was consumed, the command is not complete.
    Incomplete,
    /// A whole command ends after `consumed` bytes of this input.
    Complete {
        /// Bytes of this input that belong to the command.
        consumed: usize,
        /// What the command is.
        kind: Kind,
    },
}

/// The form of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// An array of bulk strings, for [`args`](args()).
    Multibulk,
    /// A line with a word on it, for [`inline::split`](super::inline::split).
    Inline,
    /// An array of no elements or a blank line: nothing to do and nothing to answer.
    Empty,
}

/// What a client may send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most arguments of a command.
    pub max_args: u32,
    /// Longest argument, in bytes.
    pub max_bulk: u64,
    /// Whether the client has authenticated, or need not. Until then [`UNAUTHENTICATED_ARGS`] and
    /// [`UNAUTHENTICATED_BULK`] hold as well.
    pub authenticated: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_args: MAX_ARGS,
            max_bulk: MAX_BULK,
            authenticated: true,
        }
    }
}

/// Why a client cannot be served any further.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestError {
    /// It broke the protocol.
    Protocol(ProtocolError),
    /// It speaks HTTP: a request line, a `Host:` header, or `POST`. Nothing it sends may be executed
    /// (a browser can be made to send such bytes across origins).
    Http,
    /// It began a TLS handshake.
    Tls,
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Protocol(error) => error.fmt(f),
            Self::Http => f.write_str("the client speaks HTTP"),
            Self::Tls => f.write_str("the client began a TLS handshake"),
        }
    }
}

impl std::error::Error for RequestError {}

#[derive(Clone, Copy, Debug, Default)]
enum Phase {
    /// At a command boundary.
    #[default]
    Idle,
    /// Within an inline command.
    Inline(LineWatch),
    /// Within the line with the number of arguments.
    Count(LengthLine),
    /// Before an argument.
    Mark,
    /// Within the line with an argument's length; `mark` is the byte before the length.
    Length {
        mark: u8,
        line: LengthLine,
    },
    /// Within an argument, `left` bytes (its CRLF included) before its end.
    Body {
        left: u64,
    },
    Failed(Fault),
}

#[derive(Clone, Copy, Debug, Default)]
struct Arg {
    /// Offset from the command's first byte; 0 is not known yet.
    start: u64,
    len: u64,
}

/// [`RequestError`] as the scanner keeps it.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Http,
    Tls,
    Count,
    CountTooBig,
    CountUnauthenticated,
    Mark(u8),
    Bulk,
    BulkLineTooBig,
    BulkUnauthenticated,
    InlineTooBig,
}

impl Fault {
    fn error(self) -> RequestError {
        let text = match self {
            Self::Http => return RequestError::Http,
            Self::Tls => return RequestError::Tls,
            Self::Count => "invalid multibulk length",
            Self::CountTooBig => "too big mbulk count string",
            Self::CountUnauthenticated => "unauthenticated multibulk length",
            Self::Bulk => "invalid bulk length",
            Self::BulkLineTooBig => "too big bulk count string",
            Self::BulkUnauthenticated => "unauthenticated bulk length",
            Self::InlineTooBig => "too big inline request",
            Self::Mark(byte) => {
                let text = format!("expected '$', got '{}'", printable(byte));
                return RequestError::Protocol(ProtocolError(Cow::Owned(text)));
            }
        };
        RequestError::Protocol(ProtocolError(Cow::Borrowed(text)))
    }
}

/// Redis turns CR and LF into blanks and sends other bytes as they are.
fn printable(byte: u8) -> char {
    match byte {
        b'\r' | b'\n' => ' ',
        b' '..=b'~' => char::from(byte),
        _ => '?',
    }
}

/// Redis counts the byte before the length too.
const LENGTH_LINE_LIMIT: u32 = MAX_INLINE as u32 - 1;

/// First byte of a TLS handshake record.
const TLS_HANDSHAKE: u8 = 0x16;

/// Size of an empty argument, `$0` and two line ends.
const SMALLEST_ARG: u64 = 6;

impl RequestScanner {
    /// A scanner at a command boundary.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads on to the end of a command. `input` continues exactly where the bytes consumed by the
    /// previous call ended.
    ///
    /// # Errors
    /// The client cannot be served any further; every later call gives the same error.
    #[inline]
    pub fn scan(&mut self, input: &[u8], limits: &Limits) -> Result<Scan, RequestError> {
        #[cfg(test)]
        super::steps::count(input.len());
        match self.advance(input, limits) {
            Ok(Some((consumed, kind))) => {
                self.consumed += consumed as u64;
                self.phase = Phase::Idle;
                Ok(Scan::Complete { consumed, kind })
            }
            Ok(None) => {
                self.consumed += input.len() as u64;
                Ok(Scan::Incomplete)
            }
            Err(fault) => {
                self.phase = Phase::Failed(fault);
                Err(fault.error())
            }
        }
    }

    /// Whether the scanner is at a command boundary.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Idle)
    }

    /// Bytes of the command in progress consumed so far; 0 at a command boundary.
    #[must_use]
    pub fn consumed(&self) -> u64 {
        if self.is_idle() { 0 } else { self.consumed }
    }

    /// Size of the command that [`scan`](Self::scan) completed last, valid until its next call.
    #[must_use]
    pub fn completed(&self) -> u64 {
        if self.is_idle() { self.consumed } else { 0 }
    }

    /// Bytes that the command in progress will have at least: those consumed, the rest of the
    /// argument in progress, and the smallest form of the arguments still to come.
    #[must_use]
    pub fn at_least(&self) -> u64 {
        let later = u64::from(self.missing.saturating_sub(1)) * SMALLEST_ARG;
        let current = match self.phase {
            Phase::Idle => return 0,
            Phase::Failed(_) => return self.consumed,
            Phase::Inline(_) | Phase::Count(_) => 1,
            Phase::Mark => SMALLEST_ARG,
            Phase::Length { line, .. } => (SMALLEST_ARG - 1)
                .saturating_sub(u64::from(line.seen()))
                .max(1),
            Phase::Body { left } => left,
        };
        self.consumed + current + later
    }

    /// Arguments that the current or just completed command declares; 0 for an inline command.
    #[must_use]
    pub fn argc(&self) -> u32 {
        self.argc
    }

    /// Where argument `i` (0 or 1) of the current or just completed multibulk command lies, from the
    /// command's first byte. `None` until the argument has arrived whole.
    #[must_use]
    pub fn arg(&self, i: usize) -> Option<Range<usize>> {
        let arg = self.first_args.get(i)?;
        let end = arg.start + arg.len;
        if arg.start == 0 || end > self.consumed {
            return None;
        }
        Some(usize::try_from(arg.start).ok()?..usize::try_from(end).ok()?)
    }

    #[inline(always)]
    fn advance(&mut self, input: &[u8], limits: &Limits) -> Result<Option<(usize, Kind)>, Fault> {
        let mut at = 0;
        if let Phase::Idle = self.phase {
            let Some(&first) = input.first() else {
                return Ok(None);
            };
            self.begin(first)?;
            at = usize::from(first == b'*');
        }
        match self.phase {
            Phase::Failed(fault) => return Err(fault),
            Phase::Inline(watch) => return self.inline(watch, input),
            Phase::Count(line) => match self.count(line, input, at, limits)? {
                None => return Ok(None),
                Some(next) if self.missing == 0 => return Ok(Some((next, Kind::Empty))),
                Some(next) => at = next,
            },
            _ => {}
        }
        let end = self.arguments(input, at, limits)?;
        Ok(end.map(|end| (end, Kind::Multibulk)))
    }

    #[inline(always)]
    fn begin(&mut self, first: u8) -> Result<(), Fault> {
        self.consumed = 0;
        self.argc = 0;
        self.missing = 0;
        self.first_args = [Arg::default(); 2];
        self.phase = match first {
            b'*' => Phase::Count(LengthLine::default()),
            TLS_HANDSHAKE => return Err(Fault::Tls),
            _ => Phase::Inline(LineWatch::default()),
        };
        Ok(())
    }

    /// Reads the number of arguments; gives where its line ends.
    #[inline(always)]
    fn count(
        &mut self,
        mut line: LengthLine,
        input: &[u8],
        at: usize,
        limits: &Limits,
    ) -> Result<Option<usize>, Fault> {
        let rest = &input[at..];
        let (count, used) = match whole_length(rest).filter(|_| line.is_fresh()) {
            Some((count, used)) => (count, used),
            None => match line.feed(rest, LENGTH_LINE_LIMIT) {
                Fed::More => {
                    self.phase = Phase::Count(line);
                    return Ok(None);
                }
                // A negative number of arguments counts as none.
                Fed::Done {
                    used,
                    number: Some(number),
                } => (u64::try_from(number).unwrap_or(0), used),
                Fed::Done { number: None, .. } | Fed::BadEnd => return Err(Fault::Count),
                Fed::TooLong => return Err(Fault::CountTooBig),
            },
        };
        let allowed = u32::try_from(count)
            .ok()
            .filter(|&count| count <= limits.max_args);
        self.argc = allowed.ok_or(Fault::Count)?;
        if self.argc > UNAUTHENTICATED_ARGS && !limits.authenticated {
            return Err(Fault::CountUnauthenticated);
        }
        self.missing = self.argc;
        self.phase = Phase::Mark;
        Ok(Some(at + used))
    }

    /// Reads arguments; gives where the last one ends.
    #[inline(always)]
    fn arguments(
        &mut self,
        input: &[u8],
        mut at: usize,
        limits: &Limits,
    ) -> Result<Option<usize>, Fault> {
        loop {
            let left = match self.phase {
                Phase::Body { left } => left,
                _ => match self.length(input, at, limits)? {
                    None => return Ok(None),
                    Some((len, next)) => {
                        at = next;
                        self.record(at, len);
                        len + 2
                    }
                },
            };
            let rest = &input[at..];
            let taken = take_body(left, rest).ok_or(Fault::Bulk)?;
            if (taken as u64) < left {
                self.phase = Phase::Body {
                    left: left - taken as u64,
                };
                return Ok(None);
            }
            at += taken;
            self.missing -= 1;
            if self.missing == 0 {
                return Ok(Some(at));
            }
            self.phase = Phase::Mark;
        }
    }

    /// Reads an argument's `$` and length; gives the length and where its line ends.
    #[inline(always)]
    fn length(
        &mut self,
        input: &[u8],
        at: usize,
        limits: &Limits,
    ) -> Result<Option<(u64, usize)>, Fault> {
        let rest = &input[at..];
        let plain = match (&self.phase, rest) {
            (Phase::Mark, [b'$', line @ ..]) => whole_length(line),
            _ => None,
        };
        let (len, next) = match plain {
            Some((len, used)) => (len, at + 1 + used),
            None => match self.length_in_pieces(input, at)? {
                Some(found) => found,
                None => return Ok(None),
            },
        };
        if len > limits.max_bulk {
            return Err(Fault::Bulk);
        }
        if len > UNAUTHENTICATED_BULK && !limits.authenticated {
            return Err(Fault::BulkUnauthenticated);
        }
        Ok(Some((len, next)))
    }

    #[cold]
    fn length_in_pieces(
        &mut self,
        input: &[u8],
        mut at: usize,
    ) -> Result<Option<(u64, usize)>, Fault> {
        if let Phase::Mark = self.phase {
            let Some(&mark) = input.get(at) else {
                return Ok(None);
            };
            if mark == b'\r' {
                return Err(Fault::Mark(mark));
            }
            at += 1;
            self.phase = Phase::Length {
                mark,
                line: LengthLine::default(),
            };
        }
        let Phase::Length { mark, line } = &mut self.phase else {
            return Ok(None);
        };
        // Redis looks at the mark only once it has the whole line, and so names a line that is too
        // long before a mark that is wrong.
        let mark = *mark;
        match line.feed(&input[at..], LENGTH_LINE_LIMIT) {
            Fed::More => Ok(None),
            Fed::TooLong => Err(Fault::BulkLineTooBig),
            Fed::Done { .. } | Fed::BadEnd if mark != b'$' => Err(Fault::Mark(mark)),
            Fed::BadEnd => Err(Fault::Bulk),
            Fed::Done { used, number } => {
                let len = number.and_then(|number| u64::try_from(number).ok());
                Ok(Some((len.ok_or(Fault::Bulk)?, at + used)))
            }
        }
    }

    /// Remembers where the argument that begins at `at` lies, if it is one of the first.
    #[inline(always)]
    fn record(&mut self, at: usize, len: u64) {
        let index = (self.argc - self.missing) as usize;
        if let Some(arg) = self.first_args.get_mut(index) {
            *arg = Arg {
                start: self.consumed + at as u64,
                len,
            };
        }
    }

    #[cold]
    fn inline(
        &mut self,
        mut watch: LineWatch,
        input: &[u8],
    ) -> Result<Option<(usize, Kind)>, Fault> {
        let end = watch.feed(input);
        if self.consumed + end.unwrap_or(input.len()) as u64 > MAX_INLINE as u64 {
            return Err(Fault::InlineTooBig);
        }
        let Some(end) = end else {
            self.phase = Phase::Inline(watch);
            return Ok(None);
        };
        if watch.is_http() {
            return Err(Fault::Http);
        }
        let kind = if watch.is_blank() {
            Kind::Empty
        } else {
            Kind::Inline
        };
        Ok(Some((end + 1, kind)))
    }
}

#[cfg(test)]
mod tests;
