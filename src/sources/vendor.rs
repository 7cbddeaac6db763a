//! Sources gathered in an OCI layout, from which a build needs no network (docs/lock.md).
//!
//! Images lie there as they are. A git tree is a tar, a download its file; each is the only layer of an artifact's
//! manifest, so that any tool that copies layouts copies them too.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::digest::Digest;
use crate::fs::open_file_in;
use crate::image::manifest::MAX_MANIFEST_SIZE;
use crate::image::read::IMAGE_NAME;
use crate::image::{
    Descriptor, ImageSource, Index, Manifest, Platform, ReadError, Reference, ResolvedImage, Selector,
    open_layout,
};
use crate::remote::{HttpFile, HttpUrl};
use crate::store::Store;

/// Marks the index of a layout that `rbuild vendor` wrote.
pub const MARK: &str = "dev.rbuild.vendor";
/// The value of [`MARK`] where all was gathered.
pub const COMPLETE: &str = "1";
/// The value of [`MARK`] from the beginning on, until all is gathered.
pub const UNFINISHED: &str = "unfinished";
/// Artifact type of a checked-out commit.
pub const GIT: &str = "application/vnd.rbuild.source.git.v1";
/// Artifact type of a download.
pub const FILE: &str = "application/vnd.rbuild.source.file.v1";
/// Annotation: the address, without credentials.
pub const URL: &str = "dev.rbuild.source.url";
/// Annotation of a commit: what its files depend on, as cache keys have it.
pub const KEY: &str = "dev.rbuild.source.key";
/// Annotation: the time of the commit, or `Last-Modified`, in seconds since 1970.
pub const TIME: &str = "dev.rbuild.source.time";
/// Annotation of a download: SHA-256 of its content.
pub const CHECKSUM: &str = "dev.rbuild.source.checksum";

/// A layout with sources.
pub struct Vendor {
    dir: PathBuf,
    source: Arc<dyn ImageSource>,
}

impl Vendor {
    /// Opens a layout. Nothing of it is believed before its digest was verified, apart from the annotations of its
    /// index.
    pub fn open(dir: &Path, store: &Store) -> Result<Self, ReadError> {
        Ok(Vendor { dir: dir.to_owned(), source: Arc::from(open_layout(dir, store)?) })
    }

    /// Whether the directory was begun and never completed.
    pub fn is_unfinished(dir: &Path) -> bool {
        let index = open_file_in(dir, b"index.json").and_then(|file| {
            let mut bytes = Vec::new();
            file.take(MAX_MANIFEST_SIZE).read_to_end(&mut bytes).map(|_| bytes)
        });
        let index = serde_json::from_slice::<Index>(&index.unwrap_or_default());
        index.is_ok_and(|index| index.annotations.get(MARK).is_some_and(|mark| mark == UNFINISHED))
    }

    /// Where it lies.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its images and blobs.
    pub fn images(&self) -> Arc<dyn ImageSource> {
        self.source.clone()
    }

    /// The image that a digest or, without one, a name means here; `None` where it is not here.
    pub fn image(
        &self,
        name: &Reference,
        digest: Option<Digest>,
        platform: &Platform,
    ) -> Result<Option<(Digest, ResolvedImage)>, ReadError> {
        let full = name.to_string();
        let is_it = |entry: &&Descriptor| match digest {
            Some(digest) => entry.digest == digest,
            None => entry.annotations.get(IMAGE_NAME) == Some(&full),
        };
        let Some(entry) = self.source.entries().iter().find(is_it) else { return Ok(None) };
        let image = self.source.resolve(&Selector::Digest(entry.digest), platform)?;
        Ok(Some((entry.digest, image)))
    }

    fn find(&self, kind: &str, annotations: &[(&str, &str)]) -> Option<&Descriptor> {
        self.source.entries().iter().find(|entry| {
            let has =
                |(key, value): &(&str, &str)| entry.annotations.get(*key).is_some_and(|own| own == value);
            entry.artifact_type.as_deref() == Some(kind) && annotations.iter().all(has)
        })
    }

    /// Brings the only layer of an artifact into the store.
    fn bring(&self, entry: &Descriptor, store: &Store) -> Result<Descriptor, ReadError> {
        self.source.copy_blob_into(store, entry)?;
        let document = |source| ReadError::Document {
            place: self.source.place(),
            what: format!("manifest {}", entry.digest),
            source,
        };
        let bytes = store.read_blob(&entry.digest)?.unwrap_or_default();
        let manifest = Manifest::parse(&bytes).map_err(document)?;
        let Some(blob) = manifest.layers.first() else {
            return Err(ReadError::MissingBlob { place: self.source.place(), digest: entry.digest });
        };
        self.source.copy_blob_into(store, blob)?;
        Ok(blob.clone())
    }

    /// The file that came from an address, with this content if a digest is given. It is copied into the store.
    pub fn file(
        &self,
        url: &HttpUrl,
        digest: Option<Digest>,
        store: &Store,
    ) -> Result<Option<HttpFile>, ReadError> {
        let (url_text, digest) = (url.to_string(), digest.map(|digest| digest.to_string()));
        let mut wanted = vec![(URL, url_text.as_str())];
        wanted.extend(digest.as_deref().map(|digest| (CHECKSUM, digest)));
        let Some(entry) = self.find(FILE, &wanted) else { return Ok(None) };
        let blob = self.bring(entry, store)?;
        Ok(Some(HttpFile {
            digest: blob.digest,
            size: blob.size,
            name: url.file_name(),
            last_modified: time(entry),
            path: store.blob_path(&blob.digest),
        }))
    }

    /// The tar of a checked-out commit, which is copied into the store, and the commit's time.
    pub fn tree(&self, key: &str, store: &Store) -> Result<Option<(PathBuf, i64)>, ReadError> {
        let Some(entry) = self.find(GIT, &[(KEY, key)]) else { return Ok(None) };
        let blob = self.bring(entry, store)?;
        Ok(Some((store.blob_path(&blob.digest), time(entry).unwrap_or(0))))
    }
}

fn time(entry: &Descriptor) -> Option<i64> {
    entry.annotations.get(TIME)?.parse().ok()
}
