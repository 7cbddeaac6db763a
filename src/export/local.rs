//! The files of an image in a directory: `type=local`.
//!
//! Modes and times are kept, owners are not: everything belongs to whoever runs the build. That is why a
//! program of the image must not keep its set-user-ID bit here: it would lend the builder's rights to
//! everybody, as a device node would open the machine's device. Both stay only if they are asked for. Every
//! directory at the destination is entered by its parent's descriptor without following links, so a
//! link that lies there cannot lead the export elsewhere; where the image has a directory, such a
//! link is replaced.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Timespec, Timestamps, fchmod, futimens, linkat, makedev, mkdirat,
    mknodat, openat, renameat, statat, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;

use crate::cancel::Cancel;
use crate::layer::{Entry, EntryKind, Metadata};

use super::dest::PartialDir;
use super::error::ExportError;
use super::occupied::{self, Replaced};
use super::tree::{Content, RootTree, check};

/// Bits that run a program with rights other than those of its caller.
const SET_ID: u32 = 0o6000;

/// How files are written.
pub struct LocalOptions<'a> {
    /// The time of every file and directory, in seconds since 1970; without, each keeps its own.
    pub mtime: Option<i64>,
    /// Keep set-user-ID and set-group-ID bits and device nodes.
    pub keep_special: bool,
    /// Told what will be replaced in a directory that no earlier output was written to, before it is.
    pub before_replacing: &'a dyn Fn(&Replaced),
}

/// What an export to a directory did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalReport {
    /// Entries written.
    pub written: usize,
    /// Paths of device nodes, and of hardlinks to them, that were left out: because they are not wanted, or
    /// because making them needs privileges.
    pub skipped_devices: Vec<Vec<u8>>,
    /// Paths of files and directories whose set-user-ID or set-group-ID bits were left out.
    pub without_set_id: Vec<Vec<u8>>,
}

/// Writes the files of an image below `dest`.
///
/// All content is first written to a temporary directory; an existing `dest` is touched only after
/// that succeeded. What it holds besides the image's files stays.
pub fn write(
    tree: &dyn RootTree,
    dest: &Path,
    options: &LocalOptions<'_>,
    cancel: &Cancel,
) -> Result<LocalReport, ExportError> {
    let mut entries = tree.entries().map_err(|source| ExportError::content(b"/", source))?;
    let mut without_set_id = Vec::new();
    for entry in &mut entries {
        check(entry)?;
        entry.meta.mtime = options.mtime.unwrap_or(entry.meta.mtime);
        let has_mode = !matches!(entry.kind, EntryKind::Symlink(_) | EntryKind::Hardlink(_));
        if has_mode && !options.keep_special && entry.meta.mode & SET_ID != 0 {
            entry.meta.mode &= !SET_ID;
            without_set_id.push(entry.path.clone());
        }
    }
    let exists = match fs::metadata(dest) {
        Ok(meta) if !meta.is_dir() => return Err(ExportError::NotADirectory { path: dest.to_owned() }),
        Ok(_) => true,
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(ExportError::io("write", dest)(error)),
    };
    // Inside an existing destination, which may be a mount point of its own.
    let beside = if exists { dest.join(".rbuild") } else { dest.to_owned() };
    let partial = PartialDir::create(&beside)?;
    let mut stage = Rooted::open(partial.path())?;
    let skipped_devices = fill(tree, &entries, &mut stage, options.keep_special, cancel)?;
    entries.retain(|entry| !skipped_devices.contains(&entry.path));
    if exists {
        let mut target = Rooted::open(dest)?;
        let replaced = occupied::survey(&entries, &mut stage, &mut target)?;
        if !replaced.is_empty() && !occupied::is_marked(&target) {
            (options.before_replacing)(&replaced);
        }
        merge(&entries, &mut stage, &mut target)?;
        finish_directories(&entries, &mut target)?;
        occupied::mark(&target);
    } else {
        finish_directories(&entries, &mut stage)?;
        occupied::mark(&stage);
        partial.rename_to(dest)?;
    }
    Ok(LocalReport { written: entries.len(), skipped_devices, without_set_id })
}

/// A directory that paths are resolved in, one component at a time and never through a link.
pub(super) struct Rooted {
    path: PathBuf,
    pub(super) root: OwnedFd,
    /// The directory used last: entries come grouped by directory.
    last: Option<(Vec<u8>, OwnedFd)>,
}

