//! Limits by control groups, version 2 or 1, made for one process tree and removed with it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::spec::{Limits, SandboxError};

const MOUNTS: &str = "/proc/self/mountinfo";
const OWN: &str = "/proc/self/cgroup";
/// Period of CPU quotas where none is given, in microseconds (the kernel's own default).
const DEFAULT_PERIOD: u64 = 100_000;

/// A group of its own for one run.
#[derive(Debug)]
pub(super) struct Cgroup {
    /// Directories by controller; version 2 has one under the empty name.
    dirs: BTreeMap<String, PathBuf>,
}

/// What the limits did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Hits {
    /// Processes were killed for want of memory.
    pub memory: bool,
    /// A process could not be made.
    pub processes: bool,
}

static NUMBER: AtomicU64 = AtomicU64::new(0);

fn failed(action: &str, path: &Path, source: io::Error) -> SandboxError {
    let hint = match source.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "; limits need control groups this user may write to: delegate them (systemd-run --user --scope \
             -p Delegate=yes rbuild ...), or limit rbuild as a whole"
        }
        _ => "",
    };
    SandboxError::Setup {
        stage: format!("limit resources: {action} {}", path.display()),
        source,
        hint: hint.into(),
    }
}

fn write(path: &Path, value: &str) -> Result<(), SandboxError> {
    fs::write(path, value).map_err(|error| failed(&format!("write {value:?} to"), path, error))
}

/// A hierarchy that is mounted: its mount point joined with where this process lives in it.
struct Hierarchies {
    /// By controller; version 2 under the empty name.
    own: BTreeMap<String, PathBuf>,
    top: BTreeMap<String, PathBuf>,
}

impl Hierarchies {
    fn read() -> Result<Self, SandboxError> {
        let text =
            |path: &str| fs::read_to_string(path).map_err(|error| failed("read", Path::new(path), error));
        Ok(Self::parse(&text(MOUNTS)?, &text(OWN)?))
    }

    fn parse(mounts: &str, cgroups: &str) -> Self {
        let mut top: BTreeMap<String, (PathBuf, String)> = BTreeMap::new();
        for line in mounts.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let left: Vec<&str> = left.split(' ').collect();
            let right: Vec<&str> = right.split(' ').collect();
            let (Some(root), Some(point), Some(kind)) = (left.get(3), left.get(4), right.first()) else {
                continue;
            };
            let names: Vec<&str> = match *kind {
                "cgroup2" => vec![""],
                "cgroup" => right.get(2).map(|options| options.split(',').collect()).unwrap_or_default(),
                _ => continue,
            };
            for name in names {
                top.entry(name.to_owned()).or_insert_with(|| (PathBuf::from(point), (*root).to_owned()));
            }
        }
        let mut own = BTreeMap::new();
        for line in cgroups.lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            let (Some(names), Some(path)) = (fields.next(), fields.next()) else { continue };
            for name in names.split(',') {
                let Some((point, root)) = top.get(name) else { continue };
                let below = path.strip_prefix(root.trim_end_matches('/')).unwrap_or(path);
                own.insert(name.to_owned(), point.join(below.trim_start_matches('/')));
            }
        }
        let top = top.into_iter().map(|(name, (point, _))| (name, point)).collect();
        Hierarchies { own, top }
    }

    /// The directory below which groups are made.
    fn base(&self, controller: &str, parent: Option<&str>) -> Option<PathBuf> {
        match parent {
            Some(parent) => self.top.get(controller).map(|top| top.join(parent.trim_start_matches('/'))),
            None => self.own.get(controller).cloned(),
        }
    }
}

/// The number that a step's first process has in this process's PID namespace. From there to the step's it is
/// two namespaces (see `lifeline`); how many there are above depends on whose `/proc` this is.
fn number_of_step(fdinfo: &str) -> Option<u32> {
    let numbers = fdinfo.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    numbers.split_whitespace().nth_back(2)?.parse().ok()
}

