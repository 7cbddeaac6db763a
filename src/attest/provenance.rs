//! How an image was built, as SLSA provenance with the fields of BuildKit (moby/buildkit,
//! `docs/attestations/slsa-definitions.md`).

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::image::Descriptor;
use crate::plan::{Plan, RunMountKind, StepKind};
use crate::time::rfc3339;

use super::options::{Mode, ProvenanceOptions, SlsaVersion};
use super::statement::Statement;

mod steps;

/// Predicate type of version 1.
pub const SLSA_V1: &str = "https://slsa.dev/provenance/v1";
/// Predicate type of version 0.2.
pub const SLSA_V02: &str = "https://slsa.dev/provenance/v0.2";
/// Of both.
pub const SLSA_PREFIX: &str = "https://slsa.dev/provenance/";
/// Name of the file beside outputs that are files.
pub const DEFAULT_FILE: &str = "provenance.json";

/// The build type that says which fields there are: BuildKit's, since they are the same.
const BUILD_TYPE_V1: &str =
    "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md";
const BUILD_TYPE_V02: &str = "https://mobyproject.org/buildkit@v1";
const METADATA_V02: &str = "https://mobyproject.org/buildkit@v1#metadata";
const HERMETIC_V02: &str = "https://mobyproject.org/buildkit@v1#hermetic";
/// What takes the place of a secret's value.
const REDACTED: &str = "(redacted)";

/// Something that a build read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Material {
    /// A package URL of an image, or an address.
    pub uri: String,
    /// `sha256` of content, or `sha1` of a commit.
    pub algorithm: &'static str,
    /// The digest in hex.
    pub hex: String,
}

impl Material {
    fn digest(&self) -> Value {
        json!({ self.algorithm: self.hex })
    }

    /// The digest of a commit: its length says which.
    pub fn commit(uri: String, hex: &str) -> Self {
        let algorithm = if hex.len() == 64 { "sha256" } else { "sha1" };
        Material { uri, algorithm, hex: hex.to_owned() }
    }
}

/// What one step gave.
#[derive(Clone, Debug)]
pub struct StepFacts {
    /// When it was executed, in seconds since 1970.
    pub created: i64,
    /// It came from the cache.
    pub cached: bool,
    /// The layers of the image up to this step; empty where the step is not part of the image.
    pub layers: Vec<Descriptor>,
}

/// All that provenance is made of.
pub struct Facts<'a> {
    /// What was done.
    pub plan: &'a Plan,
    /// By step of the plan.
    pub steps: Vec<StepFacts>,
    /// What was read and has a digest, apart from the Dockerfile.
    pub materials: Vec<Material>,
    /// The material that the context is, where it is one.
    pub context: Option<Material>,
    /// The Dockerfile's name in its context.
    pub dockerfile: String,
    /// The Dockerfile's text.
    pub source: &'a str,
    /// Contexts of this machine: `context`, `dockerfile`, and names.
    pub locals: Vec<String>,
    /// Options of the build by BuildKit's names: `target`, `build-arg:NAME`, `label:NAME`, `context:NAME`.
    pub args: BTreeMap<String, String>,
    /// Values that must not appear.
    pub secrets: Vec<String>,
    /// The platform that built.
    pub builder_platform: String,
    /// When the build began and ended: seconds and nanoseconds since 1970.
    pub times: [(i64, u32); 2],
    /// What names this very build; `None` where the same build is to say the same.
    pub invocation: Option<String>,
}

impl Facts<'_> {
    /// Whether everything that was read is among the materials.
    pub fn is_complete(&self) -> bool {
        self.locals.is_empty()
    }

    /// No step could reach anything outside, and nothing unknown was read.
    fn is_hermetic(&self) -> bool {
        self.is_complete() && self.plan.is_closed()
    }
}

/// The statement.
pub fn statement(facts: &Facts<'_>, options: &ProvenanceOptions) -> Statement {
    let (predicate_type, mut predicate) = match options.version {
        SlsaVersion::V1 => (SLSA_V1, v1(facts, options)),
        SlsaVersion::V02 => (SLSA_V02, v02(facts, options)),
    };
    let secrets: Vec<&str> =
        facts.secrets.iter().map(|secret| secret.trim()).filter(|secret| !secret.is_empty()).collect();
    redact(&mut predicate, &secrets);
    Statement {
        predicate_type: predicate_type.to_owned(),
        predicate,
        file: options.file.clone(),
        inline_only: options.inline_only,
    }
}

