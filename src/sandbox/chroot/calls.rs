//! System calls of this module that no safe wrapper has. Those that the child uses allocate nothing.

use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use rustix::io::Errno;

use super::super::syscalls::{SIGNAL_SET_SIZE, check};

/// A descriptor from which all signals can be read, which are blocked already.
pub(in crate::sandbox) fn signals_by_descriptor() -> Result<i32, Errno> {
    let all = u64::MAX;
    let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
    // SAFETY: the kernel reads a set of the size given.
    check(unsafe { libc::syscall(libc::SYS_signalfd4, -1, &raw const all, SIGNAL_SET_SIZE, flags) })
        .map(|fd| fd as i32)
}

/// The next signal of such a descriptor, if there is one.
pub(in crate::sandbox) fn read_signal(fd: i32) -> Option<i32> {
    let mut info = [0u8; 128];
    // SAFETY: the buffer has the length given, that of struct signalfd_siginfo.
    let count = unsafe { libc::syscall(libc::SYS_read, fd, info.as_mut_ptr(), info.len()) };
    let number = <[u8; 4]>::try_from(&info[..4]).ok()?;
    (count == 128).then(|| i32::from_ne_bytes(number))
}

/// Waits, for these nanoseconds at most, until the first descriptor has something to read or nobody has the other
/// end of the second one. Says which.
pub(in crate::sandbox) fn wait_for_input_or_end(
    first: i32,
    second: i32,
    nanoseconds: Option<i64>,
) -> [bool; 2] {
    let mut fds = [
        libc::pollfd { fd: first, events: libc::POLLIN, revents: 0 },
        libc::pollfd { fd: second, events: 0, revents: 0 },
    ];
    let time = [0i64, nanoseconds.unwrap_or(0)];
    let limit = nanoseconds.map_or(std::ptr::null(), |_| time.as_ptr());
    // SAFETY: two structures and a time, which outlive the call; without a set of signals.
    let count = unsafe {
        libc::syscall(libc::SYS_ppoll, fds.as_mut_ptr(), 2, limit, std::ptr::null::<libc::c_void>(), 0)
    };
    if count > 0 { fds.map(|fd| fd.revents != 0) } else { [false; 2] }
}

/// Writes to a descriptor known by its number only, at once or not at all.
pub(in crate::sandbox) fn write_all(fd: i32, bytes: &[u8]) -> Result<(), Errno> {
    // SAFETY: the buffer has the length given.
    check(unsafe { libc::syscall(libc::SYS_write, fd, bytes.as_ptr(), bytes.len()) }).map(drop)
}

/// Empties a file known by its descriptor's number only.
pub(in crate::sandbox) fn empty(fd: i32) {
    // SAFETY: numbers only.
    unsafe { libc::syscall(libc::SYS_ftruncate, fd, 0) };
}

/// Takes on the rules of a Landlock ruleset.
pub(in crate::sandbox) fn restrict_by_landlock(rules: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: numbers only.
    check(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, rules.as_raw_fd(), 0) }).map(drop)
}

/// Ends a call that a filter asks about with a descriptor: a copy of this file's, in the process that asks.
pub(super) fn hand_in(
    listener: BorrowedFd<'_>,
    id: u64,
    file: BorrowedFd<'_>,
    close_on_exec: bool,
) -> Result<(), Errno> {
    /// `struct seccomp_notif_addfd` (linux/seccomp.h).
    #[repr(C)]
    struct AddFd {
        id: u64,
        flags: u32,
        from: u32,
        to: u32,
        to_flags: u32,
    }
    const ADD: u64 = 0x4018_2103;
    /// The call returns the number, in one step (Linux 5.14).
    const SEND: u32 = 1 << 1;
    let from = u32::try_from(file.as_raw_fd()).map_err(|_| Errno::BADF)?;
    let to_flags = if close_on_exec { libc::O_CLOEXEC as u32 } else { 0 };
    let add = AddFd { id, flags: SEND, from, to: 0, to_flags };
    // SAFETY: the request is for this structure, which the kernel only reads.
    check(libc::c_long::from(unsafe { libc::ioctl(listener.as_raw_fd(), ADD as _, &raw const add) }))
        .map(drop)
}

