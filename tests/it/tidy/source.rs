//! Reads Rust source as text: what is code, what is comment, where functions and tests lie.
//!
//! Owns the lexer under the tidy rules. It never parses expressions and never fails: text that
//! does not compile gives odd answers, and the compiler says so better. The one thing that
//! surprises: `code` and `comments` have the length of the file, byte for byte, with everything
//! that is not theirs blanked, so that an offset found in one is a line of the file.

use std::ops::Range;

/// One Rust file, taken apart.
pub(super) struct Source {
    /// The file without comments, and with the inside of strings and characters blanked.
    pub(super) code: String,
    /// The comments alone, markers included.
    pub(super) comments: String,
    /// For each line, counted from 0: does it belong to an item under `#[cfg(test)]`?
    pub(super) is_test: Vec<bool>,
    /// Where each line starts.
    starts: Vec<usize>,
}

/// A function with a body.
pub(super) struct Function {
    pub(super) name: String,
    /// The line of `fn`, counted from 1.
    pub(super) line: usize,
    /// From the line of `fn` to the line of the closing brace, both included.
    pub(super) lines: usize,
}

/// A path as written (`a::b`), those of a `use` tree unfolded to one path a leaf.
pub(super) struct Path {
    pub(super) line: usize,
    pub(super) segments: Vec<String>,
}

/// A word or a mark of the code, with its offset.
#[derive(Clone, Copy)]
pub(super) struct Token<'a> {
    pub(super) at: usize,
    pub(super) text: &'a str,
}

// === impl Source ===

impl Source {
    pub(super) fn new(text: &str) -> Self {
        let (code, comments) = separate(text);
        let ends = text.match_indices('\n').map(|(at, _)| at + 1);
        let starts: Vec<usize> = std::iter::once(0).chain(ends).collect();
        let is_test = vec![false; text.lines().count()];
        let mut source = Self { code, comments, is_test, starts };
        for range in source.test_items() {
            let last = source.line(range.end.saturating_sub(1));
            for line in source.line(range.start)..=last {
                if let Some(flag) = source.is_test.get_mut(line - 1) {
                    *flag = true;
                }
            }
        }
        source
    }

    /// The line of an offset, counted from 1.
    pub(super) fn line(&self, at: usize) -> usize {
        self.starts.partition_point(|start| *start <= at)
    }

    /// Is this line, counted from 1, test code?
    pub(super) fn in_tests(&self, line: usize) -> bool {
        self.is_test.get(line - 1).copied().unwrap_or(false)
    }

    /// Lines of code and comments side by side, with their number from 1.
    pub(super) fn lines(&self) -> impl Iterator<Item = (usize, &str, &str)> {
        let pairs = self.code.lines().zip(self.comments.lines());
        pairs.enumerate().map(|(index, (code, comment))| (index + 1, code, comment))
    }

    /// Every function that has a body, nested ones too.
    pub(super) fn functions(&self) -> Vec<Function> {
        let tokens = self.tokens();
        let mut found = Vec::new();
        for pair in tokens.windows(2) {
            // `fn(` is a type and `fn $name` a macro's pattern: neither has a body here.
            if pair[0].text != "fn" || !is_word(pair[1].text) {
                continue;
            }
            let Some(body) = item_end(&self.code, pair[1].at) else {
                continue;
            };
            if self.code.as_bytes()[body - 1] == b'}' {
                let line = self.line(pair[0].at);
                let lines = self.line(body - 1) + 1 - line;
                found.push(Function { name: pair[1].text.to_string(), line, lines });
            }
        }
        found
    }

    /// Every path of two segments or more, and every leaf of a `use`.
    pub(super) fn paths(&self) -> Vec<Path> {
        let tokens = self.tokens();
        let mut paths = Vec::new();
        let mut next = 0;
        while next < tokens.len() {
            // `use<'a>` is a bound and no import.
            let is_use =
                tokens[next].text == "use" && tokens.get(next + 1).is_some_and(|t| t.text != "<");
            next = if is_use {
                self.use_tree(&tokens, next + 1, &mut paths)
            } else {
                self.plain_path(&tokens, next, &mut paths)
            };
        }
        paths
    }

