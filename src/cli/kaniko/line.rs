//! The command line as Kaniko's parser reads it (pflag): `--name value`, `--name=value`, `-n value`, `-nvalue`;
//! switches take a value only behind `=`.

use std::ffi::OsString;

use crate::build::{Failure, FailureKind};
use crate::suggest::suggest;
use crate::visible::visible_line;

use super::super::flags::boolean;
use super::table::{self, FLAGS, Fate, Flag, Takes};

/// Flags with their values, in the order in which they were given.
#[derive(Debug, Default)]
pub(super) struct Line {
    given: Vec<(&'static Flag, String)>,
}

fn usage(message: String) -> Failure {
    Failure::new(FailureKind::Usage, message)
}

impl Line {
    /// Reads the words behind the program's name.
    pub fn parse(words: &[OsString]) -> Result<Self, Failure> {
        let mut line = Line::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let Some(text) = word.to_str() else {
                let text = word.to_string_lossy();
                let shown = visible_line(&text);
                return Err(usage(format!("{shown}: arguments of kaniko are UTF-8")));
            };
            let (flag, value) = split(text)?;
            let value = match (value, flag.takes) {
                (Some(value), _) => value,
                (None, Takes::Switch) => "true".to_owned(),
                (None, _) => match words.next().and_then(|word| word.to_str()) {
                    Some(value) => value.to_owned(),
                    None => return Err(usage(format!("--{} needs a value", flag.name))),
                },
            };
            if flag.takes == Takes::Switch && boolean(&value).is_none() {
                return Err(usage(format!("--{}={value}: it is true or false", flag.name)));
            }
            line.given.push((flag, value));
        }
        Ok(line)
    }

    /// Whether a switch is on.
    pub fn is_on(&self, name: &str) -> bool {
        self.switch(name).unwrap_or(false)
    }

    /// A switch, if it was given.
    pub fn switch(&self, name: &str) -> Option<bool> {
        self.one(name).and_then(boolean)
    }

    /// The last value of a flag, unless it is empty.
    pub fn one(&self, name: &str) -> Option<&str> {
        self.given
            .iter()
            .rev()
            .find(|(flag, _)| flag.name == name)
            .map(|(_, value)| value.as_str())
            .filter(|value| !value.is_empty())
    }

    /// All values of a flag.
    pub fn many(&self, name: &str) -> Vec<&str> {
        let own = self.given.iter().filter(|(flag, value)| flag.name == name && !value.is_empty());
        own.map(|(_, value)| value.as_str()).collect()
    }

    /// A number that is not negative.
    pub fn number(&self, name: &str) -> Result<Option<u32>, Failure> {
        let number = |text: &str| {
            text.parse().map_err(|_| usage(format!("--{name}={text}: it is a number from 0 on")))
        };
        self.one(name).map(number).transpose()
    }

    /// Refuses what cannot be done.
    pub fn refuse(&self) -> Result<(), Failure> {
        for (flag, _) in &self.given {
            let Fate::Refused(reason) = flag.fate else { continue };
            let off = flag.takes == Takes::Switch && !self.is_on(flag.name);
            if !off {
                let message = format!("--{} is not supported: {reason}", flag.name);
                return Err(Failure::new(FailureKind::Unsupported, message)
                    .help("docs/kaniko.md has what each flag of kaniko becomes"));
            }
        }
        Ok(())
    }

    /// Flags without an effect, each once.
    pub fn idle(&self) -> Vec<String> {
        let mut all: Vec<String> = Vec::new();
        for (flag, _) in &self.given {
            let name = format!("--{}", flag.name);
            if matches!(flag.fate, Fate::Idle(_)) && !all.contains(&name) {
                all.push(name);
            }
        }
        all
    }
}

/// The flag that a word begins with, and the value in the same word.
fn split(text: &str) -> Result<(&'static Flag, Option<String>), Failure> {
    if let Some(long) = text.strip_prefix("--") {
        let (name, value) = long.split_once('=').map_or((long, None), |(name, value)| (name, Some(value)));
        let flag = table::find(name).ok_or_else(|| unknown(name))?;
        return Ok((flag, value.map(str::to_owned)));
    }
    let mut letters = text.strip_prefix('-').unwrap_or_default().chars();
    let Some(letter) = letters.next() else {
        let shown = visible_line(text);
        return Err(usage(format!("kaniko takes flags only, and {shown:?} is none"))
            .help("the directory to build is --context dir://PATH"));
    };
    let flag = table::by_letter(letter)
        .ok_or_else(|| usage(format!("kaniko has no flag -{}", visible_line(&letter.to_string()))))?;
    let rest = letters.as_str();
    let value = (!rest.is_empty()).then(|| rest.strip_prefix('=').unwrap_or(rest).to_owned());
    Ok((flag, value))
}

fn unknown(name: &str) -> Failure {
    let failure = usage(format!("kaniko has no flag --{}", visible_line(name)));
    match suggest(name, FLAGS.iter().map(|flag| flag.name)) {
        Some(near) => failure.help(format!("did you mean --{near}?")),
        None => failure.help("`rbuild kaniko --help` lists all of them"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Line, String> {
        let words: Vec<OsString> = text.split_whitespace().map(OsString::from).collect();
        Line::parse(&words).map_err(|failure| failure.message)
    }

    #[test]
    fn values_are_where_pflag_takes_them_from() {
        let line =
            parse("-d a:1 -da:2 -d=a:3 --destination a:4 --destination=a:5 --no-push --cache=false --cache");
        let line = line.expect("a line");
        assert_eq!(line.many("destination"), ["a:1", "a:2", "a:3", "a:4", "a:5"]);
        assert!(line.is_on("no-push") && line.is_on("cache") && !line.is_on("cleanup"));
        let line = parse("--target one --target two --cache=true --cache=0 --label a=b=c").expect("a line");
        assert_eq!((line.one("target"), line.switch("cache")), (Some("two"), Some(false)));
        assert_eq!(line.many("label"), ["a=b=c"]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, word) in [
            ("--destinaton x", "no flag --destinaton"),
            ("--destination", "needs a value"),
            ("--cache=maybe", "true or false"),
            ("-x", "no flag -x"),
            (".", "flags only"),
            ("-", "flags only"),
        ] {
            let message = parse(text).err().unwrap_or_default();
            assert!(message.contains(word), "{text}: {message}");
        }
    }

    #[test]
    fn every_flag_that_is_refused_fails_by_name_and_no_other_does() {
        for flag in FLAGS {
            let value = if flag.takes == Takes::Switch { "" } else { "=x" };
            let line = parse(&format!("--{}{value}", flag.name)).expect("a line");
            let refused = line.refuse().err().map(|failure| failure.message).unwrap_or_default();
            assert_eq!(matches!(flag.fate, Fate::Refused(_)), refused.contains(flag.name), "{}", flag.name);
            if flag.takes == Takes::Switch {
                assert!(parse(&format!("--{}=false", flag.name)).expect("a line").refuse().is_ok());
            }
        }
    }
}
