//! `Settings`: everything an operator can decide, checked, resolved and immutable.
//!
//! Owns what the rest of the program reads. [`Settings::load`] joins the layers, highest first: flags, `BREAKWATER_*`
//! variables, the TOML file, the defaults; a higher layer replaces a lower one key by key. Never half: either
//! all is right or the answer is every complaint at once (INV-6). The way of a value: `file.rs` reads what was
//! written, `check/` judges it, this file names what came out.
//!
//! What surprises: nothing here is opened or resolved. Certificates are read by `tls.rs`, names by the dial, and
//! passwords by [`Secret::read`] each time they are needed. No `Debug` of these types shows a secret (INV-11).

mod address;
pub mod check;
pub(crate) mod checker;
mod complaint;
mod file;
mod guards;
mod named;
mod profile;
pub(crate) mod quantity;
mod replica_reads;
mod secret;
pub(crate) mod source;
pub(crate) mod spelling;
pub(crate) mod table;
mod watch;

#[cfg(test)]
pub(crate) mod scratch;

pub use self::complaint::{Complaint, Fault, Position};
pub(crate) use self::file::CONFIGURATION_KEYS;
pub use self::guards::{Confirm, GuardSettings, KeyPatterns, SplitBrain, WriteGuard};
pub use self::named::{NamedUpstream, UPSTREAM_DEFAULT, UPSTREAMS_MAX};
pub use self::profile::Profile;
pub use self::replica_reads::ReplicaReads;
pub use self::secret::{SECRET_BYTES_MAX, Secret, SecretBytes, SecretError};
pub use self::watch::{Expect, ScriptSettings, SlowlogSettings, WatchSettings, Watchdog};

use crate::cli::RunFlags;
use crate::resp::limits::Limits;
use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

/// Mode of a unix socket that names none: its owner and group may connect.
pub const UNIX_MODE_DEFAULT: u32 = 0o660;
/// Most workers; each costs a thread and its own upstream connections.
pub const WORKERS_MAX: usize = 256;
/// Most pinned connections; each is a descriptor here and a client there.
pub const PINNED_MAX: usize = 65_536;

/// A whole configuration, equal only to one from the same text. Compare `upstream` to learn whether that changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where clients connect; at least one, no two the same. Needs a restart.
    pub listeners: Vec<ListenerSettings>,
    /// Where commands go. Hot: a reload may replace it while clients stay connected.
    pub upstream: UpstreamSettings,
    /// Where those of listeners go that name another upstream, by name. Each is as hot as the one above; which there
    /// are needs a restart.
    pub upstreams: Vec<NamedUpstream>,
    /// How many data-plane threads. Needs a restart.
    pub workers: Workers,
    /// Where `/metrics`, `/healthz` and `/readyz` are served; `None`: nowhere. Needs a restart.
    pub admin: Option<SocketAddr>,
    /// Whether that port may change the upstream. Needs a restart.
    pub admin_changes: bool,
    /// How much of the policy is enforced. Hot.
    pub profile: Profile,
    /// The file of rules; `None`: only the profile's own. Hot, as is what is in it.
    pub policy: Option<PathBuf>,
    /// What is logged, and how. Needs a restart.
    pub log: LogSettings,
    /// Bounds of what is held in memory. Needs a restart.
    pub memory: MemorySettings,
    /// How the servers behind are watched, and what is expected of them. Hot.
    pub watch: WatchSettings,
    /// After SIGTERM, the longest that commands in flight are waited for; 0 to 1 hour.
    pub drain_timeout: Duration,
    /// What is allowed but deserves a warning in the log at start. Free of secrets.
    pub notes: Vec<Complaint>,
    /// SHA-256 of the file this came from, to be compared with [`content_hash`]; `None` without a file.
    pub file_hash: Option<[u8; 32]>,
}

