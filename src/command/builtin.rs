//! Reads `commands.tsv`, the built-in table, which is compiled into the program.
//!
//! Owns the notation of that file (its head explains the columns). Never reads anything at run time
//! and never sees a byte from outside: what is wrong in here is wrong in the build, which is why the
//! one panic of this folder is here, behind a test that parses every line.
//!
//! A surprise: the number of a command is its line, so [`line_of`] can find it while the program is
//! being compiled, and `match` can compare with it.

use super::flags::{Categories, Flags, KeyFlags};
use super::keys::KeyRule;
use super::spec::{
    BeginSearch, Class, CommandId, FindKeys, KeySpec, Lane, RequestPolicy, ResponsePolicy, Spec,
};

const TSV: &str = include_str!("commands.tsv");

/// How many commands and subcommands the built-in table has.
pub(super) const LINES: usize = count_lines(TSV.as_bytes());

/// Every command and subcommand of the built-in table, in the order of their ids.
///
/// # Panics
/// If `commands.tsv` does not follow its own rules.
#[allow(clippy::panic, reason = "the table is part of the program; a test parses it")]
pub(super) fn specs() -> Vec<Spec> {
    let lines = TSV.lines().filter(|line| !line.starts_with('#'));
    let mut specs: Vec<Spec> = Vec::with_capacity(LINES);
    for (number, line) in lines.enumerate() {
        match spec(number as u16, line) {
            Some(spec) => specs.push(spec),
            None => panic!("commands.tsv is broken at: {line}"),
        }
    }
    link(&mut specs);
    specs
}

/// The number of the line that describes `name`; made for constants.
pub(super) const fn line_of(name: &str) -> Option<u16> {
    let (table, name) = (TSV.as_bytes(), name.as_bytes());
    let (mut at, mut line) = (0, 0);
    while at < table.len() {
        // The name is the first column.
        let mut matching = 0;
        while matching < name.len() && table[at + matching] == name[matching] {
            matching += 1;
        }
        if matching == name.len() && table[at + matching] == b'\t' {
            return Some(line);
        }
        if table[at] != b'#' {
            line += 1;
        }
        while table[at] != b'\n' {
            at += 1;
        }
        at += 1;
    }
    None
}

/// How many lines are not comments.
const fn count_lines(table: &[u8]) -> usize {
    let (mut at, mut lines, mut starts) = (0, 0, true);
    while at < table.len() {
        if starts && table[at] != b'#' {
            lines += 1;
        }
        starts = table[at] == b'\n';
        at += 1;
    }
    lines
}

/// Tells containers and subcommands about each other. A container comes before its subcommands,
/// because its name is the beginning of theirs.
#[allow(clippy::panic, reason = "the table is part of the program; a test parses it")]
fn link(specs: &mut [Spec]) {
    for number in 0..specs.len() {
        let Some((container, _)) = specs[number].name.split_once('|') else {
            continue;
        };
        let found = specs[..number].iter().rposition(|spec| &*spec.name == container);
        let Some(found) = found else { panic!("commands.tsv has no container {container}") };
        specs[found].is_container = true;
        specs[number].container = Some(CommandId(found as u16));
    }
}

/// One line; `None` if it does not follow the rules.
fn spec(number: u16, line: &str) -> Option<Spec> {
    let columns: [&str; 12] = line.split('\t').collect::<Vec<_>>().try_into().ok()?;
    let [
        name,
        _servers,
        group,
        class,
        lane,
        arity,
        flags,
        categories,
        legacy,
        request,
        response,
        keys,
    ] = columns;
    let [first_key, last_key, key_step] = numbers(legacy)?;
    let key_specs = list(keys, ';').map(key_spec).collect::<Option<Box<[KeySpec]>>>()?;
    Some(Spec {
        id: CommandId(number),
        name: name.into(),
        group: group.into(),
        arity: arity.parse().ok()?,
        barred: None,
        flags: list(flags, ',')
            .try_fold(Flags::default(), |sum, name| Some(sum.union(Flags::from_name(name)?)))?,
        categories: list(categories, ',').try_fold(Categories::default(), |sum, name| {
            Some(sum.union(Categories::from_name(name)?))
        })?,
        class: class_from(class)?,
        lane: lane_from(lane)?,
        is_container: false,
        container: None,
        first_key,
        last_key,
        key_step,
        request_policy: RequestPolicy::from_name(request),
        response_policy: ResponsePolicy::from_name(response),
        wire_name: None,
        key_rule: KeyRule::of(name),
        has_many_keys: key_specs.iter().any(KeySpec::depends_on_arguments),
        key_specs,
    })
}

/// The word of the fourth column.
fn class_from(word: &str) -> Option<Class> {
    Some(match word {
        "shared" => Class::Shared,
        "local" => Class::Local,
        "pinned" => Class::Pinned,
        "subscriber" => Class::Subscriber,
        "structural" => Class::Structural,
        _ => return None,
    })
}

