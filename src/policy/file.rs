//! A policy file as it is written: `[[rule]]` and `[[keyspace]]` tables, from text to what they mean.
//!
//! Owns the names of the keys and the order of things: the text is parsed once, each table is read and
//! judged by itself, and all complaints come at once, each with its line and column. What a rule's
//! words mean is in [`commands`], [`action`] and [`compile`], a keyspace's in [`keyspaces`]. A file
//! without faults is read piece by piece ([`pieces`]), plain rules without a tree ([`plain`]). Never asks
//! a server, and knows nothing of the listeners and users of this proxy.
//!
//! What surprises: the catalogue is such a file too. What an operator cannot write, we cannot either.

mod action;
mod commands;
mod compile;
mod keyspaces;
mod pieces;
mod plain;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::ops::Range;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue};
use toml::value::Datetime;

use super::Pause;
use super::keyspace::Keyspace;
use super::rule::{Origin, Rule};
use crate::clock::{self, Micros};
use crate::config::checker::{Checker, Place};
use crate::config::quantity::{Percent, Size, Time};
use crate::config::source::{Source, Words};
use crate::config::table::Table;
use crate::config::{CONFIGURATION_KEYS, Complaint, Fault};
use commands::Vocabulary;
use compile::Texts;

/// Longest policy file in bytes: a hundred thousand patterns are a fifth of it.
pub const FILE_BYTES_MAX: usize = 16 << 20;

/// Most rules of a policy, and most keyspaces. Each rule has its place in the plan of each command that
/// it speaks of.
pub const RULES_MAX: usize = 20_000;

/// The rules of a file and its keyspaces, each in its order.
#[derive(Debug, Default)]
pub struct Rules {
    /// At least as many as are in force: those whose time is over are among them.
    pub rules: Vec<Arc<Rule>>,
    /// All of them.
    pub keyspaces: Vec<Arc<Keyspace>>,
    /// What is allowed but deserves a warning.
    pub notes: Vec<Complaint>,
}

/// The two clocks at one moment: rules end by the wall clock, commands are judged by ours.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// Ours.
    pub now: Micros,
    /// Seconds of the wall clock since 1970.
    pub unix: u64,
}

/// `[[rule]]`. Its lists stay in the text where they can: there may be tens of thousands of keys.
#[derive(Default, Deserialize)]
#[cfg_attr(test, derive(Debug))]
#[serde(default, deny_unknown_fields)]
struct WrittenRule<'t> {
    name: Option<Spanned<String>>,
    commands: Option<Texts<'t>>,
    keys: Option<Texts<'t>>,
    listeners: Option<Texts<'t>>,
    users: Option<Texts<'t>>,
    networks: Option<Texts<'t>>,
    client_names: Option<Texts<'t>>,
    libraries: Option<Texts<'t>>,
    span_above: Option<Spanned<Size>>,
    keys_above: Option<Spanned<usize>>,
    count_above: Option<Spanned<u64>>,
    repeats_above: Option<Spanned<u64>>,
    unlimited: Option<Spanned<bool>>,
    pattern_glob: Option<Spanned<bool>>,
    pattern: Option<Texts<'t>>,
    value_above: Option<Spanned<Size>>,
    no_ttl: Option<Spanned<bool>>,
    word: Option<Spanned<String>>,
    no_word: Option<Spanned<String>>,
    action: Option<Spanned<String>>,
    limit: Option<Spanned<Size>>,
    preflight: Option<Spanned<String>>,
    to: Option<Spanned<String>>,
    page: Option<Spanned<u64>>,
    every: Option<Spanned<Time>>,
    max_bytes: Option<Spanned<Size>>,
    max_elements: Option<Spanned<u64>>,
    count: Option<Spanned<u64>>,
    batch: Option<Spanned<usize>>,
    commands_per_second: Option<Spanned<u64>>,
    bytes_per_second: Option<Spanned<Size>>,
    wait: Option<Spanned<Time>>,
    per: Option<Spanned<String>>,
    key_parts: Option<Spanned<u8>>,
    mode: Option<Spanned<String>>,
    canary: Option<Spanned<Percent>>,
    expires: Option<Spanned<Datetime>>,
    message: Option<Spanned<String>>,
}

/// What else may stand at the top: nothing.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct WrittenPolicy {
    /// Taken out before; here for the list of keys that are known.
    #[serde(rename = "rule")]
    _rule: Option<serde::de::IgnoredAny>,
    /// The same.
    #[serde(rename = "keyspace")]
    _keyspace: Option<serde::de::IgnoredAny>,
}

