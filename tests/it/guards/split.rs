//! Two masters of the same keys: in a cluster, and behind Sentinels.
//!
//! Owns the proof that writes there are refused, that reads and other slots go on, and that it ends when one of the two
//! lets go. What surprises: of a Sentinel group all keys are claimed, so all writes are refused.

use crate::support::cluster::{Cluster, Shape, key_in};
use crate::support::sentinel::SentinelGroup;
use crate::support::{Client, Proxy, bulk, line, until};

/// The slot that is claimed twice; at the beginning it belongs to the first primary.
const SLOT: u16 = 4242;

/// A cluster in which the first two primaries say that the slot is theirs, until they are introduced again.
fn divided() -> Cluster {
    let more = ["--cluster-require-full-coverage", "no"];
    let cluster = Cluster::start_as(&Shape { more: &more, ..Shape::default() });
    let (one, other) = (cluster.id(0), cluster.id(1));
    assert_eq!(cluster.node(0).text(&format!("CLUSTER FORGET {other}")), "+OK\r\n");
    assert_eq!(cluster.node(1).text(&format!("CLUSTER FORGET {one}")), "+OK\r\n");
    assert_eq!(cluster.node(1).text(&format!("CLUSTER SETSLOT {SLOT} NODE {other}")), "+OK\r\n");
    cluster
}

fn is_refused(reply: &[u8]) -> bool {
    let start = format!("-ERR breakwater: not executed: slot {SLOT} is claimed by 2 masters (");
    reply.starts_with(start.as_bytes())
}

/// Everything that a client may and may not do while the slot is claimed twice.
fn check(client: &mut Client) {
    let [claimed, free] = [key_in(SLOT, 0), key_in(SLOT + 1, 0)];
    assert!(is_refused(&client.ask(&format!("DEL {claimed}"))));
    assert!(is_refused(&client.ask(&format!("EVAL return(1) 1 {claimed}"))));
    assert!(is_refused(&client.ask(&format!("MSET {free} v {claimed} v"))));
    assert!(is_refused(&client.ask(&format!("BLPOP {claimed} 1"))));
    assert!(is_refused(&client.ask("FLUSHALL")), "it would write there as well");
    assert_eq!(client.ask(&format!("EXISTS {claimed}")), b":0\r\n");
    assert_eq!(client.ask(&format!("SET {free} v")), b"+OK\r\n");
    assert_eq!(client.ask("PUBLISH c m"), b":0\r\n");
    let wrong = client.ask(&format!("SET {claimed}"));
    assert!(wrong.starts_with(b"-ERR wrong number of arguments"));
    // A pipeline: each in its place. A transaction: nothing of it runs.
    let words = ["MULTI".into(), format!("SET {claimed} x"), "EXEC".into(), format!("GET {free}")];
    client.send(words.iter().map(|words| line(words)).collect::<Vec<_>>().concat());
    let frames = client.frames(words.len());
    assert!(is_refused(&frames[1]) && frames[2].starts_with(b"-EXECABORT"));
    assert_eq!(frames[3], bulk(b"v"));
    client.send(["MULTI", &format!("SET {free} w"), "EXEC"].map(line).concat());
    assert_eq!(client.frames(3)[2], b"*1\r\n+OK\r\n");
    assert_eq!(client.ask(&format!("SET {free} v")), b"+OK\r\n");
}

#[test]
fn writes_to_a_slot_of_two_masters_are_refused_until_one_lets_go() {
    let cluster = divided();
    let file = |answer: &str| {
        let url = cluster.url_of(&[2]);
        format!("[upstream]\nurl = \"{url}\"\nsplit_brain = \"{answer}\"\n")
    };
    let refusing = Proxy::configured(&file("refuse_writes")).ready();
    let reporting = Proxy::configured(&file("report")).ready();
    let (mut client, mut client3) = (refusing.client(), refusing.client3());
    let write = format!("SET {} v", key_in(SLOT, 0));
    until("the write is refused", || is_refused(&client.ask(&write)));
    let before = cluster.calls("set");
    for _ in 0..100 {
        assert!(is_refused(&client.ask(&write)));
    }
    assert_eq!(cluster.calls("set"), before, "a refused write has reached a server");
    // What was written before it was found out lies on one of them.
    for i in 0..2 {
        cluster.node(i).text(&format!("DEL {}", key_in(SLOT, 0)));
    }
    check(&mut client);
    check(&mut client3);
    assert!(refusing.metric("breakwater_slots_split") == 1.0);
    assert!(refusing.http("/findings").1.contains("cluster_slots_split"));
    assert!(refusing.metric("breakwater_writes_guarded_total") > 100.0);
    until("the other one tells", || reporting.metric("breakwater_slots_split") == 1.0);
    assert!(!is_refused(&reporting.client().ask(&write)), "it was told to report only");
    // The one with the lower epoch lets go, and has no key of the slot that would keep it from that.
    cluster.node(0).text(&format!("DEL {}", key_in(SLOT, 0)));
    let let_go = format!("CLUSTER SETSLOT {SLOT} NODE {}", cluster.id(2));
    assert_eq!(cluster.node(0).text(&let_go), "+OK\r\n");
    until("the write passes", || client.ask(&write) == b"+OK\r\n");
    assert_eq!(refusing.metric("breakwater_slots_split"), 0.0);
    assert!(!refusing.http("/findings").1.contains("cluster_slots_split"));
}

#[test]
fn a_second_master_stops_writes_only_when_it_stays_one() {
    let mut group = SentinelGroup::start();
    let file = |grace: &str| {
        format!("[upstream]\nurl = \"{}\"\nsplit_brain_grace = \"{grace}\"\n", group.url())
    };
    let hasty = Proxy::configured(&file("1s")).ready();
    let patient = Proxy::configured(&file("1h")).ready();
    let (mut client, mut calm) = (hasty.client(), patient.client());
    assert_eq!(client.text("SET k v"), "+OK\r\n");
    assert_eq!(group.sentinels[0].text("SENTINEL FAILOVER mymaster"), "+OK\r\n");
    for proxy in [&hasty, &patient] {
        until("it is followed", || proxy.metric("breakwater_primary_changes_total") == 1.0);
    }
    // Sentinels that know nothing leave the old primary as it is.
    for sentinel in &mut group.sentinels {
        sentinel.restart_from_first_file();
    }
    group.nodes[0].restart();
    let refused = "-ERR breakwater: not executed: 'mymaster' has 2 masters (";
    until("writes are refused", || client.text("SET k w").starts_with(refused));
    assert!(client.text("FLUSHALL").starts_with(refused));
    assert!(client.text("GET k").starts_with('$'));
    let has_rival = || patient.http("/topology").1.contains("says that it is a master");
    until("the patient one knows as well", has_rival);
    assert_eq!(calm.text("SET k x"), "+OK\r\n", "it may be over soon");
    let port = group.nodes[1].port();
    assert_eq!(group.nodes[0].client().text(&format!("REPLICAOF 127.0.0.1 {port}")), "+OK\r\n");
    until("writes pass again", || client.text("SET k y") == "+OK\r\n");
    assert_eq!(group.nodes[1].client().text("GET k"), "$1\r\ny\r\n");
}
