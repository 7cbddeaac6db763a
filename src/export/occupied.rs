//! What lies at the destination of a local output already, and what the output would do to it.

use std::fs::File;
use std::os::fd::AsFd as _;

use rustix::fs::{AtFlags, FileType, Mode, Stat, XattrFlags, fgetxattr, fsetxattr, statat};

use crate::layer::{Entry, EntryKind};

use super::error::ExportError;
use super::local::Rooted;

/// On a directory that a local output was written to: files there came from an image, so replacing them
/// by those of the next one is what the user expects.
const MARK: &str = "user.rbuild.output";

/// What an output changes among the files of others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replaced {
    /// Files and links that are replaced.
    pub files: Vec<Vec<u8>>,
    /// Directories that get another mode.
    pub modes: Vec<Vec<u8>>,
}

impl Replaced {
    /// Whether nothing of what lies there changes.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty() && self.modes.is_empty()
    }
}

/// Compares the image's files, which lie in `stage` by now, with those at the destination, before anything
/// there changes. A directory where the image has a file stays, and the export fails.
pub(super) fn survey(
    entries: &[Entry],
    stage: &mut Rooted,
    target: &mut Rooted,
) -> Result<Replaced, ExportError> {
    let mut replaced = Replaced::default();
    for entry in entries {
        let Some(old) = stat(target, &entry.path) else { continue };
        let was_directory = FileType::from_raw_mode(old.st_mode) == FileType::Directory;
        match (entry.kind == EntryKind::Dir, was_directory) {
            (false, true) => return Err(ExportError::InTheWay { path: target.shown(&entry.path) }),
            (true, true) if old.st_mode & 0o7777 == entry.meta.mode & 0o7777 => {}
            (true, true) => replaced.modes.push(entry.path.clone()),
            (false, false) if stat(stage, &entry.path).is_some_and(|new| looks_same(&old, &new)) => {}
            (_, false) => replaced.files.push(entry.path.clone()),
        }
    }
    Ok(replaced)
}

fn stat(root: &mut Rooted, path: &[u8]) -> Option<Stat> {
    root.locate(path).and_then(|(dir, name)| statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)).ok()
}

/// The same kind, size, mode and time: the file of an earlier output of the same image, as far as one can
/// tell without reading both.
fn looks_same(old: &Stat, new: &Stat) -> bool {
    (old.st_mode, old.st_size, old.st_mtime) == (new.st_mode, new.st_size, new.st_mtime)
}

/// Whether an earlier output was written here.
pub(super) fn is_marked(root: &Rooted) -> bool {
    let mut value = [0u8; 8];
    open(root).is_some_and(|dir| fgetxattr(&dir, MARK, &mut value[..]).is_ok())
}

/// Remembers that an output was written here. On file systems without such attributes the next output
/// is reported again.
pub(super) fn mark(root: &Rooted) {
    if let Some(dir) = open(root) {
        let _ = fsetxattr(&dir, MARK, b"local", XattrFlags::empty());
    }
}

fn open(root: &Rooted) -> Option<File> {
    use rustix::fs::OFlags;
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY;
    rustix::fs::openat(root.root.as_fd(), ".", flags, Mode::empty()).ok().map(File::from)
}
