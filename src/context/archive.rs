//! Unpacks a context that comes as a tar archive.
//!
//! The archive is hostile until proven otherwise: names are refused when absolute or with `..`, no
//! entry is written through a symlink, nothing existing is opened for writing, and devices are
//! refused. Modes and modification times are kept. Owners and extended attributes are not: COPY
//! gives context files to 0:0 anyway.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;
use tar::EntryType;

use crate::sandbox::Confinement;

use super::error::ContextError;
use super::paths;
use super::sparse::{SparseMap, SparseRecords, Stretch};
use super::tree::open_beneath;
use crate::compress::decompress;

/// The size of a tar header.
pub const TAR_BLOCK: usize = 512;

/// Whether `head`, the first [`TAR_BLOCK`] bytes of an uncompressed stream, begins a tar archive: a
/// header whose checksum holds, or the zeros that end an empty archive.
pub fn is_tar(head: &[u8]) -> bool {
    let Some(block) = head.get(..TAR_BLOCK) else { return false };
    if block.iter().all(|&byte| byte == 0) {
        return true;
    }
    let mut header = tar::Header::new_old();
    header.as_mut_bytes().copy_from_slice(block);
    let stated = header.cksum();
    // The checksum is reckoned with its own eight bytes as blanks.
    let sum: u32 = block
        .iter()
        .enumerate()
        .map(|(i, &b)| u32::from(if (148..156).contains(&i) { b' ' } else { b }))
        .sum();
    stated.is_ok_and(|stated| stated == sum)
}

/// Unpacks the uncompressed archive `stream` into the existing, empty directory `into`. Where the kernel has
/// Landlock, the thread that does it can open nothing but what lies there. Gives the time of the newest file.
pub(super) fn unpack(stream: impl Read + Send, into: &Path) -> Result<Option<i64>, ContextError> {
    let limits = Confinement::default().writing([into]);
    limits
        .run(|| fill(stream, into), || ())
        .map_err(|source| ContextError::Read { path: into.to_owned(), source })?
}

/// The time of the newest file of a tar, compressed or not; `None` where there is no file, or no tar.
pub fn newest_file(stream: impl Read + Send) -> Option<i64> {
    let (_, content) = decompress(stream).ok()?;
    let mut newest = None;
    for entry in tar::Archive::new(content).entries().ok()? {
        let mut entry = entry.ok()?;
        if is_file(entry.header().entry_type()) {
            newest = newest.max(Some(modification_time(&mut entry).ok()?.tv_sec));
        }
    }
    newest
}

fn is_file(kind: EntryType) -> bool {
    matches!(kind, EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse)
}

fn fill(stream: impl Read, into: &Path) -> Result<Option<i64>, ContextError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(into, flags, Mode::empty())
        .map_err(|errno| ContextError::Read { path: into.to_owned(), source: errno.into() })?;
    let mut unpacker = Unpacker { root, directories: BTreeMap::new(), newest: None };
    let mut archive = tar::Archive::new(stream);
    let damaged = |error: io::Error| refuse(b"(archive)", error.to_string());
    for entry in archive.entries().map_err(damaged)? {
        let mut entry = entry.map_err(damaged)?;
        unpacker.entry(&mut entry)?;
    }
    unpacker.finish()?;
    Ok(unpacker.newest)
}

fn refuse(name: &[u8], reason: impl Into<String>) -> ContextError {
    ContextError::Archive { entry: paths::show(name), reason: reason.into() }
}

struct Unpacker {
    root: OwnedFd,
    /// Modes and times of directories, set last: writing into a directory moves its time, and its
    /// mode may forbid writing.
    directories: BTreeMap<Vec<u8>, (Mode, Timespec)>,
    /// The latest time of a file, whether or not a later entry replaced it.
    newest: Option<i64>,
}