/// The number of the terminal that this is the other end of.
pub(super) fn terminal_number(master: BorrowedFd<'_>) -> Result<u32, Errno> {
    let mut number: libc::c_uint = 0;
    // SAFETY: the kernel stores a number.
    check(libc::c_long::from(unsafe {
        libc::ioctl(master.as_raw_fd(), libc::TIOCGPTN as _, &raw mut number)
    }))?;
    Ok(number)
}

/// Reads memory of another process. Gives how much there was.
pub(super) fn read_memory(pid: u32, address: u64, into: &mut [u8]) -> Result<usize, Errno> {
    let here = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    let there = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: into.len() };
    // SAFETY: the kernel writes to the buffer, which has the length given; the other address is not of this process.
    let count = unsafe {
        libc::syscall(
            libc::SYS_process_vm_readv,
            pid,
            &raw const here,
            1usize,
            &raw const there,
            1usize,
            0usize,
        )
    };
    check(count).map(|count| count as usize)
}

/// Writes memory of another process. Gives how much was written.
pub(super) fn write_memory(pid: u32, address: u64, bytes: &[u8]) -> Result<usize, Errno> {
    let here = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let there = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: bytes.len() };
    // SAFETY: the kernel reads the buffer, which has the length given; the other address is not of this process.
    let count = unsafe {
        libc::syscall(
            libc::SYS_process_vm_writev,
            pid,
            &raw const here,
            1usize,
            &raw const there,
            1usize,
            0usize,
        )
    };
    check(count).map(|count| count as usize)
}

/// Does something with a user and group in place of root where files are concerned; without root's rights to files
/// unless the user is root.
pub(super) fn with_ids<T>(
    (uid, gid): (u32, u32),
    act: impl FnOnce() -> Result<T, Errno>,
) -> Result<T, Errno> {
    // Root's rights do not depend on its group, and with another one it could not look into processes of root.
    if uid == 0 {
        return act();
    }
    let done = become_for_files(uid, gid).and_then(|()| act());
    // Also where only half of it was changed.
    become_for_files(0, 0)?;
    done
}

fn become_for_files(uid: u32, gid: u32) -> Result<(), Errno> {
    for (call, id) in [(libc::SYS_setfsgid, gid), (libc::SYS_setfsuid, uid)] {
        // These calls never fail in words: they give the ID before. -1 is none and changes nothing, so that the
        // second time shows what the first one did.
        // SAFETY: numbers only.
        let now = unsafe {
            libc::syscall(call, id);
            libc::syscall(call, u32::MAX)
        };
        if now != libc::c_long::from(id) {
            return Err(Errno::PERM);
        }
    }
    Ok(())
}

/// This thread is in no group but its own.
pub(super) fn leave_groups() -> Result<(), Errno> {
    // SAFETY: no groups are read.
    check(unsafe { libc::syscall(libc::SYS_setgroups, 0usize, std::ptr::null::<libc::gid_t>()) }).map(drop)
}

/// `struct statfs` of a path, as the kernel stores it.
pub(super) fn file_system_of(path: &std::ffi::CStr) -> Result<Vec<u8>, Errno> {
    let mut facts = MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: the path ends in NUL, and the kernel fills the structure, all zeroes of which are valid.
    unsafe {
        check(libc::syscall(libc::SYS_statfs, path.as_ptr(), facts.as_mut_ptr()))?;
        let facts = facts.assume_init();
        // It has no padding: all of its fields are words, and the spare ones are zeroes.
        Ok(std::slice::from_raw_parts((&raw const facts).cast::<u8>(), size_of_val(&facts)).to_vec())
    }
}

/// `struct utsname` with another host name, as the kernel stores it.
pub(super) fn names_of_system(hostname: &[u8]) -> Vec<u8> {
    let mut names = MaybeUninit::<libc::utsname>::zeroed();
    // SAFETY: the structure is all zeroes, which is valid, and the kernel fills it.
    let mut names = unsafe {
        libc::syscall(libc::SYS_uname, names.as_mut_ptr());
        names.assume_init()
    };
    let last = names.nodename.len() - 1;
    names.nodename.fill(0);
    for (to, from) in names.nodename[..last].iter_mut().zip(hostname) {
        *to = *from as libc::c_char;
    }
    // SAFETY: it has no padding: all of its fields are characters.
    unsafe { std::slice::from_raw_parts((&raw const names).cast::<u8>(), size_of_val(&names)) }.to_vec()
}
