//! The words of a Lua 5.1 script, one after the other.
//!
//! Owns where a word ends, as Lua's own reader has it: long strings and comments of any level, the
//! escapes of quoted strings, numbers. Never understands a sentence ([`super::lint`] does), never
//! copies a text without escapes, and never stops at what is wrong: that is a word as well
//! ([`Kind::Broken`]), and the next one begins behind it. Each byte is looked at a bounded number of
//! times, so that a hostile script costs what its length is worth.
//!
//! What surprises: what Lua does not compile need not be read right. The server refuses such a script
//! as a whole, so nothing can hide behind a broken word.

use std::borrow::Cow;

use crate::config::Position;

/// A word and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token<'a> {
    /// What it is.
    pub kind: Kind<'a>,
    /// Where its first byte stands; the column counts characters.
    pub position: Position,
}

/// What a word is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind<'a> {
    /// A name or a keyword.
    Name(&'a [u8]),
    /// A string, as the script will see it.
    Text(Cow<'a, [u8]>),
    /// A number, as it is written.
    Number(&'a [u8]),
    /// An operator or a bracket.
    Symbol(&'static str),
    /// What Lua would refuse to compile, and why.
    Broken(&'static str),
    /// What begins like a number and is none. What is one the server's C library decides, so nobody
    /// should rely on its being refused.
    NoNumber,
}

/// Reads a script from its beginning. A copy reads on from where it was made.
#[derive(Clone, Debug)]
pub struct Lexer<'a> {
    source: &'a [u8],
    /// Bytes that have been read.
    at: usize,
    /// Line of the next byte, 1 for the first.
    line: u32,
    /// Where the last character was counted, and its column: a token's column is counted from there.
    counted: (usize, u32),
}

// === impl Lexer ===

impl<'a> Lexer<'a> {
    /// Reads `source`. A first line that begins with `#!` is for the server and is passed over.
    #[must_use]
    pub fn new(source: &'a [u8]) -> Self {
        let mut lexer = Self { source, at: 0, line: 1, counted: (0, 1) };
        if source.starts_with(b"#!") {
            lexer.skip_line();
        }
        lexer
    }

    /// The next byte, if there is one.
    fn peek(&self, ahead: usize) -> Option<u8> {
        self.source.get(self.at + ahead).copied()
    }

    /// Passes over bytes for as long as they fit.
    fn skip_while(&mut self, fits: impl Fn(u8) -> bool) {
        while self.peek(0).is_some_and(&fits) {
            self.at += 1;
        }
    }

    fn skip_line(&mut self) {
        self.skip_while(|byte| !matches!(byte, b'\n' | b'\r'));
    }

    /// Passes over a line end of one or two bytes, which is one line end.
    fn end_line(&mut self) {
        let first = self.peek(0);
        self.at += 1;
        if matches!((first, self.peek(0)), (Some(b'\r'), Some(b'\n')) | (Some(b'\n'), Some(b'\r')))
        {
            self.at += 1;
        }
        self.line = self.line.saturating_add(1);
        self.counted = (self.at, 1);
    }

    /// Passes over blanks and comments. Returns what is wrong with a comment without an end.
    fn skip_blanks(&mut self) -> Option<&'static str> {
        loop {
            match self.peek(0)? {
                b'\n' | b'\r' => self.end_line(),
                b' ' | b'\t' | 0x0b | 0x0c => self.at += 1,
                b'-' if self.peek(1) == Some(b'-') => {
                    self.at += 2;
                    match self.long_level() {
                        Some(level) => {
                            if self.long(level).is_none() {
                                return Some("this comment has no end");
                            }
                        }
                        None => self.skip_line(),
                    }
                }
                _ => return None,
            }
        }
    }

    /// The number of `=` of a long bracket that begins here.
    fn long_level(&self) -> Option<usize> {
        let rest = self.source.get(self.at..)?.strip_prefix(b"[")?;
        let level = rest.iter().take_while(|&&byte| byte == b'=').count();
        (rest.get(level) == Some(&b'[')).then_some(level)
    }

    /// What stands between the long brackets of a level, of which the first begins here; `None`: there
    /// is no second one, and everything is used up.
    fn long(&mut self, level: usize) -> Option<&'a [u8]> {
        self.at += level + 2;
        // As Lua: a line end right behind the bracket is not part of the text.
        if matches!(self.peek(0), Some(b'\n' | b'\r')) {
            self.end_line();
        }
        let start = self.at;
        while let Some(byte) = self.peek(0) {
            match byte {
                b'\n' | b'\r' => self.end_line(),
                b']' => {
                    let end = self.at;
                    self.at += 1;
                    let run = self.at;
                    self.skip_while(|byte| byte == b'=');
                    // The bracket that does not fit may be the first byte of the one that does.
                    if self.peek(0) == Some(b']') && self.at - run == level {
                        self.at += 1;
                        return self.source.get(start..end);
                    }
                }
                _ => self.at += 1,
            }
        }
        None
    }

    /// Where the next byte stands. Characters are counted once: from the last token on.
    fn position(&mut self) -> Position {
        let (from, column) = self.counted;
        let passed = self.source.get(from..self.at).unwrap_or_default();
        // Bytes that go on with a character are none by themselves.
        let characters = passed.iter().filter(|&&byte| byte & 0xc0 != 0x80).count();
        let column = column.saturating_add(u32::try_from(characters).unwrap_or(u32::MAX));
        self.counted = (self.at, column);
        Position { line: self.line, column }
    }

    fn kind(&mut self, first: u8) -> Kind<'a> {
        match first {
            b'a'..=b'z' | b'A'..=b'Z' | b'_' => {
                Kind::Name(self.run(|byte| byte.is_ascii_alphanumeric() || byte == b'_'))
            }
            b'"' | b'\'' => self.quoted(first),
            b'0'..=b'9' => self.number(),
            b'.' if self.peek(1).is_some_and(|byte| byte.is_ascii_digit()) => self.number(),
            b'[' => match self.long_level() {
                Some(level) => match self.long(level) {
                    Some(text) => Kind::Text(Cow::Borrowed(text)),
                    None => Kind::Broken("this string has no end"),
                },
                None => self.symbol(),
            },
            _ => self.symbol(),
        }
    }

    fn run(&mut self, fits: impl Fn(u8) -> bool) -> &'a [u8] {
        let start = self.at;
        self.skip_while(fits);
        self.source.get(start..self.at).unwrap_or_default()
    }

    /// A number, with the letters that stick to it: Lua takes `1do` for one, and refuses it.
    fn number(&mut self) -> Kind<'a> {
        let start = self.at;
        self.skip_while(|byte| byte.is_ascii_digit() || byte == b'.');
        if matches!(self.peek(0), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(0), Some(b'+' | b'-')) {
                self.at += 1;
            }
        }
        self.skip_while(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        let digits = self.source.get(start..self.at).unwrap_or_default();
        match is_number(digits) {
            true => Kind::Number(digits),
            false => Kind::NoNumber,
        }
    }

    fn quoted(&mut self, quote: u8) -> Kind<'a> {
        self.at += 1;
        let mut text = Cow::Borrowed(self.run(|byte| is_plain(byte, quote)));
        loop {
            match self.peek(0) {
                Some(byte) if byte == quote => {
                    self.at += 1;
                    return Kind::Text(text);
                }
                Some(b'\\') => match self.escape() {
                    Some(byte) => text.to_mut().extend(byte),
                    None => return Kind::Broken("this escape is above \\255"),
                },
                Some(b'\n' | b'\r') | None => return Kind::Broken("this string has no end"),
                Some(_) => {
                    let plain = self.run(|byte| is_plain(byte, quote));
                    text.to_mut().extend_from_slice(plain);
                }
            }
        }
    }

    /// What an escape stands for: nothing at the end of the script, where the string has no end
    /// either. `None`: Lua refuses it.
    fn escape(&mut self) -> Option<Option<u8>> {
        self.at += 1;
        let Some(byte) = self.peek(0) else {
            return Some(None);
        };
        if matches!(byte, b'\n' | b'\r') {
            self.end_line();
            return Some(Some(b'\n'));
        }
        if !byte.is_ascii_digit() {
            self.at += 1;
            return Some(Some(named_escape(byte)));
        }
        let mut code = 0_u32;
        for _ in 0..3 {
            let Some(digit) = self.peek(0).and_then(|byte| char::from(byte).to_digit(10)) else {
                break;
            };
            code = code * 10 + digit;
            self.at += 1;
        }
        u8::try_from(code).ok().map(Some)
    }

    fn symbol(&mut self) -> Kind<'a> {
        let rest = self.source.get(self.at..).unwrap_or_default();
        match SYMBOLS.iter().find(|symbol| rest.starts_with(symbol.as_bytes())) {
            Some(symbol) => {
                self.at += symbol.len();
                Kind::Symbol(symbol)
            }
            None => {
                // All of it at once: one complaint for a word in another alphabet.
                self.at += 1;
                self.skip_while(|byte| !byte.is_ascii());
                Kind::Broken("Lua knows no such character")
            }
        }
    }
}

