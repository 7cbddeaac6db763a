//! An overlay's upper directory to the entries of a layer.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io::{self, Read};
use std::path::Path;

use rustix::fs::FileType;

use crate::fs::{
    IdMap, NODE_RECORD, OWNER_RECORD, Root, TreeEntry, is_overlay_private, is_record, parse_node_record,
    parse_owner_record,
};

use super::entry::{Entry, EntryKind, Metadata};
use super::error::LayerError;
use super::write::ContentSource;

/// What a parent chain says of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentNode {
    /// Its kind, as far as layers on top care.
    pub kind: ParentKind,
    /// Its metadata.
    pub meta: Metadata,
}

/// Kinds of a parent's nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParentKind {
    /// A directory.
    Dir,
    /// A symbolic link and its target.
    Symlink(Vec<u8>),
    /// Anything else.
    Other,
}

/// The layers below the one being made or unpacked.
pub trait ParentView: Sync {
    /// What is at a path, links not followed.
    fn node(&self, path: &[u8]) -> Option<ParentNode>;

    /// The bytes of a regular file; `None` where there is none, or where the view knows no content.
    fn content(&self, _path: &[u8]) -> io::Result<Option<Box<dyn Read + '_>>> {
        Ok(None)
    }

    /// When what is at a path was changed, in nanoseconds since 1970, as its file on disk says; `None` where no file
    /// is known.
    fn modified(&self, _path: &[u8]) -> Option<i128> {
        None
    }
}

/// A parent without anything.
pub struct NoParent;

impl ParentView for NoParent {
    fn node(&self, _: &[u8]) -> Option<ParentNode> {
        None
    }
}

/// Reads the files of a frozen upper directory.
#[derive(Debug)]
pub struct UpperContent {
    root: Root,
}

impl ContentSource for UpperContent {
    fn open(&self, _: usize, entry: &Entry) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(self.root.open_file(&entry.path)?))
    }
}

/// Who owns the files of an upper directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owners<'a> {
    /// Whom the file system names, but for those that this process cannot give to files.
    OnDisk,
    /// All belong to one ID on disk. The owner is the one written down with a file; else, for files of
    /// the layers below, the one it has there; else this user and group, who wrote it. The paths are those
    /// of all that is from the layers below; without them, overlayfs has marked it.
    Recorded(u32, u32, Option<&'a BTreeSet<Vec<u8>>>),
}

/// Lists what a frozen upper directory changes. Sockets are left out, as image layers have none.
pub fn diff_upper(
    upper: &Path,
    parent: &dyn ParentView,
    owners: Owners<'_>,
) -> Result<(Vec<Entry>, UpperContent), LayerError> {
    let root = Root::open(upper).map_err(|error| LayerError::io("open", upper, error))?;
    let files = root.walk().map_err(|error| LayerError::io("list", upper, error))?;
    let mut entries = Vec::with_capacity(files.len());
    let mut seen = Seen::default();
    for file in &files {
        diff_one(&root, file, parent, owners, &mut seen, &mut entries)?;
    }
    let copied_up = |file: &&TreeEntry| {
        let is_alone =
            matches!(file.file_type(), FileType::RegularFile | FileType::Symlink) && file.stat.stx_nlink == 1;
        is_alone && parent.modified(&file.path) == Some(modified(file))
    };
    let copied_up = files.iter().filter(copied_up).map(|file| file.path.as_slice()).collect();
    let entries = drop_untouched(entries, &root, parent, &copied_up);
    Ok((entries, UpperContent { root }))
}

/// When a file was changed, in nanoseconds since 1970.
pub fn modified(file: &TreeEntry) -> i128 {
    i128::from(file.stat.stx_mtime.tv_sec) * 1_000_000_000 + i128::from(file.stat.stx_mtime.tv_nsec)
}

type Links = HashMap<(u32, u32, u64), Vec<u8>>;

/// What the files that were looked at say about later ones.
#[derive(Default)]
struct Seen {
    links: Links,
    /// Directories that hide those of the layers below.
    opaque: HashSet<Vec<u8>>,
}

/// Whether one of the directories above a path is among these.
fn is_inside(path: &[u8], directories: &HashSet<Vec<u8>>) -> bool {
    let mut above = path.iter().enumerate().filter(|(_, c)| **c == b'/').map(|(at, _)| &path[..at]);
    !directories.is_empty() && above.any(|dir| directories.contains(dir))
}

