//! The entries of a layer's tar, one after another: where each really lies, what it replaces, and what it
//! is on disk.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom, Write as _};

use rustix::fs::FileType;

use crate::cancel::Cancel;
use crate::digest::Hasher;
use crate::fs::Root;
use crate::fs::paths::{join, split};

use super::diff::{ParentKind, ParentView, belongs_in_images};
use super::entry::{Entry, EntryKind, LayerIndex, Metadata};
use super::error::LayerError;
use super::listing::Listing;
use super::tar_read::{Header, TarReader};
use super::tar_write::{OPAQUE, WHITEOUT};
use super::unpack::OnDiskIds;
use super::unpack_dir::Through;

/// What the kernel takes as a path or as the target of a link: `PATH_MAX` without the NUL at its end.
const MAX_PATH: usize = 4095;
/// Bytes copied between two looks at the switch.
const COPIED_AT_ONCE: u64 = 64 << 20;
/// More notes than this say nothing new.
const MAX_NOTES: usize = 1000;

pub(super) struct Work<'a> {
    pub(super) parent: &'a dyn ParentView,
    pub(super) root: Option<&'a Root>,
    pub(super) ids: OnDiskIds,
    pub(super) loose: bool,
    pub(super) cancel: Option<&'a Cancel>,
    pub(super) listing: Listing,
    /// Stored directory name to where it really lies.
    pub(super) resolved: HashMap<Vec<u8>, Vec<u8>>,
    /// The same where links of layers below do not count.
    pub(super) resolved_here: HashMap<Vec<u8>, Vec<u8>>,
    /// Links that led to one of those.
    pub(super) followed: HashSet<Vec<u8>>,
    /// Bytes of the paths in `resolved` and `resolved_here`.
    pub(super) held: u64,
    /// Files of layers below that were copied for a link to them, and the first link.
    pub(super) copied: HashMap<Vec<u8>, Vec<u8>>,
    pub(super) notes: Vec<String>,
    pub(super) implied: HashSet<Vec<u8>>,
}

pub(super) fn invalid(text: impl Into<String>) -> LayerError {
    LayerError::Invalid(text.into())
}

pub(super) fn show(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

/// A stored name without leading slash and `.`; `..` is an attack or a mistake, never a layer, and in an
/// archive of a user's (`loose`) it leads to the archive's root at most, as after a change of root.
fn clean_name(name: &[u8], loose: bool) -> Result<Vec<u8>, LayerError> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in name.split(|c| *c == b'/') {
        match part {
            b"" | b"." => {}
            b".." if loose => drop(parts.pop()),
            b".." => return Err(invalid(format!("{:?} contains ..", show(name)))),
            part if part.contains(&0) => return Err(invalid(format!("{:?} contains NUL", show(name)))),
            part => parts.push(part),
        }
    }
    let path = parts.join(&b'/');
    if path.len() > MAX_PATH {
        let start = String::from_utf8_lossy(&path[..60]);
        return Err(invalid(format!("the path {start:?}... is longer than {MAX_PATH} bytes")));
    }
    Ok(path)
}

pub(super) fn implicit() -> Metadata {
    Metadata { mode: 0o755, uid: 0, gid: 0, mtime: 0, xattrs: Vec::new() }
}

