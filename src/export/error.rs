//! What can go wrong on the way out.

use std::io;
use std::path::{Path, PathBuf};

use crate::digest::Digest;
use crate::image::{ManifestError, ReadError};
use crate::snapshot::SnapshotError;
use crate::store::StoreError;

/// Why an export failed. Nothing is left under the destination's name then.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The user asked to stop.
    #[error("canceled")]
    Canceled,
    /// An operation on a file failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// The verb.
        action: &'static str,
        /// The path.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The directory that should hold the output does not exist.
    #[error("cannot write {}: the directory {} does not exist; create it first", path.display(), parent.display())]
    NoParent {
        /// The output.
        path: PathBuf,
        /// Its directory.
        parent: PathBuf,
    },
    /// An archive was asked for where a directory is.
    #[error("cannot write the archive {}: it is a directory; give the name of a file", path.display())]
    IsDirectory {
        /// The output.
        path: PathBuf,
    },
    /// A directory was asked for where something else is.
    #[error("cannot write to {}: it is not a directory", path.display())]
    NotADirectory {
        /// The output.
        path: PathBuf,
    },
    /// A layout was asked for in a directory that holds other things.
    #[error("cannot write an OCI layout to {}: it is neither empty nor an OCI layout", path.display())]
    NotALayout {
        /// The output.
        path: PathBuf,
    },
    /// A tar would go to a terminal.
    #[error("refusing to write an archive to the terminal: redirect standard output, or use dest=FILE")]
    Terminal,
    /// A blob of the store changed on disk.
    #[error(
        "the store is damaged: blob {expected} has {actual}; run `rbuild fsck`, then build or pull again"
    )]
    Corrupt {
        /// The blob.
        expected: Digest,
        /// Another digest, or another size.
        actual: String,
    },
    /// A layer could not be compressed.
    #[error(transparent)]
    Layer(SnapshotError),
    /// A blob is not in the store.
    #[error("blob {digest} of the image is not in the store; pull or build the image again")]
    MissingBlob {
        /// The blob.
        digest: Digest,
    },
    /// No such image.
    #[error("no image {name:?} in the store; `rbuild images` lists what there is")]
    NoImage {
        /// The name.
        name: String,
    },
    /// A docker archive can hold one platform only.
    #[error("cannot write {name:?} as a docker archive: {source}")]
    Platform {
        /// The image.
        name: String,
        /// What there is.
        source: Box<ReadError>,
    },
    /// The image's own list of files is not one that can be written.
    #[error("cannot export {path:?}: {reason}")]
    Entry {
        /// The path inside the image.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The content of a file in the image could not be read.
    #[error("cannot read {path:?} of the image: {source}")]
    Content {
        /// The path inside the image.
        path: String,
        /// The system's answer.
        source: io::Error,
    },
    /// A directory stands where the image has a file.
    #[error("cannot write {}: a directory is in the way of the image's file; remove it first", path.display())]
    InTheWay {
        /// The path at the destination.
        path: PathBuf,
    },
    /// A manifest cannot be written.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// An image could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ExportError {
    /// Wraps an I/O error with what was done to which path.
    pub(super) fn io<'a, E: Into<io::Error>>(
        action: &'static str,
        path: &'a Path,
    ) -> impl FnOnce(E) -> ExportError + 'a {
        move |source| ExportError::Io { action, path: path.to_owned(), source: source.into() }
    }

    /// An entry that is not fit for a root file system.
    pub(super) fn entry(path: &[u8], reason: impl Into<String>) -> ExportError {
        ExportError::Entry { path: String::from_utf8_lossy(path).into_owned(), reason: reason.into() }
    }

    /// A file of the image that could not be read.
    pub(super) fn content(path: &[u8], source: io::Error) -> ExportError {
        ExportError::Content { path: String::from_utf8_lossy(path).into_owned(), source }
    }
}

impl From<SnapshotError> for ExportError {
    fn from(error: SnapshotError) -> Self {
        if error.is_canceled() { ExportError::Canceled } else { ExportError::Layer(error) }
    }
}
