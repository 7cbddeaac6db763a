//! What the child mounts: the root, the kernel's file systems, devices, and what was asked for. As in
//! `child`, nothing in here allocates, locks or unwinds.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd as _, OwnedFd};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags};

use crate::fs::open_resolved_c;

use super::child::{At as _, Failure, Stage};
use super::prepare::{Overlay, Plan, Prepared};
use super::private;
use super::syscalls::{self, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY};
use super::terminal;

/// Docker's list of files that say too much.
pub(super) const MASKED: [&CStr; 15] = [
    c"proc/asound",
    c"proc/acpi",
    c"proc/interrupts",
    c"proc/kcore",
    c"proc/keys",
    c"proc/latency_stats",
    c"proc/timer_list",
    c"proc/timer_stats",
    c"proc/sched_debug",
    c"proc/scsi",
    c"sys/devices/virtual/powercap",
    c"sys/firmware",
    // Not in Docker's list: what this machine's pages of memory are used for.
    c"proc/kpagecgroup",
    c"proc/kpagecount",
    c"proc/kpageflags",
];
/// Docker's list of files that may be read only.
pub(super) const READ_ONLY: [&CStr; 5] =
    [c"proc/bus", c"proc/fs", c"proc/irq", c"proc/sys", c"proc/sysrq-trigger"];

/// As if the directory were the root.
const IN_ROOT: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

/// Name, the machine's own node, major and minor number.
const DEVICES: [(&CStr, &CStr, u32, u32); 6] = [
    (c"null", c"/dev/null", 1, 3),
    (c"zero", c"/dev/zero", 1, 5),
    (c"full", c"/dev/full", 1, 7),
    (c"random", c"/dev/random", 1, 8),
    (c"urandom", c"/dev/urandom", 1, 9),
    (c"tty", c"/dev/tty", 5, 0),
];
const DEV_LINKS: [(&CStr, &CStr); 6] = [
    (c"/proc/self/fd", c"fd"),
    (c"/proc/self/fd/0", c"stdin"),
    (c"/proc/self/fd/1", c"stdout"),
    (c"/proc/self/fd/2", c"stderr"),
    (c"pts/ptmx", c"ptmx"),
    (c"/proc/kcore", c"core"),
];

/// Mounts the root and gives a descriptor of it.
pub(super) fn mount_root(plan: &Plan) -> Result<OwnedFd, Failure> {
    match (&plan.overlay, &plan.directory) {
        (Some(stack), _) => {
            let stage = if plan.ids.is_some() { Stage::MappedOverlay } else { Stage::Overlay };
            overlay(stack, root_attributes(plan), plan).at(stage)?;
        }
        (None, Some(directory)) => {
            let tree = host_tree(plan, directory, true).at(Stage::Root)?;
            if root_attributes(plan) != 0 {
                syscalls::mount_setattr(tree.as_fd(), root_attributes(plan), true).at(Stage::Root)?;
            }
            attach(tree.as_fd(), CWD, &plan.root_point, true).at(Stage::Root)?;
        }
        (None, None) => return Err((Stage::Root, Errno::INVAL)),
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, plan.root_point.as_c_str(), flags, Mode::empty()).at(Stage::Root)
}

fn overlay(stack: &Overlay, attributes: u64, plan: &Plan) -> Result<(), Errno> {
    if let Some(ids) = &plan.ids {
        // overlayfs makes files of its own as whoever mounts it, who must exist inside.
        return syscalls::with_files_of(private::FIRST, || {
            overlay_with_owners(stack, attributes, ids.as_fd())
        });
    }
    let Some((dir, options)) = &stack.option_string else { return overlay_by_layers(stack, attributes) };
    if !plan.legacy {
        match overlay_by_layers(stack, attributes) {
            Err(Errno::INVAL | Errno::NOSYS) => {}
            result => return result,
        }
    }
    rustix::process::chdir(dir.as_c_str())?;
    let mut flags = rustix::mount::MountFlags::empty();
    if attributes & MOUNT_ATTR_NODEV != 0 {
        flags |= rustix::mount::MountFlags::NODEV;
    }
    rustix::mount::mount(c"overlay", stack.point.as_c_str(), c"overlay", flags, options.as_c_str())
}

