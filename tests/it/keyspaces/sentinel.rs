//! A group behind Sentinels: reads go on through a failover, and writes that may wait are served behind it.
//!
//! Owns the proofs with real Sentinels. What surprises: nobody announces a failover before the primary has been silent
//! for a second; until then a write fails at once, whatever its keyspace says of waiting.

use std::time::{Duration, Instant};

use super::{USUAL, met, until_in_step};
use crate::support::sentinel::SentinelGroup;
use crate::support::{Proxy, bulk, until};

const PATIENT: &str = "[[keyspace]]\nname = \"patient\"\nkeys = [\"patient:*\"]\nwait = \"8s\"\n\
     client_timeout = \"10s\"\n[[keyspace]]\nname = \"hasty\"\nkeys = [\"hasty:*\"]\nwait = \"0\"\n";

#[test]
fn reads_go_on_through_a_failover_and_patient_writes_wait_for_it() {
    let mut group = SentinelGroup::start();
    let proxy = Proxy::guarding(&group.url(), &format!("{USUAL}{PATIENT}")).ready();
    let (mut reader, mut writer, mut hasty) = (proxy.client(), proxy.client(), proxy.client());
    assert_eq!(writer.ask("SET cache:1 v"), b"+OK\r\n");
    until_in_step(&mut reader, "probe:1");
    until("the replica has it", || group.nodes[1].client().ask("GET cache:1") == bulk(b"v"));
    group.nodes[0].kill();
    let killed = Instant::now();
    let (mut acknowledged, mut waited, mut refused) = (0, Duration::ZERO, 0);
    let (mut hasty_refused, mut is_announced) = (0, false);
    while acknowledged < 3 {
        assert_eq!(reader.ask("GET cache:1"), bulk(b"v"), "{:?} after the kill", killed.elapsed());
        let asked = Instant::now();
        let reply = writer.text("INCR patient:n");
        if reply.starts_with(':') {
            acknowledged += 1;
            waited = waited.max(asked.elapsed());
        } else {
            assert!(reply.starts_with("-ERR breakwater: not executed: "), "{reply}");
            assert!(!is_announced, "it fails although a failover is announced: {reply}");
            refused += 1;
        }
        let (asked, reply) = (Instant::now(), hasty.text("INCR hasty:n"));
        hasty_refused += usize::from(reply.starts_with('-'));
        assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
        is_announced |= acknowledged > 0;
        assert!(killed.elapsed() < Duration::from_secs(60), "nobody was promoted");
    }
    eprintln!(
        "{refused} refused before it was announced, then waited {waited:.1?}; {hasty_refused} hasty ones"
    );
    assert!(waited > Duration::from_millis(100), "none has waited: {waited:?}");
    assert_eq!(group.nodes[1].client().text("GET patient:n"), "$1\r\n3\r\n", "each ran once");
    assert!(met(&proxy, "cache", "read_replica_primary_away") > 0.0);
    until("the new primary serves reads", || reader.ask("GET cache:1") == bulk(b"v"));
}
