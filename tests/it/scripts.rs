//! Scripts and functions in front of a server that forgets them.
//!
//! Owns the proofs that a restart of the server is not seen by those who call a script by its name, that nothing is
//! healed which Redis itself would answer with NOSCRIPT, and that no script runs twice. The server has no
//! persistence: after a restart it has no data, no scripts and no functions.
//!
//! What surprises: a test that wants to know how often a script ran lets it count in the server's own data.

use crate::support::{Client, Proxy, RedisServer, bulk, command, line, until};

/// Counts and says so.
const COUNT: &str = "return redis.call('INCR', KEYS[1])";
const NOSCRIPT: &[u8] = b"-NOSCRIPT No matching script. Please use EVAL.\r\n";

/// The SHA1 of a script, as the server calls it.
fn name_of(redis: &RedisServer, source: &str) -> String {
    let sha = redis.client().call(&["SCRIPT", "LOAD", source]);
    redis.client().ask("SCRIPT FLUSH");
    String::from_utf8(sha).unwrap().split("\r\n").nth(1).unwrap().to_owned()
}

/// Both protocol versions.
fn clients(proxy: &Proxy) -> [Client; 2] {
    [proxy.client(), proxy.client3()]
}

/// Restarts the server and waits until the proxy has noticed and serves again.
fn restart(redis: &mut RedisServer, client: &mut Client) {
    redis.restart();
    until("commands are served again", || client.ask("PING") == b"+PONG\r\n");
}

#[test]
fn a_script_is_called_by_name_after_a_restart_as_if_nothing_had_happened() {
    let mut redis = RedisServer::start();
    let sha = name_of(&redis, COUNT);
    let proxy = Proxy::before(&redis.url()).ready();
    let mut clients = clients(&proxy);
    assert_eq!(clients[0].call(&["EVAL", COUNT, "1", "n"]), b":1\r\n");
    restart(&mut redis, &mut clients[0]);
    assert_eq!(redis.client().ask(&format!("SCRIPT EXISTS {sha}")), b"*1\r\n:0\r\n");
    for (round, client) in clients.iter_mut().enumerate() {
        // On the new connection of each version: once with the source in front, then without.
        for call in 0..3 {
            let reply = client.ask(&format!("EVALSHA {sha} 1 n"));
            assert_eq!(reply, format!(":{}\r\n", round * 3 + call + 1).into_bytes());
        }
    }
    assert_eq!(clients[1].ask(&format!("SCRIPT EXISTS {sha}")), b"*1\r\n:1\r\n");
    assert_eq!(proxy.metric("breakwater_script_loads_total"), 2.0);
    assert_eq!(proxy.metric("breakwater_scripts"), 1.0);
}

#[test]
fn a_pipeline_around_a_healed_call_keeps_its_exact_order() {
    let mut redis = RedisServer::start();
    let sha = name_of(&redis, COUNT);
    let proxy = Proxy::before(&redis.url()).ready();
    let mut clients = clients(&proxy);
    // What SCRIPT LOAD brought is remembered as well.
    assert_eq!(clients[0].call(&["SCRIPT", "LOAD", COUNT]), bulk(sha.as_bytes()));
    for round in 0..3 {
        restart(&mut redis, &mut clients[0]);
        for client in &mut clients {
            client.ask("DEL n");
            let step = [line("INCR n"), line(&format!("EVALSHA {sha} 1 n"))].concat();
            client.send(step.repeat(200));
            for number in 1..=400 {
                let want = format!(":{number}\r\n").into_bytes();
                assert_eq!(client.frame(), want, "round {round}");
            }
        }
    }
}

#[test]
fn a_read_only_script_is_healed_too_and_an_unknown_name_is_told_so() {
    let mut redis = RedisServer::start();
    let source = "return redis.call('GET', KEYS[1])";
    let sha = name_of(&redis, source);
    let proxy = Proxy::before(&redis.url()).ready();
    let mut client = proxy.client();
    assert_eq!(client.call(&["EVAL_RO", source, "1", "k"]), b"$-1\r\n");
    restart(&mut redis, &mut client);
    assert_eq!(client.ask(&format!("EVALSHA_RO {} 1 k", sha.to_uppercase())), b"$-1\r\n");
    assert_eq!(client.ask(&format!("EVALSHA {} 0", "f".repeat(40))), NOSCRIPT);
    assert_eq!(client.ask("EVALSHA short 0"), NOSCRIPT);
    // What the server says of the call itself is its own answer.
    let reply = client.text(&format!("EVALSHA {sha} 9 k"));
    assert!(reply.starts_with("-ERR Number of keys"), "{reply}");
}

