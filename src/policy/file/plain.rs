//! A rule as nearly everybody writes it, read without a tree.
//!
//! Owns the plainest part of TOML: one `key = value` a line, where a value is a text without escapes, a
//! list of such texts, a whole number, true or false. Never complains and never guesses: at anything
//! else, right or wrong, it gives up, and the piece is parsed as any TOML is.
//!
//! What surprises: a tree of a rule takes ten times as long as its text, and a reload competes with
//! workers for the processor. So this is the way of thousands of rules, and the parser that of the few
//! that need it; a property test holds the two together, to the last byte of every place.

use std::borrow::Cow;
use std::ops::Range;

use serde::de::value::{BoolDeserializer, Error, I64Deserializer, StrDeserializer};
use serde::de::{Deserialize, IntoDeserializer};
use toml::Spanned;

use super::compile::Texts;
use super::{Read, WrittenRule};
use crate::config::checker::Place;

/// A value, and where it is.
struct Value<'t> {
    /// What it says.
    is: Plain<'t>,
    /// From its first byte to the one behind its last, quotes and brackets included.
    span: Range<usize>,
}

/// What such a value may be.
enum Plain<'t> {
    /// Between quotes.
    Text(&'t str),
    /// Between brackets. They are never copied: keys are most of a large file.
    Texts(Vec<Spanned<Cow<'t, str>>>),
    /// Digits and nothing else.
    Number(i64),
    /// One of two words.
    Truth(bool),
}

/// A place in a piece.
struct Cursor<'t> {
    /// The piece.
    text: &'t str,
    /// How much of it has been read; never beyond its end.
    at: usize,
}

/// The rule of a piece, which begins with its header; `None`: somebody else has to read it.
pub(super) fn rule(piece: &str) -> Option<Read<WrittenRule<'_>>> {
    let mut cursor = Cursor { text: piece, at: 0 };
    piece.starts_with(HEADER).then_some(())?;
    cursor.at = HEADER.len();
    cursor.end_line()?;
    let mut written = WrittenRule::default();
    while let Some(key) = cursor.next_key()? {
        cursor.eat(b'=')?;
        cursor.skip_blanks();
        let value = cursor.value()?;
        written.set(key, value)?;
        cursor.end_line()?;
    }
    Some(Read { written, place: Place::File(0..HEADER.len()), is_whole: true })
}

/// How a piece begins. Whoever cuts a text into pieces cuts it here, so a header with blanks in it is
/// never seen.
const HEADER: &str = "[[rule]]";

// === impl Cursor ===

impl<'t> Cursor<'t> {
    /// The byte that comes next; `None` at the end.
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// Goes on if this byte comes next.
    fn eat(&mut self, byte: u8) -> Option<()> {
        (self.peek() == Some(byte)).then(|| self.at += 1)
    }

    /// Goes on while bytes are of a kind.
    fn skip(&mut self, is_meant: impl Fn(u8) -> bool) {
        let left = self.text.as_bytes().get(self.at..).unwrap_or_default();
        self.at += left.iter().position(|byte| !is_meant(*byte)).unwrap_or(left.len());
    }

    fn skip_blanks(&mut self) {
        self.skip(|byte| matches!(byte, b' ' | b'\t'));
    }

    /// What may stand behind a value: blanks, a comment, and the end of the line or of the piece.
    fn end_line(&mut self) -> Option<()> {
        self.skip_blanks();
        if self.peek() == Some(b'#') {
            self.skip(is_print);
        }
        match self.peek() {
            None => Some(()),
            Some(b'\r') => {
                self.at += 1;
                self.eat(b'\n')
            }
            Some(_) => self.eat(b'\n'),
        }
    }

    /// The next line's key, with the cursor behind it; no key: the piece is over. Another header is no
    /// key.
    fn next_key(&mut self) -> Option<Option<&'t str>> {
        loop {
            self.skip_blanks();
            match self.peek() {
                None => return Some(None),
                Some(b'#' | b'\r' | b'\n') => self.end_line()?,
                Some(_) => break,
            }
        }
        let start = self.at;
        self.skip(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
        let key = self.text.get(start..self.at).filter(|key| !key.is_empty())?;
        self.skip_blanks();
        Some(Some(key))
    }

