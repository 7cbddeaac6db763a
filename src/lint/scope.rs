//! Variables of a stage, with a memory of which were asked for.

use std::borrow::Cow;
use std::cell::RefCell;

use crate::dockerfile::{Expander, Variables, WordError};

/// Ordered names and values.
#[derive(Debug, Clone, Default)]
pub(super) struct Scope {
    values: Vec<(String, String)>,
}

impl Scope {
    pub(super) fn set(&mut self, name: &str, value: &str) {
        match self.values.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => value.clone_into(old),
            None => self.values.push((name.to_owned(), value.to_owned())),
        }
    }

    pub(super) fn value(&self, name: &str) -> Option<&str> {
        self.values.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.values.iter().map(|(name, _)| name.as_str())
    }
}

/// A word after expansion.
#[derive(Debug, Clone, Default)]
pub(super) struct Read {
    pub(super) text: String,
    /// Names that were asked for and are set, each once.
    pub(super) matched: Vec<String>,
    /// Names that were asked for and are not set, each once. Unlike the expander's own list this one holds
    /// names with a default (`${x:-y}`) as well: BuildKit's linter reports them.
    pub(super) unmatched: Vec<String>,
}

struct Recorder<'a> {
    scope: &'a Scope,
    read: RefCell<Read>,
}

impl Variables for Recorder<'_> {
    fn get(&self, name: &str) -> Option<Cow<'_, str>> {
        let value = self.scope.value(name);
        let mut read = self.read.borrow_mut();
        let list = if value.is_some() { &mut read.matched } else { &mut read.unmatched };
        if !list.iter().any(|known| known == name) {
            list.push(name.to_owned());
        }
        value.map(Cow::Borrowed)
    }
}

/// Expands one word.
pub(super) fn read(expander: Expander, text: &str, scope: &Scope) -> Result<Read, WordError> {
    let recorder = Recorder { scope, read: RefCell::default() };
    let text = expander.word(text, &recorder)?.text;
    Ok(Read { text, ..recorder.read.into_inner() })
}

/// As [`read`]; what cannot be expanded gives no text, but the names that were asked for up to there.
pub(super) fn read_as_far(expander: Expander, text: &str, scope: &Scope) -> Read {
    let recorder = Recorder { scope, read: RefCell::default() };
    let text = expander.word(text, &recorder).map(|expanded| expanded.text).unwrap_or_default();
    Read { text, ..recorder.read.into_inner() }
}

/// Expands the body of a here-document.
pub(super) fn read_body(expander: Expander, text: &str, scope: &Scope) -> Result<Read, WordError> {
    let recorder = Recorder { scope, read: RefCell::default() };
    let text = expander.heredoc(text, &recorder)?.text;
    Ok(Read { text, ..recorder.read.into_inner() })
}

/// Expands and splits at unquoted blanks.
pub(super) fn read_words(expander: Expander, text: &str, scope: &Scope) -> Result<Vec<String>, WordError> {
    let recorder = Recorder { scope, read: RefCell::default() };
    expander.words(text, &recorder)
}
