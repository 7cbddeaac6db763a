//! From a request to an image: context, Dockerfile, plan, solve, image, outputs.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::cache::Records;
use crate::cancel::Cancel;
use crate::context::{self, ContextSpec, FileSource, FileStatCache, MainContext};
use crate::dockerfile::{self, Dockerfile};
use crate::event::{Event, Events, Summary};
use crate::image::{self, Family, History, Image, LayerRef, Platform, Reference};
use crate::layer::{OnDiskIds, WriteOptions};
use crate::plan::{self, Base, Plan, PlanInput, Planned, Step, StepKind};
use crate::sandbox::{Native, Sandbox, Ulimit};
use crate::snapshot::{Chain, Snapshots};
use crate::solve::{LocalExecutor, SolveError, Solved, Solver, StepError};
use crate::steps::run::{RunError, RunSettings};
use crate::store::{Store, TempDir};

use super::bases::{self, Bases, NamedContext, RegistryAccess};
use super::check;
use super::failure::{Failure, FailureKind};
use super::outputs;
use super::request::{BuildOutcome, BuildRequest, CompressionAlgorithm, CompressionChoice};

/// Docker's default for `/dev/shm`.
const DEFAULT_SHM: u64 = 64 << 20;
/// Steps at work at once where nothing is said; a step that waits costs nothing.
const DEFAULT_JOBS: usize = 32;
/// What history entries of the reference carry.
const HISTORY_COMMENT: &str = "buildkit.dockerfile.v0";

/// How an engine is set up.
#[derive(Clone, Debug, Default)]
pub struct EngineOptions {
    /// Root of the store.
    pub root: PathBuf,
    /// Only one user ID is mapped.
    pub single_id: bool,
    /// Content of `/etc/resolv.conf` for RUN.
    pub resolv_conf: Vec<u8>,
    /// Registries.
    pub registries: RegistryAccess,
}

/// Builds images in one store.
pub struct Engine {
    pub(super) store: Store,
    pub(super) snapshots: Snapshots,
    pub(super) sandbox: Arc<dyn Sandbox>,
    pub(super) options: EngineOptions,
}

/// A request with its context read and its plan made.
struct Prepared {
    main: MainContext,
    plan: Plan,
    bases: Bases,
    named: BTreeMap<String, NamedContext>,
    warnings: Vec<String>,
    _scratch: TempDir,
}

/// A request as far as it is read: no image has been looked for.
pub(super) struct Opened {
    pub(super) main: MainContext,
    pub(super) dockerfile: Dockerfile,
    pub(super) named: BTreeMap<String, NamedContext>,
    /// Where an archive on standard input was unpacked.
    pub(super) scratch: TempDir,
}

