//! A policy file rule by rule, as long as nothing is wrong with it.
//!
//! Owns the cutting of a text at its lines `[[rule]]`. One rule's tree is gone before the next one's is
//! made, so thousands of rules need the memory of one, and between two of them others may have the
//! processor. Never complains: where anything is wrong the text is read again as a whole, which knows
//! every complaint and its place.
//!
//! What surprises: pieces that are right one by one are right together. What TOML lets reach over the
//! end of a line, a list or a long text, is unfinished in the piece in which it begins.

use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;

use memchr::memmem;
use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Deserializer};

use super::commands::Vocabulary;
use super::{Clock, RULES_MAX, Read, Rules, WrittenRule, compile};
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
    let mut rules = Vec::new();
    let mut starts = starts(&source.text).peekable();
    // What stands before the first rule may only be comment: a list of rules there would go on here.
    let head = source.text.get(..starts.peek().copied()?)?;
    if !DeTable::parse(head).ok()?.get_ref().is_empty() {
        return None;
    }
    while let Some(start) = starts.next() {
        let end = starts.peek().copied().unwrap_or(source.text.len());
        checker.offset = start;
        for read in read(source.text.get(start..end)?)? {
            rules.push(Arc::new(compile::rule(&mut checker, &vocabulary, &read?, origin, clock)));
        }
        if !checker.complaints.is_empty() || rules.len() > RULES_MAX {
            return None;
        }
        pause();
    }
    let mut names = HashSet::with_capacity(rules.len());
    let are_unique = rules.iter().all(|rule| names.insert(&*rule.name));
    are_unique.then(|| Rules { notes: checker.notes, rules })
}

/// Where the lines begin that begin a rule.
fn starts(text: &str) -> impl Iterator<Item = usize> {
    let first = text.starts_with(HEADER).then_some(0);
    let others = memmem::find_iter(text.as_bytes(), LINE_WITH_HEADER).map(|end| end + 1);
    first.into_iter().chain(others)
}

const HEADER: &str = "[[rule]]";

/// The end of a line, and the next one's beginning.
const LINE_WITH_HEADER: &str = "\n[[rule]]";

/// The rules of a piece in which nothing else stands.
fn read(piece: &str) -> Option<impl Iterator<Item = Option<Read>>> {
    let mut tree = DeTable::parse(piece).ok()?.into_inner();
    let rules = tree.remove("rule")?.into_inner();
    match rules {
        DeValue::Array(rules) if tree.is_empty() => Some(rules.into_iter().map(one)),
        _ => None,
    }
}

fn one(rule: Spanned<DeValue<'_>>) -> Option<Read> {
    let span = rule.span();
    let DeValue::Table(mut table) = rule.into_inner() else {
        return None;
    };
    let keys = match table.remove("keys") {
        Some(keys) => Some(texts(keys)?),
        None => None,
    };
    let from = Deserializer::from(Spanned::new(span.clone(), table));
    let Table(written): Table<WrittenRule> = Table::deserialize(from).ok()?;
    let written = WrittenRule { keys, ..written };
    Some(Read { written, place: Place::File(span), is_whole: true })
}

/// A list of texts. There may be tens of thousands, and serde takes its time for each that wants its
/// place.
fn texts(list: Spanned<DeValue<'_>>) -> Option<Spanned<Vec<Spanned<String>>>> {
    let span = list.span();
    let DeValue::Array(list) = list.into_inner() else {
        return None;
    };
    let one = |text: Spanned<DeValue<'_>>| match (text.span(), text.into_inner()) {
        (span, DeValue::String(text)) => Some(Spanned::new(span, text.into_owned())),
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

        const LINES: [&str; 14] = [
            "[[rule]]",
            " [[rule]]",
            "[[rule]] # \"\"\"",
            "[[ rule ]]",
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
                    prop_assert!(carried_over(&whole.rules, &pieces.rules).1.is_empty());
                    prop_assert_eq!(whole.rules.len(), pieces.rules.len());
                }
            }
        }
    }
}
