//! What would happen to a command, without asking any server: `breakwater explain`, `PROXY WHY`, `/policy/explain`.
//!
//! Owns the words of that answer: whether the command is known, served, answered here or refused, by which rule, its
//! keys and slots, and the kind of connection it would take. Never dials and never counts: [`Policy::judge`] decides
//! here as it does on the path.
//!
//! What surprises: without a running proxy the answer is about this build's own table. The node may know more commands
//! (modules), or fewer (an older version); a running proxy learns that when it connects. And a rule about who asks is
//! tried for nobody in particular there, while `PROXY WHY` tries it for the very client that asks.

mod keyspace;
mod running;

use std::io::{self, Write};
use std::sync::Arc;

use crate::cli::{self, ExplainFlags};
use crate::clock;
use crate::command::Command;
use crate::command::errors;
use crate::command::keys::{self, KeyPosition};
use crate::command::spec::{Class, Lane, Spec};
use crate::command::table::Table;
use crate::config::{
    Complaint, Fault, Mode, PresentAs, Profile, Settings, UPSTREAM_DEFAULT, UpstreamSettings,
};
use crate::dispatch;
use crate::dispatch::gather::Spread;
use crate::governor::Governor;
use crate::governor::admit::{self, Court};
use crate::policy::rule::{Action, Rule};
use crate::policy::{self, Caller, Case, Policy};
use crate::refusal::Refusal;
use crate::refusal::denied::Denied;
use crate::resp::limits::Limits;
use crate::resp::request::{RequestScanner, Scanned};
use crate::resp::write;
use crate::route::slot::slot;
use crate::route::split::Split;
use crate::route::{self, Place};
use crate::session::held;
use crate::session::local::cluster;
use crate::topology::slots::{NodeId, SlotMap};
use crate::topology::{self, Topology};

/// What an answer depends on besides the command.
pub struct Surroundings<'a> {
    /// The commands that are known.
    pub table: &'a Table,
    /// The rules.
    pub policy: &'a Policy,
    /// Who asks.
    pub caller: &'a Caller<'a>,
    /// What stands behind.
    pub upstream: Upstream,
    /// What the proxy that is asked knows of scripts, if one is.
    pub governor: Option<&'a Governor>,
}

/// What stands behind, as far as the answer depends on it.
pub enum Upstream {
    /// One Redis, by its name.
    One(String),
    /// A cluster: where a command goes depends on its keys, and on the map if there is one.
    Cluster(PresentAs, Option<Arc<SlotMap>>),
}

/// Explains the command of `flags`. True if it would be served, so that the exit code can be used in scripts.
///
/// # Errors
/// If `out` cannot be written.
pub fn run(flags: &ExplainFlags, out: &mut impl Write) -> io::Result<bool> {
    if let Some(admin) = &flags.running {
        return running::ask(admin, flags.upstream_name.as_deref(), &flags.arguments(), out);
    }
    let (table, policy, upstream) = match prepared(flags) {
        Ok(prepared) => prepared,
        Err(complaints) => {
            cli::report(&complaints, out)?;
            return Ok(false);
        }
    };
    let caller = &Caller::default();
    let around = Surroundings { table: &table, policy: &policy, caller, upstream, governor: None };
    let arguments = flags.arguments();
    let arguments: Vec<&[u8]> = arguments.iter().map(Vec::as_slice).collect();
    explain(&around, &arguments, out)
}

