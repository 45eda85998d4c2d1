//! The Sentinels of one master, as they were seen last: a picture for people and for `truth`.
//!
//! Owns the plain data that `/topology` shows and from which findings are made, and the counting:
//! how many Sentinels there are, and how many answer. Never asks, never decides; the follower makes
//! another picture whenever something in it has changed.
//!
//! What surprises: how many Sentinels there are nobody says. It is the number of different ones that
//! have answered or are known to one that has; a Sentinel that died long ago counts, as it does for
//! the majority that the others need, until SENTINEL RESET.

use std::collections::BTreeSet;

use super::decision::{Claim, Word};
use super::report::{Peer, Report};
use crate::config::Endpoint;

/// A master, and who watches it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// What the Sentinels call the master.
    pub master_name: String,
    /// Whether all of this speaks TLS, for the commands that are suggested.
    pub is_tls: bool,
    /// Who is used, once one has been verified.
    pub primary: Option<Claim>,
    /// Whom a majority names instead, although that would be a step back.
    pub forgotten: Option<Claim>,
    /// Others that say that they are masters.
    pub rivals: Vec<Endpoint>,
    /// How many replicas the primary wants in step before it takes writes, where it tells.
    pub min_replicas: Option<u64>,
    /// In the order of their addresses.
    pub sentinels: Vec<Member>,
}

/// One Sentinel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Where it was found.
    pub address: Endpoint,
    /// What it calls itself, where it tells.
    pub id: Option<String>,
    /// How it is.
    pub standing: Standing,
    /// Whether its announcements reach us.
    pub is_subscribed: bool,
    /// The other Sentinels that it knows.
    pub peers: Vec<Peer>,
    /// What it lists as replicas although they say that they are masters.
    pub claimants: Vec<Endpoint>,
    /// Its complaint that a failover cannot be agreed upon.
    pub no_quorum: Option<String>,
}

/// How a Sentinel is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The first dial has not ended.
    Dialling,
    /// It cannot be asked: why, in words.
    Lost(String),
    /// It does not answer us: AUTH, or an ACL. Its own words.
    Refuses(String),
    /// It does not know a master of that name.
    KnowsNone,
    /// It watches the master.
    Watches(Report),
}

// === impl Group ===

impl Group {
    /// The reports of those that watch, each with its Sentinel. A Sentinel that was reached at two
    /// addresses is one.
    pub fn reports(&self) -> impl Iterator<Item = (&Member, &Report)> {
        self.distinct().filter_map(|member| Some((member, member.report()?)))
    }

    /// One word of each that answers.
    pub fn words(&self) -> impl Iterator<Item = Word> {
        let claim = |it: &Report| Claim { address: it.address.clone(), epoch: it.epoch };
        self.distinct().filter(|it| it.is_reachable()).map(move |it| it.report().map(claim))
    }

    /// How many answer, those included that know no such master.
    #[must_use]
    pub fn reachable(&self) -> usize {
        self.distinct().filter(|member| member.is_reachable()).count()
    }

    /// How many Sentinels there are.
    #[must_use]
    pub fn size(&self) -> usize {
        let own = self.sentinels.iter().filter(|it| it.report().is_some());
        let ids: BTreeSet<&str> = own
            .flat_map(|it| it.id.as_deref().into_iter().chain(it.peers.iter().map(|it| &*it.id)))
            .collect();
        let told = self.reports().map(|(_, report)| report.others as usize + 1).max();
        ids.len().max(told.unwrap_or_default()).max(self.reachable())
    }

    /// So many are more than half.
    #[must_use]
    pub fn majority(&self) -> usize {
        self.size() / 2 + 1
    }

    fn distinct(&self) -> impl Iterator<Item = &Member> {
        self.sentinels.iter().enumerate().filter_map(|(place, member)| {
            let earlier = self.sentinels.get(..place).unwrap_or_default();
            let is_again = member.is_reachable()
                && member.id.is_some()
                && earlier.iter().any(|it| it.is_reachable() && it.id == member.id);
            (!is_again).then_some(member)
        })
    }
}

// === impl Member ===

impl Member {
    /// One that has not answered yet.
    #[must_use]
    pub fn new(address: Endpoint) -> Self {
        Self {
            address,
            id: None,
            standing: Standing::Dialling,
            is_subscribed: false,
            peers: Vec::new(),
            claimants: Vec::new(),
            no_quorum: None,
        }
    }

    /// What it says of the master.
    #[must_use]
    pub fn report(&self) -> Option<&Report> {
        match &self.standing {
            Standing::Watches(report) => Some(report),
            _ => None,
        }
    }

    /// Whether it has answered the last poll.
    #[must_use]
    pub fn is_reachable(&self) -> bool {
        matches!(self.standing, Standing::Watches(_) | Standing::KnowsNone)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn at(port: u16) -> Endpoint {
        Endpoint::Tcp { host: "10.0.0.1".into(), port }
    }

    pub(in super::super) fn report(port: u16, epoch: u64) -> Report {
        Report {
            address: at(port),
            epoch,
            quorum: 2,
            others: 2,
            replicas: 1,
            is_suspected: false,
            is_down: false,
            is_failing_over: false,
            is_tilted: false,
        }
    }

    /// A healthy group: `count` Sentinels that know each other, quorum 2.
    pub(in super::super) fn group(count: u16) -> Group {
        let id = |number: u16| format!("sentinel{number}");
        let member = |number: u16| Member {
            address: at(26379 + number),
            id: Some(id(number)),
            standing: Standing::Watches(Report { others: u32::from(count) - 1, ..report(7, 3) }),
            is_subscribed: true,
            peers: (0..count)
                .filter(|&other| other != number)
                .map(|other| Peer { id: id(other), address: at(26379 + other) })
                .collect(),
            claimants: Vec::new(),
            no_quorum: None,
        };
        Group {
            master_name: "mymaster".into(),
            primary: Some(Claim { address: at(7), epoch: 3 }),
            min_replicas: Some(1),
            sentinels: (0..count).map(member).collect(),
            ..Group::default()
        }
    }

    #[test]
    fn a_sentinel_that_is_away_counts_while_another_knows_it() {
        let mut group = group(3);
        assert_eq!((group.size(), group.reachable(), group.majority()), (3, 3, 2));
        group.sentinels[2].standing = Standing::Lost("refused".into());
        assert_eq!((group.size(), group.reachable()), (3, 2));
        group.sentinels.pop();
        assert_eq!((group.size(), group.reachable()), (3, 2));
    }

    #[test]
    fn one_that_was_reached_twice_is_one() {
        let mut group = group(3);
        let mut again = group.sentinels[1].clone();
        again.address = at(99);
        group.sentinels.push(again);
        assert_eq!((group.size(), group.reachable(), group.reports().count()), (3, 3, 3));
    }
}