/// One place where clients connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerSettings {
    /// The socket.
    pub address: ListenAddress,
    /// The name of the upstream that its clients' commands go to; there is one of that name.
    pub upstream: String,
    /// `None`: plain text. Never set for a unix socket.
    pub tls: Option<ServerTls>,
    /// Who a client must prove to be.
    pub auth: Auth,
    /// Most clients connected at once; 1 to 1,000,000. Redis: `maxclients`, 10,000.
    pub client_max: usize,
    /// Closes a client that has been silent for so long; `None`: never, as Redis's `timeout 0`.
    pub client_idle_timeout: Option<Duration>,
    /// What the applications' own time-out is, so that no wait of ours exceeds 0.8 of it. `None`: not declared,
    /// which counts as 500 ms.
    pub client_timeout: Option<Duration>,
    /// Where clients are told to find us when they ask for a cluster's nodes; `None`: at the address that they dialled.
    pub announce: Option<Announced>,
    /// Bounds of each of its clients that subscribes.
    pub pubsub: PubsubSettings,
    /// Protocol bounds for its clients, at most the ceilings; `request_bytes` is also at most
    /// [`MemorySettings::request_bytes_total`].
    pub limits: Limits,
}

/// An address of ours as clients see it from behind a forwarded port or another network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announced {
    /// A name or an IP address, IPv6 without brackets.
    pub host: String,
    /// 1 to 65535.
    pub port: u16,
}

/// What one client may cost that subscribes (INV-4). Zero switches a limit of unread bytes off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PubsubSettings {
    /// A client with more bytes unread is closed at once. Redis: `client-output-buffer-limit pubsub`.
    pub buffer_hard_bytes: usize,
    /// A client with more bytes unread for [`Self::buffer_soft_time`] is closed.
    pub buffer_soft_bytes: usize,
    /// How long it may be above the soft limit.
    pub buffer_soft_time: Duration,
    /// Most channels and patterns together.
    pub subscriptions: usize,
    /// Most memory for their names, with 384 bytes added for each.
    pub subscription_bytes: usize,
}

/// What an application's time-out is taken to be where it is not declared.
const CLIENT_TIMEOUT_ASSUMED: Duration = Duration::from_millis(500);

/// The address of a listener.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ListenAddress {
    /// IPv4 or IPv6; port 0 asks the kernel for a free one.
    Tcp(SocketAddr),
    /// A unix socket.
    Unix {
        /// Absolute, at most 107 bytes.
        path: PathBuf,
        /// Permission bits of the socket file, at most 0o777.
        mode: u32,
    },
}

/// The files of a TLS listener, all PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerTls {
    /// Our certificate, followed by its intermediates.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Certificates that sign clients'. `Some`: a client without such a certificate is refused (mTLS).
    pub client_ca: Option<PathBuf>,
}

/// Who a client of a listener must prove to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Auth {
    /// One of these, verified here; the upstream sees the URL's identity. At least one.
    Users(Vec<UserSettings>),
    /// Whoever the upstream accepts: its AUTH decides.
    Passthrough,
    /// Nobody: all share the URL's identity, and AUTH answers as a Redis without a password.
    Upstream,
}

/// A user of one listener, as `ACL SETUSER` would describe it. `Debug` shows no hash.
#[derive(Clone, PartialEq, Eq)]
pub struct UserSettings {
    /// As given to AUTH; `default` is who a client is that gives only a password.
    pub name: String,
    /// SHA-256 of each password that is accepted; compare in constant time.
    pub password_sha256: Vec<[u8; 32]>,
    /// Any password is accepted, and for `default` none is needed. The list above is empty then.
    pub nopass: bool,
}

