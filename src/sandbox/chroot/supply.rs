//! What other sandboxes mount, put in its place in a root file system made of files, and taken away again.
//!
//! Everything is made in the scratch directory, where no process of the step can be, and moved to its place by a
//! rename. What was there before is moved aside first. Directories are held open meanwhile: what was put into one
//! is taken from that one, wherever the step moved it and whatever it put in its place.

use std::ffi::CString;
use std::fs::{self, File, Permissions};
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps};
use rustix::io::Errno;

use crate::fs::{Root, copy_layer, open_resolved, record_nodes, remove_in, remove_tree};

use super::super::prepare::Plan;
use super::super::spec::{Mount, MountKind, ProcessSpec, SandboxError, SourceRights};
use super::child::MOST_SECRETS;
use super::kernel_files;
use super::place::{Spot, find};

/// Everything that was put into a root file system for one process. Must be taken away before anybody else looks at
/// it.
#[derive(Debug)]
pub(super) struct Supply {
    root: OwnedFd,
    scratch: PathBuf,
    items: Vec<Item>,
    secrets: Vec<(File, String)>,
}

#[derive(Debug)]
struct Item {
    spot: Spot,
    after: After,
    /// What was at its place: a name in the scratch directory.
    aside: Option<PathBuf>,
}

/// What becomes of what was put.
#[derive(Debug)]
enum After {
    /// A directory above something else: it stays if the step put anything into it.
    RemoveIfEmpty,
    Remove,
    /// It goes back.
    Return(PathBuf),
    /// It was copied, and what the step made of it replaces it.
    CopyBack(PathBuf),
}