    /// A value of any kind that is plain. Which kind a key wants is seen by whoever puts it there.
    fn value(&mut self) -> Option<Value<'t>> {
        let start = self.at;
        let is = match self.peek()? {
            b'"' | b'\'' => Plain::Text(self.text()?),
            b'[' => Plain::Texts(self.texts()?),
            b'0'..=b'9' => Plain::Number(self.number()?),
            b't' => self.word("true").map(|()| Plain::Truth(true))?,
            b'f' => self.word("false").map(|()| Plain::Truth(false))?,
            _ => return None,
        };
        Some(Value { is, span: start..self.at })
    }

    /// A text in quotes that means what it says: in single ones a backslash does. Three quotes begin
    /// something else.
    fn text(&mut self) -> Option<&'t str> {
        let quote = self.peek().filter(|byte| matches!(byte, b'"' | b'\''))?;
        self.eat(quote)?;
        let start = self.at;
        let escape = if quote == b'"' { b'\\' } else { quote };
        self.skip(|byte| is_print(byte) && byte != quote && byte != escape);
        let text = self.text.get(start..self.at)?;
        self.eat(quote)?;
        (!text.is_empty() || self.peek() != Some(quote)).then_some(text)
    }

    /// A list of them, over as many lines as it likes.
    fn texts(&mut self) -> Option<Vec<Spanned<Cow<'t, str>>>> {
        self.eat(b'[')?;
        let mut texts = Vec::with_capacity(TEXTS_USUAL);
        loop {
            self.skip_lines()?;
            if self.eat(b']').is_some() {
                return Some(texts);
            }
            let start = self.at;
            let text = self.text()?;
            texts.push(Spanned::new(start..self.at, Cow::Borrowed(text)));
            self.skip_lines()?;
            if self.eat(b',').is_none() {
                self.eat(b']')?;
                return Some(texts);
            }
        }
    }

    /// Blanks, comments and ends of lines within a list.
    fn skip_lines(&mut self) -> Option<()> {
        loop {
            self.skip_blanks();
            match self.peek()? {
                b'#' | b'\r' | b'\n' => self.end_line()?,
                _ => return Some(()),
            }
        }
    }

    /// A whole number without a sign. Whatever else a number may have is seen by the line's end, which is
    /// not there then.
    fn number(&mut self) -> Option<i64> {
        let start = self.at;
        self.skip(|byte| byte.is_ascii_digit());
        let digits = self.text.get(start..self.at)?;
        let is_plain = digits == "0" || !digits.starts_with('0');
        digits.parse().ok().filter(|_| is_plain)
    }

    /// One of TOML's own words. What may follow it is seen by the line's end, as with numbers.
    fn word(&mut self, word: &str) -> Option<()> {
        self.text.get(self.at..)?.starts_with(word).then(|| self.at += word.len())
    }
}

/// Room for a list that is made once; a longer one grows.
const TEXTS_USUAL: usize = 16;

/// Whether a byte may stand in texts and comments: all but control characters, of which a tab may.
fn is_print(byte: u8) -> bool {
    byte == b'\t' || !byte.is_ascii_control()
}

// === impl WrittenRule ===

