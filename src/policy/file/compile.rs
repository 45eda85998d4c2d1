//! One rule, from what is written to what is matched.
//!
//! Owns the judging of everything but the commands' names and the action: the rule's own name, its
//! keys, clients and shapes, when it ends, what it says. Never reads a file.
//!
//! What surprises: a rule that could never match is an error. Nobody writes one on purpose, and it
//! would look like protection.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use toml::Spanned;
use toml::value::{Datetime, Offset};

use super::action::{self, word_of};
use super::commands::Vocabulary;
use super::{Clock, Read, WrittenRule};
use crate::clock::Micros;
use crate::command::flags::Flags;
use crate::config::checker::{Checker, Place};
use crate::config::quantity::Size;
use crate::config::{Fault, KeyPatterns};
use crate::policy::rule::{Commands, Mode, Origin, Rule, Shape, Who};
use crate::policy::tally::Tally;

/// A list of texts as it is written.
pub(super) type Texts<'t> = Spanned<Vec<Spanned<Cow<'t, str>>>>;

/// A rule. Where something is wrong there is a complaint, and the rule is of no use.
pub(super) fn rule(
    checker: &mut Checker,
    vocabulary: &Vocabulary,
    read: &Read<WrittenRule<'_>>,
    origin: Origin,
    clock: Clock,
) -> Rule {
    let written = &read.written;
    let commands = vocabulary.commands(checker, written.commands.as_ref());
    let shape = shapes(checker, written);
    suits(checker, vocabulary, &commands, &shape, written);
    Rule {
        name: name(checker, read, origin),
        keys: keys(checker, written),
        who: who(checker, written),
        action: action::action(checker, vocabulary, &commands, read),
        mode: mode(checker, written),
        canary: written.canary.as_ref().map_or(100, |percent| percent.get_ref().0),
        expires: expires(checker, written, clock),
        message: message(checker, written),
        tally: Arc::new(Tally::default()),
        origin,
        commands,
        shape,
    }
}

fn name(checker: &mut Checker, read: &Read<WrittenRule<'_>>, origin: Origin) -> Box<str> {
    let written = read.written.name.as_ref();
    let name = name_of(checker, "rule", (written, &read.place));
    if let Some(written) = written.filter(|_| name.starts_with(OURS) && origin != Origin::Catalogue)
    {
        let what = format!("'{name}': names that begin with '{OURS}' are the built-in rules'");
        checker.complain(written, what, "choose another");
    }
    name
}

/// The name of a table of this kind, which begins at that place.
pub(super) fn name_of(
    checker: &mut Checker,
    kind: &str,
    (written, place): (Option<&Spanned<String>>, &Place),
) -> Box<str> {
    let Some(name) = written else {
        let hint = "write name = \"…\": refusals, logs and metrics call it by that";
        checker.miss(place, &format!("a {kind} without a name"), hint);
        return Box::default();
    };
    let text = name.get_ref();
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if text.is_empty() || text.len() > NAME_BYTES_MAX || !text.bytes().all(is_letter) {
        let hint = format!("use letters, digits, '.', '_' and '-', at most {NAME_BYTES_MAX}");
        checker.complain(name, format!("'{text}' cannot be the name of a {kind}"), hint);
    }
    text.as_str().into()
}

/// Longest name of a rule or a keyspace: it is a label of metrics.
const NAME_BYTES_MAX: usize = 64;

/// How the names of the catalogue's rules begin.
const OURS: &str = "guard.";

fn keys(checker: &mut Checker, written: &WrittenRule<'_>) -> Option<KeyPatterns> {
    patterns(checker, written.keys.as_ref())
}

/// Some patterns of keys; `None` if they are absent.
pub(super) fn patterns(checker: &mut Checker, written: Option<&Texts<'_>>) -> Option<KeyPatterns> {
    list(checker, "keys", written, "a pattern as for KEYS").map(Iterator::collect)
}

