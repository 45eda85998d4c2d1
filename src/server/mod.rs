//! The process: start, reload, drain.
//!
//! Owns the order of things: settings → listeners bound → workers started → control plane →
//! accepting; and back: readiness false → no more accepting → in-flight commands finished →
//! sessions closed → gone. Never parses a command. Runs on the process's first thread; each upstream
//! has workers and a control thread of its own (`plane`).
//!
//! What surprises: everything that can fail at start (addresses, certificates) is tried before the
//! first thread is started, so a bad start ends with words and not with a half-alive process.

pub mod listener;
pub mod plane;
pub mod reload;
pub mod tick;
pub mod workers;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use crate::admin::orders::Order;
use crate::admin::{self, AdminState, Behind, Orders};
use crate::cli::RunFlags;
use crate::command::table::{self, Table};
use crate::config::{Complaint, MemorySettings, NamedUpstream, Settings};
use crate::events;
use crate::net::TcpListener;
use crate::policy;
use crate::stats::export::{Exporter, Source};
use crate::stats::recorder::Registries;
use crate::tls::ServerTlsReloader;
use listener::Bound;
use plane::{Common, Controls, Plane};
use reload::policy::{Keeper, Wanted};
use workers::Door;

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
    let common = common(flags, &settings)?;
    let bound: Vec<Bound> =
        settings.listeners.iter().map(listener::bind).collect::<Result<_, _>>()?;
    let (mut planes, controls) = planes(&settings, &common)?;
    let first = planes.first().context("there is no upstream")?;
    let (policy_wanted, on_policy_wanted) = watch::channel(Wanted::from(&settings));
    // The policy is the process's: all planes share what this one publishes.
    let keeper = Keeper::start(Arc::clone(&first.shared), on_policy_wanted).map_err(in_words)?;
    let admin = admin_listener(&settings).await?;
    for (place, plane) in planes.iter_mut().enumerate() {
        let started = plane.start_workers(place * common.workers, &common);
        started.context("cannot start a worker's thread")?;
    }
    let (orders, desks) = orders(&planes, settings.admin_changes);
    let (policy_orders, policy_desk) = Orders::new(settings.admin_changes);
    tokio::task::spawn_local(keeper.keep(policy_desk));
    let (stop_admin, admin_stopped) = watch::channel(false);
    if let Some(listener) = admin {
        let exporter = exporter(&planes, &common);
        exporter.install().context("another metrics recorder is installed")?;
        let state = Arc::new(AdminState {
            exporter,
            behind: behind(&planes, orders),
            listeners: admin::listeners(&settings),
            policy: Arc::clone(&common.policy),
            ledger: Arc::clone(&common.ledger),
            policy_orders,
        });
        tokio::spawn(admin::serve(listener, state, admin_stopped));
    }
    let (drain, draining) = watch::channel(false);
    let mut bound: Vec<_> = settings.listeners.iter().zip(bound).enumerate().collect();
    for ((plane, controls), desk) in planes.iter().zip(controls).zip(desks) {
        let its_own = |(_, (listener, _)): &mut (usize, (&_, _))| is_of(listener, plane);
        let its_own: Vec<_> = bound.extract_if(.., its_own).collect();
        let its_own = its_own.into_iter().map(|(place, (_, bound))| (place, bound)).collect();
        let started = plane.start_control(controls, desk, its_own, &common, draining.clone());
        started.await.context("cannot start an upstream's thread")?;
    }
    events::started(&settings, &common.policy.load(), common.workers);
    let heralds = planes.iter().map(Plane::herald).collect();
    let reloader = reload::Reloader::new(flags, settings.clone(), policy_wanted, heralds);
    until_told(reloader, &planes, &common.doors).await?;
    planes.iter().for_each(|plane| plane.readiness.set_draining());
    let _ = drain.send(true);
    finish(&planes, settings.drain_timeout).await;
    let _ = stop_admin.send(true);
    Ok(())
}

fn is_of(listener: &crate::config::ListenerSettings, plane: &Plane) -> bool {
    *listener.upstream == *plane.name
}

/// What the planes of these settings have in common.
fn common(flags: &RunFlags, settings: &Settings) -> anyhow::Result<Common> {
    let upstreams = settings.all_upstreams().count();
    let workers = settings.workers.count();
    Ok(Common {
        doors: doors(settings)?,
        memory: per_worker(&settings.memory, upstreams, workers),
        watch: settings.watch.clone(),
        config: flags.config.clone(),
        policy: policy::Published::default(),
        ledger: Arc::default(),
        last_client_id: Arc::default(),
        registries: Registries::default(),
        workers,
        are_several: upstreams > 1,
    })
}