impl Supply {
    /// Puts the kernel's directories, the files of `/etc` and all mounts in their places.
    pub(super) fn put(root: &Path, spec: &ProcessSpec, plan: &Plan) -> Result<Self, SandboxError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(CWD, root, flags, Mode::empty())
            .map_err(|errno| SandboxError::setup("open the root file system", errno))?;
        let scratch = spec.scratch.join("supply");
        fs::create_dir(&scratch).map_err(|error| SandboxError::setup("make a directory", error))?;
        let mut supply = Supply { root: opened, scratch, items: Vec::new(), secrets: Vec::new() };
        let put = supply.put_all(spec, plan);
        match put {
            Ok(()) => Ok(supply),
            Err(error) => {
                // The first error is the one that matters.
                let _ = supply.take_away(&|_| ());
                Err(error)
            }
        }
    }

    /// Copies of the descriptors of all secrets.
    pub(super) fn secrets(&self) -> Result<Vec<OwnedFd>, SandboxError> {
        let copies = self.secrets.iter().map(|(file, _)| file.try_clone().map(OwnedFd::from));
        copies.collect::<io::Result<_>>().map_err(|error| SandboxError::setup("copy a descriptor", error))
    }

    fn put_all(&mut self, spec: &ProcessSpec, plan: &Plan) -> Result<(), SandboxError> {
        let failed = |error| SandboxError::setup("make /dev, /proc and /sys", error);
        let made = kernel_files::make(&self.scratch, &spec.hostname, spec.shm_size > 0).map_err(failed)?;
        for (target, source) in made {
            self.place(target.as_bytes(), &source, After::Remove).map_err(failed)?;
        }
        for (source, target) in &plan.etc {
            let failed = |error| SandboxError::setup("supply /etc/hosts and the like", error);
            let source = Path::new(std::ffi::OsStr::from_bytes(source.to_bytes()));
            match self.place(target.to_bytes(), source, After::Remove) {
                // An image may have a link that leads nowhere, or to itself, in place of /etc/resolv.conf.
                Err(error) if is_nowhere(&error) => {}
                other => other.map_err(failed)?,
            }
        }
        let mut mounts: Vec<&Mount> = spec.mounts.iter().collect();
        let is_secret = |mount: &&&Mount| matches!(mount.kind, MountKind::Secret { .. });
        if mounts.iter().filter(is_secret).count() > MOST_SECRETS {
            return Err(SandboxError::Invalid(format!(
                "RUN by chroot can have {MOST_SECRETS} files of secrets at most"
            )));
        }
        // Parents before children, whatever the order of writing.
        mounts.sort_by(|a, b| a.target.cmp(&b.target));
        for (number, mount) in mounts.into_iter().enumerate() {
            self.mount(number, mount).map_err(|error| {
                let target = String::from_utf8_lossy(&mount.target).into_owned();
                SandboxError::setup(format!("supply what RUN --mount asks for at {target}"), error)
            })?;
        }
        Ok(())
    }

    fn mount(&mut self, number: usize, mount: &Mount) -> io::Result<()> {
        let path = self.scratch.join(format!("mount{number}"));
        match &mount.kind {
            MountKind::Bind { source, inside, .. } => {
                return self.bind(&mount.target, source, inside, mount.rights, &path);
            }
            MountKind::Tmpfs { mode, .. } => {
                fs::create_dir(&path)?;
                fs::set_permissions(&path, Permissions::from_mode(*mode))?;
            }
            MountKind::Secret { content, mode, uid, gid } => {
                let file = write(&path, content, (*mode, *uid, *gid))?;
                self.secrets.push((file, String::from_utf8_lossy(&mount.target).into_owned()));
            }
            MountKind::File { content, mode, uid, gid } => {
                write(&path, content, (*mode, *uid, *gid))?;
            }
            MountKind::Device { source } => {
                let facts = fs::metadata(source)?;
                let kind = FileType::from_raw_mode(facts.mode());
                rustix::fs::mknodat(CWD, &path, kind, Mode::from_raw_mode(0o600), facts.rdev())?;
                fs::set_permissions(&path, Permissions::from_mode(facts.mode() & 0o7777))?;
                chown(&path, Some(facts.uid()), Some(facts.gid()))?;
            }
            MountKind::Overlay { .. } => {
                return Err(io::Error::other("overlayfs cannot be mounted"));
            }
        }
        self.place(&mount.target, &path, After::Remove)
    }

    fn bind(
        &mut self,
        target: &[u8],
        source: &Path,
        inside: &[u8],
        rights: SourceRights,
        path: &Path,
    ) -> io::Result<()> {
        match rights {
            SourceRights::Give if inside.is_empty() => {
                close_devices(source)?;
                return self.place(target, source, After::Remove);
            }
            SourceRights::Lend => {
                match self.place(target, source, After::Return(source.to_owned())) {
                    Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {}
                    done => return done,
                }
                copy_tree(&open(source, b"")?, path)?;
                return self.place(target, path, After::CopyBack(source.to_owned()));
            }
            _ => {}
        }
        let kind = fs::symlink_metadata(source)?.file_type();
        if kind.is_dir() {
            copy_tree(&open(source, inside)?, path)?;
            close_devices(path)?;
        } else if kind.is_socket() {
            // Another name of a socket leads to whoever listens.
            fs::hard_link(source, path)?;
        } else {
            let facts = fs::metadata(source)?;
            fs::copy(source, path)?;
            chown(path, Some(facts.uid()), Some(facts.gid()))?;
            fs::set_permissions(path, facts.permissions())?;
        }
        self.place(target, path, After::Remove)
    }

    /// Moves something to where a path leads.
    fn place(&mut self, target: &[u8], source: &Path, after: After) -> io::Result<()> {
        let found = find(&self.root, target)?;
        for spot in found.made {
            self.items.push(Item { spot, after: After::RemoveIfEmpty, aside: None });
        }
        let spot = found.spot;
        let before = mtime(&spot.parent)?;
        let aside = match found.kind {
            None => None,
            Some(_) => {
                let aside = self.scratch.join(format!("aside{}", self.items.len()));
                rustix::fs::renameat(&spot.parent, &spot.name, CWD, &aside)?;
                Some(aside)
            }
        };
        let moved = rustix::fs::renameat(CWD, source, &spot.parent, &spot.name);
        if let (Err(_), Some(aside)) = (moved, &aside) {
            rustix::fs::renameat(CWD, aside, &spot.parent, &spot.name)?;
        }
        set_mtime(&spot.parent, before)?;
        moved?;
        self.items.push(Item { spot, after, aside });
        Ok(())
    }

    /// Takes everything away, the last first. No process of the step may be left. `warn` gets what the user should
    /// know.
    pub(super) fn take_away(self, warn: &dyn Fn(String)) -> Result<(), SandboxError> {
        let failed = |error| SandboxError::setup("take what was supplied out of the root file system", error);
        let mut result = Ok(());
        for (file, target) in &self.secrets {
            // Also under another name that the step gave it.
            let names = file.metadata().map_or(0, |facts| facts.nlink());
            let emptied = file.set_len(0).map_err(failed);
            result = result.and(emptied);
            if names > 1 {
                warn(format!(
                    "the secret {target} was linked to another name, which leads to an empty file now"
                ));
            }
        }
        for (number, item) in self.items.into_iter().enumerate().rev() {
            let taken = take_one(&self.scratch.join(format!("taken{number}")), item);
            result = result.and(taken.map_err(failed));
        }
        result
    }
}

