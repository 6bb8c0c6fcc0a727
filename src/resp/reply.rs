//! Replies: where one reply or push of a server ends and the next begins.
//!
//! The types of RESP2 and RESP3 are known, an attribute belongs to what follows it. Streamed types,
//! which no server sends, are errors like any other unknown type: a connection out of step with its
//! server is to be found out early, so every number and every line end is checked.

use super::scan::{Fed, LengthLine, take_body, whole_length};
use super::{MAX_DEPTH, MAX_REPLY_BULK, MAX_REPLY_ELEMENTS, MAX_REPLY_LINE};
use std::fmt;

pub use super::value::{Value, decode};

/// Finds the ends of replies in a server's bytes, which may arrive in any pieces.
///
/// It looks at each byte once, skips bulk bodies unread and does not recurse. Only aggregates within
/// aggregates take memory, four bytes per level. After an error it repeats that error.
#[derive(Clone, Debug, Default)]
pub struct ReplyScanner {
    phase: Phase,
    consumed: u64,
    /// Elements missing at the innermost level; meaningless at level 0.
    missing: u32,
    level: u32,
    depth: u32,
    kind: ReplyKind,
    /// The outermost level is an attribute's, so the reply itself is still to come.
    in_attribute: bool,
    /// Elements missing at the levels between the outermost and the innermost.
    outer: Vec<u32>,
}

/// What a scanner found in its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyScan {
    /// All input was consumed, the frame is not complete.
    Incomplete,
    /// A whole frame ends after `consumed` bytes of this input.
    Complete {
        /// Bytes of this input that belong to the frame.
        consumed: usize,
        /// What the frame is.
        kind: ReplyKind,
    },
}

/// The form of a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ReplyKind {
    /// Answers a command.
    #[default]
    Reply,
    /// Answers a command, with an error. An error within an array is part of a [`Reply`](Self::Reply).
    Error,
    /// Answers nothing: a RESP3 push.
    Push,
}

/// What is wrong with a server's bytes, as a sentence for the log. It quotes none of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplyError(pub String);

impl fmt::Display for ReplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ReplyError {}

#[derive(Clone, Copy, Debug, Default)]
enum Phase {
    /// At a frame boundary.
    #[default]
    Idle,
    /// Before a value within a frame.
    Mark,
    /// Within the line of an integer or a length.
    Number {
        mark: u8,
        line: LengthLine,
    },
    /// Within any other line.
    Line {
        mark: u8,
        seen: u32,
        cr: bool,
    },
    /// Within a bulk body, `left` bytes (its CRLF included) before its end.
    Body {
        left: u64,
    },
    Failed(Fault),
}

/// [`ReplyError`] as the scanner keeps it.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Type,
    Push,
    Number,
    Bulk,
    Elements,
    Depth,
    LineLength,
    LineText,
    LineEnd,
    BodyEnd,
}

impl Fault {
    fn error(self) -> ReplyError {
        let text = match self {
            Self::Type => "a reply has a type that is neither RESP2 nor RESP3",
            Self::Push => "a reply has a push inside",
            Self::Number => "a reply has an integer or a length that is no number",
            Self::Bulk => "a reply has a bulk string of an impossible length",
            Self::Elements => "a reply has an aggregate of an impossible length",
            Self::Depth => "a reply is nested too deeply",
            Self::LineLength => "a reply has a line that is too long",
            Self::LineText => "a reply has a null, boolean, double or big number that is none",
            Self::LineEnd => "a reply has a line that does not end in CR LF",
            Self::BodyEnd => "a reply has a bulk string that does not end in CR LF",
        };
        ReplyError(text.to_owned())
    }
}

/// Size of an empty value, a mark and a line end.
const SMALLEST_VALUE: u64 = 3;

/// No number takes more digits than this, sign included.
const NUMBER_LINE_LIMIT: u32 = 20;

/// Memory for nesting beyond this many levels is given back when the frame ends.
const KEPT_LEVELS: usize = 64;

/// How far one step of the scanner came.
enum Step {
    /// The input is used up.
    More,
    /// The line or body ends here, and with it the value.
    Value(usize),
    /// The line ends here, and the value goes on.
    Part(usize),
}

impl ReplyScanner {
    /// A scanner at a frame boundary.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads on to the end of a frame. `input` continues exactly where the bytes consumed by the
    /// previous call ended.
    ///
    /// # Errors
    /// The stream is no RESP or out of step; every later call gives the same error.
    #[inline]
    pub fn scan(&mut self, input: &[u8]) -> Result<ReplyScan, ReplyError> {
        #[cfg(test)]
        super::steps::count(input.len());
        match self.advance(input) {
            Ok(Some(consumed)) => {
                self.consumed += consumed as u64;
                self.phase = Phase::Idle;
                if self.outer.capacity() > KEPT_LEVELS {
                    self.outer = Vec::new();
                }
                Ok(ReplyScan::Complete {
                    consumed,
                    kind: self.kind,
                })
            }
            Ok(None) => {
                self.consumed += input.len() as u64;
                Ok(ReplyScan::Incomplete)
            }
            Err(fault) => {
                self.phase = Phase::Failed(fault);
                Err(fault.error())
            }
        }
    }

