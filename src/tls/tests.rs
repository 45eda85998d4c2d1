//! Handshakes in memory, with certificates made for the test, and the words of every error.
//!
//! Owns the authorities and pairs it needs. Never opens a socket: client and server exchange bytes in two buffers.

use super::*;
use crate::config::scratch::Folder;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{ClientConnection, HandshakeKind, ServerConnection};

/// An authority that signs the certificates of a test.
type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate for `localhost` and its key, as PEM.
fn issue(authority: &Authority) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    (params.signed_by(&key, authority).unwrap().pem(), key.serialize_pem())
}

/// An authority's files in a folder, with a pair for the server and one for the client.
struct Files {
    folder: Folder,
    authority: Authority,
}

impl Files {
    fn new() -> Self {
        let files = Self { folder: Folder::new(), authority: authority() };
        files.folder.write("ca.pem", files.authority.pem());
        files.renew("server");
        files.renew("client");
        files
    }

    /// Writes a fresh pair over the old one.
    fn renew(&self, name: &str) {
        let (cert, key) = issue(&self.authority);
        self.folder.write(&format!("{name}.pem"), cert);
        self.folder.write(&format!("{name}.key"), key);
    }

    fn server(&self, asks_for_certificate: bool) -> ServerTls {
        ServerTls {
            cert: self.folder.path("server.pem"),
            key: self.folder.path("server.key"),
            client_ca: asks_for_certificate.then(|| self.folder.path("ca.pem")),
        }
    }

    fn client(&self, has_certificate: bool) -> ClientTls {
        let file = |name| has_certificate.then(|| self.folder.path(name));
        ClientTls {
            ca: Some(self.folder.path("ca.pem")),
            cert: file("client.pem"),
            key: file("client.key"),
            server_name: Some("localhost".to_owned()),
        }
    }
}

/// Lets both sides talk until neither has anything to say, and says how the client's handshake went.
fn shake(
    client: &Arc<ClientConfig>,
    server: &Arc<ServerConfig>,
    name: &str,
) -> Result<HandshakeKind, rustls::Error> {
    let mut client = ClientConnection::new(client.clone(), parse_name(name).unwrap())?;
    let mut server = ServerConnection::new(server.clone())?;
    while client.wants_write() || server.wants_write() {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            server.process_new_packets()?;
        }
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets()?;
        }
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok(client.handshake_kind().unwrap())
}

#[test]
fn a_second_handshake_resumes_the_first() {
    let files = Files::new();
    let server = server_config(&files.server(false)).unwrap();
    let (client, name) = client_config(&files.client(false)).unwrap();
    assert_eq!(name, Some(ServerName::try_from("localhost").unwrap()));
    assert_eq!(shake(&client, &server, "localhost"), Ok(HandshakeKind::Full));
    assert_eq!(shake(&client, &server, "localhost"), Ok(HandshakeKind::Resumed));
}

#[test]
fn a_server_of_another_name_or_authority_is_not_trusted() {
    let files = Files::new();
    let server = server_config(&files.server(false)).unwrap();
    let (client, _) = client_config(&files.client(false)).unwrap();
    let error = shake(&client, &server, "redis.internal").unwrap_err();
    assert!(matches!(error, rustls::Error::InvalidCertificate(_)), "{error:?}");
    let (stranger, _) = client_config(&Files::new().client(false)).unwrap();
    let error = shake(&stranger, &server, "localhost").unwrap_err();
    assert!(matches!(error, rustls::Error::InvalidCertificate(_)), "{error:?}");
}

#[test]
fn with_a_client_ca_only_its_clients_are_let_in() {
    let files = Files::new();
    let server = server_config(&files.server(true)).unwrap();
    let (with, _) = client_config(&files.client(true)).unwrap();
    assert_eq!(shake(&with, &server, "localhost"), Ok(HandshakeKind::Full));
    let (without, _) = client_config(&files.client(false)).unwrap();
    let error = shake(&without, &server, "localhost").unwrap_err();
    assert!(matches!(error, rustls::Error::NoCertificatesPresented), "{error:?}");
    // A certificate of another authority, from a client that trusts ours.
    let strangers = Files::new();
    let (stranger, _) =
        client_config(&ClientTls { ca: files.client(false).ca, ..strangers.client(true) }).unwrap();
    assert!(shake(&stranger, &server, "localhost").is_err());
}

/// What is said about a listener's three files.
fn complaint(cert: &Path, key: &Path, ca: &Path) -> String {
    let settings = ServerTls { cert: cert.into(), key: key.into(), client_ca: Some(ca.into()) };
    server_config(&settings).unwrap_err().to_string()
}

