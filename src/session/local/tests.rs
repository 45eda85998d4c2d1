//! Answers of class local, on a worker without sockets, compared with what redis-server 7.0.15
//! sent.
//!
//! Owns a rig that feeds a session the bytes of a client and shows what it is owed. Never dials,
//! but for the tests of `passthrough`, whose node is a thread that answers AUTH.
//!
//! What surprises: the tables below are recordings. If one fails, ask a real server before changing
//! it.

#[cfg(test)]
mod cluster;

use std::cell::RefCell;
use std::io::{IoSlice, Read, Write};
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use ring::digest;
use tokio::sync::{Semaphore, mpsc};

use crate::buffer::SLICES;
use crate::cli::RunFlags;
use crate::config::{
    Auth, MemorySettings, PubsubSettings, Settings, UpstreamSettings, UserSettings,
};
use crate::net::WriteHalf;
use crate::resp::limits::Limits;
use crate::resp::write::{self, Protocol};
use crate::session::admission::Bounds;
use crate::session::feed;
use crate::session::gate::Gate;
use crate::session::registry::{Client, Home};
use crate::session::state::{Closing, Session, SessionId};
use crate::stats::WorkerStats;
use crate::stats::labels::{ClosedReason, Outcome};
use crate::topology::Topology;
use crate::topology::facts::{Facts, Modules};
use crate::topology::slots::NodeId;
use crate::upstream::dial::Node;
use crate::upstream::identity::{IDENTITIES_MAX, Presented};
use crate::upstream::lane::LaneId;
use crate::upstream::verify::verify;
use crate::worker::{Message, Shared, SharedWorker, Worker, WorkerHandle};

const OK: &str = "+OK\r\n";
const WRONGPASS: &str = "-WRONGPASS invalid username-password pair or user is disabled.\r\n";
const NOAUTH: &str = "-NOAUTH Authentication required.\r\n";
const SYNTAX: &str = "-ERR syntax error\r\n";
const NOT_INTEGER: &str = "-ERR value is not an integer or out of range\r\n";

/// One worker with one listener, and the other end of its inbox.
struct Rig {
    worker: Worker,
    gate: Rc<Gate>,
    handle: WorkerHandle,
    messages: mpsc::Receiver<Message>,
}

impl Rig {
    /// A rig in front of a Redis 7.0.15 that `port` of this machine stands for.
    fn new(auth: Auth, port: u16) -> Rig {
        Rig::before(&format!("redis://127.0.0.1:{port}"), auth, |_| {})
    }

    /// A rig in front of what the URL names, with other settings than the defaults.
    fn before(url: &str, auth: Auth, change: impl FnOnce(&mut UpstreamSettings)) -> Rig {
        let upstream = Some(url.to_owned());
        let settings = Settings::load(&RunFlags { upstream, ..RunFlags::default() }).unwrap();
        let mut settings = settings.upstream;
        change(&mut settings);
        let name = "node:1".into();
        let node = Node { name, ..Node::new(NodeId::default(), settings, None) };
        let mut topology = Topology::unknown(1, Arc::new(node));
        let wants_auth = auth == Auth::Passthrough;
        let version = "7.0.15".into();
        topology.facts = Some(Arc::new(Facts { wants_auth, version, ..Facts::default() }));
        let memory = MemorySettings::default();
        let published = Arc::new(ArcSwap::from_pointee(topology));
        let shared = Arc::new(Shared::new(published, memory));
        let gate = Gate {
            name: String::new(),
            auth,
            limits: Limits::default(),
            bounds: Bounds { reply_bytes: 64 * 1024, commands: 1024 },
            idle_timeout: None,
            pubsub: PubsubSettings::default(),
            wait_max: std::time::Duration::from_millis(400),
            stall: memory.client_stall,
            announced: None,
            is_tls: false,
        };
        let (inbox, messages) = mpsc::channel(4);
        let handle = WorkerHandle { inbox, load: Arc::default() };
        let worker = Worker::new(shared, Arc::new(WorkerStats::new(1000)));
        Rig { worker, gate: Rc::new(gate), handle, messages }
    }

    fn open() -> Rig {
        Rig::new(Auth::Upstream, 1)
    }

    fn connect(&mut self) -> SessionId {
        self.connect_from("127.0.0.1:5000")
    }

    fn connect_from(&mut self, address: &str) -> SessionId {
        self.connect_between(address, "127.0.0.1:6379")
    }

    /// A client at `address` that has dialled `own`.
    fn connect_between(&mut self, address: &str, own: &str) -> SessionId {
        let worker = &mut self.worker;
        let topology = worker.begin_batch();
        let wants_auth = topology.facts.as_ref().unwrap().wants_auth;
        let (shared, gate, now) = (&worker.shared, &self.gate, worker.now);
        worker.sessions.insert(|id| {
            let home = Home { worker: self.handle.clone(), session: id };
            let number = shared.registry.next_id();
            let client = Client::new(number, address.into(), own.into(), 9, now, home);
            let client = Arc::new(client);
            shared.registry.insert(&client);
            let identity = gate.stranger(wants_auth);
            Session::new(id, client, Rc::clone(gate), identity, WriteHalf::Detached, now)
        })
    }

    /// What the client gets for these commands, sent at once.
    fn say<A: AsRef<[u8]>>(&mut self, id: SessionId, commands: &[&[A]]) -> Vec<u8> {
        let mut input = Vec::new();
        for command in commands {
            let arguments: Vec<&[u8]> = command.iter().map(AsRef::as_ref).collect();
            write::command(&mut input, &arguments);
        }
        let topology = self.worker.begin_batch();
        let mut session = self.worker.sessions.lend(id).unwrap();
        feed::fresh(&mut self.worker, &topology, &mut session, &input);
        self.worker.sessions.restore(id, session);
        owed(&mut self.worker, id)
    }

