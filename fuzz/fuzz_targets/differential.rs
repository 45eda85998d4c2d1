//! Against a real redis-server: what we would forward, Redis answers exactly once (INV-2).
//!
//! Input: a byte that chooses RESP2 or RESP3, then what a client sends. Every frame that the scanner accepts, and
//! whose command may travel on a lane, is sent on one connection, with an ECHO of a marker behind it. As many
//! replies as commands must come before the marker, and the connection must live.
//!
//! What surprises: without redis-server in the path every run passes, after a message that says so. The server
//! dies with this process, because a shell between the two waits for the end of its input.
#![no_main]

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command as Process, Stdio};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use breakwater::command::Command;
use breakwater::command::spec::Class;
use breakwater::command::table::Table;
use breakwater::resp::limits::Limits;
use breakwater::resp::reply::ReplyScanner;
use breakwater::resp::request::{RequestScanner, Scanned};
use breakwater::resp::write;
use libfuzzer_sys::fuzz_target;

/// Two connections to the server, one for each version of the protocol.
struct Redis {
    connections: [TcpStream; 2],
    /// How many inputs were run; the marker behind each.
    runs: u64,
}

static REDIS: LazyLock<Option<Mutex<Redis>>> = LazyLock::new(|| match Redis::start() {
    Ok(redis) => Some(Mutex::new(redis)),
    Err(error) if error.kind() == io::ErrorKind::NotFound => {
        eprintln!("SKIPPED: redis-server is not installed; nothing is compared with it.");
        None
    }
    Err(error) => panic!("redis-server was not started: {error}"),
});

static TABLE: LazyLock<Table> = LazyLock::new(Table::builtin);

fuzz_target!(|input: &[u8]| {
    let [settings, bytes @ ..] = input else { return };
    let frames = forwarded(bytes);
    let Some(redis) = &*REDIS else { return };
    if !frames.is_empty() {
        let mut redis = redis.lock().unwrap_or_else(PoisonError::into_inner);
        redis.check(usize::from(settings & 1), &frames);
    }
});

/// What would be queued on a lane for these bytes of a client.
fn forwarded(bytes: &[u8]) -> Vec<Vec<u8>> {
    let (limits, mut scanner, mut frames) = (Limits::default(), RequestScanner::default(), Vec::new());
    let mut rest = bytes;
    while frames.len() < COMMANDS_MAX {
        let length = match scanner.scan(rest, &limits, true) {
            Ok(Scanned::Command { length }) => {
                let (frame, spans) = scanner.arguments(rest, length);
                if is_sent(&Command::new(frame, spans)) {
                    frames.push(frame.to_vec());
                }
                length
            }
            Ok(Scanned::Nothing { length }) => length,
            Ok(Scanned::Incomplete { .. }) | Err(_) => break,
        };
        rest = &rest[length..];
        scanner.reset();
    }
    frames
}

/// Whether the screen would send it, and this test can bear it.
fn is_sent(command: &Command<'_>) -> bool {
    TABLE.resolve(command).is_ok_and(|spec| {
        spec.accepts(command.len())
            && spec.class_for(command) == Class::Shared
            && !LEFT_OUT.contains(&&*spec.name)
            // Code of the user's may run for ever.
            && !spec.runs_user_code()
    })
}

// === impl Redis ===

impl Redis {
    fn start() -> io::Result<Self> {
        // The shell would find out too late, and say so in its own words.
        Process::new("redis-server").arg("--version").stdout(Stdio::null()).status()?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let script = format!(
            "cd \"$(mktemp -d)\" || exit 1
             redis-server --bind 127.0.0.1 --port {port} --save '' --appendonly no --loglevel warning \
                --enable-debug-command no --enable-module-command no &
             read -r _; kill $!; wait; rm -r \"$PWD\""
        );
        let mut guard = Process::new("sh");
        guard.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::null());
        // Kept open until this process ends, in whatever way.
        std::mem::forget(guard.spawn()?);
        let connections = [connect(port)?, connect(port)?];
        let mut redis = Self { connections, runs: 0 };
        let mut hello = Vec::new();
        write::command(&mut hello, &[b"HELLO", b"3"]);
        redis.check(1, &[hello]);
        Ok(redis)
    }

    /// Sends all frames and a marker, and counts what comes before the marker.
    fn check(&mut self, connection: usize, frames: &[Vec<u8>]) {
        self.runs += 1;
        let marker = format!("marker {}", self.runs);
        let mut bytes = Vec::new();
        // What an earlier input left behind must not decide over this one.
        write::command(&mut bytes, &[b"FLUSHALL"]);
        bytes.extend(frames.iter().flatten());
        write::command(&mut bytes, &[b"ECHO", marker.as_bytes()]);
        let stream = &mut self.connections[connection];
        stream.write_all(&bytes).unwrap_or_else(|error| lost(frames, &error));
        let mut want = Vec::new();
        write::bulk(&mut want, marker.as_bytes());
        let replies = read_until(stream, &want, frames);
        assert_eq!(replies, frames.len() + 1, "not one reply for each of {}", show(frames));
    }
}

/// A server that has just been started needs a moment.
fn connect(port: u16) -> io::Result<TcpStream> {
    let deadline = Instant::now() + START_WITHIN;
    loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(ANSWER_WITHIN))?;
                return Ok(stream);
            }
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// Counts the replies before the one that equals `marker`, behind which nothing may come. Pushes are no replies.
fn read_until(stream: &mut TcpStream, marker: &[u8], frames: &[Vec<u8>]) -> usize {
    let (mut buffer, mut scanner) = (Vec::new(), ReplyScanner::default());
    let (mut start, mut seen, mut replies) = (0, 0, 0);
    loop {
        let mut piece = [0; 16 * 1024];
        match stream.read(&mut piece) {
            Ok(0) => lost(frames, &io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => buffer.extend_from_slice(&piece[..count]),
            Err(error) => lost(frames, &error),
        }
        while seen < buffer.len() {
            let progress = scanner.scan(&buffer[seen..]).unwrap_or_else(|error| {
                panic!("the reply to {} is none: {error}", show(frames));
            });
            seen += progress.consumed;
            if !progress.complete {
                break;
            }
            if &buffer[start..seen] == marker {
                assert_eq!(seen, buffer.len(), "more replies than commands: {}", show(frames));
                return replies;
            }
            replies += usize::from(scanner.kind() != Some(b'>'));
            start = seen;
        }
    }
}

fn lost(frames: &[Vec<u8>], error: &io::Error) -> ! {
    panic!("Redis fell silent or closed the connection ({error}): {}", show(frames))
}

fn show(frames: &[Vec<u8>]) -> String {
    frames.concat().escape_ascii().to_string()
}

/// Commands that would end, block or lock out this test, although they may travel on a lane.
const LEFT_OUT: [&str; 14] = [
    "acl|save",
    "acl|setuser",
    "bgrewriteaof",
    "bgsave",
    "config|rewrite",
    "config|set",
    "migrate",
    "module|load",
    "module|loadex",
    "module|unload",
    "pfdebug",
    "pfselftest",
    // 7.0.15 does not check what it is told to restore, and may crash of it.
    "restore",
    "restore-asking",
];
/// Commands of one input.
const COMMANDS_MAX: usize = 64;
/// How long the server may take to listen.
const START_WITHIN: Duration = Duration::from_secs(10);
/// How long the reply to a batch may take before it counts as missing.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
