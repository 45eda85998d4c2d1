//! An application with a circuit breaker of its own, through an outage of two seconds.
//!
//! Owns a server that is killed and started again. Says how long after its return the first command succeeded, with
//! and without the breaker; asserts only that both recover, since how soon is the breaker's own setting.
//!
//! What surprises: the breaker is the slower one by its whole pause. It is meant to spare a server, which Breakwater
//! does already: it is dialled twice a second, whoever asks.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::clients::{python, run};
use crate::support::process::Folder;
use crate::support::{Proxy, RedisServer};

#[test]
fn a_client_with_a_circuit_breaker_recovers_and_one_without_does_so_sooner() {
    let mut redis = RedisServer::start();
    let proxy = Proxy::before(&redis.url()).ready();
    let pause = std::env::var("BREAKER_PAUSE_S").unwrap_or_else(|_| PAUSE_S.to_owned());
    let folder = Folder::new();
    let mut script = python("circuit_breaker.py", &[]);
    script.env("REDIS_URL", format!("redis://127.0.0.1:{}", proxy.port()));
    script.env("PAUSE_S", &pause).env("STARTED", folder.path().join("started"));
    let started = folder.path().join("started");
    let back = std::thread::scope(|scope| {
        scope.spawn(|| run(script, &folder));
        crate::support::until("the clients are at work", || started.exists());
        redis.kill();
        // The outage, as in the incident in which nobody promoted anybody, only shorter.
        std::thread::sleep(OUTAGE);
        redis.restart();
        SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_secs_f64()
    });
    let said = std::fs::read_to_string(folder.path().join("script.log")).expect("it has said");
    for line in said.lines().filter_map(|line| line.strip_prefix("recovered\t")) {
        let fields: Vec<&str> = line.split('\t').collect();
        let [who, at, failed] = fields[..] else { panic!("{line}") };
        let after = at.parse::<f64>().expect("it is a time") - back;
        println!(
            "{who}, pause {pause} s: first success {after:.2} s after the return, {failed} failed"
        );
    }
    assert_eq!(said.matches("recovered\t").count(), 2, "{said}");
}

/// How long the server is gone.
const OUTAGE: Duration = Duration::from_secs(2);
/// How long the breaker stays open here; thirty seconds are usual.
const PAUSE_S: &str = "3";
