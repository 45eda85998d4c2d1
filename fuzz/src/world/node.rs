//! The node behind the proxy, as a model: connections, and replies made of the commands that they answer.
//!
//! Owns the bytes of each connection on their way to the node and back. Never lenient: bytes that are no command
//! in its only spelling are a finding, because a real node would close the connection that everybody shares.
//!
//! What surprises: a connection that is lost may still execute what the kernel had taken from it, as a real one
//! does. Nobody gets those replies.

use std::sync::Arc;

use breakwater::resp::write::{self, Protocol};
use breakwater::upstream::lane::LaneId;

use super::Flag;
use super::ledger::{Ledger, show};
use crate::tape::Tape;

/// One connection, from the moment when its lane wants it.
pub struct Pipe {
    /// Whose it is.
    pub lane: LaneId,
    /// Woken when the lane's task is to run.
    pub flag: Arc<Flag>,
    pub state: PipeState,
    pub protocol: Protocol,
    /// Bytes that the kernel has taken and the node has not executed.
    pub inbound: Vec<u8>,
    /// Bytes that the node has answered and the lane has not read.
    pub outbound: Vec<u8>,
    /// The node has sent what nobody asked for: the lane may complain.
    pub is_mad: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PipeState {
    Dialling,
    Open,
    /// The lane has another one, or is gone. What the node has of it may still be executed.
    Lost,
}

// === impl Pipe ===

impl Pipe {
    pub fn new(lane: LaneId, protocol: Protocol, flag: Arc<Flag>) -> Self {
        let (inbound, outbound) = (Vec::new(), Vec::new());
        Self { lane, flag, state: PipeState::Dialling, protocol, inbound, outbound, is_mad: false }
    }

    /// The connection is lost; what is left of it is a ghost that may still execute what it has.
    pub fn lose(&mut self) -> Self {
        let mut next = Self::new(self.lane, self.protocol, Arc::clone(&self.flag));
        std::mem::swap(&mut next, self);
        next.state = PipeState::Lost;
        next.outbound.clear();
        next
    }

    /// Executes the next whole command. Returns whether there was one.
    pub fn execute(&mut self, ledger: &mut Ledger, tape: &mut Tape<'_>) -> bool {
        let Some(length) = command_length(&self.inbound) else { return false };
        let frame: Vec<u8> = self.inbound.drain(..length).collect();
        let (shape, is_live) = (tape.byte(), self.state != PipeState::Lost);
        let protocol = self.protocol;
        let reply = ledger.execute(&frame, |number| reply(number, shape, protocol));
        if is_live {
            if protocol == Protocol::Resp3 && shape & 0x80 != 0 {
                // A push may come before any reply, and is none.
                self.outbound.extend_from_slice(b">2\r\n+invalidate\r\n*1\r\n$1\r\nk\r\n");
            }
            self.outbound.extend_from_slice(reply);
        }
        true
    }

    /// Whether the node owes nothing and holds nothing.
    pub fn is_quiet(&self) -> bool {
        self.inbound.is_empty() && self.outbound.is_empty()
    }
}

/// Length of the first command; `None` if it is not whole. Anything but its canonical spelling is a finding.
fn command_length(bytes: &[u8]) -> Option<usize> {
    let (count, mut position) = header(bytes, 0, b'*')?;
    assert!(count > 0, "the node does not answer this: {}", show(bytes));
    for _ in 0..count {
        let (length, start) = header(bytes, position, b'$')?;
        position = start + length + 2;
        let end = bytes.get(position - 2..position)?;
        assert!(end == b"\r\n", "no CRLF behind an argument: {}", show(bytes));
    }
    Some(position)
}

/// The number of the header line at `at`, and where the line ends.
fn header(bytes: &[u8], at: usize, kind: u8) -> Option<(usize, usize)> {
    let first = bytes.get(at)?;
    assert!(*first == kind, "a node would close the connection: {}", show(&bytes[at..]));
    let length = bytes[at..].windows(2).position(|pair| pair == b"\r\n")?;
    let digits = &bytes[at + 1..at + length];
    let number: usize = std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok()).unwrap_or(usize::MAX);
    let is_canonical = number.to_string().as_bytes() == digits;
    assert!(is_canonical, "a node would close the connection: {}", show(&bytes[at..]));
    Some((number, at + length + 2))
}

/// One of many shapes of a reply, with the number of its execution in it.
fn reply(number: usize, shape: u8, protocol: Protocol) -> Vec<u8> {
    let text = format!("#{number};");
    let mut out = Vec::new();
    match (shape & 0x7f) % 16 {
        0..=3 => write::bulk(&mut out, text.as_bytes()),
        4 => write::simple(&mut out, &text),
        5 => write::error(&mut out, &format!("ERR {text}")),
        // Whether an error is long makes a difference: it is held until it is whole.
        6 => write::error(&mut out, &format!("ERR {text}{}", "x".repeat(20_000))),
        7 => array(&mut out, &text, 1),
        8 => array(&mut out, &text, 700),
        9 => write::bulk(&mut out, &padded(&text, 15_000)),
        10 => write::bulk(&mut out, &padded(&text, 20_000)),
        11 => write::bulk(&mut out, &padded(&text, REPLY_BYTES_MAX - 100)),
        _ if protocol == Protocol::Resp2 => array(&mut out, &text, 3),
        12 => {
            write::map_header(&mut out, protocol, 1);
            write::bulk(&mut out, text.as_bytes());
            write::null(&mut out, protocol);
        }
        13 => {
            out.extend_from_slice(b"|1\r\n+ttl\r\n:3600\r\n");
            write::bulk(&mut out, text.as_bytes());
        }
        14 => out.extend_from_slice(format!("!{}\r\nERR {text}\r\n", text.len() + 4).as_bytes()),
        _ => write::verbatim(&mut out, protocol, text.as_bytes()),
    }
    assert!(out.len() <= REPLY_BYTES_MAX);
    out
}

fn array(out: &mut Vec<u8>, text: &str, elements: usize) {
    write::array_header(out, elements + 1);
    write::bulk(out, text.as_bytes());
    for number in 0..elements {
        write::bulk(out, format!("element number {number}").as_bytes());
    }
}

fn padded(text: &str, length: usize) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.resize(length, b'.');
    bytes
}

/// Longest reply of this node.
pub const REPLY_BYTES_MAX: usize = 40_000;