#[test]
fn after_a_script_flush_of_a_client_nothing_is_healed() {
    let mut redis = RedisServer::start();
    let sha = name_of(&redis, COUNT);
    let proxy = Proxy::before(&redis.url()).ready();
    let [mut ann, mut bob] = clients(&proxy);
    let call = format!("EVALSHA {sha} 1 n");
    for words in ["SCRIPT FLUSH", "SCRIPT FLUSH ASYNC", "script flush sync"] {
        assert!(ann.call(&["EVAL", COUNT, "1", "n"]).starts_with(b":"));
        assert!(bob.ask(&call).starts_with(b":"));
        assert_eq!(ann.ask(words), b"+OK\r\n");
        assert_eq!((ann.ask(&call), bob.ask(&call)), (NOSCRIPT.to_vec(), NOSCRIPT.to_vec()));
    }
    // In one pipeline: the EVAL before the flush does not teach what the flush takes away.
    let pipeline = [command(&["EVAL", COUNT, "1", "n"]), line("SCRIPT FLUSH"), line(&call)];
    ann.send(pipeline.concat());
    let replies = ann.frames(3);
    assert_eq!(&replies[1..], [b"+OK\r\n".to_vec(), NOSCRIPT.to_vec()]);
    restart(&mut redis, &mut ann);
    assert_eq!(ann.ask(&call), NOSCRIPT);
    assert_eq!(proxy.metric("breakwater_scripts"), 0.0);
}

#[test]
fn a_script_flush_of_somebody_else_costs_one_noscript_at_most() {
    let redis = RedisServer::start();
    let sha = name_of(&redis, COUNT);
    let proxy = Proxy::before(&redis.url()).ready();
    let mut client = proxy.client();
    assert_eq!(client.call(&["EVAL", COUNT, "1", "n"]), b":1\r\n");
    assert_eq!(redis.client().ask("SCRIPT FLUSH"), b"+OK\r\n");
    // Nothing tells this NOSCRIPT from one that the script itself returned after writing.
    assert_eq!(client.ask(&format!("EVALSHA {sha} 1 n")), NOSCRIPT);
    assert_eq!(client.ask(&format!("EVALSHA {sha} 1 n")), b":2\r\n");
}

#[test]
fn a_script_that_says_noscript_after_writing_runs_once_for_each_call() {
    let mut redis = RedisServer::start();
    let source = "redis.call('INCR', KEYS[1]) return redis.error_reply('NOSCRIPT fake')";
    let good = "redis.call('INCR', KEYS[1]) \
                if ARGV[1] then return redis.error_reply('NOSCRIPT fake') end return 1";
    let (sha, good_sha) = (name_of(&redis, source), name_of(&redis, good));
    let proxy = Proxy::before(&redis.url()).ready();
    for client in &mut clients(&proxy) {
        client.ask("DEL n");
        assert_eq!(client.call(&["EVAL", source, "1", "n"]), b"-NOSCRIPT fake\r\n");
        assert_eq!(client.ask(&format!("EVALSHA {sha} 1 n")), b"-NOSCRIPT fake\r\n");
        // Its source is known, since it has succeeded once.
        assert_eq!(client.call(&["EVAL", good, "1", "n"]), b":1\r\n");
        assert_eq!(client.ask(&format!("EVALSHA {good_sha} 1 n x")), b"-NOSCRIPT fake\r\n");
        assert_eq!(client.ask("GET n"), bulk(b"4"));
    }
    let mut client = proxy.client();
    restart(&mut redis, &mut client);
    assert_eq!(client.ask(&format!("EVALSHA {good_sha} 1 n x")), b"-NOSCRIPT fake\r\n");
    assert_eq!(client.ask("GET n"), bulk(b"1"));
}

/// A server with a user who may load scripts and call them by name, and not send them.
fn with_users(redis: &RedisServer) {
    let mut admin = redis.client();
    for words in [
        "ACL SETUSER caller on >secret ~* +@all -eval",
        "ACL SETUSER loader on >secret ~* +@all",
        "ACL SETUSER default resetpass >secret",
    ] {
        assert_eq!(admin.ask(words), b"+OK\r\n");
    }
}

