//! Stacks of directories, in the forms that kernels take.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use super::super::spec::SandboxError;
use super::{c_path, c_string};

/// A stack of directories.
pub(in crate::sandbox) struct Overlay {
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

/// One page, which the kernel takes as options of `mount`.
const OPTIONS_MAX: usize = 4095;

pub(super) fn overlay(
    lowers: &[&Path],
    upper: Option<(&Path, &Path)>,
    point: &Path,
) -> Result<Overlay, SandboxError> {
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
