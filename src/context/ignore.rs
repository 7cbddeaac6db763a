//! `.dockerignore` rules, and pattern sets of the same syntax for `--exclude` and `--parents`.
//!
//! The last rule that matches a path or one of its parent directories decides. Patterns are anchored
//! at the root and case-sensitive; characters mean what Go's `filepath.Match` documents, `**` what
//! BuildKit's translation makes of it (see `nfa.rs`). Three accidents of that translation
//! are not reproduced: regular-expression operators leaking from names (`|`, `{2}`, `\d`, and `*` or
//! `?` inside a class), `**` refusing names with a line feed, and the shortcut by which the
//! reference forgets a directory's match with a rule that an earlier rule made superfluous.

use crate::digest::Digest;

use super::lex::BadPattern;
use super::nfa::{Automaton, Positions};
use super::paths;

/// Why an ignore file cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IgnoreError {
    /// A pattern is malformed.
    #[error("{file}:{line}: cannot read the pattern {pattern:?}: {reason}")]
    Pattern {
        /// The file, as the caller named it.
        file: String,
        /// Line, from 1.
        line: usize,
        /// The line's text.
        pattern: String,
        /// What is wrong with it.
        reason: BadPattern,
    },
    /// An exclamation mark with nothing to re-include.
    #[error("{file}:{line}: `!` needs a pattern after it; it re-includes what earlier lines ignored")]
    BareNegation {
        /// The file, as the caller named it.
        file: String,
        /// Line, from 1.
        line: usize,
    },
}

/// A rule that decided about a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleRef {
    /// Line in the ignore file, from 1.
    pub line: usize,
    /// The line as written.
    pub pattern: String,
}

/// What the rules say of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Whether the path is left out of the context.
    pub ignored: bool,
    /// The deciding rule; `None` if no rule matches.
    pub rule: Option<RuleRef>,
}

/// The rules of one ignore file.
#[derive(Debug, Clone, Default)]
pub struct IgnoreRules {
    file_name: String,
    patterns: PatternSet,
    digest: Option<Digest>,
}

impl IgnoreRules {
    /// No rules: nothing is ignored.
    pub fn none() -> Self {
        Self::default()
    }

    /// Reads an ignore file: one pattern a line; a byte order mark is dropped, `#` in the first
    /// column begins a comment, blanks around a pattern and around its `!` are trimmed.
    pub fn parse(file_name: &str, text: &[u8]) -> Result<Self, IgnoreError> {
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        let mut rules = Vec::new();
        for (index, line) in text.split(|&byte| byte == b'\n').enumerate() {
            if line.first() == Some(&b'#') {
                continue;
            }
            let rule = Rule::read(line, index + 1).map_err(|problem| match problem {
                Problem::Pattern(reason) => IgnoreError::Pattern {
                    file: file_name.to_owned(),
                    line: index + 1,
                    pattern: String::from_utf8_lossy(trim(line)).into_owned(),
                    reason,
                },
                Problem::BareNegation => {
                    IgnoreError::BareNegation { file: file_name.to_owned(), line: index + 1 }
                }
            })?;
            rules.extend(rule);
        }
        let digest = Some(Digest::of(text));
        Ok(IgnoreRules { file_name: file_name.to_owned(), patterns: PatternSet { rules }, digest })
    }

    /// The digest of the ignore file; `None` if there is none.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// The ignore file's name as given to [`IgnoreRules::parse`]; empty if there is none.
    pub fn file_name(&self) -> &str {
        &self.file_name
    }

    /// Whether there is no rule at all.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Whether some rule begins with `!`.
    pub fn has_negations(&self) -> bool {
        self.patterns.rules.iter().any(|rule| rule.negated)
    }

    /// Whether some rule matches every name in the root (`*`, `**`, `**/*`).
    pub fn matches_every_name(&self) -> bool {
        let all =
            |rule: &Rule| !rule.negated && matches!(rule.text.trim(), "*" | "**" | "**/*" | "/*" | "./*");
        self.patterns.rules.iter().any(all)
    }

    /// Judges one path, with the rule to show to the user.
    pub fn matched(&self, path: &[u8]) -> Verdict {
        let deciding = self.patterns.deciding(path);
        Verdict {
            ignored: deciding.is_some_and(|rule| !rule.negated),
            rule: deciding.map(|rule| RuleRef { line: rule.line, pattern: rule.text.clone() }),
        }
    }

