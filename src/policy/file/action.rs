//! What a rule does, from its words.
//!
//! Owns the actions' names, their parameters with bounds and defaults, and which of them go together.
//! Never carries anything out.
//!
//! What surprises: a parameter of another action is an error and not ignored. Who writes a limit means
//! to have one.

use std::fmt::Display;
use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

use toml::Spanned;

use super::commands::Vocabulary;
use super::{Read, WrittenRule};
use crate::config::checker::{Checker, Place, one_of};
use crate::config::quantity::{MINUTE, SECOND, Size, Time, ZERO};
use crate::policy::bounds::questions;
use crate::policy::pace::{Pace, Per};
use crate::policy::rule::{Action, Bound, Commands, Paging, Rewrite};

/// The action of a rule. Where it cannot be told there is a complaint, and the answer is of no use.
pub(super) fn action(
    checker: &mut Checker,
    vocabulary: &Vocabulary,
    commands: &Commands,
    read: &Read<WrittenRule<'_>>,
) -> Action {
    let written = &read.written;
    let Some(word) = &written.action else {
        let hint = "write action = \"deny\", or allow, observe, bound, rewrite or pace";
        checker.miss(&read.place, "a rule without an action", hint);
        return Action::Deny;
    };
    let action = match word.get_ref().as_str() {
        "allow" => Action::Allow,
        "observe" => Action::Observe,
        "deny" => Action::Deny,
        "bound" => Action::Bound(bound(checker, vocabulary, written, word)),
        "rewrite" => Action::Rewrite(rewrite(checker, vocabulary, commands, written, word)),
        "pace" => Action::Pace(Arc::new(pace(checker, written, word))),
        other => {
            let fault = one_of("action", other, &ACTIONS);
            checker.keep(word, Err::<Action, _>(fault)).unwrap_or(Action::Deny)
        }
    };
    if ACTIONS.contains(&word.get_ref().as_str()) {
        only_its_own(checker, written, word.get_ref());
    }
    action
}

/// Every name of an action.
const ACTIONS: [&str; 6] = ["allow", "observe", "bound", "rewrite", "deny", "pace"];

/// The name of a parameter, where it is written, and the actions that it belongs to.
type Parameter<'a> = (&'a str, Option<Range<usize>>, &'a [&'a str]);

/// Complains about the parameters of other actions.
fn only_its_own(checker: &mut Checker, written: &WrittenRule<'_>, action: &str) {
    let parameters: [Parameter<'_>; 16] = [
        ("limit", at(written.limit.as_ref()), &["bound"]),
        ("preflight", at(written.preflight.as_ref()), &["bound"]),
        ("to", at(written.to.as_ref()), &["rewrite"]),
        ("page", at(written.page.as_ref()), &["rewrite"]),
        ("every", at(written.every.as_ref()), &["rewrite"]),
        ("max_bytes", at(written.max_bytes.as_ref()), &["rewrite"]),
        ("max_elements", at(written.max_elements.as_ref()), &["rewrite"]),
        ("count", at(written.count.as_ref()), &["rewrite"]),
        ("batch", at(written.batch.as_ref()), &["rewrite"]),
        ("commands_per_second", at(written.commands_per_second.as_ref()), &["pace"]),
        ("bytes_per_second", at(written.bytes_per_second.as_ref()), &["pace"]),
        ("wait", at(written.wait.as_ref()), &["pace"]),
        ("per", at(written.per.as_ref()), &["pace"]),
        ("key_parts", at(written.key_parts.as_ref()), &["pace"]),
        ("mode", at(written.mode.as_ref()), &RESTRICTING),
        ("canary", at(written.canary.as_ref()), &RESTRICTING),
    ];
    for (name, span, owners) in parameters {
        if let Some(span) = span.filter(|_| !owners.contains(&action)) {
            let what = format!("'{name}' means nothing with action = \"{action}\"");
            let hint = format!("it belongs to {}", owners.join(", "));
            checker.complain(Place::File(span), what, hint);
        }
    }
}

/// Actions that can be tried out: the others restrict nobody.
const RESTRICTING: [&str; 4] = ["bound", "rewrite", "deny", "pace"];