impl Unpacker {
    fn entry(&mut self, entry: &mut tar::Entry<'_, impl Read>) -> Result<(), ContextError> {
        let kind = entry.header().entry_type();
        let sparse = sparse_records(entry)?;
        let name = match sparse.as_ref().and_then(SparseRecords::name) {
            Some(name) => name.to_vec(),
            None => entry.path_bytes().into_owned(),
        };
        if kind == EntryType::XGlobalHeader {
            return Ok(());
        }
        let path = safe_path(&name, &name)?;
        let damaged = |error: io::Error| refuse(&name, error.to_string());
        let mode = Mode::from_raw_mode(entry.header().mode().map_err(damaged)? & 0o7777);
        let time = modification_time(entry).map_err(damaged)?;
        // Before POSIX, a slash at the end was all that told a directory.
        let is_directory = kind.is_dir() || (kind.is_file() && name.ends_with(b"/"));
        if path.is_empty() {
            return if is_directory { Ok(()) } else { Err(refuse(&name, "it has no name")) };
        }
        let parent = self.make_directories(paths::split(&path).0, &name)?;
        let place = Place { parent, path, name };
        if is_directory {
            place.make_directory()?;
            self.directories.insert(place.path, (mode, time));
            return Ok(());
        }
        match kind {
            kind if is_file(kind) => {
                self.newest = self.newest.max(Some(time.tv_sec));
                self.make_room(&place)?;
                place.write_file(entry, sparse.as_ref(), mode)?;
            }
            EntryType::Symlink => {
                let target = link_target(entry, &place.name)?;
                self.make_room(&place)?;
                rustix::fs::symlinkat(paths::for_system(&target), &place.parent, place.base())
                    .map_err(|errno| place.failed("create the link", errno))?;
            }
            EntryType::Link => return self.link(&place, &link_target(entry, &place.name)?),
            EntryType::Fifo => {
                self.make_room(&place)?;
                let (parent, base) = (&place.parent, place.base());
                rustix::fs::mknodat(parent, base, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
                    .and_then(|()| rustix::fs::chmodat(parent, base, mode, AtFlags::empty()))
                    .map_err(|errno| place.failed("create the fifo", errno))?;
            }
            EntryType::Char | EntryType::Block => {
                return Err(refuse(&place.name, "device nodes are not allowed in a context"));
            }
            other => {
                let code = char::from(other.as_byte());
                return Err(refuse(&place.name, format!("unknown entry type {code:?}")));
            }
        }
        rustix::fs::utimensat(&place.parent, place.base(), &times(time), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| place.failed("set the modification time", errno))
    }

    /// Makes a hard link to an earlier entry.
    fn link(&mut self, place: &Place, target: &[u8]) -> Result<(), ContextError> {
        let source = safe_path(target, &place.name)?;
        if source == place.path {
            return Ok(());
        }
        self.make_room(place)?;
        let (source_parent, source_base) = paths::split(&source);
        open_beneath(self.root.as_fd(), source_parent, OFlags::PATH | OFlags::DIRECTORY)
            .and_then(|dir| {
                let source_base = paths::for_system(source_base);
                rustix::fs::linkat(dir, source_base, &place.parent, place.base(), AtFlags::empty())
            })
            .map_err(|errno| place.failed(&format!("link it to {}", paths::show(&source)), errno))
    }

    /// Opens the directory `path`, making what is missing of it. A symlink on the way is refused.
    fn make_directories(&self, path: &[u8], entry: &[u8]) -> Result<OwnedFd, ContextError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        match open_beneath(self.root.as_fd(), path, flags) {
            Ok(dir) => return Ok(dir),
            Err(Errno::NOENT) if !path.is_empty() => {}
            Err(Errno::LOOP | Errno::NOTDIR) => {
                let reason = format!("{} is not a directory but a link or file", paths::show(path));
                return Err(refuse(entry, reason));
            }
            Err(errno) => return Err(refuse(entry, io::Error::from(errno).to_string())),
        }
        // Deep names are made level by level, without recursion.
        let mut made = Vec::new();
        for name in paths::components(path) {
            let parent = open_beneath(self.root.as_fd(), &made, flags);
            let outcome = parent.and_then(|parent| {
                rustix::fs::mkdirat(parent, paths::for_system(name), Mode::from_raw_mode(0o755))
            });
            match outcome {
                Ok(()) | Err(Errno::EXIST) => made = paths::join(&made, name),
                Err(errno) => return Err(refuse(entry, io::Error::from(errno).to_string())),
            }
        }
        open_beneath(self.root.as_fd(), path, flags)
            .map_err(|errno| refuse(entry, io::Error::from(errno).to_string()))
    }

    /// Removes what an earlier entry left there; a directory only if it is empty.
    fn make_room(&mut self, place: &Place) -> Result<(), ContextError> {
        let removed = match rustix::fs::unlinkat(&place.parent, place.base(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => {
                self.directories.remove(&place.path);
                rustix::fs::unlinkat(&place.parent, place.base(), AtFlags::REMOVEDIR)
            }
            Err(errno) => Err(errno),
        };
        removed.map_err(|errno| place.failed("replace what an earlier entry made", errno))
    }

    fn finish(&self) -> Result<(), ContextError> {
        // Children come after their parents in the map, so going backwards ends with the parents.
        for (path, (mode, time)) in self.directories.iter().rev() {
            open_beneath(self.root.as_fd(), path, OFlags::RDONLY | OFlags::DIRECTORY)
                .and_then(|dir| {
                    rustix::fs::fchmod(&dir, *mode)?;
                    rustix::fs::futimens(&dir, &times(*time))
                })
                .map_err(|errno| refuse(path, format!("cannot set its mode: {}", io::Error::from(errno))))?;
        }
        Ok(())
    }
}

/// Where an entry goes.
struct Place {
    parent: OwnedFd,
    path: Vec<u8>,
    /// As the archive has it, for errors.
    name: Vec<u8>,
}

impl Place {
    fn base(&self) -> &Path {
        paths::for_system(paths::split(&self.path).1)
    }

    fn failed(&self, action: &str, errno: Errno) -> ContextError {
        refuse(&self.name, format!("cannot {action}: {}", io::Error::from(errno)))
    }