impl Engine {
    /// Opens the store.
    pub fn open(options: EngineOptions) -> Result<Self, Failure> {
        let store = Store::open(&options.root)?;
        let ids = if options.single_id { OnDiskIds::AllToSelf } else { OnDiskIds::Keep };
        let snapshots = Snapshots::new(store.clone(), ids);
        let sandbox = Arc::new(Native::new(options.single_id));
        Ok(Engine { store, snapshots, sandbox, options })
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Only plans: what `rbuild plan` shows.
    pub fn plan(
        &self,
        request: &BuildRequest,
        stdin: &mut (dyn Read + Send),
        events: &Events,
        cancel: &Cancel,
    ) -> Result<Plan, Failure> {
        Ok(self.prepare(request, stdin, events, cancel)?.plan)
    }

    /// Builds.
    pub fn build(
        &self,
        request: &BuildRequest,
        stdin: &mut (dyn Read + Send),
        events: &Events,
        cancel: &Cancel,
    ) -> Result<BuildOutcome, Failure> {
        let begun = Instant::now();
        let names = parse_tags(&request.tags)?;
        outputs::check(request)?;
        let prepared = self.prepare(request, stdin, events, cancel)?;
        let epoch = request.source_date_epoch.or(prepared.plan.source_date_epoch);
        let now = epoch.unwrap_or_else(now_seconds);
        let (compression, writer) = write_options(request, epoch);
        let stat_path = self.store.stat_cache_path(prepared.main.context.root());
        let stat_cache = Arc::new(FileStatCache::open(&stat_path));
        let plan = prepared.plan;
        let bases = Arc::new(prepared.bases);
        let solver = Solver {
            snapshots: self.snapshots.clone(),
            records: Records::new(self.store.clone()),
            executor: Arc::new(LocalExecutor::new(self.snapshots.clone(), self.sandbox.clone())),
            events: events.clone(),
            cancel: cancel.clone(),
            contexts: contexts(prepared.main.context, &prepared.named, &request.cwd)?,
            stat_cache: Some(stat_cache.clone()),
            bases: Box::new(move |step, vertex| base_chain(&bases, step, vertex)),
            run: self.run_settings(request, &plan),
            now,
            write: writer,
            no_cache: no_cache(request),
            jobs: request.jobs.unwrap_or(DEFAULT_JOBS),
        };
        let solved = solver.solve(&plan).map_err(|error| solve_failure(error, cancel))?;
        drop(solver);
        // A cache that cannot be written costs time in the next build and nothing else.
        let _ = stat_cache.save();
        let chain = final_chain(&plan, &solved);
        let image = self.image(&plan, &solved, &chain, epoch.unwrap_or(now), epoch, compression)?;
        let assembled = image::assemble(&self.store, &image, Family::Oci)
            .map_err(|error| Failure::new(FailureKind::Build, error.to_string()))?;
        outputs::write_all(self, request, &image, &assembled, &chain, &names, events, cancel)?;
        for name in &names {
            image::inspect::name_in_store(&self.store, name, &assembled.descriptor)?;
        }
        let summary = Summary {
            names: names.iter().map(Reference::familiar).collect(),
            manifest: Some(assembled.descriptor.digest),
            size: image.layers.iter().map(|layer| layer.size).sum(),
            layers: image.layers.len(),
            cached: solved.cached,
            steps: plan.steps.iter().filter(|step| !matches!(step.kind, StepKind::From(_))).count(),
            elapsed: begun.elapsed(),
        };
        events.send(Event::Summary(summary.clone()));
        Ok(BuildOutcome {
            config_digest: assembled.config_digest,
            manifest_digest: assembled.descriptor.digest,
            manifest_size: assembled.descriptor.size,
            media_type: assembled.descriptor.media_type.clone(),
            names: names.iter().map(ToString::to_string).collect(),
            summary,
            warnings: prepared.warnings,
        })
    }

    fn prepare(
        &self,
        request: &BuildRequest,
        stdin: &mut (dyn Read + Send),
        events: &Events,
        cancel: &Cancel,
    ) -> Result<Prepared, Failure> {
        let Opened { main, dockerfile, named, scratch } = self.open_request(request, stdin)?;
        let bases = self.bases(request, &named, events, cancel);
        let input = plan_input(request, &named)?;
        let mut configs = plan::BaseConfigs::new();
        let plan = plan_with_bases(&dockerfile, &input, &bases, &mut configs, cancel)?;
        let warnings = check::refuse_violations(&main, &dockerfile, &input, &configs, &plan, events)?;
        Ok(Prepared { main, plan, bases, named, warnings, _scratch: scratch })
    }

    /// Reads the context, the Dockerfile and what named contexts are.
    pub(super) fn open_request(
        &self,
        request: &BuildRequest,
        stdin: &mut (dyn Read + Send),
    ) -> Result<Opened, Failure> {
        let scratch = self.store.temp_dir()?;
        let spec = ContextSpec {
            path: request.context.clone(),
            dockerfile: request.dockerfile.clone(),
            cwd: request.cwd.clone(),
        };
        let main = context::open_main(&spec, stdin, scratch.path())?;
        let dockerfile = parse(&main)?;
        let mut named = BTreeMap::new();
        for (name, value) in &request.build_contexts {
            named.insert(name.to_lowercase(), bases::classify(value, &request.cwd)?);
        }
        Ok(Opened { main, dockerfile, named, scratch })
    }

    /// Where the images of a request come from.
    pub(super) fn bases(
        &self,
        request: &BuildRequest,
        named: &BTreeMap<String, NamedContext>,
        events: &Events,
        cancel: &Cancel,
    ) -> Bases {
        let images = named
            .iter()
            .filter_map(|(name, context)| match context {
                NamedContext::Image(location) => Some((name.clone(), location.clone())),
                NamedContext::Files(_) => None,
            })
            .collect();
        let mut access = self.options.registries.clone();
        access.insecure.extend(request.insecure_registries.iter().cloned());
        Bases::new(&self.store, events, cancel, request.pull, access, images, &request.cwd)
    }

    fn run_settings(&self, request: &BuildRequest, plan: &Plan) -> RunSettings {
        RunSettings {
            extra_hosts: request.add_hosts.clone(),
            resolv_conf: self.options.resolv_conf.clone(),
            shm_size: request.shm_size.unwrap_or(DEFAULT_SHM),
            ulimits: request
                .ulimits
                .iter()
                .map(|(name, soft, hard)| Ulimit { name: name.clone(), soft: *soft, hard: *hard })
                .collect(),
            timeout: request.step_timeout,
            hostname: plan.hostname.clone(),
            no_overlay: Arc::default(),
        }
    }

    /// Config and layers of the target, in the compression asked for.
    fn image(
        &self,
        plan: &Plan,
        solved: &Solved,
        chain: &Chain,
        now: i64,
        epoch: Option<i64>,
        compression: CompressionChoice,
    ) -> Result<Image, Failure> {
        let Some(stage) = plan.stages.get(plan.target) else {
            return Err(Failure::new(FailureKind::Build, "the plan has no target"));
        };
        let mut config = stage.config.clone();
        let own = stage.history.iter().filter(|line| line.step.is_some()).count();
        let base_layers = chain.cells().len().saturating_sub(own);
        let started = image::build::rfc3339(now, 0);
        image::build::normalize_history(&mut config.history, base_layers, Some(&started));
        // An instruction without a layer is as old as the layer before it, as in the reference: a
        // build in which every step was cached gives the image it gave before.
        let mut created = config.history.iter().rev().find_map(|line| line.created.clone());
        for line in &stage.history {
            let executed = line.step.and_then(|id| solved.states.get(id.0)).map(|state| state.created);
            if let Some(seconds) = epoch.or(executed) {
                created = Some(image::build::rfc3339(seconds, 0));
            }
            config.history.push(History {
                created: Some(created.clone().unwrap_or_else(|| started.clone())),
                created_by: line.created_by.clone(),
                comment: HISTORY_COMMENT.into(),
                empty_layer: line.step.is_none(),
                ..History::default()
            });
        }
        let time = config.history.last().and_then(|line| line.created.clone());
        config.created = Some(time.unwrap_or(started));
        let mut layers = Vec::new();
        for (position, cell) in chain.cells().iter().enumerate() {
            let finished = cell.finished()?;
            let ours = position >= base_layers;
            let mut blob = finished.blob;
            if (ours || compression.force) && blob.compression != compression.algorithm {
                let (_, options) = write_choice(compression, None);
                blob = crate::layer::recompress(&self.store, &finished.diff_id, &options)?;
            }
            layers.push(LayerRef {
                diff_id: finished.diff_id,
                digest: blob.digest,
                size: blob.size,
                compression: blob.compression,
            });
        }
        Ok(Image { config, layers, annotations: BTreeMap::new() })
    }
}

fn now_seconds() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_secs()).unwrap_or(0)
}

