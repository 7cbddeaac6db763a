//! What a build claims about how it was done: the facts for [`crate::attest::provenance`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::attest::provenance::{self, Facts, Material, StepFacts};
use crate::attest::{ProvenanceOptions, Statement, image_purl};
use crate::digest::{Digest, Hasher};
use crate::image::{Descriptor, Family, Image, Platform, Reference};
use crate::plan::{Base, CopyOrigin, Plan, StepKind};
use crate::remote::{self, SourceKind, without_credentials};
use crate::solve::Solved;
use crate::steps::remote::Fetched;

use super::bases::Bases;
use super::failure::{Failure, FailureKind};
use super::named_context::NamedContext;
use super::prepare::Prepared;
use super::request::BuildRequest;

/// Where proxies are may be confidential, and changes nothing in the result.
const PROXIES: [&str; 5] = ["http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy"];

/// One platform's build, after all its steps.
pub(super) struct Finished<'a> {
    pub request: &'a BuildRequest,
    pub prepared: &'a Prepared,
    pub plan: &'a Plan,
    pub solved: &'a Solved,
    /// The image, where one is made.
    pub image: Option<&'a Image>,
    /// When the build began.
    pub begun: SystemTime,
    /// The time that everything gets which the build makes.
    pub epoch: Option<i64>,
}

impl Finished<'_> {
    /// The statements that the request asks for.
    pub fn statements(&self) -> Result<Vec<Statement>, Failure> {
        let wanted = self.request.attests_images()
            || self.request.attest.is_asked_for()
            || self.request.outputs.iter().any(|output| output.attestation_inline);
        let provenance = self.request.attest.provenance.as_ref().filter(|_| wanted);
        provenance.map(|options| self.provenance(options)).into_iter().collect()
    }

    fn provenance(&self, options: &ProvenanceOptions) -> Result<Statement, Failure> {
        let facts = self.facts();
        if options.complete_materials && !facts.is_complete() {
            let message = format!(
                "the materials of this build are not complete: {} come from this machine",
                facts.locals.join(", ")
            );
            return Err(Failure::new(FailureKind::Usage, message)
                .help("build from a git repository, or leave complete-materials=true out"));
        }
        Ok(provenance::statement(&facts, options))
    }

    fn facts(&self) -> Facts<'_> {
        let fetched = self.prepared.remotes.fetched();
        let (context, local_context) = self.context(&fetched);
        let bases = self.prepared.bases.share();
        let images = self.plan.steps.iter().filter_map(|step| match &step.kind {
            StepKind::From(from) => match &from.base {
                Base::Image { id, name } => image_material(&bases, *id, name, &from.platform),
                Base::Scratch => None,
            },
            _ => None,
        });
        let materials = images.chain(fetched.iter().map(material)).collect();
        let source = &self.prepared.dockerfile;
        let shown = Path::new(source.name()).file_name().map(|name| name.to_string_lossy().into_owned());
        let dockerfile = match shown {
            Some(name) if name != "-" => name,
            _ => "Dockerfile".to_owned(),
        };
        let times = match self.epoch {
            Some(epoch) => [(epoch, 0); 2],
            None => [self.begun, SystemTime::now()].map(moment),
        };
        Facts {
            plan: self.plan,
            steps: self.steps(),
            materials,
            context,
            dockerfile,
            source: source.text(),
            locals: self.locals(local_context),
            args: self.args(),
            secrets: self
                .request
                .secrets
                .values()
                .map(|secret| String::from_utf8_lossy(&secret.value).into_owned())
                .collect(),
            builder_platform: Platform::host().to_string(),
            invocation: self.epoch.is_none().then(|| invocation(times)),
            times,
        }
    }

    /// The material that the main context is, and whether it is of this machine instead.
    fn context(&self, fetched: &[Fetched]) -> (Option<Material>, bool) {
        let text = &self.request.context;
        if &**text == "-" || self.request.cwd.join(text).exists() {
            return (None, true);
        }
        let url = match remote::context_source(text) {
            Ok(SourceKind::Git(url)) => Fetched::git_address(&url),
            Ok(SourceKind::Http(url)) => url.to_string(),
            _ => return (None, true),
        };
        // With a Dockerfile of this machine the context did not configure the build.
        let local_file = self.request.dockerfile.as_ref();
        let local_file = local_file.is_some_and(|file| &**file == "-" || Path::new(&**file).is_absolute());
        let found = fetched.iter().find(|one| one.url() == url).map(material);
        (found.filter(|_| !local_file), local_file)
    }

    fn locals(&self, local: bool) -> Vec<String> {
        let mut read = BTreeSet::new();
        for step in &self.plan.steps {
            let origins: Vec<&CopyOrigin> = match &step.kind {
                StepKind::Copy(copy) if !copy.sources.is_empty() => vec![&copy.origin],
                StepKind::Run(run) => {
                    run.mounts.iter().filter_map(|mount| mount.origin()).map(|(origin, _)| origin).collect()
                }
                _ => Vec::new(),
            };
            read.extend(origins.into_iter().filter_map(|origin| match origin {
                CopyOrigin::Context(name) => Some(name.as_str()),
                CopyOrigin::Step(..) => None,
            }));
        }
        let mut all = Vec::new();
        if local {
            let remote_context = !matches!(&*self.request.context, "-")
                && !self.request.cwd.join(&self.request.context).exists();
            all.extend((read.contains("") && !remote_context).then(|| "context".to_owned()));
            all.push("dockerfile".to_owned());
        }
        let files = |name: &&str| matches!(self.prepared.named.get(*name), Some(NamedContext::Files(_)));
        all.extend(read.into_iter().filter(files).map(str::to_owned));
        all
    }

    /// By the names that BuildKit's frontend has for them. Paths of this machine are left out.
    fn args(&self) -> BTreeMap<String, String> {
        let request = self.request;
        let mut all = BTreeMap::new();
        for (name, value) in &request.build_args {
            if !PROXIES.iter().any(|proxy| name.eq_ignore_ascii_case(proxy)) {
                all.insert(format!("build-arg:{name}"), value.clone());
            }
        }
        for (name, value) in &request.labels {
            all.insert(format!("label:{name}"), value.clone());
        }
        all.extend(request.target.iter().map(|target| ("target".to_owned(), target.clone())));
        if request.no_cache {
            all.insert("no-cache".into(), String::new());
        }
        for (name, value) in &request.build_contexts {
            let name = name.to_lowercase();
            let shown = match self.prepared.named.get(&name) {
                Some(NamedContext::Fetched(_)) => without_credentials(value),
                Some(NamedContext::Scratch) => "docker-image://scratch".to_owned(),
                Some(NamedContext::Image(location)) if location.starts_with("docker-image://") => {
                    location.clone()
                }
                Some(NamedContext::Image(_)) => format!("oci-layout:{name}"),
                _ => format!("local:{name}"),
            };
            all.insert(format!("context:{name}"), shown);
        }
        all
    }

    fn steps(&self) -> Vec<StepFacts> {
        let mut all: Vec<StepFacts> = self
            .solved
            .states
            .iter()
            .map(|state| StepFacts {
                created: self.epoch.unwrap_or(state.created),
                cached: state.cached,
                layers: Vec::new(),
            })
            .collect();
        let (Some(image), Some(stage)) = (self.image, self.plan.stages.get(self.plan.target)) else {
            return all;
        };
        let layers: Vec<Descriptor> = image
            .layers
            .iter()
            .map(|layer| Descriptor::new(Family::Oci.layer(layer.compression), layer.digest, layer.size))
            .collect();
        let own: Vec<usize> = stage.history.iter().filter_map(|line| line.step).map(|id| id.0).collect();
        let below = layers.len().saturating_sub(own.len());
        for (position, step) in own.iter().enumerate() {
            if let (Some(facts), Some(chain)) = (all.get_mut(*step), layers.get(..=below + position)) {
                facts.layers = chain.to_vec();
            }
        }
        // The base is the first of the target's ancestors.
        let mut at = stage.last;
        while let Some(step) = at.and_then(|id| self.plan.steps.get(id.0)) {
            if step.parent.is_none()
                && let (Some(facts), Some(chain)) = (all.get_mut(step.id.0), layers.get(..below))
                && facts.layers.is_empty()
            {
                facts.layers = chain.to_vec();
            }
            at = step.parent;
        }
        all
    }
}