/// What a proxy with these flags would go by, before it knows its upstream.
fn prepared(flags: &ExplainFlags) -> Result<(Table, Policy, Upstream), Vec<Complaint>> {
    let run_flags = flags.run_flags();
    let policy_of = |profile, path| policy::load(profile, path, 1, clock::micros());
    // Rules can be tried without an upstream.
    if run_flags.upstream.is_none() && run_flags.config.is_none() {
        let policy = policy_of(profile(flags)?, flags.policy.as_deref())?;
        return Ok((Table::builtin(), policy, Upstream::One("the upstream".to_owned())));
    }
    let settings = Settings::load(&run_flags)?;
    let policy = policy_of(settings.profile, settings.policy.as_deref())?;
    let name = flags.upstream_name.as_deref().unwrap_or(UPSTREAM_DEFAULT);
    let upstream = settings.upstream_asked_for(name).map_err(|complaint| vec![complaint])?;
    let renamed = Table::builtin().rename(&upstream.renamed).map_err(|error| {
        vec![Complaint::about("the upstream's table 'renamed'", Fault::new(error.to_string(), ""))]
    })?;
    let table = topology::with_our_answers(renamed, upstream)
        .writes_refused(upstream.mode == Mode::ReadOnly);
    let name = upstream.endpoint.to_string();
    Ok((table, policy, Upstream::of(upstream, name, None)))
}

fn profile(flags: &ExplainFlags) -> Result<Profile, Vec<Complaint>> {
    let Some(text) = &flags.profile else {
        return Ok(Profile::Guard);
    };
    Profile::named(text).ok_or_else(|| {
        let fault =
            Fault::new(format!("'{text}' is not a profile"), "write guard, observe or open");
        vec![Complaint::about("--profile", fault)]
    })
}

