//! Everything the child needs, made before it exists: after its creation nothing may allocate.

use std::ffi::CString;
use std::fs::{self, Permissions};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use libc::{c_char, sock_filter};

use super::private::{self, PrivateIds};
use super::spec::{MountKind, Network, ProcessSpec, RootFs, SandboxError, Security, Stdio, Ulimit};
use super::supervisor::Duty;
use super::{seccomp, syscalls};

/// Docker's default capabilities: chown, dac_override, fowner, fsetid, kill, setgid, setuid,
/// setpcap, net_bind_service, net_raw, sys_chroot, mknod, audit_write, setfcap.
pub(super) const DEFAULT_CAPABILITIES: u64 = 0xa804_25fb;
/// Highest capability number that exists today, and room for more: dropping unknown ones is an error
/// that is ignored.
pub(super) const LAST_CAPABILITY: u32 = 63;
/// The group of terminals, everywhere.
const GROUP_TTY: u32 = 5;
/// Where programs are looked for when the environment has no PATH (as Docker's default).
pub(super) const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A mount of the spec, ready to be made.
pub(super) enum Prepared {
    Bind {
        source: CString,
        inside: CString,
        readonly: bool,
    },
    Device {
        source: CString,
    },
    Tmpfs {
        options: Vec<(CString, CString)>,
    },
    /// Mounted at its point first, then bound from there.
    Overlay {
        overlay: Overlay,
        inside: CString,
        readonly: bool,
    },
    /// A file of the memory file system that holds all secrets.
    Secret {
        file: SecretFile,
    },
}

/// A stack of directories.
pub(super) struct Overlay {
    pub lowers: Vec<CString>,
    /// The same as a directory that the layers of a store have in common, and paths in it.
    pub lower_places: Vec<(CString, CString)>,
    pub upper: Option<(CString, CString)>,
    /// The same as a directory and two names in it, if they have one in common.
    pub upper_names: Option<(CString, CString, CString)>,
    /// The same as one option string, with lowers relative to a directory, for kernels that do not
    /// take layers one by one (before Linux 6.7). Absent where it would be too long.
    pub option_string: Option<(CString, CString)>,
    /// A directory of this machine where it is mounted.
    pub point: CString,
}

