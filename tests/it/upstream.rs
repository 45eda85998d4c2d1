//! What clients are told, and what the node is sent, when the way to Redis breaks.
//!
//! Owns the tests of INV-3 and INV-5 from outside: every command in flight is settled once and truthfully, nothing
//! that may have run is run again, a late reply reaches nobody. Also every way to reach a Redis: password, file,
//! TLS, unix socket, databases.
//!
//! What surprises: most of these use a fake server, because only that can say how often it was asked and can
//! stop reading at the right byte.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::certs::Certificates;
use crate::support::fake::Gate;
use crate::support::process::free_port;
use crate::support::{
    Act, Client, FakeUpstream, Proxy, RedisServer, bulk, command, eventually, line, shown, until,
};

// === a server that closes who says nothing ===

#[test]
fn a_server_that_closes_who_is_silent_finds_nobody_silent() {
    let redis = RedisServer::start_with(&["--timeout", "1"]);
    let proxy = Proxy::before(&redis.url()).ready();
    let mut client = proxy.client();
    for count in 1..=4 {
        assert_eq!(shown(&client.ask("INCR n")), format!("\":{count}\\r\\n\""));
        std::thread::sleep(Duration::from_millis(2200));
    }
    assert_eq!(proxy.metric_of("breakwater_lanes_lost_total", "closed"), 0.0);
    assert_eq!(proxy.metric("breakwater_lanes_opened_total"), 1.0, "one that stays");
}

// === a client that gives up ===

