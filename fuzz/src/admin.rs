//! The requests of the admin endpoint: chunks change nothing, and a head stays within its limit.

use nearkey::admin::http::{MAX_HEAD, Method, Request, Status, parse};

use super::input::{Input, expand};

/// One run.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let body = expand(input.body);
    input.body = &body;
    let chunks = input.chunks();
    let cut = converse(chunks.iter().copied());
    // The server never has more than one head and a byte: what is longer is another case.
    if body.len() <= MAX_HEAD {
        assert_eq!(converse([&body[..]]), cut, "chunks change nothing");
    }
    for request in cut.0 {
        let path = request.path.as_bytes();
        assert!(
            !path.iter().any(|byte| b" \r\n?".contains(byte)),
            "{path:?}"
        );
        assert!(path.starts_with(b"/") || request.method == Method::Other);
        assert!(path.len() + request.query.len() < MAX_HEAD);
    }
}

/// The requests of one connection, and why it was closed.
fn converse<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Request>, Option<Status>) {
    let (mut buffer, mut requests) = (Vec::new(), Vec::new());
    for mut chunk in chunks {
        while !chunk.is_empty() {
            let room = (MAX_HEAD + 1).saturating_sub(buffer.len());
            assert!(room > 0, "what fills the buffer is refused");
            let (some, rest) = chunk.split_at(chunk.len().min(room));
            buffer.extend_from_slice(some);
            chunk = rest;
            loop {
                let before = buffer.len();
                match parse(&mut buffer) {
                    Ok(Some(request)) => requests.push(request),
                    Ok(None) => break,
                    Err(status) => return (requests, Some(status)),
                }
                assert!(buffer.len() < before);
                if buffer.is_empty() {
                    break;
                }
            }
        }
    }
    (requests, None)
}
