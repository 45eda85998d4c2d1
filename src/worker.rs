//! Everything that one worker owns, as plain data.
//!
//! Owns the worker's sessions, lanes, spare buffers and counters, and the few lists through which
//! the two kinds of tasks hand each other work: sessions that have bytes to write, lanes that are
//! to be dialled. Never locked, never shared: the tasks of one thread borrow it in turn and never
//! across an await.
//!
//! What surprises: it runs without a runtime and without sockets. Tests, fuzzers and benchmarks
//! make one, give it bytes of a client, give its lane bytes of a node, and look at what the session
//! is owed.

use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;

use crate::arena::Arena;
use crate::buffer::ChunkPool;
use crate::clock::{self, Micros};
use crate::command::keys::KeyPosition;
use crate::config::{MemorySettings, WatchSettings};
use crate::dispatch::departure::Detouring;
use crate::findings::Board;
use crate::governor::Governor;
use crate::governor::turns::Turns;
use crate::policy::bounds::sizes::Sizes;
use crate::policy::ledger::Ledger;
use crate::policy::{self, Policy};
use crate::pubsub::tally::Tally;
use crate::refusal::Refusal;
use crate::resp::request::RequestScanner;
use crate::route::scan::Rounds;
use crate::route::split::Split;
use crate::scripts::Scripts;
use crate::scripts::libraries::Libraries;
use crate::session::assembly::Permits;
use crate::session::gather::Rooms;
use crate::session::local::cluster::Names;
use crate::session::registry::Registry;
use crate::session::state::{Session, SessionId};
use crate::slowlog::{Recorder, Slowlog};
use crate::stats::WorkerStats;
use crate::stats::nodes::NodeSeries;
use crate::topology::{Published, Topology};
use crate::upstream::flush::Unflushed;
use crate::upstream::identity::Identities;
use crate::upstream::lane::{Lane, LaneId};
use crate::upstream::lane_sets::LaneSets;
use crate::upstream::pinned::{PinnedBudget, PinnedPool};
use crate::upstream::pool;
use crate::upstream::reach::Reaches;
use crate::upstream::subscriber::{Link, LinkId};
use crate::upstream::succession;
use crate::upstream::verify::Verification;

