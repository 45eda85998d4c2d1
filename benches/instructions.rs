//! Instructions that one GET costs, counted by valgrind and held below a ceiling.
//!
//! Owns the ceilings' file `instructions.txt` and the comparison with it. Never measures time, so the result does
//! not depend on what else the machine does. The benchmark runs itself under callgrind, twice for each workload
//! with different numbers of rounds; the difference is free of start and end.
//!
//! What surprises: without valgrind it says so and succeeds. `cargo bench --bench instructions -- --bless` writes
//! the ceilings anew, which belongs into the commit that explains why.

#[allow(dead_code)] // Each benchmark uses its part.
mod rig;

use std::hint::black_box;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, anyhow, bail};
use breakwater::command::table::Table;
use breakwater::resp::limits::Limits;
use breakwater::resp::reply::ReplyScanner;
use breakwater::resp::request::RequestScanner;
use breakwater::route::slot;

/// A workload by its name in the file: what it does so many times, and how many GETs (or keys of an MGET) each time
/// is.
struct Workload {
    name: &'static str,
    run: fn(usize),
    gets: usize,
}

const WORKLOADS: [Workload; 11] = [
    Workload { name: "scan-request", run: scan_request, gets: 1 },
    Workload { name: "scan-reply", run: scan_reply, gets: 1 },
    Workload { name: "look-up", run: look_up, gets: 1 },
    Workload { name: "slot", run: find_slot, gets: 1 },
    Workload { name: "round-p1", run: |rounds| round(rounds, 1), gets: 1 },
    Workload { name: "round-p64", run: |rounds| round(rounds, 64), gets: 64 },
    Workload { name: "cluster-p1", run: |rounds| cluster_gets(rounds, 1), gets: 1 },
    Workload { name: "cluster-p16", run: |rounds| cluster_gets(rounds, 16), gets: 16 },
    Workload { name: "cluster-p64", run: |rounds| cluster_gets(rounds, 64), gets: 64 },
    Workload { name: "cluster-mget10", run: |rounds| cluster_mget(rounds, 10), gets: 10 },
    Workload { name: "cluster-mget100", run: |rounds| cluster_mget(rounds, 100), gets: 100 },
];

/// Where the ceilings are, one `name instructions` a line.
const CEILINGS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions.txt");
/// How much more than its ceiling a workload may cost.
const GROWTH_MAX: f64 = 1.03;
/// Rounds of the shorter and of the longer run.
const ROUNDS: [usize; 2] = [200, 1200];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if let ["--run", name, rounds] = words[..] {
        return run(name, rounds);
    }
    // `cargo test --benches` starts this without the word; nothing is to be measured then.
    if !words.contains(&"--bench") {
        return ExitCode::SUCCESS;
    }
    match compare(words.contains(&"--bless")) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("instructions: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The measured process: one workload, so many times.
fn run(name: &str, rounds: &str) -> ExitCode {
    let workload = WORKLOADS.iter().find(|workload| workload.name == name);
    match (workload, rounds.parse()) {
        (Some(workload), Ok(rounds)) => {
            (workload.run)(rounds);
            ExitCode::SUCCESS
        }
        _ => ExitCode::FAILURE,
    }
}

/// Counts every workload and holds it against its ceiling. Returns whether all are below.
fn compare(is_blessed: bool) -> anyhow::Result<bool> {
    let is_there = Command::new("valgrind").arg("--version").stdout(Stdio::null()).status();
    if is_there.is_err() {
        eprintln!("SKIPPED: valgrind is not installed; instructions were not counted.");
        return Ok(true);
    }
    let ceilings = std::fs::read_to_string(CEILINGS).unwrap_or_default();
    let (mut all_below, mut blessed) = (true, String::from(HEAD));
    println!("{:<15} {:>12} {:>10} {:>8}", "instructions", "per GET", "ceiling", "");
    for workload in &WORKLOADS {
        let [less, more] = ROUNDS.map(|rounds| count(workload.name, rounds));
        let gets = (ROUNDS[1] - ROUNDS[0]) * workload.gets;
        let each = (more? - less?) as f64 / gets as f64;
        let ceiling = ceiling(&ceilings, workload.name);
        let verdict = match ceiling {
            None => "no ceiling",
            Some(ceiling) if each > ceiling * GROWTH_MAX => "TOO MANY",
            Some(ceiling) if each * GROWTH_MAX < ceiling => "fewer: lower the ceiling",
            Some(_) => "",
        };
        all_below &= verdict != "TOO MANY" && verdict != "no ceiling";
        let shown = ceiling.map_or("-".into(), |ceiling| format!("{ceiling:.0}"));
        println!("{:<15} {each:>12.1} {shown:>10} {verdict}", workload.name);
        blessed += &format!("{} {each:.0}\n", workload.name);
    }
    if is_blessed {
        std::fs::write(CEILINGS, blessed).with_context(|| format!("cannot write {CEILINGS}"))?;
        return Ok(true);
    }
    if !all_below {
        eprintln!("instructions: more than {CEILINGS} allows; find out why, or bless it");
    }
    Ok(all_below)
}

/// Instructions of a process that does one workload so many times.
fn count(name: &str, rounds: usize) -> anyhow::Result<u64> {
    let own = std::env::current_exe()?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(Path::new(&own))
        .args(["--run", name, &rounds.to_string()])
        .output()?;
    let text = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("valgrind failed on {name}:\n{text}");
    }
    let line = text.lines().find_map(|line| line.split_once("Collected :"));
    let collected = line.and_then(|(_, number)| number.trim().parse().ok());
    collected.ok_or_else(|| anyhow!("valgrind printed no sum for {name}:\n{text}"))
}

