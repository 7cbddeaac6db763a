//! A cache in a directory: an OCI layout whose manifests are those that registries get.
//!
//! Writers take turns by a lock file, and each merges what it finds. What readers see changes by renames:
//! blobs first, then `index.json`. Blobs that only the replaced manifest named are removed at the end.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use crate::cancel::Cancel;
use crate::digest::{Digest, Hasher};
use crate::fs::new_file_beside;
use crate::image::manifest::{Manifest, canonical};
use crate::image::read::REF_NAME;
use crate::image::{Descriptor, Document, Family, ImageSource, Index, ReadError, open_layout};
use crate::registry::origins::Origin;
use crate::store::Store;

use super::document::{ARTIFACT_TYPE, CacheDocument, DOCUMENT_TYPE, LayerBlob};
use super::failure::CacheError;
use super::found::{self, Parts};
use super::place::{CachePlace, Export, Exported, ReadCache};
use super::repository::manifest;

const LAYOUT_VERSION: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
const LOCK: &str = "rbuild-cache.lock";
/// How often a cache is read that changes meanwhile.
const MOST_LOOKS: usize = 5;

/// A cache in a layout, under a tag or, to be read only, by the digest of its manifest.
pub struct DirectoryCache {
    name: String,
    path: PathBuf,
    tag: String,
    digest: Option<Digest>,
    store: Store,
}

impl DirectoryCache {
    /// The cache in the directory `path`. `store` is where archives are unpacked.
    pub fn new(name: String, path: PathBuf, tag: &str, digest: Option<Digest>, store: &Store) -> Self {
        DirectoryCache { name, path, tag: tag.to_owned(), digest, store: store.clone() }
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.path.join("blobs/sha256").join(digest.hex())
    }

    /// The entry of the index; `None` where nothing has been written yet.
    fn entry(&self, source: &dyn ImageSource) -> Option<Descriptor> {
        let wanted = |entry: &&Descriptor| match &self.digest {
            Some(digest) => entry.digest == *digest,
            None => entry.annotations.get(REF_NAME) == Some(&self.tag),
        };
        source.entries().iter().find(wanted).cloned()
    }

    /// The document and the manifest above it.
    fn look(&self) -> Result<Option<(Descriptor, CacheDocument)>, CacheError> {
        if !self.path.join("index.json").exists() {
            return Ok(None);
        }
        let source = open_layout(&self.path, &self.store)?;
        let Some(entry) = self.entry(&*source) else { return Ok(None) };
        let parts = LayoutParts { cache: self, source: &*source };
        let bytes = parts.manifest(&entry)?;
        Ok(Some((entry, found::read(&parts, &bytes)?.document)))
    }

    /// As [`DirectoryCache::look`], again where a writer replaced what was being read.
    fn look_again(&self) -> Result<Option<(Descriptor, CacheDocument)>, CacheError> {
        let mut looks = 1;
        loop {
            match self.look() {
                Err(CacheError::Layout(ReadError::MissingBlob { .. })) if looks < MOST_LOOKS => looks += 1,
                looked => return looked,
            }
        }
    }

