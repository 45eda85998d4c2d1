//! Runs before a cluster against the long way, and against what every client may expect.
//!
//! Owns a conversation of two clients with three nodes while slots change their owners, commands are
//! redirected, connections break and clients leave. What surprises: a node answers with the very
//! bytes that it was asked with, so that a reply that reaches somebody else is seen.

use std::collections::HashMap;
use std::sync::Arc;

use proptest::prelude::*;

use crate::clock::Micros;
use crate::dispatch::departure;
use crate::resp::request::arguments;
use crate::resp::write;
use crate::route::frame;
use crate::route::slot::slot;
use crate::session::feed;
use crate::session::state::SessionId;
use crate::stats::labels::Outcome;
use crate::topology::slots::NodeId;
use crate::upstream::lane::{Lane, LaneId, LaneState, Waiter};
use crate::upstream::rig::{Rig, bytes_of};
use crate::upstream::{loss, receive};

/// Keys all over the slots, two of them in one.
const KEYS: [&str; 7] = ["a", "b", "c", "key:000000012345", "{b}2", "user:7", "d"];

/// What happens, one thing after the other.
#[derive(Clone, Debug)]
enum Event {
    /// A client sends these commands, cut into pieces of so many bytes.
    Say(usize, Vec<(usize, usize)>, usize),
    /// A node answers all that it was sent, in pieces of so many bytes, from that kind of answer on.
    Serve(u16, usize, usize),
    /// The slot of a key gets another owner.
    Move(usize, u16),
    /// A node closes its connections.
    Lose(u16),
    /// A client leaves, and another one comes in its place.
    Leave(usize),
    /// Time passes.
    Later,
}

/// What was seen of a conversation.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    /// What the clients got, in the order in which they left.
    got: Vec<Vec<u8>>,
    /// What each node was sent at a time.
    sent: Vec<(NodeId, Vec<u8>)>,
    /// Commands that were executed, in this order.
    executed: Vec<Vec<u8>>,
    /// Commands that were answered, by their outcome; and how many times were recorded.
    counted: (Vec<u64>, u64, u64),
    in_flight: u32,
}

/// The world that it happens in.
struct Play {
    rig: Rig,
    clients: [SessionId; 2],
    now: Micros,
    seen: Seen,
    /// Commands said so far.
    said: usize,
    /// Whether nodes answer with anything but what they were asked.
    is_wild: bool,
}

/// The command of that kind for a key; `number` tells it from all others.
fn spell(client: usize, kind: usize, key: usize, number: usize) -> Vec<u8> {
    let key = KEYS[key % KEYS.len()];
    let number = format!("{client}:{number}");
    let line = match kind {
        0..12 => format!("SET {key} {number}"),
        12 => format!("GET {key}"),
        13 => format!("PING {number}"),
        14 => format!("MGET {key} e {number}"),
        15 => format!("SORT {key} BY {number}"),
        16 => return format!("get {key}\r\n").into_bytes(),
        17 => return b"*1\r\n$6\r\nNOSUCH\r\n".to_vec(),
        18 => "CLIENT REPLY SKIP".into(),
        19 => format!("EVAL x 1 {key} {number}"),
        20 => "READONLY".into(),
        _ => return [words("MULTI"), words(&format!("INCR {key}")), words("EXEC")].concat(),
    };
    words(&line)
}

fn words(line: &str) -> Vec<u8> {
    let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
    let mut bytes = Vec::new();
    write::command(&mut bytes, &words);
    bytes
}

// === impl Play ===

impl Play {
    fn new(no_runs: bool, is_wild: bool) -> Self {
        let mut rig = Rig::before_cluster(3);
        rig.worker.faults.no_runs = no_runs;
        let clients = [rig.client(), rig.client()];
        Self { rig, clients, now: 1_000_000_000, seen: Seen::default(), said: 0, is_wild }
    }

