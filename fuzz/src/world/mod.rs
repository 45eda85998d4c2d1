//! A proxy without sockets between clients and a node that are models.
//!
//! Owns one worker, its clients ([`client`]), its connections to the node ([`node`]) and what the tasks would do
//! with them ([`tasks`]). Everything that the kernel, the scheduler, a client or the node may decide is read from
//! the tape. Never reads the clock for a decision: time passes when the tape says so.
//!
//! What surprises: nobody is polled without a reason. A session runs when it was woken, or when bytes came and it
//! waited for them; at the end everything flows until nothing moves, and whoever still waits then was forgotten.

pub mod client;
pub mod ledger;
pub mod node;
mod steps;
mod tasks;

use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::task::{Wake, Waker};
use std::time::Duration;

use arc_swap::ArcSwap;
use breakwater::cli::RunFlags;
use breakwater::clock::{self, Micros};
use breakwater::command::table::{BUILTIN_COUNT, Table};
use breakwater::config::{Auth, MemorySettings, PubsubSettings, Settings, UpstreamSettings};
use breakwater::net::WriteHalf;
use breakwater::resp::limits::Limits;
use breakwater::session::admission::Bounds;
use breakwater::session::gate::Gate;
use breakwater::session::registry::{Client as Card, Home};
use breakwater::session::state::Session;
use breakwater::stats::WorkerStats;
use breakwater::topology::Topology;
use breakwater::upstream::dial;
use breakwater::worker::{Shared, Worker, WorkerHandle};

use crate::pieces::Pieces;
use crate::tape::Tape;
use client::Client;
use ledger::Ledger;
use node::Pipe;

/// Everything there is.
pub struct World {
    worker: Worker,
    /// How other workers would reach ours; the channel itself tells CLIENT KILL whose session it is.
    handle: WorkerHandle,
    gate: Rc<Gate>,
    node: Arc<dial::Node>,
    /// Deployments so far.
    epoch: u64,
    clients: Vec<Client>,
    pipes: Vec<Pipe>,
    ledger: Ledger,
    /// What the clock of the worker shows.
    now: Micros,
    /// How much one read of a session brings.
    reads: Pieces,
    /// What a client's kernel takes before anybody reads.
    room: usize,
}

/// Whether a task wants to run.
#[derive(Debug, Default)]
pub struct Flag(AtomicBool);

/// What every world has in common and nobody changes; made once, because it is slow to make.
struct Ground {
    table: Arc<Table>,
    upstream: UpstreamSettings,
}

static GROUND: LazyLock<Ground> = LazyLock::new(|| {
    let flags = RunFlags { upstream: Some("redis://node:6379".into()), ..RunFlags::default() };
    let mut upstream = Settings::load(&flags).expect("the defaults are valid").upstream;
    upstream.reply_deadline_fast = Duration::from_secs(1);
    upstream.reply_deadline_slow = Duration::from_secs(2);
    // No lane is closed for being idle: the tick measures that with the real clock.
    upstream.lane_idle = Duration::from_secs(1 << 40);
    // The tick's clock begins with the process. A command taken at 0 is late once so much has passed.
    while clock::micros() < 2 * clock::SECOND + clock::MILLISECOND {
        std::thread::sleep(Duration::from_millis(50));
    }
    Ground { table: Arc::new(Table::builtin()), upstream }
});

/// Plays one input to its end, and checks everything on the way.
pub fn play(input: &[u8]) {
    let mut tape = Tape::new(input);
    let mut world = World::new(&mut tape);
    for _ in 0..STEPS_MAX {
        if tape.is_over() {
            break;
        }
        world.step(&mut tape);
        world.check();
    }
    world.settle_everything();
    world.check_the_end();
}

// === impl Flag ===

