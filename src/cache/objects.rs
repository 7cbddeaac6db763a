//! A cache in an object store.
//!
//! Layers are objects named by their digests. Each export writes one more document, under a name that nothing had
//! before and nothing gets again, and only then removes those that it merged; readers take the union of what is there.
//! So a removed document's records are always in one that is still there, whatever the order in which several write,
//! and no service has to know conditions.
//!
//! A service that cannot list all names (GitHub's) keeps numbered documents instead, of which readers take the newest.
//! There a name is given to one writer only. Who does not get it merges anew, and who got it looks again whether its
//! records are in the newest.

use std::collections::BTreeSet;
use std::hash::{BuildHasher as _, Hasher as _};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crate::cancel::Cancel;
use crate::digest::Digest;
use crate::objects::{ObjectError, ObjectHead, ObjectStore, Upload, Written};
use crate::registry::RegistryError;
use crate::registry::origins::Origin;
use crate::store::Store;

use super::document::{CacheDocument, LayerBlob, MAX_DOCUMENT_SIZE};
use super::failure::CacheError;
use super::object_fetch;
use super::place::{CachePlace, Export, Exported, ReadCache};
use super::sealed;

/// Requests under way at once, where the user says nothing.
const PARALLEL: usize = 4;
/// How often the list is read again because something on it was gone.
const MOST_LOOKS: usize = 5;
/// How often a number is tried for that somebody else has.
const MOST_TRIES: u32 = 40;
/// After so many tries, a number counts as that of a writer that gave up half-way.
const PATIENCE: u64 = 8;

/// Where in an object store a cache is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectLayout {
    /// What the keys of layers begin with.
    pub blobs: String,
    /// For each name of the cache, what the keys of its documents begin with. All are read, and all are written.
    pub documents: Vec<String>,
    /// Uploads at once; `None` is the usual number.
    pub parallel: Option<usize>,
    /// Objects are renewed that are older than so many seconds, where the service can.
    pub touch_after: i64,
}

/// A cache in an object store.
pub struct ObjectCache {
    name: String,
    objects: Box<dyn ObjectStore>,
    layout: ObjectLayout,
}

/// What is under one name.
#[derive(Default)]
struct Collected {
    document: CacheDocument,
    /// Keys of the documents that were read.
    read: BTreeSet<String>,
    /// Keys of documents that another one has merged, and that are still there.
    left: BTreeSet<String>,
    /// When the oldest of `read` was written.
    modified: Option<i64>,
    failures: Vec<CacheError>,
}

impl ObjectCache {
    /// The cache that `layout` finds in `objects`.
    pub fn new(name: String, objects: Box<dyn ObjectStore>, layout: ObjectLayout) -> Self {
        ObjectCache { name, objects, layout }
    }

    fn parallel(&self) -> usize {
        self.layout.parallel.unwrap_or(PARALLEL)
    }

    fn blob_key(&self, digest: &Digest) -> String {
        format!("{}{digest}", self.layout.blobs)
    }

    /// One document; `None` where it is gone.
    fn document(&self, key: &str, cancel: &Cancel) -> Result<Option<CacheDocument>, CacheError> {
        let place = format!("{key} of {}", self.name);
        let bytes = object_fetch::read_whole(&*self.objects, key, MAX_DOCUMENT_SIZE, cancel)?;
        bytes.map(|bytes| sealed::open(&place, &bytes)).transpose()
    }

    /// Reads all documents under one name, the newest first: what that has merged need not be read.
    fn collect(&self, prefix: &str, cancel: &Cancel) -> Result<Collected, CacheError> {
        let mut all = Collected::default();
        for _ in 0..MOST_LOOKS {
            let mut listed = self.objects.list(prefix, cancel)?;
            listed.sort_by(|a, b| b.key.cmp(&a.key));
            let (mut gone, mut first) = (false, true);
            all.left.clear();
            while !listed.is_empty() {
                let known = |one: &ObjectHead| all.read.contains(&one.key);
                let merged = |one: &ObjectHead| all.document.merged.contains(&one.key);
                all.left.extend(listed.iter().filter(|one| merged(one)).map(|one| one.key.clone()));
                listed.retain(|one| !known(one) && !merged(one));
                let count = if first { listed.len().min(1) } else { listed.len() };
                first = false;
                let next: Vec<ObjectHead> = listed.drain(..count).collect();
                let read = crate::threads::each(&next, PARALLEL, |one| self.document(&one.key, cancel));
                for (head, read) in next.into_iter().zip(read) {
                    match read {
                        Ok(Some(document)) => all.add(head, document),
                        Ok(None) => gone = true,
                        Err(error) if error.is_cancelled() => return Err(error),
                        Err(error) => {
                            all.read.insert(head.key);
                            all.failures.push(error);
                        }
                    }
                }
            }
            if !gone {
                break;
            }
        }
        Ok(all)
    }

