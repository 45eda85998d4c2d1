//! Listeners: where clients come in.
//!
//! Owns binding, accepting, the cap on clients, and handing each socket to the least loaded worker.
//! Never reads a byte of a client: TLS and everything after it happen on the worker. A connection
//! arrives from the kernel and leaves as an [`Accepted`] in a worker's inbox. All sockets are bound
//! before the first thread is started; each is then accepted from on the thread of its upstream.
//!
//! What surprises: one acceptor for all workers. SO_REUSEPORT would spread connections by hash, and
//! Redis connections live for hours, so an uneven start stays uneven.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::watch;

use crate::config::{ListenAddress, ListenerSettings};
use crate::events;
use crate::net::{self, TcpListener, TcpStream, UnixListener, UnixStream};
use crate::server::workers::Door;
use crate::stats::control;
use crate::stats::labels::TurnedAway;
use crate::worker::{Message, WorkerHandle};

/// A bound socket that no runtime knows yet.
#[derive(Debug)]
pub enum Bound {
    /// TCP, IPv4 or IPv6.
    Tcp(std::net::TcpListener),
    /// A unix socket.
    Unix(std::os::unix::net::UnixListener, SocketFile),
}

/// A bound socket on the runtime of its upstream.
#[derive(Debug)]
pub enum Open {
    /// TCP, IPv4 or IPv6.
    Tcp(TcpListener),
    /// A unix socket.
    Unix(UnixListener, SocketFile),
}

/// The file of a unix socket, removed when nobody listens there any more.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

/// A client on its way to a worker.
#[derive(Debug)]
pub struct Accepted {
    /// Place of its listener in the settings.
    pub listener: usize,
    /// Its socket, detached from the acceptor's runtime.
    pub socket: Socket,
    /// Peer address, as CLIENT LIST prints it.
    pub address: String,
    /// Our address, as CLIENT LIST prints it.
    pub local_address: String,
    /// Its place among the clients of its listener and of its worker.
    pub place: Place,
}

/// A client's place in the counts; given back when it is dropped, however the client ends.
#[derive(Debug)]
pub struct Place {
    counts: [Arc<AtomicUsize>; 2],
}

/// A socket between two runtimes.
#[derive(Debug)]
pub enum Socket {
    /// TCP.
    Tcp(std::net::TcpStream),
    /// A unix socket.
    Unix(std::os::unix::net::UnixStream),
}

/// Binds what the settings say.
///
/// # Errors
/// The system's, with the address in the text and what to do about the common ones.
pub fn bind(settings: &ListenerSettings) -> io::Result<Bound> {
    let explain = |error: io::Error| {
        let cure = match error.kind() {
            io::ErrorKind::AddrInUse => {
                "; another process listens there: stop it or choose another address"
            }
            io::ErrorKind::PermissionDenied => {
                "; choose a port above 1023 or a directory that may be written"
            }
            _ => "",
        };
        io::Error::new(
            error.kind(),
            format!("cannot listen on {}: {error}{cure}", settings.address),
        )
    };
    match &settings.address {
        ListenAddress::Tcp(address) => bind_tcp(*address).map(Bound::Tcp).map_err(explain),
        ListenAddress::Unix { path, mode } => bind_unix(path, *mode)
            .map(|listener| Bound::Unix(listener, SocketFile(path.clone())))
            .map_err(explain),
    }
}

