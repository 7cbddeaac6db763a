//! From a request to an image: context, Dockerfile, plan, solve, image, outputs.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::cache::Records;
use crate::cancel::Cancel;
use crate::context::{self, ContextSpec, FileSource, FileStatCache, MainContext};
use crate::dockerfile::{self, Dockerfile};
use crate::event::{Event, Events, Summary};
use crate::image::{self, Family, Platform, Reference};
use crate::layer::OnDiskIds;
use crate::plan::{self, Base, Plan, PlanInput, Planned, Step, StepKind};
use crate::registry::RegistryAccess;
use crate::sandbox::{Native, NetworkHelper, PrivateIds, Sandbox, Ulimit};
use crate::snapshot::{Chain, SnapshotError, Snapshots};
use crate::solve::{LocalExecutor, SolveError, Solver, StepError};
use crate::steps::mount::MountSettings;
use crate::steps::network::BuildNetwork;
use crate::steps::run::{RunError, RunSettings};
use crate::store::{Store, TempDir};

use super::bases::{self, Bases, NamedContext};
use super::failure::{Failure, FailureKind};
use super::outputs;
use super::request::{BuildOutcome, BuildRequest};
use super::result::{self, Built};

/// Docker's default for `/dev/shm`.
const DEFAULT_SHM: u64 = 64 << 20;
/// Steps at work at once where nothing is said; a step that waits costs nothing.
const DEFAULT_JOBS: usize = 32;

/// How an engine is set up.
#[derive(Clone, Debug, Default)]
pub struct EngineOptions {
    /// Root of the store.
    pub root: PathBuf,
    /// Only one user ID is mapped.
    pub single_id: bool,
    /// RUN gets users and groups of its own: its root is not this machine's. Only for root, since
    /// others are in a user namespace anyway.
    pub private_ids: bool,
    /// Content of `/etc/resolv.conf` for RUN.
    pub resolv_conf: Vec<u8>,
    /// Programs that connect RUN's own network, the best first; without any, RUN uses this machine's.
    pub network_helpers: Vec<NetworkHelper>,
    /// Registries.
    pub registries: RegistryAccess,
}

/// Builds images in one store.
pub struct Engine {
    pub(super) store: Store,
    pub(super) snapshots: Snapshots,
    pub(super) sandbox: Arc<dyn Sandbox>,
    ids: Option<PrivateIds>,
    pub(super) options: EngineOptions,
}

/// A request with its contexts open and its plans made.
struct Prepared {
    contexts: BTreeMap<String, Arc<dyn FileSource>>,
    /// For the stat cache.
    context_root: PathBuf,
    /// One for each platform.
    plans: Vec<(Platform, Plan)>,
    bases: Arc<Bases>,
    warnings: Vec<String>,
    /// One for all platforms.
    network: Arc<BuildNetwork>,
    _scratch: TempDir,
}

