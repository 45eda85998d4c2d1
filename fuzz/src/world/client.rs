//! A client of the proxy, as a model: what it says, and what it must get for that.
//!
//! Owns the client's end of the connection, and the list of replies that it is owed, found by scanning all that it
//! says in one piece. Never looks into the session. Each whole frame that arrives is held against the list: in
//! the order of the commands, nothing doubled, nothing left out (INV-1).
//!
//! What surprises: the order is all that is known of a local answer. Its text is compared with real servers
//! elsewhere; here ECHO alone is predicted, and a mistake in the order shows at its neighbours.

use std::collections::VecDeque;
use std::sync::Arc;

use breakwater::command::Command;
use breakwater::command::spec::{Class, Spec};
use breakwater::command::table::{Table, Unknown};
use breakwater::resp::limits::Limits;
use breakwater::resp::reply::ReplyScanner;
use breakwater::resp::request::{RequestScanner, Scanned};
use breakwater::resp::write;
use breakwater::session::state::{ReplyMode, SessionId};

use super::Flag;
use super::ledger::{Ledger, show};

/// One client.
pub struct Client {
    /// Which client this is, of all that ever connected.
    pub number: usize,
    pub session: SessionId,
    /// Woken when the session's task is to run.
    pub flag: Arc<Flag>,
    /// Said, and still on its way.
    pub outbox: VecDeque<u8>,
    /// In the proxy's kernel, and not read by the session.
    pub arrived: VecDeque<u8>,
    /// Says nothing more once all of that has arrived.
    pub has_hung_up: bool,
    /// Bytes that the proxy's kernel would take for this client.
    pub room: usize,
    /// Bytes said so far.
    said: usize,
    /// Where each command begins that is unlike all others.
    marks: Vec<usize>,
    /// The session is gone.
    is_gone: bool,
    limits: Limits,
    /// Bytes of a command that is not whole.
    unfinished: Vec<u8>,
    owed: VecDeque<Owed>,
    reply_mode: ReplyMode,
    /// Nothing that is said from here on is answered.
    is_over: bool,
    /// Bytes of a reply that is not whole.
    received: Vec<u8>,
}

/// What a client is owed for one command.
#[derive(Debug)]
enum Owed {
    /// The node's reply to exactly this frame, or an error of ours.
    FromNode(Vec<u8>),
    /// Exactly these bytes.
    Exactly(Vec<u8>),
    /// A frame that begins so.
    Beginning(&'static str),
    /// A frame.
    Anything,
}

// === impl Client ===

impl Client {
    pub fn new(number: usize, session: SessionId, flag: Arc<Flag>, limits: Limits, room: usize) -> Self {
        Self {
            number,
            session,
            flag,
            outbox: VecDeque::new(),
            arrived: VecDeque::new(),
            has_hung_up: false,
            room,
            said: 0,
            marks: Vec::new(),
            is_gone: false,
            limits,
            unfinished: Vec::new(),
            owed: VecDeque::new(),
            reply_mode: ReplyMode::On,
            is_over: false,
            received: Vec::new(),
        }
    }

    /// Whether its session is there.
    pub fn is_here(&self) -> bool {
        !self.is_gone
    }

    /// Its session is no more: nothing else will come.
    pub fn leave(&mut self) {
        self.is_gone = true;
    }

    /// Whether a read of its socket would bring something.
    pub fn is_readable(&self) -> bool {
        !self.arrived.is_empty() || (self.has_hung_up && self.outbox.is_empty())
    }

    /// The place of the next command that is unlike all others; it is said next.
    pub fn next_mark(&mut self) -> u64 {
        self.marks.push(self.said);
        self.marks.len() as u64
    }

    /// The last such command that the session has begun to read; 0 if there is none.
    pub fn marks_read(&self) -> u64 {
        let read = self.said - self.outbox.len() - self.arrived.len();
        self.marks.partition_point(|&start| start < read) as u64
    }

    /// The client sends bytes. What it is owed for them is noted at once.
    pub fn say(&mut self, bytes: &[u8], table: &Table) {
        if self.has_hung_up {
            return;
        }
        self.outbox.extend(bytes);
        self.said += bytes.len();
        self.unfinished.extend_from_slice(bytes);
        let mut start = 0;
        while start < self.unfinished.len() && !self.is_over {
            let mut scanner = RequestScanner::default();
            let rest = &self.unfinished[start..];
            match scanner.scan(rest, &self.limits, true) {
                Ok(Scanned::Command { length }) => {
                    let (frame, spans) = scanner.arguments(rest, length);
                    let (frame, spans) = (frame.to_vec(), spans.to_vec());
                    self.expect(Command::new(&frame, &spans), table);
                    start += length;
                }
                Ok(Scanned::Nothing { length }) => start += length,
                Ok(Scanned::Incomplete { .. }) => break,
                Err(_) => {
                    self.owed.push_back(Owed::Beginning("-ERR Protocol error: "));
                    self.is_over = true;
                }
            }
        }
        self.unfinished.drain(..start);
    }

