//! Where the control plane's counts go: to the process, or to the upstream on whose thread they were made.
//!
//! Owns [`Recorder`], one for each upstream, which the `metrics` crate is given for all threads that
//! belong to that upstream. It sorts by name: what is the process's own (reloads, the log) goes to a
//! registry that all share, everything else to the upstream's. Counts nothing itself.
//!
//! What surprises: so no caller of [`super::control`] names an upstream. A worker knows one only, and
//! on a path where the upstream's name would have to be handed down it would be forgotten sooner or
//! later; the thread cannot forget where it belongs.

use std::sync::Arc;

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, SharedString, Unit};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use super::families;

/// Series that are registered by name, and their text.
pub(super) struct Registry {
    pub(super) recorder: PrometheusRecorder,
    handle: PrometheusHandle,
}

/// Registers series of one upstream, and those of the process.
pub struct Recorder {
    own: Registry,
    process: Arc<Registry>,
}

/// Where all counts of one process end.
#[derive(Clone)]
pub struct Registries {
    process: Arc<Registry>,
}

// === impl Registry ===

impl Registry {
    fn new() -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        for (family, help) in families::described() {
            // The registry keeps one map of descriptions for all types.
            metrics::Recorder::describe_counter(&recorder, family.into(), None, help.into());
        }
        Self { handle: recorder.handle(), recorder }
    }

    /// Its series in no particular order.
    pub(super) fn render(&self) -> String {
        self.handle.render()
    }
}

// === impl Registries ===

impl Default for Registries {
    fn default() -> Self {
        Self { process: Arc::new(Registry::new()) }
    }
}

impl Registries {
    /// What the threads of one more upstream count into.
    #[must_use]
    pub fn recorder(&self) -> Arc<Recorder> {
        Arc::new(Recorder { own: Registry::new(), process: Arc::clone(&self.process) })
    }

    /// The series of the process.
    pub(super) fn process(&self) -> &Registry {
        &self.process
    }
}

// === impl Recorder ===

impl Recorder {
    /// Runs `count` so that its counts end here, whichever recorder is installed.
    pub fn scoped<T>(&self, count: impl FnOnce() -> T) -> T {
        metrics::with_local_recorder(self, count)
    }

    /// The series of the upstream.
    pub(super) fn own(&self) -> &Registry {
        &self.own
    }

    fn of(&self, key: &str) -> &PrometheusRecorder {
        match families::is_of_process(key) {
            true => &self.process.recorder,
            false => &self.own.recorder,
        }
    }
}

impl metrics::Recorder for Recorder {
    fn describe_counter(&self, key: KeyName, unit: Option<Unit>, text: SharedString) {
        self.of(key.as_str()).describe_counter(key, unit, text);
    }

    fn describe_gauge(&self, key: KeyName, unit: Option<Unit>, text: SharedString) {
        self.of(key.as_str()).describe_gauge(key, unit, text);
    }

    fn describe_histogram(&self, key: KeyName, unit: Option<Unit>, text: SharedString) {
        self.of(key.as_str()).describe_histogram(key, unit, text);
    }

    fn register_counter(&self, key: &Key, metadata: &Metadata<'_>) -> Counter {
        self.of(key.name()).register_counter(key, metadata)
    }

    fn register_gauge(&self, key: &Key, metadata: &Metadata<'_>) -> Gauge {
        self.of(key.name()).register_gauge(key, metadata)
    }

    fn register_histogram(&self, key: &Key, metadata: &Metadata<'_>) -> Histogram {
        self.of(key.name()).register_histogram(key, metadata)
    }
}