/// Where commands go, and how patient we are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamSettings {
    /// The one Redis, or the first seed of a cluster, or whoever is elected.
    pub endpoint: Endpoint,
    /// `Some` for `redis-cluster://`.
    pub cluster: Option<ClusterSettings>,
    /// Whether writes are let through. Changing it alone moves nothing.
    pub mode: Mode,
    /// What holds writes back to protect what is there.
    pub guards: GuardSettings,
    /// How *not executed* begins while the upstream is away. Changing it moves nothing either.
    pub unavailable_error: UnavailableError,
    /// `Some` for `redis-sentinel://`.
    pub sentinel: Option<SentinelSettings>,
    /// Who answers PING.
    pub ping: Ping,
    /// Database that a client starts in, 0 unless the URL or `db` says otherwise.
    pub db: u32,
    /// `Some` for `rediss://`.
    pub tls: Option<ClientTls>,
    /// Who we are there; `None`: the user `default` without a password.
    pub credentials: Option<Credentials>,
    /// Commands that the server knows by another name: (what clients say, what the server is told), sorted.
    pub renamed: Vec<(String, String)>,
    /// Most shared connections a worker holds to the node; 1 to 64.
    pub lanes_max: usize,
    /// Most connections of the whole process that belong to one client each.
    pub pinned_max: PinnedMax,
    /// How long a client waits for one of those before it is told; up to 1 minute.
    pub pinned_wait: Duration,
    /// Longest wait for the reply to a command that is flagged fast; 1 ms to 1 hour.
    pub reply_deadline_fast: Duration,
    /// The same for every other command; at least the fast one.
    pub reply_deadline_slow: Duration,
    /// Longest dial: connect, TLS, HELLO and AUTH together; 1 ms to 1 minute.
    pub connect_timeout: Duration,
    /// How long we try again of our own accord what may be tried again; 0 to 1 minute.
    pub retry_window: Duration,
    /// Silence after which TCP asks whether the peer is there; 1 second to 2 hours.
    pub keepalive: Duration,
    /// Sent bytes that the peer's kernel has not acknowledged for so long mean that the link is dead; 100 ms to 10
    /// minutes. A peer that is slow but acknowledges is left alone, unlike with `TCP_USER_TIMEOUT`.
    pub user_timeout: Duration,
    /// A lane unused for so long is closed; 1 second to 1 day.
    pub lane_idle: Duration,
    /// Whether libraries of functions that were loaded through us are loaded again into a node that comes back
    /// without any.
    pub restore_functions: bool,
}

/// What is particular to a Redis Cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterSettings {
    /// Nodes to be asked for the others, in the order of the URL; at least one, all [`Endpoint::Tcp`].
    pub seeds: Vec<Endpoint>,
    /// What clients are shown of it.
    pub present_as: PresentAs,
    /// Who serves reads.
    pub replica_reads: ReplicaReads,
    /// How far a replica may be behind that serves any; 1 second to 1 hour.
    pub replica_max_lag: Duration,
    /// Where we are: replicas in the same availability zone come first.
    pub zone: Option<String>,
}

/// What is particular to a Redis that Sentinels watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentinelSettings {
    /// Sentinels to be asked, in the order of the URL; at least one, all [`Endpoint::Tcp`]. They tell of the others.
    pub seeds: Vec<Endpoint>,
    /// What they call the master.
    pub master_name: String,
    /// Who we are to the Sentinels; `None`: nobody, whoever we are to Redis.
    pub credentials: Option<Credentials>,
}

/// What a cluster looks like to clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PresentAs {
    /// A healthy cluster of one node that owns every slot: us.
    #[default]
    Cluster,
    /// One Redis without cluster support.
    Standalone,
}

/// Whether writes are let through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// They are.
    #[default]
    ReadWrite,
    /// They are refused, and so is what may write.
    ReadOnly,
}

/// The first word of *not executed* errors while the upstream is away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnavailableError {
    /// One that no library answers by repeating.
    #[default]
    Err,
    /// To redis-py a lost connection, to go-redis and redis-rs a reason to try again.
    Loading,
    /// A reason to try again for fewer of them.
    ClusterDown,
}

/// Who answers PING.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ping {
    /// We do, while a connection to the upstream stands.
    Local,
    /// The upstream does.
    Upstream,
}

/// The address of a node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// A name or an IP address, IPv6 without brackets.
    Tcp {
        /// To be resolved by each dial.
        host: String,
        /// 1 to 65535.
        port: u16,
    },
    /// A unix socket, absolute.
    Unix(PathBuf),
    /// Whoever Sentinels name as the master of this name. No address: it cannot be dialled, and stands where they have
    /// not named anybody yet.
    Elected(String),
}

