//! `openat2` where there is one, and the same by hand where there is none.
//!
//! Old container runtimes answer it with `EPERM`, others and tools such as valgrind with `ENOSYS`. Whether it
//! works is found out once per process. Nothing in here allocates, locks or unwinds, so that a child may use it
//! before it executes a program.
//!
//! By hand, the kernel never sees more than one name and never follows a link. What it checks besides does not
//! apply: `protected_symlinks` and mounts with `nosymfollow`.

use std::ffi::{CStr, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, StatxFlags};
use rustix::io::Errno;

/// Longest path, with the NUL byte at its end (limits.h).
const PATH_MAX: usize = 4096;
/// The kernel's limit for one path (path_resolution(7)).
const MOST_LINKS: u32 = 40;
/// The file system type of /proc (linux/magic.h).
const PROC_MAGIC: i64 = 0x9fa0;

/// Whether this process's `openat2` was refused.
static REFUSED: AtomicBool = AtomicBool::new(false);

/// Opens a path relative to `dir` as `openat2` does, with the flags for resolving it that rbuild uses: `BENEATH`,
/// `IN_ROOT`, `NO_SYMLINKS`, `NO_MAGICLINKS` and `NO_XDEV`. Links of `/proc` that lead to something else than
/// their text are never followed. The descriptor is closed by `exec`. `mode` is for `CREATE`.
///
/// # Errors
/// Those of `openat2`: `EXDEV` for a path that leads out, `ELOOP` for a link that may not be followed.
pub fn open_resolved(
    dir: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
    mode: Mode,
    resolve: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::CLOEXEC;
    let by_kernel = || rustix::fs::openat2(dir, OsStr::from_bytes(path), flags, mode, resolve);
    open_either_way(dir, by_kernel, || open_by_hand(dir, path, flags, mode, resolve))
}

/// The same without allocating for any path.
pub fn open_resolved_c(
    dir: BorrowedFd<'_>,
    path: &CStr,
    flags: OFlags,
    mode: Mode,
    resolve: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::CLOEXEC;
    let by_kernel = || rustix::fs::openat2(dir, path, flags, mode, resolve);
    open_either_way(dir, by_kernel, || open_by_hand(dir, path.to_bytes(), flags, mode, resolve))
}

fn open_either_way(
    dir: BorrowedFd<'_>,
    by_kernel: impl Fn() -> Result<OwnedFd, Errno>,
    by_hand: impl Fn() -> Result<OwnedFd, Errno>,
) -> Result<OwnedFd, Errno> {
    if REFUSED.load(Ordering::Relaxed) {
        return by_hand();
    }
    loop {
        match by_kernel() {
            // A rename anywhere made the kernel unsure of a `..`; it asks to try again (openat2(2)).
            Err(Errno::AGAIN | Errno::INTR) => {}
            // EPERM is also an answer about the file.
            Err(Errno::NOSYS | Errno::PERM) if is_refused(dir) => {
                REFUSED.store(true, Ordering::Relaxed);
                return by_hand();
            }
            outcome => return outcome,
        }
    }
}

/// Whether `openat2` fails where nothing else can: a directory that is open already.
fn is_refused(dir: BorrowedFd<'_>) -> bool {
    let opened = rustix::fs::openat2(dir, c".", OFlags::PATH, Mode::empty(), ResolveFlags::empty());
    matches!(opened, Err(Errno::NOSYS | Errno::PERM))
}

/// [`open_resolved`] with `openat` alone, one name at a time.
fn open_by_hand(
    dir: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
    mode: Mode,
    resolve: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    let mut walk = Walk {
        start: dir,
        machine: None,
        here: None,
        way: Text::new(),
        rest: Text::new(),
        links: 0,
        device: if resolve.contains(ResolveFlags::NO_XDEV) { Some(mount_of(dir)?) } else { None },
        resolve,
    };
    if path.is_empty() {
        return Err(Errno::NOENT);
    }
    walk.rest.push(path)?;
    walk.begin_if_absolute()?;
    loop {
        let mut name = Text::new();
        let is_last = walk.next_name(&mut name)?;
        match (name.bytes(), is_last) {
            (b"" | b".", false) => drop(walk.enter(c".")?),
            (b"" | b".", true) => return walk.finish_in_directory(flags, mode),
            (b"..", _) => {
                walk.go_up()?;
                if is_last {
                    return walk.finish_in_directory(flags, mode);
                }
            }
            (_, false) => walk.go_down(&name)?,
            (_, true) => {
                if let Some(opened) = walk.finish(&name, flags, mode)? {
                    return Ok(opened);
                }
            }
        }
    }
}

