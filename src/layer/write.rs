//! A list of entries to a blob in the store, in one pass over the content.

use std::io::{self, Read, Write};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::build::CompressionAlgorithm;
use crate::digest::{DiffId, Digest, Hasher};
use crate::store::{BlobWriter, Store};

use super::entry::{Entry, EntryKind, LayerIndex};
use super::error::LayerError;
use super::gzip::{self, GzipWriter};
use super::index;
use super::tar_write::{END, padding, write_header};

const COPY_BUFFER: usize = 256 * 1024;
/// What `zstd` itself takes.
const ZSTD_LEVEL: u32 = 3;

/// How a layer is written. The bytes do not depend on `threads`.
#[derive(Clone, Debug)]
pub struct WriteOptions {
    /// Compression of the blob.
    pub compression: CompressionAlgorithm,
    /// Level; `None` is the algorithm's default.
    pub level: Option<u32>,
    /// Threads that compress.
    pub threads: usize,
    /// Times later than this, in seconds since 1970, are set to it.
    pub clamp_mtime: Option<i64>,
}

/// Where entries' bytes come from.
pub trait ContentSource: Sync {
    /// Opens the content of the regular file at `position` in the list.
    fn open(&self, position: usize, entry: &Entry) -> io::Result<Box<dyn Read + Send>>;

    /// The same as a file of this machine, for sources that have one: the kernel can copy it.
    fn open_file(&self, _: usize, _: &Entry) -> io::Result<Option<std::fs::File>> {
        Ok(None)
    }
}

/// For entries of which none has content.
pub struct NoContent;

impl ContentSource for NoContent {
    fn open(&self, _: usize, entry: &Entry) -> io::Result<Box<dyn Read + Send>> {
        Err(io::Error::other(format!("no content for {}", String::from_utf8_lossy(&entry.path))))
    }
}

/// A compressed (or plain) layer in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobInfo {
    /// Digest of the blob.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
    /// Its compression.
    pub compression: CompressionAlgorithm,
}

/// A layer just written.
#[derive(Clone, Debug)]
pub struct Layer {
    /// Digest of the tar.
    pub diff_id: DiffId,
    /// The blob.
    pub blob: BlobInfo,
    /// Bytes of the tar.
    pub uncompressed_size: u64,
    /// The entries with content digests and offsets.
    pub index: Arc<LayerIndex>,
}

/// What the store knows of a layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRecord {
    /// Bytes of the tar.
    pub uncompressed_size: u64,
    /// Its forms.
    pub blobs: Vec<BlobInfo>,
}

/// The compressing end of the pipe.
enum Encoder {
    Plain(BlobWriter),
    Gzip(GzipWriter<BlobWriter>),
    Zstd(zstd::Encoder<'static, BlobWriter>),
}

impl Encoder {
    fn new(blob: BlobWriter, options: &WriteOptions) -> io::Result<Self> {
        Ok(match options.compression {
            CompressionAlgorithm::Uncompressed => Encoder::Plain(blob),
            CompressionAlgorithm::Gzip => {
                let level = options.level.unwrap_or(gzip::DEFAULT_LEVEL).min(9);
                Encoder::Gzip(GzipWriter::new(blob, level, options.threads)?)
            }
            CompressionAlgorithm::Zstd => {
                let level = i32::try_from(options.level.unwrap_or(ZSTD_LEVEL)).unwrap_or(22);
                let mut encoder = zstd::Encoder::new(blob, level)?;
                // Without any worker the library cuts the stream differently: always at least one.
                encoder.multithread(u32::try_from(options.threads.max(1)).unwrap_or(1))?;
                Encoder::Zstd(encoder)
            }
        })
    }

