//! The text of INFO from several nodes, field by field.
//!
//! Owns what each field becomes: what counts something is added, what identifies a process or
//! describes it is the first node's, what warns is the worst node's. Never adds a field of its own.
//! Fields that only some nodes have come behind those of the first node, in their section.
//!
//! What surprises: a field that no rule knows is judged by its section and by its look. A number
//! under `# Stats` is added even if a newer server has invented it.

use std::collections::HashMap;

use crate::resp::frames;

/// What becomes of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// The first node's.
    First,
    /// Numbers: their sum. Anything else: the first node's.
    Sum,
    /// The least number.
    Min,
    /// The greatest number.
    Max,
    /// `ok`, unless a node says otherwise.
    Worst,
    /// A number of bytes for people: that of the field of the same name without the ending.
    Human,
    /// `name=number,…`, each with the rule of the name; `true`: each with [`Rule::Max`].
    Pairs(bool),
}

/// One section: its title line, and its fields with the values of the nodes that have them.
#[derive(Debug, Default)]
struct Section<'a> {
    title: &'a str,
    fields: Vec<(&'a str, Vec<&'a str>)>,
    known: HashMap<&'a str, usize>,
}

/// The text that the replies make together; `None` if one of them is no text.
pub(super) fn merged<'a>(replies: impl Iterator<Item = &'a [u8]>) -> Option<Vec<u8>> {
    let mut sections: Vec<Section<'a>> = Vec::new();
    for reply in replies {
        let text = frames::undecorated(reply).and_then(frames::string)?;
        read(std::str::from_utf8(text).ok()?, &mut sections);
    }
    let written: Vec<String> = sections.iter().map(Section::write).collect();
    Some(written.join("\r\n").into_bytes())
}

/// Adds one node's text to what is known.
fn read<'a>(text: &'a str, sections: &mut Vec<Section<'a>>) {
    let mut current = None;
    for line in text.lines().filter(|line| !line.is_empty()) {
        if line.starts_with('#') {
            let place = sections.iter().position(|section| section.title == line);
            current = Some(place.unwrap_or(sections.len()));
            if place.is_none() {
                sections.push(Section { title: line, ..Section::default() });
            }
            continue;
        }
        let section = current.and_then(|place: usize| sections.get_mut(place));
        if let (Some(section), Some((name, value))) = (section, line.split_once(':')) {
            section.add(name, value);
        }
    }
}

// === impl Section ===

impl<'a> Section<'a> {
    fn add(&mut self, name: &'a str, value: &'a str) {
        let place = *self.known.entry(name).or_insert(self.fields.len());
        match self.fields.get_mut(place) {
            Some((_, values)) => values.push(value),
            None => self.fields.push((name, vec![value])),
        }
    }

    fn write(&self) -> String {
        let mut out = format!("{}\r\n", self.title);
        for (name, values) in &self.fields {
            let value = self.value(name, values);
            out.extend([*name, ":", &*value, "\r\n"]);
        }
        out
    }

    fn value(&self, name: &str, values: &[&str]) -> String {
        let first = values.first().copied().unwrap_or_default();
        match rule(self.title, name) {
            Rule::First => first.to_owned(),
            Rule::Sum => sum(values).unwrap_or_else(|| first.to_owned()),
            Rule::Min => extreme(values, f64::lt).to_owned(),
            Rule::Max => extreme(values, f64::gt).to_owned(),
            Rule::Worst => {
                values.iter().find(|value| **value != "ok").unwrap_or(&first).to_string()
            }
            Rule::Human => {
                let bytes = name.strip_suffix("_human").and_then(|name| self.known.get(name));
                let values = bytes.and_then(|&place| self.fields.get(place));
                let sum = values.and_then(|(_, values)| sum(values)?.parse().ok());
                sum.map_or_else(|| first.to_owned(), human)
            }
            Rule::Pairs(is_max) => pairs(values, is_max),
        }
    }
}

/// The rule of a field.
fn rule(title: &str, name: &str) -> Rule {
    let known = RULES.iter().find(|(names, _)| names.contains(&name)).map(|(_, rule)| *rule);
    let ends = |ending: &str| name.ends_with(ending);
    match title {
        _ if known.is_some() => known.unwrap_or(Rule::First),
        "# Server" | "# Replication" | "# Modules" | "# Cluster" => Rule::First,
        "# Commandstats" | "# Errorstats" | "# Keyspace" => Rule::Pairs(false),
        "# Latencystats" => Rule::Pairs(true),
        _ if ends("_human") => Rule::Human,
        _ if ends("_perc") || ends("_ratio") => Rule::Max,
        "# Persistence" if ends("_status") => Rule::Worst,
        "# Persistence" => Rule::Max,
        _ => Rule::Sum,
    }
}

