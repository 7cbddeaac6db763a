//! Who runs a `RUN`: a function from layers and a description to a layer, whatever machine does it.

use std::sync::Arc;

use crate::plan::RunStep;
use crate::sandbox::{Sandbox, SandboxError};
use crate::snapshot::{Chain, Snapshots};
use crate::steps::mount::MountInput;
use crate::steps::run::{Job, Ran, Report, RunError, RunSettings};

/// Runs one step as a function of its inputs. Nothing in the description may assume that the
/// caller's paths or clock are those of the machine that executes.
pub trait Executor: Send + Sync {
    /// Runs `step` on the layers of `parent`, with what its mounts show, reporting output to `report`.
    fn run(
        &self,
        step: &RunStep,
        inputs: &[MountInput],
        parent: &Chain,
        settings: &RunSettings,
        report: &Report,
    ) -> Result<Ran, RunError>;

    /// Whether anything can be executed. Where nothing can, nobody needs layers as directories.
    fn executes(&self) -> bool {
        true
    }
}

/// Runs steps on this machine.
pub struct LocalExecutor {
    snapshots: Snapshots,
    sandbox: Arc<dyn Sandbox>,
}

impl LocalExecutor {
    /// Runs steps in `sandbox` on root file systems of `snapshots`.
    pub fn new(snapshots: Snapshots, sandbox: Arc<dyn Sandbox>) -> Self {
        LocalExecutor { snapshots, sandbox }
    }
}

impl Executor for LocalExecutor {
    fn run(
        &self,
        step: &RunStep,
        inputs: &[MountInput],
        parent: &Chain,
        settings: &RunSettings,
        report: &Report,
    ) -> Result<Ran, RunError> {
        let (snapshots, sandbox) = (&self.snapshots, &*self.sandbox);
        Job { step, inputs, parent, snapshots, sandbox, settings, report }.execute()
    }
}

/// Stands where this machine can execute nothing. Steps that are in the cache need no executor.
pub struct NoExecutor {
    /// Why not.
    pub reason: String,
}

impl Executor for NoExecutor {
    fn run(
        &self,
        _: &RunStep,
        _: &[MountInput],
        _: &Chain,
        _: &RunSettings,
        _: &Report,
    ) -> Result<Ran, RunError> {
        Err(RunError::Sandbox(SandboxError::Unavailable(self.reason.clone())))
    }

    fn executes(&self) -> bool {
        false
    }
}
