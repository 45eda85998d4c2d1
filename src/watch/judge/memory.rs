//! Memory: what is used, what is wasted, and what will kill the process.
//!
//! Owns fragmentation, resident size against the limit, `maxmemory`, evictions and the memory of
//! scripts.
//!
//! What surprises: a cache that evicts is full by design, so nearness to `maxmemory` alarms only
//! where the policy would refuse writes. And fragmentation is a ratio only where it is also an
//! amount: ten megabytes wasted in an empty server are a ratio of ten and hurt nobody.

use super::super::sample::memory_limit;
use super::{Case, MIB, Verdict, bytes, cli};
use crate::findings::Finding;

pub(super) fn judge(case: &Case<'_>, verdict: &mut Verdict) {
    fragmentation(case, verdict);
    resident(case, verdict);
    maxmemory(case, verdict);
    evictions(case, verdict);
    scripts(case, verdict);
}

fn fragmentation(case: &Case<'_>, verdict: &mut Verdict) {
    let info = &case.now.info;
    let wasted = info.signed("mem_fragmentation_bytes").and_then(|it| u64::try_from(it).ok());
    let (Some(ratio), Some(wasted)) = (info.ratio("mem_fragmentation_ratio"), wasted) else {
        return;
    };
    if wasted <= FRAGMENTATION_FLOOR || ratio <= 1.3 {
        return;
    }
    let text = format!(
        "fragmentation {ratio:.2}: {} of resident memory hold no data, and grow until something \
         kills the process (S3.6)",
        bytes(wasted)
    );
    let repair = format!(
        "{} CONFIG SET activedefrag yes (a build without it says so); else fail over to a fresh \
         replica. Look for keys whose values change size all the time",
        cli(case.node)
    );
    let make = match ratio {
        ratio if ratio > 2.0 => Finding::critical,
        ratio if ratio > 1.5 => Finding::warning,
        _ => Finding::info,
    };
    verdict.standing.push(make("fragmentation", case.node, text, repair));
}

fn resident(case: &Case<'_>, verdict: &mut Verdict) {
    let limit = memory_limit(&case.now.info, case.expect);
    let (Some(resident), Some(limit)) = (case.now.info.number("used_memory_rss"), limit) else {
        return;
    };
    // As a quotient: limits may be larger than any product of them.
    if resident as f64 <= 0.8 * limit.value as f64 {
        return;
    }
    verdict.standing.push(Finding::warning(
        "resident_memory_high",
        case.node,
        format!(
            "resident memory is {} of {} ({}); at the limit the kernel kills the process",
            bytes(resident),
            bytes(limit.value),
            limit.source
        ),
        "give it more memory or fewer keys; a wrong limit is corrected in [expect] memory_limit"
            .to_owned(),
    ));
}

fn maxmemory(case: &Case<'_>, verdict: &mut Verdict) {
    let info = &case.now.info;
    let (Some(used), Some(most)) = (info.number("used_memory"), info.number("maxmemory")) else {
        return;
    };
    let node = case.node;
    if most == 0 {
        verdict.standing.push(Finding::warning(
            "maxmemory_unset",
            node,
            "maxmemory is 0: it grows until the kernel or the container's limit kills it".into(),
            format!(
                "{} CONFIG SET maxmemory BYTES, about two thirds of what it may use",
                cli(node)
            ),
        ));
        return;
    }
    let ratio = used as f64 / most as f64;
    if ratio <= 0.9 {
        return;
    }
    let policy = info.text("maxmemory_policy").unwrap_or("unknown");
    let text = format!(
        "{} of maxmemory {} are used ({:.0} %), and the policy is {policy}",
        bytes(used),
        bytes(most),
        ratio * 100.0
    );
    if policy.starts_with("allkeys-") {
        let why = format!("{text}: full as a cache is, evictions tell whether it is too small");
        let repair = "none, if the hit rate is good".to_owned();
        verdict.standing.push(Finding::info("maxmemory_near", node, why, repair));
        return;
    }
    let why = format!("{text}: writes are refused with OOM when nothing more can be evicted");
    let repair = format!(
        "{} CONFIG SET maxmemory MORE, or delete; --bigkeys finds what is large",
        cli(node)
    );
    let make = if ratio >= 1.0 { Finding::critical } else { Finding::warning };
    verdict.standing.push(make("maxmemory_near", node, why, repair));
}

fn evictions(case: &Case<'_>, verdict: &mut Verdict) {
    let evicted = case.history.growth(case.now, "evicted_keys").filter(|count| *count > 0);
    if let Some(count) = evicted {
        verdict.events.push(Finding::info(
            "evictions",
            case.node,
            format!("{count} keys were evicted since the last look: it is full"),
            "watch the hit rate; more memory or shorter times to live end it".to_owned(),
        ));
    }
    // Redis's own expiry stops trying harder at a tenth; a quarter is memory held by the dead.
    let stale = case.now.info.ratio("expired_stale_perc").filter(|percent| *percent > 25.0);
    if let Some(percent) = stale {
        verdict.standing.push(Finding::info(
            "expired_stale",
            case.node,
            format!("about {percent:.0} % of its keys with a time to live have expired and still take memory"),
            format!("{} CONFIG SET active-expire-effort 5", cli(case.node)),
        ));
    }
}

fn scripts(case: &Case<'_>, verdict: &mut Verdict) {
    let used = case.now.info.script_memory().filter(|used| *used > SCRIPTS_MOST);
    if let Some(used) = used {
        verdict.standing.push(Finding::warning(
            "script_memory_high",
            case.node,
            format!(
                "scripts take {}: somebody builds a new script for each call instead of passing \
                 arguments",
                bytes(used)
            ),
            format!(
                "find who does (values belong in ARGV); {} SCRIPT FLUSH frees it",
                cli(case.node)
            ),
        ));
    }
}

/// Waste below this is no problem whatever the ratio.
const FRAGMENTATION_FLOOR: u64 = 100 * MIB;
/// Memory of scripts beyond which it is no fixed set of them.
const SCRIPTS_MOST: u64 = 5 * MIB;
