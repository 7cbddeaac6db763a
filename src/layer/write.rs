//! A list of entries to a blob in the store, in one pass over the content.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::cancel::Cancel;
use crate::compress::{CompressionAlgorithm, Packing};
use crate::digest::{DiffId, Digest};
use crate::fs::Root;
use crate::store::{BlobWriter, Store};

use super::block_cache;
use super::entry::{Entry, EntryKind, LayerIndex};
use super::error::LayerError;
use super::index;
use super::pack::{Cache, Method};
use super::stream::{self, Stream, WrittenBlob};
use super::tar_write::{END, padding, write_header};

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

impl WriteOptions {
    /// Compressed in this way, with times as they are.
    pub fn packing(packing: Packing) -> Self {
        let threads = crate::threads::workers();
        let Packing { compression, level } = packing;
        WriteOptions { compression, level, threads, clamp_mtime: None }
    }
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
    fn open_file(&self, _: usize, _: &Entry) -> io::Result<Option<File>> {
        Ok(None)
    }
}

/// Content that need not be digested again to know that it is what its entry says.
pub trait KnownContent: Read + Send {
    /// Whether it is still that, with no byte more or less. To be asked behind the last byte.
    fn is_unchanged(&self) -> io::Result<bool>;

    /// It as a file: the kernel can copy it.
    fn file(&self) -> &File;
}

impl<C: ContentSource + Send + ?Sized> ContentSource for Arc<C> {
    fn open(&self, position: usize, entry: &Entry) -> io::Result<Box<dyn Read + Send>> {
        (**self).open(position, entry)
    }

    fn open_known(&self, position: usize, entry: &Entry) -> io::Result<Option<Box<dyn KnownContent>>> {
        (**self).open_known(position, entry)
    }

    fn open_file(&self, position: usize, entry: &Entry) -> io::Result<Option<File>> {
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

/// The files of a directory that does not change any more: nothing in it needs to be digested twice.
pub struct FrozenContent {
    root: Root,
    cancel: Option<Cancel>,
}

impl FrozenContent {
    /// The files below `dir`.
    pub fn open(dir: &Path) -> Result<Self, LayerError> {
        let root = Root::open(dir).map_err(|error| LayerError::io("open", dir, error))?;
        Ok(FrozenContent { root, cancel: None })
    }

    /// The same; reading fails once `cancel` asks to stop.
    pub(super) fn until(dir: &Path, cancel: &Cancel) -> Result<Self, LayerError> {
        Ok(FrozenContent { cancel: Some(cancel.clone()), ..Self::open(dir)? })
    }

    fn file(&self, entry: &Entry) -> io::Result<FrozenFile> {
        Ok(FrozenFile { cancel: self.cancel.clone(), ..FrozenFile::of(self.root.open_file(&entry.path)?) })
    }
}

impl ContentSource for FrozenContent {
    fn open(&self, _: usize, entry: &Entry) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(self.file(entry)?))
    }

    fn open_known(&self, _: usize, entry: &Entry) -> io::Result<Option<Box<dyn KnownContent>>> {
        Ok(Some(Box::new(self.file(entry)?)))
    }

    fn open_file(&self, _: usize, entry: &Entry) -> io::Result<Option<File>> {
        self.root.open_file(&entry.path).map(Some)
    }
}

/// A file that does not change any more.
pub struct FrozenFile {
    file: File,
    cancel: Option<Cancel>,
}

impl FrozenFile {
    /// This one.
    pub fn of(file: File) -> Self {
        FrozenFile { file, cancel: None }
    }
}

impl Read for FrozenFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.cancel.as_ref().is_some_and(Cancel::is_cancelled) {
            return Err(io::Error::other("canceled"));
        }
        self.file.read(buffer)
    }
}

impl KnownContent for FrozenFile {
    /// Nobody writes to it, but a power cut may have left it with another length.
    fn is_unchanged(&self) -> io::Result<bool> {
        Ok((&self.file).read(&mut [0])? == 0)
    }

