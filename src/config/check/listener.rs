//! Judges `[[listener]]` and `--listen`: addresses, TLS, users, limits.
//!
//! Owns the default listener, the default `auth`, and what `--listen` does to a file that has
//! listeners. Never quotes a password or its hash (INV-11).
//!
//! What surprises: `--listen` replaces addresses and nothing else. A file's single listener lends its TLS and
//! users to every address of the flag, and with several the flag is refused: an address must not lose its
//! users because somebody moved it from the command line.

use super::super::file::{WrittenLimits, WrittenListener, WrittenPubsub, WrittenServerTls};
use super::super::quantity::{DAY, MILLISECOND, Size, ZERO};
use super::super::table::Table;
use super::super::{
    Announced, Auth, ListenAddress, ListenerSettings, PubsubSettings, ServerTls, address,
};
use super::user::users;
use super::{Checker, LISTEN, PEM, Place, one_of, upstreams};
use crate::resp::limits::{
    ARGUMENTS_CEILING, BULK_BYTES_CEILING, INLINE_BYTES_CEILING, Limits, REQUEST_BYTES_CEILING,
};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use toml::Spanned;

/// Where a sidecar listens if nobody says otherwise: Redis's own port, on this machine only.
const DEFAULT_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 6379);
/// Most clients of one listener; each costs a file descriptor and a few hundred bytes.
const CLIENTS_MAX: usize = 1_000_000;
/// Most subscriptions that one client may be allowed.
const SUBSCRIPTIONS_MAX: usize = 10_000_000;
/// Most permission bits of a socket file: everything for everybody; no set-id, no sticky bit.
const MODE_MAX: u32 = 0o777;

/// What the rest of the configuration says to a listener.
#[derive(Clone, Copy)]
pub(super) struct Surroundings<'a> {
    /// The names of all upstreams.
    pub(super) upstreams: &'a [&'a str],
    /// Those that have credentials, which decides the default of `auth`.
    pub(super) identified: &'a [&'a str],
    /// Request bytes that all sessions may hold together; one request is at most that.
    pub(super) request_bytes_total: usize,
}

/// A listener with the place of its address, for complaints that concern two of them.
pub(super) type Placed = (ListenerSettings, Place);

/// The listeners of all layers.
pub(super) fn check(
    checker: &mut Checker,
    flags: &[String],
    written: &[Spanned<Table<WrittenListener>>],
    around: Surroundings<'_>,
) -> Vec<Placed> {
    let listeners = if flags.is_empty() {
        of_file(checker, written, around)
    } else {
        of_flags(checker, flags, written, around)
    };
    for (listener, place) in &listeners {
        no_tls_on_unix(checker, listener, place);
        note_open_door(checker, listener, place);
    }
    listeners
}

/// The listeners of the file, or the default one if it has none.
fn of_file(
    checker: &mut Checker,
    written: &[Spanned<Table<WrittenListener>>],
    around: Surroundings<'_>,
) -> Vec<Placed> {
    let mut listeners = Vec::new();
    for listener in written {
        // Judged before its address, so that one without an address is still judged whole.
        let settings = without_address(checker, listener, around);
        if let Some((address, place)) = own_address(checker, listener) {
            listeners.push((ListenerSettings { address, ..settings }, place));
        }
    }
    if written.is_empty() {
        let nothing = Spanned::new(0..0, Table::default());
        listeners.push((without_address(checker, &nothing, around), Place::Flag(LISTEN)));
    }
    listeners
}

/// The addresses of the flag, each with everything else that the file's listener says.
fn of_flags(
    checker: &mut Checker,
    flags: &[String],
    written: &[Spanned<Table<WrittenListener>>],
    around: Surroundings<'_>,
) -> Vec<Placed> {
    let place = Place::Flag(LISTEN);
    if written.len() > 1 {
        // Which of them would lend its users? Guessing wrong opens a door.
        let what =
            format!("cannot replace the addresses of {} listeners of the file", written.len());
        let hint = "leave out --listen, or keep one [[listener]], whose TLS and users it will use";
        checker.complain(&place, what, hint);
    }
    let plain = Spanned::new(0..0, Table::default());
    let template = written.first().unwrap_or(&plain);
    let settings = without_address(checker, template, around);
    let mut listeners = Vec::new();
    for text in flags {
        if let Some(address) = checker.keep(&place, address::listen(text.trim())) {
            let address = with_mode(checker, address, template.get_ref().mode.as_ref());
            listeners.push((ListenerSettings { address, ..settings.clone() }, place.clone()));
        }
    }
    listeners
}

