//! Debian's package manager.

use crate::dockerfile::Span;
use crate::lint::finding::{Edit, Findings};
use crate::lint::rule as rules;
use crate::lint::shell::{Command, is_shell};

use super::RunView;
use super::facts::{Facts, Lists};

/// Where apt keeps its package lists.
const LISTS: &str = "/var/lib/apt/lists";

const VERBS: [&str; 25] = [
    "autoclean",
    "autopurge",
    "autoremove",
    "build-dep",
    "changelog",
    "check",
    "clean",
    "dist-clean",
    "dist-upgrade",
    "distclean",
    "download",
    "dselect-upgrade",
    "edit-sources",
    "full-upgrade",
    "install",
    "list",
    "purge",
    "reinstall",
    "remove",
    "satisfy",
    "search",
    "show",
    "source",
    "update",
    "upgrade",
];

fn is_apt(command: &Command) -> bool {
    matches!(command.name(), "apt-get" | "apt")
}

/// What apt is to do. Values of options (`-o Dpkg::Use-Pty=0`) may come first.
fn verb(command: &Command) -> &str {
    command.arguments().find(|word| VERBS.contains(word)).unwrap_or("")
}

/// What stands behind the verb and is no option.
fn packages(command: &Command) -> impl Iterator<Item = &str> {
    command.arguments().skip_while(|word| !VERBS.contains(word)).skip(1).filter(|word| !word.starts_with('-'))
}

/// Fetches the lists, be it on the way to something else.
fn updates(command: &Command) -> bool {
    let on_the_way = || command.has("--update") || command.has("-U");
    is_apt(command) && (verb(command) == "update" || (installs(command) && on_the_way()))
}

/// Needs the lists.
fn installs(command: &Command) -> bool {
    is_apt(command)
        && matches!(
            verb(command),
            "install" | "reinstall" | "build-dep" | "satisfy" | "upgrade" | "dist-upgrade" | "full-upgrade"
        )
}

/// As [`installs`]; files given by their paths may need no list.
fn installs_by_name(command: &Command) -> bool {
    let is_file = |package: &str| is_file(package) || package.starts_with('$');
    installs(command) && (verb(command) != "install" || packages(command).any(|package| !is_file(package)))
}

fn is_file(package: &str) -> bool {
    package.ends_with(".deb") || package.starts_with(['/', '.'])
}

/// May do anything with lists: a script, a program that is run by its path or its variable's value, one that
/// runs apt, or a function of the script.
fn is_opaque(command: &Command, text: &str) -> bool {
    const KNOWN: [&str; 8] =
        [".", "source", "eval", "make", "aptitude", "install_packages", "tasksel", "apt-fast"];
    let first = command.words.first().map_or("", String::as_str);
    let runs_apt = || {
        command
            .arguments()
            .any(|word| matches!(word, "apt-get" | "apt" | "aptitude") || word.ends_with("/apt-get"))
    };
    let by_path = first.contains('/')
        && !["/bin/", "/usr/bin/", "/usr/sbin/", "/sbin/"].iter().any(|dir| first.starts_with(dir));
    let is_function = || text.contains(&format!("{first}()")) || text.contains(&format!("{first} ()"));
    KNOWN.contains(&command.name())
        || is_shell(command.name())
        || by_path
        || first.starts_with(['$', '`'])
        || first.ends_with(".sh")
        || runs_apt()
        || (!first.is_empty() && is_function())
}

/// Fetches the lists by itself, or may.
fn may_update(command: &Command, text: &str) -> bool {
    const KNOWN: [&str; 3] = ["add-apt-repository", "apt-add-repository", "unminimize"];
    KNOWN.contains(&command.name()) || is_opaque(command, text)
}

/// A program of another kind that reads the lists.
fn uses_lists(command: &Command) -> bool {
    installs(command)
        || (is_apt(command)
            && matches!(verb(command), "source" | "download" | "changelog" | "list" | "search" | "show"))
        || matches!(
            command.name(),
            "apt-cache" | "apt-file" | "mk-build-deps" | "debootstrap" | "unattended-upgrade"
        )
}

/// What is known of the lists behind a `RUN`.
pub(super) fn lists_after<'a>(view: &RunView<'a>, before: Lists<'a>) -> Lists<'a> {
    if view.mounts_over(LISTS) {
        return before;
    }
    let any = |test: fn(&Command, &str) -> bool| view.commands.iter().any(|command| test(command, view.text));
    if !view.commands.iter().any(updates) {
        return if any(may_update) { Lists::Unknown } else { before };
    }
    if any(is_opaque) || view.text.contains("$(apt") || view.commands.iter().any(uses_lists) {
        return Lists::Unknown;
    }
    Lists::FetchedAlone(view.place())
}

pub(super) fn check(view: &RunView<'_>, facts: &Facts<'_>, shipped: bool, findings: &mut Findings<'_>) {
    if !view.mounts_over(LISTS) {
        stale(view, facts, findings);
        if shipped {
            lists_left(view, findings);
        }
    }
    if !facts.apt_answers {
        assume_yes(view, findings);
    }
}

