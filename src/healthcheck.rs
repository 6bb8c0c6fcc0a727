//! `nearkey healthcheck`: asks a running process for its health, for images without curl.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Longest answer that is read.
const MAX_ANSWER: usize = 64 * 1024;

/// Asks the admin endpoint at `admin` for `/health`. `Ok` and `Err` both say in a line how things
/// are; `Err` is for the exit code 1.
///
/// A process that has not tried its upstream yet takes up to a second to answer: `timeout` should
/// be longer.
pub fn run(admin: SocketAddr, timeout: Duration) -> Result<String, String> {
    let (status, body) = get(admin, "/health", timeout)?;
    match (status.as_str(), summary(&body)) {
        ("200", Some(summary)) => Ok(summary),
        (_, Some(summary)) => Err(summary),
        (_, None) => Err(format!(
            "{} answers /health with the HTTP status {status}",
            reachable(admin)
        )),
    }
}

/// Asks for `/live`, which says nothing of the upstream: a proxy that is restarted because its
/// upstream is away takes its application with it, and cures nothing.
pub fn live(admin: SocketAddr, timeout: Duration) -> Result<String, String> {
    let (status, _) = get(admin, "/live", timeout)?;
    if status == "200" {
        return Ok("live".to_owned());
    }
    let address = reachable(admin);
    Err(format!(
        "{address} answers /live with the HTTP status {status}"
    ))
}

/// The status and the body of an answer of the admin endpoint.
fn get(admin: SocketAddr, path: &str, timeout: Duration) -> Result<(String, String), String> {
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
        None => Err(format!(
            "{address} does not answer like the admin endpoint of Nearkey"
        )),
    }
}

/// A listener on all addresses is asked on loopback.
fn reachable(admin: SocketAddr) -> SocketAddr {
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
    let mut chunk = [0; 4096];
    while answer.len() < MAX_ANSWER {
        stream.set_read_timeout(Some(left(deadline)?))?;
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(n) => answer.extend_from_slice(&chunk[..n]),
            Err(err) if err.kind() == io::ErrorKind::WouldBlock => return Err(too_late()),
            Err(err) => return Err(err),
        }
    }
    Ok(answer)
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

/// `healthy`, or `unhealthy: tls: the certificate ...`.
fn summary(body: &str) -> Option<String> {
    let health: serde_json::Value = serde_json::from_str(body).ok()?;
    let mut text = health["status"].as_str()?.to_owned();
    for part in [&health["cause"], &health["message"]] {
        if let Some(part) = part.as_str() {
            text.push_str(": ");
            text.push_str(part);
        }
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn server(answer: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let n = stream.read(&mut request).unwrap();
            assert!(
                request[..n].starts_with(b"GET /health HTTP/1.1\r\n")
                    || request[..n].starts_with(b"GET /live HTTP/1.1\r\n")
            );
            stream.write_all(answer.as_bytes()).unwrap();
        });
        address
    }

    fn check(answer: &'static str) -> Result<String, String> {
        run(server(answer), Duration::from_secs(5))
    }

    #[test]
    fn health_is_told_by_status_and_text() {
        let ok = check("HTTP/1.1 200 OK\r\n\r\n{\"status\":\"healthy\"}");
        assert_eq!(ok, Ok("healthy".to_owned()));
        let down = check(
            "HTTP/1.1 503 X\r\n\r\n{\"status\":\"unhealthy\",\"cause\":\"dns\",\"message\":\"gone\"}",
        );
        assert_eq!(down, Err("unhealthy: dns: gone".to_owned()));
    }

    #[test]
    fn a_running_process_is_live_whatever_its_upstream_does() {
        let check = |answer| live(server(answer), Duration::from_secs(5));
        let ok = check("HTTP/1.1 200 OK\r\n\r\n{\"live\":true}");
        assert_eq!(ok, Ok("live".to_owned()));
        let other = check("HTTP/1.1 404 Not Found\r\n\r\n").unwrap_err();
        assert!(other.contains("/live with the HTTP status 404"), "{other}");
        assert!(check("-ERR unknown command\r\n").is_err());
    }

    #[test]
    fn something_else_on_the_port_is_unhealthy() {
        let redis = check("-ERR unknown command 'GET'\r\n").unwrap_err();
        assert!(
            redis.contains("does not answer like the admin endpoint"),
            "{redis}"
        );
        let web = check("HTTP/1.1 404 Not Found\r\n\r\nnothing here").unwrap_err();
        assert!(web.contains("HTTP status 404"), "{web}");
    }

    #[test]
    fn nobody_there_and_a_silent_server_are_unhealthy() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let silent = run(address, Duration::from_millis(50)).unwrap_err();
        assert!(silent.contains("timed out"), "{silent}");
        drop(listener);
        let refused = run(address, Duration::from_secs(1)).unwrap_err();
        assert!(
            refused.contains("no answer from the admin endpoint"),
            "{refused}"
        );
    }

    #[test]
    fn a_listener_on_all_addresses_is_asked_on_loopback() {
        let shown = |text: &str| reachable(text.parse().unwrap()).to_string();
        assert_eq!(shown("0.0.0.0:9090"), "127.0.0.1:9090");
        assert_eq!(shown("[::]:9090"), "[::1]:9090");
        assert_eq!(shown("10.0.0.7:9090"), "10.0.0.7:9090");
    }
}
