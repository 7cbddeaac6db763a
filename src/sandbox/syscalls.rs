//! The system calls that no safe wrapper has. None of them allocates, so the child may use them
//! between its creation and the program.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

/// Turns a raw result into the errno convention of the rest.
pub(super) fn check(result: libc::c_long) -> Result<libc::c_long, Errno> {
    if result >= 0 {
        return Ok(result);
    }
    // SAFETY: __errno_location returns a valid pointer to this thread's errno.
    let errno = unsafe { *libc::__errno_location() };
    Err(Errno::from_raw_os_error(errno))
}

/// Ends the process without what the C library and the allocator do for processes that go on. Standard
/// output is flushed; everything else must have been dropped.
pub fn leave(code: u8) -> ! {
    let _ = std::io::Write::flush(&mut std::io::stdout());
    // SAFETY: _exit takes no pointers and does not return.
    unsafe { libc::_exit(i32::from(code)) }
}

/// `struct mount_attr` (linux/mount.h).
#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

pub(super) const MOUNT_ATTR_RDONLY: u64 = 1;
pub(super) const MOUNT_ATTR_NOSUID: u64 = 2;
pub(super) const MOUNT_ATTR_NODEV: u64 = 4;
pub(super) const MOUNT_ATTR_NOEXEC: u64 = 8;

/// Sets attributes on a mount that a descriptor refers to, and on those below it if asked.
pub(super) fn mount_setattr(mount: BorrowedFd<'_>, set: u64, recursive: bool) -> Result<(), Errno> {
    set_attributes(mount, &MountAttr { attr_set: set, attr_clr: 0, propagation: 0, userns_fd: 0 }, recursive)
}

/// Takes attributes away from a mount.
pub(super) fn clear_mount_attributes(mount: BorrowedFd<'_>, clear: u64) -> Result<(), Errno> {
    set_attributes(mount, &MountAttr { attr_set: 0, attr_clr: clear, propagation: 0, userns_fd: 0 }, false)
}

fn set_attributes(mount: BorrowedFd<'_>, attr: &MountAttr, recursive: bool) -> Result<(), Errno> {
    const AT_RECURSIVE: libc::c_int = 0x8000;
    let flags = libc::AT_EMPTY_PATH | if recursive { AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty C string, attr outlives the call and has the size given.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attr),
            std::mem::size_of::<MountAttr>(),
        )
    })
    .map(drop)
}

/// Shows the owners of files in a mount, which must be attached nowhere, inside a user namespace.
pub(super) fn map_owners(
    mount: BorrowedFd<'_>,
    namespace: BorrowedFd<'_>,
    recursive: bool,
) -> Result<(), Errno> {
    const IDMAP: u64 = 0x0010_0000;
    let userns_fd = u64::try_from(namespace.as_raw_fd()).map_err(|_| Errno::BADF)?;
    set_attributes(mount, &MountAttr { attr_set: IDMAP, attr_clr: 0, propagation: 0, userns_fd }, recursive)
}

/// `prctl` with plain numbers.
pub(super) fn prctl(option: libc::c_int, value: libc::c_ulong) -> Result<(), Errno> {
    // SAFETY: the options used here take numbers only, given in the width of registers.
    check(unsafe { libc::syscall(libc::SYS_prctl, option, value, 0usize, 0usize, 0usize) }).map(drop)
}

/// Gives the process a session keyring of its own.
pub(super) fn new_session_keyring() -> Result<(), Errno> {
    const JOIN_SESSION_KEYRING: libc::c_int = 1;
    // SAFETY: a null name asks for an anonymous keyring.
    check(unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, std::ptr::null::<libc::c_char>()) })
        .map(drop)
}

/// Sets supplementary groups, group and user of this thread.
pub(super) fn set_identity(uid: u32, gid: u32, groups: &[u32], set_groups: bool) -> Result<(), Errno> {
    if set_groups {
        // SAFETY: the pointer and length describe a slice of gid_t.
        check(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) })?;
    }
    // SAFETY: numbers only.
    check(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) })?;
    // SAFETY: numbers only.
    check(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) })?;
    Ok(())
}

