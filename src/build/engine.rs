//! From a request to an image: context, Dockerfile, plan, solve, image, outputs.

use std::ffi::OsString;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::cache::{Import, Lookup, Records};
use crate::cancel::Cancel;
use crate::context::FileStatCache;
use crate::event::{Event, Events, Summary};
use crate::image::{self, Family, Platform, Reference};
use crate::layer::OnDiskIds;
use crate::plan::{Base, Entitlements, Plan, Step, StepKind};
use crate::registry::RegistryAccess;
use crate::sandbox::{AppArmor, Chroot, Forward, Native, OciRuntime, PrivateIds, Sandbox, Ulimit};
use crate::snapshot::{Chain, Snapshots};
use crate::solve::{Executor, LocalExecutor, NoExecutor, ResultKind, Solver, StepError};
use crate::steps::mount::MountSettings;
use crate::steps::network::BuildNetwork;
use crate::steps::remote::RemoteOptions;
use crate::steps::run::{DEFAULT_SHM, RunSettings};
use crate::store::Store;

use super::attestations;
use super::bases::Bases;
use super::caching::{self, Solution};
use super::failure::{Failure, FailureKind};
use super::history::{History, Recorded};
use super::outputs;
use super::permission::Asking;
use super::prepare::{Prepared, epoch_of};
use super::provenance;
use super::request::{BuildOutcome, BuildRequest, OutputKind, OutputSpec};
use super::result::{self, Built};
use super::solve_failure;
use super::space;
use super::squash;

/// Steps at work at once where nothing is said; a step that waits costs nothing.
const DEFAULT_JOBS: usize = 32;

/// Whose root RUN's root is, where root builds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Userns {
    /// This machine's, with Docker's restrictions.
    Host,
    /// Nobody's. An error where that cannot be.
    Private,
    /// Nobody's, unless the step would lose something by it that it has in BuildKit, or this machine
    /// makes it impossible.
    #[default]
    Auto,
}

/// How an engine is set up.
#[derive(Clone, Debug, Default)]
pub struct EngineOptions {
    /// Root of the store.
    pub root: PathBuf,
    /// Only one user ID is mapped.
    pub single_id: bool,
    /// Why this machine can execute no step, if so. Everything else works.
    pub no_sandbox: Option<String>,
    /// RUN is executed by chroot(2), without namespaces: for root of a container. See [`crate::sandbox::Chroot`].
    pub chroot: bool,
    /// Whether RUN gets users and groups of its own: its root is not this machine's. Only for root, since
    /// others are in a user namespace anyway.
    pub userns: Userns,
    /// Runs RUN instead of rbuild's own sandbox. Needs more than one ID, and not private ones.
    pub runtime: Option<OciRuntime>,
    /// The AppArmor profile of RUN.
    pub apparmor: AppArmor,
    /// Content of `/etc/resolv.conf` for RUN.
    pub resolv_conf: Vec<u8>,
    /// Where the programs that connect RUN's own network are looked for, as in `PATH`; without any, RUN uses
    /// this machine's.
    pub network_helpers: Option<OsString>,
    /// Whoever runs the container ends it when less than this part of the disk is free, in percent.
    pub evicted_below: Option<u8>,
    /// Registries.
    pub registries: RegistryAccess,
    /// Downloads and git repositories.
    pub remotes: RemoteOptions,
}

/// A build that is ready to be solved.
pub(super) struct Work<'a> {
    pub request: &'a BuildRequest,
    pub prepared: &'a Prepared,
    pub stat_cache: &'a Arc<FileStatCache>,
    pub mounts: &'a Arc<MountSettings>,
    pub begun: SystemTime,
    pub history: &'a Arc<History>,
}

/// A request whose steps are known, before the first of them is looked up.
pub(super) struct Ready {
    /// The names of the image.
    pub names: Vec<Reference>,
    pub import: Option<Arc<Import>>,
    pub prepared: Prepared,
    /// As it was given, with the epoch that was found.
    pub request: BuildRequest,
    pub stat_cache: Arc<FileStatCache>,
    pub mounts: Arc<MountSettings>,
}

