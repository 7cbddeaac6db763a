//! From flags to a request.

use std::path::{Path, PathBuf};

use crate::build::{
    BuildRequest, CacheLocation, CacheMode, CacheTarget, CompressionChoice, Failure, FailureKind, OutputKind,
    OutputSpec,
};
use crate::context::FetchedContext;
use crate::image::Reference;
use crate::image::reference::DEFAULT_DOMAIN;
use crate::registry::{GivenCertificates, Location};

use super::super::args::BuildArgs;
use super::super::environment::Environment;
use super::super::registry::RegistryFlags;
use super::super::{outputs, values};
use super::Variables;
use super::line::Line;
use super::reports::Files;
use super::source::Source;

/// The tag of a cache whose repository is named without one.
const CACHE_TAG: &str = "rbuild";
/// How long Kaniko's cached layers live, in seconds.
const LIFETIME: i64 = 14 * 24 * 3600;
/// Gives an image its time.
const EPOCH: &str = "SOURCE_DATE_EPOCH";
/// Where Kaniko's image has the executor and Docker's configuration.
const KANIKO_DIR: &str = "/kaniko";
/// Docker's registry by another name, which Kaniko writes and takes.
pub(super) const DOCKER_INDEX: &str = "index.docker.io";

/// A build as Kaniko's flags describe it.
#[derive(Debug)]
pub(super) struct Job {
    /// What `rbuild build` has flags for.
    pub args: BuildArgs,
    pub source: Source,
    pub registries: RegistryFlags,
    /// Whether the image goes to the registries of its names.
    pub pushes: bool,
    /// Flags without an effect that the user gets to know of.
    pub idle: Vec<String>,
    outputs: Vec<OutputSpec>,
    cache_from: Vec<CacheLocation>,
    cache_to: Vec<CacheTarget>,
    lifetime: Option<i64>,
    reproducible: bool,
    skip_push_check: bool,
    keep_immutable_tags: bool,
    docker_config: Option<PathBuf>,
}

fn usage(message: impl Into<String>) -> Failure {
    Failure::new(FailureKind::Usage, message)
}

impl Job {
    /// Reads everything.
    pub fn of(line: &Line, variables: &Variables, cwd: &Path) -> Result<Self, Failure> {
        line.refuse()?;
        let no_push = match variables.get("KANIKO_NO_PUSH") {
            Some(text) => super::super::flags::boolean(&text)
                .ok_or_else(|| usage(format!("KANIKO_NO_PUSH={text}: it is true or false")))?,
            None => line.is_on("no-push"),
        };
        let destinations = line.many("destination");
        if destinations.is_empty() && !no_push {
            return Err(usage("there is no --destination, and no --no-push").help(
                "name where the image goes with --destination, or build without pushing it with --no-push",
            ));
        }
        for name in ["image-name-with-digest-file", "image-name-tag-with-digest-file"] {
            if destinations.is_empty() && line.one(name).is_some() {
                return Err(usage(format!("--{name} needs --destination, which has the name")));
            }
        }
        let names = names(&destinations)?;
        let caching = Caching::of(line, &names, no_push)?;
        let progress = progress(line)?;
        let quiet = !matches!(progress, Some("plain") | None);
        let mut args = BuildArgs {
            tags: destinations.iter().map(|name| (*name).to_owned()).collect(),
            no_cache: !caching.uses,
            progress: progress.map(str::to_owned),
            reproducible: line.is_on("reproducible"),
            squash: line.is_on("single-snapshot"),
            ..BuildArgs::default()
        };
        // What is pushed is the image alone, and the digest that files get is its own.
        args.attest.provenance = Some("false".to_owned());
        let source = Source::of(line, variables, cwd)?;
        args.input.context = source.context.to_string().into();
        args.input.file = Some(source.dockerfile.to_string().into());
        args.input.target = line.one("target").map(str::to_owned);
        args.input.build_args = line.many("build-arg").into_iter().map(build_arg).collect();
        args.input.labels = line.many("label").into_iter().map(str::to_owned).collect();
        let platform = line.one("custom-platform").or(line.one("customPlatform"));
        args.input.platform = platform.map(str::to_owned).into_iter().collect();
        let mut pushed: Vec<String> = if no_push { Vec::new() } else { hosts(&names) };
        pushed.extend(caching.host.clone());
        args.input.insecure_registries = insecure(line, &pushed);
        let registries = registries(line, variables, &args.input.insecure_registries, &pushed)?;
        Ok(Job {
            args,
            source,
            registries,
            pushes: !no_push,
            idle: if quiet { Vec::new() } else { line.idle() },
            outputs: output_specs(line, no_push)?,
            cache_from: caching.from,
            cache_to: caching.to,
            lifetime: caching.lifetime,
            reproducible: line.is_on("reproducible"),
            skip_push_check: line.is_on("skip-push-permission-check"),
            keep_immutable_tags: line.is_on("push-ignore-immutable-tag-errors"),
            docker_config: docker_config(line, variables),
        })
    }

