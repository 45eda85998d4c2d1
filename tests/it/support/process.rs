//! Folders, ports and signals of the processes that tests start.
//!
//! Owns a temporary folder for each process and removes it, and hands out ports that nobody uses. Never
//! starts anything by itself.
//!
//! What surprises: ports come from below the range from which the kernel takes those of outgoing connections.
//! A port that the kernel chose may be gone again before the server has bound it.

use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

/// A folder that goes when its owner goes.
#[derive(Debug)]
pub(crate) struct Folder(PathBuf);

/// A child process that is killed when its owner goes.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    /// Its exit status, once it has been waited for.
    status: Option<ExitStatus>,
}

/// A port of 127.0.0.1 on which nobody listens, different from all others of this process.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    loop {
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        // Two test binaries that run side by side start at different places.
        let port = 10_000 + (std::process::id() as usize * 131 + next) % 20_000;
        let port = u16::try_from(port).expect("it is below 30,000");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// The end of a log file, for the report of a test that failed.
pub(crate) fn print_tail(name: &str, log: &Path) {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let shown = &lines[lines.len().saturating_sub(TAIL_LINES)..];
    eprintln!("--- the last lines of {name} ---\n{}\n---", shown.join("\n"));
}

// === impl Folder ===

impl Folder {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let mut root = std::env::temp_dir();
        // The path of a unix socket is short by law (about 100 bytes).
        if root.as_os_str().len() > 40 {
            root = "/tmp".into();
        }
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = root.join(format!("breakwater-it-{}-{next}", std::process::id()));
        // A test that was killed may have left one with the number of a process long gone.
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir(&path).expect("the folder for temporary files can be written");
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file and returns its path.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, content).expect("a file of the test can be written");
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

// === impl Process ===

impl Process {
    /// Starts `command` with nothing to read, and both outputs in the file `log`.
    pub(crate) fn start(command: &mut Command, log: &Path) -> std::io::Result<Self> {
        let out = std::fs::OpenOptions::new().create(true).append(true).open(log)?;
        let child = command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out).spawn()?;
        Ok(Self { child, status: None })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its exit status, if it has ended.
    pub(crate) fn status(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().expect("a child can be waited for");
        }
        self.status
    }

    /// Sends a signal by its name, as in `TERM`.
    pub(crate) fn signal(&mut self, name: &str) {
        assert!(self.status().is_none(), "the process has ended before SIG{name}");
        // Every shell has it built in; not every machine has it as a program.
        let script = format!("kill -{name} {}", self.id());
        let status = Command::new("sh").args(["-c", &script]).status();
        assert!(status.is_ok_and(|status| status.success()), "{script}");
    }

    /// SIGKILL, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        if self.status().is_none() {
            let _ = self.child.kill();
            self.status = Some(self.child.wait().unwrap_or(ExitStatus::from_raw(9)));
        }
    }

    /// Resident memory in bytes.
    pub(crate) fn resident_bytes(&self) -> usize {
        let path = format!("/proc/{}/status", self.id());
        let text = std::fs::read_to_string(path).expect("the process is alive");
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_ascii_whitespace().next()?.parse::<usize>().ok());
        kib.expect("Linux tells the resident memory") * 1024
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Lines of a log that a failed test shows.
const TAIL_LINES: usize = 40;
