//! A list of entries to a blob in the store, in one pass over the content.

use std::io::{self, Read};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::build::CompressionAlgorithm;
use crate::digest::{DiffId, Digest};
use crate::store::{BlobWriter, Store};

use super::block_cache;
use super::entry::{Entry, EntryKind, LayerIndex};
use super::error::LayerError;
use super::index;
use super::pack::{Cache, Method};
use super::stream::{self, Stream, Written};
use super::tar_write::{END, padding, write_header};
use super::unpack::rebuild_index;

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

    /// The same where the source can tell without reading that the content has the entry's digest.
    fn open_known(&self, _: usize, _: &Entry) -> io::Result<Option<Box<dyn KnownContent>>> {
        Ok(None)
    }

    /// The same as a file of this machine, for sources that have one: the kernel can copy it.
    fn open_file(&self, _: usize, _: &Entry) -> io::Result<Option<std::fs::File>> {
        Ok(None)
    }
}

/// Content that need not be digested again to know that it is what its entry says.
pub trait KnownContent: Read + Send {
    /// Whether it is still that, with no byte more or less. To be asked behind the last byte.
    fn is_unchanged(&self) -> io::Result<bool>;
}

impl<C: ContentSource + Send + ?Sized> ContentSource for Arc<C> {
    fn open(&self, position: usize, entry: &Entry) -> io::Result<Box<dyn Read + Send>> {
        (**self).open(position, entry)
    }

    fn open_known(&self, position: usize, entry: &Entry) -> io::Result<Option<Box<dyn KnownContent>>> {
        (**self).open_known(position, entry)
    }

    fn open_file(&self, position: usize, entry: &Entry) -> io::Result<Option<std::fs::File>> {
        (**self).open_file(position, entry)
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

/// Writes a layer. Entries must be in layer order; a digest that an entry carries is checked against
/// the bytes that come.
pub fn write_layer(
    store: &Store,
    mut entries: Vec<Entry>,
    content: &dyn ContentSource,
    options: &WriteOptions,
) -> Result<Layer, LayerError> {
    let blob = store.blob_writer()?;
    let written = write_stream(store, blob, options, |stream| {
        for (position, entry) in entries.iter_mut().enumerate() {
            write_entry(stream, position, entry, content, options)?;
        }
        stream.raw(&END)
    })?;
    for (position, seen) in &written.files {
        let Some(Entry { path, kind: EntryKind::File { digest, .. }, .. }) = entries.get_mut(*position)
        else {
            continue;
        };
        if digest.is_some_and(|expected| expected != *seen) {
            return Err(LayerError::changed(path, "its content differs from what was digested before"));
        }
        *digest = Some(*seen);
    }
    finish(store, written, LayerIndex { entries }, options)
}

/// A stream into a blob of the store, compressed as the options say.
fn write_stream(
    store: &Store,
    blob: BlobWriter,
    options: &WriteOptions,
    feed: impl FnOnce(&mut Stream<'_, '_>) -> Result<(), LayerError>,
) -> Result<Written, LayerError> {
    let method = Method::new(options.compression, options.level);
    stream::write(blob, &method, &Cache::of(store), options.threads, feed)
}

fn write_entry(
    stream: &mut Stream<'_, '_>,
    position: usize,
    entry: &mut Entry,
    content: &dyn ContentSource,
    options: &WriteOptions,
) -> Result<(), LayerError> {
    if let Some(latest) = options.clamp_mtime {
        entry.meta.mtime = entry.meta.mtime.min(latest);
    }
    let mut headers = Vec::with_capacity(512);
    write_header(&mut headers, entry).map_err(LayerError::Stream)?;
    stream.raw(&headers)?;
    entry.offset = 0;
    let EntryKind::File { size, digest } = entry.kind else { return Ok(()) };
    entry.offset = stream.position();
    let failed = |error| LayerError::inside("read", &entry.path, error);
    let known = if digest.is_some() { content.open_known(position, entry).map_err(failed)? } else { None };
    match known {
        Some(mut known) => {
            stream.content(None, &entry.path, size, &mut known)?;
            if !known.is_unchanged().map_err(failed)? {
                return Err(LayerError::changed(&entry.path, "it was written to"));
            }
        }
        None => {
            let mut reader = content.open(position, entry).map_err(failed)?;
            stream.content(Some(position), &entry.path, size, &mut reader)?;
        }
    }
    stream.raw(&END[..padding(size)])?;
    stream.end_content(&entry.path, size)
}

fn finish(
    store: &Store,
    written: Written,
    index: LayerIndex,
    options: &WriteOptions,
) -> Result<Layer, LayerError> {
    let Written { diff_id, size: uncompressed_size, .. } = written;
    let blob = keep_blob(store, written, options)?;
    store_index(store, &diff_id, &index)?;
    add_blob(store, &diff_id, uncompressed_size, &blob)?;
    Ok(Layer { diff_id, blob, uncompressed_size, index: Arc::new(index) })
}

/// Makes a blob visible and remembers where its blocks are.
fn keep_blob(store: &Store, written: Written, options: &WriteOptions) -> Result<BlobInfo, LayerError> {
    let (digest, size) = written.blob.finish()?;
    if !written.rows.is_empty() {
        block_cache::remember(store, &digest, &written.rows);
    }
    Ok(BlobInfo { digest, size, compression: options.compression })
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
    let index = match load_index(store, diff_id)? {
        Some(index) => Some(index),
        None => rebuild_index(store, diff_id)?,
    };
    let (_, mut plain) = crate::context::decompress(source).map_err(LayerError::Stream)?;
    let written = write_stream(store, store.blob_writer()?, options, |stream| {
        copy_stream(stream, &mut plain, &index.unwrap_or_default())
    })?;
    if written.diff_id != *diff_id {
        return Err(LayerError::Invalid(format!(
            "layer {diff_id} is damaged in the store: it reads as {}",
            written.diff_id
        )));
    }
    let size = written.size;
    let blob = keep_blob(store, written, options)?;
    add_blob(store, diff_id, size, &blob)?;
    Ok(blob)
}

/// A whole tar stream as it is, told by the index where files are, so that it is cut as it was when
/// it was written.
fn copy_stream(
    stream: &mut Stream<'_, '_>,
    plain: &mut dyn Read,
    index: &LayerIndex,
) -> Result<(), LayerError> {
    for (position, entry) in index.entries.iter().enumerate() {
        let EntryKind::File { size, .. } = entry.kind else { continue };
        // A damaged index is noticed by nothing but other cuts.
        if size == 0 || entry.offset < stream.position() {
            continue;
        }
        stream.raw_from(plain, entry.offset)?;
        stream.content(Some(position), &entry.path, size, &mut plain.take(size)).map_err(
            |error| match error {
                LayerError::Changed { path, .. } => LayerError::Invalid(format!("it ends inside {path:?}")),
                other => other,
            },
        )?;
        let behind = stream.position() + padding(size) as u64;
        stream.raw_from(plain, behind)?;
        stream.end_content(&entry.path, size)?;
    }
    stream.raw_from(plain, u64::MAX)
}
