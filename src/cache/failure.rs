//! Why a cache is of no use.

use std::path::PathBuf;

use crate::image::ReadError;
use crate::objects::ObjectError;
use crate::registry::RegistryError;
use crate::store::StoreError;

/// Why a cache could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// Nothing is there yet.
    #[error("{place} does not exist yet")]
    NotFound {
        /// The place.
        place: String,
    },
    /// What is there cannot be understood.
    #[error("{place} is malformed: {reason}")]
    Malformed {
        /// The document.
        place: String,
        /// What is wrong.
        reason: String,
    },
    /// A document of another version of the format.
    #[error("{place} has version {version} of the cache format, and this rbuild reads version 1")]
    Version {
        /// The document.
        place: String,
        /// Its version.
        version: u32,
    },
    /// Something else than a cache of rbuild.
    #[error("{place} is {what}")]
    Alien {
        /// The place.
        place: String,
        /// What is there instead.
        what: String,
    },
    /// The registry refused or could not be reached.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The object store refused, could not be reached, or gave something wrong.
    #[error("{0}")]
    Objects(#[source] ObjectError),
    /// A file could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// The verb.
        action: &'static str,
        /// The path.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A layout could not be read.
    #[error(transparent)]
    Layout(#[from] ReadError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl CacheError {
    pub(super) fn io<'a>(
        action: &'static str,
        path: &'a std::path::Path,
    ) -> impl FnOnce(std::io::Error) -> CacheError + 'a {
        move |source| CacheError::Io { action, path: path.to_owned(), source }
    }

    /// Whether there simply is nothing yet.
    pub fn is_not_found(&self) -> bool {
        matches!(self, CacheError::NotFound { .. })
    }

    /// Whether a blob is not there, or is not what its digest says: the next look will find the same.
    pub fn is_damage(&self) -> bool {
        match self {
            CacheError::Registry(error) => {
                error.is_not_found()
                    || matches!(error, RegistryError::Mismatch { .. } | RegistryError::Size { .. })
            }
            CacheError::Objects(error) => matches!(error, ObjectError::Missing(_) | ObjectError::Damaged(_)),
            CacheError::Layout(error) => {
                matches!(error, ReadError::Mismatch { .. } | ReadError::MissingBlob { .. })
            }
            _ => false,
        }
    }

    /// Whether the work was stopped.
    pub fn is_cancelled(&self) -> bool {
        matches!(self, CacheError::Registry(error) if error.is_cancelled())
    }
}