/// Builds images in one store.
pub struct Engine {
    pub(super) store: Store,
    pub(super) snapshots: Snapshots,
    pub(super) sandbox: Arc<dyn Sandbox>,
    ids: Option<PrivateIds>,
    pub(super) options: EngineOptions,
}

impl Engine {
    /// Opens the store.
    pub fn open(options: EngineOptions) -> Result<Self, Failure> {
        check_runtime(&options)?;
        options.apparmor.check().map_err(|error| Failure::new(FailureKind::Sandbox, error))?;
        let store = Store::open(&options.root)?;
        let ids = match (&options.no_sandbox, options.single_id) {
            (Some(_), _) => OnDiskIds::ContentsOnly,
            (None, true) => OnDiskIds::AllToSelf,
            (None, false) => OnDiskIds::Keep,
        };
        let snapshots = Snapshots::new(store.clone(), ids);
        let own = options.userns != Userns::Host && options.runtime.is_none() && !options.chroot;
        let ids = own.then(PrivateIds::default);
        let sandbox: Arc<dyn Sandbox> = match (&options.runtime, &ids) {
            _ if options.chroot => Arc::new(Chroot::new()),
            (Some(runtime), _) => Arc::new(runtime.clone().confined_by(options.apparmor.clone())),
            (None, Some(ids)) if options.userns == Userns::Auto => {
                Arc::new(Native::with_ids_where_possible(ids.clone()).confined_by(options.apparmor.clone()))
            }
            (None, Some(ids)) => {
                Arc::new(Native::with_ids(ids.clone()).confined_by(options.apparmor.clone()))
            }
            (None, None) => Arc::new(Native::new(options.single_id).confined_by(options.apparmor.clone())),
        };
        Ok(Engine { store, snapshots, sandbox, ids, options })
    }

    /// What executes RUN, for people.
    pub fn sandbox(&self) -> String {
        self.sandbox.describe()
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
        let request = BuildRequest { allow: Entitlements::all(), ..request.clone() };
        Ok(self.prepare(&request, stdin, events, cancel)?.plans)
    }

    /// Builds.
    pub fn build(
        &self,
        request: &BuildRequest,
        stdin: &mut (dyn Read + Send),
        events: &Events,
        cancel: &Cancel,
    ) -> Result<BuildOutcome, Failure> {
        outputs::check(request)?;
        squash::check(request)?;
        let access = self.access(request, events);
        let pushed_to = outputs::pushed_to(request)?;
        let asked = if request.skip_push_check { &[][..] } else { &pushed_to };
        let asking = Asking::begin(&access, asked, cancel);
        let Recorded { events, history } = History::begin(&self.store, request, events, asking.cancel());
        let result = self.build_until(request, stdin, &events, asking.cancel(), &history);
        let result = asking.ended(result);
        history.end(&result);
        self.store.cancel_by(cancel);
        result
    }

    /// How the registries of a request are reached.
    pub(super) fn access(&self, request: &BuildRequest, events: &Events) -> RegistryAccess {
        let mut access = self.options.registries.clone();
        access.insecure.extend(request.insecure_registries.iter().cloned());
        access.notices = access.notices.to(events);
        access
    }

