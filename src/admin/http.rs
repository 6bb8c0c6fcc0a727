//! As much HTTP/1.1 as probes and scrapers speak: GET and HEAD, no request bodies.

use std::borrow::Cow;

use serde::Serialize;

/// What a browser may do with an answer: show it, run the page's own script and ask this endpoint.
const POLICY: &str = "X-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\n\
    Content-Security-Policy: default-src 'none'; script-src 'self'; style-src 'self'; \
    connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n";

/// Longest request head.
pub const MAX_HEAD: usize = 8 * 1024;

/// The parts of a request that matter here.
#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    /// What is asked.
    pub method: Method,
    /// The path without its query.
    pub path: String,
    /// What follows the question mark.
    pub query: String,
    /// Text is accepted, and nothing for programs.
    pub wants_text: bool,
    /// A page can be shown.
    pub wants_html: bool,
    /// Whether the connection may carry another request.
    pub keep_alive: bool,
    /// It names this machine by an address or as `localhost`, or not at all.
    pub is_for_here: bool,
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// GET.
    Get,
    /// HEAD: GET without the body.
    Head,
    /// Any other, which is refused.
    Other,
}

/// Takes a request off the front of `buffer`, or `None` while its head is incomplete.
///
/// # Errors
/// The answer to give before the connection is closed.
pub fn parse(buffer: &mut Vec<u8>) -> Result<Option<Request>, Status> {
    // Whatever speaks another protocol should not have to wait for a line end to learn it.
    if buffer
        .first()
        .is_some_and(|byte| !byte.is_ascii_uppercase())
    {
        return Err(Status::BadRequest);
    }
    let Some(end) = head_end(buffer) else {
        return if buffer.len() < MAX_HEAD {
            Ok(None)
        } else {
            Err(Status::HeadTooLarge)
        };
    };
    if end > MAX_HEAD {
        return Err(Status::HeadTooLarge);
    }
    let request = std::str::from_utf8(&buffer[..end])
        .ok()
        .and_then(parse_head);
    buffer.drain(..end);
    request.map(Some).ok_or(Status::BadRequest)
}

/// Where the empty line that ends the head ends. A bare line feed is a line end too.
fn head_end(buffer: &[u8]) -> Option<usize> {
    memchr::memchr_iter(b'\n', buffer)
        .map(|at| at + 1)
        .find(|&next| {
            let rest = &buffer[next..];
            rest.starts_with(b"\n") || rest.starts_with(b"\r\n")
        })
        .map(|next| next + if buffer[next] == b'\n' { 1 } else { 2 })
}

fn parse_head(head: &str) -> Option<Request> {
    let mut lines = head.lines();
    let mut words = lines.next()?.split(' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    let is_torn = target.bytes().any(|byte| byte.is_ascii_control());
    if words.next().is_some() || target.is_empty() || is_torn {
        return None;
    }
    let method = match method {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        _ if method.bytes().all(|byte| byte.is_ascii_uppercase()) => Method::Other,
        _ => return None,
    };
    if method != Method::Other && !target.starts_with('/') {
        return None;
    }
    let mut keep_alive = match version {
        "HTTP/1.1" => true,
        "HTTP/1.0" => false,
        _ => return None,
    };
    let (mut wants_text, mut wants_html, mut is_for_here) = (false, false, true);
    for line in lines.take_while(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':')?;
        if name.is_empty() || name.contains(char::is_whitespace) {
            return None;
        }
        keep_alive &= !ends_the_connection(name, value.trim());
        if name.eq_ignore_ascii_case("accept") {
            wants_text = value.contains("text/") && !value.contains("json");
            wants_html = value.contains("text/html");
        }
        if name.eq_ignore_ascii_case("host") {
            is_for_here &= is_here(value.trim());
        }
    }
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    Some(Request {
        method,
        path: path.to_owned(),
        query: query.to_owned(),
        wants_text,
        wants_html,
        keep_alive,
        is_for_here,
    })
}