    /// As [`Rig::say`], with the words of lines as commands and the answer as text.
    fn lines(&mut self, id: SessionId, lines: &[&str]) -> String {
        let words: Vec<Vec<&str>> = lines.iter().map(|it| it.split(' ').collect()).collect();
        let commands: Vec<&[&str]> = words.iter().map(Vec::as_slice).collect();
        String::from_utf8(self.say(id, &commands)).unwrap()
    }

    #[track_caller]
    fn check(&mut self, id: SessionId, table: &[(&str, &str)]) {
        for (line, want) in table {
            assert_eq!(self.lines(id, &[line]), *want, "{line}");
        }
    }

    fn session(&mut self, id: SessionId) -> &mut Session {
        self.worker.sessions.get_mut(id).unwrap()
    }
}

/// Takes the bytes that a client is owed.
fn owed(worker: &mut Worker, id: SessionId) -> Vec<u8> {
    let session = worker.sessions.get_mut(id).unwrap();
    let mut bytes = Vec::new();
    while session.out.unsent() > 0 {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let filled = session.out.unsent_slices(&mut slices);
        let before = bytes.len();
        slices[..filled].iter().for_each(|slice| bytes.extend_from_slice(slice));
        let count = bytes.len() - before;
        session.out.advance(count);
    }
    let sent = session.out.sent();
    session.out.release(&mut worker.pool, sent);
    bytes
}

fn user(name: &str, password: &str) -> UserSettings {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, password.as_bytes()).as_ref());
    UserSettings { name: name.into(), password_sha256: vec![hash], nopass: false }
}

fn users() -> Auth {
    Auth::Users(vec![user("default", "sesame"), user("ann", "a")])
}

fn welcome(protocol: u8, id: u64) -> String {
    let head = if protocol == 2 { "*14" } else { "%7" };
    format!(
        "{head}\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$6\r\n7.0.15\r\n$5\r\nproto\r\n:{protocol}\r\n\
         $2\r\nid\r\n:{id}\r\n$4\r\nmode\r\n$10\r\nstandalone\r\n$4\r\nrole\r\n$6\r\nmaster\r\n$7\r\nmodules\r\n*0\r\n"
    )
}

const NOAUTH_HELLO: &str = "-NOAUTH HELLO must be called with the client already authenticated, \
otherwise the HELLO AUTH <user> <pass> option can be used to authenticate the client and select \
the RESP protocol version at the same time\r\n";

// --- ECHO, SELECT, QUIT, RESET ---

#[test]
fn select_takes_what_redis_takes_and_says_what_redis_says() {
    let mut rig = Rig::open();
    let id = rig.connect();
    let range = "-ERR value is out of range, value must between -2147483648 and 2147483647\r\n";
    let no_such = "-ERR DB index is out of range\r\n";
    let table = [
        ("SELECT 0", OK),
        ("SELECT 15", OK),
        ("SELECT 16", no_such),
        ("SELECT -1", no_such),
        ("SELECT 2147483647", no_such),
        ("SELECT -2147483648", no_such),
        ("SELECT 2147483648", range),
        ("SELECT -2147483649", range),
        ("SELECT 9223372036854775807", range),
        ("SELECT 9223372036854775808", NOT_INTEGER),
        ("SELECT abc", NOT_INTEGER),
        ("SELECT +1", NOT_INTEGER),
        ("SELECT 01", NOT_INTEGER),
        ("SELECT 1.0", NOT_INTEGER),
        ("SELECT ", NOT_INTEGER),
    ];
    rig.check(id, &table);
    assert_eq!(rig.session(id).db, 15);
    assert_eq!(rig.session(id).client.db.load(std::sync::atomic::Ordering::Relaxed), 15);
}

/// A lane that only its number is known of.
fn some_lane() -> LaneId {
    let mut lanes = crate::arena::Arena::<crate::upstream::lane::Lane>::default();
    let key = crate::upstream::lane::LaneKey {
        epoch: 1,
        identity: crate::upstream::identity::Identity::UPSTREAM,
        node: NodeId::default(),
        protocol: Protocol::Resp2,
        db: 0,
        is_bulk: false,
        is_readonly: false,
    };
    let settings = Settings::load(&RunFlags {
        upstream: Some("redis://127.0.0.1:1".into()),
        ..RunFlags::default()
    });
    let node = Node::new(NodeId::default(), settings.unwrap().upstream, None);
    lanes.insert(|id| crate::upstream::lane::Lane::new(id, key, Arc::new(node), 0))
}

#[test]
fn lanes_are_forgotten_exactly_when_they_no_longer_fit() {
    let mut rig = Rig::new(users(), 1);
    let id = rig.connect();
    rig.lines(id, &["AUTH sesame"]);
    let lane = Some(some_lane());
    for (line, is_kept) in [
        ("SELECT 0", true),
        ("SELECT 1", false),
        ("SELECT 99", true),
        ("HELLO 2", true),
        ("HELLO", true),
        ("HELLO 3 SETNAME a AUTH ann a FOO", true),
        ("HELLO 3", false),
        ("AUTH wrong", true),
        ("AUTH ann a", true),
        ("RESET", false),
    ] {
        rig.session(id).fitting = [lane, lane];
        rig.lines(id, &[line]);
        let want = if is_kept { [lane; 2] } else { [None; 2] };
        assert_eq!(rig.session(id).fitting, want, "{line}");
    }
}

#[test]
fn echo_and_the_cluster_s_commands_answer_as_a_standalone_redis() {
    let mut rig = Rig::open();
    let id = rig.connect();
    assert_eq!(rig.say(id, &[&["ECHO", "hi"], &["echo", ""]]), b"$2\r\nhi\r\n$0\r\n\r\n");
    assert_eq!(rig.say(id, &[&[&b"ECHO"[..], b"a\0\r\n\xff"]]), b"$5\r\na\0\r\n\xff\r\n");
    let none = "-ERR This instance has cluster support disabled\r\n";
    rig.check(id, &[("ASKING", none), ("READONLY", none), ("READWRITE", none)]);
}

