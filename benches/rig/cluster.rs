//! A worker before three primaries, without sockets.
//!
//! Owns the slot map and the three lanes, and the turn of all of them: what a client's commands have queued is
//! answered by each node with as many replies as it was asked for, lane after lane. Never measures.
//!
//! What surprises: every key gets the same value, so that any lane's answer is the beginning of one long text.

use std::collections::HashSet;
use std::sync::Arc;

use breakwater::route::slot::{SLOTS, slot};
use breakwater::session::feed;
use breakwater::session::state::SessionId;
use breakwater::topology::Topology;
use breakwater::topology::slots::{Health, Member, MemberRole, Members, NodeId, Slot, SlotMap};
use breakwater::upstream::lane::{LaneId, LaneState};
use breakwater::worker::Worker;

use super::{answer, bulk, command, connect, hand_over, node, take, worker};

/// The worker, its client, and a lane to each primary.
pub(crate) struct Cluster {
    worker: Worker,
    client: SessionId,
    lanes: Vec<LaneId>,
}

/// So many GETs of keys all over the slots.
pub(crate) fn gets(count: usize) -> Vec<u8> {
    (0..count).flat_map(|number| command(&[b"GET", key(number).as_bytes()])).collect()
}

/// One MGET of so many keys, each in a slot of its own.
pub(crate) fn mget(width: usize) -> Vec<u8> {
    let mut taken = HashSet::new();
    let all = (0..).map(key).filter(|key| taken.insert(slot(key.as_bytes())));
    let keys: Vec<String> = all.take(width).collect();
    let words = std::iter::once(&b"MGET"[..]).chain(keys.iter().map(String::as_bytes));
    command(&words.collect::<Vec<_>>())
}

/// Answers to so many parts of an MGET, of one key each.
pub(crate) fn parts(count: usize) -> Vec<u8> {
    [&b"*1\r\n"[..], &bulk(64)].concat().repeat(count)
}

/// As redis-benchmark spells them; neighbours lie in different slots.
fn key(number: usize) -> String {
    format!("key:{:012}", number * 7919 % 10_000)
}

// === impl Cluster ===

impl Cluster {
    /// A connected client whose lanes are open, and whose window has grown.
    pub(crate) fn new() -> Self {
        let mut worker = worker(topology());
        let client = connect(&mut worker);
        let mut cluster = Self { worker, client, lanes: Vec::new() };
        cluster.feed(&gets(16));
        cluster.lanes = std::mem::take(&mut cluster.worker.to_dial);
        assert_eq!(cluster.lanes.len(), NODES.len(), "the first commands ask for all lanes");
        for &lane in &cluster.lanes {
            cluster.worker.lanes.get_mut(lane).expect("it is dialled").state = LaneState::Open;
        }
        let replies = bulk(64).repeat(64);
        cluster.answer(&replies);
        // The window starts small and doubles; a benchmark measures what comes after.
        let commands = gets(16);
        for _ in 0..200 {
            cluster.round(&commands, &replies);
        }
        cluster
    }

    /// One batch of commands from the client's bytes to the client's replies. `replies` are equally long, and enough
    /// for any of the nodes. Returns how many bytes the client got.
    pub(crate) fn round(&mut self, commands: &[u8], replies: &[u8]) -> usize {
        self.feed(commands);
        self.answer(replies)
    }

    fn feed(&mut self, commands: &[u8]) {
        let topology = self.worker.begin_batch();
        let mut session = self.worker.sessions.lend(self.client).expect("it stays");
        let fed = feed::fresh(&mut self.worker, &topology, &mut session, commands);
        self.worker.sessions.restore(self.client, session);
        assert_eq!(fed.used, commands.len(), "the batch does not fit the window");
    }

    /// Each node answers what it was asked, one after the other, and the client takes its replies.
    fn answer(&mut self, replies: &[u8]) -> usize {
        hand_over(&mut self.worker);
        let each = replies.iter().position(|&byte| byte == b'x').expect("a value") + 64 + 2;
        for &id in &self.lanes {
            let lane = self.worker.lanes.get_mut(id).expect("it stays");
            let asked: u32 = lane.waiters.iter().map(|waiter| waiter.frames).sum();
            if asked > 0 {
                answer(&mut self.worker, id, &replies[..each * asked as usize]);
            }
        }
        take(&mut self.worker)
    }
}

/// Three primaries that share the slots evenly.
fn topology() -> Topology {
    let all = NODES.map(|number| node(NodeId(number), "redis-cluster://node:6379"));
    let members = all.iter().map(|node| {
        let member = Member {
            node: Arc::clone(node),
            cluster_id: format!("{:040}", node.id.0).into(),
            role: MemberRole::Primary,
            primary: node.id,
            config_epoch: 1,
            health: Health::Online,
            zone: None,
        };
        (Arc::new(member), Vec::new())
    });
    let members = Arc::new(Members::new(members.collect::<Vec<_>>()));
    let share = SLOTS / NODES.len() as u16 + 1;
    let owner = |slot| Slot { owner: Some(NodeId(slot / share)), since: 1, patched_at: 0 };
    let map = SlotMap::new(1, 1, members, Arc::from([]), (0..SLOTS).map(owner).collect());
    Topology::unknown(1, Arc::clone(&all[0])).with_slots(map)
}

const NODES: [u16; 3] = [0, 1, 2];