fn v1(facts: &Facts<'_>, options: &ProvenanceOptions) -> Value {
    let mut internal = Map::new();
    if options.mode == Mode::Max {
        internal.insert("buildConfig".into(), steps::build_config(facts));
    }
    internal.insert("builderPlatform".into(), json!(facts.builder_platform));
    let dependencies: Vec<Value> = materials(facts)
        .iter()
        .map(|(name, material)| {
            let mut one = json!({"uri": material.uri, "digest": material.digest()});
            if let Some(name) = name {
                one["name"] = json!(name);
            }
            one
        })
        .collect();
    let mut metadata = Map::new();
    if let Some(invocation) = &facts.invocation {
        metadata.insert("invocationId".into(), json!(invocation));
    }
    let [started, finished] = facts.times.map(|(seconds, nanos)| rfc3339(seconds, nanos));
    metadata.insert("startedOn".into(), json!(started));
    metadata.insert("finishedOn".into(), json!(finished));
    metadata.insert("buildkit_metadata".into(), buildkit_metadata(facts, options));
    metadata.insert("buildkit_hermetic".into(), json!(facts.is_hermetic()));
    metadata.insert(
        "buildkit_completeness".into(),
        json!({"request": is_whole_request(facts, options), "resolvedDependencies": facts.is_complete()}),
    );
    metadata.insert("buildkit_reproducible".into(), json!(options.reproducible));
    let mut source = Map::new();
    let (uri, digest) = config_source(facts);
    source.extend(uri.map(|uri| ("uri".to_owned(), json!(uri))));
    source.insert("digest".into(), digest);
    source.insert("path".into(), json!(facts.dockerfile));
    json!({
        "buildDefinition": {
            "buildType": BUILD_TYPE_V1,
            "externalParameters": {"configSource": source, "request": request(facts, options)},
            "internalParameters": internal,
            "resolvedDependencies": dependencies,
        },
        "runDetails": {
            "builder": {"id": options.builder_id, "version": {"rbuild": env!("CARGO_PKG_VERSION")}},
            "metadata": metadata,
        },
    })
}

fn v02(facts: &Facts<'_>, options: &ProvenanceOptions) -> Value {
    let all: Vec<Value> = materials(facts)
        .iter()
        .map(|(_, material)| json!({"uri": material.uri, "digest": material.digest()}))
        .collect();
    let mut source = Map::new();
    let (uri, digest) = config_source(facts);
    source.extend(uri.map(|uri| ("uri".to_owned(), json!(uri))));
    source.insert("digest".into(), digest);
    source.insert("entryPoint".into(), json!(facts.dockerfile));
    let mut metadata = Map::new();
    if let Some(invocation) = &facts.invocation {
        metadata.insert("buildInvocationID".into(), json!(invocation));
    }
    let [started, finished] = facts.times.map(|(seconds, nanos)| rfc3339(seconds, nanos));
    metadata.insert("buildStartedOn".into(), json!(started));
    metadata.insert("buildFinishedOn".into(), json!(finished));
    metadata.insert(
        "completeness".into(),
        json!({
            "parameters": is_whole_request(facts, options),
            "environment": true,
            "materials": facts.is_complete(),
        }),
    );
    metadata.insert("reproducible".into(), json!(options.reproducible));
    metadata.insert(METADATA_V02.into(), buildkit_metadata(facts, options));
    metadata.insert(HERMETIC_V02.into(), json!(facts.is_hermetic()));
    let mut predicate = json!({
        "builder": {"id": options.builder_id},
        "buildType": BUILD_TYPE_V02,
        "materials": all,
        "invocation": {
            "configSource": source,
            "parameters": request(facts, options),
            "environment": {"platform": facts.builder_platform},
        },
    });
    if options.mode == Mode::Max {
        predicate["buildConfig"] = steps::build_config(facts);
    }
    predicate["metadata"] = Value::Object(metadata);
    predicate
}

