//! A worker without sockets, for tests of the synchronous core.
//!
//! Owns a worker, its clients and the lanes that their commands go to; says what a client sends,
//! what a node answers, and how much the kernel took. Never used outside tests.
//!
//! What surprises: time stands still unless a test moves it, and a lane is "open" without a
//! connection. What is said of "the lane" means the first one there is, or the one that
//! [`Rig::focus_on`] has chosen.

use std::io::IoSlice;
use std::rc::Rc;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::buffer::SLICES;
use crate::cli::RunFlags;
use crate::config::{Auth, MemorySettings, PubsubSettings, Settings, UpstreamSettings};
use crate::net::WriteHalf;
use crate::resp::limits::Limits;
use crate::route::slot::SLOTS;
use crate::session::admission::Bounds;
use crate::session::gate::Gate;
use crate::session::registry::{Client, Home};
use crate::session::state::{Closing, Session, SessionId};
use crate::session::{self, feed};
use crate::stats::WorkerStats;
use crate::stats::labels::{ClosedReason, DialFailure};
use crate::topology::Topology;
use crate::topology::slots::{Health, Member, MemberRole, Members, NodeId, Slot, SlotMap};
use crate::upstream::dial::{DialError, Node};
use crate::upstream::identity::Identity;
use crate::upstream::lane::{Lane, LaneId, LaneState, Waiter};
use crate::upstream::receive::Anomaly;
use crate::upstream::{loss, receive, task};
use crate::worker::{Shared, Worker, WorkerHandle};

/// The worker and its surroundings.
pub(crate) struct Rig {
    pub(crate) worker: Worker,
    gate: Rc<Gate>,
    node: Arc<Node>,
    /// The lane that is meant; the first one without it.
    focus: Option<LaneId>,
}

// === impl Rig ===

impl Rig {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    /// With other settings than the defaults.
    pub(crate) fn with(change: impl FnOnce(&mut UpstreamSettings)) -> Self {
        let flags = RunFlags { upstream: Some("redis://node:6379".into()), ..RunFlags::default() };
        let mut settings = Settings::load(&flags).unwrap().upstream;
        change(&mut settings);
        let node = Arc::new(Node::new(NodeId::default(), settings, None));
        let topology = Topology::unknown(1, Arc::clone(&node));
        let published = Arc::new(ArcSwap::from_pointee(topology));
        let shared = Shared::new(published, MemorySettings::default());
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
        let stats = Arc::new(WorkerStats::new(crate::command::table::BUILTIN_COUNT));
        let worker = Worker::new(Arc::new(shared), stats);
        Self { worker, gate: Rc::new(gate), node, focus: None }
    }

    /// Before a cluster of so many primaries, which share the slots in the order of their numbers.
    pub(crate) fn before_cluster(primaries: u16) -> Self {
        let flags =
            RunFlags { upstream: Some("redis-cluster://node:6379".into()), ..RunFlags::default() };
        let settings = Settings::load(&flags).unwrap().upstream;
        let rig = Self::with(|own| *own = settings.clone());
        let claims: Vec<u64> = (1..=u64::from(primaries)).collect();
        let share = SLOTS.div_ceil(primaries);
        let slot = |slot| Slot { owner: Some(NodeId(slot / share)), since: 1, patched_at: 0 };
        let slots = (0..SLOTS).map(slot).collect();
        let map = SlotMap::new(1, 0, members(&claims, &settings), Arc::from([]), slots);
        let published = &rig.worker.shared.topology;
        published.store(Arc::new(published.load_full().with_slots(map)));
        rig
    }

    /// From here on "the lane" is the one to that node of a cluster, the one with commands on it if
    /// there are two.
    pub(crate) fn focus_on_node(&mut self, node: u16) -> &mut Self {
        let lanes = &self.worker.lanes;
        let leads_there = |id: &LaneId| lanes.get(*id).unwrap().key.node == NodeId(node);
        let is_idle = |id: &LaneId| lanes.get(*id).unwrap().is_idle();
        self.focus = lanes.keys().filter(leads_there).min_by_key(is_idle);
        assert!(self.focus.is_some(), "no lane leads to node {node}");
        self
    }

