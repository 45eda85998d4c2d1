//! What Sentinels announce, read: the messages of their channels.
//!
//! Owns the list of channels that are subscribed to and the meaning of a message for one master.
//! Never acts on an announcement: it makes us ask at once, because messages may be lost, forged by
//! whoever may PUBLISH there, or about another master of the same Sentinels.
//!
//! What surprises: most payloads begin with the kind of the instance and end with `@` and its
//! master, but that of a master itself has no `@`, and `+switch-master` has neither.

use bytes::Bytes;
use redis_protocol::resp2;
use redis_protocol::resp2::types::{BytesFrame, Resp2Frame};

use super::report::endpoint;
use crate::config::Endpoint;

/// An announcement about our master, or about a Sentinel as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Clients are to go elsewhere.
    Switched {
        /// Whom they are to leave.
        from: Endpoint,
        /// Whom they are to turn to.
        to: Endpoint,
    },
    /// Somebody is about to be promoted.
    Begun,
    /// Nobody is any more: it was given up, or has ended.
    Over,
    /// Something else that is worth a question.
    Other,
}

/// The channels that are subscribed to.
pub const CHANNELS: [&str; 17] = [
    "+switch-master",
    "+sdown",
    "-sdown",
    "+odown",
    "-odown",
    "+try-failover",
    "+failover-state-select-slave",
    "+failover-state-send-slaveof-noone",
    "+failover-state-reconf-slaves",
    "+promoted-slave",
    "+failover-end",
    "-failover-abort-not-elected",
    "-failover-abort-no-good-slave",
    "-failover-abort-slave-timeout",
    "+tilt",
    "-tilt",
    "+reboot",
];

/// Reads a frame that came on the subscription: an announcement that concerns `master`, if it is
/// one.
#[must_use]
pub fn read(frame: &Bytes, master: &str) -> Option<Event> {
    let (frame, _) = resp2::decode::decode_bytes(frame).ok()??;
    let BytesFrame::Array(parts) = frame else {
        return None;
    };
    let mut words = parts.iter().map(|part| std::str::from_utf8(part.as_bytes()?).ok());
    let (Some(Some("message")), Some(Some(channel)), Some(Some(payload))) =
        (words.next(), words.next(), words.next())
    else {
        return None;
    };
    let words: Vec<&str> = payload.split(' ').collect();
    if channel == "+switch-master" {
        return switched(&words, master);
    }
    if channel.ends_with("tilt") {
        return Some(Event::Other);
    }
    is_about(&words, master).then(|| match channel {
        "+odown" | "+try-failover" => Event::Begun,
        "-odown" => Event::Over,
        // Its end is announced just before the switch is: somebody is still expected.
        channel if channel.starts_with("+failover-state") => Event::Begun,
        channel if channel.starts_with("-failover-abort") => Event::Over,
        _ => Event::Other,
    })
}

/// `name host port host port`.
fn switched(words: &[&str], master: &str) -> Option<Event> {
    let [name, from_host, from_port, to_host, to_port] = words else {
        return None;
    };
    let (from, to) = (endpoint(from_host, from_port)?, endpoint(to_host, to_port)?);
    (*name == master).then_some(Event::Switched { from, to })
}

/// `master name host port …` or `kind name host port @ name host port`.
fn is_about(words: &[&str], master: &str) -> bool {
    match words {
        ["master", name, ..] => *name == master,
        [_, _, _, _, "@", name, ..] => *name == master,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::write;

    fn event(channel: &str, payload: &str) -> Option<Event> {
        let mut frame = Vec::new();
        write::array_header(&mut frame, 3);
        for word in ["message", channel, payload] {
            write::bulk(&mut frame, word.as_bytes());
        }
        read(&frame.into(), "mymaster")
    }

    #[test]
    fn announcements_about_our_master_are_read() {
        let tcp = |host: &str, port| Endpoint::Tcp { host: host.into(), port };
        let switched = Event::Switched { from: tcp("10.0.0.1", 7), to: tcp("b", 8) };
        assert_eq!(event("+switch-master", "mymaster 10.0.0.1 7 b 8"), Some(switched));
        for (channel, payload, want) in [
            ("+odown", "master mymaster 10.0.0.1 7 #quorum 2/2", Event::Begun),
            ("+try-failover", "master mymaster 10.0.0.1 7", Event::Begun),
            ("+failover-state-reconf-slaves", "master mymaster 10.0.0.1 7", Event::Begun),
            ("-failover-abort-not-elected", "master mymaster 10.0.0.1 7", Event::Over),
            ("+failover-end", "master mymaster 10.0.0.1 7", Event::Other),
            ("+sdown", "slave a:1 a 1 @ mymaster 10.0.0.1 7", Event::Other),
            ("+tilt", "#tilt mode entered", Event::Other),
        ] {
            assert_eq!(event(channel, payload), Some(want), "{channel}");
        }
    }

    #[test]
    fn what_is_about_another_master_or_makes_no_sense_is_none() {
        for (channel, payload) in [
            ("+switch-master", "other 10.0.0.1 7 10.0.0.2 8"),
            ("+switch-master", "mymaster 10.0.0.1 7 10.0.0.2"),
            ("+switch-master", "mymaster 10.0.0.1 7 10.0.0.2 0"),
            ("+switch-master", "mymaster 10.0.0.1 7 ? 8"),
            ("+odown", "master other 10.0.0.1 7"),
            ("+sdown", "slave mymaster a 1 @ other 10.0.0.1 7"),
            ("+sdown", ""),
        ] {
            assert_eq!(event(channel, payload), None, "{channel} {payload}");
        }
        assert_eq!(read(&Bytes::from_static(b"*2\r\n$4\r\npong\r\n$0\r\n\r\n"), "mymaster"), None);
    }
}
