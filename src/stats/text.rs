//! Exposition text: what the registry's own writer leaves to us.
//!
//! This file writes histograms and fractional counters in the Prometheus text format (0.0.4), puts
//! families into a stable order, and joins the pages of several upstreams. It knows nothing of workers or commands. What surprises: the
//! registry renders from hash maps, so its order changes with each scrape. People read this page at
//! night and compare two of them; sorting costs well under a millisecond.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::histogram::{EXPORTED_EDGES_US, Snapshot};

/// Sorts the families of rendered pages by name, and the series within each; a family that several
/// pages have becomes one.
///
/// A page is what a registry renders: families separated by blank lines, comment lines first.
pub(super) fn sorted(pages: &[String]) -> String {
    let mut families: BTreeMap<&str, (Vec<&str>, Vec<&str>)> = BTreeMap::new();
    let blocks = pages.iter().flat_map(|page| page.split("\n\n"));
    for family in blocks.filter(|it| !it.trim().is_empty()) {
        let (comments, series): (Vec<&str>, Vec<&str>) =
            family.lines().partition(|line| line.starts_with('#'));
        let known = families.entry(family_name(family)).or_default();
        // The same in each page, and told once.
        known.0 = comments;
        known.1.extend(series);
    }
    let mut out = String::with_capacity(pages.iter().map(String::len).sum());
    for (comments, series) in families.values_mut() {
        series.sort_unstable();
        comments.iter().chain(series.iter()).for_each(|line| push_line(&mut out, line));
    }
    out
}

/// Pages of the same families in the same order, joined family by family: what opens it once, then
/// the series of each page in their order.
pub(super) fn joined(pages: &[String]) -> String {
    let mut out = String::with_capacity(pages.iter().map(String::len).sum());
    let mut rests: Vec<&str> = pages.iter().map(String::as_str).collect();
    while rests.iter().any(|rest| !rest.is_empty()) {
        for (place, rest) in rests.iter_mut().enumerate() {
            // A family goes from its HELP to the next one's.
            let end = rest.get(1..).and_then(|more| more.find("\n# HELP "));
            let (family, others) = rest.split_at(end.map_or(rest.len(), |end| end + 2));
            let is_told = |line: &&str| place == 0 || !line.starts_with('#');
            family.lines().filter(is_told).for_each(|line| push_line(&mut out, line));
            *rest = others;
        }
    }
    out
}

/// The series of a page with one more label, in front of their others. No name of a series holds a
/// brace or a space, so the first of either ends the name.
pub(super) fn labelled(page: &str, label: &str, value: &str) -> String {
    let more = format!("{label}=\"{}\"", escaped(value));
    let mut out = String::with_capacity(page.len() * 2);
    for line in page.lines() {
        match line.find(['{', ' ']) {
            Some(end) if !line.starts_with('#') => {
                let (name, rest) = line.split_at(end);
                let labelled = match rest.strip_prefix('{') {
                    Some(others) => format!("{name}{{{more},{others}"),
                    None => format!("{name}{{{more}}}{rest}"),
                };
                push_line(&mut out, &labelled);
            }
            _ => push_line(&mut out, line),
        }
    }
    out
}

fn push_line(out: &mut String, line: &str) {
    out.push_str(line);
    out.push('\n');
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
        assert_eq!(sorted(&[page.to_owned()]), expected);
        assert_eq!(sorted(&[String::new()]), "");
    }

    #[test]
    fn a_family_of_several_pages_is_told_once() {
        let page = |value: u32| format!("# HELP a x\n# TYPE a gauge\na{{l=\"1\"}} {value}\n\n");
        let pages = [page(1), "# HELP b y\n# TYPE b gauge\nb 2\n\n".to_owned(), page(3)];
        let expected = "# HELP a x\n# TYPE a gauge\na{l=\"1\"} 1\na{l=\"1\"} 3\n\
                        # HELP b y\n# TYPE b gauge\nb 2\n";
        assert_eq!(sorted(&pages), expected);
    }

    #[test]
    fn pages_are_joined_family_by_family_also_where_one_has_no_series() {
        let head = |name: &str| format!("# HELP {name} x\n# TYPE {name} gauge\n");
        let (a, b, c) = (head("a"), head("b"), head("c"));
        let first = format!("{a}{b}b 1\nb 2\n{c}");
        assert_eq!(joined(std::slice::from_ref(&first)), first);
        let second = format!("{a}a 9\n{b}{c}c 8\n");
        assert_eq!(joined(&[first, second]), format!("{a}a 9\n{b}b 1\nb 2\n{c}c 8\n"));
        assert_eq!(joined(&[]), "");
    }

    #[test]
    fn a_label_is_put_in_front_of_the_others() {
        let page = "# HELP a{b} x\n\na 1\na{l=\"x y\"} 2\na_bucket{le=\"+Inf\"} 3\n";
        let expected = "# HELP a{b} x\n\na{u=\"n\\\"\"} 1\na{u=\"n\\\"\",l=\"x y\"} 2\n\
                        a_bucket{u=\"n\\\"\",le=\"+Inf\"} 3\n";
        assert_eq!(labelled(page, "u", "n\""), expected);
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