    /// Notes what one command is owed.
    fn expect(&mut self, command: Command<'_>, table: &Table) {
        let owed = match table.resolve(&command) {
            Err(Unknown::Command) if command.is_http() => {
                self.is_over = true;
                return;
            }
            Err(_) => Owed::Beginning("-ERR unknown "),
            Ok(spec) if !spec.accepts(command.len()) => Owed::Beginning("-ERR wrong number of arguments"),
            Ok(spec) => match spec.class_for(&command) {
                Class::Shared => Owed::FromNode(command.frame().to_vec()),
                Class::Local => return self.expect_local(spec, command),
                _ => Owed::Beginning("-ERR breakwater: '"),
            },
        };
        self.owe(owed);
    }

    fn expect_local(&mut self, spec: &Spec, command: Command<'_>) {
        match &*spec.name {
            "echo" => {
                let mut reply = Vec::new();
                write::bulk(&mut reply, command.argument(1).unwrap_or_default());
                self.owe(Owed::Exactly(reply));
            }
            "quit" => {
                self.owe(Owed::Exactly(b"+OK\r\n".to_vec()));
                self.is_over = true;
            }
            "reset" => {
                if self.reply_mode == ReplyMode::Off {
                    self.reply_mode = ReplyMode::On;
                }
                self.owe(Owed::Exactly(b"+RESET\r\n".to_vec()));
            }
            "client|reply" => self.expect_mode(command),
            _ => self.owe(Owed::Anything),
        }
    }

    /// CLIENT REPLY, as Redis has it: ON is answered, OFF and SKIP are not.
    fn expect_mode(&mut self, command: Command<'_>) {
        let before = self.reply_mode;
        if command.has_word_at(2, "on") {
            self.reply_mode = ReplyMode::On;
            self.owe(Owed::Exactly(b"+OK\r\n".to_vec()));
        } else if command.has_word_at(2, "off") || before == ReplyMode::Off && command.has_word_at(2, "skip") {
            self.reply_mode = ReplyMode::Off;
        } else if command.has_word_at(2, "skip") {
            self.reply_mode = ReplyMode::SkipNext;
        } else {
            self.owe(Owed::Beginning("-ERR syntax error"));
        }
    }

    fn owe(&mut self, owed: Owed) {
        match self.reply_mode {
            ReplyMode::On => self.owed.push_back(owed),
            ReplyMode::Off => {}
            ReplyMode::SkipNext => self.reply_mode = ReplyMode::On,
        }
    }

    /// Bytes arrive at the client; every whole frame is held against what it is owed.
    pub fn receive(&mut self, bytes: &[u8], ledger: &mut Ledger) {
        self.received.extend_from_slice(bytes);
        loop {
            let progress = ReplyScanner::default().scan(&self.received).unwrap_or_else(|error| {
                panic!("client {} got no reply: {error}: {}", self.number, show(&self.received))
            });
            if !progress.complete {
                return;
            }
            let reply: Vec<u8> = self.received.drain(..progress.consumed).collect();
            self.receive_reply(&reply, ledger);
        }
    }

    fn receive_reply(&mut self, reply: &[u8], ledger: &mut Ledger) {
        if reply.starts_with(NO_MEMORY) {
            // May take the place of any reply, and is the last one.
            self.owed.clear();
            self.is_over = true;
            return;
        }
        let Some(owed) = self.owed.pop_front() else {
            panic!("client {} is owed nothing and got {}", self.number, show(reply))
        };
        let is_right = match &owed {
            Owed::FromNode(frame) if reply.starts_with(b"-ERR breakwater: ") => {
                if reply.starts_with(b"-ERR breakwater: not executed: ") {
                    ledger.forbid(frame, "its client was told that it was not executed");
                } else if reply.starts_with(b"-ERR breakwater: no reply") {
                    ledger.check_repeatable(frame);
                }
                true
            }
            Owed::FromNode(frame) => {
                ledger.deliver(frame, reply);
                true
            }
            Owed::Exactly(bytes) => bytes == reply,
            Owed::Beginning(text) => reply.starts_with(text.as_bytes()),
            Owed::Anything => true,
        };
        assert!(is_right, "client {} is owed {owed:?} and got {}", self.number, show(reply));
    }

    /// Everything has flowed, and its session is still open: it must have got all that it was owed.
    pub fn check_the_end(&self) {
        assert!(self.arrived.is_empty(), "client {} is no longer read", self.number);
        assert!(self.received.is_empty(), "client {} has half a reply", self.number);
        assert!(self.owed.is_empty(), "client {} waits for {:?}", self.number, self.owed.front());
    }
}

/// How the refusal begins that a full budget of unfinished requests causes.
const NO_MEMORY: &[u8] = b"-ERR breakwater: not executed: the unfinished requests of all clients";
