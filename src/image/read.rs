//! Reading images that exist already: OCI layouts (directory or tar), docker archives, the store.
//!
//! All of them are the same thing underneath: an index and blobs by digest. A docker archive is
//! given an index and manifests when it is opened. Nothing is believed before its digest was
//! verified.

use std::io::{self, Read, Write as _};
use std::path::Path;

use crate::compress::Packing;
use crate::digest::{DiffId, Digest};
use crate::store::{IngestError, Store, StoreError};

use super::build::LayerRef;
use super::choose::{ChooseError, Part, choose};
use super::config::ImageConfig;
use super::draft::{self, DRAFT, Draft, StoredLayer};
use super::manifest::{
    Descriptor, Document, Index, MAX_CONFIG_SIZE, MAX_MANIFEST_SIZE, Manifest, ManifestError,
};
use super::media_type::{Family, layer_compression};
use super::platform::Platform;
use super::reference::Reference;

mod docker_archive;
mod error;
mod files;

pub use error::ReadError;

/// Annotation of an index entry: the tag (OCI) or the whole name (some tools).
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Annotation of an index entry: the whole normalised name.
pub const IMAGE_NAME: &str = "io.containerd.image.name";

/// Bytes of a blob in memory.
const CHUNK: usize = 256 * 1024;

/// Which of the images of a source is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// The only one there is.
    Only,
    /// By tag, or by whole name in any of its forms.
    Name(String),
    /// By the digest of its manifest or index.
    Digest(Digest),
}

impl Selector {
    /// Reads the part after `:` or `@` in `oci-layout://path:tag`; empty text means
    /// [`Selector::Only`].
    pub fn parse(text: &str) -> Self {
        match Digest::parse(text) {
            Ok(digest) => Selector::Digest(digest),
            Err(_) if text.is_empty() => Selector::Only,
            Err(_) => Selector::Name(text.to_owned()),
        }
    }
}

/// An image whose manifest and config were read and verified.
#[derive(Clone, Debug, PartialEq)]
pub struct ResolvedImage {
    /// Digest of the manifest; of a draft, that of the draft.
    pub manifest_digest: Digest,
    /// Of a draft, by layer: how it is to be compressed, where it is listed as a plain tar.
    pub packing: Option<Vec<Option<Packing>>>,
    /// The manifest.
    pub manifest: Manifest,
    /// The manifest's bytes.
    pub manifest_bytes: Vec<u8>,
    /// The config.
    pub config: ImageConfig,
    /// The config's bytes.
    pub config_bytes: Vec<u8>,
    /// The layers, lowest first.
    pub layers: Vec<Descriptor>,
    /// Their diff IDs; as many as there are layers.
    pub diff_ids: Vec<DiffId>,
    /// The platform the config states. Where an image is no index, nobody has compared it with the
    /// platform that was asked for.
    pub platform: Platform,
}

impl ResolvedImage {
    /// Puts the two documents of an image together. The bytes must have been verified; `place` is
    /// for messages.
    pub fn new(place: &str, manifest_bytes: Vec<u8>, config_bytes: Vec<u8>) -> Result<Self, ReadError> {
        let manifest_digest = Digest::of(&manifest_bytes);
        let document = |what: &str, digest: &Digest| {
            let (place, what) = (place.to_owned(), format!("{what} {digest}"));
            move |source| ReadError::Document { place, what, source }
        };
        let manifest = Manifest::parse(&manifest_bytes).map_err(document("manifest", &manifest_digest))?;
        check_types(&manifest).map_err(document("manifest", &manifest_digest))?;
        let config: ImageConfig = serde_json::from_slice(&config_bytes)
            .map_err(ManifestError::from)
            .map_err(document("config", &manifest.config.digest))?;
        let diff_ids = config.rootfs.diff_ids.clone();
        if diff_ids.len() != manifest.layers.len() {
            return Err(ReadError::LayerCount {
                place: place.to_owned(),
                layers: manifest.layers.len(),
                diff_ids: diff_ids.len(),
            });
        }
        Ok(ResolvedImage {
            manifest_digest,
            packing: None,
            layers: manifest.layers.clone(),
            platform: Platform::new(&config.os, &config.architecture, &config.variant),
            manifest,
            manifest_bytes,
            config,
            config_bytes,
            diff_ids,
        })
    }

