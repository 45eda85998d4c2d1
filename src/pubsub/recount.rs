//! The numbers of PUBLISH and PUBSUB, corrected for clients that share a link.
//!
//! Owns which commands answer with such numbers and how their replies are rewritten. Never asks for
//! a reply of its own: Redis's answer is taken and the difference that the [`Tally`] knows is
//! added.
//!
//! What surprises: NUMPAT, CHANNELS and SHARDCHANNELS are right as they are, because they count
//! topics and not who is subscribed to them.

use super::tally::Tally;
use super::{Kind, push};
use crate::command::Command;
use crate::command::flags::Flags;
use crate::command::spec::Spec;
use crate::resp::{parse_integer, write};

/// What happens to a reply before its client gets it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Recount {
    /// Nothing.
    #[default]
    No,
    /// It is a number, and this is added.
    Add(i32),
    /// It is names and numbers of subscribers by turns.
    Topics(Kind),
}

// === impl Recount ===

impl Recount {
    /// What will happen to the reply of this command. Costs one comparison unless it has to do with
    /// messages.
    #[must_use]
    #[inline]
    pub fn of(tally: &Tally, spec: &Spec, command: &Command<'_>) -> Self {
        if spec.flags.contains(Flags::PUBSUB) {
            Self::of_pubsub(tally, spec, command)
        } else {
            Self::No
        }
    }

    fn of_pubsub(tally: &Tally, spec: &Spec, command: &Command<'_>) -> Self {
        let channel = command.argument(1).unwrap_or_default();
        let by = match &*spec.name {
            "publish" => tally.of_message(channel),
            "spublish" => tally.of(Kind::Shard, channel),
            // The reply repeats the names; one that would not be held until it is whole passes as
            // it is.
            _ if command.frame().len() > NAMES_BYTES_MAX => 0,
            "pubsub|numsub" => return Self::Topics(Kind::Channel),
            "pubsub|shardnumsub" => return Self::Topics(Kind::Shard),
            _ => 0,
        };
        // More receivers than a process can have sockets fit.
        match i32::try_from(by) {
            Ok(0) | Err(_) => Self::No,
            Ok(by) => Self::Add(by),
        }
    }

    /// Appends the reply to `out`, corrected if it is what was expected; an error is left as it is.
    pub fn apply(self, tally: &Tally, reply: &[u8], out: &mut Vec<u8>) {
        let is_corrected = match self {
            Self::No => false,
            Self::Add(by) => number(reply).is_some_and(|(count, _)| {
                write::integer(out, (count + i64::from(by)).max(0));
                true
            }),
            Self::Topics(kind) => topics(tally, kind, reply, out).is_some(),
        };
        if !is_corrected {
            out.extend_from_slice(reply);
        }
    }
}

/// Copies an array of names and numbers with the numbers corrected; `None` if it is something else,
/// such as an error.
fn topics(tally: &Tally, kind: Kind, reply: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let header = memchr::memchr(b'\n', reply)? + 1;
    let (line, mut rest) = reply.split_at_checked(header)?;
    if !line.starts_with(b"*") {
        return None;
    }
    let begin = out.len();
    out.extend_from_slice(line);
    while !rest.is_empty() {
        let one = push::bulk(rest).and_then(|(name, behind)| Some((name, number(behind)?)));
        let Some((name, (count, behind))) = one else {
            out.truncate(begin);
            return None;
        };
        write::bulk(out, name);
        write::integer(out, (count + tally.of(kind, name)).max(0));
        rest = behind;
    }
    Some(())
}

/// The integer that `bytes` begins with, and what is behind it.
fn number(bytes: &[u8]) -> Option<(i64, &[u8])> {
    let rest = bytes.strip_prefix(b":")?;
    let end = memchr::memchr(b'\r', rest)?;
    Some((parse_integer(rest.get(..end)?)?, rest.get(end + 2..)?))
}

/// Longest command whose reply is corrected name by name; such a reply is held until it is whole
/// (INV-4).
const NAMES_BYTES_MAX: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::table::Table;
    use crate::command::tests::Request;

    fn recount(tally: &Tally, line: &str) -> Recount {
        let (table, request) = (Table::builtin(), Request::words(line));
        let spec = table.resolve(&request.command()).unwrap();
        Recount::of(tally, spec, &request.command())
    }

    fn applied(recount: Recount, tally: &Tally, reply: &str) -> String {
        let mut out = Vec::new();
        recount.apply(tally, reply.as_bytes(), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn numbers_of_receivers_are_corrected_and_everything_else_is_left_alone() {
        let tally = Tally::default();
        tally.add(Kind::Channel, b"c", 3);
        tally.add(Kind::Shard, b"c", -1);
        tally.add(Kind::Pattern, b"c*", 10);
        assert_eq!(recount(&tally, "PUBLISH c m"), Recount::Add(13));
        assert_eq!(recount(&tally, "SPUBLISH c m"), Recount::Add(-1));
        assert_eq!(recount(&tally, "PUBLISH other m"), Recount::No);
        assert_eq!(recount(&tally, "GET c"), Recount::No);
        assert_eq!(recount(&tally, "PUBSUB NUMPAT"), Recount::No);
        assert_eq!(applied(Recount::Add(13), &tally, ":2\r\n"), ":15\r\n");
        assert_eq!(applied(Recount::Add(-1), &tally, ":0\r\n"), ":0\r\n");
        let names = recount(&tally, "PUBSUB NUMSUB a c");
        let reply = "*4\r\n$1\r\na\r\n:7\r\n$1\r\nc\r\n:1\r\n";
        let want = "*4\r\n$1\r\na\r\n:7\r\n$1\r\nc\r\n:4\r\n";
        assert_eq!(applied(names, &tally, reply), want);
        let shards = recount(&tally, "PUBSUB SHARDNUMSUB c");
        let (one, none) = ("*2\r\n$1\r\nc\r\n:1\r\n", "*2\r\n$1\r\nc\r\n:0\r\n");
        assert_eq!(applied(shards, &tally, one), none);
        for reply in ["*0\r\n", "-ERR no\r\n", "*1\r\n$1\r\na\r\n", "_\r\n"] {
            assert_eq!(applied(names, &tally, reply), reply);
            assert_eq!(applied(Recount::Add(13), &tally, reply), reply);
        }
    }
}
