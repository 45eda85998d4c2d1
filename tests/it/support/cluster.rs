//! A real Redis Cluster on this machine: formed in seconds, reshaped and hurt on command.
//!
//! Owns the processes of all its nodes, their folders and their ports; all of it goes when the test ends. Never
//! hides a node's answer and never repairs anything by itself: what a test breaks stays broken until the test or
//! the cluster mends it. `mover` moves slots, `view` reads what a node says of the cluster.
//!
//! What surprises: nodes are numbered by the order of their start, primaries first, and keep that number whatever
//! role they come to play. A node refuses to serve for its first two seconds, so that no cluster is ready sooner.

mod mover;
mod view;

use std::process::Command;
use std::sync::LazyLock;

use super::process::{Folder, Process, free_port, print_tail};
use super::relay::Relay;
use super::{Client, eventually, shown, until};

pub(crate) use mover::Mover;
pub(crate) use view::View;

/// What a cluster is made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape<'a> {
    pub(crate) primaries: usize,
    pub(crate) replicas_each: usize,
    pub(crate) node_timeout_ms: u32,
    /// Each node stands behind a relay and announces that one's port, as behind a NAT.
    pub(crate) is_relayed: bool,
    /// Further arguments of each node, which win over the usual ones.
    pub(crate) more: &'a [&'a str],
}

/// The cluster.
pub(crate) struct Cluster {
    nodes: Vec<ClusterNode>,
    arguments: Vec<String>,
    is_relayed: bool,
}

/// One node of it.
struct ClusterNode {
    process: Process,
    /// Its own port, without a relay.
    port: u16,
    bus: u16,
    relay: Option<Relay>,
    arguments: Vec<String>,
    folder: Folder,
    /// It is no member of the cluster.
    is_out: bool,
}

/// How a replica is told to take over.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Failover {
    /// Together with its primary, which hands over without loss.
    Agreed,
    /// The primary is not asked, the others are.
    Forced,
    /// Nobody is asked.
    Takeover,
}

// === impl Cluster ===

impl Cluster {
    /// With two seconds until a node counts as dead, and no persistence.
    pub(crate) fn start(primaries: usize, replicas_each: usize) -> Self {
        Self::start_as(&Shape { primaries, replicas_each, ..Shape::default() })
    }

    /// Three primaries, of which a busy machine makes none look dead: nobody fails here, and a node that is not run
    /// for two seconds would stop the whole cluster.
    pub(crate) fn start_unhurried() -> Self {
        Self::start_as(&Shape { node_timeout_ms: 15_000, ..Shape::default() })
    }

    pub(crate) fn start_as(shape: &Shape<'_>) -> Self {
        let timeout = shape.node_timeout_ms.to_string();
        let mut arguments: Vec<String> = USUAL.iter().copied().map(str::to_owned).collect();
        arguments.extend(["--cluster-node-timeout".to_owned(), timeout]);
        arguments.extend(shape.more.iter().copied().map(str::to_owned));
        let mut cluster = Self { nodes: Vec::new(), arguments, is_relayed: shape.is_relayed };
        for _ in 0..shape.primaries * (1 + shape.replicas_each) {
            cluster.launch();
        }
        cluster.form(shape.primaries);
        cluster
    }

    /// Makes a cluster of the living nodes, which know nobody: equal shares of the slots for the first `primaries`,
    /// and the other nodes in turn their replicas.
    pub(crate) fn form(&self, primaries: usize) {
        let living = self.living();
        let ids: Vec<String> = living.iter().map(|&i| self.id(i)).collect();
        for (place, &i) in living.iter().enumerate() {
            let mut client = self.node(i);
            if place < primaries {
                let (first, last) = share(place, primaries);
                ok(&mut client, &format!("CLUSTER SET-CONFIG-EPOCH {}", place + 1));
                ok(&mut client, &format!("CLUSTER ADDSLOTSRANGE {first} {last}"));
            }
            // Everybody is introduced to everybody: gossip would take seconds.
            for &other in &living[..place] {
                self.nodes[other].meet(&mut client);
            }
        }
        for (place, &i) in living.iter().enumerate().skip(primaries) {
            let words = format!("CLUSTER REPLICATE {}", ids[place % primaries]);
            let mut client = self.node(i);
            until("a replica knows its primary", || client.text(&words) == "+OK\r\n");
        }
        self.settle();
    }

