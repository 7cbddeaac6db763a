//! Opening a store and its locks.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use crate::cancel::Cancel;

use super::arrivals::Arrivals;
use crate::fs::new_file_beside;

use super::files::entries;
use super::private::{self, claim, make_room, open_file, refuse_planted};
use super::temp;

const VERSION: &str = "1";
/// Directories that are there from the beginning, those that hold others first.
const ROOMS: [&str; 11] = [
    "blobs",
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
];
/// Directories that are made when they are first needed.
pub(super) const LATER_ROOMS: [&str; 4] = ["git", "builds", "logs", "told"];
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
    /// The root, or a directory in it, belongs to another user.
    #[error("the store's directory {} belongs to {owner}, and rbuild runs as {caller}; a store is for one user alone", path.display())]
    Foreign {
        /// The store's root.
        path: PathBuf,
        /// Its owner.
        owner: String,
        /// Who runs rbuild.
        caller: String,
    },
    /// Others have access to the root, and that cannot be changed.
    #[error("other users may use the store's directory {} (mode {mode:04o}), and its file system does not let that be changed", path.display())]
    Open {
        /// The directory.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// There is a link where the store has a file or directory.
    #[error("store: {} is a link, and a store has none; remove it if you did not make it", path.display())]
    Link {
        /// The link.
        path: PathBuf,
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

    /// Whether this user may not write to the store's place.
    pub fn is_not_allowed(&self) -> bool {
        matches!(self, StoreError::Io { source, .. } if matches!(source.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem))
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
    narrowed: Option<u32>,
    _lock: File,
    gate: Mutex<File>,
    own_tmp: PathBuf,
    _own_tmp_lock: File,
    fresh_since: SystemTime,
    counter: AtomicU64,
    arrivals: Arrivals,
    cancel: Mutex<Option<Cancel>>,
    only_looks: AtomicBool,
    refused: AtomicBool,
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
        let (root, narrowed) = claim(root)?;
        check_version(&root)?;
        for room in ROOMS {
            let path = root.join(room);
            make_room(&path)?;
        }
        for room in LATER_ROOMS {
            refuse_planted(&root.join(room))?;
        }
        if narrowed.is_some() {
            let rooms = ROOMS.iter().chain(&LATER_ROOMS).map(|room| root.join(room));
            for path in rooms.filter(|path| path.is_dir()) {
                private::narrow(&path)?;
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
        temp::remove_abandoned(&root, &own_tmp);
        keep_spare(&root, &own_tmp);
        Ok(Store(Arc::new(Inner {
            root,
            narrowed,
            _lock: lock,
            gate: Mutex::new(gate),
            own_tmp,
            _own_tmp_lock: own_lock,
            fresh_since: SystemTime::now(),
            counter: AtomicU64::new(0),
            arrivals: Arrivals::default(),
            cancel: Mutex::default(),
            only_looks: AtomicBool::new(false),
            refused: AtomicBool::new(false),
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

    /// From now on, reading layers of this store ends when `cancel` is switched. What reads them is asked
    /// for by many, few of whom know who may stop the whole.
    pub fn cancel_by(&self, cancel: &Cancel) {
        *self.0.cancel.lock().unwrap_or_else(PoisonError::into_inner) = Some(cancel.clone());
    }

    /// What ends reading layers.
    pub fn canceled_by(&self) -> Option<Cancel> {
        self.0.cancel.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on this process adds nothing to the store: what it would note is dropped, and layers are not
    /// fetched. It still marks what it finds as used. Sources from elsewhere that have to be read to know what a
    /// build is (a context that is a git repository, a download) are kept as ever.
    pub fn look_only(&self) {
        self.0.only_looks.store(true, Ordering::SeqCst);
    }

    /// Whether [`Store::look_only`] was called.
    pub fn only_looks(&self) -> bool {
        self.0.only_looks.load(Ordering::SeqCst)
    }

    /// Whether something that lies elsewhere must not be fetched; remembers that it was wanted.
    pub fn refuses_to_fetch(&self) -> bool {
        let only_looks = self.only_looks();
        if only_looks {
            self.0.refused.store(true, Ordering::SeqCst);
        }
        only_looks
    }

    /// Whether something was refused since the last call.
    pub fn take_refused(&self) -> bool {
        self.0.refused.swap(false, Ordering::SeqCst)
    }

    pub(super) fn arrivals(&self) -> &Arrivals {
        &self.0.arrivals
    }

    /// The store's root directory, for messages.
    pub fn root(&self) -> &Path {
        &self.0.root
    }

    /// The permissions that the root had, where others had access until this process opened it.
    pub fn narrowed(&self) -> Option<u32> {
        self.0.narrowed
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

    /// A directory for nameless files of this process.
    pub fn scratch_path(&self) -> &Path {
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
    match super::files::read(&path)?.map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned()) {
        Some(found) if found == VERSION => Ok(()),
        Some(found) => Err(StoreError::Version { path: root.to_owned(), found }),
        None => make_version(root, &path),
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
    let made = new_file_beside(path, 0o600).and_then(|mut file| {
        file.write_all(VERSION.as_bytes())?;
        Ok(file.persist(path)?)
    });
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
    let mut options = OpenOptions::new();
    open_file(path, options.create(true).truncate(false).write(true)).map_err(private::failed("open", path))
}
