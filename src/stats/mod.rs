//! What a worker counts: plain counters, gauges and two latency histograms.
//!
//! This file owns [`WorkerStats`], one for each worker, shared with the scraper as an `Arc`. The
//! worker is its only writer; `export` sums all workers when somebody scrapes. Nothing here touches
//! the `metrics` crate, takes a lock or allocates after construction: an increment is one load and
//! one store, well under a nanosecond. What surprises: increments are no atomic read-modify-writes.
//! A second writing thread would not be undefined behaviour, but would lose counts; that is why
//! everything that is not a worker counts through [`control`] instead.

pub mod control;
pub mod export;
mod families;
pub mod histogram;
pub mod labels;
pub mod nodes;
mod part;
mod process;
pub mod recorder;
mod rules;
mod text;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use histogram::Histogram;
use labels::{
    ClosedReason, DialFailure, ErrorClass, LaneLost, Outcome, Paced, Redirected, Resent, Rewritten,
};

/// A number that only rises. One writer, any number of readers.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

/// A number that rises and falls. One writer, any number of readers.
///
/// It wraps instead of stopping at zero: what one worker adds another may subtract, and the sum
/// over the workers is still right. A sum below zero shows up as such and means a bug of ours.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

/// Everything one worker counts. Fields are public: `stats.clients_accepted.increment()`.
///
/// Counters with a label are reached through a method that takes the label's enum.
// A cache line of its own, so that two workers' counters never share one.
#[derive(Debug)]
#[repr(align(64))]
pub struct WorkerStats {
    /// Turns of the event loop in which commands were handed to nodes.
    pub turns: Counter,
    /// Times a session's task had its turn; divided by `turns` it is about the batch size.
    pub turn_sessions: Counter,
    /// Connections of one session each, resting and dialling ones included; set by the tick.
    pub pinned: Gauge,
    /// Sessions that read the replication stream; set by the tick.
    pub replicas: Gauge,
    /// Sessions that wait for one; set by the tick.
    pub pinned_waiting: Gauge,
    /// Commands refused because there was none in time.
    pub pinned_refused: Counter,
    /// Connections of one session each that became ready to use.
    pub pinned_opened: Counter,
    /// Writes to lanes.
    pub lane_flushes: Counter,
    /// Commands that these writes carried; divided by `lane_flushes` it is commands a flush.
    pub lane_commands: Counter,
    /// Bytes received from clients.
    pub client_bytes_in: Counter,
    /// Bytes sent to clients.
    pub client_bytes_out: Counter,
    /// Bytes received from nodes.
    pub upstream_bytes_in: Counter,
    /// Bytes sent to nodes.
    pub upstream_bytes_out: Counter,
    /// Commands that were sent to a node and whose reply has not come.
    pub commands_in_flight: Gauge,
    /// Bytes of replies that wait for their client to take them.
    pub reply_buffered_bytes: Gauge,
    /// Bytes of requests that were read and wait to be framed or sent.
    pub request_buffered_bytes: Gauge,
    /// Clients connected to this worker.
    pub clients: Gauge,
    /// Clients that this worker was given.
    pub clients_accepted: Counter,
    /// Bytes from clients that broke the protocol, counted once a session.
    pub client_protocol_errors: Counter,
    /// Lanes that are open and authenticated.
    pub lanes: Gauge,
    /// Lanes that became ready to use.
    pub lanes_opened: Counter,
    /// Lanes that we closed in order, being idle, too old or replaced.
    pub lanes_retired: Counter,
    /// Attempts to connect to a node.
    pub dials_started: Counter,
    /// Waiters whose client left or was answered before the reply came.
    pub tombstones_made: Counter,
    /// Replies that came for a tombstone and were dropped.
    pub tombstones_consumed: Counter,
    /// Commands whose reply deadline passed.
    pub deadlines_passed: Counter,
    /// RESP3 pushes that arrived on a lane, where nobody waits for them.
    pub pushes_dropped: Counter,
    /// Subscriber links that are open and authenticated.
    pub subscriber_links: Gauge,
    /// Subscriber links that became ready to use.
    pub subscriber_links_opened: Counter,
    /// Subscriptions that clients hold.
    pub subscriptions: Gauge,
    /// Messages that came from nodes.
    pub messages_received: Counter,
    /// Messages that clients were given.
    pub messages_delivered: Counter,
    /// Times that a link was lost with subscriptions on it: messages may be missing.
    pub subscription_gaps: Counter,
    /// Subscriptions that a node ended of its own accord and that were asked for again.
    pub subscriptions_moved: Counter,
    /// Sources of scripts that we sent in front of an EVALSHA.
    pub script_loads: Counter,
    /// Those that the node refused.
    pub script_loads_refused: Counter,
    /// Commands that were sent to a replica.
    pub replica_reads: Counter,
    /// Those of them that a keyspace sent there because the primary was away.
    pub replica_reads_primary_away: Counter,
    /// Writes that were held back to protect what is there.
    pub writes_guarded: Counter,
    /// Questions how much a command would read.
    pub bound_probes: Counter,
    /// Commands refused because they would read too much.
    pub bound_refused: Counter,
    /// Commands that went although nobody could say how much they would read.
    pub bound_unmeasured: Counter,
    /// Commands that went and turned out to have read too much.
    pub bound_slipped: Counter,
    /// Pages of which answers were put together.
    pub pages: Counter,
    /// Panics that were caught at the edge of a session or a lane.
    pub panics: Counter,
    /// From the arrival of a command to the moment it was handed to the kernel, in µs.
    pub queue_time: Histogram,
    /// From the moment a command was handed to the kernel to its reply, in µs.
    pub upstream_time: Histogram,
    error_replies: [Counter; ErrorClass::ALL.len()],
    clients_closed: [Counter; ClosedReason::ALL.len()],
    lanes_lost: [Counter; LaneLost::ALL.len()],
    subscriber_links_lost: [Counter; LaneLost::ALL.len()],
    dials_failed: [Counter; DialFailure::ALL.len()],
    resent: [Counter; Resent::ALL.len()],
    redirected: [Counter; Redirected::ALL.len()],
    rewritten: [Counter; Rewritten::ALL.len()],
    paced: [Counter; Paced::ALL.len()],
    /// One row of outcomes for each command of the table, by its dense index.
    commands: Box<[[Counter; Outcome::ALL.len()]]>,
    /// The row of every name that the table lacks.
    other_commands: [Counter; Outcome::ALL.len()],
}