impl<'a> Iterator for Lexer<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        let complaint = self.skip_blanks();
        let position = self.position();
        if let Some(what) = complaint {
            return Some(Token { kind: Kind::Broken(what), position });
        }
        let first = self.peek(0)?;
        Some(Token { kind: self.kind(first), position })
    }
}

// === impl Kind ===

impl Kind<'_> {
    /// Whether it is this keyword or name.
    #[must_use]
    pub fn is_name(&self, name: &str) -> bool {
        matches!(self, Kind::Name(word) if *word == name.as_bytes())
    }

    /// Whether it is this operator or bracket.
    #[must_use]
    pub fn is_symbol(&self, symbol: &str) -> bool {
        matches!(self, Kind::Symbol(word) if *word == symbol)
    }
}

fn is_plain(byte: u8, quote: u8) -> bool {
    byte != quote && !matches!(byte, b'\\' | b'\n' | b'\r')
}

/// As Lua: what has no meaning stands for itself.
fn named_escape(byte: u8) -> u8 {
    match byte {
        b'a' => 0x07,
        b'b' => 0x08,
        b'f' => 0x0c,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'v' => 0x0b,
        other => other,
    }
}

fn is_number(digits: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(digits) else {
        return false;
    };
    let Some(hex) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) else {
        return text.parse::<f64>().is_ok();
    };
    // With an exponent of two, as strtod has it: a sign or a point would end the word before.
    let (digits, exponent) = hex.split_once(['p', 'P']).unwrap_or((hex, "0"));
    let is_all =
        |part: &str, fits: fn(&u8) -> bool| !part.is_empty() && part.bytes().all(|it| fits(&it));
    is_all(digits, u8::is_ascii_hexdigit) && is_all(exponent, u8::is_ascii_digit)
}

/// Longer ones first, where one begins as another.
const SYMBOLS: [&str; 26] = [
    "...", "..", "==", "~=", "<=", ">=", "+", "-", "*", "/", "%", "^", "#", "<", ">", "=", "(",
    ")", "{", "}", "[", "]", ";", ":", ",", ".",
];

#[cfg(test)]
mod tests;
