//! Another policy while traffic flows: noticed, judged as a whole, published at once, taken back.
//!
//! Owns the proofs that each way of asking for it works, a kubelet's turn of `..data` included, that a broken file
//! changes nothing and is told with its place, and that no command is judged by half a policy. What surprises: a
//! verdict is right if it is that of any policy that was in force between the sending and the answer.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use crate::support::{Client, Proxy, RedisServer, bulk, until};

/// A policy that denies GET of `hot:*`, in the name of a rule with this number.
fn denying(number: u64) -> String {
    format!(
        "[[rule]]\nname = \"deny-{number}\"\ncommands = [\"GET\"]\nkeys = [\"hot:*\"]\naction = \"deny\"\n\
         message = \"number {number}\"\n"
    )
}

/// What a client is told by that rule in that policy.
fn denial(number: u64, version: u64) -> Vec<u8> {
    format!(
        "-NOPERM breakwater: 'get' is denied by rule deny-{number} (policy {version}); number {number}\r\n"
    )
    .into_bytes()
}

const BROKEN: &str = "[[rule]]\nname = \"half\"\ncomands = [\"GET\"]\naction = \"deny\"\n";

/// A proxy with a policy in which `deny-1` is.
fn guarding(redis: &RedisServer) -> Proxy {
    redis.client().ask("SET hot:1 v");
    Proxy::guarding(&redis.url(), &denying(1)).ready()
}

fn turn(folder: &Path, link: &str, target: &str) {
    let aside = folder.join("..aside");
    std::os::unix::fs::symlink(target, &aside).unwrap();
    std::fs::rename(&aside, folder.join(link)).unwrap();
}

#[test]
fn each_turn_of_a_mounted_config_map_is_seen() {
    let redis = RedisServer::start();
    redis.client().ask("SET hot:1 v");
    let proxy = Proxy::launch_guarding("", |file| {
        // As a kubelet lays it out: the file is a link into `..data`, which is a link to a folder with a date.
        let folder = Path::new(file).parent().unwrap().join("mounted");
        std::fs::create_dir(&folder).unwrap();
        for number in 1..=4 {
            std::fs::create_dir(folder.join(format!("..{number}"))).unwrap();
            let file = folder.join(format!("..{number}/policy.toml"));
            std::fs::write(file, denying(number)).unwrap();
        }
        turn(&folder, "..data", "..1");
        turn(&folder, "policy.toml", "..data/policy.toml");
        let path = folder.join("policy.toml");
        format!("policy = \"{}\"\n[upstream]\nurl = \"{}\"\n", path.display(), redis.url())
    })
    .ready();
    let mut client = proxy.client();
    assert_eq!(client.ask("GET hot:1"), denial(1, 1));
    for number in 2..=4 {
        let since = Instant::now();
        turn(&proxy.file("mounted"), "..data", &format!("..{number}"));
        until("the turn is seen", || client.ask("GET hot:1") == denial(number, number));
        println!("turn {number} of ..data was seen after {:?}", since.elapsed());
    }
}

#[test]
fn a_changed_file_is_seen_and_asked_for_by_signal_and_by_post() {
    let redis = RedisServer::start();
    let mut proxy = guarding(&redis);
    let mut client = proxy.client();
    assert_eq!(client.ask("GET hot:1"), denial(1, 1));
    proxy.replace_policy(&denying(2));
    until("the file is seen", || client.ask("GET hot:1") == denial(2, 2));
    proxy.replace_policy(&denying(3));
    proxy.hang_up();
    until("SIGHUP is heard", || client.ask("GET hot:1") == denial(3, 3));
    proxy.replace_policy(&denying(4));
    let (status, words) = proxy.post("/policy/reload", "", "");
    assert_eq!(status, 200, "{words}");
    // Its watch may have been faster than the order.
    assert!(words.contains("policy 4 "), "{words}");
    assert_eq!(client.ask("GET hot:1"), denial(4, 4));
    let (status, words) = proxy.post("/policy/reload", "", "");
    assert_eq!((status, words.as_str()), (200, "no rule differs: policy 4 stays in force\n"));
    assert!(proxy.log().contains("added deny-2; removed deny-1"), "{}", proxy.log());
    assert_eq!(proxy.metric("breakwater_policy_version"), 4.0);
}

#[test]
fn a_broken_file_changes_nothing_and_is_told_with_its_place() {
    let redis = RedisServer::start();
    let mut proxy = guarding(&redis);
    let mut client = proxy.client();
    proxy.replace_policy(BROKEN);
    until("the complaint is on the page", || proxy.http("/policy").1.contains("policy.toml:3:1: "));
    assert!(proxy.log().contains("policy.toml:3:1: 'comands'"), "{}", proxy.log());
    let (status, words) = proxy.post("/policy/reload", "", "");
    assert_eq!(status, 422);
    assert!(words.contains("policy.toml:3:1: 'comands'"), "{words}");
    assert_eq!(client.ask("GET hot:1"), denial(1, 1));
    assert!(proxy.metric_of("breakwater_policy_reloads_total", "refused") >= 2.0);
    assert_eq!(proxy.metric("breakwater_policy_last_reload_successful"), 0.0);
    std::fs::remove_file(proxy.file("policy.toml")).unwrap();
    proxy.hang_up();
    until("a file that is gone is told", || {
        proxy.http("/policy").1.contains("policy.toml: cannot be read")
    });
    assert_eq!(client.ask("GET hot:1"), denial(1, 1));
    proxy.replace_policy(&denying(2));
    until("the mended file counts", || client.ask("GET hot:1") == denial(2, 2));
    assert!(!proxy.http("/policy").1.contains("was refused"), "{}", proxy.http("/policy").1);
    assert_eq!(proxy.metric("breakwater_policy_last_reload_successful"), 1.0);
}

