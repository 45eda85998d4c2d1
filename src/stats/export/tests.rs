//! Tests of the page as a whole, with a small checker of the Prometheus text format.
//!
//! The checker demands more than the format: names follow the conventions (`_total`, base units),
//! series of one family stand together and no series appears twice.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::*;
use crate::stats::WorkerStats;
use crate::stats::control;
use crate::stats::labels::Outcome;
use crate::stats::labels::{ClosedReason, DialFailure, ErrorClass, LaneLost, Resent};

impl Exporter {
    /// An exporter of one upstream with these workers.
    pub(crate) fn of_one<'n>(
        workers: Vec<Arc<WorkerStats>>,
        command_name: impl Fn(usize) -> &'n str,
    ) -> Self {
        let registries = Registries::default();
        let source = Source::for_tests("default", workers, &registries);
        Self::new(registries, vec![source], policy::Published::default(), command_name)
    }

    /// Runs `count` as a thread of the first upstream would.
    pub(crate) fn scoped<T>(&self, count: impl FnOnce() -> T) -> T {
        self.parts[0].recorder().scoped(count)
    }
}

impl Source {
    pub(crate) fn for_tests(
        name: &str,
        workers: Vec<Arc<WorkerStats>>,
        registries: &Registries,
    ) -> Self {
        Self {
            name: name.to_owned(),
            workers,
            recorder: registries.recorder(),
            findings: Arc::default(),
            nodes: Arc::default(),
        }
    }
}

/// A checked page: value by series, as written before the value.
type Page = BTreeMap<String, f64>;

/// Checks a page line by line and answers its series, or what is wrong with it.
fn check(text: &str) -> Result<Page, String> {
    let mut page = Page::new();
    let mut described = HashSet::new();
    let mut types: BTreeMap<String, String> = BTreeMap::new();
    let mut family = String::new();
    if !text.ends_with('\n') {
        return Err("no line end at the end".into());
    }
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').ok_or("HELP without text")?;
            if help.is_empty() || !described.insert(name.to_owned()) {
                return Err(format!("second or empty HELP of {name}"));
            }
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').ok_or("TYPE without type")?;
            if !described.contains(name) {
                return Err(format!("TYPE of {name} without HELP before it"));
            }
            check_family(name, kind)?;
            if types.insert(name.to_owned(), kind.to_owned()).is_some() {
                return Err(format!("second TYPE of {name}"));
            }
            family = name.to_owned();
        } else {
            let (series, value) = line.rsplit_once(' ').ok_or(format!("no value: {line}"))?;
            check_series(series, &family, &types)?;
            let value: f64 = value.parse().map_err(|_| format!("value: {line}"))?;
            if page.insert(series.to_owned(), value).is_some() {
                return Err(format!("{series} appears twice"));
            }
        }
    }
    if described.len() != types.len() {
        return Err("HELP without TYPE".into());
    }
    for (name, _) in types.iter().filter(|(_, kind)| *kind == "histogram") {
        check_histogram(name, text, &page)?;
    }
    Ok(page)
}

/// Names and conventions of a family.
fn check_family(name: &str, kind: &str) -> Result<(), String> {
    if !is_name(name) {
        return Err(format!("{name} is no metric name"));
    }
    if (kind == "counter") != name.ends_with("_total") {
        return Err(format!("{name} is a {kind}, but only counters end with _total"));
    }
    if !["counter", "gauge", "histogram"].contains(&kind) {
        return Err(format!("{name}: type {kind}"));
    }
    let units = ["_ms", "_us", "_micros", "_millis", "_kb", "_mb"];
    match units.iter().find(|unit| name.contains(**unit)) {
        Some(unit) => Err(format!("{name} is not in base units but in {unit}")),
        None => Ok(()),
    }
}

