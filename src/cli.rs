//! The command line: subcommands, flags, and the commands that need no server.
//!
//! Owns the contract of the flags and their `BREAKWATER_*` variables, and `check`. A flag is kept as it was
//! written: `config/check` reads it together with the file, so that all complaints come at once and in one form.
//! Never prints the value of the upstream's flag or variable, because a URL holds a password (INV-11).
//!
//! What surprises: an empty value counts as absent, since templates of deployments leave variables empty.

use crate::clock;
use crate::config::Complaint;
use crate::config::check::{NoUpstream, examine};
use crate::governor;
use crate::policy::{self, file::Clock};
use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};
use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A Redis-protocol sidecar: one local address, a safe and fast path to Redis.
#[derive(Parser)]
#[command(name = "breakwater", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

// The first lines of these docs are the help that clap prints, so they have no full stop there.
/// What to do.
#[derive(Subcommand)]
pub enum Command {
    /// Serve clients until SIGTERM
    Run(RunFlags),
    /// Validate files; print file:line:column of every complaint, exit 1 if there is one
    Check(CheckFlags),
    /// Say what would happen to a command, by which rule, and where it would go
    Explain(ExplainFlags),
    /// Look for what is amiss behind, with the repair; exit 1 if it is critical, 2 if nothing answers
    Doctor(DoctorFlags),
}

/// Flags of `run`, as written; a flag wins over its variable, both win over the file.
#[derive(Args, Clone, Default)]
pub struct RunFlags {
    /// The configuration file, TOML; without one, flags and defaults suffice
    #[arg(long, value_name = "FILE", env = "BREAKWATER_CONFIG", value_parser = path())]
    pub config: Option<PathBuf>,
    /// Where clients connect: 127.0.0.1:6379, [::1]:6379 or unix:/PATH; repeat it or separate by commas
    #[arg(long, value_name = "ADDR", env = "BREAKWATER_LISTEN", value_delimiter = ',')]
    pub listen: Vec<String>,
    /// The Redis behind: redis://[USER:PASSWORD@]HOST:PORT[/DB], rediss://… or unix:/PATH
    #[arg(long, value_name = "URL", env = "BREAKWATER_UPSTREAM", hide_env_values = true)]
    pub upstream: Option<String>,
    /// Data-plane threads: a number, or auto for one a core
    #[arg(long, value_name = "N|auto", env = "BREAKWATER_WORKERS")]
    pub workers: Option<String>,
    /// How much of the policy is enforced: guard, observe or open
    #[arg(long, value_name = "PROFILE", env = "BREAKWATER_PROFILE")]
    pub profile: Option<String>,
    /// The policy file, TOML
    #[arg(long, value_name = "FILE", env = "BREAKWATER_POLICY", value_parser = path())]
    pub policy: Option<PathBuf>,
    /// Where /metrics, /healthz and /readyz are served, or off
    #[arg(long, value_name = "ADDR|off", env = "BREAKWATER_ADMIN")]
    pub admin: Option<String>,
    /// What is logged: a level, or a filter such as info,breakwater::upstream=debug
    #[arg(long, value_name = "LEVEL", env = "BREAKWATER_LOG")]
    pub log: Option<String>,
    /// How it is logged: text or json
    #[arg(long, value_name = "FORMAT", env = "BREAKWATER_LOG_FORMAT")]
    pub log_format: Option<String>,
    /// After SIGTERM, how long commands in flight are waited for, as in 10s
    #[arg(long, value_name = "TIME", env = "BREAKWATER_DRAIN_TIMEOUT")]
    pub drain_timeout: Option<String>,
}

/// Flags of `check`. Variables do not count: a file is judged by what is in it.
#[derive(Args, Clone)]
pub struct CheckFlags {
    /// Configuration files, policy files, and scripts that end in .lua
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
}

