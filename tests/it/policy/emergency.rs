//! Rules for the moment: one command on one key switched off from the admin port, with a time limit.
//!
//! Owns the proofs that such a rule counts at once and before all others, ends by itself or by order, and that nobody
//! gives one who may not. What surprises: it is enforced while the profile only observes.

use crate::support::{Proxy, RedisServer, bulk, until};

const ORDER: &str = "command=HGETALL&key=cart%3A*&for=1h&name=carts&message=carts+are+being+mended";

fn filled() -> RedisServer {
    let redis = RedisServer::start();
    redis.client().ask("HSET cart:1 a b");
    redis
}

fn before(redis: &RedisServer, profile: &str) -> Proxy {
    Proxy::start(&["--upstream", &redis.url(), "--profile", profile]).ready()
}

#[test]
fn one_command_on_one_kind_of_key_is_off_until_it_is_ended() {
    let redis = filled();
    let rule = "[[rule]]\nname = \"all-may\"\ncommands = [\"HGETALL\"]\naction = \"allow\"\n";
    let proxy = Proxy::guarding(&redis.url(), rule).ready();
    let mut client = proxy.client();
    assert!(client.ask("HGETALL cart:1").starts_with(b"*2"));
    let (status, words) = proxy.post("/policy/emergency", "", ORDER);
    assert_eq!(status, 200, "{words}");
    let told = b"-NOPERM breakwater: 'hgetall' is denied by rule carts (policy 2); carts are being mended\r\n";
    assert_eq!(client.ask("HGETALL cart:1"), told, "it stands before the rule that allows");
    assert_eq!(client.ask("HGET cart:1 a"), bulk(b"b"));
    assert_eq!(client.ask("HGETALL other"), b"*0\r\n");
    let page = proxy.http("/policy").1;
    assert!(page.contains("carts (emergency)") && page.contains("ends in "), "{page}");
    // It survives a reload.
    proxy.replace_policy("");
    assert_eq!(proxy.post("/policy/reload", "", "").0, 200);
    assert!(client.text("HGETALL cart:1").contains("by rule carts (policy 3)"));
    assert_eq!(proxy.post("/policy/emergency", "", ORDER).0, 422, "the name is taken");
    assert_eq!(proxy.delete("/policy/emergency/carts").0, 200);
    assert!(client.ask("HGETALL cart:1").starts_with(b"*2"));
    assert_eq!(proxy.delete("/policy/emergency/carts").0, 422);
}

#[test]
fn its_time_ends_it() {
    let redis = filled();
    let proxy = before(&redis, "guard");
    let mut client = proxy.client();
    assert_eq!(proxy.post("/policy/emergency", "", "command=GET&for=2s&name=short").0, 200);
    until("it counts or is over already", || {
        client.text("GET a").contains("by rule short")
            || !proxy.http("/policy").1.contains("short (emergency)")
    });
    until("it is over", || client.ask("GET a") == b"$-1\r\n");
    until("it is gone from the page", || !proxy.http("/policy").1.contains("short (emergency)"));
}

#[test]
fn it_is_meant_while_the_profile_observes_and_refused_while_it_is_open() {
    let redis = filled();
    let proxy = before(&redis, "observe");
    assert_eq!(proxy.post("/policy/emergency", "", ORDER).0, 200);
    assert!(proxy.client().text("HGETALL cart:1").contains("by rule carts"));
    let proxy = before(&redis, "open");
    let (status, words) = proxy.post("/policy/emergency", "", ORDER);
    assert_eq!(status, 422);
    assert!(words.contains("the profile is open"), "{words}");
    assert!(proxy.client().ask("HGETALL cart:1").starts_with(b"*2"));
}

#[test]
fn nobody_gives_an_order_who_may_not() {
    let redis = filled();
    let proxy = before(&redis, "guard");
    for (path, body) in
        [("/policy/emergency", ORDER), ("/policy/reload", ""), ("/policy/rollback", "")]
    {
        let (status, words) = proxy.post(path, "Origin: http://page.example\r\n", body);
        assert_eq!(status, 403, "{words}");
    }
    assert_eq!(proxy.post("/policy/emergency", "", &"x".repeat(100_000)).0, 413);
    let (status, words) = proxy.post("/policy/emergency", "", "command=GETT&for=1m");
    assert_eq!(status, 422);
    assert!(words.starts_with("nothing is changed: ") && words.contains("GETT"), "{words}");
    let file = format!("admin_changes = false\n[upstream]\nurl = \"{}\"\n", redis.url());
    let proxy = Proxy::configured(&file).ready();
    assert_eq!(proxy.post("/policy/emergency", "", ORDER).0, 403);
    assert_eq!(proxy.delete("/policy/emergency/carts").0, 403);
    assert!(proxy.client().ask("HGETALL cart:1").starts_with(b"*2"));
}
