//! What the log says of the process's life, one sentence an event.
//!
//! Owns the words of every log line above DEBUG outside start-up errors, and holding back those that a broken
//! network would repeat. Never logs a command, a key or a value (INV-11).
//!
//! What surprises: no line says `[upstream]`, though a reader would look there. What is read may be one of
//! `[upstreams]`; where there are several, the line begins with the name. And a repeated failure is logged at most once in ten seconds for each kind of event and each upstream,
//! and the next line says how many were held back.

use std::cell::Cell;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tracing::{error, info, warn};

use crate::clock;
use crate::config::{Complaint, Profile, Settings, UPSTREAMS_MAX};
use crate::findings::{Finding, Severity};
use crate::log::RateLimited;
use crate::policy::Policy;
use crate::policy::offence::Offence;
use crate::stats::control;
use crate::upstream::health::chart::State;

/// Shortest time between two lines of the same kind.
const QUIET: Duration = Duration::from_secs(10);
/// Most complaints about one file that are logged.
const COMPLAINTS_MAX: usize = 20;

/// One kind of event that may repeat, for each upstream: what one repeats all night must not hide the other's first.
struct Repeats(Mutex<[Option<RateLimited>; UPSTREAMS_MAX]>);

static DIALS: Repeats = Repeats::new();
static LOSSES: Repeats = Repeats::new();
static ACCEPTS: Repeats = Repeats::new();
static TABLES: Repeats = Repeats::new();
static REFRESHES: Repeats = Repeats::new();
static PASSWORDS: Repeats = Repeats::new();
static RULES: Repeats = Repeats::new();
static NAMES: Repeats = Repeats::new();

thread_local! {
    /// The place of the upstream that this thread speaks of; threads of the process speak as the first one's.
    static SPEAKER: Cell<usize> = const { Cell::new(0) };
}

/// Runs `work`, whose lines are about the upstream of this place in the settings.
pub fn speaking_for<T>(place: usize, work: impl FnOnce() -> T) -> T {
    let before = SPEAKER.replace(place);
    let outcome = work();
    SPEAKER.set(before);
    outcome
}

// === impl Repeats ===

impl Repeats {
    const fn new() -> Self {
        Self(Mutex::new([const { None }; UPSTREAMS_MAX]))
    }

    /// Logs through `line`, which is told how many were held back, unless it is too early.
    fn log(&self, line: impl FnOnce(u64)) {
        let mut limiters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(limiter) = limiters.get_mut(SPEAKER.get()) else {
            return;
        };
        let limiter = limiter.get_or_insert_with(|| RateLimited::new(QUIET));
        match limiter.admit(clock::micros()) {
            Some(suppressed) => line(suppressed),
            None => control::log_lines_suppressed(1),
        }
    }
}

/// The proxy accepts clients.
pub fn started(settings: &Settings, policy: &Policy, workers: usize) {
    for note in settings.notes.iter().chain(&policy.notes) {
        warn!("{note}");
    }
    let (own, rules) = (policy.operators(), policy.rules().len());
    match policy.profile {
        Profile::Open => warn!("profile 'open': no command is refused by policy"),
        Profile::Observe => {
            warn!(
                rules,
                own, "profile 'observe': rules are counted, no command is refused by them"
            );
        }
        Profile::Guard => info!(rules, own, "profile 'guard': the policy is enforced"),
    }
    if let Some(keyspaces) = policy.keyspaces() {
        info!(keyspaces = keyspaces.all().len(), "keyspaces count in every profile");
    }
    let are_several = !settings.upstreams.is_empty();
    for listener in &settings.listeners {
        let (address, tls) = (&listener.address, listener.tls.is_some());
        match are_several {
            true => info!(%address, tls, upstream = listener.upstream, "listening"),
            false => info!(%address, tls, "listening"),
        }
    }
    for (name, upstream) in settings.all_upstreams() {
        match are_several {
            true => info!(name, upstream = %upstream.endpoint, workers, "serving"),
            false => info!(upstream = %upstream.endpoint, workers, "serving"),
        }
    }
}

/// No more clients are accepted; those that are here finish.
pub fn draining(clients: usize, limit: Duration) {
    info!(clients, ?limit, "draining: no new clients, commands in flight are finished");
}

/// The end of a drain.
pub fn drained(clients_left: usize) {
    if clients_left == 0 {
        info!("drained: every client was answered");
    } else {
        warn!(
            clients_left,
            "drain timeout: the rest is cut off; raise --drain-timeout to wait longer"
        );
    }
}

/// A dial failed.
pub fn dial_failed(node: &str, cause: &str, text: &str) {
    DIALS.log(|suppressed| warn!(upstream = node, cause, suppressed, "cannot connect: {text}"));
}

/// A connection to a node was lost.
pub fn lane_lost(node: &str, cause: &str, text: &str) {
    LOSSES.log(|suppressed| warn!(upstream = node, cause, suppressed, "connection lost: {text}"));
}

