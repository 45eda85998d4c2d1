//! A server that does what no honest server does, on command.
//!
//! Owns a listening socket and a thread for each connection. It answers by itself what a proxy asks on its own
//! account (handshakes, PING, facts), and hands every other command to the test's script, which says what happens.
//! Never forgets: every scripted command is on record, with its connection.
//!
//! What surprises: while a script blocks, its connection is not read. That is how a test fills the kernel's
//! buffers and makes commands wait unsent.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::process::free_port;
use super::{PATIENCE, frames, until};

/// What happens to a command.
pub(crate) enum Act {
    /// These bytes are sent.
    Reply(Vec<u8>),
    /// These bytes are sent, then the connection is closed.
    ReplyAndClose(Vec<u8>),
    /// The connection is closed.
    Close,
}

/// A command that came.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// Number of its connection, in order of arrival.
    pub(crate) connection: usize,
    /// Name in capitals and arguments, separated by blanks; of a long argument the beginning.
    pub(crate) words: String,
}

/// The server.
pub(crate) struct FakeUpstream {
    port: u16,
    shared: Arc<Shared>,
}

/// A door that a script waits at until the test opens it.
#[derive(Default)]
pub(crate) struct Gate {
    is_open: Mutex<bool>,
    changed: Condvar,
}

type Script = dyn Fn(&Asked) -> Act + Send + Sync;

struct Shared {
    script: Box<Script>,
    asked: Mutex<Vec<Asked>>,
    /// The sockets of all connections, by number.
    connections: Mutex<Vec<TcpStream>>,
    is_over: AtomicBool,
}

// === impl FakeUpstream ===

impl FakeUpstream {
    pub(crate) fn start(script: impl Fn(&Asked) -> Act + Send + Sync + 'static) -> Self {
        let (listener, port) = loop {
            let port = free_port();
            if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
                break (listener, port);
            }
        };
        // Connections inherit it: what the kernel takes for a fake that does not read is little and known.
        let _ = socket2::SockRef::from(&listener).set_recv_buffer_size(RECEIVE_BUFFER_BYTES);
        let shared = Arc::new(Shared {
            script: Box::new(script),
            asked: Mutex::default(),
            connections: Mutex::default(),
            is_over: AtomicBool::new(false),
        });
        let its = Arc::clone(&shared);
        std::thread::spawn(move || accept(&its, &listener));
        Self { port, shared }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// As `--upstream` wants it.
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Commands that went to the script, in order of arrival.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        lock(&self.shared.asked).clone()
    }

    /// How often a command came, by the beginning of its words.
    pub(crate) fn count(&self, words: &str) -> usize {
        self.asked().iter().filter(|asked| asked.words.starts_with(words)).count()
    }

    /// Waits until a command has come.
    pub(crate) fn wait_for(&self, words: &str) {
        until(&format!("the upstream is asked {words}"), || self.count(words) > 0);
    }

    /// Sends bytes that nobody asked for on the connection on which `words` came last.
    pub(crate) fn inject(&self, words: &str, bytes: &[u8]) {
        let asked = self.asked();
        let last = asked.iter().rev().find(|asked| asked.words.starts_with(words));
        let connection = last.expect("the command came").connection;
        let mut connections = lock(&self.shared.connections);
        connections[connection].write_all(bytes).expect("the connection is open");
    }
}

impl Drop for FakeUpstream {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        for connection in lock(&self.shared.connections).iter() {
            let _ = connection.shutdown(Shutdown::Both);
        }
        // The thread that accepts looks up once more and ends.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn accept(shared: &Arc<Shared>, listener: &TcpListener) {
    for stream in listener.incoming() {
        if shared.is_over.load(Ordering::Relaxed) {
            return;
        }
        let Ok(stream) = stream else { continue };
        let _ = stream.set_nodelay(true);
        let mut connections = lock(&shared.connections);
        let number = connections.len();
        connections.push(stream.try_clone().expect("a socket can be shared"));
        let its = Arc::clone(shared);
        std::thread::spawn(move || {
            // The peer leaves, or the script has closed: both are the end of this connection.
            let _ = converse(&its, number, &stream);
            let _ = stream.shutdown(Shutdown::Both);
        });
    }
}

fn converse(shared: &Shared, number: usize, mut stream: &TcpStream) -> io::Result<()> {
    let mut buffer = Vec::new();
    let mut piece = vec![0; 64 * 1024];
    loop {
        // Everything that is whole is answered one by one, each in a write of its own.
        while let Some(length) = (!buffer.is_empty()).then(|| frames::length(&buffer)).flatten() {
            let command: Vec<u8> = buffer.drain(..length).collect();
            let act = answer(shared, number, &frames::arguments(&command));
            let (bytes, is_over) = match act {
                Act::Reply(bytes) => (bytes, false),
                Act::ReplyAndClose(bytes) => (bytes, true),
                Act::Close => (Vec::new(), true),
            };
            stream.write_all(&bytes)?;
            if is_over {
                return Ok(());
            }
        }
        let count = stream.read(&mut piece)?;
        if count == 0 {
            return Ok(());
        }
        buffer.extend_from_slice(&piece[..count]);
    }
}

fn answer(shared: &Shared, connection: usize, arguments: &[Vec<u8>]) -> Act {
    let text = |argument: &Vec<u8>| {
        let head = &argument[..argument.len().min(100)];
        String::from_utf8_lossy(head).into_owned()
    };
    let mut words: Vec<String> = arguments.iter().map(text).collect();
    words[0].make_ascii_uppercase();
    let own: &[u8] = match words[0].as_str() {
        "HELLO" => {
            b"*6\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$6\r\n7.0.15\r\n\
            $7\r\nmodules\r\n*0\r\n"
        }
        // A bound, because the number of databases is found by asking for more and more.
        "SELECT" if words[1].parse::<u32>().is_ok_and(|db| db >= 16) => {
            b"-ERR DB index is out of range\r\n"
        }
        "CLIENT" | "AUTH" | "SELECT" => b"+OK\r\n",
        "PING" => b"+PONG\r\n",
        "ROLE" => b"*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n",
        "COMMAND" | "CONFIG" | "INFO" => b"-NOPERM this user has no permissions\r\n",
        _ => {
            let asked = Asked { connection, words: words.join(" ") };
            lock(&shared.asked).push(asked.clone());
            return (shared.script)(&asked);
        }
    };
    Act::Reply(own.to_vec())
}

// === impl Gate ===

impl Gate {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    pub(crate) fn open(&self) {
        *lock(&self.is_open) = true;
        self.changed.notify_all();
    }

    /// Waits until it is open, or until the test must have failed.
    pub(crate) fn pass(&self) {
        let is_open = lock(&self.is_open);
        let _ = self.changed.wait_timeout_while(is_open, PATIENCE, |is_open| !*is_open);
    }
}

/// A failed assertion elsewhere must not hide itself behind a poisoned lock.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Receive buffer of each connection, before the kernel doubles it.
const RECEIVE_BUFFER_BYTES: usize = 64 * 1024;
