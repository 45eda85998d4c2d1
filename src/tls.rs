//! TLS of both sides: configurations from PEM files, and their renewal without a restart.
//!
//! Owns the only places that name rustls' builders: ring as the provider, TLS 1.2 and 1.3, session resumption
//! on, no ALPN (Redis has none). Never touches a socket and never skips a verification; there is no switch for it.
//!
//! The reloaders read all files of a configuration, compare a hash of their content, and swap the whole
//! configuration or keep the old one. What surprises: in the middle of a rotation a certificate and its key
//! may not belong together; that is an error once, and the next refresh finds both.

use crate::config::{ClientTls, ServerTls};
use arc_swap::ArcSwap;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Longest PEM file in bytes; a bundle of every public root is a quarter of it.
pub const PEM_BYTES_MAX: usize = 1 << 20;

/// Why a TLS configuration could not be made. Every text names the file and says what to do.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file cannot be opened or read.
    #[error("{role} {}: {source}; check the path, and that this user may read it", path.display())]
    Unreadable {
        /// What the file is for.
        role: Role,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is longer than [`PEM_BYTES_MAX`].
    #[error("{role} {}: longer than {PEM_BYTES_MAX} bytes; is it the right file?", path.display())]
    TooLong {
        /// What the file is for.
        role: Role,
        /// The file.
        path: PathBuf,
    },
    /// The file is not PEM, or is cut off.
    #[error("{role} {}: not valid PEM ({reason}); convert DER with: openssl x509 -inform der", path.display())]
    NotPem {
        /// What the file is for.
        role: Role,
        /// The file.
        path: PathBuf,
        /// What the reader said.
        reason: String,
    },
    /// The file is PEM without what it is for.
    #[error("{role} {}: contains no {}; were two files swapped?", path.display(), role.content())]
    Missing {
        /// What the file is for.
        role: Role,
        /// The file.
        path: PathBuf,
    },
    /// A certificate of the file cannot be used to verify others.
    #[error("{role} {}: {reason}; it must hold certificates of an authority", path.display())]
    NotAuthority {
        /// What the file is for.
        role: Role,
        /// The file.
        path: PathBuf,
        /// What rustls said.
        reason: String,
    },
    /// Certificate and key do not belong together, or the key is of a kind that is not supported.
    #[error("certificate {} with key {}: {reason}; use the pair as it was issued, RSA, ECDSA or Ed25519", cert.display(), key.display())]
    Pair {
        /// The certificate.
        cert: PathBuf,
        /// The key.
        key: PathBuf,
        /// What rustls said.
        reason: String,
    },
    /// The system has no certificates to verify the upstream with.
    #[error(
        "the system's certificates cannot be used ({0}); install ca-certificates, or set ca in the upstream's table 'tls'"
    )]
    NoSystemRoots(String),
    /// The name to verify is neither a DNS name nor an IP address.
    #[error("server_name '{0}' is neither a DNS name nor an IP address; write it without a port")]
    ServerName(String),
    /// What should never happen with a valid provider.
    #[error("TLS: {0}")]
    Internal(String),
}

/// What a PEM file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Our certificate, with its intermediates.
    Certificate,
    /// Our private key.
    Key,
    /// The authorities that sign clients' certificates.
    ClientAuthority,
    /// The authorities that sign the upstream's certificate.
    UpstreamAuthority,
}

/// The TLS of a listener, renewed when its files change.
pub struct ServerTlsReloader {
    settings: ServerTls,
    current: ArcSwap<Adopted<ServerConfig>>,
}

/// The TLS of the upstream, renewed when its files change. The system's roots are read again at a renewal only.
/// Its clones are renewed with it: the nodes of a cluster share one.
#[derive(Clone)]
pub struct ClientTlsReloader {
    settings: ClientTls,
    current: Arc<ArcSwap<Adopted<ClientConfig>>>,
}

