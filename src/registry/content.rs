//! Where the parts of an image come from when they are pushed or copied.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Seek as _, SeekFrom};
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::cancel::Cancel;
use crate::digest::Digest;
use crate::image::manifest::{MAX_INDEX_DEPTH, MAX_MANIFEST_SIZE};
use crate::image::{Descriptor, Document, ImageSource, ReadError};
use crate::store::Store;

use super::access::RegistryAccess;
use super::blob::BlobReader;
use super::client::Registry;
use super::error::RegistryError;
use super::origins::{self, Origin};
use super::pull::MANIFEST_LIMIT;
use super::referrers::is_of;

/// Manifests and blobs by descriptor. Shared by several threads.
pub trait Content: Sync {
    /// What it is, for messages.
    fn place(&self) -> String;

    /// A manifest, index or other small document, verified.
    fn document(&self, descriptor: &Descriptor, cancel: &Cancel) -> Result<Vec<u8>, RegistryError>;

    /// The bytes of a blob from `offset` on. They need not be verified: who receives them does that.
    fn open(
        &self,
        blob: &Descriptor,
        offset: u64,
        cancel: &Cancel,
    ) -> Result<Box<dyn Read + Send + '_>, RegistryError>;

    /// Brings a blob into `store`, verified. `progress` is called with how many of its bytes have come.
    fn fetch(
        &self,
        store: &Store,
        blob: &Descriptor,
        progress: &dyn Fn(u64),
        cancel: &Cancel,
    ) -> Result<(), RegistryError>;

    /// Repositories of the registry `host` that probably have the blob.
    fn repositories(&self, blob: &Digest, host: &str) -> Vec<String>;

    /// Descriptors of the manifests that refer to `subject`, as far as the place lists them; only those of
    /// `artifact_type` where given. A store and a layout list what their names and entries lead to.
    fn referrers(
        &self,
        subject: &Digest,
        artifact_type: Option<&str>,
        cancel: &Cancel,
    ) -> Result<Vec<Descriptor>, RegistryError>;
}

/// The store, and for what it knows by descriptor only, the registries that it came from.
pub struct StoreContent {
    store: Store,
    access: RegistryAccess,
    open: Mutex<BTreeMap<(String, String), Registry>>,
    by_subject: OnceLock<BySubject>,
}

impl StoreContent {
    /// Content of `store`. Registries are reached as `access` says.
    pub fn new(store: &Store, access: &RegistryAccess) -> Self {
        let (store, access) = (store.clone(), access.clone());
        StoreContent { store, access, open: Mutex::default(), by_subject: OnceLock::new() }
    }

    /// Tries the registries that are known to have something; the last failure is reported.
    fn elsewhere<T>(
        &self,
        descriptor: &Descriptor,
        attempt: impl Fn(&Registry, &str) -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        let mut last = None;
        for origin in origins::known(&self.store, &descriptor.digest)? {
            match self.registry(&origin).and_then(|registry| attempt(&registry, &origin.repository)) {
                Ok(value) => return Ok(value),
                Err(error) if error.is_cancelled() => return Err(error),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| RegistryError::Source {
            what: format!("blob {}", descriptor.digest),
            place: self.place(),
            reason: "it is not there, and no registry is known to have it; pull or build the image again"
                .to_owned(),
        }))
    }

    fn registry(&self, origin: &Origin) -> Result<Registry, RegistryError> {
        let key = (origin.host.clone(), origin.repository.clone());
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(registry) = open.get(&key) {
            return Ok(registry.clone());
        }
        let registry = self.access.open(&origin.host, &origin.repository)?;
        open.insert(key, registry.clone());
        Ok(registry)
    }
}

impl Content for StoreContent {
    fn place(&self) -> String {
        format!("the store {}", self.store.root().display())
    }

    fn document(&self, descriptor: &Descriptor, cancel: &Cancel) -> Result<Vec<u8>, RegistryError> {
        if let Some(bytes) = self.store.read_blob(&descriptor.digest)? {
            return verified(self.place(), descriptor, bytes);
        }
        self.elsewhere(descriptor, |registry, repository| {
            Ok(registry.manifest(repository, &descriptor.digest.to_string(), cancel)?.bytes)
        })
    }