    /// What is there, where it may be replaced: what a newer rbuild wrote may not.
    fn collect_for_writing(&self, prefix: &str, export: &Export<'_>) -> Result<Collected, CacheError> {
        let mut found = self.collect(prefix, export.cancel)?;
        for failure in std::mem::take(&mut found.failures) {
            match failure {
                // Damage is replaced.
                CacheError::Malformed { .. } => {}
                other => return Err(other),
            }
        }
        if export.reset {
            found.document = CacheDocument::default();
        }
        Ok(found)
    }

    /// Sends the layers of this build that are not there, and renews old ones.
    fn send_layers(
        &self,
        wanted: &[LayerBlob],
        known: &BTreeSet<Digest>,
        export: &Export<'_>,
    ) -> Result<Exported, CacheError> {
        let (sent, bytes) = (AtomicUsize::new(0), AtomicU64::new(0));
        let results = crate::threads::each(wanted, self.parallel(), |layer| {
            if self.has_layer(layer, known, export)? {
                return Ok(());
            }
            self.send_layer(layer, export)?;
            sent.fetch_add(1, Ordering::Relaxed);
            bytes.fetch_add(layer.size, Ordering::Relaxed);
            Ok(())
        });
        results.into_iter().collect::<Result<(), CacheError>>()?;
        Ok(Exported { sent: sent.into_inner(), sent_bytes: bytes.into_inner(), ..Exported::default() })
    }

    fn has_layer(
        &self,
        layer: &LayerBlob,
        known: &BTreeSet<Digest>,
        export: &Export<'_>,
    ) -> Result<bool, CacheError> {
        // Where one thing was wrong others may be.
        if !export.bad.is_empty() {
            return Ok(false);
        }
        if known.contains(&layer.digest) && !self.objects.can_touch() {
            return Ok(true);
        }
        let key = self.blob_key(&layer.digest);
        let Some(head) = self.objects.head(&key, export.cancel)? else { return Ok(false) };
        if self.is_old(head.modified, export.now) {
            self.objects.touch(&key, export.cancel)?;
        }
        Ok(true)
    }

    fn is_old(&self, modified: Option<i64>, now: i64) -> bool {
        let oldest = now.saturating_sub(self.layout.touch_after);
        self.objects.can_touch() && modified.is_some_and(|modified| modified < oldest)
    }

    fn send_layer(&self, layer: &LayerBlob, export: &Export<'_>) -> Result<(), CacheError> {
        let descriptor = layer.descriptor();
        let open = |from: u64| export.content.open(&descriptor, from, export.cancel);
        let progress = |done: u64| (export.progress)(&layer.digest, done, layer.size);
        let upload = Upload { size: layer.size, digest: layer.digest, open: &open, progress: &progress };
        self.objects.put(&self.blob_key(&layer.digest), &upload, export.cancel)?;
        Ok(())
    }

    fn put(&self, key: &str, sealed: &[u8], cancel: &Cancel) -> Result<Written, CacheError> {
        Ok(Upload::of_bytes(sealed, |upload| self.objects.put(key, upload, cancel))?)
    }

    /// Writes under one name.
    fn write_name(&self, prefix: &str, export: &Export<'_>) -> Result<Exported, CacheError> {
        let mut exported = Exported::default();
        let own: Vec<LayerBlob> = export.document.layers().into_iter().cloned().collect();
        let (mut skip, mut last) = (0, 0);
        for attempt in 0..MOST_TRIES {
            let found = self.collect_for_writing(prefix, export)?;
            let good = export.without_bad(found.document.clone());
            if attempt == 0 {
                let known = good.layers().into_iter().map(|layer| layer.digest).collect();
                exported = self.send_layers(&own, &known, export)?;
            }
            let mut document = export.merged_with(good);
            exported.entries = document.entries.len();
            let nothing = document.entries.is_empty() && found.read.is_empty();
            if nothing || self.is_unchanged(&document, &found, export) {
                exported.unchanged = exported.sent == 0 && exported.sent_bytes == 0;
                return Ok(exported);
            }
            if self.objects.lists_all() {
                let key = format!("{prefix}{}", unique(export.now));
                document.merged = found.read.union(&found.left).cloned().collect();
                let sealed = sealed::seal(&document);
                self.put(&key, &sealed, export.cancel)?;
                exported.sent_bytes += sealed.len() as u64;
                self.remove(&document.merged, export.cancel);
                return Ok(exported);
            }
            let numbers = found.read.iter().filter_map(|key| key.strip_prefix(prefix)?.parse().ok());
            let newest: u64 = numbers.max().unwrap_or_default();
            if newest != last {
                (skip, last) = (0, newest);
            }
            let sealed = sealed::seal(&document);
            let key = format!("{prefix}{}", newest + 1 + skip / PATIENCE);
            match self.put(&key, &sealed, export.cancel)? {
                // Once more around: what is the newest now must have these records.
                Written::New => exported.sent_bytes += sealed.len() as u64,
                Written::Taken => {
                    skip += 1;
                    pause(attempt, export.cancel)?;
                }
            }
        }
        let reason =
            "other writers were always faster, or the service does not show what was written".to_owned();
        Err(CacheError::Malformed { place: self.name.clone(), reason })
    }

