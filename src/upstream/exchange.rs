//! A connection that asks one thing at a time: the handshake of a lane, and the control plane.
//!
//! Owns the socket while nobody shares it, and the bytes read beyond the reply in hand. Never
//! pipelines for sessions, never keeps more than a fixed number of bytes. Commands leave as given;
//! replies arrive whole, after the scanner has checked their nesting, so that redis-protocol may
//! decode them.
//!
//! What surprises: this is the only place that awaits a reply. Lanes never do.

use std::future::poll_fn;
use std::io::{self, IoSlice};

use bytes::Bytes;

use crate::clock::Micros;
use crate::net::{Halves, ReadHalf, WriteHalf};
use crate::resp::limits::DECODED_DEPTH_CEILING;
use crate::resp::reply::{ReplyError, ReplyScanner};
use crate::upstream::deployment::footing::Footing;

/// A connection for questions and answers.
#[derive(Debug)]
pub struct Exchange {
    read: ReadHalf,
    write: WriteHalf,
    /// Bytes read and not yet part of a reply that was returned.
    buffer: Vec<u8>,
    /// What the peer calls this connection, if it was asked.
    pub node_client_id: Option<u64>,
    /// What it was made with.
    pub footing: Footing,
    /// Not to be asked about newer credentials before.
    pub renew_at: Micros,
}

/// Why no reply came.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The socket failed, or the peer closed it.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// What came is no RESP.
    #[error("the peer does not speak the Redis protocol ({0})")]
    Protocol(#[from] ReplyError),
    /// The reply exceeds [`REPLY_BYTES_MAX`].
    #[error("the reply is longer than {REPLY_BYTES_MAX} bytes")]
    TooLong,
}

/// Longest reply that the control plane takes; `COMMAND` of a server with many modules is below 1
/// MiB.
pub const REPLY_BYTES_MAX: usize = 16 * 1024 * 1024;

// === impl Exchange ===

impl Exchange {
    /// Takes over a connected socket.
    #[must_use]
    pub fn new((read, write): Halves) -> Self {
        let footing = Footing::default();
        Self { read, write, buffer: Vec::new(), node_client_id: None, footing, renew_at: 0 }
    }

    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// Those of the socket.
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let count = poll_fn(|cx| self.write.poll_write(cx, &[IoSlice::new(rest)])).await?;
            if count == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            rest = rest.get(count..).unwrap_or_default();
        }
        poll_fn(|cx| self.write.poll_flush(cx)).await
    }

    /// Reads the next whole reply.
    ///
    /// # Errors
    /// [`ExchangeError`]; the connection is useless afterwards.
    pub async fn reply(&mut self) -> Result<Bytes, ExchangeError> {
        let mut scanner = ReplyScanner::with_depth(DECODED_DEPTH_CEILING);
        let mut seen = 0;
        loop {
            let progress = scanner.scan(self.buffer.get(seen..).unwrap_or_default())?;
            seen += progress.consumed;
            if progress.complete {
                let rest = self.buffer.split_off(seen);
                return Ok(Bytes::from(std::mem::replace(&mut self.buffer, rest)));
            }
            if self.buffer.len() > REPLY_BYTES_MAX {
                return Err(ExchangeError::TooLong);
            }
            self.read_more().await?;
        }
    }

    /// Whether bytes have come that no reply claimed; after a handshake there must be none.
    #[must_use]
    pub fn has_leftover(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// Gives the socket back.
    #[must_use]
    pub fn into_halves(self) -> Halves {
        (self.read, self.write)
    }

    async fn read_more(&mut self) -> io::Result<()> {
        let mut piece = [0; 4096];
        let count = poll_fn(|cx| self.read.poll_read(cx, &mut piece)).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.buffer.extend_from_slice(piece.get(..count).unwrap_or_default());
        Ok(())
    }
}
