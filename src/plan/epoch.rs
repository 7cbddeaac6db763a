//! What `SOURCE_DATE_EPOCH` refers to: seconds, or a source whose own time it is.

use std::sync::Arc;

use crate::dockerfile::{
    ArgDecl, Copy, CopySource, Dockerfile, Expander, InstructionKind, Source, Span, Stage, Word,
};
use crate::remote::{self, Checksum, SourceKind};

use super::error::PlanError;
use super::graph::RemoteSource;
use super::resolve::{PlanInput, global_scope};
use super::scope::Scope;

const NAME: &str = "SOURCE_DATE_EPOCH";

/// Where the time of everything that a build makes comes from.
#[derive(Clone, Debug)]
pub struct Epoch {
    /// As written, after expansion.
    pub value: String,
    /// Whether it is the default of a global `ARG`, and no build argument.
    pub of_dockerfile: bool,
    /// What it refers to.
    pub of: EpochSource,
}

/// What a value refers to.
#[derive(Clone, Debug)]
pub enum EpochSource {
    /// Nothing: the value is empty.
    None,
    /// Seconds since 1970.
    Seconds(i64),
    /// `context`: the build context.
    Context,
    /// A named context, by its name in lower case.
    Named(String),
    /// A stage that is `FROM scratch` and adds one remote source.
    Stage {
        /// The source.
        remote: RemoteSource,
        /// Where the Dockerfile names it.
        place: (Arc<Source>, Span),
    },
}

/// Finds out what `SOURCE_DATE_EPOCH` refers to; `None` where neither an argument nor the Dockerfile sets it.
/// `names` are those of all named contexts, in lower case. Fails on a value that is none of the above.
pub fn epoch<'a>(
    dockerfile: &Dockerfile,
    input: &PlanInput,
    mut names: impl Iterator<Item = &'a String>,
) -> Result<Option<Epoch>, PlanError> {
    let given = input.build_args.iter().rev().find(|(name, _)| name == NAME).map(|(_, value)| value);
    let mut globals = global_scope(dockerfile, input)?;
    let Some(value) = given.cloned().or_else(|| globals.value(NAME).map(str::to_owned)) else {
        return Ok(None);
    };
    let lower = value.to_lowercase();
    let of = if value.is_empty() {
        EpochSource::None
    } else if let Ok(seconds) = value.parse() {
        EpochSource::Seconds(seconds)
    } else if value == "context" {
        EpochSource::Context
    } else if names.any(|name| *name == lower) {
        EpochSource::Named(lower)
    } else if let Some(stage) = dockerfile.stages.iter().find(|stage| stage.name() == Some(&lower)) {
        // A stage cannot depend on the time that comes from it.
        globals.remove(NAME);
        Evaluation { dockerfile, input, scope: globals }.stage(stage)?
    } else {
        return Err(PlanError::nowhere(format!("invalid {NAME}: {value:?}")).help(
            "give whole seconds since 1970, \"context\", or the name of a named context or of a stage that is \
             one remote ADD on scratch",
        ));
    };
    Ok(Some(Epoch { value, of_dockerfile: given.is_none(), of }))
}

struct Evaluation<'a> {
    dockerfile: &'a Dockerfile,
    input: &'a PlanInput,
    scope: Scope,
}

impl Evaluation<'_> {
    fn fail(&self, span: Span, reason: &str) -> PlanError {
        PlanError::at(&self.dockerfile.source, span, format!("{NAME} cannot come from this stage: {reason}"))
            .help("such a stage is FROM scratch with exactly one ADD of an http(s) or git source, and ARGs")
    }

    fn expand(&self, word: &Word) -> Result<String, PlanError> {
        let expander = Expander::new(self.dockerfile.directives.escape);
        let expanded = expander.word(&word.text, &self.scope);
        let expanded =
            expanded.map_err(|error| PlanError::at(&self.dockerfile.source, word.span, error.message))?;
        Ok(expanded.text)
    }

    fn stage(mut self, stage: &Stage) -> Result<EpochSource, PlanError> {
        if self.expand(&stage.from.image)? != "scratch" {
            return Err(self.fail(stage.from.image.span, "its base is not scratch"));
        }
        let mut found = None;
        for instruction in &stage.instructions {
            match &instruction.kind {
                InstructionKind::Arg(all) => all.iter().try_for_each(|arg| self.declare(arg))?,
                InstructionKind::Add(_) if found.is_some() => {
                    return Err(self.fail(instruction.span, "it has a second ADD"));
                }
                InstructionKind::Add(add) => found = Some(self.add(add, instruction.span)?),
                _ => {
                    let reason = format!("it has {}", instruction.keyword.text.to_uppercase());
                    return Err(self.fail(instruction.span, &reason));
                }
            }
        }
        found.ok_or_else(|| self.fail(stage.from.span, "it has no ADD"))
    }

    fn declare(&mut self, arg: &ArgDecl) -> Result<(), PlanError> {
        let name = &arg.name.text;
        let given = self.input.build_args.iter().rev().find(|(known, _)| known == name);
        if let Some((_, value)) = given.filter(|_| name != NAME) {
            self.scope.set(name, value);
        } else if let Some(default) = &arg.default {
            let value = self.expand(default)?;
            self.scope.set(name, &value);
        }
        Ok(())
    }

    fn add(&self, add: &Copy, span: Span) -> Result<EpochSource, PlanError> {
        let [CopySource::Path(word)] = add.sources.as_slice() else {
            return Err(self.fail(span, "its ADD has not exactly one remote source"));
        };
        let source = &self.dockerfile.source;
        let url = self.expand(word)?;
        let kind =
            remote::add_source(&url).map_err(|error| PlanError::at(source, word.span, error.to_string()))?;
        let checksum = add.flags.checksum.as_ref().map(|word| self.expand(word)).transpose()?;
        let checksum = checksum.filter(|text| !text.is_empty());
        match (&kind, &checksum, &add.flags.checksum) {
            (SourceKind::None, ..) => return Err(self.fail(word.span, "its ADD is of no remote source")),
            (SourceKind::Http(_), Some(text), Some(word)) => {
                Checksum::parse(text).map_err(|error| PlanError::at(source, word.span, error.to_string()))?;
            }
            _ => {}
        }
        let remote = RemoteSource { url, checksum, keep_git_dir: add.flags.keep_git_dir };
        Ok(EpochSource::Stage { remote, place: (source.clone(), word.span) })
    }
}