#[test]
fn nothing_is_executed_for_a_client_that_has_given_up_waiting() {
    let (is_well, executed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (well, ran) = (Arc::clone(&is_well), Arc::clone(&executed));
    let fake = FakeUpstream::start(move |_| {
        if !well.load(Ordering::Relaxed) {
            return Act::Reply(b"-LOADING Redis is loading the dataset in memory\r\n".to_vec());
        }
        ran.fetch_add(1, Ordering::Relaxed);
        Act::Reply(b":1\r\n".to_vec())
    });
    let (url, listener) = (fake.url(), "[[listener]]\naddress");
    let toml = move |port: u16| {
        format!(
            "{listener} = \"127.0.0.1:{port}\"\nclient_timeout = \"60s\"\n[upstream]\nurl = \"{url}\"\n"
        )
    };
    let proxy = Proxy::listening(|port, _| toml(port)).ready();
    let (mut quitter, mut stayer) = (proxy.client(), proxy.client());
    quitter.send(line("INCR n").repeat(3));
    until("the first of them is refused", || fake.count("INCR n") > 0);
    drop(quitter);
    std::thread::sleep(Duration::from_millis(700));
    stayer.send(line("INCR m"));
    is_well.store(true, Ordering::Relaxed);
    assert_eq!(shown(&stayer.frame()), "\":1\\r\\n\"");
    until("the other one is gone", || proxy.metric("breakwater_clients") == 1.0);
    assert_eq!(executed.load(Ordering::Relaxed), 1, "only the one that somebody waits for");
}

// === a lost connection ===

/// A fake that answers everything with its own words, except the first command that begins with `fatal`.
fn fatal_once(fatal: &'static str, act: impl Fn() -> Act + Send + Sync + 'static) -> FakeUpstream {
    let was_asked = std::sync::atomic::AtomicBool::new(false);
    FakeUpstream::start(move |asked| {
        let is_fatal = asked.words.starts_with(fatal);
        if is_fatal && !was_asked.swap(true, std::sync::atomic::Ordering::Relaxed) {
            return act();
        }
        Act::Reply(echoed(&asked.words))
    })
}

fn echoed(words: &str) -> Vec<u8> {
    bulk(format!("reply to {words}").as_bytes())
}

/// A client whose proxy has sent enough for the first time that a tenth of it, sent again, is three commands.
fn warm_client(proxy: &Proxy) -> Client {
    let mut client = proxy.client();
    for _ in 0..30 {
        assert_eq!(client.ask("GET warm"), echoed("GET warm"));
    }
    client
}

#[test]
fn a_read_whose_connection_is_lost_is_sent_once_more() {
    let fake = fatal_once("GET k", || Act::Close);
    let proxy = Proxy::before(&fake.url()).ready();
    let mut client = warm_client(&proxy);
    assert_eq!(shown(&client.ask("GET k")), shown(&echoed("GET k")));
    assert_eq!(fake.count("GET k"), 2);
    assert_eq!(proxy.metric_of("breakwater_commands_resent_total", "read_only"), 1.0);
}

#[test]
fn a_read_that_kills_every_connection_is_given_up_and_said_to_be_repeatable() {
    let fake = FakeUpstream::start(|asked| match asked.words.as_str() {
        "GET k" => Act::Close,
        words => Act::Reply(echoed(words)),
    });
    let proxy = Proxy::before(&fake.url()).ready();
    let mut client = warm_client(&proxy);
    let reply = client.text("GET k");
    let is_told = ["no reply: ", "not executed: "]
        .iter()
        .any(|text| reply.starts_with(&format!("-ERR breakwater: {text}")));
    assert!(is_told, "{reply}");
    let count = fake.count("GET k");
    assert!((2..=3).contains(&count), "sent {count} times");
    eventually("the next one is served", || (client.ask("GET x") == echoed("GET x")).then_some(()));
}

#[test]
fn a_write_whose_connection_is_lost_has_an_unknown_outcome_and_is_sent_once() {
    for words in ["INCR n", "SET a b", "LPUSH l x", "EVAL return_1 0"] {
        let fake = fatal_once(words, || Act::Close);
        let proxy = Proxy::before(&fake.url()).ready();
        let mut client = warm_client(&proxy);
        let reply = client.text(words);
        let name = words.split(' ').next().unwrap_or_default();
        assert!(reply.starts_with("-ERR breakwater: outcome unknown: "), "{reply}");
        assert!(reply.contains(&format!("{name} was sent")), "{reply}");
        // A reply on the next connection: if the write had been sent again, it would have come before.
        assert_eq!(client.ask("GET x"), echoed("GET x"));
        assert_eq!(fake.count(words), 1, "{words}");
    }
}

#[test]
fn half_an_error_reply_is_not_shown_and_its_write_has_an_unknown_outcome() {
    let fake = fatal_once("INCR n", || Act::ReplyAndClose(b"-ERR half of an err".to_vec()));
    let proxy = Proxy::before(&fake.url()).ready();
    let reply = proxy.client().text("INCR n");
    assert!(reply.starts_with("-ERR breakwater: outcome unknown: "), "{reply}");
    assert_eq!(fake.count("INCR n"), 1);
}

/// A fake that stops reading at `INCR stuck`, so that more queues behind it than the kernel takes.
struct Jam {
    fake: FakeUpstream,
    proxy: Proxy,
    gate: Arc<Gate>,
}

impl Jam {
    /// As [`Self::cold`], on a lane that has served before.
    fn new(end: impl Fn() -> Act + Send + Sync + 'static) -> Self {
        let jam = Self::cold(end);
        assert_eq!(jam.proxy.client().ask("GET warm"), echoed("GET warm"));
        jam
    }

    /// `end` is what happens to that command when the gate is opened.
    fn cold(end: impl Fn() -> Act + Send + Sync + 'static) -> Self {
        let gate = Gate::new();
        let door = Arc::clone(&gate);
        let fake = fatal_once("INCR stuck", move || {
            door.pass();
            end()
        });
        let proxy = Proxy::before(&fake.url()).ready();
        Self { fake, proxy, gate }
    }

    /// Waits until the proxy holds bytes that the kernel does not take.
    fn wait_until_full(&self, command: &[u8]) {
        // The command is whole in the proxy when its session holds nothing of it any more.
        until("the command waits unsent", || {
            self.proxy.metric("breakwater_commands_in_flight") >= 2.0
                && self.proxy.metric_of("breakwater_upstream_bytes_total", "out") > 0.0
                && self.proxy.metric_of("breakwater_client_bytes_total", "in")
                    >= command.len() as f64
        });
    }
}

/// More than a loopback connection's buffers hold (about 10 MiB at most), less than a lane's queue.
const JAM_BYTES: usize = 15 << 20;

#[test]
fn unsent_commands_of_others_are_sent_again_and_run_once() {
    let jam = Jam::new(|| Act::Close);
    let (mut first, mut big, mut last) =
        (jam.proxy.client(), jam.proxy.client(), jam.proxy.client());
    first.send(line("INCR stuck"));
    jam.fake.wait_for("INCR stuck");
    let large = command(&[&b"SET"[..], b"big", &vec![b'x'; JAM_BYTES]]);
    big.send(&large);
    jam.wait_until_full(&large);
    last.send(line("INCR last"));
    until("all are in flight", || jam.proxy.metric("breakwater_commands_in_flight") >= 3.0);
    jam.gate.open();
    let reply = String::from_utf8_lossy(&first.frame()).into_owned();
    assert!(reply.starts_with("-ERR breakwater: outcome unknown: "), "{reply}");
    assert!(big.frame().starts_with(b"$"), "a write that was not completely sent is sent again");
    assert_eq!(last.frame(), echoed("INCR last"));
    assert_eq!(jam.fake.count("INCR stuck"), 1);
    assert_eq!(jam.fake.count("SET big"), 1);
    assert_eq!(jam.fake.count("INCR last"), 1);
    assert!(jam.proxy.metric_of("breakwater_commands_resent_total", "unsent") >= 2.0);
}

#[test]
fn a_lane_that_dies_before_its_first_reply_still_sends_again_what_was_unsent() {
    let jam = Jam::cold(|| Act::Close);
    let (mut first, mut big) = (jam.proxy.client(), jam.proxy.client());
    first.send(line("INCR stuck"));
    jam.fake.wait_for("INCR stuck");
    let large = command(&[&b"SET"[..], b"big", &vec![b'x'; JAM_BYTES]]);
    big.send(&large);
    jam.wait_until_full(&large);
    jam.gate.open();
    let reply = String::from_utf8_lossy(&first.frame()).into_owned();
    assert!(reply.starts_with("-ERR breakwater: outcome unknown: "), "{reply}");
    let reply = big.frame();
    assert!(reply.starts_with(b"$"), "it waits for the next connection: {}", shown(&reply));
    assert_eq!(jam.fake.count("SET big"), 1);
}

#[test]
fn after_a_write_in_doubt_later_unsent_commands_of_its_client_are_not_executed() {
    let jam = Jam::new(|| Act::Close);
    let (mut first, mut other) = (jam.proxy.client(), jam.proxy.client());
    let large = command(&[&b"SET"[..], b"big", &vec![b'x'; JAM_BYTES]]);
    first.send([&line("INCR stuck")[..], &large, &line("SET small 1"), &line("GET g")].concat());
    jam.wait_until_full(&large);
    other.send(line("SET other 1"));
    until("all are in flight", || jam.proxy.metric("breakwater_commands_in_flight") >= 5.0);
    jam.gate.open();
    let reply = String::from_utf8_lossy(&first.frame()).into_owned();
    assert!(reply.starts_with("-ERR breakwater: outcome unknown: "), "{reply}");
    for command in ["SET big", "SET small", "GET g"] {
        let reply = String::from_utf8_lossy(&first.frame()).into_owned();
        assert!(reply.starts_with("-ERR breakwater: not executed: "), "{command}: {reply}");
    }
    assert_eq!(other.frame(), echoed("SET other 1"), "another client's order is not in question");
    // The client knows, and what it sends next is served.
    assert_eq!(first.ask("SET small 2"), echoed("SET small 2"));
    assert_eq!(jam.fake.count("SET big"), 0);
    assert_eq!(jam.fake.count("SET small 1"), 0);
    assert_eq!(jam.fake.count("GET g"), 0);
}

#[test]
fn what_waits_unsent_is_dropped_when_its_client_leaves() {
    // Whether the connection lives on or not: nothing runs for nobody.
    assert_orphan_is_dropped(&Jam::new(|| Act::Close));
    assert_orphan_is_dropped(&Jam::new(|| Act::Reply(echoed("INCR stuck"))));
}

fn assert_orphan_is_dropped(jam: &Jam) {
    let (mut first, mut big) = (jam.proxy.client(), jam.proxy.client());
    first.send(line("INCR stuck"));
    jam.fake.wait_for("INCR stuck");
    let large = command(&[&b"SET"[..], b"big", &vec![b'x'; JAM_BYTES]]);
    big.send(&large);
    jam.wait_until_full(&large);
    let mut leaver = jam.proxy.client();
    leaver.send(line("INCR orphan"));
    until("all are in flight", || jam.proxy.metric("breakwater_commands_in_flight") >= 3.0);
    let clients = jam.proxy.metric("breakwater_clients");
    // A mere close could be the half of a client that still wants its replies.
    leaver.abort();
    until("the proxy knows that it has left", || jam.proxy.metric("breakwater_clients") < clients);
    // This one is behind the orphan and stays.
    let mut stayer = jam.proxy.client();
    stayer.send(line("INCR stayer"));
    until("all are in flight", || jam.proxy.metric("breakwater_commands_in_flight") >= 3.0);
    jam.gate.open();
    assert!(big.frame().starts_with(b"$"));
    assert!(!first.frame().is_empty());
    assert_eq!(stayer.frame(), echoed("INCR stayer"));
    assert_eq!(first.ask("GET x"), echoed("GET x"));
    assert_eq!(jam.fake.count("INCR orphan"), 0);
}

#[test]
fn a_reply_that_breaks_off_closes_its_client_and_no_other() {
    let value = vec![b'v'; 1 << 20];
    let whole = bulk(&value);
    let half = whole[..whole.len() / 2].to_vec();
    let fake = fatal_once("GET half", move || Act::ReplyAndClose(half.clone()));
    let proxy = Proxy::before(&fake.url()).ready();
    let (mut victim, mut other) = (proxy.client(), proxy.client());
    assert_eq!(other.ask("GET x"), echoed("GET x"));
    victim.send([line("GET half"), line("GET behind")].concat());
    let got = victim.rest();
    assert!(whole.starts_with(&got), "nothing but the beginning of its reply: {}", shown(&got));
    assert!(got.len() < whole.len());
    assert_eq!(other.ask("GET y"), echoed("GET y"));
    assert_eq!(proxy.client().ask("GET z"), echoed("GET z"));
    until("its end is counted", || {
        proxy.metric_of("breakwater_clients_closed_total", "stream_lost") == 1.0
    });
}

#[test]
fn a_killed_server_costs_half_delivered_replies_and_nothing_more() {
    let mut redis = RedisServer::start();
    let proxy = Proxy::before(&redis.url()).ready();
    let mut other = proxy.client();
    assert_eq!(other.ask("SET k v"), b"+OK\r\n");
    let mut victim = proxy.client();
    assert_eq!(victim.call(&[&b"SET"[..], b"big", &vec![b'x'; 64 << 20]]), b"+OK\r\n");
    victim.send(line("GET big"));
    victim.sip(100).expect("the reply begins");
    redis.kill();
    let rest = victim.rest();
    assert!(rest.len() < 64 << 20 && rest.starts_with(b"$67108864\r\nxxx"), "{}", shown(&rest));
    let reply = other.text("GET k");
    assert!(reply.starts_with("-ERR breakwater: "), "{reply}");
    redis.restart();
    eventually("the same connection is served again", || {
        (other.ask("SET k w") == b"+OK\r\n").then_some(())
    });
    assert_eq!(other.ask("GET k"), bulk(b"w"));
}

// === deadlines ===

#[test]
fn a_deadline_fills_its_own_slot_and_the_late_reply_reaches_nobody() {
    let gate = Gate::new();
    let door = Arc::clone(&gate);
    let fake = FakeUpstream::start(move |asked| {
        if asked.words == "GET slow" {
            door.pass();
        }
        Act::Reply(echoed(&asked.words))
    });
    let proxy = Proxy::configured(&format!(
        "[upstream]\nurl = \"{}\"\nreply_deadline_fast = \"2s\"\n",
        fake.url()
    ))
    .ready();
    let (mut client, mut other) = (proxy.client(), proxy.client());
    client.send(line("GET slow"));
    let reply = String::from_utf8_lossy(&client.frame()).into_owned();
    assert!(reply.starts_with("-ERR breakwater: no reply from 127.0.0.1:"), "{reply}");
    assert!(reply.contains("within 2.0 s") && reply.contains("may be repeated"), "{reply}");
    // These queue behind the late reply, and their own replies are what they get.
    client.send([line("GET next"), line("ECHO local"), line("GET last")].concat());
    other.send(line("GET other"));
    gate.open();
    assert_eq!(client.frame(), echoed("GET next"));
    assert_eq!(client.frame(), bulk(b"local"));
    assert_eq!(client.frame(), echoed("GET last"));
    assert_eq!(other.frame(), echoed("GET other"));
    assert_eq!(fake.count("GET slow"), 1, "a deadline sends nothing again");
    assert_eq!(
        proxy.metric("breakwater_lanes_lost_total"),
        0.0,
        "a lane is not closed for being slow"
    );
    assert_eq!(proxy.metric("breakwater_deadlines_passed_total"), 1.0);
    assert_eq!(proxy.metric("breakwater_tombstones_consumed_total"), 1.0);
    // Others ask for what is to be watched.
    let asked = fake.asked();
    let gets = asked.iter().filter(|asked| asked.words.starts_with("GET"));
    let connections: Vec<usize> = gets.map(|asked| asked.connection).collect();
    assert!(
        connections.windows(2).all(|pair| pair[0] == pair[1]),
        "the same lane: {connections:?}"
    );
}

#[test]
fn a_write_whose_deadline_passes_has_an_unknown_outcome() {
    let mut redis = RedisServer::start();
    let toml = format!("[upstream]\nurl = \"{}\"\nreply_deadline_fast = \"500ms\"\n", redis.url());
    let proxy = Proxy::configured(&toml).ready();
    let mut client = proxy.client();
    assert_eq!(client.ask("INCR n"), b":1\r\n");
    redis.pause();
    let reply = client.text("INCR n");
    redis.resume();
    assert!(reply.starts_with("-ERR breakwater: outcome unknown: no reply from "), "{reply}");
    // It ran all the same, once, and its late reply is nobody's.
    eventually("the server answers in time again", || {
        let reply = client.text("GET n");
        assert!(
            reply == "$1\r\n2\r\n" || reply.starts_with("-ERR breakwater: no reply"),
            "{reply}"
        );
        (reply == "$1\r\n2\r\n").then_some(())
    });
}

#[test]
fn a_lane_is_not_closed_because_its_server_stops_reading() {
    let mut redis = RedisServer::start();
    let toml = format!("[upstream]\nurl = \"{}\"\nuser_timeout = \"500ms\"\n", redis.url());
    let proxy = Proxy::configured(&toml).ready();
    let mut client = proxy.client();
    assert_eq!(client.ask("SET k v"), b"+OK\r\n");
    eventually("the server was stopped while it took the command", || {
        redis.pause();
        client.send(command(&[&b"SET"[..], b"big", &vec![b'x'; JAM_BYTES]]));
        // The server's kernel acknowledges and its window is full: slow, not dead. How long is what is tested.
        std::thread::sleep(Duration::from_secs(3));
        redis.resume();
        let reply = client.frame();
        // On a busy machine the command may be whole only when the silence has been noticed.
        let is_early = !shown(&reply).contains("does not answer (stalled)");
        assert!(!is_early || reply == b"+OK\r\n", "{}", shown(&reply));
        until("it serves", || client.ask("GET k") == bulk(b"v"));
        is_early.then_some(())
    });
    assert_eq!(proxy.metric("breakwater_lanes_lost_total"), 0.0);
}

#[test]
fn a_client_that_leaves_its_replies_behind_leaves_no_trace_in_those_of_others() {
    let redis = RedisServer::start();
    let proxy = Proxy::before(&redis.url()).ready();
    let mut stayer = proxy.client();
    for round in 0..50 {
        let mut leaver = proxy.client();
        leaver.send(line(&format!("SET leaver value-{round}")).repeat(20));
        leaver.send(line("GET leaver").repeat(100));
        stayer.send([line(&format!("SET stayer {round}")), line("GET stayer").repeat(20)].concat());
        if round % 2 == 0 {
            leaver.abort();
        } else {
            drop(leaver);
        }
        assert_eq!(stayer.frame(), b"+OK\r\n");
        for _ in 0..20 {
            assert_eq!(stayer.frame(), bulk(round.to_string().as_bytes()));
        }
    }
    assert_eq!(proxy.metric("breakwater_lanes_lost_total"), 0.0);
}

// === no connection at all ===

#[test]
fn a_refused_upstream_is_said_at_once_with_node_and_cause_and_comes_back_by_itself() {
    let port = free_port();
    let proxy = Proxy::before(&format!("redis://127.0.0.1:{port}"));
    let mut client = proxy.client();
    let reply = client.text("SET k v");
    let expected = format!(
        "-ERR breakwater: not executed: upstream 127.0.0.1:{port} is down (refused), next try in "
    );
    assert!(reply.starts_with(&expected) && reply.ends_with(" s\r\n"), "{reply}");
    let (status, body) = proxy.http("/readyz");
    assert!(status == 503 && body.contains("refused"), "{status} {body}");
    assert_eq!(proxy.http("/healthz").0, 200, "the process is alive");
    // What needs no server is answered all the same.
    assert_eq!(client.ask("ECHO hi"), bulk(b"hi"));
    let redis = RedisServer::start_on(port);
    eventually("the same connection is served", || {
        let reply = client.text("SET k v");
        let is_down = reply.starts_with("-ERR breakwater: not executed: ");
        assert!(is_down || reply == "+OK\r\n", "{reply}");
        (!is_down).then_some(())
    });
    until("/readyz says so", || proxy.http("/readyz").0 == 200);
    assert_eq!(redis.client().ask("GET k"), bulk(b"v"));
}

#[test]
fn clients_stay_connected_while_the_server_is_restarted() {
    let mut redis = RedisServer::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let proxy = Proxy::before(&redis.url()).ready();
    let mut clients: Vec<Client> = (0..20).map(|_| proxy.client()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.ask(&format!("SET stays:{number} {number}")), b"+OK\r\n");
    }
    redis.kill();
    for client in &mut clients {
        let reply = client.text("GET stays:0");
        assert!(reply.starts_with("-ERR breakwater: "), "{reply}");
    }
    redis.restart();
    for (number, client) in clients.iter_mut().enumerate() {
        let expected = bulk(number.to_string().as_bytes());
        eventually("the client is served again", || {
            (client.ask(&format!("GET stays:{number}")) == expected).then_some(())
        });
    }
}

