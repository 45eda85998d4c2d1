//! A TCP relay between the proxy and one server: a wire that can be made bad.
//!
//! Owns a listening port and two threads for each connection. It delays what it carries, cuts after a number of
//! bytes, swallows one direction silently, resets. Never changes a byte, never reorders.
//!
//! What surprises: a fault holds for all connections that are open and all that come, until [`Relay::mend`]. Bytes
//! that were swallowed never come again, and no real wire goes on behind a gap: those connections are reset then.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::process::free_port;

/// The relay.
pub(crate) struct Relay {
    port: u16,
    wire: Arc<Wire>,
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// From who connects to the server.
    There,
    /// From the server.
    Back,
}

/// Its condition.
struct Wire {
    server: u16,
    delay_us: AtomicU64,
    /// Bytes from the server until all connections are reset; negative: no end.
    bytes_left: AtomicI64,
    /// By [`Way`]: what comes is swallowed.
    is_black: [AtomicBool; 2],
    /// New connections are reset at once.
    refuses: AtomicBool,
    is_over: AtomicBool,
    /// Bytes carried, by [`Way`].
    carried: [AtomicU64; 2],
    accepted: AtomicUsize,
    /// Both sockets of each connection.
    open: Mutex<Vec<TcpStream>>,
}

// === impl Relay ===

impl Relay {
    /// On a port of its own, before a port of this machine on which somebody will listen.
    pub(crate) fn before(server: u16) -> Self {
        let (listener, port) = loop {
            let port = free_port();
            if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
                break (listener, port);
            }
        };
        let wire = Arc::new(Wire {
            server,
            delay_us: AtomicU64::new(0),
            bytes_left: AtomicI64::new(-1),
            is_black: Default::default(),
            refuses: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            carried: Default::default(),
            accepted: AtomicUsize::new(0),
            open: Mutex::default(),
        });
        let its = Arc::clone(&wire);
        std::thread::spawn(move || accept(&its, &listener));
        Self { port, wire }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Every piece waits this long before it is passed on, in both directions.
    pub(crate) fn delay(&self, by: Duration) {
        self.wire.delay_us.store(by.as_micros() as u64, Ordering::Relaxed);
    }

    /// After so many more bytes from the server every connection is reset, at that very byte.
    pub(crate) fn cut_after(&self, bytes: usize) {
        self.wire.bytes_left.store(bytes as i64, Ordering::Relaxed);
    }

    /// What comes this way is swallowed; connections stay open and are accepted.
    pub(crate) fn blackhole(&self, way: Way) {
        self.wire.is_black[way as usize].store(true, Ordering::Relaxed);
    }

    /// Resets every connection.
    pub(crate) fn reset(&self) {
        self.wire.reset_all();
    }

    /// Resets every connection, and those that come.
    pub(crate) fn refuse(&self) {
        self.wire.refuses.store(true, Ordering::Relaxed);
        self.wire.reset_all();
    }

    /// A good wire again, for what comes from here on.
    pub(crate) fn mend(&self) {
        self.wire.delay_us.store(0, Ordering::Relaxed);
        self.wire.bytes_left.store(-1, Ordering::Relaxed);
        self.wire.refuses.store(false, Ordering::Relaxed);
        if self.wire.is_black.iter().any(|way| way.load(Ordering::Relaxed)) {
            self.wire.reset_all();
        }
        for way in &self.wire.is_black {
            way.store(false, Ordering::Relaxed);
        }
    }

    /// Bytes carried this way.
    pub(crate) fn carried(&self, way: Way) -> u64 {
        self.wire.carried[way as usize].load(Ordering::Relaxed)
    }

    /// Connections accepted.
    pub(crate) fn accepted(&self) -> usize {
        self.wire.accepted.load(Ordering::Relaxed)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.wire.is_over.store(true, Ordering::Relaxed);
        self.wire.reset_all();
        // The thread that accepts looks up once more and ends.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

// === impl Wire ===

impl Wire {
    fn reset_all(&self) {
        for stream in self.open.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            reset(&stream);
        }
    }

    /// Takes `count` from what may still pass from the server, and says how much of it does.
    fn allowance(&self, way: Way, count: usize) -> usize {
        if way == Way::There {
            return count;
        }
        let take = |left: i64| (left >= 0).then(|| (left - count as i64).max(0));
        let old = self.bytes_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        old.map_or(count, |left| count.min(left as usize))
    }
}

fn accept(wire: &Arc<Wire>, listener: &TcpListener) {
    for stream in listener.incoming() {
        if wire.is_over.load(Ordering::Relaxed) {
            return;
        }
        let Ok(stream) = stream else { continue };
        wire.accepted.fetch_add(1, Ordering::Relaxed);
        let server = match wire.refuses.load(Ordering::Relaxed) {
            true => None,
            false => TcpStream::connect(("127.0.0.1", wire.server)).ok(),
        };
        // No server there: whoever connected sees what a dead machine's neighbour would say.
        let Some(server) = server else {
            reset(&stream);
            continue;
        };
        let both = [stream.try_clone(), server.try_clone()].map(|half| half.expect("it is open"));
        let mut open = wire.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.extend(both);
        drop(open);
        let ends = [(&stream, &server, Way::There), (&server, &stream, Way::Back)];
        for (from, to, way) in ends {
            let _ = from.set_nodelay(true);
            let its = Arc::clone(wire);
            let [from, to] = [from, to].map(|half| half.try_clone().expect("it is open"));
            std::thread::spawn(move || carry(&its, &from, &to, way));
        }
    }
}

/// Carries until one end is gone; a half-close is passed on.
fn carry(wire: &Wire, mut from: &TcpStream, mut to: &TcpStream, way: Way) {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let count = match from.read(&mut piece) {
            Ok(0) => {
                let _ = to.shutdown(Shutdown::Write);
                return;
            }
            Ok(count) => count,
            Err(_) => {
                reset(to);
                return;
            }
        };
        let delay = wire.delay_us.load(Ordering::Relaxed);
        if delay > 0 {
            std::thread::sleep(Duration::from_micros(delay));
        }
        if wire.is_black[way as usize].load(Ordering::Relaxed) {
            continue;
        }
        let passes = wire.allowance(way, count);
        if to.write_all(&piece[..passes]).is_err() {
            reset(from);
            return;
        }
        wire.carried[way as usize].fetch_add(passes as u64, Ordering::Relaxed);
        if passes < count {
            wire.reset_all();
            return;
        }
    }
}

/// Ends a connection as a machine that has forgotten it.
fn reset(stream: &TcpStream) {
    let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
    // The threads that carry hold the socket as well: shutting down wakes them, and the last of them sends the reset.
    let _ = stream.shutdown(Shutdown::Both);
}

/// Bytes that travel at once.
const PIECE_BYTES: usize = 64 * 1024;
