//! Root file systems as plain directories: what RUN gets where overlayfs cannot be mounted.
//!
//! All layers are copied into one directory, the process changes it in place, and what changed is
//! moved into a layer directory of the same form an overlay would have left.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use rustix::fs::FileType;

use crate::fs::{Root, TreeEntry, copy_layer, copy_metadata};
use crate::layer::LayerError;
use crate::store::{SnapshotId, TempDir};

use super::chain::Chain;
use super::error::SnapshotError;
use super::snapshots::Snapshots;

/// What the sandbox mounts on; in an overlay these lie in a layer of their own.
const POINTS: [(&[u8], bool); 6] = [
    (b"proc", false),
    (b"sys", false),
    (b"dev", false),
    (b"etc", false),
    (b"etc/hosts", true),
    (b"etc/resolv.conf", true),
];

/// A root file system copied together for one run.
pub struct PlainRoot {
    dir: TempDir,
    keep_owners: bool,
    before: BTreeMap<Vec<u8>, Stamp>,
    points: Vec<Vec<u8>>,
}

/// What differs when a file was touched.
#[derive(PartialEq, Eq)]
struct Stamp {
    mode: u16,
    owner: (u32, u32),
    ino: u64,
    size: u64,
    mtime: (i64, u32),
    ctime: (i64, u32),
    xattrs: Xattrs,
}

