//! A list of entries to files in a directory: what unpacking its tar would give, without the tar.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use rustix::fs::FileType;

use crate::digest::{Digest, Hasher};
use crate::fs::Root;

use super::entry::{Entry, EntryKind, Metadata};
use super::error::LayerError;
use super::unpack::OnDiskIds;
use super::write::{ContentSource, KnownContent};

const COPY_BUFFER: usize = 128 * 1024;

/// Writes `entries` (parents before children) into the empty directory `dest`. Deletions become their
/// overlay form. Device nodes that may not be made are left out.
pub fn write_files(
    entries: &[Entry],
    content: &dyn ContentSource,
    dest: &Path,
    ids: OnDiskIds,
) -> Result<(), LayerError> {
    write_all(entries, content, dest, ids, false).map_err(|error| error.full_at(dest))
}

/// As [`write_files`]; content that is not that of the digest in its entry is an error.
pub fn write_files_checked(
    entries: &[Entry],
    content: &dyn ContentSource,
    dest: &Path,
    ids: OnDiskIds,
) -> Result<(), LayerError> {
    write_all(entries, content, dest, ids, true).map_err(|error| error.full_at(dest))
}

fn write_all(
    entries: &[Entry],
    content: &dyn ContentSource,
    dest: &Path,
    ids: OnDiskIds,
    check: bool,
) -> Result<(), LayerError> {
    let root = Root::open(dest).map_err(|error| LayerError::io("open", dest, error))?;
    let mut buffer = vec![0; if check { COPY_BUFFER } else { 0 }];
    for (position, entry) in entries.iter().enumerate() {
        let failed = |error| LayerError::inside("write", &entry.path, error);
        match entry.kind {
            EntryKind::File { digest: Some(expected), .. } if check => {
                let mut file = root.create_file(&entry.path).map_err(failed)?;
                let same = match content.open_known(position, entry).map_err(failed)? {
                    Some(known) => copy_known(&mut file, entry, &*known).map_err(failed)?,
                    None => {
                        let seen = copy_digested(&mut file, position, entry, content, &mut buffer);
                        seen.map_err(failed)? == expected
                    }
                };
                if !same {
                    let detail = "its content differs from what was digested before";
                    return Err(LayerError::changed(&entry.path, detail));
                }
                metadata(&root, &entry.path, &entry.kind, &entry.meta, ids).map_err(failed)?;
            }
            _ => write_one(&root, position, entry, content, ids).map_err(failed)?,
        }
    }
    // Writing into a directory changes its time, and its mode may forbid it: directories come last,
    // the deepest first.
    for entry in entries.iter().rev().filter(|entry| entry.kind == EntryKind::Dir) {
        metadata(&root, &entry.path, &entry.kind, &entry.meta, ids)
            .map_err(|error| LayerError::inside("write", &entry.path, error))?;
    }
    Ok(())
}

fn copy_digested(
    file: &mut File,
    position: usize,
    entry: &Entry,
    content: &dyn ContentSource,
    buffer: &mut [u8],
) -> io::Result<Digest> {
    let mut source = content.open(position, entry)?;
    let mut hasher = Hasher::new();
    loop {
        match source.read(buffer) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(count) => {
                hasher.update(&buffer[..count]);
                file.write_all(&buffer[..count])?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Copies what is known to be what its entry says; whether it still was at the end.
fn copy_known(file: &mut File, entry: &Entry, known: &dyn KnownContent) -> io::Result<bool> {
    let EntryKind::File { size, .. } = entry.kind else { return Ok(false) };
    let copied = if size == 0 { 0 } else { io::copy(&mut known.file(), file)? };
    Ok(copied == size && known.is_unchanged()?)
}

fn write_one(
    root: &Root,
    position: usize,
    entry: &Entry,
    content: &dyn ContentSource,
    ids: OnDiskIds,
) -> io::Result<()> {
    let path = entry.path.as_slice();
    match &entry.kind {
        EntryKind::Dir => return root.make_dir(path),
        EntryKind::File { .. } => fill(root.create_file(path)?, position, entry, content)?,
        EntryKind::Symlink(target) => root.make_symlink(target, path)?,
        EntryKind::Hardlink(first) => return root.make_link(first, path),
        EntryKind::Whiteout
        | EntryKind::Opaque
        | EntryKind::CharDevice { .. }
        | EntryKind::BlockDevice { .. }
            if ids == OnDiskIds::ContentsOnly =>
        {
            return Ok(());
        }
        EntryKind::Whiteout => return root.make_whiteout(path),
        EntryKind::Opaque => return root.make_opaque(path),
        EntryKind::Fifo => root.make_node(path, FileType::Fifo, 0, 0)?,
        EntryKind::CharDevice { major, minor } => {
            if !node(root, path, FileType::CharacterDevice, *major, *minor)? {
                return Ok(());
            }
        }
        EntryKind::BlockDevice { major, minor } => {
            if !node(root, path, FileType::BlockDevice, *major, *minor)? {
                return Ok(());
            }
        }
    }
    metadata(root, path, &entry.kind, &entry.meta, ids)
}

fn node(root: &Root, path: &[u8], kind: FileType, major: u32, minor: u32) -> io::Result<bool> {
    match root.make_node(path, kind, major, minor) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(false),
        other => other.map(|()| true),
    }
}

fn fill(mut file: File, position: usize, entry: &Entry, content: &dyn ContentSource) -> io::Result<()> {
    let EntryKind::File { size, .. } = entry.kind else { return Ok(()) };
    if size == 0 {
        return Ok(());
    }
    // Between two files the kernel copies, or shares blocks where the file system can.
    let written = match content.open_file(position, entry)? {
        Some(mut source) => io::copy(&mut source, &mut file)?,
        None => io::copy(&mut content.open(position, entry)?, &mut file)?,
    };
    if written != size {
        return Err(io::Error::other(format!("has {written} bytes where {size} were listed")));
    }
    Ok(())
}

fn metadata(root: &Root, path: &[u8], kind: &EntryKind, meta: &Metadata, ids: OnDiskIds) -> io::Result<()> {
    let link = matches!(kind, EntryKind::Symlink(_));
    match ids {
        OnDiskIds::ContentsOnly if link => return Ok(()),
        OnDiskIds::ContentsOnly => return root.set_mode(path, 0o700),
        OnDiskIds::Keep if (meta.uid, meta.gid) != (0, 0) => root.set_owner(path, meta.uid, meta.gid)?,
        OnDiskIds::Keep => {}
        OnDiskIds::AllToSelf => root.record_owner(path, meta.uid, meta.gid)?,
    }
    if !link {
        for (name, value) in &meta.xattrs {
            match root.set_xattr(path, name, value) {
                Err(error) if not_here(&error) => {}
                other => other?,
            }
        }
        root.set_mode(path, meta.mode)?;
    }
    root.set_mtime(path, meta.mtime, 0)
}

/// Attributes that this user may not set or this file system does not have are in the index only.
fn not_here(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported)
}
