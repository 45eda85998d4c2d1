//! The only file that names tokio's sockets.
//!
//! Owns what a worker reads from and writes to: TCP, unix and TLS streams, split into halves that two tasks of
//! one worker share. Never buffers, never parses. Bytes arrive through [`ReadHalf::poll_read`] and leave through
//! [`WriteHalf::poll_write`].
//!
//! What surprises: the halves are polled with the *session's* waker even when a lane's task writes, so that the
//! session goes on writing once the client's socket has room. Reads stop at a short read (tokio clears readiness
//! there), which saves the system call that would only say `WouldBlock`.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{tcp, unix};
use tokio_rustls::TlsStream;

pub use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream, lookup_host};

/// Where bytes come from.
#[derive(Debug)]
pub enum ReadHalf {
    /// TCP in the clear.
    Tcp(tcp::OwnedReadHalf),
    /// A unix socket.
    Unix(unix::OwnedReadHalf),
    /// TLS over TCP; both halves share the one state machine of rustls.
    Tls(Rc<RefCell<TlsStream<TcpStream>>>),
}

/// Where bytes go.
#[derive(Debug)]
pub enum WriteHalf {
    /// TCP in the clear.
    Tcp(tcp::OwnedWriteHalf),
    /// A unix socket.
    Unix(unix::OwnedWriteHalf),
    /// TLS over TCP.
    Tls(Rc<RefCell<TlsStream<TcpStream>>>),
    /// No socket: tests and benchmarks of the synchronous core read the session's buffer instead.
    Detached,
}

/// Both halves of an established connection.
pub type Halves = (ReadHalf, WriteHalf);

/// Splits a TCP connection.
#[must_use]
pub fn split_tcp(stream: TcpStream) -> Halves {
    let (read, write) = stream.into_split();
    (ReadHalf::Tcp(read), WriteHalf::Tcp(write))
}

/// Splits a unix connection.
#[must_use]
pub fn split_unix(stream: UnixStream) -> Halves {
    let (read, write) = stream.into_split();
    (ReadHalf::Unix(read), WriteHalf::Unix(write))
}

/// Splits a TLS connection.
#[must_use]
pub fn split_tls(stream: TlsStream<TcpStream>) -> Halves {
    let shared = Rc::new(RefCell::new(stream));
    (ReadHalf::Tls(Rc::clone(&shared)), WriteHalf::Tls(shared))
}

/// Sets what every TCP connection of ours wants: no Nagle delay, keepalive, and a bound on unacknowledged data.
///
/// # Errors
/// Those of `setsockopt`.
pub fn tune(socket: &impl AsRawFdSocket, keepalive: Duration, user_timeout: Option<Duration>) -> io::Result<()> {
    let socket = socket.socket_ref();
    socket.set_tcp_nodelay(true)?;
    let probes = socket2::TcpKeepalive::new().with_time(keepalive).with_interval(keepalive / 3);
    socket.set_tcp_keepalive(&probes)?;
    socket.set_tcp_user_timeout(user_timeout)
}

/// What `tune` can be applied to.
pub trait AsRawFdSocket {
    /// The socket as socket2 sees it.
    fn socket_ref(&self) -> socket2::SockRef<'_>;
}

// === impl AsRawFdSocket ===

impl<S: std::os::fd::AsFd> AsRawFdSocket for S {
    fn socket_ref(&self) -> socket2::SockRef<'_> {
        socket2::SockRef::from(self)
    }
}

// === impl ReadHalf ===

impl ReadHalf {
    /// Reads what is there into `buffer`, which is initialised. `Ok(0)` is the end of the stream.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(buffer);
        ready!(match self {
            Self::Tcp(half) => Pin::new(half).poll_read(cx, &mut buffer),
            Self::Unix(half) => Pin::new(half).poll_read(cx, &mut buffer),
            Self::Tls(stream) => Pin::new(&mut *stream.borrow_mut()).poll_read(cx, &mut buffer),
        })?;
        Poll::Ready(Ok(buffer.filled().len()))
    }
}

// === impl WriteHalf ===

impl WriteHalf {
    /// Writes as much of `slices` as the kernel takes. `cx` belongs to the task that is to go on when it takes
    /// none.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(half) => poll_slices(half, cx, slices),
            Self::Unix(half) => poll_slices(half, cx, slices),
            Self::Tls(stream) => poll_slices(&mut *stream.borrow_mut(), cx, slices),
            Self::Detached => Poll::Pending,
        }
    }

    /// Pushes out what TLS has encrypted and not yet written. Nothing to do for the others.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tls(stream) => Pin::new(&mut *stream.borrow_mut()).poll_flush(cx),
            _ => Poll::Ready(Ok(())),
        }
    }

    /// The descriptor, which CLIENT LIST shows; -1 without a socket.
    #[must_use]
    pub fn descriptor(&self) -> RawFd {
        match self {
            Self::Tcp(half) => half.as_ref().as_raw_fd(),
            Self::Unix(half) => half.as_ref().as_raw_fd(),
            Self::Tls(stream) => stream.borrow().get_ref().0.as_raw_fd(),
            Self::Detached => -1,
        }
    }
}

/// One slice needs no vectored write, which spares the kernel the copy of the vector.
fn poll_slices<S: AsyncWrite + Unpin>(
    stream: &mut S,
    cx: &mut Context<'_>,
    slices: &[IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    match slices {
        [one] => Pin::new(stream).poll_write(cx, one),
        many => Pin::new(stream).poll_write_vectored(cx, many),
    }
}