/// A configuration in force, and the hash of the files it was made from.
struct Adopted<C> {
    hash: [u8; 32],
    config: Arc<C>,
}

/// One file as it was read: what is hashed is what is parsed.
struct Pem {
    role: Role,
    path: PathBuf,
    content: Vec<u8>,
}

/// The configuration of a TLS listener. With `client_ca` set, a client without a certificate from there is refused.
///
/// # Errors
/// If a file cannot be read, is not what it should be, or certificate and key do not match.
pub fn server_config(settings: &ServerTls) -> Result<Arc<ServerConfig>, TlsError> {
    server_from(settings, &server_files(settings)?)
}

/// The configuration of connections to the upstream, and the name to verify if one is set (else: the URL's host).
///
/// Keep the `Arc`: it holds the sessions that later dials resume.
///
/// # Errors
/// As [`server_config`]; also if the system has no roots and no `ca` is set.
pub fn client_config(
    settings: &ClientTls,
) -> Result<(Arc<ClientConfig>, Option<ServerName<'static>>), TlsError> {
    let config = client_from(settings, &client_files(settings)?)?;
    Ok((config, server_name(settings)?))
}

/// The name that the upstream's certificate must carry: the configured one, or the host that is dialled.
///
/// # Errors
/// If it is neither a DNS name nor an IP address.
pub fn server_name_or(settings: &ClientTls, host: &str) -> Result<ServerName<'static>, TlsError> {
    match server_name(settings)? {
        Some(name) => Ok(name),
        None => parse_name(host),
    }
}

/// True for a DNS name or an IP address, without brackets and port.
#[must_use]
pub fn is_server_name(text: &str) -> bool {
    parse_name(text).is_ok()
}

fn server_name(settings: &ClientTls) -> Result<Option<ServerName<'static>>, TlsError> {
    settings.server_name.as_deref().map(parse_name).transpose()
}

fn parse_name(text: &str) -> Result<ServerName<'static>, TlsError> {
    ServerName::try_from(text.to_owned()).map_err(|_| TlsError::ServerName(text.to_owned()))
}

/// The provider is named here and never installed process-wide: tests and libraries may have others.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn server_files(settings: &ServerTls) -> Result<Vec<Pem>, TlsError> {
    let files = [
        (Role::Certificate, Some(&settings.cert)),
        (Role::Key, Some(&settings.key)),
        (Role::ClientAuthority, settings.client_ca.as_ref()),
    ];
    read_all(&files)
}

fn client_files(settings: &ClientTls) -> Result<Vec<Pem>, TlsError> {
    let files = [
        (Role::Certificate, settings.cert.as_ref()),
        (Role::Key, settings.key.as_ref()),
        (Role::UpstreamAuthority, settings.ca.as_ref()),
    ];
    read_all(&files)
}

fn server_from(settings: &ServerTls, files: &[Pem]) -> Result<Arc<ServerConfig>, TlsError> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(internal)?;
    let builder = match find(files, Role::ClientAuthority) {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let roots = Arc::new(roots(authority)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build();
            builder.with_client_cert_verifier(verifier.map_err(internal)?)
        }
    };
    let (chain, key) = pair(files)?;
    let mut config = builder.with_single_cert(chain, key).map_err(|error| TlsError::Pair {
        cert: settings.cert.clone(),
        key: settings.key.clone(),
        reason: error.to_string(),
    })?;
    // Stateless resumption. The key is new with each configuration, so a renewed client_ca is not bypassed.
    config.ticketer = ring::Ticketer::new().map_err(internal)?;
    Ok(Arc::new(config))
}

