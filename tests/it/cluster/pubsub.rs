//! Subscriptions in a cluster: channels from any node, shard channels from the owner of their slot, notifications from
//! every primary, whatever becomes of the nodes.
//!
//! Owns what a client gets and what is left on the servers. Never compares the order of messages of several nodes.
//!
//! What surprises: a message that is published while a connection is lost is lost with it, as with Redis itself; so a test
//! publishes until one arrives and then expects each of the next ones exactly once.

use std::time::Duration;

use crate::support::cluster::{Cluster, Failover, key_in, share, slot_of};
use crate::support::{Client, Proxy, bulk, command, shown, until};

/// A proxy that has seen the whole map.
fn before(cluster: &Cluster) -> Proxy {
    let proxy = Proxy::before(&cluster.url()).ready();
    let mut client = proxy.client();
    until("the slot map is there", || client.text("GET x") == "$-1\r\n");
    proxy
}

/// A frame as a client of this version gets it.
fn pushed(version: u8, words: &[&str]) -> Vec<u8> {
    let mut frame = command(words);
    frame[0] = if version == 3 { b'>' } else { b'*' };
    frame
}

fn confirmed(version: u8, word: &str, topic: &str, count: usize) -> Vec<u8> {
    let kind = if version == 3 { '>' } else { '*' };
    let head = format!("{kind}3\r\n").into_bytes();
    [head, bulk(word.as_bytes()), bulk(topic.as_bytes()), format!(":{count}\r\n").into_bytes()]
        .concat()
}

fn client(proxy: &Proxy, version: u8) -> Client {
    let mut client = proxy.client();
    client.ask(&format!("HELLO {version}"));
    client
}

fn expect(client: &mut Client, frame: &[u8], what: &str) {
    let got = client.frame();
    assert_eq!(shown(&got), shown(frame), "{what}");
}

/// Nothing more has come than was looked at.
fn expect_nothing(client: &mut Client) {
    client.patience(Duration::from_millis(300));
    let more = client.try_frame();
    assert!(more.is_err(), "{}", more.map(|frame| shown(&frame)).unwrap_or_default());
    client.patience(crate::support::PATIENCE);
}

/// Publishes until the subscriber gets it, and returns how many other frames came before.
fn until_heard(subscriber: &mut Client, version: u8, kind: &str, mut publish: impl FnMut(&str)) {
    let mut number = 0;
    subscriber.patience(Duration::from_millis(200));
    until("a message arrives again", || {
        number += 1;
        publish(&format!("try:{number}"));
        loop {
            match subscriber.try_frame() {
                Ok(frame)
                    if frame.starts_with(&pushed(version, &[kind])[..1])
                        && shown(&frame).contains(&format!("try:{number}")) =>
                {
                    return true;
                }
                Ok(_) => {}
                Err(_) => return false,
            }
        }
    });
    subscriber.patience(crate::support::PATIENCE);
}

/// Whether no node has a subscription left.
fn nothing_left(cluster: &Cluster, topics: &[&str]) -> bool {
    cluster.living().into_iter().all(|i| {
        let mut node = cluster.node(i);
        node.text("PUBSUB CHANNELS") == "*0\r\n"
            && node.text("PUBSUB NUMPAT") == ":0\r\n"
            && node.text("PUBSUB SHARDCHANNELS") == "*0\r\n"
            && topics
                .iter()
                .all(|topic| node.text(&format!("PUBSUB NUMSUB {topic}")).ends_with(":0\r\n"))
    })
}

#[test]
fn a_channel_is_heard_from_every_node_and_counted_by_clients() {
    let cluster = Cluster::start(3, 0);
    let proxy = before(&cluster);
    let mut publisher = proxy.client();
    for version in [2, 3] {
        let mut subscribers: Vec<Client> = (0..3).map(|_| client(&proxy, version)).collect();
        for subscriber in &mut subscribers {
            subscriber.send("SUBSCRIBE news\r\nPSUBSCRIBE n*\r\n");
            expect(subscriber, &confirmed(version, "subscribe", "news", 1), "channel");
            expect(subscriber, &confirmed(version, "psubscribe", "n*", 2), "pattern");
        }
        for i in 0..3 {
            cluster.node(i).ask(&format!("PUBLISH news from:{i}"));
            for subscriber in &mut subscribers {
                let text = format!("from:{i}");
                expect(subscriber, &pushed(version, &["message", "news", &text]), "any node");
                expect(
                    subscriber,
                    &pushed(version, &["pmessage", "n*", "news", &text]),
                    "any node",
                );
            }
        }
        assert_eq!(publisher.text("PUBLISH news x"), ":6\r\n");
        assert_eq!(publisher.text("PUBSUB NUMSUB news"), "*2\r\n$4\r\nnews\r\n:3\r\n");
        for subscriber in &mut subscribers {
            subscriber.frames(2);
            expect_nothing(subscriber);
        }
        drop(subscribers);
        until("nothing is left on the servers", || nothing_left(&cluster, &["news"]));
    }
}

