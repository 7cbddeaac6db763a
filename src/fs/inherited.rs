//! Descriptors that the caller of the program left open for it.

use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::path::Path;

use rustix::fs::{OFlags, fcntl_getfl};
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_getfd};

/// Another handle on the descriptor with this number, for writing at its place. A descriptor that this
/// program opened itself is no answer: those close when programs start, inherited ones did not.
pub fn inherited(number: RawFd) -> io::Result<File> {
    if number < 0 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: the number is not -1, and the borrow ends with this function, which neither closes nor
    // keeps it. Where nothing is open under it the calls fail.
    let given = unsafe { BorrowedFd::borrow_raw(number) };
    if fcntl_getfd(given)?.contains(FdFlags::CLOEXEC) {
        return Err(rustix::io::Errno::BADF.into());
    }
    if fcntl_getfl(given)? & OFlags::ACCMODE == OFlags::RDONLY {
        return Err(io::Error::other("it is open for reading only"));
    }
    Ok(File::from(fcntl_dupfd_cloexec(given, 3)?))
}

/// The number in a name of one of this process's descriptors.
pub fn descriptor_of(path: &Path) -> Option<i32> {
    match path.to_str()? {
        "/dev/stdout" => Some(1),
        "/dev/stderr" => Some(2),
        text => ["/dev/fd/", "/proc/self/fd/"].iter().find_map(|dir| text.strip_prefix(dir))?.parse().ok(),
    }
}
