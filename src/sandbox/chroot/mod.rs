//! RUN without namespaces and mounts: for root of a container that has an engine's default rights.
//!
//! The root file system is a directory of files, which the process enters with chroot(2). What other sandboxes mount
//! is put in its place before the process starts and taken away after it ended ([`supply`]). An init beside the
//! process collects and ends everything that it started ([`child`]). Landlock keeps its processes out of all other
//! files and away from all other processes, and a system call filter does the rest ([`guard`]).
//!
//! Promises that nothing of what was supplied is left in the root file system, that no process of a step outlives
//! it, and, where the kernel has Landlock, that no other file's content can be read or changed. Does not promise what
//! needs namespaces: processes of the container are visible in `/proc`, its network and host name are the step's.

mod answer;
mod calls;
pub(super) mod child;
mod executable;
pub(super) mod guard;
mod kernel_files;
mod mirror;
mod place;
mod processes;
mod supply;
mod wanted;

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use crate::cancel::Cancel;

use self::answer::Answers;
use self::guard::Guard;
use self::supply::Supply;
use super::clone::{self, Cloned};
use super::native::Supervision;
use super::spec::{Exit, Network, OutputSink, ProcessSpec, RootFs, Sandbox, SandboxError, Security};
use super::{native, prepare, seccomp, syscalls};

/// Runs processes by chroot(2).
#[derive(Debug, Default)]
pub struct Chroot {
    told: AtomicBool,
}

/// Where a process goes instead of into namespaces: for the child's [`prepare::Plan`].
pub(super) struct Inside {
    pub root: CString,
    /// The Landlock rules that processes of the step have beyond those of their init.
    pub rules: Option<OwnedFd>,
    pub guard: Guard,
    /// A filter that asks about calls, in place of the plan's.
    pub asking: Option<Vec<libc::sock_filter>>,
    /// Through which the process hands over where its filter asks: rbuild's end, and its own.
    pub channel: Option<(OwnedFd, OwnedFd)>,
    pub answers: Mutex<Option<Answers>>,
    /// Files that the init empties when the program ends, also when rbuild is dead by then.
    pub secrets: Vec<OwnedFd>,
}

/// Capabilities without which files cannot be made as images have them, or users changed.
const NEEDED: [(u32, &str); 7] = [
    (0, "CAP_CHOWN"),
    (1, "CAP_DAC_OVERRIDE"),
    (3, "CAP_FOWNER"),
    (5, "CAP_KILL"),
    (6, "CAP_SETGID"),
    (7, "CAP_SETUID"),
    (SYS_CHROOT, "CAP_SYS_CHROOT"),
];
const SYS_CHROOT: u32 = 18;

impl Chroot {
    /// Tries it; the error says what is missing.
    pub fn possible() -> Result<(), String> {
        if !rustix::process::geteuid().is_root() {
            return Err("only root can change the root directory".into());
        }
        let permitted = prepare::permitted();
        if let Some((_, name)) = NEEDED.iter().find(|(number, _)| permitted & 1 << number == 0) {
            return Err(format!("rbuild does not have {name}"));
        }
        let tried =
            || syscalls::exit_now(rustix::process::chroot(c"/").map_or_else(Errno::raw_os_error, |()| 0));
        // SAFETY: the closure makes system calls only.
        let errno = unsafe { clone::ask_a_copy(&tried) }.map_err(|errno| format!("cannot fork: {errno}"))?;
        match errno {
            0 => Ok(()),
            errno => Err(format!("chroot is not allowed: {}", Errno::from_raw_os_error(errno))),
        }
    }

    /// From now on this process's memory and descriptors cannot be looked at by processes without CAP_SYS_PTRACE,
    /// which steps do not have.
    pub fn new() -> Self {
        let _ = syscalls::prctl(libc::PR_SET_DUMPABLE, 0);
        Self::default()
    }
}

fn check(spec: &ProcessSpec) -> Result<(), SandboxError> {
    let refuse = |what: &str| {
        Err(SandboxError::Invalid(format!(
            "{what} needs namespaces or mounts, and this container allows neither (--isolation=chroot)"
        )))
    };
    match spec {
        ProcessSpec { security: Security::Insecure, .. } => refuse("RUN --security=insecure"),
        ProcessSpec { network: Network::Joined(_), .. } => refuse("a network of its own"),
        ProcessSpec { container, .. } if container.read_only => refuse("a read-only root file system"),
        _ => Ok(()),
    }
}

