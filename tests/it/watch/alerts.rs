//! The alert rules and the manual keep pace with the code.
//!
//! Owns the comparison of `deploy/alerts.yaml`, `docs/metrics.md`, `docs/operations.md` and the findings that the source
//! can make. What surprises: the rules are read line by line and not as YAML. Their form is fixed here, and a file that
//! leaves it fails.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// One rule of the file.
#[derive(Debug, Default)]
struct Rule {
    name: String,
    expression: String,
    severity: String,
    incident: String,
    summary: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn text(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).expect("the file is part of the repository")
}

/// The rules, and every line that is none of the known ones.
fn rules() -> (Vec<Rule>, Vec<String>) {
    let (mut rules, mut strange) = (Vec::<Rule>::new(), Vec::new());
    for line in text("deploy/alerts.yaml").lines() {
        let (key, value) = line.trim_start().split_once(':').unwrap_or((line, ""));
        let value = value.trim().trim_matches('"').to_owned();
        match (key, rules.last_mut()) {
            ("- alert", _) => rules.push(Rule { name: value, ..Rule::default() }),
            ("expr", Some(rule)) => rule.expression = value,
            ("severity", Some(rule)) => rule.severity = value,
            ("incident", Some(rule)) => rule.incident = value,
            ("summary", Some(rule)) => rule.summary = value,
            ("groups" | "- name" | "rules" | "for" | "labels" | "annotations", _) => {}
            _ if line.starts_with('#') => {}
            _ => strange.push(line.to_owned()),
        }
    }
    (rules, strange)
}

/// Every word of an expression that is a metric of ours.
fn metrics(expression: &str) -> impl Iterator<Item = &str> {
    let words = expression.split(|it: char| !it.is_ascii_alphanumeric() && it != '_');
    words.filter(|word| word.starts_with("breakwater_"))
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("the source can be read").flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|it| it == "rs") && !path.ends_with("tests.rs") {
            found.push(path);
        }
    }
}

/// The ids of every finding that the source makes outside of its tests.
fn ids() -> BTreeSet<String> {
    let mut files = Vec::new();
    sources(&root().join("src"), &mut files);
    let mut ids = BTreeSet::new();
    for file in files {
        let source = std::fs::read_to_string(&file).expect("it is text");
        let source = source.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
        for start in [
            "Finding::critical(",
            "Finding::warning(",
            "Finding::info(",
            "Finding::not_checked(",
            "make(",
            ".warn(",
            ".note(",
        ] {
            let calls = source.split(start).skip(1);
            let first =
                calls.filter_map(|rest| rest.trim_start().strip_prefix('"')?.split('"').next());
            ids.extend(first.filter(|id| id.contains('_') || !id.contains(' ')).map(str::to_owned));
        }
    }
    ids
}

#[test]
fn every_rule_is_whole_and_speaks_of_metrics_that_exist() {
    let (rules, strange) = rules();
    assert!(strange.is_empty(), "{strange:#?}");
    assert!(rules.len() > 30, "{}", rules.len());
    let documented = text("docs/metrics.md");
    let names: BTreeSet<&str> = rules.iter().map(|rule| rule.name.as_str()).collect();
    assert_eq!(names.len(), rules.len(), "two rules have one name");
    for rule in &rules {
        assert!(!rule.summary.is_empty() && !rule.incident.is_empty(), "{rule:#?}");
        assert!(["info", "warning", "critical"].contains(&rule.severity.as_str()), "{rule:#?}");
        // One incident that forty sidecars see is one alert.
        let aggregates = ["max by (", "min by (", "max(", "min(", "(max by (", "count by ("];
        assert!(aggregates.iter().any(|it| rule.expression.starts_with(it)), "{rule:#?}");
        let opened = rule.expression.matches('(').count();
        assert_eq!(opened, rule.expression.matches(')').count(), "{rule:#?}");
        assert!(metrics(&rule.expression).next().is_some(), "{rule:#?}");
        for metric in metrics(&rule.expression) {
            let row = [format!("| `{metric}`"), format!("| `{metric}{{")];
            assert!(row.iter().any(|row| documented.contains(row)), "{metric} of {}", rule.name);
        }
    }
}

#[test]
fn every_finding_is_covered_by_a_rule_and_explained_in_the_manual() {
    let (rules, _) = rules();
    for severity in ["critical", "warning"] {
        let generic = format!("breakwater_finding{{severity=\"{severity}\"}}");
        assert!(rules.iter().any(|rule| rule.expression.contains(&generic)), "{severity}");
    }
    let ids = ids();
    assert!(ids.len() > 40 && ids.contains("replication_gap"), "{ids:#?}");
    let manual = text("docs/operations.md");
    // A row may speak of several that are alike.
    let rows = manual.lines().filter_map(|line| line.strip_prefix("| `")?.split(" | ").next());
    let explained: BTreeSet<&str> = rows.flat_map(|cell| cell.split(['`', ',', ' '])).collect();
    let missing: Vec<_> = ids.iter().filter(|id| !explained.contains(id.as_str())).collect();
    assert!(missing.is_empty(), "not in docs/operations.md: {missing:#?}");
}