/// A series: name of the family that is open, and labels in the exact syntax.
fn check_series(
    series: &str,
    family: &str,
    types: &BTreeMap<String, String>,
) -> Result<(), String> {
    let (name, labels) = match series.split_once('{') {
        None => (series, None),
        Some((name, rest)) => (name, Some(rest.strip_suffix('}').ok_or("no closing brace")?)),
    };
    let is_histogram = types.get(family).is_some_and(|kind| kind == "histogram");
    let suffixes: &[&str] = if is_histogram { &["_bucket", "_sum", "_count"] } else { &[""] };
    if !suffixes.iter().any(|suffix| name == format!("{family}{suffix}")) {
        return Err(format!("{name} stands in the family {family}"));
    }
    let mut names = HashSet::new();
    for label in labels.into_iter().flat_map(|labels| labels.split("\",")) {
        let (label, value) = label.split_once("=\"").ok_or(format!("label: {series}"))?;
        let value = value.strip_suffix('"').unwrap_or(value);
        if !is_name(label) || label.contains(':') || value.contains(['"', '\n', '\\']) {
            return Err(format!("label: {series}"));
        }
        if !names.insert(label) {
            return Err(format!("label {label} twice: {series}"));
        }
    }
    Ok(())
}

/// Buckets rise in edge and count, the last is +Inf and equals the count: for each upstream, if they have names.
fn check_histogram(name: &str, text: &str, page: &Page) -> Result<(), String> {
    let prefix = format!("{name}_bucket{{");
    let mut counts: BTreeMap<String, (f64, f64)> = BTreeMap::new();
    for line in text.lines().filter_map(|line| line.strip_prefix(&prefix)) {
        let (others, rest) = line.split_once("le=\"").ok_or("bucket without le")?;
        let (le, value) = rest.split_once("\"} ").ok_or("bucket whose last label is not le")?;
        let le: f64 = le.parse().map_err(|_| format!("le {le}"))?;
        let value: f64 = value.parse().map_err(|_| format!("value {value}"))?;
        let others = others.trim_end_matches(',');
        let labels = if others.is_empty() { String::new() } else { format!("{{{others}}}") };
        let (edge, count) = counts.entry(labels).or_insert((f64::NEG_INFINITY, 0.0));
        if le <= *edge || value < *count {
            return Err(format!("{name} falls at {le}"));
        }
        (*edge, *count) = (le, value);
    }
    if counts.is_empty() {
        return Err(format!("{name} has no buckets"));
    }
    for (labels, (edge, count)) in counts {
        if edge != f64::INFINITY || page.get(&format!("{name}_count{labels}")) != Some(&count) {
            return Err(format!("{name} has no +Inf bucket equal to its count"));
        }
        if !page.contains_key(&format!("{name}_sum{labels}")) {
            return Err(format!("{name} has no sum"));
        }
    }
    Ok(())
}

fn is_name(name: &str) -> bool {
    !name.starts_with(|first: char| first.is_ascii_digit())
        && !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_:".contains(&byte))
}

/// Two workers whose every number differs from zero.
fn busy_workers() -> Vec<Arc<WorkerStats>> {
    let workers = vec![Arc::new(WorkerStats::new(2)), Arc::new(WorkerStats::new(2))];
    for (worker, share) in workers.iter().zip([1, 10]) {
        worker.command(0, Outcome::Ok).add(share);
        worker.command(1, Outcome::ErrorReply).add(share);
        worker.command(WorkerStats::OTHER_COMMAND, Outcome::Refused).add(share);
        worker.client_bytes_in.add(2 * share);
        worker.client_bytes_out.add(3 * share);
        worker.upstream_bytes_in.add(4 * share);
        worker.upstream_bytes_out.add(5 * share);
        worker.clients.add(share);
        worker.lanes.set(6 * share);
        worker.commands_in_flight.add(7 * share);
        worker.reply_buffered_bytes.add(8 * share);
        worker.request_buffered_bytes.add(9 * share);
        worker.clients_accepted.add(10 * share);
        worker.client_protocol_errors.add(11 * share);
        worker.lanes_opened.add(12 * share);
        worker.lanes_retired.add(13 * share);
        worker.dials_started.add(14 * share);
        worker.tombstones_made.add(15 * share);
        worker.tombstones_consumed.add(16 * share);
        worker.deadlines_passed.add(17 * share);
        worker.pushes_dropped.add(18 * share);
        worker.lane_flushes.add(19 * share);
        worker.lane_commands.add(20 * share);
        worker.turns.add(21 * share);
        worker.turn_sessions.add(22 * share);
        worker.panics.add(23 * share);
        worker.error_reply(ErrorClass::Wrongtype).add(24 * share);
        worker.client_closed(ClosedReason::Stalled).add(25 * share);
        worker.lane_lost(LaneLost::Reset).add(26 * share);
        worker.dial_failed(DialFailure::Unresolved).add(27 * share);
        worker.resent(Resent::ReadOnly).add(28 * share);
        worker.queue_time.record(20 * share);
        worker.upstream_time.record_many(100, share);
    }
    workers
}

