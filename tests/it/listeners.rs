//! The doors: where clients come in, who may, and how many.
//!
//! Owns TCP on both IP versions, unix sockets, TLS with and without client certificates, the three kinds of
//! `auth`, the cap on clients and the idle timeout, each with a client of that kind and one that is turned away.
//!
//! What surprises: a machine without IPv6 skips that one test and says so loudly.

use std::net::TcpListener;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};

use crate::support::certs::Certificates;
use crate::support::{Client, Proxy, RedisServer, bulk, eventually, shown, until};

/// SHA-256 of `secret`, in the notation of Redis's ACL files.
const SECRET_HASH: &str = "#2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";

/// One TCP listener with these further lines, in front of `url`.
fn listening(lines: &str, url: &str) -> Proxy {
    Proxy::listening(|port, _| {
        format!(
            "[[listener]]\naddress = \"127.0.0.1:{port}\"\n{lines}\n[upstream]\nurl = \"{url}\"\n"
        )
    })
}

#[test]
fn ipv6_serves() {
    if TcpListener::bind("[::1]:0").is_err() {
        eprintln!("SKIPPED: this machine has no IPv6; nothing was tested.");
        return;
    }
    let redis = RedisServer::start();
    let proxy = Proxy::listening(|port, _| {
        format!("[[listener]]\naddress = \"[::1]:{port}\"\n[upstream]\nurl = \"{}\"\n", redis.url())
    })
    .ready();
    let mut client = Client::try_connect(("::1", proxy.port())).expect("[::1] accepts");
    assert_eq!(client.ask("SET six 6"), b"+OK\r\n");
    assert_eq!(client.ask("GET six"), bulk(b"6"));
    assert!(client.text("CLIENT INFO").contains(" addr=[::1]:"), "as Redis writes it");
}

#[test]
fn a_unix_socket_serves_with_its_mode_and_goes_with_the_process() {
    let redis = RedisServer::start();
    let mut proxy = Proxy::listening(|port, folder| {
        let path = folder.path().join("front.sock");
        format!(
            "[[listener]]\naddress = \"unix:{}\"\nmode = \"0600\"\n\
             [[listener]]\naddress = \"127.0.0.1:{port}\"\n[upstream]\nurl = \"{}\"\n",
            path.display(),
            redis.url()
        )
    })
    .ready();
    let path = proxy.file("front.sock");
    let metadata = std::fs::metadata(&path).expect("the socket is there");
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    let mut client = Client::connect_unix(&path).expect("the socket accepts");
    assert_eq!(client.ask("SET u 1"), b"+OK\r\n");
    // Both doors lead to the same place.
    assert_eq!(proxy.client().ask("GET u"), bulk(b"1"));
    assert!(client.text("CLIENT INFO").contains("front.sock"));
    proxy.terminate();
    assert_eq!(client.rest(), b"");
    assert!(proxy.exit_status().success());
    assert!(!path.exists(), "the socket's file is removed");
}

#[test]
fn a_socket_file_that_a_crash_left_behind_is_replaced() {
    let redis = RedisServer::start();
    let proxy = Proxy::listening(|port, folder| {
        let path = folder.path().join("stale.sock");
        // A listener that is dropped leaves its file, as a killed process does.
        drop(std::os::unix::net::UnixListener::bind(&path).expect("a socket can be made"));
        assert!(path.exists());
        format!(
            "[[listener]]\naddress = \"unix:{}\"\n[[listener]]\naddress = \"127.0.0.1:{port}\"\n\
             [upstream]\nurl = \"{}\"\n",
            path.display(),
            redis.url()
        )
    })
    .ready();
    let path = proxy.file("stale.sock");
    let mut client = Client::connect_unix(&path).expect("the socket accepts");
    assert_eq!(client.ask("SET u 1"), b"+OK\r\n");
}

#[test]
fn tls_serves_those_who_shake_hands_and_drops_those_who_do_not() {
    let certificates = Certificates::new();
    let redis = RedisServer::start();
    let path = |name: &str| certificates.path(name).display().to_string();
    let table = format!(
        "[listener.tls]\ncert = \"{}\"\nkey = \"{}\"",
        path("server.pem"),
        path("server.key")
    );
    let proxy = listening(&table, &redis.url()).ready();
    let port = proxy.port();
    let connect =
        |trusts: &Certificates, name: &str| Client::connect_tls(port, trusts.client(false), name);
    let mut client = connect(&certificates, "localhost").expect("the handshake succeeds");
    let value = vec![b't'; 300_000];
    assert_eq!(client.call(&[&b"SET"[..], b"t", &value]), b"+OK\r\n");
    assert!(client.ask("GET t") == bulk(&value));
    assert!(connect(&Certificates::new(), "localhost").is_err(), "a client that trusts others");
    assert!(connect(&certificates, "redis.example").is_err(), "a client that wants another");
    let mut plain = proxy.client();
    plain.send(b"PING\r\nPING\r\n");
    let rest = plain.rest();
    assert!(!rest.windows(4).any(|part| part == b"PONG"), "{}", shown(&rest));
    assert_eq!(client.ask("STRLEN t"), b":300000\r\n", "the others notice nothing");
}

