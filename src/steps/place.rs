//! Where the files of a `COPY` or `ADD` land: from selections and the tree below to layer entries.
//!
//! Pure: works on descriptions only. The rules are those of BuildKit's copy (directory sources
//! give their contents, existing directories merge, links in the destination's path are followed
//! inside the root), as its implementation behaves rather than as its manual says.

use std::collections::{BTreeMap, HashMap};

use crate::context::{FileInfo, FileKind};
use crate::fs::paths::join;
use crate::layer::{Entry, EntryKind, Metadata};
use crate::plan::Chmod;
use crate::snapshot::{Node, NodeKind, ResolveError, Tree, path_order};

/// One thing a source word selected: a file, or the contents of a directory.
#[derive(Clone, Debug)]
pub struct Selection {
    /// Last component of the selected path: the file's name when it lands in a directory.
    pub name: Vec<u8>,
    /// A directory's contents go to the destination itself.
    pub is_dir: bool,
    /// The file, or everything below the directory, in walk order.
    pub files: Vec<FileInfo>,
    /// How many bytes of each file's path lie above the selection (with the slash).
    pub strip: usize,
    /// Positions in `files` of directories that are there only for what was selected below them, in order.
    pub implied: Vec<usize>,
    /// When a selected directory itself was changed, seconds since 1970; a new destination is as old.
    pub dir_mtime: Option<i64>,
}

/// The destination and what is done to the files on the way.
#[derive(Clone, Debug)]
pub struct Destination {
    /// Absolute path inside the root.
    pub path: Vec<u8>,
    /// Written with a trailing slash (or as `.`): a directory, whether or not it exists.
    pub directory: bool,
    /// `--chown`, resolved; `None` takes `keep_owner`'s choice.
    pub owner: Option<(u32, u32)>,
    /// Keep the source's owner (from stages and images) instead of 0:0.
    pub keep_owner: bool,
    /// `--chmod`.
    pub chmod: Option<Chmod>,
    /// Time for directories the copy has to make up, seconds since 1970.
    pub made_up_time: i64,
}

/// The bit that makes a directory's group that of what is made in it.
pub(super) const SETGID: u32 = 0o2000;

/// Where the content of an entry comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A file of a selection, both by number.
    Selected(usize, usize),
    /// What an archive brings, by its number: see [`super::add::Content`].
    Archived(usize),
}

/// What cannot be placed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PlaceError {
    /// The destination's path cannot be resolved.
    #[error("cannot copy to {}: {source}", show(.dest))]
    Resolve {
        /// The destination.
        dest: Vec<u8>,
        /// Why.
        source: ResolveError,
    },
    /// A directory is wanted where something else is.
    #[error("cannot copy to non-directory: {}", show(.0))]
    NotADirectory(Vec<u8>),
    /// A file is wanted where a directory is.
    #[error("cannot replace directory {} with a file", show(.0))]
    IsADirectory(Vec<u8>),
    /// An archive's hard link to nothing.
    #[error("{} is a hard link to {}, which is no file of the archive or of the image", show(.path), show(.target))]
    NoLinkTarget {
        /// The link.
        path: Vec<u8>,
        /// What it names.
        target: Vec<u8>,
    },
    /// Several files for one name.
    #[error("several files would be copied to the one name {}: a destination for more than one file must be a directory and end with a /", show(.0))]
    SeveralToOne(Vec<u8>),
}

fn show(path: &[u8]) -> String {
    format!("/{}", String::from_utf8_lossy(path).trim_start_matches('/'))
}

/// Builds the entries of a copy's layer.
pub struct Placer<'a> {
    tree: &'a Tree,
    dest: &'a Destination,
    placed: BTreeMap<PathKey, Placed>,
    /// Files with several names, by group.
    shared: Vec<Shared>,
    /// A directory that was made sure of last: files come one directory after another.
    ensured: Vec<u8>,
    /// Directories of archives, as they are written, and where they really lie.
    reached: HashMap<Vec<u8>, Vec<u8>>,
    /// What is being placed comes out of an archive.
    pub for_archive: bool,
    /// Directories that have to be made up belong to root, whatever `--chown` says.
    pub for_root: bool,
}

