//! Images of a store whose layers are not compressed yet.
//!
//! A build without an output that needs compressed layers leaves them as files or plain tars. Config and
//! image ID are those that the image will have; its manifest is not known, as the digests of compressed
//! layers are not. The name then refers to a draft: a manifest that lists such layers as plain tars, which
//! the store may have as files only, and how each is to be compressed. Once that was done, a record leads
//! from the draft to the manifest, and names that refer to the draft mean the manifest. A draft never leaves
//! its store.

use serde::{Deserialize, Serialize};

use crate::compress::Packing;
use crate::digest::{ChainId, DiffId, Digest, Hasher};
use crate::store::{Edge, RecordKind, Recorded, Store, StoreError};

use super::build::{AssembleError, Assembled, Image, LayerRef, assembled, documents};
use super::manifest::{Descriptor, MAX_CONFIG_SIZE, Manifest, ManifestError, canonical};
use super::media_type::Family;
use super::read::{ReadError, ResolvedImage, StoreBlobs, read_document};

/// The media type by which the record of a name says that it refers to a draft.
pub const DRAFT: &str = "application/vnd.rbuild.image.draft.v1+json";

/// A manifest without the digests that are not known yet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Draft {
    /// As it will be, but for the layers that are to be compressed: those are listed as plain tars.
    manifest: Manifest,
    /// By layer: how it is to be compressed; `None` where it is listed as it is.
    packing: Vec<Option<Packing>>,
}

/// A layer of an image of the store.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredLayer {
    /// As its image lists it.
    pub layer: LayerRef,
    /// How it is to be compressed, where it is listed as a plain tar that need not be there.
    pub packing: Option<Packing>,
}

impl Draft {
    /// Reads a draft of the store; `None` where this is none.
    pub fn read(store: &Store, digest: &Digest) -> Result<Option<Self>, StoreError> {
        Ok(store.read_blob(digest)?.and_then(|bytes| Self::parse(&bytes)))
    }

    /// Bytes as a draft.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let draft: Draft = serde_json::from_slice(bytes).ok()?;
        (draft.packing.len() == draft.manifest.layers.len()).then_some(draft)
    }

    /// The config.
    pub fn config(&self) -> &Descriptor {
        &self.manifest.config
    }

    /// The layers that are listed as they are.
    pub fn whole_layers(&self) -> impl Iterator<Item = &Descriptor> {
        self.layers().filter(|(_, packing)| packing.is_none()).map(|(layer, _)| layer)
    }

    /// The layers that are to be compressed: their positions and diff IDs.
    pub fn plain_layers(&self) -> impl Iterator<Item = (usize, DiffId)> {
        let layers = self.layers().enumerate().filter(|(_, (_, packing))| packing.is_some());
        layers.map(|(at, (layer, _))| (at, DiffId(layer.digest)))
    }

    fn layers(&self) -> impl Iterator<Item = (&Descriptor, Option<Packing>)> {
        self.manifest.layers.iter().zip(self.packing.iter().copied())
    }

    /// The manifest with these layers, which are all those of the image.
    pub fn with_layers(&self, layers: &[LayerRef]) -> Result<Vec<u8>, ManifestError> {
        let mut manifest = self.manifest.clone();
        for (place, layer) in manifest.layers.iter_mut().zip(layers) {
            if place.digest != layer.digest {
                *place = Descriptor::new(Family::Oci.layer(layer.compression), layer.digest, layer.size);
            }
        }
        canonical(&manifest)
    }
}

/// Writes the config and the draft of an image into the store.
pub fn draft(store: &Store, image: &Image) -> Result<Assembled, AssembleError> {
    let (config, manifest) = documents(image, Family::Oci)?;
    let draft = canonical(&Draft { manifest: manifest.clone(), packing: image.packing.clone() })?;
    let config_digest = store.put_blob(&config)?;
    store.put_blob(&draft)?;
    Ok(assembled(image, draft, DRAFT, config_digest, manifest.layers, Family::Oci))
}

/// The manifest that a draft became.
struct PackedImage {
    manifest: Descriptor,
}

impl Recorded for PackedImage {
    const KIND: RecordKind = RecordKind::PackedImage;

    fn edges(&self) -> Vec<Edge> {
        vec![Edge::Document(self.manifest.digest)]
    }

    fn note(&self) -> String {
        "manifest of an image".into()
    }

    fn to_bytes(&self) -> Vec<u8> {
        canonical(&self.manifest).unwrap_or_default()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok().map(|manifest| PackedImage { manifest })
    }
}

/// The key of the record that leads from a draft to its manifest.
pub(crate) fn packed_key(draft: &Digest) -> Digest {
    let mut hasher = Hasher::new();
    hasher.field(b"packed image");
    hasher.field(draft.raw());
    hasher.finish()
}

/// The manifest that a draft became, if all of it is in the store that was not there before.
pub fn packed(store: &Store, draft: &Digest) -> Result<Option<Descriptor>, StoreError> {
    let Some(found) = store.record::<PackedImage>(&packed_key(draft))? else { return Ok(None) };
    let manifest = store.read_blob(&found.manifest.digest)?.and_then(|bytes| Manifest::parse(&bytes).ok());
    let (Some(manifest), Some(draft)) = (manifest, Draft::read(store, draft)?) else { return Ok(None) };
    if manifest.config.digest != draft.manifest.config.digest || manifest.layers.len() != draft.packing.len()
    {
        return Ok(None);
    }
    let mut made = draft.plain_layers().filter_map(|(at, _)| manifest.layers.get(at));
    Ok(made.all(|layer| store.has_blob(&layer.digest)).then_some(found.manifest))
}

/// Remembers the manifest that a draft became.
pub fn note_packed(store: &Store, draft: &Digest, manifest: &Descriptor) -> Result<(), StoreError> {
    store.put_record(&packed_key(draft), &PackedImage { manifest: manifest.clone() })
}

/// The image of a draft; `None` where this is none.
pub(crate) fn resolve(store: &Store, digest: &Digest) -> Result<Option<ResolvedImage>, ReadError> {
    let Some(draft) = Draft::read(store, digest)? else { return Ok(None) };
    use super::read::BlobSource as _;
    let blobs = StoreBlobs(store);
    let config = draft.config();
    let config = read_document(&blobs, &config.digest, Some(config.size), MAX_CONFIG_SIZE)?;
    let place = blobs.place();
    let manifest = canonical(&draft.manifest).map_err(|source| ReadError::Document {
        place: place.clone(),
        what: format!("draft {digest}"),
        source,
    })?;
    let image = ResolvedImage::new(&place, manifest, config)?;
    Ok(Some(ResolvedImage { manifest_digest: *digest, packing: Some(draft.packing), ..image }))
}

/// Marks the layers of a draft as used, in every form in which the store has them.
pub(super) fn use_layers(store: &Store, draft: &Draft, diff_ids: &[DiffId]) {
    let mut chain = ChainId::scratch();
    for diff_id in diff_ids {
        chain = chain.push(*diff_id);
        store.use_layer(diff_id, &chain);
    }
    for layer in draft.whole_layers() {
        store.has_blob(&layer.digest);
    }
}
