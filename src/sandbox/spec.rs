//! What to run and where, and how it ended.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::cancel::Cancel;
use crate::event::Stream;

/// One process, described by data.
#[derive(Clone, Debug)]
pub struct ProcessSpec {
    /// Program and arguments. Without a slash the program is looked for in the `PATH` of `env`,
    /// inside the root.
    pub argv: Vec<Vec<u8>>,
    /// The whole environment.
    pub env: Vec<(Vec<u8>, Vec<u8>)>,
    /// Working directory inside the root, absolute; made if it is missing.
    pub cwd: Vec<u8>,
    /// Who it runs as.
    pub user: ProcessUser,
    /// Host name.
    pub hostname: String,
    /// Its root file system.
    pub root: RootFs,
    /// More mounts, in any order.
    pub mounts: Vec<Mount>,
    /// Network.
    pub network: Network,
    /// Restrictions.
    pub security: Security,
    /// Lines for `/etc/hosts`: name and address.
    pub extra_hosts: Vec<(String, String)>,
    /// Content of `/etc/resolv.conf`; empty leaves the image's own.
    pub resolv_conf: Vec<u8>,
    /// What else is mounted in `/etc`, and how.
    pub etc: EtcFiles,
    /// Size of `/dev/shm` in bytes.
    pub shm_size: u64,
    /// Resource limits.
    pub ulimits: Vec<Ulimit>,
    /// Limits by control groups.
    pub limits: Limits,
    /// The process is killed after this time.
    pub timeout: Option<Duration>,
    /// An empty directory for this run alone, on any file system; the caller removes it.
    pub scratch: PathBuf,
    /// Standard streams.
    pub stdio: Stdio,
    /// What a container has that a step of a build has not.
    pub container: Container,
}

/// What may be arranged for a container besides.
#[derive(Clone, Debug, Default)]
pub struct Container {
    /// Its capabilities as a set of bits; `None` stands for [`super::DEFAULT_CAPABILITIES`].
    pub capabilities: Option<u64>,
    /// The root file system cannot be written to; what is mounted there can.
    pub read_only: bool,
    /// A small init is its first process: it passes signals on and collects processes that lost their parents.
    pub init: bool,
    /// Signals for its first process.
    pub signals: Option<Arc<super::Signals>>,
}

/// Files of `/etc` that are mounted and never become part of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EtcFiles {
    /// `hosts` and `resolv.conf`. Who writes to them fails, instead of losing what was written.
    ReadOnly,
    /// Also `hostname`; a container may change them for itself.
    Own,
}

/// Numeric identity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessUser {
    /// User ID.
    pub uid: u32,
    /// Group ID.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// A root file system.
#[derive(Clone, Debug)]
pub enum RootFs {
    /// Directories stacked by overlayfs.
    Overlay {
        /// Read-only layers, the topmost first; may be empty.
        lowers: Vec<PathBuf>,
        /// Takes what is written.
        upper: PathBuf,
        /// overlayfs's own, empty, on the file system of `upper`.
        work: PathBuf,
    },
    /// A directory, changed in place.
    Directory(PathBuf),
}

/// A mount inside the root.
#[derive(Clone, Debug)]
pub struct Mount {
    /// Absolute path inside the root.
    pub target: Vec<u8>,
    /// What is mounted.
    pub kind: MountKind,
    /// User and group that were asked for and that something of this machine was given already, of kinds
    /// that do not contain them.
    pub owner: Option<(u32, u32)>,
    /// What a sandbox that cannot mount may do with the source of a bind mount.
    pub rights: SourceRights,
}

/// What may become of the source of a bind mount where it is not mounted but put in its place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SourceRights {
    /// It is somebody else's: copied.
    #[default]
    Copy,
    /// It may be moved there, and is moved back after the process with what that made of it. Nobody else uses it
    /// meanwhile.
    Lend,
    /// It was made for this process alone: moved.
    Give,
}

impl Mount {
    /// A mount for which no owner was asked for, but perhaps in its kind.
    pub fn new(target: Vec<u8>, kind: MountKind) -> Self {
        Mount { target, kind, owner: None, rights: SourceRights::default() }
    }
}

