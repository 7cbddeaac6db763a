//! Go's `filepath.Match` on byte strings, and the `**` form of ignore files.

/// A pattern Go would refuse: an unclosed `[`, an empty class, or a lone `\` at the end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("syntax error in pattern")]
pub struct BadPattern;

/// One unit of a component pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Unit {
    Byte(u8),
    /// `?`: one character (a UTF-8 sequence, or one byte that is none).
    AnyChar,
    /// `*` within a component.
    Star,
    /// `**` at the end: any text, slashes included. Only in ignore patterns.
    Everything,
    /// `**` before more: nothing at all, or what [`Unit::UpToSlash`] takes. Only in ignore patterns.
    Optional,
    /// Any text that ends in a slash; always behind an `Optional`.
    UpToSlash,
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

/// A compiled pattern.
#[derive(Clone, Debug)]
pub struct Glob {
    units: Vec<Unit>,
    class_takes_slash: bool,
}

/// Whether a path holds characters that mean something in a pattern.
pub fn has_wildcard(path: &[u8]) -> bool {
    path.iter().any(|c| matches!(c, b'*' | b'?' | b'[' | b'\\'))
}

/// As Go's `path.Clean("/" + p)` without the leading slash: `..` stops at the root.
pub fn clean_path(path: &[u8]) -> Vec<u8> {
    let mut out: Vec<&[u8]> = Vec::new();
    for part in path.split(|c| *c == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                out.pop();
            }
            part => out.push(part),
        }
    }
    out.join(&b'/')
}

/// As Go's `filepath.Match`: the whole name must match, `*` and `?` stop at slashes.
pub fn match_path(pattern: &[u8], name: &[u8]) -> Result<bool, BadPattern> {
    Ok(Glob::path(pattern)?.matches(name))
}

impl Glob {
    /// Compiles a `filepath.Match` pattern.
    pub fn path(pattern: &[u8]) -> Result<Self, BadPattern> {
        Self::compile(pattern, false)
    }

    /// Compiles an ignore pattern: as above, with `**`.
    pub fn ignore(pattern: &[u8]) -> Result<Self, BadPattern> {
        Self::compile(pattern, true)
    }

    fn compile(pattern: &[u8], double_star: bool) -> Result<Self, BadPattern> {
        let mut units = Vec::new();
        let mut rest = pattern;
        while let [first, after @ ..] = rest {
            rest = after;
            match first {
                b'*' if double_star && after.first() == Some(&b'*') => {
                    rest = &after[1..];
                    let slash = rest.first() == Some(&b'/');
                    rest = if slash { &rest[1..] } else { rest };
                    // The reference treats `**name`, with nothing special behind, as a plain suffix.
                    let suffix = !slash && units.is_empty() && !has_wildcard(rest);
                    if rest.is_empty() || suffix {
                        units.push(Unit::Everything);
                    } else {
                        units.extend([Unit::Optional, Unit::UpToSlash]);
                    }
                }
                b'*' if units.last() == Some(&Unit::Star) => {}
                b'*' => units.push(Unit::Star),
                b'?' => units.push(Unit::AnyChar),
                b'[' => {
                    let (class, after) = parse_class(after)?;
                    units.push(class);
                    rest = after;
                }
                b'\\' => {
                    let [escaped, after @ ..] = rest else { return Err(BadPattern) };
                    units.push(Unit::Byte(*escaped));
                    rest = after;
                }
                byte => units.push(Unit::Byte(*byte)),
            }
        }
        Ok(Glob { units, class_takes_slash: double_star })
    }

    /// Whether the whole name matches. Work is bounded by pattern times name.
    pub fn matches(&self, name: &[u8]) -> bool {
        // The set of reachable positions in the pattern, advanced character by character: no
        // backtracking, so no pattern can take exponential time.
        let mut now = vec![false; self.units.len() + 1];
        now[0] = true;
        self.close(&mut now, false);
        let mut at = 0;
        while at < name.len() {
            let (character, length) = decode(&name[at..]);
            let mut next = vec![false; now.len()];
            self.step(&now, &mut next, name[at], character, length);
            at += length;
            self.close(&mut next, name[at - 1] == b'/');
            if !next.contains(&true) {
                return false;
            }
            now = next;
        }
        now.last() == Some(&true)
    }

    fn step(&self, now: &[bool], next: &mut [bool], byte: u8, character: Option<char>, length: usize) {
        for (at, unit) in self.units.iter().enumerate().filter(|(at, _)| now[*at]) {
            match unit {
                Unit::Byte(wanted) => {
                    // Literals are stored bytewise; a multi-byte character must match in one go.
                    if length == 1 && *wanted == byte {
                        next[at + 1] = true;
                    } else if length > 1 && self.literal_at(at, character) {
                        next[at + length] = true;
                    }
                }
                Unit::AnyChar if byte != b'/' => next[at + 1] = true,
                Unit::Star if byte != b'/' => next[at] = true,
                Unit::Everything | Unit::UpToSlash => next[at] = true,
                Unit::Class { negated, ranges } => {
                    let inside =
                        character.is_some_and(|c| ranges.iter().any(|(low, high)| *low <= c && c <= *high));
                    // The reference's ignore patterns are regular expressions, whose classes know
                    // no slash; its copy wildcards are not.
                    if (self.class_takes_slash || byte != b'/') && inside != *negated {
                        next[at + 1] = true;
                    }
                }
                _ => {}
            }
        }
    }