// === impl Counter ===

impl Counter {
    /// Adds `n`. Only the owning worker may call this.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Adds one. Only the owning worker may call this.
    #[inline]
    pub fn increment(&self) {
        self.add(1);
    }

    /// The value, from any thread; at most a moment old.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

// === impl Gauge ===

impl Gauge {
    /// Replaces the value. Only the owning worker may call this.
    #[inline]
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    /// Adds `n`. Only the owning worker may call this.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Takes away `n`; see the type for what happens below zero.
    #[inline]
    pub fn sub(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(n), Relaxed);
    }

    /// The value, from any thread; below zero only if more was taken away than added here.
    #[inline]
    pub fn get(&self) -> i64 {
        self.0.load(Relaxed).cast_signed()
    }
}

// === impl WorkerStats ===

impl WorkerStats {
    /// Counts a reply of the node by its class.
    #[inline]
    pub fn note_reply(&self, bytes: &[u8], kind: u8) -> Outcome {
        match kind {
            b'-' => {
                self.error_reply(ErrorClass::of(bytes)).increment();
                Outcome::ErrorReply
            }
            b'!' => {
                let payload = bytes.splitn(2, |&byte| byte == b'\n').nth(1).unwrap_or_default();
                self.error_reply(ErrorClass::of(payload)).increment();
                Outcome::ErrorReply
            }
            _ => Outcome::Ok,
        }
    }