#[test]
fn quit_is_answered_and_nothing_behind_it_is() {
    let mut rig = Rig::open();
    let id = rig.connect();
    assert_eq!(rig.lines(id, &["ECHO a", "QUIT x y", "ECHO b"]), "$1\r\na\r\n+OK\r\n");
    assert_eq!(rig.session(id).is_over(), Some(ClosedReason::ClientClosed));
    let muted = rig.connect();
    assert_eq!(rig.lines(muted, &["CLIENT REPLY OFF", "QUIT"]), "");
    assert_eq!(rig.session(muted).is_over(), Some(ClosedReason::ClientClosed));
}

#[test]
fn reset_brings_back_the_beginning() {
    let mut rig = Rig::new(users(), 1);
    let id = rig.connect();
    rig.lines(id, &["AUTH ann a", "HELLO 3 SETNAME me", "SELECT 3", "CLIENT NO-EVICT on"]);
    assert_eq!((rig.session(id).protocol, rig.session(id).db), (Protocol::Resp3, 3));
    assert_eq!(rig.lines(id, &["RESET", "ECHO a"]), format!("+RESET\r\n{NOAUTH}"));
    let session = rig.session(id);
    assert_eq!((session.protocol, session.db, session.identity), (Protocol::Resp2, 0, None));
    rig.lines(id, &["AUTH sesame"]);
    let own = rig.lines(id, &["CLIENT INFO"]);
    // Redis keeps NO-EVICT over a RESET.
    assert!(own.contains(" name= ") && own.contains(" flags=e db=0 "), "{own}");
    assert!(own.contains(" user=default ") && own.contains(" resp=2"), "{own}");
}

// --- HELLO ---

#[test]
fn hello_answers_in_the_version_that_it_asks_for() {
    let mut rig = Rig::open();
    let id = rig.connect();
    let (two, three) = (welcome(2, 1), welcome(3, 1));
    let wrong = "-ERR Protocol version is not an integer or out of range\r\n";
    let unsupported = "-NOPROTO unsupported protocol version\r\n";
    let table = [
        ("HELLO", &*two),
        ("HELLO 2", &two),
        ("HELLO 3", &three),
        ("HELLO", &three),
        ("CLIENT GETNAME", "_\r\n"),
        ("HELLO x", wrong),
        ("HELLO 02", wrong),
        ("HELLO 9223372036854775808", wrong),
        ("HELLO AUTH a b", wrong),
        ("HELLO 1", unsupported),
        ("HELLO 4 FOO", unsupported),
        ("HELLO", &three),
        ("HELLO 2", &two),
        ("CLIENT GETNAME", "$-1\r\n"),
    ];
    rig.check(id, &table);
}

#[test]
fn hello_s_options_take_effect_in_their_order_even_before_a_mistake() {
    let mut rig = Rig::open();
    let id = rig.connect();
    let bad_name = "-ERR Client names cannot contain spaces, newlines or special characters.\r\n";
    let table = [
        ("HELLO 3 AUTH", "-ERR Syntax error in HELLO option 'AUTH'\r\n"),
        ("HELLO 3 auth a", "-ERR Syntax error in HELLO option 'auth'\r\n"),
        ("HELLO 3 SETNAME", "-ERR Syntax error in HELLO option 'SETNAME'\r\n"),
        ("HELLO 3 FOO", "-ERR Syntax error in HELLO option 'FOO'\r\n"),
        ("HELLO 3 SETNAME good AUTH bob bad", WRONGPASS),
        ("CLIENT GETNAME", "$4\r\ngood\r\n"),
        ("HELLO 3 SETNAME ok FOO", "-ERR Syntax error in HELLO option 'FOO'\r\n"),
        ("CLIENT GETNAME", "$2\r\nok\r\n"),
        ("HELLO 3 SETNAME a SETNAME b AUTH default x AUTH bob x", WRONGPASS),
        ("CLIENT GETNAME", "$1\r\nb\r\n"),
        ("HELLO 3 SETNAME a SETNAME \u{7f}", bad_name),
        ("CLIENT GETNAME", "$1\r\na\r\n"),
        ("HELLO 3 AUTH bob x AUTH default whatever", WRONGPASS),
    ];
    rig.check(id, &table);
    assert_eq!(rig.session(id).protocol, Protocol::Resp2, "a failed HELLO switched");
    assert_eq!(rig.lines(id, &["hello 2 auth default  setname q"]), welcome(2, 1));
    let odd = rig.say(id, &[&[&b"HELLO"[..], b"3", b"FO\r\nO\0X", b"1"]]);
    assert_eq!(odd, b"-ERR Syntax error in HELLO option 'FO  O'\r\n");
}

#[test]
fn a_stranger_s_hello_needs_auth_but_its_mistakes_come_first() {
    let mut rig = Rig::new(users(), 1);
    let id = rig.connect();
    let table = [
        ("HELLO", NOAUTH_HELLO),
        ("HELLO 3", NOAUTH_HELLO),
        ("HELLO x", "-ERR Protocol version is not an integer or out of range\r\n"),
        ("HELLO 9", "-NOPROTO unsupported protocol version\r\n"),
        ("HELLO 3 FOO", "-ERR Syntax error in HELLO option 'FOO'\r\n"),
        ("HELLO 3 SETNAME n1", NOAUTH_HELLO),
        ("HELLO 3 AUTH default bad", WRONGPASS),
        ("CLIENT ID", NOAUTH),
    ];
    rig.check(id, &table);
    // The AUTH counts although the HELLO fails, and so does the name from before.
    let table = [
        ("HELLO 3 AUTH default sesame FOO", "-ERR Syntax error in HELLO option 'FOO'\r\n"),
        ("CLIENT GETNAME", "$2\r\nn1\r\n"),
    ];
    rig.check(id, &table);
    assert_eq!(rig.lines(id, &["HELLO 3 AUTH ann a"]), welcome(3, 1));
}

