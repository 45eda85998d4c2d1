//! The command line as scripts of others rely on it: words, output and exit codes.
//!
//! Owns what can be seen without a running server: versions, complaints, `explain`. Never tests what a setting
//! does. What surprises: a bad command line ends with 2, a bad configuration or start with 1.

use std::process::Output;

use crate::support::process::{Folder, free_port};
use crate::support::proxy::binary;
use crate::support::{Proxy, RedisServer, bulk};

fn run(arguments: &[&str]) -> Output {
    binary().args(arguments).output().expect("the binary can be started")
}

fn text(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&both).into_owned()
}

/// A policy file, there as long as its folder is.
fn policy(text: &str) -> (Folder, String) {
    let folder = Folder::new();
    let path = folder.write("policy.toml", text).display().to_string();
    (folder, path)
}

#[test]
fn the_version_is_that_of_the_package() {
    let output = run(&["--version"]);
    assert!(output.status.success());
    assert_eq!(text(&output), format!("breakwater {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn help_names_every_subcommand_and_flag_of_the_contract() {
    let output = run(&["--help"]);
    assert!(output.status.success());
    for word in ["run", "check", "explain"] {
        assert!(text(&output).contains(word), "{word}");
    }
    let help = text(&run(&["run", "--help"]));
    for flag in ["config", "listen", "upstream", "workers", "profile", "policy", "admin", "log"] {
        assert!(help.contains(&format!("--{flag} ")), "{flag}: {help}");
        let variable = format!("BREAKWATER_{}", flag.to_uppercase());
        assert!(help.contains(&variable), "{variable}: {help}");
    }
}

#[test]
fn a_command_line_that_means_nothing_ends_with_2_and_says_what_is_wrong() {
    for (arguments, hint) in [
        (&[][..], "Usage"),
        (&["serve"], "serve"),
        (&["run", "--upstrem", "redis://h"], "--upstream"),
        (&["check"], "FILE"),
        (&["explain"], "COMMAND"),
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(text(&output).contains(hint), "{arguments:?}: {}", text(&output));
    }
}

#[test]
fn settings_that_cannot_be_served_end_with_1_and_name_the_cure() {
    let upstream = ["--upstream", "redis://127.0.0.1:6379"];
    for (arguments, hint) in [
        (&["run"][..], "--upstream redis://HOST:6379"),
        (&["run", "--upstream", "http://h"], "redis://"),
        (&["run", upstream[0], upstream[1], "--profile", "gaurd"], "guard"),
        (
            &["run", upstream[0], upstream[1], "--policy", "/no/such/policy.toml"],
            "/no/such/policy.toml",
        ),
        (&["run", upstream[0], upstream[1], "--workers", "many"], "many"),
        (&["run", upstream[0], upstream[1], "--listen", "nowhere"], "nowhere"),
        (
            &["run", upstream[0], upstream[1], "--config", "/no/such/file.toml"],
            "/no/such/file.toml",
        ),
        (&["check", "/no/such/file.toml"], "/no/such/file.toml"),
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", text(&output));
        assert!(text(&output).contains(hint), "{arguments:?}: {}", text(&output));
    }
}

#[test]
fn the_start_says_how_much_of_which_policy_is_enforced() {
    let redis = RedisServer::start();
    let (_folder, policy) = policy("[[rule]]\nname = \"r\"\naction = \"allow\"\n");
    for (profile, words) in [
        ("guard", "profile 'guard': the policy is enforced"),
        ("observe", "profile 'observe': rules are counted"),
        ("open", "profile 'open': no command is refused by policy"),
    ] {
        let (url, flags) = (redis.url(), ["--profile", profile, "--policy", &policy]);
        let proxy = Proxy::start(&[&["--upstream", &url], &flags[..]].concat()).ready();
        assert!(proxy.log().contains(words), "{words}: {}", proxy.log());
        assert_eq!(proxy.log().contains("own=1"), profile != "open", "{}", proxy.log());
    }
}

#[test]
fn a_broken_policy_prevents_the_start_with_every_complaint() {
    let (_folder, policy) = policy("[[rule]]\nname = \"r\"\naction = \"denny\"\nlimit = true\n");
    let output = run(&["run", "--upstream", "redis://127.0.0.1:1", "--policy", &policy]);
    assert_eq!(output.status.code(), Some(1));
    for complaint in [":3:10: 'denny' is not an action; did you mean 'deny'?", ":4:9: 'limit'"] {
        assert!(text(&output).contains(complaint), "{complaint}: {}", text(&output));
    }
}

#[test]
fn an_address_in_use_ends_the_start_with_its_name() {
    let port = free_port();
    let taken = std::net::TcpListener::bind(("127.0.0.1", port)).expect("the port is free");
    let address = format!("127.0.0.1:{port}");
    let arguments =
        ["run", "--upstream", "redis://127.0.0.1:1", "--admin", "off", "--listen", &address];
    let output = run(&arguments);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains(&address), "{}", text(&output));
    drop(taken);
}

#[test]
fn secrets_of_a_url_are_not_repeated_by_complaints() {
    let output = run(&["run", "--upstream", "redis://user:hunter2@h:port"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(!text(&output).contains("hunter2"), "{}", text(&output));
}

#[test]
fn every_flag_may_be_a_variable_and_flags_win() {
    let redis = RedisServer::start();
    let (port, admin) = (free_port(), free_port());
    let folder = crate::support::process::Folder::new();
    let mut command = binary();
    command
        .args(["run", "--listen", &format!("127.0.0.1:{port}")])
        .env("BREAKWATER_LISTEN", "127.0.0.1:1")
        .env("BREAKWATER_UPSTREAM", redis.url())
        .env("BREAKWATER_ADMIN", format!("127.0.0.1:{admin}"))
        .env("BREAKWATER_WORKERS", "2")
        .env("BREAKWATER_LOG", "");
    let log = folder.path().join("log");
    let mut process = crate::support::process::Process::start(&mut command, &log)
        .expect("the binary can be started");
    let mut client = crate::support::eventually("it accepts connections", || {
        assert!(
            process.status().is_none(),
            "{}",
            std::fs::read_to_string(&log).unwrap_or_default()
        );
        crate::support::Client::try_connect(("127.0.0.1", port)).ok()
    });
    assert_eq!(client.ask("SET k v"), b"+OK\r\n");
    assert_eq!(redis.client().ask("GET k"), bulk(b"v"));
    process.signal("TERM");
    let status = crate::support::eventually("it ends", || process.status());
    assert!(status.success());
}

#[test]
fn explain_says_what_would_happen_and_asks_nobody() {
    for (words, is_served, expected) in [
        ("GET user:1", true, &["user:1", "127.0.0.1:1", "shared"][..]),
        ("MSET one 1 two 2", true, &["one", "two", "shared"]),
        ("HELLO 3", true, &["answered here"]),
        ("SUBSCRIBE news", true, &["127.0.0.1:1", "subscriber link"]),
        ("NOSUCHCOMMAND a", false, &["unknown command"]),
        ("GET", false, &["wrong number of arguments"]),
    ] {
        // Port 1 answers nobody, so an answer cannot come from there.
        let mut arguments = vec!["explain", "--upstream", "redis://127.0.0.1:1", "--"];
        arguments.extend(words.split(' '));
        let output = run(&arguments);
        assert_eq!(output.status.success(), is_served, "{words}");
        for part in expected {
            assert!(text(&output).contains(part), "{words}, {part}: {}", text(&output));
        }
    }
}
