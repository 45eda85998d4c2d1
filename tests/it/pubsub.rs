//! Subscriptions: what clients of Redis get, without a connection of their own.
//!
//! Owns the proofs that a conversation is answered to the byte as Redis answers it, that counts are those of clients
//! and not of connections, that nothing is left behind, and that messages flow again after every kind of loss.
//!
//! What surprises: a message and the reply to the PUBLISH that caused it come over different connections, so a test
//! waits for each by itself; only where one connection is concerned is their order compared.

mod crowd;

use std::time::Duration;

use crate::support::pair::masked;
use crate::support::{Client, Proxy, RedisServer, bulk, command, line, shown, until};

/// What a subscriber gets, as an array of RESP2 or a push of RESP3.
fn pushed(kind: char, words: &[&str]) -> Vec<u8> {
    let mut frame = command(words);
    frame[0] = kind as u8;
    frame
}

/// A confirmation.
fn confirmed(kind: char, word: &str, topic: &str, count: usize) -> Vec<u8> {
    let head = format!("{kind}3\r\n").into_bytes();
    let count = format!(":{count}\r\n").into_bytes();
    [head, bulk(word.as_bytes()), bulk(topic.as_bytes()), count].concat()
}

fn subscribed(proxy: &Proxy, words: &str) -> Client {
    let mut client = proxy.client();
    client.send(line(words));
    for _ in words.split(' ').skip(1) {
        let frame = client.frame();
        assert!(frame.starts_with(b"*3\r\n"), "{}", shown(&frame));
    }
    client
}

