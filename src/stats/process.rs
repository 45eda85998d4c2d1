//! What the kernel says about this process, read from `/proc/self` at each scrape.
//!
//! This file owns the numbers behind the conventional `process_*` metrics. It keeps no state and
//! never fails: what cannot be read, for instance on a system without `/proc`, is `None` and is
//! left out of the page. What surprises: times in `/proc` are in ticks of a hundredth of a second
//! on every architecture that Rust's Linux targets run on, whatever frequency the kernel itself was
//! built with.

use std::fs;

/// Ticks a second in `/proc/self/stat` (`USER_HZ`, part of the kernel's interface).
const TICKS_PER_SECOND: f64 = 100.0;

/// A reading of the process; each number is absent if the kernel did not tell it.
#[derive(Debug, Default)]
pub(super) struct Process {
    /// User and system time of all threads, in seconds.
    pub(super) cpu_seconds: Option<f64>,
    /// Bytes of memory that are resident.
    pub(super) resident_bytes: Option<u64>,
    /// Bytes of address space.
    pub(super) virtual_bytes: Option<u64>,
    /// Open file descriptors.
    pub(super) open_fds: Option<u64>,
    /// The most descriptors that may be open; `None` also if there is no limit.
    pub(super) max_fds: Option<u64>,
}

// === impl Process ===

impl Process {
    /// Reads all numbers. Takes some 30 µs; longer on kernels before 6.2 with many descriptors.
    pub(super) fn read() -> Self {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
        Self {
            cpu_seconds: cpu_seconds(&stat),
            resident_bytes: status_bytes(&status, "VmRSS:"),
            virtual_bytes: status_bytes(&status, "VmSize:"),
            open_fds: open_fds(),
            max_fds: max_fds(&limits),
        }
    }
}

/// When the process started, in seconds since 1970. Does not change, so it is read once.
pub(super) fn start_time_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let system = fs::read_to_string("/proc/stat").ok()?;
    let boot: f64 = system.lines().find_map(|line| line.strip_prefix("btime "))?.parse().ok()?;
    Some(boot + stat_ticks(&stat, STARTTIME)? / TICKS_PER_SECOND)
}

/// Positions in `/proc/self/stat` counted from the field after the process's name (proc(5) counts
/// that one as 3).
const UTIME: usize = 14 - 3;
const STIME: usize = 15 - 3;
const STARTTIME: usize = 22 - 3;

/// User plus system time in seconds.
fn cpu_seconds(stat: &str) -> Option<f64> {
    Some((stat_ticks(stat, UTIME)? + stat_ticks(stat, STIME)?) / TICKS_PER_SECOND)
}

/// One numeric field of `/proc/self/stat`. The name in front of the fields stands in parentheses
/// and may contain spaces and parentheses itself, so the last one ends it.
fn stat_ticks(stat: &str, position: usize) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(position)?.parse().ok()
}

/// A size of `/proc/self/status`, which the kernel gives in KiB under the name `kB`.
fn status_bytes(status: &str, name: &str) -> Option<u64> {
    let rest = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = rest.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    kib.checked_mul(1024)
}

/// The soft limit of open files.
fn max_fds(limits: &str) -> Option<u64> {
    let rest = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    rest.split_ascii_whitespace().next()?.parse().ok()
}

/// Number of open descriptors. Since Linux 6.2 it is the size of the directory, which costs one
/// call; before, that size is 0 and the entries are counted.
fn open_fds() -> Option<u64> {
    let size = fs::metadata("/proc/self/fd").ok()?.len();
    if size > 0 {
        return Some(size);
    }
    let entries = fs::read_dir("/proc/self/fd").ok()?.count() as u64;
    // The listing itself holds one descriptor.
    Some(entries.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_with_parentheses_does_not_shift_the_fields() {
        let stat = "7 (a b) c) S 1 7 7 0 -1 0 9 0 0 0 250 150 0 0 20 0 3 0 4200 1000 10";
        assert_eq!(cpu_seconds(stat), Some(4.0));
        assert_eq!(stat_ticks(stat, STARTTIME), Some(4200.0));
    }

    #[test]
    fn sizes_and_limits_are_read_in_bytes_and_files() {
        let status = "Name:\tx\nVmSize:\t    2048 kB\nVmRSS:\t     512 kB\n";
        assert_eq!(status_bytes(status, "VmRSS:"), Some(524_288));
        assert_eq!(status_bytes(status, "VmSize:"), Some(2_097_152));
        let limits = "Max open files            1024      1048576      files\n";
        assert_eq!(max_fds(limits), Some(1024));
    }

    #[test]
    fn nonsense_and_absence_are_none_and_never_a_panic() {
        for text in ["", ")", "1 (x) S", "VmRSS:\nMax open files", "VmRSS: -3 kB"] {
            assert_eq!(cpu_seconds(text), None);
            assert_eq!(status_bytes(text, "VmRSS:"), None);
            assert_eq!(max_fds(text), None);
        }
        assert_eq!(max_fds("Max open files   unlimited unlimited files"), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_has_plausible_numbers() {
        let process = Process::read();
        assert!(process.cpu_seconds.is_some_and(|it| it >= 0.0));
        assert!(process.resident_bytes.unwrap() > 100_000);
        assert!(process.virtual_bytes.unwrap() >= process.resident_bytes.unwrap());
        assert!(process.open_fds.unwrap() >= 3);
        let clock = crate::clock::unix_seconds() as f64;
        let started = start_time_seconds().unwrap();
        // Boot time is known to the second only, and the clock may have been set since.
        assert!((clock - started).abs() < 86_400.0, "{started} is far from {clock}");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn an_opened_file_is_counted() {
        // Other tests open and close files meanwhile; a hundred stand out.
        let before = open_fds().unwrap();
        let files: Vec<_> = (0..100).map(|_| fs::File::open("/dev/null").unwrap()).collect();
        let after = open_fds().unwrap();
        assert!(after >= before + 50, "{before} then {after} with {} more", files.len());
    }
}