/// Some texts, none of them empty, and at least one; `None` if the key is absent.
fn list<'a, 't>(
    checker: &mut Checker,
    key: &str,
    written: Option<&'a Texts<'t>>,
    what: &str,
) -> Option<impl Iterator<Item = &'a str> + use<'a, 't>> {
    let written = written?;
    if written.get_ref().is_empty() {
        let hint = format!("leave '{key}' out if it shall not matter");
        checker.complain(written, format!("'{key}' is an empty list, which nothing matches"), hint);
    }
    for empty in written.get_ref().iter().filter(|text| text.get_ref().is_empty()) {
        checker.complain(empty, format!("'{key}' has an empty text"), format!("write {what}"));
    }
    Some(written.get_ref().iter().map(|text| &**text.get_ref()))
}

/// The same, kept one by one.
fn texts(
    checker: &mut Checker,
    key: &str,
    written: Option<&Texts<'_>>,
    what: &str,
) -> Option<Vec<Box<str>>> {
    list(checker, key, written, what).map(|texts| texts.map(Box::from).collect())
}

fn who(checker: &mut Checker, written: &WrittenRule<'_>) -> Option<Who> {
    let listeners = written.listeners.as_ref();
    let address = "a listener's address as the configuration has it";
    let networks = written.networks.iter().flat_map(|networks| networks.get_ref());
    let networks = networks.map(|one| (one, network(one.get_ref())));
    let networks = networks.filter_map(|(place, parsed)| checker.keep(place, parsed)).collect();
    let mut some = |key, written| texts(checker, key, written, "a name or a pattern");
    let who = Who {
        users: some("users", written.users.as_ref()).unwrap_or_default(),
        names: some("client_names", written.client_names.as_ref()).unwrap_or_default(),
        libraries: some("libraries", written.libraries.as_ref()).unwrap_or_default(),
        listeners: texts(checker, "listeners", listeners, address).unwrap_or_default(),
        networks,
    };
    if written.networks.as_ref().is_some_and(|networks| networks.get_ref().is_empty()) {
        texts(checker, "networks", written.networks.as_ref(), "a network");
    }
    (who != Who::default()).then_some(who)
}

/// `10.0.0.0/8`, `fd00::/8`, or one address.
fn network(text: &str) -> Result<(IpAddr, u8), Fault> {
    let fault = || {
        let hint = "write an address and the length of its prefix, as 10.0.0.0/8 or fd00::/8";
        Fault::new(format!("'{text}' is not a network"), hint)
    };
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text, None),
    };
    let written: IpAddr = address.parse().map_err(|_| fault())?;
    let bits = |address: IpAddr| -> u8 { if address.is_ipv4() { 32 } else { 128 } };
    let length =
        length.map_or(Ok(bits(written)), |length| length.parse::<u8>().map_err(|_| fault()))?;
    if length > bits(written) {
        return Err(fault());
    }
    // IPv4 within IPv6 is compared as what it is.
    let address = written.to_canonical();
    let length = length.saturating_sub(bits(written) - bits(address));
    Ok((address, length))
}

fn shapes(checker: &mut Checker, written: &WrittenRule<'_>) -> Vec<Shape> {
    let bytes = |size: &Spanned<Size>| size.get_ref().0 as u64;
    let patterns =
        texts(checker, "pattern", written.pattern.as_ref(), "a pattern of KEYS or SCAN MATCH");
    let mut shapes: Vec<Shape> = [
        written.span_above.as_ref().map(|span| Shape::SpanAbove(bytes(span))),
        written.keys_above.as_ref().map(|keys| Shape::KeysAbove(*keys.get_ref())),
        written.count_above.as_ref().map(|count| Shape::CountAbove(*count.get_ref())),
        written.repeats_above.as_ref().map(|count| Shape::RepeatsAbove(*count.get_ref())),
        written.value_above.as_ref().map(|size| Shape::ValueAbove(bytes(size))),
        written.word.as_ref().map(|word| Shape::Word(word.get_ref().as_str().into())),
        written.no_word.as_ref().map(|word| Shape::NoWord(word.get_ref().as_str().into())),
        patterns.map(Shape::PatternIs),
    ]
    .into_iter()
    .flatten()
    .collect();
    for (key, written, shape) in [
        ("unlimited", &written.unlimited, Shape::Unlimited),
        ("pattern_glob", &written.pattern_glob, Shape::PatternHasGlob),
        ("no_ttl", &written.no_ttl, Shape::NoTtl),
    ] {
        match written.as_ref().map(|written| (written, *written.get_ref())) {
            Some((_, true)) => shapes.push(shape),
            Some((place, false)) => {
                let what = format!("'{key}' can only be true");
                checker.complain(place, what, "leave it out; a rule for the others comes behind");
            }
            None => {}
        }
    }
    shapes
}

