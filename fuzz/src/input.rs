//! How the bytes of one run are divided: a few that say what happens, and those that are fed.

/// The input of one run: a count, so many bytes of control, and the body.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    control: &'a [u8],
    at: usize,
    pub body: &'a [u8],
}

/// At most this many bytes of control.
const MAX_CONTROL: usize = 95;

impl<'a> Input<'a> {
    pub fn new(data: &'a [u8]) -> Self {
        let (count, rest) = data.split_first().unwrap_or((&0, &[]));
        let count = usize::from(*count) % (MAX_CONTROL + 1);
        let (control, body) = rest.split_at(count.min(rest.len()));
        let at = 0;
        Self { control, at, body }
    }

    /// The next byte of control; 0 once there are none.
    pub fn next(&mut self) -> u8 {
        let byte = self.control.get(self.at).copied().unwrap_or(0);
        self.at += 1;
        byte
    }

    /// All bytes of control have been used.
    pub fn is_done(&self) -> bool {
        self.at >= self.control.len()
    }

    /// The length of the next chunk of what is left: mostly short ones.
    pub fn chunk(&mut self, left: usize) -> usize {
        let length = match self.next() {
            0 => left,
            short @ 1..=199 => usize::from(short),
            long => usize::from(long - 198) * 97,
        };
        length.min(left)
    }

    /// The body in chunks.
    pub fn chunks(&mut self) -> Vec<&'a [u8]> {
        let (mut chunks, mut rest) = (Vec::new(), self.body);
        while !rest.is_empty() {
            let (chunk, behind) = rest.split_at(self.chunk(rest.len()));
            chunks.push(chunk);
            rest = behind;
        }
        chunks
    }
}

/// A body in which `0xff n` stands for `n` KiB of one letter: what is long fits in a short input.
pub fn expand(body: &[u8]) -> Vec<u8> {
    let mut expanded = Vec::with_capacity(body.len());
    let mut rest = body;
    while let Some((byte, behind)) = rest.split_first() {
        rest = behind;
        match (byte, behind.split_first()) {
            (0xff, Some((count, behind))) if expanded.len() < 256 * 1024 => {
                expanded.resize(expanded.len() + usize::from(*count) * 1024, b'v');
                rest = behind;
            }
            _ => expanded.push(*byte),
        }
    }
    expanded
}
