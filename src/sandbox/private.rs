//! Making root inside somebody else outside: a user namespace whose IDs are a range of this machine
//! that nobody has, and mounts that show files of an ID as files of the ID inside that range. On disk
//! everything keeps the owner it has in the image.
//!
//! For a caller that is root. For ordinary users [`super::userns`] does it, for the whole program.

use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::OpenTreeFlags;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{WaitId, WaitIdOptions};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use super::clone::{Cloned, clone_process};
use super::syscalls;

/// ID 0 inside; the upper half of all IDs is free on every sane machine.
pub(super) const FIRST: u32 = 1 << 31;
/// How many; the very last one is not an ID.
pub(super) const COUNT: u32 = (1 << 31) - 1;

/// The IDs of processes that must not be root on this machine.
///
/// The namespace is made when the first process needs it. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct PrivateIds {
    namespace: Arc<OnceLock<Result<Arc<OwnedFd>, Refused>>>,
}

/// Why there is no namespace. An [`io::Error`] cannot be kept and handed out again.
#[derive(Clone, Debug)]
enum Refused {
    System(i32),
    Other(String),
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        error.raw_os_error().map_or_else(|| Refused::Other(error.to_string()), Refused::System)
    }
}

impl From<Refused> for io::Error {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::System(number) => io::Error::from_raw_os_error(number),
            Refused::Other(text) => io::Error::other(text),
        }
    }
}

impl PrivateIds {
    /// The user namespace. Making it needs root.
    pub(super) fn namespace(&self) -> io::Result<Arc<OwnedFd>> {
        Ok(self.namespace.get_or_init(|| Self::make().map_err(Refused::from)).clone()?)
    }

    /// Whether mounts of a directory, with all that is mounted below it, can show its owners inside the
    /// namespace. That depends on the file systems.
    pub(super) fn can_map(&self, path: &Path) -> bool {
        let (Ok(namespace), Ok(path)) = (self.namespace(), CString::new(path.as_os_str().as_bytes())) else {
            return false;
        };
        mapped_tree(&path, namespace.as_fd(), true).is_ok()
    }

    /// Whether this machine makes such namespaces.
    pub fn is_possible(&self) -> bool {
        self.namespace().is_ok()
    }

    fn make() -> io::Result<Arc<OwnedFd>> {
        let helper = Helper::start(libc::CLONE_NEWUSER, || Ok(()))?;
        let map = format!("0 {FIRST} {COUNT}");
        for file in ["uid_map", "gid_map"] {
            fs::write(format!("/proc/{}/{file}", helper.pid), &map)?;
        }
        Ok(Arc::new(OwnedFd::from(File::open(format!("/proc/{}/ns/user", helper.pid))?)))
    }

    /// A new network namespace in which processes with these IDs may do what root may: bind low ports,
    /// open raw sockets.
    pub(super) fn network(&self) -> io::Result<OwnedFd> {
        let namespace = self.namespace()?;
        let helper = Helper::start(0, || {
            become_root_of(namespace.as_fd())?;
            new_network()
        })?;
        Ok(File::open(format!("/proc/{}/ns/net", helper.pid))?.into())
    }
}

/// Enters a user namespace as its root, with all capabilities in it and none outside.
pub(super) fn become_root_of(namespace: BorrowedFd<'_>) -> Result<(), Errno> {
    move_into_link_name_space(namespace, Some(LinkNameSpaceType::User))?;
    syscalls::set_identity(0, 0, &[], true)
}

/// Enters a user namespace in which this process's only IDs have other numbers.
pub(super) fn rename_only_id(user_map: &CStr, group_map: &CStr) -> Result<(), Errno> {
    // SAFETY: a user namespace says nothing about memory or descriptors.
    unsafe { unshare_unsafe(UnshareFlags::NEWUSER) }?;
    for (file, text) in [
        (c"/proc/self/setgroups", c"deny"),
        (c"/proc/self/uid_map", user_map),
        (c"/proc/self/gid_map", group_map),
    ] {
        let file = rustix::fs::openat(CWD, file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        rustix::io::write(&file, text.to_bytes())?;
    }
    Ok(())
}

/// Changes to a new network namespace with a working loopback device.
pub(super) fn new_network() -> Result<(), Errno> {
    // SAFETY: a network namespace says nothing about memory or descriptors.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
    syscalls::loopback_up()
}

/// A process that only exists to have namespaces; it ends when this is dropped.
struct Helper {
    pid: u32,
    pidfd: OwnedFd,
    life: Option<OwnedFd>,
}

impl Helper {
    /// `set_up` runs in the new process and must neither allocate, lock nor unwind.
    fn start(namespaces: i32, set_up: impl Fn() -> Result<(), Errno>) -> io::Result<Self> {
        let (life_read, life) = pipe_with(PipeFlags::CLOEXEC)?;
        let (ready, ready_write) = pipe_with(PipeFlags::CLOEXEC)?;
        let (life_fd, ready_fd) = (life_read.as_raw_fd(), ready_write.as_raw_fd());
        // SAFETY: the child makes plain system calls only and never returns.
        let cloned = unsafe {
            match clone_process(namespaces) {
                Ok(Cloned::Child) => {
                    // What is set up may need descriptors that are closed afterwards.
                    let set_up = set_up().and_then(|()| syscalls::keep_only(&[(life_fd, 3), (ready_fd, 4)]));
                    match set_up {
                        Ok(()) if syscalls::write_byte(4, 0).is_ok() => syscalls::wait_for_end(3),
                        Ok(()) => {}
                        Err(errno) => {
                            let number = u8::try_from(errno.raw_os_error()).unwrap_or(u8::MAX);
                            let _ = syscalls::write_byte(ready_fd, number);
                        }
                    }
                    syscalls::exit_now(0)
                }
                other => other,
            }
        };
        let Cloned::Parent(pidfd, pid) = cloned? else { syscalls::exit_now(1) };
        drop((life_read, ready_write));
        let helper = Helper { pid, pidfd, life: Some(life) };
        let mut number = [0u8; 1];
        match rustix::io::read(&ready, &mut number) {
            Ok(1) if number == [0] => Ok(helper),
            Ok(1) => {
                let cause = io::Error::from_raw_os_error(number[0].into());
                Err(io::Error::other(format!("a namespace could not be set up: {cause}")))
            }
            _ => Err(io::Error::other("a namespace could not be set up")),
        }
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        self.life = None;
        let _ = rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED);
    }
}

/// A copy of the mount at a path that shows its owners inside `namespace`.
pub(super) fn mapped_tree(path: &CStr, namespace: BorrowedFd<'_>, recursive: bool) -> Result<OwnedFd, Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    let tree = rustix::mount::open_tree(CWD, path, flags)?;
    syscalls::map_owners(tree.as_fd(), namespace, recursive)?;
    Ok(tree)
}

/// A path in a detached mount.
pub(super) fn inside_tree(tree: BorrowedFd<'_>, path: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(tree, path, flags, Mode::empty())
}