/// Kinds of mounts.
#[derive(Clone, Debug)]
pub enum MountKind {
    /// A file or directory of this machine.
    Bind {
        /// Its path.
        source: PathBuf,
        /// What of it is shown: a directory's path in it, which may change at any time and yet never
        /// leads out of it; empty for all.
        inside: Vec<u8>,
        /// Whether writing is refused.
        readonly: bool,
    },
    /// A device node of this machine, which may be opened.
    Device {
        /// Its path.
        source: PathBuf,
    },
    /// Directories stacked by overlayfs, or a path inside them.
    Overlay {
        /// Read-only layers, the topmost first; may be empty.
        lowers: Vec<PathBuf>,
        /// Directories that take what is written, on one file system; read-only without.
        upper: Option<(PathBuf, PathBuf)>,
        /// Path inside; links in it are followed without leaving it. Empty is all of it.
        inside: Vec<u8>,
        /// Whether the path leads to a directory.
        is_dir: bool,
    },
    /// A read-only file that exists in memory only: for secrets.
    Secret {
        /// Its content.
        content: Vec<u8>,
        /// Its mode.
        mode: u32,
        /// Its owner.
        uid: u32,
        /// Its group.
        gid: u32,
    },
    /// An empty file system in memory.
    Tmpfs {
        /// Most bytes.
        size: Option<u64>,
        /// Mode of its root.
        mode: u32,
    },
    /// A read-only file made for this run; it lies in the scratch directory. Not for secrets.
    File {
        /// Its content.
        content: Vec<u8>,
        /// Its mode.
        mode: u32,
        /// Its owner.
        uid: u32,
        /// Its group.
        gid: u32,
    },
}

impl MountKind {
    /// Whether it is mounted on a directory.
    pub(super) fn on_directory(&self) -> bool {
        match self {
            MountKind::Bind { source, inside, .. } => !inside.is_empty() || source.is_dir(),
            MountKind::Overlay { is_dir, .. } => *is_dir,
            MountKind::Tmpfs { .. } => true,
            MountKind::File { .. } | MountKind::Secret { .. } | MountKind::Device { .. } => false,
        }
    }
}

/// Network of a process.
#[derive(Clone, Debug)]
pub enum Network {
    /// That of this machine.
    Host,
    /// A network namespace that exists already; see [`super::UserNetwork`].
    Joined(Arc<OwnedFd>),
    /// Loopback only.
    None,
}

/// Restrictions of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    /// Docker's default capabilities and system calls.
    Sandbox,
    /// All capabilities of the builder, no filter, nothing masked.
    Insecure,
}

/// One resource limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ulimit {
    /// As `docker --ulimit` names it: `nofile`, `nproc`...
    pub name: String,
    /// Soft limit; `u64::MAX` is none.
    pub soft: u64,
    /// Hard limit; `u64::MAX` is none.
    pub hard: u64,
}

/// Limits of a whole process tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Bytes of memory and swap together; -1 is no limit.
    pub memory_swap: Option<i64>,
    /// Relative weight, 1024 being usual.
    pub cpu_shares: Option<u64>,
    /// Microseconds of CPU time in each period.
    pub cpu_quota: Option<i64>,
    /// The period in microseconds.
    pub cpu_period: Option<u64>,
    /// CPUs, such as `0-2,5`.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes.
    pub cpuset_mems: Option<String>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// The control group to make groups in, from the top of the hierarchy.
    pub parent: Option<String>,
}

/// Standard streams of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stdio {
    /// No input; output goes to the sink line by line, each stream through a pipe of its own: the order between
    /// the two is lost.
    Lines,
    /// The same through one pipe for both, as standard output: lines arrive in the order of writing.
    Merged,
    /// Those of this process; output goes through pipes of the user that the process runs as.
    Inherit,
    /// A terminal of its own, connected to this process's terminal.
    Terminal,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It exited.
    Code(i32),
    /// A signal killed it.
    Signal(i32),
    /// It ended badly after the kernel killed one of its processes for want of memory.
    OutOfMemory {
        /// Its exit code, or 128 + signal.
        code: i32,
        /// The limit in bytes.
        limit: u64,
    },
    /// It ended badly after the limit of processes was hit.
    TooManyProcesses {
        /// Its exit code, or 128 + signal.
        code: i32,
        /// The limit.
        limit: u64,
    },
    /// It ran longer than allowed.
    TimedOut,
    /// It was stopped by the cancel switch.
    Canceled,
}

