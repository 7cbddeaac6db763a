//! `/proc/self/exe` as something to execute: a link in the root file system, which all processes share, made to lead
//! to the program of the one that is about to follow it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::calls;
use super::processes::{Processes, join};

/// Where the link leads, and who may not have followed it yet: processes, and the stacks that they had.
#[derive(Debug, Default)]
pub(super) struct Executable {
    target: Vec<u8>,
    waited_for: Vec<(u32, u64)>,
}

/// Waits no longer for other processes.
const LONGEST: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_micros(200);

impl Executable {
    /// Must be called right before the process goes on.
    pub(super) fn lead_to_that_of(&mut self, processes: &Processes, pid: u32) -> Result<(), Errno> {
        let ids = processes.ids(pid).ok_or(Errno::ACCESS)?;
        let link = join(pid, b"exe");
        let read = || rustix::fs::readlinkat(&processes.proc, OsStr::from_bytes(&link), Vec::new());
        let target = calls::with_ids(ids, read)?.into_bytes();
        let target = processes.inside(&target).ok_or(Errno::ACCESS)?;
        if target != self.target {
            self.wait(processes);
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let proc = rustix::fs::openat(&processes.root_dir, c"proc", flags, Mode::empty())?;
            let own = rustix::fs::openat(&proc, c"self", flags, Mode::empty())?;
            let _ = rustix::fs::unlinkat(&own, c"exe.new", rustix::fs::AtFlags::empty());
            rustix::fs::symlinkat(OsStr::from_bytes(target), &own, c"exe.new")?;
            rustix::fs::renameat(&own, c"exe.new", &own, c"exe")?;
            self.target = target.to_vec();
        }
        self.forget(processes);
        self.waited_for.extend(start_of_stack(processes, pid).map(|stack| (pid, stack)));
        Ok(())
    }

    /// Until all have executed their programs.
    fn wait(&mut self, processes: &Processes) {
        let begun = Instant::now();
        self.forget(processes);
        while !self.waited_for.is_empty() && begun.elapsed() < LONGEST {
            std::thread::sleep(PAUSE);
            self.forget(processes);
        }
        self.waited_for.clear();
    }

    /// A program has another stack than the one before.
    fn forget(&mut self, processes: &Processes) {
        self.waited_for.retain(|(pid, stack)| start_of_stack(processes, *pid) == Some(*stack));
    }
}

/// Field 28 of proc_pid_stat(5).
fn start_of_stack(processes: &Processes, pid: u32) -> Option<u64> {
    let text = processes.text(pid, "stat");
    let (_, rest) = text.rsplit_once(") ")?;
    // The rest begins with field 3.
    rest.split(' ').nth(25)?.parse().ok().filter(|start| *start != 0)
}
