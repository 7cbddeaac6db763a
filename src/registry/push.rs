//! Pushing an image, or an index with everything below it.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use ureq::http::Method;

use crate::cancel::Cancel;
use crate::digest::Digest;
use crate::image::manifest::MAX_INDEX_DEPTH;
use crate::image::media_type::is_foreign;
use crate::image::{Descriptor, Document, Family};

use super::client::{Call, Registry};
use super::content::Content;
use super::error::RegistryError;
use super::pull::{ACCEPT, announced_digest, check_repository, manifest_path};
use super::upload::Uploads;

/// Limits of a push.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushOptions {
    /// Blobs on their way at the same time.
    pub parallel: usize,
    /// Up to this many bytes, a blob goes in a single request and is repeated whole after an error.
    pub small: u64,
    /// Bytes in one request after one with everything has failed.
    pub piece: u64,
}

impl Default for PushOptions {
    fn default() -> Self {
        PushOptions { parallel: 4, small: 4 << 20, piece: 32 << 20 }
    }
}

/// How a blob came to be in the repository.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BlobState {
    /// It is on its way.
    Sending,
    /// It was there.
    Existed,
    /// It was in another repository of the same registry.
    Mounted,
    /// It was sent.
    Uploaded,
}

/// News of one blob.
#[derive(Clone, Debug)]
pub struct PushProgress {
    /// The blob.
    pub digest: Digest,
    /// Its bytes that have gone out. May fall back after an error.
    pub current: u64,
    /// Its size in bytes.
    pub total: u64,
    /// What happens to it.
    pub state: BlobState,
}

/// What a push did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushReport {
    /// The digest of the manifest or index: the image is `repository@digest` now.
    pub digest: Digest,
    /// Bytes of blobs and manifests sent, repeated ones counted again.
    pub sent_bytes: u64,
    /// Blobs taken over from another repository of the registry.
    pub mounted: usize,
    /// Blobs that were there. Those below a manifest that was there are not looked at.
    pub existed: usize,
    /// Blobs that were sent.
    pub uploaded: usize,
}

impl PushReport {
    pub(super) fn of(digest: Digest) -> Self {
        PushReport { digest, sent_bytes: 0, mounted: 0, existed: 0, uploaded: 0 }
    }

    pub(super) fn count(&mut self, states: &[BlobState]) {
        for state in states {
            match state {
                BlobState::Existed => self.existed += 1,
                BlobState::Mounted => self.mounted += 1,
                BlobState::Uploaded | BlobState::Sending => self.uploaded += 1,
            }
        }
    }
}

/// What is to be pushed, as found.
#[derive(Default)]
struct Work {
    blobs: Vec<Descriptor>,
    /// Children before what refers to them: media type, digest, bytes.
    manifests: Vec<(String, Digest, Vec<u8>)>,
    /// Manifests that are there already and refer to another one.
    present: Vec<(Document, Vec<u8>)>,
    seen: BTreeSet<Digest>,
}

impl Registry {
    /// Pushes the manifest or index `top` of `content`, with everything below it, to `repository`,
    /// under `tag` or, without one, by digest only. What the repository has is not sent. Blobs come
    /// first, a few at a time, then manifests, children before the index, and the tag last: nobody
    /// sees an incomplete image. Layers that registries are not to hold stay away. A manifest with a
    /// subject is listed among its referrers, by the registry or else by this client.
    ///
    /// `progress` is called from several threads. A cancelled push leaves blobs without a manifest,
    /// which the registry clears away in its own time.
    pub fn push(
        &self,
        repository: &str,
        tag: Option<&str>,
        top: &Descriptor,
        content: &dyn Content,
        options: &PushOptions,
        progress: &(dyn Fn(PushProgress) + Sync),
        cancel: &Cancel,
    ) -> Result<PushReport, RegistryError> {
        check_repository(repository)?;
        let uploads = Uploads::new(self, repository, content, options, cancel);
        let mut report = PushReport::of(top.digest);
        if let Some(tag) = tag
            && uploads.manifest_digest(tag)? == Some(top.digest)
        {
            let bytes = content.document(top, cancel)?;
            uploads.list_present(&parse(top, &bytes)?, &bytes)?;
            report.sent_bytes = uploads.sent.load(Ordering::Relaxed);
            return Ok(report);
        }
        let mut work = Work::default();
        uploads.plan(top, &mut work, 0)?;
        report.count(&uploads.blobs(&work.blobs, progress)?);
        for (media_type, digest, bytes) in &work.manifests {
            let last = *digest == top.digest;
            let reference = tag.filter(|_| last).map_or_else(|| digest.to_string(), str::to_owned);
            let told = uploads.manifest(&reference, media_type, bytes)?;
            uploads.list(&parse_bytes(digest, bytes)?, bytes, told)?;
        }
        for (document, bytes) in &work.present {
            uploads.list_present(document, bytes)?;
        }
        // The repository had the image, only not under this tag.
        if work.manifests.is_empty()
            && let Some(tag) = tag
        {
            let bytes = content.document(top, cancel)?;
            uploads.manifest(tag, &media_type_of(top, &bytes)?, &bytes)?;
        }
        report.sent_bytes = uploads.sent.load(Ordering::Relaxed);
        Ok(report)
    }
}

