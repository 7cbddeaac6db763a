//! Root file systems made of files that go on from step to step: what RUN gets where nothing can be mounted.
//!
//! The layers are copied into one directory once. A process changes it in place; what it changed, found by the
//! facts of the files, is copied into a layer directory of the form an overlay would have left. The directory then
//! is what the next step runs on, with the layers in between copied on top. So a step costs what it changed, and
//! one look at the facts of every file. Links between the files of a layer directory and those in here would be
//! cheaper still, but a process could write through them.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rustix::fs::FileType;

use crate::fs::{
    NODE_RECORD, Root, TreeEntry, copy_content, copy_layer, copy_metadata, parse_node_record, record_nodes,
};
use crate::layer::LayerError;
use crate::store::{SnapshotId, TempDir};

use super::chain::Chain;
use super::changes::{Changes, Stamps, parent, scan};
use super::error::SnapshotError;
use super::plain::keep_time;
use super::snapshots::Snapshots;

/// Times of files advance in steps of up to 10 ms; a change within the same step as the one before would not show.
const TICK: Duration = Duration::from_millis(20);
/// So many wait for a next step: what a build does at the same time in as many stages.
const MOST_KEPT: usize = 4;

/// The root file systems of a build between its steps.
#[derive(Debug, Default)]
pub struct LiveRoots {
    kept: Mutex<Vec<LiveRoot>>,
}

impl LiveRoots {
    /// The root file system of a chain: one that was kept, with the layers that it lacks, or a new one. Nobody else
    /// has it.
    pub fn take(&self, snapshots: &Snapshots, chain: &Chain) -> Result<LiveRoot, SnapshotError> {
        let mut layers = snapshots.lowers(chain)?;
        layers.reverse();
        let mut root = match self.best(&layers) {
            Some(root) => root,
            None => LiveRoot::empty(snapshots)?,
        };
        root.advance(&layers)?;
        Ok(root)
    }

    /// Keeps one for the steps that follow.
    pub fn keep(&self, root: LiveRoot) {
        let mut kept = self.lock();
        if kept.len() >= MOST_KEPT {
            kept.remove(0);
        }
        kept.push(root);
    }

