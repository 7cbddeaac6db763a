//! The mounts of a step.

use std::ffi::CString;
use std::path::{Path, PathBuf};

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
