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
    use super::*;

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
