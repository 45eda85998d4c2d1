//! A policy file rule by rule, as long as nothing is wrong with it.
//!
//! Owns the cutting of a text at its lines `[[rule]]` and `[[keyspace]]`. One rule's tree is gone before the next one's is
//! made, so thousands of rules need the memory of one, and between two of them others may have the
//! processor. Never complains: where anything is wrong the text is read again as a whole, which knows
//! every complaint and its place.
//!
//! What surprises: pieces that are right one by one are right together. What TOML lets reach over the
//! end of a line, a list or a long text, is unfinished in the piece in which it begins.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;

use memchr::memmem;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Deserializer};

use super::commands::Vocabulary;
use super::compile::Texts;
use super::{Clock, RULES_MAX, Read, Rules, Tables, WrittenRule, compile, keyspaces, plain};
use crate::config::checker::{Checker, Place};
use crate::config::source::Source;
use crate::config::table::Table;
use crate::policy::Pause;
use crate::policy::rule::Origin;

/// The rules of a text in which nothing is wrong; `None`: something is, or it is written in a way that
/// is read as a whole.
pub(super) fn rules(
    source: &Rc<Source>,
    origin: Origin,
    clock: Clock,
    pause: Pause<'_>,
) -> Option<Rules> {
    let mut checker = Checker::new(Some(Rc::clone(source)), Vec::new());
    let vocabulary = Vocabulary::new();
    let (mut rules, mut keyspaces) = (Vec::new(), Vec::new());
    let mut starts = starts(&source.text).peekable();
    // What stands before the first rule may only be comment: a list of rules there would go on here.
    let head = source.text.get(..starts.peek().copied()?)?;
    if !DeTable::parse(head).ok()?.get_ref().is_empty() {
        return None;
    }
    while let Some(start) = starts.next() {
        let end = starts.peek().copied().unwrap_or(source.text.len());
        checker.offset = start;
        let piece = source.text.get(start..end)?;
        let mut compiled =
            |read: &_| Arc::new(compile::rule(&mut checker, &vocabulary, read, origin, clock));
        // Nearly all rules of a large file go this way, and nearly all of a reload's time went the other.
        if let Some(read) = plain::rule(piece) {
            rules.push(compiled(&read));
        } else {
            // The tree of this piece is gone with this line; what is left are the values of its tables.
            let read = read(piece)?;
            rules.extend(read.rules.iter().map(compiled));
            let keyspace = |read| Arc::new(keyspaces::keyspace(&mut checker, read));
            keyspaces.extend(read.keyspaces.iter().map(keyspace));
        }
        // What has been complained about here would lack its neighbours, and their complaints.
        if !checker.complaints.is_empty() || rules.len().max(keyspaces.len()) > RULES_MAX {
            return None;
        }
        pause();
    }
    // A name may come again anywhere in the file, so this is seen when all of it is there.
    let is_right = are_unique(rules.iter().map(|rule| &*rule.name))
        && are_unique(keyspaces.iter().map(|keyspace| &*keyspace.name));
    is_right.then(|| Rules { notes: checker.notes, rules, keyspaces })
}

/// Whether no name comes twice.
fn are_unique<'a>(mut names: impl Iterator<Item = &'a str>) -> bool {
    let mut known = foldhash::HashSet::default();
    names.all(|name| known.insert(name))
}

/// Where the lines begin that begin a table of a list.
fn starts(text: &str) -> impl Iterator<Item = usize> {
    let first = is_header(text).then_some(0);
    let others = memmem::find_iter(text.as_bytes(), "\n[[").map(|end| end + 1);
    first.into_iter().chain(others.filter(|start| text.get(*start..).is_some_and(is_header)))
}

/// Whether a line begins a rule or a keyspace. Spelled otherwise (`[[ rule ]]`) it is no place to cut:
/// then its table is read with the piece before it, or the text as a whole.
fn is_header(text: &str) -> bool {
    text.starts_with("[[rule]]") || text.starts_with("[[keyspace]]")
}

/// The tables of a piece in which nothing else stands.
pub(super) fn read(piece: &str) -> Option<Tables> {
    let mut tree = DeTable::parse(piece).ok()?.into_inner();
    let (rules, keyspaces) = (tree.remove("rule"), tree.remove("keyspace"));
    let is_all = tree.is_empty();
    let tables = Tables { rules: all(rules, rule)?, keyspaces: all(keyspaces, one)? };
    is_all.then_some(tables)
}

