//! Reading a script from a file, for `breakwater check`.
//!
//! Owns what a reader of CI's log is told. Never judges: [`super::lint`] does, the same as for a script
//! that comes over the wire. What surprises: a script that the server would not compile is an error
//! here, because nobody else tells before it is rolled out.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::SCRIPT_BYTES_MAX;
use super::lint::{Finding, lint};
use crate::config::{Complaint, Fault};

/// What is wrong with the script in a file, and what deserves a word.
#[must_use]
pub fn examine(file: &Path) -> (Vec<Complaint>, Vec<Complaint>) {
    let path = file.display().to_string();
    let source = match read(file) {
        Ok(source) => source,
        Err(error) => {
            let fault = Fault::new(format!("cannot be read: {error}"), "");
            return (vec![Complaint::about(path, fault)], Vec::new());
        }
    };
    if source.len() > SCRIPT_BYTES_MAX {
        let what = format!("longer than {SCRIPT_BYTES_MAX} bytes: it is not looked into");
        return (Vec::new(), vec![Complaint::about(path, Fault::new(what, ""))]);
    }
    let complaint = |finding: Finding| {
        Complaint::in_file(path.clone(), finding.position, Fault::from_text(&finding.text))
    };
    let (errors, notes): (Vec<Finding>, Vec<Finding>) =
        lint(&source).findings.into_iter().partition(|finding| finding.fault.is_error());
    (errors.into_iter().map(complaint).collect(), notes.into_iter().map(complaint).collect())
}

/// As much of it as could be looked into, and a byte more.
fn read(file: &Path) -> io::Result<Vec<u8>> {
    let mut source = Vec::new();
    File::open(file)?.take(SCRIPT_BYTES_MAX as u64 + 1).read_to_end(&mut source)?;
    Ok(source)
}
