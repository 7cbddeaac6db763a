//! A layer's blob to a directory that an overlay can mount, or to its entries alone.
//!
//! Nothing here trusts the archive: names cannot leave the directory, links are never written
//! through, deletions take their overlay form, and sizes have limits.

use std::collections::{HashMap, HashSet};
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use crate::cancel::Cancel;
use crate::digest::DiffId;
use crate::fs::{IdMap, Root};
use crate::store::{SnapshotKind, Store};

use super::confined;
use super::diff::{NoParent, ParentView};
use super::entry::LayerIndex;
use super::error::LayerError;
use super::listing::Listing;
use super::plain;
use super::tar_read::TarReader;
use super::unpack_entry::Work;
use super::write::{load_layer, store_index};

/// Whether owners can be set on disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnDiskIds {
    /// Files get their owners.
    #[default]
    Keep,
    /// Everything belongs to the one ID there is. The intended owners are in the index, and with files in an
    /// attribute where there is one ID only.
    AllToSelf,
    /// Only contents are on disk, readable by whoever builds: no program ever runs on them. Owners, modes,
    /// attributes, devices and deletions are in the index.
    ContentsOnly,
}

impl OnDiskIds {
    /// Which directories of layers show the same owners: those made in the same way with the same IDs.
    pub fn kind(self) -> SnapshotKind {
        let map = IdMap::current();
        match self {
            OnDiskIds::Keep if map.is_full() => SnapshotKind::plain(),
            OnDiskIds::Keep => SnapshotKind::of(&format!("keep {}", map.identity())),
            OnDiskIds::AllToSelf => SnapshotKind::of(&format!("self {}", map.identity())),
            OnDiskIds::ContentsOnly => SnapshotKind::of("contents"),
        }
    }
}

/// Limits on what an archive may hold.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Entries.
    pub entries: usize,
    /// Bytes of the uncompressed stream; and of all sparse files in it.
    pub bytes: u64,
    /// Bytes of all paths, link targets and attributes, which stay in memory. A header can imply a
    /// directory for every second byte of its path.
    pub names: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { entries: 10_000_000, bytes: 1 << 40, names: 1 << 30 }
    }
}

/// How to unpack.
#[derive(Clone, Debug, Default)]
pub struct UnpackOptions {
    /// Owners on disk.
    pub ids: OnDiskIds,
    /// Limits.
    pub limits: Limits,
    /// A user's archive, not a layer: `..` never leads out of it, and hard links may name files that only
    /// the place where it is unpacked has. Those are listed, not made.
    pub loose: bool,
    /// Sparse files are read, with zeros for their holes: users' archives, not layers. Their sizes count
    /// for [`Limits::bytes`] too.
    pub sparse: bool,
    /// Stops the work, with [`LayerError::Canceled`].
    pub cancel: Option<Cancel>,
}

/// A layer that was read.
#[derive(Debug)]
pub struct Unpacked {
    /// Digest of the stream.
    pub diff_id: DiffId,
    /// Bytes of the stream.
    pub uncompressed_size: u64,
    /// The entries.
    pub index: LayerIndex,
    /// What could not be put on disk and is in the index only.
    pub notes: Vec<String>,
    /// Directories that only the paths of other entries refer to.
    pub implied: HashSet<Vec<u8>>,
}

/// Unpacks a blob, compressed or not, into the empty directory `dest`. Where the kernel has Landlock, the
/// threads that do it can open nothing but what lies there.
pub fn unpack(
    blob: impl Read + Send,
    dest: &Path,
    parent: &dyn ParentView,
    options: &UnpackOptions,
) -> Result<Unpacked, LayerError> {
    let root = Root::open(dest).map_err(|error| LayerError::io("open", dest, error))?;
    let work = |parent: &dyn ParentView| read(blob, parent, Some(&root), options);
    confined::unpacking(dest, parent, work).map_err(|error| error.full_at(dest))
}

/// Reads the entries of a blob and puts nothing on disk.
pub fn read_index(blob: impl Read + Send, cancel: Option<Cancel>) -> Result<Unpacked, LayerError> {
    read(blob, &NoParent, None, &UnpackOptions { cancel, ..UnpackOptions::default() })
}

