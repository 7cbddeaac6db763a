//! `rbuild load`: the images of an archive or a layout into the store.

use std::path::Path;

use crate::digest::Digest;
use crate::image::ids;
use crate::image::inspect::name_in_store;
use crate::image::manifest::MAX_INDEX_DEPTH;
use crate::image::read::{IMAGE_NAME, REF_NAME};
use crate::image::{Descriptor, Document, Platform, Reference, open_layout};
use crate::registry::{Content, LayoutContent};

use super::failure::{Failure, FailureKind};
use super::transfer::{Transfer, bare, parse};

/// What was loaded from an archive or a layout.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Loaded {
    /// What has a name.
    Named(Reference),
    /// An image without a name: its ID.
    Image(Digest),
    /// An artifact without a name: the digest of its manifest.
    Artifact(Digest),
}

impl Transfer<'_> {
    /// Loads all images of an archive or layout into the store. What it holds of an index is kept
    /// whole, or else the image for the platform asked for. What has no name is kept without one.
    pub fn load(&self, path: &Path) -> Result<Vec<Loaded>, Failure> {
        let source = open_layout(path, self.store)
            .map_err(|error| Failure::new(FailureKind::Base, error.to_string()))?;
        let entries = source.entries().to_vec();
        let content = LayoutContent::new(source);
        let mut loaded = Vec::new();
        for entry in entries.iter().filter(|entry| !entry.is_companion()) {
            let top = if self.is_whole(&content, entry, 0) {
                entry.clone()
            } else {
                self.choose(&content, entry, &Platform::host())?
            };
            self.fetch(&content, &top, format!("loading {}", top.digest.short()))?;
            match name_of(entry) {
                Some(name) => {
                    name_in_store(self.store, &name, &bare(&top))?;
                    loaded.push(Loaded::Named(name));
                }
                None => loaded.push(self.keep_unnamed(&top.digest)?),
            }
        }
        Ok(loaded)
    }

    fn keep_unnamed(&self, digest: &Digest) -> Result<Loaded, Failure> {
        let bytes = self.store.read_blob(digest)?.unwrap_or_default();
        // Many artifacts have the same config, the empty one, so that their manifests tell them apart.
        let loaded = match ids::id_of(self.store, digest)? {
            Some(id) if !parse(&digest.to_string(), &bytes)?.is_artifact() => Loaded::Image(id),
            _ => Loaded::Artifact(*digest),
        };
        let (Loaded::Image(id) | Loaded::Artifact(id)) = &loaded else { return Ok(loaded) };
        ids::keep_unless_named(self.store, id, digest)?;
        Ok(loaded)
    }

    /// Whether nothing below a descriptor is missing.
    fn is_whole(&self, content: &dyn Content, descriptor: &Descriptor, depth: u32) -> bool {
        if depth > MAX_INDEX_DEPTH {
            return false;
        }
        let Ok(bytes) = content.document(descriptor, self.cancel) else { return false };
        match Document::parse(&bytes) {
            Ok(Document::Index(index)) => {
                index.manifests.iter().all(|child| self.is_whole(content, child, depth + 1))
            }
            Ok(Document::Manifest(manifest)) => {
                let mut blobs = manifest.layers.iter().chain([&manifest.config]);
                blobs.all(|blob| content.open(blob, 0, self.cancel).is_ok())
            }
            Err(_) => false,
        }
    }
}

/// The whole name an archive gives an image.
fn name_of(entry: &Descriptor) -> Option<Reference> {
    let whole = |name: &&String| name.contains([':', '/']);
    let name = entry.annotations.get(IMAGE_NAME).or_else(|| entry.annotations.get(REF_NAME).filter(whole))?;
    Reference::parse_new_name(name).ok()
}
