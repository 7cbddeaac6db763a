//! rbuild's own rules: mistakes that are legal, common and costly, each with a page in `docs/rules`.
//!
//! A rule that cries wolf is worse than none, so each keeps quiet where it cannot tell.

mod apk;
mod apt;
mod bases;
mod facts;
mod files;
mod packages;
mod run;

use crate::dockerfile::{CommandLine, Instruction, InstructionKind, Run};

use super::finding::{Findings, Place};
use super::shell::{self, Command, is_shell};
use super::stages::Stages;

use facts::Facts;

/// Runs all of them over the whole file.
pub(super) fn check(stages: &Stages<'_>, findings: &mut Findings<'_>) {
    let shipped = stages.chain(stages.target());
    bases::check(stages, findings);
    let mut ends: Vec<Facts<'_>> = Vec::new();
    for (index, stage) in stages.dockerfile.stages.iter().enumerate() {
        let mut facts = Facts::start(stages, index, &ends);
        let view = StageView {
            instructions: &stage.instructions,
            runs: runs(stages, index),
            shipped: shipped.contains(&index),
        };
        let mut runs = view.runs.iter();
        for instruction in view.instructions {
            if !matches!(instruction.kind, InstructionKind::Run(_)) {
                facts.pass(instruction);
                continue;
            }
            let Some(run) = runs.next() else { continue };
            apt::check(run, &facts, view.shipped, findings);
            apk::check(run, view.shipped, findings);
            run::check(run, &facts, findings);
            packages::check(run, &mut facts, view.shipped, findings);
            facts.run(run);
        }
        packages::copied_first(&view, findings);
        files::check(&view, findings);
        ends.push(facts);
    }
}

/// A stage as rules look at it.
struct StageView<'a> {
    instructions: &'a [Instruction],
    runs: Vec<RunView<'a>>,
    /// Its layers are part of the target's image.
    shipped: bool,
}

/// A `RUN` with its script taken apart.
struct RunView<'a> {
    /// Among the stage's instructions.
    position: usize,
    instruction: &'a Instruction,
    run: &'a Run,
    /// All of it as it is written.
    text: &'a str,
    commands: Vec<Command>,
}

impl<'a> RunView<'a> {
    fn place(&self) -> Place<'a> {
        Place::of(self.instruction)
    }

    /// Whether something other than the image's own files lies at `path` or above it.
    fn mounts_over(&self, path: &str) -> bool {
        self.run.mounts.iter().any(|mount| {
            let find = |names: &[&str]| mount.options.iter().find(|(key, _)| names.contains(&key.as_str()));
            // A mount without a type is one of files, which may be lists as well.
            let of_kind =
                find(&["type"]).is_none_or(|(_, kind)| !matches!(kind.as_deref(), Some("secret" | "ssh")));
            let target = find(&["target", "dst", "destination"]).and_then(|(_, value)| value.as_deref());
            let above = target.map(|target| target.trim_end_matches('/')).is_some_and(|target| {
                path.strip_prefix(target).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            });
            of_kind && above
        })
    }

    /// Whether there is any cache mount: which directory a program caches in may be configured anywhere.
    fn has_cache(&self) -> bool {
        self.run.mounts.iter().any(|mount| {
            mount.options.iter().any(|(key, value)| key == "type" && value.as_deref() == Some("cache"))
        })
    }
}

fn runs<'a>(stages: &Stages<'a>, index: usize) -> Vec<RunView<'a>> {
    let dockerfile = stages.dockerfile;
    let view = |(position, instruction): (usize, &'a Instruction)| match &instruction.kind {
        InstructionKind::Run(run) => {
            let text = dockerfile.source.slice(instruction.span);
            Some(RunView { position, instruction, run, text, commands: commands(run) })
        }
        _ => None,
    };
    dockerfile.stages[index].instructions.iter().enumerate().filter_map(view).collect()
}

/// The commands of a `RUN`, with those of a here-document that a shell gets.
fn commands(run: &Run) -> Vec<Command> {
    let text = match &run.command {
        CommandLine::Exec(argv) => {
            return match argv.as_slice() {
                [shell, .., script] if is_shell(shell) && argv.len() > 2 => shell::commands(script),
                _ => vec![Command { words: argv.clone(), ..Command::default() }],
            };
        }
        CommandLine::Shell(text) => text,
    };
    let mut commands = shell::commands(text);
    let fed = commands.first().is_some_and(|first| first.name().starts_with("<<") || is_shell(first.name()));
    if let ([only], true) = (run.heredocs.as_slice(), fed) {
        commands.retain(|command| !command.name().starts_with("<<") && !is_shell(command.name()));
        commands.extend(shell::commands(&only.body));
    }
    commands
}
