//! All clients of one upstream, for CLIENT LIST, CLIENT INFO and CLIENT KILL.
//!
//! Owns the ids of clients and one shared card for each. Never touched on the hot path but for two
//! relaxed stores a batch. A session writes its card, any session of any worker reads all of them.
//!
//! What surprises: killing a client of another worker is a message to that worker; the card only
//! says where it lives.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use dashmap::DashMap;

use crate::clock::{self, Micros};
use crate::resp::write::Protocol;
use crate::session::state::SessionId;
use crate::worker::WorkerHandle;

/// Every client of one upstream.
#[derive(Debug, Default)]
pub struct Registry {
    clients: DashMap<u64, Arc<Client>>,
    /// Shared by all registries of the process: rules that tell clients apart are those of all its
    /// upstreams.
    last_id: Arc<AtomicU64>,
}

/// The card of one client. Redis's names for its fields are those of CLIENT LIST.
#[derive(Debug)]
pub struct Client {
    /// Unique in the life of the process, ascending: what CLIENT ID answers.
    pub id: u64,
    /// Peer address as Redis prints it: `ip:port`, `[ip6]:port` or `/path:0`.
    pub address: String,
    /// Our own address of the connection, printed the same way.
    pub local_address: String,
    /// Number of the descriptor.
    pub descriptor: i32,
    /// When the client connected.
    pub connected_at: Micros,
    /// Where its session lives.
    pub home: Home,
    /// Database; see [`Client::note_state`].
    pub db: AtomicU32,
    /// Whether it speaks RESP3.
    pub is_resp3: AtomicBool,
    /// Id of its last command.
    pub last_command: AtomicU16,
    /// When that was.
    pub active_at: AtomicU64,
    /// CLIENT NO-EVICT ON was asked for; a proxy has no such eviction, so this is only shown.
    pub no_evict: AtomicBool,
    /// It has said READONLY.
    pub is_readonly: AtomicBool,
    /// Its channels, patterns and shard channels; see [`Client::note_subscriptions`].
    pub subscriptions: [AtomicU32; 3],
    /// What the node's own CLIENT ID calls the connection that this client has for itself; 0
    /// without one.
    pub node_client_id: AtomicU64,
    /// Commands queued in its open transaction; -1 without one.
    pub queued: AtomicI32,
    /// Whether it waits there for what other clients do.
    pub is_blocked: AtomicBool,
    /// Whether it reads the replication stream there.
    pub is_replica: AtomicBool,
    /// What it calls itself.
    pub labels: Mutex<Labels>,
}

/// The worker and the key under which a session is found.
#[derive(Clone, Debug)]
pub struct Home {
    /// Its worker.
    pub worker: WorkerHandle,
    /// Its key there.
    pub session: SessionId,
}

/// The texts of a card.
#[derive(Clone, Debug, Default)]
pub struct Labels {
    /// CLIENT SETNAME.
    pub name: Vec<u8>,
    /// Authenticated user.
    pub user: Vec<u8>,
    /// CLIENT SETINFO LIB-NAME.
    pub library_name: Vec<u8>,
    /// CLIENT SETINFO LIB-VER.
    pub library_version: Vec<u8>,
}

// === impl Registry ===

impl Registry {
    /// A registry whose clients are numbered with those of others.
    #[must_use]
    pub fn numbered_by(last_id: &Arc<AtomicU64>) -> Self {
        Self { clients: DashMap::default(), last_id: Arc::clone(last_id) }
    }

    /// The next client id.
    pub fn next_id(&self) -> u64 {
        self.last_id.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Puts up a card.
    pub fn insert(&self, client: &Arc<Client>) {
        self.clients.insert(client.id, Arc::clone(client));
    }

    /// Takes a card down.
    pub fn remove(&self, id: u64) {
        self.clients.remove(&id);
    }

    /// The card of one client.
    #[must_use]
    pub fn find(&self, id: u64) -> Option<Arc<Client>> {
        self.clients.get(&id).map(|card| Arc::clone(&card))
    }

    /// All cards in the order of their ids, as CLIENT LIST prints them.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Client>> {
        let mut all: Vec<_> = self.clients.iter().map(|card| Arc::clone(&card)).collect();
        all.sort_unstable_by_key(|client| client.id);
        all
    }

