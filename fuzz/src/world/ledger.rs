//! What the node has executed, and what it must not execute.
//!
//! Owns the number of every execution: the node's reply carries it, so that a reply which reaches a client names
//! the one command that it answers. Never knows how bytes travel. Checks INV-1 (each reply is delivered once, to
//! whoever sent exactly that command) and INV-3 (a write is executed once at most, and never after its client was
//! told that it was not, nor for a client that had gone before it was sent).

use std::collections::{BTreeSet, HashMap, HashSet};

/// The book.
#[derive(Default)]
pub struct Ledger {
    executed: Vec<Executed>,
    /// Commands that no two clients, and no client twice, ever sends.
    marked: HashMap<Vec<u8>, Marked>,
    /// Frames whose clients were told that they were not executed, or that were left behind unsent.
    forbidden: HashSet<Vec<u8>>,
    /// Places of the marked writes executed for each client.
    writes: HashMap<usize, BTreeSet<u64>>,
    /// Marked writes whose outcome became unknown, and the last place that had been read by then.
    doubts: HashMap<(usize, u64), u64>,
}

/// A command that is unique.
#[derive(Clone, Copy, Debug)]
struct Marked {
    client: usize,
    /// Position among the marked commands of its client.
    place: u64,
    /// Whether it may be executed twice.
    is_repeatable: bool,
    executions: u32,
}

struct Executed {
    frame: Vec<u8>,
    reply: Vec<u8>,
    is_delivered: bool,
}

// === impl Ledger ===

impl Ledger {
    /// A client is about to send a command that is unlike every other.
    pub fn mark(&mut self, frame: &[u8], client: usize, place: u64, is_repeatable: bool) {
        let marked = Marked { client, place, is_repeatable, executions: 0 };
        assert!(self.marked.insert(frame.to_vec(), marked).is_none(), "a mark was used twice");
    }

    /// The node executes `frame` and answers with what `reply` makes of the execution's number.
    pub fn execute(&mut self, frame: &[u8], reply: impl FnOnce(usize) -> Vec<u8>) -> &[u8] {
        assert!(!self.forbidden.contains(frame), "executed, although that was ruled out: {}", show(frame));
        if let Some(marked) = self.marked.get_mut(frame) {
            marked.executions += 1;
            let marked = *marked;
            assert!(marked.is_repeatable || marked.executions == 1, "executed twice: {}", show(frame));
            if !marked.is_repeatable {
                self.check_order(marked, frame);
            }
        }
        let reply = reply(self.executed.len());
        self.executed.push(Executed { frame: frame.to_vec(), reply, is_delivered: false });
        self.executed.last().map_or(&[], |last| &last.reply)
    }

    /// A client got `reply` for `frame`.
    pub fn deliver(&mut self, frame: &[u8], reply: &[u8]) {
        let number = number(reply).unwrap_or_else(|| panic!("no reply of the node: {}", show(reply)));
        let executed = self.executed.get_mut(number).expect("a number that the node gave");
        assert!(executed.reply == reply, "a reply was changed: {}", show(reply));
        assert!(
            executed.frame == frame,
            "the reply to {} reached the sender of {}",
            show(&executed.frame),
            show(frame)
        );
        assert!(!executed.is_delivered, "delivered twice: {}", show(reply));
        executed.is_delivered = true;
    }

    /// A client was told that `frame` was not executed, or has gone before it was sent. Only for what changes
    /// something is that a promise: a read may wait to be sent again while its first sending is executed.
    pub fn forbid(&mut self, frame: &[u8], why: &str) {
        if let Some(marked) = self.marked.get(frame)
            && !marked.is_repeatable
        {
            assert!(marked.executions == 0, "{why}, but it was executed: {}", show(frame));
            self.forbidden.insert(frame.to_vec());
        }
    }

    /// A client was told that `frame` only reads and may be repeated.
    pub fn check_repeatable(&self, frame: &[u8]) {
        let is_write = self.marked.get(frame).is_some_and(|marked| !marked.is_repeatable);
        assert!(!is_write, "a write may not be repeated: {}", show(frame));
    }

    /// The outcome of `frame` becomes unknown, when the session has read its client's marks up to `read_until`.
    pub fn doubt(&mut self, frame: &[u8], read_until: u64) {
        if let Some(marked) = self.marked.get(frame) {
            self.doubts.entry((marked.client, marked.place)).or_insert(read_until);
        }
    }

    /// INV-12: writes of one client are executed in its order. A write in doubt may come late, but then what was
    /// read before the doubt arose must not have been executed: the client could not know.
    fn check_order(&mut self, marked: Marked, frame: &[u8]) {
        let writes = self.writes.entry(marked.client).or_default();
        if let Some(later) = writes.range(marked.place + 1..).next() {
            let doubt = self.doubts.get(&(marked.client, marked.place));
            let could_know = doubt.is_some_and(|read_until| later > read_until);
            assert!(could_know, "executed behind mark {later}: {}", show(frame));
        }
        writes.insert(marked.place);
    }
}

/// The number of the execution that a reply of the node carries, as `#<number>;` near its beginning.
fn number(reply: &[u8]) -> Option<usize> {
    let start = reply.iter().position(|&byte| byte == b'#')? + 1;
    let length = reply[start..].iter().position(|&byte| byte == b';')?;
    std::str::from_utf8(&reply[start..start + length]).ok()?.parse().ok()
}

/// The beginning of some bytes, for a message.
pub fn show(bytes: &[u8]) -> String {
    let shown = &bytes[..bytes.len().min(200)];
    format!("\"{}\" ({} bytes)", shown.escape_ascii(), bytes.len())
}