    fn finish(self) -> io::Result<BlobWriter> {
        match self {
            Encoder::Plain(blob) => Ok(blob),
            Encoder::Gzip(encoder) => encoder.finish(),
            Encoder::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl Write for Encoder {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Encoder::Plain(blob) => blob.write(buf),
            Encoder::Gzip(encoder) => encoder.write(buf),
            Encoder::Zstd(encoder) => encoder.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The tar stream: counted, hashed, compressed.
struct Stream {
    encoder: Encoder,
    hasher: Hasher,
    position: u64,
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.encoder.write_all(buf)?;
        self.hasher.update(buf);
        self.position += buf.len() as u64;
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes a layer. Entries must be in layer order; a digest that an entry carries is checked against
/// the bytes that come.
pub fn write_layer(
    store: &Store,
    mut entries: Vec<Entry>,
    content: &dyn ContentSource,
    options: &WriteOptions,
) -> Result<Layer, LayerError> {
    let encoder = Encoder::new(store.blob_writer()?, options).map_err(LayerError::Stream)?;
    let mut stream = Stream { encoder, hasher: Hasher::new(), position: 0 };
    let mut buffer = vec![0; COPY_BUFFER];
    for (position, entry) in entries.iter_mut().enumerate() {
        if let Some(latest) = options.clamp_mtime {
            entry.meta.mtime = entry.meta.mtime.min(latest);
        }
        write_header(&mut stream, entry).map_err(LayerError::Stream)?;
        entry.offset = 0;
        if let EntryKind::File { size, digest } = &mut entry.kind {
            entry.offset = stream.position;
            let reader = content.open(position, &Entry { kind: EntryKind::Fifo, ..path_only(&entry.path) });
            let reader = reader.map_err(|error| LayerError::inside("read", &entry.path, error))?;
            let seen = copy_content(&mut stream, reader, &entry.path, *size, &mut buffer)?;
            if digest.is_some_and(|expected| expected != seen) {
                return Err(changed(&entry.path, "its content differs from what was digested before"));
            }
            *digest = Some(seen);
        }
    }
    stream.write_all(&END).map_err(LayerError::Stream)?;
    finish(store, stream, LayerIndex { entries }, options)
}

/// What a content source needs to know of an entry that is being borrowed.
fn path_only(path: &[u8]) -> Entry {
    let meta = super::entry::Metadata { mode: 0, uid: 0, gid: 0, mtime: 0, xattrs: Vec::new() };
    Entry { path: path.to_vec(), kind: EntryKind::Fifo, meta, offset: 0 }
}

fn changed(path: &[u8], detail: &str) -> LayerError {
    LayerError::Changed { path: String::from_utf8_lossy(path).into_owned(), detail: detail.into() }
}

fn copy_content(
    stream: &mut Stream,
    mut reader: Box<dyn Read + Send>,
    path: &[u8],
    size: u64,
    buffer: &mut [u8],
) -> Result<Digest, LayerError> {
    let mut hasher = Hasher::new();
    let mut left = size;
    loop {
        let count = match reader.read(buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(LayerError::inside("read", path, error)),
        };
        left = left.checked_sub(count as u64).ok_or_else(|| changed(path, "it grew"))?;
        hasher.update(&buffer[..count]);
        stream.write_all(&buffer[..count]).map_err(LayerError::Stream)?;
    }
    if left > 0 {
        return Err(changed(path, "it shrank"));
    }
    stream.write_all(&END[..padding(size)]).map_err(LayerError::Stream)?;
    Ok(hasher.finish())
}

fn finish(
    store: &Store,
    stream: Stream,
    entries: LayerIndex,
    options: &WriteOptions,
) -> Result<Layer, LayerError> {
    let diff_id = DiffId(stream.hasher.finish());
    let uncompressed_size = stream.position;
    let (digest, size) = stream.encoder.finish().map_err(LayerError::Stream)?.finish()?;
    let blob = BlobInfo { digest, size, compression: options.compression };
    store_index(store, &diff_id, &entries)?;
    add_blob(store, &diff_id, uncompressed_size, &blob)?;
    Ok(Layer { diff_id, blob, uncompressed_size, index: Arc::new(entries) })
}

/// Keeps the entries of a layer.
pub fn store_index(store: &Store, diff_id: &DiffId, entries: &LayerIndex) -> Result<(), LayerError> {
    Ok(store.put_layer_index(diff_id, &index::render(entries))?)
}

/// Notes a form of a layer beside those known already.
pub fn add_blob(
    store: &Store,
    diff_id: &DiffId,
    uncompressed_size: u64,
    blob: &BlobInfo,
) -> Result<(), LayerError> {
    let mut record =
        load_layer(store, diff_id)?.unwrap_or(LayerRecord { uncompressed_size, blobs: Vec::new() });
    if record.blobs.contains(blob) {
        return Ok(());
    }
    record.uncompressed_size = record.uncompressed_size.max(uncompressed_size);
    record.blobs.push(blob.clone());
    let bytes = serde_json::to_vec(&record).map_err(|error| LayerError::Stream(error.into()))?;
    Ok(store.put_layer(diff_id, &bytes)?)
}

/// What the store knows of a layer; garbled is unknown.
pub fn load_layer(store: &Store, diff_id: &DiffId) -> Result<Option<LayerRecord>, LayerError> {
    let bytes = store.layer(diff_id)?;
    Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}

/// The entries of a layer; garbled is unknown.
pub fn load_index(store: &Store, diff_id: &DiffId) -> Result<Option<Arc<LayerIndex>>, LayerError> {
    let bytes = store.layer_index(diff_id)?;
    Ok(bytes.and_then(|bytes| index::parse(&bytes)).map(Arc::new))
}

/// Whether bytes are the entries of a layer, whole.
pub fn is_index(bytes: &[u8]) -> bool {
    index::parse(bytes).is_some()
}

/// Writes a layer that is in the store in another compression.
pub fn recompress(store: &Store, diff_id: &DiffId, options: &WriteOptions) -> Result<BlobInfo, LayerError> {
    let record = load_layer(store, diff_id)?;
    let record =
        record.ok_or_else(|| LayerError::Invalid(format!("the store does not know layer {diff_id}")))?;
    if let Some(blob) = record
        .blobs
        .iter()
        .find(|blob| blob.compression == options.compression && store.has_blob(&blob.digest))
    {
        return Ok(blob.clone());
    }
    let source = record.blobs.iter().find_map(|blob| store.open_blob(&blob.digest).ok().flatten());
    let source =
        source.ok_or_else(|| LayerError::Invalid(format!("the store has no content for layer {diff_id}")))?;
    let (_, mut plain) = crate::context::decompress(source).map_err(LayerError::Stream)?;
    let encoder = Encoder::new(store.blob_writer()?, options).map_err(LayerError::Stream)?;
    let mut stream = Stream { encoder, hasher: Hasher::new(), position: 0 };
    io::copy(&mut plain, &mut stream).map_err(LayerError::Stream)?;
    let seen = DiffId(stream.hasher.finish());
    if seen != *diff_id {
        return Err(LayerError::Invalid(format!(
            "layer {diff_id} is damaged in the store: it reads as {seen}"
        )));
    }
    let size = stream.position;
    let (digest, blob_size) = stream.encoder.finish().map_err(LayerError::Stream)?.finish()?;
    let blob = BlobInfo { digest, size: blob_size, compression: options.compression };
    add_blob(store, diff_id, size, &blob)?;
    Ok(blob)
}
