//! What `FROM` lines mean: names after expansion, what is built on what, and which stages a target needs.

use std::collections::BTreeMap;

use crate::dockerfile::{Dockerfile, Expander, InstructionKind, Span};
use crate::image::{ImageConfig, Platform, Reference};

use super::LintInput;
use super::scope::{self, Read, Scope};

/// Where the files of a stage begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Base {
    Stage(usize),
    Scratch,
    /// An image by the name written, variables expanded.
    Image(String),
    /// A named context of files.
    Context,
}

/// A global `ARG`.
#[derive(Debug, Clone)]
pub(super) struct GlobalArg {
    pub(super) name: String,
    pub(super) value: String,
    /// Globals its default is made of.
    pub(super) needs: Vec<String>,
    /// The default cannot be expanded.
    broken: bool,
    pub(super) span: Span,
    pub(super) comments: Vec<String>,
}

/// A `FROM` line.
#[derive(Debug, Clone)]
pub(super) struct FromLine {
    pub(super) name: Read,
    pub(super) flag: Option<Read>,
    pub(super) base: Base,
    /// What `--platform` says, if that is a platform.
    pub(super) platform: Option<Platform>,
}

/// The whole file seen from above.
pub(super) struct Stages<'a> {
    pub(super) dockerfile: &'a Dockerfile,
    pub(super) input: &'a LintInput<'a>,
    pub(super) globals: Scope,
    pub(super) args: Vec<GlobalArg>,
    pub(super) froms: Vec<FromLine>,
}

impl<'a> Stages<'a> {
    pub(super) fn new(dockerfile: &'a Dockerfile, input: &'a LintInput<'a>) -> Self {
        let mut globals = platform_arguments(dockerfile, input);
        let args = declare(dockerfile, &mut globals, |name| input.build_arg(name));
        let mut stages = Stages { dockerfile, input, globals, args, froms: Vec::new() };
        for index in 0..dockerfile.stages.len() {
            let from = stages.line(index);
            stages.froms.push(from);
        }
        stages
    }

    pub(super) fn expander(&self) -> Expander {
        Expander::new(self.dockerfile.directives.escape)
    }

    fn line(&self, index: usize) -> FromLine {
        let from = &self.dockerfile.stages[index].from;
        let read = |text: &str| scope::read_as_far(self.expander(), text, &self.globals);
        let name = read(&from.image.text);
        let flag = from.platform.as_ref().map(|word| read(&word.text));
        let platform = flag.as_ref().and_then(|flag| Platform::parse(&flag.text).ok());
        let base = self.base(&name.text, index);
        FromLine { name, flag, base, platform }
    }

    fn base(&self, name: &str, index: usize) -> Base {
        let context = self.input.contexts.iter().any(|context| same(context, name));
        match self.stage_named(name, index) {
            _ if context && !self.input.bases.keys().any(|(known, _)| same(known, name)) => Base::Context,
            Some(stage) if !context => Base::Stage(stage),
            _ if name == "scratch" => Base::Scratch,
            _ => Base::Image(name.to_owned()),
        }
    }

    /// The last stage of a name before another stage.
    fn stage_named(&self, name: &str, before: usize) -> Option<usize> {
        let stages = self.dockerfile.stages.get(..before)?;
        stages.iter().rposition(|stage| stage.name().is_some_and(|known| known.eq_ignore_ascii_case(name)))
    }

    /// The stage that a `--from` or `from=` in stage `index` means.
    pub(super) fn copied(&self, index: usize, from: &str) -> Option<usize> {
        let by_number = || from.parse().ok().filter(|number: &usize| *number < index);
        self.stage_named(from, index).or_else(by_number)
    }

    /// The stage a target means: by name, by number, or the last.
    pub(super) fn target(&self) -> usize {
        let last = self.dockerfile.stages.len().saturating_sub(1);
        let Some(target) = self.input.target else { return last };
        let by_number = || target.parse().ok().filter(|number| *number <= last);
        self.stage_named(target, last + 1).or_else(by_number).unwrap_or(last)
    }