/// A node is not what it was, in words and with what to do about it.
pub fn node_state(node: &str, before: State, after: State, detail: &str) {
    let (state, repair) = (after.words(), after.repair());
    match after {
        State::Up if before == State::Unknown => info!(upstream = node, "upstream is up"),
        State::Up => info!(upstream = node, "upstream is up again; before, it {}", before.words()),
        State::Unknown => {}
        State::Down(_) | State::ConfigError => {
            error!(upstream = node, detail, "upstream {state}: {repair}");
        }
        _ => warn!(upstream = node, "upstream {state}: {repair}"),
    }
}

/// A script that did not end was killed.
pub fn script_killed(node: &str, what: &str) {
    warn!(upstream = node, "killed {what}: it kept everybody else from being served");
}

/// A script that does not end would be killed if the profile enforced anything.
pub fn script_spared(node: &str, what: &str) {
    warn!(upstream = node, "{what} does not end; in the profile guard it would be killed");
}

/// `accept` failed.
pub fn accept_failed(error: &std::io::Error) {
    ACCEPTS.log(|suppressed| {
        warn!(suppressed, "cannot accept a client: {error}; raise the limit of open files?");
    });
}

/// A worker's thread could not make its runtime: it serves nobody.
pub fn no_runtime(error: &std::io::Error) {
    tracing::error!("a worker cannot start: {error}; raise the limit of open files?");
}

/// The node does not tell its commands.
pub fn no_command_table(node: &str) {
    TABLES.log(|suppressed| {
        warn!(upstream = node, suppressed, "COMMAND is not permitted: the built-in table is used");
    });
}

/// The upstream's `renamed` names what the node does not know.
pub fn rename_ignored(node: &str, error: &impl std::fmt::Display) {
    TABLES.log(|suppressed| {
        warn!(
            upstream = node,
            suppressed, "the upstream's table 'renamed' is not applied: {error}"
        );
    });
}

/// A node came back without its functions, and has them again.
pub fn libraries_restored(node: &str, count: u64) {
    info!(upstream = node, count, "the server came back without functions: libraries loaded again");
}

/// A node does not take a library back.
pub fn library_refused(node: &str, words: &str) {
    TABLES.log(|suppressed| {
        warn!(upstream = node, suppressed, "a library of functions is not loaded again: {words}");
    });
}

/// The nodes of a cluster were asked for the slot map in vain.
pub fn map_not_refreshed(words: &str) {
    REFRESHES.log(|suppressed| warn!(suppressed, "the slot map in use stays: {words}"));
}

/// Another cluster answers at the addresses of the one that was there.
pub fn generation_changed() {
    warn!(
        "the cluster was reset: most of its nodes have other ids and agree on a new slot map, which is used"
    );
}

/// Sentinels have named a primary for the first time, and it is one.
pub fn primary_found(master: &str, node: &str) {
    info!(master, upstream = node, "primary found: the Sentinels name it and its ROLE is master");
}

/// Sentinels have named another primary, and it is one.
pub fn primary_followed(before: &str, node: &str) {
    warn!(
        before,
        upstream = node,
        "failover: the Sentinels name another primary and its ROLE is master; commands go there"
    );
}

/// Sentinels begin anew with what they remember.
pub fn sentinel_generation(node: &str, epoch: u64) {
    warn!(
        upstream = node,
        epoch,
        "the Sentinels were set up anew: a majority names this primary under a config epoch that is \
         not higher than before, and it is used"
    );
}

/// A slot is open, and will not arrive without help.
pub fn migration_failed(slot: u16, source: &str, target: &str, words: &str, repair: &str) {
    error!(
        slot,
        source,
        target,
        "the slot is half moved: {words}. Never close it with CLUSTER SETSLOT STABLE. Repair, once both answer: {repair}"
    );
}

/// A slot has been open for so many minutes.
pub fn migration_stuck(slot: u16, source: &str, target: &str, minutes: u32, repair: &str) {
    warn!(
        slot,
        source,
        target,
        "the slot has been open for {minutes} minutes. If nobody moves it any more, repair: {repair}"
    );
}

/// A slot of which one of the above was said is closed.
pub fn migration_closed(slot: u16) {
    info!(slot, "the slot is closed");
}

/// Keys lie where nobody finds them.
pub fn keys_orphaned(keys: u64, slot: u16, holder: &str, owner: Option<&str>, repair: &str) {
    let owner = owner.unwrap_or("nobody");
    error!(
        keys,
        slot,
        holder,
        owner,
        "keys are on a node that does not serve their slot, and cannot be found. Repair: {repair}"
    );
}

/// There are no more such keys on that node.
pub fn keys_found_again(holder: &str) {
    info!(holder, "all keys are on the nodes that serve their slots");
}

/// Our own password (or user) is another one from here on.
pub fn credentials_rotated() {
    info!("the password for this upstream changed: connections move to it once a node accepted it");
}

/// A node refuses the newest of our own passwords.
pub fn credentials_refused(node: &str, words: &str) {
    error!(
        upstream = node,
        "the newest password for this upstream is refused: {words}. What is connected stays connected; \
         add the password with ACL SETUSER, or put the right one where its table reads it"
    );
}