/// What lies at a path so far.
struct Placed {
    entry: Entry,
    origin: Option<Origin>,
    /// The file in [`Placer::shared`] that it is a name of.
    group: Option<usize>,
}

/// A file with several names. It lives as long as one of them does, whichever it came with.
struct Shared {
    /// As it was put, at its first path.
    entry: Entry,
    origin: Option<Origin>,
}

/// A path that sorts in walk order.
#[derive(Clone, PartialEq, Eq)]
struct PathKey(Vec<u8>);

impl PartialOrd for PathKey {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for PathKey {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        path_order(&self.0, &other.0)
    }
}

impl<'a> Placer<'a> {
    /// Copies into `tree`.
    pub fn new(tree: &'a Tree, dest: &'a Destination) -> Self {
        Placer {
            tree,
            dest,
            placed: BTreeMap::new(),
            shared: Vec::new(),
            reached: HashMap::new(),
            ensured: Vec::new(),
            for_archive: false,
            for_root: false,
        }
    }

    /// The entries in layer order, each with where its content comes from. Of the names of one file, the
    /// first has to be the file, or nobody could unpack the others.
    pub fn finish(self) -> Vec<(Entry, Option<Origin>)> {
        let Placer { placed, shared, .. } = self;
        let mut leaders: Vec<Option<Vec<u8>>> = vec![None; shared.len()];
        let lead = |(key, placed): (PathKey, Placed)| {
            let Placed { mut entry, mut origin, group } = placed;
            let file = group.and_then(|group| shared.get(group));
            let leader = group.and_then(|group| leaders.get_mut(group));
            let (Some(file), Some(leader)) = (file, leader) else { return (entry, origin) };
            let (kind, from) = match leader {
                Some(first) => (EntryKind::Hardlink(first.clone()), None),
                None => (file.entry.kind.clone(), file.origin),
            };
            if leader.is_none() || file.entry.path == key.0 {
                entry = Entry { path: key.0.clone(), ..file.entry.clone() };
            }
            leader.get_or_insert(key.0);
            (entry.kind, origin) = (kind, from);
            (entry, origin)
        };
        placed.into_iter().map(lead).collect()
    }

    /// Places a selection over those before it. A file may get the name of the destination where `to_one_name`
    /// says so: no other source has files.
    pub fn place(
        &mut self,
        position: usize,
        selection: &Selection,
        to_one_name: bool,
    ) -> Result<(), PlaceError> {
        let target = self.resolve_dest()?;
        if selection.is_dir {
            return self.place_contents(position, selection, &target);
        }
        if self.dest.directory || self.is_dir(&target) {
            self.ensure_dir(&target)?;
            return self.place_file(position, selection, join(&target, &selection.name));
        }
        if !to_one_name {
            return Err(PlaceError::SeveralToOne(target));
        }
        self.place_file(position, selection, target)
    }

    /// Where the destination really is, its links followed inside the root.
    pub fn resolve_dest(&self) -> Result<Vec<u8>, PlaceError> {
        self.tree
            .resolve(&self.dest.path)
            .map_err(|source| PlaceError::Resolve { dest: self.dest.path.clone(), source })
    }

    /// Makes sure a directory is there, and that it and its parents are in the layer.
    pub fn ensure_dir(&mut self, path: &[u8]) -> Result<(), PlaceError> {
        if path.is_empty() || path == self.ensured {
            return Ok(());
        }
        if self.placed_dir(path) {
            path.clone_into(&mut self.ensured);
            return Ok(());
        }
        self.ensure_parents(path)?;
        let meta = match self.existing(path) {
            Some(Existing::Dir(meta)) => meta,
            Some(Existing::Other) => return Err(PlaceError::NotADirectory(path.to_vec())),
            None => self.made_up(path),
        };
        self.insert(Entry { path: path.to_vec(), kind: EntryKind::Dir, meta, offset: 0 }, None);
        Ok(())
    }