/// A plane for each upstream, in the order of the settings, without threads yet.
fn planes(settings: &Settings, common: &Common) -> anyhow::Result<(Vec<Plane>, Vec<Controls>)> {
    let upstreams = settings.all_upstreams().map(|(name, settings)| NamedUpstream {
        name: name.to_owned(),
        settings: settings.clone(),
    });
    let plane = |(place, upstream)| Plane::new(place, upstream, common);
    let planes: Vec<_> = upstreams.enumerate().map(plane).collect::<Result<_, _>>()?;
    Ok(planes.into_iter().unzip())
}

/// The totals are the process's: each worker gets its part, so that none has to ask the others. What
/// the workers of an upstream remember together is divided by the upstreams.
fn per_worker(memory: &MemorySettings, upstreams: usize, workers: usize) -> MemorySettings {
    MemorySettings {
        reply_bytes_total: memory.reply_bytes_total / (upstreams * workers),
        request_bytes_total: memory.request_bytes_total / (upstreams * workers),
        script_bytes_total: memory.script_bytes_total / upstreams,
        ..*memory
    }
}

/// Where each upstream's orders come in, and where they end.
fn orders(planes: &[Plane], are_allowed: bool) -> (Vec<Orders>, Vec<mpsc::Receiver<Order>>) {
    planes.iter().map(|_| Orders::new(are_allowed)).unzip()
}

/// The upstreams as the admin port shows them.
fn behind(planes: &[Plane], orders: Vec<Orders>) -> Vec<Behind> {
    let behind = |(plane, orders): (&Plane, Orders)| Behind {
        name: plane.name.to_string(),
        recorder: Arc::clone(plane.recorder()),
        readiness: Arc::clone(&plane.readiness),
        topology: Arc::clone(&plane.shared.topology),
        orders,
        governor: Arc::clone(&plane.shared.governor),
        findings: Arc::clone(&plane.shared.findings),
        slowlog: Arc::clone(&plane.shared.slowlog),
    };
    planes.iter().zip(orders).map(behind).collect()
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

fn exporter(planes: &[Plane], common: &Common) -> Exporter {
    let sources: Vec<Source> = planes.iter().map(Plane::source).collect();
    let table = Table::builtin();
    let names: Vec<String> = table.specs().map(|spec| spec.name.to_string()).collect();
    debug_assert_eq!(names.len(), table::BUILTIN_COUNT);
    let name = |index: usize| names.get(index).map_or("other", String::as_str);
    Exporter::new(common.registries.clone(), sources, Arc::clone(&common.policy), name)
}

/// Waits for a signal to stop; reloads whenever there is reason to.
async fn until_told(
    mut reloader: reload::Reloader,
    planes: &[Plane],
    doors: &[Door],
) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut poll = tokio::time::interval(RELOAD_POLL);
    poll.tick().await;
    loop {
        let asked = tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = hangup.recv() => true,
            _ = poll.tick() => false,
            () = reloader.settle() => continue,
        };
        reload::certificates(doors, planes.iter().map(|plane| &plane.shared.topology));
        reloader.look(asked);
    }
}

/// Lets the workers finish what is in flight, for at most `limit`.
async fn finish(planes: &[Plane], limit: Duration) {
    let clients = |planes: &[Plane]| planes.iter().map(Plane::clients).sum();
    events::draining(clients(planes), limit);
    let start = crate::clock::now();
    planes.iter().for_each(Plane::drain);
    let waits = |planes: &[Plane]| {
        // Also without any patience for clients, the files of unix sockets go first.
        let is_open = !planes.iter().all(Plane::is_closed) && start.elapsed() < CLOSED_WITHIN;
        is_open || (!planes.iter().all(Plane::has_drained) && start.elapsed() < limit)
    };
    while waits(planes) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    events::drained(clients(planes));
}

/// How long closing the listeners may take, which waits for nobody.
const CLOSED_WITHIN: Duration = Duration::from_secs(1);
/// How often the configuration and the certificates are looked at without being asked.
const RELOAD_POLL: Duration = Duration::from_secs(10);
