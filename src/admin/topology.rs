//! The page of `/topology`: what stands behind us, as the workers see it.
//!
//! This file owns the spelling of the published snapshot for people. It reads what is in force and asks nobody; ids and
//! addresses of nodes appear, keys and credentials never (INV-11).
//! What surprises: it is a snapshot of a picture. Slots that redirects have named since the last refresh are in it.

use std::fmt::Write;

use crate::clock::{self, MILLISECOND, SECOND};
use crate::route::slot::SLOTS;
use crate::topology::Topology;
use crate::topology::sentinel::group::{Group, Standing};
use crate::topology::sentinel::report::Report;
use crate::topology::slots::{Member, MemberRole, NodeId, SlotMap};
use crate::upstream::dial::Node;
use crate::upstream::health::chart::State;

/// The whole page, a fact a line.
pub(super) fn page(topology: &Topology) -> String {
    let mut page =
        format!("epoch {}\nkeyless commands to {}\n", topology.epoch, topology.node.name);
    // Writing to a string cannot fail.
    let _ = match &topology.slots {
        Some(map) => write_map(&mut page, map),
        None => write_state(&mut page, &topology.node),
    };
    if let Some(group) = &topology.group {
        let _ = write_group(&mut page, group);
    }
    page
}

/// The Sentinels, a line each: how it is, and what it says.
fn write_group(page: &mut String, group: &Group) -> std::fmt::Result {
    let (reachable, size) = (group.reachable(), group.size());
    write!(page, "master {}: {reachable} of {size} Sentinels answer, ", group.master_name)?;
    match &group.primary {
        Some(primary) => writeln!(page, "primary {} epoch {}", primary.address, primary.epoch)?,
        None => writeln!(page, "no primary is verified")?,
    }
    for member in &group.sentinels {
        write!(page, "sentinel {} {} ", member.address, member.id.as_deref().unwrap_or("-"))?;
        match &member.standing {
            Standing::Dialling => write!(page, "is being dialled")?,
            Standing::Lost(why) => write!(page, "lost: {why}")?,
            Standing::Refuses(words) => write!(page, "refuses: {words}")?,
            Standing::KnowsNone => write!(page, "knows no such master")?,
            Standing::Watches(report) => write_report(page, report)?,
        }
        let events = if member.is_subscribed { "" } else { ", no announcements" };
        writeln!(page, "{events}")?;
    }
    // Said last, because that is where the eye stops: whatever is written to a rival will be lost.
    for rival in &group.rivals {
        writeln!(page, "rival {rival} says that it is a master")?;
    }
    Ok(())
}

/// What one Sentinel says of the master, in the words of its own replies: an operator compares them with what
/// `SENTINEL MASTER` shows on that host.
fn write_report(page: &mut String, report: &Report) -> std::fmt::Result {
    let Report { address, epoch, quorum, others, replicas, .. } = report;
    write!(
        page,
        "names {address} epoch {epoch} quorum {quorum} others {others} replicas {replicas}"
    )?;
    let flags = [
        (report.is_suspected, " s_down"),
        (report.is_down, " o_down"),
        (report.is_failing_over, " failover_in_progress"),
        (report.is_tilted, " tilt"),
    ];
    flags.iter().filter(|(is_set, _)| *is_set).try_for_each(|(_, word)| page.write_str(word))
}

/// How a node is, and what to do about it.
fn write_state(page: &mut String, node: &Node) -> std::fmt::Result {
    let (report, now) = (node.health.report(), clock::micros());
    let (state, name) = (report.state, &node.name);
    let age = now.saturating_sub(report.since) / SECOND;
    write!(page, "state {name} {} for {age} s", state.label().as_str())?;
    if let Some(ping) = report.ping {
        write!(page, ", last PING {} us", ping)?;
    }
    // The same number that clients are told in the error, so that both can be laid side by side.
    if let Some(retry_at) = report.retry_at {
        let wait = retry_at.saturating_sub(now).div_ceil(MILLISECOND);
        write!(page, ", breaker open, next try in {wait} ms")?;
    }
    match state {
        State::Unknown | State::Up => writeln!(page),
        _ => writeln!(page, ": it {}; {}", state.words(), state.repair()),
    }
}