/// Version 3 of the capability interface (linux/capability.h).
#[repr(C)]
struct CapHeader {
    version: u32,
    pid: libc::c_int,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const CAP_VERSION_3: u32 = 0x2008_0522;

/// The permitted capabilities of this thread.
pub(super) fn permitted_capabilities() -> Result<u64, Errno> {
    let mut header = CapHeader { version: CAP_VERSION_3, pid: 0 };
    let mut data = [CapData::default(); 2];
    // SAFETY: version 3 takes a header and two data elements.
    check(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) })?;
    Ok(u64::from(data[0].permitted) | u64::from(data[1].permitted) << 32)
}

/// Sets effective and permitted capabilities; inheritable ones become empty (CVE-2022-29162).
pub(super) fn set_capabilities(set: u64) -> Result<(), Errno> {
    let mut header = CapHeader { version: CAP_VERSION_3, pid: 0 };
    let half = |bits: u64| CapData { effective: bits as u32, permitted: bits as u32, inheritable: 0 };
    let data = [half(set), half(set >> 32)];
    // SAFETY: version 3 takes a header and two data elements.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) }).map(drop)
}

/// Does something while new files of this thread belong to a user and its group, all capabilities kept.
/// Allocates nothing itself.
pub(super) fn with_files_of<T>(id: u32, act: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
    let done = act_on_files_as(id).and_then(|()| act());
    // Also where only half of it was changed.
    act_on_files_as(0)?;
    done
}

fn act_on_files_as(id: u32) -> Result<(), Errno> {
    let capabilities = permitted_capabilities()?;
    for call in [libc::SYS_setfsgid, libc::SYS_setfsuid] {
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
    // Leaving ID 0 takes some of them out of the effective set.
    set_capabilities(capabilities)
}

/// Installs a system call filter for this thread and what it becomes.
pub(super) fn set_filter(program: &[libc::sock_filter]) -> Result<(), Errno> {
    const SET_MODE_FILTER: libc::c_uint = 1;
    let filter = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| Errno::INVAL)?,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: the kernel copies the program during the call and does not write to it.
    check(unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, 0, &raw const filter) }).map(drop)
}

/// The version of Landlock's interface.
pub(super) fn landlock_version() -> Result<u32, Errno> {
    const VERSION: libc::c_uint = 1;
    // SAFETY: with this flag the kernel takes no structure.
    let version = check(unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0usize, VERSION)
    })?;
    u32::try_from(version).map_err(|_| Errno::INVAL)
}

/// Installs a system call filter that asks for some calls; gives the descriptor where it asks.
pub(super) fn set_asking_filter(program: &[libc::sock_filter]) -> Result<i32, Errno> {
    const SET_MODE_FILTER: libc::c_uint = 1;
    const NEW_LISTENER: libc::c_ulong = 1 << 3;
    let filter = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| Errno::INVAL)?,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: the kernel copies the program during the call and does not write to it.
    check(unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, NEW_LISTENER, &raw const filter) })
        .map(|fd| fd as i32)
}

/// Takes a copy of a descriptor of another process.
pub(super) fn copy_descriptor(process: BorrowedFd<'_>, number: i32) -> Result<OwnedFd, Errno> {
    // SAFETY: numbers only; the result is a new descriptor that nobody else owns.
    unsafe {
        let fd = check(libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0))?;
        Ok(OwnedFd::from_raw_fd(fd as i32))
    }
}

/// `struct seccomp_notif` (linux/seccomp.h).
#[repr(C)]
#[derive(Default)]
pub(super) struct Notification {
    pub id: u64,
    pub pid: u32,
    flags: u32,
    pub number: i32,
    arch: u32,
    instruction: u64,
    pub args: [u64; 6],
}

