//! A cache in a repository of a registry.
//!
//! Each export writes one manifest: its config is the document, its layers are those that the document
//! names, so that the registry keeps them. The protocol has no way to write a tag only if nobody else did
//! meanwhile. So each manifest also gets a tag that only it can have, `TAG-w-` with the beginning of its
//! digest, and readers take the union of what is under `TAG` and all of these. Whoever writes merges what it
//! finds, publishes, and only then removes the manifests that it merged. A removed manifest's records are
//! therefore always in one that is still there, whatever the order in which several write.

use std::collections::BTreeSet;
use std::io::{Cursor, Read};

use crate::cancel::Cancel;
use crate::digest::Digest;
use crate::image::manifest::{Manifest, canonical};
use crate::image::{Descriptor, Family};
use crate::registry::origins::{self, Origin};
use crate::registry::{BlobState, Content, FetchedManifest, PushReport, Registry, RegistryError};
use crate::store::Store;

use super::document::{ARTIFACT_TYPE, CacheDocument, DOCUMENT_TYPE, LayerBlob};
use super::failure::CacheError;
use super::found::{self, Found, Parts};
use super::place::{CachePlace, Export, Exported, ReadCache};

/// Requests under way at once.
const PARALLEL: usize = 4;
/// How often the list of tags is read again because something on it was gone.
const MOST_LOOKS: usize = 5;
/// Manifests of earlier writers, merged long ago, that one export removes.
const MOST_LEFT: usize = 16;
/// Tags have at most 128 characters; this many are left for the user's.
const MOST_TAG: usize = 128 - 3 - SHORT;
/// Hex digits of a digest in a tag.
const SHORT: usize = 12;

/// A cache under a tag of a repository, or one manifest by its digest.
pub struct RepositoryCache {
    name: String,
    registry: Registry,
    origin: Origin,
    tag: String,
    digest: Option<Digest>,
}

/// What is under the tags.
#[derive(Default)]
struct Collected {
    document: CacheDocument,
    /// The manifests whose records are in `document`.
    manifests: BTreeSet<Digest>,
    /// The document under the main tag, and its manifest.
    main: Option<(Digest, CacheDocument)>,
    /// All writers' tags.
    tags: BTreeSet<String>,
    failures: Vec<CacheError>,
    in_image: bool,
}

impl Collected {
    fn add(&mut self, digest: Digest, document: CacheDocument) {
        if self.manifests.insert(digest) {
            self.document.merge(document);
        }
    }
}

impl RepositoryCache {
    /// The cache under `tag` of a repository, or with `digest` that one manifest, which is only read.
    pub fn new(name: String, registry: Registry, origin: Origin, tag: &str, digest: Option<Digest>) -> Self {
        RepositoryCache { name, registry, origin, tag: tag.to_owned(), digest }
    }

    fn repository(&self) -> &str {
        &self.origin.repository
    }

    fn prefix(&self) -> String {
        format!("{}-w-", self.tag.get(..MOST_TAG).unwrap_or(&self.tag))
    }

    fn writer_tag(&self, manifest: &Digest) -> String {
        let hex = manifest.hex();
        format!("{}{}", self.prefix(), hex.get(..SHORT).unwrap_or(&hex))
    }

