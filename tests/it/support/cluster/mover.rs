//! Moves slots from node to node, step by step, as `redis-cli --cluster reshard` does it.
//!
//! Owns one connection to each node, so that thousands of slots move without thousands of dials, and so that a
//! thread can move slots while the test does something else. Never waits for gossip: every living node is told.
//!
//! What surprises: a step that fails panics with the node's words. Who moves a slot back and forth calls
//! [`Mover::agree`] in between.

use super::View;
use crate::support::{Client, frames, shown, until};

/// Somebody with a connection to every node.
pub(crate) struct Mover {
    ends: Vec<Option<End>>,
    /// Keys of one MIGRATE.
    pub(crate) batch: usize,
}

struct End {
    client: Client,
    port: u16,
    id: String,
}

// === impl Mover ===

impl Mover {
    pub(super) fn new(ends: Vec<Option<(Client, u16, String)>>) -> Self {
        let end = |(client, port, id)| End { client, port, id };
        Self { ends: ends.into_iter().map(|known| known.map(end)).collect(), batch: BATCH }
    }

    /// The slot with its keys: opened, emptied, closed.
    pub(crate) fn move_slot(&mut self, slot: u16, from: usize, to: usize) {
        self.open(slot, from, to);
        while self.move_keys(slot, from, to, self.batch) > 0 {}
        self.close(slot, from, to);
    }

    /// As [`Self::move_slot`] for many, a few hundred open at a time, each step in one pipeline.
    pub(crate) fn move_slots(&mut self, slots: &[u16], from: usize, to: usize) {
        let (source, target) = (self.id(from), self.id(to));
        for slots in slots.chunks(OPEN_MAX) {
            self.setslots(to, slots, &format!("IMPORTING {source}"));
            self.setslots(from, slots, &format!("MIGRATING {target}"));
            let words = |slot: &u16| format!("CLUSTER COUNTKEYSINSLOT {slot}\r\n");
            let client = &mut self.end(from).client;
            client.send(slots.iter().map(words).collect::<String>());
            let counts = client.frames(slots.len());
            // A slot that is open at its source gets no more keys there.
            for (&slot, _) in slots.iter().zip(&counts).filter(|(_, count)| *count != b":0\r\n") {
                while self.move_keys(slot, from, to, self.batch) > 0 {}
            }
            // The new owner first, then the old one, then whoever is left.
            let others = (0..self.ends.len()).filter(|&i| i != from && i != to);
            let others: Vec<usize> = others.filter(|&i| self.ends[i].is_some()).collect();
            for i in [to, from].into_iter().chain(others) {
                self.setslots(i, slots, &format!("NODE {target}"));
            }
        }
    }

    /// The same for each of the slots at one node. Only replicas may refuse.
    fn setslots(&mut self, i: usize, slots: &[u16], what: &str) {
        let words = |slot: &u16| format!("CLUSTER SETSLOT {slot} {what}\r\n");
        let client = &mut self.end(i).client;
        client.send(slots.iter().map(words).collect::<String>());
        for (slot, reply) in slots.iter().zip(client.frames(slots.len())) {
            let is_fine =
                reply == b"+OK\r\n" || reply.starts_with(b"-ERR You can use SETSLOT only with");
            assert!(is_fine, "SETSLOT {slot} {what}: {}", shown(&reply));
        }
    }

    /// Both ends know that the slot is to move; the target first, so that no ASK leads to a node that knows nothing.
    pub(crate) fn open(&mut self, slot: u16, from: usize, to: usize) {
        let (source, target) = (self.id(from), self.id(to));
        self.ok(to, &format!("CLUSTER SETSLOT {slot} IMPORTING {source}"));
        self.ok(from, &format!("CLUSTER SETSLOT {slot} MIGRATING {target}"));
    }

    /// Moves at most `limit` keys in one MIGRATE, and says how many.
    pub(crate) fn move_keys(&mut self, slot: u16, from: usize, to: usize, limit: usize) -> usize {
        let reply = self.ask(from, &format!("CLUSTER GETKEYSINSLOT {slot} {limit}"));
        let keys = frames::arguments(&reply);
        if keys.is_empty() {
            return 0;
        }
        let port = self.end(to).port.to_string();
        let head = ["MIGRATE", "127.0.0.1", &port, "", "0", MIGRATE_MS, "KEYS"];
        let mut arguments: Vec<&[u8]> = head.iter().map(|word| word.as_bytes()).collect();
        arguments.extend(keys.iter().map(Vec::as_slice));
        let reply = self.end(from).client.call(&arguments);
        // NOKEY: they were popped, deleted or expired since.
        let is_done = reply == b"+OK\r\n" || reply == b"+NOKEY\r\n";
        assert!(is_done, "MIGRATE of slot {slot}: {}", shown(&reply));
        keys.len()
    }

    /// The slot is the target's: it is told first, then the source, then everybody else.
    pub(crate) fn close(&mut self, slot: u16, from: usize, to: usize) {
        let words = format!("CLUSTER SETSLOT {slot} NODE {}", self.id(to));
        self.ok(to, &words);
        self.ok(from, &words);
        for i in 0..self.ends.len() {
            // Replicas follow their primaries, and refuse.
            let is_other = i != from && i != to && self.ends[i].is_some();
            if is_other {
                self.ask(i, &words);
            }
        }
    }

    /// Waits until every node has heard of every owner and epoch. A slot must not move back before: a claim of its old
    /// owner that is still on the way would win over the new owner's, whose epoch it was raised without knowing.
    pub(crate) fn agree(&mut self) {
        until("all nodes agree on owners and epochs", || {
            let views =
                self.ends.iter_mut().flatten().map(|end| View::of(&mut end.client).claims());
            let views: Vec<_> = views.collect();
            views.iter().all(|view| *view == views[0])
        });
    }

    /// Slots without keys change their owner at once, as in a cluster that has long forgotten who they belonged to:
    /// the two nodes are told in one pipeline each, all others learn it by and by.
    pub(crate) fn give_empty(&mut self, slots: &[u16], from: usize, to: usize) {
        let what = format!("NODE {}", self.id(to));
        // First of all: claims of the old owner that are on the way must not win against what is told next.
        let reply = self.ask(to, "CLUSTER BUMPEPOCH");
        assert!(reply.starts_with(b"+"), "{}", shown(&reply));
        self.setslots(to, slots, &what);
        self.setslots(from, slots, &what);
    }

    /// The node forgets that the slot is open.
    pub(crate) fn stable(&mut self, slot: u16, at: usize) {
        self.ok(at, &format!("CLUSTER SETSLOT {slot} STABLE"));
    }

    /// Asks a node anything.
    pub(crate) fn ask(&mut self, i: usize, words: &str) -> Vec<u8> {
        self.end(i).client.ask(words)
    }

    fn ok(&mut self, i: usize, words: &str) {
        let reply = self.ask(i, words);
        assert_eq!(reply, b"+OK\r\n", "{words}: {}", shown(&reply));
    }

    fn id(&mut self, i: usize) -> String {
        self.end(i).id.clone()
    }

    fn end(&mut self, i: usize) -> &mut End {
        self.ends[i].as_mut().expect("the node was alive when the mover was made")
    }
}

/// Keys of one MIGRATE where nobody says another number: redis-cli's own.
const BATCH: usize = 10;
/// Slots that are open at once.
const OPEN_MAX: usize = 500;
/// What a MIGRATE may take, in milliseconds.
const MIGRATE_MS: &str = "60000";
