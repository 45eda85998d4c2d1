//! The binary under test, started as an operator starts it.
//!
//! Owns the process, its log and its two ports. Never looks inside: what a test knows of it comes from its
//! sockets, its admin port, its log and the kernel.
//!
//! What surprises: the contract prints no ports, so they are chosen here, and a start that finds one taken is
//! tried again on others.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};

use super::process::{Folder, Process, free_port, print_tail};
use super::{Client, PATIENCE, eventually, until};

/// One running Breakwater.
pub(crate) struct Proxy {
    process: Process,
    port: u16,
    admin: u16,
    folder: Folder,
}

// === impl Proxy ===

impl Proxy {
    /// `run` with these arguments, a listener and an admin port.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::launch(|port, _| {
            let mut all = vec!["--listen".to_owned(), format!("127.0.0.1:{port}")];
            all.extend(arguments.iter().map(|&argument| argument.to_owned()));
            all
        })
    }

    /// `run` in front of `url`.
    pub(crate) fn before(url: &str) -> Self {
        Self::start(&["--upstream", url])
    }

    /// `run` in front of `url`, enforcing these rules and the catalogue.
    pub(crate) fn guarding(url: &str, policy: &str) -> Self {
        Self::launch(|port, folder| {
            let file = folder.write("policy.toml", policy).display().to_string();
            let listen = format!("127.0.0.1:{port}");
            let flags = ["--listen", &listen, "--upstream", url, "--profile", "guard"];
            let mut all: Vec<String> = flags.iter().map(|&flag| flag.to_owned()).collect();
            all.extend(["--policy".to_owned(), file]);
            all
        })
    }

    /// As [`Self::guarding`], with a configuration that is told where the policy file is.
    pub(crate) fn launch_guarding(policy: &str, toml: impl Fn(&str) -> String) -> Self {
        Self::profiled("guard", policy, toml)
    }

    /// As [`Self::launch_guarding`], in the profile that the configuration names.
    pub(crate) fn launch_by_file(policy: &str, toml: impl Fn(&str) -> String) -> Self {
        // An empty flag is none, and wins over the variable.
        Self::profiled("", policy, toml)
    }

    fn profiled(profile: &str, policy: &str, toml: impl Fn(&str) -> String) -> Self {
        Self::launch(|port, folder| {
            let policy = folder.write("policy.toml", policy).display().to_string();
            let file = folder.write("breakwater.toml", toml(&policy)).display().to_string();
            let flags = ["--listen", &format!("127.0.0.1:{port}"), "--profile", profile];
            let mut all: Vec<String> = flags.iter().map(|&flag| flag.to_owned()).collect();
            all.extend(["--config".to_owned(), file]);
            all
        })
    }

    /// `run` with a configuration file beside the listener of [`Self::start`].
    pub(crate) fn configured(toml: &str) -> Self {
        Self::launch(|port, folder| {
            let file = folder.write("breakwater.toml", toml).display().to_string();
            vec!["--listen".to_owned(), format!("127.0.0.1:{port}"), "--config".to_owned(), file]
        })
    }

    /// `run` with a configuration file that has the listeners as well; it is made for a free port.
    pub(crate) fn listening(toml: impl Fn(u16, &Folder) -> String) -> Self {
        Self::launch(|port, folder| {
            let file = folder.write("breakwater.toml", toml(port, folder)).display().to_string();
            vec!["--config".to_owned(), file]
        })
    }

    /// As [`Self::listening`], enforcing these rules, which are made for the same port.
    pub(crate) fn listening_guarded(
        policy: impl Fn(u16) -> String,
        toml: impl Fn(u16) -> String,
    ) -> Self {
        Self::launch(|port, folder| {
            let policy = folder.write("policy.toml", policy(port)).display().to_string();
            let file = folder.write("breakwater.toml", toml(port)).display().to_string();
            ["--profile", "guard", "--policy", &policy, "--config", &file].map(str::to_owned).into()
        })
    }

    fn launch(arguments: impl Fn(u16, &Folder) -> Vec<String>) -> Self {
        for _ in 0..START_ATTEMPTS {
            let folder = Folder::new();
            let (port, admin) = (free_port(), free_port());
            let mut command = binary();
            command.arg("run").args(["--admin", &format!("127.0.0.1:{admin}")]);
            // What is tested is how Redis's commands fare, all of them; a flag wins over this.
            command.env("BREAKWATER_PROFILE", "open");
            command.args(arguments(port, &folder));
            let log = folder.path().join("proxy.log");
            let process = Process::start(&mut command, &log).expect("the binary can be started");
            let mut proxy = Self { process, port, admin, folder };
            if proxy.has_started() {
                return proxy;
            }
            let log = proxy.log();
            assert!(log.contains("in use"), "Breakwater did not start:\n{log}");
        }
        panic!("no free port in {START_ATTEMPTS} attempts");
    }

    /// Waits until it accepts; false if it has ended.
    fn has_started(&mut self) -> bool {
        eventually("Breakwater accepts connections", || {
            if self.process.status().is_some() {
                return Some(false);
            }
            let accepts = |port| TcpStream::connect(("127.0.0.1", port)).is_ok();
            // The listener of a test may be a unix socket or on IPv6 alone: the admin port comes last in any case.
            accepts(self.admin).then_some(true)
        })
    }

    /// Waits until it says that it can serve.
    pub(crate) fn ready(self) -> Self {
        until("/readyz answers 200", || self.http("/readyz").0 == 200);
        self
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn client(&self) -> Client {
        // The admin port may be open a moment before the listeners.
        eventually("the listener accepts connections", || {
            Client::try_connect(("127.0.0.1", self.port)).ok()
        })
    }

    /// A client that speaks RESP3.
    pub(crate) fn client3(&self) -> Client {
        let mut client = self.client();
        assert!(client.ask("HELLO 3").starts_with(b"%"), "HELLO 3 is answered by a map");
        client
    }

    /// A file of its folder.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Replaces the policy file at once, as a careful editor does.
    pub(crate) fn replace_policy(&self, content: &str) {
        let aside = self.folder.write("policy.toml.new", content);
        std::fs::rename(aside, self.file("policy.toml")).expect("files can be renamed");
    }

    /// Everything it has logged.
    pub(crate) fn log(&self) -> String {
        let bytes = std::fs::read(self.file("proxy.log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Status and body of a GET on the admin port.
    pub(crate) fn http(&self, path: &str) -> (u16, String) {
        self.try_http(path).expect("the admin port answers")
    }

    pub(crate) fn try_http(&self, path: &str) -> std::io::Result<(u16, String)> {
        self.request(&format!("GET {path} HTTP/1.1\r\n"), "")
    }

    /// Status and body of a POST on the admin port, with further headers.
    pub(crate) fn post(&self, path: &str, headers: &str, body: &str) -> (u16, String) {
        let head = format!("POST {path} HTTP/1.1\r\nContent-Length: {}\r\n{headers}", body.len());
        self.request(&head, body).expect("the admin port answers")
    }

    /// Status and body of a DELETE on the admin port.
    pub(crate) fn delete(&self, path: &str) -> (u16, String) {
        self.request(&format!("DELETE {path} HTTP/1.1\r\n"), "").expect("the admin port answers")
    }

    /// Where its admin port is.
    pub(crate) fn admin(&self) -> String {
        format!("127.0.0.1:{}", self.admin)
    }

    fn request(&self, head: &str, body: &str) -> std::io::Result<(u16, String)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.admin))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let question = format!("{head}Host: it\r\nConnection: close\r\n\r\n{body}");
        stream.write_all(question.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        Ok((status.unwrap_or(0), body.to_owned()))
    }

    /// A metric, summed over its series whose labels contain `label`.
    pub(crate) fn metric_of(&self, name: &str, label: &str) -> f64 {
        let (status, body) = self.http("/metrics");
        assert_eq!(status, 200, "{body}");
        let series = body.lines().filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let (its_name, labels) = series.split_once('{').unwrap_or((series, ""));
            (its_name == name && labels.contains(label)).then(|| value.parse::<f64>().ok())?
        });
        series.sum()
    }

    /// A metric, summed over all its series.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        self.metric_of(name, "")
    }

    /// Resident memory in bytes.
    pub(crate) fn resident_bytes(&self) -> usize {
        self.process.resident_bytes()
    }

    /// SIGTERM.
    pub(crate) fn terminate(&mut self) {
        self.process.signal("TERM");
    }

    /// SIGHUP: look at the configuration now.
    pub(crate) fn hang_up(&mut self) {
        self.process.signal("HUP");
    }

    /// Waits for its end.
    pub(crate) fn exit_status(&mut self) -> ExitStatus {
        eventually("Breakwater ends", || self.process.status())
    }

    /// Whether it still runs.
    pub(crate) fn is_alive(&mut self) -> bool {
        self.process.status().is_none()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if std::thread::panicking() {
            print_tail("Breakwater's log", &self.file("proxy.log"));
        }
    }
}

/// The binary with none of this shell's settings.
pub(crate) fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_breakwater"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("BREAKWATER_") {
            command.env_remove(name);
        }
    }
    command.env("NO_COLOR", "1");
    command
}

/// A port may be taken between its choice and its use.
const START_ATTEMPTS: usize = 5;
