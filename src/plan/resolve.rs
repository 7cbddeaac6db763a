//! Which stages are built, on what, and which images that needs.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::build::RunNetwork;
use crate::dockerfile::{Dockerfile, Instruction, InstructionKind, Source, Span, Word, suggest};
use crate::image::{ImageConfig, Platform, Reference};

use super::error::{PlanError, PlanWarning};
use super::graph::{Base, FromStep, Plan, StagePlan, Step, StepId, StepKind};
use super::scope::{Scope, is_control, is_proxy};
use super::stage::{self, Evaluated};

/// What a build is asked for, as far as the plan depends on it.
#[derive(Clone, Debug)]
pub struct PlanInput {
    /// `--target`.
    pub target: Option<String>,
    /// `--build-arg`; the last of one name counts.
    pub build_args: Vec<(String, String)>,
    /// `--label`.
    pub labels: Vec<(String, String)>,
    /// `--build-context`, by name.
    pub contexts: BTreeMap<String, ContextKind>,
    /// Platform of the image.
    pub platform: Platform,
    /// Others are planned besides it: steps are named with the platform.
    pub several_platforms: bool,
    /// Platform of this machine.
    pub build_platform: Platform,
    /// `--network`.
    pub network: RunNetwork,
    /// `--allow`.
    pub allow: Entitlements,
}

/// What a build may do beyond the usual.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entitlements {
    /// `network.host`: RUN --network=host.
    pub network_host: bool,
    /// `security.insecure`: RUN --security=insecure.
    pub insecure: bool,
    /// `device`: any device.
    pub any_device: bool,
    /// `device=NAME`: these.
    pub devices: Vec<String>,
}

impl Entitlements {
    /// Whether a device may be used, by its full name or its class.
    pub fn device(&self, name: &str) -> bool {
        let class = name.split('=').next().unwrap_or(name);
        self.any_device || self.devices.iter().any(|allowed| allowed == name || allowed == class)
    }
}

/// What a named context holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ContextKind {
    /// Files.
    Files,
    /// An image.
    Image,
    /// Nothing (`docker-image://scratch`).
    Scratch,
}

/// An image whose config must be known.
#[derive(Clone, Debug)]
pub struct ImageRequest {
    /// Reference, or name of an image-like context.
    pub name: String,
    /// Platform wanted.
    pub platform: Platform,
    /// Where it is named.
    pub source: Arc<Source>,
    /// Where exactly.
    pub span: Span,
}

/// Configs by name and platform, as requested.
pub type BaseConfigs = BTreeMap<(String, String), ImageConfig>;

/// An answer.
#[derive(Clone, Debug)]
pub enum Planned {
    /// Get these and ask again.
    NeedsImages(Vec<ImageRequest>),
    /// The whole plan.
    Ready(Box<Plan>),
}

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

/// What a name in `FROM` or `--from` means.
pub(super) enum Origin {
    Stage(usize),
    Files(String),
    Image(String),
    Scratch,
}

pub(super) struct Builder<'a> {
    pub dockerfile: &'a Dockerfile,
    pub input: &'a PlanInput,
    bases: &'a BaseConfigs,
    pub globals: Scope,
    froms: Vec<(Origin, Option<Platform>)>,
    pub steps: Vec<Step>,
    pub evaluated: BTreeMap<usize, Evaluated>,
    images: BTreeMap<(String, String), StepId>,
    needs: Vec<ImageRequest>,
    pub warnings: Vec<PlanWarning>,
}

impl<'a> Builder<'a> {
    fn new(
        dockerfile: &'a Dockerfile,
        input: &'a PlanInput,
        bases: &'a BaseConfigs,
    ) -> Result<Self, PlanError> {
        let mut builder = Builder {
            dockerfile,
            input,
            bases,
            globals: Scope::default(),
            froms: Vec::new(),
            steps: Vec::new(),
            evaluated: BTreeMap::new(),
            images: BTreeMap::new(),
            needs: Vec::new(),
            warnings: Vec::new(),
        };
        builder.set_globals()?;
        for index in 0..dockerfile.stages.len() {
            let from = builder.resolve_from(index)?;
            builder.froms.push(from);
        }
        builder.warn_unused_arguments();
        Ok(builder)
    }

