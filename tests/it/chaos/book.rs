//! What one client, or all of them, did and saw.
//!
//! Owns the sums and the list of violations. Never judges: `client` does, `balance` does. What surprises: values
//! of shared counters are kept one by one, since two clients with the same one prove a reply that went astray.

use std::fmt;

use super::SHARED_COUNTERS;

/// The figures of a run.
#[derive(Debug, Default)]
pub(crate) struct Book {
    pub(crate) pipelines: usize,
    /// Replies that were as expected, errors apart.
    pub(crate) acknowledged: usize,
    /// Errors that say that nothing was run.
    pub(crate) not_executed: usize,
    /// Errors that say that the outcome is unknown.
    pub(crate) unknown: usize,
    /// Errors that say that a read got no reply.
    pub(crate) no_reply: usize,
    /// Commands without a reply because the client left.
    pub(crate) unanswered: usize,
    /// Connections that the client closed in the middle.
    pub(crate) left: usize,
    /// Connections that were closed in the middle of a large reply.
    pub(crate) cut: usize,
    /// Bytes of replies that were compared.
    pub(crate) bytes: usize,
    /// Replies to increments of each shared counter.
    pub(crate) shared_values: [Vec<i64>; SHARED_COUNTERS],
    /// Increments of each shared counter that may have run.
    pub(crate) shared_unknown: [usize; SHARED_COUNTERS],
    /// Client, acknowledged and possible increments of its own counter.
    pub(crate) own_counters: Vec<(usize, i64, i64)>,
    /// What must not happen.
    pub(crate) violations: Vec<String>,
}

// === impl Book ===

impl Book {
    /// Adds the figures of one client.
    pub(crate) fn add(&mut self, other: Self) {
        self.pipelines += other.pipelines;
        self.acknowledged += other.acknowledged;
        self.not_executed += other.not_executed;
        self.unknown += other.unknown;
        self.no_reply += other.no_reply;
        self.unanswered += other.unanswered;
        self.left += other.left;
        self.cut += other.cut;
        self.bytes += other.bytes;
        for (sum, values) in self.shared_values.iter_mut().zip(other.shared_values) {
            sum.extend(values);
        }
        for (sum, unknown) in self.shared_unknown.iter_mut().zip(other.shared_unknown) {
            *sum += unknown;
        }
        self.own_counters.extend(other.own_counters);
        self.violations.extend(other.violations);
    }
}

impl fmt::Display for Book {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pipelines, acknowledged, not_executed, unknown, no_reply, .. } = self;
        writeln!(
            f,
            "{pipelines} pipelines: {acknowledged} replies as expected ({} MiB), \
             {not_executed} not executed, {unknown} outcome unknown, {no_reply} reads without reply",
            self.bytes >> 20
        )?;
        write!(
            f,
            "{} times a client left with {} commands unanswered, {} times a large reply broke off",
            self.left, self.unanswered, self.cut
        )
    }
}
