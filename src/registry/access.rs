//! From a host name to a client: everything the user configured about registries.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use crate::event::Events;

use super::client::Registry;
use super::config::{Credentials, GivenCertificates, Location, RegistryOptions, Roots};
use super::error::RegistryError;
use super::proxy::ProxyOptions;
use super::reach::SourceNetwork;
use super::settings::Settings;

/// How registries are spoken to.
#[derive(Clone, Debug, Default)]
pub struct RegistryAccess {
    /// Registries without https, or without certificate checks.
    pub insecure: Vec<String>,
    /// All registries count as insecure, except these.
    pub insecure_except: Option<Vec<String>>,
    /// Mirrors that come before those of the settings, with the registry that each is for.
    pub mirrors: Vec<(String, Location)>,
    /// What mirrors lack is not asked for at the registry itself.
    pub mirrors_only: bool,
    /// Certificates for single registries.
    pub given: Vec<GivenCertificates>,
    /// Attempts of each request; `None` and fewer than usual are the usual number.
    pub attempts: Option<u32>,
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
    /// Whether a registry is spoken to without https, or without a look at its certificate.
    pub fn is_insecure(&self, host: &str) -> bool {
        let among = |hosts: &Vec<String>| hosts.iter().any(|insecure| insecure == host);
        among(&self.insecure) || self.insecure_except.as_ref().is_some_and(|except| !among(except))
    }

    /// A client for one repository of a registry: credentials, mirrors and even the place may be
    /// those of a part of the registry. Connects to nothing yet. Fails on a configuration that cannot
    /// be used, or that blocks the repository.
    pub fn open(&self, host: &str, repository: &str) -> Result<Registry, RegistryError> {
        let mut options = RegistryOptions {
            insecure: self.is_insecure(host),
            given: self.given.clone(),
            mirrors_only: self.mirrors_only,
            credentials: self.credentials.clone(),
            proxy: self.proxy.clone(),
            repository: repository.to_owned(),
            network: self.network,
            roots: self.roots.clone(),
            certificates: self.certificates.clone(),
            ..RegistryOptions::default()
        };
        options.retry.attempts = options.retry.attempts.max(self.attempts.unwrap_or_default());
        let mirrors = self.mirrors.iter().filter(|(of, _)| of == host);
        options.mirrors.extend(mirrors.map(|(_, mirror)| mirror.clone()));
        for notice in self.settings.apply(host, repository, &mut options)? {
            self.notices.tell(notice);
        }
        Registry::new(host, &options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_registries_but_some_may_be_insecure() {
        let hosts = |hosts: &[&str]| hosts.iter().map(|host| (*host).to_owned()).collect::<Vec<_>>();
        let mut access = RegistryAccess { insecure: hosts(&["a.test"]), ..RegistryAccess::default() };
        assert!(access.is_insecure("a.test") && !access.is_insecure("b.test"));
        access.insecure_except = Some(hosts(&["a.test", "c.test"]));
        assert!(
            access.is_insecure("a.test") && access.is_insecure("b.test") && !access.is_insecure("c.test")
        );
    }
}