impl Cgroup {
    /// Makes a group with these limits.
    pub(super) fn make(limits: &Limits) -> Result<Self, SandboxError> {
        let hierarchies = Hierarchies::read()?;
        let name = format!("rbuild-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let unified = hierarchies.base("", limits.parent.as_deref());
        let controllers = unified.as_deref().map(available).unwrap_or_default();
        let wanted = limits.controllers();
        let mut group = Cgroup { dirs: BTreeMap::new() };
        // Where controllers are spread over both versions, those of version 1 have the say.
        let all_in_v2 = wanted.iter().all(|name| controllers.iter().any(|known| known == name));
        if let Some(base) = unified.filter(|_| all_in_v2) {
            group.make_v2(&base, &name, &wanted, limits)?;
        } else {
            for controller in &wanted {
                let base = hierarchies.base(controller, limits.parent.as_deref()).ok_or_else(|| {
                    SandboxError::Setup {
                        stage: "limit resources".into(),
                        source: io::ErrorKind::Unsupported.into(),
                        hint: format!("; this machine has no control group for {controller}"),
                    }
                })?;
                group.make_v1(controller, &base, &name)?;
            }
            group.limit_v1(limits)?;
        }
        Ok(group)
    }

    fn make_v2(
        &mut self,
        base: &Path,
        name: &str,
        wanted: &[&str],
        limits: &Limits,
    ) -> Result<(), SandboxError> {
        if limits.parent.is_some() {
            fs::create_dir_all(base).map_err(|error| failed("create", base, error))?;
        }
        let enable: Vec<String> = wanted.iter().map(|name| format!("+{name}")).collect();
        let control = base.join("cgroup.subtree_control");
        if let Err(error) = fs::write(&control, enable.join(" ")) {
            if error.raw_os_error() != Some(libc::EBUSY) {
                return Err(failed("write", &control, error));
            }
            // Only groups without processes of their own hand controllers on: this process moves
            // one level down.
            let own = base.join(format!("rbuild-{}", std::process::id()));
            fs::create_dir_all(&own).map_err(|error| failed("create", &own, error))?;
            write(&own.join("cgroup.procs"), "0")?;
            write(&control, &enable.join(" "))?;
        }
        let dir = base.join(name);
        fs::create_dir(&dir).map_err(|error| failed("create", &dir, error))?;
        self.dirs.insert(String::new(), dir.clone());
        for (file, value) in limits.v2_files() {
            write(&dir.join(file), &value)?;
        }
        Ok(())
    }

    fn make_v1(&mut self, controller: &str, base: &Path, name: &str) -> Result<(), SandboxError> {
        let dir = base.join(name);
        fs::create_dir_all(&dir).map_err(|error| failed("create", &dir, error))?;
        self.dirs.insert(controller.to_owned(), dir.clone());
        if controller == "cpuset" {
            // A new group may use nothing until told; it gets what its parent has.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let inherited = fs::read_to_string(base.join(file)).unwrap_or_default();
                write(&dir.join(file), inherited.trim())?;
            }
        }
        Ok(())
    }

    fn limit_v1(&self, limits: &Limits) -> Result<(), SandboxError> {
        for (controller, file, value) in limits.v1_files() {
            let Some(dir) = self.dirs.get(controller) else { continue };
            let path = dir.join(file);
            // Kernels without swap accounting lack this file; the default for it is not worth failing.
            if file == "memory.memsw.limit_in_bytes" && limits.memory_swap.is_none() && !path.exists() {
                continue;
            }
            write(&path, &value)?;
        }
        Ok(())
    }

    /// Puts the first process of a step into the group.
    pub(super) fn add(&self, process: BorrowedFd<'_>) -> Result<(), SandboxError> {
        let path = format!("/proc/self/fdinfo/{}", process.as_raw_fd());
        let text = fs::read_to_string(&path).map_err(|error| failed("read", Path::new(&path), error))?;
        let gone = || failed("read", Path::new(&path), io::ErrorKind::NotFound.into());
        let pid = number_of_step(&text).ok_or_else(gone)?;
        self.dirs.values().try_for_each(|dir| write(&dir.join("cgroup.procs"), &pid.to_string()))
    }

    /// What the limits did so far.
    pub(super) fn hits(&self) -> Hits {
        let count = |controller: &str, file: &str, key: &str| {
            let dir = self.dirs.get(controller).or_else(|| self.dirs.get(""));
            let text = dir.and_then(|dir| fs::read_to_string(dir.join(file)).ok()).unwrap_or_default();
            let value = text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse::<u64>().ok());
            value.unwrap_or(0)
        };
        Hits {
            memory: count("", "memory.events", "oom_kill ") > 0
                || count("memory", "memory.oom_control", "oom_kill ") > 0,
            processes: count("pids", "pids.events", "max ") > 0,
        }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for dir in self.dirs.values() {
            // Its processes are dead, but the kernel may still be clearing them away.
            for _ in 0..50 {
                match fs::remove_dir(dir) {
                    Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                        std::thread::sleep(Duration::from_millis(2));
                    }
                    _ => break,
                }
            }
        }
    }
}

fn available(dir: &Path) -> Vec<String> {
    let text = fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}

impl Limits {
    /// Whether a group is needed at all.
    pub(super) fn is_none(&self) -> bool {
        *self == Limits::default()
    }