// === credentials ===

#[test]
fn the_urls_password_is_used_and_a_wrong_one_is_said_to_be_wrong() {
    let redis = RedisServer::start_with(&["--requirepass", "s3cret"]);
    let url = |password: &str| format!("redis://:{password}@127.0.0.1:{}", redis.port());
    let proxy = Proxy::before(&url("s3cret")).ready();
    let mut client = proxy.client();
    assert_eq!(client.ask("SET k v"), b"+OK\r\n");
    assert_eq!(client.ask("GET k"), bulk(b"v"));
    let proxy = Proxy::before(&url("wr0ng"));
    let reply = proxy.client().text("GET k");
    assert!(
        reply.starts_with("-ERR breakwater: not executed: ") && reply.contains("(auth)"),
        "{reply}"
    );
    until("/readyz says why", || proxy.http("/readyz").1.contains("auth"));
    // INV-11: no secret in what an operator sees.
    for text in [proxy.log(), proxy.http("/readyz").1, proxy.http("/metrics").1, reply] {
        assert!(!text.contains("wr0ng"), "{text}");
    }
}

#[test]
fn a_user_of_the_url_is_who_commands_run_as() {
    let redis = RedisServer::start_with(&["--user", "app", "on", ">s3cret", "~*", "+@all"]);
    let proxy = Proxy::before(&format!("redis://app:s3cret@127.0.0.1:{}", redis.port())).ready();
    assert_eq!(proxy.client().ask("ACL WHOAMI"), bulk(b"app"));
    assert_eq!(proxy.client3().ask("ACL WHOAMI"), bulk(b"app"));
}