    /// The layers in the form that new images are assembled from.
    pub fn layer_refs(&self) -> Vec<LayerRef> {
        self.layers
            .iter()
            .zip(&self.diff_ids)
            .map(|(layer, diff_id)| LayerRef {
                diff_id: *diff_id,
                digest: layer.digest,
                size: layer.size,
                compression: layer_compression(&layer.media_type).unwrap_or_default(),
                annotations: layer.annotations.clone(),
            })
            .collect()
    }

    /// The layers as the store has them.
    pub fn stored_layers(&self) -> Vec<StoredLayer> {
        let packing = |at: usize| self.packing.as_ref()?.get(at).copied().flatten();
        let layers = self.layer_refs().into_iter().enumerate();
        layers.map(|(at, layer)| StoredLayer { layer, packing: packing(at) }).collect()
    }

    /// Whether its manifest is not known yet; see [`draft`].
    pub fn is_draft(&self) -> bool {
        self.packing.is_some()
    }

    /// The descriptor of the manifest.
    pub fn descriptor(&self) -> Descriptor {
        let media_type = match self.manifest.media_type.as_str() {
            "" => Family::Oci.manifest(),
            given => given,
        };
        Descriptor::new(media_type, self.manifest_digest, self.manifest_bytes.len() as u64)
    }
}

/// Other things are stored as manifests too (charts, signatures); they are no base images.
fn check_types(manifest: &Manifest) -> Result<(), ManifestError> {
    Family::Oci.retype(&manifest.config.media_type)?;
    manifest.check_foreign()?;
    match manifest.layers.iter().find(|layer| layer_compression(&layer.media_type).is_none()) {
        None => Ok(()),
        Some(layer) => Err(ManifestError::MediaType(layer.media_type.clone())),
    }
}

/// Blobs by digest, not verified.
pub trait BlobSource: Send + Sync {
    /// What it is, for messages.
    fn place(&self) -> String;

    /// Opens a blob; `None` where it is not here.
    fn open(&self, digest: &Digest) -> Result<Option<Box<dyn Read + Send>>, ReadError>;
}

/// Images to choose from, and their blobs.
pub trait ImageSource: Send + Sync {
    /// Finds an image; among several platforms, the one that serves `platform` best.
    fn resolve(&self, selector: &Selector, platform: &Platform) -> Result<ResolvedImage, ReadError>;

    /// Copies a blob into the store unless it is there already, verifying digest and size.
    fn copy_blob_into(&self, store: &Store, blob: &Descriptor) -> Result<(), ReadError>;

    /// The names of its images, for listing; `<untagged>@digest` for those without.
    fn names(&self) -> Vec<String>;

    /// What it is, for messages.
    fn place(&self) -> String;

    /// The entries of its index, with the annotations that name them.
    fn entries(&self) -> &[Descriptor];

    /// Finds an entry without looking into it: it may be an index.
    fn find(&self, selector: &Selector) -> Result<Descriptor, ReadError>;

    /// Opens a blob, which is not verified. A missing one is an error.
    fn open_blob(&self, digest: &Digest) -> Result<Box<dyn Read + Send>, ReadError>;
}

/// Opens an OCI layout directory, an OCI archive or a docker archive, telling them apart by content.
/// Archives may be compressed; they are then unpacked into a temporary file of `store`.
pub fn open_layout(path: &Path, store: &Store) -> Result<Box<dyn ImageSource>, ReadError> {
    let meta = std::fs::metadata(path).map_err(|source| ReadError::Io { path: path.to_owned(), source })?;
    if meta.is_dir() {
        let (index, blobs) = files::open_directory(path)?;
        return Ok(Box::new(Layout { index, blobs: Box::new(blobs) }));
    }
    let archive = files::Archive::open(path, store)?;
    if archive.has("oci-layout") && archive.has("index.json") {
        let index = archive.read_index()?;
        return Ok(Box::new(Layout { index, blobs: Box::new(archive) }));
    }
    if archive.has("manifest.json") {
        let (index, blobs) = docker_archive::open(archive)?;
        return Ok(Box::new(Layout { index, blobs: Box::new(blobs) }));
    }
    Err(ReadError::NotALayout {
        path: path.to_owned(),
        reason: "it has neither oci-layout with index.json nor manifest.json".to_owned(),
    })
}

