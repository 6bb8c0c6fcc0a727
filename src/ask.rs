//! Asks the admin endpoint of a running process, with a time for the whole answer.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Longest answer that is read: whatever listens there may have no end.
const MAX_ANSWER: usize = 4 * 1024 * 1024;

/// The HTTP status and the body of the answer to `GET path` at `admin`; the error is a line for people.
///
/// # Errors
///
/// Nobody there, nothing whole within `timeout`, or no HTTP.
pub fn get(admin: SocketAddr, path: &str, timeout: Duration) -> Result<(String, String), String> {
    let address = reachable(admin);
    let answer = ask(address, path, timeout)
        .map_err(|err| format!("no answer from the admin endpoint at {address}: {err}"))?;
    let text = String::from_utf8_lossy(&answer);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head
        .strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.get(..3));
    match status {
        Some(status) => Ok((status.to_owned(), body.to_owned())),
        None => Err(not_ours(admin)),
    }
}

/// What is said where something else answers.
pub fn not_ours(admin: SocketAddr) -> String {
    let address = reachable(admin);
    format!("{address} does not answer like the admin endpoint of Nearkey")
}

/// A listener on all addresses is asked on loopback.
pub fn reachable(admin: SocketAddr) -> SocketAddr {
    let ip = match admin.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, admin.port())
}

/// Sends the request and reads until the other side closes, all within `timeout`.
fn ask(address: SocketAddr, path: &str, timeout: Duration) -> io::Result<Vec<u8>> {
    let deadline = Instant::now() + timeout;
    let mut stream = TcpStream::connect_timeout(&address, left(deadline)?)?;
    stream.set_write_timeout(Some(left(deadline)?))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    let mut chunk = [0; 16 * 1024];
    loop {
        stream.set_read_timeout(Some(left(deadline)?))?;
        match stream.read(&mut chunk) {
            Ok(0) => return Ok(answer),
            Ok(n) => answer.extend_from_slice(&chunk[..n]),
            Err(err) if err.kind() == io::ErrorKind::WouldBlock => return Err(too_late()),
            Err(err) => return Err(err),
        }
        if answer.len() > MAX_ANSWER {
            return Err(io::Error::other("the answer has no end"));
        }
    }
}

/// The time to the deadline, never zero: the socket calls take zero for "no limit".
fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        Err(too_late())
    } else {
        Ok(left)
    }
}

fn too_late() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "timed out")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_listener_on_all_addresses_is_asked_on_loopback() {
        let shown = |text: &str| reachable(text.parse().unwrap()).to_string();
        assert_eq!(shown("0.0.0.0:9090"), "127.0.0.1:9090");
        assert_eq!(shown("[::]:9090"), "[::1]:9090");
        assert_eq!(shown("10.0.0.7:9090"), "10.0.0.7:9090");
    }

    #[test]
    fn an_answer_without_end_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            while stream.write_all(&[b'x'; 65536]).is_ok() {}
        });
        let err = get(address, "/live", Duration::from_secs(60)).unwrap_err();
        assert!(err.contains("has no end"), "{err}");
    }
}
