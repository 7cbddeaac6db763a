//! Flags as Docker's own parser takes them: every switch may have a value, `--push=false`, `-q=1`.

use std::ffi::OsString;

use clap::{Arg, ArgAction, Command, CommandFactory as _};

use crate::build::{Failure, FailureKind};

use super::args::Cli;

/// What Docker takes for a truth value.
pub(super) fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Rewrites switches with values to switches that are there or not; of several, the last counts. What follows the
/// image of `run` is the container's: `--` before the image keeps it from being read as flags.
pub(super) fn settle(args: Vec<OsString>) -> Result<Vec<OsString>, Failure> {
    // Most lines have nothing of the kind, and a list of all flags is not cheap.
    let may_have = |arg: &OsString| arg.to_str().is_some_and(|arg| arg.starts_with('-') && arg.contains('='));
    if !args.iter().any(may_have) && super::words::command(&args) != "run" {
        return Ok(args);
    }
    Line { root: Cli::command(), args, at: 1, out: Vec::new() }.settle()
}

struct Line {
    root: Command,
    args: Vec<OsString>,
    at: usize,
    out: Vec<OsString>,
}

impl Line {
    fn settle(mut self) -> Result<Vec<OsString>, Failure> {
        self.out.push(self.args.first().cloned().unwrap_or_default());
        let mut command = self.root.clone();
        while let Some(arg) = self.args.get(self.at).cloned() {
            self.at += 1;
            let text = arg.to_str().unwrap_or_default();
            if text == "--" {
                self.out.push(arg);
                break;
            }
            if text.len() < 2 || !text.starts_with('-') {
                if command.get_name() == "run" {
                    self.out.extend(["--".into(), arg]);
                    break;
                }
                if let Some(found) = command.find_subcommand(text) {
                    command = found.clone();
                    // Its flags are defined by this.
                    command.build();
                }
                self.out.push(arg);
                continue;
            }
            self.flag(&command, arg)?;
        }
        self.out.extend(self.args.drain(self.at..));
        Ok(self.out)
    }

    fn flag(&mut self, command: &Command, arg: OsString) -> Result<(), Failure> {
        let text = arg.to_str().unwrap_or_default().to_owned();
        let (name, value) =
            text.split_once('=').map_or((text.as_str(), None), |(name, value)| (name, Some(value)));
        let Some(flag) = self.find(command, name) else {
            self.out.push(arg);
            return Ok(());
        };
        if !matches!(flag.get_action(), ArgAction::SetTrue) {
            let takes_next = value.is_none() && needs_value(&flag) && self.is_whole(command, name);
            self.out.push(arg);
            if takes_next && let Some(value) = self.args.get(self.at).cloned() {
                self.out.push(value);
                self.at += 1;
            }
            return Ok(());
        }
        let Some(value) = value.filter(|_| self.is_whole(command, name)) else {
            self.out.push(arg);
            return Ok(());
        };
        let Some(on) = boolean(value) else {
            let message = format!("invalid value {value:?} for {name}");
            return Err(Failure::new(FailureKind::Usage, message)
                .help(format!("write {name}, {name}=true or {name}=false")));
        };
        let own = spellings(&flag);
        self.out.retain(|arg| !arg.to_str().is_some_and(|arg| own.iter().any(|name| name == arg)));
        if on {
            self.out.push(name.into());
        }
        Ok(())
    }

    /// Whether no letter before the last one takes the rest as its value, as in `-m1g`.
    fn is_whole(&self, command: &Command, name: &str) -> bool {
        let letters: Vec<char> = name.chars().skip(1).collect();
        name.starts_with("--")
            || letters[..letters.len().saturating_sub(1)].iter().all(|letter| {
                self.find(command, &format!("-{letter}")).is_some_and(|flag| !needs_value(&flag))
            })
    }

    /// The flag that a word ends with: of `-af` that is `f`.
    fn find(&self, command: &Command, name: &str) -> Option<Arg> {
        let all = command.get_arguments().chain(self.root.get_arguments());
        let mut all = all.filter(|arg| !arg.is_positional());
        match name.strip_prefix("--") {
            Some(long) => all.find(|arg| {
                arg.get_long() == Some(long)
                    || arg.get_all_aliases().is_some_and(|names| names.contains(&long))
            }),
            None => {
                let short = name.chars().last()?;
                all.find(|arg| arg.get_short() == Some(short))
            }
        }
        .cloned()
    }
}

fn needs_value(flag: &Arg) -> bool {
    flag.get_action().takes_values() && flag.get_num_args().is_none_or(|range| range.min_values() > 0)
}

fn spellings(flag: &Arg) -> Vec<String> {
    let long = flag.get_long().map(|name| format!("--{name}"));
    let short = flag.get_short().map(|letter| format!("-{letter}"));
    long.into_iter().chain(short).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(text: &str) -> Result<String, String> {
        let words = std::iter::once("rbuild").chain(text.split_whitespace()).map(OsString::from).collect();
        let args = settle(words).map_err(|failure| failure.message)?;
        Ok(args[1..].iter().map(|arg| arg.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn switches_may_have_values() {
        for (typed, wanted) in [
            ("build --push=true .", "build --push ."),
            ("build --push=false .", "build ."),
            ("build --push --push=0 .", "build ."),
            ("build -q=1 .", "build -q ."),
            ("build --no-cache=F --no-cache=T .", "build --no-cache ."),
            ("build --pull=false --provenance=false .", "build --pull=false --provenance=false ."),
            ("build -t x=true --label a=true .", "build -t x=true --label a=true ."),
            ("build --build-arg --push=true .", "build --build-arg --push=true ."),
            ("--root /x build --load=f .", "--root /x build ."),
            ("run --rm=true app tool --push=true", "run --rm -- app tool --push=true"),
            ("run -e A=1 --tty=false app x", "run -e A=1 -- app x"),
            ("run app -e A=1", "run -- app -e A=1"),
            ("run app --help", "run -- app --help"),
            ("run app -- x", "run -- app -- x"),
            ("run -- app -t=1", "run -- app -t=1"),
            ("--root run run app --root x", "--root run run -- app --root x"),
            ("run --net host -it -w/at=1 -eAt=b app", "run --net host -it -w/at=1 -eAt=b -- app"),
            ("run --root /x run run", "run --root /x -- run run"),
            ("help run", "help run"),
            ("build . -- --push=true", "build . -- --push=true"),
            ("images -q=true", "images -q"),
        ] {
            assert_eq!(settled(typed).as_deref(), Ok(wanted), "{typed}");
        }
        assert_eq!(settled("build --push=maybe ."), Err("invalid value \"maybe\" for --push".into()));
    }
}
