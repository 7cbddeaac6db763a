//! How much memory this process may have: the machine's, or less where a control group says so.
//!
//! A container's limit is that of its control group or of any above it. What works side by side asks, so that a build
//! on a large machine stays within a small container.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Limits from here on mean none: version 1 has no word for that and gives the largest number of pages.
const UNLIMITED: u64 = 1 << 60;

/// The smallest limit, in bytes, of the control groups that this process is in; `None` where none has one. Read once.
pub fn limit() -> Option<u64> {
    static LIMIT: OnceLock<Option<u64>> = OnceLock::new();
    *LIMIT.get_or_init(|| {
        let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        limit_of(&groups, &mounts, &|path| fs::read_to_string(path).ok())
    })
}

/// From the text of `/proc/self/cgroup` and `/proc/self/mountinfo`.
fn limit_of(groups: &str, mounts: &str, read: &dyn Fn(&Path) -> Option<String>) -> Option<u64> {
    let mut smallest = None;
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let (kind, file) = match controllers {
            "" => ("cgroup2", "memory.max"),
            all if all.split(',').any(|one| one == "memory") => ("cgroup", "memory.limit_in_bytes"),
            _ => continue,
        };
        let Some(Mount { root, point }) = mounts.lines().find_map(|line| Mount::parse(line, kind)) else {
            continue;
        };
        // In a container without a namespace for groups the path is the host's, and may not be below the mount.
        let below = Path::new(path).strip_prefix(&root).unwrap_or(Path::new(""));
        for group in point.join(below).ancestors().take_while(|group| group.starts_with(&point)) {
            let limit = read(&group.join(file)).and_then(|text| text.trim().parse::<u64>().ok());
            if let Some(limit) = limit.filter(|limit| *limit > 0 && *limit < UNLIMITED) {
                smallest = Some(smallest.map_or(limit, |known: u64| known.min(limit)));
            }
        }
    }
    smallest
}

/// Where a hierarchy of groups is mounted.
struct Mount {
    /// The group that is mounted.
    root: PathBuf,
    point: PathBuf,
}

impl Mount {
    /// A line of mountinfo (proc(5)), if it is a hierarchy of this kind; of version 1, that of memory.
    fn parse(line: &str, kind: &str) -> Option<Self> {
        let (place, system) = line.split_once(" - ")?;
        let mut system = system.split(' ');
        if system.next() != Some(kind) {
            return None;
        }
        if kind == "cgroup" && !system.nth(1)?.split(',').any(|option| option == "memory") {
            return None;
        }
        let mut place = place.split(' ').skip(3);
        let (root, point) = (place.next()?, place.next()?);
        // `..` is a group outside of this namespace.
        let root = if root.starts_with("/..") { "/" } else { root };
        Some(Mount { root: root.into(), point: point.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V2: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
    const V1: &str = "\
        32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
        35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
        41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
    /// Docker without a namespace for groups: the container's own group is mounted.
    const V1_CONTAINER: &str =
        "9 8 0:7 /docker/abc /sys/fs/cgroup/memory ro,nosuid master:1 - cgroup cgroup rw,memory\n";

    fn limited(groups: &str, mounts: &str, files: &[(&str, &str)]) -> Option<u64> {
        limit_of(groups, mounts, &|path| {
            let (_, text) = files.iter().find(|(name, _)| Path::new("/sys/fs/cgroup").join(name) == path)?;
            Some((*text).to_owned())
        })
    }

    #[test]
    fn the_smallest_limit_of_all_groups_above_counts() {
        let pod = "0::/kubepods/burstable/pod1/box\n";
        for (groups, mounts, files, wanted) in [
            (pod, V2, &[("kubepods/burstable/pod1/box/memory.max", "max\n")][..], None),
            (pod, V2, &[("kubepods/burstable/pod1/box/memory.max", "536870912\n")], Some(512 << 20)),
            (
                pod,
                V2,
                &[
                    ("kubepods/burstable/pod1/box/memory.max", "max\n"),
                    ("kubepods/burstable/pod1/memory.max", "1073741824\n"),
                    ("kubepods/memory.max", "8589934592\n"),
                ],
                Some(1 << 30),
            ),
            // With a namespace the container sees itself as the root.
            ("0::/\n", V2, &[("memory.max", "268435456\n")], Some(256 << 20)),
            ("0::/\n", V2, &[], None),
            (
                "4:memory:/user/a\n0::/\n",
                V1,
                &[("memory/user/a/memory.limit_in_bytes", "9223372036854771712\n")],
                None,
            ),
            (
                "4:memory:/user/a\n",
                V1,
                &[("memory/user/memory.limit_in_bytes", "104857600\n")],
                Some(100 << 20),
            ),
            ("5:cpu,memory:/a\n", V1, &[("memory/a/memory.limit_in_bytes", "104857600\n")], Some(100 << 20)),
            (
                "4:memory:/docker/abc\n",
                V1_CONTAINER,
                &[("memory/memory.limit_in_bytes", "104857600\n")],
                Some(100 << 20),
            ),
            (
                "4:memory:/docker/abc/inner\n",
                V1_CONTAINER,
                &[("memory/inner/memory.limit_in_bytes", "5000000\n")],
                Some(5_000_000),
            ),
            (
                "4:memory:/elsewhere\n",
                V1_CONTAINER,
                &[("memory/memory.limit_in_bytes", "104857600\n")],
                Some(100 << 20),
            ),
            ("4:cpu:/a\n", V1, &[("memory/memory.limit_in_bytes", "104857600\n")], None),
            ("broken\n", "broken - cgroup2\n", &[("memory.max", "1\n")], None),
            ("0::/\n", V2, &[("memory.max", "0\n")], None),
        ] {
            assert_eq!(limited(groups, mounts, files), wanted, "{groups} {files:?}");
        }
    }
}
