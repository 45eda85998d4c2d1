//! The blocks of a script that are open at a word, and which of them are loops without a way out.
//!
//! Owns that stack. A loop leaves it with its `end` (or `until`), and if nothing in it has ended it
//! by then and its condition cannot, it is a finding. What ends a loop: a `break` of its own, a
//! `return`, a raised error or a `yield` in the same function.
//!
//! What surprises: a `break` belongs to the innermost loop and a `return` to the innermost function, so
//! neither helps a loop around those.

use super::super::lexer::{Kind, Lexer};
use super::constant::{self, Truth};
use super::{Fault, Lint};
use crate::config::Position;

/// The blocks that are open.
#[derive(Debug, Default)]
pub(super) struct Blocks(Vec<Block>);

/// One of them.
#[derive(Debug)]
struct Block {
    opener: Opener,
    position: Position,
    /// Of a loop: whether nothing but its body can end it.
    is_endless: bool,
    /// Whether its body can.
    has_exit: bool,
    /// Of `while` and `for`: whether their `do` has come, so that the next one is a block of its own.
    has_begun: bool,
}

/// What opens a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opener {
    While,
    For,
    Repeat,
    If,
    Do,
    Function,
}

// === impl Blocks ===

impl Blocks {
    /// Takes a word that may open or close a block, or end a loop; `lexer` stands behind it.
    ///
    /// # Errors
    /// Why Lua would not compile it.
    pub(super) fn word(
        &mut self,
        word: &[u8],
        position: Position,
        lexer: &Lexer<'_>,
        lint: &mut Lint,
    ) -> Result<(), &'static str> {
        match word {
            b"while" => {
                let is_endless = constant::condition(lexer, "do") == Truth::Yes;
                return self.push(Opener::While, position, is_endless);
            }
            b"for" => return self.push(Opener::For, position, false),
            b"repeat" => return self.push(Opener::Repeat, position, false),
            b"if" => return self.push(Opener::If, position, false),
            b"function" => return self.push(Opener::Function, position, false),
            b"do" => match self.0.last_mut().filter(|block| block.awaits_do()) {
                Some(block) => block.has_begun = true,
                None => return self.push(Opener::Do, position, false),
            },
            b"end" => match self.0.pop() {
                Some(block) if block.opener != Opener::Repeat => block.close(lint),
                _ => return Err("this 'end' closes nothing"),
            },
            b"until" => match self.0.pop() {
                Some(mut block) if block.opener == Opener::Repeat => {
                    block.is_endless = constant::condition(lexer, "") == Truth::No;
                    block.close(lint);
                }
                _ => return Err("this 'until' has no 'repeat'"),
            },
            b"break" => self.innermost_loop(),
            b"return" => self.leave_function(),
            // They raise an error, which ends the script unless it is caught within the loop.
            // A coroutine that yields may never be resumed.
            b"error" | b"assert" | b"yield" if constant::is_called(lexer) => self.leave_function(),
            _ => {}
        }
        Ok(())
    }

    /// Takes any other word: a comma in the head of a `for` may be followed by a limit that is none.
    pub(super) fn symbol(&mut self, kind: &Kind<'_>, lexer: &Lexer<'_>) {
        let Some(head) = self.0.last_mut().filter(|block| block.opener == Opener::For) else {
            return;
        };
        if head.awaits_do() && kind.is_symbol(",") && constant::is_endless_limit(lexer) {
            head.is_endless = true;
        }
    }

    /// Whether a loop of the function in hand is open.
    pub(super) fn is_in_loop(&self) -> bool {
        self.own().any(|block| block.is_loop())
    }

    /// What was opened last and never closed.
    pub(super) fn open(&self) -> Option<(&'static str, Position)> {
        self.0.last().map(|block| (block.opener.word(), block.position))
    }

    fn push(
        &mut self,
        opener: Opener,
        position: Position,
        is_endless: bool,
    ) -> Result<(), &'static str> {
        if self.0.len() >= DEPTH_MAX {
            return Err("Lua does not nest blocks so deep");
        }
        let (has_exit, has_begun) = (false, false);
        self.0.push(Block { opener, position, is_endless, has_exit, has_begun });
        Ok(())
    }

    /// The blocks of the function in hand, innermost first.
    fn own(&self) -> impl Iterator<Item = &Block> {
        self.0.iter().rev().take_while(|block| block.opener != Opener::Function)
    }

    fn own_mut(&mut self) -> impl Iterator<Item = &mut Block> {
        self.0.iter_mut().rev().take_while(|block| block.opener != Opener::Function)
    }

    /// The innermost loop has a way out.
    fn innermost_loop(&mut self) {
        if let Some(block) = self.own_mut().find(|block| block.is_loop()) {
            block.has_exit = true;
        }
    }

    /// All loops of this function have a way out.
    fn leave_function(&mut self) {
        self.own_mut().for_each(|block| block.has_exit = true);
    }
}

// === impl Block ===

impl Block {
    fn is_loop(&self) -> bool {
        matches!(self.opener, Opener::While | Opener::For | Opener::Repeat)
    }

    fn awaits_do(&self) -> bool {
        matches!(self.opener, Opener::While | Opener::For) && !self.has_begun
    }

    fn close(&self, lint: &mut Lint) {
        if self.is_endless && !self.has_exit {
            let text = format!(
                "loop without end: this '{}' has no break, return or error of its own; count the \
                 rounds and leave",
                self.opener.word()
            );
            lint.add(Fault::Endless, self.position, text);
        }
    }
}

// === impl Opener ===

impl Opener {
    fn word(self) -> &'static str {
        match self {
            Self::While => "while",
            Self::For => "for",
            Self::Repeat => "repeat",
            Self::If => "if",
            Self::Do => "do",
            Self::Function => "function",
        }
    }
}

/// As deep as Lua nests what it compiles (`LUAI_MAXCCALLS`).
const DEPTH_MAX: usize = 200;
