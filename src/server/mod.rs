//! The process: start, reload, drain.
//!
//! Owns the order of things: settings → listeners bound → workers started → control plane →
//! accepting; and back: readiness false → no more accepting → in-flight commands finished →
//! sessions closed → gone. Never parses a command. Runs on the control plane's thread; workers have
//! their own.
//!
//! What surprises: everything that can fail at start (addresses, certificates) is tried before the
//! first thread is started, so a bad start ends with words and not with a half-alive process.

pub mod listener;
pub mod reload;
pub mod tick;
pub mod workers;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use arc_swap::ArcSwap;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use crate::admin::orders::Order;
use crate::admin::{self, AdminState, Orders, Readiness};
use crate::cli::RunFlags;
use crate::command::table::{self, Table};
use crate::config::{Complaint, MemorySettings, Settings};
use crate::events;
use crate::net::TcpListener;
use crate::stats::WorkerStats;
use crate::stats::export::Exporter;
use crate::tls::ServerTlsReloader;
use crate::topology::{self, Topology};
use crate::upstream::deployment::names;
use crate::worker::{Message, Shared, WorkerHandle};
use listener::Bound;
use reload::policy::{Keeper, Wanted};
use workers::{Door, Started};

/// Runs the proxy until it is told to stop.
///
/// # Errors
/// Whatever keeps it from starting, in words.
pub fn run(flags: &RunFlags, settings: Settings) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())?;
    runtime.block_on(serve(flags, settings))
}

async fn serve(flags: &RunFlags, settings: Settings) -> anyhow::Result<()> {
    let doors = doors(&settings)?;
    let bound: Vec<Bound> =
        settings.listeners.iter().map(listener::bind).collect::<Result<_, _>>()?;
    let node = Arc::new(reload::node(&settings.upstream)?);
    // A password that is not there should be missed now, not by the first client.
    node.deployment.keyring.keys()?;
    let published = Arc::new(ArcSwap::from_pointee(Topology::unknown(1, node)));
    let workers = settings.workers.count();
    let memory = per_worker(&settings.memory, workers);
    let shared = Arc::new(Shared::new(Arc::clone(&published), memory));
    shared.watch_as(settings.watch.clone());
    let (policy_wanted, on_policy_wanted) = watch::channel(Wanted::from(&settings));
    let keeper = Keeper::start(Arc::clone(&shared), on_policy_wanted).map_err(in_words)?;
    let admin = admin_listener(&settings).await?;
    let started: Vec<Started> = (0..workers)
        .map(|number| workers::start(number, Arc::clone(&shared), Arc::clone(&doors)))
        .collect::<Result<_, _>>()
        .context("cannot start a worker's thread")?;
    let readiness = Arc::new(Readiness::new());
    let (stop_admin, admin_stopped) = watch::channel(false);
    let (orders, desk) = Orders::new(settings.admin_changes);
    let (policy_orders, policy_desk) = Orders::new(settings.admin_changes);
    tokio::task::spawn_local(keeper.keep(policy_desk));
    if let Some(listener) = admin {
        let (findings, nodes) = (Arc::clone(&shared.findings), Arc::clone(&shared.nodes));
        let policy = Arc::clone(&shared.policy);
        let exporter = exporter(&started).showing(findings, nodes, policy);
        exporter.install().context("another metrics recorder is installed")?;
        let state = Arc::new(AdminState {
            exporter,
            readiness: Arc::clone(&readiness),
            topology: Arc::clone(&published),
            orders,
            policy: Arc::clone(&shared.policy),
            ledger: Arc::clone(&shared.ledger),
            policy_orders,
            governor: Arc::clone(&shared.governor),
            findings: Arc::clone(&shared.findings),
            slowlog: Arc::clone(&shared.slowlog),
        });
        tokio::spawn(admin::serve(listener, state, admin_stopped));
    }
    let (changed, on_change) = watch::channel(1);
    tokio::task::spawn_local(topology::follow(
        Arc::clone(&shared),
        Arc::clone(&readiness),
        on_change,
    ));
    tokio::task::spawn_local(names::keep(Arc::clone(&published)));
    tokio::task::spawn_local(reload::watch_passwords(Arc::clone(&published)));
    tokio::task::spawn_local(crate::watch::follow(Arc::clone(&shared)));
    tokio::task::spawn_local(crate::governor::watchdog::follow(Arc::clone(&shared)));
    let (drain, draining) = watch::channel(false);
    let handles: Arc<[WorkerHandle]> = started.iter().map(|one| one.handle.clone()).collect();
    for ((place, bound), door) in bound.into_iter().enumerate().zip(doors.iter()) {
        let handles = Arc::clone(&handles);
        tokio::spawn(listener::accept(place, bound, door.clone(), handles, draining.clone()));
    }
    events::started(&settings, &shared.policy.load(), workers);
    let reloader = reload::Reloader::new(flags, &settings, policy_wanted);
    until_told(reloader, &shared, &changed, &doors, desk).await?;
    readiness.set_draining();
    let _ = drain.send(true);
    finish(&handles, started, settings.drain_timeout).await;
    let _ = stop_admin.send(true);
    Ok(())
}