#[test]
fn a_password_file_is_read_again_for_every_connection() {
    let redis = RedisServer::start_with(&["--requirepass", "first"]);
    let proxy = Proxy::listening(|port, folder| {
        let file = folder.write("password", "not-yet-right\n");
        format!(
            "[[listener]]\naddress = \"127.0.0.1:{port}\"\nauth = \"upstream\"\n\
             [upstream]\nurl = \"{}\"\npassword_file = \"{}\"\n",
            redis.url(),
            file.display()
        )
    });
    let mut client = proxy.client();
    let reply = client.text("GET k");
    assert!(reply.contains("(auth)"), "{reply}");
    std::fs::write(proxy.file("password"), "first\n").expect("the file can be written");
    served_again(&mut client);
    // A rotation: the server's password changes and its connections are cut.
    let mut admin = redis.client();
    assert_eq!(admin.ask("AUTH first"), b"+OK\r\n");
    assert_eq!(admin.ask("CONFIG SET requirepass second"), b"+OK\r\n");
    std::fs::write(proxy.file("password"), "second").expect("the file can be written");
    assert!(admin.ask("CLIENT KILL TYPE normal SKIPME yes").starts_with(b":"));
    served_again(&mut client);
}

fn served_again(client: &mut Client) {
    eventually("the client is served", || (client.ask("SET k v") == b"+OK\r\n").then_some(()));
}

