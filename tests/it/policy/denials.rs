//! Denials: what the catalogue and an operator's rules refuse, and what that leaves behind.
//!
//! Owns the proof that a denied command never reaches the server, that its client is told which rule and which policy,
//! and that everything around it goes on as if it had not been sent.

use super::runs;
use crate::support::{Proxy, RedisServer, line};

const ORDERS: &str = "[[rule]]\n\
     name = \"no-orders\"\n\
     commands = [\"GET\", \"CONFIG GET\", \"@write\"]\n\
     keys = [\"orders:*\"]\n\
     action = \"deny\"\n\
     message = \"orders are frozen\"\n";

#[test]
fn a_denied_command_does_not_run_and_its_pipeline_goes_on() {
    let redis = RedisServer::start();
    let proxy = Proxy::guarding(&redis.url(), ORDERS).ready();
    for mut client in [proxy.client(), proxy.client3()] {
        let before = runs(&redis, "keys");
        client.send(["SET a 1", "KEYS *", "GET a", "SET orders:1 x", "GET a"].map(line).concat());
        let answers = client.frames(5);
        assert_eq!(answers[0], b"+OK\r\n");
        let told = String::from_utf8_lossy(&answers[1]);
        assert!(
            told.starts_with(
                "-NOPERM breakwater: 'keys' is denied by rule guard.keys (policy 1); "
            )
        );
        assert_eq!(answers[2], b"$1\r\n1\r\n");
        let told = b"-NOPERM breakwater: 'set' is denied by rule no-orders (policy 1); orders are frozen\r\n";
        assert_eq!(answers[3], told);
        assert_eq!(answers[4], b"$1\r\n1\r\n");
        assert_eq!(runs(&redis, "keys"), before);
    }
    assert_eq!(redis.client().ask("EXISTS orders:1"), b":0\r\n");
}

#[test]
fn a_restriction_matches_any_key_of_a_command() {
    let redis = RedisServer::start();
    let proxy = Proxy::guarding(&redis.url(), ORDERS).ready();
    let mut client = proxy.client();
    assert!(client.text("MSET a 1 orders:1 2").starts_with("-NOPERM "));
    assert!(client.text("RENAME a orders:1").starts_with("-NOPERM "), "destinations count");
    assert!(client.text("EVAL return(1) 1 orders:1").starts_with(":1"), "EVAL is no @write");
    assert_eq!(client.ask("EXISTS a orders:1"), b":0\r\n");
    // A channel is no key.
    assert_eq!(client.ask("PUBLISH orders:1 x"), b":0\r\n");
}

#[test]
fn in_a_transaction_it_fails_as_in_redis_and_nothing_of_it_runs() {
    let redis = RedisServer::start();
    let proxy = Proxy::guarding(&redis.url(), ORDERS).ready();
    let block = ["MULTI", "SET a 1", "SET orders:1 x", "EXEC"].map(line);
    for mut client in [proxy.client(), proxy.client3()] {
        client.send(block.concat());
        let whole = client.frames(4);
        let pieces: Vec<Vec<u8>> = block
            .iter()
            .map(|piece| {
                client.send(piece);
                client.frame()
            })
            .collect();
        for answers in [whole, pieces] {
            assert_eq!(answers[0], b"+OK\r\n");
            assert_eq!(answers[1], b"+QUEUED\r\n");
            assert!(
                answers[2].starts_with(b"-NOPERM breakwater: 'set' is denied by rule no-orders")
            );
            assert!(
                answers[3].starts_with(b"-EXECABORT "),
                "{:?}",
                String::from_utf8_lossy(&answers[3])
            );
        }
        assert_eq!(client.ask("EXISTS a orders:1"), b":0\r\n");
    }
}

#[test]
fn what_the_catalogue_refuses_is_let_in_by_a_rule_that_names_the_client() {
    let redis = RedisServer::start();
    let rule = "[[rule]]\nname = \"ops\"\ncommands = [\"FLUSHALL\", \"KEYS\"]\nclient_names = [\"ops-*\"]\naction = \"allow\"\n";
    let proxy = Proxy::guarding(&redis.url(), rule).ready();
    let mut client = proxy.client();
    assert_eq!(client.ask("SET precious 1"), b"+OK\r\n");
    assert!(client.text("FLUSHALL").starts_with("-NOPERM "));
    assert_eq!(client.ask("CLIENT SETNAME ops-1"), b"+OK\r\n");
    assert_eq!(client.ask("KEYS *"), b"*1\r\n$8\r\nprecious\r\n");
    assert_eq!(client.ask("FLUSHALL"), b"+OK\r\n");
    assert_eq!(client.ask("CLIENT SETNAME nobody"), b"+OK\r\n");
    assert!(client.text("KEYS *").starts_with("-NOPERM "));
    assert_eq!(runs(&redis, "flushall"), 1);
}

#[test]
fn no_renamed_name_slips_through_and_none_is_refused_by_mistake() {
    let redis = RedisServer::start_with(&[
        "--rename-command",
        "KEYS",
        "HIDDENKEYS",
        "--rename-command",
        "FLUSHALL",
        "WIPE",
        "--rename-command",
        "FLUSHDB",
        "",
        "--rename-command",
        "CONFIG",
        "SETTINGS",
        "--rename-command",
        "DEBUG",
        "GET2",
    ]);
    let proxy = Proxy::guarding(&redis.url(), "").ready();
    let mut client = proxy.client();
    assert_eq!(client.ask("SET precious 1"), b"+OK\r\n");
    for refused in ["KEYS *", "FLUSHALL", "FLUSHDB", "CONFIG SET maxmemory 1", "DEBUG JMAP"] {
        let told = client.text(refused);
        assert!(
            told.starts_with("-NOPERM ") || told.starts_with("-ERR unknown"),
            "{refused}: {told}"
        );
    }
    for hidden in ["HIDDENKEYS *", "WIPE", "wipe", "SETTINGS SET maxmemory 1", "GET2 JMAP"] {
        let told = client.text(hidden);
        assert!(
            told.starts_with("-NOPERM ") || told.starts_with("-ERR unknown"),
            "{hidden}: {told}"
        );
    }
    assert_eq!(client.ask("GET precious"), b"$1\r\n1\r\n", "GET is not taken for GET2");
    let mut direct = redis.client();
    for (name, count) in [("keys", 0), ("flushall", 0), ("debug", 0)] {
        assert_eq!(runs(&redis, name), count, "{name} ran");
    }
    assert_eq!(direct.ask("EXISTS precious"), b":1\r\n");
}

