//! The text of INFO (and of CLUSTER INFO) as fields.
//!
//! Owns the reading of `name:value` lines, of the lines about replicas and of those about the
//! keyspace. Pure. What a server of another version leaves out is absent here, never zero: a check
//! that finds its field missing has nothing to say.
//!
//! What surprises: some numbers are negative on purpose. A replica that never heard of its primary
//! says -1 seconds, and a server whose memory is swapped out has a negative fragmentation.

use std::collections::HashMap;

/// The fields of one server at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Info(HashMap<Box<str>, Box<str>>);

/// A line `slaveN:` of a primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    /// `ip:port`.
    pub address: String,
    /// `online`, or how far the first synchronization is.
    pub state: String,
    /// What it has acknowledged.
    pub offset: u64,
    /// Seconds since it last said so.
    pub lag: u64,
}

// === impl Info ===

impl Info {
    /// Reads the text; lines beyond [`LINES_MAX`] and those that are no field are left out.
    #[must_use]
    pub fn read(text: &str) -> Self {
        let lines = text.lines().take(LINES_MAX).filter(|line| !line.starts_with('#'));
        let pairs = lines.filter_map(|line| line.split_once(':'));
        Self(pairs.map(|(name, value)| (name.into(), value.trim().into())).collect())
    }

    /// Adds the fields of another text of the same server.
    pub fn add(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// A field as it stands.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(AsRef::as_ref)
    }

    /// A count or a size.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<u64> {
        self.text(name)?.parse().ok()
    }

    /// A number that may be negative.
    #[must_use]
    pub fn signed(&self, name: &str) -> Option<i64> {
        self.text(name)?.parse().ok()
    }

    /// A ratio or a percentage.
    #[must_use]
    pub fn ratio(&self, name: &str) -> Option<f64> {
        self.text(name)?.parse().ok().filter(|ratio: &f64| ratio.is_finite())
    }

    /// Whether a field is exactly so.
    #[must_use]
    pub fn is(&self, name: &str, value: &str) -> bool {
        self.text(name) == Some(value)
    }

    /// Whether it serves writes: a server that says nothing of replication is on its own.
    #[must_use]
    pub fn is_primary(&self) -> bool {
        !self.is("role", "slave")
    }

    /// The replicas that a primary names, in the order of their numbers.
    #[must_use]
    pub fn replicas(&self) -> Vec<Replica> {
        let lines = (0..REPLICAS_MAX).map_while(|number| self.text(&format!("slave{number}")));
        lines.filter_map(read_replica).collect()
    }

    /// Keys of all databases, and how many of them expire.
    #[must_use]
    pub fn keyspace(&self) -> (u64, u64) {
        let of = |line: &str, name: &str| -> u64 {
            part(line, name).and_then(|value| value.parse().ok()).unwrap_or(0)
        };
        let databases = self.0.iter().filter(|(name, _)| is_database(name));
        databases.fold((0, 0), |(keys, expires), (_, line)| {
            (keys + of(line, "keys"), expires + of(line, "expires"))
        })
    }

    /// Memory of scripts; its name has changed with Redis 7.
    #[must_use]
    pub fn script_memory(&self) -> Option<u64> {
        self.number("used_memory_vm_eval").or_else(|| self.number("used_memory_lua"))
    }
}

fn read_replica(line: &str) -> Option<Replica> {
    let number = |name| part(line, name)?.parse().ok();
    Some(Replica {
        address: format!("{}:{}", part(line, "ip")?, part(line, "port")?),
        state: part(line, "state")?.to_owned(),
        offset: number("offset")?,
        lag: number("lag").unwrap_or(0),
    })
}

/// One of the parts `name=value` of a line, separated by commas.
fn part<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let mut parts = line.split(',').filter_map(|part| part.split_once('='));
    parts.find(|(found, _)| *found == name).map(|(_, value)| value)
}

/// Whether a field is about a database: `db0`, `db1` …
fn is_database(name: &str) -> bool {
    let number = name.strip_prefix("db");
    number.is_some_and(|it| !it.is_empty() && it.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Most lines of a text; a server with a thousand databases has fewer.
const LINES_MAX: usize = 4_096;
/// Most replicas of one primary that are looked at.
const REPLICAS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    /// What a 7.0.15 says, shortened.
    const TEXT: &str = "# Server\r\nredis_version:7.0.15\r\nrun_id:abc\r\nuptime_in_seconds:12\r\n\
        # Memory\r\nused_memory:1024\r\nmem_fragmentation_ratio:1.31\r\nmem_fragmentation_bytes:-5\r\n\
        used_memory_vm_eval:31744\r\n# Replication\r\nrole:master\r\nconnected_slaves:2\r\n\
        slave0:ip=127.0.0.1,port=7001,state=online,offset=42,lag=1\r\n\
        slave1:ip=::1,port=7002,state=send_bulk,offset=0,lag=0\r\n\
        # Keyspace\r\ndb0:keys=10,expires=4,avg_ttl=1\r\ndb3:keys=5,expires=0,avg_ttl=0\r\n\
        dbs_like:keys=9,expires=9\r\n";

    #[test]
    fn the_fields_of_a_real_text_are_read() {
        let info = Info::read(TEXT);
        assert_eq!(info.number("used_memory"), Some(1024));
        assert_eq!(info.signed("mem_fragmentation_bytes"), Some(-5));
        assert_eq!(info.ratio("mem_fragmentation_ratio"), Some(1.31));
        assert_eq!(info.script_memory(), Some(31_744));
        assert_eq!(info.keyspace(), (15, 4));
        assert!(info.is_primary() && info.is("role", "master"));
        let replicas = info.replicas();
        assert_eq!(replicas.len(), 2);
        assert_eq!((replicas[0].address.as_str(), replicas[0].offset), ("127.0.0.1:7001", 42));
        assert_eq!(replicas[1].state, "send_bulk");
    }

    #[test]
    fn what_is_absent_or_makes_no_sense_is_no_number() {
        let info = Info::read("a:\r\nb:x\r\nno field\r\nc:NaN\r\nslave0:ip=1\r\n");
        assert_eq!((info.number("a"), info.number("b"), info.number("z")), (None, None, None));
        assert_eq!(info.ratio("c"), None);
        assert!(info.replicas().is_empty());
        assert_eq!(info.keyspace(), (0, 0));
        assert_eq!(Info::read(&"x:1\n".repeat(10_000)).number("x"), Some(1));
    }
}