fn parse_tags(tags: &[String]) -> Result<Vec<Reference>, Failure> {
    let mut names: Vec<Reference> = Vec::new();
    for tag in tags {
        let name = Reference::parse_new_name(tag)
            .map_err(|error| Failure::new(FailureKind::Usage, format!("invalid tag {tag:?}: {error}")))?;
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(names)
}

fn parse(main: &MainContext) -> Result<Dockerfile, Failure> {
    let parsed = dockerfile::parse(&main.dockerfile_name, &main.dockerfile).map_err(plan::PlanError::from)?;
    let Some(syntax) = &parsed.directives.syntax else { return Ok(parsed) };
    let image = syntax.text.split_whitespace().next().unwrap_or_default();
    let name = image.split(['@', ':']).next().unwrap_or_default();
    let known =
        ["docker/dockerfile", "docker.io/docker/dockerfile", "docker/dockerfile-upstream", "dockerfile.v0"];
    if known.contains(&name) {
        return Ok(parsed);
    }
    let message =
        format!("the frontend {image:?} is not supported: rbuild understands Dockerfiles by itself");
    Err(Failure::new(FailureKind::Unsupported, message)
        .help("remove the syntax directive if the file is an ordinary Dockerfile")
        .at(&parsed.source, syntax.span))
}

pub(super) fn plan_input(
    request: &BuildRequest,
    named: &BTreeMap<String, NamedContext>,
) -> Result<PlanInput, Failure> {
    let host = Platform::host();
    let platform = match &request.platform {
        Some(text) => {
            Platform::parse(text).map_err(|error| Failure::new(FailureKind::Usage, error.to_string()))?
        }
        None => host.clone(),
    };
    Ok(PlanInput {
        target: request.target.clone(),
        build_args: request.build_args.clone(),
        labels: request.labels.clone(),
        contexts: bases::plan_kinds(named),
        platform,
        build_platform: host,
        network: request.network,
    })
}

/// Asks for a plan until every config it needs is known.
pub(super) fn plan_with_bases(
    dockerfile: &Dockerfile,
    input: &PlanInput,
    bases: &Bases,
    configs: &mut plan::BaseConfigs,
    cancel: &Cancel,
) -> Result<Plan, Failure> {
    loop {
        if cancel.is_cancelled() {
            return Err(Failure::new(FailureKind::Interrupted, "canceled"));
        }
        match plan::plan(dockerfile, input, configs)? {
            Planned::Ready(plan) => return Ok(*plan),
            Planned::NeedsImages(requests) => bases.resolve_all(&requests, configs)?,
        }
    }
}

fn contexts(
    main: context::LocalContext,
    named: &BTreeMap<String, NamedContext>,
    cwd: &Path,
) -> Result<BTreeMap<String, Arc<dyn FileSource>>, Failure> {
    let mut contexts: BTreeMap<String, Arc<dyn FileSource>> = BTreeMap::new();
    contexts.insert(String::new(), Arc::new(main));
    for (name, context) in named {
        if let NamedContext::Files(path) = context {
            contexts.insert(name.clone(), Arc::new(context::open_named(&path.to_string_lossy(), cwd)?));
        }
    }
    Ok(contexts)
}

fn base_chain(bases: &Bases, step: &Step, vertex: crate::event::VertexId) -> Result<Chain, StepError> {
    match &step.kind {
        StepKind::From(from) => match &from.base {
            Base::Scratch => Ok(Chain::scratch()),
            Base::Image(name) => bases.layers(name, &from.platform, vertex).map_err(StepError::Base),
        },
        _ => Ok(Chain::scratch()),
    }
}

type StepFilter = Box<dyn Fn(&Step) -> bool + Send + Sync>;

fn no_cache(request: &BuildRequest) -> StepFilter {
    let all = request.no_cache;
    let stages: Vec<String> = request.no_cache_filter.iter().map(|stage| stage.to_lowercase()).collect();
    Box::new(move |step| {
        let index = step.stage.to_string();
        let named = |name: &str| stages.iter().any(|stage| stage == name);
        all || named(&index) || step.stage_name.as_deref().is_some_and(named)
    })
}

/// The first output that says so decides how this build's layers are compressed.
fn write_options(request: &BuildRequest, epoch: Option<i64>) -> (CompressionChoice, WriteOptions) {
    let default = CompressionChoice { algorithm: CompressionAlgorithm::Gzip, level: None, force: false };
    let choice = request.outputs.iter().find_map(|output| output.compression).unwrap_or(default);
    write_choice(choice, epoch)
}

fn write_choice(choice: CompressionChoice, epoch: Option<i64>) -> (CompressionChoice, WriteOptions) {
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let options =
        WriteOptions { compression: choice.algorithm, level: choice.level, threads, clamp_mtime: epoch };
    (choice, options)
}

fn final_chain(plan: &Plan, solved: &Solved) -> Chain {
    let last = plan.stages.get(plan.target).and_then(|stage| stage.last);
    let state = last.and_then(|id| solved.states.get(id.0));
    state.map_or_else(Chain::scratch, |state| state.chain.clone())
}

fn solve_failure(error: SolveError, cancel: &Cancel) -> Failure {
    let SolveError { step, place, error } = error;
    let no_space = error.is_no_space();
    let kind = match &error {
        StepError::Run(RunError::Sandbox(crate::sandbox::SandboxError::Setup { .. })) => FailureKind::Sandbox,
        StepError::Base(_) => FailureKind::Base,
        _ if error.is_canceled() && cancel.is_cancelled() => FailureKind::Interrupted,
        StepError::Snapshot(_) | StepError::Run(RunError::Snapshot(_)) => FailureKind::Store,
        _ => FailureKind::Build,
    };
    let mut failure = Failure { place, step: Some(step), ..Failure::new(kind, error.to_string()) };
    match error {
        StepError::Run(RunError::Exit { code, tail, .. }) => {
            failure.tail = tail;
            failure.help = exit_help(code);
        }
        _ if no_space => {
            failure.kind = FailureKind::Store;
            failure.help =
                Some("the disk is full: free some space, or choose another place with --root".into());
        }
        _ => {}
    }
    failure
}

/// What usual codes usually mean.
fn exit_help(code: i32) -> Option<String> {
    let text = match code {
        126 => "126: the command was found but could not be executed",
        127 => "127: the command was not found in the image",
        137 => "137: the process was killed (SIGKILL), often because memory ran out",
        139 => "139: the program crashed (SIGSEGV)",
        _ => return None,
    };
    Some(text.into())
}
