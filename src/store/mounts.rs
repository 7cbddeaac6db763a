//! Directories of `RUN --mount=type=cache`: made once, kept between builds, locked while in use.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use crate::digest::Digest;

use super::open::{Store, StoreError, open_lock};

/// A cache directory held by a step; let go when dropped.
#[derive(Debug)]
pub struct CacheDir {
    path: PathBuf,
    _lock: File,
}

impl CacheDir {
    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Store {
    /// The cache directory of `key` with the given number (others than 0 are for steps that want one
    /// for themselves), or `None` while another step holds it in a way that excludes this one.
    /// `exclusive` excludes every other. Where it does not exist, `fill` gets an empty directory to
    /// prepare; it becomes visible whole or not at all.
    pub fn cache_dir<E: From<StoreError>>(
        &self,
        key: &Digest,
        number: usize,
        exclusive: bool,
        fill: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<Option<CacheDir>, E> {
        let name = format!("{}.{number}", key.hex());
        let mounts = self.root().join("mounts");
        let lock_path = mounts.join(format!("{name}.lock"));
        // Collection removes an unused lock with its directory: nobody may hold one that is gone.
        let gate = self.enter()?;
        let lock = open_lock(&lock_path)?;
        let locked = if exclusive { lock.try_lock() } else { lock.try_lock_shared() };
        match locked {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(StoreError::io("lock", &lock_path)(error).into()),
        }
        drop(gate);
        let dir = mounts.join(name);
        self.use_now(&dir);
        let path = dir.join("fs");
        if !path.is_dir() {
            let temporary = self.temp_dir()?;
            let fresh = temporary.path().join("fs");
            std::fs::create_dir(&fresh).map_err(StoreError::io("create", &fresh))?;
            fill(&fresh)?;
            match std::fs::rename(temporary.path(), &dir) {
                // Another step was faster; what it made is as good.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists
                    ) => {}
                other => other.map_err(StoreError::io("create", &dir))?,
            }
        }
        Ok(Some(CacheDir { path, _lock: lock }))
    }
}
