//! Several upstreams in one process: each on listeners of its own, none the other's business.
//!
//! Owns the proofs that values do not mix, that one upstream's death is not felt by the clients of another, and that
//! each can be seen and moved by its name. Never asserts how long anything took, except that it ends.
//!
//! What surprises: the same key is used before all upstreams, so that a command which took the wrong door would read
//! the other's value and not nothing.

mod group;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use crate::support::cluster::Cluster;
use crate::support::proxy::binary;
use crate::support::{Client, Proxy, RedisServer, bulk, free_port, until};

/// A proxy before two upstreams: the default one at its own port, `b` at the port that is told.
fn before(default: &str, b: &str) -> (Proxy, u16) {
    let second = free_port();
    let proxy = Proxy::listening(|first, _| toml(first, second, default, b));
    (proxy, second)
}

fn toml(first: u16, second: u16, default: &str, b: &str) -> String {
    format!(
        "[[listener]]\naddress = \"127.0.0.1:{first}\"\nclient_timeout = \"60s\"\n\
         [[listener]]\naddress = \"127.0.0.1:{second}\"\nclient_timeout = \"60s\"\nupstream = \"b\"\n\
         [upstream]\nurl = \"{default}\"\n[upstreams.b]\nurl = \"{b}\"\n"
    )
}

/// Every upstream was reached.
fn ready(proxy: Proxy) -> Proxy {
    until("all upstreams are reached", || proxy.http("/readyz") == (200, "ready\n".to_owned()));
    proxy
}

/// A client that reads one key again and again, and stops at the first thing that is not its value.
struct Reader {
    is_over: Arc<AtomicBool>,
    reads: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

// === impl Reader ===

impl Reader {
    fn of(mut client: Client, want: &'static [u8]) -> Self {
        let (is_over, reads) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (until, counted) = (Arc::clone(&is_over), Arc::clone(&reads));
        let thread = std::thread::spawn(move || {
            while !until.load(Ordering::SeqCst) {
                assert_eq!(client.ask("GET who"), bulk(want));
                counted.fetch_add(1, Ordering::SeqCst);
            }
        });
        Self { is_over, reads, thread }
    }

    /// Waits until it has read some more.
    fn goes_on(&self) {
        let before = self.reads.load(Ordering::SeqCst);
        until("the other upstream serves", || {
            self.thread.is_finished() || self.reads.load(Ordering::SeqCst) > before + 20
        });
        assert!(!self.thread.is_finished(), "the other upstream has answered something else");
    }

