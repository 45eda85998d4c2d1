//! Passwords that change while traffic flows.
//!
//! Owns the proofs that a rotated password costs no client an error, that the one before it is still tried, that a
//! wrong one is an alarm and not a dead node, and that none of this is taken for another deployment. What surprises:
//! Redis leaves connections alone whose password was taken away, so the tests look at who has come anew.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use crate::support::{Client, Proxy, RedisServer, bulk, until};

/// A secret as Kubernetes mounts it: the file is a link through `..data`, which is turned round.
struct Secret(PathBuf);

impl Secret {
    fn new(folder: &Path, password: &str) -> Self {
        let secret = Self(folder.to_owned());
        secret.turn(password);
        symlink("..data/password", folder.join("password")).unwrap();
        secret
    }

    /// The new version is made beside the old one, and one rename puts it in force.
    fn turn(&self, password: &str) {
        let version = self.0.join(format!("..version_{password}"));
        std::fs::create_dir_all(&version).unwrap();
        std::fs::write(version.join("password"), format!("{password}\n")).unwrap();
        let link = self.0.join("..data_tmp");
        symlink(version.file_name().unwrap(), &link).unwrap();
        std::fs::rename(&link, self.0.join("..data")).unwrap();
    }
}

/// A server with the user `app`, whose passwords are these.
fn server(passwords: &[&str]) -> RedisServer {
    let redis = RedisServer::start();
    let mut admin = redis.client();
    for password in passwords {
        assert_eq!(admin.ask(&format!("ACL SETUSER app on >{password} ~* &* +@all")), b"+OK\r\n");
    }
    redis
}

fn proxy_with(redis: &RedisServer, folder: &Path) -> Proxy {
    let file = folder.join("password").display().to_string();
    Proxy::configured(&format!(
        "[upstream]\nurl = \"{}\"\nuser = \"app\"\npassword_file = \"{file}\"\n",
        redis.url()
    ))
}

/// Clients that count without end; the end says how often, and panics at the first error.
struct Load {
    is_over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<u64>>,
}

impl Load {
    fn start(proxy: &Proxy, clients: usize) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let start = |number: usize| {
            let (mut client, is_over) = (proxy.client(), Arc::clone(&is_over));
            std::thread::spawn(move || {
                let mut count = 0;
                while !is_over.load(Ordering::SeqCst) {
                    count += 1;
                    let want = format!(":{count}\r\n");
                    assert_eq!(client.ask(&format!("INCR load:{number}")), want.as_bytes());
                }
                count
            })
        };
        let threads = (0..clients).map(start).collect();
        Self { is_over, threads }
    }

    fn finish(self) -> u64 {
        self.is_over.store(true, Ordering::SeqCst);
        self.threads.into_iter().map(|thread| thread.join().expect("no error")).sum()
    }
}

/// The server's numbers of our shared connections.
fn lanes(admin: &mut Client) -> Vec<String> {
    let list = admin.text("CLIENT LIST");
    let lanes = list.lines().filter(|line| line.contains("name=breakwater:fast"));
    lanes.map(|line| line.split(' ').next().unwrap_or_default().to_owned()).collect()
}

#[test]
fn a_turned_secret_is_followed_under_load_without_an_error() {
    let redis = server(&["one"]);
    let folder = tempdir();
    let secret = Secret::new(&folder.0, "one");
    let proxy = proxy_with(&redis, &folder.0).ready();
    let load = Load::start(&proxy, 8);
    let mut admin = redis.client();
    until("traffic flows", || !lanes(&mut admin).is_empty());
    let before = lanes(&mut admin);
    assert_eq!(admin.ask("ACL SETUSER app >two"), b"+OK\r\n");
    secret.turn("two");
    until("the new secret is seen", || {
        proxy.metric("breakwater_credentials_rotations_total") == 1.0
    });
    until("connections with the new password have replaced the old ones", || {
        let now = lanes(&mut admin);
        !now.is_empty() && now.iter().all(|lane| !before.contains(lane))
    });
    assert_eq!(admin.ask("ACL SETUSER app <one"), b"+OK\r\n");
    assert!(load.finish() > 0);
    // Whatever is dialled from here on needs the new one.
    admin.ask("CLIENT KILL TYPE normal SKIPME yes");
    let mut client = proxy.client();
    until("commands are served again", || client.ask("SET k v") == b"+OK\r\n");
    assert_eq!(proxy.metric("breakwater_credentials_alarm"), 0.0);
    assert_eq!(proxy.metric("breakwater_upstream_changes_total"), 0.0);
}