fn image_material(
    bases: &Bases,
    id: crate::plan::BaseId,
    name: &str,
    platform: &Platform,
) -> Option<Material> {
    let digest = bases.meaning(id)?;
    let uri = match (bases.found_as(id), Reference::parse(name)) {
        (Some(reference), _) => image_purl("docker", &reference, Some(platform)),
        (None, Ok(reference)) => image_purl("oci", &reference, Some(platform)),
        (None, Err(_)) => format!("oci-layout:{name}"),
    };
    Some(Material { uri, algorithm: "sha256", hex: digest.hex() })
}

fn material(fetched: &Fetched) -> Material {
    match fetched {
        Fetched::File { url, digest } => {
            Material { uri: url.clone(), algorithm: "sha256", hex: digest.hex() }
        }
        Fetched::Commit { url, commit } => Material::commit(url.clone(), commit),
    }
}

fn moment(time: SystemTime) -> (i64, u32) {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    (i64::try_from(since.as_secs()).unwrap_or(i64::MAX), since.subsec_nanos())
}

/// Tells one build from another: nothing is claimed about it, so that time and process are enough.
fn invocation(times: [(i64, u32); 2]) -> String {
    let mut hasher = Hasher::new();
    hasher.field(format!("{times:?} {}", std::process::id()).as_bytes());
    let digest: Digest = hasher.finish();
    digest.hex()[..25].to_owned()
}
