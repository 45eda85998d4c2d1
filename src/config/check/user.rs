//! Judges `[[listener.user]]`: names and passwords, in the manner of Redis's ACL files.
//!
//! Owns the two spellings of a password: `#` with the SHA-256 in hex, and `>` with the password itself, which is
//! hashed here and kept nowhere. Never quotes either (INV-11); a complaint about one shows its place only.
//!
//! What surprises: a clear-text password is accepted with a note, because refusing it would only move it into a
//! start script.

use super::super::file::WrittenUser;
use super::super::table::Table;
use super::super::{UserSettings, sha256};
use super::Checker;
use toml::Spanned;

/// How to write a password.
const CURE: &str = "write # and the 64 hex digits of: printf %s PASSWORD | sha256sum";

/// The users of one listener, in the order of the file.
pub(super) fn users(
    checker: &mut Checker,
    written: &[Spanned<Table<WrittenUser>>],
) -> Vec<UserSettings> {
    let mut users: Vec<UserSettings> = Vec::new();
    for place in written {
        let user = place.get_ref();
        let Some(name) = &user.name else {
            checker.miss(place, "the user has no name", "add name = \"app\"");
            continue;
        };
        if !is_name(name.get_ref()) {
            checker.complain(name, "a user's name is one word", "write it without blanks");
        }
        if users.iter().any(|other| other.name == *name.get_ref()) {
            let what = format!("there is a user '{}' already", name.get_ref());
            checker.complain(name, what, "keep one, with all its passwords");
        }
        users.push(UserSettings {
            name: name.get_ref().clone(),
            password_sha256: passwords(checker, name, user),
            nopass: user.nopass,
        });
    }
    users
}

/// As Redis's `ACLStringHasSpaces`: neither blanks nor zero bytes, for no ACL rule could name such a user.
fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c == '\0')
}

/// The passwords of a user, of which there must be one exactly if it is not `nopass`.
fn passwords(checker: &mut Checker, name: &Spanned<String>, user: &WrittenUser) -> Vec<[u8; 32]> {
    match (user.passwords.is_empty(), user.nopass) {
        (true, false) => {
            let what = "nobody can be this user: it has no password";
            checker.miss(name, what, "add passwords, or nopass = true");
        }
        // In Redis the later of the two wins; a table has no later.
        (false, true) => {
            checker.complain(name, "the user has passwords and nopass", "keep one of the two");
        }
        _ => {}
    }
    user.passwords.iter().filter_map(|text| password(checker, text)).collect()
}

/// A password as in an ACL file: `#` and the SHA-256 in hex, or `>` and the password itself.
fn password(checker: &mut Checker, text: &Spanned<String>) -> Option<[u8; 32]> {
    if let Some(clear) = text.get_ref().strip_prefix('>') {
        if clear.is_empty() {
            checker.complain(text, "the password is empty", CURE);
            return None;
        }
        checker.note(text, "a password stands here in clear text", CURE);
        return Some(sha256(clear.as_bytes()));
    }
    let hash = text.get_ref().strip_prefix('#').and_then(hex);
    if hash.is_none() {
        checker.complain(text, "this is not the hash of a password", CURE);
    }
    hash
}

/// 64 hex digits, either case, as 32 bytes. (Redis takes lower case only; tools print both.)
fn hex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    let mut digits = text.chars().map(|c| c.to_digit(16));
    for byte in &mut bytes {
        let (high, low) = (digits.next()??, digits.next()??);
        // Two hex digits make at most 255.
        *byte = (high * 16 + low) as u8;
    }
    digits.next().is_none().then_some(bytes)
}
