//! What follows from the words of Sentinels and nodes: candidates, and what is published.
//!
//! Owns the way of an address from being named to being used: decided, dialled, asked for its ROLE,
//! published. Never publishes for a deployment that is no longer in force, and never a node that has
//! not said that it is a master (INV-10), unless it will not tell us anything.
//!
//! What surprises: a switch is published with the facts and the command table of the primary before
//! it. They are of the same deployment, and asking for them first would cost the time in which
//! clients wait; the new one's own follow a moment later.

use std::sync::Arc;

use super::decision::{Remembered, Verdict, Word, decide};
use super::primary::{Role, Told, probe};
use super::{
    Candidate, Claim, Condition, Endpoint, Follower, Heard, Primary, SETTLES_WITHIN, Standing,
};
use crate::clock::{self, Micros, SECOND};
use crate::events;
use crate::stats::control;
use crate::topology::facts::Learnt;
use crate::topology::{Topology, single};

// === impl Follower ===

impl Follower {
    /// Weighs what is known, and does what follows.
    pub(super) fn act(&mut self, now: Micros) {
        self.weigh_outlook(now);
        if self.is_settled(now) {
            self.decide(now);
        }
        self.publish_outlook();
        let is_suspicious = self.is_suspicious(now);
        self.sentinels.values().for_each(|it| it.watcher.set_suspicious(is_suspicious));
    }

    /// At first whoever answers soonest is alone; with the others heard it may be outvoted.
    fn is_settled(&self, now: Micros) -> bool {
        let is_complete =
            !self.sentinels.values().any(|it| it.member.standing == Standing::Dialling);
        let is_late = self.first_answer.is_some_and(|first| now >= first + SETTLES_WITHIN);
        self.primary.is_some() || is_complete || is_late
    }

    fn decide(&mut self, now: Micros) {
        let group = self.group();
        let words: Vec<Word> = group.words().collect();
        let remembered = self.primary.as_ref().map(|primary| Remembered {
            claim: primary.claim.clone(),
            is_gone: primary.is_gone(now),
        });
        let announced = self.announced.as_ref().filter(|(_, until)| now < *until);
        let verdict = decide(&words, remembered.as_ref(), announced.map(|(it, _)| it));
        self.forgotten = None;
        match verdict {
            Verdict::Stay { epoch } => {
                self.candidate = None;
                if let Some(primary) = &mut self.primary {
                    if epoch < primary.claim.epoch {
                        control::sentinel_generation_changed();
                        events::sentinel_generation(&primary.contact.node.name, epoch);
                    }
                    primary.claim.epoch = epoch;
                }
            }
            Verdict::Try { claim, is_new_generation } => self.court(claim, is_new_generation),
            Verdict::Forgotten { named } => {
                self.candidate = None;
                self.forgotten = Some(named);
            }
            Verdict::Divided | Verdict::Silent => self.candidate = None,
        }
    }

    /// Asks somebody who was named what it is, unless it is being asked already.
    fn court(&mut self, claim: Claim, is_new_generation: bool) {
        match &mut self.candidate {
            Some(candidate) if candidate.claim.address == claim.address => {
                candidate.claim = claim;
                candidate.is_new_generation = is_new_generation;
            }
            _ => {
                // TLS may be unable to ask for such a name; then nobody new can be used.
                self.candidate = self.nodes.node(&claim.address).map(|node| {
                    self.serial += 1;
                    let contact =
                        super::Contact::open(&node, self.serial, &self.shared, &self.tell);
                    Candidate { claim, is_new_generation, contact, trouble: None }
                });
            }
        }
    }