fn bind_tcp(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
    if address.is_ipv6() {
        // `[::]` must not take IPv4's port as well: both may be listeners of their own.
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn bind_unix(path: &Path, mode: u32) -> io::Result<std::os::unix::net::UnixListener> {
    // A socket file that nobody answers is left over from a process that was killed.
    if let Ok(found) = std::fs::symlink_metadata(path) {
        if !found.file_type().is_socket() {
            let text = "a file that is no socket is in the way; remove it or choose another path";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
        }
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    listener.into_std()
}

/// Accepts until `draining`, and hands clients out.
pub async fn accept(
    place: usize,
    open: Open,
    door: Door,
    workers: Arc<[WorkerHandle]>,
    mut draining: watch::Receiver<bool>,
) {
    loop {
        let result = tokio::select! {
            result = open.accept() => result,
            _ = draining.wait_for(|&draining| draining) => return,
        };
        match result {
            Ok((socket, address, local_address)) => {
                let offer = |place_taken| Accepted {
                    listener: place,
                    socket,
                    address,
                    local_address,
                    place: place_taken,
                };
                hand_out(&workers, &door, offer);
            }
            Err(error) => {
                control::client_turned_away(TurnedAway::AcceptFailed);
                events::accept_failed(&error);
                // Out of descriptors: trying at once would spin.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Gives a client to the least loaded worker, or tells it that there are too many.
fn hand_out(workers: &[WorkerHandle], door: &Door, offer: impl FnOnce(Place) -> Accepted) {
    let Some(worker) = workers.iter().min_by_key(|worker| worker.clients()) else {
        return;
    };
    let is_full = door.clients.load(Ordering::Relaxed) >= door.settings.client_max;
    let accepted = offer(Place::take([Arc::clone(&door.clients), Arc::clone(&worker.load)]));
    if is_full {
        control::client_turned_away(TurnedAway::MaxClients);
        return accepted.socket.refuse();
    }
    if let Err(error) = worker.inbox.try_send(Message::Client(Box::new(accepted))) {
        control::client_turned_away(TurnedAway::MaxClients);
        if let Message::Client(accepted) = error.into_inner() {
            accepted.socket.refuse();
        }
    }
}

// === impl Place ===

impl Place {
    fn take(counts: [Arc<AtomicUsize>; 2]) -> Self {
        for count in &counts {
            count.fetch_add(1, Ordering::Relaxed);
        }
        Self { counts }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for count in &self.counts {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

// === impl Bound ===

impl Bound {
    /// Hands it to the runtime that calls.
    ///
    /// # Errors
    /// If that cannot watch one more socket.
    pub fn open(self) -> io::Result<Open> {
        match self {
            Self::Tcp(listener) => TcpListener::from_std(listener).map(Open::Tcp),
            Self::Unix(listener, file) => {
                UnixListener::from_std(listener).map(|listener| Open::Unix(listener, file))
            }
        }
    }
}

// === impl Open ===

impl Open {
    async fn accept(&self) -> io::Result<(Socket, String, String)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                let local = stream.local_addr().map_or_else(|_| String::new(), |it| it.to_string());
                Ok((Socket::tcp(stream)?, peer.to_string(), local))
            }
            Self::Unix(listener, SocketFile(path)) => {
                let (stream, _) = listener.accept().await?;
                let name = format!("{}:0", path.display());
                Ok((Socket::unix(stream)?, name.clone(), name))
            }
        }
    }
}

// === impl SocketFile ===

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Left behind, the file would only mislead the next start; nothing depends on its
        // removal.
        let _ = std::fs::remove_file(&self.0);
    }
}

// === impl Socket ===

impl Socket {
    fn tcp(stream: TcpStream) -> io::Result<Self> {
        // As Redis: without it a peer that vanished would keep its place for ever.
        net::tune(&stream, CLIENT_KEEPALIVE)?;
        stream.into_std().map(Self::Tcp)
    }

    fn unix(stream: UnixStream) -> io::Result<Self> {
        stream.into_std().map(Self::Unix)
    }

    /// Redis's words for a client too many, written without waiting, and the end of it.
    fn refuse(self) {
        use std::io::Write;
        let _ = match self {
            Self::Tcp(mut stream) => stream.write(MAX_CLIENTS),
            Self::Unix(mut stream) => stream.write(MAX_CLIENTS),
        };
    }
}

/// Redis's own text.
const MAX_CLIENTS: &[u8] = b"-ERR max number of clients reached\r\n";
/// Silence after which TCP asks whether a client is there; Redis: `tcp-keepalive 300`.
const CLIENT_KEEPALIVE: Duration = Duration::from_secs(300);
/// Connections that the kernel holds for us before `accept`; it caps this at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;
