//! Root file systems as plain directories: what RUN gets where overlayfs cannot be mounted.
//!
//! All layers are copied into one directory, the process changes it in place, and what changed is
//! moved into a layer directory of the same form an overlay would have left.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;

use crate::fs::{Root, TreeEntry, copy_layer, copy_metadata};
use crate::layer::LayerError;
use crate::store::{SnapshotId, TempDir};

use super::chain::Chain;
use super::changes::{Changes, Stamps, below, parent, scan};
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
    before: Stamps,
    points: Vec<Vec<u8>>,
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
        let before = scan(&root).map_err(failed)?.stamps;
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
        let after = scan(root)?;
        let Changes { dirs, files, gone } = Changes::between(&self.before, &after, &self.points);
        for dir in dirs.keys() {
            layer.make_dir(dir)?;
        }
        let same = |entry: &&TreeEntry| self.before.get(&entry.path).is_some_and(|stamp| stamp.is_of(entry));
        let kept = files.iter().copied().chain(dirs.values()).filter(same);
        let kept = kept.map(|entry| entry.path.clone()).collect();
        for file in files {
            std::fs::rename(below(from, &file.path), below(to, &file.path))?;
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
                let _ = std::fs::remove_dir(below(path, point));
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
pub(super) fn keep_time(root: &Root, dir: Option<&TreeEntry>) {
    if let Some(TreeEntry { path, stat, .. }) = dir {
        let _ = root.set_mtime(path, stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec);
    }
}