/// The word of the fifth column.
fn lane_from(word: &str) -> Option<Lane> {
    match word {
        "fast" => Some(Lane::Fast),
        "bulk" => Some(Lane::Bulk),
        _ => None,
    }
}

/// `RW+access@i1/r0,1,0`: flags, where to begin, how to go on.
fn key_spec(text: &str) -> Option<KeySpec> {
    let (flags, search) = text.split_once('@')?;
    let (begin, find) = search.split_once('/')?;
    let flags = flags
        .split('+')
        .try_fold(KeyFlags::default(), |sum, name| Some(sum.union(KeyFlags::from_name(name)?)))?;
    Some(KeySpec { begin: begin_search(begin)?, find: find_keys(find)?, flags })
}

/// `i1`: at an argument; `kSTORE,6`: behind a word; `?`: nobody can tell.
fn begin_search(text: &str) -> Option<BeginSearch> {
    match text.split_at_checked(1)? {
        ("i", index) => Some(BeginSearch::Index(index.parse().ok()?)),
        ("k", rest) => {
            let (word, from) = rest.split_once(',')?;
            Some(BeginSearch::Keyword { word: word.into(), from: from.parse().ok()? })
        }
        ("?", "") => Some(BeginSearch::Unknown),
        _ => None,
    }
}

/// `r0,1,0`: up to an argument; `n0,1,1`: as many as one says; `?`: nobody can tell.
fn find_keys(text: &str) -> Option<FindKeys> {
    match text.split_at_checked(1)? {
        ("r", rest) => {
            let [last, step, limit] = numbers(rest)?;
            Some(FindKeys::Range { last, step, limit })
        }
        ("n", rest) => {
            let [index, first, step] = numbers(rest)?;
            Some(FindKeys::Count { index, first, step })
        }
        ("?", "") => Some(FindKeys::Unknown),
        _ => None,
    }
}

/// The parts of a column; none if it is empty.
fn list(column: &str, separator: char) -> impl Iterator<Item = &str> {
    column.split(separator).filter(|part| *part != "-")
}

/// Three numbers with commas between them.
fn numbers(text: &str) -> Option<[i32; 3]> {
    let numbers: Option<Vec<i32>> = text.split(',').map(|number| number.parse().ok()).collect();
    numbers?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_parses_and_the_order_is_that_of_the_names() {
        let specs = specs();
        assert_eq!(specs.len(), LINES);
        assert!(specs.len() > 370);
        assert!(specs.is_sorted_by(|a, b| a.name < b.name));
        for (number, spec) in specs.iter().enumerate() {
            assert_eq!(spec.id.index(), number);
            assert_eq!(line_of(&spec.name), Some(number as u16), "{}", spec.name);
            assert_eq!(spec.name.contains('|'), spec.container.is_some());
            assert!(spec.arity != 0);
        }
    }

    #[test]
    fn a_line_becomes_a_spec() {
        let line = "x|y\t78v\tlist\tpinned\tbulk\t-5\twrite,movablekeys\twrite,list\t1,-1,2\tmulti_shard\tagg_sum\tRW+access@i2/n0,1,1;OW@kSTORE,5/r0,1,0;RO@?/?";
        let spec = spec(7, line).unwrap();
        assert_eq!((&*spec.name, spec.arity, spec.id), ("x|y", -5, CommandId(7)));
        assert_eq!((spec.class, spec.lane), (Class::Pinned, Lane::Bulk));
        assert_eq!((spec.first_key, spec.last_key, spec.key_step), (1, -1, 2));
        assert_eq!(spec.request_policy, RequestPolicy::MultiShard);
        assert_eq!(spec.response_policy, ResponsePolicy::AggSum);
        assert_eq!(spec.key_specs[0].find, FindKeys::Count { index: 0, first: 1, step: 1 });
        assert_eq!(spec.key_specs[1].begin, BeginSearch::Keyword { word: "STORE".into(), from: 5 });
        assert_eq!(spec.key_specs[2].begin, BeginSearch::Unknown);
        assert!(spec.has_many_keys);
    }

    #[test]
    fn lines_that_break_the_rules_are_refused() {
        let good = "x\t7\tg\tshared\tfast\t2\t-\t-\t0,0,0\t-\t-\t-";
        assert!(spec(0, good).is_some());
        for (from, to) in [
            ("shared", "sharp"),
            ("fast", "slow"),
            ("\t2\t", "\ttwo\t"),
            ("0,0,0", "0,0"),
            ("\tg", ""),
        ] {
            assert!(spec(0, &good.replacen(from, to, 1)).is_none(), "{to}");
        }
        for keys in
            ["RO@i1", "RO@x1/r0,1,0", "XX@i1/r0,1,0", "RO@i1/q1", "RO@kA/r0,1,0", "RO@i1/r0,1"]
        {
            assert_eq!(key_spec(keys), None, "{keys}");
        }
        assert_eq!(line_of("nosuchcommand"), None);
        assert_eq!(line_of("ge"), None);
    }
}