    /// Plays all of it, and then answers what is left.
    fn of(no_runs: bool, is_wild: bool, events: &[Event]) -> Seen {
        let mut play = Self::new(no_runs, is_wild);
        let last = (0..8).flat_map(|_| {
            [Event::Serve(0, 99, 0), Event::Serve(1, 99, 0), Event::Serve(2, 99, 0), Event::Later]
        });
        events.iter().cloned().chain(last).for_each(|event| play.happen(event));
        [0, 1].into_iter().for_each(|client| play.take(client));
        let (stats, sessions) = (&play.rig.worker.stats, &play.rig.worker.sessions);
        let each = |outcome| (0..stats.commands()).map(move |id| stats.command(id, outcome).get());
        play.seen.counted.0 = Outcome::ALL.into_iter().flat_map(each).collect();
        play.seen.counted.1 = stats.queue_time.snapshot().count();
        play.seen.counted.2 = stats.upstream_time.snapshot().sum_us();
        play.seen.in_flight =
            play.clients.map(|id| sessions.get(id).unwrap().in_flight).iter().sum();
        play.seen
    }

    fn happen(&mut self, event: Event) {
        self.rig.worker.now = self.now;
        match event {
            Event::Say(client, what, cut) => {
                let mut bytes = Vec::new();
                for (kind, key) in what {
                    bytes.extend(spell(client, kind, key, self.said));
                    self.said += 1;
                }
                let client = self.clients[client];
                bytes.chunks(cut).for_each(|piece| self.turn(client, piece));
            }
            Event::Serve(node, piece, kind) => self.lanes(node, |play, lane| {
                play.serve(lane, piece, kind);
            }),
            Event::Move(key, node) => {
                let published = &self.rig.worker.shared.topology;
                let topology = published.load_full();
                let slots = topology.slots.as_ref().unwrap();
                let owner = [(slot(KEYS[key % KEYS.len()].as_bytes()), NodeId(node))];
                if let Some(map) = slots.patched(&owner, self.rig.worker.now) {
                    published.store(Arc::new((*topology).clone().with_slots(map)));
                }
            }
            Event::Lose(node) => self.lanes(node, |play, lane| {
                let node = Arc::clone(&lane.node);
                loss::connection_lost(&mut play.rig.worker, lane, &node);
                crate::session::pinned::lost(&mut play.rig.worker, lane);
            }),
            Event::Leave(client) => {
                self.take(client);
                self.rig.leave(self.clients[client]);
                self.clients[client] = self.rig.client();
            }
            Event::Later => {
                self.now += 60_000;
                self.rig.worker.now = self.now;
                departure::due(&mut self.rig.worker);
            }
        }
        // Whoever was told to wait is woken.
        for client in self.clients {
            self.turn(client, &[]);
        }
    }

    /// A turn of a client's task, whose socket brings bytes.
    fn turn(&mut self, client: SessionId, bytes: &[u8]) {
        let worker = &mut self.rig.worker;
        let topology = worker.begin_batch();
        // Both plays must tell the same time.
        worker.now = self.now;
        let mut session = worker.sessions.lend(client).unwrap();
        if session.partial.is_some() {
            feed::hold(worker, &mut session, bytes);
            feed::held(worker, &topology, &mut session);
        } else {
            feed::fresh(worker, &topology, &mut session, bytes);
        }
        worker.sessions.restore(client, session);
        for lane in std::mem::take(&mut worker.to_dial) {
            worker.lanes.get_mut(lane).unwrap().state = LaneState::Open;
        }
    }

    fn take(&mut self, client: usize) {
        let got = self.rig.take(self.clients[client]);
        self.seen.got.push(got);
    }

    /// Does something with every lane to a node, as a turn of its task.
    fn lanes(&mut self, node: u16, mut then: impl FnMut(&mut Self, &mut Lane)) {
        let lanes: Vec<LaneId> = self.rig.worker.lanes.keys().collect();
        for id in lanes {
            let Some(mut lane) = self.rig.worker.lanes.lend(id) else { continue };
            if lane.key.node == NodeId(node) {
                then(self, &mut lane);
                crate::session::pinned::after_turn(&mut self.rig.worker, &mut lane);
            }
            let is_over = lane.is_idle() && (lane.pinned.is_some() || lane.retired);
            self.rig.worker.lanes.restore(id, lane);
            if is_over {
                self.rig.worker.lanes.remove(id);
            }
        }
        departure::due(&mut self.rig.worker);
    }

