//! The processes of a step: who they are, where they look at the file system from, and their memory.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::super::request::{Memory, string};
use super::super::spec::SandboxError;
use super::calls;

/// Remembers the memory of so many processes.
const MOST_MEMORIES: usize = 32;
const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// The processes below one init, and the root file system that they have in common.
pub(super) struct Processes {
    pub proc: OwnedFd,
    pub root_dir: OwnedFd,
    /// By which links of `/proc` name the root file system.
    root_path: Vec<u8>,
    /// From which all of them descend.
    pub init: u32,
    /// Memory of processes that are not root's.
    memories: HashMap<u32, File>,
}

/// User and group.
pub(super) type Ids = (u32, u32);

impl Processes {
    pub(super) fn in_root(root: &Path) -> Result<Self, SandboxError> {
        let failed = |errno| SandboxError::setup("open /proc", errno);
        let open = |path: &Path| rustix::fs::openat(CWD, path, DIRECTORY, Mode::empty());
        let proc = open(Path::new("/proc")).map_err(failed)?;
        let root = open(root).map_err(failed)?;
        let root_path = rustix::fs::readlinkat(&proc, format!("self/fd/{}", root.as_raw_fd()), Vec::new());
        Ok(Processes {
            proc,
            root_dir: root,
            root_path: root_path.map_err(failed)?.into_bytes(),
            init: 0,
            memories: HashMap::new(),
        })
    }

    /// A path as links of `/proc` give it out here, for a process in the root file system, if it lies there.
    pub(super) fn inside<'p>(&self, path: &'p [u8]) -> Option<&'p [u8]> {
        match path.strip_prefix(self.root_path.as_slice()) {
            Some(b"") => Some(b"/"),
            Some(inside) => inside.starts_with(b"/").then_some(inside),
            None => None,
        }
    }

    /// Where an open file of this thread lies, as links of `/proc` name it.
    pub(super) fn place_of(&self, file: &OwnedFd) -> Result<Vec<u8>, Errno> {
        let link = format!("thread-self/fd/{}", file.as_raw_fd());
        rustix::fs::readlinkat(&self.proc, link, Vec::new()).map(std::ffi::CString::into_bytes)
    }

    /// The same path from the top of the root file system, for a process that names it from a directory.
    pub(super) fn whole(&self, pid: u32, dir: i32, path: &[u8]) -> Option<Vec<u8>> {
        if path.starts_with(b"/") {
            return Some(path.to_vec());
        }
        let link = match dir {
            libc::AT_FDCWD => format!("{pid}/cwd"),
            dir => format!("{pid}/fd/{dir}"),
        };
        let read = || rustix::fs::readlinkat(&self.proc, &link, Vec::new());
        let base = match read() {
            // It is another user's.
            Err(Errno::ACCESS) => calls::with_ids(self.ids(pid)?, read),
            other => other,
        };
        let base = base.ok()?.into_bytes();
        let base = self.inside(&base)?;
        Some([base, path].join(&b'/'))
    }

    /// Opens a directory of the root file system as a process would that has it as its root.
    pub(super) fn directory(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let path = if path.is_empty() { b"/" } else { path };
        crate::fs::open_resolved(self.root_dir.as_fd(), path, DIRECTORY, Mode::empty(), resolve)
    }

    /// The permissions that files of a process are made without.
    pub(super) fn umask(&self, pid: u32) -> u32 {
        let status = self.text(pid, "status");
        let mask = status.lines().find_map(|line| line.strip_prefix("Umask:"));
        mask.and_then(|mask| u32::from_str_radix(mask.trim(), 8).ok()).unwrap_or(0o022)
    }

    /// User and group that count for files of a process. All that ask have the step's root: none may change it.
    pub(super) fn ids(&self, pid: u32) -> Option<Ids> {
        let status = self.text(pid, "status");
        let id = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            // Real, effective, saved, and that for files.
            line.split_whitespace().nth(3)?.parse::<u32>().ok()
        };
        Some((id("Uid:")?, id("Gid:")?))
    }

    /// Whether a process descends from the step's init.
    pub(super) fn is_of_step(&self, pid: u32) -> bool {
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

    pub(super) fn text(&self, pid: u32, name: &str) -> String {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(&self.proc, format!("{pid}/{name}"), flags, Mode::empty());
        let Ok(file) = opened else { return String::new() };
        let mut bytes = Vec::new();
        // A process that has just ended has nothing to say. Its name may be any bytes.
        let _ = File::from(file).read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    }

    pub(super) fn path(&mut self, pid: u32, address: u64) -> Result<Vec<u8>, Errno> {
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
        let ids = self.ids(pid).ok_or(Errno::FAULT)?;
        let open =
            || rustix::fs::openat(&self.proc, format!("{pid}/mem"), flags | OFlags::CLOEXEC, Mode::empty());
        Ok(File::from(calls::with_ids(ids, open)?))
    }

    pub(super) fn word(&mut self, pid: u32, address: u64) -> Result<u64, Errno> {
        let mut bytes = [0u8; 8];
        if Direct(pid).read(address, &mut bytes) != bytes.len() {
            let memory = self.memory(pid, OFlags::RDONLY)?;
            memory.read_exact_at(&mut bytes, address).map_err(|_| Errno::FAULT)?;
        }
        Ok(u64::from_ne_bytes(bytes))
    }

    pub(super) fn store(&self, ids: (u32, u32), pid: u32, address: u64, bytes: &[u8]) -> Result<(), Errno> {
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

/// A path in the directory of a process in `/proc`.
pub(super) fn join(pid: u32, rest: &[u8]) -> Vec<u8> {
    let mut path = pid.to_string().into_bytes();
    if !rest.is_empty() {
        path.push(b'/');
        path.extend_from_slice(rest);
    }
    path
}
