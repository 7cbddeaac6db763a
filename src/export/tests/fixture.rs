//! Small images made by hand.

use std::io::Write as _;
use std::path::Path;

use crate::cancel::Cancel;
use crate::compress::CompressionAlgorithm;
use crate::digest::{DiffId, Digest};
use crate::export::ExportImage;
use crate::image::{Assembled, Family, History, Image, LayerRef, Platform, Reference, assemble};
use crate::store::Store;

pub(super) type Result<T = (), E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

/// A switch that nobody turns.
pub(super) fn go_on() -> Result<Cancel> {
    Ok(Cancel::new()?)
}

pub(super) fn amd64() -> Platform {
    Platform::new("linux", "amd64", "")
}

/// A layer tar with the files given.
fn layer_tar(files: &[(&str, &str)]) -> Result<Vec<u8>> {
    let mut tar = ::tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = ::tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        tar.append_data(&mut header, path, content.as_bytes())?;
    }
    Ok(tar.into_inner()?)
}

/// Stores a layer.
pub(super) fn layer(
    store: &Store,
    files: &[(&str, &str)],
    compression: CompressionAlgorithm,
) -> Result<LayerRef> {
    let tar = layer_tar(files)?;
    let blob = match compression {
        CompressionAlgorithm::Uncompressed => tar.clone(),
        CompressionAlgorithm::Zstd => zstd::encode_all(&tar[..], 3)?,
        CompressionAlgorithm::Gzip => {
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            gzip.write_all(&tar)?;
            gzip.finish()?
        }
    };
    Ok(LayerRef {
        diff_id: DiffId(Digest::of(&tar)),
        digest: store.put_blob(&blob)?,
        size: blob.len() as u64,
        compression,
        annotations: Default::default(),
    })
}

/// Two layers, gzip and `top`, for linux on `architecture`.
pub(super) fn image(
    store: &Store,
    architecture: &str,
    top: CompressionAlgorithm,
    family: Family,
) -> Result<Assembled> {
    let mut image = Image {
        layers: vec![
            layer(store, &[("hello", "hello\n")], CompressionAlgorithm::Gzip)?,
            layer(store, &[("arch", architecture)], top)?,
        ],
        ..Image::default()
    };
    image.config.os = "linux".into();
    image.config.architecture = architecture.into();
    image.config.created = Some("2020-01-02T03:04:05Z".into());
    image.config.config.cmd = Some(vec!["/hello".into()]);
    image.config.config.labels.insert("a".into(), "1".into());
    image.config.history = ["COPY hello / # buildkit", "COPY arch / # buildkit"]
        .map(|created_by| History {
            created: Some("2020-01-02T03:04:05Z".into()),
            created_by: created_by.into(),
            ..History::default()
        })
        .to_vec();
    Ok(assemble(store, &image, family)?)
}

/// What is handed to the exporters.
pub(super) fn export_image(assembled: &Assembled, names: &[&str]) -> Result<ExportImage> {
    let mut parsed = Vec::new();
    for name in names {
        parsed.push(Reference::parse_new_name(name)?);
    }
    Ok(ExportImage {
        descriptor: assembled.descriptor.clone(),
        names: parsed,
        created: Some("2020-01-02T03:04:05Z".into()),
    })
}

/// Names in a directory, sorted.
pub(super) fn names_in(dir: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// Damages a blob of the store without changing its size.
pub(super) fn damage(store: &Store, digest: &Digest) -> Result {
    let path = store.blob_path(digest);
    let mut bytes = std::fs::read(&path)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    Ok(std::fs::write(path, bytes)?)
}