fn client_from(settings: &ClientTls, files: &[Pem]) -> Result<Arc<ClientConfig>, TlsError> {
    let roots = match find(files, Role::UpstreamAuthority) {
        Some(authority) => roots(authority)?,
        None => system_roots()?,
    };
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(internal)?
        .with_root_certificates(roots);
    let config = match (&settings.cert, &settings.key) {
        (Some(cert), Some(key)) => {
            let (chain, private) = pair(files)?;
            builder.with_client_auth_cert(chain, private).map_err(|error| TlsError::Pair {
                cert: cert.clone(),
                key: key.clone(),
                reason: error.to_string(),
            })?
        }
        // Settings are checked to have both or neither.
        _ => builder.with_no_client_auth(),
    };
    // Resumption is on by default: in memory, with tickets.
    Ok(Arc::new(config))
}

/// Certificates of the system. Some distributions carry a few that nobody can parse; one good one is enough.
fn system_roots() -> Result<RootCertStore, TlsError> {
    let loaded = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(loaded.certs);
    if usable > 0 {
        return Ok(roots);
    }
    let errors: Vec<String> = loaded.errors.iter().map(ToString::to_string).collect();
    let reason = if errors.is_empty() { "there are none".to_owned() } else { errors.join(", ") };
    Err(TlsError::NoSystemRoots(reason))
}

/// Every certificate of the file must be usable: an operator put each of them there.
fn roots(authority: &Pem) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in authority.certificates()? {
        roots.add(certificate).map_err(|error| TlsError::NotAuthority {
            role: authority.role,
            path: authority.path.clone(),
            reason: error.to_string(),
        })?;
    }
    Ok(roots)
}

/// Our chain and key, of either side.
fn pair(files: &[Pem]) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
    let absent = || TlsError::Internal("a certificate or a key is not configured".to_owned());
    let chain = find(files, Role::Certificate).ok_or_else(absent)?.certificates()?;
    let key = find(files, Role::Key).ok_or_else(absent)?.key()?;
    Ok((chain, key))
}

fn find(files: &[Pem], role: Role) -> Option<&Pem> {
    files.iter().find(|file| file.role == role)
}

fn read_all(files: &[(Role, Option<&PathBuf>)]) -> Result<Vec<Pem>, TlsError> {
    let present = files.iter().filter_map(|(role, path)| path.map(|path| (*role, path)));
    present.map(|(role, path)| Pem::read(role, path)).collect()
}

/// SHA-256 over all files, each with its length before it, so that no two sets of files look the same.
fn hash(files: &[Pem]) -> [u8; 32] {
    let mut all = ::ring::digest::Context::new(&::ring::digest::SHA256);
    for file in files {
        all.update(&file.content.len().to_be_bytes());
        all.update(&file.content);
    }
    let mut hash = [0; 32];
    hash.copy_from_slice(all.finish().as_ref());
    hash
}

fn internal(error: impl std::fmt::Display) -> TlsError {
    TlsError::Internal(error.to_string())
}

// === impl Role ===

impl Role {
    /// What a file of this role must contain.
    const fn content(self) -> &'static str {
        match self {
            Self::Key => "private key (PKCS#8, PKCS#1 or SEC1, not encrypted)",
            _ => "certificate",
        }
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Self::Certificate => "certificate",
            Self::Key => "key",
            Self::ClientAuthority => "client_ca",
            Self::UpstreamAuthority => "ca",
        })
    }
}

// === impl ServerTlsReloader ===

impl ServerTlsReloader {
    /// Reads the files for the first time.
    ///
    /// # Errors
    /// As [`server_config`].
    pub fn try_new(settings: ServerTls) -> Result<Self, TlsError> {
        let files = server_files(&settings)?;
        let first = Adopted { hash: hash(&files), config: server_from(&settings, &files)? };
        Ok(Self { settings, current: ArcSwap::from_pointee(first) })
    }

    /// The configuration for the next handshake.
    #[must_use]
    pub fn current(&self) -> Arc<ServerConfig> {
        self.current.load().config.clone()
    }

