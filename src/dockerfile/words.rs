//! Words: the one implementation of quoting, escapes and `$variable` expansion.
//!
//! Works on a piece of text at a time and knows nothing of instructions. Quotes and escapes follow the
//! Dockerfile's rules, not a shell's: single quotes are literal, inside double quotes only `"`, `$` and
//! the escape character itself can be escaped, outside quotes the escape character protects whatever
//! follows. Every text costs time linear in itself and in what it expands to; nesting and the size of
//! the result are limited, so that no input exhausts stack or memory.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

mod lexer;
mod pattern;
#[cfg(test)]
mod tests;

use lexer::{Lexer, Output};

/// Where variables get their values.
pub trait Variables {
    /// The value of a variable, `None` where it is not set (an empty value is set).
    fn get(&self, name: &str) -> Option<Cow<'_, str>>;
}

impl Variables for BTreeMap<String, String> {
    fn get(&self, name: &str) -> Option<Cow<'_, str>> {
        BTreeMap::get(self, name).map(|value| Cow::Borrowed(value.as_str()))
    }
}

impl Variables for HashMap<String, String> {
    fn get(&self, name: &str) -> Option<Cow<'_, str>> {
        HashMap::get(self, name).map(|value| Cow::Borrowed(value.as_str()))
    }
}

/// Expands words under one escape character.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expander {
    escape: char,
}

/// What a word expanded to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Expanded {
    /// The text.
    pub text: String,
    /// Names that were looked up and are not set, each once and in order of their first use. Names
    /// under a modifier that deals with absence itself (`-`, `+`, `?` and their `:` forms) are left
    /// out, and so are the shell's special parameters (`$@`, `$?`...), which always expand to nothing.
    pub unset: Vec<String>,
}

/// A word that cannot be expanded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct WordError {
    /// Byte offset in the text that was to be expanded.
    pub offset: usize,
    /// What is wrong and how to write it.
    pub message: String,
}

impl Expander {
    /// An expander for a Dockerfile whose escape character is `escape`.
    pub fn new(escape: char) -> Self {
        Expander { escape }
    }

    /// Expands variables, removes quotes and processes escapes; blanks stay as they are.
    ///
    /// # Errors
    /// Unclosed quotes and braces, unknown or malformed substitutions, and `${x:?message}` where `x`
    /// has no value.
    pub fn word(&self, text: &str, vars: &dyn Variables) -> Result<Expanded, WordError> {
        let mut lexer = Lexer::new(text, self.escape, true, vars);
        let output = lexer.run(Output::whole())?;
        Ok(Expanded { text: output.into_text(), unset: lexer.into_unset() })
    }

    /// Like [`Expander::word`], then splits at blanks that are unquoted after expansion: a variable
    /// holding `80 443` gives two words, `"80 443"` gives one. Empty words vanish.
    ///
    /// # Errors
    /// As [`Expander::word`].
    pub fn words(&self, text: &str, vars: &dyn Variables) -> Result<Vec<String>, WordError> {
        let mut lexer = Lexer::new(text, self.escape, true, vars);
        Ok(lexer.run(Output::split())?.into_words())
    }

    /// Expands the body of an unquoted here-document: quotes are kept, and the escape character is the
    /// backslash whatever the file's directive says (`\$` gives `$`, `\\` gives `\`, `\x` gives `x`).
    ///
    /// # Errors
    /// As [`Expander::word`], quotes excepted.
    pub fn heredoc(&self, body: &str, vars: &dyn Variables) -> Result<Expanded, WordError> {
        let mut lexer = Lexer::new(body, '\\', false, vars);
        let output = lexer.run(Output::whole())?;
        Ok(Expanded { text: output.into_text(), unset: lexer.into_unset() })
    }
}