    fn make_directory(&self) -> Result<(), ContextError> {
        match rustix::fs::mkdirat(&self.parent, self.base(), Mode::RWXU) {
            Err(Errno::EXIST) if self.is_directory() => Ok(()),
            outcome => outcome.map_err(|errno| self.failed("create the directory", errno)),
        }
    }

    fn is_directory(&self) -> bool {
        rustix::fs::statat(&self.parent, self.base(), AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_dir())
    }

    fn write_file(
        &self,
        entry: &mut tar::Entry<'_, impl Read>,
        sparse: Option<&SparseRecords>,
        mode: Mode,
    ) -> Result<(), ContextError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let created = rustix::fs::openat(&self.parent, self.base(), flags, Mode::RUSR | Mode::WUSR)
            .map_err(|errno| self.failed("create the file", errno))?;
        let mut file = File::from(created);
        let failed = |error: io::Error| refuse(&self.name, error.to_string());
        let size = entry.size();
        let complete = match sparse {
            Some(records) => {
                let map = records.map(entry, size).map_err(failed)?;
                write_sparse(entry, &map, &mut file)
            }
            None => io::copy(entry, &mut file).map(|written| written == size),
        };
        if !complete.map_err(failed)? {
            return Err(refuse(&self.name, "the archive ends in the middle of it"));
        }
        rustix::fs::fchmod(&file, mode).map_err(|errno| self.failed("set the mode", errno))
    }
}

/// What pax records say of holes; `None` where the entry has none that the archive leaves out.
fn sparse_records(entry: &mut tar::Entry<'_, impl Read>) -> Result<Option<SparseRecords>, ContextError> {
    let name = entry.path_bytes().into_owned();
    let damaged = |error: io::Error| refuse(&name, error.to_string());
    let mut sparse = SparseRecords::default();
    for record in entry.pax_extensions().map_err(damaged)?.into_iter().flatten().flatten() {
        sparse.take(record.key_bytes(), record.value_bytes()).map_err(damaged)?;
    }
    Ok(sparse.is_sparse().map_err(damaged)?.then_some(sparse))
}

/// Writes a file with its holes; `false` where the archive ends before it does.
fn write_sparse(content: &mut impl Read, map: &SparseMap, file: &mut File) -> io::Result<bool> {
    for stretch in map.stretches() {
        match stretch {
            Stretch::Hole(length) => drop(file.seek(SeekFrom::Current(length.cast_signed()))?),
            Stretch::Stored(length) => {
                if io::copy(&mut content.by_ref().take(length), file)? != length {
                    return Ok(false);
                }
            }
        }
    }
    file.set_len(map.size()).map(|()| true)
}

fn link_target(entry: &tar::Entry<'_, impl Read>, name: &[u8]) -> Result<Vec<u8>, ContextError> {
    match entry.link_name_bytes() {
        Some(target) => Ok(target.into_owned()),
        None => Err(refuse(name, "its target is missing")),
    }
}

/// The context path of an entry's (or hard link target's) `name`; `entry` is named in errors.
fn safe_path(name: &[u8], entry: &[u8]) -> Result<Vec<u8>, ContextError> {
    if name.starts_with(b"/") {
        return Err(refuse(entry, "absolute names are not allowed in a context"));
    }
    if paths::components(name).any(|part| part == b"..") {
        return Err(refuse(entry, "names with `..` are not allowed in a context"));
    }
    Ok(paths::clean(name))
}

/// The time of the entry, from its pax record if it has one (then perhaps with a fraction).
fn modification_time(entry: &mut tar::Entry<'_, impl Read>) -> io::Result<Timespec> {
    let from_pax = match entry.pax_extensions()? {
        Some(records) => records
            .filter_map(Result::ok)
            .find(|record| record.key_bytes() == b"mtime")
            .and_then(|record| pax_time(record.value().ok()?)),
        None => None,
    };
    match from_pax {
        Some(time) => Ok(time),
        None => {
            let seconds = i64::try_from(entry.header().mtime()?).unwrap_or(i64::MAX);
            Ok(Timespec { tv_sec: seconds, tv_nsec: 0 })
        }
    }
}

/// A decimal number of seconds, perhaps with a fraction, perhaps negative.
fn pax_time(text: &str) -> Option<Timespec> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let whole: i64 = seconds.parse().ok()?;
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanoseconds: i64 = digits.parse().ok().filter(|n| *n >= 0)?;
    let (tv_sec, tv_nsec) = match (text.starts_with('-'), nanoseconds) {
        (true, 1..) => (whole.checked_sub(1)?, 1_000_000_000 - nanoseconds),
        _ => (whole, nanoseconds),
    };
    Some(Timespec { tv_sec, tv_nsec: tv_nsec as _ })
}

fn times(time: Timespec) -> Timestamps {
    Timestamps { last_access: time, last_modification: time }
}

#[cfg(test)]
#[path = "archive_tests.rs"]
mod tests;