/// A process may make device nodes, as package managers do, but nothing it makes can be opened:
/// there is no device cgroup here that would tell harmless devices from the disks of this machine.
fn root_attributes(plan: &Plan) -> u64 {
    if plan.masked { MOUNT_ATTR_NODEV } else { 0 }
}

fn overlay_by_layers(stack: &Overlay, attributes: u64) -> Result<(), Errno> {
    let fs = rustix::mount::fsopen(c"overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for lower in &stack.lowers {
        rustix::mount::fsconfig_set_string(&fs, c"lowerdir+", lower.as_c_str())?;
    }
    // The same attribute names with and without a user namespace; it also turns off renames and
    // partial copies that a layer could not express.
    rustix::mount::fsconfig_set_flag(&fs, c"userxattr")?;
    if let Some((upper, work)) = &stack.upper {
        rustix::mount::fsconfig_set_string(&fs, c"upperdir", upper.as_c_str())?;
        rustix::mount::fsconfig_set_string(&fs, c"workdir", work.as_c_str())?;
        // What is lost in a crash of the machine is a layer that was never finished.
        rustix::mount::fsconfig_set_flag(&fs, c"volatile")?;
    }
    attach_overlay(&fs, stack, attributes)
}

/// Layers are mounted so that they show the owners that processes have; overlayfs passes them on. The
/// layers of a store lie in one directory, which needs one mount.
fn overlay_with_owners(stack: &Overlay, attributes: u64, ids: BorrowedFd<'_>) -> Result<(), Errno> {
    let fs = rustix::mount::fsopen(c"overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let mut mounted: Option<(&CStr, BorrowedFd<'_>)> = None;
    for (above, inside) in &stack.lower_places {
        let tree = match mounted {
            Some((known, tree)) if known == above.as_c_str() => tree,
            _ => {
                let tree = private::mapped_tree(above, ids, false)?;
                // A mount that is attached nowhere goes with its descriptor, and overlayfs makes its copies
                // later: the descriptor stays open until the root is mounted, and then goes with all others,
                // by the exec or, before an OCI runtime, by `keep_only`.
                // SAFETY: it is borrowed for the mounting of this overlay only, during which nothing closes it.
                unsafe { BorrowedFd::borrow_raw(tree.into_raw_fd()) }
            }
        };
        mounted = Some((above, tree));
        let dir = private::inside_tree(tree, inside)?;
        rustix::mount::fsconfig_set_fd(&fs, c"lowerdir+", &dir)?;
    }
    rustix::mount::fsconfig_set_flag(&fs, c"userxattr")?;
    if stack.upper.is_some() {
        let (dir, upper, work) = stack.upper_names.as_ref().ok_or(Errno::INVAL)?;
        let tree = private::mapped_tree(dir, ids, false)?;
        for (key, name) in [(c"upperdir", upper), (c"workdir", work)] {
            let dir = private::inside_tree(tree.as_fd(), name)?;
            rustix::mount::fsconfig_set_fd(&fs, key, &dir)?;
        }
        let _ = tree.into_raw_fd();
        rustix::mount::fsconfig_set_flag(&fs, c"volatile")?;
    }
    attach_overlay(&fs, stack, attributes)
}

fn attach_overlay(fs: &OwnedFd, stack: &Overlay, attributes: u64) -> Result<(), Errno> {
    rustix::mount::fsconfig_create(fs)?;
    let attributes = MountAttrFlags::from_bits_retain(attributes as u32);
    let mount = rustix::mount::fsmount(fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    attach(mount.as_fd(), CWD, &stack.point, true)
}

/// A copy of a mount of this machine, with owners as the process is to see them.
fn host_tree(plan: &Plan, source: &CStr, recursive: bool) -> Result<OwnedFd, Errno> {
    match &plan.ids {
        Some(ids) => private::mapped_tree(source, ids.as_fd(), recursive),
        None => clone_tree(CWD, source, recursive),
    }
}

/// Puts a detached mount at a path relative to `dir`.
fn attach(mount: BorrowedFd<'_>, dir: impl AsFd, target: &CStr, follow: bool) -> Result<(), Errno> {
    let mut flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    if follow {
        flags |= MoveMountFlags::MOVE_MOUNT_T_SYMLINKS;
    }
    rustix::mount::move_mount(mount, c"", dir, target, flags)
}

/// Opens a path inside the root without ever leaving it, whatever links say meanwhile.
pub(super) fn open_inside(root: BorrowedFd<'_>, path: &CStr) -> Result<OwnedFd, Errno> {
    open_resolved_c(root, path, OFlags::PATH, Mode::empty(), IN_ROOT)
}

/// Puts a detached mount on what a path inside the root leads to.
pub(super) fn attach_inside(mount: BorrowedFd<'_>, root: BorrowedFd<'_>, target: &CStr) -> Result<(), Errno> {
    let point = open_inside(root, target)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(mount, c"", &point, c"", flags)
}

pub(super) fn new_fs(kind: &CStr, options: &[(CString, CString)], attributes: u64) -> Result<OwnedFd, Errno> {
    let fs = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        rustix::mount::fsconfig_set_string(&fs, key.as_c_str(), value.as_c_str())?;
    }
    rustix::mount::fsconfig_create(&fs)?;
    let flags = MountAttrFlags::from_bits_retain(attributes as u32);
    rustix::mount::fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, flags)
}