/// Members first, then ranges of slots, then what is on the move: whoever reads looks for a node by its name and
/// for a slot by its number, and each stands on a line of its own for grep.
fn write_map(page: &mut String, map: &SlotMap) -> std::fmt::Result {
    // Redirects since then are in it, so a slot may be younger than this.
    let age = clock::micros().saturating_sub(map.fetched_at) / SECOND;
    let uncovered = map.uncovered();
    writeln!(
        page,
        "slot map {}, asked for {age} s ago, {uncovered} slots without an owner",
        map.version
    )?;
    for member in map.members.iter() {
        write_member(page, map, member)?;
        write_state(page, &member.node)?;
    }
    for (first, last, owner) in ranges(map) {
        writeln!(page, "slots {first}-{last} {}", name(map, owner))?;
    }
    for migration in map.migrations.iter() {
        let [source, target] = [migration.source, migration.target].map(|end| name(map, end));
        writeln!(page, "slot {} moves from {source} to {target}", migration.slot)?;
    }
    Ok(())
}

fn write_member(page: &mut String, map: &SlotMap, member: &Member) -> std::fmt::Result {
    let health = member.health.as_str();
    let (node, id, epoch) = (&member.node, &member.cluster_id, member.config_epoch);
    write!(page, "node {} {} {id} {health} epoch {epoch} ", node.id.0, node.name)?;
    if member.role == MemberRole::Replica {
        return writeln!(page, "replica of {}", name(map, Some(member.primary)));
    }
    // Sixteen thousand comparisons for each primary: this page is read by people.
    let slots = map.slots().iter().filter(|slot| slot.owner == Some(node.id)).count();
    writeln!(page, "primary of {slots} slots")
}

/// Neighbouring slots with the same owner, joined.
fn ranges(map: &SlotMap) -> Vec<(u16, u16, Option<NodeId>)> {
    let mut joined: Vec<(u16, u16, Option<NodeId>)> = Vec::new();
    for (slot, owner) in (0..SLOTS).map(|slot| (slot, map.slot(slot).owner)) {
        match joined.last_mut() {
            // Slots of nobody are a range like any other: a hole must be seen.
            Some((_, last, same)) if *same == owner => *last = slot,
            _ => joined.push((slot, slot, owner)),
        }
    }
    joined
}

fn name(map: &SlotMap, id: Option<NodeId>) -> &str {
    id.and_then(|id| map.members.get(id)).map_or("nobody", |member| &member.node.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::slots::{Health, Members, Migration, Slot};
    use std::sync::Arc;

    #[test]
    fn the_page_has_a_line_for_each_node_range_and_open_slot() {
        let topology = Topology::for_tests("redis-cluster://user:secret@h:1");
        assert!(!page(&topology).contains("secret"));
        let node = Arc::clone(&topology.node);
        let id = node.id;
        let member = Member {
            node,
            cluster_id: "abc".into(),
            role: MemberRole::Primary,
            primary: id,
            config_epoch: 4,
            health: Health::Online,
            zone: None,
        };
        let members = Members::new([(Arc::new(member), Vec::new())]);
        let mut slots = vec![Slot::default(); usize::from(SLOTS)];
        slots[3..6].fill(Slot { owner: Some(id), since: 1, patched_at: 0 });
        let moving = Migration { slot: 4, source: Some(id), target: None };
        let map = SlotMap::new(7, 0, Arc::new(members), Arc::from([moving]), slots);
        let page = page(&topology.with_slots(map));
        for line in [
            "keyless commands to h:1",
            "node 0 h:1 abc online epoch 4 primary of 3 slots",
            "state h:1 unknown for ",
            "slots 0-2 nobody",
            "slots 3-5 h:1",
            "slots 6-16383 nobody",
            "slot 4 moves from h:1 to nobody",
        ] {
            assert!(page.lines().any(|it| it.starts_with(line)), "{line} is missing in\n{page}");
        }
    }
}