    /// Puts an entry at its path as it is, replacing whatever was copied there before.
    pub fn put(&mut self, entry: Entry, origin: Option<Origin>) -> Result<(), PlaceError> {
        self.ensure_parents(&entry.path)?;
        self.insert(entry, origin);
        Ok(())
    }

    /// Makes sure that a hard link to a path means something in this layer: a file that stands in the
    /// image becomes part of it, with its content from there. Tells whether it did. `path` is the link's.
    pub fn link_target(&mut self, target: &[u8], path: &[u8], origin: Origin) -> Result<bool, PlaceError> {
        match self.placed.get(&PathKey(target.to_vec())) {
            Some(placed) if placed.entry.kind != EntryKind::Dir => return Ok(false),
            _ => {}
        }
        let node = self.tree.lookup(target);
        let Some((NodeKind::File { size, digest }, node)) = node.map(|node| (&node.kind, node)) else {
            return Err(PlaceError::NoLinkTarget { path: path.to_vec(), target: target.to_vec() });
        };
        let kind = EntryKind::File { size: *size, digest: *digest };
        let entry = Entry { path: target.to_vec(), kind, meta: node.meta.clone(), offset: 0 };
        self.put(entry, Some(origin))?;
        Ok(true)
    }

    /// Gives what was put at a path other metadata.
    pub fn set_metadata(&mut self, path: &[u8], meta: &Metadata) {
        let Some(placed) = self.placed.get_mut(&PathKey(path.to_vec())) else { return };
        let group = placed.group.and_then(|group| self.shared.get_mut(group));
        let file = group.map(|shared| &mut shared.entry).filter(|file| file.path == path);
        for entry in file.into_iter().chain([&mut placed.entry]) {
            let mode = if matches!(entry.kind, EntryKind::Symlink(_)) { entry.meta.mode } else { meta.mode };
            entry.meta = Metadata { mode, xattrs: entry.meta.xattrs.clone(), ..meta.clone() };
        }
    }

    /// Where an archive's entry really lands: links above it that stand in the image are followed
    /// inside its root, unless the archive itself has put a directory in their place.
    pub fn resolve_entry(&mut self, path: &[u8]) -> Result<Vec<u8>, PlaceError> {
        let Some(at) = path.iter().rposition(|c| *c == b'/') else { return Ok(path.to_vec()) };
        let (above, name) = (&path[..at], &path[at + 1..]);
        let ends = |path: &[u8]| path.iter().rposition(|c| *c == b'/').unwrap_or(0);
        let mut known = above.len();
        while known > 0 && !self.reached.contains_key(&above[..known]) {
            known = ends(&above[..known]);
        }
        let mut real = self.reached.get(&above[..known]).cloned().unwrap_or_default();
        while known < above.len() {
            let begin = if known == 0 { 0 } else { known + 1 };
            let length = above[begin..].iter().position(|c| *c == b'/').unwrap_or(above.len() - begin);
            known = begin + length;
            let next = join(&real, &above[begin..known]);
            real = if self.placed_dir(&next) {
                next
            } else {
                self.tree
                    .resolve(&next)
                    .map_err(|source| PlaceError::Resolve { dest: self.dest.path.clone(), source })?
            };
            self.reached.insert(above[..known].to_vec(), real.clone());
        }
        Ok(join(&real, name))
    }

    /// Whether a path is a directory below or in what was placed so far.
    pub fn is_dir(&self, path: &[u8]) -> bool {
        match self.placed.get(&PathKey(path.to_vec())) {
            Some(placed) => placed.entry.kind == EntryKind::Dir,
            None => self.tree.is_dir(path),
        }
    }

