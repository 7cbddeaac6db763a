//! COPY wildcards: Go's `filepath.Match`, which BuildKit applies to a source's path from its
//! first component with a wildcard on.
//!
//! `*` matches any run of bytes but a slash (dot files too), `?` one character but a slash, `[a-z]`
//! and `[^a-z]` one character (even a slash), a backslash takes the next character literally.

pub use super::lex::BadPattern;
use super::lex::{self, Class, Lexeme, first_unit, push_unit};

/// Whether the whole of `name` matches `pattern`. A malformed pattern is an error whatever the name.
pub fn match_path(pattern: &[u8], name: &[u8]) -> Result<bool, BadPattern> {
    Ok(Glob::new(pattern)?.matches(name))
}

/// Whether `text` holds an unescaped `*`, `?` or `[`, so that it is a pattern and not a name.
pub fn has_wildcard(text: &[u8]) -> bool {
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => {
                bytes.next();
            }
            b'*' | b'?' | b'[' => return true,
            _ => {}
        }
    }
    false
}

/// A pattern read once, to be matched against many names.
#[derive(Debug, Clone)]
pub struct Glob {
    chunks: Vec<Chunk>,
}

/// What stands between two stars.
#[derive(Debug, Clone, Default)]
struct Chunk {
    after_star: bool,
    atoms: Vec<Atom>,
}

#[derive(Debug, Clone)]
enum Atom {
    Byte(u8),
    AnyChar,
    Class(Class),
}

impl Glob {
    /// Reads a pattern.
    pub fn new(pattern: &[u8]) -> Result<Self, BadPattern> {
        Ok(Self::of(lex::lex(pattern)?))
    }

    fn of(lexemes: Vec<Lexeme>) -> Self {
        let mut chunks = vec![Chunk::default()];
        for lexeme in lexemes {
            if lexeme == Lexeme::Star {
                match chunks.last_mut() {
                    Some(chunk) if chunk.atoms.is_empty() => chunk.after_star = true,
                    _ => chunks.push(Chunk { after_star: true, atoms: Vec::new() }),
                }
                continue;
            }
            let Some(chunk) = chunks.last_mut() else { continue };
            match lexeme {
                Lexeme::Star => {}
                Lexeme::AnyChar => chunk.atoms.push(Atom::AnyChar),
                Lexeme::Class(class) => chunk.atoms.push(Atom::Class(class)),
                Lexeme::Char { unit, .. } => {
                    let mut bytes = Vec::with_capacity(4);
                    push_unit(&mut bytes, unit);
                    chunk.atoms.extend(bytes.into_iter().map(Atom::Byte));
                }
            }
        }
        Glob { chunks }
    }

    /// Whether the whole of `name` matches.
    ///
    /// Go takes the leftmost place where a chunk fits and never goes back, which shows only where a
    /// class takes a slash; the same is done here.
    pub fn matches(&self, name: &[u8]) -> bool {
        let mut rest = name;
        for (index, chunk) in self.chunks.iter().enumerate() {
            let last = index + 1 == self.chunks.len();
            if last && chunk.after_star && chunk.atoms.is_empty() {
                return !rest.contains(&b'/');
            }
            match chunk.leftmost(rest, last) {
                Some(after) => rest = after,
                None => return false,
            }
        }
        rest.is_empty()
    }
}

impl Chunk {
    /// What is left of `name` after the leftmost fit; the last chunk must leave nothing.
    fn leftmost<'n>(&self, name: &'n [u8], last: bool) -> Option<&'n [u8]> {
        let mut start = 0;
        loop {
            let fit = name.get(start..).and_then(|from| self.fits(from));
            if let Some(rest) = fit
                && (rest.is_empty() || !last)
            {
                return Some(rest);
            }
            if !self.after_star || name.get(start).is_none_or(|&byte| byte == b'/') {
                return None;
            }
            start += 1;
        }
    }

    /// What is left of `name` if it begins with this chunk.
    fn fits<'n>(&self, name: &'n [u8]) -> Option<&'n [u8]> {
        let mut rest = name;
        for atom in &self.atoms {
            let (unit, length) = first_unit(rest)?;
            let taken = match atom {
                Atom::Byte(byte) => (rest.first() == Some(byte)).then_some(1),
                Atom::AnyChar => (unit != u32::from(b'/')).then_some(length),
                Atom::Class(class) => class.holds(unit).then_some(length),
            }?;
            rest = rest.get(taken..)?;
        }
        Some(rest)
    }
}

/// A wildcard source cut at its slashes, to be matched against a tree level by level.
#[derive(Debug, Clone)]
pub(super) struct PathGlob {
    levels: Vec<Level>,
    whole: Glob,
    /// A class may match a slash, so levels cannot be matched one by one; the number tells how many
    /// levels deep a match may lie.
    crosses_levels: Option<usize>,
}

#[derive(Debug, Clone)]
enum Level {
    Literal(Vec<u8>),
    Wild(Glob),
}

/// What a [`PathGlob`] says of an entry below the directory it starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    /// The entry matches.
    Match,
    /// The entry does not match, something below it may.
    MayHold,
    /// Neither the entry nor anything below it matches.
    No,
}

impl PathGlob {
    pub(super) fn new(pattern: &[u8]) -> Result<Self, BadPattern> {
        let lexemes = lex::lex(pattern)?;
        let slash = u32::from(b'/');
        let is_slash = |lexeme: &Lexeme| matches!(lexeme, Lexeme::Char { unit, .. } if *unit == slash);
        let levels: Vec<Level> = lexemes.split(is_slash).map(Level::of).collect();
        let slash_classes = lexemes
            .iter()
            .filter(|lexeme| matches!(lexeme, Lexeme::Class(class) if class.holds(slash)))
            .count();
        let crosses_levels = (slash_classes > 0).then(|| levels.len() + slash_classes);
        Ok(PathGlob { levels, whole: Glob::of(lexemes), crosses_levels })
    }

    /// The one name that can fit `depth` levels below the start, if no listing is needed to know.
    pub(super) fn only_name(&self, depth: usize) -> Option<&[u8]> {
        match self.levels.get(depth) {
            Some(Level::Literal(name)) if self.crosses_levels.is_none() => Some(name),
            _ => None,
        }
    }

    /// Judges the entry `path` (relative to the start) called `name`, which lies in a directory
    /// `depth` levels below the start that was itself judged [`Fit::MayHold`].
    pub(super) fn judge(&self, path: &[u8], name: &[u8], depth: usize) -> Fit {
        if let Some(deepest) = self.crosses_levels {
            return match self.whole.matches(path) {
                true => Fit::Match,
                false if depth + 1 < deepest => Fit::MayHold,
                false => Fit::No,
            };
        }
        let fits = match self.levels.get(depth) {
            Some(Level::Literal(literal)) => literal == name,
            Some(Level::Wild(glob)) => glob.matches(name),
            None => false,
        };
        match (fits, depth + 1 == self.levels.len()) {
            (true, true) => Fit::Match,
            (true, false) => Fit::MayHold,
            (false, _) => Fit::No,
        }
    }
}

impl Level {
    fn of(lexemes: &[Lexeme]) -> Self {
        let mut name = Vec::new();
        for lexeme in lexemes {
            match lexeme {
                Lexeme::Char { unit, .. } => push_unit(&mut name, *unit),
                _ => return Level::Wild(Glob::of(lexemes.to_vec())),
            }
        }
        Level::Literal(name)
    }
}

#[cfg(test)]
#[path = "glob_tests.rs"]
mod tests;
