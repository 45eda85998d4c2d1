//! What a cluster looks like to its clients: one healthy node, which is us, and every slot its own.
//!
//! Owns the answers to CLUSTER and to READONLY, READWRITE and ASKING, in front of a Redis Cluster;
//! before anything else, and with `present_as = "standalone"`, they are told that there is no
//! cluster support. Never names a real node or its address, never changes a cluster: what would is
//! refused. COUNTKEYSINSLOT, GETKEYSINSLOT and SLOT-STATS are not answered here: they go to the
//! nodes that own the slots (`route`).
//!
//! What surprises: our address is the one that the client dialled, so each client is told its own.
//! Client libraries leave the first connection and dial what they are told; where they dial another
//! address than the one that arrives here (a forwarded port, a container's network), `[[listener]]
//! announce` has to say so.

use std::hash::BuildHasher;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::command::Command;
use crate::command::spec::Spec;
use crate::refusal::Refusal;
use crate::resp::write::{self, Protocol};
use crate::route::slot::{SLOTS, slot};
use crate::session::state::Session;
use crate::topology::Topology;
use crate::worker::Worker;

use super::cluster_help;

/// What we are called as a node: 40 hexadecimal digits, as Redis names its nodes and shards. Drawn
/// for each process: the same to all of its clients, and no node's.
#[derive(Debug)]
pub struct Names {
    /// CLUSTER MYID.
    pub node: String,
    /// CLUSTER MYSHARDID.
    pub shard: String,
}

/// The one node, as one client sees it.
struct View<'a> {
    /// What we are called: by the node's, which is all that tells us from a real one.
    names: &'a Names,
    /// Where it is found; empty where nobody can say, which libraries take for the address that
    /// they dialled.
    host: String,
    /// 0 where nobody can say.
    port: u16,
    /// Whether that is spoken to in TLS, which CLUSTER SHARDS tells by the name of the port.
    is_tls: bool,
    /// Maps are flat in RESP2, and long texts plain.
    protocol: Protocol,
}

/// CLUSTER, whatever its subcommand.
pub(super) fn cluster(
    worker: &mut Worker,
    topology: &Topology,
    session: &mut Session,
    spec: &Spec,
    command: Command<'_>,
) {
    if !topology.shows_cluster() {
        return worker.answer(session, no_cluster);
    }
    let shared = Arc::clone(&worker.shared);
    let view = View::new(&shared.names, session);
    worker.answer(session, |line| view.answer(line, spec, command));
}

/// READONLY and READWRITE: whether what this client reads may come from a replica.
pub(super) fn read_from(
    worker: &mut Worker,
    topology: &Topology,
    session: &mut Session,
    is_readonly: bool,
) {
    if !topology.shows_cluster() {
        return worker.answer(session, no_cluster);
    }
    set_readonly(session, is_readonly);
    worker.answer(session, super::ok);
}

/// RESET ends READONLY.
pub(super) fn forget_readonly(session: &mut Session) {
    set_readonly(session, false);
}

fn set_readonly(session: &mut Session, is_readonly: bool) {
    session.is_readonly = is_readonly;
    session.client.is_readonly.store(is_readonly, Ordering::Relaxed);
}

/// ASKING: whoever asks here is always right, so it has no effect.
pub(super) fn asking(worker: &mut Worker, topology: &Topology, session: &mut Session) {
    let answer = if topology.shows_cluster() { super::ok } else { no_cluster };
    worker.answer(session, answer);
}

/// Redis's words where there is no cluster.
fn no_cluster(line: &mut Vec<u8>) {
    write::error(line, "ERR This instance has cluster support disabled");
}

/// Why a command is refused where clients are shown a cluster, if it is: whatever is not answered
/// changes something. So is what only a newer server knows; as a question it would be about nodes
/// that are not to be seen.
#[must_use]
pub fn refusal(spec: &Spec) -> Option<Refusal> {
    let word = spec.name.strip_prefix("cluster|")?;
    (!ANSWERED.contains(&word)).then(|| changes_cluster(&spec.name))
}

fn changes_cluster(command: &str) -> Refusal {
    Refusal::ChangesCluster { command: command.into() }
}

/// Subcommands that have an answer, here or from the nodes.
const ANSWERED: [&str; 15] = [
    "count-failure-reports",
    "countkeysinslot",
    "getkeysinslot",
    "help",
    "info",
    "keyslot",
    "links",
    "myid",
    "myshardid",
    "nodes",
    "replicas",
    "shards",
    "slaves",
    "slot-stats",
    "slots",
];

/// Where the client of `session` finds us: at what is announced, else at what it has dialled. Empty
/// and 0 where nobody can say.
pub(super) fn own_address(session: &Session) -> (String, u16) {
    match &session.gate.announced {
        Some(announced) => (announced.host.clone(), announced.port),
        // A path of a unix socket is no address that a node of a cluster could have.
        None => match session.client.local_address.parse::<SocketAddr>() {
            Ok(dialled) => (dialled.ip().to_string(), dialled.port()),
            Err(_) => (String::new(), 0),
        },
    }
}

// === impl Names ===

impl Default for Names {
    fn default() -> Self {
        Self { node: drawn_name(), shard: drawn_name() }
    }
}

