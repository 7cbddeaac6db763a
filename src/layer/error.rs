//! What goes wrong with layers.

use std::io;
use std::path::{Path, PathBuf};

use crate::digest::DiffId;
use crate::fs::is_full;
use crate::store::StoreError;

/// A layer that cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// A file of the host cannot be handled.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// The verb.
        action: &'static str,
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The stream of a layer cannot be read or written.
    #[error("layer stream: {0}")]
    Stream(#[source] io::Error),
    /// A file's content was not what its description said.
    #[error("{path:?} changed while it was read ({detail}); run the build again when nothing writes to it")]
    Changed {
        /// The path in the layer.
        path: String,
        /// What differed.
        detail: String,
    },
    /// The archive breaks a rule or a limit.
    #[error("invalid layer archive: {0}")]
    Invalid(String),
    /// The files of a layer that has no blob are not those it was made of.
    #[error(
        "the files of layer {layer} in {} are damaged ({why}): run the build with --no-cache, or \
         `rbuild fsck --repair`",
        dir.display()
    )]
    Damaged {
        /// The layer.
        layer: DiffId,
        /// Where they lie.
        dir: PathBuf,
        /// What differs.
        why: String,
    },
    /// Stopped.
    #[error("canceled")]
    Canceled,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl LayerError {
    /// Wraps an I/O error with what was done to which path.
    pub fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        LayerError::Io { action, path: path.to_owned(), source }
    }

    /// The same for a path inside an image.
    pub(super) fn inside(action: &'static str, path: &[u8], source: io::Error) -> Self {
        Self::io(action, Path::new(&*String::from_utf8_lossy(path)), source)
    }

    /// A file that is not what it was.
    pub(super) fn changed(path: &[u8], detail: &str) -> Self {
        LayerError::Changed { path: String::from_utf8_lossy(path).into_owned(), detail: detail.into() }
    }

    /// Of a full disk people have to know which: paths inside an image that was written to `dest` become
    /// paths of the host.
    pub(super) fn full_at(self, dest: &Path) -> Self {
        match self {
            LayerError::Io { action, path, source } if is_full(&source) => {
                LayerError::Io { action, path: dest.join(path), source }
            }
            other => other,
        }
    }

    /// Whether the file system is full.
    pub fn is_no_space(&self) -> bool {
        match self {
            LayerError::Io { source, .. } | LayerError::Stream(source) => is_full(source),
            LayerError::Store(error) => error.is_no_space(),
            _ => false,
        }
    }
}