/// How the upstream's TLS is verified, and who we are to it. All files PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientTls {
    /// Certificates that sign the upstream's; `None`: those of the system.
    pub ca: Option<PathBuf>,
    /// Our certificate; set exactly if `key` is.
    pub cert: Option<PathBuf>,
    /// Its private key.
    pub key: Option<PathBuf>,
    /// The name to ask for (SNI) and to verify; `None`: the host of the URL.
    pub server_name: Option<String>,
}

/// Who we are to the upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// `None`: AUTH with the password alone.
    pub user: Option<String>,
    /// Read for every dial.
    pub password: Secret,
}

/// How many data-plane threads there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workers {
    /// So many; 1 to [`WORKERS_MAX`].
    Count(NonZeroUsize),
    /// As many as the process may use at once.
    Auto,
}

/// How many connections may belong to one client each: transactions and blocking commands need one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PinnedMax {
    /// So many; 1 to [`PINNED_MAX`].
    Fixed(usize),
    /// Four fifths of what the server allows, less what is in use there; 1,024 while that is unknown.
    Auto,
}

/// What is logged, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// A level (`info`) or a filter (`info,breakwater::upstream=debug`), checked.
    pub level: String,
    /// One line of text, or one JSON object, an event.
    pub format: LogFormat,
}

/// The shape of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people; coloured on a terminal.
    #[default]
    Text,
    /// For machines.
    Json,
}

/// Bounds of what is held in memory (INV-4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemorySettings {
    /// Most reply bytes, in flight and unsent, that one session may have asked for.
    pub session_reply_bytes: usize,
    /// Most reply bytes held for all sessions of the process; at least the above.
    pub reply_bytes_total: usize,
    /// Most request bytes held for all sessions of the process.
    pub request_bytes_total: usize,
    /// Longest time that a client which does not read may stall a shared lane.
    pub lane_stall: Duration,
    /// A client that took no byte for so long, while replies wait for it, is closed; more than `lane_stall`.
    pub client_stall: Duration,
    /// Most commands that one session has in flight; 1 to 65,536.
    pub session_commands_max: usize,
    /// Most bytes of scripts, and again of libraries of functions, remembered for nodes that forget them; shared by
    /// all workers. 0: none is remembered.
    pub script_bytes_total: usize,
    /// Longest script that is remembered.
    pub script_bytes: usize,
}

/// SHA-256 of a file's content: what a reload compares, because modification times lie on mounted volumes.
#[must_use]
pub fn content_hash(content: &[u8]) -> [u8; 32] {
    sha256(content)
}

/// SHA-256, the digest of Redis's ACL passwords.
fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    let mut hash = [0; 32];
    hash.copy_from_slice(digest.as_ref());
    hash
}

// === impl ListenerSettings ===

impl ListenerSettings {
    /// How long a command of its clients may wait for what may take up to `most`: its client must still be there to
    /// hear of it.
    #[must_use]
    pub fn wait(&self, most: Duration) -> Duration {
        most.min(self.client_timeout.unwrap_or(CLIENT_TIMEOUT_ASSUMED).mul_f64(0.8))
    }
}

// === impl Settings ===

impl Settings {
    /// Joins the flags (which already hold their variables), the file they name, and the defaults.
    ///
    /// Reads the file and nothing else. Call it again with the same flags to reload.
    ///
    /// # Errors
    /// Every complaint about every layer, in the order of the file.
    pub fn load(flags: &RunFlags) -> Result<Self, Vec<Complaint>> {
        let findings = check::examine(flags, check::NoUpstream::IsWrong);
        match findings.settings {
            Some(settings) => Ok(settings),
            None => Err(findings.complaints),
        }
    }