#[test]
fn hello_shows_the_node_s_version_and_modules_in_both_spellings() {
    let mut rig = Rig::open();
    let id = rig.connect();
    let mut topology = Topology::unknown(1, Arc::clone(&rig.worker.begin_batch().node));
    topology.facts = Some(Arc::new(Facts {
        server: "valkey".into(),
        version: "8.0.1".into(),
        modules: Modules {
            resp2: Bytes::from_static(b"*1\r\n*2\r\n"),
            resp3: Bytes::from_static(b"*1\r\n%1\r\n"),
        },
        ..Facts::default()
    }));
    rig.worker.shared.topology.store(Arc::new(topology));
    let two = rig.lines(id, &["HELLO 2"]);
    assert!(two.contains("$6\r\nvalkey\r\n$7\r\nversion\r\n$5\r\n8.0.1\r\n"), "{two}");
    assert!(two.ends_with("$7\r\nmodules\r\n*1\r\n*2\r\n"), "{two}");
    assert!(rig.lines(id, &["HELLO 3"]).ends_with("$7\r\nmodules\r\n*1\r\n%1\r\n"));
}

// --- AUTH ---

#[test]
fn without_users_auth_answers_as_a_redis_without_a_password() {
    let mut rig = Rig::open();
    let id = rig.connect();
    let none = "-ERR AUTH <password> called without any password configured for the default user. \
                Are you sure your configuration is correct?\r\n";
    let table = [
        ("AUTH x", none),
        ("AUTH ", none),
        ("AUTH default anything", OK),
        ("AUTH default ", OK),
        ("AUTH bob x", WRONGPASS),
        ("AUTH DEFAULT x", WRONGPASS),
        ("AUTH  ", WRONGPASS),
        ("AUTH a b c", SYNTAX),
        ("ECHO a", "$1\r\na\r\n"),
    ];
    rig.check(id, &table);
}

#[test]
fn a_listener_s_users_are_let_in_and_a_later_mistake_changes_nothing() {
    let mut rig = Rig::new(users(), 1);
    let id = rig.connect();
    let table = [
        ("ECHO a", NOAUTH),
        ("AUTH x", WRONGPASS),
        ("AUTH default x", WRONGPASS),
        ("AUTH bob sesame", WRONGPASS),
        ("AUTH ann sesame", WRONGPASS),
        ("AUTH a b c", SYNTAX),
        ("AUTH sesame", OK),
        ("ECHO a", "$1\r\na\r\n"),
        ("AUTH bad", WRONGPASS),
        ("ECHO a", "$1\r\na\r\n"),
        ("AUTH ann a", OK),
        ("AUTH default sesame", OK),
    ];
    rig.check(id, &table);
}

#[test]
fn only_a_listed_default_user_without_password_makes_auth_pointless() {
    let open = UserSettings { name: "default".into(), password_sha256: vec![], nopass: true };
    let mut rig = Rig::new(Auth::Users(vec![open, user("ann", "a")]), 1);
    let id = rig.connect();
    assert!(rig.lines(id, &["AUTH x"]).starts_with("-ERR AUTH <password> called without any"));
    rig.check(id, &[("AUTH default x", OK), ("AUTH ann x", WRONGPASS), ("AUTH ann a", OK)]);
    let mut rig = Rig::new(Auth::Users(vec![user("ann", "a")]), 1);
    let id = rig.connect();
    rig.check(id, &[("AUTH a", WRONGPASS), ("AUTH default a", WRONGPASS), ("ECHO a", NOAUTH)]);
}

// --- AUTH that the node judges ---

/// A node that answers each AUTH with one of `answers`, a connection each, and tells what it was
/// asked.
fn node(answers: &'static [&'static str]) -> (u16, std::thread::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let thread = std::thread::spawn(move || {
        let serve = |answer: &&str| {
            let (mut socket, _) = listener.accept().unwrap();
            let mut asked = Vec::new();
            while !asked.ends_with(b"NO-EVICT\r\n$2\r\non\r\n") {
                let mut piece = [0; 1024];
                let count = socket.read(&mut piece).unwrap();
                asked.extend_from_slice(&piece[..count]);
            }
            socket.write_all(format!("{answer}\r\n+OK\r\n-ERR x\r\n").as_bytes()).unwrap();
            String::from_utf8(asked).unwrap()
        };
        answers.iter().map(serve).collect()
    });
    (port, thread)
}

/// Runs the tasks that the rig's worker asks for, until there is none left.
fn run_tasks(rig: Rig) -> Rig {
    let Rig { worker, gate, handle, messages } = rig;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let worker: SharedWorker = Rc::new(RefCell::new(worker));
    let dialling = Rc::new(Semaphore::new(1));
    loop {
        let requests = std::mem::take(&mut worker.borrow_mut().to_verify);
        if requests.is_empty() {
            break;
        }
        for request in requests {
            runtime.block_on(verify(Rc::clone(&worker), request, Rc::clone(&dialling)));
        }
    }
    let worker = Rc::into_inner(worker).unwrap().into_inner();
    Rig { worker, gate, handle, messages }
}

