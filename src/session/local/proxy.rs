//! PROXY: what we would do with a command, for anybody with redis-cli.
//!
//! Owns the answers to `PROXY WHY`, `PROXY POLICY` and `PROXY HELP`. Never runs the command that it is
//! asked about, never counts it, never shows what another client has done. The rules are tried for
//! the client that asks, so the answer is the one that its command would get.
//!
//! What surprises: the lines are bulk strings, as a key among them may hold any byte. If the upstream
//! has a command of that name, ours stands in front of it.

use std::sync::Arc;

use crate::command::Command;
use crate::dispatch::judge;
use crate::explain::{Surroundings, Upstream, explain};
use crate::governor::Governor;
use crate::policy::Policy;
use crate::policy::rule::Rule;
use crate::resp::write;
use crate::session::state::Session;
use crate::topology::Topology;
use crate::worker::Worker;

/// PROXY, whatever its subcommand.
pub(super) fn proxy(
    worker: &mut Worker,
    topology: &Topology,
    session: &mut Session,
    command: Command<'_>,
) {
    let policy = Arc::clone(worker.policy.load());
    let word = command.argument(1).unwrap_or_default();
    let about: Vec<&[u8]> = command.arguments().skip(2).collect();
    match (word.to_ascii_lowercase().as_slice(), about.as_slice()) {
        (b"why", [_, ..]) => {
            let governor = &worker.shared.governor;
            let text = why((topology, governor), session, &policy, &about);
            worker.answer(session, |line| bulks(line, text.split(|byte| *byte == b'\n')));
        }
        (b"policy", []) => {
            let lines = rules(&policy);
            worker.answer(session, |line| bulks(line, lines.iter().map(String::as_bytes)));
        }
        (b"policy", [name]) => match rule(&policy, name) {
            Some(lines) => {
                worker.answer(session, |line| bulks(line, lines.iter().map(String::as_bytes)));
            }
            None => worker.answer(session, |line| write::error(line, "ERR No such rule")),
        },
        (b"help", []) => worker.answer(session, |line| super::lines(line, &HELP)),
        (known @ (b"why" | b"policy" | b"help"), _) => {
            let name = String::from_utf8_lossy(known);
            let text = format!("ERR wrong number of arguments for 'proxy|{name}' command");
            worker.answer(session, |line| write::error(line, &text));
        }
        _ => worker.answer(session, |line| {
            super::error_about(line, "ERR unknown subcommand '", word, "'. Try PROXY HELP.");
        }),
    }
}

/// What would become of a command of this client.
fn why(
    (topology, governor): (&Topology, &Governor),
    session: &Session,
    policy: &Policy,
    about: &[&[u8]],
) -> Vec<u8> {
    let mut text = Vec::new();
    judge::as_caller(session, |caller| {
        let upstream = Upstream::behind(topology);
        let (table, governor) = (&topology.table, Some(governor));
        let around = Surroundings { table, policy, caller, upstream, governor };
        // Writing to memory cannot fail.
        let _ = explain(&around, about, &mut text);
    });
    text
}

/// A line for the policy, and one for each rule.
fn rules(policy: &Policy) -> Vec<String> {
    let Policy { version, profile, .. } = *policy;
    let (count, name) = (policy.rules().len(), profile.name());
    let mut lines = vec![format!("policy {version}, profile {name}, {count} rules")];
    lines.extend(policy.rules().iter().take(RULES_MAX).map(|rule| {
        let (name, origin, action) = (&rule.name, rule.origin.as_str(), rule.action.as_str());
        format!("{name} ({origin}): {action}, {}", rule.standing(profile))
    }));
    if count > RULES_MAX {
        lines.push(format!("and {} more: see /policy of the admin port", count - RULES_MAX));
    }
    lines
}

/// What one rule says and how often it did.
fn rule(policy: &Policy, name: &[u8]) -> Option<Vec<String>> {
    let rule: &Arc<Rule> = policy.rules().iter().find(|rule| rule.name.as_bytes() == name)?;
    let (origin, does) = (rule.origin.as_str(), rule.action.words());
    let mut lines = vec![
        format!("rule: {} ({origin}), policy {}", rule.name, policy.version),
        format!("action: {}, what it matches {does}", rule.action.as_str()),
        format!("standing: {}", rule.standing(policy.profile)),
    ];
    lines.extend(rule.message.as_ref().map(|message| format!("message: {message}")));
    let (hits, refused, spared) = (rule.tally.hits(), rule.tally.refused(), rule.tally.spared());
    lines.push(format!("hits: {hits}, refused {refused}, would have refused {spared}"));
    Some(lines)
}

/// Appends lines as an array; the last line end leaves no empty one behind.
fn bulks<'a>(line: &mut Vec<u8>, lines: impl Iterator<Item = &'a [u8]>) {
    let lines: Vec<&[u8]> = lines.filter(|line| !line.is_empty()).collect();
    write::array_header(line, lines.len());
    for text in lines {
        write::bulk(line, text.strip_suffix(b"\r").unwrap_or(text));
    }
}

/// Most rules that one answer lists.
const RULES_MAX: usize = 1_000;
/// What is answered here.
const HELP: [&str; 7] = [
    "PROXY <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "WHY <command> [<arg> ...]",
    "    What would happen to this command of yours, by which rule, and where it would go.",
    "POLICY [<rule>]",
    "    The rules in force, or one of them.",
    "HELP",
    "    Print this help.",
];
