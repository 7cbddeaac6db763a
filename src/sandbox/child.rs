//! From the new process to the program: namespaces are there, now the file system, the identity and
//! the restrictions. Nothing in here allocates, locks or unwinds.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, UnmountFlags};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::apparmor::{confine_next_program, open_proc};
use super::init::become_init;
use super::mounts::{
    bind, make_point, make_points, mask, mount_dev, mount_one, mount_proc, mount_root, open_inside,
    write_secrets,
};
use super::oci::hand_over;
use super::prepare::{LAST_CAPABILITY, Plan};
use super::private;
use super::supervisor::{Duty, NodeMounts, mount_number};
use super::sys::mount_sys;
use super::syscalls::{self, with_files_of};

/// Where setting up failed: the index goes through the pipe, the parent turns it into words.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Stage {
    Start,
    Network,
    Propagation,
    Overlay,
    MappedOverlay,
    Root,
    Proc,
    Sys,
    Dev,
    Terminal,
    Etc,
    Mounts,
    Masking,
    Pivot,
    Hostname,
    Loopback,
    Limits,
    Cwd,
    CwdOutside,
    PrivateIds,
    Capabilities,
    Filter,
    Identity,
    Confinement,
    Streams,
    Runtime,
    /// The runtime itself failed; its code stands in for the errno.
    RuntimeEnded,
    /// A signal ended the runtime's container; its number stands in for the errno.
    Signalled,
    ReadOnly,
    Init,
    Exec,
}

/// Words for the stages, in order.
pub(super) const STAGES: [&str; 31] = [
    "start the process",
    "enter the network namespace",
    "make the mount namespace private",
    super::spec::OVERLAY_STAGE,
    "mount the layers with the owners of a private user namespace (Linux 6.15 or newer is needed)",
    "open the root file system",
    "mount /proc",
    "mount /sys",
    "set up /dev",
    "make a terminal",
    "mount /etc/hosts and the like",
    "mount what RUN --mount asks for",
    "hide kernel files",
    "change the root directory",
    "set the host name",
    "bring up the loopback device",
    "set resource limits",
    "change to the working directory",
    "change to the working directory: it leads outside the root file system",
    "enter the private user namespace",
    "drop capabilities",
    "install the system call filter",
    "change user and group",
    super::spec::CONFINEMENT_STAGE,
    "set up the standard streams",
    "start the OCI runtime",
    "run the OCI runtime",
    "wait for the OCI runtime",
    "make the root file system read-only (Linux 5.12 or newer is needed)",
    "start an init",
    "exec",
];

/// The child's descriptors.
#[derive(Clone, Copy)]
pub(super) struct Streams<'a> {
    pub stdin: BorrowedFd<'a>,
    pub stdout: BorrowedFd<'a>,
    pub stderr: BorrowedFd<'a>,
    /// Readable when the parent is ready; closed when it is gone.
    pub go: BorrowedFd<'a>,
    /// Takes the failing stage and its errno; closed by a successful exec.
    pub error: BorrowedFd<'a>,
    /// Takes what the supervisor must know ([`Listening`]).
    pub listener: BorrowedFd<'a>,
    /// A socket that takes the other end of the terminal that the child makes for its streams, in place of those above.
    pub terminal: Option<BorrowedFd<'a>>,
}

/// What the child tells its supervisor, before the program starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Listening {
    /// The number of the descriptor where the filter asks.
    pub descriptor: i32,
    pub mounts: NodeMounts,
}

impl Listening {
    pub const LENGTH: usize = 20;

    fn to_bytes(self) -> [u8; Self::LENGTH] {
        let mut bytes = [0u8; Self::LENGTH];
        bytes[..4].copy_from_slice(&self.descriptor.to_le_bytes());
        bytes[4..12].copy_from_slice(&self.mounts.root.to_le_bytes());
        bytes[12..].copy_from_slice(&self.mounts.dev.to_le_bytes());
        bytes
    }

    pub fn from_bytes(bytes: &[u8; Self::LENGTH]) -> Self {
        let (descriptor, rest) = bytes.split_at(4);
        let (root, dev) = rest.split_at(8);
        let number = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_le_bytes);
        Listening {
            descriptor: descriptor.try_into().map_or(-1, i32::from_le_bytes),
            mounts: NodeMounts { root: number(root), dev: number(dev) },
        }
    }
}

