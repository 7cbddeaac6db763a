//! Answers system calls that a process has not the rights for.
//!
//! Where root in RUN is nobody outside, that is `mknod` of devices: the node is made for it, on its root
//! file system, from which no device can be opened.
//!
//! Where one ID is all there is, it is those that need more of them.
//! A filter sends `chown`, `mknod` and calls about identities here. The intended owner, or device, is written
//! to the file as an extended attribute, from which the layer gets it, and the process is told that
//! it worked. Everything is done with the rights of the process's own user namespace and relative to
//! its own root, so a race between looking at an argument and using it can only hit files that the
//! process could change anyway.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, XattrFlags};
use rustix::io::Errno;
use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::fs::{NODE_RECORD, OWNER_RECORD, owner_record, parse_owner_record};

use super::identity::{Census, Process, Reply};
use super::private;
use super::syscalls::{self, Notification};

/// Leaves an owner as it is.
const KEEP: u32 = u32::MAX;
const PATH_MAX: usize = 4096;

/// What is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Duty {
    /// Owners and identities, of which there is one.
    OneId,
    /// Device nodes, which only root of this machine may make.
    Devices,
}

/// Answers until `listener` has nobody left to ask or `stop` has no other end.
pub(super) fn supervise(listener: &OwnedFd, stop: &OwnedFd, duty: Duty) {
    let Ok(mut supervisor) = Supervisor::new(duty) else { return };
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
            let _ = match supervisor.answer(listener.as_fd(), &asked) {
                Ok(Answer::Value(value)) => {
                    syscalls::answer_notification(listener.as_fd(), asked.id, Ok(value))
                }
                Ok(Answer::Native) => syscalls::continue_notification(listener.as_fd(), asked.id),
                Err(errno) => syscalls::answer_notification(listener.as_fd(), asked.id, Err(errno)),
            };
        }
    }
}

enum Answer {
    /// What the call returns.
    Value(i64),
    /// The kernel shall do it.
    Native,
}

/// A file that a call names.
struct Target {
    path: OwnedFd,
}

struct Supervisor {
    /// This machine's, whatever the root of this thread is at the moment.
    proc: OwnedFd,
    census: Census,
    duty: Duty,
}

