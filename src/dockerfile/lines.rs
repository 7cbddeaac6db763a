//! Physical lines to statements: comments dropped, continuations joined, here-document bodies read.

use super::error::{Outcome, Problem};
use super::source::Span;
use super::text::Joined;

/// The longest line BuildKit reads; longer ones would make a file that builds here alone.
pub(super) const MAX_LINE: usize = 65_535;

/// A physical line without its line end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line<'a> {
    pub(super) start: usize,
    pub(super) text: &'a str,
    /// With what trimming left out at its end: carriage returns.
    whole: &'a str,
}

impl Line<'_> {
    pub(super) fn span(self) -> Span {
        let lead = self.text.len() - self.text.trim_start().len();
        Span::new(self.start + lead.min(self.text.trim_end().len()), self.start + self.text.trim_end().len())
    }
}

/// One instruction's text.
#[derive(Debug)]
pub(super) struct Statement {
    pub(super) text: Joined,
    /// The comments since the instruction before, or since an empty comment.
    pub(super) comments: Vec<String>,
    /// The first blank line inside a continuation.
    pub(super) blank: Option<Span>,
}

/// The body of a here-document.
#[derive(Debug)]
pub(super) struct Body {
    /// Every line with its line end, leading tabs removed where that was asked for.
    pub(super) text: String,
    /// The same with its tabs.
    pub(super) raw: String,
    /// Body and terminator.
    pub(super) span: Span,
}

/// Reads a source line by line.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    text: &'a str,
    at: usize,
    escape: char,
}

impl<'a> Reader<'a> {
    /// Starts at a byte offset, which must be the start of a line.
    pub(super) fn new(text: &'a str, at: usize, escape: char) -> Self {
        Reader { text, at, escape }
    }

    /// Offset of the next line.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// What was read since a position.
    pub(super) fn read_since(&self, position: usize) -> &'a str {
        self.text.get(position..self.at).unwrap_or("")
    }

    pub(super) fn next_line(&mut self) -> Option<Line<'a>> {
        let rest = self.text.get(self.at..).filter(|rest| !rest.is_empty())?;
        let length = rest.find('\n').unwrap_or(rest.len());
        let start = self.at;
        self.at = (start + length + 1).min(self.text.len());
        let whole = rest.get(..length).unwrap_or("");
        Some(Line { start, text: whole.trim_end_matches('\r'), whole })
    }

    /// The next instruction's text, `None` at the end.
    pub(super) fn next_statement(&mut self) -> Option<Statement> {
        let mut comments = Vec::new();
        while let Some(line) = self.next_line() {
            let text = line.text.trim_start();
            if text.starts_with('#') {
                // As in BuildKit one character goes, which need not be the sign: an indented comment keeps it,
                // so that it is part of a block and yet describes nothing.
                match line.text.chars().skip(1).collect::<String>().trim() {
                    "" => comments.clear(),
                    comment => comments.push(comment.to_owned()),
                }
                continue;
            }
            // A blank line ends no block of comments.
            if text.is_empty() {
                continue;
            }
            let start = line.start + (line.text.len() - text.len());
            let mut statement = Statement { text: Joined::new(start), comments, blank: None };
            self.join(start, text, &mut statement);
            if statement.text.view().trim().is_empty() {
                comments = Vec::new();
                continue;
            }
            return Some(statement);
        }
        None
    }

    /// Joins a first line with what continues it.
    fn join(&mut self, start: usize, first: &str, statement: &mut Statement) {
        let Some(piece) = continued(first, self.escape) else {
            statement.text.push(start, first);
            return;
        };
        statement.text.push(start, piece);
        while let Some(line) = self.next_line() {
            let trimmed = line.text.trim_start();
            if trimmed.starts_with('#') {
                continue;
            }
            if trimmed.is_empty() {
                statement.blank.get_or_insert(Span::new(line.start, line.start + line.text.len()));
                continue;
            }
            match continued(line.text, self.escape) {
                Some(piece) => statement.text.push(line.start, piece),
                None => {
                    statement.text.push(line.start, line.text);
                    return;
                }
            }
        }
    }

    /// Reads the body of a here-document up to its terminator.
    pub(super) fn heredoc(&mut self, name: &str, strip_tabs: bool, word: Span) -> Outcome<Body> {
        let start = self.at;
        let (mut text, mut raw) = (String::new(), String::new());
        let strip = |line: &'a str| if strip_tabs { line.trim_start_matches('\t') } else { line };
        while let Some(line) = self.next_line() {
            if strip(line.text) == name {
                return Ok(Body { text, raw, span: Span::new(start, line.start + line.text.len()) });
            }
            for (out, line) in [(&mut text, strip(line.whole)), (&mut raw, line.whole)] {
                out.push_str(line);
                out.push('\n');
            }
        }
        let mut problem = Problem::new(word, format!("unterminated heredoc: no line says just `{name}`"));
        if let Some(plain) = name.split(|c: char| !(c.is_alphanumeric() || c == '_')).next()
            && plain != name
            && !plain.is_empty()
        {
            problem = problem.help(format!(
                "the terminator is everything up to the next blank; put a blank after `<<{plain}` if `{plain}` was meant"
            ));
        } else {
            problem = problem.help("the terminator must stand alone on its line, without blanks around it");
        }
        Err(problem)
    }
}

/// The line without its continuation mark, `None` if it has none. The mark is an escape character
/// followed by nothing but blanks, unless another escape character stands before it.
fn continued(line: &str, escape: char) -> Option<&str> {
    let piece = line.trim_end_matches([' ', '\t']).strip_suffix(escape)?;
    (!piece.ends_with(escape)).then_some(piece)
}