/// What is said of keys that are none here.
const WORDS: Words = Words {
    top: &[],
    elsewhere: &[
        ("rule.read_from", "it belongs into a [[keyspace]]"),
        ("keyspace.action", "it belongs into a [[rule]]"),
        ("keyspace.commands", "a keyspace is for all commands; a [[rule]] may name some"),
        ("keyspace.collapse", LATER),
        ("keyspace.lease", LATER),
        ("keyspace.near_cache", LATER),
        ("keyspace.refresh_ahead", LATER),
        ("keyspace.stale_on_error", LATER),
        ("keyspace.ttl_jitter", LATER),
        ("keyspace.outstanding_max", LATER),
        ("keyspace.idempotent_writes", LATER),
        ("profile", BELONGS_TO_CONFIGURATION),
        ("policy", BELONGS_TO_CONFIGURATION),
        ("listener", BELONGS_TO_CONFIGURATION),
        ("upstream", BELONGS_TO_CONFIGURATION),
        ("admin", BELONGS_TO_CONFIGURATION),
        ("log", BELONGS_TO_CONFIGURATION),
    ],
};

/// Said of what keyspaces are to have: nobody shall look for a slip of the keyboard.
const LATER: &str = "this build does not have it";

const BELONGS_TO_CONFIGURATION: &str = "it belongs into the configuration, breakwater.toml";

/// What leads to a policy file.
const POLICY: &str = "--policy (BREAKWATER_POLICY)";

/// One table, read and still to be judged.
struct Read<T> {
    written: T,
    /// Where it begins, for what is missing.
    place: Place,
    /// Its form was right, so what is absent really is.
    is_whole: bool,
}

/// All tables of a text.
#[derive(Default)]
struct Tables {
    rules: Vec<Read<WrittenRule<'static>>>,
    keyspaces: Vec<Read<keyspaces::WrittenKeyspace>>,
}

/// Whether a file is a policy and no configuration: it has rules or keyspaces, or is called `policy…`,
/// and has nothing that only a configuration has.
#[must_use]
pub fn is_policy(path: &Path) -> bool {
    let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
    let is_named = name.starts_with("policy");
    let Ok(source) = open(path) else {
        return is_named;
    };
    // Even of a text with errors, the tables that could be read tell what it is meant to be.
    let (tree, _) = DeTable::parse_recoverable(&source.text);
    let has = |key: &str| tree.get_ref().contains_key(key);
    (is_named || has("rule") || has("keyspace")) && !CONFIGURATION_KEYS.into_iter().any(has)
}

/// The rules of a file.
///
/// # Errors
/// Every complaint about it, in its order.
pub fn load(path: &Path, clock: Clock) -> Result<Rules, Vec<Complaint>> {
    let source = open(path).map_err(|complaint| vec![complaint])?;
    judged(source, Origin::File, clock, &mut || ())
}

/// The text of a file, unread.
pub(crate) fn open(path: &Path) -> Result<Source, Complaint> {
    Source::open(path, FILE_BYTES_MAX, POLICY)
}

/// The rules of a text that is called `name` in complaints.
///
/// # Errors
/// Every complaint about it, in its order.
pub fn parse(
    name: &str,
    text: &str,
    origin: Origin,
    clock: Clock,
) -> Result<Rules, Vec<Complaint>> {
    judged(Source::new(name.to_owned(), text.to_owned()), origin, clock, &mut || ())
}

/// The rules of a text.
pub(super) fn judged(
    source: Source,
    origin: Origin,
    clock: Clock,
    pause: Pause<'_>,
) -> Result<Rules, Vec<Complaint>> {
    let source = Rc::new(source);
    match pieces::rules(&source, origin, clock, pause) {
        Some(rules) => Ok(rules),
        None => as_a_whole(&source, origin, clock),
    }
}

