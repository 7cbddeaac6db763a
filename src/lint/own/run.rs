//! Scripts of `RUN`: directories, users and failures.

use crate::dockerfile::{CommandLine, InstructionKind};
use crate::lint::finding::Findings;
use crate::lint::rule as rules;
use crate::lint::shell;

use super::{RunView, StageView, is_shell};

pub(super) fn check(stage: &StageView<'_>, findings: &mut Findings<'_>) {
    for view in &stage.runs {
        cd(view, findings);
        if view.commands.iter().any(|command| command.sudo) {
            let detail = "sudo has no effect for root, asks for passwords nobody types, and hides who runs what; \
                          use USER";
            findings.add(&rules::SUDO_IN_RUN, view.place(), detail);
        }
        errexit(stage, view, findings);
    }
}

/// A `cd` with nothing after it.
fn cd(view: &RunView<'_>, findings: &mut Findings<'_>) {
    let Some(last) = view.commands.last().filter(|command| command.name() == "cd") else { return };
    if matches!(last.joint, "||" | "|") {
        return;
    }
    let dir = last.operands().next().unwrap_or("~");
    let detail = format!("`cd {dir}` changes nothing for later instructions; use WORKDIR");
    findings.add(&rules::CD_IN_RUN, view.place(), detail);
}

/// A script of several commands of which only the last one's failure counts.
fn errexit(stage: &StageView<'_>, view: &RunView<'_>, findings: &mut Findings<'_>) {
    let ([only], CommandLine::Shell(text)) = (view.run.heredocs.as_slice(), &view.run.command) else {
        return;
    };
    let before: Vec<shell::Command> = shell::commands(text);
    let first = before.first().map_or("", |command| command.name());
    let lone = before.len() == 1 && first.starts_with("<<");
    let to_shell = before.len() == 1 && is_shell(first);
    let strict = |words: &[String]| {
        words.iter().any(|word| {
            word == "errexit" || (word.starts_with('-') && !word.starts_with("--") && word.contains('e'))
        })
    };
    let in_command = before.first().is_some_and(|command| strict(&command.words));
    let chosen = stage.instructions[..view.position].iter().rev().find_map(|one| match &one.kind {
        InstructionKind::Shell(words) => Some(words),
        _ => None,
    });
    // Another program than a shell has rules of its own.
    let foreign =
        chosen.is_some_and(|words| strict(words) || !words.first().is_some_and(|one| is_shell(one)));
    let shebang = only.body.lines().next().and_then(|line| line.strip_prefix("#!"));
    let other_program = shebang.is_some_and(|line| {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        strict(&words) || !words.iter().any(|word| is_shell(word))
    });
    if !(lone || to_shell) || in_command || (lone && foreign && shebang.is_none()) || other_program {
        return;
    }
    let commands = shell::commands(&only.body);
    let sets = commands.iter().any(|command| command.name() == "set" && strict(&command.words));
    let steps = commands.iter().skip(1).filter(|command| matches!(command.joint, "\n" | ";")).count();
    let plain =
        |command: &shell::Command| !matches!(command.name(), "fi" | "done" | "esac" | "}" | "exit" | "");
    if !sets && steps > 0 && commands.iter().filter(|command| plain(command)).count() > 1 {
        let detail = "Only the last command's failure fails this RUN; begin the script with `set -e`";
        findings.add(&rules::HEREDOC_WITHOUT_ERREXIT, view.place(), detail);
    }
}
