//! A request made ready: contexts opened, bases looked up, plans made.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::cancel::Cancel;
use crate::context::{self, ContextKind, FileSource, FileStatCache, MainContext};
use crate::digest::Digest;
use crate::dockerfile::{self, Dockerfile, InstructionKind, Source};
use crate::event::{Event, Events};
use crate::image::Platform;
use crate::plan::{self, Plan, PlanInput, Planned, RemoteSource};
use crate::registry::SourceNetwork;
use crate::remote;
use crate::sources::{Rules, Vendor};
use crate::steps::mount::{Secret, SshSource};
use crate::steps::network::BuildNetwork;
use crate::steps::remote::{Found, RemoteOptions, Remotes};
use crate::store::{StoreError, TempDir};

use super::bases::{Bases, BuildBases};
use super::check;
use super::contexts::{self as fetching, Fetcher};
use super::engine::Engine;
use super::epoch::{self, Times};
use super::failure::{Failure, FailureKind};
use super::locking;
use super::named_context::{self, NamedContext};
use super::policies;
use super::request::{BuildRequest, PullPolicy};

/// A request with its contexts open and its plans made.
pub(super) struct Prepared {
    /// The Dockerfile as it was read.
    pub dockerfile: Arc<Source>,
    /// What named contexts are, by name.
    pub named: BTreeMap<String, NamedContext>,
    pub contexts: BTreeMap<String, Arc<dyn FileSource>>,
    /// The digest of the ignore file.
    pub ignore: Option<Digest>,
    /// For the stat cache.
    pub context_root: PathBuf,
    /// One for each platform.
    pub plans: Vec<(Platform, Plan)>,
    pub bases: BuildBases,
    pub remotes: Arc<Remotes>,
    pub warnings: Vec<String>,
    /// The time that everything gets which this build makes.
    pub epoch: Option<i64>,
    /// By id.
    pub deciding_secrets: BTreeMap<String, Digest>,
    /// One for all platforms.
    pub network: Arc<BuildNetwork>,
    pub _scratch: Vec<TempDir>,
}

impl Prepared {
    /// Whether nothing can come from outside while this is built: bases, contexts and sources of ADD are here, and the
    /// steps are closed.
    pub(super) fn is_hermetic(&self, request: &BuildRequest) -> bool {
        request.sources.offline && self.plans.iter().all(|(_, plan)| plan.is_closed())
    }
}

/// A request as far as it is read: no image has been looked for.
pub(super) struct Opened {
    pub(super) main: MainContext,
    pub(super) dockerfile: Dockerfile,
    pub(super) named: BTreeMap<String, NamedContext>,
    pub(super) build_args: Vec<(String, String)>,
    pub(super) epoch: Option<i64>,
    /// What the plan takes for the epoch that the Dockerfile itself names.
    pub(super) named_epoch: Option<String>,
    pub(super) remotes: Arc<Remotes>,
    /// Where archives and what was fetched lie.
    pub(super) scratch: Vec<TempDir>,
}

/// A request that cannot be opened.
pub(super) struct NotOpened {
    pub(super) failure: Failure,
    /// What of the Dockerfile stands before its first mistake, if it is that which does not parse.
    pub(super) before: Option<Box<Dockerfile>>,
}

impl From<Failure> for NotOpened {
    fn from(failure: Failure) -> Self {
        NotOpened { failure, before: None }
    }
}

impl From<NotOpened> for Failure {
    fn from(error: NotOpened) -> Self {
        error.failure
    }
}

impl Opened {
    /// Finds out what a source of ADD is, showing the progress of downloads.
    pub(super) fn look_up(
        &self,
        source: &RemoteSource,
        events: &Events,
        cancel: &Cancel,
    ) -> Result<Found, Failure> {
        let item = remote::without_credentials(&source.url);
        fetching::vertex(events, format!("resolve {item}"), |vertex| {
            let progress = |current, total| {
                events.send(Event::Progress { vertex, item: item.clone(), current, total });
            };
            self.remotes.find(source, &progress, cancel)
        })
    }

    /// What the plan for the first platform is made from.
    pub(super) fn first_input(&self, request: &BuildRequest) -> Result<PlanInput, Failure> {
        let platforms = platforms(&request.platforms)?;
        let platform = platforms.first().cloned().unwrap_or_else(Platform::host);
        let input = plan_input(request, &self.build_args, &self.named, &platform, false);
        Ok(PlanInput { epoch: self.named_epoch.clone(), ..input })
    }
}