/// Resolves a name (or digest) among the images of the store. `None` where the store does not have
/// that name.
pub fn from_store(
    store: &Store,
    reference: &Reference,
    platform: &Platform,
) -> Result<Option<ResolvedImage>, ReadError> {
    let Some(named) = named(store, reference)? else { return Ok(None) };
    if named.is_draft
        && let Some(image) = draft::resolve(store, &named.digest)?
    {
        return Ok(Some(image));
    }
    resolve_descriptor(&StoreBlobs(store), &named.digest, named.size, platform).map(Some)
}

/// What a name means in the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Named {
    /// Digest of a manifest, an index or a draft.
    pub digest: Digest,
    /// Its size, where it is known.
    pub size: Option<u64>,
    /// It is a draft.
    pub is_draft: bool,
}

/// What a name means in the store: of an image that was a draft once, its manifest.
pub(crate) fn named(store: &Store, reference: &Reference) -> Result<Option<Named>, ReadError> {
    let Some((digest, size, is_draft)) = referred_to(store, reference)? else { return Ok(None) };
    if is_draft && let Some(manifest) = draft::packed(store, &digest)? {
        let size = Some(manifest.size);
        return Ok(Some(Named { digest: manifest.digest, size, is_draft: false }));
    }
    Ok(Some(Named { digest, size, is_draft }))
}

/// What a name refers to: digest, size where known, and whether it is a draft.
fn referred_to(
    store: &Store,
    reference: &Reference,
) -> Result<Option<(Digest, Option<u64>, bool)>, ReadError> {
    if let Some(digest) = reference.digest {
        // Only an image without a name is known by the digest of its draft, which is no image of anybody else.
        let is_draft = reference.stands_for_digest() && Draft::read(store, &digest)?.is_some();
        return Ok(store.has_blob(&digest).then_some((digest, None, is_draft)));
    }
    let name = reference.clone().with_default_tag().to_string();
    let Some(bytes) = store.reference(&name)? else { return Ok(None) };
    let descriptor: Descriptor = serde_json::from_slice(&bytes).map_err(|source| ReadError::Document {
        place: StoreBlobs(store).place(),
        what: format!("record of {name}"),
        source: source.into(),
    })?;
    Ok(Some((descriptor.digest, Some(descriptor.size), descriptor.media_type == DRAFT)))
}

/// Blobs of the store.
pub(crate) struct StoreBlobs<'a>(pub(crate) &'a Store);

impl BlobSource for StoreBlobs<'_> {
    fn place(&self) -> String {
        format!("the store {}", self.0.root().display())
    }

    fn open(&self, digest: &Digest) -> Result<Option<Box<dyn Read + Send>>, ReadError> {
        Ok(self.0.open_blob(digest)?.map(|file| Box::new(file) as Box<dyn Read + Send>))
    }
}

/// An index over blobs: the one form that all readable things take.
struct Layout {
    index: Index,
    blobs: Box<dyn BlobSource>,
}

impl ImageSource for Layout {
    fn resolve(&self, selector: &Selector, platform: &Platform) -> Result<ResolvedImage, ReadError> {
        let blobs = self.blobs.as_ref();
        let candidates: Vec<&Descriptor> = match selector {
            Selector::Only => self.own_images(),
            Selector::Name(name) => self.images().filter(|image| is_named(image, name)).collect(),
            Selector::Digest(digest) => {
                // A digest inside a nested index is as good as one at the top.
                let known = self.index.manifests.iter().find(|image| image.digest == *digest);
                if known.is_none() && blobs.open(digest)?.is_none() {
                    return Err(self.not_found(digest.to_string()));
                }
                return resolve_descriptor(blobs, digest, known.map(|image| image.size), platform);
            }
        };
        let Some(first) = candidates.first() else {
            return Err(match selector {
                Selector::Name(name) => self.not_found(name.clone()),
                _ => ReadError::NoImage { place: blobs.place() },
            });
        };
        let chosen = if candidates.iter().all(|image| image.digest == first.digest) {
            first
        } else if candidates.iter().all(|image| image.platform.is_some() && same_name(image, first)) {
            let by_platform = Index::new(candidates.iter().map(|image| (*image).clone()).collect());
            let found = by_platform.serving(platform).first().map(|image| image.digest);
            let found = candidates.iter().find(|image| Some(image.digest) == found);
            found.ok_or_else(|| ReadError::Platform {
                place: blobs.place(),
                wanted: platform.to_string(),
                have: by_platform.platforms(),
            })?
        } else {
            return Err(ReadError::SeveralImages { place: blobs.place(), names: self.names() });
        };
        resolve_descriptor(blobs, &chosen.digest, Some(chosen.size), platform)
    }