/// `struct seccomp_notif_resp`.
#[repr(C)]
struct Response {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}

/// Waits for the next call that a filter asks about.
pub(super) fn next_notification(listener: BorrowedFd<'_>) -> Result<Notification, Errno> {
    const RECEIVE: u64 = 0xc050_2100;
    let mut asked = Notification::default();
    // SAFETY: the request is for this structure, which is zeroed as the kernel wants it.
    check(libc::c_long::from(unsafe { libc::ioctl(listener.as_raw_fd(), RECEIVE as _, &raw mut asked) }))?;
    Ok(asked)
}

fn respond(listener: BorrowedFd<'_>, response: &Response) -> Result<(), Errno> {
    const SEND: u64 = 0xc018_2101;
    // SAFETY: the request is for this structure, which the kernel only reads.
    check(libc::c_long::from(unsafe {
        libc::ioctl(listener.as_raw_fd(), SEND as _, std::ptr::from_ref(response))
    }))
    .map(drop)
}

/// Makes a call return a value, or fail.
pub(super) fn answer_notification(
    listener: BorrowedFd<'_>,
    id: u64,
    result: Result<i64, Errno>,
) -> Result<(), Errno> {
    let (value, error) = match result {
        Ok(value) => (value, 0),
        Err(errno) => (0, -errno.raw_os_error()),
    };
    respond(listener, &Response { id, value, error, flags: 0 })
}

/// Lets the kernel execute a call.
pub(super) fn continue_notification(listener: BorrowedFd<'_>, id: u64) -> Result<(), Errno> {
    const CONTINUE: u32 = 1;
    respond(listener, &Response { id, value: 0, error: 0, flags: CONTINUE })
}

/// Fails if the process that made a call is gone, so that its number may be another's.
pub(super) fn still_asked(listener: BorrowedFd<'_>, id: u64) -> Result<(), Errno> {
    const ID_VALID: u64 = 0x4008_2102;
    // SAFETY: the request is for a number, which the kernel only reads.
    check(libc::c_long::from(unsafe { libc::ioctl(listener.as_raw_fd(), ID_VALID as _, &raw const id) }))
        .map(drop)
}

/// Sets a resource limit.
pub(super) fn set_limit(resource: u32, soft: u64, hard: u64) -> Result<(), Errno> {
    let limit = [soft, hard];
    // SAFETY: struct rlimit64 is two 64-bit numbers; pid 0 is this process; no old value is asked for.
    check(unsafe {
        libc::syscall(libc::SYS_prlimit64, 0, resource, limit.as_ptr(), std::ptr::null_mut::<u64>())
    })
    .map(drop)
}

/// Sets a resource limit of another process, given by the number of any of its threads.
pub(super) fn set_limit_of(pid: u32, resource: u32, soft: u64, hard: u64) -> Result<(), Errno> {
    let limit = [soft, hard];
    // SAFETY: struct rlimit64 is two 64-bit numbers; no old value is asked for.
    check(unsafe {
        libc::syscall(libc::SYS_prlimit64, pid, resource, limit.as_ptr(), std::ptr::null_mut::<u64>())
    })
    .map(drop)
}

/// The hard limit of another process.
pub(super) fn hard_limit_of(pid: u32, resource: u32) -> Result<u64, Errno> {
    let mut limit = [0u64; 2];
    // SAFETY: struct rlimit64 is two 64-bit numbers, for which there is room; no new value is given.
    check(unsafe {
        libc::syscall(libc::SYS_prlimit64, pid, resource, std::ptr::null::<u64>(), limit.as_mut_ptr())
    })?;
    Ok(limit[1])
}

/// Marks every descriptor from 3 on for closing when the program is executed.
pub(super) fn close_on_exec_from_3() -> Result<(), Errno> {
    const CLOEXEC: libc::c_uint = 4;
    // SAFETY: numbers only.
    check(unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, CLOEXEC) }).map(drop)
}

