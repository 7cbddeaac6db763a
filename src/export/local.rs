//! The files of an image in a directory: `type=local`.
//!
//! Modes and times are kept, owners are not: everything belongs to whoever runs the build. Every
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

use super::dest::Partial;
use super::error::ExportError;
use super::tree::{Content, RootTree, check};

/// What an export to a directory did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalReport {
    /// Entries written.
    pub written: usize,
    /// Paths of device nodes, and of hardlinks to them, that were left out, because making them needs privileges.
    pub skipped_devices: Vec<Vec<u8>>,
}

/// Writes the files of an image below `dest`. With `mtime`, every file and directory gets that time,
/// in seconds since 1970.
///
/// All content is first written to a temporary directory; an existing `dest` is touched only after
/// that succeeded. What it holds besides the image's files stays.
pub fn write(
    tree: &dyn RootTree,
    dest: &Path,
    mtime: Option<i64>,
    cancel: &Cancel,
) -> Result<LocalReport, ExportError> {
    let mut entries = tree.entries().map_err(|source| ExportError::content(b"/", source))?;
    for entry in &mut entries {
        check(entry)?;
        entry.meta.mtime = mtime.unwrap_or(entry.meta.mtime);
    }
    let exists = match fs::metadata(dest) {
        Ok(meta) if !meta.is_dir() => return Err(ExportError::NotADirectory { path: dest.to_owned() }),
        Ok(_) => true,
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(ExportError::io("write", dest)(error)),
    };
    // Inside an existing destination, which may be a mount point of its own.
    let beside = if exists { dest.join(".rbuild") } else { dest.to_owned() };
    let (partial, ()) = Partial::create(&beside, |path| fs::create_dir(path))?;
    let mut stage = Rooted::open(partial.path())?;
    let skipped_devices = fill(tree, &entries, &mut stage, cancel)?;
    entries.retain(|entry| !skipped_devices.contains(&entry.path));
    if exists {
        let mut target = Rooted::open(dest)?;
        check_conflicts(&entries, &mut target)?;
        merge(&entries, &mut stage, &mut target)?;
        finish_directories(&entries, &mut target)?;
    } else {
        finish_directories(&entries, &mut stage)?;
        partial.rename_to(dest)?;
    }
    Ok(LocalReport { written: entries.len(), skipped_devices })
}

/// A directory that paths are resolved in, one component at a time and never through a link.
struct Rooted {
    path: PathBuf,
    root: OwnedFd,
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
    fn locate<'a, 'p>(&'a mut self, path: &'p [u8]) -> rustix::io::Result<(BorrowedFd<'a>, &'p [u8])> {
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
    fn shown(&self, path: &[u8]) -> PathBuf {
        use std::os::unix::ffi::OsStrExt as _;
        self.path.join(std::ffi::OsStr::from_bytes(path))
    }

    fn error(&self, action: &'static str, path: &[u8], error: Errno) -> ExportError {
        ExportError::Io { action, path: self.shown(path), source: error.into() }
    }
}

/// Writes all entries into an empty directory. Directories stay private and writable until
/// [`finish_directories`]. Gives the device nodes that could not be made.
fn fill(
    tree: &dyn RootTree,
    entries: &[Entry],
    stage: &mut Rooted,
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

/// Before anything at the destination changes: a directory where the image has a file stays, and
/// the export fails.
fn check_conflicts(entries: &[Entry], target: &mut Rooted) -> Result<(), ExportError> {
    for entry in entries.iter().filter(|entry| entry.kind != EntryKind::Dir) {
        let found =
            target.locate(&entry.path).and_then(|(dir, name)| statat(dir, name, AtFlags::SYMLINK_NOFOLLOW));
        if found.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory) {
            return Err(ExportError::InTheWay { path: target.shown(&entry.path) });
        }
    }
    Ok(())
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
