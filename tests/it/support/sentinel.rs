//! A Sentinel group: a primary, its replicas, and real redis-sentinel processes that watch them.
//!
//! Owns the processes and the first configuration file of each Sentinel, so that one can be started again as if it had
//! never heard of anything. Never waits for a fixed time: a group is ready when every Sentinel knows every other and
//! all replicas.
//!
//! What surprises: Sentinels find each other through the primary, once in two seconds. That, and the time until a
//! primary is called down, is what a test with a failover takes.

use std::process::Command;

use super::process::{Folder, Process, free_port, print_tail};
use super::{Client, RedisServer, line, until};

/// A group with one master name.
pub(crate) struct SentinelGroup {
    /// The first one is the primary at the beginning.
    pub(crate) nodes: Vec<RedisServer>,
    pub(crate) sentinels: Vec<Sentinel>,
    /// What the Sentinels call the master.
    pub(crate) name: String,
}

/// One Sentinel.
pub(crate) struct Sentinel {
    process: Process,
    port: u16,
    folder: Folder,
    /// What its configuration file said at first.
    first_file: String,
    password: Option<String>,
}

/// What a group is made of.
pub(crate) struct GroupShape<'a> {
    pub(crate) sentinels: usize,
    pub(crate) replicas: usize,
    pub(crate) quorum: usize,
    /// Of the Sentinels themselves.
    pub(crate) password: Option<&'a str>,
    /// Further arguments of every redis-server.
    pub(crate) more: &'a [&'a str],
}

impl Default for GroupShape<'_> {
    fn default() -> Self {
        Self { sentinels: 3, replicas: 1, quorum: 2, password: None, more: &[] }
    }
}

// === impl SentinelGroup ===

impl SentinelGroup {
    /// Three Sentinels with a quorum of two, a primary and a replica.
    pub(crate) fn start() -> Self {
        Self::start_as(&GroupShape::default())
    }

    pub(crate) fn start_as(shape: &GroupShape<'_>) -> Self {
        let nodes = servers(shape);
        // Then the first INFO shows them to the Sentinels, and the next one is ten seconds away.
        for replica in &nodes[1..] {
            until("the replica is in step", || {
                replica.client().text("INFO replication").contains("master_link_status:up")
            });
        }
        let name = "mymaster".to_owned();
        let watch = monitor(&name, nodes[0].port(), shape.quorum);
        let sentinels =
            (0..shape.sentinels).map(|_| Sentinel::start(&watch, shape.password)).collect();
        let group = Self { nodes, sentinels, name };
        group.settle(shape.replicas);
        group
    }

    /// Waits until every living Sentinel knows all others and so many replicas.
    pub(crate) fn settle(&self, replicas: usize) {
        let others = self.sentinels.len() - 1;
        until("the Sentinels know each other and the replicas", || {
            self.sentinels.iter().all(|sentinel| {
                sentinel.field(&self.name, "num-other-sentinels") == others.to_string()
                    && sentinel.field(&self.name, "num-slaves") == replicas.to_string()
                    && sentinel.text(&format!("SENTINEL CKQUORUM {}", self.name)).starts_with("+OK")
            })
        });
    }

    /// As `--upstream` wants it: these Sentinels as seeds.
    pub(crate) fn url_of(&self, seeds: &[usize]) -> String {
        let seeds: Vec<String> = seeds.iter().map(|&i| self.sentinels[i].address()).collect();
        format!("redis-sentinel://{}/{}", seeds.join(","), self.name)
    }

    /// As `--upstream` wants it, with all of them.
    pub(crate) fn url(&self) -> String {
        self.url_of(&(0..self.sentinels.len()).collect::<Vec<_>>())
    }
}

/// A primary and its replicas.
pub(crate) fn servers(shape: &GroupShape<'_>) -> Vec<RedisServer> {
    let usual = ["--repl-diskless-sync-delay", "0"];
    let primary = RedisServer::start_with(&[&usual[..], shape.more].concat());
    let port = primary.port().to_string();
    let replica = || {
        let of = ["--replicaof", "127.0.0.1", &port];
        RedisServer::start_with(&[&usual[..], &of, shape.more].concat())
    };
    let replicas: Vec<RedisServer> = (0..shape.replicas).map(|_| replica()).collect();
    std::iter::once(primary).chain(replicas).collect()
}

/// The lines of a Sentinel's file about one master.
pub(crate) fn monitor(name: &str, port: u16, quorum: usize) -> String {
    format!(
        "sentinel monitor {name} 127.0.0.1 {port} {quorum}\n\
         sentinel down-after-milliseconds {name} 1000\n\
         sentinel failover-timeout {name} 4000\n"
    )
}

// === impl Sentinel ===

impl Sentinel {
    /// One that watches what these lines of its file say.
    pub(crate) fn start(watch: &str, password: Option<&str>) -> Self {
        let folder = Folder::new();
        let port = free_port();
        let auth = password.map_or(String::new(), |password| {
            format!("requirepass {password}\nsentinel sentinel-pass {password}\n")
        });
        let path = folder.path().display();
        let first_file = format!("bind 127.0.0.1\nport {port}\ndir {path}\n{auth}{watch}");
        let process = spawn(&folder, &first_file);
        let password = password.map(str::to_owned);
        let sentinel = Self { process, port, folder, first_file, password };
        sentinel.wait();
        sentinel
    }

    /// Ends it as the kernel would.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again with its first file: whatever it learnt is forgotten.
    pub(crate) fn restart_from_first_file(&mut self) {
        self.kill();
        self.process = spawn(&self.folder, &self.first_file);
        self.wait();
    }

    /// Host and port, as a URL names it.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) fn client(&self) -> Client {
        let mut client = Client::connect(self.port);
        if let Some(password) = &self.password {
            assert_eq!(client.text(&format!("AUTH {password}")), "+OK\r\n");
        }
        client
    }

    /// The reply to a command, as text.
    pub(crate) fn text(&self, words: &str) -> String {
        self.client().text(words)
    }

    /// A field of SENTINEL MASTER; empty if there is none.
    pub(crate) fn field(&self, master: &str, name: &str) -> String {
        let reply = self.text(&format!("SENTINEL MASTER {master}"));
        let mut lines = reply.split("\r\n");
        lines.find(|line| *line == name);
        lines.nth(1).unwrap_or_default().to_owned()
    }

    fn wait(&self) {
        until("redis-sentinel answers", || {
            let Ok(mut client) = Client::try_connect(("127.0.0.1", self.port)) else {
                return false;
            };
            client.try_send(&line("PING")).is_ok() && client.try_frame().is_ok()
        });
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        if std::thread::panicking() {
            print_tail("redis-sentinel's log", &self.folder.path().join("sentinel.log"));
        }
    }
}

fn spawn(folder: &Folder, file: &str) -> Process {
    let file = folder.write("sentinel.conf", file);
    let log = folder.path().join("sentinel.log");
    let mut command = Command::new("redis-sentinel");
    Process::start(command.arg(file), &log).expect("redis-sentinel can be started")
}