/// So many descriptors can be kept.
pub(super) const MOST_KEPT: usize = 64;

/// Gives descriptors the wanted numbers, which must come right behind the standard streams and in
/// order, and closes all others behind those.
pub(super) fn keep_only(wanted: &[(i32, i32)]) -> Result<(), Errno> {
    /// Above any number wanted, so that no source is overwritten before it was moved.
    const AWAY: i32 = 100;
    let mut moved = [0; MOST_KEPT];
    if wanted.len() > MOST_KEPT {
        return Err(Errno::INVAL);
    }
    for (at, (from, _)) in wanted.iter().enumerate() {
        // SAFETY: numbers only; nothing in this process uses the descriptors afterwards.
        let copy = unsafe { libc::syscall(libc::SYS_fcntl, *from, libc::F_DUPFD_CLOEXEC, AWAY) };
        moved[at] = check(copy)? as i32;
    }
    let mut first_free = 3;
    for ((_, to), from) in wanted.iter().zip(moved) {
        // SAFETY: as above.
        check(unsafe { libc::syscall(libc::SYS_dup3, from, *to, libc::O_CLOEXEC) })?;
        first_free = *to + 1;
    }
    // SAFETY: as above.
    check(unsafe { libc::syscall(libc::SYS_close_range, first_free, u32::MAX, 0) }).map(drop)
}

/// Closes a descriptor known by its number only.
pub(super) fn close(fd: i32) {
    // SAFETY: numbers only; callers give up the descriptor in a process that has no other use for it.
    unsafe { libc::syscall(libc::SYS_close, fd) };
}

/// Writes one byte to a descriptor known by its number only.
pub(super) fn write_byte(fd: i32, byte: u8) -> Result<(), Errno> {
    let bytes = [byte];
    // SAFETY: the buffer has the length given.
    check(unsafe { libc::syscall(libc::SYS_write, fd, bytes.as_ptr(), bytes.len()) }).map(drop)
}

/// Reads one byte from a descriptor known by its number, or finds that there is no other end.
pub(super) fn wait_for_byte(fd: i32) {
    let mut byte = [0u8; 1];
    // SAFETY: the buffer has the length given.
    while check(unsafe { libc::syscall(libc::SYS_read, fd, byte.as_mut_ptr(), 1) }) == Err(Errno::INTR) {}
}

/// Waits for the end of the process that a descriptor known by its number refers to.
pub(super) fn wait_for_process(pidfd: i32) {
    let mut poll = libc::pollfd { fd: pidfd, events: libc::POLLIN, revents: 0 };
    let (no_time, no_mask) = (std::ptr::null::<libc::c_void>(), std::ptr::null::<libc::c_void>());
    // SAFETY: one structure, which outlives the call; without a time and a set of signals.
    while check(unsafe { libc::syscall(libc::SYS_ppoll, &raw mut poll, 1, no_time, no_mask, 0) })
        == Err(Errno::INTR)
    {}
}

/// Reads from a descriptor known by its number until there is no other end.
pub(super) fn wait_for_end(fd: i32) {
    let mut byte = [0u8; 1];
    loop {
        // SAFETY: the buffer has the length given.
        match check(unsafe { libc::syscall(libc::SYS_read, fd, byte.as_mut_ptr(), 1) }) {
            Ok(count) if count > 0 => {}
            Err(Errno::INTR) => {}
            _ => return,
        }
    }
}

/// Executes a program; comes back only with an error.
pub(super) fn exec(path: &CStr, argv: &[*const libc::c_char], env: &[*const libc::c_char]) -> Errno {
    // SAFETY: both arrays end with a null pointer and their strings are alive (made by `prepare`).
    match check(unsafe { libc::syscall(libc::SYS_execve, path.as_ptr(), argv.as_ptr(), env.as_ptr()) }) {
        Ok(_) => Errno::INVAL,
        Err(errno) => errno,
    }
}

