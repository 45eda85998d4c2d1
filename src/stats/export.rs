//! The page of `/metrics`: sums the workers when it is scraped and writes Prometheus text.
//!
//! This file owns the registry of the `metrics` crate, into which the control plane counts
//! directly, and the readers of all workers' [`WorkerStats`]. It never writes to a worker's memory:
//! a scrape costs the hot path nothing but a few cache misses. What surprises: there are two
//! sources. Hot numbers are copied from the workers into registry handles at each scrape; latency
//! histograms never enter the registry, because it would keep every sample, and are appended to its
//! text.

use std::iter::Sum;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use metrics::{Key, Level, Metadata, Recorder, SetRecorderError};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use super::WorkerStats;
use super::families::{self, Label, Series};
use super::histogram::{Histogram, Snapshot};
use super::labels::Outcome;
use super::nodes::NodeSeries;
use super::process::{self, Process};
use super::{control, rules, text};
use crate::findings::Board;
use crate::policy;

/// The media type of [`Exporter::render`], as Prometheus wants it in `Content-Type`.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Renders the metrics of one process.
pub struct Exporter {
    /// Read only; each is written by its worker alone.
    workers: Vec<Arc<WorkerStats>>,
    /// The label `command` by dense index; the last is for names that the table lacks.
    command_names: Vec<String>,
    /// Registers series; shared with the `metrics` crate once installed.
    recorder: Arc<PrometheusRecorder>,
    /// Renders what `recorder` registered.
    handle: PrometheusHandle,
    /// Where each sum over the workers goes; complete from the start.
    counters: Vec<(metrics::Counter, Series<u64>)>,
    gauges: Vec<(metrics::Gauge, Series<i64>)>,
    /// Handles of `breakwater_commands_total`, by command and outcome; `None` until the count is
    /// above zero, because most of the commands of Redis are never used.
    commands: Mutex<Vec<[Option<metrics::Counter>; Outcome::ALL.len()]>>,
    /// What is amiss behind us.
    findings: Arc<Board>,
    /// How the servers behind are.
    nodes: Arc<NodeSeries>,
    /// Whose rules' counts are shown.
    policy: policy::Published,
    started: Instant,
}

// === impl Exporter ===

