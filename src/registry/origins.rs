//! Which repositories are known to hold a blob, so that it need not travel again.
//!
//! A hint, not a promise: what is read here is asked for, never relied upon.

use crate::digest::{Digest, Hasher};
use crate::store::{Edge, RecordKind, Recorded, Store, StoreError};

/// Places kept for one blob; the newest first.
const MOST: usize = 4;

/// A repository of a registry.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct Origin {
    /// The registry, as image names begin.
    pub host: String,
    /// The repository in it.
    pub repository: String,
}

/// Notes that a repository has a blob.
pub fn note(store: &Store, blob: &Digest, origin: &Origin) -> Result<(), StoreError> {
    let mut known = known(store, blob)?;
    if known.first() == Some(origin) {
        return Ok(());
    }
    known.retain(|other| other != origin);
    known.insert(0, origin.clone());
    known.truncate(MOST);
    store.put_record(&key(blob), &Origins(known))
}

/// The repositories that had a blob when it was last heard of; the newest first.
pub fn known(store: &Store, blob: &Digest) -> Result<Vec<Origin>, StoreError> {
    Ok(store.record::<Origins>(&key(blob))?.map(|origins| origins.0).unwrap_or_default())
}

struct Origins(Vec<Origin>);

impl Recorded for Origins {
    const KIND: RecordKind = RecordKind::Origins;

    /// The blob need not be here.
    fn edges(&self) -> Vec<Edge> {
        Vec::new()
    }

    fn note(&self) -> String {
        let repository = |origin: &Origin| format!("{}/{}", origin.host, origin.repository);
        format!("blob of {}", self.0.iter().map(repository).collect::<Vec<_>>().join(", "))
    }

    fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(&self.0).unwrap_or_default()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok().map(Origins)
    }
}

/// The record under which the places of a blob are kept.
pub(crate) fn key(blob: &Digest) -> Digest {
    let mut hasher = Hasher::new();
    hasher.field(b"blob-origins");
    hasher.field(blob.raw());
    hasher.finish()
}
