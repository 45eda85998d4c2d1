//! What is wrong with a Sentinel group before it matters, each with the commands that repair it.
//!
//! Owns the checks of the group and their words: quorum, number, who sees whom, who is tilted, what
//! would keep a failover from happening or from being safe. Pure: a picture in, findings out. Never
//! changes a Sentinel: the commands are for its operator.
//!
//! What surprises: SENTINEL SET changes the one Sentinel that is asked and no other, so a repair has
//! a line for each. And what Sentinels do not agree upon is no finding before it has lasted:
//! each of them learns of a failover at its own time.

use std::collections::{BTreeMap, BTreeSet};

use super::group::{Group, Member, Standing};
use super::report::Report;
use crate::clock::{Micros, SECOND};
use crate::config::Endpoint;
use crate::findings::Finding;

/// Everything that is amiss with the group.
#[must_use]
pub fn findings(group: &Group) -> Vec<Finding> {
    let mut found = Vec::new();
    reachability(group, &mut found);
    if group.reports().next().is_some() {
        quorum(group, &mut found);
        count(group, &mut found);
        agreement(group, &mut found);
        failover(group, &mut found);
    }
    generation(group, &mut found);
    found
}

/// Holds back what has to last for a while before it is worth a word.
#[derive(Debug, Default)]
pub struct Patience(BTreeMap<(&'static str, String), Micros>);

// === impl Patience ===

impl Patience {
    /// Those of `found` that are to be shown at `now`.
    pub fn filter(&mut self, mut found: Vec<Finding>, now: Micros) -> Vec<Finding> {
        let key = |it: &Finding| (it.id, it.subject.clone());
        let standing: BTreeSet<_> = found.iter().map(key).collect();
        self.0.retain(|key, _| standing.contains(key));
        found.retain(|it| {
            let since = *self.0.entry(key(it)).or_insert(now);
            !PASSING.contains(&it.id) || now >= since + LASTS
        });
        found
    }
}

/// Who answers us at all.
fn reachability(group: &Group, found: &mut Vec<Finding>) {
    for member in &group.sentinels {
        let (name, cli) = (member.address.to_string(), cli(group, &member.address));
        match &member.standing {
            Standing::Lost(why) => found.push(Finding::warning(
                "sentinel_unreachable",
                &name,
                format!("this Sentinel cannot be reached from here: {why}"),
                format!("start it, or open its port: {cli} PING"),
            )),
            Standing::Refuses(words) => found.push(Finding::critical(
                "sentinel_refuses",
                &name,
                format!("this Sentinel does not answer us: {words}"),
                "set sentinel_user and sentinel_password_file in the upstream's table; the user needs \
                 +sentinel +subscribe +info +ping allchannels"
                    .into(),
            )),
            Standing::KnowsNone => found.push(Finding::warning(
                "sentinel_ignorant",
                &name,
                format!("this Sentinel knows no master '{}'", group.master_name),
                monitor(group, member),
            )),
            Standing::Dialling | Standing::Watches(_) => {}
        }
    }
    let (reachable, size) = (group.reachable(), group.size());
    let is_dialling = group.sentinels.iter().any(|it| it.standing == Standing::Dialling);
    if reachable == 0 && !is_dialling {
        let text = match &group.primary {
            Some(primary) => format!(
                "no Sentinel can be reached: {} stays in use, and a failover would not be noticed",
                primary.address
            ),
            None => "no Sentinel can be reached, and no primary is known".to_owned(),
        };
        let repair =
            "check the addresses in the upstream's url, and the network between".to_owned();
        found.push(Finding::critical("sentinel_none_reachable", &group.master_name, text, repair));
    } else if reachable * 2 <= size && !is_dialling {
        found.push(Finding::critical(
            "sentinel_minority",
            &group.master_name,
            format!(
                "{reachable} of {size} Sentinels can be reached from here: that is no majority, and \
                 if it is the same for them, nobody can be promoted"
            ),
            "start the others, or open their ports".into(),
        ));
    }
}

/// How many have to agree, and what each Sentinel itself says of it.
fn quorum(group: &Group, found: &mut Vec<Finding>) {
    let (size, majority) = (group.size(), group.majority());
    let quorums: BTreeSet<u32> = group.reports().map(|(_, report)| report.quorum).collect();
    for &quorum in &quorums {
        let count = quorum as usize;
        let (id, text) = if count > size {
            let text = format!(
                "the quorum is {quorum} and there are {size} Sentinels: no failover can ever happen"
            );
            ("sentinel_quorum_above", text)
        } else if count == size && size > 1 {
            let text = format!(
                "the quorum is {quorum} of {size} Sentinels: any one Sentinel failure blocks failover"
            );
            ("sentinel_quorum_all", text)
        } else if count < majority {
            let text = format!(
                "the quorum is {quorum} of {size} Sentinels, less than a majority ({majority}): a few \
                 that cannot see the primary call it down although the others can"
            );
            let repair = set_quorum(group);
            found.push(Finding::warning("sentinel_quorum_low", &group.master_name, text, repair));
            continue;
        } else {
            continue;
        };
        // With two there is no quorum that survives the loss of one.
        let repair = if size == 2 { add_one(group) } else { set_quorum(group) };
        found.push(Finding::critical(id, &group.master_name, text, repair));
    }
    let complaint = group.reports().find_map(|(it, _)| Some((it, it.no_quorum.as_ref()?)));
    if let Some((member, words)) = complaint {
        found.push(Finding::critical(
            "sentinel_no_quorum",
            &group.master_name,
            format!("{} says that no failover can be agreed upon: {words}", member.address),
            if quorums.last().is_some_and(|&quorum| quorum as usize > majority) {
                format!("start the Sentinels that are missing; {}", set_quorum(group))
            } else {
                "start the Sentinels that are missing".to_owned()
            },
        ));
    }
}

/// How many there are.
fn count(group: &Group, found: &mut Vec<Finding>) {
    let size = group.size();
    if size < 3 {
        let text = format!(
            "there are {size} Sentinels: fewer than 3 cannot agree on a failover when one is lost"
        );
        found.push(Finding::warning("sentinel_too_few", &group.master_name, text, add_one(group)));
    } else if size.is_multiple_of(2) {
        let text = format!(
            "there are {size} Sentinels: an even number survives no more losses than one less, and can \
             be cut into two halves of which neither may act"
        );
        found.push(Finding::warning("sentinel_even", &group.master_name, text, add_one(group)));
    }
}

/// Whether they say the same, and know each other.
fn agreement(group: &Group, found: &mut Vec<Finding>) {
    let name = &group.master_name;
    let mut differ = |id, what: &str, of: &dyn Fn(&Report) -> String, repair: String| {
        let words: BTreeSet<String> = group.reports().map(|(_, report)| of(report)).collect();
        if words.len() > 1 {
            let each = group.reports().map(|(it, report)| format!("{} {}", it.address, of(report)));
            let text = format!("the Sentinels disagree on the {what}: {}", join(each, ", "));
            found.push(Finding::critical(id, name, text, repair));
        }
    };
    let primary = group.primary.as_ref().map(|primary| &primary.address);
    let is_wrong = |report: &Report| primary.is_some_and(|primary| report.address != *primary);
    let reminder = remind(group, is_wrong);
    differ("sentinel_disagree_master", "master", &|it| it.address.to_string(), reminder);
    // They learn it from each other.
    let ports = "open the ports between all Sentinels".to_owned();
    differ("sentinel_disagree_epoch", "config epoch", &|it| it.epoch.to_string(), ports);
    differ("sentinel_disagree_quorum", "quorum", &|it| it.quorum.to_string(), set_quorum(group));
    let others = group.size().saturating_sub(1);
    for (member, report) in group.reports() {
        if (report.others as usize) < others {
            found.push(Finding::warning(
                "sentinel_blind",
                &member.address.to_string(),
                format!(
                    "this Sentinel knows {} of {others} others: it does not count their votes",
                    report.others
                ),
                "open the ports between all Sentinels, and let them reach the primary, through \
                 which they find each other"
                    .into(),
            ));
        }
        if report.is_tilted {
            found.push(Finding::warning(
                "sentinel_tilt",
                &member.address.to_string(),
                "this Sentinel is in TILT mode: its clock jumped or its process stood still, and it \
                 will not act until it has been calm for 30 s"
                    .into(),
                "look for CPU starvation, paused virtual machines and clock steps on its host"
                    .into(),
            ));
        }
    }
}

/// Whether there is somebody to promote, and whether that would be safe.
fn failover(group: &Group, found: &mut Vec<Finding>) {
    let name = &group.master_name;
    let replicas = group.reports().map(|(_, report)| report.replicas).max().unwrap_or_default();
    let primary = group.primary.as_ref().map(|primary| cli(group, &primary.address));
    let primary = primary.unwrap_or_default();
    if replicas == 0 {
        found.push(Finding::critical(
            "sentinel_no_replicas",
            name,
            "the Sentinels know no replica: there is nobody to promote".into(),
            format!("add a replica; the primary's view: {primary} INFO replication"),
        ));
    }
    // With one replica it would turn each of its restarts into an outage for writes.
    if replicas >= 2 && group.min_replicas == Some(0) {
        // The lint of the node says the same of it, and is shown as one with this.
        let subject = group.primary.as_ref().map(|primary| primary.address.to_string());
        found.push(Finding::warning(
            "config_min_replicas",
            &subject.unwrap_or_default(),
            format!(
                "min-replicas-to-write is 0 with {replicas} replicas: a primary that is cut off goes \
                 on taking writes, which are lost when another one is promoted"
            ),
            format!("on every node: {primary} CONFIG SET min-replicas-to-write 1"),
        ));
    }
}

/// Whether they know what has happened before, and whether the past knows that it is over.
fn generation(group: &Group, found: &mut Vec<Finding>) {
    let Some(primary) = &group.primary else {
        return;
    };
    let name = &group.master_name;
    let Endpoint::Tcp { host, port } = &primary.address else {
        return;
    };
    if let Some(named) = &group.forgotten {
        found.push(Finding::critical(
            "sentinel_forgot",
            name,
            format!(
                "the Sentinels name {} under config epoch {}, but {} was elected under {} and is the \
                 primary in use: they were started from an old file, or pointed elsewhere. They will \
                 not fail over from the real primary",
                named.address, named.epoch, primary.address, primary.epoch
            ),
            remind(group, |_| true),
        ));
    }
    for rival in &group.rivals {
        found.push(Finding::critical(
            "sentinel_two_masters",
            name,
            format!(
                "{rival} says that it is a master, as {} is: whatever is written there is lost when it \
                 becomes a replica",
                primary.address
            ),
            format!("{} REPLICAOF {host} {port}", cli(group, rival)),
        ));
    }
}

/// Tells those Sentinels who the primary is.
fn remind(group: &Group, whom: impl Fn(&Report) -> bool) -> String {
    let name = &group.master_name;
    let Some(Endpoint::Tcp { host, port }) = group.primary.as_ref().map(|it| &it.address) else {
        return "decide which one is right, and have the others monitor that".to_owned();
    };
    let lines = group.reports().filter(|(_, report)| whom(report)).map(|(it, report)| {
        let (cli, quorum) = (cli(group, &it.address) + " SENTINEL", report.quorum);
        format!("{cli} REMOVE {name} && {cli} MONITOR {name} {host} {port} {quorum}")
    });
    format!(
        "on each of these Sentinels, and then SENTINEL SET what else it needs (auth-pass, \
         down-after-milliseconds): {}",
        join(lines, "; ")
    )
}

/// Sets the quorum to a majority, everywhere.
fn set_quorum(group: &Group) -> String {
    let (name, majority) = (&group.master_name, group.majority());
    let lines = group
        .sentinels
        .iter()
        .map(|it| format!("{} SENTINEL SET {name} quorum {majority}", cli(group, &it.address)));
    format!("on every Sentinel: {}", join(lines, "; "))
}

fn monitor(group: &Group, member: &Member) -> String {
    let cli = cli(group, &member.address);
    let Some(Endpoint::Tcp { host, port }) = group.primary.as_ref().map(|it| &it.address) else {
        return format!("check the name in the upstream's url: {cli} SENTINEL MASTERS");
    };
    let (name, quorum) = (&group.master_name, group.majority());
    format!("{cli} SENTINEL MONITOR {name} {host} {port} {quorum}")
}

fn add_one(group: &Group) -> String {
    let wanted = (group.size() + 1).max(3) | 1;
    format!("run {wanted} Sentinels on as many hosts, with a quorum of {}", wanted / 2 + 1)
}

/// The tool, pointed at somebody.
fn cli(group: &Group, at: &Endpoint) -> String {
    let tls = if group.is_tls { " --tls" } else { "" };
    let place = match at {
        Endpoint::Tcp { host, port } => format!("-h {host} -p {port}"),
        Endpoint::Unix(path) => format!("-s {}", path.display()),
        Endpoint::Elected(name) => name.clone(),
    };
    format!("redis-cli{tls} {place}")
}

fn join(parts: impl Iterator<Item = String>, between: &str) -> String {
    parts.collect::<Vec<_>>().join(between)
}

/// What is normal for a moment.
const PASSING: [&str; 8] = [
    "sentinel_blind",
    "sentinel_forgot",
    "sentinel_disagree_epoch",
    "sentinel_disagree_master",
    "sentinel_disagree_quorum",
    "sentinel_two_masters",
    "sentinel_unreachable",
    "sentinel_no_replicas",
];
/// How long that is.
const LASTS: Micros = 5 * SECOND;

#[cfg(test)]
mod tests {
    use super::super::decision::Claim;
    use super::super::group::tests::{at, group};
    use super::*;
    use crate::findings::Severity;

    fn ids(group: &Group) -> Vec<&'static str> {
        findings(group).iter().map(|it| it.id).collect()
    }

    fn change(group: &mut Group, place: usize, change: impl Fn(&mut Report)) {
        let Standing::Watches(report) = &mut group.sentinels[place].standing else { panic!() };
        change(report);
    }

    fn change_all(group: &mut Group, with: impl Fn(&mut Report)) {
        (0..group.sentinels.len()).for_each(|place| change(group, place, &with));
    }

    #[test]
    fn a_healthy_group_has_nothing_to_say() {
        assert_eq!(ids(&group(3)), Vec::<&str>::new());
        let mut five = group(5);
        change_all(&mut five, |it| it.quorum = 3);
        assert_eq!(ids(&five), Vec::<&str>::new());
    }

    #[test]
    fn the_quorum_of_the_incident_is_named_with_a_line_for_each_sentinel() {
        let mut group = group(3);
        change_all(&mut group, |it| it.quorum = 3);
        let found = findings(&group);
        let [finding] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!((finding.id, finding.severity), ("sentinel_quorum_all", Severity::Critical));
        assert!(finding.text.contains("any one Sentinel failure blocks failover"));
        for port in 26379..26382 {
            let line = format!("redis-cli -h 10.0.0.1 -p {port} SENTINEL SET mymaster quorum 2");
            assert!(finding.repair.contains(&line), "{}", finding.repair);
        }
    }

    #[test]
    fn quorums_that_are_impossible_too_small_or_different_are_named() {
        let with = |quorum: u32| {
            let mut group = group(5);
            change_all(&mut group, |it| it.quorum = quorum);
            ids(&group)
        };
        assert_eq!(with(6), ["sentinel_quorum_above"]);
        assert_eq!(with(5), ["sentinel_quorum_all"]);
        assert_eq!(with(4), Vec::<&str>::new());
        assert_eq!(with(2), ["sentinel_quorum_low"]);
        let mut group = group(3);
        change(&mut group, 1, |it| it.quorum = 3);
        assert_eq!(ids(&group), ["sentinel_quorum_all", "sentinel_disagree_quorum"]);
    }

    #[test]
    fn too_few_and_even_numbers_are_named() {
        assert_eq!(ids(&group(2)), ["sentinel_quorum_all", "sentinel_too_few"]);
        let mut four = group(4);
        change_all(&mut four, |it| it.quorum = 3);
        assert_eq!(ids(&four), ["sentinel_even"]);
        assert!(findings(&four)[0].repair.contains("run 5 Sentinels"));
    }

    #[test]
    fn a_sentinel_that_is_away_is_named_and_a_majority_that_is() {
        let mut group = group(3);
        group.sentinels[0].standing = Standing::Lost("refused".into());
        group.sentinels[1].no_quorum = Some("NOQUORUM 2 usable Sentinels".into());
        assert_eq!(ids(&group), ["sentinel_unreachable", "sentinel_no_quorum"]);
        group.sentinels[1].standing = Standing::Lost("refused".into());
        assert!(ids(&group).contains(&"sentinel_minority"));
        group.sentinels[2].standing = Standing::Refuses("NOAUTH".into());
        let found = ids(&group);
        assert!(found.contains(&"sentinel_none_reachable"), "{found:?}");
        assert!(found.contains(&"sentinel_refuses"), "{found:?}");
    }

    #[test]
    fn those_that_disagree_or_do_not_see_each_other_are_named() {
        let mut group = group(3);
        change(&mut group, 0, |it| {
            (it.address, it.epoch, it.others, it.is_tilted) = (at(9), 1, 1, true);
        });
        assert_eq!(
            ids(&group),
            [
                "sentinel_disagree_master",
                "sentinel_disagree_epoch",
                "sentinel_blind",
                "sentinel_tilt"
            ]
        );
    }

    #[test]
    fn what_would_make_a_failover_impossible_or_unsafe_is_named() {
        let mut group = group(3);
        change_all(&mut group, |it| it.replicas = 0);
        assert_eq!(ids(&group), ["sentinel_no_replicas"]);
        group.min_replicas = Some(0);
        change_all(&mut group, |it| it.replicas = 1);
        assert_eq!(ids(&group), Vec::<&str>::new(), "with one replica it would do harm");
        change_all(&mut group, |it| it.replicas = 2);
        assert_eq!(ids(&group), ["config_min_replicas"]);
        group.min_replicas = None;
        assert_eq!(ids(&group), Vec::<&str>::new());
    }

    #[test]
    fn those_that_have_forgotten_get_the_commands_that_remind_them() {
        let mut group = group(3);
        group.forgotten = Some(Claim { address: at(1), epoch: 0 });
        group.rivals = vec![at(1)];
        let found = findings(&group);
        let ids: Vec<_> = found.iter().map(|it| it.id).collect();
        assert_eq!(ids, ["sentinel_forgot", "sentinel_two_masters"]);
        let line = "SENTINEL MONITOR mymaster 10.0.0.1 7 2";
        assert_eq!(found[0].repair.matches(line).count(), 3, "{}", found[0].repair);
        assert!(found[1].repair.contains("-p 1 REPLICAOF 10.0.0.1 7"), "{}", found[1].repair);
    }

    #[test]
    fn what_passes_by_itself_is_not_said_at_once() {
        let mut patience = Patience::default();
        let mut group = group(3);
        change(&mut group, 0, |it| it.epoch = 4);
        let mut shown = |at| patience.filter(findings(&group), at).len();
        assert_eq!((shown(SECOND), shown(2 * SECOND), shown(6 * SECOND)), (0, 0, 1));
        let calm = patience.filter(Vec::new(), 7 * SECOND);
        assert!(calm.is_empty());
        assert!(patience.filter(findings(&group), 8 * SECOND).is_empty(), "it begins anew");
    }
}