    fn manifest(&self, reference: &str, cancel: &Cancel) -> Result<Option<FetchedManifest>, CacheError> {
        match self.registry.manifest(self.repository(), reference, cancel) {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn document(&self, manifest: &FetchedManifest, cancel: &Cancel) -> Result<Found, CacheError> {
        found::read(&RepositoryParts { cache: self, cancel }, &manifest.bytes)
    }

    fn collect(&self, cancel: &Cancel) -> Result<Collected, CacheError> {
        let mut all = Collected::default();
        let reference = self.digest.map_or_else(|| self.tag.clone(), |digest| digest.to_string());
        if let Some(main) = self.manifest(&reference, cancel)? {
            match self.document(&main, cancel) {
                Ok(found) => {
                    all.in_image = found.in_image;
                    all.main = Some((main.digest, found.document.clone()));
                    all.add(main.digest, found.document);
                }
                // An image has no writers.
                Err(error @ CacheError::Alien { .. }) => return Err(error),
                Err(error) => all.failures.push(error),
            }
        }
        if self.digest.is_some() || all.in_image {
            return Ok(all);
        }
        self.collect_writers(&mut all, cancel)?;
        Ok(all)
    }

    /// Adds what is under the tags of writers. A tag that is gone when it is read was merged by another
    /// writer, which has a tag of its own.
    fn collect_writers(&self, all: &mut Collected, cancel: &Cancel) -> Result<(), CacheError> {
        for _ in 0..MOST_LOOKS {
            match self.registry.tags(self.repository(), &self.prefix(), cancel) {
                Ok(tags) => all.tags = tags,
                Err(error) if error.is_cancelled() => return Err(error.into()),
                Err(error) => {
                    all.failures.push(error.into());
                    return Ok(());
                }
            }
            let read: BTreeSet<String> = all.manifests.iter().map(|digest| self.writer_tag(digest)).collect();
            let known = |tag: &&String| read.contains(*tag) || all.document.merged.contains(*tag);
            let new: Vec<String> = all.tags.iter().filter(|tag| !known(tag)).cloned().collect();
            let found = crate::threads::each(&new, PARALLEL, |tag| match self.manifest(tag, cancel) {
                Ok(Some(manifest)) => Ok(Some((manifest.digest, self.document(&manifest, cancel)?))),
                Ok(None) => Ok(None),
                Err(error) => Err(error),
            });
            let mut gone = false;
            for one in found {
                match one {
                    Ok(Some((digest, found))) => all.add(digest, found.document),
                    Ok(None) => gone = true,
                    // Its document, not its manifest, was gone.
                    Err(CacheError::Registry(error)) if error.is_not_found() => gone = true,
                    Err(error) if error.is_cancelled() => return Err(error),
                    Err(error) => all.failures.push(error),
                }
            }
            if !gone {
                break;
            }
        }
        Ok(())
    }

    /// Puts the document and its manifest, first under the tag of their own.
    fn publish(&self, document: &CacheDocument, export: &Export<'_>) -> Result<(Digest, u64), CacheError> {
        let bytes = document.to_bytes();
        let config = Descriptor::of(DOCUMENT_TYPE, &bytes);
        let content = WithDocument { digest: config.digest, bytes, rest: export.content };
        let sent = self.push(std::slice::from_ref(&config), &content, export)?.sent_bytes;
        let manifest = manifest(document, config)?;
        let digest = Digest::of(&manifest);
        for tag in [self.writer_tag(&digest), self.tag.clone()] {
            let media_type = Family::Oci.manifest();
            self.registry.put_manifest(
                self.repository(),
                &tag,
                media_type,
                &manifest,
                export.content,
                export.cancel,
            )?;
        }
        Ok((digest, sent + manifest.len() as u64))
    }

    fn push(
        &self,
        blobs: &[Descriptor],
        content: &dyn Content,
        export: &Export<'_>,
    ) -> Result<PushReport, CacheError> {
        let progress = |news: crate::registry::PushProgress| {
            if news.state == BlobState::Sending {
                (export.progress)(&news.digest, news.current, news.total);
            }
        };
        Ok(self.registry.push_blobs(self.repository(), blobs, content, &progress, export.cancel)?)
    }

    /// Drops results whose layers the repository does not have any more.
    fn drop_missing(&self, document: &mut CacheDocument, cancel: &Cancel) -> Result<bool, CacheError> {
        let layers: Vec<Digest> = document.layers().into_iter().map(|layer| layer.digest).collect();
        let there = crate::threads::each(&layers, PARALLEL, |layer| {
            self.registry.has_blob(self.repository(), layer, cancel).map(|there| (*layer, there))
        });
        let there = there.into_iter().collect::<Result<Vec<_>, _>>()?;
        let missing: BTreeSet<Digest> =
            there.into_iter().filter(|(_, there)| !there).map(|(layer, _)| layer).collect();
        document.entries.retain(|entry| !missing.contains(&entry.layer.digest));
        Ok(!missing.is_empty())
    }

    /// Removes what was merged, as far as the registry lets it be removed: what stays is passed over by
    /// readers, and removed by the next who may.
    fn remove(&self, found: &Collected, own: &Digest, cancel: &Cancel) {
        let read: BTreeSet<String> = found.manifests.iter().map(|digest| self.writer_tag(digest)).collect();
        let left = found
            .tags
            .difference(&read)
            .take(MOST_LEFT)
            .filter_map(|tag| self.registry.head_manifest(self.repository(), tag, cancel).ok()??.digest);
        for digest in found.manifests.iter().copied().chain(left).filter(|digest| digest != own) {
            let refused = |error: RegistryError| matches!(error.status(), Some(400 | 401 | 403 | 405 | 501));
            let gone = self.registry.delete_manifest(self.repository(), &digest, cancel);
            if gone.is_err_and(refused) || cancel.is_cancelled() {
                return;
            }
        }
    }
}

impl CachePlace for RepositoryCache {
    fn name(&self) -> &str {
        &self.name
    }

    fn read(&self, cancel: &Cancel) -> Result<ReadCache, CacheError> {
        let Collected { document, failures, manifests, .. } = self.collect(cancel)?;
        if manifests.is_empty() && failures.is_empty() {
            return Err(CacheError::NotFound { place: self.name.clone() });
        }
        Ok(ReadCache { document, failures })
    }

    fn fetch(
        &self,
        layer: &LayerBlob,
        store: &Store,
        progress: &dyn Fn(u64),
        cancel: &Cancel,
    ) -> Result<(), CacheError> {
        self.registry.pull_blob(self.repository(), &layer.digest, layer.size, store, progress, cancel)?;
        // A hint for the next push.
        let _ = origins::note(store, &layer.digest, &self.origin);
        Ok(())
    }

    fn origin(&self) -> Option<&Origin> {
        Some(&self.origin)
    }

    fn write(&self, export: &Export<'_>) -> Result<Exported, CacheError> {
        let found = match export.reset {
            true => Collected::default(),
            false => self.collect_for_writing(export.cancel)?,
        };
        let good = export.without_bad(found.document.clone());
        let there: BTreeSet<Digest> = good.layers().into_iter().map(|layer| layer.digest).collect();
        let mut document = export.merged_with(good);
        let entries = document.entries.len();
        let unchanged = export.bad.is_empty() && self.is_unchanged(&document, &found);
        let nothing = document.entries.is_empty() && found.document.entries.is_empty();
        if nothing || unchanged {
            return Ok(Exported { entries, unchanged: true, ..Exported::default() });
        }
        let layers = document.layers().into_iter();
        let new: Vec<Descriptor> =
            layers.filter(|layer| !there.contains(&layer.digest)).map(LayerBlob::descriptor).collect();
        let report = self.push(&new, export.content, export)?;
        document.merged = found.tags.clone();
        let (own, sent) = match self.publish(&document, export) {
            // A layer that others' records name may have been removed.
            Err(CacheError::Registry(error)) if matches!(error.status(), Some(400 | 404)) => {
                if !self.drop_missing(&mut document, export.cancel)? {
                    return Err(error.into());
                }
                self.publish(&document, export)?
            }
            published => published?,
        };
        self.remove(&found, &own, export.cancel);
        Ok(Exported {
            entries: document.entries.len(),
            sent_bytes: report.sent_bytes + sent,
            sent: report.uploaded,
            mounted: report.mounted,
            unchanged: false,
        })
    }
}

impl RepositoryCache {
    /// What is there, where it may be replaced: an image may not, nor what a newer rbuild wrote.
    fn collect_for_writing(&self, cancel: &Cancel) -> Result<Collected, CacheError> {
        let found = match self.collect(cancel) {
            Err(CacheError::Alien { what, .. }) if what.contains("BuildKit") => {
                let mut all = Collected::default();
                self.collect_writers(&mut all, cancel)?;
                all
            }
            found => found?,
        };
        if found.in_image {
            let what = "an image, which a cache would replace: choose another tag for it".to_owned();
            return Err(CacheError::Alien { place: self.name.clone(), what });
        }
        for failure in found.failures {
            match failure {
                // Damage is replaced.
                CacheError::Malformed { .. } => {}
                other => return Err(other),
            }
        }
        Ok(Collected { failures: Vec::new(), ..found })
    }

    /// Whether what is under the main tag is all that there would be.
    fn is_unchanged(&self, new: &CacheDocument, found: &Collected) -> bool {
        let Some((digest, main)) = &found.main else { return false };
        let own = self.writer_tag(digest);
        let same = main.entries == new.entries && main.answers == new.answers;
        same && found.tags.contains(&own)
            && found.tags.iter().all(|tag| *tag == own || main.merged.contains(tag))
    }
}

/// The manifest of a document.
pub(super) fn manifest(document: &CacheDocument, config: Descriptor) -> Result<Vec<u8>, CacheError> {
    let manifest = Manifest {
        schema_version: 2,
        media_type: Family::Oci.manifest().to_owned(),
        artifact_type: Some(ARTIFACT_TYPE.to_owned()),
        config,
        layers: document.layers().into_iter().map(LayerBlob::descriptor).collect(),
        subject: None,
        annotations: Default::default(),
        rest: Default::default(),
    };
    canonical(&manifest)
        .map_err(|error| CacheError::Malformed { place: "the cache".into(), reason: error.to_string() })
}

struct RepositoryParts<'a> {
    cache: &'a RepositoryCache,
    cancel: &'a Cancel,
}

impl Parts for RepositoryParts<'_> {
    fn place(&self) -> String {
        self.cache.name.clone()
    }

