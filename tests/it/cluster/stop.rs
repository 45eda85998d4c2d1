//! A primary that is frozen: its kernel takes bytes and nothing answers. Only those who need it notice.
//!
//! Owns the proof that a hung node delays and fails requests for its own slots alone (INV-5), within one pipeline
//! and between clients. Never measures: the frozen node stays frozen until the test has seen what it wanted.
//!
//! What surprises: the cluster's own time-out is a minute here, so that nobody but Breakwater finds it out.

use super::probe::{Ending, Probes};
use super::scale;
use crate::support::cluster::{Cluster, Shape, key_in, share};
use crate::support::{Client, Proxy, bulk, line};

#[test]
fn a_frozen_primary_is_noticed_by_nobody_else() {
    let (mut cluster, proxy) = start();
    let healthy = [share(0, 3), share(2, 3)].map(|(first, last)| first..last + 1);
    let probes = Probes::start(proxy.port(), &healthy, 6);
    probes.pass(50, &[0, 1]);
    cluster.stop(1);
    let mut pipelining = Pipelining::new(&proxy);
    for round in 0..3 {
        pipelining.one_round(round);
        probes.pass(50, &[0, 1]);
    }
    std::thread::sleep(scale::duration());
    cluster.cont(1);
    until_served(&proxy);
    let books = probes.finish();
    for ending in [Ending::NotExecuted, Ending::Unknown, Ending::ClusterDown] {
        assert_eq!(books.count(&[0, 1], ending), 0, "{ending:?} in a shard that nobody touched");
    }
    books.balance(&cluster, 0);
}

#[test]
fn what_was_sent_to_a_frozen_primary_runs_at_most_once() {
    let (mut cluster, proxy) = start();
    let key = frozen_key(0);
    let mut client = proxy.client();
    assert_eq!(client.text(&format!("INCR {key}")), ":1\r\n");
    cluster.stop(1);
    let reply = client.text(&format!("INCR {key}"));
    let is_unknown = reply.starts_with("-ERR breakwater: outcome unknown: ");
    assert!(is_unknown || reply.starts_with("-ERR breakwater: not executed: "), "{reply}");
    cluster.cont(1);
    until_served(&proxy);
    let value = cluster.node(1).text(&format!("GET {key}"));
    let most = ["$1\r\n1\r\n", "$1\r\n2\r\n"];
    assert!(most[..1 + usize::from(is_unknown)].contains(&&value[..]), "{reply}, and then {value}");
}

/// A client whose pipelines need the frozen node in their middle.
struct Pipelining(Client);

// === impl Pipelining ===

impl Pipelining {
    fn new(proxy: &Proxy) -> Self {
        Self(proxy.client())
    }

    /// The frozen keys' commands are answered by an error, all others as ever.
    fn one_round(&mut self, round: usize) {
        let value = format!("value-{round}");
        let (left, right, frozen) = (key_in(1, 77), key_in(16_000, 77), frozen_key(1));
        let words = [
            format!("SET {left} {value}"),
            format!("GET {frozen}"),
            format!("SET {right} {value}"),
            format!("GET {left}"),
            format!("GET {right}"),
            format!("GET {frozen}"),
            format!("ECHO {value}"),
        ];
        let bytes: Vec<u8> = words.iter().flat_map(|words| line(words)).collect();
        self.0.send(bytes);
        let frames = self.0.frames(words.len());
        let value = bulk(value.as_bytes());
        let expected = [&b"+OK\r\n"[..], b"", b"+OK\r\n", &value, &value, b"", &value];
        for ((words, frame), expected) in words.iter().zip(&frames).zip(expected) {
            let text = String::from_utf8_lossy(frame);
            let heads = ["-ERR breakwater: no reply", "-ERR breakwater: not executed: "];
            match expected {
                b"" => assert!(heads.iter().any(|head| text.starts_with(head)), "{words}: {text}"),
                expected => assert_eq!(frame, expected, "{words}: {text}"),
            }
        }
    }
}

fn start() -> (Cluster, Proxy) {
    let cluster = Cluster::start_as(&Shape {
        node_timeout_ms: 60_000,
        more: &["--cluster-require-full-coverage", "no"],
        ..Shape::default()
    });
    let url = cluster.url_of(&[0, 2]);
    let proxy = Proxy::configured(&format!(
        "[upstream]\nurl = \"{url}\"\nreply_deadline_fast = \"500ms\"\n"
    ));
    let proxy = proxy.ready();
    until_served(&proxy);
    (cluster, proxy)
}

fn until_served(proxy: &Proxy) {
    let mut client = proxy.client();
    crate::support::until("the second shard serves", || {
        client.text(&format!("GET {}", frozen_key(9))) == "$-1\r\n"
    });
}

fn frozen_key(n: usize) -> String {
    key_in(share(1, 3).0 + 5, n)
}
