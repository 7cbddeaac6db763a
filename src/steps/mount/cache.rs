//! Cache mounts: which directory, what it holds at first, who may use it at once.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::context::FileSource;
use crate::digest::{Digest, Hasher};
use crate::layer::{LayerError, OnDiskIds};
use crate::plan::{RunMount, RunMountKind, Sharing};
use crate::store::{CacheDir, SnapshotKind};

use super::super::copy;
use super::super::tree_source::TreeSource;
use super::files::copy_into;
use super::{Maker, MountError, MountInput};

/// So many directories one private cache may have at the same time.
const MAX_PRIVATE: usize = 1000;
/// Pause between two looks at a locked cache.
const LOCK_PAUSE: Duration = Duration::from_millis(20);

impl Maker<'_> {
    pub(super) fn cache(&self, mount: &RunMount, input: &MountInput) -> Result<CacheDir, MountError> {
        let RunMountKind::Cache { id, namespace, sharing, mode, uid, gid, source, .. } = &mount.kind else {
            return Err(MountError::TooManyPrivate(String::new()));
        };
        let kind = self.snapshots.ids().kind();
        let key = cache_key(namespace, id, source, input, (*mode, *uid, *gid), &kind);
        let store = self.snapshots.store();
        let mut number = 0;
        loop {
            if self.cancel.is_cancelled() {
                return Err(MountError::Canceled);
            }
            // What is moved to where a step sees it is nowhere else meanwhile.
            let exclusive = *sharing != Sharing::Shared || self.sandbox.needs_files();
            let fill = |dir: &Path| self.seed(dir, input, (*mode, *uid, *gid));
            if let Some(dir) = store.cache_dir(&key, number, exclusive, fill)? {
                return Ok(dir);
            }
            match sharing {
                Sharing::Private if number + 1 >= MAX_PRIVATE => {
                    return Err(MountError::TooManyPrivate(id.clone()));
                }
                Sharing::Private => number += 1,
                Sharing::Shared | Sharing::Locked => std::thread::sleep(LOCK_PAUSE),
            }
        }
    }

    /// The first content of a cache.
    fn seed(
        &self,
        dir: &Path,
        input: &MountInput,
        (mode, uid, gid): (Option<u32>, Option<u32>, Option<u32>),
    ) -> Result<(), MountError> {
        use std::os::unix::fs::PermissionsExt as _;
        let failed = |source| LayerError::io("prepare", dir, source);
        let top = match input {
            MountInput::Nothing => None,
            MountInput::Files { selected, .. } => {
                copy_into(selected, dir, self.snapshots.ids(), false)?;
                None
            }
            MountInput::Layers { chain, place, .. } => {
                let tree = self.snapshots.complete_tree(chain)?;
                let source: Arc<dyn FileSource> =
                    Arc::new(TreeSource::new(self.snapshots.clone(), chain.clone(), tree));
                let path = String::from_utf8_lossy(&place.path).into_owned();
                let selected = copy::select_path(&path, "the cache's source", source, None)?;
                copy_into(&selected, dir, self.snapshots.ids(), true)?;
                (!place.path.is_empty()).then_some((place.mode, place.uid, place.gid))
            }
        };
        let (top_mode, top_uid, top_gid) = top.unwrap_or((0o755, 0, 0));
        let owner = (uid.unwrap_or(top_uid), gid.unwrap_or(top_gid));
        if self.snapshots.ids() == OnDiskIds::Keep && owner != (0, 0) {
            std::os::unix::fs::chown(dir, Some(owner.0), Some(owner.1)).map_err(failed)?;
        }
        let mode = std::fs::Permissions::from_mode(mode.unwrap_or(top_mode) & 0o7777);
        std::fs::set_permissions(dir, mode).map_err(failed)?;
        Ok(())
    }
}

/// A cache is one for each name and each way it was begun, as in BuildKit, and for each way in which owners
/// are kept on disk.
fn cache_key(
    namespace: &str,
    id: &str,
    source: &str,
    input: &MountInput,
    begun: (Option<u32>, Option<u32>, Option<u32>),
    kind: &SnapshotKind,
) -> Digest {
    let mut hasher = Hasher::new();
    for field in ["cache-mount", namespace, id, source] {
        hasher.field(field.as_bytes());
    }
    match input {
        MountInput::Nothing => {}
        MountInput::Files { digest, .. } | MountInput::Layers { digest, .. } => hasher.field(digest.raw()),
    }
    hasher.field(format!("{begun:?}").as_bytes());
    if *kind != SnapshotKind::plain() {
        hasher.field(kind.as_str().as_bytes());
    }
    hasher.finish()
}
