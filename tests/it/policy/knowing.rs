//! Knowing before enforcing: which rule decides and why, and who was refused or would have been.
//!
//! Owns the proofs that PROXY, `/policy` and `explain` tell what the path does, for the client that asks, without
//! counting, and that no key is on any page (INV-11).

use std::process::Output;

use crate::support::proxy::binary;
use crate::support::{Proxy, RedisServer, bulk, line};

const POLICY: &str = "\
[[rule]]
name = \"ops\"
commands = [\"KEYS\"]
client_names = [\"ops-*\"]
action = \"allow\"

[[rule]]
name = \"watch-sets\"
commands = [\"SADD\"]
action = \"deny\"
mode = \"observe\"

[[rule]]
name = \"no-orders\"
commands = [\"GET\", \"MGET\"]
keys = [\"orders:*\"]
action = \"deny\"
message = \"orders are frozen\"
";

fn guarding(redis: &RedisServer) -> Proxy {
    Proxy::guarding(&redis.url(), POLICY).ready()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn proxy_why_tells_what_the_path_would_do_for_the_client_that_asks() {
    let redis = RedisServer::start();
    let proxy = guarding(&redis);
    for mut client in [proxy.client(), proxy.client3()] {
        let why = client.text("PROXY WHY GET orders:1");
        for words in [
            "rule: no-orders (file) (policy 1, profile guard)",
            "message: orders are frozen",
            "refused: -NOPERM breakwater: 'get' is denied by rule no-orders (policy 1)",
        ] {
            assert!(why.contains(words), "{words} is missing in {why}");
        }
        assert!(!why.contains("goes to"), "{why}");
        let why = client.text("PROXY WHY get other");
        assert!(why.contains("rule: none speaks against it"), "{why}");
        let target = redis.url().replace("redis://", "goes to: ");
        assert!(why.contains(&target) && why.contains("shared fast lane"), "{why}");
        assert!(client.text("PROXY WHY KEYS *").contains("refused: -NOPERM"));
        assert_eq!(client.ask("CLIENT SETNAME ops-1"), b"+OK\r\n");
        assert!(client.text("PROXY WHY KEYS *").contains("rule: ops (file)"));
        assert!(client.text("PROXY WHY SADD s a").contains("on the way: watch-sets (file)"));
        assert!(client.text("PROXY WHY NOSUCH").contains("unknown command"));
    }
    assert_eq!(proxy.metric_of("breakwater_policy_hits_total", ""), 0.0, "asking counts nothing");
}

#[test]
fn proxy_answers_in_the_words_of_redis_and_in_transactions() {
    let redis = RedisServer::start();
    let proxy = guarding(&redis);
    let mut client = proxy.client();
    let unknown = b"-ERR unknown subcommand 'nosuch'. Try PROXY HELP.\r\n";
    assert_eq!(client.ask("PROXY nosuch"), unknown);
    let arity = b"-ERR wrong number of arguments for 'proxy|why' command\r\n";
    assert_eq!(client.ask("proxy why"), arity);
    assert_eq!(client.ask("PROXY"), b"-ERR wrong number of arguments for 'proxy' command\r\n");
    assert!(client.text("PROXY HELP").contains("WHY <command>"));
    assert!(client.text("PROXY POLICY").contains("policy 1, profile guard"));
    assert!(client.text("PROXY POLICY no-orders").contains("hits: 0, refused 0"));
    assert_eq!(client.ask("PROXY POLICY nosuch"), b"-ERR No such rule\r\n");
    client.send(["MULTI", "SET a 1", "PROXY WHY GET orders:1", "EXEC", "GET a"].map(line).concat());
    let answers = client.frames(5);
    assert_eq!(answers[2], b"+QUEUED\r\n");
    assert!(answers[3].starts_with(b"*2\r\n+OK\r\n*"), "{}", text(&answers[3]));
    assert!(text(&answers[3]).contains("rule: no-orders"));
    assert_eq!(answers[4], bulk(b"1"));
    // A key may hold anything.
    let answer = client.call(&[&b"PROXY"[..], b"WHY", b"GET", b"a\0\xff$"]);
    assert!(answer.starts_with(b"*"), "{}", text(&answer));
}

#[test]
fn pages_tell_who_was_refused_and_never_a_key() {
    let redis = RedisServer::start();
    let proxy = guarding(&redis);
    let mut client = proxy.client();
    assert_eq!(client.ask("CLIENT SETNAME shop"), b"+OK\r\n");
    assert!(client.text("GET orders:alice").starts_with("-NOPERM "));
    assert!(client.text("MGET orders:alice orders:bob").starts_with("-NOPERM "));
    for member in ["secret-1", "secret-2"] {
        assert!(client.text(&format!("SADD people:alice {member}")).starts_with(':'));
    }
    let page = proxy.http("/policy").1;
    for words in [
        "policy 1, profile guard",
        "hits 2, refused 2, would have refused 0",
        "last: mget on orders:*, 2 keys, by client",
        "hits 2, refused 0, would have refused 2",
        "name shop",
    ] {
        assert!(page.contains(words), "{words} is missing in {page}");
    }
    let report = proxy.http("/policy/report").1;
    let would = "watch-sets: sadd on people:* by shop: would have refused 2, refused 0";
    assert!(report.contains(would), "{report}");
    let json: serde_json::Value = serde_json::from_str(&proxy.http("/policy.json").1).unwrap();
    let rules = json["rules"].as_array().unwrap();
    let rule = rules.iter().find(|rule| rule["name"] == "no-orders").unwrap();
    assert_eq!((&rule["refused"], &rule["origin"]), (&2.into(), &"file".into()));
    assert_eq!(rule["last"]["pattern"], "orders:*");
    for path in ["/policy", "/policy.json", "/policy/report", "/policy/report.json", "/metrics"] {
        let page = proxy.http(path).1;
        for secret in ["alice", "bob", "secret-"] {
            assert!(!page.contains(secret), "{secret} is on {path}:\n{page}");
        }
    }
    assert!(!proxy.log().contains("alice"));
    let refused = "rule=\"no-orders\",result=\"refused\"";
    assert_eq!(proxy.metric_of("breakwater_policy_hits_total", refused), 2.0);
    let would = "rule=\"watch-sets\",result=\"would_refuse\"";
    assert_eq!(proxy.metric_of("breakwater_policy_hits_total", would), 2.0);
}

#[test]
fn counts_outlive_a_reload_in_which_their_rule_stays() {
    let redis = RedisServer::start();
    let proxy = guarding(&redis);
    let mut client = proxy.client();
    assert!(client.text("GET orders:1").starts_with("-NOPERM "));
    let more =
        format!("{POLICY}\n[[rule]]\nname = \"more\"\ncommands = [\"DEL\"]\naction = \"deny\"\n");
    proxy.replace_policy(&more);
    assert_eq!(proxy.post("/policy/reload", "", "").0, 200);
    assert!(client.text("GET orders:1").contains("(policy 2)"));
    let refused = "rule=\"no-orders\",result=\"refused\"";
    assert_eq!(proxy.metric_of("breakwater_policy_hits_total", refused), 2.0);
}

fn explain(arguments: &[&str]) -> Output {
    binary().arg("explain").args(arguments).output().expect("the binary can be started")
}

#[test]
fn explain_tells_the_rule_of_a_file_and_of_a_running_proxy() {
    let redis = RedisServer::start();
    let proxy = guarding(&redis);
    let file = proxy.file("policy.toml").display().to_string();
    let admin = proxy.admin();
    for how in [&["--policy", &file][..], &["--running", &admin]] {
        let output = explain(&[how, &["--", "GET", "orders:1"]].concat());
        let told = text(&output.stdout);
        assert!(told.contains("rule: no-orders (file)"), "{how:?}: {told}");
        assert!(told.contains("message: orders are frozen"), "{told}");
        assert_eq!(output.status.code(), Some(1));
        let output = explain(&[how, &["--", "SET", "a b&c", "%41"]].concat());
        let told = text(&output.stdout);
        assert!(told.contains("key: a b&c ") && told.contains("goes to: "), "{told}");
        assert_eq!(output.status.code(), Some(0), "{told}");
    }
    // The running one is asked, not a file: it may have another policy by now.
    assert_eq!(proxy.post("/policy/emergency", "", "command=SET&for=1h&name=halt").0, 200);
    let told = text(&explain(&["--running", &admin, "--", "SET", "a", "1"]).stdout);
    assert!(told.contains("rule: halt (emergency) (policy 2, profile guard)"), "{told}");
    let output = explain(&["--policy", &file, "--profile", "observe", "--", "GET", "orders:1"]);
    assert!(text(&output.stdout).contains("on the way: no-orders"), "{}", text(&output.stdout));
    assert_eq!(output.status.code(), Some(0));
    let told = text(&explain(&["--running", "127.0.0.1:1", "--", "GET", "a"]).stdout);
    assert!(told.contains("does not answer"), "{told}");
}
