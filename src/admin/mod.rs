//! The admin server: HTTP/1.1 for probes, scrapers and people, on a port of its own.
//!
//! This file owns the sockets of that port: accepting, limits and an orderly stop; `routes`
//! decides what is answered. It runs on the control-plane thread and never touches a worker but
//! for reading its counters; `orders` passes on the few things that can be changed here.
//! What surprises: a connection has one clock, which starts when it is accepted and again with each
//! request. When it runs out the connection is closed, be it idle, slow to ask or slow to take its
//! answer; and when all places are taken the one whose clock has least left makes room, so that
//! forgotten connections cannot starve a liveness probe.

mod behind;
pub mod orders;
mod policy;
mod readiness;
mod routes;
mod topology;

use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinError, JoinSet};

use crate::clock;
use crate::config::Settings;
use crate::net::TcpListener;
use crate::policy::ledger::Ledger;
use crate::stats::export::Exporter;

pub use behind::Behind;
pub use orders::Orders;
pub use readiness::Readiness;

/// What the admin server shows.
pub struct AdminState {
    /// Makes the metrics page.
    pub exporter: Exporter,
    /// The upstreams, the default one first; at least one.
    pub behind: Vec<Behind>,
    /// Each listener's address, and the name of its upstream.
    pub listeners: Vec<(String, String)>,
    /// What `/policy` shows.
    pub policy: crate::policy::Published,
    /// Where it comes from, and what its rules have met.
    pub ledger: Arc<Ledger>,
    /// Takes orders about it; they must not wait for a move of an upstream.
    pub policy_orders: Orders,
}

/// The bounds of the admin server.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// Connections at a time. Probes and scrapers need a handful.
    connections_max: usize,
    /// Bytes of request line and headers; beyond, the answer is 431.
    header_bytes_max: usize,
    /// From accept to the end of the first request's headers.
    first_request: Duration,
    /// From one request to the end of the next one's headers, the answer's delivery included.
    next_request: Duration,
    /// What requests in flight have left when the server stops.
    stop: Duration,
    /// Pause after a failed accept: without descriptors the next would fail at once.
    accept_retry: Duration,
}

/// The moment at which a connection's patience with its peer ends.
#[derive(Debug)]
struct Deadline(Mutex<Instant>);

/// What the accept loop knows of a connection.
struct Connection {
    /// Moved by the connection's task, compared here.
    deadline: Arc<Deadline>,
    /// Closes the connection at its next await.
    abort: AbortHandle,
}

/// Where clients of these settings come in, and the upstream of each place.
#[must_use]
pub fn listeners(settings: &Settings) -> Vec<(String, String)> {
    settings.listeners.iter().map(|it| (it.address.to_string(), it.upstream.clone())).collect()
}

/// Serves `listener` until `shutdown` becomes true or its sender is gone.
///
/// Then it stops accepting, gives the requests in flight a second, and returns. Call it from a
/// task or thread with a tokio runtime whose I/O and time are enabled. Errors of single
/// connections end only those; errors of accept are logged and retried, so it never fails.
pub async fn serve(listener: TcpListener, state: Arc<AdminState>, shutdown: watch::Receiver<bool>) {
    serve_within(LIMITS, listener, state, shutdown).await;
}

/// [`serve`] with other limits.
async fn serve_within(
    limits: Limits,
    listener: TcpListener,
    state: Arc<AdminState>,
    mut shutdown: watch::Receiver<bool>,
) {
    // Dropping the set aborts its tasks, so nothing outlives a server that is itself cancelled.
    let mut tasks = JoinSet::new();
    let mut connections: Vec<Connection> = Vec::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stopped(&mut shutdown) => break,
            Some(ended) = tasks.join_next() => {
                note_end(ended);
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                make_room(&mut connections, limits.connections_max);
                let deadline = Arc::new(Deadline::after(limits.first_request));
                let task = converse(
                    limits,
                    stream,
                    Arc::clone(&state),
                    Arc::clone(&deadline),
                    shutdown.clone(),
                );
                connections.push(Connection { deadline, abort: tasks.spawn(task) });
            }
            Err(error) => pause_after(&error, limits.accept_retry, &mut shutdown).await,
        }
    }
    // Nobody must wait in the backlog for a server that is gone.
    drop(listener);
    while let Some(ended) = tasks.join_next().await {
        note_end(ended);
    }
}

