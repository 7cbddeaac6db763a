//! Where a path inside a root file system leads, on disk, while no process of a step runs.

use std::collections::VecDeque;
use std::ffi::CString;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, StatxFlags};
use rustix::io::Errno;

/// The kernel's limit for one path (path_resolution(7)).
const MOST_LINKS: u32 = 40;
const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A name in an open directory.
#[derive(Debug)]
pub(super) struct Spot {
    pub parent: OwnedFd,
    pub name: CString,
}

/// What [`find`] found.
pub(super) struct Found {
    pub spot: Spot,
    /// `None` where there is nothing yet.
    pub kind: Option<FileType>,
    /// Directories above it that were made, the topmost first.
    pub made: Vec<Spot>,
}

/// Follows a path as a process would that has the directory as its root, and makes missing directories above its end.
/// Nothing outside is ever looked at.
pub(super) fn find(root: &OwnedFd, path: &[u8]) -> Result<Found, Errno> {
    let copy = |fd: &OwnedFd| fd.try_clone().map_err(|_| Errno::MFILE);
    let mut above = vec![copy(root)?];
    let mut made = Vec::new();
    let mut todo: VecDeque<Vec<u8>> = names(path).collect();
    let mut links = MOST_LINKS;
    while let Some(name) = todo.pop_front() {
        if name == b".." {
            if above.len() > 1 {
                above.pop();
            }
            continue;
        }
        let name = CString::new(name).map_err(|_| Errno::INVAL)?;
        let here = above.last().ok_or(Errno::INVAL)?;
        let is_last = todo.iter().all(|name| name != b"..") && todo.is_empty();
        let kind = match rustix::fs::statx(here, &name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::TYPE) {
            Ok(stat) => Some(FileType::from_raw_mode(stat.stx_mode.into())),
            Err(Errno::NOENT) => None,
            Err(errno) => return Err(errno),
        };
        match kind {
            Some(FileType::Symlink) => {
                links = links.checked_sub(1).ok_or(Errno::LOOP)?;
                let target = rustix::fs::readlinkat(here, &name, Vec::new())?.into_bytes();
                if target.starts_with(b"/") {
                    above.truncate(1);
                }
                for part in names(&target).collect::<Vec<_>>().into_iter().rev() {
                    todo.push_front(part);
                }
            }
            _ if is_last => return Ok(Found { spot: Spot { parent: copy(here)?, name }, kind, made }),
            Some(FileType::Directory) => {
                let below = rustix::fs::openat(here, &name, DIRECTORY, Mode::empty())?;
                above.push(below);
            }
            Some(_) => return Err(Errno::NOTDIR),
            None => {
                rustix::fs::mkdirat(here, &name, Mode::from_raw_mode(0o755))?;
                let below = rustix::fs::openat(here, &name, DIRECTORY, Mode::empty())?;
                rustix::fs::fchmod(&below, Mode::from_raw_mode(0o755))?;
                made.push(Spot { parent: copy(here)?, name });
                above.push(below);
            }
        }
    }
    // The root itself, or a link to a directory by `..`.
    Err(Errno::INVAL)
}

fn names(path: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    path.split(|c| *c == b'/').filter(|part| !matches!(*part, b"" | b".")).map(<[u8]>::to_vec)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::symlink;

    use super::*;

    fn spot(root: &std::path::Path, path: &str) -> Result<(String, bool, usize), Errno> {
        let found = find(&File::open(root).expect("a directory").into(), path.as_bytes())?;
        let parent = fs::read_link(format!("/proc/self/fd/{}", {
            use std::os::fd::AsRawFd as _;
            found.spot.parent.as_raw_fd()
        }));
        let parent = parent.expect("a path");
        let parent = parent.strip_prefix(root).expect("below the root").display().to_string();
        let name = found.spot.name.to_string_lossy().into_owned();
        Ok((format!("{parent}/{name}"), found.kind.is_some(), found.made.len()))
    }

    #[test]
    fn links_lead_where_they_would_with_the_directory_as_root() {
        let dir = tempfile::tempdir().expect("directory");
        let root = &dir.path().canonicalize().expect("a path").join("root");
        fs::create_dir_all(root.join("real/etc")).expect("directories");
        fs::write(root.join("real/etc/hosts"), "").expect("a file");
        symlink("/real/etc", root.join("etc")).expect("a link");
        symlink("../../../../run/resolv", root.join("real/etc/resolv.conf")).expect("a link");
        symlink("loop", root.join("loop")).expect("a link");
        assert_eq!(spot(root, "/etc/hosts"), Ok(("real/etc/hosts".into(), true, 0)));
        assert_eq!(spot(root, "etc/resolv.conf"), Ok(("run/resolv".into(), false, 1)));
        assert_eq!(spot(root, "/a/b/c"), Ok(("a/b/c".into(), false, 2)));
        assert_eq!(spot(root, "/a/b/c"), Ok(("a/b/c".into(), false, 0)));
        assert_eq!(spot(root, "loop/x"), Err(Errno::LOOP));
        assert_eq!(spot(root, "etc/hosts/x"), Err(Errno::NOTDIR));
        assert_eq!(spot(root, "/"), Err(Errno::INVAL));
        assert!(!dir.path().join("run").exists());
    }
}
