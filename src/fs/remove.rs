//! Removing trees that somebody may be changing at the same time.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags, fchmod, fstat, openat, renameat_with, unlinkat};
use rustix::io::Errno;

use super::mode::set_mode_at;
use super::root::names;

/// Descriptors held at once. What lies deeper is moved up: a step can nest deeper than a process may
/// open files.
const DEPTH: usize = 16;
/// How often a directory that is not empty after all may be emptied again, in one removal.
const PATIENCE: usize = 100;
/// How often the top may be emptied of what was moved there: for trees up to 160,000 directories deep.
const ROUNDS: usize = 10_000;

/// Removes a file or a whole tree, also where directories lack the permissions for that; nothing there
/// is no error. Only the way to the directory that holds `path` is resolved by path: below it nothing
/// follows a link or changes what a link leads to, not even while another process moves things about.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let name = CString::new(name.as_bytes())?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match openat(CWD, parent, flags, Mode::empty()) {
        Ok(dir) => Ok(remove_at(dir.as_fd(), &name)?),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// As [`remove_tree`], for a name in an open directory.
pub fn remove_in(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    Ok(remove_at(dir, name)?)
}

pub(super) fn remove_at(dir: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    let mut removal = Removal { patience: PATIENCE, rounds: ROUNDS, moved: 0 };
    removal.entry(dir, name, None, DEPTH)
}

struct Removal {
    patience: usize,
    rounds: usize,
    /// Directories that were moved up.
    moved: u64,
}

impl Removal {
    /// `top` is the directory that whole removal began with, as soon as that is open.
    fn entry(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &CStr,
        top: Option<BorrowedFd<'_>>,
        depth: usize,
    ) -> Result<(), Errno> {
        loop {
            let refused = match unlinkat(dir, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => return Ok(()),
                // Some file systems answer PERM for directories, and all do for what may not go.
                Err(errno @ (Errno::ISDIR | Errno::PERM)) => errno,
                Err(errno) => return Err(errno),
            };
            if let (0, Some(top)) = (depth, top) {
                return self.move_up(dir, name, top);
            }
            let below = match enter(dir, name) {
                Ok(below) => below,
                Err(Errno::NOENT) => return Ok(()),
                // It was a directory a moment ago.
                Err(errno) if self.patience > 0 && refused == Errno::ISDIR && is_no_directory(errno) => {
                    self.patience -= 1;
                    continue;
                }
                Err(errno) if is_no_directory(errno) => return Err(refused),
                Err(errno) => return Err(errno),
            };
            let moved = self.moved;
            self.content(&below, top.unwrap_or(below.as_fd()), depth - 1)?;
            match unlinkat(dir, name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => return Ok(()),
                Err(Errno::NOTEMPTY | Errno::EXIST)
                    if top.is_none() && self.moved > moved && self.rounds > 0 =>
                {
                    self.rounds -= 1;
                }
                Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) if self.patience > 0 => {
                    self.patience -= 1;
                }
                Err(errno) => return Err(errno),
            }
        }
    }

    fn content(&mut self, dir: &OwnedFd, top: BorrowedFd<'_>, depth: usize) -> Result<(), Errno> {
        for name in names(dir.as_fd())? {
            match self.entry(dir.as_fd(), &name, Some(top), depth) {
                Err(Errno::ACCESS) if open_up(dir)? => self.entry(dir.as_fd(), &name, Some(top), depth)?,
                other => other?,
            }
        }
        Ok(())
    }

    /// Moves a directory to the top, where it is found when that turns out not to be empty.
    fn move_up(&mut self, dir: BorrowedFd<'_>, name: &CStr, top: BorrowedFd<'_>) -> Result<(), Errno> {
        loop {
            self.moved += 1;
            let place = format!(".rbuild-deep-{}", self.moved);
            match renameat_with(dir, name, top, &place, RenameFlags::NOREPLACE) {
                Err(Errno::EXIST) => {}
                // Its entry `..` changes, so it has to be writable itself.
                Err(Errno::ACCESS) => {
                    set_mode_at(dir, name, 0o700)?;
                    fchmod(top, Mode::RWXU)?;
                    return renameat_with(dir, name, top, &place, RenameFlags::NOREPLACE);
                }
                other => return other,
            }
        }
    }
}

