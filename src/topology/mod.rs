//! What stands behind us: an immutable picture, published whole and never edited (INV-10).
//!
//! Owns [`Topology`], the snapshot that workers load once a batch, and the place where it is
//! published. Never answers a question while a command waits: workers read what is there.
//!
//! What surprises: the epoch counts *deployments*, not events. A reconnect to the same node
//! publishes a new snapshot of the same epoch, so that lanes go on; a changed `[upstream]` gets a
//! new epoch, so that each session drains before it moves (INV-12 a). What moves within a cluster
//! is counted slot by slot ([`slots`]).

pub mod claims;
pub mod cluster;
pub mod copies;
pub mod facts;
pub mod pulse;
pub mod redirect;
pub mod restore;
pub mod sentinel;
pub mod single;
pub mod slots;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::admin::Readiness;
use crate::clock::Micros;
use crate::command::spec::{CommandId, builtin_id};
use crate::command::table::Table;
use crate::config::{Ping, PresentAs, UpstreamSettings};
use crate::resp::limits::Limits;
use crate::stats::control;
use crate::upstream::dial::Node;
use crate::worker::Shared;
use claims::Claims;
use facts::Facts;
use sentinel::group::Group;
use slots::SlotMap;

/// A picture of the upstream.
#[derive(Clone, Debug)]
pub struct Topology {
    /// Which deployment this is; rises when `[upstream]` changes.
    pub epoch: u64,
    /// How often the control plane has found the node well; a change ends a worker's back-off.
    pub recoveries: u64,
    /// Until when a successor of the node is expected; 0: none is.
    pub failover_until: Micros,
    /// The node that all commands go to; in a cluster the one that commands without a key go to.
    pub node: Arc<Node>,
    /// Who serves which slot; `None` where one node serves everything.
    pub slots: Option<Arc<SlotMap>>,
    /// Where one node serves everything: its replicas, while a keyspace lets them serve reads.
    pub replicas: Arc<[Arc<Node>]>,
    /// The commands that it knows.
    pub table: Arc<Table>,
    /// What it said about itself; `None` until the first connection.
    pub facts: Option<Arc<Facts>>,
    /// Who watches the node, behind Sentinel, as they were seen last.
    pub group: Option<Arc<Group>>,
    /// What two claim at once, for as long as nothing is to be written there.
    pub claims: Option<Arc<Claims>>,
}

/// Where snapshots are published.
pub type Published = Arc<ArcSwap<Topology>>;

/// Follows whatever is published as the upstream, until the process ends. Each change of `changed`
/// is another deployment, which is followed from the beginning.
pub async fn follow(
    shared: Arc<Shared>,
    readiness: Arc<Readiness>,
    mut changed: watch::Receiver<u64>,
) {
    loop {
        let topology = shared.topology.load();
        let is_cluster = topology.slots.is_some();
        let is_sentinel = topology.node.settings.sentinel.is_some();
        drop(topology);
        let copying = copies::follow(Arc::clone(&shared));
        let (its, readiness) = (Arc::clone(&shared), Arc::clone(&readiness));
        let following = async {
            if is_cluster {
                cluster::follow(its, readiness).await
            } else if is_sentinel {
                sentinel::follow(its, readiness).await
            } else {
                single::follow(its, readiness).await
            }
        };
        tokio::select! {
            never = following => match never {},
            never = copying => match never {},
            change = changed.changed() => {
                if change.is_err() {
                    return;
                }
            }
        }
        forget(&shared);
    }
}

/// What the follower of another deployment will say in other words, or not at all: nobody else takes
/// it back.
fn forget(shared: &Shared) {
    shared.findings.set(cluster::SOURCE, Vec::new());
    shared.findings.set(sentinel::SOURCE, Vec::new());
    control::topology_forgotten();
}

/// The table as commands for `node` need it: `[upstream.renamed]` applied, and what is answered
/// here because of the kind of upstream. A name that the table lacks is reported and left out: the
/// node may be older than the configuration.
#[must_use]
pub fn fitted(table: Table, node: &Node) -> Table {
    let table = match table.rename(&node.settings.renamed) {
        Ok(renamed) => renamed,
        Err(error) => {
            crate::events::rename_ignored(&node.name, &error);
            table
        }
    };
    with_our_answers(table, &node.settings)
        .writes_refused(node.deployment.is_readonly())
        .writes_watched(node.settings.guards.watch_writes())
}

/// The table with PROXY, and with those commands made local that are answered here before this kind of
/// upstream only: PING where it is to be so, CLUSTER in front of a cluster, and SENTINEL in front of a
/// master behind Sentinels. Of CLUSTER two are about keys and go to the keys' node, unless there is to be no
/// cluster.
#[must_use]
pub fn with_our_answers(table: Table, settings: &UpstreamSettings) -> Table {
    let table = table.with_ours("proxy", -2);
    let table = match settings.sentinel {
        Some(_) => table.with_ours("sentinel", -2),
        None => table,
    };
    let is_local_ping = settings.ping == Ping::Local;
    let present_as = settings.cluster.as_ref().map(|cluster| cluster.present_as);
    table.answered_here(|spec| match (&*spec.name, present_as) {
        ("ping", _) => is_local_ping,
        (name, Some(_)) if spec.id == CLUSTER || spec.container == Some(CLUSTER) => {
            present_as == Some(PresentAs::Standalone) || !SPREAD.contains(&name)
        }
        _ => false,
    })
}

