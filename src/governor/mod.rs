//! Scripts: what they may do, and what is done about one that does not end.
//!
//! Owns the judgement of a script before it runs: [`lexer`] and [`lint`] read its text.
//! Never runs one.

pub mod lexer;
pub mod lint;
