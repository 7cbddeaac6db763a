//! `.dockerignore`: which files of a context a build sees.
//!
//! Patterns are anchored at the context's root, `**` stands for any number of directories, the last
//! line that matches a path or one of its parents decides, and `!` brings paths back.

use super::glob::{BadPattern, Glob};

/// Why an ignore file is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IgnoreError {
    /// A pattern Go's matcher would refuse.
    #[error("{file}:{line}: syntax error in pattern {pattern:?}")]
    BadPattern {
        /// The ignore file.
        file: String,
        /// One-based line.
        line: usize,
        /// The pattern.
        pattern: String,
    },
    /// A `!` alone.
    #[error("{file}:{line}: illegal exclusion pattern: \"!\"")]
    LoneExclamation {
        /// The ignore file.
        file: String,
        /// One-based line.
        line: usize,
    },
}

/// A line of an ignore file, for explanations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleRef {
    /// The ignore file.
    pub file: String,
    /// One-based line.
    pub line: usize,
    /// The pattern as written.
    pub pattern: String,
}

#[derive(Clone, Debug)]
struct Rule {
    glob: Glob,
    negated: bool,
    line: usize,
    written: String,
    /// Components of the pattern, to tell whether it can match below a directory.
    components: Vec<Component>,
}

#[derive(Clone, Debug)]
enum Component {
    Literal(Vec<u8>),
    Pattern(Glob),
    /// Contains `**`: from here on anything can match.
    Anything,
}

/// The rules of one ignore file. Matching never fails and never looks at files.
#[derive(Clone, Debug, Default)]
pub struct IgnoreRules {
    file: String,
    rules: Vec<Rule>,
}

/// For each rule, whether it matched a path or one of its parents: what a walk carries down.
#[derive(Clone, Debug, Default)]
pub struct Matches(Vec<bool>);

impl IgnoreRules {
    /// Ignores nothing.
    pub fn none() -> Self {
        Self::default()
    }

    /// Parses an ignore file; `file` is the name messages show.
    pub fn parse(file: &str, text: &[u8]) -> Result<Self, IgnoreError> {
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        let mut rules = Vec::new();
        for (at, raw) in text.split(|c| *c == b'\n').enumerate() {
            if raw.first() == Some(&b'#') {
                continue;
            }
            if let Some(rule) = parse_line(file, at + 1, raw.trim_ascii())? {
                rules.push(rule);
            }
        }
        Ok(IgnoreRules { file: file.to_owned(), rules })
    }

    /// A set of patterns as `--exclude` takes them.
    pub fn from_patterns<'a>(patterns: impl IntoIterator<Item = &'a [u8]>) -> Result<Self, IgnoreError> {
        let text: Vec<&[u8]> = patterns.into_iter().collect();
        Self::parse("--exclude", &text.join(&b'\n'))
    }

    /// Whether there is no rule at all.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether any rule brings paths back.
    pub fn has_exceptions(&self) -> bool {
        self.rules.iter().any(|rule| rule.negated)
    }

    /// Whether a path is ignored. The root (`""`) never is.
    pub fn is_ignored(&self, path: &[u8]) -> bool {
        self.deciding(path).is_some_and(|rule| !rule.negated)
    }

    /// The line that ignores a path, if one does.
    pub fn explain(&self, path: &[u8]) -> Option<RuleRef> {
        let rule = self.deciding(path).filter(|rule| !rule.negated)?;
        Some(RuleRef { file: self.file.clone(), line: rule.line, pattern: rule.written.clone() })
    }

    /// The last rule that matches a path or one of its parents.
    fn deciding(&self, path: &[u8]) -> Option<&Rule> {
        let mut matches = Matches::default();
        for end in path.iter().enumerate().filter(|(_, c)| **c == b'/').map(|(at, _)| at) {
            matches = self.descend(&matches, &path[..end]);
        }
        let matches = self.descend(&matches, path);
        self.last(&matches)
    }

    fn last(&self, matches: &Matches) -> Option<&Rule> {
        self.rules.iter().zip(&matches.0).rev().find(|(_, matched)| **matched).map(|(rule, _)| rule)
    }

    /// Matches a path whose parent gave `parent` (the root's is the default value).
    pub fn descend(&self, parent: &Matches, path: &[u8]) -> Matches {
        if path.is_empty() {
            return Matches(vec![false; self.rules.len()]);
        }
        let inherited = |at: usize| parent.0.get(at).copied().unwrap_or(false);
        let matches =
            self.rules.iter().enumerate().map(|(at, rule)| inherited(at) || rule.glob.matches(path));
        Matches(matches.collect())
    }

    /// Whether the path these matches belong to is ignored.
    pub fn ignores(&self, matches: &Matches) -> bool {
        self.last(matches).is_some_and(|rule| !rule.negated)
    }

    /// Whether an ignored directory can be left unopened: no later `!` rule matches anything below.
    pub fn can_prune(&self, matches: &Matches, dir: &[u8]) -> bool {
        let Some(deciding) = matches.0.iter().rposition(|matched| *matched) else { return false };
        let later = self.rules.get(deciding + 1..).unwrap_or_default();
        !later.iter().any(|rule| rule.negated && rule.can_match_below(dir))
    }
}