    fn finish(self) {
        self.is_over.store(true, Ordering::SeqCst);
        self.thread.join().expect("no error and no value of the other upstream");
    }
}

#[test]
fn a_cluster_and_one_redis_stand_behind_one_process() {
    let (cluster, one) = (Cluster::start(3, 0), RedisServer::start());
    let (proxy, second) = before(&cluster.url(), &one.url());
    let proxy = ready(proxy);
    let (mut of_cluster, mut of_one) = (proxy.client(), Client::connect(second));
    for number in 0..50 {
        assert_eq!(of_cluster.ask(&format!("SET key:{number} cluster")), b"+OK\r\n");
        assert_eq!(of_one.ask(&format!("SET key:{number} one")), b"+OK\r\n");
    }
    assert_eq!(of_cluster.ask("DBSIZE"), b":50\r\n");
    assert_eq!(of_one.ask("DBSIZE"), b":50\r\n");
    assert_eq!(of_cluster.ask("GET key:7"), bulk(b"cluster"));
    assert_eq!(of_one.ask("GET key:7"), bulk(b"one"));
    assert_eq!(one.client().ask("GET key:7"), bulk(b"one"));
    assert!(of_cluster.text("CLUSTER INFO").contains("cluster_state:ok"));
    assert!(of_one.text("CLUSTER INFO").starts_with("-ERR"), "one Redis is no cluster");
    clients_are_told_apart(&mut of_cluster, &mut of_one);
    let section = of_one.text("INFO breakwater");
    assert!(section.contains("breakwater_clients:1\r\n"), "{section}");
    assert!(section.contains(&format!("breakwater_upstream:127.0.0.1:{}\r\n", one.port())));
    pages_show_both(&proxy, second, &one);
}

/// What is the clients' own is their upstream's alone: lists, and the right to end somebody. Ids are the
/// process's, because a rule for each client is that of all upstreams.
fn clients_are_told_apart(of_cluster: &mut Client, of_one: &mut Client) {
    let list = of_one.text("CLIENT LIST");
    assert_eq!(list.matches(" addr=").count(), 1, "{list}");
    assert_ne!(of_cluster.ask("CLIENT ID"), of_one.ask("CLIENT ID"));
    assert_eq!(of_one.text("CLIENT KILL TYPE normal SKIPME yes"), ":0\r\n");
    assert_eq!(of_cluster.ask("PING"), b"+PONG\r\n");
}

fn pages_show_both(proxy: &Proxy, second: u16, one: &RedisServer) {
    let page = proxy.http("/topology").1;
    let (first, rest) = page.split_once("\nupstream b\n").expect(&page);
    assert!(first.starts_with("upstream default\n") && first.contains("slot map"), "{page}");
    assert!(rest.contains(&format!("keyless commands to 127.0.0.1:{}\n", one.port())), "{page}");
    assert!(proxy.http("/policy/explain?a=GET&a=k&upstream=b").1.contains("goes to: 127.0.0.1"));
    let by_listener = format!("/policy/explain?a=GET&a=k&listener=127.0.0.1:{second}");
    assert!(proxy.http(&by_listener).1.contains("goes to: 127.0.0.1"));
    assert!(proxy.http("/policy/explain?a=GET&a=k").1.contains("the owner of slot"));
    assert_eq!(proxy.http("/policy/explain?a=GET&a=k&listener=127.0.0.1:1").0, 404);
}

#[test]
fn each_upstream_counts_for_itself_and_the_page_is_one() {
    let (a, b) = (RedisServer::start(), RedisServer::start());
    let (proxy, second) = before(&a.url(), &b.url());
    let proxy = ready(proxy);
    let (mut first, mut other) = (proxy.client(), Client::connect(second));
    (0..3).for_each(|_| assert_eq!(first.ask("SET k v"), b"+OK\r\n"));
    (0..5).for_each(|_| assert_eq!(other.ask("GET k"), b"$-1\r\n"));
    let of =
        |name: &str, upstream: &str| proxy.metric_of(name, &format!("upstream=\"{upstream}\""));
    until("both are watched", || of("breakwater_node_watched", "b") == 1.0);
    assert_eq!(of("breakwater_clients", "default"), 1.0);
    assert_eq!(of("breakwater_clients", "b"), 1.0);
    assert_eq!(
        (of("breakwater_upstream_up", "default"), of("breakwater_upstream_up", "b")),
        (1.0, 1.0)
    );
    let commands = |labels: &str| proxy.metric_of("breakwater_commands_total", labels);
    assert_eq!(commands("upstream=\"default\",command=\"set\",outcome=\"ok\""), 3.0);
    assert_eq!(commands("upstream=\"b\",command=\"get\",outcome=\"ok\""), 5.0);
    assert_eq!(commands("upstream=\"b\",command=\"set\""), 0.0);
    // What the control plane of one has seen is its own: this is counted on no worker.
    let state = |upstream: &str| {
        proxy.metric_of(
            "breakwater_node_state",
            &format!("upstream=\"{upstream}\",node=\"all\",state=\"up\""),
        )
    };
    assert_eq!((state("default"), state("b")), (1.0, 1.0));
    let page = proxy.http("/metrics").1;
    let mut families = std::collections::HashSet::new();
    for line in page.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let family = line.split(' ').next().unwrap_or_default();
        assert!(families.insert(family.to_owned()), "{family} stands there twice");
    }
    for unnamed in ["breakwater_draining 0", "breakwater_config_last_reload_successful 1"] {
        assert!(page.lines().any(|line| line == unnamed), "{unnamed}");
    }
}

#[test]
fn the_policy_is_one_and_its_rules_know_the_listeners() {
    let (a, b) = (RedisServer::start(), RedisServer::start());
    let second = free_port();
    let policy = |_| {
        format!(
            "[[rule]]\nname = \"no-get-at-b\"\naction = \"deny\"\ncommands = [\"get\"]\n\
             listeners = [\"127.0.0.1:{second}\"]\n\
             [[rule]]\nname = \"no-ttl\"\naction = \"deny\"\ncommands = [\"ttl\"]\n"
        )
    };
    let proxy = Proxy::listening_guarded(policy, |first| toml(first, second, &a.url(), &b.url()));
    let proxy = ready(proxy);
    let (mut first, mut other) = (proxy.client(), Client::connect(second));
    assert_eq!(first.ask("GET k"), b"$-1\r\n");
    assert!(other.text("GET k").contains("no-get-at-b"));
    assert!(first.text("TTL k").contains("no-ttl") && other.text("TTL k").contains("no-ttl"));
    let hits =
        |rule: &str| proxy.metric_of("breakwater_policy_hits_total", &format!("rule=\"{rule}\""));
    assert_eq!((hits("no-get-at-b"), hits("no-ttl")), (1.0, 2.0));
}

