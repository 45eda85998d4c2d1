//! The move of one upstream to another deployment while traffic flows.
//!
//! Owns what is in force of `[upstream]` (or of one of `[upstreams]`) and the steps from there to
//! what the file or an order says: the new node is dialled and verified first, and on any complaint the
//! old one stays (INV-6). Runs on the upstream's own thread, one step after the other.
//!
//! What surprises: an order outlives a file that is tried again and again because its node is away, and
//! one whose change was not looked at yet. The later word wins, and the file has not said anything since.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

use super::{FileHash, hash_of, node};
use crate::admin::orders::{Order, Verdict};
use crate::config::{UpstreamSettings, check};
use crate::events;
use crate::stats::control;
use crate::topology::{Topology, cluster, facts, sentinel, single};
use crate::upstream::dial::{self, Node, Purpose};
use crate::worker::Shared;

/// What the file says of an upstream.
#[derive(Debug)]
pub struct Intent {
    /// Where it is, and how it is used.
    pub upstream: UpstreamSettings,
    /// Digest of the file that says so.
    pub file: FileHash,
    /// Somebody asked for that file to count, whatever was ordered since.
    pub is_asked: bool,
    /// Whether it is done. Nobody waits for it any more: a newer file was read, and this is outdated.
    pub answer: oneshot::Sender<bool>,
}

/// Remembers what is in force.
pub struct Mover {
    shared: Arc<Shared>,
    in_force: UpstreamSettings,
    /// The file, to know what it said when an order overruled it.
    config: Option<PathBuf>,
    /// What the file said then.
    overruled: Option<FileHash>,
    /// Rung with each new epoch.
    changed: watch::Sender<u64>,
}

// === impl Mover ===

impl Mover {
    /// These settings are in force.
    #[must_use]
    pub fn new(
        shared: Arc<Shared>,
        in_force: UpstreamSettings,
        config: Option<PathBuf>,
        changed: watch::Sender<u64>,
    ) -> Self {
        Self { shared, in_force, config, overruled: None, changed }
    }

    /// Does what the file and orders say, until nobody is left to say anything.
    pub async fn run(
        mut self,
        mut intents: mpsc::Receiver<Intent>,
        mut desk: mpsc::Receiver<Order>,
    ) {
        loop {
            tokio::select! {
                Some(intent) = intents.recv() => self.follow(intent).await,
                Some(order) = desk.recv() => self.obey(order).await,
                else => return,
            }
        }
    }

    /// Does what a file says, unless an order has overruled it or a newer one was read meanwhile.
    async fn follow(&mut self, intent: Intent) {
        let Intent { upstream, file, is_asked, mut answer } = intent;
        let is_done = if !is_asked && self.overruled == Some(file) {
            true
        } else {
            tokio::select! {
                // First of all: it may have waited here while an order was carried out.
                biased;
                () = answer.closed() => return,
                is_done = self.adopt(upstream) => is_done,
            }
        };
        // Whoever read the file may have been told to stop.
        let _ = answer.send(is_done);
    }

    /// Puts what the file says in force. False if the new deployment cannot be used. May be dropped
    /// wherever it waits: from the first change on it waits for nothing.
    async fn adopt(&mut self, wanted: UpstreamSettings) -> bool {
        // At once: the file has said something else since the order, even if this is called back.
        self.overruled = None;
        if wanted.is_same_deployment(&self.in_force) {
            self.adjust(wanted);
        } else if let Err(error) = self.move_to(&wanted).await {
            events::upstream_refused(&wanted.endpoint.to_string(), &error);
            return false;
        } else {
            self.note_moved(wanted);
        }
        true
    }

    /// Carries out an order to move. It counts until the file changes or SIGHUP asks for the file:
    /// the later word wins.
    async fn obey(&mut self, order: Order) {
        let verdict = self.carry_out(&order.body).await;
        // Whoever gave it may be gone; it is carried out all the same.
        let _ = order.answer.send(verdict);
    }

    async fn carry_out(&mut self, body: &str) -> Verdict {
        let wanted = match check::ordered(body, &self.in_force) {
            Ok(wanted) => wanted,
            Err(complaints) => {
                let words: Vec<String> = complaints.iter().map(ToString::to_string).collect();
                return Verdict::Wrong(words.join("\n"));
            }
        };
        let name = wanted.endpoint.to_string();
        let is_same = wanted.is_same_deployment(&self.in_force);
        let result = match is_same {
            true => verified(&wanted, &self.shared).await.map(drop),
            false => self.move_to(&wanted).await,
        };
        if let Err(error) = result {
            events::upstream_refused(&name, &error);
            return Verdict::Unusable(format!("{name} cannot be used: {error:#}"));
        }
        // What the file said before, and perhaps was still being tried, is overruled.
        self.overruled = Some(hash_of(self.config.as_deref()));
        if is_same {
            self.adjust(wanted);
        } else {
            self.note_moved(wanted);
        }
        Verdict::Done(found(&name, &self.shared.topology.load()))
    }

