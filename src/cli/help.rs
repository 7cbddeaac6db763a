//! `rbuild help`: commands as clap has them, topics as `docs/cli.md` has them.

use clap::CommandFactory as _;

use crate::build::{Failure, FailureKind};
use crate::suggest::suggest;

use super::args::Cli;
use super::{Stop, print};

const PAGE: &str = include_str!("../../docs/cli.md");

/// `rbuild help [COMMAND|TOPIC]`
pub(super) fn help(words: &[String]) -> Result<u8, Stop> {
    let mut root = Cli::command();
    root.build();
    let text = match words {
        [] => format!(
            "{}\nTopics, for `rbuild help TOPIC`:\n  {}\n",
            root.render_help(),
            topics().map(|(name, _)| name).collect::<Vec<_>>().join(", ")
        ),
        [word, rest @ ..] => match root.find_subcommand_mut(word) {
            Some(command) => match rest.first().and_then(|word| command.find_subcommand(word).cloned()) {
                Some(mut inner) => inner.render_long_help().to_string(),
                None => command.render_long_help().to_string(),
            },
            None => topic(word)?,
        },
    };
    print(&text)?;
    Ok(0)
}

fn topic(word: &str) -> Result<String, Stop> {
    let wanted = word.to_lowercase();
    if let Some((_, text)) = topics().find(|(name, _)| *name == wanted) {
        return Ok(text.to_owned());
    }
    let names: Vec<String> = topics().map(|(name, _)| name).collect();
    let root = Cli::command();
    let commands = root.get_subcommands().map(clap::Command::get_name);
    let failure = Failure::new(FailureKind::Usage, format!("there is no command or topic `{wanted}`"));
    Err(match suggest(&wanted, names.iter().map(String::as_str).chain(commands)) {
        Some(near) => failure.help(format!("did you mean `rbuild help {near}`?")),
        None => failure.help("`rbuild help` lists both"),
    }
    .into())
}

/// Sections of the page by name.
fn topics() -> impl Iterator<Item = (String, &'static str)> {
    PAGE.split("\n## ").skip(1).map(|section| {
        let title = section.lines().next().unwrap_or_default();
        (title.to_lowercase().replace(' ', "-"), section)
    })
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    /// The reference of all commands, as `docs/commands.md` has it.
    fn reference() -> String {
        let mut root = Cli::command();
        root.build();
        let mut out = String::from(
            "# Commands\n\nEvery command and flag, as `rbuild help` has them; [cli.md](cli.md) explains what belongs \
             together.\nRenewed by `RBUILD_WRITE_DOCS=1 cargo test --lib cli::help`.\n",
        );
        let everywhere: Vec<clap::Id> = root.get_arguments().map(|arg| arg.get_id().clone()).collect();
        let _ = write!(out, "\n## All commands\n\n");
        root.get_arguments().for_each(|arg| flag(&mut out, arg));
        for command in root.get_subcommands() {
            section(&mut out, command, &everywhere);
        }
        out
    }

    fn section(out: &mut String, command: &clap::Command, everywhere: &[clap::Id]) {
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        let usage = command.clone().render_usage().to_string();
        let usage = usage.trim_start_matches("Usage: ").trim();
        let name = command.get_bin_name().unwrap_or_else(|| command.get_name());
        let _ = write!(out, "\n## {name}\n\n{about}.\n\n    {usage}\n");
        let own = |arg: &&clap::Arg| !everywhere.contains(arg.get_id()) && !arg.is_hide_set();
        let own: Vec<&clap::Arg> = command.get_arguments().filter(own).collect();
        if !own.is_empty() {
            out.push('\n');
        }
        own.into_iter().for_each(|arg| flag(out, arg));
        let inner = command.get_subcommands().filter(|inner| inner.get_name() != "help");
        inner.for_each(|inner| section(out, inner, everywhere));
    }

    fn flag(out: &mut String, arg: &clap::Arg) {
        let names = arg.get_short().map(|letter| format!("-{letter}"));
        let names = names.into_iter().chain(arg.get_long().map(|name| format!("--{name}")));
        let names: Vec<String> = names.collect();
        let values = arg.get_value_names().filter(|_| arg.get_action().takes_values()).unwrap_or_default();
        let values: Vec<String> = values.iter().map(ToString::to_string).collect();
        let words = [names.join(", "), values.join(" ")];
        let words: Vec<&str> = words.iter().map(String::as_str).filter(|word| !word.is_empty()).collect();
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        let default: Vec<_> = arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
        let default = match default.join(",") {
            text if text.is_empty() || !arg.get_action().takes_values() => String::new(),
            text => format!(" (default: `{text}`)"),
        };
        let _ = writeln!(out, "- `{}`: {help}{default}", words.join(" "));
    }

    #[test]
    fn the_page_of_commands_is_what_the_program_knows() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/commands.md");
        let text = reference();
        if std::env::var_os("RBUILD_WRITE_DOCS").is_some() {
            std::fs::write(path, &text).unwrap_or_else(|error| panic!("{path}: {error}"));
        }
        let known = std::fs::read_to_string(path).unwrap_or_default();
        assert!(known == text, "docs/commands.md is old: RBUILD_WRITE_DOCS=1 cargo test --lib cli::help");
    }

    #[test]
    fn every_topic_that_messages_name_exists() {
        let names: Vec<String> = topics().map(|(name, _)| name).collect();
        let unique: std::collections::BTreeSet<&String> = names.iter().collect();
        assert_eq!(unique.len(), names.len(), "{names:?}");
        for name in ["exit-codes", "outputs", "the-store", "environment", "registries.toml", "docker"] {
            assert!(names.iter().any(|known| known == name), "{name}: {names:?}");
        }
    }
}