    /// The environment of the build.
    pub fn environment(&self, own: &Environment) -> Environment {
        let mut env = own.clone();
        if let Some(dir) = &self.docker_config {
            env.docker_config = Some(dir.clone());
        }
        env
    }

    /// Adds what `rbuild build` has no flags for.
    pub fn complete(&self, request: &BuildRequest, files: &Files) -> BuildRequest {
        let mut request = request.clone();
        request.dockerfile_text.clone_from(&self.source.dockerfile_text);
        request.fetched = FetchedContext { subdir: self.source.subdir.clone(), ignore_files: true };
        request.outputs.clone_from(&self.outputs);
        request.cache_from.clone_from(&self.cache_from);
        request.cache_to.clone_from(&self.cache_to);
        request.cache_lifetime = self.lifetime;
        request.skip_push_check = self.skip_push_check;
        request.keep_immutable_tags = self.keep_immutable_tags;
        request.wants_manifest = files.want_digest();
        request.wants_id = true;
        if self.reproducible {
            // Not the commit's time: Kaniko takes all times away.
            request.source_date_epoch.get_or_insert(0);
        }
        request
    }
}

/// `NAME` is `NAME=` with the variable of the environment, empty where there is none.
fn build_arg(text: &str) -> String {
    match text.contains('=') {
        true => text.to_owned(),
        false => format!("{text}={}", Environment::variable(text).unwrap_or_default()),
    }
}

fn names(destinations: &[&str]) -> Result<Vec<Reference>, Failure> {
    let name = |text: &&str| {
        Reference::parse_new_name(text).map_err(|error| usage(format!("--destination {text}: {error}")))
    };
    destinations.iter().map(name).collect()
}

fn hosts(names: &[Reference]) -> Vec<String> {
    names.iter().map(|name| name.domain.clone()).collect()
}

/// The name by which settings know a registry.
fn host(text: &str) -> String {
    let text = text.trim_end_matches('/');
    if text == DOCKER_INDEX { DEFAULT_DOMAIN.to_owned() } else { text.to_owned() }
}

/// How progress is shown; `None` leaves it to the terminal.
fn progress(line: &Line) -> Result<Option<&'static str>, Failure> {
    let quiet = match line.one("verbosity").unwrap_or("info") {
        "trace" | "debug" | "info" => None,
        "warn" | "warning" => Some("warnings"),
        "error" | "fatal" | "panic" => Some("quiet"),
        other => {
            let message =
                format!("--verbosity={other}: it is trace, debug, info, warn, error, fatal or panic");
            return Err(usage(message));
        }
    };
    let format = match line.one("log-format").unwrap_or("color") {
        "color" => None,
        "text" => Some("plain"),
        "json" => Some("rawjson"),
        other => return Err(usage(format!("--log-format={other}: it is text, color or json"))),
    };
    Ok(quiet.or(format))
}

/// What is cached, and where.
struct Caching {
    uses: bool,
    from: Vec<CacheLocation>,
    to: Vec<CacheTarget>,
    /// The registry.
    host: Option<String>,
    lifetime: Option<i64>,
}

