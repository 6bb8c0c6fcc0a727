//! Accepts connections and answers requests, within limits.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::history::History;
use super::http::{MAX_HEAD, Method, Request, Response, Status, parse};
use super::metrics::Metrics;
use super::{Inquirer, Prober, State, health, l1, overview, page};

/// Connections served at once; further ones wait to be accepted.
const MAX_CONNECTIONS: usize = 64;

/// With fewer places left than this, connections close after their answer.
const SCARCE: usize = MAX_CONNECTIONS / 2;

/// Longest wait for a whole request head, for the first byte of the first request, and for the
/// client to take an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Longest wait for another request on the same connection.
const IDLE: Duration = Duration::from_secs(30);

/// How long and how much is read and dropped after a refusal, so that the refusal arrives:
/// closing with unread bytes resets the connection.
const LINGER: (Duration, usize) = (Duration::from_millis(500), 64 * 1024);

/// Pause after a failed accept, which is mostly for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves the admin endpoint until `shutdown` completes.
pub async fn serve(listener: TcpListener, state: Arc<State>, shutdown: impl Future) {
    let server = Arc::new(Server::new(state));
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    // Dropping the set at the end aborts what is still in it.
    let mut connections = JoinSet::new();
    tokio::pin!(shutdown);
    let history = server.history.keep(&server.state);
    tokio::pin!(history);
    loop {
        tokio::select! {
            _ = &mut shutdown => return,
            () = &mut history => return,
            accepted = accept(&listener, &places) => match accepted {
                Ok((stream, place)) => {
                    connections.spawn(converse(stream, Arc::clone(&server), place));
                }
                Err(err) => {
                    tracing::warn!(%err, "the admin endpoint cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let place = Arc::clone(places)
        .acquire_owned()
        .await
        .map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, place))
}

/// What is said to whom the name of the host leads here from elsewhere.
const MISDIRECTED: &str = "421 Misdirected Request\n\
    This endpoint listens on loopback, and answers there to localhost and IP addresses only: ask for\n\
    http://127.0.0.1 or http://localhost with its port, or set admin.address to an address that others reach.\n";

/// Holds no name of a key: probes may ask by whatever name they know.
fn is_harmless(path: &str) -> bool {
    matches!(path, "/live" | "/ready" | "/health")
}

/// Answers the requests of one connection until either side has enough of it.
async fn converse(mut stream: TcpStream, server: Arc<Server>, place: OwnedSemaphorePermit) {
    let mut buffer = Vec::new();
    let mut patience = PATIENCE;
    // A web page may lead its own name to loopback to read what is there. Where the endpoint listens for
    // others, names of the operator's choosing lead to it.
    let is_local = stream
        .local_addr()
        .is_ok_and(|address| address.ip().to_canonical().is_loopback());
    while let Some(request) = next_request(&mut stream, &mut buffer, patience).await {
        let (response, with_body, keep_alive) = match request {
            Ok(request) if is_local && !request.is_for_here && !is_harmless(&request.path) => (
                Response::text(Status::Misdirected, MISDIRECTED),
                true,
                false,
            ),
            Ok(request) => {
                let scarce = place.semaphore().available_permits() < SCARCE;
                let keep_alive = request.keep_alive && !scarce;
                (
                    server.answer(&request).await,
                    request.method != Method::Head,
                    keep_alive,
                )
            }
            Err(status) => (Response::error(status), true, false),
        };
        let bytes = response.to_bytes(with_body, keep_alive);
        let sent = timeout(PATIENCE, stream.write_all(&bytes)).await;
        if !matches!(sent, Ok(Ok(()))) {
            return;
        }
        if !keep_alive {
            return close(stream).await;
        }
        patience = IDLE;
    }
}

/// The next request, or why it is refused; `None` when the connection is over.
async fn next_request(
    stream: &mut TcpStream,
    buffer: &mut Vec<u8>,
    patience: Duration,
) -> Option<Result<Request, Status>> {
    if buffer.is_empty() {
        read_some(stream, buffer, patience).await?;
    }
    let whole = async {
        loop {
            match parse(buffer) {
                Ok(Some(request)) => return Some(Ok(request)),
                Ok(None) => read_some(stream, buffer, PATIENCE).await?,
                Err(status) => return Some(Err(status)),
            }
        }
    };
    timeout(PATIENCE, whole).await.ok()?
}

/// Reads once, never past the longest head.
async fn read_some(stream: &mut TcpStream, buffer: &mut Vec<u8>, patience: Duration) -> Option<()> {
    let room = (MAX_HEAD + 1).saturating_sub(buffer.len());
    let mut limited = stream.take(room as u64);
    match timeout(patience, limited.read_buf(buffer)).await {
        Ok(Ok(n)) if n > 0 => Some(()),
        _ => None,
    }
}

/// Ends a connection so that the answer arrives even where bytes of the client are left unread.
async fn close(mut stream: TcpStream) {
    let (patience, limit) = LINGER;
    let drain = async {
        stream.shutdown().await?;
        let mut rest = stream.take(limit as u64);
        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
    };
    let _ = timeout(patience, drain).await;
}

/// What the answers are made from.
struct Server {
    state: Arc<State>,
    metrics: Metrics,
    prober: Prober,
    inquirer: Inquirer,
    history: History,
}

impl Server {
    fn new(state: Arc<State>) -> Self {
        Self {
            metrics: Metrics::new(&state),
            prober: Prober::default(),
            inquirer: Inquirer::default(),
            history: History::default(),
            state,
        }
    }

    async fn answer(&self, request: &Request) -> Response {
        if request.method == Method::Other {
            return Response::error(Status::MethodNotAllowed);
        }
        match request.path.as_str() {
            "/live" => health::live(&self.state),
            "/ready" => health::ready(&self.state, &self.prober),
            "/health" => health::health(&self.state, &self.prober).await,
            "/hotkeys" => l1::hot_keys(&self.state, request),
            "/metrics" => {
                self.inquirer.ask(&self.state);
                Response::metrics(self.metrics.render(&self.state))
            }
            "/overview" => overview::overview(&self.state, &self.history, request),
            _ => page::file(request).unwrap_or_else(|| Response::error(Status::NotFound)),
        }
    }
}