impl Engine {
    pub(super) fn prepare(
        &self,
        request: &BuildRequest,
        stdin: &mut (dyn Read + Send),
        events: &Events,
        cancel: &Cancel,
    ) -> Result<Prepared, Failure> {
        self.store.cancel_by(cancel);
        let opened = self.open_request(request, Times::Resolved, stdin, events, cancel)?;
        let bases = self.bases(request, &opened, request.pull, events, cancel);
        let Opened { main, dockerfile, named, build_args, epoch, named_epoch, remotes, scratch } = opened;
        let platforms = platforms(&request.platforms)?;
        let (mut plans, mut warnings) = (Vec::new(), check::Warnings::default());
        // One for all platforms: a tag that moves meanwhile means the same image to all of them.
        let mut configs = plan::BaseConfigs::default();
        for platform in &platforms {
            let mut input = plan_input(request, &build_args, &named, platform, platforms.len() > 1);
            input.epoch.clone_from(&named_epoch);
            if request.source_date_epoch.is_some() || !sets_epoch(&dockerfile) {
                pass_epoch(epoch, &mut input.build_args);
            }
            let plan = plan_with_bases(&dockerfile, &input, &bases, &mut configs, cancel)?;
            locking::check_plan(&plan, &remotes)?;
            warnings.of_plan(&main, &dockerfile, &input, &configs, &plan, events)?;
            plans.push((platform.clone(), plan));
        }
        let warnings = warnings.finish()?;
        let context_root = main.context.root().to_owned();
        let ignore = main.context.rules().digest();
        let contexts = contexts(main.context, &named, &request.cwd)?;
        let bases = BuildBases::new(bases);
        let epoch = plans.iter().find_map(|(_, plan)| plan.source_date_epoch).or(epoch);
        Ok(Prepared {
            dockerfile: dockerfile.source.clone(),
            named,
            contexts,
            ignore,
            context_root,
            plans,
            bases,
            remotes,
            warnings,
            epoch,
            deciding_secrets: self.deciding_secrets(&request.secrets)?,
            network: self.network(),
            _scratch: scratch,
        })
    }

    /// Digests of the secrets that were given with `invalidate=true`.
    fn deciding_secrets(
        &self,
        secrets: &BTreeMap<String, Secret>,
    ) -> Result<BTreeMap<String, Digest>, StoreError> {
        let deciding: Vec<_> = secrets.iter().filter(|(_, secret)| secret.invalidates).collect();
        if deciding.is_empty() {
            return Ok(BTreeMap::new());
        }
        let key = self.store.secret_key()?;
        Ok(deciding.into_iter().map(|(id, secret)| (id.clone(), secret.keyed_digest(id, &key))).collect())
    }

    /// Reads the context, the Dockerfile and what named contexts are; what lies elsewhere is fetched.
    pub(super) fn open_request(
        &self,
        request: &BuildRequest,
        times: Times,
        stdin: &mut (dyn Read + Send),
        events: &Events,
        cancel: &Cancel,
    ) -> Result<Opened, NotOpened> {
        let rules = Arc::new(Rules::new(request.sources.clone(), events));
        policies::load(&rules, request)?;
        policies::check_local(&rules, request)?;
        locking::load_given(&rules, request)?;
        if let Some(dir) = &request.sources.vendor {
            let dir: std::path::PathBuf = request.cwd.join(dir).components().collect();
            if Vendor::is_unfinished(&dir) {
                let message = format!("{} is incomplete: `rbuild vendor` did not end", dir.display());
                return Err(Failure::new(FailureKind::Base, message).help("run it again").into());
            }
            let named = |failure: Failure| failure.help("--vendor names what `rbuild vendor` has written");
            rules.take_from(Vendor::open(&dir, &self.store).map_err(|error| named(error.into()))?);
        }
        let mut fetch = Fetcher::new(&self.store, self.remotes(request, &rules), events, cancel);
        let (main, context_time) = fetch.main(request, stdin)?;
        policies::refuse_rego(request, &main)?;
        locking::load_beside(&rules, request, &main)?;
        let dockerfile = parse(&main, &request.build_args)?;
        let epoch = match request.source_date_epoch {
            None if request.reproducible => Some(context_time.unwrap_or_else(|| self.context_time(&main))),
            given => given,
        };
        let (mut named, mut own_times) = (BTreeMap::new(), BTreeMap::new());
        for (name, value) in &request.build_contexts {
            let (context, time) = fetch.named(value, &request.cwd)?;
            named.insert(name.to_lowercase(), context);
            own_times.insert(name.to_lowercase(), time);
        }
        let mut build_args = request.build_args.clone();
        let platform = platforms(&request.platforms)?.first().cloned().unwrap_or_else(Platform::host);
        let input = plan_input(request, &build_args, &named, &platform, false);
        let mut named_epoch = None;
        if let Some(epoch) = plan::epoch(&dockerfile, &input, named.keys()).map_err(Failure::from)? {
            let own = epoch::OwnTimes { context: context_time.or(main.newest_file), named: own_times };
            match epoch::resolve(&epoch, &own, times, &mut fetch, events)? {
                Some(text) if epoch.of_dockerfile => named_epoch = Some(text),
                Some(text) => build_args.push((EPOCH.to_owned(), text)),
                None => {}
            }
        }
        let (remotes, scratch) = fetch.finish();
        Ok(Opened { main, dockerfile, named, build_args, epoch, named_epoch, remotes, scratch })
    }

