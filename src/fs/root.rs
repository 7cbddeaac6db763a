//! A directory opened once, and operations on paths below it.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, RawDir, RenameFlags, ResolveFlags, Statx, StatxFlags,
    Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use super::ids::IdMap;
use super::mode::set_mode_at;
use super::paths::split;
use super::remove::remove_at;
use super::resolve::open_resolved;

/// Parents are opened without following any link: in a layer directory a link is content.
const BENEATH: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);
const DIRENT_BUFFER: usize = 64 * 1024;
const OPAQUE_ATTRIBUTE: &[u8] = b"user.overlay.opaque";
/// Names like this are notes in layers' tars and never names of files.
const OPAQUE_NAME: &[u8] = b".wh..wh..opq";
const WHITEOUT_ATTRIBUTE: &[u8] = b"user.overlay.whiteout";
/// The kernel's limit for one value.
const XATTR_MAX: usize = 64 * 1024;

/// An open directory below which files are made and read. No operation follows a link.
#[derive(Debug)]
pub struct Root {
    dir: OwnedFd,
}

/// A file as a walk sees it.
#[derive(Clone, Debug)]
pub struct TreeEntry {
    /// Path below the root.
    pub path: Vec<u8>,
    /// `statx`.
    pub stat: Statx,
}

impl TreeEntry {
    /// File type.
    pub fn file_type(&self) -> FileType {
        FileType::from_raw_mode(u32::from(self.stat.stx_mode))
    }

    /// Permission bits.
    pub fn mode(&self) -> u32 {
        u32::from(self.stat.stx_mode) & 0o7777
    }

    /// Device and inode, which names of one file share.
    pub fn identity(&self) -> (u32, u32, u64) {
        (self.stat.stx_dev_major, self.stat.stx_dev_minor, self.stat.stx_ino)
    }

    /// An overlay whiteout in its usual form: character device 0:0.
    pub fn is_whiteout(&self) -> bool {
        self.file_type() == FileType::CharacterDevice
            && self.stat.stx_rdev_major == 0
            && self.stat.stx_rdev_minor == 0
    }
}

/// Opens a regular file below `dir` for reading, following no link.
pub fn open_file_in(dir: &Path, path: &[u8]) -> io::Result<File> {
    Root::open(dir)?.open_file(path)
}

/// Attributes overlayfs keeps for itself.
pub fn is_overlay_private(name: &[u8]) -> bool {
    name.starts_with(b"user.overlay.") || name.starts_with(b"trusted.overlay.")
}

/// Where a file's intended owner is written down if it cannot be the owner on disk: `UID:GID`, each of
/// them 4294967295 where it was never set.
pub const OWNER_RECORD: &str = "user.rbuild.owner";
/// Where an empty file says that it stands for a device: `c MAJOR:MINOR` or `b MAJOR:MINOR`.
pub const NODE_RECORD: &str = "user.rbuild.node";

/// Whether an extended attribute is one of rbuild's own records, which no image has.
pub fn is_record(name: &[u8]) -> bool {
    name.starts_with(b"user.rbuild.")
}

/// The value of [`OWNER_RECORD`].
pub fn owner_record(uid: u32, gid: u32) -> String {
    format!("{uid}:{gid}")
}

/// User and group of a value of [`OWNER_RECORD`].
pub fn parse_owner_record(value: &[u8]) -> Option<(u32, u32)> {
    let (uid, gid) = std::str::from_utf8(value).ok()?.split_once(':')?;
    Some((uid.parse().ok()?, gid.parse().ok()?))
}

/// Whether it is a block device, and the numbers, of a value of [`NODE_RECORD`].
pub fn parse_node_record(value: &[u8]) -> Option<(bool, u32, u32)> {
    let (letter, numbers) = std::str::from_utf8(value).ok()?.split_once(' ')?;
    let (major, minor) = numbers.split_once(':')?;
    Some((letter == "b", major.parse().ok()?, minor.parse().ok()?))
}

fn c_name(name: &OsStr) -> Result<CString, Errno> {
    CString::new(name.as_bytes()).map_err(|_| Errno::INVAL)
}

fn os(path: &[u8]) -> &OsStr {
    OsStr::from_bytes(path)
}

