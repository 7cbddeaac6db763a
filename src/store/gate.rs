//! Use and removal kept apart, so that builds and collection go side by side.
//!
//! A process that relies on something another one left behind marks it as used: it sets its
//! modification time, holding the gate shared. Collection holds the gate alone while it looks at that
//! time and takes the thing away, and leaves everything that was used since the oldest living process
//! began. What a process makes itself is young by nature. So whatever a process has seen stays for as
//! long as that process lives, and nobody waits for longer than a rename takes.

use std::fs::{self, File};
use std::path::Path;
use std::sync::{MutexGuard, PoisonError};
use std::time::SystemTime;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;

use super::open::{Store, StoreError};

/// The held gate. Only one thread of a process holds it at a time: file locks know no threads.
pub(super) struct Gate<'a>(MutexGuard<'a, File>);

impl Drop for Gate<'_> {
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

impl Store {
    /// Holds the gate beside other users.
    pub(super) fn enter(&self) -> Result<Gate<'_>, StoreError> {
        let file = self.gate_file().lock().unwrap_or_else(PoisonError::into_inner);
        file.lock_shared().map_err(StoreError::io("lock", &self.root().join("gate")))?;
        Ok(Gate(file))
    }

    /// Holds the gate alone.
    pub(super) fn close_gate(&self) -> Result<Gate<'_>, StoreError> {
        let file = self.gate_file().lock().unwrap_or_else(PoisonError::into_inner);
        file.lock().map_err(StoreError::io("lock", &self.root().join("gate")))?;
        Ok(Gate(file))
    }

    /// Marks a file or directory of the store as used by this process; `false` where there is none.
    /// After `true` it stays until this process has ended. What cannot be marked because the disk fails
    /// might go, and counts as not there.
    pub(super) fn use_now(&self, path: &Path) -> bool {
        let Ok(used) = fs::symlink_metadata(path).and_then(|meta| meta.modified()) else { return false };
        // Made or marked since this process began: collection leaves it already.
        if used >= self.fresh_since() {
            return true;
        }
        let Ok(_gate) = self.enter() else { return false };
        match rustix::fs::utimensat(CWD, path, &used_now(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(()) => true,
            // Who may not set the time of a file cannot remove it either.
            Err(Errno::ACCESS | Errno::PERM | Errno::ROFS) => path.exists(),
            Err(_) => false,
        }
    }
}

/// This moment, by the clock that processes note their beginning by: the kernel's own `UTIME_NOW` is up to a tick
/// behind it.
fn used_now() -> Timestamps {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: now.subsec_nanos().into() },
    }
}