/// Flags of `explain`.
#[derive(Args, Clone)]
pub struct ExplainFlags {
    /// The policy file, TOML
    #[arg(long, value_name = "FILE", env = "BREAKWATER_POLICY", value_parser = path())]
    pub policy: Option<PathBuf>,
    /// The configuration file, TOML
    #[arg(long, value_name = "FILE", env = "BREAKWATER_CONFIG", value_parser = path())]
    pub config: Option<PathBuf>,
    /// How much of the policy is enforced: guard (as without this flag), observe or open
    #[arg(long, value_name = "PROFILE", env = "BREAKWATER_PROFILE")]
    pub profile: Option<String>,
    /// Ask the proxy that runs with this admin address, by its own policy; it does not send the command
    #[arg(long, value_name = "ADDR")]
    pub running: Option<String>,
    /// The Redis behind; it is asked nothing
    #[arg(long, value_name = "URL", env = "BREAKWATER_UPSTREAM", hide_env_values = true)]
    pub upstream: Option<String>,
    /// Which of several upstreams the command is for; the default one without this flag
    #[arg(long, value_name = "NAME")]
    pub upstream_name: Option<String>,
    /// The command and its arguments, behind --
    #[arg(value_name = "COMMAND", required = true, last = true)]
    pub command: Vec<OsString>,
}

/// Flags of `doctor`.
#[derive(Args, Clone)]
pub struct DoctorFlags {
    /// The configuration file, TOML
    #[arg(long, value_name = "FILE", env = "BREAKWATER_CONFIG", value_parser = path())]
    pub config: Option<PathBuf>,
    /// The Redis behind, as for run
    #[arg(long, value_name = "URL", env = "BREAKWATER_UPSTREAM", hide_env_values = true)]
    pub upstream: Option<String>,
    /// Look at one of several upstreams; at all without this flag
    #[arg(long, value_name = "NAME")]
    pub upstream_name: Option<String>,
    /// Write an object for machines instead of a page
    #[arg(long)]
    pub json: bool,
}

/// Reads the process's arguments and variables. Ends the process itself for `--help`, `--version` (status 0)
/// and for a command line that cannot be understood (status 2).
#[must_use]
pub fn parse() -> Cli {
    Cli::parse().without_blanks()
}

/// Judges each file and writes every complaint and note, one a line. True if all files are valid: exit 0, else 1.
///
/// # Errors
/// If `out` cannot be written.
pub fn check(files: &[PathBuf], out: &mut impl Write) -> io::Result<bool> {
    let mut are_valid = true;
    for file in files {
        are_valid &= check_file(file, out)?;
    }
    Ok(are_valid)
}

fn check_file(file: &Path, out: &mut impl Write) -> io::Result<bool> {
    if file.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("lua")) {
        let (complaints, notes) = governor::check::examine(file);
        return publish(file, &complaints, notes, out);
    }
    if policy::file::is_policy(file) {
        let (complaints, notes) = match policy::file::load(file, Clock::at(clock::micros())) {
            Ok(rules) => (Vec::new(), rules.notes),
            Err(complaints) => (complaints, Vec::new()),
        };
        return publish(file, &complaints, notes, out);
    }
    let flags = RunFlags { config: Some(file.to_owned()), ..RunFlags::default() };
    let findings = examine(&flags, NoUpstream::IsNoted);
    publish(file, &findings.complaints, findings.notes, out)
}

/// Writes what was found in a file. True if it is valid.
fn publish(
    file: &Path,
    complaints: &[Complaint],
    notes: Vec<Complaint>,
    out: &mut impl Write,
) -> io::Result<bool> {
    report(complaints, out)?;
    for note in notes {
        // A note about an absent flag is still about this file.
        let path = note.position.map_or_else(|| file.display().to_string(), |_| note.path.clone());
        let what = format!("note: {}", note.what);
        writeln!(out, "{}", Complaint { path, what, ..note })?;
    }
    if complaints.is_empty() {
        writeln!(out, "{}: valid", file.display())?;
    }
    Ok(complaints.is_empty())
}

/// Writes complaints, one a line: what `check` does, and `run` before it gives up.
///
/// # Errors
/// If `out` cannot be written.
pub fn report(complaints: &[Complaint], out: &mut impl Write) -> io::Result<()> {
    complaints.iter().try_for_each(|complaint| writeln!(out, "{complaint}"))
}

/// clap's own parser of paths refuses an empty variable; here it is absent, as any other.
fn path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

// === impl Cli ===

impl Cli {
    /// The same with empty values absent.
    fn without_blanks(mut self) -> Self {
        match &mut self.command {
            Command::Run(flags) => flags.drop_blanks(),
            Command::Explain(flags) => {
                drop_blank_path(&mut flags.policy);
                drop_blank_path(&mut flags.config);
                drop_blank(&mut flags.upstream);
                drop_blank(&mut flags.profile);
            }
            Command::Doctor(flags) => {
                drop_blank_path(&mut flags.config);
                drop_blank(&mut flags.upstream);
            }
            Command::Check(_) => {}
        }
        self
    }
}

