//! Instruction text after its continuations are joined, with the way back to the source.

use std::ops::Range;

use super::ast::Word;
use super::source::Span;

/// Pieces of the source put together into one line.
#[derive(Debug, Default)]
pub(super) struct Joined {
    text: String,
    /// Start in `text` and in the source of each piece; none is empty.
    pieces: Vec<(usize, usize)>,
    /// Where an empty text stands in the source.
    origin: usize,
}

impl Joined {
    pub(super) fn new(origin: usize) -> Self {
        Joined { text: String::new(), pieces: Vec::new(), origin }
    }

    /// Appends a piece that starts at `source` in the source.
    pub(super) fn push(&mut self, source: usize, piece: &str) {
        if !piece.is_empty() {
            self.pieces.push((self.text.len(), source));
            self.text.push_str(piece);
        }
    }

    /// All of it.
    pub(super) fn view(&self) -> View<'_> {
        View { joined: self, start: 0, end: self.text.len() }
    }

    /// Source offset of the byte at `at`; the end of the text counts as one past its last byte.
    fn to_source(&self, at: usize) -> usize {
        if at >= self.text.len() && at > 0 {
            return self.to_source(self.text.len() - 1) + 1;
        }
        let piece = self.pieces.partition_point(|(start, _)| *start <= at).checked_sub(1);
        match piece.and_then(|piece| self.pieces.get(piece)) {
            Some((start, source)) => source + (at - start),
            None => self.origin,
        }
    }
}

/// A part of a [`Joined`] text.
#[derive(Debug, Clone, Copy)]
pub(super) struct View<'a> {
    joined: &'a Joined,
    start: usize,
    end: usize,
}

impl<'a> View<'a> {
    pub(super) fn as_str(self) -> &'a str {
        self.joined.text.get(self.start..self.end).unwrap_or("")
    }

    pub(super) fn is_empty(self) -> bool {
        self.start >= self.end
    }

    /// A part, by byte offsets into this view.
    pub(super) fn sub(self, range: Range<usize>) -> View<'a> {
        let end = (self.start + range.end).min(self.end);
        View { joined: self.joined, start: (self.start + range.start).min(end), end }
    }

    /// From a byte offset to the end.
    pub(super) fn from(self, start: usize) -> View<'a> {
        self.sub(start..self.end - self.start)
    }

    pub(super) fn trim(self) -> View<'a> {
        let text = self.as_str();
        let start = text.len() - text.trim_start().len();
        self.sub(start..start + text.trim().len())
    }

    pub(super) fn trim_start(self) -> View<'a> {
        let text = self.as_str();
        self.from(text.len() - text.trim_start().len())
    }

    /// Where it stands in the source, from its first to its last byte.
    pub(super) fn span(self) -> Span {
        let start = self.joined.to_source(self.start);
        if self.is_empty() {
            return Span::new(start, start);
        }
        Span::new(start, self.joined.to_source(self.end - 1) + 1)
    }

    pub(super) fn word(self) -> Word {
        self.word_as(self.as_str())
    }

    /// A word with this place and another text (unquoted, decoded).
    pub(super) fn word_as(self, text: impl Into<String>) -> Word {
        Word { text: text.into(), span: self.span() }
    }

    /// Everything up to the first blank, and what follows the blanks after it.
    pub(super) fn split_blank(self) -> (View<'a>, View<'a>) {
        let text = self.as_str();
        let end = text.find(is_blank).unwrap_or(text.len());
        let rest = self.from(end);
        let blanks = rest.as_str().len() - rest.as_str().trim_start_matches(is_blank).len();
        (self.sub(0..end), rest.from(blanks))
    }

    /// The words between blanks; quotes mean nothing here.
    pub(super) fn blank_separated(self) -> Vec<View<'a>> {
        let mut words = Vec::new();
        let mut rest = self.trim();
        while !rest.is_empty() {
            let (word, next) = rest.split_blank();
            if !word.is_empty() {
                words.push(word);
            }
            rest = next;
        }
        words
    }

    /// The words between blanks that are neither quoted nor escaped; quotes and escapes stay.
    pub(super) fn shell_words(self, escape: char) -> Vec<View<'a>> {
        let text = self.as_str();
        let mut words = Vec::new();
        let mut start = None;
        let mut quote = None;
        let mut chars = text.char_indices();
        while let Some((at, c)) = chars.next() {
            if c.is_whitespace() && quote.is_none() {
                if let Some(start) = start.take() {
                    words.push(self.sub(start..at));
                }
                continue;
            }
            start.get_or_insert(at);
            match quote {
                None if c == '\'' || c == '"' => quote = Some(c),
                Some(open) if c == open => quote = None,
                _ => {}
            }
            if c == escape && quote != Some('\'') {
                chars.next();
            }
        }
        if let Some(start) = start {
            words.push(self.from(start));
        }
        words
    }
}

/// The blanks that part an instruction's words.
pub(super) fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\u{b}' | '\u{c}' | '\r')
}
