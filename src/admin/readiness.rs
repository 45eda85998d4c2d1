//! Whether this process can serve, and why not, in words that a person can act on.
//!
//! This file owns the answer behind `/readyz`. The control plane reports what it learns about the
//! upstream and when the process drains; the admin server reads. It checks nothing itself and
//! never blocks on the network.
//! What surprises: a process that has not reached its upstream yet is not ready. Kubernetes then
//! sends no traffic to a pod whose Redis address is wrong, and the reason is one request away.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::stats::control;

/// The readiness of the process, shared by the control plane and the admin server.
#[derive(Debug, Default)]
pub struct Readiness(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Set once, when the process begins to stop.
    is_draining: bool,
    upstream: Upstream,
    /// It was up at some time.
    has_been_up: bool,
    /// Times that `upstream` went from up to down.
    outages: u64,
    /// What is amiss although it can serve, a line each.
    notes: Vec<String>,
}

/// What is known about the upstream.
#[derive(Debug, Default)]
enum Upstream {
    /// Nothing has been reported.
    #[default]
    Unknown,
    Up,
    /// Down, with cause and cure in words, one line.
    Down(String),
}

// === impl Readiness ===

impl Readiness {
    /// Neither draining nor connected: not ready, until the upstream is reported to be up.
    pub fn new() -> Self {
        Self::default()
    }

    /// The process began to stop. There is no way back.
    pub fn set_draining(&self) {
        self.state().is_draining = true;
    }

    /// Reports the upstream as up, or as down for the reason given.
    ///
    /// The reason is shown as it is to whoever may read the admin port: it names address, cause
    /// and cure, as in `upstream 127.0.0.1:6379 is down (refused): start redis-server or check
    /// [upstream]`, and never a credential (INV-11). Line ends in it become spaces.
    pub fn set_upstream(&self, upstream: Result<(), String>) {
        let mut state = self.state();
        let was_up = matches!(state.upstream, Upstream::Up);
        state.has_been_up |= upstream.is_ok();
        state.upstream = match upstream {
            Ok(()) => Upstream::Up,
            Err(words) => Upstream::Down(one_line(&words)),
        };
        if was_up && matches!(state.upstream, Upstream::Down(_)) {
            state.outages += 1;
        }
    }

    /// Reports what is amiss although the process can serve: a lost shard of a cluster, for instance. The same rules as for
    /// the reason of [`Self::set_upstream`].
    pub fn set_notes(&self, notes: Vec<String>) {
        self.state().notes = notes.iter().map(|words| one_line(words)).collect();
    }

    /// What is amiss although the process can serve.
    pub fn notes(&self) -> Vec<String> {
        self.state().notes.clone()
    }

    /// Whether the process began to stop.
    pub(super) fn is_draining(&self) -> bool {
        self.state().is_draining
    }

    /// Whether the upstream was up at any time.
    pub(super) fn has_been_up(&self) -> bool {
        self.state().has_been_up
    }

    /// Why the process cannot serve, a line each; empty if it can.
    pub fn reasons(&self) -> Vec<String> {
        let state = self.state();
        let mut reasons = Vec::new();
        if state.is_draining {
            reasons.push("draining: this process is stopping and takes no new clients".to_owned());
        }
        match &state.upstream {
            Upstream::Up => {}
            Upstream::Unknown => reasons.push(UPSTREAM_UNKNOWN.to_owned()),
            Upstream::Down(words) => reasons.push(words.clone()),
        }
        reasons
    }

    /// Sets the gauges of the metrics page to what is true at this moment.
    pub(super) fn publish(&self) {
        let state = self.state();
        let is_up = matches!(state.upstream, Upstream::Up);
        control::readiness(is_up, state.is_draining, state.outages);
    }

    /// The state. Every change is a single assignment, so it is whole even if a holder panicked.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Line ends and the like become spaces.
fn one_line(words: &str) -> String {
    words.replace(|c: char| c.is_control(), " ")
}

/// The reason before the first dial has ended.
const UPSTREAM_UNKNOWN: &str = "upstream not reached yet: the first connection is being made";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_not_ready_before_the_upstream_has_been_reached() {
        let readiness = Readiness::new();
        assert_eq!(readiness.reasons(), [UPSTREAM_UNKNOWN]);
        readiness.set_upstream(Ok(()));
        assert!(readiness.reasons().is_empty());
    }

    #[test]
    fn every_reason_has_its_own_line() {
        let readiness = Readiness::new();
        readiness.set_upstream(Err("upstream a:1 is down (refused):\r\nstart it".to_owned()));
        readiness.set_draining();
        let reasons = readiness.reasons();
        assert_eq!(reasons.len(), 2);
        assert!(reasons[0].starts_with("draining"));
        assert_eq!(reasons[1], "upstream a:1 is down (refused):  start it");
    }

    #[test]
    fn an_upstream_that_comes_back_does_not_end_a_drain() {
        let readiness = Readiness::new();
        readiness.set_draining();
        readiness.set_upstream(Ok(()));
        assert_eq!(readiness.reasons().len(), 1);
    }

    #[test]
    fn only_a_fall_from_up_to_down_is_an_outage() {
        let readiness = Readiness::new();
        let report = |words: &str| readiness.set_upstream(Err(words.to_owned()));
        report("never was up");
        assert_eq!(readiness.state().outages, 0);
        readiness.set_upstream(Ok(()));
        report("refused");
        report("timeout");
        assert_eq!(readiness.state().outages, 1);
        readiness.set_upstream(Ok(()));
        report("refused");
        assert_eq!(readiness.state().outages, 2);
    }
}