fn at<T>(written: Option<&Spanned<T>>) -> Option<Range<usize>> {
    written.map(Spanned::span)
}

fn bound(
    checker: &mut Checker,
    vocabulary: &Vocabulary,
    written: &WrittenRule<'_>,
    word: &Spanned<String>,
) -> Bound {
    only_measurable(checker, vocabulary, written);
    let limit = match &written.limit {
        Some(limit) => checker.size("limit", limit, Size(1)..=Size(usize::MAX >> 1)) as u64,
        None => {
            checker.miss(word, "a bound without a limit", "write limit = 10000");
            0
        }
    };
    let is_always = word_of(
        checker,
        "preflight",
        written.preflight.as_ref(),
        &[("adaptive", false), ("always", true)],
    );
    Bound { limit, is_always: is_always.unwrap_or_default() }
}

/// Complains about each command that is named and has no size: the rule would let it pass for ever.
/// Of a category those are bounded that can be.
fn only_measurable(checker: &mut Checker, vocabulary: &Vocabulary, written: &WrittenRule<'_>) {
    for name in written.commands.iter().flat_map(|names| names.get_ref()) {
        let spec = vocabulary.find(name.get_ref()).filter(|spec| !spec.is_container);
        if spec.is_some_and(|spec| !questions::can_measure(spec)) {
            let what = format!("'{}' cannot be bounded", name.get_ref());
            checker.complain(
                name,
                what,
                "nothing tells its size before it runs; use deny or pace, or see docs/policy.md for those that can be",
            );
        }
    }
}

/// What may stand in `to`, and for which commands.
const TARGETS: [(&str, &[&str]); 5] = [
    ("unlink", &["del"]),
    ("async", &["flushall", "flushdb"]),
    ("scan", &["keys", "hgetall", "smembers"]),
    ("clamp", &["scan", "hscan", "sscan", "zscan"]),
    ("batch", &["mget", "exists", "touch", "del", "unlink"]),
];

fn rewrite(
    checker: &mut Checker,
    vocabulary: &Vocabulary,
    commands: &Commands,
    written: &WrittenRule<'_>,
    word: &Spanned<String>,
) -> Rewrite {
    let known = TARGETS.map(|(name, _)| name);
    let Some(to) = &written.to else {
        let hint = format!("write to = \"…\": {}", known.join(", "));
        checker.miss(word, "a rewrite that does not say to what", &hint);
        return Rewrite::Unlink;
    };
    let Some((target, fitting)) = TARGETS.into_iter().find(|(name, _)| name == to.get_ref()) else {
        let fault = one_of("rewrite", to.get_ref(), &known);
        return checker.keep(to, Err::<Rewrite, _>(fault)).unwrap_or(Rewrite::Unlink);
    };
    rewritable(checker, vocabulary, commands, written, to, fitting);
    only_of_its_target(checker, written, target);
    let count = ranged(checker, "count", written.count.as_ref(), 1_000, 1..=1_000_000);
    let batch = ranged(checker, "batch", written.batch.as_ref(), 100, 1..=10_000);
    match target {
        "unlink" => Rewrite::Unlink,
        "async" => Rewrite::Async,
        "clamp" => Rewrite::ClampCount(count),
        "batch" => Rewrite::Batch(batch),
        _ => Rewrite::Scan(paging(checker, written)),
    }
}

/// Complains unless all commands of the rule can be rewritten in this way.
fn rewritable(
    checker: &mut Checker,
    vocabulary: &Vocabulary,
    commands: &Commands,
    written: &WrittenRule<'_>,
    to: &Spanned<String>,
    fitting: &[&str],
) {
    let names = fitting.join(", ").to_uppercase();
    let hint = format!("this rewrite is for {names}");
    let Some(place) = &written.commands else {
        return checker.complain(to, "a rewrite without commands", hint);
    };
    let other = vocabulary.specs(commands).find(|spec| !fitting.contains(&&*spec.name));
    let other = other.map(|spec| &*spec.name);
    if let Some(name) = other.or(commands.strangers.first().map(|name| &**name)) {
        let what = format!("'{name}' cannot be rewritten to '{}'", to.get_ref());
        checker.complain(place, what, hint);
    }
}

