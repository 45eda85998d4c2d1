//! A worker without sockets, one client and one lane, for benchmarks of the synchronous core.
//!
//! Owns the few lines around `feed` and `receive` that stand for the kernel: it takes whatever is written, at
//! once. Never measures. A batch of commands goes in, the node's replies follow, and what the client is owed is
//! taken, so that each round leaves everything as it was.
//!
//! What surprises: the clock is read as often as in the real tasks, once for each batch, and counts in the result.

use std::hint::black_box;
use std::rc::Rc;
use std::sync::Arc;

use arc_swap::ArcSwap;
use breakwater::cli::RunFlags;
use breakwater::command::Command;
use breakwater::command::spec::{Class, Spec};
use breakwater::command::table::{BUILTIN_COUNT, Table};
use breakwater::config::{Auth, MemorySettings, PubsubSettings, Settings};
use breakwater::net::WriteHalf;
use breakwater::resp::limits::Limits;
use breakwater::resp::reply::ReplyScanner;
use breakwater::resp::request::{RequestScanner, Scanned};
use breakwater::resp::write;
use breakwater::session::admission::Bounds;
use breakwater::session::feed;
use breakwater::session::gate::Gate;
use breakwater::session::registry::{Client, Home};
use breakwater::session::state::{Session, SessionId};
use breakwater::stats::WorkerStats;
use breakwater::topology::Topology;
use breakwater::topology::slots::NodeId;
use breakwater::upstream::dial::Node;
use breakwater::upstream::identity::Identity;
use breakwater::upstream::lane::{LaneId, LaneState};
use breakwater::upstream::receive;
use breakwater::worker::{Shared, Worker, WorkerHandle};

pub(crate) mod cluster;

/// The worker, its client, and the lane that the client's commands go to.
pub(crate) struct Rig {
    worker: Worker,
    client: SessionId,
    lane: LaneId,
}

/// `GET` of a key such as redis-benchmark uses.
pub(crate) fn get() -> Vec<u8> {
    command(&[b"GET", b"key:000000012345"])
}

/// A command as clients write it.
pub(crate) fn command(arguments: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    write::command(&mut bytes, arguments);
    bytes
}

/// A bulk reply of `length` bytes.
pub(crate) fn bulk(length: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    write::bulk(&mut bytes, &vec![b'x'; length]);
    bytes
}

/// Scans every command in `input`, which ends with a whole one, and returns how many arguments there were.
pub(crate) fn scan_requests(scanner: &mut RequestScanner, limits: &Limits, input: &[u8]) -> usize {
    let (mut rest, mut found) = (input, 0);
    while !rest.is_empty() {
        let Ok(Scanned::Command { length }) = scanner.scan(rest, limits, true) else { break };
        found += black_box(scanner.arguments(rest, length)).1.len();
        scanner.reset();
        rest = &rest[length..];
    }
    found
}

/// Scans every reply in `input`, which ends with a whole one, and returns how many there were.
pub(crate) fn scan_replies(scanner: &mut ReplyScanner, input: &[u8]) -> usize {
    let (mut rest, mut found) = (input, 0);
    while !rest.is_empty() {
        let Ok(progress) = scanner.scan(rest) else { break };
        found += usize::from(progress.complete);
        rest = &rest[progress.consumed..];
    }
    found
}

/// What the screen asks the table about each command: which one it is, and whether it may go to a lane.
pub(crate) fn look_up<'a>(table: &'a Table, command: &Command<'_>) -> Option<&'a Spec> {
    let spec = table.resolve(command).ok()?;
    (spec.accepts(command.len()) && spec.class_for(command) == Class::Shared).then_some(spec)
}

