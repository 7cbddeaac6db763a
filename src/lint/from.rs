//! Rules about `FROM`: its arguments and its platform.

use crate::dockerfile::From;
use crate::image::Platform;
use crate::image::reference::check_image;

use super::finding::{Edit, Findings, Place};
use super::near::near;
use super::rule as rules;
use super::scope;
use super::stages::{self, Base, FromLine, Stages};

/// Checks every `FROM`, whatever the target needs.
pub(super) fn check(stages: &Stages<'_>, findings: &mut Findings<'_>) {
    invalid_defaults(stages, findings);
    for (stage, line) in stages.dockerfile.stages.iter().zip(&stages.froms) {
        let place = Place::from(&stage.from);
        undeclared(stages, &line.name.unmatched, place, findings);
        stage_casing(stages, &stage.from, line, findings);
        if let Some(flag) = &line.flag {
            undeclared(stages, &flag.unmatched, place, findings);
            platform(stages, &stage.from, line, findings);
        }
    }
}

/// Names that must do without any `--build-arg`.
fn invalid_defaults(stages: &Stages<'_>, findings: &mut Findings<'_>) {
    let Some(defaults) = stages::defaults(stages.dockerfile, stages.input) else { return };
    for stage in &stages.dockerfile.stages {
        let written = &stage.from.image.text;
        let Ok(read) = scope::read(stages.expander(), written, &defaults) else { return };
        if check_image(&read.text).is_err() && read.text != "scratch" {
            let detail =
                format!("Default value for ARG {written} results in empty or invalid base image name");
            findings.add(&rules::INVALID_DEFAULT_ARG_IN_FROM, Place::from(&stage.from), detail);
        }
    }
}

/// A stage's name in another case than it has in BuildKit, which looks for an image of that name.
fn stage_casing(stages: &Stages<'_>, from: &From, line: &FromLine, findings: &mut Findings<'_>) {
    let Base::Stage(base) = line.base else { return };
    let Some(name) = stages.dockerfile.stages[base].name() else { return };
    let written = &line.name.text;
    if written == name {
        return;
    }
    let literal = stages.dockerfile.source.slice(from.image.span) == *written;
    let edits = if literal { vec![Edit::new(from.image.span, name)] } else { Vec::new() };
    let detail =
        format!("BuildKit knows this stage as {name:?} alone, and takes {written:?} for an invalid image");
    findings.add_with(&rules::STAGE_REFERENCE_CASING, Place::from(from), detail, edits);
}

fn undeclared(stages: &Stages<'_>, unmatched: &[String], place: Place<'_>, findings: &mut Findings<'_>) {
    for name in unmatched {
        if stages.args.iter().any(|arg| arg.name == *name) {
            continue;
        }
        let known = stages.args.iter().map(|arg| arg.name.as_str()).chain(stages.globals.names());
        let hint = near(name, known);
        let hint = hint.map_or_else(String::new, |near| format!(" (did you mean {near}?)"));
        let detail = format!("FROM argument '{name}' is not declared{hint}");
        findings.add(&rules::UNDEFINED_ARG_IN_FROM, place, detail);
    }
}

fn platform(stages: &Stages<'_>, from: &From, line: &FromLine, findings: &mut Findings<'_>) {
    let (Some(flag), Some(word)) = (&line.flag, &from.platform) else { return };
    let place = Place::from(from);
    let target = stages.globals.value("TARGETPLATFORM");
    if flag.matched == ["TARGETPLATFORM"] && flag.unmatched.is_empty() && target == Some(flag.text.as_str()) {
        let detail = format!(
            "Setting platform to predefined {} in FROM is redundant as this is the default behavior",
            word.text
        );
        findings.add(&rules::REDUNDANT_TARGET_PLATFORM, place, detail);
    }
    if flag.matched.is_empty() && flag.unmatched.is_empty() {
        constant(&flag.text, from, place, findings);
    }
}

/// A constant is fine where the stage's name says that it is for that system or processor.
fn constant(text: &str, from: &From, place: Place<'_>, findings: &mut Findings<'_>) {
    let Ok(platform) = Platform::parse(text) else { return };
    let name = from.name.as_ref().map_or("", |name| name.text.as_str());
    if !name.contains(&platform.os) && !name.contains(&platform.architecture) {
        let detail = format!("FROM --platform flag should not use constant value {text:?}");
        findings.add(&rules::FROM_PLATFORM_FLAG_CONST_DISALLOWED, place, detail);
    }
}