/// Complains about the parameters of other rewrites.
fn only_of_its_target(checker: &mut Checker, written: &WrittenRule<'_>, target: &str) {
    let parameters = [
        ("page", at(written.page.as_ref()), "scan"),
        ("every", at(written.every.as_ref()), "scan"),
        ("max_bytes", at(written.max_bytes.as_ref()), "scan"),
        ("max_elements", at(written.max_elements.as_ref()), "scan"),
        ("count", at(written.count.as_ref()), "clamp"),
        ("batch", at(written.batch.as_ref()), "batch"),
    ];
    for (name, span, owner) in parameters {
        if let Some(span) = span.filter(|_| owner != target) {
            let what = format!("'{name}' means nothing with to = \"{target}\"");
            checker.complain(Place::File(span), what, format!("it belongs to to = \"{owner}\""));
        }
    }
}

/// A page blocks the server for a fraction of a millisecond, and as long again others have it.
fn paging(checker: &mut Checker, written: &WrittenRule<'_>) -> Paging {
    let bytes = written.max_bytes.as_ref();
    let bytes = ranged(checker, "max_bytes", bytes, Size(16 << 20), Size(1 << 10)..=Size(1 << 30));
    let every = ranged(checker, "every", written.every.as_ref(), Time::ms(1), ZERO..=SECOND);
    let elements = written.max_elements.as_ref();
    Paging {
        page: ranged(checker, "page", written.page.as_ref(), 500, 1..=10_000),
        every: every.0,
        max_bytes: bytes.0,
        max_elements: ranged(checker, "max_elements", elements, 1_000_000, 1..=100_000_000),
    }
}

fn pace(checker: &mut Checker, written: &WrittenRule<'_>, word: &Spanned<String>) -> Pace {
    let (commands, bytes) = (&written.commands_per_second, &written.bytes_per_second);
    if commands.is_none() && bytes.is_none() {
        let hint = "write commands_per_second = 100, bytes_per_second = \"10MiB\" or both";
        checker.miss(word, "a pace without a rate", hint);
    }
    let commands =
        commands.as_ref().map(|rate| checker.bounded("commands_per_second", rate, 1..=RATE_MAX));
    let sizes = Size(1)..=Size(1 << 40);
    let bytes = bytes.as_ref().map(|rate| checker.size("bytes_per_second", rate, sizes) as u64);
    let wait = ranged(checker, "wait", written.wait.as_ref(), ZERO, ZERO..=MINUTE);
    let parts = ranged(checker, "key_parts", written.key_parts.as_ref(), 1, 1..=KEY_PARTS_MAX);
    let words = [
        ("rule", Per::Rule),
        ("client", Per::Client),
        ("user", Per::User),
        ("key_prefix", Per::KeyPrefix(parts)),
    ];
    let per = word_of(checker, "per", written.per.as_ref(), &words).unwrap_or_default();
    if let Some(place) = written.key_parts.as_ref().filter(|_| per != Per::KeyPrefix(parts)) {
        let what = "'key_parts' means nothing here";
        checker.complain(place, what, "it belongs to per = \"key_prefix\"");
    }
    Pace::new(commands, bytes, wait.0, per)
}

/// More parts than keys have.
const KEY_PARTS_MAX: u8 = 8;

/// More than any server answers.
const RATE_MAX: u64 = 100_000_000;

/// The value of a key in its range, or its default.
fn ranged<T: PartialOrd + Display + Copy>(
    checker: &mut Checker,
    key: &str,
    written: Option<&Spanned<T>>,
    default: T,
    range: RangeInclusive<T>,
) -> T {
    written.map_or(default, |written| checker.bounded(key, written, range))
}

/// What one of some words means; `None` if it is absent, or complained about.
pub(super) fn word_of<T: Clone>(
    checker: &mut Checker,
    key: &str,
    written: Option<&Spanned<String>>,
    words: &[(&str, T)],
) -> Option<T> {
    let written = written?;
    let found = words.iter().find(|(word, _)| word == written.get_ref());
    let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
    let found = found.map(|(_, meaning)| meaning.clone());
    checker.keep(written, found.ok_or_else(|| one_of(key, written.get_ref(), &known)))
}
