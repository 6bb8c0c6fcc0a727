//! One byte stream to a client, whatever carries it.
//!
//! Replies are written by whoever has them: mostly the task that read them from the server, so a write
//! must be possible without the client's own task. All of it happens on one thread.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::upstream::tls::AcceptedStream;

/// A connected client.
#[derive(Debug)]
pub enum Stream {
    /// Plain TCP.
    Tcp(RefCell<TcpStream>),
    /// Unix socket.
    Unix(RefCell<UnixStream>),
    /// TLS over TCP.
    Tls(Box<RefCell<AcceptedStream<TcpStream>>>),
}

impl Stream {
    /// Reads what is there.
    pub fn poll_read(&self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(into);
        let done = match self {
            Self::Tcp(s) => Pin::new(&mut *s.borrow_mut()).poll_read(cx, &mut buffer),
            Self::Unix(s) => Pin::new(&mut *s.borrow_mut()).poll_read(cx, &mut buffer),
            Self::Tls(s) => Pin::new(&mut *s.borrow_mut()).poll_read(cx, &mut buffer),
        };
        ready!(done)?;
        Poll::Ready(Ok(buffer.filled().len()))
    }

    /// Writes what the socket takes; `Pending` wakes the caller's task when it takes more.
    pub fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(s) => Pin::new(&mut *s.borrow_mut()).poll_write(cx, bytes),
            Self::Unix(s) => Pin::new(&mut *s.borrow_mut()).poll_write(cx, bytes),
            Self::Tls(s) => {
                let mut s = s.borrow_mut();
                let written = Pin::new(&mut *s).poll_write(cx, bytes);
                if let Poll::Ready(Err(e)) = Pin::new(&mut *s).poll_flush(cx) {
                    return Poll::Ready(Err(e));
                }
                written
            }
        }
    }

    /// Writes what the socket takes now, without waiting; zero bytes if none.
    pub fn write_now(&self, bytes: &[u8]) -> io::Result<usize> {
        let written = match self {
            Self::Tcp(s) => s.borrow().try_write(bytes),
            Self::Unix(s) => s.borrow().try_write(bytes),
            Self::Tls(_) => {
                let mut cx = Context::from_waker(Waker::noop());
                match self.poll_write(&mut cx, bytes) {
                    Poll::Ready(written) => written,
                    Poll::Pending => Ok(0),
                }
            }
        };
        match written {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(0),
            written => written,
        }
    }

    /// Moves on what TLS holds back.
    pub fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(_) | Self::Unix(_) => Poll::Ready(Ok(())),
            Self::Tls(s) => Pin::new(&mut *s.borrow_mut()).poll_flush(cx),
        }
    }

    /// True where bytes may be held back after a write.
    pub fn needs_flush(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// Says goodbye: TLS sends its closing alert, then the sending direction ends.
    pub fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(s) => Pin::new(&mut *s.borrow_mut()).poll_shutdown(cx),
            Self::Unix(s) => Pin::new(&mut *s.borrow_mut()).poll_shutdown(cx),
            Self::Tls(s) => Pin::new(&mut *s.borrow_mut()).poll_shutdown(cx),
        }
    }
}
