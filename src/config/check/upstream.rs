//! Judges `[upstream]` and `--upstream`: address, credentials, TLS, renamed commands, clocks.
//!
//! Owns how the URL and the keys beside it are joined: a URL from a flag replaces the one of the file; its user,
//! password and database win over the file's keys; the other keys stay. Never quotes a password or a URL (INV-11).
//!
//! What surprises: two answers to one question within the same file are a complaint and not a precedence,
//! because whoever reads the file sees only one of them.

use super::super::address::{self, UpstreamUrl};
use super::super::file::{WrittenClientTls, WrittenUpstream};
use super::super::quantity::Time;
use super::super::{ClientTls, Credentials, Endpoint, Fault, Secret, UpstreamSettings};
use super::{Checker, NoUpstream, Place, UPSTREAM};
use crate::cli::RunFlags;
use crate::log::Redacted;
use std::collections::BTreeMap;
use std::path::PathBuf;
use toml::Spanned;

/// The upstream of all layers. `None` if there is none or it is wrong; either has been said.
pub(super) fn check(
    checker: &mut Checker,
    flags: &RunFlags,
    written: WrittenUpstream,
    no_upstream: NoUpstream,
) -> Option<UpstreamSettings> {
    let (url, place) = match (&flags.upstream, &written.url) {
        (Some(url), _) => (Some(url.as_str()), Place::Flag(UPSTREAM)),
        (None, Some(url)) => (Some(url.get_ref().as_str()), Place::File(url.span())),
        (None, None) => (None, Place::Flag(UPSTREAM)),
    };
    let url = match url {
        Some(url) => checker.keep(&place, address::upstream(url)),
        None => {
            absent(checker, &place, no_upstream);
            None
        }
    };
    // The keys are judged even if the URL is wrong or absent.
    let db = database(checker, &written, url.as_ref(), &place);
    let tls = client_tls(checker, written.tls.as_ref(), url.as_ref());
    let credentials = credentials(checker, &written, url.as_ref(), &place);
    let renamed = renamed(checker, &written.renamed);
    let second = Time::secs(1);
    let (hour, minute) = (Time::secs(3_600), Time::secs(60));
    let fast = checker.bounded("reply_deadline_fast", &written.reply_deadline_fast, Time::ms(1)..=hour);
    let slow = checker.bounded("reply_deadline_slow", &written.reply_deadline_slow, Time::ms(1)..=hour);
    if slow < fast {
        let what = format!("reply_deadline_slow ({slow}) is less than reply_deadline_fast ({fast})");
        let span = super::either_span(&written.reply_deadline_slow, &written.reply_deadline_fast);
        checker.complain(&Place::File(span), Fault::new(what, "give slow commands at least as long"));
    }
    let lanes_max = checker.bounded("lanes_max", &written.lanes_max, 1..=64);
    let connect = checker.bounded("connect_timeout", &written.connect_timeout, Time::ms(1)..=minute);
    let retry = checker.bounded("retry_window", &written.retry_window, Time::ms(0)..=minute);
    let keepalive = checker.bounded("keepalive", &written.keepalive, second..=Time::secs(7_200));
    let unacknowledged = checker.bounded("user_timeout", &written.user_timeout, Time::ms(100)..=Time::secs(600));
    let idle = checker.bounded("lane_idle", &written.lane_idle, second..=Time::secs(86_400));
    Some(UpstreamSettings {
        endpoint: url?.endpoint,
        db,
        tls,
        credentials,
        renamed,
        lanes_max,
        reply_deadline_fast: fast.0,
        reply_deadline_slow: slow.0,
        connect_timeout: connect.0,
        retry_window: retry.0,
        keepalive: keepalive.0,
        user_timeout: unacknowledged.0,
        lane_idle: idle.0,
    })
}

fn absent(checker: &mut Checker, place: &Place, no_upstream: NoUpstream) {
    let hint = "write --upstream redis://HOST:6379, set BREAKWATER_UPSTREAM, or put \
                url = \"redis://HOST:6379\" under [upstream] of the file";
    match no_upstream {
        NoUpstream::IsWrong => checker.miss(place, Fault::new("no upstream is named", hint)),
        NoUpstream::IsNoted if checker.is_whole => {
            let hint = "a flag or a variable must name it when this file is run";
            checker.note(place, Fault::new("no upstream is named", hint));
        }
        NoUpstream::IsNoted => {}
    }
}

/// True if the URL stands in the same file as the keys, where two answers are one too many.
fn is_in_file(place: &Place) -> bool {
    matches!(place, Place::File(_))
}

fn database(
    checker: &mut Checker,
    written: &WrittenUpstream,
    url: Option<&UpstreamUrl>,
    place: &Place,
) -> u32 {
    let of_url = url.and_then(|url| url.db);
    let Some(key) = &written.db else { return of_url.unwrap_or(0) };
    let db = checker.bounded("db", key, 0..=i32::MAX as u32);
    if of_url.is_some() && is_in_file(place) {
        let fault = Fault::new("the database stands in the URL as well", "write it once");
        checker.complain(&Place::File(key.span()), fault);
    }
    of_url.unwrap_or(db)
}

