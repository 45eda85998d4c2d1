//! What one round has learnt of one server, and what is kept of earlier rounds.
//!
//! Owns the shapes that `probe` fills and `judge` reads: [`Sample`] is a moment, [`History`] what
//! moments add up to (the greatest rate of writes, the most replicas seen, hits and misses).
//! Bounded: one earlier sample and a few numbers a node. Pure; time is given.
//!
//! What surprises: what is expected decays. Without `[expect]` the most that was seen within the
//! last hour counts, so a replica that was taken away on purpose is forgotten by itself.

use std::collections::VecDeque;

use super::info::Info;
use super::slow::SlowEntry;
use crate::clock::{Micros, SECOND};
use crate::config::Expect;
use crate::findings::Finding;

/// One server at one moment.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// When its INFO came.
    pub at: Micros,
    /// How long PING took; `None`: it was refused.
    pub ping: Option<Micros>,
    /// INFO, and in a cluster CLUSTER INFO.
    pub info: Info,
    /// DBSIZE.
    pub keys: Option<u64>,
    /// It is connected and does not answer; nothing else is known then.
    pub is_mute: bool,
    /// The number behind the newest entry of its SLOWLOG.
    pub slow_id: Option<u64>,
    /// Its entries since the last round, the newest first.
    pub slow: Vec<SlowEntry>,
    /// CLUSTER NODES as this server sees it.
    pub nodes: Option<String>,
    /// What it refused to tell, by the word of the command, and how it said so.
    pub refused: Vec<(&'static str, String)>,
}

/// What is known of a server from earlier rounds.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// The last round.
    pub last: Option<Sample>,
    /// Greatest rate at which the replication offset grew, in bytes a second.
    pub peak: Option<u64>,
    /// Replicas that it had.
    replicas: Highest,
    /// Members that its cluster had.
    nodes: Highest,
    /// Hits and misses of the last ten minutes: when, and both counts.
    hits: VecDeque<(Micros, u64, u64)>,
    /// What happened, as opposed to what is: shown for a while. Until when, and what.
    pub events: Vec<(Micros, Finding)>,
}

/// A number that is expected, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// The number.
    pub value: u64,
    /// In words, for the finding.
    pub source: &'static str,
}

/// The most that was seen in the last hour, kept in twelve parts.
#[derive(Clone, Debug, Default)]
struct Highest {
    /// Greatest number by part, with the number of the part since the beginning.
    parts: VecDeque<(u64, u64)>,
}

// === impl History ===

impl History {
    /// Takes a sample in, before it is judged.
    pub fn note(&mut self, now: &Sample) {
        let info = &now.info;
        if self.has_restarted(now) {
            // Another process: its counters have begun anew.
            self.peak = None;
            self.hits.clear();
        }
        if let Some(rate) = self.rate(now, "master_repl_offset") {
            self.peak = Some(self.peak.unwrap_or(0).max(rate as u64));
        }
        if info.is_primary() {
            self.replicas.note(now.at, info.number("connected_slaves").unwrap_or(0));
        }
        self.nodes.note(now.at, info.number("cluster_known_nodes").unwrap_or(0));
        if let Some(hits) = info.number("keyspace_hits").zip(info.number("keyspace_misses")) {
            self.hits.push_back((now.at, hits.0, hits.1));
        }
        let from = now.at.saturating_sub(HIT_WINDOW);
        while self.hits.len() > SAMPLES_MAX || self.hits.front().is_some_and(|it| it.0 < from) {
            self.hits.pop_front();
        }
        self.events.retain(|(until, _)| *until > now.at);
    }

    /// Puts the sample away for the next round, with what happened in this one.
    pub fn keep(&mut self, now: Sample, events: Vec<Finding>) {
        for event in events {
            self.events.retain(|(_, old)| !old.is_same(&event));
            self.events.push((now.at + EVENT_SHOWN, event));
        }
        self.last = Some(now);
    }

    /// Whether another process answers than in the last round.
    #[must_use]
    pub fn has_restarted(&self, now: &Sample) -> bool {
        let Some(last) = &self.last else {
            return false;
        };
        let uptime = |sample: &Sample| sample.info.number("uptime_in_seconds");
        let ids = (last.info.text("run_id"), now.info.text("run_id"));
        let is_other = matches!(ids, (Some(before), Some(now)) if before != now);
        is_other || uptime(now).zip(uptime(last)).is_some_and(|(now, last)| now < last)
    }

    /// By how much a counter has grown since the last round of the same process.
    #[must_use]
    pub fn growth(&self, now: &Sample, field: &str) -> Option<u64> {
        if self.has_restarted(now) {
            return None;
        }
        let before = self.last.as_ref()?.info.number(field)?;
        now.info.number(field)?.checked_sub(before)
    }

    /// The same by the second.
    #[must_use]
    pub fn rate(&self, now: &Sample, field: &str) -> Option<f64> {
        let elapsed = now.at.checked_sub(self.last.as_ref()?.at).filter(|it| *it > 0)?;
        Some(self.growth(now, field)? as f64 * SECOND as f64 / elapsed as f64)
    }

