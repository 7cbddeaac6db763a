//! This program's own file, out of the reach of steps. Until a step's program is executed its process is a
//! copy of this one, so `/proc/self/exe` as that program leads to the file; where root in RUN owns it, code of
//! the image could wait until nothing executes it any more, and write to it (CVE-2019-5736).

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use rustix::fs::{CWD, MemfdFlags, Mode, OFlags, SealFlags, StatVfsMountFlags};
use rustix::io::Errno;
use rustix::mount::OpenTreeFlags;

use super::syscalls::{self, MOUNT_ATTR_RDONLY};

const OWN: &str = "/proc/self/exe";

/// Whether the file as this process has it cannot be written by anybody who comes by it.
pub(super) fn is_out_of_reach() -> bool {
    let read_only = rustix::fs::statvfs(OWN).is_ok_and(|fs| fs.f_flag.contains(StatVfsMountFlags::RDONLY));
    let sealed = || rustix::fs::fcntl_get_seals(&File::open(OWN)?).map_err(io::Error::from);
    read_only || sealed().is_ok_and(|seals| seals.contains(SealFlags::WRITE))
}

/// Executes this program again, with its arguments and `set_up`, from where nobody can write it. Comes back only
/// with an error.
pub(super) fn execute_out_of_reach(set_up: impl FnOnce(&mut Command)) -> io::Error {
    let program = match read_only_mount().or_else(|_| sealed_copy()) {
        Ok(program) => program,
        Err(error) => return error,
    };
    let mut command = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()));
    let mut arguments = std::env::args_os();
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    set_up(command.args(arguments));
    command.exec()
}

/// Gives the process the name by which it was called, in place of a descriptor's number.
pub(super) fn restore_name() {
    let called = std::env::args_os().next().unwrap_or_default();
    let name = Path::new(&called).file_name().unwrap_or(OsStr::new("rbuild"));
    // A name with a NUL byte is not possible; without one nothing is lost.
    if let Ok(name) = std::ffi::CString::new(name.as_bytes()) {
        let _ = rustix::thread::set_name(&name);
    }
}

/// A read-only mount of the file, attached nowhere: what the kernel executes from it has it as its program.
fn read_only_mount() -> io::Result<OwnedFd> {
    // By its path, because the link itself leads to the mount namespace where this program was executed.
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = rustix::fs::openat(CWD, &std::fs::read_link(OWN)?, flags, Mode::empty())?;
    let (wanted, actual) = (std::fs::metadata(OWN)?, File::from(found.try_clone()?).metadata()?);
    if (wanted.dev(), wanted.ino()) != (actual.dev(), actual.ino()) {
        return Err(io::ErrorKind::NotFound.into());
    }
    let clone =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let mount = rustix::mount::open_tree(&found, c"", clone)?;
    syscalls::mount_setattr(mount.as_fd(), MOUNT_ATTR_RDONLY, false)?;
    Ok(mount)
}

/// For a file that was replaced meanwhile, or where such mounts are not possible.
fn sealed_copy() -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let copy = match rustix::fs::memfd_create(c"rbuild", flags | MemfdFlags::EXEC) {
        // Before Linux 6.3 all of them can be executed.
        Err(Errno::INVAL) => rustix::fs::memfd_create(c"rbuild", flags)?,
        made => made?,
    };
    let mut copy = File::from(copy);
    io::copy(&mut File::open(OWN)?, &mut copy)?;
    let all = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&copy, all)?;
    Ok(copy.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copy_is_the_program_and_cannot_be_written() {
        use std::io::{Read as _, Write as _};
        let copy = File::from(sealed_copy().expect("copy"));
        let path = format!("/proc/self/fd/{}", copy.as_raw_fd());
        let mut head = [0u8; 4];
        File::open(&path).and_then(|mut file| file.read_exact(&mut head)).expect("read");
        assert_eq!(&head, b"\x7fELF");
        let again = File::options().write(true).open(&path);
        assert!(again.and_then(|mut file| file.write_all(b"evil")).is_err());
        assert_eq!(copy.metadata().expect("copy").len(), std::fs::metadata(OWN).expect("program").len());
    }
}