    fn file(&self) -> &File {
        &self.file
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
    /// Its forms. Without any, its files lie in a snapshot.
    pub blobs: Vec<BlobInfo>,
}

/// What a layer is, with or without its blob.
pub(super) struct Described {
    pub diff_id: DiffId,
    pub size: u64,
    pub index: LayerIndex,
    pub blob: Option<WrittenBlob>,
}

/// Writes a layer. Entries must be in layer order; a digest that an entry carries is checked against
/// the bytes that come.
pub fn write_layer(
    store: &Store,
    entries: Vec<Entry>,
    content: &dyn ContentSource,
    options: &WriteOptions,
) -> Result<Layer, LayerError> {
    let Described { diff_id, size: uncompressed_size, index, blob } =
        describe(store, Some(blob_writer(store, options)?), entries, content, options)?;
    let blob = keep_blob(store, blob, &diff_id, options)?;
    store_index(store, &diff_id, &index)?;
    add_blob(store, &diff_id, uncompressed_size, &blob)?;
    Ok(Layer { diff_id, blob, uncompressed_size, index: Arc::new(index) })
}

/// As [`write_layer`], but makes no blob: for a layer whose files stay where they are. The store knows
/// its entries afterwards, and that it has no blob.
pub fn digest_layer(
    store: &Store,
    entries: Vec<Entry>,
    content: &dyn ContentSource,
    options: &WriteOptions,
) -> Result<(DiffId, Arc<LayerIndex>), LayerError> {
    let plain = WriteOptions { compression: CompressionAlgorithm::Uncompressed, ..options.clone() };
    let Described { diff_id, size, index, .. } = describe(store, None, entries, content, &plain)?;
    store_index(store, &diff_id, &index)?;
    let record = LayerRecord { uncompressed_size: size, blobs: Vec::new() };
    // Somebody may be noting a blob of the same layer at this moment: that must not be lost.
    if !store.put_new_layer(&diff_id, &render(&record)?)? && load_layer(store, &diff_id)?.is_none() {
        put_record(store, &diff_id, &record)?;
    }
    Ok((diff_id, Arc::new(index)))
}

pub(super) fn describe(
    store: &Store,
    blob: Option<BlobWriter>,
    mut entries: Vec<Entry>,
    content: &dyn ContentSource,
    options: &WriteOptions,
) -> Result<Described, LayerError> {
    let method = Method::new(options.compression, options.level);
    let written = stream::write(blob, &method, &Cache::of(store), options.threads, |stream| {
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
    let index = LayerIndex { entries };
    Ok(Described { diff_id: written.diff_id, size: written.size, index, blob: written.blob })
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

/// Begins the blob of a layer. One that is not compressed is the stream that the layer's own digest is of:
/// nobody need digest it twice.
pub(super) fn blob_writer(store: &Store, options: &WriteOptions) -> Result<BlobWriter, LayerError> {
    Ok(match options.compression {
        CompressionAlgorithm::Uncompressed => store.unhashed_blob_writer()?,
        _ => store.blob_writer()?,
    })
}

/// Makes a blob visible and remembers where its blocks are.
pub(super) fn keep_blob(
    store: &Store,
    written: Option<WrittenBlob>,
    diff_id: &DiffId,
    options: &WriteOptions,
) -> Result<BlobInfo, LayerError> {
    let Some(WrittenBlob { blob, rows }) = written else {
        return Err(LayerError::Invalid("a layer without its blob".into()));
    };
    let (digest, size) = match options.compression {
        CompressionAlgorithm::Uncompressed => blob.finish_as(&diff_id.0)?,
        _ => blob.finish()?,
    };
    if !rows.is_empty() {
        block_cache::remember(store, &digest, &rows);
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
    put_record(store, diff_id, &record)
}

fn put_record(store: &Store, diff_id: &DiffId, record: &LayerRecord) -> Result<(), LayerError> {
    Ok(store.put_layer(diff_id, &render(record)?)?)
}

fn render(record: &LayerRecord) -> Result<Vec<u8>, LayerError> {
    serde_json::to_vec(record).map_err(|error| LayerError::Stream(error.into()))
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

/// Bytes as the entries of a layer; garbled ones are none.
pub fn parse_index(bytes: &[u8]) -> Option<LayerIndex> {
    index::parse(bytes)
}
