//! Why a root file system could not be had.

use std::sync::Arc;

use crate::digest::DiffId;
use crate::layer::LayerError;
use crate::store::StoreError;

/// Why a root file system could not be had.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SnapshotError {
    /// A layer could not be written or read.
    #[error(transparent)]
    Layer(Arc<LayerError>),
    /// The store failed.
    #[error(transparent)]
    Store(Arc<StoreError>),
    /// The store lacks a blob it should have.
    #[error("the store has no content for layer {0}: run the build with --no-cache, or check the store")]
    Missing(DiffId),
    /// A layer that lies elsewhere could not be fetched.
    #[error("{0}")]
    Fetch(String),
    /// A layer that lies elsewhere is needed, and this process only looks.
    #[error("a layer would have to be fetched")]
    NotFetched,
    /// The unpacked bytes are not those the image promised.
    #[error("layer content does not match the image: expected diff ID {expected}, got {actual}")]
    WrongDiffId {
        /// As the image's config says.
        expected: DiffId,
        /// As unpacked.
        actual: DiffId,
    },
}

impl SnapshotError {
    /// Whether the file system is full.
    pub fn is_no_space(&self) -> bool {
        match self {
            SnapshotError::Layer(error) => error.is_no_space(),
            SnapshotError::Store(error) => error.is_no_space(),
            _ => false,
        }
    }
}

impl SnapshotError {
    /// Whether one file could not be handled, and not for want of space.
    pub fn is_of_a_file(&self) -> bool {
        let io = matches!(self, SnapshotError::Layer(error) if matches!(**error, LayerError::Io { .. }));
        io && !self.is_no_space()
    }

    /// Whether it only says that something else stopped the work.
    pub fn is_canceled(&self) -> bool {
        matches!(self, SnapshotError::Layer(error) if matches!(**error, LayerError::Canceled))
    }
}

impl From<LayerError> for SnapshotError {
    fn from(error: LayerError) -> Self {
        SnapshotError::Layer(Arc::new(error))
    }
}

impl From<StoreError> for SnapshotError {
    fn from(error: StoreError) -> Self {
        SnapshotError::Store(Arc::new(error))
    }
}