/// A path on its way to a descriptor.
struct Walk<'a> {
    /// Where the path begins, and the root for `BENEATH` and `IN_ROOT`.
    start: BorrowedFd<'a>,
    /// The thread's root directory, once a path without one of these flags began there.
    machine: Option<OwnedFd>,
    /// The directory reached; `None` for where it began.
    here: Option<OwnedFd>,
    /// The names that lead from there to `here`, none of them a link. For `BENEATH` and `IN_ROOT`.
    way: Text,
    /// What remains of the path.
    rest: Text,
    links: u32,
    /// The only mount that the path may lead through.
    device: Option<u64>,
    resolve: ResolveFlags,
}

impl Walk<'_> {
    fn top(&self) -> BorrowedFd<'_> {
        self.machine.as_ref().map_or(self.start, |fd| fd.as_fd())
    }

    fn here(&self) -> BorrowedFd<'_> {
        self.here.as_ref().map_or(self.top(), |fd| fd.as_fd())
    }

    fn is_confined(&self) -> bool {
        self.resolve.intersects(ResolveFlags::BENEATH | ResolveFlags::IN_ROOT)
    }

    fn begin_if_absolute(&mut self) -> Result<(), Errno> {
        if self.rest.bytes().first() != Some(&b'/') {
            return Ok(());
        }
        if self.resolve.contains(ResolveFlags::BENEATH) {
            return Err(Errno::XDEV);
        }
        if !self.is_confined() {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let root = rustix::fs::openat(CWD, c"/", flags, Mode::empty())?;
            self.check_mount(root.as_fd())?;
            self.machine = Some(root);
        }
        self.here = None;
        self.way.clear();
        self.rest.skip_slashes();
        Ok(())
    }

    /// Takes the first name off the rest, with the slashes behind it unless they are the end: these ask for a
    /// directory. Gives whether it is the last name.
    fn next_name(&mut self, name: &mut Text) -> Result<bool, Errno> {
        let rest = self.rest.bytes();
        let length = rest.iter().position(|c| *c == b'/').unwrap_or(rest.len());
        name.push(rest.get(..length).unwrap_or_default())?;
        let is_last = rest.iter().skip(length).all(|c| *c == b'/');
        self.rest.skip(length);
        if !is_last {
            self.rest.skip_slashes();
        }
        Ok(is_last)
    }

    /// A directory below the present one.
    fn enter(&self, name: &CStr) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(self.here(), name, flags, Mode::empty())?;
        self.check_mount(dir.as_fd())?;
        Ok(dir)
    }

    fn go_down(&mut self, name: &Text) -> Result<(), Errno> {
        match self.enter(name.c_str()?) {
            Ok(dir) => {
                self.here = Some(dir);
                self.note(name)
            }
            // Not a directory: a link, perhaps.
            Err(Errno::NOTDIR | Errno::LOOP) => match self.link(name)? {
                Some(target) => self.follow(&target),
                None => Err(Errno::NOTDIR),
            },
            Err(errno) => Err(errno),
        }
    }

    fn note(&mut self, name: &Text) -> Result<(), Errno> {
        if !self.is_confined() {
            return Ok(());
        }
        self.way.push(b"/")?;
        self.way.push(name.bytes())
    }

    /// To the directory above. In confinement not by `..`, which leads elsewhere once a directory was moved, but
    /// from the top by the names that lead here.
    fn go_up(&mut self) -> Result<(), Errno> {
        if !self.is_confined() {
            self.here = Some(self.enter(c"..")?);
            return Ok(());
        }
        let Some(length) = self.way.bytes().iter().rposition(|c| *c == b'/') else {
            return if self.resolve.contains(ResolveFlags::BENEATH) { Err(Errno::XDEV) } else { Ok(()) };
        };
        // `..` is a name that is looked up, too.
        drop(self.enter(c".")?);
        self.way.truncate(length);
        self.here = None;
        let mut at = 1;
        while at < length {
            let mut name = Text::new();
            let names = self.way.bytes().get(at..).unwrap_or_default();
            let end = names.iter().position(|c| *c == b'/').unwrap_or(names.len());
            name.push(names.get(..end).unwrap_or_default())?;
            at += end + 1;
            self.here = Some(self.enter(name.c_str()?)?);
        }
        Ok(())
    }

    /// The text of a link; `None` where there is something else.
    fn link(&self, name: &Text) -> Result<Option<Text>, Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = rustix::fs::openat(self.here(), name.c_str()?, flags, Mode::empty())?;
        if FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode) != FileType::Symlink {
            return Ok(None);
        }
        let mut target = Text::new();
        target.read_link(found.as_fd())?;
        let text = target.bytes();
        // Those that lead by something else than their text have a path there, or `KIND:[NUMBER]`.
        let is_magic = rustix::fs::fstatfs(&found)?.f_type == PROC_MAGIC
            && (text.first() == Some(&b'/') || text.contains(&b':'));
        if is_magic || self.resolve.contains(ResolveFlags::NO_SYMLINKS) {
            return Err(Errno::LOOP);
        }
        Ok(Some(target))
    }

    fn follow(&mut self, target: &Text) -> Result<(), Errno> {
        if self.links >= MOST_LINKS {
            return Err(Errno::LOOP);
        }
        self.links += 1;
        let mut rest = Text::new();
        rest.push(target.bytes())?;
        if !self.rest.bytes().is_empty() {
            rest.push(b"/")?;
            rest.push(self.rest.bytes())?;
        }
        self.rest = rest;
        self.begin_if_absolute()
    }

    /// Opens the directory reached.
    fn finish_in_directory(&self, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        if flags.contains(OFlags::CREATE) {
            return Err(if flags.contains(OFlags::EXCL) { Errno::EXIST } else { Errno::ISDIR });
        }
        rustix::fs::openat(self.here(), c".", flags, mode)
    }

    /// Opens the last name of the path; `None` if it was a link that gave the path a new rest.
    fn finish(&mut self, name: &Text, flags: OFlags, mode: Mode) -> Result<Option<OwnedFd>, Errno> {
        let wants_dir = !self.rest.bytes().is_empty();
        if wants_dir && flags.contains(OFlags::CREATE) {
            return Err(Errno::ISDIR);
        }
        let keeps_link = flags.contains(OFlags::NOFOLLOW) && !wants_dir;
        let makes_new = flags.contains(OFlags::CREATE | OFlags::EXCL);
        if !keeps_link && !makes_new {
            match self.link(name) {
                Ok(Some(target)) => return self.follow(&target).map(|()| None),
                Ok(None) => {}
                Err(Errno::NOENT) if flags.contains(OFlags::CREATE) => {}
                Err(errno) => return Err(errno),
            }
        }
        let flags = if wants_dir { flags | OFlags::DIRECTORY } else { flags };
        if self.device.is_some() && !makes_new {
            // Before it is opened for good, which may do something.
            let path = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let found = rustix::fs::openat(self.here(), name.c_str()?, path, Mode::empty())?;
            self.check_mount(found.as_fd())?;
        }
        let opened = rustix::fs::openat(self.here(), name.c_str()?, flags | OFlags::NOFOLLOW, mode)?;
        self.check_mount(opened.as_fd())?;
        Ok(Some(opened))
    }

    fn check_mount(&self, file: BorrowedFd<'_>) -> Result<(), Errno> {
        match self.device {
            Some(mount) if mount != mount_of(file)? => Err(Errno::XDEV),
            _ => Ok(()),
        }
    }
}