impl Flag {
    fn raise(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_raised(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn lower(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.raise();
    }
}

// === impl World ===

impl World {
    /// A world with one client, under rules that the tape chooses.
    fn new(tape: &mut Tape<'_>) -> Self {
        let settings = tape.byte();
        let has = |bit: u8| settings & bit != 0;
        let ground = &*GROUND;
        let id = breakwater::topology::slots::NodeId::default();
        let node = dial::Node::new(id, ground.upstream.clone(), None);
        let node = Arc::new(node);
        let memory = MemorySettings {
            request_bytes_total: if has(1) { 100_000 } else { 1 << 30 },
            // Never reached: no session may be closed for what others hold.
            reply_bytes_total: usize::MAX,
            ..MemorySettings::default()
        };
        let shared = Shared::new(Arc::new(ArcSwap::from_pointee(topology(&node, 1))), memory);
        let lowered = Limits { bulk_bytes: 50_000, arguments: 64, inline_bytes: 200, request_bytes: 60_000 };
        let small = Bounds { reply_bytes: 128 << 10, commands: 8 };
        let gate = Gate {
            name: String::new(),
            auth: if has(2) { Auth::Passthrough } else { Auth::Upstream },
            limits: if has(4) { lowered } else { Limits::default() },
            bounds: if has(8) { small } else { Bounds { reply_bytes: 16 << 20, commands: 1024 } },
            idle_timeout: None,
            pubsub: PubsubSettings::default(),
            wait_max: Duration::from_millis(400),
            stall: Duration::from_secs(1 << 40),
            announced: None,
            is_tls: false,
        };
        let stats = Arc::new(WorkerStats::new(BUILTIN_COUNT));
        let (inbox, _) = tokio::sync::mpsc::channel(1);
        let mut world = Self {
            worker: Worker::new(Arc::new(shared), stats),
            handle: WorkerHandle { inbox, load: Arc::default() },
            gate: Rc::new(gate),
            node,
            epoch: 1,
            clients: Vec::new(),
            pipes: Vec::new(),
            ledger: Ledger::default(),
            now: 1,
            reads: Pieces::new(if has(16) { 0 } else { tape.byte() | 1 }),
            room: if has(32) { 0 } else { 1 << 20 },
        };
        world.connect();
        world
    }

    /// A client connects, unless there are enough of them.
    fn connect(&mut self) {
        if self.clients.iter().filter(|client| client.is_here()).count() >= CLIENTS_MAX {
            return;
        }
        let number = self.clients.len();
        let (gate, now, handle) = (Rc::clone(&self.gate), self.now, self.handle.clone());
        let flag = Arc::new(Flag::default());
        let waker = Waker::from(Arc::clone(&flag));
        let registry = &self.worker.shared.registry;
        let id = self.worker.sessions.insert(|session| {
            let home = Home { worker: handle, session };
            let (peer, card) = (format!("127.0.0.1:{}", 1000 + number), registry.next_id());
            let card = Arc::new(Card::new(card, peer, "127.0.0.1:6379".into(), 3, now, home));
            registry.insert(&card);
            let identity = gate.stranger(false);
            let mut session = Session::new(session, card, gate, identity, WriteHalf::Detached, now);
            session.waker = Some(waker);
            session
        });
        // A task is polled once when it is started.
        flag.raise();
        let limits = self.gate.limits;
        self.clients.push(Client::new(number, id, flag, limits, self.room));
    }

    /// Another deployment is published, at the same place.
    fn publish(&mut self) {
        self.epoch += 1;
        let topology = topology(&self.node, self.epoch);
        self.worker.shared.topology.store(Arc::new(topology));
    }

    /// Begins a batch as every task does, under the clock of this world.
    fn begin_batch(&mut self) -> Arc<Topology> {
        let topology = self.worker.begin_batch();
        self.worker.now = self.now;
        topology
    }
}

/// A deployment of the built-in commands.
fn topology(node: &Arc<dial::Node>, epoch: u64) -> Topology {
    let (node, table) = (Arc::clone(node), Arc::clone(&GROUND.table));
    Topology { table, ..Topology::unknown(epoch, node) }
}

/// Steps of one input; more take longer and find no more.
const STEPS_MAX: usize = 600;
/// Clients at a time.
const CLIENTS_MAX: usize = 4;