    fn copy_blob_into(&self, store: &Store, blob: &Descriptor) -> Result<(), ReadError> {
        copy_blob(self.blobs.as_ref(), store, blob)
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .images()
            .map(|image| match (image.annotations.get(IMAGE_NAME), image.annotations.get(REF_NAME)) {
                (Some(name), _) | (None, Some(name)) => name.clone(),
                (None, None) => format!("<untagged>@{}", image.digest),
            })
            .collect();
        names.dedup();
        names
    }

    fn place(&self) -> String {
        self.blobs.place()
    }

    fn entries(&self) -> &[Descriptor] {
        &self.index.manifests
    }

    fn find(&self, selector: &Selector) -> Result<Descriptor, ReadError> {
        let found: Vec<&Descriptor> = match selector {
            Selector::Only => self.own_images(),
            Selector::Name(name) => self.images().filter(|image| is_named(image, name)).collect(),
            Selector::Digest(digest) => self.images().filter(|image| image.digest == *digest).collect(),
        };
        let Some(first) = found.first() else {
            return Err(match selector {
                Selector::Only => ReadError::NoImage { place: self.place() },
                Selector::Name(name) => self.not_found(name.clone()),
                Selector::Digest(digest) => self.not_found(digest.to_string()),
            });
        };
        if found.iter().any(|other| other.digest != first.digest) {
            return Err(ReadError::SeveralImages { place: self.place(), names: self.names() });
        }
        Ok((*first).clone())
    }

    fn open_blob(&self, digest: &Digest) -> Result<Box<dyn Read + Send>, ReadError> {
        let missing = || ReadError::MissingBlob { place: self.place(), digest: *digest };
        self.blobs.open(digest)?.ok_or_else(missing)
    }
}

impl Layout {
    fn images(&self) -> impl Iterator<Item = &Descriptor> {
        self.index.manifests.iter().filter(|image| !image.is_companion())
    }

    /// The images but those that only refer to others, such as signatures; all where there are no others.
    fn own_images(&self) -> Vec<&Descriptor> {
        let all: Vec<&Descriptor> = self.images().collect();
        if all.iter().all(|image| image.digest == all[0].digest) {
            return all;
        }
        let speaks_of_another = |image: &Descriptor| {
            read_document(&*self.blobs, &image.digest, Some(image.size), MAX_MANIFEST_SIZE)
                .is_ok_and(|bytes| Document::parse(&bytes).is_ok_and(|found| found.subject().is_some()))
        };
        let own: Vec<&Descriptor> = all.iter().copied().filter(|image| !speaks_of_another(image)).collect();
        if own.is_empty() { all } else { own }
    }

    fn not_found(&self, wanted: String) -> ReadError {
        ReadError::NotFound { place: self.blobs.place(), wanted, names: self.names() }
    }
}

fn same_name(a: &Descriptor, b: &Descriptor) -> bool {
    [REF_NAME, IMAGE_NAME].iter().all(|key| a.annotations.get(*key) == b.annotations.get(*key))
}

fn is_named(image: &Descriptor, wanted: &str) -> bool {
    let normal = |text: &str| Reference::parse(text).ok().map(|name| name.with_default_tag());
    [REF_NAME, IMAGE_NAME].iter().filter_map(|key| image.annotations.get(*key)).any(|name| {
        name == wanted
            || (name.contains([':', '/']) && normal(name).is_some_and(|n| normal(wanted) == Some(n)))
    })
}

