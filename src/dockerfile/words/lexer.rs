//! The walk over one word: quotes, escapes, `$name` and `${name...}`.

use std::borrow::Cow;
use std::collections::HashSet;

use super::pattern::{Pattern, Reach};
use super::{Variables, WordError};

/// How deep `${a:-${b:-...}}` may nest.
const MAX_DEPTH: usize = 100;

/// How large one word may grow, in bytes. A program's argument or variable ends at 128 KiB on Linux;
/// only inline files can sensibly be larger.
const MAX_OUTPUT: usize = 64 << 20;

/// What a walk produces: the whole text, and its words where they were asked for.
pub(super) struct Output {
    text: String,
    split: Option<Split>,
}

#[derive(Default)]
struct Split {
    words: Vec<String>,
    word: String,
}

impl Output {
    pub(super) fn whole() -> Self {
        Output { text: String::new(), split: None }
    }

    pub(super) fn split() -> Self {
        Output { text: String::new(), split: Some(Split::default()) }
    }

    pub(super) fn into_text(self) -> String {
        self.text
    }

    pub(super) fn into_words(self) -> Vec<String> {
        let Some(mut split) = self.split else { return Vec::new() };
        split.end_word();
        split.words
    }

    /// Adds text in which blanks separate words.
    fn bare(&mut self, text: &str) {
        let Some(split) = &mut self.split else {
            self.text.push_str(text);
            return;
        };
        for c in text.chars() {
            if c.is_whitespace() {
                split.end_word();
            } else {
                split.word.push(c);
            }
        }
    }

    /// Adds text that belongs to the current word, blanks included.
    fn quoted(&mut self, text: &str) {
        match &mut self.split {
            Some(split) => split.word.push_str(text),
            None => self.text.push_str(text),
        }
    }

    fn quoted_char(&mut self, c: char) {
        self.quoted(c.encode_utf8(&mut [0; 4]));
    }

    fn len(&self) -> usize {
        self.text.len() + self.split.as_ref().map_or(0, |split| split.word.len())
    }
}

impl Split {
    fn end_word(&mut self) {
        if !self.word.is_empty() {
            self.words.push(std::mem::take(&mut self.word));
        }
    }
}

/// Where a walk ends and how it treats what it meets.
#[derive(Clone, Copy)]
struct Mode {
    /// The character that ends it; `None` for the end of the text.
    stop: Option<char>,
    escapes: Escapes,
    /// Whether the result counts: in the branch not taken nothing is looked up, and `?` does not fail.
    live: bool,
}

/// What becomes of escape characters.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Escapes {
    /// They protect the next character and vanish.
    Apply,
    /// They protect the next character and stay (replacements).
    Keep,
    /// They stay for the pattern to read; one that is literal by its quotes is doubled.
    Pattern,
}

/// A walk over one text.
pub(super) struct Lexer<'a> {
    text: &'a str,
    at: usize,
    escape: char,
    quotes: bool,
    vars: &'a dyn Variables,
    unset: Vec<String>,
    seen_unset: HashSet<String>,
    depth: usize,
}

