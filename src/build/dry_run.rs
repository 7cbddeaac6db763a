//! What a build would do: nothing is executed, fetched or written.

use std::collections::BTreeSet;
use std::io::Read;
use std::sync::Arc;
use std::time::SystemTime;

use crate::cancel::Cancel;
use crate::event::Events;
use crate::explain::Cause;
use crate::image::Platform;
use crate::plan::{Plan, Step, StepId, StepKind};
use crate::solve::{Looked, Miss, NoExecutor, ResultKind, Solver, Unknown};

use super::engine::{Engine, Ready, Work};
use super::failure::Failure;
use super::history::{History, Recorded};
use super::outputs;
use super::request::{BuildRequest, OutputKind};
use super::solve_failure;

/// What a build would do.
#[derive(Clone, Debug)]
pub struct DryRun {
    /// The steps of each platform, in the order of the plan.
    pub platforms: Vec<(Platform, Vec<DryStep>)>,
}

/// One step of a build that is not done.
#[derive(Clone, Debug)]
pub struct DryStep {
    /// As shown while building: `[build 2/4] RUN make`.
    pub name: String,
    /// The name of its stage, or the number of one without.
    pub stage: String,
    /// The Dockerfile, or a trigger of a base.
    pub file: String,
    /// Where in it, from 1.
    pub line: usize,
    /// What would become of it.
    pub outlook: Outlook,
    /// Layers of it that would be fetched, as something that would be done needs them.
    pub pull: Option<Pull>,
}

/// What would become of a step.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outlook {
    /// It is a base, and no work by itself.
    Base,
    /// It has a result: in the store, or in the cache of this name.
    Cached(Option<String>),
    /// It would be executed, for this reason.
    WouldRun(String),
}

/// Layers that would be fetched.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Pull {
    /// How many.
    pub layers: usize,
    /// Their bytes, compressed as they are.
    pub bytes: u64,
    /// They would come from a registry, and not from a layout or cache on this machine.
    pub from_registry: bool,
}

impl DryRun {
    fn steps(&self) -> impl Iterator<Item = &DryStep> {
        self.platforms.iter().flat_map(|(_, steps)| steps)
    }

    /// How many steps would be executed.
    pub fn would_run(&self) -> usize {
        self.steps().filter(|step| matches!(step.outlook, Outlook::WouldRun(_))).count()
    }

    /// How many steps have results.
    pub fn cached(&self) -> usize {
        self.steps().filter(|step| matches!(step.outlook, Outlook::Cached(_))).count()
    }

    /// Bytes that would be fetched from registries.
    pub fn pulled(&self) -> u64 {
        let pulls = self.steps().filter_map(|step| step.pull).filter(|pull| pull.from_registry);
        pulls.map(|pull| pull.bytes).sum()
    }
}

impl Engine {
    /// What [`Engine::build`] would do. The store only looks from here on: this engine builds nothing afterwards.
    /// Fails where the build is sure to fail before it executes anything.
    pub fn dry_run(
        &self,
        request: &BuildRequest,
        stdin: &mut (dyn Read + Send),
        events: &Events,
        cancel: &Cancel,
    ) -> Result<DryRun, Failure> {
        outputs::check(request)?;
        self.store.look_only();
        let Recorded { history, .. } = History::begin(&self.store, request, &Events::none(), cancel);
        let ready = self.make_ready(request, stdin, events, cancel, &history)?;
        let Ready { import, prepared, request, stat_cache, mounts, .. } = ready;
        let request = &request;
        let mut platforms = Vec::new();
        for (platform, plan) in &prepared.plans {
            let begun = SystemTime::now();
            let (prepared, stat_cache, mounts, history) = (&prepared, &stat_cache, &mounts, &history);
            history.begin_platform(platform, plan, prepared);
            let work = Work { request, prepared, stat_cache, mounts, begun, history };
            let solver = Solver {
                executor: Arc::new(NoExecutor { reason: "nothing is executed in a dry run".into() }),
                result: ResultKind::Files,
                keep_keys: false,
                ..self.solver(&work, plan, import.as_ref(), events, cancel)
            };
            let looked =
                solver.look(plan).map_err(|error| solve_failure::explained(error, &self.store, cancel))?;
            let (causes, sources) = (history.causes(platform), history.sources(platform));
            let outlook =
                Outlooks { engine: self, request, plan, looked: &looked, causes: &causes, sources: &sources };
            platforms.push((platform.clone(), outlook.steps()));
        }
        Ok(DryRun { platforms })
    }
}

struct Outlooks<'a> {
    engine: &'a Engine,
    request: &'a BuildRequest,
    plan: &'a Plan,
    looked: &'a [Looked],
    causes: &'a [Option<Cause>],
    sources: &'a [Option<String>],
}

