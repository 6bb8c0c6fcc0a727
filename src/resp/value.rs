//! The meaning of a whole reply, for the few that Nearkey must understand.

use super::reply::ReplyError;
use super::scan::whole_length;
use super::{MAX_DECODE_DEPTH, MAX_DEPTH};
use redis_protocol::resp3::decode::complete::decode_range;
use redis_protocol::resp3::types::RangeFrame;

/// A reply, decoded.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A simple string, such as `OK`.
    Simple(Vec<u8>),
    /// An error, in one line or as a bulk.
    Error(Vec<u8>),
    /// An integer.
    Int(i64),
    /// A bulk string.
    Bulk(Vec<u8>),
    /// An array.
    Array(Vec<Self>),
    /// A map, in the order of the reply.
    Map(Vec<(Self, Self)>),
    /// A set, in the order of the reply.
    Set(Vec<Self>),
    /// A push.
    Push(Vec<Self>),
    /// A null of any form.
    Null,
    /// A boolean.
    Bool(bool),
    /// A double.
    Double(f64),
    /// A big number, as its digits.
    BigNumber(Vec<u8>),
    /// A string for people to read.
    Verbatim {
        /// Three letters, such as `txt`.
        format: [u8; 3],
        /// The string itself.
        text: Vec<u8>,
    },
}

impl Value {
    /// The bytes of a string or an error of any form.
    #[must_use]
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Simple(bytes)
            | Self::Error(bytes)
            | Self::Bulk(bytes)
            | Self::BigNumber(bytes) => Some(bytes),
            Self::Verbatim { text, .. } => Some(text),
            _ => None,
        }
    }

    /// The text of a string or an error of any form, if it is UTF-8.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        std::str::from_utf8(self.as_bytes()?).ok()
    }

    /// The value of an integer, or of a boolean as RESP2 knows it.
    #[must_use]
    pub fn as_int(&self) -> Option<i64> {
        match *self {
            Self::Int(value) => Some(value),
            Self::Bool(value) => Some(i64::from(value)),
            _ => None,
        }
    }

    /// The elements of an array, set or push.
    #[must_use]
    pub fn as_array(&self) -> Option<&[Self]> {
        match self {
            Self::Array(elements) | Self::Set(elements) | Self::Push(elements) => Some(elements),
            _ => None,
        }
    }

    /// The bytes of an error.
    #[must_use]
    pub fn as_error(&self) -> Option<&[u8]> {
        match self {
            Self::Error(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// Whether this is a null of any form.
    #[must_use]
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// The pairs of a map, or of the array of keys and values in turn that RESP2 has in its place.
    pub fn pairs(&self) -> impl Iterator<Item = (&Self, &Self)> {
        let (map, flat): (&[(Self, Self)], &[Self]) = match self {
            Self::Map(pairs) => (pairs, &[]),
            Self::Array(elements) => (&[], elements),
            _ => (&[], &[]),
        };
        let flat = flat.chunks_exact(2).map(|pair| (&pair[0], &pair[1]));
        map.iter().map(|(key, value)| (key, value)).chain(flat)
    }

    /// The value at `key` in what [`pairs`](Self::pairs) gives.
    #[must_use]
    pub fn get(&self, key: impl AsRef<[u8]>) -> Option<&Self> {
        let key = Some(key.as_ref());
        self.pairs()
            .find(|(found, _)| found.as_bytes() == key)
            .map(|(_, value)| value)
    }
}

/// Decodes a whole frame of either protocol; `depth` is what the scanner that found it says.
/// Attributes are dropped.
///
/// # Errors
/// The frame is nested deeper than [`MAX_DECODE_DEPTH`], or is not one whole frame.
pub fn decode(frame: &[u8], depth: u32) -> Result<Value, ReplyError> {
    debug_assert!(depth <= MAX_DEPTH, "a scanner passes no deeper frame");
    if depth > MAX_DECODE_DEPTH {
        return Err(too_deep());
    }
    match value(frame, 0)? {
        (value, []) => Ok(value),
        _ => Err(malformed()),
    }
}

type Decoded<'a> = Result<(Value, &'a [u8]), ReplyError>;

/// Decodes the value at the front of `bytes`, `level` aggregates down.
///
/// Aggregates are taken apart here: redis-protocol keeps neither the order of a map nor keys that
/// do not hash, and recurses without a limit.
fn value(bytes: &[u8], level: u32) -> Decoded<'_> {
    let bytes = skip_attributes(bytes, level)?;
    let (&mark, rest) = bytes.split_first().ok_or_else(malformed)?;
    match mark {
        b'*' | b'$' if rest.starts_with(b"-1\r\n") => Ok((Value::Null, &rest[4..])),
        b'*' | b'~' | b'>' => elements(mark, rest, level),
        b'%' => {
            let (pairs, rest) = pairs(rest, level)?;
            Ok((Value::Map(pairs), rest))
        }
        b'=' => verbatim(rest),
        _ => scalar(bytes),
    }
}

