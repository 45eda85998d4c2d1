//! `breakwater explain --running ADDR`: the same question to a proxy that runs.
//!
//! Owns one request to the admin port and the reading of its answer. Never asks twice. What surprises:
//! the answer is passed on as it came, and its status says whether the command would be served; 422
//! stands for one that would not be.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use crate::percent;

/// Asks the proxy at `admin`. True if the command would be served.
pub(super) fn ask(
    admin: &str,
    upstream: Option<&str>,
    arguments: &[Vec<u8>],
    out: &mut impl Write,
) -> io::Result<bool> {
    let (status, body) = match asked(admin, upstream, arguments) {
        Ok(answer) => answer,
        Err(error) => {
            writeln!(out, "{admin} does not answer: {error}; is it the admin address of a proxy?")?;
            return Ok(false);
        }
    };
    match status {
        200 | 422 => out.write_all(body.as_bytes())?,
        404 if upstream.is_some() => write!(out, "{admin}: {body}")?,
        431 => writeln!(out, "the command is too long to be asked about")?,
        _ => writeln!(out, "{admin} answers {status}: is it the admin address of a proxy?")?,
    }
    Ok(status == 200)
}

fn asked(admin: &str, upstream: Option<&str>, arguments: &[Vec<u8>]) -> io::Result<(u16, String)> {
    let address = admin.to_socket_addrs()?.next().ok_or(io::ErrorKind::AddrNotAvailable)?;
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let upstream = upstream.map(|name| format!("upstream={}", percent::encoded(name.as_bytes())));
    let arguments = arguments.iter().map(|it| format!("a={}", percent::encoded(it)));
    let query = arguments.chain(upstream).collect::<Vec<_>>().join("&");
    write!(
        stream,
        "GET /policy/explain?{query} HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(io::ErrorKind::InvalidData)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok((status.ok_or(io::ErrorKind::InvalidData)?, body.to_owned()))
}

/// How long a proxy may take for each step.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest answer that is read.
const ANSWER_BYTES_MAX: u64 = 1 << 20;