const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl Rooted {
    fn open(path: &Path) -> Result<Self, ExportError> {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::PATH;
        let root = rustix::fs::open(path, flags, Mode::empty()).map_err(ExportError::io("open", path))?;
        Ok(Rooted { path: path.to_owned(), root, last: None })
    }

    /// The directory that holds `path`, and the name in it.
    pub(super) fn locate<'a, 'p>(
        &'a mut self,
        path: &'p [u8],
    ) -> rustix::io::Result<(BorrowedFd<'a>, &'p [u8])> {
        let Some(at) = path.iter().rposition(|c| *c == b'/') else { return Ok((self.root.as_fd(), path)) };
        let (parent, name) = (&path[..at], &path[at + 1..]);
        if self.last.as_ref().is_none_or(|(known, _)| known != parent) {
            let mut fd: Option<OwnedFd> = None;
            for part in parent.split(|c| *c == b'/') {
                let from = fd.as_ref().map_or(self.root.as_fd(), |fd| fd.as_fd());
                fd = Some(openat(from, part, DIRECTORY | OFlags::PATH, Mode::empty())?);
            }
            self.last = fd.map(|fd| (parent.to_vec(), fd));
        }
        let dir = self.last.as_ref().map_or(self.root.as_fd(), |(_, fd)| fd.as_fd());
        Ok((dir, name))
    }

    /// Where an entry lies, for messages.
    pub(super) fn shown(&self, path: &[u8]) -> PathBuf {
        use std::os::unix::ffi::OsStrExt as _;
        self.path.join(std::ffi::OsStr::from_bytes(path))
    }

    fn error(&self, action: &'static str, path: &[u8], error: Errno) -> ExportError {
        ExportError::Io { action, path: self.shown(path), source: error.into() }
    }
}