    /// The parts of `next` that differ from these and need a restart; a reload adopts the others and says so.
    #[must_use]
    pub fn cold_changes(&self, next: &Self) -> Vec<&'static str> {
        let differs = [
            ("upstreams", !self.names_the_same_upstreams(next)),
            ("listeners", self.listeners != next.listeners),
            ("workers", self.workers != next.workers),
            ("admin", self.admin != next.admin),
            ("admin_changes", self.admin_changes != next.admin_changes),
            ("log", self.log != next.log),
            ("memory", self.memory != next.memory),
            ("drain_timeout", self.drain_timeout != next.drain_timeout),
        ];
        differs.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
    }
}

// === impl UpstreamSettings ===

impl UpstreamSettings {
    /// Whether these are the same deployment as `other`, seen in the same way: what differs, if
    /// anything, is our password or user, whether writes are let through, and how errors begin. All
    /// of these change in place.
    #[must_use]
    pub fn is_same_deployment(&self, other: &Self) -> bool {
        let Self { credentials, mode, unavailable_error, .. } = self.clone();
        Self { credentials, mode, unavailable_error, ..other.clone() } == *self
    }
}

// === impl MemorySettings ===

impl Default for MemorySettings {
    fn default() -> Self {
        Self {
            session_reply_bytes: 16 << 20,
            reply_bytes_total: 256 << 20,
            request_bytes_total: 1 << 30,
            lane_stall: Duration::from_millis(250),
            client_stall: Duration::from_secs(60),
            session_commands_max: 1_024,
            script_bytes_total: 16 << 20,
            script_bytes: 1 << 20,
        }
    }
}

// === impl PubsubSettings ===

impl Default for PubsubSettings {
    /// Redis's own limits of unread bytes; what a client may subscribe to is far above what any needs.
    fn default() -> Self {
        Self {
            buffer_hard_bytes: 32 << 20,
            buffer_soft_bytes: 8 << 20,
            buffer_soft_time: Duration::from_secs(60),
            subscriptions: 100_000,
            subscription_bytes: 64 << 20,
        }
    }
}

// === impl ListenAddress ===

impl fmt::Display for ListenAddress {
    /// As it would be written in a configuration.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(out),
            Self::Unix { path, .. } => write!(out, "unix:{}", path.display()),
        }
    }
}

// === impl UserSettings ===

impl fmt::Debug for UserSettings {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("UserSettings")
            .field("name", &self.name)
            .field("passwords", &self.password_sha256.len())
            .field("nopass", &self.nopass)
            .finish()
    }
}

// === impl Endpoint ===

impl fmt::Display for Endpoint {
    /// `host:port`, `[v6]:port`, `unix:/path` or a master's name: fit for logs and labels, free of credentials.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(out, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(out, "{host}:{port}"),
            Self::Unix(path) => write!(out, "unix:{}", path.display()),
            Self::Elected(name) => out.write_str(name),
        }
    }
}

// === impl Workers ===

impl Workers {
    /// The number of threads; `Auto` asks the system, which knows cgroup quotas and affinity.
    #[must_use]
    pub fn count(self) -> usize {
        match self {
            Self::Count(count) => count.get(),
            Self::Auto => {
                std::thread::available_parallelism().map_or(1, |n| n.get().min(WORKERS_MAX))
            }
        }
    }
}

impl std::str::FromStr for Workers {
    type Err = Fault;

    fn from_str(text: &str) -> Result<Self, Fault> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let count = text.parse().ok().filter(|count: &NonZeroUsize| count.get() <= WORKERS_MAX);
        let hint = format!("write 1 to {WORKERS_MAX}, or auto");
        count
            .map(Self::Count)
            .ok_or_else(|| Fault::new(format!("'{text}' is not a number of workers"), hint))
    }
}

impl std::str::FromStr for PinnedMax {
    type Err = Fault;

    fn from_str(text: &str) -> Result<Self, Fault> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let most = text.parse().ok().filter(|most| (1..=PINNED_MAX).contains(most));
        let hint = format!("write 1 to {PINNED_MAX}, or auto");
        most.map(Self::Fixed)
            .ok_or_else(|| Fault::new(format!("'{text}' is not a number of connections"), hint))
    }
}

#[cfg(test)]
mod tests;
