//! What a stage begins with: a base's config and triggers, or nothing.

use std::sync::Arc;

use crate::dockerfile::{Instruction, Source, parse_trigger};
use crate::image::{ContainerConfig, ImageConfig, Platform};

use super::super::error::PlanError;
use super::super::graph::{Base, CopyOrigin, CopyStep, FromStep, StepKind};
use super::super::resolve::{Builder, Origin};
use super::super::scope::Scope;
use super::{Evaluated, Walk};

/// What Docker takes where an image has no PATH.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Evaluates a stage whose base is known. `false` where a trigger needs an image that is not.
pub(in crate::plan) fn evaluate(builder: &mut Builder<'_>, index: usize) -> Result<bool, PlanError> {
    let (base, platform) = builder.base_of(index);
    let (state, triggers, start) = match base {
        Origin::Stage(stage) => {
            let mut state = match builder.evaluated.get(stage) {
                Some(state) => state.clone(),
                None => return Ok(false),
            };
            let triggers = std::mem::take(&mut state.image.config.on_build);
            (state, triggers, None)
        }
        Origin::Image(name) => {
            let name = name.clone();
            let platform = platform.unwrap_or_else(|| builder.input.platform.clone());
            let (source, span) =
                (builder.dockerfile.source.clone(), builder.dockerfile.stages[index].from.span);
            let Some((id, image)) = builder.config(&name, &platform, &source, span) else {
                return Ok(false);
            };
            let (state, triggers) = from_config(image.clone(), platform);
            let platform = state.platform.clone();
            let base = Base::Image { id, name };
            (state, triggers, Some(StepKind::From(FromStep { base, platform })))
        }
        Origin::Scratch { named } => {
            // As BuildKit does it: a flag says nothing about `scratch` itself.
            let platform = platform.filter(|_| *named).unwrap_or_else(|| builder.input.platform.clone());
            let from = FromStep { base: Base::Scratch, platform: platform.clone() };
            (scratch(platform), Vec::new(), Some(StepKind::From(from)))
        }
        Origin::Files(name) => {
            let copy = whole_context(name);
            let platform = platform.unwrap_or_else(|| builder.input.platform.clone());
            (scratch(platform), Vec::new(), Some(StepKind::Copy(copy)))
        }
    };
    let triggers = parse_triggers(builder, index, &triggers)?;
    for (source, instruction) in &triggers {
        if !builder.need_sources(index, instruction, source)? {
            return Ok(false);
        }
    }
    let mut walk = Walk::new(builder, index, state, &triggers, start.is_some());
    walk.start(start);
    walk.triggered = true;
    for (source, instruction) in &triggers {
        walk.instruction(source, instruction)?;
    }
    walk.triggered = false;
    let dockerfile = walk.builder.dockerfile;
    for instruction in &dockerfile.stages[index].instructions {
        walk.instruction(&dockerfile.source, instruction)?;
    }
    let state = walk.state;
    builder.evaluated.insert(index, state);
    Ok(true)
}

fn parse_triggers(
    builder: &Builder<'_>,
    index: usize,
    triggers: &[String],
) -> Result<Vec<(Arc<Source>, Instruction)>, PlanError> {
    let base = &builder.dockerfile.stages[index].from.image.text;
    let name = format!("ONBUILD of {base}");
    triggers
        .iter()
        .map(|trigger| {
            let trigger = parse_trigger(&name, trigger, '\\')?;
            Ok((trigger.source, trigger.instruction))
        })
        .collect()
}

/// A named context of files in place of a base image.
fn whole_context(name: &str) -> CopyStep {
    CopyStep {
        origin: CopyOrigin::Context(name.to_owned()),
        sources: vec!["/".into()],
        inline: Vec::new(),
        dest: "/".into(),
        dest_is_dir: true,
        chown: None,
        chmod: None,
        remote: Vec::new(),
        remote_after: Vec::new(),
        extract: false,
        extract_remote: false,
        exclude: Vec::new(),
        parents: false,
        link: false,
    }
}

fn scratch(platform: Platform) -> Evaluated {
    let config = ContainerConfig { working_dir: "/".into(), ..ContainerConfig::default() };
    let mut image = ImageConfig { config, ..ImageConfig::default() };
    set_path(&mut image, &platform);
    with_platform(image, platform)
}

fn from_config(mut image: ImageConfig, platform: Platform) -> (Evaluated, Vec<String>) {
    let triggers = std::mem::take(&mut image.config.on_build);
    image.created = None;
    set_path(&mut image, &platform);
    // An image of one platform only may be of another than was asked for; it stays what it is.
    let platform = match (image.os.as_str(), image.architecture.as_str()) {
        ("", _) | (_, "") => platform,
        (os, architecture) => Platform::new(os, architecture, &image.variant),
    };
    (with_platform(image, platform), triggers)
}

/// Windows has a path without being told.
fn set_path(image: &mut ImageConfig, platform: &Platform) {
    let env = &mut image.config.env;
    if platform.os != "windows" && !env.iter().any(|pair| pair.starts_with("PATH=")) {
        env.push(format!("PATH={DEFAULT_PATH}"));
    }
}

fn with_platform(mut image: ImageConfig, platform: Platform) -> Evaluated {
    image.os.clone_from(&platform.os);
    image.architecture.clone_from(&platform.architecture);
    image.variant.clone_from(&platform.variant);
    let mut scope = Scope::default();
    for pair in &image.config.env {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        scope.set(name, value);
    }
    Evaluated { scope, declared: Vec::new(), image, history: Vec::new(), last: None, platform }
}
