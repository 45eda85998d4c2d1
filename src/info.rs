//! INFO: the `# Breakwater` section, and what must not be told of a cluster that clients are not to
//! see.
//!
//! Owns that section's fields, and how it is joined to what the node says. Never asks the node for
//! more than the client did, never touches a reply that is not one whole string: an error, or one
//! of absurd size, passes as it is. A client that asks for everything, or for this section, gets it
//! behind the node's own; one that asks for this section alone is answered here.
//!
//! What surprises: every field begins with `breakwater_`. Client libraries make one flat table of
//! all sections, and an `uptime_in_seconds` of ours would hide the server's.

use std::io::Write;
use std::sync::PoisonError;

use crate::clock::{self, SECOND};
use crate::command::Command;
use crate::command::spec::Spec;
use crate::dispatch::{Dispatched, Settled};
use crate::resp::write::{self, Protocol};
use crate::session::state::Session;
use crate::stats::WorkerStats;
use crate::stats::labels::Outcome;
use crate::topology::Topology;
use crate::upstream::health::chart::State;
use crate::upstream::lane::Role;
use crate::worker::Worker;

/// Whether our section belongs to the reply of this INFO.
#[must_use]
pub fn is_wanted(command: &Command<'_>) -> bool {
    let names_it = |index| WANTED.iter().any(|section| command.has_word_at(index, section));
    command.len() == 1 || (1..command.len()).any(names_it)
}

/// Whether this INFO asks for nothing but our section.
#[must_use]
pub fn is_wanted_alone(command: &Command<'_>) -> bool {
    command.len() > 1 && (1..command.len()).all(|index| command.has_word_at(index, OWN))
}

/// What happens to the reply of this INFO.
#[must_use]
pub fn role(topology: &Topology, command: &Command<'_>) -> Role {
    match is_wanted(command) {
        is_joined if is_joined || topology.hides_cluster() => Role::Info { is_joined },
        _ => Role::Plain,
    }
}

/// Answers an INFO that only asks for our section.
pub fn answer(worker: &mut Worker, session: &mut Session, spec: &Spec) -> Dispatched {
    worker.stats.command(spec.id.stats_index(), Outcome::Local).increment();
    let section = section(worker);
    let protocol = session.protocol;
    worker.answer(session, |line| write::verbatim(line, protocol, &section));
    Dispatched::Done
}

/// The node's reply as clients get it, with our section behind it if that `is_joined`; `None` if it
/// stays as it is.
#[must_use]
pub fn retold(worker: &Worker, settled: &Settled<'_>, is_joined: bool) -> Option<Vec<u8>> {
    let Settled::Reply { bytes, kind, earlier: 0 } = settled else {
        return None;
    };
    let content = bytes.splitn(2, |&byte| byte == b'\n').nth(1)?.strip_suffix(b"\r\n")?;
    let (protocol, text) = match kind {
        b'$' => (Protocol::Resp2, content),
        b'=' => (Protocol::Resp3, content.strip_prefix(b"txt:")?),
        _ => return None,
    };
    // An attribute stands before the string: this is not the frame it seems to be.
    if bytes.first() != Some(kind) {
        return None;
    }
    let hides_cluster = worker.shared.topology.load().hides_cluster();
    let mut text = if hides_cluster { without_cluster(text) } else { text.to_vec() };
    if is_joined {
        if !text.is_empty() {
            text.extend_from_slice(b"\r\n");
        }
        text.extend_from_slice(&section(worker));
    }
    let mut reply = Vec::with_capacity(text.len() + 32);
    write::verbatim(&mut reply, protocol, &text);
    Some(reply)
}

/// What a node of a cluster says, in the words of one that is in none. Whole lines only: a value
/// that a client has chosen (a name, a pattern) may hold the same words.
fn without_cluster(text: &[u8]) -> Vec<u8> {
    text.split_inclusive(|&byte| byte == b'\n').flat_map(told_of).copied().collect()
}

fn told_of(line: &[u8]) -> &[u8] {
    match line {
        b"redis_mode:cluster\r\n" => b"redis_mode:standalone\r\n",
        b"cluster_enabled:1\r\n" => b"cluster_enabled:0\r\n",
        line => line,
    }
}