fn diff_one(
    root: &Root,
    file: &TreeEntry,
    parent: &dyn ParentView,
    owners: Owners<'_>,
    seen: &mut Seen,
    entries: &mut Vec<Entry>,
) -> Result<(), LayerError> {
    let path = file.path.clone();
    let failed = |error| LayerError::inside("read", &file.path, error);
    if file.is_whiteout() {
        push_whiteout(path, parent, entries);
        return Ok(());
    }
    let raw = match file.file_type() {
        FileType::Symlink => Vec::new(),
        _ => root.xattrs(&path).map_err(failed)?,
    };
    if raw.iter().any(|(name, _)| is_overlay_private(name) && name.ends_with(b".whiteout")) {
        push_whiteout(path, parent, entries);
        return Ok(());
    }
    let kind = match file.file_type() {
        FileType::Directory => EntryKind::Dir,
        FileType::Symlink => EntryKind::Symlink(root.read_link(&path).map_err(failed)?),
        FileType::RegularFile => EntryKind::File { size: file.stat.stx_size, digest: None },
        FileType::Fifo => EntryKind::Fifo,
        FileType::CharacterDevice => {
            EntryKind::CharDevice { major: file.stat.stx_rdev_major, minor: file.stat.stx_rdev_minor }
        }
        FileType::BlockDevice => {
            EntryKind::BlockDevice { major: file.stat.stx_rdev_major, minor: file.stat.stx_rdev_minor }
        }
        _ => return Ok(()),
    };
    let opaque = kind == EntryKind::Dir
        && raw.iter().any(|(name, value)| {
            is_overlay_private(name) && name.ends_with(b".opaque") && value.as_slice() == b"y"
        });
    let is_hidden = is_inside(&path, &seen.opaque);
    let owner = owner(file, &kind, &raw, parent, owners, is_hidden);
    let kind = if owners == Owners::OnDisk { kind } else { recorded_node(kind, &raw) };
    let meta = metadata(file, raw, owner);
    let kind = hardlink(file, kind, &mut seen.links);
    entries.push(Entry { path: path.clone(), kind, meta, offset: 0 });
    if opaque {
        seen.opaque.insert(path.clone());
    }
    if opaque && parent.node(&path).is_some_and(|node| node.kind == ParentKind::Dir) {
        entries.push(whiteout(path, EntryKind::Opaque));
    }
    Ok(())
}

fn push_whiteout(path: Vec<u8>, parent: &dyn ParentView, entries: &mut Vec<Entry>) {
    if parent.node(&path).is_some() {
        entries.push(whiteout(path, EntryKind::Whiteout));
    }
}

fn whiteout(path: Vec<u8>, kind: EntryKind) -> Entry {
    let meta = Metadata { mode: 0, uid: 0, gid: 0, mtime: 0, xattrs: Vec::new() };
    Entry { path, kind, meta, offset: 0 }
}

/// The second and later names of a file become links to the first.
fn hardlink(file: &TreeEntry, kind: EntryKind, links: &mut Links) -> EntryKind {
    if file.stat.stx_nlink < 2 || kind == EntryKind::Dir {
        return kind;
    }
    match links.get(&file.identity()) {
        Some(first) => EntryKind::Hardlink(first.clone()),
        None => {
            links.insert(file.identity(), file.path.clone());
            kind
        }
    }
}

fn attribute<'a>(raw: &'a [(Vec<u8>, Vec<u8>)], wanted: &str) -> Option<&'a [u8]> {
    raw.iter().find(|(name, _)| name == wanted.as_bytes()).map(|(_, value)| value.as_slice())
}

fn owner(
    file: &TreeEntry,
    kind: &EntryKind,
    raw: &[(Vec<u8>, Vec<u8>)],
    parent: &dyn ParentView,
    owners: Owners<'_>,
    is_hidden: bool,
) -> (u32, u32) {
    let Owners::Recorded(user, group, kept) = owners else {
        return owner_on_disk(file, kind, raw, parent, IdMap::current());
    };
    // overlayfs marks what it copied up; a directory of the same name is the same directory unless it
    // or one above it is opaque.
    let ends = |end: &[u8]| raw.iter().any(|(name, _)| is_overlay_private(name) && name.ends_with(end));
    let same = match kept {
        Some(kept) => kept.contains(&file.path),
        None => ends(b".origin") || (*kind == EntryKind::Dir && !is_hidden && !ends(b".opaque")),
    };
    let below = if same { parent.node(&file.path) } else { None };
    let below = below.filter(|node| (node.kind == ParentKind::Dir) == (*kind == EntryKind::Dir));
    let (user, group) = below.map_or((user, group), |node| (node.meta.uid, node.meta.gid));
    let set = |id: u32, otherwise: u32| if id == u32::MAX { otherwise } else { id };
    match attribute(raw, OWNER_RECORD).and_then(parse_owner_record) {
        Some((uid, gid)) => (set(uid, user), set(gid, group)),
        None => (user, group),
    }
}

/// An owner that is not mapped was written down, or, where a file cannot have attributes, is that of the
/// same path below. An owner that is mapped counts only on disk: whoever may write an attribute must not
/// give a file to root.
fn owner_on_disk(
    file: &TreeEntry,
    kind: &EntryKind,
    raw: &[(Vec<u8>, Vec<u8>)],
    parent: &dyn ParentView,
    map: &IdMap,
) -> (u32, u32) {
    let (uid, gid) = (file.stat.stx_uid, file.stat.stx_gid);
    let has_attributes = matches!(kind, EntryKind::File { .. } | EntryKind::Dir);
    let stands_in = uid == map.user_on_disk(u32::MAX) || gid == map.group_on_disk(u32::MAX);
    let written = match has_attributes {
        true => attribute(raw, OWNER_RECORD).and_then(parse_owner_record),
        false if stands_in => {
            let below = parent.node(&file.path).filter(|node| node.kind != ParentKind::Dir);
            below.map(|node| (node.meta.uid, node.meta.gid))
        }
        false => None,
    };
    let Some((user, group)) = written else { return (uid, gid) };
    let beyond =
        |known: bool, wanted: u32, disk: u32, now: u32| if !known && disk == now { wanted } else { now };
    (
        beyond(map.has_user(user), user, map.user_on_disk(user), uid),
        beyond(map.has_group(group), group, map.group_on_disk(group), gid),
    )
}