/// Restarts a server with users, which has forgotten everything but these.
fn forget(redis: &mut RedisServer, client: &mut Client) {
    redis.restart();
    with_users(redis);
    until("commands are served again", || client.ask("GET n") == b"$-1\r\n");
}

#[test]
fn a_user_calls_what_he_may_call_and_gets_no_script_that_another_has_loaded() {
    let mut redis = RedisServer::start();
    let sha = name_of(&redis, COUNT);
    with_users(&redis);
    let proxy = Proxy::before(&redis.url()).ready();
    let (mut loader, mut caller) = (proxy.client(), proxy.client());
    assert_eq!(loader.ask("AUTH loader secret"), b"+OK\r\n");
    assert_eq!(caller.ask("AUTH caller secret"), b"+OK\r\n");
    assert_eq!(loader.call(&["EVAL", COUNT, "1", "n"]), b":1\r\n");
    // As with Redis directly: scripts are everybody's while the server has them.
    assert_eq!(caller.ask(&format!("EVALSHA {sha} 1 n")), b":2\r\n");
    assert!(caller.call(&["EVAL", COUNT, "1", "n"]).starts_with(b"-NOPERM"));
    // And nobody's when it has lost them.
    forget(&mut redis, &mut loader);
    assert_eq!(caller.ask(&format!("EVALSHA {sha} 1 n")), NOSCRIPT);
    assert_eq!(loader.ask(&format!("EVALSHA {sha} 1 n")), b":1\r\n");
    assert_eq!(caller.ask(&format!("EVALSHA {sha} 1 n")), b":2\r\n");
    // What he has loaded himself comes back, although he may not send it with EVAL.
    assert_eq!(caller.call(&["SCRIPT", "LOAD", COUNT]), bulk(sha.as_bytes()));
    forget(&mut redis, &mut loader);
    assert_eq!(caller.ask(&format!("EVALSHA {sha} 1 n")), b":1\r\n");
}

#[test]
fn another_upstream_gets_none_of_the_scripts_of_the_one_before() {
    let (old, new) = (RedisServer::start(), RedisServer::start());
    let sha = name_of(&old, COUNT);
    let file = |redis: &RedisServer| format!("[upstream]\nurl = \"{}\"\n", redis.url());
    assert_eq!(new.client().ask("SET who new"), b"+OK\r\n");
    let mut proxy = Proxy::configured(&file(&old)).ready();
    let mut client = proxy.client();
    assert_eq!(client.call(&["EVAL", COUNT, "1", "n"]), b":1\r\n");
    std::fs::write(proxy.file("breakwater.toml"), file(&new)).unwrap();
    proxy.hang_up();
    until("the client is moved", || client.ask("GET who") == bulk(b"new"));
    assert_eq!(client.ask(&format!("EVALSHA {sha} 1 n")), NOSCRIPT);
}

#[test]
fn scripts_beyond_the_bounds_are_not_remembered() {
    let mut redis = RedisServer::start();
    let long = format!("{COUNT} -- {}", "x".repeat(1000));
    let (sha, long_sha) = (name_of(&redis, COUNT), name_of(&redis, &long));
    let toml = format!("[upstream]\nurl = \"{}\"\n[memory]\nscript_bytes = \"1KB\"\n", redis.url());
    let proxy = Proxy::configured(&toml).ready();
    let mut client = proxy.client();
    assert_eq!(client.call(&["EVAL", COUNT, "1", "n"]), b":1\r\n");
    assert_eq!(client.call(&["EVAL", &long, "1", "n"]), b":2\r\n");
    restart(&mut redis, &mut client);
    assert_eq!(client.ask(&format!("EVALSHA {sha} 1 n")), b":1\r\n");
    assert_eq!(client.ask(&format!("EVALSHA {long_sha} 1 n")), NOSCRIPT);
}

const LIBRARY: &str = "#!lua name=lib\nredis.register_function('count', \
                       function(keys) return redis.call('INCR', keys[1]) end)";

