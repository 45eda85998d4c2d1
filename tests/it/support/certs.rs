//! Certificates made for one test, and TLS clients that use them.
//!
//! Owns an authority, a pair for a server called `localhost` (and 127.0.0.1) and one for a client, as PEM files.
//! Never touches the system's roots: a client of these tests trusts this authority and nobody else.
//!
//! What surprises: a second [`Certificates`] is a stranger to the first, which is how tests get a wrong one.

use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::process::Folder;

/// `ca.pem`, `server.pem`, `server.key`, `client.pem` and `client.key` in a folder.
pub(crate) struct Certificates(Folder);

// === impl Certificates ===

impl Certificates {
    pub(crate) fn new() -> Self {
        let folder = Folder::new();
        let mut params = named("an authority", Vec::new());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key can be made");
        let authority = CertifiedIssuer::self_signed(params, key).expect("it signs itself");
        folder.write("ca.pem", authority.pem());
        let server = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        for (name, subjects) in [("server", server), ("client", vec!["client".to_owned()])] {
            let key = KeyPair::generate().expect("a key can be made");
            let params = named(name, subjects);
            let cert = params.signed_by(&key, &authority).expect("the authority signs");
            folder.write(&format!("{name}.pem"), cert.pem());
            folder.write(&format!("{name}.key"), key.serialize_pem());
        }
        Self(folder)
    }

    /// Path of one of the files.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A client that trusts the authority, with the client's certificate if wished.
    pub(crate) fn client(&self, has_certificate: bool) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        for certificate in self.certificates("ca.pem") {
            roots.add(certificate).expect("the authority is an authority");
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring knows TLS 1.2 and 1.3")
            .with_root_certificates(roots);
        let config = if has_certificate {
            let key = PrivateKeyDer::from_pem_file(self.path("client.key")).expect("a key");
            builder.with_client_auth_cert(self.certificates("client.pem"), key).expect("a pair")
        } else {
            builder.with_no_client_auth()
        };
        Arc::new(config)
    }

    fn certificates(&self, name: &str) -> Vec<CertificateDer<'static>> {
        let file = CertificateDer::pem_file_iter(self.path(name)).expect("the file is there");
        file.map(|certificate| certificate.expect("it is a certificate")).collect()
    }
}

/// OpenSSL takes a certificate that is called as its issuer for one that has signed itself.
fn named(name: &str, subjects: Vec<String>) -> CertificateParams {
    let mut params = CertificateParams::new(subjects).expect("the names are valid");
    params.distinguished_name.push(DnType::CommonName, name);
    params
}