    /// Whether the scanner is at a frame boundary.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Idle)
    }

    /// Bytes of the frame in progress consumed so far; 0 at a frame boundary.
    #[must_use]
    pub fn consumed(&self) -> u64 {
        if self.is_idle() { 0 } else { self.consumed }
    }

    /// Size of the frame that [`scan`](Self::scan) completed last, valid until its next call.
    #[must_use]
    pub fn completed(&self) -> u64 {
        if self.is_idle() { self.consumed } else { 0 }
    }

    /// Bytes that the frame in progress will have at least: those consumed, the rest of the bulk
    /// string in progress, and the smallest form of the elements missing at the innermost level.
    #[must_use]
    pub fn at_least(&self) -> u64 {
        let missing = if self.level > 0 {
            u64::from(self.missing)
        } else {
            1
        };
        let current = match self.phase {
            Phase::Idle => return 0,
            Phase::Failed(_) => return self.consumed,
            Phase::Mark => SMALLEST_VALUE,
            Phase::Number { .. } | Phase::Line { .. } => 1,
            Phase::Body { left } => left,
        };
        self.consumed + current + missing.saturating_sub(1) * SMALLEST_VALUE
    }

    /// Deepest nesting so far of the current or just completed frame: 0 for a scalar, 1 for an
    /// array of scalars. An attribute nests like an array.
    #[must_use]
    pub fn depth(&self) -> u32 {
        self.depth
    }

    /// Whether the frame in progress is a push.
    #[must_use]
    pub fn is_push(&self) -> bool {
        !self.is_idle() && self.kind == ReplyKind::Push
    }

    #[inline(always)]
    fn advance(&mut self, input: &[u8]) -> Result<Option<usize>, Fault> {
        let mut at = 0;
        loop {
            let step = match self.phase {
                Phase::Idle | Phase::Mark => match input.get(at) {
                    Some(&mark) => self.begin(mark, input, at + 1)?,
                    None => Step::More,
                },
                Phase::Number { mark, line } => self.number(mark, line, input, at)?,
                Phase::Line { mark, seen, cr } => self.line(mark, seen, cr, input, at)?,
                Phase::Body { left } => self.body(left, input, at)?,
                Phase::Failed(fault) => return Err(fault),
            };
            at = match step {
                Step::More => return Ok(None),
                Step::Part(next) => next,
                Step::Value(next) if self.end_value() => return Ok(Some(next)),
                Step::Value(next) => {
                    self.phase = Phase::Mark;
                    next
                }
            };
        }
    }

    /// Begins a value after its mark.
    #[inline(always)]
    fn begin(&mut self, mark: u8, input: &[u8], at: usize) -> Result<Step, Fault> {
        if let Phase::Idle = self.phase {
            self.consumed = 0;
            self.depth = 0;
        }
        if self.level == 0 {
            self.kind = match mark {
                b'-' | b'!' => ReplyKind::Error,
                b'>' => ReplyKind::Push,
                _ => ReplyKind::Reply,
            };
        } else if mark == b'>' {
            return Err(Fault::Push);
        }
        match mark {
            b'$' | b'*' | b':' | b'%' | b'~' | b'>' | b'!' | b'=' | b'|' => {
                match plain_number(&input[at..]) {
                    Some((number, used)) => self.apply(mark, number, input, at + used),
                    None => self.number(mark, LengthLine::default(), input, at),
                }
            }
            b'+' | b'-' | b'_' | b'#' | b',' | b'(' => self.line(mark, 0, false, input, at),
            _ => Err(Fault::Type),
        }
    }

    /// Reads on in a line with a number.
    fn number(
        &mut self,
        mark: u8,
        mut line: LengthLine,
        input: &[u8],
        at: usize,
    ) -> Result<Step, Fault> {
        match line.feed(&input[at..], NUMBER_LINE_LIMIT) {
            Fed::More => {
                self.phase = Phase::Number { mark, line };
                Ok(Step::More)
            }
            Fed::Done {
                used,
                number: Some(number),
            } => self.apply(mark, number, input, at + used),
            Fed::Done { number: None, .. } | Fed::TooLong => Err(Fault::Number),
            Fed::BadEnd => Err(Fault::LineEnd),
        }
    }

    /// Goes on with a value whose number is known.
    #[inline(always)]
    fn apply(&mut self, mark: u8, number: i64, input: &[u8], at: usize) -> Result<Step, Fault> {
        match mark {
            b':' => return Ok(Step::Value(at)),
            b'$' | b'*' if number == -1 => return Ok(Step::Value(at)),
            b'$' | b'!' | b'=' => {
                // A verbatim string begins with three letters and a colon.
                let least = if mark == b'=' { 4 } else { 0 };
                let len = u64::try_from(number).map_err(|_| Fault::Bulk)?;
                if len < least || len > MAX_REPLY_BULK {
                    return Err(Fault::Bulk);
                }
                return self.body(len + 2, input, at);
            }
            _ => {}
        }
        let each = if matches!(mark, b'%' | b'|') { 2 } else { 1 };
        let elements = number
            .checked_mul(each)
            .and_then(|elements| u32::try_from(elements).ok());
        let elements = elements.filter(|&elements| elements <= MAX_REPLY_ELEMENTS);
        self.open(mark == b'|', elements.ok_or(Fault::Elements)?, at)
    }

    /// Opens a level for the elements of an aggregate.
    fn open(&mut self, attribute: bool, elements: u32, at: usize) -> Result<Step, Fault> {
        if self.level == MAX_DEPTH {
            return Err(Fault::Depth);
        }
        self.depth = self.depth.max(self.level + 1);
        self.phase = Phase::Mark;
        if elements == 0 {
            return Ok(if attribute {
                Step::Part(at)
            } else {
                Step::Value(at)
            });
        }
        if self.level == 0 {
            self.in_attribute = attribute;
        } else {
            // An attribute is no element of its own: the value that it describes is.
            self.outer.push(if attribute {
                self.missing
            } else {
                self.missing - 1
            });
        }
        self.level += 1;
        self.missing = elements;
        Ok(Step::Part(at))
    }

    /// Counts a value that ended; true if the frame ends with it.
    #[inline(always)]
    fn end_value(&mut self) -> bool {
        if self.level == 0 {
            return true;
        }
        self.missing -= 1;
        while self.missing == 0 {
            self.level -= 1;
            match self.outer.pop() {
                Some(missing) => self.missing = missing,
                None => return !self.in_attribute,
            }
        }
        false
    }

    /// Reads on in a line without a number.
    fn line(
        &mut self,
        mark: u8,
        seen: u32,
        cr: bool,
        input: &[u8],
        at: usize,
    ) -> Result<Step, Fault> {
        let rest = &input[at..];
        let text = if cr {
            0
        } else {
            memchr::memchr2(b'\r', b'\n', rest).unwrap_or(rest.len())
        };
        let seen = u64::from(seen) + text as u64;
        let seen = u32::try_from(seen)
            .ok()
            .filter(|&seen| seen <= MAX_REPLY_LINE);
        let seen = seen.ok_or(Fault::LineLength)?;
        check_text(mark, &rest[..text], seen)?;
        let end = text + usize::from(!cr);
        if !cr && rest.get(text).is_some_and(|&byte| byte != b'\r') {
            return Err(Fault::LineEnd);
        }
        match rest.get(end) {
            Some(b'\n') if mark == b'_' || seen > 0 || matches!(mark, b'+' | b'-') => {
                Ok(Step::Value(at + end + 1))
            }
            Some(b'\n') => Err(Fault::LineText),
            Some(_) => Err(Fault::LineEnd),
            None => {
                self.phase = Phase::Line {
                    mark,
                    seen,
                    cr: cr || text < rest.len(),
                };
                Ok(Step::More)
            }
        }
    }

    /// Reads on in a bulk body.
    #[inline(always)]
    fn body(&mut self, left: u64, input: &[u8], at: usize) -> Result<Step, Fault> {
        let taken = take_body(left, &input[at..]).ok_or(Fault::BodyEnd)?;
        if (taken as u64) < left {
            self.phase = Phase::Body {
                left: left - taken as u64,
            };
            return Ok(Step::More);
        }
        Ok(Step::Value(at + taken))
    }
}

/// Reads a number that lies whole at the front of `bytes`: no sign, or the -1 of a null.
#[inline(always)]
fn plain_number(bytes: &[u8]) -> Option<(i64, usize)> {
    match whole_length(bytes) {
        Some((number, used)) => Some((i64::try_from(number).ok()?, used)),
        None => bytes.starts_with(b"-1\r\n").then_some((-1, 4)),
    }
}

/// Checks a piece of a line, `seen` being the length so far of the whole line.
fn check_text(mark: u8, text: &[u8], seen: u32) -> Result<(), Fault> {
    let first = seen as usize == text.len();
    let fine = match mark {
        b'_' => text.is_empty(),
        b'#' => seen <= 1 && matches!(text, [] | [b't' | b'f']),
        b',' => text
            .iter()
            .all(|byte| b"0123456789+-.eEinfaINFA".contains(byte)),
        b'(' => {
            let signed = first && matches!(text, [b'+' | b'-', ..]);
            text[usize::from(signed)..].iter().all(u8::is_ascii_digit)
        }
        _ => true,
    };
    if fine { Ok(()) } else { Err(Fault::LineText) }
}

#[cfg(test)]
mod tests;
