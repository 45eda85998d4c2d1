//! Judges who we are to the upstream: the user and the password of the URL, or of the keys beside it.
//!
//! Owns the three keys of a password, of which a file may have one. Reads neither variables nor files: that is
//! done for every dial, and said there. Never quotes a password or the URL that holds it (INV-11).
//!
//! What surprises: when a flag's URL brings a password, the file's user is not used with it. The two belong to
//! different identities, and mixing them would end in a WRONGPASS that nobody can explain.

use super::super::file::WrittenUpstream;
use super::super::{Credentials, Secret};
use super::upstream::Url;
use super::{Checker, Place};
use crate::log::Redacted;
use std::path::PathBuf;
use toml::Spanned;

/// The identity of all layers; `None`: the user `default` without a password.
pub(super) fn credentials(
    checker: &mut Checker,
    written: &WrittenUpstream,
    url: &Url,
) -> Option<Credentials> {
    let of_key = password_key(checker, written);
    let of_url = url.url.as_ref().and_then(|url| url.password.clone());
    let url_user = url.url.as_ref().and_then(|url| url.user.clone());
    if url.is_in_file() {
        once(checker, "password", of_url.is_some(), of_key.as_ref().map(|(_, key)| *key));
        once(checker, "user", url_user.is_some(), written.user.as_ref());
    }
    let key_user = || written.user.as_ref().map(|user| user.get_ref().clone());
    let (user, password) = match (of_url, of_key) {
        // A password of a URL that a flag gave belongs to the user of that URL, not to one of the file.
        (Some(password), _) if !url.is_in_file() => (url_user, Some(Secret::Inline(password))),
        (Some(password), _) => (url_user.or_else(key_user), Some(Secret::Inline(password))),
        (None, of_key) => (url_user.or_else(key_user), of_key.map(|(secret, _)| secret)),
    };
    if user.is_some() && password.is_none() {
        let place = written.user.as_ref().map_or(url.place.clone(), Place::from);
        let hint = "add it to the URL, or set password_file, password_env or password \
                    under [upstream]";
        checker.miss(&place, "the upstream's user has no password", hint);
    }
    // An empty user is Redis's `default`, to whom AUTH with the password alone speaks.
    let user = user.filter(|user| !user.is_empty());
    password.map(|password| Credentials { user, password })
}

/// Complains if a key repeats what the URL of the same file says.
fn once(checker: &mut Checker, subject: &str, is_in_url: bool, key: Option<&Spanned<String>>) {
    if let Some(key) = key.filter(|_| is_in_url) {
        let what = format!("the {subject} stands in the URL as well");
        checker.complain(key, what, "write it once");
    }
}

/// The one password key of the file, with its place. Two of them are a complaint.
fn password_key<'a>(
    checker: &mut Checker,
    written: &'a WrittenUpstream,
) -> Option<(Secret, &'a Spanned<String>)> {
    // Each kind of key with the way to read it. No closure captures anything, so they are of one type.
    type ToSecret = fn(String) -> Secret;
    let kinds: [(&'a Option<Spanned<String>>, ToSecret); 3] = [
        (&written.password, |text| Secret::Inline(Redacted::new(text))),
        (&written.password_env, Secret::Env),
        (&written.password_file, |path| Secret::File(PathBuf::from(path))),
    ];
    let mut given = kinds.iter().filter_map(|(key, to_secret)| Some((key.as_ref()?, to_secret)));
    let (key, to_secret) = given.next()?;
    for (extra, _) in given {
        let hint = "keep one of password, password_env and password_file";
        checker.complain(extra, "the upstream's password is given twice", hint);
    }
    if key.get_ref().is_empty() {
        checker.complain(key, "the upstream's password is empty", "remove the key");
    }
    let secret = to_secret(key.get_ref().clone());
    expands_nothing(checker, &secret, key);
    Some((secret, key))
}

/// Catches the notations of shells and other tools, which would otherwise be taken literally and fail at the dial.
fn expands_nothing(checker: &mut Checker, secret: &Secret, key: &Spanned<String>) {
    match secret {
        Secret::Inline(text) if text.expose().starts_with("${") => {
            let hint = "to take it from a variable, write password_env = \"NAME\"";
            checker.complain(key, "password does not expand variables", hint);
        }
        Secret::Env(name) if name.contains(['$', '=', '\0']) => {
            let hint = "write the name alone, as in password_env = \"REDIS_PASSWORD\"";
            checker.complain(key, "password_env is not the name of a variable", hint);
        }
        _ => {}
    }
}
