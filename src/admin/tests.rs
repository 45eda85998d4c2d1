//! Tests of the admin server over real sockets: keep-alive, limits, eviction and the stop.
//!
//! Each test runs a server of its own on a free port. Waiting has a generous deadline, so nothing
//! here depends on how fast the machine is.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use super::*;
use crate::stats::WorkerStats;
use crate::stats::export::Source;
use crate::stats::labels::Outcome;
use crate::stats::recorder::Registries;
use crate::topology::Topology;
use arc_swap::ArcSwap;

/// What a test waits for at most.
const PATIENCE: Duration = Duration::from_secs(30);

/// Limits under which nothing expires during a test.
const LONG: Limits = Limits { first_request: PATIENCE, next_request: PATIENCE, ..LIMITS };

impl AdminState {
    /// A state with one worker and one command.
    pub(super) fn for_tests() -> Self {
        Self::of(&["default"])
    }

    /// A state with these upstreams.
    pub(super) fn of(names: &[&str]) -> Self {
        let registries = Registries::default();
        let sources: Vec<Source> = names
            .iter()
            .map(|name| Source::for_tests(name, vec![Arc::new(WorkerStats::new(1))], &registries))
            .collect();
        let behind = |source: &Source| Behind {
            name: source.name.clone(),
            recorder: Arc::clone(&source.recorder),
            readiness: Arc::new(Readiness::new()),
            topology: Arc::new(ArcSwap::from_pointee(Topology::for_tests("redis-cluster://s:1"))),
            orders: Orders::new(false).0,
            governor: Arc::default(),
            findings: Arc::default(),
            slowlog: Arc::default(),
        };
        Self {
            behind: sources.iter().map(behind).collect(),
            exporter: Exporter::new(registries, sources, Default::default(), |_| "get"),
            listeners: Vec::new(),
            policy: Default::default(),
            ledger: Arc::default(),
            policy_orders: Orders::new(false).0,
        }
    }
}

/// A running server; dropping it without `stop` leaves its thread to the end of the test process.
struct Server {
    address: SocketAddr,
    state: Arc<AdminState>,
    shutdown: watch::Sender<bool>,
    thread: JoinHandle<()>,
}

// === impl Server ===

impl Server {
    /// Starts a server on a thread with a current-thread runtime, as the control plane does.
    fn start(limits: Limits) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(AdminState::for_tests());
        let (shutdown, receiver) = watch::channel(false);
        let served = Arc::clone(&state);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async move {
                let listener = TcpListener::from_std(listener).unwrap();
                // Spawned, because the caller will want to: the future must be Send.
                tokio::spawn(serve_within(limits, listener, served, receiver)).await.unwrap();
            });
        });
        Self { address, state, shutdown, thread }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Sends `request` on a connection of its own and reads to the end.
    fn ask(&self, request: &str) -> String {
        let mut stream = self.connect();
        stream.write_all(request.as_bytes()).unwrap();
        read_to_end(&mut stream)
    }

    fn stop(self) {
        self.shutdown.send(true).unwrap();
        join(self.thread);
    }
}

/// Joins a server's thread, which must end within our patience.
fn join(thread: JoinHandle<()>) {
    let deadline = clock::now() + PATIENCE;
    while !thread.is_finished() {
        assert!(clock::now() < deadline, "the server does not stop");
        std::thread::yield_now();
    }
    thread.join().unwrap();
}

/// Everything until the server closes. A reset counts as a close: it is what a server sends that
/// closes before it has read everything.
fn read_to_end(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
        Err(error) => panic!("the server did not close: {error}"),
    }
    String::from_utf8(bytes).unwrap()
}

/// Sends a request and reads one answer of known length, leaving the connection open.
fn keep_asking(stream: &mut TcpStream, path: &str) -> String {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
    let head = String::from_utf8(answer).unwrap();
    let mut body = vec![0; content_length(&head)];
    stream.read_exact(&mut body).unwrap();
    head + &String::from_utf8(body).unwrap()
}

fn content_length(head: &str) -> usize {
    let lines = head.lines();
    let length = lines.filter_map(|line| line.split_once(": "));
    let mut length = length.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    length.next().unwrap().1.parse().unwrap()
}

