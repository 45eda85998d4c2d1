//! Changing what may change while traffic flows: the upstream, and certificates.
//!
//! Owns the look at the configuration file, the comparison, and the publishing of a new upstream.
//! Never applies half of a file: it is read, checked and compared as a whole, the new node is
//! dialled and verified first, and on any complaint the old one stays (INV-6).
//!
//! What surprises: a changed listener, worker count or admin address is *reported* and not applied;
//! these need a restart, and silence about it would be a lie.

use std::sync::Arc;

use tokio::sync::watch;

use super::workers::Door;
use crate::cli::RunFlags;
use crate::config::{Endpoint, Settings, UpstreamSettings, WatchSettings, content_hash};
use crate::events;
use crate::stats::control;
use crate::stats::labels::Reload;
use crate::tls::ClientTlsReloader;
use crate::topology::slots::NodeId;
use crate::topology::{Published, Topology, cluster, facts, sentinel, single};
use crate::upstream::dial::{self, Node, Purpose};
use crate::worker::Shared;

/// Remembers what is in force.
pub struct Reloader {
    flags: RunFlags,
    in_force: Settings,
    /// Hash of the file that was looked at last; `None` without a file.
    seen: Option<[u8; 32]>,
}

/// The node that upstream settings describe.
///
/// # Errors
/// If its TLS files cannot be used.
pub fn node(settings: &UpstreamSettings) -> anyhow::Result<Node> {
    // Behind Sentinel each node that is named is asked for its own name; this one is not dialled.
    let first_seed = settings.sentinel.as_ref().and_then(|sentinel| sentinel.seeds.first());
    let tls = match (&settings.tls, first_seed.unwrap_or(&settings.endpoint)) {
        (Some(tls), Endpoint::Tcp { host, .. }) => {
            let config = ClientTlsReloader::try_new(tls.clone())?;
            let name = config.server_name(host)?;
            Some((config, name))
        }
        _ => None,
    };
    Ok(Node::new(NodeId::default(), settings.clone(), tls))
}

/// Reads certificates again whose files have changed: the listeners' and the upstream's.
pub fn certificates(doors: &[Door], published: &Published) {
    let ours = doors.iter().filter_map(|door| door.tls.as_ref()).map(|tls| tls.refresh());
    let node = &published.load().node;
    let theirs = node.tls.as_ref().map(|(tls, _)| tls.refresh());
    for refreshed in ours.chain(theirs) {
        match refreshed {
            Ok(true) => events::certificate_reloaded(),
            Ok(false) => {}
            Err(error) => events::certificate_refused(&error),
        }
    }
}

// === impl Reloader ===

impl Reloader {
    /// Nothing is applied before the file changes.
    #[must_use]
    pub fn new(flags: &RunFlags, in_force: &Settings) -> Self {
        let seen = in_force.file_hash;
        Self { flags: flags.clone(), in_force: in_force.clone(), seen }
    }

    fn current_hash(&self) -> Option<[u8; 32]> {
        let content = std::fs::read(self.flags.config.as_ref()?).ok()?;
        Some(content_hash(&content))
    }

    /// Looks at the file, if it changed or `asked`, and applies what may be applied.
    pub async fn run(&mut self, asked: bool, shared: &Arc<Shared>, changed: &watch::Sender<u64>) {
        let hash = self.current_hash();
        if !asked && hash == self.seen {
            return;
        }
        self.seen = hash;
        let wanted = match Settings::load(&self.flags) {
            Ok(wanted) => wanted,
            Err(complaints) => {
                control::config_reloaded(Reload::Refused);
                return events::reload_refused(&complaints);
            }
        };
        let cold = self.in_force.cold_changes(&wanted);
        if !cold.is_empty() {
            events::restart_needed(&cold);
        }
        if wanted.upstream == self.in_force.upstream {
            self.watch_as(wanted.watch, shared);
            control::config_reloaded(Reload::Applied);
            return;
        }
        match move_to(&wanted.upstream, shared, changed).await {
            Ok(()) => {
                control::config_reloaded(Reload::Applied);
                control::upstream_changed();
                events::upstream_changed(&wanted.upstream.endpoint.to_string());
                self.in_force.upstream = wanted.upstream;
                self.watch_as(wanted.watch, shared);
            }
            Err(error) => {
                control::config_reloaded(Reload::Refused);
                events::upstream_refused(&wanted.upstream.endpoint.to_string(), &error);
                // Tried again at the next look: the new node may still be starting.
                self.seen = None;
            }
        }
    }
}

// The last step of a reload, so that a refused upstream leaves the expectations of the old one.
impl Reloader {
    fn watch_as(&mut self, watch: WatchSettings, shared: &Shared) {
        shared.watch_as(watch.clone());
        self.in_force.watch = watch;
    }
}

/// Dials and questions the new deployment, then publishes it under a new epoch.
async fn move_to(
    settings: &UpstreamSettings,
    shared: &Arc<Shared>,
    changed: &watch::Sender<u64>,
) -> anyhow::Result<()> {
    let node = Arc::new(node(settings)?);
    let topology = match (&settings.cluster, &settings.sentinel) {
        (Some(_), _) => cluster::verify::verify(&node, shared).await?,
        (None, Some(_)) => sentinel::verify::verify(&node).await?,
        (None, None) => verify(&node).await?,
    };
    let epoch = shared.topology.load().epoch + 1;
    shared.forget_upstream();
    shared.topology.store(Arc::new(Topology { epoch, ..topology }));
    // The control connections of the old deployment are dropped, and those of the new one opened.
    let _ = changed.send(epoch);
    Ok(())
}

/// The picture of a node that answers.
async fn verify(node: &Arc<Node>) -> anyhow::Result<Topology> {
    let mut exchange = dial::dial(node, &Purpose::control("breakwater:verify")).await?;
    let learnt = single::answered(facts::learn(&mut exchange)).await?;
    Ok(single::learnt_topology(0, 0, node, learnt))
}