    /// Words, `::`, and single marks.
    pub(super) fn tokens(&self) -> Vec<Token<'_>> {
        let bytes = self.code.as_bytes();
        let mut tokens = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let end = if is_word_byte(bytes[at]) {
                at + bytes[at..].iter().take_while(|byte| is_word_byte(**byte)).count()
            } else if bytes[at..].starts_with(b"::") {
                at + 2
            } else {
                at + 1
            };
            if !bytes[at].is_ascii_whitespace() {
                tokens.push(Token { at, text: &self.code[at..end] });
            }
            at = end;
        }
        tokens
    }

    fn use_tree(&self, tokens: &[Token<'_>], mut next: usize, paths: &mut Vec<Path>) -> usize {
        let mut outer: Vec<usize> = Vec::new();
        let mut segments: Vec<String> = Vec::new();
        let mut base = 0;
        while let Some(token) = tokens.get(next) {
            let ends_leaf = matches!(token.text, "," | "}" | ";");
            if ends_leaf && segments.len() > base {
                let line = self.line(tokens[next - 1].at);
                paths.push(Path { line, segments: segments.clone() });
            }
            next += 1;
            match token.text {
                ";" => break,
                "," => segments.truncate(base),
                "}" => {
                    base = outer.pop().unwrap_or(0);
                    // The group stood for its leaves: nothing is left to report after it.
                    segments.truncate(base);
                }
                "{" => {
                    outer.push(base);
                    base = segments.len();
                }
                "as" => next += 1,
                "::" => {}
                word => segments.push(word.to_string()),
            }
        }
        next
    }

    fn plain_path(&self, tokens: &[Token<'_>], start: usize, paths: &mut Vec<Path>) -> usize {
        let first = &tokens[start];
        if !is_word(first.text) {
            return start + 1;
        }
        let mut segments = vec![first.text.to_string()];
        let mut next = start + 1;
        while let [mark, word, ..] = &tokens[next..]
            && mark.text == "::"
            && is_word(word.text)
        {
            segments.push(word.text.to_string());
            next += 2;
        }
        if segments.len() > 1 {
            paths.push(Path { line: self.line(first.at), segments });
        }
        next
    }

    /// The items under `#[cfg(test)]`, attribute to closing brace.
    fn test_items(&self) -> Vec<Range<usize>> {
        let mut items = Vec::new();
        for (start, _) in self.code.match_indices("#[cfg(") {
            let Some(length) = self.code[start..].find(']') else {
                continue;
            };
            let attribute = &self.code[start..start + length];
            let mut words = attribute.split(|c: char| !c.is_alphanumeric() && c != '_');
            if words.any(|word| word == "test") && !attribute.contains("not(") {
                let end = item_end(&self.code, start + length + 1).unwrap_or(self.code.len());
                items.push(start..end);
            }
        }
        items
    }
}

// === impl Path ===

impl Path {
    /// Does the path contain these segments, side by side?
    pub(super) fn names(&self, wanted: &str) -> bool {
        let wanted: Vec<&str> = wanted.split("::").collect();
        self.segments.windows(wanted.len()).any(|window| window.iter().eq(wanted.iter()))
    }

    /// Is the path rooted at this crate or module?
    pub(super) fn starts_with(&self, root: &str) -> bool {
        self.segments.first().is_some_and(|first| first == root)
    }
}

/// The line of an offset in any text, counted from 1; for a few offsets only, it counts each time.
pub(super) fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1
}

/// A name or a keyword, not a mark and not a number.
pub(super) fn is_word(text: &str) -> bool {
    text.bytes().next().is_some_and(|byte| is_word_byte(byte) && !byte.is_ascii_digit())
}

fn is_word_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

/// Where the item that begins at or after `from` ends: behind its `;`, behind the `,` of a field
/// or an arm, or behind the brace that closes it. `None` if the text ends first.
fn item_end(code: &str, from: usize) -> Option<usize> {
    let bytes = code.as_bytes();
    let mut depth = 0usize;
    let mut braces = 0usize;
    for (at, byte) in bytes.iter().enumerate().skip(from) {
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth = depth.saturating_sub(1),
            b'{' => braces += 1,
            b'}' if braces <= 1 => return Some(at + 1),
            b'}' => braces -= 1,
            b';' if braces == 0 && depth == 0 => return Some(at + 1),
            b',' if braces == 0 && depth == 0 && !is_generic_comma(&bytes[from..at]) => {
                return Some(at + 1);
            }
            _ => {}
        }
    }
    None
}

/// A comma between `<` and `>`, or in a `where` clause, belongs to the head of the item.
fn is_generic_comma(head: &[u8]) -> bool {
    let opened = head.iter().filter(|byte| **byte == b'<').count();
    // The arrow `->` and the fat arrow close no angle bracket.
    let closed = (1..head.len())
        .filter(|at| head[*at] == b'>' && !matches!(head[*at - 1], b'-' | b'='))
        .count();
    opened > closed || head.windows(6).any(|word| word == b"where " || word == b"where\n")
}

/// Splits a file into code and comments, both as long as the file.
fn separate(text: &str) -> (String, String) {
    let bytes = text.as_bytes();
    let mut code = blank(bytes);
    let mut comments = code.clone();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let is_comment = rest.starts_with(b"//") || rest.starts_with(b"/*");
        let end = at + if is_comment { comment_length(rest) } else { literal_length(bytes, at) };
        if is_comment {
            comments[at..end].copy_from_slice(&bytes[at..end]);
        } else if end > at {
            // The quotes stay, so that a string remains a token; its inside is nobody's.
            code[at] = bytes[at];
            code[end - 1] = b'"';
        } else if is_word_byte(bytes[at]) {
            // A word is copied whole, or its last letter would look like a string's prefix.
            let length = rest.iter().take_while(|byte| is_word_byte(**byte)).count();
            code[at..at + length].copy_from_slice(&rest[..length]);
            at += length;
            continue;
        } else {
            code[at] = bytes[at];
        }
        at = end.max(at + 1);
    }
    let both = (String::from_utf8(code), String::from_utf8(comments));
    (both.0.unwrap_or_default(), both.1.unwrap_or_default())
}

