//! Why no process of a step outlives this one, whatever the step does.
//!
//! Steps live in a PID namespace of this process, each in one of its own inside it. The first process of
//! the outer namespace does nothing but wait for this process's end. It ends with it, and the kernel
//! then kills everything in the namespace. No step can see, signal or trace it, or leave the
//! namespace. What a step can do about its own death signal, its credentials or its parent does not
//! matter.

use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{PidfdFlags, getpid, pidfd_open};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

use super::clone::{Cloned, Helpers, clone_below, clone_process, collect, in_helper};
use super::syscalls;

/// Where all steps of this process live.
static STEPS: Steps = Steps(Mutex::new(None));

/// Clones a step's first process: a copy of this one that runs `live`, in new namespaces.
///
/// # Safety
/// `namespaces` must have a new PID namespace. `live` runs in a process where only the calling thread exists:
/// it must not allocate, take locks or unwind. It should not return.
pub(super) unsafe fn clone_step(
    namespaces: libc::c_int,
    live: &dyn Fn(),
) -> Result<(OwnedFd, Helpers), Errno> {
    // SAFETY: the caller's promise.
    unsafe { STEPS.clone(namespaces, live) }
}

/// A namespace for steps. Made with the first one, kept until the end.
struct Steps(Mutex<Option<Arc<Lifeline>>>);

impl Steps {
    /// # Safety
    /// As [`clone_step`].
    unsafe fn clone(&self, namespaces: libc::c_int, live: &dyn Fn()) -> Result<(OwnedFd, Helpers), Errno> {
        let lifeline = self.current(None)?;
        // SAFETY: the caller's promise.
        match unsafe { clone_below(lifeline.inside.as_fd(), namespaces, live) } {
            // The first process was killed, for instance for want of memory. The namespace takes no new ones
            // (ENOMEM) already while those in it die, or the helper was one of them. Where memory really is
            // short, the other namespace fails as well.
            Err(Errno::NOMEM | Errno::CANCELED) => {
                let lifeline = self.current(Some(&lifeline))?;
                // SAFETY: the caller's promise.
                unsafe { clone_below(lifeline.inside.as_fd(), namespaces, live) }
            }
            made => made,
        }
    }

    /// The namespace there is, or a new one in place of `ended`.
    fn current(&self, ended: Option<&Arc<Lifeline>>) -> Result<Arc<Lifeline>, Errno> {
        let mut current = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*current {
            Some(lifeline) if ended.is_none_or(|ended| !Arc::ptr_eq(lifeline, ended)) => Ok(lifeline.clone()),
            _ => Ok(current.insert(Arc::new(Lifeline::start()?)).clone()),
        }
    }
}

struct Lifeline {
    /// The outer PID namespace.
    inside: OwnedFd,
    /// Its first process, which tests kill.
    #[cfg(test)]
    first: OwnedFd,
}

impl Lifeline {
    fn start() -> Result<Self, Errno> {
        let home = pidfd_open(getpid(), PidfdFlags::empty())?;
        let (go_read, go) = pipe_with(PipeFlags::CLOEXEC)?;
        // SAFETY: the child runs `wait_for`, which neither allocates, locks nor unwinds, and never returns.
        let cloned = unsafe {
            match clone_process(libc::CLONE_NEWPID)? {
                Cloned::Child => wait_for(home.as_raw_fd(), go_read.as_raw_fd(), go.as_raw_fd()),
                parent => parent,
            }
        };
        let Cloned::Parent(first, _) = cloned else { syscalls::exit_now(1) };
        let inside = namespace_of(first.as_fd())?;
        // From now on nobody needs to look at it. If it has ended, the first step will notice.
        let _ = rustix::io::write(&go, b"g");
        let lifeline = Lifeline {
            inside,
            #[cfg(test)]
            first,
        };
        Ok(lifeline)
    }
}

/// The PID namespace of a process. Not by the process's number, by which `/proc` may know another one.
fn namespace_of(process: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let mut opened = Err(Errno::CANCELED);
    let mut open = || {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        opened = move_into_thread_name_spaces(process, ThreadNameSpaceType::PROCESS_ID)
            .and_then(|()| rustix::fs::openat(CWD, c"/proc/self/ns/pid_for_children", flags, Mode::empty()));
    };
    // SAFETY: `open` makes system calls and writes to a variable of this stack, which sleeps meanwhile.
    let helper = unsafe { in_helper(0, &mut open) }?;
    collect(helper);
    opened
}

/// The life of a namespace's first process: it ends with the process that `home` refers to.
fn wait_for(home: i32, go: i32, go_write: i32) -> ! {
    const HOME: i32 = 3;
    const GO: i32 = 4;
    // Else it would wait for itself.
    syscalls::close(go_write);
    // What a terminal sends to rbuild is rbuild's to judge.
    let _ = rustix::process::setsid();
    syscalls::reset_signals();
    // Locks and pipes of the parent must not live on in here.
    let ready = syscalls::keep_only(&[(home, HOME), (go, GO)]).and_then(|()| syscalls::set_capabilities(0));
    if ready.is_ok() {
        (0..3).for_each(syscalls::close);
        // The parent needs to look at this process once.
        syscalls::wait_for_byte(GO);
        syscalls::close(GO);
        // It is a copy of the parent, secrets included.
        if syscalls::prctl(libc::PR_SET_DUMPABLE, 0).is_ok() {
            syscalls::wait_for_process(HOME);
        }
    }
    syscalls::exit_now(0)
}

#[cfg(test)]
mod tests {
    use rustix::process::{Signal, WaitId, WaitIdOptions, WaitIdStatus, pidfd_send_signal, waitid};

    use super::*;

    fn end_of(process: &OwnedFd) -> WaitIdStatus {
        waitid(WaitId::PidFd(process.as_fd()), WaitIdOptions::EXITED).expect("a child").expect("its end")
    }

    #[test]
    fn a_step_dies_with_its_namespaces_first_process_and_the_next_one_gets_another() {
        if super::super::prepare::permitted() & 1 << 21 == 0 {
            return println!("SKIPPED steps in a PID namespace: needs CAP_SYS_ADMIN");
        }
        let steps = Steps(Mutex::new(None));
        let ends = || syscalls::exit_now(7);
        // For longer than any test: nobody closes the other end.
        let (wait, _other_end) = pipe_with(PipeFlags::CLOEXEC).expect("pipe");
        let number = wait.as_raw_fd();
        let waits = || syscalls::wait_for_byte(number);
        // SAFETY: both closures make plain system calls.
        let start = |live: &dyn Fn()| unsafe { steps.clone(libc::CLONE_NEWPID, live) }.expect("a step").0;
        let (first, second) = (start(&ends), start(&waits));
        assert_eq!(end_of(&first).exit_status(), Some(7));
        let lifeline = steps.current(None).expect("a namespace");
        pidfd_send_signal(&lifeline.first, Signal::KILL).expect("kill");
        assert_eq!(end_of(&second).terminating_signal(), Some(libc::SIGKILL));
        assert_eq!(end_of(&start(&ends)).exit_status(), Some(7));
        assert!(!Arc::ptr_eq(&lifeline, &steps.current(None).expect("a namespace")));
    }
}
