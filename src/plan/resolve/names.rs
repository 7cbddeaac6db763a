//! What names in `FROM`, `--from` and `--target` mean.

use std::sync::Arc;

use crate::dockerfile::{Source, Word};
use crate::image::reference::check_image;
use crate::image::{Platform, Reference};
use crate::suggest::suggest;

use super::super::error::PlanError;
use super::{Builder, ContextKind};

/// What a name in `FROM` or `--from` means.
pub(in crate::plan) enum Origin {
    Stage(usize),
    Files(String),
    Image(String),
    /// Nothing: by itself, or as a named context.
    Scratch {
        named: bool,
    },
}

impl Builder<'_> {
    pub(super) fn resolve_from(&mut self, index: usize) -> Result<(Origin, Option<Platform>), PlanError> {
        let source = &self.dockerfile.source;
        let from = &self.dockerfile.stages[index].from;
        let platform = match &from.platform {
            None => None,
            Some(word) => {
                let text = self.expand_global(word)?;
                let parsed = Platform::parse(&text);
                Some(parsed.map_err(|error| PlanError::at(source, word.span, error.to_string()))?)
            }
        };
        let name = self.expand_global(&from.image)?;
        if name.is_empty() {
            let message = format!("base name ({}) should not be blank", from.image.text);
            return Err(PlanError::at(source, from.image.span, message)
                .help("give the ARG a default, or pass it with --build-arg"));
        }
        let origin = match self.earlier_stage(&name, index) {
            Some(stage) => Origin::Stage(stage),
            None => self.outside(&name),
        };
        if let Origin::Image(name) = &origin {
            let valid = self.input.contexts.contains_key(name) || check_image(name).is_ok();
            if !valid {
                let error = check_image(name).err().map_or_else(String::new, |error| error.to_string());
                let error = PlanError::at(source, from.image.span, error);
                return Err(match empty_variable(&from.image.text, name) {
                    Some(help) => error.help(help),
                    None => error,
                });
            }
        }
        Ok((origin, platform))
    }

    /// The latest stage of a name before `index`, unless a named context stands for it.
    fn earlier_stage(&self, name: &str, index: usize) -> Option<usize> {
        let lower = name.to_lowercase();
        if self.input.contexts.contains_key(name) || self.input.contexts.contains_key(&lower) {
            return None;
        }
        self.dockerfile.stages[..index].iter().rposition(|stage| stage.name() == Some(&lower))
    }

    /// A name that is no stage: a context, nothing, or an image.
    fn outside(&self, name: &str) -> Origin {
        let canonical =
            |text: &str| Reference::parse(text).ok().map(|name| name.with_default_tag().to_string());
        let wanted = canonical(name);
        let same = |context: &str| {
            context.eq_ignore_ascii_case(name) || (wanted.is_some() && canonical(context) == wanted)
        };
        match self.input.contexts.iter().find(|(context, _)| same(context)) {
            Some((context, ContextKind::Files)) => Origin::Files(context.clone()),
            Some((context, ContextKind::Image)) => Origin::Image(context.clone()),
            Some((_, ContextKind::Scratch)) => Origin::Scratch { named: true },
            None if name == "scratch" => Origin::Scratch { named: false },
            None => Origin::Image(name.to_owned()),
        }
    }

    pub(super) fn target(&self) -> Result<usize, PlanError> {
        let stages = &self.dockerfile.stages;
        if let Some(index) = self.input.stage.filter(|index| *index < stages.len()) {
            return Ok(index);
        }
        let Some(target) = &self.input.target else { return Ok(stages.len() - 1) };
        let lower = target.to_lowercase();
        if let Some(index) = stages.iter().rposition(|stage| stage.name() == Some(&lower)) {
            return Ok(index);
        }
        if let Some(index) = target.parse().ok().filter(|index| *index < stages.len()) {
            return Ok(index);
        }
        let error = PlanError::nowhere(format!("target stage {target:?} could not be found"));
        let names: Vec<&str> = stages.iter().filter_map(|stage| stage.name()).collect();
        Err(match suggest(&lower, names.iter().copied()) {
            Some(name) => error.help(format!("did you mean {name:?}?")),
            None if names.is_empty() => {
                error.help("no stage of this Dockerfile has a name (FROM ... AS name)")
            }
            None => error.help(format!("stages here: {}", names.join(", "))),
        })
    }

    /// What `--from` of a stage means.
    pub fn copy_origin(&self, index: usize, from: &Word, source: &Arc<Source>) -> Result<Origin, PlanError> {
        let name = from.text.as_str();
        if name.contains('$') {
            return Err(PlanError::at(
                source,
                from.span,
                "variable expansion is not supported for --from, define a new stage with FROM using ARG from \
                 global scope as a workaround",
            ));
        }
        let stages = &self.dockerfile.stages;
        let lower = name.to_lowercase();
        if self.earlier_stage(name, stages.len()).is_some() {
            if let Some(stage) = self.earlier_stage(name, index) {
                return Ok(Origin::Stage(stage));
            }
            if stages[index].name() == Some(&lower) {
                return Err(PlanError::at(
                    source,
                    from.span,
                    format!("circular dependency detected on stage: {name}"),
                ));
            }
            let own = stages[index].name().map_or_else(|| format!("stage-{index}"), str::to_owned);
            let message = format!(
                "cannot copy from stage {name:?}, it needs to be defined before current stage {own:?}"
            );
            return Err(PlanError::at(source, from.span, message).help("move that stage further up"));
        }
        if let Ok(number) = name.parse::<usize>() {
            return match number {
                number if number < index => Ok(Origin::Stage(number)),
                number if number == index => Err(PlanError::at(
                    source,
                    from.span,
                    format!("circular dependency detected on stage: {number}"),
                )),
                _ => Err(PlanError::at(source, from.span, format!("invalid stage index {number}"))),
            };
        }
        match self.outside(name) {
            Origin::Image(image) => match check_image(&image) {
                Err(error) if !self.input.contexts.contains_key(&image) => {
                    let names = stages[..index].iter().filter_map(|stage| stage.name());
                    let error = PlanError::at(source, from.span, error.to_string());
                    Err(match suggest(&lower, names) {
                        Some(name) => error.help(format!("did you mean the stage {name:?}?")),
                        None => error,
                    })
                }
                _ => Ok(Origin::Image(image)),
            },
            other => Ok(other),
        }
    }
}

/// What to do where a name ends with a variable that turned out to be empty.
fn empty_variable(written: &str, name: &str) -> Option<String> {
    let variable = written.rsplit_once('$').filter(|_| name.ends_with([':', '/', '@']))?.1;
    let variable = variable.trim_matches(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    (!variable.is_empty()).then(|| {
        format!("${variable} is empty: declare ARG {variable} before the first FROM, with a default, or pass it with --build-arg")
    })
}