#[test]
fn functions_come_back_where_the_operator_allows_it() {
    let mut redis = RedisServer::start();
    let toml = format!("[upstream]\nurl = \"{}\"\nrestore_functions = true\n", redis.url());
    let (allowed, plain) = (Proxy::configured(&toml).ready(), Proxy::before(&redis.url()).ready());
    let (mut ann, mut bob) = (allowed.client(), plain.client());
    assert_eq!(ann.call(&["FUNCTION", "LOAD", LIBRARY]), bulk(b"lib"));
    assert_eq!(ann.call(&["FUNCTION", "LOAD", &LIBRARY.replace("lib", "gone")]), {
        b"-ERR Function count already exists\r\n".to_vec()
    });
    let other = LIBRARY.replace("=lib", "=gone").replace("count", "other");
    assert_eq!(ann.call(&["FUNCTION", "LOAD", "REPLACE", &other]), bulk(b"gone"));
    assert_eq!(ann.ask("FUNCTION DELETE gone"), b"+OK\r\n");
    assert_eq!(bob.ask("FCALL count 1 n"), b":1\r\n");
    redis.restart();
    until("the library is back", || ann.ask("FCALL count 1 n") == b":1\r\n");
    assert_eq!(allowed.metric("breakwater_libraries_restored_total"), 1.0);
    assert!(allowed.log().contains("libraries loaded again"), "{}", allowed.log());
    // This proxy may still be waiting for its next look at the server.
    until("it serves as well", || !bob.text("PING").starts_with("-ERR breakwater: not executed"));
    assert_eq!(bob.ask("FCALL other 1 n"), b"-ERR Function not found\r\n");
    assert_eq!(plain.metric("breakwater_libraries_restored_total"), 0.0);
}

#[test]
fn a_library_that_was_deleted_elsewhere_stays_deleted() {
    let redis = RedisServer::start();
    let toml = format!("[upstream]\nurl = \"{}\"\nrestore_functions = true\n", redis.url());
    let proxy = Proxy::configured(&toml).ready();
    let mut client = proxy.client();
    assert_eq!(client.call(&["FUNCTION", "LOAD", LIBRARY]), bulk(b"lib"));
    let mut admin = redis.client();
    assert_eq!(admin.ask("FUNCTION FLUSH"), b"+OK\r\n");
    // All connections are lost, but it is the same server.
    let controls = |admin: &mut Client| admin.text("CLIENT LIST").contains("breakwater:control");
    assert!(controls(&mut admin));
    let killed = admin.text("CLIENT KILL TYPE normal SKIPME yes");
    assert!(killed.starts_with(':'), "{killed}");
    until("the proxy is back", || controls(&mut admin) && client.ask("PING") == b"+PONG\r\n");
    // Whatever is to be loaded is loaded before the proxy asks which commands there are.
    until("the proxy has asked its questions", || {
        admin
            .text("CLIENT LIST")
            .lines()
            .any(|line| line.contains("breakwater:control") && line.contains("cmd=ping"))
    });
    assert_eq!(client.ask("FUNCTION LIST"), b"*0\r\n");
}

#[test]
fn a_server_that_comes_back_with_libraries_of_its_own_is_left_alone() {
    let mut redis = RedisServer::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let toml = format!("[upstream]\nurl = \"{}\"\nrestore_functions = true\n", redis.url());
    let proxy = Proxy::configured(&toml).ready();
    let mut client = proxy.client();
    assert_eq!(client.call(&["FUNCTION", "LOAD", LIBRARY]), bulk(b"lib"));
    let mut admin = redis.client();
    assert_eq!(admin.ask("FUNCTION FLUSH"), b"+OK\r\n");
    let other = LIBRARY.replace("=lib", "=other").replace("count", "other");
    assert_eq!(admin.call(&["FUNCTION", "LOAD", &other]), bulk(b"other"));
    redis.restart();
    // Readiness comes behind the look at the libraries.
    until("the restart is noticed", || proxy.metric("breakwater_upstream_outages_total") >= 1.0);
    until("the server is back", || proxy.http("/readyz").0 == 200);
    until("commands are served again", || client.ask("PING") == b"+PONG\r\n");
    let libraries = client.text("FUNCTION LIST");
    assert!(libraries.contains("other") && !libraries.contains("lib\r\n"), "{libraries}");
    assert_eq!(proxy.metric("breakwater_libraries_restored_total"), 0.0);
}