#[test]
fn the_node_s_word_lets_a_client_in_and_others_after_it_without_asking_again() {
    let (port, thread) = node(&["+OK"]);
    let mut rig = Rig::new(Auth::Passthrough, port);
    let (first, second) = (rig.connect(), rig.connect());
    assert_eq!(rig.lines(first, &["AUTH ann a", "ECHO a"]), "");
    assert_eq!(rig.lines(second, &["AUTH ann a"]), "");
    assert!(rig.session(first).suspended && !rig.session(first).admits());
    let mut rig = run_tasks(rig);
    for id in [first, second] {
        assert_eq!(owed(&mut rig.worker, id), b"+OK\r\n");
        let session = rig.session(id);
        assert!(!session.suspended && session.identity.is_some());
        assert_eq!(session.client.labels().user, b"ann");
    }
    let third = rig.connect();
    // Believed for a minute, in whatever command it comes.
    assert_eq!(rig.lines(third, &["HELLO 3 AUTH ann a"]), welcome(3, 3));
    let asked = thread.join().unwrap();
    assert_eq!(asked.len(), 1);
    assert!(asked[0].starts_with("*3\r\n$4\r\nAUTH\r\n$3\r\nann\r\n$1\r\na\r\n"), "{}", asked[0]);
}

#[test]
fn the_node_s_own_words_reach_the_client_whose_password_is_wrong() {
    let words = "-WRONGPASS says the node";
    let (port, thread) = node(&["-WRONGPASS says the node", "-ERR invalid password"]);
    let mut rig = Rig::new(Auth::Passthrough, port);
    let id = rig.connect();
    rig.lines(id, &["HELLO 3 SETNAME n AUTH ann x", "ECHO a"]);
    let mut rig = run_tasks(rig);
    assert_eq!(owed(&mut rig.worker, id), format!("{words}\r\n").as_bytes());
    assert_eq!(rig.session(id).protocol, Protocol::Resp2);
    assert_eq!(rig.lines(id, &["AUTH old"]), "");
    let mut rig = run_tasks(rig);
    assert_eq!(owed(&mut rig.worker, id), b"-ERR invalid password\r\n");
    // The node is well: the next question is asked and not refused.
    assert!(!rig.worker.topology.load().node.health.is_away());
    assert_eq!(rig.session(id).identity, None);
    thread.join().unwrap();
}

#[test]
fn a_hello_goes_on_behind_each_of_its_auths() {
    let (port, thread) = node(&["+OK", "+OK"]);
    let mut rig = Rig::new(Auth::Passthrough, port);
    let id = rig.connect();
    // Ten words: a stranger may send no more.
    rig.lines(id, &["HELLO 3 AUTH ann a AUTH bob b SETNAME two"]);
    assert!(rig.session(id).client.labels().name.is_empty());
    let mut rig = run_tasks(rig);
    assert_eq!(owed(&mut rig.worker, id), welcome(3, 1).as_bytes());
    let labels = rig.session(id).client.labels();
    assert_eq!((&*labels.name, &*labels.user), (&b"two"[..], &b"bob"[..]));
    assert_eq!(thread.join().unwrap().len(), 2);
}

#[test]
fn a_muted_auth_is_carried_out_in_silence() {
    let (port, thread) = node(&["+OK"]);
    let mut rig = Rig::new(Auth::Passthrough, port);
    let id = rig.connect();
    rig.session(id).reply_mode = crate::session::state::ReplyMode::SkipNext;
    rig.lines(id, &["AUTH ann a"]);
    let mut rig = run_tasks(rig);
    assert_eq!(owed(&mut rig.worker, id), b"");
    assert_eq!(rig.lines(id, &["ECHO a"]), "$1\r\na\r\n");
    thread.join().unwrap();
}

#[test]
fn a_node_that_cannot_be_asked_is_named_and_not_dialled_again_at_once() {
    // Nobody listens there any more.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut rig = Rig::new(Auth::Passthrough, port);
    let (first, second) = (rig.connect(), rig.connect());
    rig.lines(first, &["AUTH a"]);
    rig.lines(second, &["AUTH ann a"]);
    let mut rig = run_tasks(rig);
    for id in [first, second] {
        let line = String::from_utf8(owed(&mut rig.worker, id)).unwrap();
        let want = "-ERR breakwater: not executed: upstream node:1 is down (refused), next try in ";
        assert!(line.starts_with(want), "{line}");
        assert!(!rig.session(id).suspended);
    }
    assert_eq!(rig.worker.stats.dials_started.get(), 1);
}

#[test]
fn nobody_is_asked_for_a_client_that_has_gone_and_for_an_absurd_password() {
    let mut rig = Rig::new(Auth::Passthrough, 1);
    let id = rig.connect();
    rig.lines(id, &["AUTH a"]);
    let known = rig.connect();
    rig.session(known).identity = Some(crate::upstream::identity::Identity::UPSTREAM);
    // A stranger could not even send one of this length.
    let long = "x".repeat(65 * 1024);
    assert_eq!(rig.say(known, &[&["AUTH", &long]]), WRONGPASS.as_bytes());
    crate::session::remove(&mut rig.worker, id, ClosedReason::ClientClosed);
    let rig = run_tasks(rig);
    assert_eq!(rig.worker.stats.dials_started.get(), 0);
}

#[test]
fn one_user_too_many_is_told_so() {
    let (port, thread) = node(&["+OK"]);
    let mut rig = Rig::new(Auth::Passthrough, port);
    for number in 0..IDENTITIES_MAX {
        let presented = Presented { user: Some(vec![b'a'; number + 1]), password: b"x".to_vec() };
        rig.worker.shared.identities.confirm(&presented, 0).unwrap();
    }
    let id = rig.connect();
    rig.lines(id, &["AUTH one-more x"]);
    let mut rig = run_tasks(rig);
    let line = String::from_utf8(owed(&mut rig.worker, id)).unwrap();
    assert!(line.starts_with("-ERR breakwater: not authenticated: too many identities"), "{line}");
    assert_eq!(rig.session(id).identity, None);
    thread.join().unwrap();
}

// --- CLIENT ---

