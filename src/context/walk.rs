//! Listing a directory tree under ignore rules, without ever following a link.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

use rustix::fs::{AtFlags, Mode, OFlags, RawDir, Statx, StatxFlags};
use rustix::io::Errno;

use super::ignore::{IgnoreRules, Matches};
use super::source::ContextError;

/// What `lstat` says of a file of a context, a stage or an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileInfo {
    /// Path relative to the source's root; `""` is the root.
    pub path: Vec<u8>,
    /// Its kind.
    pub kind: FileKind,
    /// Permission, setuid, setgid and sticky bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time: seconds and nanoseconds.
    pub mtime: (i64, u32),
    /// Change time.
    pub ctime: (i64, u32),
    /// Inode number.
    pub ino: u64,
    /// Device.
    pub dev: u64,
    /// Number of names.
    pub nlink: u64,
    /// Extended attributes that belong into images, sorted; filled in when contents are digested.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Kinds of files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    File {
        /// Bytes.
        size: u64,
    },
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink {
        /// Its target.
        target: Vec<u8>,
    },
    /// A named pipe.
    Fifo,
    /// A character device.
    CharDev {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDev {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A socket: never copied.
    Socket,
}

const DIR_FLAGS: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// Room for directory entries read by one system call.
const DIRENT_BUFFER: usize = 64 * 1024;

/// Lists trees below a root directory.
pub struct Walker<'a> {
    rules: &'a IgnoreRules,
    /// Restricts the walk; asked with the path of each directory before it is opened.
    wanted: &'a dyn Fn(&[u8]) -> bool,
    found: Vec<FileInfo>,
}

/// `lstat` of one name in a directory.
pub fn stat_at(dir: BorrowedFd<'_>, name: &CStr, path: Vec<u8>) -> Result<FileInfo, Errno> {
    let stat = rustix::fs::statx(dir, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS)?;
    info(dir, name, path, &stat)
}

fn info(dir: BorrowedFd<'_>, name: &CStr, path: Vec<u8>, stat: &Statx) -> Result<FileInfo, Errno> {
    use rustix::fs::FileType;
    let raw_mode = u32::from(stat.stx_mode);
    let kind = match FileType::from_raw_mode(raw_mode) {
        FileType::RegularFile => FileKind::File { size: stat.stx_size },
        FileType::Directory => FileKind::Dir,
        FileType::Symlink => {
            FileKind::Symlink { target: rustix::fs::readlinkat(dir, name, Vec::new())?.into_bytes() }
        }
        FileType::Fifo => FileKind::Fifo,
        FileType::CharacterDevice => {
            FileKind::CharDev { major: stat.stx_rdev_major, minor: stat.stx_rdev_minor }
        }
        FileType::BlockDevice => {
            FileKind::BlockDev { major: stat.stx_rdev_major, minor: stat.stx_rdev_minor }
        }
        _ => FileKind::Socket,
    };
    Ok(FileInfo {
        path,
        kind,
        mode: raw_mode & 0o7777,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        mtime: (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
        ctime: (stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec),
        ino: stat.stx_ino,
        dev: rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor),
        nlink: u64::from(stat.stx_nlink),
        xattrs: Vec::new(),
    })
}

impl<'a> Walker<'a> {
    /// A walk under `rules` of the directories `wanted` says yes to.
    pub fn new(rules: &'a IgnoreRules, wanted: &'a dyn Fn(&[u8]) -> bool) -> Self {
        Walker { rules, wanted, found: Vec::new() }
    }

    /// Everything below the open directory whose path is `path`, parents before children, siblings
    /// in byte order.
    pub fn walk(mut self, dir: OwnedFd, path: &[u8]) -> Result<Vec<FileInfo>, ContextError> {
        let mut matches = Matches::default();
        for end in path.iter().enumerate().filter(|(_, c)| **c == b'/').map(|(at, _)| at) {
            matches = self.rules.descend(&matches, &path[..end]);
        }
        let matches = self.rules.descend(&matches, path);
        self.directory(&dir, path, &matches)?;
        Ok(self.found)
    }

    fn directory(&mut self, dir: &OwnedFd, path: &[u8], above: &Matches) -> Result<(), ContextError> {
        let mut names = names(dir).map_err(|errno| ContextError::read(path, errno.into()))?;
        names.sort_unstable();
        for name in names {
            self.name(dir, path, &name, above)?;
        }
        Ok(())
    }

    fn name(
        &mut self,
        dir: &OwnedFd,
        parent: &[u8],
        name: &CStr,
        above: &Matches,
    ) -> Result<(), ContextError> {
        let mut path = Vec::with_capacity(parent.len() + 1 + name.to_bytes().len());
        if !parent.is_empty() {
            path.extend_from_slice(parent);
            path.push(b'/');
        }
        path.extend_from_slice(name.to_bytes());
        let matches =
            if self.rules.is_empty() { Matches::default() } else { self.rules.descend(above, &path) };
        let ignored = self.rules.ignores(&matches);
        if ignored && self.rules.can_prune(&matches, &path) {
            return Ok(());
        }
        let info = match stat_at(dir.as_fd(), name, path.clone()) {
            Ok(info) => info,
            Err(Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(ContextError::read(&path, errno.into())),
        };
        if info.kind != FileKind::Dir {
            if !ignored {
                self.found.push(info);
            }
            return Ok(());
        }
        self.subdirectory(dir, name, info, ignored, &matches)
    }

    /// An ignored directory is listed after all if a rule brings something below it back.
    fn subdirectory(
        &mut self,
        parent: &OwnedFd,
        name: &CStr,
        info: FileInfo,
        ignored: bool,
        matches: &Matches,
    ) -> Result<(), ContextError> {
        let path = info.path.clone();
        let place = self.found.len();
        self.found.push(info);
        if (self.wanted)(&path) {
            match rustix::fs::openat(parent, name, DIR_FLAGS, Mode::empty()) {
                Ok(dir) => self.directory(&dir, &path, matches)?,
                Err(Errno::ACCESS) if ignored => {}
                Err(errno) => return Err(ContextError::read(&path, errno.into())),
            }
        }
        if ignored && self.found.len() == place + 1 {
            self.found.truncate(place);
        }
        Ok(())
    }
}

/// Names in a directory, without `.` and `..`.
fn names(dir: &OwnedFd) -> Result<Vec<std::ffi::CString>, Errno> {
    let mut buffer = Vec::with_capacity(DIRENT_BUFFER);
    let mut names = Vec::new();
    let mut entries = RawDir::new(dir, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        if !matches!(name.to_bytes(), b"." | b"..") {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// A path as the operating system wants it.
pub fn os_path(path: &[u8]) -> &std::path::Path {
    std::path::Path::new(std::ffi::OsStr::from_bytes(path))
}
