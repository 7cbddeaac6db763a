//! Walks a plan: look a step up, execute it if need be, record what it gave.
//!
//! Stages go side by side, a thread each; the steps of a stage follow one another, and a step that
//! reads another stage waits for it. A layer is written and compressed behind the steps that follow.
//! Promises that the first failure stops the rest, that it is the one reported, and that a record is
//! written only after everything it names is in the store. Must never know flags or terminals.

mod answers;
mod background;
mod error;
mod executor;
mod known;
mod look;
mod record;
mod step;
mod witness;

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::cache::{CacheKey, Lookup, Records};
use crate::cancel::Cancel;
use crate::context::{FileSource, FileStatCache};
use crate::digest::{ChainId, Digest};
use crate::dockerfile::{Source, Span};
use crate::event::{Event, Events, Outcome, VertexId, VertexKind};
use crate::layer::WriteOptions;
use crate::plan::{Plan, Step, StepId, StepKind};
use crate::snapshot::{Chain, SnapshotError, Snapshots};
use crate::steps::remote::Remotes;
use crate::steps::run::RunSettings;

pub use background::{Background, Slots};
pub use error::StepError;
pub use executor::{Executor, LocalExecutor, NoExecutor};
pub use look::{Looked, Unknown};
pub use witness::{Answered, Miss, Question, Witness};

/// Everything a solve works with.
pub struct Solver {
    /// Layers and root file systems.
    pub snapshots: Snapshots,
    /// Results of earlier builds.
    pub records: Records,
    /// Results of steps that the store does not have.
    pub elsewhere: Option<Arc<dyn Lookup>>,
    /// Keeps what an export of the results needs.
    pub keep_keys: bool,
    /// Runs processes.
    pub executor: Arc<dyn Executor>,
    /// Where progress goes.
    pub events: Events,
    /// The switch that stops everything.
    pub cancel: Cancel,
    /// The build context under `""`, named ones under their names.
    pub contexts: BTreeMap<String, Arc<dyn FileSource>>,
    /// Downloads and git repositories.
    pub remotes: Arc<Remotes>,
    /// Remembers content digests of the main context's files.
    pub stat_cache: Option<Arc<FileStatCache>>,
    /// Gives the layers of a base image; called on the stage's thread.
    pub bases: Box<dyn Fn(&Step) -> Result<Chain, StepError> + Send + Sync>,
    /// What every RUN gets.
    pub run: RunSettings,
    /// Time for what the build makes up, seconds since 1970.
    pub now: i64,
    /// Keyed digests of the secrets whose change executes steps again, by id.
    pub deciding_secrets: BTreeMap<String, Digest>,
    /// Files of contexts get that time as well: when they were checked out says nothing about them.
    pub same_times: bool,
    /// How layers are written.
    pub write: WriteOptions,
    /// What becomes of the target.
    pub result: ResultKind,
    /// Steps whose records are not looked up.
    pub no_cache: Box<dyn Fn(&Step) -> bool + Send + Sync>,
    /// Results of steps that were executed before this time, in seconds since 1970, do not count.
    pub oldest: Option<i64>,
    /// Steps at work at once.
    pub jobs: usize,
    /// Is told how each step's look-up ended.
    pub witness: Option<Arc<dyn Witness>>,
}

/// What becomes of the target. Layers of other stages stay as files.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ResultKind {
    /// Its files are wanted, or nothing: its layers stay as files.
    Files,
    /// An image in the store whose layers need not be compressed yet.
    Draft {
        /// Its files are read as well.
        opened: bool,
    },
    /// An image with all its blobs.
    Image,
}

/// What a step left.
#[derive(Clone, Debug)]
pub struct StepState {
    /// The layers after it.
    pub chain: Chain,
    /// Whether it came from a record.
    pub cached: bool,
    /// When the step was executed, in seconds since 1970; cached steps keep their time, so that a
    /// build in which nothing changed gives the same image.
    pub created: i64,
}

/// A failed build: the step and why.
#[derive(Debug)]
pub struct SolveError {
    /// The step's name as shown.
    pub step: String,
    /// Where it stands in which text.
    pub place: Option<(Arc<Source>, Span)>,
    /// What went wrong.
    pub error: StepError,
}

