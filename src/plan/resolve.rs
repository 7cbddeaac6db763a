//! Which stages are built, on what, and which images that needs.

mod arguments;
mod input;
mod names;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::dockerfile::{Dockerfile, Instruction, InstructionKind, Source, Span, Word};
use crate::image::{ImageConfig, Platform};

use super::error::{PlanError, PlanWarning};
use super::graph::{Base, BaseId, FromStep, Plan, StagePlan, Step, StepId, StepKind};
use super::scope::Scope;
use super::stage::{self, Evaluated};

pub use self::input::{BaseConfigs, ContextKind, Entitlements, ImageRequest, PlanInput, Planned};
pub(super) use self::names::Origin;

/// A longer chain of stages, each of which needs the next, is refused: nobody writes one, and a file of a stranger is
/// not to decide how deep this program recurses.
const MOST_STAGES_DEEP: usize = 500;

/// Plans a build.
pub fn plan(dockerfile: &Dockerfile, input: &PlanInput, bases: &BaseConfigs) -> Result<Planned, PlanError> {
    let mut builder = Builder::new(dockerfile, input, bases)?;
    let target = builder.target()?;
    builder.stage(target)?;
    if !builder.needs.is_empty() {
        return Ok(Planned::NeedsImages(builder.needs));
    }
    builder.finish(target).map(|plan| Planned::Ready(Box::new(plan)))
}

/// The variables that `FROM` lines see.
pub(super) fn global_scope(dockerfile: &Dockerfile, input: &PlanInput) -> Result<Scope, PlanError> {
    let bases = BaseConfigs::default();
    let mut builder = Builder::empty(dockerfile, input, &bases);
    builder.set_globals()?;
    Ok(builder.globals)
}

pub(super) struct Builder<'a> {
    pub dockerfile: &'a Dockerfile,
    pub input: &'a PlanInput,
    bases: &'a BaseConfigs,
    pub globals: Scope,
    froms: Vec<(Origin, Option<Platform>)>,
    pub steps: Vec<Step>,
    pub evaluated: BTreeMap<usize, Evaluated>,
    images: BTreeMap<BaseId, StepId>,
    /// The step that is `scratch` as a source of files.
    scratch: Option<StepId>,
    needs: Vec<ImageRequest>,
    /// Stages that are being seen to, each for the one before it.
    depth: usize,
    pub warnings: Vec<PlanWarning>,
}

impl<'a> Builder<'a> {
    fn empty(dockerfile: &'a Dockerfile, input: &'a PlanInput, bases: &'a BaseConfigs) -> Self {
        Builder {
            dockerfile,
            input,
            bases,
            globals: Scope::default(),
            froms: Vec::new(),
            steps: Vec::new(),
            evaluated: BTreeMap::new(),
            images: BTreeMap::new(),
            scratch: None,
            needs: Vec::new(),
            depth: 0,
            warnings: Vec::new(),
        }
    }

    fn new(
        dockerfile: &'a Dockerfile,
        input: &'a PlanInput,
        bases: &'a BaseConfigs,
    ) -> Result<Self, PlanError> {
        let mut builder = Self::empty(dockerfile, input, bases);
        builder.set_globals()?;
        for index in 0..dockerfile.stages.len() {
            let from = builder.resolve_from(index)?;
            builder.froms.push(from);
        }
        builder.warn_unused_arguments();
        Ok(builder)
    }

    /// Evaluates a stage and all it needs. `false` where an image's config is missing.
    pub fn stage(&mut self, index: usize) -> Result<bool, PlanError> {
        if self.evaluated.contains_key(&index) {
            return Ok(true);
        }
        if self.depth >= MOST_STAGES_DEEP {
            let span = self.dockerfile.stages[index].from.image.span;
            let message =
                format!("more than {MOST_STAGES_DEEP} stages are built on or copy from one another");
            return Err(PlanError::at(&self.dockerfile.source, span, message));
        }
        self.depth += 1;
        let known = self.stage_below(index);
        self.depth -= 1;
        known
    }

    fn stage_below(&mut self, index: usize) -> Result<bool, PlanError> {
        let from = &self.dockerfile.stages[index].from;
        let platform = self.froms[index].1.clone();
        let base_known = match &self.froms[index].0 {
            Origin::Stage(base) => {
                let base = *base;
                self.stage(base)?
            }
            Origin::Scratch { .. } => true,
            Origin::Image(name) => {
                let name = name.clone();
                let platform = platform.unwrap_or_else(|| self.input.platform.clone());
                self.config(&name, &platform, &self.dockerfile.source.clone(), from.image.span).is_some()
            }
            Origin::Files(_) => true,
        };
        let mut known = base_known;
        let stages = self.dockerfile;
        for instruction in &stages.stages[index].instructions {
            known &= self.need_sources(index, instruction, &self.dockerfile.source.clone())?;
        }
        if !known {
            return Ok(false);
        }
        stage::evaluate(self, index)
    }

