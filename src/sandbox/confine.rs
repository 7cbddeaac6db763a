//! Limits for what parses strangers' bytes: a thread that unpacks, and git with the programs it starts.
//!
//! Landlock says which files they may touch. Programs also lose the way to new privileges, most
//! capabilities and the system calls that RUN does not have either. A thread takes the limits on and
//! passes them to what it starts; it ends with its work, so nothing else of this process is limited.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::thread;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, PathBeneath, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _, Scope,
};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::{prepare, seccomp, syscalls};

/// The newest rights that were tried. Older kernels check those they know.
const NEWEST: ABI = ABI::V7;
/// The first that can move and link files between directories, which git and archives need.
const OLDEST: u32 = 2;

/// What programs and their libraries consist of.
const SYSTEM: &[&str] = &[
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/nix/store",
    "/gnu/store",
    "/home/linuxbrew/.linuxbrew",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/ld.so.preload",
];

/// Settings of the C library, of TLS and of ssh, without anybody's keys.
const SETTINGS: &[&str] = &[
    "/etc/ca-certificates",
    "/etc/crypto-policies",
    "/etc/gai.conf",
    "/etc/gnutls",
    "/etc/group",
    "/etc/host.conf",
    "/etc/hosts",
    "/etc/krb5.conf",
    "/etc/krb5.conf.d",
    "/etc/localtime",
    "/etc/nsswitch.conf",
    "/etc/passwd",
    "/etc/pki/ca-trust",
    "/etc/pki/tls/cert.pem",
    "/etc/pki/tls/certs",
    "/etc/pki/tls/openssl.cnf",
    "/etc/pki/tls/openssl.d",
    "/etc/protocols",
    "/etc/resolv.conf",
    "/etc/services",
    "/etc/ssh/ssh_known_hosts",
    "/etc/ssh/ssh_known_hosts2",
    "/etc/ssl/cert.pem",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/sys/crypto",
    "/sys/devices/system/cpu",
    "/var/lib/ca-certificates",
    "/dev/random",
    "/dev/urandom",
    "/dev/zero",
];

/// What belongs to a program in the directory above its `bin`.
const BESIDE_BIN: &[&str] =
    &["bin", "sbin", "lib", "lib64", "libexec", "share/git-core", "share/ca-certificates", "ssl"];

/// Which files may be touched. Everything that is not named is out of reach.
#[derive(Clone, Debug, Default)]
pub struct Confinement {
    execute: Vec<PathBuf>,
    read: Vec<PathBuf>,
    write: Vec<PathBuf>,
    online: bool,
}

impl Confinement {
    /// For a program without the network that reads and writes nothing but the system's libraries and
    /// settings. The programs it starts are looked for in the directories of `search_path`.
    pub fn of_program(search_path: &OsStr, programs: &[&str]) -> Self {
        let mut execute: Vec<PathBuf> = SYSTEM.iter().map(PathBuf::from).collect();
        for program in programs {
            let found = std::env::split_paths(search_path).map(|dir| dir.join(program)).find(|f| f.is_file());
            let real = found.as_deref().and_then(|file| file.canonicalize().ok());
            execute.extend(found.iter().chain(&real).flat_map(|file| places_of(file)));
        }
        Confinement {
            execute,
            read: SETTINGS.iter().map(PathBuf::from).collect(),
            write: vec!["/dev/null".into()],
            online: false,
        }
    }

    /// Allows reading what lies at these paths.
    pub fn reading<P: Into<PathBuf>>(mut self, paths: impl IntoIterator<Item = P>) -> Self {
        self.read.extend(paths.into_iter().map(Into::into));
        self
    }

    /// Allows changing what lies at these paths.
    pub fn writing<P: Into<PathBuf>>(mut self, paths: impl IntoIterator<Item = P>) -> Self {
        self.write.extend(paths.into_iter().map(Into::into));
        self
    }

    /// Allows connections to others, but not waiting for theirs.
    pub fn online(mut self) -> Self {
        self.online = true;
        self
    }

