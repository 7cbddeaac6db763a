//! Why steps fail.

use crate::layer;
use crate::remote::RemoteError;
use crate::snapshot::SnapshotError;
use crate::steps::add::AddError;
use crate::steps::copy::CopyError;
use crate::steps::identity::IdentityError;
use crate::steps::remote::RemoteFilesError;
use crate::steps::run::RunError;
use crate::steps::workdir::WorkdirError;
use crate::store::StoreError;

use super::witness::Miss;

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// `RUN`.
    #[error(transparent)]
    Run(#[from] RunError),
    /// `COPY`, `ADD`.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// A remote source of `ADD`.
    #[error(transparent)]
    Remote(RemoteError),
    /// An archive of `ADD`.
    #[error(transparent)]
    Add(#[from] AddError),
    /// `WORKDIR`.
    #[error(transparent)]
    Workdir(#[from] WorkdirError),
    /// An unknown user or group.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Layers.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// A name that an image cannot have.
    #[error(
        "the image cannot have a file named {0}: names that begin with .wh. mark deletions in image layers"
    )]
    Reserved(String),
    /// A base image.
    #[error("{0}")]
    Base(String),
    /// The system allows no more threads.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
    /// Stopped.
    #[error("canceled")]
    Canceled,
    /// It has no result yet, and nothing is executed.
    #[error("it would be executed")]
    Missed(Miss),
    /// What lies at this address would have to be downloaded, and nothing is.
    #[error("{0} would be downloaded")]
    NotDownloaded(String),
}

impl StepError {
    /// Whether it only says that something else stopped the step.
    pub fn is_canceled(&self) -> bool {
        match self {
            StepError::Canceled | StepError::Run(RunError::Canceled) => true,
            StepError::Snapshot(error) | StepError::Run(RunError::Snapshot(error)) => error.is_canceled(),
            StepError::Add(error) => error.is_canceled(),
            _ => false,
        }
    }

    /// Whether the disk of the store is full.
    pub fn is_no_space(&self) -> bool {
        match self {
            StepError::Run(RunError::FullDisk { .. }) => true,
            // Namespaces and mounts have limits that the system reports as it does a full disk.
            StepError::Run(RunError::Sandbox(_)) => false,
            _ => {
                let mut causes =
                    std::iter::successors(Some(self as &dyn std::error::Error), |error| error.source());
                causes.any(|cause| cause.downcast_ref().is_some_and(crate::fs::is_full))
            }
        }
    }
}

impl From<RemoteError> for StepError {
    fn from(error: RemoteError) -> Self {
        if error.is_cancelled() { StepError::Canceled } else { StepError::Remote(error) }
    }
}

impl From<RemoteFilesError> for StepError {
    fn from(error: RemoteFilesError) -> Self {
        match error {
            RemoteFilesError::Remote(error) => error.into(),
            RemoteFilesError::Copy(error) => error.into(),
        }
    }
}

impl From<StoreError> for StepError {
    fn from(error: StoreError) -> Self {
        StepError::Snapshot(error.into())
    }
}

impl From<layer::LayerError> for StepError {
    fn from(error: layer::LayerError) -> Self {
        StepError::Snapshot(error.into())
    }
}