impl<'t> WrittenRule<'t> {
    /// Sets what is called by a key. A key that is forgotten here costs time and nothing else.
    fn set(&mut self, key: &str, value: Value<'t>) -> Option<()> {
        match key {
            "name" => value.put(&mut self.name),
            "commands" => value.put_texts(&mut self.commands),
            "keys" => value.put_texts(&mut self.keys),
            "listeners" => value.put_texts(&mut self.listeners),
            "users" => value.put_texts(&mut self.users),
            "networks" => value.put_texts(&mut self.networks),
            "client_names" => value.put_texts(&mut self.client_names),
            "libraries" => value.put_texts(&mut self.libraries),
            "pattern" => value.put_texts(&mut self.pattern),
            "span_above" => value.put(&mut self.span_above),
            "keys_above" => value.put(&mut self.keys_above),
            "count_above" => value.put(&mut self.count_above),
            "repeats_above" => value.put(&mut self.repeats_above),
            "unlimited" => value.put(&mut self.unlimited),
            "pattern_glob" => value.put(&mut self.pattern_glob),
            "value_above" => value.put(&mut self.value_above),
            "no_ttl" => value.put(&mut self.no_ttl),
            "word" => value.put(&mut self.word),
            "no_word" => value.put(&mut self.no_word),
            "action" => value.put(&mut self.action),
            "limit" => value.put(&mut self.limit),
            "preflight" => value.put(&mut self.preflight),
            "to" => value.put(&mut self.to),
            "page" => value.put(&mut self.page),
            "every" => value.put(&mut self.every),
            "max_bytes" => value.put(&mut self.max_bytes),
            "max_elements" => value.put(&mut self.max_elements),
            "count" => value.put(&mut self.count),
            "batch" => value.put(&mut self.batch),
            "commands_per_second" => value.put(&mut self.commands_per_second),
            "bytes_per_second" => value.put(&mut self.bytes_per_second),
            "wait" => value.put(&mut self.wait),
            "per" => value.put(&mut self.per),
            "key_parts" => value.put(&mut self.key_parts),
            "mode" => value.put(&mut self.mode),
            "canary" => value.put(&mut self.canary),
            "message" => value.put(&mut self.message),
            _ => None,
        }
    }
}

// === impl Value ===

impl<'t> Value<'t> {
    /// Puts it where nothing is yet: a key that comes twice is an error.
    fn put<T: for<'de> Deserialize<'de>>(self, field: &mut Option<Spanned<T>>) -> Option<()> {
        // The types of a rule's values read themselves from whatever serde hands them, so a size or a time is
        // judged here by the same lines as behind the parser.
        let value = match self.is {
            Plain::Text(text) => {
                T::deserialize::<StrDeserializer<'_, Error>>(text.into_deserializer())
            }
            Plain::Number(number) => {
                T::deserialize::<I64Deserializer<Error>>(number.into_deserializer())
            }
            Plain::Truth(truth) => {
                T::deserialize::<BoolDeserializer<Error>>(truth.into_deserializer())
            }
            Plain::Texts(_) => return None,
        };
        let value = Spanned::new(self.span, value.ok()?);
        field.replace(value).is_none().then_some(())
    }