/// `?`, `-`, `+` and their `:` forms.
#[derive(Clone, Copy)]
struct Conditional {
    operator: char,
    /// Written with `:`, an empty value counts as none.
    empty_is_unset: bool,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a str, escape: char, quotes: bool, vars: &'a dyn Variables) -> Self {
        Lexer { text, at: 0, escape, quotes, vars, unset: Vec::new(), seen_unset: HashSet::new(), depth: 0 }
    }

    pub(super) fn into_unset(self) -> Vec<String> {
        self.unset
    }

    pub(super) fn run(&mut self, mut output: Output) -> Result<Output, WordError> {
        self.walk(Mode { stop: None, escapes: Escapes::Apply, live: true }, &mut output)?;
        Ok(output)
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or("")
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn error<T>(&self, offset: usize, message: impl Into<String>) -> Result<T, WordError> {
        Err(WordError { offset, message: message.into() })
    }

    fn check_size(&self, len: usize) -> Result<(), WordError> {
        if len > MAX_OUTPUT { self.too_large(self.at) } else { Ok(()) }
    }

    fn too_large<T>(&self, offset: usize) -> Result<T, WordError> {
        self.error(offset, format!("the expansion grows past {} MiB", MAX_OUTPUT >> 20))
    }

    /// Walks to the stop character and past it. Gives whether it was found; without one, the end of the
    /// text is where it should be.
    fn walk(&mut self, mode: Mode, out: &mut Output) -> Result<bool, WordError> {
        loop {
            let plain = self.plain_run(mode.stop);
            out.bare(plain);
            self.at += plain.len();
            self.check_size(out.len())?;
            let Some(c) = self.peek() else { return Ok(mode.stop.is_none()) };
            if Some(c) == mode.stop {
                self.next();
                return Ok(true);
            }
            match c {
                '$' => {
                    let value = self.dollar(mode)?;
                    out.bare(&value);
                }
                '\'' if self.quotes => {
                    let literal = self.single_quoted()?;
                    out.quoted(literal);
                }
                '"' if self.quotes => self.double_quoted(mode, out)?,
                _ => {
                    self.next();
                    if mode.escapes != Escapes::Apply {
                        out.quoted_char(c);
                    }
                    if let Some(escaped) = self.next() {
                        out.quoted_char(escaped);
                    }
                }
            }
        }
    }

    /// The text up to the next character that could mean something.
    fn plain_run(&self, stop: Option<char>) -> &'a str {
        let rest = self.rest();
        let end = rest
            .find(|c| {
                c == '$' || c == self.escape || Some(c) == stop || (self.quotes && (c == '\'' || c == '"'))
            })
            .unwrap_or(rest.len());
        rest.get(..end).unwrap_or("")
    }

    fn single_quoted(&mut self) -> Result<&'a str, WordError> {
        let open = self.at;
        self.next();
        let rest = self.rest();
        let Some(end) = rest.find('\'') else {
            return self.error(open, "this single quote is never closed");
        };
        self.at += end + 1;
        Ok(rest.get(..end).unwrap_or(""))
    }

    fn double_quoted(&mut self, mode: Mode, out: &mut Output) -> Result<(), WordError> {
        let open = self.at;
        self.next();
        loop {
            let rest = self.rest();
            let end = rest.find(['"', '$', self.escape]).unwrap_or(rest.len());
            out.quoted(rest.get(..end).unwrap_or(""));
            self.at += end;
            self.check_size(out.len())?;
            match self.peek() {
                None => return self.error(open, "this double quote is never closed"),
                Some('"') => {
                    self.next();
                    return Ok(());
                }
                Some('$') => {
                    let value = self.dollar(mode)?;
                    out.quoted(&value);
                }
                Some(escape) => {
                    self.next();
                    let Some(next) = self.peek() else { continue };
                    let escapable = next == '"' || next == '$' || next == escape;
                    if mode.escapes != Escapes::Apply || !escapable {
                        out.quoted_char(escape);
                    }
                    if mode.escapes == Escapes::Pattern && !escapable {
                        out.quoted_char(escape);
                    }
                    if escapable {
                        self.next();
                        out.quoted_char(next);
                    }
                }
            }
        }
    }

    /// `$name`, `$1`, `$@` or `${...}`; a `$` before anything else is itself.
    fn dollar(&mut self, mode: Mode) -> Result<Cow<'a, str>, WordError> {
        let start = self.at;
        self.next();
        if self.peek() != Some('{') {
            let name = self.name();
            return Ok(if name.is_empty() { Cow::Borrowed("$") } else { self.value(name, mode.live) });
        }
        if self.depth == MAX_DEPTH {
            return self.error(start, format!("substitutions nest deeper than {MAX_DEPTH} levels"));
        }
        self.depth += 1;
        let value = self.braced(start, mode.live);
        self.depth -= 1;
        value
    }

    fn braced(&mut self, start: usize, live: bool) -> Result<Cow<'a, str>, WordError> {
        self.next();
        let name = match self.peek() {
            None => return self.missing_brace(start),
            Some('{' | '}' | ':') => "",
            Some(_) => self.name(),
        };
        if name.is_empty() {
            return self.error(start, "bad substitution: `${` must be followed by a variable's name");
        }
        let modifier_at = self.at;
        match self.next() {
            None => self.missing_brace(start),
            Some('}') => Ok(self.value(name, live)),
            Some(':') => match self.next() {
                None => self.missing_brace(start),
                Some(operator @ ('-' | '+' | '?')) => {
                    self.conditional(start, name, Conditional { operator, empty_is_unset: true }, live)
                }
                Some(other) => self.unknown_modifier(modifier_at, &format!(":{other}")),
            },
            Some(operator @ ('-' | '+' | '?')) => {
                self.conditional(start, name, Conditional { operator, empty_is_unset: false }, live)
            }
            Some(operator @ ('#' | '%')) => self.trimmed(start, name, operator, live),
            Some('/') => self.replaced(start, name, live),
            Some(other) => self.unknown_modifier(modifier_at, &other.to_string()),
        }
    }

    fn missing_brace<T>(&self, start: usize) -> Result<T, WordError> {
        self.error(start, "this `${` is never closed: `}` is missing")
    }

    fn unknown_modifier<T>(&self, offset: usize, modifier: &str) -> Result<T, WordError> {
        self.error(
            offset,
            format!(
                "unsupported modifier `{modifier}` in a substitution; known are :- - :+ + :? ? # ## % %% / //"
            ),
        )
    }

    /// The word up to `stop`, expanded. `missing` says what to report at the end of the text.
    fn operand(&mut self, start: usize, mode: Mode) -> Result<String, WordError> {
        let mut out = Output::whole();
        if self.walk(mode, &mut out)? {
            return Ok(out.into_text());
        }
        match mode.stop {
            Some('/') => self.error(
                start,
                "the replacement is missing: write `${name/pattern/replacement}`, or `${name/pattern/}` to remove",
            ),
            _ => self.missing_brace(start),
        }
    }

    fn conditional(
        &mut self,
        start: usize,
        name: &'a str,
        condition: Conditional,
        live: bool,
    ) -> Result<Cow<'a, str>, WordError> {
        let value = if live { self.lookup(name) } else { None };
        let set = value.as_ref().is_some_and(|value| !(condition.empty_is_unset && value.is_empty()));
        let takes_word = set == (condition.operator == '+');
        let mode = Mode { stop: Some('}'), escapes: Escapes::Apply, live: live && takes_word };
        let word = self.operand(start, mode)?;
        match condition.operator {
            '+' => Ok(if set { Cow::Owned(word) } else { Cow::Borrowed("") }),
            '-' if !set => Ok(Cow::Owned(word)),
            '?' if !set && live => {
                let state = if value.is_some() { "empty" } else { "unset" };
                let reason = if word.is_empty() { format!("is not allowed to be {state}") } else { word };
                self.error(start, format!("{name}: {reason}"))
            }
            _ => Ok(value.unwrap_or_default()),
        }
    }

    /// `${v#p}`, `${v##p}`, `${v%p}`, `${v%%p}`.
    fn trimmed(
        &mut self,
        start: usize,
        name: &'a str,
        operator: char,
        live: bool,
    ) -> Result<Cow<'a, str>, WordError> {
        let reach = if self.peek() == Some(operator) {
            self.next();
            Reach::Longest
        } else {
            Reach::Shortest
        };
        let pattern_at = self.at;
        let text = self.operand(start, Mode { stop: Some('}'), escapes: Escapes::Pattern, live })?;
        let pattern = self.pattern(pattern_at, &text, live)?;
        let value = self.value(name, live);
        Ok(Cow::Owned(if operator == '#' {
            pattern.trim_prefix(&value, reach).to_owned()
        } else {
            pattern.trim_suffix(&value, reach)
        }))
    }

    /// `${v/p/r}` and `${v//p/r}`.
    fn replaced(&mut self, start: usize, name: &'a str, live: bool) -> Result<Cow<'a, str>, WordError> {
        let all = self.peek() == Some('/');
        if all {
            self.next();
        }
        let pattern_at = self.at;
        let text = self.operand(start, Mode { stop: Some('/'), escapes: Escapes::Pattern, live })?;
        let replacement = self.operand(start, Mode { stop: Some('}'), escapes: Escapes::Keep, live })?;
        let pattern = self.pattern(pattern_at, &text, live)?;
        let value = self.value(name, live);
        match pattern.replace(&value, &replacement, all, MAX_OUTPUT) {
            Some(replaced) => Ok(Cow::Owned(replaced)),
            None => self.too_large(start),
        }
    }

    /// Compiles a pattern. In a branch not taken its variables are empty, so a bad escape made by their
    /// absence is no error there.
    fn pattern(&self, offset: usize, text: &str, live: bool) -> Result<Pattern, WordError> {
        match Pattern::parse(text, self.escape) {
            Ok(pattern) => Ok(pattern),
            Err(_) if !live => Ok(Pattern::nothing()),
            Err(message) => self.error(offset, message),
        }
    }

    /// Reads a name: letters, digits and `_`; or digits alone; or one special parameter.
    fn name(&mut self) -> &'a str {
        let rest = self.rest();
        let Some(first) = rest.chars().next() else { return "" };
        let end = if first.is_ascii_digit() {
            rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len())
        } else if is_special(first) {
            first.len_utf8()
        } else {
            rest.find(|c: char| !(c.is_alphabetic() || c.is_ascii_digit() || c == '_')).unwrap_or(rest.len())
        };
        self.at += end;
        rest.get(..end).unwrap_or("")
    }

    fn lookup(&self, name: &str) -> Option<Cow<'a, str>> {
        if name.starts_with(is_special) { None } else { self.vars.get(name) }
    }

    /// The value of a variable whose absence is worth telling.
    fn value(&mut self, name: &str, live: bool) -> Cow<'a, str> {
        if !live {
            return Cow::Borrowed("");
        }
        let value = self.lookup(name);
        if value.is_none() && !name.starts_with(is_special) && self.seen_unset.insert(name.to_owned()) {
            self.unset.push(name.to_owned());
        }
        value.unwrap_or_default()
    }
}

/// The special parameters of POSIX shells, which mean nothing while a Dockerfile is read.
fn is_special(c: char) -> bool {
    matches!(c, '@' | '*' | '#' | '?' | '-' | '$' | '!')
}