/// A secret, written by the child where nobody else sees it.
pub(super) struct SecretFile {
    pub name: CString,
    pub content: Vec<u8>,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

/// The child's instructions.
pub(super) struct Plan {
    pub overlay: Option<Overlay>,
    /// Mount overlays by option strings only.
    pub legacy: bool,
    pub directory: Option<CString>,
    /// A directory of this machine where the root is mounted.
    pub root_point: CString,
    pub etc: Vec<(CString, CString)>,
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
    pub filter: Option<Vec<sock_filter>>,
    /// What the filter asks the parent about.
    pub asks: Option<Duty>,
    /// Maps of one user and one group to those there are, for a program that is not root.
    pub own_id: Option<(CString, CString)>,
    pub masked: bool,
    pub loopback: bool,
    /// A network namespace to enter.
    pub network: Option<Arc<OwnedFd>>,
    /// Who owns terminals, outside.
    pub gid_tty: Option<CString>,
    /// The user namespace whose root starts the program.
    pub ids: Option<Arc<OwnedFd>>,
    pub terminal: bool,
    /// Candidates for the program, tried in order.
    pub programs: Vec<CString>,
    _strings: Vec<CString>,
    pub argv: Vec<*const c_char>,
    pub env: Vec<*const c_char>,
    pub namespaces: i32,
    /// A program that does the rest instead of the child.
    pub runtime: Option<super::oci::Call>,
}

pub(super) fn c_string(bytes: &[u8], what: &str) -> Result<CString, SandboxError> {
    CString::new(bytes).map_err(|_| SandboxError::Invalid(format!("{what} contains a NUL byte")))
}

pub(super) fn c_path(path: &Path) -> Result<CString, SandboxError> {
    c_string(path.as_os_str().as_bytes(), "a path")
}

/// Makes the plan. `permitted` are the capabilities this process has; the process runs with `ids`.
pub(super) fn plan(
    spec: &ProcessSpec,
    permitted: u64,
    single_id: bool,
    legacy: bool,
    ids: Option<&PrivateIds>,
) -> Result<Plan, SandboxError> {
    let scratch = Scratch { dir: &spec.scratch };
    let mut mounts: Vec<&super::spec::Mount> = spec.mounts.iter().collect();
    // Parents before children, whatever the order of writing.
    mounts.sort_by(|a, b| a.target.cmp(&b.target));
    let etc = scratch.etc_files(spec)?;
    let stub = scratch.stubs(&mounts)?;
    let root_point = scratch.make_dir("root")?;
    let (overlay, directory) = match &spec.root {
        RootFs::Overlay { lowers, upper, work } => {
            let lowers: Vec<&Path> = lowers.iter().chain([&stub]).map(PathBuf::as_path).collect();
            (Some(overlay(&lowers, Some((upper, work)), &root_point)?), None)
        }
        RootFs::Directory(path) => (None, Some(c_path(path)?)),
    };
    let root_id = ids.map_or(0, |_| private::FIRST);
    let (argv_strings, env_strings, programs) = program(spec)?;
    let pointers = |strings: &[CString]| -> Vec<*const c_char> {
        strings.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (argv, env) = (pointers(&argv_strings), pointers(&env_strings));
    let strings = argv_strings.into_iter().chain(env_strings).collect();
    let sandboxed = spec.security == Security::Sandbox;
    let asks = match (single_id, ids) {
        (true, _) if spec.user.uid == 0 => Some(Duty::OneId),
        (_, Some(_)) if sandboxed => Some(Duty::Devices),
        _ => None,
    };
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
        mounts: prepare_mounts(&scratch, &mounts, root_id, single_id)?,
        secrets_point: c_path(&scratch.make_dir("secrets")?)?,
        dev_points: dev_points(&mounts)?,
        dev_options: tmpfs_options(None, 0o755, root_id)?,
        shm_options: tmpfs_options(Some(spec.shm_size), 0o1777, root_id)?,
        hostname: spec.hostname.clone().into_bytes(),
        cwd: c_string(&spec.cwd, "the working directory")?,
        cwd_parts: cwd_parts(&spec.cwd)?,
        limits: spec.ulimits.iter().map(limit).collect::<Result<_, _>>()?,
        uid: spec.user.uid,
        gid: spec.user.gid,
        groups: spec.user.groups.clone(),
        set_groups: !single_id,
        capabilities: sandboxed.then_some(DEFAULT_CAPABILITIES & permitted),
        filter: match (sandboxed, asks) {
            (_, Some(Duty::OneId)) => Some(seccomp::single_id_filter(!sandboxed)),
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
        loopback: matches!(spec.network, Network::None),
        network: match &spec.network {
            Network::Joined(namespace) => Some(namespace.clone()),
            Network::Host | Network::None => None,
        },
        gid_tty: if single_id {
            None
        } else {
            Some(c_string((root_id + GROUP_TTY).to_string().as_bytes(), "an ID")?)
        },
        ids: ids
            .map(PrivateIds::namespace)
            .transpose()
            .map_err(|error| SandboxError::setup("make a private user namespace", error))?,
        terminal: spec.stdio == Stdio::Terminal,
        programs,
        _strings: strings,
        argv,
        env,
        namespaces,
        runtime: None,
    })
}

/// This run's private directory.
struct Scratch<'a> {
    dir: &'a Path,
}

impl Scratch<'_> {
    fn make_dir(&self, name: &str) -> Result<PathBuf, SandboxError> {
        let path = self.dir.join(name);
        fs::create_dir(&path)
            .map_err(|error| SandboxError::setup(format!("create {}", path.display()), error))?;
        Ok(path)
    }

    fn write(&self, path: &Path, content: &[u8], mode: u32) -> Result<(), SandboxError> {
        let wrote =
            fs::write(path, content).and_then(|()| fs::set_permissions(path, Permissions::from_mode(mode)));
        wrote.map_err(|error| SandboxError::setup(format!("write {}", path.display()), error))
    }

    /// `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf`, which are mounted and never committed.
    fn etc_files(&self, spec: &ProcessSpec) -> Result<Vec<(CString, CString)>, SandboxError> {
        let dir = self.make_dir("etc")?;
        let mut hosts =
            format!("127.0.0.1\tlocalhost {}\n::1\tlocalhost ip6-localhost ip6-loopback\n", spec.hostname);
        for (name, address) in &spec.extra_hosts {
            hosts.push_str(&format!("{address}\t{name}\n"));
        }
        let mut files =
            vec![("hosts", hosts.into_bytes()), ("hostname", format!("{}\n", spec.hostname).into_bytes())];
        if !spec.resolv_conf.is_empty() {
            files.push(("resolv.conf", spec.resolv_conf.clone()));
        }
        let mut mounts = Vec::new();
        for (name, content) in files {
            let path = dir.join(name);
            self.write(&path, &content, 0o644)?;
            mounts.push((c_path(&path)?, c_string(format!("etc/{name}").as_bytes(), "a path")?));
        }
        Ok(mounts)
    }

    /// A lowest layer with every mount point, so that none is ever made in the upper one: there is
    /// nothing to clean up afterwards, and so nothing a process could redirect (CVE-2024-23652).
    fn stubs(&self, mounts: &[&super::spec::Mount]) -> Result<PathBuf, SandboxError> {
        let stub = self.make_dir("stub")?;
        let failed = |error| SandboxError::setup("create mount points", error);
        for dir in ["proc", "sys", "dev", "etc"] {
            fs::create_dir(stub.join(dir)).map_err(failed)?;
        }
        for file in ["etc/hosts", "etc/hostname", "etc/resolv.conf"] {
            self.write(&stub.join(file), b"", 0o644)?;
        }
        for mount in mounts {
            let Some(path) = below(&stub, &mount.target) else {
                let target = String::from_utf8_lossy(&mount.target).into_owned();
                return Err(SandboxError::Invalid(format!("{target:?} cannot be a mount target")));
            };
            let is_file = !mount.kind.on_directory();
            if path.exists() {
                continue;
            }
            let parent = path.parent().unwrap_or(&stub);
            // A device tree of our own covers anything below /dev; its mount points are made there.
            fs::create_dir_all(if is_file { parent } else { &path }).map_err(failed)?;
            if is_file {
                self.write(&path, b"", 0o644)?;
            }
        }
        Ok(stub)
    }
}

