//! Changing what may change while traffic flows: upstreams, the policy, and certificates.
//!
//! Owns the look at the configuration file and its comparison with what is in force. Never applies
//! half of a file: it is read, checked and compared as a whole, and on any complaint all stays as it
//! is (INV-6). What it says of an upstream is told to that upstream's own `mover`, what it says of the
//! policy to the keeper of `policy`; neither waits for the other.
//!
//! What surprises: a changed listener, worker count or admin address is *reported* and not applied;
//! these need a restart, and silence about it would be a lie. And where such a half of the file changes
//! what the other half means (a listener is to lead to another upstream), that one waits as well.

mod look;
pub mod mover;
pub mod policy;
mod watcher;

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

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
use crate::worker::Shared;

/// SHA-256 of a configuration file; `None` without one.
pub type FileHash = Option<[u8; 32]>;

/// Remembers what is in force.
pub struct Reloader {
    flags: RunFlags,
    /// What the process started with; what needs a restart is still so.
    started_with: Settings,
    /// Digest of the file that was looked at last.
    seen: FileHash,
    /// It says of upstreams what must wait for a restart.
    is_held_back: bool,
    /// This look has met a refusal, and it is counted.
    is_counted: bool,
    /// Where the keeper of the policy learns what the file says of it.
    policy: watch::Sender<Wanted>,
    /// Where each upstream learns the same.
    heralds: Vec<Herald>,
    /// Those that have not said yet whether they can follow that file, by their place above.
    telling: Vec<(usize, Telling)>,
}

/// An intent on its way, until it is known whether it could be followed. To drop it is to call the
/// intent back, at once; a task that is aborted would live a little longer.
type Telling = Pin<Box<dyn Future<Output = bool>>>;

/// How one upstream learns what the file says.
pub struct Herald {
    name: Arc<str>,
    shared: Arc<Shared>,
    mover: mpsc::Sender<Intent>,
    /// Somebody asked for the file to count, and the mover has not answered since.
    is_asked: bool,
    /// It could not follow the newest file, and is told again.
    is_behind: bool,
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

// === impl Herald ===

impl Herald {
    /// Of the upstream of this name.
    #[must_use]
    pub fn new(name: Arc<str>, shared: Arc<Shared>, mover: mpsc::Sender<Intent>) -> Self {
        Self { name, shared, mover, is_asked: false, is_behind: false }
    }

    /// Tells it what a file says.
    fn tell(&self, upstream: UpstreamSettings, file: FileHash) -> Telling {
        let (answer, is_done) = oneshot::channel();
        let intent = Intent { upstream, file, is_asked: self.is_asked, answer };
        let mover = self.mover.clone();
        // False as well if the mover is gone: then nothing of the file is in force.
        Box::pin(async move { mover.send(intent).await.is_ok() && is_done.await.unwrap_or(false) })
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
        heralds: Vec<Herald>,
    ) -> Self {
        Self {
            flags: flags.clone(),
            seen: started_with.file_hash,
            started_with,
            is_held_back: false,
            is_counted: false,
            policy,
            heralds,
            telling: Vec::new(),
        }
    }

    /// Looks at the file, if it changed or `asked`, and has applied what may be applied. Waits for
    /// nobody: [`Self::settle`] hears what came of it.
    pub fn look(&mut self, asked: bool) {
        let hash = hash_of(self.flags.config.as_deref());
        let is_newer = asked || hash != self.seen;
        if !is_newer && !self.heralds.iter().any(|herald| herald.is_behind) {
            return;
        }
        self.seen = hash;
        self.is_counted = false;
        if is_newer {
            // What an earlier file said is outdated, also if this one cannot be used: nobody shall
            // carry it out any more, and no late answer to it may pass for one to this file.
            self.telling.clear();
            self.heralds.iter_mut().for_each(|herald| herald.is_behind = false);
        }
        let wanted = match Settings::load(&self.flags) {
            Ok(wanted) => wanted,
            Err(complaints) => {
                self.count_refusal();
                return events::reload_refused(&complaints);
            }
        };
        // The policy has its own complaints and its own keeper; it waits for no node.
        let policy = Wanted::from(&wanted);
        self.policy.send_if_modified(|it| std::mem::replace(it, policy.clone()) != policy);
        let held_back = self.started_with.led_elsewhere(&wanted);
        self.is_held_back = !held_back.is_empty();
        // Once for each file, and not with each try of an upstream that is away.
        if is_newer {
            self.say_what_waits(&wanted, &held_back);
        }
        self.tell_movers(&wanted, &held_back, asked, is_newer);
    }

