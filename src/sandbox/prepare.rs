//! Everything the child needs, made before it exists: after its creation nothing may allocate.

mod ids;
mod mounts;
mod overlay;
mod scratch;

use std::ffi::CString;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use libc::{c_char, sock_filter};

use crate::fs::IdMap;

use self::mounts::{dev_points, heat_counters, prepare_mounts, tmpfs_options};
use self::overlay::overlay;
use self::scratch::Scratch;
use super::private::{self, PrivateIds};
use super::spec::{EtcFiles, Network, ProcessSpec, RootFs, SandboxError, Security, Stdio, Ulimit};
use super::streams::StreamOwner;
use super::supervisor::Duty;
use super::{init, seccomp, syscalls};

pub(super) use self::mounts::Prepared;
pub(super) use self::overlay::Overlay;

/// Names of capabilities by number (linux/capability.h).
pub const CAPABILITY_NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Docker's default capabilities: chown, dac_override, fowner, fsetid, kill, setgid, setuid,
/// setpcap, net_bind_service, net_raw, sys_chroot, mknod, audit_write, setfcap.
pub const DEFAULT_CAPABILITIES: u64 = 0xa804_25fb;
/// Highest capability number that exists today, and room for more: dropping unknown ones is an error
/// that is ignored.
pub(super) const LAST_CAPABILITY: u32 = 63;
/// Docker's size of `/dev`.
const DEV_SIZE: u64 = 64 << 20;
/// The group of terminals, everywhere.
const GROUP_TTY: u32 = 5;
/// Where programs are looked for when the environment has no PATH (as Docker's default).
pub(super) const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The child's instructions.
pub(super) struct Plan {
    pub overlay: Option<Overlay>,
    /// Mount overlays by option strings only.
    pub legacy: bool,
    pub directory: Option<CString>,
    /// A directory of this machine where the root is mounted.
    pub root_point: CString,
    pub etc: Vec<(CString, CString)>,
    pub etc_attributes: u64,
    /// Path inside, whether it is a directory, and what is mounted.
    pub mounts: Vec<(CString, bool, Prepared)>,
    /// A directory of this machine where secrets are mounted before they are bound.
    pub secrets_point: CString,
    /// Mount points below `/dev`, which is made anew for each run: parents first, and whether each
    /// is a file.
    pub dev_points: Vec<(CString, bool)>,
    pub dev_options: Vec<(CString, CString)>,
    pub shm_options: Vec<(CString, CString)>,
    pub hostname: Vec<u8>,
    pub cwd: CString,
    /// Every prefix of the working directory, the shortest first.
    pub cwd_parts: Vec<CString>,
    pub limits: Vec<(u32, u64, u64)>,
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub set_groups: bool,
    pub capabilities: Option<u64>,
    /// The root file system is mounted read-only before the program starts.
    pub read_only: bool,
    /// The program is a child of the first process, which collects others.
    pub init: bool,
    /// Where this process's arguments and environment lie, for an init to forget them.
    pub own_words: Option<Range<usize>>,
    pub filter: Option<Vec<sock_filter>>,
    /// What the filter asks the parent about.
    pub asks: Option<Duty>,
    /// Maps of one user and one group to those there are, for a program that is not root.
    pub own_id: Option<(CString, CString)>,
    pub masked: bool,
    /// Directories below `/sys` that are hidden too.
    pub counters: &'static [CString],
    pub loopback: bool,
    /// A network namespace to enter.
    pub network: Option<Arc<OwnedFd>>,
    /// Who owns terminals, outside; `None` where there is no such group.
    pub gid_tty: Option<CString>,
    /// The user namespace whose root starts the program.
    pub ids: Option<Arc<OwnedFd>>,
    pub terminal: bool,
    /// Who is given the standard streams that are made for the process; `None` where it has them already.
    pub stream_owner: Option<StreamOwner>,
    /// Candidates for the program, tried in order.
    pub programs: Vec<CString>,
    _strings: Vec<CString>,
    pub argv: Vec<*const c_char>,
    pub env: Vec<*const c_char>,
    pub namespaces: i32,
    /// The AppArmor profile of the program.
    pub profile: Option<super::apparmor::Profile>,
    /// The process changes its root directory instead of having namespaces.
    pub chroot: Option<super::chroot::Inside>,
    /// A program that does the rest instead of the child.
    pub runtime: Option<super::oci::Call>,
}