#[test]
fn names_follow_redis_s_rule() {
    let mut rig = Rig::open();
    let id = rig.connect();
    let bad = "-ERR Client names cannot contain spaces, newlines or special characters.\r\n";
    let cases: [(&[u8], &str); 8] = [
        (b"a", OK),
        (b"~!", OK),
        (b"a b", bad),
        (b"a\n", bad),
        (b"\x7f", bad),
        (b"a\0b", bad),
        (b"\xe9", bad),
        (
            &[b'x'; 4097],
            "-ERR breakwater: a client name may have at most 4096 bytes; use a shorter one\r\n",
        ),
    ];
    for (name, want) in cases {
        assert_eq!(
            rig.say(id, &[&[&b"CLIENT"[..], b"SETNAME", name]]),
            want.as_bytes(),
            "{name:?}"
        );
    }
    let table = [
        ("CLIENT ID", ":1\r\n"),
        ("CLIENT GETNAME", "$2\r\n~!\r\n"),
        ("CLIENT SETNAME ", OK),
        ("CLIENT GETNAME", "$-1\r\n"),
    ];
    rig.check(id, &table);
}

#[test]
fn libraries_introduce_themselves_where_the_table_knows_setinfo() {
    let mut rig = Rig::open();
    let id = rig.connect();
    let table = [
        ("CLIENT SETINFO lib-name jedis(x)", OK),
        ("CLIENT SETINFO LIB-VER 1.2", OK),
        ("CLIENT SETINFO LIB-COLOUR x", "-ERR Unrecognized option 'LIB-COLOUR'\r\n"),
        (
            "CLIENT SETINFO Lib-Ver \u{7f}",
            "-ERR Lib-Ver cannot contain spaces, newlines or special characters.\r\n",
        ),
    ];
    rig.check(id, &table);
    let own = rig.lines(id, &["CLIENT INFO"]);
    assert!(own.ends_with(" resp=2 lib-name=jedis(x) lib-ver=1.2\n\r\n"), "{own}");
}

#[test]
fn the_small_subcommands_answer_word_for_word() {
    let mut rig = Rig::open();
    let id = rig.connect();
    let reason = "-ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR\r\n";
    let off2 =
        "*6\r\n$5\r\nflags\r\n*1\r\n$3\r\noff\r\n$8\r\nredirect\r\n:-1\r\n$8\r\nprefixes\r\n*0\r\n";
    let off3 =
        "%3\r\n$5\r\nflags\r\n~1\r\n$3\r\noff\r\n$8\r\nredirect\r\n:-1\r\n$8\r\nprefixes\r\n*0\r\n";
    let table = [
        ("CLIENT NO-EVICT maybe", SYNTAX),
        ("CLIENT NO-EVICT on", OK),
        ("CLIENT NO-EVICT OFF", OK),
        ("CLIENT NO-TOUCH on", OK),
        ("CLIENT NO-TOUCH x", SYNTAX),
        ("CLIENT GETREDIR", ":-1\r\n"),
        ("CLIENT TRACKINGINFO", off2),
        ("CLIENT UNBLOCK 1", ":0\r\n"),
        ("CLIENT UNBLOCK -1 error", ":0\r\n"),
        ("CLIENT UNBLOCK 9223372036854775807 TIMEOUT", ":0\r\n"),
        ("CLIENT UNBLOCK 9223372036854775808", NOT_INTEGER),
        ("CLIENT UNBLOCK abc", NOT_INTEGER),
        ("CLIENT UNBLOCK abc foo", reason),
        (
            "CLIENT unBlock 1 error x",
            "-ERR unknown subcommand or wrong number of arguments for 'unBlock'. Try CLIENT HELP.\r\n",
        ),
        ("CLIENT HELP x", "-ERR wrong number of arguments for 'client|help' command\r\n"),
    ];
    rig.check(id, &table);
    rig.lines(id, &["HELLO 3"]);
    rig.check(id, &[("CLIENT TRACKINGINFO", off3)]);
    let help = rig.lines(id, &["CLIENT HELP"]);
    assert!(help.starts_with(
        "*48\r\n+CLIENT <subcommand> [<arg> [value] [opt] ...]. Subcommands are:\r\n+CACHING"
    ));
    assert!(help.ends_with("+HELP\r\n+    Prints this help.\r\n"));
    assert_eq!(help.matches("\r\n").count(), 49);
}

#[test]
fn reply_modes_mute_exactly_what_redis_mutes() {
    let table: [(&[&str], &str); 13] = [
        (&["CLIENT REPLY OFF", "ECHO a", "CLIENT REPLY ON", "ECHO a"], "+OK\r\n$1\r\na\r\n"),
        (&["CLIENT REPLY SKIP", "ECHO a", "ECHO b"], "$1\r\nb\r\n"),
        (&["CLIENT REPLY SKIP", "CLIENT REPLY SKIP", "ECHO a", "ECHO b"], "$1\r\nb\r\n"),
        (&["CLIENT REPLY SKIP", "CLIENT REPLY ON", "ECHO a"], "+OK\r\n$1\r\na\r\n"),
        (&["CLIENT REPLY SKIP", "CLIENT REPLY foo", "ECHO a"], "$1\r\na\r\n"),
        (
            &["CLIENT REPLY OFF", "CLIENT REPLY SKIP", "CLIENT REPLY ON", "ECHO a", "ECHO b"],
            "+OK\r\n$1\r\na\r\n$1\r\nb\r\n",
        ),
        (
            &["CLIENT REPLY SKIP", "CLIENT REPLY OFF", "ECHO a", "CLIENT REPLY ON", "ECHO b"],
            "+OK\r\n$1\r\nb\r\n",
        ),
        (&["CLIENT REPLY SKIP", "RESET", "ECHO a"], "$1\r\na\r\n"),
        (&["CLIENT REPLY OFF", "RESET", "ECHO a"], "+RESET\r\n$1\r\na\r\n"),
        (&["CLIENT REPLY SKIP", "HELLO 3", "ECHO a", "CLIENT GETNAME"], "$1\r\na\r\n_\r\n"),
        (&["CLIENT REPLY SKIP", "NOSUCH", "ECHO a"], "$1\r\na\r\n"),
        (&["CLIENT REPLY SKIP", "ECHO", "ECHO a"], "$1\r\na\r\n"),
        (
            &["CLIENT REPLY foo", "CLIENT REPLY on", "CLIENT REPLY on"],
            "-ERR syntax error\r\n+OK\r\n+OK\r\n",
        ),
    ];
    for (lines, want) in table {
        let mut rig = Rig::open();
        let id = rig.connect();
        assert_eq!(rig.lines(id, lines), want, "{lines:?}");
    }
}

