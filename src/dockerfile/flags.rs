//! `--name=value` between an instruction's keyword and its arguments.

use super::ast::Word;
use super::error::{Outcome, Problem};
use super::source::Span;
use super::text::View;
use crate::suggest::suggest;

/// Flags whose value may come out empty.
const MAY_BE_EMPTY: [&str; 11] = [
    "chown",
    "chmod",
    "from",
    "checksum",
    "exclude",
    "platform",
    "interval",
    "timeout",
    "start-period",
    "start-interval",
    "retries",
];

/// How a flag is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `--name=value`, once.
    Once,
    /// `--name=value`, any number of times.
    Many,
    /// `--name`, `--name=true` or `--name=false`, once.
    Switch,
}

/// The flags an instruction knows.
pub(super) type Known = &'static [(&'static str, Kind)];

#[derive(Debug)]
struct Flag {
    /// Name as written, or as known once checked.
    name: String,
    value: Option<Word>,
    span: Span,
}

/// The flags of one instruction.
#[derive(Debug)]
pub(super) struct Flags {
    flags: Vec<Flag>,
}

impl Flags {
    /// Takes the flags off the front of an instruction's arguments. A lone `--` ends them.
    pub(super) fn split<'a>(arguments: View<'a>, escape: char) -> Outcome<(Flags, View<'a>)> {
        let mut flags = Vec::new();
        let mut rest = arguments.trim_start();
        while rest.as_str().starts_with("--") {
            let (text, length) = token(rest, escape)?;
            let written = rest.sub(0..length);
            rest = rest.from(length).trim_start();
            let Some(text) = text.strip_prefix("--").filter(|text| !text.is_empty()) else { break };
            flags.push(match text.split_once('=') {
                None => Flag { name: text.to_owned(), value: None, span: written.span() },
                Some((name, value)) => {
                    let at = written.as_str().find('=').map_or(length, |at| at + 1);
                    let value = Some(written.from(at).word_as(value));
                    Flag { name: name.to_owned(), value, span: written.span() }
                }
            });
        }
        Ok((Flags { flags }, rest.trim()))
    }

    /// Refuses flags the instruction does not know, repeated ones and malformed values; after this the
    /// getters below have nothing left to refuse.
    pub(super) fn check(&self, instruction: &str, known: Known) -> Outcome<()> {
        for (index, flag) in self.flags.iter().enumerate() {
            let Some((_, kind)) = known.iter().find(|(name, _)| *name == flag.name) else {
                return Err(unknown(instruction, flag, known));
            };
            let once = *kind != Kind::Many;
            if once && self.flags.iter().take(index).any(|earlier| earlier.name == flag.name) {
                return Err(Problem::new(flag.span, format!("duplicate flag --{}", flag.name))
                    .help(format!("{instruction} takes --{} once", flag.name)));
            }
            let problem = match (kind, &flag.value) {
                (Kind::Switch, None) => None,
                (Kind::Switch, Some(value)) if switch(&value.text).is_some() => None,
                (Kind::Switch, Some(value)) => {
                    Some(format!("--{} takes true or false, not `{}`", flag.name, value.text))
                }
                (_, Some(value)) if !value.text.is_empty() => None,
                // As if the flag were not there (BuildKit's).
                (Kind::Once | Kind::Many, Some(_)) if MAY_BE_EMPTY.contains(&flag.name.as_str()) => None,
                _ => Some(format!("--{} needs a value: --{}=...", flag.name, flag.name)),
            };
            if let Some(message) = problem {
                return Err(Problem::new(flag.span, message));
            }
        }
        Ok(())
    }

    /// The value of a flag that is given at most once.
    pub(super) fn text(&self, name: &str) -> Option<Word> {
        self.texts(name).into_iter().next()
    }

    /// All values of a flag.
    pub(super) fn texts(&self, name: &str) -> Vec<Word> {
        let values = self.flags.iter().filter(|flag| flag.name == name).filter_map(|flag| flag.value.clone());
        values.filter(|word| !word.text.is_empty()).collect()
    }

    pub(super) fn switch(&self, name: &str) -> Option<bool> {
        let flag = self.flags.iter().find(|flag| flag.name == name)?;
        flag.value.as_ref().map_or(Some(true), |value| switch(&value.text))
    }

    /// Where each known flag stands.
    pub(super) fn spans(&self, known: Known) -> Vec<(&'static str, Span)> {
        self.flags
            .iter()
            .filter_map(|flag| Some((known.iter().find(|(name, _)| *name == flag.name)?.0, flag.span)))
            .collect()
    }
}

fn switch(value: &str) -> Option<bool> {
    match value {
        value if value.eq_ignore_ascii_case("true") => Some(true),
        value if value.eq_ignore_ascii_case("false") => Some(false),
        _ => None,
    }
}

fn unknown(instruction: &str, flag: &Flag, known: Known) -> Problem {
    let problem = Problem::new(flag.span, format!("unknown flag --{} for {instruction}", flag.name));
    if known.is_empty() {
        return problem.help(format!(
            "{instruction} takes no flags; write `--` before arguments that begin with dashes"
        ));
    }
    let names = known.iter().map(|(name, _)| *name);
    let list = names.clone().map(|name| format!("--{name}")).collect::<Vec<_>>().join(", ");
    match suggest(&flag.name, names) {
        Some(near) => problem.help(format!("did you mean --{near}? {instruction} takes {list}")),
        None => problem.help(format!("{instruction} takes {list}")),
    }
}

/// The word at the start of a view, quotes and escapes resolved, and its length as written.
fn token(view: View<'_>, escape: char) -> Outcome<(String, usize)> {
    let text = view.as_str();
    let mut out = String::new();
    let mut quote: Option<(char, usize)> = None;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match quote {
            None if c.is_whitespace() => return Ok((out, at)),
            None if c == '\'' || c == '"' => quote = Some((c, at)),
            Some((open, _)) if c == open => quote = None,
            _ if c == escape => out.extend(chars.next().map(|(_, next)| next)),
            _ => out.push(c),
        }
    }
    match quote {
        None => Ok((out, text.len())),
        Some((_, at)) => Err(Problem::new(view.sub(at..at + 1).span(), "this quote is never closed")),
    }
}