    /// The index to count a command under whose name the table lacks. Every index at or beyond the
    /// number of commands counts the same way.
    pub const OTHER_COMMAND: usize = usize::MAX;

    /// Counters for a table of `commands` commands, all zero. Costs 48 bytes a command.
    pub fn new(commands: usize) -> Self {
        Self {
            turns: Counter::default(),
            turn_sessions: Counter::default(),
            lane_flushes: Counter::default(),
            lane_commands: Counter::default(),
            client_bytes_in: Counter::default(),
            client_bytes_out: Counter::default(),
            upstream_bytes_in: Counter::default(),
            upstream_bytes_out: Counter::default(),
            commands_in_flight: Gauge::default(),
            reply_buffered_bytes: Gauge::default(),
            request_buffered_bytes: Gauge::default(),
            clients: Gauge::default(),
            clients_accepted: Counter::default(),
            client_protocol_errors: Counter::default(),
            lanes: Gauge::default(),
            lanes_opened: Counter::default(),
            pinned: Gauge::default(),
            replicas: Gauge::default(),
            pinned_waiting: Gauge::default(),
            pinned_refused: Counter::default(),
            pinned_opened: Counter::default(),
            lanes_retired: Counter::default(),
            dials_started: Counter::default(),
            tombstones_made: Counter::default(),
            tombstones_consumed: Counter::default(),
            deadlines_passed: Counter::default(),
            pushes_dropped: Counter::default(),
            subscriber_links: Gauge::default(),
            subscriber_links_opened: Counter::default(),
            subscriptions: Gauge::default(),
            messages_received: Counter::default(),
            messages_delivered: Counter::default(),
            subscription_gaps: Counter::default(),
            subscriptions_moved: Counter::default(),
            replica_reads: Counter::default(),
            replica_reads_primary_away: Counter::default(),
            writes_guarded: Counter::default(),
            pages: Counter::default(),
            script_loads: Counter::default(),
            script_loads_refused: Counter::default(),
            bound_probes: Counter::default(),
            bound_refused: Counter::default(),
            bound_unmeasured: Counter::default(),
            bound_slipped: Counter::default(),
            panics: Counter::default(),
            queue_time: Histogram::new(),
            upstream_time: Histogram::new(),
            error_replies: Default::default(),
            clients_closed: Default::default(),
            lanes_lost: Default::default(),
            subscriber_links_lost: Default::default(),
            dials_failed: Default::default(),
            resent: Default::default(),
            redirected: Default::default(),
            rewritten: Default::default(),
            paced: Default::default(),
            commands: (0..commands).map(|_| Default::default()).collect(),
            other_commands: Default::default(),
        }
    }

    /// Commands of the table's index `command` that ended with `outcome`.
    #[inline]
    pub fn command(&self, command: usize, outcome: Outcome) -> &Counter {
        let outcomes = self.commands.get(command).unwrap_or(&self.other_commands);
        &outcomes[outcome as usize]
    }

    /// Error replies of nodes whose first word is of `class`.
    #[inline]
    pub fn error_reply(&self, class: ErrorClass) -> &Counter {
        &self.error_replies[class as usize]
    }

    /// Clients whose connection ended for `reason`.
    #[inline]
    pub fn client_closed(&self, reason: ClosedReason) -> &Counter {
        &self.clients_closed[reason as usize]
    }

    /// Lanes that ended unasked because of `cause`.
    #[inline]
    pub fn lane_lost(&self, cause: LaneLost) -> &Counter {
        &self.lanes_lost[cause as usize]
    }

    /// Subscriber links that ended unasked because of `cause`.
    #[inline]
    pub fn subscriber_link_lost(&self, cause: LaneLost) -> &Counter {
        &self.subscriber_links_lost[cause as usize]
    }

    /// Dials that failed because of `cause`.
    #[inline]
    pub fn dial_failed(&self, cause: DialFailure) -> &Counter {
        &self.dials_failed[cause as usize]
    }

    /// Commands that were routed again because of `reason`.
    #[inline]
    pub fn redirected(&self, reason: Redirected) -> &Counter {
        &self.redirected[reason as usize]
    }

