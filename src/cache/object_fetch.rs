//! Reading objects whole: into memory, or a layer into the store. What breaks off is gone on with.

use std::io::{self, Read, Write as _};

use crate::cancel::Cancel;
use crate::objects::{ObjectError, ObjectStore, OpenObject};
use crate::store::{IngestError, Store};

use super::document::LayerBlob;
use super::failure::CacheError;

/// How much is read at once, in bytes.
const CHUNK: usize = 256 << 10;
/// Answers in a row that break off without a byte.
const MOST_BREAKS: u32 = 3;

/// The bytes of an object; `None` where there is none. One of more than `most` bytes is refused.
pub(super) fn read_whole(
    objects: &dyn ObjectStore,
    key: &str,
    most: u64,
    cancel: &Cancel,
) -> Result<Option<Vec<u8>>, CacheError> {
    let mut breaks = 0;
    loop {
        let Some(object) = objects.open(key, 0, cancel)? else { return Ok(None) };
        let (length, mut bytes) = (object.length, Vec::new());
        let read = object.take(most + 1).read_to_end(&mut bytes);
        if cancel.is_cancelled() {
            return Err(ObjectError::Cancelled.into());
        }
        let size = bytes.len() as u64;
        if size > most {
            let reason = format!("it has more than {most} bytes");
            return Err(CacheError::Malformed { place: key.to_owned(), reason });
        }
        let short = length.filter(|length| size < *length);
        match (read, short) {
            (Ok(_), None) => return Ok(Some(bytes)),
            (read, _) => {
                breaks += 1;
                if breaks >= MOST_BREAKS {
                    return Err(broken(key, size, length, read.err()).into());
                }
            }
        }
    }
}

fn broken(key: &str, size: u64, length: Option<u64>, error: Option<io::Error>) -> ObjectError {
    let of = length.map_or_else(String::new, |length| format!(" of {length}"));
    let why = error.map_or_else(String::new, |error| format!(" ({error})"));
    ObjectError::NoAnswer(format!("{key}: the transfer broke off after {size}{of} bytes{why}"))
}

/// Brings a layer into the store, verified.
pub(super) fn into_store(
    objects: &dyn ObjectStore,
    key: &str,
    layer: &LayerBlob,
    store: &Store,
    progress: &dyn Fn(u64),
    cancel: &Cancel,
) -> Result<(), CacheError> {
    if store.has_blob(&layer.digest) {
        progress(layer.size);
        return Ok(());
    }
    let mut writer = store.blob_writer_for(&layer.digest)?;
    let mut breaks = 0;
    while writer.size() < layer.size {
        let begun = writer.size();
        let opened = objects.open(key, begun, cancel)?;
        let mut object = opened.ok_or_else(|| ObjectError::Missing(format!("the layer {key}")))?;
        check_length(&object, key, layer)?;
        let error =
            skip(&mut object, begun).and_then(|()| copy(object, &mut writer, layer, progress, cancel)).err();
        match error {
            _ if cancel.is_cancelled() => return Err(ObjectError::Cancelled.into()),
            Some(CopyError::Write(error)) => {
                return Err(CacheError::io("write", writer.path())(error));
            }
            Some(CopyError::TooLong) => {
                let text = format!("the layer {key} has more than the {} bytes of its record", layer.size);
                return Err(ObjectError::Damaged(text).into());
            }
            Some(CopyError::Read(error)) if writer.size() < layer.size => {
                breaks = if writer.size() > begun { 0 } else { breaks + 1 };
                if breaks >= MOST_BREAKS {
                    return Err(broken(key, writer.size(), Some(layer.size), Some(error)).into());
                }
            }
            _ if writer.size() < layer.size => {
                let text = format!(
                    "the layer {key} has {} of the {} bytes of its record",
                    writer.size(),
                    layer.size
                );
                return Err(ObjectError::Damaged(text).into());
            }
            _ => {}
        }
    }
    match writer.finish_verified(&layer.digest) {
        Ok(_) => Ok(()),
        Err(IngestError::Store(error)) => Err(error.into()),
        Err(error @ IngestError::Mismatch { .. }) => {
            Err(ObjectError::Damaged(format!("the layer {key}: {error}")).into())
        }
    }
}

enum CopyError {
    Read(io::Error),
    Write(io::Error),
    TooLong,
}

/// An answer that announces another length need not be read.
fn check_length(object: &OpenObject, key: &str, layer: &LayerBlob) -> Result<(), CacheError> {
    match object.length.map(|length| length.saturating_add(object.from)) {
        Some(size) if size != layer.size => {
            let text =
                format!("the layer {key} has {size} bytes instead of the {} of its record", layer.size);
            Err(ObjectError::Damaged(text).into())
        }
        _ => Ok(()),
    }
}

/// Passes over what has come before, where a service gives all though a part was asked for.
fn skip(object: &mut OpenObject, wanted: u64) -> Result<(), CopyError> {
    let ahead = wanted.saturating_sub(object.from);
    let skipped = io::copy(&mut object.take(ahead), &mut io::sink()).map_err(CopyError::Read)?;
    if skipped < ahead { Err(CopyError::Read(io::ErrorKind::UnexpectedEof.into())) } else { Ok(()) }
}

fn copy(
    mut object: OpenObject,
    writer: &mut crate::store::BlobWriter,
    layer: &LayerBlob,
    progress: &dyn Fn(u64),
    cancel: &Cancel,
) -> Result<(), CopyError> {
    let mut piece = vec![0; CHUNK];
    loop {
        let count = object.read(&mut piece).map_err(CopyError::Read)?;
        let bytes = piece.get(..count).unwrap_or_default();
        if bytes.is_empty() || cancel.is_cancelled() {
            return Ok(());
        }
        if writer.size() + count as u64 > layer.size {
            return Err(CopyError::TooLong);
        }
        writer.write_all(bytes).map_err(CopyError::Write)?;
        progress(writer.size());
    }
}
