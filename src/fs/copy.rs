//! Copying a layer's directory onto a plain root file system, for places where overlayfs cannot be
//! mounted.

use std::io;

use rustix::fs::FileType;

use super::root::{Root, TreeEntry, is_overlay_private};

/// Puts a layer directory in overlay form onto `dest`: deletions delete, everything else is copied
/// with its metadata. `keep_owners` is false where only one ID is mapped. Names of one file become files, as an overlay
/// parts them when one of them is changed.
pub fn copy_layer(layer: &Root, dest: &Root, keep_owners: bool) -> io::Result<()> {
    let mut dirs = Vec::new();
    for entry in layer.walk()? {
        let path = entry.path.as_slice();
        if entry.is_whiteout() {
            dest.remove(path)?;
            continue;
        }
        let is_dir = entry.file_type() == FileType::Directory;
        let xattrs = if entry.file_type() == FileType::Symlink { Vec::new() } else { layer.xattrs(path)? };
        if xattrs.iter().any(|(name, _)| name.ends_with(b"overlay.whiteout")) {
            dest.remove(path)?;
            continue;
        }
        let opaque = is_dir && layer.is_opaque(path, &xattrs)?;
        let existing = dest.stat(path)?;
        let stays = is_dir && !opaque && existing.is_some_and(|old| old.file_type() == FileType::Directory);
        if !stays {
            dest.remove(path)?;
        }
        if is_dir {
            if !stays {
                dest.make_dir(path)?;
            }
            dirs.push((entry, xattrs));
            continue;
        }
        copy_content(layer, dest, &entry)?;
        copy_metadata(dest, &entry, &xattrs, keep_owners)?;
    }
    // Directories last: filling them changes their times, and their modes may forbid filling them.
    for (entry, xattrs) in dirs.iter().rev() {
        copy_metadata(dest, entry, xattrs, keep_owners)?;
    }
    Ok(())
}

/// Makes the same file elsewhere, without its metadata. Names of one file become files.
pub fn copy_content(layer: &Root, dest: &Root, entry: &TreeEntry) -> io::Result<()> {
    let path = entry.path.as_slice();
    match entry.file_type() {
        FileType::RegularFile => {
            // The standard library copies between files inside the kernel, by reference where the
            // file system can.
            io::copy(&mut layer.open_file(path)?, &mut dest.create_file(path)?).map(drop)
        }
        FileType::Symlink => dest.make_symlink(&layer.read_link(path)?, path),
        kind => dest.make_node(path, kind, entry.stat.stx_rdev_major, entry.stat.stx_rdev_minor),
    }
}

/// Owner, mode, attributes and time, in the order in which none undoes another.
pub fn copy_metadata(
    dest: &Root,
    entry: &TreeEntry,
    xattrs: &[(Vec<u8>, Vec<u8>)],
    keep_owners: bool,
) -> io::Result<()> {
    let path = entry.path.as_slice();
    if keep_owners {
        dest.set_owner(path, entry.stat.stx_uid, entry.stat.stx_gid)?;
    }
    if entry.file_type() != FileType::Symlink {
        dest.set_mode(path, entry.mode())?;
        for (name, value) in xattrs.iter().filter(|(name, _)| !is_overlay_private(name)) {
            // Attributes of this machine's security modules are not ours to set.
            let _ = dest.set_xattr(path, name, value);
        }
    }
    dest.set_mtime(path, entry.stat.stx_mtime.tv_sec, entry.stat.stx_mtime.tv_nsec)
}
