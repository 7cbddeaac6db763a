//! Debian's and Alpine's package managers.

use crate::dockerfile::Span;
use crate::lint::finding::{Edit, Findings};
use crate::lint::rule as rules;
use crate::lint::shell::Command;

use super::{RunView, StageView};

/// Where apt keeps its package lists.
const LISTS: &str = "/var/lib/apt/lists";

fn is_apt(command: &Command) -> bool {
    matches!(command.name(), "apt-get" | "apt")
}

fn verb(command: &Command) -> &str {
    command.operands().next().unwrap_or("")
}

fn updates(command: &Command) -> bool {
    is_apt(command) && verb(command) == "update"
}

/// Installs from the lists; files given by path need none.
fn installs(command: &Command) -> bool {
    is_apt(command)
        && matches!(verb(command), "install" | "build-dep" | "upgrade" | "dist-upgrade" | "full-upgrade")
        && !command.operands().skip(1).any(|package| package.contains('/') || package.ends_with(".deb"))
}

pub(super) fn check(stage: &StageView<'_>, findings: &mut Findings<'_>) {
    let mut updated = stage.on_stage;
    for view in &stage.runs {
        let update = view.commands.iter().any(updates);
        let install = view.commands.iter().any(installs);
        if update && !install && !view.mounts_over(LISTS) {
            let detail = "apt-get update without install in the same RUN: its layer is cached, and later installs \
                          work with old package lists";
            findings.add(&rules::APT_UPDATE_ALONE, view.place(), detail);
        }
        if install && !update && !updated && !view.mounts_over(LISTS) {
            let detail = "apt-get install without update in the same RUN: base images have no package lists";
            findings.add(&rules::APT_UPDATE_ALONE, view.place(), detail);
        }
        updated |= update;
        if stage.shipped {
            lists_left(view, update && install, findings);
            index_left(view, findings);
        }
        assume_yes(view, findings);
    }
}

fn lists_left(view: &RunView<'_>, fetched: bool, findings: &mut Findings<'_>) {
    let removes = |command: &Command| {
        command.name() == "rm" && command.operands().any(|path| path.starts_with(LISTS))
            || is_apt(command) && command.operands().any(|word| word == "dist-clean" || word == "distclean")
            || command.name() == "find" && command.operands().any(|path| path.starts_with(LISTS))
    };
    if fetched && !view.mounts_over(LISTS) && !view.commands.iter().any(removes) {
        let detail = format!(
            "Package lists stay in the layer; end the RUN with `rm -rf {LISTS}/*` or mount a cache at {LISTS}"
        );
        findings.add(&rules::APT_CACHE_LEFT, view.place(), detail);
    }
}

fn index_left(view: &RunView<'_>, findings: &mut Findings<'_>) {
    const INDEX: &str = "/var/cache/apk";
    let removes =
        |command: &Command| command.name() == "rm" && command.operands().any(|path| path.starts_with(INDEX));
    let adds =
        |command: &Command| command.name() == "apk" && verb(command) == "add" && !command.has("--no-cache");
    // Without --no-cache apk has an index only where one was fetched: by `apk update` or by `-U`.
    let fetches = |command: &Command| {
        command.name() == "apk"
            && (verb(command) == "update"
                || command.has("-U")
                || command.has("--update-cache")
                || command.has("--update"))
    };
    let all = &view.commands;
    if all.iter().any(adds) && all.iter().any(fetches) && !all.iter().any(removes) && !view.mounts_over(INDEX)
    {
        findings.add(
            &rules::APK_INDEX_LEFT,
            view.place(),
            "The package index stays in the layer; use `apk add --no-cache` instead",
        );
    }
}

/// Options that answer apt's question.
fn is_answered(command: &Command) -> bool {
    command.arguments().any(|word| {
        let short = word.starts_with('-') && !word.starts_with("--");
        let letters = word.trim_start_matches('-');
        matches!(word, "--yes" | "--assume-yes" | "--force-yes" | "--assume-no" | "--simulate" | "--dry-run")
            || (short && letters.contains('y'))
            || (short && letters.matches('q').count() > 1)
            || (short && letters.chars().all(|c| matches!(c, 's' | 'd')))
            || word.contains("Assume-Yes")
            || word == "--download-only"
    })
}

fn asks(command: &Command) -> bool {
    is_apt(command)
        && matches!(
            verb(command),
            "install"
                | "upgrade"
                | "dist-upgrade"
                | "full-upgrade"
                | "remove"
                | "purge"
                | "autoremove"
                | "build-dep"
        )
}

fn assume_yes(view: &RunView<'_>, findings: &mut Findings<'_>) {
    let configured = view.commands.iter().any(|command| {
        // Something pipes answers in, or writes apt's configuration.
        command.name() == "yes"
            || command.words.iter().any(|word| word.contains("Assume-Yes") || word.contains("apt.conf"))
    });
    let asking: Vec<&Command> = view.commands.iter().filter(|command| asks(command)).collect();
    let silent = asking.iter().all(|command| is_answered(command));
    if configured || silent {
        return;
    }
    let detail = "apt-get asks before it goes on, and gets no answer in a build; give it -y";
    findings.add_with(&rules::APT_ASSUME_YES, view.place(), detail, yes_edits(view, &asking, findings));
}

/// `-y` after the verb of every command that lacks it. Each command must be found in the source as it is.
fn yes_edits(view: &RunView<'_>, asking: &[&Command], findings: &Findings<'_>) -> Vec<Edit> {
    let span = view.instruction.span;
    let text = findings.dockerfile.source.slice(span);
    let mut edits = Vec::new();
    let mut at = 0;
    for command in asking {
        let words = command.words.iter().take(2).map(String::as_str).collect::<Vec<_>>().join(" ");
        let Some(found) = text.get(at..).and_then(|rest| rest.find(&words)) else { return Vec::new() };
        at += found + words.len();
        let whole =
            text.get(at..).is_none_or(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace));
        if !whole || command.words.get(1).is_none_or(|second| second != verb(command)) {
            return Vec::new();
        }
        if !is_answered(command) {
            edits.push(Edit::new(Span::new(span.start + at, span.start + at), " -y"));
        }
    }
    let everywhere = |word: &str| text.matches(word).count();
    // A mention in a comment or a string would make the places found doubtful.
    if everywhere("apt-get ") + everywhere("apt ") != view.commands.iter().filter(|one| is_apt(one)).count() {
        return Vec::new();
    }
    edits
}
