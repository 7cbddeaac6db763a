//! Answers what a copy of the kernel's files cannot: `/proc/self`, descriptors by name, other processes, terminals.
//!
//! The filter of a step sends every opening of a file here. The few that are about the kernel's files are done for
//! the process and the open file is handed to it; all others go on in the kernel. A process that changes its path
//! meanwhile gets what the kernel finds in its own root, or what it could have asked for anyway. The thread has the
//! Landlock rules of the step, Docker's capabilities at most, and while it opens something the IDs of the process.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::super::mounts::{MASKED, READ_ONLY};
use super::super::request::{Memory, string};
use super::super::spec::SandboxError;
use super::super::syscalls::{self, Notification};
use super::super::{prepare, terminal};
use super::calls;
use super::wanted::{self, Wanted};

/// What stays the same for a step.
pub(in crate::sandbox) struct Answers {
    proc: OwnedFd,
    sys: Option<OwnedFd>,
    /// Of the root file system: device, inode, and the path by which links of `/proc` name it.
    root: (u64, u64),
    root_dir: OwnedFd,
    root_path: Vec<u8>,
    /// The init of the step, from which all its processes descend.
    init: u32,
    hostname: Vec<u8>,
    /// Terminals that were made here.
    terminals: HashSet<u32>,
    /// Memory of processes that are not root's.
    memories: HashMap<u32, File>,
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

/// Remembers the memory of so many processes.
const MOST_MEMORIES: usize = 32;

/// Flags of opening that are the asker's choice.
const KEPT: OFlags = OFlags::ACCMODE
    .union(OFlags::APPEND)
    .union(OFlags::TRUNC)
    .union(OFlags::NONBLOCK)
    .union(OFlags::DIRECTORY)
    .union(OFlags::PATH);

impl Answers {
    pub(super) fn about(root: &Path, hostname: &str) -> Result<Self, SandboxError> {
        let failed = |errno| SandboxError::setup("open /proc", errno);
        let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = |path: &Path| rustix::fs::openat(CWD, path, directory, Mode::empty());
        let proc = open(Path::new("/proc")).map_err(failed)?;
        let root = open(root).map_err(failed)?;
        let stat = rustix::fs::fstat(&root).map_err(failed)?;
        let root_path = rustix::fs::readlinkat(&proc, format!("self/fd/{}", root.as_raw_fd()), Vec::new());
        Ok(Answers {
            proc,
            sys: open(Path::new("/sys")).ok(),
            root: (stat.st_dev, stat.st_ino),
            root_dir: root,
            root_path: root_path.map_err(failed)?.into_bytes(),
            init: 0,
            hostname: hostname.as_bytes().to_vec(),
            terminals: HashSet::new(),
            memories: HashMap::new(),
        })
    }

    /// Answers until `listener` has nobody left to ask or `stop` has no other end.
    pub(super) fn serve(mut self, init: u32, listener: &OwnedFd, stop: &OwnedFd) {
        self.init = init;
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
            libc::SYS_openat => (args[0], args[1], args[2]),
            // The flags come first in its structure.
            libc::SYS_openat2 => (args[0], args[1], self.word(asked.pid, args[2])?),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_readlink => return self.read_link(listener, asked, (args[0], args[1], args[2])),
            libc::SYS_readlinkat => return self.read_link(listener, asked, (args[1], args[2], args[3])),
            libc::SYS_uname => return self.uname(listener, asked),
            _ => return Ok(Answer::Native),
        };
        let Ok(path) = self.path(asked.pid, path) else { return Ok(Answer::Native) };
        let flags = OFlags::from_bits_retain(flags as u32);
        let Some(wanted) =
            wanted::to_open(&path).or_else(|| self.by_link(asked.pid, dir as i32, &path, flags))
        else {
            return Ok(Answer::Native);
        };
        let Some(ids) = self.ids_at_home(asked.pid) else { return Ok(Answer::Native) };
        syscalls::still_asked(listener, asked.id)?;
        match calls::with_ids(ids, || self.open(asked.pid, &wanted, flags))? {
            Some(file) => Ok(Answer::File(file, flags)),
            None => Ok(Answer::Native),
        }
    }

