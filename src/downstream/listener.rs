//! Accepting clients: who may connect, and which worker serves them.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::{TcpListener, UnixListener};

use super::Config;

/// A listening socket.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// Unix socket.
    Unix(UnixListener),
}

/// A socket that was accepted, before anything was said.
#[derive(Debug)]
pub enum Accepted {
    /// TCP, and whether the peer is on this machine.
    Tcp(std::net::TcpStream, SocketAddr),
    /// Unix socket.
    Unix(std::os::unix::net::UnixStream),
}

/// A bound socket that belongs to no runtime yet.
#[derive(Debug)]
pub struct Bound(Socket);

/// The kernel's buffer of replies for one client, in bytes.
const SEND_BUFFER: usize = 256 * 1024;

/// Binds the TCP address.
///
/// # Errors
/// The address is taken or not ours.
pub fn bind_tcp(address: SocketAddr, backlog: u32) -> io::Result<Bound> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    // Accepted sockets inherit it. A large one would hide for long whether a client takes its replies.
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.bind(&address.into())?;
    finish(socket, backlog)
}

/// Binds the unix socket; a socket file that nobody listens on any more is replaced.
///
/// # Errors
/// The path cannot be created, or another process listens on it.
pub fn bind_unix(path: &Path, mode: u32, backlog: u32) -> io::Result<Bound> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    let address = SockAddr::unix(path)?;
    if let Err(e) = socket.bind(&address) {
        // Whatever else has this name is not ours to remove.
        let stale = e.kind() == io::ErrorKind::AddrInUse
            && std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket())
            && std::os::unix::net::UnixStream::connect(path).is_err();
        if !stale {
            return Err(e);
        }
        std::fs::remove_file(path)?;
        socket.bind(&address)?;
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    finish(socket, backlog)
}

fn finish(socket: Socket, backlog: u32) -> io::Result<Bound> {
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    socket.set_nonblocking(true)?;
    Ok(Bound(socket))
}

impl Bound {
    /// The address as bound, with the port that was picked.
    ///
    /// # Errors
    /// As the system says.
    pub fn address(&self) -> io::Result<Option<SocketAddr>> {
        Ok(self.0.local_addr()?.as_socket())
    }

    /// Hands the socket to the current runtime.
    ///
    /// # Errors
    /// As the system says.
    pub fn listen(self) -> io::Result<Listener> {
        if self.0.domain()? == Domain::UNIX {
            let listener: std::os::unix::net::UnixListener = self.0.into();
            Ok(Listener::Unix(UnixListener::from_std(listener)?))
        } else {
            let listener: std::net::TcpListener = self.0.into();
            Ok(Listener::Tcp(TcpListener::from_std(listener)?))
        }
    }
}

/// The pause after accepting has failed, so that a lack of file descriptors costs no CPU.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(100);

/// A lack of file descriptors is told of this often at most.
const COMPLAINT: Duration = Duration::from_secs(60);

/// When a listener last complained that it cannot accept.
pub type Complained = Option<Instant>;

impl Listener {
    /// The next client. Errors are waited out: the next client may succeed.
    pub async fn accept(&self, complained: &mut Complained) -> Accepted {
        loop {
            let e = match self.try_accept().await {
                Ok(accepted) => return accepted,
                Err(e) => e,
            };
            if is_about_one_client(&e) {
                continue;
            }
            if complained.is_none_or(|when| when.elapsed() > COMPLAINT) {
                *complained = Some(Instant::now());
                tracing::warn!(
                    "cannot accept clients for now, those that there are go on: {e} (ulimit -n, \
                     listen.max_clients)"
                );
            }
            tokio::time::sleep(PAUSE_AFTER_ERROR).await;
        }
    }

    async fn try_accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Accepted::Tcp(stream.into_std()?, peer))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok(Accepted::Unix(stream.into_std()?))
            }
        }
    }
}

/// The client has gone again, or may not be let in: the next one is not concerned.
fn is_about_one_client(e: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionReset, InvalidInput, NotConnected, PermissionDenied,
    };
    let kinds = [
        ConnectionAborted,
        ConnectionReset,
        InvalidInput,
        NotConnected,
        PermissionDenied,
    ];
    kinds.contains(&e.kind())
}

/// Redis's protected mode: without a password only this machine is let in.
pub fn is_protected_from(config: &Config, peer: SocketAddr) -> bool {
    config.protected_mode && config.password.is_none() && !peer.ip().to_canonical().is_loopback()
}