#[test]
fn mutual_tls_serves_only_those_with_a_certificate_of_the_authority() {
    let certificates = Certificates::new();
    let redis = RedisServer::start();
    let path = |name: &str| certificates.path(name).display().to_string();
    let table = format!(
        "[listener.tls]\ncert = \"{}\"\nkey = \"{}\"\nclient_ca = \"{}\"",
        path("server.pem"),
        path("server.key"),
        path("ca.pem")
    );
    let proxy = listening(&table, &redis.url()).ready();
    let mut client = Client::connect_tls(proxy.port(), certificates.client(true), "localhost")
        .expect("the handshake succeeds");
    assert_eq!(client.ask("SET m 1"), b"+OK\r\n");
    // With TLS 1.3 the refusal comes behind the client's own handshake: at the latest with the first read.
    if let Ok(mut nobody) =
        Client::connect_tls(proxy.port(), certificates.client(false), "localhost")
    {
        let _ = nobody.try_send(b"PING\r\n");
        assert!(nobody.try_frame().is_err(), "nobody is served without a certificate");
    }
    assert_eq!(client.ask("GET m"), bulk(b"1"));
}

#[test]
fn users_of_a_listener_are_checked_here_and_commands_run_as_the_urls_identity() {
    let redis = RedisServer::start_with(&["--requirepass", "upstream-secret"]);
    let url = format!("redis://:upstream-secret@127.0.0.1:{}", redis.port());
    let users = format!(
        "[[listener.user]]\nname = \"app\"\npasswords = [\"{SECRET_HASH}\"]\n\
         [[listener.user]]\nname = \"default\"\npasswords = [\"{SECRET_HASH}\"]"
    );
    let proxy = listening(&users, &url).ready();
    let mut client = proxy.client();
    for words in ["GET k", "CLIENT GETNAME", "COMMAND COUNT", "NOSUCHCOMMAND"] {
        let reply = client.text(words);
        assert!(reply.starts_with("-NOAUTH ") || words.starts_with("NOSUCH"), "{words}: {reply}");
    }
    assert!(client.text("HELLO 3").starts_with("-NOAUTH HELLO must be called"));
    for words in ["AUTH app wrong", "AUTH nobody secret", "AUTH wrong", "AUTH upstream-secret"] {
        assert_eq!(
            client.text(words),
            "-WRONGPASS invalid username-password pair or user is disabled.\r\n",
            "{words}"
        );
    }
    assert!(client.text("GET k").starts_with("-NOAUTH "), "a failure changes nothing");
    assert_eq!(client.ask("AUTH app secret"), b"+OK\r\n");
    assert_eq!(client.ask("SET k v"), b"+OK\r\n");
    assert_eq!(client.ask("RESET"), b"+RESET\r\n");
    assert!(client.text("GET k").starts_with("-NOAUTH "), "RESET forgets who it was");
    assert!(client.ask("HELLO 3 AUTH app secret").starts_with(b"%"));
    assert_eq!(client.ask("GET none"), b"_\r\n");
    assert_eq!(
        proxy.client().ask("AUTH secret"),
        b"+OK\r\n",
        "a password alone is the default user's"
    );
    let text = proxy.log() + &proxy.http("/metrics").1;
    assert!(!text.contains("upstream-secret") && !text.contains(SECRET_HASH));
}