    fn build_until(
        &self,
        request: &BuildRequest,
        stdin: &mut (dyn Read + Send),
        events: &Events,
        cancel: &Cancel,
        history: &Arc<History>,
    ) -> Result<BuildOutcome, Failure> {
        let (begun, begun_at) = (Instant::now(), SystemTime::now());
        space::warn(&self.store, self.options.evicted_below, events);
        let ready = self.make_ready(request, stdin, events, cancel, history)?;
        let Ready { names, import, prepared, request, stat_cache, mounts } = ready;
        let request = &request;
        // What only goes to registries need not be here: layers of bases go from one to the other.
        let only_pushed = !request.outputs.is_empty()
            && request.outputs.iter().all(|output| output.push || output.kind == OutputKind::CacheOnly);
        let makes_image = request.makes_image();
        prepared.network.expect(prepared.plans.iter().flat_map(|(_, plan)| &plan.steps));
        let with_index = prepared.plans.len() > 1 || request.multi_platform;
        let write = |built: &[Built], complete: bool, cancel: &Cancel| {
            let all = outputs::Results { built, with_index, names: &names, complete };
            outputs::write_all(self, request, &all, events, cancel)
        };
        let (built, solutions) =
            caching::with_import(import.as_deref(), &self.store, events, cancel, |cancel| {
                let (prepared, stat_cache, mounts) = (&prepared, &stat_cache, &mounts);
                let work = Work { request, prepared, stat_cache, mounts, begun: begun_at, history };
                let (built, solutions) =
                    self.solve_all(&work, only_pushed, import.as_ref(), events, cancel)?;
                // A push may find that a cache has not what it promised.
                if only_pushed {
                    let complete = built.iter().all(|one| one.chain.is_here(&self.store));
                    if let Err(failure) = write(&built, complete, cancel) {
                        let cells = built.iter().flat_map(|one| one.chain.cells());
                        cells.for_each(|cell| drop(cell.ensure_proved(&self.store)));
                        return Err(failure);
                    }
                }
                Ok((built, solutions))
            })?;
        history.solved(&solutions);
        // A cache that cannot be written costs time in the next build and nothing else.
        let _ = self.keep_stats(&stat_cache);
        let own = request.compression();
        let attaching = attestations::of_store(request, &names);
        let package = || {
            let (all, attaching) = (&request.annotations, attaching.as_ref());
            result::package(self, &built, own, Family::Oci, all, with_index, attaching)
        };
        let package = makes_image.then(package).transpose()?;
        let complete = !only_pushed || built.iter().all(|one| one.chain.is_here(&self.store));
        if !only_pushed {
            write(&built, complete, cancel)?;
        }
        for name in names.iter().filter(|_| complete) {
            let Some(package) = &package else { continue };
            image::inspect::name_in_store(&self.store, name, &package.top)?;
        }
        if let (Some(package), true, true) = (&package, names.is_empty(), complete) {
            image::ids::keep_unnamed(&self.store, &package.id(with_index), &package.top.digest)?;
        }
        let image = package.map(|package| package.into_image(with_index));
        self.export_caches(request, &solutions, import.as_deref(), events, cancel)?;
        // Caches that are still being read have nothing more to say after the end.
        drop(import);
        let cached = solutions.iter().map(|one| one.solved.cached).sum();
        let is_work = |step: &&Step| !matches!(step.kind, StepKind::From(_));
        let steps = solutions.iter().map(|one| one.plan.steps.iter().filter(is_work).count()).sum();
        let layers = || built.iter().filter_map(|one| one.image(own)).flat_map(|image| &image.layers);
        let summary = Summary {
            names: names.iter().map(Reference::familiar).collect(),
            id: image.as_ref().map(|image| image.id),
            manifest: image.as_ref().and_then(|image| image.descriptor.as_ref()).map(|top| top.digest),
            size: layers().map(|layer| layer.size).sum(),
            layers: layers().count(),
            cached,
            steps,
            elapsed: begun.elapsed(),
            details: Vec::new(),
        };
        events.send(Event::Summary(summary.clone()));
        let names = names.iter().map(ToString::to_string).collect();
        let on_stdout = request.outputs_on_stdout() > 0;
        let hermetic = prepared.is_hermetic(request);
        Ok(BuildOutcome { image, names, summary, warnings: prepared.warnings, on_stdout, hermetic })
    }