/// The answer for one command. True if it would be served.
///
/// # Errors
/// If `out` cannot be written.
pub fn explain(
    around: &Surroundings<'_>,
    arguments: &[&[u8]],
    out: &mut impl Write,
) -> io::Result<bool> {
    let mut frame = Vec::new();
    write::command(&mut frame, arguments);
    let mut scanner = RequestScanner::default();
    let Ok(Scanned::Command { length }) = scanner.scan(&frame, &Limits::default(), true) else {
        writeln!(out, "refused: the command exceeds a limit of the protocol")?;
        return Ok(false);
    };
    let (bytes, spans) = scanner.arguments(&frame, length);
    let command = Command::new(bytes, spans);
    match around.table.resolve(&command) {
        Err(unknown) => {
            let mut line = Vec::new();
            errors::unknown(&mut line, unknown, &command);
            answered_with(&line, out)
        }
        Ok(spec) if spec.is_barred() && around.table.refuses_writes() => {
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
        Ok(spec) => known(around, spec, &command, out),
    }
}

fn answered_with(line: &[u8], out: &mut impl Write) -> io::Result<bool> {
    write!(out, "answered here, as Redis does: {}", String::from_utf8_lossy(line))?;
    Ok(false)
}

fn known(
    around: &Surroundings<'_>,
    spec: &Spec,
    command: &Command<'_>,
    out: &mut impl Write,
) -> io::Result<bool> {
    writeln!(out, "command: {} ({})", spec.name, nature(spec))?;
    let mut keys = Vec::new();
    // What has no keys, or makes no sense, leaves the list empty.
    let _ = keys::keys(spec, command, &mut keys);
    print_keys(command, &keys, out)?;
    if !print_rule(around, spec, command, &keys, out)?
        || !keyspace::print(around, spec, (command, &keys), out)?
    {
        return Ok(false);
    }
    let target = match around.upstream.target(spec, command) {
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
    /// What a running proxy has behind it.
    #[must_use]
    pub fn behind(topology: &Topology) -> Self {
        Self::of(&topology.node.settings, topology.node.name.clone(), topology.slots.clone())
    }

    fn of(settings: &UpstreamSettings, name: String, slots: Option<Arc<SlotMap>>) -> Self {
        match &settings.cluster {
            Some(cluster) => Self::Cluster(cluster.present_as, slots),
            None => Self::One(name),
        }
    }

    /// Who gets a command, in words; the error is the whole line that its client gets instead.
    fn target(&self, spec: &Spec, command: &Command<'_>) -> Result<String, Vec<u8>> {
        let (present_as, map) = match self {
            Self::One(name) => return Ok(name.clone()),
            Self::Cluster(present_as, map) => (*present_as, map),
        };
        let mut line = Vec::new();
        let pinned = (spec.class == Class::Pinned).then(|| held::refusal(spec)).flatten();
        let hidden = cluster::refusal(spec).filter(|_| present_as == PresentAs::Cluster);
        if let Some(refusal) = pinned.or(hidden) {
            refusal.write(&mut line);
            return Err(line);
        }
        let mut keys = Vec::new();
        Ok(match route::place(spec, command, &mut keys) {
            Place::Slot(slot) => {
                let owner = map.as_ref().and_then(|map| {
                    map.members.get(map.slot(slot).owner?).map(|owner| owner.node.name.clone())
                });
                let owner = owner.map(|owner| format!(" ({owner})")).unwrap_or_default();
                format!("the owner of slot {slot}{owner}")
            }
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

fn print_keys(command: &Command<'_>, keys: &[KeyPosition], out: &mut impl Write) -> io::Result<()> {
    if keys.is_empty() {
        return writeln!(out, "keys: none");
    }
    for position in keys {
        let key = command.argument(position.index as usize).unwrap_or_default();
        writeln!(out, "key: {} (slot {})", String::from_utf8_lossy(key), slot(key))?;
    }
    Ok(())
}

/// The rule that decides, and those that only look. False if the command is refused.
fn print_rule(
    around: &Surroundings<'_>,
    spec: &Spec,
    command: &Command<'_>,
    keys: &[KeyPosition],
    out: &mut impl Write,
) -> io::Result<bool> {
    let Policy { version, profile, .. } = *around.policy;
    let which = format!("policy {version}, profile {}", profile.name());
    if profile == Profile::Open {
        writeln!(out, "rule: none ({which})")?;
        return Ok(true);
    }
    if policy::is_spared(spec) {
        writeln!(
            out,
            "rule: none is asked about a command that lets clients in or lets go ({which})"
        )?;
        return Ok(true);
    }
    let case = Case { spec, command: *command, keys, caller: around.caller, now: clock::micros() };
    let mut passed: Vec<&Arc<Rule>> = Vec::new();
    let rule = around.policy.judge(&case, &mut |rule| passed.push(rule));
    for rule in passed {
        let (name, origin) = (&rule.name, rule.origin.as_str());
        let (does, standing) = (rule.action.words(), rule.standing(profile));
        writeln!(out, "on the way: {name} ({origin}): {does}; {standing}")?;
    }
    let Some(rule) = rule else {
        writeln!(out, "rule: none speaks against it ({which})")?;
        return print_script(around, None, (spec, command), out);
    };
    writeln!(out, "rule: {} ({}) ({which})", rule.name, rule.origin.as_str())?;
    writeln!(out, "action: {}, it {}", rule.action.as_str(), rule.action.words())?;
    if let Some(message) = &rule.message {
        writeln!(out, "message: {message}")?;
    }
    if rule.action == Action::Deny {
        let mut line = Vec::new();
        let denied = Denied::by(rule, version, &spec.name);
        Refusal::Denied(Box::new(denied)).write(&mut line);
        write!(out, "refused: {}", String::from_utf8_lossy(&line))?;
        return Ok(false);
    }
    print_script(around, Some(rule), (spec, command), out)
}

/// What is said against the script that a command runs or brings. False if it is refused.
fn print_script(
    around: &Surroundings<'_>,
    rule: Option<&Arc<Rule>>,
    (spec, command): (&Spec, &Command<'_>),
    out: &mut impl Write,
) -> io::Result<bool> {
    let Surroundings { table, policy, caller, .. } = *around;
    let court = Court { table, policy, caller, now: clock::micros() };
    let rule = rule.map(|rule| &**rule);
    let Some(verdict) = admit::foresee(&court, around.governor, rule, (spec, *command)) else {
        return Ok(true);
    };
    let mut line = Vec::new();
    Refusal::Script(Box::new(verdict.refusal)).write(&mut line);
    let word = if verdict.is_enforced { "refused" } else { "only counted" };
    write!(out, "{word}: {}", String::from_utf8_lossy(&line))?;
    Ok(!verdict.is_enforced)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explained(words: &[&str]) -> (bool, String) {
        let arguments: Vec<Vec<u8>> = words.iter().map(|word| word.as_bytes().to_vec()).collect();
        let upstream = Upstream::One("h:1".to_owned());
        explained_by(&Table::builtin(), upstream, &arguments)
    }

    fn explained_by(table: &Table, upstream: Upstream, words: &[Vec<u8>]) -> (bool, String) {
        let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
        let (policy, caller) = (&Policy::default(), &Caller::default());
        let around = Surroundings { table, policy, caller, upstream, governor: None };
        let mut out = Vec::new();
        let is_served = explain(&around, &words, &mut out).unwrap();
        (is_served, String::from_utf8(out).unwrap())
    }

    #[test]
    fn a_script_is_looked_into() {
        let policy = &policy::load(Profile::Guard, None, 1, 1).unwrap();
        let (table, caller) = (&Table::builtin(), &Caller::default());
        let governor = Governor::default();
        let asked = |words: &[&[u8]]| {
            let upstream = Upstream::One("h:1".to_owned());
            let governor = Some(&governor);
            let around = Surroundings { table, policy, caller, upstream, governor };
            let mut out = Vec::new();
            let is_served = explain(&around, words, &mut out).unwrap();
            (is_served, String::from_utf8(out).unwrap())
        };
        for (words, want) in [
            (
                &[&b"eval"[..], b"while true do end", b"0"][..],
                "script refused: line 1: loop without",
            ),
            (
                &[b"eval", b"redis.call('KEYS', ARGV[1])", b"0"],
                "'keys' is denied by rule guard.keys",
            ),
            (&[b"script", b"load", b"redis.call 'FLUSHALL'"], "denied by rule guard.flush"),
            (&[b"function", b"load", b"#!lua name=x\nwhile 1 do end"], "line 2: loop without end"),
        ] {
            let (is_served, text) = asked(words);
            assert!(!is_served && text.contains("refused: -NOPERM breakwater"), "{text}");
            assert!(text.contains(want), "{text}");
        }
        let source = b"redis.call('KEYS', '*')";
        let sha = crate::scripts::hex(&crate::scripts::sha1(source));
        assert!(asked(&[b"evalsha", sha.as_bytes(), b"0"]).0, "nobody has sent it");
        governor.library.read(source).unwrap();
        assert!(!asked(&[b"evalsha", sha.as_bytes(), b"0"]).0);
        assert!(asked(&[b"eval", b"return redis.call('GET', KEYS[1])", b"1", b"k"]).0);
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
            (
                "sync",
                "refused: -ERR breakwater: 'sync' is not served: it is about the connection to",
            ),
            ("rename foo bar", "refused: -CROSSSLOT Keys in request don't hash to the same slot"),
        ] {
            let url = Some("redis-cluster://h".to_owned());
            let flags = crate::cli::RunFlags { upstream: url, ..Default::default() };
            let settings = Settings::load(&flags).unwrap().upstream;
            let table = topology::with_our_answers(Table::builtin(), &settings);
            let arguments: Vec<Vec<u8>> =
                line.split(' ').map(|word| word.as_bytes().to_vec()).collect();
            let upstream = Upstream::Cluster(PresentAs::Cluster, None);
            let (is_served, text) = explained_by(&table, upstream, &arguments);
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
        for words in
            [&["multi"][..], &["blpop", "k", "0"], &["sync"], &["client", "tracking", "on"]]
        {
            let (is_served, text) = explained(words);
            assert!(is_served && text.contains("on a connection of its client's own"), "{text}");
        }
    }

    #[test]
    fn what_is_not_served_says_why() {
        let (is_served, text) = explained(&["script", "debug", "yes"]);
        assert!(!is_served && text.contains("is not served: "), "{text}");
        assert!(!explained(&["nosuch"]).0);
        assert!(!explained(&["get"]).0);
    }
}
