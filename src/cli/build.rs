//! `rbuild build` and `rbuild plan`.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use crate::build::{
    Annotation, BuildOutcome, BuildRequest, Engine, EngineAddress, Failure, FailureKind, OutputKind,
    OutputSpec, PullPolicy, RunNetwork,
};
use crate::cancel::CancelRead;
use crate::context::FetchedContext;
use crate::event::Events;
use crate::progress::{self, Ledger, Mode, Renderer};

use super::args::{BuildArgs, InputArgs, PlanArgs, PlanFormat};
use super::environment::Environment;
use super::flags;
use super::results::ResultFile;
use super::{Session, Stop, cache, ci, dry_run, isolation, outputs, print, print_json, secret, values};

/// Builds, and says so in the ways asked for.
pub(super) fn build(session: &Session, args: BuildArgs) -> Result<u8, Stop> {
    if let Some(call) = args.call.parse()? {
        dry_run::refuse(&args, "a check or another call")?;
        return super::check::answer(session, &args, call);
    }
    if let Some(format) = args.dry_run.dry_run {
        return dry_run::dry_run(session, &args, format);
    }
    let work = |engine: &Engine, request: &BuildRequest, events: &Events| {
        engine.build(request, &mut CancelRead::stdin(&session.cancel), events, &session.cancel)
    };
    let (outcome, files) = with_engine(session, &args, work)?;
    report(session, &args, &outcome, files)?;
    Ok(0)
}

/// The files that get the outcome.
pub(super) struct Results {
    id: Option<ResultFile>,
    metadata: Option<ResultFile>,
}

/// Checks the flags and does something that builds.
pub(super) fn with_engine<T>(
    session: &Session,
    args: &BuildArgs,
    work: impl FnOnce(&Engine, &BuildRequest, &Events) -> Result<T, Failure>,
) -> Result<(T, Results), Stop> {
    dry_run::refuse(args, "this command")?;
    refuse_later(args)?;
    let mode = progress_mode(args.progress.as_deref(), args.quiet, &session.env)?;
    let ci = ci::choose(args.ci.as_deref(), &session.env)?;
    let request = request(args, &session.env)?;
    let isolation = isolation::choice(args.isolation.as_deref(), args.runtime.as_deref(), &session.env)?;
    let files = Results {
        id: ResultFile::check(args.iidfile.as_deref())?,
        metadata: ResultFile::check(args.metadata_file.as_deref())?,
    };
    let apparmor = isolation::apparmor(&args.security_opts)?;
    session.watch_signals()?;
    let engine = session.engine_with(args.userns, isolation, apparmor)?;
    for file in files.id.iter().chain(&files.metadata) {
        file.clear()?;
    }
    let job = ci::begin(ci, &session.env);
    let inner = session.renderer_for(mode, job.map(|job| job.ci));
    let renderer = Arc::new(Ledger::new(inner).locating(job.map(|_| ci::below_root as progress::Locate)));
    let events = Events::new(renderer.clone());
    let begun = std::time::Instant::now();
    let result = work(&engine, &request, &events);
    renderer.finish();
    let tell = matches!(mode, Mode::Plain | Mode::Tty);
    if mode != Mode::Quiet {
        ci::summarize(&session.env, &renderer, result.as_ref().err());
    }
    let done = result.map_err(|failure| for_the_screen(failure, &*renderer, begun.elapsed()))?;
    super::store::after_build(session, engine.store(), tell);
    Ok((done, files))
}

/// Checks the flags as for a build, and asks something that leaves no trace: files of results stay as they are.
pub(super) fn with_looking_engine<T>(
    session: &Session,
    args: &BuildArgs,
    work: impl FnOnce(&Engine, &BuildRequest, &Events) -> Result<T, Failure>,
) -> Result<T, Stop> {
    refuse_later(args)?;
    let mode = progress_mode(args.progress.as_deref(), args.quiet, &session.env)?;
    let request = request(args, &session.env)?;
    isolation::choice(args.isolation.as_deref(), args.runtime.as_deref(), &session.env)?;
    isolation::apparmor(&args.security_opts)?;
    session.watch_signals()?;
    let engine = session.engine()?;
    let renderer = session.renderer(mode);
    let result = work(&engine, &request, &Events::new(renderer.clone()));
    renderer.finish();
    Ok(result?)
}