#[test]
fn passthrough_lets_redis_decide_and_commands_run_as_who_was_confirmed() {
    let redis = RedisServer::start_with(&[
        "--requirepass",
        "default-secret",
        "--user",
        "ann",
        "on",
        ">ann-secret",
        "~ann:*",
        "+@all",
        "--user",
        "bob",
        "on",
        ">bob-secret",
        "~bob:*",
        "+@all",
    ]);
    let proxy = Proxy::before(&redis.url());
    let mut stranger = proxy.client();
    // Until the node has been asked nobody knows that it wants a password; its own words come either way.
    eventually("the node's answer is known", || {
        stranger.text("GET k").starts_with("-NOAUTH ").then_some(())
    });
    assert_eq!(
        stranger.text("AUTH ann wrong"),
        "-WRONGPASS invalid username-password pair or user is disabled.\r\n"
    );
    let (mut ann, mut bob) = (proxy.client(), proxy.client());
    assert_eq!(ann.ask("AUTH ann ann-secret"), b"+OK\r\n");
    assert!(bob.ask("HELLO 3 AUTH bob bob-secret").starts_with(b"%"));
    assert_eq!(ann.ask("ACL WHOAMI"), bulk(b"ann"));
    assert_eq!(bob.ask("ACL WHOAMI"), bulk(b"bob"));
    assert_eq!(ann.ask("SET ann:k 1"), b"+OK\r\n");
    assert!(bob.text("GET ann:k").starts_with("-NOPERM "), "each has its own rights");
    assert_eq!(bob.ask("SET bob:k 2"), b"+OK\r\n");
    // The same client may become somebody else, and a failed attempt changes nothing.
    assert!(ann.text("AUTH bob wrong").starts_with("-WRONGPASS "));
    assert_eq!(ann.ask("ACL WHOAMI"), bulk(b"ann"));
    assert_eq!(ann.ask("AUTH bob bob-secret"), b"+OK\r\n");
    assert_eq!(ann.ask("ACL WHOAMI"), bulk(b"bob"));
    assert_eq!(stranger.ask("AUTH default-secret"), b"+OK\r\n");
    assert_eq!(stranger.ask("ACL WHOAMI"), bulk(b"default"));
    // A pipeline right behind AUTH waits for its verdict.
    let mut hasty = proxy.client();
    hasty.send(b"AUTH bob bob-secret\r\nGET bob:k\r\nACL WHOAMI\r\n");
    assert_eq!(hasty.frames(3), [b"+OK\r\n".to_vec(), bulk(b"2"), bulk(b"bob")]);
    let text = proxy.log() + &proxy.http("/metrics").1;
    assert!(!text.contains("-secret"), "no secret is logged");
}

#[test]
fn with_the_urls_identity_a_clients_auth_is_answered_as_by_a_redis_without_password() {
    let redis = RedisServer::start_with(&["--requirepass", "s3cret"]);
    let open = RedisServer::start();
    let proxy = Proxy::before(&format!("redis://:s3cret@127.0.0.1:{}", redis.port())).ready();
    let (mut client, mut direct) = (proxy.client(), open.client());
    for words in ["AUTH anything", "AUTH default anything", "AUTH nobody anything", "ACL WHOAMI"] {
        assert_eq!(client.text(words), direct.text(words), "{words}");
    }
    assert_eq!(client.ask("SET k v"), b"+OK\r\n");
}

#[test]
fn clients_beyond_the_cap_are_turned_away_as_redis_does_it() {
    let redis = RedisServer::start();
    let proxy = listening("client_max = 3", &redis.url()).ready();
    let mut clients: Vec<Client> = (0..3).map(|_| proxy.client()).collect();
    for client in &mut clients {
        assert_eq!(client.ask("ECHO in"), bulk(b"in"));
    }
    let mut fourth = proxy.client();
    assert_eq!(shown(&fourth.rest()), shown(b"-ERR max number of clients reached\r\n"));
    assert!(proxy.metric("breakwater_clients_turned_away_total") >= 1.0);
    clients.pop();
    eventually("a place is free again", || {
        let mut client = proxy.client();
        client.try_send(b"ECHO in\r\n").ok()?;
        (client.try_frame().ok()? == bulk(b"in")).then_some(())
    });
    assert_eq!(clients[0].ask("ECHO still"), bulk(b"still"));
}

#[test]
fn idle_clients_are_closed_and_busy_ones_are_not() {
    let redis = RedisServer::start();
    let proxy = listening("client_idle_timeout = \"1s\"", &redis.url()).ready();
    let (mut idle, mut busy) = (proxy.client(), proxy.client());
    assert_eq!(idle.ask("ECHO once"), bulk(b"once"));
    until("the idle client is closed", || {
        assert_eq!(busy.ask("ECHO again"), bulk(b"again"));
        proxy.metric_of("breakwater_clients_closed_total", "idle") >= 1.0
    });
    assert_eq!(idle.rest(), b"");
    assert_eq!(busy.ask("ECHO end"), bulk(b"end"));
}

#[test]
fn several_workers_serve_side_by_side() {
    let redis = RedisServer::start();
    let proxy = Proxy::start(&["--upstream", &redis.url(), "--workers", "3"]).ready();
    let mut clients: Vec<Client> = (0..12).map(|_| proxy.client()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.ask(&format!("SET w:{number} {number}")), b"+OK\r\n");
    }
    for (number, client) in clients.iter_mut().enumerate() {
        let other = (number + 5) % 12;
        assert_eq!(client.ask(&format!("GET w:{other}")), bulk(other.to_string().as_bytes()));
    }
    // CLIENT LIST and KILL reach over all workers.
    let list = clients[0].text("CLIENT LIST");
    assert!(list.matches("id=").count() >= 12, "{list}");
    let id = clients[7].text("CLIENT ID");
    let killed = clients[0].text(&format!("CLIENT KILL ID {}", id.trim_start_matches(':').trim()));
    assert_eq!(killed, ":1\r\n");
    assert_eq!(clients[7].rest(), b"");
}