    /// What links lead to that a path ends in, such as `/var/log/nginx/error.log` in many images.
    fn by_link(&self, pid: u32, dir: i32, path: &[u8], flags: OFlags) -> Option<Wanted> {
        const MOST: usize = 8;
        if flags.contains(OFlags::NOFOLLOW) {
            return None;
        }
        let mut path = path.to_vec();
        for _ in 0..MOST {
            let (top, way) = match path.strip_prefix(b"/") {
                Some(inside) => (&self.root_dir, inside.to_vec()),
                None if dir == libc::AT_FDCWD => (&self.proc, join(pid, &[b"cwd/", &path[..]].concat())),
                None => (&self.proc, join(pid, &[format!("fd/{dir}/").as_bytes(), &path].concat())),
            };
            // An error means almost always that it is no link.
            let target = rustix::fs::readlinkat(top, OsStr::from_bytes(&way), Vec::new()).ok()?;
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
            Wanted::Of(other, rest) => {
                if wanted::is_intimate(rest) || writes {
                    if !self.is_of_step(*other) {
                        return Err(Errno::ACCESS);
                    }
                    return self.open_of(*other, rest, flags);
                }
                let path = join(*other, rest);
                Ok(Some(self.beneath(self.proc.as_fd(), &path, flags)?))
            }
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
                found(self.beneath(self.proc.as_fd(), rest, flags))
            }
            Wanted::Sys(_) if writes => Err(Errno::ROFS),
            Wanted::Sys(rest) => {
                let hidden = is_below(rest, b"sys", &MASKED)
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
                let top = rustix::fs::openat(&self.proc, format!("{pid}/root"), directory, Mode::empty())?;
                if first == b"cwd" {
                    return Err(Errno::ACCESS);
                }
                let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
                crate::fs::open_resolved(top.as_fd(), more, flags, Mode::empty(), resolve).map(Some)
            }
            _ => {
                let path = join(pid, rest);
                // Nobody may make this thread wait for the other end of a FIFO.
                let kind = rustix::fs::statat(&self.proc, OsStr::from_bytes(&path), AtFlags::empty());
                let is_fifo = kind.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Fifo)
                    && !flags.contains(OFlags::PATH);
                let at_once = if is_fifo { flags | OFlags::NONBLOCK } else { flags };
                let file = rustix::fs::openat(&self.proc, OsStr::from_bytes(&path), at_once, Mode::empty())?;
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
        (path, buffer, size): (u64, u64, u64),
    ) -> Result<Answer, Errno> {
        let Ok(path) = self.path(asked.pid, path) else { return Ok(Answer::Native) };
        let Some(wanted) = wanted::to_read_link(&path) else { return Ok(Answer::Native) };
        let Some(ids) = self.ids_at_home(asked.pid) else { return Ok(Answer::Native) };
        let link = match wanted {
            Wanted::Own(rest) => join(asked.pid, &rest),
            Wanted::Of(pid, rest) if rest.is_empty() || self.is_of_step(pid) => join(pid, &rest),
            _ => return Err(Errno::ACCESS),
        };
        syscalls::still_asked(listener, asked.id)?;
        let target = calls::with_ids(ids, || {
            rustix::fs::readlinkat(&self.proc, OsStr::from_bytes(&link), Vec::new())
        })?;
        let target = self.seen_from_inside(target.as_bytes());
        let size = usize::try_from(size as u32 as i32).ok().filter(|size| *size > 0).ok_or(Errno::INVAL)?;
        let text = &target[..target.len().min(size)];
        self.store(ids, asked.pid, buffer, text)?;
        Ok(Answer::Value(text.len() as i64))
    }

