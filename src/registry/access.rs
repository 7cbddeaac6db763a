//! From a host name to a client: everything the user configured about registries.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use crate::event::Events;

use super::client::Registry;
use super::config::{Credentials, RegistryOptions, Roots};
use super::error::RegistryError;
use super::proxy::ProxyOptions;
use super::reach::SourceNetwork;
use super::settings::Settings;

/// How registries are spoken to.
#[derive(Clone, Debug, Default)]
pub struct RegistryAccess {
    /// Registries without https, or without certificate checks.
    pub insecure: Vec<String>,
    /// Where names and passwords come from.
    pub credentials: Credentials,
    /// Proxies for https and http.
    pub proxy: Option<ProxyOptions>,
    /// Mirrors and the rest of the configuration.
    pub settings: Settings,
    /// Which addresses registries may be at.
    pub network: SourceNetwork,
    /// Which certificate authorities are trusted.
    pub roots: Roots,
    /// Directories with certificates for single registries, as in [`RegistryOptions`].
    pub certificates: Vec<PathBuf>,
    /// Who gets to know what was not understood of the configuration.
    pub notices: Notices,
}

/// Reports each notice once; by default to nobody.
#[derive(Clone, Default)]
pub struct Notices {
    events: Option<Events>,
    told: Arc<Mutex<HashSet<String>>>,
}

impl Notices {
    /// Makes warnings of them, except of those that were told already.
    pub fn to(&self, events: &Events) -> Self {
        Notices { events: Some(events.clone()), told: self.told.clone() }
    }

    fn tell(&self, notice: String) {
        let Some(events) = &self.events else { return };
        if self.told.lock().unwrap_or_else(PoisonError::into_inner).insert(notice.clone()) {
            events.warn(notice);
        }
    }
}

impl std::fmt::Debug for Notices {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Notices")
    }
}

impl RegistryAccess {
    /// A client for one repository of a registry: credentials, mirrors and even the place may be
    /// those of a part of the registry. Connects to nothing yet. Fails on a configuration that cannot
    /// be used, or that blocks the repository.
    pub fn open(&self, host: &str, repository: &str) -> Result<Registry, RegistryError> {
        let mut options = RegistryOptions {
            insecure: self.insecure.iter().any(|insecure| insecure == host),
            credentials: self.credentials.clone(),
            proxy: self.proxy.clone(),
            repository: repository.to_owned(),
            network: self.network,
            roots: self.roots.clone(),
            certificates: self.certificates.clone(),
            ..RegistryOptions::default()
        };
        for notice in self.settings.apply(host, repository, &mut options)? {
            self.notices.tell(notice);
        }
        Registry::new(host, &options)
    }
}