impl Work<'_> {
    pub(super) fn entry(
        &mut self,
        header: &Header,
        content: &mut TarReader<impl Read>,
    ) -> Result<(), LayerError> {
        let stored = clean_name(&header.path, self.loose)?;
        if stored.is_empty() {
            // The root's own entry: its metadata is not part of a layer's meaning for anybody.
            return Ok(());
        }
        let (dir, name) = split(&stored);
        let dir = self.directory(dir)?;
        if name == OPAQUE {
            return self.opaque(dir);
        }
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            if hidden.is_empty() || hidden == b"." || hidden == b".." {
                return Err(invalid(format!("{:?} is no whiteout", show(&stored))));
            }
            // Names such as `.wh..wh.plnk` are notes of one file system to itself.
            return if hidden.starts_with(WHITEOUT) { Ok(()) } else { self.whiteout(join(&dir, hidden)) };
        }
        let path = join(&dir, name);
        let meta = Metadata {
            mode: header.mode,
            uid: header.uid,
            gid: header.gid,
            mtime: header.mtime,
            xattrs: header.xattrs.iter().filter(|(name, _)| belongs_in_images(name)).cloned().collect(),
        };
        let kind = self.kind(header, &path)?;
        self.implied.remove(&path);
        let hides = self.replace(&path, &kind)?;
        let kind = self.put(&path, kind, header, &meta, content)?;
        let offset = if matches!(kind, EntryKind::File { .. }) { header.offset } else { 0 };
        self.listing.add(Entry { path: path.clone(), kind, meta, offset });
        if hides { self.opaque(path) } else { Ok(()) }
    }

    fn kind(&mut self, header: &Header, path: &[u8]) -> Result<EntryKind, LayerError> {
        Ok(match header.flag {
            b'0' | b'7' => EntryKind::File { size: header.size, digest: None },
            b'1' => {
                let stored = clean_name(&header.link, self.loose)?;
                let (dir, name) = split(&stored);
                let target = join(&self.directory_of(dir, Through::All)?, name);
                if !self.can_link(&target) {
                    return Err(invalid(format!(
                        "{:?} is a hard link to {:?}, which is no file of this layer or of one below",
                        show(path),
                        show(&target)
                    )));
                }
                EntryKind::Hardlink(target)
            }
            b'2' if header.link.len() > MAX_PATH => {
                return Err(invalid(format!(
                    "{:?} is a link whose target is longer than {MAX_PATH} bytes",
                    show(path)
                )));
            }
            b'2' => EntryKind::Symlink(header.link.clone()),
            b'3' if header.major == 0 && header.minor == 0 => {
                return Err(invalid(format!(
                    "{:?} is a character device 0:0, which hides files",
                    show(path)
                )));
            }
            b'3' => EntryKind::CharDevice { major: header.major, minor: header.minor },
            b'4' => EntryKind::BlockDevice { major: header.major, minor: header.minor },
            b'5' => EntryKind::Dir,
            b'6' => EntryKind::Fifo,
            other => {
                return Err(invalid(format!(
                    "{:?} has the unknown type {:?}",
                    show(path),
                    char::from(other)
                )));
            }
        })
    }

    /// Whether a hard link to a path means something: to a file of this layer, or, as engines have it
    /// that unpack onto a mount of the layers below, to a regular file of those. Where only the entries
    /// are read, nothing is known of the layers below.
    fn can_link(&self, target: &[u8]) -> bool {
        match self.listing.get(target) {
            Some(entry) => !matches!(entry.kind, EntryKind::Dir | EntryKind::Whiteout),
            None if self.root.is_none() || self.loose => true,
            None if self.listing.hides_below(target) => false,
            None => self.parent.node(target).is_some_and(|node| node.kind == ParentKind::Other),
        }
    }

    /// A name for a file of a layer below: a copy, with that file's metadata.
    fn copy_up(&mut self, root: &Root, target: &[u8], path: &[u8]) -> Result<(), LayerError> {
        let failed = |error| LayerError::inside("copy up", target, error);
        let (node, content) = (self.parent.node(target), self.parent.content(target).map_err(failed)?);
        let (Some(node), Some(mut content)) = (node, content) else {
            return Err(invalid(format!(
                "{:?} is a hard link to {:?}, which is no regular file",
                show(path),
                show(target)
            )));
        };
        let mut file = root.create_file(path).map_err(failed)?;
        let mut left = content.by_ref().take(COPIED_AT_ONCE);
        while io::copy(&mut left, &mut file).map_err(failed)? > 0 {
            self.check()?;
            left.set_limit(COPIED_AT_ONCE);
        }
        drop(content);
        self.copied.insert(target.to_vec(), path.to_vec());
        self.apply(path, &node.meta, true)
    }

    /// The name of this layer that already has a copy of a file below.
    fn copy_of(&self, target: &[u8]) -> Option<&Vec<u8>> {
        let copy = self.copied.get(target)?;
        let is = |entry: &Entry| matches!(&entry.kind, EntryKind::Hardlink(to) if to == target);
        self.listing.get(copy).is_some_and(is).then_some(copy)
    }

    fn check(&self) -> Result<(), LayerError> {
        match self.cancel {
            Some(cancel) if cancel.is_cancelled() => Err(LayerError::Canceled),
            _ => Ok(()),
        }
    }

    /// Clears the way for an entry: a later one of the same name replaces an earlier one. Gives whether it is a
    /// directory that takes the place of a deletion or of another file of this layer: it hides what layers below
    /// have under its name, as what it replaces does. An archive of a user's has no layers below.
    pub(super) fn replace(&mut self, path: &[u8], kind: &EntryKind) -> Result<bool, LayerError> {
        if !self.followed.is_empty() && self.followed.contains(path) {
            self.forget_resolved();
        }
        let Some(there) = self.listing.get(path) else { return Ok(false) };
        let was_dir = there.kind == EntryKind::Dir;
        if was_dir {
            if *kind == EntryKind::Dir {
                self.listing.forget_dir(path);
                return Ok(false);
            }
            self.forget_resolved();
        }
        self.listing.forget(path);
        if let Some(root) = self.root {
            root.remove(path).map_err(|error| LayerError::inside("replace", path, error))?;
        }
        Ok(*kind == EntryKind::Dir && !was_dir && !self.loose)
    }

    /// Bytes that the names and attributes of the archive take in memory.
    pub(super) fn held(&self) -> u64 {
        self.listing.held() + self.held
    }

    /// New maps: emptying a large one costs its size, and an archive can ask for that with every entry.
    pub(super) fn forget_resolved(&mut self) {
        self.held = 0;
        self.resolved = HashMap::new();
        self.resolved_here = HashMap::new();
        self.followed = HashSet::new();
    }

    fn whiteout(&mut self, path: Vec<u8>) -> Result<(), LayerError> {
        // Deletions refer to lower layers; what this layer has stays, and hides them by itself but for a directory.
        match self.listing.get(&path) {
            Some(there) if there.kind == EntryKind::Dir && !self.loose => return self.opaque(path),
            Some(_) => return Ok(()),
            None if self.followed.contains(&path) => self.forget_resolved(),
            None => {}
        }
        if let Some(root) = self.root.filter(|_| self.ids != OnDiskIds::ContentsOnly) {
            root.make_whiteout(&path).map_err(|error| LayerError::inside("hide", &path, error))?;
        }
        let meta = Metadata { mode: 0, ..implicit() };
        self.listing.add(Entry { path, kind: EntryKind::Whiteout, meta, offset: 0 });
        Ok(())
    }

    pub(super) fn opaque(&mut self, dir: Vec<u8>) -> Result<(), LayerError> {
        if dir.is_empty() {
            return Err(invalid("the root directory cannot be opaque"));
        }
        if self.listing.is_opaque(&dir) {
            return Ok(());
        }
        if !self.followed.is_empty() {
            self.forget_resolved();
        }
        if let Some(root) = self.root.filter(|_| self.ids != OnDiskIds::ContentsOnly) {
            root.make_opaque(&dir).map_err(|error| LayerError::inside("hide what is below", &dir, error))?;
        }
        let meta = Metadata { mode: 0, ..implicit() };
        self.listing.add(Entry { path: dir, kind: EntryKind::Opaque, meta, offset: 0 });
        Ok(())
    }

    /// Puts an entry on disk, reading its content either way; gives the kind with its digest.
    fn put(
        &mut self,
        path: &[u8],
        kind: EntryKind,
        header: &Header,
        meta: &Metadata,
        content: &mut TarReader<impl Read>,
    ) -> Result<EntryKind, LayerError> {
        let failed = |error| LayerError::inside("unpack", path, error);
        if let EntryKind::File { size, .. } = kind {
            let mut hasher = Hasher::new();
            match self.root {
                Some(root) => {
                    let mut file = root.create_file(path).map_err(failed)?;
                    copy_hashed(content, Some(&mut file), &mut hasher).map_err(failed)?;
                }
                None => copy_hashed(content, None, &mut hasher).map_err(LayerError::Stream)?,
            }
            self.apply(path, meta, true)?;
            return Ok(EntryKind::File { size, digest: Some(hasher.finish()) });
        }
        let Some(root) = self.root else { return Ok(kind) };
        match &kind {
            EntryKind::Dir if self.listing.has(path) => return Ok(kind),
            EntryKind::Dir => {
                root.make_dir(path).map_err(failed)?;
                return Ok(kind);
            }
            EntryKind::Hardlink(target) if !self.listing.has(target) && self.loose => return Ok(kind),
            EntryKind::Hardlink(target) if !self.listing.has(target) => {
                match self.copy_of(target) {
                    Some(copy) => root.make_link(copy, path).map_err(failed)?,
                    None => self.copy_up(root, target, path)?,
                }
                return Ok(kind);
            }
            EntryKind::Hardlink(target) => {
                root.make_link(target, path).map_err(failed)?;
                return Ok(kind);
            }
            EntryKind::Symlink(target) => root.make_symlink(target, path).map_err(failed)?,
            EntryKind::Fifo => root.make_node(path, FileType::Fifo, 0, 0).map_err(failed)?,
            EntryKind::CharDevice { .. } | EntryKind::BlockDevice { .. }
                if self.ids == OnDiskIds::ContentsOnly =>
            {
                return Ok(kind);
            }
            EntryKind::CharDevice { .. } | EntryKind::BlockDevice { .. } => {
                let char_device = matches!(kind, EntryKind::CharDevice { .. });
                let node = if char_device { FileType::CharacterDevice } else { FileType::BlockDevice };
                if let Err(error) = root.make_node(path, node, header.major, header.minor) {
                    self.note(|| format!("device {} cannot be made here: {error}", show(path)));
                    return Ok(kind);
                }
            }
            _ => {}
        }
        self.apply(path, meta, !matches!(kind, EntryKind::Symlink(_)))?;
        Ok(kind)
    }

    /// Owner first: changing it clears setuid bits and capabilities.
    fn apply(&mut self, path: &[u8], meta: &Metadata, has_mode: bool) -> Result<(), LayerError> {
        let Some(root) = self.root else { return Ok(()) };
        let failed = |error| LayerError::inside("set the metadata of", path, error);
        match self.ids {
            OnDiskIds::Keep => root.set_owner(path, meta.uid, meta.gid),
            OnDiskIds::AllToSelf => root.record_owner(path, meta.uid, meta.gid),
            OnDiskIds::ContentsOnly if has_mode => return root.set_mode(path, 0o700).map_err(failed),
            OnDiskIds::ContentsOnly => return Ok(()),
        }
        .map_err(failed)?;
        if has_mode {
            root.set_mode(path, meta.mode).map_err(failed)?;
            for (name, value) in &meta.xattrs {
                if let Err(error) = root.set_xattr(path, name, value) {
                    self.note(|| format!("{} of {} cannot be set: {error}", show(name), show(path)));
                }
            }
        }
        root.set_mtime(path, meta.mtime, 0).map_err(failed)
    }

    /// Directories get modes and times last, the deepest first, when nothing is put into them any more.
    pub(super) fn finish(mut self) -> Result<(LayerIndex, Vec<String>), LayerError> {
        let index = std::mem::take(&mut self.listing).finish();
        if self.root.is_some() {
            for entry in index.entries.iter().rev().filter(|entry| entry.kind == EntryKind::Dir) {
                self.check()?;
                self.apply(&entry.path, &entry.meta, true)?;
            }
        }
        Ok((index, self.notes))
    }

    fn note(&mut self, text: impl FnOnce() -> String) {
        if self.notes.len() < MAX_NOTES {
            self.notes.push(text());
        }
    }
}

/// Reads an entry's content to its end. Holes stay holes in the file.
fn copy_hashed(
    from: &mut TarReader<impl Read>,
    mut to: Option<&mut File>,
    hasher: &mut Hasher,
) -> io::Result<()> {
    let mut buffer = vec![0; 128 * 1024];
    loop {
        let hole = from.take_hole();
        if hole > 0 {
            hash_zeros(hasher, hole, &mut buffer);
            if let Some(file) = &mut to {
                // What is not written yet reads as zeros.
                let end = file.seek(SeekFrom::Current(hole.cast_signed()))?;
                file.set_len(end)?;
            }
            continue;
        }
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => {
                hasher.update(&buffer[..count]);
                if let Some(file) = &mut to {
                    file.write_all(&buffer[..count])?;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn hash_zeros(hasher: &mut Hasher, mut count: u64, buffer: &mut [u8]) {
    buffer.fill(0);
    while count > 0 {
        let part = usize::try_from(count).unwrap_or(usize::MAX).min(buffer.len());
        hasher.update(&buffer[..part]);
        count -= part as u64;
    }
}