    fn literal_at(&self, at: usize, character: Option<char>) -> bool {
        let Some(character) = character else { return false };
        let mut buffer = [0; 4];
        character
            .encode_utf8(&mut buffer)
            .bytes()
            .enumerate()
            .all(|(offset, byte)| self.units.get(at + offset) == Some(&Unit::Byte(byte)))
    }

    /// Units that can match nothing let the position behind them be reached at once.
    fn close(&self, set: &mut [bool], after_slash: bool) {
        for at in 0..self.units.len() {
            if !set[at] {
                continue;
            }
            match self.units[at] {
                Unit::Star | Unit::Everything => set[at + 1] = true,
                Unit::Optional => {
                    set[at + 1] = true;
                    set[at + 2] = true;
                }
                Unit::UpToSlash if after_slash => set[at + 1] = true,
                _ => {}
            }
        }
    }
}

/// The first character of a byte string and its length; a byte that is no UTF-8 stands for itself.
fn decode(bytes: &[u8]) -> (Option<char>, usize) {
    let longest = bytes.len().min(4);
    for length in 1..=longest {
        if let Ok(text) = std::str::from_utf8(&bytes[..length]) {
            return (text.chars().next(), length);
        }
    }
    (None, 1)
}

/// Parses behind `[`: `^` negates, `-` makes ranges, `\` escapes, `]` ends.
fn parse_class(mut rest: &[u8]) -> Result<(Unit, &[u8]), BadPattern> {
    let negated = rest.first() == Some(&b'^');
    if negated {
        rest = &rest[1..];
    }
    let mut ranges = Vec::new();
    loop {
        if rest.first() == Some(&b']') && !ranges.is_empty() {
            return Ok((Unit::Class { negated, ranges }, &rest[1..]));
        }
        let low = class_char(&mut rest)?;
        let mut high = low;
        if rest.first() == Some(&b'-') {
            rest = &rest[1..];
            high = class_char(&mut rest)?;
        }
        ranges.push((low, high));
    }
}

fn class_char(rest: &mut &[u8]) -> Result<char, BadPattern> {
    match rest.first() {
        None | Some(b'-' | b']') => return Err(BadPattern),
        Some(b'\\') => *rest = &rest[1..],
        _ => {}
    }
    let (Some(character), length) = decode(rest) else { return Err(BadPattern) };
    if rest.is_empty() {
        return Err(BadPattern);
    }
    *rest = &rest[length..];
    if rest.is_empty() { Err(BadPattern) } else { Ok(character) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn path_patterns_follow_go() {
        // Pattern, name, match; expectations are those of Go's documentation and own examples.
        let rows: &[(&str, &str, bool)] = &[
            ("abc", "abc", true),
            ("*", "abc", true),
            ("*c", "abc", true),
            ("a*", "a", true),
            ("a*", "ab/c", false),
            ("a*/b", "abc/b", true),
            ("a*/b", "a/c/b", false),
            ("a*b*c*d*e*/f", "axbxcxdxe/f", true),
            ("a*b*c*d*e*/f", "axbxcxdxe/xxx/f", false),
            ("a*b?c*x", "abxbbxdbxebxczzx", true),
            ("a*b?c*x", "abxbbxdbxebxczzy", false),
            ("ab[c]", "abc", true),
            ("ab[b-d]", "abc", true),
            ("ab[e-g]", "abc", false),
            ("ab[^c]", "abc", false),
            ("ab[^e-g]", "abc", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "ab", false),
            ("a?b", "a\u{263a}b", true),
            ("a[^a]b", "a\u{263a}b", true),
            ("a???b", "a\u{263a}b", false),
            ("[a-\u{3b6}]*", "\u{3b1}", true),
            ("*[a-\u{3b6}]", "A", false),
            ("a?b", "a/b", false),
            ("a*b", "a/b", false),
            ("a[^x]b", "a/b", false),
            ("[\\]a]", "]", true),
            ("[\\-]", "-", true),
            ("[x\\-]", "x", true),
            ("[x\\-]", "z", false),
            ("*x", "xxx", true),
            (".*", ".hidden", true),
            ("*", ".hidden", true),
            ("\u{e4}*", "\u{e4}bc", true),
        ];
        for (pattern, name, expected) in rows {
            assert_eq!(match_path(pattern.as_bytes(), name.as_bytes()), Ok(*expected), "{pattern} {name}");
        }
        for bad in ["[]a]", "[-]", "[x-]", "[-x]", "[a-b-c]", "[", "[^", "[^bc", "a[", "a\\", "[a"] {
            assert_eq!(Glob::path(bad.as_bytes()).map(|_| ()), Err(BadPattern), "{bad}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_can_be_matched() {
        assert_eq!(match_path(b"a?", b"a\xff"), Ok(true));
        assert_eq!(match_path(b"*\xff", b"a\xff"), Ok(true));
    }

    proptest! {
        #[test]
        fn a_name_without_wildcards_matches_itself_only(name in "[a-z/.]{0,12}", other in "[a-z/.]{0,12}") {
            prop_assert_eq!(match_path(name.as_bytes(), other.as_bytes()), Ok(name == other));
        }

        #[test]
        fn no_pattern_panics(pattern in proptest::collection::vec(any::<u8>(), 0..16),
                             name in proptest::collection::vec(any::<u8>(), 0..16)) {
            let _ = match_path(&pattern, &name);
            if let Ok(glob) = Glob::ignore(&pattern) {
                let _ = glob.matches(&name);
            }
        }
    }
}