#[test]
fn a_channel_survives_the_death_of_the_node_that_its_link_leads_to() {
    let mut cluster = Cluster::start(3, 1);
    let proxy = before(&cluster);
    let mut subscribers = [2, 3].map(|version| (version, client(&proxy, version)));
    for (version, subscriber) in &mut subscribers {
        subscriber.send("SUBSCRIBE news\r\n");
        expect(subscriber, &confirmed(*version, "subscribe", "news", 1), "channel");
    }
    let is_on = |i: usize| cluster.node(i).text("PUBSUB NUMSUB news").ends_with(":1\r\n");
    let victim = (0..6).find(|&i| is_on(i)).expect("one node has the link");
    cluster.kill(victim);
    let publisher = cluster.living()[0];
    for (version, subscriber) in &mut subscribers {
        until_heard(subscriber, *version, "message", |text| {
            cluster.node(publisher).ask(&format!("PUBLISH news {text}"));
        });
    }
    assert!(proxy.metric("breakwater_subscription_gaps_total") >= 1.0);
    cluster.node(publisher).ask("PUBLISH news last");
    for (version, subscriber) in &mut subscribers {
        let last = pushed(*version, &["message", "news", "last"]);
        until("the last one comes", || subscriber.frame() == last);
        expect_nothing(subscriber);
    }
}

#[test]
fn a_shard_channel_follows_its_slot() {
    let cluster = Cluster::start(3, 0);
    let proxy = before(&cluster);
    let channel = key_in(42, 0);
    let mut publisher = proxy.client();
    let mut subscribers = [2, 3].map(|version| (version, client(&proxy, version)));
    for (version, subscriber) in &mut subscribers {
        subscriber.send(format!("SSUBSCRIBE {channel}\r\n"));
        expect(subscriber, &confirmed(*version, "ssubscribe", &channel, 1), "shard channel");
    }
    let mut mover = cluster.mover();
    let mut owner = 0;
    for next in [1, 2, 0] {
        assert_eq!(publisher.text(&format!("SPUBLISH {channel} before")), ":2\r\n");
        mover.move_slot(42, owner, next);
        owner = next;
        for (version, subscriber) in &mut subscribers {
            let before = pushed(*version, &["smessage", &channel, "before"]);
            expect(subscriber, &before, "before the move");
            if *version == 3 {
                expect(subscriber, b">2\r\n$4\r\npong\r\n$14\r\nbreakwater:gap\r\n", "the gap");
            }
        }
        until("both are counted at the new owner", || {
            publisher.text(&format!("PUBSUB SHARDNUMSUB {channel}")).ends_with(":2\r\n")
        });
    }
    assert_eq!(proxy.metric("breakwater_subscriptions_moved_total"), 3.0);
    assert!(publisher.text("PUBSUB SHARDCHANNELS").contains(&channel));
    for (_, subscriber) in &mut subscribers {
        expect_nothing(subscriber);
        subscriber.send(format!("SUNSUBSCRIBE {channel}\r\n"));
        assert!(shown(&subscriber.frame()).contains("sunsubscribe"));
    }
    until("nothing is left on the servers", || nothing_left(&cluster, &[]));
}

#[test]
fn shard_channels_are_asked_for_where_their_slot_is_and_together_only_in_one() {
    let cluster = Cluster::start(3, 0);
    let proxy = before(&cluster);
    let channels: Vec<String> = (0..3).map(|i| key_in(share(i, 3).0, 0)).collect();
    let mut subscriber = client(&proxy, 3);
    let crossed = subscriber.text(&format!("SSUBSCRIBE {}", channels.join(" ")));
    assert_eq!(crossed, "-CROSSSLOT Keys in request don't hash to the same slot\r\n");
    for (count, channel) in channels.iter().enumerate() {
        subscriber.send(format!("SSUBSCRIBE {channel}\r\n"));
        expect(&mut subscriber, &confirmed(3, "ssubscribe", channel, count + 1), "one by one");
    }
    // The map is not told of this move, so that the question is redirected.
    let moved = key_in(7, 0);
    cluster.mover().give_empty(&[slot_of(&moved)], 0, 1);
    subscriber.send(format!("SSUBSCRIBE {moved}\r\n"));
    expect(&mut subscriber, &confirmed(3, "ssubscribe", &moved, 4), "redirected");
    let mut publisher = proxy.client();
    for channel in channels.iter().chain([&moved]) {
        assert_eq!(publisher.text(&format!("SPUBLISH {channel} x")), ":1\r\n");
        expect(&mut subscriber, &pushed(3, &["smessage", channel, "x"]), "each from its node");
    }
    subscriber.send("SUNSUBSCRIBE\r\n");
    for (left, channel) in channels.iter().chain([&moved]).enumerate() {
        expect(&mut subscriber, &confirmed(3, "sunsubscribe", channel, 3 - left), "all of them");
    }
    until("nothing is left on the servers", || nothing_left(&cluster, &[]));
}

