//! The reply scanner: finds where one reply of a server ends, in RESP2 and RESP3.
//!
//! Owns the resumable state of one reply: how deep it nests and how many elements or bytes are still to come.
//! Never keeps a byte, never recurses, never reserves memory by a declared length. The bytes of a reply arrive
//! in any number of pieces and each piece leaves as a [`Progress`]: how much of it belongs to this reply, and
//! whether the reply is whole.
//!
//! What surprises: an attribute (`|`) is part of the reply that follows it (INV-1), so it never completes a
//! reply and never counts as an element. Streamed types (`$?`, `*?`) are refused: no server sends them, and
//! they have no length to account for.

use super::limits::{HEADER_BYTES_CEILING, LINE_BYTES_CEILING, REPLY_DEPTH_CEILING};
use super::{parse_integer, short_header};

/// What one piece of input did for the reply in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the piece that belong to this reply. What is behind them must be presented again: it is the
    /// next reply if `complete`, otherwise the beginning of a header line of at most 32 bytes.
    pub consumed: usize,
    /// Whether the reply ends with these bytes.
    pub complete: bool,
}

/// Why the bytes of a server are no reply. The lane is closed: nobody is given a guess (INV-1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// A type byte that RESP does not know.
    #[error("unknown type byte 0x{0:02x}")]
    UnknownType(u8),
    /// A length or count that is not a canonical number, or above its limit.
    #[error("invalid length")]
    InvalidLength,
    /// A streamed string or aggregate (`$?`, `*?`), which no Redis server sends.
    #[error("streamed type")]
    Streamed,
    /// A line without its CR, or a bulk without its CRLF.
    #[error("missing CRLF")]
    MissingTerminator,
    /// A simple line above its limit.
    #[error("line too long")]
    LineTooLong,
    /// More levels of nesting than the limit.
    #[error("nested too deeply")]
    TooDeep,
    /// A push inside another reply.
    #[error("push inside a reply")]
    NestedPush,
}

/// Resumable scanner of one reply at a time.
#[derive(Debug)]
pub struct ReplyScanner {
    /// Elements still to come at the outer open levels. Each is at least 1.
    open: [u64; SHALLOW],
    /// The same for the levels from [`SHALLOW`] on, which only replies of scripts reach.
    deep: Vec<u64>,
    /// Most levels; at most [`REPLY_DEPTH_CEILING`].
    depth_max: usize,
    /// Open levels; `1 <= depth <= depth_max` while a reply is in progress. Level 1 is the reply.
    depth: usize,
    /// What the next byte belongs to.
    state: State,
    /// The first type byte that is no attribute, once seen: what kind of reply this is.
    kind: Option<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// A type byte.
    Element,
    /// Payload and CRLF of a bulk: that many bytes to come, at least 1.
    Bulk { left: u64 },
    /// The rest of a simple line; `seen` bytes of it have passed, `cr` if the last one was a CR.
    Line { seen: usize, cr: bool },
}

// === impl ReplyScanner ===

impl Default for ReplyScanner {
    fn default() -> Self {
        Self::with_depth(REPLY_DEPTH_CEILING)
    }
}

impl ReplyScanner {
    /// A scanner of replies that nest at most `depth_max` levels.
    #[must_use]
    pub fn with_depth(depth_max: usize) -> Self {
        let mut open = [0; SHALLOW];
        open[0] = 1;
        let state = State::Element;
        Self { open, deep: Vec::new(), depth_max, depth: 1, state, kind: None }
    }

    /// Looks at the next piece of the reply.
    ///
    /// After a complete reply the scanner is ready for the next one; [`Self::kind`] is asked before that.
    ///
    /// # Errors
    /// [`ReplyError`]; the scanner is useless afterwards, and so is the connection.
    pub fn scan(&mut self, input: &[u8]) -> Result<Progress, ReplyError> {
        if self.depth == 0 {
            if let Some(consumed) = usual(input) {
                self.kind = input.first().copied();
                return Ok(Progress { consumed, complete: true });
            }
            // Only what the next reply reads is reset: the deeper levels are written before they are read.
            self.open[0] = 1;
            self.depth = 1;
            self.kind = None;
            self.deep = Vec::new();
        }
        let mut position = 0;
        while let Some(&byte) = input.get(position) {
            let consumed = match self.state {
                State::Element => self.element(byte, input.get(position..).unwrap_or_default())?,
                State::Bulk { left } => {
                    self.bulk(left, input.get(position..).unwrap_or_default())?
                }
                State::Line { seen, cr } => {
                    self.line(seen, cr, input.get(position..).unwrap_or_default())?
                }
            };
            if consumed == 0 {
                // The beginning of a header line: it is wanted again, with more behind it.
                return Ok(Progress { consumed: position, complete: false });
            }
            position += consumed;
            if self.depth == 0 {
                return Ok(Progress { consumed: position, complete: true });
            }
        }
        Ok(Progress { consumed: position, complete: false })
    }