impl Engine {
    /// Opens the store.
    pub fn open(options: EngineOptions) -> Result<Self, Failure> {
        let store = Store::open(&options.root)?;
        let ids = if options.single_id { OnDiskIds::AllToSelf } else { OnDiskIds::Keep };
        let snapshots = Snapshots::new(store.clone(), ids);
        let ids = if options.private_ids { Some(private_ids()?) } else { None };
        let sandbox = match &ids {
            Some(ids) => Native::with_ids(ids.clone()),
            None => Native::new(options.single_id),
        };
        Ok(Engine { store, snapshots, sandbox: Arc::new(sandbox), ids, options })
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Only plans: what `rbuild plan` shows. One plan for each platform.
    pub fn plan(
        &self,
        request: &BuildRequest,
        stdin: &mut (dyn Read + Send),
        events: &Events,
        cancel: &Cancel,
    ) -> Result<Vec<(Platform, Plan)>, Failure> {
        Ok(self.prepare(request, stdin, events, cancel)?.plans)
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
        let stat_cache = FileStatCache::open(&self.store.stat_cache_path(&prepared.context_root));
        let stat_cache = Arc::new(stat_cache);
        let mounts = Arc::new(MountSettings::new(request.secrets.clone(), request.ssh.clone()));
        let mut built = Vec::new();
        let (mut cached, mut steps) = (0, 0);
        for (platform, plan) in &prepared.plans {
            let solver = self.solver(request, &prepared, plan, &stat_cache, &mounts, events, cancel);
            let solved = solver.solve(plan).map_err(|error| solve_failure(error, cancel))?;
            let chain = result::final_chain(plan, &solved);
            chain.ensure_blobs(&self.store)?;
            let epoch = epoch_of(request, plan);
            let (compression, _) = result::write_options(request, epoch);
            let image = self.image(plan, &solved, &chain, solver.now, epoch, compression)?;
            built.push(Built { image, chain, platform: platform.clone() });
            cached += solved.cached;
            steps += plan.steps.iter().filter(|step| !matches!(step.kind, StepKind::From(_))).count();
        }
        // A cache that cannot be written costs time in the next build and nothing else.
        let _ = stat_cache.save();
        let with_index = built.len() > 1 || request.multi_platform;
        let package = result::package(self, &built, Family::Oci, &request.annotations, with_index)?;
        let all = outputs::Results { built: &built, with_index, names: &names };
        outputs::write_all(self, request, &all, events, cancel)?;
        for name in &names {
            image::inspect::name_in_store(&self.store, name, &package.top)?;
        }
        let summary = Summary {
            names: names.iter().map(Reference::familiar).collect(),
            manifest: Some(package.top.digest),
            size: built.iter().flat_map(|one| &one.image.layers).map(|layer| layer.size).sum(),
            layers: built.iter().map(|one| one.image.layers.len()).sum(),
            cached,
            steps,
            elapsed: begun.elapsed(),
        };
        events.send(Event::Summary(summary.clone()));
        let config_digest = package.images.first().map_or(package.top.digest, |image| image.config_digest);
        Ok(BuildOutcome {
            image_id: if with_index { package.top.digest } else { config_digest },
            config_digest,
            descriptor: package.top,
            names: names.iter().map(ToString::to_string).collect(),
            summary,
            warnings: prepared.warnings,
        })
    }

    fn solver(
        &self,
        request: &BuildRequest,
        prepared: &Prepared,
        plan: &Plan,
        stat_cache: &Arc<FileStatCache>,
        mounts: &Arc<MountSettings>,
        events: &Events,
        cancel: &Cancel,
    ) -> Solver {
        let epoch = epoch_of(request, plan);
        let bases = prepared.bases.clone();
        let (_, write) = result::write_options(request, epoch);
        Solver {
            snapshots: self.snapshots.clone(),
            records: Records::new(self.store.clone()),
            executor: Arc::new(LocalExecutor::new(self.snapshots.clone(), self.sandbox.clone())),
            events: events.clone(),
            cancel: cancel.clone(),
            contexts: prepared.contexts.clone(),
            stat_cache: Some(stat_cache.clone()),
            bases: Box::new(move |step| base_chain(&bases, step)),
            run: RunSettings {
                mounts: mounts.clone(),
                network: prepared.network.clone(),
                ..self.run_settings(request, plan)
            },
            now: epoch.unwrap_or_else(now_seconds),
            write,
            no_cache: no_cache(request),
            jobs: request.jobs.unwrap_or(DEFAULT_JOBS),
        }
    }

    fn prepare(
        &self,
        request: &BuildRequest,
        stdin: &mut (dyn Read + Send),
        events: &Events,
        cancel: &Cancel,
    ) -> Result<Prepared, Failure> {
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
        let images = named
            .iter()
            .filter_map(|(name, context)| match context {
                NamedContext::Image(location) => Some((name.clone(), location.clone())),
                NamedContext::Files(_) => None,
            })
            .collect();
        let mut access = self.options.registries.clone();
        access.insecure.extend(request.insecure_registries.iter().cloned());
        let bases = Bases::new(&self.store, events, cancel, request.pull, access, images, &request.cwd);
        let platforms = platforms(&request.platforms)?;
        let mut plans = Vec::new();
        for platform in &platforms {
            let input = plan_input(request, &named, platform, platforms.len() > 1);
            plans.push((platform.clone(), plan_with_bases(&dockerfile, &input, &bases, cancel)?));
        }
        let warnings = report_warnings(&dockerfile, &plans, events);
        let context_root = main.context.root().to_owned();
        let contexts = contexts(main.context, &named, &request.cwd)?;
        let bases = Arc::new(bases);
        Ok(Prepared {
            contexts,
            context_root,
            plans,
            bases,
            warnings,
            network: self.network(),
            _scratch: scratch,
        })
    }

    /// A network that costs nothing until a process needs it.
    pub(super) fn network(&self) -> Arc<BuildNetwork> {
        Arc::new(BuildNetwork::new(self.options.network_helpers.clone(), self.ids.clone()))
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
            limits: request.limits.clone(),
            timeout: request.step_timeout,
            hostname: plan.hostname.clone(),
            no_overlay: Arc::default(),
            mounts: Arc::default(),
            network: Arc::default(),
        }
    }
}