/// The state of one worker.
#[derive(Debug)]
pub struct Worker {
    /// Its clients.
    pub sessions: Arena<Session>,
    /// Its connections to nodes, retired ones included.
    pub lanes: Arena<Lane>,
    /// Its connections that carry subscriptions.
    pub links: Arena<Link>,
    /// Its connections that belong to one session each.
    pub pinned: PinnedPool,
    /// Which of those lead to which node of a cluster.
    pub lane_sets: LaneSets,
    /// Sessions with commands that must be routed again.
    pub detouring: Detouring,
    /// Which of them may have an answer put together from pages.
    pub assemblies: Permits,
    /// Room for the keys of the command in hand.
    pub keys: Vec<KeyPosition>,
    /// Room for its parts, if it is cut.
    pub split: Split,
    /// Memory for what comes of them.
    pub rooms: Rooms,
    /// Whether nodes can be reached, and when to try again.
    pub reaches: Reaches,
    /// Lanes whose tasks are still to be started.
    pub to_dial: Vec<LaneId>,
    /// Rung where nobody else would look whether tasks are to be started.
    pub tasks_wanted: Rc<tokio::sync::Notify>,
    /// Links whose tasks are still to be started.
    pub links_to_dial: Vec<LinkId>,
    /// AUTH of clients that the node is still to confirm.
    pub to_verify: Vec<Verification>,
    /// Lanes with commands to write.
    pub unflushed: Unflushed,
    /// Sessions with bytes to write, or with reason to be woken.
    pub touched: Touched,
    /// Spare chunks.
    pub pool: ChunkPool,
    /// Which commands are slow, and where they are noted.
    pub slow: Recorder,
    /// Counters.
    pub stats: Arc<WorkerStats>,
    /// What all workers share.
    pub shared: Arc<Shared>,
    /// The snapshot in force, revalidated once a batch.
    pub topology: arc_swap::Cache<Published, Arc<Topology>>,
    /// The policy in force, revalidated with each command: one compare.
    pub policy: arc_swap::Cache<policy::Published, Arc<Policy>>,
    /// Whose scripts wait for their turn.
    pub turns: Turns,
    /// What is known of the sizes of keys.
    pub sizes: Sizes,
    /// When another node was published last.
    pub succeeded_at: Micros,
    /// When the batch in hand began.
    pub now: Micros,
    /// Where sockets are read into; longer-lived input moves to its owner.
    pub scratch: Vec<u8>,
    /// Scanner of commands that arrive whole in `scratch`.
    pub scanner: RequestScanner,
    /// Scanner of transactions that arrive whole.
    pub block_scanner: RequestScanner,
    /// Where an answer of ours is spelled before it takes its turn.
    pub line: Vec<u8>,
    /// Set while an answer of ours is an element of EXEC's reply, or answers a question of ours: it
    /// goes here and takes no turn of its own.
    pub capture: Option<Capture>,
    /// Bytes of replies held for all sessions, as of the last tick.
    pub reply_bytes: usize,
    /// Bytes of messages given to sessions since then; what has been written meanwhile is still
    /// among them.
    pub pushed_bytes: usize,
    /// Memory that the subscriptions of all sessions are taken to cost.
    pub subscription_bytes: usize,
    /// Bytes of transactions that are kept until their EXEC, as of the last tick, and those added
    /// since.
    pub transaction_bytes: usize,
    /// Bytes of unfinished requests held for all sessions.
    pub request_bytes: usize,
    /// Most bytes held for clients since memory was last given back.
    pub burst_bytes: usize,
    /// No new session is served: the process is about to end.
    pub draining: bool,
    /// What tests break on purpose.
    #[cfg(test)]
    pub faults: Faults,
}

/// What all workers of the process share.
#[derive(Debug)]
pub struct Shared {
    /// All clients.
    pub registry: Registry,
    /// Who they are upstream.
    pub identities: Identities,
    /// By how much Redis's counts of subscribers are wrong.
    pub tally: Arc<Tally>,
    /// Where snapshots are published.
    pub topology: Published,
    /// Where policies are published.
    pub policy: policy::Published,
    /// Where the one in force comes from, and what its rules have met.
    pub ledger: Arc<Ledger>,
    /// How many connections may belong to one session each.
    pub pinned: Arc<PinnedBudget>,
    /// Bounds of memory.
    pub memory: MemorySettings,
    /// Sources of scripts, for nodes that have forgotten them.
    pub scripts: Scripts,
    /// Libraries of functions, likewise.
    pub libraries: Libraries,
    /// What scripts hold, and which of them had to be killed.
    pub governor: Arc<Governor>,
    /// What the scans of a cluster's clients are to visit. Locked by SCAN alone.
    pub scans: Mutex<Rounds>,
    /// What we are called where clients are shown a cluster.
    pub names: Names,
    /// Rung by whoever has met a sign that the slot map is old; the control plane fetches a new
    /// one.
    pub map_is_old: tokio::sync::Notify,
    /// Rung if that sign names a node that the map does not know: then no patience with fruitless
    /// fetches is due.
    pub stranger_named: tokio::sync::Notify,
    /// How the servers behind are watched; replaced by a reload.
    pub watch: arc_swap::ArcSwap<WatchSettings>,
    /// Slow commands of all workers.
    pub slowlog: Arc<Slowlog>,
    /// What the control plane has found amiss behind us. No worker looks at it.
    pub findings: Arc<Board>,
    /// What the servers behind have said of themselves; likewise.
    pub nodes: Arc<NodeSeries>,
    /// Counters of each worker, for whoever wants a sum. Locked only to add one and to sum.
    pub stats: Mutex<Vec<Arc<WorkerStats>>>,
}