/// A node of which the above was said takes the password.
pub fn credentials_accepted(node: &str) {
    info!(upstream = node, "the newest password for this upstream is accepted");
}

/// The source of our own password cannot be read.
pub fn password_unreadable(words: &str) {
    PASSWORDS
        .log(|suppressed| warn!(suppressed, "{words}; the password that was read before stays"));
}

/// The resolver does not tell where a name leads; what it said last is used.
pub fn name_stale(host: &str, words: &str) {
    NAMES.log(|suppressed| {
        warn!(host, suppressed, "the resolver fails, its last addresses are used: {words}");
    });
}

/// A name leads to other addresses than before.
pub fn name_moved(host: &str) {
    info!(host, "the name has other addresses: connections to the old ones are replaced");
}

/// Writes are refused from here on, or let through again.
pub fn mode_changed(is_readonly: bool) {
    if is_readonly {
        warn!("mode = \"readonly\" of this upstream: writes are refused");
    } else {
        info!("mode = \"readwrite\" of this upstream: writes are let through");
    }
}

/// A certificate was read anew.
pub fn certificate_reloaded() {
    info!("certificate reloaded");
}

/// A changed certificate cannot be used.
pub fn certificate_refused(error: &impl std::fmt::Display) {
    warn!("certificate not reloaded, the one in use stays: {error}");
}

/// A changed file was refused.
pub fn reload_refused(complaints: &[Complaint]) {
    for complaint in complaints {
        warn!("configuration not reloaded: {complaint}");
    }
}

/// A policy file was refused.
pub fn policy_refused(complaints: &[Complaint], version: u64) {
    for complaint in complaints.iter().take(COMPLAINTS_MAX) {
        warn!(policy = version, "policy not reloaded, the one in force stays: {complaint}");
    }
    let more = complaints.len().saturating_sub(COMPLAINTS_MAX);
    if more > 0 {
        warn!("{more} more complaints about the policy; 'breakwater check' tells them all");
    }
}

/// Another policy is in force from here on.
pub fn policy_changed(policy: &Policy, cause: &str, changes: &str) {
    let Policy { version, profile, notes, .. } = policy;
    for note in notes {
        warn!("{note}");
    }
    info!(policy = version, profile = profile.name(), cause, "policy changed: {changes}");
}

/// The folder of the policy file cannot be watched.
pub fn policy_not_watched(folder: &impl std::fmt::Display, error: &impl std::fmt::Display) {
    warn!("{folder} cannot be watched ({error}): the policy file is looked at every 10 seconds");
}

/// A command met a rule that only looks: one of many.
pub fn rule_met(rule: &str, offence: &Offence) {
    let Offence { client, name, command, pattern, .. } = offence;
    RULES.log(|suppressed| {
        info!(rule, client, name, command, pattern, suppressed, "a rule was met")
    });
}

/// A changed file holds what cannot be changed while running.
pub fn restart_needed(parts: &[&str]) {
    warn!(parts = parts.join(", "), "these changes need a restart and are not applied");
}

/// A changed file speaks of upstreams in a way that could mix up their clients.
pub fn upstreams_held_back(names: &[String]) {
    warn!(
        upstreams = names.join(", "),
        "what the file says of these upstreams is not applied before a restart: they are added, \
         removed, or other listeners lead to them than now, and clients would reach the wrong server"
    );
}

/// Commands go to another deployment from here on.
pub fn upstream_changed(node: &str) {
    info!(upstream = node, "upstream changed: new commands go there, those in flight finish");
}

/// The new deployment cannot serve.
pub fn upstream_refused(node: &str, error: &impl std::fmt::Display) {
    warn!(upstream = node, "upstream not changed, the one in use stays: {error}");
}

/// Something is amiss behind us, or could not be checked.
pub fn finding_appeared(finding: &Finding) {
    let Finding { id, severity, subject, text, repair } = finding;
    match severity {
        Severity::Critical => error!(finding = id, subject, "{text}. Repair: {repair}"),
        Severity::Warning => warn!(finding = id, subject, "{text}. Repair: {repair}"),
        Severity::Info => info!(finding = id, subject, "{text}. Repair: {repair}"),
        Severity::NotChecked => {
            info!(finding = id, subject, "{text}. To have it checked: {repair}")
        }
    }
}

/// What was amiss is not any more.
pub fn finding_gone(finding: &Finding) {
    info!(finding = finding.id, subject = finding.subject, "no longer found");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_upstream_repeats_does_not_hide_the_first_line_of_another() {
        static FAILURES: Repeats = Repeats::new();
        let lines = Cell::new(0);
        let fail = |place| {
            speaking_for(place, || FAILURES.log(|_| lines.set(lines.get() + 1)));
            lines.get()
        };
        assert_eq!([fail(0), fail(0), fail(1), fail(0), fail(1)], [1, 1, 2, 2, 2]);
        // Whoever has spoken for an upstream speaks for nobody else afterwards.
        assert_eq!(SPEAKER.get(), 0);
    }
}