/// Subcommands of CLUSTER about the keys or the load of slots: only the slots' nodes have the
/// answer. Whatever else a server calls a subcommand, be it unknown to us, stays here: it speaks of
/// nodes, or would change them.
const SPREAD: [&str; 3] =
    ["cluster|countkeysinslot", "cluster|getkeysinslot", "cluster|slot-stats"];
const CLUSTER: CommandId = builtin_id("cluster");

/// Longest silence on a connection that a server might close.
const SILENCE_MAX: Duration = Duration::from_secs(60);

// === impl Topology ===

impl Topology {
    /// The picture before anything is known of `node`: the built-in table.
    #[must_use]
    pub fn unknown(epoch: u64, node: Arc<Node>) -> Self {
        let table = Arc::new(fitted(Table::builtin(), &node));
        let slots = node.settings.cluster.is_some().then(|| Arc::new(SlotMap::empty()));
        Self {
            epoch,
            recoveries: 0,
            failover_until: 0,
            node,
            slots,
            replicas: Arc::default(),
            table,
            facts: None,
            group: None,
            claims: None,
        }
    }

    /// The picture before anything is known of the upstream of that URL.
    #[cfg(test)]
    pub(crate) fn for_tests(url: &str) -> Self {
        let flags = crate::cli::RunFlags { upstream: Some(url.into()), ..Default::default() };
        let settings = crate::config::Settings::load(&flags).unwrap().upstream;
        Self::unknown(1, Arc::new(crate::server::reload::node(&settings).unwrap()))
    }

    /// The same picture with another slot map.
    #[must_use]
    pub fn with_slots(&self, slots: SlotMap) -> Self {
        Self {
            epoch: self.epoch,
            recoveries: self.recoveries,
            failover_until: self.failover_until,
            node: Arc::clone(&self.node),
            slots: Some(Arc::new(slots)),
            replicas: Arc::clone(&self.replicas),
            table: Arc::clone(&self.table),
            facts: self.facts.clone(),
            group: self.group.clone(),
            claims: self.claims.clone(),
        }
    }

    /// The same picture, whose table watches writes exactly if there is something to watch for. Who
    /// publishes another table, or other claims, passes it through here.
    #[must_use]
    pub fn guarded(self) -> Self {
        let does = self.claims.is_some() || self.node.settings.guards.watch_writes();
        if self.table.watches_writes() == does {
            return self;
        }
        let table = (*self.table).clone().writes_watched(does);
        Self { table: Arc::new(table), ..self }
    }

    /// The same picture with its deployment's mode, which has changed.
    #[must_use]
    pub fn with_mode_of_deployment(&self) -> Self {
        let table = (*self.table).clone().writes_refused(self.node.deployment.is_readonly());
        Self { table: Arc::new(table), ..self.clone() }
    }

    /// A listener's protocol limits, lowered to what the node takes.
    #[must_use]
    pub fn limits(&self, limits: &Limits) -> Limits {
        let node = self.facts.as_ref().and_then(|facts| facts.bulk_bytes).unwrap_or(usize::MAX);
        Limits { bulk_bytes: limits.bulk_bytes.min(node), ..*limits }
    }

    /// How long a connection to the node may say nothing, with enough to spare to say it in time;
    /// `None`: for ever. Where the node does not tell its `timeout`, a minute is assumed.
    #[must_use]
    pub fn silence_max(&self) -> Option<Duration> {
        let facts = self.facts.as_ref()?;
        let timeout = facts.idle_timeout.unwrap_or(60) as u64;
        (timeout > 0).then(|| (Duration::from_secs(timeout) / 3).min(SILENCE_MAX))
    }

    /// Whether clients are shown a cluster, of which we are the only node.
    #[must_use]
    pub fn shows_cluster(&self) -> bool {
        self.presentation() == Some(PresentAs::Cluster)
    }

    /// Whether there is a cluster that clients are not to see.
    #[must_use]
    pub fn hides_cluster(&self) -> bool {
        self.presentation() == Some(PresentAs::Standalone)
    }

    fn presentation(&self) -> Option<PresentAs> {
        self.node.settings.cluster.as_ref().map(|cluster| cluster.present_as)
    }

    /// Number of databases, of which a cluster has one; 16 (Redis's default) until the node has
    /// said otherwise.
    #[must_use]
    pub fn databases(&self) -> u32 {
        if self.presentation().is_some() {
            return 1;
        }
        self.facts.as_ref().map_or(16, |facts| facts.databases)
    }
}
