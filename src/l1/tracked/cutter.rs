//! The server's bytes, cut into frames.

use std::borrow::Cow;

use crate::resp::reply::{ReplyError, ReplyKind, ReplyScan, ReplyScanner};

/// Longest push that is looked into.
pub(super) const MAX_PUSH: usize = 1 << 20;

/// A frame; without its bytes if it is too long.
pub(super) type Cut<'a> = (ReplyKind, Option<Cow<'a, [u8]>>);

/// Cuts the server's bytes into frames. Of a frame that is too long nothing is kept.
#[derive(Debug, Default)]
pub(super) struct Cutter {
    scanner: ReplyScanner,
    /// The beginning of a frame that has not ended.
    begun: Vec<u8>,
    /// The frame is too long.
    dropped: bool,
}

impl Cutter {
    /// The next frame, taken off the input; `None` once that is used up. `limit` is for replies.
    ///
    /// # Errors
    /// These are not frames.
    pub(super) fn cut<'a>(
        &mut self,
        input: &mut &'a [u8],
        limit: usize,
    ) -> Result<Option<Cut<'a>>, ReplyError> {
        let limit_of = |is_push| if is_push { MAX_PUSH } else { limit };
        match self.scanner.scan(input)? {
            ReplyScan::Incomplete => {
                let limit = limit_of(self.scanner.is_push());
                self.dropped |= self.scanner.at_least() > limit as u64;
                self.keep(input, limit);
                *input = &[];
                Ok(None)
            }
            ReplyScan::Complete { consumed, kind } => {
                let (frame, rest) = input.split_at(consumed);
                *input = rest;
                let limit = limit_of(kind == ReplyKind::Push);
                if self.begun.is_empty() && !self.dropped {
                    let fits = frame.len() <= limit;
                    return Ok(Some((kind, fits.then_some(Cow::Borrowed(frame)))));
                }
                self.keep(frame, limit);
                let whole = std::mem::take(&mut self.begun);
                let dropped = std::mem::take(&mut self.dropped);
                Ok(Some((kind, (!dropped).then_some(Cow::Owned(whole)))))
            }
        }
    }

    /// Bytes of memory in use.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.begun.capacity()
    }

    fn keep(&mut self, bytes: &[u8], limit: usize) {
        self.dropped |= self.begun.len() + bytes.len() > limit;
        if self.dropped {
            self.begun = Vec::new();
        } else {
            self.begun.extend_from_slice(bytes);
        }
    }
}