/// The result of a solve.
#[derive(Debug)]
pub struct Solved {
    /// State of every step.
    pub states: Vec<StepState>,
    /// Steps that came from the cache.
    pub cached: usize,
    /// Keys of the steps that may be exported, where they were to be kept.
    pub keys: BTreeMap<StepId, StepKey>,
    /// What was found out about chains of layers, by the digests of the questions.
    pub answers: BTreeMap<Digest, KnownAnswer>,
}

/// What was found out about a chain of layers.
#[derive(Clone, Debug)]
pub struct KnownAnswer {
    /// The layers.
    pub chain: ChainId,
    /// The answer.
    pub value: String,
}

/// What the key of a step was made of.
#[derive(Clone, Copy, Debug)]
pub struct StepKey {
    /// The key.
    pub key: CacheKey,
    /// The layers that the step stands on.
    pub parent: ChainId,
}

/// The place where one step's result appears.
struct Slot {
    state: Mutex<Option<Result<StepState, ()>>>,
    changed: Condvar,
}

struct Run<'a> {
    solver: &'a Solver,
    plan: &'a Plan,
    slots: Vec<Slot>,
    vertexes: Vec<VertexId>,
    failure: Mutex<Option<SolveError>>,
    jobs: Slots,
    background: Background,
    kept: Mutex<answers::Kept>,
    /// By step: whether its layer becomes part of an image.
    exported: Vec<bool>,
    /// By step: whether some step reads its layer's files from a directory.
    opened: Vec<bool>,
}

impl Solver {
    /// Brings every step of the plan to a result.
    pub fn solve(&self, plan: &Plan) -> Result<Solved, SolveError> {
        let slots =
            plan.steps.iter().map(|_| Slot { state: Mutex::default(), changed: Condvar::new() }).collect();
        let mut vertexes: Vec<VertexId> = Vec::with_capacity(plan.steps.len());
        for step in &plan.steps {
            let inputs = step.dependencies().filter_map(|id| vertexes.get(id.0).copied()).collect();
            vertexes.push(self.events.add_after(VertexKind::Step, step.name.clone(), inputs));
        }
        let background = Background::start(self.write.threads);
        let run = Run {
            solver: self,
            plan,
            slots,
            vertexes,
            failure: Mutex::default(),
            jobs: Slots::new(self.jobs),
            background,
            kept: Mutex::default(),
            exported: self.exported(plan),
            opened: opened(plan, self.result),
        };
        std::thread::scope(|scope| {
            let mut stages = stages(plan);
            // This thread has nothing else to do.
            let own = stages.pop().unwrap_or_default();
            for chain in stages {
                let (run, steps) = (&run, chain.clone());
                let work = move || chain.iter().for_each(|id| run.step(*id));
                if let Err(error) = std::thread::Builder::new().name("stage".into()).spawn_scoped(scope, work)
                {
                    run.fail_at(String::new(), None, StepError::Thread(error));
                    // Others may wait for them.
                    steps.into_iter().for_each(|id| run.publish(id, Err(())));
                }
            }
            own.iter().for_each(|id| run.step(*id));
        });
        run.finish()
    }
}

impl Solver {
    fn exported(&self, plan: &Plan) -> Vec<bool> {
        let mut exported = vec![false; plan.steps.len()];
        let target = plan.stages.get(plan.target).filter(|_| self.result != ResultKind::Files);
        mark_with_ancestors(plan, target.and_then(|stage| stage.last), &mut exported);
        exported
    }
}

/// Marks a step and all below it, up to one that is marked already.
fn mark_with_ancestors(plan: &Plan, mut next: Option<StepId>, marks: &mut [bool]) {
    while let Some(id) = next {
        match marks.get_mut(id.0) {
            Some(mark) if !*mark => *mark = true,
            _ => break,
        }
        next = plan.steps.get(id.0).and_then(|step| step.parent);
    }
}

/// Steps whose layers are mounted by a RUN, or from which files are copied.
fn opened(plan: &Plan, result: ResultKind) -> Vec<bool> {
    let mut opened = vec![false; plan.steps.len()];
    if result == (ResultKind::Draft { opened: true }) {
        mark_with_ancestors(plan, plan.stages.get(plan.target).and_then(|stage| stage.last), &mut opened);
    }
    for step in &plan.steps {
        if matches!(step.kind, StepKind::Run(_)) {
            mark_with_ancestors(plan, step.parent, &mut opened);
        }
        step.sources().for_each(|source| mark_with_ancestors(plan, Some(source), &mut opened));
    }
    opened
}

