//! The entries of a layer's tar, one after another: where each really lies, what it replaces, and what it
//! is on disk.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom, Write as _};

use rustix::fs::FileType;

use crate::digest::Hasher;
use crate::fs::Root;
use crate::fs::paths::{join, split};

use super::diff::{ParentKind, ParentView, belongs_in_images};
use super::entry::{Entry, EntryKind, LayerIndex, Metadata};
use super::error::LayerError;
use super::tar_read::{Header, TarReader};
use super::tar_write::{OPAQUE, WHITEOUT};
use super::unpack::OnDiskIds;

const MAX_LINKS: usize = 40;

pub(super) struct Work<'a> {
    pub(super) parent: &'a dyn ParentView,
    pub(super) root: Option<&'a Root>,
    pub(super) ids: OnDiskIds,
    pub(super) dots: bool,
    /// In stream order; replaced duplicates become `None`.
    pub(super) entries: Vec<Option<Entry>>,
    pub(super) by_path: HashMap<Vec<u8>, usize>,
    /// Stored directory name to where it really lies.
    pub(super) resolved: HashMap<Vec<u8>, Vec<u8>>,
    pub(super) notes: Vec<String>,
    pub(super) implied: HashSet<Vec<u8>>,
}

fn invalid(text: impl Into<String>) -> LayerError {
    LayerError::Invalid(text.into())
}

fn show(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

/// A stored name without leading slash and `.`; `..` is an attack or a mistake, never a layer, and in an
/// archive of a user's (`dots`) it must not lead out.
fn clean_name(name: &[u8], dots: bool) -> Result<Vec<u8>, LayerError> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in name.split(|c| *c == b'/') {
        match part {
            b"" | b"." => {}
            b".." if dots && parts.pop().is_some() => {}
            b".." => return Err(invalid(format!("{:?} contains ..", show(name)))),
            part if part.contains(&0) => return Err(invalid(format!("{:?} contains NUL", show(name)))),
            part => parts.push(part),
        }
    }
    Ok(parts.join(&b'/'))
}

fn implicit() -> Metadata {
    Metadata { mode: 0o755, uid: 0, gid: 0, mtime: 0, xattrs: Vec::new() }
}

