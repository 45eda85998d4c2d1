//! What a Sentinel would say, to clients that look for one here: there is one Sentinel and one
//! healthy master, both of which are us.
//!
//! Owns the answers to SENTINEL in front of a Redis behind Sentinel. Never names a real node or a
//! real Sentinel, never changes either: what would is refused. Failovers are ours to follow, so
//! `+switch-master` never comes, and whoever subscribes to it waits in peace.
//!
//! What surprises: the address that is told is the one that the client dialled, or the listener's
//! `announce`. The library connects there once more, asks for ROLE, and is answered by the real
//! primary. There are no replicas: a library that wants one takes the master, or says so.

use std::sync::Arc;

use super::cluster::own_address;
use crate::command::Command;
use crate::config::SentinelSettings;
use crate::refusal::Refusal;
use crate::resp::write::{self, Protocol};
use crate::session::state::Session;
use crate::topology::Topology;
use crate::worker::Worker;

/// The one Sentinel, as one client sees it.
struct View<'a> {
    /// What the master is called here, as by the real Sentinels.
    master: &'a str,
    /// What we are called.
    id: &'a str,
    host: String,
    port: u16,
    protocol: Protocol,
}

/// SENTINEL, whatever its subcommand.
pub(super) fn sentinel(
    worker: &mut Worker,
    topology: &Topology,
    session: &mut Session,
    command: Command<'_>,
) {
    let shared = Arc::clone(&worker.shared);
    let Some(SentinelSettings { master_name, .. }) = &topology.node.settings.sentinel else {
        // The snapshot has changed between the look into its table and this one.
        return worker.answer(session, |line| write::error(line, "ERR unknown command 'SENTINEL'"));
    };
    let (host, port) = own_address(session);
    let protocol = session.protocol;
    let view = View { master: master_name, id: &shared.names.node, host, port, protocol };
    worker.answer(session, |line| view.answer(line, command));
}

// === impl View ===

impl View<'_> {
    fn answer(&self, out: &mut Vec<u8>, command: Command<'_>) {
        let word = command.argument(1).unwrap_or_default().to_ascii_lowercase();
        let about = command.argument(2);
        match (word.as_slice(), command.len()) {
            (b"masters", 2) => {
                write::array_header(out, 1);
                self.state(out);
            }
            (b"myid", 2) => write::bulk(out, self.id.as_bytes()),
            (b"ping", 2) => write::simple(out, "PONG"),
            (b"get-master-addr-by-name", 3) => self.address(out, about),
            (b"master", 3) => self.about(out, about, |out| self.state(out)),
            (b"replicas" | b"slaves" | b"sentinels", 3) => {
                self.about(out, about, |out| write::array_header(out, 0));
            }
            (b"ckquorum", 3) => self.about(out, about, |out| write::simple(out, QUORUM)),
            (b"help", 2) => super::lines(out, &HELP),
            (known, _) if ANSWERED.contains(&known) => {
                let name = String::from_utf8_lossy(known).into_owned();
                let text = format!("ERR wrong number of arguments for 'sentinel|{name}' command");
                write::error(out, &text);
            }
            // Whatever else there is changes something, or speaks of what is not to be seen.
            _ => {
                let why = "it is for a Sentinel itself; this one only tells where the master is";
                Refusal::NotServed { command: "sentinel".into(), why }.write(out);
            }
        }
    }

    /// An answer about the master of that name, if that is ours.
    fn about(&self, out: &mut Vec<u8>, name: Option<&[u8]>, answer: impl FnOnce(&mut Vec<u8>)) {
        if name == Some(self.master.as_bytes()) {
            answer(out);
        } else {
            write::error(out, "ERR No such master with that name");
        }
    }

    /// Where to connect; nowhere that could be said on a unix socket.
    fn address(&self, out: &mut Vec<u8>, name: Option<&[u8]>) {
        if name != Some(self.master.as_bytes()) || self.port == 0 {
            return write::null_array(out, self.protocol);
        }
        write::array_header(out, 2);
        write::bulk(out, self.host.as_bytes());
        write::bulk(out, self.port.to_string().as_bytes());
    }

    /// SENTINEL MASTER of a master that is well and has nobody to take its place: every field that a
    /// library reads, in the order of Sentinel. Numbers are texts there, too.
    fn state(&self, out: &mut Vec<u8>) {
        let port = self.port.to_string();
        let fields: [(&str, &str); 18] = [
            ("name", self.master),
            ("ip", &self.host),
            ("port", &port),
            ("runid", self.id),
            ("flags", "master"),
            ("link-pending-commands", "0"),
            ("link-refcount", "1"),
            ("last-ping-sent", "0"),
            ("last-ok-ping-reply", "0"),
            ("last-ping-reply", "0"),
            ("down-after-milliseconds", "30000"),
            ("role-reported", "master"),
            ("config-epoch", "0"),
            ("num-slaves", "0"),
            ("num-other-sentinels", "0"),
            ("quorum", "1"),
            ("failover-timeout", "180000"),
            ("parallel-syncs", "1"),
        ];
        write::map_header(out, self.protocol, fields.len());
        for (name, value) in fields {
            write::bulk(out, name.as_bytes());
            write::bulk(out, value.as_bytes());
        }
    }
}

/// One Sentinel with a quorum of one agrees with itself.
const QUORUM: &str = "OK 1 usable Sentinels. Quorum and failover authorization can be reached";
/// Subcommands that have an answer.
const ANSWERED: [&[u8]; 10] = [
    b"ckquorum",
    b"get-master-addr-by-name",
    b"help",
    b"master",
    b"masters",
    b"myid",
    b"ping",
    b"replicas",
    b"sentinels",
    b"slaves",
];
/// What is answered here.
const HELP: [&str; 9] = [
    "SENTINEL <subcommand> [<arg> [value] [opt] ...]. Subcommands that are answered here are:",
    "CKQUORUM <master-name>",
    "GET-MASTER-ADDR-BY-NAME <master-name>",
    "MASTER <master-name>",
    "MASTERS",
    "MYID",
    "REPLICAS <master-name>",
    "SENTINELS <master-name>",
    "HELP",
];
