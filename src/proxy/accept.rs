//! Letting clients in: who is turned away, and which worker serves whom.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Gate;
use crate::downstream::listener::{self, Accepted, Listener};
use crate::downstream::stream::Stream;
use crate::resp::encode;
use crate::session::errors;
use crate::worker::{Mail, Worker};

/// Longest TLS handshake of a client.
const CLIENT_TLS_TIMEOUT: Duration = Duration::from_secs(10);

/// Accepts until the drain, and deals each client to the worker with the fewest.
pub(super) async fn accept_all(worker: Rc<Worker>, listener: Listener, gate: Arc<Gate>) {
    let mut complained = None;
    while !gate.stopped.load(Ordering::Acquire) {
        let accepted = tokio::select! {
            accepted = listener.accept(&mut complained) => accepted,
            () = gate.stop.notified() => continue,
        };
        if let Some(refusal) = refusal(&worker, &gate, &accepted) {
            turn_away(accepted, refusal);
            continue;
        }
        let to = (0..gate.loads.len())
            .min_by_key(|i| gate.loads[*i].load(Ordering::Relaxed))
            .unwrap_or_default();
        gate.loads[to].fetch_add(1, Ordering::Relaxed);
        if to == worker.index {
            admit(&worker, accepted, &gate);
        } else {
            let shared = gate.clone();
            let visit = Mail::Visit(Box::new(move |worker| admit(worker, accepted, &shared)));
            // A worker that is gone means that the process is ending.
            let _ = gate.mailboxes[to].send(visit);
        }
    }
}

fn refusal(worker: &Worker, gate: &Gate, accepted: &Accepted) -> Option<&'static str> {
    let (counters, config) = (worker.counters(), gate.config.load());
    let clients: usize = gate
        .loads
        .iter()
        .map(|load| load.load(Ordering::Relaxed))
        .sum();
    match accepted {
        Accepted::Tcp(_, peer) if listener::is_protected_from(&config.listen, *peer) => {
            counters.clients_refused_protected.add(1);
            Some(errors::PROTECTED)
        }
        _ if clients >= gate.max_clients.load(Ordering::Relaxed) => {
            counters.clients_refused_limit.add(1);
            Some(errors::MAX_CLIENTS)
        }
        _ => None,
    }
}

/// Tells a client why it is not served. Best effort: it may be gone or not reading.
fn turn_away(accepted: Accepted, refusal: &str) {
    use std::io::Write;
    let mut line = Vec::new();
    encode::error(&mut line, refusal);
    let _ = match accepted {
        Accepted::Tcp(mut stream, _) => stream.write_all(&line),
        Accepted::Unix(mut stream) => stream.write_all(&line),
    };
}

/// Takes a client in on the thread of its worker.
fn admit(worker: &Rc<Worker>, accepted: Accepted, gate: &Arc<Gate>) {
    let id = gate.next_id.fetch_add(1, Ordering::Relaxed);
    let dealt = Dealt {
        gate: gate.clone(),
        to: worker.index,
    };
    let tls = gate.tls.load_full();
    match into_stream(accepted, tls.is_some()) {
        Ok(Arriving::Ready(stream)) => worker.admit(stream, id, dealt),
        Ok(Arriving::Tls(tcp)) => {
            let worker = worker.clone();
            tokio::task::spawn_local(async move {
                let Some(tls) = tls else { return };
                match tokio::time::timeout(CLIENT_TLS_TIMEOUT, tls.accept(tcp)).await {
                    Ok(Ok(stream)) => worker.admit(Stream::Tls(Box::new(stream.into())), id, dealt),
                    Ok(Err(e)) => tracing::debug!("client TLS handshake failed: {e}"),
                    Err(_) => tracing::debug!("client TLS handshake timed out"),
                }
            });
        }
        Err(e) => tracing::warn!("cannot serve a client: {e}"),
    }
}

enum Arriving {
    Ready(Stream),
    Tls(tokio::net::TcpStream),
}

fn into_stream(accepted: Accepted, tls: bool) -> io::Result<Arriving> {
    Ok(match accepted {
        Accepted::Tcp(stream, _) => {
            let stream = tokio::net::TcpStream::from_std(stream)?;
            if tls {
                Arriving::Tls(stream)
            } else {
                Arriving::Ready(Stream::Tcp(stream.into()))
            }
        }
        Accepted::Unix(stream) => Arriving::Ready(Stream::Unix(
            tokio::net::UnixStream::from_std(stream)?.into(),
        )),
    })
}

/// A client that counts against its worker until the worker has taken it in.
#[derive(Debug)]
pub struct Dealt {
    gate: Arc<Gate>,
    to: usize,
}

impl Dealt {
    /// The worker counts the client from here on.
    pub fn pass_on(self) {
        self.gate.loads[self.to].fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Dealt {
    fn drop(&mut self) {
        self.gate.loads[self.to].fetch_sub(1, Ordering::Relaxed);
    }
}
