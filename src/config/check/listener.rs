//! Judges `[[listener]]` and `--listen`: addresses, TLS, users, limits.
//!
//! Owns the default listener, the default `auth` (SEMANTICS §5.2), and what `--listen` does to a file that has
//! listeners. Never quotes a password or its hash (INV-11).
//!
//! What surprises: `--listen` replaces addresses and nothing else. A file's single listener lends its TLS and users
//! to every address of the flag, and with several the flag is refused: an address must not lose its
//! users because somebody moved it from the command line.

use super::super::complaint::Fault;
use super::super::file::{WrittenLimits, WrittenListener, WrittenServerTls, WrittenUser};
use super::super::quantity::{Size, Time};
use super::super::{Auth, ListenAddress, ListenerSettings, ServerTls, UserSettings, address, sha256};
use super::{Checker, LISTEN, Place, one_of};
use crate::resp::limits::{
    ARGUMENTS_CEILING, BULK_BYTES_CEILING, INLINE_BYTES_CEILING, Limits, REQUEST_BYTES_CEILING,
};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use toml::Spanned;

/// Where a sidecar listens if nobody says otherwise: Redis's own port, on this machine only.
const DEFAULT_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 6379);
/// Most clients of one listener; each costs a file descriptor and a few hundred bytes.
const CLIENTS_MAX: usize = 1_000_000;
/// Most permission bits of a socket file: reading and writing by anyone; no set-id, no sticky bit.
const MODE_MAX: u32 = 0o777;

/// The listeners of all layers, each with the place of its address.
///
/// `has_identity`: the upstream has credentials, which decides the default of `auth`.
pub(super) fn check(
    checker: &mut Checker,
    flags: &[String],
    written: &[Spanned<WrittenListener>],
    has_identity: bool,
    request_bytes_max: usize,
) -> Vec<(ListenerSettings, Place)> {
    let mut listeners = Vec::new();
    if flags.is_empty() {
        for listener in written {
            let mut settings = listener_settings(checker, listener, has_identity, request_bytes_max);
            let Some(place) = own_address(checker, listener, &mut settings) else { continue };
            listeners.push((settings, place));
        }
        if written.is_empty() {
            let nothing = Spanned::new(0..0, WrittenListener::default());
            let settings = listener_settings(checker, &nothing, has_identity, request_bytes_max);
            listeners.push((settings, Place::Flag(LISTEN)));
        }
    } else {
        let plain = Spanned::new(0..0, WrittenListener::default());
        let place = Place::Flag(LISTEN);
        if written.len() > 1 {
            let hint = "leave out --listen, or keep one [[listener]], whose TLS and users it will use";
            let what = format!("cannot replace the addresses of {} listeners of the file", written.len());
            checker.complain(&place, Fault::new(what, hint));
        }
        let template = written.first().unwrap_or(&plain);
        let settings = listener_settings(checker, template, has_identity, request_bytes_max);
        for text in flags {
            let Some(address) = checker.keep(&place, address::listen(text.trim())) else { continue };
            let mode = template.get_ref().mode.as_ref();
            let address = with_mode(checker, address, mode);
            listeners.push((ListenerSettings { address, ..settings.clone() }, place.clone()));
        }
    }
    for (listener, place) in &listeners {
        no_tls_on_unix(checker, listener, place);
        note_open_door(checker, listener, place);
    }
    listeners
}

/// Complains about two listeners, or a listener and the admin server, on one address.
pub(super) fn distinct(
    checker: &mut Checker,
    listeners: &[(ListenerSettings, Place)],
    admin: Option<SocketAddr>,
) {
    for (index, (listener, place)) in listeners.iter().enumerate() {
        let earlier = listeners.iter().take(index).map(|(earlier, _)| &earlier.address);
        let is_taken = earlier.into_iter().any(|earlier| is_same(earlier, &listener.address));
        let is_admin = admin.is_some_and(|admin| is_same(&ListenAddress::Tcp(admin), &listener.address));
        let user = match (is_taken, is_admin) {
            (true, _) => "another listener has",
            (_, true) => "the admin server has",
            _ => continue,
        };
        let what = format!("{user} the address {} already", listener.address);
        checker.complain(place, Fault::new(what, "choose another port"));
    }
}

/// Port 0 is a different port each time; the mode of a socket file is no part of its name.
fn is_same(one: &ListenAddress, other: &ListenAddress) -> bool {
    match (one, other) {
        (ListenAddress::Tcp(one), ListenAddress::Tcp(other)) => one == other && one.port() != 0,
        (ListenAddress::Unix { path: one, .. }, ListenAddress::Unix { path: other, .. }) => one == other,
        _ => false,
    }
}