/// What of a build's failure is still to be shown. Who interrupts a build knows why it ended, and which step was
/// the first to notice means nothing.
fn for_the_screen(mut failure: Failure, renderer: &dyn Renderer, elapsed: Duration) -> Failure {
    if failure.kind == FailureKind::Interrupted {
        let time = progress::whole_seconds(elapsed.as_secs());
        let message = format!("interrupted after {time}; finished steps are cached");
        return Failure::new(FailureKind::Interrupted, message);
    }
    if failure.step.as_deref().is_some_and(|step| renderer.shows_end_of(step)) {
        failure.tail.clear();
    }
    failure
}

/// Says what was built in the ways asked for.
pub(super) fn report(
    session: &Session,
    args: &BuildArgs,
    outcome: &BuildOutcome,
    files: Results,
) -> Result<(), Stop> {
    // Where there is no image the line is empty, as in BuildKit.
    let id = outcome.image.as_ref().map(|image| image.id.to_string()).unwrap_or_default();
    if let Some(file) = files.id {
        file.write(id.as_bytes())?;
    }
    if let Some(file) = files.metadata {
        file.write(metadata(outcome, session.env.metadata_warnings).as_bytes())?;
    }
    if args.quiet && !outcome.on_stdout {
        print(&format!("{id}\n"))?;
    }
    Ok(())
}

/// Flags that are not there yet.
pub(super) fn refuse_later(args: &BuildArgs) -> Result<(), Failure> {
    let Some((flag, help)) = args.later.used() else { return Ok(()) };
    let failure = Failure::new(FailureKind::Unsupported, format!("{flag} is not supported yet"));
    Err(if help.is_empty() { failure } else { failure.help(help) })
}

/// Shows the graph.
pub(super) fn plan(session: &Session, args: PlanArgs) -> Result<u8, Stop> {
    let build = BuildArgs { input: args.input, ..BuildArgs::default() };
    let request = request(&build, &session.env)?;
    session.watch_signals()?;
    let engine = session.engine()?;
    let renderer = session.renderer(Mode::Warnings);
    let events = Events::new(renderer.clone());
    let result = engine.plan(&request, &mut CancelRead::stdin(&session.cancel), &events, &session.cancel);
    renderer.finish();
    for (_, plan) in result? {
        match args.format {
            PlanFormat::Text => print(&crate::plan::text(&plan))?,
            PlanFormat::Dot => print(&crate::plan::dot(&plan))?,
            PlanFormat::Json => print_json(&format!("{:#}\n", crate::plan::json(&plan)))?,
        }
    }
    Ok(0)
}

fn usage(message: impl Into<String>) -> Failure {
    Failure::new(FailureKind::Usage, message)
}

pub(super) fn progress_mode(flag: Option<&str>, quiet: bool, env: &Environment) -> Result<Mode, Failure> {
    if quiet {
        return Ok(Mode::Quiet);
    }
    match flag.or(env.progress.as_deref()).unwrap_or("auto") {
        "auto" if env.stderr_is_terminal && !env.terminal_is_dumb => Ok(Mode::Tty),
        "auto" | "plain" => Ok(Mode::Plain),
        "tty" if env.stderr_is_terminal && !env.terminal_is_dumb => Ok(Mode::Tty),
        "tty" if env.stderr_is_terminal => Err(usage(
            "--progress=tty needs a terminal that can move its cursor, and TERM is dumb or not set",
        )
        .help("set TERM, or use --progress=plain")),
        "tty" => Err(usage("--progress=tty needs a terminal on standard error").help("use --progress=plain")),
        "quiet" | "none" => Ok(Mode::Quiet),
        "warnings" => Ok(Mode::Warnings),
        "rawjson" => Ok(Mode::RawJson),
        other => Err(usage(format!(
            "invalid progress type {other:?}; it is auto, plain, tty, quiet, warnings or rawjson"
        ))),
    }
}