/// The section, with a line end behind each field.
fn section(worker: &Worker) -> Vec<u8> {
    let shared = &worker.shared;
    let topology = shared.topology.load();
    let (scripts, script_bytes) = shared.scripts.totals();
    let node_state = topology.node.health.state();
    let state = match node_state {
        State::Unknown if worker.stats.lanes.get() == 0 => "connecting",
        State::Unknown => "up",
        other => other.label().as_str(),
    };
    let mut out = b"# Breakwater\r\n".to_vec();
    let mut field = |name: &str, value: &dyn std::fmt::Display| {
        // Writing to a Vec cannot fail.
        let _ = write!(out, "breakwater_{name}:{value}\r\n");
    };
    field("version", &env!("CARGO_PKG_VERSION"));
    field("uptime_in_seconds", &(clock::micros() / SECOND));
    field("clients", &shared.registry.len());
    field("lanes", &total(worker, |stats| stats.lanes.get()));
    field("commands_in_flight", &total(worker, |stats| stats.commands_in_flight.get()));
    field("reply_buffered_bytes", &total(worker, |stats| stats.reply_buffered_bytes.get()));
    field("request_buffered_bytes", &total(worker, |stats| stats.request_buffered_bytes.get()));
    field("scripts", &scripts);
    field("script_bytes", &script_bytes);
    field("upstream", &topology.node.name);
    field("upstream_epoch", &topology.epoch);
    field("upstream_state", &state);
    if let State::Down(failure) = node_state {
        field("upstream_cause", &failure.as_str());
    }
    out
}

/// A gauge, summed over all workers.
fn total(worker: &Worker, gauge: impl Fn(&WorkerStats) -> i64) -> i64 {
    let all = worker.shared.stats.lock().unwrap_or_else(PoisonError::into_inner);
    all.iter().map(|stats| gauge(stats)).sum()
}