    /// Commands that were sent again because of `reason`.
    #[inline]
    pub fn resent(&self, reason: Resent) -> &Counter {
        &self.resent[reason as usize]
    }

    /// Commands that a rule rewrote in that way.
    #[inline]
    pub fn rewritten(&self, how: Rewritten) -> &Counter {
        &self.rewritten[how as usize]
    }

    /// Commands that came sooner than a rule allows.
    #[inline]
    pub fn paced(&self, outcome: Paced) -> &Counter {
        &self.paced[outcome as usize]
    }

    /// Number of commands of the table, without the row for other names.
    pub fn commands(&self) -> usize {
        self.commands.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::sync::Arc;

    #[test]
    fn a_counter_adds_up_and_wraps_instead_of_panicking() {
        let counter = Counter::default();
        counter.increment();
        counter.add(41);
        assert_eq!(counter.get(), 42);
        counter.add(u64::MAX);
        assert_eq!(counter.get(), 41);
    }

    #[test]
    fn a_gauge_below_zero_is_seen_and_recovers() {
        let gauge = Gauge::default();
        gauge.set(3);
        gauge.sub(5);
        assert_eq!(gauge.get(), -2);
        gauge.add(2);
        assert_eq!(gauge.get(), 0);
    }

    #[test]
    fn every_label_has_a_counter_of_its_own() {
        let stats = WorkerStats::new(3);
        let mut counters: Vec<*const Counter> = Vec::new();
        for command in [0, 1, 2, WorkerStats::OTHER_COMMAND] {
            counters.extend(Outcome::ALL.map(|it| &raw const *stats.command(command, it)));
        }
        counters.extend(ErrorClass::ALL.map(|it| &raw const *stats.error_reply(it)));
        counters.extend(ClosedReason::ALL.map(|it| &raw const *stats.client_closed(it)));
        counters.extend(LaneLost::ALL.map(|it| &raw const *stats.lane_lost(it)));
        counters.extend(LaneLost::ALL.map(|it| &raw const *stats.subscriber_link_lost(it)));
        counters.extend(DialFailure::ALL.map(|it| &raw const *stats.dial_failed(it)));
        counters.extend(Rewritten::ALL.map(|it| &raw const *stats.rewritten(it)));
        counters.extend(Paced::ALL.map(|it| &raw const *stats.paced(it)));
        counters.extend(Redirected::ALL.map(|it| &raw const *stats.redirected(it)));
        counters.extend(Resent::ALL.map(|it| &raw const *stats.resent(it)));
        let distinct: HashSet<_> = counters.iter().collect();
        assert_eq!(distinct.len(), counters.len());
    }

    #[test]
    fn commands_beyond_the_table_share_one_row() {
        let stats = WorkerStats::new(2);
        stats.command(2, Outcome::Refused).increment();
        stats.command(WorkerStats::OTHER_COMMAND, Outcome::Refused).increment();
        assert_eq!(stats.command(99, Outcome::Refused).get(), 2);
        assert_eq!(stats.command(1, Outcome::Refused).get(), 0);
        assert_eq!(stats.commands(), 2);
    }

    #[test]
    fn a_reader_on_another_thread_sees_all_when_the_writer_is_done() {
        let stats = Arc::new(WorkerStats::new(1));
        let writer = Arc::clone(&stats);
        let thread = std::thread::spawn(move || {
            for us in 0..10_000 {
                writer.command(0, Outcome::Ok).increment();
                writer.queue_time.record(us);
            }
        });
        // Reads in between must never go backwards.
        let mut last = 0;
        while !thread.is_finished() {
            let seen = stats.command(0, Outcome::Ok).get();
            assert!(seen >= last);
            last = seen;
        }
        thread.join().unwrap();
        assert_eq!(stats.command(0, Outcome::Ok).get(), 10_000);
        assert_eq!(stats.queue_time.snapshot().count(), 10_000);
    }
}
