//! Writes of a keyspace: refused, guarded, confirmed; and a policy that changes under them.
//!
//! Owns the proofs in every profile and both protocols. What surprises: a keyspace counts in profile `open`, where no
//! rule does: it is nobody's default.

use crate::support::sentinel::{GroupShape, servers};
use crate::support::{Client, Proxy, RedisServer, bulk, line, until};

const FROZEN: &str =
    "[[keyspace]]\nname = \"frozen\"\nkeys = [\"frozen:*\"]\nmode = \"readonly\"\n";

fn refused(command: &str) -> Vec<u8> {
    let why = "keyspace frozen is read-only (mode = \"readonly\" in the policy)";
    format!("-NOPERM breakwater: '{command}' refused: {why}\r\n").into_bytes()
}

/// Everything that a client may and may not do.
fn check(client: &mut Client) {
    assert_eq!(client.ask("SET frozen:1 w"), refused("set"));
    assert_eq!(client.ask("GET frozen:1"), bulk(b"v"));
    assert_eq!(client.ask("MSET other w frozen:1 w"), refused("mset"));
    assert_eq!(client.ask("DEL frozen:1"), refused("del"));
    assert_eq!(client.ask("COPY other frozen:2"), refused("copy"));
    assert_eq!(client.ask("EVAL return(1) 1 frozen:1"), refused("eval"));
    assert_eq!(client.ask("EVAL_RO return(1) 1 frozen:1"), b":1\r\n");
    assert_eq!(client.ask("SET other v"), b"+OK\r\n");
    // Piece by piece, and whole.
    assert_eq!(client.ask("MULTI"), b"+OK\r\n");
    assert_eq!(client.ask("DEL frozen:1"), refused("del"));
    assert!(client.ask("EXEC").starts_with(b"-EXECABORT"));
    let words = [
        "GET frozen:1",
        "INCR frozen:1",
        "MULTI",
        "SET other w",
        "DEL frozen:1",
        "EXEC",
        "GET other",
    ];
    client.send(words.map(line).concat());
    let frames = client.frames(words.len());
    assert_eq!((&frames[0], &frames[1]), (&bulk(b"v"), &refused("incr")));
    assert_eq!(frames[4], refused("del"));
    assert!(frames[5].starts_with(b"-EXECABORT"));
    assert_eq!(frames[6], bulk(b"v"), "nothing of the transaction has run");
    client.send(["MULTI", "GET frozen:1", "SET other v", "EXEC"].map(line).concat());
    assert_eq!(client.frames(4)[3], [b"*2\r\n".to_vec(), bulk(b"v"), b"+OK\r\n".to_vec()].concat());
}

#[test]
fn a_read_only_keyspace_refuses_writes_in_every_profile() {
    let redis = RedisServer::start();
    redis.client().ask("SET frozen:1 v");
    for profile in ["guard", "observe", "open"] {
        let proxy = Proxy::launch_by_file(FROZEN, |policy| {
            let url = redis.url();
            format!("profile = \"{profile}\"\npolicy = \"{policy}\"\n[upstream]\nurl = \"{url}\"\n")
        })
        .ready();
        check(&mut proxy.client());
        check(&mut proxy.client3());
        assert!(super::met(&proxy, "frozen", "refused_readonly") >= 14.0);
        let page = proxy.http("/policy").1;
        assert!(page.contains("keyspace frozen (frozen:*): refuses writes"), "{page}");
        let told = proxy.http("/policy/explain?a=SET&a=frozen:1&a=v").1;
        assert!(told.contains("keyspace: frozen (refuses writes)\nrefused: -NOPERM"), "{told}");
    }
    assert_eq!(redis.client().ask("GET frozen:1"), bulk(b"v"));
}