#[test]
fn a_wrong_password_is_an_alarm_while_the_one_before_it_serves() {
    let redis = server(&["one"]);
    let folder = tempdir();
    let secret = Secret::new(&folder.0, "one");
    let proxy = proxy_with(&redis, &folder.0).ready();
    let mut client = proxy.client();
    assert_eq!(client.ask("SET k v"), b"+OK\r\n");
    secret.turn("wrong");
    until("the alarm is on", || proxy.metric("breakwater_credentials_alarm") == 1.0);
    assert_eq!(client.ask("GET k"), bulk(b"v"));
    // Another database needs another connection, which is made with the password before.
    assert_eq!(client.ask("SELECT 5"), b"+OK\r\n");
    assert_eq!(client.ask("SET five 5"), b"+OK\r\n");
    assert!(proxy.metric("breakwater_credentials_previous_total") >= 1.0);
    let (status, body) = proxy.http("/readyz");
    assert!(status == 200 && body.contains("but: credentials:"), "{status} {body}");
    assert!(proxy.log().contains("the newest password for this upstream is refused"));
    assert!(!proxy.log().contains("wrong\""), "no password is logged");
    assert_eq!(redis.client().ask("ACL SETUSER app >wrong"), b"+OK\r\n");
    until("the alarm is off", || proxy.metric("breakwater_credentials_alarm") == 0.0);
    assert_eq!(proxy.http("/readyz"), (200, "ready\n".to_owned()));
}

#[test]
fn a_password_that_nobody_takes_is_said_and_does_not_become_a_storm() {
    let redis = server(&["one"]);
    let folder = tempdir();
    let secret = Secret::new(&folder.0, "nothing");
    let proxy = proxy_with(&redis, &folder.0);
    until("the alarm is on", || proxy.metric("breakwater_credentials_alarm") == 1.0);
    let (status, body) = proxy.http("/readyz");
    assert!(status == 503 && body.contains("credentials:"), "{status} {body}");
    let mut client = proxy.client();
    let began = std::time::Instant::now();
    let tries = proxy.metric("breakwater_credentials_refused_total");
    while began.elapsed().as_secs() < 4 {
        let answer = client.text("GET k");
        assert!(answer.starts_with("-ERR breakwater: not executed"), "{answer}");
    }
    let tries = proxy.metric("breakwater_credentials_refused_total") - tries;
    let seconds = began.elapsed().as_secs_f64();
    // The control connection and the lanes, each with a growing pause of its own.
    assert!(tries <= 4.0 * seconds + 10.0, "{tries} tries in {seconds} s");
    secret.turn("one");
    until("commands are served", || client.ask("SET k v") == b"+OK\r\n");
    until("the alarm is off", || proxy.metric("breakwater_credentials_alarm") == 0.0);
}

#[test]
fn a_changed_password_in_the_file_moves_to_no_other_deployment() {
    let redis = server(&["one", "two"]);
    let file = |password: &str| {
        format!(
            "[upstream]\nurl = \"{}\"\nuser = \"app\"\npassword = \"{password}\"\n",
            redis.url()
        )
    };
    let mut proxy = Proxy::configured(&file("one")).ready();
    let mut client = proxy.client();
    let hash = client.text("SCRIPT LOAD return(1)");
    assert!(hash.starts_with("$40"), "{hash}");
    assert_eq!(proxy.metric("breakwater_scripts"), 1.0);
    std::fs::write(proxy.file("breakwater.toml"), file("two")).unwrap();
    proxy.hang_up();
    until("the new password is in force", || {
        proxy.metric("breakwater_credentials_rotations_total") == 1.0
    });
    assert_eq!(redis.client().ask("ACL SETUSER app <one"), b"+OK\r\n");
    assert_eq!(proxy.metric("breakwater_upstream_changes_total"), 0.0);
    assert_eq!(proxy.metric("breakwater_scripts"), 1.0, "what is known of the server stays");
    assert_eq!(client.ask("SET k v"), b"+OK\r\n");
    assert_eq!(client.ask("SELECT 3"), b"+OK\r\n");
    assert_eq!(client.ask("SET k v"), b"+OK\r\n");
}

/// A folder that is removed when it is dropped.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn tempdir() -> Folder {
    static NUMBER: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let number = NUMBER.fetch_add(1, Ordering::SeqCst);
    let name = format!("breakwater-secret-{}-{number}", std::process::id());
    let folder = std::env::temp_dir().join(name);
    std::fs::create_dir_all(&folder).unwrap();
    Folder(folder)
}
