//! One upstream and everything that serves it alone.
//!
//! Owns the start and the end of a plane: what its workers share, their threads, and one thread more
//! that accepts its clients, follows its topology, watches its servers and moves it to another
//! deployment. Never knows of another plane. What the process has once (the policy in force, the admin
//! port, signals) is handed in.
//!
//! What surprises: each plane has a control thread of its own, also where there is only one. What is
//! read from a sick or huge upstream is worked off there, so that it can never keep the others' clients
//! waiting; and what is counted or logged on a plane's threads belongs to its upstream, without anybody
//! having to say so.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::Context;
use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinSet, spawn_local};

use super::listener::{self, Bound, Open};
use super::reload::mover::{Intent, Mover};
use super::reload::{self, Herald};
use super::workers::{self, Door, Started};
use crate::admin::Readiness;
use crate::admin::orders::Order;
use crate::config::{MemorySettings, NamedUpstream, UpstreamSettings, WatchSettings};
use crate::events;
use crate::governor::watchdog;
use crate::policy;
use crate::policy::ledger::Ledger;
use crate::session::registry::Registry;
use crate::stats::export::Source;
use crate::stats::recorder::{Recorder, Registries};
use crate::topology::{self, Topology};
use crate::upstream::deployment::names;
use crate::worker::{Message, Shared, WorkerHandle};

/// What all planes of a process have in common.
pub struct Common {
    /// Every listener of the process, in the order of the settings: the rules of a policy name them.
    pub doors: Arc<[Door]>,
    /// What each worker may hold.
    pub memory: MemorySettings,
    /// How servers are watched.
    pub watch: WatchSettings,
    /// The configuration file.
    pub config: Option<PathBuf>,
    /// Where policies are published.
    pub policy: policy::Published,
    /// What their rules have met.
    pub ledger: Arc<Ledger>,
    /// The newest client of the process. One row of numbers: a pace for each client must not take two
    /// for one.
    pub last_client_id: Arc<AtomicU64>,
    /// Where counts end.
    pub registries: Registries,
    /// Workers of each plane.
    pub workers: usize,
    /// Whether the log has to say which upstream it speaks of.
    pub are_several: bool,
}

/// What every thread of a plane carries: where its counts go, and what its lines in the log say.
#[derive(Clone)]
pub struct Mark {
    recorder: Arc<Recorder>,
    /// `None`: there is one upstream, and nothing to tell apart.
    name: Option<Arc<str>>,
    /// Its place among the upstreams.
    place: usize,
}

/// One upstream, its workers, and how it is reached from outside.
pub struct Plane {
    /// What the configuration calls it.
    pub name: Arc<str>,
    /// What its workers share.
    pub shared: Arc<Shared>,
    /// Whether it can serve.
    pub readiness: Arc<Readiness>,
    /// Where the reload says what the file says of it.
    intents: mpsc::Sender<Intent>,
    mark: Mark,
    workers: Vec<Started>,
    /// None of its listeners is open any more.
    is_closed: Arc<AtomicBool>,
}

/// What the control thread of a plane begins with.
pub struct Controls {
    /// What is followed.
    pub settings: UpstreamSettings,
    /// The file that says so.
    pub config: Option<PathBuf>,
    /// What the file says from here on.
    pub intents: mpsc::Receiver<Intent>,
}

// === impl Mark ===

impl Mark {
    /// Runs `work` as a part of the plane.
    pub fn within<T>(&self, work: impl FnOnce() -> T) -> T {
        // At the level of errors, so that a filter which lets only these through still names them.
        let span = self.name.as_ref().map(|name| tracing::error_span!("upstream", name = &**name));
        let _entered = span.as_ref().map(tracing::Span::enter);
        self.recorder.scoped(|| events::speaking_for(self.place, work))
    }
}

// === impl Plane ===

impl Plane {
    /// A plane without threads, of the upstream at this place in the settings. Whatever can be wrong
    /// with it is found out here.
    ///
    /// # Errors
    /// If its TLS files or its password cannot be read.
    pub fn new(
        place: usize,
        upstream: NamedUpstream,
        common: &Common,
    ) -> anyhow::Result<(Self, Controls)> {
        let NamedUpstream { name, settings } = upstream;
        let name: Arc<str> = name.into();
        let told = common.are_several.then(|| Arc::clone(&name));
        let mark = Mark { recorder: common.registries.recorder(), name: told, place };
        let node = mark.within(|| -> anyhow::Result<_> {
            let node = Arc::new(reload::node(&settings)?);
            // A password that is not there should be missed now, not by the first client.
            node.deployment.keyring.keys()?;
            Ok(node)
        });
        let node = match common.are_several {
            true => node.with_context(|| format!("the upstream '{name}' cannot be used"))?,
            false => node?,
        };
        let published = Arc::new(ArcSwap::from_pointee(Topology::unknown(1, node)));
        let shared = Shared {
            policy: Arc::clone(&common.policy),
            ledger: Arc::clone(&common.ledger),
            registry: Registry::numbered_by(&common.last_client_id),
            ..Shared::new(published, common.memory)
        };
        shared.watch_as(common.watch.clone());
        let (intents, on_intent) = mpsc::channel(1);
        let plane = Self {
            name,
            shared: Arc::new(shared),
            readiness: Arc::default(),
            intents,
            mark,
            workers: Vec::new(),
            is_closed: Arc::default(),
        };
        let config = common.config.clone();
        Ok((plane, Controls { settings, config, intents: on_intent }))
    }