    /// Where the images of a request come from.
    pub(super) fn bases(
        &self,
        request: &BuildRequest,
        opened: &Opened,
        policy: PullPolicy,
        events: &Events,
        cancel: &Cancel,
    ) -> Bases {
        let images = opened
            .named
            .iter()
            .filter_map(|(name, context)| match context {
                NamedContext::Image(location) => Some((name.clone(), location.clone())),
                NamedContext::Files(_) | NamedContext::Fetched(_) | NamedContext::Scratch => None,
            })
            .collect();
        let mut access = self.access(request, events);
        access.network = self.source_network(request);
        let rules = opened.remotes.rules().clone();
        Bases::new(&self.snapshots, events, cancel, policy, access, rules, images, &request.cwd)
    }

    pub(super) fn keep_stats(&self, stats: &FileStatCache) -> std::io::Result<()> {
        if !stats.learnt_something() {
            return Ok(());
        }
        let scratch = self.store.temp_dir().map_err(std::io::Error::other)?;
        stats.save(scratch.path())
    }

    fn remotes(&self, request: &BuildRequest, rules: &Arc<Rules>) -> Remotes {
        let ssh_agent = match request.ssh.get("default") {
            Some(SshSource::Agent(socket) | SshSource::Raw(socket)) => Some(socket.clone()),
            _ => None,
        };
        let network = self.source_network(request);
        let options = RemoteOptions { ssh_agent, network, ..self.options.remotes.clone() };
        Remotes::new(self.store.clone(), options, request.secrets.clone(), rules.clone())
    }

    /// Where sources may be: what the request and the configuration agree on.
    fn source_network(&self, request: &BuildRequest) -> SourceNetwork {
        if request.sources.offline {
            return SourceNetwork::Nowhere;
        }
        request.source_network.max(self.options.registries.settings.source_network())
    }

    /// When the context was committed; 0 where nobody says, since times of files differ from checkout to
    /// checkout.
    fn context_time(&self, main: &MainContext) -> i64 {
        let search_path = self.options.remotes.search_path.as_deref();
        match main.kind {
            ContextKind::Directory => remote::head_time(main.context.root(), search_path).unwrap_or(0),
            ContextKind::Archive | ContextKind::DockerfileOnly => 0,
        }
    }
}

/// The build argument that names a frontend, whatever the Dockerfile says.
const SYNTAX: &str = "BUILDKIT_SYNTAX";

fn parse(main: &MainContext, build_args: &[(String, String)]) -> Result<Dockerfile, NotOpened> {
    let parsed = dockerfile::parse(&main.dockerfile_name, &main.dockerfile).map_err(|errors| NotOpened {
        before: errors.before().cloned().map(Box::new),
        failure: plan::PlanError::from(errors).into(),
    })?;
    let given = build_args.iter().rev().find(|(name, _)| name == SYNTAX).map(|(_, value)| value);
    let Some(text) = given.or(parsed.directives.syntax.as_ref().map(|word| &word.text)) else {
        return Ok(parsed);
    };
    let image = text.split_whitespace().next().unwrap_or_default();
    if is_dockerfile_frontend(image) {
        return Ok(parsed);
    }
    let message =
        format!("the frontend {image:?} is not supported: rbuild understands Dockerfiles by itself");
    let failure = Failure::new(FailureKind::Unsupported, message);
    let failure = match (given, &parsed.directives.syntax) {
        (None, Some(syntax)) => failure
            .help("if this is an ordinary Dockerfile, remove the line, or ignore it by --build-arg BUILDKIT_SYNTAX=docker/dockerfile")
            .at(&parsed.source, syntax.span),
        _ => failure.help("it comes from --build-arg BUILDKIT_SYNTAX"),
    };
    Err(failure.into())
}