    /// The candidate has said something.
    pub(super) fn note_candidate(&mut self, told: Told) {
        let named = self.candidate.as_ref().map(|candidate| candidate.claim.address.clone());
        let is_majoritys = named.is_some_and(|named| self.is_named_by_majority(&named));
        let Some(candidate) = &mut self.candidate else {
            return;
        };
        candidate.trouble = match told {
            Told::Role(Role::Master) => return self.promote(),
            // The word of a majority that remembers has to do; that of one that does not, or of a
            // single one that was first to announce it, may not.
            Told::Role(Role::Mute) if is_majoritys && !candidate.is_new_generation => {
                return self.promote();
            }
            Told::Role(Role::Mute) => Some("will not tell its ROLE".to_owned()),
            Told::Role(Role::Replica) => Some("says that it is a replica".to_owned()),
            Told::Role(Role::Busy(words)) => Some(format!("is busy: {words}")),
            Told::Lost(error) => Some(format!("is down ({}: {})", error.cause(), error.text)),
            Told::Learnt(_) | Told::MinReplicas(_) => None,
        };
    }

    /// Whether more than half of the Sentinels that answer name that address.
    fn is_named_by_majority(&self, address: &Endpoint) -> bool {
        let reports: Vec<&Endpoint> = self
            .sentinels
            .values()
            .filter_map(|it| it.member.report())
            .map(|it| &it.address)
            .collect();
        reports.iter().filter(|it| **it == address).count() * 2 > reports.len()
    }

    /// The candidate is a master: commands go there from here on.
    fn promote(&mut self) {
        let Some(Candidate { claim, is_new_generation, contact, .. }) = self.candidate.take()
        else {
            return;
        };
        if self.shared.topology.load().epoch != self.epoch {
            return;
        }
        let (now, node) = (clock::micros(), Arc::clone(&contact.node));
        let primary = Primary { claim, contact, condition: Condition::Up };
        if is_new_generation {
            control::sentinel_generation_changed();
            events::sentinel_generation(&node.name, primary.claim.epoch);
        }
        match self.primary.replace(primary) {
            Some(before) => {
                control::primary_followed();
                events::primary_followed(&before.contact.node.name, &node.name);
                self.former.retain(|(address, _)| *address != before.claim.address);
                self.former.push_back((before.claim.address, now + LOOKED_AFTER));
                while self.former.len() > FORMER_MAX {
                    self.former.pop_front();
                }
            }
            None => events::primary_found(&self.settings.master_name, &node.name),
        }
        self.rivals.remove(&node.name);
        self.announced = None;
        self.forgotten = None;
        self.min_replicas = None;
        self.outlook.end();
        let epoch = self.epoch + 1;
        self.swap(|current| Topology {
            epoch,
            recoveries: current.recoveries + 1,
            failover_until: 0,
            node: Arc::clone(&node),
            // Those were another's.
            replicas: Arc::default(),
            ..current.clone()
        });
        self.epoch = epoch;
    }

    /// Publishes what the primary has told about itself.
    pub(super) fn publish_learnt(&self, learnt: Learnt) {
        let Some(primary) = &self.primary else {
            return;
        };
        let table = Arc::new(single::table(&primary.contact.node, learnt.commands));
        let facts = Arc::new(learnt.facts);
        self.swap(|current| Topology {
            recoveries: current.recoveries + 1,
            table: Arc::clone(&table),
            facts: Some(Arc::clone(&facts)),
            ..current.clone()
        });
    }

    /// The primary is well that was not: the workers' back-off ends.
    pub(super) fn publish_recovery(&self) {
        self.swap(|current| Topology { recoveries: current.recoveries + 1, ..current.clone() });
    }

    /// Publishes until when a successor is expected, if that has changed.
    pub(super) fn publish_outlook(&self) {
        let until = self.outlook.until();
        if self.shared.topology.load().failover_until != until {
            self.swap(|current| Topology { failover_until: until, ..current.clone() });
        }
    }

    /// Publishes what follows from the newest snapshot, unless that belongs to another deployment.
    pub(super) fn swap(&self, next: impl Fn(&Topology) -> Topology) {
        self.shared.topology.rcu(|current| match current.epoch == self.epoch {
            true => Arc::new(next(current).guarded()),
            false => Arc::clone(current),
        });
    }

    /// What is said of the primary in use; of somebody else it is no reason to wait.
    fn weigh_outlook(&mut self, now: Micros) {
        let Some(primary) = &self.primary else {
            return;
        };
        let reports = self.sentinels.values().filter_map(|it| it.member.report());
        self.outlook.weigh(reports.filter(|it| it.address == primary.claim.address), now);
    }

