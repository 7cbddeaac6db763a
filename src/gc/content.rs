//! What the files under `records/` and documents among the blobs refer to.

use crate::cache::Record;
use crate::digest::{ChainId, DiffId, Digest};
use crate::image::{Document, ImageConfig};
use crate::layer::LayerRecord;
use crate::store::{Store, StoreError};

/// What a file under `records/` is. They carry no mark of their kind: it shows in their form.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Content {
    /// A step's result.
    Step(Box<Record>),
    /// A layer known by what it is made of.
    Recipe(DiffId),
    /// What an image name of a registry meant.
    Pulled { top: Digest, manifest: Digest },
    /// A file from an address.
    Download(Digest),
    /// Something that refers to nothing here.
    Other,
    /// Half a file, or none.
    Garbled,
}

impl Content {
    pub(super) fn parse(bytes: &[u8]) -> Self {
        if let Ok(raw) = <[u8; 32]>::try_from(bytes) {
            return Content::Recipe(DiffId(Digest::from_raw(raw)));
        }
        match bytes.first() {
            None => Content::Garbled,
            Some(b'{' | b'[') => match serde_json::from_slice::<serde_json::Value>(bytes) {
                Ok(value) => Self::of(value),
                Err(_) => Content::Garbled,
            },
            Some(_) => Content::Other,
        }
    }

    fn of(value: serde_json::Value) -> Self {
        let digest = |name: &str| value.get(name)?.as_str().and_then(|text| Digest::parse(text).ok());
        if let (Some(top), Some(manifest)) = (digest("top"), digest("manifest")) {
            return Content::Pulled { top, manifest };
        }
        if let (Some(content), Some(_)) = (digest("digest"), value.get("size")) {
            return Content::Download(content);
        }
        match serde_json::from_value(value) {
            Ok(record) => Content::Step(Box::new(record)),
            Err(_) => Content::Other,
        }
    }
}

/// What a manifest or index refers to.
#[derive(Default, Debug)]
pub(super) struct Parts {
    /// Manifests of an index.
    pub documents: Vec<Digest>,
    /// The config.
    pub config: Option<Digest>,
    /// Layers as blobs, with their sizes.
    pub layers: Vec<(Digest, u64)>,
    /// Layers as contents; empty where the config is none of an image.
    pub diff_ids: Vec<DiffId>,
}

impl Parts {
    /// Reads a document of the store. `None` where it is not here; an error in words where it is no
    /// document.
    pub(super) fn read(store: &Store, digest: &Digest) -> Result<Option<Result<Self, String>>, StoreError> {
        let Some(bytes) = store.peek_blob(digest)? else { return Ok(None) };
        let mut parts = Parts::default();
        match Document::parse(&bytes) {
            Ok(Document::Index(index)) => {
                parts.documents = index.manifests.iter().map(|entry| entry.digest).collect();
            }
            Ok(Document::Manifest(manifest)) => {
                parts.config = Some(manifest.config.digest);
                parts.layers = manifest.layers.iter().map(|layer| (layer.digest, layer.size)).collect();
                let config = store.peek_blob(&manifest.config.digest)?.unwrap_or_default();
                let config: Option<ImageConfig> = serde_json::from_slice(&config).ok();
                parts.diff_ids = config.map(|config| config.rootfs.diff_ids).unwrap_or_default();
            }
            Err(error) => return Ok(Some(Err(error.to_string()))),
        }
        Ok(Some(Ok(parts)))
    }

    /// The chains its layers make, from the lowest.
    pub(super) fn chains(&self) -> Vec<ChainId> {
        let mut chain = ChainId::scratch();
        let push = |diff: &DiffId| {
            chain = chain.push(*diff);
            chain
        };
        self.diff_ids.iter().map(push).collect()
    }
}

/// The description of a layer; `None` where it is garbled.
pub(super) fn layer(bytes: &[u8]) -> Option<LayerRecord> {
    serde_json::from_slice(bytes).ok()
}