    /// A client connects.
    pub(crate) fn client(&mut self) -> SessionId {
        let (inbox, _) = tokio::sync::mpsc::channel(1);
        let worker = WorkerHandle { inbox, load: Arc::default() };
        let gate = Rc::clone(&self.gate);
        self.worker.sessions.insert(|session| {
            let home = Home { worker, session };
            let client = Client::new(1, "peer".into(), "here".into(), 3, 0, home);
            let socket = WriteHalf::Detached;
            Session::new(session, Arc::new(client), gate, Some(Identity::UPSTREAM), socket, 0)
        })
    }

    /// A client sends bytes.
    pub(crate) fn say(&mut self, client: SessionId, bytes: &[u8]) {
        let topology = self.worker.begin_batch();
        let mut session = self.worker.sessions.lend(client).unwrap();
        feed::fresh(&mut self.worker, &topology, &mut session, bytes);
        self.worker.sessions.restore(client, session);
        self.connect();
    }

    /// A client that was told to wait offers again what it holds.
    pub(crate) fn resume(&mut self, client: SessionId) {
        let topology = self.worker.begin_batch();
        let mut session = self.worker.sessions.lend(client).unwrap();
        feed::held(&mut self.worker, &topology, &mut session);
        self.worker.sessions.restore(client, session);
        self.connect();
    }

    /// Every dial succeeds at once.
    fn connect(&mut self) {
        for id in std::mem::take(&mut self.worker.to_dial) {
            if let Some(lane) = self.worker.lanes.get_mut(id) {
                lane.state = LaneState::Open;
            }
        }
    }

    /// From here on "the lane" is the one that a client's last command went to.
    pub(crate) fn focus_on(&mut self, client: SessionId) -> &mut Self {
        self.focus = self.worker.sessions.get(client).unwrap().lane;
        assert!(self.focus.is_some(), "it has no command on any lane");
        self
    }

    /// Opens a lane as `client`'s first command would, with nothing on it.
    pub(crate) fn open_lane_of(&mut self, client: SessionId) -> &mut Self {
        self.say(client, b"*1\r\n$4\r\nPING\r\n");
        self.hand_over_all();
        self.answer(b"+PONG\r\n").unwrap();
        self
    }

    /// The kernel takes so many bytes.
    pub(crate) fn hand_over(&mut self, count: usize) {
        let now = self.worker.now;
        self.lane().note_sent(count, now);
    }

    /// The kernel takes everything.
    pub(crate) fn hand_over_all(&mut self) {
        let unsent = self.lane().send.unsent();
        self.hand_over(unsent);
    }

