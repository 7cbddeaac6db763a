//! Opening a store, its locks and its temporary directories.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const VERSION: &str = "1";

/// A failure of the store, with the path it concerns.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// An operation on a file failed.
    #[error("store: cannot {action} {}: {source}", path.display())]
    Io {
        /// The verb: `read`, `write`, `rename`...
        action: &'static str,
        /// The path.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The directory holds a store of another version, or something else entirely.
    #[error("{} is not a store this rbuild can use (found version {found:?}, need {VERSION:?}); choose another with --root", path.display())]
    Version {
        /// The store's root.
        path: PathBuf,
        /// What its version file says.
        found: String,
    },
    /// Another process holds the store exclusively.
    #[error("the store {} is in use by another rbuild process; try again when it has ended", path.display())]
    Busy {
        /// The store's root.
        path: PathBuf,
    },
}

impl StoreError {
    /// Wraps an I/O error with what was done to which path.
    pub(super) fn io<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> StoreError + 'a {
        move |source| StoreError::Io { action, path: path.to_owned(), source }
    }

    /// Whether the file system or quota is full.
    pub fn is_no_space(&self) -> bool {
        matches!(self, StoreError::Io { source, .. } if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }
}

/// An open store. Clones share it; the shared lock is held until the last one is dropped.
#[derive(Clone, Debug)]
pub struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    _lock: File,
    own_tmp: PathBuf,
    _own_tmp_lock: File,
    counter: AtomicU64,
}

impl Drop for Inner {
    fn drop(&mut self) {
        let _ = remove_tree(&self.own_tmp);
    }
}

impl Store {
    /// Opens the store at `root`, making it if there is none, and holds it shared: other builds may
    /// go on, a collection waits. Temporaries of dead processes are cleared.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        fs::create_dir_all(root).map_err(StoreError::io("create", root))?;
        let root = fs::canonicalize(root).map_err(StoreError::io("open", root))?;
        check_version(&root)?;
        for dir in [
            "blobs/sha256",
            "layers",
            "index",
            "chains",
            "snapshots",
            "records",
            "refs",
            "stat",
            "mounts",
            "tmp",
        ] {
            let path = root.join(dir);
            if !path.is_dir() {
                fs::create_dir_all(&path).map_err(StoreError::io("create", &path))?;
            }
        }
        let lock_path = root.join("lock");
        let lock = open_lock(&lock_path)?;
        lock.lock_shared().map_err(StoreError::io("lock", &lock_path))?;
        clear_dead_temporaries(&root.join("tmp"));
        let (own_tmp, own_lock) = make_own_tmp(&root.join("tmp"))?;
        Ok(Store(Arc::new(Inner {
            root,
            _lock: lock,
            own_tmp,
            _own_tmp_lock: own_lock,
            counter: AtomicU64::new(0),
        })))
    }

    /// The store's root directory, for messages.
    pub fn root(&self) -> &Path {
        &self.0.root
    }

    /// A new, empty, private directory that disappears when the value is dropped, or, should this
    /// process die, when the next one opens the store. On the same file system as the rest.
    pub fn temp_dir(&self) -> Result<TempDir, StoreError> {
        let path = self.temp_path();
        fs::create_dir(&path).map_err(StoreError::io("create", &path))?;
        Ok(TempDir { path, _store: self.clone() })
    }

    /// A fresh name in this process's temporary directory.
    pub(super) fn temp_path(&self) -> PathBuf {
        let number = self.0.counter.fetch_add(1, Ordering::Relaxed);
        self.0.own_tmp.join(number.to_string())
    }

    /// A number no other caller in this process has got, for unique names.
    pub(super) fn unique(&self) -> (u32, u64) {
        (std::process::id(), self.0.counter.fetch_add(1, Ordering::Relaxed))
    }
}

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

fn check_version(root: &Path) -> Result<(), StoreError> {
    let path = root.join("version");
    match fs::read_to_string(&path) {
        Ok(found) if found.trim() == VERSION => Ok(()),
        Ok(found) => Err(StoreError::Version { path: root.to_owned(), found: found.trim().to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let foreign = fs::read_dir(root)
                .map_err(StoreError::io("read", root))?
                .flatten()
                .any(|entry| !matches!(entry.file_name().to_str(), Some("lost+found" | "lock")));
            if foreign {
                return Err(StoreError::Version { path: root.to_owned(), found: "none".into() });
            }
            let temporary = root.join(format!("version.{}", std::process::id()));
            fs::write(&temporary, VERSION).map_err(StoreError::io("write", &temporary))?;
            fs::rename(&temporary, &path).map_err(StoreError::io("write", &path))
        }
        Err(error) => Err(StoreError::io("read", &path)(error)),
    }
}

pub(super) fn open_lock(path: &Path) -> Result<File, StoreError> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(StoreError::io("open", path))
}

/// Makes `tmp/PID-RANDOM/` with a locked file inside: the lock tells the living from the dead.
fn make_own_tmp(tmp: &Path) -> Result<(PathBuf, File), StoreError> {
    let unique = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos());
    let hidden = tmp.join(format!(".new-{}-{unique:x}", std::process::id()));
    fs::create_dir(&hidden).map_err(StoreError::io("create", &hidden))?;
    let lock_path = hidden.join("lock");
    let lock = open_lock(&lock_path)?;
    lock.lock().map_err(StoreError::io("lock", &lock_path))?;
    // The rename comes after the lock, so that no other process can see the directory unlocked.
    let own = tmp.join(format!("{}-{unique:x}", std::process::id()));
    fs::rename(&hidden, &own).map_err(StoreError::io("rename", &hidden))?;
    Ok((own, lock))
}

fn clear_dead_temporaries(tmp: &Path) {
    let Ok(entries) = fs::read_dir(tmp) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if name.as_encoded_bytes().starts_with(b".new-") && !older_than_an_hour(&path) {
            continue;
        }
        let dead = match File::open(path.join("lock")) {
            Ok(lock) => !matches!(lock.try_lock(), Err(TryLockError::WouldBlock)),
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        };
        if dead {
            let _ = remove_tree(&path);
        }
    }
}

fn older_than_an_hour(path: &Path) -> bool {
    fs::symlink_metadata(path)
        .and_then(|meta| meta.modified())
        .ok()
        .and_then(|time| time.elapsed().ok())
        .is_some_and(|age| age.as_secs() > 3600)
}

/// Removes a tree even where its directories lack write or search permission, which layers of
/// unprivileged builds may contain.
pub(super) fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(_) => {
            open_up(path);
            fs::remove_dir_all(path)
        }
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
