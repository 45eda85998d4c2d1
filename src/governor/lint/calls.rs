//! Which commands a script calls, as far as it names them literally.
//!
//! Owns the reading of `redis.call('SET', …)` and its kin, also through a local name for it
//! (`local call = redis.call`, a common habit). Never looks at what is computed: of such a call only
//! the words in front of the first computed (or very long) one are known, which [`Call::is_whole`] tells.

use std::borrow::Cow;

use super::super::lexer::{Kind, Lexer};
use crate::config::Position;

/// A command that a script calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Its words up to the first one that is not literal; at least the name.
    pub words: Vec<Vec<u8>>,
    /// Whether those are all.
    pub is_whole: bool,
    /// Where it stands.
    pub position: Position,
}

/// Other names for `redis.call`.
#[derive(Debug, Default)]
pub(super) struct Aliases<'a> {
    names: Vec<&'a [u8]>,
    /// The name that would become another one, if this is `NAME = redis.call`.
    candidate: Option<&'a [u8]>,
}

// === impl Call ===

impl Call {
    /// The command's name, in lower case.
    #[must_use]
    pub fn name(&self) -> String {
        let name = self.words.first().map(Vec::as_slice).unwrap_or_default();
        String::from_utf8_lossy(name).to_ascii_lowercase()
    }
}

// === impl Aliases ===

impl<'a> Aliases<'a> {
    /// The call that begins with this name, which `lexer` stands behind.
    pub(super) fn read(
        &mut self,
        name: &'a [u8],
        position: Position,
        lexer: &Lexer<'a>,
    ) -> Option<Call> {
        let mut ahead = lexer.clone();
        if matches!(name, b"redis" | b"server") {
            let is_call = is_call(&mut ahead);
            let alias = self.candidate.take();
            if !is_call {
                return None;
            }
            let call = arguments(&mut ahead, position);
            if call.is_none() && self.names.len() < ALIASES_MAX {
                self.names.extend(alias);
            }
            return call;
        }
        let is_assigned = ahead.clone().next().is_some_and(|token| token.kind.is_symbol("="));
        self.candidate = is_assigned.then_some(name);
        match self.names.contains(&name) {
            true => arguments(&mut ahead, position),
            false => None,
        }
    }
}

/// Whether `.call`, `.pcall` or `["call"]` is next; it is passed over.
fn is_call(ahead: &mut Lexer<'_>) -> bool {
    let Some(first) = ahead.next() else {
        return false;
    };
    let word = ahead.next().map(|token| token.kind);
    match (first.kind, word) {
        (Kind::Symbol("."), Some(Kind::Name(name))) => CALLS.contains(&name),
        (Kind::Symbol("["), Some(Kind::Text(name))) => {
            CALLS.contains(&&*name) && ahead.next().is_some_and(|token| token.kind.is_symbol("]"))
        }
        _ => false,
    }
}

/// The literal words behind the name of a function; `None` if it is not called, or not with one.
fn arguments(ahead: &mut Lexer<'_>, position: Position) -> Option<Call> {
    let mut words = Vec::new();
    match ahead.next()?.kind {
        Kind::Text(name) => {
            if name.len() > WORD_BYTES_MAX {
                return None;
            }
            let words = vec![name.into_owned()];
            return Some(Call { words, is_whole: true, position });
        }
        Kind::Symbol("(") => {}
        _ => return None,
    }
    let mut is_whole = false;
    while words.len() < WORDS_MAX {
        let word: Cow<'_, [u8]> = match ahead.next()?.kind {
            Kind::Text(text) => text,
            Kind::Number(digits) => Cow::Borrowed(digits),
            _ => break,
        };
        if word.len() > WORD_BYTES_MAX {
            break;
        }
        // Behind it something may go on that makes it a part of an expression.
        let Some(next) = ahead.next() else { break };
        is_whole = next.kind.is_symbol(")");
        if !is_whole && !next.kind.is_symbol(",") {
            break;
        }
        words.push(word.into_owned());
        if is_whole {
            break;
        }
    }
    (!words.is_empty()).then_some(Call { words, is_whole, position })
}

const CALLS: [&[u8]; 2] = [b"call", b"pcall"];
/// Names that are followed; a script has one or two.
const ALIASES_MAX: usize = 16;
/// Longest word that is kept: a longer one counts as computed. Names and most keys are far shorter.
const WORD_BYTES_MAX: usize = 256;
/// Words of a call that are read.
const WORDS_MAX: usize = 16;