/// Everything but the address, which is the default one.
fn listener_settings(
    checker: &mut Checker,
    written: &Spanned<WrittenListener>,
    has_identity: bool,
    request_bytes_max: usize,
) -> ListenerSettings {
    let (place, listener) = (Place::File(written.span()), written.get_ref());
    let tls = listener.tls.as_ref().and_then(|tls| server_tls(checker, tls));
    let auth = auth(checker, &place, listener, has_identity);
    let client_max = checker.bounded("client_max", &listener.client_max, 1..=CLIENTS_MAX);
    let idle = listener.client_idle_timeout.get_ref().0;
    let day = Time::secs(86_400);
    let client_timeout = listener.client_timeout.as_ref();
    let client_timeout = client_timeout.map(|key| checker.bounded("client_timeout", key, Time::ms(1)..=day).0);
    ListenerSettings {
        address: ListenAddress::Tcp(DEFAULT_ADDRESS),
        tls,
        auth,
        client_max,
        client_idle_timeout: (!idle.is_zero()).then_some(idle),
        client_timeout,
        limits: limits(checker, &listener.limits, request_bytes_max),
    }
}

/// Sets the address that the file gives, and says where that stands; `None` if there is none that can be used.
fn own_address(
    checker: &mut Checker,
    written: &Spanned<WrittenListener>,
    settings: &mut ListenerSettings,
) -> Option<Place> {
    let Some(text) = &written.get_ref().address else {
        let fault = Fault::new("the listener has no address", "add address = \"127.0.0.1:6379\"");
        checker.miss(&Place::File(written.span()), fault);
        return None;
    };
    let place = Place::File(text.span());
    let address = checker.keep(&place, address::listen(text.get_ref()))?;
    let mode = written.get_ref().mode.as_ref();
    if let (ListenAddress::Tcp(_), Some(mode)) = (&address, mode) {
        let fault = Fault::new("mode is for unix sockets only", "remove it");
        checker.complain(&Place::File(mode.span()), fault);
    }
    settings.address = with_mode(checker, address, mode);
    Some(place)
}

fn with_mode(checker: &mut Checker, address: ListenAddress, mode: Option<&Spanned<String>>) -> ListenAddress {
    let (ListenAddress::Unix { path, .. }, Some(text)) = (&address, mode) else { return address };
    let is_octal = text.get_ref().bytes().all(|byte| matches!(byte, b'0'..=b'7'));
    match u32::from_str_radix(text.get_ref(), 8) {
        Ok(mode) if is_octal && mode <= MODE_MAX => ListenAddress::Unix { path: path.clone(), mode },
        _ => {
            let what = format!("'{}' is not the mode of a socket", text.get_ref());
            let fault = Fault::new(what, "write three octal digits, as in \"0660\"");
            checker.complain(&Place::File(text.span()), fault);
            address
        }
    }
}

fn server_tls(checker: &mut Checker, written: &Spanned<WrittenServerTls>) -> Option<ServerTls> {
    let table = written.get_ref();
    let cert = checker.path("cert", table.cert.as_ref());
    let key = checker.path("key", table.key.as_ref());
    let client_ca = checker.path("client_ca", table.client_ca.as_ref());
    if table.cert.is_none() || table.key.is_none() {
        let fault = Fault::new("a listener with TLS needs a certificate and its key", "set cert and key");
        checker.miss(&Place::File(written.span()), fault);
    }
    Some(ServerTls { cert: cert?, key: key?, client_ca })
}

fn no_tls_on_unix(checker: &mut Checker, listener: &ListenerSettings, place: &Place) {
    if listener.tls.is_some() && matches!(listener.address, ListenAddress::Unix { .. }) {
        let fault = Fault::new("a unix socket does not speak TLS", "protect it with mode, or listen on TCP");
        checker.complain(place, fault);
    }
}

/// Reachable from other machines, no password, no client certificate, and the upstream's identity for everybody.
fn note_open_door(checker: &mut Checker, listener: &ListenerSettings, place: &Place) {
    let ListenAddress::Tcp(address) = listener.address else { return };
    let asks_for_certificate = listener.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
    if listener.auth == Auth::Upstream && !address.ip().is_loopback() && !asks_for_certificate {
        let what = format!("{address} gives everybody who can reach it the upstream's identity");
        checker.note(place, Fault::new(what, "set users, a client_ca, or listen on 127.0.0.1"));
    }
}