// === TLS and unix sockets ===

fn tls_upstream(port: u16, host: &str, table: &str) -> Proxy {
    Proxy::configured(&format!(
        "[upstream]\nurl = \"rediss://{host}:{port}\"\n[upstream.tls]\n{table}\n"
    ))
}

#[test]
fn tls_with_an_authority_of_ones_own_serves_and_a_wrong_name_or_authority_is_refused() {
    let certificates = Certificates::new();
    let redis = RedisServer::start_tls(&certificates, false);
    let ca = format!("ca = \"{}\"", certificates.path("ca.pem").display());
    let proxy = tls_upstream(redis.port(), "localhost", &ca).ready();
    let mut client = proxy.client();
    let value = vec![b'v'; 300_000];
    assert_eq!(client.call(&[&b"SET"[..], b"k", &value]), b"+OK\r\n");
    assert!(client.ask("GET k") == bulk(&value));
    assert_eq!(proxy.client3().ask("GET none"), b"_\r\n");
    let stranger = Certificates::new();
    let wrong_ca = format!("ca = \"{}\"", stranger.path("ca.pem").display());
    let wrong_name = format!("{ca}\nserver_name = \"redis.example\"");
    for table in [wrong_ca, wrong_name] {
        let proxy = tls_upstream(redis.port(), "localhost", &table);
        let reply = proxy.client().text("GET k");
        assert!(reply.contains("not executed") && reply.contains("(tls)"), "{table}: {reply}");
        until("/readyz says why", || proxy.http("/readyz").1.contains("tls"));
    }
    // The right name for an address that is not the name.
    let table = format!("{ca}\nserver_name = \"localhost\"");
    let proxy = tls_upstream(redis.port(), "127.0.0.1", &table).ready();
    assert_eq!(proxy.client().ask("STRLEN k"), b":300000\r\n");
}