    /// How many clients there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.clients.len()
    }

    /// Whether there is no client.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }
}

// === impl Client ===

impl Client {
    /// The address that it comes from; `None` for unix sockets.
    #[must_use]
    pub fn peer(&self) -> Option<IpAddr> {
        let (host, _) = self.address.rsplit_once(':')?;
        host.trim_matches(['[', ']']).parse().ok()
    }

    /// The card of a client that has just connected.
    #[must_use]
    pub fn new(
        id: u64,
        address: String,
        local_address: String,
        descriptor: i32,
        now: Micros,
        home: Home,
    ) -> Self {
        let user = super::gate::DEFAULT_USER.into();
        Self {
            id,
            address,
            local_address,
            descriptor,
            connected_at: now,
            home,
            db: AtomicU32::new(0),
            is_resp3: AtomicBool::new(false),
            last_command: AtomicU16::new(u16::MAX),
            active_at: AtomicU64::new(now),
            node_client_id: AtomicU64::new(0),
            queued: AtomicI32::new(-1),
            is_blocked: AtomicBool::new(false),
            is_replica: AtomicBool::new(false),
            no_evict: AtomicBool::new(false),
            is_readonly: AtomicBool::new(false),
            subscriptions: Default::default(),
            labels: Mutex::new(Labels { user, ..Labels::default() }),
        }
    }

    /// Notes what CLIENT LIST shows as `resp` and `db`.
    pub fn note_state(&self, protocol: Protocol, db: u32) {
        self.is_resp3.store(protocol == Protocol::Resp3, Ordering::Relaxed);
        self.db.store(db, Ordering::Relaxed);
    }

    /// Notes what CLIENT LIST shows as `sub`, `psub` and `ssub`.
    pub fn note_subscriptions(&self, counts: [usize; 3]) {
        for (shown, count) in self.subscriptions.iter().zip(counts) {
            shown.store(u32::try_from(count).unwrap_or(u32::MAX), Ordering::Relaxed);
        }
    }

    /// Whether it is of Redis's type `pubsub`.
    #[must_use]
    pub fn is_subscriber(&self) -> bool {
        self.subscriptions.iter().any(|count| count.load(Ordering::Relaxed) > 0)
    }

    /// Notes its connection to the node, and whether it waits there.
    pub fn note_pinned(&self, node_client_id: u64, is_blocked: bool) {
        self.node_client_id.store(node_client_id, Ordering::Relaxed);
        self.is_blocked.store(is_blocked, Ordering::Relaxed);
        if node_client_id == 0 {
            self.queued.store(-1, Ordering::Relaxed);
        }
    }

    /// Notes the last command of a batch.
    pub fn note_command(&self, command: u16, now: Micros) {
        self.last_command.store(command, Ordering::Relaxed);
        self.active_at.store(now, Ordering::Relaxed);
    }

    /// A copy of its texts.
    #[must_use]
    pub fn labels(&self) -> Labels {
        self.labels.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes its texts.
    pub fn relabel(&self, change: impl FnOnce(&mut Labels)) {
        change(&mut self.labels.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Seconds since it connected.
    #[must_use]
    pub fn age_seconds(&self, now: Micros) -> u64 {
        now.saturating_sub(self.connected_at) / clock::SECOND
    }

    /// Seconds since its last command.
    #[must_use]
    pub fn idle_seconds(&self, now: Micros) -> u64 {
        now.saturating_sub(self.active_at.load(Ordering::Relaxed)) / clock::SECOND
    }
}