/// An install that works with lists of a layer that stays in the cache, or with none.
fn stale(view: &RunView<'_>, facts: &Facts<'_>, findings: &mut Findings<'_>) {
    let decides =
        |command: &&Command| updates(command) || installs_by_name(command) || may_update(command, view.text);
    let Some(first) = view.commands.iter().find(decides) else { return };
    if updates(first) || !installs_by_name(first) {
        return;
    }
    match facts.lists {
        Lists::Unknown => {}
        Lists::FetchedAlone(place) => {
            let detail = "apt-get update without install in the same RUN: its layer is cached, and later installs \
                          work with old package lists";
            findings.add(&rules::APT_UPDATE_ALONE, place, detail);
        }
        // An upgrade before the update is another mistake.
        Lists::Missing if view.commands.iter().any(updates) => {}
        Lists::Missing => {
            let detail = "apt-get install without update in the same RUN: base images have no package lists";
            findings.add(&rules::APT_UPDATE_ALONE, view.place(), detail);
        }
    }
}

fn lists_left(view: &RunView<'_>, findings: &mut Findings<'_>) {
    // Whoever writes one of these, be it in quotes or for `find`, has thought of the lists.
    let removes = ["/var/lib/apt", "apt/lists", "/var/lib/{", "/var/lib/*", "dist-clean", "distclean"]
        .iter()
        .any(|part| view.text.contains(part))
        || view.commands.iter().any(|command| command.name().contains("clean"));
    let commands = &view.commands;
    if commands.iter().any(updates) && commands.iter().any(installs) && !removes {
        let detail = format!(
            "Package lists stay in the layer; end the RUN with `rm -rf {LISTS}/*` or mount a cache at {LISTS}"
        );
        findings.add(&rules::APT_CACHE_LEFT, view.place(), detail);
    }
}

/// Options that answer apt's question.
fn is_answered(command: &Command) -> bool {
    command.arguments().any(|word| {
        let short = word.starts_with('-') && !word.starts_with("--");
        let letters = word.trim_start_matches('-');
        // `$APT_OPTIONS` may hold the answer.
        let options =
            || ["OPT", "FLAG", "ARG", "PARAM"].iter().any(|part| word.to_ascii_uppercase().contains(part));
        matches!(word, "--yes" | "--assume-yes" | "--force-yes" | "--assume-no" | "--simulate" | "--dry-run")
            || (word.starts_with('$') && options())
            || matches!(word, "-q=2" | "--quiet=2" | "--print-uris" | "--trivial-only")
            || (short && letters.contains('y'))
            || (short && letters.matches('q').count() > 1)
            || (short && letters.chars().all(|c| matches!(c, 's' | 'd')))
            || word.contains("Assume-Yes")
            || word == "--download-only"
    })
}

/// Asks before it acts. What has nothing to do (`autoremove` most of the time) does not, nor an installation of
/// files that need no other packages.
fn asks(command: &Command) -> bool {
    let named = || packages(command).next().is_some();
    let by_name = || packages(command).any(|package| !is_file(package));
    let broken = || command.has("-f") || command.has("--fix-broken");
    is_apt(command)
        && match verb(command) {
            "install" => (by_name() && !command.has("--reinstall")) || broken(),
            "remove" | "purge" | "autoremove" | "build-dep" => named(),
            "upgrade" | "dist-upgrade" | "full-upgrade" => true,
            _ => false,
        }
}

/// Whether a text sets apt's answer for all commands.
pub(super) fn writes_answers(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    lower.contains("assume-yes") && (lower.contains("apt::") || lower.contains("apt.conf"))
}

fn assume_yes(view: &RunView<'_>, findings: &mut Findings<'_>) {
    let piped = |at: usize| {
        let answers = |command: &Command| matches!(command.name(), "yes" | "echo" | "printf");
        view.commands[at].joint == "|" && at.checked_sub(1).is_some_and(|at| answers(&view.commands[at]))
    };
    let waits: Vec<bool> = (view.commands.iter().enumerate())
        .map(|(at, command)| asks(command) && !is_answered(command) && !piped(at))
        .collect();
    if writes_answers(view.text) || !waits.contains(&true) {
        return;
    }
    let detail = "apt-get asks before it goes on, and gets no answer in a build; give it -y";
    findings.add_with(&rules::APT_ASSUME_YES, view.place(), detail, yes_edits(view, &waits));
}

/// `-y` after the verb of every command that waits for it. Commands of apt that begin with their verb must be
/// found in the source as they are, those that wait among them.
fn yes_edits(view: &RunView<'_>, waits: &[bool]) -> Vec<Edit> {
    let (start, text) = (view.instruction.span.start, view.text);
    let mut edits = Vec::new();
    let mut at = 0;
    for (command, waits) in view.commands.iter().zip(waits).filter(|(command, _)| is_apt(command)) {
        if command.words.get(1).is_none_or(|second| second != verb(command)) {
            if *waits {
                return Vec::new();
            }
            continue;
        }
        let words = command.words[..2].join(" ");
        let Some(found) = text.get(at..).and_then(|rest| rest.find(&words)) else { return Vec::new() };
        at += found + words.len();
        let whole =
            text.get(at..).is_none_or(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace));
        if !whole {
            return Vec::new();
        }
        if *waits {
            edits.push(Edit::new(Span::new(start + at, start + at), " -y"));
        }
    }
    let everywhere = |word: &str| text.matches(word).count();
    // A mention in a comment or a string would make the places found doubtful.
    if everywhere("apt-get ") + everywhere("apt ") != view.commands.iter().filter(|one| is_apt(one)).count() {
        return Vec::new();
    }
    edits
}