#[test]
fn a_server_that_demands_a_client_certificate_gets_it() {
    let certificates = Certificates::new();
    let redis = RedisServer::start_tls(&certificates, true);
    let path = |name: &str| certificates.path(name).display().to_string();
    let ca = format!("ca = \"{}\"", path("ca.pem"));
    let pair = format!("{ca}\ncert = \"{}\"\nkey = \"{}\"", path("client.pem"), path("client.key"));
    let proxy = tls_upstream(redis.port(), "localhost", &pair).ready();
    assert_eq!(proxy.client().ask("SET k v"), b"+OK\r\n");
    let proxy = tls_upstream(redis.port(), "localhost", &ca);
    let reply = proxy.client().text("GET k");
    assert!(reply.starts_with("-ERR breakwater: not executed: "), "{reply}");
}

#[test]
fn the_upstream_may_be_a_unix_socket() {
    let mut redis = RedisServer::start();
    let proxy = Proxy::before(&format!("unix:{}", redis.socket().display())).ready();
    let mut client = proxy.client();
    assert_eq!(client.ask("SET k v"), b"+OK\r\n");
    redis.kill();
    let reply = client.text("GET k");
    assert!(reply.starts_with("-ERR breakwater: ") && reply.contains("redis.sock"), "{reply}");
    redis.restart();
    served_again(&mut client);
}

