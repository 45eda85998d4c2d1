//! Scripts: what they may do, and what is done about one that does not end.
//!
//! Owns the judgement of a script before it runs: [`lexer`] and [`lint`] read its text, [`check`] does
//! so for CI. Never runs one.

pub mod check;
pub mod lexer;
pub mod lint;

/// Longest script that is looked into. Nobody writes one of this length by hand, and reading it takes a
/// few milliseconds of a worker's time.
pub const SCRIPT_BYTES_MAX: usize = 256 * 1024;