    /// Sees to it that what `--from` and mounts' `from` name is evaluated or requested.
    pub fn need_sources(
        &mut self,
        index: usize,
        instruction: &Instruction,
        source: &Arc<Source>,
    ) -> Result<bool, PlanError> {
        let names: Vec<Word> = match &instruction.kind {
            InstructionKind::Copy(copy) => copy.flags.from.iter().cloned().collect(),
            InstructionKind::Run(run) => run.mounts.iter().filter_map(stage::mount::from_of).collect(),
            _ => Vec::new(),
        };
        let mut known = true;
        for from in names {
            known &= match self.copy_origin(index, &from, source)? {
                Origin::Stage(stage) => self.stage(stage)?,
                Origin::Image(name) => {
                    let platform = self.input.platform.clone();
                    self.config(&name, &platform, source, from.span).is_some()
                }
                Origin::Files(_) | Origin::Scratch { .. } => true,
            };
        }
        Ok(known)
    }

    /// A base and its config, or a request for it.
    pub fn config(
        &mut self,
        name: &str,
        platform: &Platform,
        source: &Arc<Source>,
        span: Span,
    ) -> Option<(BaseId, &'a ImageConfig)> {
        let found = self.bases.get(name, platform);
        let asked = self.needs.iter().any(|need| need.name == name && need.platform == *platform);
        if found.is_none() && !asked {
            let (name, platform, source) = (name.to_owned(), platform.clone(), source.clone());
            self.needs.push(ImageRequest { name, platform, source, span });
        }
        found
    }

    /// What stage `index` is built on and for which platform.
    pub fn base_of(&self, index: usize) -> (&Origin, Option<Platform>) {
        (&self.froms[index].0, self.froms[index].1.clone())
    }

    /// Adds a step.
    pub fn push(&mut self, step: Step) -> StepId {
        let id = step.id;
        self.steps.push(step);
        id
    }

    /// The position the next step gets.
    pub fn next_id(&self) -> StepId {
        StepId(self.steps.len())
    }

    /// The step that provides an image which is only copied from. Such images were requested before their
    /// stage is evaluated.
    pub fn image_step(&mut self, name: &str, source: &Arc<Source>, span: Span) -> Result<StepId, PlanError> {
        let platform = self.input.platform.clone();
        let Some((base, _)) = self.bases.get(name, &platform) else {
            return Err(PlanError::at(source, span, format!("{name} was not looked up")));
        };
        if let Some(id) = self.images.get(&base) {
            return Ok(*id);
        }
        let id = self.source_step(Base::Image { id: base, name: name.to_owned() }, name, source, span);
        self.images.insert(base, id);
        Ok(id)
    }

    /// The step of `COPY --from=scratch`: a tree without files, as BuildKit has it.
    pub fn scratch_step(&mut self, source: &Arc<Source>, span: Span) -> StepId {
        if let Some(id) = self.scratch {
            return id;
        }
        let id = self.source_step(Base::Scratch, "scratch", source, span);
        self.scratch = Some(id);
        id
    }

    /// A base that no stage is built on.
    fn source_step(&mut self, base: Base, name: &str, source: &Arc<Source>, span: Span) -> StepId {
        let sources = self.images.len() + usize::from(self.scratch.is_some());
        let id = self.next_id();
        self.push(Step {
            id,
            stage: self.dockerfile.stages.len() + sources + 1,
            stage_name: None,
            parent: None,
            name: format!("FROM {name}"),
            source: source.clone(),
            span,
            kind: StepKind::From(FromStep { base, platform: self.input.platform.clone() }),
        })
    }

    fn finish(mut self, target: usize) -> Result<Plan, PlanError> {
        let epoch = match self.build_arg("SOURCE_DATE_EPOCH").or(self.globals.value("SOURCE_DATE_EPOCH")) {
            None | Some("") => None,
            Some(text) => Some(text.parse().map_err(|_| {
                PlanError::nowhere(format!("invalid SOURCE_DATE_EPOCH: {text:?}"))
                    .help("give whole seconds since 1970")
            })?),
        };
        let hostname = self.build_arg("BUILDKIT_SANDBOX_HOSTNAME").unwrap_or("buildkitsandbox").to_owned();
        let stages: Vec<StagePlan> = std::mem::take(&mut self.evaluated)
            .into_iter()
            .map(|(index, stage)| stage.into_plan(index, self.dockerfile.stages[index].name(), &self.globals))
            .collect();
        let target = stages.iter().position(|stage| stage.index == target).unwrap_or(0);
        let mut plan = Plan {
            steps: self.steps,
            stages,
            target,
            warnings: self.warnings,
            source_date_epoch: epoch,
            hostname,
        };
        if let Some(stage) = plan.stages.get_mut(target) {
            for (name, value) in &self.input.labels {
                stage.config.config.labels.insert(name.clone(), value.clone());
            }
            if self.input.platform_given {
                stage.set_platform(&self.input.platform);
            }
        }
        Ok(plan)
    }
}
