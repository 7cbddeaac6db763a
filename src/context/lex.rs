//! The characters of a pattern: what Go's `filepath.Match` documents as its syntax, read once for
//! both kinds of matcher (COPY wildcards and ignore rules).

/// A character of a path or pattern: a Unicode scalar, or [`RAW`] plus a byte that is not UTF-8.
pub(super) type Unit = u32;

/// Where the units of bytes that are not UTF-8 begin: above every Unicode scalar.
const RAW: Unit = 0x11_0000;

/// The pattern is not well-formed: an unclosed or empty class, or an escape of nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("syntax error in pattern: unclosed or empty [class], bad range, or a trailing backslash")]
pub struct BadPattern;

/// One element of a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Lexeme {
    /// `*`
    Star,
    /// `?`
    AnyChar,
    /// `[a-z]`
    Class(Class),
    /// A literal character, and whether a backslash stood before it.
    Char { unit: Unit, escaped: bool },
}

/// A character class. As in Go, it may match a slash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Class {
    negated: bool,
    ranges: Vec<(Unit, Unit)>,
}

impl Class {
    /// Whether the class holds `unit`; a byte that is not UTF-8 counts as U+FFFD, as in Go.
    pub(super) fn holds(&self, unit: Unit) -> bool {
        let unit = if unit >= RAW { 0xFFFD } else { unit };
        self.ranges.iter().any(|&(low, high)| low <= unit && unit <= high) != self.negated
    }

    /// Whether a range is written backwards, so that it holds nothing.
    pub(super) fn has_reversed_range(&self) -> bool {
        self.ranges.iter().any(|(low, high)| low > high)
    }
}

/// The first character of `bytes` and its length, or `None` at the end.
pub(super) fn first_unit(bytes: &[u8]) -> Option<(Unit, usize)> {
    let &lead = bytes.first()?;
    let length = match lead {
        0..=0x7F => return Some((Unit::from(lead), 1)),
        0xC2..=0xDF => 2,
        0xE0..=0xEF => 3,
        0xF0..=0xF4 => 4,
        _ => 1,
    };
    let decoded = bytes
        .get(..length)
        .and_then(|head| std::str::from_utf8(head).ok())
        .and_then(|text| text.chars().next());
    Some(match decoded {
        Some(character) => (character as Unit, length),
        None => (RAW + Unit::from(lead), 1),
    })
}

/// All characters of `bytes`.
pub(super) fn units(bytes: &[u8]) -> impl Iterator<Item = Unit> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (unit, length) = first_unit(rest)?;
        rest = rest.get(length..).unwrap_or_default();
        Some(unit)
    })
}

/// Appends the bytes that `unit` was read from.
pub(super) fn push_unit(bytes: &mut Vec<u8>, unit: Unit) {
    match char::from_u32(unit) {
        Some(character) => bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
        None => bytes.push(unit as u8),
    }
}

/// Reads a whole pattern.
pub(super) fn lex(pattern: &[u8]) -> Result<Vec<Lexeme>, BadPattern> {
    let mut reader = Reader { rest: pattern };
    let mut lexemes = Vec::with_capacity(pattern.len());
    while let Some(unit) = reader.next() {
        lexemes.push(match char::from_u32(unit) {
            Some('*') => Lexeme::Star,
            Some('?') => Lexeme::AnyChar,
            Some('[') => Lexeme::Class(reader.class()?),
            Some('\\') => Lexeme::Char { unit: reader.next().ok_or(BadPattern)?, escaped: true },
            _ => Lexeme::Char { unit, escaped: false },
        });
    }
    Ok(lexemes)
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl Reader<'_> {
    fn next(&mut self) -> Option<Unit> {
        let (unit, length) = first_unit(self.rest)?;
        self.rest = self.rest.get(length..).unwrap_or_default();
        Some(unit)
    }

    fn eat(&mut self, byte: u8) -> bool {
        match self.rest.strip_prefix(&[byte]) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// The class after its opening bracket. A first `]` is an error, not a member.
    fn class(&mut self) -> Result<Class, BadPattern> {
        let negated = self.eat(b'^');
        let mut ranges = Vec::new();
        while ranges.is_empty() || !self.eat(b']') {
            let low = self.class_member()?;
            let high = if self.eat(b'-') { self.class_member()? } else { low };
            ranges.push((low, high));
        }
        Ok(Class { negated, ranges })
    }

    fn class_member(&mut self) -> Result<Unit, BadPattern> {
        if matches!(self.rest.first(), Some(b'-' | b']')) {
            return Err(BadPattern);
        }
        self.eat(b'\\');
        match self.next() {
            Some(unit) if unit < RAW => Ok(unit),
            _ => Err(BadPattern),
        }
    }
}
