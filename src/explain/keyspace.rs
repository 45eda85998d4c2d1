//! What the keyspaces of a command's keys make of it, in words.
//!
//! Owns these lines of the answer. Never looks at a node: whether a replica is in step, or a primary
//! away, is known at the moment only. What surprises: without any keyspace in the policy there is no
//! line at all.

use std::io::{self, Write};

use super::Surroundings;
use crate::command::Command;
use crate::command::flags::KeyFlags;
use crate::command::keys::KeyPosition;
use crate::command::spec::Spec;
use crate::policy::keyspaces::Terms;
use crate::refusal::Refusal;
use crate::refusal::keyspace::HeldBack;

/// Prints them. False if the command is refused.
pub(super) fn print(
    around: &Surroundings<'_>,
    spec: &Spec,
    (command, keys): (&Command<'_>, &[KeyPosition]),
    out: &mut impl Write,
) -> io::Result<bool> {
    let Some(keyspaces) = around.policy.keyspaces() else {
        return Ok(true);
    };
    let is_key = |key: &&KeyPosition| !key.flags.contains(KeyFlags::NOT_KEY);
    let named = || {
        let keys = keys.iter().filter(is_key);
        keys.filter_map(|key| command.argument(key.index as usize))
    };
    let Some(terms) = keyspaces.terms(named()) else {
        writeln!(out, "keyspace: none")?;
        return Ok(true);
    };
    let mut told: Vec<&str> = Vec::new();
    for keyspace in named().filter_map(|key| keyspaces.of(key)) {
        if !told.contains(&&*keyspace.name) {
            told.push(&keyspace.name);
            writeln!(out, "keyspace: {} ({})", keyspace.name, keyspace.words())?;
        }
    }
    if told.len() > 1 {
        writeln!(out, "of several keyspaces the strictest holds")?;
    }
    if let Some(keyspace) = terms.readonly.filter(|_| spec.may_write()) {
        let (command, keyspace) = (spec.name.to_string(), keyspace.name.to_string());
        let mut line = Vec::new();
        Refusal::HeldBack(Box::new(HeldBack::ReadOnly { command, keyspace })).write(&mut line);
        write!(out, "refused: {}", String::from_utf8_lossy(&line))?;
        return Ok(false);
    }
    if spec.is_retry_safe() && terms.may_leave_primary() {
        writeln!(out, "served by: {}", server(&terms))?;
    }
    Ok(true)
}

/// Who serves a read.
fn server(terms: &Terms<'_>) -> String {
    use crate::config::ReplicaReads::{PreferReplica, Replica};
    let near = format!("a replica that is at most {} s behind", terms.max_lag / 1_000_000);
    match terms.read_from {
        Some(Replica) => format!("{near}, else nobody"),
        Some(PreferReplica) if terms.reads_while_away => {
            format!("{near}, also while the primary is away, else the primary")
        }
        Some(PreferReplica) => format!("{near}, else the primary"),
        _ => format!("the primary; while it is away {near}"),
    }
}