    /// Makes the directory, if it may be used.
    fn prepare(&self) -> Result<File, CacheError> {
        fs::create_dir_all(&self.path).map_err(CacheError::io("create", &self.path))?;
        let mut names = fs::read_dir(&self.path).map_err(CacheError::io("read", &self.path))?;
        let known = |name: &std::ffi::OsStr| name == LOCK || name == "blobs" || name == "oci-layout";
        let is_layout = self.path.join("index.json").is_file();
        if !is_layout && names.any(|entry| entry.is_ok_and(|entry| !known(&entry.file_name()))) {
            let what = "neither empty nor an OCI layout: choose another directory for the cache".to_owned();
            return Err(CacheError::Alien { place: self.name.clone(), what });
        }
        for dir in ["blobs", "blobs/sha256"].map(|name| self.path.join(name)) {
            match fs::create_dir(&dir) {
                // Through a link, blobs would be written outside.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    if !fs::symlink_metadata(&dir).is_ok_and(|meta| meta.is_dir()) {
                        return Err(CacheError::io("use", &dir)(io::ErrorKind::NotADirectory.into()));
                    }
                }
                made => made.map_err(CacheError::io("create", &dir))?,
            }
        }
        let path = self.path.join(LOCK);
        // Somebody else may have made the directory: a link leads nowhere, and nobody waits for a pipe.
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
        let opened = File::options().create(true).truncate(false).write(true).custom_flags(flags).open(&path);
        let lock = opened.map_err(CacheError::io("open", &path))?;
        if !lock.metadata().is_ok_and(|meta| meta.is_file()) {
            return Err(CacheError::io("lock", &path)(io::ErrorKind::InvalidData.into()));
        }
        lock.lock().map_err(CacheError::io("lock", &path))?;
        Ok(lock)
    }

    fn has_layer(&self, layer: &LayerBlob) -> bool {
        let path = self.blob_path(&layer.digest);
        fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file() && meta.len() == layer.size)
    }

    /// Writes a layer unless it is there. A file of the right size is believed to be what it should be, unless
    /// something turned out to be wrong here: then all are read.
    fn put_layer(&self, layer: &LayerBlob, export: &Export<'_>) -> Result<u64, CacheError> {
        let path = self.blob_path(&layer.digest);
        if self.has_layer(layer) && (export.bad.is_empty() || is_blob(&path, &layer.digest)) {
            return Ok(0);
        }
        let mut content = export.content.open(&layer.descriptor(), 0, export.cancel)?;
        let mut partial = new_file_beside(&path, 0o644).map_err(CacheError::io("create", &path))?;
        let mut hashing = Hashing { hasher: Hasher::new(), size: 0 };
        let mut piece = vec![0; 256 << 10];
        loop {
            if export.cancel.is_cancelled() {
                return Err(crate::registry::RegistryError::Cancelled.into());
            }
            let count = content.read(&mut piece).map_err(CacheError::io("read", Path::new("a layer")))?;
            let Some(bytes) = piece.get(..count).filter(|bytes| !bytes.is_empty()) else { break };
            partial.write_all(bytes).map_err(CacheError::io("write", &path))?;
            hashing.add(bytes);
            (export.progress)(&layer.digest, hashing.size, layer.size);
        }
        if hashing.hasher.finish() != layer.digest {
            let reason = format!("its content is not what its digest {} says", layer.digest);
            return Err(CacheError::Malformed { place: format!("the layer of {}", self.name), reason });
        }
        persist(partial, &path)?;
        Ok(layer.size)
    }

    fn put_bytes(&self, path: &Path, bytes: &[u8]) -> Result<(), CacheError> {
        let mut partial = new_file_beside(path, 0o644).map_err(CacheError::io("create", path))?;
        partial.write_all(bytes).map_err(CacheError::io("write", path))?;
        persist(partial, path)
    }

    fn index(&self) -> Result<Index, CacheError> {
        let path = self.path.join("index.json");
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Index::new(Vec::new())),
            Err(error) => return Err(CacheError::io("read", &path)(error)),
        };
        match Document::parse(&bytes) {
            Ok(Document::Index(index)) => Ok(*index),
            _ => Err(CacheError::Malformed {
                place: path.display().to_string(),
                reason: "it is no index".into(),
            }),
        }
    }

    /// Removes blobs of a replaced manifest that nothing in the layout names any more.
    fn remove_replaced(&self, replaced: &[Descriptor], index: &Index) {
        let Some(needed) = self.reachable(index) else { return };
        for manifest in replaced {
            for digest in self.named_by(manifest).unwrap_or_default() {
                if !needed.contains(&digest) {
                    let _ = fs::remove_file(self.blob_path(&digest));
                }
            }
        }
    }

    /// All blobs that an index leads to; `None` where that cannot be known.
    fn reachable(&self, index: &Index) -> Option<BTreeSet<Digest>> {
        let mut all = BTreeSet::new();
        for entry in &index.manifests {
            all.extend(self.named_by(entry)?);
        }
        Some(all)
    }

    fn named_by(&self, top: &Descriptor) -> Option<Vec<Digest>> {
        let mut all = vec![top.digest];
        match Document::parse(&fs::read(self.blob_path(&top.digest)).ok()?).ok()? {
            Document::Index(index) => all.extend(self.reachable(&index)?),
            Document::Manifest(manifest) => {
                let Manifest { config, layers, .. } = *manifest;
                all.extend(layers.iter().chain([&config]).map(|blob| blob.digest));
            }
        }
        Some(all)
    }
}

impl CachePlace for DirectoryCache {
    fn name(&self) -> &str {
        &self.name
    }

    fn read(&self, _: &Cancel) -> Result<ReadCache, CacheError> {
        let found = self.look_again()?;
        let (_, document) = found.ok_or_else(|| CacheError::NotFound { place: self.name.clone() })?;
        Ok(ReadCache { document, failures: Vec::new() })
    }

    fn fetch(
        &self,
        layer: &LayerBlob,
        store: &Store,
        progress: &dyn Fn(u64),
        _: &Cancel,
    ) -> Result<(), CacheError> {
        open_layout(&self.path, &self.store)?.copy_blob_into(store, &layer.descriptor())?;
        progress(layer.size);
        Ok(())
    }