/// Steps grouped by stage, in order: each group is one thread's work.
fn stages(plan: &Plan) -> Vec<Vec<StepId>> {
    let mut groups: BTreeMap<usize, Vec<StepId>> = BTreeMap::new();
    for step in &plan.steps {
        groups.entry(step.stage).or_default().push(step.id);
    }
    groups.into_values().collect()
}

impl Run<'_> {
    /// Does one step and publishes its result. Without the results it needs, it is given up.
    fn step(&self, id: StepId) {
        let Some(step) = self.plan.steps.get(id.0) else { return };
        let ready = step.dependencies().all(|dependency| self.wait(dependency).is_some());
        if !ready || self.solver.cancel.is_cancelled() {
            self.ended(id, Outcome::Canceled, Duration::ZERO);
            self.note_cancel();
            return self.publish(id, Err(()));
        }
        let vertex = self.vertexes.get(id.0).copied().unwrap_or(VertexId(0));
        let _slot = self.jobs.take();
        self.solver.events.send(Event::Started { vertex });
        let begun = Instant::now();
        match self.do_step(step, vertex) {
            Ok(state) => {
                let outcome = if state.cached { Outcome::Cached } else { Outcome::Done };
                self.ended(id, outcome, begun.elapsed());
                self.publish(id, Ok(state));
            }
            Err(error) => {
                let canceled = error.is_canceled();
                let outcome = if canceled { Outcome::Canceled } else { Outcome::Failed(error.to_string()) };
                self.ended(id, outcome, begun.elapsed());
                self.fail(step, error);
                self.publish(id, Err(()));
            }
        }
    }

    fn ended(&self, id: StepId, outcome: Outcome, elapsed: Duration) {
        let vertex = self.vertexes.get(id.0).copied().unwrap_or(VertexId(0));
        self.solver.events.send(Event::Finished { vertex, outcome, elapsed });
    }

    /// The first real failure is kept; it stops everything else.
    fn fail(&self, step: &Step, error: StepError) {
        self.fail_at(step.name.clone(), Some((step.source.clone(), step.span)), error);
    }

    fn fail_at(&self, step: String, place: Option<(Arc<Source>, Span)>, error: StepError) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        let keep = match &*failure {
            None => true,
            Some(earlier) => earlier.error.is_canceled() && !error.is_canceled(),
        };
        if keep {
            *failure = Some(SolveError { step, place, error });
        }
        self.solver.cancel.cancel();
    }

    fn note_cancel(&self) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        if failure.is_none() {
            *failure = Some(SolveError { step: String::new(), place: None, error: StepError::Canceled });
        }
    }

    fn publish(&self, id: StepId, result: Result<StepState, ()>) {
        let Some(slot) = self.slots.get(id.0) else { return };
        *slot.state.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
        slot.changed.notify_all();
    }

    /// Waits for a step's result; `None` where it failed.
    fn wait(&self, id: StepId) -> Option<StepState> {
        let slot = self.slots.get(id.0)?;
        let mut state = slot.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match &*state {
                Some(result) => return result.clone().ok(),
                None => state = slot.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// The state a step builds on.
    fn parent(&self, step: &Step) -> Chain {
        step.parent.and_then(|parent| self.wait(parent)).map_or_else(Chain::scratch, |state| state.chain)
    }

    /// Collects the results; waits for layers still being written.
    fn finish(self) -> Result<Solved, SolveError> {
        let Run { slots, failure, background, kept, .. } = self;
        drop(background);
        if let Some(error) = failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        let mut states = Vec::with_capacity(slots.len());
        for slot in slots {
            match slot.state.into_inner().unwrap_or_else(PoisonError::into_inner) {
                Some(Ok(state)) => states.push(state),
                _ => return Err(SolveError { step: String::new(), place: None, error: StepError::Canceled }),
            }
        }
        let cached = states.iter().filter(|state| state.cached).count();
        for state in &states {
            state.chain.id().map_err(|error: SnapshotError| SolveError {
                step: String::new(),
                place: None,
                error: error.into(),
            })?;
        }
        let kept = kept.into_inner().unwrap_or_else(PoisonError::into_inner);
        let (keys, answers) = kept.finish();
        Ok(Solved { states, cached, keys, answers })
    }
}