/// Scans one command and shows it to `look`.
pub(crate) fn with_command<T>(frame: &[u8], look: impl FnOnce(&Command<'_>) -> T) -> T {
    let mut scanner = RequestScanner::default();
    let scanned = scanner.scan(frame, &Limits::default(), true);
    assert_eq!(scanned, Ok(Scanned::Command { length: frame.len() }));
    let (frame, spans) = scanner.arguments(frame, frame.len());
    look(&Command::new(frame, spans))
}

// === impl Rig ===

impl Rig {
    /// A connected client whose lane is open, and whose window has grown.
    pub(crate) fn new() -> Self {
        let node = node(NodeId::default(), "redis://node:6379");
        let mut worker = worker(Topology::unknown(1, node));
        let client = connect(&mut worker);
        let topology = worker.begin_batch();
        let mut session = worker.sessions.lend(client).expect("it has just connected");
        feed::fresh(&mut worker, &topology, &mut session, &command(&[b"PING"]));
        worker.sessions.restore(client, session);
        let lane = worker.to_dial.pop().expect("the first command asks for a lane");
        worker.lanes.get_mut(lane).expect("it is dialled").state = LaneState::Open;
        let mut rig = Self { worker, client, lane };
        rig.answer(b"+PONG\r\n");
        // The window starts small and doubles; a benchmark measures what comes after.
        for _ in 0..4096 {
            rig.round(&command(&[b"PING"]), b"+PONG\r\n");
        }
        rig
    }

    /// One batch of commands from the client's bytes to the client's replies. Returns how many bytes it got.
    pub(crate) fn round(&mut self, commands: &[u8], replies: &[u8]) -> usize {
        let topology = self.worker.begin_batch();
        let mut session = self.worker.sessions.lend(self.client).expect("it stays");
        let fed = feed::fresh(&mut self.worker, &topology, &mut session, commands);
        self.worker.sessions.restore(self.client, session);
        assert_eq!(fed.used, commands.len(), "the batch does not fit the window");
        self.answer(replies)
    }

    /// The node answers, and the client takes its replies.
    fn answer(&mut self, replies: &[u8]) -> usize {
        hand_over(&mut self.worker);
        answer(&mut self.worker, self.lane, replies);
        take(&mut self.worker)
    }
}

/// The kernel takes what the lanes have queued, as the flush task offers it.
fn hand_over(worker: &mut Worker) {
    worker.now = breakwater::clock::micros();
    worker.unflushed = Default::default();
}

/// A node answers what its lane had queued, as in a turn of the lane's task.
fn answer(worker: &mut Worker, lane: LaneId, replies: &[u8]) {
    let id = lane;
    let mut lane = worker.lanes.lend(id).expect("it stays");
    assert!(lane.is_consistent());
    lane.note_sent(lane.send.unsent(), worker.now);
    worker.now = breakwater::clock::micros();
    receive::receive(worker, &mut lane, replies, None).expect("valid replies");
    worker.lanes.restore(id, lane);
}

/// The kernel takes what the touched sessions are owed.
fn take(worker: &mut Worker) -> usize {
    let mut taken = 0;
    let touched = worker.touched.take();
    for &id in &touched {
        let Some(session) = worker.sessions.get_mut(id) else { continue };
        session.touched = false;
        let owed = session.out.unsent();
        session.out.advance(owed);
        let sent = session.out.sent();
        session.out.release(&mut worker.pool, sent);
        session.out.rest(&mut worker.pool);
        taken += owed;
    }
    worker.touched.reuse(touched);
    taken
}

/// The node `id` of the deployment behind `url`.
fn node(id: NodeId, url: &str) -> Arc<Node> {
    let flags = RunFlags { upstream: Some(url.into()), ..RunFlags::default() };
    let settings = Settings::load(&flags).expect("the defaults are valid").upstream;
    Arc::new(Node::new(id, settings, None))
}

fn worker(topology: Topology) -> Worker {
    let published = Arc::new(ArcSwap::from_pointee(topology));
    let shared = Shared::new(published, MemorySettings::default());
    let mut worker = Worker::new(Arc::new(shared), Arc::new(WorkerStats::new(BUILTIN_COUNT)));
    // Under valgrind everything is slow; noting it would be counted.
    worker.slow.after = u64::MAX;
    worker
}

fn connect(worker: &mut Worker) -> SessionId {
    let gate = Gate {
        name: String::new(),
        auth: Auth::Upstream,
        limits: Limits::default(),
        bounds: Bounds { reply_bytes: 16 << 20, commands: 1024 },
        idle_timeout: None,
        pubsub: PubsubSettings::default(),
        wait_max: std::time::Duration::from_millis(400),
        stall: std::time::Duration::from_secs(60),
        announced: None,
        is_tls: false,
    };
    let (inbox, _) = tokio::sync::mpsc::channel(1);
    let handle = WorkerHandle { inbox, load: Arc::default() };
    worker.sessions.insert(|session| {
        let home = Home { worker: handle, session };
        let card = Client::new(1, "127.0.0.1:1".into(), "127.0.0.1:2".into(), 3, 0, home);
        let (gate, socket) = (Rc::new(gate), WriteHalf::Detached);
        Session::new(session, Arc::new(card), gate, Some(Identity::UPSTREAM), socket, 0)
    })
}
