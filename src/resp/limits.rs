//! Every bound of the protocol, by name, with Redis's own limit beside it.
//!
//! The constants are ceilings: a configuration may lower them and never raise them. Nothing here allocates or
//! measures; the scanners are handed a [`Limits`] and compare. What surprises: our ceilings are *below* Redis's
//! where Redis would accept more than a shared connection can carry (1,048,577 arguments, for one).

/// Largest bulk argument or bulk reply. Redis: `proto-max-bulk-len`, 512 MB by default.
pub const BULK_BYTES_CEILING: usize = 512 * 1024 * 1024;
/// Most arguments of one command. Redis 7.0 accepts up to `INT_MAX`; before authentication 10.
pub const ARGUMENTS_CEILING: usize = 1_048_576;
/// Longest inline command. Redis: `PROTO_INLINE_MAX_SIZE`, 64 KiB.
pub const INLINE_BYTES_CEILING: usize = 64 * 1024;
/// Longest header line (`*…` or `$…`) of a request; Redis uses `PROTO_INLINE_MAX_SIZE` here as well.
pub const HEADER_BYTES_CEILING: usize = 32;
/// Longest whole command, framing included. Redis: `client-query-buffer-limit`, 1 GiB by default.
pub const REQUEST_BYTES_CEILING: usize = 1024 * 1024 * 1024;
/// Longest simple string, error or big number in a reply. Redis has no limit; its own are far shorter.
pub const LINE_BYTES_CEILING: usize = 1024 * 1024;
/// Deepest nesting of aggregates in a reply. Redis's own replies nest fewer than ten levels, but a script may return
/// a table that contains itself: redis-server 7.0.15 sends 7,995 levels then, as many as Lua's stack allows.
pub const REPLY_DEPTH_CEILING: usize = 8192;
/// Deepest nesting of what is decoded by functions that call themselves.
pub const DECODED_DEPTH_CEILING: usize = 32;
/// Most arguments that a client may send before it has authenticated. Redis: 10.
pub const ARGUMENTS_BEFORE_AUTH: usize = 10;
/// Longest bulk that a client may send before it has authenticated. Redis: 16 KiB.
pub const BULK_BYTES_BEFORE_AUTH: usize = 16 * 1024;

/// The bounds in force for one listener: the ceilings, or what the configuration lowered them to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest bulk argument in bytes, at most [`BULK_BYTES_CEILING`].
    pub bulk_bytes: usize,
    /// Most arguments of a command, at most [`ARGUMENTS_CEILING`].
    pub arguments: usize,
    /// Longest inline command in bytes, at most [`INLINE_BYTES_CEILING`].
    pub inline_bytes: usize,
    /// Longest whole command in bytes, at most [`REQUEST_BYTES_CEILING`].
    pub request_bytes: usize,
}

// === impl Limits ===

impl Default for Limits {
    fn default() -> Self {
        Self {
            bulk_bytes: BULK_BYTES_CEILING,
            arguments: ARGUMENTS_CEILING,
            inline_bytes: INLINE_BYTES_CEILING,
            request_bytes: REQUEST_BYTES_CEILING,
        }
    }
}