/// Whether an image is the official frontend, which a mirror has under a longer name.
fn is_dockerfile_frontend(image: &str) -> bool {
    let name = image.split('@').next().unwrap_or_default();
    let (above, last) = name.rsplit_once('/').unwrap_or(("", name));
    let last = last.split(':').next().unwrap_or_default();
    let official = matches!(last, "dockerfile" | "dockerfile-upstream");
    official && (above == "docker" || above.ends_with("/docker"))
        || (above.is_empty() && last == "dockerfile.v0")
}

/// Platforms asked for, each once; this machine's where none is.
pub(super) fn platforms(texts: &[String]) -> Result<Vec<Platform>, Failure> {
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

pub(super) fn epoch_of(request: &BuildRequest, plan: &Plan) -> Option<i64> {
    plan.source_date_epoch.or(request.source_date_epoch)
}

const EPOCH: &str = "SOURCE_DATE_EPOCH";

/// As buildx does, the epoch becomes a build argument, which RUN sees where the stage declares it.
/// One that is given stays.
fn pass_epoch(epoch: Option<i64>, build_args: &mut Vec<(String, String)>) {
    let given = build_args.iter().any(|(name, _)| name == EPOCH);
    if let Some(epoch) = epoch.filter(|_| !given) {
        build_args.push((EPOCH.to_owned(), epoch.to_string()));
    }
}

/// Whether the Dockerfile itself has an epoch for all stages.
fn sets_epoch(dockerfile: &Dockerfile) -> bool {
    dockerfile.global_args.iter().any(|instruction| match &instruction.kind {
        InstructionKind::Arg(all) => all.iter().any(|one| one.name.text == EPOCH && one.default.is_some()),
        _ => false,
    })
}

fn plan_input(
    request: &BuildRequest,
    build_args: &[(String, String)],
    named: &BTreeMap<String, NamedContext>,
    platform: &Platform,
    several: bool,
) -> PlanInput {
    PlanInput {
        target: request.target.clone(),
        stage: None,
        build_args: build_args.to_vec(),
        epoch: None,
        labels: request.labels.clone(),
        contexts: named_context::plan_kinds(named),
        platform: platform.clone(),
        platform_given: !request.platforms.is_empty(),
        several_platforms: several,
        build_platform: Platform::host(),
        network: request.network,
        allow: request.allow.clone(),
    }
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
            Planned::NeedsImages(requests) => {
                let stages: Vec<&str> = dockerfile.stages.iter().filter_map(|stage| stage.name()).collect();
                bases.resolve_all(&requests, configs, &stages)?;
            }
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
        let opened = match context {
            NamedContext::Files(path) => context::open_named(&path.clone().into(), cwd)?,
            NamedContext::Fetched(path) => context::open_fetched(path)?,
            NamedContext::Image(_) | NamedContext::Scratch => continue,
        };
        contexts.insert(name.clone(), Arc::new(opened));
    }
    Ok(contexts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_official_frontend_is_known_wherever_it_lies() {
        for image in [
            "docker/dockerfile",
            "docker/dockerfile:1.7-labs",
            "docker.io/docker/dockerfile:1@sha256:0a",
            "localhost:5000/docker/dockerfile",
            "mirror.test/hub/docker/dockerfile-upstream:master",
            "dockerfile.v0",
        ] {
            assert!(is_dockerfile_frontend(image), "{image}");
        }
        for image in [
            "",
            "dockerfile",
            "docker/dockerfile-copy",
            "docker/dockerfile/x",
            "mydocker/dockerfile",
            "mirror.test/mydocker/dockerfile",
            "x/dockerfile.v0",
            "mirror.test/docker/dockerfile2",
        ] {
            assert!(!is_dockerfile_frontend(image), "{image}");
        }
    }
}
