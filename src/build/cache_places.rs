//! From the name of a cache to the cache itself.

use std::path::Path;
use std::sync::Arc;

use crate::cache::{CacheError, CachePlace, DirectoryCache, ObjectCache, RepositoryCache, VerifyRecord};
use crate::image::Reference;
use crate::objects::HttpSettings;
use crate::registry::RegistryAccess;
use crate::registry::origins::Origin;
use crate::store::Store;

use super::cache_spec::CacheLocation;
use super::failure::{Failure, FailureKind};

/// What caches are opened with.
pub(super) struct Places<'a> {
    pub store: &'a Store,
    pub access: &'a RegistryAccess,
    /// What relative paths refer to.
    pub cwd: &'a Path,
}

/// Refuses a name that cannot be that of a cache. `flag` is what gave it.
pub(super) fn check(flag: &str, location: &CacheLocation, to_write: bool) -> Result<(), Failure> {
    let reference = match location {
        CacheLocation::Registry { reference } => reference,
        CacheLocation::Signed { location, .. } => return check(flag, location, to_write),
        _ => return Ok(()),
    };
    let name = parse_reference(reference)
        .map_err(|failure| Failure { message: format!("{flag}: {}", failure.message), ..failure })?;
    if to_write && name.digest.is_some() {
        let message = format!("{flag}: {reference} is a digest: a cache is written to a tag");
        return Err(Failure::new(FailureKind::Usage, message));
    }
    Ok(())
}

fn parse_reference(text: &str) -> Result<Reference, Failure> {
    let parsed = Reference::parse(text).map(Reference::with_default_tag);
    parsed.map_err(|error| Failure::new(FailureKind::Usage, error.to_string()))
}

/// How signatures of a cache's records are checked, where they must be.
pub(super) fn verifier(location: &CacheLocation) -> Option<Arc<VerifyRecord>> {
    let CacheLocation::Signed { key, .. } = location else { return None };
    let key = key.0.clone();
    Some(Arc::new(move |text: &[u8], signature: &[u8]| key.verifies(text, signature)))
}

impl Places<'_> {
    /// Opens a cache. Connects to nothing yet.
    pub fn open(&self, location: &CacheLocation) -> Result<Arc<dyn CachePlace>, CacheError> {
        match location {
            CacheLocation::Registry { reference } => {
                let name = parse_reference(reference).map_err(|failure| CacheError::Malformed {
                    place: format!("the name {reference:?}"),
                    reason: failure.message,
                })?;
                let registry = self.access.open(&name.domain, &name.path)?;
                let origin = Origin { host: name.domain.clone(), repository: name.path.clone() };
                let tag = name.tag.clone().unwrap_or_else(|| "latest".to_owned());
                let shown = name.familiar();
                Ok(Arc::new(RepositoryCache::new(shown, registry, origin, &tag, name.digest)))
            }
            CacheLocation::Local { path, tag, digest } => {
                let (shown, path) = (path.display().to_string(), self.cwd.join(path));
                Ok(Arc::new(DirectoryCache::new(shown, path, tag, *digest, self.store)))
            }
            CacheLocation::Objects(spec) => {
                let settings = HttpSettings {
                    proxy: self.access.proxy.clone(),
                    roots: self.access.roots.clone(),
                    network: self.access.network,
                    attempts: spec.attempts,
                    patience: spec.patience,
                };
                let objects = spec.service.open(&settings)?;
                Ok(Arc::new(ObjectCache::new(location.to_string(), objects, spec.layout.clone())))
            }
            CacheLocation::Signed { location, .. } => self.open(location),
            CacheLocation::Inline => Err(CacheError::Alien {
                place: "type=inline".into(),
                what: "read by the name of the image".into(),
            }),
        }
    }
}