    fn best(&self, layers: &[PathBuf]) -> Option<LiveRoot> {
        let mut kept = self.lock();
        let fitting = kept.iter().enumerate().filter(|(_, root)| layers.starts_with(&root.layers));
        let (at, _) = fitting.max_by_key(|(_, root)| root.layers.len())?;
        Some(kept.remove(at))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<LiveRoot>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The files of some layers in a directory of their own, and their facts.
#[derive(Debug)]
pub struct LiveRoot {
    dir: TempDir,
    /// Directories of the layers, the lowest first.
    layers: Vec<PathBuf>,
    facts: Stamps,
}

impl LiveRoot {
    fn empty(snapshots: &Snapshots) -> Result<Self, SnapshotError> {
        let root = LiveRoot { dir: snapshots.store().temp_dir()?, layers: Vec::new(), facts: Stamps::new() };
        let path = root.path();
        std::fs::create_dir(&path).map_err(|source| LayerError::io("create", &path, source))?;
        Ok(root)
    }

    /// The directory.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    fn open(&self) -> Result<Root, SnapshotError> {
        let path = self.path();
        Ok(Root::open(&path).map_err(|source| LayerError::io("open", &path, source))?)
    }

    fn advance(&mut self, layers: &[PathBuf]) -> Result<(), SnapshotError> {
        let root = self.open()?;
        for layer in layers.get(self.layers.len()..).unwrap_or_default() {
            let failed = |source| LayerError::io("copy the files of", layer, source);
            copy_layer(&Root::open(layer).map_err(failed)?, &root, true).map_err(failed)?;
        }
        if self.layers.len() < layers.len() {
            self.layers = layers.to_vec();
            let path = self.path();
            let failed = |source| LayerError::io("list", &path, source);
            let seen = scan(&root).map_err(failed)?;
            // A process could open them: no mount keeps them closed.
            let any = record_nodes(&root, &seen.entries).map_err(failed)?;
            self.facts = if any { scan(&root).map_err(failed)?.stamps } else { seen.stamps };
        }
        Ok(())
    }

    /// Waits until a change would show. To be called right before a process starts.
    pub fn settle(&self) {
        let newest = self.facts.values().map(|stamp| stamp.changed()).max().unwrap_or_default();
        let seconds = Duration::from_secs(u64::try_from(newest.0).unwrap_or(0));
        let newest = SystemTime::UNIX_EPOCH + seconds + Duration::from_nanos(newest.1.into());
        // A clock that was put back tells nothing.
        let passed = newest.elapsed().unwrap_or_default();
        std::thread::sleep(TICK.saturating_sub(passed));
    }

    /// Copies what changed into a layer directory and freezes that. From then on the root file system has one layer
    /// more.
    pub fn freeze(&mut self, snapshots: &Snapshots) -> Result<SnapshotId, SnapshotError> {
        let root = self.open()?;
        let path = self.path();
        let failed = |source| LayerError::io("collect changes of", &path, source);
        let dir = snapshots.store().temp_dir()?;
        let target = dir.path().join("fs");
        std::fs::create_dir(&target).map_err(failed)?;
        let layer = Root::open(&target).map_err(failed)?;
        self.collect(&root, &layer).map_err(failed)?;
        let id = snapshots.store().freeze_snapshot(dir)?;
        self.layers.push(snapshots.store().snapshot_dir(&id));
        Ok(id)
    }

    fn collect(&mut self, root: &Root, layer: &Root) -> std::io::Result<()> {
        let after = scan(root)?;
        let Changes { dirs, files, gone } = Changes::between(&self.facts, &after, &[]);
        for dir in dirs.keys() {
            layer.make_dir(dir)?;
        }
        let mut names: HashMap<_, &[u8]> = HashMap::new();
        let mut more_names: Vec<&TreeEntry> = Vec::new();
        for file in files {
            if file.stat.stx_nlink > 1 {
                if let Some(first) = names.get(&file.identity()) {
                    layer.make_link(first, &file.path)?;
                    more_names.push(file);
                    continue;
                }
                names.insert(file.identity(), &file.path);
            }
            copy(root, layer, file)?;
        }
        for path in gone {
            layer.make_whiteout(path)?;
        }
        for (path, entry) in dirs.iter().rev() {
            copy_metadata(layer, entry, &root.xattrs(path)?, true)?;
        }
        let is_parted = !more_names.is_empty();
        for file in more_names {
            part(root, layer, file)?;
        }
        self.facts = if is_parted { scan(root)?.stamps } else { after.stamps };
        Ok(())
    }
}

fn copy(from: &Root, to: &Root, file: &TreeEntry) -> std::io::Result<()> {
    let is_link = file.file_type() == FileType::Symlink;
    let mut xattrs = if is_link { Vec::new() } else { from.xattrs(&file.path)? };
    match recorded(file, &xattrs) {
        Some((is_block, major, minor)) => {
            let kind = if is_block { FileType::BlockDevice } else { FileType::CharacterDevice };
            to.make_node(&file.path, kind, major, minor)?;
            xattrs.retain(|(name, _)| name != NODE_RECORD.as_bytes());
        }
        None => copy_content(from, to, file)?,
    }
    copy_metadata(to, file, &xattrs, true)
}

/// The device that a file stands for.
fn recorded(file: &TreeEntry, xattrs: &[(Vec<u8>, Vec<u8>)]) -> Option<(bool, u32, u32)> {
    let is_empty = file.file_type() == FileType::RegularFile && file.stat.stx_size == 0;
    let record = xattrs.iter().find(|(name, _)| is_empty && name == NODE_RECORD.as_bytes());
    record.and_then(|(_, value)| parse_node_record(value))
}

/// Makes another name of a file a file of its own: on an overlay, who changes one of them in a later step leaves the
/// others alone.
fn part(root: &Root, layer: &Root, file: &TreeEntry) -> std::io::Result<()> {
    let above = parent(&file.path).map(|above| root.stat(above)).transpose()?.flatten();
    let xattrs = root.xattrs(&file.path)?;
    root.remove(&file.path)?;
    if recorded(file, &xattrs).is_some() {
        drop(root.create_file(&file.path)?);
        copy_metadata(root, file, &xattrs, true)?;
    } else {
        // The layer has the same content under the same name.
        copy(layer, root, file)?;
    }
    keep_time(root, above.as_ref());
    Ok(())
}