    fn place_contents(
        &mut self,
        position: usize,
        selection: &Selection,
        target: &[u8],
    ) -> Result<(), PlaceError> {
        let made = !target.is_empty() && self.existing(target).is_none();
        self.ensure_dir(target)?;
        if let (true, Some(mtime)) = (made, selection.dir_mtime)
            && let Some(placed) = self.placed.get_mut(&PathKey(target.to_vec()))
        {
            placed.entry.meta.mtime = mtime;
        }
        let mut links: HashMap<(u64, u64), Vec<u8>> = HashMap::new();
        for (at, file) in selection.files.iter().enumerate() {
            let relative = file.path.get(selection.strip..).unwrap_or_default();
            if relative.is_empty() || file.kind == FileKind::Socket {
                continue;
            }
            let path = join(target, relative);
            if file.kind == FileKind::Dir {
                self.merge_dir(path, file, selection.is_implied(at))?;
                continue;
            }
            // Below a directory that was not there before this selection, nothing is in the way.
            if !made && matches!(self.existing(&path), Some(Existing::Dir(_))) {
                return Err(PlaceError::IsADirectory(path));
            }
            self.ensure_parents(&path)?;
            // Other kinds get a file for each of their names, as in BuildKit.
            let linked = file.nlink > 1 && matches!(file.kind, FileKind::File { .. });
            let first = linked.then(|| links.entry((file.dev, file.ino)).or_insert_with(|| path.clone()));
            let kind = match first {
                Some(first) if *first != path => EntryKind::Hardlink(first.clone()),
                _ => entry_kind(&file.kind),
            };
            let meta = self.metadata(file);
            self.insert(Entry { path, kind, meta, offset: 0 }, Some(Origin::Selected(position, at)));
        }
        Ok(())
    }

    /// A directory inside a copied one: the source's metadata replaces that of an existing one. One that
    /// was not selected itself gives an existing one its mode only, untouched by `--chmod`.
    fn merge_dir(&mut self, path: Vec<u8>, file: &FileInfo, implied: bool) -> Result<(), PlaceError> {
        let existing = self.existing(&path);
        if let Some(Existing::Other) = existing {
            return Err(PlaceError::NotADirectory(path));
        }
        self.ensure_parents(&path)?;
        let meta = match existing {
            Some(Existing::Dir(meta)) if implied => Metadata { mode: file.mode, ..meta },
            _ => self.metadata(file),
        };
        self.insert(Entry { path, kind: EntryKind::Dir, meta, offset: 0 }, None);
        Ok(())
    }

    fn place_file(
        &mut self,
        position: usize,
        selection: &Selection,
        path: Vec<u8>,
    ) -> Result<(), PlaceError> {
        let Some(file) = selection.files.first() else { return Ok(()) };
        if self.is_dir(&path) {
            return Err(PlaceError::IsADirectory(path));
        }
        self.ensure_parents(&path)?;
        let meta = self.metadata(file);
        self.insert(
            Entry { path, kind: entry_kind(&file.kind), meta, offset: 0 },
            Some(Origin::Selected(position, 0)),
        );
        Ok(())
    }

    fn ensure_parents(&mut self, path: &[u8]) -> Result<(), PlaceError> {
        match path.iter().rposition(|c| *c == b'/') {
            Some(at) => self.ensure_dir(&path[..at]),
            None => Ok(()),
        }
    }

    /// Puts an entry at its path. A file that is replaced there lives on under its other names.
    fn insert(&mut self, entry: Entry, origin: Option<Origin>) {
        let group = match &entry.kind {
            EntryKind::Hardlink(first) => self.group(first, &entry.path),
            _ => None,
        };
        let is_dir = entry.kind == EntryKind::Dir;
        if !is_dir && self.ensured.starts_with(&entry.path) {
            self.ensured.clear();
        }
        let replaces_dir = !is_dir && self.placed_dir(&entry.path);
        if !self.reached.is_empty() && self.placed_dir(&entry.path) != is_dir {
            let other = self.tree.lookup(&entry.path).is_some_and(|node| !node.is_dir());
            if other || replaces_dir {
                self.reached = HashMap::new();
            }
        }
        if replaces_dir {
            let is_below =
                |path: &[u8]| path.strip_prefix(&*entry.path).is_some_and(|rest| rest.first() == Some(&b'/'));
            self.placed.retain(|key, _| !is_below(&key.0));
        }
        let placed = Placed { origin, group, entry };
        self.placed.insert(PathKey(placed.entry.path.clone()), placed);
    }

