//! Which certificate authorities are trusted.

use std::path::Path;

use ureq::tls::{Certificate, RootCerts};

use super::config::Roots;
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
        Roots::System => {
            let certificates = system_certificates();
            Ok(if certificates.is_empty() { RootCerts::WebPki } else { certificates.into() })
        }
        Roots::File(path) => Ok(certificates_of(path)?.into()),
        Roots::SystemAnd(path) => {
            let mut certificates = certificates_of(path)?;
            certificates.extend(system_certificates());
            Ok(certificates.into())
        }
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