// === impl RunFlags ===

impl RunFlags {
    fn drop_blanks(&mut self) {
        drop_blank_path(&mut self.config);
        drop_blank_path(&mut self.policy);
        self.listen.retain(|address| !address.trim().is_empty());
        let texts = [
            &mut self.upstream,
            &mut self.workers,
            &mut self.profile,
            &mut self.admin,
            &mut self.log,
            &mut self.log_format,
            &mut self.drain_timeout,
        ];
        texts.into_iter().for_each(drop_blank);
    }
}

fn drop_blank(text: &mut Option<String>) {
    text.take_if(|text| text.trim().is_empty());
}

fn drop_blank_path(path: &mut Option<PathBuf>) {
    path.take_if(|path| path.as_os_str().is_empty());
}

// === impl DoctorFlags ===

impl DoctorFlags {
    /// The layers that `Settings::load` would join for a `run` with these flags.
    #[must_use]
    pub fn run_flags(&self) -> RunFlags {
        let Self { config, upstream, .. } = self.clone();
        RunFlags { config, upstream, ..RunFlags::default() }
    }
}

// === impl ExplainFlags ===

impl ExplainFlags {
    /// The layers that `Settings::load` or `check::examine` would join for a `run` with these flags.
    #[must_use]
    pub fn run_flags(&self) -> RunFlags {
        let Self { policy, config, upstream, profile, .. } = self.clone();
        RunFlags { policy, config, upstream, profile, ..RunFlags::default() }
    }

