//! The threads of the data plane.
//!
//! Owns starting a worker's thread and runtime, its inbox, the start of session and lane tasks, and
//! its tick. Never touches a command. A client arrives as a message and becomes a session task; a
//! lane that a session asked for becomes a lane task.
//!
//! What surprises: each worker is a current-thread runtime with local tasks. Nothing on the data
//! path is `Send`, so nothing there can be locked, stolen or shared by accident.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::task::spawn_local;

use super::listener::{Accepted, Socket};
use super::plane::Mark;
use super::tick;
use crate::clock;
use crate::dispatch::departure;
use crate::net::{self, Halves, TcpStream, UnixStream};
use crate::session::gate::Gate;
use crate::session::registry::{Client, Home};
use crate::session::state::{Closing, Session};
use crate::session::{self};
use crate::stats::WorkerStats;
use crate::stats::control;
use crate::stats::labels::{ClosedReason, TurnedAway};
use crate::tls::ServerTlsReloader;
use crate::topology::Topology;
use crate::upstream::flush;
use crate::upstream::subscriber;
use crate::upstream::task::{self, Dialling};
use crate::upstream::verify;
use crate::worker::{Message, Shared, SharedWorker, Worker, WorkerHandle};

/// One listener as workers need it.
#[derive(Clone)]
pub struct Door {
    /// Its rules.
    pub settings: crate::config::ListenerSettings,
    /// Its certificate, if it speaks TLS.
    pub tls: Option<Arc<ServerTlsReloader>>,
    /// Its clients, on all workers; compared with its `client_max`.
    pub clients: Arc<AtomicUsize>,
}

/// A started worker.
#[derive(Debug)]
pub struct Started {
    /// How to reach it.
    pub handle: WorkerHandle,
    /// Its counters.
    pub stats: Arc<WorkerStats>,
    /// Its thread, which ends when it has drained.
    pub thread: JoinHandle<()>,
}

/// What the tasks of one worker share.
#[derive(Clone)]
struct Bench {
    worker: SharedWorker,
    gates: Rc<[Rc<Gate>]>,
    doors: Arc<[Door]>,
    handle: WorkerHandle,
    /// How many dials there may be at a time (INV-9).
    dialling: Rc<Dialling>,
    /// One question about a password at a time: a flood of them must not keep lanes from dialling.
    verifying: Rc<Semaphore>,
}

/// Starts worker number `number` of the process for the upstream that `mark` names.
///
/// # Errors
/// If the thread or its runtime cannot be made.
pub fn start(
    number: usize,
    mark: Mark,
    shared: Arc<Shared>,
    doors: Arc<[Door]>,
) -> io::Result<Started> {
    let (inbox, messages) = mpsc::channel(INBOX);
    let handle = WorkerHandle { inbox, load: Arc::new(AtomicUsize::new(0)) };
    let stats = Arc::new(WorkerStats::new(crate::command::table::BUILTIN_COUNT));
    let (its_handle, its_stats) = (handle.clone(), Arc::clone(&stats));
    let thread = std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
        // A local runtime cannot move between threads, so it is made on its own.
        match runtime() {
            Ok(runtime) => {
                let worker = Rc::new(RefCell::new(Worker::new(shared, its_stats)));
                mark.within(|| runtime.block_on(run(worker, doors, its_handle, messages)));
            }
            Err(error) => crate::events::no_runtime(&error),
        }
    })?;
    Ok(Started { handle, stats, thread })
}

fn runtime() -> io::Result<tokio::runtime::LocalRuntime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // A turn serves every ready session before it looks at the sockets again: larger batches,
        // fewer writes.
        .event_interval(EVENT_INTERVAL)
        .build_local(tokio::runtime::LocalOptions::default())
}

/// The worker's own task: inbox and tick, until it has drained.
async fn run(
    worker: SharedWorker,
    doors: Arc<[Door]>,
    handle: WorkerHandle,
    mut messages: mpsc::Receiver<Message>,
) {
    let memory = worker.borrow().shared.memory;
    let gates = doors.iter().map(|door| Rc::new(Gate::new(&door.settings, &memory))).collect();
    let dialling = Rc::new(Dialling::default());
    let verifying = Rc::new(Semaphore::new(1));
    let bench = Bench { worker, gates, doors, handle, dialling, verifying };
    spawn_local(flush::run(Rc::clone(&bench.worker)));
    spawn_local(departure::run(Rc::clone(&bench.worker)));
    let wanted = Rc::clone(&bench.worker.borrow().tasks_wanted);
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut draining = false;
    loop {
        tokio::select! {
            message = messages.recv() => match message {
                Some(message) => draining |= bench.handle_message(message),
                None => return,
            },
            () = wanted.notified() => {}
            _ = tick.tick() => tick::run(&mut bench.worker.borrow_mut()),
        }
        bench.start_tasks();
        if draining && bench.handle.clients() == 0 {
            return;
        }
    }
}