impl Caching {
    fn of(line: &Line, names: &[Reference], no_push: bool) -> Result<Self, Failure> {
        let lifetime = match line.one("cache-ttl") {
            Some(text) => {
                let time = values::duration(text).map_err(|error| usage(format!("--cache-ttl: {error}")))?;
                i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
            }
            None => LIFETIME,
        };
        // Under a given time results do not tell when they were made.
        let args = line.many("build-arg");
        let timeless = line.is_on("reproducible")
            || Environment::variable(EPOCH).is_some_and(|text| !text.is_empty())
            || args.iter().any(|arg| arg.split('=').next() == Some(EPOCH));
        let lifetime = (!timeless).then_some(lifetime);
        let uses = line.is_on("cache") && line.switch("cache-run-layers").unwrap_or(true);
        let mut caching = Caching { uses, from: Vec::new(), to: Vec::new(), host: None, lifetime: None };
        if !uses {
            return Ok(caching);
        }
        caching.lifetime = lifetime;
        let location = match (line.one("cache-repo"), names.first()) {
            (Some(text), _) => Some(cache_location(text)?),
            (None, Some(name)) if !no_push => Some(CacheLocation::Registry {
                reference: format!("{}/cache:{CACHE_TAG}", name.repository()),
            }),
            // The store is a cache too.
            (None, _) => None,
        };
        let Some(location) = location else { return Ok(caching) };
        if let CacheLocation::Registry { reference } = &location {
            caching.host = Reference::parse(reference).ok().map(|name| name.domain);
        }
        if !line.is_on("no-push-cache") {
            let mut target = CacheTarget::new(location.clone());
            // As in Kaniko, an image is worth more than its cache.
            (target.mode, target.ignore_error) = (CacheMode::Max, true);
            target.bounds.lifetime = lifetime;
            caching.to.push(target);
        }
        caching.from.push(location);
        Ok(caching)
    }
}

fn cache_location(text: &str) -> Result<CacheLocation, Failure> {
    if let Some(path) = text.strip_prefix("oci:") {
        return Ok(CacheLocation::Local { path: path.into(), tag: CACHE_TAG.to_owned(), digest: None });
    }
    let name = Reference::parse(text).map_err(|error| usage(format!("--cache-repo {text}: {error}")))?;
    let reference = match (&name.tag, &name.digest) {
        (None, None) => format!("{}:{CACHE_TAG}", name.repository()),
        _ => text.to_owned(),
    };
    Ok(CacheLocation::Registry { reference })
}

/// Registries that are spoken to without a look at certificates, or without https.
fn insecure(line: &Line, pushed: &[String]) -> Vec<String> {
    let named = line.many("insecure-registry").into_iter().chain(line.many("skip-tls-verify-registry"));
    let mut all: Vec<String> = named.map(host).collect();
    if line.is_on("insecure") || line.is_on("skip-tls-verify") {
        all.extend(pushed.iter().cloned());
    }
    all
}

/// Mirrors, certificates and how often to try.
fn registries(
    line: &Line,
    variables: &Variables,
    insecure: &[String],
    pushed: &[String],
) -> Result<RegistryFlags, Failure> {
    let pulls_insecurely = line.is_on("insecure-pull") || line.is_on("skip-tls-verify-pull");
    let mut maps: Vec<(String, String)> = Vec::new();
    let given: Vec<String> = line
        .many("registry-map")
        .into_iter()
        .map(str::to_owned)
        .chain(variables.get("KANIKO_REGISTRY_MAP"))
        .collect();
    for pair in given.iter().flat_map(|text| text.split(';')).filter(|pair| !pair.is_empty()) {
        let (from, to) = pair
            .split_once('=')
            .filter(|(from, to)| !from.is_empty() && !to.is_empty())
            .ok_or_else(|| usage(format!("--registry-map {pair}: expected REGISTRY=MIRROR[;...]")))?;
        maps.push((host(from), to.to_owned()));
    }
    let mirrors = line.many("registry-mirror").into_iter().map(str::to_owned);
    let mirrors = mirrors.chain(variables.get("KANIKO_REGISTRY_MIRROR"));
    maps.extend(mirrors.map(|mirror| (DEFAULT_DOMAIN.to_owned(), mirror)));
    let location = |address: String| {
        let address = address.trim_end_matches('/').to_owned();
        let bare = address.split_once("://").map_or(address.as_str(), |(_, rest)| rest);
        let name = host(bare.split('/').next().unwrap_or_default());
        let insecure = pulls_insecurely || insecure.contains(&name);
        Location { insecure, ..Location::from(address) }
    };
    let mut attempts = None;
    for name in ["push-retry", "image-download-retry", "image-fs-extract-retry"] {
        attempts = attempts.max(line.number(name)?.map(|retries| retries.saturating_add(1)));
    }
    Ok(RegistryFlags {
        insecure_except: pulls_insecurely.then(|| pushed.to_vec()),
        mirrors: maps.into_iter().map(|(of, mirror)| (of, location(mirror))).collect(),
        mirrors_only: line.is_on("skip-default-registry-fallback"),
        given: certificates(line)?,
        attempts,
    })
}