/// The tables of one kind, if they are a list of them.
fn all<T>(
    list: Option<Spanned<DeValue<'_>>>,
    one: impl Fn(Spanned<DeTable<'_>>) -> Option<Read<T>>,
) -> Option<Vec<Read<T>>> {
    // Written as one value (`rule = [...]`) it stands in the head, where nothing may stand, or behind
    // the header of a rule, where it is a key that no rule has.
    let tables = match list.map(Spanned::into_inner) {
        Some(DeValue::Array(tables)) => tables,
        Some(_) => return None,
        None => return Some(Vec::new()),
    };
    let tables = tables.into_iter().map(|table| match (table.span(), table.into_inner()) {
        (span, DeValue::Table(table)) => one(Spanned::new(span, table)),
        _ => None,
    });
    tables.collect()
}

/// A rule, whose keys serde does not see.
fn rule(mut table: Spanned<DeTable<'_>>) -> Option<Read<WrittenRule<'static>>> {
    let keys = match table.get_mut().remove("keys") {
        Some(keys) => Some(texts(keys)?),
        None => None,
    };
    let read: Read<WrittenRule<'static>> = one(table)?;
    Some(Read { written: WrittenRule { keys, ..read.written }, ..read })
}

/// A table of any kind. Its copy is not kept: where it cannot be read, the text is parsed again.
fn one<T: DeserializeOwned>(table: Spanned<DeTable<'_>>) -> Option<Read<T>> {
    let place = Place::File(table.span());
    let Table(written) = Table::deserialize(Deserializer::from(table)).ok()?;
    Some(Read { written, place, is_whole: true })
}

/// A list of texts. There may be tens of thousands, and serde takes its time for each that wants its
/// place.
fn texts(list: Spanned<DeValue<'_>>) -> Option<Texts<'static>> {
    let span = list.span();
    let DeValue::Array(list) = list.into_inner() else {
        return None;
    };
    let one = |text: Spanned<DeValue<'_>>| match (text.span(), text.into_inner()) {
        (span, DeValue::String(text)) => Some(Spanned::new(span, Cow::Owned(text.into_owned()))),
        _ => None,
    };
    let texts: Option<Vec<_>> = list.into_iter().map(one).collect();
    texts.map(|texts| Spanned::new(span, texts))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::diff::carried_over;
    use crate::policy::file::as_a_whole;

    const CLOCK: Clock = Clock { now: 0, unix: 0 };

    fn source(text: &str) -> Rc<Source> {
        Rc::new(Source::new("p".to_owned(), text.to_owned()))
    }

    fn in_pieces(text: &str) -> Option<Rules> {
        rules(&source(text), Origin::File, CLOCK, &mut || ())
    }

    fn rule(number: u32) -> String {
        format!(
            "[[rule]]\nname = \"r{number}\"\nkeys = [\n  \"a\",\n  \"b*\",\n]\naction = \"deny\"\n"
        )
    }

    #[test]
    fn others_have_a_turn_after_each_rule() {
        let text: String = (0..5).map(rule).collect();
        let mut turns = 0;
        let rules = rules(&source(&text), Origin::File, CLOCK, &mut || turns += 1).unwrap();
        assert_eq!((rules.rules.len(), turns), (5, 5));
    }

    #[test]
    fn a_note_has_its_place_in_the_whole_file() {
        let text = format!("# first\n{}{}expires = 1970-01-01T00:00:00Z\n", rule(1), rule(2));
        let notes = in_pieces(&text).unwrap().notes;
        assert_eq!(notes[0].to_string().split(": ").next(), Some("p:16:11"));
        assert_eq!(notes, as_a_whole(&source(&text), Origin::File, CLOCK).unwrap().notes);
    }

    #[test]
    fn what_is_wrong_or_strange_is_left_to_the_reading_as_a_whole() {
        let rule = rule(1);
        for text in [
            String::new(),
            "rule = []\n".to_owned(),
            format!("rule = []\n{rule}"),
            format!("x = 1\n{rule}"),
            format!("{rule}{rule}"),
            format!("{rule}[other]\n"),
            format!("{rule}x = 1\n"),
            format!("{rule}message = \"\"\"\n{rule}\"\"\"\n"),
            format!("[[rule]]\nkeys = [\n{rule}]\n"),
            format!("{rule}[[rule]]\n"),
            format!(" {rule}"),
        ] {
            assert!(in_pieces(&text).is_none(), "{text}");
        }
    }

    mod properties {
        use super::*;
        use proptest::prelude::*;

        const LINES: [&str; 15] = [
            "[[rule]]",
            " [[rule]]",
            "[[rule]] # \"\"\"",
            "[[ rule ]]",
            "[[keyspace]]",
            "[rule]",
            "[rule.x]",
            "[other]",
            "action = \"deny\"",
            "message = \"\"\"a",
            "\"\"\"",
            "keys = [",
            "]",
            "\"b*\",",
            "# '''",
        ];

        proptest! {
            /// Whatever is written, the pieces say what the whole says, or nothing.
            #[test]
            fn the_pieces_say_what_the_whole_says(
                lines in prop::collection::vec((0..LINES.len(), 0..4_u32), 1..16),
            ) {
                let mut text = String::new();
                for (line, name) in lines {
                    text.push_str(LINES[line]);
                    text.push('\n');
                    if line < 4 && name > 0 {
                        text.push_str(&format!("name = \"n{name}\"\naction = \"deny\"\n"));
                    }
                }
                if let Some(pieces) = in_pieces(&text) {
                    let whole = as_a_whole(&source(&text), Origin::File, CLOCK);
                    let whole = whole.expect("what is right in pieces is right as a whole");
                    prop_assert!(carried_over(&whole.rules, &pieces.rules, &mut || ()).1.is_empty());
                    prop_assert_eq!(whole.rules.len(), pieces.rules.len());
                }
            }
        }
    }
}