    /// A node takes what a lane has for it and answers.
    fn serve(&mut self, lane: &mut Lane, piece: usize, kind: usize) {
        if lane.has_orphans {
            loss::sweep_orphans(&mut self.rig.worker, lane);
        }
        self.seen.sent.push((lane.key.node, bytes_of(&lane.send)));
        lane.note_sent(lane.send.unsent(), self.rig.worker.now);
        let mut answers = Vec::new();
        for (place, waiter) in lane.waiters.iter().enumerate() {
            let kind = if self.is_wild { (kind + place) % 16 } else { 0 };
            for _ in 0..waiter.frames + u32::from(waiter.preludes_due) {
                answers.extend(self.answer(lane, waiter, kind));
            }
        }
        self.now += 7;
        self.rig.worker.now = self.now;
        for piece in answers.chunks(piece) {
            if receive::receive(&mut self.rig.worker, lane, piece, None).is_err() {
                lane.retired = true;
                return;
            }
        }
    }

    fn answer(&mut self, lane: &Lane, waiter: &Waiter, kind: usize) -> Vec<u8> {
        let asked = lane.send.piece(waiter.start(), waiter.end).unwrap();
        let asked = asked.bytes();
        let slot = frame::slot_of(&self.rig.worker.shared.topology.load().table, asked);
        let mut answer = Vec::new();
        match kind {
            10 => return b"-ERR no\r\n".to_vec(),
            11 if slot.is_some() => return b"-TRYAGAIN later\r\n".to_vec(),
            12 => return format!("-MOVED {} 10.9.9.9:1\r\n", slot.unwrap_or(7)).into_bytes(),
            13 => answer.extend_from_slice(b"+OK\r\n"),
            14 => answer.extend_from_slice(b"*2\r\n$1\r\na\r\n:1\r\n"),
            15 => write::bulk(&mut answer, &[b'x'; 2000]),
            _ => write::bulk(&mut answer, asked),
        }
        self.seen.executed.push(asked.to_vec());
        answer
    }
}

/// Commands of one client: mostly plain ones.
fn said(kinds: usize) -> impl Strategy<Value = Event> {
    let command = (0..kinds, 0..KEYS.len());
    let one = (0_usize..2, prop::collection::vec(command, 1..60), 1_usize..3000);
    one.prop_map(|(client, what, cut)| Event::Say(client, what, cut))
}

fn served() -> impl Strategy<Value = Event> {
    (0_u16..3, 1_usize..3000, 0_usize..16)
        .prop_map(|(node, piece, kind)| Event::Serve(node, piece, kind))
}

fn moved() -> impl Strategy<Value = Event> {
    (0..KEYS.len(), 0_u16..3).prop_map(|(key, node)| Event::Move(key, node))
}

fn anything() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => said(22),
        6 => served(),
        2 => moved(),
        1 => (0_u16..3).prop_map(Event::Lose),
        1 => (0_usize..2).prop_map(Event::Leave),
        2 => Just(Event::Later),
    ]
}

proptest! {
    #[test]
    fn a_run_gives_what_the_long_way_gives(events in prop::collection::vec(anything(), 1..40)) {
        let (short, long) = (Play::of(false, true, &events), Play::of(true, true, &events));
        prop_assert_eq!(short, long);
    }

    #[test]
    fn clients_get_their_own_replies_and_keys_their_writes_in_order(
        events in prop::collection::vec(prop_oneof![3 => said(12), 3 => served(), 1 => moved()], 1..40),
    ) {
        let (mut want, mut number) = ([Vec::new(), Vec::new()], 0);
        for event in &events {
            let Event::Say(client, what, _) = event else { continue };
            for (kind, key) in what {
                write::bulk(&mut want[*client], &spell(*client, *kind, *key, number));
                number += 1;
            }
        }
        let seen = Play::of(false, false, &events);
        prop_assert_eq!(&seen.got[..], &want[..]);
        let mut last: HashMap<(Vec<u8>, usize), usize> = HashMap::new();
        for command in &seen.executed {
            let words: Vec<&[u8]> = arguments(command).collect();
            let text = std::str::from_utf8(words[2]).unwrap();
            let (client, number) = text.split_once(':').unwrap();
            let number: usize = number.parse().unwrap();
            let before = last.insert((words[1].to_vec(), client.parse().unwrap()), number);
            prop_assert!(before.is_none_or(|before| before < number), "{words:?}");
        }
    }
}