/// An address, or a name that no resolver leads elsewhere.
fn is_here(host: &str) -> bool {
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    let name = match host.rsplit_once(':') {
        Some((name, port)) if is_port(port) => name,
        _ => host,
    };
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    name.is_empty()
        || name == "localhost"
        || name.ends_with(".localhost")
        || bare.parse::<std::net::IpAddr>().is_ok()
}

/// A body is not read, so nothing can follow it.
fn ends_the_connection(name: &str, value: &str) -> bool {
    if name.eq_ignore_ascii_case("connection") {
        value
            .split(',')
            .any(|option| option.trim().eq_ignore_ascii_case("close"))
    } else if name.eq_ignore_ascii_case("content-length") {
        value != "0"
    } else {
        name.eq_ignore_ascii_case("transfer-encoding")
    }
}

/// The status codes in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// 200
    Ok,
    /// 400
    BadRequest,
    /// 404
    NotFound,
    /// 405
    MethodNotAllowed,
    /// 421
    Misdirected,
    /// 431
    HeadTooLarge,
    /// 503
    Unavailable,
}

impl Status {
    fn line(self) -> &'static str {
        match self {
            Self::Ok => "200 OK",
            Self::BadRequest => "400 Bad Request",
            Self::NotFound => "404 Not Found",
            Self::MethodNotAllowed => "405 Method Not Allowed",
            Self::Misdirected => "421 Misdirected Request",
            Self::HeadTooLarge => "431 Request Header Fields Too Large",
            Self::Unavailable => "503 Service Unavailable",
        }
    }
}

/// An answer.
#[derive(Debug)]
pub struct Response {
    status: Status,
    content_type: &'static str,
    body: Cow<'static, str>,
}

impl Response {
    /// An answer in Prometheus's text format.
    pub fn metrics(body: String) -> Self {
        let content_type = "text/plain; version=0.0.4; charset=utf-8";
        Self {
            status: Status::Ok,
            content_type,
            body: body.into(),
        }
    }

    /// A file of the page.
    pub(super) fn asset(content_type: &'static str, body: &'static str) -> Self {
        Self {
            status: Status::Ok,
            content_type,
            body: body.into(),
        }
    }