/// What the page of [`busy_workers`] says; each number is eleven times its share.
const BUSY_PAGE: &[(&str, f64)] = &[
    ("breakwater_commands_total{command=\"get\",outcome=\"ok\"}", 11.0),
    ("breakwater_commands_total{command=\"config|get\",outcome=\"error_reply\"}", 11.0),
    ("breakwater_commands_total{command=\"other\",outcome=\"refused\"}", 11.0),
    ("breakwater_client_bytes_total{direction=\"in\"}", 22.0),
    ("breakwater_client_bytes_total{direction=\"out\"}", 33.0),
    ("breakwater_upstream_bytes_total{direction=\"in\"}", 44.0),
    ("breakwater_upstream_bytes_total{direction=\"out\"}", 55.0),
    ("breakwater_clients", 11.0),
    ("breakwater_lanes", 66.0),
    ("breakwater_commands_in_flight", 77.0),
    ("breakwater_reply_buffered_bytes", 88.0),
    ("breakwater_request_buffered_bytes", 99.0),
    ("breakwater_clients_accepted_total", 110.0),
    ("breakwater_client_protocol_errors_total", 121.0),
    ("breakwater_lanes_opened_total", 132.0),
    ("breakwater_lanes_retired_total", 143.0),
    ("breakwater_dials_total", 154.0),
    ("breakwater_tombstones_made_total", 165.0),
    ("breakwater_tombstones_consumed_total", 176.0),
    ("breakwater_deadlines_passed_total", 187.0),
    ("breakwater_pushes_dropped_total", 198.0),
    ("breakwater_lane_flushes_total", 209.0),
    ("breakwater_lane_commands_total", 220.0),
    ("breakwater_turns_total", 231.0),
    ("breakwater_turn_sessions_total", 242.0),
    ("breakwater_panics_total", 253.0),
    ("breakwater_error_replies_total{code=\"wrongtype\"}", 264.0),
    ("breakwater_clients_closed_total{reason=\"stalled\"}", 275.0),
    ("breakwater_lanes_lost_total{cause=\"reset\"}", 286.0),
    ("breakwater_dial_failures_total{cause=\"unresolved\"}", 297.0),
    ("breakwater_commands_resent_total{reason=\"read_only\"}", 308.0),
    ("breakwater_command_queue_seconds_sum", 0.00022),
    ("breakwater_command_queue_seconds_count", 2.0),
    ("breakwater_command_queue_seconds_bucket{le=\"0.000032\"}", 1.0),
    ("breakwater_command_upstream_seconds_sum", 0.0011),
    ("breakwater_command_upstream_seconds_bucket{le=\"0.000064\"}", 0.0),
    ("breakwater_command_upstream_seconds_bucket{le=\"0.000128\"}", 11.0),
];

fn name(command: usize) -> &'static str {
    ["get", "config|get"][command]
}

#[test]
fn the_page_is_valid_and_sums_every_number_over_the_workers() {
    let exporter = Exporter::of_one(busy_workers(), name);
    let page = check(&exporter.render()).unwrap();
    for (series, value) in BUSY_PAGE {
        assert_eq!(page.get(*series), Some(value), "{series}");
    }
    let version = concat!("breakwater_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"}");
    assert_eq!(page.get(version), Some(&1.0));
}