    /// The node sends bytes.
    pub(crate) fn answer(&mut self, bytes: &[u8]) -> Result<(), Anomaly> {
        let id = self.lane_id();
        let mut lane = self.worker.lanes.lend(id).unwrap();
        // The tenant must come back even if a test's injected panic passes through here.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            receive::receive(&mut self.worker, &mut lane, bytes, None)
        }));
        // As the lane's task does behind each of its turns.
        session::pinned::after_turn(&mut self.worker, &mut lane);
        self.worker.lanes.restore(id, lane);
        match result {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// The connection breaks; what is to be sent again is on the lane's new queue.
    pub(crate) fn lose(&mut self) {
        let id = self.lane_id();
        let mut lane = self.worker.lanes.lend(id).unwrap();
        loss::connection_lost(&mut self.worker, &mut lane, &self.node);
        session::pinned::lost(&mut self.worker, &mut lane);
        let is_over = lane.pinned.is_some() && lane.is_idle();
        lane.state = LaneState::Open;
        self.worker.lanes.restore(id, lane);
        if is_over {
            self.worker.lanes.remove(id);
        }
    }

    /// The dial of a new connection fails as well: the first waiter has waited too long, the others
    /// wait on.
    pub(crate) fn fail_dial(&mut self) {
        self.worker.now = crate::clock::to_micros(self.node.settings.retry_window);
        let now = self.worker.now;
        for (place, waiter) in self.lane().waiters.iter_mut().enumerate() {
            waiter.taken_at = if place == 0 { 0 } else { now };
        }
        let error = DialError::new(DialFailure::Refused, "refused".into());
        let id = self.lane_id();
        let mut lane = self.worker.lanes.lend(id).unwrap();
        loss::dial_failed(&mut self.worker, &mut lane, &self.node, &error);
        self.worker.lanes.restore(id, lane);
    }

    /// What the lane's task does after it has caught a panic.
    pub(crate) fn bury_after_panic(&mut self) {
        let id = self.lane_id();
        let mut lane = self.worker.lanes.lend(id).unwrap();
        task::panicked(&mut self.worker, &mut lane);
        self.worker.lanes.restore(id, lane);
        self.lose();
    }

    /// The deadline of the first waiter passes.
    pub(crate) fn expire_first(&mut self) {
        let limit = crate::clock::to_micros(self.node.settings.reply_deadline_slow);
        self.lane().waiters.front_mut().unwrap().taken_at = 0;
        for waiter in self.lane().waiters.iter_mut().skip(1) {
            waiter.taken_at = limit;
        }
        self.worker.now = limit;
        let id = self.lane_id();
        let mut lane = self.worker.lanes.lend(id).unwrap();
        crate::server::tick::expire(&mut self.worker, &mut lane);
        self.worker.lanes.restore(id, lane);
    }

    /// A client disconnects.
    pub(crate) fn leave(&mut self, client: SessionId) {
        session::remove(&mut self.worker, client, ClosedReason::ClientClosed);
    }

    /// The lane drops what nobody waits for.
    pub(crate) fn sweep(&mut self) {
        let id = self.lane_id();
        let mut lane = self.worker.lanes.lend(id).unwrap();
        assert!(lane.has_orphans);
        loss::sweep_orphans(&mut self.worker, &mut lane);
        self.worker.lanes.restore(id, lane);
    }

    /// Everything a client is owed so far.
    pub(crate) fn owed(&self, client: SessionId) -> Vec<u8> {
        bytes_of(&self.worker.sessions.get(client).unwrap().out)
    }

    /// As [`Self::owed`], of any length: the client's socket takes it.
    pub(crate) fn take(&mut self, client: SessionId) -> Vec<u8> {
        let session = self.worker.sessions.get_mut(client).unwrap();
        let mut taken = Vec::new();
        while session.out.unsent() > 0 {
            let bytes = bytes_of(&session.out);
            session.out.advance(bytes.len());
            taken.extend(bytes);
        }
        session.written_at = self.worker.now;
        let sent = session.out.sent();
        session.out.release(&mut self.worker.pool, sent);
        taken
    }

    /// What the lane would send next.
    pub(crate) fn queued(&mut self) -> Vec<u8> {
        bytes_of(&self.lane().send)
    }

    pub(crate) fn closing(&self, client: SessionId) -> Option<Closing> {
        self.worker.sessions.get(client).unwrap().closing
    }

    pub(crate) fn first_waiter(&mut self) -> Waiter {
        *self.lane().waiters.front().unwrap()
    }

    pub(crate) fn lane_id(&self) -> LaneId {
        self.focus.unwrap_or_else(|| self.worker.lanes.keys().next().unwrap())
    }

    fn lane(&mut self) -> &mut Lane {
        let id = self.lane_id();
        self.worker.lanes.get_mut(id).unwrap()
    }
}

/// Primaries of a cluster, one a claim.
pub(crate) fn members(claims: &[u64], settings: &UpstreamSettings) -> Arc<Members> {
    let member = |(id, &config_epoch): (u16, &u64)| {
        let (name, id) = (format!("node{id}"), NodeId(id));
        let node = Arc::new(Node { name, ..Node::new(id, settings.clone(), None) });
        let role = MemberRole::Primary;
        let (health, cluster_id) = (Health::Online, "".into());
        let member =
            Member { node, cluster_id, role, primary: id, config_epoch, health, zone: None };
        (Arc::new(member), Vec::new())
    };
    Arc::new(Members::new((0_u16..).zip(claims).map(member)))
}

pub(crate) fn bytes_of(buffer: &crate::buffer::SendBuffer) -> Vec<u8> {
    let mut slices = [IoSlice::new(&[]); SLICES];
    let count = buffer.unsent_slices(&mut slices);
    slices[..count].iter().flat_map(|slice| slice.to_vec()).collect()
}