    /// Changes what may change while lanes, scripts and whatever else is known stay: who we are to
    /// the deployment, whether writes are let through, and how errors begin.
    fn adjust(&mut self, wanted: UpstreamSettings) {
        let topology = self.shared.topology.load_full();
        let deployment = &topology.node.deployment;
        if wanted.credentials != self.in_force.credentials {
            deployment.keyring.replace(wanted.credentials.clone());
        }
        deployment.set_unavailable_error(wanted.unavailable_error);
        if wanted.mode != self.in_force.mode {
            deployment.set_mode(wanted.mode);
            // By `rcu`: the slot map may be mended by a worker at the same moment.
            self.shared.topology.rcu(|topology| Arc::new(topology.with_mode_of_deployment()));
            events::mode_changed(deployment.is_readonly());
        }
        self.in_force = wanted;
    }

    fn note_moved(&mut self, upstream: UpstreamSettings) {
        control::upstream_changed();
        events::upstream_changed(&upstream.endpoint.to_string());
        self.in_force = upstream;
    }

    /// Dials and questions the new deployment, then publishes it under a new epoch.
    async fn move_to(&self, settings: &UpstreamSettings) -> anyhow::Result<()> {
        let topology = verified(settings, &self.shared).await?;
        let epoch = self.shared.topology.load().epoch + 1;
        self.shared.forget_upstream();
        self.shared.topology.store(Arc::new(Topology { epoch, ..topology }));
        // The control connections of the old deployment are dropped, and those of the new one opened.
        let _ = self.changed.send(epoch);
        Ok(())
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Mode;
    use crate::upstream::rig::Rig;

    /// What is in force behind a file of this digest that wants writes refused.
    fn told(mover: &mut Mover, file: FileHash, is_asked: bool) -> Mode {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (answer, is_done) = oneshot::channel();
        let upstream = UpstreamSettings { mode: Mode::ReadOnly, ..mover.in_force.clone() };
        runtime.block_on(mover.follow(Intent { upstream, file, is_asked, answer }));
        assert!(runtime.block_on(is_done).unwrap());
        mover.in_force.mode
    }

    #[test]
    fn what_is_outdated_is_not_carried_out_and_given_up_on_the_way() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let shared = Arc::clone(&Rig::new().worker.shared);
        let in_force = shared.topology.load().node.settings.clone();
        let (changed, _) = watch::channel(1);
        let mut mover = Mover::new(Arc::clone(&shared), in_force.clone(), None, changed);
        mover.overruled = Some(Some([1; 32]));
        let intent = |upstream, file| {
            let (answer, is_done) = oneshot::channel();
            (Intent { upstream, file: Some(file), is_asked: false, answer }, is_done)
        };
        let readonly = UpstreamSettings { mode: Mode::ReadOnly, ..in_force.clone() };
        let (outdated, is_done) = intent(readonly, [2; 32]);
        drop(is_done);
        runtime.block_on(mover.follow(outdated));
        assert_eq!((mover.in_force.mode, mover.overruled), (Mode::ReadWrite, Some(Some([1; 32]))));
        // Connections are taken by the kernel, and nobody reads them.
        let deaf = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let silent = UpstreamSettings {
            endpoint: crate::config::Endpoint::Tcp {
                host: "127.0.0.1".into(),
                port: deaf.local_addr().unwrap().port(),
            },
            connect_timeout: std::time::Duration::from_secs(3_600),
            ..in_force
        };
        let (waiting, is_done) = intent(silent, [3; 32]);
        let patience = std::time::Duration::from_secs(60);
        let given_up = runtime.block_on(async {
            let follow = tokio::time::timeout(patience, mover.follow(waiting));
            let newer = async {
                tokio::task::yield_now().await;
                drop(is_done);
            };
            tokio::join!(follow, newer).0
        });
        assert!(given_up.is_ok(), "it would dial for an hour");
        assert_eq!((mover.shared.topology.load().epoch, mover.overruled), (1, None));
    }

    #[test]
    fn an_order_counts_until_the_file_says_something_else_or_is_asked_for() {
        let shared = Arc::clone(&Rig::new().worker.shared);
        let settings = shared.topology.load().node.settings.clone();
        let (of_old, of_new) = (Some([1; 32]), Some([2; 32]));
        for (file, is_asked, want) in [
            (of_old, false, Mode::ReadWrite),
            (of_new, false, Mode::ReadOnly),
            (of_old, true, Mode::ReadOnly),
        ] {
            let (changed, _) = watch::channel(1);
            let mut mover = Mover::new(Arc::clone(&shared), settings.clone(), None, changed);
            mover.overruled = Some(of_old);
            assert_eq!(told(&mut mover, file, is_asked), want);
            // What was followed is not overruled any more.
            assert_eq!(mover.overruled.is_none(), want == Mode::ReadOnly);
        }
    }
}
