//! From the new process to the program, and the init beside it. As in `sandbox::child`, nothing in here allocates,
//! locks or unwinds.

use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use super::super::child::{At as _, Failure, Stage, Streams, enter};
use super::super::clone::fork_here;
use super::super::prepare::Plan;
use super::super::supervisor::NodeMounts;
use super::super::{syscalls, terminal};
use super::{Inside, calls};

/// In the init: becomes it, and goes on as the program in a child.
pub(in crate::sandbox) fn set_up(
    plan: &Plan,
    inside: &Inside,
    streams: &Streams<'_>,
) -> Result<Errno, Failure> {
    let mut byte = [0u8; 1];
    if rustix::io::read(streams.go, &mut byte).at(Stage::Start)? != 1 {
        syscalls::exit_now(1);
    }
    // Whoever loses its parent becomes a child of this process.
    syscalls::prctl(libc::PR_SET_CHILD_SUBREAPER, 1).at(Stage::Start)?;
    syscalls::set_signal_mask(u64::MAX);
    // SAFETY: there is one thread here, and neither side allocates or unwinds before it executes a program or exits.
    if let Some(program) = unsafe { fork_here() }.at(Stage::Start)? {
        watch_over(program, streams, &inside.secrets);
    }
    syscalls::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong).at(Stage::Start)?;
    rustix::process::setsid().at(Stage::Start)?;
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let terminal = match streams.terminal {
        Some(socket) => {
            let pts = rustix::fs::openat(CWD, c"/dev/pts", directory, Mode::empty()).at(Stage::Terminal)?;
            let own = terminal::make(pts.as_fd(), socket).at(Stage::Terminal)?;
            if let Some(owner) = plan.stream_owner {
                owner.give(&own, false);
            }
            Some(own)
        }
        None => None,
    };
    let root = rustix::fs::openat(CWD, inside.root.as_c_str(), directory, Mode::empty()).at(Stage::Root)?;
    rustix::process::fchdir(&root).at(Stage::Pivot)?;
    rustix::process::chroot(c".").at(Stage::Pivot)?;
    rustix::process::chdir(c"/").at(Stage::Pivot)?;
    if let Some(rules) = &inside.rules {
        calls::restrict_by_landlock(rules.as_fd()).at(Stage::Confinement)?;
    }
    let own = terminal.as_ref().map(OwnedFd::as_fd);
    let streams = match own {
        Some(own) => Streams { stdin: own, stdout: own, stderr: own, ..*streams },
        None => *streams,
    };
    enter(plan, &streams, None, NodeMounts::default())
}

/// Installs the filter: one that asks where that is possible. Others than rbuild may be asked about calls already,
/// or nobody can be.
pub(in crate::sandbox) fn filter_calls(plan: &Plan, plain: &[libc::sock_filter]) -> Result<(), Errno> {
    let asking =
        plan.chroot.as_ref().and_then(|inside| Some((inside.asking.as_ref()?, inside.channel.as_ref()?)));
    let Some((filter, channel)) = asking else { return syscalls::set_filter(plain) };
    match syscalls::set_asking_filter(filter) {
        Ok(listener) => {
            // SAFETY: the kernel just made it, and the program has no use for it: it is closed when that starts.
            let listener = unsafe { BorrowedFd::borrow_raw(listener) };
            terminal::send(channel.1.as_fd(), listener)
        }
        Err(_) => syscalls::set_filter(plain),
    }
}

/// Descriptors of the init.
const GO: i32 = 3;
const ERROR: i32 = 4;
const SECRETS: i32 = 5;
/// So many secrets can be emptied.
pub(super) const MOST_SECRETS: usize = syscalls::MOST_KEPT - 2;

/// The life of the init: until the program ends or rbuild closes its end of `go`, also by its death. Then everything
/// that the program started ends.
fn watch_over(program: i32, streams: &Streams<'_>, secrets: &[OwnedFd]) -> ! {
    // The ends of the program's pipes and of other steps must not live on in here.
    let mut wanted = [(streams.go.as_raw_fd(), GO); syscalls::MOST_KEPT];
    wanted[1] = (streams.error.as_raw_fd(), ERROR);
    let mut count = 2;
    for secret in secrets.iter().take(MOST_SECRETS) {
        wanted[count] = (secret.as_raw_fd(), GO + count as i32);
        count += 1;
    }
    let kept = syscalls::keep_only(&wanted[..count]);
    (0..3).for_each(syscalls::close);
    let status = match (kept, calls::signals_by_descriptor()) {
        (Ok(()), Ok(signals)) => {
            let status = wait_for_end(program, signals);
            // rbuild does it too, if it still lives.
            (SECRETS..GO + count as i32).for_each(calls::empty);
            end_all(signals);
            status
        }
        _ => None,
    };
    match status {
        Some(status) if libc::WIFSIGNALED(status) => {
            let mut message = [Stage::Signalled as u8, 0, 0, 0, 0];
            message[1..].copy_from_slice(&libc::WTERMSIG(status).to_le_bytes());
            let _ = calls::write_all(ERROR, &message);
            syscalls::exit_now(1)
        }
        Some(status) => syscalls::exit_now(libc::WEXITSTATUS(status)),
        None => syscalls::exit_now(1),
    }
}

/// The program's status; `None` where rbuild wants an end.
fn wait_for_end(program: i32, signals: i32) -> Option<i32> {
    loop {
        let [has_signal, is_over] = calls::wait_for_input_or_end(signals, GO, None);
        if is_over {
            return None;
        }
        if !has_signal {
            continue;
        }
        match calls::read_signal(signals) {
            Some(libc::SIGCHLD) => {
                while let Some((pid, status)) = syscalls::collect_any() {
                    if pid == program {
                        return Some(status);
                    }
                }
            }
            Some(signal) => syscalls::send_signal(program, signal),
            None => {}
        }
    }
}

/// Kills all descendants: children, and those that become children by that, until there are none.
fn end_all(signals: i32) {
    const PAUSE: i64 = 5_000_000;
    loop {
        let known = kill_children();
        loop {
            match syscalls::collect_or_none() {
                Ok(Some(_)) => {}
                Ok(None) => break,
                // There are no children any more.
                Err(_) => return,
            }
        }
        if !known {
            // Without the kernel's list of children nobody can be found, and waiting for them would never end.
            return;
        }
        calls::wait_for_input_or_end(signals, GO, Some(PAUSE));
        while calls::read_signal(signals).is_some() {}
    }
}

/// Whether the kernel knows the children.
fn kill_children() -> bool {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let Ok(list) = rustix::fs::openat(CWD, c"/proc/thread-self/children", flags, Mode::empty()) else {
        return false;
    };
    let mut text = [0u8; 4096];
    let Ok(count) = rustix::io::read(&list, &mut text) else { return false };
    let mut pid = 0i32;
    for byte in &text[..count] {
        match byte {
            b'0'..=b'9' => pid = pid.saturating_mul(10).saturating_add(i32::from(byte - b'0')),
            _ if pid > 1 => {
                syscalls::send_signal(pid, libc::SIGKILL);
                pid = 0;
            }
            _ => pid = 0,
        }
    }
    true
}