#[test]
fn a_shard_channel_survives_a_failover_of_its_node() {
    let mut cluster = Cluster::start(3, 1);
    let proxy = before(&cluster);
    let channel = key_in(42, 0);
    let mut subscriber = client(&proxy, 3);
    subscriber.send(format!("SSUBSCRIBE {channel}\r\n"));
    expect(&mut subscriber, &confirmed(3, "ssubscribe", &channel, 1), "shard channel");
    let mut publisher = proxy.client();
    cluster.failover(3, Failover::Agreed);
    until_heard(&mut subscriber, 3, "smessage", |text| {
        publisher.ask(&format!("SPUBLISH {channel} {text}"));
    });
    cluster.settle();
    cluster.kill(3);
    cluster.wait_promoted(0);
    until_heard(&mut subscriber, 3, "smessage", |text| {
        publisher.ask(&format!("SPUBLISH {channel} {text}"));
    });
    assert_eq!(publisher.text(&format!("SPUBLISH {channel} last")), ":1\r\n");
    expect(&mut subscriber, &pushed(3, &["smessage", &channel, "last"]), "once");
    expect_nothing(&mut subscriber);
}

#[test]
fn notifications_come_from_every_primary_and_each_once() {
    let mut cluster = Cluster::start(3, 1);
    let proxy = before(&cluster);
    for i in 0..6 {
        assert_eq!(cluster.node(i).text("CONFIG SET notify-keyspace-events KEA"), "+OK\r\n");
    }
    let mut writer = proxy.client();
    for version in [2, 3] {
        let mut subscriber = client(&proxy, version);
        subscriber.send("PSUBSCRIBE __keyspace@0__:*\r\nSUBSCRIBE __keyevent@0__:del\r\n");
        expect(&mut subscriber, &confirmed(version, "psubscribe", "__keyspace@0__:*", 1), "one");
        expect(&mut subscriber, &confirmed(version, "subscribe", "__keyevent@0__:del", 2), "one");
        for i in 0..3 {
            let key = key_in(share(i, 3).0, 1);
            let channel = format!("__keyspace@0__:{key}");
            let told =
                |what: &str| pushed(version, &["pmessage", "__keyspace@0__:*", &channel, what]);
            assert_eq!(writer.text(&format!("SET {key} 1")), "+OK\r\n");
            expect(&mut subscriber, &told("set"), "no primary is left out");
            assert_eq!(writer.text(&format!("DEL {key}")), ":1\r\n");
            let event = pushed(version, &["message", "__keyevent@0__:del", &key]);
            let mut both = subscriber.frames(2);
            both.sort();
            let mut want = vec![told("del"), event];
            want.sort();
            assert_eq!(both, want);
        }
        expect_nothing(&mut subscriber);
        drop(subscriber);
        until("nothing is left on the servers", || nothing_left(&cluster, &[]));
    }
    // A pattern for everything, and a primary that is replaced.
    let mut subscriber = client(&proxy, 3);
    subscriber.send("PSUBSCRIBE *\r\n");
    expect(&mut subscriber, &confirmed(3, "psubscribe", "*", 1), "everything");
    assert_eq!(writer.text("PUBLISH news x"), ":1\r\n");
    expect(&mut subscriber, &pushed(3, &["pmessage", "*", "news", "x"]), "once");
    expect_nothing(&mut subscriber);
    cluster.kill(1);
    cluster.wait_promoted(4);
    let key = key_in(share(1, 3).0, 1);
    until_heard(&mut subscriber, 3, "pmessage", |text| {
        cluster.node(4).ask(&format!("SET {{{}}}{text} 1", &key[1..key.find('}').expect("a tag")]));
    });
    cluster.node(4).ask(&format!("SET {key} 1"));
    let channel = format!("__keyspace@0__:{key}");
    expect(&mut subscriber, &pushed(3, &["pmessage", "*", &channel, "set"]), "key");
    expect(&mut subscriber, &pushed(3, &["pmessage", "*", "__keyevent@0__:set", &key]), "event");
    expect_nothing(&mut subscriber);
}
