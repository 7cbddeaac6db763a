//! Programs that rbuild runs: hearing what they say, and ending them when the caller gives up.

use std::io::{self, Read};
use std::os::fd::AsFd as _;
use std::process::{Child, ExitStatus};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use crate::cancel::Cancel;

/// The most that is kept of what a program prints, in bytes; git's list of refs may be long.
const OUTPUT_LIMIT: u64 = 256 << 20;

/// How long a program may take to clear its temporaries once told to end.
const GRACE: Duration = Duration::from_secs(2);

/// Reads a pipe to its end in a thread of its own, so that no pipe can block the program.
pub(crate) fn collect(pipe: Option<impl Read + Send + 'static>) -> Option<JoinHandle<Vec<u8>>> {
    let mut pipe = pipe?;
    let read = move || {
        let mut bytes = Vec::new();
        let _ = pipe.by_ref().take(OUTPUT_LIMIT).read_to_end(&mut bytes);
        let _ = io::copy(&mut pipe, &mut io::sink());
        bytes
    };
    std::thread::Builder::new().name("program-output".into()).spawn(read).ok()
}

/// Waits for the end of a program that leads a process group; `None` where the caller's cancellation
/// brought it about.
pub(crate) fn wait(child: &mut Child, cancel: &Cancel) -> io::Result<Option<ExitStatus>> {
    let pid = Pid::from_child(child);
    let ended = pidfd_open(pid, PidfdFlags::empty())?;
    let (cancelled, ended) = (cancel.fd(), ended.as_fd());
    let mut fds = [PollFd::new(&cancelled, PollFlags::IN), PollFd::new(&ended, PollFlags::IN)];
    while let Err(error) = poll(&mut fds, None) {
        if error != rustix::io::Errno::INTR {
            break;
        }
    }
    if !cancel.is_cancelled() {
        return child.wait().map(Some);
    }
    // Told to end, a program removes its locks and half-written files.
    let _ = kill_process_group(pid, Signal::TERM);
    let until = Instant::now() + GRACE;
    while child.try_wait()?.is_none() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(10));
    }
    let _ = kill_process_group(pid, Signal::KILL);
    child.wait().map(|_| None)
}
