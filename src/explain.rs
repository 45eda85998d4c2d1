//! `breakwater explain`: what would happen to a command, without asking any server.
//!
//! Owns the words of that answer: whether the command is known, served, answered here or refused, its keys and
//! slots, and the kind of connection it would take. Never dials: the built-in table is what it knows.
//!
//! What surprises: the answer is about this build's own rules. The node may know more commands than the table
//! (modules), or fewer (an older version); a running proxy learns that when it connects.

use std::io::{self, Write};

use crate::cli::{self, ExplainFlags};
use crate::command::Command;
use crate::command::errors;
use crate::command::keys::{self, KeyPosition};
use crate::command::spec::{Class, Lane, Spec};
use crate::command::table::Table;
use crate::config::{Mode, PresentAs, Settings, UpstreamSettings};
use crate::dispatch;
use crate::dispatch::gather::Spread;
use crate::refusal::Refusal;
use crate::resp::limits::Limits;
use crate::resp::request::{RequestScanner, Scanned};
use crate::resp::write;
use crate::route::slot::slot;
use crate::route::split::Split;
use crate::route::{self, Place};
use crate::session::local::cluster;
use crate::topology;
use crate::topology::slots::NodeId;

/// Explains the command of `flags`. True if it would be served, so that the exit code can be used in scripts.
///
/// # Errors
/// If `out` cannot be written.
pub fn run(flags: &ExplainFlags, out: &mut impl Write) -> io::Result<bool> {
    let run_flags = flags.run_flags();
    let mut upstream = None;
    if run_flags.upstream.is_some() || run_flags.config.is_some() || run_flags.policy.is_some() {
        match Settings::load(&run_flags) {
            Ok(settings) => upstream = Some(settings.upstream),
            Err(complaints) => {
                cli::report(&complaints, out)?;
                return Ok(false);
            }
        }
    }
    let mut table = Table::builtin();
    if let Some(upstream) = &upstream {
        match table.rename(&upstream.renamed) {
            Ok(renamed) => {
                table = topology::with_our_answers(renamed, upstream)
                    .writes_refused(upstream.mode == Mode::ReadOnly);
            }
            Err(error) => {
                writeln!(out, "[upstream.renamed]: {error}")?;
                return Ok(false);
            }
        }
    }
    let place = match &upstream {
        Some(UpstreamSettings { cluster: Some(cluster), .. }) => {
            Upstream::Cluster(cluster.present_as)
        }
        Some(upstream) => Upstream::One(upstream.endpoint.to_string()),
        None => Upstream::One("the upstream".to_owned()),
    };
    explain(&table, &flags.arguments(), &place, out)
}

/// What stands behind, as far as the answer depends on it.
enum Upstream {
    /// One Redis, by its name.
    One(String),
    /// A cluster: where a command goes depends on its keys.
    Cluster(PresentAs),
}

/// The answer for one command.
fn explain(
    table: &Table,
    arguments: &[Vec<u8>],
    upstream: &Upstream,
    out: &mut impl Write,
) -> io::Result<bool> {
    let mut frame = Vec::new();
    let arguments: Vec<&[u8]> = arguments.iter().map(Vec::as_slice).collect();
    write::command(&mut frame, &arguments);
    let mut scanner = RequestScanner::default();
    let Ok(Scanned::Command { length }) = scanner.scan(&frame, &Limits::default(), true) else {
        writeln!(out, "refused: the command exceeds a limit of the protocol")?;
        return Ok(false);
    };
    let (bytes, spans) = scanner.arguments(&frame, length);
    let command = Command::new(bytes, spans);
    match table.resolve(&command) {
        Err(unknown) => {
            let mut line = Vec::new();
            errors::unknown(&mut line, unknown, &command);
            answered_with(&line, out)
        }
        Ok(spec) if spec.is_barred() => {
            let mut line = Vec::new();
            Refusal::ReadOnlyMode { command: spec.name.to_string() }.write(&mut line);
            write!(out, "refused: {}", String::from_utf8_lossy(&line))?;
            Ok(false)
        }
        Ok(spec) if !spec.accepts(command.len()) => {
            let mut line = Vec::new();
            errors::wrong_arity(&mut line, spec);
            answered_with(&line, out)
        }
        Ok(spec) => known(spec, &command, upstream, out),
    }
}

fn answered_with(line: &[u8], out: &mut impl Write) -> io::Result<bool> {
    write!(out, "answered here, as Redis does: {}", String::from_utf8_lossy(line))?;
    Ok(false)
}

fn known(
    spec: &Spec,
    command: &Command<'_>,
    upstream: &Upstream,
    out: &mut impl Write,
) -> io::Result<bool> {
    writeln!(out, "command: {} ({})", spec.name, nature(spec))?;
    print_keys(spec, command, out)?;
    writeln!(out, "rule: none (profile open)")?;
    let target = match upstream.target(spec, command) {
        Ok(target) => target,
        Err(line) => {
            write!(out, "refused: {}", String::from_utf8_lossy(&line))?;
            return Ok(false);
        }
    };
    let is_served = match spec.class_for(command) {
        Class::Shared => {
            let lane = match spec.lane_for(command) {
                Lane::Fast => "fast",
                Lane::Bulk => "bulk",
            };
            writeln!(out, "goes to: {target}, on the shared {lane} lane")?;
            true
        }
        Class::Local => {
            writeln!(out, "goes to: nowhere, it is answered here")?;
            true
        }
        Class::Subscriber => {
            writeln!(out, "goes to: {target}, on the worker's subscriber link")?;
            true
        }
        Class::Pinned => {
            writeln!(out, "goes to: {target}, on a connection of its client's own")?;
            true
        }
        Class::Structural => {
            let mut line = Vec::new();
            dispatch::not_served(spec).write(&mut line);
            write!(out, "refused: {}", String::from_utf8_lossy(&line))?;
            false
        }
    };
    if is_served && spec.class == Class::Shared {
        let again = if spec.is_retry_safe() { "sent again" } else { "never sent again" };
        writeln!(out, "if the connection is lost after it was sent: {again}")?;
    }
    Ok(is_served)
}

