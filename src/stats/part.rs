//! What one upstream adds to the page of `/metrics`.
//!
//! Owns the readers of that upstream's [`WorkerStats`], which it sums when it is asked, and what is
//! written beside the registry: latency histograms, findings and the servers behind. Never writes to a
//! worker's memory. What surprises: it does not know whether it is the only one. The label that tells
//! several apart is put in by `export`, when the parts are joined.

use std::iter::Sum;
use std::sync::{Arc, Mutex, PoisonError};

use metrics::{Key, Recorder as _};

use super::export::METADATA;
use super::families::{self, Series};
use super::histogram::{Histogram, Snapshot};
use super::labels::Outcome;
use super::nodes::NodeSeries;
use super::recorder::Recorder;
use super::{WorkerStats, control, text};
use crate::findings::Board;

/// What the page shows of one upstream.
pub struct Source {
    /// What the configuration calls it.
    pub name: String,
    /// The counters of its workers, all made for the same number of commands.
    pub workers: Vec<Arc<WorkerStats>>,
    /// What its threads count into.
    pub recorder: Arc<Recorder>,
    /// What is amiss there.
    pub findings: Arc<Board>,
    /// How the servers there are.
    pub nodes: Arc<NodeSeries>,
}

/// A source with the handles of its series.
pub(super) struct Part {
    source: Source,
    /// The label `command` by dense index; the last is for names that the table lacks.
    command_names: Arc<[String]>,
    /// Where each sum over the workers goes; complete from the start.
    counters: Vec<(metrics::Counter, Series<u64>)>,
    gauges: Vec<(metrics::Gauge, Series<i64>)>,
    /// Handles of `breakwater_commands_total`, by command and outcome; `None` until the count is
    /// above zero, because most of the commands of Redis are never used.
    commands: Mutex<Vec<[Option<metrics::Counter>; Outcome::ALL.len()]>>,
}

// === impl Part ===

impl Part {
    /// Registers all series that are there from the start.
    pub(super) fn new(source: Source, command_names: Arc<[String]>) -> Self {
        let counter = |it: &Series<u64>| source.recorder.register_counter(&it.key(), &METADATA);
        let gauge = |it: &Series<i64>| source.recorder.register_gauge(&it.key(), &METADATA);
        source.recorder.scoped(control::register);
        Self {
            counters: families::counters().into_iter().map(|it| (counter(&it), it)).collect(),
            gauges: families::gauges().into_iter().map(|it| (gauge(&it), it)).collect(),
            commands: Mutex::new(vec![Default::default(); command_names.len()]),
            command_names,
            source,
        }
    }

    /// What the upstream is called.
    pub(super) fn name(&self) -> &str {
        &self.source.name
    }

    /// What the upstream's threads count into.
    pub(super) fn recorder(&self) -> &Arc<Recorder> {
        &self.source.recorder
    }

    /// The families of the registry, in no particular order.
    pub(super) fn registered(&self) -> String {
        self.publish_workers();
        self.publish_commands();
        self.source.recorder.own().render()
    }

    /// The families that the registry cannot hold.
    pub(super) fn appended(&self) -> String {
        let mut page = String::new();
        for (family, read) in HISTOGRAMS {
            // These never enter the registry: it would keep every sample until the next scrape.
            let snapshot = self.merged(read);
            text::write_histogram(&mut page, family, families::help(family), &snapshot);
        }
        self.write_findings(&mut page);
        self.source.nodes.write(&mut page);
        page
    }

    /// What is amiss, a series each. They are gone from the page with the finding itself, which the
    /// registry could not do.
    fn write_findings(&self, page: &mut String) {
        let findings = self.source.findings.all();
        let rows = findings.iter().map(|it| {
            let severity = it.severity.as_str();
            (vec![("id", it.id), ("severity", severity), ("subject", &*it.subject)], 1.0)
        });
        let help = families::help(families::FINDING);
        text::write_rows(page, families::FINDING, help, text::Kind::Gauge, rows);
    }

    /// Copies the sums over the workers into the registry.
    fn publish_workers(&self) {
        for (handle, series) in &self.counters {
            handle.absolute(self.sum(&series.read));
        }
        for (handle, series) in &self.gauges {
            handle.set(self.sum(&series.read) as f64);
        }
    }

    /// Copies the counts by command and outcome, leaving out what never happened.
    fn publish_commands(&self) {
        let mut rows = self.commands.lock().unwrap_or_else(PoisonError::into_inner);
        // The last row has the index just beyond the table, which workers count as other names.
        for (command, (row, name)) in rows.iter_mut().zip(self.command_names.iter()).enumerate() {
            for (handle, outcome) in row.iter_mut().zip(Outcome::ALL) {
                let count = self.sum(|worker| worker.command(command, outcome).get());
                if count > 0 {
                    let register = || self.command_handle(name, outcome);
                    handle.get_or_insert_with(register).absolute(count);
                }
            }
        }
    }

    /// The sum of one number over the workers.
    fn sum<T: Sum>(&self, read: impl Fn(&WorkerStats) -> T) -> T {
        self.source.workers.iter().map(|worker| read(worker)).sum()
    }

    /// The registry's handle of one command and outcome.
    fn command_handle(&self, name: &str, outcome: Outcome) -> metrics::Counter {
        let labels = vec![
            metrics::Label::new("command", name.to_owned()),
            metrics::Label::new("outcome", outcome.as_str()),
        ];
        let key = Key::from_parts(families::COMMANDS, labels);
        self.source.recorder.register_counter(&key, &METADATA)
    }

    /// One histogram of all workers.
    fn merged(&self, read: fn(&WorkerStats) -> &Histogram) -> Snapshot {
        let mut sum = Snapshot::default();
        for worker in &self.source.workers {
            sum.merge(&read(worker).snapshot());
        }
        sum
    }
}

/// Picks one histogram of a worker.
type ReadHistogram = fn(&WorkerStats) -> &Histogram;

/// The families that are appended to the registry's text.
const HISTOGRAMS: [(&str, ReadHistogram); 2] = [
    (families::QUEUE_SECONDS, |worker| &worker.queue_time),
    (families::UPSTREAM_SECONDS, |worker| &worker.upstream_time),
];
