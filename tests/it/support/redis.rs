//! A real redis-server on a free port.
//!
//! Owns the process and its folder. Never shares a server between tests. It can be killed as by the kernel,
//! started again on the same port with the same data, and stopped so that its socket accepts and nothing answers.
//!
//! What surprises: every server listens on a unix socket as well, where it can be asked whether it is up even if
//! its port speaks TLS only.

use std::path::PathBuf;
use std::process::Command;

use super::certs::Certificates;
use super::process::{Folder, Process, free_port, print_tail};
use super::{Client, eventually};

/// One server.
pub(crate) struct RedisServer {
    process: Process,
    port: u16,
    /// All arguments, so that it can be started again.
    arguments: Vec<String>,
    folder: Folder,
}

// === impl RedisServer ===

impl RedisServer {
    /// Without persistence and without password.
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// With further arguments, which win over the usual ones.
    pub(crate) fn start_with(more: &[&str]) -> Self {
        Self::launch(more, |port| vec!["--port".into(), port.to_string()])
    }

    /// A server that speaks nothing but TLS on its port, and demands client certificates if told so.
    pub(crate) fn start_tls(certificates: &Certificates, asks_for_certificate: bool) -> Self {
        let path = |name: &str| certificates.path(name).display().to_string();
        let auth = if asks_for_certificate { "yes" } else { "no" };
        let (cert, key, ca) = (path("server.pem"), path("server.key"), path("ca.pem"));
        let files = ["--tls-cert-file", &cert, "--tls-key-file", &key, "--tls-ca-cert-file", &ca];
        let more = [&files[..], &["--tls-auth-clients", auth]].concat();
        Self::launch(&more, |port| {
            vec!["--port".into(), "0".into(), "--tls-port".into(), port.to_string()]
        })
    }

    /// On a given port, which somebody has found to be free.
    pub(crate) fn start_on(port: u16) -> Self {
        Self::launch(&[], |_| vec!["--port".into(), port.to_string()])
    }

    fn launch(more: &[&str], ports: impl Fn(u16) -> Vec<String>) -> Self {
        for _ in 0..START_ATTEMPTS {
            let folder = Folder::new();
            let port = free_port();
            let mut arguments = ports(port);
            let port = arguments.last().and_then(|port| port.parse().ok()).unwrap_or(port);
            let path = folder.path().display().to_string();
            let socket = format!("{path}/redis.sock");
            let usual = ["--bind", "127.0.0.1", "--dir", &path, "--unixsocket", &socket]
                .into_iter()
                .chain(["--save", "", "--appendonly", "no", "--daemonize", "no"]);
            arguments.extend(usual.chain(more.iter().copied()).map(str::to_owned));
            let process = spawn(&arguments, &folder);
            let mut server = Self { process, port, arguments, folder };
            if server.has_started() {
                return server;
            }
        }
        panic!("redis-server did not start in {START_ATTEMPTS} attempts");
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// As `--upstream` wants it.
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Its unix socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("redis.sock")
    }

    /// A client without a proxy in between.
    pub(crate) fn client(&self) -> Client {
        Client::connect(self.port)
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again, with the same port and folder, and waits until it serves.
    pub(crate) fn restart(&mut self) {
        self.kill();
        eventually("redis-server starts again", || {
            self.process = spawn(&self.arguments, &self.folder);
            self.has_started().then_some(())
        });
    }

    /// Starts it again with further arguments, and does not wait until it has loaded its data.
    pub(crate) fn restart_loading(&mut self, more: &[&str]) {
        self.kill();
        let mut arguments = self.arguments.clone();
        arguments.extend(more.iter().map(|&it| it.to_owned()));
        eventually("redis-server starts again", || {
            self.process = spawn(&arguments, &self.folder);
            self.listens().then_some(())
        });
    }

    /// Waits until it takes connections; false if it has ended.
    fn listens(&mut self) -> bool {
        eventually("redis-server listens", || {
            if self.process.status().is_some() {
                return Some(false);
            }
            Client::connect_unix(&self.socket()).is_ok().then_some(true)
        })
    }

    /// A client that needs no port.
    pub(crate) fn socket_client(&self) -> Client {
        Client::connect_unix(&self.socket()).expect("its socket accepts")
    }

    /// Where its data is.
    pub(crate) fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// SIGSTOP: its kernel goes on accepting connections and bytes, nothing answers.
    pub(crate) fn pause(&mut self) {
        self.process.signal("STOP");
    }

    /// SIGCONT.
    pub(crate) fn resume(&mut self) {
        self.process.signal("CONT");
    }

    /// Waits until it answers; false if it has ended, because its port was taken.
    fn has_started(&mut self) -> bool {
        eventually("redis-server answers", || {
            if self.process.status().is_some() {
                return Some(false);
            }
            let mut client = Client::connect_unix(&self.socket()).ok()?;
            client.try_send(b"PING\r\n").ok()?;
            // NOAUTH is a sign of life as well.
            let is_up = !client.try_frame().ok()?.starts_with(b"-LOADING");
            is_up.then_some(true)
        })
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            print_tail("redis-server's log", &self.folder.path().join("redis.log"));
        }
    }
}

fn spawn(arguments: &[String], folder: &Folder) -> Process {
    let log = folder.path().join("redis.log");
    match Process::start(Command::new("redis-server").args(arguments), &log) {
        Ok(process) => process,
        Err(error) => panic!(
            "redis-server cannot be started ({error}): run deploy/install-redis.sh, or install Redis 7"
        ),
    }
}

/// A port may be taken between its choice and its use.
const START_ATTEMPTS: usize = 5;
