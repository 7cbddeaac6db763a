//! Indexes put together from images that exist.

use std::collections::BTreeMap;

use crate::image::inspect::name_in_store;
use crate::image::manifest::{DescriptorPlatform, canonical};
use crate::image::{Descriptor, Document, Family, ImageConfig, Index, Platform, Reference};
use crate::registry::origins;

use super::failure::{Failure, FailureKind};
use super::place::Place;
use super::transfer::{Source, Transfer, bare, parse};

/// What to change about an index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IndexChange {
    /// Which of its manifests: a digest or a platform; `None` is the index itself.
    pub manifest: Option<String>,
    /// Annotations to set.
    pub annotations: BTreeMap<String, String>,
    /// The platform to state, for a manifest.
    pub platform: Option<Platform>,
}

impl Transfer<'_> {
    /// Makes an index of images and names it in the store. Indexes among the sources give all their
    /// manifests. Of images in a registry only manifests and configs are fetched: their layers stay
    /// where they are until somebody needs them.
    pub fn create_index(
        &self,
        name: &Reference,
        sources: &[Place],
        annotations: &BTreeMap<String, String>,
    ) -> Result<Descriptor, Failure> {
        let mut entries: Vec<Descriptor> = Vec::new();
        for place in sources {
            let source = self.open(place)?;
            for entry in self.adopt(&source)? {
                if !entries.iter().any(|known| known.digest == entry.digest) {
                    entries.push(entry);
                }
            }
        }
        let mut index = Index::new(entries);
        // One family throughout: registries refuse a mixture.
        let docker = |entry: &Descriptor| Family::of_manifest(&entry.media_type) == Some(Family::Docker);
        if !index.manifests.is_empty() && index.manifests.iter().all(docker) && annotations.is_empty() {
            index.media_type = Family::Docker.index().to_owned();
        }
        index.annotations = annotations.clone();
        self.keep(name, &index)
    }

    /// Changes an index of the store; the name then means the changed one.
    pub fn annotate_index(&self, name: &Reference, change: &IndexChange) -> Result<Descriptor, Failure> {
        let top = self.stored(name)?;
        let shown = name.familiar();
        let bytes = self.store.read_blob(&top.digest)?.unwrap_or_default();
        let Document::Index(mut index) = parse(&shown, &bytes)? else {
            return Err(Failure::new(FailureKind::Usage, format!("{shown} is an image, not an index")));
        };
        let Some(wanted) = &change.manifest else {
            index.annotations.extend(change.annotations.clone());
            return self.keep(name, &index);
        };
        let platform = Platform::parse(wanted).ok();
        let is_meant = |entry: &&mut Descriptor| {
            let stated = entry.platform.as_ref().map(DescriptorPlatform::platform);
            entry.digest.to_string() == *wanted || (platform.is_some() && stated == platform)
        };
        let have = index.platforms().join(", ");
        let Some(entry) = index.manifests.iter_mut().find(is_meant) else {
            let message = format!("{shown} has no manifest {wanted}; it has {have}");
            return Err(Failure::new(FailureKind::Usage, message));
        };
        entry.annotations.extend(change.annotations.clone());
        if let Some(platform) = &change.platform {
            entry.platform = Some(platform.into());
        }
        self.keep(name, &index)
    }

    fn keep(&self, name: &Reference, index: &Index) -> Result<Descriptor, Failure> {
        let bytes = canonical(index)
            .map_err(|error| Failure::new(FailureKind::Output, format!("{}: {error}", name.familiar())))?;
        self.store.put_blob(&bytes)?;
        let descriptor = Descriptor::of(&index.media_type, &bytes);
        name_in_store(self.store, name, &descriptor)?;
        Ok(descriptor)
    }

    /// Makes the parts of a source known to the store and gives its manifests as index entries.
    fn adopt(&self, source: &Source) -> Result<Vec<Descriptor>, Failure> {
        let content = &*source.content;
        match &source.origin {
            None => self.fetch(content, &source.top, format!("reading {}", source.top.digest.short()))?,
            Some(origin) => {
                let mut blobs = Vec::new();
                self.documents(content, &source.top, &mut blobs, 0)?;
                for blob in &blobs {
                    origins::note(self.store, &blob.digest, origin)?;
                }
            }
        }
        let bytes = self.store.read_blob(&source.top.digest)?.unwrap_or_default();
        match parse(&content.place(), &bytes)? {
            Document::Index(index) => Ok(index.manifests),
            Document::Manifest(manifest) => {
                let fail = |error: &dyn std::fmt::Display| {
                    Failure::new(FailureKind::Base, format!("{}: {error}", content.place()))
                };
                content
                    .fetch(self.store, &manifest.config, &|_| {}, self.cancel)
                    .map_err(|error| fail(&error))?;
                let config = self.store.read_blob(&manifest.config.digest)?.unwrap_or_default();
                let config: ImageConfig = serde_json::from_slice(&config).map_err(|error| fail(&error))?;
                let mut entry = bare(&source.top);
                entry.platform = Some(DescriptorPlatform {
                    os_version: config.os_version.clone(),
                    os_features: config.os_features.clone(),
                    ..(&Platform::new(&config.os, &config.architecture, &config.variant)).into()
                });
                Ok(vec![entry])
            }
        }
    }
}
