//! Changing what may change while traffic flows: upstreams, the policy, and certificates.
//!
//! Owns the look at the configuration file and its comparison with what is in force. Never applies
//! half of a file: it is read, checked and compared as a whole, and on any complaint all stays as it
//! is (INV-6). What it says of an upstream is told to that upstream's own `mover`, what it says of the
//! policy to the keeper of `policy`; neither waits for the other.
//!
//! What surprises: a changed listener, worker count or admin address is *reported* and not applied;
//! these need a restart, and silence about it would be a lie.

mod look;
pub mod mover;
pub mod policy;
mod watcher;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use self::mover::Intent;
use self::policy::Wanted;
use super::workers::Door;
use crate::cli::RunFlags;
use crate::config::{Endpoint, Settings, UpstreamSettings, content_hash};
use crate::events;
use crate::stats::control;
use crate::stats::labels::Reload;
use crate::tls::ClientTlsReloader;
use crate::topology::Published;
use crate::topology::slots::NodeId;
use crate::upstream::dial::Node;

/// SHA-256 of a configuration file; `None` without one.
pub type FileHash = Option<[u8; 32]>;

/// Remembers what is in force.
pub struct Reloader {
    flags: RunFlags,
    /// What the process started with; what needs a restart is still so.
    started_with: Settings,
    /// Digest of the file that was looked at last.
    seen: FileHash,
    /// An upstream of that file could not be used, and is tried again.
    is_unfinished: bool,
    /// Where the keeper of the policy learns what the file says of it.
    policy: watch::Sender<Wanted>,
    /// Where each upstream's mover learns the same.
    movers: Vec<(Arc<str>, mpsc::Sender<Intent>)>,
    /// Those that have not said yet whether they can follow the file that was looked at last.
    telling: JoinSet<bool>,
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

/// Reads certificates again whose files have changed: the listeners' and the upstreams'.
pub fn certificates<'p>(doors: &[Door], upstreams: impl Iterator<Item = &'p Published>) {
    let ours = doors.iter().filter_map(|door| door.tls.as_ref()).map(|tls| tls.refresh());
    let theirs = upstreams
        .filter_map(|published| published.load().node.tls.as_ref().map(|(tls, _)| tls.refresh()));
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
    pub fn new(
        flags: &RunFlags,
        started_with: Settings,
        policy: watch::Sender<Wanted>,
        movers: Vec<(Arc<str>, mpsc::Sender<Intent>)>,
    ) -> Self {
        let seen = started_with.file_hash;
        let (flags, telling) = (flags.clone(), JoinSet::new());
        Self { flags, started_with, seen, is_unfinished: false, policy, movers, telling }
    }

    /// Looks at the file, if it changed or `asked`, and has applied what may be applied. Waits for
    /// nobody: [`Self::settle`] hears what came of it.
    pub fn look(&mut self, asked: bool) {
        let hash = hash_of(self.flags.config.as_deref());
        if !asked && hash == self.seen && !self.is_unfinished {
            return;
        }
        self.seen = hash;
        self.is_unfinished = false;
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
        let cold = self.started_with.cold_changes(&wanted);
        if !cold.is_empty() {
            events::restart_needed(&cold);
        }
        self.tell_movers(&wanted, asked);
    }

    /// Hears of one more upstream whether it could follow, and counts the file when all have said so.
    /// Ends never while there is nothing to hear.
    pub async fn settle(&mut self) {
        let Some(told) = self.telling.join_next().await else {
            return std::future::pending().await;
        };
        // Tried again at the next look if it cannot be done: a new node may still be starting.
        self.is_unfinished |= !told.unwrap_or(false);
        if self.telling.is_empty() {
            control::config_reloaded(match self.is_unfinished {
                true => Reload::Refused,
                false => Reload::Applied,
            });
        }
    }

    /// Tells each upstream what the file says of it, all at once: a node that does not answer keeps
    /// no other upstream waiting, and no later file.
    fn tell_movers(&mut self, wanted: &Settings, is_asked: bool) {
        // What an earlier file said and nobody has heard yet is not to be said any more.
        self.telling = JoinSet::new();
        for (name, mover) in &self.movers {
            // One that is gone from the file goes on until the restart that was asked for.
            if let Some(upstream) = wanted.upstream_named(name) {
                let (answer, is_done) = oneshot::channel();
                let (upstream, watch) = (upstream.clone(), wanted.watch.clone());
                let intent = Intent { upstream, watch, file: self.seen, is_asked, answer };
                self.telling.spawn(tell(mover.clone(), intent, is_done));
            }
        }
    }
}

/// Tells one upstream. False if it cannot follow.
async fn tell(
    mover: mpsc::Sender<Intent>,
    intent: Intent,
    is_done: oneshot::Receiver<bool>,
) -> bool {
    mover.send(intent).await.is_ok() && is_done.await.unwrap_or(false)
}

/// What the file holds at this moment.
fn hash_of(config: Option<&Path>) -> FileHash {
    let content = std::fs::read(config?).ok()?;
    Some(content_hash(&content))
}

/// How often password files are looked at: a rotated one counts within two seconds.
const PASSWORD_POLL: Duration = Duration::from_secs(1);
