//! Replies that follow one another to one client.
//!
//! Owns the short way of most replies: whole, no error, and with nothing to do but being delivered
//! or, before a cluster, being held until those of other lanes are. Of such a run the session is
//! looked up once, neighbours are copied together and equal times are recorded once. Never decides anything: whatever is unusual ends the
//! run, and is left to `receive`.
//!
//! What surprises: a run of one is normal, for clients without pipelines, and cheaper than the long
//! way too, because it asks each question at most once.

use crate::buffer::ChunkPool;
use crate::clock::Micros;
use crate::command::spec::CommandId;
use crate::resp::reply;
use crate::stats::WorkerStats;
use crate::stats::labels::Outcome;
use crate::upstream::lane::{Lane, Waiter};
use crate::worker::Worker;

/// Commands that are counted together: which one, how long they waited here, and how long there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Alike {
    command: CommandId,
    queued: Micros,
    upstream: Micros,
}

/// Settles the replies that `input` begins with, as long as they are plain ones of one client, and
/// returns their length. No reply is in progress on the lane, which is lent.
pub(super) fn settle(worker: &mut Worker, lane: &mut Lane, input: &[u8]) -> usize {
    let plain = lane.waiters.front().filter(|it| it.is_plain());
    let Some(&Waiter { session: id, .. }) = plain else {
        return 0;
    };
    if input.is_empty() || lane.streaming || lane.pinned.is_some() || lane.block.0 > 0 {
        return 0;
    }
    #[cfg(test)]
    if worker.faults.no_runs {
        return 0;
    }
    let Some(session) = worker.sessions.get_mut(id).filter(|it| it.takes_runs()) else {
        return 0;
    };
    lane.settling = Some(id);
    let (mut used, mut end, mut count) = (0, 0, 0);
    let mut alike: Option<(Alike, u64)> = None;
    let mut filling = session.replies.filling(input, &mut session.out, &mut worker.pool);
    while let Some((waiter, length)) = next(lane, input.get(used..).unwrap_or_default()) {
        // Whoever notes slow commands wants to see them.
        let is_slow = worker.now.saturating_sub(waiter.taken_at) >= worker.slow.after;
        if waiter.session != id || is_slow || !filling.fill(waiter.slot, (used, length)) {
            break;
        }
        let it = times(lane, &waiter, worker.now);
        lane.waiters.pop_front();
        #[cfg(test)]
        worker.faults.maybe_panic_in_settle();
        session.admission.answered(&session.gate.bounds);
        session.admission.learn(length as u64);
        match &mut alike {
            Some((known, times)) if *known == it => *times += 1,
            _ => {
                note(&worker.stats, alike.replace((it, 1)));
            }
        }
        (used, end, count) = (used + length, waiter.end, count + 1);
    }
    filling.finish(used);
    lane.settling = None;
    if count > 0 {
        note(&worker.stats, alike);
        session.in_flight = session.in_flight.saturating_sub(count);
        worker.touched.mark(session);
        release(lane, &mut worker.pool, end);
    }
    used
}

/// The first waiter and the length of its reply, if both are plain and its command has been sent.
#[inline(always)]
fn next(lane: &Lane, rest: &[u8]) -> Option<(Waiter, usize)> {
    let waiter = lane.waiters.front().filter(|it| it.is_plain() && it.end <= lane.send.sent())?;
    Some((*waiter, reply::usual(rest)?))
}

/// The first waiter's command, as it is counted.
#[inline(always)]
fn times(lane: &mut Lane, waiter: &Waiter, now: Micros) -> Alike {
    let handed_at = lane.handed_at(waiter.end).unwrap_or(now);
    Alike {
        command: waiter.command,
        queued: handed_at.saturating_sub(waiter.taken_at),
        upstream: now.saturating_sub(handed_at),
    }
}

/// Counts so many commands that were answered.
#[inline(always)]
fn note(stats: &WorkerStats, alike: Option<(Alike, u64)>) {
    let Some((it, times)) = alike else {
        return;
    };
    stats.command(it.command.stats_index(), Outcome::Ok).add(times);
    stats.queue_time.record_many(it.queued, times);
    stats.upstream_time.record_many(it.upstream, times);
}

/// The commands up to `end` have been answered: their bytes leave the lane.
#[inline(always)]
fn release(lane: &mut Lane, pool: &mut ChunkPool, end: u64) {
    lane.has_answered = true;
    lane.overdraft = false;
    lane.send.release(pool, end);
}