// === lanes ===

#[test]
fn databases_and_protocol_versions_do_not_mix() {
    let redis = RedisServer::start();
    let proxy = Proxy::before(&redis.url()).ready();
    let mut clients: Vec<(usize, Client)> = (0..24)
        .map(|number| (number, if number % 2 == 0 { proxy.client() } else { proxy.client3() }))
        .collect();
    for (number, client) in &mut clients {
        let db = *number % 3;
        client.send([line(&format!("SELECT {db}")), line(&format!("SET k db-{db}"))].concat());
        client.send(line(&format!("HSET h field db-{db}")));
    }
    for (_, client) in &mut clients {
        assert_eq!(client.frames(2), [b"+OK\r\n", b"+OK\r\n"]);
        assert_eq!(client.frame()[0], b':');
    }
    for (number, client) in &mut clients {
        let db = format!("db-{}", *number % 3);
        assert_eq!(client.ask("GET k"), bulk(db.as_bytes()));
        let is_map = client.ask("HGETALL h").starts_with(b"%");
        assert_eq!(is_map, *number % 2 == 1, "the shape of the client's own version");
        let null: &[u8] = if *number % 2 == 1 { b"_\r\n" } else { b"$-1\r\n" };
        assert_eq!(client.ask("GET none"), null);
    }
    let mut direct = redis.client();
    for db in 0..3 {
        assert_eq!(direct.ask(&format!("SELECT {db}")), b"+OK\r\n");
        assert_eq!(direct.ask("GET k"), bulk(format!("db-{db}").as_bytes()));
    }
}