#[test]
fn several_upstreams_are_told_apart_and_what_is_the_process_s_has_no_name() {
    let registries = Registries::default();
    let idle = || vec![Arc::new(WorkerStats::new(2))];
    let sources = [("default", busy_workers()), ("b", idle())]
        .map(|(name, workers)| Source::for_tests(name, workers, &registries));
    sources[1].findings.set("test", vec![finding()]);
    let recorders = [0, 1].map(|place: usize| Arc::clone(&sources[place].recorder));
    let policy = policy::Published::default();
    let exporter = Exporter::new(registries, sources.into(), policy, name);
    recorders[0].scoped(|| control::scripts(3, 30));
    recorders[1].scoped(|| control::scripts(4, 40));
    for recorder in &recorders {
        recorder.scoped(|| control::log_lines_suppressed(2));
    }
    let text = exporter.render();
    let page = check(&text).unwrap();
    for (series, value) in BUSY_PAGE {
        // The same numbers, under the name of the upstream.
        let named = text::labelled(&format!("{series} 0\n"), "upstream", "default");
        assert_eq!(page.get(named.trim_end_matches(" 0\n")), Some(value), "{series}");
        assert!(!page.contains_key(*series), "{series}");
    }
    for (series, value) in [
        ("breakwater_scripts{upstream=\"default\"}", 3.0),
        ("breakwater_scripts{upstream=\"b\"}", 4.0),
        ("breakwater_clients_accepted_total{upstream=\"b\"}", 0.0),
        ("breakwater_command_queue_seconds_count{upstream=\"b\"}", 0.0),
        ("breakwater_finding{upstream=\"b\",id=\"x\",severity=\"critical\",subject=\"h:1\"}", 1.0),
        ("breakwater_log_lines_suppressed_total", 4.0),
        ("breakwater_config_reloads_total{result=\"applied\"}", 0.0),
        ("breakwater_draining", 0.0),
        ("breakwater_policy_version", 0.0),
    ] {
        assert_eq!(page.get(series), Some(&value), "{series}");
    }
    // Whatever is not the process's own has a name.
    let unnamed = page.keys().filter(|series| !series.contains("upstream=\""));
    for family in unnamed.map(|series| series.split('{').next().unwrap()) {
        let is_policy = ["breakwater_policy_", "breakwater_keyspace_"];
        let is_policy = is_policy.iter().any(|prefix| family.starts_with(prefix));
        assert!(is_policy || families::is_of_process(family), "{family} has no upstream");
    }
}

fn finding() -> crate::findings::Finding {
    crate::findings::Finding::critical("x", "h:1", "amiss".to_owned(), "mend it".to_owned())
}

#[test]
fn a_second_scrape_shows_what_came_since_and_stays_valid() {
    let workers = busy_workers();
    let exporter = Exporter::of_one(workers.clone(), name);
    check(&exporter.render()).unwrap();
    workers[0].command(0, Outcome::Ok).increment();
    workers[1].command(0, Outcome::Unknown).increment();
    workers[0].clients.sub(1);
    let page = check(&exporter.render()).unwrap();
    assert_eq!(page["breakwater_commands_total{command=\"get\",outcome=\"ok\"}"], 12.0);
    assert_eq!(page["breakwater_commands_total{command=\"get\",outcome=\"unknown\"}"], 1.0);
    assert_eq!(page["breakwater_clients"], 10.0);
}

#[test]
fn commands_that_never_happened_have_no_series_but_closed_lists_have() {
    let exporter = Exporter::of_one(vec![Arc::new(WorkerStats::new(2))], name);
    let page = check(&exporter.render()).unwrap();
    assert!(!page.keys().any(|series| series.starts_with("breakwater_commands_total")));
    assert_eq!(page["breakwater_error_replies_total{code=\"loading\"}"], 0.0);
    assert_eq!(page["breakwater_upstream_up"], 0.0);
    let errors = page.keys().filter(|it| it.starts_with("breakwater_error_replies_total"));
    assert_eq!(errors.count(), ErrorClass::ALL.len());
}

#[test]
fn an_exporter_without_workers_still_renders() {
    let exporter = Exporter::of_one(Vec::new(), |_| "");
    let page = check(&exporter.render()).unwrap();
    assert_eq!(page["breakwater_command_queue_seconds_count"], 0.0);
}

#[test]
fn a_gauge_that_moved_between_workers_sums_right() {
    let workers = vec![Arc::new(WorkerStats::new(0)), Arc::new(WorkerStats::new(0))];
    workers[0].clients.add(3);
    workers[1].clients.sub(1);
    let page = check(&Exporter::of_one(workers, name).render()).unwrap();
    assert_eq!(page["breakwater_clients"], 2.0);
}

/// The families of a page, by their TYPE lines.
fn families_of(text: &str) -> BTreeSet<&str> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types.filter_map(|rest| rest.split(' ').next()).collect()
}

