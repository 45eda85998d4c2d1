//! Parse the command line, load settings, serve; errors become exit codes.
//!
//! Owns the process's exit codes: 0 for success, 1 for a configuration or start that failed or a critical finding of
//! `doctor`, 2 for a command line that cannot be understood (by clap) or an upstream that `doctor` cannot reach. Never
//! serves by itself.
//!
//! What surprises: a configuration's complaints are written to stderr one a line, as a compiler does, so that
//! editors and CI can jump to them.

use std::io;
use std::process::ExitCode;

use breakwater::allocator::{ALLOCATOR as ALLOCATOR_CHOICE, Allocator};
use breakwater::cli::{self, Command, RunFlags};
use breakwater::config::Settings;
use breakwater::doctor::{self, Diagnosis};
use breakwater::{explain, log, server};

#[global_allocator]
static ALLOCATOR: Allocator = ALLOCATOR_CHOICE;

fn main() -> io::Result<ExitCode> {
    let is_fine = match cli::parse().command {
        Command::Run(flags) => run(&flags)?,
        Command::Check(flags) => cli::check(&flags.files, &mut io::stdout().lock())?,
        Command::Explain(flags) => explain::run(&flags, &mut io::stdout().lock())?,
        Command::Doctor(flags) => match doctor::run(&flags, &mut io::stdout().lock())? {
            Diagnosis::Well => true,
            Diagnosis::Critical => false,
            Diagnosis::Unreached => return Ok(ExitCode::from(2)),
        },
    };
    Ok(if is_fine { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run(flags: &RunFlags) -> io::Result<bool> {
    let settings = match Settings::load(flags) {
        Ok(settings) => settings,
        Err(complaints) => {
            cli::report(&complaints, &mut io::stderr().lock())?;
            return Ok(false);
        }
    };
    let result = log::init(&settings.log).map_err(anyhow::Error::from);
    if let Err(error) = result.and_then(|()| server::run(flags, settings)) {
        eprintln!("breakwater: {error:#}");
        return Ok(false);
    }
    Ok(true)
}
