//! One upstream as the admin port shows it, and how several stand on one page.
//!
//! Owns the choice by `?upstream=NAME`, the headings, and whether a process with several upstreams is
//! ready. It reads what is published and asks nobody. Addresses and states appear, keys and credentials
//! never (INV-11).
//!
//! What surprises: with several upstreams one that is down does not make the process unready, once each
//! has been reached. All pods see the same dead Redis; if it took them out of their Service, it would
//! take what the other upstreams still serve with it. At the start it does: a wrong address must stop a
//! roll-out. `/readyz?upstream=NAME` is the strict question about one.

use std::sync::Arc;

use super::{Orders, Readiness};
use crate::findings::{Board, page};
use crate::governor::Governor;
use crate::percent;
use crate::slowlog::Slowlog;
use crate::stats::control;
use crate::stats::recorder::Recorder;
use crate::topology::Published;

/// What stands behind some of the listeners.
pub struct Behind {
    /// What the configuration calls it.
    pub name: String,
    /// What its threads count into.
    pub recorder: Arc<Recorder>,
    /// Answers `/readyz`; shared with the control plane, which writes it.
    pub readiness: Arc<Readiness>,
    /// What `/topology` shows.
    pub topology: Published,
    /// Takes what `POST /upstream` orders.
    pub orders: Orders,
    /// What is known of scripts, for those who ask what would become of one.
    pub governor: Arc<Governor>,
    /// What is amiss there.
    pub findings: Arc<Board>,
    /// What `/slowlog` shows.
    pub slowlog: Arc<Slowlog>,
}

/// Whether it can serve, and what there is to say of that, a line each.
pub(super) struct Ready {
    pub(super) is_ready: bool,
    pub(super) lines: Vec<String>,
}

// === impl Behind ===

impl Behind {
    /// Publishes what only a look can tell, just before the page of the metrics is made, so that this
    /// can never contradict `/readyz`.
    pub(super) fn publish(&self) {
        self.recorder.scoped(|| {
            self.readiness.publish();
            let deployment = &self.topology.load().node.deployment;
            control::credentials_alarm(deployment.keyring.alarm().is_some());
            control::readonly_mode(deployment.is_readonly());
        });
    }

    /// Whether it can serve a client now.
    pub(super) fn ready(&self) -> Ready {
        let mut reasons = self.readiness.reasons();
        // While what is connected serves, a password that is refused is no reason to be sent away.
        let alarm = self.topology.load().node.deployment.keyring.alarm();
        if reasons.is_empty() {
            let notes = self.readiness.notes().into_iter().chain(alarm);
            return Ready { is_ready: true, lines: notes.collect() };
        }
        reasons.extend(alarm);
        Ready { is_ready: false, lines: reasons }
    }

    /// What stands there, as the workers see it, and what is amiss.
    pub(super) fn topology_page(&self) -> String {
        super::topology::page(&self.topology.load()) + &page::rows(&self.findings.all())
    }
}

/// The upstream that a query names, if it names one.
pub(super) fn named(query: &str) -> Option<String> {
    let fields = query.split('&').filter_map(|field| field.split_once('='));
    let value = fields.into_iter().find(|(name, _)| *name == "upstream")?.1;
    Some(String::from_utf8_lossy(&percent::decoded(value)).into_owned())
}

/// Those that a query is about: one, or all. `None` if it names one that there is not.
pub(super) fn chosen<'a>(all: &'a [Behind], query: &str) -> Option<&'a [Behind]> {
    let Some(name) = named(query) else {
        return Some(all);
    };
    let place = all.iter().position(|behind| behind.name == name)?;
    all.get(place..=place)
}

/// A page of each, with a heading where there are several.
pub(super) fn pages(chosen: &[Behind], page: impl Fn(&Behind) -> String) -> String {
    match chosen {
        [only] => page(only),
        several => {
            let headed = |it: &Behind| format!("upstream {}\n{}", it.name, page(it));
            several.iter().map(headed).collect::<Vec<_>>().join("\n")
        }
    }
}

/// Whether a process with these upstreams can serve a client now.
pub(super) fn ready(chosen: &[Behind]) -> Ready {
    if let [only] = chosen {
        return only.ready();
    }
    let each: Vec<(&Behind, Ready)> = chosen.iter().map(|it| (it, it.ready())).collect();
    let is_draining = chosen.iter().any(|it| it.readiness.is_draining());
    let were_all_reached = chosen.iter().all(|it| it.readiness.has_been_up());
    let serves_any = each.iter().any(|(_, ready)| ready.is_ready);
    let told = |(it, ready): &(&Behind, Ready)| -> Vec<String> {
        ready.lines.iter().map(|line| format!("{}: {line}", it.name)).collect()
    };
    let lines = each.iter().flat_map(told).collect();
    Ready { is_ready: !is_draining && were_all_reached && serves_any, lines }
}
