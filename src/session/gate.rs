//! The rules of one listener, as its sessions need them.
//!
//! Owns the checked, per-worker copy of what a listener's configuration says about its clients: who
//! must authenticate and how, which protocol limits and which budgets hold. Never changes while it
//! is in use.
//!
//! What surprises: comparing passwords takes the same time whether or not the user exists, so that
//! a stranger learns nothing from the clock.

use ring::digest;
use std::time::Duration;

use crate::config::{
    Announced, Auth, ListenerSettings, MemorySettings, PubsubSettings, UserSettings,
};
use crate::resp::limits::Limits;
use crate::session::admission::Bounds;
use crate::upstream::identity::Identity;

/// The rules of one listener.
#[derive(Debug)]
pub struct Gate {
    /// The listener's address, as configured.
    pub name: String,
    /// How clients authenticate.
    pub auth: Auth,
    /// Limits of the request scanner.
    pub limits: Limits,
    /// Budget of each session.
    pub bounds: Bounds,
    /// A client that is silent for so long is closed; `None`: never.
    pub idle_timeout: Option<Duration>,
    /// Bounds of each client with subscriptions.
    pub pubsub: PubsubSettings,
    /// Longest wait of any kind: its clients must still be there to hear of it.
    pub wait_max: Duration,
    /// A client that takes no byte of its replies for so long is closed.
    pub stall: Duration,
    /// Where clients are told to find us; `None`: at the address that they dialled.
    pub announced: Option<Announced>,
    /// Its clients speak TLS, which a cluster's nodes are told of beside their port.
    pub is_tls: bool,
}

// === impl Gate ===

impl Gate {
    /// The rules that these settings describe.
    #[must_use]
    pub fn new(listener: &ListenerSettings, memory: &MemorySettings) -> Self {
        Self {
            name: listener.address.to_string(),
            auth: listener.auth.clone(),
            limits: listener.limits,
            bounds: Bounds {
                reply_bytes: memory.session_reply_bytes as u64,
                commands: u32::try_from(memory.session_commands_max).unwrap_or(u32::MAX),
            },
            idle_timeout: listener.client_idle_timeout,
            pubsub: listener.pubsub,
            wait_max: listener.wait(Duration::MAX),
            stall: memory.client_stall,
            announced: listener.announce.clone(),
            is_tls: listener.tls.is_some(),
        }
    }

    /// Longest wait for a node that is to come back, or to be replaced. A keyspace may say something
    /// else, and that its clients are more or less patient.
    #[must_use]
    pub fn failover_wait(
        &self,
        wait: Option<Duration>,
        client_timeout: Option<Duration>,
    ) -> Duration {
        wait.unwrap_or(FAILOVER_WAIT_MAX).min(self.most(client_timeout))
    }

    /// Longest wait for a slot that is on the move.
    #[must_use]
    pub fn migration_wait(&self, client_timeout: Option<Duration>) -> Duration {
        MIGRATION_WAIT_MAX.min(self.most(client_timeout))
    }

    fn most(&self, client_timeout: Option<Duration>) -> Duration {
        client_timeout.map_or(self.wait_max, |timeout| timeout.mul_f64(0.8))
    }

    /// Who a client is before it has said anything; `None` where it must authenticate first.
    ///
    /// With `passthrough` a stranger starts as the upstream's own identity: if the node wants a
    /// password, it is the node that answers NOAUTH to the lane, which the control plane learns
    /// when it connects.
    #[must_use]
    pub fn stranger(&self, node_wants_auth: bool) -> Option<Identity> {
        match &self.auth {
            Auth::Upstream => Some(Identity::UPSTREAM),
            Auth::Passthrough => (!node_wants_auth).then_some(Identity::UPSTREAM),
            Auth::Users(users) => users
                .iter()
                .any(|user| user.name == DEFAULT_USER && user.nopass)
                .then_some(Identity::UPSTREAM),
        }
    }

    /// Whether `user` of this listener has this password.
    #[must_use]
    pub fn is_user(users: &[UserSettings], user: &[u8], password: &[u8]) -> bool {
        let hash = digest::digest(&digest::SHA256, password);
        let mut matches = false;
        for known in users {
            let is_named = known.name.as_bytes() == user;
            for wanted in &known.password_sha256 {
                // Hashes of equal length are compared in constant time, for every user.
                let equal = constant_time_equal(wanted, hash.as_ref());
                matches |= is_named && equal;
            }
            matches |= is_named && known.nopass;
        }
        matches
    }
}

fn constant_time_equal(left: &[u8], right: &[u8]) -> bool {
    let mut difference = left.len() ^ right.len();
    for (a, b) in left.iter().zip(right) {
        difference |= usize::from(a ^ b);
    }
    std::hint::black_box(difference) == 0
}

/// Longest wait for a failover, whatever the client's patience; no cluster that is well set up
/// needs longer.
const FAILOVER_WAIT_MAX: Duration = Duration::from_secs(3);
/// Longest wait for a slot on the move.
const MIGRATION_WAIT_MAX: Duration = Duration::from_secs(5);
/// The user of a client that names none.
pub const DEFAULT_USER: &str = "default";

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str, password: &str) -> UserSettings {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest::digest(&digest::SHA256, password.as_bytes()).as_ref());
        UserSettings { name: name.into(), password_sha256: vec![hash], nopass: false }
    }

    #[test]
    fn only_the_right_password_of_the_right_user_opens() {
        let users = [user("ann", "a"), user("bob", "b")];
        assert!(Gate::is_user(&users, b"ann", b"a") && Gate::is_user(&users, b"bob", b"b"));
        for (name, password) in [("ann", "b"), ("bob", "a"), ("eve", "a"), ("ann", ""), ("", "a")] {
            assert!(!Gate::is_user(&users, name.as_bytes(), password.as_bytes()), "{name}");
        }
    }
}
