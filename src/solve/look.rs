//! Looking a whole plan up, without executing anything.
//!
//! Each step is taken as far as its look-up, by the code that builds take: a miss is an error there
//! ([`StepError::Missed`]), so nothing behind it is reached. The store must only look
//! ([`Store::look_only`](crate::store::Store::look_only)): notes are dropped, and layers that lie elsewhere are not
//! fetched. What stands on a step without a result has no key yet, and will be executed as well, unless its key does
//! not depend on what is below it.

use std::sync::{Condvar, Mutex};

use crate::event::VertexId;
use crate::plan::{Plan, Step, StepId, StepKind};
use crate::snapshot::Chain;

use super::background::{Background, Slots};
use super::error::StepError;
use super::witness::Miss;
use super::{ResultKind, Run, Slot, SolveError, Solver, StepState, answers};

/// What would become of a step.
#[derive(Clone, Debug)]
pub enum Looked {
    /// Its layers, or the layers of a base, are known.
    Known(StepState),
    /// It has a result, but what lies below it has none yet.
    KnownAlone,
    /// It would be executed: why it has no result.
    Missed(Miss),
    /// It would be executed, or it cannot be known without more than looking.
    Unknown(Unknown),
}

/// Why nothing can be said of a step's result.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Unknown {
    /// It needs what another step makes, which has no result.
    After(StepId),
    /// It needs files that would have to be fetched first: those of another step's layers, or of its own base.
    Files,
    /// It needs what lies at an address.
    Download(String),
}

impl Looked {
    /// Whether the step has a result.
    pub fn is_known(&self) -> bool {
        matches!(self, Looked::Known(_) | Looked::KnownAlone)
    }
}

impl Solver {
    /// What would become of each step. Fails where a build is sure to fail: a file that is copied does not exist.
    pub fn look(&self, plan: &Plan) -> Result<Vec<Looked>, SolveError> {
        let slot = |_: &Step| Slot { state: Mutex::default(), changed: Condvar::new() };
        let run = Run {
            solver: self,
            plan,
            slots: plan.steps.iter().map(slot).collect(),
            vertexes: Vec::new(),
            failure: Mutex::default(),
            jobs: Slots::new(1),
            background: Background::start(1),
            kept: Mutex::new(answers::Kept::default()),
            exported: vec![false; plan.steps.len()],
            opened: vec![false; plan.steps.len()],
        };
        debug_assert!(run.only_looks() && self.result == ResultKind::Files);
        plan.steps.iter().map(|step| run.look(step)).collect()
    }
}

impl Run<'_> {
    fn look(&self, step: &Step) -> Result<Looked, SolveError> {
        let known = |id: &StepId| self.wait(*id).is_some();
        let links = matches!(&step.kind, StepKind::Copy(copy) if copy.link);
        let missing_source = step.sources().find(|id| !known(id));
        let missing_parent = step.parent.filter(|id| !known(id));
        let looked = match (missing_source, missing_parent) {
            _ if self.solver.cancel.is_cancelled() => Err(StepError::Canceled),
            (Some(id), _) => Ok(Looked::Unknown(Unknown::After(id))),
            (None, Some(id)) if !links => Ok(Looked::Unknown(Unknown::After(id))),
            (None, missing) => self.look_at(step).map(|looked| match (looked, missing) {
                (Looked::Known(_), Some(_)) => Looked::KnownAlone,
                (looked, _) => looked,
            }),
        };
        let looked = looked.map_err(|error| {
            let place = Some((step.source.clone(), step.span));
            SolveError { step: step.name.clone(), place, error }
        })?;
        let state = if let Looked::Known(state) = &looked { Ok(state.clone()) } else { Err(()) };
        self.publish(step.id, state);
        Ok(looked)
    }

    fn look_at(&self, step: &Step) -> Result<Looked, StepError> {
        let store = self.solver.snapshots.store();
        store.take_refused();
        match self.do_step(step, VertexId(0)) {
            Ok(state) => Ok(Looked::Known(state)),
            Err(StepError::Missed(miss)) => Ok(Looked::Missed(miss)),
            Err(StepError::NotDownloaded(url)) => Ok(Looked::Unknown(Unknown::Download(url))),
            Err(_) if store.take_refused() => Ok(Looked::Unknown(Unknown::Files)),
            Err(error) => Err(error),
        }
    }
}

impl Looked {
    /// Its layers, where all of them are known.
    pub fn chain(&self) -> Option<&Chain> {
        match self {
            Looked::Known(state) => Some(&state.chain),
            _ => None,
        }
    }
}
