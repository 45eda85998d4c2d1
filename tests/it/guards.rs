//! Writes that are held back to protect what is there, proven on real servers that were brought into disorder.
//!
//! Owns what only whole deployments can show: that a write is refused at the proxy and never reaches a server, that
//! reads and other keys go on, and that all of it ends with its cause.
//!
//! What surprises: a cluster mends two claims of one slot by itself within seconds. To keep them, two primaries are
//! made to forget each other, which Redis holds to for a minute.

mod confirm;
mod replicas;
mod split;
