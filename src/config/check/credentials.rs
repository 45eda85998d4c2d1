//! Judges who we are to the upstream: the user and the password of the URL, or of the keys beside it.
//!
//! Owns the three keys of a password, of which a file may have one, for Redis and again for its Sentinels. Reads neither variables nor files: that is
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

/// Who we are to the Sentinels. Without keys of their own: nobody. The password of Redis is not shown to whoever answers
/// at a Sentinel's address.
pub(super) fn of_sentinels(
    checker: &mut Checker,
    written: &WrittenUpstream,
    url: &Url,
) -> Option<Credentials> {
    let password = one_of_three(
        checker,
        [
            ("sentinel_password", &written.sentinel_password),
            ("sentinel_password_env", &written.sentinel_password_env),
            ("sentinel_password_file", &written.sentinel_password_file),
        ],
    );
    let user = written.sentinel_user.as_ref();
    if let Some(key) = user.or(password.as_ref().map(|(_, key)| *key))
        && url.url.is_some()
        && !url.is_sentinel()
    {
        let hint = "remove it, or write redis-sentinel:// in the URL";
        checker.complain(key, "this upstream has no Sentinels", hint);
    }
    if let Some(key) = user.filter(|_| password.is_none()) {
        let hint = "set sentinel_password_file, sentinel_password_env or sentinel_password";
        checker.complain(key, "sentinel_user has no password", hint);
    }
    let user = user.map(|user| user.get_ref().clone()).filter(|user| !user.is_empty());
    password.map(|(password, _)| Credentials { user, password })
}

/// The one password key for Redis, with its place.
fn password_key<'a>(
    checker: &mut Checker,
    written: &'a WrittenUpstream,
) -> Option<(Secret, &'a Spanned<String>)> {
    let keys = [
        ("password", &written.password),
        ("password_env", &written.password_env),
        ("password_file", &written.password_file),
    ];
    one_of_three(checker, keys)
}

/// A password that is written, that a variable has, or that a file has, by the names of these keys and in this order.
/// Two of them are a complaint.
fn one_of_three<'a>(
    checker: &mut Checker,
    keys: [(&str, &'a Option<Spanned<String>>); 3],
) -> Option<(Secret, &'a Spanned<String>)> {
    // Each kind of key with the way to read it. No closure captures anything, so they are of one type.
    type ToSecret = fn(String) -> Secret;
    let readers: [ToSecret; 3] = [
        |text| Secret::Inline(Redacted::new(text)),
        Secret::Env,
        |path| Secret::File(PathBuf::from(path)),
    ];
    let [inline, env, file] = keys.map(|(name, _)| name);
    let mut given =
        keys.iter().zip(readers).filter_map(|((_, key), reader)| Some((key.as_ref()?, reader)));
    let (key, to_secret) = given.next()?;
    for (extra, _) in given {
        let hint = format!("keep one of {inline}, {env} and {file}");
        checker.complain(extra, "the upstream's password is given twice", hint);
    }
    if key.get_ref().is_empty() {
        checker.complain(key, "the upstream's password is empty", "remove the key");
    }
    let secret = to_secret(key.get_ref().clone());
    expands_nothing(checker, &secret, key, env);
    Some((secret, key))
}

/// Catches the notations of shells and other tools, which would otherwise be taken literally and fail at the dial.
fn expands_nothing(checker: &mut Checker, secret: &Secret, key: &Spanned<String>, env: &str) {
    match secret {
        Secret::Inline(text) if text.expose().starts_with("${") => {
            let hint = format!("to take it from a variable, write {env} = \"NAME\"");
            checker.complain(key, "password does not expand variables", hint);
        }
        Secret::Env(name) if name.contains(['$', '=', '\0']) => {
            let hint = format!("write the name alone, as in {env} = \"REDIS_PASSWORD\"");
            checker.complain(key, format!("{env} is not the name of a variable"), hint);
        }
        _ => {}
    }
}