    /// Hears of one more upstream whether it could follow, and counts the file: as refused with the
    /// first that cannot, as applied when all have. Ends never while there is nothing to hear.
    pub async fn settle(&mut self) {
        let telling = &mut self.telling;
        let (place, is_done) = std::future::poll_fn(|context| next_told(telling, context)).await;
        if let Some(herald) = self.heralds.get_mut(place) {
            // Told again at the next look if it cannot be done: a new node may still be starting.
            (herald.is_asked, herald.is_behind) = (false, !is_done);
        }
        if !is_done {
            // Now, and not with the last answer: by then the file may have been looked at again.
            self.count_refusal();
        }
        if self.telling.is_empty() && !self.is_counted && !self.is_held_back {
            control::config_reloaded(Reload::Applied);
        }
    }

    /// Tells each upstream what the file says of it, all at once: a node that does not answer keeps
    /// no other upstream waiting, and no later file. Of a file that is told again only those hear that
    /// are behind it; who is still trying goes on.
    fn tell_movers(
        &mut self,
        wanted: &Settings,
        held_back: &[String],
        is_asked: bool,
        is_newer: bool,
    ) {
        for (place, herald) in self.heralds.iter_mut().enumerate() {
            // What the servers are expected to be and how they are watched is the process's own, and
            // no command goes elsewhere for it: it counts wherever commands go.
            herald.shared.watch_as(wanted.watch.clone());
            if !(is_newer || std::mem::take(&mut herald.is_behind)) {
                continue;
            }
            match wanted.upstream_named(&herald.name) {
                Some(upstream) if !held_back.iter().any(|name| **name == *herald.name) => {
                    // An earlier wish that was not heard yet is not lost.
                    herald.is_asked |= is_asked;
                    let telling = herald.tell(upstream.clone(), wanted.file_hash);
                    self.telling.push((place, telling));
                }
                // It goes on as it is until the restart that was asked for.
                _ => {}
            }
        }
    }

    /// Says what of the file is not applied.
    fn say_what_waits(&mut self, wanted: &Settings, held_back: &[String]) {
        let cold = self.started_with.cold_changes(wanted);
        if !cold.is_empty() {
            events::restart_needed(&cold);
        }
        if !held_back.is_empty() {
            events::upstreams_held_back(held_back);
            self.count_refusal();
        }
    }

    /// Counts a refusal, once in a look.
    fn count_refusal(&mut self) {
        if !std::mem::replace(&mut self.is_counted, true) {
            control::config_reloaded(Reload::Refused);
        }
    }
}

/// Who has answered, and whether it can follow. All are asked each time: they are a handful.
fn next_told(
    telling: &mut Vec<(usize, Telling)>,
    context: &mut Context<'_>,
) -> Poll<(usize, bool)> {
    for at in 0..telling.len() {
        if let Some((place, one)) = telling.get_mut(at)
            && let Poll::Ready(is_done) = one.as_mut().poll(context)
        {
            let place = *place;
            drop(telling.swap_remove(at));
            return Poll::Ready((place, is_done));
        }
    }
    Poll::Pending
}

/// What the file holds at this moment.
fn hash_of(config: Option<&Path>) -> FileHash {
    let content = std::fs::read(config?).ok()?;
    Some(content_hash(&content))
}

/// How often password files are looked at: a rotated one counts within two seconds.
const PASSWORD_POLL: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