#[test]
fn the_address_of_one_is_changed_under_load_and_the_other_is_not_touched() {
    let [a, b, c] = [(), (), ()].map(|()| RedisServer::start());
    for (server, who) in [(&a, "a"), (&b, "b"), (&c, "c")] {
        assert_eq!(server.client().ask(&format!("SET who {who}")), b"+OK\r\n");
    }
    let (proxy, second) = before(&a.url(), &b.url());
    let mut proxy = ready(proxy);
    let reader = Reader::of(proxy.client(), b"a");
    let mut client = Client::connect(second);
    assert_eq!(client.ask("GET who"), bulk(b"b"));
    let file = proxy.file("breakwater.toml");
    let with_b = |url: &str| toml(proxy.port(), second, &a.url(), url);
    let (to_c, dead) = (with_b(&c.url()), with_b(&format!("redis://127.0.0.1:{}", free_port())));
    std::fs::write(&file, &to_c).expect("the file can be written");
    proxy.hang_up();
    until("b is moved", || client.ask("GET who") == bulk(b"c"));
    reader.goes_on();
    let changes = |proxy: &Proxy, upstream: &str| {
        proxy.metric_of("breakwater_upstream_changes_total", &format!("upstream=\"{upstream}\""))
    };
    assert_eq!((changes(&proxy, "default"), changes(&proxy, "b")), (0.0, 1.0));
    // A node that is not there is refused; the other's clients go on, and it can still be moved by an order.
    std::fs::write(&file, &dead).expect("the file can be written");
    proxy.hang_up();
    until("the dead node is refused", || {
        proxy.metric_of("breakwater_config_reloads_total", "refused") >= 1.0
    });
    assert_eq!(client.ask("GET who"), bulk(b"c"));
    assert!(proxy.log().contains("upstream{name=\"b\"}"), "{}", proxy.log());
    reader.goes_on();
    assert_eq!(proxy.post("/upstream?upstream=b", "", &b.url()).0, 200);
    until("the order counts", || client.ask("GET who") == bulk(b"b"));
    assert_eq!(proxy.post("/upstream?upstream=nobody", "", &b.url()).0, 404);
    let (status, words) = proxy.post("/upstream", "", &b.url());
    assert_eq!(status, 422, "which one is meant? {words}");
    assert_eq!((changes(&proxy, "default"), changes(&proxy, "b")), (0.0, 2.0));
    reader.finish();
}

#[test]
fn a_new_address_that_never_answers_keeps_no_other_upstream_from_its_change() {
    let [a, b, c] = [(), (), ()].map(|()| RedisServer::start());
    for (server, who) in [(&a, "a"), (&b, "b"), (&c, "c")] {
        assert_eq!(server.client().ask(&format!("SET who {who}")), b"+OK\r\n");
    }
    // Connections are taken by the kernel, and nobody reads them.
    let deaf = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let silent = format!("redis://{}", deaf.local_addr().expect("it is bound"));
    let (proxy, second) = before(&a.url(), &b.url());
    let mut proxy = ready(proxy);
    let (mut first, mut other) = (proxy.client(), Client::connect(second));
    let patient = "[upstream]\nconnect_timeout = \"60s\"\n";
    for (server, who) in [(&c, &b"c"[..]), (&b, b"b")] {
        // The second file comes while the first one's new address is still being waited for.
        let file = toml(proxy.port(), second, &silent, &server.url());
        let file = file.replace("[upstream]\n", patient);
        std::fs::write(proxy.file("breakwater.toml"), file).expect("the file can be written");
        proxy.hang_up();
        until("b is moved", || other.ask("GET who") == bulk(who));
        let log = proxy.log();
        assert!(!log.contains("upstream not changed"), "it was waited for: {log}");
        assert_eq!(first.ask("GET who"), bulk(b"a"));
    }
}

#[test]
fn another_set_of_upstreams_needs_a_restart_and_is_said() {
    let [a, b] = [(), ()].map(|()| RedisServer::start());
    let (proxy, second) = before(&a.url(), &b.url());
    let mut proxy = ready(proxy);
    let renamed = toml(proxy.port(), second, &a.url(), &b.url())
        .replace("upstreams.b", "upstreams.c")
        .replace("upstream = \"b\"", "upstream = \"c\"");
    std::fs::write(proxy.file("breakwater.toml"), renamed).expect("the file can be written");
    proxy.hang_up();
    until("the restart is asked for", || {
        let log = proxy.log();
        log.contains("need a restart") && log.contains("upstreams") && log.contains("listeners")
    });
    assert_eq!(Client::connect(second).ask("PING"), b"+PONG\r\n");
    assert_eq!(proxy.client().ask("PING"), b"+PONG\r\n");
}