    fn open(
        &self,
        blob: &Descriptor,
        offset: u64,
        cancel: &Cancel,
    ) -> Result<Box<dyn Read + Send + '_>, RegistryError> {
        let Some(mut file) = self.store.open_blob(&blob.digest)? else {
            return self
                .elsewhere(blob, |registry, repository| stream(registry, repository, blob, offset, cancel));
        };
        let fail = |reason: String| unreadable(self.place(), blob, reason);
        let size = file.metadata().map_err(|error| fail(error.to_string()))?.len();
        if size != blob.size {
            return Err(fail(format!("it has {size} bytes instead of {}", blob.size)));
        }
        file.seek(SeekFrom::Start(offset)).map_err(|error| fail(error.to_string()))?;
        Ok(Box::new(file))
    }

    fn fetch(
        &self,
        store: &Store,
        blob: &Descriptor,
        progress: &dyn Fn(u64),
        cancel: &Cancel,
    ) -> Result<(), RegistryError> {
        if store.has_blob(&blob.digest) {
            return Ok(());
        }
        self.elsewhere(blob, |registry, repository| {
            registry.pull_blob(repository, &blob.digest, blob.size, store, progress, cancel)
        })
    }

    fn repositories(&self, blob: &Digest, host: &str) -> Vec<String> {
        let known = origins::known(&self.store, blob).unwrap_or_default();
        known.into_iter().filter(|origin| origin.host == host).map(|origin| origin.repository).collect()
    }

    fn referrers(
        &self,
        subject: &Digest,
        artifact_type: Option<&str>,
        cancel: &Cancel,
    ) -> Result<Vec<Descriptor>, RegistryError> {
        known_by_subject(&self.by_subject, subject, artifact_type, || {
            let mut named = Vec::new();
            for (name, _) in self.store.references()? {
                let record = self.store.reference(&name)?.unwrap_or_default();
                named.extend(serde_json::from_slice::<Descriptor>(&record));
            }
            by_subject(self, &named, cancel)
        })
    }
}

/// One repository of a registry.
pub struct RegistryContent {
    registry: Registry,
    repository: String,
    /// Documents that were fetched already: registries count requests for manifests.
    known: BTreeMap<Digest, Vec<u8>>,
}

impl RegistryContent {
    /// The content of `repository` in `registry`.
    pub fn new(registry: &Registry, repository: &str) -> Self {
        let (registry, repository) = (registry.clone(), repository.to_owned());
        RegistryContent { registry, repository, known: BTreeMap::new() }
    }

    /// The same, knowing a document that was fetched before.
    pub fn with_document(mut self, bytes: Vec<u8>) -> Self {
        self.known.insert(Digest::of(&bytes), bytes);
        self
    }
}

impl Content for RegistryContent {
    fn place(&self) -> String {
        format!("{}/{}", self.registry.host(), self.repository)
    }

    fn document(&self, descriptor: &Descriptor, cancel: &Cancel) -> Result<Vec<u8>, RegistryError> {
        if let Some(bytes) = self.known.get(&descriptor.digest) {
            return Ok(bytes.clone());
        }
        let reference = descriptor.digest.to_string();
        Ok(self.registry.manifest(&self.repository, &reference, cancel)?.bytes)
    }

    fn open(
        &self,
        blob: &Descriptor,
        offset: u64,
        cancel: &Cancel,
    ) -> Result<Box<dyn Read + Send + '_>, RegistryError> {
        stream(&self.registry, &self.repository, blob, offset, cancel)
    }

    fn fetch(
        &self,
        store: &Store,
        blob: &Descriptor,
        progress: &dyn Fn(u64),
        cancel: &Cancel,
    ) -> Result<(), RegistryError> {
        self.registry.pull_blob(&self.repository, &blob.digest, blob.size, store, progress, cancel)?;
        let origin = Origin { host: self.registry.host().to_owned(), repository: self.repository.clone() };
        Ok(origins::note(store, &blob.digest, &origin)?)
    }

    fn repositories(&self, _: &Digest, host: &str) -> Vec<String> {
        if host == self.registry.host() { vec![self.repository.clone()] } else { Vec::new() }
    }

    fn referrers(
        &self,
        subject: &Digest,
        artifact_type: Option<&str>,
        cancel: &Cancel,
    ) -> Result<Vec<Descriptor>, RegistryError> {
        Ok(self.registry.referrers(&self.repository, subject, artifact_type, cancel)?.manifests)
    }
}

/// A layout or archive.
pub struct LayoutContent {
    source: Box<dyn ImageSource>,
    by_subject: OnceLock<BySubject>,
}

impl LayoutContent {
    /// The content of an opened layout or archive.
    pub fn new(source: Box<dyn ImageSource>) -> Self {
        LayoutContent { source, by_subject: OnceLock::new() }
    }

    fn failure(&self, blob: &Descriptor, error: ReadError) -> RegistryError {
        match error {
            ReadError::Store(error) => error.into(),
            other => unreadable(self.place(), blob, other.to_string()),
        }
    }
}

impl Content for LayoutContent {
    fn place(&self) -> String {
        self.source.place()
    }

    fn document(&self, descriptor: &Descriptor, _: &Cancel) -> Result<Vec<u8>, RegistryError> {
        let mut bytes = Vec::new();
        let opened = self.source.open_blob(&descriptor.digest);
        let opened = opened.map_err(|error| self.failure(descriptor, error))?;
        opened
            .take(MAX_MANIFEST_SIZE + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| unreadable(self.place(), descriptor, error.to_string()))?;
        verified(self.place(), descriptor, bytes)
    }