    /// Reads the files again and adopts them if they changed: true if so. Blocks on the file system.
    ///
    /// # Errors
    /// As [`server_config`]; the configuration in force stays, and the next call tries again.
    pub fn refresh(&self) -> Result<bool, TlsError> {
        let files = server_files(&self.settings)?;
        let hash = hash(&files);
        if self.current.load().hash == hash {
            return Ok(false);
        }
        let config = server_from(&self.settings, &files)?;
        self.current.store(Arc::new(Adopted { hash, config }));
        Ok(true)
    }
}

// === impl ClientTlsReloader ===

impl ClientTlsReloader {
    /// Reads the files for the first time.
    ///
    /// # Errors
    /// As [`client_config`].
    pub fn try_new(settings: ClientTls) -> Result<Self, TlsError> {
        let files = client_files(&settings)?;
        let first = Adopted { hash: hash(&files), config: client_from(&settings, &files)? };
        Ok(Self { settings, current: Arc::new(ArcSwap::from_pointee(first)) })
    }

    /// The configuration for the next dial.
    #[must_use]
    pub fn current(&self) -> Arc<ClientConfig> {
        self.current.load().config.clone()
    }

    /// The name that the certificate of this host must carry.
    ///
    /// # Errors
    /// If it is neither a DNS name nor an IP address.
    pub fn server_name(&self, host: &str) -> Result<ServerName<'static>, TlsError> {
        server_name_or(&self.settings, host)
    }

    /// Reads the files again and adopts them if they changed: true if so. Blocks on the file system.
    ///
    /// # Errors
    /// As [`client_config`]; the configuration in force stays, and the next call tries again.
    pub fn refresh(&self) -> Result<bool, TlsError> {
        let files = client_files(&self.settings)?;
        let hash = hash(&files);
        if self.current.load().hash == hash {
            return Ok(false);
        }
        let config = client_from(&self.settings, &files)?;
        self.current.store(Arc::new(Adopted { hash, config }));
        Ok(true)
    }
}

// === impl ClientTlsReloader: Debug ===

impl std::fmt::Debug for ClientTlsReloader {
    /// The files and not what is in them.
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("ClientTlsReloader")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

// === impl Pem ===

impl Pem {
    fn read(role: Role, path: &Path) -> Result<Self, TlsError> {
        let mut content = Vec::new();
        let limit = PEM_BYTES_MAX as u64 + 1;
        File::open(path)
            .and_then(|file| file.take(limit).read_to_end(&mut content))
            .map_err(|source| TlsError::Unreadable { role, path: path.to_owned(), source })?;
        if content.len() > PEM_BYTES_MAX {
            return Err(TlsError::TooLong { role, path: path.to_owned() });
        }
        Ok(Self { role, path: path.to_owned(), content })
    }

    /// At least one certificate, in the order of the file.
    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.content).collect();
        let certificates = parsed.map_err(|error| self.complain(&error))?;
        if certificates.is_empty() {
            return Err(self.missing());
        }
        Ok(certificates)
    }

    /// The first private key of the file.
    fn key(&self) -> Result<PrivateKeyDer<'static>, TlsError> {
        PrivateKeyDer::from_pem_slice(&self.content).map_err(|error| self.complain(&error))
    }

    fn complain(&self, error: &pem::Error) -> TlsError {
        if matches!(error, pem::Error::NoItemsFound) {
            return self.missing();
        }
        // The reader's words about a broken line may quote it, and the line may be half a key (INV-11).
        let reason = match error {
            pem::Error::MissingSectionEnd { .. } => "a section has no end",
            pem::Error::IllegalSectionStart { .. } => "a section starts wrongly",
            pem::Error::Base64Decode(_) => "the base64 is broken",
            _ => "it cannot be parsed",
        };
        TlsError::NotPem { role: self.role, path: self.path.clone(), reason: reason.to_owned() }
    }

    fn missing(&self) -> TlsError {
        TlsError::Missing { role: self.role, path: self.path.clone() }
    }
}

#[cfg(test)]
mod tests;