impl Sandbox for Chroot {
    fn run(
        &self,
        spec: &ProcessSpec,
        output: &dyn OutputSink,
        cancel: &Cancel,
    ) -> Result<Exit, SandboxError> {
        check(spec)?;
        let RootFs::Directory(root) = &spec.root else {
            return Err(SandboxError::Invalid("without mounts, a root file system is a directory".into()));
        };
        let bare = ProcessSpec { mounts: Vec::new(), ..spec.clone() };
        let mut plan = prepare::plan(&bare, prepare::permitted(), false, false, None)?;
        let guard = Guard::for_root(root);
        plan.namespaces = 0;
        // A process that changes its root once more is outside of this one.
        plan.capabilities = plan.capabilities.map(|set| set & !(1 << SYS_CHROOT));
        let offline = matches!(spec.network, Network::None);
        let filter = |answers| Some(seccomp::chroot_filter(offline, guard.confines_files(), answers));
        plan.filter = filter(false);
        plan.loopback = false;
        let sockets = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .map_err(|errno| SandboxError::setup("make a socket", errno))?;
        plan.chroot = Some(Inside {
            root: prepare::c_path(root)?,
            rules: guard.inner_rules()?,
            asking: filter(true),
            channel: Some(sockets),
            answers: Mutex::new(Some(Answers::about(root, &spec.hostname, offline)?)),
            secrets: Vec::new(),
            guard,
        });
        let supplied = Supply::put(root, spec, &plan)?;
        let secrets = supplied.secrets();
        let ended = secrets.and_then(|secrets| {
            if let Some(inside) = &mut plan.chroot {
                inside.secrets = secrets;
            }
            native::execute(spec, &plan, output, cancel)
        });
        let removed = supplied.take_away(&|text| output.warn(text));
        let ended = ended?;
        removed?;
        Ok(ended)
    }

    fn needs_files(&self) -> bool {
        true
    }

    fn notice(&self) -> Option<String> {
        let text = "RUN is isolated by chroot: it sees this container's processes, host name and network (see \
                    docs/security.md); with user namespaces or CAP_SYS_ADMIN it would have its own";
        (!self.told.swap(true, Ordering::Relaxed)).then(|| text.to_owned())
    }

    fn describe(&self) -> String {
        format!("chroot (files, capabilities, seccomp, {})", Guard::for_root(Path::new("/")).describe())
    }
}

/// Clones the init of a step: a copy of this process that runs `live`, confined by the guard.
pub(super) fn start(
    inside: &Inside,
    live: &Shared<'_>,
) -> Result<(OwnedFd, Option<Supervision>), SandboxError> {
    let make = move || {
        // The rules hold for this thread and what it starts, and end with it.
        inside.guard.confine_thread()?;
        // SAFETY: the child runs `live`, which neither allocates, locks nor unwinds.
        match unsafe { clone::clone_process(0) } {
            Ok(Cloned::Child) => {
                live.call();
                syscalls::exit_now(1)
            }
            Ok(Cloned::Parent(pidfd, init)) => Ok((pidfd, inside.answer_for(init)?)),
            Err(errno) => Err(SandboxError::setup("start the process", errno)),
        }
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("guard".into()).spawn_scoped(scope, make);
        let thread = thread.map_err(|error| SandboxError::setup("start a thread", error))?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

impl Inside {
    /// Starts a thread that answers the processes below an init. It inherits the rules of this one.
    fn answer_for(&self, init: u32) -> Result<Option<Supervision>, SandboxError> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (Some(answers), Some((own, _))) = (answers, &self.channel) else { return Ok(None) };
        let own = own.try_clone().map_err(|error| SandboxError::setup("copy a socket", error))?;
        Supervision::new(move |stop| {
            if let Some(listener) = answer::wait_for(&own, stop) {
                answers.serve(init, &listener, stop);
            }
        })
        .map(Some)
    }
}

/// What a child does, for the thread that clones it.
pub(super) struct Shared<'a>(pub &'a dyn Fn());

// SAFETY: the thread that made it waits until the one that uses it has ended.
unsafe impl Sync for Shared<'_> {}

impl Shared<'_> {
    fn call(&self) {
        (self.0)();
    }
}