    fn open(
        &self,
        blob: &Descriptor,
        offset: u64,
        _: &Cancel,
    ) -> Result<Box<dyn Read + Send + '_>, RegistryError> {
        let mut opened = self.source.open_blob(&blob.digest).map_err(|error| self.failure(blob, error))?;
        skip(&mut opened, offset).map_err(|error| unreadable(self.place(), blob, error.to_string()))?;
        Ok(opened)
    }

    fn fetch(
        &self,
        store: &Store,
        blob: &Descriptor,
        progress: &dyn Fn(u64),
        _: &Cancel,
    ) -> Result<(), RegistryError> {
        self.source.copy_blob_into(store, blob).map_err(|error| self.failure(blob, error))?;
        progress(blob.size);
        Ok(())
    }

    fn repositories(&self, _: &Digest, _: &str) -> Vec<String> {
        Vec::new()
    }

    fn referrers(
        &self,
        subject: &Digest,
        artifact_type: Option<&str>,
        cancel: &Cancel,
    ) -> Result<Vec<Descriptor>, RegistryError> {
        let find = || by_subject(self, self.source.entries(), cancel);
        known_by_subject(&self.by_subject, subject, artifact_type, find)
    }
}

/// Referrers by what they refer to.
type BySubject = BTreeMap<Digest, Vec<Descriptor>>;

/// The referrers among `tops` and what indexes there lead to. What an index only names is passed over.
fn by_subject(
    content: &dyn Content,
    tops: &[Descriptor],
    cancel: &Cancel,
) -> Result<BySubject, RegistryError> {
    let (mut found, mut seen) = (BySubject::new(), BTreeSet::new());
    let mut left: Vec<(Descriptor, u32)> = tops.iter().rev().map(|top| (top.clone(), 0)).collect();
    while let Some((descriptor, depth)) = left.pop() {
        if depth > MAX_INDEX_DEPTH || !seen.insert(descriptor.digest) {
            continue;
        }
        let bytes = match content.document(&descriptor, cancel) {
            Ok(bytes) => bytes,
            Err(error) if depth == 0 || error.is_cancelled() => return Err(error),
            Err(_) => continue,
        };
        let Ok(document) = Document::parse(&bytes) else { continue };
        if let Some(subject) = document.subject() {
            found.entry(subject.digest).or_default().push(document.listed(&bytes));
        }
        if let Document::Index(index) = document {
            left.extend(index.manifests.into_iter().rev().map(|child| (child, depth + 1)));
        }
    }
    Ok(found)
}

/// The referrers of one type, from what is found the first time it is needed.
fn known_by_subject(
    known: &OnceLock<BySubject>,
    subject: &Digest,
    artifact_type: Option<&str>,
    find: impl FnOnce() -> Result<BySubject, RegistryError>,
) -> Result<Vec<Descriptor>, RegistryError> {
    let known = match known.get() {
        Some(known) => known,
        None => {
            let found = find()?;
            known.get_or_init(|| found)
        }
    };
    let all = known.get(subject).into_iter().flatten();
    Ok(all.filter(|entry| is_of(entry, artifact_type)).cloned().collect())
}

fn stream(
    registry: &Registry,
    repository: &str,
    blob: &Descriptor,
    offset: u64,
    cancel: &Cancel,
) -> Result<Box<dyn Read + Send>, RegistryError> {
    let mut reader = registry.open_blob(repository, &blob.digest, blob.size, cancel)?;
    match skip(&mut reader, offset) {
        Ok(()) => Ok(Box::new(reader)),
        Err(error) => Err(BlobReader::cause(error)
            .unwrap_or_else(|error| unreadable(registry.host().to_owned(), blob, error.to_string()))),
    }
}

fn skip(reader: &mut dyn Read, bytes: u64) -> io::Result<()> {
    let skipped = io::copy(&mut reader.take(bytes), &mut io::sink())?;
    if skipped < bytes { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
}

/// What cannot be read, in the words of the error.
pub(super) fn unreadable(place: String, blob: &Descriptor, reason: String) -> RegistryError {
    RegistryError::Source { what: format!("blob {}", blob.digest), place, reason }
}

fn verified(place: String, descriptor: &Descriptor, bytes: Vec<u8>) -> Result<Vec<u8>, RegistryError> {
    if bytes.len() > MANIFEST_LIMIT {
        let reason = format!("it is larger than {MANIFEST_LIMIT} bytes");
        return Err(unreadable(place, descriptor, reason));
    }
    if Digest::of(&bytes) != descriptor.digest {
        return Err(unreadable(place, descriptor, "its content does not match its digest".to_owned()));
    }
    Ok(bytes)
}