    /// Begins to judge paths from the root downwards.
    pub fn walker(&self) -> PatternWalker<'_> {
        self.patterns.walker()
    }
}

/// Patterns in the syntax of an ignore file, in order.
#[derive(Debug, Clone, Default)]
pub struct PatternSet {
    rules: Vec<Rule>,
}

/// Why a pattern of a [`PatternSet`] is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// The pattern is malformed.
    #[error("cannot read the pattern {0:?}: {1}")]
    Pattern(String, BadPattern),
    /// An exclamation mark alone.
    #[error("the pattern `!` needs something after it")]
    BareNegation,
}

impl PatternSet {
    /// Reads patterns, as given to `--exclude`. Blank ones are left out.
    pub fn new<P: AsRef<[u8]>>(patterns: impl IntoIterator<Item = P>) -> Result<Self, PatternError> {
        let mut rules = Vec::new();
        for (index, pattern) in patterns.into_iter().enumerate() {
            let pattern = pattern.as_ref();
            rules.extend(Rule::read(pattern, index + 1).map_err(|problem| match problem {
                Problem::Pattern(reason) => {
                    PatternError::Pattern(String::from_utf8_lossy(pattern).into_owned(), reason)
                }
                Problem::BareNegation => PatternError::BareNegation,
            })?);
        }
        Ok(PatternSet { rules })
    }

    /// Whether there is no pattern.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether the last pattern that matches `path` or one of its parents is not a `!` one.
    pub fn matches(&self, path: &[u8]) -> bool {
        self.deciding(path).is_some_and(|rule| !rule.negated)
    }

    /// Begins to judge paths from the root downwards.
    pub fn walker(&self) -> PatternWalker<'_> {
        let progress = self.rules.iter().map(|rule| Progress::Live(rule.automaton.start())).collect();
        PatternWalker { rules: &self.rules, progress, verdict: None }
    }

    fn deciding(&self, path: &[u8]) -> Option<&Rule> {
        let mut walker = self.walker();
        let (dir, name) = paths::split(path);
        for part in paths::components(dir) {
            walker = walker.enter(part);
        }
        if name.is_empty() {
            return None;
        }
        walker.deciding(name).and_then(|index| self.rules.get(index))
    }
}

/// The rules as seen from one directory: what already matched it is inherited by all below it, and
/// only patterns that can still match something are carried on.
#[derive(Debug, Clone)]
pub struct PatternWalker<'a> {
    rules: &'a [Rule],
    progress: Vec<Progress>,
    /// The rule that decided about this directory itself.
    verdict: Option<usize>,
}

#[derive(Debug, Clone)]
enum Progress {
    /// The directory or a parent matched.
    Matched,
    /// Nothing below can match.
    Dead,
    /// Where the pattern stands after `directory/`.
    Live(Positions),
}

impl<'a> PatternWalker<'a> {
    /// Whether the entry `name` of this directory matches, that is, is ignored.
    pub fn matches(&self, name: &[u8]) -> bool {
        self.negated(self.deciding(name)) == Some(false)
    }

    /// The rules as seen from the subdirectory `name`.
    pub fn enter(&self, name: &[u8]) -> PatternWalker<'a> {
        let mut verdict = None;
        let mut hidden = false;
        let mut progress = Vec::with_capacity(self.rules.len());
        for (index, (rule, before)) in self.rules.iter().zip(&self.progress).enumerate() {
            let now = match before {
                Progress::Live(positions) => {
                    let after_name = rule.automaton.read(positions, name);
                    if rule.is_asked(hidden) && rule.automaton.accepts(&after_name) {
                        Progress::Matched
                    } else {
                        let inside = rule.automaton.read(&after_name, b"/");
                        if inside.is_empty() { Progress::Dead } else { Progress::Live(inside) }
                    }
                }
                settled => settled.clone(),
            };
            if matches!(now, Progress::Matched) {
                hidden = !rule.negated;
                verdict = Some(index);
            }
            progress.push(now);
        }
        PatternWalker { rules: self.rules, progress, verdict }
    }

    /// Whether this directory itself matches, that is, is ignored.
    pub fn dir_matches(&self) -> bool {
        self.negated(self.verdict) == Some(false)
    }

    /// Whether everything below this directory is ignored with it: it matches, and no `!` rule after
    /// the deciding one can match anything below.
    pub fn can_prune(&self) -> bool {
        let Some(deciding) = self.verdict.filter(|_| self.dir_matches()) else { return false };
        let later = self.rules.iter().zip(&self.progress).skip(deciding + 1);
        !later.into_iter().any(|(rule, progress)| rule.negated && matches!(progress, Progress::Live(_)))
    }

    /// Whether nothing below this directory can match. For pattern sets that select rather than
    /// exclude: nothing below needs to be looked at.
    pub fn nothing_matches_below(&self) -> bool {
        let can = |(rule, progress): (&Rule, &Progress)| !rule.negated && !matches!(progress, Progress::Dead);
        !self.rules.iter().zip(&self.progress).any(can)
    }

    fn negated(&self, rule: Option<usize>) -> Option<bool> {
        rule.and_then(|index| self.rules.get(index)).map(|rule| rule.negated)
    }

    /// The last rule that matches the entry `name` or this directory.
    fn deciding(&self, name: &[u8]) -> Option<usize> {
        let mut verdict = None;
        let mut hidden = false;
        for (index, (rule, progress)) in self.rules.iter().zip(&self.progress).enumerate() {
            let matches = match progress {
                Progress::Matched => true,
                Progress::Dead => false,
                Progress::Live(positions) => {
                    rule.is_asked(hidden) && rule.automaton.accepts(&rule.automaton.read(positions, name))
                }
            };
            if matches {
                hidden = !rule.negated;
                verdict = Some(index);
            }
        }
        verdict
    }
}