    /// The group of a file that gets another name.
    fn group(&mut self, first: &[u8], name: &[u8]) -> Option<usize> {
        let placed = self.placed.get_mut(&PathKey(first.to_vec())).filter(|_| first != name)?;
        if placed.entry.kind == EntryKind::Dir {
            return None;
        }
        let group = *placed.group.get_or_insert(self.shared.len());
        if group == self.shared.len() {
            self.shared.push(Shared { entry: placed.entry.clone(), origin: placed.origin });
        }
        Some(group)
    }

    fn placed_dir(&self, path: &[u8]) -> bool {
        self.placed.get(&PathKey(path.to_vec())).is_some_and(|placed| placed.entry.kind == EntryKind::Dir)
    }

    fn existing(&self, path: &[u8]) -> Option<Existing> {
        if let Some(Placed { entry, .. }) = self.placed.get(&PathKey(path.to_vec())) {
            let dir = entry.kind == EntryKind::Dir;
            return Some(if dir { Existing::Dir(entry.meta.clone()) } else { Existing::Other });
        }
        self.tree.lookup(path).map(|node: &std::sync::Arc<Node>| match node.kind {
            NodeKind::Dir => Existing::Dir(node.meta.clone()),
            _ => Existing::Other,
        })
    }

    /// A directory that nothing describes. Its parents are placed. It gets the permissions of an octal
    /// `--chmod`, which counts for nothing where an archive is unpacked. In a setgid directory it gets the
    /// group and the bit, as any that is made there; BuildKit gives those that an archive implies to root.
    fn made_up(&self, path: &[u8]) -> Metadata {
        let owner = self.dest.owner.filter(|_| !self.for_root);
        let above = path.iter().rposition(|c| *c == b'/').map_or(&path[..0], |at| &path[..at]);
        let above = self.placed.get(&PathKey(above.to_vec())).map(|placed| &placed.entry.meta);
        let given = above.filter(|meta| meta.mode & SETGID != 0);
        let group = given.filter(|_| !self.for_root).map_or(0, |meta| meta.gid);
        let (uid, gid) = owner.unwrap_or((0, group));
        let inherited = given.map_or(0, |_| SETGID);
        let mode = match &self.dest.chmod {
            Some(chmod) if chmod.is_octal() && !self.for_archive => chmod.apply(0o755, true) & 0o777,
            _ => 0o755,
        };
        Metadata { mode: mode | inherited, uid, gid, mtime: self.dest.made_up_time, xattrs: Vec::new() }
    }

    fn metadata(&self, file: &FileInfo) -> Metadata {
        let (uid, gid) = effective_owner(self.dest, file);
        Metadata {
            mode: effective_mode(self.dest, file),
            uid,
            gid,
            mtime: file.mtime.0,
            xattrs: file.xattrs.clone(),
        }
    }
}

enum Existing {
    Dir(Metadata),
    Other,
}

/// Mode after `--chmod`; links keep theirs.
pub fn effective_mode(dest: &Destination, file: &FileInfo) -> u32 {
    match (&dest.chmod, &file.kind) {
        (_, FileKind::Symlink { .. }) => 0o777,
        (Some(chmod), kind) => chmod.apply(file.mode, *kind == FileKind::Dir),
        (None, _) => file.mode,
    }
}

/// Owner after `--chown`.
pub fn effective_owner(dest: &Destination, file: &FileInfo) -> (u32, u32) {
    match dest.owner {
        Some(owner) => owner,
        None if dest.keep_owner => (file.uid, file.gid),
        None => (0, 0),
    }
}

fn entry_kind(kind: &FileKind) -> EntryKind {
    match kind {
        FileKind::File { size } => EntryKind::File { size: *size, digest: None },
        FileKind::Dir => EntryKind::Dir,
        FileKind::Symlink { target } => EntryKind::Symlink(target.clone()),
        FileKind::CharDev { major, minor } => EntryKind::CharDevice { major: *major, minor: *minor },
        FileKind::BlockDev { major, minor } => EntryKind::BlockDevice { major: *major, minor: *minor },
        FileKind::Fifo => EntryKind::Fifo,
        // What BuildKit makes of one that is named.
        FileKind::Socket => EntryKind::File { size: 0, digest: None },
    }
}
