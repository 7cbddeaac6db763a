//! New processes. clone(2) throughout: filters of surrounding containers answer `ENOSYS` to `clone3`,
//! whose flags they cannot see.

use std::os::fd::{BorrowedFd, FromRawFd as _, OwnedFd};

use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::syscalls::{self, check};

/// What cloning returned, on which side.
pub(super) enum Cloned {
    /// In the new process.
    Child,
    /// In this one: a descriptor for the child, and its number.
    Parent(OwnedFd, u32),
}

/// Makes a process with new namespaces that otherwise is a copy of this one.
///
/// # Safety
/// In the child only the calling thread exists: until it executes a program or exits, it must not
/// allocate, take locks, or unwind.
pub(super) unsafe fn clone_process(namespaces: libc::c_int) -> Result<Cloned, Errno> {
    let mut pidfd: libc::c_int = -1;
    let flags = (namespaces | libc::CLONE_PIDFD | libc::SIGCHLD) as libc::c_ulong;
    // SAFETY: the kernel stores a number in pidfd, where the parent's thread ID goes otherwise. No stack is
    // given: without CLONE_VM the child has its own copy of all memory, this one included. The caller
    // promises the rest.
    let result =
        check(unsafe { libc::syscall(libc::SYS_clone, flags, 0usize, &raw mut pidfd, 0usize, 0usize) })?;
    if result == 0 {
        return Ok(Cloned::Child);
    }
    // SAFETY: the kernel stored a new descriptor that nobody else owns.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Cloned::Parent(pidfd, u32::try_from(result).unwrap_or(0)))
}

/// Makes a process as [`clone_process`] does, with a new PID namespace inside the one that `above` refers to.
/// It is this thread's own child all the same. The helpers are to be collected when there is time for it.
///
/// # Safety
/// `live` runs in a process where only the calling thread exists: it must not allocate, take locks or
/// unwind. It should not return.
pub(super) unsafe fn clone_below(
    above: BorrowedFd<'_>,
    namespaces: libc::c_int,
    live: &dyn Fn(),
) -> Result<(OwnedFd, Helpers), Errno> {
    // Only a process that was born in a PID namespace makes others inside it, and a thread that sends its
    // children there cannot come back in every user namespace. So one helper goes there, and its child
    // makes the process.
    let mut made = Err(Errno::CANCELED);
    let mut second = None;
    let mut go_there = || {
        let mut make = || {
            // SAFETY: the child runs `live`, of which the caller promises what is needed.
            made = match unsafe { clone_process(namespaces | libc::CLONE_PARENT) } {
                Ok(Cloned::Child) => {
                    live();
                    syscalls::exit_now(1)
                }
                Ok(Cloned::Parent(pidfd, _)) => Ok(pidfd),
                Err(errno) => Err(errno),
            };
        };
        let moved = move_into_link_name_space(above, Some(LinkNameSpaceType::ProcessID));
        // SAFETY: `make` makes system calls and writes to variables of a stack that sleeps meanwhile.
        // CLONE_PARENT makes it a child of rbuild's.
        match moved.and_then(|()| unsafe { in_helper(libc::CLONE_PARENT, &mut make) }) {
            Ok(pid) => second = pid,
            Err(errno) => made = Err(errno),
        }
    };
    // SAFETY: as above: `go_there` makes system calls and writes to variables of this sleeping stack.
    let first = unsafe { in_helper(0, &mut go_there) }?;
    let helpers = Helpers([first, second]);
    made.map(|made| (made, helpers))
}

/// Runs `ask`, which ends the process, in a copy of this one; gives its exit code.
///
/// # Safety
/// As [`clone_process`].
pub(super) unsafe fn ask_a_copy(ask: &dyn Fn()) -> Result<i32, Errno> {
    // SAFETY: the caller's promise.
    match unsafe { clone_process(0) }? {
        Cloned::Child => {
            ask();
            syscalls::exit_now(1)
        }
        Cloned::Parent(_, pid) => {
            let pid = Pid::from_raw(pid as i32);
            loop {
                match rustix::process::waitpid(pid, WaitOptions::empty()) {
                    Err(Errno::INTR) => {}
                    Ok(Some((_, status))) => return Ok(status.exit_status().unwrap_or(libc::ECANCELED)),
                    Ok(None) => return Err(Errno::CHILD),
                    Err(errno) => return Err(errno),
                }
            }
        }
    }
}