/// Makes the index of a layer anew from its blob; `None` where the store has none.
pub fn rebuild_index(store: &Store, diff_id: &DiffId) -> Result<Option<Arc<LayerIndex>>, LayerError> {
    let Some(record) = load_layer(store, diff_id)? else { return Ok(None) };
    for blob in &record.blobs {
        let Some(file) = store.open_blob(&blob.digest)? else { continue };
        return make_index(store, diff_id, file).map(Some);
    }
    Ok(None)
}

/// Makes the index of a layer from its blob, whose content must have the diff ID.
pub fn make_index(
    store: &Store,
    diff_id: &DiffId,
    blob: impl Read + Send,
) -> Result<Arc<LayerIndex>, LayerError> {
    let unpacked = read_index(blob, store.canceled_by())?;
    if unpacked.diff_id != *diff_id {
        return Err(LayerError::Invalid(format!(
            "layer content does not match the image: expected diff ID {diff_id}, got {}",
            unpacked.diff_id
        )));
    }
    store_index(store, diff_id, &unpacked.index)?;
    Ok(Arc::new(unpacked.index))
}

/// The bytes of one file of a layer, read from its blob.
pub fn read_file(
    store: &Store,
    diff_id: &DiffId,
    offset: u64,
    size: u64,
    limit: u64,
) -> Result<Vec<u8>, LayerError> {
    if size > limit {
        return Err(LayerError::Invalid(format!("a file of {size} bytes where at most {limit} are read")));
    }
    let mut plain = open_plain(store, diff_id)?;
    io::copy(&mut plain.by_ref().take(offset), &mut io::sink()).map_err(LayerError::Stream)?;
    let mut content = Vec::new();
    plain.take(size).read_to_end(&mut content).map_err(LayerError::Stream)?;
    Ok(content)
}

/// The uncompressed stream of a layer of the store.
pub fn open_plain(store: &Store, diff_id: &DiffId) -> Result<Box<dyn Read>, LayerError> {
    let record = load_layer(store, diff_id)?;
    let blobs = record.map(|record| record.blobs).unwrap_or_default();
    let mut opened = blobs.iter().filter_map(|blob| store.open_blob(&blob.digest).transpose());
    let nothing = || LayerError::Invalid(format!("the store has no content for layer {diff_id}"));
    let file = opened.next().ok_or_else(nothing)??;
    Ok(crate::compress::decompress(file).map_err(LayerError::Stream)?.1)
}

fn read(
    blob: impl Read + Send,
    parent: &dyn ParentView,
    root: Option<&Root>,
    options: &UnpackOptions,
) -> Result<Unpacked, LayerError> {
    let list = |plain: &mut dyn Read| {
        let mut reader = TarReader::new(plain).with_sparse(options.sparse);
        let mut work = Work {
            parent,
            root,
            ids: options.ids,
            loose: options.loose,
            cancel: options.cancel.as_ref(),
            listing: Listing::default(),
            resolved: HashMap::new(),
            resolved_here: HashMap::new(),
            followed: HashSet::new(),
            held: 0,
            copied: HashMap::new(),
            notes: Vec::new(),
            implied: HashSet::new(),
        };
        let (limits, mut expanded) = (&options.limits, 0u64);
        while let Some(header) = reader.next()? {
            if work.listing.len() >= limits.entries {
                return Err(LayerError::Invalid("too many entries".into()));
            }
            expanded = expanded.saturating_add(if header.sparse { header.size } else { 0 });
            if expanded > limits.bytes {
                return Err(LayerError::Invalid("its sparse files are larger than the limit".into()));
            }
            work.entry(&header, &mut reader)?;
            if work.held() > limits.names {
                let detail = format!("its names take more than {} bytes of memory", limits.names);
                return Err(LayerError::Invalid(detail));
            }
        }
        reader.drain()?;
        let implied = std::mem::take(&mut work.implied);
        Ok((work.finish()?, implied, reader.position()))
    };
    let cancel = options.cancel.as_ref();
    let result = plain::read(blob, options.limits.bytes, cancel, list);
    if cancel.is_some_and(Cancel::is_cancelled) && result.is_err() {
        return Err(LayerError::Canceled);
    }
    let (((index, notes), implied, uncompressed_size), diff_id) = result?;
    Ok(Unpacked { diff_id, uncompressed_size, index, notes, implied })
}