    /// Waits until every living member sees the same owners and members, nothing failed, and replicas in step.
    pub(crate) fn settle(&self) {
        let living: Vec<usize> = self.living();
        let ids: Vec<String> = living.iter().map(|&i| self.id(i)).collect();
        until("the cluster has settled", || {
            let views: Vec<View> = living.iter().map(|&i| self.view(i)).collect();
            let claims: Vec<(String, Vec<(u16, u16)>)> = views
                .iter()
                .map(|view| (view.own().id.clone(), view.own().slots.clone()))
                .collect();
            let agree = views.iter().all(|view| {
                // Where a node has died its entry remains, and somebody else has its slots.
                ids.iter().all(|id| view.entry(id).is_some_and(|entry| entry.is_well()))
                    && claims.iter().all(|(id, slots)| view.slots_of(id) == *slots)
                    && ids.iter().all(|id| view.primary_of(id) == views[0].primary_of(id))
            });
            let replicas = |i: usize| {
                let id = Some(&*ids[i]);
                ids.iter().filter(|replica| views[0].primary_of(replica) == id).count()
            };
            agree && living.iter().enumerate().all(|(n, &i)| self.is_serving(i, replicas(n)))
        });
    }

    /// Whether the node calls the cluster whole and its replicas are in step.
    fn is_serving(&self, i: usize, replicas: usize) -> bool {
        let mut client = self.node(i);
        let first = self.view(i).own().slots.first().copied();
        // What INFO calls online may have copied everything and be sent nothing more for a second: only a write that
        // has arrived is a proof.
        let is_in_step = replicas == 0
            || first.is_none_or(|(slot, _)| {
                let key = key_in(slot, 0) + ":in-step";
                client.text(&format!("SET {key} 1"));
                client.text(&format!("DEL {key}"));
                client.text(&format!("WAIT {replicas} 100")) == format!(":{replicas}\r\n")
            });
        is_in_step
            && client.text("CLUSTER INFO").contains("cluster_state:ok")
            && !client.text("INFO replication").contains("master_link_status:down")
    }

    /// A client of the node itself, past any relay.
    pub(crate) fn node(&self, i: usize) -> Client {
        self.nodes[i].client()
    }

    /// Every node that ever was, the dead ones included.
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The node's own port.
    pub(crate) fn port(&self, i: usize) -> u16 {
        self.nodes[i].port
    }

    /// The port that the node tells others.
    pub(crate) fn announced(&self, i: usize) -> u16 {
        self.nodes[i].announced()
    }

    /// The relay before the node.
    pub(crate) fn relay(&self, i: usize) -> &Relay {
        self.nodes[i].relay.as_ref().expect("the cluster was started with relays")
    }

    /// As `--upstream` wants it: the first three nodes are the seeds.
    pub(crate) fn url(&self) -> String {
        self.url_of(&(0..self.nodes.len().min(3)).collect::<Vec<_>>())
    }

    /// With these nodes as seeds.
    pub(crate) fn url_of(&self, seeds: &[usize]) -> String {
        let seeds: Vec<String> =
            seeds.iter().map(|&i| format!("127.0.0.1:{}", self.announced(i))).collect();
        format!("redis-cluster://{}", seeds.join(","))
    }

    /// The node's name in the cluster.
    pub(crate) fn id(&self, i: usize) -> String {
        let reply = self.node(i).text("CLUSTER MYID");
        reply.lines().nth(1).expect("a node knows its name").to_owned()
    }

    /// What the node says of the cluster.
    pub(crate) fn view(&self, i: usize) -> View {
        View::of(&mut self.node(i))
    }

