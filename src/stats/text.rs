//! Exposition text: what the registry's own writer leaves to us.
//!
//! This file writes histograms and fractional counters in the Prometheus text format (0.0.4) and
//! puts families into a stable order. It knows nothing of workers or commands. What surprises: the
//! registry renders from hash maps, so its order changes with each scrape. People read this page at
//! night and compare two of them; sorting costs well under a millisecond.

use std::fmt::Write;

use super::histogram::{EXPORTED_EDGES_US, Snapshot};

/// Sorts the families of a rendered page by name, and the series within each.
///
/// `page` is what the registry renders: families separated by blank lines, comment lines first.
pub(super) fn sorted(page: &str) -> String {
    let mut families: Vec<&str> = page.split("\n\n").filter(|it| !it.trim().is_empty()).collect();
    families.sort_unstable_by_key(|family| family_name(family));
    let mut out = String::with_capacity(page.len());
    for family in families {
        let (comments, mut series): (Vec<&str>, Vec<&str>) =
            family.lines().partition(|line| line.starts_with('#'));
        series.sort_unstable();
        for line in comments.iter().chain(&series) {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

/// Appends a family of type histogram with one series: cumulative buckets, sum and count.
///
/// The edges are [`EXPORTED_EDGES_US`]. Recorded values are rounded down to whole microseconds, so
/// what is recorded below an edge took at most that long: the count is exact for `le`.
pub(super) fn write_histogram(out: &mut String, name: &str, help: &str, snapshot: &Snapshot) {
    write_header(out, name, help, "histogram");
    for edge in EXPORTED_EDGES_US {
        let (le, count) = (seconds(edge), snapshot.count_below(edge));
        // Writing to a String cannot fail; the same holds for the lines below.
        let _ = writeln!(out, "{name}_bucket{{le=\"{le}\"}} {count}");
    }
    let count = snapshot.count();
    let _ = writeln!(out, "{name}_bucket{{le=\"+Inf\"}} {count}");
    let _ = writeln!(out, "{name}_sum {}", seconds(snapshot.sum_us()));
    let _ = writeln!(out, "{name}_count {count}");
}

/// Appends a counter that is no whole number, which the registry cannot hold.
pub(super) fn write_fractional_counter(out: &mut String, name: &str, help: &str, value: f64) {
    write_header(out, name, help, "counter");
    let _ = writeln!(out, "{name} {value}");
}

/// The types of families that are written here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
}

/// Appends a family whose series come and go: labels and value of each.
pub(super) fn write_rows<'a>(
    out: &mut String,
    name: &str,
    help: &str,
    kind: Kind,
    rows: impl Iterator<Item = (Vec<(&'a str, &'a str)>, f64)>,
) {
    let kind = match kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
    };
    write_header(out, name, help, kind);
    for (labels, value) in rows {
        let labels: Vec<String> =
            labels.iter().map(|(label, text)| format!("{label}=\"{}\"", escaped(text))).collect();
        let braced =
            if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(out, "{name}{braced} {value}");
    }
}

/// A label's value as the format wants it.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// The two comment lines that open a family. `help` holds neither line ends nor backslashes.
fn write_header(out: &mut String, name: &str, help: &str, kind: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// The name in the first comment line of a family (`# HELP name …` or `# TYPE name …`).
fn family_name(family: &str) -> &str {
    family.split_ascii_whitespace().nth(2).unwrap_or_default()
}

/// Microseconds as decimal seconds without rounding: `0.000016`, `1.5`, `2`.
fn seconds(us: u64) -> String {
    let text = format!("{}.{:06}", us / 1_000_000, us % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::histogram::Histogram;

    #[test]
    fn microseconds_become_exact_decimal_seconds() {
        for (us, text) in [
            (0, "0"),
            (1, "0.000001"),
            (16, "0.000016"),
            (100, "0.0001"),
            (1_000_000, "1"),
            (1_500_000, "1.5"),
            (10_000_000, "10"),
            (67_108_864, "67.108864"),
            (u64::MAX, "18446744073709.551615"),
        ] {
            assert_eq!(seconds(us), text);
        }
    }

    #[test]
    fn families_and_series_come_out_in_order_with_their_comments_first() {
        let page =
            "# HELP b x\n# TYPE b counter\nb{l=\"2\"} 1\nb{l=\"1\"} 3\n\n# TYPE a gauge\na 1\n\n";
        let expected =
            "# TYPE a gauge\na 1\n# HELP b x\n# TYPE b counter\nb{l=\"1\"} 3\nb{l=\"2\"} 1\n";
        assert_eq!(sorted(page), expected);
        assert_eq!(sorted(""), "");
    }

    #[test]
    fn a_histogram_is_cumulative_and_ends_with_everything() {
        let histogram = Histogram::new();
        for us in [15, 16, 200, 300_000_000] {
            histogram.record(us);
        }
        let mut out = String::new();
        write_histogram(&mut out, "x_seconds", "Help.", &histogram.snapshot());
        let lines: Vec<&str> = out.lines().collect();
        assert_eq!(lines[0], "# HELP x_seconds Help.");
        assert_eq!(lines[1], "# TYPE x_seconds histogram");
        assert_eq!(lines[2], "x_seconds_bucket{le=\"0.000016\"} 1");
        assert_eq!(lines[3], "x_seconds_bucket{le=\"0.000032\"} 2");
        assert_eq!(lines[7], "x_seconds_bucket{le=\"0.000256\"} 3");
        assert_eq!(lines[21], "x_seconds_bucket{le=\"67.108864\"} 3");
        assert_eq!(lines[22], "x_seconds_bucket{le=\"+Inf\"} 4");
        assert_eq!(lines[23], "x_seconds_sum 268.435686");
        assert_eq!(lines[24], "x_seconds_count 4");
        assert_eq!(lines.len(), 25);
    }
}