impl Rule {
    fn can_match_below(&self, dir: &[u8]) -> bool {
        let mut parts = dir.split(|c| *c == b'/');
        for component in &self.components {
            let Some(part) = parts.next() else { return true };
            match component {
                Component::Anything => return true,
                Component::Literal(text) if text == part => {}
                Component::Pattern(glob) if glob.matches(part) => {}
                _ => return false,
            }
        }
        // The whole pattern matched the directory or a parent: what is below inherits that.
        true
    }
}

fn parse_line(file: &str, line: usize, text: &[u8]) -> Result<Option<Rule>, IgnoreError> {
    let written = String::from_utf8_lossy(text).into_owned();
    let (negated, pattern) = match text.strip_prefix(b"!") {
        Some(rest) => (true, rest.trim_ascii()),
        None => (false, text),
    };
    if pattern.is_empty() {
        return if negated {
            Err(IgnoreError::LoneExclamation { file: file.into(), line })
        } else {
            Ok(None)
        };
    }
    let pattern = clean(pattern);
    let bad = |_: BadPattern| IgnoreError::BadPattern { file: file.into(), line, pattern: written.clone() };
    // `.` alone names the root, which no path equals.
    if pattern == b"." {
        return Ok(None);
    }
    let glob = Glob::ignore(&pattern).map_err(bad)?;
    Glob::path(&pattern).map_err(bad)?;
    let components = pattern.split(|c| *c == b'/').map(component).collect();
    Ok(Some(Rule { glob, negated, line, written, components }))
}

fn component(part: &[u8]) -> Component {
    if part.windows(2).any(|pair| pair == b"**") {
        return Component::Anything;
    }
    // A class may take a slash in an ignore pattern, and an unreadable piece says nothing: both
    // must not let a directory be pruned.
    if part.contains(&b'[') || part.contains(&b']') {
        return Component::Anything;
    }
    if !super::glob::has_wildcard(part) {
        return Component::Literal(part.to_vec());
    }
    Glob::path(part).map_or(Component::Anything, Component::Pattern)
}

