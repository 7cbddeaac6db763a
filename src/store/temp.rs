//! Private directories: made in one step, removed with their process or after it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::fs::{make_private_dir, remove_tree};

use super::files::entries;
use super::open::{Store, StoreError, open_lock};
use super::private::open_file;
use super::{SnapshotId, SnapshotKind};

/// Begins the name of a file in a process's directory that stands for a snapshot nothing refers to yet.
/// The rest is the snapshot's ID. Its content, if any, is the chain that is about to refer to it.
const FROZEN: &str = "frozen-";

/// A private directory of the store; removed on drop.
#[derive(Debug)]
pub struct TempDir {
    path: PathBuf,
    _store: Store,
}

impl TempDir {
    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = remove_tree(&self.path);
    }
}

impl Store {
    /// A new, empty, private directory that disappears when the value is dropped, or, should this
    /// process die, when the next one opens the store. On the same file system as the rest.
    pub fn temp_dir(&self) -> Result<TempDir, StoreError> {
        let path = self.temp_path();
        make_private_dir(&path).map_err(StoreError::io("create", &path))?;
        Ok(TempDir { path, _store: self.clone() })
    }

    /// Where this process notes a snapshot nothing refers to yet.
    pub(super) fn frozen_note(&self, id: &str) -> PathBuf {
        self.own_tmp().join(format!("{FROZEN}{id}"))
    }
}

/// Makes `tmp/PID-TIME/` with a locked file inside, which tells the living from the dead, and moves
/// the directories of the dead into it. To be called with the gate held alone.
pub(super) fn make_own(root: &Path) -> Result<(PathBuf, File), StoreError> {
    let tmp = root.join("tmp");
    let unique = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    let own = tmp.join(format!("{}-{unique:x}", std::process::id()));
    make_private_dir(&own).map_err(StoreError::io("create", &own))?;
    let lock_path = own.join("lock");
    let lock = open_lock(&lock_path)?;
    lock.lock().map_err(StoreError::io("lock", &lock_path))?;
    // Those that are not found now are found by the next one.
    for (number, path) in leftovers(root).unwrap_or_default().into_iter().enumerate() {
        if path != own {
            let _ = fs::rename(&path, own.join(format!("dead-{number}")));
        }
    }
    Ok((own, lock))
}

/// Removes what [`make_own`] took over from dead processes.
pub(super) fn remove_abandoned(root: &Path, own: &Path) {
    for entry in fs::read_dir(own).into_iter().flatten().flatten() {
        if entry.file_name().as_encoded_bytes().starts_with(b"dead-") {
            let _ = remove_own(root, &entry.path());
        }
    }
}

/// Removes a process's directory with the snapshots it noted. Directories of processes that died
/// while removing others may lie inside. Where the disk fails, the directory stays with its notes, and
/// whoever opens the store next tries again.
pub(super) fn remove_own(root: &Path, own: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(own) {
        // A file that the store did not put there.
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => return remove_tree(own),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if let Some(id) = name.strip_prefix(FROZEN).filter(|id| SnapshotId::parse(id).is_some()) {
            if !is_referred_to(root, id, &entry.path())? {
                remove_tree(&root.join("snapshots").join(id))?;
            }
        } else if name.starts_with("dead-") {
            remove_own(root, &entry.path())?;
        }
    }
    remove_tree(own)
}

/// Whether the chain that a snapshot's note names does lead to it.
fn is_referred_to(root: &Path, id: &str, note: &Path) -> io::Result<bool> {
    let name = fs::read_to_string(note)?;
    if SnapshotKind::split(&name).is_none() {
        return Ok(false);
    }
    match fs::read_to_string(root.join("chains").join(&name[..2]).join(&name)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        other => Ok(other? == id),
    }
}

/// What lies in `tmp` and belongs to no living process. Certain only while the gate is held alone.
pub(super) fn leftovers(root: &Path) -> Result<Vec<PathBuf>, StoreError> {
    Ok(processes(root)?.into_iter().filter(|path| !is_living(path)).collect())
}

/// When the living processes other than the owner of `own` began. Of one that cannot be asked, the
/// beginning of time.
pub(super) fn living_since(root: &Path, own: &Path) -> Result<Vec<SystemTime>, StoreError> {
    let begun = |path: PathBuf| match fs::metadata(path.join("lock")).and_then(|meta| meta.modified()) {
        Ok(begun) => Some(begun),
        // It has ended since.
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(_) => Some(SystemTime::UNIX_EPOCH),
    };
    let others = processes(root)?.into_iter().filter(|path| path != own && is_living(path));
    Ok(others.filter_map(begun).collect())
}

/// All of them or an error: a living process that is overlooked loses what it uses.
fn processes(root: &Path) -> Result<Vec<PathBuf>, StoreError> {
    Ok(entries(&root.join("tmp"))?.into_iter().map(|entry| entry.path()).collect())
}

fn is_living(path: &Path) -> bool {
    match open_file(&path.join("lock"), OpenOptions::new().read(true)) {
        // Where the lock cannot be asked for, nobody knows that it is free.
        Ok(lock) => lock.try_lock().is_err(),
        // A directory that cannot be looked into is somebody else's.
        Err(error) => !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory),
    }
}
