//! From a manifest to the records behind it: of a cache, or of an image that carries its own.

use serde::{Deserialize, Serialize};

use crate::digest::{ChainId, DiffId, Digest};
use crate::image::manifest::MAX_CONFIG_SIZE;
use crate::image::{Descriptor, Document, ImageConfig, Index, Manifest};

use super::document::{
    ARTIFACT_TYPE, CacheDocument, DOCUMENT_TYPE, Entry, INLINE_FIELD, LayerBlob, MAX_DOCUMENT_SIZE,
};
use super::failure::CacheError;

/// Images of one index that are looked at.
const MOST_IMAGES: usize = 32;
/// The type of the config of BuildKit's caches.
const BUILDKIT: &str = "application/vnd.buildkit.cacheconfig.v0";

/// Reads parts of what is looked at, verified by their digests.
pub(super) trait Parts {
    /// What it is, for messages.
    fn place(&self) -> String;

    /// A manifest or index.
    fn manifest(&self, descriptor: &Descriptor) -> Result<Vec<u8>, CacheError>;

    /// A config of at most `limit` bytes.
    fn config(&self, descriptor: &Descriptor, limit: u64) -> Result<Vec<u8>, CacheError>;
}

/// What was found behind a manifest.
pub(super) struct Found {
    pub document: CacheDocument,
    /// They are the records of an image, which is no place to write to.
    pub in_image: bool,
}

/// The records behind the bytes of a manifest or index.
pub(super) fn read(parts: &dyn Parts, bytes: &[u8]) -> Result<Found, CacheError> {
    match Document::parse(bytes).map_err(|error| malformed(parts, error.to_string()))? {
        Document::Manifest(manifest) if is_cache(&manifest) => {
            check_size(parts, &manifest.config, MAX_DOCUMENT_SIZE)?;
            let document = parts.config(&manifest.config, MAX_DOCUMENT_SIZE)?;
            Ok(Found { document: CacheDocument::parse(&parts.place(), &document)?, in_image: false })
        }
        Document::Manifest(manifest) => inline(parts, &manifest).map(of_image),
        Document::Index(index) => indexed(parts, &index).map(of_image),
    }
}

fn of_image(document: CacheDocument) -> Found {
    Found { document, in_image: true }
}

/// Whether a manifest holds a cache of any version.
pub(super) fn is_cache(manifest: &Manifest) -> bool {
    manifest.artifact_type.as_deref() == Some(ARTIFACT_TYPE) || manifest.config.media_type == DOCUMENT_TYPE
}

/// The records of all images of an index. One without any is as if it were not listed.
fn indexed(parts: &dyn Parts, index: &Index) -> Result<CacheDocument, CacheError> {
    let (mut all, mut last) = (None::<CacheDocument>, None);
    for image in index.images().filter(|image| !image.is_index()).take(MOST_IMAGES) {
        let bytes = parts.manifest(image)?;
        let manifest = Manifest::parse(&bytes).map_err(|error| malformed(parts, error.to_string()))?;
        match inline(parts, &manifest) {
            Ok(document) => match &mut all {
                Some(all) => all.merge(document),
                None => all = Some(document),
            },
            Err(error @ CacheError::Alien { .. }) => last = Some(error),
            Err(error) => return Err(error),
        }
    }
    let none = || alien(parts, "an index without images".into());
    all.ok_or_else(|| last.unwrap_or_else(none))
}

/// What an image config has in [`INLINE_FIELD`]. The layers are the image's.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InlineRecords {
    version: u32,
    entries: Vec<InlineEntry>,
}

/// The record of one layer of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InlineEntry {
    /// The digest of the step's inputs.
    pub key: Digest,
    /// The layers that the step stands on.
    pub parent: ChainId,
    /// The layer.
    pub diff_id: DiffId,
    /// Seconds since 1970 when the step was executed.
    pub created: i64,
    /// The step's name.
    pub step: String,
}

impl InlineRecords {
    /// The records of an image.
    pub fn new(entries: Vec<InlineEntry>) -> Self {
        InlineRecords { version: 1, entries }
    }
}

fn inline(parts: &dyn Parts, manifest: &Manifest) -> Result<CacheDocument, CacheError> {
    let config = &manifest.config;
    if config.media_type == BUILDKIT {
        return Err(alien(parts, "a cache of BuildKit, whose keys rbuild does not have".into()));
    }
    if !crate::image::Family::is_config(&config.media_type) {
        return Err(alien(parts, format!("of the type {}, and no cache", config.media_type)));
    }
    check_size(parts, config, MAX_CONFIG_SIZE)?;
    let bytes = parts.config(config, MAX_CONFIG_SIZE)?;
    let parsed: ImageConfig =
        serde_json::from_slice(&bytes).map_err(|error| malformed(parts, error.to_string()))?;
    let Some(field) = parsed.rest.get(INLINE_FIELD) else {
        return Err(alien(parts, "an image without records (build it with --cache-to type=inline)".into()));
    };
    // The version decides whether the rest can be read.
    let version = field.get("version").and_then(serde_json::Value::as_u64);
    if let Some(version) = version.filter(|version| *version != 1) {
        let version = u32::try_from(version).unwrap_or(u32::MAX);
        return Err(CacheError::Version { place: parts.place(), version });
    }
    let records: InlineRecords =
        serde_json::from_value(field.clone()).map_err(|error| malformed(parts, error.to_string()))?;
    let mut entries = Vec::new();
    for InlineEntry { key, parent, diff_id, created, step } in records.entries {
        let position = parsed.rootfs.diff_ids.iter().position(|layer| *layer == diff_id);
        let layer = position.and_then(|position| manifest.layers.get(position)).map(LayerBlob::from);
        let layer = layer.ok_or_else(|| malformed(parts, format!("it has no layer {diff_id}")))?;
        entries.push(Entry { key, parent, diff_id, layer, created, used: created, step, signature: None });
    }
    // The same rules as for documents.
    CacheDocument::parse(&parts.place(), &CacheDocument::new(entries, Vec::new()).to_bytes())
}

fn check_size(parts: &dyn Parts, descriptor: &Descriptor, limit: u64) -> Result<(), CacheError> {
    if descriptor.size > limit {
        return Err(malformed(parts, format!("its records have {} bytes", descriptor.size)));
    }
    Ok(())
}

pub(super) fn malformed(parts: &dyn Parts, reason: String) -> CacheError {
    CacheError::Malformed { place: parts.place(), reason }
}

fn alien(parts: &dyn Parts, what: String) -> CacheError {
    CacheError::Alien { place: parts.place(), what }
}
