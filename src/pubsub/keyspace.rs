//! Keyspace notifications: messages that a node of a cluster tells nobody but its own subscribers.
//!
//! Owns which channels they come on and which topics may get any. Never subscribes:
//! `upstream::subscriber` places such topics on every primary. Source: "Redis keyspace
//! notifications", section "Events in a cluster".
//!
//! What surprises: a topic that only *may* match is placed as well. That costs one subscription a
//! primary and nothing else, because of what another primary sends only true notifications are
//! delivered.

use super::Kind;

/// Whether messages on this channel come from one node alone.
#[must_use]
pub fn is_notification(channel: &[u8]) -> bool {
    CHANNELS.iter().any(|head| channel.starts_with(head))
}

/// Whether a subscription of this name may get notifications.
#[must_use]
pub fn may_notify(kind: Kind, name: &[u8]) -> bool {
    match kind {
        Kind::Channel => is_notification(name),
        Kind::Pattern => {
            // What stands before the first special character, every match begins with.
            let end = name.iter().position(|byte| SPECIAL.contains(byte)).unwrap_or(name.len());
            let fixed = name.get(..end).unwrap_or_default();
            let is_whole = end == name.len();
            CHANNELS
                .iter()
                .any(|head| fixed.starts_with(head) || (!is_whole && head.starts_with(fixed)))
        }
        Kind::Shard => false,
    }
}

/// How the channels of notifications begin.
const CHANNELS: [&[u8]; 2] = [b"__keyspace@", b"__keyevent@"];
/// Bytes of a pattern that are more than themselves.
const SPECIAL: &[u8] = b"*?[\\";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_that_may_match_a_notification_are_known() {
        let table = [
            (Kind::Channel, "__keyevent@0__:expired", true),
            (Kind::Channel, "__keyspace@0__:a*", true),
            (Kind::Channel, "__keyspace", false),
            (Kind::Channel, "*", false),
            (Kind::Pattern, "__key*__:*", true),
            (Kind::Pattern, "__keyspace@0__:user:*", true),
            (Kind::Pattern, "*", true),
            (Kind::Pattern, "?_key*", true),
            (Kind::Pattern, "\\_\\_keyevent*", true),
            (Kind::Pattern, "__keyspace@0__:k", true),
            (Kind::Pattern, "__key", false),
            (Kind::Pattern, "news.*", false),
            (Kind::Pattern, "__keyx*", false),
            (Kind::Pattern, "", false),
            (Kind::Shard, "__keyevent@0__:expired", false),
        ];
        for (kind, name, expected) in table {
            assert_eq!(may_notify(kind, name.as_bytes()), expected, "{kind:?} {name}");
        }
    }
}