/// What the build was configured by: a context from elsewhere, or the Dockerfile itself.
fn config_source(facts: &Facts<'_>) -> (Option<String>, Value) {
    match &facts.context {
        Some(context) => (Some(context.uri.clone()), context.digest()),
        None => (None, json!({"sha256": dockerfile_digest(facts)})),
    }
}

fn dockerfile_digest(facts: &Facts<'_>) -> String {
    crate::digest::Digest::of(facts.source.as_bytes()).hex()
}

/// Materials, each once and in order, with the Dockerfile where no material has it.
fn materials(facts: &Facts<'_>) -> Vec<(Option<&'static str>, Material)> {
    let mut all: Vec<&Material> = facts.materials.iter().chain(&facts.context).collect();
    all.sort();
    all.dedup();
    let mut out: Vec<_> = all.into_iter().map(|material| (None, material.clone())).collect();
    if facts.context.is_none() {
        let uri = format!("file:{}", facts.dockerfile);
        out.push((Some("dockerfile"), Material { uri, algorithm: "sha256", hex: dockerfile_digest(facts) }));
    }
    out
}

fn is_private(key: &str) -> bool {
    key.starts_with("build-arg:") || key.starts_with("label:")
}

/// Whether the request lacks nothing.
fn is_whole_request(facts: &Facts<'_>, options: &ProvenanceOptions) -> bool {
    options.mode == Mode::Max || !facts.args.keys().any(|key| is_private(key))
}

fn request(facts: &Facts<'_>, options: &ProvenanceOptions) -> Value {
    let whole = options.mode == Mode::Max;
    let mut request = json!({"frontend": "dockerfile.v0"});
    let args: Map<String, Value> = facts
        .args
        .iter()
        .filter(|(key, _)| whole || !is_private(key))
        .map(|(key, value)| (key.clone(), json!(value)))
        .collect();
    if !args.is_empty() {
        request["args"] = Value::Object(args);
    }
    if whole {
        let (secrets, ssh) = mounted(facts.plan);
        let list = |ids: BTreeMap<&str, bool>| -> Vec<Value> {
            ids.into_iter()
                .map(|(id, optional)| match optional {
                    true => json!({"id": id, "optional": true}),
                    false => json!({"id": id}),
                })
                .collect()
        };
        if !secrets.is_empty() {
            request["secrets"] = list(secrets).into();
        }
        if !ssh.is_empty() {
            request["ssh"] = list(ssh).into();
        }
    }
    if !facts.locals.is_empty() {
        request["locals"] = facts.locals.iter().map(|name| json!({"name": name})).collect();
    }
    request
}

/// The secrets and agents that steps mount, by name, and whether they can do without.
fn mounted(plan: &Plan) -> (BTreeMap<&str, bool>, BTreeMap<&str, bool>) {
    let (mut secrets, mut ssh) = (BTreeMap::new(), BTreeMap::new());
    for step in &plan.steps {
        let StepKind::Run(run) = &step.kind else { continue };
        for mount in &run.mounts {
            let (all, id, required) = match &mount.kind {
                RunMountKind::Secret { id, required, .. } => (&mut secrets, id, *required),
                RunMountKind::Ssh { id, required, .. } => (&mut ssh, id, *required),
                _ => continue,
            };
            *all.entry(id.as_str()).or_insert(true) &= !required;
        }
    }
    (secrets, ssh)
}

fn buildkit_metadata(facts: &Facts<'_>, options: &ProvenanceOptions) -> Value {
    match options.mode {
        Mode::Min => json!({}),
        Mode::Max => steps::metadata(facts),
    }
}

/// Replaces strings that contain a secret.
fn redact(value: &mut Value, secrets: &[&str]) {
    match value {
        Value::String(text) => {
            for secret in secrets {
                if text.contains(secret) {
                    *text = text.replace(secret, REDACTED);
                }
            }
        }
        Value::Array(all) => all.iter_mut().for_each(|one| redact(one, secrets)),
        Value::Object(all) => all.values_mut().for_each(|one| redact(one, secrets)),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
