//! What goes wrong with mounts.

use std::io;

use crate::layer::LayerError;
use crate::snapshot::{ResolveError, SnapshotError};
use crate::store::StoreError;

use super::super::copy::CopyError;

/// Why a mount is not available.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// A required secret was not given.
    #[error("secret {0}: not found; pass it with --secret id={0},src=FILE or --secret id={0},env=VARIABLE")]
    NoSecret(String),
    /// A required agent was not given.
    #[error("no SSH agent {0:?} is forwarded; pass it with --ssh {0}")]
    NoSsh(String),
    /// No file can belong to the user or group that a mount names.
    #[error(
        "--mount for {target}: {what}={id} is not among the IDs that RUN has here, {mapped}; larger ranges in \
         /etc/subuid and /etc/subgid, or for the user namespace in which rbuild was started, have more"
    )]
    Unmapped {
        /// Where it is mounted.
        target: String,
        /// `uid` or `gid`.
        what: &'static str,
        /// The ID.
        id: u32,
        /// The IDs there are, as text.
        mapped: String,
    },
    /// Forwarding an agent failed.
    #[error("cannot forward the SSH agent {id:?}: {source}")]
    Ssh {
        /// Its name.
        id: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The target's path cannot be followed.
    #[error("invalid mount target {target:?}: {source}")]
    Target {
        /// As written, absolute.
        target: String,
        /// Why.
        source: ResolveError,
    },
    /// A link where a file or directory was a moment before: mounting it would mount what it names on
    /// this machine.
    #[error("mount source {0:?} is a symbolic link by now: it was replaced while the build ran")]
    Replaced(String),
    /// All private copies of a cache are in use.
    #[error("too many steps use the private cache {0:?} at once")]
    TooManyPrivate(String),
    /// The build was stopped while waiting.
    #[error("canceled")]
    Canceled,
    /// The files of the source.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// Layers or store.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
}

impl From<StoreError> for MountError {
    fn from(error: StoreError) -> Self {
        MountError::Snapshot(error.into())
    }
}

impl From<LayerError> for MountError {
    fn from(error: LayerError) -> Self {
        MountError::Snapshot(error.into())
    }
}