/// Everything checked and every default applied.
pub(super) fn request(args: &BuildArgs, env: &Environment) -> Result<BuildRequest, Failure> {
    let input = &args.input;
    if input.context.is_empty() {
        return Err(usage("the build context is empty").help("write . for the current directory"));
    }
    let cwd = std::env::current_dir()
        .map_err(|error| usage(format!("the current directory cannot be used: {error}")))?;
    let mut build_args = build_args(&input.build_args, env)?;
    let source_date_epoch = epoch(env, &mut build_args);
    Ok(BuildRequest {
        context: input.context.clone().into(),
        dockerfile: input.file.clone().map(Into::into),
        dockerfile_text: None,
        fetched: FetchedContext::default(),
        cwd: cwd.clone(),
        tags: args.tags.clone(),
        target: input.target.clone().filter(|target| !target.is_empty()),
        build_args,
        labels: input
            .labels
            .iter()
            .map(|text| values::label(text).map_err(usage))
            .collect::<Result<_, _>>()?,
        build_contexts: input
            .build_contexts
            .iter()
            .map(|text| values::build_context(text).map_err(usage))
            .collect::<Result<_, _>>()?,
        platforms: platforms(input, env),
        annotations: annotations(&args.annotations)?,
        multi_platform: multi_platform(&input.build_args)?,
        engines: engines(env)?,
        no_cache: args.no_cache,
        no_cache_filter: args.no_cache_filter.clone(),
        cache_from: cache::sources(args)?,
        cache_to: cache::targets(args)?,
        cache_lifetime: None,
        pull: pull(input.pull.as_deref())?,
        network: network(&input.network)?,
        allow: values::entitlements(&args.allow).map_err(usage)?,
        secrets: secret::secrets(&args.secrets, &cwd)?,
        ssh: secret::ssh(&args.ssh, env, &cwd)?,
        add_hosts: values::add_hosts(&args.add_hosts).map_err(usage)?,
        ulimits: args
            .ulimits
            .iter()
            .map(|text| values::ulimit(text).map_err(usage))
            .collect::<Result<_, _>>()?,
        limits: values::limits(&args.limits).map_err(usage)?,
        shm_size: args.shm_size.as_deref().map(values::size).transpose().map_err(usage)?,
        insecure_registries: input.insecure_registries.clone(),
        source_network: input.source_network,
        sources: input.sources.options(env)?,
        outputs: output_specs(args)?,
        skip_push_check: false,
        keep_immutable_tags: false,
        wants_manifest: false,
        wants_id: args.iidfile.is_some(),
        source_date_epoch,
        squash: args.squash,
        reproducible: args.reproducible,
        attest: super::attest::options(&args.attest, env)?,
        secret_scan: args.secret_scan.scan_secrets.into(),
        fail_on_secrets: args.secret_scan.fail_on_secrets,
        sign: super::sign::signer(args.attest.sign.as_deref(), env)?,
        jobs: jobs(args.jobs)?,
        step_timeout: args.timeout.as_deref().map(values::duration).transpose().map_err(usage)?,
    })
}

/// Those of Docker's configuration first: what is given explicitly wins.
fn build_args(texts: &[String], env: &Environment) -> Result<Vec<(String, String)>, Failure> {
    let mut out = Vec::new();
    for text in texts {
        match text.split_once('=') {
            _ if text.is_empty() || text.starts_with('=') => {
                return Err(usage(format!("--build-arg needs NAME=VALUE, got {text:?}")));
            }
            Some((name, value)) => out.push((name.to_owned(), value.to_owned())),
            None => out.extend(Environment::variable(text).map(|value| (text.clone(), value))),
        }
    }
    let mut configured = env.config_proxies();
    configured.retain(|(name, _)| !out.iter().any(|(given, _)| given.eq_ignore_ascii_case(name)));
    out.extend(configured);
    Ok(out)
}

fn platforms(input: &InputArgs, env: &Environment) -> Vec<String> {
    let given = input.platform.iter().flat_map(|text| text.split(',')).map(|text| text.trim().to_owned());
    let all: Vec<String> = given.filter(|text| !text.is_empty()).collect();
    if all.is_empty() { env.default_platform.iter().cloned().collect() } else { all }
}

fn annotations(texts: &[String]) -> Result<Vec<Annotation>, Failure> {
    let mut all = Vec::new();
    for text in texts {
        all.extend(outputs::annotations(text).map_err(usage)?);
    }
    Ok(all)
}

/// The reference's switch for an index over a single platform.
fn multi_platform(build_args: &[String]) -> Result<bool, Failure> {
    let value = build_args.iter().rev().find_map(|text| text.strip_prefix("BUILDKIT_MULTI_PLATFORM="));
    match value {
        None | Some("" | "0" | "false") => Ok(false),
        Some("1" | "true") => Ok(true),
        Some(other) => Err(usage(format!("invalid boolean value for BUILDKIT_MULTI_PLATFORM: {other}"))),
    }
}