#[test]
fn the_list_shows_every_client_with_redis_s_fields_in_redis_s_order() {
    let mut rig = Rig::open();
    let first = rig.connect();
    let second = rig.connect_from("/run/redis.sock:0");
    rig.lines(first, &["HELLO 3 SETNAME me", "SELECT 4"]);
    rig.session(second).client.relabel(|labels| labels.user = b"ann".to_vec());
    let own = "id=1 addr=127.0.0.1:5000 laddr=127.0.0.1:6379 fd=9 name=me age=0 idle=0 flags=N db=4 \
               sub=0 psub=0 ssub=0 multi=-1 qbuf=0 qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 \
               obl=0 oll=0 omem=0 tot-mem=0 events=r cmd=client|list user=default redir=-1 resp=3 \
               lib-name= lib-ver=\n";
    let other = "id=2 addr=/run/redis.sock:0 laddr=127.0.0.1:6379 fd=9 name= age=0 idle=0 flags=U \
                 db=0 sub=0 psub=0 ssub=0 multi=-1 qbuf=0 qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 \
                 rbp=0 obl=0 oll=0 omem=0 tot-mem=0 events=r cmd=NULL user=ann redir=-1 resp=2 \
                 lib-name= lib-ver=\n";
    let text = |lines: &str| format!("={}\r\ntxt:{lines}\r\n", lines.len() + 4);
    // Of the client that asks, the bytes of its own command are unread.
    let asking = |bytes: usize| own.replace("qbuf=0", &format!("qbuf={bytes}"));
    let both = |bytes| text(&format!("{}{other}", asking(bytes)));
    let none = text("");
    let unknown = "-ERR Unknown client type 'foo'\r\n";
    let invalid = "-ERR Invalid client ID\r\n";
    let table = [
        ("CLIENT LIST", &*both(26)),
        ("CLIENT LIST TYPE Normal", &both(48)),
        ("CLIENT LIST TYPE master", &none),
        ("CLIENT LIST TYPE slave", &none),
        ("CLIENT LIST TYPE replica", &none),
        ("CLIENT LIST TYPE pubsub", &none),
        ("CLIENT LIST TYPE foo", unknown),
        ("CLIENT LIST TYPE", SYNTAX),
        ("CLIENT LIST TYPE normal x", SYNTAX),
        ("CLIENT LIST TYPE normal ID 1", SYNTAX),
        ("CLIENT LIST ID", SYNTAX),
        ("CLIENT LIST FOO x", SYNTAX),
        ("CLIENT LIST ID 99 -1 0", &none),
        ("CLIENT LIST ID 1 x", invalid),
        ("CLIENT LIST ID 2 1", &text(&format!("{other}{}", asking(48)))),
        ("CLIENT LIST ID 2 2", &text(&format!("{other}{other}"))),
    ];
    rig.check(first, &table);
    let odd = rig.say(first, &[&[&b"CLIENT"[..], b"LIST", b"TYPE", b"fo\r\no\0z"]]);
    assert_eq!(odd, b"-ERR Unknown client type 'fo  o'\r\n");
}

#[test]
fn an_upstream_without_setinfo_shows_no_libraries() {
    let mut rig = Rig::open();
    let id = rig.connect();
    let topology = rig.worker.begin_batch();
    let without = topology.table.overlay(Vec::new());
    let mut session = rig.worker.sessions.lend(id).unwrap();
    let bare = Topology {
        epoch: 1,
        recoveries: 0,
        group: None,
        claims: None,
        failover_until: 0,
        slots: None,
        replicas: Arc::default(),
        node: Arc::clone(&topology.node),
        table: Arc::new(without),
        facts: None,
    };
    let command = crate::command::Command::new(b"", &[]);
    super::client_list::info(&mut rig.worker, &bare, &mut session, command);
    rig.worker.sessions.restore(id, session);
    let own = String::from_utf8(owed(&mut rig.worker, id)).unwrap();
    assert!(own.ends_with(" resp=2\n\r\n"), "{own}");
}

#[test]
fn a_list_beyond_the_session_s_bound_is_refused_with_a_cure() {
    let mut rig = Rig::open();
    let id = rig.connect();
    let command: Vec<&str> = ["CLIENT", "LIST", "ID"].into_iter().chain(["1"; 1000]).collect();
    let reply = String::from_utf8(rig.say(id, &[&command])).unwrap();
    assert!(reply.starts_with("-ERR breakwater: the list exceeds the 65536 bytes"), "{reply}");
}

