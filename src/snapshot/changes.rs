//! What a process did to a directory of files, by looking at their facts before and after: nothing is read.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;

use crate::fs::{Root, TreeEntry};

/// What differs when a file was touched.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    mode: u16,
    owner: (u32, u32),
    ino: u64,
    /// When it was made, where the file system says so: the number of a file that is gone may come again.
    made: (i64, u32),
    size: u64,
    mtime: (i64, u32),
    ctime: (i64, u32),
    xattrs: Xattrs,
}

type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// The facts of every file, by path.
pub(super) type Stamps = BTreeMap<Vec<u8>, Stamp>;

impl Stamp {
    /// Making and removing mount points changes the `ctime` of directories: their attributes are compared instead.
    fn of(root: &Root, entry: &TreeEntry) -> io::Result<Self> {
        let stat = &entry.stat;
        let is_dir = entry.file_type() == FileType::Directory;
        Ok(Stamp {
            mode: stat.stx_mode,
            owner: (stat.stx_uid, stat.stx_gid),
            ino: stat.stx_ino,
            made: made(entry),
            size: if is_dir { 0 } else { stat.stx_size },
            mtime: (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
            ctime: if is_dir { (0, 0) } else { (stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec) },
            xattrs: if is_dir { root.xattrs(&entry.path)? } else { Xattrs::new() },
        })
    }

    /// Whether it is the same file or directory, whatever was done to it.
    pub(super) fn is_of(&self, entry: &TreeEntry) -> bool {
        (self.ino, self.made) == (entry.stat.stx_ino, made(entry))
    }

    /// Seconds and nanoseconds since 1970; of a directory, none.
    pub(super) fn changed(&self) -> (i64, u32) {
        self.ctime
    }
}

fn made(entry: &TreeEntry) -> (i64, u32) {
    (entry.stat.stx_btime.tv_sec, entry.stat.stx_btime.tv_nsec)
}

/// All files of a directory at one moment.
pub(super) struct Scan {
    pub(super) entries: Vec<TreeEntry>,
    pub(super) stamps: Stamps,
}

pub(super) fn scan(root: &Root) -> io::Result<Scan> {
    let entries = root.walk()?;
    let stamps = entries
        .iter()
        .map(|entry| Ok((entry.path.clone(), Stamp::of(root, entry)?)))
        .collect::<io::Result<_>>()?;
    Ok(Scan { entries, stamps })
}

/// What became of the files between two scans.
pub(super) struct Changes<'a> {
    /// Directories that changed or that something changed in, each with all directories above it.
    pub(super) dirs: BTreeMap<Vec<u8>, TreeEntry>,
    /// Everything else that is new or changed.
    pub(super) files: Vec<&'a TreeEntry>,
    /// What is not there any more; of a directory, only the directory.
    pub(super) gone: Vec<&'a [u8]>,
}

impl<'a> Changes<'a> {
    /// `points` are not counted as gone.
    pub(super) fn between(before: &'a Stamps, after: &'a Scan, points: &[Vec<u8>]) -> Self {
        let now: BTreeMap<&[u8], &TreeEntry> =
            after.entries.iter().map(|entry| (entry.path.as_slice(), entry)).collect();
        let mut dirs: BTreeMap<Vec<u8>, TreeEntry> = BTreeMap::new();
        let (mut files, mut gone): (Vec<&TreeEntry>, Vec<&[u8]>) = (Vec::new(), Vec::new());
        for path in before.keys().filter(|path| !now.contains_key(path.as_slice())) {
            let below_gone = gone
                .last()
                .is_some_and(|above| path.starts_with(above) && path.get(above.len()) == Some(&b'/'));
            let parent_is_dir = parent(path).is_none_or(|above| {
                now.get(above).is_some_and(|entry| entry.file_type() == FileType::Directory)
            });
            if !below_gone && parent_is_dir && !points.contains(path) {
                gone.push(path);
            }
        }
        for entry in &after.entries {
            if before.get(&entry.path) == after.stamps.get(&entry.path) {
                continue;
            }
            if entry.file_type() == FileType::Directory {
                dirs.insert(entry.path.clone(), entry.clone());
            } else {
                files.push(entry);
            }
        }
        let changed: Vec<Vec<u8>> = dirs.keys().cloned().collect();
        let others = files.iter().map(|file| file.path.as_slice()).chain(gone.iter().copied());
        for path in others.chain(changed.iter().map(Vec::as_slice)) {
            let mut above = parent(path);
            while let Some(dir) = above {
                if let Some(entry) = now.get(dir) {
                    dirs.insert(dir.to_vec(), (*entry).clone());
                }
                above = parent(dir);
            }
        }
        Changes { dirs, files, gone }
    }
}

pub(super) fn parent(path: &[u8]) -> Option<&[u8]> {
    path.iter().rposition(|c| *c == b'/').and_then(|at| path.get(..at))
}

pub(super) fn below(dir: &Path, path: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt as _;
    dir.join(std::ffi::OsStr::from_bytes(path))
}
