//! What is said about a Sentinel deployment: readiness, findings, the picture of the group, gauges.
//!
//! Owns the words of `/readyz` for it, each with the next step. Never decides anything and never
//! dials.
//!
//! What surprises: Sentinels that cannot be reached do not make us unready. The verified primary
//! serves, and taking every proxy out of its Service would turn their outage into ours; it is a note
//! and a critical finding instead.

use std::sync::Arc;

use super::group::{Group, Standing};
use super::{Condition, Follower, truth};
use crate::clock::{self, Micros};
use crate::config::SplitBrain;
use crate::findings::Severity;
use crate::stats::control;
use crate::topology::Topology;
use crate::topology::claims::Claims;

// === impl Follower ===

impl Follower {
    /// Says whether we can serve.
    pub(super) fn speak(&self) {
        self.readiness.set_upstream(self.readiness_words());
    }

    /// Brings findings, gauges and the published picture up to date.
    pub(super) fn report(&mut self) {
        let group = self.group();
        let found = self.patience.filter(truth::findings(&group), clock::micros());
        let urgent = found.iter().filter(|it| it.severity == Severity::Critical);
        let notes = urgent.map(|it| format!("{}: {}", it.subject, it.text));
        let remark = self.primary.as_ref().and_then(|it| it.contact.node.remark());
        self.readiness.set_notes(notes.chain(remark).collect());
        self.shared.findings.set(SOURCE, found);
        control::sentinels(group.reachable(), group.size());
        // Each snapshot makes all workers look again: not without need.
        if self.shared.topology.load().group.as_deref() != Some(&group) {
            let group = Arc::new(group);
            self.swap(|current| Topology { group: Some(Arc::clone(&group)), ..current.clone() });
        }
        let claims = self.claims(clock::micros()).map(Arc::new);
        if self.shared.topology.load().claims != claims {
            self.swap(|current| Topology { claims: claims.clone(), ..current.clone() });
        }
    }

    /// The second master that has been one for longer than a failover explains, if writes are to be
    /// refused for it.
    fn claims(&self, now: Micros) -> Option<Claims> {
        let primary = &self.primary.as_ref()?.contact.node;
        let guards = &primary.settings.guards;
        let grace = clock::to_micros(guards.split_brain_grace);
        let mut lasting = self.rivals.iter().filter(|(_, since)| now >= **since + grace);
        let (rival, _) = lasting.find(|_| guards.split_brain == SplitBrain::RefuseWrites)?;
        Some(Claims::Group {
            master_name: self.settings.master_name.clone(),
            claimants: [primary.name.clone(), rival.clone()],
        })
    }

    /// The group as it was seen last.
    pub(super) fn group(&self) -> Group {
        let rivals = self.rivals.keys().filter_map(|name| {
            let (host, port) = name.rsplit_once(':')?;
            super::report::endpoint(host.trim_matches(['[', ']']), port)
        });
        Group {
            master_name: self.settings.master_name.clone(),
            is_tls: self.shared.topology.load().node.tls.is_some(),
            primary: self.primary.as_ref().map(|primary| primary.claim.clone()),
            forgotten: self.forgotten.clone(),
            rivals: rivals.collect(),
            min_replicas: self.min_replicas,
            sentinels: self.sentinels.values().map(|it| it.member.clone()).collect(),
        }
    }

    fn readiness_words(&self) -> Result<(), String> {
        let Some(primary) = &self.primary else {
            return Err(self.why_nobody());
        };
        let (name, master) = (&primary.contact.node.name, &self.settings.master_name);
        match &primary.condition {
            Condition::Up => primary.contact.node.verdict(),
            Condition::Dialling => {
                Err(format!("upstream {name} was found: its connection is being made"))
            }
            Condition::Demoted => Err(format!(
                "upstream {name} says that it is a replica, and no successor is known: ask each Sentinel, \
                 SENTINEL MASTER {master}"
            )),
            Condition::Lost(_, error) => {
                let next = if self.outlook.is_bright(clock::micros()) {
                    "the Sentinels are promoting another one".to_owned()
                } else {
                    format!(
                        "the Sentinels promote nobody at the moment; to see why: SENTINEL CKQUORUM {master}, \
                         to do it by hand: SENTINEL FAILOVER {master}"
                    )
                };
                Err(format!("upstream {name} is down ({}: {}): {next}", error.cause(), error.text))
            }
        }
    }

    /// Why there is no primary at all, and what is to be done about it.
    fn why_nobody(&self) -> String {
        let master = &self.settings.master_name;
        let group = self.group();
        if let Some(candidate) = &self.candidate {
            let trouble = candidate.trouble.as_deref().unwrap_or("has not answered yet");
            return format!(
                "the Sentinels name {} as the primary of '{master}', but it {trouble}: look at that server, \
                 or promote another one with SENTINEL FAILOVER {master}",
                candidate.claim.address
            );
        }
        let each = group.sentinels.iter().map(|it| {
            let words = match &it.standing {
                Standing::Dialling => "is being dialled".to_owned(),
                Standing::Lost(why) => format!("is not reached ({why})"),
                Standing::Refuses(words) => format!("does not answer us ({words})"),
                Standing::KnowsNone => format!("knows no master '{master}'"),
                Standing::Watches(report) => format!("names {}", report.address),
            };
            format!("{} {words}", it.address)
        });
        let each = each.collect::<Vec<_>>().join(", ");
        let is =
            |wanted: fn(&Standing) -> bool| group.sentinels.iter().any(|it| wanted(&it.standing));
        let next = if is(|it| matches!(it, Standing::Watches(_))) {
            "a majority must name the same: correct the one that is wrong"
        } else if is(|it| matches!(it, Standing::Refuses(_))) {
            "set sentinel_user and sentinel_password_file in the upstream's table"
        } else if is(|it| matches!(it, Standing::KnowsNone)) {
            "correct the name in the upstream's url; SENTINEL MASTERS lists the known ones"
        } else {
            "correct the Sentinels' addresses in the upstream's url, or start them"
        };
        format!("no primary of '{master}' is known: {each}. Next: {next}")
    }
}

/// Whose findings these are.
pub const SOURCE: &str = "sentinel";
