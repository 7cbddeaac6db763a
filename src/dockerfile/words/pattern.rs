//! Patterns of `${v#p}`, `${v%p}` and `${v/p/r}`: `*`, `?` and literals, no bracket expressions.
//!
//! `*` crosses `/` (so `${path##*/}` is the base name). A pattern is cut at its stars into segments;
//! matching places them one after the other, earliest first for the shortest match and the last one as
//! late as possible for the longest, which never needs backtracking.

use std::ops::Range;

/// A compiled pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern {
    /// What stands between the stars: one segment more than there are stars.
    segments: Vec<Segment>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    /// Plain text.
    Literal(String),
    /// Text with `?` (`None`) in it.
    Wild(Vec<Option<char>>),
}

/// Which match of a pattern is wanted where several are possible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    Shortest,
    Longest,
}

impl Pattern {
    /// Compiles a pattern. `escape` is the file's escape character; the backslash escapes always.
    pub(super) fn parse(text: &str, escape: char) -> Result<Self, String> {
        let mut tokens = vec![Vec::new()];
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            let token = match c {
                '*' => {
                    tokens.push(Vec::new());
                    continue;
                }
                '?' => None,
                '\\' => match chars.next() {
                    Some(next @ ('*' | '?' | '\\' | '}' | '/')) => Some(next),
                    Some(next) => {
                        return Err(format!(
                            "`\\{next}` means nothing in a pattern; only `*`, `?`, `\\`, `/` and `}}` can be escaped"
                        ));
                    }
                    None => {
                        return Err(
                            "the pattern ends in a lone `\\`; write `\\\\` for a backslash".to_owned()
                        );
                    }
                },
                c if c == escape => match chars.peek().copied() {
                    Some(next) if matches!(next, '*' | '?' | '}' | '/') || next == escape => {
                        chars.next();
                        Some(next)
                    }
                    _ => Some(c),
                },
                c => Some(c),
            };
            if let Some(segment) = tokens.last_mut() {
                segment.push(token);
            }
        }
        Ok(Pattern { segments: tokens.into_iter().map(Segment::new).collect() })
    }

    /// The empty pattern.
    pub(super) fn nothing() -> Self {
        Pattern { segments: vec![Segment::Literal(String::new())] }
    }

    /// The value without the prefix the pattern matches, or whole where it matches none.
    pub(super) fn trim_prefix<'v>(&self, value: &'v str, reach: Reach) -> &'v str {
        match self.match_at_start(value, reach) {
            Some(end) => value.get(end..).unwrap_or(""),
            None => value,
        }
    }

    /// The value without the suffix the pattern matches, or whole where it matches none.
    pub(super) fn trim_suffix(&self, value: &str, reach: Reach) -> String {
        let mirrored: String = value.chars().rev().collect();
        let mirror = Pattern { segments: self.segments.iter().rev().map(Segment::mirrored).collect() };
        mirror.trim_prefix(&mirrored, reach).chars().rev().collect()
    }

    /// Replaces the first match, or all of them, by a literal text. `None` once the result would grow
    /// past `limit` bytes.
    pub(super) fn replace(&self, value: &str, replacement: &str, all: bool, limit: usize) -> Option<String> {
        let mut out = String::new();
        let mut at = 0;
        let mut last_end = None;
        while let Some(found) = self.find(value, at) {
            out.push_str(value.get(at..found.start).unwrap_or(""));
            // An empty match that touches the match before it is none.
            if !found.is_empty() || last_end != Some(found.start) {
                out.push_str(replacement);
            }
            if out.len() > limit {
                return None;
            }
            at = found.end;
            last_end = Some(found.end);
            if !all {
                break;
            }
            if found.is_empty() {
                let Some(next) = value.get(at..).and_then(|rest| rest.chars().next()) else { break };
                out.push(next);
                at += next.len_utf8();
            }
        }
        out.push_str(value.get(at..).unwrap_or(""));
        Some(out)
    }

    /// The leftmost match from `from` on, as long as it can be.
    fn find(&self, value: &str, from: usize) -> Option<Range<usize>> {
        let first = self.segments.first()?;
        let found = first.find(value, from)?;
        let end = self.match_rest(value, found.end, Reach::Longest)?;
        Some(found.start..end)
    }

    fn match_at_start(&self, value: &str, reach: Reach) -> Option<usize> {
        let end = self.segments.first()?.match_here(value, 0)?;
        self.match_rest(value, end, reach)
    }

    /// Where a match ends whose first segment ended at `at`.
    fn match_rest(&self, value: &str, mut at: usize, reach: Reach) -> Option<usize> {
        let Some((last, middle)) = self.segments.get(1..).and_then(<[Segment]>::split_last) else {
            return Some(at);
        };
        for segment in middle {
            at = segment.find(value, at)?.end;
        }
        match reach {
            Reach::Shortest => last.find(value, at).map(|found| found.end),
            Reach::Longest => last.find_last(value, at).map(|found| found.end),
        }
    }
}

impl Segment {
    fn new(tokens: Vec<Option<char>>) -> Self {
        if tokens.iter().all(Option::is_some) {
            Segment::Literal(tokens.into_iter().flatten().collect())
        } else {
            Segment::Wild(tokens)
        }
    }

    fn mirrored(&self) -> Self {
        match self {
            Segment::Literal(text) => Segment::Literal(text.chars().rev().collect()),
            Segment::Wild(tokens) => Segment::Wild(tokens.iter().rev().copied().collect()),
        }
    }

    /// The end of a match that starts exactly at `at`.
    fn match_here(&self, value: &str, at: usize) -> Option<usize> {
        let rest = value.get(at..)?;
        match self {
            Segment::Literal(text) => rest.starts_with(text.as_str()).then_some(at + text.len()),
            Segment::Wild(tokens) => {
                let mut chars = rest.chars();
                for token in tokens {
                    let c = chars.next()?;
                    if token.is_some_and(|wanted| wanted != c) {
                        return None;
                    }
                }
                Some(value.len() - chars.as_str().len())
            }
        }
    }

    fn find(&self, value: &str, from: usize) -> Option<Range<usize>> {
        let rest = value.get(from..)?;
        match self {
            Segment::Literal(text) => {
                let at = from + rest.find(text.as_str())?;
                Some(at..at + text.len())
            }
            Segment::Wild(_) => rest
                .char_indices()
                .find_map(|(i, _)| self.match_here(value, from + i).map(|end| from + i..end)),
        }
    }

    fn find_last(&self, value: &str, from: usize) -> Option<Range<usize>> {
        let rest = value.get(from..)?;
        match self {
            Segment::Literal(text) => {
                let at = from + rest.rfind(text.as_str())?;
                Some(at..at + text.len())
            }
            Segment::Wild(_) => rest
                .char_indices()
                .rev()
                .find_map(|(i, _)| self.match_here(value, from + i).map(|end| from + i..end)),
        }
    }
}
