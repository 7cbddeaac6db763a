//! Mistakes that only the whole file, the arguments or a base can show.

use std::fmt;
use std::sync::Arc;

use crate::dockerfile::{ParseErrors, Source, Span};

/// A Dockerfile that cannot be planned.
#[derive(Debug, Clone)]
pub struct PlanError {
    /// Where, and in which text.
    pub place: Option<(Arc<Source>, Span)>,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub help: Option<String>,
}

impl PlanError {
    /// A mistake at a place.
    pub(super) fn at(source: &Arc<Source>, span: Span, message: impl Into<String>) -> Self {
        PlanError { place: Some((source.clone(), span)), message: message.into(), help: None }
    }

    /// A mistake in the arguments.
    pub(super) fn nowhere(message: impl Into<String>) -> Self {
        PlanError { place: None, message: message.into(), help: None }
    }

    /// The same with advice.
    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((source, span)) = &self.place {
            let at = source.location(span.start);
            write!(f, "{}:{}:{}: ", source.name(), at.line, at.column)?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for PlanError {}

impl From<ParseErrors> for PlanError {
    fn from(errors: ParseErrors) -> Self {
        let first = errors.first();
        PlanError {
            place: Some((first.source.clone(), first.span)),
            message: first.message.clone(),
            help: first.help.clone(),
        }
    }
}

/// Something legal that is worth telling and no rule of `lint`.
#[derive(Debug, Clone)]
pub struct PlanWarning {
    /// One sentence.
    pub message: String,
    /// Where.
    pub place: Option<(Arc<Source>, Span)>,
}