fn certificates(line: &Line) -> Result<Vec<GivenCertificates>, Failure> {
    let readable = |flag: &str, path: &str| match std::fs::File::open(path) {
        Ok(_) => Ok(PathBuf::from(path)),
        Err(error) => Err(usage(format!("--{flag}: cannot read {path}: {error}"))),
    };
    let pair = |flag: &str, text: &str, form: &str| match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => Ok((host(name), value.to_owned())),
        _ => Err(usage(format!("--{flag} {text}: expected REGISTRY={form}"))),
    };
    let mut all = Vec::new();
    for text in line.many("registry-certificate") {
        let (host, path) = pair("registry-certificate", text, "FILE")?;
        let authority = Some(readable("registry-certificate", &path)?);
        all.push(GivenCertificates { host, authority, identity: None });
    }
    for text in line.many("registry-client-cert") {
        let (host, files) = pair("registry-client-cert", text, "CERTIFICATE,KEY")?;
        let (certificate, key) = files.split_once(',').ok_or_else(|| {
            usage(format!("--registry-client-cert {text}: the key is missing behind a comma"))
        })?;
        let certificate = readable("registry-client-cert", certificate)?;
        let identity = Some((certificate, readable("registry-client-cert", key)?));
        all.push(GivenCertificates { host, authority: None, identity });
    }
    Ok(all)
}

fn output_specs(line: &Line, no_push: bool) -> Result<Vec<OutputSpec>, Failure> {
    let algorithm = line.one("compression").map(outputs::compression).transpose().map_err(usage)?;
    let level = match line.one("compression-level") {
        None | Some("-1") => None,
        Some(text) => {
            let level =
                text.parse().map_err(|_| usage(format!("--compression-level={text}: it is a number")))?;
            Some(level)
        }
    };
    let compression = (algorithm.is_some() || level.is_some()).then(|| CompressionChoice {
        algorithm: algorithm.unwrap_or_default(),
        level,
        ..CompressionChoice::default()
    });
    let mut all = Vec::new();
    let tar = line.one("tar-path").or(line.one("tarPath"));
    all.extend(tar.map(|path| OutputSpec::new(OutputKind::Docker, path)));
    all.extend(line.one("oci-layout-path").map(|path| OutputSpec::new(OutputKind::OciDir, path)));
    if !no_push {
        all.push(OutputSpec { push: true, ..OutputSpec::new(OutputKind::Image, "") });
    }
    all.iter_mut().for_each(|spec| spec.compression = compression);
    Ok(all)
}

/// The directory of Docker's configuration, where Kaniko has another than Docker.
fn docker_config(line: &Line, variables: &Variables) -> Option<PathBuf> {
    let dir = line.one("kaniko-dir").map(str::to_owned).or_else(|| variables.get("KANIKO_DIR"));
    if let Some(dir) = dir.filter(|dir| Path::new(dir) != Path::new(KANIKO_DIR)) {
        return Some(Path::new(&dir).join(".docker"));
    }
    let usual = Path::new(KANIKO_DIR).join(".docker");
    let chosen = Environment::variable("DOCKER_CONFIG").is_some_and(|dir| !dir.is_empty());
    (!chosen && usual.join("config.json").exists()).then_some(usual)
}