    /// Does `work` in a thread that cannot touch other files, and `meanwhile` in this one. Descriptors that
    /// are open already still work. Threads that `work` starts keep the limits, so it must not start any that
    /// others use later.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send, meanwhile: impl FnOnce()) -> io::Result<T> {
        self.thread(|| self.limit_files(false).map(|()| work()), meanwhile)
    }

    /// Starts a program with these limits, without capabilities but those that let root read and write
    /// others' files, and with the system calls of RUN.
    pub fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        let start = || {
            rustix::thread::set_no_new_privs(true)?;
            self.limit_files(true)?;
            // CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH: an agent's socket belongs to a user who called sudo.
            syscalls::set_capabilities(prepare::permitted() & 0b110)?;
            filter_calls(&seccomp::default_filter())?;
            if !self.online {
                filter_calls(&seccomp::no_sockets())?;
            }
            command.spawn()
        };
        self.thread(start, || ())
    }

    fn thread<T: Send>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send,
        meanwhile: impl FnOnce(),
    ) -> io::Result<T> {
        thread::scope(|scope| {
            let thread = thread::Builder::new().name("confined".into()).spawn_scoped(scope, work)?;
            meanwhile();
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn limit_files(&self, is_program: bool) -> io::Result<()> {
        if landlock_abi().is_none() {
            return Ok(());
        }
        self.landlock(is_program).map_err(|error| match error.downcast::<io::Error>() {
            Ok(error) => *error,
            Err(error) => io::Error::other(format!("Landlock: {error}")),
        })
    }

    fn landlock(&self, is_program: bool) -> Result<(), AnyError> {
        let read = AccessFs::ReadFile | AccessFs::ReadDir;
        let mut write = read | AccessFs::from_write(NEWEST);
        let mut ruleset = Ruleset::default().handle_access(AccessFs::from_all(NEWEST))?;
        if is_program {
            write.remove(AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::IoctlDev);
            // Threads of this process may signal each other; a program has no process outside to signal.
            ruleset = ruleset.scope(Scope::from_all(NEWEST))?.handle_access(AccessNet::BindTcp)?;
            if !self.online {
                ruleset = ruleset.handle_access(AccessNet::ConnectTcp)?;
            }
        }
        let ruleset = ruleset
            .create()?
            .add_rules(rules(&self.execute, AccessFs::from_read(NEWEST)))?
            .add_rules(rules(&self.read, read))?
            .add_rules(rules(&self.write, write))?;
        Ok(ruleset.restrict_self().map(drop)?)
    }
}

pub(super) type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// Rules for the paths that are there and can be reached. One that cannot be opened for lack of descriptors or
/// memory is an error: without its rule the work would fail later, as if the file were missing.
pub(super) fn rules(
    paths: &[PathBuf],
    access: BitFlags<AccessFs>,
) -> impl Iterator<Item = Result<PathBeneath<OwnedFd>, AnyError>> {
    paths.iter().filter_map(move |path| {
        let opened = match rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
            Ok(opened) => opened,
            Err(errno @ (Errno::MFILE | Errno::NFILE | Errno::NOMEM)) => {
                return Some(Err(io::Error::from(errno).into()));
            }
            Err(_) => return None,
        };
        let stat = rustix::fs::fstat(&opened);
        let is_directory = stat.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_dir());
        let fitting = if is_directory { access } else { access & AccessFs::from_file(NEWEST) };
        Some(Ok(PathBeneath::new(opened, fitting)))
    })
}

/// Where a program's libraries and helpers lie.
fn places_of(file: &Path) -> Vec<PathBuf> {
    let dir = file.parent();
    let prefix = dir
        .filter(|dir| dir.ends_with("bin") || dir.ends_with("sbin"))
        .and_then(Path::parent)
        .filter(|prefix| prefix.parent().is_some());
    match prefix {
        Some(prefix) => BESIDE_BIN.iter().map(|part| prefix.join(part)).collect(),
        None => vec![file.to_owned()],
    }
}

/// A kernel without filters is no reason not to run git.
fn filter_calls(filter: &[libc::sock_filter]) -> io::Result<()> {
    match syscalls::set_filter(filter) {
        Err(Errno::NOSYS | Errno::INVAL) | Ok(()) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// The version of Landlock's interface that is in use; `None` where the kernel has none, or too old a one.
pub fn landlock_abi() -> Option<u32> {
    static FOUND: OnceLock<Option<u32>> = OnceLock::new();
    *FOUND.get_or_init(|| syscalls::landlock_version().ok().filter(|version| *version >= OLDEST))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    #[test]
    fn programs_have_few_capabilities_and_a_filter_and_this_process_keeps_its_own() -> Outcome {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut command = Command::new("sleep");
        let mut child = Confinement::of_program(&path, &["sleep"]).spawn(command.arg("60"))?;
        let status = fs::read_to_string(format!("/proc/{}/status", child.id()));
        child.kill()?;
        child.wait()?;
        let status = status?;
        let value = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.map(|value| value.trim_start_matches(':').trim().to_owned()).unwrap_or_default()
        };
        assert_eq!(value("NoNewPrivs"), "1");
        let kept = u64::from_str_radix(&value("CapPrm"), 16)?;
        assert_eq!(kept & !0b110, 0, "{kept:x}");
        if Path::new("/proc/sys/kernel/seccomp/actions_avail").exists() {
            assert_eq!(value("Seccomp"), "2");
        }
        let own = fs::read_to_string("/proc/thread-self/status")?;
        assert!(own.contains("NoNewPrivs:\t0"), "{own}");
        Ok(())
    }

    #[test]
    fn a_programs_libraries_are_found_beside_its_bin() {
        let places = |file: &str| places_of(Path::new(file));
        assert!(places("/opt/git/bin/git").contains(&"/opt/git/libexec".into()));
        assert!(!places("/home/u/.local/bin/git").contains(&"/home/u/.local/share".into()));
        // Not everything beside a program that lies anywhere, and never the whole machine.
        assert_eq!(places("/home/u/git"), [PathBuf::from("/home/u/git")]);
        assert_eq!(places("/bin/git"), [PathBuf::from("/bin/git")]);
    }

    #[test]
    fn what_does_not_exist_is_left_out() -> Outcome {
        let dir = tempfile::tempdir()?;
        let limits = Confinement::default().reading(["/does/not/exist"]).writing([dir.path()]);
        let file = dir.path().join("x");
        limits.run(|| fs::write(&file, "x"), || ())??;
        assert_eq!(fs::read_to_string(&file)?, "x");
        Ok(())
    }
}