/// The child's whole life.
pub(super) fn live(plan: &Plan, streams: &Streams<'_>) -> ! {
    match set_up(plan, streams) {
        Ok(errno) => end((Stage::Exec, errno), streams),
        Err(failure) => end(failure, streams),
    }
}

/// Tells the parent what failed, and ends.
fn end((stage, errno): Failure, streams: &Streams<'_>) -> ! {
    let mut message = [0u8; 5];
    message[0] = stage as u8;
    message[1..].copy_from_slice(&errno.raw_os_error().to_le_bytes());
    let _ = rustix::io::write(streams.error, &message);
    syscalls::exit_now(127)
}

pub(super) type Failure = (Stage, Errno);

pub(super) trait At<T> {
    fn at(self, stage: Stage) -> Result<T, Failure>;
}

impl<T> At<T> for Result<T, Errno> {
    fn at(self, stage: Stage) -> Result<T, Failure> {
        self.map_err(|errno| (stage, errno))
    }
}

fn set_up(plan: &Plan, streams: &Streams<'_>) -> Result<Errno, Failure> {
    if let Some(inside) = &plan.chroot {
        return super::chroot::child::set_up(plan, inside, streams);
    }
    syscalls::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong).at(Stage::Start)?;
    // The parent may have died before the line above; then nobody holds the other end.
    let mut byte = [0u8; 1];
    if rustix::io::read(streams.go, &mut byte).at(Stage::Start)? != 1 {
        syscalls::exit_now(1);
    }
    rustix::process::setsid().at(Stage::Start)?;
    if let Some(namespace) = &plan.network {
        // Before /sys is mounted, which shows the network of its mounter.
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).at(Stage::Network)?;
    }
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change(c"/", private).at(Stage::Propagation)?;
    let root = mount_root(plan)?;
    if let Some(call) = &plan.runtime {
        return hand_over(plan, call, streams, root.as_fd());
    }
    mount_proc(root.as_fd())?;
    let proc = plan.profile.as_ref().map(|_| open_proc(root.as_fd())).transpose().at(Stage::Confinement)?;
    mount_sys(root.as_fd()).at(Stage::Sys)?;
    let terminal = mount_dev(plan, root.as_fd(), streams.terminal)?;
    let nodes = node_mounts(plan, root.as_fd()).at(Stage::Dev)?;
    for (path, is_file) in &plan.dev_points {
        make_point(root.as_fd(), path, *is_file).at(Stage::Dev)?;
    }
    for (source, target) in &plan.etc {
        bind(plan, source, root.as_fd(), target, plan.etc_attributes, false)
            .or_else(missing_is_fine)
            .at(Stage::Etc)?;
    }
    write_secrets(plan).at(Stage::Mounts)?;
    for (target, is_dir, mount) in &plan.mounts {
        if matches!(open_inside(root.as_fd(), target), Err(Errno::NOENT)) {
            let points = || make_points(root.as_fd(), target, *is_dir);
            // A mount with mapped owners takes no file of this machine's root.
            let made = if plan.ids.is_some() { with_files_of(private::FIRST, points) } else { points() };
            made.at(Stage::Mounts)?;
        }
        mount_one(plan, root.as_fd(), target, mount).at(Stage::Mounts)?;
    }
    if plan.masked {
        mask(plan, root.as_fd())?;
    }
    rustix::process::fchdir(&root).at(Stage::Pivot)?;
    rustix::process::pivot_root(c".", c".").at(Stage::Pivot)?;
    rustix::mount::unmount(c".", UnmountFlags::DETACH).at(Stage::Pivot)?;
    rustix::process::chdir(c"/").at(Stage::Pivot)?;
    if plan.read_only {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, c"/", flags, Mode::empty()).at(Stage::ReadOnly)?;
        syscalls::mount_setattr(root.as_fd(), syscalls::MOUNT_ATTR_RDONLY, false).at(Stage::ReadOnly)?;
    }
    rustix::system::sethostname(&plan.hostname).at(Stage::Hostname)?;
    if plan.loopback {
        syscalls::loopback_up().at(Stage::Loopback)?;
    }
    let own = terminal.as_ref().map(OwnedFd::as_fd);
    let streams = match own {
        Some(own) => Streams { stdin: own, stdout: own, stderr: own, ..*streams },
        None => *streams,
    };
    enter(plan, &streams, proc.as_ref().map(OwnedFd::as_fd), nodes)
}