/// Complains about two listeners, or a listener and the admin server, on one address.
pub(super) fn distinct(checker: &mut Checker, listeners: &[Placed], admin: Option<SocketAddr>) {
    let admin = admin.map(ListenAddress::Tcp);
    for (index, (listener, place)) in listeners.iter().enumerate() {
        let is_mine = |other: &ListenAddress| is_same(other, &listener.address);
        // Only the earlier ones: of two alike, the second is to blame, once.
        let is_taken = listeners.iter().take(index).any(|(earlier, _)| is_mine(&earlier.address));
        let user = match (is_taken, admin.as_ref().is_some_and(is_mine)) {
            (true, _) => "another listener has",
            (_, true) => "the admin server has",
            _ => continue,
        };
        let what = format!("{user} the address {} already", listener.address);
        checker.complain(place, what, "choose another port");
    }
}

/// Port 0 is a different port each time; the mode of a socket file is no part of its name.
fn is_same(one: &ListenAddress, other: &ListenAddress) -> bool {
    use ListenAddress::{Tcp, Unix};
    match (one, other) {
        (Tcp(one), Tcp(other)) => one == other && one.port() != 0,
        (Unix { path: one, .. }, Unix { path: other, .. }) => one == other,
        _ => false,
    }
}

/// Everything of a listener but its address, which is the default one.
fn without_address(
    checker: &mut Checker,
    written: &Spanned<Table<WrittenListener>>,
    around: Surroundings<'_>,
) -> ListenerSettings {
    let listener = written.get_ref();
    // Any length is allowed: zero never closes, a year is as good as never.
    let idle = listener.client_idle_timeout.get_ref().0;
    let timeout = listener.client_timeout.as_ref();
    let upstream = upstreams::of_listener(checker, listener, around.upstreams);
    let has_identity = around.identified.contains(&upstream.as_str());
    ListenerSettings {
        address: ListenAddress::Tcp(DEFAULT_ADDRESS),
        upstream,
        tls: listener.tls.as_ref().and_then(|tls| server_tls(checker, tls)),
        auth: auth(checker, listener, has_identity),
        client_max: checker.bounded("client_max", &listener.client_max, 1..=CLIENTS_MAX),
        client_idle_timeout: (!idle.is_zero()).then_some(idle),
        announce: announced(checker, listener.announce.as_ref()),
        client_timeout: timeout.map(|key| checker.time("client_timeout", key, MILLISECOND..=DAY)),
        pubsub: pubsub(checker, &listener.pubsub),
        limits: limits(checker, &listener.limits, around.request_bytes_total),
    }
}

/// Where clients are told to find us; checked like any address that is to be dialled, because they will dial it.
/// Whether it leads here nobody can know from inside: a forwarded port is open to others than us.
fn announced(checker: &mut Checker, written: Option<&Spanned<String>>) -> Option<Announced> {
    let text = written?;
    checker.keep(text, address::announced(text.get_ref()))
}

/// The address that the file gives, and where it stands; `None` if there is none that can be used.
fn own_address(
    checker: &mut Checker,
    written: &Spanned<Table<WrittenListener>>,
) -> Option<(ListenAddress, Place)> {
    let Some(text) = &written.get_ref().address else {
        // No default here: two tables without an address would be two listeners on one port.
        let hint = "add address = \"127.0.0.1:6379\"";
        checker.miss(written, "the listener has no address", hint);
        return None;
    };
    let address = checker.keep(text, address::listen(text.get_ref()))?;
    let mode = written.get_ref().mode.as_ref();
    // Whoever writes a mode beside a port believes that it protects something.
    if let (ListenAddress::Tcp(_), Some(mode)) = (&address, mode) {
        checker.complain(mode, "mode is for unix sockets only", "remove it");
    }
    Some((with_mode(checker, address, mode), text.into()))
}

/// A unix socket's address with the mode that the file gives; a TCP address as it is.
fn with_mode(
    checker: &mut Checker,
    address: ListenAddress,
    mode: Option<&Spanned<String>>,
) -> ListenAddress {
    let (ListenAddress::Unix { path, .. }, Some(text)) = (&address, mode) else {
        return address;
    };
    // Octal digits only: `from_str_radix` alone would take a sign.
    let is_octal = text.get_ref().bytes().all(|byte| matches!(byte, b'0'..=b'7'));
    match u32::from_str_radix(text.get_ref(), 8) {
        Ok(mode) if is_octal && mode <= MODE_MAX => {
            let path = path.clone();
            ListenAddress::Unix { path, mode }
        }
        _ => {
            let what = format!("'{}' is not the mode of a socket", text.get_ref());
            checker.complain(text, what, "write three octal digits, as in \"0660\"");
            address
        }
    }
}