#[test]
fn killing_takes_redis_s_options_and_says_what_redis_says() {
    let mut rig = Rig::new(users(), 1);
    let id = rig.connect();
    rig.lines(id, &["AUTH sesame"]);
    let no_id = "-ERR client-id should be greater than 0\r\n";
    let none = "-ERR No such client\r\n";
    let table = [
        ("CLIENT KILL foo", none),
        ("CLIENT KILL 1.2.3.4:5", none),
        ("CLIENT KILL ID", none),
        ("CLIENT KILL ID abc", no_id),
        ("CLIENT KILL ID 0", no_id),
        ("CLIENT KILL ID -1", no_id),
        ("CLIENT KILL ID 9223372036854775808", no_id),
        ("CLIENT KILL ID 99999", ":0\r\n"),
        ("CLIENT KILL ID 1", ":0\r\n"),
        ("CLIENT KILL TYPE foo", "-ERR Unknown client type 'foo'\r\n"),
        ("CLIENT KILL TYPE pubsub", ":0\r\n"),
        ("CLIENT KILL TYPE normal", ":0\r\n"),
        ("CLIENT KILL ADDR x", ":0\r\n"),
        ("CLIENT KILL LADDR x", ":0\r\n"),
        ("CLIENT KILL USER bob", "-ERR No such user 'bob'\r\n"),
        ("CLIENT KILL USER ann", ":0\r\n"),
        ("CLIENT KILL USER default", ":0\r\n"),
        ("CLIENT KILL SKIPME foo", SYNTAX),
        ("CLIENT KILL ID 99999 SKIPME yes", ":0\r\n"),
        ("CLIENT KILL ID 99999 SKIPME maybe", SYNTAX),
        ("CLIENT KILL FOO bar", SYNTAX),
        ("CLIENT KILL ID 1 ADDR", SYNTAX),
        ("CLIENT KILL ID 99999 FOO x", SYNTAX),
        ("CLIENT KILL ID abc FOO", no_id),
        ("CLIENT KILL ID 99999 ADDR x TYPE normal USER default", ":0\r\n"),
    ];
    rig.check(id, &table);
    let odd = rig.say(id, &[&[&b"CLIENT"[..], b"KILL", b"USER", b"default\0x", b"ID", b"9"]]);
    assert_eq!(odd, b"-ERR No such user 'default'\r\n");
    assert_eq!(rig.session(id).closing, None);
}

#[test]
fn a_victim_ends_at_once_and_is_counted_once() {
    let mut rig = Rig::open();
    let killer = rig.connect();
    let victims = [rig.connect_from("1.1.1.1:1"), rig.connect_from("1.1.1.1:2")];
    let bystander = rig.connect_from("1.1.1.1:3");
    rig.check(killer, &[("CLIENT KILL ID 2", ":1\r\n"), ("CLIENT KILL ID 2", ":0\r\n")]);
    rig.check(killer, &[("CLIENT KILL 1.1.1.1:2", OK)]);
    for victim in victims {
        assert_eq!(rig.session(victim).closing, Some(Closing::Now(ClosedReason::Killed)));
    }
    assert_eq!(rig.session(bystander).closing, None);
    let list = rig.lines(killer, &["CLIENT LIST"]);
    assert!(list.contains("id=1 ") && list.contains("id=4 ") && !list.contains("1.1.1.1:2"));
}

#[test]
fn who_kills_itself_gets_its_answer_first() {
    for (line, want) in [
        ("CLIENT KILL ID 1 SKIPME no", ":1\r\n"),
        ("CLIENT KILL 127.0.0.1:5000", OK),
        ("CLIENT KILL LADDR 127.0.0.1:6379 SKIPME No", ":1\r\n"),
    ] {
        let mut rig = Rig::open();
        let id = rig.connect();
        assert_eq!(rig.lines(id, &["ECHO a", line, "ECHO b"]), format!("$1\r\na\r\n{want}"));
        assert_eq!(rig.session(id).is_over(), Some(ClosedReason::Killed));
    }
}

#[test]
fn a_client_of_another_worker_is_killed_by_a_message() {
    let mut rig = Rig::open();
    let id = rig.connect();
    let (inbox, mut messages) = mpsc::channel(1);
    let worker = WorkerHandle { inbox, load: Arc::default() };
    // The same key as the killer's own: each worker counts its own sessions.
    let (shared, now) = (Arc::clone(&rig.worker.shared), rig.worker.now);
    let add = |number| {
        let home = Home { worker: worker.clone(), session: id };
        let card = Client::new(number, "2.2.2.2:2".into(), String::new(), 3, now, home);
        shared.registry.insert(&Arc::new(card));
    };
    add(shared.registry.next_id());
    add(shared.registry.next_id());
    // Room for one message only: what cannot be told to the other worker is not counted, and can be
    // repeated.
    rig.check(id, &[("CLIENT KILL TYPE normal", ":1\r\n")]);
    assert!(matches!(messages.try_recv(), Ok(Message::Kill(victim)) if victim == id));
    rig.check(id, &[("CLIENT KILL TYPE normal", ":1\r\n"), ("CLIENT KILL TYPE normal", ":0\r\n")]);
    assert_eq!(rig.session(id).closing, None);
    assert!(rig.messages.try_recv().is_err());
}

#[test]
fn every_local_command_has_an_answer_and_is_counted_as_one() {
    let mut rig = Rig::open();
    let topology = rig.worker.begin_batch();
    let locals: Vec<(String, usize, i32)> = topology
        .table
        .specs()
        .filter(|spec| spec.class == crate::command::spec::Class::Local && !spec.is_container)
        .map(|spec| (spec.name.replace('|', " "), spec.id.stats_index(), spec.arity))
        .collect();
    assert!(locals.len() > 20, "{locals:?}");
    for (name, place, arity) in locals {
        let id = rig.connect();
        let mut words: Vec<&str> = name.split(' ').collect();
        words.resize(arity.unsigned_abs().max(1) as usize, "1");
        let reply = String::from_utf8(rig.say(id, &[&words])).unwrap();
        assert!(!reply.contains("is not served"), "{name}: {reply}");
        assert!(!reply.is_empty(), "{name}");
        assert_eq!(rig.worker.stats.command(place, Outcome::Local).get(), 1, "{name}");
    }
}