#[test]
fn files_that_are_not_what_they_should_be_are_named_with_the_cure() {
    let files = Files::new();
    let path = |name| files.folder.path(name);
    let (cert, key, ca) = (path("server.pem"), path("server.key"), path("ca.pem"));
    let not_der = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let not_der = files.folder.write("noder", not_der);
    let pair = "use the pair as it was issued";
    let authority = "it must hold certificates of an authority";
    for (error, file, words) in [
        (complaint(&key, &cert, &ca), &key, "contains no certificate; were two files swapped?"),
        (complaint(&cert, &cert, &ca), &cert, "contains no private key"),
        (complaint(&cert, &key, &key), &key, "client_ca"),
        (complaint(&cert, &key, &not_der), &not_der, authority),
        (complaint(&not_der, &key, &ca), &not_der, pair),
        (complaint(&cert, &path("client.key"), &ca), &cert, pair),
    ] {
        assert!(error.contains(&file.display().to_string()), "{error}");
        assert!(error.contains(words), "{words}: {error}");
    }
}

#[test]
fn files_that_cannot_be_read_are_named_and_not_quoted() {
    let files = Files::new();
    let (key, ca) = (files.folder.path("server.key"), files.folder.path("ca.pem"));
    let begin = "-----BEGIN CERTIFICATE-----\n";
    let end = "-----END CERTIFICATE-----\n";
    let none = files.folder.path("none");
    let long = files.folder.write("long", vec![b'x'; PEM_BYTES_MAX + 1]);
    let cut = files.folder.write("cut", format!("{begin}AAAA\n"));
    let garbled = files.folder.write("garbled", format!("{begin}!!hunter2\n{end}"));
    for (file, words) in [
        (&none, "No such file or directory (os error 2); check the path"),
        (&long, "longer than 1048576 bytes"),
        (&cut, "not valid PEM (a section has no end)"),
        (&garbled, "not valid PEM (the base64 is broken)"),
    ] {
        let error = complaint(file, &key, &ca);
        assert!(error.contains(&file.display().to_string()), "{error}");
        assert!(error.contains(words), "{words}: {error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[test]
fn a_server_name_has_no_port() {
    let files = Files::new();
    let settings = ClientTls { server_name: Some("a:1".to_owned()), ..files.client(false) };
    let error = client_config(&settings).unwrap_err().to_string();
    let words =
        "server_name 'a:1' is neither a DNS name nor an IP address; write it without a port";
    assert_eq!(error, words);
}

#[test]
fn the_name_to_verify_is_the_configured_one_or_the_host() {
    let host = ClientTls::default();
    let named =
        ClientTls { server_name: Some("redis.internal".to_owned()), ..ClientTls::default() };
    for (settings, dialled, name) in [
        (&host, "cache-1.prod", "cache-1.prod"),
        (&host, "10.0.0.1", "10.0.0.1"),
        (&host, "::1", "::1"),
        (&named, "10.0.0.1", "redis.internal"),
    ] {
        assert_eq!(server_name_or(settings, dialled).unwrap().to_str(), name);
    }
    assert!(server_name_or(&host, "not a name").is_err());
}

#[test]
fn a_renewed_pair_is_adopted_and_a_half_written_one_is_not() {
    let files = Files::new();
    let reloader = ServerTlsReloader::try_new(files.server(false)).unwrap();
    let first = reloader.current();
    assert!(!reloader.refresh().unwrap());
    assert!(Arc::ptr_eq(&first, &reloader.current()), "nothing changed");
    // The middle of a rotation: the certificate is there, its key is not.
    let (cert, key) = issue(&files.authority);
    files.folder.write("server.pem", cert);
    let error = reloader.refresh().unwrap_err();
    assert!(matches!(error, TlsError::Pair { .. }), "{error}");
    assert!(Arc::ptr_eq(&first, &reloader.current()), "the old one stays");
    files.folder.write("server.key", key);
    assert!(reloader.refresh().unwrap());
    let second = reloader.current();
    assert!(!Arc::ptr_eq(&first, &second));
    let (client, _) = client_config(&files.client(false)).unwrap();
    assert_eq!(shake(&client, &second, "localhost"), Ok(HandshakeKind::Full));
    // A file that disappears does not take the listener with it.
    std::fs::remove_file(files.folder.path("server.pem")).unwrap();
    assert!(reloader.refresh().is_err());
    assert!(Arc::ptr_eq(&second, &reloader.current()));
}

#[test]
fn the_upstream_s_authority_and_our_certificate_are_renewed_together() {
    let files = Files::new();
    let reloader = ClientTlsReloader::try_new(files.client(true)).unwrap();
    assert!(!reloader.refresh().unwrap());
    files.renew("client");
    assert!(reloader.refresh().unwrap());
    assert!(!reloader.refresh().unwrap());
    let server = server_config(&files.server(true)).unwrap();
    assert_eq!(shake(&reloader.current(), &server, "localhost"), Ok(HandshakeKind::Full));
    assert_eq!(reloader.server_name("10.0.0.1").unwrap().to_str(), "localhost");
}

#[test]
fn without_a_ca_the_system_s_certificates_are_used() {
    // A machine may have none; then the error says what to do.
    match client_config(&ClientTls::default()) {
        Ok((_, name)) => assert_eq!(name, None),
        Err(error) => assert!(error.to_string().contains("install ca-certificates"), "{error}"),
    }
}