pub(super) fn bind(
    plan: &Plan,
    source: &CStr,
    root: BorrowedFd<'_>,
    target: &CStr,
    attributes: u64,
    recursive: bool,
) -> Result<(), Errno> {
    let tree = host_tree(plan, source, recursive)?;
    if attributes != 0 {
        syscalls::mount_setattr(tree.as_fd(), attributes, recursive)?;
    }
    attach_inside(tree.as_fd(), root, target)
}

pub(super) fn clone_tree(dir: impl AsFd, path: &CStr, recursive: bool) -> Result<OwnedFd, Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if path.is_empty() {
        flags |= OpenTreeFlags::AT_EMPTY_PATH;
    }
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    rustix::mount::open_tree(dir, path, flags)
}

pub(super) fn mount_proc(root: BorrowedFd<'_>) -> Result<(), Failure> {
    let attributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
    let proc = new_fs(c"proc", &[], attributes).at(Stage::Proc)?;
    attach_inside(proc.as_fd(), root, c"proc").at(Stage::Proc)
}

/// Gives the terminal of the process, if it gets one; its other end goes through `terminal`.
pub(super) fn mount_dev(
    plan: &Plan,
    root: BorrowedFd<'_>,
    terminal: Option<BorrowedFd<'_>>,
) -> Result<Option<OwnedFd>, Failure> {
    let dev =
        new_fs(c"tmpfs", &plan.dev_options, MOUNT_ATTR_NOSUID | root_attributes(plan)).at(Stage::Dev)?;
    let dir = dev.as_fd();
    attach_inside(dir, root, c"dev").at(Stage::Dev)?;
    let links = || DEV_LINKS.iter().try_for_each(|(target, name)| rustix::fs::symlinkat(*target, dir, *name));
    let linked = if plan.ids.is_some() { syscalls::with_files_of(private::FIRST, links) } else { links() };
    linked.at(Stage::Dev)?;
    for name in [c"pts", c"shm", c"mqueue"] {
        rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(0o755)).at(Stage::Dev)?;
    }
    devices(plan, dir).at(Stage::Dev)?;
    let safe = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
    let pts = mount_pts(plan, dir).at(Stage::Dev)?;
    let shm = new_fs(c"tmpfs", &plan.shm_options, safe).at(Stage::Dev)?;
    attach(shm.as_fd(), dir, c"shm", false).at(Stage::Dev)?;
    if let Ok(queue) = new_fs(c"mqueue", &[], safe) {
        attach(queue.as_fd(), dir, c"mqueue", false).at(Stage::Dev)?;
    }
    let made = terminal.map(|socket| make_terminal(plan, dir, pts.as_fd(), socket));
    made.transpose().at(Stage::Terminal)
}