    fn controllers(&self) -> Vec<&'static str> {
        let cpu = self.cpu_shares.is_some() || self.cpu_quota.is_some() || self.cpu_period.is_some();
        let rows = [
            ("memory", self.memory.is_some() || self.memory_swap.is_some()),
            ("cpu", cpu),
            ("cpuset", self.cpuset_cpus.is_some() || self.cpuset_mems.is_some()),
            ("pids", self.pids.is_some()),
        ];
        let mut all: Vec<&str> = rows.iter().filter(|(_, wanted)| *wanted).map(|(name, _)| *name).collect();
        if all.is_empty() && self.parent.is_some() {
            all.push("pids");
        }
        all
    }

    /// Bytes of memory and swap together; twice the memory where nothing is said, as Docker does.
    fn memory_and_swap(&self) -> Option<i64> {
        let memory = i64::try_from(self.memory?).unwrap_or(i64::MAX);
        Some(match self.memory_swap {
            Some(-1) => -1,
            Some(swap) if swap > 0 => swap,
            _ => memory.saturating_mul(2),
        })
    }

    fn v1_files(&self) -> Vec<(&'static str, &'static str, String)> {
        let mut files = Vec::new();
        if let Some(memory) = self.memory {
            files.push(("memory", "memory.limit_in_bytes", memory.to_string()));
        }
        if let Some(both) = self.memory_and_swap() {
            files.push(("memory", "memory.memsw.limit_in_bytes", both.to_string()));
        }
        let numbers = [
            ("cpu", "cpu.shares", self.cpu_shares.map(|value| value.to_string())),
            ("cpu", "cpu.cfs_period_us", self.cpu_period.map(|value| value.to_string())),
            ("cpu", "cpu.cfs_quota_us", self.cpu_quota.map(|value| value.to_string())),
            ("cpuset", "cpuset.cpus", self.cpuset_cpus.clone()),
            ("cpuset", "cpuset.mems", self.cpuset_mems.clone()),
            ("pids", "pids.max", self.pids.map(|value| value.to_string())),
        ];
        files.extend(
            numbers.into_iter().filter_map(|(controller, file, value)| Some((controller, file, value?))),
        );
        files
    }

    fn v2_files(&self) -> Vec<(&'static str, String)> {
        let mut files = Vec::new();
        if let Some(memory) = self.memory {
            files.push(("memory.max", memory.to_string()));
            if let Some(both) = self.memory_and_swap() {
                let swap = u64::try_from(both).map(|both| both.saturating_sub(memory).to_string());
                files.push(("memory.swap.max", swap.unwrap_or_else(|_| "max".into())));
            }
        }
        if let Some(shares) = self.cpu_shares {
            // The conversion that container runtimes use.
            let weight = 1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142;
            files.push(("cpu.weight", weight.to_string()));
        }
        if self.cpu_quota.is_some() || self.cpu_period.is_some() {
            let quota = match self.cpu_quota {
                Some(quota) if quota > 0 => quota.to_string(),
                _ => "max".to_owned(),
            };
            files.push(("cpu.max", format!("{quota} {}", self.cpu_period.unwrap_or(DEFAULT_PERIOD))));
        }
        let texts = [
            ("cpuset.cpus", self.cpuset_cpus.clone()),
            ("cpuset.mems", self.cpuset_mems.clone()),
            ("pids.max", self.pids.map(|value| value.to_string())),
        ];
        files.extend(texts.into_iter().filter_map(|(file, value)| Some((file, value?))));
        files
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_groups_are_found_in_both_versions() {
        let mounts = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                      35 31 0:32 /a /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
                      36 31 0:33 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        let found = Hierarchies::parse(mounts, "4:memory:/a/b\n2:cpu,cpuacct:/\n0::/user/me\n");
        let at = |name: &str| found.base(name, None).map(|path| path.display().to_string());
        assert_eq!(at("memory").as_deref(), Some("/sys/fs/cgroup/memory/b"));
        assert_eq!(at("cpu").as_deref(), Some("/sys/fs/cgroup/cpu/"));
        assert_eq!(at("").as_deref(), Some("/sys/fs/cgroup/unified/user/me"));
        let parent = found.base("memory", Some("/ci")).map(|path| path.display().to_string());
        assert_eq!(parent.as_deref(), Some("/sys/fs/cgroup/memory/ci"));
        assert_eq!(at("pids"), None);
    }

    #[test]
    fn limits_become_the_files_of_each_version() {
        let limits = Limits {
            memory: Some(1 << 20),
            cpu_shares: Some(1024),
            cpu_quota: Some(50_000),
            pids: Some(10),
            ..Limits::default()
        };
        let v2 = limits.v2_files();
        for wanted in [
            ("memory.max", "1048576"),
            ("memory.swap.max", "1048576"),
            ("cpu.weight", "39"),
            ("cpu.max", "50000 100000"),
            ("pids.max", "10"),
        ] {
            assert!(v2.iter().any(|(file, value)| (*file, value.as_str()) == wanted), "{wanted:?} in {v2:?}");
        }
        let v1 = limits.v1_files();
        assert!(v1.contains(&("memory", "memory.memsw.limit_in_bytes", "2097152".into())), "{v1:?}");
        let unlimited = Limits { memory_swap: Some(-1), ..limits };
        assert!(unlimited.v2_files().contains(&("memory.swap.max", "max".into())));
        assert!(Limits::default().is_none() && Limits::default().v2_files().is_empty());
    }
}