/// Writes all entries into an empty directory. Directories stay private and writable until
/// [`finish_directories`]. Gives the device nodes that were left out.
fn fill(
    tree: &dyn RootTree,
    entries: &[Entry],
    stage: &mut Rooted,
    devices: bool,
    cancel: &Cancel,
) -> Result<Vec<Vec<u8>>, ExportError> {
    let mut skipped = Vec::new();
    for entry in entries {
        if cancel.is_cancelled() {
            return Err(ExportError::Canceled);
        }
        let path = &entry.path;
        let shown = stage.shown(path);
        let failed = |error: Errno| ExportError::Io { action: "write", path: shown, source: error.into() };
        let made = match &entry.kind {
            EntryKind::File { size, digest } => {
                let content = Content::open(tree, path, *size, *digest, cancel)
                    .map_err(|source| ExportError::content(path, source))?;
                write_file(stage, entry, *size, content).map_err(|error| match cancel.is_cancelled() {
                    true => ExportError::Canceled,
                    false => error,
                })?;
                continue;
            }
            EntryKind::CharDevice { .. } | EntryKind::BlockDevice { .. } if !devices => Err(Errno::PERM),
            EntryKind::Hardlink(target) if skipped.contains(target) => Err(Errno::PERM),
            EntryKind::Hardlink(target) => hardlink(stage, path, target),
            kind => {
                let (dir, name) = match stage.locate(path) {
                    Ok(found) => found,
                    Err(error) => return Err(failed(error)),
                };
                make(dir, name, kind, &entry.meta)
            }
        };
        let device = match &entry.kind {
            EntryKind::CharDevice { .. } | EntryKind::BlockDevice { .. } => true,
            EntryKind::Hardlink(target) => skipped.contains(target),
            _ => false,
        };
        match made {
            Ok(()) => {}
            Err(Errno::PERM) if device => skipped.push(path.clone()),
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(skipped)
}

fn make(dir: BorrowedFd<'_>, name: &[u8], kind: &EntryKind, meta: &Metadata) -> rustix::io::Result<()> {
    let private = Mode::RUSR | Mode::WUSR;
    match kind {
        EntryKind::Dir => return mkdirat(dir, name, Mode::RWXU),
        EntryKind::Symlink(target) => symlinkat(&target[..], dir, name)?,
        EntryKind::CharDevice { major, minor } => {
            mknodat(dir, name, FileType::CharacterDevice, private, makedev(*major, *minor))?;
        }
        EntryKind::BlockDevice { major, minor } => {
            mknodat(dir, name, FileType::BlockDevice, private, makedev(*major, *minor))?;
        }
        EntryKind::Fifo => mknodat(dir, name, FileType::Fifo, private, 0)?,
        _ => return Err(Errno::INVAL),
    }
    if !matches!(kind, EntryKind::Symlink(_)) {
        // The name was made just now in a private directory: nobody can have put a link there.
        rustix::fs::chmodat(dir, name, mode(meta), AtFlags::empty())?;
    }
    utimensat(dir, name, &times(meta), AtFlags::SYMLINK_NOFOLLOW)
}

fn write_file(
    stage: &mut Rooted,
    entry: &Entry,
    size: u64,
    mut content: Content<'_>,
) -> Result<(), ExportError> {
    let shown = stage.shown(&entry.path);
    let failed = |error: io::Error| ExportError::io("write", &shown)(error);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let (dir, name) = stage.locate(&entry.path).map_err(|error| failed(error.into()))?;
    let fd = openat(dir, name, flags, Mode::RUSR | Mode::WUSR).map_err(|error| failed(error.into()))?;
    let mut file = File::from(fd);
    let mut buffer = vec![0u8; size.clamp(1, 1 << 16) as usize];
    loop {
        let count = io::Read::read(&mut content, &mut buffer)
            .map_err(|source| ExportError::content(&entry.path, source))?;
        if count == 0 {
            break;
        }
        io::Write::write_all(&mut file, &buffer[..count]).map_err(failed)?;
    }
    fchmod(&file, mode(&entry.meta)).map_err(|error| failed(error.into()))?;
    futimens(&file, &times(&entry.meta)).map_err(|error| failed(error.into()))
}

fn hardlink(stage: &mut Rooted, path: &[u8], target: &[u8]) -> rustix::io::Result<()> {
    let (dir, target_name) = stage.locate(target)?;
    let target_dir = rustix::io::fcntl_dupfd_cloexec(dir, 3)?;
    let (dir, name) = stage.locate(path)?;
    linkat(&target_dir, target_name, dir, name, AtFlags::empty())
}

/// Moves the staged files to the destination, making directories on the way.
fn merge(entries: &[Entry], stage: &mut Rooted, target: &mut Rooted) -> Result<(), ExportError> {
    for entry in entries {
        let path = &entry.path;
        let moved = match entry.kind {
            EntryKind::Dir => target.locate(path).and_then(|(dir, name)| enter_directory(dir, name)),
            _ => stage
                .locate(path)
                .and_then(|from| target.locate(path).map(|to| (from, to)))
                .and_then(|((from, name), (to, _))| renameat(from, name, to, name)),
        };
        moved.map_err(|error| target.error("write", path, error))?;
    }
    Ok(())
}

/// Makes sure that there is a directory; a file or link in its place is removed.
fn enter_directory(dir: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<()> {
    match mkdirat(dir, name, Mode::RWXU) {
        Err(Errno::EXIST) => {}
        other => return other,
    }
    let stat = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        let mode = Mode::from_raw_mode(stat.st_mode);
        if !mode.contains(Mode::RWXU) {
            // Left read-only by an earlier export; its mode is set again at the end.
            let fd = openat(dir, name, DIRECTORY | OFlags::RDONLY, Mode::empty())?;
            fchmod(&fd, mode | Mode::RWXU)?;
        }
        return Ok(());
    }
    unlinkat(dir, name, AtFlags::empty())?;
    mkdirat(dir, name, Mode::RWXU)
}

/// Modes and times of directories come last, children before parents: a read-only directory takes no
/// files, and every file changes its directory's time.
fn finish_directories(entries: &[Entry], root: &mut Rooted) -> Result<(), ExportError> {
    for entry in entries.iter().rev().filter(|entry| entry.kind == EntryKind::Dir) {
        let done = root.locate(&entry.path).and_then(|(dir, name)| {
            let fd = openat(dir, name, DIRECTORY | OFlags::RDONLY, Mode::empty())?;
            futimens(&fd, &times(&entry.meta))?;
            fchmod(&fd, mode(&entry.meta))
        });
        done.map_err(|error| root.error("write", &entry.path, error))?;
    }
    Ok(())
}

fn mode(meta: &Metadata) -> Mode {
    Mode::from_raw_mode(meta.mode & 0o7777)
}

fn times(meta: &Metadata) -> Timestamps {
    let time = Timespec { tv_sec: meta.mtime, tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}
