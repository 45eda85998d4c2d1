//! Whether a condition can ever change.
//!
//! Owns the truth of expressions that are made of constants alone, read ahead on a copy of the
//! [`Lexer`]. Never computes: `1 + 1 == 2` is as unknown as a variable. What surprises: in Lua only
//! `false` and `nil` are false; 0 and "" are true.

use super::super::lexer::{Kind, Lexer};

/// What is known of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Truth {
    /// It is always true.
    Yes,
    /// It is never true.
    No,
    /// It depends.
    Unknown,
}

/// Reads the condition behind `lexer`. It must end with the keyword `end`; if that is empty, with
/// whatever can follow an expression.
pub(super) fn condition(lexer: &Lexer<'_>, end: &str) -> Truth {
    let mut reader = Reader { lexer: lexer.clone(), word: None };
    reader.advance();
    let truth = reader.either(0);
    let is_over = match &reader.word {
        None => end.is_empty(),
        Some(Kind::Name(word)) if end.is_empty() => !OPERATORS.contains(word),
        Some(Kind::Symbol(symbol)) if end.is_empty() => ENDS.contains(symbol),
        Some(word) => word.is_name(end),
    };
    if is_over { truth } else { Truth::Unknown }
}

/// Whether what stands behind a name calls it.
pub(super) fn is_called(lexer: &Lexer<'_>) -> bool {
    match lexer.clone().next().map(|token| token.kind) {
        Some(Kind::Text(_)) => true,
        Some(kind) => kind.is_symbol("(") || kind.is_symbol("{"),
        None => false,
    }
}

/// Whether the next words are `math.huge` or `1/0`, as the last but a step in the head of a `for`.
pub(super) fn is_endless_limit(lexer: &Lexer<'_>) -> bool {
    let words: Vec<Kind<'_>> = lexer.clone().take(6).map(|token| token.kind).collect();
    let is_huge = match words.get(..3) {
        Some([math, dot, huge]) if math.is_name("math") => {
            dot.is_symbol(".") && huge.is_name("huge")
        }
        Some([Kind::Number(_), slash, Kind::Number(zero)]) => slash.is_symbol("/") && *zero == b"0",
        _ => false,
    };
    let rest = words.get(3..).unwrap_or_default();
    is_huge
        && match rest {
            [next, ..] if next.is_name("do") => true,
            // Downwards it would be over at once.
            [comma, Kind::Number(step), next] => {
                comma.is_symbol(",")
                    && step.iter().any(|&digit| (b'1'..=b'9').contains(&digit))
                    && next.is_name("do")
            }
            _ => false,
        }
}

/// Reads an expression, one word ahead.
struct Reader<'a> {
    lexer: Lexer<'a>,
    word: Option<Kind<'a>>,
}

impl Reader<'_> {
    fn advance(&mut self) {
        self.word = self.lexer.next().map(|token| token.kind);
    }

    fn takes(&mut self, name: &str) -> bool {
        let is_it = self.word.as_ref().is_some_and(|word| word.is_name(name));
        if is_it {
            self.advance();
        }
        is_it
    }

    fn either(&mut self, depth: usize) -> Truth {
        let mut truth = self.both(depth);
        while self.takes("or") {
            truth = match (truth, self.both(depth)) {
                (Truth::Yes, _) | (_, Truth::Yes) => Truth::Yes,
                (Truth::No, Truth::No) => Truth::No,
                _ => Truth::Unknown,
            };
        }
        truth
    }

    fn both(&mut self, depth: usize) -> Truth {
        let mut truth = self.one(depth);
        while self.takes("and") {
            truth = match (truth, self.one(depth)) {
                (Truth::No, _) | (_, Truth::No) => Truth::No,
                (Truth::Yes, Truth::Yes) => Truth::Yes,
                _ => Truth::Unknown,
            };
        }
        truth
    }

    /// A constant, also negated or in brackets. Anything else is unknown, and left where it is unless it
    /// is one word.
    fn one(&mut self, depth: usize) -> Truth {
        let mut is_negated = false;
        while self.takes("not") {
            is_negated = !is_negated;
        }
        let truth = match &self.word {
            Some(Kind::Text(_) | Kind::Number(_)) => Truth::Yes,
            Some(Kind::Name(b"true")) => Truth::Yes,
            Some(Kind::Name(b"false" | b"nil")) => Truth::No,
            Some(Kind::Symbol("(")) if depth < BRACKETS_MAX => {
                self.advance();
                let truth = self.either(depth + 1);
                if !self.word.as_ref().is_some_and(|word| word.is_symbol(")")) {
                    return Truth::Unknown;
                }
                truth
            }
            Some(Kind::Name(word)) if !KEYWORDS.contains(word) => Truth::Unknown,
            _ => return Truth::Unknown,
        };
        self.advance();
        match (truth, is_negated) {
            (Truth::Yes, true) => Truth::No,
            (Truth::No, true) => Truth::Yes,
            (truth, _) => truth,
        }
    }
}

/// Brackets that are looked into.
const BRACKETS_MAX: usize = 32;
/// Words that go on with an expression.
const OPERATORS: [&[u8]; 2] = [b"and", b"or"];
/// Symbols that can stand behind an expression without being part of it.
const ENDS: [&str; 1] = [";"];
/// Words that are no variable.
const KEYWORDS: [&[u8]; 15] = [
    b"break",
    b"do",
    b"else",
    b"elseif",
    b"end",
    b"for",
    b"function",
    b"if",
    b"in",
    b"local",
    b"repeat",
    b"return",
    b"then",
    b"until",
    b"while",
];
