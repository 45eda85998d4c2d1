//! Commands: which one a request is, what it does to a connection, and which arguments are its keys.
//!
//! Owns [`Command`], the view of one framed request that the other stations pass around, and the
//! table of everything the servers know ([`table`], made from `commands.tsv`, overlaid by what the
//! upstream says about itself in [`overlay`]). Never does I/O, never copies an argument, and never
//! decides where a command goes or whether it may.
//!
//! A surprise: Redis compares option words as C strings, so `STORE` followed by a NUL byte and
//! anything else *is* `STORE` to it, while names of commands are compared whole. We do as it does,
//! or `XREAD` with a disguised `BLOCK` would reach a lane.

mod builtin;
pub mod errors;
pub mod flags;
mod index;
pub mod keys;
pub mod overlay;
pub mod spec;
pub mod table;

use std::ops::Range;

use crate::resp::Span;

/// One request as the scanner framed it: a name and its arguments, all inside `frame`.
#[derive(Clone, Copy, Debug)]
pub struct Command<'a> {
    /// The bytes of the whole request, as they can be forwarded.
    frame: &'a [u8],
    /// Where the arguments lie in `frame`; the first is the name.
    arguments: &'a [Span],
}

// === impl Command ===

impl<'a> Command<'a> {
    /// A view of `frame`, whose arguments lie at `arguments` (the first is the command's name).
    ///
    /// Spans outside of `frame` read as empty arguments; the scanner makes none.
    pub fn new(frame: &'a [u8], arguments: &'a [Span]) -> Command<'a> {
        debug_assert!(arguments.iter().all(|span| span.start <= span.end));
        debug_assert!(arguments.iter().all(|span| span.end as usize <= frame.len()));
        Command { frame, arguments }
    }

    /// How many arguments there are, the name included: what Redis calls `argc`.
    pub fn len(&self) -> usize {
        self.arguments.len()
    }

    /// Whether not even a name is there; the scanner swallows such requests, as Redis does.
    pub fn is_empty(&self) -> bool {
        self.arguments.is_empty()
    }

    /// The argument at `index`, 0 being the name; `None` behind the last.
    #[inline]
    pub fn argument(&self, index: usize) -> Option<&'a [u8]> {
        self.arguments.get(index).map(|span| self.bytes(*span))
    }

    /// The name as the client spelled it, in whatever case; empty if there is none.
    #[inline]
    pub fn name(&self) -> &'a [u8] {
        self.argument(0).unwrap_or_default()
    }

    /// All arguments in order, the name first.
    pub fn arguments(&self) -> impl ExactSizeIterator<Item = &'a [u8]> + use<'a> {
        let command = *self;
        self.arguments.iter().map(move |span| command.bytes(*span))
    }

    /// The bytes of some arguments as they stand in the request, each with the line of its length; empty where there
    /// are no such arguments.
    #[inline]
    pub fn raw(&self, range: Range<usize>) -> &'a [u8] {
        // Arguments lie one behind the other, two bytes of line end between one's bytes and the next one's line.
        let line_end = |span: &Span| span.end as usize + 2;
        let start = match range.start.checked_sub(1) {
            Some(before) => self.arguments.get(before).map(line_end),
            None => memchr::memchr(b'\n', self.frame).map(|header| header + 1),
        };
        let end = range.end.checked_sub(1).and_then(|last| self.arguments.get(last)).map(line_end);
        match (start, end) {
            (Some(start), Some(end)) => self.frame.get(start..end).unwrap_or_default(),
            _ => &[],
        }
    }

    /// The bytes of the whole request.
    pub fn frame(&self) -> &'a [u8] {
        self.frame
    }

    /// Whether the argument at `index` is the option `word` to Redis: in any case, cut at a NUL byte.
    pub fn has_word_at(&self, index: usize, word: &str) -> bool {
        self.argument(index).is_some_and(|argument| is_word(argument, word))
    }

    /// Whether this is a line of HTTP (`POST …`, `Host: …`), upon which Redis closes the connection:
    /// somebody's browser may have been tricked into talking to us (cross-protocol scripting).
    pub fn is_http(&self) -> bool {
        HTTP_NAMES.iter().any(|name| is_word(self.name(), name))
    }

    /// The bytes of one span; empty where a span does not fit the frame.
    #[inline]
    fn bytes(&self, span: Span) -> &'a [u8] {
        self.frame.get(span.start as usize..span.end as usize).unwrap_or_default()
    }
}

