//! Two masters of one group of Sentinels, behind one process.
//!
//! Owns the proof that a failover of one is felt on its own listener alone. What surprises: the Sentinels are the same
//! for both, so all that tells the two apart is the name in the URL.

use super::{Reader, before, ready};
use crate::support::sentinel::{GroupShape, Sentinel, monitor, servers};
use crate::support::{Client, until};

#[test]
fn a_master_that_dies_is_replaced_while_the_other_serves_without_an_error() {
    let (mut dying, living) = (servers(&GroupShape::default()), servers(&GroupShape::default()));
    for nodes in [&dying, &living] {
        until("the replica is in step", || {
            nodes[1].client().text("INFO replication").contains("master_link_status:up")
        });
    }
    let watch = monitor("orders", living[0].port(), 2) + &monitor("cache", dying[0].port(), 2);
    let sentinels: Vec<Sentinel> = (0..3).map(|_| Sentinel::start(&watch, None)).collect();
    until("the Sentinels know each other and the replicas", || {
        let knows = |it: &Sentinel, name: &str| {
            it.field(name, "num-other-sentinels") == "2" && it.field(name, "num-slaves") == "1"
        };
        sentinels.iter().all(|it| knows(it, "orders") && knows(it, "cache"))
    });
    let seeds: Vec<String> = sentinels.iter().map(Sentinel::address).collect();
    let url = |name: &str| format!("redis-sentinel://{}/{name}", seeds.join(","));
    let (proxy, second) = before(&url("orders"), &url("cache"));
    let proxy = ready(proxy);
    let (mut orders, mut cache) = (proxy.client(), Client::connect(second));
    assert_eq!(orders.ask("SET who orders"), b"+OK\r\n");
    assert_eq!(cache.ask("SET who cache"), b"+OK\r\n");
    assert_eq!(living[0].client().text("GET who"), "$6\r\norders\r\n");
    assert_eq!(dying[0].client().text("GET who"), "$5\r\ncache\r\n");
    assert_eq!(cache.ask("WAIT 1 0"), b":1\r\n");

    let reader = Reader::of(orders, b"orders");
    let outages = proxy.metric_of("breakwater_upstream_outages_total", "upstream=\"default\"");
    dying[0].kill();
    let promoted = format!("keyless commands to 127.0.0.1:{}\n", dying[1].port());
    until("the replica of the one is promoted and followed", || {
        proxy.http("/topology?upstream=b").1.contains(&promoted)
    });
    until("its clients are served again", || cache.text("SET who again") == "+OK\r\n");
    assert_eq!(cache.text("GET who"), "$5\r\nagain\r\n");
    reader.goes_on();
    reader.finish();

    let of =
        |name: &str, upstream: &str| proxy.metric_of(name, &format!("upstream=\"{upstream}\""));
    assert_eq!(of("breakwater_primary_changes_total", "b"), 1.0);
    assert_eq!(of("breakwater_primary_changes_total", "default"), 0.0);
    assert_eq!(of("breakwater_upstream_outages_total", "default"), outages);
    let errors = proxy.metric_of("breakwater_commands_total", "upstream=\"default\"");
    let fine = proxy.metric_of(
        "breakwater_commands_total",
        "upstream=\"default\",command=\"get\",outcome=\"ok\"",
    );
    assert_eq!(errors - fine, 1.0, "but for its SET, every command was a GET that went well");
    let page = proxy.http("/topology").1;
    assert!(page.contains("master orders: 3 of 3 Sentinels answer"), "{page}");
    assert!(page.contains("master cache: 3 of 3 Sentinels answer"), "{page}");
    assert_eq!(proxy.metric("breakwater_panics_total"), 0.0);
}
