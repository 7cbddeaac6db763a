//! What the tests of the client share: a client with a store and a clock that does not sleep.

use std::error::Error;
use std::net::TcpStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::fault_server::{FaultServer, reply};
use super::retry::Clock;
use super::*;
use crate::cancel::Cancel;
use crate::digest::Digest;
use crate::store::Store;

pub(super) type Outcome = Result<(), Box<dyn Error>>;

pub(super) const MANIFEST: &[u8] =
    br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json"}"#;
pub(super) const MANIFEST_TYPE: (&str, &str) = ("Content-Type", "application/vnd.oci.image.manifest.v1+json");

/// Notes how long it should have slept and does not.
#[derive(Default)]
pub(super) struct Impatient(Mutex<Vec<Duration>>);

impl Clock for Impatient {
    fn sleep(&self, duration: Duration, _: &Cancel) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(duration);
    }

    fn chance(&self) -> f64 {
        1.0
    }
}

impl Impatient {
    pub(super) fn slept(&self) -> Vec<u64> {
        let slept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        slept.iter().map(|duration| duration.as_millis() as u64).collect()
    }
}

/// A client and all it needs.
pub(super) struct Bench {
    pub(super) registry: Registry,
    pub(super) clock: Arc<Impatient>,
    pub(super) cancel: Cancel,
    pub(super) store: Store,
    _dir: tempfile::TempDir,
}

impl Bench {
    pub(super) fn new(server: &FaultServer) -> Result<Self, Box<dyn Error>> {
        Self::with(&server.host(), RegistryOptions::default())
    }

    pub(super) fn with(host: &str, options: RegistryOptions) -> Result<Self, Box<dyn Error>> {
        let (clock, dir) = (Arc::new(Impatient::default()), tempfile::tempdir()?);
        Ok(Bench {
            registry: Registry::with_clock(host, &options, clock.clone())?,
            clock,
            cancel: Cancel::new()?,
            store: Store::open(&dir.path().join("store"))?,
            _dir: dir,
        })
    }

    pub(super) fn pull(&self, content: &[u8]) -> Result<(), RegistryError> {
        self.pull_announced(content, content.len() as u64)
    }

    pub(super) fn pull_announced(&self, content: &[u8], size: u64) -> Result<(), RegistryError> {
        self.registry.pull_blob("a/b", &Digest::of(content), size, &self.store, &|_| {}, &self.cancel)
    }

    pub(super) fn has(&self, content: &[u8]) -> bool {
        self.store.has_blob(&Digest::of(content))
    }

    pub(super) fn manifest(&self, reference: &str) -> Result<FetchedManifest, RegistryError> {
        self.registry.manifest("a/b", reference, &self.cancel)
    }
}

/// Options with a Docker configuration that signs in at `host`.
pub(super) fn signed_in(
    host: &str,
    entry: &str,
) -> Result<(tempfile::TempDir, RegistryOptions), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    std::fs::write(dir.path().join("config.json"), format!(r#"{{"auths":{{"{host}":{entry}}}}}"#))?;
    let credentials = Credentials::DockerConfig(dir.path().to_owned());
    Ok((dir, RegistryOptions { credentials, ..RegistryOptions::default() }))
}

pub(super) fn refusal(stream: &mut TcpStream, status: u16, headers: &[(&str, &str)]) -> std::io::Result<()> {
    reply(stream, status, headers, br#"{"errors":[{"code":"NOPE","message":"no, thank you"}]}"#)
}