impl Supervisor {
    fn new(duty: Duty) -> Result<Self, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let proc = rustix::fs::openat(CWD, c"/proc", flags, Mode::empty())?;
        // SAFETY: root, working directory and umask of this thread only; it opens nothing by path but
        // what a process names.
        unsafe { unshare_unsafe(UnshareFlags::FS) }?;
        rustix::process::umask(Mode::empty());
        Ok(Supervisor { proc, census: Census::default(), duty })
    }

    fn answer(&mut self, listener: BorrowedFd<'_>, asked: &Notification) -> Result<Answer, Errno> {
        let call = libc::c_long::from(asked.number);
        let arg = |at: usize| asked.args[at];
        let ids = |at: usize| (arg(at) as u32, arg(at + 1) as u32);
        match call {
            libc::SYS_fchown => {
                let target = self.descriptor(asked.pid, arg(0) as i32)?;
                self.chown(listener, asked, &target, ids(1))
            }
            libc::SYS_fchownat => {
                let target = self.at(asked.pid, arg(0) as i32, arg(1), arg(4) as u32)?;
                self.chown(listener, asked, &target, ids(2))
            }
            libc::SYS_mknodat => self.mknod(listener, asked, arg(0) as i32, arg(1), arg(2) as u32, arg(3)),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_chown | libc::SYS_lchown => {
                let flags = if call == libc::SYS_lchown { libc::AT_SYMLINK_NOFOLLOW } else { 0 };
                let target = self.at(asked.pid, libc::AT_FDCWD, arg(0), flags.cast_unsigned())?;
                self.chown(listener, asked, &target, ids(1))
            }
            #[cfg(target_arch = "x86_64")]
            libc::SYS_mknod => self.mknod(listener, asked, libc::AT_FDCWD, arg(0), arg(1) as u32, arg(2)),
            _ => self.identity(listener, asked),
        }
    }

    fn identity(&mut self, listener: BorrowedFd<'_>, asked: &Notification) -> Result<Answer, Errno> {
        let call = libc::c_long::from(asked.number);
        let line = self.line(asked.pid);
        syscalls::still_asked(listener, asked.id)?;
        let mut who = self.census.of(line.iter().copied());
        match who.get(call) {
            Some(Reply::Value(value)) => return Ok(Answer::Value(value)),
            Some(Reply::Three(ids)) => {
                for (id, address) in ids.into_iter().zip(asked.args) {
                    self.store(asked.pid, address, &id.to_ne_bytes())?;
                }
                return Ok(Answer::Value(0));
            }
            Some(Reply::Groups(groups)) => {
                let room = asked.args[0] as i32;
                if room != 0 {
                    if usize::try_from(room).map_err(|_| Errno::INVAL)? < groups.len() {
                        return Err(Errno::INVAL);
                    }
                    let bytes: Vec<u8> = groups.iter().flat_map(|id| id.to_ne_bytes()).collect();
                    self.store(asked.pid, asked.args[1], &bytes)?;
                }
                return Ok(Answer::Value(groups.len() as i64));
            }
            None => {}
        }
        if call == libc::SYS_setgroups {
            who.set_groups(self.groups(asked.pid, asked.args[0], asked.args[1])?)?;
        } else {
            let args = [asked.args[0] as u32, asked.args[1] as u32, asked.args[2] as u32];
            who.set(call, args).ok_or(Errno::NOSYS)??;
        }
        let process = line.first().copied().ok_or(Errno::SRCH)?;
        self.census.set(process, who);
        Ok(Answer::Value(0))
    }

    fn groups(&self, pid: u32, count: u64, address: u64) -> Result<Vec<u32>, Errno> {
        /// NGROUPS_MAX (linux/limits.h).
        const MOST: u64 = 65_536;
        if count > MOST {
            return Err(Errno::INVAL);
        }
        let memory = File::from(self.of(pid, "mem", OFlags::RDONLY)?);
        let mut bytes = vec![0u8; count as usize * 4];
        memory.read_exact_at(&mut bytes, address).map_err(|_| Errno::FAULT)?;
        let ids = bytes.chunks_exact(4).filter_map(|four| Some(u32::from_ne_bytes(four.try_into().ok()?)));
        Ok(ids.collect())
    }

    fn store(&self, pid: u32, address: u64, bytes: &[u8]) -> Result<(), Errno> {
        let memory = File::from(self.of(pid, "mem", OFlags::WRONLY)?);
        memory.write_all_at(bytes, address).map_err(|_| Errno::FAULT)
    }

    fn text(&self, pid: u32, name: &str) -> String {
        let file = self.of(pid, name, OFlags::RDONLY).map(File::from);
        file.ok().and_then(|file| io::read_to_string(file).ok()).unwrap_or_default()
    }

    /// The process of a thread and those above it.
    fn line(&self, thread: u32) -> Vec<Process> {
        const LONGEST: usize = 64;
        let mut line = Vec::new();
        let status = self.text(thread, "status");
        let group = status.lines().find_map(|line| line.strip_prefix("Tgid:"));
        let mut pid = group.and_then(|number| number.trim().parse().ok()).unwrap_or(thread);
        while pid > 1 && line.len() < LONGEST {
            // PID (NAME) STATE PPID ..., the 22nd being when it started (proc(5)).
            let stat = self.text(pid, "stat");
            let Some((_, rest)) = stat.rsplit_once(") ") else { break };
            let fields: Vec<&str> = rest.split(' ').collect();
            let number = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok());
            let (Some(parent), Some(start)) = (number(1), number(19)) else { break };
            line.push((pid, start));
            pid = parent as u32;
        }
        line
    }

    /// Does to the file what `chown` does besides changing the owner, and writes the owner down.
    fn chown(
        &self,
        listener: BorrowedFd<'_>,
        asked: &Notification,
        target: &Target,
        (uid, gid): (u32, u32),
    ) -> Result<Answer, Errno> {
        let who = self.census.of(self.line(asked.pid));
        syscalls::still_asked(listener, asked.id)?;
        if !who.may_give(uid, gid) {
            return Err(Errno::PERM);
        }
        let stat = rustix::fs::fstat(&target.path)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if !matches!(kind, FileType::RegularFile | FileType::Directory) {
            // No attribute of ours can be put there; its owner stays root.
            return Ok(Answer::Value(0));
        }
        let file = self.reopen(target)?;
        // Takes setuid bits and file capabilities away.
        rustix::fs::fchown(&file, None, None)?;
        let (old_uid, old_gid) = self.recorded(&file);
        let either = |wanted: u32, old: u32| if wanted == KEEP { old } else { wanted };
        let record = owner_record(either(uid, old_uid), either(gid, old_gid));
        match rustix::fs::fsetxattr(&file, OWNER_RECORD, record.as_bytes(), XattrFlags::empty()) {
            // A file system without such attributes is none that becomes a layer.
            Ok(()) | Err(Errno::OPNOTSUPP) => Ok(Answer::Value(0)),
            Err(errno) => Err(errno),
        }
    }

    fn recorded(&self, file: &OwnedFd) -> (u32, u32) {
        let mut buffer = [0u8; 64];
        let length = rustix::fs::fgetxattr(file, OWNER_RECORD, &mut buffer[..]).unwrap_or(0);
        buffer.get(..length).and_then(parse_owner_record).unwrap_or((KEEP, KEEP))
    }

    /// A device becomes an empty file that remembers what it should be. It could not be opened anyway.
    fn mknod(
        &self,
        listener: BorrowedFd<'_>,
        asked: &Notification,
        dir: i32,
        address: u64,
        mode: u32,
        device: u64,
    ) -> Result<Answer, Errno> {
        let letter = match mode & libc::S_IFMT {
            libc::S_IFCHR => 'c',
            libc::S_IFBLK => 'b',
            _ => return Ok(Answer::Native),
        };
        let path = self.string(asked.pid, address)?;
        let base = self.base(asked.pid, dir)?;
        let umask = self.umask(asked.pid);
        if self.duty == Duty::Devices {
            return self.make_node(listener, asked, &base, &path, mode & !umask, device);
        }
        syscalls::still_asked(listener, asked.id)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(mode & 0o7777 & !umask);
        let file = rustix::fs::openat2(&base, &path, flags, mode, ResolveFlags::NO_MAGICLINKS)?;
        let record = format!("{letter} {}:{}", libc::major(device), libc::minor(device));
        rustix::fs::fsetxattr(&file, NODE_RECORD, record.as_bytes(), XattrFlags::empty())?;
        Ok(Answer::Value(0))
    }

    /// Makes a real node for root of a private user namespace. Only on the root file system and in `/dev`,
    /// where nothing that is made can be opened, and which are no file systems of this machine.
    fn make_node(
        &self,
        listener: BorrowedFd<'_>,
        asked: &Notification,
        base: &OwnedFd,
        path: &CStr,
        mode: u32,
        device: u64,
    ) -> Result<Answer, Errno> {
        if !self.is_root_with_mknod(asked.pid) {
            return Err(Errno::PERM);
        }
        let (above, name) = match path.to_bytes().iter().rposition(|c| *c == b'/') {
            Some(at) => path.to_bytes().split_at(at + 1),
            None => (&b"."[..], path.to_bytes()),
        };
        if name.is_empty() {
            return Err(Errno::NOENT);
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let parent = rustix::fs::openat2(base, above, flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS)?;
        let place = rustix::fs::fstat(&parent)?.st_dev;
        let is_tmpfs = rustix::fs::fstatfs(&parent)?.f_type == libc::TMPFS_MAGIC;
        // `base` made the process's root this thread's.
        let in_dev = is_tmpfs && rustix::fs::stat(c"/dev")?.st_dev == place;
        if !in_dev && rustix::fs::stat(c"/")?.st_dev != place {
            return Err(Errno::PERM);
        }
        syscalls::still_asked(listener, asked.id)?;
        let kind = FileType::from_raw_mode(mode);
        syscalls::act_on_files_as(private::FIRST)?;
        let made = rustix::fs::mknodat(&parent, name, kind, Mode::from_raw_mode(mode & 0o7777), device);
        syscalls::act_on_files_as(0)?;
        made.map(|()| Answer::Value(0))
    }

    fn is_root_with_mknod(&self, pid: u32) -> bool {
        const CAP_MKNOD: u32 = 27;
        let status = self.text(pid, "status");
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
        // Real, effective, saved, and that for files.
        let owner = field("Uid:").and_then(|ids| ids.split_whitespace().nth(3)?.parse::<u32>().ok());
        let set = field("CapEff:").and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok());
        owner == Some(private::FIRST) && set.is_some_and(|set| set >> CAP_MKNOD & 1 == 1)
    }

    fn of(&self, pid: u32, name: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        rustix::fs::openat(&self.proc, format!("{pid}/{name}"), flags | OFlags::CLOEXEC, Mode::empty())
    }

    fn descriptor(&self, pid: u32, number: i32) -> Result<Target, Errno> {
        let path = self.of(pid, &format!("fd/{number}"), OFlags::PATH);
        Ok(Target { path: path.map_err(|errno| if errno == Errno::NOENT { Errno::BADF } else { errno })? })
    }

    /// Makes the process's root this thread's, and gives where relative paths begin.
    fn base(&self, pid: u32, dir: i32) -> Result<OwnedFd, Errno> {
        let root = self.of(pid, "root", OFlags::PATH | OFlags::DIRECTORY)?;
        rustix::process::fchdir(&root)?;
        rustix::process::chroot(c".")?;
        if dir == libc::AT_FDCWD {
            return self.of(pid, "cwd", OFlags::PATH | OFlags::DIRECTORY);
        }
        Ok(self.descriptor(pid, dir)?.path)
    }

    fn at(&self, pid: u32, dir: i32, address: u64, flags: u32) -> Result<Target, Errno> {
        let flags = AtFlags::from_bits_retain(flags);
        let path = self.string(pid, address)?;
        if path.is_empty() {
            if !flags.contains(AtFlags::EMPTY_PATH) {
                return Err(Errno::NOENT);
            }
            return if dir == libc::AT_FDCWD {
                Ok(Target { path: self.base(pid, dir)? })
            } else {
                self.descriptor(pid, dir)
            };
        }
        // An absolute path needs no valid directory.
        let dir = if path.as_bytes().starts_with(b"/") { libc::AT_FDCWD } else { dir };
        let base = self.base(pid, dir)?;
        let mut open = OFlags::PATH | OFlags::CLOEXEC;
        if flags.contains(AtFlags::SYMLINK_NOFOLLOW) {
            open |= OFlags::NOFOLLOW;
        }
        match rustix::fs::openat2(&base, &path, open, Mode::empty(), ResolveFlags::NO_MAGICLINKS) {
            Ok(path) => Ok(Target { path }),
            // Through /proc/self/fd and the like: a stream of the process, which is no file of a layer.
            Err(Errno::LOOP) => Err(Errno::PERM),
            Err(errno) => Err(errno),
        }
    }

    /// Opens a file so that its attributes can be changed.
    fn reopen(&self, target: &Target) -> Result<OwnedFd, Errno> {
        use std::os::fd::AsRawFd as _;
        let name = format!("self/fd/{}", target.path.as_raw_fd());
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        rustix::fs::openat(&self.proc, name, flags, Mode::empty())
    }

    /// A string in the memory of the process.
    fn string(&self, pid: u32, address: u64) -> Result<CString, Errno> {
        let memory = File::from(self.of(pid, "mem", OFlags::RDONLY)?);
        let mut bytes = Vec::new();
        while bytes.len() < PATH_MAX {
            // Up to the end of a page: what follows may not be mapped.
            let at = address.checked_add(bytes.len() as u64).ok_or(Errno::FAULT)?;
            let room = PATH_MAX - (at % PATH_MAX as u64) as usize;
            let mut piece = vec![0u8; room];
            let count = memory.read_at(&mut piece, at).map_err(|_| Errno::FAULT)?;
            if count == 0 {
                return Err(Errno::FAULT);
            }
            bytes.extend_from_slice(&piece[..count]);
            if let Ok(text) = CStr::from_bytes_until_nul(&bytes) {
                return Ok(text.to_owned());
            }
        }
        Err(Errno::NAMETOOLONG)
    }

    fn umask(&self, pid: u32) -> u32 {
        const USUAL: u32 = 0o022;
        let text = self.text(pid, "status");
        let line = text.lines().find_map(|line| line.strip_prefix("Umask:"));
        line.and_then(|digits| u32::from_str_radix(digits.trim(), 8).ok()).unwrap_or(USUAL)
    }
}
