//! Alpine's package manager.

use crate::lint::finding::Findings;
use crate::lint::rule as rules;
use crate::lint::shell::Command;

use super::RunView;

const INDEX: &str = "/var/cache/apk";

pub(super) fn check(view: &RunView<'_>, shipped: bool, findings: &mut Findings<'_>) {
    let commands = &view.commands;
    // A removal in quotes or with wildcards above it is one as well.
    let removes = (view.text.contains("rm ") && view.text.contains("/var/cache"))
        || commands.iter().any(|command| command.name().contains("clean"));
    if shipped
        && commands.iter().any(adds)
        && commands.iter().any(fetches)
        && !removes
        && !view.mounts_over(INDEX)
    {
        let detail = "The package index stays in the layer; use `apk add --no-cache` instead";
        findings.add(&rules::APK_INDEX_LEFT, view.place(), detail);
    }
}

fn is_apk(command: &Command, verb: &str) -> bool {
    command.name() == "apk" && command.operands().next() == Some(verb)
}

fn adds(command: &Command) -> bool {
    is_apk(command, "add") && keeps(command)
}

/// The option may have a value.
fn keeps(command: &Command) -> bool {
    !command.arguments().any(|word| word.starts_with("--no-cache"))
}

/// Without --no-cache apk has an index only where one was fetched.
fn fetches(command: &Command) -> bool {
    let updates = ["-U", "--update", "--update-cache"].iter().any(|option| command.has(option));
    (is_apk(command, "update") && keeps(command)) || (adds(command) && updates)
}
