//! `/dev`, `/proc` and `/sys` where none of them can be mounted: device nodes, where they may be made, and copies of
//! the small files that programs look for. What depends on the process that asks is answered when it is opened.

use std::fs::{self, Permissions};
use std::io::{self, Read as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, makedev};

/// Name, major and minor number (Documentation/admin-guide/devices.txt of Linux).
const NODES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];
const LINKS: [(&str, &str); 6] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("pts/ptmx", "ptmx"),
    ("/proc/kcore", "core"),
];
/// Files that are the same for every process.
const PROC: [&str; 29] = [
    "cmdline",
    "cpuinfo",
    "devices",
    "filesystems",
    "loadavg",
    "meminfo",
    "stat",
    "swaps",
    "uptime",
    "version",
    "vmstat",
    "sys/crypto/fips_enabled",
    "sys/fs/file-max",
    "sys/fs/nr_open",
    "sys/fs/pipe-max-size",
    "sys/kernel/cap_last_cap",
    "sys/kernel/hostname",
    "sys/kernel/ngroups_max",
    "sys/kernel/osrelease",
    "sys/kernel/ostype",
    "sys/kernel/pid_max",
    "sys/kernel/random/boot_id",
    "sys/kernel/random/entropy_avail",
    "sys/kernel/threads-max",
    "sys/kernel/version",
    "sys/net/core/somaxconn",
    "sys/net/ipv4/ip_local_port_range",
    "sys/vm/max_map_count",
    "sys/vm/overcommit_memory",
];
/// The same of `/proc/self`, as far as they say nothing about rbuild.
const PROC_SELF: [&str; 4] = ["mounts", "mountinfo", "cgroup", "limits"];
const SYS: [&str; 7] = [
    "devices/system/cpu/online",
    "devices/system/cpu/possible",
    "devices/system/cpu/present",
    "devices/system/cpu/kernel_max",
    "devices/system/node/online",
    "kernel/mm/transparent_hugepage/enabled",
    "kernel/mm/transparent_hugepage/hpage_pmd_size",
];
/// Directories that programs look for before they list them.
const SYS_DIRS: [&str; 6] = ["block", "bus", "class/net", "dev", "fs/cgroup", "module"];
const HOSTNAME: &str = "sys/kernel/hostname";
/// No file of these lists is larger.
const LIMIT: u64 = 1 << 20;

/// Makes the directories in `scratch`: where each belongs, and its path. Programs may share memory in `/dev/shm`
/// `with_shm`.
pub(super) fn make(
    scratch: &Path,
    hostname: &str,
    with_shm: bool,
) -> io::Result<[(&'static str, PathBuf); 3]> {
    let make = |name: &str, mode: u32| {
        let path = scratch.join(name);
        fs::create_dir(&path)?;
        fs::set_permissions(&path, Permissions::from_mode(mode)).map(|()| path)
    };
    let (dev, proc, sys) = (make("dev", 0o755)?, make("proc", 0o555)?, make("sys", 0o555)?);
    make_dev(&dev, with_shm)?;
    for file in PROC {
        copy(&Path::new("/proc").join(file), &proc.join(file))?;
    }
    if proc.join(HOSTNAME).exists() {
        fs::write(proc.join(HOSTNAME), format!("{hostname}\n"))?;
    }
    symlink("self/mounts", proc.join("mounts"))?;
    for file in PROC_SELF {
        copy(&Path::new("/proc/self").join(file), &proc.join("self").join(file))?;
    }
    make_own(&proc.join("self"))?;
    for file in SYS {
        copy(&Path::new("/sys").join(file), &sys.join(file))?;
    }
    for dir in SYS_DIRS {
        fs::create_dir_all(sys.join(dir))?;
    }
    Ok([("dev", dev), ("proc", proc), ("sys", sys)])
}

/// What is there to find in the directory of a process for those that only look whether it is there; who opens it
/// gets an answer. Shells name pipes by numbers below 64. Nothing that waits when it is opened: a link of the image
/// may lead here.
fn make_own(dir: &Path) -> io::Result<()> {
    let descriptors = dir.join("fd");
    fs::create_dir_all(&descriptors)?;
    for number in (0..3).chain(50..64) {
        let path = descriptors.join(number.to_string());
        if number > 2 || make_node(&path, 1, 3).is_err() {
            fs::write(&path, "")?;
        }
        fs::set_permissions(&path, Permissions::from_mode(0o666))?;
    }
    // Nobody may execute it by mistake: it becomes a link when somebody wants to.
    fs::write(dir.join("exe"), "")?;
    fs::set_permissions(dir.join("exe"), Permissions::from_mode(0o644))
}

fn make_dev(dev: &Path, with_shm: bool) -> io::Result<()> {
    for (name, major, minor) in NODES {
        let path = dev.join(name);
        let made = make_node(&path, major, minor);
        // Without CAP_MKNOD, or on a file system that opens no devices, what is written is thrown away with it.
        let opens = made.is_ok() && (name == "tty" || fs::File::open(&path).is_ok());
        if !opens {
            let _ = fs::remove_file(&path);
            fs::write(&path, "")?;
        }
        fs::set_permissions(&path, Permissions::from_mode(0o666))?;
    }
    for (target, name) in LINKS {
        symlink(target, dev.join(name))?;
    }
    for (name, mode) in [("pts", 0o755), ("shm", 0o1777), ("mqueue", 0o1777)] {
        if name == "shm" && !with_shm {
            continue;
        }
        fs::create_dir(dev.join(name))?;
        fs::set_permissions(dev.join(name), Permissions::from_mode(mode))?;
    }
    Ok(())
}

fn make_node(path: &Path, major: u32, minor: u32) -> io::Result<()> {
    let (kind, mode) = (FileType::CharacterDevice, Mode::from_raw_mode(0o666));
    Ok(rustix::fs::mknodat(CWD, path, kind, mode, makedev(major, minor))?)
}

/// What is not there, or may not be read, is left out.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let mut text = Vec::new();
    let Ok(file) = fs::File::open(from) else { return Ok(()) };
    if file.take(LIMIT).read_to_end(&mut text).is_err() {
        return Ok(());
    }
    if let Some(dir) = to.parent().filter(|dir| !dir.is_dir()) {
        fs::create_dir_all(dir)?;
    }
    fs::write(to, text)?;
    fs::set_permissions(to, Permissions::from_mode(0o444))
}
