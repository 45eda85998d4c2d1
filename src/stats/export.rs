//! The page of `/metrics`: sums the workers when it is scraped and writes Prometheus text.
//!
//! This file owns the joining of what belongs to the process and what each upstream adds (`part`).
//! It never writes to a worker's memory: a scrape costs the hot path nothing but a few cache misses.
//! What surprises: there are two sources. Hot numbers are copied from the workers into registry
//! handles at each scrape; what the registry cannot hold is written behind its text. And an upstream
//! that is the only one has no label: with it, every panel and alert of those who have one Redis would
//! have to know its name.

use std::sync::Arc;
use std::time::Instant;

use metrics::{Level, Metadata, Recorder as _, SetRecorderError};

use super::families::{self, Label};
use super::part::Part;
use super::process::{self, Process};
use super::recorder::{Recorder, Registries};
use super::{rules, text};
use crate::policy;

pub use super::part::Source;

/// The media type of [`Exporter::render`], as Prometheus wants it in `Content-Type`.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Renders the metrics of one process.
pub struct Exporter {
    registries: Registries,
    /// One for each upstream, the default one first.
    parts: Vec<Part>,
    /// Whose rules' counts are shown.
    policy: policy::Published,
    started: Instant,
}

// === impl Exporter ===

impl Exporter {
    /// An exporter of these upstreams, whose recorders are of `registries`.
    ///
    /// `command_name` gives the label of each dense index below
    /// [`WorkerStats::commands`](super::WorkerStats::commands), and is only called here. Names that the
    /// table lacks are counted as `other`.
    pub fn new<'n>(
        registries: Registries,
        sources: Vec<Source>,
        policy: policy::Published,
        command_name: impl Fn(usize) -> &'n str,
    ) -> Self {
        let mut workers = sources.iter().flat_map(|source| &source.workers);
        let commands = workers.next().map_or(0, |worker| worker.commands());
        // A shorter table would count other names under the commands that it lacks.
        debug_assert!(workers.all(|worker| worker.commands() == commands));
        let names = (0..commands).map(|command| command_name(command).to_owned());
        let names: Arc<[String]> = names.chain([OTHER.to_owned()]).collect();
        let part = |source| Part::new(source, Arc::clone(&names));
        let exporter = Self {
            parts: sources.into_iter().map(part).collect(),
            registries,
            policy,
            started: crate::clock::now(),
        };
        exporter.register_constants();
        exporter
    }

    /// Makes the first upstream's recorder that of all threads which belong to no upstream. What
    /// these count is the process's own, and ends there.
    ///
    /// # Errors
    /// If the process has one already; counts then go there and are missing here.
    pub fn install(&self) -> Result<(), SetRecorderError<Arc<Recorder>>> {
        self.parts
            .first()
            .map_or(Ok(()), |part| metrics::set_global_recorder(Arc::clone(part.recorder())))
    }

    /// The page: every family once, with HELP and TYPE, sorted by name except that the families the
    /// registry cannot hold come last. Takes about a millisecond, on the caller's thread.
    pub fn render(&self) -> String {
        let process = Process::read();
        self.publish_process(&process);
        let registered = self.parts.iter().map(|part| self.named(part, part.registered()));
        let registered: Vec<String> =
            registered.chain([self.registries.process().render()]).collect();
        let mut page = text::sorted(&registered);
        let appended = self.parts.iter().map(|part| self.named(part, part.appended()));
        page.push_str(&text::joined(&appended.collect::<Vec<_>>()));
        rules::write(&mut page, &self.policy.load());
        if let Some(seconds) = process.cpu_seconds {
            let family = "process_cpu_seconds_total";
            text::write_fractional_counter(&mut page, family, families::help(family), seconds);
        }
        page
    }

    /// What an upstream adds, told from the others' if there are any.
    fn named(&self, part: &Part, page: String) -> String {
        match self.parts.len() {
            1 => page,
            _ => text::labelled(&page, UPSTREAM_LABEL, part.name()),
        }
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

    /// Sets what does not change while the process lives.
    fn register_constants(&self) {
        let version = ("version", env!("CARGO_PKG_VERSION"));
        self.set_gauge(families::BUILD_INFO, Some(version), 1.0);
        if let Some(seconds) = process::start_time_seconds() {
            self.set_gauge("process_start_time_seconds", None, seconds);
        }
    }

    /// Sets a gauge of the process.
    fn set_gauge(&self, family: &'static str, label: Option<Label>, value: f64) {
        let recorder = &self.registries.process().recorder;
        recorder.register_gauge(&families::key(family, label), &METADATA).set(value);
    }
}

/// What tells several upstreams apart.
const UPSTREAM_LABEL: &str = "upstream";

/// The label `command` of names that the table lacks.
const OTHER: &str = "other";

/// Required by the registry's interface, which ignores it.
pub(super) static METADATA: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, None);

#[cfg(test)]
mod tests;