/// Where the supervisor may make device nodes: found before anything of this machine is mounted.
fn node_mounts(plan: &Plan, root: BorrowedFd<'_>) -> Result<NodeMounts, Errno> {
    if plan.asks != Some(Duty::Devices) {
        return Ok(NodeMounts::default());
    }
    let dev = open_inside(root, c"dev")?;
    Ok(NodeMounts { root: mount_number(root)?, dev: mount_number(dev.as_fd())? })
}

/// Everything behind the change of root.
pub(super) fn enter(
    plan: &Plan,
    streams: &Streams<'_>,
    proc: Option<BorrowedFd<'_>>,
    mounts: NodeMounts,
) -> Result<Errno, Failure> {
    for (resource, soft, hard) in &plan.limits {
        syscalls::set_limit(*resource, *soft, *hard).at(Stage::Limits)?;
    }
    if let Some(ids) = &plan.ids {
        private::become_root_of(ids.as_fd()).at(Stage::PrivateIds)?;
        if plan.loopback {
            // One that belongs to the user namespace: its root may use it fully.
            private::new_network().at(Stage::Loopback)?;
        }
    }
    if let Some((user, group)) = &plan.own_id {
        private::rename_only_id(user, group).at(Stage::Identity)?;
    }
    rustix::process::umask(Mode::from_raw_mode(0o022));
    make_cwd(plan)?;
    let _ = syscalls::new_session_keyring();
    streams_in_place(plan, streams).at(Stage::Streams)?;
    syscalls::reset_signals();
    restrict(plan, streams, mounts)?;
    syscalls::set_identity(plan.uid, plan.gid, &plan.groups, plan.set_groups).at(Stage::Identity)?;
    // Who is not root has none by now, but for the inheritable ones that rbuild's caller may have had.
    if let Some(keep) = if plan.uid == 0 { plan.capabilities } else { Some(0) } {
        syscalls::set_capabilities(keep).at(Stage::Capabilities)?;
    }
    // Changing the identity clears the death signal.
    syscalls::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong).at(Stage::Start)?;
    rustix::process::chdir(plan.cwd.as_c_str())
        .or_else(|errno| match errno {
            // A directory only root may enter was entered above; the program starts in it all the same.
            Errno::ACCESS => Ok(()),
            other => Err(other),
        })
        .at(Stage::Cwd)?;
    if let (Some(proc), Some(profile)) = (proc, &plan.profile) {
        confine_next_program(proc, profile).at(Stage::Confinement)?;
    }
    if plan.init {
        let started = become_init(plan, streams).at(Stage::Init).map(|()| start_program(plan));
        // Its descriptors are closed: those who own them must not close them again on the way back.
        end(started.map_or_else(|failure| failure, |errno| (Stage::Exec, errno)), streams);
    }
    Ok(start_program(plan))
}

/// Drops capabilities for good and installs the filter of system calls.
fn restrict(plan: &Plan, streams: &Streams<'_>, mounts: NodeMounts) -> Result<(), Failure> {
    if let Some(keep) = plan.capabilities {
        for capability in (0..=LAST_CAPABILITY).filter(|number| keep & (1 << number) == 0) {
            match syscalls::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(capability)) {
                Ok(()) | Err(Errno::INVAL) => {}
                Err(errno) => return Err((Stage::Capabilities, errno)),
            }
        }
    }
    // Without no_new_privs, which would break setuid programs, the filter needs CAP_SYS_ADMIN:
    // it goes in before the capabilities go out. It allows what follows.
    match &plan.filter {
        Some(filter) if plan.chroot.is_some() => {
            super::chroot::child::filter_calls(plan, filter).at(Stage::Filter)?;
        }
        Some(filter) if plan.asks.is_some() => {
            let listener = syscalls::set_asking_filter(filter).at(Stage::Filter)?;
            let message = Listening { descriptor: listener, mounts }.to_bytes();
            rustix::io::write(streams.listener, &message).at(Stage::Filter)?;
            // Until the parent has it, nobody would answer.
            if rustix::io::read(streams.go, &mut [0u8; 1]).at(Stage::Filter)? != 1 {
                syscalls::exit_now(1);
            }
        }
        Some(filter) => syscalls::set_filter(filter).at(Stage::Filter)?,
        None => {}
    }
    Ok(())
}