/// Spaces, with the line ends where they were.
fn blank(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().map(|byte| if *byte == b'\n' { b'\n' } else { b' ' }).collect()
}

fn comment_length(rest: &[u8]) -> usize {
    if rest.starts_with(b"//") {
        return rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
    }
    // Block comments nest in Rust.
    let mut depth = 0usize;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                break;
            }
        } else {
            at += 1;
        }
    }
    at.min(rest.len())
}

/// The length of a string or character literal that starts here, prefix included; 0 if none does.
fn literal_length(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    let prefix = rest.iter().take_while(|byte| matches!(byte, b'b' | b'c' | b'r')).count();
    let hashes = rest[prefix..].iter().take_while(|byte| **byte == b'#').count();
    let is_raw = prefix > 0 && rest[prefix - 1] == b'r' && prefix <= 2;
    let mark = rest.get(prefix + hashes).copied();
    if is_raw && mark == Some(b'"') {
        return raw_length(rest, prefix + hashes + 1, hashes);
    }
    match (prefix, hashes, mark) {
        (0 | 1, 0, Some(b'"')) => quoted_length(rest, prefix, b'"'),
        (0 | 1, 0, Some(b'\'')) if is_char(&rest[prefix + 1..]) => {
            quoted_length(rest, prefix, b'\'')
        }
        _ => 0,
    }
}

/// `'a'` and `'\n'` are characters, `'a` is a lifetime.
fn is_char(after_quote: &[u8]) -> bool {
    let width = match after_quote.first() {
        None => return false,
        Some(b'\\') => return true,
        Some(byte) => (byte.leading_ones() as usize).max(1),
    };
    after_quote.get(width) == Some(&b'\'')
}

fn quoted_length(rest: &[u8], open: usize, quote: u8) -> usize {
    let mut at = open + 1;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

fn raw_length(rest: &[u8], mut at: usize, hashes: usize) -> usize {
    while at < rest.len() {
        let closing = &rest[at + 1..];
        if rest[at] == b'"'
            && closing.iter().take(hashes).filter(|byte| **byte == b'#').count() == hashes
        {
            return at + 1 + hashes;
        }
        at += 1;
    }
    rest.len()
}

mod tests {
    use super::*;

    #[test]
    fn strings_characters_and_comments_are_not_code() {
        let text = concat!(
            "let a = \"{ // no\"; // { why\n",
            "let b = r#\"} \" {\"#; let c = b'{'; let d = '\\'';\n",
            "/* outer /* } */ still */ fn f<'a>(x: &'a str) -> &'a str { x }\n",
        );
        let source = Source::new(text);
        assert_eq!(source.code.matches(['{', '}']).count(), 2, "{}", source.code);
        assert_eq!(source.comments.trim_start().lines().next(), Some("// { why"));
        assert_eq!(source.code.len(), text.len());
        assert_eq!(source.comments.len(), text.len());
    }

    #[test]
    fn functions_are_measured_from_fn_to_the_closing_brace() {
        let text = "trait T {\n    fn none(&self);\n}\n\npub fn f<A, B>(\n    a: [A; 3],\n) -> B\nwhere\n    B: X,\n{\n    g('}')\n}\n";
        let found = Source::new(text).functions();
        let found: Vec<_> = found.iter().map(|f| (f.name.as_str(), f.line, f.lines)).collect();
        assert_eq!(found, [("f", 5, 8)]);
    }

    #[test]
    fn items_under_cfg_test_are_test_code_and_their_neighbours_are_not() {
        let text = "struct S {\n    #[cfg(test)]\n    probe: u32,\n    real: u32,\n}\n#[cfg(test)]\nuse a::{b, c};\n#[cfg(not(test))]\nfn real() {}\n#[cfg(test)]\nmod tests {\n    fn t() {}\n}\nfn after() {}\n";
        let source = Source::new(text);
        let tests: Vec<usize> = (1..=14).filter(|line| source.in_tests(*line)).collect();
        assert_eq!(tests, [2, 3, 6, 7, 10, 11, 12, 13]);
    }

    #[test]
    fn use_trees_unfold_and_plain_paths_are_seen() {
        let text = "use std::{fmt, time::{self, Instant as Now}};\nuse a::*;\nfn f() { time::Instant::now() }\n";
        let paths = Source::new(text).paths();
        let paths: Vec<_> =
            paths.iter().map(|path| (path.line, path.segments.join("::"))).collect();
        let expected = [
            (1, "std::fmt"),
            (1, "std::time::self"),
            (1, "std::time::Instant"),
            (2, "a::*"),
            (3, "time::Instant::now"),
        ];
        assert_eq!(paths, expected.map(|(line, path)| (line, path.to_string())));
    }
}