fn ceiling(text: &str, name: &str) -> Option<f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let mut pairs = lines.filter_map(|line| line.split_once(' '));
    pairs.find_map(|(key, number)| (key == name).then(|| number.trim().parse().ok()).flatten())
}

fn scan_request(rounds: usize) {
    let (mut scanner, limits, input) = (RequestScanner::default(), Limits::default(), rig::get());
    for _ in 0..rounds {
        black_box(rig::scan_requests(&mut scanner, &limits, black_box(&input)));
    }
}

fn scan_reply(rounds: usize) {
    let (mut scanner, input) = (ReplyScanner::default(), rig::bulk(64));
    for _ in 0..rounds {
        black_box(rig::scan_replies(&mut scanner, black_box(&input)));
    }
}

fn look_up(rounds: usize) {
    let table = Table::builtin();
    rig::with_command(&rig::get(), |command| {
        for _ in 0..rounds {
            black_box(rig::look_up(&table, black_box(command)).map(|spec| spec.id));
        }
    });
}

fn find_slot(rounds: usize) {
    for _ in 0..rounds {
        black_box(slot::slot(black_box(b"user:000000012345:tag")));
    }
}

fn round(rounds: usize, pipeline: usize) {
    let mut rig = rig::Rig::new();
    let commands = rig::get().repeat(pipeline);
    let replies = rig::bulk(64).repeat(pipeline);
    for _ in 0..rounds {
        black_box(rig.round(black_box(&commands), black_box(&replies)));
    }
}

fn cluster_gets(rounds: usize, pipeline: usize) {
    let mut cluster = rig::cluster::Cluster::new();
    let (commands, replies) = (rig::cluster::gets(pipeline), rig::bulk(64).repeat(pipeline));
    for _ in 0..rounds {
        black_box(cluster.round(black_box(&commands), black_box(&replies)));
    }
}

fn cluster_mget(rounds: usize, width: usize) {
    let mut cluster = rig::cluster::Cluster::new();
    let (command, replies) = (rig::cluster::mget(width), rig::cluster::parts(width));
    assert!(cluster.round(&command, &replies) > width * 64, "the parts do not fit their keys");
    for _ in 0..rounds {
        black_box(cluster.round(black_box(&command), black_box(&replies)));
    }
}

/// What stands above the ceilings.
const HEAD: &str = "\
# Instructions per GET, counted by `cargo bench --bench instructions` and held there: 3 % more fail.
# Counted with Rust 1.95 on x86-64; another compiler may need other numbers. Written by `-- --bless`.
";