fn is_no_directory(errno: Errno) -> bool {
    matches!(errno, Errno::NOTDIR | Errno::LOOP | Errno::OPNOTSUPP)
}

/// Lets its owner change a directory; `false` where they could already, so that nothing is tried twice.
fn open_up(dir: &OwnedFd) -> Result<bool, Errno> {
    if Mode::from_raw_mode(fstat(dir)?.st_mode).contains(Mode::RWXU) {
        return Ok(false);
    }
    fchmod(dir, Mode::RWXU).map(|()| true)
}

/// Opens a directory to list it, whatever its mode.
fn enter(dir: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(dir, name, flags, Mode::empty()) {
        Err(Errno::ACCESS) => {
            set_mode_at(dir, name, 0o700)?;
            openat(dir, name, flags, Mode::empty())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).map_or(0, |meta| meta.permissions().mode() & 0o7777)
    }

    #[test]
    fn closed_directories_go_and_what_links_lead_to_stays_as_it_is() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let (outside, tree) = (dir.path().join("outside"), dir.path().join("tree"));
        fs::create_dir_all(outside.join("kept"))?;
        fs::create_dir_all(tree.join("a/b"))?;
        fs::write(tree.join("a/b/f"), "")?;
        symlink(&outside, tree.join("a/link"))?;
        for closed in ["a/b", "a"] {
            fs::set_permissions(tree.join(closed), fs::Permissions::from_mode(0o500))?;
        }
        fs::set_permissions(&outside, fs::Permissions::from_mode(0o755))?;
        remove_tree(&tree)?;
        assert!(!tree.exists() && outside.join("kept").exists());
        assert_eq!(mode(&outside), 0o755);
        remove_tree(&tree)?;
        symlink(&outside, &tree)?;
        remove_tree(&tree)?;
        assert!(outside.join("kept").exists() && fs::symlink_metadata(&tree).is_err());
        assert!(remove_tree(Path::new("..")).is_err());
        Ok(())
    }

    #[test]
    fn trees_deeper_than_a_path_can_name_go() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        fs::create_dir(dir.path().join("tree"))?;
        let mut at = openat(CWD, dir.path().join("tree"), OFlags::PATH, Mode::empty())?;
        for _ in 0..3000 {
            rustix::fs::mkdirat(&at, "directory", Mode::RWXU)?;
            at = openat(&at, "directory", OFlags::PATH, Mode::empty())?;
        }
        remove_tree(&dir.path().join("tree"))?;
        assert!(!dir.path().join("tree").exists());
        Ok(())
    }

    /// A process that a dead rbuild left behind makes names all the time and swaps directories with links.
    #[test]
    fn swaps_during_a_removal_change_nothing_outside() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let (outside, tree) = (dir.path().join("outside"), dir.path().join("tree"));
        fs::create_dir_all(outside.join("deep/er"))?;
        fs::set_permissions(&outside, fs::Permissions::from_mode(0o755))?;
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| -> io::Result<()> {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let _ = fs::create_dir_all(tree.join("d/e"));
                    let _ = fs::write(tree.join("d/e/f"), "");
                    let _ = fs::set_permissions(tree.join("d/e"), fs::Permissions::from_mode(0o000));
                    let _ = symlink(&outside, tree.join("l"));
                    let at = (tree.join("d"), tree.join("l"));
                    let _ = renameat_with(CWD, &at.0, CWD, &at.1, RenameFlags::EXCHANGE);
                }
            });
            for _ in 0..2000 {
                let _ = remove_tree(&tree);
            }
            stop.store(true, Ordering::Relaxed);
            Ok(())
        })?;
        assert!(outside.join("deep/er").exists());
        assert_eq!(mode(&outside), 0o755);
        Ok(())
    }
}