#[test]
fn a_scrape_over_the_wire_shows_the_counters() {
    let server = Server::start(LONG);
    server.state.behind[0].readiness.set_upstream(Ok(()));
    let answer = server.ask("GET /metrics?x=1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
    assert!(head.to_lowercase().contains("content-type: text/plain; version=0.0.4"), "{head}");
    assert!(body.lines().any(|line| line == "breakwater_upstream_up 1"));
    assert_eq!(content_length(head), body.len());
    server.stop();
}

#[test]
fn one_connection_serves_many_requests() {
    let server = Server::start(LONG);
    let mut stream = server.connect();
    assert!(keep_asking(&mut stream, "/healthz").ends_with("\r\n\r\nok\n"));
    assert!(keep_asking(&mut stream, "/readyz").starts_with("HTTP/1.1 503"));
    server.state.behind[0].readiness.set_upstream(Ok(()));
    assert!(keep_asking(&mut stream, "/readyz").ends_with("\r\n\r\nready\n"));
    assert!(keep_asking(&mut stream, "/nothing").starts_with("HTTP/1.1 404"));
    assert!(keep_asking(&mut stream, "/healthz").starts_with("HTTP/1.1 200"));
    server.stop();
}

#[test]
fn head_has_the_length_of_get_and_no_body() {
    let server = Server::start(LONG);
    let request = "HEAD / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let answer = server.ask(request);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert_eq!(body, "");
    let get = server.ask(&request.replace("HEAD", "GET"));
    assert_eq!(content_length(head), get.split_once("\r\n\r\n").unwrap().1.len());
    server.stop();
}

#[test]
fn a_body_is_refused_without_being_read() {
    let server = Server::start(LONG);
    let answer = server.ask("POST /metrics HTTP/1.1\r\nContent-Length: 1000000000\r\n\r\nabc");
    assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
    assert!(answer.contains("GET, HEAD"), "{answer}");
    server.stop();
}

#[test]
fn headers_beyond_the_bound_are_refused() {
    let server = Server::start(LONG);
    let long = "x".repeat(LONG.header_bytes_max);
    let answer = server.ask(&format!("GET / HTTP/1.1\r\nX-Long: {long}\r\n\r\n"));
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    let many: String = (0..500).map(|n| format!("h{n}: v\r\n")).collect();
    let answer = server.ask(&format!("GET / HTTP/1.1\r\n{many}\r\n"));
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    server.stop();
}

#[test]
fn bytes_that_are_no_http_close_only_their_connection() {
    let server = Server::start(LONG);
    let mut healthy = server.connect();
    keep_asking(&mut healthy, "/healthz");
    for nonsense in
        ["*1\r\n$4\r\nPING\r\n", "\0\u{7f}\r\n\r\n", "GET\r\n\r\n", "PRI * HTTP/2.0\r\n\r\n"]
    {
        let answer = server.ask(nonsense);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{nonsense:?}: {answer}");
    }
    assert!(keep_asking(&mut healthy, "/healthz").starts_with("HTTP/1.1 200"));
    server.stop();
}

#[test]
fn a_connection_that_never_asks_is_closed() {
    let server = Server::start(Limits { first_request: Duration::from_millis(20), ..LONG });
    assert_eq!(read_to_end(&mut server.connect()), "");
    // Half a request is no better than none.
    assert_eq!(server.ask("GET /healthz HTTP/1.1\r\nHost:"), "");
    server.stop();
}

#[test]
fn an_idle_connection_is_closed_after_its_answer() {
    let server = Server::start(Limits { next_request: Duration::from_millis(20), ..LONG });
    let mut stream = server.connect();
    let answer = keep_asking(&mut stream, "/healthz");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(read_to_end(&mut stream), "");
    server.stop();
}

/// Pipelines requests and reads no answer until the kernel takes no more, then waits for at most
/// `patience` and answers how the last write failed.
fn ask_without_reading(mut stream: TcpStream, patience: Duration) -> (io::ErrorKind, TcpStream) {
    stream.set_write_timeout(Some(patience)).unwrap();
    let requests = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(100);
    let failure = (0..100_000).find_map(|_| stream.write_all(requests.as_bytes()).err());
    (failure.expect("the server kept reading").kind(), stream)
}

#[test]
fn a_stop_does_not_wait_for_a_peer_that_does_not_read() {
    let server = Server::start(Limits { stop: Duration::from_millis(20), ..LONG });
    let (kind, _stream) = ask_without_reading(server.connect(), Duration::from_millis(200));
    assert_eq!(kind, io::ErrorKind::WouldBlock);
    server.stop();
}

#[test]
fn a_peer_that_does_not_take_its_answers_is_closed() {
    let server = Server::start(Limits { next_request: Duration::from_millis(200), ..LONG });
    let kind = ask_without_reading(server.connect(), PATIENCE).0;
    assert!(
        matches!(kind, io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe),
        "the server did not close: {kind}"
    );
    server.stop();
}

#[test]
fn when_all_places_are_taken_the_quietest_makes_room() {
    let server = Server::start(Limits { connections_max: 3, ..LONG });
    let mut regular = server.connect();
    let mut quiet = [server.connect(), server.connect()];
    for stream in &mut quiet {
        keep_asking(stream, "/healthz");
    }
    let mut probes = Vec::new();
    for _ in 0..5 {
        // Asks between any two newcomers, so it is never the quietest.
        assert!(keep_asking(&mut regular, "/healthz").starts_with("HTTP/1.1 200"));
        let mut probe = server.connect();
        assert!(keep_asking(&mut probe, "/healthz").starts_with("HTTP/1.1 200"));
        probes.push(probe);
    }
    // Three places: the regular one and the two newest probes.
    for stream in quiet.iter_mut().chain(&mut probes[..3]) {
        assert_eq!(read_to_end(stream), "");
    }
    keep_asking(&mut probes[3], "/healthz");
    keep_asking(&mut probes[4], "/healthz");
    server.stop();
}

#[test]
fn a_stop_closes_idle_connections_and_returns() {
    let server = Server::start(LONG);
    let (mut idle, mut silent) = (server.connect(), server.connect());
    keep_asking(&mut idle, "/healthz");
    server.stop();
    assert_eq!(read_to_end(&mut idle), "");
    assert_eq!(read_to_end(&mut silent), "");
}

#[test]
fn a_server_whose_control_plane_is_gone_stops() {
    let Server { shutdown, thread, .. } = Server::start(LONG);
    drop(shutdown);
    join(thread);
}

#[test]
fn scrapes_may_run_while_the_worker_counts() {
    let server = Server::start(LONG);
    let worker = Arc::new(WorkerStats::new(1));
    let exporter = Exporter::of_one(vec![Arc::clone(&worker)], |_| "get");
    let writer = std::thread::spawn(move || {
        (0..50_000).for_each(|_| worker.command(0, Outcome::Ok).increment());
    });
    while !writer.is_finished() {
        exporter.render();
        server.ask("GET /metrics HTTP/1.0\r\n\r\n");
    }
    writer.join().unwrap();
    let total = "breakwater_commands_total{command=\"get\",outcome=\"ok\"} 50000";
    assert!(exporter.render().lines().any(|line| line == total));
    server.stop();
}