// === impl Bench ===

impl Bench {
    /// Returns whether the worker is to drain.
    fn handle_message(&self, message: Message) -> bool {
        match message {
            Message::Client(accepted) => {
                spawn_local(self.clone().serve(*accepted));
            }
            Message::Kill(id) => {
                if let Some(session) = self.worker.borrow_mut().sessions.get_mut(id) {
                    session.close(Closing::Now(ClosedReason::Killed));
                    session.wake();
                }
            }
            Message::Drain => {
                tick::drain(&mut self.worker.borrow_mut());
                return true;
            }
        }
        false
    }

    /// One client, from its socket to its end.
    async fn serve(self, accepted: Accepted) {
        let Accepted { listener, socket, address, local_address, place: _place } = accepted;
        // Boxed: the state of a TLS handshake would otherwise stay part of every idle client's
        // task.
        if let Some((read, write)) = Box::pin(self.greet(listener, socket)).await
            && let Some(gate) = self.gates.get(listener)
        {
            let id = self.open_session(Rc::clone(gate), write, address, local_address);
            session::run(&self.worker, id, read, || self.start_tasks()).await;
        }
    }

    /// Attaches the socket to this runtime, and speaks TLS where the listener does.
    async fn greet(&self, listener: usize, socket: Socket) -> Option<Halves> {
        let stream = match socket {
            Socket::Unix(stream) => return UnixStream::from_std(stream).ok().map(net::split_unix),
            Socket::Tcp(stream) => TcpStream::from_std(stream).ok()?,
        };
        let Some(tls) = self.doors.get(listener)?.tls.as_ref() else {
            return Some(net::split_tcp(stream));
        };
        let acceptor = tokio_rustls::TlsAcceptor::from(tls.current());
        match tokio::time::timeout(HANDSHAKE_WITHIN, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => Some(net::split_tls(stream.into())),
            _ => {
                control::client_turned_away(TurnedAway::TlsHandshake);
                None
            }
        }
    }

    fn open_session(
        &self,
        gate: Rc<Gate>,
        socket: net::WriteHalf,
        address: String,
        local_address: String,
    ) -> crate::session::state::SessionId {
        let mut worker = self.worker.borrow_mut();
        let worker = &mut *worker;
        let now = clock::micros();
        let topology: Arc<Topology> = Arc::clone(worker.topology.load());
        let wants_auth = topology.facts.as_ref().is_some_and(|facts| facts.wants_auth);
        worker.stats.clients_accepted.increment();
        worker.stats.clients.add(1);
        let (shared, handle, draining) = (&worker.shared, &self.handle, worker.draining);
        worker.sessions.insert(|id| {
            let home = Home { worker: handle.clone(), session: id };
            let number = shared.registry.next_id();
            let descriptor = socket.descriptor();
            let client = Client::new(number, address, local_address, descriptor, now, home);
            let client = Arc::new(client);
            shared.registry.insert(&client);
            let identity = gate.stranger(wants_auth);
            let mut session = Session::new(id, client, gate, identity, socket, now);
            session.db = topology.node.settings.db;
            session.client.note_state(session.protocol, session.db);
            if draining {
                session.close(Closing::AfterReplies(ClosedReason::Drain));
            }
            session
        })
    }

    /// Starts the tasks that the data path asked for.
    fn start_tasks(&self) {
        let (lanes, links, verifications) = {
            let mut worker = self.worker.borrow_mut();
            let is_idle = worker.to_dial.is_empty() && worker.links_to_dial.is_empty();
            if is_idle && worker.to_verify.is_empty() {
                return;
            }
            (
                std::mem::take(&mut worker.to_dial),
                std::mem::take(&mut worker.links_to_dial),
                std::mem::take(&mut worker.to_verify),
            )
        };
        for id in lanes {
            spawn_local(task::run(Rc::clone(&self.worker), id, Rc::clone(&self.dialling)));
        }
        for id in links {
            let dialling = Rc::clone(&self.dialling);
            spawn_local(subscriber::task::run(Rc::clone(&self.worker), id, dialling));
        }
        for request in verifications {
            let verifying = Rc::clone(&self.verifying);
            spawn_local(verify::verify(Rc::clone(&self.worker), request, verifying));
        }
    }
}

/// Messages that wait for a worker; beyond that a new client is refused.
const INBOX: usize = 1024;
/// How often deadlines, idle clients and idle lanes are looked at.
const TICK: Duration = Duration::from_millis(100);
/// How long a client may take for its TLS handshake.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
/// Task polls between two looks at the sockets while tasks are ready.
const EVENT_INTERVAL: u32 = 1024;