/// The totals are the process's: each worker gets its part, so that none has to ask the others.
fn per_worker(memory: &MemorySettings, workers: usize) -> MemorySettings {
    MemorySettings {
        reply_bytes_total: memory.reply_bytes_total / workers,
        request_bytes_total: memory.request_bytes_total / workers,
        ..*memory
    }
}

/// What is wrong with a file, a line each.
fn in_words(complaints: Vec<Complaint>) -> anyhow::Error {
    let lines: Vec<String> = complaints.iter().map(Complaint::to_string).collect();
    anyhow::anyhow!("the policy cannot be used:\n{}", lines.join("\n"))
}

/// What each listener needs on the workers.
fn doors(settings: &Settings) -> anyhow::Result<Arc<[Door]>> {
    let door = |listener: &crate::config::ListenerSettings| -> anyhow::Result<Door> {
        let tls = match &listener.tls {
            Some(tls) => Some(Arc::new(ServerTlsReloader::try_new(tls.clone())?)),
            None => None,
        };
        Ok(Door { settings: listener.clone(), tls, clients: Arc::default() })
    };
    settings.listeners.iter().map(door).collect()
}

async fn admin_listener(settings: &Settings) -> anyhow::Result<Option<TcpListener>> {
    let Some(address) = settings.admin else {
        return Ok(None);
    };
    let listener = TcpListener::bind(address).await.with_context(|| {
        format!(
            "cannot listen on the admin address {address}; choose another with --admin, or 'off'"
        )
    })?;
    Ok(Some(listener))
}

fn exporter(started: &[Started]) -> Exporter {
    let stats: Vec<Arc<WorkerStats>> = started.iter().map(|one| Arc::clone(&one.stats)).collect();
    let table = Table::builtin();
    let names: Vec<String> = table.specs().map(|spec| spec.name.to_string()).collect();
    debug_assert_eq!(names.len(), table::BUILTIN_COUNT);
    Exporter::new(stats, |index| names.get(index).map_or("other", String::as_str))
}

/// Waits for a signal to stop; reloads whenever there is reason to.
async fn until_told(
    mut reloader: reload::Reloader,
    shared: &Arc<Shared>,
    changed: &watch::Sender<u64>,
    doors: &[Door],
    mut desk: mpsc::Receiver<Order>,
) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut poll = tokio::time::interval(RELOAD_POLL);
    poll.tick().await;
    loop {
        // A reload may wait for a node that does not answer; a signal must not.
        let reloading = async {
            let asked = tokio::select! {
                _ = hangup.recv() => true,
                _ = poll.tick() => false,
                Some(order) = desk.recv() => return reloader.obey(order, shared, changed).await,
            };
            reload::certificates(doors, &shared.topology);
            reloader.run(asked, shared, changed).await;
        };
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            () = reloading => {}
        }
    }
}

/// Lets the workers finish what is in flight, for at most `limit`.
async fn finish(handles: &[WorkerHandle], started: Vec<Started>, limit: Duration) {
    events::draining(handles.iter().map(WorkerHandle::clients).sum(), limit);
    for handle in handles {
        let _ = handle.inbox.send(Message::Drain).await;
    }
    let deadline = crate::clock::now() + limit;
    while started.iter().any(|one| !one.thread.is_finished()) && crate::clock::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    events::drained(handles.iter().map(WorkerHandle::clients).sum());
}

/// How often the configuration and the certificates are looked at without being asked.
const RELOAD_POLL: Duration = Duration::from_secs(10);