/// Follows a digest through indexes to the manifest for `platform`, and reads its config.
fn resolve_descriptor(
    blobs: &dyn BlobSource,
    digest: &Digest,
    size: Option<u64>,
    platform: &Platform,
) -> Result<ResolvedImage, ReadError> {
    let top = Descriptor::new("", *digest, size.unwrap_or_default());
    let read = |descriptor: &Descriptor, part| {
        let size = if descriptor.digest == *digest { size } else { Some(descriptor.size) };
        let limit = match part {
            Part::Manifest => MAX_MANIFEST_SIZE,
            Part::Config => MAX_CONFIG_SIZE,
        };
        read_document(blobs, &descriptor.digest, size, limit)
    };
    let place = || blobs.place();
    let chosen = choose(&top, platform, read).map_err(|error| match error {
        ChooseError::Read(error) => error,
        ChooseError::Document { what, source } => ReadError::Document { place: place(), what, source },
        ChooseError::Platform(have) => {
            ReadError::Platform { place: place(), wanted: platform.to_string(), have }
        }
        ChooseError::TooDeep => ReadError::TooDeep { place: place() },
        ChooseError::TooMany => ReadError::TooMany { place: place() },
    })?;
    let config = &chosen.manifest.config;
    let config = read_document(blobs, &config.digest, Some(config.size), MAX_CONFIG_SIZE)?;
    ResolvedImage::new(&place(), chosen.bytes, config)
}

/// Reads a small blob whole and verifies it.
pub(crate) fn read_document(
    blobs: &dyn BlobSource,
    digest: &Digest,
    size: Option<u64>,
    limit: u64,
) -> Result<Vec<u8>, ReadError> {
    let place = || blobs.place();
    let mut bytes = Vec::new();
    blobs
        .open(digest)?
        .ok_or_else(|| ReadError::MissingBlob { place: place(), digest: *digest })?
        .take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| ReadError::Io { path: place().into(), source })?;
    let actual = bytes.len() as u64;
    if actual > limit {
        let source = ManifestError::TooLarge(actual);
        return Err(ReadError::Document { place: place(), what: digest.to_string(), source });
    }
    if let Some(expected) = size.filter(|size| *size != actual) {
        return Err(ReadError::Size {
            place: place(),
            digest: *digest,
            expected,
            actual: actual.to_string(),
        });
    }
    let actual = Digest::of(&bytes);
    if actual != *digest {
        return Err(ReadError::Mismatch { place: place(), expected: *digest, actual });
    }
    Ok(bytes)
}

fn copy_blob(blobs: &dyn BlobSource, store: &Store, blob: &Descriptor) -> Result<(), ReadError> {
    if store.has_blob(&blob.digest) {
        return Ok(());
    }
    let place = || blobs.place();
    let source = blobs
        .open(&blob.digest)?
        .ok_or_else(|| ReadError::MissingBlob { place: place(), digest: blob.digest })?;
    let mut writer = store.blob_writer()?;
    // One byte more than promised is enough to know that it is too much.
    let mut source = source.take(blob.size.saturating_add(1));
    let mut chunk = vec![0; CHUNK];
    loop {
        let bytes = match source.read(&mut chunk) {
            Ok(count) => &chunk[..count],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(source) => return Err(ReadError::Io { path: place().into(), source }),
        };
        if bytes.is_empty() {
            break;
        }
        // Two disks meet here: which of them failed is for the message.
        writer.write_all(bytes).map_err(|source| StoreError::Io {
            action: "write",
            path: writer.path().to_owned(),
            source,
        })?;
    }
    let copied = writer.size();
    if copied != blob.size {
        let actual = if copied > blob.size { "more".to_owned() } else { copied.to_string() };
        return Err(ReadError::Size { place: place(), digest: blob.digest, expected: blob.size, actual });
    }
    match writer.finish_verified(&blob.digest) {
        Ok(_) => Ok(()),
        Err(IngestError::Store(error)) => Err(error.into()),
        Err(IngestError::Mismatch { expected, actual, .. }) => {
            Err(ReadError::Mismatch { place: place(), expected, actual })
        }
    }
}

#[cfg(test)]
mod tests;