    /// A path as links of `/proc` give it out here, for a process in the root file system.
    fn seen_from_inside<'p>(&self, path: &'p [u8]) -> &'p [u8] {
        match path.strip_prefix(self.root_path.as_slice()) {
            Some(b"") => b"/",
            Some(inside) if inside.starts_with(b"/") => inside,
            _ => path,
        }
    }

    /// The system's names with the host name that the step was promised.
    fn uname(&mut self, listener: BorrowedFd<'_>, asked: &Notification) -> Result<Answer, Errno> {
        let Some(ids) = self.ids_at_home(asked.pid) else { return Ok(Answer::Native) };
        syscalls::still_asked(listener, asked.id)?;
        let names = calls::names_of_system(&self.hostname);
        self.store(ids, asked.pid, asked.args[0], &names)?;
        Ok(Answer::Value(0))
    }

    /// User and group that count for files of a process, if its root directory is that of the step.
    fn ids_at_home(&self, pid: u32) -> Option<(u32, u32)> {
        let status = self.text(pid, "status");
        let id = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            // Real, effective, saved, and that for files.
            line.split_whitespace().nth(3)?.parse::<u32>().ok()
        };
        let ids = (id("Uid:")?, id("Gid:")?);
        let root = || rustix::fs::statat(&self.proc, format!("{pid}/root"), AtFlags::empty());
        let stat = calls::with_ids(ids, root).ok()?;
        ((stat.st_dev, stat.st_ino) == self.root).then_some(ids)
    }

    /// Whether a process descends from the step's init.
    fn is_of_step(&self, pid: u32) -> bool {
        const DEEPEST: usize = 1 << 10;
        let mut at = pid;
        for _ in 0..DEEPEST {
            let text = self.text(at, "stat");
            // PID (NAME) STATE PPID (proc_pid_stat(5)).
            let parent = text.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok());
            match parent {
                Some(parent) if parent == self.init => return true,
                Some(parent) if parent > 1 => at = parent,
                _ => return false,
            }
        }
        false
    }

    fn text(&self, pid: u32, name: &str) -> String {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(&self.proc, format!("{pid}/{name}"), flags, Mode::empty());
        let Ok(file) = opened else { return String::new() };
        let mut bytes = Vec::new();
        // A process that has just ended has nothing to say. Its name may be any bytes.
        let _ = File::from(file).read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn path(&mut self, pid: u32, address: u64) -> Result<Vec<u8>, Errno> {
        let direct = string(address, &Direct(pid));
        let text = match direct {
            Err(Errno::FAULT) => {
                self.remember(pid)?;
                let of_others = OfOthers(self.memories.get(&pid).ok_or(Errno::FAULT)?);
                let text = string(address, &of_others);
                if text.is_err() {
                    // It executed another program, or the number is another process's by now.
                    self.memories.remove(&pid);
                    self.remember(pid)?;
                    string(address, &OfOthers(self.memories.get(&pid).ok_or(Errno::FAULT)?))?
                } else {
                    text?
                }
            }
            other => other?,
        };
        Ok(text.into_bytes())
    }

    /// Opens the memory of a process that is not root's, by its own IDs.
    fn remember(&mut self, pid: u32) -> Result<(), Errno> {
        if self.memories.contains_key(&pid) {
            return Ok(());
        }
        if self.memories.len() >= MOST_MEMORIES {
            self.memories.clear();
        }
        let file = self.memory(pid, OFlags::RDONLY)?;
        self.memories.insert(pid, file);
        Ok(())
    }

    fn memory(&self, pid: u32, flags: OFlags) -> Result<File, Errno> {
        let ids = self.ids_at_home(pid).ok_or(Errno::FAULT)?;
        let open =
            || rustix::fs::openat(&self.proc, format!("{pid}/mem"), flags | OFlags::CLOEXEC, Mode::empty());
        Ok(File::from(calls::with_ids(ids, open)?))
    }

    fn word(&mut self, pid: u32, address: u64) -> Result<u64, Errno> {
        let mut bytes = [0u8; 8];
        if Direct(pid).read(address, &mut bytes) != bytes.len() {
            let memory = self.memory(pid, OFlags::RDONLY)?;
            memory.read_exact_at(&mut bytes, address).map_err(|_| Errno::FAULT)?;
        }
        Ok(u64::from_ne_bytes(bytes))
    }

    fn store(&self, ids: (u32, u32), pid: u32, address: u64, bytes: &[u8]) -> Result<(), Errno> {
        if ids.0 == 0 && calls::write_memory(pid, address, bytes) == Ok(bytes.len()) {
            return Ok(());
        }
        self.memory(pid, OFlags::WRONLY)?.write_all_at(bytes, address).map_err(|_| Errno::FAULT)
    }
}

/// The memory of a process that this thread may look at as it is.
struct Direct(u32);

impl Memory for Direct {
    fn read(&self, address: u64, into: &mut [u8]) -> usize {
        calls::read_memory(self.0, address, into).unwrap_or(0)
    }
}

struct OfOthers<'a>(&'a File);

impl Memory for OfOthers<'_> {
    fn read(&self, address: u64, into: &mut [u8]) -> usize {
        self.0.read_at(into, address).unwrap_or(0)
    }
}

/// What is not there is the kernel's matter: a copy may be.
fn found(opened: Result<OwnedFd, Errno>) -> Result<Option<OwnedFd>, Errno> {
    match opened {
        Err(Errno::NOENT) => Ok(None),
        other => other.map(Some),
    }
}

fn join(pid: u32, rest: &[u8]) -> Vec<u8> {
    let mut path = pid.to_string().into_bytes();
    if !rest.is_empty() {
        path.push(b'/');
        path.extend_from_slice(rest);
    }
    path
}

/// Whether a path in one of the kernel's file systems is one of these, or lies below one.
fn is_below(rest: &[u8], top: &[u8], list: &[&std::ffi::CStr]) -> bool {
    list.iter().any(|path| {
        let below = path.to_bytes().strip_prefix(top).and_then(|path| path.strip_prefix(b"/"));
        let after = below.and_then(|path| rest.strip_prefix(path));
        after.is_some_and(|after| after.is_empty() || after.starts_with(b"/"))
    })
}