/// The number of the mount that a file is in.
fn mount_of(file: BorrowedFd<'_>) -> Result<u64, Errno> {
    let stat = rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?;
    // Before Linux 5.8 there is none.
    if stat.stx_mask & StatxFlags::MNT_ID.bits() == 0 { Err(Errno::NOSYS) } else { Ok(stat.stx_mnt_id) }
}

/// A path of at most [`PATH_MAX`] bytes, with a NUL byte behind it.
struct Text {
    bytes: [u8; PATH_MAX],
    start: usize,
    end: usize,
}

impl Text {
    fn new() -> Self {
        Text { bytes: [0; PATH_MAX], start: 0, end: 0 }
    }

    fn bytes(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or_default()
    }

    fn c_str(&self) -> Result<&CStr, Errno> {
        let with_nul = self.bytes.get(self.start..=self.end).unwrap_or_default();
        CStr::from_bytes_with_nul(with_nul).map_err(|_| Errno::INVAL)
    }

    fn push(&mut self, more: &[u8]) -> Result<(), Errno> {
        let end = self.end + more.len();
        if end >= PATH_MAX {
            return Err(Errno::NAMETOOLONG);
        }
        self.bytes.get_mut(self.end..end).ok_or(Errno::NAMETOOLONG)?.copy_from_slice(more);
        self.end = end;
        Ok(())
    }

    fn read_link(&mut self, link: BorrowedFd<'_>) -> Result<(), Errno> {
        let length = rustix::fs::readlinkat_raw(link, c"", &mut self.bytes[..])?;
        if length >= PATH_MAX {
            return Err(Errno::NAMETOOLONG);
        }
        self.end = length;
        Ok(())
    }

    fn skip(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
    }

    fn skip_slashes(&mut self) {
        self.skip(self.bytes().iter().take_while(|c| **c == b'/').count());
    }

    fn truncate(&mut self, length: usize) {
        self.end = self.end.min(self.start + length);
        if let Some(behind) = self.bytes.get_mut(self.end) {
            *behind = 0;
        }
    }

    fn clear(&mut self) {
        *self = Text::new();
    }
}

#[cfg(test)]
#[path = "resolve_tests.rs"]
mod tests;