/// Makes a mount point in the new `/dev`; one that is there already is fine.
pub(super) fn make_point(root: BorrowedFd<'_>, path: &CStr, is_file: bool) -> Result<(), Errno> {
    if is_file {
        let flags = OFlags::WRONLY | OFlags::CREATE;
        return open_resolved_c(root, path, flags, Mode::from_raw_mode(0o644), IN_ROOT).map(drop);
    }
    // Everything above the last component was made by us in this very tree.
    match rustix::fs::mkdirat(root, path, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Makes the mount point of a mount inside another one, whose content nobody could prepare. In the
/// root file system itself all points exist.
pub(super) fn make_points(root: BorrowedFd<'_>, target: &CStr, is_dir: bool) -> Result<(), Errno> {
    const LONGEST: usize = 4096;
    let bytes = target.to_bytes();
    let mut name = [0u8; LONGEST];
    if bytes.len() >= LONGEST {
        return Err(Errno::NAMETOOLONG);
    }
    let mut above = open_inside(root, c".")?;
    let mut start = 0;
    while start < bytes.len() {
        let end = bytes[start..].iter().position(|c| *c == b'/').map_or(bytes.len(), |at| start + at);
        name[..end].copy_from_slice(&bytes[..end]);
        name[end] = 0;
        let path = CStr::from_bytes_with_nul(&name[..=end]).map_err(|_| Errno::INVAL)?;
        match open_inside(root, path) {
            Ok(found) => above = found,
            Err(Errno::NOENT) => {
                let last = CStr::from_bytes_with_nul(&name[start..=end]).map_err(|_| Errno::INVAL)?;
                if end == bytes.len() && !is_dir {
                    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
                    let mode = Mode::from_raw_mode(0o644);
                    return open_resolved_c(above.as_fd(), last, flags, mode, IN_ROOT).map(drop);
                }
                rustix::fs::mkdirat(&above, last, Mode::from_raw_mode(0o755))?;
                above = open_inside(root, path)?;
            }
            Err(errno) => return Err(errno),
        }
        start = end + 1;
    }
    Ok(())
}

fn mount_pts(plan: &Plan, dev: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let fs = rustix::mount::fsopen(c"devpts", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_flag(&fs, c"newinstance").or(Ok(()))?;
    rustix::mount::fsconfig_set_string(&fs, c"ptmxmode", c"0666")?;
    rustix::mount::fsconfig_set_string(&fs, c"mode", c"0620")?;
    if let Some(group) = &plan.gid_tty {
        rustix::mount::fsconfig_set_string(&fs, c"gid", group.as_c_str())?;
    }
    rustix::mount::fsconfig_create(&fs)?;
    let flags = MountAttrFlags::from_bits_retain((MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC) as u32);
    let pts = rustix::mount::fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, flags)?;
    attach(pts.as_fd(), dev, c"pts", false)?;
    Ok(pts)
}

/// The terminal of the process, which is `/dev/console` too, as in a container.
fn make_terminal(
    plan: &Plan,
    dev: BorrowedFd<'_>,
    pts: BorrowedFd<'_>,
    socket: BorrowedFd<'_>,
) -> Result<OwnedFd, Errno> {
    let own = terminal::make(pts, socket)?;
    if let Some(owner) = plan.stream_owner {
        owner.give(&own, false);
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    drop(rustix::fs::openat(dev, c"console", flags, Mode::from_raw_mode(0o600))?);
    let tree = clone_tree(&own, c"", false)?;
    attach(tree.as_fd(), dev, c"console", false)?;
    Ok(own)
}

/// Makes the device nodes of `/dev`, the only ones there that can be opened: each is mounted over itself without what
/// keeps others from it. They are the process's own, so that what it does to their owners and modes does nothing to
/// the machine's. Where it may make none, they are the machine's.
fn devices(plan: &Plan, dev: BorrowedFd<'_>) -> Result<(), Errno> {
    for (name, host, major, minor) in DEVICES {
        let tree = if own_node(plan, dev, name, rustix::fs::makedev(major, minor))? {
            let tree = clone_tree(dev, name, false)?;
            syscalls::clear_mount_attributes(tree.as_fd(), MOUNT_ATTR_NODEV)?;
            tree
        } else {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            drop(rustix::fs::openat(dev, name, flags, Mode::from_raw_mode(0o666))?);
            machines_node(host)?
        };
        attach(tree.as_fd(), dev, name, false)?;
    }
    Ok(())
}

/// `false` where processes of this user may make no nodes.
fn own_node(plan: &Plan, dev: BorrowedFd<'_>, name: &CStr, device: u64) -> Result<bool, Errno> {
    let mode = Mode::from_raw_mode(0o666);
    match rustix::fs::mknodat(dev, name, FileType::CharacterDevice, mode, device) {
        Err(Errno::PERM) => return Ok(false),
        made => made?,
    }
    rustix::fs::chmodat(dev, name, mode, AtFlags::empty())?;
    if plan.ids.is_some() {
        let (uid, gid) = (Uid::from_raw(private::FIRST), Gid::from_raw(private::FIRST));
        rustix::fs::chownat(dev, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(true)
}

/// A node of the machine, whose owner and mode nobody can change: the mount is read-only, which only files and
/// directories mind when they are written to.
fn machines_node(host: &CStr) -> Result<OwnedFd, Errno> {
    let tree = clone_tree(CWD, host, false)?;
    if rustix::fs::stat(host)?.st_uid == rustix::process::geteuid().as_raw() {
        syscalls::mount_setattr(tree.as_fd(), MOUNT_ATTR_RDONLY, false)?;
    }
    Ok(tree)
}

pub(super) fn mount_one(
    plan: &Plan,
    root: BorrowedFd<'_>,
    target: &CStr,
    mount: &Prepared,
) -> Result<(), Errno> {
    let safe = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;
    match mount {
        Prepared::Device { source } => {
            // Not with other owners: no file system of device nodes can do that.
            let tree = machines_node(source)?;
            syscalls::mount_setattr(tree.as_fd(), MOUNT_ATTR_NOSUID, false)?;
            attach_inside(tree.as_fd(), root, target)
        }
        Prepared::Bind { source, inside, readonly } => {
            let attributes = safe | if *readonly { MOUNT_ATTR_RDONLY } else { 0 };
            if inside.is_empty() {
                return bind(plan, source, root, target, attributes, true);
            }
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let top = rustix::fs::openat(CWD, source.as_c_str(), flags, Mode::empty())?;
            let tree = clone_tree(open_inside(top.as_fd(), inside)?, c"", true)?;
            if let Some(ids) = &plan.ids {
                syscalls::map_owners(tree.as_fd(), ids.as_fd(), true)?;
            }
            syscalls::mount_setattr(tree.as_fd(), attributes, true)?;
            attach_inside(tree.as_fd(), root, target)
        }
        Prepared::Tmpfs { options } => {
            let fs = new_fs(c"tmpfs", options, safe)?;
            attach_inside(fs.as_fd(), root, target)
        }
        Prepared::Overlay { overlay: stack, inside, readonly } => {
            let attributes = safe | if *readonly { MOUNT_ATTR_RDONLY } else { 0 };
            overlay(stack, attributes, plan)?;
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let top = rustix::fs::openat(CWD, stack.point.as_c_str(), flags, Mode::empty())?;
            let source = if inside.is_empty() { top } else { open_inside(top.as_fd(), inside)? };
            let tree = clone_tree(&source, c"", false)?;
            attach_inside(tree.as_fd(), root, target)
        }
        Prepared::Secret { file } => {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let dir = rustix::fs::openat(CWD, plan.secrets_point.as_c_str(), flags, Mode::empty())?;
            let tree = clone_tree(&dir, file.name.as_c_str(), false)?;
            if let Some(ids) = &plan.ids {
                syscalls::map_owners(tree.as_fd(), ids.as_fd(), false)?;
            }
            syscalls::mount_setattr(tree.as_fd(), safe | MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOEXEC, false)?;
            attach_inside(tree.as_fd(), root, target)
        }
    }
}

/// Writes secrets to a file system in memory that only this mount namespace has: they never touch a
/// disk, and nothing is left of them when the process ends.
pub(super) fn write_secrets(plan: &Plan) -> Result<(), Errno> {
    let secret = |mount: &Prepared| matches!(mount, Prepared::Secret { .. });
    if !plan.mounts.iter().any(|(_, _, mount)| secret(mount)) {
        return Ok(());
    }
    let fs = new_fs(c"tmpfs", &[], MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC)?;
    attach(fs.as_fd(), CWD, &plan.secrets_point, true)?;
    for (_, _, mount) in &plan.mounts {
        let Prepared::Secret { file } = mount else { continue };
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let handle = rustix::fs::openat(&fs, file.name.as_c_str(), flags, Mode::from_raw_mode(0o600))?;
        let mut rest = file.content.as_slice();
        while !rest.is_empty() {
            let count = rustix::io::write(&handle, rest)?;
            rest = rest.get(count..).unwrap_or_default();
        }
        if (file.uid, file.gid) != (0, 0) {
            let (uid, gid) = (Uid::from_raw(file.uid), Gid::from_raw(file.gid));
            rustix::fs::fchown(&handle, Some(uid), Some(gid))?;
        }
        rustix::fs::fchmod(&handle, Mode::from_raw_mode(file.mode))?;
    }
    Ok(())
}

pub(super) fn mask(plan: &Plan, root: BorrowedFd<'_>) -> Result<(), Failure> {
    let counters = plan.counters.iter().map(CString::as_c_str);
    for path in MASKED.into_iter().chain(counters) {
        mask_one(root, path).at(Stage::Masking)?;
    }
    let attributes = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
    for path in READ_ONLY {
        let point = match open_inside(root, path) {
            Ok(point) => point,
            Err(Errno::NOENT) => continue,
            Err(errno) => return Err((Stage::Masking, errno)),
        };
        let tree = clone_tree(&point, c"", true).at(Stage::Masking)?;
        syscalls::mount_setattr(tree.as_fd(), attributes, true).at(Stage::Masking)?;
        attach_inside(tree.as_fd(), root, path).at(Stage::Masking)?;
    }
    Ok(())
}

/// Files disappear behind `/dev/null`, directories behind an empty file system.
fn mask_one(root: BorrowedFd<'_>, path: &CStr) -> Result<(), Errno> {
    let point = match open_inside(root, path) {
        Ok(point) => point,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) => return Ok(()),
        Err(errno) => return Err(errno),
    };
    cover(&point)
}

/// Hides what a mount point shows, whether it is a file or a directory.
pub(super) fn cover(point: &OwnedFd) -> Result<(), Errno> {
    let stat = rustix::fs::fstat(point)?;
    let cover = if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        new_fs(c"tmpfs", &[], MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC)?
    } else {
        // This machine's own node: the one inside could be something else by now (CVE-2025-31133).
        machines_node(c"/dev/null")?
    };
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(&cover, c"", point, c"", flags)
}
