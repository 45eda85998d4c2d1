//! What a script will do that can be seen without running it.
//!
//! Owns three judgements about the text of a Lua script: loops that nothing in them can end, which
//! commands it calls by a literal name, and slow ones among those that stand in a loop. Never runs
//! it, never decides what happens to it. The way: one pass over the words of the [`Lexer`] with a
//! stack of the blocks that are open ([`blocks`]); what a call says is in [`calls`], whether a
//! condition can change in [`constant`].
//!
//! What surprises: this is no proof. A condition that depends on data may never come true, and that is
//! undecidable; against such a loop there is the watchdog. What is refused here is only what no data
//! could end.

mod blocks;
mod calls;
mod constant;

use super::lexer::{Kind, Lexer};
use crate::config::Position;
use blocks::Blocks;
use calls::Aliases;
pub use calls::Call;

/// What was seen in a script.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lint {
    /// What is wrong with it, in the order of the text.
    pub findings: Vec<Finding>,
    /// Commands that it calls by a literal name, in the order of the text.
    pub calls: Vec<Call>,
}

/// Something that is wrong at a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Of which kind.
    pub fault: Fault,
    /// Where.
    pub position: Position,
    /// What it is, and what to do instead.
    pub text: String,
}

/// Of which kind a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A loop without end.
    Endless,
    /// The server will not compile it, and say so itself.
    Syntax,
    /// It will probably not compile this number; a loop without end beside it is none the better for
    /// that.
    Number,
    /// Slow, and worth a word.
    Slow,
}

/// Reads a script.
#[must_use]
pub fn lint(source: &[u8]) -> Lint {
    let mut lint = Lint::default();
    let (mut lexer, mut blocks, mut aliases) =
        (Lexer::new(source), Blocks::default(), Aliases::default());
    // What stood before the word in hand: a name behind a dot is a field, and no keyword.
    let mut is_field = false;
    while let Some(token) = lexer.next() {
        match &token.kind {
            Kind::Broken(what) => lint.add(Fault::Syntax, token.position, (*what).into()),
            Kind::NoNumber => {
                lint.add(Fault::Number, token.position, "this is no number".into());
            }
            // Of fields only one matters: coroutine.yield leaves a loop.
            Kind::Name(name) if !is_field || *name == b"yield" => {
                if let Err(what) = blocks.word(name, token.position, &lexer, &mut lint) {
                    lint.add(Fault::Syntax, token.position, what.into());
                }
                if let Some(call) = aliases.read(name, token.position, &lexer) {
                    lint.note(call, blocks.is_in_loop());
                }
            }
            kind => blocks.symbol(kind, &lexer),
        }
        is_field = token.kind.is_symbol(".") || token.kind.is_symbol(":");
    }
    if let Some((what, position)) = blocks.open() {
        lint.add(Fault::Syntax, position, format!("this '{what}' is never closed"));
    }
    lint
}

// === impl Lint ===

impl Lint {
    /// The loop without end that a server would run for ever; `None` for a script that it will not
    /// even compile.
    #[must_use]
    pub fn endless(&self) -> Option<&Finding> {
        let is_broken = self.findings.iter().any(|finding| finding.fault == Fault::Syntax);
        self.findings.iter().find(|finding| finding.fault == Fault::Endless && !is_broken)
    }

    /// Of a hostile script not everything is kept. What is slow must not crowd out what has no end.
    fn add(&mut self, fault: Fault, position: Position, text: String) {
        let room = if fault.is_error() { FINDINGS_MAX } else { FINDINGS_MAX / 2 };
        if self.findings.len() < room {
            self.findings.push(Finding { fault, position, text });
        }
    }

    fn note(&mut self, call: Call, is_in_loop: bool) {
        let name = call.name();
        if is_in_loop && SLOW.contains(&&*name) {
            let text = format!(
                "{} in a loop reads everything each time; call it once before the loop, or read a \
                 page of it",
                name.to_uppercase()
            );
            self.add(Fault::Slow, call.position, text);
        }
        if self.calls.len() < CALLS_MAX {
            self.calls.push(call);
        }
    }
}

// === impl Fault ===

impl Fault {
    /// Whether a script with it must not run, and not only be thought over.
    #[must_use]
    pub fn is_error(self) -> bool {
        self != Self::Slow
    }
}

/// Commands that read all of something, however large it has become.
const SLOW: [&str; 20] = [
    "keys",
    "hgetall",
    "hkeys",
    "hvals",
    "smembers",
    "lrange",
    "zrange",
    "zrevrange",
    "sort",
    "sort_ro",
    "sunion",
    "sinter",
    "sdiff",
    "sunionstore",
    "sinterstore",
    "sdiffstore",
    "zunion",
    "zinter",
    "zdiff",
    "flushall",
];
/// Findings and calls of one script that are kept.
const FINDINGS_MAX: usize = 64;
const CALLS_MAX: usize = 1_024;

#[cfg(test)]
mod tests;