/// Processes that ended or are about to. Collects them when dropped.
#[derive(Default)]
pub(super) struct Helpers([Option<Pid>; 2]);

impl Drop for Helpers {
    fn drop(&mut self) {
        self.0.into_iter().for_each(collect);
    }
}

/// Runs `act` in a process that shares this one's memory and descriptors, and nothing else. This thread sleeps
/// until it ends; it is to be collected.
///
/// # Safety
/// `act` must not allocate, take locks or unwind: other threads run on.
pub(super) unsafe fn in_helper(flags: libc::c_int, mut act: &mut dyn FnMut()) -> Result<Option<Pid>, Errno> {
    extern "C" fn run(act: *mut libc::c_void) -> libc::c_int {
        // SAFETY: it is what is passed below, by a thread that waits.
        let act = unsafe { &mut *act.cast::<&mut dyn FnMut()>() };
        act();
        syscalls::exit_now(0)
    }
    let stack = Stack::new()?;
    let flags = flags | libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_FILES | libc::SIGCHLD;
    // A handler would run on memory that is not its own.
    let blocked = syscalls::set_signal_mask(u64::MAX);
    // SAFETY: because of CLONE_VFORK the stack and `act` outlive the process, and nobody else uses them
    // meanwhile. It has this thread's errno, which sleeps as well.
    let cloned = unsafe { libc::clone(run, stack.top(), flags, (&raw mut act).cast()) };
    let cloned = check(libc::c_long::from(cloned));
    syscalls::set_signal_mask(blocked);
    cloned.map(|pid| Pid::from_raw(pid as i32))
}

/// Waits for a helper, which has ended or is about to.
pub(super) fn collect(helper: Option<Pid>) {
    let Some(helper) = helper else { return };
    while matches!(rustix::process::waitpid(Some(helper), WaitOptions::empty()), Err(Errno::INTR)) {}
}

/// A stack for a helper, and for what a copy of the helper does until it executes a program.
struct Stack {
    base: *mut libc::c_void,
}

impl Stack {
    const SIZE: usize = 1 << 20;
    /// Below it, so that too deep a call ends the process and changes nothing else. A page or more.
    const GUARD: usize = 64 << 10;

    fn new() -> Result<Self, Errno> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK | libc::MAP_NORESERVE;
        // SAFETY: a new mapping at a place of the kernel's choice.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), Self::SIZE, libc::PROT_NONE, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(Errno::NOMEM);
        }
        let stack = Stack { base };
        // SAFETY: the part of the mapping above the guard.
        check(libc::c_long::from(unsafe {
            let usable = base.byte_add(Self::GUARD);
            libc::mprotect(usable, Self::SIZE - Self::GUARD, libc::PROT_READ | libc::PROT_WRITE)
        }))?;
        Ok(stack)
    }

    /// Stacks grow downwards. Aligned as a page is.
    fn top(&self) -> *mut libc::c_void {
        // SAFETY: one past the end of the mapping.
        unsafe { self.base.byte_add(Self::SIZE) }
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and no process that shares this memory runs on it.
        unsafe { libc::munmap(self.base, Self::SIZE) };
    }
}

/// Makes a child process that shares nothing with this one, from a process with one thread.
///
/// # Safety
/// As [`clone_process`], unless this process has one thread only.
pub(super) unsafe fn fork() -> Result<Option<i32>, Errno> {
    // SAFETY: the caller's promise.
    let pid = check(libc::c_long::from(unsafe { libc::fork() }))?;
    Ok((pid != 0).then_some(pid as i32))
}

/// A copy of this process: its number in the parent, `None` in the child. Handlers of the C library are not run.
///
/// # Safety
/// As [`clone_process`].
pub(super) unsafe fn fork_here() -> Result<Option<i32>, Errno> {
    let flags = libc::SIGCHLD as libc::c_ulong;
    // SAFETY: without CLONE_VM the child has its own copy of all memory, this stack included. The caller promises the
    // rest.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone, flags, 0usize, 0usize, 0usize, 0usize) })?;
    Ok((pid != 0).then_some(i32::try_from(pid).unwrap_or(0)))
}