/// A line of a conversation: who speaks (`c` the subscriber, `p` another client), what (commands of one pipeline between
/// bars), and how many frames the subscriber gets because of it.
type Said = (char, &'static str, usize);

/// Holds the same conversation with Redis directly and through the proxy.
fn converse(version: u8, conversation: &[Said]) {
    let redis = [RedisServer::start(), RedisServer::start()];
    let proxy = Proxy::before(&redis[0].url()).ready();
    let mut subscribers = [proxy.client(), redis[1].client()];
    let mut others = [proxy.client(), redis[1].client()];
    for client in &mut subscribers {
        client.ask(&format!("HELLO {version}"));
    }
    for (who, words, frames) in conversation {
        if *who == 'p' {
            let [ours, theirs] = others.each_mut().map(|other| other.ask(words));
            assert_eq!(shown(&ours), shown(&theirs), "RESP{version} {words}: ours, theirs");
        } else {
            let pipeline: Vec<u8> = words.split('|').flat_map(line).collect();
            for client in &mut subscribers {
                client.send(&pipeline);
            }
        }
        let [ours, theirs] =
            subscribers.each_mut().map(|client| masked(client.frames(*frames).concat()));
        assert_eq!(shown(&ours), shown(&theirs), "RESP{version} {words}: ours, theirs");
    }
    // Nothing more has come than was looked at.
    let [ours, theirs] = subscribers.map(|mut client| {
        client.finish_sending();
        client.rest()
    });
    assert_eq!(shown(&ours), shown(&theirs), "RESP{version} at the end: ours, theirs");
}

#[test]
fn a_conversation_in_resp2_is_answered_to_the_byte_as_by_redis() {
    converse(
        2,
        &[
            ('c', "UNSUBSCRIBE", 1),
            ('c', "UNSUBSCRIBE a b", 2),
            ('c', "PUNSUBSCRIBE", 1),
            ('c', "SUNSUBSCRIBE", 1),
            ('c', "SUNSUBSCRIBE a", 1),
            ('c', "SUBSCRIBE", 1),
            ('c', "PING", 1),
            ('c', "SUBSCRIBE a b", 2),
            ('c', "SUBSCRIBE a", 1),
            ('c', "subscribe c c", 2),
            ('c', "PSUBSCRIBE x* x*", 2),
            ('c', "SSUBSCRIBE s", 1),
            ('p', "PUBLISH a one", 1),
            ('p', "PUBLISH xa two", 1),
            ('p', "PUBLISH nobody three", 0),
            ('p', "SPUBLISH s four", 1),
            ('p', "SPUBLISH a five", 0),
            ('p', "PUBSUB NUMSUB a b xa s", 0),
            ('p', "PUBSUB NUMSUB", 0),
            ('p', "PUBSUB SHARDNUMSUB a s", 0),
            ('p', "PUBSUB NUMPAT", 0),
            ('p', "PUBSUB CHANNELS a*", 0),
            ('p', "PUBSUB SHARDCHANNELS", 0),
            ('c', "PING", 1),
            ('c', "PING text", 1),
            ('c', "PING too many", 1),
            ('c', "GET x", 1),
            ('c', "GET", 1),
            ('c', "NOSUCH x", 1),
            ('c', "HELLO 3", 1),
            ('c', "AUTH x", 1),
            ('c', "MULTI", 1),
            ('c', "MULTI|SET x 1|EXEC", 3),
            ('c', "CLIENT REPLY ON", 1),
            ('c', "CLIENT ID", 1),
            ('c', "PUBSUB NUMPAT", 1),
            ('c', "UNSUBSCRIBE zz", 1),
            ('c', "UNSUBSCRIBE b zz c", 3),
            ('c', "UNSUBSCRIBE", 1),
            ('p', "PUBLISH a nobody", 0),
            ('c', "UNSUBSCRIBE", 1),
            ('c', "PUNSUBSCRIBE", 1),
            ('c', "GET x", 1),
            ('c', "SUNSUBSCRIBE s", 1),
            ('c', "GET x", 1),
            ('c', "PING", 1),
            ('c', "SUBSCRIBE a", 1),
            ('c', "RESET", 1),
            ('c', "GET x", 1),
            ('p', "PUBLISH a nobody", 0),
            ('p', "PUBSUB CHANNELS", 0),
            ('c', "SUBSCRIBE a", 1),
            ('c', "QUIT", 1),
        ],
    );
}

#[test]
fn a_conversation_in_resp3_is_answered_to_the_byte_as_by_redis() {
    converse(
        3,
        &[
            ('c', "UNSUBSCRIBE", 1),
            ('c', "SUBSCRIBE a b", 2),
            ('c', "PSUBSCRIBE a*", 1),
            ('c', "SSUBSCRIBE s t", 2),
            ('p', "PUBLISH a one", 2),
            ('p', "SPUBLISH t two", 1),
            ('c', "PING", 1),
            ('c', "SET x 1", 1),
            ('c', "GET x", 1),
            ('c', "UNSUBSCRIBE a", 1),
            ('p', "PUBLISH a three", 1),
            ('c', "PUBSUB NUMSUB a b", 1),
            // RESP2 from here on, with all that was subscribed to.
            ('c', "HELLO 2", 1),
            ('p', "PUBLISH a four", 1),
            ('c', "GET x", 1),
            ('c', "PING", 1),
            ('c', "UNSUBSCRIBE b", 1),
            ('c', "PUNSUBSCRIBE a*", 1),
            ('c', "SUNSUBSCRIBE t", 1),
            ('c', "SUNSUBSCRIBE", 1),
            ('c', "GET x", 1),
        ],
    );
}

#[test]
fn what_is_pushed_is_shown_whatever_client_reply_says() {
    for (version, conversation) in [
        (
            2,
            &[
                ('c', "CLIENT REPLY OFF", 0),
                ('c', "SUBSCRIBE a", 1),
                ('p', "PUBLISH a one", 1),
                // Both are muted: an error, and a pong.
                ('c', "CLIENT REPLY ON", 0),
                ('c', "PING", 0),
                ('c', "UNSUBSCRIBE a", 1),
            ][..],
        ),
        (2, &[('c', "CLIENT REPLY SKIP", 0), ('c', "SUBSCRIBE a", 1), ('p', "PUBLISH a one", 1)]),
        (
            3,
            &[
                ('c', "SUBSCRIBE a", 1),
                ('c', "CLIENT REPLY OFF", 0),
                ('p', "PUBLISH a one", 1),
                ('c', "SUBSCRIBE b", 1),
                ('c', "GET x", 0),
                ('c', "CLIENT REPLY ON", 1),
                ('c', "CLIENT REPLY SKIP", 0),
                ('p', "PUBLISH b two", 1),
                ('c', "UNSUBSCRIBE b", 1),
                ('c', "GET x", 1),
            ],
        ),
    ] {
        converse(version, conversation);
    }
}

#[test]
fn counts_are_those_of_clients_on_all_workers() {
    let redis = RedisServer::start();
    let proxy = Proxy::start(&["--upstream", &redis.url(), "--workers", "2"]).ready();
    let mut direct = redis.client();
    direct.ask("SUBSCRIBE news");
    let mut clients: Vec<Client> = (0..5).map(|_| subscribed(&proxy, "SUBSCRIBE news")).collect();
    let mut patterns: Vec<Client> = (0..3).map(|_| subscribed(&proxy, "PSUBSCRIBE n*")).collect();
    let mut shards: Vec<Client> = (0..4).map(|_| subscribed(&proxy, "SSUBSCRIBE s")).collect();
    let (mut asker, mut raw) = (proxy.client3(), redis.client());
    // Two workers and one direct client for Redis; five and one for everybody else.
    assert_eq!(raw.ask("PUBSUB NUMSUB news"), b"*2\r\n$4\r\nnews\r\n:3\r\n");
    assert_eq!(
        asker.ask("PUBSUB NUMSUB news other"),
        b"*4\r\n$4\r\nnews\r\n:6\r\n$5\r\nother\r\n:0\r\n"
    );
    assert_eq!(
        asker.ask("PUBSUB SHARDNUMSUB s news"),
        b"*4\r\n$1\r\ns\r\n:4\r\n$4\r\nnews\r\n:0\r\n"
    );
    assert_eq!(asker.ask("PUBSUB NUMPAT"), b":1\r\n");
    assert_eq!(asker.ask("PUBLISH news x"), b":9\r\n");
    assert_eq!(asker.ask("SPUBLISH s y"), b":4\r\n");
    for client in &mut clients {
        assert_eq!(client.frame(), pushed('*', &["message", "news", "x"]));
    }
    for client in &mut patterns {
        assert_eq!(client.frame(), pushed('*', &["pmessage", "n*", "news", "x"]));
    }
    for client in &mut shards {
        assert_eq!(client.frame(), pushed('*', &["smessage", "s", "y"]));
    }
    // One less of each; the worker's link stays subscribed or not, the counts are right either way.
    for (mut leaving, words) in
        [(clients.remove(0), "UNSUBSCRIBE"), (patterns.remove(0), "PUNSUBSCRIBE")]
    {
        leaving.ask(words);
    }
    assert_eq!(asker.ask("PUBLISH news x"), b":7\r\n");
    // The same on a connection of the client's own.
    assert_eq!(asker.ask("WATCH k"), b"+OK\r\n");
    assert_eq!(asker.ask("PUBLISH news x"), b":7\r\n");
    assert_eq!(proxy.metric("breakwater_subscriptions"), 10.0);
    assert_eq!(proxy.metric("breakwater_subscriber_links"), 2.0);
}

#[test]
fn who_leaves_in_whatever_way_leaves_no_subscription() {
    let redis = RedisServer::start();
    let proxy = Proxy::before(&redis.url()).ready();
    let mut raw = redis.client();
    let words = ["SUBSCRIBE a b c", "PSUBSCRIBE a* b*", "SSUBSCRIBE s t"];
    for round in 0..3 {
        let mut clients: Vec<Client> = (0..6)
            .map(|number| {
                let mut client = subscribed(&proxy, words[number % 3]);
                client.send(line(&format!("SUBSCRIBE own-{number}")));
                client.frame();
                client
            })
            .collect();
        assert_ne!(raw.ask("PUBSUB CHANNELS"), b"*0\r\n");
        match round {
            0 => drop(clients),
            1 => clients.drain(..).for_each(Client::abort),
            _ => {
                for client in &mut clients {
                    client.ask("RESET");
                }
                until("nothing is left", || raw.ask("PUBSUB CHANNELS") == b"*0\r\n");
                // Those of RESET are here still.
                assert_eq!(clients[0].ask("ECHO here"), bulk(b"here"));
            }
        }
        until("nothing is left", || {
            raw.ask("PUBSUB CHANNELS") == b"*0\r\n"
                && raw.ask("PUBSUB NUMPAT") == b":0\r\n"
                && raw.ask("PUBSUB SHARDCHANNELS") == b"*0\r\n"
        });
        until("nothing is counted", || proxy.metric("breakwater_subscriptions") == 0.0);
    }
}

#[test]
fn messages_flow_again_after_redis_was_killed_and_resp3_hears_of_the_gap() {
    let mut redis = RedisServer::start();
    let proxy = Proxy::before(&redis.url()).ready();
    let mut two = subscribed(&proxy, "SUBSCRIBE a b");
    let mut three = proxy.client3();
    assert_eq!(three.ask("PSUBSCRIBE *"), confirmed('>', "psubscribe", "*", 1));
    redis.kill();
    // Nobody waits for ever for a confirmation, and nobody has to go.
    let mut late = proxy.client();
    let refused = late.text("SUBSCRIBE late");
    assert!(refused.starts_with("-ERR breakwater: not executed: "), "{refused}");
    assert_eq!(two.ask("UNSUBSCRIBE b"), confirmed('*', "unsubscribe", "b", 1));
    redis.restart();
    assert_eq!(three.frame(), pushed('>', &["pong", "breakwater:gap"]));
    let mut publisher = redis.client();
    until("the link is subscribed again", || publisher.ask("PUBLISH a back") != b":0\r\n");
    assert_eq!(two.frame(), pushed('*', &["message", "a", "back"]));
    assert_eq!(three.frame(), pushed('>', &["pmessage", "*", "a", "back"]));
    assert_eq!(publisher.ask("PUBSUB CHANNELS"), b"*1\r\n$1\r\na\r\n");
    until("the late one can subscribe", || late.ask("SUBSCRIBE late").starts_with(b"*3"));
    assert!(proxy.metric("breakwater_subscription_gaps_total") >= 1.0);
    assert!(proxy.metric("breakwater_subscriber_links_lost_total") >= 1.0);
}

#[test]
fn a_slow_reader_is_closed_and_another_gets_every_message() {
    let redis = RedisServer::start();
    let proxy = Proxy::configured(&format!(
        "[upstream]\nurl = \"{}\"\n[[listener]]\naddress = \"127.0.0.1:0\"\n\
         [listener.pubsub]\nbuffer_hard_bytes = \"1MiB\"\nbuffer_soft_bytes = \"512KiB\"\n",
        redis.url()
    ))
    .ready();
    let mut slow = subscribed(&proxy, "SUBSCRIBE a");
    let mut fast = subscribed(&proxy, "SUBSCRIBE a");
    let mut publisher = redis.client();
    // More than all kernels in between hold for somebody who does not read.
    let text = "x".repeat(60_000);
    for number in 0..1_000 {
        let message = format!("{number} {text}");
        let replied = publisher.call(&["PUBLISH", "a", &message]);
        assert_eq!(replied, b":1\r\n", "one link");
        assert_eq!(fast.frame(), pushed('*', &["message", "a", &message]), "message {number}");
    }
    let reason = "reason=\"slow_subscriber\"";
    until("the slow one is closed", || {
        proxy.metric_of("breakwater_clients_closed_total", reason) == 1.0
    });
    let got = slow.rest().len();
    assert!(got < 60_000_000, "it got {got} bytes");
}

#[test]
fn a_reader_that_stays_above_the_soft_limit_is_closed() {
    let redis = RedisServer::start();
    let proxy = Proxy::configured(&format!(
        "[upstream]\nurl = \"{}\"\n[[listener]]\naddress = \"127.0.0.1:0\"\n[listener.pubsub]\n\
         buffer_hard_bytes = 0\nbuffer_soft_bytes = \"1MiB\"\nbuffer_soft_time = \"1s\"\n",
        redis.url()
    ))
    .ready();
    let slow = subscribed(&proxy, "SUBSCRIBE a");
    let mut publisher = redis.client();
    let text = "x".repeat(1 << 20);
    for _ in 0..40 {
        publisher.call(&["PUBLISH", "a", &text]);
    }
    until("the slow one is closed", || {
        proxy.metric_of("breakwater_clients_closed_total", "reason=\"slow_subscriber\"") == 1.0
    });
    drop(slow);
}

#[test]
fn each_user_has_a_link_and_gets_what_its_acl_allows() {
    let redis = RedisServer::start();
    let mut admin = redis.client();
    for words in [
        "ACL SETUSER default resetpass >root",
        "ACL SETUSER ann on >pw ~* +@all resetchannels &news*",
        "ACL SETUSER bob on >pw ~* +@all allchannels",
    ] {
        assert_eq!(admin.ask(words), b"+OK\r\n", "{words}");
    }
    let proxy = Proxy::before(&redis.url());
    let [mut ann, mut bob] = ["ann", "bob"].map(|user| {
        let mut client = proxy.client();
        let words = format!("AUTH {user} pw");
        until("the node has confirmed it", || client.ask(&words) == b"+OK\r\n");
        client
    });
    let mut direct = redis.client();
    direct.ask("AUTH ann pw");
    let refused = direct.ask("SUBSCRIBE news secret");
    assert!(refused.starts_with(b"-NOPERM"));
    assert_eq!(ann.ask("SUBSCRIBE news secret"), refused);
    assert_eq!(ann.ask("PSUBSCRIBE *"), direct.ask("PSUBSCRIBE *"));
    assert_eq!(bob.ask("SUBSCRIBE secret"), confirmed('*', "subscribe", "secret", 1));
    assert_eq!(ann.ask("SUBSCRIBE news"), confirmed('*', "subscribe", "news", 1));
    assert_eq!(admin.ask("PUBLISH secret x"), b":1\r\n");
    assert_eq!(admin.ask("PUBLISH news y"), b":1\r\n");
    assert_eq!(bob.frame(), pushed('*', &["message", "secret", "x"]));
    assert_eq!(ann.frame(), pushed('*', &["message", "news", "y"]));
    let links = admin.text("CLIENT LIST").matches("name=breakwater:pubsub").count();
    assert_eq!(links, 2);
    // Redis ends a user's connections when its channels are taken away; the client of that user goes, no other.
    assert_eq!(admin.ask("ACL SETUSER ann resetchannels"), b"+OK\r\n");
    assert_eq!(ann.rest(), b"");
    assert_eq!(admin.ask("PUBLISH secret z"), b":1\r\n");
    assert_eq!(bob.frame(), pushed('*', &["message", "secret", "z"]));
}

#[test]
fn keyspace_notifications_are_messages_like_others() {
    let redis = RedisServer::start_with(&["--notify-keyspace-events", "KEA"]);
    let proxy = Proxy::before(&redis.url()).ready();
    let mut listener = subscribed(&proxy, "PSUBSCRIBE __keyspace@0__:* __keyevent@1__:*");
    let mut writer = proxy.client();
    writer.ask("SET k v");
    let frame = pushed('*', &["pmessage", "__keyspace@0__:*", "__keyspace@0__:k", "set"]);
    assert_eq!(listener.frame(), frame);
    writer.ask("SELECT 1");
    writer.ask("SET k v PX 1");
    let frame = listener.frame();
    assert_eq!(frame, pushed('*', &["pmessage", "__keyevent@1__:*", "__keyevent@1__:set", "k"]));
}

#[test]
fn subscribers_are_shown_as_such_and_can_be_killed_as_such() {
    let redis = RedisServer::start();
    let proxy = Proxy::before(&redis.url()).ready();
    let mut asker = proxy.client3();
    asker.ask("CLIENT SETNAME asker");
    let mut plain = proxy.client();
    plain.ask("PING");
    let mut listener = subscribed(&proxy, "SUBSCRIBE a b");
    listener.send(line("PSUBSCRIBE x*"));
    listener.frame();
    listener.send(line("SSUBSCRIBE s"));
    listener.frame();
    let list = asker.text("CLIENT LIST TYPE pubsub");
    assert_eq!(list.matches("id=").count(), 1, "{list}");
    assert!(list.contains(" flags=P db=0 sub=2 psub=1 ssub=1 multi=-1 "), "{list}");
    let list = asker.text("CLIENT LIST TYPE normal");
    assert_eq!(list.matches("id=").count(), 2, "{list}");
    assert_eq!(asker.ask("CLIENT KILL TYPE pubsub"), b":1\r\n");
    assert_eq!(listener.rest(), b"");
    until("its subscriptions end with it", || redis.client().ask("PUBSUB CHANNELS") == b"*0\r\n");
    assert_eq!(plain.ask("PING"), b"+PONG\r\n");
}

#[test]
fn who_listens_is_not_idle() {
    let redis = RedisServer::start();
    let proxy = Proxy::configured(&format!(
        "[upstream]\nurl = \"{}\"\n[[listener]]\naddress = \"127.0.0.1:0\"\n\
         client_idle_timeout = \"300ms\"\n",
        redis.url()
    ))
    .ready();
    let mut listener = subscribed(&proxy, "SUBSCRIBE a");
    let mut plain = proxy.client();
    plain.ask("PING");
    // Whoever came later is closed for being silent as long.
    assert_eq!(plain.rest(), b"");
    assert_eq!(redis.client().ask("PUBLISH a x"), b":1\r\n");
    assert_eq!(listener.frame(), pushed('*', &["message", "a", "x"]));
}

#[test]
fn subscriptions_move_with_the_upstream() {
    let (old, new) = (RedisServer::start(), RedisServer::start());
    let upstream = |redis: &RedisServer| format!("[upstream]\nurl = \"{}\"\n", redis.url());
    let mut proxy = Proxy::configured(&upstream(&old)).ready();
    let mut listener = subscribed(&proxy, "SUBSCRIBE a");
    std::fs::write(proxy.file("breakwater.toml"), upstream(&new)).unwrap();
    proxy.hang_up();
    let mut publisher = new.client();
    until("the link is at the new server", || publisher.ask("PUBLISH a new") != b":0\r\n");
    assert_eq!(listener.frame(), pushed('*', &["message", "a", "new"]));
    until("and not at the old one", || old.client().ask("PUBSUB CHANNELS") == b"*0\r\n");
}

#[test]
fn what_one_client_says_takes_effect_in_its_order() {
    let redis = RedisServer::start();
    let proxy = Proxy::before(&redis.url()).ready();
    let mut client = proxy.client3();
    let words = [
        "PUBLISH a before",
        "SUBSCRIBE a",
        "PUBLISH a between",
        "UNSUBSCRIBE a",
        "PUBLISH a after",
    ];
    let pipeline: Vec<u8> = words.iter().flat_map(|words| line(words)).collect();
    for round in 0..200 {
        client.send(&pipeline);
        // A message and the reply to its PUBLISH come over different connections; everything else has its place.
        let mut frames = client.frames(6);
        let message = pushed('>', &["message", "a", "between"]);
        let place = frames.iter().position(|frame| *frame == message);
        frames
            .remove(place.unwrap_or_else(|| panic!("round {round}: {}", shown(&frames.concat()))));
        let expected = [
            b":0\r\n".to_vec(),
            confirmed('>', "subscribe", "a", 1),
            b":1\r\n".to_vec(),
            confirmed('>', "unsubscribe", "a", 0),
            b":0\r\n".to_vec(),
        ];
        assert_eq!(frames, expected, "round {round}: {}", shown(&frames.concat()));
    }
}

#[test]
fn a_pong_comes_behind_the_messages_that_were_published_before() {
    let redis = RedisServer::start();
    let proxy = Proxy::before(&redis.url()).ready();
    let mut listener = subscribed(&proxy, "SUBSCRIBE a");
    let mut publisher = redis.client();
    for round in 0..50 {
        let burst: Vec<u8> =
            (0..20).flat_map(|n| line(&format!("PUBLISH a {round}.{n}"))).collect();
        publisher.send(burst);
        publisher.frames(20);
        listener.send(line("PING end"));
        let frames = listener.frames(21);
        assert_eq!(frames[20], pushed('*', &["pong", "end"]), "{}", shown(&frames.concat()));
    }
}

#[test]
fn a_paused_node_holds_up_its_answers_and_nobody_else() {
    let mut redis = RedisServer::start();
    let proxy = Proxy::configured(&format!(
        "[upstream]\nurl = \"{}\"\nreply_deadline_fast = \"500ms\"\nreply_deadline_slow = \"1s\"\n",
        redis.url()
    ))
    .ready();
    let mut listener = subscribed(&proxy, "SUBSCRIBE a");
    redis.pause();
    let mut late = proxy.client();
    late.send(line("SUBSCRIBE late"));
    listener.send(line("PING"));
    for client in [&mut late, &mut listener] {
        let told = String::from_utf8(client.frame()).unwrap();
        assert!(told.starts_with("-ERR breakwater: no reply from "), "{told}");
    }
    assert_eq!(late.ask("ECHO still"), bulk(b"still"));
    redis.resume();
    // The late answer is undone: nobody is left at the server whom nobody told.
    let mut raw = redis.client();
    until("the late subscription is given up", || {
        raw.ask("PUBSUB NUMSUB a late") == b"*4\r\n$1\r\na\r\n:1\r\n$4\r\nlate\r\n:0\r\n"
    });
    assert_eq!(raw.ask("PUBLISH a x"), b":1\r\n");
    assert_eq!(listener.frame(), pushed('*', &["message", "a", "x"]));
    late.patience(Duration::from_secs(60));
    assert_eq!(late.ask("SUBSCRIBE late"), confirmed('*', "subscribe", "late", 1));
}