// === impl Upstream ===

impl Upstream {
    /// Who gets a command, in words; the error is the whole line that its client gets instead.
    fn target(&self, spec: &Spec, command: &Command<'_>) -> Result<String, Vec<u8>> {
        let present_as = match self {
            Self::One(name) => return Ok(name.clone()),
            Self::Cluster(present_as) => *present_as,
        };
        let mut line = Vec::new();
        if let Some(refusal) = cluster::refusal(spec).filter(|_| present_as == PresentAs::Cluster) {
            refusal.write(&mut line);
            return Err(line);
        }
        let mut keys = Vec::new();
        Ok(match route::place(spec, command, &mut keys) {
            Place::Slot(slot) => format!("the owner of slot {slot}"),
            Place::Several => {
                // By the same cut as of a running proxy, with every slot on a node of its own.
                let cut = Split::default().cut(spec, command, &keys, |slot| Some(NodeId(slot)));
                if cut.is_err() {
                    dispatch::cluster::cross_slot(&mut line);
                    return Err(line);
                }
                "the owners of its slots, a part to each".to_owned()
            }
            Place::Anywhere => match Spread::of(spec) {
                Some(Spread::Everywhere { with_replicas: false }) => "every primary".to_owned(),
                Some(Spread::Everywhere { with_replicas: true }) => "every node".to_owned(),
                Some(Spread::Scan) => "one primary after the other".to_owned(),
                None => "any primary".to_owned(),
            },
        })
    }
}

fn nature(spec: &Spec) -> &'static str {
    if spec.is_write() {
        "write"
    } else if spec.is_readonly() {
        "read-only"
    } else {
        "neither read nor write"
    }
}

fn print_keys(spec: &Spec, command: &Command<'_>, out: &mut impl Write) -> io::Result<()> {
    let mut positions: Vec<KeyPosition> = Vec::new();
    if keys::keys(spec, command, &mut positions).is_err() || positions.is_empty() {
        return writeln!(out, "keys: none");
    }
    for position in positions {
        let key = command.argument(position.index as usize).unwrap_or_default();
        writeln!(out, "key: {} (slot {})", String::from_utf8_lossy(key), slot(key))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explained(words: &[&str]) -> (bool, String) {
        let arguments: Vec<Vec<u8>> = words.iter().map(|word| word.as_bytes().to_vec()).collect();
        let mut out = Vec::new();
        let upstream = Upstream::One("h:1".to_owned());
        let is_served = explain(&Table::builtin(), &arguments, &upstream, &mut out).unwrap();
        (is_served, String::from_utf8(out).unwrap())
    }

    #[test]
    fn in_a_cluster_the_keys_decide() {
        for (line, want) in [
            ("get foo", "goes to: the owner of slot 12182, on the shared fast lane"),
            (
                "blpop foo 0",
                "goes to: the owner of slot 12182, on a connection of its client's own",
            ),
            ("mget foo bar", "goes to: the owners of its slots, a part to each, on the shared"),
            ("dbsize", "goes to: every primary, "),
            ("scan 0", "goes to: one primary after the other, "),
            ("echo x", "goes to: nowhere"),
            ("time", "goes to: any primary, "),
            ("cluster countkeysinslot 7", "goes to: the owner of slot 7, "),
            ("cluster slots", "goes to: nowhere"),
            ("cluster meet h 1", "refused: -NOPERM breakwater: 'cluster|meet' changes the cluster"),
            ("rename foo bar", "refused: -CROSSSLOT Keys in request don't hash to the same slot"),
        ] {
            let url = Some("redis-cluster://h".to_owned());
            let flags = crate::cli::RunFlags { upstream: url, ..Default::default() };
            let settings = Settings::load(&flags).unwrap().upstream;
            let table = topology::with_our_answers(Table::builtin(), &settings);
            let arguments: Vec<Vec<u8>> =
                line.split(' ').map(|word| word.as_bytes().to_vec()).collect();
            let mut out = Vec::new();
            let upstream = Upstream::Cluster(PresentAs::Cluster);
            let is_served = explain(&table, &arguments, &upstream, &mut out).unwrap();
            let text = String::from_utf8(out).unwrap();
            assert!(text.contains(want), "{line}: {text}");
            assert_eq!(is_served, want.starts_with("goes"), "{line}");
        }
    }

    #[test]
    fn a_read_goes_to_a_lane_and_may_be_sent_again() {
        let (is_served, text) = explained(&["get", "foo"]);
        assert!(is_served);
        assert!(text.contains("key: foo (slot 12182)"), "{text}");
        assert!(text.contains("goes to: h:1, on the shared fast lane"), "{text}");
        assert!(text.contains(": sent again"), "{text}");
    }

    #[test]
    fn what_keeps_state_or_waits_has_a_connection_of_its_own() {
        for words in [&["multi"][..], &["blpop", "k", "0"], &["client", "tracking", "on"]] {
            let (is_served, text) = explained(words);
            assert!(is_served && text.contains("on a connection of its client's own"), "{text}");
        }
    }

    #[test]
    fn what_is_not_served_says_why() {
        for words in [&["sync"][..], &["psync", "?", "-1"]] {
            let (is_served, text) = explained(words);
            assert!(!is_served && text.contains("is not served: "), "{text}");
        }
        assert!(!explained(&["nosuch"]).0);
        assert!(!explained(&["get"]).0);
    }
}