/// No part of the process or its address goes into it: two of them behind one address must not look
/// like one node, and whoever connects again after a restart finds a node that has forgotten what
/// the former one had remembered for it.
///
/// 160 bits out of the system's random numbers, which seed the standard hasher.
fn drawn_name() -> String {
    let seed = std::hash::RandomState::new();
    (0..5_u8).map(|part| format!("{:08x}", seed.hash_one(part) & 0xffff_ffff)).collect()
}

// === impl View ===

impl<'a> View<'a> {
    /// As the client of `session` is to see us.
    fn new(names: &'a Names, session: &Session) -> Self {
        let (host, port) = own_address(session);
        Self { names, host, port, is_tls: session.gate.is_tls, protocol: session.protocol }
    }

    /// Appends the answer to one subcommand.
    fn answer(&self, out: &mut Vec<u8>, spec: &Spec, command: Command<'_>) {
        let word = command.argument(2).unwrap_or_default();
        match &*spec.name {
            "cluster|slots" => self.slots(out),
            "cluster|shards" => self.shards(out),
            "cluster|nodes" => write::verbatim(out, self.protocol, self.line().as_bytes()),
            "cluster|info" => write::verbatim(out, self.protocol, INFO.as_bytes()),
            "cluster|myid" => write::bulk(out, self.names.node.as_bytes()),
            "cluster|myshardid" => write::bulk(out, self.names.shard.as_bytes()),
            "cluster|keyslot" => write::integer(out, slot(word).into()),
            // One node has no links to others.
            "cluster|links" => write::array_header(out, 0),
            "cluster|count-failure-reports" => {
                self.about(out, word, |out| write::integer(out, 0));
            }
            "cluster|replicas" | "cluster|slaves" => {
                self.about(out, word, |out| write::array_header(out, 0));
            }
            "cluster|help" => super::lines(out, &cluster_help::LINES),
            name => changes_cluster(name).write(out),
        }
    }

    /// An answer about the node called `name`, if there is one: us.
    fn about(&self, out: &mut Vec<u8>, name: &[u8], answer: impl FnOnce(&mut Vec<u8>)) {
        if name == self.names.node.as_bytes() {
            answer(out);
        } else {
            super::error_about(out, "ERR Unknown node ", name, "");
        }
    }

    /// CLUSTER SLOTS: one range, with the node that has it and no replica behind that.
    fn slots(&self, out: &mut Vec<u8>) {
        write::array_header(out, 1);
        write::array_header(out, 3);
        all_slots(out);
        write::array_header(out, 4);
        write::bulk(out, self.host.as_bytes());
        write::integer(out, self.port.into());
        write::bulk(out, self.names.node.as_bytes());
        // Further names of the node: there are none.
        write::map_header(out, self.protocol, 0);
    }

    /// CLUSTER SHARDS: the same in more words. The offset is that of a node that has replicated
    /// nothing, so that nobody takes us for being behind.
    fn shards(&self, out: &mut Vec<u8>) {
        let text = |out: &mut Vec<u8>, name: &str, text: &str| {
            write::bulk(out, name.as_bytes());
            write::bulk(out, text.as_bytes());
        };
        write::array_header(out, 1);
        write::map_header(out, self.protocol, 2);
        write::bulk(out, b"slots");
        write::array_header(out, 2);
        all_slots(out);
        write::bulk(out, b"nodes");
        write::array_header(out, 1);
        write::map_header(out, self.protocol, 7);
        text(out, "id", &self.names.node);
        write::bulk(out, if self.is_tls { b"tls-port" } else { b"port" });
        write::integer(out, self.port.into());
        text(out, "ip", &self.host);
        text(out, "endpoint", &self.host);
        text(out, "role", "master");
        write::bulk(out, b"replication-offset");
        write::integer(out, 0);
        text(out, "health", "online");
    }

    /// The line of CLUSTER NODES. The port behind the `@` is that of a node's talk with the others,
    /// which Redis puts 10,000 above; nobody listens there, but libraries want to read a number.
    fn line(&self) -> String {
        let bus = self.port.checked_add(10_000).unwrap_or(0);
        let Self { names, host, port, .. } = self;
        format!("{} {host}:{port}@{bus} myself,master - 0 0 1 connected 0-16383\n", names.node)
    }
}

/// Appends the first and the last slot.
fn all_slots(out: &mut Vec<u8>) {
    write::integer(out, 0);
    write::integer(out, i64::from(SLOTS) - 1);
}

/// CLUSTER INFO of one node that has met no other, with the epoch that it got when the cluster was
/// made. It is well whatever happens behind us: a library that was told otherwise would turn to
/// other nodes, and there are none. What is wrong each command's own reply says.
const INFO: &str = "cluster_state:ok\r\n\
cluster_slots_assigned:16384\r\n\
cluster_slots_ok:16384\r\n\
cluster_slots_pfail:0\r\n\
cluster_slots_fail:0\r\n\
cluster_known_nodes:1\r\n\
cluster_size:1\r\n\
cluster_current_epoch:1\r\n\
cluster_my_epoch:1\r\n\
cluster_stats_messages_sent:0\r\n\
cluster_stats_messages_received:0\r\n\
total_cluster_links_buffer_limit_exceeded:0\r\n";
