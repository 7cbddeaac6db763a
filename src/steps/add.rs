//! `ADD` of local archives: recognised by content, unpacked into the destination.

use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::cancel::Cancel;
use crate::compress::decompress;
use crate::context::{FileKind, FileSource, Opened, TAR_BLOCK, is_tar};
use crate::fs::paths::join;
use crate::layer::{self, Entry, EntryKind, LayerError, OnDiskIds, UnpackOptions};
use crate::snapshot::Tree;

use super::copy::{CopyError, Selected, Unpacked};
use super::place::{Destination, Origin, PlaceError, Placer};

/// Times that an archive's files keep: what Go's nanoseconds since 1970 can say. Others become 1970,
/// as in BuildKit (`boundTime` of moby's archive package).
const TIMES: std::ops::Range<i64> = 0..i64::MAX / 1_000_000_000;

/// Why an archive cannot be added.
#[derive(Debug, thiserror::Error)]
pub enum AddError {
    /// The archive is broken.
    #[error("cannot unpack {name}: {source}")]
    Broken {
        /// The archive as written.
        name: String,
        /// What is wrong.
        source: LayerError,
    },
    /// The archive holds a name that layers reserve.
    #[error(
        "cannot unpack {name}: it contains {entry:?}; names beginning with .wh. mark deletions in image layers and cannot be files"
    )]
    Reserved {
        /// The archive.
        name: String,
        /// The entry.
        entry: String,
    },
    /// The source failed.
    #[error(transparent)]
    Copy(#[from] CopyError),
}

impl AddError {
    /// Whether it only says that something else stopped the work.
    pub fn is_canceled(&self) -> bool {
        matches!(self, AddError::Broken { source: LayerError::Canceled, .. })
    }
}

/// Whether a stream is a tar, compressed or not, by its first header.
pub fn is_archive(reader: impl Read + Send) -> bool {
    let Ok((_, plain)) = decompress(reader) else { return false };
    let mut header = Vec::with_capacity(TAR_BLOCK);
    let complete = plain.take(TAR_BLOCK as u64).read_to_end(&mut header).is_ok();
    // The zeros that end an archive begin an empty one, which BuildKit does not take for one.
    complete && is_tar(&header) && header.iter().any(|byte| *byte != 0)
}

/// Takes the archives out of a source's selections and unpacks them below `scratch`. So many selections of
/// other sources come `before` it.
pub fn unpack_archives(
    selected: &mut Selected,
    before: usize,
    scratch: &Path,
    cancel: &Cancel,
) -> Result<Vec<Unpacked>, AddError> {
    let mut archives = Vec::new();
    let first = std::fs::read_dir(scratch).map_or(0, Iterator::count);
    let mut position = 0;
    while let Some(selection) = selected.selections.get(position) {
        let archive = match selection.files.first() {
            Some(file) if !selection.is_dir && matches!(file.kind, FileKind::File { .. }) => {
                is_archive(open(&*selected.source, &file.path)?).then(|| file.path.clone())
            }
            _ => None,
        };
        let Some(path) = archive else {
            position += 1;
            continue;
        };
        let dir = scratch.join((first + archives.len()).to_string());
        archives.push(Unpacked { position: before + position, ..unpack(selected, &path, dir, cancel)? });
        selected.selections.remove(position);
        selected.digests.remove(position);
    }
    Ok(archives)
}

fn open(source: &dyn FileSource, path: &[u8]) -> Result<Opened, AddError> {
    Ok(source.open(path).map_err(CopyError::from)?)
}

fn unpack(selected: &Selected, path: &[u8], dir: PathBuf, cancel: &Cancel) -> Result<Unpacked, AddError> {
    let name = String::from_utf8_lossy(path).into_owned();
    let broken = |source| AddError::Broken { name: name.clone(), source };
    std::fs::create_dir(&dir).map_err(|source| broken(LayerError::io("create", &dir, source)))?;
    let options = UnpackOptions {
        ids: OnDiskIds::AllToSelf,
        loose: true,
        sparse: true,
        cancel: Some(cancel.clone()),
        ..UnpackOptions::default()
    };
    let unpacked =
        layer::unpack(open(&*selected.source, path)?, &dir, &Tree::empty(), &options).map_err(broken)?;
    let implied = unpacked.implied;
    let entries = unpacked.index.entries;
    let reserved = |entry: &&Entry| matches!(entry.kind, EntryKind::Whiteout | EntryKind::Opaque);
    if let Some(entry) = entries.iter().find(reserved) {
        let entry = String::from_utf8_lossy(&entry.path).into_owned();
        return Err(AddError::Reserved { name, entry });
    }
    Ok(Unpacked { entries, dir, implied, position: 0 })
}