/// The rules of a text of which nothing is known, or all that is wrong with it.
fn as_a_whole(source: &Rc<Source>, origin: Origin, clock: Clock) -> Result<Rules, Vec<Complaint>> {
    let (read, complaints) = read(source)?;
    let mut checker = Checker::new(Some(Rc::clone(source)), complaints);
    too_many(&mut checker, &read.rules, ("rules", "one rule may have many commands and keys"));
    too_many(&mut checker, &read.keyspaces, ("keyspaces", "one keyspace may have many keys"));
    let vocabulary = Vocabulary::new();
    let mut names = HashMap::new();
    let mut rules = Vec::with_capacity(read.rules.len());
    for read in read.rules.iter().take(RULES_MAX) {
        checker.is_whole = read.is_whole;
        unique(&mut checker, &mut names, ("rule", read.written.name.as_ref()));
        rules.push(Arc::new(compile::rule(&mut checker, &vocabulary, read, origin, clock)));
    }
    let mut names = HashMap::new();
    let mut keyspaces = Vec::with_capacity(read.keyspaces.len());
    for read in read.keyspaces.iter().take(RULES_MAX) {
        checker.is_whole = read.is_whole;
        unique(&mut checker, &mut names, ("keyspace", read.written.name.as_ref()));
        keyspaces.push(Arc::new(keyspaces::keyspace(&mut checker, read)));
    }
    let Checker { mut complaints, notes, .. } = checker;
    if complaints.is_empty() {
        return Ok(Rules { rules, keyspaces, notes });
    }
    complaints.sort_by_key(|complaint| complaint.position);
    Err(complaints)
}

/// Complains about the first table beyond [`RULES_MAX`] of its kind.
fn too_many<T>(checker: &mut Checker, read: &[Read<T>], (kind, hint): (&str, &str)) {
    if let Some(beyond) = read.get(RULES_MAX) {
        let what = format!("{} {kind} are more than {RULES_MAX}", read.len());
        checker.complain(&beyond.place, what, hint);
    }
}

/// Refusals, logs and metrics tell rules apart by their names, and keyspaces.
fn unique<'a>(
    checker: &mut Checker,
    names: &mut HashMap<&'a str, usize>,
    (kind, name): (&str, Option<&'a Spanned<String>>),
) {
    let Some(name) = name else {
        return;
    };
    if let Some(first) = names.insert(name.get_ref(), name.span().start) {
        let line = checker.line_of(first);
        let what = format!("'{}' is the name of another {kind} already", name.get_ref());
        checker.complain(name, what, format!("see line {line}; each {kind} has a name of its own"));
    }
}

/// All tables of the text, with what is wrong with their form. A text that is no TOML has none.
fn read(source: &Source) -> Result<(Tables, Vec<Complaint>), Vec<Complaint>> {
    let mut tree = source.tree()?;
    let rules = tree.get_mut().remove("rule");
    let keyspaces = tree.get_mut().remove("keyspace");
    let (WrittenPolicy { .. }, mut complaints) = source.read(tree, "", &WORDS);
    let tables = Tables {
        rules: all(source, "rule", rules, &mut complaints),
        keyspaces: all(source, "keyspace", keyspaces, &mut complaints),
    };
    Ok((tables, complaints))
}

/// The tables of one kind.
fn all<T: DeserializeOwned + Default>(
    source: &Source,
    kind: &str,
    list: Option<Spanned<DeValue<'_>>>,
    complaints: &mut Vec<Complaint>,
) -> Vec<Read<T>> {
    let complain = |span: Range<usize>, found: &str| {
        let what = format!("'{kind}' is {found}");
        let hint = format!("write each {kind} below a line [[{kind}]]");
        source.complain_at(Some(span), Fault::new(what, hint))
    };
    let mut read = Vec::new();
    let Some(list) = list else {
        return read;
    };
    let span = list.span();
    let DeValue::Array(list) = list.into_inner() else {
        complaints.push(complain(span, "no list"));
        return read;
    };
    for table in list {
        let span = table.span();
        let DeValue::Table(table) = table.into_inner() else {
            complaints.push(complain(span, "no table"));
            continue;
        };
        read.push(one(source, kind, Spanned::new(span, table), complaints));
    }
    read
}

/// One table.
fn one<T: DeserializeOwned + Default>(
    source: &Source,
    kind: &str,
    table: Spanned<DeTable<'_>>,
    complaints: &mut Vec<Complaint>,
) -> Read<T> {
    let place = Place::File(table.span());
    let (written, wrong): (Table<T>, _) = source.read(table, kind, &WORDS);
    let is_whole = wrong.is_empty();
    complaints.extend(wrong);
    Read { written: written.0, place, is_whole }
}

// === impl Clock ===

impl Clock {
    /// Both, where ours says `now`.
    #[must_use]
    pub fn at(now: Micros) -> Self {
        Self { now, unix: clock::unix_seconds() }
    }

    /// What ours says when the wall clock says `unix`; the past is no time at all.
    fn when(self, unix: i64) -> Micros {
        let seconds = unix.saturating_sub(i64::try_from(self.unix).unwrap_or(i64::MAX));
        self.now.saturating_add_signed(seconds.saturating_mul(clock::SECOND as i64))
    }
}

#[cfg(test)]
mod tests;
