//! The packages of an image at any place.

use crate::image::{Platform, ResolvedImage, from_store};
use crate::layer;
use crate::registry::StoreContent;
use crate::sbom::{self, Inventory, Subject};
use crate::snapshot::{Chain, SnapshotError, Snapshots};

use super::failure::{Failure, FailureKind};
use super::meant::no_image;
use super::place::Place;
use super::transfer::Transfer;

impl Transfer<'_> {
    /// Lists the packages of an image; `shown` is its name in documents. Layers that are not in the store are fetched
    /// into it, without a name, so that a later look needs them no more; a collection removes them.
    pub fn inventory(
        &self,
        snapshots: &Snapshots,
        place: &Place,
        shown: &str,
    ) -> Result<(Subject, Inventory), Failure> {
        let (image, chain) = self.chain_with_layers(snapshots, place, shown)?;
        let history = image.config.history.iter().filter(|line| !line.empty_layer);
        let created_by: Vec<String> = history.map(|line| line.created_by.clone()).collect();
        let inventory = sbom::scan(snapshots, &chain, &created_by, self.cancel).map_err(scan_failure)?;
        let digest = (!image.is_draft()).then_some(image.manifest_digest);
        let (id, platform) = (Some(image.manifest.config.digest), image.platform.to_string());
        Ok((Subject { name: shown.to_owned(), digest, id, platform }, inventory))
    }

    /// An image and its layers, all of which can be read.
    pub(super) fn chain_with_layers(
        &self,
        snapshots: &Snapshots,
        place: &Place,
        shown: &str,
    ) -> Result<(ResolvedImage, Chain), Failure> {
        let image = self.image_with_layers(place, shown)?;
        let chain = snapshots.stored_chain(&image.stored_layers(), self.cancel).map_err(scan_failure)?;
        Ok((image, chain))
    }

    /// An image whose layers can be read. Those of other places are proved to be what the config says.
    fn image_with_layers(&self, place: &Place, shown: &str) -> Result<ResolvedImage, Failure> {
        let platform = self.platform.clone().unwrap_or_else(Platform::host);
        if let Place::Store(name) = place {
            let image = from_store(self.store, name, &platform)?.ok_or_else(|| no_image(shown))?;
            // Some layers may lie in the registry that they came from.
            let layers = image.stored_layers();
            let whole = layers.iter().filter(|stored| stored.packing.is_none());
            let wanted: Vec<_> = whole
                .zip(&image.manifest.layers)
                .filter(|(stored, _)| !self.store.has_blob(&stored.layer.digest))
                .map(|(_, descriptor)| descriptor.clone())
                .collect();
            if !wanted.is_empty() {
                let content = StoreContent::new(self.store, self.access);
                self.fetch_blobs(&content, &wanted, format!("fetching the layers of {shown}"))?;
            }
            return Ok(image);
        }
        let source = self.open(place)?;
        let top = self.choose(&*source.content, &source.top, &platform)?;
        self.fetch(&*source.content, &top, format!("fetching the layers of {shown}"))?;
        let manifest = self.store.read_blob(&top.digest)?.unwrap_or_default();
        let parsed = crate::image::Manifest::parse(&manifest)
            .map_err(|error| Failure::new(FailureKind::Base, format!("{shown}: {error}")))?;
        let config = self.store.read_blob(&parsed.config.digest)?.unwrap_or_default();
        let image = ResolvedImage::new(&source.content.place(), manifest, config)?;
        for (descriptor, diff_id) in image.layers.iter().zip(&image.diff_ids) {
            let known = layer::load_layer(self.store, diff_id).map_err(|error| layer_failure(&error))?;
            let is_proved =
                known.is_some_and(|layer| layer.blobs.iter().any(|blob| blob.digest == descriptor.digest));
            if is_proved && layer::load_index(self.store, diff_id).is_ok_and(|index| index.is_some()) {
                continue;
            }
            if let Some(blob) = self.store.open_blob(&descriptor.digest)? {
                layer::make_index(self.store, diff_id, blob).map_err(|error| layer_failure(&error))?;
            }
        }
        Ok(image)
    }
}

pub(super) fn scan_failure(error: SnapshotError) -> Failure {
    match error.is_canceled() {
        true => Failure::new(FailureKind::Interrupted, "canceled"),
        false => Failure::new(FailureKind::Store, error.to_string()),
    }
}

fn layer_failure(error: &crate::layer::LayerError) -> Failure {
    match error {
        crate::layer::LayerError::Canceled => Failure::new(FailureKind::Interrupted, "canceled"),
        crate::layer::LayerError::Store(_) => Failure::new(FailureKind::Store, error.to_string()),
        _ => Failure::new(FailureKind::Base, error.to_string()),
    }
}
