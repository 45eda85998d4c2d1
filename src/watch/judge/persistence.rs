//! Persistence: would the data survive a restart, and will writes soon be refused?
//!
//! Owns failed saves and AOF writes, saves that take too long and an AOF that has outgrown its base.
//!
//! What surprises: with a full disk Redis goes on answering reads, and PING is refused as writes
//! are. The fields of INFO are the only early sign, and where `stop-writes-on-bgsave-error` is off
//! the only sign at all.

use super::{Case, MIB, Verdict, bytes, cli};
use crate::findings::Finding;

pub(super) fn judge(case: &Case<'_>, verdict: &mut Verdict) {
    failures(case, verdict);
    slow_save(case, verdict);
    aof_growth(case, verdict);
}

fn failures(case: &Case<'_>, verdict: &mut Verdict) {
    let (info, node) = (&case.now.info, case.node);
    let has_failed = |field: &str| info.text(field).is_some_and(|status| status != "ok");
    if has_failed("rdb_last_bgsave_status") {
        verdict.standing.push(Finding::critical(
            "save_failed",
            node,
            "the last save failed: writes are refused with MISCONF, or, with \
             stop-writes-on-bgsave-error off, lost at the next restart (S3.9)"
                .to_owned(),
            format!(
                "df on its dir, and memory for the fork (overcommit); then {} BGSAVE",
                cli(node)
            ),
        ));
    }
    if has_failed("aof_last_write_status") {
        verdict.standing.push(Finding::critical(
            "aof_write_failed",
            node,
            "the append-only file cannot be written: writes are refused with MISCONF, reads go on \
             (S3.9)"
                .to_owned(),
            format!("free space on its disk; {} CONFIG GET dir", cli(node)),
        ));
    }
    if has_failed("aof_last_bgrewrite_status") {
        verdict.standing.push(Finding::warning(
            "aof_rewrite_failed",
            node,
            "the last rewrite of the append-only file failed: the file grows until the disk is full"
                .to_owned(),
            format!("free space for a second copy; then {} BGREWRITEAOF", cli(node)),
        ));
    }
}

fn slow_save(case: &Case<'_>, verdict: &mut Verdict) {
    let info = &case.now.info;
    let last = info.number("rdb_last_bgsave_time_sec").unwrap_or(0);
    let current = info.number("rdb_current_bgsave_time_sec").unwrap_or(0);
    let is_saving = info.is("rdb_bgsave_in_progress", "1");
    // Of seconds a save may take twice as many by chance.
    if is_saving && current > 2 * last.max(SAVE_SECONDS) {
        verdict.standing.push(Finding::warning(
            "save_slow",
            case.node,
            format!("a save runs for {current} s, the last one took {last} s: its memory grows with every write meanwhile"),
            "look at the disk's throughput; a hanging volume never ends it".to_owned(),
        ));
    }
}

fn aof_growth(case: &Case<'_>, verdict: &mut Verdict) {
    let info = &case.now.info;
    let (Some(current), Some(base)) =
        (info.number("aof_current_size"), info.number("aof_base_size"))
    else {
        return;
    };
    // Redis itself rewrites nothing below this.
    if base == 0 || current <= AOF_FLOOR || current / base < 3 {
        return;
    }
    if current > base.saturating_mul(3) {
        verdict.standing.push(Finding::warning(
            "aof_grown",
            case.node,
            format!(
                "the append-only file has {}, its base {}: rewrites are off or fail, a restart \
                 takes long and the disk fills",
                bytes(current),
                bytes(base)
            ),
            format!("{} BGREWRITEAOF; then CONFIG GET auto-aof-rewrite-percentage", cli(case.node)),
        ));
    }
}

/// A save shorter than this is never slow.
const SAVE_SECONDS: u64 = 10;
/// `auto-aof-rewrite-min-size` as it comes.
const AOF_FLOOR: u64 = 64 * MIB;
