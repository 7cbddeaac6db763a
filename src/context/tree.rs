//! A directory tree on disk, read through a handle on its root: no path given here can lead out of
//! it, and no symlink is followed; following one by name is `LocalContext`'s doing.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::digest::FileState;
use super::error::ContextError;
use super::file::{FileInfo, FileKind, Xattrs};
use super::paths;

/// An open directory, and its names with their types.
pub(super) type Listing = (OwnedFd, Vec<(Vec<u8>, FileType)>);

/// The handle on a tree's root.
#[derive(Debug)]
pub(super) struct Tree {
    root: OwnedFd,
    path: PathBuf,
    directories_read: AtomicU64,
}

impl Tree {
    /// Opens the directory `path`; a symlink to a directory will do.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(Tree { root, path: path.to_owned(), directories_read: AtomicU64::new(0) })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// How many directories were opened to be listed since the tree was opened.
    pub(super) fn directories_read(&self) -> u64 {
        self.directories_read.load(Ordering::Relaxed)
    }

    /// An error about `path`.
    pub(super) fn error(
        &self,
        action: &'static str,
        path: &[u8],
        source: impl Into<io::Error>,
    ) -> ContextError {
        ContextError::Io { action, root: self.path.clone(), path: path.to_vec(), source: source.into() }
    }

    /// What lies at `path` itself; `None` if nothing does, or if a component before the last is not a
    /// directory (a symlink is none).
    pub(super) fn stat(&self, path: &[u8], xattrs: bool) -> Result<Option<FileInfo>, ContextError> {
        let (parent, name) = paths::split(path);
        let found = self
            .open_beneath(parent, OFlags::PATH | OFlags::DIRECTORY)
            .and_then(|dir| self.entry(dir.as_fd(), path, name, xattrs));
        match found {
            Ok(info) => Ok(Some(info)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(errno) => Err(self.error("examine", path, errno)),
        }
    }

    /// What the entry `name` of the open directory `dir` is; `path` is what it will be called.
    pub(super) fn entry(
        &self,
        dir: BorrowedFd<'_>,
        path: &[u8],
        name: &[u8],
        xattrs: bool,
    ) -> Result<FileInfo, Errno> {
        let name = paths::for_system(name);
        let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = kind_of(&stat, || {
            rustix::fs::readlinkat(dir, name, Vec::new()).map(|target| target.into_bytes())
        })?;
        let has_xattrs = matches!(kind, FileKind::File { .. } | FileKind::Dir);
        let xattrs = if xattrs && has_xattrs { read_xattrs(dir, name)? } else { Vec::new() };
        Ok(FileInfo {
            path: path.to_vec(),
            kind,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: mtime(&stat),
            ino: stat.st_ino,
            dev: stat.st_dev,
            nlink: u64::from(stat.st_nlink as u32),
            ctime: ctime(&stat),
            xattrs,
        })
    }

    /// Opens the directory `path` and lists its names with their types as far as the file system tells
    /// them, sorted.
    pub(super) fn list(&self, path: &[u8]) -> Result<Listing, Errno> {
        let dir = self.open_beneath(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        self.directories_read.fetch_add(1, Ordering::Relaxed);
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&dir)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push((name.to_vec(), entry.file_type()));
            }
        }
        names.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        Ok((dir, names))
    }

    /// Opens the regular file `path` for reading.
    pub(super) fn open_file(&self, path: &[u8]) -> Result<File, ContextError> {
        // Without NONBLOCK, opening a fifo that took the file's place would wait for a writer.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let opened = match self.open_beneath(path, flags) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => {
                return Err(ContextError::NotFound { root: self.path.clone(), path: path.to_vec() });
            }
            Err(Errno::LOOP) => return Err(self.not_a_file(path, "a symbolic link, or lies behind one")),
            Err(Errno::NXIO) => return Err(self.not_a_file(path, "a socket or device")),
            Err(errno) => return Err(self.error("read", path, errno)),
        };
        let stat = rustix::fs::fstat(&opened).map_err(|errno| self.error("examine", path, errno))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Ok(File::from(opened)),
            FileType::Directory => Err(self.not_a_file(path, "a directory")),
            FileType::Fifo => Err(self.not_a_file(path, "a fifo")),
            _ => Err(self.not_a_file(path, "a special file")),
        }
    }

    /// Opens a file if it is in a known state.
    pub(super) fn open_in_state(&self, path: &[u8], state: &FileState) -> Result<Option<File>, ContextError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let Ok(opened) = self.open_beneath(path, flags) else { return Ok(None) };
        let same = state.is_that_of(&opened);
        let same = same.map_err(|source| ContextError::Io {
            action: "examine",
            root: self.path.clone(),
            path: path.to_vec(),
            source,
        })?;
        Ok(same.then(|| File::from(opened)))
    }

    fn not_a_file(&self, path: &[u8], kind: &'static str) -> ContextError {
        ContextError::NotAFile { root: self.path.clone(), path: path.to_vec(), kind }
    }

    fn open_beneath(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        open_beneath(self.root.as_fd(), path, flags)
    }
}