/// The rule of SEMANTICS §5.2: users if there are any, else the URL's identity, else whoever the upstream accepts.
fn auth(checker: &mut Checker, place: &Place, listener: &WrittenListener, has_identity: bool) -> Auth {
    let users = users(checker, &listener.user);
    let Some(word) = &listener.auth else {
        return match (listener.user.is_empty(), has_identity) {
            (false, _) => Auth::Users(users),
            (true, true) => Auth::Upstream,
            (true, false) => Auth::Passthrough,
        };
    };
    let auth = match word.get_ref().as_str() {
        "users" => Auth::Users(users),
        "passthrough" => Auth::Passthrough,
        "upstream" => Auth::Upstream,
        other => {
            let fault = one_of("kind of auth", other, &["users", "passthrough", "upstream"]);
            checker.complain(&Place::File(word.span()), fault);
            return Auth::Passthrough;
        }
    };
    let is_users = matches!(auth, Auth::Users(_));
    if is_users && listener.user.is_empty() {
        let fault = Fault::new("auth is \"users\" and there are none", "add a [[listener.user]]");
        checker.miss(&Place::File(word.span()), fault);
    }
    if let (false, Some(user)) = (is_users, listener.user.first()) {
        let what = format!("auth is \"{}\", so nobody asks for this user", word.get_ref());
        let place = if user.span().is_empty() { place.clone() } else { Place::File(user.span()) };
        checker.complain(&place, Fault::new(what, "write auth = \"users\", or remove the users"));
    }
    auth
}

fn users(checker: &mut Checker, written: &[Spanned<WrittenUser>]) -> Vec<UserSettings> {
    let mut users: Vec<UserSettings> = Vec::new();
    for user in written {
        let (place, user) = (Place::File(user.span()), user.get_ref());
        let Some(name) = &user.name else {
            checker.miss(&place, Fault::new("the user has no name", "add name = \"app\""));
            continue;
        };
        // As Redis's `ACLStringHasSpaces`: neither blanks nor zero bytes.
        let is_name = |name: &str| !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c == '\0');
        let name_place = Place::File(name.span());
        if !is_name(name.get_ref()) {
            let fault = Fault::new("a user's name is one word", "write it without blanks");
            checker.complain(&name_place, fault);
        }
        if users.iter().any(|other| other.name == *name.get_ref()) {
            let what = format!("there is a user '{}' already", name.get_ref());
            checker.complain(&name_place, Fault::new(what, "keep one, with all its passwords"));
        }
        let passwords = user.passwords.iter().filter_map(|text| password(checker, text)).collect();
        match (user.passwords.is_empty(), user.nopass) {
            (true, false) => {
                let fault = Fault::new("nobody can be this user: it has no password", "add passwords, or nopass = true");
                checker.miss(&name_place, fault);
            }
            (false, true) => {
                let fault = Fault::new("the user has passwords and nopass", "keep one of the two");
                checker.complain(&name_place, fault);
            }
            _ => {}
        }
        users.push(UserSettings { name: name.get_ref().clone(), password_sha256: passwords, nopass: user.nopass });
    }
    users
}

/// A password as in an ACL file: `#` and the SHA-256 in hex, or `>` and the password itself.
fn password(checker: &mut Checker, text: &Spanned<String>) -> Option<[u8; 32]> {
    let place = Place::File(text.span());
    let cure = "write # and the 64 hex digits of: printf %s PASSWORD | sha256sum";
    if let Some(clear) = text.get_ref().strip_prefix('>') {
        if clear.is_empty() {
            checker.complain(&place, Fault::new("the password is empty", cure));
            return None;
        }
        checker.note(&place, Fault::new("a password stands here in clear text", cure));
        return Some(sha256(clear.as_bytes()));
    }
    let hash = text.get_ref().strip_prefix('#').and_then(hex);
    if hash.is_none() {
        checker.complain(&place, Fault::new("this is not the hash of a password", cure));
    }
    hash
}

/// 64 hex digits, either case, as 32 bytes.
fn hex(text: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> = text.chars().map(|c| c.to_digit(16).map(|d| d as u8)).collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect();
    if digits.len() == 64 { bytes.try_into().ok() } else { None }
}

/// Each at most its ceiling; a request is also at most what all may hold together, or it could never be read.
fn limits(checker: &mut Checker, written: &WrittenLimits, request_bytes_max: usize) -> Limits {
    let up_to = |ceiling| Size(1)..=Size(ceiling);
    let request_bytes = checker.bounded("request_bytes", &written.request_bytes, up_to(REQUEST_BYTES_CEILING)).0;
    Limits {
        bulk_bytes: checker.bounded("bulk_bytes", &written.bulk_bytes, up_to(BULK_BYTES_CEILING)).0,
        arguments: checker.bounded("arguments", &written.arguments, 1..=ARGUMENTS_CEILING),
        inline_bytes: checker.bounded("inline_bytes", &written.inline_bytes, up_to(INLINE_BYTES_CEILING)).0,
        request_bytes: request_bytes.min(request_bytes_max),
    }
}
