//! The steps of a build in the form of BuildKit's low-level build definition, as `mode=max` has them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::digest::Digest;
use crate::image::Platform;
use crate::plan::{Base, CopyOrigin, CopyStep, RunMountKind, RunNetwork, RunStep, Step, StepKind};
use crate::time::rfc3339;

use super::Facts;

/// `buildConfig`
pub(super) fn build_config(facts: &Facts<'_>) -> Value {
    let steps: Vec<Value> = facts.plan.steps.iter().map(|step| build_step(facts, step)).collect();
    let mut mapping = Map::new();
    for step in &facts.plan.steps {
        let inputs: Vec<String> = step.dependencies().map(|id| name(id.0)).collect();
        let whole = json!({"definition": step.definition(), "inputs": inputs}).to_string();
        mapping.insert(Digest::of(whole.as_bytes()).to_string(), json!(name(step.id.0)));
    }
    json!({"llbDefinition": steps, "digestMapping": mapping})
}

fn name(step: usize) -> String {
    format!("step{step}")
}

fn build_step(facts: &Facts<'_>, step: &Step) -> Value {
    let inputs: Vec<String> = step.dependencies().map(|id| format!("{}:0", name(id.0))).collect();
    let mut out = json!({"id": name(step.id.0), "op": op(step)});
    if !inputs.is_empty() {
        out["inputs"] = json!(inputs);
    }
    if let Some(state) = facts.steps.get(step.id.0) {
        out["created"] = json!(rfc3339(state.created, 0));
        // The same build twice would differ in that.
        if facts.invocation.is_some() {
            out["cached"] = json!(state.cached);
        }
    }
    out
}

fn op(step: &Step) -> Value {
    match &step.kind {
        StepKind::From(from) => {
            let identifier = match &from.base {
                Base::Scratch => "scratch://".to_owned(),
                Base::Image { name, .. } => format!("docker-image://{name}"),
            };
            json!({"Op": {"source": {"identifier": identifier}}, "platform": platform(&from.platform)})
        }
        StepKind::Run(run) => json!({"Op": {"exec": exec(run)}, "platform": platform(&run.platform)}),
        StepKind::Copy(step) => json!({"Op": {"file": {"actions": [{"Action": {"copy": copy(step)}}]}}}),
        StepKind::Workdir(step) => {
            json!({"Op": {"file": {"actions": [{"Action": {"mkdir": {"path": step.path}}}]}}})
        }
    }
}

fn platform(platform: &Platform) -> Value {
    let mut out = json!({"Architecture": platform.architecture, "OS": platform.os});
    if !platform.variant.is_empty() {
        out["Variant"] = json!(platform.variant);
    }
    out
}

fn exec(run: &RunStep) -> Value {
    let env: Vec<String> = run.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let mut meta = json!({"args": run.argv, "env": env, "cwd": run.cwd});
    if !run.user.is_empty() {
        meta["user"] = json!(run.user);
    }
    let mounts: Vec<Value> = run
        .mounts
        .iter()
        .map(|mount| {
            let mut out = Map::new();
            out.extend(mount.target.iter().map(|target| ("dest".to_owned(), json!(target))));
            let (kind, more) = match &mount.kind {
                RunMountKind::Bind { origin, source, .. } => {
                    ("bind", json!({"from": origin.as_ref().map(from), "selector": source}))
                }
                RunMountKind::Cache { id, .. } => ("cache", json!({"cacheOpt": {"ID": id}})),
                RunMountKind::Tmpfs { .. } => ("tmpfs", json!({})),
                RunMountKind::Secret { id, .. } => ("secret", json!({"secretOpt": {"ID": id}})),
                RunMountKind::Ssh { id, .. } => ("ssh", json!({"SSHOpt": {"ID": id}})),
            };
            out.insert("mountType".into(), json!(kind));
            if let Value::Object(more) = more {
                out.extend(more);
            }
            Value::Object(out)
        })
        .collect();
    let mut exec = json!({"meta": meta});
    if !mounts.is_empty() {
        exec["mounts"] = mounts.into();
    }
    match run.network {
        RunNetwork::Default => {}
        RunNetwork::Host => exec["network"] = json!(1),
        RunNetwork::None => exec["network"] = json!(2),
    }
    if run.insecure {
        exec["security"] = json!(1);
    }
    exec
}

fn from(origin: &CopyOrigin) -> Value {
    match origin {
        CopyOrigin::Context(name) if name.is_empty() => json!("local://context"),
        CopyOrigin::Context(name) => json!(format!("local://{name}")),
        CopyOrigin::Step(id, _) => json!(format!("{}:0", name(id.0))),
    }
}

fn copy(step: &CopyStep) -> Value {
    let remote = step.remote.iter().map(|one| crate::remote::without_credentials(&one.url));
    let inline = step.inline.iter().map(|file| format!("inline:{}", file.name));
    let sources: Vec<String> = step.sources.iter().cloned().chain(remote).chain(inline).collect();
    json!({"from": from(&step.origin), "src": sources, "dest": step.dest})
}

/// `source` and `layers`
pub(super) fn metadata(facts: &Facts<'_>) -> Value {
    let mut locations = Map::new();
    for step in &facts.plan.steps {
        let (start, end) = (step.source.location(step.span.start), step.source.location(step.span.end));
        let range = json!({
            "start": {"line": start.line, "character": start.column.saturating_sub(1)},
            "end": {"line": end.line, "character": end.column.saturating_sub(1)},
        });
        locations.insert(name(step.id.0), json!({"locations": [{"ranges": [range]}]}));
    }
    let info = json!({
        "filename": facts.dockerfile, "language": "Dockerfile", "data": STANDARD.encode(facts.source),
    });
    let mut out = json!({"source": {"locations": locations, "infos": [info]}});
    let mut layers = Map::new();
    for (at, state) in facts.steps.iter().enumerate().filter(|(_, state)| !state.layers.is_empty()) {
        layers.insert(format!("{}:0", name(at)), json!([state.layers]));
    }
    if !layers.is_empty() {
        out["layers"] = Value::Object(layers);
    }
    out
}
