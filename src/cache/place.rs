//! Where caches are kept, whatever it is.

use std::collections::BTreeSet;

use crate::cancel::Cancel;
use crate::digest::Digest;
use crate::registry::Content;
use crate::registry::origins::Origin;
use crate::store::Store;

use super::document::{Bounds, CacheDocument, LayerBlob};
use super::failure::CacheError;
use super::signature::SignRecord;

/// A cache as it was found.
#[derive(Debug, Default)]
pub struct ReadCache {
    /// All results that could be read.
    pub document: CacheDocument,
    /// What could not be read. The rest is of use all the same.
    pub failures: Vec<CacheError>,
}

/// What is to be written.
pub struct Export<'a> {
    /// The results of a build.
    pub document: CacheDocument,
    /// Has the blobs of their layers.
    pub content: &'a dyn Content,
    /// Limits of the whole.
    pub bounds: Bounds,
    /// Whether what is there counts for nothing.
    pub reset: bool,
    /// Blobs that turned out to be wrong: results that are there with one of them are dropped.
    pub bad: &'a BTreeSet<Digest>,
    /// Signs the new records.
    pub sign: Option<&'a SignRecord>,
    /// Seconds since 1970.
    pub now: i64,
    /// Called with the part, its bytes that have gone out, and its size.
    pub progress: &'a (dyn Fn(&Digest, u64, u64) + Sync),
    /// Ends it.
    pub cancel: &'a Cancel,
}

/// What an export did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exported {
    /// Results that the cache has now.
    pub entries: usize,
    /// Bytes that were sent or written.
    pub sent_bytes: u64,
    /// Layers that were sent or written.
    pub sent: usize,
    /// Layers taken over from another repository of the registry.
    pub mounted: usize,
    /// The cache had everything.
    pub unchanged: bool,
}

/// A place that keeps records of steps and the layers they name.
pub trait CachePlace: Send + Sync {
    /// As the user wrote it.
    fn name(&self) -> &str;

    /// All records, of all who wrote there.
    fn read(&self, cancel: &Cancel) -> Result<ReadCache, CacheError>;

    /// Brings a layer's blob into `store`, verified. `progress` is called with the bytes that have come.
    fn fetch(
        &self,
        layer: &LayerBlob,
        store: &Store,
        progress: &dyn Fn(u64),
        cancel: &Cancel,
    ) -> Result<(), CacheError>;

    /// The repository whose layers other repositories of its registry can take over.
    fn origin(&self) -> Option<&Origin>;

    /// Adds results to what is there. No result of others is lost, also of those who write at the same time.
    fn write(&self, export: &Export<'_>) -> Result<Exported, CacheError>;
}

impl Export<'_> {
    /// What is there with the new results added, bounded and in order. Where both have a result, its layer is
    /// the one that this build has: what is there may be damaged.
    pub(super) fn merged_with(&self, found: CacheDocument) -> CacheDocument {
        let mut all = found;
        all.merged.clear();
        // Before the merge, in which an equal result would keep the older time.
        if let Some(lifetime) = self.bounds.lifetime {
            let oldest = self.now.saturating_sub(lifetime);
            all.entries.retain(|entry| entry.created >= oldest);
        }
        let mut own = self.document.clone();
        if let Some(sign) = self.sign {
            own.sign(&all, sign);
        }
        all.merge(own.clone());
        all.take_content_of(&own);
        all.tidy(self.bounds, self.now);
        all
    }

    /// Drops the results whose layers turned out to be wrong.
    pub(super) fn without_bad(&self, mut found: CacheDocument) -> CacheDocument {
        found.entries.retain(|entry| !self.bad.contains(&entry.layer.digest));
        found
    }
}
