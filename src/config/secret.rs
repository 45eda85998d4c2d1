//! Where a password comes from, and what holds it while it is used.
//!
//! Owns [`Secret`] (written down, in a variable, or in a file), which is read again on every dial, so that a
//! rotated password needs no restart, and [`SecretBytes`], which is wiped when dropped. Never shows a secret in
//! any output (INV-11): the errors here name the variable or the file, not what is in it.
//!
//! What surprises: one trailing line break of a file is not part of the password, because every editor and
//! `kubectl create secret --from-file` leave one; a second one is.

use crate::log::Redacted;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// Where a password comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Secret {
    /// Written in the URL or the file.
    Inline(Redacted<String>),
    /// In the environment variable of this name.
    Env(String),
    /// In the file at this path, re-read for every dial.
    File(PathBuf),
}

/// A password in memory, of any bytes, wiped when dropped. `Debug` shows nothing of it.
#[derive(PartialEq, Eq)]
pub struct SecretBytes(Vec<u8>);

/// Why a password could not be read. Never contains any of it.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The variable does not exist in this process.
    #[error("the password variable {0} is not set; set it, or name another with password_env")]
    Unset(String),
    /// The file cannot be opened or read.
    #[error("the password file {} cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The variable or file is there and holds nothing.
    #[error("the password in {0} is empty; Redis has no empty passwords")]
    Empty(String),
    /// The file is longer than any password.
    #[error("the password file {} is longer than {SECRET_BYTES_MAX} bytes; is it the right file?", .0.display())]
    TooLong(PathBuf),
}

/// Longest password file in bytes; tokens of cloud providers are below 4 KiB.
pub const SECRET_BYTES_MAX: usize = 64 * 1024;

// === impl Secret ===

impl Secret {
    /// The password as it is at this moment: variables and files are read again each time.
    ///
    /// Blocks on the file system; call it where a dial is prepared, not where commands flow.
    ///
    /// # Errors
    /// If the variable or the file is missing, unreadable, empty or absurdly long.
    pub fn read(&self) -> Result<SecretBytes, SecretError> {
        match self {
            Self::Inline(password) => Ok(SecretBytes(password.expose().clone().into_bytes())),
            Self::Env(name) => match std::env::var_os(name) {
                None => Err(SecretError::Unset(name.clone())),
                Some(value) if value.is_empty() => {
                    Err(SecretError::Empty(format!("variable {name}")))
                }
                Some(value) => Ok(SecretBytes(value.into_vec())),
            },
            Self::File(path) => read_file(path),
        }
    }
}

fn read_file(path: &PathBuf) -> Result<SecretBytes, SecretError> {
    let mut password = SecretBytes(Vec::new());
    let limit = SECRET_BYTES_MAX as u64 + 1;
    File::open(path)
        .and_then(|file| file.take(limit).read_to_end(&mut password.0))
        .map_err(|source| SecretError::Unreadable { path: path.clone(), source })?;
    if password.0.len() > SECRET_BYTES_MAX {
        return Err(SecretError::TooLong(path.clone()));
    }
    if password.0.ends_with(b"\n") {
        password.0.pop();
        if password.0.ends_with(b"\r") {
            password.0.pop();
        }
    }
    if password.0.is_empty() {
        return Err(SecretError::Empty(path.display().to_string()));
    }
    Ok(password)
}

// === impl SecretBytes ===

impl SecretBytes {
    /// The password itself, for the AUTH that is being written.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for SecretBytes {
    /// Best effort: the kernel's and the allocator's own copies (growth while reading) are out of reach.
    fn drop(&mut self) {
        self.0.fill(0);
        // Without this the compiler may see that nobody reads the zeros and leave them out.
        std::hint::black_box(&self.0);
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("<redacted>")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::scratch::Folder;

    #[test]
    fn a_password_file_is_read_again_each_time_without_its_line_break() {
        let folder = Folder::new();
        let path = folder.write("password", "first\n");
        let secret = Secret::File(path);
        assert_eq!(secret.read().unwrap().expose(), b"first");
        for (content, password) in
            [("second\r\n", "second"), ("third\n\n", "third\n"), (" f ", " f ")]
        {
            folder.write("password", content);
            assert_eq!(secret.read().unwrap().expose(), password.as_bytes());
        }
    }

    #[test]
    fn unusable_password_files_are_named_and_not_quoted() {
        let folder = Folder::new();
        let missing = folder.path("missing");
        let error = Secret::File(missing.clone()).read().unwrap_err().to_string();
        assert!(error.contains(missing.to_str().unwrap()), "{error}");
        let empty = folder.write("empty", "\n");
        assert!(matches!(Secret::File(empty).read(), Err(SecretError::Empty(_))));
        let long = folder.write("long", "x".repeat(SECRET_BYTES_MAX + 1));
        let error = Secret::File(long).read().unwrap_err();
        assert!(matches!(error, SecretError::TooLong(_)));
        assert!(!error.to_string().contains("xx"));
    }

    #[test]
    fn a_password_variable_is_read_when_it_is_needed() {
        // A variable that every test process has, so that nothing needs to be set.
        let name = "CARGO_MANIFEST_DIR";
        let value = std::env::var(name).unwrap();
        assert_eq!(Secret::Env(name.to_owned()).read().unwrap().expose(), value.as_bytes());
        let error = Secret::Env("BREAKWATER_NO_SUCH_VARIABLE".to_owned()).read().unwrap_err();
        assert!(error.to_string().contains("BREAKWATER_NO_SUCH_VARIABLE"));
    }

    #[test]
    fn neither_a_secret_nor_what_it_holds_can_be_printed() {
        let secret = Secret::Inline(Redacted::new("hunter2".to_owned()));
        let shown = format!("{secret:?} {:?}", secret.read().unwrap());
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
