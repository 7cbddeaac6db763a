//! Which repositories are known to hold a blob, so that it need not travel again.
//!
//! A hint, not a promise: what is read here is asked for, never relied upon.

use crate::digest::{Digest, Hasher};
use crate::store::{Store, StoreError};

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
    let bytes = serde_json::to_vec(&known).unwrap_or_default();
    store.put_record(&key(blob), &bytes)
}

/// The repositories that had a blob when it was last heard of; the newest first.
pub fn known(store: &Store, blob: &Digest) -> Result<Vec<Origin>, StoreError> {
    let bytes = store.record(&key(blob))?.unwrap_or_default();
    Ok(serde_json::from_slice(&bytes).unwrap_or_default())
}

/// The record under which the places of a blob are kept.
pub(crate) fn key(blob: &Digest) -> Digest {
    let mut hasher = Hasher::new();
    hasher.field(b"blob-origins");
    hasher.field(blob.raw());
    hasher.finish()
}
