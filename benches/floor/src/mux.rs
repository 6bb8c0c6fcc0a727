//! `mux LISTEN UPSTREAM CONNECTIONS [CA.pem]`: the smallest multiplexer that works, on one thread.
//!
//! It knows where a RESP2 frame ends and nothing else: no commands, errors, timeouts, limits or
//! reconnects. What it costs is the floor of what a proxy of this design can cost; it is no product.

use std::{
    collections::VecDeque,
    env, io,
    sync::{Arc, Mutex},
};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
};

mod tls;
use tls::Tls;

/// What one client sent in one read: `replies` whole frames, and where their replies go.
struct Request {
    data: Bytes,
    replies: usize,
    to: UnboundedSender<Bytes>,
}

/// The value of a decimal line, and its length with the line end.
fn number(b: &[u8]) -> Option<(i64, usize)> {
    let end = memchr::memchr(b'\n', b)?;
    let (mut value, mut sign) = (0, 1);
    for &c in &b[..end.saturating_sub(1)] {
        match c {
            b'-' => sign = -1,
            c => value = value * 10 + i64::from(c.wrapping_sub(b'0')),
        }
    }
    Some((sign * value, end + 1))
}

/// The length of the complete RESP2 frame at the start of `b`.
fn frame(b: &[u8]) -> Option<usize> {
    match *b.first()? {
        b'$' => {
            let (len, used) = number(&b[1..])?;
            let total = 1 + used + if len < 0 { 0 } else { len as usize + 2 };
            (b.len() >= total).then_some(total)
        }
        b'*' => {
            let (count, used) = number(&b[1..])?;
            let mut at = 1 + used;
            for _ in 0..count {
                at += frame(b.get(at..)?)?;
            }
            Some(at)
        }
        _ => Some(memchr::memchr(b'\n', b)? + 1),
    }
}

/// Carries requests over one upstream connection and hands its replies back in order.
async fn upstream<S>(stream: S, mut requests: UnboundedReceiver<Request>) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut read, mut write) = tokio::io::split(stream);
    let waiting = Arc::new(Mutex::new(VecDeque::new()));
    let queue = Arc::clone(&waiting);
    tokio::spawn(async move {
        let mut batch = Vec::new();
        let mut out = Vec::with_capacity(64 << 10);
        while requests.recv_many(&mut batch, 256).await > 0 {
            {
                let mut queue = queue.lock().unwrap();
                for r in batch.drain(..) {
                    out.extend_from_slice(&r.data);
                    queue.push_back((r.replies, r.to));
                }
            }
            if write.write_all(&out).await.is_err() || write.flush().await.is_err() {
                return;
            }
            out.clear();
        }
    });
    let mut buf = BytesMut::with_capacity(64 << 10);
    let (mut at, mut replies) = (0, 0);
    loop {
        if buf.capacity() - buf.len() < 8 << 10 {
            buf.reserve(64 << 10);
        }
        if read.read_buf(&mut buf).await? == 0 {
            return Ok(());
        }
        while let Some(len) = frame(&buf[at..]) {
            (at, replies) = (at + len, replies + 1);
            let mut waiting = waiting.lock().unwrap();
            if waiting.front().is_some_and(|(n, _)| *n == replies) {
                let (_, to) = waiting.pop_front().unwrap();
                let _ = to.send(buf.split_to(at).freeze());
                (at, replies) = (0, 0);
            }
        }
    }
}

/// Serves one client: whole frames go upstream as they were read, replies come back through a channel.
async fn client(stream: TcpStream, up: UnboundedSender<Request>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut read, mut write) = stream.into_split();
    let (to, mut replies) = unbounded_channel::<Bytes>();
    tokio::spawn(async move {
        let (mut batch, mut out) = (Vec::new(), Vec::new());
        while replies.recv_many(&mut batch, 64).await > 0 {
            let sent = if let [one] = &batch[..] {
                write.write_all(one).await
            } else {
                out.clear();
                batch.iter().for_each(|b| out.extend_from_slice(b));
                write.write_all(&out).await
            };
            if sent.is_err() {
                return;
            }
            batch.clear();
        }
    });
    let mut buf = BytesMut::with_capacity(4 << 10);
    loop {
        if buf.capacity() - buf.len() < 1 << 10 {
            buf.reserve(4 << 10);
        }
        if read.read_buf(&mut buf).await? == 0 {
            return Ok(());
        }
        let (mut at, mut replies) = (0, 0);
        while let Some(len) = frame(&buf[at..]) {
            (at, replies) = (at + len, replies + 1);
        }
        if replies > 0 {
            let data = buf.split_to(at).freeze();
            let to = to.clone();
            if up.send(Request { data, replies, to }).is_err() {
                return Ok(());
            }
        }
    }
}

async fn run(args: Vec<String>) -> io::Result<()> {
    let tls = args.get(4).map(|ca| Tls::new(ca));
    let mut ups = Vec::new();
    for _ in 0..args[3].parse::<usize>().expect("number of connections") {
        let (up, requests) = unbounded_channel();
        ups.push(up);
        let stream = TcpStream::connect(&args[2]).await?;
        stream.set_nodelay(true)?;
        match &tls {
            None => drop(tokio::spawn(upstream(stream, requests))),
            Some(tls) => drop(tokio::spawn(upstream(tls.connect(stream).await?, requests))),
        }
    }
    let listener = TcpListener::bind(&args[1]).await?;
    for up in ups.iter().cycle() {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(client(stream, up.clone()));
    }
    Ok(())
}

fn main() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    // Spawned, so that accepting is one task among others.
    runtime.block_on(async { tokio::spawn(run(env::args().collect())).await? })
}