/// `root` joined with an absolute path inside it; `None` for the root itself or anything with `..`.
fn below(root: &Path, target: &[u8]) -> Option<PathBuf> {
    let relative = target.strip_prefix(b"/")?;
    let parts: Vec<&[u8]> =
        relative.split(|c| *c == b'/').filter(|part| !matches!(*part, b"" | b".")).collect();
    if parts.is_empty() || parts.contains(&&b".."[..]) {
        return None;
    }
    Some(parts.iter().fold(root.to_owned(), |path, part| path.join(std::ffi::OsStr::from_bytes(part))))
}

fn prepare_mounts(
    scratch: &Scratch<'_>,
    mounts: &[&super::spec::Mount],
    root_id: u32,
    single_id: bool,
) -> Result<Vec<(CString, bool, Prepared)>, SandboxError> {
    let files = scratch.make_dir("files")?;
    let mut out = Vec::new();
    for (number, mount) in mounts.iter().enumerate() {
        let target = mount.target.strip_prefix(b"/").unwrap_or(&mount.target);
        let prepared = match &mount.kind {
            MountKind::Bind { source, inside, readonly } => Prepared::Bind {
                source: c_path(source)?,
                inside: c_string(inside, "a mount source")?,
                readonly: *readonly,
            },
            MountKind::Device { source } => Prepared::Device { source: c_path(source)? },
            MountKind::Tmpfs { size, mode } => {
                Prepared::Tmpfs { options: tmpfs_options(*size, *mode, root_id)? }
            }
            MountKind::Overlay { lowers, upper, inside, .. } => {
                let point = scratch.make_dir(&format!("mount{number}"))?;
                // Without an upper directory the kernel wants two layers at least.
                let empty = scratch.make_dir(&format!("empty{number}"))?;
                let lowers: Vec<&Path> =
                    lowers.iter().chain([&empty, &point]).map(PathBuf::as_path).collect();
                let upper_work = upper.as_ref().map(|(upper, work)| (upper.as_path(), work.as_path()));
                let inside: Vec<&[u8]> =
                    inside.split(|c| *c == b'/').filter(|part| !part.is_empty()).collect();
                Prepared::Overlay {
                    overlay: overlay(&lowers, upper_work, &point)?,
                    inside: c_string(&inside.join(&b'/'), "a mount source")?,
                    readonly: upper.is_none(),
                }
            }
            MountKind::Secret { content, mode, uid, gid } => Prepared::Secret {
                file: SecretFile {
                    name: c_string(number.to_string().as_bytes(), "a name")?,
                    content: content.clone(),
                    mode: *mode,
                    // With one ID only, everything is everybody's.
                    uid: if single_id { 0 } else { *uid },
                    gid: if single_id { 0 } else { *gid },
                },
            },
            MountKind::File { content, mode, uid, gid } => {
                let path = files.join(number.to_string());
                scratch.write(&path, content, *mode)?;
                if !single_id {
                    let owned = std::os::unix::fs::chown(&path, Some(*uid), Some(*gid));
                    owned.map_err(|error| SandboxError::setup("set the owner of a mounted file", error))?;
                }
                Prepared::Bind { source: c_path(&path)?, inside: CString::default(), readonly: true }
            }
        };
        out.push((c_string(target, "a mount target")?, mount.kind.on_directory(), prepared));
    }
    Ok(out)
}