fn client_tls(
    checker: &mut Checker,
    written: Option<&Spanned<WrittenClientTls>>,
    url: Option<&UpstreamUrl>,
) -> Option<ClientTls> {
    let is_tls = url.is_some_and(|url| url.is_tls);
    let Some(table) = written else { return is_tls.then(ClientTls::default) };
    let place = Place::File(table.span());
    if let Some(url) = url.filter(|url| !url.is_tls) {
        let hint = match url.endpoint {
            Endpoint::Tcp { .. } => "write rediss:// in the URL, or remove [upstream.tls]",
            Endpoint::Unix(_) => "a unix socket needs no TLS; remove [upstream.tls]",
        };
        checker.complain(&place, Fault::new("[upstream.tls] is set, but the URL asks for plain text", hint));
    }
    let table = table.get_ref();
    if table.cert.is_some() != table.key.is_some() {
        let fault = Fault::new("cert and key of [upstream.tls] go together", "set both, or neither");
        checker.miss(&place, fault);
    }
    let server_name = table.server_name.as_ref();
    if let Some(name) = server_name.filter(|name| !crate::tls::is_server_name(name.get_ref())) {
        let fault = Fault::new("server_name is neither a DNS name nor an IP address", "write it without a port");
        checker.complain(&Place::File(name.span()), fault);
    }
    let mut path = |key: &str, value: &Option<Spanned<String>>| checker.path(key, value.as_ref());
    Some(ClientTls {
        ca: path("ca", &table.ca),
        cert: path("cert", &table.cert),
        key: path("key", &table.key),
        server_name: server_name.map(|name| name.get_ref().clone()),
    })
}

fn credentials(
    checker: &mut Checker,
    written: &WrittenUpstream,
    url: Option<&UpstreamUrl>,
    place: &Place,
) -> Option<Credentials> {
    let of_key = password_key(checker, written);
    let of_url = url.and_then(|url| url.password.clone());
    if let (Some((_, span)), Some(_)) = (&of_key, &of_url)
        && is_in_file(place)
    {
        let fault = Fault::new("the password stands in the URL as well", "write it once");
        checker.complain(span, fault);
    }
    let url_user = url.and_then(|url| url.user.clone());
    if let (Some(key), Some(_)) = (&written.user, &url_user)
        && is_in_file(place)
    {
        let fault = Fault::new("the user stands in the URL as well", "write it once");
        checker.complain(&Place::File(key.span()), fault);
    }
    let user = url_user.or_else(|| written.user.as_ref().map(|user| user.get_ref().clone()));
    // A password of a URL that a flag gave belongs to the user of that URL, not to one of the file.
    let (user, password) = match of_url {
        Some(password) => {
            let user = if is_in_file(place) { user } else { url.and_then(|url| url.user.clone()) };
            (user, Some(Secret::Inline(password)))
        }
        None => (user, of_key.map(|(secret, _)| secret)),
    };
    if user.is_some() && password.is_none() {
        let place = written.user.as_ref().map_or(place.clone(), |user| Place::File(user.span()));
        let hint = "add it to the URL, or set password_file, password_env or password under [upstream]";
        checker.miss(&place, Fault::new("the upstream's user has no password", hint));
    }
    password.map(|password| Credentials { user: user.filter(|user| !user.is_empty()), password })
}

/// The one password key of the file, with its place. Two of them are a complaint.
fn password_key(checker: &mut Checker, written: &WrittenUpstream) -> Option<(Secret, Place)> {
    let WrittenUpstream { password, password_env, password_file, .. } = written;
    let inline = |text: &str| Secret::Inline(Redacted::new(text.to_owned()));
    let variable = |name: &str| Secret::Env(name.to_owned());
    let file = |path: &str| Secret::File(PathBuf::from(path));
    let given = [
        password.as_ref().map(|key| (inline(key.get_ref()), key)),
        password_env.as_ref().map(|key| (variable(key.get_ref()), key)),
        password_file.as_ref().map(|key| (file(key.get_ref()), key)),
    ];
    let mut given = given.into_iter().flatten();
    let (secret, key) = given.next()?;
    for (_, extra) in given {
        let what = "the upstream's password is given twice";
        let hint = "keep one of password, password_env and password_file";
        checker.complain(&Place::File(extra.span()), Fault::new(what, hint));
    }
    let place = Place::File(key.span());
    if key.get_ref().is_empty() {
        checker.complain(&place, Fault::new("the upstream's password is empty", "remove the key"));
    }
    match &secret {
        Secret::Inline(text) if text.expose().starts_with("${") => {
            let hint = "to take it from a variable, write password_env = \"NAME\"";
            checker.complain(&place, Fault::new("password does not expand variables", hint));
        }
        Secret::Env(name) if name.contains(['$', '=', '\0']) => {
            let hint = "write the name alone, as in password_env = \"REDIS_PASSWORD\"";
            checker.complain(&place, Fault::new("password_env is not the name of a variable", hint));
        }
        _ => {}
    }
    Some((secret, place))
}

/// Upper-case names, as commands are compared; a new name must be one word and serve one command.
fn renamed(checker: &mut Checker, written: &BTreeMap<String, Spanned<String>>) -> Vec<(String, String)> {
    let mut renamed: Vec<(String, String)> = Vec::new();
    for (command, name) in written {
        let place = Place::File(name.span());
        let is_word = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        let command = command.to_ascii_uppercase();
        // The server's name is sent as it is written: some hide a command behind a random one, which is a secret.
        if !is_word(&command) || !is_word(name.get_ref()) {
            let hint = "write COMMAND = \"name on the server\"; a command that the server disabled needs no entry";
            checker.complain(&place, Fault::new(format!("the new name of '{command}' is not one word"), hint));
        } else if renamed.iter().any(|(other, _)| *other == command) {
            checker.complain(&place, Fault::new(format!("'{command}' is renamed twice"), "keep one"));
        } else if renamed.iter().any(|(_, other)| other.eq_ignore_ascii_case(name.get_ref())) {
            let what = format!("the new name of '{command}' is that of another command");
            checker.complain(&place, Fault::new(what, "one name serves one command"));
        } else {
            renamed.push((command, name.get_ref().clone()));
        }
    }
    renamed
}