    /// Comes as far as to know what there is to do.
    pub(super) fn make_ready(
        &self,
        request: &BuildRequest,
        stdin: &mut (dyn Read + Send),
        events: &Events,
        cancel: &Cancel,
        history: &History,
    ) -> Result<Ready, Failure> {
        let names = parse_tags(&request.tags)?;
        caching::check(request)?;
        // Caches are read while bases are looked up.
        let import = self.import_caches(request, events, cancel)?;
        let prepared = self.prepare(request, stdin, events, cancel)?;
        history.prepared(&prepared, import.as_ref());
        let request = BuildRequest { source_date_epoch: prepared.epoch, ..request.clone() };
        outputs::check_times(&request)?;
        let stat_cache = FileStatCache::open(&self.store.stat_cache_path(&prepared.context_root));
        let mounts = MountSettings::new(request.secrets.clone(), request.ssh.clone());
        let (stat_cache, mounts) = (Arc::new(stat_cache), Arc::new(mounts));
        Ok(Ready { names, import, prepared, request, stat_cache, mounts })
    }

    /// Brings all plans to results, and to images where there are to be some.
    fn solve_all<'a>(
        &self,
        work: &Work<'a>,
        only_pushed: bool,
        import: Option<&Arc<Import>>,
        events: &Events,
        cancel: &Cancel,
    ) -> Result<(Vec<Built>, Vec<Solution<'a>>), Failure> {
        let Work { request, prepared, .. } = *work;
        let (makes_image, compressions) = (request.makes_image(), request.compressions());
        let (mut built, mut solutions) = (Vec::new(), Vec::new());
        for (platform, plan) in &prepared.plans {
            work.history.begin_platform(platform, plan, prepared);
            let solver = self.solver(work, plan, import, events, cancel);
            let solved =
                solver.solve(plan).map_err(|error| solve_failure::explained(error, &self.store, cancel))?;
            let chain = result::final_chain(plan, &solved);
            if makes_image && !only_pushed {
                chain.ensure_blobs(&self.store)?;
            }
            // What is only cached elsewhere is needed by nobody here.
            if only_pushed && request.outputs.iter().any(|output| output.push) {
                chain.cells().iter().try_for_each(|cell| cell.ensure_blob_for_push(&self.store))?;
            }
            let epoch = epoch_of(request, plan);
            let solution = Solution { plan, solved };
            let mut images = Vec::new();
            for choice in compressions.iter().take_while(|_| makes_image) {
                let whole = wants_bytes(request, prepared.plans.len());
                let mut image = self.image(
                    plan,
                    &solution.solved,
                    solver.now,
                    epoch,
                    *choice,
                    (whole, request.squash),
                    cancel,
                )?;
                if request.has_inline_cache() {
                    caching::add_inline(&mut image, &solution)?;
                }
                images.push((*choice, image));
            }
            let platform_given = !request.platforms.is_empty();
            let finished = provenance::Finished {
                request,
                prepared,
                plan,
                solved: &solution.solved,
                image: images.first().map(|(_, image)| image),
                begun: work.begun,
                epoch,
            };
            let mut statements = finished.statements()?;
            statements.extend(self.bills(request, prepared, plan, &solution.solved, epoch, cancel)?);
            built.push(Built { images, chain, platform: platform.clone(), platform_given, statements });
            solutions.push(solution);
        }
        if request.looks_for_secrets() {
            let results = solutions.iter().map(|one| (one.plan, &one.solved));
            self.look_for_secrets(request, results, events, cancel)?;
        }
        Ok((built, solutions))
    }

    pub(super) fn solver(
        &self,
        work: &Work<'_>,
        plan: &Plan,
        import: Option<&Arc<Import>>,
        events: &Events,
        cancel: &Cancel,
    ) -> Solver {
        let Work { request, prepared, stat_cache, mounts, .. } = *work;
        let epoch = epoch_of(request, plan);
        let bases = prepared.bases.share();
        let write = result::write_options(request, epoch);
        Solver {
            snapshots: self.snapshots.clone(),
            records: Records::new(self.store.clone()),
            elsewhere: import.map(|import| import.clone() as Arc<dyn Lookup>),
            keep_keys: !request.cache_to.is_empty(),
            executor: self.executor(),
            events: events.clone(),
            cancel: cancel.clone(),
            contexts: prepared.contexts.clone(),
            remotes: prepared.remotes.clone(),
            stat_cache: Some(stat_cache.clone()),
            bases: Box::new(move |step| base_chain(&bases, step)),
            run: RunSettings {
                mounts: mounts.clone(),
                network: prepared.network.clone(),
                ..self.run_settings(request, plan)
            },
            now: epoch.unwrap_or_else(now_seconds),
            deciding_secrets: prepared.deciding_secrets.clone(),
            same_times: request.reproducible && write.clamp_mtime.is_some(),
            write,
            result: match (request.makes_image(), wants_bytes(request, prepared.plans.len())) {
                (false, _) => ResultKind::Files,
                (true, false) => {
                    ResultKind::Draft { opened: request.outputs.iter().any(OutputSpec::reads_files) }
                }
                (true, true) => ResultKind::Image,
            },
            no_cache: no_cache(request),
            oldest: oldest(request),
            jobs: request.jobs.unwrap_or_else(|| crate::threads::steps(DEFAULT_JOBS)),
            witness: Some(work.history.clone()),
        }
    }

    fn executor(&self) -> Arc<dyn Executor> {
        match &self.options.no_sandbox {
            None => Arc::new(LocalExecutor::new(self.snapshots.clone(), self.sandbox.clone())),
            Some(reason) => Arc::new(NoExecutor { reason: reason.clone() }),
        }
    }

    /// A network that costs nothing until a process needs it.
    pub(super) fn network(&self) -> Arc<BuildNetwork> {
        if self.options.chroot {
            return Arc::new(BuildNetwork::shared());
        }
        Arc::new(BuildNetwork::new(self.options.network_helpers.clone(), self.ids.clone()))
    }

    /// A network with ports of this machine that lead inside; why there is none.
    pub(super) fn network_with(&self, ports: Vec<Forward>) -> Result<Arc<BuildNetwork>, String> {
        if self.options.chroot {
            return Err("without network namespaces the program listens on the container's own ports".into());
        }
        let (search_path, ids) = (self.options.network_helpers.clone(), self.ids.clone());
        BuildNetwork::forwarding(search_path, ids, ports).map(Arc::new)
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
            overlays: Arc::default(),
            roots: Arc::default(),
            mounts: Arc::default(),
            network: Arc::default(),
        }
    }
}