    /// An answer for people.
    pub fn text(status: Status, body: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            content_type: "text/plain; charset=utf-8",
            body: body.into(),
        }
    }

    /// An answer for programs. What is serialized here has string keys only and cannot fail.
    pub fn json(status: Status, value: &impl Serialize) -> Self {
        let mut body = serde_json::to_string(value).unwrap_or_default();
        body.push('\n');
        Self {
            status,
            content_type: "application/json",
            body: body.into(),
        }
    }

    /// The answer to a request that is not served: its status in words.
    pub fn error(status: Status) -> Self {
        Self::text(status, format!("{}\n", status.line()))
    }

    /// The bytes on the wire; a HEAD request gets them without the body.
    pub fn to_bytes(&self, with_body: bool, keep_alive: bool) -> Vec<u8> {
        let Self {
            status,
            content_type,
            body,
        } = self;
        let allow = match status {
            Status::MethodNotAllowed => "Allow: GET, HEAD\r\n",
            _ => "",
        };
        let connection = if keep_alive { "keep-alive" } else { "close" };
        let (line, length) = (status.line(), body.len());
        let mut text = format!(
            "HTTP/1.1 {line}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\
             Cache-Control: no-store\r\n{POLICY}{allow}Connection: {connection}\r\n\r\n"
        );
        if with_body {
            text.push_str(body);
        }
        text.into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Option<Request>, Status> {
        parse(&mut text.as_bytes().to_vec())
    }

    fn request(method: Method, path: &str, keep_alive: bool) -> Result<Option<Request>, Status> {
        Ok(Some(Request {
            method,
            path: path.to_owned(),
            query: String::new(),
            wants_text: false,
            wants_html: false,
            keep_alive,
            is_for_here: true,
        }))
    }

    #[test]
    fn requests_are_read_one_by_one() {
        let mut buffer =
            b"GET /a HTTP/1.1\r\nHost: localhost\r\n\r\nHEAD / HTTP/1.1\n\nGET".to_vec();
        assert_eq!(parse(&mut buffer), request(Method::Get, "/a", true));
        assert_eq!(parse(&mut buffer), request(Method::Head, "/", true));
        assert_eq!(parse(&mut buffer), Ok(None));
        assert_eq!(buffer, b"GET");
    }

    #[test]
    fn a_query_and_what_is_accepted_are_told_apart_from_the_path() {
        let asked = |head: &str| parsed(&format!("{head}\r\n\r\n")).unwrap().unwrap();
        let request = asked("GET /a?b=c?d HTTP/1.1\r\nAccept: */*");
        assert_eq!((&*request.path, &*request.query), ("/a", "b=c?d"));
        assert!(!request.wants_text);
        assert!(asked("GET /a HTTP/1.1\r\naccept: text/plain").wants_text);
        assert!(!asked("GET /a HTTP/1.1\r\nAccept: application/json, text/plain").wants_text);
    }

    #[test]
    fn a_connection_ends_when_it_is_asked_to_or_has_to() {
        let kept = |head: &str| {
            parsed(&format!("{head}\r\n\r\n"))
                .unwrap()
                .unwrap()
                .keep_alive
        };
        assert!(kept("GET / HTTP/1.1\r\nContent-Length: 0"));
        assert!(!kept("GET / HTTP/1.0"));
        assert!(!kept("GET / HTTP/1.1\r\nconnection: Keep-Alive, Close"));
        assert!(!kept("POST / HTTP/1.1\r\nContent-Length: 5"));
        assert!(!kept("POST / HTTP/1.1\r\nTransfer-Encoding: chunked"));
    }

    #[test]
    fn a_name_that_could_lead_here_from_elsewhere_is_noticed() {
        let is_for_here = |host: &str| {
            let head = format!("GET / HTTP/1.1\r\n{host}\r\n\r\n");
            parsed(&head).unwrap().unwrap().is_for_here
        };
        for host in [
            "Accept: */*",
            "Host: localhost",
            "host: LOCALHOST.:9180",
            "Host: 127.0.0.1:9180",
            "Host: [::1]:9180",
            "Host:",
        ] {
            assert!(is_for_here(host), "{host}");
        }
        for host in [
            "Host: evil.example",
            "Host: evil.example:9180",
            "Host: localhost.evil.example",
            "Host: localhost\r\nHost: evil.example",
        ] {
            assert!(!is_for_here(host), "{host}");
        }
    }

    #[test]
    fn what_is_not_http_is_refused() {
        for text in [
            "*1\r\n",
            "\u{16}\u{3}\u{1}",
            "GET / HTTP/2.0\r\n\r\n",
            "GET /\r\n\r\n",
            "GET  / HTTP/1.1\r\n\r\n",
            "GET /a\rb HTTP/1.1\r\n\r\n",
            "GET http://x/ HTTP/1.1\r\n\r\n",
            "GeT / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nno colon\r\n\r\n",
            "GET / HTTP/1.1\r\nbad name: x\r\n\r\n",
        ] {
            assert_eq!(parsed(text), Err(Status::BadRequest), "{text:?}");
        }
    }

    #[test]
    fn a_head_is_bounded() {
        let endless = format!("GET / HTTP/1.1\r\nA: {}", "x".repeat(MAX_HEAD));
        assert_eq!(parsed(&endless), Err(Status::HeadTooLarge));
        assert_eq!(
            parsed(&format!("{endless}\r\n\r\n")),
            Err(Status::HeadTooLarge)
        );
    }
}