/// Addresses count at once and listeners after a restart: a file that exchanges both must not count by halves.
#[test]
fn two_that_exchange_their_roles_keep_their_clients_until_the_restart() {
    let [a, b] = [(), ()].map(|()| RedisServer::start());
    for (server, who) in [(&a, "a"), (&b, "b")] {
        assert_eq!(server.client().ask(&format!("SET who {who}")), b"+OK\r\n");
    }
    let (proxy, second) = before(&a.url(), &b.url());
    let mut proxy = ready(proxy);
    let (mut first, mut other) = (proxy.client(), Client::connect(second));
    // Port for port this file says what the one before says.
    let exchanged = toml(second, proxy.port(), &b.url(), &a.url());
    std::fs::write(proxy.file("breakwater.toml"), exchanged).expect("the file can be written");
    proxy.hang_up();
    until("it is said that both wait", || {
        let log = proxy.log();
        log.contains("not applied before a restart") && log.contains("b, default")
    });
    until("it is counted", || proxy.metric_of("breakwater_config_reloads_total", "refused") == 1.0);
    // A file that says the same of the listeners is believed again, and heard behind the one before.
    let back = toml(proxy.port(), second, &a.url(), &b.url());
    std::fs::write(proxy.file("breakwater.toml"), back).expect("the file can be written");
    proxy.hang_up();
    until("it is applied", || proxy.metric_of("breakwater_config_reloads_total", "applied") == 1.0);
    for upstream in ["default", "b"] {
        let label = format!("upstream=\"{upstream}\"");
        assert_eq!(proxy.metric_of("breakwater_upstream_changes_total", &label), 0.0);
    }
    assert_eq!((first.ask("GET who"), other.ask("GET who")), (bulk(b"a"), bulk(b"b")));
}

#[test]
fn one_that_is_away_is_named_and_the_process_serves_the_other() {
    let (a, mut b) = (RedisServer::start(), RedisServer::start());
    let (proxy, second) = before(&a.url(), &b.url());
    let mut proxy = ready(proxy);
    b.kill();
    until("it is told that b is away", || {
        let (status, body) = proxy.http("/readyz");
        status == 200 && body.starts_with("ready\nbut: b: ")
    });
    assert_eq!(proxy.http("/readyz?upstream=b").0, 503);
    assert_eq!(proxy.http("/readyz?upstream=default"), (200, "ready\n".to_owned()));
    assert_eq!(proxy.client().ask("SET k v"), b"+OK\r\n");
    let refused = Client::connect(second).text("GET k");
    assert!(refused.starts_with("-ERR breakwater: "), "{refused}");
    // One that was never reached stops a roll-out.
    let (fresh, _) = before(&a.url(), &b.url());
    until("the default one is reached", || fresh.http("/readyz?upstream=default").0 == 200);
    assert_eq!(fresh.http("/readyz").0, 503);
    proxy.terminate();
    assert!(proxy.exit_status().success());
}

#[test]
fn doctor_and_explain_know_the_upstreams_of_a_file() {
    let (a, cluster) = (RedisServer::start(), Cluster::start(3, 0));
    let (proxy, _) = before(&a.url(), &cluster.url());
    let file = proxy.file("breakwater.toml").display().to_string();
    let ask = |arguments: &[&str]| {
        let output = binary().args(arguments).output().expect("the binary runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let page = ask(&["doctor", "--config", &file]);
    assert!(page.starts_with("[default]\nupstream 127.0.0.1:"), "{page}");
    assert!(page.contains("\n[b]\nupstream 127.0.0.1:"), "{page}");
    let one = ask(&["doctor", "--config", &file, "--upstream-name", "b"]);
    assert!(one.starts_with("upstream 127.0.0.1:") && one.contains("servers asked: 3"), "{one}");
    let json = ask(&["doctor", "--config", &file, "--json"]);
    assert!(json.contains("\"default\": {") && json.contains("\"b\": {"), "{json}");
    let explain =
        |more: &[&str]| ask(&[&["explain", "--config", &file], more, &["--", "GET", "k"]].concat());
    assert!(explain(&[]).contains(&format!("goes to: 127.0.0.1:{}", a.port())));
    assert!(explain(&["--upstream-name", "b"]).contains("the owner of slot"));
    let stranger = explain(&["--upstream-name", "c"]);
    assert!(stranger.contains("'c' is not a name of an upstream"), "{stranger}");
    let admin = proxy.admin();
    let running = ask(&["explain", "--running", &admin, "--upstream-name", "b", "--", "GET", "k"]);
    assert!(running.contains("slot"), "{running}");
}