/// Whether layers are compressed now. Over several platforms the ID is the digest of their index, which
/// nobody knows without.
fn wants_bytes(request: &BuildRequest, platforms: usize) -> bool {
    request.wants_bytes() || platforms > 1 || request.multi_platform
}

/// What an OCI runtime cannot do, the own sandbox can.
fn check_runtime(options: &EngineOptions) -> Result<(), Failure> {
    let unsupported = |text: &str, help: &str| {
        let text = format!("--isolation=oci does not work with {text}");
        Err(Failure::new(FailureKind::Unsupported, text).help(help))
    };
    match options {
        EngineOptions { runtime: None, .. } => Ok(()),
        EngineOptions { userns: Userns::Private, .. } => {
            unsupported("--userns=private", "build with one of them")
        }
        EngineOptions { single_id: true, .. } => unsupported(
            "one user ID only",
            "build without it, or add ranges to /etc/subuid and /etc/subgid and install newuidmap",
        ),
        _ => Ok(()),
    }
}

/// When the results were made, at the earliest, that a build may use; in seconds since 1970.
pub(super) fn oldest(request: &BuildRequest) -> Option<i64> {
    request.cache_lifetime.map(|lifetime| now_seconds().saturating_sub(lifetime))
}

pub(super) fn now_seconds() -> i64 {
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

fn base_chain(bases: &Arc<Bases>, step: &Step) -> Result<Chain, StepError> {
    match &step.kind {
        StepKind::From(from) => match &from.base {
            Base::Scratch => Ok(Chain::scratch()),
            Base::Image { id, name } => bases.layers(*id, name).map_err(StepError::Base),
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