    /// Hits and reads of the last ten minutes; `None` before they have passed.
    #[must_use]
    pub fn hits(&self, now: Micros) -> Option<(u64, u64)> {
        let (first, last) = (self.hits.front()?, self.hits.back()?);
        // A window that has just begun says nothing: a cache that is being filled only misses.
        if now.saturating_sub(first.0) < HIT_WINDOW / 10 * 9 {
            return None;
        }
        let (hits, misses) = (last.1.checked_sub(first.1)?, last.2.checked_sub(first.2)?);
        Some((hits, hits + misses))
    }

    /// Replicas that it should have.
    #[must_use]
    pub fn expected_replicas(&self, expect: &Expect) -> Expected {
        self.replicas.or_written(expect.replicas)
    }

    /// Members that its cluster should have.
    #[must_use]
    pub fn expected_nodes(&self, expect: &Expect) -> Expected {
        self.nodes.or_written(expect.nodes)
    }
}

/// What a server may use before something kills it; `None` where nobody knows.
#[must_use]
pub fn memory_limit(info: &Info, expect: &Expect) -> Option<Expected> {
    if let Some(value) = expect.memory_limit {
        return Some(Expected { value, source: "[expect] memory_limit" });
    }
    match info.number("maxmemory").filter(|most| *most > 0) {
        Some(most) => Some(Expected { value: most + most / 2, source: "1.5 times its maxmemory" }),
        None => info
            .number("total_system_memory")
            .map(|value| Expected { value, source: "the memory of its host" }),
    }
}

// === impl Highest ===

impl Highest {
    fn note(&mut self, now: Micros, value: u64) {
        let part = now / PART;
        match self.parts.back_mut() {
            Some((number, highest)) if *number == part => *highest = value.max(*highest),
            _ => self.parts.push_back((part, value)),
        }
        while self.parts.front().is_some_and(|(number, _)| number + PARTS <= part) {
            self.parts.pop_front();
        }
    }

    fn or_written(&self, written: Option<usize>) -> Expected {
        match written {
            Some(value) => Expected { value: value as u64, source: "[expect]" },
            None => Expected {
                value: self.parts.iter().map(|(_, value)| *value).max().unwrap_or(0),
                source: "the most seen within an hour",
            },
        }
    }
}

/// Parts of an hour, and how long one is.
const PARTS: u64 = 12;
const PART: Micros = 300 * SECOND;
/// How long hits and misses are looked back at.
const HIT_WINDOW: Micros = 600 * SECOND;
/// Most samples of them: one a second.
const SAMPLES_MAX: usize = 600;
/// How long something that happened is shown: longer than any scrape or alert rule waits.
const EVENT_SHOWN: Micros = 300 * SECOND;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64, text: &str) -> Sample {
        Sample { at: seconds * SECOND, info: Info::read(text), ..Sample::default() }
    }

    #[test]
    fn the_peak_is_the_greatest_growth_of_the_offset() {
        let mut history = History::default();
        for (seconds, offset) in [(0, 0), (10, 1_000), (20, 50_000), (30, 50_100)] {
            let now = at(seconds, &format!("run_id:a\nmaster_repl_offset:{offset}"));
            history.note(&now);
            history.keep(now, Vec::new());
        }
        assert_eq!(history.peak, Some(4_900));
        let restarted = at(40, "run_id:b\nmaster_repl_offset:9000000");
        assert!(history.has_restarted(&restarted));
        history.note(&restarted);
        assert_eq!(history.peak, None);
        assert_eq!(history.growth(&restarted, "master_repl_offset"), None);
    }

    #[test]
    fn what_is_expected_is_written_or_was_seen_within_an_hour() {
        let mut history = History::default();
        history.note(&at(0, "role:master\nconnected_slaves:2"));
        history.note(&at(1_800, "role:master\nconnected_slaves:1"));
        let seen = |history: &History| history.expected_replicas(&Expect::default()).value;
        assert_eq!(seen(&history), 2);
        history.note(&at(3_700, "role:master\nconnected_slaves:1"));
        assert_eq!(seen(&history), 1);
        let written = Expect { replicas: Some(3), ..Expect::default() };
        assert_eq!(history.expected_replicas(&written).value, 3);
    }

    #[test]
    fn the_memory_limit_says_where_it_comes_from() {
        let info = Info::read("maxmemory:1000\ntotal_system_memory:9000");
        let limit = |info: &Info, expect: &Expect| memory_limit(info, expect).unwrap().value;
        assert_eq!(limit(&info, &Expect::default()), 1_500);
        let expect = Expect { memory_limit: Some(7), ..Expect::default() };
        assert_eq!(limit(&info, &expect), 7);
        let info = Info::read("maxmemory:0\ntotal_system_memory:9000");
        assert_eq!(limit(&info, &Expect::default()), 9_000);
        assert_eq!(memory_limit(&Info::default(), &Expect::default()), None);
    }

    #[test]
    fn the_hit_rate_waits_for_its_window() {
        let mut history = History::default();
        let text = |n: u64| format!("keyspace_hits:{}\nkeyspace_misses:{}", n * 3, n);
        for round in 0..=70 {
            history.note(&at(round * 10, &text(round)));
            let is_known = history.hits(round * 10 * SECOND).is_some();
            assert_eq!(is_known, round >= 54, "round {round}");
        }
        assert_eq!(history.hits(700 * SECOND), Some((180, 240)));
    }
}