/// Serves one connection until it ends, its deadline passes or the server stops.
async fn converse(
    limits: Limits,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    state: Arc<AdminState>,
    deadline: Arc<Deadline>,
    mut shutdown: watch::Receiver<bool>,
) {
    let service = service_fn(|request: Request<Incoming>| {
        deadline.extend(limits.next_request);
        let state = Arc::clone(&state);
        async move { Ok::<_, Infallible>(routes::respond(request, &state).await) }
    });
    let mut connection = pin!(
        http1::Builder::new()
            // Our deadline covers the headers too, and the delivery, which hyper's does not.
            .header_read_timeout(None)
            .max_header_size(limits.header_bytes_max)
            .max_buf_size(limits.header_bytes_max * 2)
            .serve_connection(TokioIo::new(stream), service)
    );
    tokio::select! {
        biased;
        // An error here is the peer's affair: it went away or sent no HTTP.
        _ = connection.as_mut() => return,
        () = deadline.passed() => return,
        () = stopped(&mut shutdown) => {}
    }
    connection.as_mut().graceful_shutdown();
    // The deadline no longer counts: a request that arrives at this moment would move it.
    let _ = tokio::time::timeout(limits.stop, connection).await;
}

/// Waits until the server shall stop; at once if nobody is left who could say so.
async fn stopped(shutdown: &mut watch::Receiver<bool>) {
    let _ = shutdown.wait_for(|is_stopping| *is_stopping).await;
}

/// Forgets ended connections and, if all places are taken, closes the one whose deadline is next.
fn make_room(connections: &mut Vec<Connection>, connections_max: usize) {
    connections.retain(|connection| !connection.abort.is_finished());
    if connections.len() < connections_max {
        return;
    }
    let quietest = (0..connections.len()).min_by_key(|index| connections[*index].deadline.at());
    if let Some(index) = quietest {
        connections.swap_remove(index).abort.abort();
    }
}

/// Logs a failed accept and waits a little, or less if the server stops.
async fn pause_after(error: &io::Error, pause: Duration, shutdown: &mut watch::Receiver<bool>) {
    tracing::warn!(%error, "the admin port cannot accept a connection; trying again");
    tokio::select! {
        () = tokio::time::sleep(pause) => {}
        () = stopped(shutdown) => {}
    }
}

/// A panic while answering ends one connection only, and must be seen.
fn note_end(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "an admin request panicked; its connection was closed");
    }
}

/// What [`serve`] uses.
const LIMITS: Limits = Limits {
    connections_max: 64,
    header_bytes_max: 8 * 1024,
    first_request: Duration::from_secs(10),
    next_request: Duration::from_secs(30),
    stop: Duration::from_secs(1),
    accept_retry: Duration::from_millis(200),
};

// === impl Deadline ===

impl Deadline {
    /// Starts now.
    fn after(patience: Duration) -> Self {
        Self(Mutex::new(clock::now() + patience))
    }

    /// When it passes unless it is moved. The lock is never held across an await.
    fn at(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts again with `patience`.
    fn extend(&self, patience: Duration) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = clock::now() + patience;
    }

    /// Waits until the deadline has passed, however often it is moved meanwhile.
    async fn passed(&self) {
        loop {
            let at = self.at();
            if at <= clock::now() {
                return;
            }
            tokio::time::sleep_until(at.into()).await;
        }
    }
}

#[cfg(test)]
mod tests;
