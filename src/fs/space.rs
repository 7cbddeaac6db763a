//! What a file system is, what it can do, and how full it is.

use std::io;
use std::path::Path;

use rustix::fs::XattrFlags;
use rustix::io::Errno;

/// Bytes of the file system that holds `path`: all there are, and those an ordinary user may still
/// fill.
pub fn disk_space(path: &Path) -> io::Result<(u64, u64)> {
    let stat = rustix::fs::statvfs(path)?;
    Ok((stat.f_blocks.saturating_mul(stat.f_frsize), stat.f_bavail.saturating_mul(stat.f_frsize)))
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
