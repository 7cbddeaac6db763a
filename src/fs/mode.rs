//! Changing modes without following links.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, chmodat, fstat, openat};
use rustix::io::Errno;

/// `fchmodat2`, the same number on every architecture of Linux but Alpha; since 6.6.
const FCHMODAT2: libc::c_long = 452;

/// Sets the mode of a name in a directory; of a link, an error.
pub(super) fn set_mode_at(dir: BorrowedFd<'_>, name: &CStr, mode: u32) -> Result<(), Errno> {
    match fchmodat2(dir, name, mode) {
        // The kernel is older, or a container's filter does not know the call.
        Err(Errno::NOSYS | Errno::PERM) => by_descriptor(dir, name, mode),
        other => other,
    }
}

fn fchmodat2(dir: BorrowedFd<'_>, name: &CStr, mode: u32) -> Result<(), Errno> {
    // SAFETY: the descriptor and the string with its end live as long as the call, which writes to
    // no memory of this process.
    let result =
        unsafe { libc::syscall(FCHMODAT2, dir.as_raw_fd(), name.as_ptr(), mode, libc::AT_SYMLINK_NOFOLLOW) };
    match result {
        0 => Ok(()),
        _ => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)),
    }
}

/// Holds the file first, so that it is the one that was looked at.
fn by_descriptor(dir: BorrowedFd<'_>, name: &CStr, mode: u32) -> Result<(), Errno> {
    let file = openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    if FileType::from_raw_mode(fstat(&file)?.st_mode) == FileType::Symlink {
        return Err(Errno::OPNOTSUPP);
    }
    let path = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
    chmodat(CWD, path, Mode::from_raw_mode(mode), AtFlags::empty())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn a_mode_is_set_in_both_ways_and_never_through_a_link() -> std::io::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("file");
        fs::write(&path, "")?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        symlink(&path, dir.path().join("link"))?;
        let open = fs::File::open(dir.path())?;
        let mode = || fs::metadata(&path).map(|meta| meta.permissions().mode() & 0o7777);
        for (set, expected) in [(by_descriptor as fn(_, &_, _) -> _, 0o640), (set_mode_at, 0o4711)] {
            set(open.as_fd(), c"file", expected)?;
            assert_eq!(mode()?, expected);
            assert_eq!(set(open.as_fd(), c"link", 0o777), Err(Errno::OPNOTSUPP));
            assert_eq!(mode()?, expected);
        }
        Ok(())
    }
}