fn skip_attributes(mut bytes: &[u8], level: u32) -> Result<&[u8], ReplyError> {
    while let Some(attribute) = bytes.strip_prefix(b"|") {
        bytes = pairs(attribute, level)?.1;
    }
    Ok(bytes)
}

fn elements(mark: u8, bytes: &[u8], level: u32) -> Decoded<'_> {
    let (count, mut rest) = count(bytes, level)?;
    let mut elements = Vec::with_capacity(count.min(rest.len()));
    for _ in 0..count {
        let element;
        (element, rest) = value(rest, level + 1)?;
        elements.push(element);
    }
    let value = match mark {
        b'~' => Value::Set(elements),
        b'>' => Value::Push(elements),
        _ => Value::Array(elements),
    };
    Ok((value, rest))
}

type Pairs = Vec<(Value, Value)>;

fn pairs(bytes: &[u8], level: u32) -> Result<(Pairs, &[u8]), ReplyError> {
    let (count, mut rest) = count(bytes, level)?;
    let mut pairs = Vec::with_capacity(count.min(rest.len()));
    for _ in 0..count {
        let (key, after) = value(rest, level + 1)?;
        let (element, after) = value(after, level + 1)?;
        pairs.push((key, element));
        rest = after;
    }
    Ok((pairs, rest))
}

/// Reads the length of an aggregate that lies `level` aggregates down.
fn count(bytes: &[u8], level: u32) -> Result<(usize, &[u8]), ReplyError> {
    if level >= MAX_DECODE_DEPTH {
        Err(too_deep())
    } else {
        length(bytes)
    }
}

/// Decodes a verbatim string after its mark; redis-protocol knows only two of the formats.
fn verbatim(bytes: &[u8]) -> Decoded<'_> {
    let (len, rest) = length(bytes)?;
    let (body, rest) = rest.split_at_checked(len).ok_or_else(malformed)?;
    let rest = rest.strip_prefix(b"\r\n").ok_or_else(malformed)?;
    match body {
        &[a, b, c, b':', ref text @ ..] => Ok((
            Value::Verbatim {
                format: [a, b, c],
                text: text.to_vec(),
            },
            rest,
        )),
        _ => Err(malformed()),
    }
}

fn length(bytes: &[u8]) -> Result<(usize, &[u8]), ReplyError> {
    let (len, used) = whole_length(bytes).ok_or_else(malformed)?;
    let len = usize::try_from(len).map_err(|_| malformed())?;
    Ok((len, &bytes[used..]))
}

fn scalar(bytes: &[u8]) -> Decoded<'_> {
    let (frame, used) = decode_range(bytes).ok().flatten().ok_or_else(malformed)?;
    let copy = |(from, to): (usize, usize)| bytes[from..to].to_vec();
    let value = match frame {
        RangeFrame::SimpleString { data, .. } => Value::Simple(copy(data)),
        RangeFrame::SimpleError { data, .. } | RangeFrame::BlobError { data, .. } => {
            Value::Error(copy(data))
        }
        RangeFrame::BlobString { data, .. } => Value::Bulk(copy(data)),
        RangeFrame::BigNumber { data, .. } => Value::BigNumber(copy(data)),
        RangeFrame::Number { data, .. } => Value::Int(data),
        RangeFrame::Double { data, .. } => Value::Double(data),
        RangeFrame::Boolean { data, .. } => Value::Bool(data),
        RangeFrame::Null => Value::Null,
        _ => return Err(malformed()),
    };
    Ok((value, &bytes[used..]))
}

#[cold]
fn malformed() -> ReplyError {
    ReplyError("a reply to decode is not one whole frame".to_owned())
}

#[cold]
fn too_deep() -> ReplyError {
    ReplyError(format!(
        "a reply to decode is nested deeper than {MAX_DECODE_DEPTH} levels"
    ))
}

#[cfg(test)]
mod tests;
