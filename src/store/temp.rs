//! Private directories: made in one step, removed with their process or after it.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::digest::Digest;

use super::open::{Store, StoreError, open_lock};

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
        fs::create_dir(&path).map_err(StoreError::io("create", &path))?;
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
    fs::create_dir(&own).map_err(StoreError::io("create", &own))?;
    let lock_path = own.join("lock");
    let lock = open_lock(&lock_path)?;
    lock.lock().map_err(StoreError::io("lock", &lock_path))?;
    for (number, path) in leftovers(root).into_iter().enumerate() {
        if path != own {
            let _ = fs::rename(&path, own.join(format!("dead-{number}")));
        }
    }
    Ok((own, lock))
}

/// Removes what [`make_own`] took over from dead processes.
pub(super) fn bury_the_dead(root: &Path, own: &Path) {
    for entry in fs::read_dir(own).into_iter().flatten().flatten() {
        if entry.file_name().as_encoded_bytes().starts_with(b"dead-") {
            remove_own(root, &entry.path());
        }
    }
}

/// Removes a process's directory with the snapshots it noted. Directories of processes that died
/// while burying others may lie inside.
pub(super) fn remove_own(root: &Path, own: &Path) {
    for entry in fs::read_dir(own).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if let Some(id) = name.strip_prefix(FROZEN) {
            if !is_referred_to(root, id, &entry.path()) {
                let _ = remove_tree(&root.join("snapshots").join(id));
            }
        } else if name.starts_with("dead-") {
            remove_own(root, &entry.path());
        }
    }
    let _ = remove_tree(own);
}

/// Whether the chain that a snapshot's note names does lead to it.
fn is_referred_to(root: &Path, id: &str, note: &Path) -> bool {
    let chain = fs::read_to_string(note).ok().and_then(|hex| Digest::from_hex(&hex));
    chain.is_some_and(|chain| {
        let hex = chain.hex();
        let path = root.join("chains").join(&hex[..2]).join(&hex);
        fs::read_to_string(path).is_ok_and(|content| content == id)
    })
}

/// What lies in `tmp` and belongs to no living process. Certain only while the gate is held alone.
pub(super) fn leftovers(root: &Path) -> Vec<PathBuf> {
    entries(root).filter(|path| !is_living(path)).collect()
}

/// When the living processes other than the owner of `own` began. Of one that cannot be asked, the
/// beginning of time.
pub(super) fn living_since(root: &Path, own: &Path) -> Vec<SystemTime> {
    let begun = |path: PathBuf| match fs::metadata(path.join("lock")).and_then(|meta| meta.modified()) {
        Ok(begun) => Some(begun),
        // It has ended since.
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(_) => Some(SystemTime::UNIX_EPOCH),
    };
    entries(root).filter(|path| path != own && is_living(path)).filter_map(begun).collect()
}

fn entries(root: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(root.join("tmp")).into_iter().flatten().flatten().map(|entry| entry.path())
}

fn is_living(path: &Path) -> bool {
    match File::open(path.join("lock")) {
        Ok(lock) => matches!(lock.try_lock(), Err(TryLockError::WouldBlock)),
        // A directory that cannot be looked into is somebody else's.
        Err(error) => !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory),
    }
}

/// Removes a file or tree, also where directories lack write or search permission, which layers of
/// unprivileged builds may contain.
pub(super) fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Ok(meta) if !meta.is_dir() => return fs::remove_file(path),
        _ => {}
    }
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(_) => {
            open_up(path);
            fs::remove_dir_all(path)
        }
        Ok(()) => Ok(()),
    }
}

fn open_up(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    let _ = fs::set_permissions(path, fs::Permissions::from_mode(0o700));
    let Ok(entries) = fs::read_dir(path) else { return };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            open_up(&entry.path());
        }
    }
}
