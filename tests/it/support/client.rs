//! A client that hides nothing: it sends bytes and receives whole frames, as bytes.
//!
//! Owns one connection, by TCP, unix socket or TLS. Never retries, never reconnects, never interprets. Every
//! read has a deadline, so that a reply that never comes fails the test instead of hanging it.
//!
//! What surprises: [`Client::rest`] tells a connection that was closed from one that is silent.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::{PATIENCE, frames, line, shown};

/// One connection.
pub(crate) struct Client {
    stream: Stream,
    /// Bytes received.
    buffer: Vec<u8>,
    /// How many of them have been returned.
    taken: usize,
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

// === impl Client ===

impl Client {
    /// Connects to a port of this machine.
    pub(crate) fn connect(port: u16) -> Self {
        Self::try_connect(("127.0.0.1", port)).expect("the port accepts connections")
    }

    pub(crate) fn try_connect(address: impl std::net::ToSocketAddrs) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        Ok(Self::new(Stream::Tcp(stream)))
    }

    /// A second connection to where this one leads, which is a port of this machine.
    pub(crate) fn another(&self) -> io::Result<Self> {
        match &self.stream {
            Stream::Tcp(stream) => Self::try_connect(stream.peer_addr()?),
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    pub(crate) fn connect_unix(path: &Path) -> io::Result<Self> {
        Ok(Self::new(Stream::Unix(UnixStream::connect(path)?)))
    }

    /// Connects and shakes hands, expecting the certificate of `name`.
    pub(crate) fn connect_tls(
        port: u16,
        config: Arc<ClientConfig>,
        name: &str,
    ) -> io::Result<Self> {
        let tcp = TcpStream::connect(("127.0.0.1", port))?;
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(PATIENCE))?;
        let name = ServerName::try_from(name.to_owned()).expect("it is a name");
        let tls = ClientConnection::new(config, name).map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(tls, tcp);
        stream.conn.complete_io(&mut stream.sock)?;
        Ok(Self::new(Stream::Tls(Box::new(stream))))
    }

    fn new(stream: Stream) -> Self {
        let mut client = Self { stream, buffer: Vec::new(), taken: 0 };
        client.patience(PATIENCE);
        client
    }

    /// Sets how long a read or a write may take.
    pub(crate) fn patience(&mut self, limit: Duration) {
        let limit = Some(limit);
        let set = match &self.stream {
            Stream::Tcp(stream) => {
                stream.set_read_timeout(limit).and(stream.set_write_timeout(limit))
            }
            Stream::Unix(stream) => {
                stream.set_read_timeout(limit).and(stream.set_write_timeout(limit))
            }
            Stream::Tls(stream) => stream.sock.set_read_timeout(limit),
        };
        set.expect("a time-out can be set");
    }

    /// Sends bytes as they are.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes.as_ref()).expect("the connection takes bytes");
    }

    pub(crate) fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.stream {
            Stream::Tcp(stream) => stream.write_all(bytes),
            Stream::Unix(stream) => stream.write_all(bytes),
            Stream::Tls(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
        }
    }

    /// Says that nothing more will be sent; replies can still be read.
    pub(crate) fn finish_sending(&mut self) {
        let done = match &self.stream {
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Stream::Unix(stream) => stream.shutdown(Shutdown::Write),
            Stream::Tls(stream) => stream.sock.shutdown(Shutdown::Write),
        };
        done.expect("a connection can be half closed");
    }

    /// Leaves as a process that is killed with replies unread: with a reset, which is no half-close.
    pub(crate) fn abort(self) {
        let linger = Some(Duration::ZERO);
        let set = match &self.stream {
            Stream::Tcp(stream) => socket2::SockRef::from(stream).set_linger(linger),
            Stream::Unix(stream) => socket2::SockRef::from(stream).set_linger(linger),
            Stream::Tls(stream) => socket2::SockRef::from(&stream.sock).set_linger(linger),
        };
        set.expect("a connection can be reset");
    }