    /// Whether what is there is all that there would be, in one document that need not be renewed.
    fn is_unchanged(&self, new: &CacheDocument, found: &Collected, export: &Export<'_>) -> bool {
        let same = found.document.entries == new.entries && found.document.answers == new.answers;
        let one = found.read.len() == 1 && found.left.is_empty();
        one && same && export.bad.is_empty() && !self.is_old(found.modified, export.now)
    }

    /// Removes what was merged, as far as that is allowed: what stays is passed over by readers.
    fn remove(&self, merged: &BTreeSet<String>, cancel: &Cancel) {
        let merged: Vec<&String> = merged.iter().collect();
        crate::threads::each(&merged, self.parallel(), |key| {
            let _ = self.objects.delete(key, cancel);
        });
    }
}

impl Collected {
    fn add(&mut self, head: ObjectHead, document: CacheDocument) {
        self.modified = [self.modified, head.modified].into_iter().flatten().min();
        self.read.insert(head.key);
        let merged = std::mem::take(&mut self.document.merged);
        self.document.merge(document);
        self.document.merged.extend(merged);
    }
}

/// Waits longer with every try, and not as long as others.
fn pause(attempt: u32, cancel: &Cancel) -> Result<(), CacheError> {
    let longest = u64::from(attempt + 1).min(10) * 100;
    let time = Duration::from_millis(longest / 2 + random() % (longest / 2 + 1));
    let until = std::time::Instant::now() + time;
    while std::time::Instant::now() < until {
        if cancel.is_cancelled() {
            return Err(RegistryError::Cancelled.into());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Each `RandomState` is keyed from the system's random numbers.
fn random() -> u64 {
    std::hash::RandomState::new().build_hasher().finish()
}

/// A name that nothing has had. Later names come later in order.
fn unique(now: i64) -> String {
    format!("{now:010x}-{:016x}{:016x}", random(), random())
}

impl CachePlace for ObjectCache {
    fn name(&self) -> &str {
        &self.name
    }

    fn read(&self, cancel: &Cancel) -> Result<ReadCache, CacheError> {
        let mut all = ReadCache::default();
        let mut some = false;
        for prefix in &self.layout.documents {
            let found = self.collect(prefix, cancel)?;
            some |= !found.read.is_empty();
            all.document.merge(found.document);
            all.failures.extend(found.failures);
        }
        all.document.merged.clear();
        if some { Ok(all) } else { Err(CacheError::NotFound { place: self.name.clone() }) }
    }

    fn fetch(
        &self,
        layer: &LayerBlob,
        store: &Store,
        progress: &dyn Fn(u64),
        cancel: &Cancel,
    ) -> Result<(), CacheError> {
        object_fetch::into_store(
            &*self.objects,
            &self.blob_key(&layer.digest),
            layer,
            store,
            progress,
            cancel,
        )
    }

    fn origin(&self) -> Option<&Origin> {
        None
    }

    fn write(&self, export: &Export<'_>) -> Result<Exported, CacheError> {
        let mut all = Exported { unchanged: true, ..Exported::default() };
        for prefix in &self.layout.documents {
            let one = self.write_name(prefix, export)?;
            all.entries = all.entries.max(one.entries);
            all.sent += one.sent;
            all.sent_bytes += one.sent_bytes;
            all.unchanged &= one.unchanged;
        }
        Ok(all)
    }
}

impl From<ObjectError> for CacheError {
    fn from(error: ObjectError) -> Self {
        match error {
            ObjectError::Cancelled => RegistryError::Cancelled.into(),
            ObjectError::Store(error) => error.into(),
            error => CacheError::Objects(error),
        }
    }
}