    /// The same with a list, whose texts stay where they are.
    fn put_texts(self, field: &mut Option<Texts<'t>>) -> Option<()> {
        let Plain::Texts(texts) = self.is else {
            return None;
        };
        field.replace(Spanned::new(self.span, texts)).is_none().then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::pieces;
    use super::*;

    /// A piece as the parser has it: what is written and where, to the last byte.
    fn parsed(piece: &str) -> Option<String> {
        let tables = pieces::read(piece)?;
        let [read] = &tables.rules[..] else {
            return None;
        };
        tables.keyspaces.is_empty().then(|| shown(read))
    }

    fn shown(read: &Read<WrittenRule<'_>>) -> String {
        format!("{:?} {:?} {}", read.written, read.place, read.is_whole)
    }

    fn plainly(piece: &str) -> Option<String> {
        rule(piece).as_ref().map(shown)
    }

    #[test]
    fn what_everybody_writes_is_read_and_means_what_the_parser_says() {
        let lists = "commands listeners users networks client_names libraries pattern keys";
        let texts = "word no_word action preflight to per mode message name";
        let sizes = "span_above value_above limit max_bytes bytes_per_second";
        let numbers = "keys_above count_above repeats_above page max_elements count batch \
                       commands_per_second key_parts canary";
        let mut piece = "[[rule]] # é\n\n  # all of it\r\n".to_owned();
        for (keys, value) in [
            (lists, "[\"a*\",\n  'b\\c\"' , # \"c\"\r\n\n \"é\",]"),
            (texts, "\"x 'y' # z\""),
            (sizes, "\"16MiB\""),
            (numbers, "10"),
            ("every wait", "\"5s\""),
            ("unlimited pattern_glob", "true"),
            ("no_ttl", "false"),
        ] {
            for key in keys.split_whitespace() {
                piece.push_str(&format!("\t{key}\t= {value} #\tso\n"));
            }
        }
        let read = plainly(&piece);
        assert!(read.is_some() && read == parsed(&piece), "{piece}\n{read:?}");
        for piece in ["[[rule]]", "[[rule]]\nkeys=[]", "[[rule]]\nname=\"\"\nlimit=0"] {
            assert_eq!(plainly(piece), parsed(piece), "{piece}");
            assert!(plainly(piece).is_some(), "{piece}");
        }
    }

    #[test]
    fn what_is_not_plain_is_left_to_the_parser() {
        for line in [
            "name = ''''''",
            "name = '''a'''",
            "name = 'a\"",
            "name = \"a\\tb\"",
            "name = \"\"\"a\"\"\"",
            "name = \"\"\"\"\"\"",
            "name = \"a\u{1}\"",
            "name = \"a",
            "name = 1",
            "name = \"a\"\nname = \"b\"",
            "name = \"a\" action = \"deny\"",
            "\"name\" = \"a\"",
            "name.x = \"a\"",
            "unheard = 1",
            "keys = [\"a\" \"b\"]",
            "keys = [,]",
            "keys = [\"a\",,]",
            "keys = [\"a\", 1]",
            "keys = [\"a\"",
            "keys = \"a\"",
            "limit = 1_000",
            "limit = 01",
            "limit = -1",
            "limit = 1.5",
            "limit = 99999999999999999999",
            "canary = 101",
            "unlimited = truely",
            "expires = 2027-01-31T18:00:00Z",
            "# \u{7f}",
            "name = \"a\"\rx",
            "[rule.x]",
            "[[rule]]",
        ] {
            assert!(rule(&format!("[[rule]]\n{line}\n")).is_none(), "{line}");
        }
        assert!(rule("[[rule]]x\n").is_none() && rule("[[keyspace]]\n").is_none());
    }

    mod properties {
        use super::*;
        use proptest::prelude::*;

        const KEYS: [&str; 8] =
            ["name", "keys", "commands", "limit", "unlimited", "canary", "message", "x"];
        const BEHIND_KEYS: [&str; 4] = [" = ", "=", "\t =\t", " "];
        const VALUES: [&str; 16] = [
            "\"a\"",
            "\"\"",
            "\"\"\"\"",
            "'a'",
            "\"#\"",
            "\"[[rule]]\"",
            "7",
            "00",
            "7k",
            "true",
            "truefalse",
            "[\"a\"]",
            "[ \"a\" ,\n\"b\",\r\n]",
            "[\"a\"\n# ]\n]",
            "[[\"a\"]]",
            "[]",
        ];
        const BEHIND_VALUES: [&str; 8] =
            ["\n", "", "\r\n", " # ]\n", "\n\n \t\n", "\"\n", ",\n", "\n[[rule]]\n"];

        fn line() -> impl Strategy<Value = String> {
            let one = |of: &'static [&'static str]| (0..of.len()).prop_map(move |at| of[at]);
            // The first of each are the likely ones: most lines ought to be right.
            let behind = prop_oneof![6 => Just("\n"), 1 => one(&BEHIND_VALUES)];
            let sign = prop_oneof![6 => Just(" = "), 1 => one(&BEHIND_KEYS)];
            (one(&KEYS), sign, one(&VALUES), behind)
                .prop_map(|(key, sign, value, behind)| format!("{key}{sign}{value}{behind}"))
        }

        proptest! {
            #![proptest_config(ProptestConfig::with_cases(4_096))]

            /// Whatever is written: what is read plainly is what the parser reads.
            #[test]
            fn a_plain_reading_is_the_parsers(lines in prop::collection::vec(line(), 0..4)) {
                let piece = format!("[[rule]]\n{}", lines.concat());
                if let Some(plainly) = plainly(&piece) {
                    prop_assert_eq!(Some(plainly), parsed(&piece));
                }
            }
        }
    }
}