/// Takes a process's output.
pub trait OutputSink: Send + Sync {
    /// One line without its end, or the last part of one.
    fn line(&self, stream: Stream, line: &[u8]);

    /// A part of a line that is too long to wait for; others follow, and the last comes by
    /// [`line`](Self::line).
    fn part(&self, stream: Stream, part: &[u8]) {
        self.line(stream, part);
    }

    /// What the user should know of how the process ran.
    fn warn(&self, _text: String) {}

    /// What there is of a line that has not ended; it comes again with the rest.
    fn unfinished(&self, _stream: Stream, _line: &[u8]) {}
}

/// Something that runs processes.
pub trait Sandbox: Send + Sync {
    /// Runs a process to its end.
    fn run(&self, spec: &ProcessSpec, output: &dyn OutputSink, cancel: &Cancel)
    -> Result<Exit, SandboxError>;
    /// Whether a directory of this machine can be mounted for processes as it is. Depends on its file
    /// system; where it is false, a copy in the store can be mounted instead. `scratch` is as in
    /// [`ProcessSpec`].
    fn shows_owners_of(&self, _path: &Path, _scratch: &Path) -> bool {
        true
    }
    /// Whether root file systems must be directories of files, because nothing can be mounted. Sources of bind mounts
    /// are then used as [`SourceRights`] says.
    fn needs_files(&self) -> bool {
        false
    }
    /// What the user should know of how processes were run; each thing once.
    fn notice(&self) -> Option<String> {
        None
    }
    /// One line for `rbuild info`.
    fn describe(&self) -> String;
}

/// Who has an ID that there is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whose {
    /// The process, as user.
    User,
    /// The process, as group.
    Group,
    /// The process, as one more group.
    Supplementary,
    /// A file mounted at this path, as user.
    MountUser(String),
    /// A file mounted at this path, as group.
    MountGroup(String),
}

impl std::fmt::Display for Whose {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Whose::User | Whose::MountUser(_) => "user ID",
            Whose::Group | Whose::MountGroup(_) => "group ID",
            Whose::Supplementary => "supplementary group ID",
        })
    }
}

/// A sandbox that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// A system call refused.
    #[error("cannot set up the sandbox: {stage}: {source}{hint}")]
    Setup {
        /// What was being done.
        stage: String,
        /// The system's answer.
        source: std::io::Error,
        /// What to look at, or nothing.
        hint: String,
    },
    /// The program itself could not be executed.
    #[error("exec: {source}")]
    Exec {
        /// The system's answer.
        source: std::io::Error,
    },
    /// The OCI runtime could not run the program.
    #[error("{runtime}: {message}")]
    Runtime {
        /// Its path.
        runtime: String,
        /// Its own words.
        message: String,
    },
    /// The user namespace of the process does not have an ID.
    #[error("{whose} {id} is not among the IDs that RUN has here, {mapped}; {remedy}")]
    Unmapped {
        /// Who would have it.
        whose: Whose,
        /// The ID.
        id: u32,
        /// The IDs there are, as text.
        mapped: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The description makes no sense.
    #[error("cannot set up the sandbox: {0}")]
    Invalid(String),
    /// This machine lets this user make no sandbox at all; the reason, found before anything was read.
    #[error(
        "RUN cannot be executed on this machine: {0}. Everything that executes no program works here, for example \
         builds with COPY, ADD and WORKDIR"
    )]
    Unavailable(String),
}

impl SandboxError {
    /// Whether overlayfs is what could not be had.
    pub fn is_no_overlay(&self) -> bool {
        matches!(self, SandboxError::Setup { stage, .. } if stage == OVERLAY_STAGE)
    }

    /// The same with a further hint.
    pub(super) fn hinted(mut self, more: &str) -> Self {
        if let SandboxError::Setup { hint, .. } = &mut self {
            hint.push_str(more);
        }
        self
    }

    pub(super) fn setup(stage: impl Into<String>, source: impl Into<std::io::Error>) -> Self {
        SandboxError::Setup { stage: stage.into(), source: source.into(), hint: String::new() }
    }
}

/// How the stage of taking an AppArmor profile on is worded.
pub(super) const CONFINEMENT_STAGE: &str = "take on the AppArmor profile";
/// How the stage of mounting an overlay is worded.
pub(super) const OVERLAY_STAGE: &str = "mount the layers with overlayfs";