    /// The command as bytes, because keys need not be UTF-8; at least its name.
    #[must_use]
    pub fn arguments(&self) -> Vec<Vec<u8>> {
        self.command.iter().map(|argument| argument.as_bytes().to_vec()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::scratch::Folder;
    use clap::CommandFactory;

    fn parse_from(line: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("breakwater").chain(line.iter().copied()))
            .map(Cli::without_blanks)
    }

    fn run(line: &[&str]) -> RunFlags {
        match parse_from(&[&["run"], line].concat()).map(|cli| cli.command) {
            Ok(Command::Run(flags)) => flags,
            _ => panic!("{line:?}"),
        }
    }

    #[test]
    fn the_definition_of_the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_of_run_has_its_variable() {
        let command = Cli::command();
        let run = command.find_subcommand("run").unwrap();
        for argument in run.get_arguments().filter(|argument| argument.get_id() != "help") {
            let name = argument.get_long().unwrap().to_ascii_uppercase().replace('-', "_");
            let variable = argument.get_env().map(|name| name.to_str().unwrap());
            assert_eq!(variable, Some(format!("BREAKWATER_{name}").as_str()));
        }
    }

    #[test]
    fn flags_are_kept_as_written() {
        let flags = run(&[
            "--listen",
            "a,b",
            "--listen",
            "unix:/c",
            "--workers",
            "many",
            "--drain-timeout",
            "1s",
        ]);
        assert_eq!(flags.listen, ["a", "b", "unix:/c"]);
        assert_eq!(flags.workers.as_deref(), Some("many"));
        assert_eq!(flags.drain_timeout.as_deref(), Some("1s"));
    }

    #[test]
    fn empty_values_count_as_absent() {
        let flags =
            run(&["--listen", "", "--upstream", "", "--config", "", "--policy=", "--log", " "]);
        assert!(flags.listen.is_empty() && flags.upstream.is_none() && flags.config.is_none());
        assert!(flags.policy.is_none() && flags.log.is_none());
    }

    #[test]
    fn explain_takes_the_command_behind_two_dashes() {
        let line = ["explain", "--upstream", "redis://h", "--", "HGETALL", "--config"];
        let Ok(Command::Explain(flags)) = parse_from(&line).map(|cli| cli.command) else {
            panic!()
        };
        assert_eq!(flags.arguments(), [b"HGETALL".to_vec(), b"--config".to_vec()]);
        assert_eq!(flags.run_flags().upstream.as_deref(), Some("redis://h"));
        assert!(parse_from(&["explain"]).is_err());
        assert!(parse_from(&["explain", "--"]).is_err());
    }

    #[test]
    fn lines_that_mean_nothing_are_refused() {
        for line in [
            &[][..],
            &["serve"],
            &["run", "--unknown"],
            &["check"],
            &["run", "extra"],
            &["doctor", "x"],
        ] {
            assert!(parse_from(line).is_err(), "{line:?}");
        }
    }

    #[test]
    fn check_prints_complaints_of_every_file_and_says_which_are_valid() {
        let folder = Folder::new();
        let good = folder.write("good.toml", "[upstream]\nurl = \"redis://h\"\n");
        let bad = folder.write("bad.toml", "wrokers = 2\nadmin = \"no\"\n");
        let none = folder.path("none.toml");
        let mut out = Vec::new();
        assert!(!check(&[good.clone(), bad.clone(), none.clone()], &mut out).unwrap());
        let out = String::from_utf8(out).unwrap();
        let lines: Vec<&str> = out.lines().collect();
        assert_eq!(lines[0], format!("{}: valid", good.display()));
        assert_eq!(
            lines[1],
            format!("{}:1:1: 'wrokers' is not a key; did you mean 'workers'?", bad.display())
        );
        assert!(
            lines[2].starts_with(&format!("{}:2:9: 'no' is not an address", bad.display())),
            "{out}"
        );
        assert!(lines[3].starts_with(&format!("{}: cannot be read: ", none.display())), "{out}");
        assert_eq!(lines.len(), 4, "{out}");
        let mut out = Vec::new();
        assert!(check(&[good], &mut out).unwrap());
    }

    #[test]
    fn check_reads_scripts_as_well() {
        let folder = Folder::new();
        let bad = folder.write("bad.lua", "local x = 1\nwhile true do\nend\n");
        let slow = folder.write("slow.LUA", "for i = 1, 3 do\n  redis.call('KEYS', 'x*')\nend\n");
        let broken = folder.write("broken.lua", "x = 'abc\n");
        let none = folder.path("none.lua");
        let files = [bad.clone(), slow.clone(), broken.clone(), none.clone()];
        let mut out = Vec::new();
        assert!(!check(&files, &mut out).unwrap());
        let out = String::from_utf8(out).unwrap();
        let lines: Vec<&str> = out.lines().collect();
        let starts = [
            format!("{}:2:1: loop without end", bad.display()),
            format!("{}:2:3: note: KEYS in a loop", slow.display()),
            format!("{}: valid", slow.display()),
            format!("{}:1:5: this string has no end", broken.display()),
            format!("{}: cannot be read: ", none.display()),
        ];
        assert_eq!(lines.len(), starts.len(), "{out}");
        for (line, start) in lines.iter().zip(starts) {
            assert!(line.starts_with(&start), "{line}");
        }
        assert!(check(&[slow], &mut Vec::new()).unwrap(), "a note is no error");
    }

    #[test]
    fn check_tells_a_policy_from_a_configuration_by_what_is_in_it() {
        let folder = Folder::new();
        let rule = "[[rule]]\nname = \"r\"\naction = \"deny\"\n";
        let good = folder.write("rules.toml", rule);
        let empty = folder.write("policy-empty.toml", "");
        let bad = folder.write("policy.toml", "[[rule]]\nname = \"r\"\naction = \"den\"\n");
        let mixed = folder.write("mixed.toml", format!("workers = 2\n{rule}"));
        let mut out = Vec::new();
        assert!(!check(&[good.clone(), empty.clone(), bad.clone(), mixed], &mut out).unwrap());
        let out = String::from_utf8(out).unwrap();
        let lines: Vec<&str> = out.lines().collect();
        assert_eq!(lines[0], format!("{}: valid", good.display()));
        assert_eq!(lines[1], format!("{}: valid", empty.display()));
        assert!(lines[2].starts_with(&format!("{}:3:10: 'den' is not", bad.display())), "{out}");
        assert!(lines[3].contains("mixed.toml:2:3: 'rule' is not a key; rules stand"), "{out}");
    }

    #[test]
    fn check_notes_a_file_without_an_upstream_and_accepts_it() {
        let folder = Folder::new();
        let file = folder.write("f.toml", "workers = 2\n");
        let mut out = Vec::new();
        assert!(check(std::slice::from_ref(&file), &mut out).unwrap());
        let out = String::from_utf8(out).unwrap();
        assert!(
            out.starts_with(&format!("{}: note: no upstream is named", file.display())),
            "{out}"
        );
    }
}