    /// Members that run and are not stopped by [`Self::stop`].
    pub(crate) fn living(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|&i| self.nodes[i].is_member()).collect()
    }

    /// Who says of itself that it serves the slot: the living primary with the highest epoch.
    pub(crate) fn owner(&self, slot: u16) -> usize {
        let living = self.living().into_iter();
        let claims = living.filter_map(|i| {
            let view = self.view(i);
            let own = view.own();
            (own.is_primary && own.has(slot)).then_some((own.epoch, i))
        });
        claims.max().map(|(_, i)| i).unwrap_or_else(|| panic!("nobody serves slot {slot}"))
    }

    /// The number of each slot's owner, by what the owners say.
    pub(crate) fn owners(&self) -> Vec<usize> {
        let mut owners = vec![(0, usize::MAX); usize::from(SLOTS)];
        for i in self.living() {
            let view = self.view(i);
            let own = view.own();
            for &(first, last) in own.slots.iter().filter(|_| own.is_primary) {
                for slot in first..=last {
                    let claim = &mut owners[usize::from(slot)];
                    *claim = (*claim).max((own.epoch + 1, i));
                }
            }
        }
        owners.into_iter().map(|(_, i)| i).collect()
    }

    /// The living replicas of the node, as they say themselves.
    pub(crate) fn replicas_of(&self, i: usize) -> Vec<usize> {
        let id = self.id(i);
        let all = self.living().into_iter();
        all.filter(|&other| self.view(other).own().primary.as_deref() == Some(&id)).collect()
    }

    /// Somebody who moves slots, with connections of its own to all living nodes.
    pub(crate) fn mover(&self) -> Mover {
        let ends = (0..self.nodes.len()).map(|i| {
            let is_member = self.nodes[i].is_member();
            is_member.then(|| (self.node(i), self.port(i), self.id(i)))
        });
        Mover::new(ends.collect())
    }

    /// Moves one slot with its keys, as redis-cli does.
    pub(crate) fn move_slot(&self, slot: u16, from: usize, to: usize) {
        self.mover().move_slot(slot, from, to);
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self, i: usize) {
        self.nodes[i].process.kill();
    }

    /// Starts a killed node again, with what it remembers of the cluster; waits until it answers.
    pub(crate) fn restart(&mut self, i: usize) {
        let node = &mut self.nodes[i];
        node.process.kill();
        eventually("a node starts again", || {
            node.process = spawn(&node.arguments, &node.folder);
            node.has_started().then_some(())
        });
    }

    /// SIGSTOP: its kernel goes on accepting connections and bytes, nothing answers.
    pub(crate) fn stop(&mut self, i: usize) {
        self.nodes[i].process.signal("STOP");
        self.nodes[i].is_out = true;
    }

    /// SIGCONT.
    pub(crate) fn cont(&mut self, i: usize) {
        self.nodes[i].process.signal("CONT");
        self.nodes[i].is_out = false;
    }

    /// Makes the replica `i` a primary, and waits until it says that it is one.
    pub(crate) fn failover(&self, i: usize, how: Failover) {
        let words = match how {
            Failover::Agreed => "CLUSTER FAILOVER",
            Failover::Forced => "CLUSTER FAILOVER FORCE",
            Failover::Takeover => "CLUSTER FAILOVER TAKEOVER",
        };
        ok(&mut self.node(i), words);
        self.wait_promoted(i);
    }

    /// Waits until the node says that it is a primary with slots.
    pub(crate) fn wait_promoted(&self, i: usize) {
        let mut client = self.node(i);
        until("the replica is promoted", || {
            let view = View::of(&mut client);
            view.own().is_primary && !view.own().slots.is_empty()
        });
    }

    /// Starts one more node, a primary without slots, and waits until everybody knows it.
    pub(crate) fn add_node(&mut self) -> usize {
        self.launch();
        let last = self.nodes.len() - 1;
        let mut client = self.node(last);
        for i in self.living() {
            if i != last {
                self.nodes[i].meet(&mut client);
            }
        }
        self.settle();
        last
    }

    /// Takes a node without slots out of the cluster, and ends it.
    pub(crate) fn forget(&mut self, i: usize) {
        let id = self.id(i);
        self.nodes[i].is_out = true;
        self.kill(i);
        for other in self.living() {
            let reply = self.node(other).text(&format!("CLUSTER FORGET {id}"));
            // Somebody else's gossip may have been faster.
            assert!(reply == "+OK\r\n" || reply.contains("Unknown node"), "{reply}");
        }
    }

    /// All nodes forget everything, their keys and names included; [`Self::form`] makes a cluster of them again.
    pub(crate) fn reset_hard_all(&self) {
        for i in self.living() {
            let mut client = self.node(i);
            if self.view(i).own().is_primary {
                ok(&mut client, "FLUSHALL");
            }
            ok(&mut client, "CLUSTER RESET HARD");
        }
    }

    /// How often all living nodes were asked a command, as in `cluster|slots`.
    pub(crate) fn calls(&self, command: &str) -> u64 {
        self.sum("commandstats", &format!("cmdstat_{command}:calls="))
    }

    /// How often all living nodes answered an error of this code, as in `MOVED`.
    pub(crate) fn errors(&self, code: &str) -> u64 {
        self.sum("errorstats", &format!("errorstat_{code}:count="))
    }

    /// How often one node answered such an error.
    pub(crate) fn errors_of(&self, i: usize, code: &str) -> u64 {
        self.count(i, "errorstats", &format!("errorstat_{code}:count="))
    }

    fn sum(&self, section: &str, head: &str) -> u64 {
        self.living().into_iter().map(|i| self.count(i, section, head)).sum()
    }

    /// The number behind `head` in a section of the node's INFO.
    fn count(&self, i: usize, section: &str, head: &str) -> u64 {
        let stats = self.node(i).text(&format!("INFO {section}"));
        let line = stats.lines().find_map(|line| line.strip_prefix(head));
        line.and_then(|line| line.split(',').next()?.parse().ok()).unwrap_or(0)
    }

    fn launch(&mut self) {
        let node = ClusterNode::launch(&self.arguments, self.is_relayed);
        self.nodes.push(node);
    }
}

// === impl ClusterNode ===

