//! `POST /upstream`: another deployment, ordered while traffic flows.
//!
//! Owns the proofs that clients stay connected and read nothing wrong on the way from one kind of deployment to
//! another and back, and that an order which cannot be carried out changes nothing (INV-6). What surprises: all
//! deployments here hold the same values but for one key, which tells where a client is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::cluster::Cluster;
use crate::support::{Client, Proxy, RedisServer, bulk, free_port, until};

/// Keys of the load, the same in all deployments.
const KEYS: usize = 40;

fn fill(client: &mut Client, who: &str) {
    for number in 0..KEYS {
        assert_eq!(client.ask(&format!("SET key:{number} value:{number}")), b"+OK\r\n");
    }
    assert_eq!(client.ask(&format!("SET who {who}")), b"+OK\r\n");
}

#[test]
fn clients_stay_and_read_nothing_wrong_from_one_to_a_cluster_and_back() {
    let (one, cluster) = (RedisServer::start(), Cluster::start(3, 0));
    fill(&mut one.client(), "one");
    // The cluster is filled as a client would: through a proxy.
    fill(&mut Proxy::before(&cluster.url()).ready().client(), "cluster");
    let proxy = Proxy::before(&one.url()).ready();
    let is_over = Arc::new(AtomicBool::new(false));
    let reader = |start: usize| {
        let (mut client, is_over) = (proxy.client(), Arc::clone(&is_over));
        std::thread::spawn(move || {
            let mut number = start;
            while !is_over.load(Ordering::SeqCst) {
                number = (number + 7) % KEYS;
                let want = bulk(format!("value:{number}").as_bytes());
                assert_eq!(client.ask(&format!("GET key:{number}")), want);
            }
        })
    };
    let readers: Vec<_> = (0..8).map(reader).collect();
    let mut client = proxy.client();
    for (url, who) in [(cluster.url(), "cluster"), (one.url(), "one"), (cluster.url(), "cluster")] {
        let (status, words) = proxy.post("/upstream", "", &url);
        assert_eq!(status, 200, "{words}");
        until("the client is moved", || client.ask("GET who") == bulk(who.as_bytes()));
    }
    is_over.store(true, Ordering::SeqCst);
    for reader in readers {
        reader.join().expect("no error and no wrong value");
    }
    assert_eq!(proxy.metric("breakwater_upstream_changes_total"), 3.0);
}

#[test]
fn an_order_that_cannot_be_carried_out_changes_nothing_and_says_why() {
    let redis = RedisServer::start();
    let proxy = Proxy::before(&redis.url()).ready();
    let mut client = proxy.client();
    assert_eq!(client.ask("SET k v"), b"+OK\r\n");
    let dead = format!("redis://app:hunter2@127.0.0.1:{}", free_port());
    for (headers, body, status, words) in [
        ("", dead.as_str(), 502, "refused"),
        ("", "redis//h", 422, "URL"),
        ("", "[upstream]\nurl = \"redis://h\"\nlanes_mx = 3\n", 422, "did you mean 'lanes_max'"),
        ("Origin: http://page.example\r\n", &redis.url(), 403, "web pages"),
    ] {
        let (told, text) = proxy.post("/upstream", headers, body);
        assert_eq!(told, status, "{text}");
        assert!(text.contains(words) && !text.contains("hunter2"), "{text}");
        assert_eq!(client.ask("GET k"), bulk(b"v"));
    }
    assert_eq!(proxy.http("/upstream").0, 405);
    assert_eq!(proxy.metric("breakwater_upstream_changes_total"), 0.0);
    assert!(!proxy.log().contains("hunter2"));
}

#[test]
fn the_later_word_wins_between_an_order_and_the_file() {
    let (first, second) = (RedisServer::start(), RedisServer::start());
    fill(&mut first.client(), "first");
    fill(&mut second.client(), "second");
    let mut proxy = Proxy::configured(&format!("[upstream]\nurl = \"{}\"\n", first.url())).ready();
    let mut client = proxy.client();
    let table = format!("[upstream]\nurl = \"{}\"\nlanes_max = 2\n", second.url());
    assert_eq!(proxy.post("/upstream", "", &table).0, 200);
    until("the order counts", || client.ask("GET who") == bulk(b"second"));
    proxy.hang_up();
    until("the file was asked for", || client.ask("GET who") == bulk(b"first"));
}

#[test]
fn a_port_that_may_change_nothing_takes_no_order() {
    let redis = RedisServer::start();
    let file = format!("admin_changes = false\n[upstream]\nurl = \"{}\"\n", redis.url());
    let proxy = Proxy::configured(&file).ready();
    let (status, words) = proxy.post("/upstream", "", &redis.url());
    assert_eq!(status, 403);
    assert!(words.contains("admin_changes = true"), "{words}");
}
