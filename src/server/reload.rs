//! Changing what may change while traffic flows: the upstream, and certificates.
//!
//! Owns the look at the configuration file, the comparison, and the publishing of a new upstream.
//! Never applies half of a file: it is read, checked and compared as a whole, the new node is
//! dialled and verified first, and on any complaint the old one stays (INV-6).
//!
//! What surprises: a changed listener, worker count or admin address is *reported* and not applied;
//! these need a restart, and silence about it would be a lie.

mod look;
pub mod policy;
mod watcher;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use self::policy::Wanted;
use super::workers::Door;
use crate::admin::orders::{Order, Verdict};
use crate::cli::RunFlags;
use crate::config::check;
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
    /// Where the keeper of the policy learns what the file says of it.
    policy: watch::Sender<Wanted>,
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

/// Looks once a second whether our own password has changed where it is read from. A mounted secret
/// is replaced by turning a link round, so the path is read and nothing is watched. Ends never.
pub async fn watch_passwords(published: Published) {
    loop {
        tokio::time::sleep(PASSWORD_POLL).await;
        published.load().node.deployment.keyring.look();
    }
}

// === impl Reloader ===

impl Reloader {
    /// Nothing is applied before the file changes.
    #[must_use]
    pub fn new(flags: &RunFlags, in_force: &Settings, policy: watch::Sender<Wanted>) -> Self {
        let seen = in_force.file_hash;
        Self { flags: flags.clone(), in_force: in_force.clone(), seen, policy }
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
        // The policy has its own complaints and its own keeper; it waits for no node.
        let policy = Wanted::from(&wanted);
        self.policy.send_if_modified(|it| std::mem::replace(it, policy.clone()) != policy);
        let cold = self.in_force.cold_changes(&wanted);
        if !cold.is_empty() {
            events::restart_needed(&cold);
        }
        if wanted.upstream.is_same_deployment(&self.in_force.upstream) {
            self.adjust(wanted.upstream, shared);
            self.watch_as(wanted.watch, shared);
            control::config_reloaded(Reload::Applied);
            return;
        }
        match move_to(&wanted.upstream, shared, changed).await {
            Ok(()) => {
                control::config_reloaded(Reload::Applied);
                self.note_moved(wanted.upstream);
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

    /// Carries out an order to move. It counts until the file changes or SIGHUP asks for the file:
    /// the later word wins.
    pub async fn obey(&mut self, order: Order, shared: &Arc<Shared>, changed: &watch::Sender<u64>) {
        let verdict = self.carry_out(&order.body, shared, changed).await;
        // Whoever gave it may be gone; it is carried out all the same.
        let _ = order.answer.send(verdict);
    }

    async fn carry_out(
        &mut self,
        body: &str,
        shared: &Arc<Shared>,
        changed: &watch::Sender<u64>,
    ) -> Verdict {
        let wanted = match check::ordered(body, &self.in_force.upstream) {
            Ok(wanted) => wanted,
            Err(complaints) => {
                let words: Vec<String> = complaints.iter().map(ToString::to_string).collect();
                return Verdict::Wrong(words.join("\n"));
            }
        };
        let name = wanted.endpoint.to_string();
        let is_same = wanted.is_same_deployment(&self.in_force.upstream);
        let result = match is_same {
            true => verified(&wanted, shared).await.map(drop),
            false => move_to(&wanted, shared, changed).await,
        };
        if let Err(error) = result {
            events::upstream_refused(&name, &error);
            return Verdict::Unusable(format!("{name} cannot be used: {error:#}"));
        }
        // What the file said before, and perhaps was still being tried, is overruled.
        self.seen = self.current_hash();
        if is_same {
            self.adjust(wanted, shared);
        } else {
            self.note_moved(wanted);
        }
        Verdict::Done(found(&name, &shared.topology.load()))
    }

    /// Changes what may change while lanes, scripts and whatever else is known stay: who we are to
    /// the deployment, whether writes are let through, and how errors begin.
    fn adjust(&mut self, wanted: UpstreamSettings, shared: &Shared) {
        let topology = shared.topology.load_full();
        let deployment = &topology.node.deployment;
        if wanted.credentials != self.in_force.upstream.credentials {
            deployment.keyring.replace(wanted.credentials.clone());
        }
        deployment.set_unavailable_error(wanted.unavailable_error);
        if wanted.mode != self.in_force.upstream.mode {
            deployment.set_mode(wanted.mode);
            // By `rcu`: the slot map may be mended by a worker at the same moment.
            shared.topology.rcu(|topology| Arc::new(topology.with_mode_of_deployment()));
            events::mode_changed(deployment.is_readonly());
        }
        self.in_force.upstream = wanted;
    }

    fn note_moved(&mut self, upstream: UpstreamSettings) {
        control::upstream_changed();
        events::upstream_changed(&upstream.endpoint.to_string());
        self.in_force.upstream = upstream;
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
    let topology = verified(settings, shared).await?;
    let epoch = shared.topology.load().epoch + 1;
    shared.forget_upstream();
    shared.topology.store(Arc::new(Topology { epoch, ..topology }));
    // The control connections of the old deployment are dropped, and those of the new one opened.
    let _ = changed.send(epoch);
    Ok(())
}

/// What was seen before the move, for whoever ordered it.
fn found(name: &str, topology: &Topology) -> String {
    let facts = topology.facts.as_ref();
    let server = facts.map_or("a server that tells nothing", |facts| facts.server.as_str());
    let kind = match &topology.slots {
        Some(map) => format!("a cluster of {} primaries", map.members.primaries().count()),
        None => "one node".to_owned(),
    };
    format!(
        "commands go to {name}: {server}, {kind}. Write it into the configuration file too: its next \
         change, SIGHUP and a restart go by the file\n"
    )
}

/// The picture of a deployment that answers, in no epoch yet.
async fn verified(settings: &UpstreamSettings, shared: &Arc<Shared>) -> anyhow::Result<Topology> {
    let node = Arc::new(node(settings)?);
    match (&settings.cluster, &settings.sentinel) {
        (Some(_), _) => cluster::verify::verify(&node, shared).await,
        (None, Some(_)) => sentinel::verify::verify(&node).await,
        (None, None) => verify(&node).await,
    }
}

/// The picture of a node that answers.
async fn verify(node: &Arc<Node>) -> anyhow::Result<Topology> {
    let mut exchange = dial::dial(node, &Purpose::control("breakwater:verify")).await?;
    let learnt = single::answered(facts::learn(&mut exchange)).await?;
    Ok(single::learnt_topology(0, 0, node, learnt))
}

/// How often password files are looked at: a rotated one counts within two seconds.
const PASSWORD_POLL: Duration = Duration::from_secs(1);