/// What the section is called in a request.
const OWN: &str = "breakwater";
/// What it belongs to.
const WANTED: [&str; 4] = [OWN, "all", "everything", "default"];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::tests::Request;
    use crate::upstream::rig::Rig;

    #[test]
    fn the_section_belongs_to_everything_and_to_its_own_name() {
        for line in ["INFO", "INFO ALL", "info server Everything", "INFO breakwater cpu"] {
            let request = Request::words(line);
            assert!(
                is_wanted(&request.command()) && !is_wanted_alone(&request.command()),
                "{line}"
            );
        }
        for line in ["INFO server", "INFO commandstats cpu", "INFO breakwaters"] {
            assert!(!is_wanted(&Request::words(line).command()), "{line}");
        }
        for line in ["INFO breakwater", "INFO BREAKWATER breakwater"] {
            assert!(is_wanted_alone(&Request::words(line).command()), "{line}");
        }
    }

    /// What a client gets for `asked` when the node says `said`, as far as one write carries it,
    /// and its length.
    fn told(asked: &str, said: &[u8]) -> (Vec<u8>, usize) {
        let mut rig = Rig::new();
        let ann = rig.client();
        let words: Vec<&[u8]> = asked.split(' ').map(str::as_bytes).collect();
        let mut bytes = Vec::new();
        write::command(&mut bytes, &words);
        rig.say(ann, &bytes);
        rig.hand_over_all();
        let (head, tail) = said.split_at(said.len() / 2);
        rig.answer(head).unwrap();
        rig.answer(tail).unwrap();
        (rig.owed(ann), rig.worker.sessions.get(ann).unwrap().owed())
    }

    #[test]
    fn it_stands_behind_the_nodes_own_sections_in_either_spelling() {
        for (said, begin, blank) in [
            (&b"$14\r\n# Server\r\na:1\r\n"[..], "# Server\r\na:1\r\n", "\r\n"),
            (b"=18\r\ntxt:# Server\r\na:1\r\n", "txt:# Server\r\na:1\r\n", "\r\n"),
            (b"$0\r\n\r\n", "", ""),
        ] {
            // The text of INFO ends with a line end of its own, which the frame's length counts.
            let mut said = said.to_vec();
            if !blank.is_empty() {
                said.extend_from_slice(b"\r\n");
            }
            let said = String::from_utf8(said).unwrap();
            let (_, content) = said.split_once("\r\n").unwrap();
            let kind = &said[..1];
            let framed = format!("{kind}{}\r\n{content}", content.len() - 2);
            let told = String::from_utf8(told("INFO", framed.as_bytes()).0).unwrap();
            let (header, text) = told.split_once("\r\n").unwrap();
            assert_eq!(header, format!("{kind}{}", text.len() - 2));
            let want = format!("{begin}{blank}# Breakwater\r\nbreakwater_version:");
            assert!(text.starts_with(&want), "{told}");
        }
    }

    #[test]
    fn what_is_no_string_and_what_did_not_ask_for_it_pass_as_they_are() {
        for (asked, said) in [
            ("INFO", &b"-NOPERM no\r\n"[..]),
            ("INFO server", b"$3\r\na:1\r\n"),
            ("INFO", b"|1\r\n+k\r\n+v\r\n$3\r\na:1\r\n"),
        ] {
            assert_eq!(told(asked, said).0, said, "{asked}");
        }
    }

    #[test]
    fn a_reply_of_many_pieces_is_held_and_one_of_absurd_size_is_passed_on() {
        let text = format!("$100000\r\n{}\r\n", "x".repeat(100_000));
        let (ours, length) = told("INFO", text.as_bytes());
        assert!(length > text.len() && ours.starts_with(b"$100") && ours.ends_with(b"\r\n"));
        let text = format!("$3000000\r\n{}\r\n", "x".repeat(3_000_000));
        let (ours, length) = told("INFO", text.as_bytes());
        assert!(length == text.len() && ours.starts_with(b"$3000000\r\n"));
    }

    #[test]
    fn a_cluster_that_is_hidden_is_not_told_of() {
        use crate::config::{ClusterSettings, PresentAs};
        let node = "# Server\r\nredis_mode:cluster\r\nx:redis_mode:cluster\r\n\r\n# Cluster\r\ncluster_enabled:1\r\n";
        let bare = "# Server\r\nredis_mode:standalone\r\nx:redis_mode:cluster\r\n\r\n# Cluster\r\ncluster_enabled:0\r\n";
        let framed = |text: &str| format!("${}\r\n{text}\r\n", text.len()).into_bytes();
        for (present_as, want) in [(PresentAs::Standalone, bare), (PresentAs::Cluster, node)] {
            let rig = Rig::with(|settings| {
                settings.cluster = Some(ClusterSettings {
                    seeds: Vec::new(),
                    present_as,
                    replica_reads: crate::config::ReplicaReads::Primary,
                    replica_max_lag: std::time::Duration::from_secs(1),
                    zone: None,
                });
            });
            let bytes = &framed(node)[..];
            let said = Settled::Reply { bytes, kind: b'$', earlier: 0 };
            assert_eq!(retold(&rig.worker, &said, false), Some(framed(want)));
            let told = String::from_utf8(retold(&rig.worker, &said, true).unwrap()).unwrap();
            let (_, text) = told.split_once("\r\n").unwrap();
            assert!(text.starts_with(&format!("{want}\r\n# Breakwater\r\n")), "{told}");
            let request = Request::words("INFO server");
            let role = role(&rig.worker.shared.topology.load(), &request.command());
            assert_eq!(role != Role::Plain, present_as == PresentAs::Standalone);
        }
    }

    #[test]
    fn asked_for_alone_it_is_answered_here() {
        let mut rig = Rig::new();
        let ann = rig.client();
        rig.say(ann, b"*2\r\n$4\r\nINFO\r\n$10\r\nBreakwater\r\n");
        let told = String::from_utf8(rig.owed(ann)).unwrap();
        assert!(told.contains("\r\nbreakwater_upstream:node:6379\r\n"), "{told}");
        assert!(told.contains("\r\nbreakwater_clients:0\r\n"), "{told}");
    }
}