impl ClusterNode {
    fn launch(usual: &[String], is_relayed: bool) -> Self {
        for _ in 0..START_ATTEMPTS {
            let folder = Folder::new();
            let (port, bus) = (free_port(), free_port());
            let relay = is_relayed.then(|| Relay::before(port));
            let mut arguments = vec!["--port".to_owned(), port.to_string()];
            arguments.extend(["--cluster-port".to_owned(), bus.to_string()]);
            arguments.extend(["--dir".to_owned(), folder.path().display().to_string()]);
            if let Some(relay) = &relay {
                arguments.extend(["--cluster-announce-port".to_owned(), relay.port().to_string()]);
            }
            arguments.extend(usual.iter().cloned());
            let process = spawn(&arguments, &folder);
            let mut node = Self { process, port, bus, relay, arguments, folder, is_out: false };
            if node.has_started() {
                return node;
            }
        }
        panic!("redis-server did not start as a cluster node in {START_ATTEMPTS} attempts");
    }

    /// Waits until it answers; false if it has ended, because a port was taken.
    fn has_started(&mut self) -> bool {
        eventually("a cluster node answers", || {
            if self.process.status().is_some() {
                return Some(false);
            }
            let mut client = Client::try_connect(("127.0.0.1", self.port)).ok()?;
            client.try_send(b"PING\r\n").ok()?;
            (client.try_frame().ok()? == b"+PONG\r\n").then_some(true)
        })
    }

    fn client(&self) -> Client {
        Client::connect(self.port)
    }

    fn announced(&self) -> u16 {
        self.relay.as_ref().map_or(self.port, Relay::port)
    }

    /// Introduces this node to the one that `client` speaks to.
    fn meet(&self, client: &mut Client) {
        ok(client, &format!("CLUSTER MEET 127.0.0.1 {} {}", self.announced(), self.bus));
    }

    fn is_member(&self) -> bool {
        let is_running = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id()));
        !self.is_out && is_running.is_ok_and(|stat| !stat.contains(") Z "))
    }
}

impl Drop for ClusterNode {
    fn drop(&mut self) {
        if std::thread::panicking() {
            print_tail(&format!("node {}", self.port), &self.folder.path().join("redis.log"));
        }
    }
}

// === impl Shape ===

impl Default for Shape<'_> {
    fn default() -> Self {
        Self { primaries: 3, replicas_each: 0, node_timeout_ms: 2000, is_relayed: false, more: &[] }
    }
}

/// First and last slot of one of `primaries` equal shares.
pub(crate) fn share(i: usize, primaries: usize) -> (u16, u16) {
    let begin = |i: usize| (usize::from(SLOTS) * i / primaries) as u16;
    (begin(i), begin(i + 1) - 1)
}

/// The `n`th key of a slot.
pub(crate) fn key_in(slot: u16, n: usize) -> String {
    /// For each slot a number whose digits, as a hash tag, fall into it.
    static TAGS: LazyLock<Vec<u32>> = LazyLock::new(|| {
        let mut tags = vec![u32::MAX; usize::from(SLOTS)];
        let (mut left, mut next) = (tags.len(), 0_u32);
        while left > 0 {
            let place = &mut tags[usize::from(slot_of(&next.to_string()))];
            left -= usize::from(*place == u32::MAX);
            *place = (*place).min(next);
            next += 1;
        }
        tags
    });
    format!("{{{}}}:{n}", TAGS[usize::from(slot)])
}

/// The slot of a key.
pub(crate) fn slot_of(key: &str) -> u16 {
    breakwater::route::slot::slot(key.as_bytes())
}

/// Asks what must be answered with `+OK`.
fn ok(client: &mut Client, words: &str) {
    let reply = client.ask(words);
    assert_eq!(reply, b"+OK\r\n", "{words}: {}", shown(&reply));
}

fn spawn(arguments: &[String], folder: &Folder) -> Process {
    let log = folder.path().join("redis.log");
    match Process::start(Command::new("redis-server").args(arguments), &log) {
        Ok(process) => process,
        Err(error) => panic!("redis-server cannot be started ({error}): deploy/install-redis.sh"),
    }
}

/// Slots of a cluster.
pub(crate) const SLOTS: u16 = 16_384;
/// A port may be taken between its choice and its use.
const START_ATTEMPTS: usize = 5;
/// Arguments of every node. Replicas stay where a test puts them, and are in step as soon as they can be.
const USUAL: [&str; 16] = [
    "--cluster-enabled",
    "yes",
    "--bind",
    "127.0.0.1",
    "--save",
    "",
    "--appendonly",
    "no",
    "--daemonize",
    "no",
    "--repl-diskless-sync-delay",
    "0",
    "--cluster-allow-replica-migration",
    "no",
    "--cluster-replica-no-failover",
    "no",
];