type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// Making and removing mount points changes the `ctime` of directories: their attributes are compared instead.
fn stamp(root: &Root, entry: &TreeEntry) -> std::io::Result<Stamp> {
    let stat = &entry.stat;
    let is_dir = entry.file_type() == FileType::Directory;
    Ok(Stamp {
        mode: stat.stx_mode,
        owner: (stat.stx_uid, stat.stx_gid),
        ino: stat.stx_ino,
        size: if is_dir { 0 } else { stat.stx_size },
        mtime: (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
        ctime: if is_dir { (0, 0) } else { (stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec) },
        xattrs: if is_dir { root.xattrs(&entry.path)? } else { Xattrs::new() },
    })
}

fn scan(root: &Root) -> std::io::Result<BTreeMap<Vec<u8>, Stamp>> {
    root.walk()?.iter().map(|entry| Ok((entry.path.clone(), stamp(root, entry)?))).collect()
}

impl PlainRoot {
    /// Copies the layers of a chain together and adds missing mount points: real paths, and whether
    /// each is a file.
    pub fn make(
        snapshots: &Snapshots,
        chain: &Chain,
        more_points: &[(Vec<u8>, bool)],
    ) -> Result<Self, SnapshotError> {
        let keep_owners = snapshots.ids() == crate::layer::OnDiskIds::Keep;
        let dir = snapshots.store().temp_dir()?;
        let path = dir.path().join("root");
        let failed = |source| LayerError::io("copy the layers to", &path, source);
        std::fs::create_dir(&path).map_err(failed)?;
        let root = Root::open(&path).map_err(failed)?;
        for layer in snapshots.lowers(chain)?.iter().rev() {
            let layer = Root::open(layer).map_err(failed)?;
            copy_layer(&layer, &root, keep_owners).map_err(failed)?;
        }
        let points = make_points(&root, more_points);
        let before = scan(&root).map_err(failed)?;
        // Times of files advance in steps; a change within the same step would not show.
        std::thread::sleep(std::time::Duration::from_millis(20));
        Ok(PlainRoot { dir, keep_owners, before, points })
    }

    /// The directory.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    /// Moves what changed into a layer directory and freezes it. Gives the paths of changed files that were
    /// there before, too.
    pub fn freeze(self, snapshots: &Snapshots) -> Result<(SnapshotId, BTreeSet<Vec<u8>>), SnapshotError> {
        let path = self.path();
        let failed = |source| LayerError::io("collect changes of", &path, source);
        let root = Root::open(&path).map_err(failed)?;
        self.remove_points(&root, &path);
        let layer_dir = snapshots.store().temp_dir()?;
        let target = layer_dir.path().join("fs");
        std::fs::create_dir(&target).map_err(failed)?;
        let layer = Root::open(&target).map_err(failed)?;
        let kept = self.collect(&root, &layer, &path, &target).map_err(failed)?;
        Ok((snapshots.store().freeze_snapshot(layer_dir)?, kept))
    }

    fn collect(
        &self,
        root: &Root,
        layer: &Root,
        from: &Path,
        to: &Path,
    ) -> std::io::Result<BTreeSet<Vec<u8>>> {
        let after = root.walk()?;
        let now: BTreeMap<&[u8], &TreeEntry> =
            after.iter().map(|entry| (entry.path.as_slice(), entry)).collect();
        let mut dirs: BTreeMap<Vec<u8>, TreeEntry> = BTreeMap::new();
        let mut moves = Vec::new();
        let mut gone: Vec<&[u8]> = Vec::new();
        for (path, _) in self.before.iter().filter(|(path, _)| !now.contains_key(path.as_slice())) {
            let below_gone = gone
                .last()
                .is_some_and(|above| path.starts_with(above) && path.get(above.len()) == Some(&b'/'));
            let parent_is_dir = parent(path).is_none_or(|above| {
                now.get(above).is_some_and(|entry| entry.file_type() == FileType::Directory)
            });
            if !below_gone && parent_is_dir && !self.points.contains(path) {
                gone.push(path);
            }
        }
        for entry in &after {
            if self.before.get(&entry.path) == Some(&stamp(root, entry)?) {
                continue;
            }
            if entry.file_type() == FileType::Directory {
                dirs.insert(entry.path.clone(), entry.clone());
            } else {
                moves.push(entry.path.as_slice());
            }
        }
        let changed: Vec<Vec<u8>> = dirs.keys().cloned().collect();
        for path in moves.iter().chain(&gone).copied().chain(changed.iter().map(Vec::as_slice)) {
            let mut above = parent(path);
            while let Some(dir) = above {
                if let Some(entry) = now.get(dir) {
                    dirs.insert(dir.to_vec(), (*entry).clone());
                }
                above = parent(dir);
            }
        }
        for dir in dirs.keys() {
            layer.make_dir(dir)?;
        }
        let same = |path: &&[u8]| {
            let ino = now.get(path).map(|entry| entry.stat.stx_ino);
            self.before.get(*path).map(|stamp| stamp.ino) == ino
        };
        let kept = moves.iter().copied().filter(same).map(<[u8]>::to_vec).collect();
        for path in moves {
            std::fs::rename(from.join(os(path)), to.join(os(path)))?;
        }
        for path in gone {
            layer.make_whiteout(path)?;
        }
        for (path, entry) in dirs.iter().rev() {
            copy_metadata(layer, entry, &root.xattrs(path)?, self.keep_owners)?;
        }
        Ok(kept)
    }

    /// Mount points that were made for the run and that nothing was put into.
    fn remove_points(&self, root: &Root, path: &Path) {
        for point in self.points.iter().rev() {
            let Ok(Some(entry)) = root.stat(point) else { continue };
            let above = parent(point).and_then(|above| root.stat(above).ok().flatten());
            if entry.file_type() == FileType::Directory {
                // Fails where something lies in it, which is then the process's.
                let _ = std::fs::remove_dir(path.join(os(point)));
            } else if entry.stat.stx_size == 0 {
                let _ = root.remove(point);
            }
            keep_time(root, above.as_ref());
        }
    }
}

/// Makes missing mount points; what cannot be made is left to the sandbox to complain about.
fn make_points(root: &Root, more: &[(Vec<u8>, bool)]) -> Vec<Vec<u8>> {
    let mut wanted: Vec<(Vec<u8>, bool)> =
        POINTS.iter().map(|(path, is_file)| (path.to_vec(), *is_file)).collect();
    for (path, is_file) in more {
        let above = path.iter().enumerate().filter(|(_, c)| **c == b'/').map(|(at, _)| path[..at].to_vec());
        wanted.extend(above.map(|dir| (dir, false)));
        wanted.push((path.clone(), *is_file));
    }
    let mut made = Vec::new();
    for (path, is_file) in wanted {
        if !matches!(root.stat(&path), Ok(None)) {
            continue;
        }
        let above = parent(&path).unwrap_or_default();
        let before = root.stat(above).ok().flatten();
        let result = if is_file { root.create_file(&path).map(drop) } else { root.make_dir(&path) };
        if result.and_then(|()| root.set_mode(&path, if is_file { 0o644 } else { 0o755 })).is_ok() {
            made.push(path);
        }
        keep_time(root, before.as_ref());
    }
    made
}

/// A mount point that comes or goes changes the time of the directory above, which is the process's to see and to
/// set.
fn keep_time(root: &Root, dir: Option<&TreeEntry>) {
    if let Some(TreeEntry { path, stat, .. }) = dir {
        let _ = root.set_mtime(path, stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec);
    }
}

fn parent(path: &[u8]) -> Option<&[u8]> {
    path.iter().rposition(|c| *c == b'/').and_then(|at| path.get(..at))
}

fn os(path: &[u8]) -> &Path {
    use std::os::unix::ffi::OsStrExt as _;
    Path::new(std::ffi::OsStr::from_bytes(path))
}