/// An empty file that says so is a device.
fn recorded_node(kind: EntryKind, raw: &[(Vec<u8>, Vec<u8>)]) -> EntryKind {
    match (&kind, attribute(raw, NODE_RECORD).and_then(parse_node_record)) {
        (EntryKind::File { size: 0, .. }, Some((true, major, minor))) => {
            EntryKind::BlockDevice { major, minor }
        }
        (EntryKind::File { size: 0, .. }, Some((false, major, minor))) => {
            EntryKind::CharDevice { major, minor }
        }
        _ => kind,
    }
}

fn metadata(file: &TreeEntry, raw: Vec<(Vec<u8>, Vec<u8>)>, (uid, gid): (u32, u32)) -> Metadata {
    let xattrs = raw
        .into_iter()
        .filter(|(name, _)| belongs_in_images(name))
        .map(|(name, value)| {
            let value = if name == b"security.capability" { plain_capability(value) } else { value };
            (name, value)
        })
        .collect();
    Metadata { mode: file.mode(), uid, gid, mtime: file.stat.stx_mtime.tv_sec, xattrs }
}

/// Extended attributes that an image carries: file capabilities and what users set.
pub(super) fn belongs_in_images(name: &[u8]) -> bool {
    name == b"security.capability"
        || (name.starts_with(b"user.") && !is_overlay_private(name) && !is_record(name))
}

/// File capabilities set inside a user namespace name its root; an image must not (linux
/// capability.h: revision 3 is revision 2 with a root id behind).
fn plain_capability(mut value: Vec<u8>) -> Vec<u8> {
    const REVISION_2: u8 = 2;
    const REVISION_3: u8 = 3;
    if value.len() == 24 && value[3] == REVISION_3 {
        value[3] = REVISION_2;
        value.truncate(20);
    }
    value
}

/// Leaves out what was only copied up: directories that are the same as below, with nothing changed in them, and of
/// the files in `copied_up` those that a `chmod` or `chown` gave what they had.
fn drop_untouched(
    entries: Vec<Entry>,
    root: &Root,
    parent: &dyn ParentView,
    copied_up: &HashSet<&[u8]>,
) -> Vec<Entry> {
    let mut kept: Vec<Entry> = Vec::with_capacity(entries.len());
    let opaque: HashSet<Vec<u8>> = entries
        .iter()
        .filter(|entry| entry.kind == EntryKind::Opaque)
        .map(|entry| entry.path.clone())
        .collect();
    // What is below an opaque directory is only there if the layer has it.
    let is_hidden = |path: &[u8]| is_inside(path, &opaque);
    // Backwards, so that what a directory holds was judged before the directory is.
    for entry in entries.into_iter().rev() {
        let has_changes = kept.last().is_some_and(|next| {
            next.path.len() > entry.path.len()
                && next.path.starts_with(&entry.path)
                && next.path[entry.path.len()] == b'/'
                || (next.path == entry.path && next.kind == EntryKind::Opaque)
        });
        let same = || {
            let below = parent.node(&entry.path).filter(|node| node.meta == entry.meta);
            below.is_some_and(|node| match (&entry.kind, &node.kind) {
                (EntryKind::Dir, ParentKind::Dir) => !has_changes,
                (_, _) if !copied_up.contains(entry.path.as_slice()) => false,
                (EntryKind::Symlink(target), ParentKind::Symlink(other)) => target == other,
                (EntryKind::File { .. }, ParentKind::Other) => {
                    has_content_of(root, parent, &entry.path).unwrap_or(false)
                }
                _ => false,
            })
        };
        if is_hidden(&entry.path) || !same() {
            kept.push(entry);
        }
    }
    kept.reverse();
    kept
}

/// Whether a file has the bytes of the one below.
fn has_content_of(root: &Root, parent: &dyn ParentView, path: &[u8]) -> io::Result<bool> {
    const PIECE: u64 = 64 * 1024;
    let Some(mut below) = parent.content(path)? else { return Ok(false) };
    let mut above = root.open_file(path)?;
    let (mut left, mut right) = (Vec::new(), Vec::new());
    loop {
        left.clear();
        right.clear();
        above.by_ref().take(PIECE).read_to_end(&mut left)?;
        below.by_ref().take(PIECE).read_to_end(&mut right)?;
        if left != right || left.is_empty() {
            return Ok(left == right);
        }
    }
}