/// Sessions that the task in hand has given bytes or freed a turn for.
#[derive(Debug, Default)]
pub struct Touched {
    /// To be looked at by the end of the task's turn.
    now: Vec<SessionId>,
    /// Put off to the end of this turn of the event loop: other lanes may have more for them. They
    /// stay marked.
    pub later: Vec<SessionId>,
    /// Put off once more, to the end of the next turn.
    pub due: Vec<SessionId>,
}

/// How other threads reach a worker.
#[derive(Clone, Debug)]
pub struct WorkerHandle {
    /// Its inbox.
    pub inbox: mpsc::Sender<Message>,
    /// Its number of clients: the acceptor hands the next one to the least loaded worker.
    pub load: Arc<AtomicUsize>,
}

/// What other threads tell a worker.
#[derive(Debug)]
pub enum Message {
    /// A client was accepted; which listener, and its socket.
    Client(Box<crate::server::listener::Accepted>),
    /// CLIENT KILL from a session of another worker.
    Kill(SessionId),
    /// Stop taking commands, finish what is in flight, close.
    Drain,
}

/// Faults that tests inject.
#[cfg(test)]
#[derive(Debug, Default)]
pub struct Faults {
    /// Panic when the n-th reply from now is settled.
    pub panic_in_settle: Option<u32>,
    /// Everything goes the long way.
    pub no_runs: bool,
}

// === impl Shared ===

impl Shared {
    /// What workers share at the start: nobody is there, nothing is known.
    #[must_use]
    pub fn new(topology: Published, memory: MemorySettings) -> Self {
        Self {
            registry: Registry::default(),
            identities: Identities::default(),
            tally: Arc::default(),
            policy: policy::Published::default(),
            ledger: Arc::default(),
            pinned: Arc::default(),
            topology,
            memory,
            scripts: Scripts::new(&memory),
            libraries: Libraries::new(&memory),
            governor: Arc::default(),
            scans: Mutex::default(),
            names: Names::default(),
            map_is_old: tokio::sync::Notify::new(),
            stranger_named: tokio::sync::Notify::new(),
            watch: arc_swap::ArcSwap::from_pointee(WatchSettings::default()),
            findings: Arc::default(),
            slowlog: Arc::default(),
            nodes: Arc::default(),
            stats: Mutex::default(),
        }
    }

    /// From here on the servers behind are watched by these settings.
    pub fn watch_as(&self, settings: WatchSettings) {
        self.watch.store(Arc::new(settings));
    }

    /// How many workers there are.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.stats.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// The upstream is about to become another one: what belonged to the old one is dropped.
    pub fn forget_upstream(&self) {
        self.scripts.flush();
        self.libraries.clear();
    }
}

// === impl Touched ===

impl Touched {
    /// Puts a session on the list, once.
    pub fn mark(&mut self, session: &mut Session) {
        if !session.touched {
            session.touched = true;
            self.now.push(session.id);
        }
    }

    /// The list, to be worked off; give its memory back with [`Touched::reuse`].
    #[must_use]
    pub fn take(&mut self) -> Vec<SessionId> {
        std::mem::take(&mut self.now)
    }

    /// Takes an emptied list back, so that the next batch allocates nothing.
    pub fn reuse(&mut self, mut list: Vec<SessionId>) {
        if self.now.is_empty() {
            list.clear();
            self.now = list;
        }
    }

    /// Whether nobody is on it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.now.is_empty()
    }
}

// === impl WorkerHandle ===

impl WorkerHandle {
    /// Clients of that worker at this moment.
    #[must_use]
    pub fn clients(&self) -> usize {
        self.load.load(Ordering::Relaxed)
    }
}

/// An answer of ours that is not told as it is.
#[derive(Debug, Default)]
pub struct Capture {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// What it says, if the upstream is to blame: its first word is chosen when a client is told.
    pub refusal: Option<Refusal>,
}

