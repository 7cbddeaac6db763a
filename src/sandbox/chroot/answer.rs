//! Answers what a copy of the kernel's files cannot: `/proc/self`, descriptors by name, other processes, terminals.
//!
//! The filter of a step sends every opening of a file here. The few that are about the kernel's files are done for
//! the process and the open file is handed to it; all others go on in the kernel. A process that changes its path
//! meanwhile gets what the kernel finds in its own root, or what it could have asked for anyway. No directory outside
//! of the root is ever handed over: from one, `..` would lead to all others. The thread has the
//! Landlock rules of the step, Docker's capabilities at most, and while it opens something the IDs of the process.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::super::mounts::{MASKED, READ_ONLY};
use super::super::spec::SandboxError;
use super::super::syscalls::{self, Notification};
use super::super::{prepare, terminal};
use super::calls;
use super::executable::Executable;
use super::mirror;
use super::processes::{Processes, join};
use super::wanted::{self, Wanted};

/// What stays the same for a step.
pub(in crate::sandbox) struct Answers {
    processes: Processes,
    sys: Option<OwnedFd>,
    hostname: Vec<u8>,
    /// The step has no network, and sees none.
    offline: bool,
    /// Terminals that were made here.
    terminals: HashSet<u32>,
    executable: Executable,
}