    /// Stages that a stage copies from or mounts, in order of use.
    pub(super) fn uses(&self, index: usize) -> Vec<usize> {
        let mut used = Vec::new();
        for instruction in &self.dockerfile.stages[index].instructions {
            let names: Vec<&str> = match &instruction.kind {
                InstructionKind::Copy(copy) => {
                    copy.flags.from.iter().map(|word| word.text.as_str()).collect()
                }
                InstructionKind::Run(run) => run
                    .mounts
                    .iter()
                    .flat_map(|mount| &mount.options)
                    .filter(|(key, _)| key == "from")
                    .filter_map(|(_, value)| value.as_deref())
                    .collect(),
                _ => continue,
            };
            used.extend(names.into_iter().filter_map(|name| self.copied(index, name)));
        }
        used
    }

    /// A stage and all it needs, as flags by index.
    pub(super) fn reachable(&self, target: usize) -> Vec<bool> {
        let mut seen = vec![false; self.froms.len()];
        let mut open = vec![target];
        while let Some(index) = open.pop() {
            if std::mem::replace(&mut seen[index], true) {
                continue;
            }
            if let Base::Stage(base) = self.froms[index].base {
                open.push(base);
            }
            open.extend(self.uses(index));
        }
        seen
    }

    /// A stage and the stages it is built on: those whose layers are in its image.
    pub(super) fn chain(&self, target: usize) -> Vec<usize> {
        let mut chain = vec![target];
        while let Some(Base::Stage(base)) = chain.last().map(|index| &self.froms[*index].base) {
            chain.push(*base);
        }
        chain
    }

    /// What is known of an image.
    pub(super) fn config(&self, name: &str, platform: Option<&Platform>) -> Option<&'a ImageConfig> {
        find(self.input.bases, name, platform.unwrap_or(self.input.platform))
    }
}

fn find<'a>(
    bases: &'a BTreeMap<(String, Platform), ImageConfig>,
    name: &str,
    platform: &Platform,
) -> Option<&'a ImageConfig> {
    bases.iter().find(|((known, of), _)| of == platform && same(known, name)).map(|(_, config)| config)
}

/// Whether two names mean the same image: `debian` and `docker.io/library/debian:latest` do.
pub(super) fn same(a: &str, b: &str) -> bool {
    let canonical = |name: &str| Reference::parse(name).ok().map(|name| name.with_default_tag().to_string());
    a.eq_ignore_ascii_case(b) || canonical(a).is_some_and(|a| canonical(b) == Some(a))
}

/// The arguments every `FROM` sees without declaration.
fn platform_arguments(dockerfile: &Dockerfile, input: &LintInput<'_>) -> Scope {
    let (target, build) = (input.platform, input.build_platform);
    let mut globals = Scope::default();
    for (name, value) in Platform::arguments(target, build, dockerfile.target_name(input.target)) {
        globals.set(name, input.build_arg(name).unwrap_or(&value));
    }
    globals
}

/// Runs the `ARG`s before the first `FROM`.
pub(super) fn declare<'v>(
    dockerfile: &Dockerfile,
    globals: &mut Scope,
    given: impl Fn(&str) -> Option<&'v str>,
) -> Vec<GlobalArg> {
    let expander = Expander::new(dockerfile.directives.escape);
    let mut args: Vec<GlobalArg> = Vec::new();
    for instruction in &dockerfile.global_args {
        let InstructionKind::Arg(declarations) = &instruction.kind else { continue };
        for declaration in declarations {
            let name = &declaration.name.text;
            let (mut needs, mut broken) = (Vec::new(), false);
            let value = match (given(name), &declaration.default) {
                (Some(value), _) => Some(value.to_owned()),
                (None, Some(default)) => {
                    let read = scope::read(expander, &default.text, globals);
                    broken = read.is_err();
                    let Read { text, matched, .. } = read.unwrap_or_default();
                    needs = matched;
                    Some(text)
                }
                (None, None) => None,
            };
            if let Some(value) = &value {
                globals.set(name, value);
            }
            args.retain(|arg| arg.name != *name);
            args.push(GlobalArg {
                name: name.clone(),
                value: value.unwrap_or_default(),
                needs,
                broken,
                span: instruction.span,
                comments: instruction.comments.clone(),
            });
        }
    }
    args
}

/// The global scope as it is without any build argument; `None` if a default cannot be expanded.
pub(super) fn defaults(dockerfile: &Dockerfile, input: &LintInput<'_>) -> Option<Scope> {
    let mut globals = platform_arguments(dockerfile, input);
    let args = declare(dockerfile, &mut globals, |_| None);
    (!args.iter().any(|arg| arg.broken)).then_some(globals)
}
