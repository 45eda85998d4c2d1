//! What the integration tests stand on: real servers, the real binary, clients that see raw bytes.
//!
//! Owns the processes and files of a test and takes them away when it ends, however it ends. Never hides bytes:
//! a reply is what came over the wire, so that a test compares what an application would have received.
//!
//! What surprises: nothing here sleeps for a fixed time. [`eventually`] asks again until it is so, and gives up
//! after a time that only a broken program needs.

pub(crate) mod certs;
pub(crate) mod client;
pub(crate) mod cluster;
pub(crate) mod crowd;
pub(crate) mod fake;
pub(crate) mod frames;
pub(crate) mod pair;
pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod random;
pub(crate) mod redis;
pub(crate) mod relay;
pub(crate) mod sentinel;

use std::time::{Duration, Instant};

pub(crate) use client::Client;
pub(crate) use fake::{Act, FakeUpstream};
pub(crate) use process::free_port;
pub(crate) use proxy::Proxy;
pub(crate) use redis::RedisServer;

/// How long anything may take that should happen at once. Tests must pass on a machine that is busy with others.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Asks until there is an answer.
///
/// # Panics
/// After [`PATIENCE`], with what was waited for.
pub(crate) fn eventually<T>(what: &str, probe: impl FnMut() -> Option<T>) -> T {
    eventually_within(PATIENCE, what, probe)
}

/// As [`eventually`], for what is promised within another time.
pub(crate) fn eventually_within<T>(
    limit: Duration,
    what: &str,
    mut probe: impl FnMut() -> Option<T>,
) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(answer) = probe() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited {limit:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// As [`eventually`], for a condition.
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    eventually(what, || condition().then_some(()));
}

/// A command as Redis clients send it: an array of bulk strings.
pub(crate) fn command<T: AsRef<[u8]>>(arguments: &[T]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", arguments.len()).into_bytes();
    for argument in arguments {
        bytes.extend_from_slice(&bulk(argument.as_ref()));
    }
    bytes
}

/// The words of a line as a command.
pub(crate) fn line(words: &str) -> Vec<u8> {
    command(&words.split_ascii_whitespace().collect::<Vec<_>>())
}

/// A bulk string.
pub(crate) fn bulk(content: &[u8]) -> Vec<u8> {
    let mut bytes = format!("${}\r\n", content.len()).into_bytes();
    bytes.extend_from_slice(content);
    bytes.extend_from_slice(b"\r\n");
    bytes
}

/// Bytes for a message: as text, escaped, and cut where nobody would read on.
pub(crate) fn shown(bytes: &[u8]) -> String {
    const SHOWN: usize = 200;
    let head = bytes.get(..SHOWN.min(bytes.len())).unwrap_or_default();
    let dots =
        if bytes.len() > SHOWN { format!("… ({} bytes)", bytes.len()) } else { String::new() };
    format!("\"{}\"{dots}", head.escape_ascii())
}
