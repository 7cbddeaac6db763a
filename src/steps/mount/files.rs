//! Bind mounts: files of a context in place or as a copy, files of stages and images as their layers.

use std::path::Path;
use std::sync::{Arc, PoisonError};

use crate::context::{FileInfo, FileKind};
use crate::digest::Digest;
use crate::layer::{self, LayerError, OnDiskIds};
use crate::sandbox::MountKind;
use crate::snapshot::{PlainRoot, Tree};
use crate::store::TempDir;

use super::super::copy::{self, CopyError, Selected};
use super::super::place::Destination;
use super::{Held, Maker, MountError, MountInput, Mounted};

impl Maker<'_> {
    pub(super) fn bind(
        &self,
        number: usize,
        input: &MountInput,
        writable: bool,
        mounted: &mut Mounted,
    ) -> Result<MountKind, MountError> {
        match input {
            MountInput::Nothing => {
                let source = self.make_dir(&format!("nothing{number}"))?;
                Ok(MountKind::Bind { source, inside: Vec::new(), readonly: !writable })
            }
            MountInput::Files { selected, digest } => self.files(number, selected, digest, writable, mounted),
            MountInput::Layers { chain, place, .. } if self.no_overlay => {
                let plain = PlainRoot::make(self.snapshots, chain, &[])?;
                let source = plain.path().join(os_path(&place.path));
                mounted.held.push(Held::Plain(plain));
                Ok(MountKind::Bind { source, inside: Vec::new(), readonly: !writable })
            }
            MountInput::Layers { chain, place, .. } => Ok(MountKind::Overlay {
                lowers: self.snapshots.lowers(chain)?,
                upper: self.upper(number, writable)?,
                inside: place.path.clone(),
                is_dir: place.is_dir(),
            }),
        }
    }

    /// In place where the directory shows just what the step may see; else a copy, which steps of one
    /// build share.
    fn files(
        &self,
        number: usize,
        selected: &Selected,
        digest: &Digest,
        writable: bool,
        mounted: &mut Mounted,
    ) -> Result<MountKind, MountError> {
        let Some(selection) = selected.selections.first() else {
            return self.bind(number, &MountInput::Nothing, writable, mounted);
        };
        let seen_as_they_are = selection.files.iter().all(|file| (file.uid, file.gid) == (0, 0));
        let whole = selected.source.whole_directory().filter(|_| seen_as_they_are && selection.is_dir);
        if let Some(root) = whole
            && !(writable && self.no_overlay)
            && self.sandbox.shows_owners_of(root, self.scratch)
        {
            // Somebody may put a link in the place of a directory until this is mounted.
            let (source, inside) = (root.to_owned(), selected.place.clone());
            return Ok(if writable {
                let upper = self.upper(number, true)?;
                MountKind::Overlay { lowers: vec![source], upper, inside, is_dir: true }
            } else {
                MountKind::Bind { source, inside, readonly: true }
            });
        }
        let is_link = |file: &FileInfo| matches!(file.kind, FileKind::Symlink { .. });
        if !selection.is_dir && selection.files.iter().any(is_link) {
            return Err(MountError::Replaced(selected.pattern.clone()));
        }
        let copy = self.copied(selected, digest, writable)?;
        let files = copy.path().join("fs");
        let source = if selection.is_dir { files } else { files.join(os_path(&selection.name)) };
        mounted.held.push(Held::Copy(copy));
        Ok(MountKind::Bind { source, inside: Vec::new(), readonly: !writable })
    }

    fn copied(
        &self,
        selected: &Selected,
        digest: &Digest,
        writable: bool,
    ) -> Result<Arc<TempDir>, MountError> {
        let top = selected.source.stat(&selected.place).map_err(CopyError::from)?;
        let mode = top.filter(FileInfo::is_dir).map(|top| top.mode);
        if writable {
            let dir = self.snapshots.store().temp_dir()?;
            materialize(selected, mode, dir.path(), self.snapshots.ids())?;
            return Ok(Arc::new(dir));
        }
        let mut copies = self.settings.copies.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(copy) = copies.get(&(*digest, mode)) {
            return Ok(copy.clone());
        }
        let dir = self.snapshots.store().temp_dir()?;
        materialize(selected, mode, dir.path(), self.snapshots.ids())?;
        let dir = Arc::new(dir);
        copies.insert((*digest, mode), dir.clone());
        Ok(dir)
    }
}

/// Copies what was selected into `dir/fs`, which gets the mode of the directory that was selected.
fn materialize(selected: &Selected, mode: Option<u32>, dir: &Path, ids: OnDiskIds) -> Result<(), MountError> {
    use std::os::unix::fs::PermissionsExt as _;
    let target = dir.join("fs");
    let failed = |source| LayerError::io("create", &target, source);
    std::fs::create_dir(&target).map_err(failed)?;
    copy_into(selected, &target, ids, false)?;
    let mode = mode.map(std::fs::Permissions::from_mode);
    Ok(mode.map_or(Ok(()), |mode| std::fs::set_permissions(&target, mode)).map_err(failed)?)
}

pub(super) fn copy_into(
    selected: &Selected,
    dir: &Path,
    ids: OnDiskIds,
    keep_owner: bool,
) -> Result<(), MountError> {
    let dest = plain_destination(keep_owner);
    let layer = copy::layer(&Tree::empty(), &dest, std::slice::from_ref(selected), &[], &[], None)?;
    layer::write_files(&layer.entries, &layer.content, dir, ids)?;
    Ok(())
}

/// The root of an empty file system.
pub fn plain_destination(keep_owner: bool) -> Destination {
    Destination {
        path: b"/".to_vec(),
        directory: true,
        owner: None,
        keep_owner,
        chmod: None,
        made_up_time: 0,
    }
}

fn os_path(path: &[u8]) -> &Path {
    use std::os::unix::ffi::OsStrExt as _;
    Path::new(std::ffi::OsStr::from_bytes(path))
}