impl Exporter {
    /// An exporter of `workers`, all made for the same number of commands.
    ///
    /// `command_name` gives the label of each dense index below [`WorkerStats::commands`], and is
    /// only called here. Names that the table lacks are counted as `other`.
    pub fn new<'n>(
        workers: Vec<Arc<WorkerStats>>,
        command_name: impl Fn(usize) -> &'n str,
    ) -> Self {
        let commands = workers.first().map_or(0, |worker| worker.commands());
        // A shorter table would count other names under the commands that it lacks.
        debug_assert!(workers.iter().all(|worker| worker.commands() == commands));
        let mut command_names: Vec<String> =
            (0..commands).map(|command| command_name(command).to_owned()).collect();
        command_names.push(OTHER.to_owned());
        let recorder = PrometheusBuilder::new().build_recorder();
        let counter = |it: &Series<u64>| recorder.register_counter(&it.key(), &METADATA);
        let gauge = |it: &Series<i64>| recorder.register_gauge(&it.key(), &METADATA);
        let exporter = Self {
            workers,
            commands: Mutex::new(vec![Default::default(); command_names.len()]),
            command_names,
            counters: families::counters().into_iter().map(|it| (counter(&it), it)).collect(),
            gauges: families::gauges().into_iter().map(|it| (gauge(&it), it)).collect(),
            handle: recorder.handle(),
            recorder: Arc::new(recorder),
            findings: Arc::default(),
            nodes: Arc::default(),
            policy: policy::Published::default(),
            started: crate::clock::now(),
        };
        exporter.register_constants();
        exporter
    }

    /// The same exporter, which also shows what stands on `findings`, how the servers are, and what the
    /// rules of the policy in force have met.
    #[must_use]
    pub fn showing(
        self,
        findings: Arc<Board>,
        nodes: Arc<NodeSeries>,
        policy: policy::Published,
    ) -> Self {
        Self { findings, nodes, policy, ..self }
    }

    /// Makes this exporter the process's recorder, so that [`control`] counts into it.
    ///
    /// # Errors
    /// If the process has one already; counts then go there and are missing here.
    pub fn install(&self) -> Result<(), SetRecorderError<Arc<PrometheusRecorder>>> {
        metrics::set_global_recorder(Arc::clone(&self.recorder))
    }

    /// Runs `count` with this exporter as the recorder of [`control`], whichever is installed.
    pub fn scoped<T>(&self, count: impl FnOnce() -> T) -> T {
        metrics::with_local_recorder(&*self.recorder, count)
    }

    /// The page: every family once, with HELP and TYPE, sorted by name except that the families the
    /// registry cannot hold come last. Takes about a millisecond, on the caller's thread.
    pub fn render(&self) -> String {
        self.publish_workers();
        self.publish_commands();
        let process = Process::read();
        self.publish_process(&process);
        let mut page = text::sorted(&self.handle.render());
        for (family, read) in HISTOGRAMS {
            // These never enter the registry: it would keep every sample until the next scrape.
            let snapshot = self.merged(read);
            text::write_histogram(&mut page, family, families::help(family), &snapshot);
        }
        self.write_findings(&mut page);
        self.nodes.write(&mut page);
        rules::write(&mut page, &self.policy.load());
        if let Some(seconds) = process.cpu_seconds {
            let family = "process_cpu_seconds_total";
            text::write_fractional_counter(&mut page, family, families::help(family), seconds);
        }
        page
    }

    /// What is amiss, a series each. They are gone from the page with the finding itself, which the
    /// registry could not do.
    fn write_findings(&self, page: &mut String) {
        let findings = self.findings.all();
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
        for (command, (row, name)) in rows.iter_mut().zip(&self.command_names).enumerate() {
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
        self.workers.iter().map(|worker| read(worker)).sum()
    }

    /// The registry's handle of one command and outcome.
    fn command_handle(&self, name: &str, outcome: Outcome) -> metrics::Counter {
        let labels = vec![
            metrics::Label::new("command", name.to_owned()),
            metrics::Label::new("outcome", outcome.as_str()),
        ];
        self.recorder.register_counter(&Key::from_parts(families::COMMANDS, labels), &METADATA)
    }

    /// Sets uptime and what the kernel says of the process.
    fn publish_process(&self, process: &Process) {
        let uptime = crate::clock::now().saturating_duration_since(self.started);
        self.set_gauge(families::UPTIME, None, uptime.as_secs_f64());
        for (family, value) in [
            ("process_resident_memory_bytes", process.resident_bytes),
            ("process_virtual_memory_bytes", process.virtual_bytes),
            ("process_open_fds", process.open_fds),
            ("process_max_fds", process.max_fds),
        ] {
            if let Some(value) = value {
                self.set_gauge(family, None, value as f64);
            }
        }
    }

    /// Describes all families and sets what does not change while the process lives.
    fn register_constants(&self) {
        for (family, help) in families::described() {
            // The registry keeps one map of descriptions for all types.
            self.recorder.describe_counter(family.into(), None, help.into());
        }
        let version = ("version", env!("CARGO_PKG_VERSION"));
        self.set_gauge(families::BUILD_INFO, Some(version), 1.0);
        if let Some(seconds) = process::start_time_seconds() {
            self.set_gauge("process_start_time_seconds", None, seconds);
        }
        self.scoped(control::register);
    }

    /// Sets a gauge that no worker holds.
    fn set_gauge(&self, family: &'static str, label: Option<Label>, value: f64) {
        self.recorder.register_gauge(&families::key(family, label), &METADATA).set(value);
    }

    /// One histogram of all workers.
    fn merged(&self, read: fn(&WorkerStats) -> &Histogram) -> Snapshot {
        let mut sum = Snapshot::default();
        for worker in &self.workers {
            sum.merge(&read(worker).snapshot());
        }
        sum
    }
}

/// The label `command` of names that the table lacks.
const OTHER: &str = "other";

/// Required by the registry's interface, which ignores it.
static METADATA: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, None);

/// Picks one histogram of a worker.
type ReadHistogram = fn(&WorkerStats) -> &Histogram;

/// The families that are appended to the registry's text.
const HISTOGRAMS: [(&str, ReadHistogram); 2] = [
    (families::QUEUE_SECONDS, |worker| &worker.queue_time),
    (families::UPSTREAM_SECONDS, |worker| &worker.upstream_time),
];

#[cfg(test)]
mod tests;
