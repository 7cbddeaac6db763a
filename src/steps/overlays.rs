//! Whether steps run on overlays or on copies of their root file system: for this machine and the store to
//! say, not for a step.

use std::sync::{Mutex, PoisonError};

use crate::fs::{file_system_name, has_user_attributes};
use crate::layer::{LayerError, OnDiskIds};
use crate::sandbox::{SandboxError, overlay_works};
use crate::snapshot::Snapshots;

use super::run::RunError;

/// What is known of overlays in the store of a build.
#[derive(Debug, Default)]
pub struct Overlays {
    /// `None` until the first step needs to know.
    work: Mutex<Option<bool>>,
}

impl Overlays {
    /// Whether a step may try an overlay. The first one that asks tries extended attributes in the store,
    /// without which overlayfs mounts and then fails at deletions, and without which owners cannot be written
    /// down. `warn` is called once.
    pub fn work(&self, snapshots: &Snapshots, warn: &dyn Fn(String)) -> Result<bool, RunError> {
        let mut work = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(work) = *work {
            return Ok(work);
        }
        let dir = snapshots.store().temp_dir()?;
        let tried = has_user_attributes(dir.path());
        let has =
            tried.map_err(|source| LayerError::io("set an extended attribute of", dir.path(), source))?;
        if !has {
            let place = snapshots.store().root();
            let lacks = format!(
                "the store {} is on a file system without extended attributes of users ({})",
                place.display(),
                file_system_name(place)
            );
            if snapshots.ids() == OnDiskIds::AllToSelf {
                return Err(RunError::Store(format!(
                    "{lacks}, and a user with one ID has no other place where owners of files can be written down; choose \
                     a store on another one with --root (ext4, xfs, btrfs, or tmpfs since Linux 6.6), or add ranges to \
                     /etc/subuid and /etc/subgid"
                )));
            }
            warn(format!(
                "every RUN copies its root file system: {lacks}, which overlayfs needs; --root chooses another place"
            ));
        }
        *work = Some(has);
        Ok(has)
    }

    /// Notes that an overlay could not be mounted. Only where none can be mounted at all, the steps that
    /// follow need not try: one step can have too many layers.
    pub fn failed(
        &self,
        snapshots: &Snapshots,
        error: &SandboxError,
        warn: &dyn Fn(String),
    ) -> Result<(), RunError> {
        let mut work = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        if *work == Some(false) {
            return Ok(());
        }
        let dir = snapshots.store().temp_dir()?;
        if overlay_works(dir.path(), snapshots.ids() == OnDiskIds::AllToSelf).is_ok() {
            warn(format!("this RUN copies its root file system: {error}"));
        } else {
            *work = Some(false);
            warn(format!("every RUN copies its root file system: {error}"));
        }
        Ok(())
    }
}