#[test]
fn the_page_the_table_and_the_documentation_name_the_same_families() {
    let text = Exporter::of_one(busy_workers(), name).render();
    let page = families_of(&text);
    let table: BTreeSet<&str> = families::described().map(|(family, _)| family).collect();
    // A process without a limit on files has no `process_max_fds`; all others must be there.
    let absent: Vec<_> = table.difference(&page).filter(|it| **it != "process_max_fds").collect();
    assert!(absent.is_empty(), "on the table, not on the page: {absent:?}");
    assert!(page.is_subset(&table), "on the page only: {:?}", page.difference(&table));

    // A family is documented by a table row that begins with its name.
    let documented: BTreeSet<&str> = include_str!("../../../docs/metrics.md")
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split(['`', '{']).next())
        .filter(|word| word.starts_with("breakwater_") || word.starts_with("process_"))
        .collect();
    assert_eq!(documented, table, "docs/metrics.md and the table differ");
}

#[test]
fn every_label_value_is_documented() {
    let documentation = include_str!("../../../docs/metrics.md");
    let mut values: Vec<&str> = Vec::new();
    values.extend(Outcome::ALL.map(Outcome::as_str));
    values.extend(ErrorClass::ALL.map(ErrorClass::as_str));
    values.extend(ClosedReason::ALL.map(ClosedReason::as_str));
    values.extend(LaneLost::ALL.map(LaneLost::as_str));
    values.extend(DialFailure::ALL.map(DialFailure::as_str));
    values.extend(Resent::ALL.map(Resent::as_str));
    values.extend(crate::stats::labels::NodeState::ALL.map(|it| it.as_str()));
    values.extend(crate::stats::labels::TurnedAway::ALL.map(|it| it.as_str()));
    values.extend(crate::stats::labels::Reload::ALL.map(|it| it.as_str()));
    values.extend(crate::stats::labels::RefreshTrigger::ALL.map(|it| it.as_str()));
    values.extend(crate::stats::labels::RefreshOutcome::ALL.map(|it| it.as_str()));
    for value in values {
        assert!(documentation.contains(&format!("`{value}`")), "{value} is not documented");
    }
}

#[test]
fn the_order_of_the_page_does_not_change_between_scrapes() {
    let exporter = Exporter::of_one(busy_workers(), name);
    let order = |text: String| -> Vec<String> {
        text.lines().filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned())).collect()
    };
    assert_eq!(order(exporter.render()), order(exporter.render()));
}

#[test]
fn the_checker_finds_each_kind_of_fault() {
    let good = "# HELP a_total x\n# TYPE a_total counter\na_total{b=\"c\",d=\"e|f\"} 1\n";
    assert_eq!(check(good).unwrap().len(), 1);
    let histogram = "# HELP h_seconds x\n# TYPE h_seconds histogram\n\
        h_seconds_bucket{le=\"1\"} 1\nh_seconds_bucket{le=\"+Inf\"} 2\n\
        h_seconds_sum 1.5\nh_seconds_count 2\n";
    assert_eq!(check(histogram).unwrap().len(), 4);
    for (find, replace) in [
        ("# HELP a_total x\n", ""),
        ("# HELP a_total x\n", "# HELP a_total x\n# HELP a_total x\n"),
        ("# HELP a_total x\n", "# HELP a_total x\n# HELP b_total x\n"),
        ("# TYPE a_total counter\n", ""),
        ("# TYPE a_total counter\n", "# TYPE a_total counter\n# TYPE a_total counter\n"),
        ("counter", "gauge"),
        ("counter", "untyped"),
        ("a_total", "a_count"),
        ("a_total", "9_total"),
        ("a_total", "a_ms_total"),
        ("a_total{", "b_total{"),
        ("} 1\n", "} 1"),
        ("} 1\n", "} one\n"),
        ("} 1\n", "}\n"),
        ("} 1\n", " 1\n"),
        ("} 1\n", "} 1\na_total{b=\"c\",d=\"e|f\"} 1\n"),
        ("d=\"", "b=\""),
        ("d=\"", "d-d=\""),
        ("d=\"", "d="),
        ("e|f", "e\\f"),
    ] {
        assert!(good.contains(find), "{find}");
        assert!(check(&good.replace(find, replace)).is_err(), "{find:?} -> {replace:?}");
    }
    for (find, replace) in [
        ("le=\"1\"} 1", "le=\"1\"} 3"),
        ("+Inf", "2"),
        ("+Inf", "0.5"),
        ("count 2", "count 3"),
        ("h_seconds_sum 1.5\n", ""),
        ("h_seconds_sum", "h_seconds_max"),
    ] {
        assert!(histogram.contains(find), "{find}");
        assert!(check(&histogram.replace(find, replace)).is_err(), "{find:?} -> {replace:?}");
    }
}