    fn origin(&self) -> Option<&Origin> {
        None
    }

    fn write(&self, export: &Export<'_>) -> Result<Exported, CacheError> {
        let _lock = self.prepare()?;
        let found = match self.look() {
            _ if export.reset => None,
            // Damage is replaced.
            Err(CacheError::Malformed { .. } | CacheError::Layout(_) | CacheError::Alien { .. }) => None,
            found => found?,
        };
        let known = found.as_ref().map(|(_, document)| document.clone()).unwrap_or_default();
        let document = export.merged_with(export.without_bad(known.clone()));
        let entries = document.entries.len();
        let same = document.entries == known.entries && document.answers == known.answers;
        // The same records say nothing of layers that were damaged or lost since they were written.
        let whole = export.bad.is_empty() && document.layers().iter().all(|layer| self.has_layer(layer));
        let nothing = document.entries.is_empty() && known.entries.is_empty();
        if nothing || (found.is_some() && same && whole) {
            return Ok(Exported { entries, unchanged: true, ..Exported::default() });
        }
        let (mut sent, mut sent_bytes) = (0, 0);
        for layer in document.layers() {
            let bytes = self.put_layer(layer, export)?;
            sent += usize::from(bytes > 0);
            sent_bytes += bytes;
        }
        let bytes = document.to_bytes();
        let config = Descriptor::of(DOCUMENT_TYPE, &bytes);
        self.put_bytes(&self.blob_path(&config.digest), &bytes)?;
        let manifest = manifest(&document, config)?;
        let mut entry = Descriptor::of(Family::Oci.manifest(), &manifest);
        self.put_bytes(&self.blob_path(&entry.digest), &manifest)?;
        entry.artifact_type = Some(ARTIFACT_TYPE.to_owned());
        entry.annotations.insert(REF_NAME.to_owned(), self.tag.clone());
        let mut index = self.index()?;
        let is_ours = |entry: &Descriptor| entry.annotations.get(REF_NAME) == Some(&self.tag);
        let replaced: Vec<Descriptor> = index.manifests.extract_if(.., |entry| is_ours(entry)).collect();
        index.manifests.push(entry);
        let bytes_of_index = canonical(&index)
            .map_err(|error| CacheError::Malformed { place: self.name.clone(), reason: error.to_string() })?;
        self.put_bytes(&self.path.join("index.json"), &bytes_of_index)?;
        self.put_bytes(&self.path.join("oci-layout"), LAYOUT_VERSION)?;
        self.remove_replaced(&replaced, &index);
        sent_bytes += (bytes.len() + manifest.len()) as u64;
        Ok(Exported { entries, sent_bytes, sent, mounted: 0, unchanged: false })
    }
}

fn is_blob(path: &Path, digest: &Digest) -> bool {
    let mut hasher = Hasher::new();
    let copied = File::open(path).and_then(|mut file| io::copy(&mut file, &mut hasher));
    copied.is_ok() && hasher.finish() == *digest
}

struct Hashing {
    hasher: Hasher,
    size: u64,
}

impl Hashing {
    fn add(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
    }
}

fn persist(partial: tempfile::NamedTempFile, path: &Path) -> Result<(), CacheError> {
    partial.persist(path).map(drop).map_err(|error| CacheError::io("rename", path)(error.error))
}

struct LayoutParts<'a> {
    cache: &'a DirectoryCache,
    source: &'a dyn ImageSource,
}

impl LayoutParts<'_> {
    fn read(&self, descriptor: &Descriptor, limit: u64) -> Result<Vec<u8>, CacheError> {
        let mut bytes = Vec::new();
        let opened = self.source.open_blob(&descriptor.digest)?;
        let path = self.cache.blob_path(&descriptor.digest);
        opened.take(limit + 1).read_to_end(&mut bytes).map_err(CacheError::io("read", &path))?;
        if Digest::of(&bytes) != descriptor.digest {
            let reason = format!("blob {} has other content than its digest says", descriptor.digest);
            return Err(found::malformed(self, reason));
        }
        Ok(bytes)
    }
}

impl Parts for LayoutParts<'_> {
    fn place(&self) -> String {
        self.cache.name.clone()
    }

    fn manifest(&self, descriptor: &Descriptor) -> Result<Vec<u8>, CacheError> {
        self.read(descriptor, crate::image::manifest::MAX_MANIFEST_SIZE)
    }

    fn config(&self, descriptor: &Descriptor, limit: u64) -> Result<Vec<u8>, CacheError> {
        self.read(descriptor, limit)
    }
}
