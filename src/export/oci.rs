//! OCI layouts: `type=oci`.

use std::path::Path;

use crate::cancel::Cancel;
use crate::store::Store;

use super::dest::Dest;
use super::error::ExportError;
use super::layout::{ExportImage, Layout};

/// Writes an OCI layout as a tar.
pub fn write_archive(
    store: &Store,
    images: &[ExportImage],
    dest: &Dest,
    cancel: &Cancel,
) -> Result<(), ExportError> {
    Layout::collect(store, images)?.write_archive(store, dest, cancel)
}

/// Writes an OCI layout as a directory. An existing layout keeps its other images; names that are
/// written again move to the new image.
pub fn write_directory(
    store: &Store,
    images: &[ExportImage],
    dest: &Path,
    cancel: &Cancel,
) -> Result<(), ExportError> {
    Layout::collect(store, images)?.write_directory(store, dest, cancel)
}
