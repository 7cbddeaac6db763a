//! What names meant at their registries when they were last looked up.

use serde::{Deserialize, Serialize};

use crate::digest::{Digest, Hasher};
use crate::image::{Document, Platform, Reference, ResolvedImage};
use crate::store::{Edge, RecordKind, RecordedAsJson};

use super::bases::Bases;
use super::failure::Failure;

/// What was pulled under a name, so that a HEAD request is enough the next time.
#[derive(Serialize, Deserialize)]
pub(super) struct Pulled {
    /// What the name resolved to: index or manifest.
    pub top: Digest,
    /// The manifest for the platform.
    manifest: Digest,
}

impl RecordedAsJson for Pulled {
    const KIND: RecordKind = RecordKind::Pulled;

    fn edges(&self) -> Vec<Edge> {
        vec![Edge::Document(self.manifest)]
    }

    fn note(&self) -> String {
        "image pulled from a registry".into()
    }
}

impl Bases {
    /// Keeps in mind what a name meant at its registry.
    pub(super) fn note_pulled(
        &self,
        reference: &Reference,
        platform: &Platform,
        top: Digest,
        image: &ResolvedImage,
    ) -> Result<(), Failure> {
        let pulled = Pulled { top, manifest: image.manifest_digest };
        Ok(self.store.put_record(&pulled_key(reference, platform), &pulled)?)
    }

    /// What a name meant, if the store still has the documents.
    pub(super) fn pulled(
        &self,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<Option<(Pulled, ResolvedImage)>, Failure> {
        let Some(pulled) = self.store.record::<Pulled>(&pulled_key(reference, platform))? else {
            return Ok(None);
        };
        let Some(manifest) = self.store.read_blob(&pulled.manifest)? else { return Ok(None) };
        let Ok(Document::Manifest(parsed)) = Document::parse(&manifest) else { return Ok(None) };
        let Some(config) = self.store.read_blob(&parsed.config.digest)? else { return Ok(None) };
        Ok(ResolvedImage::new(&reference.familiar(), manifest, config).ok().map(|image| (pulled, image)))
    }
}

fn pulled_key(reference: &Reference, platform: &Platform) -> Digest {
    let mut hasher = Hasher::new();
    hasher.field(b"pulled");
    hasher.field(reference.to_string().as_bytes());
    hasher.field(platform.to_string().as_bytes());
    hasher.finish()
}