    /// Whether the next byte begins a reply.
    #[must_use]
    pub fn is_between_replies(&self) -> bool {
        self.depth == 0
    }

    /// The type byte of the reply in progress or just completed, attributes apart; `None` before it was seen.
    #[must_use]
    pub fn kind(&self) -> Option<u8> {
        self.kind
    }

    /// Bytes that are certainly still to come: the rest of the bulk in progress. 0 if unknown.
    #[must_use]
    pub fn bulk_left(&self) -> u64 {
        match self.state {
            State::Bulk { left } => left,
            _ => 0,
        }
    }

    fn element(&mut self, kind: u8, rest: &[u8]) -> Result<usize, ReplyError> {
        if matches!(kind, b'+' | b'-' | b':' | b',' | b'(' | b'#' | b'_') {
            self.note_kind(kind)?;
            self.state = State::Line { seen: 0, cr: false };
            return Ok(1);
        }
        if !matches!(kind, b'$' | b'=' | b'!' | b'*' | b'~' | b'%' | b'|' | b'>') {
            return Err(ReplyError::UnknownType(kind));
        }
        let Some((length, consumed)) = length_line(rest)? else {
            return Ok(0);
        };
        if kind != b'|' {
            self.note_kind(kind)?;
        }
        match kind {
            b'$' | b'=' | b'!' => self.begin_bulk(length)?,
            b'%' | b'|' => self.begin_aggregate(kind, length, 2)?,
            _ => self.begin_aggregate(kind, length, 1)?,
        }
        Ok(consumed)
    }

    fn note_kind(&mut self, kind: u8) -> Result<(), ReplyError> {
        if self.kind.is_none() && self.depth == 1 {
            self.kind = Some(kind);
        } else if kind == b'>' {
            return Err(ReplyError::NestedPush);
        }
        Ok(())
    }

    fn begin_bulk(&mut self, length: Option<u64>) -> Result<(), ReplyError> {
        match length {
            None => self.element_done(),
            Some(length) if length > BULK_REPLY_CEILING => return Err(ReplyError::InvalidLength),
            Some(length) => self.state = State::Bulk { left: length + 2 },
        }
        Ok(())
    }

    fn begin_aggregate(
        &mut self,
        kind: u8,
        count: Option<u64>,
        each: u64,
    ) -> Result<(), ReplyError> {
        let elements = match count {
            Some(count) if count > ELEMENTS_CEILING => return Err(ReplyError::InvalidLength),
            Some(count) => count * each,
            None if kind == b'*' => 0,
            None => return Err(ReplyError::InvalidLength),
        };
        // An attribute precedes an element of its level; everything else *is* one.
        if kind != b'|' {
            if elements == 0 {
                self.element_done();
                return Ok(());
            }
            self.count_down();
        } else if elements == 0 {
            return Ok(());
        }
        if self.depth >= self.depth_max {
            return Err(ReplyError::TooDeep);
        }
        match self.open.get_mut(self.depth) {
            Some(level) => *level = elements,
            None => self.deep.push(elements),
        }
        self.depth += 1;
        Ok(())
    }

    /// Takes one element off the innermost level without closing it: its own elements come first.
    fn count_down(&mut self) {
        let left = match self.depth.checked_sub(SHALLOW + 1) {
            None => self.open.get_mut(self.depth - 1),
            Some(_) => self.deep.last_mut(),
        };
        if let Some(left) = left {
            *left -= 1;
        }
    }

    /// One whole element has passed: closes every level that waits for nothing more.
    fn element_done(&mut self) {
        self.state = State::Element;
        self.count_down();
        while self.deep.last() == Some(&0) {
            self.deep.pop();
            self.depth -= 1;
        }
        if !self.deep.is_empty() {
            return;
        }
        while self.depth > 0 && self.open.get(self.depth - 1) == Some(&0) {
            self.depth -= 1;
        }
        // A closed attribute at level 2 uncovers level 1, which still waits for the element it decorates.
    }