/// Waits until a process hands over where its filter asks; `None` where it ended before.
pub(super) fn wait_for(channel: &OwnedFd, stop: &OwnedFd) -> Option<OwnedFd> {
    loop {
        let mut fds = [PollFd::new(channel, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return None,
        }
        if fds[0].revents().contains(PollFlags::IN) {
            return terminal::receive(channel);
        }
        if !fds[1].revents().is_empty() {
            return None;
        }
    }
}

enum Answer {
    /// The kernel does it.
    Native,
    Value(i64),
    File(OwnedFd, OFlags),
}

/// CAP_MKNOD, as a set.
const MKNOD: u64 = 1 << 27;
/// What creat(2) opens with.
#[cfg(target_arch = "x86_64")]
const CREAT: OFlags = OFlags::CREATE.union(OFlags::WRONLY).union(OFlags::TRUNC);
/// Flags of opening that are the asker's choice.
const KEPT: OFlags = OFlags::ACCMODE
    .union(OFlags::APPEND)
    .union(OFlags::TRUNC)
    .union(OFlags::NONBLOCK)
    .union(OFlags::DIRECTORY)
    .union(OFlags::PATH);

impl Answers {
    pub(super) fn about(root: &Path, hostname: &str, offline: bool) -> Result<Self, SandboxError> {
        let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Answers {
            processes: Processes::in_root(root)?,
            sys: rustix::fs::openat(CWD, c"/sys", directory, Mode::empty()).ok(),
            hostname: hostname.as_bytes().to_vec(),
            offline,
            terminals: HashSet::new(),
            executable: Executable::default(),
        })
    }

    /// Answers until `listener` has nobody left to ask or `stop` has no other end.
    pub(super) fn serve(mut self, init: u32, listener: &OwnedFd, stop: &OwnedFd) {
        self.processes.init = init;
        // Less would not let it look at processes that have these.
        let kept = prepare::DEFAULT_CAPABILITIES & prepare::permitted();
        if calls::leave_groups().is_err() || syscalls::set_capabilities(kept).is_err() {
            return;
        }
        loop {
            let mut fds = [PollFd::new(listener, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
            match poll(&mut fds, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return,
            }
            if !fds[1].revents().is_empty() || fds[0].revents().contains(PollFlags::HUP) {
                return;
            }
            if fds[0].revents().contains(PollFlags::IN)
                && let Ok(asked) = syscalls::next_notification(listener.as_fd())
            {
                // An error means that the process is gone.
                let _ = match self.answer(listener.as_fd(), &asked) {
                    Ok(Answer::Native) => syscalls::continue_notification(listener.as_fd(), asked.id),
                    Ok(Answer::Value(value)) => {
                        syscalls::answer_notification(listener.as_fd(), asked.id, Ok(value))
                    }
                    Ok(Answer::File(file, flags)) => {
                        let close_on_exec = flags.contains(OFlags::CLOEXEC);
                        match calls::hand_in(listener.as_fd(), asked.id, file.as_fd(), close_on_exec) {
                            Err(Errno::NOENT) | Ok(()) => Ok(()),
                            // For example too many open files.
                            Err(errno) => {
                                syscalls::answer_notification(listener.as_fd(), asked.id, Err(errno))
                            }
                        }
                    }
                    Err(errno) => syscalls::answer_notification(listener.as_fd(), asked.id, Err(errno)),
                };
            }
        }
    }

    fn answer(&mut self, listener: BorrowedFd<'_>, asked: &Notification) -> Result<Answer, Errno> {
        let args = &asked.args;
        let call = libc::c_long::from(asked.number);
        let here = u64::from(libc::AT_FDCWD as u32);
        let (dir, path, flags) = match call {
            #[cfg(target_arch = "x86_64")]
            libc::SYS_open => (here, args[0], args[1]),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_creat => (here, args[0], CREAT.bits().into()),
            libc::SYS_openat => (args[0], args[1], args[2]),
            // The flags come first in its structure.
            libc::SYS_openat2 => (args[0], args[1], self.processes.word(asked.pid, args[2])?),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_readlink => return self.read_link(listener, asked, (here, args[0], args[1], args[2])),
            libc::SYS_readlinkat => {
                return self.read_link(listener, asked, (args[0], args[1], args[2], args[3]));
            }
            #[cfg(target_arch = "x86_64")]
            libc::SYS_mknod => return self.make_node(listener, asked, (here, args[0]), args[1], args[2]),
            libc::SYS_mknodat => {
                return self.make_node(listener, asked, (args[0], args[1]), args[2], args[3]);
            }
            libc::SYS_execve => return self.execute(listener, asked, (here, args[0])),
            libc::SYS_execveat => return self.execute(listener, asked, (args[0], args[1])),
            libc::SYS_uname => return self.uname(listener, asked),
            libc::SYS_statfs => return self.file_system(listener, asked),
            _ => return Ok(Answer::Native),
        };
        let flags = OFlags::from_bits_retain(flags as u32);
        let follow = !flags.contains(OFlags::NOFOLLOW);
        let Some(wanted) = self.wanted(asked.pid, (dir, path), follow) else { return Ok(Answer::Native) };
        let Some(ids) = self.processes.ids(asked.pid) else { return Ok(Answer::Native) };
        syscalls::still_asked(listener, asked.id)?;
        let Some(file) = calls::with_ids(ids, || self.open(asked.pid, &wanted, flags))? else {
            return Ok(Answer::Native);
        };
        let file = mirror::hand_over(&self.processes, file, flags & KEPT, ids)?;
        Ok(Answer::File(file, flags))
    }

    /// The file of the kernel that a process names.
    fn wanted(&mut self, pid: u32, (dir, path): (u64, u64), follow: bool) -> Option<Wanted> {
        let path = self.processes.path(pid, path).ok()?;
        let path = self.processes.whole(pid, dir as i32, &path)?;
        wanted::to_open(&path).or_else(|| if follow { self.by_link(path) } else { None })
    }

    /// What links lead to that a path ends in, such as `/var/log/nginx/error.log` in many images.
    fn by_link(&self, mut path: Vec<u8>) -> Option<Wanted> {
        const MOST: usize = 8;
        for _ in 0..MOST {
            let inside = OsStr::from_bytes(path.strip_prefix(b"/")?);
            // An error means almost always that it is no link.
            let target = rustix::fs::readlinkat(&self.processes.root_dir, inside, Vec::new()).ok()?;
            path = wanted::behind_link(&path, target.as_bytes())?;
            if let Some(wanted) = wanted::to_open(&path) {
                return Some(wanted);
            }
        }
        None
    }

    /// `None` is the kernel's matter, which finds the copy or nothing.
    fn open(&mut self, pid: u32, wanted: &Wanted, flags: OFlags) -> Result<Option<OwnedFd>, Errno> {
        let writes = flags.contains(OFlags::WRONLY) || flags.contains(OFlags::RDWR);
        let flags = (flags & KEPT) | OFlags::NOCTTY | OFlags::CLOEXEC;
        match wanted {
            Wanted::Own(rest) => self.open_of(pid, rest, flags),
            Wanted::Of(other, rest) if self.processes.is_of_step(*other) => {
                let opened = self.open_of(*other, rest, flags)?;
                // The number may be another process's by now.
                Ok(opened.filter(|_| self.processes.is_of_step(*other)))
            }
            Wanted::Of(..) => Ok(None),
            Wanted::Proc(rest) => {
                if writes {
                    return Err(if is_below(rest, b"proc", &READ_ONLY) {
                        Errno::ROFS
                    } else {
                        Errno::ACCESS
                    });
                }
                if is_below(rest, b"proc", &MASKED) || rest.as_slice() == b"sys/kernel/hostname" {
                    return Ok(None);
                }
                found(self.beneath(self.processes.proc.as_fd(), rest, flags))
            }
            Wanted::Sys(_) if writes => Err(Errno::ROFS),
            Wanted::Sys(rest) => {
                let hidden = is_below(rest, b"sys", &MASKED)
                    || self.offline && rest.starts_with(b"class/net")
                    || rest.split(|c| *c == b'/').any(|part| part == b"thermal_throttle");
                match &self.sys {
                    Some(sys) if !hidden => found(self.beneath(sys.as_fd(), rest, flags)),
                    _ => Ok(None),
                }
            }
            Wanted::NewTerminal => {
                let master = rustix::fs::openat(CWD, c"/dev/ptmx", flags, Mode::empty())?;
                if !flags.contains(OFlags::PATH) {
                    self.terminals.insert(calls::terminal_number(master.as_fd())?);
                }
                Ok(Some(master))
            }
            Wanted::Terminal(number) if self.terminals.contains(number) => {
                Ok(Some(rustix::fs::openat(CWD, format!("/dev/pts/{number}"), flags, Mode::empty())?))
            }
            Wanted::Terminal(_) => Ok(None),
        }
    }

    /// In the directory of a process of the step.
    fn open_of(&self, pid: u32, rest: &[u8], flags: OFlags) -> Result<Option<OwnedFd>, Errno> {
        let (first, more) = match rest.iter().position(|c| *c == b'/') {
            Some(at) => (&rest[..at], &rest[at + 1..]),
            None => (rest, &b""[..]),
        };
        let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match first {
            b"map_files" => Err(Errno::PERM),
            b"root" | b"cwd" if !more.is_empty() => {
                let top = rustix::fs::openat(
                    &self.processes.proc,
                    format!("{pid}/root"),
                    directory,
                    Mode::empty(),
                )?;
                if first == b"cwd" {
                    return Err(Errno::ACCESS);
                }
                let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
                crate::fs::open_resolved(top.as_fd(), more, flags, Mode::empty(), resolve).map(Some)
            }
            _ => {
                let path = join(pid, rest);
                // Nobody may make this thread wait for the other end of a FIFO.
                let kind =
                    rustix::fs::statat(&self.processes.proc, OsStr::from_bytes(&path), AtFlags::empty());
                let is_fifo = kind.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Fifo)
                    && !flags.contains(OFlags::PATH);
                let at_once = if is_fifo { flags | OFlags::NONBLOCK } else { flags };
                let file = rustix::fs::openat(
                    &self.processes.proc,
                    OsStr::from_bytes(&path),
                    at_once,
                    Mode::empty(),
                )?;
                if is_fifo && !flags.contains(OFlags::NONBLOCK) {
                    let status = rustix::fs::fcntl_getfl(&file)?;
                    rustix::fs::fcntl_setfl(&file, status - OFlags::NONBLOCK)?;
                }
                Ok(Some(file))
            }
        }
    }

    fn beneath(&self, dir: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let path = if path.is_empty() { b"." } else { path };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        crate::fs::open_resolved(dir, path, flags, Mode::empty(), resolve)
    }

    fn read_link(
        &mut self,
        listener: BorrowedFd<'_>,
        asked: &Notification,
        (dir, path, buffer, size): (u64, u64, u64, u64),
    ) -> Result<Answer, Errno> {
        let Ok(path) = self.processes.path(asked.pid, path) else { return Ok(Answer::Native) };
        let whole = self.processes.whole(asked.pid, dir as i32, &path);
        let Some(wanted) = whole.and_then(|path| wanted::to_read_link(&path)) else {
            return Ok(Answer::Native);
        };
        let Some(ids) = self.processes.ids(asked.pid) else { return Ok(Answer::Native) };
        let link = match wanted {
            Wanted::Own(rest) => join(asked.pid, &rest),
            Wanted::Of(pid, rest) if self.processes.is_of_step(pid) => join(pid, &rest),
            _ => return Ok(Answer::Native),
        };
        syscalls::still_asked(listener, asked.id)?;
        let target = calls::with_ids(ids, || {
            rustix::fs::readlinkat(&self.processes.proc, OsStr::from_bytes(&link), Vec::new())
        })?;
        let target = target.as_bytes();
        let target = self.processes.inside(target).unwrap_or(target);
        let size = usize::try_from(size as u32 as i32).ok().filter(|size| *size > 0).ok_or(Errno::INVAL)?;
        let text = &target[..target.len().min(size)];
        self.processes.store(ids, asked.pid, buffer, text)?;
        Ok(Answer::Value(text.len() as i64))
    }

    /// A device that steps may not open is an empty file that says what it should be.
    fn make_node(
        &mut self,
        listener: BorrowedFd<'_>,
        asked: &Notification,
        (dir, path): (u64, u64),
        mode: u64,
        device: u64,
    ) -> Result<Answer, Errno> {
        let path = self.processes.path(asked.pid, path)?;
        let path = self.processes.whole(asked.pid, dir as i32, &path).ok_or(Errno::PERM)?;
        let Some((0, _)) = self.processes.ids(asked.pid) else { return Err(Errno::PERM) };
        if prepare::permitted() & MKNOD == 0 {
            return Err(Errno::PERM);
        }
        let mode = mode as u32 & !self.processes.umask(asked.pid);
        let at = path.iter().rposition(|c| *c == b'/').ok_or(Errno::NOENT)?;
        let (above, name) = (&path[..at], &path[at + 1..]);
        let above = self.processes.directory(above)?;
        syscalls::still_asked(listener, asked.id)?;
        crate::fs::make_recorded_node(above.as_fd(), OsStr::from_bytes(name), mode, device)?;
        Ok(Answer::Value(0))
    }

    /// The kernel executes it. Before that, `/proc/self/exe` is made to lead where it does for the one who asks.
    fn execute(
        &mut self,
        listener: BorrowedFd<'_>,
        asked: &Notification,
        (dir, path): (u64, u64),
    ) -> Result<Answer, Errno> {
        let Some(Wanted::Own(rest)) = self.wanted(asked.pid, (dir, path), true) else {
            return Ok(Answer::Native);
        };
        if rest == b"exe" && self.processes.ids(asked.pid).is_some() {
            syscalls::still_asked(listener, asked.id)?;
            self.executable.lead_to_that_of(&self.processes, asked.pid)?;
        }
        Ok(Answer::Native)
    }

    /// Where terminals are looked for, only because the file system there is the right one.
    fn file_system(&mut self, listener: BorrowedFd<'_>, asked: &Notification) -> Result<Answer, Errno> {
        let path = self.processes.path(asked.pid, asked.args[0]).unwrap_or_default();
        let Some(path) = wanted::top_of_kernel(&path) else { return Ok(Answer::Native) };
        let Some(ids) = self.processes.ids(asked.pid) else { return Ok(Answer::Native) };
        let Ok(facts) = calls::file_system_of(path) else { return Ok(Answer::Native) };
        syscalls::still_asked(listener, asked.id)?;
        self.processes.store(ids, asked.pid, asked.args[1], &facts)?;
        Ok(Answer::Value(0))
    }

    /// The system's names with the host name that the step was promised.
    fn uname(&mut self, listener: BorrowedFd<'_>, asked: &Notification) -> Result<Answer, Errno> {
        let Some(ids) = self.processes.ids(asked.pid) else { return Ok(Answer::Native) };
        syscalls::still_asked(listener, asked.id)?;
        let names = calls::names_of_system(&self.hostname);
        self.processes.store(ids, asked.pid, asked.args[0], &names)?;
        Ok(Answer::Value(0))
    }
}

/// What is not there is the kernel's matter: a copy may be.
fn found(opened: Result<OwnedFd, Errno>) -> Result<Option<OwnedFd>, Errno> {
    match opened {
        Err(Errno::NOENT) => Ok(None),
        other => other.map(Some),
    }
}

/// Whether a path in one of the kernel's file systems is one of these, or lies below one.
fn is_below(rest: &[u8], top: &[u8], list: &[&std::ffi::CStr]) -> bool {
    list.iter().any(|path| {
        let below = path.to_bytes().strip_prefix(top).and_then(|path| path.strip_prefix(b"/"));
        let after = below.and_then(|path| rest.strip_prefix(path));
        after.is_some_and(|after| after.is_empty() || after.starts_with(b"/"))
    })
}
