//! What a file system is, what it can do, how full it is, and what fills it.

use std::collections::HashSet;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, StatxFlags, XattrFlags, openat, statx};
use rustix::io::Errno;

use super::root::names;

/// Deeper than any image; what lies below is not counted.
const DEPTH: usize = 1000;

/// Bytes of the file system that holds `path`: all there are, and those an ordinary user may still
/// fill.
pub fn disk_space(path: &Path) -> io::Result<(u64, u64)> {
    let stat = rustix::fs::statvfs(path)?;
    Ok((stat.f_blocks.saturating_mul(stat.f_frsize), stat.f_bavail.saturating_mul(stat.f_frsize)))
}

/// Bytes of the file system that holds `path` which somebody may still fill, if only root.
pub fn free_space(path: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bfree.saturating_mul(stat.f_frsize))
}

/// Whether a file system or a quota is full.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Whether a text contains the system's words for a full disk, as programs print them.
pub fn names_full_disk(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    text.contains("no space left on device") || text.contains("disk quota exceeded")
}

/// A size in decimal units.
pub fn shown_size(bytes: u64) -> String {
    let value = bytes as f64;
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", value / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", value / 1e6),
        _ => format!("{:.2} GB", value / 1e9),
    }
}

/// Whether files below a directory can have extended attributes of users. Tries it with the directory,
/// which must be one of our own.
pub fn has_user_attributes(dir: &Path) -> io::Result<bool> {
    match rustix::fs::setxattr(dir, c"user.rbuild.probe", b"y", XattrFlags::empty()) {
        Ok(()) => {
            let _ = rustix::fs::removexattr(dir, c"user.rbuild.probe");
            Ok(true)
        }
        // Some answer that they have no such name, some that nobody may.
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::PERM | Errno::INVAL) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// What kind of file system a path is on, for messages.
pub fn file_system_name(path: &Path) -> String {
    let Ok(stat) = rustix::fs::statfs(path) else { return "an unknown file system".into() };
    // linux/magic.h
    let name = match stat.f_type as u64 & 0xffff_ffff {
        0x8584_58f6 => "ramfs",
        0x0102_1994 => "tmpfs",
        0x6969 => "nfs",
        0x0102_1997 => "9p",
        0x6573_5546 => "fuse or virtiofs",
        0x794c_7630 => "overlay",
        0xff53_4d42 | 0xfe53_4d42 | 0x517b => "cifs",
        0x4d44 => "vfat",
        0x2011_bab0 => "exfat",
        0xef53 => "ext4",
        0x5846_5342 => "xfs",
        0x9123_683e => "btrfs",
        0x0bd0_0bd0 => "lustre",
        0x786f_4256 => "vboxsf",
        number => return format!("file system type {number:#x}"),
    };
    name.into()
}

/// Bytes that a file or tree takes on disk, without following links. Names of one file count once. What
/// cannot be read counts as nothing.
pub fn disk_usage(path: &Path) -> u64 {
    let Ok(path) = std::ffi::CString::new(path.as_os_str().as_encoded_bytes()) else { return 0 };
    usage_at(CWD, &path, &mut HashSet::new(), DEPTH)
}

fn usage_at(dir: BorrowedFd<'_>, name: &CStr, seen: &mut HashSet<(u32, u32, u64)>, depth: usize) -> u64 {
    let Ok(stat) = statx(dir, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS) else { return 0 };
    let is_dir = FileType::from_raw_mode(u32::from(stat.stx_mode)) == FileType::Directory;
    let identity = (stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino);
    if stat.stx_nlink > 1 && !is_dir && !seen.insert(identity) {
        return 0;
    }
    // POSIX counts blocks of 512 bytes, whatever the file system's own.
    let own = stat.stx_blocks.saturating_mul(512);
    if !is_dir || depth == 0 {
        return own;
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let Ok(below) = openat(dir, name, flags, Mode::empty()) else { return own };
    let children = names(below.as_fd()).unwrap_or_default();
    let sum = |sum: u64, name| sum.saturating_add(usage_at(below.as_fd(), name, seen, depth - 1));
    children.iter().map(AsRef::as_ref).fold(own, sum)
}