/// Ends this process at once, without any clean-up.
pub(super) fn exit_now(code: i32) -> ! {
    // SAFETY: never returns, touches nothing.
    unsafe { libc::_exit(code) }
}

/// Whether this process ignores a signal, as its caller may have arranged.
pub fn is_ignored(signal: i32) -> bool {
    // SAFETY: a null action only asks for the present one, which fits into `now`.
    unsafe {
        let mut now: libc::sigaction = std::mem::zeroed();
        let asked = libc::sigaction(signal, std::ptr::null(), &raw mut now);
        asked == 0 && now.sa_sigaction == libc::SIG_IGN
    }
}

/// Gives signals their default meaning and unblocks all of them.
pub(super) fn reset_signals() {
    for signal in (1..32).filter(|signal| !matches!(*signal, libc::SIGKILL | libc::SIGSTOP)) {
        reset_signal(signal);
    }
    set_signal_mask(0);
}

/// Gives a signal its default meaning.
pub(super) fn reset_signal(signal: libc::c_int) {
    // The kernel's own call: musl's `sigaction` may take a lock, whose holder does not exist in a child.
    // All zeroes is `SIG_DFL` without flags, in the kernel's structure of every architecture.
    let default = [0u64; 4];
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: the kernel reads its structure, at most 32 bytes, and stores no old one. The default
    // runs no code of this process.
    unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), none, SIGNAL_SET_SIZE) };
}

/// Waits for any signal, all of which are blocked; `None` where the wait was interrupted.
pub(super) fn wait_for_signal() -> Option<i32> {
    let all = u64::MAX;
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: the kernel reads a set of the size that is given, and stores nothing.
    let signal = unsafe {
        libc::syscall(libc::SYS_rt_sigtimedwait, std::ptr::from_ref(&all), none, none, SIGNAL_SET_SIZE)
    };
    i32::try_from(signal).ok().filter(|signal| *signal > 0)
}

/// Collects a child that has ended, whichever it is: its number and its status.
pub(super) fn collect_any() -> Option<(i32, i32)> {
    collect_or_none().ok().flatten()
}

/// The same; an error where there are no children.
pub(super) fn collect_or_none() -> Result<Option<(i32, i32)>, Errno> {
    let mut status = 0;
    // SAFETY: the kernel stores a number in `status`.
    let pid = check(libc::c_long::from(unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) }))? as i32;
    Ok((pid > 0).then_some((pid, status)))
}

/// Sends a signal to a child that was not collected yet.
pub(super) fn send_signal(pid: i32, signal: i32) {
    // SAFETY: no memory is involved.
    unsafe { libc::kill(pid, signal) };
}

/// Bytes of the kernel's set of signals.
pub(super) const SIGNAL_SET_SIZE: usize = 8;

/// Blocks these signals of this thread, also those that the C library keeps for itself, and no others. Gives
/// those blocked before.
pub(super) fn set_signal_mask(blocked: u64) -> u64 {
    let mut before = 0u64;
    // SAFETY: both are sets of the size given and outlive the call.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const blocked,
            &raw mut before,
            SIGNAL_SET_SIZE,
        );
    }
    before
}

/// Brings the loopback device of the current network namespace up.
pub(super) fn loopback_up() -> Result<(), Errno> {
    // SAFETY: a socket of our own and an ifreq that names "lo" and outlives both calls.
    unsafe {
        let socket =
            check(libc::c_long::from(libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0)))?;
        let socket = OwnedFd::from_raw_fd(socket as i32);
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        check(libc::c_long::from(libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCGIFFLAGS as _,
            &raw mut request,
        )))?;
        request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short;
        check(libc::c_long::from(libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCSIFFLAGS as _,
            &raw const request,
        )))?;
    }
    Ok(())
}

/// Makes a terminal the controlling one of this session.
pub(super) fn take_terminal(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: an ioctl with a number.
    check(libc::c_long::from(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCSCTTY as _, 0) })).map(drop)
}