fn refused(refused: outputs::Refused) -> Failure {
    match refused {
        outputs::Refused::Wrong(message) => usage(message).help("`rbuild help outputs` explains all of them"),
        outputs::Refused::Unsupported(message) => Failure::new(FailureKind::Unsupported, message)
            .help("leave it out; `rbuild help outputs` lists what there is"),
    }
}

fn output_specs(args: &BuildArgs) -> Result<Vec<OutputSpec>, Failure> {
    let mut all: Vec<OutputSpec> =
        args.outputs.iter().map(|text| outputs::output(text).map_err(refused)).collect::<Result<_, _>>()?;
    if args.push {
        match all.iter_mut().find(|output| output.kind == OutputKind::Image) {
            Some(output) => output.push = true,
            None => all.push(OutputSpec { push: true, ..OutputSpec::new(OutputKind::Image, "") }),
        }
    }
    if args.load && !all.iter().any(|output| output.kind == OutputKind::Load) {
        all.push(OutputSpec::new(OutputKind::Load, ""));
    }
    Ok(all)
}

/// Where Docker's API may be: `DOCKER_HOST`, or the usual sockets of Docker and Podman.
pub(super) fn engines(env: &Environment) -> Result<Vec<EngineAddress>, Failure> {
    if let Some(host) = &env.docker_host {
        return match host.split_once("://") {
            Some(("unix", path)) => Ok(vec![EngineAddress::Unix(path.into())]),
            Some(("tcp", address)) => Ok(vec![EngineAddress::Tcp(address.trim_end_matches('/').to_owned())]),
            // Only --load needs it; it will say that nothing answers.
            _ => Ok(Vec::new()),
        };
    }
    let mut all = vec![EngineAddress::Unix("/var/run/docker.sock".into())];
    let own = env.runtime_dir.iter().map(|dir| dir.join("podman/podman.sock"));
    all.extend(own.chain(["/run/podman/podman.sock".into()]).map(EngineAddress::Unix));
    Ok(all)
}

fn pull(text: Option<&str>) -> Result<PullPolicy, Failure> {
    match text {
        None | Some("missing") => Ok(PullPolicy::Missing),
        Some("always") => Ok(PullPolicy::Always),
        Some("never") => Ok(PullPolicy::Never),
        Some(other) => match flags::boolean(other) {
            Some(true) => Ok(PullPolicy::Always),
            Some(false) => Ok(PullPolicy::Missing),
            None => Err(usage(format!("invalid pull policy {other:?}; it is always, missing or never"))),
        },
    }
}

pub(super) fn network(text: &str) -> Result<RunNetwork, Failure> {
    match text {
        // Docker's name for what is the default here too: a network of its own, translated to the machine's.
        "default" | "bridge" | "" => Ok(RunNetwork::Default),
        "host" => Ok(RunNetwork::Host),
        "none" => Ok(RunNetwork::None),
        other => Err(usage(format!("invalid network {other:?}; it is default, host or none"))),
    }
}

/// The epoch of the environment. One that refers to something else than seconds becomes a build argument, if
/// none of the name is given.
fn epoch(env: &Environment, build_args: &mut Vec<(String, String)>) -> Option<i64> {
    const NAME: &str = "SOURCE_DATE_EPOCH";
    let text = env.source_date_epoch.as_ref()?;
    if let Ok(seconds) = text.parse() {
        return Some(seconds);
    }
    if !build_args.iter().any(|(name, _)| name == NAME) {
        build_args.push((NAME.to_owned(), text.clone()));
    }
    None
}

fn jobs(jobs: Option<usize>) -> Result<Option<usize>, Failure> {
    if jobs == Some(0) { Err(usage("--jobs needs at least 1")) } else { Ok(jobs) }
}

fn metadata(outcome: &BuildOutcome, with_warnings: bool) -> String {
    let mut fields = json!({});
    if let Some(image) = &outcome.image {
        fields["containerimage.config.digest"] = json!(image.config_digest.to_string());
        if let Some(descriptor) = &image.descriptor {
            fields["containerimage.descriptor"] = json!(descriptor);
            fields["containerimage.digest"] = json!(descriptor.digest.to_string());
        }
    }
    if !outcome.names.is_empty() {
        fields["image.name"] = json!(outcome.names.join(","));
    }
    if outcome.hermetic {
        fields["rbuild.hermetic"] = json!(true);
    }
    if with_warnings {
        let warnings = outcome.warnings.iter().map(|short| json!({"short": short}));
        fields["buildx.build.warnings"] = warnings.collect();
    }
    format!("{fields:#}\n")
}