    /// Whether it pays to ask often.
    fn is_suspicious(&self, now: Micros) -> bool {
        let is_well = self.primary.as_ref().is_some_and(|it| matches!(it.condition, Condition::Up));
        let is_doubted = self
            .sentinels
            .values()
            .filter_map(|it| it.member.report())
            .any(|report| report.is_suspected || report.is_down || report.is_failing_over);
        !is_well || is_doubted || self.candidate.is_some() || now < self.suspicious_until
    }

    /// Asks those that may take themselves for masters what they are: who was the primary before,
    /// who is listed as a replica and reports otherwise, and whom forgetful Sentinels name.
    pub(super) fn look_for_rivals(&mut self) {
        let now = clock::micros();
        if now < self.probe_at {
            return;
        }
        self.probe_at = now + PROBE_EVERY;
        self.former.retain(|(_, until)| *until > now);
        // A question to them carries our password: one Sentinel's word is not enough.
        let lists = |address: &Endpoint| {
            let those = self.sentinels.values().filter(|it| it.member.claimants.contains(address));
            those.count() * 2 > self.sentinels.values().filter_map(|it| it.member.report()).count()
        };
        let claimants = self.sentinels.values().flat_map(|it| it.member.claimants.iter());
        let claimants = claimants.filter(|address| lists(address));
        let mut suspects: Vec<Endpoint> = Vec::new();
        let named = self.forgotten.iter().map(|claim| &claim.address);
        for address in self.former.iter().map(|(address, _)| address).chain(named).chain(claimants)
        {
            let is_primary = self.primary.as_ref().is_some_and(|it| it.claim.address == *address);
            let is_courted = self.candidate.as_ref().is_some_and(|it| it.claim.address == *address);
            let is_known = suspects.contains(address) || suspects.len() >= SUSPECTS_MAX;
            if !is_primary && !is_courted && !is_known {
                suspects.push(address.clone());
            }
        }
        let names: Vec<String> = suspects.iter().map(Endpoint::to_string).collect();
        self.rivals.retain(|rival, _| names.contains(rival));
        // Without a primary nobody is its rival.
        for address in suspects.into_iter().filter(|_| self.primary.is_some()) {
            let Some(node) = self.nodes.node(&address) else { continue };
            let tell = self.tell.clone();
            tokio::task::spawn_local(async move {
                let role = probe(&node).await;
                let _ = tell.send(Heard::Probed(address, role)).await;
            });
        }
    }

    /// A suspect was asked. One that has become a replica is none any more.
    pub(super) fn note_probed(&mut self, address: &Endpoint, role: Option<&Role>) {
        let is_primary = self.primary.as_ref().is_some_and(|it| it.claim.address == *address);
        match role {
            Some(Role::Master) if !is_primary => {
                self.rivals.entry(address.to_string()).or_insert_with(clock::micros);
            }
            Some(Role::Replica) => {
                self.rivals.remove(&address.to_string());
                self.former.retain(|(former, _)| former != address);
            }
            _ => {
                self.rivals.remove(&address.to_string());
            }
        }
    }
}

// === impl Primary ===

impl Primary {
    /// Whether it may be replaced by somebody whom Sentinels name without remembering it: it says
    /// that it is no master, or has been silent for longer than any restart takes.
    fn is_gone(&self, now: Micros) -> bool {
        match self.condition {
            Condition::Dialling | Condition::Up => false,
            Condition::Demoted => true,
            Condition::Lost(since, _) => now >= since + GONE_AFTER,
        }
    }
}

/// How long a primary that does not answer is waited for, if Sentinels name another one without
/// remembering it.
const GONE_AFTER: Micros = 10 * SECOND;
/// Most former primaries that are looked after.
const FORMER_MAX: usize = 4;
/// How long that is done for each; its address may be somebody else's then.
const LOOKED_AFTER: Micros = 600 * SECOND;
/// Most nodes that are probed at a time.
const SUSPECTS_MAX: usize = 8;
/// How often.
const PROBE_EVERY: Micros = 5 * SECOND;
