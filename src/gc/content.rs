//! What records and documents among the blobs refer to.

use crate::cache::Record;
use crate::digest::{ChainId, DiffId, Digest};
use crate::image::draft::{Draft, packed_key};
use crate::image::ids::Unnamed;
use crate::image::{Document, ImageConfig};
use crate::layer::LayerRecord;
use crate::store::{Edge, ParsedRecord, RecordKind, Recorded as _, Store, StoreError, parse_record};

/// What a record is for collection and checks.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct References {
    /// What it is, for people.
    pub note: String,
    /// What it refers to.
    pub edges: Vec<Edge>,
}

impl References {
    /// Those of a record; `None` where it is damaged.
    pub(super) fn of(bytes: &[u8]) -> Option<Self> {
        match parse_record(bytes) {
            ParsedRecord::Whole(head, _) => Some(References { note: head.note, edges: head.edges }),
            ParsedRecord::Untyped => Self::of_untyped(bytes),
            ParsedRecord::Damaged => None,
        }
    }

    /// Records had no kinds once: it shows in their form what they are.
    fn of_untyped(bytes: &[u8]) -> Option<Self> {
        if let Ok(raw) = <[u8; 32]>::try_from(bytes) {
            return Some(Self::one("recipe of a layer", Edge::Layer(DiffId(Digest::from_raw(raw)), None)));
        }
        if !matches!(bytes.first()?, b'{' | b'[') {
            return Some(Self::default());
        }
        let value: serde_json::Value = serde_json::from_slice(bytes).ok()?;
        let digest = |name: &str| value.get(name)?.as_str().and_then(|text| Digest::parse(text).ok());
        if let (Some(_), Some(manifest)) = (digest("top"), digest("manifest")) {
            return Some(Self::one("image pulled from a registry", Edge::Document(manifest)));
        }
        if let (Some(content), Some(_)) = (digest("digest"), value.get("size")) {
            return Some(Self::one("downloaded file", Edge::Blob(content)));
        }
        Some(match Record::from_bytes(bytes) {
            Some(record) => References { note: record.note(), edges: record.edges() },
            None => Self::default(),
        })
    }

    fn one(note: &str, edge: Edge) -> Self {
        References { note: note.to_owned(), edges: vec![edge] }
    }
}

/// The image that a record keeps; `None` where it is a record of something else.
pub(super) fn unnamed(bytes: &[u8]) -> Option<Unnamed> {
    match parse_record(bytes) {
        ParsedRecord::Whole(head, content) if head.kind == Some(RecordKind::Image) => {
            Unnamed::from_bytes(content)
        }
        _ => None,
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
    /// Of a draft: positions of the layers that need not be here as blobs.
    pub plain: Vec<usize>,
    /// Of a draft: the record that leads to its manifest, once there is one.
    pub packed: Option<Digest>,
}

impl Parts {
    /// Reads a document of the store. `None` where it is not here; an error in words where it is no
    /// document.
    pub(super) fn read(store: &Store, digest: &Digest) -> Result<Option<Result<Self, String>>, StoreError> {
        let Some(bytes) = store.peek_blob(digest)? else { return Ok(None) };
        let mut parts = Parts::default();
        if let Some(draft) = Draft::parse(&bytes) {
            parts.config = Some(draft.config().digest);
            parts.layers = draft.whole_layers().map(|layer| (layer.digest, layer.size)).collect();
            parts.diff_ids = diff_ids(store, &draft.config().digest)?;
            parts.plain = draft.plain_layers().map(|(at, _)| at).collect();
            parts.packed = Some(packed_key(digest));
            return Ok(Some(Ok(parts)));
        }
        match Document::parse(&bytes) {
            Ok(Document::Index(index)) => {
                parts.documents = index.manifests.iter().map(|entry| entry.digest).collect();
            }
            Ok(Document::Manifest(manifest)) => {
                parts.config = Some(manifest.config.digest);
                parts.layers = manifest.layers.iter().map(|layer| (layer.digest, layer.size)).collect();
                parts.diff_ids = diff_ids(store, &manifest.config.digest)?;
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

fn diff_ids(store: &Store, config: &Digest) -> Result<Vec<DiffId>, StoreError> {
    let config = store.peek_blob(config)?.unwrap_or_default();
    let config: Option<ImageConfig> = serde_json::from_slice(&config).ok();
    Ok(config.map(|config| config.rootfs.diff_ids).unwrap_or_default())
}

/// The description of a layer; `None` where it is garbled.
pub(super) fn layer(bytes: &[u8]) -> Option<LayerRecord> {
    serde_json::from_slice(bytes).ok()
}