/// Where the content of a file is that an archive brings.
pub enum Content {
    /// In a file it was unpacked to.
    Unpacked(PathBuf),
    /// At a path of the image: the archive has a hard link to it.
    Below(Vec<u8>),
}

/// Places the entries of an archive below the destination, which is always a directory. Links that
/// already stand in the image are followed inside its root; a directory entry replaces one.
/// Adds the place of each file's content to `content`, at its number as [`Origin::Archived`].
pub fn place(
    placer: &mut Placer<'_>,
    dest: &Destination,
    archive: &Unpacked,
    content: &mut Vec<Content>,
) -> Result<(), PlaceError> {
    placer.for_archive = true;
    let target = placer.resolve_dest()?;
    placer.ensure_dir(&target)?;
    let mut moved: HashMap<Vec<u8>, Vec<u8>> = HashMap::new();
    for entry in &archive.entries {
        let path = placer.resolve_entry(&join(&target, &entry.path))?;
        if archive.implied.contains(&entry.path) {
            // A directory that the archive never lists: whatever leads to one there stays.
            let real = placer.resolve_entry(&join(&path, b""))?;
            placer.for_root = true;
            placer.ensure_dir(real.strip_suffix(b"/").unwrap_or(&real))?;
            placer.for_root = false;
            moved.insert(entry.path.clone(), path);
            continue;
        }
        let mut placed = Entry { path: path.clone(), offset: 0, ..entry.clone() };
        if !TIMES.contains(&placed.meta.mtime) {
            placed.meta.mtime = 0;
        }
        if let Some((uid, gid)) = dest.owner {
            (placed.meta.uid, placed.meta.gid) = (uid, gid);
        }
        if matches!(placed.kind, EntryKind::Symlink(_)) {
            // What an archive says of a link's mode means nothing to any system.
            placed.meta.mode = 0o777;
        }
        if let EntryKind::Hardlink(first) = &mut placed.kind {
            *first = match moved.get(first) {
                Some(real) => real.clone(),
                None => placer.resolve_entry(&join(&target, first))?,
            };
            if placer.link_target(first, &path, Origin::Archived(content.len()))? {
                content.push(Content::Below(first.clone()));
            }
            // The last header of a file decides about all its names.
            placer.set_metadata(first, &placed.meta);
        }
        let mut origin = None;
        if matches!(placed.kind, EntryKind::File { .. }) {
            origin = Some(Origin::Archived(content.len()));
            content.push(Content::Unpacked(archive.dir.join(os_path(&entry.path))));
        }
        moved.insert(entry.path.clone(), path);
        placer.put(placed, origin)?;
    }
    placer.for_archive = false;
    Ok(())
}

fn os_path(path: &[u8]) -> &Path {
    use std::os::unix::ffi::OsStrExt as _;
    Path::new(std::ffi::OsStr::from_bytes(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tar() -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_size(2);
        header.set_mode(0o644);
        let _ = header.set_path("a");
        header.set_cksum();
        let _ = builder.append(&header, &b"hi"[..]);
        builder.into_inner().unwrap_or_default()
    }

    #[test]
    fn archives_are_known_by_content_in_every_compression() {
        let tar = tar();
        assert!(is_archive(&tar[..]));
        let zstd = zstd::encode_all(&tar[..], 1).unwrap_or_default();
        assert!(is_archive(&zstd[..]));
        assert!(!is_archive(&b"#!/bin/sh\necho hello\n"[..]));
        assert!(!is_archive(&tar[..300]));
        let packed_text = zstd::encode_all(&b"just text"[..], 1).unwrap_or_default();
        assert!(!is_archive(&packed_text[..]));
    }
}
