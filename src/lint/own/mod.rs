//! rbuild's own rules: mistakes that are legal, common and costly, each with a page in `docs/rules`.
//!
//! A rule that cries wolf is worse than none, so each keeps quiet where it cannot tell.

mod apt;
mod bases;
mod files;
mod packages;
mod run;

use crate::dockerfile::{CommandLine, Instruction, InstructionKind, Run};

use super::finding::{Findings, Place};
use super::shell::{self, Command};
use super::stages::{Base, Stages};

/// Runs all of them over the whole file.
pub(super) fn check(stages: &Stages<'_>, findings: &mut Findings<'_>) {
    let shipped = stages.chain(stages.target());
    bases::check(stages, findings);
    for (index, stage) in stages.dockerfile.stages.iter().enumerate() {
        let view = StageView {
            instructions: &stage.instructions,
            runs: runs(&stage.instructions),
            shipped: shipped.contains(&index),
            on_stage: matches!(stages.froms[index].base, Base::Stage(_)),
        };
        apt::check(&view, findings);
        run::check(&view, findings);
        packages::check(&view, findings);
        files::check(&view, findings);
    }
}

/// A stage as rules look at it.
struct StageView<'a> {
    instructions: &'a [Instruction],
    runs: Vec<RunView<'a>>,
    /// Its layers are part of the target's image.
    shipped: bool,
    /// It is built on another stage of the file.
    on_stage: bool,
}

/// A `RUN` with its script taken apart.
struct RunView<'a> {
    /// Among the stage's instructions.
    position: usize,
    instruction: &'a Instruction,
    run: &'a Run,
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
            let of_kind =
                find(&["type"]).is_some_and(|(_, kind)| matches!(kind.as_deref(), Some("cache" | "tmpfs")));
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

fn runs(instructions: &[Instruction]) -> Vec<RunView<'_>> {
    instructions
        .iter()
        .enumerate()
        .filter_map(|(position, instruction)| match &instruction.kind {
            InstructionKind::Run(run) => {
                Some(RunView { position, instruction, run, commands: commands(run) })
            }
            _ => None,
        })
        .collect()
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

fn is_shell(program: &str) -> bool {
    matches!(program.rsplit('/').next().unwrap_or(program), "sh" | "bash" | "ash" | "dash" | "zsh")
}