/// Complains about commands that are never judged, and about keys and shapes that none of them has.
fn suits(
    checker: &mut Checker,
    vocabulary: &Vocabulary,
    commands: &Commands,
    shapes: &[Shape],
    written: &WrittenRule<'_>,
) {
    let Some(place) = &written.commands else {
        return;
    };
    // Of commands that we do not know nothing can be said.
    let has_foreign = commands.strangers.iter().any(|name| !name.ends_with('|'));
    if has_foreign || !checker.is_whole {
        return;
    }
    let mut some = vocabulary.specs(commands).peekable();
    if some.peek().is_none() {
        return;
    }
    if written.keys.is_some() && !vocabulary.specs(commands).any(|spec| spec.has_keys()) {
        let what = "'keys' can never match: none of these commands has keys";
        checker.complain(place, what, "leave 'keys' out");
    }
    if vocabulary.specs(commands).all(|spec| spec.flags.contains(Flags::NO_AUTH)) {
        let what = "no rule is asked about these commands: they let clients in, or out";
        checker.complain(place, what, "limit who connects by [[listener]] and its users instead");
    }
    for shape in shapes {
        if !vocabulary.specs(commands).any(|spec| shape.suits(spec)) {
            let what = format!("'{}' says nothing about any of these commands", shape.key());
            checker.complain(place, what, "leave it out, or see docs/policy.md for what it is for");
        }
    }
}

fn mode(checker: &mut Checker, written: &WrittenRule<'_>) -> Mode {
    let words = [("enforce", Mode::Enforce), ("observe", Mode::Observe)];
    word_of(checker, "mode", written.mode.as_ref(), &words).unwrap_or_default()
}

/// A rule whose time is over stays in the file until somebody tidies up; it must not keep us from
/// starting.
fn expires(checker: &mut Checker, written: &WrittenRule<'_>, clock: Clock) -> Option<Micros> {
    let written = written.expires.as_ref()?;
    let fault = || {
        let hint = "write it as 2027-01-31T18:00:00Z or 2027-01-31T18:00:00+01:00";
        Fault::new("'expires' needs a date, a time and a time zone", hint)
    };
    let unix = checker.keep(written, unix(written.get_ref()).ok_or_else(fault))?;
    if unix <= i64::try_from(clock.unix).unwrap_or(i64::MAX) {
        checker.note(written, "the time of this rule is over", "it does nothing; remove it");
    }
    Some(clock.when(unix))
}

/// Seconds since 1970.
fn unix(moment: &Datetime) -> Option<i64> {
    let (date, time, offset) = (moment.date?, moment.time?, moment.offset?);
    let minutes = match offset {
        Offset::Z => 0,
        Offset::Custom { minutes } => i64::from(minutes),
    };
    // The year begins in March here, so that a leap day is its last one.
    let (year, month) = (i64::from(date.year), i64::from(date.month));
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    let day_of_year = (153 * month + 2) / 5 + i64::from(date.day) - 1;
    let days = year * 365 + leap_days + day_of_year - DAYS_TO_1970;
    let of_day = i64::from(time.hour) * 3_600 + i64::from(time.minute) * 60;
    Some(days * 86_400 + of_day + i64::from(time.second.unwrap_or_default()) - minutes * 60)
}

/// Days from the first of March of the year 0 to the first of January 1970.
const DAYS_TO_1970: i64 = 719_468;

fn message(checker: &mut Checker, written: &WrittenRule<'_>) -> Option<Box<str>> {
    let message = written.message.as_ref()?;
    let text = message.get_ref();
    if text.chars().any(char::is_control) {
        let what = "'message' holds a line end or another control character";
        checker.complain(message, what, "it is one line of an error");
    }
    if text.is_empty() || text.len() > MESSAGE_BYTES_MAX {
        let hint = format!("say in 1 to {MESSAGE_BYTES_MAX} bytes what to do instead");
        checker.complain(message, "'message' is empty or too long", hint);
    }
    Some(text.as_str().into())
}

/// Longest message: the whole error should fit a line of a log.
const MESSAGE_BYTES_MAX: usize = 300;
