//! Scripts of `RUN`: directories, users and failures.

use crate::dockerfile::CommandLine;
use crate::lint::finding::Findings;
use crate::lint::rule as rules;
use crate::lint::shell::{self, Command, is_shell};

use super::RunView;
use super::facts::{Facts, User};

pub(super) fn check(view: &RunView<'_>, facts: &Facts<'_>, findings: &mut Findings<'_>) {
    cd(view, findings);
    if facts.user == User::Root && view.commands.iter().any(|command| command.sudo) {
        let detail = "This RUN is root's, for whom sudo changes nothing; leave it out";
        findings.add(&rules::SUDO_IN_RUN, view.place(), detail);
    }
    errexit(view, facts, findings);
}

/// A `cd` with nothing after it, unless it only leads back to where the script came from.
fn cd(view: &RunView<'_>, findings: &mut Findings<'_>) {
    let Some((last, before)) = view.commands.split_last() else { return };
    if last.name() != "cd" || matches!(last.joint, "||" | "|") {
        return;
    }
    let dir = last.operands().next().unwrap_or("~");
    let returns = matches!(dir, "~" | "/" | "-" | "$HOME" | "${HOME}") || dir.starts_with("..");
    let moved = before.iter().any(|command| matches!(command.name(), "cd" | "pushd"));
    let named = dir.starts_with(['/', '$', '~']);
    if !before.is_empty() && (returns || (moved && named)) {
        return;
    }
    let detail = format!("`cd {dir}` changes nothing for later instructions; use WORKDIR");
    findings.add(&rules::CD_IN_RUN, view.place(), detail);
}

/// A script of several commands of which only the last one's failure counts.
fn errexit(view: &RunView<'_>, facts: &Facts<'_>, findings: &mut Findings<'_>) {
    let ([only], CommandLine::Shell(text)) = (view.run.heredocs.as_slice(), &view.run.command) else {
        return;
    };
    let before: Vec<Command> = shell::commands(text);
    let first = before.first().map_or("", |command| command.name());
    let lone = before.len() == 1 && first.starts_with("<<");
    let to_shell = before.len() == 1 && is_shell(first);
    let strict = |words: &[String]| {
        words.iter().any(|word| {
            word == "errexit" || (word.starts_with('-') && !word.starts_with("--") && word.contains('e'))
        })
    };
    let in_command = before.first().is_some_and(|command| strict(&command.words));
    // Another program than a shell has rules of its own.
    let foreign = facts.windows
        || facts.shell.is_some_and(|words| strict(words) || !words.first().is_some_and(|one| is_shell(one)));
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
    let plain = |command: &Command| !matches!(command.name(), "fi" | "done" | "esac" | "}" | "exit" | "");
    if !sets && steps > 0 && commands.iter().filter(|command| plain(command)).count() > 1 {
        let detail = "Only the last command's failure fails this RUN; begin the script with `set -e`";
        findings.add(&rules::HEREDOC_WITHOUT_ERREXIT, view.place(), detail);
    }
}
