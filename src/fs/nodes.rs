//! Devices where a root file system is made of files and nothing keeps its devices closed: empty files that say what
//! they should be.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::{FileType, Mode, OFlags, XattrFlags, makedev};
use rustix::io::Errno;

use super::copy::copy_metadata;
use super::root::{NODE_RECORD, Root, TreeEntry};

/// Character devices that are the same in every container: the entry of an overlay's deletion, null, zero, full, random,
/// urandom, tty and ptmx (Documentation/admin-guide/devices.txt of Linux).
pub const HARMLESS_DEVICES: [(u32, u32); 8] =
    [(0, 0), (1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2)];

/// Makes an empty file that stands for a device. `mode` has its kind, and the permissions that the file gets.
///
/// # Errors
/// Those of open(2), and `EPERM` where the file system keeps no attributes.
pub fn make_recorded_node(dir: BorrowedFd<'_>, name: &OsStr, mode: u32, device: u64) -> Result<(), Errno> {
    let letter = if mode & libc::S_IFMT == libc::S_IFBLK { 'b' } else { 'c' };
    let record = format!("{letter} {}:{}", libc::major(device), libc::minor(device));
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file: File = rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o600))?.into();
    let made = rustix::fs::fsetxattr(&file, NODE_RECORD, record.as_bytes(), XattrFlags::empty())
        .and_then(|()| rustix::fs::fchmod(&file, Mode::from_raw_mode(mode & 0o7777)));
    if made.is_err() {
        rustix::fs::unlinkat(dir, name, rustix::fs::AtFlags::empty())?;
        return Err(Errno::PERM);
    }
    Ok(())
}

/// Puts such files in place of all devices but the harmless ones, with the same owners, modes and times. Says whether
/// there were any.
pub fn record_nodes(root: &Root, entries: &[TreeEntry]) -> io::Result<bool> {
    let is_open = |entry: &&TreeEntry| {
        let numbers = (entry.stat.stx_rdev_major, entry.stat.stx_rdev_minor);
        match entry.file_type() {
            FileType::BlockDevice => true,
            FileType::CharacterDevice => !HARMLESS_DEVICES.contains(&numbers),
            _ => false,
        }
    };
    let mut any = false;
    for entry in entries.iter().filter(is_open) {
        any = true;
        let path = entry.path.as_slice();
        let above = path.iter().rposition(|c| *c == b'/').and_then(|at| path.get(..at));
        let above = above.map(|above| root.stat(above)).transpose()?.flatten();
        let device = makedev(entry.stat.stx_rdev_major, entry.stat.stx_rdev_minor);
        let letter = if entry.file_type() == FileType::BlockDevice { 'b' } else { 'c' };
        let record = format!("{letter} {}:{}", libc::major(device), libc::minor(device));
        let mut xattrs = root.xattrs(path)?;
        xattrs.push((NODE_RECORD.into(), record.into_bytes()));
        root.remove(path)?;
        drop(root.create_file(path)?);
        copy_metadata(root, entry, &xattrs, true)?;
        if let Some(above) = above {
            root.set_mtime(&above.path, above.stat.stx_mtime.tv_sec, above.stat.stx_mtime.tv_nsec)?;
        }
    }
    Ok(any)
}
