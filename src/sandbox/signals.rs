//! Signals that this process gets and a process in the sandbox is meant to have.
//!
//! The first process of a PID namespace is not ended by a signal that it does not handle: the kernel drops the
//! signal. So that a program ends in here as it would outside, such a signal ends it by force; one that it ignores
//! on purpose has to come three times.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::pipe::{PipeFlags, pipe_with};

/// How often a signal that is ignored has to come.
const INSISTENCE: u32 = 3;
/// Between two of them.
const PATIENCE: Duration = Duration::from_secs(3);

/// Where signals are handed in, from any thread.
#[derive(Debug)]
pub struct Signals {
    read: OwnedFd,
    write: OwnedFd,
    /// There is a process that takes them.
    open: AtomicBool,
}

impl Signals {
    /// For one process. Fails only when this process is out of file descriptors.
    pub fn new() -> io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        Ok(Signals { read, write, open: AtomicBool::new(false) })
    }

    /// Hands a signal in; `false` where no process runs that would get it.
    pub fn send(&self, signal: i32) -> bool {
        let Ok(byte) = u8::try_from(signal) else { return false };
        self.open.load(Ordering::SeqCst) && rustix::io::write(&self.write, &[byte]).is_ok()
    }

    pub(super) fn set_open(&self, open: bool) {
        self.open.store(open, Ordering::SeqCst);
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.read.as_fd()
    }

    pub(super) fn take(&self) -> Option<i32> {
        let mut byte = [0u8; 1];
        (rustix::io::read(&self.read, &mut byte) == Ok(1)).then(|| byte[0].into())
    }
}

/// What a process does with a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Disposition {
    /// Has a handler, or waits for it.
    Handles,
    Ignores,
    /// Nothing: the signal would end a process outside.
    Default,
}

/// Delivers signals to the first process of a PID namespace.
#[derive(Debug, Default)]
pub(super) struct Delivery {
    /// The process is an init, which passes every signal on to the program: its first child.
    to_init: bool,
    ignored: Option<(i32, u32, Instant)>,
}

impl Delivery {
    pub fn new(to_init: bool) -> Self {
        Delivery { to_init, ignored: None }
    }

    /// Sends a signal on. `true` where it must end the process and the kernel would drop it.
    pub fn deliver(&mut self, process: BorrowedFd<'_>, signal: i32) -> bool {
        let found = match signal {
            libc::SIGHUP | libc::SIGINT | libc::SIGQUIT | libc::SIGTERM | libc::SIGUSR1 | libc::SIGUSR2 => {
                self.disposition(process, signal)
            }
            _ => Disposition::Handles,
        };
        match found {
            // A child of an init ends by it, as it would outside.
            Disposition::Default if !self.to_init => return true,
            Disposition::Ignores => return self.insists(signal, Instant::now()),
            Disposition::Default | Disposition::Handles => {}
        }
        if let Some(signal) = rustix::process::Signal::from_named_raw(signal) {
            // An error means that it is gone.
            let _ = rustix::process::pidfd_send_signal(process, signal);
        }
        false
    }

    /// Counts an interrupt from the keyboard, which the terminal delivers by itself. `true` where the program does not
    /// handle it and it came often enough: a child that handles it may be meant.
    pub fn typed(&mut self, process: BorrowedFd<'_>) -> bool {
        self.disposition(process, libc::SIGINT) != Disposition::Handles
            && self.insists(libc::SIGINT, Instant::now())
    }

    /// What the program does with a signal. Where nothing is known it is left to decide.
    fn disposition(&self, process: BorrowedFd<'_>, signal: i32) -> Disposition {
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", process.as_raw_fd()));
        let mut pid = info.ok().and_then(|text| number(&text, "Pid:", 10)).filter(|pid| *pid > 0);
        if self.to_init {
            pid = pid.and_then(first_child);
        }
        let status = pid.and_then(|pid| std::fs::read_to_string(format!("/proc/{pid}/status")).ok());
        status.map_or(Disposition::Handles, |status| disposition_in(&status, signal))
    }

    fn insists(&mut self, signal: i32, now: Instant) -> bool {
        let before = match self.ignored {
            Some((last, count, at)) if last == signal && now.duration_since(at) <= PATIENCE => count,
            _ => 0,
        };
        self.ignored = Some((signal, before + 1, now));
        before + 1 >= INSISTENCE
    }
}

/// The oldest child of a process; those that it got from others come behind its own.
fn first_child(pid: u64) -> Option<u64> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

/// From the text of `/proc/PID/status` (proc_pid_status(5)).
fn disposition_in(status: &str, signal: i32) -> Disposition {
    let has = |name: &str| number(status, name, 16).is_none_or(|set| set >> (signal - 1) & 1 == 1);
    // What is blocked is waited for in other ways.
    match (has("SigCgt:") || has("SigBlk:"), has("SigIgn:")) {
        (true, _) => Disposition::Handles,
        (false, true) => Disposition::Ignores,
        (false, false) => Disposition::Default,
    }
}

fn number(text: &str, name: &str, base: u32) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    u64::from_str_radix(line.trim(), base).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dispositions_are_read_from_the_kernels_words() {
        let status =
            "Name:\tsh\nSigBlk:\t0000000000000200\nSigIgn:\t0000000000000004\nSigCgt:\t0000000000004002\n";
        for (signal, wanted) in [
            (libc::SIGTERM, Disposition::Handles),
            (libc::SIGINT, Disposition::Handles),
            (libc::SIGUSR1, Disposition::Handles),
            (libc::SIGQUIT, Disposition::Ignores),
            (libc::SIGHUP, Disposition::Default),
        ] {
            assert_eq!(disposition_in(status, signal), wanted, "{signal}");
        }
        assert_eq!(disposition_in("", libc::SIGINT), Disposition::Handles);
    }

    #[test]
    fn what_is_ignored_has_to_come_three_times_in_a_row() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut delivery = Delivery::default();
        assert!(!delivery.insists(libc::SIGINT, at(0)));
        assert!(!delivery.insists(libc::SIGINT, at(1)));
        assert!(!delivery.insists(libc::SIGTERM, at(1)));
        assert!(!delivery.insists(libc::SIGINT, at(2)));
        assert!(!delivery.insists(libc::SIGINT, at(9)));
        assert!(!delivery.insists(libc::SIGINT, at(10)));
        assert!(delivery.insists(libc::SIGINT, at(11)));
    }

    #[test]
    fn signals_are_taken_only_while_there_is_a_process() -> io::Result<()> {
        let signals = Signals::new()?;
        assert!(!signals.send(libc::SIGTERM));
        signals.set_open(true);
        assert!(signals.send(libc::SIGTERM) && signals.send(libc::SIGINT));
        assert_eq!([signals.take(), signals.take(), signals.take()], [Some(15), Some(2), None]);
        Ok(())
    }
}