    /// Starts its workers, the first of which has this number in the process.
    ///
    /// # Errors
    /// If a thread cannot be made.
    pub fn start_workers(&mut self, first: usize, common: &Common) -> io::Result<()> {
        for number in first..first + common.workers {
            let (shared, doors) = (Arc::clone(&self.shared), Arc::clone(&common.doors));
            self.workers.push(workers::start(number, self.mark.clone(), shared, doors)?);
        }
        Ok(())
    }

    /// Starts the thread that does everything else, and returns once it is at work. From then on
    /// clients are accepted at `bound`, each with its place among the listeners of the process, until
    /// `draining`.
    ///
    /// # Errors
    /// If there can be no such thread.
    pub async fn start_control(
        &self,
        controls: Controls,
        desk: mpsc::Receiver<Order>,
        bound: Vec<(usize, Bound)>,
        common: &Common,
        draining: watch::Receiver<bool>,
    ) -> io::Result<()> {
        let (is_open, opened) = oneshot::channel();
        let is_closed = Arc::clone(&self.is_closed);
        let (mark, shared) = (self.mark.clone(), Arc::clone(&self.shared));
        let readiness = Arc::clone(&self.readiness);
        let doors = Arc::clone(&common.doors);
        let handles: Arc<[WorkerHandle]> = self.handles().cloned().collect();
        let work = move || {
            let runtime = match runtime() {
                Ok(runtime) => runtime,
                Err(error) => return drop(is_open.send(Err(error))),
            };
            runtime.block_on(async {
                let bound = bound.into_iter().map(|(place, it)| it.open().map(|it| (place, it)));
                let open: Vec<(usize, Open)> = match bound.collect() {
                    Ok(open) => open,
                    Err(error) => return drop(is_open.send(Err(error))),
                };
                control(shared, readiness, controls, desk);
                let _ = is_open.send(Ok(()));
                accept(open, doors, handles, draining).await;
                // Who leaves now finds the socket's file gone.
                is_closed.store(true, Ordering::Release);
                // What is in flight still needs to know where nodes are.
                std::future::pending::<()>().await;
            });
        };
        let name = format!("control-{}", self.name);
        std::thread::Builder::new().name(name).spawn(move || mark.within(work))?;
        opened.await.unwrap_or_else(|_| Err(io::ErrorKind::Interrupted.into()))
    }

    /// What the page of the metrics shows of it.
    #[must_use]
    pub fn source(&self) -> Source {
        Source {
            name: self.name.to_string(),
            workers: self.workers.iter().map(|one| Arc::clone(&one.stats)).collect(),
            recorder: Arc::clone(&self.mark.recorder),
            findings: Arc::clone(&self.shared.findings),
            nodes: Arc::clone(&self.shared.nodes),
        }
    }

    /// How it learns what the file says.
    #[must_use]
    pub fn herald(&self) -> Herald {
        Herald::new(Arc::clone(&self.name), Arc::clone(&self.shared), self.intents.clone())
    }

    /// What its threads count into.
    #[must_use]
    pub fn recorder(&self) -> &Arc<Recorder> {
        &self.mark.recorder
    }

    /// Clients at this moment.
    #[must_use]
    pub fn clients(&self) -> usize {
        self.handles().map(WorkerHandle::clients).sum()
    }

    /// Tells its workers to finish. Waits for none of them: one that takes no message must not keep the
    /// others from hearing it.
    pub fn drain(&self) {
        for handle in self.handles() {
            let inbox = handle.inbox.clone();
            spawn_local(async move { inbox.send(Message::Drain).await });
        }
    }

    /// Whether all its workers have finished.
    #[must_use]
    pub fn has_drained(&self) -> bool {
        self.workers.iter().all(|one| one.thread.is_finished())
    }

    /// Whether none of its listeners is open any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    fn handles(&self) -> impl Iterator<Item = &WorkerHandle> {
        self.workers.iter().map(|one| &one.handle)
    }
}

fn runtime() -> io::Result<tokio::runtime::LocalRuntime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
}

/// Starts what follows the upstream and keeps what is known of it.
fn control(
    shared: Arc<Shared>,
    readiness: Arc<Readiness>,
    controls: Controls,
    desk: mpsc::Receiver<Order>,
) {
    let (changed, on_change) = watch::channel(1);
    let Controls { settings, config, intents } = controls;
    let mover = Mover::new(Arc::clone(&shared), settings, config, changed);
    spawn_local(topology::follow(Arc::clone(&shared), readiness, on_change));
    spawn_local(names::keep(Arc::clone(&shared.topology)));
    spawn_local(reload::watch_passwords(Arc::clone(&shared.topology)));
    spawn_local(crate::watch::follow(Arc::clone(&shared)));
    spawn_local(watchdog::follow(shared));
    spawn_local(mover.run(intents, desk));
}

/// Accepts at all of them until the process drains.
async fn accept(
    open: Vec<(usize, Open)>,
    doors: Arc<[Door]>,
    workers: Arc<[WorkerHandle]>,
    draining: watch::Receiver<bool>,
) {
    let mut acceptors = JoinSet::new();
    for (place, open) in open {
        let (workers, draining) = (Arc::clone(&workers), draining.clone());
        if let Some(door) = doors.get(place).cloned() {
            acceptors.spawn(listener::accept(place, open, door, workers, draining));
        }
    }
    while acceptors.join_next().await.is_some() {}
}
