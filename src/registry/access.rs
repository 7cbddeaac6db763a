//! From a host name to a client: everything the user configured about registries.

use super::client::Registry;
use super::config::{Credentials, RegistryOptions};
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
            ..RegistryOptions::default()
        };
        self.settings.apply(host, repository, &mut options)?;
        Registry::new(host, &options)
    }
}
