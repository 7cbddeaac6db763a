//! Layers that exist, compressed when somebody wants their bytes: from their files, or from another form.

use std::io::{self, Read};
use std::path::Path;

use crate::cancel::Cancel;
use crate::compress::CompressionAlgorithm;
use crate::digest::DiffId;
use crate::store::{BlobWriter, Store};

use super::entry::{EntryKind, LayerIndex};
use super::error::LayerError;
use super::pack::{Cache, Method};
use super::stream::{self, Stream};
use super::tar_write::padding;
use super::unpack::rebuild_index;
use super::write::{
    BlobInfo, Described, FrozenContent, WriteOptions, add_blob, blob_writer, describe, keep_blob, load_index,
    load_layer,
};

/// Makes the blob of a layer that [`digest_layer`] described, from its files in `dir`. Stops when
/// `cancel` says so: the files are still there for the next time.
pub fn pack_layer(
    store: &Store,
    diff_id: &DiffId,
    index: &LayerIndex,
    dir: &Path,
    options: &WriteOptions,
    cancel: &Cancel,
) -> Result<BlobInfo, LayerError> {
    let described =
        describe_again(store, Some(blob_writer(store, options)?), diff_id, index, dir, options, cancel)?;
    let blob = keep_blob(store, described.blob, diff_id, options)?;
    add_blob(store, diff_id, described.size, &blob)?;
    Ok(blob)
}

/// Reads the files of such a layer and says how many bytes its tar has. Files that are not those it was
/// made of are an error.
pub fn check_files(
    store: &Store,
    diff_id: &DiffId,
    index: &LayerIndex,
    dir: &Path,
    cancel: &Cancel,
) -> Result<u64, LayerError> {
    let compression = CompressionAlgorithm::Uncompressed;
    let plain = WriteOptions { compression, level: None, threads: 1, clamp_mtime: None };
    Ok(describe_again(store, None, diff_id, index, dir, &plain, cancel)?.size)
}

fn describe_again(
    store: &Store,
    blob: Option<BlobWriter>,
    diff_id: &DiffId,
    index: &LayerIndex,
    dir: &Path,
    options: &WriteOptions,
    cancel: &Cancel,
) -> Result<Described, LayerError> {
    let content = FrozenContent::until(dir, cancel)?;
    // Its times are those the digest was made of.
    let options = WriteOptions { clamp_mtime: None, ..options.clone() };
    let described = describe(store, blob, index.entries.clone(), &content, &options);
    if cancel.is_cancelled() {
        return Err(LayerError::Canceled);
    }
    let damaged = |why: String| LayerError::Damaged { layer: *diff_id, dir: dir.to_owned(), why };
    match described {
        Ok(described) if described.diff_id == *diff_id => Ok(described),
        Ok(described) => Err(damaged(format!("they give {}", described.diff_id))),
        Err(LayerError::Changed { path, detail }) => Err(damaged(format!("{path}: {detail}"))),
        Err(LayerError::Io { path, source, .. }) if is_of_the_file(&source) => {
            Err(damaged(format!("{}: {source}", path.display())))
        }
        Err(error) => Err(error),
    }
}

/// Whether an error of reading says something of the file, and not of the process or the machine.
fn is_of_the_file(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let of_it = [Errno::NOENT, Errno::NOTDIR, Errno::LOOP, Errno::IO];
    Errno::from_io_error(error).is_none_or(|errno| of_it.contains(&errno))
}

/// Writes a layer that is in the store in another compression. Stops when `cancel` says so.
pub fn recompress(
    store: &Store,
    diff_id: &DiffId,
    options: &WriteOptions,
    cancel: &Cancel,
) -> Result<BlobInfo, LayerError> {
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
    let (_, mut plain) = crate::compress::decompress(source).map_err(LayerError::Stream)?;
    let method = Method::new(options.compression, options.level);
    let (writer, cache) = (blob_writer(store, options)?, Cache::of(store));
    let written = stream::write(Some(writer), &method, &cache, options.threads, |stream| {
        let mut plain = Stoppable { inner: &mut plain, cancel };
        copy_stream(stream, &mut plain, &index.unwrap_or_default())
    });
    if cancel.is_cancelled() {
        return Err(LayerError::Canceled);
    }
    let written = written?;
    if written.diff_id != *diff_id {
        return Err(LayerError::Invalid(format!(
            "layer {diff_id} is damaged in the store: it reads as {}",
            written.diff_id
        )));
    }
    let blob = keep_blob(store, written.blob, diff_id, options)?;
    add_blob(store, diff_id, written.size, &blob)?;
    Ok(blob)
}

/// Fails once it is to stop.
struct Stoppable<'a, R> {
    inner: R,
    cancel: &'a Cancel,
}

impl<R: Read> Read for Stoppable<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.cancel.is_cancelled() {
            return Err(io::Error::other("canceled"));
        }
        self.inner.read(buffer)
    }
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