fn take_one(taken: &Path, item: Item) -> io::Result<()> {
    let Item { spot: Spot { parent, name }, after, aside } = item;
    let before = mtime(&parent)?;
    let there = || rustix::fs::renameat(&parent, &name, CWD, taken);
    match after {
        After::RemoveIfEmpty => {
            // Fails where something lies in it, which is then the step's.
            let _ = rustix::fs::unlinkat(&parent, &name, AtFlags::REMOVEDIR);
        }
        After::Remove => remove_in(parent.as_fd(), &name)?,
        After::Return(source) => match there() {
            Ok(()) if taken.is_dir() && !taken.is_symlink() => fs::rename(taken, source)?,
            // The step removed or moved it.
            Ok(()) | Err(Errno::NOENT | Errno::NOTDIR) => fs::create_dir(source)?,
            Err(errno) => return Err(errno.into()),
        },
        After::CopyBack(source) => {
            if there().is_ok() && taken.is_dir() && !taken.is_symlink() {
                let fresh = source.with_extension("new");
                remove_tree(&fresh)?;
                copy_tree(&open(taken, b"")?, &fresh)?;
                remove_tree(&source)?;
                fs::rename(fresh, source)?;
            }
        }
    }
    if let Some(aside) = aside {
        match rustix::fs::renameat(CWD, &aside, &parent, &name) {
            // The step removed the directory around it.
            Err(Errno::NOENT) => {}
            other => other?,
        }
    }
    set_mtime(&parent, before)
}

/// Another file system than this may be mounted on a directory of the root: nothing can be, so what is there is what
/// the step made.
fn is_nowhere(error: &io::Error) -> bool {
    let nowhere = [Errno::NOENT, Errno::NOTDIR, Errno::LOOP, Errno::INVAL];
    Errno::from_io_error(error).is_some_and(|errno| nowhere.contains(&errno))
}

fn mtime(dir: &OwnedFd) -> io::Result<Timespec> {
    let stat = rustix::fs::fstat(dir)?;
    Ok(Timespec { tv_sec: stat.st_mtime as _, tv_nsec: stat.st_mtime_nsec as _ })
}

/// What comes and goes changes the time of the directory above, which is the step's to see and to set.
fn set_mtime(dir: &OwnedFd, time: Timespec) -> io::Result<()> {
    let omit = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT };
    Ok(rustix::fs::futimens(dir, &Timestamps { last_access: omit, last_modification: time })?)
}

/// A directory, or one inside it, to which links cannot lead from outside.
fn open(source: &Path, inside: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let top = rustix::fs::openat(CWD, source, flags, Mode::empty())?;
    if inside.is_empty() {
        return Ok(top);
    }
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    Ok(open_resolved(top.as_fd(), inside, flags, Mode::empty(), resolve)?)
}

/// Devices of an image cannot be opened.
fn close_devices(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        let root = Root::open(dir)?;
        record_nodes(&root, &root.walk()?)?;
    }
    Ok(())
}

/// Copies a directory, its own owner and mode included.
fn copy_tree(source: &OwnedFd, dest: &Path) -> io::Result<()> {
    fs::create_dir(dest)?;
    let from = Root::open(Path::new(&format!("/proc/self/fd/{}", source.as_raw_fd())))?;
    copy_layer(&from, &Root::open(dest)?, true)?;
    let stat = rustix::fs::fstat(source)?;
    chown(dest, Some(stat.st_uid), Some(stat.st_gid))?;
    fs::set_permissions(dest, Permissions::from_mode(stat.st_mode & 0o7777))?;
    let time = Timespec { tv_sec: stat.st_mtime as _, tv_nsec: stat.st_mtime_nsec as _ };
    set_mtime(&File::open(dest)?.into(), time)
}

/// Gives the open file.
fn write(path: &Path, content: &[u8], (mode, uid, gid): (u32, u32, u32)) -> io::Result<File> {
    let name = CString::new(path.as_os_str().as_bytes())?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::openat(CWD, &name, flags, Mode::from_raw_mode(0o600))?);
    file.write_all(content)?;
    chown(path, Some(uid), Some(gid))?;
    file.set_permissions(Permissions::from_mode(mode))?;
    Ok(file)
}