impl Outlooks<'_> {
    fn steps(&self) -> Vec<DryStep> {
        let needed = self.needed();
        self.plan
            .steps
            .iter()
            .zip(self.looked)
            .map(|(step, looked)| self.step(step, looked, &needed))
            .collect()
    }

    fn step(&self, step: &Step, looked: &Looked, needed: &BTreeSet<StepId>) -> DryStep {
        let outlook = match (&step.kind, looked) {
            (StepKind::From(_), _) => Outlook::Base,
            (_, Looked::Known(_) | Looked::KnownAlone) => Outlook::Cached(self.source(step.id)),
            (_, Looked::Missed(miss)) => Outlook::WouldRun(self.why_missed(step.id, *miss)),
            (_, Looked::Unknown(unknown)) => Outlook::WouldRun(self.why_unknown(step, unknown)),
        };
        DryStep {
            name: step.name.clone(),
            stage: step.stage_name.clone().unwrap_or_else(|| step.stage.to_string()),
            file: step.source.name().to_owned(),
            line: step.source.location(step.span.start).line,
            outlook,
            pull: needed.contains(&step.id).then(|| self.pull(step, looked)).flatten(),
        }
    }

    /// The name of the cache that has a result; `None` is the store.
    fn source(&self, id: StepId) -> Option<String> {
        self.sources.get(id.0)?.clone().filter(|name| name != "store")
    }

    fn why_missed(&self, id: StepId, miss: Miss) -> String {
        if let Some(cause) = self.causes.get(id.0).and_then(Option::as_ref).filter(|cause| cause.is_news()) {
            return cause.line();
        }
        match miss {
            Miss::NotAsked => "it is not looked up".into(),
            Miss::NewParent | Miss::NoRecord if self.request.cache_from.is_empty() => {
                "the store has no result".into()
            }
            Miss::NewParent | Miss::NoRecord => "neither the store nor a cache has a result".into(),
            Miss::NoLayer => "the layer of its result is no longer in the store".into(),
        }
    }

    fn why_unknown(&self, step: &Step, unknown: &Unknown) -> String {
        match unknown {
            Unknown::After(id) => format!("after {}", self.place(*id)),
            Unknown::Files => {
                let from = step.sources().chain(step.parent).map(|id| self.place(id)).next();
                format!("not known before the layers of {} are fetched", from.unwrap_or_default())
            }
            Unknown::Download(url) => format!("not known before {url} is downloaded"),
        }
    }

    /// `[build 2/4]` of a step.
    fn place(&self, id: StepId) -> String {
        let name = self.plan.steps.get(id.0).map(|step| step.name.as_str()).unwrap_or_default();
        match name.find(']') {
            Some(end) if name.starts_with('[') => name[..=end].to_owned(),
            _ => name.to_owned(),
        }
    }

    /// Steps whose layers something reads: what would be executed, or the image.
    fn needed(&self) -> BTreeSet<StepId> {
        let mut needed = BTreeSet::new();
        let mut mark = |mut next: Option<StepId>| {
            while let Some(id) = next.filter(|id| needed.insert(*id)) {
                next = self.plan.steps.get(id.0).and_then(|step| step.parent);
            }
        };
        for (step, _) in self.plan.steps.iter().zip(self.looked).filter(|(_, looked)| !looked.is_known()) {
            mark(step.parent);
            step.sources().for_each(|source| mark(Some(source)));
        }
        let outputs = &self.request.outputs;
        let only_pushed = !outputs.is_empty()
            && outputs.iter().all(|output| output.push || output.kind == OutputKind::CacheOnly);
        let reads_files =
            outputs.iter().any(|output| matches!(output.kind, OutputKind::Local | OutputKind::Tar));
        if (self.request.makes_image() && !only_pushed) || reads_files {
            mark(self.plan.stages.get(self.plan.target).and_then(|stage| stage.last));
        }
        needed
    }

    /// The layers that a step adds to what it stands on and that are not here.
    fn pull(&self, step: &Step, looked: &Looked) -> Option<Pull> {
        let chain = looked.chain()?;
        let below =
            step.parent.and_then(|id| self.looked.get(id.0)?.chain()).map_or(0, |below| below.cells().len());
        let mut pull = Pull::default();
        let mut seen = BTreeSet::new();
        for cell in chain.cells().iter().skip(below) {
            let Some((blob, from_registry)) = cell.lacking(&self.engine.store) else { continue };
            if seen.insert(blob.digest) {
                pull.layers += 1;
                pull.bytes += blob.size;
                pull.from_registry |= from_registry;
            }
        }
        (pull.layers > 0).then_some(pull)
    }
}
