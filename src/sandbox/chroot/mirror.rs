//! Directories of `/proc` and `/sys`, for processes that list them.
//!
//! From a directory outside of its root a process would reach everything by `..`. So it gets one in its root that has
//! the same names: files in it are opened by their paths, and so again by the answering thread.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::calls;
use super::processes::{Ids, Processes};

/// More names than these are left out.
const MOST: usize = 1 << 12;
const DIRECTORY: OFlags =
    OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A name, with the text of a link.
struct Name {
    name: CString,
    kind: FileType,
    target: Option<CString>,
}

/// An open file as a process may have it: a directory that does not lie in its root becomes one that does.
pub(super) fn hand_over(
    processes: &Processes,
    file: OwnedFd,
    flags: OFlags,
    ids: Ids,
) -> Result<OwnedFd, Errno> {
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode);
    if kind != FileType::Directory {
        return Ok(file);
    }
    let place = processes.place_of(&file)?;
    if processes.inside(&place).is_some() {
        return Ok(file);
    }
    if !place.starts_with(b"/proc") && !place.starts_with(b"/sys") {
        return Err(Errno::ACCESS);
    }
    let names = calls::with_ids(ids, || list(&file))?;
    let below = place.strip_prefix(b"/").unwrap_or_default();
    let mirror = make(processes, below, &names)?;
    rustix::fs::openat(&mirror, c".", flags | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

fn list(dir: &OwnedFd) -> Result<Vec<Name>, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(dir, c".", flags, Mode::empty())?;
    let mut names = Vec::new();
    for entry in Dir::read_from(&opened)?.take(MOST) {
        let entry = entry?;
        let name = entry.file_name().to_owned();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let kind = entry.file_type();
        let is_link = kind == FileType::Symlink;
        let target = is_link.then(|| rustix::fs::readlinkat(&opened, &name, Vec::new()).ok()).flatten();
        names.push(Name { name, kind, target });
    }
    Ok(names)
}

/// Whether names come and go in it.
fn is_volatile(path: &[u8]) -> bool {
    let last = path.rsplit(|c| *c == b'/').next().unwrap_or_default();
    path == b"proc" || matches!(last, b"fd" | b"fdinfo" | b"task" | b"map_files")
}

fn make(processes: &Processes, path: &[u8], names: &[Name]) -> Result<OwnedFd, Errno> {
    let mut dir = rustix::fs::openat(&processes.root_dir, c".", DIRECTORY, Mode::empty())?;
    for part in path.split(|c| *c == b'/').filter(|part| !part.is_empty()) {
        dir = below(&dir, OsStr::from_bytes(part))?;
    }
    let is_proc = path == b"proc";
    let is_shown = |name: &CStr| {
        let number = name.to_str().ok().and_then(|text| text.parse::<u32>().ok());
        !is_proc || number.is_none_or(|pid| processes.is_of_step(pid))
    };
    let shown: Vec<&Name> = names.iter().filter(|name| is_shown(&name.name)).collect();
    if is_volatile(path) {
        forget(&dir, &shown)?;
    }
    for Name { name, kind, target } in shown {
        let made = match (kind, target) {
            (FileType::Directory, _) => rustix::fs::mkdirat(&dir, name, Mode::from_raw_mode(0o555)),
            (FileType::Symlink, Some(target)) => {
                let seen = processes.inside(target.to_bytes()).unwrap_or(target.to_bytes());
                rustix::fs::symlinkat(OsStr::from_bytes(seen), &dir, name)
            }
            _ => {
                let mode = Mode::from_raw_mode(0o444);
                rustix::fs::mknodat(&dir, name, FileType::RegularFile, mode, 0)
            }
        };
        if let Err(errno) = made
            && errno != Errno::EXIST
        {
            return Err(errno);
        }
    }
    Ok(dir)
}

fn below(dir: &OwnedFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    match rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(0o555)) {
        Ok(()) | Err(Errno::EXIST) => rustix::fs::openat(dir, name, DIRECTORY, Mode::empty()),
        Err(errno) => Err(errno),
    }
}

/// Removes numbers that are not there any more, and links, which may lead elsewhere by now.
fn forget(dir: &OwnedFd, names: &[&Name]) -> Result<(), Errno> {
    let there = list(dir)?;
    let is_number = |name: &CStr| name.to_bytes().iter().all(u8::is_ascii_digit);
    for old in there.iter().filter(|old| is_number(&old.name)) {
        let stays = names.iter().any(|name| name.name == old.name && name.kind == old.kind);
        let removed = match old.kind {
            FileType::Directory if stays => continue,
            FileType::Directory => crate::fs::remove_in(dir.as_fd(), &old.name).map_err(|_| Errno::ACCESS),
            _ => rustix::fs::unlinkat(dir, &old.name, AtFlags::empty()),
        };
        match removed {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