impl Work<'_> {
    pub(super) fn entry(
        &mut self,
        header: &Header,
        content: &mut TarReader<impl Read>,
    ) -> Result<(), LayerError> {
        let stored = clean_name(&header.path, self.dots)?;
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
        self.replace(&path, &kind)?;
        let kind = self.put(&path, kind, header, &meta, content)?;
        let offset = if matches!(kind, EntryKind::File { .. }) { header.offset } else { 0 };
        self.add(Entry { path, kind, meta, offset });
        Ok(())
    }

    fn kind(&mut self, header: &Header, path: &[u8]) -> Result<EntryKind, LayerError> {
        Ok(match header.flag {
            b'0' | b'7' => EntryKind::File { size: header.size, digest: None },
            b'1' => {
                let stored = clean_name(&header.link, self.dots)?;
                let (dir, name) = split(&stored);
                let target = join(&self.directory(dir)?, name);
                if !self.can_link(&target) {
                    return Err(invalid(format!(
                        "{:?} is a hard link to {:?}, which is no file of this layer or of one below",
                        show(path),
                        show(&target)
                    )));
                }
                EntryKind::Hardlink(target)
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
        match self.by_path.get(target).and_then(|at| self.entries.get(*at)).and_then(Option::as_ref) {
            Some(entry) => !matches!(entry.kind, EntryKind::Dir | EntryKind::Whiteout),
            None if self.root.is_none() => true,
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
        io::copy(&mut content, &mut file).map_err(failed)?;
        drop(content);
        self.apply(path, &node.meta, true)
    }

    /// Where a directory really lies: links of this layer and of those below are followed as the
    /// kernel would inside the root. Missing directories are made.
    fn directory(&mut self, stored: &[u8]) -> Result<Vec<u8>, LayerError> {
        if stored.is_empty() {
            return Ok(Vec::new());
        }
        if let Some(known) = self.resolved.get(stored) {
            return Ok(known.clone());
        }
        let mut pending: Vec<Vec<u8>> = stored.split(|c| *c == b'/').rev().map(<[u8]>::to_vec).collect();
        let mut at: Vec<u8> = Vec::new();
        let mut links = 0;
        while let Some(part) = pending.pop() {
            match part.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    at = split(&at).0.to_vec();
                    continue;
                }
                _ => {}
            }
            let next = join(&at, &part);
            match self.look(&next) {
                Seen::Dir => at = next,
                Seen::Link(target) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(invalid(format!("too many links in {:?}", show(stored))));
                    }
                    if target.first() == Some(&b'/') {
                        at.clear();
                    }
                    pending.extend(target.split(|c| *c == b'/').rev().map(<[u8]>::to_vec));
                }
                Seen::Nothing(meta) => {
                    self.make_dir(&next, meta)?;
                    at = next;
                }
                Seen::Other => return Err(invalid(format!("{:?} is not a directory", show(&next)))),
            }
        }
        self.resolved.insert(stored.to_vec(), at.clone());
        Ok(at)
    }

    fn look(&self, path: &[u8]) -> Seen {
        if let Some(entry) =
            self.by_path.get(path).and_then(|at| self.entries.get(*at)).and_then(Option::as_ref)
        {
            match &entry.kind {
                EntryKind::Dir => return Seen::Dir,
                EntryKind::Symlink(target) => return Seen::Link(target.clone()),
                EntryKind::Whiteout => return Seen::Nothing(implicit()),
                _ => return Seen::Other,
            }
        }
        match self.parent.node(path) {
            Some(node) => match node.kind {
                ParentKind::Dir => Seen::Nothing(node.meta),
                ParentKind::Symlink(target) => Seen::Link(target),
                ParentKind::Other => Seen::Other,
            },
            None => Seen::Nothing(implicit()),
        }
    }

    /// A directory the archive does not list: it takes the metadata of the one below.
    fn make_dir(&mut self, path: &[u8], meta: Metadata) -> Result<(), LayerError> {
        self.replace(path, &EntryKind::Dir)?;
        if let Some(root) = self.root {
            root.make_dir(path).map_err(|error| LayerError::inside("create", path, error))?;
        }
        self.implied.insert(path.to_vec());
        self.add(Entry { path: path.to_vec(), kind: EntryKind::Dir, meta, offset: 0 });
        Ok(())
    }

    fn add(&mut self, entry: Entry) {
        self.by_path.insert(entry.path.clone(), self.entries.len());
        self.entries.push(Some(entry));
    }

    /// Clears the way for an entry: a later one of the same name replaces an earlier one.
    fn replace(&mut self, path: &[u8], kind: &EntryKind) -> Result<(), LayerError> {
        let Some(at) = self.by_path.get(path).copied() else { return Ok(()) };
        let Some(slot) = self.entries.get_mut(at) else { return Ok(()) };
        let was_dir = slot.as_ref().is_some_and(|entry| entry.kind == EntryKind::Dir);
        if was_dir && *kind == EntryKind::Dir {
            *slot = None;
            return Ok(());
        }
        let gone = slot.take();
        self.by_path.remove(path);
        if let Some(Entry { kind: EntryKind::File { .. }, .. }) = &gone {
            self.pass_on(path, gone);
        }
        if was_dir {
            self.forget_below(path);
        }
        self.resolved.clear();
        if let Some(root) = self.root {
            root.remove(path).map_err(|error| LayerError::inside("replace", path, error))?;
        }
        Ok(())
    }

    /// A file that is replaced lives on under its other names: the first of them takes its place.
    fn pass_on(&mut self, path: &[u8], gone: Option<Entry>) {
        let mut heir: Option<Vec<u8>> = None;
        for entry in self.entries.iter_mut().flatten() {
            let EntryKind::Hardlink(target) = &mut entry.kind else { continue };
            if target.as_slice() != path {
                continue;
            }
            match (&heir, &gone) {
                (Some(first), _) => target.clone_from(first),
                (None, Some(file)) => {
                    heir = Some(entry.path.clone());
                    (entry.kind, entry.offset) = (file.kind.clone(), file.offset);
                    entry.meta = file.meta.clone();
                }
                (None, None) => {}
            }
        }
    }

    fn forget_below(&mut self, path: &[u8]) {
        for slot in &mut self.entries {
            let below = slot.as_ref().is_some_and(|entry| {
                entry.path.len() > path.len()
                    && entry.path.starts_with(path)
                    && entry.path[path.len()] == b'/'
            });
            if below && let Some(entry) = slot.take() {
                self.by_path.remove(&entry.path);
            }
        }
    }

    fn whiteout(&mut self, path: Vec<u8>) -> Result<(), LayerError> {
        if self.by_path.contains_key(&path) {
            // Deletions speak of lower layers; what this layer has stays.
            return Ok(());
        }
        if let Some(root) = self.root {
            root.make_whiteout(&path).map_err(|error| LayerError::inside("hide", &path, error))?;
        }
        let meta = Metadata { mode: 0, ..implicit() };
        self.add(Entry { path, kind: EntryKind::Whiteout, meta, offset: 0 });
        Ok(())
    }

    fn opaque(&mut self, dir: Vec<u8>) -> Result<(), LayerError> {
        if dir.is_empty() {
            return Err(invalid("the root directory cannot be opaque"));
        }
        if let Some(root) = self.root {
            root.make_opaque(&dir).map_err(|error| LayerError::inside("hide what is below", &dir, error))?;
        }
        let meta = Metadata { mode: 0, ..implicit() };
        self.entries.push(Some(Entry { path: dir, kind: EntryKind::Opaque, meta, offset: 0 }));
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
            EntryKind::Dir if self.by_path.contains_key(path) => return Ok(kind),
            EntryKind::Dir => {
                root.make_dir(path).map_err(failed)?;
                return Ok(kind);
            }
            EntryKind::Hardlink(target) if !self.by_path.contains_key(target) => {
                self.copy_up(root, target, path)?;
                return Ok(kind);
            }
            EntryKind::Hardlink(target) => {
                root.make_link(target, path).map_err(failed)?;
                return Ok(kind);
            }
            EntryKind::Symlink(target) => root.make_symlink(target, path).map_err(failed)?,
            EntryKind::Fifo => root.make_node(path, FileType::Fifo, 0, 0).map_err(failed)?,
            EntryKind::CharDevice { .. } | EntryKind::BlockDevice { .. } => {
                let char_device = matches!(kind, EntryKind::CharDevice { .. });
                let node = if char_device { FileType::CharacterDevice } else { FileType::BlockDevice };
                if let Err(error) = root.make_node(path, node, header.major, header.minor) {
                    self.notes.push(format!("device {} cannot be made here: {error}", show(path)));
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
        }
        .map_err(failed)?;
        if has_mode {
            root.set_mode(path, meta.mode).map_err(failed)?;
            for (name, value) in &meta.xattrs {
                if let Err(error) = root.set_xattr(path, name, value) {
                    self.notes.push(format!("{} of {} cannot be set: {error}", show(name), show(path)));
                }
            }
        }
        root.set_mtime(path, meta.mtime, 0).map_err(failed)
    }

    /// Directories get modes and times last, the deepest first, when nothing is put into them any more.
    pub(super) fn finish(mut self) -> Result<(LayerIndex, Vec<String>), LayerError> {
        let entries: Vec<Entry> = std::mem::take(&mut self.entries).into_iter().flatten().collect();
        if self.root.is_some() {
            for entry in entries.iter().rev().filter(|entry| entry.kind == EntryKind::Dir) {
                self.apply(&entry.path, &entry.meta, true)?;
            }
        }
        // Deletions speak of what lies below, wherever they stand in the stream.
        let (first, rest): (Vec<Entry>, Vec<Entry>) = entries
            .into_iter()
            .partition(|entry| matches!(entry.kind, EntryKind::Whiteout | EntryKind::Opaque));
        Ok((LayerIndex { entries: first.into_iter().chain(rest).collect() }, self.notes))
    }
}

enum Seen {
    Dir,
    Link(Vec<u8>),
    /// Not on disk yet; the metadata a directory made here takes.
    Nothing(Metadata),
    Other,
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