    fn manifest(&self, descriptor: &Descriptor) -> Result<Vec<u8>, CacheError> {
        let reference = descriptor.digest.to_string();
        Ok(self.cache.registry.manifest(self.cache.repository(), &reference, self.cancel)?.bytes)
    }

    /// The descriptor's size was compared with the limit, and no more than that is read.
    fn config(&self, descriptor: &Descriptor, _: u64) -> Result<Vec<u8>, CacheError> {
        let repository = self.cache.repository();
        Ok(self.cache.registry.large_blob(repository, &descriptor.digest, descriptor.size, self.cancel)?)
    }
}

/// Content with one more blob.
struct WithDocument<'a> {
    digest: Digest,
    bytes: Vec<u8>,
    rest: &'a dyn Content,
}

impl Content for WithDocument<'_> {
    fn place(&self) -> String {
        self.rest.place()
    }

    fn document(&self, descriptor: &Descriptor, cancel: &Cancel) -> Result<Vec<u8>, RegistryError> {
        self.rest.document(descriptor, cancel)
    }

    fn open(
        &self,
        blob: &Descriptor,
        offset: u64,
        cancel: &Cancel,
    ) -> Result<Box<dyn Read + Send + '_>, RegistryError> {
        if blob.digest != self.digest {
            return self.rest.open(blob, offset, cancel);
        }
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.bytes.len());
        Ok(Box::new(Cursor::new(self.bytes.get(start..).unwrap_or_default())))
    }

    fn fetch(
        &self,
        store: &Store,
        blob: &Descriptor,
        progress: &dyn Fn(u64),
        cancel: &Cancel,
    ) -> Result<(), RegistryError> {
        self.rest.fetch(store, blob, progress, cancel)
    }

    fn repositories(&self, blob: &Digest, host: &str) -> Vec<String> {
        if *blob == self.digest { Vec::new() } else { self.rest.repositories(blob, host) }
    }

    fn referrers(
        &self,
        subject: &Digest,
        artifact_type: Option<&str>,
        cancel: &Cancel,
    ) -> Result<Vec<Descriptor>, RegistryError> {
        self.rest.referrers(subject, artifact_type, cancel)
    }
}