#[test]
fn one_clients_commands_keep_their_order_over_lanes() {
    let redis = RedisServer::start();
    let proxy = Proxy::before(&redis.url()).ready();
    let mut client = proxy.client();
    let large = vec![b'l'; 200_000];
    let mut bytes = Vec::new();
    let mut expected: Vec<Vec<u8>> = Vec::new();
    let mut say = |command: Vec<u8>, reply: Vec<u8>| {
        bytes.extend(command);
        expected.push(reply);
    };
    // Every step changes the lane: database, weight, protocol; a later command must see the earlier ones.
    for round in 0..40 {
        let value = format!("v{round}");
        say(line("SELECT 1"), b"+OK\r\n".to_vec());
        say(line(&format!("SET order {value}")), b"+OK\r\n".to_vec());
        say(line("SORT none"), b"*0\r\n".to_vec());
        say(line("GET order"), bulk(value.as_bytes()));
        say(command(&[&b"SET"[..], b"large", &large]), b"+OK\r\n".to_vec());
        say(line("GET large"), bulk(&large));
        say(line("STRLEN large"), b":200000\r\n".to_vec());
        say(line("COPY order order DB 0 REPLACE"), b":1\r\n".to_vec());
        say(line("SELECT 0"), b"+OK\r\n".to_vec());
        say(line("GET order"), bulk(value.as_bytes()));
        say(line("DEL order"), b":1\r\n".to_vec());
    }
    client.send(&bytes);
    for (number, expected) in expected.iter().enumerate() {
        let frame = client.frame();
        assert!(frame == *expected, "{number}: {} is not {}", shown(&frame), shown(expected));
    }
}

// === the drain ===

#[test]
fn sigterm_finishes_what_is_in_flight_and_then_ends() {
    let gate = Gate::new();
    let door = Arc::clone(&gate);
    let fake = FakeUpstream::start(move |asked| {
        if asked.words == "GET slow" {
            door.pass();
        }
        Act::Reply(echoed(&asked.words))
    });
    // A bound that no machine is slow enough to reach.
    let mut proxy = Proxy::start(&["--upstream", &fake.url(), "--drain-timeout", "60s"]).ready();
    let (mut busy, mut idle) = (proxy.client(), proxy.client());
    assert_eq!(idle.ask("GET x"), echoed("GET x"));
    busy.send([line("GET slow"), line("ECHO behind")].concat());
    fake.wait_for("GET slow");
    proxy.terminate();
    assert_eq!(idle.rest(), b"", "who is owed nothing is closed");
    let port = proxy.port();
    until("nobody listens any more", || Client::try_connect(("127.0.0.1", port)).is_err());
    assert!(proxy.is_alive(), "it waits for what is in flight");
    gate.open();
    assert_eq!(busy.frame(), echoed("GET slow"));
    assert_eq!(busy.frame(), bulk(b"behind"));
    assert_eq!(busy.rest(), b"");
    assert!(proxy.exit_status().success());
}

#[test]
fn a_drain_ends_at_its_bound() {
    let gate = Gate::new();
    let door = Arc::clone(&gate);
    let fake = FakeUpstream::start(move |asked| {
        door.pass();
        Act::Reply(echoed(&asked.words))
    });
    let mut proxy = Proxy::start(&["--upstream", &fake.url(), "--drain-timeout", "300ms"]).ready();
    let mut client = proxy.client();
    client.patience(Duration::from_secs(60));
    client.send(line("GET slow"));
    fake.wait_for("GET slow");
    proxy.terminate();
    proxy.exit_status();
    let rest = client.rest();
    assert!(rest.is_empty() || rest.starts_with(b"-ERR breakwater: "), "{}", shown(&rest));
    gate.open();
}

#[test]
fn a_command_waits_for_a_server_that_comes_back_within_the_retry_window() {
    let mut redis = RedisServer::start();
    let toml = format!("[upstream]\nurl = \"{}\"\nretry_window = \"50s\"\n", redis.url());
    let proxy = Proxy::configured(&toml).ready();
    let mut client = proxy.client();
    assert_eq!(client.ask("SET k v"), b"+OK\r\n");
    redis.kill();
    until("the loss is noticed", || proxy.metric("breakwater_lanes_lost_total") >= 1.0);
    client.send(line("EXISTS k"));
    until("a dial has failed", || {
        proxy.metric_of("breakwater_dial_failures_total", "refused") >= 1.0
    });
    // Who comes while the node is known to be down is told at once, and waits for nobody.
    let mut other = proxy.client();
    until("another client is told", || other.text("PING").contains("is down (refused)"));
    redis.restart();
    assert!(
        client.frame().starts_with(b":"),
        "the first one was answered by the server that came back"
    );
}
