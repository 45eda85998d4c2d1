//! Inline commands: what a person types into telnet, re-encoded as multibulk.
//!
//! Owns the splitting of one line into arguments, with Redis's quoting rules (`sdssplitargs` of Redis 7.0), and
//! its encoding. Never forwards a line as it came. A line arrives without its LF and leaves as a multibulk
//! command plus spans into it; a blank line leaves as no spans at all, since Redis does not answer it.
//!
//! What surprises: a CR inside the line is a blank like any other and splits arguments.

use super::Span;
use super::write;

/// Why a line is no command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InlineError {
    /// A quote without its partner, or one that is not followed by a blank.
    UnbalancedQuotes,
    /// A NUL byte: Redis stops reading the line there and answers nothing, ever.
    Nul,
}

/// Splits `line` and appends its multibulk form to `encoded` and the arguments' places to `spans`.
///
/// # Errors
/// [`InlineError`]; what was appended until then is worthless.
pub fn encode(
    line: &[u8],
    encoded: &mut Vec<u8>,
    spans: &mut Vec<Span>,
) -> Result<(), InlineError> {
    if memchr::memchr(0, line).is_some() {
        return Err(InlineError::Nul);
    }
    let arguments = split(line)?;
    if arguments.is_empty() {
        return Ok(());
    }
    write::array_header(encoded, arguments.len());
    for argument in &arguments {
        write::bulk(encoded, argument);
        // A line is at most 64 KiB and quoting only shrinks it: 32 bits always suffice.
        let end = u32::try_from(encoded.len() - 2).unwrap_or(u32::MAX);
        let start = end - u32::try_from(argument.len()).unwrap_or(0);
        spans.push(Span { start, end });
    }
    Ok(())
}

fn split(line: &[u8]) -> Result<Vec<Vec<u8>>, InlineError> {
    let mut arguments = Vec::new();
    let mut rest = line;
    loop {
        while let [first, tail @ ..] = rest {
            if !is_blank(*first) {
                break;
            }
            rest = tail;
        }
        if rest.is_empty() {
            return Ok(arguments);
        }
        let (argument, tail) = argument(rest)?;
        arguments.push(argument);
        rest = tail;
    }
}

/// One argument: bare bytes and quoted parts up to the next blank. A closing quote must end the argument.
fn argument(mut rest: &[u8]) -> Result<(Vec<u8>, &[u8]), InlineError> {
    let mut argument = Vec::new();
    loop {
        match rest {
            [] => return Ok((argument, rest)),
            [b'"', tail @ ..] => return double_quoted(argument, tail),
            [b'\'', tail @ ..] => return single_quoted(argument, tail),
            [byte, tail @ ..] => {
                if is_blank(*byte) {
                    return Ok((argument, rest));
                }
                argument.push(*byte);
                rest = tail;
            }
        }
    }
}

fn double_quoted(mut argument: Vec<u8>, mut rest: &[u8]) -> Result<(Vec<u8>, &[u8]), InlineError> {
    loop {
        match rest {
            [] => return Err(InlineError::UnbalancedQuotes),
            [b'\\', b'x', high, low, tail @ ..]
                if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                argument.push(hex(*high) * 16 + hex(*low));
                rest = tail;
            }
            [b'\\', escaped, tail @ ..] => {
                argument.push(unescape(*escaped));
                rest = tail;
            }
            [b'"', tail @ ..] => return closed(argument, tail),
            [byte, tail @ ..] => {
                argument.push(*byte);
                rest = tail;
            }
        }
    }
}

fn single_quoted(mut argument: Vec<u8>, mut rest: &[u8]) -> Result<(Vec<u8>, &[u8]), InlineError> {
    loop {
        match rest {
            [] => return Err(InlineError::UnbalancedQuotes),
            [b'\\', b'\'', tail @ ..] => {
                argument.push(b'\'');
                rest = tail;
            }
            [b'\'', tail @ ..] => return closed(argument, tail),
            [byte, tail @ ..] => {
                argument.push(*byte);
                rest = tail;
            }
        }
    }
}

fn closed(argument: Vec<u8>, rest: &[u8]) -> Result<(Vec<u8>, &[u8]), InlineError> {
    match rest.first() {
        Some(byte) if !is_blank(*byte) => Err(InlineError::UnbalancedQuotes),
        _ => Ok((argument, rest)),
    }
}

/// C's `isspace` in the POSIX locale, which is what Redis uses.
fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | 0x0b | 0x0c | b'\r')
}

fn unescape(byte: u8) -> u8 {
    match byte {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 0x08,
        b'a' => 0x07,
        other => other,
    }
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => digit.wrapping_sub(b'A').wrapping_add(10),
    }
}

#[cfg(test)]
mod tests {
    use super::{InlineError, split};

    #[test]
    fn lines_are_split_as_redis_splits_them() {
        let table: [(&[u8], &[&[u8]]); 10] = [
            (b"PING", &[b"PING"]),
            (b"  SET  a\tb \r", &[b"SET", b"a", b"b"]),
            (b"SET a\rb", &[b"SET", b"a", b"b"]),
            (br#"SET k "a b""#, &[b"SET", b"k", b"a b"]),
            (br#"SET k "\x41\n\t\"\\""#, &[b"SET", b"k", b"A\n\t\"\\"]),
            (br#"SET k "\xzz""#, &[b"SET", b"k", b"xzz"]),
            (br"SET k 'it\'s \n'", &[b"SET", b"k", br"it's \n"]),
            (br#"GET """#, &[b"GET", b""]),
            (br#"GET a"b""#, &[b"GET", b"ab"]),
            (b" \t\r", &[]),
        ];
        for (line, want) in table {
            let got = split(line).unwrap();
            assert_eq!(got, want, "{line:?}");
        }
    }

    #[test]
    fn unmatched_quotes_are_refused() {
        for line in [&br#"GET "a"#[..], b"GET 'a", br#"GET "a"b"#, b"GET 'a'b", br#"GET "a\"#] {
            assert_eq!(split(line), Err(InlineError::UnbalancedQuotes), "{line:?}");
        }
    }
}