/// `[listener.tls]`; `None` if the pair is not complete, which has been said.
fn server_tls(
    checker: &mut Checker,
    written: &Spanned<Table<WrittenServerTls>>,
) -> Option<ServerTls> {
    let table = written.get_ref();
    let cert = checker.path("cert", table.cert.as_ref(), PEM);
    let key = checker.path("key", table.key.as_ref(), PEM);
    let client_ca = checker.path("client_ca", table.client_ca.as_ref(), PEM);
    if table.cert.is_none() || table.key.is_none() {
        let what = "a listener with TLS needs a certificate and its key";
        checker.miss(written, what, "set cert and key");
    }
    Some(ServerTls { cert: cert?, key: key?, client_ca })
}

/// As Redis, which has no TLS on its unix socket either: no client library could use it.
fn no_tls_on_unix(checker: &mut Checker, listener: &ListenerSettings, place: &Place) {
    if listener.tls.is_some() && matches!(listener.address, ListenAddress::Unix { .. }) {
        let hint = "protect it with mode, or listen on TCP";
        checker.complain(place, "a unix socket does not speak TLS", hint);
    }
}

/// Warns of a listener that is reachable from other machines, asks for no password and no certificate, and
/// gives everybody the upstream's identity. It may be meant, behind a network policy; so it is no complaint.
fn note_open_door(checker: &mut Checker, listener: &ListenerSettings, place: &Place) {
    let ListenAddress::Tcp(address) = listener.address else {
        return;
    };
    let asks_for_certificate = listener.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
    if listener.auth == Auth::Upstream && !address.ip().is_loopback() && !asks_for_certificate {
        let what = format!("{address} gives everybody who can reach it the upstream's identity");
        checker.note(place, what, "set users, a client_ca, or listen on 127.0.0.1");
    }
}

/// The rule: users if there are any, else the URL's identity, else whoever the upstream accepts.
fn auth(checker: &mut Checker, listener: &WrittenListener, has_identity: bool) -> Auth {
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
            let known = ["users", "passthrough", "upstream"];
            checker.keep::<()>(word, Err(one_of("kind of auth", other, &known)));
            return Auth::Passthrough;
        }
    };
    let is_users = matches!(auth, Auth::Users(_));
    if is_users && listener.user.is_empty() {
        checker.miss(word, "auth is \"users\" and there are none", "add a [[listener.user]]");
    }
    // Users that nobody asks for look like a lock on the door; they are not left standing there.
    if let (false, Some(user)) = (is_users, listener.user.first()) {
        let what = format!("auth is \"{}\", so nobody asks for this user", word.get_ref());
        checker.complain(user, what, "write auth = \"users\", or remove the users");
    }
    auth
}

/// A soft limit above the hard one would never be reached.
fn pubsub(checker: &mut Checker, written: &WrittenPubsub) -> PubsubSettings {
    let (hard, soft) = (&written.buffer_hard_bytes, &written.buffer_soft_bytes);
    let most = Size(1 << 40);
    let settings = PubsubSettings {
        buffer_hard_bytes: checker.size("buffer_hard_bytes", hard, Size(0)..=most),
        buffer_soft_bytes: checker.size("buffer_soft_bytes", soft, Size(0)..=most),
        buffer_soft_time: checker.time("buffer_soft_time", &written.buffer_soft_time, ZERO..=DAY),
        subscriptions: checker.bounded(
            "subscriptions",
            &written.subscriptions,
            1..=SUBSCRIPTIONS_MAX,
        ),
        subscription_bytes: checker.size(
            "subscription_bytes",
            &written.subscription_bytes,
            Size(1 << 10)..=most,
        ),
    };
    if hard.get_ref().0 > 0 && soft > hard {
        let (hard, soft) = (hard.get_ref(), soft.get_ref());
        let what = format!("buffer_soft_bytes ({soft}) is more than buffer_hard_bytes ({hard})");
        let place = Place::either(&written.buffer_soft_bytes, &written.buffer_hard_bytes);
        checker.complain(&place, what, "a client above the hard limit is closed at once");
    }
    settings
}

/// Each at most its ceiling; a request is also at most what all may hold together, or it could never be read.
fn limits(checker: &mut Checker, written: &WrittenLimits, total: usize) -> Limits {
    let up_to = |ceiling| Size(1)..=Size(ceiling);
    let request = up_to(REQUEST_BYTES_CEILING);
    let inline = up_to(INLINE_BYTES_CEILING);
    Limits {
        bulk_bytes: checker.size("bulk_bytes", &written.bulk_bytes, up_to(BULK_BYTES_CEILING)),
        arguments: checker.bounded("arguments", &written.arguments, 1..=ARGUMENTS_CEILING),
        inline_bytes: checker.size("inline_bytes", &written.inline_bytes, inline),
        request_bytes: checker.size("request_bytes", &written.request_bytes, request).min(total),
    }
}