/// As Go's `filepath.Clean`, then without one leading slash.
fn clean(pattern: &[u8]) -> Vec<u8> {
    let absolute = pattern.first() == Some(&b'/');
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in pattern.split(|c| *c == b'/') {
        match part {
            b"" | b"." => {}
            b".." if parts.last().is_some_and(|last| *last != b"..") => {
                parts.pop();
            }
            b".." if absolute => {}
            part => parts.push(part),
        }
    }
    if parts.is_empty() { b".".to_vec() } else { parts.join(&b'/') }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TABLE: &str = include_str!("../../testdata/ignore/table.txt");

    /// Rows: patterns separated by `|`, then a path, then `+` (ignored) or `-`.
    #[test]
    fn the_table_of_patterns_holds() {
        let mut rows = 0;
        for line in TABLE.lines().filter(|line| !line.trim().is_empty() && !line.starts_with("##")) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let [patterns, path, verdict] = fields[..] else { panic!("bad row {line:?}") };
            let text = patterns.replace('|', "\n").replace('~', " ");
            let rules = IgnoreRules::parse("t", text.as_bytes()).unwrap_or_else(|e| panic!("{line}: {e}"));
            assert_eq!(rules.is_ignored(path.as_bytes()), verdict == "+", "{line}");
            rows += 1;
        }
        assert!(rows >= 120, "only {rows} rows");
    }

    #[test]
    fn lines_are_trimmed_and_comments_begin_in_the_first_column() -> Result<(), IgnoreError> {
        let rules = IgnoreRules::parse("t", b"\xef\xbb\xbf# c\n  a  \r\n #b\n\n!  a/keep \n")?;
        assert!(rules.is_ignored(b"a") && rules.is_ignored(b"#b") && rules.is_ignored(b"a/x"));
        assert!(!rules.is_ignored(b"a/keep") && !rules.is_ignored(b"c"));
        Ok(())
    }

    #[test]
    fn mistakes_name_their_line() {
        let error = |text: &[u8]| IgnoreRules::parse("f", text).map(|_| ());
        assert_eq!(error(b"a\n!\n"), Err(IgnoreError::LoneExclamation { file: "f".into(), line: 2 }));
        assert!(matches!(error(b"[\n"), Err(IgnoreError::BadPattern { line: 1, .. })));
        assert!(matches!(error(b"a\\"), Err(IgnoreError::BadPattern { .. })));
    }

    #[test]
    fn the_deciding_line_is_named() -> Result<(), IgnoreError> {
        let rules = IgnoreRules::parse(".dockerignore", b"x\n*.log\n")?;
        let rule = rules.explain(b"a.log").map(|rule| (rule.line, rule.pattern));
        assert_eq!(rule, Some((2, "*.log".into())));
        assert_eq!(rules.explain(b"b"), None);
        Ok(())
    }

    #[test]
    fn directories_are_pruned_unless_an_exception_can_match_below() -> Result<(), IgnoreError> {
        let prunes = |text: &str, dir: &str| {
            let rules = IgnoreRules::parse("t", text.as_bytes())?;
            let mut matches = Matches::default();
            for (at, _) in dir.match_indices('/') {
                matches = rules.descend(&matches, &dir.as_bytes()[..at]);
            }
            matches = rules.descend(&matches, dir.as_bytes());
            Ok::<_, IgnoreError>(rules.ignores(&matches) && rules.can_prune(&matches, dir.as_bytes()))
        };
        assert!(prunes("node_modules", "node_modules")?);
        assert!(prunes("node_modules\n!src/x", "node_modules")?);
        assert!(!prunes("a\n!a/b/c", "a")?);
        assert!(prunes("a\n!a/b/c", "a/x")?);
        assert!(!prunes("a\n!**/keep", "a")?);
        assert!(!prunes("*\n!s?c/keep", "src")?);
        assert!(prunes("!a/b\na", "a")?);
        Ok(())
    }

    fn slow(patterns: &[&str], path: &str) -> bool {
        let mut ignored = false;
        for pattern in patterns {
            let (negated, pattern) = match pattern.strip_prefix('!') {
                Some(rest) => (true, rest),
                None => (false, *pattern),
            };
            let mut prefix_ends: Vec<usize> = path.match_indices('/').map(|(at, _)| at).collect();
            prefix_ends.push(path.len());
            if prefix_ends.iter().any(|end| naive(pattern.as_bytes(), path[..*end].as_bytes())) {
                ignored = !negated;
            }
        }
        ignored
    }

    /// Backtracking matcher written straight from the rules.
    fn naive(pattern: &[u8], name: &[u8]) -> bool {
        match pattern {
            [] => name.is_empty(),
            [b'*', b'*'] => true,
            [b'*', b'*', b'/', rest @ ..] => {
                naive(rest, name)
                    || name.iter().enumerate().any(|(at, c)| *c == b'/' && naive(rest, &name[at + 1..]))
            }
            [b'*', rest @ ..] => {
                let end = name.iter().position(|c| *c == b'/').unwrap_or(name.len());
                (0..=end).any(|at| naive(rest, &name[at..]))
            }
            [b'?', rest @ ..] => name.first().is_some_and(|c| *c != b'/') && naive(rest, &name[1..]),
            [c, rest @ ..] => name.first() == Some(c) && naive(rest, &name[1..]),
        }
    }

    proptest! {
        #[test]
        fn agrees_with_a_slow_matcher(
            patterns in proptest::collection::vec("!?(\\*\\*/)?[ab*?]{1,3}(/[ab*?]{1,2}){0,2}(/\\*\\*)?", 1..4),
            path in "[ab]{1,3}(/[ab]{1,2}){0,3}",
        ) {
            // Three stars in a row are outside the small matcher above.
            prop_assume!(!patterns.iter().any(|p| p.contains("***")));
            prop_assume!(!patterns.iter().any(|p| p.trim_start_matches('!').split('/').any(|c| c.contains("**") && c != "**")));
            let refs: Vec<&str> = patterns.iter().map(String::as_str).collect();
            let rules = IgnoreRules::parse("t", patterns.join("\n").as_bytes());
            prop_assert_eq!(rules.map(|rules| rules.is_ignored(path.as_bytes())), Ok(slow(&refs, &path)));
        }
    }
}
