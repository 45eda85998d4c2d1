//! A queue of bytes on their way to a socket, in chunks.
//!
//! Owns the bytes that a session owes its client or a lane owes its node, and the positions of what the kernel
//! has taken and what may be forgotten. Never touches a socket, never copies a large value, never moves bytes
//! that it holds. Small pieces are gathered in pooled chunks; large ones are kept as shared [`Bytes`].
//!
//! What surprises: *sent* is not *released*. A lane keeps what the kernel took until the reply has come, because
//! a command may have to be sent again on a new connection (INV-3). A session releases at once.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::Bytes;

/// Bytes of one pooled chunk. Holds a pipeline of two hundred small commands, and fits the L1 cache.
pub const CHUNK_BYTES: usize = 16 * 1024;

/// Bytes of the first chunk of an empty queue: a lone small reply must not cost its client four pages, because
/// one read of a lane can bring replies for thousands of clients.
const SMALL_CHUNK_BYTES: usize = 1024;

/// Pieces from this size on are kept as they are instead of being gathered.
pub const LARGE_BYTES: usize = CHUNK_BYTES;

/// Chunks that a pool keeps for reuse (1 MiB); more are given back to the allocator.
const POOLED_CHUNKS: usize = 64;

/// Small chunks that a pool keeps for reuse (256 KiB).
const POOLED_SMALL_CHUNKS: usize = 256;

/// Most slices handed to one vectored write; more bring nothing once a write carries hundreds of kilobytes.
pub const SLICES: usize = 32;

/// Spare chunks of one worker, so that the steady state allocates nothing.
#[derive(Debug, Default)]
pub struct ChunkPool {
    spare: Vec<Vec<u8>>,
    small: Vec<Vec<u8>>,
}

/// One piece of the queue.
#[derive(Debug)]
enum Chunk {
    /// Gathered small pieces, at most its capacity.
    Gathered(Vec<u8>),
    /// One large piece.
    Shared(Bytes),
}

/// Bytes on their way into a queue, or out of it into another.
#[derive(Clone, Debug)]
pub enum Piece<'a> {
    /// Bytes that somebody else keeps; copied when appended.
    Borrowed(&'a [u8]),
    /// A large piece that moves without a copy.
    Shared(Bytes),
}

/// The queue. Positions count bytes since the queue was made: `released <= sent <= end`.
#[derive(Debug, Default)]
pub struct SendBuffer {
    chunks: VecDeque<Chunk>,
    /// Position of the first byte of the first chunk; `front <= released`.
    front: u64,
    /// Bytes before this position may be forgotten.
    released: u64,
    /// Bytes before this position were taken by the kernel (with TLS: by rustls).
    sent: u64,
    /// Position behind the last byte.
    end: u64,
}

// === impl ChunkPool ===

impl ChunkPool {
    fn take(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_else(|| Vec::with_capacity(CHUNK_BYTES))
    }

    fn take_small(&mut self) -> Vec<u8> {
        self.small.pop().unwrap_or_else(|| Vec::with_capacity(SMALL_CHUNK_BYTES))
    }

    fn give(&mut self, mut chunk: Vec<u8>) {
        let (list, most) = match chunk.capacity() {
            CHUNK_BYTES => (&mut self.spare, POOLED_CHUNKS),
            SMALL_CHUNK_BYTES => (&mut self.small, POOLED_SMALL_CHUNKS),
            _ => return,
        };
        if list.len() < most {
            chunk.clear();
            list.push(chunk);
        }
    }

    /// Gives every spare chunk back to the allocator; called when a worker has been idle.
    pub fn shrink(&mut self) {
        self.spare = Vec::new();
        self.small = Vec::new();
    }
}

// === impl Chunk ===

impl Chunk {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Gathered(bytes) => bytes,
            Self::Shared(bytes) => bytes,
        }
    }

    /// Cuts the chunk in two; the first part is `None` if it would be empty.
    fn split_at(self, keep: usize) -> (Option<Self>, Self) {
        match self {
            Self::Gathered(mut bytes) if keep > 0 => {
                let cut = bytes.split_off(keep);
                (Some(Self::Gathered(bytes)), Self::Gathered(cut))
            }
            Self::Shared(mut bytes) if keep > 0 => {
                let cut = bytes.split_off(keep);
                (Some(Self::Shared(bytes)), Self::Shared(cut))
            }
            whole => (None, whole),
        }
    }
}

// === impl Piece ===

impl Piece<'_> {
    /// The bytes themselves.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            Self::Shared(bytes) => bytes,
        }
    }
}

// === impl SendBuffer ===

impl SendBuffer {
    /// Appends a copy of `bytes` in one piece: it lies in one chunk, so that [`Self::piece`] can return it.
    pub fn append_whole(&mut self, pool: &mut ChunkPool, bytes: &[u8]) {
        self.end += bytes.len() as u64;
        if let Some(Chunk::Gathered(last)) = self.chunks.back_mut()
            && last.capacity() - last.len() >= bytes.len()
        {
            last.extend_from_slice(bytes);
            return;
        }
        let mut chunk = if bytes.len() <= CHUNK_BYTES { pool.take() } else { Vec::new() };
        chunk.extend_from_slice(bytes);
        self.chunks.push_back(Chunk::Gathered(chunk));
    }