/// Opens `path` below `root`, refusing every symlink on the way and at the end (`ELOOP`).
pub(super) fn open_beneath(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let path = paths::for_system(path).as_os_str().as_bytes();
    crate::fs::open_resolved(root, path, flags, Mode::empty(), resolve)
}

fn kind_of(stat: &Stat, target: impl FnOnce() -> Result<Vec<u8>, Errno>) -> Result<FileKind, Errno> {
    let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    Ok(match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => FileKind::File { size: u64::try_from(stat.st_size).unwrap_or(0) },
        FileType::Directory => FileKind::Dir,
        FileType::Symlink => FileKind::Symlink { target: target()? },
        FileType::Fifo => FileKind::Fifo,
        FileType::CharacterDevice => FileKind::CharDev { major, minor },
        FileType::BlockDevice => FileKind::BlockDev { major, minor },
        _ => FileKind::Socket,
    })
}

/// The content modification time.
pub(super) fn mtime(stat: &Stat) -> (i64, u32) {
    (stat.st_mtime, stat.st_mtime_nsec as u32)
}

/// The status change time.
pub(super) fn ctime(stat: &Stat) -> (i64, u32) {
    (stat.st_ctime, stat.st_ctime_nsec as u32)
}

/// The attributes that a context contributes: file capabilities and `user.*`, sorted by name.
fn read_xattrs(dir: BorrowedFd<'_>, name: &Path) -> Result<Xattrs, Errno> {
    // There is no lgetxattrat before Linux 6.13; the handle's own link in /proc stands in for it.
    let place = Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name);
    let mut kept = Vec::new();
    let names = match grow(|buffer| rustix::fs::llistxattr(&place, buffer)) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(kept),
        names => names?,
    };
    for key in names.split(|&byte| byte == 0) {
        let is_wanted = key == b"security.capability" || key.starts_with(b"user.");
        if !is_wanted || crate::fs::is_record(key) {
            continue;
        }
        let key_name = std::ffi::OsStr::from_bytes(key);
        match grow(|buffer| rustix::fs::lgetxattr(&place, key_name, buffer)) {
            Ok(value) => kept.push((key.to_vec(), value)),
            Err(Errno::NODATA) => {}
            Err(errno) => return Err(errno),
        }
    }
    kept.sort_unstable();
    Ok(kept)
}

/// Calls with ever larger buffers until the value fits (64 KiB is the kernel's own limit).
fn grow(mut call: impl FnMut(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0; 256];
    loop {
        match call(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            Err(Errno::RANGE) if buffer.len() < 1 << 20 => buffer.resize(buffer.len() * 16, 0),
            Err(errno) => return Err(errno),
        }
    }
}
