//! Which certificate authorities are trusted, and with which certificate we introduce ourselves.

use std::path::{Path, PathBuf};

use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts};

use super::config::{GivenCertificates, Roots};
use super::error::RegistryError;

/// Where systems keep their certificate authorities.
const SYSTEM_BUNDLES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Reads the certificates that are meant.
pub(super) fn load(roots: &Roots) -> Result<RootCerts, RegistryError> {
    match roots {
        Roots::Bundled => Ok(RootCerts::WebPki),
        roots => {
            let certificates = certificates(roots)?;
            Ok(if certificates.is_empty() { RootCerts::WebPki } else { certificates.into() })
        }
    }
}

fn certificates(roots: &Roots) -> Result<Vec<Certificate<'static>>, RegistryError> {
    match roots {
        Roots::System | Roots::Bundled => Ok(system_certificates()),
        Roots::File(path) => certificates_of(path),
        Roots::Variables { file, dirs } => {
            let mut found: Vec<_> = file.iter().flat_map(|path| lenient(path)).collect();
            if found.is_empty() || dirs.is_empty() {
                found.extend(system_certificates());
            }
            let files = dirs.iter().filter_map(|dir| std::fs::read_dir(dir).ok()).flatten().flatten();
            found.extend(files.flat_map(|entry| lenient(&entry.path())));
            Ok(found)
        }
        Roots::And(others, paths) => {
            let mut found = certificates(others)?;
            for path in paths {
                found.extend(certificates_of(path)?);
            }
            Ok(found)
        }
    }
}

/// The certificates of a file that need not be there, and may hold something else.
fn lenient(path: &Path) -> Vec<Certificate<'static>> {
    std::fs::read(path).map(|pem| parse_certificates(&pem)).unwrap_or_default()
}

/// How the two sides of a TLS connection know each other.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trust {
    /// Who may vouch for the server.
    pub(crate) roots: Roots,
    /// Whether the server's certificate is looked at.
    pub(crate) verify: bool,
    /// Our own certificate.
    pub(crate) identity: Option<Identity>,
}

impl Trust {
    /// Verifies servers, and has no certificate.
    pub(crate) fn of(roots: Roots) -> Self {
        Trust { roots, verify: true, identity: None }
    }
}

/// PEM files with a client's certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    certificate: PathBuf,
    key: PathBuf,
}

pub(super) fn client_certificate(identity: &Identity) -> Result<ClientCert, RegistryError> {
    let Identity { certificate, key: path } = identity;
    let fail = |reason: String| RegistryError::File { path: path.clone(), reason };
    let chain = certificates_of(certificate)?;
    let pem = std::fs::read(path).map_err(|error| fail(error.to_string()))?;
    let key = PrivateKey::from_pem(&pem);
    let key = key.map_err(|_| fail("it contains no PEM key without a password".to_owned()))?;
    Ok(ClientCert::new_with_certs(&chain, key))
}

/// What a directory of `certs.d` has for one registry.
#[derive(Debug, Default)]
pub(super) struct HostCertificates {
    /// `*.crt`
    pub(super) authorities: Vec<PathBuf>,
    /// `*.cert` with the `*.key` of the same name.
    pub(super) identity: Option<Identity>,
}

impl HostCertificates {
    /// Looks for the first directory of one of these names.
    pub(super) fn find(dirs: &[PathBuf], names: [&String; 2]) -> Result<Self, RegistryError> {
        let places = dirs.iter().flat_map(|dir| names.map(|name| dir.join(name)));
        for place in places {
            if let Ok(entries) = std::fs::read_dir(&place) {
                let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
                files.sort();
                return Self::of(&place, files);
            }
        }
        Ok(HostCertificates::default())
    }

    /// Adds what was given for one of these names.
    pub(super) fn add(&mut self, given: &[GivenCertificates], names: [&String; 2]) {
        for one in given.iter().filter(|one| names.contains(&&one.host)) {
            self.authorities.extend(one.authority.clone());
            if let Some((certificate, key)) = one.identity.clone() {
                self.identity = Some(Identity { certificate, key });
            }
        }
    }

    fn of(dir: &Path, files: Vec<PathBuf>) -> Result<Self, RegistryError> {
        let fail = |path: &Path, reason: &str| RegistryError::File {
            path: path.to_owned(),
            reason: reason.to_owned(),
        };
        let mut found = HostCertificates::default();
        for path in &files {
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("crt") => found.authorities.push(path.clone()),
                Some("cert") => {
                    let key = path.with_extension("key");
                    if !files.contains(&key) {
                        return Err(fail(
                            path,
                            "the key of this client certificate, the same name with .key, is missing",
                        ));
                    }
                    if found.identity.is_some() {
                        return Err(fail(dir, "it holds several client certificates; only one can be used"));
                    }
                    found.identity = Some(Identity { certificate: path.clone(), key });
                }
                Some("key") if !files.contains(&path.with_extension("cert")) => {
                    return Err(fail(
                        path,
                        "the client certificate of this key, the same name with .cert, is missing",
                    ));
                }
                _ => {}
            }
        }
        Ok(found)
    }
}

fn system_certificates() -> Vec<Certificate<'static>> {
    let found = SYSTEM_BUNDLES.iter().find_map(|path| std::fs::read(path).ok());
    found.map(|pem| parse_certificates(&pem)).unwrap_or_default()
}

fn certificates_of(path: &Path) -> Result<Vec<Certificate<'static>>, RegistryError> {
    let fail = |reason: String| RegistryError::File { path: path.to_owned(), reason };
    let pem = std::fs::read(path).map_err(|error| fail(error.to_string()))?;
    let certificates = parse_certificates(&pem);
    if certificates.is_empty() {
        return Err(fail("it contains no PEM certificate".into()));
    }
    Ok(certificates)
}

fn parse_certificates(pem: &[u8]) -> Vec<Certificate<'static>> {
    ureq::tls::parse_pem(pem)
        .filter_map(|item| match item {
            Ok(ureq::tls::PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect()
}
