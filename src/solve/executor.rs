//! Who runs a `RUN`: a function from layers and a description to a layer, whatever machine does it.

use std::sync::Arc;

use crate::plan::RunStep;
use crate::sandbox::Sandbox;
use crate::snapshot::{Chain, Snapshots};
use crate::steps::run::{self, Ran, Report, RunError, RunSettings};

/// Runs one step as a function of its inputs. Nothing in the description may assume that the
/// caller's paths or clock are those of the machine that executes.
pub trait Executor: Send + Sync {
    /// Runs `step` on the layers of `parent`, reporting output to `report`.
    fn run(
        &self,
        step: &RunStep,
        parent: &Chain,
        settings: &RunSettings,
        report: &Report,
    ) -> Result<Ran, RunError>;
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
        parent: &Chain,
        settings: &RunSettings,
        report: &Report,
    ) -> Result<Ran, RunError> {
        run::execute(step, parent, &self.snapshots, &*self.sandbox, settings, report)
    }
}