#[test]
fn a_renamed_command_that_we_are_told_of_is_judged_by_its_real_name() {
    let redis = RedisServer::start_with(&["--rename-command", "FLUSHALL", "WIPE"]);
    let policy = "[[rule]]\nname = \"ops\"\ncommands = [\"FLUSHALL\"]\nclient_names = [\"ops\"]\naction = \"allow\"\n";
    let proxy = Proxy::launch_guarding(policy, |file| {
        format!(
            "policy = \"{file}\"\n[upstream]\nurl = \"{}\"\n[upstream.renamed]\nflushall = \"WIPE\"\n",
            redis.url()
        )
    })
    .ready();
    let mut client = proxy.client();
    assert_eq!(client.ask("SET precious 1"), b"+OK\r\n");
    assert!(
        client
            .text("FLUSHALL")
            .starts_with("-NOPERM breakwater: 'flushall' is denied by rule guard.flush")
    );
    let told = client.text("WIPE");
    assert!(told.starts_with("-NOPERM ") || told.starts_with("-ERR unknown"), "{told}");
    assert_eq!(client.ask("CLIENT SETNAME ops"), b"+OK\r\n");
    assert_eq!(client.ask("FLUSHALL"), b"+OK\r\n");
    assert_eq!(client.ask("EXISTS precious"), b":0\r\n");
}

#[test]
fn passwords_are_not_shown_by_config_get() {
    let redis = RedisServer::start_with(&["--masterauth", "opensesame"]);
    let proxy = Proxy::guarding(&redis.url(), "").ready();
    for mut client in [proxy.client(), proxy.client3()] {
        let told = client.text("CONFIG GET *");
        assert!(told.contains("masterauth") && told.contains("maxmemory-policy"), "{told}");
        assert!(!told.contains("opensesame"), "{told}");
        assert!(client.text("CONFIG GET masterauth").contains("(hidden by breakwater)"));
        // On a connection of its own, and in both kinds of transactions.
        assert_eq!(client.ask("WATCH a"), b"+OK\r\n");
        assert!(client.text("CONFIG GET masterauth").contains("(hidden by breakwater)"));
        assert_eq!(client.ask("MULTI"), b"+OK\r\n");
        assert!(client.text("CONFIG GET masterauth").starts_with("-ERR breakwater: 'config|get'"));
        assert!(client.text("EXEC").starts_with("-EXECABORT "));
        client.send(["MULTI", "CONFIG GET masterauth", "EXEC"].map(line).concat());
        let answers = client.frames(3).concat();
        assert!(!String::from_utf8_lossy(&answers).contains("opensesame"));
        assert_eq!(client.ask("CONFIG GET nothing").len(), 4, "an empty list");
    }
    let proxy = Proxy::before(&redis.url()).ready();
    assert!(proxy.client().text("CONFIG GET masterauth").contains("opensesame"), "without a guard");
}

#[test]
fn with_the_guard_off_all_of_it_runs() {
    let redis = RedisServer::start();
    let proxy = Proxy::before(&redis.url()).ready();
    let mut client = proxy.client();
    assert_eq!(client.ask("SET orders:1 1"), b"+OK\r\n");
    assert_eq!(client.ask("KEYS *"), b"*1\r\n$8\r\norders:1\r\n");
    assert_eq!(client.ask("FLUSHALL"), b"+OK\r\n");
}

#[test]
fn a_transaction_whose_exec_is_denied_is_over_for_everybody() {
    let redis = RedisServer::start();
    let rule =
        "[[rule]]\nname = \"no-exec\"\ncommands = [\"EXEC\", \"DISCARD\"]\naction = \"deny\"\n";
    let proxy = Proxy::guarding(&redis.url(), rule).ready();
    let (mut ann, mut bob) = (proxy.client(), proxy.client());
    let block = ["MULTI", "SET a 1", "EXEC"].map(line);
    for is_whole in [true, false] {
        let answers = if is_whole {
            ann.send(block.concat());
            ann.frames(3)
        } else {
            let mut answer = |piece: &Vec<u8>| {
                ann.send(piece);
                ann.frame()
            };
            block.iter().map(&mut answer).collect()
        };
        assert_eq!(answers[..2], [b"+OK\r\n".to_vec(), b"+QUEUED\r\n".to_vec()]);
        let told = String::from_utf8_lossy(&answers[2]);
        let want =
            "-EXECABORT Transaction discarded because of: NOPERM breakwater: 'exec' is denied";
        assert!(told.starts_with(want), "{told}");
        // Whoever borrows the connection next finds no transaction open on it.
        assert_eq!(bob.ask("WATCH k"), b"+OK\r\n");
        assert_eq!(bob.ask("GET a"), b"$-1\r\n");
        assert_eq!(bob.ask("UNWATCH"), b"+OK\r\n");
    }
    assert_eq!(ann.ask("MULTI"), b"+OK\r\n");
    assert_eq!(ann.ask("DISCARD"), b"+OK\r\n", "who gives up may always do so");
}
