//! Who serves reads, as `[upstream] replica_reads` and `[[keyspace]] read_from` say it.
//!
//! Owns the words and their meaning. Never chooses a node (`dispatch::replicas` does). What
//! surprises: with `replica` a read is refused rather than given to the primary: whoever writes that
//! wants the primary spared.

/// Who serves reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReplicaReads {
    /// The primary, unless the client has said READONLY.
    #[default]
    Primary,
    /// A replica that is in step, else the primary.
    PreferReplica,
    /// A replica that is in step, else nobody.
    Replica,
}

// === impl ReplicaReads ===

impl ReplicaReads {
    /// Every word and its meaning.
    pub(crate) const WORDS: [(&str, Self); 3] = [
        ("primary", Self::Primary),
        ("prefer-replica", Self::PreferReplica),
        ("replica", Self::Replica),
    ];

    /// The word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        let word = Self::WORDS.iter().find(|(_, meaning)| *meaning == self);
        word.map_or("primary", |(word, _)| word)
    }
}
