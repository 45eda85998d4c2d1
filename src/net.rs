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
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
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

/// Sets what every TCP connection of ours wants: no Nagle delay, and keepalive while it is silent.
///
/// # Errors
/// Those of `setsockopt`.
pub fn tune(socket: &TcpStream, keepalive: Duration) -> io::Result<()> {
    let socket = socket2::SockRef::from(socket);
    socket.set_tcp_nodelay(true)?;
    let probes = socket2::TcpKeepalive::new().with_time(keepalive).with_interval(keepalive / 3);
    socket.set_tcp_keepalive(&probes)
}

/// What the kernel knows of a TCP connection.
#[allow(unsafe_code)]
fn tcp_info(socket: BorrowedFd<'_>) -> Option<libc::tcp_info> {
    let mut info = std::mem::MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = libc::socklen_t::try_from(size_of::<libc::tcp_info>()).ok()?;
    // SAFETY: the kernel writes at most `length` bytes, which is the size of the memory that `info` owns, and the
    // descriptor is open for as long as it is borrowed.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    // SAFETY: the struct holds integers only, for which the zeroes it began with are values, whatever part of it
    // the kernel has filled.
    (result == 0).then(|| unsafe { info.assume_init() })
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

    /// Whether the link is dead: bytes have been retransmitted, or a closed window probed, and the peer's kernel has
    /// acknowledged nothing for `limit`.
    ///
    /// `TCP_USER_TIMEOUT` would be simpler and wrong: Linux also applies it to a peer that is merely slow and whose
    /// kernel acknowledges every probe of its full window (measured: a stopped server's connection was reset after
    /// six seconds, and what it held ran when it went on).
    #[must_use]
    pub fn is_dead(&self, limit: Duration) -> bool {
        let info = match self {
            Self::Tcp(half) => tcp_info(half.as_ref().as_fd()),
            Self::Tls(stream) => tcp_info(stream.borrow().get_ref().0.as_fd()),
            Self::Unix(_) | Self::Detached => None,
        };
        info.is_some_and(|info| {
            let is_unanswered = info.tcpi_retransmits > 0 || info.tcpi_probes > 1;
            is_unanswered && u128::from(info.tcpi_last_ack_recv) >= limit.as_millis()
        })
    }

    /// Whether the peer has closed its side, even if bytes are left to be read in front of its end.
    #[must_use]
    #[allow(unsafe_code)]
    pub fn has_peer_closed(&self) -> bool {
        let mut asked = libc::pollfd { fd: self.descriptor(), events: libc::POLLRDHUP, revents: 0 };
        // SAFETY: one entry is passed and the kernel writes only into that entry's `revents`. Whatever the number in
        // `fd` stands for, poll(2) reads and writes nothing of it; a negative one is skipped.
        let ready = unsafe { libc::poll(&raw mut asked, 1, 0) };
        ready == 1 && asked.revents & (libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR) != 0
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
