//! A small init: the first process of a container whose program is its child.
//!
//! It is a copy of rbuild that never executes anything, and it may have the program's IDs. So before there is a
//! program, all that is rbuild's goes: its open files, its arguments and environment, and the permission to look into
//! its memory, which the program gets back when it is executed. Nothing here but [`own_words`] allocates.

use std::ops::Range;
use std::os::fd::AsRawFd as _;

use rustix::io::Errno;

use super::child::Streams;
use super::prepare::Plan;
use super::{clone, syscalls};

/// Arguments and environment are at most three quarters of 8 MiB (execve(2)).
const MOST_WORDS: usize = 8 << 20;

/// Leaves an init behind and goes on as its child, in a process group that has the terminal.
pub(super) fn become_init(plan: &Plan, streams: &Streams<'_>) -> Result<(), Errno> {
    syscalls::set_signal_mask(u64::MAX);
    syscalls::prctl(libc::PR_SET_DUMPABLE, 0)?;
    close_but_standard_and(streams.error.as_raw_fd())?;
    if let Some(words) = &plan.own_words {
        // SAFETY: it is the memory of this process's arguments and environment. There is one thread, which reads
        // neither: those of the program are in the plan.
        unsafe { overwrite(words, b"init") };
    }
    // SAFETY: there is one thread here, and neither side allocates or unwinds before it executes a program or exits.
    match unsafe { clone::fork_here() }? {
        Some(program) => {
            // The program tells how it starts; its end of the pipe is the last one.
            syscalls::close(streams.error.as_raw_fd());
            live(program)
        }
        None => {
            rustix::process::setpgid(None, None)?;
            if plan.terminal {
                // Until it is in front, the terminal would stop it for trying.
                let own = rustix::process::getpgrp();
                rustix::termios::tcsetpgrp(rustix::stdio::stdin(), own)?;
            }
            syscalls::set_signal_mask(0);
            syscalls::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong).map(drop)
        }
    }
}

/// Passes signals on to the program, collects whatever has lost its parent, and ends as the program does, which ends
/// everything else. Signals are blocked already.
fn live(program: i32) -> ! {
    loop {
        match syscalls::wait_for_signal() {
            Some(libc::SIGCHLD) => {
                while let Some((pid, status)) = syscalls::collect_any() {
                    if pid != program {
                        continue;
                    }
                    match libc::WIFSIGNALED(status) {
                        true => syscalls::exit_now(128 + libc::WTERMSIG(status)),
                        false => syscalls::exit_now(libc::WEXITSTATUS(status)),
                    }
                }
            }
            Some(signal) => syscalls::send_signal(program, signal),
            None => {}
        }
    }
}

/// Closes all descriptors but the standard streams and one more.
fn close_but_standard_and(kept: i32) -> Result<(), Errno> {
    let kept = kept.cast_unsigned();
    for (first, last) in [(3, kept.saturating_sub(1)), (kept.saturating_add(1).max(3), u32::MAX)] {
        if first <= last {
            // SAFETY: numbers only; this process has no use for the descriptors any more.
            syscalls::check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) })?;
        }
    }
    Ok(())
}

/// Fills memory with zeros behind `text`, or as much of it as there is space for.
///
/// # Safety
/// The addresses are those of memory that may be written to and that nothing in this process reads any more.
unsafe fn overwrite(place: &Range<usize>, text: &[u8]) {
    for (number, at) in place.clone().enumerate() {
        let byte = text.get(number).copied().unwrap_or(0);
        // SAFETY: the caller promises it. Volatile: to the compiler these would be writes that nobody reads.
        unsafe { std::ptr::with_exposed_provenance_mut::<u8>(at).write_volatile(byte) };
    }
}

/// Where the kernel says that the arguments and environment of this process lie: one follows the other.
pub(super) fn own_words() -> Option<Range<usize>> {
    words_in(&std::fs::read_to_string("/proc/self/stat").ok()?)
}

/// From the text of `/proc/PID/stat` (proc_pid_stat(5)). Fields are counted behind the name, which may hold anything.
fn words_in(stat: &str) -> Option<Range<usize>> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    // The first of them is the third field: arg_start is the 48th, env_end the 51st.
    let field = |number: usize| fields.get(number - 3)?.parse().ok();
    let words = field(48)?..field(51)?;
    // Nothing, or an environment that was moved elsewhere.
    (words.start > 0 && (1..=MOST_WORDS).contains(&words.len())).then_some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_of_arguments_and_environment_is_read_from_the_kernels_words() {
        let words = own_words().expect("words of this test");
        // SAFETY: only compared: the memory of the arguments, which this process does not change.
        let text = unsafe {
            std::slice::from_raw_parts(std::ptr::with_exposed_provenance::<u8>(words.start), words.len())
        };
        let first = std::env::args_os().next().expect("a name");
        assert!(text.starts_with(first.as_encoded_bytes()));
        let stat = |start: &str, end: &str| {
            let mut fields = vec!["0"; 49];
            (fields[45], fields[48]) = (start, end);
            format!("1 (a ) b) {}", fields.join(" "))
        };
        assert_eq!(words_in(&stat("4096", "5000")), Some(4096..5000));
        for (start, end) in [("0", "0"), ("9", "9"), ("9", "8"), ("1", "99999999"), ("x", "1")] {
            assert_eq!(words_in(&stat(start, end)), None, "{start} {end}");
        }
        assert_eq!(words_in("1 (a) S 1"), None);
    }
}
