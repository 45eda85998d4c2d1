//! Is it the process that was there before, does it still have its keys, and does it answer?
//!
//! Owns restarts, data sets that came back empty, keys that vanished, slow answers, loading, hit
//! rate and what the server itself calls slow.
//!
//! What surprises: a restart alone is a warning, a restart that lost nine keys of ten is critical.
//! That is the failure in which everything looks well and the database behind the cache falls over.

use super::{Case, Verdict, cli};
use crate::clock::{Micros, SECOND};
use crate::findings::Finding;

pub(super) fn judge(case: &Case<'_>, verdict: &mut Verdict) {
    life(case, verdict);
    answers(case, verdict);
    hit_rate(case, verdict);
    slow_commands(case, verdict);
}

/// Restarts, and keys that are gone.
fn life(case: &Case<'_>, verdict: &mut Verdict) {
    let (now, node) = (case.now, case.node);
    let has_restarted = case.history.has_restarted(now);
    let before = case.history.last.as_ref().and_then(|last| last.keys);
    let lost = before.zip(now.keys).filter(|(before, _)| *before >= KEYS_WORTH_A_WORD);
    let lost = lost.filter(|(before, now)| *now < before / 10);
    match (lost, has_restarted) {
        // A server that loads has fewer keys for the moment.
        _ if now.info.is("loading", "1") => {}
        (Some((before, now)), true) => verdict.events.push(Finding::critical(
            "came_back_empty",
            node,
            format!(
                "the server was restarted and came back with {now} of {before} keys: every miss \
                 now goes to the database (S3.10)"
            ),
            format!(
                "restore a backup, or warm the cache at a bounded rate; then find why it had \
                 nothing to load: {} CONFIG GET save appendonly dir",
                cli(node)
            ),
        )),
        (Some((before, now)), false) => verdict.events.push(Finding::warning(
            "keys_vanished",
            node,
            format!("{before} keys became {now} without a restart: somebody flushed or deleted"),
            format!("{} INFO commandstats, and look for flushall, flushdb and del", cli(node)),
        )),
        (None, true) => verdict.events.push(Finding::warning(
            "restarted",
            node,
            "another process answers than before: the server was restarted".to_owned(),
            "look for OOMKilled, a failed liveness probe or a deployment; the server's log has \
             its last words"
                .to_owned(),
        )),
        (None, false) => {}
    }
    if now.info.is("loading", "1") {
        let eta = now.info.number("loading_eta_seconds").unwrap_or(0);
        verdict.standing.push(Finding::info(
            "loading",
            node,
            format!(
                "it loads its data set and refuses commands until then, {eta} s by its own estimate"
            ),
            "wait; a restart begins from the start".to_owned(),
        ));
    }
}

/// One command that does nothing shows how long all others wait.
fn answers(case: &Case<'_>, verdict: &mut Verdict) {
    let Some(took) = case.now.ping.filter(|took| *took > PING_SLOW) else {
        return;
    };
    let text = format!(
        "PING took {:.1} s: one command at a time runs there, so everybody waits that long",
        took as f64 / SECOND as f64
    );
    let repair = format!(
        "{0} SLOWLOG GET 10 and {0} LATENCY LATEST; if SLOWLOG is empty, look at fork, swap and \
         CPU of the host",
        cli(case.node)
    );
    let make = if took > PING_DEAD { Finding::critical } else { Finding::warning };
    verdict.standing.push(make("ping_slow", case.node, text, repair));
}

/// The server's own counters. They are true only while nothing is answered here, as now.
fn hit_rate(case: &Case<'_>, verdict: &mut Verdict) {
    let Some((hits, reads)) = case.history.hits(case.now.at) else {
        return;
    };
    if reads < READS_WORTH_A_WORD || hits * 10 >= reads * 8 {
        return;
    }
    let percent = hits * 100 / reads;
    verdict.standing.push(Finding::warning(
        "hit_rate_low",
        case.node,
        format!("{percent} % of {reads} reads within ten minutes found a key; below 80 % the database behind feels it (S1)"),
        "compare with evictions, expiries and the last deployment: a changed key name looks just \
         like this"
            .to_owned(),
    ));
}

/// New entries of its SLOWLOG.
fn slow_commands(case: &Case<'_>, verdict: &mut Verdict) {
    let Some(worst) = case.now.slow.iter().max_by_key(|entry| entry.micros) else {
        return;
    };
    let count = case.now.slow.len();
    let key = worst.key.as_ref().map(|key| format!(" {key}")).unwrap_or_default();
    let text = format!(
        "{count} new entries in its SLOWLOG, the slowest {}{key} with {} ms, in which it served \
         nobody else",
        worst.command,
        worst.micros / 1_000
    );
    let repair = "/slowlog on the admin port says which client asked".to_owned();
    let make = if worst.micros > PING_SLOW { Finding::warning } else { Finding::info };
    verdict.events.push(make("slow_commands", case.node, text, repair));
}

/// A PING that takes longer is a warning, or critical.
const PING_SLOW: Micros = SECOND;
const PING_DEAD: Micros = 5 * SECOND;
/// Fewer keys come and go with every test.
const KEYS_WORTH_A_WORD: u64 = 100;
/// Fewer reads in ten minutes are no rate.
const READS_WORTH_A_WORD: u64 = 1_000;
