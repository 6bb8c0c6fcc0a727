//! `nearkey healthcheck`: asks a running process for its health, for images without curl.

use std::net::SocketAddr;
use std::time::Duration;

use crate::ask::{get, reachable};

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
    use std::io::{Read, Write};
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
}
