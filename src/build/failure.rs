//! What a command could not do, in a form that `cli/` renders once.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::dockerfile::{Source, Span};
use crate::fs::{disk_space, names_full_disk, shown_size};
use crate::remote::{Forbidden, ForbiddenBy};
use crate::store::StoreError;

/// Kinds of failures; each has an exit code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FailureKind {
    /// A step, base or output failed.
    Build,
    /// The command line.
    Usage,
    /// The Dockerfile.
    Dockerfile,
    /// The build context.
    Context,
    /// A base image.
    Base,
    /// A base image that may exist: nobody answered, or not with a final word on it.
    OutOfReach,
    /// An output.
    Output,
    /// The store.
    Store,
    /// Something that is not there yet.
    Unsupported,
    /// The sandbox cannot be made on this machine.
    Sandbox,
    /// The lock: missing, broken, of another Dockerfile, or without what the build needs.
    Lock,
    /// A layer ships a secret.
    Secrets,
    /// Ctrl-C.
    Interrupted,
}

/// One failure.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Its kind.
    pub kind: FailureKind,
    /// What failed and why.
    pub message: String,
    /// Where it is written.
    pub place: Option<(Arc<Source>, Span)>,
    /// What to do about it.
    pub help: Option<String>,
    /// The step it happened in.
    pub step: Option<String>,
    /// Last lines of output of the step.
    pub tail: Vec<String>,
    /// A file with all of that output, where it is more.
    pub log: Option<PathBuf>,
}

impl Failure {
    /// A failure without a place.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Failure {
            kind,
            message: message.into(),
            place: None,
            help: None,
            step: None,
            tail: Vec::new(),
            log: None,
        }
    }

    /// A source that the rules of the build keep from being fetched. `kind` is that of a failure to fetch it.
    pub fn forbidden(forbidden: Forbidden, kind: FailureKind) -> Self {
        let Forbidden { by, message, help } = forbidden;
        let kind = match by {
            ForbiddenBy::Lock => FailureKind::Lock,
            ForbiddenBy::Policy => kind,
            ForbiddenBy::Offline if kind == FailureKind::Base => FailureKind::OutOfReach,
            ForbiddenBy::Offline => kind,
        };
        Failure { help, ..Failure::new(kind, message) }
    }

    /// The same with advice.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// The same at a place.
    pub fn at(mut self, source: &Arc<Source>, span: Span) -> Self {
        self.place = Some((source.clone(), span));
        self
    }

    /// The same, with advice if a full disk is the cause. Every command writes to the store at `root`, so a
    /// message with the store's path is a failure of the store, whatever the command was about.
    pub fn explain_full_disk(mut self, root: &Path) -> Self {
        // The message of a step contains words of the Dockerfile; the step's failure says what was full.
        if self.kind == FailureKind::Build || !names_full_disk(&self.message) {
            return self;
        }
        let root = std::fs::canonicalize(root).unwrap_or_else(|_| root.to_owned());
        if self.message.contains(&format!("{}/", root.display())) {
            self.kind = FailureKind::Store;
        }
        match self.kind {
            FailureKind::Output => {
                self.help("the disk is full: free some space there, or choose another place for the output")
            }
            // Namespaces and mounts have limits that the system reports in the same words.
            FailureKind::Sandbox => self,
            _ => self.help(full_store_help(&root)),
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// What to do about a full disk.
pub(super) fn full_store_help(root: &Path) -> String {
    let free = disk_space(root).map(|(_, free)| format!(" ({} free now)", shown_size(free)));
    format!(
        "the disk of the store {} ran full{}: free some space (`rbuild prune -a` may help), or choose another \
         place with --root",
        root.display(),
        free.unwrap_or_default()
    )
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let failure = Failure::new(FailureKind::Store, error.to_string());
        match &error {
            StoreError::Foreign { path, owner, .. } => failure.help(format!(
                "run rbuild as {owner}, or name another directory with --root; in a volume that belongs to somebody \
                 else, one that rbuild makes: --root {}",
                path.join("rbuild").display()
            )),
            error if error.is_not_allowed() => {
                failure.help("choose a place that you may write to with --root or RBUILD_ROOT")
            }
            StoreError::Open { .. } => failure.help("name a directory of another file system with --root"),
            _ => failure,
        }
    }
}

impl From<crate::snapshot::SnapshotError> for Failure {
    fn from(error: crate::snapshot::SnapshotError) -> Self {
        if let crate::snapshot::SnapshotError::Fetch(message) = &error {
            return Failure::new(FailureKind::Base, message.clone());
        }
        if error.is_canceled() {
            return Failure::new(FailureKind::Interrupted, error.to_string());
        }
        Failure::new(FailureKind::Store, error.to_string())
    }
}

impl From<crate::layer::LayerError> for Failure {
    fn from(error: crate::layer::LayerError) -> Self {
        Failure::new(FailureKind::Store, error.to_string())
    }
}

impl From<crate::export::ExportError> for Failure {
    fn from(error: crate::export::ExportError) -> Self {
        let kind = match error {
            crate::export::ExportError::Canceled => FailureKind::Interrupted,
            _ => FailureKind::Output,
        };
        Failure::new(kind, error.to_string())
    }
}

impl From<crate::image::ReadError> for Failure {
    fn from(error: crate::image::ReadError) -> Self {
        if let crate::image::ReadError::Store(error) = error {
            return error.into();
        }
        Failure::new(FailureKind::Base, error.to_string())
    }
}

impl From<crate::plan::PlanError> for Failure {
    fn from(error: crate::plan::PlanError) -> Self {
        let failure = Failure::new(FailureKind::Dockerfile, error.message);
        Failure { place: error.place, help: error.help, ..failure }
    }
}

impl From<crate::context::ContextError> for Failure {
    fn from(error: crate::context::ContextError) -> Self {
        let kind = match error {
            crate::context::ContextError::Canceled => FailureKind::Interrupted,
            _ => FailureKind::Context,
        };
        Failure::new(kind, error.to_string())
    }
}