/// Gives the error if there is no program that starts.
fn start_program(plan: &Plan) -> Errno {
    let mut last = Errno::NOENT;
    for program in &plan.programs {
        let errno = syscalls::exec(program, &plan.argv, &plan.env);
        // As execvp: a name that cannot be executed hides behind none that can.
        if last == Errno::NOENT || errno == Errno::ACCESS {
            last = errno;
        }
        if !matches!(errno, Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) {
            return errno;
        }
    }
    last
}

pub(super) fn missing_is_fine(errno: Errno) -> Result<(), Errno> {
    // An image may have a link that leads nowhere, or to itself, in place of /etc/resolv.conf.
    if matches!(errno, Errno::NOENT | Errno::NOTDIR | Errno::LOOP) { Ok(()) } else { Err(errno) }
}

/// Makes and enters the working directory, and makes sure that it is inside (CVE-2024-21626).
fn make_cwd(plan: &Plan) -> Result<(), Failure> {
    match rustix::process::chdir(plan.cwd.as_c_str()) {
        Err(Errno::NOENT) => {
            for part in &plan.cwd_parts {
                make_dir(part.as_c_str(), MOST_DANGLING_LINKS).at(Stage::Cwd)?;
            }
            rustix::process::chdir(plan.cwd.as_c_str()).at(Stage::Cwd)?;
        }
        other => other.at(Stage::Cwd)?,
    }
    let mut buffer = [0u8; 4096];
    // SAFETY: the buffer is ours and its true size is given.
    let length = unsafe { libc::syscall(libc::SYS_getcwd, buffer.as_mut_ptr(), buffer.len()) };
    if length <= 0 || buffer[0] != b'/' {
        return Err((Stage::CwdOutside, Errno::NOENT));
    }
    Ok(())
}

/// How many links that lead nowhere may follow one another in a working directory.
const MOST_DANGLING_LINKS: u32 = 4;

/// Makes an absolute path's last directory. Where a link of its name leads nowhere, what it names is made, as
/// OCI runtimes do. Links cannot lead out: the root has been changed.
fn make_dir(path: &CStr, links: u32) -> Result<(), Errno> {
    match rustix::fs::mkdirat(CWD, path, Mode::from_raw_mode(0o755)) {
        Err(Errno::EXIST) => {}
        other => return other,
    }
    match rustix::fs::stat(path) {
        Err(Errno::NOENT) if links > 0 => {}
        other => return other.map(drop),
    }
    let mut way = [0u8; 4096];
    let parent = path.to_bytes().iter().rposition(|c| *c == b'/').map_or(0, |at| at + 1);
    way.get_mut(..parent).ok_or(Errno::NAMETOOLONG)?.copy_from_slice(&path.to_bytes()[..parent]);
    let space = &mut way[parent..];
    // SAFETY: both pointers are valid for the call, and the size is the buffer's without its last byte.
    let length =
        unsafe { libc::readlink(path.as_ptr(), space.as_mut_ptr().cast(), space.len().saturating_sub(1)) };
    let Ok(length) = usize::try_from(length) else { return Err(Errno::NOENT) };
    let is_absolute = space.first() == Some(&b'/');
    let (from, end) = (if is_absolute { parent } else { 0 }, parent + length);
    for at in from + 1..=end {
        if at < end && way[at] != b'/' {
            continue;
        }
        let kept = std::mem::replace(&mut way[at], 0);
        let part = CStr::from_bytes_until_nul(&way[from..]).map_err(|_| Errno::NAMETOOLONG)?;
        make_dir(part, links - 1)?;
        way[at] = kept;
    }
    Ok(())
}

/// Standard streams where they belong, everything else closed by the exec (CVE-2024-21626 again).
pub(super) fn streams_in_place(plan: &Plan, streams: &Streams<'_>) -> Result<(), Errno> {
    rustix::stdio::dup2_stdin(streams.stdin)?;
    rustix::stdio::dup2_stdout(streams.stdout)?;
    rustix::stdio::dup2_stderr(streams.stderr)?;
    if plan.terminal {
        syscalls::take_terminal(rustix::stdio::stdin())?;
    }
    syscalls::close_on_exec_from_3()
}