    pub fn build_arg(&self, name: &str) -> Option<&'a str> {
        let given = self.input.build_args.iter().rev().find(|(known, _)| known == name);
        given.map(|(_, value)| value.as_str())
    }

    fn set_globals(&mut self) -> Result<(), PlanError> {
        let (target, build) = (&self.input.platform, &self.input.build_platform);
        // The name of the last stage where no other is asked for, as the reference's code has it.
        let last = self.dockerfile.stages.last().and_then(|stage| stage.name());
        let stage = self.input.target.as_deref().or(last).unwrap_or("default");
        for (name, value) in [
            ("BUILDPLATFORM", build.to_string()),
            ("BUILDOS", build.os.clone()),
            ("BUILDOSVERSION", String::new()),
            ("BUILDARCH", build.architecture.clone()),
            ("BUILDVARIANT", build.variant.clone()),
            ("TARGETPLATFORM", target.to_string()),
            ("TARGETOS", target.os.clone()),
            ("TARGETOSVERSION", String::new()),
            ("TARGETARCH", target.architecture.clone()),
            ("TARGETVARIANT", target.variant.clone()),
            ("TARGETSTAGE", stage.to_owned()),
        ] {
            let value = self.build_arg(name).map_or(value, str::to_owned);
            self.globals.set(name, &value);
        }
        let dockerfile = self.dockerfile;
        for instruction in &dockerfile.global_args {
            let InstructionKind::Arg(declarations) = &instruction.kind else { continue };
            for declaration in declarations {
                let name = &declaration.name.text;
                if let Some(value) = self.build_arg(name) {
                    self.globals.set(name, value);
                } else if let Some(default) = &declaration.default {
                    let value = self.expand_global(default)?;
                    self.globals.set(name, &value);
                }
            }
        }
        Ok(())
    }

    fn expand_global(&self, word: &Word) -> Result<String, PlanError> {
        let expander = crate::dockerfile::Expander::new(self.dockerfile.directives.escape);
        let expanded = expander
            .word(&word.text, &self.globals)
            .map_err(|error| PlanError::at(&self.dockerfile.source, word.span, error.message))?;
        Ok(expanded.text)
    }

    fn resolve_from(&mut self, index: usize) -> Result<(Origin, Option<Platform>), PlanError> {
        let source = &self.dockerfile.source;
        let from = &self.dockerfile.stages[index].from;
        let platform = match &from.platform {
            None => None,
            Some(word) => {
                let text = self.expand_global(word)?;
                let parsed = Platform::parse(&text);
                Some(parsed.map_err(|error| PlanError::at(source, word.span, error.to_string()))?)
            }
        };
        let name = self.expand_global(&from.image)?;
        if name.is_empty() {
            let message = format!("base name ({}) should not be blank", from.image.text);
            return Err(PlanError::at(source, from.image.span, message)
                .help("give the ARG a default, or pass it with --build-arg"));
        }
        let origin = match self.earlier_stage(&name, index) {
            Some(stage) => Origin::Stage(stage),
            None => self.outside(&name),
        };
        if let Origin::Image(name) = &origin {
            let valid = self.input.contexts.contains_key(name) || Reference::parse(name).is_ok();
            if !valid {
                let error = Reference::parse(name).err().map_or_else(String::new, |error| error.to_string());
                return Err(PlanError::at(source, from.image.span, error));
            }
        }
        Ok((origin, platform))
    }

    /// The latest stage of a name before `index`, unless a named context stands for it.
    fn earlier_stage(&self, name: &str, index: usize) -> Option<usize> {
        let lower = name.to_lowercase();
        if self.input.contexts.contains_key(name) || self.input.contexts.contains_key(&lower) {
            return None;
        }
        self.dockerfile.stages[..index].iter().rposition(|stage| stage.name() == Some(&lower))
    }

    /// A name that is no stage: a context, nothing, or an image.
    fn outside(&self, name: &str) -> Origin {
        let canonical =
            |text: &str| Reference::parse(text).ok().map(|name| name.with_default_tag().to_string());
        let wanted = canonical(name);
        let same = |context: &str| {
            context.eq_ignore_ascii_case(name) || (wanted.is_some() && canonical(context) == wanted)
        };
        match self.input.contexts.iter().find(|(context, _)| same(context)) {
            Some((context, ContextKind::Files)) => Origin::Files(context.clone()),
            Some((context, ContextKind::Image)) => Origin::Image(context.clone()),
            Some((_, ContextKind::Scratch)) => Origin::Scratch,
            None if name == "scratch" => Origin::Scratch,
            None => Origin::Image(name.to_owned()),
        }
    }

    fn target(&self) -> Result<usize, PlanError> {
        let stages = &self.dockerfile.stages;
        let Some(target) = &self.input.target else { return Ok(stages.len() - 1) };
        let lower = target.to_lowercase();
        if let Some(index) = stages.iter().rposition(|stage| stage.name() == Some(&lower)) {
            return Ok(index);
        }
        if let Some(index) = target.parse().ok().filter(|index| *index < stages.len()) {
            return Ok(index);
        }
        let error = PlanError::nowhere(format!("target stage {target:?} could not be found"));
        let names: Vec<&str> = stages.iter().filter_map(|stage| stage.name()).collect();
        Err(match suggest(&lower, names.iter().copied()) {
            Some(name) => error.help(format!("did you mean {name:?}?")),
            None if names.is_empty() => {
                error.help("no stage of this Dockerfile has a name (FROM ... AS name)")
            }
            None => error.help(format!("stages here: {}", names.join(", "))),
        })
    }

    /// Evaluates a stage and all it needs. `false` where an image's config is missing.
    pub fn stage(&mut self, index: usize) -> Result<bool, PlanError> {
        if self.evaluated.contains_key(&index) {
            return Ok(true);
        }
        let from = &self.dockerfile.stages[index].from;
        let platform = self.froms[index].1.clone();
        let base_known = match &self.froms[index].0 {
            Origin::Stage(base) => {
                let base = *base;
                self.stage(base)?
            }
            Origin::Scratch => true,
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
                Origin::Files(_) | Origin::Scratch => true,
            };
        }
        Ok(known)
    }

    /// What `--from` of a stage means.
    pub fn copy_origin(&self, index: usize, from: &Word, source: &Arc<Source>) -> Result<Origin, PlanError> {
        let name = from.text.as_str();
        if name.contains('$') {
            return Err(PlanError::at(
                source,
                from.span,
                "variable expansion is not supported for --from, define a new stage with FROM using ARG from \
                 global scope as a workaround",
            ));
        }
        let stages = &self.dockerfile.stages;
        let lower = name.to_lowercase();
        if self.earlier_stage(name, stages.len()).is_some() {
            if let Some(stage) = self.earlier_stage(name, index) {
                return Ok(Origin::Stage(stage));
            }
            if stages[index].name() == Some(&lower) {
                return Err(PlanError::at(
                    source,
                    from.span,
                    format!("circular dependency detected on stage: {name}"),
                ));
            }
            let own = stages[index].name().map_or_else(|| format!("stage-{index}"), str::to_owned);
            let message = format!(
                "cannot copy from stage {name:?}, it needs to be defined before current stage {own:?}"
            );
            return Err(PlanError::at(source, from.span, message).help("move that stage further up"));
        }
        if let Ok(number) = name.parse::<usize>() {
            return match number {
                number if number < index => Ok(Origin::Stage(number)),
                number if number == index => Err(PlanError::at(
                    source,
                    from.span,
                    format!("circular dependency detected on stage: {number}"),
                )),
                _ => Err(PlanError::at(source, from.span, format!("invalid stage index {number}"))),
            };
        }
        match self.outside(name) {
            Origin::Image(image) => match Reference::parse(&image) {
                Err(error) if !self.input.contexts.contains_key(&image) => {
                    let names = stages[..index].iter().filter_map(|stage| stage.name());
                    let error = PlanError::at(source, from.span, error.to_string());
                    Err(match suggest(&lower, names) {
                        Some(name) => error.help(format!("did you mean the stage {name:?}?")),
                        None => error,
                    })
                }
                _ => Ok(Origin::Image(image)),
            },
            other => Ok(other),
        }
    }

    /// A base's config, or a request for it.
    pub fn config(
        &mut self,
        name: &str,
        platform: &Platform,
        source: &Arc<Source>,
        span: Span,
    ) -> Option<&'a ImageConfig> {
        let key = (name.to_owned(), platform.to_string());
        let found = self.bases.get(&key);
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

    /// The step that provides an image which is only copied from.
    pub fn image_step(&mut self, name: &str, source: &Arc<Source>, span: Span) -> StepId {
        let platform = self.input.platform.clone();
        let key = (name.to_owned(), platform.to_string());
        if let Some(id) = self.images.get(&key) {
            return *id;
        }
        let id = self.next_id();
        self.images.insert(key, id);
        let stage = self.dockerfile.stages.len() + self.images.len();
        self.push(Step {
            id,
            stage,
            stage_name: None,
            parent: None,
            name: format!("FROM {name}"),
            source: source.clone(),
            span,
            kind: StepKind::From(FromStep { base: Base::Image(name.to_owned()), platform }),
        })
    }

    fn warn_unused_arguments(&mut self) {
        let declared: Vec<&str> = self
            .dockerfile
            .global_args
            .iter()
            .chain(self.dockerfile.stages.iter().flat_map(|stage| &stage.instructions))
            .filter_map(|instruction| match &instruction.kind {
                InstructionKind::Arg(declarations) => Some(declarations),
                _ => None,
            })
            .flatten()
            .map(|declaration| declaration.name.text.as_str())
            .collect();
        let platform_names: Vec<String> = self.globals.iter().map(|(name, _)| name.clone()).collect();
        for (name, _) in &self.input.build_args {
            let known = declared.contains(&name.as_str())
                || is_proxy(name)
                || is_control(name)
                || platform_names.contains(name);
            if known {
                continue;
            }
            let hint = suggest(name, declared.iter().copied());
            let hint = hint.map_or_else(String::new, |name| format!(" (did you mean {name:?}?)"));
            self.warnings.push(PlanWarning {
                message: format!("build argument {name:?} is not used: no ARG declares it{hint}"),
                place: None,
            });
        }
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
            .map(|(index, stage)| stage.into_plan(index, self.dockerfile.stages[index].name()))
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
        }
        Ok(plan)
    }
}
