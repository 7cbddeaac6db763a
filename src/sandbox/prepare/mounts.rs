//! The mounts of a step.

use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::super::spec::{Mount, MountKind, SandboxError};
use super::overlay::{Overlay, overlay};
use super::scratch::Scratch;
use super::{c_path, c_string};

/// A mount of the spec, ready to be made.
pub(in crate::sandbox) enum Prepared {
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

/// A secret, written by the child where nobody else sees it.
pub(in crate::sandbox) struct SecretFile {
    pub name: CString,
    pub content: Vec<u8>,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

pub(super) fn prepare_mounts(
    scratch: &Scratch<'_>,
    mounts: &[&Mount],
    root_id: u32,
    single_id: bool,
) -> Result<Vec<(CString, bool, Prepared)>, SandboxError> {
    let files = scratch.make_dir("files")?;
    // What one of them may hold by the kernel's default, as with BuildKit, several share: a step with many
    // must not fill all memory.
    const HALF: usize = 50;
    let is_unlimited = |size: Option<u64>| size.is_none_or(|size| size == 0);
    let unlimited =
        |mount: &&&Mount| matches!(mount.kind, MountKind::Tmpfs { size, .. } if is_unlimited(size));
    let unlimited = mounts.iter().filter(unlimited).count();
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
                let mut options = tmpfs_options(*size, *mode, root_id)?;
                if unlimited > 1 && is_unlimited(*size) {
                    let share = format!("{}%", (HALF / unlimited).max(1));
                    options.push((c"size".to_owned(), c_string(share.as_bytes(), "a size")?));
                }
                Prepared::Tmpfs { options }
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

pub(super) fn dev_points(mounts: &[&Mount]) -> Result<Vec<(CString, bool)>, SandboxError> {
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

/// Counters of how often a processor got too hot, below `/sys`, by which the work of others on this machine
/// shows (GHSA-6fw5-f8r9-fgfm): one directory for each processor that has them.
pub(super) fn heat_counters() -> &'static [CString] {
    static FOUND: OnceLock<Vec<CString>> = OnceLock::new();
    FOUND.get_or_init(|| heat_counters_of(Path::new("/")))
}

fn heat_counters_of(root: &Path) -> Vec<CString> {
    const PROCESSORS: &str = "sys/devices/system/cpu";
    let names = std::fs::read_dir(root.join(PROCESSORS)).into_iter().flatten().flatten();
    let mut found: Vec<CString> = names
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| {
            let number = name.strip_prefix("cpu").unwrap_or_default();
            !number.is_empty() && number.bytes().all(|c| c.is_ascii_digit())
        })
        .map(|name| format!("{PROCESSORS}/{name}/thermal_throttle"))
        .filter(|path| root.join(path).exists())
        .filter_map(|path| CString::new(path).ok())
        .collect();
    found.sort();
    found
}

/// `root_id` is what the process's root is outside, where these are mounted.
pub(super) fn tmpfs_options(
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_with_heat_counters_are_found() {
        let root = tempfile::tempdir().expect("directory");
        assert!(heat_counters_of(root.path()).is_empty());
        let cpu = root.path().join("sys/devices/system/cpu");
        for dir in ["cpu0/thermal_throttle", "cpu1", "cpu10/thermal_throttle", "cpufreq/thermal_throttle"] {
            std::fs::create_dir_all(cpu.join(dir)).expect("directory");
        }
        assert_eq!(
            heat_counters_of(root.path()),
            [
                c"sys/devices/system/cpu/cpu0/thermal_throttle".to_owned(),
                c"sys/devices/system/cpu/cpu10/thermal_throttle".to_owned()
            ]
        );
    }
}