    /// Appends a copy of `bytes`, filling up chunks: for replies, which nobody asks for again.
    // Inlined as far as they fit the last chunk: before a cluster many are copied one by one.
    #[inline]
    pub fn append(&mut self, pool: &mut ChunkPool, bytes: &[u8]) {
        self.end += bytes.len() as u64;
        match self.chunks.back_mut() {
            Some(Chunk::Gathered(last)) if last.capacity() - last.len() >= bytes.len() => {
                last.extend_from_slice(bytes);
            }
            _ => self.fill(pool, bytes),
        }
    }

    /// Copies what does not fit the last chunk.
    fn fill(&mut self, pool: &mut ChunkPool, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = match self.chunks.back_mut() {
                Some(Chunk::Gathered(last)) => {
                    let room = (last.capacity() - last.len()).min(bytes.len());
                    let (head, tail) = bytes.split_at(room);
                    last.extend_from_slice(head);
                    bytes = tail;
                    room
                }
                _ => 0,
            };
            if room == 0 {
                let is_small = self.chunks.is_empty() && bytes.len() <= SMALL_CHUNK_BYTES;
                let chunk = if is_small { pool.take_small() } else { pool.take() };
                self.chunks.push_back(Chunk::Gathered(chunk));
            }
        }
    }

    /// Appends a large piece without copying it.
    pub fn append_shared(&mut self, bytes: Bytes) {
        self.end += bytes.len() as u64;
        self.chunks.push_back(Chunk::Shared(bytes));
    }

    /// Bytes that the kernel has not taken.
    #[must_use]
    pub fn unsent(&self) -> usize {
        // The queue lives in memory, so its length fits.
        usize::try_from(self.end - self.sent).unwrap_or(usize::MAX)
    }

    /// Bytes held in memory, those kept for sending again included.
    #[must_use]
    pub fn held(&self) -> usize {
        usize::try_from(self.end - self.front).unwrap_or(usize::MAX)
    }

    /// Position behind the last byte.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Position behind the last byte that the kernel took.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Fills `slices` with what is to be sent next and returns how many were filled.
    pub fn unsent_slices<'a>(&'a self, slices: &mut [IoSlice<'a>; SLICES]) -> usize {
        let mut position = self.front;
        let mut filled = 0;
        for chunk in &self.chunks {
            let bytes = chunk.bytes();
            let chunk_end = position + bytes.len() as u64;
            if chunk_end > self.sent {
                let skip = usize::try_from(self.sent.saturating_sub(position)).unwrap_or(0);
                let Some(slot) = slices.get_mut(filled) else {
                    break;
                };
                *slot = IoSlice::new(bytes.get(skip..).unwrap_or_default());
                filled += 1;
            }
            position = chunk_end;
        }
        filled
    }

    /// Notes that the kernel took `count` more bytes, and keeps them.
    pub fn advance(&mut self, count: usize) {
        self.sent = (self.sent + count as u64).min(self.end);
    }

    /// Forgets the bytes before `position`, which must have been sent.
    pub fn release(&mut self, pool: &mut ChunkPool, position: u64) {
        self.released = self.released.max(position.min(self.sent));
        while let Some(first) = self.chunks.front_mut() {
            let length = first.bytes().len() as u64;
            if self.front + length > self.released {
                break;
            }
            self.front += length;
            // The last chunk is emptied in place: the next command finds it warm.
            if self.chunks.len() == 1
                && let Some(Chunk::Gathered(chunk)) = self.chunks.front_mut()
                && matches!(chunk.capacity(), CHUNK_BYTES | SMALL_CHUNK_BYTES)
            {
                chunk.clear();
                break;
            }
            if let Some(Chunk::Gathered(chunk)) = self.chunks.pop_front() {
                pool.give(chunk);
            }
        }
    }

    /// Gives an empty last chunk back to the pool: an idle owner holds no memory.
    pub fn rest(&mut self, pool: &mut ChunkPool) {
        if self.front == self.end
            && let Some(Chunk::Gathered(chunk)) = self.chunks.pop_front()
        {
            pool.give(chunk);
        }
    }

    /// Gives back the queue's own bookkeeping too; called when the owner has been idle for a while.
    pub fn shrink(&mut self) {
        if self.chunks.is_empty() {
            self.chunks = VecDeque::new();
        }
    }

    /// The bytes from `start` to `end`, if they lie in one chunk and were not forgotten.
    #[must_use]
    pub fn piece(&self, start: u64, end: u64) -> Option<Piece<'_>> {
        let mut position = self.front;
        for chunk in &self.chunks {
            let length = chunk.bytes().len() as u64;
            if start >= position && end <= position + length {
                let from = usize::try_from(start - position).ok()?;
                let to = usize::try_from(end - position).ok()?;
                return match chunk {
                    Chunk::Gathered(bytes) => bytes.get(from..to).map(Piece::Borrowed),
                    Chunk::Shared(bytes) => Some(Piece::Shared(bytes.slice(from..to))),
                };
            }
            position += length;
        }
        None
    }

    /// Cuts the queue at `position`, which must not be sent yet, and returns the rest with its positions kept.
    #[must_use]
    pub fn split_off(&mut self, position: u64) -> Self {
        let mut rest = Self {
            front: position,
            released: position,
            sent: position,
            end: self.end,
            ..Self::default()
        };
        let mut start = self.end;
        while start > position
            && let Some(chunk) = self.chunks.pop_back()
        {
            start -= chunk.bytes().len() as u64;
            let keep = usize::try_from(position.saturating_sub(start)).unwrap_or(0);
            let (kept, cut) = chunk.split_at(keep);
            self.chunks.extend(kept);
            rest.chunks.push_front(cut);
        }
        self.end = position;
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unsent(buffer: &SendBuffer) -> Vec<u8> {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let count = buffer.unsent_slices(&mut slices);
        slices[..count].iter().flat_map(|slice| slice.to_vec()).collect()
    }

    fn slice(buffer: &SendBuffer, start: u64, end: u64) -> Option<Vec<u8>> {
        buffer.piece(start, end).map(|piece| match piece {
            Piece::Borrowed(bytes) => bytes.to_vec(),
            Piece::Shared(bytes) => bytes.to_vec(),
        })
    }

    #[test]
    fn a_queue_is_cut_anywhere_behind_what_was_sent() {
        for cut in 3..=14 {
            let (mut pool, mut buffer) = (ChunkPool::default(), SendBuffer::default());
            buffer.append_whole(&mut pool, b"one");
            buffer.append_whole(&mut pool, b"two");
            buffer.append_shared(Bytes::from_static(b"three"));
            buffer.append_whole(&mut pool, b"end");
            buffer.advance(3);
            let rest = buffer.split_off(cut);
            let all = b"onetwothreeend";
            let at = usize::try_from(cut).unwrap();
            assert_eq!((unsent(&buffer), unsent(&rest)), (all[3..at].to_vec(), all[at..].to_vec()));
            assert_eq!((buffer.end(), rest.end()), (cut, 14));
            if cut <= 6 {
                assert_eq!(slice(&rest, 6, 11).unwrap(), b"three");
            }
        }
    }

    #[test]
    fn bytes_leave_in_order_and_stay_until_released() {
        let (mut pool, mut buffer) = (ChunkPool::default(), SendBuffer::default());
        buffer.append_whole(&mut pool, b"one");
        buffer.append_shared(Bytes::from_static(b"two"));
        buffer.append_whole(&mut pool, b"three");
        assert_eq!(unsent(&buffer), b"onetwothree");
        buffer.advance(4);
        assert_eq!(unsent(&buffer), b"wothree");
        assert_eq!(slice(&buffer, 0, 3).unwrap(), b"one");
        buffer.release(&mut pool, 3);
        assert_eq!(slice(&buffer, 0, 3), None);
        assert_eq!(slice(&buffer, 3, 6).unwrap(), b"two");
        assert_eq!((buffer.unsent(), buffer.held()), (7, 8));
    }

    #[test]
    fn nothing_unsent_is_ever_released() {
        let (mut pool, mut buffer) = (ChunkPool::default(), SendBuffer::default());
        buffer.append(&mut pool, b"abc");
        buffer.advance(1);
        buffer.release(&mut pool, 99);
        assert_eq!(unsent(&buffer), b"bc");
    }

    #[test]
    fn replies_fill_chunks_and_commands_do_not_straddle_them() {
        let (mut pool, mut buffer) = (ChunkPool::default(), SendBuffer::default());
        let bytes: Vec<u8> = (0..CHUNK_BYTES + 10).map(|n| n as u8).collect();
        buffer.append(&mut pool, &bytes);
        assert_eq!(unsent(&buffer), bytes);
        assert_eq!(slice(&buffer, 0, bytes.len() as u64), None);
        let start = buffer.end();
        buffer.append_whole(&mut pool, &bytes);
        assert_eq!(slice(&buffer, start, buffer.end()).unwrap(), bytes);
    }

    #[test]
    fn an_idle_buffer_holds_no_chunk() {
        let (mut pool, mut buffer) = (ChunkPool::default(), SendBuffer::default());
        buffer.append(&mut pool, b"abc");
        buffer.advance(3);
        buffer.release(&mut pool, 3);
        buffer.rest(&mut pool);
        buffer.shrink();
        assert_eq!(buffer.chunks.capacity(), 0);
        buffer.append(&mut pool, b"def");
        assert_eq!(unsent(&buffer), b"def");
    }

    #[test]
    fn many_chunks_are_sent_in_several_writes() {
        let (mut pool, mut buffer) = (ChunkPool::default(), SendBuffer::default());
        let mut want = Vec::new();
        for number in 0..100_u8 {
            buffer.append_shared(Bytes::from(vec![number; 3]));
            want.extend([number; 3]);
        }
        let mut got = Vec::new();
        while buffer.unsent() > 0 {
            let piece = unsent(&buffer);
            buffer.advance(piece.len());
            buffer.release(&mut pool, buffer.sent());
            got.extend(piece);
        }
        assert_eq!(got, want);
    }
}
