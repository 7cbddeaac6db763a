//! Docker archives (`docker save` before 25, `podman save`): `manifest.json` names configs and
//! layers by path. Opening one gives every image a manifest, so that the rest of the house sees blobs
//! by digest here too.

use std::collections::BTreeMap;
use std::io::{self, Read};

use serde::Deserialize;
use serde_json::Map;

use crate::compress::CompressionAlgorithm;
use crate::digest::{DiffId, Digest, Hasher};
use crate::image::config::ImageConfig;
use crate::image::manifest::{Descriptor, Index, Manifest, ManifestError, canonical};
use crate::image::media_type::Family;
use crate::image::reference::Reference;

use super::files::{Archive, Extent};
use super::{BlobSource, IMAGE_NAME, REF_NAME, ReadError};

/// The archive with what was made up for it.
pub(super) struct DockerArchive {
    archive: Archive,
    files: BTreeMap<Digest, Extent>,
    manifests: BTreeMap<Digest, Vec<u8>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    config: String,
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

/// Reads `manifest.json` and the configs. Layers that are compressed and not named by their digest
/// are read once, to know it.
pub(super) fn open(archive: Archive) -> Result<(Index, DockerArchive), ReadError> {
    let items = archive.read("manifest.json")?;
    let items: Vec<Item> = serde_json::from_slice(&items).map_err(|source| document(&archive, source))?;
    let mut opened = DockerArchive { archive, files: BTreeMap::new(), manifests: BTreeMap::new() };
    let mut index = Index::new(Vec::new());
    for item in items {
        let manifest = opened.manifest(&item)?;
        let descriptor = Descriptor::of(Family::Docker.manifest(), &manifest);
        opened.manifests.insert(descriptor.digest, manifest);
        let tags = item.repo_tags.unwrap_or_default();
        if tags.is_empty() {
            index.manifests.push(descriptor.clone());
        }
        for tag in tags {
            let mut named = descriptor.clone();
            if let Ok(Reference { tag: Some(short), .. }) = Reference::parse(&tag) {
                named.annotations.insert(REF_NAME.to_owned(), short);
            }
            let name = Reference::parse(&tag).map_or(tag, |name| name.to_string());
            named.annotations.insert(IMAGE_NAME.to_owned(), name);
            index.manifests.push(named);
        }
    }
    Ok((index, opened))
}

impl DockerArchive {
    fn manifest(&mut self, item: &Item) -> Result<Vec<u8>, ReadError> {
        let config_bytes = self.archive.read(&item.config)?;
        let config: ImageConfig =
            serde_json::from_slice(&config_bytes).map_err(|source| document(&self.archive, source))?;
        let config_extent = self.find(&item.config)?;
        let config_descriptor = Descriptor::of(Family::Docker.config(), &config_bytes);
        self.files.insert(config_descriptor.digest, config_extent);
        let paths = item.layers.as_deref().unwrap_or_default();
        if paths.len() != config.rootfs.diff_ids.len() {
            return Err(ReadError::LayerCount {
                place: self.place(),
                layers: paths.len(),
                diff_ids: config.rootfs.diff_ids.len(),
            });
        }
        let mut layers = Vec::new();
        for (path, diff_id) in paths.iter().zip(&config.rootfs.diff_ids) {
            layers.push(self.layer(path, diff_id)?);
        }
        canonical(&Manifest {
            schema_version: 2,
            media_type: Family::Docker.manifest().to_owned(),
            artifact_type: None,
            config: config_descriptor,
            layers,
            subject: None,
            annotations: BTreeMap::new(),
            rest: Map::new(),
        })
        .map_err(|source| ReadError::Document {
            place: self.place(),
            what: item.config.clone(),
            source,
        })
    }

    fn layer(&mut self, path: &str, diff_id: &DiffId) -> Result<Descriptor, ReadError> {
        let extent = self.find(path)?;
        let compression = sniff(self.archive.section(extent)).map_err(|source| self.archive.io(source))?;
        let named = path.strip_prefix("blobs/sha256/").and_then(Digest::from_hex);
        let digest = match (compression, named) {
            // The bytes of a plain tar are what the diff ID is of; copying verifies it.
            (CompressionAlgorithm::Uncompressed, _) => diff_id.0,
            (_, Some(digest)) => digest,
            (_, None) => {
                let mut hasher = Hasher::new();
                io::copy(&mut self.archive.section(extent), &mut hasher)
                    .map_err(|source| self.archive.io(source))?;
                hasher.finish()
            }
        };
        self.files.insert(digest, extent);
        Ok(Descriptor::new(Family::Docker.layer(compression), digest, extent.size))
    }

    fn find(&self, path: &str) -> Result<Extent, ReadError> {
        self.archive.find(path).ok_or_else(|| {
            self.archive.broken(format!("manifest.json refers to {path:?}, which is not in it"))
        })
    }
}

impl BlobSource for DockerArchive {
    fn place(&self) -> String {
        self.archive.place()
    }

    fn open(&self, digest: &Digest) -> Result<Option<Box<dyn Read + Send>>, ReadError> {
        if let Some(manifest) = self.manifests.get(digest) {
            return Ok(Some(Box::new(io::Cursor::new(manifest.clone()))));
        }
        let extent = self.files.get(digest);
        Ok(extent.map(|extent| Box::new(self.archive.section(*extent)) as Box<dyn Read + Send>))
    }
}

fn document(archive: &Archive, source: serde_json::Error) -> ReadError {
    let source = ManifestError::Malformed(source);
    ReadError::Document { place: archive.place(), what: "docker archive".to_owned(), source }
}

fn sniff(mut reader: impl Read) -> io::Result<CompressionAlgorithm> {
    let mut magic = Vec::new();
    reader.by_ref().take(6).read_to_end(&mut magic)?;
    match magic[..] {
        [0x1f, 0x8b, ..] => Ok(CompressionAlgorithm::Gzip),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Ok(CompressionAlgorithm::Zstd),
        [b'B', b'Z', b'h', ..] | [0xfd, b'7', b'z', b'X', b'Z', 0] => {
            Err(io::Error::other("a layer is compressed with bzip2 or xz, which image manifests do not know"))
        }
        _ => Ok(CompressionAlgorithm::Uncompressed),
    }
}