/// The sum of numbers, with as many decimals as the first has; `None` if one is no number.
fn sum(values: &[&str]) -> Option<String> {
    let whole: Option<Vec<i128>> = values.iter().map(|value| value.parse().ok()).collect();
    if let Some(whole) = whole {
        return Some(whole.iter().sum::<i128>().to_string());
    }
    let decimals = values.first()?.split_once('.').map_or(0, |(_, decimals)| decimals.len());
    let sum = values.iter().map(|value| value.parse::<f64>().ok()).sum::<Option<f64>>()?;
    Some(format!("{sum:.decimals$}"))
}

/// The value that `beats` all others, read as a number; the first if there is no number among them.
fn extreme<'a>(values: &[&'a str], beats: fn(&f64, &f64) -> bool) -> &'a str {
    let number = |value: &str| value.trim_end_matches('%').parse::<f64>().unwrap_or(f64::NAN);
    let better = |best: &'a str, value: &'a str| {
        if beats(&number(value), &number(best)) { value } else { best }
    };
    values.iter().copied().reduce(better).unwrap_or_default()
}

/// Bytes as Redis spells them for people.
fn human(bytes: f64) -> String {
    let units = ["B", "K", "M", "G", "T", "P"];
    let mut size = bytes;
    for (place, unit) in units.iter().enumerate() {
        if size < 1024.0 || place == units.len() - 1 {
            return if place == 0 { format!("{size}B") } else { format!("{size:.2}{unit}") };
        }
        size /= 1024.0;
    }
    String::new()
}

/// `name=number,…` of several nodes. Averages are made anew from what they are averages of.
fn pairs(values: &[&str], is_max: bool) -> String {
    let mut names: Vec<&str> = Vec::new();
    let mut columns: HashMap<&str, Vec<&str>> = HashMap::new();
    for (name, value) in values.iter().flat_map(|value| value.split(',')).filter_map(pair) {
        let column = columns.entry(name).or_default();
        if column.is_empty() {
            names.push(name);
        }
        column.push(value);
    }
    let of = |name: &str| columns.get(name).map_or(&[][..], Vec::as_slice);
    let total = |name: &str| of(name).iter().filter_map(|value| value.parse::<f64>().ok()).sum();
    let spelled = names.iter().map(|&name| {
        let value = match name {
            _ if is_max => extreme(of(name), f64::gt).to_owned(),
            "usec_per_call" => format!("{:.2}", quotient(total("usec"), total("calls"))),
            "avg_ttl" => format!("{:.0}", mean(of("avg_ttl"), of("expires"))),
            _ => sum(of(name)).unwrap_or_else(|| of(name).concat()),
        };
        format!("{name}={value}")
    });
    spelled.collect::<Vec<_>>().join(",")
}

fn pair(text: &str) -> Option<(&str, &str)> {
    text.split_once('=')
}

fn quotient(sum: f64, count: f64) -> f64 {
    if count > 0.0 { sum / count } else { 0.0 }
}

/// The mean of averages, each counted as often as its node has what it is an average of.
fn mean(averages: &[&str], counts: &[&str]) -> f64 {
    let number = |text: &&str| text.parse::<f64>().unwrap_or(0.0);
    let weighted =
        averages.iter().zip(counts).map(|(average, count)| number(average) * number(count));
    quotient(weighted.sum(), counts.iter().map(number).sum())
}

/// Fields whose rule is not that of their section.
const RULES: [(&[&str], Rule); 4] = [
    (&["connected_slaves", "rdb_changes_since_last_save", "rdb_last_load_keys_loaded"], Rule::Sum),
    (&["uptime_in_seconds", "uptime_in_days", "rdb_last_save_time"], Rule::Min),
    (
        &[
            "client_recent_max_input_buffer",
            "client_recent_max_output_buffer",
            "latest_fork_usec",
            // Every node has the same scripts and functions.
            "number_of_cached_scripts",
            "number_of_functions",
            "number_of_libraries",
        ],
        Rule::Max,
    ),
    (&["maxmemory_policy", "mem_allocator"], Rule::First),
];