    /// The next whole frame.
    ///
    /// # Errors
    /// `UnexpectedEof` if the connection was closed first, `TimedOut` or `WouldBlock` if nothing came.
    pub(crate) fn try_frame(&mut self) -> io::Result<Vec<u8>> {
        loop {
            let fresh = &self.buffer[self.taken..];
            if let Some(length) = (!fresh.is_empty()).then(|| frames::length(fresh)).flatten() {
                let frame = fresh[..length].to_vec();
                self.taken += length;
                return Ok(frame);
            }
            if self.read_more()? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// The next whole frame.
    pub(crate) fn frame(&mut self) -> Vec<u8> {
        match self.try_frame() {
            Ok(frame) => frame,
            Err(error) => panic!("no reply ({error}); what came: {}", shown(self.unread())),
        }
    }

    /// The next `count` frames.
    pub(crate) fn frames(&mut self, count: usize) -> Vec<Vec<u8>> {
        (0..count).map(|_| self.frame()).collect()
    }

    /// Sends the words of a line as a command and returns its reply.
    pub(crate) fn ask(&mut self, words: &str) -> Vec<u8> {
        self.send(line(words));
        self.frame()
    }

    /// As [`Self::ask`], with arguments of any bytes.
    pub(crate) fn call<T: AsRef<[u8]>>(&mut self, arguments: &[T]) -> Vec<u8> {
        self.send(super::command(arguments));
        self.frame()
    }

    /// As [`Self::ask`], as text, for messages and comparisons with words.
    pub(crate) fn text(&mut self, words: &str) -> String {
        String::from_utf8_lossy(&self.ask(words)).into_owned()
    }

    /// Everything that comes until the peer closes.
    ///
    /// # Panics
    /// If the peer does not close.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        loop {
            match self.read_more() {
                Ok(0) => break,
                Ok(_) => {}
                // A peer that closes with bytes of ours unread resets the connection.
                Err(error) if is_reset(&error) => break,
                Err(error) => {
                    panic!("still open ({error}); what came: {}", shown(self.unread()))
                }
            }
        }
        let rest = self.unread().to_vec();
        self.taken = self.buffer.len();
        rest
    }

    /// Receives at most `limit` bytes, once: a reader that takes its time.
    pub(crate) fn sip(&mut self, limit: usize) -> io::Result<usize> {
        self.read_at_most(limit)
    }

    /// As [`Self::sip`], and forgets what came.
    pub(crate) fn discard(&mut self, limit: usize) -> io::Result<usize> {
        let count = self.read_at_most(limit)?;
        self.taken = self.buffer.len();
        if count == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(count) }
    }

    /// Bytes that came and have not been returned.
    pub(crate) fn unread(&self) -> &[u8] {
        &self.buffer[self.taken..]
    }

    fn read_more(&mut self) -> io::Result<usize> {
        self.read_at_most(READ_BYTES)
    }

    fn read_at_most(&mut self, limit: usize) -> io::Result<usize> {
        if self.taken == self.buffer.len() {
            self.buffer.clear();
            self.taken = 0;
            // Two thousand clients of a test should cost the test nothing.
            self.buffer.shrink_to(READ_BYTES);
        }
        let old = self.buffer.len();
        self.buffer.resize(old + limit, 0);
        let space = &mut self.buffer[old..];
        let result = match &mut self.stream {
            Stream::Tcp(stream) => stream.read(space),
            Stream::Unix(stream) => stream.read(space),
            Stream::Tls(stream) => stream.read(space),
        };
        self.buffer.truncate(old + *result.as_ref().unwrap_or(&0));
        result
    }
}

/// Whether the peer is gone, rather than silent.
pub(crate) fn is_reset(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::ConnectionReset | Kind::BrokenPipe | Kind::UnexpectedEof | Kind::ConnectionAborted
    )
}

/// Bytes of one read.
const READ_BYTES: usize = 64 * 1024;