/// One page, which the kernel takes as options of `mount`.
const OPTIONS_MAX: usize = 4095;

fn overlay(lowers: &[&Path], upper: Option<(&Path, &Path)>, point: &Path) -> Result<Overlay, SandboxError> {
    Ok(Overlay {
        lowers: lowers.iter().map(|path| c_path(path)).collect::<Result<_, _>>()?,
        lower_places: lowers.iter().map(|path| place(path)).collect::<Result<_, _>>()?,
        upper: upper.map(|(upper, work)| Ok((c_path(upper)?, c_path(work)?))).transpose()?,
        upper_names: upper.map(|(upper, work)| siblings(upper, work)).transpose()?.flatten(),
        option_string: option_string(lowers, upper)?,
        point: c_path(point)?,
    })
}

/// The directory two levels up, and the path in it.
fn place(path: &Path) -> Result<(CString, CString), SandboxError> {
    let above = path.parent().and_then(Path::parent).unwrap_or(path);
    let inside = path.strip_prefix(above).unwrap_or(Path::new(""));
    Ok((c_path(above)?, c_path(if inside.as_os_str().is_empty() { Path::new(".") } else { inside })?))
}

fn siblings(upper: &Path, work: &Path) -> Result<Option<(CString, CString, CString)>, SandboxError> {
    let (Some(dir), Some(upper_name), Some(work_name)) =
        (upper.parent(), upper.file_name(), work.file_name())
    else {
        return Ok(None);
    };
    if work.parent() != Some(dir) {
        return Ok(None);
    }
    Ok(Some((c_path(dir)?, c_path(Path::new(upper_name))?, c_path(Path::new(work_name))?)))
}

fn option_string(
    lowers: &[&Path],
    upper: Option<(&Path, &Path)>,
) -> Result<Option<(CString, CString)>, SandboxError> {
    // Layers of one store share most of their path: relative names let more of them fit.
    let shared = lowers.first().and_then(|path| path.parent()?.parent()).unwrap_or(Path::new("/"));
    let mut options = b"lowerdir=".to_vec();
    for (number, path) in lowers.iter().copied().enumerate() {
        if number > 0 {
            options.push(b':');
        }
        let path = path.strip_prefix(shared).unwrap_or(path);
        escape(&mut options, path.as_os_str().as_bytes(), b"\\:,");
    }
    options.extend_from_slice(b",userxattr");
    if let Some((upper, work)) = upper {
        for (name, path) in [(&b",upperdir="[..], upper), (b",workdir=", work)] {
            options.extend_from_slice(name);
            escape(&mut options, path.as_os_str().as_bytes(), b"\\,");
        }
        options.extend_from_slice(b",volatile");
    }
    if options.len() > OPTIONS_MAX {
        return Ok(None);
    }
    Ok(Some((c_path(shared)?, c_string(&options, "a path")?)))
}

fn escape(out: &mut Vec<u8>, text: &[u8], special: &[u8]) {
    for byte in text {
        if special.contains(byte) {
            out.push(b'\\');
        }
        out.push(*byte);
    }
}

fn dev_points(mounts: &[&super::spec::Mount]) -> Result<Vec<(CString, bool)>, SandboxError> {
    let mut points = Vec::new();
    for mount in mounts {
        let Some(rest) = mount.target.strip_prefix(b"/dev/") else { continue };
        let is_dir = mount.kind.on_directory();
        let mut at = b"dev".to_vec();
        let parts: Vec<&[u8]> = rest.split(|c| *c == b'/').filter(|part| !part.is_empty()).collect();
        for (number, part) in parts.iter().enumerate() {
            at.push(b'/');
            at.extend_from_slice(part);
            points.push((c_string(&at, "a mount target")?, number + 1 == parts.len() && !is_dir));
        }
    }
    Ok(points)
}

/// `root_id` is what the process's root is outside, where these are mounted.
fn tmpfs_options(
    size: Option<u64>,
    mode: u32,
    root_id: u32,
) -> Result<Vec<(CString, CString)>, SandboxError> {
    let mut options = vec![(c"mode".to_owned(), c_string(format!("{mode:o}").as_bytes(), "a mode")?)];
    if root_id != 0 {
        let owner = c_string(root_id.to_string().as_bytes(), "an ID")?;
        options.extend([(c"uid".to_owned(), owner.clone()), (c"gid".to_owned(), owner)]);
    }
    if let Some(size) = size.filter(|size| *size > 0) {
        options.push((c"size".to_owned(), c_string(size.to_string().as_bytes(), "a size")?));
    }
    Ok(options)
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
