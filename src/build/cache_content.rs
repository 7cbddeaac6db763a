//! What an export sends: layers of the store, and those that a cache has and the store has not. They come only if
//! the place that is written to lacks them.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;

use crate::cancel::Cancel;
use crate::digest::Digest;
use crate::image::Descriptor;
use crate::registry::{Content, RegistryAccess, RegistryError, StoreContent};
use crate::snapshot::LayerCell;
use crate::store::Store;

/// Layers by digest, and where they come from.
pub(super) struct ExportContent<'a> {
    store: &'a Store,
    rest: StoreContent,
    cells: BTreeMap<Digest, Arc<LayerCell>>,
}

impl<'a> ExportContent<'a> {
    /// The layers of `cells`, by the digests of their blobs.
    pub fn new(store: &'a Store, access: &RegistryAccess, cells: BTreeMap<Digest, Arc<LayerCell>>) -> Self {
        ExportContent { store, rest: StoreContent::new(store, access), cells }
    }

    fn ensure(&self, blob: &Descriptor) -> Result<(), RegistryError> {
        let Some(cell) = self.cells.get(&blob.digest) else { return Ok(()) };
        cell.ensure_blob_for_push(self.store).map_err(|error| RegistryError::Source {
            what: format!("layer {}", blob.digest),
            place: self.place(),
            reason: error.to_string(),
        })
    }
}

impl Content for ExportContent<'_> {
    fn place(&self) -> String {
        self.rest.place()
    }

    fn document(&self, descriptor: &Descriptor, cancel: &Cancel) -> Result<Vec<u8>, RegistryError> {
        self.rest.document(descriptor, cancel)
    }

    fn open(
        &self,
        blob: &Descriptor,
        offset: u64,
        cancel: &Cancel,
    ) -> Result<Box<dyn Read + Send + '_>, RegistryError> {
        self.ensure(blob)?;
        self.rest.open(blob, offset, cancel)
    }

    fn fetch(
        &self,
        store: &Store,
        blob: &Descriptor,
        progress: &dyn Fn(u64),
        cancel: &Cancel,
    ) -> Result<(), RegistryError> {
        self.ensure(blob)?;
        self.rest.fetch(store, blob, progress, cancel)
    }

    fn repositories(&self, blob: &Digest, host: &str) -> Vec<String> {
        self.rest.repositories(blob, host)
    }

    fn referrers(
        &self,
        subject: &Digest,
        artifact_type: Option<&str>,
        cancel: &Cancel,
    ) -> Result<Vec<Descriptor>, RegistryError> {
        self.rest.referrers(subject, artifact_type, cancel)
    }
}