impl<'a> Uploads<'a> {
    pub(super) fn new(
        registry: &'a Registry,
        repository: &'a str,
        content: &'a dyn Content,
        options: &'a PushOptions,
        cancel: &'a Cancel,
    ) -> Self {
        let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
        Uploads { registry, repository, content, options, cancel, stop, sent }
    }
}

impl Uploads<'_> {
    /// The digest under a tag or digest in the repository; `None` where there is nothing.
    pub(super) fn manifest_digest(&self, reference: &str) -> Result<Option<Digest>, RegistryError> {
        let path = manifest_path(self.repository, reference)?;
        let call = Call {
            method: Method::HEAD,
            repository: self.repository,
            path: &path,
            accept: Some(ACCEPT),
            from: 0,
        };
        let found = self.registry.write(self.cancel, &|| false, |host, session| {
            let scope = format!("repository:{}:pull,push", host.endpoint.repository(self.repository));
            let answer = host.call_with(&session, &call, &scope)?;
            let digest = announced_digest(&answer)?;
            answer.drain();
            Ok(digest)
        });
        match found {
            Ok(digest) => Ok(digest),
            Err(error) if matches!(error.status(), Some(400 | 404 | 405)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Collects what the repository lacks. A manifest that is there has its blobs there.
    fn plan(&self, descriptor: &Descriptor, work: &mut Work, depth: u32) -> Result<(), RegistryError> {
        if depth > MAX_INDEX_DEPTH {
            let digest = descriptor.digest.to_string();
            return Err(RegistryError::invalid("index", &digest, "indexes are nested too deeply"));
        }
        let digest = descriptor.digest;
        if !work.seen.insert(digest) {
            return Ok(());
        }
        let there = self.manifest_digest(&digest.to_string())? == Some(digest);
        let bytes = match self.content.document(descriptor, self.cancel) {
            // Of an index that came without all of its images, only the registry has the others.
            Err(error) if there && !error.is_cancelled() => return Ok(()),
            read => read?,
        };
        let media_type = media_type_of(descriptor, &bytes)?;
        if there {
            let document = parse(descriptor, &bytes)?;
            if document.subject().is_some() {
                work.present.push((document, bytes));
            }
            return Ok(());
        }
        match parse(descriptor, &bytes)? {
            Document::Index(index) => {
                for child in &index.manifests {
                    self.plan(child, work, depth + 1)?;
                }
            }
            Document::Manifest(manifest) => {
                for blob in manifest.layers.iter().chain([&manifest.config]) {
                    if !is_foreign(&blob.media_type) && work.seen.insert(blob.digest) {
                        work.blobs.push(blob.clone());
                    }
                }
            }
        }
        work.manifests.push((media_type, digest, bytes));
        Ok(())
    }

    /// All blobs, a few at a time. The first failure stops the others.
    pub(super) fn blobs(
        &self,
        blobs: &[Descriptor],
        progress: &(dyn Fn(PushProgress) + Sync),
    ) -> Result<Vec<BlobState>, RegistryError> {
        let next = AtomicUsize::new(0);
        let done: Mutex<Vec<BlobState>> = Mutex::default();
        let failed: Mutex<Option<RegistryError>> = Mutex::default();
        let run = || {
            while let Some(blob) = blobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                if self.stop.load(Ordering::Relaxed) {
                    return;
                }
                let tell = |current, state| {
                    progress(PushProgress { digest: blob.digest, current, total: blob.size, state });
                };
                match self.blob(blob, &|current| tell(current, BlobState::Sending)) {
                    Ok(state) => {
                        tell(blob.size, state);
                        done.lock().unwrap_or_else(PoisonError::into_inner).push(state);
                    }
                    Err(error) => {
                        failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                        self.stop.store(true, Ordering::Relaxed);
                    }
                }
            }
        };
        crate::threads::crew(blobs.len().min(self.options.parallel.max(1)), run);
        match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(done.into_inner().unwrap_or_else(PoisonError::into_inner)),
        }
    }
}

fn parse(descriptor: &Descriptor, bytes: &[u8]) -> Result<Document, RegistryError> {
    parse_bytes(&descriptor.digest, bytes)
}

fn parse_bytes(digest: &Digest, bytes: &[u8]) -> Result<Document, RegistryError> {
    Document::parse(bytes)
        .map_err(|error| RegistryError::invalid("manifest", &digest.to_string(), error.to_string()))
}

/// What to declare a manifest as: what it says itself, else what refers to it says.
fn media_type_of(descriptor: &Descriptor, bytes: &[u8]) -> Result<String, RegistryError> {
    let (own, default) = match parse(descriptor, bytes)? {
        Document::Index(index) => (index.media_type, Family::Oci.index()),
        Document::Manifest(manifest) => (manifest.media_type, Family::Oci.manifest()),
    };
    let given = descriptor.media_type.as_str();
    Ok(match (own.is_empty(), given.is_empty()) {
        (false, _) => own,
        (true, false) => given.to_owned(),
        (true, true) => default.to_owned(),
    })
}