impl Root {
    /// Opens a directory.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Root { dir: rustix::fs::openat(CWD, path, flags, Mode::empty())? })
    }

    fn open_at(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let path = if path.is_empty() { b"." } else { path };
        open_resolved(self.dir.as_fd(), path, flags, Mode::empty(), BENEATH)
    }

    /// The directory holding a path, and the last component.
    fn parent<'a>(&self, path: &'a [u8]) -> Result<(OwnedFd, &'a OsStr), Errno> {
        let (dir, name) = split(path);
        if name.is_empty() || name == b".." || name == b"." {
            return Err(Errno::INVAL);
        }
        Ok((self.open_at(dir, OFlags::PATH | OFlags::DIRECTORY)?, os(name)))
    }

    /// Opens a regular file for reading.
    pub fn open_file(&self, path: &[u8]) -> io::Result<File> {
        let fd = self.open_at(path, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK)?;
        let file = File::from(fd);
        if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("not a regular file")) }
    }

    /// Opens a regular file for reading, following links as long as they stay below the root: one that leads
    /// out is an error.
    pub fn open_file_within(&self, path: &[u8]) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let file = match open_resolved(self.dir.as_fd(), path, flags, Mode::empty(), resolve) {
            Err(Errno::XDEV) => return Err(io::Error::other("it is a link that leads out of the directory")),
            opened => File::from(opened?),
        };
        if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("not a regular file")) }
    }

    /// `lstat`; `None` where there is nothing.
    pub fn stat(&self, path: &[u8]) -> io::Result<Option<TreeEntry>> {
        let (dir, name) = match self.parent(path) {
            Ok(found) => found,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        match rustix::fs::statx(&dir, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS) {
            Ok(stat) => Ok(Some(TreeEntry { path: path.to_vec(), stat })),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// A link's target.
    pub fn read_link(&self, path: &[u8]) -> io::Result<Vec<u8>> {
        let (dir, name) = self.parent(path)?;
        Ok(rustix::fs::readlinkat(&dir, name, Vec::new())?.into_bytes())
    }

    /// Creates a regular file, which must not exist.
    pub fn create_file(&self, path: &[u8]) -> io::Result<File> {
        let (dir, name) = self.parent(path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(File::from(rustix::fs::openat(&dir, name, flags, Mode::from_raw_mode(0o600))?))
    }

    /// Makes a directory.
    pub fn make_dir(&self, path: &[u8]) -> io::Result<()> {
        let (dir, name) = self.parent(path)?;
        Ok(rustix::fs::mkdirat(&dir, name, Mode::from_raw_mode(0o700))?)
    }

    /// Makes a symbolic link.
    pub fn make_symlink(&self, target: &[u8], path: &[u8]) -> io::Result<()> {
        let (dir, name) = self.parent(path)?;
        Ok(rustix::fs::symlinkat(os(target), &dir, name)?)
    }

    /// Makes another name for a file.
    pub fn make_link(&self, existing: &[u8], path: &[u8]) -> io::Result<()> {
        let (from, from_name) = self.parent(existing)?;
        let (to, to_name) = self.parent(path)?;
        Ok(rustix::fs::linkat(&from, from_name, &to, to_name, AtFlags::empty())?)
    }

    /// Makes a device or pipe. A character device 0:0 is an overlay whiteout, which everybody may make.
    pub fn make_node(&self, path: &[u8], kind: FileType, major: u32, minor: u32) -> io::Result<()> {
        let (dir, name) = self.parent(path)?;
        let device = rustix::fs::makedev(major, minor);
        Ok(rustix::fs::mknodat(&dir, name, kind, Mode::from_raw_mode(0o600), device)?)
    }

    /// Marks a name as deleted in a layer directory: by a character device 0:0, or, on a file system
    /// that keeps those for itself (an overlay), by an empty file with an attribute.
    pub fn make_whiteout(&self, path: &[u8]) -> io::Result<()> {
        match self.make_node(path, FileType::CharacterDevice, 0, 0) {
            Err(error) if error.raw_os_error() == Some(Errno::PERM.raw_os_error()) => {
                drop(self.create_file(path)?);
                self.set_xattr(path, WHITEOUT_ATTRIBUTE, b"y")
            }
            other => other,
        }
    }

    /// Makes a directory of a layer hide what is below it: by an attribute, or, on a file system that has
    /// none, by a deletion of a name that no layer has.
    pub fn make_opaque(&self, path: &[u8]) -> io::Result<()> {
        match self.set_xattr(path, OPAQUE_ATTRIBUTE, b"y") {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                self.make_whiteout(&[path, b"/", OPAQUE_NAME].concat())
            }
            other => other,
        }
    }

    /// Whether a directory of a layer, with these attributes, hides what is below it.
    pub fn is_opaque(&self, path: &[u8], xattrs: &[(Vec<u8>, Vec<u8>)]) -> io::Result<bool> {
        if xattrs.iter().any(|(name, value)| name.ends_with(b"overlay.opaque") && value == b"y") {
            return Ok(true);
        }
        Ok(self.stat(&[path, b"/", OPAQUE_NAME].concat())?.is_some_and(|entry| entry.is_whiteout()))
    }

    /// Owner of the file itself. One that this process cannot give to files is written down with files and
    /// directories, and something else is on disk; see [`IdMap::user_on_disk`].
    pub fn set_owner(&self, path: &[u8], uid: u32, gid: u32) -> io::Result<()> {
        let map = IdMap::current();
        let (disk_uid, disk_gid) = (map.user_on_disk(uid), map.group_on_disk(gid));
        let (dir, name) = self.parent(path)?;
        let owner = (Some(Uid::from_raw(disk_uid)), Some(Gid::from_raw(disk_gid)));
        rustix::fs::chownat(&dir, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)?;
        if (uid, gid) != (disk_uid, disk_gid) && self.can_have_records(path)? {
            let record = owner_record(uid, gid);
            return match self.set_xattr(path, OWNER_RECORD.as_bytes(), record.as_bytes()) {
                Err(error) if error.kind() == io::ErrorKind::Unsupported => Err(io::Error::other(format!(
                    "the owner {record} is not among the IDs that there are here, {} and {}, and this file system has no \
                     extended attributes of users to keep it in; choose another place with --root",
                    map.users(),
                    map.groups()
                ))),
                other => other,
            };
        }
        Ok(())
    }

    /// Writes down the owner of a file that belongs to the only ID there is, so that it goes along when the file
    /// is moved. Links and the like cannot take it along, nor can a file system without attributes.
    pub fn record_owner(&self, path: &[u8], uid: u32, gid: u32) -> io::Result<()> {
        if !IdMap::current().is_single() || (uid, gid) == (0, 0) || !self.can_have_records(path)? {
            return Ok(());
        }
        match self.set_xattr(path, OWNER_RECORD.as_bytes(), owner_record(uid, gid).as_bytes()) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
            other => other,
        }
    }

    /// The kernel lets only these have attributes of users.
    fn can_have_records(&self, path: &[u8]) -> io::Result<bool> {
        let kind = self.stat(path)?.map(|entry| entry.file_type());
        Ok(matches!(kind, Some(FileType::RegularFile | FileType::Directory)))
    }

    /// Mode of a file that is no link.
    pub fn set_mode(&self, path: &[u8], mode: u32) -> io::Result<()> {
        let (dir, name) = self.parent(path)?;
        Ok(set_mode_at(dir.as_fd(), &c_name(name)?, mode)?)
    }

    /// Modification time of the file itself.
    pub fn set_mtime(&self, path: &[u8], seconds: i64, nanoseconds: u32) -> io::Result<()> {
        let (dir, name) = self.parent(path)?;
        let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() };
        let times = Timestamps { last_access: time, last_modification: time };
        Ok(rustix::fs::utimensat(&dir, name, &times, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Extended attributes of the file itself, sorted. File systems without them have none.
    pub fn xattrs(&self, path: &[u8]) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let through = self.magic(path)?;
        let mut names = vec![0u8; XATTR_MAX];
        let length = match rustix::fs::llistxattr(&*through.path, &mut names[..]) {
            Ok(length) => length,
            Err(Errno::NOTSUP | Errno::NOENT | Errno::PERM) => return Ok(Vec::new()),
            Err(errno) => return Err(errno.into()),
        };
        let mut found = Vec::new();
        for name in names[..length].split(|c| *c == 0).filter(|name| !name.is_empty()) {
            let mut value = vec![0u8; XATTR_MAX];
            match rustix::fs::lgetxattr(&*through.path, os(name), &mut value[..]) {
                Ok(size) => value.truncate(size),
                Err(_) => continue,
            }
            found.push((name.to_vec(), value));
        }
        found.sort();
        Ok(found)
    }

    /// Sets one extended attribute of the file itself.
    pub fn set_xattr(&self, path: &[u8], name: &[u8], value: &[u8]) -> io::Result<()> {
        let through = self.magic(path)?;
        Ok(rustix::fs::lsetxattr(&*through.path, os(name), value, XattrFlags::empty())?)
    }

    /// `/proc/self/fd/N/NAME`: reaches a name in an opened directory by the calls that have no
    /// directory argument. `N` is a real directory, so only the last component could be a link, and
    /// the `l` calls do not follow it.
    fn magic(&self, path: &[u8]) -> io::Result<Magic> {
        use std::os::fd::AsRawFd as _;
        let (dir, name) = self.parent(path)?;
        let mut text = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
        text.extend_from_slice(name.as_bytes());
        let path = CString::new(text).map_err(|_| Errno::INVAL)?;
        Ok(Magic { path, _dir: dir })
    }

    /// Removes a file or a whole directory; nothing there is no error.
    pub fn remove(&self, path: &[u8]) -> io::Result<()> {
        let (dir, name) = match self.parent(path) {
            Ok(found) => found,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        };
        Ok(remove_at(dir.as_fd(), &c_name(name)?)?)
    }

    /// Moves a name.
    pub fn rename(&self, from: &[u8], to: &[u8]) -> io::Result<()> {
        let (from_dir, from_name) = self.parent(from)?;
        let (to_dir, to_name) = self.parent(to)?;
        Ok(rustix::fs::renameat_with(&from_dir, from_name, &to_dir, to_name, RenameFlags::empty())?)
    }

    /// Everything below, parents before children, siblings in byte order. A path that the kernel would not take as a
    /// whole (4,095 bytes) is an error.
    pub fn walk(&self) -> io::Result<Vec<TreeEntry>> {
        let dir = self.open_at(b"", OFlags::RDONLY | OFlags::DIRECTORY)?;
        walk_from(dir)
    }
}

/// The longest path that a system call takes (PATH_MAX with its end).
const MAX_PATH: usize = 4095;
/// Bytes of a path that is too long which are shown.
const SHOWN: usize = 60;

struct Magic {
    path: CString,
    _dir: OwnedFd,
}

pub(super) fn names(dir: BorrowedFd<'_>) -> Result<Vec<CString>, Errno> {
    let mut buffer: Vec<u8> = Vec::with_capacity(DIRENT_BUFFER);
    let mut names = Vec::new();
    let mut entries = RawDir::new(dir, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// A directory on the way down.
struct Level {
    dir: OwnedFd,
    path: Vec<u8>,
    names: std::vec::IntoIter<CString>,
}

impl Level {
    fn new(dir: OwnedFd, path: Vec<u8>) -> io::Result<Self> {
        let names = names(dir.as_fd())?.into_iter();
        Ok(Level { dir, path, names })
    }
}

/// Not by recursion: whoever makes a tree decides how deep it is.
fn walk_from(dir: OwnedFd) -> io::Result<Vec<TreeEntry>> {
    let (mut found, mut levels) = (Vec::new(), vec![Level::new(dir, Vec::new())?]);
    while let Some(level) = levels.last_mut() {
        let Some(name) = level.names.next() else {
            levels.pop();
            continue;
        };
        let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
        let stat = rustix::fs::statx(&level.dir, &name, AtFlags::SYMLINK_NOFOLLOW, wanted)?;
        let path = match level.path.as_slice() {
            b"" => name.to_bytes().to_vec(),
            above => [above, b"/", name.to_bytes()].concat(),
        };
        if path.len() > MAX_PATH {
            return Err(too_long(&path));
        }
        let entry = TreeEntry { path: path.clone(), stat };
        if entry.file_type() == FileType::Directory {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let dir = rustix::fs::openat(&level.dir, &name, flags, Mode::empty())?;
            levels.push(Level::new(dir, path)?);
        }
        found.push(entry);
    }
    Ok(found)
}

fn too_long(path: &[u8]) -> io::Error {
    let begin = String::from_utf8_lossy(&path[..SHOWN.min(path.len())]).into_owned();
    io::Error::other(format!(
        "the path {begin}... is longer than {MAX_PATH} bytes, which no program can open"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn trees_of_any_depth_are_walked_or_refused_by_name() -> io::Result<()> {
        let nested = |count: usize, name: &str| -> io::Result<_> {
            let dir = tempfile::tempdir()?;
            let mut at = rustix::fs::openat(CWD, dir.path(), OFlags::PATH, Mode::empty())?;
            for _ in 0..count {
                rustix::fs::mkdirat(&at, name, Mode::RWXU)?;
                at = rustix::fs::openat(&at, name, OFlags::PATH, Mode::empty())?;
            }
            let found = Root::open(dir.path())?.walk();
            super::super::remove_tree(dir.path())?;
            Ok(found)
        };
        // Where a process may have 1,024 descriptors.
        assert_eq!(nested(500, "d")?.map(|found| found.len()).ok(), Some(500));
        let refused =
            nested(200, &"long".repeat(8))?.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(refused.contains("longer than 4095 bytes") && refused.len() < 200, "{refused}");
        Ok(())
    }

    #[test]
    fn nothing_is_reached_through_a_link() -> io::Result<()> {
        let outside = tempfile::tempdir()?;
        std::fs::write(outside.path().join("secret"), "x")?;
        let dir = tempfile::tempdir()?;
        symlink(outside.path(), dir.path().join("out"))?;
        let root = Root::open(dir.path())?;
        assert!(root.open_file(b"out/secret").is_err());
        assert!(root.create_file(b"out/new").is_err());
        assert!(root.make_dir(b"../x").is_err());
        root.remove(b"out")?;
        assert!(outside.path().join("secret").exists());
        assert!(root.stat(b"out")?.is_none());
        Ok(())
    }

    #[test]
    fn links_within_may_be_followed_and_others_not() -> io::Result<()> {
        let outside = tempfile::tempdir()?;
        std::fs::write(outside.path().join("secret"), "x")?;
        let dir = tempfile::tempdir()?;
        std::fs::create_dir_all(dir.path().join("a/b"))?;
        std::fs::write(dir.path().join("a/f"), "x")?;
        symlink("../f", dir.path().join("a/b/in"))?;
        symlink("a", dir.path().join("c"))?;
        symlink(outside.path(), dir.path().join("out"))?;
        symlink(outside.path().join("secret"), dir.path().join("file"))?;
        symlink("/proc/self/exe", dir.path().join("magic"))?;
        symlink("../../../x", dir.path().join("a/up"))?;
        rustix::fs::mkfifoat(CWD, dir.path().join("fifo"), Mode::RWXU)?;
        let root = Root::open(dir.path())?;
        for path in ["a/f", "a/b/in", "c/f", "c/b/in"] {
            root.open_file_within(path.as_bytes())?;
        }
        for path in ["out/secret", "file", "magic", "a/up", "fifo", "a", "../x", "gone"] {
            assert!(root.open_file_within(path.as_bytes()).is_err(), "{path}");
        }
        Ok(())
    }

    #[test]
    fn whole_trees_are_removed_whatever_their_modes() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let root = Root::open(dir.path())?;
        root.make_dir(b"a")?;
        root.make_dir(b"a/b")?;
        root.create_file(b"a/b/c")?;
        root.set_mode(b"a/b", 0)?;
        root.remove(b"a")?;
        assert!(root.walk()?.is_empty());
        root.remove(b"not/there")?;
        Ok(())
    }

    #[test]
    fn attributes_and_times_are_those_of_the_link_itself() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let root = Root::open(dir.path())?;
        root.make_symlink(b"/nowhere", b"l")?;
        root.set_mtime(b"l", 7, 8)?;
        let entry = root.stat(b"l")?.ok_or_else(|| io::Error::other("no link"))?;
        assert_eq!((entry.stat.stx_mtime.tv_sec, entry.stat.stx_mtime.tv_nsec), (7, 8));
        drop(root.create_file(b"f")?);
        if root.set_xattr(b"f", b"user.note", b"v").is_ok() {
            assert_eq!(root.xattrs(b"f")?, [(b"user.note".to_vec(), b"v".to_vec())]);
        } else {
            println!("SKIPPED: this file system has no user extended attributes");
        }
        Ok(())
    }
}
