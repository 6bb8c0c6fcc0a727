//! From a host name to a TCP connection.
//!
//! The name is resolved for every connection: failovers move it. What it said last is remembered for
//! the time that the resolver itself is out of order.

use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use super::dial::{failure, hung_up};
use super::handshake::Refusal;
use crate::stats::ConnectFailure;

/// An address gets this part of the time at least, however many a name has.
const MOST_SHARES: usize = 4;

/// Looks names up and connects to what they stand for.
#[derive(Debug, Default)]
pub struct Resolver {
    /// The last answer, and to which question.
    known: Mutex<Option<(String, Vec<SocketAddr>)>>,
    #[cfg(test)]
    script: Mutex<std::collections::VecDeque<io::Result<Vec<SocketAddr>>>>,
}

impl Resolver {
    /// Connects to the first address of `host` that answers; all together get `limit`.
    ///
    /// # Errors
    /// Why the last of them could not be reached, or that there is none.
    pub async fn connect(
        &self,
        host: &str,
        port: u16,
        limit: Duration,
    ) -> Result<TcpStream, Refusal> {
        let addresses = self.addresses(host, port, limit).await?;
        let shares = u32::try_from(addresses.len().clamp(1, MOST_SHARES)).unwrap_or(1);
        let mut last = failure(ConnectFailure::Dns, format!("{host} has no address"));
        for address in addresses {
            match timeout(limit / shares, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    tune(&stream);
                    return Ok(stream);
                }
                Ok(Err(e)) if e.kind() == io::ErrorKind::ConnectionReset => last = hung_up(&e),
                Ok(Err(e)) => last = failure(ConnectFailure::Tcp, format!("{address}: {e}")),
                Err(_) => {
                    let what = format!("{address} does not answer");
                    last = failure(ConnectFailure::Timeout, what);
                }
            }
        }
        Err(last)
    }

    async fn addresses(
        &self,
        host: &str,
        port: u16,
        limit: Duration,
    ) -> Result<Vec<SocketAddr>, Refusal> {
        // With an answer to fall back on, a resolver that hangs may not take all the time.
        let known = self.known(host);
        let patience = known.as_ref().map_or(limit, |_| limit / 4);
        let result = match timeout(patience, self.look_up(host, port)).await {
            Ok(result) => result,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        match (result, known) {
            (Ok(addresses), _) => {
                let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
                *known = Some((host.to_owned(), addresses.clone()));
                Ok(addresses)
            }
            (Err(e), Some(addresses)) => {
                tracing::debug!(host, "cannot resolve, using the last addresses: {e}");
                Ok(addresses)
            }
            (Err(e), None) => {
                let what = format!("cannot resolve {host}: {e}");
                Err(failure(ConnectFailure::Dns, what))
            }
        }
    }

    fn known(&self, host: &str) -> Option<Vec<SocketAddr>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (of, addresses) = known.as_ref()?;
        (of == host && !addresses.is_empty()).then(|| addresses.clone())
    }

    async fn look_up(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        #[cfg(test)]
        if let Some(answer) = self.script.lock().expect("no panic").pop_front() {
            return answer;
        }
        Ok(lookup_host((host, port)).await?.collect())
    }
}

/// No delays, and a dead peer is noticed by the kernel too.
fn tune(stream: &TcpStream) {
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(30))
        .with_interval(Duration::from_secs(10));
    // A socket that refuses an option still works; it is only slower to notice a dead peer.
    let _ = stream.set_nodelay(true);
    let _ = SockRef::from(stream).set_tcp_keepalive(&keepalive);
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    async fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        (listener, address)
    }

    /// The next answers to any question.
    fn answers(
        resolver: &Resolver,
        answers: impl IntoIterator<Item = io::Result<Vec<SocketAddr>>>,
    ) {
        resolver.script.lock().expect("no panic").extend(answers);
    }

    async fn peer(resolver: &Resolver) -> Result<SocketAddr, Refusal> {
        let stream = resolver.connect("redis.test", 6379, LIMIT).await?;
        Ok(stream.peer_addr().expect("connected"))
    }

    #[tokio::test]
    async fn a_name_that_moves_is_followed_by_the_next_connection() {
        let ((_one, first), (_two, second)) = (listener().await, listener().await);
        let resolver = Resolver::default();
        answers(&resolver, [Ok(vec![first]), Ok(vec![second])]);
        assert_eq!(peer(&resolver).await, Ok(first));
        assert_eq!(peer(&resolver).await, Ok(second));
    }

    #[tokio::test]
    async fn an_address_that_refuses_is_passed_over() {
        let (gone, dead) = listener().await;
        drop(gone);
        let (_listener, alive) = listener().await;
        let resolver = Resolver::default();
        answers(&resolver, [Ok(vec![dead, alive])]);
        assert_eq!(peer(&resolver).await, Ok(alive));
        answers(&resolver, [Ok(vec![alive]), Ok(vec![dead])]);
        assert_eq!(peer(&resolver).await, Ok(alive));
        let refusal = peer(&resolver).await.expect_err("nobody listens");
        assert_eq!(refusal.cause, ConnectFailure::Tcp);
        assert!(refusal.message.contains(&dead.to_string()));
    }

    #[tokio::test]
    async fn the_last_answer_serves_while_the_resolver_does_not() {
        let (_listener, address) = listener().await;
        let resolver = Resolver::default();
        let broken = || Err(io::Error::other("no name server"));
        answers(&resolver, [broken(), Ok(vec![address]), broken()]);
        let refusal = peer(&resolver).await.expect_err("never resolved");
        assert_eq!(refusal.cause, ConnectFailure::Dns);
        assert_eq!(peer(&resolver).await, Ok(address));
        assert_eq!(peer(&resolver).await, Ok(address));
    }
}
