//! What the parser reports: mistakes with their place, and how to mend them.

use std::fmt;
use std::sync::Arc;

use super::ast::Dockerfile;
use super::source::{Source, Span};

/// A mistake in a Dockerfile.
#[derive(Debug, Clone)]
pub struct ParseError {
    /// Where.
    pub span: Span,
    /// What is wrong, in one sentence without line number.
    pub message: String,
    /// What to do about it, where there is something to say.
    pub help: Option<String>,
    /// The text the span points into.
    pub source: Arc<Source>,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.source.location(self.span.start);
        write!(f, "{}:{}:{}: {}", self.source.name(), at.line, at.column, self.message)
    }
}

impl std::error::Error for ParseError {}

/// One or more mistakes, in file order.
#[derive(Debug, Clone)]
pub struct ParseErrors {
    first: Box<ParseError>,
    rest: Vec<ParseError>,
    before: Option<Box<Dockerfile>>,
}

impl ParseErrors {
    /// The mistakes, sorted by place; `None` if there are none.
    pub(super) fn new(source: &Arc<Source>, mut problems: Vec<Problem>) -> Option<Self> {
        problems.sort_by_key(|problem| problem.span.start);
        let mut errors = problems.into_iter().map(|Problem { span, message, help }| ParseError {
            span,
            message,
            help,
            source: Arc::clone(source),
        });
        let first = Box::new(errors.next()?);
        Some(ParseErrors { first, rest: errors.collect(), before: None })
    }

    /// A single mistake.
    pub(super) fn one(source: &Arc<Source>, problem: Problem) -> Self {
        let Problem { span, message, help } = problem;
        let first = Box::new(ParseError { span, message, help, source: Arc::clone(source) });
        ParseErrors { first, rest: Vec::new(), before: None }
    }

    /// The same with what stands before the first mistake.
    pub(super) fn after(mut self, before: Option<Dockerfile>) -> Self {
        self.before = before.map(Box::new);
        self
    }

    /// What was read before the first mistake, with all of the file as its source, for those who want to
    /// say more about it. `None` if the file has no stage up to there.
    pub fn before(&self) -> Option<&Dockerfile> {
        self.before.as_deref()
    }

    /// The first mistake in the file.
    pub fn first(&self) -> &ParseError {
        &self.first
    }

    /// All mistakes in file order.
    pub fn iter(&self) -> impl Iterator<Item = &ParseError> {
        std::iter::once(&*self.first).chain(&self.rest)
    }
}

impl fmt::Display for ParseErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.first.fmt(f)?;
        match self.rest.len() {
            0 => Ok(()),
            1 => write!(f, " (and 1 more error)"),
            more => write!(f, " (and {more} more errors)"),
        }
    }
}

impl std::error::Error for ParseErrors {}

/// A mistake before it is tied to its source.
#[derive(Debug, Clone)]
pub(super) struct Problem {
    pub(super) span: Span,
    pub(super) message: String,
    pub(super) help: Option<String>,
}

impl Problem {
    pub(super) fn new(span: Span, message: impl Into<String>) -> Self {
        Problem { span, message: message.into(), help: None }
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// What parsing a piece gives.
pub(super) type Outcome<T> = Result<T, Problem>;