pub(super) fn c_string(bytes: &[u8], what: &str) -> Result<CString, SandboxError> {
    CString::new(bytes).map_err(|_| SandboxError::Invalid(format!("{what} contains a NUL byte")))
}

pub(super) fn c_path(path: &Path) -> Result<CString, SandboxError> {
    c_string(path.as_os_str().as_bytes(), "a path")
}

/// Makes the plan. `permitted` are the capabilities this process has; the process runs with `private_ids`.
pub(super) fn plan(
    spec: &ProcessSpec,
    permitted: u64,
    single_id: bool,
    legacy: bool,
    private_ids: Option<&PrivateIds>,
) -> Result<Plan, SandboxError> {
    ids::check(spec, single_id, private_ids.is_some())?;
    let scratch = Scratch { dir: &spec.scratch };
    let mut mounts: Vec<&super::spec::Mount> = spec.mounts.iter().collect();
    // Parents before children, whatever the order of writing.
    mounts.sort_by(|a, b| a.target.cmp(&b.target));
    let etc = scratch.etc_files(spec)?;
    let stub = scratch.stubs(&mounts, spec.etc)?;
    let root_point = scratch.make_dir("root")?;
    let (overlay, directory) = match &spec.root {
        RootFs::Overlay { lowers, upper, work } => {
            let lowers: Vec<&Path> = lowers.iter().chain([&stub]).map(PathBuf::as_path).collect();
            (Some(overlay(&lowers, Some((upper, work)), &root_point)?), None)
        }
        RootFs::Directory(path) => (None, Some(c_path(path)?)),
    };
    let root_id = private_ids.map_or(0, |_| private::FIRST);
    let (argv_strings, env_strings, programs) = program(spec)?;
    let pointers = |strings: &[CString]| -> Vec<*const c_char> {
        strings.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (argv, env) = (pointers(&argv_strings), pointers(&env_strings));
    let strings = argv_strings.into_iter().chain(env_strings).collect();
    let sandboxed = spec.security == Security::Sandbox;
    let asks = match (single_id, private_ids) {
        (true, _) if spec.user.uid == 0 => Some(Duty::OneId),
        (true, _) => Some(Duty::Groups),
        (_, Some(_)) if sandboxed => Some(Duty::Devices),
        _ => None,
    };
    let wanted = spec.container.capabilities.unwrap_or(DEFAULT_CAPABILITIES);
    if sandboxed && private_ids.is_none() && wanted & !DEFAULT_CAPABILITIES & !permitted != 0 {
        return Err(SandboxError::Invalid(
            "rbuild does not have the capabilities that are to be added".into(),
        ));
    }
    let mut namespaces = libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWCGROUP;
    if matches!(spec.network, Network::None) {
        namespaces |= libc::CLONE_NEWNET;
    }
    Ok(Plan {
        overlay,
        legacy,
        directory,
        root_point: c_path(&root_point)?,
        etc,
        etc_attributes: if spec.etc == EtcFiles::ReadOnly { syscalls::MOUNT_ATTR_RDONLY } else { 0 },
        mounts: prepare_mounts(&scratch, &mounts, root_id, single_id)?,
        secrets_point: c_path(&scratch.make_dir("secrets")?)?,
        dev_points: dev_points(&mounts)?,
        dev_options: tmpfs_options(Some(DEV_SIZE), 0o755, root_id)?,
        shm_options: tmpfs_options(Some(spec.shm_size), 0o1777, root_id)?,
        hostname: spec.hostname.clone().into_bytes(),
        cwd: c_string(&spec.cwd, "the working directory")?,
        cwd_parts: cwd_parts(&spec.cwd)?,
        limits: spec.ulimits.iter().map(limit).collect::<Result<_, _>>()?,
        uid: spec.user.uid,
        gid: spec.user.gid,
        groups: spec.user.groups.clone(),
        set_groups: !single_id,
        capabilities: sandboxed.then_some(wanted & permitted),
        read_only: spec.container.read_only,
        init: spec.container.init,
        own_words: if spec.container.init { init::own_words() } else { None },
        filter: match (sandboxed, asks) {
            (_, Some(Duty::OneId)) => Some(seccomp::single_id_filter(!sandboxed)),
            (_, Some(Duty::Groups)) => Some(seccomp::groups_filter(!sandboxed)),
            (_, Some(Duty::Devices)) => Some(seccomp::device_filter()),
            (true, None) => Some(seccomp::default_filter()),
            (false, None) => None,
        },
        asks,
        own_id: if single_id && (spec.user.uid, spec.user.gid) != (0, 0) {
            let map = |id: u32| c_string(format!("{id} 0 1").as_bytes(), "an ID");
            Some((map(spec.user.uid)?, map(spec.user.gid)?))
        } else {
            None
        },
        masked: sandboxed,
        counters: if sandboxed { heat_counters() } else { &[] },
        loopback: matches!(spec.network, Network::None),
        network: match &spec.network {
            Network::Joined(namespace) => Some(namespace.clone()),
            Network::Host | Network::None => None,
        },
        gid_tty: if single_id || !IdMap::current().has_group(root_id + GROUP_TTY) {
            None
        } else {
            Some(c_string((root_id + GROUP_TTY).to_string().as_bytes(), "an ID")?)
        },
        ids: private_ids
            .map(PrivateIds::namespace)
            .transpose()
            .map_err(|error| SandboxError::setup("make a private user namespace", error))?,
        terminal: spec.stdio == Stdio::Terminal,
        stream_owner: stream_owner(spec, root_id, single_id),
        programs,
        _strings: strings,
        argv,
        env,
        namespaces,
        profile: None,
        chroot: None,
        runtime: None,
    })
}

/// Where there is one ID, everything has that one.
fn stream_owner(spec: &ProcessSpec, root_id: u32, single_id: bool) -> Option<StreamOwner> {
    let owner = StreamOwner { uid: root_id + spec.user.uid, gid: root_id };
    (!single_id && (owner.uid, owner.gid) != (0, 0)).then_some(owner)
}

fn cwd_parts(cwd: &[u8]) -> Result<Vec<CString>, SandboxError> {
    let mut parts = Vec::new();
    let mut at = Vec::new();
    for part in cwd.split(|c| *c == b'/').filter(|part| !part.is_empty()) {
        at.push(b'/');
        at.extend_from_slice(part);
        parts.push(c_string(&at, "the working directory")?);
    }
    Ok(parts)
}

type Strings = Vec<CString>;

fn program(spec: &ProcessSpec) -> Result<(Strings, Strings, Strings), SandboxError> {
    let Some(name) = spec.argv.first().filter(|name| !name.is_empty()) else {
        return Err(SandboxError::Invalid("there is no program to run".into()));
    };
    let argv = spec.argv.iter().map(|arg| c_string(arg, "an argument")).collect::<Result<_, _>>()?;
    let env = spec
        .env
        .iter()
        .map(|(name, value)| c_string(&[name, &b"="[..], value].concat(), "the environment"))
        .collect::<Result<_, _>>()?;
    if name.contains(&b'/') {
        return Ok((argv, env, vec![c_string(name, "the program")?]));
    }
    let path =
        spec.env.iter().rev().find(|(name, _)| name == b"PATH").map_or(DEFAULT_PATH, |(_, value)| value);
    let programs = path
        .split(|c| *c == b':')
        .map(|dir| c_string(&[if dir.is_empty() { b"." } else { dir }, b"/", name].concat(), "PATH"))
        .collect::<Result<_, _>>()?;
    Ok((argv, env, programs))
}

fn limit(ulimit: &Ulimit) -> Result<(u32, u64, u64), SandboxError> {
    let resource = match ulimit.name.as_str() {
        "core" => libc::RLIMIT_CORE,
        "cpu" => libc::RLIMIT_CPU,
        "data" => libc::RLIMIT_DATA,
        "fsize" => libc::RLIMIT_FSIZE,
        "locks" => libc::RLIMIT_LOCKS,
        "memlock" => libc::RLIMIT_MEMLOCK,
        "msgqueue" => libc::RLIMIT_MSGQUEUE,
        "nice" => libc::RLIMIT_NICE,
        "nofile" => libc::RLIMIT_NOFILE,
        "nproc" => libc::RLIMIT_NPROC,
        "rss" => libc::RLIMIT_RSS,
        "rtprio" => libc::RLIMIT_RTPRIO,
        "rttime" => libc::RLIMIT_RTTIME,
        "sigpending" => libc::RLIMIT_SIGPENDING,
        "stack" => libc::RLIMIT_STACK,
        other => return Err(SandboxError::Invalid(format!("unknown ulimit {other:?}"))),
    };
    Ok((resource as u32, ulimit.soft, ulimit.hard))
}

/// The capabilities of this process.
pub(super) fn permitted() -> u64 {
    syscalls::permitted_capabilities().unwrap_or(0)
}