#[derive(Debug, Clone)]
struct Rule {
    line: usize,
    text: String,
    negated: bool,
    automaton: Automaton,
}

enum Problem {
    Pattern(BadPattern),
    BareNegation,
}

impl Rule {
    /// Whether the rule is looked at: one that hides only while nothing hides yet, a `!` one only while
    /// something does. What is not looked at has not matched, also not for what lies below
    /// (moby/patternmatcher, `MatchesUsingParentResults`).
    fn is_asked(&self, hidden: bool) -> bool {
        self.negated == hidden
    }

    /// Reads one line; `None` if it is blank.
    fn read(line: &[u8], number: usize) -> Result<Option<Self>, Problem> {
        let text = trim(line);
        let (negated, pattern) = match text.strip_prefix(b"!") {
            Some(rest) => (true, trim(rest)),
            None => (false, text),
        };
        let cleaned = go_clean(pattern);
        if negated && (pattern.is_empty() || cleaned == b"/") {
            return Err(Problem::BareNegation);
        }
        if pattern.is_empty() {
            return Ok(None);
        }
        let anchored = match cleaned.as_slice() {
            [b'/', rest @ ..] if !rest.is_empty() => rest,
            whole => whole,
        };
        Ok(Some(Rule {
            line: number,
            text: String::from_utf8_lossy(text).into_owned(),
            negated,
            automaton: Automaton::compile(anchored).map_err(Problem::Pattern)?,
        }))
    }
}

/// Go's `filepath.Clean`: lexical, keeps a leading slash and leading `..`s, `.` for nothing.
fn go_clean(path: &[u8]) -> Vec<u8> {
    let rooted = path.first() == Some(&b'/');
    let mut kept: Vec<&[u8]> = Vec::new();
    for part in paths::components(path) {
        match part {
            b"." => {}
            b".." if kept.last().is_some_and(|last| *last != b"..") => {
                kept.pop();
            }
            b".." if rooted => {}
            name => kept.push(name),
        }
    }
    let mut cleaned = if rooted { b"/".to_vec() } else { Vec::new() };
    cleaned.extend(kept.join(&b'/'));
    if cleaned.is_empty() { b".".to_vec() } else { cleaned }
}

/// Cuts white space (as Unicode defines it, as Go does) from both ends.
fn trim(text: &[u8]) -> &[u8] {
    let mut text = text;
    while let Some((unit, length)) = super::lex::first_unit(text)
        && is_space(unit)
    {
        text = text.get(length..).unwrap_or_default();
    }
    loop {
        let cut = (1..=text.len().min(3)).find(|&length| {
            let tail = text.get(text.len() - length..).unwrap_or_default();
            super::lex::first_unit(tail).is_some_and(|(unit, read)| read == length && is_space(unit))
        });
        match cut {
            Some(length) => text = text.get(..text.len() - length).unwrap_or_default(),
            None => return text,
        }
    }
}

fn is_space(unit: u32) -> bool {
    char::from_u32(unit).is_some_and(char::is_whitespace)
}

#[cfg(test)]
#[path = "ignore_tests.rs"]
mod tests;