fn private_ids() -> Result<PrivateIds, Failure> {
    PrivateIds::new().map_err(|error| {
        let text = format!("cannot make a user namespace for RUN: {error}");
        Failure::new(FailureKind::Sandbox, text).help("build without --userns=private")
    })
}

fn now_seconds() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_secs()).unwrap_or(0)
}

pub(super) fn parse_tags(tags: &[String]) -> Result<Vec<Reference>, Failure> {
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

/// Platforms asked for, each once; this machine's where none is.
fn platforms(texts: &[String]) -> Result<Vec<Platform>, Failure> {
    let mut all: Vec<Platform> = Vec::new();
    for text in texts {
        let platform = match text.as_str() {
            "local" => Platform::host(),
            text => {
                Platform::parse(text).map_err(|error| Failure::new(FailureKind::Usage, error.to_string()))?
            }
        };
        if !all.contains(&platform) {
            all.push(platform);
        }
    }
    if all.is_empty() {
        all.push(Platform::host());
    }
    Ok(all)
}

fn epoch_of(request: &BuildRequest, plan: &Plan) -> Option<i64> {
    request.source_date_epoch.or(plan.source_date_epoch)
}

fn plan_input(
    request: &BuildRequest,
    named: &BTreeMap<String, NamedContext>,
    platform: &Platform,
    several: bool,
) -> PlanInput {
    PlanInput {
        target: request.target.clone(),
        build_args: request.build_args.clone(),
        labels: request.labels.clone(),
        contexts: bases::plan_kinds(named),
        platform: platform.clone(),
        several_platforms: several,
        build_platform: Platform::host(),
        network: request.network,
        allow: request.allow.clone(),
    }
}

/// Asks for a plan until every config it needs is known.
fn plan_with_bases(
    dockerfile: &Dockerfile,
    input: &PlanInput,
    bases: &Bases,
    cancel: &Cancel,
) -> Result<Plan, Failure> {
    let mut configs = plan::BaseConfigs::new();
    loop {
        if cancel.is_cancelled() {
            return Err(Failure::new(FailureKind::Interrupted, "canceled"));
        }
        match plan::plan(dockerfile, input, &configs)? {
            Planned::Ready(plan) => return Ok(*plan),
            Planned::NeedsImages(requests) => bases.resolve_all(&requests, &mut configs)?,
        }
    }
}

fn report_warnings(dockerfile: &Dockerfile, plans: &[(Platform, Plan)], events: &Events) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let parser = dockerfile.warnings.iter().map(|warning| {
        (Some(warning.rule), warning.message.clone(), Some((dockerfile.source.clone(), warning.span)))
    });
    let planner = plans
        .iter()
        .flat_map(|(_, plan)| &plan.warnings)
        .map(|warning| (warning.rule, warning.message.clone(), warning.place.clone()));
    let mut texts = Vec::new();
    for (rule, message, place) in parser.chain(planner) {
        let location = place.map(|(source, span)| {
            let at = source.location(span.start);
            format!("{}:{}", source.name(), at.line)
        });
        if seen.insert((rule, message.clone(), location.clone())) {
            texts.push(message.clone());
            events.send(Event::Warning { message, location, rule });
        }
    }
    texts
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

fn base_chain(bases: &Arc<Bases>, step: &Step) -> Result<Chain, StepError> {
    match &step.kind {
        StepKind::From(from) => match &from.base {
            Base::Scratch => Ok(Chain::scratch()),
            Base::Image(name) => bases.layers(name, &from.platform).map_err(StepError::Base),
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

fn solve_failure(error: SolveError, cancel: &Cancel) -> Failure {
    let SolveError { step, place, error } = error;
    let no_space = error.is_no_space();
    let kind = match &error {
        StepError::Run(RunError::Sandbox(crate::sandbox::SandboxError::Setup { .. })) => FailureKind::Sandbox,
        StepError::Base(_) => FailureKind::Base,
        _ if error.is_canceled() && cancel.is_cancelled() => FailureKind::Interrupted,
        StepError::Snapshot(SnapshotError::Fetch(_))
        | StepError::Run(RunError::Snapshot(SnapshotError::Fetch(_))) => FailureKind::Base,
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