#[test]
fn a_rollback_counts_until_the_file_changes_or_is_asked_for() {
    let redis = RedisServer::start();
    let proxy = guarding(&redis);
    let mut client = proxy.client();
    let (status, words) = proxy.post("/policy/rollback", "", "");
    assert_eq!(status, 422, "{words}");
    proxy.replace_policy(&denying(2));
    assert_eq!(proxy.post("/policy/reload", "", "").0, 200);
    assert_eq!(client.ask("GET hot:1"), denial(2, 2));
    let (status, words) = proxy.post("/policy/rollback", "", "");
    assert_eq!(status, 200, "{words}");
    assert_eq!(client.ask("GET hot:1"), denial(1, 3));
    assert!(proxy.http("/policy").1.contains("rolled back: "));
    // Writing the same bytes again is no change.
    proxy.replace_policy(&denying(2));
    proxy.replace_policy(&denying(5));
    until("a change counts", || client.ask("GET hot:1") == denial(5, 4));
    assert!(!proxy.http("/policy").1.contains("rolled back: "));
    assert_eq!(proxy.post("/policy/rollback", "", "").0, 200);
    assert_eq!(client.ask("GET hot:1"), denial(1, 5));
    assert_eq!(proxy.post("/policy/reload", "", "").0, 200);
    assert_eq!(client.ask("GET hot:1"), denial(5, 6));
}

#[test]
fn another_profile_in_the_configuration_needs_no_restart() {
    let redis = RedisServer::start();
    redis.client().ask("SET hot:1 v");
    let mut proxy = Proxy::launch_by_file(&denying(1), |policy| {
        let upstream = format!("[upstream]\nurl = \"{}\"\n", redis.url());
        format!("policy = \"{policy}\"\nprofile = \"observe\"\n{upstream}")
    })
    .ready();
    let mut client = proxy.client();
    assert_eq!(client.ask("GET hot:1"), bulk(b"v"));
    let file = std::fs::read_to_string(proxy.file("breakwater.toml")).unwrap();
    for (profile, answer) in
        [("guard", denial(1, 2)), ("open", bulk(b"v")), ("guard", denial(1, 4))]
    {
        let changed = file.replace("\"observe\"", &format!("\"{profile}\""));
        std::fs::write(proxy.file("breakwater.toml"), changed).unwrap();
        proxy.hang_up();
        until("the profile counts", || client.ask("GET hot:1") == answer);
    }
    assert!(!proxy.log().contains("need a restart"), "{}", proxy.log());
}

/// What the readers of a test know: which policies may be in force.
#[derive(Default)]
struct Bounds {
    /// One that certainly has been put in force.
    least: AtomicU64,
    /// One that may be.
    most: AtomicU64,
    is_over: AtomicBool,
}

/// Whether a policy of that number denies; every third of them does not.
fn denies(number: u64) -> bool {
    !number.is_multiple_of(3)
}

/// Asks until it is over, and holds each answer against what may be in force.
fn reader(mut client: Client, bounds: Arc<Bounds>) -> JoinHandle<u64> {
    std::thread::spawn(move || {
        let mut answers = 0;
        while !bounds.is_over.load(Ordering::SeqCst) {
            let least = bounds.least.load(Ordering::SeqCst);
            let answer = client.ask("GET hot:1");
            let may_be = least..=bounds.most.load(Ordering::SeqCst);
            let is_right = match answer.as_slice() {
                b"$1\r\nv\r\n" => may_be.clone().any(|number| !denies(number)),
                _ => {
                    may_be.clone().any(|number| denies(number) && answer == denial(number, number))
                }
            };
            let answer = String::from_utf8_lossy(&answer);
            assert!(is_right, "{answer} while one of {may_be:?} is in force");
            answers += 1;
        }
        answers
    })
}

#[test]
fn a_hundred_reloads_under_load_give_no_wrong_verdict_and_lose_no_client() {
    let redis = RedisServer::start();
    let proxy = guarding(&redis);
    let bounds = Arc::new(Bounds::default());
    bounds.least.store(1, Ordering::SeqCst);
    bounds.most.store(1, Ordering::SeqCst);
    let readers: Vec<_> = (0..4).map(|_| reader(proxy.client(), Arc::clone(&bounds))).collect();
    let mut number = 1;
    for round in 0..100 {
        if round % 10 < 3 {
            proxy.replace_policy(BROKEN);
            let (status, words) = proxy.post("/policy/reload", "", "");
            assert_eq!(status, 422, "{words}");
            assert!(words.contains("policy.toml:3:1: "), "{words}");
            continue;
        }
        number += 1;
        let rule = if denies(number) { denying(number) } else { String::new() };
        // Before it is written: its watch may be faster than the order.
        bounds.most.store(number, Ordering::SeqCst);
        proxy.replace_policy(&rule);
        let (status, words) = proxy.post("/policy/reload", "", "");
        assert_eq!(status, 200, "{words}");
        assert!(words.contains(&format!("policy {number} ")), "{words}");
        bounds.least.store(number, Ordering::SeqCst);
    }
    bounds.is_over.store(true, Ordering::SeqCst);
    // Each has asked on one connection: it would have failed had that been closed.
    let answers: u64 =
        readers.into_iter().map(|reader| reader.join().expect("all was right")).sum();
    println!("{answers} answers beside 100 reloads, 30 of them of a broken file");
    assert_eq!(proxy.metric("breakwater_policy_version"), 71.0);
}
