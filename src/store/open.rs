//! Opening a store and its locks.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use super::arrivals::Arrivals;
use super::files::entries;
use super::temp;

const VERSION: &str = "1";
/// Bytes set aside for a full disk: directories and files of one process, with room to spare.
const SPARE: usize = 64 * 1024;

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
    /// Another process collects or checks.
    #[error("the store {} is being pruned or checked by another rbuild process; try again when it has ended", path.display())]
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
        matches!(self, StoreError::Io { source, .. } if crate::fs::is_full(source))
    }
}

/// An open store. Clones share it; the shared lock is held until the last one is dropped.
#[derive(Clone, Debug)]
pub struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    _lock: File,
    gate: Mutex<File>,
    own_tmp: PathBuf,
    _own_tmp_lock: File,
    fresh_since: SystemTime,
    counter: AtomicU64,
    arrivals: Arrivals,
}

impl Drop for Inner {
    fn drop(&mut self) {
        let _ = temp::remove_own(&self.root, &self.own_tmp);
    }
}

impl Store {
    /// Opens the store at `root`, making it if there is none, and holds it shared: other processes may
    /// go on. Temporaries of dead processes are cleared.
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
        let gate_path = root.join("gate");
        let gate = open_lock(&gate_path)?;
        gate.lock().map_err(StoreError::io("lock", &gate_path))?;
        let own = temp::make_own(&root);
        gate.unlock().map_err(StoreError::io("unlock", &gate_path))?;
        let (own_tmp, own_lock) = own?;
        temp::bury_the_dead(&root, &own_tmp);
        keep_spare(&root, &own_tmp);
        Ok(Store(Arc::new(Inner {
            root,
            _lock: lock,
            gate: Mutex::new(gate),
            own_tmp,
            _own_tmp_lock: own_lock,
            fresh_since: SystemTime::now(),
            counter: AtomicU64::new(0),
            arrivals: Arrivals::default(),
        })))
    }

    /// As [`Store::open`], but also where the disk is full: opening takes a little space, and for that
    /// the store has some to spare. For those who come to remove things.
    pub fn open_to_clean(root: &Path) -> Result<Self, StoreError> {
        match Self::open(root) {
            Err(error) if error.is_no_space() && fs::remove_file(root.join("spare")).is_ok() => {
                Self::open(root)
            }
            other => other,
        }
    }

    pub(super) fn arrivals(&self) -> &Arrivals {
        &self.0.arrivals
    }

    /// The store's root directory, for messages.
    pub fn root(&self) -> &Path {
        &self.0.root
    }

    pub(super) fn gate_file(&self) -> &Mutex<File> {
        &self.0.gate
    }

    /// What was made or marked as used since then, this process need not mark again.
    pub(super) fn fresh_since(&self) -> SystemTime {
        self.0.fresh_since
    }

    pub(super) fn own_tmp(&self) -> &Path {
        &self.0.own_tmp
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

/// Sets some space aside for [`Store::open_to_clean`].
fn keep_spare(root: &Path, own_tmp: &Path) {
    let spare = root.join("spare");
    if spare.exists() {
        return;
    }
    let temporary = own_tmp.join("spare");
    if fs::write(&temporary, noise(SPARE)).and_then(|()| fs::rename(&temporary, &spare)).is_err() {
        let _ = fs::remove_file(&temporary);
    }
}

/// Bytes that no file system compresses away or stores as a hole.
pub(super) fn noise(length: usize) -> Vec<u8> {
    let mut state = 1u32;
    let bytes = (0..length).map(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    });
    bytes.collect()
}

fn check_version(root: &Path) -> Result<(), StoreError> {
    let path = root.join("version");
    match fs::read_to_string(&path) {
        Ok(found) if found.trim() == VERSION => Ok(()),
        Ok(found) => Err(StoreError::Version { path: root.to_owned(), found: found.trim().to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => make_version(root, &path),
        Err(error) => Err(StoreError::io("read", &path)(error)),
    }
}

/// Declares an empty directory a store. Others may be doing so at this moment, and one that was killed
/// may have left its part.
fn make_version(root: &Path, path: &Path) -> Result<(), StoreError> {
    // Names that are missed would make somebody's files a store.
    let names: Vec<String> =
        entries(root)?.into_iter().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    if path.exists() {
        return check_version(root);
    }
    let ours = |name: &str| matches!(name, "lost+found" | "lock") || name.starts_with("version.");
    if names.iter().any(|name| !ours(name)) {
        return Err(StoreError::Version { path: root.to_owned(), found: "none".into() });
    }
    let temporary = root.join(format!("version.{}", std::process::id()));
    let made = fs::write(&temporary, VERSION).and_then(|()| fs::rename(&temporary, path));
    if let Err(error) = made
        && !path.exists()
    {
        return Err(StoreError::io("write", path)(error));
    }
    for name in names.iter().filter(|name| name.starts_with("version.")) {
        let _ = fs::remove_file(root.join(name));
    }
    Ok(())
}

pub(super) fn open_lock(path: &Path) -> Result<File, StoreError> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(StoreError::io("open", path))
}