    fn bulk(&mut self, left: u64, rest: &[u8]) -> Result<usize, ReplyError> {
        let available = rest.len() as u64;
        if available >= left {
            let consumed = usize::try_from(left).map_err(|_| ReplyError::InvalidLength)?;
            check_terminator(rest.get(..consumed).unwrap_or_default(), left)?;
            self.element_done();
            return Ok(consumed);
        }
        // A piece may end between CR and LF: the part of the terminator that is here is checked here.
        check_terminator(rest, left)?;
        self.state = State::Bulk { left: left - available };
        Ok(rest.len())
    }

    fn line(&mut self, seen: usize, cr: bool, rest: &[u8]) -> Result<usize, ReplyError> {
        let Some(newline) = memchr::memchr(b'\n', rest) else {
            let seen = seen + rest.len();
            if seen > LINE_BYTES_CEILING {
                return Err(ReplyError::LineTooLong);
            }
            self.state = State::Line { seen, cr: rest.last() == Some(&b'\r') };
            return Ok(rest.len());
        };
        let has_cr = match newline.checked_sub(1) {
            None => cr,
            Some(before) => rest.get(before) == Some(&b'\r'),
        };
        if !has_cr {
            return Err(ReplyError::MissingTerminator);
        }
        self.element_done();
        Ok(newline + 1)
    }
}

/// The bytes of the reply that `input` begins with, if it is whole, one element, and no error: what most replies
/// are. `None` says nothing of any other; a [`ReplyScanner`] that has no reply in progress judges it.
#[inline]
#[must_use]
pub fn usual(input: &[u8]) -> Option<usize> {
    let end = match input.first()? {
        b'$' => match short_header(input, 0) {
            Some((length, start)) => start + length + 2,
            None if input.starts_with(b"$-1\r\n") => return Some(5),
            None => return None,
        },
        b'+' | b':' | b'_' | b'#' | b',' => memchr::memchr(b'\n', input)? + 1,
        _ => return None,
    };
    (input.get(end - 2..end) == Some(b"\r\n")).then_some(end)
}

/// Reads `<type><digits>\r\n`: the length (`None` for -1) and the bytes of the line; `None` if it is not whole.
fn length_line(rest: &[u8]) -> Result<Option<(Option<u64>, usize)>, ReplyError> {
    for (index, &byte) in rest.iter().enumerate().take(HEADER_BYTES_CEILING).skip(1) {
        match byte {
            b'\r' => {
                // The digits are judged before the LF is there: what is wanted again stays below the ceiling.
                let length = length(rest.get(1..index).unwrap_or_default())?;
                return match rest.get(index + 1) {
                    None => Ok(None),
                    Some(b'\n') => Ok(Some((length, index + 2))),
                    Some(_) => Err(ReplyError::MissingTerminator),
                };
            }
            b'?' => return Err(ReplyError::Streamed),
            _ => {}
        }
    }
    if rest.len() >= HEADER_BYTES_CEILING { Err(ReplyError::InvalidLength) } else { Ok(None) }
}

fn length(digits: &[u8]) -> Result<Option<u64>, ReplyError> {
    match parse_integer(digits) {
        Some(-1) => Ok(None),
        Some(length) => u64::try_from(length).map(Some).map_err(|_| ReplyError::InvalidLength),
        None => Err(ReplyError::InvalidLength),
    }
}

/// Checks whatever part of the closing CRLF lies in `piece`, when `left` bytes were to come before it.
fn check_terminator(piece: &[u8], left: u64) -> Result<(), ReplyError> {
    let cr = left.checked_sub(2).and_then(|at| usize::try_from(at).ok());
    let lf = left.checked_sub(1).and_then(|at| usize::try_from(at).ok());
    let wrong = |at: Option<usize>, want: u8| {
        at.and_then(|at| piece.get(at)).is_some_and(|&byte| byte != want)
    };
    if wrong(cr, b'\r') || wrong(lf, b'\n') {
        return Err(ReplyError::MissingTerminator);
    }
    Ok(())
}

/// Largest bulk of a reply: Redis's `proto-max-bulk-len` may be raised, but never above 32 bits on the wire.
const BULK_REPLY_CEILING: u64 = u32::MAX as u64;
/// Most elements of one aggregate; Redis counts them with 32 bits (pairs of a map with 31).
const ELEMENTS_CEILING: u64 = u32::MAX as u64;

/// Levels that need no allocation.
const SHALLOW: usize = 32;

#[cfg(test)]
mod tests;