#[test]
fn writes_wait_for_replicas_in_step_and_are_confirmed_as_their_keyspace_says() {
    let policy = "[[keyspace]]\nname = \"orders\"\nkeys = [\"orders:*\"]\nmin_replicas = 1\nmax_lag = \"2s\"\n\
         [[keyspace]]\nname = \"paid\"\nkeys = [\"paid:*\"]\nconfirm = { replicas = 1, within = \"200ms\" }\n";
    let mut nodes = servers(&GroupShape::default());
    let proxy = Proxy::guarding(&nodes[0].url(), policy).ready();
    let (mut client, mut client3) = (proxy.client(), proxy.client3());
    until("the replica is known", || client.text("SET orders:1 v") == "+OK\r\n");
    until("it is confirmed", || client.text("SET paid:1 v") == "+OK\r\n");
    nodes[1].pause();
    until("the write is refused", || {
        let reply = client.text("SET orders:0 v");
        reply.starts_with("-ERR breakwater: not executed: 0 of 1 replicas of 127.0.0.1:")
            && reply.contains("as keyspace orders wants")
    });
    let unknown =
        b"-ERR breakwater: outcome unknown: applied, not confirmed by 1 replica within 200 ms\r\n";
    for (n, client) in [&mut client, &mut client3].into_iter().enumerate() {
        client.send(
            [
                format!("INCR paid:{n}:n"),
                format!("GET paid:{n}:n"),
                "SET other v".to_owned(),
                "GET orders:1".to_owned(),
                "SET orders:1 w".to_owned(),
            ]
            .map(|words| line(&words))
            .concat(),
        );
        let frames = client.frames(5);
        assert_eq!((&frames[0][..], &frames[1]), (&unknown[..], &bulk(b"1")), "applied, once");
        assert_eq!((&frames[2][..], &frames[3]), (&b"+OK\r\n"[..], &bulk(b"v")));
        assert!(frames[4].starts_with(b"-ERR breakwater: not executed: 0 of 1"));
        client.send(["MULTI", "SET orders:1 w", "EXEC"].map(line).concat());
        assert!(client.frames(3)[2].starts_with(b"-EXECABORT"));
    }
    nodes[1].resume();
    until("it passes again", || client.text("SET orders:1 w") == "+OK\r\n");
    until("it is confirmed again", || client.text("SET paid:1 w") == "+OK\r\n");
}

#[test]
fn a_keyspace_comes_and_goes_under_traffic() {
    let redis = RedisServer::start();
    redis.client().ask("SET frozen:1 v");
    let thawed = FROZEN.replace("frozen:*", "thawed:*");
    let proxy = Proxy::guarding(&redis.url(), &thawed).ready();
    let mut client = proxy.client();
    let mut turn = |policy: &str, is_frozen: bool| {
        proxy.replace_policy(policy);
        until("the turn is seen", || {
            let words = ["SET frozen:1 v", "GET frozen:1", "SET thawed:1 v"].map(line).concat();
            client.send(words.repeat(20));
            let frames = client.frames(60);
            for three in frames.chunks(3) {
                let is_refused = three[0] == refused("set");
                assert!(is_refused || three[0] == b"+OK\r\n");
                assert_eq!(three[1], bulk(b"v"));
                // A command is judged by one whole policy; between two of them it may change.
                assert!(three[2] == b"+OK\r\n" || three[2] == refused("set"));
            }
            frames[57..] == frames[..3] && (frames[57] == refused("set")) == is_frozen
        });
    };
    for _ in 0..3 {
        turn(FROZEN, true);
        turn(&thawed, false);
    }
    let broken =
        "[[keyspace]]\nname = \"frozen\"\nkeys = [\"frozen:*\"]\nread_form = \"replica\"\n";
    proxy.replace_policy(broken);
    until("the file is refused", || proxy.log().contains("did you mean 'read_from'?"));
    assert!(proxy.log().contains("policy.toml:4:1: 'read_form' is not a key of [keyspace]"));
    assert_eq!(proxy.client().ask("SET thawed:1 v"), refused("set"), "what was in force stays");
    assert!(proxy.log().contains("changed keyspace frozen"));
}