/// Names upon which Redis closes the connection. Servers before 7.0 even list them in their COMMAND
/// reply, flagged readonly; on a lane they would take everybody's connection down.
const HTTP_NAMES: [&str; 2] = ["post", "host:"];

/// Whether `argument` is `word` as C sees it: case does not matter, and a NUL byte ends it.
fn is_word(argument: &[u8], word: &str) -> bool {
    until_nul(argument).eq_ignore_ascii_case(word.as_bytes())
}

/// The part of an argument that C code which knows no length sees.
fn until_nul(argument: &[u8]) -> &[u8] {
    argument.split(|byte| *byte == 0).next().unwrap_or_default()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Arguments written out as a request, for the tests of this folder.
    pub(crate) struct Request {
        frame: Vec<u8>,
        spans: Vec<Span>,
    }

    impl Request {
        pub(crate) fn new<A: AsRef<[u8]>>(arguments: &[A]) -> Request {
            let mut frame = format!("*{}\r\n", arguments.len()).into_bytes();
            let mut spans = Vec::new();
            for argument in arguments.iter().map(AsRef::as_ref) {
                frame.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
                let start = frame.len() as u32;
                frame.extend_from_slice(argument);
                spans.push(Span { start, end: frame.len() as u32 });
                frame.extend_from_slice(b"\r\n");
            }
            Request { frame, spans }
        }

        /// A request out of words without blanks in them.
        pub(crate) fn words(line: &str) -> Request {
            Request::new(&line.split_whitespace().collect::<Vec<_>>())
        }

        pub(crate) fn command(&self) -> Command<'_> {
            Command::new(&self.frame, &self.spans)
        }
    }

    #[test]
    fn a_command_shows_its_name_and_arguments() {
        let request = Request::new(&["SET", "k", ""]);
        let command = request.command();
        assert_eq!(command.name(), b"SET");
        assert_eq!(command.len(), 3);
        assert_eq!(command.argument(2), Some(&b""[..]));
        assert_eq!(command.argument(3), None);
        assert_eq!(command.arguments().collect::<Vec<_>>(), [&b"SET"[..], b"k", b""]);
        assert!(command.frame().starts_with(b"*3\r\n$3\r\nSET\r\n"));
        assert!(!command.is_empty());
        assert!(Request::words("").command().is_empty());
    }

    #[test]
    fn arguments_are_copied_with_the_lines_of_their_lengths() {
        let request = Request::new(&["SET", "k", ""]);
        let command = request.command();
        assert_eq!(command.raw(0..1), b"$3\r\nSET\r\n");
        assert_eq!(command.raw(1..3), b"$1\r\nk\r\n$0\r\n\r\n");
        assert_eq!(command.raw(0..3), &command.frame()[4..]);
        for nothing in [0..0, 1..1, 3..3, 2..4, 7..9] {
            assert_eq!(command.raw(nothing.clone()), b"", "{nothing:?}");
        }
    }

    #[test]
    fn a_word_ends_at_a_nul_byte_and_has_no_case() {
        let request = Request::new(&[&b"SORT"[..], b"StoRe\0x", b"stor", b"store "]);
        assert!(request.command().has_word_at(1, "store"));
        assert!(!request.command().has_word_at(2, "store"));
        assert!(!request.command().has_word_at(3, "store"));
        assert!(!request.command().has_word_at(4, "store"));
    }

    #[test]
    fn http_is_recognised_in_any_case() {
        assert!(Request::words("POST / HTTP/1.1").command().is_http());
        assert!(Request::words("hOST: example.org").command().is_http());
        assert!(!Request::words("host").command().is_http());
    }
}