// === impl Worker ===

impl Worker {
    /// A worker without clients and lanes.
    #[must_use]
    pub fn new(shared: Arc<Shared>, stats: Arc<WorkerStats>) -> Self {
        let topology = arc_swap::Cache::new(Arc::clone(&shared.topology));
        let policy = arc_swap::Cache::new(Arc::clone(&shared.policy));
        shared.stats.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&stats));
        Self {
            sessions: Arena::default(),
            lanes: Arena::default(),
            links: Arena::default(),
            pinned: PinnedPool::default(),
            lane_sets: LaneSets::default(),
            detouring: Detouring::default(),
            assemblies: Permits::default(),
            keys: Vec::new(),
            split: Split::default(),
            rooms: Rooms::default(),
            reaches: Reaches::default(),
            to_dial: Vec::new(),
            tasks_wanted: Rc::default(),
            links_to_dial: Vec::new(),
            to_verify: Vec::new(),
            unflushed: Unflushed::default(),
            touched: Touched::default(),
            pool: ChunkPool::default(),
            slow: shared.slowlog.recorder(&shared.watch.load().slowlog),
            stats,
            shared,
            topology,
            policy,
            turns: Turns::default(),
            sizes: Sizes::default(),
            succeeded_at: 0,
            now: clock::micros(),
            scratch: vec![0; SCRATCH_BYTES],
            scanner: RequestScanner::default(),
            block_scanner: RequestScanner::default(),
            line: Vec::new(),
            capture: None,
            reply_bytes: 0,
            pushed_bytes: 0,
            subscription_bytes: 0,
            transaction_bytes: 0,
            request_bytes: 0,
            burst_bytes: 0,
            draining: false,
            #[cfg(test)]
            faults: Faults::default(),
        }
    }

    /// Begins a batch: one clock read and one look at the published snapshot.
    pub fn begin_batch(&mut self) -> Arc<Topology> {
        self.now = clock::micros();
        self.follow_topology()
    }

    /// The published snapshot, and what follows from its being another one. Not to be called while
    /// a session or a lane is lent that could have commands to be moved.
    pub fn follow_topology(&mut self) -> Arc<Topology> {
        let topology = Arc::clone(self.topology.load());
        let epoch = self.reaches.epoch();
        if self.reaches.note_recoveries(topology.epoch, topology.recoveries) {
            pool::retire_silent(self);
            if epoch != topology.epoch {
                succession::leave(self, &topology);
            }
        }
        topology
    }

    /// Answers a command of `session` here, in the order of its replies.
    pub fn answer(&mut self, session: &mut Session, write: impl FnOnce(&mut Vec<u8>)) {
        if let Some(capture) = &mut self.capture {
            return write(&mut capture.bytes);
        }
        let slot = session.replies.open();
        session.note_not_run(slot, self.now);
        self.line.clear();
        if !session.is_muted() {
            write(&mut self.line);
        }
        session.complete(&mut self.pool, slot, &self.line);
        // A long answer (CLIENT LIST) must not stay allocated for good.
        self.line.shrink_to(SCRATCH_BYTES);
        session.end_of_command();
        self.touched.mark(session);
    }
}

#[cfg(test)]
impl Faults {
    /// Panics if a test asked for it.
    pub fn maybe_panic_in_settle(&mut self) {
        match &mut self.panic_in_settle {
            Some(0) => {
                self.panic_in_settle = None;
                panic!("injected by a test");
            }
            Some(left) => *left -= 1,
            None => {}
        }
    }
}

/// A worker as its tasks share it.
pub type SharedWorker = Rc<std::cell::RefCell<Worker>>;

/// Bytes that one read may bring. Large enough for a pipeline of a thousand GETs, small enough for
/// the L2 cache.
pub const SCRATCH_BYTES: usize = 64 * 1024;
