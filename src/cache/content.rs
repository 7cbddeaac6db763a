//! The layers of one cache as content for another.

use std::io::{Read, Seek as _, SeekFrom};

use crate::cancel::Cancel;
use crate::digest::Digest;
use crate::image::Descriptor;
use crate::registry::{Content, RegistryError};
use crate::store::Store;

use super::document::LayerBlob;
use super::place::CachePlace;

/// Layers of a cache, which come to a store when somebody reads them.
pub struct PlaceContent<'a> {
    place: &'a dyn CachePlace,
    store: &'a Store,
}

impl<'a> PlaceContent<'a> {
    /// The layers of `place`, kept in `store` once they came.
    pub fn new(place: &'a dyn CachePlace, store: &'a Store) -> Self {
        PlaceContent { place, store }
    }

    fn unreadable(&self, digest: &Digest, reason: String) -> RegistryError {
        RegistryError::Source { what: format!("layer {digest}"), place: self.place(), reason }
    }
}

impl Content for PlaceContent<'_> {
    fn place(&self) -> String {
        format!("the cache at {}", self.place.name())
    }

    fn document(&self, descriptor: &Descriptor, _: &Cancel) -> Result<Vec<u8>, RegistryError> {
        Err(self.unreadable(&descriptor.digest, "caches give layers only".into()))
    }

    fn open(
        &self,
        blob: &Descriptor,
        offset: u64,
        cancel: &Cancel,
    ) -> Result<Box<dyn Read + Send + '_>, RegistryError> {
        self.fetch(self.store, blob, &|_| {}, cancel)?;
        let opened = self.store.open_blob(&blob.digest)?;
        let mut file =
            opened.ok_or_else(|| self.unreadable(&blob.digest, "it vanished while it was read".into()))?;
        let sought = file.seek(SeekFrom::Start(offset));
        sought.map_err(|error| self.unreadable(&blob.digest, error.to_string()))?;
        Ok(Box::new(file))
    }

    fn fetch(
        &self,
        store: &Store,
        blob: &Descriptor,
        progress: &dyn Fn(u64),
        cancel: &Cancel,
    ) -> Result<(), RegistryError> {
        if store.has_blob(&blob.digest) {
            return Ok(());
        }
        let fetched = self.place.fetch(&LayerBlob::from(blob), store, progress, cancel);
        fetched.map_err(|error| match error.is_cancelled() {
            true => RegistryError::Cancelled,
            false => self.unreadable(&blob.digest, error.to_string()),
        })
    }

    fn repositories(&self, _: &Digest, host: &str) -> Vec<String> {
        let origin = self.place.origin().filter(|origin| origin.host == host);
        origin.map(|origin| origin.repository.clone()).into_iter().collect()
    }

    fn referrers(&self, _: &Digest, _: Option<&str>, _: &Cancel) -> Result<Vec<Descriptor>, RegistryError> {
        Ok(Vec::new())
    }
}
